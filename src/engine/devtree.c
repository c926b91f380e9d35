/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The device tree as QEMU's monitor prints it, made into lines that two nodes compare. It is text for people, indented
 * by two spaces a level:
 *
 *	bus: main-system-bus
 *	  type System
 *	  dev: i440FX-pcihost, id ""
 *	    short_root_bus = 0 (0x0)
 *	    bus: pci.0
 *	      type PCI
 *	      dev: VGA, id ""
 *	        vgamem_mb = 16 (0x10)
 *	        class VGA controller, addr 00:02.0, pci id 1234:1111 (sub 1af4:1100)
 *	        bar 0: mem at 0xffffffffffffffff [0xfffffe]
 *
 * What stands there as a property is kept, and the line of a PCI device's class; where a guest has put its registers
 * (bar, mmio, irq) is not. A device's properties come before the buses that it has. No I/O, no state.
 */
#include "engine/devtree.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Properties that name something of this host's, or of the user's own naming. */
static const char *const host_props[] = {
	"chardev", "netdev", "drive", "audiodev", "memdev", "rng", "cryptodev", "iothread", "display", "hostmem",
	/*
	 * A disk's geometry, which QEMU makes up out of the size, compared elsewhere, and the partition table, equal
	 * when the disks are.
	 */
	"cyls", "heads", "secs",
};

struct tree {
	char *line[DEVTREE_MAX];
	unsigned int n;
	char bus[DEVTREE_DEPTH][64];	/* the bus at each level of indentation */
	char cur[DEVTREE_LINE];
	size_t len;
	bool open;			/* cur belongs to a device */
};

static void add(struct tree *t, const char *text, size_t n)
{
	for (size_t i = 0; i < n && t->len + 4 < sizeof(t->cur); i++) {
		unsigned char c = (unsigned char)text[i];

		if (isprint(c) && c != ';')
			t->cur[t->len++] = (char)c;
		else if (c != '\r')
			t->cur[t->len++] = '?';
	}
	t->cur[t->len] = 0;
}

static void adds(struct tree *t, const char *text)
{
	size_t n = strlen(text);

	if (t->len + n < sizeof(t->cur)) {
		memcpy(t->cur + t->len, text, n + 1);
		t->len += n;
	}
}

static int close_device(struct tree *t)
{
	if (!t->open)
		return 0;
	t->open = false;
	if (t->n == DEVTREE_MAX)
		return -E2BIG;
	t->line[t->n] = strdup(t->cur);
	return t->line[t->n++] ? 0 : -ENOMEM;
}

static int open_device(struct tree *t, const char *text, size_t n, unsigned int level)
{
	int rc = close_device(t);
	const char *comma = memchr(text, ',', n);
	size_t name = comma ? (size_t)(comma - text) : n;

	t->len = 0;
	add(t, text, name);
	/* , id "..." */
	if (comma && n > name + 5) {
		adds(t, " ");
		add(t, comma + 5, n - name - 5);
	}
	adds(t, " on ");
	adds(t, level > 0 ? t->bus[level - 1] : "nothing");
	t->open = true;
	return rc;
}

static bool is_host_prop(const char *name, size_t n)
{
	for (size_t i = 0; i < sizeof(host_props) / sizeof(host_props[0]); i++)
		if (strlen(host_props[i]) == n && memcmp(host_props[i], name, n) == 0)
			return true;
	return false;
}

static void add_prop(struct tree *t, const char *text, size_t n)
{
	const char *eq = memmem(text, n, " = ", 3), *value, *end = text + n;
	size_t name;

	if (!eq) {
		if (n > 6 && memcmp(text, "class ", 6) == 0) {
			adds(t, "; ");
			add(t, text, n);
		}
		return;
	}
	name = (size_t)(eq - text);
	if (is_host_prop(text, name))
		return;
	value = eq + 3;
	adds(t, "; ");
	add(t, text, name);
	adds(t, "=");
	/* The directory of a ROM's file is the host's; what is in it is compared by its content. */
	if (name == 7 && memcmp(text, "romfile", 7) == 0) {
		const char *slash = memrchr(value, '/', (size_t)(end - value));

		if (slash) {
			adds(t, "\"");
			value = slash + 1;
		}
	}
	add(t, value, (size_t)(end - value));
}

static int take_line(struct tree *t, const char *p, size_t n)
{
	size_t indent = strspn(p, " ");
	unsigned int level = (unsigned int)(indent / 2);

	if (n <= indent)
		return 0;
	p += indent;
	n -= indent;
	while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\r'))
		n--;
	if (level >= DEVTREE_DEPTH)
		return -EPROTO;
	if (n > 5 && memcmp(p, "bus: ", 5) == 0) {
		int rc = close_device(t);

		snprintf(t->bus[level], sizeof(t->bus[level]), "%.*s", (int)(n - 5 < 60 ? n - 5 : 60), p + 5);
		return rc;
	}
	if (n > 5 && memcmp(p, "dev: ", 5) == 0)
		return open_device(t, p + 5, n - 5, level);
	if (t->open)
		add_prop(t, p, n);
	return 0;
}

static void hash_hex(const void *p, size_t n, char out[33])
{
	XXH128_hash_t h = XXH3_128bits(p, n);

	snprintf(out, 33, "%016" PRIx64 "%016" PRIx64, (uint64_t)h.high64, (uint64_t)h.low64);
}

/* put() - the lines in the longest form that has room */
static void put(const struct tree *t, size_t room, FILE *f)
{
	size_t total = 0, shorter = 0;
	XXH3_state_t *all;
	char hex[33];

	for (unsigned int i = 0; i < t->n; i++) {
		total += strlen(t->line[i]) + 16;
		shorter += strcspn(t->line[i], ";") + 16 + 40;
	}
	if (total <= DEVTREE_LONG && total <= room) {
		for (unsigned int i = 0; i < t->n; i++)
			fprintf(f, "device.%u=%s\n", i, t->line[i]);
		return;
	}
	if (shorter <= room) {
		for (unsigned int i = 0; i < t->n; i++) {
			hash_hex(t->line[i], strlen(t->line[i]), hex);
			fprintf(f, "device.%u=%.*s; properties %s\n", i, (int)strcspn(t->line[i], ";"), t->line[i],
				hex);
		}
		return;
	}
	all = XXH3_createState();
	if (!all)
		return;
	XXH3_128bits_reset(all);
	for (unsigned int i = 0; i < t->n; i++)
		XXH3_128bits_update(all, t->line[i], strlen(t->line[i]) + 1);
	fprintf(f, "devices=%016" PRIx64 "\n", (uint64_t)XXH3_128bits_digest(all).low64);
	XXH3_freeState(all);
}

int devtree_shape(const char *qtree, size_t room, FILE *f, struct err *e)
{
	struct tree *t = calloc(1, sizeof(*t));
	int rc = t ? 0 : -ENOMEM;

	for (const char *p = qtree; rc == 0 && *p;) {
		size_t n = strcspn(p, "\n");

		rc = take_line(t, p, n);
		p += n + (p[n] == '\n');
	}
	if (rc == 0)
		rc = close_device(t);
	if (rc == 0 && t->n == 0)
		rc = -EPROTO;
	if (rc == 0)
		put(t, room, f);
	for (unsigned int i = 0; t && i < t->n; i++)
		free(t->line[i]);
	free(t);
	return rc == 0 ? 0 : err_set(e, rc, "QEMU's device tree cannot be read: %s",
				     rc == -E2BIG ? "it has too many devices" : strerror(-rc));
}
