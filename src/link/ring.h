/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_RING_H
#define LINK_RING_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

/* A byte queue of fixed size. Pages of it that were never used take no memory. One thread. */
struct ring {
	uint8_t *buf;
	size_t cap, head, len;
};

/* ring_init() - Return: 0, or -1 without memory */
static inline int ring_init(struct ring *r, size_t cap)
{
	*r = (struct ring){ .buf = malloc(cap), .cap = cap };
	return r->buf ? 0 : -1;
}

static inline void ring_fini(struct ring *r)
{
	free(r->buf);
	r->buf = NULL;
}

static inline size_t ring_room(const struct ring *r)
{
	return r->cap - r->len;
}

/* ring_add() - append @n bytes; the caller has asked ring_room() */
static inline void ring_add(struct ring *r, const void *p, size_t n)
{
	size_t at = (r->head + r->len) % r->cap;
	size_t k = r->cap - at < n ? r->cap - at : n;

	if (!n)
		return;
	memcpy(r->buf + at, p, k);
	memcpy(r->buf, (const uint8_t *)p + k, n - k);
	r->len += n;
}

/* ring_peek() - what is in it, in order, as up to two pieces; Return: how many */
static inline int ring_peek(const struct ring *r, struct iovec iov[2])
{
	size_t first = r->cap - r->head < r->len ? r->cap - r->head : r->len;

	iov[0] = (struct iovec){ r->buf + r->head, first };
	iov[1] = (struct iovec){ r->buf, r->len - first };
	return !!iov[0].iov_len + !!iov[1].iov_len;
}

/* ring_drop() - forget the first @n bytes, at most what is there; Return: how many of @n were more than that */
static inline size_t ring_drop(struct ring *r, size_t n)
{
	size_t k = n < r->len ? n : r->len;

	r->len -= k;
	r->head = r->len ? (r->head + k) % r->cap : 0;
	return n - k;
}

#endif
