/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_STORE_H
#define DISK_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "disk/blk.h"

/* What an image is kept in: a raw file or block device, or any other format behind a qemu-storage-daemon. */
struct store;

enum store_io { STORE_IO_AUTO, STORE_IO_URING, STORE_IO_THREADS };

struct store_cfg {
	struct loop *loop;	/* the disk loop; it may not run yet */
	const char *path;	/* of the image; copied */
	const char *format;	/* "raw", "qcow2", ...: never guessed */
	bool readonly;
	bool direct;		/* without the page cache where the file system can */
	bool shared;		/* another node has it open too: no lock is taken */
	enum store_io io;
	const char *dir;	/* where sockets of a qemu-storage-daemon are made */
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
 * @done: from the disk loop, 0 or -errno; 0 at once for a format that cannot tell
 */
void store_reserve(struct store *s, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *arg);

/* store_file_stamp() - changes when anybody has changed the image file (size, times); for the trust in bitmaps */
uint64_t store_file_stamp(struct store *s);

/* store_close() - waits for what is under way; after the loop has ended, or in it when nothing is under way */
void store_close(struct store *s);

#endif
