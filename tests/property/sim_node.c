/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shell of a node: what node.c, the engine, the proxy and the monitor are in the real program, with random
 * delays, failures and deaths instead of work.
 *
 * Between the control loop (ft) and the frames' loop (net) there are two FIFOs with delays of their own, as between
 * the threads of the real thing. A step has a moment at which it takes effect and a later one at which it is
 * reported. QEMU's netdev socket is modelled in both directions: what net gives to the guest waits until QEMU reads
 * it (and may be lost at a stop, and is lost at a load), what the guest sends waits until the shell reads it.
 *
 * Deaths: a killed node takes its QEMU with it; its peer's kernel keeps what it had received, reads it, and sees the
 * three connections closed. A node without power just falls silent. A frozen shell handles nothing and catches up
 * later, in an order of its own, while its QEMU goes on.
 */
#include <errno.h>

#include "sim.h"

enum { BEAT_MS = 100, SILENT_MS = 500, ACTS = 32, BATCH = 4, MAX_SPINS = 200 };

#define ALL_PAGES ((1u << SIM_PAGES) - 1)

const char *who(const struct node *nd)
{
	return nd->id == NODE_P ? "P" : "S";
}

nstime node_vmclock(struct sim *s, int id)
{
	struct node *nd = &s->node[id];

	return nd->g.core.vmclock + (nd->q_running ? s->now - nd->q_resumed : 0);
}

void node_kick_guest(struct sim *s, int id, nstime at)
{
	struct node *nd = &s->node[id];

	if (nd->run_at > s->now && nd->run_at <= at)
		return;
	nd->run_at = at;
	sim_at(s, at, EV_GUEST, id, 0, 0, NULL);
}

static void arm_guest(struct sim *s, struct node *nd)
{
	nstime at = guest_deadline(s, nd->id), vm = node_vmclock(s, nd->id);

	if (nd->q_running && at != NS_NEVER)
		node_kick_guest(s, nd->id, s->now + (at > vm ? at - vm : 0) + us(s, 1, 300));
}

/* ---- failures ---- */

bool fail_hit(struct sim *s, struct node *nd, enum fail_when when, uint32_t what, bool before)
{
	struct failure *f = &s->fail;

	if (f->kind == FAIL_NONE || f->done || f->node != nd->id || f->when != when || f->before != before)
		return false;
	if (when != WHEN_NET_ACT && when != WHEN_FT_ACT && f->what != what)
		return false;
	return --f->count == 0;
}

void node_die(struct sim *s, int id, bool eof)
{
	struct node *nd = &s->node[id];

	nd->alive = false;
	nd->q_alive = nd->q_running = false;
	pktq_clear(s, &nd->sock);
	pktq_clear(s, &nd->limbo);
	pktq_clear(s, &nd->outq);
	chan_cut(s, id, eof);
}

static void qemu_dies(struct sim *s, struct node *nd)
{
	if (!nd->q_alive)
		return;
	if (nd->q_running)
		nd->g.core.vmclock = node_vmclock(s, nd->id);
	nd->q_alive = nd->q_running = false;
	nd->g.valid = false;
	pktq_clear(s, &nd->sock);
	pktq_clear(s, &nd->limbo);
	sim_at(s, s->now + us(s, 10, 3000), EV_QDIED, nd->id, 0, 0, NULL);
}

void node_fail_now(struct sim *s)
{
	struct failure *f = &s->fail;
	struct node *nd = &s->node[f->node];
	struct ft_ev fe = { .type = FE_FAILOVER };
	static const char *const name[] = { "", "is killed", "loses power", "loses its QEMU", "has a QEMU that hangs",
					    "has a QEMU that pauses", "is frozen", "", "is told to fail over" };

	if (f->done || !node_up(s, f->node))
		return;
	f->done = true;
	f->done_at = s->now;
	(&s->st->fail_kill)[f->kind - FAIL_KILL]++;
	TR(s, "==== node %s %s (P %s/%s, S %s/%s)", who(nd), name[f->kind], ft_state_name(ft_state(s->node[0].ft)),
	   ft_phase(s->node[0].ft), ft_state_name(ft_state(s->node[1].ft)), ft_phase(s->node[1].ft));
	s->fail_state[0] = ft_state(s->node[0].ft);
	s->fail_state[1] = ft_state(s->node[1].ft);
	for (int i = 0; i < NODES; i++)
		strncpy(s->fail_phase[i], ft_phase(s->node[i].ft), sizeof(s->fail_phase[i]) - 1);
	switch (f->kind) {
	case FAIL_KILL:
	case FAIL_POWER:
		node_die(s, f->node, f->kind == FAIL_KILL);
		break;
	case FAIL_QEMU_DIES:
		qemu_dies(s, nd);
		break;
	case FAIL_QEMU_HANGS:
		nd->q_stuck_until = NS_NEVER;
		if (f->span & 1)
			sim_at(s, s->now + f->span, EV_QDIED, nd->id, 1, 0, NULL);
		break;
	case FAIL_QEMU_PAUSES:
		nd->q_stuck_until = s->now + f->span;
		node_kick_guest(s, nd->id, nd->q_stuck_until);
		break;
	case FAIL_FREEZE:
		nd->frozen_until = s->now + f->span;
		break;
	case FAIL_COMMAND:
		node_ft(s, nd, &fe);
		break;
	default:
		break;
	}
}

/* ---- queues between the loops ---- */

static struct loopmsg *loop_send(struct sim *s, struct node *nd, struct loopq *q, enum ev_type type)
{
	nstime at = s->now + us(s, 0, chance(s, 1000) ? 3000 : 60);

	if (q->tail - q->head == SIM_LOOPQ)
		sim_fail(s, "liveness", "node %s: a queue between its loops is full", who(nd));
	if (at < q->last)
		at = q->last;
	q->last = at;
	sim_at(s, at, type, nd->id, 0, 0, NULL);
	return &q->q[q->tail++ % SIM_LOOPQ];
}

static void to_ft(struct sim *s, struct node *nd, const struct net_act *a)
{
	struct ft_ev fe = { .type = FE_NET, .value = a->type, .n = a->n };

	if (a->type == NA_WANT)
		fe.cause = (enum ckpt_cause)a->arg;
	loop_send(s, nd, &nd->to_ft, EV_TO_FT)->fe = fe;
}

/* ---- the frames' machine ---- */

static void tap_emit(struct sim *s, struct node *nd, const struct net_act *a)
{
	struct pkt *p;
	enum ft_state st = ft_state(nd->ft);
	uint32_t len = net_frame_len(nd->net, a->frame);

	if (node_now(s, nd->id) > nd->lease) {
		s->st->silent_drops++;
		TR(s, "%s       (silent: the lease has run out)", who(nd));
		return;
	}
	p = pkt_copy(s, net_frame_data(nd->net, a->frame), (uint16_t)len);
	TR(s, "%s  tap< %s  [epoch %lu]", who(nd), frame_text(p), (unsigned long)a->n);
	if (st == FT_STANDBY || st == FT_JOINING || st == FT_INIT)
		sim_fail(s, "P5", "the secondary lets a frame out while it stands by");
	if (s->server != nd->id) {
		if (s->server >= 0 && nd->id == NODE_P)
			sim_fail(s, "P5", "the primary lets a frame out after the secondary has done so");
		TR(s, "==== node %s speaks", who(nd));
		s->server = nd->id;
		if (nd->id == NODE_S && !nd->checked) {
			nd->checked = true;
			check_takeover(s, &nd->g.core, "promotion");
		}
	}
	check_emission(s, nd->id, p);
	s->mac_at = nd->id;
	ext_to_clients(s, p->data, p->len);
	pkt_free(s, p);
}

static void arm_sock(struct sim *s, struct node *nd)
{
	if (nd->sock_armed || !nd->sock.n)
		return;
	nd->sock_armed = true;
	sim_at(s, s->now + us(s, 1, s->guest_delay[nd->id]), EV_SOCK, nd->id, 0, 0, NULL);
}

static void send_net_msg(struct sim *s, struct node *nd, const struct net_act *a)
{
	struct cmsg *m;
	static const char *const name[] = { "INPUT", "OUTPUT", "LOGGED", "FLOW", "FLOW_OK", "TABLE", "BARRIER", "RELEASED" };

	if (!nd->linked)
		return;
	TR(s, "%s  msg> %s epoch %lu seq %lu room %u", who(nd), name[a->msg.type], (unsigned long)a->msg.epoch,
	   (unsigned long)a->msg.seq, a->msg.room);
	m = chan_send(s, nd->id, CH_FRAMES);
	if (!m)
		return;
	m->msg = a->msg;
	if (a->frame != NET_NONE) {
		m->p = pkt_copy(s, net_frame_data(nd->net, a->frame), (uint16_t)net_frame_len(nd->net, a->frame));
		TR(s, "          %s", frame_text(m->p));
	}
}

static void net_act(struct sim *s, struct node *nd, const struct net_act *a)
{
	struct pkt *p;

	nd->n_net_acts++;
	if (fail_hit(s, nd, WHEN_NET_ACT, 0, true) ||
	    (a->type == NA_MSG && fail_hit(s, nd, WHEN_MSG, a->msg.type, true))) {
		node_fail_now(s);
		if (!node_up(s, nd->id))
			return;
	}
	switch (a->type) {
	case NA_TAP:
		tap_emit(s, nd, a);
		break;
	case NA_GUEST:
		p = pkt_copy(s, net_frame_data(nd->net, a->frame), (uint16_t)net_frame_len(nd->net, a->frame));
		TR(s, "%s  vm<  %s", who(nd), frame_text(p));
		if (!nd->q_alive) {
			pkt_free(s, p);
			break;
		}
		pktq_push(&nd->sock, p);
		arm_sock(s, nd);
		break;
	case NA_MSG:
		send_net_msg(s, nd, a);
		break;
	case NA_WATCH:
		nd->want_quiet = a->arg;
		if (nd->want_quiet && !nd->sock.n)
			sim_at(s, s->now + us(s, 0, 20), EV_SOCK, nd->id, 1, 0, NULL);
		break;
	case NA_CUT:
	case NA_DRAINED:
	case NA_BARRIER:
	case NA_WANT:
		TR(s, "%s  net: %s n %lu arg %u", who(nd), a->type == NA_CUT ? "CUT" : a->type == NA_DRAINED ? "DRAINED" :
		   a->type == NA_BARRIER ? "BARRIER" : "WANT", (unsigned long)a->n, a->arg);
		to_ft(s, nd, a);
		break;
	}
	if (fail_hit(s, nd, WHEN_NET_ACT, 0, false) ||
	    (a->type == NA_MSG && fail_hit(s, nd, WHEN_MSG, a->msg.type, false)))
		node_fail_now(s);
}

static void arm_net(struct sim *s, struct node *nd)
{
	nstime at = net_deadline(nd->net);

	if (at == NS_NEVER)
		return;
	at = at > node_now(s, nd->id) ? at - nd->clock_off : s->now;
	if (nd->net_at > s->now && nd->net_at <= at)
		return;
	nd->net_at = at;
	sim_at(s, at, EV_NET_TIMER, nd->id, 0, 0, NULL);
}

static void net_run(struct sim *s, struct node *nd, const struct net_ev *ev, size_t n)
{
	struct net_act acts[ACTS];
	size_t cap = chance(s, 500) ? 2 : ACTS, k;

	k = net_step(nd->net, node_now(s, nd->id), ev, n, acts, cap);
	for (;;) {
		for (size_t i = 0; i < k; i++) {
			net_act(s, nd, &acts[i]);
			if (!node_up(s, nd->id))
				return;
		}
		if (k < cap)
			break;
		k = net_step(nd->net, node_now(s, nd->id), NULL, 0, acts, cap);
	}
	arm_net(s, nd);
}

static uint32_t net_frame(struct node *nd, const struct pkt *p, bool input)
{
	uint32_t f = net_frame_alloc(nd->net, input);

	if (f == NET_NONE)
		return f;
	memcpy(net_frame_data(nd->net, f), p->data, p->len);
	net_frame_set_len(nd->net, f, p->len);
	return f;
}

/* The shell reads what the guest has sent. */
static bool read_outq(struct sim *s, struct node *nd, uint32_t max)
{
	struct net_ev ev[BATCH];
	uint32_t n = 0;
	struct pkt *p;

	if (max > BATCH)
		max = BATCH;
	memset(ev, 0, sizeof(ev[0]) * max);
	while (n < max && (p = pktq_pop(&nd->outq))) {
		ev[n].type = NEV_GUEST;
		ev[n].frame = net_frame(nd, p, false);
		if (ev[n].frame == NET_NONE)
			net_frame_missed(nd->net);
		else
			n++;
		pkt_free(s, p);
	}
	if (n)
		net_run(s, nd, ev, n);
	return nd->outq.n > 0;
}

static void arm_out(struct sim *s, struct node *nd)
{
	if (nd->out_armed || !nd->outq.n)
		return;
	nd->out_armed = true;
	sim_at(s, s->now + us(s, 1, 40), EV_OUT, nd->id, 0, 0, NULL);
}

void node_guest_out(struct sim *s, int id, struct pkt *p)
{
	struct node *nd = &s->node[id];

	TR(s, "%s  vm>  %s", who(nd), frame_text(p));
	pktq_push(&nd->outq, p);
	arm_out(s, nd);
}

/* ---- the control machine ---- */

static void arm_ft(struct sim *s, struct node *nd)
{
	nstime at = ft_deadline(nd->ft);

	if (at == NS_NEVER)
		return;
	at = at > node_now(s, nd->id) ? at - nd->clock_off : s->now;
	if (nd->ft_at > s->now && nd->ft_at <= at)
		return;
	nd->ft_at = at;
	sim_at(s, at, EV_FT_TIMER, nd->id, 0, 0, NULL);
}

static void drop_link(struct sim *s, struct node *nd)
{
	if (nd->linked)
		chan_close(s, nd->id);
	nd->linked = false;
	nd->muted = true;
}

static void ft_send(struct sim *s, struct node *nd, const struct ft_act *a)
{
	struct cmsg *m;

	if (a->ctl.type == CTL_STAGED) {
		if (nd->mark_n != a->ctl.n || nd->barrier_n != a->ctl.n)
			sim_fail(s, "P3", "STAGED %lu is said: the barrier of the pages is %lu, of the frames %lu",
				 (unsigned long)a->ctl.n, (unsigned long)nd->mark_n, (unsigned long)nd->barrier_n);
		nd->said_staged = a->ctl.n;
		check_takeover(s, &nd->dev, "STAGED");
	}
	if (fail_hit(s, nd, WHEN_CTL, a->ctl.type, true)) {
		node_fail_now(s);
		if (!node_up(s, nd->id))
			return;
	}
	m = nd->linked ? chan_send(s, nd->id, CH_CTL) : NULL;
	if (m)
		m->ctl = a->ctl;
	if (fail_hit(s, nd, WHEN_CTL, a->ctl.type, false))
		node_fail_now(s);
}

static void ft_act(struct sim *s, struct node *nd, const struct ft_act *a)
{
	struct loopmsg *l;

	nd->n_ft_acts++;
	if (fail_hit(s, nd, WHEN_FT_ACT, 0, true)) {
		node_fail_now(s);
		if (!node_up(s, nd->id))
			return;
	}
	TR(s, "%s  ft: %s %s n %lu value %lu [%s/%s]", who(nd), ft_act_name(a->type), a->type == FA_CTL ?
	   ctl_type_name(a->ctl.type) : a->type == FA_DO ? ft_step_name(a->step) : a->type == FA_ANNOUNCE ||
	   a->type == FA_END ? ft_reason_name(a->reason) : "", (unsigned long)(a->type == FA_CTL ? a->ctl.n : a->n),
	   (unsigned long)(a->type == FA_NET ? (unsigned long)a->net * 100 + a->value : a->value),
	   ft_state_name(ft_state(nd->ft)), ft_phase(nd->ft));
	switch (a->type) {
	case FA_CTL:
		ft_send(s, nd, a);
		break;
	case FA_NET:
		l = loop_send(s, nd, &nd->to_net, EV_TO_NET);
		memset(&l->ne, 0, sizeof(l->ne));
		l->ne.type = a->net;
		l->ne.n = a->n;
		l->ne.arg = (uint32_t)a->value;
		l->ne.frame = NET_NONE;
		break;
	case FA_DO:
		step_begin(s, nd, a->step, a->n);
		break;
	case FA_DROP_LINK:
		drop_link(s, nd);
		break;
	case FA_MUTE:
		nd->muted = true;
		break;
	case FA_LEASE:
		nd->lease = a->value;
		break;
	case FA_KILL_QEMU:
		qemu_dies(s, nd);
		break;
	case FA_END:
		nd->ended = true;
		nd->end_status = (int)a->value;
		nd->q_alive = nd->q_running = false;
		pktq_clear(s, &nd->sock);
		pktq_clear(s, &nd->limbo);
		pktq_clear(s, &nd->outq);
		drop_link(s, nd);
		break;
	case FA_ANNOUNCE:
	case FA_CKPT_DONE:
	default:
		break;
	}
	if (node_up(s, nd->id) && fail_hit(s, nd, WHEN_FT_ACT, 0, false))
		node_fail_now(s);
}

void node_ft(struct sim *s, struct node *nd, const struct ft_ev *fe)
{
	struct ft_acts acts;

	if (s->trace && fe->type != FE_BEAT)
		sim_trace(s, "%s  ft< %s %s n %lu value %lu rc %d", who(nd), ft_ev_name(fe->type), fe->type == FE_CTL ?
			  ctl_type_name(fe->ctl.type) : fe->type == FE_DONE ? ft_step_name(fe->step) : "",
			  (unsigned long)(fe->type == FE_CTL ? fe->ctl.n : fe->n), (unsigned long)fe->value, fe->rc);
	ft_step(nd->ft, node_now(s, nd->id), fe, &acts);
	for (unsigned int i = 0; i < acts.n; i++) {
		ft_act(s, nd, &acts.a[i]);
		if (!node_up(s, nd->id))
			return;
	}
	if (ft_refused(nd->ft))
		sim_fail(s, "liveness", "node %s: ft had no room for an action", who(nd));
	arm_ft(s, nd);
}

/* ---- events ---- */

static void chan_event(struct sim *s, int from, int kind)
{
	struct chan *c = &s->chan[from][kind];
	struct node *nd = &s->node[1 - from];
	struct net_ev ne = { .type = NEV_MSG, .frame = NET_NONE };
	struct ft_ev fe = { .type = FE_CTL };
	struct cmsg *m;

	if (c->head == c->tail)
		return;
	m = &c->q[c->head % SIM_CHANQ];
	if (m->at > s->now)
		return;		/* of a connection that was cut, and then closed */
	if (node_up(s, nd->id) && !nd->ever_linked) {
		sim_at(s, nd->link_at > s->now ? nd->link_at : s->now + NS_PER_MS, EV_CHAN, from, (uint16_t)kind, 0, NULL);
		return;
	}
	if (!node_up(s, nd->id) || !nd->linked) {
		c->head++;
		if (m->p)
			pkt_free(s, m->p);
		return;
	}
	if (m->p) {
		ne.frame = net_frame(nd, m->p, false);
		if (ne.frame == NET_NONE) {
			sim_at(s, s->now + NS_PER_MS, EV_CHAN, from, (uint16_t)kind, 0, NULL);
			return;
		}
		pkt_free(s, m->p);
	}
	c->head++;
	if (m->eof) {
		if (++nd->eofs == CHANNELS) {
			fe.type = FE_LINK_DOWN;
			fe.value = 1;
			node_ft(s, nd, &fe);
		}
		return;
	}
	switch (kind) {
	case CH_CTL:
		fe.ctl = m->ctl;
		node_ft(s, nd, &fe);
		break;
	case CH_FRAMES:
		ne.msg = m->msg;
		ne.nic = m->msg.nic;
		if (m->msg.type == NM_BARRIER)
			nd->barrier_n = m->msg.epoch;
		net_run(s, nd, &ne, 1);
		break;
	case CH_BULK:
		fe.type = FE_PROGRESS;
		if (m->bulk == BULK_PAGE) {
			nd->staged[m->page] = m->val;
			nd->staged_n[m->page] = m->n;
		} else if (m->bulk == BULK_DEV) {
			nd->dev = *m->dev;
			nd->dev_n = m->n;
		} else {
			nd->mark_n = m->n;
			fe.type = FE_BULK_BARRIER;
			fe.n = m->n;
			fe.value = 58000;
		}
		node_ft(s, nd, &fe);
		break;
	}
}

static void sock_event(struct sim *s, struct node *nd, bool report)
{
	struct net_ev ne = { .type = NEV_QUIET, .frame = NET_NONE };
	struct pkt *p;

	if (!report)
		nd->sock_armed = false;
	if (nd->q_stuck_until > s->now) {
		if (nd->q_stuck_until != NS_NEVER && nd->sock.n && !nd->sock_armed) {
			nd->sock_armed = true;
			sim_at(s, nd->q_stuck_until, EV_SOCK, nd->id, 0, 0, NULL);
		}
		if (!report)
			return;
	}
	if (!report && (p = pktq_pop(&nd->sock))) {
		if (nd->q_running) {
			guest_input(s, nd->id, p);
			pkt_free(s, p);
			arm_guest(s, nd);
		} else {
			/* Read by a stopped QEMU: in no state any more. */
			pktq_push(&nd->limbo, p);
		}
	}
	if (nd->sock.n)
		arm_sock(s, nd);
	else if (nd->want_quiet && nd->q_alive && s->now >= nd->frozen_until)
		net_run(s, nd, &ne, 1);
}

static bool unread(const struct sim *s, const struct node *nd)
{
	for (int k = 0; k < CHANNELS; k++) {
		const struct chan *c = &s->chan[1 - nd->id][k];

		if (c->head != c->tail && c->q[c->head % SIM_CHANQ].at <= s->now)
			return true;
	}
	return false;
}

static void beat_event(struct sim *s, struct node *nd, uint16_t what)
{
	struct ft_ev fe = { .type = FE_BEAT };
	struct node *peer = &s->node[1 - nd->id];
	int first = NODE_P;

	switch (what) {
	case 0:	/* its own tick */
		/*
		 * Silence is reported only when nothing that the peer has sent waits to be read: a node that was itself
		 * frozen would else take its own absence for the peer's.
		 */
		if (nd->linked && !unread(s, nd) && s->now > nd->heard + SILENT_MS * NS_PER_MS && !nd->silent_told) {
			nd->silent_told = true;
			fe.type = FE_SILENT;
			node_ft(s, nd, &fe);
		}
		if (node_up(s, nd->id))
			sim_at(s, s->now + BEAT_MS * NS_PER_MS, EV_BEAT, nd->id, 0, 0, NULL);
		if (nd->id == first && nd->linked && !nd->muted && node_up(s, nd->id)) {
			nd->beat_t0 = node_now(s, nd->id);
			sim_at(s, s->now + us(s, s->link_delay, s->link_delay + s->link_jitter), EV_BEAT, 1 - nd->id, 1,
			       (uint32_t)(nd->beat_t0 / NS_PER_US), NULL);
		}
		break;
	case 1: /* a request has come */
		if (!nd->linked)
			break;
		nd->heard = s->now;
		nd->silent_told = false;
		if (nd->muted)
			break;
		fe.value = node_now(s, nd->id);
		node_ft(s, nd, &fe);
		if (node_up(s, nd->id) && node_up(s, peer->id))
			sim_at(s, s->now + us(s, s->link_delay, s->link_delay + s->link_jitter), EV_BEAT, peer->id, 2, 0, NULL);
		break;
	default: /* an answer has come; only the last request's counts */
		if (!nd->linked)
			break;
		nd->heard = s->now;
		nd->silent_told = false;
		fe.value = nd->beat_t0;
		node_ft(s, nd, &fe);
	}
}

/* A machine that wants to be called again and again at the same moment is stuck. */
static void count_spin(struct sim *s, struct node *nd, const char *what)
{
	if (nd->spin_at != s->now) {
		nd->spin_at = s->now;
		nd->spins = 0;
	}
	if (++nd->spins > MAX_SPINS)
		sim_fail(s, "liveness", "node %s: the deadline of %s does not move on", who(nd), what);
}

static bool shell_event(enum ev_type t)
{
	return t != EV_SOCK && t != EV_GUEST;
}

void node_event(struct sim *s, const struct ev *e)
{
	struct node *nd = &s->node[e->type == EV_CHAN ? 1 - e->node : e->node];
	struct net_ev ne = { .frame = NET_NONE };
	struct ft_ev fe = { .type = FE_START };
	struct loopmsg *l;

	if (nd->frozen_until > s->now && shell_event(e->type) && node_up(s, nd->id)) {
		nstime late = e->type == EV_CHAN || e->type == EV_ROOM ? 0 : us(s, 0, 300);

		sim_at(s, nd->frozen_until + late, e->type, e->node, e->a, e->b, e->p);
		return;
	}
	if (!node_up(s, nd->id) && e->type != EV_CHAN) {
		if (e->p)
			pkt_free(s, e->p);
		return;
	}
	switch (e->type) {
	case EV_START:
		nd->q_alive = true;
		node_ft(s, nd, &fe);
		break;
	case EV_LINK:
		nd->linked = nd->ever_linked = true;
		nd->heard = s->now;
		fe.type = FE_LINK_UP;
		fe.value = 1;
		node_ft(s, nd, &fe);
		break;
	case EV_CHAN:
		chan_event(s, e->node, e->a);
		break;
	case EV_TO_NET:
		l = &nd->to_net.q[nd->to_net.head++ % SIM_LOOPQ];
		ne = l->ne;
		net_run(s, nd, &ne, 1);
		if (ne.type == NEV_STOPPED && node_up(s, nd->id)) {
			nd->drain_n = ne.n;
			sim_at(s, s->now + us(s, 1, 30), EV_DRAIN, nd->id, 0, 0, NULL);
		}
		break;
	case EV_TO_FT:
		l = &nd->to_ft.q[nd->to_ft.head++ % SIM_LOOPQ];
		fe = l->fe;
		node_ft(s, nd, &fe);
		break;
	case EV_STEP:
		step_event(s, nd, e->a, e->b);
		break;
	case EV_NET_TIMER:
		if (net_deadline(nd->net) <= node_now(s, nd->id)) {
			count_spin(s, nd, "net");
			net_run(s, nd, NULL, 0);
		} else {
			nd->net_at = 0;
			arm_net(s, nd);
		}
		break;
	case EV_FT_TIMER:
		if (ft_deadline(nd->ft) <= node_now(s, nd->id)) {
			count_spin(s, nd, "ft");
			fe.type = FE_TICK;
			node_ft(s, nd, &fe);
		} else {
			nd->ft_at = 0;
			arm_ft(s, nd);
		}
		break;
	case EV_SOCK:
		sock_event(s, nd, e->a);
		break;
	case EV_OUT:
		nd->out_armed = false;
		read_outq(s, nd, 1 + rnd(s, BATCH));
		arm_out(s, nd);
		break;
	case EV_DRAIN:
		while (read_outq(s, nd, BATCH) && node_up(s, nd->id))
			;
		if (!node_up(s, nd->id))
			break;
		ne.type = NEV_DRAINED;
		ne.n = nd->drain_n;
		net_run(s, nd, &ne, 1);
		break;
	case EV_GUEST:
		if (!nd->q_running || (nd->run_at && e->t < nd->run_at))
			break;
		nd->run_at = 0;
		if (nd->q_stuck_until > s->now) {
			if (nd->q_stuck_until != NS_NEVER)
				node_kick_guest(s, nd->id, nd->q_stuck_until);
			break;
		}
		guest_run(s, nd->id);
		arm_guest(s, nd);
		break;
	case EV_QDIED:
		fe.type = e->a ? FE_QEMU_HUNG : FE_QEMU_DIED;
		node_ft(s, nd, &fe);
		break;
	case EV_WIRE_IN:
		ne.type = NEV_TAP;
		ne.frame = net_frame(nd, e->p, true);
		TR(s, "%s  tap> %s", who(nd), frame_text(e->p));
		pkt_free(s, e->p);
		s->st->frames_in++;
		if (ne.frame == NET_NONE)
			net_frame_missed(nd->net);
		else
			net_run(s, nd, &ne, 1);
		break;
	case EV_BEAT:
		beat_event(s, nd, e->a);
		break;
	case EV_ROOM:
		ne.type = NEV_ROOM;
		ne.arg = e->a;
		net_run(s, nd, &ne, 1);
		break;
	default:
		break;
	}
}

void node_init(struct sim *s, int id, enum ft_role role)
{
	struct node *nd = &s->node[id];

	nd->id = id;
	nd->alive = true;
	nd->clock_off = (nstime)(1 + rnd(s, 1000)) * NS_PER_S;
	pktq_init(&nd->sock);
	pktq_init(&nd->limbo);
	pktq_init(&nd->outq);
	nd->g.cow = role == FT_SECONDARY;
	if (role == FT_PRIMARY)
		guest_boot(s, id);
}

/* All is quiet: has every frame been given back? */
void node_finish(struct sim *s)
{
	struct net_stats ns;
	struct net_act acts[ACTS];
	struct net_ev ne = { .type = NEV_ROOM, .arg = 1, .frame = NET_NONE };

	for (int i = 0; i < NODES; i++) {
		struct node *nd = &s->node[i];

		/* While the gate is closed net may have input in its hand. */
		if (!node_up(s, i) || strcmp(ft_phase(nd->ft), "idle") || nd->to_net.head != nd->to_net.tail)
			continue;
		net_step(nd->net, node_now(s, i), &ne, 1, acts, ACTS);
		net_stats_get(nd->net, &ns);
		/* The SVM's SYN-ACK, of a flow that the dead primary never announced, stays with its flow. */
		if (ns.frames_free + ns.held + ns.held_svm + ns.logged + (i == NODE_S ? SIM_CLIENTS : 0) <
		    nd->ncfg.n_frames)
			sim_fail(s, "P7", "node %s: %u frames free, %u held, %u of the SVM, %u logged, of %u", who(nd),
				 ns.frames_free, ns.held, ns.held_svm, ns.logged, nd->ncfg.n_frames);
	}
}
