/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The serving node's disks against a model: bases that answer late and fail, a peer that has no room, commits, goes and
 * comes back, a write-intent map in a real file. After any schedule each block in which the base differs from what the
 * peer has must be dirty or uncommitted, and in the map of the file. LOCKSTEP_SEED=N replays one schedule.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "disk/intent.h"
#include "disk/serve.h"
#include "disk/serve_internal.h"

#define DISKS		2u
#define SIZE		((5u << 20) + 512u)
#define BLOCK		4096u
#define BLOCKS		((SIZE + BLOCK - 1) / BLOCK)
#define MAX_REQS	24u
#define MAX_MARKERS	64u

static uint64_t rnd_state;

static uint32_t rnd(uint32_t n)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return (uint32_t)((rnd_state >> 16) % n);
}

static bool one_in(uint32_t n)
{
	return rnd(n) == 0;
}

/* A base: requests wait until the test lets one go, in any order. */
struct base {
	struct blk blk;
	uint8_t *data;
	struct blk_req *wait[2 * MAX_REQS + 8];
	unsigned int n;
	bool inline_done;	/* answers from inside blk_submit() */
	unsigned int fail;	/* one in so many requests fails; 0: none */
	unsigned int slow_zero;	/* one in so many fast zeroes is refused */
	uint64_t flushes;
};

static void base_let_go(struct base *b, unsigned int i)
{
	struct blk_req *r = b->wait[i];
	int rc = b->fail && one_in(b->fail) ? -EIO : 0;
	uint64_t n = rc ? rnd((uint32_t)r->len + 1) : r->len;

	b->wait[i] = b->wait[--b->n];
	switch (r->op) {
	case BLK_READ:
		memcpy(r->buf, b->data + r->off, n);
		break;
	case BLK_WRITE:
		memcpy(b->data + r->off, r->buf, n);
		break;
	case BLK_ZERO:
		if (r->flags & BLK_FAST_ZERO && b->slow_zero && one_in(b->slow_zero))
			rc = -ENOTSUP;
		else
			memset(b->data + r->off, 0, n);
		break;
	case BLK_FLUSH:
		b->flushes++;
		break;
	default:
		fail_msg("the base gets a request of kind %d", r->op);
	}
	r->done(r, rc);
}

static void base_submit(struct blk *blk, struct blk_req *r)
{
	struct base *b = (struct base *)((char *)blk - offsetof(struct base, blk));

	assert_true(r->off + r->len <= b->blk.size);
	assert_true(b->n < sizeof(b->wait) / sizeof(b->wait[0]));
	b->wait[b->n++] = r;
	if (b->inline_done)
		base_let_go(b, b->n - 1);
}

static const struct blk_ops base_ops = { .submit = base_submit };

struct bed {
	struct base base[DISKS];
	struct blk *bases[DISKS];
	struct meta *metas[DISKS];
	char dir[64], path[DISKS][128];
	struct serve *s;
	/* The peer: what it was sent, what it had at each marker, what is certain. */
	uint8_t *now[DISKS], *durable[DISKS], *cut[MAX_MARKERS][DISKS];
	uint64_t marker[MAX_MARKERS];
	unsigned int cuts;
	uint64_t n;		/* the next checkpoint */
	bool there, syncing, no_room, dead;
	unsigned int room;	/* messages until there is none */
	struct blk_req req[MAX_REQS];
	bool used[MAX_REQS];
	unsigned int under_way;
	uint64_t answered, failed, wants, local_errors, debts_open, debt_failed;
	bool debt;
	bool debt_seen_before_answer;
	struct serve_range lock;
	bool lock_asked;
	struct serve_stats st;
};

/* The peer */

static int peer_take(struct bed *b)
{
	assert_true(b->there);
	if (b->dead)
		return -EPIPE;
	if (b->room == 0) {
		b->no_room = true;
		return -EAGAIN;
	}
	b->room--;
	return 0;
}

static int peer_write(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	struct bed *b = arg;
	int rc = peer_take(b);

	assert_true(len <= SERVE_PIECE && off + len <= SIZE);
	if (rc == 0)
		memcpy(b->now[disk] + off, data, len);
	return rc;
}

static int peer_zero(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole)
{
	struct bed *b = arg;
	int rc = peer_take(b);

	assert_true(off + len <= SIZE);
	if (rc == 0)
		memset(b->now[disk] + off, 0, len);
	return rc;
}

static int peer_marker(void *arg, uint64_t n)
{
	struct bed *b = arg;
	int rc = peer_take(b);

	if (rc != 0)
		return rc;
	assert_true(b->cuts < MAX_MARKERS);
	for (unsigned int d = 0; d < DISKS; d++) {
		b->cut[b->cuts][d] = malloc(SIZE);
		memcpy(b->cut[b->cuts][d], b->now[d], SIZE);
	}
	b->marker[b->cuts++] = n;
	if (b->syncing) {
		/* Until the first marker it puts everything into its base at once. */
		for (unsigned int d = 0; d < DISKS; d++)
			memcpy(b->durable[d], b->now[d], SIZE);
		b->syncing = false;
	}
	return 0;
}

static void drop_cut(struct bed *b)
{
	for (unsigned int d = 0; d < DISKS; d++)
		free(b->cut[0][d]);
	b->cuts--;
	memmove(b->cut, b->cut + 1, b->cuts * sizeof(b->cut[0]));
	memmove(b->marker, b->marker + 1, b->cuts * sizeof(b->marker[0]));
}

static void commit_one(struct bed *b)
{
	uint64_t n = b->marker[0];

	for (unsigned int d = 0; d < DISKS; d++)
		memcpy(b->durable[d], b->cut[0][d], SIZE);
	drop_cut(b);
	serve_committed(b->s, n);
}

static void on_want(void *arg)
{
	((struct bed *)arg)->wants++;
}

static void on_local_error(void *arg, unsigned int disk, int rc)
{
	((struct bed *)arg)->local_errors++;
}

static void on_debt(void *arg, bool open)
{
	struct bed *b = arg;

	assert_true(b->debt != open);
	b->debt = open;
	b->debts_open += open;
}

static void on_debt_failed(void *arg, int rc)
{
	((struct bed *)arg)->debt_failed++;
}

static const struct serve_ops ops = { on_want, on_local_error, on_debt, on_debt_failed, NULL };

static void bed_up(struct bed *b)
{
	struct serve_ops o = ops;
	struct err e;

	memset(b, 0, sizeof(*b));
	snprintf(b->dir, sizeof(b->dir), "%s/lockstep-serve-XXXXXX", access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
	assert_non_null(mkdtemp(b->dir));
	for (unsigned int d = 0; d < DISKS; d++) {
		static const uint8_t id[16] = { 1 };
		struct meta_open mo = { .size = SIZE, .stamp = 1 };

		b->base[d].blk = (struct blk){ .ops = &base_ops, .size = SIZE, .align = 1, .pref = 4096, .fast_zero = true };
		b->base[d].data = calloc(1, SIZE);
		b->bases[d] = &b->base[d].blk;
		b->now[d] = calloc(1, SIZE);
		b->durable[d] = calloc(1, SIZE);
		snprintf(b->path[d], sizeof(b->path[d]), "%s/disk%u", b->dir, d);
		mo.path = b->path[d];
		b->metas[d] = meta_open(&mo, &e);
		assert_non_null(b->metas[d]);
		lineage_begin(meta_lineage(b->metas[d]), id, 7);
		assert_int_equal(meta_save(b->metas[d], &e), 0);
	}
	o.arg = b;
	b->s = serve_new(NULL, b->bases, b->metas, DISKS, &o, &e);
	assert_non_null(b->s);
	serve_limit(b->s, 1 << 20);
}

static void bed_down(struct bed *b)
{
	while (b->cuts)
		drop_cut(b);
	serve_free(b->s);
	for (unsigned int d = 0; d < DISKS; d++) {
		meta_close(b->metas[d]);
		unlink(b->path[d]);
		free(b->base[d].data);
		free(b->now[d]);
		free(b->durable[d]);
	}
	rmdir(b->dir);
}

/* Requests */

static void req_done(struct blk_req *r, int rc)
{
	struct bed *b = r->arg;

	b->used[r - b->req] = false;
	b->under_way--;
	b->answered++;
	b->failed += rc != 0;
	free(r->buf);
	r->buf = NULL;
}

static struct blk_req *req_new(struct bed *b, enum blk_op op, uint64_t off, uint64_t len)
{
	for (unsigned int i = 0; i < MAX_REQS; i++) {
		struct blk_req *r = &b->req[i];

		if (b->used[i])
			continue;
		b->used[i] = true;
		b->under_way++;
		*r = (struct blk_req){ .op = op, .off = off, .len = len, .done = req_done, .arg = b };
		if (op == BLK_WRITE || op == BLK_READ)
			r->buf = calloc(1, len ? len : 1);
		return r;
	}
	return NULL;
}

static void submit_random(struct bed *b)
{
	static const enum blk_op kinds[] = { BLK_WRITE, BLK_WRITE, BLK_WRITE, BLK_WRITE, BLK_ZERO, BLK_TRIM, BLK_FLUSH, BLK_READ };
	enum blk_op op = kinds[rnd(8)];
	uint64_t off, len;
	struct blk_req *r;

	len = one_in(40) ? 1 + rnd(3u << 20) : 1 + rnd(3 * BLOCK);
	off = one_in(3) ? rnd(SIZE - (uint32_t)len + 1) : rnd(8 * BLOCK);
	if (one_in(2)) {
		off &= ~511ull;
		len = (len + 511) & ~511ull;
	}
	if (off + len > SIZE)
		off = SIZE - len;
	if (op == BLK_FLUSH)
		off = len = 0;
	r = req_new(b, op, off, len);
	if (!r)
		return;
	if (op == BLK_WRITE) {
		uint8_t v = (uint8_t)rnd(256);

		for (uint64_t i = 0; i < len; i++)
			r->buf[i] = (uint8_t)(v + i * 7);
	}
	if (op == BLK_ZERO && one_in(2))
		r->flags |= BLK_FAST_ZERO;
	if (op != BLK_FLUSH && one_in(5))
		r->flags |= BLK_FUA;
	blk_submit(serve_blk(b->s, rnd(DISKS)), r);
}

/* The peer comes, and goes */

static void peer_join(struct bed *b)
{
	const struct serve_peer p = { peer_write, peer_zero, peer_marker, b };

	b->there = true;
	b->dead = false;
	b->syncing = true;
	b->room = rnd(20);
	b->n = 1;
	/* What it has is what was durable there: a killed one may have a later epoch too, which the first resync overwrites. */
	for (unsigned int d = 0; d < DISKS; d++)
		memcpy(b->now[d], b->durable[d], SIZE);
	serve_peer(b->s, &p);
}

static void peer_leave(struct bed *b)
{
	if (b->syncing) {
		for (unsigned int d = 0; d < DISKS; d++)
			memcpy(b->durable[d], b->now[d], SIZE);
	}
	b->syncing = false;
	while (b->cuts) {
		/* What was cut may have become durable without our having been told. */
		if (one_in(2))
			for (unsigned int d = 0; d < DISKS; d++)
				memcpy(b->durable[d], b->cut[0][d], SIZE);
		drop_cut(b);
	}
	b->there = false;
	serve_peer(b->s, NULL);
}

/* One piece of a resync: what is dirty is locked, cleaned, sent. */
static void sync_locked(struct serve_range *r)
{
	struct bed *b = r->arg;

	if (b->there && !b->dead) {
		meta_clean(b->metas[r->disk], r->off, r->len);
		memcpy(b->now[r->disk] + r->off, b->base[r->disk].data + r->off, r->len);
	}
	b->lock_asked = false;
	serve_unlock(b->s, r);
}

static bool sync_step(struct bed *b)
{
	for (unsigned int d = 0; d < DISKS && !b->lock_asked; d++) {
		uint64_t off, len;

		if (!meta_next_dirty(b->metas[d], 0, &off, &len))
			continue;
		b->lock = (struct serve_range){ .disk = d, .off = off, .len = len < 16 * BLOCK ? len : 16 * BLOCK,
						.locked = sync_locked, .arg = b };
		b->lock_asked = true;
		serve_lock(b->s, &b->lock);
		return true;
	}
	return b->lock_asked;
}

/* The promise */

static bool is_dirty(struct bed *b, unsigned int d, uint64_t block)
{
	uint64_t off, len;

	return meta_next_dirty(b->metas[d], block * BLOCK, &off, &len) && off < (block + 1) * BLOCK;
}

static bool is_uncommitted(struct bed *b, unsigned int d, uint64_t block)
{
	for (unsigned int i = 0; i <= b->s->un.closed; i++) {
		if (bitmap_get(&b->s->un.epoch[i].map[d], block))
			return true;
	}
	return false;
}

static const char *check(struct bed *b, bool at_rest)
{
	static char why[160];
	uint8_t **durable = b->syncing ? b->now : b->durable;

	for (unsigned int d = 0; d < DISKS; d++) {
		struct meta_open mo = { .size = SIZE, .stamp = 1 };
		char copy[160], cmd[400];
		struct meta *m = NULL;
		struct err e;

		if (one_in(20)) {
			/* What a node would find that is killed now. */
			snprintf(copy, sizeof(copy), "%s/copy", b->dir);
			snprintf(cmd, sizeof(cmd), "cp %s %s", b->path[d], copy);
			assert_int_equal(system(cmd), 0);
			mo.path = copy;
			m = meta_open(&mo, &e);
			assert_non_null(m);
		}
		for (uint64_t k = 0; k < BLOCKS; k++) {
			uint64_t off = k * BLOCK, len = SIZE - off < BLOCK ? SIZE - off : BLOCK, at, n;

			if (at_rest && b->there && !b->dead && memcmp(b->base[d].data + off, b->now[d] + off, len) != 0 &&
			    !is_dirty(b, d, k)) {
				snprintf(why, sizeof(why), "disk %u block %llu: at rest the peer was sent something else", d,
					 (unsigned long long)k);
				return why;
			}
			if (memcmp(b->base[d].data + off, durable[d] + off, len) == 0)
				continue;
			if (!is_dirty(b, d, k) && !(b->there && is_uncommitted(b, d, k))) {
				snprintf(why, sizeof(why), "disk %u block %llu: differs, not dirty nor uncommitted", d,
					 (unsigned long long)k);
				return why;
			}
			if (m && !(meta_next_intent(m, off, &at, &n) && at < off + len)) {
				snprintf(why, sizeof(why), "disk %u block %llu: differs, not in the file's intent map", d,
					 (unsigned long long)k);
				return why;
			}
		}
		if (m) {
			meta_close(m);
			unlink(copy);
		}
	}
	return NULL;
}

static bool base_busy(struct bed *b)
{
	return b->base[0].n || b->base[1].n;
}

/* settle() - let everything that is under way come to its end */
static void settle(struct bed *b)
{
	for (unsigned int turns = 0; b->under_way || base_busy(b) || b->s->marker_waits || b->lock_asked; turns++) {
		struct base *x = &b->base[rnd(DISKS)];

		assert_true(turns < 200000);
		if (x->n)
			base_let_go(x, rnd(x->n));
		serve_saver_step(b->s);
		if (b->there) {
			b->room += 10;
			serve_writable(b->s);
		}
	}
	while (serve_saver_step(b->s))
		;
}

static const char *schedule(uint64_t seed, unsigned int steps)
{
	static struct bed b;
	const char *why = NULL;

	rnd_state = seed * 0x9e3779b97f4a7c15ull + 0x1234567;
	for (int i = 0; i < 8; i++)
		rnd(2);
	bed_up(&b);
	for (unsigned int d = 0; d < DISKS; d++) {
		b.base[d].fail = one_in(2) ? 30 : 0;
		b.base[d].slow_zero = 3;
		b.base[d].inline_done = one_in(6);
	}
	for (unsigned int i = 0; i < steps && !why; i++) {
		struct base *x = &b.base[rnd(DISKS)];

		switch (rnd(14)) {
		case 0 ... 4:
			submit_random(&b);
			break;
		case 5 ... 8:
			if (x->n)
				base_let_go(x, rnd(x->n));
			break;
		case 9:
			serve_saver_step(b.s);
			break;
		case 10:
			b.room += rnd(12);
			if (b.there)
				serve_writable(b.s);
			break;
		case 11:
			if (!b.there ? one_in(4) : one_in(40)) {
				if (b.there)
					peer_leave(&b);
				else
					peer_join(&b);
			} else if (b.there && one_in(80)) {
				b.dead = true;	/* the connection is gone; that it is decided comes later */
			}
			break;
		case 12:
			if (b.there && b.cuts < MAX_MARKERS - 2 && (one_in(10) || !b.syncing)) {
				bool clean = !b.syncing || !sync_step(&b);

				if (one_in(4))
					settle(&b);
				if (clean && !b.dead && !b.s->marker_waits)
					serve_marker(b.s, b.n++);
			} else if (b.there && b.syncing) {
				sync_step(&b);
			}
			break;
		case 13:
			if (b.cuts && b.there)
				commit_one(&b);
			else if (one_in(6))
				serve_stopping(b.s, one_in(2));
			break;
		}
		if (one_in(30))
			why = check(&b, false);
	}
	if (!why) {
		serve_stopping(b.s, false);
		settle(&b);
		why = check(&b, true);
		if (!why && b.debt)
			why = "the debt was never paid";
	}
	serve_stats(b.s, &b.st);
	if (why) {
		for (unsigned int d = 0; d < DISKS; d++)
			b.base[d].fail = 0;
		settle(&b);
	}
	bed_down(&b);
	return why;
}

static void any_schedule_keeps_the_copies(void **state)
{
	const char *given = getenv("LOCKSTEP_SEED");
	uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) << 8 ^ (uint64_t)getpid();

	for (unsigned int i = 0; i < (given ? 1u : 60u); i++) {
		const char *why = schedule(seed + i, 3000);

		if (why)
			fail_msg("%s; LOCKSTEP_SEED=%llu repeats it", why, (unsigned long long)(seed + i));
	}
	print_message("first seed %llu\n", (unsigned long long)seed);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(any_schedule_keeps_the_copies),
	};

	log_init("test", LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
