/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_SERVE_H
#define DISK_SERVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "disk/blk.h"
#include "disk/rangelock.h"

/*
 * The disks of the node that serves: each write goes into the local base and to the peer. One object for all disks of
 * the VM. Stands on any struct blk: the stores, or a promoted node's standby_blk(). Disk loop only but where said. See
 * serve.c.
 */
struct serve;
struct meta;

/*
 * Toward the peer; messages in order; a WRITE has at most SERVE_PIECE bytes, which are copied or sent before it
 * returns.
 * Return: 0; -EAGAIN (nothing taken, serve_writable() follows); any other: the peer is not there any more.
 * @zero: reads as zeroes afterwards on the peer too, whether @trim or not: after a TRIM the copies are to be equal, so
 *	it is only said where the range reads as zeroes here. @trim says that the guest does not need the space.
 */
#define SERVE_PIECE	(1u << 20)
struct serve_peer {
	int (*write)(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
	int (*zero)(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole);
	int (*marker)(void *arg, uint64_t n);
	void *arg;
};

struct serve_ops {
	void (*want)(void *arg);	/* a checkpoint, because too much is uncommitted; once until the next marker */
	void (*local_error)(void *arg, unsigned int disk, int rc);	/* for the log and the status; the guest sees it itself */
	void (*debt)(void *arg, bool open);	/* true before the early answer of a flush, false when it was paid */
	void (*debt_failed)(void *arg, int rc);	/* protection must end */
	void *arg;
};

struct serve_stats {
	uint64_t written, zeroed, read;		/* bytes by the guest */
	uint64_t flushes, debts, intents;	/* intents: how often the write-intent map was made durable */
	uint64_t dirty_bytes;			/* that a peer would have to be sent (nobody is there) */
	uint64_t uncommitted_bytes;		/* in blocks that a peer has not confirmed */
	uint64_t waits;				/* writes that waited for room in the connection */
	uint64_t held;				/* writes that waited for a debt to be paid */
	uint64_t requests;			/* under way now */
	uint64_t conflicts;			/* requests that waited for an overlapping one */
	uint64_t errors;
};

/*
 * serve_new() - nobody is the peer yet
 * @bases, @metas: of the @n disks; stay the caller's, as long as the serve lives. One that is promoted gives
 * standby_blk()s
 *	here, on which this never stops standing; they hand on when they have been merged
 * @l: the disk loop; NULL: tests without a thread, see saver.h
 */
struct serve *serve_new(struct loop *l, struct blk *const *bases, struct meta *const *metas, unsigned int n,
			const struct serve_ops *ops, struct err *e);
/* serve_free() - no request is under way */
void serve_free(struct serve *s);
/* serve_blk() - disk @i as QEMU gets it */
struct blk *serve_blk(struct serve *s, unsigned int i);

/* serve_limit() - bytes written in one epoch after which ops.want() is called; SERVE_SOFT until then */
#define SERVE_SOFT	(256ull << 20)
void serve_limit(struct serve *s, uint64_t soft);

/*
 * serve_peer() - from now on writes go to this peer too (copied); NULL: nobody; what a former one has not confirmed by
 * serve_committed() is dirty. A write that waits for the peer's room is answered when the peer goes.
 *
 * A connection that breaks is not the end of the pair: as soon as a peer's function fails nothing is sent any more, and
 * the VM's writes go on, uncommitted, as far as anybody knows. NULL says that it is decided that this node goes on
 * alone: what is uncommitted becomes dirty, and a new generation (lineage_next()) is durable before the next write
 * begins; it is begun at once if something was uncommitted. So a node that is silenced instead has begun none, and the
 * promoted peer's copy is the newer one without anybody's being asked. It is the same at the start, where nobody is the
 * peer: the generation begins with the first write.
 */
void serve_peer(struct serve *s, const struct serve_peer *peer);
void serve_writable(struct serve *s);
/*
 * serve_waiting() - whether something waits for room in the connection; @taken: how many have waited and got it so far, so
 * that whoever looks again and again sees whether it moves
 */
bool serve_waiting(const struct serve *s, uint64_t *taken);
/* serve_give_up() - the peer takes nothing: nothing more is sent, what waits for room goes on, as when its functions fail */
void serve_give_up(struct serve *s);

/*
 * serve_marker() - the VM stands and nothing of it is under way: epoch n ends here for all disks
 *
 * A write that is under way nevertheless belongs to both epochs: it is dirty until the later one is committed.
 * Return: 0 (it is sent as soon as there is room); -EPIPE; -EBUSY: the marker before it has not been sent
 */
int serve_marker(struct serve *s, uint64_t n);

/* serve_committed() - the peer has epoch n in its bases, durable: what was written up to then is not dirty any more */
void serve_committed(struct serve *s, uint64_t n);

/*
 * serve_stopping() - any thread: the VM stands (true), and QEMU drains and flushes its disks until it answers `stop`
 * (false). A flush that comes in between is answered at once, and a debt is open until the real one is done.
 * serve_owe() in the disk loop after it has begun: so are those that came in before. See debt.c.
 */
void serve_stopping(struct serve *s, bool on);
void serve_owe(struct serve *s);

/*
 * serve_lock() - for resync: no write of the guest to [off, off + len) is under way or begins until serve_unlock();
 * what is then read from the base and sent is in order with all writes that go to the peer.
 * @locked: called when it is so, maybe at once
 *
 * A write marks its range as dirty after it has got its lock. So who sends a range calls meta_clean() while holding it.
 * serve_unlock() is also for one that is still waited for: @locked is not called then.
 */
struct serve_turn {		/* private to serve.c */
	struct rangelock_entry range;
	bool is_range, queued;
	struct serve_turn *next;
};

struct serve_range {
	struct serve_turn turn;	/* private */
	unsigned int disk;
	uint64_t off, len;
	void (*locked)(struct serve_range *r);
	void *arg;
	bool held;
};
void serve_lock(struct serve *s, struct serve_range *r);
void serve_unlock(struct serve *s, struct serve_range *r);

/* serve_saver_step() - tests: what the thread does otherwise; Return: whether there was something to do */
bool serve_saver_step(struct serve *s);

void serve_stats(const struct serve *s, struct serve_stats *out);

#endif
