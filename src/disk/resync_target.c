/* SPDX-License-Identifier: BSD-2-Clause */
/* The joining node's side of a resync; resync.c has the theory. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "disk/resync_internal.h"

/* What it says of itself */

static void say_hello(struct resync *r)
{
	struct rsy_hello *h = &r->s.hello;

	h->discard = r->cfg.discard;
	h->n = r->cfg.n;
	for (unsigned int i = 0; i < r->cfg.n; i++) {
		h->d[i].size = r->d[i].blk->size;
		h->d[i].lineage = *meta_lineage(r->d[i].meta);
	}
	if (!rsy_say(r, RSY_HELLO, 0, rsy_put_hello(r->payload, h)))
		r->t.state = TGT_RANGES;
}

/* The next region in which this copy may differ from what the two had in common, from *@off on. */
static bool next_region(const struct rsy_disk *d, uint64_t *off)
{
	uint64_t start, len, at = UINT64_MAX;

	if (meta_next_intent(d->meta, *off, &start, &len))
		at = start;
	if (meta_next_dirty(d->meta, *off, &start, &len) && start < at)
		at = start;
	if (at == UINT64_MAX)
		return false;
	*off = at / d->region * d->region;
	return true;
}

static void say_ranges(struct resync *r)
{
	struct rsy_target *t = &r->t;
	struct rsy_disk *d = &r->d[t->disk];
	struct rsy_ranges *ranges = calloc(1, sizeof(*ranges));
	uint64_t off = t->off;

	if (!ranges) {
		rsy_end(r, -ENOMEM, "no memory to bring the disks up to date");
		return;
	}
	while (off < d->blk->size && next_region(d, &off)) {
		struct rsy_range *last = ranges->n ? &ranges->r[ranges->n - 1] : NULL;
		uint64_t len = d->region < d->blk->size - off ? d->region : d->blk->size - off;

		if (last && last->off + last->len == off)
			last->len += len;
		else if (ranges->n == RSY_RANGES_MAX)
			break;
		else
			ranges->r[ranges->n++] = (struct rsy_range){ off, len };
		off += len;
	}
	ranges->last = off >= d->blk->size || !next_region(d, &off);
	if (!rsy_say(r, RSY_RANGES, t->disk, rsy_put_ranges(r->payload, ranges))) {
		t->off = ranges->last ? 0 : off;
		t->disk += ranges->last;
		if (t->disk == r->cfg.n)
			t->state = TGT_PLAN;
		r->again = true;
	}
	free(ranges);
}

/* The source's decision */

static int hear_plan(struct resync *r, const struct rsy_msg *m)
{
	struct rsy_target *t = &r->t;
	char sentence[RSY_SENTENCE + 1];
	struct err e = { 0 };

	if (t->state != TGT_PLAN || rsy_get_plan(m->payload, m->len, &t->plan) || t->plan.n != r->cfg.n)
		return -EPROTO;
	/* It is this node's data, so it does not only rely on the other's word. */
	for (unsigned int i = 0; i < r->cfg.n && !r->cfg.discard; i++) {
		const struct lineage *theirs = &t->plan.d[i].lineage, *ours = meta_lineage(r->d[i].meta);

		if (rsy_refused(i, lineage_compare(theirs, ours), theirs, ours, sentence)) {
			rsy_end(r, -EPERM, "%s", sentence);
			return 0;
		}
	}
	for (unsigned int i = 0; i < r->cfg.n; i++) {
		struct lineage *l = meta_lineage(r->d[i].meta);

		/* Also with nothing to be sent: the guest's writes come from now on. */
		r->d[i].mode = t->plan.d[i].mode;
		lineage_adopt(l, &t->plan.d[i].lineage, true);
		if (meta_save(r->d[i].meta, &e)) {
			rsy_end(r, e.code, "%s", e.msg);
			return 0;
		}
	}
	t->state = TGT_READY;
	return 0;
}

static int hear_refuse(struct resync *r, const struct rsy_msg *m)
{
	char sentence[RSY_SENTENCE + 1];

	if (r->t.state > TGT_PLAN || rsy_get_sentence(m->payload, m->len, sentence))
		return -EPROTO;
	rsy_end(r, -EPERM, "%s", sentence);
	return 0;
}

int resync_settled(struct meta *const *metas, unsigned int n, struct err *e)
{
	int rc = 0;

	for (unsigned int i = 0; i < n; i++) {
		struct lineage *l = meta_lineage(metas[i]);
		struct err one = { 0 };

		if (!l->syncing)
			continue;
		l->syncing = false;
		if (!meta_save(metas[i], &one))
			continue;
		/* Tried again at the next commit. */
		l->syncing = true;
		rc = rc ? rc : err_set(e, one.code, "%s", one.msg);
	}
	return rc;
}

/* Comparing */

static void compared(struct rsy_slot *s, int rc)
{
	const struct rsy_hashes *h = &s->hashes;
	struct rsy_differ *d = &s->differ;
	uint8_t hash[RSY_HASH];

	if (rc) {
		rsy_end(s->r, rc, "disk %u cannot be read on the joining node, in the %u bytes at %" PRIu64 ": %s", s->disk,
			s->scan_len, s->scan_off, strerror(-rc));
		return;
	}
	d->id = h->id;
	d->n = rsy_blocks(s->len);
	d->differ = d->fine = 0;
	for (unsigned int b = 0; b < d->n; b++) {
		const uint8_t *p = s->buf + b * RSY_BLOCK;
		uint32_t len = rsy_block_len(s->len, b);

		/* A hole there and data here: zeroes are sent rather than all of it read. */
		if (h->hole >> b & 1) {
			d->differ |= rsy_hole(s, b) ? 0 : 1u << b;
			continue;
		}
		rsy_hash(p, len, hash);
		if (!memcmp(hash, h->hash[b], RSY_HASH))
			continue;
		d->differ |= 1u << b;
		d->fine |= 1u << b;
		for (uint32_t u = 0; u * RSY_UNIT < len; u++)
			rsy_hash(p + u * RSY_UNIT, len - u * RSY_UNIT < RSY_UNIT ? len - u * RSY_UNIT : RSY_UNIT, d->hash[b][u]);
	}
	s->state = SLOT_SAY;
	rsy_pump(s->r);
}

static int hear_hashes(struct resync *r, const struct rsy_msg *m)
{
	struct rsy_slot *s;

	if (r->t.state != TGT_RUN)
		return -EPROTO;
	s = rsy_free_slot(r);
	if (!s)
		return r->ended ? 0 : -EPROTO;
	if (rsy_get_hashes(m->payload, m->len, r->d[m->disk].blk->size, &s->hashes))
		return -EPROTO;
	s->state = SLOT_SCAN;
	s->disk = m->disk;
	s->off = s->hashes.off;
	s->len = s->hashes.len;
	rsy_scan(s, s->off, s->len, s->hashes.hole, compared);
	return 0;
}

/* Making durable what has come, for a PROGRESS that asks or at the end */

static void flush_next(struct resync *r);

static void finish(struct resync *r)
{
	struct err e = { 0 };

	for (unsigned int i = 0; i < r->cfg.n; i++) {
		struct meta *m = r->d[i].meta;

		/* Still unfinished: what the guest writes until the first marker goes into this copy as it comes. */
		lineage_adopt(meta_lineage(m), &r->t.final.lineage[i], true);
		meta_clean(m, 0, r->d[i].blk->size);
		meta_intent_reset(m);
		if (meta_save(m, &e)) {
			rsy_end(r, e.code, "%s", e.msg);
			return;
		}
	}
	r->t.state = TGT_SYNCED;
	rsy_pump(r);
}

static void flushed(struct blk_req *q, int rc)
{
	struct resync *r = q->arg;

	if (!r->ended) {
		if (rc) {
			rsy_end(r, rc, "disk %u of the joining node cannot be made durable: %s", r->t.flush_disk, strerror(-rc));
		} else {
			r->t.flush_disk++;
			flush_next(r);
		}
	}
	rsy_drop(r);
}

static void flush_next(struct resync *r)
{
	struct rsy_target *t = &r->t;

	if (t->flush_disk < r->cfg.n) {
		t->flush = (struct blk_req){ .op = BLK_FLUSH, .done = flushed, .arg = r };
		rsy_hold(r);
		blk_submit(r->d[t->flush_disk].blk, &t->flush);
		return;
	}
	t->syncing = false;
	if (t->state == TGT_SETTLE_END) {
		finish(r);
		return;
	}
	t->answer = t->seq;
	rsy_pump(r);
}

static void settled(void *arg)
{
	struct resync *r = arg;

	if (!r->ended) {
		r->t.flush_disk = 0;
		flush_next(r);
	}
	rsy_drop(r);
}

static void make_durable(struct resync *r)
{
	r->t.syncing = true;
	rsy_hold(r);
	if (r->cfg.settle)
		r->cfg.settle(r->cfg.arg, settled, r);
	else
		settled(r);
}

static int hear_progress(struct resync *r, const struct rsy_msg *m)
{
	struct rsy_target *t = &r->t;
	struct rsy_progress g;
	struct resync_progress p;

	if (t->state != TGT_RUN || rsy_get_progress(m->payload, m->len, &g) || g.disk >= r->cfg.n || g.done > g.total ||
	    (g.seq && (t->syncing || t->answer)))
		return -EPROTO;
	t->heard = g;
	if (g.seq) {
		t->seq = g.seq;
		make_durable(r);
	}
	if (r->cfg.progress && !r->ended) {
		resync_progress(r, &p);
		r->cfg.progress(r->cfg.arg, &p);
	}
	return 0;
}

static int hear_done(struct resync *r, const struct rsy_msg *m)
{
	struct rsy_final *f = &r->t.final;

	if (r->t.state != TGT_RUN || r->t.syncing || r->t.answer || rsy_get_final(m->payload, m->len, f) || f->n != r->cfg.n)
		return -EPROTO;
	/* The source may have begun a generation since it said its plan, and no more than that. */
	for (unsigned int i = 0; i < f->n; i++) {
		enum lineage_verdict v = lineage_compare(&f->lineage[i], &r->t.plan.d[i].lineage);

		if (v != LINEAGE_SAME && v != LINEAGE_OURS)
			return -EPROTO;
	}
	for (unsigned int i = 0; i < RSY_WINDOW; i++)
		if (r->slot[i].state != SLOT_FREE)
			return -EPROTO;
	r->t.state = TGT_SETTLE_END;
	make_durable(r);
	return 0;
}

static void say_differ(struct resync *r)
{
	for (unsigned int i = 0; i < RSY_WINDOW && !r->blocked && !r->ended; i++) {
		struct rsy_slot *s = &r->slot[i];

		if (s->state == SLOT_SAY &&
		    !rsy_say(r, RSY_DIFFER, s->disk, rsy_put_differ(r->payload, &s->differ, rsy_last(s->len))))
			s->state = SLOT_FREE;
	}
}

void rsy_target_step(struct resync *r)
{
	struct rsy_target *t = &r->t;

	switch (t->state) {
	case TGT_HELLO:
		say_hello(r);
		r->again |= t->state == TGT_RANGES;
		return;
	case TGT_RANGES:
		say_ranges(r);
		return;
	case TGT_READY:
		if (!rsy_say(r, RSY_READY, 0, 0))
			t->state = TGT_RUN;
		return;
	case TGT_RUN:
		say_differ(r);
		if (t->answer && !r->blocked && !r->ended) {
			struct rsy_progress g = { .seq = t->answer };

			if (!rsy_say(r, RSY_PROGRESS, 0, rsy_put_progress(r->payload, &g)))
				t->answer = 0;
		}
		return;
	case TGT_SYNCED:
		if (!rsy_say(r, RSY_SYNCED, 0, 0))
			rsy_end(r, 0, "the disks are up to date");
		return;
	case TGT_PLAN:
	case TGT_SETTLE_END:
		return;
	}
}

int rsy_target_message(struct resync *r, const struct rsy_msg *m)
{
	switch (m->type) {
	case RSY_PLAN:
		return hear_plan(r, m);
	case RSY_REFUSE:
		return hear_refuse(r, m);
	case RSY_HASHES:
		return hear_hashes(r, m);
	case RSY_PROGRESS:
		return hear_progress(r, m);
	case RSY_DONE:
		return hear_done(r, m);
	case RSY_HELLO:
	case RSY_RANGES:
	case RSY_DIFFER:
	case RSY_SYNCED:
	case RSY_READY:
		break;
	}
	return -EPROTO;
}

bool resync_running(const struct resync *r)
{
	return r && !r->is_source && r->t.state >= TGT_RUN;
}

/* The first step is of a timer, so that nothing is said before the caller has the object. */
struct resync *resync_target(const struct resync_cfg *cfg, const struct resync_peer *peer, struct err *e)
{
	struct resync *r = rsy_new(cfg, peer, false, e);

	if (r && loop_timer_set(cfg->loop, &r->timer, loop_now(cfg->loop))) {
		resync_free(r);
		err_set(e, -ENOMEM, "no memory to bring the disks up to date");
		return NULL;
	}
	return r;
}
