/* SPDX-License-Identifier: BSD-2-Clause */
/* After a promotion: everything into the bases while the VM runs. Theory in standby.c. */
#include <errno.h>
#include <stdlib.h>

#include "disk/standby_internal.h"

static bool has_anything(const struct standby *s, const struct layer *l)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (l->map[i].count)
			return true;
	return false;
}

/* The open layer is one of those that go to the bases; a new one on top of it */
static int seal_top(struct standby *s)
{
	struct layer *top = standby_top(s), *fresh = layer_new(s);

	if (!fresh)
		return -ENOMEM;
	for (unsigned int i = 0; i < s->n; i++)
		overlay_push(&s->disk[i].over, &fresh->map[i]);
	top->id = s->next_id++;
	top->state = LAYER_SEALED;
	s->stack[s->depth++] = fresh;
	return 0;
}

void merge_trouble(struct standby *s, int rc, const char *what)
{
	/* A write that finds no room gets the error itself. */
	s->room = true;
	if (s->hold)
		return;
	s->hold = true;
	if (s->loop)
		loop_timer_set(s->loop, &s->timer, loop_now(s->loop) + STANDBY_RETRY);
	if (s->ops.trouble)
		s->ops.trouble(s->ops.arg, rc, what);
}

static void lose(struct standby *s, struct layer *l)
{
	if (!l)
		return;
	l->dead = true;
	l->next = s->lost;
	s->lost = l;
}

void standby_promote(struct standby *s)
{
	if (s->promoted)
		return;
	s->promoted = true;
	s->failed = false;
	if (s->shared)
		peer_promote_shared(s);
	lose(s, s->aborted);
	lose(s, s->sealed);
	lose(s, s->pending);
	s->aborted = s->sealed = s->pending = NULL;
	if (FAULT(PENDING_KEPT) && s->lost) {
		struct ext e;

		for (uint64_t at = 0; extmap_next(&s->lost->map[0], at, &e); at = e.off + e.len)
			if (e.kind != EXT_DATA)
				layer_put(s, standby_top(s), 0, &e);
	}
	if (s->reserving) {
		s->reserving = false;
		s->res_gen++;
		s->reserved(s->reserved_arg, -ECANCELED);
	}
	/* Sealed at once, or as soon as there is memory for it: until then all writes go into it. */
	s->safe_id = s->next_id;
	if (seal_top(s))
		standby_fail(s, -ENOMEM, "the merge cannot begin");
	s->room = true;
	standby_kick(s);
}

struct range_fn {
	void (*fn)(void *arg, uint64_t off, uint64_t len);
	void *arg;
};

static int range(void *arg, const struct ext *e)
{
	struct range_fn *f = arg;

	f->fn(f->arg, e->off, e->len);
	return 0;
}

void standby_own_ranges(struct standby *s, unsigned int disk, void (*fn)(void *arg, uint64_t off, uint64_t len), void *arg)
{
	struct range_fn f = { fn, arg };

	for (unsigned int i = 0; i < s->depth; i++)
		if (!s->stack[i]->epoch)
			extmap_walk(&s->stack[i]->map[disk], range, &f);
	for (const struct layer *l = s->lost; l; l = l->next)
		extmap_walk(&l->map[disk], range, &f);
	/* Before the promotion: what it will drop */
	const struct layer *const still[] = { s->aborted, s->sealed, s->pending };

	for (unsigned int i = 0; i < sizeof(still) / sizeof(still[0]); i++)
		if (still[i])
			extmap_walk(&still[i]->map[disk], range, &f);
}

static void merged(struct standby *s)
{
	struct layer *l;

	s->merged = true;
	s->st.merges++;
	while ((l = s->lost)) {
		s->lost = l->next;
		layer_bury(s, l);
	}
	s->room = true;
	s->again = true;
	if (s->ops.merged)
		s->ops.merged(s->ops.arg);
}

void merge_step(struct standby *s)
{
	struct layer *top = standby_top(s);
	bool any, asked = false;

	if (!s->promoted || s->merged || s->hold)
		return;
	any = has_anything(s, top);
	if (s->safe_id == s->next_id)
		any = true;	/* of the promotion, could not be sealed then */
	for (const struct io *io = s->flushes; io; io = io->next)
		asked |= io->need == s->next_id;
	if (any && s->depth < OVERLAY_MAX - 1 && (asked || s->depth == 1)) {
		s->rounds += s->depth == 1;
		if (seal_top(s)) {
			standby_fail(s, -ENOMEM, "the merge cannot go on");
			return;
		}
	}
	for (unsigned int i = 0; i + 1 < s->depth; i++) {
		struct layer *l = s->stack[i];

		if (l->state != LAYER_SEALED || l->persisting)
			continue;
		if (l->rc) {
			int rc = l->rc;

			l->rc = 0;
			io_flushed(s, rc);
			standby_fail(s, rc, "the journal of the disks cannot be written");
			return;
		}
		layer_persist(s, l);
	}
	if (s->depth == 1 && !has_anything(s, standby_top(s)) && !s->settling && s->wb.phase == WB_IDLE && s->safe &&
	    !s->flushes)
		merged(s);
}
