/* SPDX-License-Identifier: BSD-2-Clause */
/* The plain TCP stream. Any one thread at a time; all calls are nonblocking. */
#include "link/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *tcp_why(struct stream *s)
{
	(void)s;
	return "";
}

static ssize_t tcp_read(struct stream *s, void *buf, size_t n)
{
	ssize_t r;

	do
		r = recv(s->fd, buf, n, MSG_DONTWAIT);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static ssize_t tcp_writev(struct stream *s, const struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)n };
	ssize_t r;

	do
		r = sendmsg(s->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	return r < 0 ? -errno : r;
}

static uint32_t tcp_wants(struct stream *s, bool in, bool out)
{
	(void)s;
	return (in ? EPOLLIN : 0) | (out ? EPOLLOUT : 0);
}

static bool tcp_pending(struct stream *s)
{
	(void)s;
	return false;
}

static void tcp_shut(struct stream *s)
{
	shutdown(s->fd, SHUT_WR);
}

static void tcp_close(struct stream *s)
{
	close(s->fd);
	free(s);
}

const struct stream_ops stream_tcp_ops = {
	.why = tcp_why,
	.read = tcp_read,
	.writev = tcp_writev,
	.wants = tcp_wants,
	.pending = tcp_pending,
	.shut = tcp_shut,
	.close = tcp_close,
};

struct stream *stream_tcp(int fd)
{
	struct stream *s = calloc(1, sizeof(*s));
	int flags = fcntl(fd, F_GETFL);

	if (!s || flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
		close(fd);
		free(s);
		return NULL;
	}
	s->ops = &stream_tcp_ops;
	s->fd = fd;
	return s;
}

static void opt(int fd, int level, int name, int value)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0) {
		/* Not a TCP socket, or an old kernel: the link works without it. */
	}
}

void stream_tcp_tune(int fd, nstime timeout)
{
	int secs = (int)(timeout / NS_PER_S);

	opt(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	opt(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	opt(fd, IPPROTO_TCP, TCP_KEEPIDLE, secs > 1 ? (secs + 1) / 2 : 1);
	opt(fd, IPPROTO_TCP, TCP_KEEPINTVL, 1);
	opt(fd, IPPROTO_TCP, TCP_KEEPCNT, secs > 1 ? secs / 2 : 1);
	opt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, (int)(timeout / NS_PER_MS));
}

void stream_buffers(struct stream *s, size_t bytes)
{
	/* Only the sending side: a fixed SO_RCVBUF would switch the kernel's own, better tuning off. */
	opt(s->fd, SOL_SOCKET, SO_SNDBUF, (int)bytes);
}
