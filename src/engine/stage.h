/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_STAGE_H
#define ENGINE_STAGE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/pageset.h"
#include "engine/ram.h"

#define STAGE_POOL_MAX_DEFAULT	(256ull << 20)	/* bytes; and not more than an eighth of the guest's memory */
#define STAGE_POOL_KEEP		(8ull << 20)	/* bytes of it that are always there */

/*
 * The secondary's staging area: the pages of the checkpoint that is coming in, one slot each, the latest wins.
 * One owner at a time: the thread that receives pages hands it over (by message) to the one that applies it, and gets
 * it back after stage_clear(). No locks.
 */
struct stage;

struct stage_stats {
	uint64_t pages;		/* staged now */
	uint64_t zero;		/* of these, pages of zeroes, which take no memory */
	uint64_t spilled;	/* of these, pages in the file */
	uint64_t bytes;		/* memory and file that the staged pages take */
	uint64_t pool_pages;	/* what the pool in memory may grow to */
	uint64_t pool_ready;	/* what it has now */
	uint64_t puts;		/* since stage_new(): pages given to stage_put() */
	uint64_t replaced;	/* since stage_new(): of these, pages that were staged already */
	uint64_t spills;	/* since stage_new(): of these, pages written to the file */
};

/*
 * stage_new() - reserve everything that staging can ever need
 * @n_pages:    of the guest
 * @pool_bytes: memory to hold pages in at most; 0: an eighth of the guest's memory, STAGE_POOL_MAX_DEFAULT at most.
 *              STAGE_POOL_KEEP of it is taken at once, the rest while it is needed and the host has it
 * @dir:        where the spill file is made, nameless; it takes the guest's size on that disk
 *
 * Return: an empty area; NULL with @e filled
 */
struct stage *stage_new(uint64_t n_pages, uint64_t pool_bytes, const char *dir, struct err *e);

void stage_free(struct stage *s);

/*
 * stage_put() - take a page
 * @page: below n_pages
 * @data: RAM_PAGE bytes, copied; NULL: a page of zeroes
 *
 * Return: 0; -ERANGE for a page that is none; -EIO and the like when the spill file cannot be written: then the page
 * has neither its old nor its new content, and the checkpoint must be given up (stage_clear())
 */
int stage_put(struct stage *s, uint64_t page, const void *data);

/* stage_get() - a staged page's content into @buf (RAM_PAGE bytes); 0, -ENOENT when it is not staged, -EIO */
int stage_get(const struct stage *s, uint64_t page, void *buf);

/* stage_pages() - which pages are staged, borrowed; pageset_next() goes through them in order */
const struct pageset *stage_pages(const struct stage *s);

/*
 * stage_apply() - write all staged pages into the image, in page order; they stay staged
 * @progress: called with @arg now and then; may be NULL
 *
 * Can be done again after a failure or a crash of QEMU: the result is the same.
 * Return: 0; -EINVAL when @ram has another size; -EIO when the spill file cannot be read
 */
int stage_apply(const struct stage *s, struct ram *ram, void (*progress)(void *arg), void *arg);

/* stage_clear() - forget all staged pages, and give memory back that was rarely needed */
void stage_clear(struct stage *s);

/* stage_count() - staged pages */
uint64_t stage_count(const struct stage *s);

void stage_stats(const struct stage *s, struct stage_stats *out);

#endif
