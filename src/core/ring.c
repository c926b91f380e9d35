/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The event and action ring: "why did we fail over?", answerable afterwards.
 *
 * Goal: the last steps of the control machine are always there, readable, and can be run again with the same code. The
 * machine is a function of its state, the time and the event; so it is enough to keep the events, and the state at some
 * point before them. The actions are kept too: to be read, and to see that a replay still answers the same.
 *
 * Two rings of fixed size: steps, and their actions (four times as many; a step has one or two, at most FT_MAX_ACTS).
 * Before a step is taken, the whole struct ft is copied when half of either ring has been filled since the last copy.
 * Two copies are kept; the older one thus always lies within what is there, and at least the newer half can be
 * replayed.
 *
 * Control loop only. Memory is taken at the start. A dump is a copy in bytes (ring_io.c); files are the shell's.
 */
#include "core/ring_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ring *ring_new(uint32_t steps)
{
	struct ring *r;

	if (steps < RING_STEPS_MIN || steps > RING_STEPS_MAX)
		return NULL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	r->steps = steps;
	r->acts = steps * RING_ACTS_PER_STEP;
	r->rec = calloc(r->steps, sizeof(*r->rec));
	r->act = calloc(r->acts, sizeof(*r->act));
	if (!r->rec || !r->act) {
		ring_free(r);
		return NULL;
	}
	return r;
}

void ring_free(struct ring *r)
{
	if (!r)
		return;
	free(r->rec);
	free(r->act);
	free(r);
}

static void take_shot(struct ring *r, const struct ft *ft)
{
	if (r->n_shots == 2)
		r->shot[0] = r->shot[1];
	else
		r->n_shots++;
	r->shot[r->n_shots - 1] = (struct ring_shot){ .step = r->next, .act = r->next_act, .ft = *ft };
}

static bool shot_due(const struct ring *r)
{
	const struct ring_shot *last;

	if (!r->n_shots)
		return true;
	last = &r->shot[r->n_shots - 1];
	return r->next - last->step >= r->steps / 2 || r->next_act - last->act + FT_MAX_ACTS >= r->acts / 2;
}

void ring_put(struct ring *r, nstime at, const struct ft_ev *ev, enum ft_state state, const struct ft_acts *acts)
{
	while (r->first < r->next && (r->next - r->first >= r->steps ||
				      r->next_act + acts->n - ring_rec(r, r->first)->act > r->acts))
		r->first++;
	*ring_rec(r, r->next++) = (struct ring_rec){
		.at = at, .ev = *ev, .state = state, .act = r->next_act, .n_acts = acts->n,
	};
	for (unsigned int i = 0; i < acts->n; i++)
		*ring_act(r, r->next_act++) = acts->a[i];
}

void ring_step(struct ring *r, struct ft *ft, nstime now, const struct ft_ev *ev, struct ft_acts *acts)
{
	if (shot_due(r))
		take_shot(r, ft);
	ft_step(ft, now, ev, acts);
	ring_put(r, now, ev, ft_state(ft), acts);
}

size_t ring_count(const struct ring *r)
{
	return r->next - r->first;
}

uint64_t ring_total(const struct ring *r)
{
	return r->next;
}

/* The end of a line in the making. */
struct line {
	char *buf;
	size_t len, used;
};

__attribute__((format(printf, 2, 3)))
static void add(struct line *l, const char *fmt, ...)
{
	size_t left = l->len - l->used;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(l->buf + l->used, left, fmt, ap);
	va_end(ap);
	if (n > 0)
		l->used += (size_t)n < left ? (size_t)n : left - 1;
}

static void add_ctl(struct line *l, const struct ctl_msg *m)
{
	add(l, " %s n=%" PRIu64, ctl_type_name(m->type), m->n);
	if (m->value)
		add(l, " value=%" PRIu64, m->value);
	add(l, " gen=%" PRIu32, m->generation);
}

static const char *net_answer_name(uint64_t value)
{
	switch (value) {
	case NA_CUT: return "cut";
	case NA_DRAINED: return "drained";
	case NA_BARRIER: return "barrier";
	case NA_WANT: return "want";
	case NA_LIKELY: return "likely";
	default: return "?";
	}
}

static void add_event(struct line *l, const struct ft_ev *ev)
{
	add(l, "%s", ft_ev_name(ev->type));
	switch (ev->type) {
	case FE_CTL:
		add_ctl(l, &ev->ctl);
		break;
	case FE_NET:
		add(l, " %s n=%" PRIu64, net_answer_name(ev->value), ev->n);
		if (ev->value == NA_WANT)
			add(l, " cause=%s", ckpt_cause_name(ev->cause));
		break;
	case FE_DONE:
		add(l, " %s n=%" PRIu64 " rc=%d value=%" PRIu64, ft_step_name(ev->step), ev->n, ev->rc, ev->value);
		break;
	case FE_WANT:
		add(l, " cause=%s", ckpt_cause_name(ev->cause));
		break;
	case FE_BULK_BARRIER:
		add(l, " n=%" PRIu64 " value=%" PRIu64, ev->n, ev->value);
		break;
	case FE_LINK_UP:
	case FE_LINK_DOWN:
	case FE_BEAT:
	case FE_SET_DELAY:
		add(l, " value=%" PRIu64, ev->value);
		break;
	default:
		break;
	}
}

static const char *net_order_name(enum net_ev_type t)
{
	switch (t) {
	case NEV_ROLE: return "role";
	case NEV_CLOSE: return "close";
	case NEV_STOPPED: return "stopped";
	case NEV_OPEN: return "open";
	case NEV_STAGED: return "staged";
	case NEV_LOADED: return "loaded";
	case NEV_PROMOTE: return "promote";
	case NEV_ALONE: return "alone";
	case NEV_ANNOUNCE: return "announce";
	default: return "?";
	}
}

static void add_action(struct line *l, const struct ft_act *a)
{
	add(l, " %s", ft_act_name(a->type));
	switch (a->type) {
	case FA_CTL:
		add_ctl(l, &a->ctl);
		break;
	case FA_NET:
		add(l, " %s n=%" PRIu64, net_order_name(a->net), a->n);
		if (a->net == NEV_ROLE)
			add(l, " role=%" PRIu64, a->value);
		break;
	case FA_DO:
		add(l, " %s n=%" PRIu64, ft_step_name(a->step), a->n);
		break;
	case FA_LEASE:
		if (a->value == NS_NEVER)
			add(l, " without limit");
		else
			add(l, " until=%" PRIu64, a->value);
		break;
	case FA_ANNOUNCE:
		add(l, " (%s)", ft_reason_name(a->reason));
		break;
	case FA_CKPT_DONE:
		add(l, " n=%" PRIu64, a->n);
		break;
	case FA_CKPT_ABORT:
		add(l, " n=%" PRIu64 " step=%s", a->n, ft_step_name(a->step));
		break;
	case FA_END:
		add(l, " status=%" PRIu64 " (%s)", a->value, ft_reason_name(a->reason));
		if (a->step != STEP_MAX)
			add(l, " step=%s", ft_step_name(a->step));
		break;
	default:
		break;
	}
}

int ring_print(const struct ring *r, size_t i, char *buf, size_t len)
{
	struct line l = { .buf = buf, .len = len };
	const struct ring_rec *rec;

	if (i >= ring_count(r) || !len)
		return -ENOENT;
	rec = ring_rec(r, r->first + i);
	buf[0] = 0;
	add(&l, "%" PRIu64 " %" PRIu64 ".%06" PRIu64 " ", r->first + i, (uint64_t)(rec->at / NS_PER_S),
	    (uint64_t)(rec->at % NS_PER_S / NS_PER_US));
	add_event(&l, &rec->ev);
	add(&l, " [%s]", ft_state_name(rec->state));
	for (uint32_t k = 0; k < rec->n_acts; k++) {
		add(&l, k ? ";" : " ->");
		add_action(&l, ring_act(r, rec->act + k));
	}
	return (int)l.used;
}

bool ring_view(const struct ring *r, size_t i, struct ring_view *v)
{
	const struct ring_rec *rec;

	if (i >= ring_count(r))
		return false;
	rec = ring_rec(r, r->first + i);
	*v = (struct ring_view){ .n = r->first + i, .at = rec->at, .ev = &rec->ev, .state = rec->state,
				 .was = i ? ring_rec(r, r->first + i - 1)->state : rec->state, .n_acts = rec->n_acts };
	for (uint32_t k = 0; k < rec->n_acts && k < FT_MAX_ACTS; k++)
		v->act[k] = ring_act(r, rec->act + k);
	return true;
}

int ring_event_text(const struct ring_view *v, char *buf, size_t len)
{
	struct line l = { .buf = buf, .len = len };

	if (!len)
		return 0;
	buf[0] = 0;
	/* What is a time of the clock in there means something only as the distance from this step. */
	if (v->ev->type == FE_BEAT && v->ev->value && v->ev->value <= v->at)
		add(&l, "beat answered after=%.2f ms", (double)(v->at - v->ev->value) / NS_PER_MS);
	else if (v->ev->type == FE_BEAT)
		add(&l, "beat");
	else
		add_event(&l, v->ev);
	return (int)l.used;
}

int ring_action_text(const struct ring_view *v, unsigned int k, char *buf, size_t len)
{
	struct line l = { .buf = buf, .len = len };
	const struct ft_act *a = v->act[k];

	if (!len)
		return 0;
	buf[0] = 0;
	if (a->type == FA_LEASE && a->value && a->value != NS_NEVER)
		add(&l, "lease until=%+.1f ms", ((double)a->value - (double)v->at) / NS_PER_MS);
	else
		add_action(&l, a);
	/* The line's parts begin with a blank. */
	if (*buf == ' ')
		memmove(buf, buf + 1, l.used--);
	return (int)l.used;
}

static bool same(const struct ft_act *a, const struct ft_act *b)
{
	return a->type == b->type && a->step == b->step && a->net == b->net && a->reason == b->reason && a->n == b->n &&
	       a->value == b->value && a->ctl.type == b->ctl.type && a->ctl.generation == b->ctl.generation &&
	       a->ctl.n == b->ctl.n && a->ctl.value == b->ctl.value;
}

int ring_replay(const struct ring *r, struct ring_diff *d)
{
	struct ft ft;

	*d = (struct ring_diff){ .state = FT_INIT };
	if (!r->n_shots)
		return -ENODATA;
	ft = r->shot[0].ft;
	for (uint64_t n = r->shot[0].step; n < r->next; n++) {
		const struct ring_rec *rec = ring_rec(r, n);
		bool ok;

		ft_step(&ft, rec->at, &rec->ev, &d->acts);
		d->state = ft_state(&ft);
		ok = d->state == rec->state && d->acts.n == rec->n_acts;
		for (uint32_t k = 0; ok && k < rec->n_acts; k++)
			ok = same(&d->acts.a[k], ring_act(r, rec->act + k));
		if (!ok) {
			d->index = n - r->first;
			return -EILSEQ;
		}
		d->replayed++;
	}
	return 0;
}
