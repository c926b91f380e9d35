/* SPDX-License-Identifier: BSD-2-Clause */
/* Addresses of the link: text to struct and back. Start-up thread only (a look-up of a name blocks). */
#include "link/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
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
	const char *colon = strrchr(text, ':'), *bracket = strrchr(text, ']');
	const char *service = ADDR_PORT;
	char host[256], *end;
	const char *h = host;
	unsigned long port;
	size_t n;
	int rc, k = 0;

	if (!*text)
		return err_set(e, -EINVAL, "the address is empty, it should be ADDRESS or ADDRESS:PORT");
	if (colon && bracket && bracket > colon)
		colon = NULL;	/* [2001:db8::1] */
	if (colon)
		service = colon + 1;
	if (*service < '0' || *service > '9')
		return err_set(e, -EINVAL, "\"%.200s\" is not ADDRESS:PORT", text);
	port = strtoul(service, &end, 10);
	if (*end || port > 65535 || (!port && !listening))
		return err_set(e, -EINVAL, "\"%.200s\" has no valid port (1 to 65535)", text);
	n = colon ? (size_t)(colon - text) : strlen(text);
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
	rc = getaddrinfo(*h ? h : NULL, service, &hints, &list);
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

void addr_host(const char *text, char *out, size_t size)
{
	const char *colon = strchr(text, ':');
	size_t n;

	if (*text == '[')
		n = strcspn(++text, "]%");
	else if (colon && colon == strrchr(text, ':'))
		n = (size_t)(colon - text);
	else
		n = strcspn(text, "%");
	snprintf(out, size, "%.*s", n < size ? (int)n : (int)size - 1, text);
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

/* The bytes of the address, IPv4 in IPv6 as IPv4. Return: how many; 0: another family */
static size_t addr_bytes(const struct link_addr *a, uint8_t out[16])
{
	const struct sockaddr_in *in = (const struct sockaddr_in *)&a->ss;
	const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)&a->ss;
	bool mapped = a->ss.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);

	if (a->ss.ss_family == AF_INET)
		memcpy(out, &in->sin_addr, 4);
	else if (mapped)
		memcpy(out, &in6->sin6_addr.s6_addr[12], 4);
	else if (a->ss.ss_family == AF_INET6)
		memcpy(out, &in6->sin6_addr, 16);
	else
		return 0;
	return a->ss.ss_family == AF_INET || mapped ? 4 : 16;
}

static unsigned int addr_port(const struct link_addr *a)
{
	return ntohs(a->ss.ss_family == AF_INET ? ((const struct sockaddr_in *)&a->ss)->sin_port :
		     ((const struct sockaddr_in6 *)&a->ss)->sin6_port);
}

void addr_set_port(struct sockaddr_storage *ss, unsigned int port)
{
	if (ss->ss_family == AF_INET)
		((struct sockaddr_in *)ss)->sin_port = htons((uint16_t)port);
	else
		((struct sockaddr_in6 *)ss)->sin6_port = htons((uint16_t)port);
}

bool addr_is_any(const struct link_addr *a)
{
	static const uint8_t zero[16];
	uint8_t b[16];
	size_t n = addr_bytes(a, b);

	return n && !memcmp(b, zero, n);
}

bool addr_is_ours(const struct link_addr *a)
{
	struct ifaddrs *list;
	bool ours = false;
	uint8_t x[16], y[16];
	size_t n = addr_bytes(a, x);

	if (!n || addr_is_loopback(a) || getifaddrs(&list) < 0)
		return false;
	for (struct ifaddrs *i = list; i && !ours; i = i->ifa_next) {
		struct link_addr b = { 0 };

		if (!i->ifa_addr || (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6))
			continue;
		b.len = i->ifa_addr->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
		memcpy(&b.ss, i->ifa_addr, b.len);
		ours = addr_bytes(&b, y) == n && !memcmp(x, y, n);
	}
	freeifaddrs(list);
	return ours;
}

int addr_cmp(const struct link_addr *a, const struct link_addr *b)
{
	uint8_t x[16], y[16];
	size_t n = addr_bytes(a, x), m = addr_bytes(b, y);
	int rc;

	if (n != m)
		return n < m ? -1 : 1;
	rc = n ? memcmp(x, y, n) : 0;
	if (rc)
		return rc;
	return addr_port(a) < addr_port(b) ? -1 : addr_port(a) > addr_port(b);
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
