/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_RING_H
#define CORE_RING_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "core/ft.h"

/*
 * The event and action ring of the control machine: what it was given, what it answered, and from which state, so
 * that a failed run can be read, and run again. Theory in ring.c.
 */
struct ring;

enum { RING_STEPS = 10000, RING_STEPS_MIN = 16, RING_STEPS_MAX = 100000 };

/*
 * ring_new() - an empty ring; all of its memory is taken here
 * @steps: how many it holds, RING_STEPS_MIN to RING_STEPS_MAX
 *
 * Return: the ring, or NULL without memory or with @steps out of range
 */
struct ring *ring_new(uint32_t steps);
void ring_free(struct ring *r);

/* ring_step() - ft_step(), written down; the oldest steps are overwritten */
void ring_step(struct ring *r, struct ft *ft, nstime now, const struct ft_ev *ev, struct ft_acts *acts);

/* ring_count() - steps that are there; ring_total() - steps that ever were */
size_t ring_count(const struct ring *r);
uint64_t ring_total(const struct ring *r);

/*
 * ring_print() - one step in words: number, time in seconds, event, state, actions
 * @i:   0 is the oldest that is there
 * @buf: @len bytes; the line is cut when it is too long, always ended by a zero and without a newline
 *
 * Return: length of the line, or -ENOENT
 */
int ring_print(const struct ring *r, size_t i, char *buf, size_t len);

/* One step, to be looked at; borrowed from the ring until the next ring_step(). */
struct ring_view {
	uint64_t n;		/* number of the step since the ring began */
	nstime at;
	const struct ft_ev *ev;
	enum ft_state was, state;	/* before and after it; of the oldest step both are the latter */
	unsigned int n_acts;
	const struct ft_act *act[FT_MAX_ACTS];
};

/* ring_view() - @i: as for ring_print(). Return: whether there is such a step */
bool ring_view(const struct ring *r, size_t i, struct ring_view *v);

/* ring_event_text(), ring_action_text() - a step's event, or its action @k, in words; as ring_print(). Return: length */
int ring_event_text(const struct ring_view *v, char *buf, size_t len);
int ring_action_text(const struct ring_view *v, unsigned int k, char *buf, size_t len);

/* ring_dump_size() - bytes that ring_dump() needs now, or a few more */
size_t ring_dump_size(const struct ring *r);

/*
 * ring_dump() - write the ring to memory
 * @buf: @cap bytes
 *
 * Return: bytes written, or -ENOSPC
 */
long ring_dump(const struct ring *r, void *buf, size_t cap);

/*
 * ring_load() - read what ring_dump() wrote; any bytes may be given
 * @e: says what is wrong with them
 *
 * Return: a ring to print, replay and free, or NULL
 */
struct ring *ring_load(const void *buf, size_t len, struct err *e);

/* Where a replay went another way. */
struct ring_diff {
	size_t replayed;	/* steps that were run again, with the same result */
	size_t index;		/* of the first step that differs, as for ring_print() */
	struct ft_acts acts;	/* what the machine answers to it now */
	enum ft_state state;	/* and where it goes */
};

/*
 * ring_replay() - run the machine again from the oldest state that is kept, and compare
 * @d: filled in either case; index and the rest mean something only for -EILSEQ
 *
 * Return: 0 when every action and state is the same, -EILSEQ at the first that is not, -ENODATA when there is no state
 */
int ring_replay(const struct ring *r, struct ring_diff *d);

#endif
