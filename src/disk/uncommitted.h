/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_UNCOMMITTED_H
#define DISK_UNCOMMITTED_H

#include <stdbool.h>
#include <stdint.h>

#include "disk/bitmap.h"
#include "disk/meta.h"

/*
 * Private to serve.c: which blocks were written in the epochs that the peer has not confirmed. An epoch has a number of
 * the checkpoint, which begins anew with each peer, and one of its own (seq), which only grows.
 */
#define UNCOMMITTED_MAX	8u	/* closed epochs; of more the two oldest become one, confirmed by the later */

struct uncommitted {
	unsigned int disks;
	struct meta *const *metas;
	struct uncommitted_epoch {
		uint64_t n, seq;
		struct bitmap *map;	/* of each disk */
	} epoch[UNCOMMITTED_MAX + 1];	/* the oldest first */
	unsigned int closed;		/* the one behind them is the current one */
};

int uncommitted_init(struct uncommitted *u, struct meta *const *metas, const uint64_t *sizes, unsigned int disks);
void uncommitted_fini(struct uncommitted *u);

/* uncommitted_seq() - of the current epoch */
static inline uint64_t uncommitted_seq(const struct uncommitted *u)
{
	return u->epoch[u->closed].seq;
}

void uncommitted_mark(struct uncommitted *u, unsigned int disk, uint64_t off, uint64_t len);
/* uncommitted_bytes() - in the current epoch; @all: in all of them */
uint64_t uncommitted_bytes(const struct uncommitted *u, bool all);
/* uncommitted_close() - the current epoch was checkpoint @n's */
void uncommitted_close(struct uncommitted *u, uint64_t n);
/* uncommitted_drop() - the peer has @n. Return: seq of the last epoch that was dropped, 0: none */
uint64_t uncommitted_drop(struct uncommitted *u, uint64_t n);
/* uncommitted_give_up() - all of it becomes dirty; a new epoch begins. Return: whether there was anything */
bool uncommitted_give_up(struct uncommitted *u);

#endif
