/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One connection: theory of operation
 *
 * Goal: whole messages between two loops of two nodes, never blocking either, never growing without bound, and
 * never losing the peer's last words.
 *
 * Sending. Small messages are copied into a ring and leave with one write at the end of the loop's turn (a timer
 * that is due at once does that: timers run last). Large ones are handed to the kernel straight from the caller's
 * memory, behind what the ring still holds, in one gather write; only what the kernel does not take is copied. While
 * the kernel takes nothing the ring fills; at the soft limit senders hear -EAGAIN, and messages that must go still
 * fit up to the hard limit. A must message that does not fit ends the connection: to lose it silently would be worse.
 *
 * Credit. TCP alone would push back too, but then our reader would have to stop reading, and behind a large message
 * nobody wants wait the ones that matter. So the reader always reads, and the peer may have only so much unconsumed
 * (window_bytes, window_msgs); a grant names totals since the beginning. Messages that must go count but do not
 * wait; CREDIT itself does not count. A peer that goes far beyond its credit is garbled. Credit starts with the
 * first grant, which is the first thing each side sends.
 *
 * The end. EOF, reset, timeout and garbage are told apart, since only the first two say that the peer's kernel has
 * spoken. A failed write is not yet the end: what the peer had sent before it died (it may be PROMOTE) still lies in
 * our receive buffer, so reading goes on until it is empty. closed() is called exactly once, from the loop.
 *
 * With TLS the kernel's close of a dead process's connection is what it is without (tls_session.c), and what a stream
 * has decrypted ahead goes with it to the loop that it is handed to: conn_new() looks.
 *
 * Not done: no checksum of our own (TCP's, or TLS's), no compression, no multiplexing; four connections.
 */
#include "link/conn.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "link/ring.h"

enum {
	CONN_DIRECT = 16 << 10,		/* from this size on a message is written at once */
	CONN_READ_BUDGET = 8 << 20,	/* bytes read in one turn, so that one connection does not starve the loop */
	CONN_MOVE = 64 << 10,		/* a rest of a message up to this is moved to the buffer's front at once */
};

#define CONN_SLACK_BYTES	(64ull << 20)	/* what must messages may add to the window before it is a violation */
#define CONN_SLACK_MSGS		(1ull << 17)

/* Per channel: payload limit, soft and hard limit of the queue, window, read buffer. */
static const struct {
	size_t max, soft, hard, rx;
	uint64_t window_bytes, window_msgs;
} defaults[WIRE_CHANNELS] = {
	[WIRE_CONTROL] = { WIRE_MAX_CONTROL_PAYLOAD, 64 << 10, 256 << 10, 64 << 10, 1 << 20, 1024 },
	[WIRE_FRAMES] = { WIRE_MAX_FRAMES_PAYLOAD, 4 << 20, 12 << 20, 512 << 10, 16 << 20, 16384 },
	[WIRE_BULK] = { WIRE_MAX_BULK_PAYLOAD, 4 << 20, 12 << 20, 4 << 20, 64 << 20, 65536 },
	[WIRE_DISK] = { WIRE_MAX_DISK_PAYLOAD, 4 << 20, 12 << 20, 4 << 20, 32 << 20, 65536 },
};

struct conn {
	struct loop *loop;
	struct stream *s;
	struct conn_cfg cfg;
	size_t max;		/* largest payload */
	struct loop_fd watch;
	struct loop_timer turn;	/* due at once: flush, or report the end */
	uint32_t polled;
	int depth;		/* callbacks of ours under way */
	bool freed;		/* conn_free() came from inside one */
	bool over;		/* closed() was called, or goodbye said */
	bool failing;		/* closed() is to be called by the timer with the two below */
	enum conn_why why;
	char sentence[256];

	struct ring out;	/* cfg.hard bytes */
	bool stalled;		/* the kernel takes no more, wait for EPOLLOUT */
	int tx_errno;		/* a write has failed so: nothing is sent any more */
	size_t blocked;		/* bytes of the message that got -EAGAIN last, 0: none */
	uint64_t tx_bytes, tx_msgs, limit_bytes, limit_msgs;

	uint8_t *rx;
	size_t rx_cap, rx_start, rx_end;
	bool have_head;
	struct wire_head in;	/* of the message at rx_start */
	uint64_t rx_bytes, rx_msgs, used_bytes, used_msgs, granted_bytes, granted_msgs;

	struct conn_stats st;
};

const char *conn_why_text(enum conn_why w)
{
	static const char *const names[] = { "closed", "reset", "timeout", "error", "garbled", "refused", "limit" };

	return (size_t)w < sizeof(names) / sizeof(*names) ? names[w] : "?";
}

bool conn_why_kernel(enum conn_why w)
{
	return w == CONN_EOF || w == CONN_RESET;
}

static void conn_poll(struct conn *c)
{
	uint32_t ev;

	if (c->over)
		return;
	ev = c->s->ops->wants(c->s, true, c->out.len && !c->tx_errno);
	if (ev != c->polled && !loop_fd_mod(c->loop, &c->watch, ev))
		c->polled = ev;
}

static void conn_soon(struct conn *c)
{
	if (!c->turn.slot && !c->over)
		loop_timer_set(c->loop, &c->turn, loop_now(c->loop));
}

/* Around each callback, so that conn_free() inside one is safe. */
static void conn_enter(struct conn *c)
{
	c->depth++;
}

static bool conn_leave(struct conn *c)
{
	if (--c->depth || !c->freed)
		return !c->freed && !c->over;
	ring_fini(&c->out);
	free(c->rx);
	free(c);
	return false;
}

/* To be the last thing that its caller does with @c, unless inside conn_enter(). */
static void conn_end(struct conn *c, enum conn_why why, const char *sentence)
{
	if (c->over)
		return;
	c->over = true;
	loop_timer_del(c->loop, &c->turn);
	loop_fd_del(c->loop, &c->watch);
	conn_enter(c);
	c->cfg.closed(c->cfg.arg, why, sentence);
	conn_leave(c);
}

/* The same, later, for who may be inside the owner's call. */
static void conn_fail(struct conn *c, enum conn_why why, const char *sentence)
{
	if (c->failing || c->over)
		return;
	c->failing = true;
	c->why = why;
	snprintf(c->sentence, sizeof(c->sentence), "%s", sentence);
	conn_soon(c);
}

static enum conn_why why_of(int error)
{
	switch (-error) {
	case ECONNRESET:
	case EPIPE:
		return CONN_RESET;
	case ETIMEDOUT:
		return CONN_TIMEOUT;
	default:
		return CONN_ERROR;
	}
}

static void conn_end_errno(struct conn *c, int error)
{
	const char *ch = wire_channel_name(c->cfg.channel);
	enum conn_why why = why_of(error);
	struct err e;

	switch (why) {
	case CONN_RESET:
		err_set(&e, error, "the peer's kernel reset the %s connection", ch);
		break;
	case CONN_TIMEOUT:
		err_set(&e, error, "the peer has acknowledged nothing on the %s connection for too long", ch);
		break;
	default:
		err_set(&e, error, "the %s connection failed: %s", ch, *c->s->ops->why(c->s) ? c->s->ops->why(c->s) :
			strerror(-error));
	}
	conn_end(c, why, e.msg);
}

static void conn_queue(struct conn *c, const void *p, size_t n)
{
	ring_add(&c->out, p, n);
	c->st.copied += n;
	if (c->out.len > c->st.queued_max)
		c->st.queued_max = c->out.len;
}

/* CREDIT goes through the ring like all else; when that is full it is tried again after the next write. */
static void conn_grant(struct conn *c)
{
	uint64_t b = c->used_bytes + c->cfg.window_bytes, m = c->used_msgs + c->cfg.window_msgs;
	uint64_t step_b = c->cfg.window_bytes / 4, step_m = c->cfg.window_msgs / 4 ? c->cfg.window_msgs / 4 : 1;
	struct wire_head h = { .type = WIRE_CREDIT, .channel = c->cfg.channel, .len = WIRE_CREDIT_LEN };
	uint8_t msg[WIRE_HDR_LEN + WIRE_CREDIT_LEN];

	if (b - c->granted_bytes < step_b && m - c->granted_msgs < step_m)
		return;
	if (c->tx_errno || c->over || ring_room(&c->out) < sizeof(msg))
		return;
	memcpy(h.vm_id, c->cfg.vm_id, LINK_ID_LEN);
	wire_head_encode(msg, &h);
	codec_credit_put(msg + WIRE_HDR_LEN, WIRE_CREDIT_LEN, b, m);
	conn_queue(c, msg, sizeof(msg));
	c->granted_bytes = b;
	c->granted_msgs = m;
	conn_soon(c);
}

/*
 * One gather write of the ring and @n more pieces. Takes what was written out of the ring.
 * Return: bytes of the pieces that the kernel took
 */
static size_t conn_write(struct conn *c, const struct iovec *more, int n)
{
	struct iovec iov[CONN_MAX_IOV + 3];
	int k = ring_peek(&c->out, iov);
	size_t want = c->out.len;
	ssize_t r;

	for (int i = 0; i < n; i++) {
		iov[k++] = more[i];
		want += more[i].iov_len;
	}
	if (!want)
		return 0;
	r = c->s->ops->writev(c->s, iov, k);
	c->stalled = r == -EAGAIN || (r >= 0 && (size_t)r < want);
	if (r < 0 && r != -EAGAIN) {
		/* Not the end yet: the peer's last words may still be unread. */
		c->tx_errno = (int)r;
		ring_drop(&c->out, c->out.len);
	}
	if (r < 0)
		return 0;
	c->st.bytes_out += (uint64_t)r;
	return ring_drop(&c->out, (size_t)r);
}

static void conn_read(struct conn *c);

static bool conn_credit(const struct conn *c, size_t total)
{
	return c->tx_msgs < c->limit_msgs && c->tx_bytes + total <= c->limit_bytes;
}

/* A message of @total bytes must wait: writable() is owed. */
static void conn_block(struct conn *c, size_t total)
{
	if (c->out.len >= c->cfg.soft)
		c->st.again_soft++;
	else
		c->st.again_credit++;
	c->blocked = total;
	/* The queue may be nothing but what waits for the turn's end: then nothing else would wake us. */
	conn_soon(c);
}

/* Room again? The owner hears of it once per -EAGAIN. Return: whether @c may still be used */
static bool conn_unblock(struct conn *c)
{
	if (!c->blocked || c->tx_errno || c->over || c->out.len > c->cfg.soft / 2 || !conn_credit(c, c->blocked))
		return !c->over;
	c->blocked = 0;
	if (!c->cfg.writable)
		return true;
	conn_enter(c);
	c->cfg.writable(c->cfg.arg);
	return conn_leave(c);
}

static void conn_push(struct conn *c)
{
	while (c->out.len && !c->stalled && !c->tx_errno)
		conn_write(c, NULL, 0);
	conn_grant(c);
}

void conn_flush(struct conn *c)
{
	if (!c || c->over || c->tx_errno)
		return;
	conn_push(c);
	if (!c->failing && !c->blocked && !c->out.len)
		loop_timer_del(c->loop, &c->turn);
	conn_poll(c);
}

static void conn_turn(struct loop_timer *t)
{
	struct conn *c = t->arg;

	if (c->failing) {
		conn_end(c, c->why, c->sentence);
		return;
	}
	conn_enter(c);
	conn_push(c);
	conn_poll(c);
	if (conn_unblock(c) && c->s->ops->pending(c->s))
		conn_read(c);
	conn_leave(c);
}

bool conn_ready(struct conn *c, size_t len)
{
	if (c->over || c->failing || c->tx_errno)
		return false;
	if (c->out.len < c->cfg.soft && conn_credit(c, WIRE_HDR_LEN + len))
		return true;
	conn_block(c, WIRE_HDR_LEN + len);
	return false;
}

size_t conn_queued(const struct conn *c)
{
	return c->out.len;
}

int conn_send(struct conn *c, const struct wire_head *head, const struct iovec *iov, int n, bool must)
{
	struct iovec all[CONN_MAX_IOV + 1];
	uint8_t hdr[WIRE_HDR_LEN];
	struct wire_head h = *head;
	size_t len = 0, total, done = 0;

	if (c->over || c->failing || c->tx_errno)
		return -EPIPE;
	if (n > CONN_MAX_IOV)
		return -EMSGSIZE;
	for (int i = 0; i < n; i++) {
		if (iov[i].iov_len > c->max - len)
			return -EMSGSIZE;
		len += iov[i].iov_len;
	}
	total = WIRE_HDR_LEN + len;
	if (!must && (c->out.len >= c->cfg.soft || !conn_credit(c, total))) {
		conn_block(c, total);
		return -EAGAIN;
	}
	if (total > ring_room(&c->out)) {
		char s[256];

		snprintf(s, sizeof(s), "the peer takes nothing on the %s connection, %zu bytes that must not be lost wait",
			 wire_channel_name(c->cfg.channel), c->out.len);
		conn_fail(c, CONN_LIMIT, s);
		return -EPIPE;
	}
	h.channel = c->cfg.channel;
	h.len = (uint32_t)len;
	memcpy(h.vm_id, c->cfg.vm_id, LINK_ID_LEN);
	wire_head_encode(hdr, &h);
	c->tx_bytes += total;
	c->tx_msgs++;
	c->st.msgs_out++;
	all[0] = (struct iovec){ hdr, sizeof(hdr) };
	if (n)
		memcpy(all + 1, iov, (size_t)n * sizeof(*iov));
	if (total >= CONN_DIRECT && !c->stalled)
		done = conn_write(c, all, n + 1);
	if (c->tx_errno) {
		conn_soon(c);
		return -EPIPE;
	}
	for (int i = 0; i <= n; i++) {
		size_t skip = done < all[i].iov_len ? done : all[i].iov_len;

		done -= skip;
		conn_queue(c, (uint8_t *)all[i].iov_base + skip, all[i].iov_len - skip);
	}
	if (c->out.len)
		conn_soon(c);
	return 0;
}

void conn_consumed(struct conn *c, uint64_t bytes, uint64_t msgs)
{
	c->used_bytes += bytes + msgs * WIRE_HDR_LEN;
	c->used_msgs += msgs;
	conn_grant(c);
}

/* Return: whether @c may still be used */
static bool conn_message(struct conn *c, const struct wire_head *h, const uint8_t *payload)
{
	struct err e = { 0 };
	uint64_t bytes, msgs;
	int rc;

	if (h->type == WIRE_CREDIT) {
		rc = codec_credit_get(payload, h->len, &bytes, &msgs, &e);
		if (!rc && (bytes < c->limit_bytes || msgs < c->limit_msgs))
			rc = err_set(&e, -EPROTO, "a credit message takes back what was granted");
		if (!rc) {
			c->limit_bytes = bytes;
			c->limit_msgs = msgs;
			return conn_unblock(c);
		}
	} else if (h->type == WIRE_REFUSE) {
		char text[WIRE_MAX_SENTENCE + 1];

		codec_refuse_get(payload, h->len, text);
		conn_end(c, CONN_REFUSED, text);
		return false;
	} else {
		c->rx_bytes += WIRE_HDR_LEN + h->len;
		c->rx_msgs++;
		c->st.msgs_in++;
		if (c->rx_bytes > c->granted_bytes + CONN_SLACK_BYTES ||
		    c->rx_msgs > c->granted_msgs + CONN_SLACK_MSGS) {
			rc = err_set(&e, -EPROTO, "the peer sends far beyond its credit on the %s connection",
				     wire_channel_name(c->cfg.channel));
		} else {
			conn_enter(c);
			rc = c->cfg.message(c->cfg.arg, h, payload, &e);
			if (!conn_leave(c))
				return false;
			if (!rc && !c->cfg.manual)
				conn_consumed(c, h->len, 1);
		}
	}
	if (rc < 0) {
		conn_end(c, CONN_GARBLED, e.msg);
		return false;
	}
	return true;
}

/* All complete messages of the buffer. Return: whether @c may still be used */
static bool conn_parse(struct conn *c)
{
	for (;;) {
		size_t left = c->rx_end - c->rx_start;
		uint8_t *p = c->rx + c->rx_start;
		struct err e = { 0 };

		if (!c->have_head) {
			if (left < WIRE_HDR_LEN)
				return true;
			if (!wire_head_decode(p, c->cfg.channel, &c->in, &e) &&
			    memcmp(c->in.vm_id, c->cfg.vm_id, LINK_ID_LEN))
				err_set(&e, -EPROTO, "a message of another VM came on the %s connection",
					wire_channel_name(c->cfg.channel));
			/* Their length is not bounded by the channel, so not even the header may be taken. */
			if (!e.code && (c->in.type == WIRE_HELLO || c->in.type == WIRE_WELCOME))
				err_set(&e, -EPROTO, "the peer greets twice on the %s connection",
					wire_channel_name(c->cfg.channel));
			if (e.code) {
				conn_end(c, CONN_GARBLED, e.msg);
				return false;
			}
			c->have_head = true;
		}
		if (left < WIRE_HDR_LEN + c->in.len)
			return true;
		c->have_head = false;
		c->rx_start += WIRE_HDR_LEN + c->in.len;
		if (!conn_message(c, &c->in, p + WIRE_HDR_LEN))
			return false;
	}
}

/* Makes sure that the message at rx_start fits behind it, and that the next read is not a small one. */
static void conn_room(struct conn *c)
{
	size_t left = c->rx_end - c->rx_start;
	size_t need = c->have_head ? WIRE_HDR_LEN + c->in.len : WIRE_HDR_LEN;

	if (left && left > CONN_MOVE && c->rx_cap - c->rx_start >= need)
		return;
	if (left && c->rx_start)
		memmove(c->rx, c->rx + c->rx_start, left);
	c->rx_start = 0;
	c->rx_end = left;
}

static void conn_read(struct conn *c)
{
	const char *ch = wire_channel_name(c->cfg.channel);
	size_t budget = CONN_READ_BUDGET;

	while (budget) {
		size_t space;
		ssize_t r;

		conn_room(c);
		space = c->rx_cap - c->rx_end;
		r = c->s->ops->read(c->s, c->rx + c->rx_end, space);
		if (r == -EAGAIN)
			break;
		if (r <= 0) {
			struct err e;

			if (r < 0 || c->tx_errno) {
				conn_end_errno(c, r < 0 ? (int)r : c->tx_errno);
				return;
			}
			err_set(&e, 0, "the peer's kernel closed the %s connection%s", ch,
				c->rx_end > c->rx_start ? " in the middle of a message" : "");
			conn_end(c, CONN_EOF, e.msg);
			return;
		}
		c->st.bytes_in += (uint64_t)r;
		c->rx_end += (size_t)r;
		if (!conn_parse(c))
			return;
		budget -= (size_t)r < budget ? (size_t)r : budget;
		/* A short read has emptied the socket; the next poll tells if that was wrong. */
		if ((size_t)r < space && !c->s->ops->pending(c->s))
			break;
	}
	if (c->s->ops->pending(c->s))
		conn_soon(c);
	conn_poll(c);
}

static void conn_event(struct loop_fd *w, uint32_t events)
{
	struct conn *c = w->arg;
	bool alive;

	/* Held over the whole event: reading may end it, or make the owner free it. */
	conn_enter(c);
	if (events & EPOLLOUT) {
		c->stalled = false;
		conn_push(c);
		conn_poll(c);
		conn_unblock(c);
	}
	alive = !c->over && !c->freed;
	if (alive && (events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP)))
		conn_read(c);
	conn_leave(c);
}

struct conn *conn_new(struct loop *l, struct stream *s, const struct conn_cfg *cfg, struct err *e)
{
	struct conn *c = calloc(1, sizeof(*c));
	int rc;

	if (!c || (unsigned int)cfg->channel >= WIRE_CHANNELS)
		goto nomem;
	c->cfg = *cfg;
	c->max = defaults[cfg->channel].max;
	c->cfg.soft = cfg->soft ? cfg->soft : defaults[cfg->channel].soft;
	c->cfg.hard = cfg->hard ? cfg->hard : defaults[cfg->channel].hard;
	c->cfg.window_bytes = cfg->window_bytes ? cfg->window_bytes : defaults[cfg->channel].window_bytes;
	c->cfg.window_msgs = cfg->window_msgs ? cfg->window_msgs : defaults[cfg->channel].window_msgs;
	/* What the soft limit lets in must fit whole, and so must a grant. */
	if (c->cfg.hard < c->cfg.soft + c->max + 1024)
		c->cfg.hard = c->cfg.soft + c->max + 1024;
	/* Up to a quarter of what was consumed may not be granted yet; the largest message must fit into the rest. */
	if (c->cfg.window_bytes < 2 * (c->max + WIRE_HDR_LEN))
		c->cfg.window_bytes = 2 * (c->max + WIRE_HDR_LEN);
	c->rx_cap = defaults[cfg->channel].rx;
	c->rx = malloc(c->rx_cap);
	if (ring_init(&c->out, c->cfg.hard) < 0 || !c->rx)
		goto nomem;
	c->loop = l;
	c->s = s;
	c->watch = (struct loop_fd){ .fd = s->fd, .fn = conn_event, .arg = c };
	c->turn = (struct loop_timer){ .fn = conn_turn, .arg = c };
	c->polled = s->ops->wants(s, true, false);
	if (cfg->channel == WIRE_BULK)
		stream_buffers(s, STREAM_SNDBUF);
	rc = loop_fd_add(l, &c->watch, c->polled);
	if (rc < 0) {
		err_set(e, rc, "cannot watch the %s connection: %s", wire_channel_name(cfg->channel), strerror(-rc));
		goto fail;
	}
	conn_grant(c);
	/* Decrypted during the handshake: no poll will tell of it. */
	if (s->ops->pending(s))
		conn_soon(c);
	return c;
nomem:
	err_set(e, -ENOMEM, "no memory for a connection");
fail:
	s->ops->close(s);
	if (c) {
		ring_fini(&c->out);
		free(c->rx);
	}
	free(c);
	return NULL;
}

void conn_free(struct conn *c)
{
	if (!c || c->freed)
		return;
	loop_timer_del(c->loop, &c->turn);
	if (!c->over)
		loop_fd_del(c->loop, &c->watch);
	c->over = true;
	c->freed = true;
	c->s->ops->close(c->s);
	c->depth++;
	conn_leave(c);
}

bool conn_goodbye(struct conn *c, nstime limit)
{
	nstime end = clock_ns() + limit;
	bool shut = false, eof = false;

	if (c->over)
		return false;
	c->over = true;
	loop_timer_del(c->loop, &c->turn);
	loop_fd_del(c->loop, &c->watch);
	for (nstime now; !eof && (now = clock_ns()) < end;) {
		struct pollfd p = { .fd = c->s->fd, .events = POLLIN };
		ssize_t r;

		c->stalled = false;
		while (c->out.len && !c->stalled && !c->tx_errno)
			conn_write(c, NULL, 0);
		if ((!c->out.len || c->tx_errno) && !shut) {
			c->s->ops->shut(c->s);
			shut = true;
		}
		r = c->s->ops->read(c->s, c->rx, c->rx_cap);
		if (r == 0 || (r < 0 && r != -EAGAIN))
			eof = true;
		if (r != -EAGAIN)
			continue;
		if (c->out.len && !c->tx_errno)
			p.events |= POLLOUT;
		poll(&p, 1, (int)((end - now) / NS_PER_MS) + 1);
	}
	return eof;
}

void conn_stats_get(const struct conn *c, struct conn_stats *out)
{
	*out = c->st;
	out->queued = c->out.len;
	out->unconsumed = c->rx_bytes - c->used_bytes;
}
