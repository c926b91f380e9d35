/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Opening a VM's images: the stores, what is known of each (IMAGE.lockstep), the journal (IMAGE.lockstep-journal beside
 * the first one, or NAME under --disk-dir). For a block device there is no place beside it: --disk-dir must say one.
 */
#include "disk/disk_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"

static void store_failed(void *arg, const char *sentence)
{
	disk_fail(arg, -EIO, sentence);
}

static const char *name_of(const char *path)
{
	const char *base = strrchr(path, '/');

	return base ? base + 1 : path;
}

/* With --disk-dir one name is one image's. */
static int judge_names(const struct disk *d, struct err *e)
{
	for (unsigned int i = 0; d->cfg.dir && i < d->n; i++)
		for (unsigned int k = 0; k < i; k++)
			if (!strcmp(name_of(d->path[i]), name_of(d->path[k])))
				return err_set(e, -EINVAL, "%.150s and %.150s have the same name, and in --disk-dir files are named after it: "
					       "give one of them by another path, a link for instance", d->path[k], d->path[i]);
	return 0;
}

/* Where what is known of image @i is kept. */
int disk_beside(struct disk *d, unsigned int i, const char *suffix, char *out, size_t cap, struct err *e)
{
	const char *path = d->path[i];
	struct stat st;
	int n;

	if (d->cfg.dir) {
		n = snprintf(out, cap, "%s/%s%s", d->cfg.dir, name_of(path), suffix);
	} else {
		if (!stat(path, &st) && !S_ISREG(st.st_mode))
			return err_set(e, -EINVAL, "%.200s is not a regular file: --disk-dir must say where what Lockstep knows of it is "
				       "to be kept", path);
		n = snprintf(out, cap, "%s%s", path, suffix);
	}
	return n < 0 || (size_t)n >= cap ? err_set(e, -ENAMETOOLONG, "%.200s: the name is too long", path) : 0;
}

static int open_journal(struct disk *d, struct err *e)
{
	int rc = disk_beside(d, 0, ".lockstep-journal", d->journal_path, sizeof(d->journal_path), e);

	if (rc)
		return rc;
	rc = journal_open(&d->journal, d->journal_path, e);
	/* Of shared images it is the one that stands by that has it. */
	return rc == -EBUSY && d->cfg.shared && d->cfg.serves ? 0 : rc;
}

static int open_one(struct disk *d, unsigned int i, struct err *e)
{
	const struct disk_image *im = &d->cfg.image[i];
	struct store_cfg cfg = { .loop = d->loop, .path = im->path, .format = im->format, .direct = im->direct,
				 .shared = d->cfg.shared, .serves = d->cfg.serves,
				 .dir = d->cfg.run_dir, .as = d->cfg.as, .failed = store_failed, .arg = d };
	struct meta_open mo;
	char path[4096];
	int rc;

	d->store[i] = store_open(&cfg, e);
	if (!d->store[i])
		return e->code;
	d->bases[i] = store_blk(d->store[i]);
	if (d->cfg.shared)
		return 0;
	rc = disk_beside(d, i, ".lockstep", path, sizeof(path), e);
	if (rc)
		return rc;
	mo = (struct meta_open){ .path = path, .size = d->bases[i]->size, .stamp = store_file_stamp(d->store[i]) };
	d->meta[i] = meta_open(&mo, e);
	return d->meta[i] ? 0 : e->code;
}

int disk_open_images(struct disk *d, struct err *e)
{
	int rc = judge_names(d, e);

	if (rc)
		return rc;
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
	journal_close(&d->journal);
}
