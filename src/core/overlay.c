/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/overlay.h"

#include <errno.h>
#include <string.h>

int overlay_push(struct overlay *o, const struct extmap *m)
{
	if (o->n == OVERLAY_MAX)
		return -ENOSPC;
	o->layer[o->n++] = m;
	return 0;
}

void overlay_drop(struct overlay *o, const struct extmap *m)
{
	unsigned int i = 0;

	while (i < o->n && o->layer[i] != m)
		i++;
	if (i == o->n)
		return;
	o->n--;
	memmove(&o->layer[i], &o->layer[i + 1], (o->n - i) * sizeof(o->layer[0]));
}

bool overlay_at(const struct overlay *o, uint64_t off, uint64_t end, struct ext *piece)
{
	/* Each layer that has nothing at @off ends the piece where it has something. */
	for (unsigned int i = o->n; i-- > 0;) {
		if (extmap_at(o->layer[i], off, end, piece))
			return true;
		end = off + piece->len;
	}
	piece->off = off;
	piece->len = end - off;
	return false;
}

bool overlay_covers(const struct overlay *o, uint64_t off, uint64_t len)
{
	for (unsigned int i = 0; i < o->n; i++)
		if (extmap_overlaps(o->layer[i], off, len))
			return true;
	return false;
}

bool overlay_next(const struct overlay *o, uint64_t off, uint64_t end, uint64_t *next)
{
	bool found = false;
	struct ext e;

	for (unsigned int i = 0; i < o->n; i++) {
		if (!extmap_next(o->layer[i], off, &e) || e.off >= end)
			continue;
		end = e.off > off ? e.off : off;
		found = true;
		if (end == off)
			break;
	}
	if (found)
		*next = end;
	return found;
}
