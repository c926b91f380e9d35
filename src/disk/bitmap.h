/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_BITMAP_H
#define DISK_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

/* A bitmap that knows how many of its bits are set. Ranges are [from, to). */
struct bitmap {
	uint64_t *word;
	uint64_t n;		/* bits */
	uint64_t set;		/* of these, how many are set */
};

/* bitmap_init() - @n bits, all clear. Return: 0 or -ENOMEM */
int bitmap_init(struct bitmap *b, uint64_t n);
void bitmap_free(struct bitmap *b);

static inline uint64_t bitmap_words(const struct bitmap *b)
{
	return (b->n + 63) / 64;
}

static inline bool bitmap_get(const struct bitmap *b, uint64_t i)
{
	return b->word[i / 64] >> (i % 64) & 1;
}

/* bitmap_all() - whether every bit of the range is set */
bool bitmap_all(const struct bitmap *b, uint64_t from, uint64_t to);
/* bitmap_any() - whether a bit of the range is set */
bool bitmap_any(const struct bitmap *b, uint64_t from, uint64_t to);
void bitmap_set(struct bitmap *b, uint64_t from, uint64_t to);
void bitmap_clear(struct bitmap *b, uint64_t from, uint64_t to);

/* bitmap_next() - the first run of set bits that ends after @from, cut at @from; false: none */
bool bitmap_next(const struct bitmap *b, uint64_t from, uint64_t *first, uint64_t *end);

/* bitmap_or() - set in @to what is set in @from; of one size */
void bitmap_or(struct bitmap *to, const struct bitmap *from);

/* bitmap_recount() - after the words were written directly: forget bits beyond the end, count anew */
void bitmap_recount(struct bitmap *b);

#endif
