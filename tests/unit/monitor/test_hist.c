/* SPDX-License-Identifier: BSD-2-Clause */
/* The histogram against the exact answer: sorted values. A failing seed is printed; argv[1] replays it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "monitor/hist.h"

#define N 5000

static uint64_t seed, rnd_state;

static uint64_t rnd(void)
{
	rnd_state ^= rnd_state << 13;
	rnd_state ^= rnd_state >> 7;
	rnd_state ^= rnd_state << 17;
	return rnd_state;
}

static int cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void check(const struct hist *h, uint64_t *v, size_t n)
{
	static const unsigned int q[] = { 0, 1, 10, 250, 500, 900, 990, 999, 1000 };

	qsort(v, n, sizeof(*v), cmp);
	for (size_t i = 0; i < sizeof(q) / sizeof(*q); i++) {
		size_t rank = (n * q[i] + 999) / 1000;
		uint64_t want = v[rank ? rank - 1 : 0], got = hist_quantile(h, q[i]);
		uint64_t off = got > want ? got - want : want - got;

		if (want < HIST_SUB ? off != 0 : off > want / 100) {
			print_error("seed %llu: quantile %u of %zu is %llu, want %llu\n", (unsigned long long)seed,
				q[i], n,
				    (unsigned long long)got, (unsigned long long)want);
			fail();
		}
	}
}

static void empty_is_zero(void **state)
{
	static struct hist h;
	struct hist_summary s;

	hist_reset(&h);
	hist_summary(&h, &s);
	assert_int_equal(s.n + s.last + s.min + s.p50 + s.p99 + s.max, 0);
	assert_int_equal(hist_quantile(&h, 1000), 0);
}

static void one_value_is_exact(void **state)
{
	static const uint64_t v[] = { 0, 1, 63, 64, 65, 127, 128, 129, 3141592653ull, 1ull << 63, UINT64_MAX - 1,
		UINT64_MAX };
	static struct hist h;

	for (size_t i = 0; i < sizeof(v) / sizeof(*v); i++) {
		hist_reset(&h);
		hist_add(&h, v[i]);
		assert_true(hist_quantile(&h, 0) == v[i]);
		assert_true(hist_quantile(&h, 500) == v[i]);
		assert_true(hist_quantile(&h, 5000) == v[i]);
	}
}

static void random_values(void **state)
{
	static struct hist h;
	static uint64_t v[N];

	for (int round = 0; round < 60; round++) {
		size_t n = 1 + rnd() % N;
		unsigned int shift = (unsigned int)(rnd() % 64);

		hist_reset(&h);
		for (size_t i = 0; i < n; i++) {
			v[i] = rnd() >> (shift + rnd() % (64 - shift));
			hist_add(&h, v[i]);
		}
		assert_int_equal(h.n, n);
		assert_true(h.last == v[n - 1]);
		check(&h, v, n);
		assert_true(h.min == v[0] && h.max == v[n - 1]);
	}
}

/* Each bucket's edges: the value before a power of two and the one at it must not be mixed up. */
static void edges(void **state)
{
	static struct hist h;

	for (unsigned int bit = 0; bit < 64; bit++) {
		uint64_t p = 1ull << bit;
		uint64_t v[3] = { p - 1, p, p | p >> 1 };

		hist_reset(&h);
		for (int i = 0; i < 3; i++)
			hist_add(&h, v[i]);
		check(&h, v, 3);
	}
}

static void summary_of_a_hundred(void **state)
{
	static struct hist h;
	struct hist_summary s;

	hist_reset(&h);
	for (uint64_t i = 100; i >= 1; i--)
		hist_add(&h, i * 1000000);
	hist_summary(&h, &s);
	assert_int_equal(s.n, 100);
	assert_int_equal(s.last, 1000000);
	assert_int_equal(s.min, 1000000);
	assert_int_equal(s.max, 100000000);
	assert_in_range(s.p50, 49500000, 50500000);
	assert_in_range(s.p99, 98010000, 99990000);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty_is_zero),
		cmocka_unit_test(one_value_is_exact),
		cmocka_unit_test(random_values),
		cmocka_unit_test(edges),
		cmocka_unit_test(summary_of_a_hundred),
	};

	seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
	rnd_state = seed * 2654435761u + 88172645463325252ull;
	printf("seed %llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
