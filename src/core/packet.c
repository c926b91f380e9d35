/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames as bytes (RFC 791, 9293, 7323, 2018). Runs wherever core/net runs; pure.
 *
 * Fields that are changed one by one keep their checksum by difference, so a segment that came with a wrong
 * checksum still has a wrong one afterwards and the guest drops it as it would have. Only where a segment is cut
 * the sum is made anew, and those segments come from the guest's own stack.
 */
#include "core/packet.h"

#include <string.h>

#define ETH_LEN		14
#define ETH_IP4		0x0800
#define ETH_ARP		0x0806
#define ETH_RARP	0x8035
#define IP_TCP		6

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

static void parse_options(struct packet *p, uint32_t at, uint32_t end)
{
	const uint8_t *d = p->data;

	while (at < end) {
		uint8_t kind = d[at], len;

		if (kind == 0)
			return;
		if (kind == 1) {
			at++;
			continue;
		}
		if (at + 2 > end)
			return;
		len = d[at + 1];
		if (len < 2 || at + len > end)
			return;
		if (kind == 2 && len == 4) {
			p->has_mss = true;
			p->mss = get16(d + at + 2);
		} else if (kind == 3 && len == 3) {
			p->has_ws = true;
			p->ws = d[at + 2] > 14 ? 14 : d[at + 2];
		} else if (kind == 4 && len == 2) {
			p->has_sack_ok = true;
		} else if (kind == 5 && len >= 10 && (len - 2) % 8 == 0 && !p->sack_at) {
			p->sack_at = (uint16_t)at;
			p->n_sack = (uint8_t)((len - 2) / 8);
			if (p->n_sack > PACKET_MAX_SACK)
				p->n_sack = PACKET_MAX_SACK;
			for (unsigned int i = 0; i < p->n_sack; i++) {
				p->sack[i].left = get32(d + at + 2 + 8 * i);
				p->sack[i].right = get32(d + at + 6 + 8 * i);
			}
		} else if (kind == 8 && len == 10 && !p->has_ts) {
			p->has_ts = true;
			p->ts_at = (uint16_t)(at + 2);
			p->tsval = get32(d + at + 2);
			p->tsecr = get32(d + at + 6);
		} else if (kind == 19 || kind == 29) {
			p->has_signature = true;
		}
		at += len;
	}
}

void packet_parse(uint8_t *data, uint32_t len, struct packet *p)
{
	uint32_t ihl, total, doff;

	memset(p, 0, sizeof(*p));
	p->data = data;
	p->frame_len = len;
	p->kind = PK_OTHER;
	if (len < ETH_LEN)
		return;
	if (get16(data + 12) == ETH_ARP) {
		if (len >= ETH_LEN + 28)
			p->kind = PK_ARP;
		return;
	}
	if (get16(data + 12) != ETH_IP4 || len < ETH_LEN + 20)
		return;
	p->l3 = ETH_LEN;
	ihl = (uint32_t)(data[p->l3] & 15) * 4;
	total = get16(data + p->l3 + 2);
	if (data[p->l3] >> 4 != 4 || ihl < 20 || total < ihl + 20 || p->l3 + total > len)
		return;
	/* More fragments, or an offset: not a whole segment. */
	if (data[p->l3 + 9] != IP_TCP || get16(data + p->l3 + 6) & 0x3fff)
		return;
	p->l4 = (uint16_t)(p->l3 + ihl);
	doff = (uint32_t)(data[p->l4 + 12] >> 4) * 4;
	if (doff < 20 || ihl + doff > total)
		return;
	p->payload = (uint16_t)(p->l4 + doff);
	p->len = total - ihl - doff;
	p->seq = get32(data + p->l4 + 4);
	p->ack = get32(data + p->l4 + 8);
	p->flags = data[p->l4 + 13];
	p->win = get16(data + p->l4 + 14);
	parse_options(p, p->l4 + 20u, p->payload);
	p->kind = PK_TCP4;
}

void packet_key(const struct packet *p, uint8_t nic, bool from_guest, struct flow_key *key)
{
	const uint8_t *src = p->data + p->l3 + 12, *dst = src + 4;
	uint16_t sport = get16(p->data + p->l4), dport = get16(p->data + p->l4 + 2);

	memset(key, 0, sizeof(*key));
	memcpy(key->guest, from_guest ? src : dst, 4);
	memcpy(key->other, from_guest ? dst : src, 4);
	key->guest_port = from_guest ? sport : dport;
	key->other_port = from_guest ? dport : sport;
	key->family = 4;
	key->proto = IP_TCP;
	key->nic = nic;
}

/* Write @n bytes at @at of the TCP header and correct the checksum by the difference. */
static void patch(struct packet *p, uint32_t at, const uint8_t *to, uint32_t n)
{
	uint8_t *d = p->data, *sum = d + p->l4 + 16;
	uint32_t s = (uint16_t)~get16(sum);

	for (uint32_t i = 0; i < n; i++) {
		/* An option may begin at an odd byte: its bytes then weigh the other way round. */
		int shift = (at + i - p->l4) & 1 ? 0 : 8;

		s += (uint16_t)~((uint32_t)d[at + i] << shift);
		s += (uint32_t)to[i] << shift;
		d[at + i] = to[i];
	}
	s = (s & 0xffff) + (s >> 16);
	s = (s & 0xffff) + (s >> 16);
	put16(sum, (uint16_t)~s);
}

static void patch32(struct packet *p, uint32_t at, uint32_t v)
{
	uint8_t b[4];

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

static uint32_t sum_bytes(const uint8_t *d, uint32_t n, uint32_t s)
{
	uint64_t t = s;
	uint32_t i;

	for (i = 0; i + 1 < n; i += 2)
		t += get16(d + i);
	if (i < n)
		t += (uint32_t)d[i] << 8;
	while (t >> 16)
		t = (t & 0xffff) + (t >> 16);
	return (uint32_t)t;
}

static uint16_t tcp_sum(const struct packet *p)
{
	const uint8_t *d = p->data;
	uint32_t n = get16(d + p->l3 + 2) - (uint32_t)(p->l4 - p->l3);

	return (uint16_t)~sum_bytes(d + p->l4, n, sum_bytes(d + p->l3 + 12, 8, IP_TCP + n));
}

static void sums_anew(struct packet *p)
{
	uint8_t *d = p->data;

	put16(d + p->l3 + 2, (uint32_t)(p->payload - p->l3) + p->len);
	put16(d + p->l3 + 10, 0);
	put16(d + p->l3 + 10, (uint16_t)~sum_bytes(d + p->l3, (uint32_t)(p->l4 - p->l3), 0));
	put32(d + p->l4 + 4, p->seq);
	d[p->l4 + 13] = p->flags;
	put16(d + p->l4 + 16, 0);
	put16(d + p->l4 + 16, tcp_sum(p));
	p->frame_len = p->payload + p->len;
}

void packet_cut_tail(struct packet *p, uint32_t keep)
{
	p->len = keep;
	p->flags &= (uint8_t)~(TCP_PSH | TCP_FIN);
	sums_anew(p);
}

void packet_cut_front(struct packet *p, uint32_t drop)
{
	p->seq += drop + !!(p->flags & TCP_SYN);
	p->flags &= (uint8_t)~TCP_SYN;
	p->len -= drop;
	memmove(p->data + p->payload, p->data + p->payload + drop, p->len);
	sums_anew(p);
}

bool packet_checksums_ok(const struct packet *p)
{
	return sum_bytes(p->data + p->l3, (uint32_t)(p->l4 - p->l3), 0) == 0xffff && tcp_sum(p) == 0;
}

uint32_t packet_make_ack(uint8_t *data, const uint8_t *eth, const uint8_t *ip, uint16_t sport, uint16_t dport,
			 uint32_t seq, uint32_t ack, uint16_t win, bool has_ts, uint32_t tsval, uint32_t tsecr)
{
	struct packet p = { .data = data, .kind = PK_TCP4, .l3 = ETH_LEN, .l4 = ETH_LEN + 20 };
	uint8_t *t = data + ETH_LEN + 20;
	uint32_t doff = has_ts ? 32 : 20;

	memcpy(data, eth, ETH_LEN);
	memcpy(data + ETH_LEN, ip, 20);
	data[ETH_LEN] = 0x45;
	put16(data + ETH_LEN + 4, 0);
	put16(data + ETH_LEN + 6, 0x4000);
	memset(t, 0, doff);
	put16(t, sport);
	put16(t + 2, dport);
	put32(t + 8, ack);
	t[12] = (uint8_t)(doff / 4 << 4);
	put16(t + 14, win);
	if (has_ts) {
		t[20] = t[21] = 1;
		t[22] = 8;
		t[23] = 10;
		put32(t + 24, tsval);
		put32(t + 28, tsecr);
	}
	p.payload = (uint16_t)(p.l4 + doff);
	p.seq = seq;
	p.flags = TCP_ACK;
	sums_anew(&p);
	return p.frame_len;
}

static uint32_t make_arp(uint8_t *data, uint16_t type, uint8_t op, const uint8_t mac[6], const uint8_t ip[4])
{
	memset(data, 0, 60);
	memset(data, 0xff, 6);
	memcpy(data + 6, mac, 6);
	put16(data + 12, type);
	put16(data + 14, 1);
	put16(data + 16, ETH_IP4);
	data[18] = 6;
	data[19] = 4;
	data[21] = op;
	memcpy(data + 22, mac, 6);
	memcpy(data + 28, ip, 4);
	if (op == 3)
		memcpy(data + 32, mac, 6);
	memcpy(data + 38, ip, 4);
	return 60;
}

uint32_t packet_make_garp(uint8_t *data, const uint8_t mac[6], const uint8_t ip[4])
{
	return make_arp(data, ETH_ARP, 1, mac, ip);
}

uint32_t packet_make_rarp(uint8_t *data, const uint8_t mac[6])
{
	static const uint8_t none[4];

	return make_arp(data, ETH_RARP, 3, mac, none);
}
