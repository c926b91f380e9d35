/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_SHARED_SERVE_H
#define DISK_SHARED_SERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "disk/blk.h"

/*
 * The disks of the node that serves, where both nodes share the images: writes go to the image only, and before the first
 * one to a block in an epoch the peer has the block's old content, confirmed. One object for all disks of the VM. Disk
 * loop only but where said. See shared_serve.c.
 */
struct shared_serve;

#define SHARED_BLOCK	4096u		/* whose old content is kept as a whole */
#define SHARED_PIECE	(256u << 10)	/* of old content, in one message */
#define SHARED_TRIM_MAX	(1u << 20)	/* bytes whose old content the peer lacks: a longer trim is dropped */
#define SHARED_SOFT	(64ull << 20)	/* bytes of old content in one epoch after which a checkpoint is wanted */

/* Toward the peer. Return: 0; -EAGAIN (nothing taken, shared_serve_writable() follows); any other: it is gone */
struct shared_peer {
	/* @data NULL: zeroes; else copied or sent before it returns; @len at most SHARED_PIECE. Each is confirmed, in order */
	int (*old)(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
	int (*marker)(void *arg, uint64_t n);
	void *arg;
};

struct shared_serve_ops {
	void (*want)(void *arg);	/* a checkpoint, because the peer keeps much; once until the next marker */
	void (*local_error)(void *arg, unsigned int disk, int rc);	/* for the log; the guest sees it itself */
	void (*debt)(void *arg, bool open);	/* as struct serve_ops has them */
	void (*debt_failed)(void *arg, int rc);
	void *arg;
};

struct shared_serve_stats {
	uint64_t written, zeroed, read;	/* bytes by the guest */
	uint64_t flushes, debts;
	uint64_t kept, kept_bytes;	/* messages of old content, their bytes, since the start */
	uint64_t waits;			/* requests that waited for the peer's confirmation */
	uint64_t requests;		/* under way now */
	uint64_t errors;
	uint64_t trims_dropped;
	bool blocked;			/* the peer is gone, nothing is decided, and requests wait for that */
};

/*
 * shared_serve_new() - @bases: of the @n disks, stay the caller's. Nobody is the peer yet
 * shared_serve_free() - nothing is under way
 */
struct shared_serve *shared_serve_new(struct blk *const *bases, unsigned int n, const struct shared_serve_ops *ops,
				      struct err *e);
void shared_serve_free(struct shared_serve *s);
/* shared_serve_blk() - disk @i as QEMU gets it */
struct blk *shared_serve_blk(struct shared_serve *s, unsigned int i);
/* shared_serve_limit() - in place of SHARED_SOFT */
void shared_serve_limit(struct shared_serve *s, uint64_t soft);

/*
 * shared_serve_peer() - somebody stands by from now on (copied). Nothing is kept before the first marker: there is no SVM
 * before it that could read.
 */
void shared_serve_peer(struct shared_serve *s, const struct shared_peer *peer);
/*
 * shared_serve_lost() - the connection has broken: what the peer does not have and needs is not overwritten until it is
 * decided who goes on. shared_serve_alone(): this node does
 */
void shared_serve_lost(struct shared_serve *s);
void shared_serve_alone(struct shared_serve *s);
/* shared_serve_rival() - whether somebody may take over who lacks what is overwritten without having been kept */
bool shared_serve_rival(const struct shared_serve *s);

void shared_serve_writable(struct shared_serve *s);
/* shared_serve_kept() - the peer has confirmed @count messages since shared_serve_peer(). Return: 0, -EPROTO */
int shared_serve_kept(struct shared_serve *s, uint64_t count);

/*
 * shared_serve_marker() - the VM stands: epoch n ends for all disks
 * Return: 0 (it is sent as soon as there is room); -EPIPE; -EBUSY: a write is under way, or the marker before it
 */
int shared_serve_marker(struct shared_serve *s, uint64_t n);

/* shared_serve_stopping() - any thread; as serve_stopping() */
void shared_serve_stopping(struct shared_serve *s, bool on);
/* shared_serve_owe() - as serve_owe() */
void shared_serve_owe(struct shared_serve *s);
/* shared_serve_silence() - no request that comes from now on is begun; those that wait for the peer fail */
void shared_serve_silence(struct shared_serve *s);

void shared_serve_stats(const struct shared_serve *s, struct shared_serve_stats *out);

#endif
