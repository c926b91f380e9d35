/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: frames as bytes. Whatever a frame holds, the parser's offsets lie inside it, a change of a field is
 * found again by parsing anew, and a checksum that was right stays right. The input: a frame (fuzz_frame()), then what
 * is done with it. The frame stands in memory of exactly its size.
 */
#include <string.h>

#include "core/packet.h"
#include "fuzz.h"

static void offsets(const struct packet *p)
{
	MUST(p->n_tags <= PACKET_MAX_TAGS && p->end <= p->frame_len);
	if (p->kind == PK_DGRAM || p->kind == PK_FRAG)
		MUST(p->l3 >= 14 && p->l4 > p->l3 && p->l4 + p->len <= p->end);
	if (p->kind != PK_TCP)
		return;
	MUST(p->l3 >= 14 && p->l4 >= p->l3 + 20 && p->payload >= p->l4 + 20 && p->payload + p->len == p->end);
	MUST(!p->has_ts || (p->ts_at >= p->l4 + 22 && p->ts_at + 8 <= p->payload));
	MUST(p->n_sack <= PACKET_MAX_SACK && !p->n_sack == !p->sack_at);
	MUST(!p->sack_at || (p->sack_at >= p->l4 + 20 && p->sack_at + 2 + 8 * p->n_sack <= p->payload));
	MUST(!p->has_ws || p->ws <= 14);
}

/* Parsing anew finds what @p says. */
static void same(const struct packet *p)
{
	struct packet q;

	packet_parse(p->data, p->frame_len, &q);
	offsets(&q);
	MUST(q.kind == PK_TCP && q.l4 == p->l4 && q.payload == p->payload && q.len == p->len && q.end == p->end);
	MUST(q.seq == p->seq && q.ack == p->ack && q.win == p->win && q.flags == p->flags && q.has_ts == p->has_ts);
	MUST(!q.has_ts || (q.tsval == p->tsval && q.tsecr == p->tsecr));
	/* Without its first option a segment may have a second one. */
	MUST(q.n_sack == p->n_sack || !p->n_sack);
	MUST(!p->n_sack || !memcmp(q.sack, p->sack, p->n_sack * sizeof(p->sack[0])));
}

static void change(struct fuzz_in *in, struct packet *p)
{
	uint8_t op = in_u8(in), *was;
	uint32_t a = in_u32(in), b = in_u32(in), len = p->len, frame_len = p->frame_len, n;
	struct packet old = *p;
	bool ok = packet_checksums_ok(p);

	switch (op % 8) {
	case 0:
		packet_set_seq(p, a);
		MUST(p->seq == a);
		break;
	case 1:
		packet_set_ack(p, a);
		MUST(p->ack == a);
		break;
	case 2:
		packet_set_win(p, (uint16_t)a);
		MUST(p->win == (uint16_t)a);
		break;
	case 3:
		packet_set_ts(p, a, b);
		MUST(!p->has_ts || (p->tsval == a && p->tsecr == b));
		break;
	case 4:
		if (!p->n_sack)
			return;
		packet_set_sack(p, op / 8 % p->n_sack, a, b);
		MUST(p->sack[op / 8 % p->n_sack].left == a && p->sack[op / 8 % p->n_sack].right == b);
		break;
	case 5:
		packet_set_flags(p, (uint8_t)a);
		MUST(p->flags == (uint8_t)a);
		break;
	case 6:
		packet_keep_sack(p, a);
		n = 0;
		for (unsigned int i = 0; i < old.n_sack; i++)
			if (a >> i & 1)
				MUST(!memcmp(&p->sack[n++], &old.sack[i], sizeof(old.sack[0])));
		MUST(n == p->n_sack);
		break;
	default:
		n = a % (len + 1);
		was = malloc(len + 1);
		if (!was)
			return;
		memcpy(was, p->data + p->payload, len);
		if (op & 8)
			packet_cut_tail(p, n);
		else
			packet_cut_front(p, n);
		MUST(p->len == (op & 8 ? n : len - n) && !memcmp(p->data + p->payload, was + (op & 8 ? 0 : n), p->len));
		MUST(p->seq == old.seq + (op & 8 ? 0 : n + !!(old.flags & TCP_SYN)));
		MUST(!(p->flags & (op & 8 ? TCP_FIN | TCP_PSH : TCP_SYN)));
		free(was);
	}
	MUST(p->frame_len <= frame_len && p->data == old.data);
	MUST(!ok || packet_checksums_ok(p));
	same(p);
}

static void swap(uint8_t *a, uint8_t *b, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint8_t t = a[i];

		a[i] = b[i];
		b[i] = t;
	}
}

/* The same frame on its way back belongs to the same flow. */
static void mirrored(struct packet *p)
{
	bool ports = p->kind == PK_TCP || (p->kind == PK_DGRAM && p->len >= 4 &&
		     (p->proto == PROTO_UDP || p->proto == PROTO_UDPLITE || p->proto == PROTO_DCCP || p->proto == PROTO_SCTP));
	size_t n = p->family == 6 ? 16 : 4;
	uint8_t *d = p->data, *addr = d + p->l3 + (p->family == 6 ? 8 : 12);
	struct flow_key to, back;

	packet_key(p, 1, true, &to);
	MUST(to.nic == 1 && to.family == p->family && !memcmp(to.pad, "\0\0\0\0", sizeof(to.pad)));
	for (int twice = 0; twice < 2; twice++) {
		if (p->frame_len >= 12)
			swap(d, d + 6, 6);
		if (p->family)
			swap(addr, addr + n, n);
		if (ports)
			swap(d + p->l4, d + p->l4 + 2, 2);
		packet_key(p, 1, !!twice, &back);
		MUST(!memcmp(&to, &back, sizeof(to)));
	}
}

static void acknowledge(struct fuzz_in *in, const struct packet *p)
{
	uint8_t head[PACKET_HEAD_MAX], ack[PACKET_ACK_MAX];
	uint32_t n = packet_head(p, head), v = in_u32(in);
	struct flow_key of, made;
	bool ts = v & 1;
	struct packet q;

	MUST(n >= 34 && n <= PACKET_HEAD_MAX);
	packet_key(p, 0, true, &of);
	n = packet_make_ack(ack, head, n, of.guest_port, of.other_port, v, v + 1, (uint16_t)v, ts, v + 2, v + 3);
	MUST(n <= PACKET_ACK_MAX);
	packet_parse(ack, n, &q);
	offsets(&q);
	MUST(q.kind == PK_TCP && !packet_span(&q) && q.flags == TCP_ACK && packet_checksums_ok(&q));
	MUST(q.seq == v && q.ack == v + 1 && q.win == (uint16_t)v && q.has_ts == ts);
	MUST(!ts || (q.tsval == v + 2 && q.tsecr == v + 3));
	packet_key(&q, 0, true, &made);
	MUST(!memcmp(&of, &made, sizeof(of)));
}

static uint16_t icmp_sum(const struct packet *p)
{
	uint32_t s = p->family == 6 ? (uint16_t)~fuzz_sum(p->data + p->l3 + 8, 32, p->proto + p->len) : 0;

	return fuzz_sum(p->data + p->l4, p->len, s);
}

static void quotes(struct fuzz_in *in, struct packet *p)
{
	struct flow_key key, again;
	uint32_t off = in_u32(in), was;
	uint16_t at, at2;
	uint8_t *d = p->data;
	bool ok;

	if (!packet_quotes_tcp(p, 0, &key, &at))
		return;
	MUST(at >= p->l4 + 8 && at + 4u <= p->end && key.proto == PROTO_TCP && key.family == p->family);
	was = (uint32_t)d[at] << 24 | (uint32_t)d[at + 1] << 16 | (uint32_t)d[at + 2] << 8 | d[at + 3];
	ok = !icmp_sum(p);
	packet_set_quoted(p, at, off);
	packet_parse(p->data, p->frame_len, p);
	MUST(packet_quotes_tcp(p, 0, &again, &at2) && at2 == at && !memcmp(&key, &again, sizeof(key)));
	MUST((((uint32_t)d[at] << 24 | (uint32_t)d[at + 1] << 16 | (uint32_t)d[at + 2] << 8 | d[at + 3])) == was - off);
	MUST(!ok || !icmp_sum(p));
}

static void announcements(struct fuzz_in *in)
{
	uint8_t d[PACKET_ANNOUNCE_MAX], bytes[16], how = in_u8(in);
	uint16_t tags[2] = { how & 4 ? FLOW_VLAN | 5 : 0, how & 8 ? FLOW_VLAN | 6 : 0 };
	struct packet p;
	uint32_t n;

	for (int i = 0; i < 16; i++)
		bytes[i] = in_u8(in);
	n = how % 3 == 0 ? packet_make_garp(d, bytes, tags, bytes) : how % 3 == 1 ? packet_make_na(d, bytes, tags, bytes) :
	    packet_make_rarp(d, bytes, tags);
	MUST(n >= 60 && n <= PACKET_ANNOUNCE_MAX);
	packet_parse(d, n, &p);
	offsets(&p);
	MUST(p.kind == PK_LOCAL && !memcmp(d + 6, bytes, 6) && (!tags[0] || p.tag[0] == tags[0]));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_in in = { bytes, size };
	uint8_t frame[FUZZ_FRAME_MAX], *exact;
	uint32_t n = fuzz_frame(&in, in_u8(&in) & 1, frame);
	struct packet p;

	exact = malloc(n);
	if (!exact)
		return 0;
	memcpy(exact, frame, n);
	packet_parse(exact, n, &p);
	MUST(p.data == exact && p.frame_len == n);
	offsets(&p);
	mirrored(&p);
	if (p.kind == PK_TCP)
		acknowledge(&in, &p);
	if (p.kind == PK_DGRAM)
		quotes(&in, &p);
	while (p.kind == PK_TCP && !p.has_signature && in.n)
		change(&in, &p);
	MUST(p.kind == PK_TCP || !memcmp(exact, frame, n) || p.kind == PK_DGRAM);
	free(exact);
	announcements(&in);
	return 0;
}
