/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_MEMSCAN_H
#define ENGINE_MEMSCAN_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/pageset.h"
#include "engine/workers.h"

enum { MEM_MAX_RANGES = 64 };

/* One piece of guest memory in QEMU's address space. */
struct mem_range {
	uint64_t addr;
	uint64_t first;		/* its first page in the guest's memory */
	uint64_t count;		/* pages */
};

/* Where guest memory lies in QEMU: sorted by page, each page once. */
struct mem_map {
	uint32_t n;
	bool shared;		/* MAP_SHARED (primary) or MAP_PRIVATE (secondary) */
	struct mem_range r[MEM_MAX_RANGES];
};

/*
 * memscan_written() - add the pages that were written since they were last re-armed
 * @pagemap: /proc/PID/pagemap of QEMU
 * @rearm:   write-protect each reported page again, in the same step: no write is lost between
 * @set:     pages are added
 *
 * The ranges must be registered with userfaultfd WP_ASYNC. While QEMU runs: yes.
 * Return: 0, or -errno; after an error with @rearm some pages may have been re-armed without being reported, so
 * the caller takes every page for dirty or gives up (it happens when QEMU dies or the registration is gone)
 */
int memscan_written(int pagemap, const struct mem_map *map, bool rearm, struct pageset *set);

/*
 * memscan_private() - add the pages of a private mapping that are QEMU's own copies, in memory or swapped out
 * memscan_private_old() - the same in the way of kernels before 6.7, which the first takes by itself
 *
 * Only exact while QEMU stands still, and where nothing is registered for tracking: a page that is write-protected and
 * not in memory counts as private too, because its place is taken by a mark that the kernel takes for swap.
 * Return: 0, or -errno
 */
int memscan_private(int pagemap, const struct mem_map *map, struct pageset *set);
int memscan_private_old(int pagemap, const struct mem_map *map, struct pageset *set);

/*
 * memscan_rearm_by() / memscan_soft_dirty_by() / memscan_private_by() - memscan_written() with @rearm, and the others,
 * divided between @w where the memory is large enough for that; NULL: the caller alone
 */
int memscan_rearm_by(struct workers *w, int pagemap, const struct mem_map *map, struct pageset *set);
int memscan_soft_dirty_by(struct workers *w, int pagemap, const struct mem_map *map, struct pageset *set);
int memscan_private_by(struct workers *w, int pagemap, const struct mem_map *map, struct pageset *set);

/*
 * memscan_soft_dirty() - add the pages whose soft-dirty bit is set (kernels without PAGEMAP_SCAN); clears nothing
 *
 * Return: 0, or -errno
 */
int memscan_soft_dirty(int pagemap, const struct mem_map *map, struct pageset *set);

/*
 * memscan_probe() / memscan_probe_soft_dirty() - try the ways on a page of this process's own
 * @e: filled when it does not work; may be NULL
 *
 * The first proves userfaultfd WP_ASYNC with PAGEMAP_SCAN, for writes of the CPU and of system calls. The second
 * proves soft-dirty (a kernel without it accepts clear_refs and then reports nothing). It resets the soft-dirty
 * bits of this process. Return: 0 when it works, else -errno
 */
int memscan_probe(struct err *e);
int memscan_probe_soft_dirty(struct err *e);

/* memscan_probe_private() - prove that pages written in a private mapping are told from the file's */
int memscan_probe_private(struct err *e);

#endif
