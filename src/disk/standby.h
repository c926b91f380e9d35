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

#define STANDBY_MAX_DISKS	32u
#define STANDBY_MAX_EPOCHS	16u	/* committed and not in the bases: standby_reserve() of one more waits */

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
	/*
	 * NULL: threads make the calls above. Else (tests) this is called in their place, and calls work(job) and then
	 * finish(job) when it likes, not inside run().
	 */
	void (*run)(void *arg, void *job, void (*work)(void *job), void (*finish)(void *job));
	void *arg;
};

struct standby_limits {
	uint64_t memory;	/* bytes of pending and own writes kept in memory; what is more goes to the journal file */
	uint64_t soft;		/* bytes pending, or own: ops.want() */
	uint64_t hard;		/* bytes: ops.failed(-ENOSPC) */
	uint32_t extents;	/* in all maps; the soft limit of these is half of it */
	uint32_t chunk;		/* bytes that memory and journal file are given out in, a power of 2; 0: 256 KiB */
	bool shared;		/* the bases are the serving peer's too: it says what it is about to overwrite, standby_old() */
};

struct standby_ops {
	void (*want)(void *arg);		/* a checkpoint, because a soft limit is reached; once until the next flip */
	void (*committed)(void *arg, uint64_t n); /* epoch n and all before are in the bases, durable */
	void (*failed)(void *arg, int rc, const char *sentence); /* this node cannot stand by any more; once */
	void (*room)(void *arg);		/* after -EAGAIN: try again */
	/* after a promotion: the merge has failed, is tried again, and the overlay is read meanwhile; for log and status */
	void (*trouble)(void *arg, int rc, const char *sentence);
	/* after a promotion: what the VM was told is flushed, and what it had written before, is durable here; once */
	void (*safe)(void *arg);
	void (*merged)(void *arg);		/* after a promotion: everything is in the bases, durable; reads and writes go straight */
	void *arg;
};

struct standby_stats {
	uint64_t pending_bytes, own_bytes, committed_bytes;	/* now, in memory and in the file */
	uint64_t spilled_bytes;
	uint32_t extents;
	uint64_t written_back;		/* bytes, since the start */
	uint64_t flips, merges;
	uint64_t waits;			/* how often a write found no room */
	uint64_t file_bytes;		/* of the journal file that are in use */
	uint64_t epoch;			/* of this pair, that the bases are at, durable; 0: none yet */
};

/*
 * standby_recover() - before anything else: what a former process had committed and not written back goes into the bases
 * @l:     the bases' loop, which must be running in another thread; NULL: they answer from inside blk_submit()
 * @epoch: filled with the epoch of the bases, in the numbers of the last standby_new() that has committed one; 0: the
 *	journal is empty or new, or was that of other disks
 * Blocks. May be repeated as often as one likes. A journal of other disks (@ids, one for each, 16 bytes) that has what
 * must be written to them is an error that says so; without that it is taken over by standby_new().
 */
int standby_recover(struct loop *l, const struct journal_file *j, struct blk *const *bases, const uint8_t (*ids)[16],
		    unsigned int n, uint64_t *epoch, struct err *e);

/*
 * standby_new() - blocks for reading the journal's headers
 * @l: the disk loop; NULL only with a @j that has run(): then nothing is tried again before standby_retry()
 * What @disks and @limits point to is copied; the bases stay the caller's.
 */
struct standby *standby_new(struct loop *l, const struct standby_disk *disks, const uint8_t (*ids)[16], unsigned int n,
			    const struct journal_file *j, const struct standby_limits *limits,
			    const struct standby_ops *ops, struct err *e);
/*
 * standby_quiesce() - @done, once, when nothing is left to write to the bases (or that has failed) and nothing is under way
 * standby_free() - after that, or when the loop has ended
 */
void standby_quiesce(struct standby *s, void (*done)(void *arg), void *arg);
void standby_free(struct standby *s);
/* standby_retry() - after ops.trouble(): now, not after a second */
void standby_retry(struct standby *s);

/* standby_blk() - disk @i as the SVM (after standby_promote(): the VM) sees it; this is what NBD serves */
struct blk *standby_blk(struct standby *s, unsigned int i);

/*
 * standby_sync_mode() - on (at first): what the peer writes goes straight into the base, there is no SVM;
 * off: into the pending epoch. Switched off by the first standby_barrier().
 */
void standby_sync_mode(struct standby *s, bool on);

/*
 * standby_write(), standby_zero() - the peer's, in its order, of the epoch that follows the last barrier
 * @data: copied before it returns
 * @trim: the peer's guest does not need the space; it reads as zeroes all the same, also where that must be written
 * Return: 0; -EAGAIN: too much is under way, nothing was taken, ops.room() comes and the same must be said again;
 * -EINVAL: outside the disk; -EIO: this node has failed, or was promoted
 */
int standby_write(struct standby *s, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
int standby_zero(struct standby *s, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole);

/*
 * standby_old() - shared bases: the peer is about to overwrite this for the first time in the epoch that follows the last
 * barrier, and this is what it was; @data NULL: zeroes. What has been said of a byte in this epoch already stays.
 * Return: as standby_write(); when it is 0 the peer may be told that it may write
 */
int standby_old(struct standby *s, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);

/* standby_barrier() - all of epoch n is there */
void standby_barrier(struct standby *s, uint64_t n);

/*
 * standby_reserve() - applying n, whose barrier was there, cannot fail any more: it is in the journal file, and there is
 * space in the bases. @done: 0 or -errno; -ECANCELED: aborted, or promoted
 */
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

/*
 * standby_own_ranges() - the ranges in which this disk differs from the dead peer's: what the SVM has written itself, and
 * what was pending and is dropped. To be called in the same turn of the loop as standby_promote(), before or behind it.
 */
void standby_own_ranges(struct standby *s, unsigned int disk, void (*fn)(void *arg, uint64_t off, uint64_t len), void *arg);

void standby_stats(const struct standby *s, struct standby_stats *out);

#endif
