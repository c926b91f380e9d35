/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_RAMBLOCK_H
#define ENGINE_RAMBLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "engine/ram.h"

enum { RAMBLOCKS_MAX = 64 };

/* A block of memory in QEMU, as QEMU names it. */
struct ramblock {
	char name[RAM_NAME];
	uint64_t addr;		/* in QEMU; 0: not known */
	uint64_t len;		/* bytes that are set aside for it */
	bool state;		/* a migration would carry it */
	bool in_file;		/* it lies in the guest's memory file: main memory, or moved there already */
};

struct ramblocks {
	unsigned int n;
	struct ramblock b[RAMBLOCKS_MAX];
};

/*
 * ramblocks_parse() - read what the monitor's `info ramblock` prints
 *
 * For a QEMU whose agent can find no blocks. Versions differ in how many columns there are; addresses are in the newer.
 * Return: 0; -EPROTO, -E2BIG with @e filled
 */
int ramblocks_parse(const char *text, struct ramblocks *out, struct err *e);

/*
 * ramblocks_regions() - which blocks have to lie in the guest's memory file
 * @want: filled, sorted by name, as ram_layout() takes it
 *
 * All that a migration would carry: what the guest can write, and ROMs, which a reset writes and which are small. Where
 * no addresses are known nothing can be moved; that is fine for ROMs, since they come from files that are compared.
 * Return: how many; -ENOTSUP: a block that is written cannot be moved; -E2BIG; with @e filled
 */
int ramblocks_regions(const struct ramblocks *b, struct ram_region want[RAM_REGIONS_MAX], struct err *e);

/* ramblocks_find() - by name; NULL: there is none */
const struct ramblock *ramblocks_find(const struct ramblocks *b, const char *name);

#endif
