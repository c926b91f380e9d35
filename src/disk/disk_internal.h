/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to disk.c, disk_open.c, disk_front.c and disk_peer.c. Nobody else includes this. */
#ifndef DISK_INTERNAL_H
#define DISK_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "disk/disk.h"
#include "disk/journal.h"
#include "disk/meta.h"
#include "disk/store.h"

#define DISK_PROGRESS_NS	(50 * NS_PER_MS)
#define DISK_STATS_NS		(100 * NS_PER_MS)

/* What QEMU's requests go to: the serving node's disk or the standby node's, which one may change. */
struct disk_front {
	struct blk blk;
	struct disk *d;
	struct blk *under;
	struct blk_req *held, **tail;	/* flushes between the promotion's order and its being done */
};

/* An image below a standby: counts what is under way, so that what must come after it can wait. */
struct disk_base {
	struct blk blk;
	struct disk *d;
	struct blk *under;
};

/* A message of the peer's that waits for room or for its turn. */
struct disk_msg {
	struct disk_msg *next;
	enum { DM_WRITE, DM_ZERO, DM_MARKER, DM_SYNC, DM_OLD } type;
	unsigned int disk;
	uint8_t sync;
	bool trim, no_hole;
	bool zero;		/* DM_OLD: and no data */
	uint64_t off, len, n;
	uint8_t data[];
};

struct disk {
	struct disk_cfg cfg;
	struct disk_ops ops;
	struct loop *loop;
	unsigned int n;
	char *id[DISK_MAX], *path[DISK_MAX];
	struct store *store[DISK_MAX];
	struct meta *meta[DISK_MAX];
	struct blk *bases[DISK_MAX];
	struct disk_front front[DISK_MAX];
	struct disk_base base[DISK_MAX];
	struct nbd_server *nbd;
	struct serve *serve;		/* this node serves */
	struct serve *_Atomic serving;	/* the same, for other threads */
	struct shared_serve *keep;	/* ... and the images are shared: in place of the one above */
	struct shared_serve *_Atomic keeping;
	struct standby *standby;	/* it stands by, or did and is the base of what serves */
	struct journal_file journal;
	char journal_path[4096];
	_Atomic bool promoting;		/* disk_promote() was called */
	bool serves, failed, up;	/* @up: a peer is there */
	bool alone;			/* serving: nobody else can have this VM */
	bool sync;			/* standing by: no epoch yet, everything goes into the images at once */
	unsigned int under_way;		/* requests to the images, of a standby */
	struct resync *resync;
	uint64_t job_n[DISK_JOBS];
	bool job_on[DISK_JOBS];
	/* disk_peer.c */
	struct disk_msg *fifo, **fifo_tail;
	uint64_t sent_msgs, sent_bytes, got_msgs, got_bytes;	/* since the last marker */
	uint64_t marker_n, flipped_n;
	bool resync_over;		/* this peer's images were made equal */
	nstime moved_at;
	struct resync_progress progress;
	bool debt, merging;
	_Atomic bool unsafe;		/* promoted, and what the guest was promised is not durable here yet */
	/* disk_shared.c */
	uint8_t token[16];		/* of the pair that this node is, or was last, a part of */
	bool paired;			/* it has one */
	bool join_waits;		/* the peer is waited for, or the end of the merge */
	bool claimed;
	uint64_t kept;			/* standing by: messages of old content, since the peer came */
	bool silencing, is_silent;
	struct loop_timer silence, claim;
	/* for everybody */
	pthread_mutex_t lock;
	pthread_cond_t closed;
	bool closing, is_closed, quiet;
	bool abandoned;			/* the end was not waited for: nothing is freed */
	nstime stuck_since;		/* the peer takes nothing */
	uint64_t stuck_at;
	nstime close_by;
	struct loop_timer timer;
	struct disk_stats stats;
};

/* disk_open.c */
int disk_open_images(struct disk *d, struct err *e);
void disk_close_images(struct disk *d);

/* disk_beside() - where what is known of image @i is kept */
int disk_beside(struct disk *d, unsigned int i, const char *suffix, char *out, size_t cap, struct err *e);

/* disk_shared.c */
/* disk_shared_open() - the journal, and what it has; after the images were opened. Return: 0; 1: the peer has it open */
int disk_shared_open(struct disk *d, struct err *e);
/* disk_shared_start() - serving: nobody else may go on with what was before */
int disk_shared_start(struct disk *d, struct err *e);
int disk_shared_serve(struct disk *d, struct blk *const *bases, struct err *e);
void disk_shared_join(struct disk *d);	/* DISK_RESYNC */
void disk_shared_merged(struct disk *d);
void disk_shared_alone(struct disk *d);
void disk_shared_promote(struct disk *d);
int disk_shared_message(struct disk *d, uint8_t type, const uint8_t *payload, uint32_t len, struct err *e);
extern const struct shared_peer disk_shared_peer;	/* its arg is to be filled in */

/* disk_front.c */
void disk_front_init(struct disk *d);
void disk_front_under(struct disk *d, unsigned int i, struct blk *under);
void disk_front_release(struct disk *d);	/* held flushes go on */
void disk_base_init(struct disk *d);

/* disk_peer.c */
int disk_resync_begin(struct disk *d, struct err *e);
/* disk_tell_debt() - whether frames may leave */
void disk_tell_debt(struct disk *d);
void disk_resync_end(struct disk *d);
void disk_fifo_run(struct disk *d);
void disk_fifo_drop(struct disk *d);
void disk_moved(struct disk *d);
extern const struct serve_peer disk_serve_peer;		/* its arg is to be filled in */

/* disk.c */
void disk_job_done(struct disk *d, enum disk_job job, int rc, const char *why);
void disk_fail(struct disk *d, int rc, const char *why);
/* disk_where() - a sentence, @what and where: the first image and the journal */
void disk_where(const struct disk *d, const char *what, char *out, size_t cap);

#endif
