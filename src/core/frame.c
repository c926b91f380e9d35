/* SPDX-License-Identifier: BSD-2-Clause */
/* The frame pool; see frame.h. Pure; belongs to one struct net. */
#include "core/frame.h"

#include <errno.h>
#include <stdlib.h>

int frame_pool_init(struct frame_pool *fp, uint32_t n, uint32_t size)
{
	fp->n = n;
	/* A byte more, so that a reader can tell a frame that is too long. */
	fp->size = (size + 64) & ~63u;
	fp->reserve = n / 8;
	fp->bytes = calloc(n, fp->size);
	fp->meta = calloc(n, sizeof(*fp->meta));
	if (!fp->bytes || !fp->meta) {
		frame_pool_free(fp);
		return -ENOMEM;
	}
	frame_pool_reset(fp);
	return 0;
}

void frame_pool_free(struct frame_pool *fp)
{
	free(fp->bytes);
	free(fp->meta);
	fp->bytes = NULL;
	fp->meta = NULL;
}

void frame_pool_reset(struct frame_pool *fp)
{
	for (uint32_t i = 0; i < fp->n; i++) {
		fp->meta[i].next = i + 1 < fp->n ? i + 1 : FRAME_NONE;
		fp->meta[i].used = false;
	}
	fp->free_head = fp->n ? 0 : FRAME_NONE;
	fp->n_free = fp->n;
	fp->dead_head = FRAME_NONE;
}

uint32_t frame_alloc(struct frame_pool *fp, bool input)
{
	uint32_t h = fp->free_head;

	if (h == FRAME_NONE || (input && fp->n_free <= fp->reserve))
		return FRAME_NONE;
	fp->free_head = fp->meta[h].next;
	fp->n_free--;
	fp->meta[h] = (struct frame_meta){ .next = FRAME_NONE, .piece = FRAME_NONE, .used = true };
	return h;
}

void frame_free(struct frame_pool *fp, uint32_t h)
{
	fp->meta[h].used = false;
	fp->meta[h].next = fp->dead_head;
	fp->dead_head = h;
}

uint32_t frame_free_chain(struct frame_pool *fp, uint32_t h)
{
	uint32_t n = 0;

	while (h != FRAME_NONE) {
		uint32_t next = fp->meta[h].piece;

		frame_free(fp, h);
		h = next;
		n++;
	}
	return n;
}

void frame_reap(struct frame_pool *fp)
{
	while (fp->dead_head != FRAME_NONE) {
		uint32_t h = fp->dead_head;

		fp->dead_head = fp->meta[h].next;
		fp->meta[h].next = fp->free_head;
		fp->free_head = h;
		fp->n_free++;
	}
}

void frame_list_init(struct frame_list *l)
{
	l->head = l->tail = FRAME_NONE;
	l->n = 0;
}

void frame_list_append(struct frame_pool *fp, struct frame_list *l, uint32_t h)
{
	fp->meta[h].next = FRAME_NONE;
	if (l->tail == FRAME_NONE)
		l->head = h;
	else
		fp->meta[l->tail].next = h;
	l->tail = h;
	l->n++;
}

uint32_t frame_list_pop(struct frame_pool *fp, struct frame_list *l)
{
	uint32_t h = l->head;

	if (h == FRAME_NONE)
		return h;
	l->head = fp->meta[h].next;
	if (l->head == FRAME_NONE)
		l->tail = FRAME_NONE;
	l->n--;
	fp->meta[h].next = FRAME_NONE;
	return h;
}

uint32_t frame_list_clear(struct frame_pool *fp, struct frame_list *l)
{
	uint32_t n = 0, h;

	while ((h = frame_list_pop(fp, l)) != FRAME_NONE) {
		frame_free(fp, h);
		n++;
	}
	return n;
}
