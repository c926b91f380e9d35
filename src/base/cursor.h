/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_CURSOR_H
#define BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * The bounded cursor: the only way in which bytes of a guest, a peer or a user are read. Reading beyond the end
 * sets @bad and yields zeroes, so a parser reads a whole message and asks once.
 */
struct cursor {
	const uint8_t *p;
	size_t left;
	bool bad;
};

static inline struct cursor cursor_of(const void *p, size_t len)
{
	return (struct cursor){ .p = p, .left = len };
}

/* cursor_get() - the next @n bytes, borrowed; NULL (and bad) when there are fewer */
static inline const uint8_t *cursor_get(struct cursor *c, size_t n)
{
	const uint8_t *p = c->p;

	if (c->bad || n > c->left) {
		c->bad = true;
		return NULL;
	}
	c->p += n;
	c->left -= n;
	return p;
}

static inline void cursor_copy(struct cursor *c, void *to, size_t n)
{
	const uint8_t *p = cursor_get(c, n);

	if (p)
		memcpy(to, p, n);
	else
		memset(to, 0, n);
}

/* Integers on the wire are big-endian. */
static inline uint64_t cursor_be(struct cursor *c, size_t n)
{
	const uint8_t *p = cursor_get(c, n);
	uint64_t v = 0;

	for (size_t i = 0; p && i < n; i++)
		v = v << 8 | p[i];
	return v;
}

static inline uint8_t cursor_u8(struct cursor *c)
{
	return (uint8_t)cursor_be(c, 1);
}

static inline uint16_t cursor_u16(struct cursor *c)
{
	return (uint16_t)cursor_be(c, 2);
}

static inline uint32_t cursor_u32(struct cursor *c)
{
	return (uint32_t)cursor_be(c, 4);
}

static inline uint64_t cursor_u64(struct cursor *c)
{
	return cursor_be(c, 8);
}

/* The writing twin: fails (bad) instead of writing beyond the end. */
struct wcursor {
	uint8_t *p;
	size_t left;
	size_t done;
	bool bad;
};

static inline struct wcursor wcursor_of(void *p, size_t len)
{
	return (struct wcursor){ .p = p, .left = len };
}

static inline uint8_t *wcursor_put(struct wcursor *w, size_t n)
{
	uint8_t *p = w->p;

	if (w->bad || n > w->left) {
		w->bad = true;
		return NULL;
	}
	w->p += n;
	w->left -= n;
	w->done += n;
	return p;
}

static inline void wcursor_bytes(struct wcursor *w, const void *from, size_t n)
{
	uint8_t *p = wcursor_put(w, n);

	if (p && n)
		memcpy(p, from, n);
}

static inline void wcursor_be(struct wcursor *w, uint64_t v, size_t n)
{
	uint8_t *p = wcursor_put(w, n);

	for (size_t i = 0; p && i < n; i++)
		p[i] = (uint8_t)(v >> (8 * (n - 1 - i)));
}

static inline void wcursor_u8(struct wcursor *w, uint8_t v)
{
	wcursor_be(w, v, 1);
}

static inline void wcursor_u16(struct wcursor *w, uint16_t v)
{
	wcursor_be(w, v, 2);
}

static inline void wcursor_u32(struct wcursor *w, uint32_t v)
{
	wcursor_be(w, v, 4);
}

static inline void wcursor_u64(struct wcursor *w, uint64_t v)
{
	wcursor_be(w, v, 8);
}

#endif
