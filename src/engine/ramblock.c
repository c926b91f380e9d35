/* SPDX-License-Identifier: BSD-2-Clause */
/* Which blocks of memory a QEMU has, and which of them are part of what is protected. No I/O, no state. */
#include "engine/ramblock.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/cmdline.h"

/* Blocks that the guest cannot write, by the names that QEMU gives them. */
static const char *const rom_names[] = { "pc.bios", "pc.rom", "isa-bios", "*.rom", "*.vrom", "/rom@*" };

static bool is_rom(const char *name)
{
	for (size_t i = 0; i < sizeof(rom_names) / sizeof(rom_names[0]); i++)
		if (fnmatch(rom_names[i], name, 0) == 0)
			return true;
	return false;
}

/* is_main() - machine types before 4.0 give a memory backend's block the name of its path */
static bool is_main(const char *name)
{
	return strcmp(name, CMDLINE_RAM_ID) == 0 || strcmp(name, "/objects/" CMDLINE_RAM_ID) == 0;
}

/* parse_line() - "NAME 4 KiB 0xOFFSET 0xUSED 0xTOTAL [0xADDRESS [ro|rw]]"; false: no such line */
static bool parse_line(const char *line, size_t len, struct ramblock *b)
{
	char copy[RAM_NAME + 160], unit[8], page[16];
	unsigned long long offset, used, total, addr = 0;
	int got;

	if (len >= sizeof(copy))
		return false;
	memcpy(copy, line, len);
	copy[len] = 0;
	got = sscanf(copy, " %255s %15s %7s 0x%llx 0x%llx 0x%llx 0x%llx", b->name, page, unit, &offset, &used, &total,
		     &addr);
	if (got < 6)
		return false;
	b->len = total;
	b->addr = got > 6 ? addr : 0;
	b->state = true;
	b->in_file = is_main(b->name);
	return true;
}

int ramblocks_parse(const char *text, struct ramblocks *out, struct err *e)
{
	out->n = 0;
	for (const char *p = text; *p;) {
		size_t len = strcspn(p, "\r\n");
		struct ramblock b = { .name = "" };

		if (parse_line(p, len, &b)) {
			if (out->n == RAMBLOCKS_MAX)
				return err_set(e, -E2BIG, "QEMU has more than %d blocks of memory", RAMBLOCKS_MAX);
			out->b[out->n++] = b;
		}
		p += len;
		p += strspn(p, "\r\n");
	}
	return out->n > 0 ? 0 : err_set(e, -EPROTO, "QEMU's monitor does not list its blocks of memory");
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct ram_region *)a)->name, ((const struct ram_region *)b)->name);
}

int ramblocks_regions(const struct ramblocks *b, struct ram_region want[RAM_REGIONS_MAX], struct err *e)
{
	int n = 0;

	for (unsigned int i = 0; i < b->n; i++) {
		const struct ramblock *r = &b->b[i];

		if (r->in_file || !r->state)
			continue;
		if (r->addr == 0) {
			if (is_rom(r->name))
				continue;
			return err_set(e, -ENOTSUP, "the memory of %.100s cannot be protected, because this QEMU does "
				       "not tell where it lies (Debian's does): leave the device out, a graphics card by "
				       "-vga none", r->name);
		}
		if (r->len == 0 || r->len % RAM_PAGE != 0 || r->addr % RAM_PAGE != 0)
			return err_set(e, -EINVAL, "QEMU's block of memory %.100s is not made of whole pages", r->name);
		if (n == RAM_REGIONS_MAX)
			return err_set(e, -E2BIG, "QEMU has more than %d blocks of memory", RAM_REGIONS_MAX);
		want[n] = (struct ram_region){ .count = r->len / RAM_PAGE };
		memcpy(want[n].name, r->name, sizeof(r->name));
		n++;
	}
	qsort(want, (size_t)n, sizeof(want[0]), by_name);
	for (int i = 1; i < n; i++)
		if (strcmp(want[i - 1].name, want[i].name) == 0)
			return err_set(e, -EINVAL, "QEMU has two blocks of memory called %.100s", want[i].name);
	return n;
}

const struct ramblock *ramblocks_find(const struct ramblocks *b, const char *name)
{
	for (unsigned int i = 0; i < b->n; i++)
		if (strcmp(b->b[i].name, name) == 0)
			return &b->b[i];
	return NULL;
}
