/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_RESYNC_H
#define DISK_RESYNC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "core/lineage.h"
#include "disk/blk.h"
#include "disk/meta.h"
#include "disk/serve.h"

/*
 * Bringing a peer's disks up to date while the VM runs: source (where the VM serves) and target. Messages are structs here;
 * link/codec makes bytes of them. Disk loop only. See resync.c.
 *
 *	target -> source   RSY_HELLO      for each disk: size, lineage, what it knows of its copy; then RSY_RANGES for each
 *	source -> target   RSY_PLAN       verdict, mode and lineage for each disk, or RSY_REFUSE + sentence
 *	target -> source   RSY_READY      the lineage is the source's, marked as unfinished, durable
 *	source -> target   RSY_HASHES     of consecutive blocks; the target compares with its own (both read at once)
 *	target -> source   RSY_DIFFER     a bit for each of them, and finer hashes of those that differ
 *	source -> target   data as ordinary writes and zeroes of the stream (standby_write(), in sync mode)
 *	source -> target   RSY_PROGRESS   how far it is; from time to time with a number that asks for an answer
 *	target -> source   RSY_PROGRESS   this number: all that was sent before it is durable
 *	source -> target   RSY_DONE       all disks sent, and their lineages as they are now; the target makes it durable
 *	target -> source   RSY_SYNCED     the target's lineage is ours now; marked as unfinished until resync_settled()
 */
enum rsy_type {
	RSY_HELLO = 1, RSY_RANGES, RSY_PLAN, RSY_REFUSE, RSY_HASHES, RSY_DIFFER, RSY_DONE, RSY_SYNCED, RSY_PROGRESS, RSY_READY,
};

#define RSY_MAX_PAYLOAD	(64u << 10)
#define RSY_MAX_DISKS	32u

struct rsy_msg {
	enum rsy_type type;
	uint16_t disk;
	uint32_t len;
	const uint8_t *payload;	/* its content is made and read by resync_wire.c, through cursors */
};

/* All three copy what they are given. Return: 0; -EAGAIN: nothing taken, resync_writable() follows; -EPIPE: no peer */
struct resync_peer {
	int (*msg)(void *arg, const struct rsy_msg *m);
	/* source: data toward the peer, in order with the messages and with the guest's writes; at most RSY_MAX_WRITE bytes */
	int (*write)(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
	int (*zero)(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole);
	void *arg;
};
#define RSY_MAX_WRITE	(256u << 10)

struct resync_progress {
	unsigned int disk, disks;
	uint64_t done, total;	/* bytes of all disks that were looked at or sent, of how many */
	uint64_t sent, read;	/* bytes of content moved to the peer, read at the source */
	uint64_t rate;		/* bytes a second of @done, over the last seconds */
	uint64_t left_ms;	/* UINT64_MAX: not known */
	bool comparing;
};

struct resync_cfg {
	struct loop *loop;
	unsigned int n;			/* disks, at most RSY_MAX_DISKS */
	struct blk *const *bases;	/* copied; source: what serve_blk() stands on; target: the bases */
	struct meta *const *metas;	/* copied */
	uint64_t rate;			/* source: bytes a second sent and compared, 0: no limit */
	bool discard;			/* target: --discard-disks, whatever it has may be overwritten */
	/*
	 * target: call @settled when all writes and zeroes of the stream that came before now have been answered by the
	 * bases (not yet flushed); once, maybe at once, also after resync_free(). NULL: they always have
	 */
	void (*settle)(void *arg, void (*settled)(void *settle_arg), void *settle_arg);
	/* source: the target has agreed to the plan: what the guest writes from now on must go to it, before this returns */
	void (*ready)(void *arg);
	/* Once; 0: the copies are equal; -EPERM: refused, the sentence says which command decides; resync_free() may be called in it. */
	void (*done)(void *arg, int rc, const char *sentence);
	/* A few times a second; source: if done, sent or read has changed since the last time. May be NULL */
	void (*progress)(void *arg, const struct resync_progress *p);
	void *arg;
};

struct resync;
/*
 * resync_source() - wait for a target's RSY_HELLO; the guest's writes go to it from cfg.ready() on (serve_peer())
 * resync_target() - say RSY_HELLO. Disks too many, or one whose copy may not serve (source): NULL with a sentence
 */
struct resync *resync_source(const struct resync_cfg *cfg, struct serve *serve, const struct resync_peer *peer, struct err *e);
struct resync *resync_target(const struct resync_cfg *cfg, const struct resync_peer *peer, struct err *e);
/* resync_message() - Return: 0, or -EPROTO with @e: the peer has said what it must not, and done() was called */
int resync_message(struct resync *r, const struct rsy_msg *m, struct err *e);
void resync_writable(struct resync *r);
/* resync_rate() - source: from now on; 0: no limit */
void resync_rate(struct resync *r, uint64_t rate);
/*
 * resync_running() - target: whether it has agreed to the plan, so that its copy may be written (also when that has ended
 * since); false before, for a source, and for NULL
 */
bool resync_running(const struct resync *r);
/* resync_progress() - how far it is, now */
void resync_progress(const struct resync *r, struct resync_progress *out);
/*
 * resync_free() - also in the middle: what the target has not confirmed is dirty in the metas again, a next one goes on
 * from there. Before serve_free(); bases must answer what is under way. done() is not called any more. NULL is fine
 */
void resync_free(struct resync *r);

/*
 * resync_settled() - target: the first checkpoint behind the resync is durable in the bases: they are a state of a time now
 *
 * Until then the guest's writes go into the bases as they come, unordered and not flushed, so that the copies must not
 * serve. Blocks for an fdatasync or a few, the first time; does nothing later. Return: 0, or -errno with @e (a copy that
 * could not be written down is unfinished still, and taken up again by the next call)
 */
int resync_settled(struct meta *const *metas, unsigned int n, struct err *e);

#endif
