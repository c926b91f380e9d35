/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_STREAM_H
#define LINK_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/clock.h"

/* A byte stream between the nodes, nonblocking: plain TCP (stream.c), or TLS over it (stream_tls.c). */
struct stream;
struct tls;

struct stream_ops {
	/*
	 * To be called, before anything else, until it is done: 0; -EAGAIN: when the descriptor is ready; -errno, and
	 * then why() may know more. NULL: there is none
	 */
	int (*handshake)(struct stream *s);
	/* A sentence about the last error; "" when -errno says it all */
	const char *(*why)(struct stream *s);
	/* Up to @n bytes into @buf. Return: bytes, 0 when the peer or its kernel has closed, -EAGAIN, or -errno */
	ssize_t (*read)(struct stream *s, void *buf, size_t n);
	/*
	 * From @n pieces. What was not taken must be offered again before anything else, the same bytes: they may be
	 * encrypted already. Return: bytes that are with the kernel, -EAGAIN, or -errno; never raises SIGPIPE
	 */
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

/* One that is allocated with more behind it begins with this, and is freed by the same pointer. */
struct stream {
	const struct stream_ops *ops;
	int fd;
};

extern const struct stream_ops stream_tcp_ops;

#define STREAM_SNDBUF	(4u << 20)	/* bulk: enough that the sender's loop is not woken for each message */

/*
 * stream_tcp() - wrap a connected TCP (or, in tests, unix) socket
 * @fd: becomes nonblocking; the stream's from now on, closed on failure
 *
 * Return: the stream, or NULL without memory
 */
struct stream *stream_tcp(int fd);

/*
 * stream_tls() - the same with TLS above it
 * @fd:     becomes nonblocking; the stream's from now on, closed on failure. May be connecting still; the handshake
 *          comes after
 * @t:      outlives the stream
 * @server: this side has accepted
 * @peer:   as tls_begin() has it; outlives the handshake
 *
 * Return: the stream, or NULL without memory
 */
struct stream *stream_tls(int fd, struct tls *t, bool server, const char *peer);

/*
 * stream_plain() - go on without TLS on the same socket, after a handshake that failed, e.g. to say why
 * @s: of stream_tls(). Whatever it has read is gone
 */
void stream_plain(struct stream *s);

/*
 * stream_clear_peer() - whether what failed the handshake was a peer that speaks the link's protocol in the clear
 * @s: of stream_tls()
 */
bool stream_clear_peer(struct stream *s);

/* stream_key() - a key that only both ends of this connection know, as tls_key(). Return: whether there is one */
bool stream_key(struct stream *s, const char *label, uint8_t key[32]);

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
