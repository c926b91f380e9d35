/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_STANDBY_H
#define DISK_STANDBY_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "disk/blk.h"

/*
 * The disks of a node that stands by: base images, pending epochs, the SVM's own writes; after a promotion the merge of
 * all that into the bases while the VM runs. One object for all disks of the VM, since they are cut together.
 * Disk loop only. See standby.c.
 */
struct standby;

struct standby_disk {
	struct blk *base;
	/* As store_reserve(); NULL: cannot tell. So that a committed epoch cannot fail for want of space. */
	void (*reserve)(void *arg, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *done_arg);
	void *arg;
};

/* Where the journal is kept, so that tests can give it a medium that crashes. Blocking; called off the loop if threads. */
struct journal_file {
	int (*pread)(void *arg, void *buf, uint64_t len, uint64_t off);		/* all of it, or -errno; past the end: zeroes */
	int (*pwrite)(void *arg, const void *buf, uint64_t len, uint64_t off);
	int (*sync)(void *arg);
	int (*punch)(void *arg, uint64_t off, uint64_t len);
	void *arg;
};

struct standby_limits {
	uint64_t memory;	/* bytes of pending and own writes kept in memory; what is more goes to the journal file */
	uint64_t soft;		/* bytes pending, or own: ops.want() */
	uint64_t hard;		/* bytes: ops.failed(-ENOSPC) */
	uint32_t extents;	/* in all maps; the soft limit of these is half of it */
};

struct standby_ops {
	void (*want)(void *arg);		/* a checkpoint, because a soft limit is reached; once until the next flip */
	void (*committed)(void *arg, uint64_t n); /* epoch n and all before are in the bases, durable */
	void (*failed)(void *arg, int rc, const char *sentence); /* this node cannot stand by any more; once */
	void (*merged)(void *arg);		/* after a promotion: everything is in the bases, durable; reads and writes go straight */
	void *arg;
};

struct standby_stats {
	uint64_t pending_bytes, own_bytes, committed_bytes;	/* now, in memory and in the file */
	uint64_t spilled_bytes;
	uint32_t extents;
	uint64_t written_back;		/* bytes, since the start */
	uint64_t flips, merges;
	uint64_t epoch;			/* that the bases are at, durable */
};

/*
 * standby_recover() - before anything else: what a former process had committed and not written back goes into the bases
 * @epoch: filled with the epoch of the bases; 0: the journal is empty or new
 * Blocks. A journal of other disks (@ids, one for each, random, 16 bytes) is an error that says so.
 */
int standby_recover(const struct journal_file *j, struct blk *const *bases, const uint8_t (*ids)[16], unsigned int n,
		    uint64_t *epoch, struct err *e);

struct standby *standby_new(struct loop *l, const struct standby_disk *disks, const uint8_t (*ids)[16], unsigned int n,
			    const struct journal_file *j, const struct standby_limits *limits,
			    const struct standby_ops *ops, struct err *e);
void standby_free(struct standby *s);

/* standby_blk() - disk @i as the SVM (after standby_promote(): the VM) sees it; this is what NBD serves */
struct blk *standby_blk(struct standby *s, unsigned int i);

/*
 * standby_sync_mode() - on (at first): what the peer writes goes straight into the base, there is no SVM;
 * off: into the pending epoch. Switched off by the first standby_barrier().
 */
void standby_sync_mode(struct standby *s, bool on);

/*
 * standby_write() / _zero() / _trim() - the peer's, in its order, of the epoch that follows the last barrier
 * @data: copied before it returns
 * Return: 0; -EAGAIN: too much is under way, ops.. room() comes; -EINVAL: outside the disk
 */
int standby_write(struct standby *s, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
int standby_zero(struct standby *s, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole);

/* standby_barrier() - all of epoch n is there */
void standby_barrier(struct standby *s, uint64_t n);

/* standby_reserve() - applying n cannot fail any more: space is there. @done: 0 or -errno */
void standby_reserve(struct standby *s, uint64_t n, void (*done)(void *arg, int rc), void *arg);

/*
 * standby_flip() - epoch n (which was reserved) is the disk now, what the SVM wrote is gone; the SVM is stopped, none of
 * its requests is under way. Takes no time; journal and bases follow. A second flip of the same n does nothing.
 */
int standby_flip(struct standby *s, uint64_t n, struct err *e);

/* standby_abort() - epoch n never became one: what is pending for it belongs to n + 1 */
void standby_abort(struct standby *s, uint64_t n);

/*
 * standby_promote() - what is pending (never STAGED) is dropped, the SVM's own writes become the disk's; from now on a
 * flush is answered only when committed epochs, own writes and everything since are durable. Idempotent.
 */
void standby_promote(struct standby *s);

/* standby_dirty() - after a promotion: call @fn for each range that may differ from what the dead peer had at epoch @n committed */
void standby_own_ranges(struct standby *s, unsigned int disk, void (*fn)(void *arg, uint64_t off, uint64_t len), void *arg);

void standby_stats(const struct standby *s, struct standby_stats *out);

#endif
