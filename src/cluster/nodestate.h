/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_NODESTATE_H
#define CLUSTER_NODESTATE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "core/ft.h"

/* What a node must know of its VM when it is started again: a small file, see nodestate.c. */

#define NODESTATE_ID_LEN	16

enum nodestate_mode {
	NODESTATE_NEW,		/* this node has never had the VM */
	NODESTATE_ALONE,	/* it serves, and nobody can have taken over */
	NODESTATE_PAIR,		/* it serves, or has; a peer could take over */
	NODESTATE_STANDBY,	/* it is, or was, the other one's secondary */
	NODESTATE_ENDED,	/* it has served until the VM was ended */
	NODESTATE_MODES
};
const char *nodestate_mode_name(enum nodestate_mode m);	/* new, alone, pair, standby, ended */

struct nodestate_record {
	uint8_t id[NODESTATE_ID_LEN];	/* of this node; random, made once */
	uint32_t generation;		/* 0: new */
	enum nodestate_mode mode;
};

/*
 * nodestate_alone_begins() - may a node whose peer cannot be reached begin the VM, where no record says who has it?
 *
 * One of a pair may not, also when it has had the peer fenced: that may have served since, and this node's images are
 * old then.
 */
static inline bool nodestate_alone_begins(enum nodestate_mode m)
{
	return m == NODESTATE_NEW || m == NODESTATE_ALONE || m == NODESTATE_ENDED;
}

/*
 * nodestate_after() - what a node is that has ended
 * @was: what it was
 * @why: of its end
 *
 * Who has lost stays what it was: its images are whole until it is filled anew, and the one that was granted the VM
 * may have died before it knew. Were both secondaries then, neither would ever begin.
 */
enum nodestate_mode nodestate_after(enum nodestate_mode was, enum ft_reason why);

struct nodestate;

/*
 * nodestate_open() - read DIR/NAME.state, or make it; locked until nodestate_close() or the process's end
 * @dir: made (mode 0700) when it is not there
 *
 * Return: the state, or NULL with @e: -EBUSY (another process has it), -EBADMSG (this is no such file), others
 */
struct nodestate *nodestate_open(const char *dir, const char *name, struct err *e);
void nodestate_close(struct nodestate *s);	/* NULL is fine */

const struct nodestate_record *nodestate_get(const struct nodestate *s);

/*
 * nodestate_set() - write it down, durable when this returns; nothing is done where nothing changes. Blocks.
 * Return: 0, or -errno with @e: then the old one is in force
 */
int nodestate_set(struct nodestate *s, uint32_t generation, enum nodestate_mode mode, struct err *e);

#endif
