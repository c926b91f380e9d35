/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * outward.c - connections and datagrams that the test guest begins (commands `connect` and `udp-to` of PROTOCOL.md)
 *
 * The kernel chooses ports by chance, so two copies would choose differently: unless it is told to, a connection here has
 * a port of its own from a range that the kernel does not use.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "outward.h"

enum {
	SEND_WAIT_S = 2,	/* how long one datagram waits for room */
	TEXT_MAX = 8192,
};

static int udp_fd = -1;
static uint32_t calls;

/* Return: a socket for both families, bound to @port when that is not 0; or -errno. */
static int bound_socket(int type, uint16_t port)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int one = 1, zero = 0, rc, fd = socket(AF_INET6, type | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	if (!port)
		return fd;
	/* The connection that had this port before may still linger. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a))) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

int outward_start(void)
{
	struct timeval wait = { .tv_sec = SEND_WAIT_S };
	int little = 1;	/* the kernel makes it its minimum: nobody reads here */

	udp_fd = bound_socket(SOCK_DGRAM, UDP_TO_PORT);
	if (udp_fd < 0)
		return udp_fd;
	setsockopt(udp_fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
	setsockopt(udp_fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
	return 0;
}

int outward_address(const char *text, uint16_t port, struct sockaddr_in6 *a)
{
	char mapped[64];

	*a = (struct sockaddr_in6){ .sin6_family = AF_INET6, .sin6_port = htons(port) };
	if (strchr(text, ':'))
		return inet_pton(AF_INET6, text, &a->sin6_addr) == 1 ? 0 : -EINVAL;
	if (snprintf(mapped, sizeof(mapped), "::ffff:%s", text) >= (int)sizeof(mapped))
		return -EINVAL;
	return strchr(text, '.') && inet_pton(AF_INET6, mapped, &a->sin6_addr) == 1 ? 0 : -EINVAL;
}

int outward_connect(const struct sockaddr_in6 *to, int from)
{
	int one = 1, rc, fd;

	if (from < 0)
		from = (int)(CALL_PORT + calls++ % CALL_PORTS);
	fd = bound_socket(SOCK_STREAM | SOCK_NONBLOCK, (uint16_t)from);
	if (fd < 0)
		return fd;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(fd, (const struct sockaddr *)to, sizeof(*to)) && errno != EINPROGRESS) {
		rc = -errno;
		close(fd);
		return rc;
	}
	return fd;
}

int outward_udp(const struct sockaddr_in6 *to, uint32_t n, const char *text)
{
	char d[TEXT_MAX];
	uint32_t i;
	int len;

	for (i = 1; i <= n; i++) {
		len = snprintf(d, sizeof(d), "%s %u", text, i);
		if (len >= (int)sizeof(d))
			return -EMSGSIZE;
		if (sendto(udp_fd, d, (size_t)len, 0, (const struct sockaddr *)to, sizeof(*to)) < 0)
			return -errno;
	}
	return 0;
}
