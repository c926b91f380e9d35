/* SPDX-License-Identifier: BSD-2-Clause */
/* The disk that the VM sees. Theory in standby.c. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "disk/standby_internal.h"

/* A part of a request: what is read from the base or from the journal file, or what goes straight to the base. */
struct sub {
	struct io *io;
	struct blk_req r;
	struct journal_job job;
	uint64_t loc;		/* pinned, of a read from the file */
};

static void io_next(struct io *io);

static void io_finish(struct io *io, int rc)
{
	struct standby *s = io->s;
	struct blk_req *r = io->r;

	s->ios--;
	if (io->early && !--s->early)
		standby_defer(s);
	free(io);
	r->done(r, rc);
	if (s->quiet)
		standby_defer(s);
}

static void sub_finish(struct sub *sub, int rc)
{
	struct io *io = sub->io;

	free(sub);
	if (rc && !io->rc)
		io->rc = rc;
	io->subs--;
	if (!io->issuing)
		io_next(io);
}

static void base_done(struct blk_req *r, int rc)
{
	struct sub *sub = r->arg;

	if (rc && (r->op == BLK_FLUSH || r->flags & BLK_FUA))
		io_loss(sub->io->d, true);
	if (r->op == BLK_STATUS)
		sub->io->r->n_ext = r->n_ext;
	sub_finish(sub, rc);
}

static void file_done(struct journal_job *job)
{
	struct sub *sub = job->arg;

	arena_unpin(&sub->io->s->a, sub->loc);
	sub_finish(sub, job->rc);
}

static struct sub *sub_new(struct io *io)
{
	struct sub *sub = calloc(1, sizeof(*sub));

	if (!sub) {
		if (!io->rc)
			io->rc = -ENOMEM;
		return NULL;
	}
	sub->io = io;
	io->subs++;
	return sub;
}

static void base_submit(struct io *io, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len, uint8_t *buf)
{
	struct sub *sub = sub_new(io);

	if (!sub)
		return;
	sub->r = (struct blk_req){ .op = op, .flags = flags, .off = off, .len = len, .buf = buf, .done = base_done, .arg = sub };
	blk_submit(io->d->base, &sub->r);
}

static void read_piece(struct io *io, const struct ext *e, uint8_t *buf)
{
	struct standby *s = io->s;
	const uint8_t *p;
	struct sub *sub;

	if (e->kind != EXT_DATA) {
		memset(buf, 0, e->len);
		return;
	}
	p = arena_mem(&s->a, e->loc);
	if (p) {
		memcpy(buf, p, e->len);
		return;
	}
	sub = sub_new(io);
	if (!sub)
		return;
	sub->loc = e->loc;
	arena_pin(&s->a, e->loc);
	sub->job = (struct journal_job){ .op = JOURNAL_READ, .buf = buf, .len = e->len, .off = arena_file(&s->a, e->loc),
					 .done = file_done, .arg = sub };
	journal_submit(s->j, &sub->job);
}

static void do_read(struct io *io)
{
	struct blk_req *r = io->r;

	io->issuing = true;
	while (io->pos < r->len && io->subs < STANDBY_SUBS && !io->rc) {
		uint8_t *buf = r->buf + io->pos;
		struct ext e;

		if (overlay_at(&io->d->over, r->off + io->pos, r->off + r->len, &e))
			read_piece(io, &e, buf);
		else if (!io->second)
			base_submit(io, BLK_READ, 0, e.off, e.len, buf);
		io->pos += e.len;
	}
	io->issuing = false;
	if (io->subs || (io->pos < r->len && !io->rc))
		return;
	/* The peer may have written over it meanwhile; then it has said before what it was. */
	if (!io->rc && !io->second && io->old_seq != io->s->old_seq && !FAULT(LOOK_ONCE)) {
		io->second = true;
		io->pos = 0;
		do_read(io);
		return;
	}
	io_finish(io, io->rc);
}

static void do_status(struct io *io)
{
	struct blk_req *r = io->r;
	unsigned int n = 0;
	struct ext e;

	/* What is a hole now may be what the peer has made. */
	if (io->s->shared && !io->s->promoted) {
		r->ext[0] = (struct blk_extent){ r->len, 0 };
		r->n_ext = 1;
		io_finish(io, 0);
		return;
	}
	while (io->pos < r->len && n < r->n_ext) {
		if (!overlay_at(&io->d->over, r->off + io->pos, r->off + r->len, &e))
			break;
		r->ext[n++] = (struct blk_extent){ e.len, e.kind == EXT_TRIM ? BLK_HOLE | BLK_ZEROES :
						   e.kind == EXT_ZERO ? BLK_ZEROES : 0 };
		io->pos += e.len;
	}
	if (n || !r->len) {
		/* What the base has behind it is another question. */
		r->n_ext = n;
		io_finish(io, 0);
		return;
	}
	/* The base tells of the first piece; its answer may end before, but must not go beyond. */
	io->pos = r->len;
	struct sub *sub = sub_new(io);

	if (!sub) {
		io_finish(io, -ENOMEM);
		return;
	}
	sub->r = (struct blk_req){ .op = BLK_STATUS, .off = e.off, .len = e.len, .ext = r->ext, .n_ext = r->n_ext,
				   .done = base_done, .arg = sub };
	blk_submit(io->d->base, &sub->r);
}

/* Into the open layer. Return: false: no room now, and the request waits */
static bool on_top(struct io *io)
{
	struct standby *s = io->s;
	struct layer *top = standby_top(s);
	struct blk_req *r = io->r;
	uint64_t off = r->off, len = r->len;

	/* What the base would have to write zeroes for is dropped. */
	if (r->op == BLK_TRIM && !blk_clip_trim(io->d->base, &off, &len))
		return true;
	while (io->pos < len) {
		enum ext_kind kind = r->op == BLK_WRITE ? EXT_DATA : r->op == BLK_ZERO && r->flags & BLK_NO_HOLE ?
				     EXT_ZERO : EXT_TRIM;
		int64_t n = layer_write(s, top, io->d->i, off + io->pos, len - io->pos,
					r->op == BLK_WRITE ? r->buf + io->pos : NULL, kind);

		if (n == -ENOSPC && !s->hold && !s->failed && (s->depth > 1 || s->graves || s->promoted))
			n = -EAGAIN;
		if (n == -EAGAIN)
			return false;
		if (n < 0) {
			io->rc = (int)n;
			standby_fail(s, (int)n, "what the VM writes cannot be kept");
			return true;
		}
		io->pos += (uint64_t)n;
	}
	if (s->promoted && r->flags & BLK_FUA)
		io->need = s->next_id;
	return true;
}

static void wait_room(struct io *io)
{
	io->next = NULL;
	*io->s->waiting_last = io;
	io->s->waiting_last = &io->next;
}

static void do_write(struct io *io)
{
	struct standby *s = io->s;
	struct blk_req *r = io->r;
	bool covered;

	if (s->promoted && (s->safe || FAULT(STRAIGHT_EARLY))) {
		covered = io->pos || (overlay_covers(&io->d->over, r->off, r->len) && !FAULT(STRAIGHT_OVER));
		if (!covered) {
			io->pos = r->len;
			io->pass = true;
			io->phase = s->phase;
			s->straight[io->phase]++;
			io->issuing = true;
			base_submit(io, r->op, r->flags, r->off, r->len, r->buf);
			io->issuing = false;
			io_next(io);
			return;
		}
		/* Else a guest that writes one block for ever keeps the merge from ending. */
		if (s->rounds >= STANDBY_ROUNDS && !io->pos && !s->hold) {
			wait_room(io);
			return;
		}
		if (standby_top(s)->bytes.bytes > s->limits.hard && !s->hold) {
			wait_room(io);
			return;
		}
	}
	if (!on_top(io)) {
		wait_room(io);
		return;
	}
	standby_check_limits(s);
	io->pos = r->len;
	io_next(io);
	if (s->promoted)
		standby_kick(s);
}

/*
 * A base says once that a flush has failed, to whoever asks first, and what is lost then may be anybody's: what is being
 * written back has to be written again, and every flush of the VM that was under way fails with it.
 */
void io_loss(struct disk *d, bool told)
{
	struct standby *s = d->s;

	d->losses++;
	d->owed = !told;
	if ((s->wb.phase == WB_WRITE || s->wb.phase == WB_FLUSH) && !s->wb.rc)
		s->wb.rc = -EIO;
}

static void do_flush(struct io *io)
{
	struct standby *s = io->s;

	io->pos = 1;
	if (!s->promoted) {
		io_finish(io, 0);
		return;
	}
	if (io->d->owed) {
		io->d->owed = false;
		io_finish(io, -EIO);
		return;
	}
	io->losses = io->d->losses;
	/* Everything that was answered before: on top, or on its way, or in the base. */
	io->need = s->next_id;
	for (unsigned int i = 0; i < s->n; i++)
		if (standby_top(s)->map[i].count)
			goto on_top;
	io->need = s->next_id - 1;
on_top:
	if (FAULT(FLUSH_EARLY))
		io->need = 0;
	io->issuing = true;
	if (!FAULT(FLUSH_NO_BASE))
		base_submit(io, BLK_FLUSH, 0, 0, 0, NULL);
	io->issuing = false;
	io_next(io);
	standby_kick(s);
}

/* Nothing of it is under way any more, or for the first time */
static void io_next(struct io *io)
{
	struct standby *s = io->s;

	if (io->subs && io->r->op != BLK_READ)
		return;
	switch (io->r->op) {
	case BLK_READ:
		do_read(io);
		return;
	case BLK_WRITE:
	case BLK_ZERO:
	case BLK_TRIM:
		if (io->pos < io->r->len && !io->rc) {
			do_write(io);
			return;
		}
		if (io->pass) {
			if (!--s->straight[io->phase])
				standby_defer(s);
		}
		break;
	case BLK_FLUSH:
		if (!io->pos) {
			do_flush(io);
			return;
		}
		if (io->losses != io->d->losses && !io->rc)
			io->rc = -EIO;
		break;
	case BLK_STATUS:
		if (!io->pos && io->r->len) {
			do_status(io);
			return;
		}
		break;
	case BLK_CACHE:
		break;
	}
	if (!io->rc && io->need > s->journaled) {
		io->next = s->flushes;
		s->flushes = io;
		return;
	}
	io_finish(io, io->rc);
}

void io_flushed(struct standby *s, int rc)
{
	struct io *io, *all = s->flushes;

	s->flushes = NULL;
	while ((io = all)) {
		all = io->next;
		if (rc || io->need <= s->journaled) {
			io_finish(io, rc);
		} else {
			io->next = s->flushes;
			s->flushes = io;
		}
	}
}

void io_step(struct standby *s)
{
	struct io *io, *all = s->waiting;

	s->waiting = NULL;
	s->waiting_last = &s->waiting;
	while ((io = all)) {
		all = io->next;
		io_next(io);
	}
}

static void submit(struct blk *b, struct blk_req *r)
{
	struct disk *d = (struct disk *)((char *)b - offsetof(struct disk, dev));
	struct standby *s = d->s;
	struct io *io;

	if (s->merged) {
		blk_submit(d->base, r);
		return;
	}
	io = calloc(1, sizeof(*io));
	if (!io) {
		r->done(r, -ENOMEM);
		return;
	}
	*io = (struct io){ .s = s, .d = d, .r = r, .old_seq = s->old_seq };
	io->early = s->shared && !s->promoted && r->op == BLK_READ;
	s->early += io->early;
	s->ios++;
	io_next(io);
}

void io_init(struct standby *s, unsigned int disk)
{
	static const struct blk_ops ops = { submit };
	struct disk *d = &s->disk[disk];

	d->dev = *d->base;
	d->dev.ops = &ops;
}
