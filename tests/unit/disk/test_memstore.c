/* SPDX-License-Identifier: BSD-2-Clause */
/* The disk that the other tests crash: what it promises, and that it is as hostile as it says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "memstore.h"

#define SIZE	(64u * MEMSTORE_SECTOR)
#define ROUNDS	400u

struct call {
	struct blk_req r;
	int rc, calls;
};

static void done(struct blk_req *r, int rc)
{
	struct call *c = r->arg;

	c->rc = rc;
	c->calls++;
}

static void start(struct memstore *m, struct call *c, enum blk_op op, uint64_t off, uint64_t len, void *buf, uint32_t flags)
{
	*c = (struct call){ .r = { .op = op, .off = off, .len = len, .buf = buf, .flags = flags, .done = done } };
	c->r.arg = c;
	blk_submit(memstore_blk(m), &c->r);
}

static int sync_call(struct memstore *m, enum blk_op op, uint64_t off, uint64_t len, void *buf, uint32_t flags)
{
	struct call c;

	start(m, &c, op, off, len, buf, flags);
	memstore_settle(m);
	assert_int_equal(c.calls, 1);
	return c.rc;
}

static void waits_and_reads_back(void **state)
{
	struct memstore *m = memstore_new(SIZE, 1);
	uint8_t a[700], b[700];
	struct call c;

	memset(a, 7, sizeof(a));
	start(m, &c, BLK_WRITE, 300, sizeof(a), a, 0);
	assert_int_equal(c.calls, 0);
	assert_int_equal(memstore_pending(m), 1);
	assert_true(memstore_step(m));
	assert_int_equal(c.calls, 1);
	assert_int_equal(c.rc, 0);
	assert_false(memstore_step(m));
	assert_int_equal(sync_call(m, BLK_READ, 300, sizeof(b), b, 0), 0);
	assert_memory_equal(a, b, sizeof(a));
	assert_int_equal(memstore_data(m)[299], 0);
	memstore_free(m);
}

static void flushed_survives(void **state)
{
	struct memstore *m = memstore_new(SIZE, 2);
	uint8_t a[SIZE], b[SIZE];
	unsigned int lost = 0, kept = 0, torn = 0;

	memset(a, 1, sizeof(a));
	memset(b, 2, sizeof(b));
	for (unsigned int i = 0; i < ROUNDS; i++) {
		unsigned int n = 0;

		assert_int_equal(sync_call(m, BLK_WRITE, 0, SIZE, a, 0), 0);
		assert_int_equal(sync_call(m, BLK_FLUSH, 0, 0, NULL, 0), 0);
		assert_true(memstore_durable(m, 0, SIZE));
		assert_int_equal(sync_call(m, BLK_WRITE, 512, 2048, b, 0), 0);
		assert_false(memstore_durable(m, 0, SIZE));
		memstore_crash(m);
		assert_memory_equal(memstore_data(m), a, 512);
		assert_memory_equal(memstore_data(m) + 2560, a, SIZE - 2560);
		for (unsigned int s = 1; s < 5; s++) {
			const uint8_t *p = memstore_data(m) + s * 512;

			assert_true(!memcmp(p, a, 512) || !memcmp(p, b, 512));
			n += p[0] == 2;
		}
		lost += n == 0;
		kept += n == 4;
		torn += n && n < 4;
	}
	assert_true(lost && kept && torn);
	memstore_free(m);
}

/* A write that is answered after the flush was submitted is not durable because of it. */
static void flush_covers_what_was_answered(void **state)
{
	struct memstore *m = memstore_new(SIZE, 3);
	uint8_t a[512], b[512];
	unsigned int lost = 0;

	memset(a, 1, sizeof(a));
	memset(b, 2, sizeof(b));
	for (unsigned int i = 0; i < ROUNDS; i++) {
		struct call f, w;

		assert_int_equal(sync_call(m, BLK_WRITE, 0, 512, a, 0), 0);
		start(m, &f, BLK_FLUSH, 0, 0, NULL, 0);
		start(m, &w, BLK_WRITE, 0, 512, b, 0);
		memstore_settle(m);
		memstore_crash(m);
		assert_true(memstore_data(m)[0] == 1 || memstore_data(m)[0] == 2);
		lost += memstore_data(m)[0] == 1;
	}
	assert_true(lost > ROUNDS / 8 && lost < ROUNDS * 7 / 8);
	memstore_free(m);
}

static void fua_survives(void **state)
{
	struct memstore *m = memstore_new(SIZE, 4);
	uint8_t a[512];

	memset(a, 9, sizeof(a));
	for (unsigned int i = 0; i < ROUNDS; i++) {
		assert_int_equal(sync_call(m, BLK_ZERO, 0, SIZE, NULL, BLK_FUA), 0);
		assert_int_equal(sync_call(m, BLK_WRITE, 1024, 512, a, BLK_FUA), 0);
		memstore_crash(m);
		assert_memory_equal(memstore_data(m) + 1024, a, 512);
		assert_int_equal(memstore_data(m)[1023], 0);
		assert_int_equal(memstore_data(m)[1536], 0);
	}
	memstore_free(m);
}

static void killed_keeps_what_was_answered(void **state)
{
	struct memstore *m = memstore_new(SIZE, 5);
	unsigned int happened = 0;
	uint8_t a[512];

	for (unsigned int i = 0; i < ROUNDS; i++) {
		struct call w;

		memset(a, (int)(i % 200 + 1), sizeof(a));
		assert_int_equal(sync_call(m, BLK_WRITE, 0, 512, a, 0), 0);
		start(m, &w, BLK_WRITE, 512, 512, a, 0);
		memstore_kill(m);
		assert_int_equal(w.calls, 0);
		assert_int_equal(memstore_pending(m), 0);
		assert_memory_equal(memstore_data(m), a, 512);
		happened += memstore_data(m)[512] == a[0];
	}
	assert_true(happened > ROUNDS / 8 && happened < ROUNDS * 7 / 8);
	memstore_free(m);
}

static void fails_when_told(void **state)
{
	struct memstore *m = memstore_new(SIZE, 6);
	uint8_t a[512] = { 1 };

	memstore_fail(m, 1u << BLK_WRITE | 1u << BLK_FLUSH, 1024, 512, 1, 2, -ENOSPC);
	assert_int_equal(sync_call(m, BLK_WRITE, 0, 512, a, 0), 0);
	assert_int_equal(sync_call(m, BLK_WRITE, 1024, 512, a, 0), 0);
	assert_int_equal(sync_call(m, BLK_READ, 1024, 512, a, 0), 0);
	assert_int_equal(sync_call(m, BLK_WRITE, 1535, 1, a, 0), -ENOSPC);
	assert_int_equal(sync_call(m, BLK_FLUSH, 0, 0, NULL, 0), -ENOSPC);
	assert_int_equal(sync_call(m, BLK_WRITE, 1024, 512, a, 0), 0);
	assert_int_equal(memstore_failed(m), 2);
	assert_int_equal(memstore_count(m, BLK_WRITE), 4);
	memstore_free(m);
}

static void tells_what_is_zero(void **state)
{
	struct memstore *m = memstore_new(SIZE, 7);
	struct blk_extent ext[2];
	uint8_t a[512] = { 1 };
	struct call c = { .r = { .op = BLK_STATUS, .off = 100, .len = SIZE - 100, .ext = ext, .n_ext = 2, .done = done } };

	c.r.arg = &c;
	assert_int_equal(sync_call(m, BLK_WRITE, 1024, 512, a, 0), 0);
	memstore_auto(m, true);
	blk_submit(memstore_blk(m), &c.r);
	assert_int_equal(c.calls, 1);
	assert_int_equal(c.r.n_ext, 2);
	assert_int_equal(ext[0].len, 924);
	assert_int_equal(ext[0].flags, BLK_HOLE | BLK_ZEROES);
	assert_int_equal(ext[1].len, 512);
	assert_int_equal(ext[1].flags, 0);
	memstore_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(waits_and_reads_back), cmocka_unit_test(flushed_survives),
		cmocka_unit_test(flush_covers_what_was_answered), cmocka_unit_test(fua_survives),
		cmocka_unit_test(killed_keeps_what_was_answered), cmocka_unit_test(fails_when_told),
		cmocka_unit_test(tells_what_is_zero),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
