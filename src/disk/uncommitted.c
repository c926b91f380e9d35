/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/uncommitted.h"

#include <errno.h>
#include <stdlib.h>

int uncommitted_init(struct uncommitted *u, struct meta *const *metas, const uint64_t *sizes, unsigned int disks)
{
	*u = (struct uncommitted){ .disks = disks, .metas = metas };
	u->epoch[0].seq = 1;
	for (unsigned int i = 0; i <= UNCOMMITTED_MAX; i++) {
		u->epoch[i].map = calloc(disks ? disks : 1, sizeof(struct bitmap));
		if (!u->epoch[i].map)
			return -ENOMEM;
		for (unsigned int d = 0; d < disks; d++) {
			uint64_t block = meta_block(metas[d]);

			if (bitmap_init(&u->epoch[i].map[d], (sizes[d] + block - 1) / block) != 0)
				return -ENOMEM;
		}
	}
	return 0;
}

void uncommitted_fini(struct uncommitted *u)
{
	for (unsigned int i = 0; i <= UNCOMMITTED_MAX; i++) {
		for (unsigned int d = 0; d < u->disks && u->epoch[i].map; d++)
			bitmap_free(&u->epoch[i].map[d]);
		free(u->epoch[i].map);
		u->epoch[i].map = NULL;
	}
}

void uncommitted_mark(struct uncommitted *u, unsigned int disk, uint64_t off, uint64_t len)
{
	uint64_t block = meta_block(u->metas[disk]);

	if (len)
		bitmap_set(&u->epoch[u->closed].map[disk], off / block, (off + len - 1) / block + 1);
}

uint64_t uncommitted_bytes(const struct uncommitted *u, bool all)
{
	uint64_t bytes = 0;

	for (unsigned int i = all ? 0 : u->closed; i <= u->closed; i++) {
		for (unsigned int d = 0; d < u->disks; d++)
			bytes += u->epoch[i].map[d].set * meta_block(u->metas[d]);
	}
	return bytes;
}

/* remove_oldest() - its maps, emptied, go to the end of the row */
static void remove_oldest(struct uncommitted *u)
{
	struct uncommitted_epoch first = u->epoch[0];

	for (unsigned int d = 0; d < u->disks; d++)
		bitmap_clear(&first.map[d], 0, first.map[d].n);
	for (unsigned int i = 0; i < UNCOMMITTED_MAX; i++)
		u->epoch[i] = u->epoch[i + 1];
	u->epoch[UNCOMMITTED_MAX] = (struct uncommitted_epoch){ .map = first.map };
	u->closed--;
}

void uncommitted_close(struct uncommitted *u, uint64_t n)
{
	uint64_t seq = uncommitted_seq(u);

	if (u->closed == UNCOMMITTED_MAX) {
		for (unsigned int d = 0; d < u->disks; d++)
			bitmap_or(&u->epoch[1].map[d], &u->epoch[0].map[d]);
		remove_oldest(u);
	}
	u->epoch[u->closed].n = n;
	u->epoch[++u->closed].seq = seq + 1;
}

uint64_t uncommitted_drop(struct uncommitted *u, uint64_t n)
{
	uint64_t seq = 0;

	while (u->closed && u->epoch[0].n <= n) {
		seq = u->epoch[0].seq;
		remove_oldest(u);
	}
	return seq;
}

bool uncommitted_give_up(struct uncommitted *u)
{
	bool any = uncommitted_bytes(u, true) > 0;

	for (unsigned int i = 0; i <= u->closed; i++) {
		for (unsigned int d = 0; d < u->disks; d++)
			meta_dirty_blocks(u->metas[d], &u->epoch[i].map[d]);
	}
	uncommitted_close(u, 0);
	while (u->closed)
		remove_oldest(u);
	return any;
}
