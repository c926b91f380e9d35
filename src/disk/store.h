/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_STORE_H
#define DISK_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/account.h"
#include "base/err.h"
#include "base/loop.h"
#include "disk/blk.h"

/* What an image is kept in: a raw file or block device, or any other format behind a qemu-storage-daemon. */
struct store;

/* AUTO: io_uring where the kernel lets us, else threads; LOCKSTEP_DISK_IO=uring or threads in the environment decides it */
enum store_io { STORE_IO_AUTO, STORE_IO_URING, STORE_IO_THREADS };

/* Past the page cache? AUTO: see store_raw.c. ON where the file system cannot: with a note through the cache. */
enum store_direct { STORE_DIRECT_AUTO, STORE_DIRECT_ON, STORE_DIRECT_OFF };

struct store_cfg {
	struct loop *loop;	/* the disk loop; it may not run yet */
	const char *path;	/* of the image; copied */
	const char *format;	/* "raw", "qcow2", ...: never guessed */
	bool readonly;
	enum store_direct direct;
	bool shared;		/* another node has it open too, in the other role; raw only, direct or an error */
	bool serves;		/* the role, of a shared one */
	enum store_io io;
	const char *dir;	/* where sockets of a qemu-storage-daemon are made, for a moment */
	/* Path of QEMU: its qemu-storage-daemon is looked for beside it, then in PATH; may be NULL. */
	const char *qemu;
	const struct account *as;	/* the user that a qemu-storage-daemon runs as; NULL: ours */
	/* The store has become useless (its qemu-storage-daemon died): every request answers -EIO from now on. */
	void (*failed)(void *arg, const char *sentence);
	void *arg;
};

/*
 * store_open() - open and lock an image; blocks until it can be used
 *
 * Return: the store, or NULL with a sentence in @e: it does not exist, is in use (by which process, where that can be
 * found), is read-only, is no multiple of 512 bytes, a directory, ...
 */
struct store *store_open(const struct store_cfg *cfg, struct err *e);

/* store_blk() - the device; as long as the store lives */
struct blk *store_blk(struct store *s);

/*
 * store_reserve() - see to it that writing [off, off + len) will not fail for want of space; disk loop
 * Of a format that cannot allocate in advance: whether there is space for it now, beside what was promised before.
 * @done: from the disk loop, 0 or -errno
 */
void store_reserve(struct store *s, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *arg);

/*
 * store_file_stamp() - changes when anybody has changed the image file (size, times); for the trust in bitmaps. Blocks.
 *
 * Return: the stamp; 0: nobody can tell, as with a block device, so nothing that rests on the stamp may be trusted
 */
uint64_t store_file_stamp(struct store *s);

/*
 * Of a shared image: store_serves() - from now on this node serves; store_role_held() - whether another open file has
 * this role, as far as locks tell
 */
int store_serves(struct store *s, struct err *e);
bool store_role_held(struct store *s, bool serves);

/* For the status: store_io_name() - "io_uring", "threads" or "qemu-storage-daemon"; store_is_direct() - past the page cache */
const char *store_io_name(const struct store *s);
bool store_is_direct(const struct store *s);

/*
 * store_close() - waits for what is under way (done() is called for all of it) and unlocks; after the loop has ended, or
 * in it when nothing is under way. Makes nothing durable. NULL is fine.
 */
void store_close(struct store *s);

#endif
