/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_RING_INTERNAL_H
#define CORE_RING_INTERNAL_H

#include "core/ft_state.h"
#include "core/ring.h"

/* Internal to ring.c and ring_io.c. Steps and actions are numbered since the ring began; n is at n % size. */

enum { RING_ACTS_PER_STEP = 4 };

struct ring_rec {
	nstime at;
	struct ft_ev ev;
	enum ft_state state;	/* after the step */
	uint64_t act;		/* number of its first action */
	uint32_t n_acts;
};

struct ring_shot {
	uint64_t step;		/* the machine as it was before this step */
	uint64_t act;
	struct ft ft;
};

struct ring {
	uint32_t steps, acts;	/* sizes */
	uint64_t first, next;	/* steps that are there */
	uint64_t next_act;
	unsigned int n_shots;
	struct ring_shot shot[2];	/* older one first */
	struct ring_rec *rec;
	struct ft_act *act;
};

static inline struct ring_rec *ring_rec(const struct ring *r, uint64_t n)
{
	return &r->rec[n % r->steps];
}

static inline struct ft_act *ring_act(const struct ring *r, uint64_t n)
{
	return &r->act[n % r->acts];
}

/* ring_put() - append a step; the oldest make room */
void ring_put(struct ring *r, nstime at, const struct ft_ev *ev, enum ft_state state, const struct ft_acts *acts);

#endif
