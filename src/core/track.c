/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which flow a frame belongs to, and which flow has to go when there is no room: theory of operation
 *
 * Under a flood of new connections neither may memory grow nor an established connection suffer. A connection counts
 * as established when its client has acknowledged the guest's SYN by number, which who spoofs an address cannot, or
 * when the guest talks on it. Until then it is an embryo. Embryos may fill three quarters of the table, datagram flows half;
 * beyond that the oldest of the kind makes room, whatever it carries for an embryo (its held SYN-ACK is lost as on a
 * network, its client will ask again), and only when it carries nothing for the others. An embryo that goes on the
 * secondary takes its translation along: should it be established after all, the SVM resets it, which is a divergence,
 * and the next checkpoint mends it.
 *
 * When nothing can go the frame is not compared, and a checkpoint is asked for: after it flows have no translation that
 * must be kept, so that idle ones can be forgotten. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#define HANDSHAKE_NS	(60 * NS_PER_S)	/* a handshake that takes longer has failed */
#define MAX_FIRST_ACK	(1u << 20)

void track_forget(struct net *net, struct flow *f)
{
	hold_clear(net, f, &f->loc);
	hold_clear(net, f, &f->rem);
	frame_list_clear(&net->fp, &f->stash);
	inlog_unlink(net, f);
	flow_remove(&net->flows, f);
}

/* An embryo may be dropped with all that it carries, but for a line of the table that is about to become valid (P3). */
static bool evict_embryo(struct net *net)
{
	struct flow *f = flow_oldest(&net->flows, FLOW_EMBRYO);

	if (!f || f->has_table)
		return false;
	/* A promoted VM has no checkpoint that would mend it, and new flows need no place there. */
	if (net->role == NET_ALONE && (f->seq_off || f->ts_off) && net->now - f->last < HANDSHAKE_NS)
		return false;
	/* Its client may be about to answer: a checkpoint makes up for the translation that goes. */
	if (net->role == NET_SECONDARY && (f->seq_off || f->ts_off || f->pending))
		net->flows_scarce = true;
	net->st.flows_embryo_evicted++;
	track_forget(net, f);
	return true;
}

static bool evict_idle(struct net *net, enum flow_class cls)
{
	struct flow *f = flow_oldest_idle(&net->flows, cls, net->now);

	if (!f)
		return false;
	net->st.flows_evicted++;
	track_forget(net, f);
	return true;
}

struct flow *track_flow(struct net *net, const struct flow_key *key)
{
	struct flow_table *t = &net->flows;
	struct flow *f = flow_find(t, key);
	bool room;

	if (f) {
		flow_touch(t, f, net->now);
		return f;
	}
	if (!key->datagram && t->n_class[FLOW_EMBRYO] >= t->n - t->n / 4)
		evict_embryo(net);
	if (key->datagram && t->n_class[FLOW_DGRAM] >= t->n / 2)
		evict_idle(net, FLOW_DGRAM);
	f = flow_make(t, key, net->now);
	if (f)
		return f;
	if (key->datagram)
		room = evict_idle(net, FLOW_DGRAM) || evict_idle(net, FLOW_OPEN);
	else
		room = evict_embryo(net) || evict_idle(net, FLOW_DGRAM) || evict_idle(net, FLOW_OPEN);
	if (!room) {
		net->st.flows_full++;
		net->flows_scarce = true;
		return NULL;
	}
	return flow_make(t, key, net->now);
}

void track_client_syn(struct flow *f, const struct packet *p)
{
	/* A stray SYN must not change a connection that is open. */
	if (!(p->flags & TCP_ACK))
		f->syn_no_ws = !p->has_ws;
	else if (!f->loc.ack_known)
		f->no_ws = !p->has_ws;
}

/* The flow of a datagram, of which a first fragment tells as much as a whole one. */
static bool datagram_key(const struct packet *p, uint8_t nic, bool from_guest, struct flow_key *key)
{
	struct packet whole = *p;

	if (p->kind == PK_FRAG && p->frag_off)
		return false;
	if (p->kind == PK_FRAG)
		whole.kind = PK_DGRAM;
	else if (p->kind != PK_DGRAM)
		return false;
	packet_key(&whole, nic, from_guest, key);
	return true;
}

void track_input(struct net *net, uint8_t nic, const struct packet *p)
{
	struct flow_key key;
	struct flow *f;

	if (p->kind == PK_TCP && p->flags & TCP_SYN) {
		packet_key(p, nic, false, &key);
		f = track_flow(net, &key);
		if (f)
			track_client_syn(f, p);
	} else if (p->kind == PK_TCP) {
		if (!net->flows.n_class[FLOW_EMBRYO] || (p->flags & (TCP_ACK | TCP_RST)) != TCP_ACK)
			return;
		packet_key(p, nic, false, &key);
		f = flow_find(&net->flows, &key);
		/* Up to so much may have been acknowledged at once, behind a SYN that carried data. */
		if (f && f->isn_known && seq_lt(f->isn, p->ack) && seq_leq(p->ack, f->isn + MAX_FIRST_ACK)) {
			flow_establish(&net->flows, f);
			compare_answered(net, f);
		}
	} else if (datagram_key(p, nic, false, &key)) {
		f = track_flow(net, &key);
		if (f)
			f->asked = true;
	}
}

bool track_known(struct net *net, uint8_t nic, const struct packet *p)
{
	struct flow_key key;

	if (p->kind == PK_TCP) {
		if ((p->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
			return true;
		packet_key(p, nic, false, &key);
	} else if (!datagram_key(p, nic, false, &key)) {
		return true;
	}
	return flow_find(&net->flows, &key) != NULL;
}

enum rule_action track_action(struct net *net, struct flow *f)
{
	if (f->rules_gen != net->rules_gen) {
		f->rules_gen = net->rules_gen;
		f->action = (uint8_t)rules_match(&net->cfg.rules, &f->key);
	}
	return f->action;
}
