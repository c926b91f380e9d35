/* SPDX-License-Identifier: BSD-2-Clause */
/* The ring: what was written down can be read, written out, read in, and run again; bad bytes are refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/siphash.h"
#include "core/ring_internal.h"
#include "ft_sim.h"

static struct sim sim;

/* A life of a pair with a failover in the end, in rings of @steps. */
static void live(uint64_t seed, uint32_t steps, nstime how_long)
{
	sim_start(&sim, seed);
	for (int i = 0; i < 2; i++) {
		sim.n[i].ring = ring_new(steps);
		assert_non_null(sim.n[i].ring);
	}
	sim_run(&sim, how_long);
	sim_kill(&sim, 0);
	sim_run(&sim, sim.now + NS_PER_S);
	assert_string_equal(sim.bad, "");
	assert_int_equal(sim.n[1].ft.state, FT_ALONE);
}

static void over(void)
{
	for (int i = 0; i < 2; i++)
		ring_free(sim.n[i].ring);
}

static void replays(void **state)
{
	static const uint32_t sizes[] = { 16, 17, 64, 100, 1000, RING_STEPS };

	for (uint64_t seed = 1; seed <= 10; seed++)
		for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
			live(seed, sizes[k], (1 + seed) * NS_PER_S);
			for (int i = 0; i < 2; i++) {
				const struct ring *r = sim.n[i].ring;
				struct ring_diff d;

				assert_int_equal(ring_replay(r, &d), 0);
				assert_true(d.replayed > 0);
				assert_true(ring_count(r) <= sizes[k]);
				if (ring_total(r) <= sizes[k] / 2)
					assert_int_equal(d.replayed, ring_total(r));
				/* At least nearly half of a full ring, or of its actions. */
				else if (sizes[k] >= 1000)
					assert_true(d.replayed >= sizes[k] / 2 - 1);
			}
			over();
		}
}

/* A field that is added to struct ft belongs into io_ft() of ring_io.c too, and RING_VERSION goes up; then this number. */
static void no_new_field(void **state)
{
#if defined(__x86_64__)
	assert_int_equal(sizeof(struct ft), 1456);
#endif
}

static void empty(void **state)
{
	struct ring *r = ring_new(16), *again;
	uint8_t buf[512];
	struct ring_diff d;
	long n;

	assert_null(ring_new(15));
	assert_null(ring_new(RING_STEPS_MAX + 1));
	assert_int_equal(ring_replay(r, &d), -ENODATA);
	assert_int_equal(ring_print(r, 0, (char *)buf, sizeof(buf)), -ENOENT);
	n = ring_dump(r, buf, sizeof(buf));
	assert_true(n > 0 && (size_t)n <= ring_dump_size(r));
	again = ring_load(buf, (size_t)n, NULL);
	assert_non_null(again);
	assert_int_equal(ring_count(again), 0);
	ring_free(again);
	ring_free(r);
}

/* What differs is found, at its place. */
static void differs(void **state)
{
	struct ring_diff d;
	struct ring *r;
	uint64_t at;

	live(3, 1000, 3 * NS_PER_S);
	r = sim.n[1].ring;
	at = r->next - 40;
	while (!ring_rec(r, at)->n_acts)
		at++;
	ring_act(r, ring_rec(r, at)->act)->n++;
	assert_int_equal(ring_replay(r, &d), -EILSEQ);
	assert_int_equal(d.index, at - r->first);
	assert_int_equal(d.acts.n, ring_rec(r, at)->n_acts);
	ring_act(r, ring_rec(r, at)->act)->n--;
	assert_int_equal(ring_replay(r, &d), 0);
	ring_rec(r, at)->state = FT_INIT;
	assert_int_equal(ring_replay(r, &d), -EILSEQ);
	assert_int_equal(d.index, at - r->first);
	over();
}

static uint8_t *dump(const struct ring *r, size_t *len)
{
	size_t cap = ring_dump_size(r);
	uint8_t *buf = malloc(cap);
	long n = ring_dump(r, buf, cap);

	assert_true(n > 0);
	*len = (size_t)n;
	for (size_t less = 1; less < 8; less++)
		assert_int_equal(ring_dump(r, buf, (size_t)n - less), -ENOSPC);
	assert_int_equal(ring_dump(r, buf, (size_t)n), n);
	return buf;
}

static void round_trip(void **state)
{
	for (uint64_t seed = 1; seed <= 5; seed++) {
		live(seed, seed & 1 ? 500 : RING_STEPS, 3 * NS_PER_S);
		for (int i = 0; i < 2; i++) {
			const struct ring *r = sim.n[i].ring;
			struct ring_diff d;
			struct ring *again;
			struct err e;
			size_t len;
			uint8_t *buf = dump(r, &len);

			again = ring_load(buf, len, &e);
			assert_non_null(again);
			assert_int_equal(ring_count(again), ring_count(r));
			assert_int_equal(ring_total(again), ring_total(r));
			for (size_t k = 0; k < ring_count(r); k++) {
				char a[512], b[512];

				assert_true(ring_print(r, k, a, sizeof(a)) > 0);
				assert_true(ring_print(again, k, b, sizeof(b)) > 0);
				assert_string_equal(a, b);
			}
			assert_int_equal(ring_replay(again, &d), 0);
			assert_true(d.replayed > 0);
			ring_free(again);
			free(buf);
		}
		over();
	}
}

/* A state that was written out at any moment of a life goes on as the one that was not. */
static void every_moment(void **state)
{
	for (uint64_t seed = 1; seed <= 6; seed++) {
		sim_start(&sim, seed);
		sim.n[0].ring = ring_new(32);
		sim.n[1].ring = ring_new(32);
		for (int k = 0; k < 400 && sim_step(&sim); k++) {
			if (k == 250)
				sim_link_error(&sim);
			for (int i = 0; i < 2; i++) {
				struct ring_diff d;
				struct ring *again;
				struct err e;
				size_t len;
				uint8_t *buf;

				if (!sim.n[i].ring->n_shots)
					continue;
				buf = dump(sim.n[i].ring, &len);
				again = ring_load(buf, len, &e);
				assert_non_null(again);
				assert_int_equal(ring_replay(again, &d), 0);
				ring_free(again);
				free(buf);
			}
		}
		assert_string_equal(sim.bad, "");
		over();
	}
}

static void prints(void **state)
{
	bool promoted = false, down = false;
	char line[512], tiny[20];
	const struct ring *r;

	live(1, 1000, 2 * NS_PER_S);
	r = sim.n[1].ring;
	for (size_t k = 0; k < ring_count(r); k++) {
		int n = ring_print(r, k, line, sizeof(line));

		assert_int_equal(n, strlen(line));
		down = down || strstr(line, "link-down value=1 [");
		promoted = promoted || strstr(line, "announce (link closed)");
		n = ring_print(r, k, tiny, sizeof(tiny));
		assert_int_equal(n, strlen(tiny));
		assert_true(n < (int)sizeof(tiny) && !strncmp(tiny, line, (size_t)n));
	}
	assert_true(down && promoted);
	assert_int_equal(ring_print(r, ring_count(r), line, sizeof(line)), -ENOENT);
	over();
}

/* The sum as ring_io.c makes it, so that what lies behind it is tested too. */
static void seal(uint8_t *buf, size_t len)
{
	static const uint64_t key[2] = { 0x6c6f636b73746570, 0x626c61636b626f78 };
	uint64_t sum = siphash24(key, buf, len - 8);

	for (int i = 0; i < 8; i++)
		buf[len - 8 + (size_t)i] = (uint8_t)(sum >> (56 - 8 * i));
}

static void bad_bytes(void **state)
{
	unsigned int taken = 0;
	uint8_t *buf, *copy;
	struct err e;
	size_t len;

	live(2, 64, 2 * NS_PER_S);
	buf = dump(sim.n[1].ring, &len);
	copy = malloc(len);
	for (size_t n = 0; n < len; n++) {
		/* Of its own size, so that a byte too far is seen. */
		uint8_t *cut = malloc(n + 1);

		memcpy(cut, buf, n);
		assert_null(ring_load(cut, n, &e));
		assert_true(e.code < 0 && e.msg[0]);
		if (n > 14) {
			seal(cut, n);
			assert_null(ring_load(cut, n, &e));
		}
		free(cut);
	}
	for (size_t n = 0; n < len - 8; n++)
		for (int how = 0; how < 3; how++) {
			struct ring_diff d;
			struct ring *r;
			char line[512];

			memcpy(copy, buf, len);
			copy[n] = how == 0 ? 0xff : how == 1 ? copy[n] ^ 1 : (uint8_t)(copy[n] + 1);
			if (!memcmp(copy, buf, len))
				continue;
			assert_null(ring_load(copy, len, &e));
			seal(copy, len);
			r = ring_load(copy, len, &e);
			if (!r)
				continue;
			taken++;
			for (size_t k = 0; k < ring_count(r); k++)
				ring_print(r, k, line, sizeof(line));
			ring_replay(r, &d);
			ring_free(r);
		}
	assert_true(taken > 100);
	free(copy);
	free(buf);
	over();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_new_field), cmocka_unit_test(empty), cmocka_unit_test(replays), cmocka_unit_test(differs),
		cmocka_unit_test(round_trip), cmocka_unit_test(every_moment),
		cmocka_unit_test(prints), cmocka_unit_test(bad_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
