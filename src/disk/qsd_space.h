/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_QSD_SPACE_H
#define DISK_QSD_SPACE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "disk/blk.h"

/* Whether what is to be written to an image of another format than raw will find room in its file system. Disk loop. */
struct qsd_space {
	struct blk *blk;
	const char *path;
	uint32_t cluster;	/* bytes that an image grows by */
	bool all;		/* also what the file system keeps for root */
	bool endless;		/* no file system: a block device */
	uint64_t guessed, known; /* bytes that were promised and are not written yet: at the most, and looked up */
	uint64_t total;		/* bytes that were ever promised */
	uint64_t free;		/* of the file system, at @free_at */
	nstime free_at;
};

/*
 * qsd_space_reserve() - promise room for [off, off + len)
 * @done: 0; -ENOSPC: there is none; or what asking the image has failed with
 */
void qsd_space_reserve(struct qsd_space *s, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *arg);
/* qsd_space_written() - @len bytes were */
void qsd_space_written(struct qsd_space *s, uint64_t len);
/* qsd_space_flushed() - a flush is done, at whose begin @total was that */
void qsd_space_flushed(struct qsd_space *s, uint64_t total);

/*
 * qsd_space_grain() - of the image at @path, which nobody has open yet
 * Return: the size of its clusters if zeroing one is a mark in its tables; 0: it is not, or nobody can tell
 */
uint32_t qsd_space_grain(const char *path, const char *format);

#endif
