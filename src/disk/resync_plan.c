/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a resync has to do, decided by the source: theory of operation
 *
 * Whether: by the lineages. The serving node's copy must be the newer one, or the same, or the other must be new; else it is
 * refused with a sentence, unless the joining node was started with --discard-disks.
 *
 * How much. Where a copy may differ from what the two had in common when they parted is known of each (meta.c): after a
 * clean end, and while the process lives, by the dirty bitmap; when it was killed, by the regions of its write-intent map; if
 * somebody else has touched the image the map names the whole disk. So it is enough to send what is dirty at the source and
 * to compare what the maps of both name, and what is dirty at the target; provided that the target's copy is of the
 * generation at which the two parted, and not one that was put back from a backup: then everything is compared.
 *
 * The target of an unfinished resync is no such copy. What it lacks is known as long as the dirty bitmap lives in which that
 * resync has put it, over clean ends too: what was confirmed has been cleared, all else is dirty (LINEAGE_MAP_LEFT). Nobody
 * knows any more what of it was to be sent and what to be compared, so it is compared. Without the bitmap everything is.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "disk/resync_internal.h"

uint64_t rsy_region(uint64_t size)
{
	uint64_t r = RSY_PIECE;

	while ((size + r - 1) / r > RSY_REGIONS)
		r *= 2;
	return r;
}

bool rsy_refused(unsigned int disk, enum lineage_verdict v, const struct lineage *ours, const struct lineage *theirs,
		 char sentence[RSY_SENTENCE + 1])
{
	uint64_t common = lineage_common(ours, theirs);
	char since[64];

	snprintf(since, sizeof(since), common ? "generation %" PRIu64 : "a generation too long ago to be known", common);
	switch (v) {
	case LINEAGE_SAME:
	case LINEAGE_OURS:
	case LINEAGE_FIRST:
	case LINEAGE_FIRST_BOTH:
		return false;
	case LINEAGE_THEIRS:
		snprintf(sentence, RSY_SENTENCE + 1, "disk %u: the joining node's copy is the newer one (generation %" PRIu64
			 "; the serving node's is of generation %" PRIu64 " and lacks what was written since): stop the serving "
			 "node and start the other one in its place; or, to lose what only the joining node has, start that "
			 "one with `lockstep run --discard-disks`", disk, theirs->current.number, ours->current.number);
		return true;
	case LINEAGE_FIRST_THEIRS:
		snprintf(sentence, RSY_SENTENCE + 1, "disk %u: the joining node's copy has been part of a pair (generation %" PRIu64
			 "), the serving node's never has, so it cannot be the newer one: stop the serving node and start the "
			 "other one in its place; or, to lose what the joining node has, start that one with `lockstep run "
			 "--discard-disks`", disk, theirs->current.number);
		return true;
	case LINEAGE_SPLIT:
		snprintf(sentence, RSY_SENTENCE + 1, "disk %u: split brain: since %s both nodes' copies have been written without "
			 "the other (serving node: generation %" PRIu64 ", joining node: %" PRIu64 "): start the node whose "
			 "changes are to be lost with `lockstep run --discard-disks`", disk, since, ours->current.number,
			 theirs->current.number);
		return true;
	case LINEAGE_FOREIGN:
		snprintf(sentence, RSY_SENTENCE + 1, "disk %u: the two nodes' copies are of different disks: if the right images "
			 "were given, start the node whose data is to be lost with `lockstep run --discard-disks`", disk);
		return true;
	case LINEAGE_BROKEN:
		snprintf(sentence, RSY_SENTENCE + 1, "disk %u: neither node's copy is complete, each was being overwritten when that "
			 "was broken off: put an image back from a backup, and start the other node with `lockstep run "
			 "--discard-disks`", disk);
		return true;
	}
	return false;
}

static bool is_gen(const struct lineage_gen *a, const struct lineage_gen *b)
{
	return a->number == b->number && a->tag == b->tag;
}

int rsy_decide(unsigned int disk, const struct lineage *ours, bool dirty, bool ranges,
	       const struct rsy_hello_disk *theirs, bool discard, enum lineage_verdict *verdict, enum rsy_mode *mode,
	       char sentence[RSY_SENTENCE + 1])
{
	const struct lineage_gen *at = &theirs->lineage.current;
	enum lineage_verdict v = lineage_compare(ours, &theirs->lineage);
	bool refused = rsy_refused(disk, v, ours, &theirs->lineage, sentence);

	*verdict = v;
	*mode = RSY_ALL;
	if (!lineage_may_serve(ours)) {
		snprintf(sentence, RSY_SENTENCE + 1, "disk %u: the serving node's own copy is not complete: it was being "
			 "overwritten when that was broken off, so nothing can be taken from it", disk);
		return -EPERM;
	}
	if (refused)
		return discard ? 0 : -EPERM;
	if (v != LINEAGE_SAME && v != LINEAGE_OURS)
		return 0;
	if (!is_gen(at, &ours->current) && !is_gen(at, lineage_parted(ours)))
		return 0;
	if (theirs->lineage.syncing) {
		if (ours->map & LINEAGE_MAP_LEFT)
			*mode = RSY_RESUME;
		return 0;
	}
	*mode = ranges ? RSY_COMPARE : dirty ? RSY_SEND : RSY_NOTHING;
	return 0;
}
