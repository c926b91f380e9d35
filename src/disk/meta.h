/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_META_H
#define DISK_META_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "core/lineage.h"

/*
 * What a node knows of its copy of a disk, in a file beside the image (IMAGE.lockstep, or in --disk-dir): lineage,
 * dirty bitmap, write-intent map, how it ended. All in the disk loop but meta_job_run(); meta_save() and meta_end()
 * block for an fdatasync or a few. See meta.c.
 */
struct meta;

#define META_MAX_BITS	(8u << 20)	/* of the dirty bitmap: the block grows with the disk, 4 KiB at least */
#define META_REGION_MIN	(1u << 20)	/* of the write-intent map; grows with the disk, 64 Ki regions at most */

struct meta_open {
	const char *path;
	uint64_t size;		/* of the disk; another one in the file is an error that names both */
	uint64_t stamp;		/* store_file_stamp(): the bitmap is trusted only if it is that of the clean end */
};

/*
 * meta_open() - read and lock, or make a new one (an empty file, locked, until the first meta_save())
 *
 * Return: the meta; NULL with a sentence in @e: -EBUSY: another process has it; -EBADMSG: damaged; -EINVAL: of a disk
 * of another size
 */
struct meta *meta_open(const struct meta_open *o, struct err *e);
void meta_close(struct meta *m);

/*
 * The lineage is a value; who changes it saves it. meta_save() is durable (two slots, checksummed, the newer valid one
 * counts), and takes a mark of a clean end away: what is in the file afterwards is what a killed node is to find.
 */
struct lineage *meta_lineage(struct meta *m);
int meta_save(struct meta *m, struct err *e);
/*
 * meta_found() - a copy that has never been part of a pair becomes the first of one, durably; any other stays as it is.
 * Return: 0, or -errno with a sentence
 */
int meta_found(struct meta *m, struct err *e);
/* meta_next() - lineage_next() with a tag of its own; not durable yet. Return: as lineage_next() */
bool meta_next(struct meta *m);
/*
 * meta_end() - a clean end: bitmap and stamp too, and the mark that they can be trusted
 *
 * The image must have been flushed, what no peer has confirmed be dirty (serve_peer(NULL) sees to that), and no job be
 * under way. Return: 0, or -errno: then the next meta_open() finds a node that was killed.
 */
int meta_end(struct meta *m, uint64_t stamp, struct err *e);
bool meta_was_clean(const struct meta *m);	/* when it was opened: ended cleanly, and the stamp agrees */
/*
 * meta_was_touched() - it ended cleanly, but its stamp or its bitmap do not agree: somebody else has changed the image.
 * Then the whole disk is in what meta_next_intent() finds, so that all of it is compared.
 */
bool meta_was_touched(const struct meta *m);

/*
 * The dirty bitmap: blocks of meta_block() bytes that a peer has not, or may not have. In memory; durable at
 * meta_end(). Empty when the end was not clean: what was dirty then is in the regions that meta_next_intent() finds.
 */
uint32_t meta_block(const struct meta *m);
void meta_dirty(struct meta *m, uint64_t off, uint64_t len);
void meta_clean(struct meta *m, uint64_t off, uint64_t len);	/* only blocks that lie in it whole */
/* meta_next_dirty() - the first dirty range at or after @off; false: none */
bool meta_next_dirty(const struct meta *m, uint64_t off, uint64_t *start, uint64_t *len);
uint64_t meta_dirty_bytes(const struct meta *m);

struct bitmap;
/* meta_dirty_blocks() - blocks (of meta_block() bytes) that are set in @b become dirty; bitmap.h */
void meta_dirty_blocks(struct meta *m, const struct bitmap *b);

/*
 * The write-intent map: regions in which the base may differ from what the peer has committed, durable before the first
 * write to a region. meta_intent() says whether a write to this range may begin now; if not, meta_intent_save() makes
 * it so (blocking: one write and one fdatasync for all regions asked for since).
 */
bool meta_intent(struct meta *m, uint64_t off, uint64_t len);
int meta_intent_save(struct meta *m, struct err *e);
/*
 * The same without blocking: meta_job_begin() takes what is to be written (in the disk loop; @header: the lineage as it
 * is now, too), meta_job_run() writes it (any thread, blocks), meta_job_end() says how that went (in the loop again).
 * One at a time: NULL while one is under way. meta_save() may come in between.
 */
struct meta_job;
struct meta_job *meta_job_begin(struct meta *m, bool header);
int meta_job_run(struct meta_job *j, struct err *e);
void meta_job_end(struct meta_job *j, int rc);
/*
 * meta_intent_epoch() - epoch n begins: regions written from now on are marked with it; n only grows while a meta is
 * open
 * meta_intent_clear() - n is committed at the peer, and durable here: regions last written in n or before may be
 * cleared,
 *	but not those that have dirty blocks.
 * Cleared lazily: a region stays for INTENT_KEEP epochs, so that a busy one is not made durable again and again.
 * meta_intent_stale() - so many regions were cleared and are still in the file that it is worth a meta_intent_save()
 */
void meta_intent_epoch(struct meta *m, uint64_t n);
void meta_intent_clear(struct meta *m, uint64_t n);
bool meta_intent_stale(const struct meta *m);
/* meta_next_intent() - as meta_next_dirty(), of what was found in the file when it was opened and was not resynced since */
bool meta_next_intent(const struct meta *m, uint64_t off, uint64_t *start, uint64_t *len);
/* meta_intent_reset() - the copies are equal: what was found is of no account any more */
void meta_intent_reset(struct meta *m);

#endif
