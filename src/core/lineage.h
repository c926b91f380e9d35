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
	bool syncing;				/* the target of a resync, without a checkpoint since: no state of any time */
	bool alone;				/* current was begun without the peer, and it has been written */
	uint8_t map;				/* enum lineage_map, of the dirty bitmap beside it */
};

/*
 * What is known of the dirty bitmap, and kept with it: whoever loses the bitmap (an end that was not clean) clears it. Of
 * one copy, so lineage_adopt() does not take it over.
 */
enum lineage_map {
	LINEAGE_MAP_LEFT = 1 << 0,	/* it has all that a peer lacks whose resync was not finished */
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
	LINEAGE_BROKEN,		/* both are the target of a resync that was not finished: neither is a state of any time */
};
const char *lineage_verdict_name(enum lineage_verdict v);

/*
 * lineage_compare() - which copy is the newer; with the two exchanged it says the same the other way round
 *
 * A copy that is syncing never counts as newer, whatever its generation says. Where history does not reach back to a
 * common generation the verdict is LINEAGE_SPLIT.
 */
enum lineage_verdict lineage_compare(const struct lineage *ours, const struct lineage *theirs);

/* lineage_fresh() - never part of a pair */
bool lineage_fresh(const struct lineage *l);
/* lineage_may_serve() - a VM may run on it */
bool lineage_may_serve(const struct lineage *l);
/*
 * lineage_parted() - the generation that the peer was at when the two parted: the dirty bitmap says what a copy of that
 * generation lacks, and what one of the current lacks that is syncing; nothing of any other
 */
const struct lineage_gen *lineage_parted(const struct lineage *l);
/* lineage_common() - number of the newest generation that both have, 0: none */
uint64_t lineage_common(const struct lineage *a, const struct lineage *b);

/* lineage_begin() - a copy becomes the first of a pair; @disk (not all zero), @tag: random */
void lineage_begin(struct lineage *l, const uint8_t disk[16], uint64_t tag);
/*
 * lineage_next() - this node writes without its peer from now on; to be made durable before the first such write
 *
 * One generation lasts until a peer has been brought up to date (lineage_together()), over any number of restarts, so
 * that the history holds as many partings as it has entries. Return: whether one has begun (and must be saved): false
 * when the node is alone already, and for a copy that is fresh or must not serve
 */
bool lineage_next(struct lineage *l, uint64_t tag);
/*
 * lineage_together() - the peer is about to have all of this copy: what is written when it has gone again is of another
 * generation. To be durable before the peer is told that it is up to date. Return: whether it must be saved
 */
bool lineage_together(struct lineage *l);
/* lineage_adopt() - the peer's chain; @syncing: not all of its data is here yet */
void lineage_adopt(struct lineage *l, const struct lineage *theirs, bool syncing);

/* Fixed form for file and wire. lineage_get() - Return: 0, or -EPROTO where it makes no sense */
#define LINEAGE_LEN	(16 + 16 + LINEAGE_HISTORY * 16 + 8 + 8)
void lineage_put(uint8_t out[LINEAGE_LEN], const struct lineage *l);
int lineage_get(const uint8_t p[LINEAGE_LEN], struct lineage *l);

#endif
