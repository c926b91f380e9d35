/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What runs in both servers. What it says follows from what it is asked alone, not from time, chance or order. TCP: a
 * request is a letter and eight digits; a thread serves one connection.
 *	A n	answer n bytes of stream n; more requests may follow
 *	D n	answer n bytes of stream n and close
 *	U n	take n bytes, answer their hash in 16 hexadecimal digits; more may follow
 *	H 0	take all until the client has closed its direction, answer the hash, close
 * UDP: each datagram comes back as it is.
 */
#include "world.h"

#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

unsigned char stream_byte(unsigned int seed, unsigned long i)
{
	/* A mark of four bytes in each 512: the position, so that nothing can be exchanged, lost or doubled unseen. */
	if (i % 512 > 3)
		return 0;
	return (unsigned char)((i / 512 * 2654435761u + seed) >> (8 * (i % 4)) | 1);
}

unsigned long stream_hash(unsigned long h, const unsigned char *p, unsigned long n)
{
	while (n--)
		h = (h ^ *p++) * 1099511628211ul;
	return h;
}

static bool read_all(int fd, void *buf, size_t n)
{
	return recv(fd, buf, n, MSG_WAITALL) == (ssize_t)n;
}

static bool write_all(int fd, const void *buf, size_t n)
{
	return send(fd, buf, n, MSG_NOSIGNAL) == (ssize_t)n;
}

static bool send_stream(int fd, unsigned long n)
{
	unsigned char *buf = malloc(n + 1);
	bool ok;

	if (!buf)
		return false;
	for (unsigned long i = 0; i < n; i++)
		buf[i] = stream_byte((unsigned int)n, i);
	ok = write_all(fd, buf, n);
	free(buf);
	return ok;
}

static bool take_hash(int fd, unsigned long n, bool to_end)
{
	unsigned long h = STREAM_HASH_INIT;
	unsigned char buf[4096];
	char text[17];

	while (n || to_end) {
		ssize_t k = recv(fd, buf, to_end || n > sizeof(buf) ? sizeof(buf) : n, 0);

		if (k < 0 || (!k && !to_end))
			return false;
		if (!k)
			break;
		h = stream_hash(h, buf, (unsigned long)k);
		n -= to_end ? 0 : (unsigned long)k;
	}
	snprintf(text, sizeof(text), "%016lx", h);
	return write_all(fd, text, 16);
}

static void *serve_tcp(void *arg)
{
	int fd = (int)(intptr_t)arg;
	char req[10] = "";

	while (read_all(fd, req, 9)) {
		unsigned long n = strtoul(req + 1, NULL, 10);
		bool more = false;

		if (*req == 'A')
			more = send_stream(fd, n);
		else if (*req == 'D')
			send_stream(fd, n);
		else if (*req == 'U')
			more = take_hash(fd, n, false);
		else if (*req == 'H')
			take_hash(fd, 0, true);
		if (!more)
			break;
	}
	close(fd);
	return NULL;
}

static void *serve_udp(void *arg)
{
	int fd = (int)(intptr_t)arg;
	unsigned char buf[65536];

	for (;;) {
		struct sockaddr_in6 from;
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(fd, buf, sizeof(buf), 0, (struct sockaddr *)&from, &len);

		if (n >= 0)
			sendto(fd, buf, (size_t)n, 0, (struct sockaddr *)&from, len);
	}
	return NULL;
}

static int open_socket(int type, int port)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
	int fd = socket(AF_INET6, type, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || (type == SOCK_STREAM && listen(fd, 64) < 0)) {
		perror("server");
		_exit(1);
	}
	return fd;
}

void service_run(void)
{
	int tcp = open_socket(SOCK_STREAM, TCP_PORT), udp = open_socket(SOCK_DGRAM, UDP_PORT);
	pthread_t t;

	signal(SIGPIPE, SIG_IGN);
	pthread_create(&t, NULL, serve_udp, (void *)(intptr_t)udp);
	for (;;) {
		int fd = accept(tcp, NULL, NULL);

		if (fd < 0)
			continue;
		if (pthread_create(&t, NULL, serve_tcp, (void *)(intptr_t)fd))
			close(fd);
		else
			pthread_detach(t);
	}
}
