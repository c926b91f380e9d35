/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_MEMLIMIT_H
#define ENGINE_MEMLIMIT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "engine/svmmem.h"

#define MEMLIMIT_SHARE	8	/* private and staged pages by default: this part of the guest's memory each */

/*
 * What the SVM may write between two checkpoints, since each page that it has written is memory of its own; and how many
 * pages of a checkpoint to come may wait. One thread, that of @loop.
 */
struct memlimit;

struct memlimit_cfg {
	uint64_t private_pages;		/* limit; at twice as many the SVM may write no more */
	uint64_t staged_pages;		/* limit */
};

struct memlimit_stats {
	uint64_t private_pages;		/* at the last look */
	uint64_t asked_private, asked_staged;	/* how often a checkpoint was asked for */
	uint64_t full;			/* how often the SVM had twice its limit */
	uint64_t looks, scans;		/* cheap looks, and page by page */
};

enum memlimit_what { MEMLIMIT_PRIVATE, MEMLIMIT_STAGED, MEMLIMIT_FULL };

/* memlimit_new() - @fn is called with what has come to its limit, again after a second if nothing was done about it */
struct memlimit *memlimit_new(struct loop *loop, const struct memlimit_cfg *cfg,
			      void (*fn)(void *arg, enum memlimit_what what), void *arg, struct err *e);
void memlimit_free(struct memlimit *m);

/*
 * memlimit_begin() - the SVM is about to run, and has no pages of its own now
 * @svm: borrowed until memlimit_end()
 * @status: /proc/self/status of QEMU, opened by itself; need not stay open
 */
void memlimit_begin(struct memlimit *m, struct svmmem *svm, int status);

/* memlimit_end() - it is stopped or gone */
void memlimit_end(struct memlimit *m);

/* memlimit_staged() - so many pages with content are staged now */
void memlimit_staged(struct memlimit *m, uint64_t pages);

/* memlimit_stats() - any thread */
void memlimit_stats(const struct memlimit *m, struct memlimit_stats *out);

/* memlimit_anon() - pages of a process's own, in memory or swapped out, from an open /proc/self/status of its; -1: unknown */
int64_t memlimit_anon(int status_fd);

#endif
