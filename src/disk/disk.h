/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_DISK_H
#define DISK_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/account.h"
#include "base/err.h"
#include "base/loop.h"
#include "disk/nbd_server.h"
#include "disk/resync.h"
#include "disk/serve.h"
#include "disk/shared_serve.h"
#include "disk/standby.h"

/*
 * All disks of one VM on one node: images, what a node knows of them, the NBD server that QEMU uses, and the half of the
 * replication that this node's role asks for. See disk.c.
 */
struct disk;

#define DISK_MAX	32	/* disks of one VM */

struct disk_image {
	const char *id;		/* the NBD export's name; the same on both nodes */
	const char *path, *format;
	bool direct;		/* without the page cache */
};

#define DISK_SYNC_SHARED 0x40	/* types of send_sync() from here on: a few a pair, which may neither wait nor be lost */

enum disk_job {
	DISK_RESYNC,	/* serving: the peer's images are brought up to date; n: the epoch, only given back */
	DISK_MARK,	/* serving, VM stopped: epoch n ends */
	DISK_FLIP,	/* standing by, SVM stopped: epoch n is the disk */
	DISK_JOBS
};

/* Bound by node.c; all called in the disk loop. */
struct disk_ops {
	/* Toward the peer, in order. Return: 0, -EAGAIN (nothing taken; disk_writable() follows), -EPIPE */
	int (*send_write)(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
	int (*send_zero)(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole);
	int (*send_marker)(void *arg, uint64_t n, uint64_t msgs, uint64_t bytes);
	int (*send_committed)(void *arg, uint64_t n);
	int (*send_sync)(void *arg, unsigned int disk, uint8_t type, const uint8_t *payload, uint32_t len);
	int (*send_old)(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
	int (*send_kept)(void *arg, uint64_t count);
	void (*consumed)(void *arg, uint64_t bytes, uint64_t msgs);	/* of what disk_take_*() was given: credit for more */
	/* @why: a sentence where rc is not 0 */
	void (*done)(void *arg, enum disk_job job, uint64_t n, int rc, const char *why);
	void (*barrier)(void *arg, uint64_t n, int rc, const char *why);	/* standing by: epoch n is here whole, or cannot be */
	void (*want)(void *arg);				/* a checkpoint */
	/* standing by: cannot any more; serving: protection must end, or (@images) this node's images are of no use */
	void (*failed)(void *arg, bool images, int rc, const char *why);
	void (*progress)(void *arg);	/* something on the connection or of a resync has moved; at most every 50 ms */
	void (*debt)(void *arg, bool open);			/* serving: no frame may leave while it is */
	void *arg;
};

struct disk_cfg {
	struct loop *loop;		/* the disk loop, which does not run yet */
	struct disk_image image[DISK_MAX];
	unsigned int n;
	const char *dir;		/* for what is known of the images, the journal; NULL: beside the images */
	const char *run_dir;		/* for sockets */
	const struct account *as;	/* the user that qemu-storage-daemons run as; NULL: ours */
	const char *socket;		/* where QEMU finds the NBD server */
	bool serves;			/* the role at the start */
	bool discard;			/* --discard-disks */
	bool shared;			/* --shared-disk: both nodes have the same images */
	uint64_t resync_rate;		/* bytes a second; 0: no limit */
	nstime patience;		/* that the peer may take nothing of what is written; well below what `stop` may take */
};

struct disk_stats {
	bool serves, resyncing, debt, merging;
	bool shared;
	struct shared_serve_stats keep;	/* of shared images */
	struct serve_stats serve;
	struct standby_stats standby;
	struct resync_progress resync;
	struct nbd_stats nbd;
	struct {
		uint64_t size, dirty;
		uint64_t generation;
	} disk[DISK_MAX];
};

/*
 * disk_new() - open the images; blocks
 *
 * Return: the disks, or NULL with a sentence in @e that begins with the image's path
 */
struct disk *disk_new(const struct disk_cfg *cfg, const struct disk_ops *ops, struct err *e);
/*
 * disk_start() - put right what a former process has left, listen for QEMU; the disk loop runs in another thread, and this
 * one waits for it. Return: 0, or -errno with a sentence
 */
int disk_start(struct disk *d, struct err *e);
uint64_t disk_size(const struct disk *d, unsigned int i);

/* disk_job() - begin a job, ops.done() follows; any thread */
void disk_job(struct disk *d, enum disk_job job, uint64_t n);
/* disk_alone() - it is decided that this node goes on without its peer: what it has not confirmed is to be sent to a next one; any thread */
void disk_alone(struct disk *d);
/* disk_peer() - a peer is connected (its connection takes messages), or is gone; disk loop */
void disk_peer(struct disk *d, bool up);
void disk_writable(struct disk *d);

/* Messages of the peer; disk loop. Return: 0, or -EPROTO with @e */
int disk_take_write(struct disk *d, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data, struct err *e);
int disk_take_zero(struct disk *d, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole, struct err *e);
int disk_take_marker(struct disk *d, uint64_t n, uint64_t msgs, uint64_t bytes, struct err *e);
int disk_take_committed(struct disk *d, uint64_t n, struct err *e);
int disk_take_old(struct disk *d, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data, struct err *e);
int disk_take_kept(struct disk *d, uint64_t count, struct err *e);
int disk_take_sync(struct disk *d, unsigned int disk, uint8_t type, const uint8_t *payload, uint32_t len, struct err *e);

/* disk_promote() - this node serves from now on; no flush that is answered after this call is less than durable; any thread */
void disk_promote(struct disk *d);
/*
 * Shared images, standing by; any thread but the disk loop, blocking for a file or two.
 * disk_claim() - before a fence: that this node is to go on, and not the peer. Of the two who may both want that one gets
 * it, by a file that only one can make. Return: 0; -ESTALE: the peer has gone on, or another has begun to serve; -errno
 * disk_unclaim() - the fence has failed, the peer may go on
 * disk_peer_writes() - whether locks tell that the peer has the images open as the one that serves
 */
int disk_claim(struct disk *d, struct err *e);
void disk_unclaim(struct disk *d);
bool disk_peer_writes(struct disk *d);
/*
 * disk_silence() - shared images, serving: QEMU is gone; no request is begun any more, and none is under way when this
 * returns true. Blocks, for 3 seconds at most; any thread but the disk loop
 */
bool disk_silence(struct disk *d);

/* disk_stopping() - the VM stands, and QEMU has not answered `stop` yet (true), or has (false); any thread */
void disk_stopping(struct disk *d, bool on);
void disk_stats(struct disk *d, struct disk_stats *out);	/* a recent copy; any thread */

/*
 * disk_close() - a clean end: QEMU is gone; what is under way ends, what was committed goes into the images, what is
 * known is written down. Blocks; the disk loop must still run. disk_free() when it has ended.
 */
void disk_close(struct disk *d);
/* disk_free() - after the disk loop has ended; NULL is fine */
void disk_free(struct disk *d);

#endif
