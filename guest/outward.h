/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUEST_OUTWARD_H
#define GUEST_OUTWARD_H

/* What the guest sends of its own accord because a command of the service asked for it. */

#include <netinet/in.h>
#include <stdint.h>

enum {
	UDP_TO_PORT = 5301,	/* what `udp-to` sends from */
	UDP_TO_MAX = 1000,	/* datagrams of one `udp-to` */
	CALL_PORT = 20000,	/* what `connect` calls from: this port and those that follow, in turn */
	CALL_PORTS = 10000,
};

/**
 * outward_start() - opens the socket of `udp-to`.
 *
 * Return: 0 or -errno.
 */
int outward_start(void);

/**
 * outward_address() - reads an address.
 * @text: IPv4 or IPv6 address, NUL-terminated, without a scope
 * @port: the port, in the host's byte order
 * @a:    filled in; IPv4 as v4-mapped
 *
 * Return: 0 or -EINVAL.
 */
int outward_address(const char *text, uint16_t port, struct sockaddr_in6 *a);

/**
 * outward_connect() - begins to open a TCP connection.
 * @to:   whom to call
 * @from: port to call from; -1: the next of CALL_PORTS; 0: one that the kernel chooses, which differs between two copies
 *
 * Return: a non-blocking socket that is connecting, or -errno.
 */
int outward_connect(const struct sockaddr_in6 *to, int from);

/**
 * outward_udp() - sends datagrams "TEXT I", I from 1 to @n. Waits while the interface is slower than this.
 * @to:   where to
 * @n:    how many
 * @text: NUL-terminated, not longer than a command line of the service
 *
 * Return: 0 or -errno of the first that could not be sent; the rest is not tried then.
 */
int outward_udp(const struct sockaddr_in6 *to, uint32_t n, const char *text);

#endif
