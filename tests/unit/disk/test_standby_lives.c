/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disk/standby with everything in memory: what a second life finds of the first, what the peer's trims become where
 * zeroes are not fast, and what is said to differ from a dead peer's disk.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <cmocka.h>

#include "blkmem.h"
#include "disk/journal.h"
#include "disk/standby.h"

enum { SIZE = 64 << 10, CHUNK = 512, HARD = 64 << 10, JOBS = 256 };

static const uint8_t ids[1][16] = { { 1 } }, other_ids[1][16] = { { 2 } };

static struct {
	struct blkmem base;
	struct standby *s;
	uint8_t journal[JOURNAL_AREA + CHUNK * (8 * (HARD / CHUNK) + 1024)], durable[JOURNAL_AREA + CHUNK * (8 * (HARD / CHUNK) + 1024)];
	struct {
		void *job;
		void (*work)(void *job);
		void (*finish)(void *job);
	} jobs[JOBS];
	unsigned int first, last;
	uint64_t committed;
	bool failed, merged, quiet;
	unsigned int safe;
	int reserved;
	uint8_t seen[SIZE], read[SIZE];	/* each byte that was asked space for, or is said to differ */
} bed;

/* The journal */

static int j_pread(void *arg, void *buf, uint64_t len, uint64_t off)
{
	assert_true(off + len <= sizeof(bed.journal));
	memcpy(buf, bed.journal + off, len);
	return 0;
}

static int j_pwrite(void *arg, const void *buf, uint64_t len, uint64_t off)
{
	assert_true(off + len <= sizeof(bed.journal));
	memcpy(bed.journal + off, buf, len);
	return 0;
}

static int j_sync(void *arg)
{
	memcpy(bed.durable, bed.journal, sizeof(bed.durable));
	return 0;
}

static int j_punch(void *arg, uint64_t off, uint64_t len)
{
	return 0;
}

static void j_run(void *arg, void *job, void (*work)(void *job), void (*finish)(void *job))
{
	unsigned int i = bed.last++ % JOBS;

	assert_true(bed.last - bed.first <= JOBS);
	bed.jobs[i].job = job;
	bed.jobs[i].work = work;
	bed.jobs[i].finish = finish;
}

static const struct journal_file file = { j_pread, j_pwrite, j_sync, j_punch, j_run, NULL };

static void settle(void)
{
	while (bed.first != bed.last) {
		unsigned int i = bed.first++ % JOBS;

		bed.jobs[i].work(bed.jobs[i].job);
		bed.jobs[i].finish(bed.jobs[i].job);
	}
}

/* What the standby says */

static void on_want(void *arg)
{
}

static void on_committed(void *arg, uint64_t n)
{
	bed.committed = n;
}

static void on_failed(void *arg, int rc, const char *sentence)
{
	bed.failed = true;
}

static void on_room(void *arg)
{
}

static void on_safe(void *arg)
{
	bed.safe++;
}

static void on_merged(void *arg)
{
	bed.merged = true;
}

static void on_reserved(void *arg, int rc)
{
	bed.reserved = rc;
}

static void on_quiet(void *arg)
{
	bed.quiet = true;
}

static void on_range(void *arg, uint64_t off, uint64_t len)
{
	assert_true(off + len <= SIZE);
	memset(bed.seen + off, 1, len);
}

static void on_space(void *arg, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *done_arg)
{
	on_range(NULL, off, len);
	done(done_arg, 0);
}

static void on_done(struct blk_req *r, int rc)
{
	assert_int_equal(rc, 0);
	*(bool *)r->arg = true;
}

/* Lives */

static void begin(const uint8_t (*of)[16])
{
	static const struct standby_ops ops = { on_want, on_committed, on_failed, on_room, NULL, on_safe, on_merged, NULL };
	const struct standby_limits limits = { .memory = 16 << 10, .soft = HARD / 2, .hard = HARD, .extents = 1000,
					       .chunk = CHUNK };
	struct standby_disk disk = { .base = &bed.base.b, .reserve = on_space };
	struct err e = { 0 };

	bed.committed = 0;
	bed.failed = bed.merged = bed.quiet = false;
	bed.safe = 0;
	memset(bed.seen, 0, sizeof(bed.seen));
	bed.s = standby_new(NULL, &disk, of, 1, &file, &limits, &ops, &e);
	if (!bed.s)
		fail_msg("%s", e.msg);
}

static void end(void)
{
	settle();
	standby_quiesce(bed.s, on_quiet, NULL);
	settle();
	assert_true(bed.quiet);
	standby_free(bed.s);
	bed.s = NULL;
}

static int recover(const uint8_t (*of)[16], uint64_t *epoch, struct err *e)
{
	struct blk *bases[1] = { &bed.base.b };

	return standby_recover(NULL, &file, bases, of, 1, epoch, e);
}

static void peer_writes(uint64_t off, uint32_t len, uint8_t v)
{
	uint8_t buf[4096];

	memset(buf, v, sizeof(buf));
	assert_int_equal(standby_write(bed.s, 0, off, len, buf), 0);
}

static void vm_does(enum blk_op op, uint64_t off, uint64_t len, uint8_t *buf)
{
	bool done = false;
	struct blk_req r = { .op = op, .off = off, .len = len, .buf = buf, .done = on_done, .arg = &done };

	blk_submit(standby_blk(bed.s, 0), &r);
	settle();
	assert_true(done);
}

static void vm_writes(uint64_t off, uint32_t len, uint8_t v)
{
	uint8_t buf[4096];

	memset(buf, v, sizeof(buf));
	vm_does(BLK_WRITE, off, len, buf);
}

static void stage(uint64_t n)
{
	bed.reserved = 1;
	standby_barrier(bed.s, n);
	standby_reserve(bed.s, n, on_reserved, NULL);
	settle();
	assert_int_equal(bed.reserved, 0);
}

static void checkpoint(uint64_t n)
{
	struct err e = { 0 };

	stage(n);
	assert_int_equal(standby_flip(bed.s, n, &e), 0);
	settle();
}

static int setup(void **state)
{
	memset(&bed, 0, sizeof(bed));
	assert_int_equal(blkmem_init(&bed.base, SIZE), 0);
	memset(bed.base.bytes, 0xff, SIZE);
	return 0;
}

static int teardown(void **state)
{
	blkmem_free(&bed.base);
	return 0;
}

static bool all(const uint8_t *p, uint64_t off, uint64_t len, uint8_t v)
{
	for (uint64_t i = off; i < off + len; i++)
		if (p[i] != v)
			return false;
	return true;
}

/* Epochs are counted from 1 again by the next pair: COMMITTED is said all the same. */
static void second_life(void **state)
{
	struct standby_stats st;
	uint64_t epoch = 99;
	struct err e = { 0 };

	for (unsigned int life = 0; life < 3; life++) {
		begin(ids);
		standby_stats(bed.s, &st);
		assert_int_equal(st.epoch, 0);
		for (uint64_t n = 1; n <= 5 - life; n++) {
			peer_writes(n * 4096, 4096, (uint8_t)(16 * life + n));
			checkpoint(n);
			assert_int_equal(bed.committed, n);
		}
		standby_stats(bed.s, &st);
		assert_int_equal(st.epoch, 5 - life);
		end();
		assert_int_equal(recover(ids, &epoch, &e), 0);
		assert_int_equal(epoch, 5 - life);
	}
}

/* A journal that has nothing for its disks any more is anybody's; one that has is not. */
static void other_disks(void **state)
{
	uint64_t epoch = 99;
	struct err e = { 0 };

	begin(ids);
	checkpoint(1);
	peer_writes(0, 4096, 7);
	checkpoint(2);
	assert_int_equal(bed.committed, 2);
	end();
	assert_int_equal(recover(other_ids, &epoch, &e), 0);
	assert_int_equal(epoch, 0);
	begin(other_ids);
	checkpoint(1);
	peer_writes(0, 4096, 8);
	/* It dies before it can write that to its disk. */
	bed.base.fail = -EIO;
	checkpoint(2);
	assert_true(bed.failed);
	end();
	bed.base.fail = 0;
	assert_true(all(bed.base.bytes, 0, 4096, 7));
	assert_int_equal(recover(ids, &epoch, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "other disks"));
	assert_true(all(bed.base.bytes, 0, 4096, 7));
	assert_int_equal(recover(other_ids, &epoch, &e), 0);
	assert_int_equal(epoch, 2);
	assert_true(all(bed.base.bytes, 0, 4096, 8));
}

/* What is a trim at the peer reads as zeroes there: so it does here, fast or not, before and behind the first epoch. */
static void trims(void **state)
{
	enum { SLOW, FAST, PIECES };

	for (int fast = SLOW; fast <= PIECES; fast++) {
		memset(bed.journal, 0, sizeof(bed.journal));
		memset(bed.base.bytes, 0xff, SIZE);
		bed.base.b.fast_zero = fast == FAST;
		bed.base.b.trim_grain = fast == PIECES ? 4096 : 0;
		begin(ids);
		assert_int_equal(standby_zero(bed.s, 0, 4096, 8192, true, false), 0);
		assert_true(all(bed.base.bytes, 4096, 8192, 0));
		assert_true(bed.base.last_op == BLK_ZERO && !bed.base.last_flags);
		assert_int_equal(bed.base.bytes[4095], 0xff);
		checkpoint(1);
		assert_true(all(bed.seen, 0, SIZE, 0));
		assert_int_equal(standby_zero(bed.s, 0, 20000, 10000, true, false), 0);
		peer_writes(30000, 1000, 3);
		assert_int_equal(standby_zero(bed.s, 0, 40000, 1000, false, true), 0);
		stage(2);
		/* They may have to be written, and that must not fail for want of space then. */
		assert_true(all(bed.seen, 20000, 10000, !fast));
		assert_true(all(bed.seen, 30000, 1000, 1));
		assert_true(all(bed.seen, 31000, 9000, 0));
		assert_true(all(bed.seen, 40000, 1000, fast != PIECES));
		assert_int_equal(standby_flip(bed.s, 2, &(struct err){ 0 }), 0);
		settle();
		assert_int_equal(bed.committed, 2);
		assert_true(all(bed.base.bytes, 20000, 10000, 0));
		assert_true(all(bed.base.bytes, 30000, 1000, 3));
		assert_true(all(bed.base.bytes, 31000, 9000, 0xff));
		assert_true(all(bed.base.bytes, 40000, 1000, 0));
		end();
	}
}

/* The VM's own trim is seen by it as the peer's is by the peer's: zeroes where that is fast, else as it was. */
static void own_trims(void **state)
{
	static const struct {
		bool fast;
		uint32_t grain;
		uint64_t off, len, from, to;	/* of the zeroes then */
	} t[] = {
		{ true, 0, 1000, 9000, 1000, 10000 }, { false, 0, 0, 8192, 0, 0 }, { false, 4096, 1000, 9000, 4096, 8192 },
		{ false, 4096, 1000, 4096, 0, 0 }, { false, 4096, SIZE - 5000, 5000, SIZE - 4096, SIZE },
	};

	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		memset(bed.journal, 0, sizeof(bed.journal));
		memset(bed.base.bytes, 0xff, SIZE);
		bed.base.b.fast_zero = t[i].fast;
		bed.base.b.trim_grain = t[i].grain;
		begin(ids);
		checkpoint(1);
		vm_does(BLK_TRIM, t[i].off, t[i].len, NULL);
		vm_does(BLK_READ, 0, SIZE, bed.read);
		for (uint64_t at = 0; at < SIZE; at += 8)
			assert_int_equal(bed.read[at], at >= t[i].from && at < t[i].to ? 0 : 0xff);
		standby_promote(bed.s);
		settle();
		assert_true(bed.merged);
		assert_memory_equal(bed.base.bytes, bed.read, SIZE);
		end();
	}
}

/* What differs from a dead peer's disk: own writes and what was pending, asked for before the promotion and behind it */
static void differs(void **state)
{
	for (int behind = 0; behind < 2; behind++) {
		memset(bed.journal, 0, sizeof(bed.journal));
		begin(ids);
		checkpoint(1);
		peer_writes(0, 4096, 1);
		checkpoint(2);
		peer_writes(8192, 4096, 2);
		stage(3);
		assert_int_equal(standby_zero(bed.s, 0, 16384, 100, true, false), 0);
		vm_writes(30000, 777, 3);
		memset(bed.seen, 0, sizeof(bed.seen));
		if (!behind)
			standby_own_ranges(bed.s, 0, on_range, NULL);
		standby_promote(bed.s);
		if (behind)
			standby_own_ranges(bed.s, 0, on_range, NULL);
		assert_true(all(bed.seen, 0, 8192, 0));
		assert_true(all(bed.seen, 8192, 4096, 1));
		assert_true(all(bed.seen, 16384, 100, 1));
		assert_true(all(bed.seen, 16484, 13516, 0));
		assert_true(all(bed.seen, 30000, 777, 1));
		assert_true(all(bed.seen, 30777, SIZE - 30777, 0));
		settle();
		assert_true(bed.merged);
		assert_true(all(bed.base.bytes, 30000, 777, 3));
		end();
	}
}

/*
 * From the moment at which it is said that all is safe, and not before, a promoted node may die: what its VM had written
 * is found, though nothing of it had reached the base.
 */
static void safe_when_promoted(void **state)
{
	static uint8_t base[SIZE], journal[sizeof(bed.journal)];
	unsigned int steps = 0;
	uint64_t epoch = 99;
	struct err e = { 0 };

	for (int empty = 0; empty < 2; empty++) {
		memset(bed.journal, 0, sizeof(bed.journal));
		memset(bed.base.bytes, 0xff, SIZE);
		begin(ids);
		checkpoint(1);
		peer_writes(0, 4096, 1);
		checkpoint(2);
		if (!empty)
			vm_writes(30000, 777, 3);
		memcpy(base, bed.base.bytes, SIZE);
		standby_promote(bed.s);
		assert_int_equal(bed.safe, empty);
		for (; !bed.safe && bed.first != bed.last; steps++) {
			unsigned int i = bed.first++ % JOBS;

			bed.jobs[i].work(bed.jobs[i].job);
			bed.jobs[i].finish(bed.jobs[i].job);
		}
		assert_int_equal(bed.safe, 1);
		memcpy(journal, bed.durable, sizeof(journal));
		end();
		assert_int_equal(bed.safe, 1);
		memcpy(bed.journal, journal, sizeof(journal));
		memcpy(bed.base.bytes, base, SIZE);
		assert_int_equal(recover(ids, &epoch, &e), 0);
		assert_true(all(bed.base.bytes, 0, 4096, 1));
		assert_true(all(bed.base.bytes, 30000, 777, empty ? 0xff : 3));
	}
	assert_true(steps > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(second_life, setup, teardown),
		cmocka_unit_test_setup_teardown(other_disks, setup, teardown),
		cmocka_unit_test_setup_teardown(trims, setup, teardown),
		cmocka_unit_test_setup_teardown(own_trims, setup, teardown),
		cmocka_unit_test_setup_teardown(differs, setup, teardown),
		cmocka_unit_test_setup_teardown(safe_when_promoted, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
