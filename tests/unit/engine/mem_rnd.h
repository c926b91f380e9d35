/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MEM_RND_H
#define MEM_RND_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

/* Random numbers of the memory tests: the seed is printed, and LOCKSTEP_SEED=n runs the same again. */
static uint64_t rnd_state;

static inline uint64_t rnd(void)
{
	uint64_t z = rnd_state += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

static inline void rnd_seed(void)
{
	const char *s = getenv("LOCKSTEP_SEED");

	rnd_state = s ? strtoull(s, NULL, 0) : (uint64_t)time(NULL);
	printf("seed: LOCKSTEP_SEED=%llu\n", (unsigned long long)rnd_state);
}

#endif
