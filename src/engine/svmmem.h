/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_SVMMEM_H
#define ENGINE_SVMMEM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"
#include "engine/agentctl.h"
#include "engine/ram.h"

/*
 * The secondary's view of guest memory: QEMU maps the image of the last checkpoint privately, and what the SVM has
 * written is its own copy of a page. Reverting throws these copies away. One thread at a time; no locks.
 */
struct svmmem;

struct svmmem_stats {
	uint64_t reverts;	/* calls of svmmem_revert() */
	uint64_t last_pages;	/* pages that the last one gave back */
};

/*
 * svmmem_new() - begin, after agentctl_hello() and while QEMU is stopped
 * @a:        agent in the secondary's QEMU; used in every call here, to be freed after
 * @ram:      the image
 *
 * Return: NULL with @e filled: QEMU maps the memory shared, the kernel can tell no private pages, no memory
 */
struct svmmem *svmmem_new(struct agentctl *a, const struct ram *ram, struct err *e);

/* svmmem_workers() - who looks for private pages from now on, borrowed; NULL: the caller alone */
void svmmem_workers(struct svmmem *m, struct workers *w);

void svmmem_free(struct svmmem *m);

/*
 * svmmem_revert() - make the SVM see the image, all of it
 *
 * QEMU must stand still (QMP stop answered, no load going on). To be called before a checkpoint's pages are applied to
 * the image, and again after its device state was loaded, because the load may have written.
 *
 * Return: 0; -errno with @e filled: the SVM's memory is in no known state, QEMU must be started anew
 */
int svmmem_revert(struct svmmem *m, nstime deadline, struct err *e);

/*
 * svmmem_private() - about how many pages the SVM has of its own; may be asked while it runs
 *
 * Return: pages, or -errno
 */
int64_t svmmem_private(struct svmmem *m);

enum {
	SVMMEM_SHARE_PAGES = 8192,	/* private pages of one step: 32 MB */
	SVMMEM_SHARE_WINDOW = 131072,	/* pages that one step looks at: 512 MB */
};

/*
 * svmmem_share() - one step of making a promoted VM's memory the image itself, so that it can be protected again
 * @from:  the page where the step begins, 0 at first; gets where the next one begins; the guest's pages: all is done
 * @limit: private pages that are written at most, SVMMEM_SHARE_PAGES or fewer; it bounds how long the VM has to stand
 * @wrote: gets how many were
 *
 * QEMU must stand still in each step and may run between two. After the last one: svmmem_free(), agentctl_hello(),
 * which finds all of it shared, agentctl_track() where pages are followed by userfaultfd, and a tracker (dirty_new())
 * can be had. No svmmem_revert() once it has begun.
 *
 * Return: 0; -errno with @e filled: as agentctl_share(); @from stays, and the step can be tried again
 */
int svmmem_share(struct svmmem *m, uint64_t *from, uint64_t limit, uint64_t *wrote, nstime deadline, struct err *e);

void svmmem_stats(const struct svmmem *m, struct svmmem_stats *out);

#endif
