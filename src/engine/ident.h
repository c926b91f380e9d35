/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_IDENT_H
#define ENGINE_IDENT_H

#include <stdio.h>

#include "base/clock.h"
#include "base/err.h"
#include "engine/agentctl.h"
#include "engine/qmp.h"
#include "engine/ramblock.h"

/* What a QEMU that has just come up, stopped, says of itself. Control loop only. */
struct ident {
	struct ramblocks blocks;
	char *qtree;			/* `info qtree`; NULL before it has answered */
	/* while asking */
	struct agentctl *agent;
	nstime deadline;
	bool by_agent;			/* blocks are known already */
	void (*done)(void *arg, int rc, const struct err *e);
	void *arg;
};

/*
 * ident_ask() - ask for blocks of memory, for what a reset would write, and for the device tree
 * @id:    lives, and the agent with it, until @done was called
 * @agent: asked at once, and the monitor where it cannot tell
 * @done:  @rc: 0, or -errno with @e; not called when this function fails
 *
 * Return: 0, or -errno with @e filled
 */
int ident_ask(struct ident *id, struct qmp *qmp, struct agentctl *agent, nstime deadline,
	      void (*done)(void *arg, int rc, const struct err *e), void *arg, struct err *e);

/*
 * ident_shape() - what of it has to be equal on both nodes, as lines of a shape
 * @ram:  laid out; what its regions hold is what QEMU has put there at its start
 * @room: bytes that the lines may take
 *
 * Return: 0, or -errno with @e filled
 */
int ident_shape(const struct ident *id, const struct ram *ram, size_t room, FILE *f, struct err *e);

/* ident_free() - what it holds */
void ident_free(struct ident *id);

#endif
