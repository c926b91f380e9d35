/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_DISK_STORE_BED_H
#define TESTS_DISK_STORE_BED_H

#include <stdbool.h>
#include <stdint.h>

#include "../link/looper.h"
#include "disk/store.h"

/* A store with a loop of its own, and what it should contain. */
struct bed {
	struct looper loop;
	struct store *store;
	uint64_t size;
	bool trim_zeroes;	/* what was trimmed reads as zeroes */
	uint8_t *shadow;	/* kept by bed_random() and bed_neighbours() */
};

/* bed_open() - @cfg without the loop. Return: false with @e: the store could not be opened */
bool bed_open(struct bed *b, const struct store_cfg *cfg, struct err *e);
/* bed_close() - close the store and end the loop; the shadow is kept */
void bed_close(struct bed *b);
void bed_end(struct bed *b);

/* bed_do() - one request, and wait for it; done and arg are set. bed_call() - the same */
int bed_do(struct bed *b, struct blk_req *r);
int bed_call(struct bed *b, enum blk_op op, uint64_t off, uint64_t len, void *buf, uint32_t flags);
int bed_reserve(struct bed *b, uint64_t off, uint64_t len);

/* bed_random() - @count requests that do not overlap, many at once, of any alignment; reads are compared */
void bed_random(struct bed *b, uint64_t seed, unsigned int count);

/* bed_neighbours() - pieces of the same sectors, written at once, @rounds times */
void bed_neighbours(struct bed *b, unsigned int rounds);

void bed_compare_file(struct bed *b, const char *path);
bool bed_file_has(const char *path, const char *word);
/* bed_seed() - LOCKSTEP_SEED, or a random one; printed */
uint64_t bed_seed(void);

#endif
