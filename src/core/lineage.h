/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_LINEAGE_H
#define CORE_LINEAGE_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Which copy of a disk is the newer one. Pure. A disk has a random id; its life is a chain of generations, each with a
 * number one higher and a random tag. A node begins a generation when it writes without its peer: a lone primary, a
 * promoted secondary, before its first write and durably. A peer that is brought up to date takes over the chain.
 */
#define LINEAGE_HISTORY	32	/* generations that are remembered; an older common one counts as none */

struct lineage_gen {
	uint64_t number;	/* 0: none */
	uint64_t tag;
};

struct lineage {
	uint8_t disk[16];			/* all zero: a copy that has never been part of a pair */
	struct lineage_gen current;
	struct lineage_gen history[LINEAGE_HISTORY];	/* before it, the newest first */
	uint64_t epoch;				/* the last that both nodes had, durable, in this generation */
	bool syncing;				/* the target of a resync that was not finished: no state of any time */
	bool alone;				/* current was begun without the peer, and it has been written */
};

enum lineage_verdict {
	LINEAGE_SAME,		/* equal generation: what both say is dirty is sent from the serving node */
	LINEAGE_OURS,		/* ours is the newer: the peer takes it */
	LINEAGE_THEIRS,		/* theirs is the newer */
	LINEAGE_SPLIT,		/* both have gone on from a common generation: a person must decide */
	LINEAGE_FIRST,		/* theirs has never been part of a pair: everything is compared, ours counts */
	LINEAGE_FIRST_THEIRS,	/* the other way round */
	LINEAGE_FIRST_BOTH,	/* both have never been */
	LINEAGE_FOREIGN,	/* another disk */
};
const char *lineage_verdict_name(enum lineage_verdict v);

enum lineage_verdict lineage_compare(const struct lineage *ours, const struct lineage *theirs);

/* lineage_begin() - a copy becomes the first of a pair; @disk, @tag: random */
void lineage_begin(struct lineage *l, const uint8_t disk[16], uint64_t tag);
/* lineage_next() - this node writes without its peer from now on */
void lineage_next(struct lineage *l, uint64_t tag);
/* lineage_adopt() - the peer's chain; @syncing: not all of its data is here yet */
void lineage_adopt(struct lineage *l, const struct lineage *theirs, bool syncing);

/* Fixed form for file and wire. lineage_get() - Return: 0, or -EPROTO where it makes no sense */
#define LINEAGE_LEN	(16 + 16 + LINEAGE_HISTORY * 16 + 8 + 8)
void lineage_put(uint8_t out[LINEAGE_LEN], const struct lineage *l);
int lineage_get(const uint8_t p[LINEAGE_LEN], struct lineage *l);

#endif
