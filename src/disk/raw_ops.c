/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/raw_ops.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOUNCE		(1u << 20)	/* bytes that a thread copies at once */
#define PAGE		4096u
#define ALIGN_MAX	4096u

static uint8_t zeroes[256u << 10] __attribute__((aligned(PAGE)));

static bool unsupported(int rc)
{
	return rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -ENOTTY;
}

static int read_full(int fd, uint8_t *buf, uint64_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pread(fd, buf, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n) {
			memset(buf, 0, len);
			return 0;
		}
		buf += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int write_full(int fd, const uint8_t *buf, uint64_t len, uint64_t off)
{
	while (len) {
		ssize_t n = pwrite(fd, buf, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		buf += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static uint64_t down(uint64_t at, uint64_t align)
{
	return at & ~(align - 1);
}

static uint64_t up(uint64_t at, uint64_t align)
{
	return down(at + align - 1, align);
}

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Read through aligned memory, piece by piece. */
static int read_any(struct raw_file *f, uint64_t off, uint64_t len, uint8_t *buf)
{
	uint64_t end = off + len;
	uint8_t *tmp;
	int rc = 0;

	if (!f->direct)
		return read_full(f->fd, buf, len, off);
	tmp = aligned_alloc(PAGE, up(least(BOUNCE, up(end, f->align) - down(off, f->align)), PAGE));
	if (!tmp)
		return -ENOMEM;
	while (off < end && !rc) {
		uint64_t lo = down(off, f->align), hi = least(lo + BOUNCE, up(end, f->align)), n = least(hi, end) - off;

		rc = read_full(f->fd, tmp, hi - lo, lo);
		if (!rc)
			memcpy(buf, tmp + (off - lo), n);
		buf += n;
		off += n;
	}
	free(tmp);
	return rc;
}

/* Write any bytes: sectors of which only a part changes are read before. @buf NULL: zeroes. */
static int write_any(struct raw_file *f, uint64_t off, uint64_t len, const uint8_t *buf)
{
	uint64_t end = off + len;
	uint8_t *tmp;
	int rc = 0;

	if (!f->direct || (!buf && !((off | len) & (f->align - 1)))) {
		while (len && !buf && !rc) {
			uint64_t n = least(len, sizeof(zeroes));

			rc = write_full(f->fd, zeroes, n, off);
			off += n;
			len -= n;
		}
		return buf ? write_full(f->fd, buf, len, off) : rc;
	}
	tmp = aligned_alloc(PAGE, up(least(BOUNCE, up(end, f->align) - down(off, f->align)), PAGE));
	if (!tmp)
		return -ENOMEM;
	while (off < end && !rc) {
		uint64_t lo = down(off, f->align), hi = least(lo + BOUNCE, up(end, f->align)), n = least(hi, end) - off;

		if (lo < off)
			rc = read_full(f->fd, tmp, f->align, lo);
		if (!rc && end < hi && (hi - f->align > lo || lo == off))
			rc = read_full(f->fd, tmp + (hi - f->align - lo), f->align, hi - f->align);
		if (rc)
			break;
		if (buf)
			memcpy(tmp + (off - lo), buf, n);
		else
			memset(tmp + (off - lo), 0, n);
		rc = write_full(f->fd, tmp, hi - lo, lo);
		buf = buf ? buf + n : NULL;
		off += n;
	}
	free(tmp);
	return rc;
}

static int call_fallocate(int fd, int mode, uint64_t off, uint64_t len)
{
	int rc;

	do
		rc = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) ? -errno : 0;
	while (rc == -EINTR);
	return rc;
}

/* Once it was not possible, it is not tried again. */
static int try_fallocate(struct raw_file *f, atomic_bool *cannot, int mode, uint64_t off, uint64_t len)
{
	int rc = -EOPNOTSUPP;

	if (!atomic_load(cannot))
		rc = call_fallocate(f->fd, mode, off, len);
	if (unsupported(rc))
		atomic_store(cannot, true);
	return rc;
}

/* Without writing, or -EOPNOTSUPP and nothing is changed. */
static int zero_fast(struct raw_file *f, uint64_t off, uint64_t len, bool no_hole, bool fast)
{
	int rc = -EOPNOTSUPP;

	if (!no_hole)
		rc = try_fallocate(f, &f->no_punch, FALLOC_FL_PUNCH_HOLE, off, len);
	/* On a block device the kernel may write the zeroes for this: right, but not fast. */
	if (unsupported(rc) && !(f->blockdev && fast))
		rc = try_fallocate(f, &f->no_zero_range, FALLOC_FL_ZERO_RANGE, off, len);
	return rc;
}

static int zero(struct raw_file *f, const struct blk_req *r)
{
	bool no_hole = r->flags & BLK_NO_HOLE, fast = r->flags & BLK_FAST_ZERO;
	uint64_t end = r->off + r->len, lo = up(r->off, f->grain), hi = down(end, f->grain);
	int rc = 0;

	/* A few bytes are written as fast as anything; else first what may not be possible, then the ends. */
	if (lo >= hi)
		return write_any(f, r->off, r->len, NULL);
	rc = zero_fast(f, lo, hi - lo, no_hole, fast);
	if (unsupported(rc) && fast)
		return -ENOTSUP;
	if (unsupported(rc))
		return write_any(f, r->off, r->len, NULL);
	if (!rc && r->off < lo)
		rc = write_any(f, r->off, lo - r->off, NULL);
	if (!rc && hi < end)
		rc = write_any(f, hi, end - hi, NULL);
	return rc;
}

/*
 * A file reads as zeroes afterwards wherever it can have holes, whatever the alignment: so that the images of
 * both nodes stay equal, whichever way each is used.
 */
static int trim(struct raw_file *f, const struct blk_req *r)
{
	uint64_t lo = up(r->off, f->grain), end = r->off + r->len, hi = down(end, f->grain);
	uint64_t range[2] = { lo, hi - lo };
	int rc;

	if (!f->blockdev) {
		rc = zero(f, &(struct blk_req){ .op = BLK_ZERO, .flags = BLK_FAST_ZERO, .off = r->off, .len = r->len });
		return rc == -ENOTSUP ? 0 : rc;
	}
	if (lo >= hi)
		return 0;
	do
		rc = ioctl(f->fd, BLKDISCARD, range) ? -errno : 0;
	while (rc == -EINTR);
	return unsupported(rc) ? 0 : rc;
}

static int status(struct raw_file *f, struct blk_req *r)
{
	uint64_t at = r->off, end = r->off + r->len;
	unsigned int n = 0, cap = r->n_ext < BLK_MAX_EXTENTS ? r->n_ext : BLK_MAX_EXTENTS;

	while (at < end && n < cap) {
		off_t data = f->blockdev ? (off_t)at : lseek(f->fd, (off_t)at, SEEK_DATA), next = (off_t)end;

		if (data < 0 && errno != ENXIO)
			data = (off_t)at;	/* it cannot say: then it is data */
		else if (data < 0)
			data = (off_t)end;	/* nothing more but a hole */
		else if ((uint64_t)data == at && !f->blockdev)
			next = lseek(f->fd, (off_t)at, SEEK_HOLE);
		else
			next = data;
		if ((uint64_t)data > at)
			next = data;
		if (next <= (off_t)at || next > (off_t)end)
			next = (off_t)end;
		r->ext[n++] = (struct blk_extent){ .len = (uint64_t)next - at,
						   .flags = (uint64_t)data > at ? BLK_HOLE | BLK_ZEROES : 0 };
		at = (uint64_t)next;
	}
	r->n_ext = n;
	return 0;
}

int raw_perform(struct raw_file *f, struct blk_req *r)
{
	int rc = 0;

	switch (r->op) {
	case BLK_READ:
		return read_any(f, r->off, r->len, r->buf);
	case BLK_WRITE:
		rc = write_any(f, r->off, r->len, r->buf);
		break;
	case BLK_ZERO:
		rc = zero(f, r);
		break;
	case BLK_TRIM:
		rc = trim(f, r);
		break;
	case BLK_STATUS:
		return status(f, r);
	case BLK_CACHE:
		/* A wish. */
		if (!f->direct)
			posix_fadvise(f->fd, (off_t)r->off, (off_t)r->len, POSIX_FADV_WILLNEED);
		return 0;
	case BLK_FLUSH:
		break;
	}
	if (!rc && (r->op == BLK_FLUSH || r->flags & BLK_FUA) && fdatasync(f->fd))
		rc = -errno;
	return rc;
}

int raw_reserve(struct raw_file *f, uint64_t off, uint64_t len)
{
	int rc = call_fallocate(f->fd, 0, off, len);

	return unsupported(rc) ? 0 : rc;
}

/* By trying, on kernels that do not say. */
static uint32_t probe_align(struct raw_file *f)
{
	uint8_t *buf = aligned_alloc(PAGE, PAGE);
	uint32_t align = 0;

	for (uint32_t a = 512; buf && a <= ALIGN_MAX && !align; a *= 2)
		if (pread(f->fd, buf, a, 0) >= 0)
			align = a;
	free(buf);
	return align;
}

const char *raw_direct(struct raw_file *f)
{
	int flags = fcntl(f->fd, F_GETFL), logical;
	const char *why = NULL;
	struct statx x = { 0 };
	uint32_t align = 0, mem = 0;

	if (flags < 0 || fcntl(f->fd, F_SETFL, flags | O_DIRECT))
		return "its file system has no direct I/O";
	if (f->blockdev) {
		if (!ioctl(f->fd, BLKSSZGET, &logical))
			align = mem = (uint32_t)logical;
	} else if (!statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &x) && x.stx_mask & STATX_DIOALIGN) {
		align = x.stx_dio_offset_align;
		mem = x.stx_dio_mem_align;
	} else {
		align = mem = probe_align(f);
	}
	if (!align)
		why = "its file system has no direct I/O";
	else if (align > ALIGN_MAX || align & (align - 1) || mem > PAGE || mem & (mem - 1))
		why = "direct I/O has an alignment there that nobody has provided for";
	else if (f->size % align)
		why = "its size is no multiple of the sectors of its storage";
	if (why) {
		fcntl(f->fd, F_SETFL, flags);
		return why;
	}
	f->direct = true;
	f->align = align <= 512 ? 512 : ALIGN_MAX;
	if (f->size % f->align)
		f->align = align;
	f->mem_align = mem ? mem : 1;
	return NULL;
}

void raw_grain(struct raw_file *f)
{
	struct stat st;
	int logical = 512;

	f->grain = 1;
	if (f->blockdev) {
		ioctl(f->fd, BLKSSZGET, &logical);
		f->grain = (uint32_t)logical;
	} else if (f->direct && !fstat(f->fd, &st)) {
		/* A part of a block the kernel would zero in the page cache, where other nodes do not see it. */
		f->grain = st.st_blksize >= PAGE && st.st_blksize <= 65536 && !(st.st_blksize & (st.st_blksize - 1)) ?
			   (uint32_t)st.st_blksize : PAGE;
	}
}
