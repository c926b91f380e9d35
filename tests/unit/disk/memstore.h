/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_DISK_MEMSTORE_H
#define TESTS_DISK_MEMSTORE_H

#include <stdbool.h>
#include <stdint.h>

#include "disk/blk.h"

/*
 * A disk in memory that can crash, for tests. Requests wait until the test lets one happen (memstore_step()), in random
 * order; what was written and not flushed is lost, kept or torn at 512 bytes at a crash, each sector for itself. All that
 * is random comes from the seed. One thread, no loop, no clock.
 *
 * It is as hostile as blk.h allows: a flush makes durable what was answered before it was submitted, and nothing else.
 */
struct memstore;

#define MEMSTORE_SECTOR	512u

enum memstore_trim {
	MEMSTORE_TRIM_ZERO,	/* as a raw file */
	MEMSTORE_TRIM_KEEP,	/* nothing happens */
};

/* memstore_new() - @size bytes, a multiple of 512, all zero and durable; never NULL (a test ends without memory) */
struct memstore *memstore_new(uint64_t size, uint64_t seed);

/* memstore_free() - requests that wait are forgotten: done() is not called */
void memstore_free(struct memstore *m);

struct blk *memstore_blk(struct memstore *m);

/* memstore_auto() - on: a request is done inside blk_submit(); off (at first): it waits for memstore_step() */
void memstore_auto(struct memstore *m, bool on);

/* memstore_trim() - what TRIM does; MEMSTORE_TRIM_ZERO at first */
void memstore_trim(struct memstore *m, enum memstore_trim t);

/* memstore_pending() - requests that wait */
unsigned int memstore_pending(const struct memstore *m);

/* memstore_step() - let one waiting request happen, and call its done(). Return: false when none waits */
bool memstore_step(struct memstore *m);

/* memstore_settle() - step until none waits */
void memstore_settle(struct memstore *m);

/*
 * memstore_fail() - requests to come fail
 * @ops: mask of 1u << BLK_WRITE and so on
 * @off, @len: only those that touch this range; a flush always does
 * @skip: so many go well before; @count: then so many fail
 * @rc: -errno they get. A WRITE, ZERO or TRIM that fails has changed each of its sectors or has not; a flush that fails
 * has made nothing durable. A later call replaces this.
 */
void memstore_fail(struct memstore *m, unsigned int ops, uint64_t off, uint64_t len, unsigned int skip,
		   unsigned int count, int rc);

/* memstore_failed() - how many have failed so far */
unsigned int memstore_failed(const struct memstore *m);

/*
 * memstore_crash() - the machine loses its power: waiting requests are forgotten (some of their sectors may have been
 * written), each sector that is not durable becomes one of what it was since it last was. Afterwards all is durable, and
 * the disk can be used again.
 */
void memstore_crash(struct memstore *m);

/* memstore_kill() - only the process dies: as a crash, but what was answered is kept (the kernel has it) */
void memstore_kill(struct memstore *m);

/* memstore_data() - what a read sees now; @size bytes, the store's */
const uint8_t *memstore_data(const struct memstore *m);

/* memstore_durable() - true when each byte of the range survives a crash as it is */
bool memstore_durable(const struct memstore *m, uint64_t off, uint64_t len);

/* memstore_count() - how many requests of a kind happened, those that failed too */
uint64_t memstore_count(const struct memstore *m, enum blk_op op);

#endif
