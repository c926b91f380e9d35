/* SPDX-License-Identifier: BSD-2-Clause */
/* core/extmap against an array that says the same byte by byte; LOCKSTEP_SEED=N repeats a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <errno.h>
#include <cmocka.h>

#include "core/extmap.h"

enum { SIZE = 700, NODES = 60 };

static struct ext_node nodes[NODES + 1];
static struct extpool pool;
static uint64_t rng;

static uint32_t rnd(uint32_t n)
{
	rng = rng * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(rng >> 33) % n;
}

struct byte {
	uint64_t loc;
	enum ext_kind kind;
};

static uint64_t freed_sum;

static void freed(void *arg, uint64_t loc, uint64_t len)
{
	freed_sum += len;
}

static int count_one(void *arg, const struct ext *e)
{
	struct ext *last = arg;

	assert_true(e->len > 0);
	assert_true(e->off >= last->off + last->len);
	/* What continues the one before must be one with it. */
	if (last->len && e->off == last->off + last->len && e->kind == last->kind)
		assert_true(e->kind == EXT_DATA && e->loc != last->loc + last->len);
	*last = *e;
	return 0;
}

static void check(const struct extmap *m, const struct byte *model)
{
	struct ext last = { 0 }, e;
	uint64_t off = 0;

	extmap_walk(m, count_one, &last);
	while (off < SIZE) {
		bool in = extmap_at(m, off, SIZE, &e);

		assert_true(e.off == off && e.len > 0 && off + e.len <= SIZE);
		for (uint64_t i = 0; i < e.len; i++) {
			const struct byte *b = &model[off + i];

			assert_int_equal(in ? e.kind : 0, b->kind);
			if (in && e.kind == EXT_DATA)
				assert_int_equal(e.loc + i, b->loc);
		}
		off += e.len;
	}
}

static void against_array(void **state)
{
	static struct byte model[2][SIZE];
	struct extmap m[2];
	uint64_t loc = 1;

	extpool_init(&pool, nodes, NODES, 7);
	extmap_init(&m[0], &pool);
	extmap_init(&m[1], &pool);
	memset(model, 0, sizeof(model));
	for (int step = 0; step < 60000; step++) {
		unsigned int w = rnd(2);
		uint64_t off = rnd(SIZE - 1), len = 1 + rnd(rnd(2) ? 9 : SIZE - (uint32_t)off), lost = 0;
		unsigned int what = rnd(100);
		struct ext e = { .off = off, .len = off + len > SIZE ? SIZE - off : len, .kind = 1 + rnd(3) };
		int rc;

		if (what == 0) {
			extmap_clear(&m[w]);
			memset(model[w], 0, sizeof(model[w]));
			check(&m[w], model[w]);
			continue;
		}
		/* Now and then what continues the byte before. */
		if (off && model[w][off - 1].kind && rnd(2)) {
			e.kind = model[w][off - 1].kind;
			e.loc = model[w][off - 1].loc + 1;
		} else if (e.kind == EXT_DATA) {
			e.loc = loc;
			loc += e.len + rnd(2);
		}
		if (e.kind != EXT_DATA)
			e.loc = 0;
		for (uint64_t i = 0; i < e.len; i++)
			lost += model[w][off + i].kind == EXT_DATA;
		freed_sum = 0;
		rc = what < 70 ? extmap_put(&m[w], &e, freed, NULL) : extmap_del(&m[w], e.off, e.len, freed, NULL);
		if (rc) {
			assert_int_equal(rc, -ENOSPC);
			assert_true(extpool_left(&pool) < 2);
			check(&m[w], model[w]);
			extmap_clear(&m[w]);
			memset(model[w], 0, sizeof(model[w]));
			continue;
		}
		assert_int_equal(freed_sum, lost);
		for (uint64_t i = 0; i < e.len; i++)
			model[w][off + i] = (struct byte){ what < 70 && e.kind == EXT_DATA ? e.loc + i : 0,
							   what < 70 ? e.kind : 0 };
		check(&m[w], model[w]);
		assert_int_equal(extpool_left(&pool), NODES - m[0].count - m[1].count);
		assert_int_equal(extmap_overlaps(&m[w], off, 1), model[w][off].kind != 0);
	}
}

static unsigned int depth(const struct extpool *p, uint32_t t)
{
	unsigned int l, r;

	if (!t)
		return 0;
	l = depth(p, p->node[t].left);
	r = depth(p, p->node[t].right);
	return 1 + (l > r ? l : r);
}

/* Ascending order is what makes a tree without balance a list. */
static void stays_flat(void **state)
{
	enum { N = 100000 };
	struct ext_node *mem = malloc((N + 1) * sizeof(*mem));
	struct extmap m;

	extpool_init(&pool, mem, N, 3);
	extmap_init(&m, &pool);
	for (uint64_t i = 0; i < N - 2; i++) {
		struct ext e = { .off = i * 3, .len = 2, .loc = i * 7, .kind = EXT_DATA };

		assert_int_equal(extmap_put(&m, &e, NULL, NULL), 0);
	}
	assert_int_equal(m.count, N - 2);
	assert_true(depth(&pool, m.root) < 70);
	extmap_clear(&m);
	assert_int_equal(extpool_left(&pool), N);
	for (uint64_t i = N - 2; i-- > 0;) {
		struct ext e = { .off = i * 3, .len = 2, .kind = EXT_ZERO };

		assert_int_equal(extmap_put(&m, &e, NULL, NULL), 0);
	}
	assert_true(depth(&pool, m.root) < 70);
	free(mem);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(against_array), cmocka_unit_test(stays_flat) };
	const char *s = getenv("LOCKSTEP_SEED");

	rng = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL);
	printf("LOCKSTEP_SEED=%llu\n", (unsigned long long)rng);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
