/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The promises, as they look from outside.
 *
 * check_emission() sees every frame in the order in which it is let out. Two kinds of questions:
 *	- Is it legal towards what this client has been told before, by whichever node? One number per byte of the
 *	  stream, bytes never change, nothing is acknowledged that was not sent, the window's right edge does not move
 *	  left, timestamps do not step back as PAWS of a client that lost nothing would see it (P2, P6).
 *	- Could the secondary explain it, were it to take over now (P1)? Its takeover state is the SVM, or checkpoint n
 *	  from the moment that it said STAGED n. That state must have sent every one of these bytes.
 * When the takeover state changes (STAGED, promotion) it must explain all that was let out before.
 *	- Has it arrived there as well? What is acknowledged must be in the takeover state, blocks of SACK too (P2). The
 *	  input log is not asked: it saves a retransmission, no byte's life depends on it (see sim_inside.c).
 */
#include "sim.h"

struct gcore *check_takeover_state(struct sim *s)
{
	for (int i = 0; i < NODES; i++) {
		struct node *nd = &s->node[i];

		/* Once one serves alone the other one may not take over, which P5 looks at. */
		if (node_up(s, i) && ft_state(nd->ft) == FT_ALONE)
			return NULL;
	}
	for (int i = 0; i < NODES; i++) {
		struct node *nd = &s->node[i];

		if (node_up(s, i) && ft_state(nd->ft) == FT_STANDBY && !(s->fail.done && s->fail.node == i &&
		    s->fail.kind != FAIL_FREEZE))
			return nd->said_staged > nd->loaded_n ? &nd->dev : &nd->g.core;
	}
	return NULL;
}

struct gconn *check_conn(struct sim *s, struct gcore *core, int i, uint16_t gport)
{
	struct client *cl = &s->cl[i];
	struct gconn *c = guest_conn(core, cl->addr, cl->port, gport);

	return c && cl->reopened && c->t.irs != cl->t.iss ? NULL : c;
}

/* Client @i opens its port once more. */
void check_forget(struct sim *s, int i)
{
	struct wire *w = &s->w[i];
	uint32_t isn = w->isn, end = w->end;

	memset(w, 0, sizeof(*w));
	w->old = true;
	w->old_isn = isn;
	w->old_end = end;
	memset(&s->wait[i], 0, sizeof(s->wait[i]));
	for (int k = 0; k < NODES; k++)
		s->node[k].base[i].known = false;
}

/* A late segment of the connection before. */
static bool of_old(const struct wire *w, const struct seg *g)
{
	return w->old && g->seq - w->old_isn <= w->old_end + 3 && (!(g->flags & TF_SYN) || g->seq == w->old_isn) &&
	       (!w->isn_known || g->seq - w->isn > w->end + SIM_SNDBUF);
}

static bool known(const struct wire *w, uint32_t i)
{
	return w->known[i / 8] & 1u << (i & 7);
}

/* Bytes [at, at + len) as connection @t has them, as far as it still has them. */
static void same_bytes(struct sim *s, int i, const struct tcb *t, uint32_t at, uint32_t len, const uint8_t *data,
		       const char *when)
{
	for (uint32_t k = 0; k < len; k++) {
		uint32_t seq = t->iss + 1 + at + k;

		if (SEQ_LT(seq, t->una) || SEQ_GE(seq, t->end))
			continue;
		if (t->snd[seq % SIM_SNDBUF] != data[k])
			sim_fail(s, "P1", "client %d has byte %u as %02x, the state that takes over %s has %02x", i, at + k,
				 data[k], when, t->snd[seq % SIM_SNDBUF]);
	}
}

static bool settled_client(const struct client *c)
{
	return c->done || c->excused || c->refused_port || c->t.state == T_LINGER || c->t.reset ||
	       (c->will_abort && c->t.state == T_CLOSED);
}

static void explained(struct sim *s, int i, const struct seg *g, uint32_t at)
{
	struct gcore *core = check_takeover_state(s);
	struct gconn *c;
	uint32_t need, have;

	if (!core || settled_client(&s->cl[i]))
		return;
	if (!g->len && !(g->flags & (TF_SYN | TF_FIN)))
		return;
	s->st->p1_checked++;
	c = check_conn(s, core, i, g->sport);
	/* A state in which the guest has reset the connection keeps no more of it. */
	if (c && c->t.aborted)
		return;
	if (!c || c->t.state == T_CLOSED)
		sim_fail(s, "P1", "let out, and the state that would take over does not know client %d's connection", i);
	need = g->flags & TF_SYN ? 0 : at + g->len + (g->flags & TF_FIN ? 1 : 0);
	have = c->t.max - (c->t.iss + 1);
	if ((int32_t)(have - need) < 0)
		sim_fail(s, "P1", "let out up to byte %u of client %d, the state that would take over has sent %u", need, i,
			 have);
	if (g->len)
		same_bytes(s, i, &c->t, at, g->len, g->data, "now");
}

/* What a client is told to have arrived must be in the state that would take over; it need not be in a log as well. */
static void acknowledged(struct sim *s, int i, const struct seg *g)
{
	struct gcore *core = check_takeover_state(s);
	struct gconn *c;

	if (!core || settled_client(&s->cl[i]) || !(g->flags & TF_ACK))
		return;
	s->st->p2_checked++;
	c = check_conn(s, core, i, g->sport);
	if (c && c->t.aborted)
		return;
	if (!c || c->t.state < T_SYN_RCVD)
		sim_fail(s, "P2", "acknowledged, and the state that would take over does not know client %d's connection", i);
	if (SEQ_LT(c->t.rcv_nxt, g->ack))
		sim_fail(s, "P2", "byte %u is acknowledged to client %d, the state that would take over has %u",
			 g->ack - s->cl[i].t.iss - 1, i, c->t.rcv_nxt - s->cl[i].t.iss - 1);
	for (unsigned int k = 0; k < g->n_sack; k++) {
		bool has = SEQ_LE(g->sack[k].e, c->t.rcv_nxt);

		for (int j = 0; j < c->t.n_ooo; j++)
			has |= SEQ_LE(c->t.ooo[j].s, g->sack[k].s) && SEQ_LE(g->sack[k].e, c->t.ooo[j].e);
		if (!has)
			sim_fail(s, "P2", "client %d is told that bytes %u-%u have arrived, the state that would take over lacks them",
				 i, g->sack[k].s - s->cl[i].t.iss - 1, g->sack[k].e - s->cl[i].t.iss - 1);
	}
}

void check_takeover(struct sim *s, struct gcore *core, const char *when)
{
	for (int i = 0; i < SIM_CLIENTS; i++) {
		struct wire *w = &s->w[i];
		struct client *cl = &s->cl[i];
		struct gconn *c;
		uint32_t have;

		if (!cl->used || !w->isn_known || settled_client(cl))
			continue;
		s->st->switch_checked++;
		c = check_conn(s, core, i, w->gport);
		if (c && c->t.aborted)
			continue;
		if (!c || c->t.state == T_CLOSED)
			sim_fail(s, "P1", "at %s: the new state does not know the connection of client %d", when, i);
		have = c->t.max - (c->t.iss + 1);
		if ((int32_t)(have - (w->end + (w->fin ? 1 : 0))) < 0)
			sim_fail(s, "P1", "at %s: client %d was given %u bytes%s, the new state has sent %u", when, i, w->end,
				 w->fin ? " and FIN" : "", have);
		if (w->ack_known && SEQ_LT(c->t.rcv_nxt, w->max_ack))
			sim_fail(s, "P2", "at %s: %u bytes were acknowledged to client %d, the new state has %u", when,
				 w->max_ack - cl->t.iss - 1, i, c->t.rcv_nxt - cl->t.iss - 1);
		for (uint32_t k = c->t.una - (c->t.iss + 1); (int32_t)(w->end - k) > 0; k++)
			if ((int32_t)k >= 0 && known(w, k))
				same_bytes(s, i, &c->t, k, 1, w->stream + k, when);
	}
}

static void check_sack(struct sim *s, int i, const struct seg *g)
{
	struct client *c = &s->cl[i];

	for (unsigned int k = 0; k < g->n_sack; k++) {
		struct range r = g->sack[k];

		if (SEQ_GE(r.s, r.e) || SEQ_GT(r.e, c->t.max) || SEQ_LE(r.s, c->t.iss))
			sim_fail(s, "P6", "client %d: SACK block %u-%u, it has sent %u-%u", i, r.s, r.e, c->t.iss + 1, c->t.max);
	}
}

static void check_ack(struct sim *s, int i, const struct seg *g)
{
	struct wire *w = &s->w[i];
	struct client *c = &s->cl[i];
	uint32_t edge, ws = c->t.my_ws != 0xff ? w->ws : 0;
	struct net_stats ns[NODES];

	if (SEQ_GT(g->ack, c->t.max) || SEQ_LT(g->ack, c->t.iss))
		sim_fail(s, "P6", "client %d: %u is acknowledged, it has sent %u-%u", i, g->ack, c->t.iss, c->t.max);
	check_sack(s, i, g);
	if (g->flags & TF_SYN) {
		edge = g->ack + g->win;
	} else {
		edge = g->ack + (g->win << ws);
		/*
		 * A client takes a window only from segments that are not older than the one that it has. Less than a
		 * unit of the window's scale is rounding (RFC 7323, 2.4).
		 */
		net_stats_get(s->node[NODE_P].net, &ns[NODE_P]);
		net_stats_get(s->node[NODE_S].net, &ns[NODE_S]);
		/* Who was forgotten in a storm before it was established has lost its scale, so its windows pass as they are. */
		if (w->edge_known && SEQ_LT(edge + (1u << ws) - 1, w->edge) && SEQ_LE(w->max_ack, g->ack) &&
		    SEQ_LE(w->isn + 1 + w->end, g->seq) &&
		    !ns[NODE_P].flows_embryo_evicted && !ns[NODE_S].flows_embryo_evicted)
			sim_fail(s, "P2", "client %d: the window's right edge moves left by %u", i, w->edge - edge);
	}
	if (!w->edge_known || SEQ_GT(edge, w->edge))
		w->edge = edge;
	w->edge_known = true;
	if (c->t.ts && g->has_ts && (SEQ_LT(g->tsecr, c->t.ts_first) ||
				     SEQ_GT(g->tsecr, (uint32_t)(s->now / NS_PER_MS) + c->t.ts_off)))
		sim_fail(s, "P6", "client %d: timestamp %u is echoed, it has sent %u-%u", i, g->tsecr, c->t.ts_first,
			 (uint32_t)(s->now / NS_PER_MS) + c->t.ts_off);
}

static void check_stream(struct sim *s, int i, const struct seg *g, uint32_t at)
{
	struct wire *w = &s->w[i];

	if (at + g->len > SIM_STREAM)
		sim_fail(s, "P6", "client %d: byte %u of its stream, which is not so long", i, at + g->len);
	for (uint32_t k = at; k < at + g->len; k++) {
		if (!known(w, k)) {
			w->known[k / 8] |= (uint8_t)(1u << (k & 7));
			w->stream[k] = g->data[k - at];
		} else if (w->stream[k] != g->data[k - at]) {
			sim_fail(s, "P1", "client %d: byte %u was %02x and is %02x now", i, k, w->stream[k], g->data[k - at]);
		}
	}
	if (w->fin && g->len && at + g->len > w->fin_at)
		sim_fail(s, "P1", "client %d: data after FIN", i);
	if (g->flags & TF_FIN) {
		if ((w->fin && w->fin_at != at + g->len) || w->end > at + g->len)
			sim_fail(s, "P1", "client %d: FIN at byte %u, which was not the end", i, at + g->len);
		w->fin = true;
		w->fin_at = at + g->len;
	}
	if (g->len && at + g->len > w->end)
		w->end = at + g->len;
	while (w->contig < w->end && known(w, w->contig))
		w->contig++;
}

static void check_urgent(struct sim *s, int i, const struct seg *g, uint32_t at)
{
	struct wire *w = &s->w[i];
	uint32_t to = at + g->urg;
	bool is = g->flags & TF_URG, ok = false;

	for (unsigned int k = 0; k < w->n_urg; k++) {
		ok |= w->urg[k] == to;
		if (at < w->urg[k] && w->urg[k] <= at + g->len && (!is || to < w->urg[k]))
			sim_fail(s, "P6", "client %d: byte %u is urgent, and is let out %s", i, w->urg[k] - 1, is ? "with a pointer that "
				 "stays behind it" : "as any other");
	}
	if (is && !ok)
		sim_fail(s, "P6", "client %d: the urgent pointer says byte %u, which is none of the guest's", i, to - 1);
	s->st->urgent_out += is;
}

/* The guest resets a connection as it was asked to: so must the state that would take over have done. */
static void check_reset(struct sim *s, int i, const struct seg *g)
{
	struct gcore *core = check_takeover_state(s);
	struct wire *w = &s->w[i];
	struct gconn *c;

	if (settled_client(&s->cl[i]))
		return;
	if (!core)
		return;
	if (g->flags & TF_ACK && w->isn_known && SEQ_GT(g->seq, w->isn + 1 + w->end))
		sim_fail(s, "P1", "client %d: a reset at byte %u, it has been given %u", i, g->seq - w->isn - 1, w->end);
	c = check_conn(s, core, i, g->sport);
	/* Half open: by a SYN that came once more. */
	if (c && c->t.state >= T_ESTAB)
		sim_fail(s, "P1", "client %d is sent a reset, in the state that would take over its connection is open", i);
}

static void check_tcp(struct sim *s, int node, const struct pkt *p, uint64_t epoch)
{
	struct client *c = NULL;
	struct wire *w;
	struct seg g;
	const char *bad;
	uint32_t at = 0;
	bool useful;
	int i;

	if (!frame_parse_tcp(p, &g, &bad))
		sim_fail(s, "P6", "node %d lets out a frame with %s", node, bad);
	for (i = 0; i < SIM_CLIENTS; i++)
		if (s->cl[i].used && s->cl[i].addr == g.dst && s->cl[i].port == g.dport) {
			c = &s->cl[i];
			break;
		}
	if (g.dst >= SIM_SPOOFED) {
		storm_emission(s, &g);
		return;
	}
	if (!c || g.src != guest_addr(&g.path))
		sim_fail(s, "P6", "node %d lets out a frame for nobody: %s", node, frame_text(p));
	if (!path_same(&g.path, &c->path))
		sim_fail(s, "P6", "node %d lets out a segment for client %d with other tags, or by another NIC: %s", node, i,
			 frame_text(p));
	w = &s->w[i];
	if (of_old(w, &g))
		return;
	if (g.flags & TF_RST && c->reset_asked) {
		check_reset(s, i, &g);
		return;
	}
	if (g.flags & TF_RST) {
		if (!c->will_abort && !settled_client(c) && (!w->isn_known || w->gport == g.sport))
			sim_fail(s, "P6", "client %d is sent a reset", i);
		return;
	}
	if (settled_client(c) && !c->refused_port)
		return;
	/* After a failover in a storm: the connection was not established in the VM, and its numbers are forgotten. */
	if (g.flags & TF_SYN && w->isn_known && w->isn != g.seq && s->storm_sent && s->server != s->prim) {
		s->st->excused += !c->excused;
		c->excused = c->done = true;
		return;
	}
	/* A SYN that comes once more opens again what the guest has reset. */
	if (g.flags & TF_SYN && w->isn_known && w->isn != g.seq && c->reset_asked)
		return;
	if (g.flags & TF_SYN) {
		if (w->isn_known && (w->isn != g.seq || w->gport != g.sport))
			sim_fail(s, "P6", "client %d: SYN %u from port %u after %u from %u", i, g.seq, g.sport, w->isn, w->gport);
		if (!w->isn_known)
			inside_syn(s, &s->node[node], i, &g, epoch);
		w->isn_known = true;
		w->isn = g.seq;
		w->gport = g.sport;
		w->ws = g.ws < 0 ? 0 : (uint8_t)g.ws;
		w->ts_known = g.has_ts;
		if (!w->ack_known)
			w->ts_recent = g.tsval;
	}
	/*
	 * What answers the data of a SYN may come before the SYN-ACK: when a VM that is alone now says it again, and
	 * when the SYN-ACK was dropped at a limit.
	 */
	if (!w->isn_known && c->tfo && g.sport == c->gport)
		return;
	if (!w->isn_known || w->gport != g.sport)
		sim_fail(s, "P6", "client %d: a segment of a connection that it does not have: %s", i, frame_text(p));
	at = g.seq - (w->isn + 1);
	if (g.flags & TF_SYN)
		at = 0;
	/* In a storm it may be forgotten that a SYN-ACK was let out. */
	if (at == UINT32_MAX && s->storm_sent && !g.len && !(g.flags & TF_FIN))
		return;
	if ((int32_t)at < 0 || at > SIM_STREAM)
		sim_fail(s, "P6", "client %d: sequence number %u, its stream begins at %u and has got to %u", i, g.seq,
			 w->isn + 1, w->end);
	/* A guest that opens a connection offers them; the client may decline. */
	if (!(g.flags & TF_SYN) && (w->ts_known && (!c->passive || c->t.ts)) != g.has_ts)
		sim_fail(s, "P6", "client %d: timestamps %s", i, g.has_ts ? "appear" : "disappear");
	explained(s, i, &g, at);
	acknowledged(s, i, &g);
	useful = at + g.len > w->contig || (g.flags & TF_FIN && !w->fin) ||
		 (g.flags & TF_ACK && w->ack_known && SEQ_GT(g.ack, w->max_ack));
	if (g.has_ts && useful && !(g.flags & TF_SYN) && SEQ_LT(g.tsval, w->ts_recent))
		sim_fail(s, "P6", "client %d: timestamp %u after %u, PAWS would drop a segment that it needs", i, g.tsval,
			 w->ts_recent);
	if (g.has_ts && SEQ_GT(g.tsval, w->ts_recent) && SEQ_LE(g.seq, w->isn + 1 + w->contig))
		w->ts_recent = g.tsval;
	if (g.flags & TF_ACK)
		check_ack(s, i, &g);
	if (!(g.flags & TF_SYN)) {
		check_stream(s, i, &g, at);
		check_urgent(s, i, &g, at);
	}
	if (g.flags & TF_ACK && (!w->ack_known || SEQ_GT(g.ack, w->max_ack))) {
		w->ack_known = true;
		w->max_ack = g.ack;
	}
}

void check_emission(struct sim *s, int node, const struct pkt *p, uint64_t epoch)
{
	struct view v;

	s->st->frames_out++;
	frame_look(p, &v);
	if (v.bad)
		sim_fail(s, "P6", "node %d lets out a frame with %s", node, v.bad);
	if (v.proto == 6)
		check_tcp(s, node, p, epoch);
	else if (!v.arp && v.type != 0x8035)
		dgram_emission(s, &s->node[node], p, &v);
}

/*
 * No storm: what a checkpoint is made for can only happen so often. Each request with a free answer and each datagram
 * may diverge on its own and a few times over by interleaving; held output and logged input come to a limit only by
 * frames, or by a cut that stays where it was because QEMU never had read its input; the delay passes as often as it
 * passes.
 */
static void check_storm(struct sim *s, const struct node *nd, const struct net_stats *ns)
{
	const struct {
		enum ckpt_cause cause;
		uint64_t most;
	} cap[] = {
		{ CAUSE_FIRST, 2 + s->lives }, { CAUSE_MISMATCH, 10 + 3 * (s->divergences + s->storm) }, { CAUSE_TIMEOUT, 6 },
		{ CAUSE_OTHER, 10 + 3 * (s->divergences + s->storm) }, { CAUSE_HELD, 6 + ns->guest_out / 3 + s->storm + s->datagrams },
		{ CAUSE_INLOG, 6 + ns->tap_in / 6 + ns->gate_expired / 4 }, { CAUSE_DELAY, 3 + s->now / s->ck_delay }, { CAUSE_COMMAND, 2 },
		{ CAUSE_FLOWS, s->storm }, { CAUSE_PRIVATE, s->private_told }, { CAUSE_STAGED, 0 }, { CAUSE_RESET, 0 },
	};

	for (unsigned int i = 0; i < sizeof(cap) / sizeof(cap[0]); i++)
		if (ft_checkpoints(nd->ft, cap[i].cause) > cap[i].most)
			sim_fail(s, "liveness", "a storm: node %s has made %lu checkpoints of cause %s, at most %lu had a reason",
				 who(nd), (unsigned long)ft_checkpoints(nd->ft, cap[i].cause), ckpt_cause_name(cap[i].cause),
				 (unsigned long)cap[i].most);
}

/* A schedule that has come to its end. */
void check_end(struct sim *s)
{
	uint64_t bad = 0;
	struct net_stats ns;

	for (int i = 0; i < NODES; i++) {
		struct node *nd = &s->node[i];

		bad += ft_checkpoints(nd->ft, CAUSE_MISMATCH) + ft_checkpoints(nd->ft, CAUSE_TIMEOUT) +
		       ft_checkpoints(nd->ft, CAUSE_OTHER) + ft_checkpoints(nd->ft, CAUSE_HELD);
		s->st->checkpoints += ft_checkpoints(nd->ft, CAUSE_MAX);
		s->st->ck_mismatch += ft_checkpoints(nd->ft, CAUSE_MISMATCH);
		s->st->ck_timeout += ft_checkpoints(nd->ft, CAUSE_TIMEOUT);
		s->st->ck_other += ft_checkpoints(nd->ft, CAUSE_OTHER);
		s->st->ck_held += ft_checkpoints(nd->ft, CAUSE_HELD);
		s->st->ck_inlog += ft_checkpoints(nd->ft, CAUSE_INLOG);
		s->st->ck_private += ft_checkpoints(nd->ft, CAUSE_PRIVATE);
		s->st->ck_delay += ft_checkpoints(nd->ft, CAUSE_DELAY);
		net_stats_get(nd->net, &ns);
		s->st->replayed += ns.replayed;
		s->st->splits += ns.splits;
		s->st->mismatches += ns.mismatches;
		s->st->acks_lowered += ns.acks_lowered;
		s->st->acks_made += ns.acks_made;
		s->st->acks_swallowed += ns.acks_swallowed;
		s->st->gate_expired += ns.gate_expired;
		s->st->rel_compared += ns.released_compared;
		s->st->rel_staged += ns.released_staged;
		s->st->passed += ns.passed;
		s->st->flows_evicted += ns.flows_evicted;
		s->st->flows_full += ns.flows_full;
		s->st->storm_checkpoints += s->storm ? ft_checkpoints(nd->ft, CAUSE_MAX) : 0;
	}
	if (s->failed)
		return;
	dgram_end(s);
	for (int i = 0; i < NODES; i++) {
		net_stats_get(s->node[i].net, &ns);
		check_storm(s, &s->node[i], &ns);
	}
	/*
	 * A cut that was made before QEMU had read its input gives the SVM requests once more that the PVM has answered,
	 * and an answer to an old datagram may look like another one.
	 */
	if (s->datagrams)
		for (int i = 0; i < NODES; i++) {
			net_stats_get(s->node[i].net, &ns);
			if (ns.gate_expired)
				bad -= ft_checkpoints(s->node[NODE_P].ft, CAUSE_MISMATCH) * (i == NODE_P);
		}
	/* A connection that the guest opens waits for its twin for a tenth of a second only, and then costs a checkpoint. */
	for (int i = 0; i < SIM_CLIENTS && bad; i++)
		if (s->cl[i].used && s->cl[i].passive && s->cl[i].expected) {
			bad -= ft_checkpoints(s->node[NODE_P].ft, CAUSE_TIMEOUT);
			break;
		}
	if (s->deterministic && !s->fail.done && !s->rejoined) {
		s->st->det_checked++;
		if (bad)
			sim_fail(s, "liveness", "nothing in this schedule diverges, and yet %lu checkpoints (mismatch %lu, timeout %lu, "
				 "other %lu, held %lu)", (unsigned long)bad,
				 (unsigned long)ft_checkpoints(s->node[0].ft, CAUSE_MISMATCH),
				 (unsigned long)ft_checkpoints(s->node[0].ft, CAUSE_TIMEOUT),
				 (unsigned long)ft_checkpoints(s->node[0].ft, CAUSE_OTHER),
				 (unsigned long)ft_checkpoints(s->node[0].ft, CAUSE_HELD));
	}
}
