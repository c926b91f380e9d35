/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Everything that is not a TCP stream: theory of operation (P1)
 *
 * UDP, ICMP, SCTP, other protocols and frames that are not IP are compared datagram by datagram, in order within a flow
 * (UDP and its like: addresses and ports; ICMP: identifier; other IP: addresses; not IP: MAC addresses and Ethernet
 * type). What counts is what IP carries, without the checksum, which follows from it; the IP header's identification,
 * lifetime and flow label are each copy's own business. A fragmented datagram is compared when it is complete,
 * whatever way it was cut (frag.c).
 *
 * The PVM's oldest datagram leaves when the SVM has said an equal one in the same epoch, in whatever order the SVM answers;
 * so the order within a flow is the PVM's. If the SVM has said something, and nothing of it is equal, the copies differ: a checkpoint is
 * asked for at once, and nothing more of the flow is compared until then. One thing is no difference: an SVM that was
 * given an input twice, after a load, answers twice. So what left last in a flow is remembered by its hash, and
 * a second copy of it is thrown away. A wrong guess there costs a checkpoint and never lets anything out.
 *
 * Nothing is sent twice: at a failover datagrams are neither kept nor repeated, as UDP is lost on any network.
 * Pure; belongs to one struct net.
 */
#define XXH_INLINE_ALL
#include <string.h>
#include <xxhash.h>

#include "core/net_internal.h"

/* Where in the content the checksum stands; its two bytes do not count. Return: 0xffff when there is none */
static uint32_t sum_at(const struct flow_key *key)
{
	if (!key->family)
		return 0xffff;
	switch (key->proto) {
	case PROTO_UDP:
	case PROTO_UDPLITE:
	case PROTO_DCCP:
		return 6;
	case PROTO_ICMP:
	case PROTO_ICMP6:
		return 2;
	default:
		return 0xffff;
	}
}

/* Walks over the content of a datagram, piece by piece. */
struct walk {
	uint32_t next;
	const uint8_t *d;
	uint32_t left;
};

static void walk_on(struct net *net, struct walk *w)
{
	struct packet p;

	while (!w->left && w->next != FRAME_NONE) {
		packet_parse(net_data(net, w->next), net->fp.meta[w->next].len, &p);
		/* A frame that is not IP counts from its type on; its addresses are the flow. */
		w->d = p.data + (p.family ? p.l4 : 12);
		w->left = p.family ? p.len : p.frame_len - 12;
		w->next = net->fp.meta[w->next].piece;
	}
}

static bool same(struct net *net, const struct flow_key *key, uint32_t a, uint32_t b)
{
	struct walk wa = { .next = a }, wb = { .next = b };
	uint32_t at = 0, sum = sum_at(key);

	if (net->fp.meta[a].end != net->fp.meta[b].end)
		return false;
	for (;;) {
		uint32_t n;

		walk_on(net, &wa);
		walk_on(net, &wb);
		n = wa.left < wb.left ? wa.left : wb.left;
		if (!n)
			return !wa.left && !wb.left;
		if (at < sum && n > sum - at)
			n = sum - at;
		else if (at >= sum && at < sum + 2 && n > sum + 2 - at)
			n = sum + 2 - at;
		if ((at < sum || at >= sum + 2) && memcmp(wa.d, wb.d, n))
			return false;
		at += n;
		wa.d += n;
		wa.left -= n;
		wb.d += n;
		wb.left -= n;
	}
}

static uint64_t hash(struct net *net, const struct flow_key *key, uint32_t frame)
{
	uint32_t sum = sum_at(key), skip;
	struct walk w = { .next = frame };
	uint64_t h = 0;

	for (walk_on(net, &w); w.left; walk_on(net, &w)) {
		/* In the first piece: what stands before the checksum is in it as well. */
		skip = !h && sum != 0xffff && w.left >= sum + 2 ? sum + 2 : 0;
		if (skip)
			h = XXH3_64bits_withSeed(w.d, sum, net->fp.meta[frame].end);
		h = XXH3_64bits_withSeed(w.d + skip, w.left - skip, h + 1);
		w.left = 0;
	}
	return h ? h : 1;
}

static bool said_before(struct net *net, struct flow *f, uint32_t frame)
{
	uint64_t h = hash(net, &f->key, frame);

	for (int i = 0; i < FLOW_TWICE; i++)
		if (f->twice[i] == h)
			return true;
	return false;
}

void datagram_emit(struct net *net, uint32_t frame)
{
	while (frame != FRAME_NONE) {
		uint32_t next = net->fp.meta[frame].piece;

		release_emit(net, net->fp.meta[frame].nic, frame);
		frame = next;
	}
}

void datagram_released(struct net *net, struct flow *f, uint32_t frame)
{
	f->twice[f->twice_at++ % FLOW_TWICE] = hash(net, &f->key, frame);
	datagram_emit(net, frame);
}

/* Take out the first of the SVM's datagrams that is equal to @h; the copies may answer in another order. */
static uint32_t find(struct net *net, struct flow *f, uint32_t h)
{
	uint32_t prev = FRAME_NONE;

	for (uint32_t i = f->rem.held.head; i != FRAME_NONE; prev = i, i = net->fp.meta[i].next)
		if (same(net, &f->key, h, i))
			return hold_take(net, f, &f->rem, i, prev);
	return FRAME_NONE;
}

static void drop_svm(struct net *net, struct flow *f)
{
	frame_free_chain(&net->fp, hold_pop(net, f, &f->rem));
}

void datagram_forget_twice(struct net *net, struct flow *f)
{
	while (f->rem.held.n && said_before(net, f, f->rem.held.head)) {
		net->st.svm_twice++;
		drop_svm(net, f);
	}
}

void datagram_compare(struct net *net, struct flow *f)
{
	while (!f->diverged && f->loc.held.n && f->rem.held.n) {
		uint32_t h = f->loc.held.head, twin;

		if (net->fp.meta[h].epoch != net->epoch)
			return;
		twin = find(net, f, h);
		if (twin == FRAME_NONE) {
			datagram_forget_twice(net, f);
			if (f->rem.held.n)
				compare_differs(net, f);
			return;
		}
		frame_free_chain(&net->fp, twin);
		hold_pop(net, f, &f->loc);
		f->held_since = net->now;
		net->st.datagrams++;
		net->st.released_compared++;
		datagram_released(net, f, h);
	}
}

/* The flow of a datagram; of one in pieces the first piece tells. @whole: scratch */
static struct flow *flow_of(struct net *net, uint8_t nic, const struct packet *p, struct packet *whole)
{
	struct flow_key key;
	struct flow *f;

	*whole = *p;
	if (p->kind == PK_FRAG)
		whole->kind = PK_DGRAM;
	packet_key(whole, nic, true, &key);
	f = track_flow(net, &key);
	if (f)
		flow_list_add(&net->flows, f, LIST_ACTIVE);
	return f;
}

static uint32_t content_of(struct net *net, uint32_t frame, const struct packet *p)
{
	if (p->kind == PK_FRAG)
		return frag_content(net, frame);
	return p->family ? p->len : p->frame_len - 12;
}

/* Not compared, so each piece by itself. */
static void other_chain(struct net *net, uint32_t frame)
{
	while (frame != FRAME_NONE) {
		uint32_t next = net->fp.meta[frame].piece;

		net->fp.meta[frame].piece = FRAME_NONE;
		hold_other(net, frame);
		frame = next;
	}
}

void datagram_pvm(struct net *net, uint32_t frame, uint8_t nic, const struct packet *p)
{
	struct packet whole;
	struct flow *f = p->frame_len < 14 ? NULL : flow_of(net, nic, p, &whole);

	if (!f) {
		if (p->frame_len >= 14 && net_want(net, CAUSE_FLOWS))
			net->st.limit_flows++;
		other_chain(net, frame);
		return;
	}
	switch (track_action(net, f)) {
	case RULE_BYPASS:
		/* What was held before the rule came goes first. */
		epoch_let_go(net, f, UINT64_MAX);
		net->st.bypassed++;
		datagram_emit(net, frame);
		return;
	case RULE_COMPARE:
		if (f->other_epoch <= net->staged)
			break;
		/* What was held by a rule until now goes first. */
		/* fall through */
	case RULE_HOLD:
		f->other_epoch = net->epoch;
		other_chain(net, frame);
		return;
	}
	hold_append(net, f, &f->loc, frame, content_of(net, frame, p));
	datagram_compare(net, f);
}

void datagram_svm(struct net *net, uint32_t frame, uint8_t nic, const struct packet *p)
{
	struct packet whole;
	struct flow *f = p->frame_len < 14 ? NULL : flow_of(net, nic, p, &whole);

	if (!f || f->diverged || track_action(net, f) != RULE_COMPARE) {
		frame_free_chain(&net->fp, frame);
		return;
	}
	hold_append(net, f, &f->rem, frame, content_of(net, frame, p));
	datagram_compare(net, f);
}
