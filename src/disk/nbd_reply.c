/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the NBD server answers in the transmission phase. Where structured replies were negotiated, reads, statuses and
 * errors are chunks, errors with a sentence; success without data is a simple reply, which is allowed and shorter.
 * The one place that knows NBD's error numbers is nbd_error_of().
 */
#include <errno.h>
#include <string.h>

#include "disk/nbd_internal.h"

#define META_ID		1u	/* as in nbd_greet.c: of base:allocation */
#define MAX_SENTENCE	128	/* bytes of an error's */

/* nbd_error_of() - NBD's number for @rc, a -errno */
uint32_t nbd_error_of(int rc)
{
	switch (-rc) {
	case EPERM:
	case EACCES:
	case EROFS:
		return NBD_EPERM;
	case ENOMEM:
		return NBD_ENOMEM;
	case EINVAL:
		return NBD_EINVAL;
	case ENOSPC:
	case EDQUOT:
	case EFBIG:
		return NBD_ENOSPC;
	case EOVERFLOW:
		return NBD_EOVERFLOW;
	case EOPNOTSUPP:
		return NBD_ENOTSUP;
	case ESHUTDOWN:
		return NBD_ESHUTDOWN;
	default:
		return NBD_EIO;
	}
}

/* Queues the head in @w and @n bytes of @body behind it; the request is over when they are sent. */
static void send(struct nbd_req *q, const struct wcursor *w, const uint8_t *body, size_t n)
{
	q->head_seg = (struct nbd_seg){ .p = q->head, .len = w->done, .req = n ? NULL : q };
	nbd_conn_send(q->c, &q->head_seg);
	if (!n)
		return;
	q->body_seg = (struct nbd_seg){ .p = body, .len = n, .req = q };
	nbd_conn_send(q->c, &q->body_seg);
}

static struct wcursor simple(struct nbd_req *q, uint32_t error)
{
	struct wcursor w = wcursor_of(q->head, sizeof(q->head));

	wcursor_u32(&w, NBD_SIMPLE_MAGIC);
	wcursor_u32(&w, error);
	wcursor_u64(&w, q->cookie);
	return w;
}

/* The only chunk of a reply; @len: bytes behind its head */
static struct wcursor chunk(struct nbd_req *q, uint16_t type, size_t len)
{
	struct wcursor w = wcursor_of(q->head, sizeof(q->head));

	wcursor_u32(&w, NBD_STRUCTURED_MAGIC);
	wcursor_u16(&w, NBD_REPLY_FLAG_DONE);
	wcursor_u16(&w, type);
	wcursor_u64(&w, q->cookie);
	wcursor_u32(&w, (uint32_t)len);
	return w;
}

void nbd_reply_error(struct nbd_req *q, uint32_t error, const char *why)
{
	size_t n = strlen(why);
	struct wcursor w;

	q->c->s->stats.errors++;
	if (!q->c->structured) {
		w = simple(q, error);
		send(q, &w, NULL, 0);
		return;
	}
	if (n > MAX_SENTENCE)
		n = MAX_SENTENCE;
	w = chunk(q, NBD_REPLY_TYPE_ERROR, 6 + n);
	wcursor_u32(&w, error);
	wcursor_u16(&w, (uint16_t)n);
	wcursor_bytes(&w, why, n);
	send(q, &w, NULL, 0);
}

void nbd_reply_done(struct nbd_req *q)
{
	struct wcursor w = simple(q, 0);

	send(q, &w, NULL, 0);
}

/* Data that is not zero mostly says so in its first bytes; where it is, looking is cheaper than sending. */
static bool all_zero(const uint8_t *p, size_t n)
{
	size_t first = n < 16 ? n : 16;

	for (size_t i = 0; i < first; i++)
		if (p[i])
			return false;
	return n <= 16 || !memcmp(p, p + 16, n - 16);
}

void nbd_reply_read(struct nbd_req *q)
{
	struct wcursor w;

	if (!q->c->structured) {
		w = simple(q, 0);
	} else if (!q->len) {
		w = chunk(q, NBD_REPLY_TYPE_NONE, 0);
	} else if (all_zero(q->buf, q->len)) {
		w = chunk(q, NBD_REPLY_TYPE_OFFSET_HOLE, 12);
		wcursor_u64(&w, q->off);
		wcursor_u32(&w, q->len);
		send(q, &w, NULL, 0);
		return;
	} else {
		w = chunk(q, NBD_REPLY_TYPE_OFFSET_DATA, 8 + (size_t)q->len);
		wcursor_u64(&w, q->off);
	}
	send(q, &w, q->buf, q->len);
}

static uint32_t state_of(uint32_t flags)
{
	return (flags & BLK_HOLE ? NBD_STATE_HOLE : 0) | (flags & BLK_ZEROES ? NBD_STATE_ZERO : 0);
}

/* The device's extents, cut to what was asked for, equal neighbours made one, become the chunk's data in place. */
void nbd_reply_status(struct nbd_req *q)
{
	const struct blk_extent *ext = (const struct blk_extent *)q->buf;
	struct wcursor w, data = wcursor_of(q->buf, q->held);
	uint32_t left = q->len, len = 0, state = 0;

	for (unsigned int i = 0; i < q->r.n_ext && left; i++) {
		/* A copy: what is written below may reach it, never the one behind it. */
		struct blk_extent x = ext[i];
		uint32_t n = x.len < left ? (uint32_t)x.len : left;

		if (!data.done)
			wcursor_u32(&data, META_ID);
		if (len && state != state_of(x.flags)) {
			wcursor_u32(&data, len);
			wcursor_u32(&data, state);
			len = 0;
		}
		state = state_of(x.flags);
		len += n;
		left -= n;
	}
	if (!len) {
		nbd_reply_error(q, NBD_EIO, "the device has told nothing");
		return;
	}
	wcursor_u32(&data, len);
	wcursor_u32(&data, state);
	w = chunk(q, NBD_REPLY_TYPE_BLOCK_STATUS, data.done);
	send(q, &w, q->buf, data.done);
}
