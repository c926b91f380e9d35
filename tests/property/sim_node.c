/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The shell of a node: what node.c, the engine, the proxy and the monitor are in the real program, with random
 * delays, failures and deaths instead of work. Theory of operation
 *
 * This half takes events (messages of the peer, frames, timers, answers of QEMU) and gives them to ft and net;
 * sim_acts.c carries out what they say, sim_step.c the steps of a checkpoint, sim_fail.c the failures. QEMU's netdev
 * socket is modelled in both directions: what net gives to the guest waits until QEMU reads it (and may be lost at a
 * stop, and is lost at a load), what the guest sends waits until the shell reads it.
 */
#include "sim_node.h"

enum { BEAT_MS = 100, SILENT_MS = 500, MAX_SPINS = 200, ACTS = 32 };

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

/* An input frame of the primary; what the log had no room for was never confirmed. */
static void take_input(struct sim *s, struct node *nd, const struct net_ev *ne)
{
	struct net_stats a, b;
	struct pkt *p = pkt_copy(s, net_frame_data(nd->net, ne->frame), net_frame_len(nd->net, ne->frame), ne->nic);

	net_stats_get(nd->net, &a);
	node_net(s, nd, ne, 1);
	net_stats_get(nd->net, &b);
	if (node_up(s, nd->id) && a.drop_room == b.drop_room && a.drop_bad == b.drop_bad && a.drop_pool == b.drop_pool)
		inside_input(s, nd, ne->msg.seq, p);
	pkt_free(s, p);
}

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
	/* The shell of a node that does not serve lets nobody read the frame connection before net knows its role. */
	if (kind == CH_FRAMES && !m->eof && !nd->role_given && ft_state(nd->ft) == FT_JOINING) {
		sim_at(s, s->now + NS_PER_MS, EV_CHAN, from, (uint16_t)kind, 0, NULL);
		return;
	}
	if (m->p) {
		ne.frame = node_frame(nd, m->p, false);
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
		inside_msg(s, nd, &m->msg);
		if (m->msg.type == NM_INPUT)
			take_input(s, nd, &ne);
		else
			node_net(s, nd, &ne, 1);
		break;
	case CH_DISK:
		disk_message(s, nd, m);
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

/* The engine of a secondary looks at how many pages the SVM has of its own; at twice the limit it may write no more. */
static void look_private(struct sim *s, struct node *nd)
{
	uint32_t n = (uint32_t)__builtin_popcount(nd->g.privmap);
	struct ft_ev fe = { .type = FE_WANT, .cause = CAUSE_PRIVATE };

	if (n < s->private_limit)
		nd->private_told = nd->full_told = false;
	if (!s->private_limit || !nd->g.cow || n < s->private_limit || ft_state(nd->ft) != FT_STANDBY)
		return;
	if (!nd->private_told) {
		nd->private_told = true;
		s->private_told++;
		node_ft(s, nd, &fe);
	}
	if (n < 2 * s->private_limit || nd->full_told || !node_up(s, nd->id))
		return;
	nd->full_told = true;
	s->private_told++;
	s->st->svm_full++;
	fe.type = FE_FULL;
	node_ft(s, nd, &fe);
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
	if (!report && (p = pktq_pop_any(s, &nd->sock))) {
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
		node_arm_sock(s, nd);
	else if (nd->want_quiet && nd->q_alive && s->now >= nd->frozen_until)
		node_net(s, nd, &ne, 1);
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

static void beat_event(struct sim *s, struct node *nd, uint16_t what, uint32_t numbers)
{
	struct ft_ev fe = { .type = FE_BEAT };
	struct node *peer = &s->node[1 - nd->id];
	int first = s->prim;
	uint16_t number = (uint16_t)numbers, echo = (uint16_t)(numbers >> 16);

	switch (what) {
	case 0:	/* its own tick */
		if (nd->id == first)
			inside_tick(s, nd);
		/*
		 * Silence is reported only when nothing that the peer has sent waits to be read: a node that was itself
		 * frozen would else take its own absence for the peer's.
		 */
		if (nd->linked && !(s->witness && nd->muted) && !unread(s, nd) && s->now > nd->heard + SILENT_MS * NS_PER_MS && !nd->silent_told) {
			nd->silent_told = true;
			fe.type = FE_SILENT;
			node_ft(s, nd, &fe);
		}
		if (node_up(s, nd->id))
			sim_at(s, s->now + BEAT_MS * NS_PER_MS, EV_BEAT, nd->id, 0, 0, NULL);
		if (nd->id == first && nd->linked && !nd->muted && node_up(s, nd->id)) {
			nd->beat_at[(uint8_t)++nd->beat_n] = node_now(s, nd->id);
			if (!cut_now(s, nd->id, CUT_BEATS))
				sim_at(s, s->now + us(s, s->link_delay, s->link_delay + s->link_jitter), EV_BEAT, 1 - nd->id, 1,
				       nd->beat_n | (uint32_t)nd->beat_echo << 16, NULL);
		}
		break;
	case 1: /* a request has come */
		if (!nd->linked)
			break;
		nd->heard = s->now;
		nd->silent_told = false;
		if (nd->muted)
			break;
		/* Its own last one that the peer has got; nothing is said of one that was sent too long ago to be known. */
		fe.value = echo && (uint16_t)(nd->beat_n - echo) < 256 ? nd->beat_at[(uint8_t)echo] : 0;
		nd->beat_at[(uint8_t)++nd->beat_n] = node_now(s, nd->id);
		node_ft(s, nd, &fe);
		if (node_up(s, nd->id) && node_up(s, peer->id) && !cut_now(s, nd->id, CUT_BEATS))
			sim_at(s, s->now + us(s, s->link_delay, s->link_delay + s->link_jitter), EV_BEAT, peer->id, 2,
			       number | (uint32_t)nd->beat_n << 16, NULL);
		break;
	default: /* an answer has come */
		if (!nd->linked || (s->witness && nd->muted))
			break;
		nd->heard = s->now;
		nd->silent_told = false;
		nd->beat_echo = echo;
		fe.value = (uint16_t)(nd->beat_n - number) < 256 ? nd->beat_at[(uint8_t)number] : 0;
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

	/* Frames from outside go to whoever has the address now. */
	if (e->type != EV_WIRE_IN && e->inc != (e->type == EV_CHAN ? s->link_inc : nd->inc)) {
		if (e->p)
			pkt_free(s, e->p);
		return;
	}
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
		fe.value = ft_generation(s->node[s->prim].ft);
		node_ft(s, nd, &fe);
		break;
	case EV_CHAN:
		chan_event(s, e->node, e->a);
		break;
	case EV_TO_NET:
		l = &nd->to_net.q[nd->to_net.head++ % SIM_LOOPQ];
		ne = l->ne;
		node_net(s, nd, &ne, 1);
		if (node_up(s, nd->id))
			inside_told(s, nd, ne.type, ne.n);
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
			node_net(s, nd, NULL, 0);
		} else {
			nd->net_at = 0;
			node_arm_net(s, nd);
		}
		break;
	case EV_FT_TIMER:
		if (ft_deadline(nd->ft) <= node_now(s, nd->id)) {
			count_spin(s, nd, "ft");
			fe.type = FE_TICK;
			node_ft(s, nd, &fe);
		} else {
			nd->ft_at = 0;
			node_arm_ft(s, nd);
		}
		break;
	case EV_SOCK:
		sock_event(s, nd, e->a);
		break;
	case EV_OUT:
		nd->out_armed = false;
		node_read_outq(s, nd, 1 + rnd(s, BATCH));
		node_arm_out(s, nd);
		break;
	case EV_DRAIN:
		while (node_read_outq(s, nd, BATCH) && node_up(s, nd->id))
			;
		if (!node_up(s, nd->id))
			break;
		ne.type = NEV_DRAINED;
		ne.n = nd->drain_n;
		node_net(s, nd, &ne, 1);
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
		look_private(s, nd);
		break;
	case EV_QDIED:
		fe.type = e->a ? FE_QEMU_HUNG : FE_QEMU_DIED;
		node_ft(s, nd, &fe);
		break;
	case EV_WIRE_IN:
		ne.type = NEV_TAP;
		ne.nic = e->p->nic;
		ne.frame = node_frame(nd, e->p, true);
		TR(s, "%s  tap> %s", who(nd), frame_text(e->p));
		pkt_free(s, e->p);
		s->st->frames_in++;
		if (ne.frame == NET_NONE)
			net_frame_missed(nd->net);
		else
			node_net(s, nd, &ne, 1);
		break;
	case EV_BEAT:
		beat_event(s, nd, e->a, e->b);
		break;
	case EV_LINKERR:
		fe.type = FE_LINK_DOWN;
		if (nd->linked && nd->eofs < CHANNELS)
			node_ft(s, nd, &fe);
		break;
	case EV_ROOM:
		ne.type = NEV_ROOM;
		ne.arg = e->a;
		node_net(s, nd, &ne, 1);
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
		if (ns.frames_free + ns.held + ns.held_svm + ns.logged + (i == NODE_S || s->rejoined ? SIM_CLIENTS : 0) +
		    s->storm + s->parts_lost * FRAME_PARTS <
		    nd->ncfg.n_frames)
			sim_fail(s, "P7", "node %s: %u frames free, %u held, %u of the SVM, %u logged, of %u", who(nd),
				 ns.frames_free, ns.held, ns.held_svm, ns.logged, nd->ncfg.n_frames);
	}
}
