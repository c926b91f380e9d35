/* SPDX-License-Identifier: BSD-2-Clause */
/* Headers, and what they name into the bases. Theory in standby.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/standby_internal.h"

static bool empty(const struct standby *s, const struct layer *l)
{
	for (unsigned int i = 0; i < s->n; i++)
		if (l->map[i].count)
			return false;
	return true;
}

static void journaled(struct standby *s)
{
	for (unsigned int i = 0; i < s->depth && s->stack[i]->state >= LAYER_JOURNALED; i++)
		if (s->stack[i]->id > s->journaled)
			s->journaled = s->stack[i]->id;
	if (s->promoted && s->journaled >= s->safe_id && !s->safe) {
		s->safe = true;
		if (s->ops.safe)
			s->ops.safe(s->ops.arg);
		/* What has waited may go straight to the base. */
		s->room = true;
	}
	io_flushed(s, 0);
}

/* The lowest layer is in the bases and in no header */
static void retire(struct standby *s)
{
	struct layer *l = s->stack[0];

	for (unsigned int i = 0; i < s->n; i++)
		overlay_drop(&s->disk[i].over, &l->map[i]);
	s->depth--;
	memmove(&s->stack[0], &s->stack[1], s->depth * sizeof(s->stack[0]));
	layer_bury(s, l);
	s->room = true;
}

/* What is in the file and not durable may be lost: all of it once more, unless a header may name it (then it is durable) */
static void write_again(struct standby *s)
{
	for (unsigned int i = 0; i < s->depth; i++) {
		struct layer *l = s->stack[i];

		if (l->state > LAYER_READY || l->named)
			continue;
		arena_soil(&s->a, &l->bytes);
		l->again = l->persisting;
		if (l->state != LAYER_READY)
			continue;
		if (l->index.slots)
			journal_index_free(s->j, &l->index);
		memset(&l->index, 0, sizeof(l->index));
		l->state = LAYER_SEALED;
	}
}

static void settled(void *arg, int rc, bool named)
{
	struct standby *s = arg;
	uint64_t before = s->epoch;

	s->settling = false;
	if (rc) {
		for (unsigned int i = 0; i < s->depth && named; i++)
			if (s->stack[i]->state == LAYER_READY && s->stack[i]->id <= s->settle_ready)
				s->stack[i]->named = true;
		write_again(s);
		/* Whoever waits for the journal must know. That the bases cannot be written is no matter of his: it is tried again. */
		io_flushed(s, rc);
		standby_fail(s, rc, "the journal of the disks cannot be written");
		standby_kick(s);
		return;
	}
	for (unsigned int i = 0; i < s->depth; i++)
		if (s->stack[i]->state == LAYER_READY && s->stack[i]->id <= s->settle_ready)
			s->stack[i]->state = LAYER_JOURNALED;
	while (s->stack[0]->state == LAYER_WRITTEN && s->stack[0]->id <= s->settle_written)
		retire(s);
	s->epoch = s->settle_epoch;
	journaled(s);
	if (FAULT(COMMITTED_EARLY))
		for (unsigned int i = 0; i < s->depth; i++)
			if (s->stack[i]->state == LAYER_JOURNALED && s->stack[i]->epoch > s->epoch)
				s->epoch = s->stack[i]->epoch;
	if (s->epoch != before)
		s->ops.committed(s->ops.arg, s->epoch);
	standby_kick(s);
}

static void settle_step(struct standby *s)
{
	struct journal_layer layers[JOURNAL_LAYERS];
	bool ready = false, written = false, in_order = true;
	unsigned int n = 0;

	if (s->settling || s->failed || s->hold)
		return;
	s->settle_epoch = s->epoch;
	s->settle_ready = s->settle_written = 0;
	for (unsigned int i = 0; i < s->depth; i++) {
		struct layer *l = s->stack[i];

		/* Nothing has to be written for a layer that says nothing. */
		if (l->state == LAYER_READY && in_order && !ready && empty(s, l))
			l->state = LAYER_JOURNALED;
		switch (l->state) {
		case LAYER_WRITTEN:
			written = true;
			s->settle_written = l->id;
			if (l->epoch > s->settle_epoch)
				s->settle_epoch = l->epoch;
			continue;
		case LAYER_READY:
			if (!in_order)
				continue;
			ready = true;
			s->settle_ready = l->id;
			break;
		case LAYER_JOURNALED:
			break;
		default:
			in_order = false;
			continue;
		}
		if (l->index.layer.blocks)
			layers[n++] = l->index.layer;
	}
	journaled(s);
	if (!ready && !written)
		return;
	s->settling = true;
	if (FAULT(LAYER_ORDER) && n > 1) {
		struct journal_layer l = layers[0];

		layers[0] = layers[n - 1];
		layers[n - 1] = l;
	}
	journal_settle(s->j, layers, n, s->settle_epoch, ready, settled, s);
}

/* Writing back. */

struct wb_req {
	struct blk_req r;
	struct journal_job job;
	struct standby *s;
	struct disk *d;
	uint64_t loc;
	bool pinned;
	uint8_t *buf;		/* if the bytes had to be gathered or read */
};

static void wb_finish(struct wb_req *q, int rc)
{
	struct standby *s = q->s;

	if (q->pinned)
		arena_unpin(&s->a, q->loc);
	if (!rc)
		s->st.written_back += q->r.len;
	else if (!s->wb.rc)
		s->wb.rc = rc;
	free(q->buf);
	free(q);
	s->wb.inflight--;
	standby_kick(s);
}

static void wb_done(struct blk_req *r, int rc)
{
	struct wb_req *q = r->arg;

	if (rc && r->op == BLK_FLUSH)
		io_loss(q->d, !q->s->promoted);
	wb_finish(q, rc);
}

static void wb_read(struct journal_job *job)
{
	struct wb_req *q = job->arg;

	if (job->rc)
		wb_finish(q, job->rc);
	else
		blk_submit(q->d->base, &q->r);
}

/* Small extents whose bytes are in memory and which follow one another on the disk become one write */
static void gather(struct standby *s, struct wb_req *q, const struct overlay *o, struct ext *first)
{
	uint64_t size = q->d->base->size, len = first->len;
	struct ext e;

	if (len >= WB_GATHER / 4 || !overlay_at(o, first->off + len, size, &e) || e.kind != EXT_DATA ||
	    !arena_mem(&s->a, e.loc))
		return;
	q->buf = malloc(WB_GATHER);
	if (!q->buf)
		return;
	memcpy(q->buf, arena_mem(&s->a, first->loc), len);
	while (first->off + len < size && overlay_at(o, first->off + len, size, &e) && e.kind == EXT_DATA &&
	       e.len <= WB_GATHER - len && arena_mem(&s->a, e.loc)) {
		memcpy(q->buf + len, arena_mem(&s->a, e.loc), e.len);
		len += e.len;
	}
	first->len = len;
}

static void wb_write(struct standby *s, struct disk *d, struct ext *e)
{
	const struct overlay *o = &s->wb.over[d->i];
	struct wb_req *q = calloc(1, sizeof(*q));
	const uint8_t *p = NULL;

	if (!q) {
		s->wb.rc = -ENOMEM;
		return;
	}
	q->s = s;
	q->d = d;
	s->wb.inflight++;
	if (e->kind == EXT_DATA) {
		p = arena_mem(&s->a, e->loc);
		if (p)
			gather(s, q, o, e);
		else if (!(q->buf = malloc(e->len)))
			s->wb.rc = -ENOMEM;
		q->loc = e->loc;
		q->pinned = !p || !q->buf;
		if (q->pinned)
			arena_pin(&s->a, e->loc);
	}
	q->r = (struct blk_req){ .op = e->kind == EXT_DATA ? BLK_WRITE : BLK_ZERO,
				 .flags = e->kind == EXT_ZERO ? BLK_NO_HOLE : 0, .off = e->off, .len = e->len,
				 .buf = q->buf ? q->buf : (uint8_t *)p, .done = wb_done, .arg = q };
	s->wb.pos = e->off + e->len;
	if (s->wb.rc) {
		wb_finish(q, s->wb.rc);
	} else if (e->kind == EXT_DATA && !p) {
		q->job = (struct journal_job){ .op = JOURNAL_READ, .buf = q->buf, .len = e->len,
					       .off = arena_file(&s->a, e->loc), .done = wb_read, .arg = q };
		journal_submit(s->j, &q->job);
	} else {
		blk_submit(d->base, &q->r);
	}
}

static void batch(struct standby *s)
{
	memset(s->wb.over, 0, s->n * sizeof(*s->wb.over));
	s->wb.last = 0;
	for (unsigned int i = 0; i < s->depth; i++) {
		struct layer *l = s->stack[i];

		if (l->state == LAYER_WRITTEN)
			continue;
		if (l->state != LAYER_JOURNALED && !(FAULT(BASE_EARLY) && l->state == LAYER_READY))
			break;
		for (unsigned int d = 0; d < s->n; d++)
			overlay_push(&s->wb.over[d], &l->map[d]);
		s->wb.last = l->id;
	}
	if (!s->wb.last)
		return;
	s->wb.disk = 0;
	s->wb.pos = 0;
	s->wb.rc = 0;
	s->wb.phase = WB_WAIT;
	/* What the VM is writing straight to the bases was there first. */
	s->phase ^= 1;
}

static void write_step(struct standby *s)
{
	struct writeback *w = &s->wb;

	while (w->disk < s->n && w->inflight < WB_DEPTH && !w->rc) {
		struct disk *d = &s->disk[w->disk];
		struct ext e;
		uint64_t next;

		if (!overlay_next(&w->over[w->disk], w->pos, d->base->size, &next)) {
			w->disk++;
			w->pos = 0;
			continue;
		}
		overlay_at(&w->over[w->disk], next, d->base->size, &e);
		wb_write(s, d, &e);
	}
}

static void flush_step(struct standby *s)
{
	struct writeback *w = &s->wb;

	for (w->disk = 0; w->disk < s->n; w->disk++) {
		struct wb_req *q = calloc(1, sizeof(*q));

		if (!q) {
			w->rc = -ENOMEM;
			break;
		}
		q->s = s;
		q->d = &s->disk[w->disk];
		q->r = (struct blk_req){ .op = BLK_FLUSH, .done = wb_done, .arg = q };
		w->inflight++;
		blk_submit(s->disk[w->disk].base, &q->r);
	}
}

static void batch_end(struct standby *s)
{
	struct writeback *w = &s->wb;

	w->phase = WB_IDLE;
	if (w->rc) {
		/* A flush that has failed may have lost what was written before: all of it once more. */
		standby_fail(s, w->rc, "committed epochs, which the journal has until then, cannot be written to the disk");
		return;
	}
	for (unsigned int i = 0; i < s->depth; i++) {
		struct layer *l = s->stack[i];

		if (l->state != LAYER_JOURNALED || l->id > w->last)
			continue;
		l->state = LAYER_WRITTEN;
		if (FAULT(SLOTS_EARLY) && l->index.slots)
			journal_index_free(s->j, &l->index);
	}
	s->again = true;
}

void writeback_step(struct standby *s)
{
	struct writeback *w = &s->wb;

	settle_step(s);
	/* A read of a shared base, made before the promotion, must still find what is about to be put back. */
	if (w->phase == WB_IDLE && !s->failed && !s->hold && (!s->early || FAULT(BACK_EARLY)))
		batch(s);
	if (w->phase == WB_WAIT && !s->straight[s->phase ^ 1])
		w->phase = WB_WRITE;
	if (w->phase == WB_WRITE) {
		write_step(s);
		if (!w->inflight && (w->disk == s->n || w->rc)) {
			if (w->rc) {
				batch_end(s);
				return;
			}
			w->phase = WB_FLUSH;
			if (!FAULT(NO_BASE_FLUSH))
				flush_step(s);
		}
	}
	if (w->phase == WB_FLUSH && !w->inflight)
		batch_end(s);
}
