/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One connection of the NBD server: its bytes.
 *
 * What comes in lies in one buffer, from which the negotiation and the transmission take whole pieces (steps); the data
 * of a large WRITE is read into the request's own buffer without this detour. What goes out is a queue of segments,
 * which mostly lie in requests, so a reply needs no memory of its own.
 *
 * Back pressure. A request is busy until its reply has been handed to the kernel, and there are NBD_MAX_FLIGHT of them
 * and a limit to the bytes that they hold. When they are used up nothing more is taken from the buffer, the buffer
 * fills, the socket is not watched for input any more, and the client is stopped by its kernel. So a client that does
 * not take its replies is not read from, and costs what the limits say. During the negotiation the same is done by the
 * bytes of replies that wait (NBD_MAX_OUT).
 *
 * Replies of one turn of the loop leave with one system call: whoever queues one asks for a kick, a timer that is due
 * at once, and timers come last in a turn. The kick also takes up again what had stopped for want of a free request. So
 * done() of a request, which may come from inside blk_submit(), changes nothing that a caller further up relies on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "disk/nbd_internal.h"

static bool conn_reads(const struct nbd_conn *c)
{
	return c->st < NBD_ST_CLOSING;
}

/* Whether there is anywhere to put what comes next. */
static bool conn_has_room(const struct nbd_conn *c)
{
	if (!conn_reads(c) || c->st == NBD_ST_TLS)
		return false;
	if (c->st == NBD_ST_PAYLOAD)
		return true;
	return c->in_end - c->in_at < NBD_IN_BUF;
}

void nbd_conn_kick(struct nbd_conn *c)
{
	if (c->st != NBD_ST_DEAD)
		loop_timer_set(c->s->loop, &c->kick, loop_now(c->s->loop));
}

void nbd_conn_send(struct nbd_conn *c, struct nbd_seg *g)
{
	g->next = NULL;
	*c->out_tail = g;
	c->out_tail = &g->next;
	c->out_bytes += g->len;
	nbd_conn_kick(c);
}

static void conn_sent(struct nbd_conn *c)
{
	struct nbd_seg *g = c->out;

	c->out = g->next;
	if (!c->out)
		c->out_tail = &c->out;
	if (g->req)
		nbd_req_free(g->req);
	if (g->heap)
		free(g);
}

static ssize_t conn_write(struct nbd_conn *c, struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = (size_t)n };
	ssize_t done;

	if (c->in_tls)
		return tls_writev(c->tls, iov, n);
	done = sendmsg(c->watch.fd, &m, MSG_NOSIGNAL);
	return done < 0 ? -errno : done;
}

static void conn_flush(struct nbd_conn *c)
{
	while (c->out && !c->out_blocked) {
		struct iovec iov[NBD_IOVS];
		int n = 0;
		ssize_t done;

		for (struct nbd_seg *g = c->out; g && n < NBD_IOVS; g = g->next)
			iov[n++] = (struct iovec){ (void *)g->p, g->len };
		done = conn_write(c, iov, n);
		if (done == -EINTR)
			continue;
		if (done == -EAGAIN) {
			c->out_blocked = true;
			return;
		}
		if (done < 0) {
			nbd_conn_die(c);
			return;
		}
		c->out_bytes -= (size_t)done;
		while (c->out && (size_t)done >= c->out->len) {
			done -= (ssize_t)c->out->len;
			conn_sent(c);
		}
		if (done) {
			c->out->p += done;
			c->out->len -= (size_t)done;
		}
	}
}

static ssize_t conn_recv(struct nbd_conn *c, void *to, size_t n)
{
	ssize_t got;

	if (c->in_tls)
		return tls_read(c->tls, to, n);
	do
		got = recv(c->watch.fd, to, n, 0);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : got;
}

/* Reads once. Return: whether there may be more */
static bool conn_fill(struct nbd_conn *c)
{
	size_t want;
	ssize_t got;

	if (c->st == NBD_ST_PAYLOAD && c->in_at == c->in_end) {
		want = c->cur->len - c->got;
		got = conn_recv(c, c->cur->buf + c->got, want);
		if (got > 0)
			c->got += (size_t)got;
	} else {
		if (c->in_at) {
			memmove(c->in, c->in + c->in_at, c->in_end - c->in_at);
			c->in_end -= c->in_at;
			c->in_at = 0;
		}
		want = NBD_IN_BUF - c->in_end;
		got = conn_recv(c, c->in + c->in_end, want);
		if (got > 0)
			c->in_end += (size_t)got;
	}
	if (got == -EAGAIN)
		return false;
	if (got < 0) {
		nbd_conn_die(c);
		return false;
	}
	if (!got) {
		/* What was asked for before is still answered: the client may have closed its sending side only. */
		nbd_conn_close(c);
		return false;
	}
	return c->in_tls || (size_t)got == want;
}

bool nbd_conn_take(struct nbd_conn *c, size_t n, struct cursor *cur)
{
	if (c->in_end - c->in_at < n)
		return false;
	*cur = cursor_of(c->in + c->in_at, n);
	c->in_at += n;
	return true;
}

static bool conn_step(struct nbd_conn *c)
{
	if (!conn_reads(c) || c->st == NBD_ST_TLS)
		return false;
	return c->st >= NBD_ST_REQUEST ? nbd_request_step(c) : nbd_greet_step(c);
}

static void conn_handshake(struct nbd_conn *c)
{
	int rc;

	/* The permission to begin goes out in the clear. */
	if (c->out)
		return;
	c->out_blocked = false;
	rc = tls_handshake(c->tls);
	if (rc == -EAGAIN) {
		c->out_blocked = tls_wants_write(c->tls);
		return;
	}
	if (rc) {
		log_note("NBD: a client's TLS handshake has failed: %s", *tls_why(c->tls) ? tls_why(c->tls) : strerror(-rc));
		c->s->stats.refused++;
		tls_alert(c->tls);
		nbd_conn_die(c);
		return;
	}
	c->in_tls = true;
	c->st = NBD_ST_OPTION;
}

static void conn_watch(struct nbd_conn *c)
{
	uint32_t want = 0;

	if (c->st == NBD_ST_TLS || conn_has_room(c))
		want |= EPOLLIN;
	if (c->out_blocked)
		want |= EPOLLOUT;
	if (want == c->watched)
		return;
	if (loop_fd_mod(c->s->loop, &c->watch, want))
		nbd_conn_die(c);
	c->watched = want;
}

/* All that can be done now. @readable: the socket has something */
static void conn_work(struct nbd_conn *c, bool readable)
{
	unsigned int recvs = 0;

	if (c->st == NBD_ST_TLS)
		conn_handshake(c);
	for (;;) {
		/* A flush may free what a step waits for. */
		do {
			while (conn_step(c))
				;
			if (c->st == NBD_ST_DEAD)
				return;
			conn_flush(c);
		} while (conn_step(c));
		if (c->st == NBD_ST_DEAD || !conn_has_room(c) || !(readable || (c->in_tls && tls_pending(c->tls))))
			break;
		if (recvs++ == NBD_RECVS) {
			/* The others' turn. What gnutls has read already no event will tell of. */
			if (c->in_tls)
				nbd_conn_kick(c);
			break;
		}
		readable = conn_fill(c);
	}
	if (c->st == NBD_ST_TLS) {
		conn_handshake(c);
		/* gnutls may have read on already. */
		if (c->in_tls)
			nbd_conn_kick(c);
	}
	if (c->st == NBD_ST_CLOSING && !c->out && !c->n_busy)
		nbd_conn_die(c);
	if (c->st != NBD_ST_DEAD)
		conn_watch(c);
}

static void conn_kicked(struct loop_timer *t)
{
	conn_work(t->arg, false);
}

static void conn_ready(struct loop_fd *w, uint32_t events)
{
	struct nbd_conn *c = w->arg;

	if (events & EPOLLOUT)
		c->out_blocked = false;
	/* Gone altogether, and it is not being read from, so that no end of file would be seen: nobody takes the replies. */
	if ((events & (EPOLLERR | EPOLLHUP)) && !(c->watched & EPOLLIN)) {
		nbd_conn_die(c);
		return;
	}
	conn_work(c, events & (EPOLLIN | EPOLLERR | EPOLLHUP));
}

static void conn_late(struct loop_timer *t)
{
	struct nbd_conn *c = t->arg;

	log_note("NBD: a client has not finished its negotiation within %d s", NBD_GREET_S);
	c->s->stats.refused++;
	nbd_conn_die(c);
}

int nbd_conn_new(struct nbd_server *s, struct nbd_listener *n, int fd)
{
	struct nbd_conn *c = NULL;
	int rc = -ENOSPC;

	if (n || s->adopted < NBD_MAX_CONNS) {
		c = calloc(1, sizeof(*c));
		rc = -ENOMEM;
	}
	if (c)
		c->in = malloc(NBD_IN_BUF);
	if (c && c->in) {
		c->s = s;
		c->watch = (struct loop_fd){ .fd = fd, .fn = conn_ready, .arg = c };
		rc = loop_fd_add(s->loop, &c->watch, EPOLLIN);
	}
	if (rc) {
		if (c)
			free(c->in);
		free(c);
		close(fd);
		s->stats.refused++;
		return rc;
	}
	c->listener = n;
	if (n)
		n->conns++;
	else
		s->adopted++;
	c->watched = EPOLLIN;
	c->out_tail = &c->out;
	c->kick = (struct loop_timer){ .fn = conn_kicked, .arg = c };
	c->greet = (struct loop_timer){ .fn = conn_late, .arg = c };
	loop_timer_set(s->loop, &c->greet, loop_now(s->loop) + NBD_GREET_S * NS_PER_S);
	c->next = s->conns;
	s->conns = c;
	s->stats.connections++;
	s->stats.open++;
	nbd_greet(c);
	return 0;
}

void nbd_conn_close(struct nbd_conn *c)
{
	if (!conn_reads(c))
		return;
	if (c->st >= NBD_ST_REQUEST)
		nbd_request_abandon(c);
	c->st = NBD_ST_CLOSING;
	c->short_of_memory = false;
	nbd_conn_kick(c);
}

void nbd_conn_die(struct nbd_conn *c)
{
	struct nbd_server *s = c->s;

	if (c->st == NBD_ST_DEAD)
		return;
	if (c->st >= NBD_ST_REQUEST && conn_reads(c))
		nbd_request_abandon(c);
	/* It is the end, and no attack. */
	if (c->in_tls && c->st == NBD_ST_CLOSING)
		tls_bye(c->tls);
	tls_end(c->tls);
	c->tls = NULL;
	c->st = NBD_ST_DEAD;
	c->short_of_memory = false;
	loop_timer_del(s->loop, &c->kick);
	loop_timer_del(s->loop, &c->greet);
	loop_fd_del(s->loop, &c->watch);
	close(c->watch.fd);
	while (c->out)
		conn_sent(c);
	s->stats.open--;
	if (c->listener)
		c->listener->conns--;
	else
		s->adopted--;
	c->listener = NULL;
	loop_timer_set(s->loop, &s->reap, loop_now(s->loop));
}

void nbd_conn_free(struct nbd_conn *c)
{
	if (c->exp)
		nbd_export_leave(c->exp);
	free(c->meta_name);
	free(c->reqs);
	free(c->in);
	free(c);
}
