/* SPDX-License-Identifier: BSD-2-Clause */
/* The TLS stream: base/tls_session.c made to fit. Any one thread at a time, handed over with what is decrypted. */
#include "link/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/tls.h"
#include "link/wire.h"

struct tls_stream {
	struct stream s;
	struct tls_session *tls;
	bool done;		/* the handshake is */
};

static struct tls_stream *of(struct stream *s)
{
	return (struct tls_stream *)s;	/* its first member */
}

static int secure_handshake(struct stream *s)
{
	int rc = tls_handshake(of(s)->tls);

	of(s)->done = !rc;
	/* To TLS it may look like the beginning of something long. An alert would be nothing that it understands. */
	if (rc && stream_clear_peer(s))
		return -EPROTO;
	if (rc == -EPROTO)
		tls_alert(of(s)->tls);
	return rc;
}

static const char *secure_why(struct stream *s)
{
	return tls_why(of(s)->tls);
}

static ssize_t secure_read(struct stream *s, void *buf, size_t n)
{
	return tls_read(of(s)->tls, buf, n);
}

static ssize_t secure_writev(struct stream *s, const struct iovec *iov, int n)
{
	return tls_writev(of(s)->tls, iov, n);
}

static uint32_t secure_wants(struct stream *s, bool in, bool out)
{
	/* A handshake wants to read whatever the owner wants; what is encrypted must go though the owner has no more. */
	return (in || !of(s)->done ? EPOLLIN : 0) | ((out && of(s)->done) || tls_wants_write(of(s)->tls) ? EPOLLOUT : 0);
}

static bool secure_pending(struct stream *s)
{
	return of(s)->done && tls_pending(of(s)->tls);
}

static void secure_shut(struct stream *s)
{
	tls_bye(of(s)->tls);
	shutdown(s->fd, SHUT_WR);
}

static void secure_close(struct stream *s)
{
	tls_end(of(s)->tls);
	close(s->fd);
	free(s);
}

static const struct stream_ops tls_ops = {
	.handshake = secure_handshake,
	.why = secure_why,
	.read = secure_read,
	.writev = secure_writev,
	.wants = secure_wants,
	.pending = secure_pending,
	.shut = secure_shut,
	.close = secure_close,
};

struct stream *stream_tls(int fd, struct tls *t, bool server, const char *peer)
{
	struct tls_stream *s = calloc(1, sizeof(*s));
	int flags = fcntl(fd, F_GETFL);

	if (!s || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		goto fail;
	s->tls = tls_begin(t, fd, server, peer);
	if (!s->tls)
		goto fail;
	s->s.ops = &tls_ops;
	s->s.fd = fd;
	return &s->s;
fail:
	close(fd);
	free(s);
	return NULL;
}

void stream_plain(struct stream *s)
{
	tls_end(of(s)->tls);
	of(s)->tls = NULL;
	s->ops = &stream_tcp_ops;
}

bool stream_clear_peer(struct stream *s)
{
	uint8_t first[4];
	struct cursor c = cursor_of(first, sizeof(first));

	return s->ops == &tls_ops && tls_first(of(s)->tls, first) == sizeof(first) && cursor_u32(&c) == WIRE_MAGIC;
}

bool stream_key(struct stream *s, const char *label, uint8_t key[TLS_KEY_LEN])
{
	return s->ops == &tls_ops && !tls_key(of(s)->tls, label, key);
}
