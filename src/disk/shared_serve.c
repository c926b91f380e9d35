/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The disks of the node that serves, images shared: theory of operation
 *
 * What must hold: at any time, whatever fails, the base differs from what it was at the end of an epoch that the peer may
 * still go back to only in blocks whose content of then the peer has. There may be two such epochs, the one that was
 * marked and is not STAGED, and with it everything since; each block's content is kept once for each.
 *
 * A request that changes something:
 *
 *	range	those that touch a block in common wait for one another, in order (rangelock.c). A block is SHARED_BLOCK
 *		bytes, and what a request changes of one counts as all of it
 *	keep	each run of blocks that is not kept in this epoch is read from the base and sent, as zeroes if it is; then
 *		all of it must have been confirmed. Many requests are in this step at once, and the peer confirms what it
 *		has got in one turn of its loop by messages that leave together: so it costs a read and a round trip, once
 *		for each block and epoch
 *	base	written
 *	answer
 *
 * With no peer, and until the first marker, there is no second step. When the connection breaks the peer may take over,
 * since it needs a fence for that and this node is alive: so requests that need that step wait until it is decided (the
 * VM notices a slow disk). shared_serve_alone() says that nobody else can have the VM any more.
 *
 * The VM stands and nothing of it is under way when an epoch is marked: a write that was confirmed before the marker and
 * made after it would be lost for the peer. It is refused then.
 *
 * A trim tells the image that space is not needed, and the guest does not rely on it. Where much would have to be kept
 * for it, it is dropped. Flushes go to the base by the debt rule (debt.c).
 */
#include "disk/shared_serve.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "disk/debt.h"
#include "disk/rangelock.h"
#include "disk/standby_fault.h"

#define LEAF_BITS	32768u		/* blocks of a leaf of the map: 128 MiB */

enum step { KEEP_BEGIN, KEEP_READ, KEEP_SEND, KEEP_WAIT, KEEP_BASE, KEEP_FLUSH };

struct keep_op {
	struct rangelock_entry range;
	struct blk_req sub;		/* to the base */
	struct keep_disk *d;
	struct blk_req *r;		/* the guest's; NULL: a flush that was answered early */
	struct debt_flush flush;
	enum step step;
	uint64_t at;			/* up to here it is kept, or need not be */
	uint32_t piece;			/* bytes in @buf */
	uint8_t *buf;
	uint64_t need;			/* confirmations before it goes on */
	struct keep_op *next;		/* in the list for room, or for confirmations */
};

struct keep_list {
	struct keep_op *first, **last;
};

struct keep_disk {
	struct blk blk;			/* what QEMU gets */
	struct blk *base;
	struct shared_serve *s;
	unsigned int i;
	struct rangelock lock;
	uint8_t **leaf;			/* blocks that are kept in this epoch; NULL: none of these */
	uint64_t leaves;
};

struct shared_serve {
	unsigned int n;
	struct keep_disk *disk;
	struct shared_serve_ops ops;
	struct shared_peer peer;
	bool sends;			/* the peer can be sent to */
	bool rival;			/* it may take over, or may have to be kept from it */
	bool marked;			/* this peer has had a marker */
	bool silent;
	uint64_t sent, confirmed;
	struct keep_list for_room, for_kept, lost, for_debt;
	bool marker_waits;
	uint64_t marker_n;
	uint64_t epoch_bytes, soft;
	bool wanted;
	struct debt debt;
	struct shared_serve_stats st;
};

static void step(struct keep_op *op);

static void list_init(struct keep_list *l)
{
	l->first = NULL;
	l->last = &l->first;
}

static void list_add(struct keep_list *l, struct keep_op *op)
{
	op->next = NULL;
	*l->last = op;
	l->last = &op->next;
}

static struct keep_op *list_take(struct keep_list *l)
{
	struct keep_op *op = l->first;

	if (op) {
		l->first = op->next;
		if (!l->first)
			l->last = &l->first;
	}
	return op;
}

/* The map */

static bool kept(const struct keep_disk *d, uint64_t block)
{
	const uint8_t *leaf = d->leaf[block / LEAF_BITS];

	return leaf && leaf[block % LEAF_BITS / 8] & 1u << block % 8;
}

/* Without memory for it a block is kept again by the next one. */
static void mark_kept(struct keep_disk *d, uint64_t block)
{
	uint8_t **leaf = &d->leaf[block / LEAF_BITS];

	if (!*leaf)
		*leaf = calloc(1, LEAF_BITS / 8);
	if (*leaf)
		(*leaf)[block % LEAF_BITS / 8] |= (uint8_t)(1u << block % 8);
}

static void forget_kept(struct shared_serve *s)
{
	for (unsigned int i = 0; i < s->n; i++)
		for (uint64_t k = 0; k < s->disk[i].leaves; k++) {
			free(s->disk[i].leaf[k]);
			s->disk[i].leaf[k] = NULL;
		}
	s->epoch_bytes = 0;
	s->wanted = false;
}

/* Requests */

static struct keep_op *op_new(struct keep_disk *d, struct blk_req *r)
{
	struct keep_op *op = calloc(1, sizeof(*op));

	if (!op)
		return NULL;
	op->d = d;
	op->r = r;
	d->s->st.requests++;
	return op;
}

static void op_free(struct keep_op *op)
{
	op->d->s->st.requests--;
	free(op->buf);
	free(op);
}

static void granted(void *arg, struct rangelock_entry *e)
{
	struct keep_op *op = (struct keep_op *)((char *)e - offsetof(struct keep_op, range));

	list_add(arg, op);
}

static void finish(struct keep_op *op, int rc)
{
	struct blk_req *r = op->r;
	struct keep_list next;

	list_init(&next);
	rangelock_leave(&op->d->lock, &op->range, granted, &next);
	op_free(op);
	r->done(r, rc);
	while ((op = list_take(&next)))
		step(op);
}

static void base_done(struct blk_req *sub, int rc)
{
	struct keep_op *op = sub->arg;
	struct shared_serve *s = op->d->s;
	const struct blk_req *r = op->r;

	if (op->step == KEEP_READ) {
		if (rc) {
			/* What cannot be read cannot be kept, so it is not overwritten either. */
			s->st.errors++;
			s->ops.local_error(s->ops.arg, op->d->i, rc);
			finish(op, rc);
			return;
		}
		op->step = KEEP_SEND;
		step(op);
		return;
	}
	if (!rc) {
		*(r->op == BLK_WRITE ? &s->st.written : &s->st.zeroed) += r->len;
	} else if (rc != -ENOTSUP) {
		s->st.errors++;
		s->ops.local_error(s->ops.arg, op->d->i, rc);
	}
	finish(op, rc == -ENOTSUP && r->op == BLK_TRIM ? 0 : rc);
}

static void to_base(struct keep_op *op, enum blk_op what, uint32_t flags, uint64_t off, uint64_t len, uint8_t *buf)
{
	op->sub = (struct blk_req){ .op = what, .flags = flags, .off = off, .len = len, .buf = buf, .done = base_done,
				    .arg = op };
	blk_submit(op->d->base, &op->sub);
}

static bool must_keep(const struct shared_serve *s)
{
	return s->rival && s->marked;
}

/* next_run() - the next run of blocks that are not kept, up to a piece. Return: false: there is none */
static bool next_run(struct keep_op *op)
{
	struct keep_disk *d = op->d;
	uint64_t end = op->range.off + op->range.len, to;

	while (op->at < end && kept(d, op->at / SHARED_BLOCK))
		op->at += SHARED_BLOCK;
	if (op->at >= end)
		return false;
	for (to = op->at; to < end && to - op->at < SHARED_PIECE && !kept(d, to / SHARED_BLOCK); to += SHARED_BLOCK)
		;
	if (to > d->blk.size)
		to = d->blk.size;
	op->piece = (uint32_t)(to - op->at);
	return true;
}

static uint64_t bytes_to_keep(const struct keep_op *op)
{
	uint64_t bytes = 0;

	for (uint64_t at = op->range.off; at < op->range.off + op->range.len && bytes <= SHARED_TRIM_MAX; at += SHARED_BLOCK)
		bytes += kept(op->d, at / SHARED_BLOCK) ? 0 : SHARED_BLOCK;
	return bytes;
}

static void begin(struct keep_op *op)
{
	struct shared_serve *s = op->d->s;

	op->step = KEEP_BASE;
	if (s->silent) {
		finish(op, -ESHUTDOWN);
		return;
	}
	if (debt_holds(&s->debt)) {
		op->step = KEEP_BEGIN;
		list_add(&s->for_debt, op);
		return;
	}
	if (must_keep(s) && !(FAULT(KEEP_LOST) && !s->sends)) {
		if (op->r->op == BLK_TRIM && bytes_to_keep(op) > SHARED_TRIM_MAX) {
			s->st.trims_dropped++;
			finish(op, 0);
			return;
		}
		if (next_run(op)) {
			if (!s->sends) {
				op->step = KEEP_BEGIN;
				list_add(&s->lost, op);
				return;
			}
			if (!op->buf)
				op->buf = malloc(op->range.len < SHARED_PIECE ? op->range.len : SHARED_PIECE);
			if (!op->buf) {
				finish(op, -ENOMEM);
				return;
			}
			op->step = KEEP_READ;
			to_base(op, BLK_READ, 0, op->at, op->piece, op->buf);
			return;
		}
		if (op->need > s->confirmed && !FAULT(KEEP_NO_ACK)) {
			op->step = KEEP_WAIT;
			list_add(s->sends ? &s->for_kept : &s->lost, op);
			s->st.waits += s->sends;
			return;
		}
	}
	step(op);
}

static void write_base(struct keep_op *op)
{
	struct blk_req *r = op->r;

	if (r->op == BLK_TRIM)
		to_base(op, BLK_ZERO, (r->flags & BLK_FUA) | BLK_FAST_ZERO, r->off, r->len, NULL);
	else
		to_base(op, r->op, r->flags, r->off, r->len, r->buf);
}

/* Toward the peer */

static bool all_zero(const uint8_t *p, uint32_t len)
{
	return !p[0] && !memcmp(p, p + 1, len - 1);
}

/* Return: as struct shared_peer; 0: it is sent */
static int send_old(struct shared_serve *s, struct keep_op *op)
{
	struct keep_disk *d = op->d;
	uint64_t off = op->at;
	uint32_t len = op->piece;
	uint8_t *buf = op->buf;
	int rc;

	if (FAULT(KEEP_PART) && op->r->off > off && op->r->off < off + len) {
		buf += op->r->off - off;
		len -= (uint32_t)(op->r->off - off);
		off = op->r->off;
	}
	rc = s->peer.old(s->peer.arg, d->i, off, len, all_zero(buf, len) ? NULL : buf);
	if (rc)
		return rc;
	for (uint64_t b = op->at; b < op->at + op->piece; b += SHARED_BLOCK)
		mark_kept(d, b / SHARED_BLOCK);
	op->need = ++s->sent;
	s->st.kept++;
	s->st.kept_bytes += op->piece;
	s->epoch_bytes += op->piece;
	op->at += op->piece;
	if (!s->wanted && s->epoch_bytes >= s->soft) {
		s->wanted = true;
		s->ops.want(s->ops.arg);
	}
	return 0;
}

static void run_room(struct shared_serve *s)
{
	while (s->sends && s->for_room.first) {
		struct keep_op *op = s->for_room.first;
		int rc = send_old(s, op);

		if (rc == -EAGAIN)
			return;
		if (rc) {
			shared_serve_lost(s);
			return;
		}
		list_take(&s->for_room);
		begin(op);
	}
	/* Nothing of the VM is under way, so the marker is the last. */
	if (s->sends && s->marker_waits) {
		int rc = s->peer.marker(s->peer.arg, s->marker_n);

		if (rc == -EAGAIN)
			return;
		s->marker_waits = false;
		if (rc)
			shared_serve_lost(s);
	}
}

static void step(struct keep_op *op)
{
	struct shared_serve *s = op->d->s;

	switch (op->step) {
	case KEEP_BEGIN:
	case KEEP_WAIT:
		begin(op);
		return;
	case KEEP_SEND:
		if (!must_keep(s)) {
			begin(op);
			return;
		}
		list_add(s->sends ? &s->for_room : &s->lost, op);
		run_room(s);
		return;
	case KEEP_BASE:
		write_base(op);
		return;
	case KEEP_READ:
	case KEEP_FLUSH:
		return;
	}
}

void shared_serve_writable(struct shared_serve *s)
{
	run_room(s);
}

int shared_serve_kept(struct shared_serve *s, uint64_t count)
{
	struct keep_op *op;

	if (count > s->sent || count < s->confirmed)
		return -EPROTO;
	s->confirmed = count;
	while ((op = s->for_kept.first) && op->need <= count) {
		list_take(&s->for_kept);
		begin(op);
	}
	return 0;
}

void shared_serve_peer(struct shared_serve *s, const struct shared_peer *peer)
{
	s->peer = *peer;
	s->sends = s->rival = true;
	s->marked = s->marker_waits = false;
	s->sent = s->confirmed = 0;
	forget_kept(s);
}

void shared_serve_lost(struct shared_serve *s)
{
	struct keep_op *op;

	s->sends = s->marker_waits = false;
	/* What was sent and not confirmed may or may not be there. */
	while ((op = list_take(&s->for_room)))
		list_add(&s->lost, op);
	while ((op = list_take(&s->for_kept)))
		list_add(&s->lost, op);
	if (!must_keep(s))
		shared_serve_alone(s);
}

/* What waits in a list looks again; it may wait in the same one again. */
static void again(struct keep_list *l)
{
	struct keep_list all = *l;
	struct keep_op *op;

	if (!all.first)
		return;
	list_init(l);
	while ((op = list_take(&all))) {
		op->step = KEEP_BEGIN;
		begin(op);
	}
}

void shared_serve_alone(struct shared_serve *s)
{
	s->sends = s->rival = s->marked = s->marker_waits = false;
	forget_kept(s);
	again(&s->lost);
}

bool shared_serve_rival(const struct shared_serve *s)
{
	return must_keep(s);
}

void shared_serve_silence(struct shared_serve *s)
{
	s->silent = true;
	shared_serve_lost(s);
	again(&s->lost);
	again(&s->for_debt);
}

int shared_serve_marker(struct shared_serve *s, uint64_t n)
{
	if (!s->sends)
		return -EPIPE;
	for (unsigned int i = 0; i < s->n; i++)
		if (s->disk[i].lock.first)
			return -EBUSY;
	if (s->marker_waits)
		return -EBUSY;
	s->marker_waits = s->marked = true;
	s->marker_n = n;
	if (!FAULT(KEEP_ONCE))
		forget_kept(s);
	run_room(s);
	return s->sends ? 0 : -EPIPE;
}

/* Flushes */

static void debt_begin(void *arg, struct debt_flush *f);

static void flush_done(struct blk_req *sub, int rc)
{
	struct keep_op *op = sub->arg;
	struct shared_serve *s = op->d->s;
	bool early = op->flush.early;

	if (rc && rc != -ESHUTDOWN) {
		s->st.errors++;
		s->ops.local_error(s->ops.arg, op->d->i, rc);
	}
	debt_done(&s->debt, &op->flush, rc);
	if (early)
		op_free(op);
}

static void debt_begin(void *arg, struct debt_flush *f)
{
	struct keep_op *op = (struct keep_op *)((char *)f - offsetof(struct keep_op, flush));

	op->sub = (struct blk_req){ .op = BLK_FLUSH, .done = flush_done, .arg = op };
	blk_submit(op->d->base, &op->sub);
}

static void debt_answer(void *arg, struct debt_flush *f, int rc)
{
	struct keep_op *op = (struct keep_op *)((char *)f - offsetof(struct keep_op, flush));
	struct blk_req *r = op->r;

	op->r = NULL;
	if (!f->early)
		op_free(op);
	r->done(r, rc);
}

static void debt_open(void *arg, bool open)
{
	struct shared_serve *s = arg;

	s->ops.debt(s->ops.arg, open);
	if (!open)
		again(&s->for_debt);
}

static void debt_failed(void *arg, int rc)
{
	struct shared_serve *s = arg;

	s->st.errors++;
	s->ops.debt_failed(s->ops.arg, rc);
}

void shared_serve_stopping(struct shared_serve *s, bool on)
{
	atomic_store(&s->debt.stopping, on);
}

void shared_serve_owe(struct shared_serve *s)
{
	debt_owe(&s->debt);
}

/* Requests of the guest */

static void change(struct keep_disk *d, struct blk_req *r)
{
	struct shared_serve *s = d->s;
	struct keep_op *op;
	uint64_t end;

	if (d->blk.readonly || !r->len) {
		r->done(r, d->blk.readonly ? -EROFS : 0);
		return;
	}
	op = s->silent ? NULL : op_new(d, r);
	if (!op) {
		r->done(r, s->silent ? -ESHUTDOWN : -ENOMEM);
		return;
	}
	end = (r->off + r->len + SHARED_BLOCK - 1) / SHARED_BLOCK * SHARED_BLOCK;
	op->at = op->range.off = r->off / SHARED_BLOCK * SHARED_BLOCK;
	op->range.len = end - op->range.off;
	if (rangelock_ask(&d->lock, &op->range))
		step(op);
}

static void submit(struct blk *b, struct blk_req *r)
{
	struct keep_disk *d = (struct keep_disk *)((char *)b - offsetof(struct keep_disk, blk));
	struct shared_serve *s = d->s;
	struct keep_op *op;

	switch (r->op) {
	case BLK_WRITE:
	case BLK_ZERO:
	case BLK_TRIM:
		change(d, r);
		return;
	case BLK_FLUSH:
		s->st.flushes++;
		op = op_new(d, r);
		if (!op) {
			r->done(r, -ENOMEM);
			return;
		}
		op->step = KEEP_FLUSH;
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

static const struct blk_ops blk_ops = { .submit = submit };

struct shared_serve *shared_serve_new(struct blk *const *bases, unsigned int n, const struct shared_serve_ops *ops,
				      struct err *e)
{
	struct shared_serve *s = calloc(1, sizeof(*s));
	struct debt_ops debt = { debt_begin, debt_answer, debt_open, debt_failed, s };
	bool ok = s && (s->disk = calloc(n + 1, sizeof(*s->disk))) && !debt_init(&s->debt, n, &debt);

	for (unsigned int i = 0; ok && i < n; i++) {
		struct keep_disk *d = &s->disk[i];

		*d = (struct keep_disk){ .blk = *bases[i], .base = bases[i], .s = s, .i = i };
		d->blk.ops = &blk_ops;
		d->leaves = bases[i]->size / SHARED_BLOCK / LEAF_BITS + 1;
		d->leaf = calloc(d->leaves, sizeof(*d->leaf));
		ok = d->leaf;
		s->n++;
	}
	if (!ok) {
		shared_serve_free(s);
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	s->ops = *ops;
	s->soft = SHARED_SOFT;
	list_init(&s->for_room);
	list_init(&s->for_kept);
	list_init(&s->lost);
	list_init(&s->for_debt);
	return s;
}

void shared_serve_free(struct shared_serve *s)
{
	if (!s)
		return;
	forget_kept(s);
	for (unsigned int i = 0; i < s->n; i++)
		free(s->disk[i].leaf);
	debt_fini(&s->debt);
	free(s->disk);
	free(s);
}

struct blk *shared_serve_blk(struct shared_serve *s, unsigned int i)
{
	return &s->disk[i].blk;
}

void shared_serve_limit(struct shared_serve *s, uint64_t soft)
{
	s->soft = soft;
}

void shared_serve_stats(const struct shared_serve *s, struct shared_serve_stats *out)
{
	*out = s->st;
	out->debts = s->debt.total;
	out->blocked = s->lost.first;
}
