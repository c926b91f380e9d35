/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Further lives of a pair: theory of operation
 *
 * Some schedules go on after their failure, up to LIVES times: when one node serves alone, an empty secondary takes the
 * place of the one that is gone, and the server gets FE_LINK_UP once more while its connections live on. The server may
 * be the first primary, which had lost its secondary, or a promoted node, whose translation table is not empty then:
 * NM_TABLE carries offsets, and a client must see its numbers go on (P6) through each failover that comes.
 *
 * Events of the node that is gone are told by their incarnation and fall away. sim.prim is who serves by role.
 */
#include "sim_node.h"

#define LIVES 3	/* rejoins of a schedule at most */

static void reset_channels(struct sim *s)
{
	for (int i = 0; i < NODES; i++) {
		for (int k = 0; k < CHANNELS; k++) {
			struct chan *c = &s->chan[i][k];

			for (; c->head != c->tail; c->head++) {
				struct cmsg *m = &c->q[c->head % SIM_CHANQ];

				if (m->p)
					pkt_free(s, m->p);
			}
			c->closed = false;
			c->last = 0;
		}
	}
	s->link_inc++;
}

static void draw_second(struct sim *s)
{
	static const uint8_t kinds[] = { FAIL_KILL, FAIL_KILL, FAIL_KILL, FAIL_POWER, FAIL_QEMU_DIES };
	struct failure *f = &s->fail;

	*f = (struct failure){ .kind = kinds[rnd(s, sizeof(kinds))], .at = NS_NEVER, .count = 1 };
	f->node = chance(s, 8500) ? s->prim : 1 - s->prim;
	f->before = chance(s, 5000);
	if (ft_memory(s->node[s->prim].ft) != FT_MEM_SHARED && chance(s, 2000)) {
		/* While it waits for its server's memory to be fit. */
		f->node = 1 - s->prim;
		f->kind = chance(s, 7000) ? FAIL_KILL : FAIL_POWER;
		f->when = WHEN_TIME;
		sim_at(s, s->now + us(s, 7000, 100000), EV_FAIL, 0, 0, 0, NULL);
		return;
	}
	switch (rnd(s, 4)) {
	case 0:
		f->when = WHEN_NET_ACT;
		f->count = 20 + rnd(s, 500);
		break;
	case 1:
		f->when = WHEN_CTL;
		f->what = f->node == s->prim ? CTL_EPOCH_END : CTL_STAGED;
		f->count = 2 + rnd(s, 3);
		break;
	default:
		f->when = WHEN_TIME;
		sim_at(s, s->now + us(s, 10000, 300000), EV_FAIL, 0, 0, 0, NULL);
	}
}

bool join_due(struct sim *s)
{
	/* Where two cannot reach each other there is no pair. */
	if (s->lives >= LIVES || s->cold.node >= 0 || cut_now(s, 0, CUT_DATA | CUT_BEATS) || cut_now(s, 1, CUT_DATA | CUT_BEATS))
		return false;
	for (int i = 0; i < NODES; i++)
		if (node_up(s, i) && !node_up(s, 1 - i) && !s->node[i].linked)
			return ft_state(s->node[i].ft) == FT_ALONE && s->node[i].q_to_run;
	return false;
}

void join_now(struct sim *s)
{
	int id = node_up(s, NODE_P) ? NODE_S : NODE_P;
	struct node *nd = &s->node[id], *srv = &s->node[1 - id], old;
	struct ft_cfg fc = nd->fcfg;

	s->rejoin_at = 0;
	if (!join_due(s))
		return;
	TR(s, "==== an empty secondary takes the place of node %s", who(nd));
	/* One that was promoted may not have spoken yet: it is who is heard from now on. */
	if (s->server >= 0 && s->server != srv->id) {
		s->server = srv->id;
		srv->checked = true;
		check_takeover(s, &srv->g.core, "promotion");
	}
	s->rejoined = true;
	s->lives++;
	s->prim = srv->id;
	s->st->rejoins++;
	s->st->rejoins_promoted += srv->fcfg.role == FT_SECONDARY;
	s->st->third_lives += s->lives == 2;
	s->st->fourth_lives += s->lives == 3;
	reset_channels(s);
	pktq_clear(s, &nd->sock);
	pktq_clear(s, &nd->limbo);
	pktq_clear(s, &nd->outq);
	old.net = nd->net;
	old.ft = nd->ft;
	old.ncfg = nd->ncfg;
	old.to_net.q = nd->to_net.q;
	old.to_ft.q = nd->to_ft.q;
	old.inc = nd->inc;
	memset(nd, 0, sizeof(*nd));
	nd->net = old.net;
	nd->ft = old.ft;
	nd->ncfg = old.ncfg;
	nd->to_net.q = old.to_net.q;
	nd->to_ft.q = old.to_ft.q;
	nd->inc = old.inc + 1;
	node_init(s, id, FT_SECONDARY);
	net_reset(nd->net, &nd->ncfg);
	fc.role = FT_SECONDARY;
	nd->fcfg = fc;
	ft_init(nd->ft, &fc, 1);
	srv->beat_n = srv->beat_echo = 0;
	memset(s->cut, 0, sizeof(s->cut));
	if (s->disks)
		disk_boot(s, nd, false);
	srv->disk.peer = false;

	/* What the server's engine does when a peer comes: all pages are to be sent, a new link is nobody's silence. */
	srv->g.dirty = (1u << SIM_PAGES) - 1;
	srv->ever_linked = srv->muted = srv->silent_told = false;
	srv->role_given = false;
	srv->eofs = 0;
	memset(s->wait, 0, sizeof(s->wait));

	sim_at(s, s->now + us(s, 0, 3000), EV_START, id, 0, 0, NULL);
	nd->link_at = srv->link_at = s->now + us(s, 3000, 6000);
	sim_at(s, nd->link_at, EV_LINK, id, 0, 0, NULL);
	sim_at(s, nd->link_at + us(s, 0, 1000), EV_LINK, srv->id, 0, 0, NULL);
	sim_at(s, nd->link_at + us(s, 1000, 100000), EV_BEAT, id, 0, 0, NULL);
	if (chance(s, 8000))
		draw_second(s);
}
