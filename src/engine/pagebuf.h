/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_PAGEBUF_H
#define ENGINE_PAGEBUF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/pageset.h"
#include "engine/ram.h"
#include "engine/workers.h"

/*
 * The primary's copy buffer: dirty pages are copied here, in rounds while the VM runs or in the pause, and sent from
 * here. One owner. No locks.
 */
struct pagebuf;

/* A piece to send: neighbouring pages. */
struct pagebuf_piece {
	uint64_t first;		/* page number */
	uint64_t count;		/* pages */
	const uint8_t *data;	/* count * RAM_PAGE bytes; NULL: all zero */
};

/*
 * pagebuf_new() - a buffer for @cap pages, all its memory touched
 * Return: the buffer, empty; NULL with @e filled
 */
struct pagebuf *pagebuf_new(uint64_t cap, struct err *e);

void pagebuf_free(struct pagebuf *b);

/* pagebuf_workers() - who copies from now on, borrowed; NULL: the caller of pagebuf_take() alone */
void pagebuf_workers(struct pagebuf *b, struct workers *w);

/*
 * pagebuf_take() - copy pages out of guest memory, behind what is there
 * @set:   what to copy; each page that was taken is removed from it
 * @most:  pages at most; 0: as many as there is room for
 * @taken: each page that was taken is added (for ABORT); may be NULL
 *
 * Steady content needs a stopped VM (or a later scan that finds what changed under the copy: pre-copy).
 * Return: 0 when @set is empty now; -ENOSPC when not. Where the buffer is full: drain it, and call again
 */
int pagebuf_take(struct pagebuf *b, const struct ram *ram, struct pageset *set, uint64_t most, struct pageset *taken);

/*
 * pagebuf_next() - the next piece to send, in the order of taking; it is then gone from the buffer
 * @max:   pages at most in a piece with content (0: any number); a piece of zeroes is not cut
 * @piece: filled; the data live until pagebuf_reset()
 *
 * Return: false when all has been handed out
 */
bool pagebuf_next(struct pagebuf *b, uint64_t max, struct pagebuf_piece *piece);

/* pagebuf_reset() - throw away what is in it; all room is free again */
void pagebuf_reset(struct pagebuf *b);

/* pagebuf_pages() - pages that wait to be handed out; pagebuf_room() - pages that can be taken before pagebuf_reset() */
uint64_t pagebuf_pages(const struct pagebuf *b);
uint64_t pagebuf_room(const struct pagebuf *b);

#endif
