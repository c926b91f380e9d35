/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames for tests, made and checked without the code under test. */
#include "seg.h"

#include <string.h>

const uint8_t seg_guest_mac[6] = { 0x52, 0x54, 0, 0, 2, 0x10 };
const uint8_t seg_client_mac[6] = { 2, 0, 0, 0, 0, 1 };
const uint8_t seg_guest_ip[4] = { 192, 0, 2, 10 }, seg_client_ip[4] = { 192, 0, 2, 100 };
const uint8_t seg_guest_ip6[16] = { 0x20, 1, 0xd, 0xb8, [15] = 0x10 };
const uint8_t seg_client_ip6[16] = { 0x20, 1, 0xd, 0xb8, [15] = 0x64 };

static void be(uint8_t *p, uint32_t v, int n)
{
	while (n--) {
		p[n] = (uint8_t)v;
		v >>= 8;
	}
}

uint32_t seg_get(const uint8_t *p, int n)
{
	uint32_t v = 0;

	while (n--)
		v = v << 8 | *p++;
	return v;
}

/* Of bytes in a row, not yet complemented. */
static uint32_t sum(const uint8_t *p, uint32_t n, uint32_t s)
{
	for (uint32_t i = 0; i < n; i++)
		s += (uint32_t)p[i] << (i & 1 ? 0 : 8);
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return s;
}

/* ICMP and IGMP have no pseudo header; TCP, UDP and ICMPv6 do. @addr: source and destination */
static uint32_t l4_sum(bool v6, uint8_t proto, const uint8_t *addr, const uint8_t *l4, uint32_t len)
{
	uint32_t s = 0;

	if (v6 || (proto != 1 && proto != 2))
		s = sum(addr, v6 ? 32 : 8, proto + (len >> 16) + (len & 0xffff));
	return sum(l4, len, s);
}

static uint8_t *ether(uint8_t *out, const struct seg_ip *ip, uint16_t type)
{
	uint8_t *o = out + 12;

	memcpy(out, ip->dst_mac ? ip->dst_mac : ip->from_guest ? seg_client_mac : seg_guest_mac, 6);
	memcpy(out + 6, ip->from_guest ? seg_guest_mac : seg_client_mac, 6);
	for (unsigned int i = 0; i < ip->n_tags; i++, o += 4) {
		be(o, !i && ip->n_tags > 1 ? 0x88a8 : 0x8100, 2);
		be(o + 2, ip->tag[i], 2);
	}
	be(o, type, 2);
	return o + 2;
}

/* One extension header; the next one's number is filled in by the caller. */
static uint8_t *ext_header(uint8_t *o, const struct seg_ip *ip, uint8_t kind)
{
	uint32_t n = kind == 51 ? 16 : 8;

	memset(o, 0, n);
	switch (kind) {
	case 43:
		o[3] = ip->left;
		break;
	case 51:
		o[1] = 2;
		o[7] = 7;
		o[11] = 1;
		break;
	case 50:
		o[3] = 9;
		o[7] = 1;
		break;
	default:
		/* PadN of four bytes */
		o[2] = 1;
		o[3] = 4;
	}
	return o + n;
}

uint32_t seg_ip(uint8_t *out, const struct seg_ip *ip, const uint8_t *l4, uint32_t len, int sum_at)
{
	uint8_t *h = ether(out, ip, ip->v6 ? 0x86dd : 0x0800), *t, *addr;
	uint32_t s;

	if (ip->v6) {
		uint8_t *next = h + 6;

		memset(h, 0, 40);
		be(h, 6u << 28 | (uint32_t)ip->tos << 20 | (ip->label & 0xfffff), 4);
		h[7] = ip->ttl ? ip->ttl : 64;
		memcpy(h + 8, ip->src ? ip->src : ip->from_guest ? seg_guest_ip6 : seg_client_ip6, 16);
		memcpy(h + 24, ip->dst ? ip->dst : ip->from_guest ? seg_client_ip6 : seg_guest_ip6, 16);
		addr = h + 8;
		t = h + 40;
		for (unsigned int i = 0; i < ip->n_ext; i++) {
			*next = ip->ext[i];
			/* What ESP carries is nobody's business, the next header included. */
			next = ip->ext[i] == 50 ? h + 39 : t;
			t = ext_header(t, ip, ip->ext[i]);
		}
		if (next != h + 39)
			*next = ip->proto;
		be(h + 4, (uint32_t)(t - h) - 40 + len, 2);
	} else {
		uint32_t hl = 20u + ip->n_opts;

		memset(h, 0, 20);
		h[0] = (uint8_t)(0x40 | hl / 4);
		h[1] = ip->tos;
		be(h + 2, hl + len, 2);
		be(h + 4, ip->id, 2);
		h[8] = ip->ttl ? ip->ttl : 64;
		h[9] = ip->proto;
		memcpy(h + 12, ip->src ? ip->src : ip->from_guest ? seg_guest_ip : seg_client_ip, 4);
		memcpy(h + 16, ip->dst ? ip->dst : ip->from_guest ? seg_client_ip : seg_guest_ip, 4);
		if (ip->n_opts)
			memcpy(h + 20, ip->opts, ip->n_opts);
		be(h + 10, ~sum(h, hl, 0), 2);
		addr = h + 12;
		t = h + hl;
	}
	memmove(t, l4, len);
	if (sum_at >= 0) {
		be(t + sum_at, 0, 2);
		s = (uint16_t)~l4_sum(ip->v6, ip->proto, addr, t, len);
		be(t + sum_at, !s && ip->proto == 17 ? 0xffff : s, 2);
	}
	memset(t + len, 0, ip->pad);
	return (uint32_t)(t - out) + len + ip->pad;
}

uint32_t seg_make_on(uint8_t *out, const struct seg_ip *on, const struct seg *s)
{
	uint8_t t[SEG_MAX] = { 0 }, *o = t + 20;
	uint16_t port = s->other_port ? s->other_port : 40000, guest = s->guest_port ? s->guest_port : 7000;
	uint32_t n = s->n_data ? s->n_data : s->data ? (uint32_t)strlen(s->data) : 0;
	struct seg_ip ip = *on;

	ip.from_guest = s->from_guest;
	ip.proto = 6;
	be(t, s->from_guest ? guest : port, 2);
	be(t + 2, s->from_guest ? port : guest, 2);
	be(t + 4, s->seq, 4);
	be(t + 8, s->ack, 4);
	t[13] = s->flags;
	be(t + 14, s->win, 2);
	be(t + 18, s->urg, 2);
	if (s->odd)
		*o++ = 1;
	if (s->ws) {
		*o++ = 3;
		*o++ = 3;
		*o++ = s->ws;
	}
	if (s->has_ts) {
		*o++ = 8;
		*o++ = 10;
		be(o, s->tsval, 4);
		be(o + 4, s->tsecr, 4);
		o += 8;
	}
	if (s->n_sack) {
		*o++ = 5;
		*o++ = (uint8_t)(2 + 8 * s->n_sack);
		for (unsigned int i = 0; i < 2 * s->n_sack; i++, o += 4)
			be(o, s->sack[i], 4);
	}
	if (s->n_opts) {
		memcpy(o, s->opts, s->n_opts);
		o += s->n_opts;
	}
	while ((o - t) % 4)
		*o++ = 1;
	t[12] = (uint8_t)((o - t) / 4 << 4);
	if (n)
		memcpy(o, s->data, n);
	return seg_ip(out, &ip, t, (uint32_t)(o - t) + n, 16);
}

uint32_t seg_make(uint8_t *out, const struct seg *s)
{
	static const struct seg_ip plain;

	return seg_make_on(out, &plain, s);
}

uint32_t seg_udp(uint8_t *out, const struct seg_ip *on, uint16_t guest_port, uint16_t other_port, const char *data)
{
	uint8_t t[SEG_MAX] = { 0 };
	uint32_t n = 8 + (uint32_t)strlen(data);
	struct seg_ip ip = *on;

	ip.proto = 17;
	be(t, ip.from_guest ? guest_port : other_port, 2);
	be(t + 2, ip.from_guest ? other_port : guest_port, 2);
	be(t + 4, n, 2);
	memcpy(t + 8, data, n - 8);
	return seg_ip(out, &ip, t, n, 6);
}

uint32_t seg_icmp(uint8_t *out, const struct seg_ip *on, uint8_t type, uint8_t code, const uint8_t *rest, uint32_t n)
{
	uint8_t t[SEG_MAX] = { type, code };
	struct seg_ip ip = *on;

	ip.proto = ip.v6 ? 58 : 1;
	memcpy(t + 4, rest, n);
	return seg_ip(out, &ip, t, 4 + n, 2);
}

uint32_t seg_echo(uint8_t *out, const struct seg_ip *ip, bool reply, uint16_t ident, uint16_t seq, const char *data)
{
	uint8_t rest[SEG_MAX];
	uint32_t n = (uint32_t)strlen(data);

	be(rest, ident, 2);
	be(rest + 2, seq, 2);
	memcpy(rest + 4, data, n);
	return seg_icmp(out, ip, ip->v6 ? (reply ? 129 : 128) : (reply ? 0 : 8), 0, rest, 4 + n);
}

uint32_t seg_ether(uint8_t *out, const struct seg_ip *ip, uint16_t type, const char *data)
{
	uint8_t *o = ether(out, ip, type);
	uint32_t n = (uint32_t)strlen(data);

	memset(o, 0, 60);
	memcpy(o, data, n);
	return (uint32_t)(o - out) + (n < 46 ? 46 : n);
}

uint32_t seg_arp(uint8_t *out, const struct seg_ip *on)
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	struct seg_ip ip = *on;
	uint8_t *o;

	ip.dst_mac = all;
	o = ether(out, &ip, 0x0806);
	memset(o, 0, 46);
	be(o, 1, 2);
	be(o + 2, 0x0800, 2);
	be(o + 4, 0x0604, 2);
	be(o + 6, 1, 2);
	memcpy(o + 8, out + 6, 6);
	memcpy(o + 14, ip.from_guest ? seg_guest_ip : seg_client_ip, 4);
	memcpy(o + 24, ip.from_guest ? seg_client_ip : seg_guest_ip, 4);
	return (uint32_t)(o - out) + 46;
}

uint32_t seg_l3(const uint8_t *d, uint32_t len)
{
	uint32_t at = 12, type;

	for (;;) {
		if (at + 2 > len)
			return 0;
		type = seg_get(d + at, 2);
		if (type != 0x8100 && type != 0x88a8)
			break;
		at += 4;
	}
	return type == 0x0800 || type == 0x86dd ? at + 2 : 0;
}

uint32_t seg_piece(uint8_t *out, const uint8_t *whole, uint32_t len, uint32_t off, uint32_t n, uint32_t id)
{
	uint32_t l3 = seg_l3(whole, len), h;
	bool v6 = whole[l3] >> 4 == 6, more;

	h = l3 + (v6 ? 40 : 20);
	more = h + off + n < len;
	memcpy(out, whole, h);
	if (v6) {
		be(out + l3 + 4, 8 + n, 2);
		out[l3 + 6] = 44;
		out[h] = whole[l3 + 6];
		out[h + 1] = 0;
		be(out + h + 2, off | more, 2);
		be(out + h + 4, id, 4);
		memcpy(out + h + 8, whole + h + off, n);
		return h + 8 + n;
	}
	be(out + l3 + 2, 20 + n, 2);
	be(out + l3 + 4, id, 2);
	be(out + l3 + 6, (more ? 0x2000u : 0) | off / 8, 2);
	be(out + l3 + 10, 0, 2);
	be(out + l3 + 10, ~sum(out + l3, 20, 0), 2);
	memcpy(out + h, whole + h + off, n);
	return h + n;
}

bool seg_sums_ok(const uint8_t *d, uint32_t len)
{
	uint32_t l3 = seg_l3(d, len), at, end;
	uint8_t proto;
	bool v6;

	if (!l3)
		return true;
	v6 = d[l3] >> 4 == 6;
	if (v6) {
		at = l3 + 40;
		proto = d[l3 + 6];
		end = at + seg_get(d + l3 + 4, 2);
		while (end <= len && (proto == 0 || proto == 43 || proto == 60)) {
			proto = d[at];
			at += 8u * (d[at + 1] + 1u);
		}
		if (proto == 44)
			return end <= len;
	} else {
		at = l3 + 4u * (d[l3] & 15);
		proto = d[l3 + 9];
		end = l3 + seg_get(d + l3 + 2, 2);
		if (sum(d + l3, at - l3, 0) != 0xffff)
			return false;
		if (seg_get(d + l3 + 6, 2) & 0x3fff)
			return end <= len;
	}
	if (end > len || at > end)
		return false;
	switch (proto) {
	case 17:
		if (!seg_get(d + at + 6, 2))
			return !v6;
		break;
	case 1:
	case 2:
	case 6:
	case 58:
		break;
	default:
		return true;
	}
	return l4_sum(v6, proto, d + l3 + (v6 ? 8 : 12), d + at, end - at) == 0xffff;
}
