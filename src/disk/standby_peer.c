/* SPDX-License-Identifier: BSD-2-Clause */
/* What comes from the peer: writes, barriers, checkpoints. Theory in standby.c. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/standby_internal.h"

/* Sync mode: what the peer writes goes into the base at once. */

struct sync_req {
	struct blk_req r;
	struct standby *s;
	struct disk *d;
	struct sync_req *next;
	uint8_t data[];
};

static void sync_done(struct blk_req *r, int rc)
{
	struct sync_req *q = r->arg, **p;
	struct standby *s = q->s;

	for (p = &s->sync_first; *p != q; p = &(*p)->next)
		;
	*p = q->next;
	s->syncing--;
	s->syncing_bytes -= r->op == BLK_WRITE ? r->len : 0;
	free(q);
	if (rc)
		standby_fail(s, rc, "what the peer sends cannot be written to the disk");
	s->room = true;
	standby_kick(s);
}

static int sync_write(struct standby *s, struct disk *d, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len,
		      const uint8_t *data)
{
	uint64_t bytes = data ? len : 0;
	struct sync_req *q;
	bool full = s->syncing >= STANDBY_SYNC || (s->syncing && s->syncing_bytes + bytes > STANDBY_SYNC_BYTES);

	/* What overlaps must be there in the peer's order. */
	for (q = s->sync_first; q && !full && !FAULT(SYNC_ORDER); q = q->next)
		full = q->d == d && off < q->r.off + q->r.len && q->r.off < off + len;
	if (full) {
		s->peer_waits = true;
		return -EAGAIN;
	}
	q = malloc(sizeof(*q) + bytes);
	if (!q)
		return -ENOMEM;
	*q = (struct sync_req){ .r = { .op = op, .flags = flags, .off = off, .len = len, .done = sync_done }, .s = s, .d = d };
	q->r.arg = q;
	if (data) {
		memcpy(q->data, data, len);
		q->r.buf = q->data;
	}
	q->next = s->sync_first;
	s->sync_first = q;
	s->syncing++;
	s->sync_dirty = true;
	s->syncing_bytes += bytes;
	blk_submit(d->base, &q->r);
	return 0;
}

void standby_sync_mode(struct standby *s, bool on)
{
	s->sync = on;
}

int peer_refuse(const struct standby *s, unsigned int disk, uint64_t off, uint64_t len)
{
	if (disk >= s->n || off > s->disk[disk].base->size || len > s->disk[disk].base->size - off)
		return -EINVAL;
	return s->failed || s->promoted ? -EIO : 0;
}

/* Into the pending layer. What was taken before there was no room is taken once more when the peer says it again. */
int peer_pend(struct standby *s, unsigned int disk, uint64_t off, uint64_t len, const uint8_t *data, enum ext_kind kind)
{
	int64_t n;

	for (uint64_t done = 0; done < len; done += (uint64_t)n) {
		n = layer_write(s, s->pending, disk, off + done, len - done, data ? data + done : NULL, kind);
		/* Committed epochs give room when they are in the bases. */
		if (n == -ENOSPC && (s->depth > 1 || s->graves))
			n = -EAGAIN;
		if (n == -EAGAIN) {
			s->peer_waits = true;
			return -EAGAIN;
		}
		if (n < 0) {
			standby_fail(s, (int)n, "what the peer writes cannot be kept");
			return -EIO;
		}
	}
	standby_check_limits(s);
	return s->failed ? -EIO : 0;
}

int standby_write(struct standby *s, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	int rc = peer_refuse(s, disk, off, len);

	if (rc || !len)
		return rc;
	if (s->sync)
		return sync_write(s, &s->disk[disk], BLK_WRITE, 0, off, len, data);
	return peer_pend(s, disk, off, len, data, EXT_DATA);
}

int standby_zero(struct standby *s, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole)
{
	int rc = peer_refuse(s, disk, off, len);
	struct disk *d;

	if (rc || !len)
		return rc;
	d = &s->disk[disk];
	/* Never dropped, whatever it costs here: the peer reads zeroes there, and nobody would know that the copies differ. */
	if (s->sync)
		return sync_write(s, d, BLK_ZERO, no_hole && !trim ? BLK_NO_HOLE : 0, off, len, NULL);
	return peer_pend(s, disk, off, len, NULL, no_hole && !trim ? EXT_ZERO : EXT_TRIM);
}

/* Checkpoints. */

void standby_barrier(struct standby *s, uint64_t n)
{
	struct layer *l;

	if (s->promoted || s->failed)
		return;
	s->sync = false;
	if (s->sealed) {
		standby_fail(s, -EPROTO, "the peer has ended an epoch before the one before was done with");
		return;
	}
	l = layer_new(s);
	if (!l) {
		standby_fail(s, -ENOMEM, "no memory for another epoch");
		return;
	}
	s->sealed = s->pending;
	s->pending = l;
	s->barrier_n = n;
	s->sealed->state = LAYER_SEALED;
	s->sealed->epoch = n;
	s->is_reserved = false;
	if (s->shared)
		standby_restack(s);
	standby_kick(s);
}

static void reserved(struct standby *s, int rc)
{
	void (*done)(void *arg, int rc) = s->reserved;

	s->reserving = false;
	s->res_gen++;
	s->is_reserved = !rc;
	done(s->reserved_arg, rc);
}

void standby_reserve(struct standby *s, uint64_t n, void (*done)(void *arg, int rc), void *arg)
{
	if (s->failed || s->promoted || s->reserving || !s->sealed || s->barrier_n != n) {
		done(arg, s->failed ? -EIO : s->promoted ? -ECANCELED : -EINVAL);
		return;
	}
	s->reserving = true;
	s->reserved = done;
	s->reserved_arg = arg;
	s->res_disk = 0;
	s->res_pos = 0;
	s->res_rc = 0;
	s->res_gen++;
	standby_kick(s);
}

struct res_req {
	struct standby *s;
	uint64_t gen;
};

static void space_done(void *arg, int rc)
{
	struct res_req *q = arg;
	struct standby *s = q->s;

	s->res_inflight--;
	if (q->gen == s->res_gen && rc && !s->res_rc)
		s->res_rc = rc;
	free(q);
	standby_kick(s);
}

/*
 * What came in sync mode must be durable in the bases, all of it or nothing counts, before epochs are committed above it.
 */
struct sync_flush {
	struct blk_req r;
	struct standby *s;
};

static void sync_flushed(struct blk_req *r, int rc)
{
	struct sync_flush *f = r->arg;
	struct standby *s = f->s;

	s->res_inflight--;
	/* Whatever it was that is lost will not come again. */
	if (rc)
		standby_fail(s, rc, "what the peer has sent cannot be made durable on the disk");
	free(f);
	standby_kick(s);
}

static void flush_synced(struct standby *s)
{
	s->sync_dirty = false;
	for (unsigned int i = 0; i < s->n; i++) {
		struct sync_flush *f = calloc(1, sizeof(*f));

		if (!f) {
			s->res_rc = -ENOMEM;
			s->sync_dirty = true;
			return;
		}
		*f = (struct sync_flush){ .r = { .op = BLK_FLUSH, .done = sync_flushed, .arg = f }, .s = s };
		s->res_inflight++;
		blk_submit(s->disk[i].base, &f->r);
	}
}

/* Zeroes that need no space: a hole, a mark in an image's tables. Where they are not fast they may have to be written. */
static bool no_space(const struct disk *d, const struct ext *e)
{
	return e->kind != EXT_DATA && (d->base->trim_grain || (e->kind == EXT_TRIM && d->base->fast_zero));
}

/* Space in the bases for one extent after the other. Return: whether all have been asked for */
static bool ask_space(struct standby *s)
{
	while (s->res_disk < s->n && !s->res_rc) {
		struct disk *d = &s->disk[s->res_disk];
		struct res_req *q;
		struct ext e;
		uint64_t end;

		if (!d->reserve || !extmap_next(&s->sealed->map[s->res_disk], s->res_pos, &e)) {
			s->res_disk++;
			s->res_pos = 0;
			continue;
		}
		s->res_pos = end = e.off + e.len;
		if (no_space(d, &e))
			continue;
		/* Extents that follow one another are one for this. */
		while (extmap_at(&s->sealed->map[s->res_disk], end, UINT64_MAX, &(struct ext){ 0 })) {
			struct ext f;

			extmap_next(&s->sealed->map[s->res_disk], end, &f);
			if (no_space(d, &f))
				break;
			s->res_pos = end = f.off + f.len;
		}
		q = malloc(sizeof(*q));
		if (!q) {
			s->res_rc = -ENOMEM;
			break;
		}
		*q = (struct res_req){ s, s->res_gen };
		s->res_inflight++;
		d->reserve(d->reserve_arg, e.off, end - e.off, space_done, q);
		if (s->res_inflight >= STANDBY_RESERVES)
			return false;
	}
	return true;
}

/* The newer layer's extents over those of the older one, which has the bytes of both then */
int peer_unite(struct standby *s, struct layer *old, struct layer *new)
{
	int rc = 0;

	arena_join(&s->a, &old->bytes, &new->bytes);
	for (unsigned int i = 0; i < s->n; i++) {
		struct ext e;
		uint64_t at = 0;

		while (!rc && extmap_next(&new->map[i], at, &e)) {
			at = e.off + e.len;
			rc = extmap_del(&new->map[i], e.off, e.len, NULL, NULL);
			if (!rc && (!FAULT(ABORT_OLD_WINS) || !extmap_overlaps(&old->map[i], e.off, e.len)))
				rc = layer_put(s, old, i, &e);
		}
	}
	layer_bury(s, new);
	return rc;
}

static void reserve_step(struct standby *s)
{
	struct layer *l = s->sealed;

	if (!s->reserving || (s->syncing && !FAULT(SYNC_NOT_WAITED)) || s->depth > STANDBY_MAX_EPOCHS)
		return;
	if (s->failed || s->shared) {
		/* What the epoch has written is in a shared base already. */
		reserved(s, s->failed ? -EIO : 0);
		return;
	}
	if (s->aborted) {
		int rc;

		if (s->aborted->persisting)
			return;
		if (s->aborted->index.slots)
			journal_index_free(s->j, &s->aborted->index);
		s->aborted->state = LAYER_SEALED;
		s->aborted->epoch = l->epoch;
		s->sealed = s->aborted;
		s->aborted = NULL;
		rc = peer_unite(s, s->sealed, l);
		if (rc) {
			standby_fail(s, rc, "the aborted epoch and the next one cannot be made one");
			reserved(s, rc);
			return;
		}
		l = s->sealed;
	}
	if (l->persisting)
		return;
	if (l->state == LAYER_SEALED && !l->rc) {
		layer_persist(s, l);
		return;
	}
	if (l->rc) {
		reserved(s, l->rc);
		return;
	}
	if (s->sync_dirty && !s->res_rc && !FAULT(SYNC_NOT_FLUSHED))
		flush_synced(s);
	if (!ask_space(s) || s->res_inflight)
		return;
	reserved(s, s->res_rc);
}

int standby_flip(struct standby *s, uint64_t n, struct err *e)
{
	struct layer *top = standby_top(s), *fresh;

	if (n == s->flipped_n && n)
		return 0;
	if (s->failed || s->promoted || !s->sealed || s->barrier_n != n || !s->is_reserved)
		return err_set(e, -EINVAL, "epoch %llu cannot become the disk: %s", (unsigned long long)n,
			       s->failed ? "this node has failed" : s->promoted ? "this node serves" :
			       "nothing is reserved for it");
	fresh = layer_new(s);
	if (!fresh)
		return err_set(e, -ENOMEM, "no memory for another layer");
	if (s->shared) {
		peer_flip_shared(s, fresh);
		return 0;
	}
	for (unsigned int i = 0; i < s->n; i++) {
		overlay_drop(&s->disk[i].over, &top->map[i]);
		overlay_push(&s->disk[i].over, &s->sealed->map[i]);
		overlay_push(&s->disk[i].over, &fresh->map[i]);
	}
	s->sealed->id = s->next_id++;
	s->stack[s->depth - 1] = s->sealed;
	s->stack[s->depth++] = fresh;
	s->sealed = NULL;
	s->is_reserved = false;
	s->flipped_n = n;
	s->wanted = false;
	s->st.flips++;
	if (FAULT(OWN_KEPT) && top->map[0].count) {
		fresh->map[0] = top->map[0];
		extmap_init(&top->map[0], &s->pool);
		arena_join(&s->a, &fresh->bytes, &top->bytes);
	}
	layer_bury(s, top);
	standby_kick(s);
	return 0;
}

void standby_abort(struct standby *s, uint64_t n)
{
	struct layer *l = s->sealed;
	int rc;

	if (!l || s->barrier_n != n || s->promoted)
		return;
	if (FAULT(ABORT_DROPS))
		extmap_clear(&s->pending->map[0]);
	s->is_reserved = false;
	if (s->shared) {
		peer_abort_shared(s);
		if (s->reserving)
			reserved(s, -ECANCELED);
		standby_kick(s);
		return;
	}
	s->sealed = NULL;
	if (l->persisting) {
		s->aborted = l;
	} else {
		if (l->index.slots)
			journal_index_free(s->j, &l->index);
		l->state = LAYER_OPEN;
		l->rc = 0;
		rc = peer_unite(s, l, s->pending);
		s->pending = l;
		if (rc)
			standby_fail(s, rc, "the aborted epoch and the next one cannot be made one");
	}
	if (s->reserving)
		reserved(s, -ECANCELED);
	standby_kick(s);
}

bool peer_busy(const struct standby *s)
{
	return s->syncing || s->res_inflight;
}

void peer_step(struct standby *s)
{
	reserve_step(s);
}
