/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to agentctl*.c: one request and its answer. */
#ifndef ENGINE_AGENTCTL_INTERNAL_H
#define ENGINE_AGENTCTL_INTERNAL_H

#include "agent/agent_proto.h"
#include "base/cursor.h"
#include "engine/agentctl.h"

enum {
	/* the longest answer is the list of blocks */
	REPLY_MAX = sizeof(struct agent_msg) + sizeof(struct agent_blocks) +
		    AGENT_MAX_BLOCKS * sizeof(struct agent_block),
	REPLY_FDS = 4,
};
static_assert((int)REPLY_MAX >= (int)(sizeof(struct agent_msg) + sizeof(struct agent_hello) +
				      AGENT_MAX_RANGES * sizeof(struct agent_range)), "a list of ranges fits, too");

struct agent_answer {
	struct cursor body;
	int fds[REPLY_FDS];
	int n_fds;
	uint8_t buf[REPLY_MAX];
};

/*
 * agentctl_exchange() - one request and its reply
 * @type: enum agent_type
 * @r:    filled when 0 is returned; agentctl_reply_end() it
 *
 * Return: 0; -errno with @e filled: the agent's own, or -ETIMEDOUT, -EPIPE, -EPROTO
 */
int agentctl_exchange(struct agentctl *a, uint16_t type, const void *payload, size_t len, struct agent_answer *r,
		      nstime deadline, struct err *e);

/* agentctl_reply_end() - close the descriptors that came and were not taken */
void agentctl_reply_end(struct agent_answer *r);

#endif
