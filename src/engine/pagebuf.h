/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_PAGEBUF_H
#define ENGINE_PAGEBUF_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/pageset.h"
#include "engine/ram.h"

/*
 * The primary's copy buffer: dirty pages are copied here while the PVM is stopped and sent from here afterwards.
 * One owner at a time: the copier hands it to the sender by message and gets it back empty. No locks.
 */
struct pagebuf;

/* A piece to send: neighbouring pages. */
struct pagebuf_piece {
	uint64_t first;		/* page number */
	uint64_t count;		/* pages */
	const uint8_t *data;	/* count * RAM_PAGE bytes; NULL: all zero */
};

/*
 * pagebuf_new() - a buffer for @cap pages (of content; pages of zeroes take none), all its memory touched
 * Return: the buffer, empty; NULL with @e filled
 */
struct pagebuf *pagebuf_new(uint64_t cap, struct err *e);

void pagebuf_free(struct pagebuf *b);

/*
 * pagebuf_take() - copy pages out of guest memory
 * @set: what to copy; each page that was taken is removed from it (keep a copy of the epoch's set for ABORT)
 *
 * Steady content needs a stopped VM (or a later scan that finds what changed under the copy: pre-copy).
 * Return: 0 when @set is empty now; -ENOSPC when the buffer is full: drain it, and call again before the VM goes on
 */
int pagebuf_take(struct pagebuf *b, const struct ram *ram, struct pageset *set);

/*
 * pagebuf_next() - the next piece to send, in the order of taking; it is then gone from the buffer
 * @max:   pages at most in a piece with content; a piece of zeroes is not cut
 * @piece: filled; the data live until the next pagebuf_take() or pagebuf_reset()
 *
 * Return: false when all has been handed out; the buffer is then empty and can take again
 */
bool pagebuf_next(struct pagebuf *b, uint64_t max, struct pagebuf_piece *piece);

/* pagebuf_reset() - throw away what is in it */
void pagebuf_reset(struct pagebuf *b);

/* pagebuf_pages() / pagebuf_bytes() - taken since it was empty: pages, zeroes included; bytes of content */
uint64_t pagebuf_pages(const struct pagebuf *b);
uint64_t pagebuf_bytes(const struct pagebuf *b);

#endif
