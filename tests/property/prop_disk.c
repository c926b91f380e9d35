/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * prop_disk: the disks of a node that stands by (disk/standby.h) against plain arrays, by random schedules.
 *
 *	prop_disk [--seed S] [--count N] [--ops N] [--trace] [--faults] [--fault NAME]
 *
 * A schedule is made out of its seed: a peer that writes, ends epochs, aborts some; a VM that reads and writes at any
 * alignment; checkpoints; a promotion; media that answer in any order, fail, and lose at a crash what was not durable, in
 * the middle of anything, also of the recovery. What the VM reads is compared with an array. After a crash the bases must
 * be a whole epoch, not older than the last COMMITTED; after a promotion they must have everything that was flushed, and
 * of what was written since any part. Several disks are at the same epoch, always. A schedule has several such lives.
 *
 * --count N runs the schedules of the seeds S, S + 1, ...; --ops N as many as it takes for N operations (requests of the
 * VM, the peer, to the bases and to the journal). --faults plants each fault of enum standby_fault in turn and must find
 * it. A violation is printed with its seed, and `--seed S --count 1 --trace` shows it. Exit status: 0, 1, 2 (usage).
 */
#include <errno.h>
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "disk/standby_internal.h"
#include "disk/standby_fault.h"
#include "disk_world.h"

#define X(name) #name,
static const char *const fault_names[] = { "", STANDBY_FAULT_LIST(X) };
#undef X
unsigned int standby_fault;
const char *__asan_default_options(void);

/* Requests that are under way at a crash are nobody's afterwards. */
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

enum { LIVES = 4, STATES = 64, MAX_IOS = 12, FAULT_SCHEDULES = 4000 };

/* A write of the VM of which a crash may leave any part. */
struct wr {
	unsigned int disk;
	uint64_t off, len;
	uint8_t *data, *dead;	/* dead: bytes that cannot be there any more */
	uint64_t acked;		/* when; 0: not yet */
	struct wr *next;
};

struct op {
	struct blk_req r;
	unsigned int disk;
	bool alone;		/* no other write to this range was under way with it */
	uint8_t *vague;		/* of a flush, when it began */
	uint8_t *buf, *want;	/* want: of a read; of a flush: the disk as it was */
	struct wr *wr;
	uint64_t at;
	struct op *next;
	struct blk_extent ext[4];
};

struct state {
	uint64_t epoch;
	uint8_t *disk[WORLD_DISKS];
};

struct sim {
	struct world w;
	struct standby *s;
	uint64_t size;
	unsigned int n;
	uint8_t ids[WORLD_DISKS][16];
	struct standby_limits limits;
	bool fast_zero;

	uint8_t *peer[WORLD_DISKS], *sealed[WORLD_DISKS], *svm[WORLD_DISKS], *floor[WORLD_DISKS];
	uint64_t floor_at[WORLD_DISKS];
	/* Written by two requests at once: either may have won, but what is read once is so from then on. */
	uint8_t *vague[WORLD_DISKS];
	struct state sync_end;		/* as it is below all epochs of this life */
	struct state state[STATES];
	unsigned int states;
	uint64_t epoch, committed, clock;	/* of the last barrier; as told */
	uint64_t before;		/* the epoch that the recovery before this life has found */
	bool synced, has_sealed, reserving, reserved, running, stopping, wanted, promoted, own_durable, failed, merged, stuck;
	bool lossy;	/* a flush has failed, as the VM was told: what was not durable may be lost */
	bool blurred;	/* a write of the VM has failed: nobody knows what is there */
	bool trouble, again;	/* again: the peer must say the same once more */
	struct {
		unsigned int disk;
		uint64_t off, len;
		uint8_t data[4096];
		int kind;	/* 0 write, 1 zero, 2 zero no hole, 3 trim */
	} said;
	struct {
		unsigned int disk;
		uint64_t off, len;
	} look;			/* to be read next: two writes have met there */
	struct op *ops;
	unsigned int n_ops;
	struct wr *wrs;
	bool quiet;
};

static struct sim sim;
static jmp_buf found;
static char why[256];
static uint64_t total_ops, total_crashes, total_merges, total_flips, total_recovered, total_aborts, total_spilled;

static void __attribute__((format(printf, 1, 2), noreturn)) violation(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	longjmp(found, 1);
}

#define TRACE(...) do { if (trace) printf(__VA_ARGS__); } while (0)

static void fill(uint8_t *p, uint64_t len)
{
	uint8_t v = (uint8_t)rnd(256), k = (uint8_t)(1 + 2 * rnd(16));

	for (uint64_t i = 0; i < len; i++)
		p[i] = (uint8_t)(v + i * k);
}

static void range(struct sim *m, uint64_t *off, uint64_t *len)
{
	switch (rnd(10)) {
	case 0:		/* a block that is written again and again */
		*off = 1024;
		*len = 512;
		return;
	case 1:
	case 2:
	case 3:
		*off = 512 * rnd((uint32_t)(m->size / 512));
		*len = 512 * (1 + rnd(4));
		break;
	case 4:
		*off = rnd((uint32_t)m->size);
		*len = 1 + rnd(4096);
		break;
	default:
		*off = rnd((uint32_t)m->size);
		*len = 1 + rnd(700);
		break;
	}
	if (*len > m->size - *off)
		*len = m->size - *off;
}

/* What the standby tells. */

static void on_want(void *arg)
{
	sim.wanted = true;
}

static void on_committed(void *arg, uint64_t n)
{
	TRACE("committed %llu\n", (unsigned long long)n);
	if (n <= sim.committed)
		violation("COMMITTED %llu after %llu", (unsigned long long)n, (unsigned long long)sim.committed);
	if (!sim.states || n > sim.state[sim.states - 1].epoch)
		violation("COMMITTED %llu, which was never flipped", (unsigned long long)n);
	sim.committed = n;
	for (unsigned int d = 0; n == sim.state[sim.states - 1].epoch && !sim.promoted && d < sim.n; d++)
		if (memcmp(sim.w.base[d].m.durable, sim.state[sim.states - 1].disk[d], sim.size))
			violation("COMMITTED %llu is said, but disk %u is not that, durable", (unsigned long long)n, d);
}

static void on_failed(void *arg, int rc, const char *sentence)
{
	TRACE("failed: %s\n", sentence);
	sim.failed = true;
	if (!sim.w.failed_once && !sim.w.dead)
		violation("gave up although nothing has failed: %s", sentence);
}

static void on_room(void *arg)
{
	sim.again = true;
}

static void on_trouble(void *arg, int rc, const char *sentence)
{
	TRACE("trouble: %s\n", sentence);
	sim.trouble = true;
	if (!sim.w.failed_once && !sim.w.dead)
		violation("trouble although nothing has failed: %s", sentence);
}

static void on_merged(void *arg)
{
	TRACE("merged\n");
	sim.merged = true;
	sim.own_durable = true;
	total_merges++;
}

static void on_reserved(void *arg, int rc)
{
	TRACE("reserved %d\n", rc);
	sim.reserving = false;
	sim.reserved = !rc;
	if (rc && rc != -ECANCELED && !sim.w.failed_once && !sim.w.dead)
		violation("nothing can be reserved although nothing has failed: %s", strerror(-rc));
	if (rc && rc != -ECANCELED)
		sim.stuck = true;
}

static void on_quiet(void *arg)
{
	sim.quiet = true;
}

/* The VM. */

static void wr_free(struct wr *w)
{
	free(w->data);
	free(w->dead);
	free(w);
}

static void durable_up_to(struct sim *m, struct op *op)
{
	m->own_durable = true;
	if (op->at < m->floor_at[op->disk])
		return;
	m->floor_at[op->disk] = op->at;
	memcpy(m->floor[op->disk], op->want, m->size);
	for (struct wr **p = &m->wrs, *w; (w = *p);) {
		if (w->disk == op->disk && w->acked && w->acked < op->at && !memchr(op->vague + w->off, 1, w->len)) {
			*p = w->next;
			wr_free(w);
		} else {
			p = &w->next;
		}
	}
}

/* A write with FUA is there: what it has written over is not */
static void durable_write(struct sim *m, struct wr *mine)
{
	m->own_durable = true;
	memcpy(m->floor[mine->disk] + mine->off, mine->data, mine->len);
	for (struct wr *w = m->wrs; w; w = w->next) {
		if (w->disk != mine->disk || !w->acked || w == mine)
			continue;
		for (uint64_t i = 0; i < w->len; i++)
			if (w->off + i >= mine->off && w->off + i < mine->off + mine->len)
				w->dead[i] = 1;
	}
}

static void op_done(struct blk_req *r, int rc)
{
	struct op *op = r->arg, **p;
	struct sim *m = &sim;

	TRACE("%u: %d of %llu + %llu: %d\n", op->disk, r->op, (unsigned long long)r->off, (unsigned long long)r->len, rc);
	for (p = &m->ops; *p != op; p = &(*p)->next)
		;
	*p = op->next;
	m->n_ops--;
	m->clock++;
	if (rc && !m->w.failed_once)
		violation("request %d answers %s although nothing has failed", r->op, strerror(-rc));
	switch (r->op) {
	case BLK_READ:
		for (uint64_t i = 0; !rc && i < r->len; i++) {
			uint8_t *v = &m->vague[op->disk][r->off + i];

			if (*v)
				m->svm[op->disk][r->off + i] = op->buf[i];
			*v = 0;
			/* Nobody writes there meanwhile; but another read may have settled what was vague. */
			op->want[i] = m->svm[op->disk][r->off + i];
		}
		if (!rc && !m->blurred && memcmp(op->buf, op->want, r->len)) {
			uint64_t i = 0;

			while (op->buf[i] == op->want[i])
				i++;
			violation("disk %u reads %02x at %llu, not %02x", op->disk, op->buf[i],
				  (unsigned long long)(r->off + i), op->want[i]);
		}
		break;
	case BLK_WRITE:
	case BLK_ZERO:
	case BLK_TRIM:
		if (rc) {
			/* Any part of it may be there, now and later. */
			m->blurred = true;
			break;
		}
		op->wr->acked = m->clock;
		memcpy(m->svm[op->disk] + r->off, op->wr->data, r->len);
		if (!op->alone) {
			m->look.disk = op->disk;
			m->look.off = r->off;
			m->look.len = r->len;
		}
		if (op->alone)
			memset(m->vague[op->disk] + r->off, 0, r->len);
		if (m->promoted && r->flags & BLK_FUA && op->at)
			durable_write(m, op->wr);
		break;
	case BLK_FLUSH:
		m->lossy |= rc != 0;
		if (!rc && m->promoted && op->at)
			durable_up_to(m, op);
		break;
	default:
		break;
	}
	free(op->buf);
	free(op->want);
	free(op->vague);
	free(op);
}

static bool busy_range(struct sim *m, unsigned int disk, uint64_t off, uint64_t len, bool read)
{
	for (struct op *o = m->ops; o; o = o->next) {
		if (o->disk != disk || (read && o->r.op == BLK_READ))
			continue;
		if (off < o->r.off + o->r.len && o->r.off < off + len)
			return true;
	}
	return false;
}

/* A write over plain writes that are under way. Return: false: something else is */
static bool both(struct sim *m, unsigned int disk, uint64_t off, uint64_t len)
{
	struct op *o;

	for (o = m->ops; o; o = o->next)
		if (o->disk == disk && off < o->r.off + o->r.len && o->r.off < off + len &&
		    (o->r.op != BLK_WRITE || o->r.flags & BLK_FUA))
			return false;
	for (o = m->ops; o; o = o->next) {
		uint64_t from = o->r.off > off ? o->r.off : off;
		uint64_t to = o->r.off + o->r.len < off + len ? o->r.off + o->r.len : off + len;

		if (o->disk != disk || from >= to)
			continue;
		memset(m->vague[disk] + from, 1, to - from);
		o->alone = false;
	}
	return true;
}

static void vm_op(struct sim *m)
{
	static const enum blk_op what[] = { BLK_READ, BLK_READ, BLK_READ, BLK_WRITE, BLK_WRITE, BLK_WRITE, BLK_WRITE, BLK_ZERO,
					    BLK_TRIM, BLK_FLUSH, BLK_STATUS };
	enum blk_op op = what[rnd(11)];
	unsigned int disk = rnd(m->n);
	uint64_t off = 0, len = 0;
	bool alone = true;
	struct op *o;

	if (op != BLK_FLUSH)
		range(m, &off, &len);
	/* Over what is being written, and more than that: maybe it goes another way than that. */
	if (op == BLK_WRITE && m->promoted && !m->merged && m->ops && m->ops->r.op == BLK_WRITE && chance(40)) {
		disk = m->ops->disk;
		off = m->ops->r.off > 600 ? m->ops->r.off - rnd(600) : 0;
		len = m->ops->r.len + rnd(1200);
		if (len > m->size - off)
			len = m->size - off;
	}
	if (m->look.len) {
		op = BLK_READ;
		disk = m->look.disk;
		off = m->look.off;
		len = m->look.len;
		m->look.len = 0;
	} else if (op == BLK_READ && chance(10)) {
		off = 0;
		len = m->size;
	}
	if (m->wanted && !m->promoted && op != BLK_READ)
		return;
	if (m->n_ops >= MAX_IOS)
		return;
	if (busy_range(m, disk, off, len, op == BLK_READ || op == BLK_STATUS)) {
		if (op != BLK_WRITE || !m->promoted || !both(m, disk, off, len))
			return;
		alone = false;
	}
	o = calloc(1, sizeof(*o));
	o->disk = disk;
	o->alone = alone;
	o->r = (struct blk_req){ .op = op, .off = off, .len = len, .done = op_done, .arg = o };
	o->at = m->promoted ? ++m->clock : 0;
	if (op == BLK_READ || op == BLK_WRITE)
		o->r.buf = o->buf = malloc(len);
	if (op == BLK_READ) {
		o->want = malloc(len);
		memcpy(o->want, m->svm[disk] + off, len);
	} else if (op == BLK_FLUSH) {
		o->want = malloc(m->size);
		memcpy(o->want, m->svm[disk], m->size);
		o->vague = malloc(m->size);
		memcpy(o->vague, m->vague[disk], m->size);
	} else if (op == BLK_STATUS) {
		o->r.ext = o->ext;
		o->r.n_ext = 4;
	} else {
		struct wr *w = calloc(1, sizeof(*w));

		w->disk = disk;
		w->off = off;
		w->len = len;
		w->data = calloc(1, len);
		w->dead = calloc(1, len);
		if (op == BLK_WRITE) {
			fill(w->data, len);
			memcpy(o->buf, w->data, len);
		} else if (op == BLK_TRIM && !m->fast_zero) {
			memcpy(w->data, m->svm[disk] + off, len);
		} else if (op == BLK_ZERO && chance(50)) {
			o->r.flags = BLK_NO_HOLE;
		}
		/* Without fast zeroes a trim that goes through may become zeroes: leave it out there. */
		if (op == BLK_TRIM && !m->fast_zero && m->promoted) {
			wr_free(w);
			free(o);
			return;
		}
		if (chance(10) && alone)
			o->r.flags |= BLK_FUA;
		o->wr = w;
		w->next = m->wrs;
		m->wrs = w;
	}
	m->w.ops++;
	m->n_ops++;
	o->next = m->ops;
	m->ops = o;
	TRACE("vm %u: %d %llu + %llu flags %x\n", disk, op, (unsigned long long)off, (unsigned long long)len, o->r.flags);
	blk_submit(standby_blk(m->s, disk), &o->r);
}

/* The peer. */

static void peer_say(struct sim *m)
{
	int rc;

	m->w.ops++;
	if (!m->said.kind)
		rc = standby_write(m->s, m->said.disk, m->said.off, (uint32_t)m->said.len, m->said.data);
	else
		rc = standby_zero(m->s, m->said.disk, m->said.off, m->said.len, m->said.kind == 3, m->said.kind == 2);
	TRACE("peer %u: %d %llu + %llu: %d\n", m->said.disk, m->said.kind, (unsigned long long)m->said.off,
	      (unsigned long long)m->said.len, rc);
	if (rc == -EAGAIN)
		return;
	m->said.disk = UINT32_MAX;
	if (rc && !m->failed)
		violation("the peer's write is answered by %s", strerror(-rc));
}

static void peer_op(struct sim *m)
{
	uint8_t *to;

	if (m->promoted || m->failed)
		return;
	if (m->said.disk != UINT32_MAX) {
		if (m->again) {
			m->again = false;
			peer_say(m);
		}
		return;
	}
	if (m->wanted)
		return;
	m->said.disk = rnd(m->n);
	m->said.kind = chance(80) ? 0 : 1 + (int)rnd(3);
	range(m, &m->said.off, &m->said.len);
	to = m->peer[m->said.disk] + m->said.off;
	fill(m->said.data, m->said.len);
	if (!m->said.kind)
		memcpy(to, m->said.data, m->said.len);
	else
		memset(to, 0, m->said.len);
	m->again = false;
	peer_say(m);
}

static void barrier(struct sim *m)
{
	if (m->promoted || m->failed || m->has_sealed || m->said.disk != UINT32_MAX)
		return;
	m->epoch++;
	TRACE("barrier %llu\n", (unsigned long long)m->epoch);
	for (unsigned int i = 0; i < m->n; i++)
		memcpy(m->sealed[i], m->peer[i], m->size);
	if (!m->sync_end.epoch) {
		m->sync_end.epoch = m->epoch;
		for (unsigned int i = 0; i < m->n; i++) {
			m->sync_end.disk[i] = malloc(m->size);
			memcpy(m->sync_end.disk[i], m->peer[i], m->size);
		}
	}
	m->has_sealed = true;
	m->reserved = m->stuck = false;
	standby_barrier(m->s, m->epoch);
}

static void flip(struct sim *m)
{
	struct state *st;
	struct err e = { 0 };
	int rc;

	if (m->n_ops) {
		m->stopping = true;
		return;
	}
	if (m->states == STATES) {
		for (unsigned int i = 0; i < m->n; i++)
			free(m->state[0].disk[i]);
		memmove(&m->state[0], &m->state[1], --m->states * sizeof(m->state[0]));
	}
	st = &m->state[m->states++];
	st->epoch = m->epoch;
	for (unsigned int i = 0; i < m->n; i++) {
		st->disk[i] = malloc(m->size);
		memcpy(st->disk[i], m->sealed[i], m->size);
		memcpy(m->svm[i], m->sealed[i], m->size);
	}
	for (struct wr *w; (w = m->wrs);) {
		m->wrs = w->next;
		wr_free(w);
	}
	TRACE("flip %llu\n", (unsigned long long)m->epoch);
	m->wanted = m->has_sealed = m->reserved = m->stopping = false;
	m->running = true;
	total_flips++;
	rc = standby_flip(m->s, m->epoch, &e);
	if (rc && !m->failed)
		violation("no flip: %s", e.msg);
	if (!rc && chance(5) && standby_flip(m->s, m->epoch, &e))
		violation("a second flip of the same epoch is refused: %s", e.msg);
}

static void promote(struct sim *m)
{
	if (!m->running || m->promoted || m->reserved)
		return;
	TRACE("promote\n");
	m->promoted = true;
	m->stopping = false;
	m->clock++;
	for (unsigned int i = 0; i < m->n; i++) {
		memcpy(m->floor[i], m->svm[i], m->size);
		m->floor_at[i] = m->clock;
	}
	/* What was answered is in it; the rest may come. */
	for (struct wr **p = &m->wrs, *w; (w = *p);) {
		if (w->acked) {
			*p = w->next;
			wr_free(w);
		} else {
			p = &w->next;
		}
	}
	m->has_sealed = false;
	standby_promote(m->s);
	if (chance(20))
		standby_promote(m->s);
}

static void checkpoint(struct sim *m)
{
	if (m->promoted || m->failed)
		return;
	if (!m->has_sealed) {
		if (m->wanted || chance(30))
			barrier(m);
	} else if (m->reserved) {
		if (chance(8)) {
			goto abort;
		} else {
			flip(m);
		}
	} else if (!m->reserving && !m->stuck) {
		m->reserving = true;
		TRACE("reserve %llu\n", (unsigned long long)m->epoch);
		standby_reserve(m->s, m->epoch, on_reserved, NULL);
	} else if (chance(2)) {
abort:
		TRACE("abort %llu\n", (unsigned long long)m->epoch);
		m->has_sealed = m->reserved = m->stopping = m->stuck = false;
		total_aborts++;
		standby_abort(m->s, m->epoch);
	}
}

/* Lives. */

static bool state_is(struct sim *m, const struct state *st)
{
	for (unsigned int i = 0; i < m->n; i++)
		if (memcmp(m->w.base[i].m.now, st->disk[i], m->size))
			return false;
	return true;
}

/* Everything of before the promotion and everything flushed, and of the rest any part */
static void check_promoted(struct sim *m, uint64_t epoch)
{
	uint8_t *ok = malloc(m->size);

	for (unsigned int d = 0; d < m->n; d++) {
		const uint8_t *now = m->w.base[d].m.now;

		for (uint64_t i = 0; i < m->size; i++)
			ok[i] = now[i] == m->floor[d][i];
		for (struct wr *w = m->wrs; w; w = w->next)
			for (uint64_t i = 0; w->disk == d && i < w->len; i++)
				ok[w->off + i] |= !w->dead[i] && now[w->off + i] == w->data[i];
		for (uint64_t i = 0; i < m->size; i++) {
			if (ok[i])
				continue;
			free(ok);
			violation("after a crash%s disk %u has %02x at %llu, which is nothing that the VM could have there "
				  "(flushed: %02x)", m->own_durable ? " behind a flush" : "", d, now[i],
				  (unsigned long long)i, m->floor[d][i]);
		}
	}
	free(ok);
}

static void check_recovered(struct sim *m, uint64_t epoch)
{
	/* Nothing of this life may have come into the journal, which then tells the number of an earlier one. */
	bool old = epoch == m->before && !m->committed;
	const struct state *st = NULL;

	if (!m->states)
		return;
	for (unsigned int i = 0; i < m->states; i++)
		if (m->state[i].epoch == epoch)
			st = &m->state[i];
	if (epoch < m->sync_end.epoch || (old && (!st || state_is(m, &m->sync_end))))
		st = &m->sync_end;
	if (epoch < m->committed)
		violation("recovery finds epoch %llu, but COMMITTED %llu was said", (unsigned long long)epoch,
			  (unsigned long long)m->committed);
	if (!st)
		violation("recovery finds epoch %llu, which was never the disk", (unsigned long long)epoch);
	if (m->promoted) {
		if (m->blurred || m->lossy || (!m->own_durable && state_is(m, st)))
			return;
		check_promoted(m, epoch);
		return;
	}
	if (!state_is(m, st))
		violation("recovery says epoch %llu, but the disks are not that", (unsigned long long)epoch);
}

static void forget(struct sim *m)
{
	for (unsigned int i = 0; i < m->states; i++)
		for (unsigned int d = 0; d < m->n; d++)
			free(m->state[i].disk[d]);
	m->states = 0;
	for (unsigned int d = 0; d < m->n && m->sync_end.epoch; d++)
		free(m->sync_end.disk[d]);
	m->sync_end.epoch = 0;
	for (struct wr *w; (w = m->wrs);) {
		m->wrs = w->next;
		wr_free(w);
	}
	for (struct op *o; (o = m->ops);) {
		m->ops = o->next;
		free(o->buf);
		free(o->want);
		free(o->vague);
		free(o);
	}
	m->n_ops = 0;
}

static void recover(struct sim *m)
{
	struct blk *bases[WORLD_DISKS];
	uint64_t epoch = 0;
	struct err e = { 0 };
	unsigned int tries = rnd(3);

	for (unsigned int i = 0; i < m->n; i++)
		bases[i] = &m->w.base[i].b;
	m->w.straight = true;
	m->w.fail_base = m->w.fail_journal = 0;
	for (;;) {
		int rc;

		m->w.crash_in = tries ? 1 + (int)rnd(40) : -1;
		rc = standby_recover(NULL, &m->w.file, bases, (const uint8_t (*)[16])m->ids, m->n, &epoch, &e);
		if (!m->w.dead) {
			if (rc)
				violation("recovery: %s", e.msg);
			break;
		}
		TRACE("crash in the recovery\n");
		world_crash(&m->w);
		tries--;
	}
	m->w.straight = false;
	m->w.crash_in = -1;
	total_recovered++;
	TRACE("recovered: epoch %llu\n", (unsigned long long)epoch);
	check_recovered(m, epoch);
	m->before = epoch;
}

static void drain(struct sim *m)
{
	struct standby_stats st;
	unsigned int turns = 0;

	/* Whatever waits for a checkpoint gets none. */
	m->w.fail_base = m->w.fail_journal = 0;
	while (world_turn(&m->w) || m->trouble) {
		if (m->trouble) {
			m->trouble = false;
			standby_retry(m->s);
		}
		if (++turns > 200000)
			violation("there is no end to it");
	}
	if (m->n_ops && !m->failed && (m->promoted || !m->wanted))
		violation("%u requests of the VM are never answered", m->n_ops);
	standby_quiesce(m->s, on_quiet, NULL);
	while (world_turn(&m->w))
		;
	if (!m->quiet && !m->n_ops)
		violation("does not become quiet");
	standby_stats(m->s, &st);
	total_spilled += st.spilled_bytes;
	if (m->failed)
		return;
	if (m->promoted) {
		if (!m->merged)
			violation("does not end its merge");
		if (st.extents || st.file_bytes)
			violation("after the merge %u extents and %llu bytes of the file are in use", st.extents,
				  (unsigned long long)st.file_bytes);
		for (unsigned int d = 0; d < m->n && !m->blurred; d++)
			for (uint64_t i = 0; i < m->size; i++)
				if (m->w.base[d].m.now[i] != m->svm[d][i] && !m->vague[d][i])
					violation("after the merge disk %u is not what the VM has written", d);
	} else if (m->states) {
		if (m->committed != m->state[m->states - 1].epoch)
			violation("at rest COMMITTED is %llu, not %llu", (unsigned long long)m->committed,
				  (unsigned long long)m->state[m->states - 1].epoch);
		if (!state_is(m, &m->state[m->states - 1]))
			violation("at rest the bases are not the last epoch");
	}
}

static void life(struct sim *m)
{
	static const struct standby_ops ops = { on_want, on_committed, on_failed, on_room, on_trouble, on_merged, NULL };
	struct standby_disk disks[WORLD_DISKS] = { 0 };
	unsigned int steps = 100 + rnd(chance(20) ? 3000 : 700), promote_at = chance(60) ? rnd(steps) : UINT32_MAX;
	uint32_t pace = 20 + rnd(60);
	struct err e = { 0 };
	bool crash = chance(65);

	m->synced = m->has_sealed = m->reserving = m->reserved = m->running = m->stopping = m->wanted = false;
	m->promoted = m->own_durable = m->failed = m->merged = m->stuck = m->trouble = false;
	m->again = m->quiet = m->blurred = m->lossy = false;
	m->w.failed_once = false;
	m->w.fail_base = chance(15) ? 1 + rnd(20) : 0;
	m->w.lazy = chance(30);
	m->look.len = 0;
	m->w.fail_journal = chance(15) ? 1 + rnd(20) : 0;
	m->said.disk = UINT32_MAX;
	m->committed = 0;
	/* Another pair: it counts from 1. */
	if (chance(50))
		m->epoch = 0;
	for (unsigned int i = 0; i < m->n; i++) {
		memcpy(m->peer[i], m->w.base[i].m.now, m->size);
		memset(m->vague[i], 0, m->size);
		disks[i].base = &m->w.base[i].b;
	}
	m->s = standby_new(NULL, disks, (const uint8_t (*)[16])m->ids, m->n, &m->w.file, &m->limits, &ops, &e);
	if (!m->s)
		violation("%s", e.msg);
	for (unsigned int i = 0; i < steps && !m->w.dead; i++) {
		unsigned int what = rnd(100);

		if (crash && i + 1 + rnd(60) > steps && m->w.crash_in < 0)
			m->w.crash_in = 1 + rnd(12);
		if (i >= promote_at)
			promote(m);
		if (m->trouble && chance(5)) {
			m->trouble = false;
			standby_retry(m->s);
		}
		if (m->look.len)
			vm_op(m);
		else if (what < pace)
			world_turn(&m->w);
		else if (what < pace + 5)
			checkpoint(m);
		else if (m->running && !m->stopping && chance(60))
			vm_op(m);
		else if (m->stopping && !m->n_ops)
			checkpoint(m);
		else
			peer_op(m);
		if (m->failed && !m->promoted && chance(3) && i < promote_at)
			promote_at = i;
	}
	if (!crash) {
		drain(m);
		if (!m->n_ops) {
			standby_free(m->s);
			m->s = NULL;
		}
	}
	/* Also after a good end: the bases are what they are without anything that is volatile. */
	total_crashes++;
	TRACE("crash\n");
	world_crash(&m->w);
	if (m->s)
		standby_free(m->s);
	m->s = NULL;
	recover(m);
	forget(m);
}

static void schedule(uint64_t seed)
{
	struct sim *m = &sim;

	memset(m, 0, sizeof(*m));
	rng_state = seed * 0x9e3779b97f4a7c15ull + 1;
	m->n = 1 + rnd(WORLD_DISKS);
	m->size = 512 * (8 + rnd(40));
	m->fast_zero = chance(70);
	m->limits = (struct standby_limits){ .memory = 512 * (8 + rnd(40)), .soft = 16384 + rnd(32768),
					     .extents = 2000 + rnd(4000), .chunk = chance(50) ? 512 : 1024 };
	m->limits.hard = 4 * m->limits.soft + (64 << 10);
	world_init(&m->w, m->n, m->size, JOURNAL_AREA + m->limits.chunk * (8 * (m->limits.hard / m->limits.chunk) + 1024),
		   m->fast_zero);
	for (unsigned int i = 0; i < m->n; i++) {
		m->ids[i][0] = (uint8_t)(i + 1);
		m->peer[i] = malloc(m->size);
		m->sealed[i] = malloc(m->size);
		m->svm[i] = malloc(m->size);
		m->floor[i] = malloc(m->size);
		m->vague[i] = malloc(m->size);
		uint8_t *p = malloc(m->size);

		fill(p, m->size);
		medium_write(&m->w.base[i].m, 0, m->size, p);
		medium_sync(&m->w.base[i].m, UINT64_MAX);
		free(p);
	}
	for (unsigned int l = 0; l < LIVES; l++)
		life(m);
}

static void schedule_end(void)
{
	struct sim *m = &sim;

	total_ops += m->w.ops;
	if (m->s) {
		m->w.dead = true;
		standby_free(m->s);
	}
	forget(m);
	world_free(&m->w);
	for (unsigned int i = 0; i < m->n; i++) {
		free(m->peer[i]);
		free(m->sealed[i]);
		free(m->svm[i]);
		free(m->floor[i]);
		free(m->vague[i]);
	}
}

static bool run(uint64_t seed)
{
	bool ok = !setjmp(found);

	if (ok)
		schedule(seed);
	schedule_end();
	return ok;
}

static int faults(const char *only)
{
	int missed = 0;

	for (unsigned int f = 1; f < STANDBY_FAULTS; f++) {
		uint64_t seed;

		if (only && strcmp(only, fault_names[f]))
			continue;
		standby_fault = f;
		for (seed = 1; seed <= FAULT_SCHEDULES && run(seed); seed++)
			;
		standby_fault = 0;
		/* The same schedule without it must pass, or it is no proof. */
		if (seed > FAULT_SCHEDULES) {
			printf("%-24s NOT FOUND in %d schedules\n", fault_names[f], FAULT_SCHEDULES);
			missed++;
		} else if (!run(seed)) {
			printf("%-24s seed %llu fails without it too: %s\n", fault_names[f], (unsigned long long)seed, why);
			missed++;
		} else {
			standby_fault = f;
			run(seed);
			standby_fault = 0;
			printf("%-24s found at seed %llu: %s\n", fault_names[f], (unsigned long long)seed, why);
		}
		fflush(stdout);
	}
	return missed ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' }, { "count", required_argument, NULL, 'c' },
		{ "ops", required_argument, NULL, 'o' }, { "trace", no_argument, NULL, 't' },
		{ "faults", no_argument, NULL, 'f' }, { "fault", required_argument, NULL, 'F' }, { 0 } };
	uint64_t seed = 1, count = 3000, ops = 0, bad = 0, i;
	const char *fault = NULL;
	bool all_faults = false;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 's':
			seed = strtoull(optarg, NULL, 0);
			break;
		case 'c':
			count = strtoull(optarg, NULL, 0);
			break;
		case 'o':
			ops = strtoull(optarg, NULL, 0);
			break;
		case 't':
			trace = true;
			break;
		case 'F':
			fault = optarg;
			/* fall through */
		case 'f':
			all_faults = true;
			break;
		default:
			fprintf(stderr, "usage: prop_disk [--seed S] [--count N] [--ops N] [--trace] [--faults] [--fault NAME]\n");
			return 2;
		}
	}
	if (all_faults)
		return faults(fault);
	for (i = 0; ops ? total_ops < ops : i < count; i++) {
		if (run(seed + i))
			continue;
		printf("VIOLATION seed %llu: %s\n  prop_disk --seed %llu --count 1 --trace\n", (unsigned long long)(seed + i), why,
		       (unsigned long long)(seed + i));
		if (++bad == 10)
			break;
	}
	printf("seeds %llu to %llu: %llu operations, %llu flips, %llu aborts, %llu merges, %llu crashes, %llu recoveries, "
	       "%llu bytes spilled, %llu violations\n", (unsigned long long)seed, (unsigned long long)(seed + i - !bad),
	       (unsigned long long)total_ops, (unsigned long long)total_flips, (unsigned long long)total_aborts,
	       (unsigned long long)total_merges, (unsigned long long)total_crashes, (unsigned long long)total_recovered,
	       (unsigned long long)total_spilled, (unsigned long long)bad);
	return bad ? 1 : 0;
}
