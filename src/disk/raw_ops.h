/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_RAW_OPS_H
#define DISK_RAW_OPS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "disk/blk.h"

/* What can be done with a raw image by calls that block; threads of store_raw.c run them, several at once. */
struct raw_file {
	int fd;
	uint64_t size;
	bool blockdev;
	bool direct;
	uint32_t align, mem_align;	/* of offsets and lengths, of memory; powers of 2, 1: any */
	uint32_t grain;			/* what the kernel can punch and zero without writing a part of a block itself */
	/* Found out by doing it: trying at the start would change the times of the file, and so the stamp. */
	atomic_bool no_punch, no_zero_range;
};

/* raw_direct() - switch to O_DIRECT and find the alignment. Return: NULL, or why that cannot be; then nothing is changed */
const char *raw_direct(struct raw_file *f);

/* raw_grain() - set grain; after raw_direct() */
void raw_grain(struct raw_file *f);

/*
 * raw_perform() - any request, any alignment; who changes a part of a sector must be alone there
 * Return: 0 or -errno
 */
int raw_perform(struct raw_file *f, struct blk_req *r);

/* raw_reserve() - allocate what are holes in the range. Return: 0, also where the file system cannot tell; -ENOSPC, ... */
int raw_reserve(struct raw_file *f, uint64_t off, uint64_t len);

#endif
