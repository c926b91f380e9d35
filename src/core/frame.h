/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_FRAME_H
#define CORE_FRAME_H

#include <stdbool.h>
#include <stdint.h>

/*
 * The frame pool: fixed buffers, allocated once, named by handle, each in at most one list. Freed frames stay
 * readable until frame_reap(), because actions that name them have not been carried out yet.
 */
struct frame_meta {
	uint32_t len;
	uint32_t bytes;		/* held: that were counted for it */
	uint32_t next;		/* in whatever list the frame is */
	uint64_t epoch;		/* the guest made it in this epoch */
	uint32_t seq, end;	/* held TCP segments: client sequence numbers; datagrams: 0 and bytes of content */
	uint32_t piece;		/* the next fragment of the same datagram, or FRAME_NONE */
	uint8_t nic;
	bool used;
};

struct frame_pool {
	uint8_t *bytes;
	struct frame_meta *meta;
	uint32_t n, size, reserve;
	uint32_t free_head, n_free;
	uint32_t dead_head;	/* freed in this step */
};

struct frame_list {
	uint32_t head, tail, n;
};

#define FRAME_NONE UINT32_MAX

int frame_pool_init(struct frame_pool *fp, uint32_t n, uint32_t size);
void frame_pool_free(struct frame_pool *fp);
void frame_pool_reset(struct frame_pool *fp);

/* frame_alloc() - Return: a handle, or FRAME_NONE; @input leaves an eighth of the pool for everything else */
uint32_t frame_alloc(struct frame_pool *fp, bool input);
/* frame_free() - the frame is not needed after this step */
void frame_free(struct frame_pool *fp, uint32_t h);
/* frame_free_chain() - the same for all fragments of a datagram. Return: how many frames */
uint32_t frame_free_chain(struct frame_pool *fp, uint32_t h);
/* frame_reap() - the last step's actions were carried out */
void frame_reap(struct frame_pool *fp);

static inline uint8_t *frame_data(const struct frame_pool *fp, uint32_t h)
{
	return fp->bytes + (uint64_t)h * fp->size;
}

void frame_list_init(struct frame_list *l);
void frame_list_append(struct frame_pool *fp, struct frame_list *l, uint32_t h);
/* frame_list_pop() - Return: the first frame, now the caller's, or FRAME_NONE */
uint32_t frame_list_pop(struct frame_pool *fp, struct frame_list *l);
/* frame_list_clear() - free all. Return: how many */
uint32_t frame_list_clear(struct frame_pool *fp, struct frame_list *l);

#endif
