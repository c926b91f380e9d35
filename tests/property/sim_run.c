/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One seed, one schedule: settings, traffic, at most one failure, and steps that fail at a living node are drawn, the
 * world runs until every client is served and the pair has settled, and the end is looked at.
 *
 * A quarter of the schedules are deterministic: no answer in them depends on anything but the requests, so that
 * besides the promises no checkpoint may be needed at all. A schedule that has not ended a simulated minute after
 * the last trouble is stuck.
 */
#include <stdlib.h>

#include "sim.h"

enum { LIMIT_S = 90, MAX_EVENTS = 400000, FRAMES = 192, FLOWS = 32, LOG = 64 };

void sim_store_init(struct sim *s)
{
	struct sim_store *st = calloc(1, sizeof(*st));
	struct net_cfg cfg;

	if (!st)
		abort();
	net_cfg_default(&cfg, 2, SIM_MAX_FRAME - 22);
	cfg.n_frames = FRAMES;
	cfg.n_flows = FLOWS;
	cfg.n_log = LOG;
	for (int i = 0; i < NODES; i++) {
		st->net[i] = net_new(&cfg);
		st->ft[i] = calloc(1, ft_size());
		if (!st->net[i] || !st->ft[i])
			abort();
	}
	s->store = st;
}

static void wipe(struct sim *s, uint64_t seed)
{
	struct sim_store *store = s->store;
	struct stats *st = s->st;
	bool trace = s->trace;
	uint32_t nf = s->net_faults, ff = s->ft_faults, wf = s->world_faults;

	/* Device states in the nodes are not looked at before they were written. */
	memset(s, 0, offsetof(struct sim, node));
	for (int i = 0; i < NODES; i++) {
		struct node *nd = &s->node[i];

		memset(nd, 0, offsetof(struct node, saved));
		memset((char *)nd + offsetof(struct node, saved_n), 0, sizeof(*nd) - offsetof(struct node, saved_n));
	}
	memset(s->chan, 0, sizeof(*s) - offsetof(struct sim, chan));
	s->store = store;
	s->st = st;
	s->trace = trace;
	s->net_faults = nf;
	s->ft_faults = ff;
	s->world_faults = wf;
	s->seed = seed;
	s->rng[0] = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
	s->rng[1] = (seed ^ 0xdeadbeefcafef00dull) * 0xbf58476d1ce4e5b9ull;
	for (int i = 0; i < 8; i++)
		sim_rand(s);
	s->dev_pool = store->devs;
	s->server = -1;
	s->prim = NODE_P;
	for (int i = 0; i < NODES; i++) {
		for (int k = 0; k < CHANNELS; k++)
			s->chan[i][k].q = store->chanq[i][k];
		s->node[i].to_net.q = store->loopq[i][0];
		s->node[i].to_ft.q = store->loopq[i][1];
		s->node[i].net = store->net[i];
		s->node[i].ft = store->ft[i];
	}
}

void run_script(struct sim *s, int i)
{
	static const uint8_t free_ops[] = { OP_ECHO, OP_ECHO, OP_RANDOM, OP_LAST, OP_UPLOAD, OP_DOWNLOAD, OP_COUNT,
					    OP_ECHO };
	static const uint8_t det_ops[] = { OP_ECHO, OP_ECHO, OP_ECHO, OP_UPLOAD, OP_DOWNLOAD };
	struct client *c = &s->cl[i];
	uint32_t think = s->rejoin ? 150000 : chance(s, 5000) ? 2000 : 40000;
	bool asked = false;

	c->n_req = s->rejoin ? SIM_SCRIPT : 1 + rnd(s, SIM_SCRIPT - 2);
	c->depth = 1 + rnd(s, 3);
	for (unsigned int k = 0; k < c->n_req; k++) {
		struct req *r = &c->script[k];

		r->op = s->deterministic ? det_ops[rnd(s, sizeof(det_ops))] : free_ops[rnd(s, sizeof(free_ops))];
		if (asked && chance(s, 5000))
			r->op = OP_LAST;
		asked = r->op == OP_RANDOM;
		if (k + 1 == c->n_req && chance(s, 1500)) {
			r->op = OP_QUIT;
			c->half_close = chance(s, 3000);
			c->extra = chance(s, 4000) ? 1 + rnd(s, 500) : 0;
		} else if (k + 1 == c->n_req && !s->deterministic && chance(s, 300)) {
			r->op = OP_RESET;
			s->divergences += 2;
		}
		r->arg = (uint8_t)rnd(s, 2);
		r->len = (uint16_t)(r->op == OP_ECHO ? rnd(s, 200) : r->op == OP_UPLOAD ? 1 + rnd(s, 1500) :
				    r->op == OP_DOWNLOAD ? 1 + rnd(s, 1000) : 0);
		r->think = rnd(s, think);
		if (r->op == OP_RANDOM || r->op == OP_COUNT)
			s->divergences++;
	}
}

void draw_path(struct sim *s, struct path *p)
{
	*p = (struct path){ .nic = (uint8_t)rnd(s, s->nics) };
	p->v6 = chance(s, 4000);
	p->tags = chance(s, 6000) ? 0 : 1 + (uint8_t)rnd(s, 2);
	p->vid[0] = (uint16_t)(1 + rnd(s, 4094));
	p->vid[1] = (uint16_t)(1 + rnd(s, 4094));
	if (p->v6 && chance(s, 3000))
		p->ext = (uint8_t)(1 + rnd(s, 3));
}

static void draw_clients(struct sim *s)
{
	int n = 1 + (int)rnd(s, 3);

	for (int i = 0; i < n; i++) {
		struct client *c = &s->cl[i];

		c->used = true;
		c->addr = (uint8_t)(100 + i);
		c->port = (uint16_t)(30000 + i * 100 + (int)rnd(s, 100));
		c->gport = SIM_GUEST_PORT;
		c->start = us(s, 0, 100000);
		draw_path(s, &c->path);
		s->st->v6_conns += c->path.v6;
		s->st->vlan_conns += c->path.tags == 1;
		s->st->qinq_conns += c->path.tags == 2;
		c->half_close = chance(s, 1000);
		run_script(s, i);
		c->tfo = chance(s, 1500);
		c->slow = chance(s, 1000);
		c->again = !s->rejoin && chance(s, 1200);
		if (!s->deterministic && chance(s, 500)) {
			c->will_abort = true;
			c->abort_after = (uint8_t)rnd(s, c->n_req);
			s->divergences += 2;
		}
		if (!s->deterministic && chance(s, 300)) {
			c->refused_port = true;
			c->gport = 9;
			s->divergences++;
		}
		sim_at(s, c->start, EV_CLIENT, 0, (uint16_t)i, 0, NULL);
	}
	if (chance(s, 1500)) {
		struct client *c = &s->cl[n];
		struct req *r = &s->cl[0].script[rnd(s, s->cl[0].n_req)];

		c->used = c->passive = true;
		c->addr = (uint8_t)(100 + n);
		c->port = (uint16_t)(9000 + n);
		draw_path(s, &c->path);
		run_script(s, n);
		if (r->op != OP_QUIT) {
			r->op = OP_OPEN;
			r->arg = (uint8_t)n;
			r->len = !s->deterministic && chance(s, 3000);
			s->divergences += 1;
		}
	}
}

static void draw_failure(struct sim *s)
{
	struct failure *f = &s->fail;
	static const uint8_t kinds[] = { FAIL_KILL, FAIL_KILL, FAIL_KILL, FAIL_KILL, FAIL_KILL, FAIL_KILL, FAIL_POWER,
					 FAIL_QEMU_DIES, FAIL_QEMU_DIES, FAIL_QEMU_HANGS, FAIL_QEMU_PAUSES, FAIL_FREEZE,
					 FAIL_STEP, FAIL_COMMAND };

	f->kind = chance(s, 2500) ? FAIL_NONE : kinds[rnd(s, sizeof(kinds))];
	f->node = chance(s, 3000) ? NODE_S : NODE_P;
	f->span = us(s, 20000, chance(s, 5000) ? 300000 : 4000000);
	f->at = NS_NEVER;
	f->before = chance(s, 5000);
	f->count = 1;
	if (f->kind == FAIL_NONE)
		return;
	if (f->kind == FAIL_STEP) {
		static const uint8_t p[] = { STEP_STOP, STEP_CONT, STEP_SAVE, STEP_ROUND, STEP_PRECOPY, STEP_COPY, STEP_SEND };
		static const uint8_t q[] = { STEP_STOP, STEP_CONT, STEP_RESERVE, STEP_APPLY, STEP_LOAD, STEP_LOAD, STEP_MEND };

		f->when = WHEN_STEP;
		f->before = true;
		f->what = f->node == NODE_P ? p[rnd(s, sizeof(p))] : q[rnd(s, sizeof(q))];
		f->count = 1 + rnd(s, 4);
		return;
	}
	switch (rnd(s, 10)) {
	case 0: case 1: case 2: case 3:
		f->when = WHEN_TIME;
		f->at = us(s, 1000, 250000);
		break;
	case 4: case 5:
		f->when = WHEN_NET_ACT;
		f->count = 10 + rnd(s, 400);
		break;
	case 6:
		f->when = WHEN_FT_ACT;
		f->count = 10 + rnd(s, 200);
		break;
	case 7:
		f->when = WHEN_STEP;
		f->what = rnd(s, STEP_MAX);
		f->count = 1 + rnd(s, 5);
		break;
	case 8:
		f->when = WHEN_CTL;
		f->what = f->node == NODE_P ? CTL_EPOCH_END : rnd(s, 2) ? CTL_STAGED : CTL_LOADED;
		f->count = 1 + rnd(s, 5);
		break;
	default:
		f->when = WHEN_MSG;
		f->what = rnd(s, NM_MAX);
		f->count = 1 + rnd(s, 12);
	}
	if (f->when == WHEN_TIME)
		sim_at(s, f->at, EV_FAIL, 0, 0, 0, NULL);
}

/*
 * Steps of a checkpoint fail, alone or two in a row, and maybe a node fails soon after it has said so. Whether they do
 * is taken from the seed, so that all other schedules are what they would be without.
 */
static void draw_bad(struct sim *s)
{
	static const uint8_t steps[] = { STEP_SAVE, STEP_COPY, STEP_SEND };
	struct failure *f = &s->fail;
	uint64_t n;

	if (s->seed * 0x9e3779b97f4a7c15ull >> 32 > UINT32_MAX / 5)
		return;
	n = 1 + rnd(s, 5);
	for (int k = 0; k < SIM_BAD; k++) {
		s->bad[k].n = n;
		s->bad[k].step = steps[rnd(s, 3)];
		s->bad[k].how = (enum bad_step)(1 + rnd(s, 3));
		/* A second one in a row ends protection. */
		n += chance(s, 1000) ? 1 : 2 + rnd(s, 3);
	}
	if (f->kind == FAIL_NONE || f->kind == FAIL_STEP || chance(s, 4000))
		return;
	f->when = WHEN_ABORT;
	f->at = us(s, 0, chance(s, 5000) ? 3000 : 30000);
}

static void draw_nodes(struct sim *s)
{
	struct ft_cfg fc;
	static const uint32_t delay_ms[] = { 15, 30, 60, 200, 20000, 20000 };
	uint32_t limits = rnd(s, 4);
	nstime delay = delay_ms[rnd(s, 6)] * NS_PER_MS, interval = us(s, 0, 10000), compare, other = us(s, 2000, 20000);

	compare = s->deterministic ? 3 * NS_PER_S : us(s, 60000, 3000000);
	for (int i = 0; i < NODES; i++) {
		struct node *nd = &s->node[i];
		struct net_cfg *nc = &nd->ncfg;

		node_init(s, i, i == NODE_P ? FT_PRIMARY : FT_SECONDARY);
		net_cfg_default(nc, s->nics, SIM_MAX_FRAME - 22);
		memcpy(nc->mac[0], "\x52\x54\x00\x00\x00\x0a", 6);
		memcpy(nc->mac[1], "\x52\x54\x00\x00\x02\x0a", 6);
		nc->n_frames = FRAMES;
		nc->n_flows = FLOWS;
		nc->n_log = LOG;
		nc->max_held_flow = limits || s->deterministic ? 64 : 6;
		nc->max_held = limits || s->deterministic ? 96 : 10;
		nc->compare_timeout = compare;
		nc->gate_wait = us(s, 100, 2000);
		nc->other_delay = other;
		nc->released_every = us(s, 500, 5000);
		nc->logged_every = nc->released_every / 2;
		nc->hash_key[0] = sim_rand(s);
		nc->hash_key[1] = sim_rand(s);
		nc->faults = s->net_faults;
		net_reset(nd->net, nc);
		ft_cfg_default(&fc, i == NODE_P ? FT_PRIMARY : FT_SECONDARY);
		fc.checkpoint_delay = s->ck_delay = delay;
		fc.min_interval = interval;
		fc.max_rounds = 1 + rnd(s, 3);
		fc.round_goal = 4;
		fc.precopy = (struct precopy_cfg){ .goal = 1 + rnd(s, 3), .min = us(s, 500, 3000), .max = us(s, 5000, 100000),
						   .share = 2 + rnd(s, 3), .off = chance(s, 1500) };
		fc.faults = s->ft_faults;
		fc.disks = s->disks;
		fc.fence = s->fence;
		fc.fence_retry = 50 * NS_PER_MS;
		nd->fcfg = fc;
		ft_init(nd->ft, &fc, 1);
		if (s->disks)
			disk_boot(s, nd, i == NODE_P);
		sim_at(s, us(s, 0, 3000), EV_START, i, 0, 0, NULL);
		nd->link_at = us(s, 3000, 5000) + (chance(s, 2000) ? us(s, 0, 60000) : 0);
		sim_at(s, nd->link_at, EV_LINK, i, 0, 0, NULL);
		sim_at(s, us(s, 5000, 100000), EV_BEAT, i, 0, 0, NULL);
	}
	if (chance(s, 300)) {
		sim_at(s, us(s, 20000, 100000), EV_ROOM, NODE_P, 0, 0, NULL);
		sim_at(s, us(s, 100000, 150000), EV_ROOM, NODE_P, 1, 0, NULL);
		s->loss_free = false;
	}
}

static void draw(struct sim *s)
{
	/* Not drawn, so that the seeds without disks stay what they were. */
	s->disks = s->seed % 3 == 0;
	s->fence = s->seed % 9 == 0;
	s->deterministic = chance(s, 2500);
	s->rejoin = chance(s, 2500);
	s->loss_free = s->deterministic || chance(s, 4000);
	s->ext_delay = 20 + rnd(s, chance(s, 3000) ? 2000 : 200);
	s->ext_jitter = rnd(s, 300);
	if (!s->loss_free) {
		s->loss = rnd(s, 600);
		s->dup = rnd(s, 300);
		s->reorder = rnd(s, 600);
	}
	s->quiet_from = us(s, 100000, 600000);
	s->link_delay = 20 + rnd(s, chance(s, 3000) ? 3000 : 200);
	s->link_jitter = rnd(s, chance(s, 3000) ? 3000 : 200);
	s->link_stall = s->deterministic || chance(s, 7000) ? 0 : rnd(s, 100);
	for (int i = 0; i < NODES; i++)
		s->guest_delay[i] = 20 + rnd(s, chance(s, 3000) ? 8000 : 500);
	s->step_us = 2 + rnd(s, chance(s, 3000) ? 60 : 15);
	s->g_ts = !chance(s, 1000);
	s->g_sack = !chance(s, 1500);
	s->g_nagle = chance(s, 5000);
	s->g_dsack = chance(s, 5000);
	s->g_ws = chance(s, 1500) ? 0xff : (uint8_t)rnd(s, 6);
	s->g_mss = (uint16_t)(64 + rnd(s, 400));
	s->g_rwnd = (uint16_t)(200 + rnd(s, 690));
	/* Who is waited for only a short while must not be slow: what the guest says unasked (core/hold.c). */
	s->lazy = !s->deterministic && chance(s, 1000);
	s->nics = chance(s, 3000) ? 2 : 1;
	s->st->two_nics += s->nics == 2;
	s->labels = chance(s, 3000);
	s->st->labelled += s->labels;
	draw_nodes(s);
	draw_clients(s);
	draw_failure(s);
	witness_draw(s);
	witness_failure(s);
	draw_bad(s);
	dgram_draw(s);
	storm_draw(s);
	pause_draw(s);
	if (!s->deterministic && chance(s, 1500))
		s->private_limit = 1 + rnd(s, 12);
	/* Else most schedules are over before a promoted VM's memory is shared. */
	if (chance(s, 2500))
		for (int i = 0; i < NODES; i++) {
			s->node[i].fcfg.share_after = us(s, 0, 100000);
			ft_init(s->node[i].ft, &s->node[i].fcfg, 1);
		}
}

static bool pair_settled(struct sim *s)
{
	enum ft_state p = ft_state(s->node[s->prim].ft), q = ft_state(s->node[1 - s->prim].ft);
	bool pu = node_up(s, s->prim), qu = node_up(s, 1 - s->prim);

	if (pu && qu)
		return p == FT_PROTECTED && q == FT_STANDBY;
	/* Who has not dropped the link of a peer that is gone could never get another one. */
	return pu ? p == FT_ALONE && !s->node[s->prim].linked : qu && q == FT_ALONE && !s->node[1 - s->prim].linked;
}

/* Is there anybody left who could serve? Looked at only when the schedule does not end by itself. */
static bool vm_lost(struct sim *s)
{
	/* A QEMU that hangs for good, and nobody stands by. */
	if (s->cold.node >= 0)
		return false;
	if (s->fail.done && s->fail.kind == FAIL_QEMU_HANGS && s->fail.node == s->prim &&
	    !node_up(s, 1 - s->prim))
		return true;
	for (int i = 0; i < NODES; i++)
		if (node_up(s, i))
			return false;
	return true;
}

static void lost(struct sim *s)
{
	struct failure *f = &s->fail;

	if (!f->done && !s->rejoined)
		sim_fail(s, "liveness", "both nodes have ended, and nothing had happened");
	if (f->node != s->prim)
		sim_fail(s, "liveness", "the VM is lost, and only the secondary had failed");
	/* The witness had just granted the role to the one that failed. */
	if (ft_reason(s->node[1 - s->prim].ft) == FT_WHY_LOST) {
		s->st->lost_unprotected++;
		return;
	}
	/* One that was told that the other goes on without it could not. */
	if (s->fail_state[1 - s->prim] == FT_STANDBY && !s->told_alone)
		sim_fail(s, "liveness", "the VM is lost though the secondary could take over");
	/* A node that is frozen while it begins finds that its QEMU has not begun in time. */
	if (f->kind == FAIL_FREEZE && !strcmp(s->fail_phase[s->prim], "start"))
		return;
	if (f->kind == FAIL_QEMU_PAUSES || f->kind == FAIL_FREEZE || f->kind >= FAIL_COMMAND)
		sim_fail(s, "liveness", "the VM is lost, and nothing had died");
	s->st->lost_unprotected++;
}

static void stuck(struct sim *s)
{
	struct gcore *core = NULL;
	struct gconn *g = NULL;

	for (int i = 0; i < NODES; i++)
		if (node_up(s, i) && ft_state(s->node[i].ft) != FT_STANDBY && ft_state(s->node[i].ft) != FT_JOINING)
			core = &s->node[i].g.core;
	for (int i = 0; i < SIM_CLIENTS; i++) {
		struct client *c = &s->cl[i];

		if (!c->used || c->done || (c->passive && !c->opened && !c->expected))
			continue;
		if (core)
			g = check_conn(s, core, i, c->gport);
		if (g && s->w[i].ack_known && SEQ_LT(g->t.rcv_nxt - g->t.irs, s->w[i].max_ack - c->t.iss))
			sim_fail(s, "P2", "client %d is stuck: %u bytes were acknowledged to it, the VM has %u", i,
				 s->w[i].max_ack - c->t.iss - 1, g->t.rcv_nxt - g->t.irs - 1);
		sim_fail(s, "liveness", "client %d is stuck in state %d after answer %u of %u (una +%u max +%u, got +%u of +%u; "
			 "guest state %d)", i, c->t.state, c->answered, c->n_req, c->t.una - c->t.iss, c->t.max - c->t.iss,
			 c->t.rcv_nxt - c->t.irs, s->w[i].end, g ? g->t.state : -1);
	}
	sim_fail(s, "liveness", "the pair is stuck: P %s/%s%s, S %s/%s%s", ft_state_name(ft_state(s->node[0].ft)),
		 ft_phase(s->node[0].ft), node_up(s, 0) ? "" : " (gone)", ft_state_name(ft_state(s->node[1].ft)),
		 ft_phase(s->node[1].ft), node_up(s, 1) ? "" : " (gone)");
}

static void count_end(struct sim *s)
{
#define P(name) { NODE_P, #name, offsetof(struct stats, fo_p_##name) }
#define S(name) { NODE_S, #name, offsetof(struct stats, fo_s_##name) }
	static const struct {
		int node;
		const char *name;
		size_t at;
	} phases[] = { P(idle), P(gate), P(stop), P(collect), P(cont), P(staged), P(loaded), P(abort), S(idle), S(gate),
		       S(stop), S(collect), S(apply), S(load), S(mend), S(cont) };
#undef P
#undef S
	unsigned int seen = 0;
	bool pu = node_up(s, s->prim), qu = node_up(s, 1 - s->prim);

	if (!s->fail.done)
		return;
	if (!pu && qu && ft_state(s->node[1 - s->prim].ft) == FT_ALONE) {
		s->st->failovers++;
		s->st->storm_failovers += s->storm_sent > 0;
		s->st->pause_failovers += ft_pauses(s->node[1 - s->prim].ft) > 0;
		s->st->second_failovers += s->rejoined;
		s->st->fo_in_abort += s->fail_in_abort;
		for (unsigned int k = 0; k < sizeof(phases) / sizeof(phases[0]); k++)
			if (!strcmp(s->fail_phase[phases[k].node == NODE_P ? s->prim : 1 - s->prim], phases[k].name)) {
				++*(uint64_t *)((char *)s->st + phases[k].at);
				seen |= 1u << phases[k].node;
			}
		s->st->fo_p_other += !(seen & 1u);
		s->st->fo_s_other += !(seen & 2u);
		for (int i = 0; i < SIM_GCONNS; i++) {
			struct tcb *t = &s->node[1 - s->prim].g.core.c[i].t;

			for (int k = 0; k < SIM_CLIENTS; k++)
				if (t->peer && s->cl[k].addr == t->peer && s->cl[k].port == t->rport && s->w[k].isn_known &&
				    s->w[k].isn != t->iss)
					s->st->translated_at_failover++;
		}
	} else if (pu && !qu) {
		s->st->survived_alone++;
	}
}

static void run(struct sim *s)
{
	struct ev e;
	nstime limit = LIMIT_S * NS_PER_S;

	draw(s);
	while (sim_next(s, &e)) {
		if (++s->n_events > MAX_EVENTS)
			sim_fail(s, "liveness", "more than %d events: a storm", MAX_EVENTS);
		if (s->now > limit)
			stuck(s);
		switch (e.type) {
		case EV_WIRE_CLIENT:
			client_input(s, e.p);
			pkt_free(s, e.p);
			break;
		case EV_CLIENT:
			client_event(s, e.a);
			break;
		case EV_DATAGRAM:
			dgram_send(s);
			break;
		case EV_STORM:
			storm_event(s);
			break;
		case EV_PAUSE:
			pause_event(s);
			break;
		case EV_FAIL:
			node_fail_now(s);
			break;
		case EV_REJOIN:
			join_now(s);
			break;
		case EV_WITNESS:
			witness_late(s, e.node, e.a, e.b);
			break;
		case EV_COLD:
			cold_event(s);
			break;
		default:
			node_event(s, &e);
		}
		/* Its guest has booted anew: nobody's connections are of interest any more. */
		if (s->cold.serves) {
			if (s->now > s->cold.until)
				return;
			continue;
		}
		if (vm_lost(s)) {
			lost(s);
			break;
		}
		if (s->rejoin && !s->rejoin_at && s->fail.done && s->n_events % 16 == 0 && join_due(s)) {
			s->rejoin_at = s->now + us(s, 2000, 60000);
			sim_at(s, s->rejoin_at, EV_REJOIN, 0, 0, 0, NULL);
		}
		if (s->n_events % 16 == 0 && clients_done(s) && dgram_done(s) && pair_settled(s) &&
		    (!s->fail.done || s->now > s->fail.done_at + 50 * NS_PER_MS)) {
			node_finish(s);
			break;
		}
	}
	count_end(s);
	check_end(s);
}

bool sim_run(struct sim *s, uint64_t seed)
{
	wipe(s, seed);
	if (!setjmp(s->out))
		run(s);
	else
		check_end(s);
	s->st->schedules++;
	s->st->events += s->n_events;
	return !s->failed;
}
