/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TEST_BLKMEM_H
#define TEST_BLKMEM_H

/*
 * A device in memory for tests. It answers at once, or holds requests until blkmem_answer(); it can be told to fail.
 * Holes are kept by pages of 4096 bytes.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/blk.h"

#define BLKMEM_PAGE 4096u

struct blkmem {
	struct blk b;
	uint8_t *bytes;
	uint8_t *mapped;	/* a byte for each page: written since it was a hole */
	bool hold;		/* requests wait for blkmem_answer() */
	struct blk_req *held;	/* newest first */
	unsigned int n_held, max_held;
	int fail;		/* each request answers this, unless 0 */
	enum blk_op last_op;	/* as the newest request was */
	uint32_t last_flags;
	uint64_t last_off, last_len;
	unsigned int total;
};

static inline void blkmem_map(struct blkmem *m, uint64_t off, uint64_t len, uint8_t how)
{
	/* Becomes a hole: whole pages only. */
	uint64_t from = how ? off / BLKMEM_PAGE : (off + BLKMEM_PAGE - 1) / BLKMEM_PAGE;
	uint64_t to = how ? (off + len + BLKMEM_PAGE - 1) / BLKMEM_PAGE : (off + len) / BLKMEM_PAGE;

	for (uint64_t i = from; i < to; i++)
		m->mapped[i] = how;
}

static inline int blkmem_status(struct blkmem *m, struct blk_req *r)
{
	uint64_t at = r->off, end = r->off + r->len;
	unsigned int n = 0;

	while (at < end && n < r->n_ext) {
		uint8_t how = m->mapped[at / BLKMEM_PAGE];
		uint64_t to = (at / BLKMEM_PAGE + 1) * BLKMEM_PAGE;

		while (to < end && m->mapped[to / BLKMEM_PAGE] == how)
			to += BLKMEM_PAGE;
		r->ext[n++] = (struct blk_extent){ .len = to - at, .flags = how ? 0 : BLK_HOLE | BLK_ZEROES };
		at = to;
	}
	r->n_ext = n;
	return 0;
}

static inline int blkmem_run(struct blkmem *m, struct blk_req *r)
{
	if (m->fail)
		return m->fail;
	switch (r->op) {
	case BLK_READ:
		memcpy(r->buf, m->bytes + r->off, r->len);
		return 0;
	case BLK_WRITE:
		memcpy(m->bytes + r->off, r->buf, r->len);
		blkmem_map(m, r->off, r->len, 1);
		return 0;
	case BLK_ZERO:
		if (r->flags & BLK_FAST_ZERO && !m->b.fast_zero)
			return -ENOTSUP;
		memset(m->bytes + r->off, 0, r->len);
		if (r->flags & BLK_NO_HOLE)
			blkmem_map(m, r->off, r->len, 1);
		else
			blkmem_map(m, r->off, r->len, 0);
		return 0;
	case BLK_TRIM:
		memset(m->bytes + r->off, 0, r->len);
		blkmem_map(m, r->off, r->len, 0);
		return 0;
	case BLK_STATUS:
		return blkmem_status(m, r);
	case BLK_FLUSH:
	case BLK_CACHE:
		return 0;
	}
	return -EINVAL;
}

static inline void blkmem_submit(struct blk *b, struct blk_req *r)
{
	struct blkmem *m = (struct blkmem *)b;

	m->total++;
	m->last_op = r->op;
	m->last_flags = r->flags;
	m->last_off = r->off;
	m->last_len = r->len;
	if (r->off > b->size || r->len > b->size - r->off)
		abort();
	if (!m->hold) {
		r->done(r, blkmem_run(m, r));
		return;
	}
	r->next = m->held;
	m->held = r;
	if (++m->n_held > m->max_held)
		m->max_held = m->n_held;
}

/* blkmem_answer() - the newest of the requests that are held; false: there is none */
static inline bool blkmem_answer(struct blkmem *m)
{
	struct blk_req *r = m->held;

	if (!r)
		return false;
	m->held = r->next;
	m->n_held--;
	r->done(r, blkmem_run(m, r));
	return true;
}

static inline int blkmem_init(struct blkmem *m, uint64_t size)
{
	static const struct blk_ops ops = { .submit = blkmem_submit };

	*m = (struct blkmem){ .b = { .ops = &ops, .size = size, .align = 1, .pref = 4096, .fast_zero = true } };
	m->bytes = calloc(1, size + 1);
	m->mapped = calloc(1, size / BLKMEM_PAGE + 1);
	return m->bytes && m->mapped ? 0 : -ENOMEM;
}

static inline void blkmem_free(struct blkmem *m)
{
	free(m->bytes);
	free(m->mapped);
}

#endif
