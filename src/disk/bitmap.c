/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/bitmap.h"

#include <errno.h>
#include <stdlib.h>

int bitmap_init(struct bitmap *b, uint64_t n)
{
	*b = (struct bitmap){ .n = n };
	b->word = calloc(n ? bitmap_words(b) : 1, sizeof(*b->word));
	return b->word ? 0 : -ENOMEM;
}

void bitmap_free(struct bitmap *b)
{
	free(b->word);
	*b = (struct bitmap){ 0 };
}

/* mask() - the bits of word @w that belong to [from, to) */
static uint64_t mask(uint64_t w, uint64_t from, uint64_t to)
{
	uint64_t m = ~0ull;

	if (from > w * 64)
		m &= ~0ull << (from - w * 64);
	if (to < (w + 1) * 64)
		m &= ~(~0ull << (to - w * 64));
	return m;
}

bool bitmap_all(const struct bitmap *b, uint64_t from, uint64_t to)
{
	for (uint64_t w = from / 64; from < to && w <= (to - 1) / 64; w++) {
		uint64_t m = mask(w, from, to);

		if ((b->word[w] & m) != m)
			return false;
	}
	return true;
}

bool bitmap_any(const struct bitmap *b, uint64_t from, uint64_t to)
{
	for (uint64_t w = from / 64; b->set && from < to && w <= (to - 1) / 64; w++) {
		if (b->word[w] & mask(w, from, to))
			return true;
	}
	return false;
}

void bitmap_set(struct bitmap *b, uint64_t from, uint64_t to)
{
	for (uint64_t w = from / 64; from < to && w <= (to - 1) / 64; w++) {
		uint64_t more = mask(w, from, to) & ~b->word[w];

		b->word[w] |= more;
		b->set += (uint64_t)__builtin_popcountll(more);
	}
}

void bitmap_clear(struct bitmap *b, uint64_t from, uint64_t to)
{
	for (uint64_t w = from / 64; b->set && from < to && w <= (to - 1) / 64; w++) {
		uint64_t gone = mask(w, from, to) & b->word[w];

		b->word[w] &= ~gone;
		b->set -= (uint64_t)__builtin_popcountll(gone);
	}
}

/* seek() - the first bit at or after @i that is @value; b->n if there is none */
static uint64_t seek(const struct bitmap *b, uint64_t i, bool value)
{
	uint64_t words = bitmap_words(b);

	for (uint64_t w = i / 64; w < words; w++) {
		uint64_t v = value ? b->word[w] : ~b->word[w];

		if (w == i / 64)
			v &= ~0ull << (i % 64);
		if (v) {
			uint64_t at = w * 64 + (uint64_t)__builtin_ctzll(v);

			return at < b->n ? at : b->n;
		}
	}
	return b->n;
}

bool bitmap_next(const struct bitmap *b, uint64_t from, uint64_t *first, uint64_t *end)
{
	if (b->set == 0 || from >= b->n)
		return false;
	*first = seek(b, from, true);
	if (*first == b->n)
		return false;
	*end = seek(b, *first, false);
	return true;
}

void bitmap_or(struct bitmap *to, const struct bitmap *from)
{
	for (uint64_t w = 0; from->set && w < bitmap_words(to); w++) {
		uint64_t more = from->word[w] & ~to->word[w];

		to->word[w] |= more;
		to->set += (uint64_t)__builtin_popcountll(more);
	}
}

void bitmap_recount(struct bitmap *b)
{
	uint64_t words = bitmap_words(b);

	if (b->n % 64)
		b->word[words - 1] &= ~(~0ull << (b->n % 64));
	b->set = 0;
	for (uint64_t w = 0; w < words; w++)
		b->set += (uint64_t)__builtin_popcountll(b->word[w]);
}
