/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The NBD server's transmission phase, towards the device: a request is received, then checked as a whole (one
 * function, one sentence for each rule), then given to the device, which may assume that it is sound. Requests run side
 * by side and are answered as they become ready.
 *
 * The data of a WRITE that is refused is still to come and is skipped before the refusal is sent; only one that is
 * larger than any may be ends the connection.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/nbd_internal.h"

#define BUF_ALIGN	4096	/* so that a store with direct I/O can hand the buffer to the kernel */

static size_t payload_of(uint16_t cmd, uint32_t len)
{
	return cmd == NBD_CMD_READ || cmd == NBD_CMD_WRITE ? len : 0;
}

static size_t need_of(uint16_t cmd, uint32_t len)
{
	if (cmd == NBD_CMD_BLOCK_STATUS)
		return BLK_MAX_EXTENTS * sizeof(struct blk_extent);
	return len <= NBD_MAX_PAYLOAD ? payload_of(cmd, len) : 0;
}

uint8_t *nbd_req_buf(struct nbd_req *q, size_t n)
{
	void *p;

	if (posix_memalign(&p, n < BUF_ALIGN ? 512 : BUF_ALIGN, n))
		return NULL;
	q->buf = p;
	q->held = n;
	q->c->held += n;
	q->c->s->held += n;
	return p;
}

/* Whether @c may have @n bytes more. */
static bool may_hold(const struct nbd_conn *c, size_t n)
{
	if (!n || !c->held)
		return true;
	return c->held + n <= NBD_MAX_CONN_HELD && c->s->held + n <= NBD_MAX_HELD;
}

void nbd_req_free(struct nbd_req *q)
{
	struct nbd_conn *c = q->c;
	struct nbd_server *s = c->s;

	free(q->buf);
	q->buf = NULL;
	c->held -= q->held;
	s->held -= q->held;
	if (q->held)
		for (struct nbd_conn *o = s->conns; o; o = o->next)
			if (o->short_of_memory)
				nbd_conn_kick(o);
	q->held = 0;
	q->next = c->free_reqs;
	c->free_reqs = q;
	c->n_busy--;
}

static struct nbd_req *req_new(struct nbd_conn *c)
{
	struct nbd_req *q = c->free_reqs;

	c->free_reqs = q->next;
	c->n_busy++;
	q->next = NULL;
	q->r = (struct blk_req){ .arg = q };
	return q;
}

void nbd_request_abandon(struct nbd_conn *c)
{
	if (c->cur)
		nbd_req_free(c->cur);
	c->cur = NULL;
}

int nbd_transmission(struct nbd_conn *c)
{
	c->reqs = calloc(NBD_MAX_FLIGHT, sizeof(*c->reqs));
	if (!c->reqs)
		return -ENOMEM;
	for (unsigned int i = NBD_MAX_FLIGHT; i--;) {
		c->reqs[i].c = c;
		c->reqs[i].next = c->free_reqs;
		c->free_reqs = &c->reqs[i];
	}
	loop_timer_del(c->s->loop, &c->greet);
	c->st = NBD_ST_REQUEST;
	return 0;
}

/* Flags that a command may have. FUA says nothing about commands that write nothing, and is no error there. */
static uint16_t flags_of(const struct nbd_conn *c, uint16_t cmd)
{
	switch (cmd) {
	case NBD_CMD_READ:
		return NBD_CMD_FLAG_FUA | (c->structured ? NBD_CMD_FLAG_DF : 0);
	case NBD_CMD_WRITE_ZEROES:
		return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
	case NBD_CMD_BLOCK_STATUS:
		return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE;
	default:
		return NBD_CMD_FLAG_FUA;
	}
}

/* All rules for a request. Return: 0, or an NBD error with a sentence in @why */
static uint32_t check(const struct nbd_req *q, const char **why)
{
	const struct nbd_conn *c = q->c;
	uint64_t size = c->exp->blk->size;
	bool changes = q->cmd == NBD_CMD_WRITE || q->cmd == NBD_CMD_TRIM || q->cmd == NBD_CMD_WRITE_ZEROES;

	if (q->cmd > NBD_CMD_BLOCK_STATUS) {
		*why = "this command is not known";
		return NBD_EINVAL;
	}
	if (q->flags & ~flags_of(c, q->cmd)) {
		*why = "the command does not have these flags";
		return NBD_EINVAL;
	}
	if (changes && c->exp->readonly) {
		*why = "the export is read-only";
		return NBD_EPERM;
	}
	if (q->cmd == NBD_CMD_FLUSH) {
		*why = "the offset and length of a FLUSH are zero";
		return q->off || q->len ? NBD_EINVAL : 0;
	}
	if (q->off > size || q->len > size - q->off) {
		*why = "the range is not inside the export";
		return q->cmd == NBD_CMD_WRITE || q->cmd == NBD_CMD_WRITE_ZEROES ? NBD_ENOSPC : NBD_EINVAL;
	}
	if (payload_of(q->cmd, q->len) > NBD_MAX_PAYLOAD) {
		*why = "that is more than 32 MiB at once";
		return NBD_EINVAL;
	}
	if (q->cmd != NBD_CMD_BLOCK_STATUS)
		return 0;
	if (!c->allocation) {
		*why = "no context was chosen";
		return NBD_EINVAL;
	}
	*why = "there is no status of nothing";
	return q->len ? 0 : NBD_EINVAL;
}

static void device_done(struct blk_req *r, int rc)
{
	struct nbd_req *q = r->arg;
	struct nbd_conn *c = q->c;

	c->n_device--;
	if (c->st == NBD_ST_DEAD) {
		nbd_req_free(q);
		loop_timer_set(c->s->loop, &c->s->reap, loop_now(c->s->loop));
		return;
	}
	/* Both are hints, and a device that cannot make use of one has failed at nothing. */
	if (rc == -ENOTSUP && (q->cmd == NBD_CMD_TRIM || q->cmd == NBD_CMD_CACHE))
		rc = 0;
	/* Nobody knows what is allocated: everything is. */
	if (rc == -ENOTSUP && q->cmd == NBD_CMD_BLOCK_STATUS) {
		r->ext[0] = (struct blk_extent){ .len = q->len };
		r->n_ext = 1;
		rc = 0;
	}
	if (rc)
		nbd_reply_error(q, nbd_error_of(rc), "the device has failed");
	else if (q->cmd == NBD_CMD_READ)
		nbd_reply_read(q);
	else if (q->cmd == NBD_CMD_BLOCK_STATUS)
		nbd_reply_status(q);
	else
		nbd_reply_done(q);
}

static void execute(struct nbd_req *q)
{
	static const enum blk_op ops[] = {
		[NBD_CMD_READ] = BLK_READ, [NBD_CMD_WRITE] = BLK_WRITE, [NBD_CMD_FLUSH] = BLK_FLUSH,
		[NBD_CMD_TRIM] = BLK_TRIM, [NBD_CMD_CACHE] = BLK_CACHE, [NBD_CMD_WRITE_ZEROES] = BLK_ZERO,
		[NBD_CMD_BLOCK_STATUS] = BLK_STATUS,
	};
	struct nbd_stats *st = &q->c->s->stats;
	struct blk_req *r = &q->r;

	st->reads += q->cmd == NBD_CMD_READ;
	st->writes += q->cmd == NBD_CMD_WRITE;
	st->zeroes += q->cmd == NBD_CMD_WRITE_ZEROES;
	st->trims += q->cmd == NBD_CMD_TRIM;
	st->flushes += q->cmd == NBD_CMD_FLUSH;
	st->bytes_read += q->cmd == NBD_CMD_READ ? q->len : 0;
	st->bytes_written += q->cmd == NBD_CMD_WRITE ? q->len : 0;
	/* Devices need not know requests without a length. */
	if (!q->len && q->cmd != NBD_CMD_FLUSH) {
		if (q->cmd == NBD_CMD_READ)
			nbd_reply_read(q);
		else
			nbd_reply_done(q);
		return;
	}
	r->op = ops[q->cmd];
	r->off = q->off;
	r->len = q->len;
	r->buf = q->buf;
	r->done = device_done;
	if (q->flags & NBD_CMD_FLAG_FUA && (r->op == BLK_WRITE || r->op == BLK_ZERO || r->op == BLK_TRIM))
		r->flags |= BLK_FUA;
	if (q->flags & NBD_CMD_FLAG_NO_HOLE)
		r->flags |= BLK_NO_HOLE;
	if (q->flags & NBD_CMD_FLAG_FAST_ZERO)
		r->flags |= BLK_FAST_ZERO;
	if (r->op == BLK_STATUS) {
		r->buf = NULL;
		r->ext = (struct blk_extent *)q->buf;
		r->n_ext = q->flags & NBD_CMD_FLAG_REQ_ONE ? 1 : BLK_MAX_EXTENTS;
	}
	q->c->n_device++;
	blk_submit(q->c->exp->blk, r);
}

/* A request's head is there and there is a place for it. */
static bool begin(struct nbd_conn *c, struct nbd_req *q)
{
	const char *why = NULL;
	uint32_t error = check(q, &why);
	size_t n = need_of(q->cmd, q->len);

	if (q->cmd == NBD_CMD_WRITE && q->len > NBD_MAX_PAYLOAD) {
		nbd_reply_error(q, NBD_EINVAL, "that is more than 32 MiB at once");
		nbd_conn_close(c);
		return true;
	}
	if (!error && n && !nbd_req_buf(q, n)) {
		error = NBD_ENOMEM;
		why = "there is no memory for it";
	}
	if (q->cmd == NBD_CMD_WRITE && q->len) {
		c->cur = q;
		c->got = 0;
		c->refusal = error;
		c->why = why;
		c->st = error ? NBD_ST_PAYLOAD_SKIP : NBD_ST_PAYLOAD;
	} else if (error) {
		nbd_reply_error(q, error, why);
	} else {
		execute(q);
	}
	return true;
}

static bool request_head(struct nbd_conn *c)
{
	struct nbd_req *q;
	struct cursor cur;
	uint32_t magic, len;
	uint16_t cmd, flags;
	uint64_t cookie, off;

	if (!c->free_reqs || !nbd_conn_take(c, NBD_REQUEST_LEN, &cur))
		return false;
	magic = cursor_u32(&cur);
	flags = cursor_u16(&cur);
	cmd = cursor_u16(&cur);
	cookie = cursor_u64(&cur);
	off = cursor_u64(&cur);
	len = cursor_u32(&cur);
	if (magic != NBD_REQUEST_MAGIC) {
		nbd_conn_die(c);
		return false;
	}
	if (cmd == NBD_CMD_DISC) {
		nbd_conn_close(c);
		return false;
	}
	c->short_of_memory = !may_hold(c, need_of(cmd, len));
	if (c->short_of_memory) {
		c->in_at -= NBD_REQUEST_LEN;
		return false;
	}
	q = req_new(c);
	q->cookie = cookie;
	q->off = off;
	q->len = len;
	q->cmd = cmd;
	q->flags = flags;
	return begin(c, q);
}

static bool payload(struct nbd_conn *c)
{
	size_t n = c->cur->len - c->got, there = c->in_end - c->in_at;
	struct nbd_req *q = c->cur;
	struct cursor cur;

	if (n > there)
		n = there;
	if (n) {
		nbd_conn_take(c, n, &cur);
		if (c->st == NBD_ST_PAYLOAD)
			cursor_copy(&cur, q->buf + c->got, n);
		c->got += n;
	}
	if (c->got < q->len)
		return false;
	c->cur = NULL;
	if (c->st == NBD_ST_PAYLOAD_SKIP)
		nbd_reply_error(q, c->refusal, c->why);
	c->st = NBD_ST_REQUEST;
	if (!c->refusal)
		execute(q);
	return true;
}

bool nbd_request_step(struct nbd_conn *c)
{
	return c->st == NBD_ST_REQUEST ? request_head(c) : payload(c);
}
