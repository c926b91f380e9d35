/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_RING_WHY_H
#define CORE_RING_WHY_H

#include <stdbool.h>

#include "core/ring.h"

/* What the ring says of the last time that a pair broke: the answer to "why did we fail over?". */
struct ring_why {
	bool found;		/* the rest means something */
	size_t first;		/* index of the step that brought the first evidence */
	size_t decided;		/* of the step in which the node left its place in the pair */
	size_t last;		/* of the step that ended it: this node serves, or ends; or the newest one */
	bool over;		/* it has ended */
	enum ft_state was, now;	/* before, and at @last */
	enum ft_reason reason;	/* as the machine announced it; FT_WHY_NONE: it did not */
	nstime beat;		/* when the last heartbeat before @first was reported; 0: none is there */
	nstime noticed;		/* times of the steps above */
	nstime decided_at;
	nstime open_at;		/* output was let out (or what was held was released); 0: not */
	nstime granted_at;	/* the witness has said yes; 0: it has not, or nobody asked */
	nstime ended_at;	/* time of @last */
};

/*
 * ring_why() - look for it
 *
 * Evidence that was taken back does not count: silence that was followed by a heartbeat, a failed step that was followed by
 * a complete checkpoint, anything before the peer was connected again.
 */
void ring_why(const struct ring *r, struct ring_why *w);

/* ring_evidence() - whether a step's event speaks against the peer or this node, and what it is in words; else NULL */
const char *ring_evidence(const struct ring_view *v);

/* ring_quiet() - a step that tells nothing to people: a heartbeat, progress, a tick without consequences */
bool ring_quiet(const struct ring_view *v);

#endif
