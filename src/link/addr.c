/* SPDX-License-Identifier: BSD-2-Clause */
/* Addresses of the link: text to struct and back. Start-up thread only (a look-up of a name blocks). */
#include "link/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int addr_resolve(const char *text, bool listening, struct link_addr *out, struct err *e)
{
	struct addrinfo hints = {
		.ai_family = AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICSERV | (listening ? AI_PASSIVE : 0),
	};
	struct addrinfo *list = NULL;
	const char *colon = strrchr(text, ':');
	char host[256], *end;
	const char *h = host;
	unsigned long port;
	size_t n;
	int rc, k = 0;

	if (!colon || colon[1] < '0' || colon[1] > '9')
		return err_set(e, -EINVAL, "\"%.200s\" is not ADDRESS:PORT", text);
	port = strtoul(colon + 1, &end, 10);
	if (*end || port > 65535 || (!port && !listening))
		return err_set(e, -EINVAL, "\"%.200s\" has no valid port (1 to 65535)", text);
	n = (size_t)(colon - text);
	if (n >= sizeof(host))
		return err_set(e, -EINVAL, "the host name before port %lu is too long", port);
	memcpy(host, text, n);
	host[n] = 0;
	if (n >= 2 && host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = 0;
		h = host + 1;
		hints.ai_flags |= AI_NUMERICHOST;
		hints.ai_family = AF_INET6;
	} else if (strchr(host, ':')) {
		return err_set(e, -EINVAL, "an IPv6 address is written in brackets: [%s]:%lu", host, port);
	}
	if (!*h && !listening)
		return err_set(e, -EINVAL, "\"%.200s\" does not say which host to connect to", text);
	rc = getaddrinfo(*h ? h : NULL, colon + 1, &hints, &list);
	if (rc)
		return err_set(e, -ENOENT, "cannot find the address of \"%.200s\": %s", h,
			       rc == EAI_SYSTEM ? strerror(errno) : gai_strerror(rc));
	for (struct addrinfo *ai = list; ai && k < LINK_MAX_ADDRS; ai = ai->ai_next) {
		if (ai->ai_addrlen > sizeof(out[k].ss))
			continue;
		memset(&out[k], 0, sizeof(out[k]));
		memcpy(&out[k].ss, ai->ai_addr, ai->ai_addrlen);
		out[k++].len = ai->ai_addrlen;
	}
	freeaddrinfo(list);
	return k ? k : err_set(e, -ENOENT, "\"%.200s\" has no address that can be used", h);
}

bool addr_is_loopback(const struct link_addr *a)
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)&a->ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->ss;

	if (a->ss.ss_family == AF_INET)
		return ntohl(in->sin_addr.s_addr) >> 24 == 127;
	if (a->ss.ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr) ||
		       (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr) && in6->sin6_addr.s6_addr[12] == 127);
	return a->ss.ss_family == AF_UNIX;
}

const char *addr_text(const struct link_addr *a, char buf[ADDR_TEXT])
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)&a->ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->ss;
	char ip[INET6_ADDRSTRLEN];

	if (a->ss.ss_family == AF_INET && inet_ntop(AF_INET, &in->sin_addr, ip, sizeof(ip)))
		snprintf(buf, ADDR_TEXT, "%s:%u", ip, ntohs(in->sin_port));
	else if (a->ss.ss_family == AF_INET6 && inet_ntop(AF_INET6, &in6->sin6_addr, ip, sizeof(ip)))
		snprintf(buf, ADDR_TEXT, "[%s]:%u", ip, ntohs(in6->sin6_port));
	else
		snprintf(buf, ADDR_TEXT, "(local)");
	return buf;
}
