/* SPDX-License-Identifier: BSD-2-Clause */
/* A connection for each question, and datagrams: one at a time. */

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

/* Asks over a connected socket and waits for the line that is wanted. */
static int ask_once(const struct load_options *o, int fd, uint64_t n, struct load_result *r)
{
	char line[LOAD_TEXT + 8], got[LOAD_TEXT + 8];
	size_t len = load_words(line, n), want = len - 5, have = 0;
	double end = load_now() + o->patience;

	if (send(fd, line, len, MSG_NOSIGNAL) != (ssize_t)len)
		return load_fail(r, "question %llu: %s", (unsigned long long)n, strerror(errno));
	while (have < want) {
		ssize_t k = recv(fd, got + have, want - have, 0);

		if (k > 0) {
			have += (size_t)k;
			continue;
		}
		if (!k || (errno != EAGAIN && errno != EINTR))
			return load_fail(r, "connection %llu broke: %s", (unsigned long long)n,
					 k ? strerror(errno) : "end of the stream");
		if (load_now() > end)
			return load_fail(r, "no answer for %g s", o->patience);
		load_wait(fd, POLLIN, end - load_now());
	}
	if (memcmp(got, line + 5, want))
		return load_fail(r, "answer %llu is wrong", (unsigned long long)n);
	return 0;
}

int load_new(const struct load_options *o, struct load_result *r)
{
	double begun = load_now(), now = begun;
	uint64_t n;

	for (n = 1; !load_over(o, begun, now); n++) {
		double sent = now;
		int fd = load_connect(o, r, SOCK_STREAM, LOAD_SERVICE_PORT), rc;

		if (fd < 0)
			return -1;
		rc = ask_once(o, fd, n, r);
		now = load_now();
		close(fd);
		if (rc)
			return -1;
		r->answers++;
		if (load_counts(o, begun, now))
			load_sample(r, now - sent);
		r->seconds = now - begun > o->warm ? now - begun - o->warm : 0;
	}
	return 0;
}

/* Waits for the answer to datagram n; answers to older ones, which came too late, are thrown away. Returns 1, 0, -1. */
static int datagram(int fd, const char *want, double end, struct load_result *r)
{
	char got[LOAD_TEXT + 1];

	for (;;) {
		ssize_t k = recv(fd, got, sizeof(got), 0);

		if (k == LOAD_TEXT && !memcmp(got, want, LOAD_TEXT))
			return 1;
		if (k >= 0)
			continue;
		if (errno != EAGAIN && errno != EINTR)
			return load_fail(r, "recv: %s", strerror(errno));
		if (load_now() >= end)
			return 0;
		load_wait(fd, POLLIN, end - load_now());
	}
}

int load_udp(const struct load_options *o, struct load_result *r)
{
	double begun = load_now(), now = begun;
	int fd = load_connect(o, r, SOCK_DGRAM, LOAD_UDP_PORT), got = 0;
	uint64_t n;

	if (fd < 0)
		return -1;
	for (n = 1; !load_over(o, begun, now); n++) {
		char text[LOAD_TEXT + 8];
		double sent = now;

		load_words(text, n);	/* its e is what the service wants */
		if (send(fd, text, LOAD_TEXT, MSG_NOSIGNAL) != LOAD_TEXT) {
			got = load_fail(r, "send: %s", strerror(errno));
			break;
		}
		got = datagram(fd, text, sent + o->patience, r);
		if (got < 0)
			break;
		now = load_now();
		r->lost += !got;
		r->answers += (unsigned int)got;
		if (got && load_counts(o, begun, now))
			load_sample(r, now - sent);
		r->seconds = now - begun > o->warm ? now - begun - o->warm : 0;
	}
	close(fd);
	return got < 0 ? -1 : 0;
}
