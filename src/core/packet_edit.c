/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Changing a frame (RFC 1624). Fields that are changed one by one keep their checksum by difference, so a segment that
 * came with a wrong checksum still has a wrong one afterwards and the guest drops it as it would have. Only where a
 * segment is cut the sum is made anew, and those segments come from the guest's own stack. Pure.
 */
#include "core/packet.h"

#include <string.h>

#include "core/packet_bytes.h"

/* Write @n bytes at @at and correct the checksum at @sum_at, which covers words that begin at @base, by the difference. */
static void patch_sum(uint8_t *d, uint32_t base, uint32_t sum_at, uint32_t at, const uint8_t *to, uint32_t n)
{
	uint8_t *sum = d + sum_at;
	uint32_t s = (uint16_t)~get16(sum);

	for (uint32_t i = 0; i < n; i++) {
		/* An option may begin at an odd byte: its bytes then weigh the other way round. */
		int shift = (at + i - base) & 1 ? 0 : 8;

		s += (uint16_t)~((uint32_t)d[at + i] << shift);
		s += (uint32_t)to[i] << shift;
		d[at + i] = to[i];
	}
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	put16(sum, (uint16_t)~s);
}

static void patch(struct packet *p, uint32_t at, const uint8_t *to, uint32_t n)
{
	patch_sum(p->data, p->l4, p->l4 + 16u, at, to, n);
}

static void patch32(struct packet *p, uint32_t at, uint32_t v)
{
	uint8_t b[4], *sum = p->data + p->l4 + 16;

	if (!((at - p->l4) & 1)) {
		/* Whole words of the checksum. */
		uint32_t old = get32(p->data + at), s = (uint16_t)~get16(sum);

		s += (uint16_t)~(old >> 16);
		s += (uint16_t)~old;
		s += (v >> 16) + (v & 0xffff);
		s = (s & 0xffff) + (s >> 16);
		s = (s & 0xffff) + (s >> 16);
		put16(sum, (uint16_t)~s);
		put32(p->data + at, v);
		return;
	}
	put32(b, v);
	patch(p, at, b, 4);
}

void packet_set_seq(struct packet *p, uint32_t seq)
{
	if (seq == p->seq)
		return;
	p->seq = seq;
	patch32(p, p->l4 + 4u, seq);
}

void packet_set_ack(struct packet *p, uint32_t ack)
{
	if (ack == p->ack)
		return;
	p->ack = ack;
	patch32(p, p->l4 + 8u, ack);
}

void packet_set_win(struct packet *p, uint16_t win)
{
	uint8_t b[2];

	if (win == p->win)
		return;
	p->win = win;
	put16(b, win);
	patch(p, p->l4 + 14u, b, 2);
}

void packet_move_back(struct packet *p, uint32_t seq)
{
	uint32_t urg = p->urg + (p->seq - seq);
	uint8_t b[2];

	packet_set_seq(p, seq);
	if (!(p->flags & TCP_URG))
		return;
	if (urg > 65535) {
		packet_set_flags(p, p->flags & (uint8_t)~TCP_URG);
		return;
	}
	p->urg = (uint16_t)urg;
	put16(b, urg);
	patch(p, p->l4 + 18u, b, 2);
}

void packet_set_flags(struct packet *p, uint8_t flags)
{
	if (flags == p->flags)
		return;
	p->flags = flags;
	patch(p, p->l4 + 13u, &flags, 1);
}

void packet_set_ts(struct packet *p, uint32_t tsval, uint32_t tsecr)
{
	if (!p->has_ts)
		return;
	if (tsval != p->tsval)
		patch32(p, p->ts_at, tsval);
	if (tsecr != p->tsecr)
		patch32(p, p->ts_at + 4u, tsecr);
	p->tsval = tsval;
	p->tsecr = tsecr;
}

void packet_set_sack(struct packet *p, unsigned int i, uint32_t left, uint32_t right)
{
	patch32(p, p->sack_at + 2u + 8 * i, left);
	patch32(p, p->sack_at + 6u + 8 * i, right);
	p->sack[i].left = left;
	p->sack[i].right = right;
}

void packet_keep_sack(struct packet *p, unsigned int mask)
{
	uint8_t opt[2 + 8 * PACKET_MAX_SACK];
	unsigned int n = 0, old = p->n_sack;

	if (!old || (mask & ((1u << old) - 1)) == (1u << old) - 1)
		return;
	/* NOPs, and in front of them what is left of the option. */
	memset(opt, 1, sizeof(opt));
	for (unsigned int i = 0; i < old; i++) {
		if (!(mask >> i & 1))
			continue;
		put32(opt + 2 + 8 * n, p->sack[i].left);
		put32(opt + 6 + 8 * n, p->sack[i].right);
		p->sack[n++] = p->sack[i];
	}
	if (n) {
		opt[0] = 5;
		opt[1] = (uint8_t)(2 + 8 * n);
	}
	patch(p, p->sack_at, opt, 2 + 8 * old);
	p->n_sack = (uint8_t)n;
	if (!n)
		p->sack_at = 0;
}

/* TCP's checksum with the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1); 0 when the one in place is right. */
static uint16_t tcp_sum(const struct packet *p)
{
	const uint8_t *d = p->data;
	uint32_t n = p->end - p->l4, s;

	s = p->family == 4 ? sum_bytes(d + p->l3 + 12, 8, PROTO_TCP + n) : sum_bytes(d + p->l3 + 8, 32, PROTO_TCP + n);
	return (uint16_t)~sum_bytes(d + p->l4, n, s);
}

static uint32_t ip4_head_len(const struct packet *p)
{
	return (uint32_t)(p->data[p->l3] & 15) * 4;
}

void packet_finish_tcp(struct packet *p)
{
	uint8_t *d = p->data;

	p->end = p->frame_len = p->payload + p->len;
	if (p->family == 4) {
		put16(d + p->l3 + 2, p->end - p->l3);
		put16(d + p->l3 + 10, 0);
		put16(d + p->l3 + 10, (uint16_t)~sum_bytes(d + p->l3, ip4_head_len(p), 0));
	} else {
		put16(d + p->l3 + 4, p->end - p->l3 - IP6_LEN);
	}
	put32(d + p->l4 + 4, p->seq);
	d[p->l4 + 13] = p->flags;
	put16(d + p->l4 + 18, p->urg);
	put16(d + p->l4 + 16, 0);
	put16(d + p->l4 + 16, tcp_sum(p));
}

void packet_cut_tail(struct packet *p, uint32_t keep)
{
	p->len = keep;
	/* The urgent pointer may well point behind the segment. */
	p->flags &= (uint8_t)~(TCP_PSH | TCP_FIN);
	packet_finish_tcp(p);
}

void packet_cut_front(struct packet *p, uint32_t drop)
{
	uint32_t by = drop + !!(p->flags & TCP_SYN);

	p->seq += by;
	p->flags &= (uint8_t)~TCP_SYN;
	if (p->flags & TCP_URG && p->urg > by) {
		p->urg = (uint16_t)(p->urg - by);
	} else if (p->flags & TCP_URG) {
		p->urg = 0;
		p->flags &= (uint8_t)~TCP_URG;
	}
	p->len -= drop;
	memmove(p->data + p->payload, p->data + p->payload + drop, p->len);
	packet_finish_tcp(p);
}

bool packet_checksums_ok(const struct packet *p)
{
	return tcp_sum(p) == 0 && (p->family != 4 || sum_bytes(p->data + p->l3, ip4_head_len(p), 0) == 0xffff);
}

void packet_set_quoted(struct packet *p, uint16_t seq_at, uint32_t off)
{
	uint8_t b[4];

	put32(b, get32(p->data + seq_at) - off);
	patch_sum(p->data, p->l4, p->l4 + 2u, seq_at, b, 4);
}
