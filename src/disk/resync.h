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
 *	target -> source   RSY_HELLO      for each disk: size, lineage, clean?, number of intent ranges; then RSY_RANGES
 *	source -> target   RSY_PLAN       verdict and mode for each disk (nothing, send, compare, all), or RSY_REFUSE + sentence
 *	source -> target   RSY_HASHES     of consecutive blocks; the target compares with its own (both read at once)
 *	target -> source   RSY_DIFFER     a bit for each of them
 *	source -> target   data as ordinary writes and zeroes of the stream (standby_write(), in sync mode)
 *	source -> target   RSY_DONE       all disks sent; the target makes it durable
 *	target -> source   RSY_SYNCED     the target's lineage is ours now
 */
enum rsy_type { RSY_HELLO = 1, RSY_RANGES, RSY_PLAN, RSY_REFUSE, RSY_HASHES, RSY_DIFFER, RSY_DONE, RSY_SYNCED, RSY_PROGRESS };

#define RSY_MAX_PAYLOAD	(64u << 10)

struct rsy_msg {
	enum rsy_type type;
	uint16_t disk;
	uint32_t len;
	const uint8_t *payload;	/* its content is made and read by resync_wire.c, through cursors */
};

struct resync_peer {
	int (*msg)(void *arg, const struct rsy_msg *m);		/* Return: 0, -EAGAIN (then resync_writable()), -EPIPE */
	/* data toward the peer, in order with the guest's writes */
	int (*write)(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data);
	int (*zero)(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole);
	void *arg;
};

struct resync_progress {
	unsigned int disk, disks;
	uint64_t done, total;	/* bytes of all disks that were looked at or sent, of how many */
	uint64_t sent, read;	/* bytes moved to the peer, read here */
	uint64_t rate;		/* bytes a second, over the last seconds */
	uint64_t left_ms;	/* UINT64_MAX: not known */
	bool comparing;
};

struct resync_cfg {
	struct loop *loop;
	unsigned int n;
	struct blk *const *bases;	/* source: what serve_blk() stands on; target: the bases */
	struct meta *const *metas;
	uint64_t rate;			/* bytes a second sent and compared, 0: no limit */
	bool discard;			/* target: --discard-disks, whatever it has may be overwritten */
	void (*done)(void *arg, int rc, const char *sentence);	/* -EPERM: refused; the sentence says which command decides */
	void (*progress)(void *arg, const struct resync_progress *p);
	void *arg;
};

struct resync;
struct resync *resync_source(const struct resync_cfg *cfg, struct serve *serve, const struct resync_peer *peer, struct err *e);
struct resync *resync_target(const struct resync_cfg *cfg, const struct resync_peer *peer, struct err *e);
/* resync_message() - Return: 0, or -EPROTO with @e: the peer has said what it must not */
int resync_message(struct resync *r, const struct rsy_msg *m, struct err *e);
void resync_writable(struct resync *r);
void resync_rate(struct resync *r, uint64_t rate);
/* resync_free() - also in the middle: what was done is kept in the metas, a next one goes on from there */
void resync_free(struct resync *r);

#endif
