/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_PAGESEND_H
#define ENGINE_PAGESEND_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/pagebuf.h"
#include "engine/workers.h"

/* What of the copy buffer goes to the secondary, and in which form: runs of zeroes, plain pages, packed ones (LZ4). */
struct pagesend;

enum {
	PAGESEND_PIECE = 64,	/* pages in one message with content */
	PAGESEND_ZEROES = 4096,	/* pages of zeroes in one message */
	PAGESEND_BATCH = 8,	/* pieces that are packed at a time, side by side */
};

/*
 * Sends one message of @count neighbouring pages on the bulk connection.
 * @data: NULL: zeroes, else @len bytes: the pages, or, if @packed, one LZ4 block that holds them
 * Return: 0, -EAGAIN (nothing was taken), -EPIPE
 */
typedef int pagesend_fn(void *arg, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len, bool packed);

struct pagesend_stats {
	uint64_t zero;			/* pages sent as zeroes */
	uint64_t plain, packed;		/* pages sent so */
	uint64_t packed_bytes;		/* what the packed ones took */
};

/*
 * pagesend_new() - a sender for @b, borrowed
 * @w:    who packs, borrowed; may be NULL
 * @pack: whether pages are packed at all
 * Return: the sender; NULL with @e filled
 */
struct pagesend *pagesend_new(struct pagebuf *b, struct workers *w, bool pack, pagesend_fn *send, void *arg,
			      struct err *e);
void pagesend_free(struct pagesend *s);

/*
 * pagesend_some() - send what is in the buffer
 * @most:  pages at most, or a little more; 0: all
 * @pages: how many were sent is added; @bytes: what they took is added
 *
 * Return: 0 when the buffer is empty or @most is reached; -EAGAIN: to be called again when the connection takes more;
 * -EPIPE
 */
int pagesend_some(struct pagesend *s, uint64_t most, uint64_t *pages, uint64_t *bytes);

/* pagesend_waiting() - pages of the buffer that were not sent yet */
uint64_t pagesend_waiting(const struct pagesend *s);

/* pagesend_reset() - throw away what is in the buffer and what was prepared */
void pagesend_reset(struct pagesend *s);

void pagesend_stats(const struct pagesend *s, struct pagesend_stats *out);

/*
 * pagesend_unpack() - the other side: @count pages out of an LZ4 block
 * @to: @count * RAM_PAGE bytes
 * Return: 0; -EPROTO when the block is not exactly that
 */
int pagesend_unpack(const uint8_t *data, uint32_t len, uint64_t count, uint8_t *to);

#endif
