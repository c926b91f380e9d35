/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_RAM_H
#define ENGINE_RAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/pageset.h"

#define RAM_PAGE	4096u
#define RAM_HEADROOM	(128ull << 20)	/* bytes of the host's memory that a guest's must leave */

enum {
	RAM_REGIONS_MAX = 48,	/* blocks of QEMU's beside the guest's main memory */
	RAM_NAME = 256,		/* bytes of a block's name, with its final 0 */
};

/* A block that lies behind the guest's main memory: a graphics card's memory, a ROM, ... */
struct ram_region {
	char name[RAM_NAME];
	uint64_t first, count;	/* pages */
};

/*
 * The guest's memory as Lockstep sees it: a memfd, reserved completely and mapped shared. QEMU maps the same file:
 * shared where it is the primary (or alone), so that this is its memory; privately where it is the secondary, so
 * that this is the image of the last checkpoint and what the SVM writes stays its own.
 */
struct ram {
	int fd;			/* to be handed to QEMU */
	uint8_t *base;
	uint64_t size;		/* bytes, regions included */
	uint64_t n_pages;
	uint64_t main_pages;	/* of these, the guest's main memory, which comes first */
	unsigned int n_regions;
	struct ram_region region[RAM_REGIONS_MAX];
	bool laid_out;
};

/*
 * ram_new() - make and reserve a guest's memory
 * @size: bytes, a multiple of RAM_PAGE
 *
 * Return: the memory, all zero; NULL with @e filled (-ENOMEM: the host has not that much)
 */
struct ram *ram_new(uint64_t size, struct err *e);

/*
 * ram_layout() - reserve a place behind main memory for each further block of QEMU's, and fix the size for good
 * @want: names and counts; sorted by name; first is filled in here
 *
 * Before the guest runs, while nobody else uses @r: @r->base may move. Once it has been called it only compares, for a
 * QEMU that was started anew over the same memory.
 * Return: 0; -ENOMEM, -E2BIG; -EXDEV: another layout than the first time; with @e filled
 */
int ram_layout(struct ram *r, const struct ram_region *want, unsigned int n, struct err *e);

/* ram_free() - unmap and close; NULL is fine; QEMU's own mapping lives on */
void ram_free(struct ram *r);

/* ram_page() - a page's bytes; @page must be below n_pages */
static inline uint8_t *ram_page(const struct ram *r, uint64_t page)
{
	return r->base + page * RAM_PAGE;
}

/* ram_page_zero() - whether RAM_PAGE bytes at @p, aligned to 8, are all zero */
bool ram_page_zero(const void *p);

/*
 * ram_extents() - add every page that has ever been written to @set: all others are zero
 *
 * May run while the guest runs; what it writes meanwhile is the dirty tracker's business, armed before.
 * Return: 0, or -errno
 */
int ram_extents(const struct ram *r, struct pageset *set);

/* ram_hash() - hash of the whole memory, for comparing two; only steady while nobody writes */
uint64_t ram_hash(const struct ram *r);

#endif
