/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/arena.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "disk/standby_fault.h"

/*
 * Theory of operation
 *
 * Everything is written into memory first, into the open chunk of its layer. A chunk is written to a slot of the journal
 * file when its layer is to be durable (arena_persist()), or when memory gets short (arena_spill()): the oldest first,
 * and those that are in the file already need not be written again. Its memory is given back then. A chunk that has only
 * its slot is not changed any more: what is written over is put elsewhere.
 *
 * A location is a chunk's number and an offset, with a bit between that is always 0, so that the end of one chunk is not
 * the begin of the next and no extent lies in two.
 *
 * What is under way in a chunk (a read from its slot, a base that takes its memory) pins it: it is neither reused nor
 * freed before. The memory of a chunk that is being written is not changed.
 *
 * Limits: memory, of which a layer's open chunk is always a part; chunks in all. A chunk of which little is referred to
 * keeps its place all the same. That is bounded by what a layer may have in all (struct standby_limits), and a layer
 * does not live long.
 */
static struct arena_chunk *chunk_of(const struct arena *a, uint64_t loc)
{
	return &a->chunk[loc >> (a->shift + 1)];
}

static uint32_t in_chunk(const struct arena *a, uint64_t loc)
{
	return (uint32_t)loc & (a->size - 1);
}

int arena_init(struct arena *a, struct journal *j, uint64_t memory, uint32_t chunks, void (*room)(void *arg), void *arg)
{
	*a = (struct arena){ .j = j, .size = journal_chunk(j), .n = chunks, .free = ARENA_NONE, .oldest = ARENA_NONE,
			     .newest = ARENA_NONE, .room = room, .arg = arg };
	while ((1u << a->shift) < a->size)
		a->shift++;
	a->mem_max = memory / a->size > 8 ? (uint32_t)(memory / a->size) : 8;
	a->chunk = calloc(chunks, sizeof(*a->chunk));
	return a->chunk ? 0 : -ENOMEM;
}

void arena_free(struct arena *a)
{
	for (uint32_t i = 0; i < a->fresh; i++)
		free(a->chunk[i].mem), free(a->chunk[i].tmp);
	free(a->chunk);
	a->chunk = NULL;
}

void arena_layer_init(struct arena_layer *l)
{
	*l = (struct arena_layer){ .first = ARENA_NONE, .open = ARENA_NONE };
}

static void mem_link(struct arena *a, uint32_t i)
{
	struct arena_chunk *c = &a->chunk[i];

	c->age_next = ARENA_NONE;
	c->age_prev = a->newest;
	if (a->newest != ARENA_NONE)
		a->chunk[a->newest].age_next = i;
	else
		a->oldest = i;
	a->newest = i;
	a->mem++;
}

static void mem_free(struct arena *a, struct arena_chunk *c)
{
	if (!c->mem)
		return;
	free(c->mem);
	c->mem = NULL;
	a->mem--;
	if (c->age_next != ARENA_NONE)
		a->chunk[c->age_next].age_prev = c->age_prev;
	else
		a->newest = c->age_prev;
	if (c->age_prev != ARENA_NONE)
		a->chunk[c->age_prev].age_next = c->age_next;
	else
		a->oldest = c->age_next;
	if (a->starved) {
		a->starved = false;
		a->room(a->arg);
	}
}

/* Nobody owns it: it goes when nothing is under way in it. */
static void maybe_free(struct arena *a, struct arena_chunk *c)
{
	if (c->owner || (c->pins && !(FAULT(NO_PIN) && !c->mem)) || c->writing)
		return;
	if (c->slot != JOURNAL_NO_SLOT)
		journal_slot_put(a->j, c->slot);
	c->slot = JOURNAL_NO_SLOT;
	c->next = a->free;
	a->free = (uint32_t)(c - a->chunk);
	mem_free(a, c);
}

static void unlink_chunk(struct arena *a, struct arena_chunk *c)
{
	struct arena_layer *l = c->owner;
	uint32_t i = (uint32_t)(c - a->chunk);

	if (c->next != ARENA_NONE)
		a->chunk[c->next].prev = c->prev;
	if (c->prev != ARENA_NONE)
		a->chunk[c->prev].next = c->next;
	else
		l->first = c->next;
	if (l->open == i)
		l->open = ARENA_NONE;
	l->chunks--;
	l->bytes -= c->used;
	c->owner = NULL;
	maybe_free(a, c);
}

static struct arena_chunk *chunk_new(struct arena *a, struct arena_layer *l, int *rc)
{
	struct arena_chunk *c;
	uint8_t *mem;

	if (a->mem >= a->mem_max) {
		/* A failure is told once to whoever needs room; the next one tries again. */
		*rc = a->spill_rc;
		a->spill_rc = 0;
		if (*rc)
			return NULL;
		arena_spill(a);
		if (a->mem >= a->mem_max) {
			a->no_room++;
			a->starved = true;
			*rc = -EAGAIN;
			return NULL;
		}
	}
	if (a->free == ARENA_NONE && a->fresh == a->n) {
		*rc = -ENOSPC;
		return NULL;
	}
	mem = malloc(a->size);
	if (!mem) {
		*rc = -ENOMEM;
		return NULL;
	}
	if (a->free != ARENA_NONE) {
		c = &a->chunk[a->free];
		a->free = c->next;
	} else {
		c = &a->chunk[a->fresh++];
	}
	*c = (struct arena_chunk){ .mem = mem, .slot = JOURNAL_NO_SLOT, .owner = l, .next = l->first, .prev = ARENA_NONE };
	if (l->first != ARENA_NONE)
		a->chunk[l->first].prev = (uint32_t)(c - a->chunk);
	l->first = (uint32_t)(c - a->chunk);
	l->chunks++;
	mem_link(a, l->first);
	return c;
}

int64_t arena_place(struct arena *a, struct arena_layer *l, uint64_t len, uint64_t *loc, uint8_t **p)
{
	struct arena_chunk *c;
	int rc = 0;

	if (l->open == ARENA_NONE) {
		c = chunk_new(a, l, &rc);
		if (!c)
			return rc;
		l->open = (uint32_t)(c - a->chunk);
	}
	c = &a->chunk[l->open];
	if (len > a->size - c->used)
		len = a->size - c->used;
	*loc = ((uint64_t)l->open << (a->shift + 1)) | c->used;
	*p = c->mem + c->used;
	c->used += (uint32_t)len;
	c->live += (uint32_t)len;
	c->clean = false;
	l->bytes += len;
	if (c->used == a->size)
		arena_seal(a, l);
	return (int64_t)len;
}

void arena_seal(struct arena *a, struct arena_layer *l)
{
	uint32_t i = l->open;

	l->open = ARENA_NONE;
	if (i != ARENA_NONE && !a->chunk[i].live)
		unlink_chunk(a, &a->chunk[i]);
	if (a->mem >= a->mem_max - a->mem_max / 4)
		arena_spill(a);
}

uint8_t *arena_edit(struct arena *a, uint64_t loc)
{
	struct arena_chunk *c = chunk_of(a, loc);

	if (!c->mem || c->writing)
		return NULL;
	c->clean = c->clean && FAULT(EDIT_SHARED);
	return c->mem + in_chunk(a, loc);
}

const uint8_t *arena_mem(const struct arena *a, uint64_t loc)
{
	const struct arena_chunk *c = chunk_of(a, loc);

	return c->mem ? c->mem + in_chunk(a, loc) : NULL;
}

uint64_t arena_file(const struct arena *a, uint64_t loc)
{
	return journal_slot_off(a->j, chunk_of(a, loc)->slot) + in_chunk(a, loc);
}

void arena_pin(struct arena *a, uint64_t loc)
{
	chunk_of(a, loc)->pins++;
}

void arena_unpin(struct arena *a, uint64_t loc)
{
	struct arena_chunk *c = chunk_of(a, loc);

	/* With the fault it may have been given back, and have another life already. */
	if (FAULT(NO_PIN) && (!c->pins || (!c->owner && !c->mem && c->slot == JOURNAL_NO_SLOT)))
		return;
	c->pins--;
	maybe_free(a, c);
	if (a->starved)
		arena_spill(a);
}

void arena_unref(struct arena *a, uint64_t loc, uint64_t len)
{
	struct arena_chunk *c = chunk_of(a, loc);

	c->live -= (uint32_t)len;
	if (c->live || !c->owner)
		return;
	if (c->owner->open == (uint32_t)(c - a->chunk) && !c->pins && !c->writing) {
		/* Empty again, but still the one that is being filled. */
		c->owner->bytes -= c->used;
		c->used = 0;
	} else if (c->owner->open != (uint32_t)(c - a->chunk) && !c->owner->unwritten) {
		unlink_chunk(a, c);
	}
}

bool arena_drop(struct arena *a, struct arena_layer *l, unsigned int max)
{
	while (l->first != ARENA_NONE && max--)
		unlink_chunk(a, &a->chunk[l->first]);
	return l->first == ARENA_NONE;
}

void arena_join(struct arena *a, struct arena_layer *to, struct arena_layer *from)
{
	uint32_t i = from->first, last = ARENA_NONE;

	arena_seal(a, to);
	arena_seal(a, from);
	i = from->first;
	for (; i != ARENA_NONE; last = i, i = a->chunk[i].next)
		a->chunk[i].owner = to;
	if (last != ARENA_NONE) {
		a->chunk[last].next = to->first;
		if (to->first != ARENA_NONE)
			a->chunk[to->first].prev = last;
		to->first = from->first;
	}
	to->bytes += from->bytes;
	to->chunks += from->chunks;
	arena_layer_init(from);
}

static void written(struct journal_job *job)
{
	struct arena *a = job->arg;
	struct arena_chunk *c = (struct arena_chunk *)((char *)job - offsetof(struct arena_chunk, job));
	struct arena_layer *l = c->owner;

	if (job->op == JOURNAL_READ && !job->rc) {
		/* It goes back to where it came from. */
		job->op = JOURNAL_WRITE;
		journal_submit(a->j, job);
		return;
	}
	free(c->tmp);
	c->tmp = NULL;
	c->writing = false;
	/* Soiled meanwhile: what was written before the sync that has failed may be lost with it. */
	c->soiled |= job->rc != 0;
	c->clean = !c->soiled;
	if (l && l->unwritten) {
		if (job->rc && !l->rc)
			l->rc = job->rc;
		l->unwritten--;
	}
	if (c->spill) {
		a->spilling--;
		a->spill_rc = job->rc;
	}
	c->spill = false;
	if (!job->rc)
		a->spilled += c->used;
	maybe_free(a, c);
	if (l && !l->unwritten && l->persisted) {
		void (*done)(void *arg, int rc) = l->persisted;

		l->persisted = NULL;
		done(l->persisted_arg, l->rc);
	}
	if (a->spill_rc && a->starved) {
		/* Whoever waits must hear of it. */
		a->starved = false;
		a->room(a->arg);
	} else if (!a->spill_rc) {
		arena_spill(a);
	}
}

static int chunk_write(struct arena *a, struct arena_chunk *c)
{
	if (c->slot == JOURNAL_NO_SLOT) {
		c->slot = journal_slot_get(a->j);
		if (c->slot == JOURNAL_NO_SLOT)
			return -ENOSPC;
	}
	if (!c->mem && !(c->tmp = malloc(a->size)))
		return -ENOMEM;
	c->writing = true;
	c->soiled = false;
	c->job = (struct journal_job){ .op = c->mem ? JOURNAL_WRITE : JOURNAL_READ,
				       .buf = c->mem ? c->mem : c->tmp, .len = c->used,
				       .off = journal_slot_off(a->j, c->slot), .done = written, .arg = a };
	journal_submit(a->j, &c->job);
	return 0;
}

void arena_persist(struct arena *a, struct arena_layer *l, void (*done)(void *arg, int rc), void *arg)
{
	l->rc = 0;
	l->unwritten = 0;
	for (uint32_t i = l->first; i != ARENA_NONE; i = a->chunk[i].next) {
		struct arena_chunk *c = &a->chunk[i];

		if (!c->writing && (c->mem ? c->clean : !c->soiled))
			continue;
		if (!c->writing) {
			int rc = chunk_write(a, c);

			if (rc) {
				l->rc = rc;
				break;
			}
		}
		l->unwritten++;
	}
	if (!l->unwritten) {
		done(arg, l->rc);
		return;
	}
	l->persisted = done;
	l->persisted_arg = arg;
}

void arena_soil(struct arena *a, struct arena_layer *l)
{
	for (uint32_t i = l->first; i != ARENA_NONE; i = a->chunk[i].next) {
		a->chunk[i].clean = false;
		a->chunk[i].soiled = true;
	}
}

void arena_spill(struct arena *a)
{
	uint32_t goal = a->mem_max - a->mem_max / 4, next;

	for (uint32_t i = a->oldest; i != ARENA_NONE && a->mem - a->spilling >= goal; i = next) {
		struct arena_chunk *c = &a->chunk[i];

		next = c->age_next;
		if (c->pins || c->writing || !c->owner || c->owner->open == i)
			continue;
		if (c->clean) {
			mem_free(a, c);
		} else if (a->spilling < 4) {
			int rc = chunk_write(a, c);

			if (rc) {
				a->spill_rc = rc;
				return;
			}
			c->spill = true;
			a->spilling++;
		}
	}
}
