/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening a VM's images: the stores, what is known of each (IMAGE.lockstep), the journal (IMAGE.lockstep-journal beside
 * the first one, or NAME under --disk-dir). For a block device there is no place beside it: --disk-dir must say one.
 */
#include "disk/disk_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

static void store_failed(void *arg, const char *sentence)
{
	disk_fail(arg, -EIO, sentence);
}

/* Where what is known of image @i is kept. */
static int beside(struct disk *d, unsigned int i, const char *suffix, char *out, size_t cap, struct err *e)
{
	const char *path = d->path[i], *base = strrchr(path, '/');
	struct stat st;
	int n;

	if (d->cfg.dir) {
		n = snprintf(out, cap, "%s/%s%s", d->cfg.dir, base ? base + 1 : path, suffix);
	} else {
		if (!stat(path, &st) && !S_ISREG(st.st_mode))
			return err_set(e, -EINVAL, "%.200s is not a regular file: --disk-dir must say where what Lockstep knows of it is "
				       "to be kept", path);
		n = snprintf(out, cap, "%s%s", path, suffix);
	}
	return n < 0 || (size_t)n >= cap ? err_set(e, -ENAMETOOLONG, "%.200s: the name is too long", path) : 0;
}

static int file_pread(void *arg, void *buf, uint64_t len, uint64_t off)
{
	struct disk *d = arg;
	uint8_t *p = buf;

	while (len) {
		ssize_t k = pread(d->journal_fd, p, len, (off_t)off);

		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return -errno;
		if (!k) {
			memset(p, 0, len);
			break;
		}
		p += k;
		off += (uint64_t)k;
		len -= (uint64_t)k;
	}
	return 0;
}

static int file_pwrite(void *arg, const void *buf, uint64_t len, uint64_t off)
{
	struct disk *d = arg;
	const uint8_t *p = buf;

	while (len) {
		ssize_t k = pwrite(d->journal_fd, p, len, (off_t)off);

		if (k < 0 && errno == EINTR)
			continue;
		if (k <= 0)
			return k ? -errno : -EIO;
		p += k;
		off += (uint64_t)k;
		len -= (uint64_t)k;
	}
	return 0;
}

static int file_sync(void *arg)
{
	struct disk *d = arg;

	return fdatasync(d->journal_fd) ? -errno : 0;
}

static int file_punch(void *arg, uint64_t off, uint64_t len)
{
	struct disk *d = arg;

	return fallocate(d->journal_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) ? -errno : 0;
}

const struct journal_file disk_journal_file = {
	.pread = file_pread, .pwrite = file_pwrite, .sync = file_sync, .punch = file_punch,
};

static int open_journal(struct disk *d, struct err *e)
{
	int rc = beside(d, 0, ".lockstep-journal", d->journal_path, sizeof(d->journal_path), e);

	if (rc)
		return rc;
	d->journal_fd = open(d->journal_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->journal_fd < 0)
		return err_set(e, -errno, "%.300s cannot be opened: %s", d->journal_path, strerror(errno));
	return 0;
}

static int open_one(struct disk *d, unsigned int i, struct err *e)
{
	const struct disk_image *im = &d->cfg.image[i];
	struct store_cfg cfg = { .loop = d->loop, .path = im->path, .format = im->format, .direct = im->direct,
				 .dir = d->cfg.run_dir, .failed = store_failed, .arg = d };
	struct meta_open mo;
	char path[4096];
	int rc;

	d->store[i] = store_open(&cfg, e);
	if (!d->store[i])
		return e->code;
	d->bases[i] = store_blk(d->store[i]);
	rc = beside(d, i, ".lockstep", path, sizeof(path), e);
	if (rc)
		return rc;
	mo = (struct meta_open){ .path = path, .size = d->bases[i]->size, .stamp = store_file_stamp(d->store[i]) };
	d->meta[i] = meta_open(&mo, e);
	return d->meta[i] ? 0 : e->code;
}

int disk_open_images(struct disk *d, struct err *e)
{
	int rc = 0;

	if (d->cfg.dir && mkdir(d->cfg.dir, 0700) && errno != EEXIST)
		return err_set(e, -errno, "%.300s cannot be made: %s", d->cfg.dir, strerror(errno));
	for (unsigned int i = 0; !rc && i < d->n; i++)
		rc = open_one(d, i, e);
	return rc ? rc : open_journal(d, e);
}

void disk_close_images(struct disk *d)
{
	for (unsigned int i = 0; i < d->n; i++) {
		if (d->meta[i])
			meta_close(d->meta[i]);
		if (d->store[i])
			store_close(d->store[i]);
	}
	if (d->journal_fd >= 0)
		close(d->journal_fd);
}
