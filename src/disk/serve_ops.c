/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The steps of the serving node's requests; serve.c has the theory. Each step either hands its request to somebody (the
 * base, the saver's list, the list for room) or names the next one. What can go on stands in one list that serve_run()
 * works through, so a base that answers at once, or a chain of overlapping requests, does not nest calls.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "disk/serve_internal.h"

#define READ_BACK_MAX	(32u << 20)	/* bytes of a failed request that are read and sent; more are dirty instead */

static void step(struct serve *s, struct serve_op *op);

static struct serve_op *op_of(struct serve_turn *t)
{
	return (struct serve_op *)((char *)t - offsetof(struct serve_op, turn));
}

void serve_ready(struct serve *s, struct serve_turn *t)
{
	t->queued = true;
	t->next = NULL;
	*s->ready_last = t;
	s->ready_last = &t->next;
}

void serve_unready(struct serve *s, struct serve_turn *t)
{
	struct serve_turn **at = &s->ready;

	while (*at != t)
		at = &(*at)->next;
	*at = t->next;
	if (!*at)
		s->ready_last = at;
	t->queued = false;
}

void serve_run(struct serve *s)
{
	struct serve_turn *t;

	if (s->running)
		return;
	s->running = true;
	while ((t = s->ready)) {
		s->ready = t->next;
		if (!s->ready)
			s->ready_last = &s->ready;
		t->queued = false;
		if (t->is_range) {
			struct serve_range *r = (struct serve_range *)((char *)t - offsetof(struct serve_range, turn));

			r->held = true;
			r->locked(r);
		} else {
			step(s, op_of(t));
		}
	}
	s->running = false;
}

void serve_granted(void *arg, struct rangelock_entry *e)
{
	serve_ready(arg, (struct serve_turn *)((char *)e - offsetof(struct serve_turn, range)));
}

static struct serve_op *op_new(struct serve_disk *d, struct blk_req *r)
{
	struct serve *s = d->s;
	struct serve_op *op = s->spare;

	if (op)
		s->spare = op->wait;
	else
		op = malloc(sizeof(*op));
	if (!op)
		return NULL;
	*op = (struct serve_op){ .d = d, .r = r };
	s->st.requests++;
	return op;
}

static void op_free(struct serve_op *op)
{
	struct serve *s = op->d->s;

	free(op->buf);
	op->buf = NULL;
	op->wait = s->spare;
	s->spare = op;
	s->st.requests--;
}

/* The base */

static void base_done(struct blk_req *sub, int rc)
{
	struct serve_op *op = sub->arg;

	op->base_rc = rc;
	serve_ready(op->d->s, &op->turn);
	serve_run(op->d->s);
}

static void to_base(struct serve_op *op, enum blk_op what, uint32_t flags, uint64_t off, uint64_t len, uint8_t *buf)
{
	op->sub = (struct blk_req){ .op = what, .flags = flags, .off = off, .len = len, .buf = buf, .done = base_done,
				    .arg = op };
	blk_submit(op->d->base, &op->sub);
}

/* Flushes */

void serve_debt_begin(void *arg, struct debt_flush *f)
{
	struct serve_op *op = (struct serve_op *)((char *)f - offsetof(struct serve_op, flush));

	op->step = SERVE_FLUSH;
	op->seq = uncommitted_seq(&op->d->s->un);
	to_base(op, BLK_FLUSH, 0, 0, 0, NULL);
}

void serve_debt_answer(void *arg, struct debt_flush *f, int rc)
{
	struct serve_op *op = (struct serve_op *)((char *)f - offsetof(struct serve_op, flush));
	struct blk_req *r = op->r;

	op->r = NULL;
	if (!f->early)
		op_free(op);
	r->done(r, rc);
}

void serve_flush_base(struct serve_disk *d)
{
	struct serve_op *op = op_new(d, NULL);

	if (!op)
		return;		/* the next time */
	op->own = true;
	d->flushing = true;
	serve_debt_begin(d->s, &op->flush);
}

static void flushed(struct serve *s, struct serve_op *op)
{
	struct serve_disk *d = op->d;
	bool early = op->flush.early;
	int rc = op->base_rc;

	if (rc == 0 && op->seq - 1 > d->durable) {
		d->durable = op->seq - 1;
		meta_intent_clear(d->meta, d->durable < s->committed ? d->durable : s->committed);
	}
	if (rc != 0 && rc != -ESHUTDOWN) {
		s->st.errors++;
		s->ops.local_error(s->ops.arg, d->i, rc);
	}
	if (op->own) {
		d->flushing = false;
		op_free(op);
		return;
	}
	debt_done(&s->debt, &op->flush, rc);
	if (early)
		op_free(op);
}

/* The saver */

void serve_save(struct serve *s)
{
	bool header = false, stale = false;

	if (saver_busy(s->saver))
		return;
	for (unsigned int i = 0; i < s->n; i++) {
		s->disk[i].saves_gen = s->disk[i].new_gen;
		header |= s->disk[i].new_gen;
		stale |= meta_intent_stale(s->metas[i]);
	}
	if (!s->for_saver.first && !header && !stale)
		return;
	s->st.intents++;
	saver_begin(s->saver, header);
}

void serve_retry(struct serve *s)
{
	struct serve_op *op;

	while ((op = serve_list_take(&s->for_saver)))
		serve_ready(s, &op->turn);
}

/* fail_waiting() - the round has failed for all disks (@rc), or for some: those who wait fail, for the guest to see */
static void fail_waiting(struct serve *s, int rc)
{
	struct serve_ops_list list = s->for_saver;
	struct serve_op *op;
	const struct err *e;

	if (!list.first)
		return;
	serve_list_init(&s->for_saver);
	while ((op = serve_list_take(&list))) {
		int mine = rc ? rc : saver_result(s->saver, op->d->i, &e);

		if (mine != 0) {
			op->rc = mine;
			op->step = SERVE_FINISH;
			s->st.errors++;
			s->ops.local_error(s->ops.arg, op->d->i, mine);
		}
		serve_ready(s, &op->turn);
	}
}

/*
 * serve_saved() - a round has ended: those who wait look again. One that has come meanwhile and asks for more than the
 * round had waits for the next. Where it failed they fail, rather than try for ever; a generation is of all disks or of
 * none.
 */
void serve_saved(void *arg)
{
	struct serve *s = arg;
	const struct err *e;
	int any = 0, gen = 0;

	for (unsigned int i = 0; i < s->n; i++) {
		struct serve_disk *d = &s->disk[i];
		int rc = saver_result(s->saver, i, &e);

		if (rc != 0) {
			log_error("%s", e->msg);
			any = rc;
			gen = d->saves_gen ? rc : gen;
		} else if (d->saves_gen) {
			d->new_gen = false;
		}
		d->saves_gen = false;
	}
	if (any)
		fail_waiting(s, gen);
	else
		serve_retry(s);
	serve_run(s);
	/* With nobody waiting a round that failed is not tried again until there is a reason to. */
	if (!any || s->for_saver.first)
		serve_save(s);
}

/* may_begin() - whether all that must be durable before this write is so */
static bool may_begin(struct serve *s, struct serve_op *op)
{
	bool ok = meta_intent(op->d->meta, op->off, op->len);

	if (!s->has_peer && !s->alone) {
		if (serve_begin_generation(s))
			return false;
		s->alone = true;
	}
	return ok;
}

static void mark(struct serve *s, struct serve_op *op)
{
	if (!s->has_peer) {
		meta_dirty(op->d->meta, op->off, op->len);
		return;
	}
	op->seq = uncommitted_seq(&s->un);
	uncommitted_mark(&s->un, op->d->i, op->off, op->len);
	if (!s->wanted && uncommitted_bytes(&s->un, false) >= s->soft) {
		s->wanted = true;
		s->ops.want(s->ops.arg);
	}
}

void serve_mark_again(struct serve *s)
{
	for (unsigned int i = 0; i < s->n; i++) {
		for (struct rangelock_entry *e = s->disk[i].lock.first; e; e = e->next) {
			struct serve_turn *t = (struct serve_turn *)((char *)e - offsetof(struct serve_turn, range));

			if (t->is_range || !op_of(t)->seq)
				continue;
			mark(s, op_of(t));
			meta_intent(s->metas[i], e->off, e->len);
		}
	}
}

static void begin(struct serve *s, struct serve_op *op)
{
	const struct blk_req *r = op->r;
	bool trim = r->op == BLK_TRIM;

	/* Where there are no such pieces the base is asked: a block device may be able to. */
	if (trim && op->d->base->trim_grain && !blk_clip_trim(op->d->base, &op->off, &op->len)) {
		op->step = SERVE_FINISH;
		serve_ready(s, &op->turn);
		return;
	}
	if (!may_begin(s, op)) {
		serve_list_add(&s->for_saver, op);
		serve_save(s);
		return;
	}
	if (debt_holds(&s->debt)) {
		s->st.held++;
		serve_list_add(&s->for_debt, op);
		return;
	}
	mark(s, op);
	op->step = SERVE_WRITTEN;
	if (trim)
		to_base(op, BLK_ZERO, (r->flags & BLK_FUA) | BLK_FAST_ZERO, op->off, op->len, NULL);
	else
		to_base(op, r->op, r->flags, op->off, op->len, r->buf);
}

/* written() - the base has answered */
static void written(struct serve *s, struct serve_op *op)
{
	const struct blk_req *r = op->r;
	bool undone = op->base_rc == -ENOTSUP && (r->op == BLK_TRIM || (r->op == BLK_ZERO && r->flags & BLK_FAST_ZERO));

	op->step = SERVE_FINISH;
	op->rc = op->base_rc;
	if (undone) {
		if (r->op == BLK_TRIM)
			op->rc = 0;	/* nothing was changed here, and will not be there */
		return;
	}
	if (op->rc == 0) {
		*(r->op == BLK_WRITE ? &s->st.written : &s->st.zeroed) += op->len;
		op->step = SERVE_SEND;
		return;
	}
	s->st.errors++;
	s->ops.local_error(s->ops.arg, op->d->i, op->rc);
	/* What cannot be read and sent as it is now stays dirty. */
	if (op->len > READ_BACK_MAX || op->rc == -ESHUTDOWN || !s->sends) {
		meta_dirty(op->d->meta, op->off, op->len);
		return;
	}
	op->step = SERVE_READ;
}

/* Toward the peer */

/* send_piece() - Return: 0: all is sent; 1: there is more; -EAGAIN: no room; -EPIPE */
static int send_piece(struct serve *s, struct serve_op *op)
{
	const struct serve_peer *p = &s->peer;
	uint64_t left = op->len - op->at;
	uint32_t n = left < SERVE_PIECE ? (uint32_t)left : SERVE_PIECE;
	int rc;

	if (op->step == SERVE_MARKER)
		return p->marker(p->arg, s->marker_n);
	if (op->step == SERVE_SEND_READ) {
		rc = p->write(p->arg, op->d->i, op->off + op->at, op->piece, op->buf);
		if (rc == 0)
			op->at += op->piece;
		return rc;
	}
	if (op->r->op != BLK_WRITE)
		return p->zero(p->arg, op->d->i, op->off, op->len, op->r->op == BLK_TRIM, op->r->flags & BLK_NO_HOLE);
	rc = p->write(p->arg, op->d->i, op->off + op->at, n, op->r->buf + op->at);
	if (rc == 0)
		op->at += n;
	return rc == 0 && op->at < op->len ? 1 : rc;
}

/* sent() - this one does not wait for the peer any more, whether it has got it or is gone */
static void sent(struct serve *s, struct serve_op *op)
{
	if (op->step == SERVE_MARKER) {
		s->marker_waits = false;
		return;
	}
	op->step = op->step == SERVE_SEND_READ && s->sends && op->at < op->len ? SERVE_READ : SERVE_FINISH;
	serve_ready(s, &op->turn);
}

void serve_room(struct serve *s)
{
	struct serve_op *op;

	while (s->sends && (op = s->for_room.first)) {
		int rc = send_piece(s, op);

		if (rc == -EAGAIN)
			return;
		if (rc == 1) {
			s->taken++;
			continue;
		}
		if (rc != 0) {
			s->sends = false;
			break;
		}
		serve_list_take(&s->for_room);
		s->taken++;
		sent(s, op);
	}
	if (!s->sends)
		serve_release(s);
}

void serve_release(struct serve *s)
{
	struct serve_op *op;

	while ((op = serve_list_take(&s->for_room)))
		sent(s, op);
}

static void send(struct serve *s, struct serve_op *op)
{
	bool lost = op->step == SERVE_SEND_READ && op->base_rc != 0;

	if (lost)
		meta_dirty(op->d->meta, op->off + op->at, op->len - op->at);
	if (!s->sends || lost) {
		op->step = SERVE_FINISH;
		serve_ready(s, &op->turn);
		return;
	}
	if (!op->seq)
		mark(s, op);	/* it was begun without a peer */
	serve_list_add(&s->for_room, op);
	if (s->for_room.first == op)
		serve_room(s);
	if (s->for_room.first)
		s->st.waits++;
}

/* read_back() - the next piece of what a failed write has left */
static void read_back(struct serve *s, struct serve_op *op)
{
	uint64_t left = op->len - op->at;

	op->piece = left < SERVE_PIECE ? (uint32_t)left : SERVE_PIECE;
	if (!op->buf)
		op->buf = malloc(op->len < SERVE_PIECE ? op->len : SERVE_PIECE);
	if (!op->buf || !s->sends) {
		meta_dirty(op->d->meta, op->off + op->at, left);
		op->step = SERVE_FINISH;
		serve_ready(s, &op->turn);
		return;
	}
	op->base_rc = 0;
	op->step = SERVE_SEND_READ;
	to_base(op, BLK_READ, 0, op->off + op->at, op->piece, op->buf);
}

static void finish(struct serve *s, struct serve_op *op)
{
	struct blk_req *r = op->r;
	int rc = op->rc;

	rangelock_leave(&op->d->lock, &op->turn.range, serve_granted, s);
	op_free(op);
	r->done(r, rc);
}

static void step(struct serve *s, struct serve_op *op)
{
	switch (op->step) {
	case SERVE_BEGIN:
		begin(s, op);
		return;
	case SERVE_WRITTEN:
		written(s, op);
		serve_ready(s, &op->turn);
		return;
	case SERVE_SEND:
	case SERVE_SEND_READ:
		send(s, op);
		return;
	case SERVE_READ:
		read_back(s, op);
		return;
	case SERVE_FINISH:
		finish(s, op);
		return;
	case SERVE_FLUSH:
		flushed(s, op);
		return;
	case SERVE_MARKER:
		return;
	}
}

/* Requests of the guest */

static void change(struct serve *s, struct serve_disk *d, struct blk_req *r)
{
	struct serve_op *op;

	if (d->blk.readonly || r->len == 0) {
		r->done(r, d->blk.readonly ? -EROFS : 0);
		return;
	}
	op = op_new(d, r);
	if (!op) {
		r->done(r, -ENOMEM);
		return;
	}
	op->off = op->turn.range.off = r->off;
	op->len = op->turn.range.len = r->len;
	op->step = SERVE_BEGIN;
	if (rangelock_ask(&d->lock, &op->turn.range))
		serve_ready(s, &op->turn);
	else
		s->st.conflicts++;
	serve_run(s);
}

void serve_submit(struct blk *b, struct blk_req *r)
{
	struct serve_disk *d = (struct serve_disk *)((char *)b - offsetof(struct serve_disk, blk));
	struct serve *s = d->s;
	struct serve_op *op;

	switch (r->op) {
	case BLK_WRITE:
	case BLK_ZERO:
	case BLK_TRIM:
		change(s, d, r);
		return;
	case BLK_FLUSH:
		s->st.flushes++;
		op = op_new(d, r);
		if (!op) {
			r->done(r, -ENOMEM);
			return;
		}
		op->flush.disk = d->i;
		debt_flush(&s->debt, &op->flush);
		return;
	case BLK_READ:
		s->st.read += r->len;
		break;
	case BLK_STATUS:
	case BLK_CACHE:
		break;
	}
	blk_submit(d->base, r);
}
