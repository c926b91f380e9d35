/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_OVERLAY_H
#define CORE_OVERLAY_H

#include <stdbool.h>
#include <stdint.h>

#include "core/extmap.h"

/*
 * What a disk looks like from above: layers of extents, and below them the base. Where the VM stands by they are, from
 * above, the SVM's own writes and the committed epochs that are not in the base yet; the pending epoch is no layer until
 * it is flipped, so that nobody sees it. The maps are the caller's; here is only their order. Pure.
 */
#define OVERLAY_MAX	32u	/* layers of a disk */

struct overlay {
	const struct extmap *layer[OVERLAY_MAX];	/* the newest last */
	unsigned int n;
};

/* overlay_push() - a layer above all others. Return: 0, or -ENOSPC */
int overlay_push(struct overlay *o, const struct extmap *m);

/* overlay_drop() - a layer that is no longer one, wherever it is; its content is in the base, or is not wanted */
void overlay_drop(struct overlay *o, const struct extmap *m);

/*
 * overlay_at() - where the bytes from @off on are found
 * @end:   > off
 * @piece: filled: begins at @off, ends no later than @end and where somebody else has the say
 *
 * Return: true: @piece says what they are; false: they are those of the base (only off and len are filled)
 */
bool overlay_at(const struct overlay *o, uint64_t off, uint64_t end, struct ext *piece);

/* overlay_covers() - whether any layer says something about a byte of [off, off + len) */
bool overlay_covers(const struct overlay *o, uint64_t off, uint64_t len);

/*
 * overlay_next() - the first byte at or behind @off about which a layer says something
 * Return: false: there is none before @end
 */
bool overlay_next(const struct overlay *o, uint64_t off, uint64_t end, uint64_t *next);

#endif
