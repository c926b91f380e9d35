/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a node knows of its copy: theory of operation
 *
 * Two maps, for two questions. The *dirty bitmap* (fine, in memory) says what a peer has not; while the process lives
 * it is exact. The *write-intent map* (coarse, in the file before each first write to a region) is for the case that it
 * does not live on: it has at least the regions of all dirty blocks and of all writes that no peer has committed or
 * that are not durable here.
 *
 * A clean end writes the bitmap and marks it as good, together with the stamp of the image; the write-intent map then
 * holds only what had been found at the start and was never resynced, since the bitmap has the rest. So before that
 * mark may be taken away again, which the first write or the first change of the lineage does, the regions of the dirty
 * blocks must be back in the map, durably: in that order (metafile_write()). Whenever the process is killed, the file
 * has either the mark and a bitmap that is right, or a map that has it all.
 *
 * The lineage is in the header with the mark. meta_save() and a job may be under way at once: each takes its content
 * and a sequence number in the loop, and metafile_write() never lets an older header replace a newer one.
 */
#include "disk/meta.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "disk/bitmap.h"
#include "disk/intent.h"
#include "disk/metafile.h"

#define MAX_SIZE	(1ull << 53)	/* so that a block's size fits 32 bits */
#define STALE_MIN	16u		/* cleared regions that are worth a write of their own, at least */

struct meta_job {
	struct meta *m;
	bool busy, has_head;
	struct metafile_head head;
	struct intent_shot shot;
};

struct meta {
	struct metafile file;
	struct metafile_head head;	/* as it will be written next; its lineage is the one that others change */
	uint64_t size;
	struct bitmap dirty;
	struct intent intent;
	bool unclean;			/* the file exists and has no mark of a clean end: writes may begin */
	bool was_clean, was_touched;
	struct meta_job job;
};

/* A power of two, so that no more than @max of them make @size. */
static uint64_t unit(uint64_t size, uint64_t least, uint64_t max)
{
	while ((size + least - 1) / least > max)
		least *= 2;
	return least;
}

static void regions_of(const struct meta *m, uint64_t off, uint64_t len, uint32_t *from, uint32_t *to)
{
	*from = (uint32_t)(off / m->head.region);
	*to = len ? (uint32_t)((off + len - 1) / m->head.region) + 1 : *from;
}

/* want_dirty() - the write-intent map must have the regions of all dirty blocks */
static void want_dirty(struct meta *m)
{
	uint64_t first, end;
	uint32_t from, to;

	for (uint64_t at = 0; bitmap_next(&m->dirty, at, &first, &end); at = end) {
		regions_of(m, first * m->head.block, (end - first) * m->head.block, &from, &to);
		bitmap_set(&m->intent.want, from, to < m->intent.n ? to : m->intent.n);
	}
}

/* read_maps() - what an existing file has */
static int read_maps(struct meta *m, const struct meta_open *o, struct err *e)
{
	unsigned int broken;
	int rc = metafile_read_intent(&m->file, m->head.id, &m->intent, &broken, e);

	if (rc != 0)
		return rc;
	if (broken)
		log_note("%s: %u sectors of the write-intent map do not hold; their regions will be compared", o->path,
			 broken);
	bitmap_or(&m->intent.file, &m->intent.want);
	m->unclean = !m->head.clean;
	if (m->head.clean) {
		rc = metafile_read_bitmap(&m->file, &m->dirty, m->head.bitmap_sum, e);
		if (rc != 0 && rc != -EILSEQ)
			return rc;
		m->was_clean = rc == 0 && m->head.stamp == o->stamp;
		m->was_touched = !m->was_clean;
	}
	/* What a bitmap was known to hold went with it. */
	if (!m->was_clean)
		m->head.lineage.map = 0;
	if (m->was_touched) {
		bitmap_clear(&m->dirty, 0, m->dirty.n);
		bitmap_set(&m->intent.want, 0, m->intent.n);
	}
	bitmap_or(&m->intent.found, &m->intent.want);
	want_dirty(m);
	return 0;
}

static int open_meta(struct meta *m, const struct meta_open *o, struct err *e)
{
	uint64_t region = unit(o->size, META_REGION_MIN, INTENT_MAX_REGIONS);
	uint64_t block = unit(o->size, 4096, META_MAX_BITS);
	int rc;

	m->file.fd = -1;
	if (o->size == 0 || o->size > MAX_SIZE)
		return err_set(e, -EINVAL, "a disk of %llu bytes cannot be replicated", (unsigned long long)o->size);
	rc = metafile_open(&m->file, o->path, &m->head, e);
	if (rc != 0)
		return rc;
	if (m->file.made && m->head.size != o->size)
		return err_set(e, -EINVAL, "%.200s belongs to a disk of %llu bytes, but the image has %llu: if it was resized, or is another "
			       "one, on purpose, remove that file on both nodes; the secondary's copy is then made anew", o->path,
			       (unsigned long long)m->head.size, (unsigned long long)o->size);
	if (m->file.made && (m->head.region != region || m->head.block != block))
		return err_set(e, -EBADMSG, "%s is damaged: its maps are not those of a disk of %llu bytes", o->path,
			       (unsigned long long)o->size);
	m->size = o->size;
	if (bitmap_init(&m->dirty, (o->size + block - 1) / block) != 0 ||
	    intent_init(&m->intent, (uint32_t)((o->size + region - 1) / region)) != 0)
		return err_set(e, -ENOMEM, "out of memory");
	if (m->file.made)
		return read_maps(m, o, e);
	m->head = (struct metafile_head){ .seq = 1, .size = o->size, .region = region, .block = (uint32_t)block };
	if (getrandom(&m->head.id, sizeof(m->head.id), 0) != sizeof(m->head.id))
		return err_set(e, -errno, "no random numbers: %s", strerror(errno));
	return 0;
}

struct meta *meta_open(const struct meta_open *o, struct err *e)
{
	struct meta *m = calloc(1, sizeof(*m));

	if (!m) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	m->job.m = m;
	if (open_meta(m, o, e) != 0) {
		meta_close(m);
		return NULL;
	}
	return m;
}

void meta_close(struct meta *m)
{
	if (!m)
		return;
	if (m->file.path)
		metafile_close(&m->file);
	bitmap_free(&m->dirty);
	intent_free(&m->intent);
	free(m);
}

struct lineage *meta_lineage(struct meta *m)
{
	return &m->head.lineage;
}

int meta_found(struct meta *m, struct err *e)
{
	struct lineage *l = meta_lineage(m);
	uint8_t id[16];
	uint64_t tag;

	if (!lineage_fresh(l))
		return 0;
	if (getrandom(id, sizeof(id), 0) != sizeof(id) || getrandom(&tag, sizeof(tag), 0) != sizeof(tag))
		return err_set(e, -EIO, "no random numbers to name the disk by");
	lineage_begin(l, id, tag);
	return meta_save(m, e);
}

bool meta_next(struct meta *m)
{
	uint64_t tag;

	if (getrandom(&tag, sizeof(tag), GRND_NONBLOCK) != sizeof(tag))
		tag = (uint64_t)clock_ns();	/* there is a tag in the generation before too */
	return lineage_next(meta_lineage(m), tag);
}

bool meta_was_clean(const struct meta *m)
{
	return m->was_clean;
}

bool meta_was_touched(const struct meta *m)
{
	return m->was_touched;
}

/* next_head() - the header to be written now, without a mark of a clean end */
static struct metafile_head next_head(struct meta *m)
{
	m->head.seq++;
	m->head.clean = false;
	m->head.stamp = m->head.bitmap_sum = 0;
	return m->head;
}

/* Jobs and the writing of sectors */

struct meta_job *meta_job_begin(struct meta *m, bool header)
{
	struct meta_job *j = &m->job;

	if (j->busy)
		return NULL;
	j->busy = true;
	j->has_head = header || !m->unclean;
	if (j->has_head)
		j->head = next_head(m);
	intent_shoot(&m->intent, m->head.id, &j->shot);
	return j;
}

int meta_job_run(struct meta_job *j, struct err *e)
{
	return metafile_write(&j->m->file, NULL, &j->shot, j->has_head ? &j->head : NULL, e);
}

void meta_job_end(struct meta_job *j, int rc)
{
	intent_landed(&j->m->intent, &j->shot, rc == 0);
	if (rc == 0 && j->has_head)
		j->m->unclean = true;
	j->busy = false;
}

static int run_job(struct meta *m, bool header, struct err *e)
{
	struct meta_job *j = meta_job_begin(m, header);
	int rc;

	if (!j)
		return err_set(e, -EBUSY, "the write-intent map is being written");
	rc = meta_job_run(j, e);
	meta_job_end(j, rc);
	return rc;
}

int meta_intent_save(struct meta *m, struct err *e)
{
	return run_job(m, false, e);
}

int meta_save(struct meta *m, struct err *e)
{
	struct metafile_head h;
	int rc;

	if (!m->job.busy)
		return run_job(m, true, e);
	/*
	 * A job is under way, in a thread that may not have begun. If it is the one that takes the mark of a clean end
	 * away, its sectors have to be there before our header, which has no mark either.
	 */
	h = next_head(m);
	rc = metafile_write(&m->file, NULL, m->unclean ? NULL : &m->job.shot, &h, e);
	if (rc == 0)
		m->unclean = true;
	return rc;
}

int meta_end(struct meta *m, uint64_t stamp, struct err *e)
{
	struct metafile_head h;
	int rc;

	if (m->job.busy)
		return err_set(e, -EBUSY, "the write-intent map is being written");
	/* While the old bitmap is being overwritten there must be no mark that it is good. */
	want_dirty(m);
	rc = run_job(m, true, e);
	if (rc != 0)
		return rc;
	h = next_head(m);
	h.clean = true;
	h.stamp = stamp;
	h.bitmap_sum = metafile_sum(&m->dirty);
	rc = metafile_write(&m->file, &m->dirty, NULL, &h, e);
	if (rc != 0)
		return rc;
	m->unclean = false;
	/*
	 * The regions of the dirty blocks leave the map only now that the bitmap counts. A power loss in between costs
	 * a comparison of what was already known.
	 */
	bitmap_clear(&m->intent.want, 0, m->intent.n);
	bitmap_or(&m->intent.want, &m->intent.found);
	intent_shoot(&m->intent, m->head.id, &m->job.shot);
	rc = metafile_write(&m->file, NULL, &m->job.shot, NULL, e);
	intent_landed(&m->intent, &m->job.shot, rc == 0);
	want_dirty(m);
	return rc;
}

/* The dirty bitmap */

uint32_t meta_block(const struct meta *m)
{
	return m->head.block;
}

void meta_dirty(struct meta *m, uint64_t off, uint64_t len)
{
	uint32_t from, to;

	if (len == 0)
		return;
	bitmap_set(&m->dirty, off / m->head.block, (off + len - 1) / m->head.block + 1);
	regions_of(m, off, len, &from, &to);
	bitmap_set(&m->intent.want, from, to);
}

void meta_clean(struct meta *m, uint64_t off, uint64_t len)
{
	uint64_t b = m->head.block, from = (off + b - 1) / b, to = off + len == m->size ? m->dirty.n : (off + len) / b;

	if (from < to)
		bitmap_clear(&m->dirty, from, to);
}

/* next_run() - the first run of set bits at or after @off, in bytes; @unit: bytes of a bit */
static bool next_run(const struct meta *m, const struct bitmap *b, uint64_t unit, uint64_t off, uint64_t *start,
		     uint64_t *len)
{
	uint64_t first, end;

	if (!bitmap_next(b, off / unit, &first, &end))
		return false;
	*start = first * unit > off ? first * unit : off;
	end = end * unit < m->size ? end * unit : m->size;
	if (*start >= end)
		return false;
	*len = end - *start;
	return true;
}

bool meta_next_dirty(const struct meta *m, uint64_t off, uint64_t *start, uint64_t *len)
{
	return next_run(m, &m->dirty, m->head.block, off, start, len);
}

uint64_t meta_dirty_bytes(const struct meta *m)
{
	uint64_t bytes = m->dirty.set * m->head.block, tail = m->size % m->head.block;

	if (tail && bitmap_get(&m->dirty, m->dirty.n - 1))
		bytes -= m->head.block - tail;
	return bytes;
}

void meta_dirty_blocks(struct meta *m, const struct bitmap *b)
{
	bitmap_or(&m->dirty, b);
}

/* The write-intent map */

bool meta_intent(struct meta *m, uint64_t off, uint64_t len)
{
	uint32_t from, to;

	regions_of(m, off, len, &from, &to);
	return intent_ask(&m->intent, from, to) && m->unclean;
}

void meta_intent_epoch(struct meta *m, uint64_t n)
{
	m->intent.epoch = n;
}

void meta_intent_clear(struct meta *m, uint64_t n)
{
	struct intent *t = &m->intent;
	uint64_t first, end, blocks = m->head.region / m->head.block;

	for (uint64_t at = 0; bitmap_next(&t->want, at, &first, &end); at = end) {
		for (uint64_t i = first; i < end; i++) {
			uint64_t to = (i + 1) * blocks < m->dirty.n ? (i + 1) * blocks : m->dirty.n;

			if (t->last[i] + INTENT_KEEP > n || bitmap_get(&t->found, i) ||
			    bitmap_any(&m->dirty, i * blocks, to))
				continue;
			bitmap_clear(&t->want, i, i + 1);
		}
	}
}

bool meta_intent_stale(const struct meta *m)
{
	const struct intent *t = &m->intent;

	return !m->job.busy && t->file.set > t->want.set && t->file.set - t->want.set >= STALE_MIN &&
	       t->file.set - t->want.set >= t->file.set / 8;
}

bool meta_next_intent(const struct meta *m, uint64_t off, uint64_t *start, uint64_t *len)
{
	return next_run(m, &m->intent.found, m->head.region, off, start, len);
}

void meta_intent_reset(struct meta *m)
{
	bitmap_clear(&m->intent.found, 0, m->intent.n);
}
