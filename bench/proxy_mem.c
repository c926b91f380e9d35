/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * In memory: a primary and a secondary machine in one thread, what one says to the other is copied into the other's
 * pool, as a read() would. A round: a batch of the client's frames, then both machines until nothing is left to say.
 * The PVM's answers of a batch are all there before the SVM's first, so each one waits and is compared.
 */
#include "proxy_bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BATCH	64	/* frames in one step, as the proxy has it */
#define ACTS	128
#define QUEUE	8192

struct side {
	struct net *net;
	struct net_ev q[QUEUE];
	uint32_t head, n;
	uint32_t room;		/* frame that the guest fills just now */
	uint64_t handled;
};

struct mem {
	struct pb_script s;
	struct side side[2];
	struct net_act acts[ACTS];
	nstime now;
	nstime began;
	uint64_t wants;
	enum net_act_type answer;
	bool answered;
};

static struct net_ev *push(struct mem *m, int i, enum net_ev_type type)
{
	struct side *d = &m->side[i];
	struct net_ev *ev;

	if (d->n == QUEUE) {
		fprintf(stderr, "bench/proxy: more than %d events wait\n", QUEUE);
		exit(1);
	}
	ev = &d->q[(d->head + d->n++) % QUEUE];
	/* What the peer has said is in the one type only, and is filled whole there. */
	memset(ev, 0, offsetof(struct net_ev, msg));
	ev->type = type;
	ev->frame = NET_NONE;
	return ev;
}

static uint32_t take_frame(struct mem *m, int i, bool input)
{
	uint32_t h = net_frame_alloc(m->side[i].net, input);

	if (h == NET_NONE)
		net_frame_missed(m->side[i].net);
	return h;
}

static uint8_t *guest_room(void *arg, int copy)
{
	struct mem *m = arg;
	uint32_t h = take_frame(m, copy, false);

	m->side[copy].room = h;
	return h == NET_NONE ? NULL : net_frame_data(m->side[copy].net, h);
}

static void guest_sent(void *arg, int copy, uint32_t len)
{
	struct mem *m = arg;
	struct side *d = &m->side[copy];

	net_frame_set_len(d->net, d->room, len);
	push(m, copy, NEV_GUEST)->frame = d->room;
}

static void carry_out(struct mem *m, int i, const struct net_act *a)
{
	struct net *net = m->side[i].net;
	const uint8_t *data = a->frame == NET_NONE ? NULL : net_frame_data(net, a->frame);
	uint32_t len = a->frame == NET_NONE ? 0 : net_frame_len(net, a->frame), h = NET_NONE;
	struct net_ev *ev;

	switch (a->type) {
	case NA_TAP:
		pb_client_gets(&m->s, data, len);
		break;
	case NA_GUEST:
		pb_guest_gets(&m->s, i, data, len);
		break;
	case NA_MSG:
		if (data) {
			h = take_frame(m, !i, false);
			if (h == NET_NONE)
				break;
			memcpy(net_frame_data(m->side[!i].net, h), data, len);
			net_frame_set_len(m->side[!i].net, h, len);
		}
		ev = push(m, !i, NEV_MSG);
		ev->frame = h;
		ev->nic = a->msg.nic;
		ev->msg = a->msg;
		break;
	case NA_WANT:
		m->wants++;
		break;
	case NA_CUT:
	case NA_DRAINED:
	case NA_BARRIER:
		m->answer = a->type;
		m->answered = true;
		break;
	default:
		break;
	}
}

static void step(struct mem *m, int i)
{
	struct side *d = &m->side[i];
	struct net_ev *in = &d->q[d->head];
	size_t n = d->n < BATCH ? d->n : BATCH, k;

	if (n > QUEUE - d->head)
		n = QUEUE - d->head;
	for (size_t j = 0; j < n; j++)
		d->handled += in[j].frame != NET_NONE;
	m->now = clock_ns();
	d->head = (d->head + (uint32_t)n) % QUEUE;
	d->n -= (uint32_t)n;
	k = net_step(d->net, m->now, in, n, m->acts, ACTS);
	for (;;) {
		for (size_t j = 0; j < k; j++)
			carry_out(m, i, &m->acts[j]);
		if (k < ACTS)
			break;
		k = net_step(d->net, m->now, NULL, 0, m->acts, ACTS);
	}
}

static void settle(struct mem *m)
{
	while (m->side[0].n || m->side[1].n) {
		if (m->side[0].n)
			step(m, 0);
		if (m->side[1].n)
			step(m, 1);
	}
}

/* Return: whether the client had something to say */
static bool go_round(struct mem *m)
{
	unsigned int k;

	m->s.ms = 1000 + (uint32_t)((clock_ns() - m->began) / NS_PER_MS);
	push(m, 0, NEV_QUIET);
	for (k = 0; k < BATCH; k++) {
		uint32_t h = take_frame(m, 0, true), len;

		if (h == NET_NONE)
			break;
		len = pb_client(&m->s, net_frame_data(m->side[0].net, h));
		if (!len) {
			net_frame_drop(m->side[0].net, h);
			break;
		}
		net_frame_set_len(m->side[0].net, h, len);
		push(m, 0, NEV_TAP)->frame = h;
	}
	settle(m);
	return k > 0;
}

static void ctl(struct mem *m, int i, enum net_ev_type type, uint64_t n, uint32_t arg)
{
	struct net_ev *ev = push(m, i, type);

	ev->n = n;
	ev->arg = arg;
	m->answered = false;
	settle(m);
}

static bool first_checkpoint(struct mem *m)
{
	struct net_ev *ev = push(m, 0, NEV_ROLE);

	/* Both before either says anything. */
	ev->n = 1;
	ev->arg = NET_PRIMARY;
	ctl(m, 1, NEV_ROLE, 1, NET_SECONDARY);
	ctl(m, 0, NEV_CLOSE, 1, 0);
	ctl(m, 0, NEV_QUIET, 0, 0);
	if (!m->answered || m->answer != NA_CUT)
		return false;
	ctl(m, 0, NEV_STOPPED, 1, 0);
	ctl(m, 0, NEV_DRAINED, 0, 0);
	if (!m->answered)
		return false;
	ctl(m, 0, NEV_OPEN, 1, 0);
	ctl(m, 0, NEV_STAGED, 1, 0);
	ctl(m, 1, NEV_LOADED, 1, 0);
	ctl(m, 1, NEV_OPEN, 1, 0);
	ctl(m, 0, NEV_LOADED, 1, 0);
	return true;
}

/* Touch the whole pool, so that what the process holds afterwards grows only where something leaks. */
static void touch(struct net *net, uint32_t n_frames, uint32_t size)
{
	uint32_t *all = malloc(n_frames * sizeof(*all)), n = 0;
	struct net_act act[1];

	if (!all)
		return;
	while (n < n_frames && (all[n] = net_frame_alloc(net, false)) != NET_NONE)
		memset(net_frame_data(net, all[n++]), 0, size);
	while (n--)
		net_frame_drop(net, all[n]);
	free(all);
	/* What was dropped comes free with the next step. */
	net_step(net, clock_ns(), NULL, 0, act, 1);
}

static struct mem *mem_new(const struct pb_shape *shape)
{
	/* Zeroed pages that are in use, not promised: the queues must not look like growth. */
	struct mem *m = mmap(NULL, sizeof(*m), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct net_cfg cfg;

	if (m == MAP_FAILED)
		return NULL;
	net_cfg_default(&cfg, 1, 1500);
	/* The last input of each connection stays in the log, so the log must have room for all and some more. */
	if (shape->flows > cfg.n_log / 4) {
		cfg.n_log = 32768;
		cfg.n_frames = 65536;
		/* The SVM's last answer of each connection counts as held until the next one comes. */
		cfg.max_held += 2 * shape->flows;
	}
	if (pb_script_init(&m->s, shape, false) < 0)
		return NULL;
	m->s.room = guest_room;
	m->s.sent = guest_sent;
	m->s.arg = m;
	m->began = clock_ns();
	for (int i = 0; i < 2; i++) {
		m->side[i].net = net_new(&cfg);
		if (!m->side[i].net)
			return NULL;
		touch(m->side[i].net, cfg.n_frames, cfg.frame_size);
	}
	return m;
}

static void mem_free(struct mem *m)
{
	net_free(m->side[0].net);
	net_free(m->side[1].net);
	pb_script_free(&m->s);
	munmap(m, sizeof(*m));
}

void pb_mem(const struct pb_shape *shape, const struct pb_opts *o, struct pb_result *r)
{
	struct mem *m = mem_new(shape);
	struct pb_meter meter = { 0 };
	uint64_t frames0, handled0;

	if (!m) {
		pb_fail(r, "no memory");
		return;
	}
	if (!first_checkpoint(m)) {
		pb_fail(r, "the first checkpoint does not come about");
		mem_free(m);
		return;
	}
	m->s.check_sums = true;
	while (!pb_ready(&m->s) && go_round(m))
		;
	if (!pb_ready(&m->s)) {
		net_stats_get(m->side[0].net, &r->p);
		net_stats_get(m->side[1].net, &r->s);
		pb_judge(&m->s, r);
		pb_fail(r, "%u of %u connections were opened", m->s.established, shape->flows);
		mem_free(m);
		return;
	}
	/* Warm up, with each checksum looked at. */
	for (uint32_t i = 0; r->ok && i < 500 + 4 * shape->flows / BATCH; i++)
		go_round(m);
	m->s.check_sums = o->quick;
	frames0 = m->s.in + m->s.out;
	handled0 = m->side[0].handled + m->side[1].handled;
	r->rss_before = pb_rss();
	pb_meter_begin(&meter, &m->s, o->window_s);
	while (r->ok) {
		for (int i = 0; i < 16; i++)
			if (!go_round(m))
				pb_fail(r, "nothing more is said");
		if (pb_meter_look(&meter, &m->s))
			break;
	}
	r->rss_after = pb_rss();
	r->frames = m->s.in + m->s.out - frames0;
	r->handled = m->side[0].handled + m->side[1].handled - handled0;
	m->s.stop = true;
	while (go_round(m))
		;
	net_stats_get(m->side[0].net, &r->p);
	net_stats_get(m->side[1].net, &r->s);
	r->wants = m->wants;
	if (r->ok)
		pb_meter_result(&meter, r);
	pb_judge(&m->s, r);
	mem_free(m);
}

struct null_run {
	struct pb_script s;
	uint8_t a[PB_MAX_FRAME], b[PB_MAX_FRAME], answer[2][512][PB_MAX_FRAME];
	uint32_t len[2][512], n[2];
};

static uint8_t *null_room(void *arg, int copy)
{
	struct null_run *u = arg;

	return u->n[copy] < 512 ? u->answer[copy][u->n[copy]] : NULL;
}

static void null_sent(void *arg, int copy, uint32_t len)
{
	struct null_run *u = arg;

	u->len[copy][u->n[copy]++] = len;
}

static bool null_round(struct null_run *u)
{
	uint32_t len;
	bool any = false;

	u->n[0] = u->n[1] = 0;
	for (int k = 0; k < BATCH && (len = pb_client(&u->s, u->a)); k++) {
		any = true;
		memcpy(u->b, u->a, len);
		pb_guest_gets(&u->s, 0, u->a, len);
		pb_guest_gets(&u->s, 1, u->b, len);
	}
	for (uint32_t k = 0; k < u->n[0]; k++) {
		memcpy(u->b, u->answer[1][k], u->len[1][k]);
		pb_client_gets(&u->s, u->answer[0][k], u->len[0][k]);
	}
	return any;
}

double pb_null(const struct pb_shape *shape, const struct pb_opts *o)
{
	struct null_run *u = calloc(1, sizeof(*u));
	struct pb_result r = { .ok = true };
	struct pb_meter meter = { 0 };
	bool going = true;

	if (!u || pb_script_init(&u->s, shape, true) < 0) {
		free(u);
		return 0;
	}
	u->s.room = null_room;
	u->s.sent = null_sent;
	u->s.arg = u;
	u->s.check_sums = o->quick;
	/* A batch of first acknowledgements makes more segments than the answers' room has. */
	if (u->s.bulk_window > 4 && shape->flows > 1)
		u->s.bulk_window = 4;
	while (!pb_ready(&u->s) && null_round(u))
		;
	pb_meter_begin(&meter, &u->s, o->window_s / 5);
	while (going && !pb_meter_look(&meter, &u->s))
		for (int i = 0; i < 64 && going; i++)
			going = null_round(u);
	if (going)
		pb_meter_result(&meter, &r);
	if (u->s.wrong)
		fprintf(stderr, "bench/proxy: the script by itself: %s\n", u->s.what);
	pb_script_free(&u->s);
	free(u);
	return r.ns_frame;
}
