/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A storm of SYNs: in some schedules more half-open connections than the table of flows has lines come from addresses
 * that nobody has, over both IP versions, while the clients go on. The guest answers each without keeping a state, as
 * with SYN cookies, so its numbers differ between the copies. No established connection may come to harm by it; a
 * client whose own handshake was under way when the VM changed nodes may.
 */
#include "sim.h"

void storm_draw(struct sim *s)
{
	if (s->deterministic || s->rejoin || !chance(s, 500))
		return;
	s->storm = 40 + rnd(s, 80);
	s->st->storms++;
	sim_at(s, us(s, 5000, 150000), EV_STORM, 0, 0, 0, NULL);
}

void storm_event(struct sim *s)
{
	struct path path = { .v6 = (uint8_t)rnd(s, 2), .nic = (uint8_t)rnd(s, s->nics) };
	struct host h = { .s = s, .node = -1, .client = 99, .addr = (uint8_t)(SIM_SPOOFED + rnd(s, 50)), .now = s->now };
	struct opening o = { .path = &path, .lport = (uint16_t)(1024 + rnd(s, 50000)), .rport = SIM_GUEST_PORT,
			     .peer = guest_addr(&path) };
	struct tcb t;

	tcp_open(&h, &t, &o);
	s->st->storm_syns++;
	if (++s->storm_sent < s->storm)
		sim_at(s, s->now + us(s, 5, 800), EV_STORM, 0, 0, 0, NULL);
}

void storm_emission(struct sim *s, const struct seg *g)
{
	if ((g->flags & (TF_SYN | TF_ACK | TF_RST | TF_FIN)) != (TF_SYN | TF_ACK) || g->len)
		sim_fail(s, "P6", "an address that has only asked for a connection is sent flags %02x and %u bytes", g->flags,
			 g->len);
	s->st->storm_answers++;
}

/* Has the copy on any node that lives not seen the end of the handshake? */
static bool half_open(struct sim *s, int i)
{
	const struct client *c = &s->cl[i];

	for (int k = 0; k < NODES; k++) {
		struct gconn *g = guest_conn(&s->node[k].g.core, c->addr, c->port, c->gport);

		if (node_up(s, k) && (!g || g->t.state < T_ESTAB))
			return true;
	}
	return false;
}

/* A node fails, or the other one speaks for the first time. */
void storm_failed(struct sim *s)
{
	if (!s->storm_sent)
		return;
	for (int i = 0; i < SIM_CLIENTS; i++) {
		struct client *c = &s->cl[i];

		if (!c->used || !c->opened || c->done || c->excused || c->t.state == T_CLOSED ||
		    (c->t.state > T_SYN_RCVD && !half_open(s, i)))
			continue;
		c->excused = c->done = true;
		s->st->excused++;
	}
}
