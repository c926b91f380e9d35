/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_BLK_H
#define DISK_BLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * A block device as every part of disk/ sees one: the stores (a raw file, a qemu-storage-daemon, memory in tests) and
 * what stands on them (the serving node's disk, the standby node's overlay). The NBD server serves any of them.
 *
 * One thread, the disk loop, owns them all: blk_submit() and done() are called there and nowhere else. A store that
 * blocks does so in threads of its own and comes back by loop_post() or a descriptor.
 */
enum blk_op {
	BLK_READ,
	BLK_WRITE,
	BLK_ZERO,	/* reads as zeroes afterwards */
	BLK_TRIM,	/* may be dropped: what it reads as afterwards is not said, but is the same each time */
	BLK_FLUSH,	/* what was answered before is durable afterwards; off and len are 0 */
	BLK_STATUS,	/* which parts are holes, which read as zeroes */
	BLK_CACHE,	/* will be read soon */
};

enum blk_flag {
	BLK_FUA = 1 << 0,	/* WRITE, ZERO, TRIM: durable when answered */
	BLK_NO_HOLE = 1 << 1,	/* ZERO: the space must stay allocated */
	BLK_FAST_ZERO = 1 << 2,	/* ZERO: -ENOTSUP rather than writing zeroes, and nothing was changed then */
};

#define BLK_HOLE	1u	/* nothing is allocated */
#define BLK_ZEROES	2u	/* reads as zeroes */

#define BLK_MAX_LEN	(32u << 20)	/* of a READ or WRITE */
#define BLK_MAX_EXTENTS	1024u		/* that a STATUS answers; what is left of the range is not described */

struct blk_extent {
	uint64_t len;		/* the first begins at the request's offset, each other where the one before ends */
	uint32_t flags;		/* BLK_HOLE, BLK_ZEROES */
};

struct blk_req {
	enum blk_op op;
	uint32_t flags;		/* enum blk_flag */
	uint64_t off, len;	/* bytes; any alignment, inside the device (whoever makes the request sees to that) */
	uint8_t *buf;		/* READ: filled; WRITE: read, untouched until done */
	struct blk_extent *ext;	/* STATUS: filled, at most @n_ext; @n_ext is then how many there are */
	unsigned int n_ext;
	/*
	 * @rc: 0 or -errno (-EIO, -ENOSPC, -ENOTSUP, -EROFS, -ESHUTDOWN when the device is being closed). May be called from
	 * inside blk_submit(). The request is the caller's again, who may free it or submit it anew.
	 */
	void (*done)(struct blk_req *r, int rc);
	void *arg;		/* the maker's */

	/* The device's, until done. */
	struct blk_req *next;
	void *priv;
	uint64_t num;
};

struct blk;

struct blk_ops {
	void (*submit)(struct blk *b, struct blk_req *r);
};

struct blk {
	const struct blk_ops *ops;
	uint64_t size;		/* bytes; never changes */
	uint32_t align;		/* 1, 512 or 4096: requests of this alignment cost no reading before writing; others work too */
	uint32_t pref;		/* preferred size of a request, for NBD clients */
	bool readonly;		/* WRITE, ZERO, TRIM answer -EROFS */
	bool fast_zero;		/* ZERO is fast */
	uint32_t trim_grain;	/* where it is not: of whole pieces of this size, a power of 2, it is; 0: of nothing */
};

/* blk_clip_trim() - of a trim, what @b can zero fast: all of it, its whole pieces, or nothing, and then it returns false */
static inline bool blk_clip_trim(const struct blk *b, uint64_t *off, uint64_t *len)
{
	uint64_t grain = b->trim_grain, end = *off + *len;

	if (b->fast_zero)
		return true;
	if (!grain)
		return false;
	*off = (*off + grain - 1) & ~(grain - 1);
	if (end != b->size)
		end &= ~(grain - 1);
	*len = end > *off ? end - *off : 0;
	return *len;
}

/* blk_submit() - begin a request; done() is called once */
static inline void blk_submit(struct blk *b, struct blk_req *r)
{
	b->ops->submit(b, r);
}

#endif
