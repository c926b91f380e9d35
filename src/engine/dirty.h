/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_DIRTY_H
#define ENGINE_DIRTY_H

#include <stdbool.h>

#include "base/err.h"
#include "engine/memscan.h"
#include "engine/pageset.h"

enum dirty_kind {
	DIRTY_WP_ASYNC,		/* userfaultfd WP_ASYNC and PAGEMAP_SCAN: Linux 6.7 and later */
	DIRTY_SOFT,		/* soft-dirty bits of older kernels */
};

struct dirty;

/*
 * dirty_probe() - which way works on this kernel, tried on a page of this process
 * @e: filled when none does
 *
 * Startup only (the soft-dirty probe resets this process's own bits). Return: enum dirty_kind, or -ENOTSUP
 */
int dirty_probe(struct err *e);

/*
 * dirty_new() - a tracker over guest memory in QEMU
 * @kind:       how
 * @map:        where guest memory lies in QEMU, copied
 * @pagemap:    /proc/PID/pagemap of QEMU, borrowed
 * @clear_refs: /proc/PID/clear_refs of QEMU, borrowed; -1 for DIRTY_WP_ASYNC, whose registration the agent has done
 *
 * Return: the tracker, not yet armed; NULL with @e filled
 */
struct dirty *dirty_new(enum dirty_kind kind, const struct mem_map *map, int pagemap, int clear_refs, struct err *e);

/* dirty_free() - forget it; QEMU's pages stay as they are */
void dirty_free(struct dirty *d);

/* dirty_workers() - who scans from now on, borrowed; NULL: the caller of dirty_scan() alone */
void dirty_workers(struct dirty *d, struct workers *w);

/*
 * dirty_arm() - start: whatever is written from now on will be reported
 *
 * A write that falls into the call itself may be reported or not, and so may what is not yet reported of earlier ones: a
 * page that was written by then is to be read after it. Return: 0, or -errno
 */
int dirty_arm(struct dirty *d);

/*
 * dirty_scan() - add the pages written since they were last re-armed, and re-arm them
 * @stopped: whether the VM is stopped for as long as this call runs
 * @set:     pages are added, none is removed
 *
 * While the VM runs, DIRTY_SOFT reports and does not re-arm: a write between reading and clearing would be lost. Such
 * pages are reported again each time, which is slow and right.
 *
 * Return: 0; or -errno, after which what was dirty is not known any more (all pages, or give up)
 */
int dirty_scan(struct dirty *d, bool stopped, struct pageset *set);

enum dirty_kind dirty_kind(const struct dirty *d);

#endif
