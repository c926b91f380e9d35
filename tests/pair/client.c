/* SPDX-License-Identifier: BSD-2-Clause */
/* What the client asks of the server, and whether the answer is right. Each runs in a process of its own. */
#include "world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TRIES	40	/* of a datagram, 250 ms apart: a lossy network may eat some */

static bool six;

static void bad(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fprintf(stderr, "  client: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	_exit(1);
}

static socklen_t server(struct sockaddr_storage *ss, int port)
{
	struct sockaddr_in6 *a6 = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *a4 = (struct sockaddr_in *)ss;

	memset(ss, 0, sizeof(*ss));
	if (six) {
		a6->sin6_family = AF_INET6;
		a6->sin6_port = htons((uint16_t)port);
		inet_pton(AF_INET6, SERVER_IP6, &a6->sin6_addr);
		return sizeof(*a6);
	}
	a4->sin_family = AF_INET;
	a4->sin_port = htons((uint16_t)port);
	inet_pton(AF_INET, SERVER_IP4, &a4->sin_addr);
	return sizeof(*a4);
}

static int dial(int type, int proto, int port)
{
	struct timeval limit = { .tv_sec = 30 };
	struct sockaddr_storage ss;
	socklen_t len = server(&ss, port);
	int fd = socket(six ? AF_INET6 : AF_INET, type, proto);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	if (fd < 0 || connect(fd, (struct sockaddr *)&ss, len) < 0)
		bad("cannot connect: %s", strerror(errno));
	return fd;
}

static void say(int fd, const void *p, size_t n)
{
	if (send(fd, p, n, MSG_NOSIGNAL) != (ssize_t)n)
		bad("cannot send: %s", strerror(errno));
}

static void request(int fd, char what, unsigned long n)
{
	char text[16];

	snprintf(text, sizeof(text), "%c%08lu", what, n % 100000000);
	say(fd, text, 9);
}

static void hear(int fd, void *p, size_t n)
{
	ssize_t k = recv(fd, p, n, MSG_WAITALL);

	if (k != (ssize_t)n)
		bad("%zd bytes of an answer of %zu came: %s", k, n, k < 0 ? strerror(errno) : "closed");
}

static void hear_stream(int fd, unsigned long n)
{
	unsigned char *p = calloc(1, n + 1);

	if (!p)
		bad("no memory");
	hear(fd, p, n);
	for (unsigned long i = 0; i < n; i++)
		if (p[i] != stream_byte((unsigned int)n, i))
			bad("byte %lu of an answer of %lu is %02x", i, n, p[i]);
	free(p);
}

static void hear_end(int fd)
{
	char c;

	if (recv(fd, &c, 1, 0) != 0)
		bad("the server does not close");
	close(fd);
}

static void hear_hash(int fd, unsigned long h)
{
	char want[17], got[17] = "";

	snprintf(want, sizeof(want), "%016lx", h);
	hear(fd, got, 16);
	if (strcmp(want, got))
		bad("the hash is %s, not %s", got, want);
}

static unsigned long say_stream(int fd, unsigned long n, unsigned long piece)
{
	unsigned char *p = calloc(1, n + 1);
	unsigned long h;

	if (!p)
		bad("no memory");
	for (unsigned long i = 0; i < n; i++)
		p[i] = stream_byte((unsigned int)n, i);
	h = stream_hash(STREAM_HASH_INIT, p, n);
	for (unsigned long at = 0; at < n; at += piece)
		say(fd, p + at, n - at < piece ? n - at : piece);
	free(p);
	return h;
}

static void do_ask(void)
{
	static const unsigned long len[] = { 1, 10, 100, 1000, 1448, 1449, 3000, 9, 1, 5000 };
	int fd = dial(SOCK_STREAM, 0, TCP_PORT);

	for (int i = 0; i < 20; i++) {
		request(fd, 'A', len[i % 10]);
		hear_stream(fd, len[i % 10]);
	}
	close(fd);
}

/* Requests that do not wait for one another's answers. */
static void do_pipeline(void)
{
	int fd = dial(SOCK_STREAM, 0, TCP_PORT);

	for (int i = 0; i < 30; i++)
		request(fd, 'A', 700ul + 10 * (unsigned int)i);
	for (int i = 0; i < 30; i++)
		hear_stream(fd, 700ul + 10 * (unsigned int)i);
	close(fd);
}

static void do_download(void)
{
	int fd = dial(SOCK_STREAM, 0, TCP_PORT);

	request(fd, 'D', 200000);
	hear_stream(fd, 200000);
	hear_end(fd);
}

static void do_upload(void)
{
	int fd = dial(SOCK_STREAM, 0, TCP_PORT);

	for (unsigned long n = 100; n <= 100000; n *= 10) {
		request(fd, 'U', n);
		hear_hash(fd, say_stream(fd, n, 7000));
	}
	close(fd);
}

static void do_half(void)
{
	int fd = dial(SOCK_STREAM, 0, TCP_PORT);
	unsigned long h;

	request(fd, 'H', 0);
	h = say_stream(fd, 20000, 1000);
	shutdown(fd, SHUT_WR);
	hear_hash(fd, h);
	hear_end(fd);
}

static void do_short(void)
{
	for (int i = 0; i < 25; i++) {
		int fd = dial(SOCK_STREAM, 0, TCP_PORT);

		request(fd, i & 1 ? 'D' : 'A', 50 + (unsigned int)i);
		hear_stream(fd, 50 + (unsigned int)i);
		if (i & 1)
			hear_end(fd);
		else
			close(fd);
	}
}

/* Many connections at once. */
static void do_many(void)
{
	int fd[20];

	for (int i = 0; i < 20; i++)
		fd[i] = dial(SOCK_STREAM, 0, TCP_PORT);
	for (int r = 0; r < 3; r++) {
		for (int i = 0; i < 20; i++)
			request(fd[i], 'A', 200 + (unsigned int)(i * 20 + r));
		for (int i = 0; i < 20; i++)
			hear_stream(fd[i], 200 + (unsigned int)(i * 20 + r));
	}
	for (int i = 0; i < 20; i++)
		close(fd[i]);
}

/* One datagram there and back; the same once more when it does not come. @skip: bytes before what must be equal */
static void echo(int fd, unsigned char *p, size_t n, size_t at, size_t skip)
{
	unsigned char got[65536];

	for (int i = 0; i < TRIES; i++) {
		struct pollfd pf = { .fd = fd, .events = POLLIN };

		say(fd, p, n);
		while (poll(&pf, 1, 250) > 0) {
			ssize_t k = recv(fd, got, sizeof(got), 0);

			/* What an earlier try has brought, or somebody else's. */
			if (k == (ssize_t)(n + at) && !memcmp(got + at + skip, p + skip, n - skip))
				return;
		}
	}
	bad("no answer to a datagram of %zu bytes", n);
}

static void echo_sizes(int fd, const size_t *len, int n_len, size_t at, size_t skip, void (*head)(unsigned char *p, int i))
{
	unsigned char p[8192];

	for (int i = 0; i < n_len; i++) {
		for (size_t k = 0; k < len[i]; k++)
			p[k] = stream_byte((unsigned int)i + 1, k);
		if (head)
			head(p, i);
		echo(fd, p, len[i], at, skip);
	}
	close(fd);
}

static void do_udp(void)
{
	static const size_t len[] = { 4, 40, 400, 1400, 1, 1000, 5, 12, 64, 512 };

	echo_sizes(dial(SOCK_DGRAM, 0, UDP_PORT), len, 10, 0, 0, NULL);
}

static void do_udp_large(void)
{
	static const size_t len[] = { 2000, 3000, 1600, 8000 };

	echo_sizes(dial(SOCK_DGRAM, 0, UDP_PORT), len, 4, 0, 0, NULL);
}

static void ping_head(unsigned char *p, int i)
{
	unsigned int sum = 0;

	memset(p, 0, 8);
	p[0] = six ? ICMP6_ECHO_REQUEST : ICMP_ECHO;
	p[5] = 77;
	p[7] = (unsigned char)i;
	if (six)
		return;
	/* Lengths are even, and zeros do not count. */
	for (int k = 0; k < 8192; k += 2)
		sum += (unsigned int)p[k] << 8 | p[k + 1];
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	p[2] = (unsigned char)(~sum >> 8);
	p[3] = (unsigned char)~sum;
}

static void ping(const size_t *len, int n)
{
	int fd = dial(SOCK_RAW, six ? IPPROTO_ICMPV6 : IPPROTO_ICMP, 0);
	unsigned char p[8192];

	/* Of the answer the type and the checksum differ; IPv4 hands out its header too. */
	for (int i = 0; i < n; i++) {
		memset(p, 0, sizeof(p));
		for (size_t k = 8; k < len[i]; k++)
			p[k] = stream_byte((unsigned int)i + 1, k);
		ping_head(p, i);
		echo(fd, p, len[i], six ? 0 : 20, 4);
	}
	close(fd);
}

static void do_ping(void)
{
	static const size_t len[] = { 64, 8, 1000, 1400, 64 };

	ping(len, 5);
}

static void do_ping_large(void)
{
	static const size_t len[] = { 2000, 4000 };

	ping(len, 2);
}

static const struct {
	const char *name;
	void (*fn)(void);
} scenarios[] = {
	{ "ask", do_ask }, { "pipeline", do_pipeline }, { "download", do_download }, { "upload", do_upload },
	{ "half", do_half }, { "short", do_short }, { "many", do_many }, { "udp", do_udp },
	{ "udp-large", do_udp_large }, { "ping", do_ping }, { "ping-large", do_ping_large },
};
#define SCENARIOS (sizeof(scenarios) / sizeof(scenarios[0]))

int client_run(const char *what, bool ip6)
{
	six = ip6;
	for (unsigned int i = 0; i < SCENARIOS; i++)
		if (!strcmp(scenarios[i].name, what)) {
			scenarios[i].fn();
			return 0;
		}
	bad("there is no scenario %s", what);
	return 1;
}
