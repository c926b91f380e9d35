/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_PRECOPY_H
#define CORE_PRECOPY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"

/*
 * When guest memory is copied between two checkpoints, so that the pause finds little left to do. Pure. Theory in
 * precopy.c.
 */

struct precopy_cfg {
	uint32_t goal;		/* pages that a pause may have to copy */
	nstime min, max;	/* between two rounds, from scan to scan */
	uint32_t share;		/* rounds may take one part in so many of the time */
	bool off;
};

struct precopy {
	nstime interval;	/* from scan to scan */
	nstime scanned_at;	/* when dirty pages were last found out and armed again */
	nstime begun_at, ended_at;	/* of the last round; the end also of a pause */
	nstime took;		/* the last round */
	uint64_t rate;		/* pages a second that become dirty and are not dirty all the time; 0: not known */
	bool on;		/* between LOADED and the next checkpoint */
	bool under_way;
};

/* precopy_init() - nothing is known */
void precopy_init(struct precopy *p, const struct precopy_cfg *cfg);

/* precopy_open() - a checkpoint was LOADED: rounds may begin */
void precopy_open(struct precopy *p, const struct precopy_cfg *cfg, nstime now);

/* precopy_close() - a checkpoint begins: no round may */
void precopy_close(struct precopy *p);

/* precopy_next() - when the next round is due; NS_NEVER: none is */
nstime precopy_next(const struct precopy *p, const struct precopy_cfg *cfg);

/* precopy_worth() - whether a round now would spare the pause more than the goal */
bool precopy_worth(const struct precopy *p, const struct precopy_cfg *cfg, nstime now);

/* precopy_begun() / precopy_cut() - a round begins; nobody waits for it any more */
void precopy_begun(struct precopy *p, nstime now);
void precopy_cut(struct precopy *p);

/* precopy_done() - a round has ended; it found @dirty pages, @hot of which the round before had found too */
void precopy_done(struct precopy *p, const struct precopy_cfg *cfg, nstime now, uint64_t dirty, uint64_t hot);

/* precopy_paused() - a pause has scanned too, at @at, and found @dirty pages, with those that rounds had left to it */
void precopy_paused(struct precopy *p, const struct precopy_cfg *cfg, nstime at, uint64_t dirty);

#endif
