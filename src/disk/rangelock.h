/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_RANGELOCK_H
#define DISK_RANGELOCK_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Ranges of a disk, each held by one at a time, in the order in which they were asked for: a later one never gets past
 * an earlier one that it overlaps, whether that has its range or waits for it. So nobody starves. The list is as long
 * as there are requests under way, which the NBD server limits; asking and leaving walk along it.
 */
struct rangelock_entry {
	uint64_t off, len;
	unsigned int before;	/* private: earlier ones that overlap */
	struct rangelock_entry *prev, *next;
};

struct rangelock {
	struct rangelock_entry *first, *last;
	unsigned int n;
};

/* rangelock_ask() - @e: off and len set; in the list until rangelock_leave(). Return: whether it has its range now */
bool rangelock_ask(struct rangelock *l, struct rangelock_entry *e);

/* rangelock_leave() - give it up; @granted: called for each that has its range now; must not touch the lock */
void rangelock_leave(struct rangelock *l, struct rangelock_entry *e,
		     void (*granted)(void *arg, struct rangelock_entry *e), void *arg);

#endif
