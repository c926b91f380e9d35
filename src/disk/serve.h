/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_SERVE_H
#define DISK_SERVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "disk/blk.h"

/*
 * The disks of the node that serves: each write goes into the local base and to the peer. One object for all disks of the
 * VM. Stands on any struct blk: the stores, or a promoted node's standby_blk(). Disk loop only but where said. See serve.c.
 */
struct serve;
struct meta;

/* Toward the peer; messages in order. Return: 0; -EAGAIN (nothing taken, serve_writable() follows); -EPIPE: no peer */
struct serve_peer {
	int (*write)(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
	int (*zero)(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole);
	int (*marker)(void *arg, uint64_t n);
	void *arg;
};

struct serve_ops {
	void (*want)(void *arg);	/* a checkpoint, because too much is uncommitted */
	void (*local_error)(void *arg, unsigned int disk, int rc);	/* for the log and the status; the guest sees it itself */
	void (*debt)(void *arg, bool open);	/* true before the early answer of a flush, false when it was paid */
	void (*debt_failed)(void *arg, int rc);	/* protection must end */
	void *arg;
};

struct serve_stats {
	uint64_t written, zeroed, read;		/* bytes by the guest */
	uint64_t flushes, debts, intents;	/* intents: how often the write-intent map was made durable */
	uint64_t dirty_bytes;			/* that a peer would have to be sent (nobody is there) */
	uint64_t conflicts;			/* requests that waited for an overlapping one */
	uint64_t errors;
};

struct serve *serve_new(struct loop *l, struct blk *const *bases, struct meta *const *metas, unsigned int n,
			const struct serve_ops *ops, struct err *e);
void serve_free(struct serve *s);
/* serve_blk() - disk @i as QEMU gets it */
struct blk *serve_blk(struct serve *s, unsigned int i);

/*
 * serve_peer() - from now on writes go to this peer too (copied); NULL: nobody; what a former one has not confirmed by
 * serve_committed() is dirty. A write that waits for the peer's room is answered when the peer goes.
 */
void serve_peer(struct serve *s, const struct serve_peer *peer);
void serve_writable(struct serve *s);

/*
 * serve_marker() - the VM stands and nothing of it is under way: epoch n ends here for all disks
 * Return: 0, or -EPIPE
 */
int serve_marker(struct serve *s, uint64_t n);

/* serve_committed() - the peer has epoch n in its bases, durable: what was written up to then is not dirty any more */
void serve_committed(struct serve *s, uint64_t n);

/*
 * serve_stopping() - any thread: QEMU is about to be told `stop` (true) or has answered (false). A flush that comes in
 * between is QEMU's own (or cannot be told from it): it is answered at once, and a debt is open until the real one is done.
 */
void serve_stopping(struct serve *s, bool on);

/*
 * serve_lock() - for resync: no write of the guest to [off, off + len) is under way or begins until serve_unlock();
 * what is then read from the base and sent is in order with all writes that go to the peer.
 * @locked: called when it is so, maybe at once
 */
struct serve_range {
	unsigned int disk;
	uint64_t off, len;
	void (*locked)(struct serve_range *r);
	void *arg;
	struct serve_range *next;	/* private */
	bool held;
};
void serve_lock(struct serve *s, struct serve_range *r);
void serve_unlock(struct serve *s, struct serve_range *r);

void serve_stats(const struct serve *s, struct serve_stats *out);

#endif
