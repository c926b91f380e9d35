/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_STREAM_H
#define LINK_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/clock.h"

/*
 * A byte stream between the nodes, nonblocking. Plain TCP today; what a connection needs of it is small so that an
 * encrypted one can take its place without anybody above noticing.
 */
struct stream;

struct stream_ops {
	/* Up to @n bytes into @buf. Return: bytes, 0 at the orderly end, -EAGAIN, or -errno */
	ssize_t (*read)(struct stream *s, void *buf, size_t n);
	/* From @n pieces. Return: bytes taken, -EAGAIN, or -errno; never raises SIGPIPE */
	ssize_t (*writev)(struct stream *s, const struct iovec *iov, int n);
	/* What to poll the descriptor for when the owner wants to read and, with @out, to write: EPOLLIN and so on */
	uint32_t (*wants)(struct stream *s, bool in, bool out);
	/* Whether read() would yield bytes though the descriptor is not readable (bytes decrypted ahead) */
	bool (*pending)(struct stream *s);
	/* Say the orderly end in our direction; what the peer sends can still be read */
	void (*shut)(struct stream *s);
	/* Close the descriptor and free the stream */
	void (*close)(struct stream *s);
};

struct stream {
	const struct stream_ops *ops;
	int fd;
};

#define STREAM_SNDBUF	(4u << 20)	/* bulk: enough that the sender's loop is not woken for each message */

/*
 * stream_tcp() - wrap a connected TCP (or, in tests, unix) socket
 * @fd: becomes nonblocking; the stream's from now on, closed on failure
 *
 * Return: the stream, or NULL without memory
 */
struct stream *stream_tcp(int fd);

/*
 * stream_tcp_tune() - set what a link wants of its socket: TCP_NODELAY, keepalive, TCP_USER_TIMEOUT
 * @timeout: after this long without an acknowledgement the kernel gives up; at least the heartbeat's silence, which
 *           is what decides about the peer: this is only the net below it
 *
 * Best effort: a socket that is not TCP keeps what it has.
 */
void stream_tcp_tune(int fd, nstime timeout);

/* stream_buffers() - ask for large kernel buffers (the bulk connection); best effort */
void stream_buffers(struct stream *s, size_t bytes);

#endif
