/* SPDX-License-Identifier: BSD-2-Clause */
/* Asking the agent for QEMU's blocks of memory, and moving them into the guest's memory file; else as agentctl.c. */
#include "engine/agentctl_internal.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

_Static_assert((int)RAM_NAME == (int)AGENT_NAME && (int)RAMBLOCKS_MAX == (int)AGENT_MAX_BLOCKS, "as the agent has it");

int agentctl_blocks(struct agentctl *a, struct ramblocks *out, nstime deadline, struct err *e)
{
	struct agent_blocks h = { 0 };
	struct agent_answer r;
	int rc = agentctl_exchange(a, AGENT_BLOCKS, NULL, 0, &r, deadline, e);

	out->n = 0;
	if (rc < 0)
		return rc;
	cursor_copy(&r.body, &h, sizeof(h));
	if (r.body.bad || h.n > RAMBLOCKS_MAX)
		rc = err_set(e, -EPROTO, "the agent in QEMU names too many blocks of memory");
	for (uint32_t i = 0; rc == 0 && i < h.n; i++) {
		struct ramblock *b = &out->b[i];
		struct agent_block in = { 0 };

		cursor_copy(&r.body, &in, sizeof(in));
		if (r.body.bad || memchr(in.name, 0, sizeof(in.name)) == NULL) {
			rc = err_set(e, -EPROTO, "the agent in QEMU names a block of memory that cannot be");
			break;
		}
		*b = (struct ramblock){
			.addr = in.addr, .len = in.len, .state = (in.flags & AGENT_BLOCK_STATE) != 0,
			.in_file = (in.flags & AGENT_BLOCK_IN_FILE) != 0,
		};
		for (size_t k = 0; in.name[k]; k++)
			b->name[k] = isprint((unsigned char)in.name[k]) ? in.name[k] : '?';
	}
	agentctl_reply_end(&r);
	if (rc == 0)
		out->n = h.n;
	return rc;
}

int agentctl_place(struct agentctl *a, const struct ram *ram, const struct ramblocks *blocks, bool share, bool copy,
		   nstime deadline, struct err *e)
{
	for (unsigned int i = 0; i < ram->n_regions; i++) {
		const struct ram_region *g = &ram->region[i];
		const struct ramblock *b = ramblocks_find(blocks, g->name);
		struct agent_place p;
		struct agent_answer r;
		int rc;

		if (!b || b->addr == 0 || b->len != g->count * RAM_PAGE)
			return err_set(e, -EXDEV, "QEMU has no block of memory %s as it had", g->name);
		p = (struct agent_place){
			.addr = b->addr, .len = b->len, .offset = g->first * RAM_PAGE, .shared = share, .copy = copy,
		};
		rc = agentctl_exchange(a, AGENT_PLACE, &p, sizeof(p), &r, deadline, e);
		if (rc < 0)
			return err_prefix(e, "%s", g->name);
		agentctl_reply_end(&r);
	}
	return 0;
}
