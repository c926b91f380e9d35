/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The disks of the node that serves: theory of operation
 *
 * What must hold: at any time, whatever fails, the base here and the peer's copy (its base with everything it was sent)
 * differ at most in blocks that the dirty bitmap has, or that were written in an epoch which the peer has not
 * confirmed; and in regions that the write-intent map in the file has. The first is for as long as this process lives,
 * the second for when it does not.
 *
 * A request that changes something goes through these steps (serve_ops.c), all in the disk loop:
 *
 *	range		those that overlap wait for one another, in order (rangelock.c), and for a resync's
 *			serve_lock(). So base and peer get them in one order. Reads do not wait.
 *	intent		its regions are in the write-intent map, durably; with no peer, the generation too. Otherwise a
 *			round of the saver is waited for, a thread that writes once for all that have asked (saver.c).
 *	debt		none is open of which the guest could believe that it is paid (debt.c)
 *	mark		its blocks: uncommitted (uncommitted.c), with no peer dirty
 *	base		written; FUA is the base's
 *	peer		sent, in pieces; where there is no room it waits in one queue for all disks, with the markers
 *	answer
 *
 * With no peer it is answered after the base. When the base fails, nobody knows what it holds there. The guest has its
 * error; what can be read back goes to the peer, and what cannot is dirty. A TRIM is a zero that must be fast, of the part
 * of it for which the base can do that, or nothing at all: the copies are compared by hash, so what a trimmed range reads as cannot be left to each file system.
 *
 * An epoch ends with serve_marker(), for all disks at once; serve_committed() forgets its marks. Regions leave the
 * write-intent map when their last epoch is committed there and flushed here; if the guest does not flush we do, now
 * and then. When it is decided that there is no peer any more (serve_peer(NULL)) all that is uncommitted becomes dirty.
 *
 * Flushes go to the base, by the debt rule (debt.c). Reads, status and cache requests are handed on as they are.
 */
#include "disk/serve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "core/lineage.h"
#include "disk/intent.h"
#include "disk/serve_internal.h"

static const struct blk_ops serve_blk_ops = { .submit = serve_submit };

static void on_debt(void *arg, bool open)
{
	struct serve *s = arg;

	struct serve_op *op;

	s->ops.debt(s->ops.arg, open);
	while (!open && (op = serve_list_take(&s->for_debt)))
		serve_ready(s, &op->turn);
}

static void on_debt_failed(void *arg, int rc)
{
	struct serve *s = arg;

	s->st.errors++;
	s->ops.debt_failed(s->ops.arg, rc);
}

struct serve *serve_new(struct loop *l, struct blk *const *bases, struct meta *const *metas, unsigned int n,
			const struct serve_ops *ops, struct err *e)
{
	struct serve *s = calloc(1, sizeof(*s));
	struct debt_ops debt = { serve_debt_begin, serve_debt_answer, on_debt, on_debt_failed, s };
	uint64_t *sizes = calloc(n + 1, sizeof(*sizes));
	bool ok = s && sizes && (s->disk = calloc(n + 1, sizeof(*s->disk))) &&
		  (s->metas = calloc(n + 1, sizeof(*s->metas)));

	for (unsigned int i = 0; ok && i < n; i++) {
		s->metas[i] = metas[i];
		sizes[i] = bases[i]->size;
		s->disk[i] = (struct serve_disk){ .blk = *bases[i], .base = bases[i], .meta = metas[i], .s = s };
		s->disk[i].i = i;
		s->disk[i].blk.ops = &serve_blk_ops;
	}
	ok = ok && uncommitted_init(&s->un, s->metas, sizes, n) == 0 && debt_init(&s->debt, n, &debt) == 0;
	free(sizes);
	if (!ok) {
		serve_free(s);
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	s->loop = l;
	s->n = n;
	s->ops = *ops;
	s->soft = SERVE_SOFT;
	s->ready_last = &s->ready;
	serve_list_init(&s->for_saver);
	serve_list_init(&s->for_room);
	serve_list_init(&s->for_debt);
	for (unsigned int i = 0; i < n; i++)
		meta_intent_epoch(metas[i], uncommitted_seq(&s->un));
	s->saver = saver_new(l, s->metas, n, serve_saved, s, e);
	if (!s->saver) {
		serve_free(s);
		return NULL;
	}
	return s;
}

void serve_free(struct serve *s)
{
	struct serve_op *op;

	if (!s)
		return;
	saver_free(s->saver);
	while ((op = s->spare)) {
		s->spare = op->wait;
		free(op);
	}
	uncommitted_fini(&s->un);
	debt_fini(&s->debt);
	free(s->metas);
	free(s->disk);
	free(s);
}

struct blk *serve_blk(struct serve *s, unsigned int i)
{
	return &s->disk[i].blk;
}

void serve_limit(struct serve *s, uint64_t soft)
{
	s->soft = soft;
}

/* Peers */

bool serve_begin_generation(struct serve *s)
{
	bool any = false;

	for (unsigned int i = 0; i < s->n; i++) {
		if (meta_next(s->metas[i])) {
			s->disk[i].new_gen = true;
			s->disk[i].saves_gen = false;
		}
		any |= s->disk[i].new_gen;
	}
	return any;
}

void serve_peer(struct serve *s, const struct serve_peer *peer)
{
	bool lost = false;

	if (s->has_peer)
		lost = uncommitted_give_up(&s->un);
	for (unsigned int i = 0; i < s->n; i++)
		meta_intent_epoch(s->metas[i], uncommitted_seq(&s->un));
	s->has_peer = s->sends = peer;
	s->alone = false;
	s->wanted = false;
	serve_release(s);
	if (peer) {
		s->peer = *peer;
		/* Those that waited for a generation need none now. */
		serve_retry(s);
		serve_run(s);
		return;
	}
	if (lost && !serve_begin_generation(s))
		s->alone = true;
	serve_save(s);
	serve_run(s);
}

void serve_writable(struct serve *s)
{
	serve_room(s);
	serve_run(s);
}

bool serve_waiting(const struct serve *s, uint64_t *taken)
{
	*taken = s->taken;
	return s->for_room.first;
}

void serve_give_up(struct serve *s)
{
	s->sends = false;
	serve_release(s);
	serve_run(s);
}

int serve_marker(struct serve *s, uint64_t n)
{
	if (!s->sends)
		return -EPIPE;
	if (s->marker_waits)
		return -EBUSY;
	s->marker = (struct serve_op){ .step = SERVE_MARKER };
	s->marker_n = n;
	s->marker_waits = true;
	serve_list_add(&s->for_room, &s->marker);
	uncommitted_close(&s->un, n);
	for (unsigned int i = 0; i < s->n; i++)
		meta_intent_epoch(s->metas[i], uncommitted_seq(&s->un));
	s->wanted = false;
	serve_mark_again(s);
	serve_room(s);
	serve_run(s);
	return s->sends ? 0 : -EPIPE;
}

void serve_committed(struct serve *s, uint64_t n)
{
	uint64_t seq = uncommitted_drop(&s->un, n);

	if (seq == 0)
		return;
	s->committed = seq;
	for (unsigned int i = 0; i < s->n; i++) {
		struct serve_disk *d = &s->disk[i];

		meta_intent_clear(d->meta, d->durable < seq ? d->durable : seq);
		/* A region stays for INTENT_KEEP epochs anyway, so ours need not be frequent. */
		if (seq - d->durable >= INTENT_KEEP && !d->flushing)
			serve_flush_base(d);
	}
	serve_save(s);
}

void serve_stopping(struct serve *s, bool on)
{
	atomic_store(&s->debt.stopping, on);
}

void serve_owe(struct serve *s)
{
	debt_owe(&s->debt);
	serve_run(s);
}

/* Locks of a resync */

void serve_lock(struct serve *s, struct serve_range *r)
{
	r->turn = (struct serve_turn){ .range = { .off = r->off, .len = r->len }, .is_range = true };
	r->held = false;
	if (rangelock_ask(&s->disk[r->disk].lock, &r->turn.range))
		serve_ready(s, &r->turn);
	serve_run(s);
}

void serve_unlock(struct serve *s, struct serve_range *r)
{
	if (r->turn.queued)
		serve_unready(s, &r->turn);
	r->held = false;
	rangelock_leave(&s->disk[r->disk].lock, &r->turn.range, serve_granted, s);
	serve_run(s);
}

bool serve_saver_step(struct serve *s)
{
	return saver_step(s->saver);
}

void serve_stats(const struct serve *s, struct serve_stats *out)
{
	*out = s->st;
	out->debts = s->debt.total;
	for (unsigned int i = 0; i < s->n; i++)
		out->dirty_bytes += meta_dirty_bytes(s->metas[i]);
	out->uncommitted_bytes = uncommitted_bytes(&s->un, true);
}
