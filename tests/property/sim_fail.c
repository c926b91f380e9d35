/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Failures: theory of operation
 *
 * At most a few a schedule, each drawn beforehand (sim_run.c) as a kind and a moment: a time, the k-th action of net or
 * ft, the k-th step, message or checkpoint of a kind, before or after it takes effect. A killed node takes its QEMU
 * with it; its peer's kernel keeps what it had received, reads it, and sees the three connections closed. A node
 * without power just falls silent. A QEMU dies, hangs for good, or pauses for a while. A frozen shell handles nothing
 * and catches up later, in an order of its own, while its QEMU goes on.
 */
#include "sim_node.h"

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

void node_qemu_dies(struct sim *s, struct node *nd)
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
					    "has a QEMU that pauses", "is frozen", "", "is told to fail over", "is cut off", "is cut off one way",
					    "has its connections cut", "has its heartbeats cut", "is told to switch" };

	if (f->done || !node_up(s, f->node))
		return;
	f->done = true;
	f->done_at = s->now;
	storm_failed(s);
	(&s->st->fail_kill)[f->kind - FAIL_KILL]++;
	TR(s, "==== node %s %s (P %s/%s, S %s/%s)", who(nd), name[f->kind], ft_state_name(ft_state(s->node[0].ft)),
	   ft_phase(s->node[0].ft), ft_state_name(ft_state(s->node[1].ft)), ft_phase(s->node[1].ft));
	s->fail_in_abort = s->abort_n != 0;
	s->fail_state[0] = ft_state(s->node[0].ft);
	s->fail_state[1] = ft_state(s->node[1].ft);
	for (int i = 0; i < NODES; i++)
		strncpy(s->fail_phase[i], ft_phase(s->node[i].ft), sizeof(s->fail_phase[i]) - 1);
	switch (f->kind) {
	case FAIL_KILL:
	case FAIL_POWER:
		cold_failed(s);
		node_die(s, f->node, f->kind == FAIL_KILL);
		break;
	case FAIL_QEMU_DIES:
		node_qemu_dies(s, nd);
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
	case FAIL_CUT:
	case FAIL_CUT_ONE:
	case FAIL_CUT_DATA:
	case FAIL_CUT_BEATS:
		cut_begin(s, f->kind, f->node);
		break;
	case FAIL_SWITCH:
		fe.type = FE_SWITCH;
		node_ft(s, nd, &fe);
		break;
	case FAIL_COMMAND:
		node_ft(s, nd, &fe);
		break;
	default:
		break;
	}
}
