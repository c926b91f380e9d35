/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: what is said about the machine, and its memory. The peer's shape before anything about it is believed;
 * QEMU's lists of devices, ROMs and memory blocks, as text for people; packed pages. Whatever it is, it is taken or
 * refused with a sentence, and nothing is read or written beyond.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/devtree.h"
#include "engine/pagesend.h"
#include "engine/ramblock.h"
#include "engine/romlist.h"
#include "engine/shape.h"
#include "fuzz.h"

enum { WHAT_SHAPE, WHAT_DEVICES, WHAT_ROMS, WHAT_BLOCKS, WHAT_PAGES, WHATS };

static void check(int rc, const struct err *e)
{
	MUST(!rc || e->msg[0]);
}

static void devices(const char *text)
{
	struct err e = { 0 }, f = { 0 };
	char *shape = NULL;
	size_t len = 0;
	FILE *to = open_memstream(&shape, &len);
	int rc;

	if (!to)
		return;
	rc = devtree_shape(text, SHAPE_MAX / 2, to, &e);
	fclose(to);
	check(rc, &e);
	MUST(rc || len <= SHAPE_MAX / 2);
	/* What we make is a shape, and equal to itself. */
	MUST(rc || !len || !shape_compare(shape, shape, len, &f));
	free(shape);
}

static void blocks(const char *text)
{
	struct ram_region want[RAM_REGIONS_MAX];
	struct err e = { 0 };
	struct ramblocks b;
	int rc = ramblocks_parse(text, &b, &e);

	check(rc, &e);
	if (rc)
		return;
	rc = ramblocks_regions(&b, want, &e);
	if (rc < 0)
		check(rc, &e);
}

static void pages(const uint8_t *p, size_t n)
{
	static uint8_t out[PAGESEND_PIECE * RAM_PAGE];

	if (n < 2)
		return;
	pagesend_unpack(p + 1, (uint32_t)(n - 1), 1 + p[0] % PAGESEND_PIECE, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const char mine[] = "machine=pc-i440fx-7.2\nmem=536870912\ndevice.1=virtio-net-pci on pci.0; addr=03.0\n";
	struct err e = { 0 };
	unsigned int what;
	char *text;

	if (!n)
		return 0;
	what = *p++ % WHATS;
	n--;
	if (what == WHAT_PAGES) {
		pages(p, n);
		return 0;
	}
	/* Just as long as it is, so that a byte too far is noticed. */
	text = malloc(n + (what != WHAT_SHAPE));
	if (!text)
		return 0;
	memcpy(text, p, n);
	if (what == WHAT_SHAPE) {
		check(shape_compare(mine, text, n, &e), &e);
	} else {
		text[n] = 0;
		if (what == WHAT_DEVICES)
			devices(text);
		else if (what == WHAT_ROMS)
			check(romlist_check(text, &e), &e);
		else
			blocks(text);
	}
	free(text);
	return 0;
}
