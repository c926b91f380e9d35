/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/standby.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "disk/standby_internal.h"

/*
 * Theory of operation
 *
 * A layer is a map for each disk (core/extmap) and the bytes that the maps point to (arena.c). The stack is what the VM
 * sees above the bases: committed epochs, the oldest lowest, and on top the open layer, the SVM's own writes. The
 * peer's writes go into `pending`, which is not in the stack; a barrier makes it `sealed`, and a flip puts it into the
 * stack in place of the open layer, which goes.
 *
 *	OPEN --barrier, promotion--> SEALED --persist--> READY --settle--> JOURNALED --write back, flush--> WRITTEN
 *	     --settle--> gone
 *
 * A pending layer is READY before it is STAGED (standby_reserve()), so that nothing after the flip needs space any more.
 * To settle is to write a header: it names the layers that are READY and those that are JOURNALED, and those that are
 * WRITTEN no more. One is under way at a time, for as many layers as there are; writing back is a loop of its own beside
 * it (writeback.c), for all that are JOURNALED at once, of which only the newest bytes are written.
 *
 * Why a crash leaves a whole epoch. A base is written only with what a durable header names, and until a header that
 * does not name it is durable, whoever comes back writes all of it again, in the order of the layers. So what a crash
 * has left in the bases of these layers is of no account.
 *
 * After a promotion (standby_merge.c) the open layer is sealed and goes the same way, with a new open one on top of it.
 * While it is not JOURNALED all writes go on top: the VM believes its own writes to be flushed, so nothing that came
 * after them may be in the base when they are not. Then a write that meets nothing in the stack goes straight to the
 * base; it cannot be written over by whoever recovers, since the header names nothing there. A write that meets a layer,
 * also one that is WRITTEN but named, goes on top. Nothing is written back while a straight write that was there before
 * it is under way, so the two cannot come into the base in the wrong order.
 *
 * A trim reads as zeroes and is written back as zeroes that need no space. Where a base cannot do that fast the VM's trim
 * is dropped, as it may be: nobody has to write zeroes for it, and what is read there stays the same. The peer's never
 * is: it has become zeroes there, so it is zeroes here too, with space reserved for them where they may have to be
 * written.
 *
 * Shared bases (shared_standby.c) are written by the serving peer at once, so what comes from it is not new content but
 * old: `pending` and `sealed` hold what was in the base before, and lie below the SVM's own writes. The flip drops them.
 * Before a promotion nothing is journaled and nothing written.
 *
 * Everything that can be done is done by standby_kick(), which looks at the state and not at what has happened, and is
 * called after everything that could have changed it.
 *
 * Limits: soft and hard of struct standby_limits; the layers of the stack (STANDBY_MAX_EPOCHS, OVERLAY_MAX); chunks, so
 * many that the hard limit is reached first.
 */
#define CHUNK_DEFAULT	(256u << 10)

struct layer *layer_new(struct standby *s)
{
	struct layer *l = calloc(1, sizeof(*l) + s->n * sizeof(l->map[0]));

	if (!l)
		return NULL;
	l->s = s;
	arena_layer_init(&l->bytes);
	for (unsigned int i = 0; i < s->n; i++)
		extmap_init(&l->map[i], &s->pool);
	return l;
}

/* What it has is given back bit by bit, by standby_kick() */
void layer_bury(struct standby *s, struct layer *l)
{
	for (unsigned int i = 0; i < s->n; i++)
		extmap_clear(&l->map[i]);
	l->dead = true;
	l->next = s->graves;
	s->graves = l;
}

static void bytes_freed(void *arg, uint64_t loc, uint64_t len)
{
	struct standby *s = arg;

	arena_unref(&s->a, loc, len);
}

int layer_put(struct standby *s, struct layer *l, unsigned int disk, const struct ext *e)
{
	return extmap_put(&l->map[disk], e, bytes_freed, s);
}

int64_t layer_write(struct standby *s, struct layer *l, unsigned int disk, uint64_t off, uint64_t len, const uint8_t *data,
		    enum ext_kind kind)
{
	struct extmap *m = &l->map[disk];
	uint64_t done = 0;

	if (kind != EXT_DATA) {
		int rc = layer_put(s, l, disk, &(struct ext){ .off = off, .len = len, .kind = kind });

		return rc ? rc : (int64_t)len;
	}
	while (done < len) {
		struct ext e;
		uint8_t *p = NULL;
		int64_t n;
		int rc;

		if (extmap_at(m, off + done, off + len, &e) && e.kind == EXT_DATA)
			p = arena_edit(&s->a, e.loc);
		if (p) {
			memcpy(p, data + done, e.len);
			done += e.len;
			continue;
		}
		/* Up to the next extent only: that may be one that can be written over. */
		if (extpool_left(&s->pool) < 2)
			return done ? (int64_t)done : -ENOSPC;
		n = arena_place(&s->a, &l->bytes, e.len, &e.loc, &p);
		if (n < 0)
			return done ? (int64_t)done : n;
		memcpy(p, data + done, (size_t)n);
		e.len = (uint64_t)n;
		e.kind = EXT_DATA;
		rc = layer_put(s, l, disk, &e);
		if (rc)
			return rc;
		done += (uint64_t)n;
	}
	return (int64_t)done;
}

/* SEALED to READY: bytes, then index. */

static void persisted(struct layer *l, int rc)
{
	free(l->entries);
	l->entries = NULL;
	l->persisting = false;
	l->rc = rc;
	if (l->again) {
		if (l->index.slots)
			journal_index_free(l->s->j, &l->index);
		memset(&l->index, 0, sizeof(l->index));
		arena_soil(&l->s->a, &l->bytes);
	} else if (!rc) {
		l->state = LAYER_READY;
	}
	l->again = false;
	standby_kick(l->s);
}

static void index_written(void *arg, int rc)
{
	persisted(arg, rc);
}

struct collect {
	struct layer *l;
	unsigned int disk;
};

static int collect(void *arg, const struct ext *e)
{
	struct collect *c = arg;
	struct layer *l = c->l;

	l->entries[l->n_entries++] = (struct journal_entry){ c->disk, e->kind, e->off, e->len,
							     e->kind == EXT_DATA ? arena_file(&l->s->a, e->loc) : 0 };
	return 0;
}

static void bytes_written(void *arg, int rc)
{
	struct layer *l = arg;
	struct standby *s = l->s;
	uint32_t n = 0;

	for (unsigned int i = 0; i < s->n; i++)
		n += l->map[i].count;
	if (!rc && !l->dead && n && !(l->entries = malloc(n * sizeof(*l->entries))))
		rc = -ENOMEM;
	if (rc || l->dead) {
		persisted(l, rc ? rc : -ECANCELED);
		return;
	}
	l->n_entries = 0;
	for (unsigned int i = 0; i < s->n; i++)
		if (!FAULT(ONE_DISK) || !i)
			extmap_walk(&l->map[i], collect, &(struct collect){ l, i });
	rc = journal_index_write(s->j, &l->index, l->entries, l->n_entries, l->epoch, index_written, l);
	if (rc)
		persisted(l, rc);
}

void layer_persist(struct standby *s, struct layer *l)
{
	l->persisting = true;
	l->rc = 0;
	arena_seal(&s->a, &l->bytes);
	arena_persist(&s->a, &l->bytes, bytes_written, l);
}

struct layer *standby_top(struct standby *s)
{
	return s->stack[s->depth - 1];
}

void standby_fail(struct standby *s, int rc, const char *what)
{
	char sentence[256];

	snprintf(sentence, sizeof(sentence), "%s: %s", what, strerror(-rc));
	if (s->promoted) {
		merge_trouble(s, rc, sentence);
		return;
	}
	if (s->failed)
		return;
	s->failed = true;
	s->ops.failed(s->ops.arg, rc, sentence);
}

static uint64_t layer_bytes(const struct layer *l)
{
	return l ? l->bytes.bytes : 0;
}

static uint64_t pending_bytes(const struct standby *s)
{
	return layer_bytes(s->pending) + layer_bytes(s->sealed) + layer_bytes(s->aborted);
}

void standby_check_limits(struct standby *s)
{
	uint64_t p = pending_bytes(s), own = layer_bytes(standby_top(s));

	if (s->promoted || s->failed)
		return;
	if (p > s->limits.hard) {
		standby_fail(s, -ENOSPC, "the peer has written more than may be pending");
	} else if (own > s->limits.hard) {
		standby_fail(s, -ENOSPC, "the VM has written more by itself than may be kept");
	} else if (!s->wanted && (p >= s->limits.soft || own >= s->limits.soft || s->pool.used > s->pool.n / 2)) {
		s->wanted = true;
		s->ops.want(s->ops.arg);
	}
}

static bool quiet(const struct standby *s)
{
	if (s->wb.phase != WB_IDLE || s->settling || journal_busy(s->j) || s->ios || peer_busy(s))
		return false;
	if (s->failed || s->hold || s->merged)
		return true;
	return !s->promoted && s->depth == 1;
}

/* Some chunks a turn: a layer may have very many. */
static void dig(struct standby *s)
{
	struct layer **p = &s->graves;
	unsigned int left = 64;

	for (struct layer *l = s->lost; l; l = l->next)
		if (!l->persisting)
			arena_drop(&s->a, &l->bytes, UINT32_MAX);
	while (*p && left--) {
		struct layer *l = *p;

		bool gone = !l->persisting && arena_drop(&s->a, &l->bytes, left);

		if (!gone) {
			p = &l->next;
			continue;
		}
		if (l->index.slots)
			journal_index_free(s->j, &l->index);
		*p = l->next;
		free(l);
		s->room = true;
	}
	for (struct layer *l = s->graves; l; l = l->next)
		if (!l->persisting)
			standby_defer(s);
}

void standby_kick(struct standby *s)
{
	if (s->kicking) {
		s->again = true;
		return;
	}
	s->kicking = true;
	do {
		s->again = false;
		dig(s);
		peer_step(s);
		merge_step(s);
		writeback_step(s);
		if (s->room) {
			s->room = false;
			io_step(s);
			if (s->peer_waits) {
				s->peer_waits = false;
				s->ops.room(s->ops.arg);
			}
		}
	} while (s->again || s->room);
	s->kicking = false;
	if (s->quiet && quiet(s)) {
		void (*done)(void *arg) = s->quiet;

		s->quiet = NULL;
		done(s->quiet_arg);
	}
}

static void room(void *arg)
{
	struct standby *s = arg;

	s->room = true;
	standby_defer(s);
}

static void deferred(struct journal_job *job)
{
	struct standby *s = job->arg;

	s->deferred = false;
	standby_kick(s);
}

void standby_defer(struct standby *s)
{
	if (s->deferred)
		return;
	s->deferred = true;
	s->defer = (struct journal_job){ .op = JOURNAL_NOTHING, .done = deferred, .arg = s };
	journal_submit(s->j, &s->defer);
}

static void retry(struct loop_timer *t)
{
	standby_retry(t->arg);
}

void standby_retry(struct standby *s)
{
	s->hold = false;
	s->room = true;
	standby_kick(s);
}

struct standby *standby_new(struct loop *l, const struct standby_disk *disks, const uint8_t (*ids)[16], unsigned int n,
			    const struct journal_file *j, const struct standby_limits *limits,
			    const struct standby_ops *ops, struct err *e)
{
	uint32_t chunk = limits->chunk ? limits->chunk : CHUNK_DEFAULT;
	uint64_t chunks = 8 * (limits->hard / chunk) + 1024, seed = 0;
	struct standby *s;

	if (!n || n > STANDBY_MAX_DISKS || chunk < 512 || (chunk & (chunk - 1)) || limits->extents < 64 ||
	    chunks > (1u << 24)) {
		err_set(e, -EINVAL, "limits or number of disks of the standby node make no sense");
		return NULL;
	}
	s = calloc(1, sizeof(*s));
	if (!s)
		goto nomem;
	*s = (struct standby){ .loop = l, .n = n, .limits = *limits, .ops = *ops, .next_id = 1, .sync = true,
			      .shared = limits->shared };
	s->waiting_last = &s->waiting;
	s->timer = (struct loop_timer){ .fn = retry, .arg = s };
	s->disk = calloc(n, sizeof(*s->disk));
	s->wb.over = calloc(n, sizeof(*s->wb.over));
	s->nodes = malloc(((size_t)limits->extents + 1) * sizeof(*s->nodes));
	if (!s->disk || !s->wb.over || !s->nodes)
		goto nomem;
	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) < 0)
		seed = (uintptr_t)s;
	extpool_init(&s->pool, s->nodes, limits->extents, seed);
	s->j = journal_new(l, j, ids, n, chunk, (uint32_t)chunks, e);
	if (!s->j) {
		standby_free(s);
		return NULL;
	}
	s->epoch = journal_epoch(s->j);
	for (unsigned int i = 0; i < n; i++) {
		s->disk[i] = (struct disk){ .s = s, .i = i, .base = disks[i].base, .reserve = disks[i].reserve,
					    .reserve_arg = disks[i].arg };
		io_init(s, i);
		if (!disks[i].base->readonly)
			continue;
		err_set(e, -EROFS, "disk %u is read-only, so a node cannot stand by with it", i);
		standby_free(s);
		return NULL;
	}
	if (arena_init(&s->a, s->j, limits->memory, (uint32_t)chunks, room, s))
		goto nomem;
	s->pending = layer_new(s);
	s->stack[0] = layer_new(s);
	if (!s->pending || !s->stack[0])
		goto nomem;
	s->depth = 1;
	standby_restack(s);
	return s;
nomem:
	err_set(e, -ENOMEM, "no memory for the disks of the standby node");
	standby_free(s);
	return NULL;
}

static void layer_free(struct layer *l)
{
	if (!l)
		return;
	free(l->entries);
	free(l->index.slot);
	free(l->index.mem);
	free(l->index.jobs);
	free(l);
}

void standby_free(struct standby *s)
{
	struct layer *l, *next;

	if (!s)
		return;
	if (s->loop)
		loop_timer_del(s->loop, &s->timer);
	journal_free(s->j);
	for (unsigned int i = 0; i < s->depth; i++)
		layer_free(s->stack[i]);
	for (l = s->graves; l; l = next) {
		next = l->next;
		layer_free(l);
	}
	for (l = s->lost; l; l = next) {
		next = l->next;
		layer_free(l);
	}
	layer_free(s->pending);
	layer_free(s->sealed);
	layer_free(s->aborted);
	arena_free(&s->a);
	free(s->nodes);
	free(s->wb.over);
	free(s->disk);
	free(s);
}

void standby_quiesce(struct standby *s, void (*done)(void *arg), void *arg)
{
	s->quiet = done;
	s->quiet_arg = arg;
	standby_kick(s);
}

struct blk *standby_blk(struct standby *s, unsigned int i)
{
	return &s->disk[i].dev;
}

void standby_stats(const struct standby *s, struct standby_stats *out)
{
	*out = s->st;
	out->pending_bytes = pending_bytes(s);
	out->own_bytes = layer_bytes(s->stack[s->depth - 1]);
	for (unsigned int i = 0; i + 1 < s->depth; i++)
		out->committed_bytes += layer_bytes(s->stack[i]);
	out->spilled_bytes = s->a.spilled;
	out->extents = s->pool.used;
	out->epoch = s->epoch;
	out->waits = s->a.no_room;
	out->file_bytes = (uint64_t)journal_slots_used(s->j) * journal_chunk(s->j);
}
