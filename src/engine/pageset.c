/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sets of pages as a bitmap: 32 KB for each GiB of guest memory, made once, so that nothing is allocated during a
 * checkpoint, and so that a page which was reported twice is sent once. Any thread, one owner at a time.
 */
#include "engine/pageset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD 64

static uint64_t n_words(const struct pageset *s)
{
	return (s->n_pages + WORD - 1) / WORD;
}

int pageset_init(struct pageset *s, uint64_t n_pages)
{
	*s = (struct pageset){ .n_pages = n_pages };
	s->bits = calloc(n_words(s) > 0 ? n_words(s) : 1, sizeof(*s->bits));
	return s->bits ? 0 : -ENOMEM;
}

void pageset_fini(struct pageset *s)
{
	free(s->bits);
	*s = (struct pageset){ 0 };
}

/* change() - set or clear the bits of a run, a word at a time */
static void change(struct pageset *s, uint64_t first, uint64_t count, bool on)
{
	uint64_t end;

	if (first >= s->n_pages)
		return;
	if (count > s->n_pages - first)
		count = s->n_pages - first;
	end = first + count;
	while (first < end) {
		uint64_t bit = first % WORD, n = WORD - bit < end - first ? WORD - bit : end - first;
		uint64_t mask = (n == WORD ? UINT64_MAX : (1ull << n) - 1) << bit, *w = &s->bits[first / WORD];

		s->count -= (uint64_t)__builtin_popcountll(*w);
		*w = on ? *w | mask : *w & ~mask;
		s->count += (uint64_t)__builtin_popcountll(*w);
		first += n;
	}
}

void pageset_add(struct pageset *s, uint64_t first, uint64_t count)
{
	change(s, first, count, true);
}

void pageset_del(struct pageset *s, uint64_t first, uint64_t count)
{
	change(s, first, count, false);
}

static void recount(struct pageset *s)
{
	s->count = 0;
	for (uint64_t i = 0; i < n_words(s); i++)
		s->count += (uint64_t)__builtin_popcountll(s->bits[i]);
}

void pageset_or(struct pageset *s, const struct pageset *from)
{
	uint64_t n = n_words(s) < n_words(from) ? n_words(s) : n_words(from);

	for (uint64_t i = 0; i < n; i++)
		s->bits[i] |= from->bits[i];
	recount(s);
}

void pageset_and(struct pageset *s, const struct pageset *by)
{
	if (!s->count)
		return;
	for (uint64_t i = 0; i < n_words(s); i++)
		s->bits[i] &= i < n_words(by) ? by->bits[i] : 0;
	recount(s);
}

void pageset_sub(struct pageset *s, const struct pageset *by)
{
	if (!s->count || !by->count)
		return;
	for (uint64_t i = 0; i < n_words(s) && i < n_words(by); i++)
		s->bits[i] &= ~by->bits[i];
	recount(s);
}

void pageset_clear(struct pageset *s)
{
	if (s->count > 0)
		memset(s->bits, 0, n_words(s) * sizeof(*s->bits));
	s->count = 0;
}

/* find() - the first page at or behind @from whose bit is @on; n_pages when there is none */
static uint64_t find(const struct pageset *s, uint64_t from, bool on)
{
	while (from < s->n_pages) {
		uint64_t w = s->bits[from / WORD];

		if (!on)
			w = ~w;
		w &= UINT64_MAX << (from % WORD);
		if (w != 0) {
			from = from / WORD * WORD + (uint64_t)__builtin_ctzll(w);
			break;
		}
		from = (from / WORD + 1) * WORD;
	}
	return from < s->n_pages ? from : s->n_pages;
}

bool pageset_next(const struct pageset *s, uint64_t from, uint64_t gap, struct page_run *run)
{
	uint64_t first, end, next;

	if (s->count == 0)
		return false;
	first = find(s, from, true);
	if (first == s->n_pages)
		return false;
	end = find(s, first, false);
	while (gap > 0 && end < s->n_pages) {
		next = find(s, end, true);
		if (next == s->n_pages || next - end > gap)
			break;
		end = find(s, next, false);
	}
	*run = (struct page_run){ .first = first, .count = end - first };
	return true;
}
