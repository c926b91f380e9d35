/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_ARENA_H
#define DISK_ARENA_H

#include <stdbool.h>
#include <stdint.h>

#include "disk/journal.h"

/*
 * The bytes of the layers, in chunks: in memory up to a limit, beyond it in slots of the journal file. A chunk belongs to
 * one layer, and goes with it, or when nothing in it is referred to. Theory in arena.c. Disk loop only.
 */
#define ARENA_NONE	UINT32_MAX

struct arena_layer {
	uint32_t first;		/* list of its chunks; ARENA_NONE */
	uint32_t open;		/* the one that is being filled; ARENA_NONE */
	uint64_t bytes;		/* in its chunks, also those nobody refers to any more */
	uint32_t chunks;
	/* while arena_persist() is under way */
	uint32_t unwritten;
	int rc;
	void (*persisted)(void *arg, int rc);
	void *persisted_arg;
};

struct arena_chunk {
	uint8_t *mem;		/* NULL: only in the file */
	uint32_t slot;		/* JOURNAL_NO_SLOT: only in memory */
	uint32_t used, live;	/* bytes given out; of those, referred to */
	uint32_t next, prev;	/* of the layer; free chunks by next */
	uint32_t age_next, age_prev;	/* of those in memory, the oldest first */
	struct arena_layer *owner;	/* NULL: given back as soon as nobody pins it */
	uint32_t pins;
	bool clean;		/* the slot has what the memory has */
	bool writing;
	bool soiled;		/* the slot has it, but perhaps only until the next crash */
	void *tmp;		/* of such a chunk without memory, while it is written again */
	bool spill;		/* to make room */
	struct journal_job job;
};

struct arena {
	struct journal *j;
	uint32_t size;		/* of a chunk, a power of 2 */
	unsigned int shift;
	struct arena_chunk *chunk;
	uint32_t n, fresh, free;
	uint32_t mem, mem_max;	/* chunks in memory */
	uint32_t oldest, newest;
	uint32_t spilling;	/* chunks that are being written to make room */
	int spill_rc;		/* the last such write has failed */
	uint64_t spilled;	/* bytes, since the start */
	uint64_t no_room;	/* how often there was no memory */
	void (*room)(void *arg);	/* there is some again, or it has failed: only to be noted, from inside other calls */
	void *arg;
	bool starved;
};

/* @memory: bytes, at least eight chunks; @chunks: how many there may be in all */
int arena_init(struct arena *a, struct journal *j, uint64_t memory, uint32_t chunks, void (*room)(void *arg), void *arg);
void arena_free(struct arena *a);

void arena_layer_init(struct arena_layer *l);

/*
 * arena_place() - room for up to @len bytes of a layer
 * @loc: where they are; @p: the memory, to be filled at once. They count as referred to.
 *
 * Return: how many, or -EAGAIN (memory is full and is being written to the file: room() comes), -ENOSPC (all chunks are
 * taken), -ENOMEM, or why the file cannot be written
 */
int64_t arena_place(struct arena *a, struct arena_layer *l, uint64_t len, uint64_t *loc, uint8_t **p);

/* arena_seal() - the chunk that is being filled is closed; what comes next begins another */
void arena_seal(struct arena *a, struct arena_layer *l);

/* arena_edit() - the bytes at @loc, to be written over at once; NULL: that cannot be done in place now */
uint8_t *arena_edit(struct arena *a, uint64_t loc);
/* arena_mem() - the bytes at @loc, until control goes back to the loop or as long as they are pinned; NULL: in the file */
const uint8_t *arena_mem(const struct arena *a, uint64_t loc);
/* arena_file() - where the bytes at @loc are in the file, if they are there */
uint64_t arena_file(const struct arena *a, uint64_t loc);
/* arena_pin() / arena_unpin() - they stay where they are, whatever becomes of the layer */
void arena_pin(struct arena *a, uint64_t loc);
void arena_unpin(struct arena *a, uint64_t loc);

/* arena_unref() - nobody refers to these any more; of one chunk */
void arena_unref(struct arena *a, uint64_t loc, uint64_t len);
/* arena_drop() - give back some chunks of a layer, @max at most. Return: whether all are gone */
bool arena_drop(struct arena *a, struct arena_layer *l, unsigned int max);
/* arena_join() - the chunks of @from belong to @to; neither is being persisted */
void arena_join(struct arena *a, struct arena_layer *to, struct arena_layer *from);

/* arena_persist() - see to it that all of a layer is in the file (not that it is durable); maybe calls @done at once */
void arena_persist(struct arena *a, struct arena_layer *l, void (*done)(void *arg, int rc), void *arg);

/* arena_soil() - a sync has failed: what is in the file must be written again before it can count as durable */
void arena_soil(struct arena *a, struct arena_layer *l);

/* arena_spill() - make room in memory if it is getting short; also tried anew after a failure */
void arena_spill(struct arena *a);

#endif
