/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shell of a node, second half: what ft and net say is carried out. Theory of operation
 *
 * net_step() and ft_step() are called here and nowhere else; each action is carried out at once or handed on with a
 * delay. Between the control loop (ft) and the frames' loop (net) there are two FIFOs with delays of their own, as
 * between the threads of the real thing. What is let out goes through tap_emit(), which asks sim_check.c whether it
 * may be; what is said to the peer is looked at when it is said (STAGED).
 */
#include "sim_node.h"

enum { ACTS = 32 };

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

	/* What waits is lost here, as it may be on a network. */
	if (node_now(s, nd->id) > nd->lease || nd->hold) {
		nd->silent = true;
		s->st->silent_drops++;
		TR(s, "%s       (silent: the lease has run out)", who(nd));
		return;
	}
	if (a->nic >= s->nics)
		sim_fail(s, "P6", "node %s lets a frame out on NIC %u, which is not there", who(nd), a->nic);
	witness_heard(s, nd->id);
	p = pkt_copy(s, net_frame_data(nd->net, a->frame), len, a->nic);
	TR(s, "%s  tap< %s  [epoch %lu]", who(nd), frame_text(p), (unsigned long)a->n);
	if (st == FT_STANDBY || st == FT_JOINING || st == FT_INIT)
		sim_fail(s, "P5", "the secondary lets a frame out while it stands by");
	if (s->server != nd->id) {
		if (s->server >= 0 && nd->id == s->prim)
			sim_fail(s, "P5", "the primary lets a frame out after the secondary has done so");
		TR(s, "==== node %s speaks", who(nd));
		if (s->server >= 0)
			storm_failed(s);
		s->server = nd->id;
		if (nd->id != s->prim && !nd->checked) {
			nd->checked = true;
			check_takeover(s, &nd->g.core, "promotion");
		}
	}
	check_emission(s, nd->id, p, a->n);
	s->mac_at[a->nic] = nd->id;
	ext_to_clients(s, p);
	pkt_free(s, p);
}

void node_arm_sock(struct sim *s, struct node *nd)
{
	if (nd->sock_armed || !nd->sock.n)
		return;
	nd->sock_armed = true;
	sim_at(s, s->now + us(s, 1, s->guest_delay[nd->id]), EV_SOCK, nd->id, 0, 0, NULL);
}

static void send_net_msg(struct sim *s, struct node *nd, const struct net_act *a)
{
	struct cmsg *m;
	static const char *const name[] = { "INPUT", "OUTPUT", "LOGGED", "FLOW", "FLOW_OK", "TABLE", "BARRIER", "RELEASED",
					"RULES" };

	if (!nd->linked)
		return;
	TR(s, "%s  msg> %s epoch %lu seq %lu room %u", who(nd), name[a->msg.type], (unsigned long)a->msg.epoch,
	   (unsigned long)a->msg.seq, a->msg.room);
	m = chan_send(s, nd->id, CH_FRAMES);
	if (!m)
		return;
	m->msg = a->msg;
	if (a->frame != NET_NONE) {
		m->p = pkt_copy(s, net_frame_data(nd->net, a->frame), net_frame_len(nd->net, a->frame), a->msg.nic);
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
		p = pkt_copy(s, net_frame_data(nd->net, a->frame), net_frame_len(nd->net, a->frame), a->nic);
		TR(s, "%s  vm<  %s", who(nd), frame_text(p));
		if (!nd->q_alive) {
			pkt_free(s, p);
			break;
		}
		pktq_push(&nd->sock, p);
		node_arm_sock(s, nd);
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
	case NA_LIKELY:
		TR(s, "%s  net: %s n %lu arg %u", who(nd), a->type == NA_CUT ? "CUT" : a->type == NA_DRAINED ? "DRAINED" :
		   a->type == NA_BARRIER ? "BARRIER" : a->type == NA_LIKELY ? "LIKELY" : "WANT", (unsigned long)a->n, a->arg);
		to_ft(s, nd, a);
		break;
	}
	if (fail_hit(s, nd, WHEN_NET_ACT, 0, false) ||
	    (a->type == NA_MSG && fail_hit(s, nd, WHEN_MSG, a->msg.type, false)))
		node_fail_now(s);
}

void node_arm_net(struct sim *s, struct node *nd)
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

void node_net(struct sim *s, struct node *nd, const struct net_ev *ev, size_t n)
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
	node_arm_net(s, nd);
}

uint32_t node_frame(struct node *nd, const struct pkt *p, bool input)
{
	uint32_t f = net_frame_alloc(nd->net, input);

	if (f == NET_NONE)
		return f;
	memcpy(net_frame_data(nd->net, f), p->data, p->len);
	net_frame_set_len(nd->net, f, p->len);
	return f;
}

/* The shell reads what the guest has sent. */
bool node_read_outq(struct sim *s, struct node *nd, uint32_t max)
{
	struct net_ev ev[BATCH];
	uint32_t n = 0;
	struct pkt *p;

	if (max > BATCH)
		max = BATCH;
	memset(ev, 0, sizeof(ev[0]) * max);
	while (n < max && (p = pktq_pop_any(s, &nd->outq))) {
		ev[n].type = NEV_GUEST;
		ev[n].nic = p->nic;
		ev[n].frame = node_frame(nd, p, false);
		if (ev[n].frame == NET_NONE)
			net_frame_missed(nd->net);
		else
			n++;
		if (p->dg_parts)
			dgram_given(s, nd, p);
		pkt_free(s, p);
	}
	if (n)
		node_net(s, nd, ev, n);
	return nd->outq.n > 0;
}

void node_arm_out(struct sim *s, struct node *nd)
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
	node_arm_out(s, nd);
}

/* ---- the control machine ---- */

void node_arm_ft(struct sim *s, struct node *nd)
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
		if (s->abort_n && a->ctl.n > s->abort_n) {
			s->st->aborts_retried++;
			s->abort_n = 0;
		}
		/* One that serves alone has told us so; its message is under way, and we shall not take over. */
		if (!node_up(s, 1 - nd->id) || ft_state(s->node[1 - nd->id].ft) != FT_ALONE)
			check_takeover(s, &nd->dev, "STAGED");
	}
	if (a->ctl.type == CTL_ABORT) {
		s->abort_n = a->ctl.n;
		s->st->aborts++;
		s->st->aborts_first += ft_state(nd->ft) == FT_SYNC;
		if (s->fail.when == WHEN_ABORT && s->fail.kind != FAIL_NONE)
			sim_at(s, s->now + s->fail.at, EV_FAIL, 0, 0, 0, NULL);
	}
	s->told_alone |= a->ctl.type == CTL_ALONE;
	if (a->ctl.type == CTL_ALONE && s->abort_n) {
		s->st->aborts_parted++;
		s->abort_n = 0;
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
		if (a->net == NEV_PROMOTE && nd->said_staged > nd->loaded_n)
			sim_fail(s, "P3", "node %s: promotes the SVM of before checkpoint %lu, which it had said to be STAGED",
				 who(nd), (unsigned long)nd->said_staged);
		if (a->net == NEV_PROMOTE)
			disk_promote(s, nd);
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
	case FA_HOLD:
		nd->hold = a->value;
		break;
	case FA_KILL_QEMU:
		node_qemu_dies(s, nd);
		break;
	case FA_END:
		nd->ended = true;
		s->st->switched += a->reason == FT_WHY_SWITCH;
		nd->end_status = (int)a->value;
		nd->q_alive = nd->q_running = false;
		pktq_clear(s, &nd->sock);
		pktq_clear(s, &nd->limbo);
		pktq_clear(s, &nd->outq);
		drop_link(s, nd);
		break;
	case FA_ANNOUNCE:
		s->st->fenced += ft_state(nd->ft) == FT_FENCED;
		s->st->early_takeovers += ft_state(nd->ft) == FT_PROMOTING && ft_claims(nd->ft);
		break;
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
	node_arm_ft(s, nd);
}
