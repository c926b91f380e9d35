/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * prop_shared: the disks of two nodes that share their images (disk/shared_serve.h, disk/standby.h with shared bases)
 * against plain arrays, by random schedules.
 *
 *	prop_shared [--seed S] [--count N] [--trace] [--faults] [--fault NAME]
 *
 * A schedule is made out of its seed: the serving VM writes to the image, the standing-by one reads it and writes for
 * itself; messages between the two nodes are late; epochs end, are flipped or given up; then the serving node is lost,
 * with what it has under way (of which any part may be there), the other is promoted, goes on, and may be lost too, in
 * the middle of anything.
 * What either VM reads is what it has written, over the last flip. After a crash the image is that of a moment: the
 * one that the dead node has left, the end of its last epoch, the committed epoch, or the promoted VM's with everything
 * that was flushed. --faults plants each fault of SHARED_FAULT_LIST in turn and must find it. A violation is printed with
 * its seed. Exit status: 0, 1, 2 (usage).
 */
#include <errno.h>
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk/journal.h"
#include "disk/shared_serve.h"
#include "disk/standby_fault.h"
#include "disk_world.h"

#define X(name) #name,
static const char *const fault_names[] = { SHARED_FAULT_LIST(X) };
#undef X
unsigned int standby_fault;
const char *__asan_default_options(void);

/* Requests that are under way at a crash are nobody's afterwards. */
const char *__asan_default_options(void)
{
	return "detect_leaks=0";
}

enum { LIVES = 2, MAX_IOS = 8, MAX_MSGS = 12, FAULT_SCHEDULES = 6000 };

/* A write of the promoted VM of which a crash may leave any part. */
struct wr {
	unsigned int disk;
	uint64_t off, len;
	uint8_t *data;
	uint64_t acked;
	struct wr *next;
};

struct op {
	struct blk_req r;
	bool serving;		/* the serving node's VM */
	unsigned int disk;
	uint8_t *buf, *want;
	struct wr *wr;
	uint64_t at;
	struct op *next;
	struct blk_extent ext[2];
};

struct msg {
	bool marker, zero;
	unsigned int disk;
	uint64_t n, off;
	uint32_t len;
	uint8_t *data;
};

/* Between shared_serve and the image, so that a node's requests can be told apart. */
struct pbase {
	struct blk b;
	struct blk *under;
};

struct pass {
	struct blk_req r;
	struct blk_req *from;
	int rc;
	struct pass *next;
};

struct sim {
	struct world w;
	struct shared_serve *p;
	struct standby *s;
	struct pbase pbase[WORLD_DISKS], sbase[WORLD_DISKS];
	struct pass *late;	/* reads of the standing-by node that the image has answered, and that are not told yet */
	uint64_t size;
	unsigned int n;
	uint8_t ids[WORLD_DISKS][16];
	struct standby_limits limits;
	uint8_t *pvm[WORLD_DISKS], *mark[WORLD_DISKS], *committed[WORLD_DISKS], *svm[WORLD_DISKS];
	uint8_t *floor[WORLD_DISKS], *left[WORLD_DISKS];
	uint64_t floor_at[WORLD_DISKS], clock;
	uint64_t marked, arrived, flipped, kept_sent;
	struct msg msgs[MAX_MSGS];
	unsigned int n_msgs, acks;
	bool slow;		/* reads of the standing-by node that are under way at the death stay so for long */
	bool full, alive, broken, running, stop_p, stop_s, reserved, wanted, failed, promoted, own_durable, merged, trouble,
	     room, lossy, blurred, p_failed;
	struct op *ops;
	unsigned int n_p, n_s;
	struct wr *wrs;
	uint8_t *sent_mark[WORLD_DISKS];
};

static struct sim sim;
static jmp_buf found;
static char why[256];
static uint64_t total_ops, total_flips, total_aborts, total_merges, total_kept;

static void __attribute__((format(printf, 1, 2), noreturn)) violation(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	longjmp(found, 1);
}

#define TRACE(...) do { if (trace) printf(__VA_ARGS__); } while (0)
#define ULL(x) ((unsigned long long)(x))

static void fill(uint8_t *p, uint64_t len)
{
	uint8_t v = (uint8_t)rnd(256), k = (uint8_t)(1 + 2 * rnd(16));

	for (uint64_t i = 0; i < len; i++)
		p[i] = (uint8_t)(v + i * k);
}

static void range(struct sim *m, uint64_t *off, uint64_t *len)
{
	if (chance(40)) {
		*off = 512 * rnd((uint32_t)(m->size / 512));
		*len = 512 * (1 + rnd(12));
	} else {
		*off = rnd((uint32_t)m->size);
		*len = 1 + rnd(3000);
	}
	if (*len > m->size - *off)
		*len = m->size - *off;
}

/* The serving node's way to the image. */

static void pass_done(struct blk_req *r, int rc)
{
	struct pass *p = r->arg;
	struct blk_req *from = p->from;

	from->n_ext = r->n_ext;
	free(p);
	from->done(from, rc);
}

static void pass_submit(struct blk *b, struct blk_req *r)
{
	struct pbase *pb = (struct pbase *)b;
	struct pass *p = malloc(sizeof(*p));

	p->r = *r;
	p->r.done = pass_done;
	p->r.arg = p;
	p->from = r;
	blk_submit(pb->under, &p->r);
}

/* The standing-by node's way: an answer may take very long. */

static void late_done(struct blk_req *r, int rc)
{
	struct pass *p = r->arg;

	if (r->op != BLK_READ || sim.promoted || !chance(sim.slow ? 80 : 10)) {
		pass_done(r, rc);
		return;
	}
	p->rc = rc;
	p->next = sim.late;
	sim.late = p;
}

static void late_submit(struct blk *b, struct blk_req *r)
{
	struct pbase *pb = (struct pbase *)b;
	struct pass *p = malloc(sizeof(*p));

	p->r = *r;
	p->r.done = late_done;
	p->r.arg = p;
	p->from = r;
	blk_submit(pb->under, &p->r);
}

static bool tell_late(struct sim *m)
{
	struct pass *p = m->late;

	if (!p)
		return false;
	m->late = p->next;
	pass_done(&p->r, p->rc);
	return true;
}

/* What the serving node has under way reaches the image or does not, or in part. */
static void lose_requests(struct sim *m)
{
	unsigned int left = 0;

	for (unsigned int i = 0; i < m->w.tasks; i++) {
		struct task *t = &m->w.task[i];
		struct blk_req *r = t->r;

		if (t->kind != TASK_BASE || r->done != pass_done) {
			m->w.task[left++] = *t;
			continue;
		}
		if ((r->op == BLK_WRITE || r->op == BLK_ZERO) && chance(60)) {
			uint64_t from = chance(50) ? 0 : rnd((uint32_t)r->len), to = chance(50) ? r->len : from + rnd((uint32_t)(r->len - from));

			medium_write(&t->base->m, r->off + from, to - from, r->op == BLK_WRITE ? r->buf + from : NULL);
		}
	}
	m->w.tasks = left;
}

/* Messages */

static int say_old(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	struct sim *m = arg;
	struct msg *q = &m->msgs[m->n_msgs];

	if (m->broken)
		return -EPIPE;
	if (m->n_msgs >= MAX_MSGS - 1) {
		m->full = true;
		return -EAGAIN;
	}
	*q = (struct msg){ .disk = disk, .off = off, .len = len, .zero = !data, .data = malloc(len) };
	if (data)
		memcpy(q->data, data, len);
	m->n_msgs++;
	total_kept++;
	TRACE("old %u: %llu + %u%s\n", disk, ULL(off), len, data ? "" : " zero");
	return 0;
}

static int say_marker(void *arg, uint64_t n)
{
	struct sim *m = arg;

	if (m->broken)
		return -EPIPE;
	if (m->n_msgs >= MAX_MSGS - 1) {
		m->full = true;
		return -EAGAIN;
	}
	m->msgs[m->n_msgs++] = (struct msg){ .marker = true, .n = n };
	return 0;
}

static void on_reserved(void *arg, int rc)
{
	sim.reserved = !rc;
	if (rc && rc != -ECANCELED && !sim.w.failed_once)
		violation("nothing can be reserved although nothing has failed: %s", strerror(-rc));
}

/* Return: false: it has no room for it */
static bool take(struct sim *m, struct msg *q)
{
	int rc;

	if (m->failed)
		return true;
	if (!q->marker) {
		rc = standby_old(m->s, q->disk, q->off, q->len, q->zero ? NULL : q->data);
		TRACE("old content arrives: %d\n", rc);
		if (rc == -EAGAIN)
			return false;
		if (rc && !m->failed)
			violation("old content is answered by %s", strerror(-rc));
		m->acks += !rc;
		return true;
	}
	TRACE("marker %llu arrives\n", ULL(q->n));
	if (m->arrived && m->arrived != m->flipped) {
		total_aborts++;
		standby_abort(m->s, m->arrived);
	}
	m->arrived = q->n;
	m->reserved = false;
	for (unsigned int i = 0; i < m->n; i++)
		memcpy(m->mark[i], m->sent_mark[i], m->size);
	standby_barrier(m->s, q->n);
	standby_reserve(m->s, q->n, on_reserved, NULL);
	return true;
}

static void deliver(struct sim *m)
{
	if (!m->n_msgs || m->promoted || !take(m, &m->msgs[0]))
		return;
	free(m->msgs[0].data);
	memmove(&m->msgs[0], &m->msgs[1], --m->n_msgs * sizeof(m->msgs[0]));
	if (m->full && m->n_msgs < MAX_MSGS / 2 && m->alive) {
		m->full = false;
		shared_serve_writable(m->p);
	}
}

static void deliver_ack(struct sim *m)
{
	uint32_t k;

	if (!m->acks || !m->alive || m->broken)
		return;
	k = 1 + rnd(m->acks);
	m->acks -= k;
	m->kept_sent += k;
	if (shared_serve_kept(m->p, m->kept_sent))
		violation("a confirmation is refused");
}

/* What is told */

static void on_want(void *arg)
{
	sim.wanted = true;
}

static void on_committed(void *arg, uint64_t n)
{
	violation("COMMITTED %llu, and nothing is ever written", ULL(n));
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
	sim.room = true;
}

static void on_trouble(void *arg, int rc, const char *sentence)
{
	sim.trouble = true;
	if (!sim.w.failed_once && !sim.w.dead)
		violation("trouble although nothing has failed: %s", sentence);
}

static void on_merged(void *arg)
{
	TRACE("merged\n");
	sim.merged = sim.own_durable = true;
	total_merges++;
}

static void on_p_want(void *arg)
{
	sim.wanted = true;
}

static void on_p_error(void *arg, unsigned int disk, int rc)
{
	sim.p_failed = true;
}

static void on_p_debt(void *arg, bool open)
{
}

static void on_p_debt_failed(void *arg, int rc)
{
}

/* The VMs */

static void wr_free(struct wr *w)
{
	free(w->data);
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
		if (w->disk == op->disk && w->acked && w->acked < op->at) {
			*p = w->next;
			wr_free(w);
		} else {
			p = &w->next;
		}
	}
}

static void op_done(struct blk_req *r, int rc)
{
	struct op *op = r->arg, **p;
	struct sim *m = &sim;
	uint8_t *disk = op->serving ? m->pvm[op->disk] : m->svm[op->disk];

	for (p = &m->ops; *p != op; p = &(*p)->next)
		;
	*p = op->next;
	*(op->serving ? &m->n_p : &m->n_s) -= 1;
	m->clock++;
	TRACE("%c %u: %d %llu + %llu: %d\n", op->serving ? 'p' : 's', op->disk, r->op, ULL(r->off), ULL(r->len), rc);
	if (rc && !m->w.failed_once)
		violation("request %d answers %s although nothing has failed", r->op, strerror(-rc));
	if (r->op == BLK_READ) {
		if (!rc && !m->blurred && memcmp(op->buf, op->want, r->len)) {
			uint64_t i = 0;

			while (op->buf[i] == op->want[i])
				i++;
			violation("the %s VM reads %02x at %llu of disk %u, not %02x",
				  op->serving ? "serving" : m->promoted ? "promoted" : "standing-by",
				  op->buf[i], ULL(r->off + i), op->disk, op->want[i]);
		}
	} else if (r->op == BLK_FLUSH) {
		m->lossy |= rc != 0;
		if (!rc && m->promoted && op->at)
			durable_up_to(m, op);
	} else if (r->op != BLK_STATUS) {
		if (rc) {
			m->blurred = true;
		} else {
			memcpy(disk + r->off, op->wr ? op->wr->data : op->want, r->len);
			if (op->wr)
				op->wr->acked = m->clock;
		}
	}
	free(op->buf);
	free(op->want);
	free(op);
}

static bool busy_range(struct sim *m, bool serving, unsigned int disk, uint64_t off, uint64_t len, bool read)
{
	for (struct op *o = m->ops; o; o = o->next) {
		if (o->serving != serving || o->disk != disk || (read && o->r.op == BLK_READ))
			continue;
		if (off < o->r.off + o->r.len && o->r.off < off + len)
			return true;
	}
	return false;
}

static void vm_op(struct sim *m, bool serving)
{
	static const enum blk_op what[] = { BLK_READ, BLK_READ, BLK_READ, BLK_WRITE, BLK_WRITE, BLK_WRITE, BLK_WRITE, BLK_ZERO,
					    BLK_FLUSH, BLK_STATUS };
	enum blk_op op = what[rnd(10)];
	unsigned int disk = rnd(m->n);
	uint64_t off = 0, len = 0;
	const uint8_t *now = serving ? m->pvm[disk] : m->svm[disk];
	struct op *o;

	if (op != BLK_FLUSH)
		range(m, &off, &len);
	if (op == BLK_READ && chance(15)) {
		off = 0;
		len = m->size;
	}
	if (m->wanted && !m->promoted && op != BLK_READ)
		return;
	if ((serving ? m->n_p : m->n_s) >= MAX_IOS || busy_range(m, serving, disk, off, len, op == BLK_READ || op == BLK_STATUS))
		return;
	o = calloc(1, sizeof(*o));
	o->serving = serving;
	o->disk = disk;
	o->r = (struct blk_req){ .op = op, .off = off, .len = len, .done = op_done, .arg = o };
	o->at = m->promoted ? ++m->clock : 0;
	if (op == BLK_STATUS) {
		o->r.ext = o->ext;
		o->r.n_ext = 2;
	} else if (op == BLK_FLUSH) {
		o->want = malloc(m->size);
		memcpy(o->want, now, m->size);
	} else {
		if (op != BLK_ZERO)
			o->r.buf = o->buf = malloc(len);
		o->want = calloc(1, len);
		if (op == BLK_READ)
			memcpy(o->want, now + off, len);
		if (op == BLK_WRITE) {
			if (chance(85))
				fill(o->want, len);
			memcpy(o->buf, o->want, len);
		}
		if (op != BLK_READ && !serving) {
			struct wr *w = calloc(1, sizeof(*w));

			*w = (struct wr){ .disk = disk, .off = off, .len = len, .data = malloc(len), .next = m->wrs };
			memcpy(w->data, o->want, len);
			o->wr = m->wrs = w;
		}
	}
	m->w.ops++;
	*(serving ? &m->n_p : &m->n_s) += 1;
	o->next = m->ops;
	m->ops = o;
	TRACE("%c %u: %d %llu + %llu begins\n", serving ? 'p' : 's', disk, op, ULL(off), ULL(len));
	blk_submit(serving ? shared_serve_blk(m->p, disk) : standby_blk(m->s, disk), &o->r);
}

/* Checkpoints */

static void forget_wrs(struct sim *m)
{
	for (struct wr *w; (w = m->wrs);) {
		m->wrs = w->next;
		wr_free(w);
	}
}

static void flip(struct sim *m)
{
	struct err e = { 0 };
	int rc;

	if (m->n_s) {
		m->stop_s = true;
		return;
	}
	TRACE("flip %llu\n", ULL(m->arrived));
	m->flipped = m->arrived;
	m->running = true;
	m->stop_s = m->reserved = m->wanted = false;
	total_flips++;
	forget_wrs(m);
	for (unsigned int i = 0; i < m->n; i++) {
		memcpy(m->committed[i], m->mark[i], m->size);
		memcpy(m->svm[i], m->mark[i], m->size);
	}
	rc = standby_flip(m->s, m->arrived, &e);
	if (rc && !m->failed)
		violation("no flip: %s", e.msg);
}

static void mark(struct sim *m)
{
	int rc;

	if (m->n_p) {
		m->stop_p = true;
		return;
	}
	m->stop_p = false;
	for (unsigned int i = 0; i < m->n; i++)
		memcpy(m->sent_mark[i], m->pvm[i], m->size);
	rc = shared_serve_marker(m->p, ++m->marked);
	TRACE("marker %llu: %d\n", ULL(m->marked), rc);
	if (rc)
		violation("no marker: %s", strerror(-rc));
}

static void checkpoint(struct sim *m)
{
	if (m->promoted || m->failed)
		return;
	if (m->reserved && chance(70)) {
		flip(m);
		return;
	}
	/* The next marker is put behind the one before when that is flipped, or given up. */
	if (m->alive && !m->broken && m->marked == m->arrived && (m->flipped == m->arrived || chance(40)))
		mark(m);
}

static void die(struct sim *m)
{
	if (!m->alive || m->failed)
		return;
	TRACE("the serving node is gone\n");
	while (m->n_msgs && chance(70) && !m->broken) {
		unsigned int before = m->n_msgs;

		m->full = false;
		deliver(m);
		if (before == m->n_msgs)
			break;
	}
	m->alive = false;
	lose_requests(m);
	for (struct op **p = &m->ops, *o; (o = *p);) {
		if (o->serving) {
			*p = o->next;
			free(o->want);
			/* The bytes of a write that is under way are nobody's now; the process's memory is gone. */
			free(o->buf);
			free(o);
		} else {
			p = &o->next;
		}
	}
	m->n_p = 0;
	for (unsigned int i = 0; i < m->n; i++) {
		/* What it has not flushed may go at a crash of the storage: no matter here, but then nobody knows what is left. */
		medium_sync(&m->w.base[i].m, UINT64_MAX);
		memcpy(m->left[i], m->w.base[i].m.now, m->size);
	}
}

static void promote(struct sim *m)
{
	if (m->promoted || m->alive || !m->running)
		return;
	TRACE("promote\n");
	m->promoted = true;
	m->stop_s = m->wanted = m->reserved = false;
	m->clock++;
	for (unsigned int i = 0; i < m->n; i++) {
		memcpy(m->floor[i], m->svm[i], m->size);
		m->floor_at[i] = m->clock;
	}
	for (struct wr **p = &m->wrs, *w; (w = *p);) {
		if (w->acked) {
			*p = w->next;
			wr_free(w);
		} else {
			p = &w->next;
		}
	}
	m->w.fail_base = chance(10) ? 1 + rnd(20) : 0;
	standby_promote(m->s);
}

/* Lives */

static bool image_is(struct sim *m, uint8_t *const *disk)
{
	for (unsigned int i = 0; i < m->n; i++)
		if (memcmp(m->w.base[i].m.now, disk[i], m->size))
			return false;
	return true;
}

static void check_promoted(struct sim *m)
{
	uint8_t *ok = malloc(m->size);

	for (unsigned int d = 0; d < m->n; d++) {
		const uint8_t *now = m->w.base[d].m.now;

		for (uint64_t i = 0; i < m->size; i++)
			ok[i] = now[i] == m->floor[d][i];
		for (struct wr *w = m->wrs; w; w = w->next)
			for (uint64_t i = 0; w->disk == d && i < w->len; i++)
				ok[w->off + i] |= now[w->off + i] == w->data[i];
		for (uint64_t i = 0; i < m->size; i++) {
			if (ok[i])
				continue;
			free(ok);
			violation("after a crash%s disk %u has %02x at %llu, which is nothing that the VM could have there (%02x)",
				  m->own_durable ? " behind a flush" : "", d, now[i], ULL(i), m->floor[d][i]);
		}
	}
	free(ok);
}

static void check_recovered(struct sim *m)
{
	if (!m->promoted || m->blurred || m->lossy)
		return;
	/* Nothing of the promoted VM was durable yet: what the dead node had, or any moment that was put back as a whole. */
	if (!m->own_durable && (image_is(m, m->left) || image_is(m, m->committed) ||
				(m->arrived != m->flipped && image_is(m, m->mark))))
		return;
	check_promoted(m);
}

static void recover(struct sim *m)
{
	struct blk *bases[WORLD_DISKS];
	unsigned int tries = rnd(3);
	uint64_t epoch = 0;
	struct err e = { 0 };

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
		world_crash(&m->w);
		tries--;
	}
	m->w.straight = false;
	m->w.crash_in = -1;
	check_recovered(m);
}

static void drain(struct sim *m)
{
	unsigned int turns = 0;

	m->w.fail_base = m->w.fail_journal = 0;
	for (;;) {
		bool more = world_turn(&m->w) || m->trouble || tell_late(m);

		if (m->trouble) {
			m->trouble = false;
			standby_retry(m->s);
		}
		if (!m->promoted && m->n_msgs && !m->failed) {
			unsigned int before = m->n_msgs;

			deliver(m);
			more |= m->n_msgs != before || m->w.tasks;
		}
		if (m->acks && m->alive && !m->broken) {
			deliver_ack(m);
			more = true;
		}
		if (!more)
			break;
		if (++turns > 200000)
			violation("there is no end to it");
	}
	if (m->n_p && m->alive && !m->broken && !m->failed)
		violation("%u requests of the serving VM are never answered", m->n_p);
	if (m->n_s && !m->failed && !m->wanted)
		violation("%u requests of the other VM are never answered", m->n_s);
	if (m->failed)
		return;
	if (m->promoted) {
		if (!m->merged)
			violation("does not end its merge");
		if (!m->blurred && !image_is(m, m->svm))
			violation("after the merge the image is not what the VM has written");
	} else if (m->alive && !m->n_p && !m->blurred && !image_is(m, m->pvm)) {
		violation("at rest the image is not what the serving VM has written");
	}
}

static void forget(struct sim *m)
{
	forget_wrs(m);
	for (struct op *o; (o = m->ops);) {
		m->ops = o->next;
		free(o->buf);
		free(o->want);
		free(o);
	}
	for (struct pass *p; (p = m->late);) {
		m->late = p->next;
		free(p);
	}
	while (m->n_msgs)
		free(m->msgs[--m->n_msgs].data);
	m->n_p = m->n_s = m->acks = 0;
}

static void begin_life(struct sim *m)
{
	static const struct standby_ops ops = { on_want, on_committed, on_failed, on_room, on_trouble, on_merged, NULL };
	static const struct shared_serve_ops p_ops = { on_p_want, on_p_error, on_p_debt, on_p_debt_failed, NULL };
	static const struct blk_ops pass_ops = { pass_submit }, late_ops = { late_submit };
	struct shared_peer peer = { say_old, say_marker, m };
	struct standby_disk disks[WORLD_DISKS] = { 0 };
	struct blk *bases[WORLD_DISKS];
	struct err e = { 0 };

	m->marked = m->arrived = m->flipped = m->kept_sent = 0;
	m->full = m->broken = m->running = m->stop_p = m->stop_s = m->reserved = m->wanted = m->failed = m->promoted = false;
	m->own_durable = m->merged = m->trouble = m->room = m->lossy = m->blurred = m->p_failed = false;
	m->alive = true;
	m->w.failed_once = false;
	m->w.fail_base = 0;
	m->w.fail_journal = chance(15) ? 1 + rnd(20) : 0;
	for (unsigned int i = 0; i < m->n; i++) {
		memcpy(m->pvm[i], m->w.base[i].m.now, m->size);
		m->sbase[i] = (struct pbase){ .b = m->w.base[i].b, .under = &m->w.base[i].b };
		m->sbase[i].b.ops = &late_ops;
		disks[i].base = &m->sbase[i].b;
		m->pbase[i] = (struct pbase){ .b = m->w.base[i].b, .under = &m->w.base[i].b };
		m->pbase[i].b.ops = &pass_ops;
		bases[i] = &m->pbase[i].b;
	}
	m->s = standby_new(NULL, disks, (const uint8_t (*)[16])m->ids, m->n, &m->w.file, &m->limits, &ops, &e);
	m->p = shared_serve_new(bases, m->n, &p_ops, &e);
	if (!m->s || !m->p)
		violation("%s", e.msg);
	shared_serve_limit(m->p, m->limits.soft / 2);
	shared_serve_peer(m->p, &peer);
}

static void one_step(struct sim *m, uint32_t pace)
{
	unsigned int what = rnd(100);

	if (m->room) {
		m->room = false;
		deliver(m);
	}
	if (m->slow ? !m->alive && !rnd(400) : chance(3))
		tell_late(m);
	if (what < pace)
		world_turn(&m->w);
	else if (what < pace + 8)
		deliver(m);
	else if (what < pace + 14)
		deliver_ack(m);
	else if (what < pace + 18)
		checkpoint(m);
	else if (m->stop_p && !m->n_p && m->alive && !m->broken && !m->failed)
		mark(m);
	else if (m->stop_s && !m->n_s)
		checkpoint(m);
	else if (m->alive && !m->stop_p && chance(50))
		vm_op(m, true);
	else if (m->running && !m->stop_s)
		vm_op(m, false);
}

static void life(struct sim *m)
{
	unsigned int steps = 100 + rnd(chance(20) ? 3000 : 900), dies_at = chance(75) ? rnd(steps) : UINT32_MAX;
	unsigned int breaks_at = chance(40) && dies_at != UINT32_MAX ? rnd(dies_at + 1) : UINT32_MAX;
	uint32_t pace = 20 + rnd(40);
	bool crash = chance(60);

	begin_life(m);
	for (unsigned int i = 0; i < steps && !m->w.dead; i++) {
		if (crash && i + 1 + rnd(60) > steps && m->w.crash_in < 0)
			m->w.crash_in = 1 + rnd(12);
		if (i == breaks_at && m->alive) {
			TRACE("the connection breaks\n");
			m->broken = true;
			m->acks = 0;
			m->stop_p = false;
			shared_serve_lost(m->p);
		}
		if (i == dies_at)
			die(m);
		/* What reads the image may be under way for long. */
		if (!m->alive && (chance(30) || i > dies_at + 20))
			promote(m);
		if (m->trouble && chance(5)) {
			m->trouble = false;
			standby_retry(m->s);
		}
		one_step(m, pace);
	}
	if (!crash && !m->w.dead)
		drain(m);
	if (m->alive)
		lose_requests(m);
	world_crash(&m->w);
	standby_free(m->s);
	shared_serve_free(m->p);
	m->s = NULL;
	m->p = NULL;
	recover(m);
	forget(m);
}

static void schedule(uint64_t seed)
{
	struct sim *m = &sim;

	memset(m, 0, sizeof(*m));
	rng_state = seed * 0x9e3779b97f4a7c15ull + 77;
	m->n = 1 + rnd(WORLD_DISKS);
	m->slow = chance(15);
	m->size = 512 * (8 + rnd(60));
	m->limits = (struct standby_limits){ .memory = 512 * (8 + rnd(80)), .soft = 32768 + rnd(65536), .extents = 2000 + rnd(4000),
					     .chunk = chance(50) ? 512 : 1024, .shared = true };
	m->limits.hard = 8 * m->limits.soft + (256 << 10);
	world_init(&m->w, m->n, m->size, JOURNAL_AREA + m->limits.chunk * (8 * (m->limits.hard / m->limits.chunk) + 1024), true);
	for (unsigned int i = 0; i < m->n; i++) {
		uint8_t **all[] = { m->pvm, m->mark, m->sent_mark, m->committed, m->svm, m->floor, m->left };
		uint8_t *p = malloc(m->size);

		for (size_t k = 0; k < sizeof(all) / sizeof(all[0]); k++)
			all[k][i] = calloc(1, m->size);
		m->ids[i][0] = (uint8_t)(i + 1);
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
	shared_serve_free(m->p);
	forget(m);
	world_free(&m->w);
	for (unsigned int i = 0; i < m->n; i++) {
		uint8_t **all[] = { m->pvm, m->mark, m->sent_mark, m->committed, m->svm, m->floor, m->left };

		for (size_t k = 0; k < sizeof(all) / sizeof(all[0]); k++)
			free(all[k][i]);
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

	for (unsigned int f = STANDBY_FAULTS + 1; f < SHARED_FAULTS; f++) {
		const char *name = fault_names[f - STANDBY_FAULTS - 1];
		uint64_t seed;

		if (only && strcmp(only, name))
			continue;
		standby_fault = f;
		for (seed = 1; seed <= FAULT_SCHEDULES && run(seed); seed++)
			;
		standby_fault = 0;
		if (seed > FAULT_SCHEDULES) {
			printf("%-24s NOT FOUND in %d schedules\n", name, FAULT_SCHEDULES);
			missed++;
		} else if (!run(seed)) {
			printf("%-24s seed %llu fails without it too: %s\n", name, ULL(seed), why);
			missed++;
		} else {
			standby_fault = f;
			run(seed);
			standby_fault = 0;
			printf("%-24s found at seed %llu: %s\n", name, ULL(seed), why);
		}
		fflush(stdout);
	}
	return missed ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "seed", required_argument, NULL, 's' }, { "count", required_argument, NULL, 'c' },
		{ "trace", no_argument, NULL, 't' }, { "faults", no_argument, NULL, 'f' },
		{ "fault", required_argument, NULL, 'F' }, { 0 } };
	uint64_t seed = 1, count = 3000, bad = 0, i;
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
			fprintf(stderr, "usage: prop_shared [--seed S] [--count N] [--trace] [--faults] [--fault NAME]\n");
			return 2;
		}
	}
	if (all_faults)
		return faults(fault);
	for (i = 0; i < count; i++) {
		if (run(seed + i))
			continue;
		printf("VIOLATION seed %llu: %s\n  prop_shared --seed %llu --count 1 --trace\n", ULL(seed + i), why, ULL(seed + i));
		if (++bad == 10)
			break;
	}
	printf("seeds %llu to %llu: %llu operations, %llu flips, %llu aborts, %llu merges, %llu pieces kept, %llu violations\n",
	       ULL(seed), ULL(seed + i - !bad), ULL(total_ops), ULL(total_flips), ULL(total_aborts), ULL(total_merges),
	       ULL(total_kept), ULL(bad));
	return bad ? 1 : 0;
}
