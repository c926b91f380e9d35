/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What QEMU has to write at a reset. Most of it lies in ROM or is handed to the firmware; an ELF kernel, a multiboot
 * kernel and what a loader device loads lie in main memory, and QEMU keeps a copy for the next reset. snapshot-load
 * begins with one: the guest's memory, into which a checkpoint was brought already, would be what it was at its start
 * wherever such a copy lies, and virtio's rings, which device state is checked against, with it. No I/O, no state.
 */
#include "engine/romlist.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* find() - @what in the first @len bytes of @line; NULL: it is not there */
static const char *find(const char *line, size_t len, const char *what)
{
	return memmem(line, len, what, strlen(what));
}

/* name_of() - the file in name="FILE ELF program header segment 0" at @at, with @len bytes to the end of the line */
static void name_of(const char *at, size_t len, char name[ROMLIST_NAME])
{
	const char *segment = find(at, len, " ELF program header segment ");
	size_t n = segment ? (size_t)(segment - at) : len;

	if (!segment && n > 0 && at[n - 1] == '"')
		n--;
	if (n >= ROMLIST_NAME)
		n = ROMLIST_NAME - 1;
	for (size_t i = 0; i < n; i++)
		name[i] = (unsigned char)at[i] < ' ' || at[i] == 0x7f ? '?' : at[i];
	name[n] = 0;
}

int romlist_check(const char *text, struct err *e)
{
	static const char quoted[] = " name=\"";
	bool any = false;

	for (const char *p = text; *p;) {
		size_t len = strcspn(p, "\r\n");
		const char *at = find(p, len, quoted);
		char name[ROMLIST_NAME];

		any = any || at;
		/* "addr=ADDRESS size=SIZE mem=ram name=..."; a name may hold anything. */
		if (at && find(p, (size_t)(at - p), " mem=ram")) {
			at += strlen(quoted);
			name_of(at, len - (size_t)(at - p), name);
			return err_set(e, -ENOTSUP, "QEMU writes %s into the guest's memory again at each reset, also at "
				       "the one that loading a checkpoint begins with; give a kernel as a bzImage "
				       "(vmlinuz) instead of an ELF file", name);
		}
		p += len;
		p += strspn(p, "\r\n");
	}
	return any ? 0 : err_set(e, -EPROTO, "QEMU's monitor does not list its ROMs");
}
