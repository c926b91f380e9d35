/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_FENCE_H
#define CLUSTER_FENCE_H

#include <stdbool.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"

/* Seeing to it that the peer does nothing any more: a command that somebody has configured. See fence.c. */
struct fence;

struct fence_cfg {
	struct loop *loop;	/* where done() is called */
	const char *command;	/* for /bin/sh -c; empty: none */
	nstime timeout;		/* of the command, and then of alive() */
	const char *vm;		/* LOCKSTEP_VM in its environment */
	const char *peer;	/* LOCKSTEP_PEER: the peer's address, as far as it is known */
	/*
	 * In the fence's thread, all may block. claim(): before the command; an error (-errno with a sentence) is the result.
	 * unclaim(): it has failed. alive(): after it has succeeded: whether the peer shows that it is not off.
	 */
	int (*claim)(void *arg, struct err *e);
	void (*unclaim)(void *arg);
	bool (*alive)(void *arg);
	/*
	 * @rc: 0: the peer is off; -EOPNOTSUPP: there is no command; -ETIMEDOUT, -EIO (it has failed), -EBUSY (it says that
	 * the peer is off, and it is not), or what claim() has said. @why: a sentence
	 */
	void (*done)(void *arg, int rc, const char *why);
	void *arg;
};

/*
 * fence_allow() - this command may be started later, also when the helper of base/spawn.h is sealed
 * Return: 0 or -errno with @e
 */
int fence_allow(const char *command, struct err *e);

/*
 * fence_begin() - @cfg and its strings must stay until fence_end()
 * Return: the fence, or NULL with @e: no thread can be had; done() is not called then
 */
struct fence *fence_begin(const struct fence_cfg *cfg, struct err *e);
/* fence_end() - ends the command if it still runs, waits; after done(), or when nobody wants it any more. NULL is fine */
void fence_end(struct fence *f);

#endif
