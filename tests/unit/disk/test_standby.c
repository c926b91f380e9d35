/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * disk/standby on a real loop, with the journal's threads and a file: what prop_disk, which has neither, cannot see. The
 * base is memory and answers in another turn of the loop.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "disk/journal.h"
#include "disk/standby.h"

enum { SIZE = 8 << 20, PATIENCE_S = 60 };

struct bed {
	struct loop *loop;
	struct blk base;
	uint8_t *image, *want;
	int fail;		/* writes to the base that fail from now on */
	char path[64];
	struct journal_file file;
	struct standby *s;
	struct loop_timer patience;
	unsigned int step;
	uint64_t committed, wanted;
	unsigned int merged, troubles, open, next;
	struct blk_req r[64];
	uint8_t *buf;
	int rc;
};

static struct bed bed;
static const uint8_t ids[1][16] = { { 9 } };

struct later {
	struct blk_req *r;
	int rc;
};

static void answer(void *arg, const void *data, size_t len)
{
	struct later l;

	memcpy(&l, data, sizeof(l));
	l.r->done(l.r, l.rc);
}

static void base_submit(struct blk *b, struct blk_req *r)
{
	struct later l = { r, 0 };

	if (r->op == BLK_WRITE && bed.fail) {
		bed.fail--;
		l.rc = -EIO;
	} else if (r->op == BLK_READ) {
		memcpy(r->buf, bed.image + r->off, r->len);
	} else if (r->op == BLK_WRITE) {
		memcpy(bed.image + r->off, r->buf, r->len);
	} else if (r->op == BLK_ZERO) {
		memset(bed.image + r->off, 0, r->len);
	}
	loop_post(bed.loop, answer, NULL, &l, sizeof(l));
}

static void step(void);

static void on_want(void *arg)
{
	bed.wanted++;
}

static void on_committed(void *arg, uint64_t n)
{
	bed.committed = n;
	step();
}

static void on_failed(void *arg, int rc, const char *sentence)
{
	fail_msg("%s", sentence);
}

static void on_room(void *arg)
{
	step();
}

static void on_trouble(void *arg, int rc, const char *sentence)
{
	bed.troubles++;
}

static void on_merged(void *arg)
{
	bed.merged++;
	step();
}

static void on_reserved(void *arg, int rc)
{
	bed.rc = rc;
	bed.step++;
	step();
}

static void started(void *arg, const void *data, size_t len)
{
	step();
}

static void on_done(struct blk_req *r, int rc)
{
	assert_int_equal(rc, 0);
	/* Not from inside the submission: the step that makes it may have more to do. */
	if (!--bed.open)
		loop_post(bed.loop, started, NULL, NULL, 0);
}

static void on_quiet(void *arg)
{
	loop_stop(bed.loop);
}

static void too_long(struct loop_timer *t)
{
	fail_msg("nothing happens any more, in step %u", bed.step);
}

static void vm(enum blk_op op, uint64_t off, uint64_t len, uint8_t *buf)
{
	struct blk_req *r = &bed.r[bed.next++ % 64];

	bed.open++;
	*r = (struct blk_req){ .op = op, .off = off, .len = len, .buf = buf, .done = on_done };
	blk_submit(standby_blk(bed.s, 0), r);
}

static void fill(uint8_t *p, size_t len, uint8_t v)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(v + i * 13);
}

static void peer_writes(uint64_t off, uint32_t len, uint8_t v)
{
	fill(bed.want + off, len, v);
	assert_int_equal(standby_write(bed.s, 0, off, len, bed.want + off), 0);
}

/* A life: two epochs, one aborted; own writes that are dropped, own writes that stay; more than memory may take. */
static void step(void)
{
	struct err e;

	if (bed.open)
		return;
	switch (bed.step) {
	case 0:		/* sync mode: straight into the image */
		peer_writes(0, 100000, 1);
		bed.step = 1;
		standby_barrier(bed.s, 1);
		standby_reserve(bed.s, 1, on_reserved, NULL);
		return;
	case 2:
		assert_int_equal(bed.rc, 0);
		assert_memory_equal(bed.image, bed.want, 100000);
		bed.step = 3;
		assert_int_equal(standby_flip(bed.s, 1, &e), 0);
		return;
	case 3:
		if (bed.committed != 1)
			return;
		/* Own writes, which the flip drops; and an epoch that is seen only behind it. */
		bed.step = 4;
		fill(bed.buf, 70000, 77);
		vm(BLK_WRITE, 3, 70000, bed.buf);
		return;
	case 4:
		bed.step = 5;
		vm(BLK_READ, 0, 80000, bed.buf + (1 << 20));
		return;
	case 5:
		assert_memory_equal(bed.buf + (1 << 20), bed.want, 3);
		assert_memory_equal(bed.buf + (1 << 20) + 3, bed.buf, 70000);
		assert_memory_equal(bed.buf + (1 << 20) + 70003, bed.want + 70003, 9997);
		bed.step = 6;
		peer_writes(50000, 300001, 2);
		standby_barrier(bed.s, 2);
		peer_writes(60000, 20000, 3);
		standby_abort(bed.s, 2);
		standby_barrier(bed.s, 3);
		standby_reserve(bed.s, 3, on_reserved, NULL);
		return;
	case 7:
		assert_int_equal(bed.rc, 0);
		bed.step = 8;
		assert_int_equal(standby_flip(bed.s, 3, &e), 0);
		assert_int_equal(standby_flip(bed.s, 3, &e), 0);
		vm(BLK_READ, 0, 400000, bed.buf);
		return;
	case 8:
		if (bed.committed != 3)
			return;
		assert_memory_equal(bed.buf, bed.want, 400000);
		assert_memory_equal(bed.image, bed.want, SIZE);
		/* More than is kept in memory: it goes to the file and is read from there. */
		bed.step = 9;
		for (unsigned int i = 0; i < 48; i++) {
			fill(bed.want + i * 131072 + 7, 131000, (uint8_t)i);
			vm(BLK_WRITE, i * 131072 + 7, 131000, bed.want + i * 131072 + 7);
		}
		return;
	case 9: {
		struct standby_stats st;

		standby_stats(bed.s, &st);
		assert_true(st.spilled_bytes > 0);
		bed.step = 10;
		vm(BLK_READ, 0, SIZE, bed.buf);
		return;
	}
	case 10:
		assert_memory_equal(bed.buf, bed.want, SIZE);
		/* Never reserved: not of this disk. */
		fill(bed.buf, 5000, 200);
		assert_int_equal(standby_write(bed.s, 0, 1 << 20, 5000, bed.buf), 0);
		bed.step = 11;
		bed.fail = 2;
		standby_promote(bed.s);
		fill(bed.want + 200, 999, 42);
		vm(BLK_WRITE, 200, 999, bed.want + 200);
		vm(BLK_FLUSH, 0, 0, NULL);
		return;
	case 11:
		bed.step = 12;
		vm(BLK_READ, 0, SIZE, bed.buf);
		return;
	case 12:
		assert_memory_equal(bed.buf, bed.want, SIZE);
		bed.step = 13;
		/* fall through */
	case 13:
		if (!bed.merged)
			return;
		/* The base has refused twice, and was asked again. */
		assert_true(bed.troubles > 0);
		assert_memory_equal(bed.image, bed.want, SIZE);
		bed.step = 14;
		standby_quiesce(bed.s, on_quiet, NULL);
		return;
	default:
		return;
	}
}

static void whole_life(void **state)
{
	static const struct blk_ops base_ops = { base_submit };
	static const struct standby_ops ops = { .want = on_want, .committed = on_committed, .failed = on_failed,
						.room = on_room, .trouble = on_trouble, .merged = on_merged };
	const struct standby_limits limits = { .memory = 1 << 20, .soft = 64 << 20, .hard = 128 << 20, .extents = 10000,
					       .chunk = 65536 };
	struct standby_disk disk = { .base = &bed.base };
	struct standby_stats st;
	struct blk *bases[1] = { &bed.base };
	struct err e = { 0 };
	uint64_t epoch = 99;
	struct stat sb;

	bed.image = calloc(1, SIZE);
	bed.want = calloc(1, SIZE);
	bed.buf = calloc(1, SIZE);
	bed.base = (struct blk){ .ops = &base_ops, .size = SIZE, .align = 512, .fast_zero = true };
	snprintf(bed.path, sizeof(bed.path), "/tmp/test_standby.%d", (int)getpid());
	unlink(bed.path);
	assert_int_equal(journal_open(&bed.file, bed.path, &e), 0);
	bed.loop = loop_new("disk", &e);
	assert_non_null(bed.loop);
	assert_int_equal(standby_recover(NULL, &bed.file, bases, ids, 1, &epoch, &e), 0);
	assert_int_equal(epoch, 0);
	bed.s = standby_new(bed.loop, &disk, ids, 1, &bed.file, &limits, &ops, &e);
	assert_non_null(bed.s);
	bed.patience = (struct loop_timer){ .fn = too_long };
	loop_timer_set(bed.loop, &bed.patience, clock_ns() + PATIENCE_S * NS_PER_S);
	loop_post(bed.loop, started, NULL, NULL, 0);
	assert_int_equal(loop_run(bed.loop), 0);
	assert_int_equal(bed.step, 14);
	assert_true(bed.merged);
	assert_true(!bed.wanted);
	standby_stats(bed.s, &st);
	assert_int_equal(st.extents, 0);
	assert_int_equal(st.file_bytes, 0);
	standby_free(bed.s);
	/* What is used again is bounded by what was in use at once. */
	assert_int_equal(stat(bed.path, &sb), 0);
	assert_true(sb.st_size < 4 * SIZE);
	assert_int_equal(standby_recover(NULL, &bed.file, bases, ids, 1, &epoch, &e), 0);
	assert_int_equal(epoch, 3);
	journal_close(&bed.file);
	unlink(bed.path);
	loop_free(bed.loop);
	free(bed.image);
	free(bed.want);
	free(bed.buf);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(whole_life) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
