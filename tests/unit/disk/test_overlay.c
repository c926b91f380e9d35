/* SPDX-License-Identifier: BSD-2-Clause */
/* core/overlay: the newest layer that says something has the say; below all is the base. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <cmocka.h>

#include "core/overlay.h"

static struct ext_node nodes[201];
static struct extpool pool;

static void put(struct extmap *m, uint64_t off, uint64_t len, enum ext_kind kind, uint64_t loc)
{
	struct ext e = { .off = off, .len = len, .loc = loc, .kind = kind };

	assert_int_equal(extmap_put(m, &e, NULL, NULL), 0);
}

static void newest_first(void **state)
{
	struct extmap old, mid, new;
	struct overlay o = { 0 };
	struct ext e;
	uint64_t next;

	extpool_init(&pool, nodes, 200, 1);
	extmap_init(&old, &pool);
	extmap_init(&mid, &pool);
	extmap_init(&new, &pool);
	assert_int_equal(overlay_push(&o, &old), 0);
	assert_int_equal(overlay_push(&o, &mid), 0);
	assert_int_equal(overlay_push(&o, &new), 0);
	put(&old, 0, 100, EXT_DATA, 1000);
	put(&mid, 30, 40, EXT_ZERO, 0);
	put(&new, 50, 5, EXT_DATA, 2000);
	assert_true(overlay_at(&o, 3, 200, &e));
	assert_true(e.off == 3 && e.len == 27 && e.kind == EXT_DATA && e.loc == 1003);
	assert_true(overlay_at(&o, 30, 200, &e));
	assert_true(e.len == 20 && e.kind == EXT_ZERO);
	assert_true(overlay_at(&o, 51, 53, &e));
	assert_true(e.len == 2 && e.kind == EXT_DATA && e.loc == 2001);
	assert_true(overlay_at(&o, 55, 200, &e));
	assert_true(e.len == 15 && e.kind == EXT_ZERO);
	assert_true(overlay_at(&o, 70, 200, &e));
	assert_true(e.len == 30 && e.loc == 1070);
	assert_false(overlay_at(&o, 100, 200, &e));
	assert_true(e.off == 100 && e.len == 100);
	assert_true(overlay_covers(&o, 99, 5));
	assert_false(overlay_covers(&o, 100, 5));
	put(&mid, 150, 10, EXT_TRIM, 0);
	assert_false(overlay_at(&o, 100, 200, &e));
	assert_int_equal(e.len, 50);
	assert_true(overlay_next(&o, 100, 200, &next));
	assert_int_equal(next, 150);
	assert_false(overlay_next(&o, 100, 150, &next));
	assert_true(overlay_next(&o, 20, 200, &next));
	assert_int_equal(next, 20);
	overlay_drop(&o, &mid);
	assert_true(overlay_at(&o, 30, 200, &e));
	assert_true(e.len == 20 && e.loc == 1030);
	overlay_drop(&o, &mid);
	assert_int_equal(o.n, 2);
	while (!overlay_push(&o, &mid))
		;
	assert_int_equal(o.n, OVERLAY_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(newest_first) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
