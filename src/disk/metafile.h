/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_METAFILE_H
#define DISK_METAFILE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "core/lineage.h"
#include "disk/bitmap.h"
#include "disk/intent.h"

/* Private to meta.c: the file itself. The layout stands in metafile.c. */
struct metafile {
	char *path;
	int fd;
	pthread_mutex_t lock;	/* what follows, and that one writes at a time */
	bool made;		/* the file has valid headers */
	unsigned int good;	/* the slot with the newest valid header */
	uint64_t seq;		/* of that one */
};

struct metafile_head {
	uint64_t seq;
	uint64_t id;		/* random, of this file */
	uint64_t size, region;	/* bytes */
	uint32_t block;		/* bytes */
	bool clean;
	uint64_t stamp, bitmap_sum;	/* when clean */
	struct lineage lineage;
};

/*
 * metafile_open() - open or make the file, lock it, read the newest header
 * @h: filled if f->made
 *
 * Return: 0; -errno with a sentence in @e
 */
int metafile_open(struct metafile *f, const char *path, struct metafile_head *h, struct err *e);
void metafile_close(struct metafile *f);

/* metafile_read_intent() - into t->want. Return: 0 or -errno; *@broken: how many sectors did not hold */
int metafile_read_intent(struct metafile *f, uint64_t id, struct intent *t, unsigned int *broken, struct err *e);
/* metafile_read_bitmap() - Return: 0; -EILSEQ: it is not the one whose checksum is @sum; -errno with @e */
int metafile_read_bitmap(struct metafile *f, struct bitmap *b, uint64_t sum, struct err *e);

/*
 * metafile_write() - make durable: the bitmap, then sectors of the write-intent map, then the header; NULL: not that
 *
 * Each is durable before the next one begins. A header is not written when one with a higher number has been. Any
 * thread; blocks.
 */
int metafile_write(struct metafile *f, const struct bitmap *bitmap, const struct intent_shot *shot,
		   const struct metafile_head *h, struct err *e);
uint64_t metafile_sum(const struct bitmap *b);

#endif
