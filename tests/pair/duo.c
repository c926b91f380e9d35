/* SPDX-License-Identifier: BSD-2-Clause */
#include "duo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ACTS	64
#define QUEUE	4096

struct side {
	struct net *net;
	struct net_ev q[QUEUE];
	uint32_t head, n;
};

struct duo {
	struct side side[2];
	void (*out)(void *arg, enum duo_port to, const uint8_t *f, uint32_t len);
	void *arg;
	uint32_t wants[CAUSE_MAX];
	enum net_act_type answer;
};

static struct net_ev *push(struct duo *d, int i, enum net_ev_type type)
{
	struct side *s = &d->side[i];
	struct net_ev *ev = &s->q[(s->head + s->n++) % QUEUE];

	if (s->n > QUEUE) {
		fprintf(stderr, "more than %d events wait\n", QUEUE);
		abort();
	}
	memset(ev, 0, sizeof(*ev));
	ev->type = type;
	ev->frame = NET_NONE;
	return ev;
}

static uint32_t copy_in(struct net *net, const uint8_t *f, uint32_t len, bool input)
{
	uint32_t h = net_frame_alloc(net, input);

	if (h == NET_NONE) {
		net_frame_missed(net);
		return h;
	}
	memcpy(net_frame_data(net, h), f, len);
	net_frame_set_len(net, h, len);
	return h;
}

static void carry_out(struct duo *d, int i, const struct net_act *a)
{
	struct net *net = d->side[i].net;
	const uint8_t *f = a->frame == NET_NONE ? NULL : net_frame_data(net, a->frame);
	uint32_t len = f ? net_frame_len(net, a->frame) : 0;
	struct net_ev *ev;

	switch (a->type) {
	case NA_TAP:
		/* The secondary stays silent: what it says is a fault that the client's side must see. */
		d->out(d->arg, DUO_CLIENT, f, len);
		break;
	case NA_GUEST:
		d->out(d->arg, i ? DUO_SVM : DUO_PVM, f, len);
		break;
	case NA_MSG:
		ev = push(d, !i, NEV_MSG);
		ev->nic = a->msg.nic;
		ev->msg = a->msg;
		if (f)
			ev->frame = copy_in(d->side[!i].net, f, len, false);
		break;
	case NA_WANT:
		d->wants[a->arg < CAUSE_MAX ? a->arg : 0]++;
		break;
	case NA_CUT:
	case NA_DRAINED:
	case NA_BARRIER:
		d->answer = a->type;
		break;
	default:
		break;
	}
}

static void step(struct duo *d, nstime now, int i, bool event)
{
	struct side *s = &d->side[i];
	struct net_act acts[ACTS];
	struct net_ev ev;
	size_t k;

	if (event) {
		ev = s->q[s->head];
		s->head = (s->head + 1) % QUEUE;
		s->n--;
	}
	k = net_step(s->net, now, &ev, event, acts, ACTS);
	for (;;) {
		for (size_t j = 0; j < k; j++)
			carry_out(d, i, &acts[j]);
		if (k < ACTS)
			break;
		k = net_step(s->net, now, NULL, 0, acts, ACTS);
	}
}

static void settle(struct duo *d, nstime now)
{
	while (d->side[0].n || d->side[1].n)
		step(d, now, d->side[0].n == 0, true);
}

void duo_frame(struct duo *d, nstime now, enum duo_port from, const uint8_t *f, uint32_t len)
{
	static const enum net_ev_type type[] = { NEV_TAP, NEV_GUEST, NEV_GUEST };
	int i = from == DUO_SVM;
	uint32_t h = copy_in(d->side[i].net, f, len, from == DUO_CLIENT);

	if (h == NET_NONE)
		return;
	push(d, i, type[from])->frame = h;
	settle(d, now);
}

void duo_tick(struct duo *d, nstime now)
{
	step(d, now, 0, false);
	step(d, now, 1, false);
	settle(d, now);
}

nstime duo_deadline(const struct duo *d)
{
	nstime a = net_deadline(d->side[0].net), b = net_deadline(d->side[1].net);

	return a < b ? a : b;
}

static bool ctl(struct duo *d, nstime now, int i, enum net_ev_type type, uint32_t arg, enum net_act_type wanted)
{
	struct net_ev *ev = push(d, i, type);

	ev->n = 1;
	ev->arg = arg;
	d->answer = NA_TAP;
	settle(d, now);
	return wanted == NA_TAP || d->answer == wanted;
}

static bool first_checkpoint(struct duo *d, nstime now)
{
	struct net_ev *ev = push(d, 0, NEV_ROLE);

	/* Both before either says anything. */
	ev->n = 1;
	ev->arg = NET_PRIMARY;
	ctl(d, now, 1, NEV_ROLE, NET_SECONDARY, NA_TAP);
	ctl(d, now, 0, NEV_CLOSE, 0, NA_TAP);
	return ctl(d, now, 0, NEV_QUIET, 0, NA_CUT) && ctl(d, now, 0, NEV_STOPPED, 0, NA_TAP) &&
	       ctl(d, now, 0, NEV_DRAINED, 0, NA_BARRIER) && ctl(d, now, 0, NEV_OPEN, 0, NA_TAP) &&
	       ctl(d, now, 0, NEV_STAGED, 0, NA_TAP) && ctl(d, now, 1, NEV_LOADED, 0, NA_TAP) &&
	       ctl(d, now, 1, NEV_OPEN, 0, NA_TAP) && ctl(d, now, 0, NEV_LOADED, 0, NA_TAP);
}

struct duo *duo_new(nstime now, void (*out)(void *arg, enum duo_port to, const uint8_t *f, uint32_t len), void *arg)
{
	struct duo *d = calloc(1, sizeof(*d));
	struct net_cfg cfg;

	if (!d)
		return NULL;
	d->out = out;
	d->arg = arg;
	net_cfg_default(&cfg, 1, 1500);
	/* As `lockstep run`, but for sizes that a few connections need. */
	cfg.n_frames = 4096;
	cfg.n_flows = 2048;
	cfg.n_log = 2048;
	memcpy(cfg.mac[0], "\x52\x54\x00\x00\x02\x10", 6);
	for (int i = 0; i < 2; i++)
		d->side[i].net = net_new(&cfg);
	if (!d->side[0].net || !d->side[1].net || !first_checkpoint(d, now)) {
		duo_free(d);
		return NULL;
	}
	return d;
}

void duo_free(struct duo *d)
{
	if (!d)
		return;
	net_free(d->side[0].net);
	net_free(d->side[1].net);
	free(d);
}

void duo_stats(const struct duo *d, struct net_stats *p, struct net_stats *s)
{
	net_stats_get(d->side[0].net, p);
	net_stats_get(d->side[1].net, s);
}

uint32_t duo_wants(const struct duo *d, enum ckpt_cause cause)
{
	uint32_t n = 0;

	if (cause < CAUSE_MAX)
		return d->wants[cause];
	for (int i = 0; i < CAUSE_MAX; i++)
		n += d->wants[i];
	return n;
}
