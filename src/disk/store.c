/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/siphash.h"
#include "disk/store_internal.h"

/* What can be said without opening it, for all formats. */
static int look(const struct store_cfg *cfg, struct stat *st, struct err *e)
{
	if (stat(cfg->path, st))
		return errno == ENOENT ? err_set(e, -ENOENT, "%.200s: there is no such image", cfg->path) :
					 err_set(e, -errno, "%.200s: cannot reach the image: %s", cfg->path, strerror(errno));
	if (S_ISDIR(st->st_mode))
		return err_set(e, -EISDIR, "%.200s: this is a directory, not an image", cfg->path);
	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode))
		return err_set(e, -EINVAL, "%.200s: this is neither a file nor a block device", cfg->path);
	if (access(cfg->path, R_OK))
		return err_set(e, -errno, "%.200s: cannot read the image: %s", cfg->path, strerror(errno));
	if (!cfg->readonly && access(cfg->path, W_OK))
		return err_set(e, -errno, "%.200s: the image is to be written, but it is read-only here: %s", cfg->path,
			       strerror(errno));
	return 0;
}

struct store *store_open(const struct store_cfg *cfg, struct err *e)
{
	struct store *s;
	struct stat st;
	char *path;

	if (look(cfg, &st, e))
		return NULL;
	if (cfg->shared && strcmp(cfg->format, "raw")) {
		err_set(e, -EINVAL, "%.200s: only a raw image can be shared by both nodes, this one is %.40s", cfg->path,
			cfg->format);
		return NULL;
	}
	path = strdup(cfg->path);
	if (!path) {
		err_set(e, -ENOMEM, "no memory for the image %.200s", cfg->path);
		return NULL;
	}
	s = strcmp(cfg->format, "raw") ? store_qsd_open(cfg, &st, e) : store_raw_open(cfg, &st, e);
	if (!s) {
		free(path);
		return NULL;
	}
	s->path = path;
	s->blockdev = S_ISBLK(st.st_mode);
	return s;
}

struct blk *store_blk(struct store *s)
{
	return &s->blk;
}

void store_reserve(struct store *s, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *arg)
{
	s->kind->reserve(s, off, len, done, arg);
}

const char *store_io_name(const struct store *s)
{
	return s->kind->io_name(s);
}

bool store_is_direct(const struct store *s)
{
	return s->direct;
}

uint64_t store_file_stamp(struct store *s)
{
	static const uint64_t key[2] = { 0x6c6f636b73746570, 0x7374616d70 };
	struct stat st;
	uint64_t stamp;

	/* Nothing about a block device changes when it is written to. */
	if (s->blockdev || stat(s->path, &st))
		return 0;
	/* The time of change too: a tool that puts the time of modification back (rsync -t) cannot put that back. */
	uint64_t what[] = { (uint64_t)st.st_dev, st.st_ino, (uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec,
			    (uint64_t)st.st_mtim.tv_nsec, (uint64_t)st.st_ctim.tv_sec, (uint64_t)st.st_ctim.tv_nsec };

	stamp = siphash24(key, what, sizeof(what));
	return stamp ? stamp : 1;
}

void store_close(struct store *s)
{
	char *path;

	if (!s)
		return;
	path = s->path;
	s->kind->close(s);
	free(path);
}
