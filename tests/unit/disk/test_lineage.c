/* SPDX-License-Identifier: BSD-2-Clause */
/* Which copy is the newer one: each relation, its mirror image, and random lives of two copies against what they hold. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/lineage.h"

static const uint8_t disk_a[16] = { 1, 2, 3 }, disk_b[16] = { 1, 2, 4 };

/* Both ways round, since the two nodes ask the same question. */
static enum lineage_verdict compare(const struct lineage *a, const struct lineage *b)
{
	static const enum lineage_verdict mirror[] = {
		[LINEAGE_SAME] = LINEAGE_SAME, [LINEAGE_OURS] = LINEAGE_THEIRS, [LINEAGE_THEIRS] = LINEAGE_OURS,
		[LINEAGE_SPLIT] = LINEAGE_SPLIT, [LINEAGE_FIRST] = LINEAGE_FIRST_THEIRS,
		[LINEAGE_FIRST_THEIRS] = LINEAGE_FIRST, [LINEAGE_FIRST_BOTH] = LINEAGE_FIRST_BOTH,
		[LINEAGE_FOREIGN] = LINEAGE_FOREIGN, [LINEAGE_BROKEN] = LINEAGE_BROKEN,
	};
	enum lineage_verdict v = lineage_compare(a, b);

	assert_int_equal(lineage_compare(b, a), mirror[v]);
	assert_int_equal(lineage_common(a, b), lineage_common(b, a));
	assert_string_not_equal(lineage_verdict_name(v), "?");
	return v;
}

static void pair_up(struct lineage *a, struct lineage *b)
{
	lineage_begin(a, disk_a, 100);
	lineage_adopt(b, a, false);
}

static void relations(void **state)
{
	struct lineage a = { 0 }, b = { 0 }, c;

	assert_int_equal(compare(&a, &b), LINEAGE_FIRST_BOTH);
	lineage_begin(&a, disk_a, 100);
	assert_int_equal(compare(&a, &b), LINEAGE_FIRST);
	lineage_adopt(&b, &a, false);
	assert_int_equal(compare(&a, &b), LINEAGE_SAME);
	assert_int_equal(lineage_common(&a, &b), 1);

	/* One goes on. */
	assert_true(lineage_next(&a, 101));
	assert_true(a.alone);
	assert_int_equal(compare(&a, &b), LINEAGE_OURS);
	assert_int_equal(lineage_parted(&a)->number, 1);
	assert_int_equal(lineage_common(&a, &b), 1);
	/* It goes on still. */
	assert_false(lineage_next(&a, 102));
	assert_int_equal(a.current.number, 2);
	assert_int_equal(a.current.tag, 101);

	/* The other did, too: the same number, another generation. */
	c = b;
	assert_true(lineage_next(&b, 201));
	assert_int_equal(compare(&a, &b), LINEAGE_SPLIT);
	assert_int_equal(lineage_common(&a, &b), 1);
	/* However often one of them did: a higher number is not newer for that. */
	for (unsigned int i = 0; i < 5; i++) {
		lineage_together(&b);
		assert_true(lineage_next(&b, 202 + i));
	}
	assert_int_equal(compare(&a, &b), LINEAGE_SPLIT);
	assert_int_equal(compare(&b, &c), LINEAGE_OURS);

	/* A person has decided. */
	lineage_adopt(&b, &a, true);
	assert_int_equal(compare(&a, &b), LINEAGE_OURS);
	lineage_together(&a);
	lineage_adopt(&b, &a, false);
	assert_int_equal(compare(&a, &b), LINEAGE_SAME);
	assert_false(b.alone);
	assert_int_equal(compare(&a, &c), LINEAGE_OURS);

	lineage_begin(&c, disk_b, 100);
	assert_int_equal(compare(&a, &c), LINEAGE_FOREIGN);
	assert_int_equal(lineage_common(&a, &c), 0);
}

static void syncing(void **state)
{
	struct lineage a, b, c = { 0 };

	pair_up(&a, &b);
	lineage_next(&a, 101);
	lineage_adopt(&b, &a, true);
	assert_false(lineage_may_serve(&b));
	assert_true(lineage_may_serve(&a));
	/* It has the generation, and not its data. */
	assert_int_equal(compare(&a, &b), LINEAGE_OURS);
	assert_false(lineage_next(&b, 300));
	/* Not even when the other is of an older one: it was put back from a backup, say. */
	a = (struct lineage){ 0 };
	lineage_begin(&a, disk_a, 100);
	assert_int_equal(compare(&a, &b), LINEAGE_OURS);
	/* Or of a split one. */
	lineage_next(&a, 999);
	assert_int_equal(compare(&a, &b), LINEAGE_OURS);
	/* Against a new copy, or another disk, it is what it is. */
	assert_int_equal(compare(&b, &c), LINEAGE_FIRST);
	lineage_begin(&c, disk_b, 1);
	assert_int_equal(compare(&b, &c), LINEAGE_FOREIGN);
	lineage_adopt(&a, &b, true);
	assert_int_equal(compare(&a, &b), LINEAGE_BROKEN);
	lineage_adopt(&a, &b, false);
	assert_true(lineage_may_serve(&a));
}

/* The source has told the peer that it is complete, and is cut off before it knows that it was heard. */
static void cut_off_at_the_end(void **state)
{
	struct lineage a, b;

	pair_up(&a, &b);
	lineage_next(&a, 101);
	lineage_adopt(&b, &a, true);
	assert_true(lineage_together(&a));
	assert_false(lineage_together(&a));
	lineage_adopt(&b, &a, false);
	assert_int_equal(compare(&a, &b), LINEAGE_SAME);
	/* Both write now: that must be seen. */
	assert_true(lineage_next(&a, 102));
	assert_int_equal(compare(&a, &b), LINEAGE_OURS);
	assert_int_equal(lineage_parted(&a)->tag, 101);
	assert_true(lineage_next(&b, 202));
	assert_int_equal(compare(&a, &b), LINEAGE_SPLIT);
	assert_int_equal(lineage_common(&a, &b), 2);
}

static void long_histories(void **state)
{
	struct lineage a, b;

	pair_up(&a, &b);
	for (unsigned int i = 0; i < LINEAGE_HISTORY; i++) {
		assert_true(lineage_next(&a, 1000 + i));
		lineage_together(&a);
		assert_int_equal(compare(&a, &b), LINEAGE_OURS);
	}
	assert_int_equal(a.current.number, LINEAGE_HISTORY + 1);
	assert_int_equal(a.history[LINEAGE_HISTORY - 1].tag, 100);
	/* What is too long ago counts as none. */
	assert_true(lineage_next(&a, 2000));
	assert_int_equal(compare(&a, &b), LINEAGE_SPLIT);
	assert_int_equal(lineage_common(&a, &b), 0);
}

static void fixed_form(void **state)
{
	uint8_t p[LINEAGE_LEN], q[LINEAGE_LEN];
	struct lineage a, b, l;

	memset(&a, 0, sizeof(a));
	lineage_put(p, &a);
	assert_int_equal(lineage_get(p, &l), 0);
	assert_true(lineage_fresh(&l));
	pair_up(&a, &b);
	for (unsigned int i = 0; i < 40; i++) {
		lineage_next(&a, 7 + i);
		if (i < 39)
			lineage_together(&a);
		a.epoch = i;
		a.map = i % 3 ? 0 : LINEAGE_MAP_LEFT;
		lineage_adopt(&b, &a, i % 2);
		assert_int_equal(b.map, 0);
		lineage_put(p, &a);
		assert_int_equal(lineage_get(p, &l), 0);
		assert_memory_equal(&l, &a, sizeof(l));
		lineage_put(q, &l);
		assert_memory_equal(p, q, sizeof(p));
		lineage_put(p, &b);
		assert_int_equal(lineage_get(p, &l), 0);
		assert_memory_equal(&l, &b, sizeof(l));
	}

	/* What makes no sense. */
	lineage_put(p, &a);
	memcpy(q, p, sizeof(q));
	q[LINEAGE_LEN - 2] = 1;			/* an unknown flag */
	assert_int_equal(lineage_get(q, &l), -EPROTO);
	memcpy(q, p, sizeof(q));
	q[LINEAGE_LEN - 1] = 3;			/* syncing and alone */
	assert_int_equal(lineage_get(q, &l), -EPROTO);
	memcpy(q, p, sizeof(q));
	memset(q, 0, 16);			/* of no disk */
	assert_int_equal(lineage_get(q, &l), -EPROTO);
	memcpy(q, p, sizeof(q));
	memcpy(q + 32, q + 16, 16);		/* twice the same */
	assert_int_equal(lineage_get(q, &l), -EPROTO);
	memcpy(q, p, sizeof(q));
	memset(q + 32, 0, 16);			/* a gap */
	assert_int_equal(lineage_get(q, &l), -EPROTO);
	memcpy(q, p, sizeof(q));
	memset(q + 16, 0xff, 8);		/* none could follow */
	assert_int_equal(lineage_get(q, &l), -EPROTO);
	memset(q, 0, sizeof(q));
	q[16 + 16 + 3] = 1;			/* a history without a present */
	assert_int_equal(lineage_get(q, &l), -EPROTO);
}

/*
 * Two copies live: each write is a bit that the writer's copy has, each resync gives one all that the other has. The
 * verdict must be what the sets say. A crash loses what was not saved: the lineages are saved where the callers do.
 */
#define MAX_WRITES 4000

struct copy {
	uint8_t has[MAX_WRITES];
	struct lineage l;
};

static bool holds(const struct copy *a, const struct copy *b)
{
	for (unsigned int i = 0; i < MAX_WRITES; i++)
		if (b->has[i] && !a->has[i])
			return false;
	return true;
}

static void life(unsigned int seed, unsigned int *seen)
{
	static struct copy c[2];
	unsigned int n = 0, rnd = seed;
	uint64_t tag = 1;

	memset(c, 0, sizeof(c));
	lineage_begin(&c[0].l, disk_a, tag++);
	lineage_adopt(&c[1].l, &c[0].l, false);
	for (unsigned int step = 0; step < 25; step++) {
		unsigned int w = rand_r(&rnd) % 2;
		struct copy *a = &c[w], *b = &c[!w];
		enum lineage_verdict v;

		switch (rand_r(&rnd) % 4) {
		case 0: case 1:	/* one writes alone, a few times */
			if (!lineage_may_serve(&a->l))
				break;
			lineage_next(&a->l, tag++);
			for (unsigned int i = rand_r(&rnd) % 3 + 1; i && n < MAX_WRITES; i--)
				a->has[n++] = 1;
			break;
		case 2:		/* a resync to its end; the source may not hear of it */
			if (!lineage_may_serve(&a->l))
				break;
			v = lineage_compare(&a->l, &b->l);
			if (v != LINEAGE_OURS && v != LINEAGE_SAME && rand_r(&rnd) % 4)
				break;	/* refused; else a person has decided */
			lineage_together(&a->l);
			lineage_adopt(&b->l, &a->l, false);
			memcpy(b->has, a->has, sizeof(b->has));
			break;
		case 3:		/* one that is broken off in the middle */
			if (!lineage_may_serve(&a->l) || lineage_compare(&a->l, &b->l) != LINEAGE_OURS)
				break;
			lineage_adopt(&b->l, &a->l, true);
			for (unsigned int i = 0; i < n; i++)
				if (rand_r(&rnd) % 2)
					b->has[i] = a->has[i];
			if (rand_r(&rnd) % 4 == 0)
				lineage_together(&a->l);
			break;
		}
		v = compare(&c[0].l, &c[1].l);
		seen[v]++;
		if (c[0].l.syncing || c[1].l.syncing)
			assert_int_equal(v, c[0].l.syncing ? LINEAGE_THEIRS : LINEAGE_OURS);
		else if (v == LINEAGE_SAME)
			assert_memory_equal(c[0].has, c[1].has, MAX_WRITES);
		else if (v == LINEAGE_OURS)
			assert_true(holds(&c[0], &c[1]) && !holds(&c[1], &c[0]));
		else if (v == LINEAGE_THEIRS)
			assert_true(holds(&c[1], &c[0]) && !holds(&c[0], &c[1]));
		else
			assert_true(v == LINEAGE_SPLIT && !holds(&c[0], &c[1]) && !holds(&c[1], &c[0]));
	}
}

static void lives(void **state)
{
	const char *env = getenv("LOCKSTEP_SEED");
	unsigned int seed = env ? (unsigned int)strtoul(env, NULL, 0) : (unsigned int)time(NULL), seen[16] = { 0 };

	printf("seed %u\n", seed);
	for (unsigned int i = 0; i < 400; i++)
		life(seed + i, seen);
	assert_true(seen[LINEAGE_SAME] && seen[LINEAGE_OURS] && seen[LINEAGE_THEIRS] && seen[LINEAGE_SPLIT]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(relations), cmocka_unit_test(syncing), cmocka_unit_test(cut_off_at_the_end),
		cmocka_unit_test(long_histories), cmocka_unit_test(fixed_form), cmocka_unit_test(lives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
