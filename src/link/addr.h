/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_ADDR_H
#define LINK_ADDR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

#include "base/err.h"

/* One address with its port. */
struct link_addr {
	struct sockaddr_storage ss;
	socklen_t len;
};

#define LINK_MAX_ADDRS	4	/* addresses of one host name that are tried */
#define ADDR_TEXT	80	/* room for an address as text */
#define ADDR_PORT	"9998"	/* where none is given */

/*
 * addr_resolve() - "192.0.2.1:9998", "[2001:db8::1]:9998", "host.example:9998", ":9998" (only to listen: any address)
 *
 * Without a port (and its colon) it is ADDR_PORT.
 * @listening: whether it is to listen at
 * @out: room for LINK_MAX_ADDRS
 *
 * Blocks while a host name is looked up, so it is for start-up only. Port 0 is taken when listening.
 * Return: number of addresses, or -EINVAL, -ENOENT with @e
 */
int addr_resolve(const char *text, bool listening, struct link_addr *out, struct err *e);

/* addr_host() - the host of an address as it was written: without port, brackets and scope; cut off at @size */
void addr_host(const char *text, char *out, size_t size);

/* addr_is_loopback() - whether traffic with this address cannot leave the host; the unspecified address can */
bool addr_is_loopback(const struct link_addr *a);

/* addr_is_any() - the unspecified address: to listen at all that the host has */
bool addr_is_any(const struct link_addr *a);

/*
 * addr_is_ours() - whether an interface of this host has the address (the port does not count)
 *
 * A loopback address is not: every host has it. Return: false also when the kernel does not say
 */
bool addr_is_ours(const struct link_addr *a);

/* addr_cmp() - an order of addresses with their ports that is the same on every host; IPv4 comes first */
int addr_cmp(const struct link_addr *a, const struct link_addr *b);

/* addr_set_port() - another port */
void addr_set_port(struct sockaddr_storage *ss, unsigned int port);

/* addr_text() - the address as in addr_resolve(); Return: @buf */
const char *addr_text(const struct link_addr *a, char buf[ADDR_TEXT]);

#endif
