/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames for the fuzz targets, made without the code under test; see fuzz.h. */
#include "fuzz.h"

#include <string.h>

#define GUEST_PORT	7000
#define CLIENT_PORT	40000u
#define STREAM_BEGIN	1000u	/* sequence numbers stand near it, so that segments meet */

static void be(uint8_t *p, uint32_t v, int n)
{
	while (n--) {
		p[n] = (uint8_t)v;
		v >>= 8;
	}
}

uint16_t fuzz_sum(const uint8_t *p, uint32_t n, uint32_t s)
{
	for (uint32_t i = 0; i < n; i++)
		s += (uint32_t)p[i] << (i & 1 ? 0 : 8);
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~s;
}

/* Up to the IP header. Return: its offset */
static uint32_t ether(uint8_t *d, bool from_guest, unsigned int tags, uint16_t type)
{
	static const uint8_t guest[6] = { 0x52, 0x54, 0, 0, 2, 0x10 }, client[6] = { 2, 0, 0, 0, 0, 1 };
	uint32_t at = 12;

	memcpy(d, from_guest ? client : guest, 6);
	memcpy(d + 6, from_guest ? guest : client, 6);
	for (unsigned int i = 0; i < tags; i++, at += 4) {
		be(d + at, tags == 2 && !i ? 0x88a8 : 0x8100, 2);
		be(d + at + 2, 5 + i, 2);
	}
	be(d + at, type, 2);
	return at + 2;
}

/* IP, its extension headers, and @l4 with its checksum at @sum_at (0: none). Return: length of the frame */
static uint32_t ip_packet(uint8_t *d, bool from_guest, unsigned int tags, bool v6, bool ext, uint8_t proto,
			  const uint8_t *frag6, uint8_t *l4, uint32_t len, uint32_t sum_at)
{
	uint32_t l3 = ether(d, from_guest, tags, v6 ? 0x86dd : 0x0800), at, head = ext ? 8 : 0, alen = v6 ? 16 : 4;
	uint8_t *ip = d + l3, *addr = ip + (v6 ? 8 : 12), *next = ip + 6;

	memset(ip, 0, 60);
	if (v6) {
		ip[0] = 0x60;
		be(ip + 4, len + head + (frag6 ? 8 : 0), 2);
		ip[7] = 64;
		memcpy(addr, "\x20\x01\x0d\xb8", 4);
		memcpy(addr + 16, "\x20\x01\x0d\xb8", 4);
		addr[15] = from_guest ? 10 : 100;
		addr[31] = from_guest ? 100 : 10;
		at = l3 + 40;
		if (ext) {
			*next = 60;
			memcpy(d + at, "\0\0\1\4\0\0\0\0", 8);
			next = d + at;
			at += 8;
		}
		if (frag6) {
			*next = 44;
			memcpy(d + at, frag6, 8);
			next = d + at;
			at += 8;
		}
		*next = proto;
	} else {
		ip[0] = ext ? 0x46 : 0x45;
		at = l3 + (ext ? 24 : 20);
		be(ip + 2, at - l3 + len, 2);
		ip[8] = 64;
		ip[9] = proto;
		memcpy(addr, from_guest ? "\xc0\0\2\x0a\xc0\0\2\x64" : "\xc0\0\2\x64\xc0\0\2\x0a", 8);
		if (ext)
			memset(d + l3 + 20, 1, 4);
		if (frag6) {
			memcpy(ip + 4, frag6 + 6, 2);
			be(ip + 6, (uint32_t)(frag6[2] << 8 | (frag6[3] & 0xf8)) >> 3 | (uint32_t)(frag6[3] & 1) << 13, 2);
		}
		be(ip + 10, fuzz_sum(ip, at - l3, 0), 2);
	}
	memcpy(d + at, l4, len);
	if (sum_at) {
		uint32_t s = proto == 1 ? 0 : (uint16_t)~fuzz_sum(addr, 2 * alen, proto + len);

		be(d + at + sum_at, fuzz_sum(d + at, len, s), 2);
	}
	return at + len;
}

static uint32_t tcp(struct fuzz_in *in, bool from_guest, uint8_t *t)
{
	uint8_t how = in_u8(in), opts = in_u8(in), *o = t + 20;
	uint32_t seq = STREAM_BEGIN + in_u8(in), n = in_u8(in) & 63, client = CLIENT_PORT + (how & (how & 0x20 ? 0x1f : 3));

	if (how & 0x80)
		seq = in_u32(in);
	be(t, from_guest ? GUEST_PORT : client, 2);
	be(t + 2, from_guest ? client : GUEST_PORT, 2);
	be(t + 4, seq, 4);
	be(t + 8, 5000u + in_u8(in), 4);
	t[13] = how & 0x40 ? in_u8(in) : 0x10;
	be(t + 14, (uint32_t)in_u8(in) << 4, 2);
	if (opts & 1)
		*o++ = 1;
	if (opts & 2) {
		memcpy(o, "\x8\xa", 2);
		be(o + 2, 100u + in_u8(in), 4);
		be(o + 6, 200, 4);
		o += 10;
	}
	if (opts & 4) {
		memcpy(o, "\2\4\5\xb4\3\3\2\4\2", 9);
		o += 9;
	}
	if (opts & 0x18) {
		unsigned int blocks = opts & 2 ? 2 : (opts >> 3 & 3);

		*o++ = 5;
		*o++ = (uint8_t)(2 + 8 * blocks);
		for (unsigned int i = 0; i < blocks; i++, o += 8) {
			be(o, 5050u + in_u8(in), 4);
			be(o + 4, 5400, 4);
		}
	}
	if (opts & 0x20 && o - t <= 58) {
		*o++ = 29;
		*o++ = 2;
	}
	while ((o - t) % 4)
		*o++ = 1;
	t[12] = (uint8_t)((o - t) / 4 << 4);
	for (uint32_t i = 0; i < n; i++)
		o[i] = (uint8_t)((seq + i) * 7);
	if (opts & 0x80 && n)
		o[in_u8(in) % n] ^= 0x55;
	return (uint32_t)(o - t) + n;
}

static uint32_t udp(struct fuzz_in *in, bool from_guest, uint8_t *u, uint32_t n)
{
	uint8_t how = in_u8(in);
	uint32_t port = how & 4 ? 123 : 53;

	be(u, from_guest ? port : CLIENT_PORT + (how & 3), 2);
	be(u + 2, from_guest ? CLIENT_PORT + (how & 3) : port, 2);
	be(u + 4, 8 + n, 2);
	for (uint32_t i = 0; i < n; i++)
		u[8 + i] = (uint8_t)(how >> 3 ^ i);
	return 8 + n;
}

/* An echo, or an error that quotes a segment that went the other way. Return: its length */
static uint32_t icmp(struct fuzz_in *in, bool from_guest, bool v6, uint8_t *c)
{
	uint8_t how = in_u8(in), quoted[FUZZ_FRAME_MAX], seg[256] = { 0 };
	uint32_t n, l3 = 14;

	if (how & 1) {
		static const uint8_t types[4] = { 8, 0, 128, 129 };

		c[0] = types[(how >> 1 & 1) + 2 * v6];
		be(c + 4, in_u8(in), 2);
		be(c + 6, in_u8(in), 2);
		memset(c + 8, 'e', how >> 3);
		return 8u + (how >> 3);
	}
	c[0] = v6 ? (how & 2 ? 1 : 2) : 3;
	c[1] = v6 ? 0 : how & 2 ? 1 : 4;
	n = tcp(in, !from_guest, seg);
	n = ip_packet(quoted, !from_guest, 0, v6, how & 4, 6, NULL, seg, n, 16) - l3;
	if (how & 8 && n > 28)
		n = 28;
	memcpy(c + 8, quoted + l3, n);
	return 8 + n;
}

static uint32_t build(struct fuzz_in *in, bool from_guest, uint8_t how, uint8_t *out)
{
	static const uint8_t tags_of[4] = { 0, 1, 2, 0 };
	unsigned int tags = tags_of[how >> 3 & 3];
	uint8_t l4[512] = { 0 }, frag[8] = { 0 };
	bool ext = how & 0x40, v6 = how & 0x80;
	struct fuzz_in none = { NULL, 0 };
	uint32_t n, off, all;
	uint8_t sel;

	switch (how & 7) {
	case 0: case 1: case 2:
		n = tcp(in, from_guest, l4);
		return ip_packet(out, from_guest, tags, v6, ext, 6, NULL, l4, n, 16);
	case 3:
		n = udp(in, from_guest, l4, in_u8(in) & 63);
		return ip_packet(out, from_guest, tags, v6, ext, 17, NULL, l4, n, 6);
	case 4:
		n = icmp(in, from_guest, v6, l4);
		return ip_packet(out, from_guest, tags, v6, ext, v6 ? 58 : 1, NULL, l4, n, 2);
	case 5:
		/* A piece, the first or second half if the input does not say more, of one of few datagrams and segments. */
		sel = in_u8(in);
		be(frag + 6, sel >> 1 & 1, 2);
		if (sel & 4)
			all = tcp(sel & 0x40 ? in : &none, from_guest, l4);
		else
			all = udp(sel & 0x40 ? in : &none, from_guest, l4, 120);
		if (sel & 4 && all < 48)
			all = 48;
		off = sel & 0x80 ? (in_u8(in) & 15) * 8 : (sel & 1) * (sel & 4 ? 24 : 64);
		n = sel & 0x80 ? in_u8(in) & 127 : sel & 1 ? all : sel & 4 ? 24 : 64;
		if (off >= all)
			off = 0;
		if (off + n > all)
			n = all - off;
		if (off + n < all)
			n &= ~7u;
		be(frag + 2, off | (off + n < all), 2);
		return ip_packet(out, from_guest, tags, v6, ext, sel & 4 ? 6 : 17, frag, l4 + off, n ? n : 8, 0);
	case 6:
		memset(l4, in_u8(in) & 7, 40);
		n = in_u8(in) % 40;
		return ip_packet(out, from_guest, tags, v6, ext, in_u8(in), NULL, l4, n, 0);
	default:
		n = in_u16(in) % FUZZ_FRAME_MAX + 1;
		for (uint32_t i = 0; i < n; i++)
			out[i] = in->n ? in_u8(in) : 0;
		return n;
	}
}

uint32_t fuzz_frame(struct fuzz_in *in, bool from_guest, uint8_t *out)
{
	uint8_t how = in_u8(in);
	uint32_t n = build(in, from_guest, how, out);

	if (how & 0x20) {
		uint32_t at = in_u8(in) % n;
		uint8_t with = in_u8(in);

		out[at] ^= with;
		/* Some spoiled frames are short or padded, too. */
		if (with & 1 && n > at + 1)
			n = at + 1;
		else if (with & 2)
			for (uint32_t end = n + (with >> 2); n < end && n < FUZZ_FRAME_MAX; n++)
				out[n] = 0xaa;
	}
	return n;
}
