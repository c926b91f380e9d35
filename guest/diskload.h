/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUEST_DISKLOAD_H
#define GUEST_DISKLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	DISKLOAD_RATE_MAX = 100000,	/* records a second that may be asked for */
	DISKLOAD_RECORD = 4096,		/* bytes */
	DISKLOAD_JOURNAL = 8,		/* records at the beginning of the area */
	DISKLOAD_DISKS = 2,
	DISKLOAD_BUF = 64 * DISKLOAD_RECORD,
};

/* The least and the most bytes of an area; both are whole records. */
#define DISKLOAD_MIN	(UINT64_C(2) * DISKLOAD_JOURNAL * DISKLOAD_RECORD)
#define DISKLOAD_MAX	(UINT64_C(1) << 30)

/* One load, on one disk or the same on two. All of it belongs to one thread. */
struct diskload {
	int fd[DISKLOAD_DISKS];		/* open past the page cache */
	unsigned int disks;		/* 0: there was no load yet */
	void *buf;			/* DISKLOAD_BUF bytes on a record boundary; between calls it is free */
	uint64_t off, seed, factor, inverse;
	uint32_t blocks;		/* data records in the area, behind the journal */
	uint32_t rate;			/* records a second; 0: it stands */
	uint64_t written;		/* records that the disks have said to have */
	uint64_t flushed;		/* of these: before the last flush, and in the journal */
	uint64_t entries;		/* of the journal */
	uint64_t failed_at;		/* the record that an error came at */
	int error;			/* errno of it; 0: none */
	int64_t next_ns;		/* of the next turn, on the monotonic clock */
	uint64_t credit;		/* what the pace has left over, in records x nanoseconds */
};

/**
 * diskload_begin() - fills an area for the first time, durably.
 * @l:     its @fd, @disks and @buf are set, and nothing else
 * @off:   first byte of the area
 * @len:   bytes of the area
 * @seed:  of everything that is written
 * @rate:  records a second
 *
 * Return: 0 or -errno.
 */
int diskload_begin(struct diskload *l, uint64_t off, uint64_t len, uint64_t seed, uint32_t rate);

/**
 * diskload_turn() - writes the records that are due, flushes, and writes into the journal that they are flushed.
 * @l:   the load
 * @now: the monotonic clock in nanoseconds
 *
 * Return: nanoseconds until the next turn, or -1 when the load stands.
 */
int64_t diskload_turn(struct diskload *l, int64_t now);

/**
 * diskload_verify() - reads the area and compares each record with what must be there.
 * @l:    the load; not in the middle of a turn
 * @text: filled in: "ok", or what is wrong
 * @size: bytes at @text
 *
 * Return: 0, or -errno when it cannot be read.
 */
int diskload_verify(const struct diskload *l, char *text, size_t size);

#endif
