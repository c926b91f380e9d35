/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A raw image, file or block device: theory of operation
 *
 * Reads, writes and flushes go to io.h as they are; whatever else the kernel has no asynchronous call for is a function
 * that a thread runs (raw_ops.c). Requests run in parallel; who makes overlapping ones at once does not care for their order.
 *
 * Past the page cache (O_DIRECT) the kernel takes only whole sectors out of aligned memory. Anything else works all the
 * same: a thread reads the sectors at the ends, puts the new bytes into them and writes them whole. Two writes that
 * are neighbours in one sector do not overlap for whoever makes them, but do here: so a request that changes
 * a part of a sector has its sectors to itself (a range lock, in the disk loop): it waits for all
 * that change something there, and they for it. Requests of whole sectors do not wait for one another.
 *
 * A flush that has failed cannot be repeated through the page cache: the kernel counts the pages as written, and the
 * next flush would say that all is well. So after one that failed all of them fail. A write with FUA may be the
 * one that hears, once, that what others have written is lost; so one that has failed for the disk's sake counts, too.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"
#include "disk/imagelock.h"
#include "disk/io.h"
#include "disk/raw_ops.h"
#include "disk/store_internal.h"

#define SPARE_MAX	256u	/* freed requests that are kept */

struct raw_req {
	struct io_job job;
	struct raw *raw;
	struct blk_req *r;
	uint64_t lo, hi;		/* what it changes, in whole sectors */
	bool changes;			/* it is in one of the lists below */
	bool alone;			/* it changes a part of a sector */
	struct raw_req *prev, *next;
	/* store_reserve() */
	void (*reserved)(void *arg, int rc);
	void *reserved_arg;
	uint64_t off, len;
};

struct raw_list {
	struct raw_req *first, *last;
};

struct raw {
	struct store store;
	struct raw_file file;
	struct io *io;
	int lost;			/* a flush has failed: what all others get */
	struct raw_list active, waiting; /* those that change something; only when direct */
	unsigned int n_alone;		/* in both */
	struct raw_req *spare;
	unsigned int n_spare;
};

static void list_add(struct raw_list *l, struct raw_req *q)
{
	q->prev = l->last;
	q->next = NULL;
	if (l->last)
		l->last->next = q;
	else
		l->first = q;
	l->last = q;
}

static void list_del(struct raw_list *l, struct raw_req *q)
{
	if (q->prev)
		q->prev->next = q->next;
	else
		l->first = q->next;
	if (q->next)
		q->next->prev = q->prev;
	else
		l->last = q->prev;
}

/* Whether @q has to wait for one of those from @p on, up to @end. */
static bool conflicts(const struct raw_req *q, const struct raw_req *p, const struct raw_req *end)
{
	for (; p && p != end; p = p->next)
		if ((q->alone || p->alone) && q->lo < p->hi && p->lo < q->hi)
			return true;
	return false;
}

static void change_begin(struct raw *raw, struct raw_req *q)
{
	q->changes = true;
	raw->n_alone += q->alone;
	if (raw->n_alone && (conflicts(q, raw->active.first, NULL) || conflicts(q, raw->waiting.first, NULL))) {
		list_add(&raw->waiting, q);
		return;
	}
	list_add(&raw->active, q);
	io_submit(raw->io, &q->job);
}

static void change_end(struct raw *raw, struct raw_req *q)
{
	struct raw_req *next;

	list_del(&raw->active, q);
	raw->n_alone -= q->alone;
	for (q = raw->waiting.first; q; q = next) {
		next = q->next;
		if (conflicts(q, raw->active.first, NULL) || conflicts(q, raw->waiting.first, q))
			continue;
		list_del(&raw->waiting, q);
		list_add(&raw->active, q);
		io_submit(raw->io, &q->job);
	}
}

static struct raw_req *req_new(struct raw *raw)
{
	struct raw_req *q = raw->spare;

	if (!q)
		return calloc(1, sizeof(*q));
	raw->spare = q->next;
	raw->n_spare--;
	memset(q, 0, sizeof(*q));
	return q;
}

static void req_free(struct raw *raw, struct raw_req *q)
{
	if (raw->n_spare >= SPARE_MAX) {
		free(q);
		return;
	}
	q->next = raw->spare;
	raw->spare = q;
	raw->n_spare++;
}

static void finished(struct io_job *j, int rc)
{
	struct raw_req *q = j->arg;
	struct raw *raw = q->raw;
	struct blk_req *r = q->r;
	bool durable = r->op == BLK_FLUSH || r->flags & BLK_FUA;

	if (q->changes)
		change_end(raw, q);
	req_free(raw, q);
	/* A flush that finds no fault after another has found one knows less. */
	if (!rc && durable)
		rc = raw->lost;
	if (rc && (r->op == BLK_FLUSH || (durable && rc == -EIO)) && !raw->store.direct && !raw->lost) {
		log_error("%s: a %s has failed (%s): no flush of this image can succeed any more", raw->store.path,
			  r->op == BLK_FLUSH ? "flush" : "write that must be durable", strerror(-rc));
		raw->lost = rc;
	}
	r->done(r, rc);
}

/* In a thread. */
static int call(struct io_job *j)
{
	struct raw_req *q = j->arg;

	return raw_perform(&q->raw->file, q->r);
}

static void submit(struct blk *b, struct blk_req *r)
{
	struct raw *raw = (struct raw *)b;
	uint64_t mask = raw->file.align - 1;
	bool changes = r->op == BLK_WRITE || r->op == BLK_ZERO || r->op == BLK_TRIM, whole;
	struct raw_req *q;

	if (changes && b->readonly) {
		r->done(r, -EROFS);
		return;
	}
	q = req_new(raw);
	if (!q) {
		r->done(r, -ENOMEM);
		return;
	}
	q->raw = raw;
	q->r = r;
	whole = !((r->off | r->len) & mask);
	q->job = (struct io_job){ .kind = IO_CALL, .fd = raw->file.fd, .off = r->off, .len = (uint32_t)r->len, .buf = r->buf,
				  .dsync = r->flags & BLK_FUA, .call = call, .done = finished, .arg = q };
	if (r->op == BLK_FLUSH)
		q->job.kind = IO_SYNC;
	else if (r->op == BLK_READ || r->op == BLK_WRITE)
		if (whole && !((uintptr_t)r->buf & (raw->file.mem_align - 1)))
			q->job.kind = r->op == BLK_READ ? IO_READ : IO_WRITE;
	if (!changes || !raw->store.direct) {
		io_submit(raw->io, &q->job);
		return;
	}
	q->lo = r->off & ~mask;
	q->hi = (r->off + r->len + mask) & ~mask;
	q->alone = !whole;
	change_begin(raw, q);
}

static const struct blk_ops ops = { .submit = submit };

static int reserve_call(struct io_job *j)
{
	struct raw_req *q = j->arg;

	return raw_reserve(&q->raw->file, q->off, q->len);
}

static void reserve_finished(struct io_job *j, int rc)
{
	struct raw_req *q = j->arg;
	void (*done)(void *arg, int rc) = q->reserved;
	void *arg = q->reserved_arg;

	req_free(q->raw, q);
	done(arg, rc);
}

static void reserve(struct store *s, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *arg)
{
	struct raw *raw = (struct raw *)s;
	struct raw_req *q;

	if (s->blk.readonly || raw->file.blockdev || !len) {
		done(arg, s->blk.readonly ? -EROFS : 0);
		return;
	}
	q = req_new(raw);
	if (!q) {
		done(arg, -ENOMEM);
		return;
	}
	q->raw = raw;
	q->reserved = done;
	q->reserved_arg = arg;
	q->off = off;
	q->len = len;
	q->job = (struct io_job){ .kind = IO_CALL, .call = reserve_call, .done = reserve_finished, .arg = q };
	io_submit(raw->io, &q->job);
}

static void close_raw(struct store *s)
{
	struct raw *raw = (struct raw *)s;
	struct raw_req *q;

	io_free(raw->io);
	while ((q = raw->spare)) {
		raw->spare = q->next;
		free(q);
	}
	close(raw->file.fd);
	free(raw);
}

static const char *name_of_io(const struct store *s)
{
	return io_name(((const struct raw *)s)->io);
}

static const struct store_kind kind = { .reserve = reserve, .close = close_raw, .io_name = name_of_io };

static int open_image(struct raw_file *f, const struct store_cfg *cfg, struct err *e)
{
	int flags = (cfg->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK;

	/* Exclusive: refused while it is mounted, a part of a volume, or open to another who asks the same. */
	if (f->blockdev && !cfg->shared && !cfg->readonly)
		flags |= O_EXCL;
	f->fd = open(cfg->path, flags);
	if (f->fd >= 0)
		return 0;
	if (errno == EBUSY)
		return err_set(e, -EBUSY, "%.200s: the block device is in use (mounted, part of a volume, or open elsewhere)",
			       cfg->path);
	return err_set(e, -errno, "%.200s: cannot open the image: %s", cfg->path, strerror(errno));
}

static int measure(struct raw_file *f, const struct store_cfg *cfg, struct err *e)
{
	struct stat st;
	char magic[4];

	if (fstat(f->fd, &st))
		return err_set(e, -errno, "%.200s: %s", cfg->path, strerror(errno));
	f->size = (uint64_t)st.st_size;
	if (f->blockdev && ioctl(f->fd, BLKGETSIZE64, &f->size))
		return err_set(e, -errno, "%.200s: cannot find its size: %s", cfg->path, strerror(errno));
	if (!f->size)
		return err_set(e, -EINVAL, "%.200s: the image is empty", cfg->path);
	if (f->size % 512)
		return err_set(e, -EINVAL, "%.200s: its size, %llu bytes, is no multiple of 512", cfg->path,
			       (unsigned long long)f->size);
	/* Nothing forbids a guest to keep a qcow2 file on its disk as it is; but more often it is a mistake. */
	if (pread(f->fd, magic, sizeof(magic), 0) == sizeof(magic) && !memcmp(magic, "QFI\xfb", sizeof(magic)))
		log_note("%s: it begins as a qcow2 image does, and is used as a raw one: if that is not meant, say format=qcow2",
			 cfg->path);
	return 0;
}

struct store *store_raw_open(const struct store_cfg *cfg, const struct stat *st, struct err *e)
{
	struct raw *raw = calloc(1, sizeof(*raw));
	const char *why = NULL;
	/*
	 * AUTO is through the page cache. Measured on a virtual disk (ext4), past it: 1.1 to 1.4 times as fast in writing
	 * 1M in sequence, 9 times in reading it cold, 1.4 to 3 times with FUA and eight at once; but a sixth to a
	 * tenth with small writes one after the other that nobody has asked to be durable, and nothing is kept for the next
	 * reader. A guest's file system makes such writes all the time, and a plain QEMU, whose default is the same, would be
	 * as much faster. Who has a disk for databases only says cache=none.
	 */
	bool want = cfg->shared || cfg->direct == STORE_DIRECT_ON;

	if (!raw) {
		err_set(e, -ENOMEM, "no memory for the image %.200s", cfg->path);
		return NULL;
	}
	raw->file = (struct raw_file){ .fd = -1, .blockdev = S_ISBLK(st->st_mode), .align = 1, .mem_align = 1 };
	if (open_image(&raw->file, cfg, e) || (cfg->shared ? imagelock_shared(raw->file.fd, cfg->path, cfg->serves, e) :
	     imagelock_take(raw->file.fd, cfg->path, !cfg->readonly, e)) || measure(&raw->file, cfg, e))
		goto fail;
	if (want)
		why = raw_direct(&raw->file);
	if (why && cfg->shared) {
		err_set(e, -ENOTSUP, "%.200s: a shared image must be used without the page cache, but %s", cfg->path, why);
		goto fail;
	}
	if (why && cfg->direct == STORE_DIRECT_ON)
		log_note("%s: used through the page cache, since %s", cfg->path, why);
	raw_grain(&raw->file);
	raw->io = io_new(cfg->loop, cfg->io, e);
	if (!raw->io)
		goto fail;
	raw->store.direct = raw->file.direct;
	raw->store.kind = &kind;
	raw->store.blk = (struct blk){ .ops = &ops, .size = raw->file.size, .align = raw->file.align, .pref = 4096,
				       .readonly = cfg->readonly, .fast_zero = !raw->file.blockdev };
	return &raw->store;
fail:
	if (raw->file.fd >= 0)
		close(raw->file.fd);
	free(raw);
	return NULL;
}

/* Only raw images are shared. */
int store_serves(struct store *s, struct err *e)
{
	return imagelock_shared(((struct raw *)s)->file.fd, s->path, true, e);
}

bool store_role_held(struct store *s, bool serves)
{
	return imagelock_role_held(((struct raw *)s)->file.fd, serves);
}
