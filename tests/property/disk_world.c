/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk_world.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t rng_state;
bool trace;

uint64_t rnd64(void)
{
	uint64_t z = rng_state += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

uint32_t rnd(uint32_t n)
{
	return (uint32_t)((rnd64() >> 32) * n >> 32);
}

bool chance(uint32_t percent)
{
	return rnd(100) < percent;
}

void medium_init(struct medium *m, uint64_t size)
{
	*m = (struct medium){ .size = size, .now = calloc(1, size), .durable = calloc(1, size) };
}

static void forget_from(struct medium *m, unsigned int from)
{
	for (unsigned int i = from; i < m->n; i++)
		free(m->w[i].data);
	m->n = from;
}

void medium_free(struct medium *m)
{
	forget_from(m, 0);
	free(m->w);
	free(m->now);
	free(m->durable);
}

void medium_write(struct medium *m, uint64_t off, uint64_t len, const uint8_t *data)
{
	struct medium_write *w;

	if (m->n == m->cap) {
		m->cap = m->cap ? 2 * m->cap : 64;
		m->w = realloc(m->w, m->cap * sizeof(*m->w));
	}
	w = &m->w[m->n++];
	*w = (struct medium_write){ .off = off, .len = len, .seq = ++m->seq, .data = malloc(len ? len : 1) };
	if (data)
		memcpy(w->data, data, len);
	else
		memset(w->data, 0, len);
	memcpy(m->now + off, w->data, len);
}

void medium_sync(struct medium *m, uint64_t seq)
{
	unsigned int i;

	for (i = 0; i < m->n && m->w[i].seq <= seq; i++) {
		memcpy(m->durable + m->w[i].off, m->w[i].data, m->w[i].len);
		free(m->w[i].data);
	}
	memmove(m->w, m->w + i, (m->n - i) * sizeof(*m->w));
	m->n -= i;
}

/* Each sector of a write by itself */
static void tear(struct medium *m, const struct medium_write *w, uint32_t percent)
{
	enum { SECTOR = 64 };

	for (uint64_t o = 0; o < w->len; o += SECTOR) {
		uint64_t n = w->len - o < SECTOR ? w->len - o : SECTOR;

		if (chance(percent))
			memcpy(m->durable + w->off + o, w->data + o, n);
	}
}

static void maybe(struct medium *m)
{
	static const uint32_t often[] = { 0, 100, 50, 90, 10 };
	uint32_t p = often[rnd(5)];
	bool whole = chance(50);

	for (unsigned int i = 0; i < m->n; i++)
		tear(m, &m->w[i], whole ? chance(p) * 100 : p);
	forget_from(m, 0);
}

void medium_forget(struct medium *m)
{
	maybe(m);
}

void medium_crash(struct medium *m)
{
	maybe(m);
	memcpy(m->now, m->durable, m->size);
}

static void push(struct world *w, struct task t)
{
	if (w->tasks == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 64;
		w->task = realloc(w->task, w->cap * sizeof(*w->task));
	}
	w->task[w->tasks++] = t;
}

static bool fails(struct world *w, unsigned int permille)
{
	if (!permille || rnd(1000) >= permille)
		return false;
	w->failed_once = true;
	return true;
}

static int execute(struct world *w, struct base *b, struct blk_req *r, uint64_t seq)
{
	struct medium *m = &b->m;

	if (r->op != BLK_FLUSH && (r->off > m->size || r->len > m->size - r->off)) {
		fprintf(stderr, "a request to disk %u goes beyond its end: %llu + %llu\n", b->i,
			(unsigned long long)r->off, (unsigned long long)r->len);
		abort();
	}
	switch (r->op) {
	case BLK_READ:
		memcpy(r->buf, m->now + r->off, r->len);
		return 0;
	case BLK_WRITE:
	case BLK_ZERO:
	case BLK_TRIM:
		if (fails(w, w->fail_base)) {
			/* Half of it may be there. */
			if (r->op == BLK_WRITE && chance(50))
				medium_write(m, r->off, r->len / 2, r->buf);
			return -EIO;
		}
		medium_write(m, r->off, r->len, r->op == BLK_WRITE ? r->buf : NULL);
		if (r->flags & BLK_FUA)
			medium_sync(m, m->seq);
		return 0;
	case BLK_FLUSH:
		if (fails(w, w->fail_base)) {
			medium_forget(m);
			return -EIO;
		}
		medium_sync(m, seq);
		return 0;
	case BLK_STATUS:
		r->ext[0] = (struct blk_extent){ r->len, 0 };
		r->n_ext = 1;
		return 0;
	default:
		return 0;
	}
}

static bool dies(struct world *w)
{
	if (w->crash_in > 0 && !--w->crash_in)
		w->dead = true;
	return w->dead;
}

static void submit(struct blk *blk, struct blk_req *r)
{
	struct base *b = (struct base *)blk;
	struct world *w = b->w;

	w->ops++;
	if (!w->straight) {
		push(w, (struct task){ .kind = TASK_BASE, .base = b, .r = r, .seq = b->m.seq });
		return;
	}
	if (dies(w))
		r->done(r, -EIO);
	else
		r->done(r, execute(w, b, r, b->m.seq));
}

static int file_pread(void *arg, void *buf, uint64_t len, uint64_t off)
{
	struct world *w = arg;

	if (w->dead)
		return -EIO;
	if (off + len > w->journal.size)
		return -EIO;
	memcpy(buf, w->journal.now + off, len);
	return 0;
}

static int file_pwrite(void *arg, const void *buf, uint64_t len, uint64_t off)
{
	struct world *w = arg;

	if (w->dead)
		return -EIO;
	if (off + len > w->journal.size)
		return -ENOSPC;
	/* What dies in it has written a part, which may be there. */
	bool now = dies(w), bad = !now && fails(w, w->fail_journal);

	medium_write(&w->journal, off, bad ? len / 2 : len, buf);
	return now || bad ? -EIO : 0;
}

static int file_sync(void *arg)
{
	struct world *w = arg;

	if (dies(w))
		return -EIO;
	if (fails(w, w->fail_journal)) {
		medium_forget(&w->journal);
		return -EIO;
	}
	medium_sync(&w->journal, w->journal.seq);
	return 0;
}

static int file_punch(void *arg, uint64_t off, uint64_t len)
{
	struct world *w = arg;

	if (dies(w))
		return -EIO;
	medium_write(&w->journal, off, len, NULL);
	return 0;
}

static void file_run(void *arg, void *job, void (*work)(void *job), void (*finish)(void *job))
{
	struct world *w = arg;

	w->ops++;
	push(w, (struct task){ .kind = TASK_JOB, .job = job, .work = work, .finish = finish });
}

void world_init(struct world *w, unsigned int n, uint64_t size, uint64_t journal_size, bool fast_zero)
{
	static const struct blk_ops ops = { submit };

	*w = (struct world){ .n = n, .crash_in = -1 };
	w->file = (struct journal_file){ file_pread, file_pwrite, file_sync, file_punch, file_run, w };
	medium_init(&w->journal, journal_size);
	for (unsigned int i = 0; i < n; i++) {
		struct base *b = &w->base[i];

		*b = (struct base){ .b = { .ops = &ops, .size = size, .align = 512, .fast_zero = fast_zero }, .w = w, .i = i };
		medium_init(&b->m, size);
	}
}

void world_free(struct world *w)
{
	for (unsigned int i = 0; i < w->n; i++)
		medium_free(&w->base[i].m);
	medium_free(&w->journal);
	free(w->task);
}

bool world_turn(struct world *w)
{
	struct task t;
	unsigned int i;

	if (!w->tasks || w->dead)
		return false;
	/* Mostly the oldest, or nothing would ever end. */
	i = chance(w->lazy ? 3 : 40) ? 0 : w->lazy && chance(60) ? w->tasks - 1 : rnd(w->tasks);
	t = w->task[i];
	memmove(&w->task[i], &w->task[i + 1], (--w->tasks - i) * sizeof(t));
	switch (t.kind) {
	case TASK_BASE:
		t.r->done(t.r, execute(w, t.base, t.r, t.seq));
		break;
	case TASK_JOB:
		t.work(t.job);
		t.kind = TASK_JOB_FINISH;
		if (!w->dead)
			push(w, t);
		break;
	case TASK_JOB_FINISH:
		t.finish(t.job);
		break;
	}
	return true;
}

void world_crash(struct world *w)
{
	/* What was under way may have got as far as the medium. */
	for (unsigned int i = 0; i < w->tasks; i++) {
		struct task *t = &w->task[i];

		if (t->kind == TASK_BASE && t->r->op == BLK_WRITE && chance(50))
			medium_write(&t->base->m, t->r->off, t->r->len, t->r->buf);
		else if (t->kind == TASK_BASE && (t->r->op == BLK_ZERO || t->r->op == BLK_TRIM) && chance(50))
			medium_write(&t->base->m, t->r->off, t->r->len, NULL);
	}
	w->tasks = 0;
	for (unsigned int i = 0; i < w->n; i++)
		medium_crash(&w->base[i].m);
	medium_crash(&w->journal);
	w->dead = false;
	w->crash_in = -1;
}
