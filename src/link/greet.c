/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Half-open connections. Control loop.
 *
 * Whoever reaches the port may send anything, so: the first four bytes already decide whether it is our protocol, a
 * length above the limit is refused before anything is allocated, there is one deadline for all of it, and nothing
 * is read beyond the message that is being awaited. pair.c limits how many of these there are.
 *
 * With TLS its handshake comes first, under the same deadline, and who fails it has not come as far as the code that
 * reads messages. It has heard an alert, or nothing. One that begins with our magic is a node that was started without
 * TLS: it is told in its own way, in the clear.
 */
#include "link/greet.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"

#define GREET_LINGER	(500 * NS_PER_MS)	/* how long a refused peer has to read the sentence */

/* Both nodes log it, so it says nothing of "this" one. */
#define ONE_SPEAKS_TLS(who, other) \
	"the node that " who " speaks TLS and the one that " other " does not: give both the same --psk-file, or " \
	"certificates of one CA (--tls-dir)"

struct greet {
	struct loop *loop;
	struct stream *s;
	struct loop_fd watch;
	struct loop_timer timer;
	const struct greet_ops *ops;
	void *arg;
	nstime born;
	struct loop_timer more;		/* due at once: there is more to read that no poll tells of */
	bool connecting, lingering, paused;
	bool dialed;
	bool shaking;			/* TLS's handshake is under way */
	bool stranger;			/* it has failed */
	bool clear;			/* ... because the peer speaks our protocol in the clear */
	char peer[ADDR_TEXT];

	uint8_t hdr[WIRE_HDR_LEN];
	size_t hdr_n, body_n;
	struct wire_head head;
	uint8_t *body;

	uint8_t *out;
	size_t out_len, out_done;
};

static void greet_poll(struct greet *g)
{
	loop_fd_mod(g->loop, &g->watch, g->connecting ? (uint32_t)EPOLLOUT :
		    g->s->ops->wants(g->s, !g->paused, g->out_done < g->out_len));
}

/* Last thing its caller does with @g. */
static void greet_end(struct greet *g, int code, const char *what)
{
	struct err e = { 0 };

	if (!g->lingering)
		err_set(&e, code, "%s", what);
	g->ops->ended(g, &e);
}

static void greet_end_errno(struct greet *g, int code)
{
	char why[256];

	/* The stream may be gone before the sentence is read. */
	snprintf(why, sizeof(why), "%s", *g->s->ops->why(g->s) ? g->s->ops->why(g->s) : strerror(-code));
	greet_end(g, code, why);
}

static void greet_write(struct greet *g)
{
	while (g->out_done < g->out_len) {
		struct iovec v = { g->out + g->out_done, g->out_len - g->out_done };
		ssize_t r = g->s->ops->writev(g->s, &v, 1);

		if (r == -EAGAIN)
			break;
		if (r < 0) {
			/* The peer may have said why before it closed; reading finds the end. */
			g->out_done = g->out_len;
			break;
		}
		g->out_done += (size_t)r;
	}
	if (g->lingering && g->out_done == g->out_len)
		g->s->ops->shut(g->s);
	greet_poll(g);
}

bool greet_send(struct greet *g, const struct wire_head *h, const uint8_t *payload, size_t len)
{
	size_t total = g->out_len + WIRE_HDR_LEN + len;
	uint8_t *out = realloc(g->out, total);

	if (!out)
		return false;	/* never flushed: the deadline ends it */
	g->out = out;
	wire_head_encode(out + g->out_len, h);
	if (len)
		memcpy(out + g->out_len + WIRE_HDR_LEN, payload, len);
	g->out_len = total;
	greet_write(g);
	return g->out_done == g->out_len;
}

void greet_linger(struct greet *g, const uint8_t vm_id[LINK_ID_LEN], uint8_t channel, uint32_t serves,
		  const char *sentence)
{
	struct wire_head h = { .type = WIRE_REFUSE, .channel = channel, .generation = serves };
	uint8_t text[WIRE_MAX_SENTENCE];

	g->lingering = true;
	g->paused = false;
	greet_set_deadline(g, clock_ns() + GREET_LINGER);
	if (greet_stranger(g)) {
		g->shaking = false;
		g->stranger = true;
		stream_plain(g->s);
	}
	if (g->stranger && !g->clear) {
		g->s->ops->shut(g->s);
		greet_poll(g);
		return;
	}
	memcpy(h.vm_id, vm_id, LINK_ID_LEN);
	h.len = (uint32_t)codec_refuse_put(text, sizeof(text), sentence);
	greet_send(g, &h, text, h.len);
}

void greet_pause(struct greet *g)
{
	g->paused = true;
	greet_poll(g);
}

/* A whole header: Return: 0, or -EPROTO */
static int greet_head(struct greet *g, struct err *e)
{
	uint8_t ch = g->hdr[offsetof(struct wire_hdr, channel)];
	int rc = wire_head_decode(g->hdr, ch < WIRE_CHANNELS ? ch : WIRE_CONTROL, &g->head, e);

	if (rc < 0)
		return rc;
	if (g->head.type != WIRE_HELLO && g->head.type != WIRE_WELCOME && g->head.type != WIRE_REFUSE)
		return err_set(e, -EPROTO, "a %s message came before the handshake was done",
			       wire_type_name(g->head.type));
	g->body = malloc(g->head.len + 1);
	g->body_n = 0;
	return g->body ? 0 : err_set(e, -ENOMEM, "no memory for a message of %u bytes", g->head.len);
}

/* Into @p up to @want. Return: 1 when it is all there, 0 when not yet, or ended (-1) */
static int greet_fill(struct greet *g, uint8_t *p, size_t *n, size_t want)
{
	while (*n < want) {
		ssize_t r = g->s->ops->read(g->s, p + *n, want - *n);

		if (r == -EAGAIN)
			return 0;
		if (r == 0)
			greet_end(g, -ECONNRESET, "the peer closed the connection during the handshake");
		else if (r < 0)
			greet_end_errno(g, (int)r);
		if (r <= 0)
			return -1;
		*n += (size_t)r;
	}
	return 1;
}

static void greet_discard(struct greet *g)
{
	uint8_t junk[4096];

	for (int i = 0; i < 16; i++) {
		ssize_t r = g->s->ops->read(g->s, junk, sizeof(junk));

		if (r == -EAGAIN)
			return;
		if (r <= 0) {
			greet_end(g, 0, "");
			return;
		}
	}
}

static void greet_read(struct greet *g)
{
	struct err e = { 0 };
	uint8_t *body;

	if (g->hdr_n < 4) {
		struct cursor c = cursor_of(g->hdr, 4);

		if (greet_fill(g, g->hdr, &g->hdr_n, 4) <= 0)
			return;
		if (cursor_u32(&c) != WIRE_MAGIC) {
			/* A record of TLS that belongs to a handshake (22), or an alert (21). */
			if ((g->hdr[0] != 22 && g->hdr[0] != 21) || g->hdr[1] != 3)
				greet_end(g, -EPROTO, "what it sends is not Lockstep's link protocol");
			else if (g->dialed)
				greet_end(g, -EPROTO, ONE_SPEAKS_TLS("listens", "connects"));
			else
				greet_end(g, -EPROTO, ONE_SPEAKS_TLS("connects", "listens"));
			return;
		}
	}
	if (!g->body) {
		if (greet_fill(g, g->hdr, &g->hdr_n, WIRE_HDR_LEN) <= 0)
			return;
		if (greet_head(g, &e) < 0) {
			greet_end(g, e.code, e.msg);
			return;
		}
	}
	if (greet_fill(g, g->body, &g->body_n, g->head.len) <= 0)
		return;
	body = g->body;
	g->body = NULL;
	g->hdr_n = 0;
	if (g->s->ops->pending(g->s))
		loop_timer_set(g->loop, &g->more, loop_now(g->loop));
	g->ops->message(g, &g->head, body);
	free(body);
}

/* Something has come, or may have. */
static void greet_input(struct greet *g)
{
	if (g->lingering)
		greet_discard(g);
	else
		greet_read(g);
}

static void greet_more(struct loop_timer *t)
{
	struct greet *g = t->arg;

	if (!g->paused)
		greet_input(g);
}

static void greet_shake(struct greet *g)
{
	int rc = g->s->ops->handshake(g->s);
	char why[256];

	if (rc == -EAGAIN) {
		greet_poll(g);
		return;
	}
	g->shaking = false;
	if (!rc) {
		greet_poll(g);
		if (g->s->ops->pending(g->s))
			loop_timer_set(g->loop, &g->more, loop_now(g->loop));
		if (g->dialed)
			g->ops->connected(g);
		return;
	}
	g->stranger = true;
	g->clear = stream_clear_peer(g->s);
	snprintf(why, sizeof(why), "%s", *g->s->ops->why(g->s) ? g->s->ops->why(g->s) : strerror(-rc));
	if (g->clear)
		greet_end(g, rc, g->dialed ? ONE_SPEAKS_TLS("connects", "listens") : ONE_SPEAKS_TLS("listens", "connects"));
	else
		greet_end(g, rc, why);
}

static void greet_event(struct loop_fd *w, uint32_t events)
{
	struct greet *g = w->arg;

	if (g->connecting) {
		int error = 0;
		socklen_t len = sizeof(error);

		if (getsockopt(g->s->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0)
			error = errno;
		if (error) {
			greet_end(g, -error, strerror(error));
			return;
		}
		g->connecting = false;
		if (g->shaking) {
			greet_shake(g);
			return;
		}
		greet_poll(g);
		g->ops->connected(g);
		return;
	}
	if (g->shaking) {
		greet_shake(g);
		return;
	}
	if ((events & EPOLLOUT) && g->out_done < g->out_len) {
		greet_write(g);
		if (g->out_done == g->out_len && !g->lingering) {
			g->ops->flushed(g);
			return;
		}
	}
	if (events & ~(uint32_t)EPOLLOUT) {
		if (g->paused)
			greet_end(g, -ECONNRESET, "the peer closed the connection during the handshake");
		else
			greet_input(g);
	}
}

static void greet_timeout(struct loop_timer *t)
{
	struct greet *g = t->arg;

	greet_end(g, -ETIMEDOUT, g->connecting ? "no answer to the attempt to connect" :
						 "the handshake took too long");
}

struct greet *greet_new(struct loop *l, struct stream *s, bool connecting, const struct link_addr *peer, nstime deadline,
			const struct greet_ops *ops, void *arg)
{
	struct greet *g = s ? calloc(1, sizeof(*g)) : NULL;

	if (!g)
		goto fail;
	g->loop = l;
	g->s = s;
	g->ops = ops;
	g->arg = arg;
	g->born = clock_ns();
	g->connecting = g->dialed = connecting;
	g->shaking = s->ops->handshake;
	addr_text(peer, g->peer);
	g->watch = (struct loop_fd){ .fd = s->fd, .fn = greet_event, .arg = g };
	g->timer = (struct loop_timer){ .fn = greet_timeout, .arg = g };
	g->more = (struct loop_timer){ .fn = greet_more, .arg = g };
	if (loop_fd_add(l, &g->watch, connecting ? (uint32_t)EPOLLOUT : s->ops->wants(s, true, false)) < 0)
		goto fail;
	greet_set_deadline(g, deadline);
	return g;
fail:
	if (s)
		s->ops->close(s);
	free(g);
	return NULL;
}

static struct stream *greet_leave(struct greet *g)
{
	struct stream *s = g->s;

	loop_timer_del(g->loop, &g->timer);
	loop_timer_del(g->loop, &g->more);
	loop_fd_del(g->loop, &g->watch);
	free(g->body);
	free(g->out);
	free(g);
	return s;
}

void greet_free(struct greet *g)
{
	struct stream *s;

	if (!g)
		return;
	s = greet_leave(g);
	s->ops->close(s);
}

struct stream *greet_take(struct greet *g)
{
	return greet_leave(g);
}

bool greet_clean(const struct greet *g)
{
	return !g->hdr_n && !g->body && g->out_done == g->out_len && !g->lingering;
}

void greet_set_deadline(struct greet *g, nstime deadline)
{
	loop_timer_set(g->loop, &g->timer, deadline);
}

void *greet_arg(const struct greet *g)
{
	return g->arg;
}

const char *greet_peer(const struct greet *g)
{
	return g->peer;
}

nstime greet_born(const struct greet *g)
{
	return g->born;
}

bool greet_lingers(const struct greet *g)
{
	return g->lingering;
}

bool greet_stranger(const struct greet *g)
{
	return g->stranger || g->shaking;
}

bool greet_key(const struct greet *g, const char *label, uint8_t key[32])
{
	return stream_key(g->s, label, key);
}

int greet_fd(const struct greet *g)
{
	return g->s->fd;
}
