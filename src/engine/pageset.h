/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_PAGESET_H
#define ENGINE_PAGESET_H

#include <stdbool.h>
#include <stdint.h>

/* A set of guest pages, one bit each. One owner at a time; pass it by message. */
struct pageset {
	uint64_t *bits;
	uint64_t n_pages;	/* pages that the set can hold: 0 ... n_pages - 1 */
	uint64_t count;		/* pages that it holds */
};

struct page_run {
	uint64_t first;		/* page number */
	uint64_t count;		/* pages, never 0 */
};

/* pageset_init() - an empty set for @n_pages pages; 0 or -ENOMEM; pageset_fini() frees */
int pageset_init(struct pageset *s, uint64_t n_pages);
void pageset_fini(struct pageset *s);

/* pageset_add() / pageset_del() - put a run in, take it out; what lies beyond @n_pages is ignored */
void pageset_add(struct pageset *s, uint64_t first, uint64_t count);
void pageset_del(struct pageset *s, uint64_t first, uint64_t count);

/* pageset_or() - add all of @from, a set of the same size */
void pageset_or(struct pageset *s, const struct pageset *from);

/* pageset_and() / pageset_sub() - keep only what is in @by too; take out what is in @by; sets of the same size */
void pageset_and(struct pageset *s, const struct pageset *by);
void pageset_sub(struct pageset *s, const struct pageset *by);

/* pageset_swap() - exchange two */
static inline void pageset_swap(struct pageset *a, struct pageset *b)
{
	struct pageset t = *a;

	*a = *b;
	*b = t;
}

void pageset_clear(struct pageset *s);

static inline bool pageset_has(const struct pageset *s, uint64_t page)
{
	return page < s->n_pages && (s->bits[page / 64] >> (page % 64) & 1) != 0;
}

/*
 * pageset_next() - the next run of pages in the set
 * @from: first page to look at
 * @gap:  runs that lie at most this many pages apart come as one, the pages between them included
 * @run:  filled
 *
 * Go on from run->first + run->count. Return: false when there is none at or behind @from.
 */
bool pageset_next(const struct pageset *s, uint64_t from, uint64_t gap, struct page_run *run);

#endif
