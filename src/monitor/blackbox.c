/* SPDX-License-Identifier: BSD-2-Clause */
/* The black box's file: a head of fixed size in big-endian, then the ring's own dump, which has its checksum. */
#include "monitor/blackbox.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"

static const uint8_t magic[8] = { 'L', 'S', 'B', 'L', 'A', 'C', 'K', '1' };

enum { HEAD = sizeof(magic) + RUN_NAME_MAX + 1 + 65 + 32 + 1 + 4 + 8 + 8 };

void *blackbox_pack(const struct blackbox_head *h, const struct ring *r, size_t *len)
{
	size_t cap = HEAD + ring_dump_size(r);
	uint8_t *buf = malloc(cap);
	struct wcursor w;
	long n;

	if (!buf)
		return NULL;
	w = wcursor_of(buf, HEAD);
	wcursor_bytes(&w, magic, sizeof(magic));
	wcursor_bytes(&w, h->name, sizeof(h->name));
	wcursor_bytes(&w, h->host, sizeof(h->host));
	wcursor_bytes(&w, h->version, sizeof(h->version));
	wcursor_be(&w, h->cause, 1);
	wcursor_be(&w, h->generation, 4);
	wcursor_be(&w, h->at, 8);
	wcursor_be(&w, (uint64_t)h->wall, 8);
	n = w.bad ? -ENOSPC : ring_dump(r, buf + HEAD, cap - HEAD);
	if (n < 0) {
		free(buf);
		return NULL;
	}
	*len = HEAD + (size_t)n;
	return buf;
}

/* A text of fixed size that will be printed on a terminal. */
static void get_text(struct cursor *c, char *to, size_t n)
{
	cursor_copy(c, to, n);
	to[n - 1] = '\0';
	for (char *p = to; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7f)
			*p = '?';
}

struct ring *blackbox_unpack(const void *buf, size_t len, struct blackbox_head *h, struct err *e)
{
	struct cursor c = cursor_of(buf, len);
	const uint8_t *m = cursor_get(&c, sizeof(magic));
	uint64_t cause;

	memset(h, 0, sizeof(*h));
	if (!m || memcmp(m, magic, sizeof(magic))) {
		err_set(e, -EBADMSG, "this is no blackbox of Lockstep: it does not begin like one");
		return NULL;
	}
	get_text(&c, h->name, sizeof(h->name));
	get_text(&c, h->host, sizeof(h->host));
	get_text(&c, h->version, sizeof(h->version));
	cause = cursor_be(&c, 1);
	h->generation = (uint32_t)cursor_be(&c, 4);
	h->at = cursor_be(&c, 8);
	h->wall = (int64_t)cursor_be(&c, 8);
	/* Years beyond 9999 are no time that anybody can print. */
	if (c.bad || cause >= BLACKBOX_CAUSES || h->wall < 0 || h->wall > 253402300799ll * 1000000) {
		err_set(e, -EBADMSG, "this blackbox is damaged or cut off in its head");
		return NULL;
	}
	h->cause = (enum blackbox_cause)cause;
	return ring_load(c.p, c.left, e);
}
