/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The promises, as they look from inside: theory of operation
 *
 * sim_check.c sees only what is let out. Four promises can be broken for a long time before a client notices, since
 * a retransmission or the next checkpoint mends what was lost; they are looked at here, where they are made.
 *	- Input (P2). A shadow of the secondary's log: every frame that was given to its net. When the SVM has been
 *	  replaced, and at promotion, each byte after the cut that the VM's own TCP lacks must stand in QEMU's socket:
 *	  it was replayed. A log that was cut too early shows here.
 *	- STAGED n (P1, P2): at this moment all that the PVM had said before barrier n is let out, its acknowledgements
 *	  among it. Positions that are not reset show here.
 *	- What both copies have said in one epoch does not wait. Bytes or acknowledgements of both that stay inside for
 *	  HELD_MS while the pair does nothing else are stuck. Two cuts of one stream that wait for each other show here.
 *	- A connection's first segment leaves by comparison only when the secondary has confirmed its numbers (P6).
 */
#include "sim.h"

enum { HELD_MS = 500 };

static bool watched(const struct sim *s, int i)
{
	const struct client *c = &s->cl[i];

	return c->used && !c->done && !c->refused_port && !c->will_abort && !c->t.reset && !c->reset_asked &&
	       c->t.state != T_LINGER;
}

/* ---- input ---- */

void inside_input(struct sim *s, struct node *nd, uint64_t seq, const struct pkt *p)
{
	struct seg g;
	const char *bad;
	struct inrec *r;

	if (!frame_is_tcp(p) || !frame_parse_tcp(p, &g, &bad) || g.flags & TF_RST)
		return;
	for (int i = 0; i < SIM_CLIENTS; i++) {
		if (!s->cl[i].used || s->cl[i].addr != g.src || s->cl[i].port != g.sport || s->cl[i].gport != g.dport)
			continue;
		/* Of the connection before on the same ports. */
		if (!s->cl[i].passive && SEQ_LT(g.seq, s->cl[i].t.iss))
			continue;
		r = &nd->in[nd->n_in++ % SIM_INRECS];
		r->seq = seq;
		r->client = (uint8_t)i;
		r->s = g.seq;
		/* A guest need not take the data of a SYN. */
		r->e = g.flags & TF_SYN ? g.seq + 1 : g.seq + g.len + (g.flags & TF_FIN ? 1u : 0);
	}
}

/* The end of what the VM has or is about to read of connection @i, from @pos on. */
static uint32_t has_from(struct sim *s, const struct node *nd, int i, const struct tcb *t, uint32_t pos)
{
	uint32_t from;

	do {
		from = pos;
		for (int k = 0; t && k < t->n_ooo; k++)
			if (SEQ_LE(t->ooo[k].s, pos) && SEQ_LT(pos, t->ooo[k].e))
				pos = t->ooo[k].e;
		for (const struct pkt *p = nd->sock.head; p; p = p->next) {
			struct seg g;
			const char *bad;
			uint32_t e;

			if (!frame_is_tcp(p) || !frame_parse_tcp(p, &g, &bad) || g.src != s->cl[i].addr ||
			    g.sport != s->cl[i].port || g.dport != s->cl[i].gport)
				continue;
			e = g.seq + g.len + (g.flags & TF_SYN ? 1u : 0) + (g.flags & TF_FIN ? 1u : 0);
			if (SEQ_LE(g.seq, pos) && SEQ_LT(pos, e))
				pos = e;
		}
	} while (pos != from);
	return pos;
}

static void check_given(struct sim *s, struct node *nd, const char *when)
{
	uint32_t first = nd->n_in > SIM_INRECS ? nd->n_in - SIM_INRECS : 0;

	for (uint32_t k = first; k < nd->n_in; k++) {
		const struct inrec *r = &nd->in[k % SIM_INRECS];
		struct client *cl = &s->cl[r->client];
		struct gconn *c;
		uint32_t from = r->s;

		if (r->seq <= nd->in_cut || !watched(s, r->client))
			continue;
		/* Of the connection before on the same ports, whose numbers may have been anywhere. */
		if (!cl->passive && (SEQ_LT(r->s, cl->t.iss) || SEQ_GT(r->e, cl->t.max)))
			continue;
		/* A SYN that finds no room comes again. */
		if (s->storm_sent && r->s == cl->t.iss)
			continue;
		c = guest_conn(&nd->g.core, cl->addr, cl->port, cl->gport);
		if (c && (c->t.state == T_CLOSED || c->t.state == T_LINGER))
			continue;
		if (c && c->t.state != T_SYN_SENT && SEQ_LT(from, c->t.rcv_nxt))
			from = c->t.rcv_nxt;
		s->st->replay_checked++;
		if (SEQ_GE(from, r->e))
			continue;
		from = has_from(s, nd, r->client, c ? &c->t : NULL, from);
		if (SEQ_LT(from, r->e))
			sim_fail(s, "P2", "%s: input %lu (cut %lu) was logged, and its byte %d of client %d is neither in the VM's "
				 "TCP nor given to it again", when, (unsigned long)r->seq, (unsigned long)nd->in_cut,
				 (int32_t)(from - cl->t.iss - 1), r->client);
	}
}

/* What a promoted VM had said before is the guest's to repeat, nobody holds it. */
static void note_base(struct sim *s, struct node *nd)
{
	for (int i = 0; i < SIM_CLIENTS; i++) {
		struct client *cl = &s->cl[i];
		struct gconn *c = check_conn(s, &nd->g.core, i, cl->passive ? s->w[i].gport : cl->gport);

		nd->base[i].known = s->rejoined && c && c->t.state > T_SYN_SENT;
		if (!nd->base[i].known)
			continue;
		nd->base[i].max = c->t.max;
		nd->base[i].ack = c->t.last_ack_sent;
	}
}

/* ft has said @type to net, which has carried it out. */
void inside_told(struct sim *s, struct node *nd, enum net_ev_type type, uint64_t n)
{
	enum net_role role = net_role(nd->net);

	switch (type) {
	case NEV_ROLE:
		nd->role_given = true;
		nd->n_in = 0;
		nd->in_cut = 0;
		nd->in_open = role != NET_SECONDARY;
		nd->in_reloaded = nd->in_promoted = false;
		if (role == NET_PRIMARY)
			note_base(s, nd);
		return;
	case NEV_CLOSE:
		nd->in_open = false;
		return;
	case NEV_LOADED:
		if (role == NET_SECONDARY) {
			nd->in_cut = nd->in_barrier;
			nd->in_reloaded = true;
		}
		return;
	case NEV_PROMOTE:
		nd->in_promoted = true;
		break;
	case NEV_OPEN:
		nd->in_open = true;
		break;
	case NEV_STAGED:
		if (role == NET_PRIMARY)
			inside_staged(s, nd, n);
		return;
	default:
		return;
	}
	if (!nd->in_open || !(nd->in_reloaded || nd->in_promoted) || !nd->q_alive)
		return;
	check_given(s, nd, nd->in_promoted ? "at promotion" : "after a load");
	nd->in_reloaded = nd->in_promoted = false;
}

/* ---- STAGED ---- */

void inside_staged(struct sim *s, struct node *nd, uint64_t n)
{
	struct net_stats ns;

	net_stats_get(nd->net, &ns);
	/* At its limits net drops whole frames, and the guest sends them again. */
	if (nd->saved_n != n || node_now(s, nd->id) > nd->lease || nd->hold || ns.drop_held || ns.drop_pool)
		return;
	for (int i = 0; i < SIM_CLIENTS; i++) {
		struct wire *w = &s->w[i];
		struct client *cl = &s->cl[i];
		struct gconn *c;
		uint32_t have;
		bool told;

		if (!watched(s, i))
			continue;
		c = check_conn(s, &nd->saved, i, cl->passive ? w->gport : cl->gport);
		if (!c || c->t.state == T_CLOSED || c->t.state == T_SYN_SENT)
			continue;
		s->st->staged_checked++;
		told = nd->base[i].known && c->t.last_ack_sent == nd->base[i].ack;
		if (nd->base[i].known && c->t.max == nd->base[i].max && told)
			continue;
		/* In a storm the flow of a connection that is not established may be given up; the SYN-ACK comes again. */
		if (!w->isn_known && s->storm_sent)
			continue;
		if (!w->isn_known)
			sim_fail(s, "P1", "%lu is STAGED, and its SYN-ACK for client %d is not let out", (unsigned long)n, i);
		have = c->t.max - (c->t.iss + 1);
		/* In a storm data may leave before its SYN-ACK does again, and then counts as nothing here. */
		if (nd->silent || (s->storm_sent && !w->end))
			continue;
		if ((int32_t)(have - (w->end + (w->fin ? 1 : 0))) > 0 &&
		    !(nd->base[i].known && c->t.max == nd->base[i].max))
			sim_fail(s, "P1", "%lu is STAGED, of its %u bytes for client %d only %u are let out", (unsigned long)n, have,
				 i, w->end);
		/* The guest's own SYN has no acknowledgement; its first one may be in no frame yet. */
		if (!told && (w->ack_known || !cl->passive) && SEQ_LT(w->max_ack, c->t.last_ack_sent))
			sim_fail(s, "P2", "%lu is STAGED, and client %d is told of %u of the %u bytes that it acknowledges: the "
				 "positions were not set", (unsigned long)n, i, w->max_ack - cl->t.iss - 1,
				 c->t.last_ack_sent - cl->t.iss - 1);
	}
}

/* ---- what both have said ---- */

static bool calm(struct sim *s, const struct node *p, const struct node *q)
{
	struct net_stats ns;

	/* What was dropped at a limit is the guest's to say again, in its own time. */
	net_stats_get(p->net, &ns);
	return !ns.drop_held && !cut_now(s, p->id, CUT_DATA) && !cut_now(s, q->id, CUT_DATA) && node_up(s, p->id) && node_up(s, q->id) && ft_state(p->ft) == FT_PROTECTED &&
	       ft_state(q->ft) == FT_STANDBY && !strcmp(ft_phase(p->ft), "idle") && !strcmp(ft_phase(q->ft), "idle") &&
	       net_epoch(p->net) == net_epoch(q->net) && p->q_running && q->q_running && p->frozen_until <= s->now &&
	       q->frozen_until <= s->now && p->q_stuck_until <= s->now && q->q_stuck_until <= s->now &&
	       node_now(s, p->id) < p->lease;
}

void inside_tick(struct sim *s, struct node *p)
{
	struct node *q = &s->node[1 - p->id];
	bool ok = calm(s, p, q);

	for (int i = 0; i < SIM_CLIENTS; i++) {
		struct wait *h = &s->wait[i];
		struct wire *w = &s->w[i];
		struct client *cl = &s->cl[i];
		struct gconn *a, *b;
		bool out = false, ack = false;
		uint32_t both;

		if (ok && watched(s, i) && w->isn_known) {
			a = check_conn(s, &p->g.core, i, w->gport);
			b = check_conn(s, &q->g.core, i, w->gport);
			if (a && b && a->t.state == T_ESTAB && b->t.state == T_ESTAB) {
				uint32_t pa = a->t.iss + 1 + w->end, pb = b->t.iss + 1 + w->end;

				out = SEQ_LT(pa, a->t.max) && SEQ_LT(pb, b->t.max) && SEQ_LT(pa, a->t.end) &&
				      SEQ_LT(pb, b->t.end) && a->t.snd[pa % SIM_SNDBUF] == b->t.snd[pb % SIM_SNDBUF];
				both = SEQ_LT(a->t.last_ack_sent, b->t.last_ack_sent) ? a->t.last_ack_sent :
				       b->t.last_ack_sent;
				ack = SEQ_LT(w->max_ack, both);
			}
		}
		if (!out || h->epoch != net_epoch(p->net) || h->end != w->end)
			h->out_since = s->now;
		if (!ack || h->epoch != net_epoch(p->net) || h->ack != w->max_ack)
			h->ack_since = s->now;
		h->epoch = net_epoch(p->net);
		h->end = w->end;
		h->ack = w->max_ack;
		if (s->now - h->out_since > HELD_MS * NS_PER_MS)
			sim_fail(s, "liveness", "client %d: byte %u was sent by both copies in epoch %lu and has been held for %d ms",
				 i, w->end, (unsigned long)h->epoch, HELD_MS);
		if (s->now - h->ack_since > HELD_MS * NS_PER_MS)
			sim_fail(s, "liveness", "client %d: both copies acknowledge more than byte %u in epoch %lu, and it has not "
				 "been told for %d ms", i, w->max_ack - cl->t.iss - 1, (unsigned long)h->epoch, HELD_MS);
	}
}

/* ---- FLOW ---- */

static struct flow_seen *seen_of(struct sim *s, struct node *nd, const struct flow_key *k)
{
	for (int i = 0; i < SIM_CLIENTS; i++)
		if (s->cl[i].used && k->other_port == s->cl[i].port)
			return &nd->flow[i];
	return NULL;
}

void inside_msg(struct sim *s, struct node *nd, const struct net_msg *m)
{
	struct flow_seen *f;

	if (m->type == NM_BARRIER) {
		nd->in_barrier = m->seq;
		return;
	}
	if (m->type != NM_FLOW && m->type != NM_FLOW_OK)
		return;
	f = seen_of(s, nd, &m->key);
	if (f)
		*f = (struct flow_seen){ .known = true, .isn = m->isn };
}

/* @nd lets out a SYN for client @i in its epoch @epoch. */
void inside_syn(struct sim *s, struct node *nd, int i, const struct seg *g, uint64_t epoch)
{
	struct node *q = &s->node[1 - nd->id];
	struct gcore *core = check_takeover_state(s);
	struct gconn *c = core ? check_conn(s, core, i, g->sport) : NULL;

	/* A state that has opened it with these very numbers needs not be told. */
	if (c && c->t.state != T_CLOSED && c->t.iss == g->seq)
		return;
	/* Sent again, it is in the checkpoint that has made the secondary one. */
	if (!core || q->said_staged >= epoch || nd->base[i].known)
		return;
	s->st->syn_checked++;
	if (!q->flow[i].known || q->flow[i].isn != g->seq)
		sim_fail(s, "P6", "the SYN for client %d is let out, and the secondary does not know its numbers", i);
	if (!nd->flow[i].known || nd->flow[i].isn != g->seq)
		sim_fail(s, "P6", "the SYN for client %d is let out, and the secondary has not confirmed its numbers", i);
}
