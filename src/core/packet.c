/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is in a frame: theory of operation (RFC 791, 8200, 9293, 7323, 2018, 792, 4443, 4861, 3376, 3810)
 *
 * A frame is looked at once and becomes one of five kinds; the rest of core/ asks for the kind and never for bytes.
 * Nothing in it is trusted: each header is taken only when it lies inside the one around it, all lengths are checked
 * before they are used, and what does not fit together is PK_OTHER, which is compared as it stands. What cannot be
 * translated, because an address in the packet is not the one that its checksum was made with (source routes that are
 * still under way) or because changing it would break a signature of the whole packet (AH), is a datagram and not TCP.
 *
 * Not done: jumbograms (a TAP carries none), and looking into tunnels: their content is a datagram like any other.
 * Runs wherever core/net runs; pure.
 */
#include "core/packet.h"

#include <string.h>

#include "core/packet_bytes.h"

#define IP6_HOP		0
#define IP6_ROUTING	43
#define IP6_FRAG	44
#define IP6_DEST	60
#define IP6_HIP		139
#define IP6_SHIM6	140

#define IP4_LSRR	131
#define IP4_SSRR	137

static void parse_options(struct packet *p, uint32_t at, uint32_t end)
{
	const uint8_t *d = p->data;

	/* Nearly always it is timestamps alone, as RFC 7323 appendix A lays them out. */
	if (end - at == 12 && get32(d + at) == 0x0101080a) {
		p->has_ts = true;
		p->ts_at = (uint16_t)(at + 4);
		p->tsval = get32(d + at + 4);
		p->tsecr = get32(d + at + 8);
		return;
	}
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

/* Return: false when the TCP header does not fit */
static bool parse_tcp(struct packet *p)
{
	const uint8_t *t = p->data + p->l4;
	uint32_t doff;

	if (p->len < 20)
		return false;
	doff = (uint32_t)(t[12] >> 4) * 4;
	if (doff < 20 || doff > p->len)
		return false;
	p->payload = (uint16_t)(p->l4 + doff);
	p->len -= doff;
	p->seq = get32(t + 4);
	p->ack = get32(t + 8);
	p->flags = t[13];
	p->win = get16(t + 14);
	p->urg = get16(t + 18);
	parse_options(p, p->l4 + 20u, p->payload);
	return true;
}

static bool is_local6(const struct packet *p)
{
	uint8_t type, hops;

	if (p->proto != PROTO_ICMP6 || p->len < 4)
		return false;
	type = p->data[p->l4];
	hops = p->data[p->l3 + 7];
	/* Neighbour discovery never comes from behind a router (RFC 4861), nor does MLD (RFC 3810). */
	if (type >= 133 && type <= 137)
		return hops == 255;
	return ((type >= 130 && type <= 132) || type == 143) && hops == 1;
}

/* What IP carries, from @at to p->end. @opaque: it must not be changed. */
static void parse_upper(struct packet *p, uint8_t proto, uint32_t at, bool opaque)
{
	p->proto = proto;
	p->l4 = (uint16_t)at;
	p->len = p->end - at;
	p->kind = PK_DGRAM;
	if ((p->family == 4 && proto == PROTO_IGMP) || (p->family == 6 && is_local6(p)))
		p->kind = PK_LOCAL;
	else if (proto == PROTO_TCP && !opaque && parse_tcp(p))
		p->kind = PK_TCP;
}

static void parse_piece(struct packet *p, uint8_t proto, uint32_t at, uint32_t id, uint32_t off, bool more)
{
	uint32_t len = p->end - at;

	/* Every piece but the last is a multiple of 8 long, and none ends beyond what a datagram can hold. */
	if (off + len > 65535 || (more && len % 8) || !len) {
		p->family = 0;
		return;
	}
	p->kind = PK_FRAG;
	p->proto = proto;
	p->l4 = (uint16_t)at;
	p->len = len;
	p->frag_id = id;
	p->frag_off = (uint16_t)off;
	p->frag_more = more;
}

static bool source_route(const uint8_t *d, uint32_t at, uint32_t end)
{
	while (at < end) {
		if (d[at] == 0)
			return false;
		if (d[at] == 1) {
			at++;
			continue;
		}
		if (d[at] == IP4_LSRR || d[at] == IP4_SSRR)
			return true;
		if (at + 2 > end || d[at + 1] < 2)
			return false;
		at += d[at + 1];
	}
	return false;
}

static void parse_ip4(struct packet *p)
{
	const uint8_t *d = p->data + p->l3;
	uint32_t room = p->frame_len - p->l3, ihl, total, frag;

	if (room < 20)
		return;
	ihl = (uint32_t)(d[0] & 15) * 4;
	total = get16(d + 2);
	if (d[0] >> 4 != 4 || ihl < 20 || total < ihl || total > room)
		return;
	p->family = 4;
	p->end = p->l3 + total;
	frag = get16(d + 6);
	if (frag & 0x3fff)
		parse_piece(p, d[9], p->l3 + ihl, get16(d + 4), (frag & 0x1fff) * 8, frag & 0x2000);
	else
		parse_upper(p, d[9], p->l3 + ihl, source_route(p->data, p->l3 + 20u, p->l3 + ihl));
}

static bool is_extension(uint8_t proto)
{
	return proto == IP6_HOP || proto == IP6_ROUTING || proto == IP6_DEST || proto == IP6_HIP || proto == IP6_SHIM6;
}

static void parse_ip6(struct packet *p)
{
	const uint8_t *d = p->data;
	uint32_t at = p->l3 + IP6_LEN, len;
	bool opaque = false;
	uint8_t next;

	if (p->frame_len < at || d[p->l3] >> 4 != 6 || get16(d + p->l3 + 4) > p->frame_len - at)
		return;
	p->end = at + get16(d + p->l3 + 4);
	next = d[p->l3 + 6];
	for (unsigned int n = 0; is_extension(next) || next == IP6_FRAG; n++) {
		if (n == PACKET_MAX_EXT || at + 8 > p->end)
			return;
		if (next == IP6_FRAG) {
			uint32_t off = get16(d + at + 2) & 0xfff8u;
			bool more = d[at + 3] & 1;

			next = d[at];
			if (off || more) {
				p->family = 6;
				parse_piece(p, next, at + 8, get32(d + at + 4), off, more);
				return;
			}
			/* An atomic fragment (RFC 6946) is a whole datagram. */
			at += 8;
			continue;
		}
		len = ((uint32_t)d[at + 1] + 1) * 8;
		if (at + len > p->end)
			return;
		if (next == IP6_ROUTING && d[at + 3])
			opaque = true;
		next = d[at];
		at += len;
	}
	p->family = 6;
	parse_upper(p, next, at, opaque);
}

void packet_parse(uint8_t *data, uint32_t len, struct packet *p)
{
	uint32_t at = 12;

	memset(p, 0, sizeof(*p));
	p->data = data;
	p->frame_len = p->end = len;
	p->kind = PK_OTHER;
	if (len < ETH_LEN)
		return;
	p->ether_type = get16(data + at);
	while (p->ether_type == ETH_VLAN || p->ether_type == ETH_QINQ || p->ether_type == ETH_QINQ_OLD) {
		if (p->n_tags == PACKET_MAX_TAGS || at + 6 > len)
			return;
		p->tag[p->n_tags++] = FLOW_VLAN | (get16(data + at + 2) & 0xfff);
		at += 4;
		p->ether_type = get16(data + at);
	}
	p->l3 = (uint16_t)(at + 2);
	if (p->ether_type == ETH_IP4)
		parse_ip4(p);
	else if (p->ether_type == ETH_IP6)
		parse_ip6(p);
	else if ((p->ether_type == ETH_ARP || p->ether_type == ETH_RARP) && len >= p->l3 + 28u)
		p->kind = PK_LOCAL;
}

bool packet_first_piece(struct packet *p)
{
	if (p->kind != PK_FRAG || p->frag_off || p->proto != PROTO_TCP || !parse_tcp(p))
		return false;
	p->kind = PK_TCP;
	return true;
}

static bool has_ports(const struct packet *p)
{
	switch (p->proto) {
	case PROTO_UDP:
	case PROTO_UDPLITE:
	case PROTO_DCCP:
	case PROTO_SCTP:
		return p->len >= 4;
	default:
		return p->kind == PK_TCP;
	}
}

/* ICMP messages that carry an identifier are told apart by it, others by their type. */
static void key_icmp(const struct packet *p, struct flow_key *key)
{
	const uint8_t *d = p->data + p->l4;
	bool id;

	if (p->len < 8)
		return;
	if (p->family == 6)
		id = d[0] == 128 || d[0] == 129;
	else
		id = d[0] == 0 || d[0] == 8 || (d[0] >= 13 && d[0] <= 18);
	if (id)
		key->guest_port = get16(d + 4);
	else
		key->other_port = d[0];
}

void packet_key(const struct packet *p, uint8_t nic, bool from_guest, struct flow_key *key)
{
	const uint8_t *src, *dst;
	unsigned int n;

	memset(key, 0, sizeof(*key));
	key->nic = nic;
	/* Id 0 is a priority without a VLAN (IEEE 802.1Q): the answer may well be untagged. */
	for (int i = 0; i < p->n_tags; i++) {
		if (!(p->tag[i] & 0xfff))
			continue;
		if (!key->vlan)
			key->vlan = p->tag[i];
		else
			key->vlan_inner = p->tag[i];
	}
	key->family = p->family;
	key->datagram = p->kind != PK_TCP;
	if (!p->family) {
		if (p->frame_len < ETH_LEN)
			return;
		memcpy(key->guest, p->data + (from_guest ? 6 : 0), 6);
		memcpy(key->other, p->data + (from_guest ? 0 : 6), 6);
		key->guest_port = p->ether_type;
		return;
	}
	n = p->family == 4 ? 4 : 16;
	src = p->data + p->l3 + (p->family == 4 ? 12 : 8);
	dst = src + n;
	memcpy(key->guest, from_guest ? src : dst, n);
	memcpy(key->other, from_guest ? dst : src, n);
	key->proto = p->proto;
	if (p->kind == PK_FRAG)
		return;
	if (has_ports(p)) {
		uint16_t sport = get16(p->data + p->l4), dport = get16(p->data + p->l4 + 2);

		key->guest_port = from_guest ? sport : dport;
		key->other_port = from_guest ? dport : sport;
	} else if (p->proto == (p->family == 4 ? PROTO_ICMP : PROTO_ICMP6)) {
		key_icmp(p, key);
	}
}

bool packet_quotes_tcp(const struct packet *p, uint8_t nic, struct flow_key *key, uint16_t *seq_at)
{
	const uint8_t *d = p->data + p->l4, *q = d + 8;
	struct packet in = { .data = p->data, .kind = PK_TCP };
	uint32_t room, head;

	if (p->kind != PK_DGRAM || p->len < 8)
		return false;
	room = p->len - 8;
	if (p->family == 4) {
		if (p->proto != PROTO_ICMP || !(d[0] == 3 || d[0] == 4 || d[0] == 5 || d[0] == 11 || d[0] == 12))
			return false;
		if (room < 20)
			return false;
		head = (uint32_t)(q[0] & 15) * 4;
		/* Only a first piece has the ports. */
		if (q[0] >> 4 != 4 || head < 20 || q[9] != PROTO_TCP || get16(q + 6) & 0x1fff)
			return false;
	} else {
		if (p->proto != PROTO_ICMP6 || d[0] < 1 || d[0] > 4 || room < IP6_LEN)
			return false;
		head = IP6_LEN;
		if (q[0] >> 4 != 6 || q[6] != PROTO_TCP)
			return false;
	}
	if (room < head + PACKET_QUOTE_MIN)
		return false;
	in.family = p->family;
	in.proto = PROTO_TCP;
	in.l3 = (uint16_t)(p->l4 + 8);
	in.l4 = (uint16_t)(in.l3 + head);
	memcpy(in.tag, p->tag, sizeof(in.tag));
	in.n_tags = p->n_tags;
	packet_key(&in, nic, true, key);
	*seq_at = (uint16_t)(in.l4 + 4);
	return true;
}
