/* SPDX-License-Identifier: BSD-2-Clause */
/* Page sets against an array of booleans. */
#include "mem_rnd.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "engine/pageset.h"

static void check(const struct pageset *s, const bool *model, uint64_t n)
{
	struct page_run run;
	uint64_t from = 0, count = 0;

	for (uint64_t i = 0; i < n; i++) {
		count += model[i];
		assert_int_equal(pageset_has(s, i), model[i]);
	}
	assert_int_equal(s->count, count);
	/* Runs: in order, full, and as long as can be. */
	for (; pageset_next(s, from, 0, &run); from = run.first + run.count) {
		assert_true(run.count > 0 && run.first >= from && run.first + run.count <= n);
		for (uint64_t i = from; i < run.first; i++)
			assert_false(model[i]);
		for (uint64_t i = 0; i < run.count; i++)
			assert_true(model[run.first + i]);
		assert_true(run.first + run.count == n || !model[run.first + run.count]);
	}
	for (uint64_t i = from; i < n; i++)
		assert_false(model[i]);
}

static void random_ops(void **state)
{
	for (unsigned int round = 0; round < 60; round++) {
		uint64_t n = 1 + rnd() % 700;
		struct pageset s, other;
		bool *model = calloc(n, sizeof(*model)), *second = calloc(n, sizeof(*second));

		assert_int_equal(pageset_init(&s, n), 0);
		assert_int_equal(pageset_init(&other, n), 0);
		for (unsigned int op = 0; op < 60; op++) {
			uint64_t first = rnd() % (n + 10), count = rnd() % (op % 3 ? 5 : n + 10), what = rnd() % 16;

			for (uint64_t i = first; i < n && i < first + count; i++) {
				if (what < 14)
					model[i] = what < 9;
				else if (what == 14)
					second[i] = true;
			}
			if (what < 14)
				(what < 9 ? pageset_add : pageset_del)(&s, first, count);
			else if (what == 14)
				pageset_add(&other, first, count);
			else if (rnd() % 4 == 0) {
				pageset_clear(&s);
				memset(model, 0, n * sizeof(*model));
			} else {
				pageset_or(&s, &other);
				for (uint64_t i = 0; i < n; i++)
					model[i] = model[i] || second[i];
			}
			check(&s, model, n);
		}
		pageset_fini(&s);
		pageset_fini(&other);
		free(model);
		free(second);
	}
}

static void gaps(void **state)
{
	struct pageset s;
	struct page_run run;

	assert_int_equal(pageset_init(&s, 200), 0);
	pageset_add(&s, 10, 2);
	pageset_add(&s, 15, 1);		/* 3 pages between */
	pageset_add(&s, 130, 70);
	assert_true(pageset_next(&s, 0, 2, &run));
	assert_int_equal(run.first, 10);
	assert_int_equal(run.count, 2);
	assert_true(pageset_next(&s, 0, 3, &run));
	assert_int_equal(run.count, 6);
	assert_true(pageset_next(&s, 16, 3, &run));
	assert_int_equal(run.first, 130);
	assert_int_equal(run.count, 70);
	assert_false(pageset_next(&s, 200, 3, &run));
	/* Beyond the end nothing is taken, and nothing overflows. */
	pageset_clear(&s);
	pageset_add(&s, 200, 5);
	pageset_add(&s, UINT64_MAX, UINT64_MAX);
	assert_int_equal(s.count, 0);
	pageset_add(&s, 199, UINT64_MAX);
	assert_int_equal(s.count, 1);
	assert_true(pageset_next(&s, 0, 0, &run));
	assert_int_equal(run.first, 199);
	pageset_fini(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_ops),
		cmocka_unit_test(gaps),
	};

	rnd_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
