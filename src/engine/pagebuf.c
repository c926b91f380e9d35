/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The copy buffer of the primary. Copying with memcpy into memory that is already there is the fastest way to get
 * pages out of the pause (6.8 GB/s measured, against 0.8 GB/s through the process boundary), and lets the network be
 * as slow as it likes. A full buffer is no error: the caller sends and comes back, with the VM still stopped.
 *
 * Content lies one page after the other; beside it a list of pieces, each of neighbouring pages of one kind (content
 * or zeroes). The list is as long as there are pages in the worst case; when pages of zeroes alone fill it, the buffer
 * is as full as any. Which pages an epoch took is not kept here but in the caller's set of
 * the epoch, which an aborted checkpoint adds to the next one.
 */
#include "engine/pagebuf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct piece {
	uint64_t first;
	uint64_t count;
	uint64_t at;		/* page in the buffer; NO_DATA: zeroes */
};
#define NO_DATA UINT64_MAX

struct pagebuf {
	uint64_t cap;
	uint64_t used;
	uint8_t *data;
	struct piece *piece;	/* cap of them */
	uint64_t n_pieces;
	uint64_t pages;
	uint64_t next;		/* piece to hand out, and how many of its pages were */
	uint64_t next_done;
};

struct pagebuf *pagebuf_new(uint64_t cap, struct err *e)
{
	struct pagebuf *b = calloc(1, sizeof(*b));

	if (!b || cap == 0 || cap > SIZE_MAX / RAM_PAGE)
		goto fail;
	b->cap = cap;
	b->data = mmap(NULL, cap * RAM_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (b->data == MAP_FAILED) {
		b->data = NULL;
		goto fail;
	}
	b->piece = calloc(cap, sizeof(*b->piece));
	if (!b->piece)
		goto fail;
	return b;
fail:
	err_set(e, -ENOMEM, "no memory for a copy buffer of %llu pages", (unsigned long long)cap);
	pagebuf_free(b);
	return NULL;
}

void pagebuf_free(struct pagebuf *b)
{
	if (!b)
		return;
	if (b->data)
		munmap(b->data, b->cap * RAM_PAGE);
	free(b->piece);
	free(b);
}

void pagebuf_reset(struct pagebuf *b)
{
	b->used = b->n_pieces = b->pages = b->next = b->next_done = 0;
}

/* take_page() - one page; false: full */
static bool take_page(struct pagebuf *b, const struct ram *ram, uint64_t page)
{
	struct piece *last = b->n_pieces > 0 ? &b->piece[b->n_pieces - 1] : NULL;
	const uint8_t *from = ram_page(ram, page);
	uint64_t at = NO_DATA;

	/*
	 * In pre-copy the guest may write between the test and the end of it; the page is dirty again then and comes
	 * with the next round, so a stale "zero" is as good as a stale copy.
	 */
	if (!ram_page_zero(from)) {
		if (b->used == b->cap)
			return false;
		at = b->used;
	}
	if (last && last->first + last->count == page && (last->at == NO_DATA) == (at == NO_DATA)) {
		last->count++;
	} else {
		if (b->n_pieces == b->cap)
			return false;
		b->piece[b->n_pieces++] = (struct piece){ .first = page, .count = 1, .at = at };
	}
	if (at != NO_DATA) {
		memcpy(b->data + at * RAM_PAGE, from, RAM_PAGE);
		b->used++;
	}
	b->pages++;
	return true;
}

int pagebuf_take(struct pagebuf *b, const struct ram *ram, struct pageset *set)
{
	struct page_run run;
	uint64_t from = 0;

	for (; pageset_next(set, from, 0, &run); from = run.first + run.count) {
		for (uint64_t i = 0; i < run.count; i++) {
			if (run.first + i < ram->n_pages && !take_page(b, ram, run.first + i)) {
				pageset_del(set, run.first, i);
				return -ENOSPC;
			}
		}
		pageset_del(set, run.first, run.count);
	}
	return 0;
}

bool pagebuf_next(struct pagebuf *b, uint64_t max, struct pagebuf_piece *out)
{
	struct piece *p;
	uint64_t n;

	if (b->next == b->n_pieces) {
		pagebuf_reset(b);
		return false;
	}
	p = &b->piece[b->next];
	n = p->count - b->next_done;
	if (p->at != NO_DATA && max > 0 && n > max)
		n = max;
	*out = (struct pagebuf_piece){
		.first = p->first + b->next_done,
		.count = n,
		.data = p->at == NO_DATA ? NULL : b->data + (p->at + b->next_done) * RAM_PAGE,
	};
	b->next_done += n;
	if (b->next_done == p->count) {
		b->next++;
		b->next_done = 0;
	}
	return true;
}

uint64_t pagebuf_pages(const struct pagebuf *b)
{
	return b->pages;
}

uint64_t pagebuf_bytes(const struct pagebuf *b)
{
	return b->used * RAM_PAGE;
}
