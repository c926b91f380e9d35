/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Somebody stops the VM and has it run again: in some schedules, at moments that fall anywhere in a checkpoint, a takeover or a
 * synchronisation, on either node. A VM that is to stand must not run by whatever step comes, and it must in the end
 * be possible to have it run: as long as the order to stand holds somewhere it is taken back, at some time.
 */
#include <string.h>

#include "sim_node.h"

void pause_draw(struct sim *s)
{
	if (s->deterministic || (s->seed * 0xd6e8feb86659fd93ull >> 32) > UINT32_MAX / 6)
		return;
	s->pauses = 1 + rnd(s, 8);
	sim_at(s, us(s, 1000, 150000), EV_PAUSE, 0, 0, 0, NULL);
}

/* Where the order has been carried out nothing runs. */
static void check(struct sim *s)
{
	for (int i = 0; i < NODES; i++) {
		struct node *nd = &s->node[i], *peer = &s->node[1 - i];
		/* A peer that is lost cannot be told. */
		bool pair = ft_state(nd->ft) == FT_PROTECTED && strcmp(ft_phase(nd->ft), "witness") &&
			    strcmp(ft_phase(nd->ft), "parting");

		if (!node_up(s, i) || !ft_paused(nd->ft) || !ft_pause_done(nd->ft))
			continue;
		if (nd->q_running)
			sim_fail(s, "pause", "node %s runs a VM that is to stand", who(nd));
		if (pair && node_up(s, 1 - i) && ft_state(peer->ft) == FT_STANDBY && peer->q_running)
			sim_fail(s, "pause", "node %s runs a copy of a VM that stands", who(peer));
	}
}

void pause_event(struct sim *s)
{
	struct node *nd = &s->node[rnd(s, NODES)];
	bool more = s->pauses > 0;
	struct ft_ev fe = { .type = FE_PAUSE, .value = more && chance(s, 6000) };

	check(s);
	if (more)
		s->pauses--;
	for (int i = 0; !more && i < NODES; i++)
		if (node_up(s, i) && ft_paused(s->node[i].ft) && ft_state(s->node[i].ft) != FT_STANDBY)
			nd = &s->node[i];
	if (node_up(s, nd->id) && nd->frozen_until <= s->now && ft_state(nd->ft) != FT_INIT) {
		TR(s, "==== somebody tells node %s to %s", who(nd), fe.value ? "stop" : "cont");
		s->st->pauses += fe.value;
		s->st->pause_conts += !fe.value;
		node_ft(s, nd, &fe);
	}
	sim_at(s, s->now + us(s, 500, more ? 40000 : 60000), EV_PAUSE, 0, 0, 0, NULL);
}

void pause_step(struct sim *s, struct node *nd)
{
	nd->q_paused = ft_paused(nd->ft);
	if (nd->q_paused)
		qemu_stops(s, nd);
	else if (nd->q_to_run && !nd->q_running)
		qemu_runs(s, nd);
}

bool pause_cont(struct sim *s, struct node *nd)
{
	(void)s;
	return !nd->q_paused;
}
