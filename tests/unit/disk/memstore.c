/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk that crashes: theory of operation
 *
 * @now is what a read sees. A sector that is not durable has a list of what it was before, oldest first: the first is
 * the durable one, each other what a write made of it since. Writing to a sector appends what was there to the list;
 * making it durable empties the list; a crash takes any of the list, or what is there now. So a later write of another
 * sector may survive an earlier one, and a write may survive in some of its sectors only.
 *
 * Each write has a number. A flush knows the number at its submission, and makes durable what writes up to it have done:
 * of a sector that was written again meanwhile only the older content is durable then.
 */
#include "memstore.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct version {
	struct version *next;
	uint64_t num;		/* of the write that has made it; 0: durable */
	uint8_t data[MEMSTORE_SECTOR];
};

struct memstore {
	struct blk blk;
	uint64_t rnd, num;
	uint8_t *now;
	struct version **old;	/* for each sector, oldest first; NULL: durable */
	uint64_t *made;		/* for each sector: the number of the write that made what is there now */
	struct blk_req *wait;
	unsigned int n_wait;
	bool at_once;
	enum memstore_trim trim;
	uint64_t counts[BLK_CACHE + 1];

	unsigned int fail_ops, fail_skip, fail_count, failed;
	uint64_t fail_off, fail_len;
	int fail_rc;
};

static uint64_t rnd(struct memstore *m)
{
	uint64_t z = m->rnd += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static void drop(struct memstore *m, uint64_t sector)
{
	struct version *v;

	while ((v = m->old[sector])) {
		m->old[sector] = v->next;
		free(v);
	}
}

/* Remember what a sector is, before it is changed. */
static void keep(struct memstore *m, uint64_t sector)
{
	struct version **p = &m->old[sector], *v = malloc(sizeof(*v));

	assert(v);
	while (*p)
		p = &(*p)->next;
	*p = v;
	v->next = NULL;
	v->num = m->made[sector];
	memcpy(v->data, m->now + sector * MEMSTORE_SECTOR, MEMSTORE_SECTOR);
}

/* Make durable what writes up to @num have made of a sector. */
static void sync_sector(struct memstore *m, uint64_t sector, uint64_t num)
{
	struct version *v;

	if (m->made[sector] <= num) {
		drop(m, sector);
		m->made[sector] = 0;
		return;
	}
	while ((v = m->old[sector]) && v->next && v->next->num <= num) {
		m->old[sector] = v->next;
		free(v);
	}
	if (v)
		v->num = 0;
}

/* @buf NULL: zeroes. @partly: each sector only if the dice say so. */
static void change(struct memstore *m, const struct blk_req *r, const uint8_t *buf, bool partly)
{
	uint64_t end = r->off + r->len, num = ++m->num;

	for (uint64_t at = r->off; at < end;) {
		uint64_t sector = at / MEMSTORE_SECTOR, stop = (sector + 1) * MEMSTORE_SECTOR;

		if (stop > end)
			stop = end;
		if (!partly || rnd(m) & 1) {
			keep(m, sector);
			m->made[sector] = num;
			if (buf)
				memcpy(m->now + at, buf + (at - r->off), stop - at);
			else
				memset(m->now + at, 0, stop - at);
		}
		at = stop;
	}
}

static void change_by(struct memstore *m, const struct blk_req *r, bool partly)
{
	if (r->op == BLK_WRITE)
		change(m, r, r->buf, partly);
	else if (r->op == BLK_ZERO || (r->op == BLK_TRIM && m->trim == MEMSTORE_TRIM_ZERO))
		change(m, r, NULL, partly);
}

static void sync_range(struct memstore *m, uint64_t off, uint64_t len, uint64_t num)
{
	for (uint64_t s = off / MEMSTORE_SECTOR; s * MEMSTORE_SECTOR < off + len; s++)
		sync_sector(m, s, num);
}

static bool zero_sector(const struct memstore *m, uint64_t at)
{
	static const uint8_t zeroes[MEMSTORE_SECTOR];

	return !memcmp(m->now + at / MEMSTORE_SECTOR * MEMSTORE_SECTOR, zeroes, MEMSTORE_SECTOR);
}

static void status(const struct memstore *m, struct blk_req *r)
{
	unsigned int n = 0, cap = r->n_ext;
	uint64_t at = r->off, end = r->off + r->len;

	while (at < end) {
		uint64_t stop = (at / MEMSTORE_SECTOR + 1) * MEMSTORE_SECTOR;
		uint32_t flags = zero_sector(m, at) ? BLK_HOLE | BLK_ZEROES : 0;

		if (stop > end)
			stop = end;
		if (!n || r->ext[n - 1].flags != flags) {
			if (n == cap)
				break;
			r->ext[n++] = (struct blk_extent){ .flags = flags };
		}
		r->ext[n - 1].len += stop - at;
		at = stop;
	}
	r->n_ext = n;
}

static bool to_fail(struct memstore *m, const struct blk_req *r)
{
	if (!m->fail_count || !(m->fail_ops & 1u << r->op))
		return false;
	if (r->op != BLK_FLUSH && (r->off >= m->fail_off + m->fail_len || m->fail_off >= r->off + r->len))
		return false;
	if (m->fail_skip) {
		m->fail_skip--;
		return false;
	}
	m->fail_count--;
	m->failed++;
	return true;
}

static int happen(struct memstore *m, struct blk_req *r)
{
	assert(r->op <= BLK_CACHE);
	assert(r->op == BLK_FLUSH || (r->len && r->off <= m->blk.size && r->len <= m->blk.size - r->off));
	assert((r->op != BLK_READ && r->op != BLK_WRITE) || r->len <= BLK_MAX_LEN);
	m->counts[r->op]++;
	if (m->blk.readonly && (r->op == BLK_WRITE || r->op == BLK_ZERO || r->op == BLK_TRIM))
		return -EROFS;
	if (to_fail(m, r)) {
		if (!(r->flags & BLK_FAST_ZERO && m->fail_rc == -ENOTSUP))
			change_by(m, r, true);
		return m->fail_rc;
	}
	change_by(m, r, false);
	switch (r->op) {
	case BLK_READ:
		memcpy(r->buf, m->now + r->off, r->len);
		break;
	case BLK_FLUSH:
		sync_range(m, 0, m->blk.size, r->num);
		break;
	case BLK_STATUS:
		status(m, r);
		break;
	default:
		if (r->flags & BLK_FUA)
			sync_range(m, r->off, r->len, m->num);
		break;
	}
	return 0;
}

static void submit(struct blk *b, struct blk_req *r)
{
	struct memstore *m = (struct memstore *)b;

	r->num = m->num;
	if (m->at_once) {
		r->done(r, happen(m, r));
		return;
	}
	r->next = m->wait;
	m->wait = r;
	m->n_wait++;
}

static const struct blk_ops ops = { .submit = submit };

struct memstore *memstore_new(uint64_t size, uint64_t seed)
{
	struct memstore *m = calloc(1, sizeof(*m));

	assert(m && size && !(size % MEMSTORE_SECTOR));
	m->now = calloc(1, size);
	m->old = calloc(size / MEMSTORE_SECTOR, sizeof(*m->old));
	m->made = calloc(size / MEMSTORE_SECTOR, sizeof(*m->made));
	assert(m->now && m->old && m->made);
	m->rnd = seed;
	m->blk = (struct blk){ .ops = &ops, .size = size, .align = 1, .pref = 4096, .fast_zero = true };
	return m;
}

void memstore_free(struct memstore *m)
{
	if (!m)
		return;
	for (uint64_t s = 0; s < m->blk.size / MEMSTORE_SECTOR; s++)
		drop(m, s);
	free(m->now);
	free(m->old);
	free(m->made);
	free(m);
}

struct blk *memstore_blk(struct memstore *m)
{
	return &m->blk;
}

void memstore_auto(struct memstore *m, bool on)
{
	m->at_once = on;
}

void memstore_trim(struct memstore *m, enum memstore_trim t)
{
	m->trim = t;
}

unsigned int memstore_pending(const struct memstore *m)
{
	return m->n_wait;
}

static struct blk_req *take(struct memstore *m)
{
	struct blk_req **p = &m->wait, *r;

	if (!m->n_wait)
		return NULL;
	for (uint64_t k = rnd(m) % m->n_wait; k--;)
		p = &(*p)->next;
	r = *p;
	*p = r->next;
	m->n_wait--;
	r->next = NULL;
	return r;
}

bool memstore_step(struct memstore *m)
{
	struct blk_req *r = take(m);

	if (!r)
		return false;
	r->done(r, happen(m, r));
	return true;
}

void memstore_settle(struct memstore *m)
{
	while (memstore_step(m))
		;
}

void memstore_fail(struct memstore *m, unsigned int ops, uint64_t off, uint64_t len, unsigned int skip,
		   unsigned int count, int rc)
{
	m->fail_ops = ops;
	m->fail_off = off;
	m->fail_len = len;
	m->fail_skip = skip;
	m->fail_count = count;
	m->fail_rc = rc;
}

unsigned int memstore_failed(const struct memstore *m)
{
	return m->failed;
}

void memstore_kill(struct memstore *m)
{
	struct blk_req *r;

	/* Any of what was under way may have happened, wholly or in part. */
	while ((r = take(m)))
		if (!m->blk.readonly && rnd(m) & 1)
			change_by(m, r, rnd(m) & 1);
	m->fail_count = 0;
}

void memstore_crash(struct memstore *m)
{
	memstore_kill(m);
	for (uint64_t s = 0; s < m->blk.size / MEMSTORE_SECTOR; s++) {
		unsigned int n = 1;

		for (struct version *v = m->old[s]; v; v = v->next)
			n++;
		n = (unsigned int)(rnd(m) % n);
		for (struct version *v = m->old[s]; v; v = v->next)
			if (!n--) {
				memcpy(m->now + s * MEMSTORE_SECTOR, v->data, MEMSTORE_SECTOR);
				break;
			}
		drop(m, s);
		m->made[s] = 0;
	}
}

const uint8_t *memstore_data(const struct memstore *m)
{
	return m->now;
}

bool memstore_durable(const struct memstore *m, uint64_t off, uint64_t len)
{
	for (uint64_t s = off / MEMSTORE_SECTOR; s * MEMSTORE_SECTOR < off + len; s++)
		for (struct version *v = m->old[s]; v; v = v->next)
			if (memcmp(v->data, m->now + s * MEMSTORE_SECTOR, MEMSTORE_SECTOR))
				return false;
	return true;
}

uint64_t memstore_count(const struct memstore *m, enum blk_op op)
{
	return m->counts[op];
}
