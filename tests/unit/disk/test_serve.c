/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The serving node's disks against a model: bases that answer late and fail, a peer that has no room, commits, goes and
 * comes back, a write-intent map in a real file. After any schedule each block in which the base differs from what the
 * peer has must be dirty or uncommitted, and in the map of the file. LOCKSTEP_SEED=N replays one schedule.
 */
#include <errno.h>
#include <fcntl.h>
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
#define HOT		(1u << 20 | 1u << 19)	/* all that happens by chance happens below */
#define BLOCKS		(HOT / BLOCK)
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
	int last_rc;
	bool debt;
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
		b->cut[b->cuts][d] = malloc(HOT);
		memcpy(b->cut[b->cuts][d], b->now[d], HOT);
	}
	b->marker[b->cuts++] = n;
	if (b->syncing) {
		/* Until the first marker it puts everything into its base at once. */
		for (unsigned int d = 0; d < DISKS; d++)
			memcpy(b->durable[d], b->now[d], HOT);
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
		memcpy(b->durable[d], b->cut[0][d], HOT);
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
	b->last_rc = rc;
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

	len = one_in(40) ? 1 + rnd(5u << 18) : 1 + rnd(3 * BLOCK);
	off = one_in(3) ? rnd(HOT - (uint32_t)len + 1) : rnd(8 * BLOCK);
	if (one_in(2)) {
		off &= ~511ull;
		len = (len + 511) & ~511ull;
	}
	if (off + len > HOT)
		off = HOT - len;
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
			memcpy(b->durable[d], b->now[d], HOT);
	}
	b->syncing = false;
	while (b->cuts) {
		/* What was cut may have become durable without our having been told. */
		if (one_in(2))
			for (unsigned int d = 0; d < DISKS; d++)
				memcpy(b->durable[d], b->cut[0][d], HOT);
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

static void copy_file(const char *from, const char *to)
{
	static uint8_t buf[1 << 20];
	int in = open(from, O_RDONLY), out = open(to, O_CREAT | O_TRUNC | O_WRONLY, 0600);
	ssize_t n = read(in, buf, sizeof(buf));

	assert_true(n > 0 && n < (ssize_t)sizeof(buf));
	assert_int_equal(write(out, buf, (size_t)n), n);
	close(in);
	close(out);
}

static const char *check(struct bed *b, bool at_rest)
{
	static char why[160];
	uint8_t **durable = b->syncing ? b->now : b->durable;

	for (unsigned int d = 0; d < DISKS; d++) {
		struct meta_open mo = { .size = SIZE, .stamp = 1 };
		char copy[160];
		struct meta *m = NULL;
		struct err e;

		if (one_in(20)) {
			/* What a node would find that is killed now. */
			snprintf(copy, sizeof(copy), "%s/copy", b->dir);
			copy_file(b->path[d], copy);
			mo.path = copy;
			m = meta_open(&mo, &e);
			assert_non_null(m);
		}
		for (uint64_t k = 0; k < BLOCKS; k++) {
			uint64_t off = k * BLOCK, len = BLOCK, at, n;

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
			else if (one_in(3))
				serve_owe(b.s);
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
		const char *why = schedule(seed + i, 2500);

		if (why)
			fail_msg("%s; LOCKSTEP_SEED=%llu repeats it", why, (unsigned long long)(seed + i));
	}
	print_message("first seed %llu\n", (unsigned long long)seed);
}

/* Single promises */

static struct bed bed;

static int up(void **state)
{
	rnd_state = 12345;
	bed_up(&bed);
	return 0;
}

static int down(void **state)
{
	settle(&bed);
	bed_down(&bed);
	return 0;
}

static struct blk_req *put(unsigned int disk, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len, int value)
{
	struct blk_req *r = req_new(&bed, op, off, len);

	assert_non_null(r);
	r->flags = flags;
	if (op == BLK_WRITE)
		memset(r->buf, value, len);
	blk_submit(serve_blk(bed.s, disk), r);
	return r;
}

static void join_synced(void)
{
	peer_join(&bed);
	bed.room = 1000;
	while (serve_saver_step(bed.s))
		;
}

/* saved() - the regions of [0, 5 MiB) are durable, and the base is as empty as before */
static void saved(void)
{
	put(0, BLK_WRITE, 0, 0, SIZE, 0);
	put(1, BLK_WRITE, 0, 0, SIZE, 0);
	settle(&bed);
	bed.answered = 0;
}

static void nothing_begins_before_its_intent(void **state)
{
	struct meta_open mo = { .size = SIZE, .stamp = 1 };
	struct meta *m;
	char copy[160];
	uint64_t at, len;
	struct err e;

	put(0, BLK_WRITE, 0, 1 << 20, 512, 1);
	put(0, BLK_WRITE, 0, 3 << 20, 512, 1);
	assert_int_equal(bed.base[0].n, 0);
	while (serve_saver_step(bed.s))
		;
	assert_int_equal(bed.base[0].n, 2);
	/* What a process would find that begins now: both regions, and a generation of its own for each disk. */
	snprintf(copy, sizeof(copy), "%s/copy", bed.dir);
	mo.path = copy;
	for (unsigned int d = 0; d < DISKS; d++) {
		copy_file(bed.path[d], copy);
		m = meta_open(&mo, &e);
		assert_non_null(m);
		assert_int_equal(meta_lineage(m)->current.number, 2);
		assert_true(meta_lineage(m)->alone);
		if (d == 0) {
			assert_true(meta_next_intent(m, 0, &at, &len) && at == 1 << 20 && len == 1 << 20);
			assert_true(meta_next_intent(m, at + len, &at, &len) && at == 3 << 20);
		}
		meta_close(m);
	}
	unlink(copy);
	settle(&bed);
	/* In the same regions nothing is made durable again. */
	serve_stats(bed.s, &bed.st);
	at = bed.st.intents;
	for (int i = 0; i < 20; i++) {
		put(0, BLK_WRITE, 0, (3 << 20) + 512 * i, 512, 2);
		settle(&bed);
	}
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.intents, at);
	assert_true(at <= 2);
}

static void a_generation_begins_when_it_is_decided(void **state)
{
	struct lineage *l = meta_lineage(bed.metas[0]);

	join_synced();
	put(0, BLK_WRITE, 0, 0, 4096, 1);
	settle(&bed);
	bed.dead = true;
	put(0, BLK_WRITE, 0, 4096, 4096, 1);
	settle(&bed);
	assert_int_equal(bed.answered, 2);
	assert_int_equal(serve_marker(bed.s, 1), -EPIPE);
	assert_int_equal(l->current.number, 1);
	peer_leave(&bed);
	assert_true(is_dirty(&bed, 0, 0) && is_dirty(&bed, 0, 1) && !is_dirty(&bed, 0, 2));
	assert_int_equal(l->current.number, 2);
	/* It is not durable yet, so nothing is written. */
	put(0, BLK_WRITE, 0, 8192, 4096, 1);
	assert_int_equal(bed.base[0].n, 0);
	settle(&bed);
	assert_int_equal(bed.answered, 3);
	/* With nothing uncommitted it begins with the first write. */
	lineage_together(l);
	join_synced();
	peer_leave(&bed);
	assert_int_equal(l->current.number, 2);
	put(0, BLK_WRITE, 0, 8192, 4096, 1);
	settle(&bed);
	assert_int_equal(l->current.number, 3);
}

static void overlapping_ones_wait_in_order(void **state)
{
	saved();
	join_synced();
	put(0, BLK_WRITE, 0, 0, 8192, 1);
	put(0, BLK_WRITE, 0, 4096, 8192, 2);
	put(0, BLK_WRITE, 0, 8192, 8192, 3);	/* overlaps only one that waits */
	put(0, BLK_WRITE, 0, 65536, 4096, 4);
	put(1, BLK_WRITE, 0, 0, 4096, 5);
	assert_int_equal(bed.base[0].n, 2);
	assert_int_equal(bed.base[1].n, 1);
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.conflicts, 2);
	/* The first stays locked until the peer has it. */
	bed.room = 0;
	base_let_go(&bed.base[0], 0);
	assert_int_equal(bed.answered, 0);
	assert_int_equal(bed.base[0].n, 1);
	bed.room = 1;
	serve_writable(bed.s);
	assert_int_equal(bed.answered, 1);
	assert_int_equal(bed.base[0].n, 2);
	settle(&bed);
	assert_int_equal(bed.now[0][4096], 2);
	/* One byte is an overlap, the one behind the end is none. */
	put(0, BLK_WRITE, 0, 100000, 10, 6);
	put(0, BLK_WRITE, 0, 100009, 1, 7);
	put(0, BLK_WRITE, 0, 100010, 5, 8);
	assert_int_equal(bed.base[0].n, 2);
	settle(&bed);
	assert_int_equal(bed.base[0].data[100009], 7);
	assert_int_equal(bed.now[0][8192], 3);
	assert_memory_equal(bed.now[0], bed.base[0].data, SIZE);
}

static void a_lock_keeps_writes_out(void **state)
{
	struct serve_range *r = &bed.lock;

	saved();
	put(0, BLK_WRITE, 0, 0, 4096, 1);
	*r = (struct serve_range){ .disk = 0, .off = 2048, .len = 8192, .locked = sync_locked, .arg = &bed };
	bed.lock_asked = true;
	serve_lock(bed.s, r);
	assert_true(bed.lock_asked);		/* it waits for the write */
	put(0, BLK_WRITE, 0, 4096, 4096, 2);
	put(0, BLK_READ, 0, 2048, 4096, 0);
	assert_int_equal(bed.base[0].n, 2);	/* a write and the read */
	while (bed.base[0].n)
		base_let_go(&bed.base[0], 0);
	assert_false(bed.lock_asked);
	settle(&bed);
	assert_int_equal(bed.answered, 3);
	/* One that is given up before it is held leaves nothing behind. */
	put(0, BLK_WRITE, 0, 0, 4096, 1);
	serve_lock(bed.s, r);
	put(0, BLK_WRITE, 0, 4096, 4096, 2);
	serve_unlock(bed.s, r);
	assert_int_equal(bed.base[0].n, 2);
	settle(&bed);
	assert_false(r->held);
	assert_int_equal(bed.answered, 5);
}

static void trim_is_a_zero_or_nothing(void **state)
{
	saved();
	join_synced();
	put(0, BLK_WRITE, 0, 0, 65536, 1);
	settle(&bed);
	/* The base cannot do it fast: nothing anywhere, and no error. */
	bed.base[0].slow_zero = 1;
	put(0, BLK_TRIM, 0, 100, 10000, 0);
	settle(&bed);
	assert_int_equal(bed.last_rc, 0);
	assert_int_equal(bed.base[0].data[5000], 1);
	assert_int_equal(bed.now[0][5000], 1);
	put(0, BLK_ZERO, BLK_FAST_ZERO, 100, 10000, 0);
	settle(&bed);
	assert_int_equal(bed.last_rc, -ENOTSUP);
	assert_int_equal(bed.now[0][5000], 1);
	bed.base[0].slow_zero = 0;
	put(0, BLK_TRIM, BLK_FUA, 100, 10000, 0);
	assert_int_equal(bed.base[0].wait[0]->op, BLK_ZERO);
	assert_int_equal(bed.base[0].wait[0]->flags, BLK_FAST_ZERO | BLK_FUA);
	settle(&bed);
	assert_int_equal(bed.base[0].data[5000], 0);
	assert_memory_equal(bed.now[0], bed.base[0].data, SIZE);
}

/* A base that zeroes fast in whole pieces only: the rest of a trim is nobody's. */
static void trim_of_a_part_is_of_whole_pieces(void **state)
{
	static const struct {
		uint64_t off, len, from, to;	/* of what is zeroes then */
	} t[] = {
		{ 100, 3 << 16, 1 << 16, 3 << 16 }, { 0, 1 << 16, 0, 1 << 16 }, { 1, (2 << 16) - 2, 0, 0 }, { 5000, 9000, 0, 0 },
		{ (1 << 16) + 1, 1 << 16, 0, 0 }, { SIZE - 60000, 60000, 5 << 20, SIZE }, { SIZE - 511, 511, 0, 0 },
	};

	bed.base[0].blk.fast_zero = false;
	bed.base[0].blk.trim_grain = 1 << 16;
	join_synced();
	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct serve_stats was, st;

		memset(bed.base[0].data, 7, SIZE);
		memset(bed.now[0], 7, SIZE);
		serve_stats(bed.s, &was);
		put(0, BLK_TRIM, 0, t[i].off, t[i].len, 0);
		settle(&bed);
		assert_int_equal(bed.failed, 0);
		for (uint64_t at = 0; at < SIZE; at += 256) {
			assert_int_equal(bed.base[0].data[at], at >= t[i].from && at < t[i].to ? 0 : 7);
			assert_int_equal(bed.now[0][at], bed.base[0].data[at]);
		}
		serve_stats(bed.s, &st);
		assert_int_equal(st.zeroed - was.zeroed, t[i].to - t[i].from);
		assert_int_equal(st.requests, 0);
	}
}

static void a_failed_write_is_read_back(void **state)
{
	saved();
	join_synced();
	bed.base[0].fail = 1;
	put(0, BLK_WRITE, 0, 0, 3 << 20, 7);
	base_let_go(&bed.base[0], 0);
	assert_int_equal(bed.local_errors, 1);
	assert_int_equal(bed.base[0].n, 1);	/* read back */
	bed.base[0].fail = 0;
	settle(&bed);
	assert_int_equal(bed.last_rc, -EIO);
	assert_memory_equal(bed.now[0], bed.base[0].data, SIZE);
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.dirty_bytes, 2 * SIZE);		/* from before the peer came */
	/* If that fails too it is dirty. */
	meta_clean(bed.metas[0], 0, SIZE);
	bed.base[0].fail = 1;
	put(0, BLK_WRITE, 0, 8192, 4096, 7);
	settle(&bed);
	assert_int_equal(bed.last_rc, -EIO);
	assert_true(is_dirty(&bed, 0, 2));
	assert_int_equal(meta_dirty_bytes(bed.metas[0]), 4096);
	bed.base[0].fail = 0;
}

static void a_full_peer_delays_and_a_gone_one_does_not(void **state)
{
	saved();
	join_synced();
	bed.room = 1;
	put(0, BLK_WRITE, 0, 0, 3 << 20, 7);	/* three pieces */
	put(0, BLK_WRITE, 0, 4 << 20, 4096, 7);
	while (bed.base[0].n)
		base_let_go(&bed.base[0], 0);
	assert_int_equal(bed.answered, 0);
	bed.room = 1;
	serve_writable(bed.s);
	assert_int_equal(bed.answered, 0);
	bed.dead = true;
	serve_writable(bed.s);
	assert_int_equal(bed.answered, 2);
}

static void too_much_asks_for_a_checkpoint_once(void **state)
{
	saved();
	join_synced();
	for (int i = 0; i < 300; i++) {
		put(0, BLK_WRITE, 0, (uint64_t)i * 4096, 4096, 1);
		settle(&bed);
		assert_int_equal(bed.wants, i >= 255);
	}
	assert_int_equal(serve_marker(bed.s, 1), 0);
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.uncommitted_bytes, 300 * 4096);
	commit_one(&bed);
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.uncommitted_bytes, 0);
}

static void many_open_epochs_become_one(void **state)
{
	saved();
	join_synced();
	for (uint64_t n = 1; n <= 3 * UNCOMMITTED_MAX; n++) {
		put(0, BLK_WRITE, 0, n * 4096, 4096, 1);
		settle(&bed);
		assert_int_equal(serve_marker(bed.s, n), 0);
	}
	commit_one(&bed);
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.uncommitted_bytes, 3 * UNCOMMITTED_MAX * 4096);
	assert_null(check(&bed, true));
	while (bed.cuts)
		commit_one(&bed);
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.uncommitted_bytes, 0);
}

static void a_flush_while_stopping_is_a_debt(void **state)
{
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	assert_int_equal(bed.answered, 0);
	settle(&bed);
	assert_int_equal(bed.answered, 1);
	assert_int_equal(bed.debts_open, 0);

	serve_stopping(bed.s, true);
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	assert_int_equal(bed.answered, 2);
	assert_true(bed.debt);
	put(1, BLK_FLUSH, 0, 0, 0, 0);
	assert_int_equal(bed.answered, 3);
	serve_stopping(bed.s, false);
	/* The guest's own, of whatever disk, waits, and then flushes itself. */
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	assert_int_equal(bed.base[0].n, 1);
	base_let_go(&bed.base[0], 0);
	assert_true(bed.debt);
	assert_int_equal(bed.answered, 3);
	base_let_go(&bed.base[1], 0);
	assert_false(bed.debt);
	assert_int_equal(bed.debts_open, 1);
	assert_int_equal(bed.answered, 3);
	assert_int_equal(bed.base[0].n, 1);
	base_let_go(&bed.base[0], 0);
	assert_int_equal(bed.answered, 4);
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.debts, 2);
	assert_int_equal(bed.st.flushes, 4);
}

/* The VM believes that what is owed is done; no base may have what it writes then before what it has flushed. */
static void what_is_written_waits_for_the_debt(void **state)
{
	/* Nothing that comes later has to wait for the intent map. */
	put(0, BLK_WRITE, 0, 4096, 4096, 1);
	put(1, BLK_WRITE, 0, 4096, 4096, 1);
	settle(&bed);
	assert_int_equal(bed.answered, 2);
	serve_stopping(bed.s, true);
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	assert_true(bed.debt);
	/* This one was under way when the VM was stopped. */
	put(1, BLK_WRITE, 8192, 4096, 4096, 1);
	assert_int_equal(bed.base[1].n, 1);
	serve_stopping(bed.s, false);
	put(1, BLK_WRITE, 0, 4096, 4096, 2);
	put(0, BLK_TRIM, 0, 0, 4096, 0);
	base_let_go(&bed.base[1], 0);
	assert_int_equal(bed.base[1].n, 0);
	assert_int_equal(bed.base[0].n, 1);
	assert_int_equal(bed.answered, 4);
	base_let_go(&bed.base[0], 0);
	assert_false(bed.debt);
	assert_int_equal(bed.base[0].n, 1);
	assert_int_equal(bed.base[1].n, 1);
	settle(&bed);
	assert_int_equal(bed.answered, 6);
	serve_stats(bed.s, &bed.st);
	assert_int_equal(bed.st.held, 2);
	assert_null(check(&bed, true));
}

/* QEMU waits for what the guest has asked before. */
static void what_is_under_way_is_owed_when_stopping(void **state)
{
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	put(1, BLK_FLUSH, 0, 0, 0, 0);
	base_let_go(&bed.base[1], 0);
	assert_int_equal(bed.answered, 1);
	/* The answer to `stop` was quicker than this: then nothing is owed. */
	serve_owe(bed.s);
	assert_int_equal(bed.answered, 1);
	serve_stopping(bed.s, true);
	serve_owe(bed.s);
	assert_int_equal(bed.answered, 2);
	assert_true(bed.debt);
	serve_stopping(bed.s, false);
	/* This one waits for the debt; the next stop finds it waiting. */
	put(1, BLK_FLUSH, 0, 0, 0, 0);
	assert_int_equal(bed.answered, 2);
	assert_int_equal(bed.base[1].n, 0);
	serve_stopping(bed.s, true);
	serve_owe(bed.s);
	assert_int_equal(bed.answered, 3);
	serve_stopping(bed.s, false);
	base_let_go(&bed.base[0], 0);
	assert_true(bed.debt);
	base_let_go(&bed.base[1], 0);
	assert_false(bed.debt);
	assert_int_equal(bed.debts_open, 1);
	assert_int_equal(bed.answered, 3);
	/* One that fails is told by the next. */
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	serve_stopping(bed.s, true);
	serve_owe(bed.s);
	serve_stopping(bed.s, false);
	assert_int_equal(bed.last_rc, 0);
	bed.base[0].fail = 1;
	base_let_go(&bed.base[0], 0);
	assert_int_equal(bed.debt_failed, 1);
	assert_false(bed.debt);
	bed.base[0].fail = 0;
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	assert_int_equal(bed.last_rc, -EIO);
}

static void a_debt_that_fails_is_told(void **state)
{
	serve_stopping(bed.s, true);
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	serve_stopping(bed.s, false);
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	bed.base[0].fail = 1;
	base_let_go(&bed.base[0], 0);
	assert_int_equal(bed.debt_failed, 1);
	assert_false(bed.debt);
	assert_int_equal(bed.answered, 2);
	assert_int_equal(bed.last_rc, -EIO);
	bed.base[0].fail = 0;
	put(0, BLK_FLUSH, 0, 0, 0, 0);
	settle(&bed);
	assert_int_equal(bed.last_rc, 0);
}

static void a_meta_that_cannot_be_written_fails_the_write(void **state)
{
	/* A file that must not grow: the first writing of a map of a new file. */
	struct blk *bases[1] = { bed.bases[0] };
	struct serve_ops o = ops;
	struct meta *m;
	struct serve *s;
	struct blk_req *r;
	struct err e;
	int null = open("/dev/full", O_RDWR);
	struct meta_open mo = { .path = bed.path[0], .size = SIZE, .stamp = 1 };

	meta_close(bed.metas[0]);
	m = bed.metas[0] = meta_open(&mo, &e);
	assert_non_null(m);
	o.arg = &bed;
	s = serve_new(NULL, bases, &m, 1, &o, &e);
	assert_non_null(s);
	/* Whatever file it is that the meta has open. */
	for (int fd = 3; fd < 64; fd++) {
		char link[64], name[160];
		ssize_t n;

		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		n = readlink(link, name, sizeof(name) - 1);
		if (n > 0 && (name[n] = 0, strcmp(name, bed.path[0]) == 0))
			assert_int_equal(dup2(null, fd), fd);
	}
	close(null);
	r = req_new(&bed, BLK_WRITE, 0, 4096);
	blk_submit(serve_blk(s, 0), r);
	assert_true(serve_saver_step(s));
	assert_int_equal(bed.answered, 1);
	assert_int_equal(bed.last_rc, -ENOSPC);
	assert_int_equal(bed.local_errors, 1);
	assert_int_equal(bed.base[0].n, 0);
	assert_false(serve_saver_step(s));
	serve_free(s);
}

/* With the thread. */
struct live {
	struct loop *loop;
	struct serve *s;
	unsigned int left;
	struct blk_req req;
	uint8_t buf[4096];
	uint64_t at;
};

static void live_next(struct live *l)
{
	l->req.off = (l->at = (l->at + 1237) % 1200) * 4096;
	blk_submit(serve_blk(l->s, 0), &l->req);
}

static void live_done(struct blk_req *r, int rc)
{
	struct live *l = r->arg;

	assert_int_equal(rc, 0);
	if (--l->left == 0)
		loop_stop(l->loop);
	else
		live_next(l);
}

static void late(struct loop_timer *t)
{
	fail_msg("the writes were not answered");
}

static void the_thread_saves(void **state)
{
	static struct live l;
	struct serve_ops o = ops;
	struct loop_timer end = { .fn = late };
	struct err e;

	o.arg = &bed;
	l = (struct live){ .left = 500 };
	l.loop = loop_new("disk", &e);
	assert_non_null(l.loop);
	bed.base[0].inline_done = true;
	l.s = serve_new(l.loop, bed.bases, bed.metas, DISKS, &o, &e);
	assert_non_null(l.s);
	l.req = (struct blk_req){ .op = BLK_WRITE, .len = 4096, .buf = l.buf, .done = live_done, .arg = &l };
	loop_timer_set(l.loop, &end, clock_ns() + 30000000000ll);
	live_next(&l);
	loop_run(l.loop);
	serve_stats(l.s, &bed.st);
	assert_true(bed.st.intents >= 1 && bed.st.intents <= 6);
	assert_int_equal(bed.st.requests, 0);
	loop_timer_del(l.loop, &end);
	/* Ended in the middle of a round. */
	serve_peer(l.s, NULL);
	serve_free(l.s);
	loop_free(l.loop);
	assert_int_equal(meta_end(bed.metas[0], 5, &e), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, up, down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(nothing_begins_before_its_intent),
		T(a_generation_begins_when_it_is_decided),
		T(overlapping_ones_wait_in_order),
		T(a_lock_keeps_writes_out),
		T(trim_is_a_zero_or_nothing), T(trim_of_a_part_is_of_whole_pieces),
		T(a_failed_write_is_read_back),
		T(a_full_peer_delays_and_a_gone_one_does_not),
		T(too_much_asks_for_a_checkpoint_once),
		T(many_open_epochs_become_one),
		T(a_flush_while_stopping_is_a_debt),
		T(what_is_under_way_is_owed_when_stopping),
		T(what_is_written_waits_for_the_debt),
		T(a_debt_that_fails_is_told),
		T(a_meta_that_cannot_be_written_fails_the_write),
		T(the_thread_saves),
		cmocka_unit_test(any_schedule_keeps_the_copies),
	};

	log_init("test", LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
