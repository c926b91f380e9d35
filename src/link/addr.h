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

/*
 * addr_resolve() - "192.0.2.1:9998", "[2001:db8::1]:9998", "host.example:9998", ":9998" (only to listen: any address)
 * @listening: whether it is to listen at
 * @out: room for LINK_MAX_ADDRS
 *
 * Blocks while a host name is looked up, so it is for start-up only. Port 0 is taken when listening.
 * Return: number of addresses, or -EINVAL, -ENOENT with @e
 */
int addr_resolve(const char *text, bool listening, struct link_addr *out, struct err *e);

/* addr_is_loopback() - whether traffic with this address cannot leave the host; the unspecified address can */
bool addr_is_loopback(const struct link_addr *a);

/* addr_text() - the address as in addr_resolve(); Return: @buf */
const char *addr_text(const struct link_addr *a, char buf[ADDR_TEXT]);

#endif
