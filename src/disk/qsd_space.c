/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Room for images of other formats: theory of operation
 *
 * Nobody can make a qemu-storage-daemon allocate what is to be written later. But what would not fit can be seen before
 * it is promised, so that protection ends with a clear sentence while the primary still goes on with its VM, and not when
 * an epoch that was STAGED is to be written. It is a look and no reservation: somebody else may fill the file system
 * after it. Then the epoch is in the journal (standby.c), and is written from there when there is room.
 *
 * A range needs at the most as many bytes as the clusters that it touches. As long as all that was promised like this
 * is but a part of the free space that is all. Otherwise the image is asked which of it has no place yet, and only that
 * counts, against the rest of the free space. What lies in an image's backing file counts as having a place.
 *
 * A promise is over when as many bytes were written, or when a flush that has begun after it is done: in between come
 * the writes of its epoch, of which those that were written over in a later one are left out.
 */
#include "disk/qsd_space.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cursor.h"

#define EXTENTS		64u
#define FREE_FOR	(50 * NS_PER_MS)	/* a look at the file system is good for so long: it may be a network's */
#define SLACK		(1ull << 20)		/* for the image's own tables, which also take 1/64 */

struct asking {
	struct blk_req r;
	struct qsd_space *s;
	uint64_t end, need;
	void (*done)(void *arg, int rc);
	void *arg;
	struct blk_extent ext[EXTENTS];
};

/* Return: 0 with s->free, or -errno */
static int look(struct qsd_space *s)
{
	nstime now = clock_ns();
	struct statvfs v;

	if (s->free_at && now - s->free_at < FREE_FOR)
		return 0;
	if (statvfs(s->path, &v))
		return -errno;
	s->free = (uint64_t)v.f_frsize * (s->all ? v.f_bfree : v.f_bavail);
	s->free_at = now;
	return 0;
}

static int judge(struct qsd_space *s, uint64_t need)
{
	uint64_t all = s->known + need;
	int rc;

	if (!need)
		return 0;
	s->free_at = 0;
	rc = look(s);
	if (!rc && all + all / 64 + SLACK > s->free - s->free / 4)
		rc = -ENOSPC;
	if (rc)
		return rc;
	s->known = all;
	s->total += need;
	return 0;
}

static void told(struct blk_req *r, int rc)
{
	struct asking *a = r->arg;
	uint64_t at = r->off;

	for (unsigned int i = 0; !rc && i < r->n_ext && at < a->end; i++) {
		uint64_t len = a->ext[i].len < a->end - at ? a->ext[i].len : a->end - at;

		a->need += a->ext[i].flags & BLK_HOLE ? len : 0;
		at += len;
	}
	if (!rc && at < a->end && at > r->off) {
		r->off = at;
		r->len = a->end - at;
		r->n_ext = EXTENTS;
		blk_submit(a->s->blk, r);
		return;
	}
	a->done(a->arg, rc ? rc : judge(a->s, a->need));
	free(a);
}

void qsd_space_reserve(struct qsd_space *s, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *arg)
{
	uint64_t mask = s->cluster - 1, end = (off + len + mask) & ~mask, most;
	struct asking *a;
	int rc;

	off &= ~mask;
	if (end > s->blk->size)
		end = s->blk->size;
	most = end - off;
	rc = s->endless || !len ? 0 : look(s);
	if (rc || s->endless || !len || s->guessed + most <= s->free / 4) {
		if (!rc && !s->endless && len) {
			s->guessed += most;
			s->total += most;
		}
		done(arg, rc);
		return;
	}
	a = calloc(1, sizeof(*a));
	if (!a) {
		done(arg, -ENOMEM);
		return;
	}
	*a = (struct asking){ .s = s, .end = end, .done = done, .arg = arg };
	a->r = (struct blk_req){ .op = BLK_STATUS, .off = off, .len = most, .ext = a->ext, .n_ext = EXTENTS, .done = told,
				 .arg = a };
	blk_submit(s->blk, &a->r);
}

static uint64_t less(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

void qsd_space_written(struct qsd_space *s, uint64_t len)
{
	uint64_t rest = less(len, s->known);

	s->known = less(s->known, len);
	s->guessed = less(s->guessed, rest);
}

void qsd_space_flushed(struct qsd_space *s, uint64_t total)
{
	uint64_t since = s->total - total;

	s->known = s->known < since ? s->known : since;
	s->guessed = s->guessed < since ? s->guessed : since;
}

uint32_t qsd_space_grain(const char *path, const char *format)
{
	uint8_t head[24] = { 0 };
	struct cursor c = cursor_of(head, sizeof(head));
	uint32_t version, bits;
	int fd;

	if (strcmp(format, "qcow2"))
		return 0;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return 0;
	if (pread(fd, head, sizeof(head), 0) != sizeof(head))
		memset(head, 0, sizeof(head));
	close(fd);
	cursor_u32(&c);
	version = cursor_u32(&c);
	cursor_get(&c, 12);	/* where the name of what it stands on is */
	bits = cursor_u32(&c);
	return version >= 3 && bits >= 9 && bits <= 21 ? 1u << bits : 0;
}
