/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUEST_DIRTY_H
#define GUEST_DIRTY_H

#include <stdint.h>

enum {
	DIRTY_RATE_MAX = 1000000,	/* pages a second that may be asked for */
};

struct dirty_result {
	uint64_t upto;		/* answers every ticket up to this one */
	uint64_t pages;		/* pages looked at: all of the region */
	uint64_t bad;		/* pages that did not hold what was written last */
};

/**
 * dirty_start() - starts the worker thread that owns the dirtied memory.
 *
 * Return: an eventfd that becomes readable when a check has its result, or -errno.
 */
int dirty_start(void);

/**
 * dirty_mb_max() - the largest region that dirty_set() takes.
 *
 * Return: megabytes: half of this machine's memory, so that it is the same in both copies at any time.
 */
uint64_t dirty_mb_max(void);

/**
 * dirty_set() - sets the pace. Takes effect within a tick.
 * @rate: pages a second; 0 stops
 * @mb:   size of the region in MiB; another size than before gives the old region back; 0 keeps it when @rate is 0
 */
void dirty_set(uint32_t rate, uint32_t mb);

/**
 * dirty_check() - asks for all pages of the region to be verified. One pass answers all that asked before it began, so
 * any number may ask.
 *
 * Return: the ticket that a result's @upto is to be compared with.
 */
uint64_t dirty_check(void);

/**
 * dirty_result() - takes the result that the eventfd announced.
 * @r: filled in
 *
 * Return: 0, or -EAGAIN when there is none that was not taken before.
 */
int dirty_result(struct dirty_result *r);

#endif
