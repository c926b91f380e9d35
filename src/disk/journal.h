/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_JOURNAL_H
#define DISK_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "disk/standby.h"

/*
 * The journal file of a node that stands by: two header slots, and behind them chunks of one size, which hold the bytes
 * of layers (arena.c) and their indexes. The theory is in journal.c. Disk loop only; the file's calls are made by threads.
 */
#define JOURNAL_HEAD		4096u	/* bytes of a header slot */
#define JOURNAL_AREA		(2 * JOURNAL_HEAD)
#define JOURNAL_LAYERS		32u	/* that a header can name */
#define JOURNAL_NO_SLOT		UINT32_MAX
#define JOURNAL_KEEP		(64u << 20)	/* bytes at the begin of the file that are reused and not punched */

struct journal;

enum journal_op {
	JOURNAL_READ,
	JOURNAL_WRITE,
	JOURNAL_SETTLE,		/* sync if @sync, then write, then sync: a header */
	JOURNAL_PUNCH,
	JOURNAL_NOTHING,	/* only to come back from the loop */
};

/* One call of the file, in a thread; its maker's memory until done(). */
struct journal_job {
	enum journal_op op;
	bool sync;
	void *buf;
	uint64_t len, off;
	int rc;			/* of the call: 0 or -errno */
	bool written;		/* JOURNAL_SETTLE: the header may be there, also if it has failed */
	void (*done)(struct journal_job *job);	/* disk loop */
	void *arg;
	/* private */
	struct journal *j;
	struct journal_job *next;
};

struct journal_layer {
	uint64_t first;		/* where its first index block lies; 0: it has none */
	uint64_t id;		/* that its blocks must have */
	uint64_t epoch;		/* 0: it is none */
	uint32_t blocks;
};

/* What a header says. */
struct journal_head {
	uint64_t seq;
	uint64_t epoch;		/* that the bases are at */
	uint32_t disks, chunk, layers;
	uint8_t ids[STANDBY_MAX_DISKS][16];
	struct journal_layer layer[JOURNAL_LAYERS];	/* to be written to the bases in this order */
};

/* One extent in an index block */
struct journal_entry {
	uint32_t disk;
	uint32_t kind;		/* enum ext_kind */
	uint64_t off, len;
	uint64_t at;		/* in the file */
};

/*
 * journal_new() - read the headers and begin; blocks
 * @loop:  where jobs come back to
 * @chunk: bytes of a slot, at least 512
 * @slots: how many the file may have
 *
 * Return: NULL with a sentence: the file cannot be read, is damaged, or has what must be recovered first
 */
struct journal *journal_new(struct loop *loop, const struct journal_file *f, const uint8_t (*ids)[16], unsigned int n,
			    uint32_t chunk, uint32_t slots, struct err *e);
/* journal_free() - waits for the threads; jobs that are under way then do not come back */
void journal_free(struct journal *j);

void journal_submit(struct journal *j, struct journal_job *job);
/* journal_busy() - jobs under way */
unsigned int journal_busy(const struct journal *j);

/* journal_slot_get() - Return: a slot, or JOURNAL_NO_SLOT */
uint32_t journal_slot_get(struct journal *j);
void journal_slot_put(struct journal *j, uint32_t slot);
uint64_t journal_slot_off(const struct journal *j, uint32_t slot);
uint32_t journal_chunk(const struct journal *j);
uint32_t journal_slots_used(const struct journal *j);

/* The epoch of the bases, as last settled; 0: not yet by this process */
uint64_t journal_epoch(const struct journal *j);

/*
 * journal_settle() - make what was written durable, then a header that names @layers and @epoch, durable too
 * @data: something was written that the header refers to; one at a time
 * @done: @named: the header may be in the file, also if @rc is an error; else not, and then what was written is not
 *        durable and never will be by another sync: a file system tells of a page that it has lost once
 */
void journal_settle(struct journal *j, const struct journal_layer *layers, unsigned int n, uint64_t epoch, bool data,
		    void (*done)(void *arg, int rc, bool named), void *arg);

/*
 * The index of a layer: made of entries, written as a chain of blocks into slots.
 * journal_index_write() - entries[] is the caller's again at once. @done: 0 or -errno; then @ix is whole, or empty
 */
struct journal_index {
	struct journal_layer layer;
	uint32_t *slot;
	uint32_t slots, left;
	int rc;
	uint8_t *mem;
	struct journal_job *jobs;
	struct journal *j;
	void (*done)(void *arg, int rc);
	void *arg;
};
int journal_index_write(struct journal *j, struct journal_index *ix, const struct journal_entry *entries, uint32_t n,
			uint64_t epoch, void (*done)(void *arg, int rc), void *arg);
/* journal_index_free() - its slots may be used again; not while it is being written */
void journal_index_free(struct journal *j, struct journal_index *ix);

/*
 * journal_open() - a journal in a file of its own, made if it is not there
 * @path: other processes are kept out by a lock
 * journal_close() - after standby_free()
 *
 * Return: 0, or -errno with a sentence: in use, no regular file, no space
 */
int journal_open(struct journal_file *f, const char *path, struct err *e);
void journal_close(struct journal_file *f);
/* journal_unlock() - others may have it; nothing is written to it from now on */
void journal_unlock(struct journal_file *f);

/* For recovery: see standby_recover(). */
int journal_read_head(const struct journal_file *f, struct journal_head *h, struct err *e);
int journal_write_head(const struct journal_file *f, const struct journal_head *h);
/* journal_read_index() - call @fn for each entry. Return: 0, -EBADMSG (not what the header says), what @fn has returned */
int journal_read_index(const struct journal_file *f, const struct journal_head *h, const struct journal_layer *l,
		       int (*fn)(void *arg, const struct journal_entry *e), void *arg);

#endif
