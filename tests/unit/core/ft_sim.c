/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two control machines in a small world; see ft_sim.h. Checked at every action:
 * - P5: two nodes never emit at the same time (unless a cut link was planted).
 * - P3: STAGED n is said when the SVM is stopped and drained, both barriers have arrived and n is reserved; n is
 *   applied after that only, loaded when applied, mended when loaded; the SVM runs from n or from its own state,
 *   never from a half.
 * - the primary saves and copies a stopped VM, continues it after both, releases n after STAGED n, begins n + 1 after
 *   LOADED n, or when n was given up, the one before not, and its pages are taken back; a gate that was closed is
 *   opened; epochs grow.
 */
#include "ft_sim.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MS NS_PER_MS

static void act_all(struct sim *s, int i, const struct ft_acts *acts);

uint64_t sim_rand(struct sim *s, uint64_t below)
{
	s->rng ^= s->rng << 13;
	s->rng ^= s->rng >> 7;
	s->rng ^= s->rng << 17;
	return s->rng % below;
}

__attribute__((format(printf, 2, 3)))
static void bad(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	if (s->bad[0])
		return;
	va_start(ap, fmt);
	vsnprintf(s->bad, sizeof(s->bad), fmt, ap);
	va_end(ap);
}

static void put(struct sim *s, struct sim_event e)
{
	if (s->used == SIM_EVENTS) {
		bad(s, "too many events");
		return;
	}
	e.seq = s->seq++;
	s->q[s->used++] = e;
}

static nstime latency(struct sim *s, nstime least, nstime most)
{
	return s->now + least + sim_rand(s, most - least + 1);
}

/* A message on connection @ch towards @to: in order within the connection. */
static void post(struct sim *s, int to, int ch, const struct ft_ev *ev)
{
	nstime at = latency(s, MS / 20, 3 * MS);

	if (at < s->n[to].last_at[ch])
		at = s->n[to].last_at[ch];
	s->n[to].last_at[ch] = at;
	put(s, (struct sim_event){ .at = at, .node = to, .kind = SIM_EV, .life = s->link_life, .ev = *ev });
}

static void local(struct sim *s, int node, nstime most, const struct ft_ev *ev)
{
	put(s, (struct sim_event){ .at = latency(s, MS / 50, most), .node = node, .kind = SIM_EV, .ev = *ev });
}

bool sim_serves(const struct sim *s, int node)
{
	const struct sim_node *n = &s->n[node];

	return !n->dead && !n->ended && n->qemu && n->running && !n->closed && n->role != NET_SECONDARY;
}

static bool emits(const struct sim *s, int node)
{
	return sim_serves(s, node) && !s->n[node].hung && !s->n[node].frozen && s->now < s->n[node].lease;
}

static void check(struct sim *s)
{
	if (!s->cut_ok && emits(s, 0) && emits(s, 1))
		bad(s, "P5: both nodes emit");
	for (int i = 0; i < 2; i++)
		if (s->n[i].ft.refused)
			bad(s, "more than FT_MAX_ACTS actions");
}

void sim_give(struct sim *s, int node, const struct ft_ev *ev)
{
	struct sim_node *n = &s->n[node];
	struct ft_acts acts;

	if (n->dead || n->ended)
		return;
	s->steps++;
	if (n->ring)
		ring_step(n->ring, &n->ft, s->now, ev, &acts);
	else
		ft_step(&n->ft, s->now, ev, &acts);
	if (s->verbose) {
		printf("%9.3f node %d %s %s", (double)s->now / MS, node, ft_ev_name(ev->type),
		       ev->type == FE_CTL ? ctl_type_name(ev->ctl.type) : ev->type == FE_DONE ? ft_step_name(ev->step) : "");
		printf(" n %lu v %lu rc %d ->", (unsigned long)ev->n, (unsigned long)ev->value, ev->rc);
		for (unsigned int i = 0; i < acts.n; i++)
			printf(" %s:%s", ft_act_name(acts.a[i].type),
			       acts.a[i].type == FA_CTL ? ctl_type_name(acts.a[i].ctl.type) :
			       acts.a[i].type == FA_DO ? ft_step_name(acts.a[i].step) : "");
		printf(" [%s %s e%lu]\n", ft_state_name(n->ft.state), ft_phase(&n->ft), (unsigned long)n->ft.epoch);
	}
	n->was[n->ft.state] = true;
	act_all(s, node, &acts);
	check(s);
}

void sim_post(struct sim *s, int node, const struct ft_ev *ev)
{
	put(s, (struct sim_event){ .at = s->now - sim_rand(s, 2) * 100 * MS, .node = node, .kind = SIM_EV, .ev = *ev });
}

static void net_act(struct sim *s, int i, const struct ft_act *a)
{
	struct sim_node *n = &s->n[i];
	struct ft_ev ev = { .type = FE_NET, .n = a->n };

	switch (a->net) {
	case NEV_ROLE:
		n->role = (enum net_role)a->value;
		n->closed = a->value == NET_SECONDARY;
		n->alone = a->value == NET_ALONE;
		break;
	case NEV_CLOSE:
		if (n->closed)
			bad(s, "node %d: CLOSE %lu, but closed", i, (unsigned long)a->n);
		if (a->n <= n->closed_n)
			bad(s, "node %d: CLOSE %lu again", i, (unsigned long)a->n);
		if (n->role == NET_PRIMARY && n->closed_n && !n->alone && n->net_loaded_n != n->closed_n &&
		    n->aborted_n != n->closed_n)
			bad(s, "node %d: CLOSE %lu before LOADED", i, (unsigned long)a->n);
		n->closed = true;
		n->closed_n = a->n;
		ev.value = NA_CUT;
		local(s, i, 2 * MS, &ev);
		break;
	case NEV_STOPPED:
		if (n->stopped_n != a->n)
			bad(s, "node %d: STOPPED %lu is not true", i, (unsigned long)a->n);
		ev.value = NA_DRAINED;
		local(s, i, 2 * MS, &ev);
		if (n->role == NET_PRIMARY && s->link) {
			ev.value = NA_BARRIER;
			post(s, 1 - i, 1, &ev);
		}
		break;
	case NEV_OPEN:
		if (!n->closed)
			bad(s, "node %d: OPEN %lu, but open", i, (unsigned long)a->n);
		n->closed = false;
		break;
	case NEV_STAGED:
		if (s->n[1 - i].staged_n != a->n)
			bad(s, "P1: node %d releases %lu before STAGED", i, (unsigned long)a->n);
		n->net_staged_n = a->n;
		break;
	case NEV_LOADED:
		if (n->role == NET_PRIMARY && n->net_staged_n != a->n)
			bad(s, "node %d: LOADED %lu before STAGED", i, (unsigned long)a->n);
		if (n->role == NET_SECONDARY && n->mended_n != a->n)
			bad(s, "node %d: LOADED %lu not loaded", i, (unsigned long)a->n);
		n->net_loaded_n = a->n;
		break;
	case NEV_PROMOTE:
		if (n->role != NET_SECONDARY)
			bad(s, "node %d: PROMOTE, but role %d", i, n->role);
		n->role = NET_ALONE;
		n->promoted = true;
		n->alone = true;
		break;
	case NEV_ALONE:
		if (n->role == NET_SECONDARY)
			bad(s, "node %d: ALONE as a secondary", i);
		n->role = NET_ALONE;
		n->alone = true;
		break;
	default:
		bad(s, "node %d: net event %d", i, a->net);
	}
}

static void do_act(struct sim *s, int i, const struct ft_act *a)
{
	struct sim_node *n = &s->n[i], *peer = &s->n[1 - i];
	struct ft_ev ev = { .type = FE_DONE, .step = a->step, .n = a->n };
	nstime most = 2 * MS;
	bool fails = s->fail_times && s->fail_node == i && (s->fail_step == (int)a->step || s->fail_step < 0);

	/* What another try is for. */
	if (s->fail_step < 0)
		fails = fails && !sim_rand(s, 2) &&
			(a->step == STEP_SAVE || a->step == STEP_COPY || a->step == STEP_SEND);
	switch (a->step) {
	case STEP_SAVE:
	case STEP_COPY:
		if (n->running && !n->hung)
			bad(s, "node %d: %s of a running VM", i, ft_step_name(a->step));
		if (n->aborted_n && n->aborted_n + 1 == a->n && n->again_n != n->aborted_n)
			bad(s, "node %d: %s %lu without the pages of the one before", i, ft_step_name(a->step),
			    (unsigned long)a->n);
		break;
	case STEP_APPLY:
		if (n->staged_n != a->n)
			bad(s, "P3: node %d applies %lu before STAGED", i, (unsigned long)a->n);
		break;
	case STEP_LOAD:
		if (n->applied_n != a->n)
			bad(s, "P3: node %d loads %lu before it is applied", i, (unsigned long)a->n);
		break;
	case STEP_MEND:
		if (n->loaded_n != a->n)
			bad(s, "P3: node %d mends %lu before it is loaded", i, (unsigned long)a->n);
		break;
	case STEP_CONT:
		if (n->role == NET_SECONDARY && !n->promoted && n->mended_n != a->n)
			bad(s, "node %d: the SVM runs on from its own state, and is not promoted", i);
		if (n->staged_n == a->n && n->mended_n != a->n && a->n)
			bad(s, "P3: node %d continues the old SVM after STAGED %lu", i, (unsigned long)a->n);
		break;
	case STEP_PRECOPY:
		ev.value = sim_rand(s, 5000) | (uint64_t)sim_rand(s, 5000) << 32;
		most = 40 * MS;
		break;
	case STEP_ROUND:
		ev.value = sim_rand(s, 5000);
		most = 40 * MS;
		break;
	case STEP_SEND:
		if (n->copied_n != a->n || n->saved_n != a->n)
			bad(s, "node %d sends %lu that it does not have", i, (unsigned long)a->n);
		if (s->stall || !s->link)
			return;
		if (!fails)
			post(s, 1 - i, 2, &(struct ft_ev){ .type = FE_BULK_BARRIER, .n = a->n });
		break;
	case STEP_AGAIN:
		if (n->aborted_n != a->n)
			bad(s, "node %d takes back %lu, which was not given up", i, (unsigned long)a->n);
		break;
	case STEP_RESTART:
		n->qemu_life++;
		n->qemu = true;
		n->hung = false;
		n->running = false;
		most = 200 * MS;
		break;
	default:
		break;
	}
	(void)peer;
	if (fails) {
		s->fail_times--;
		ev.rc = s->fail_rc;
	}
	put(s, (struct sim_event){ .at = latency(s, MS / 50, most), .node = i, .kind = SIM_EV, .ev = ev,
				   .life = n->qemu_life });
}

static void link_closed(struct sim *s, int seen_by, uint64_t how)
{
	if (s->link)
		s->link_life++;
	s->link = false;
	/* Behind what is on the way already. */
	for (int ch = 1; ch < 3; ch++)
		if (s->n[seen_by].last_at[0] < s->n[seen_by].last_at[ch])
			s->n[seen_by].last_at[0] = s->n[seen_by].last_at[ch];
	post(s, seen_by, 0, &(struct ft_ev){ .type = FE_LINK_DOWN, .value = how });
}

static void act_all(struct sim *s, int i, const struct ft_acts *acts)
{
	struct sim_node *n = &s->n[i];

	for (unsigned int k = 0; k < acts->n; k++) {
		const struct ft_act *a = &acts->a[k];

		switch (a->type) {
		case FA_CTL:
			if (a->ctl.type == CTL_PROMOTE && n->qemu)
				bad(s, "P5: node %d says PROMOTE and its QEMU lives", i);
			if (a->ctl.type == CTL_STAGED) {
				if (n->barrier_n != a->ctl.n || n->marker_n != a->ctl.n || n->reserved_n != a->ctl.n)
					bad(s, "P3: node %d says STAGED %lu too early", i, (unsigned long)a->ctl.n);
				if (n->running)
					bad(s, "P3: node %d says STAGED %lu, the SVM runs", i, (unsigned long)a->ctl.n);
				n->staged_n = a->ctl.n;
			}
			if (a->ctl.type == CTL_ABORT) {
				if (n->aborted_n && n->aborted_n + 1 == a->ctl.n)
					bad(s, "node %d gives up %lu as well as the one before", i,
					    (unsigned long)a->ctl.n);
				n->aborted_n = a->ctl.n;
			}
			if (s->link)
				post(s, 1 - i, 0, &(struct ft_ev){ .type = FE_CTL, .ctl = a->ctl });
			break;
		case FA_NET:
			net_act(s, i, a);
			break;
		case FA_DO:
			do_act(s, i, a);
			break;
		case FA_DROP_LINK:
			n->muted = true;
			if (s->link)
				link_closed(s, 1 - i, 1);
			break;
		case FA_MUTE:
			n->muted = true;
			break;
		case FA_LEASE:
			n->lease = a->value;
			break;
		case FA_KILL_QEMU:
			n->qemu = n->running = false;
			n->qemu_life++;
			break;
		case FA_END:
			if (n->qemu)
				bad(s, "node %d ended, QEMU lives", i);
			n->ended = true;
			n->exit = a->value;
			n->why = a->reason;
			break;
		default:
			break;
		}
	}
}

/* What a step has done to the world when its answer comes; false: the answer never comes. */
static bool step_effect(struct sim *s, struct sim_node *n, const struct sim_event *e)
{
	const struct ft_ev *ev = &e->ev;
	bool of_memory = ev->step == STEP_ROUND || ev->step == STEP_PRECOPY || ev->step == STEP_SEND ||
			 ev->step == STEP_RESERVE || ev->step == STEP_AGAIN;
	bool of_qemu = !of_memory && ev->step != STEP_FORGET && ev->step != STEP_COPY;

	if (e->life != n->qemu_life && !of_memory)
		return false;
	if (of_qemu && (!n->qemu || n->hung))
		return false;
	/* A refused cont is a guest that was shut down or has panicked: as good as running, for what is checked. */
	if (ev->rc && ev->step == STEP_CONT && ev->rc != -ETIMEDOUT)
		n->running = true;
	if (ev->rc)
		return true;
	switch (ev->step) {
	case STEP_STOP:
		n->running = false;
		n->stopped_n = ev->n;
		break;
	case STEP_CONT:
		n->running = true;
		break;
	case STEP_SAVE:
		n->saved_n = ev->n;
		break;
	case STEP_COPY:
		n->copied_n = ev->n;
		break;
	case STEP_AGAIN:
		n->again_n = ev->n;
		break;
	case STEP_RESERVE:
		n->reserved_n = ev->n;
		break;
	case STEP_APPLY:
		n->applied_n = ev->n;
		break;
	case STEP_LOAD:
		n->loaded_n = ev->n;
		break;
	case STEP_MEND:
		n->mended_n = ev->n;
		break;
	case STEP_RESTART:
		n->applied_n = n->loaded_n = 0;
		break;
	default:
		break;
	}
	return true;
}

static void beat(struct sim *s, struct sim_event e)
{
	struct sim_node *n = &s->n[e.node], *peer = &s->n[1 - e.node];

	if (n->dead || n->ended)
		return;
	e.at = s->now + 50 * MS;
	put(s, e);
	if (s->link && !peer->dead && !peer->ended && !peer->frozen && !peer->muted && !n->muted) {
		n->heard = s->now;
		n->silent = false;
		peer->heard = s->now;
		peer->silent = false;
		sim_give(s, 1 - e.node, &(struct ft_ev){ .type = FE_BEAT });
		sim_give(s, e.node, &(struct ft_ev){ .type = FE_BEAT, .value = s->now - 2 * MS });
	} else if (s->link && !n->silent && s->now - n->heard >= 500 * MS) {
		n->silent = true;
		put(s, (struct sim_event){ .at = s->now, .node = e.node, .timer = true, .kind = SIM_EV,
					   .ev = { .type = FE_SILENT } });
	}
}

/* When an event comes; a timer's, which a freeze has kept, not before the mail that is there at the thaw. */
static nstime comes(const struct sim *s, const struct sim_event *e)
{
	return e->timer && e->at < s->now ? s->now : e->at;
}

static int next_event(const struct sim *s)
{
	int best = -1;

	for (unsigned int i = 0; i < s->used; i++) {
		const struct sim_event *a = &s->q[i], *b = best < 0 ? NULL : &s->q[best];

		/* A frozen node sees nothing until it thaws; its mail waits. */
		if (s->n[a->node].frozen && a->kind != SIM_THAW)
			continue;
		if (!b || comes(s, a) < comes(s, b) || (comes(s, a) == comes(s, b) && (a->timer < b->timer ||
		    (a->timer == b->timer && a->seq < b->seq))))
			best = (int)i;
	}
	return best;
}

bool sim_step(struct sim *s)
{
	int i = next_event(s), tick = -1;
	nstime at = NS_NEVER;
	struct sim_event e;

	if (s->bad[0])
		return false;
	for (int k = 0; k < 2; k++) {
		struct sim_node *n = &s->n[k];

		if (n->dead || n->ended || n->frozen || ft_deadline(&n->ft) >= at)
			continue;
		at = ft_deadline(&n->ft);
		tick = k;
	}
	if (tick >= 0 && (i < 0 || (at < s->q[i].at && s->q[i].at > s->now))) {
		if (at > s->now)
			s->now = at;
		sim_give(s, tick, &(struct ft_ev){ .type = FE_TICK });
		return !s->bad[0];
	}
	if (i < 0)
		return false;
	e = s->q[i];
	s->q[i] = s->q[--s->used];
	if (e.at > s->now)
		s->now = e.at;
	if (e.kind == SIM_BEAT) {
		beat(s, e);
	} else if (e.kind == SIM_THAW) {
		s->n[e.node].frozen = false;
	} else if (!s->n[e.node].dead && !s->n[e.node].ended) {
		if (e.ev.type == FE_DONE && !step_effect(s, &s->n[e.node], &e))
			return true;
		if (e.ev.type == FE_BULK_BARRIER)
			s->n[e.node].marker_n = e.ev.n;
		if (e.ev.type == FE_NET && e.ev.value == NA_BARRIER)
			s->n[e.node].barrier_n = e.ev.n;
		if (e.ev.type == FE_NET && e.ev.value == NA_DRAINED)
			s->n[e.node].drained_n = e.ev.n;
		sim_give(s, e.node, &e.ev);
	}
	return !s->bad[0];
}

void sim_run(struct sim *s, nstime until)
{
	while (s->now < until && sim_step(s))
		;
}

void sim_start(struct sim *s, uint64_t seed)
{
	memset(s, 0, sizeof(*s));
	s->seed = seed;
	s->rng = seed * 0x9e3779b97f4a7c15ull + 1;
	s->now = NS_PER_S;
	s->link = true;
	s->link_life = 1;
	for (int i = 0; i < 2; i++) {
		struct ft_cfg cfg;

		ft_cfg_default(&cfg, i ? FT_SECONDARY : FT_PRIMARY);
		cfg.checkpoint_delay = 300 * MS;
		ft_init(&s->n[i].ft, &cfg, 1);
		s->n[i].qemu = true;
		s->n[i].heard = s->now;
		local(s, i, MS, &(struct ft_ev){ .type = FE_START });
		put(s, (struct sim_event){ .at = s->now + 2 * MS, .node = i, .kind = SIM_EV,
					   .ev = { .type = FE_LINK_UP, .value = 1 } });
		put(s, (struct sim_event){ .at = s->now + 5 * MS, .node = i, .kind = SIM_BEAT });
	}
}

void sim_kill(struct sim *s, int node)
{
	struct sim_node *n = &s->n[node];

	n->dead = true;
	n->qemu = n->running = false;
	if (s->link)
		link_closed(s, 1 - node, 1);
}

void sim_kill_qemu(struct sim *s, int node)
{
	struct sim_node *n = &s->n[node];

	if (n->dead || n->ended || !n->qemu)
		return;
	n->qemu = n->running = false;
	n->qemu_life++;
	local(s, node, MS, &(struct ft_ev){ .type = FE_QEMU_DIED });
}

void sim_hang_qemu(struct sim *s, int node)
{
	struct sim_node *n = &s->n[node];

	if (n->dead || n->ended || !n->qemu)
		return;
	n->hung = true;
	put(s, (struct sim_event){ .at = s->now + 2 * NS_PER_S, .node = node, .kind = SIM_EV,
				   .ev = { .type = FE_QEMU_HUNG } });
}

void sim_freeze(struct sim *s, int node, nstime how_long)
{
	s->n[node].frozen = true;
	put(s, (struct sim_event){ .at = s->now + how_long, .node = node, .kind = SIM_THAW });
}

void sim_link_error(struct sim *s)
{
	if (!s->link)
		return;
	s->cut_ok = true;
	link_closed(s, 0, 0);
	link_closed(s, 1, 0);
}
