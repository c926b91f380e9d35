/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames of our own (RFC 826, 903, 4861, 9293). Pure. */
#include "core/packet.h"

#include <string.h>

#include "core/packet_bytes.h"

uint32_t packet_head(const struct packet *p, uint8_t out[PACKET_HEAD_MAX])
{
	uint32_t n = p->family == 4 ? 20 : IP6_LEN;

	memcpy(out, p->data, p->l3 + n);
	if (p->family == 4)
		out[p->l3] = 0x45;
	else
		out[p->l3 + 6] = PROTO_TCP;
	return p->l3 + n;
}

uint32_t packet_make_ack(uint8_t *data, const uint8_t *head, uint32_t head_len, uint16_t sport, uint16_t dport,
			 uint32_t seq, uint32_t ack, uint16_t win, bool has_ts, uint32_t tsval, uint32_t tsecr)
{
	uint32_t doff = has_ts ? 32 : 20;
	uint8_t *t = data + head_len;
	struct packet p = { .data = data, .kind = PK_TCP, .proto = PROTO_TCP, .l4 = (uint16_t)head_len };

	/* What lies before the TCP header is 20 bytes and version 4, or 40 and version 6; Ethernet is at least 14. */
	p.family = head_len >= ETH_LEN + IP6_LEN && head[head_len - IP6_LEN] >> 4 == 6 &&
		   get16(head + head_len - IP6_LEN - 2) == ETH_IP6 ? 6 : 4;
	p.l3 = (uint16_t)(head_len - (p.family == 4 ? 20 : IP6_LEN));
	memcpy(data, head, head_len);
	if (p.family == 4) {
		put16(data + p.l3 + 4, 0);
		put16(data + p.l3 + 6, 0x4000);
	}
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
	packet_finish_tcp(&p);
	return p.frame_len;
}

uint32_t packet_add_sack(uint8_t *data, uint32_t len, const struct sack_block *blocks, unsigned int n)
{
	struct packet p;
	uint8_t *o;

	packet_parse(data, len, &p);
	if (p.kind != PK_TCP || p.len)
		return len;
	if (n > (p.has_ts ? 3 : PACKET_MAX_SACK))
		n = p.has_ts ? 3 : PACKET_MAX_SACK;
	if (!n)
		return len;
	o = data + p.payload;
	o[0] = o[1] = 1;
	o[2] = 5;
	o[3] = (uint8_t)(2 + 8 * n);
	for (unsigned int i = 0; i < n; i++) {
		put32(o + 4 + 8 * i, blocks[i].left);
		put32(o + 8 + 8 * i, blocks[i].right);
	}
	p.payload = (uint16_t)(p.payload + 4 + 8 * n);
	data[p.l4 + 12] = (uint8_t)((p.payload - p.l4) / 4 << 4);
	packet_finish_tcp(&p);
	return p.frame_len;
}

/* Ethernet header with tags. Return: its length */
static uint32_t make_eth(uint8_t *data, const uint8_t dst[6], const uint8_t mac[6], const uint16_t tags[2], uint16_t type)
{
	uint32_t at = 12;

	memcpy(data, dst, 6);
	memcpy(data + 6, mac, 6);
	for (int i = 0; i < PACKET_MAX_TAGS; i++) {
		if (!tags[i])
			continue;
		/* Of two tags the outer one is the service provider's (IEEE 802.1ad). */
		put16(data + at, !i && tags[1] ? ETH_QINQ : ETH_VLAN);
		put16(data + at + 2, tags[i] & 0xfff);
		at += 4;
	}
	put16(data + at, type);
	return at + 2;
}

static uint32_t make_arp(uint8_t *data, uint16_t type, uint8_t op, const uint8_t mac[6], const uint16_t tags[2],
			 const uint8_t ip[4])
{
	static const uint8_t all[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
	uint32_t n;
	uint8_t *a;

	memset(data, 0, PACKET_ANNOUNCE_MAX);
	n = make_eth(data, all, mac, tags, type);
	a = data + n;
	put16(a, 1);
	put16(a + 2, ETH_IP4);
	a[4] = 6;
	a[5] = 4;
	a[7] = op;
	memcpy(a + 8, mac, 6);
	memcpy(a + 14, ip, 4);
	if (op == 3)
		memcpy(a + 18, mac, 6);
	memcpy(a + 24, ip, 4);
	n += 28;
	return n < 60 ? 60 : n;
}

uint32_t packet_make_garp(uint8_t *data, const uint8_t mac[6], const uint16_t tags[2], const uint8_t ip[4])
{
	return make_arp(data, ETH_ARP, 1, mac, tags, ip);
}

uint32_t packet_make_rarp(uint8_t *data, const uint8_t mac[6], const uint16_t tags[2])
{
	static const uint8_t none[4];

	return make_arp(data, ETH_RARP, 3, mac, tags, none);
}

uint32_t packet_make_na(uint8_t *data, const uint8_t mac[6], const uint16_t tags[2], const uint8_t ip[16])
{
	static const uint8_t all_eth[6] = { 0x33, 0x33, 0, 0, 0, 1 };
	uint32_t n;
	uint8_t *i;

	memset(data, 0, PACKET_ANNOUNCE_MAX);
	n = make_eth(data, all_eth, mac, tags, ETH_IP6);
	i = data + n;
	i[0] = 0x60;
	put16(i + 4, 32);
	i[6] = PROTO_ICMP6;
	i[7] = 255;
	memcpy(i + 8, ip, 16);
	i[24] = 0xff;
	i[25] = 2;
	i[39] = 1;
	i[40] = 136;
	/* Override: who has another address for this one must take the new one. */
	i[44] = 0x20;
	memcpy(i + 48, ip, 16);
	i[64] = 2;
	i[65] = 1;
	memcpy(i + 66, mac, 6);
	put16(i + 42, (uint16_t)~sum_bytes(i + 40, 32, sum_bytes(i + 8, 32, PROTO_ICMP6 + 32)));
	return n + IP6_LEN + 32;
}
