/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_STORE_INTERNAL_H
#define DISK_STORE_INTERNAL_H

/* Between store.c and the kinds of store; nobody else includes this. */
#include <sys/stat.h>

#include "disk/store.h"

struct store_kind {
	void (*reserve)(struct store *s, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *arg);
	void (*close)(struct store *s);		/* frees @s too */
	const char *(*io_name)(const struct store *s);
};

/* The first member of each kind. */
struct store {
	struct blk blk;
	const struct store_kind *kind;
	char *path;
	bool direct;
	bool blockdev;
};

/* Each fills blk, kind, direct; path and blockdev are store.c's. @st: of the image. */
struct store *store_raw_open(const struct store_cfg *cfg, const struct stat *st, struct err *e);
struct store *store_qsd_open(const struct store_cfg *cfg, const struct stat *st, struct err *e);

#endif
