/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Any number of connections, one question under way on each. A connection must be the same one from beginning to end.
 *
 * With an interval the connections take turns: connection i of n begins i/n of an interval after the first, so that
 * the load is even. A question that is due while the one before is still under way waits for its answer, and is not
 * made good for.
 */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

#include "load.h"

#define ANSWER_MAX 256

struct conn {
	int fd;
	enum load_ask kind;
	unsigned int number;
	bool waits;
	uint64_t asked;
	double sent, heard, next;
	char want[ANSWER_MAX];	/* the answer's line, with its end; empty: hex digits */
	char got[ANSWER_MAX];
	size_t have;
};

static int question(struct conn *c, struct load_result *r, double now)
{
	char line[ANSWER_MAX];
	size_t len = 0;
	ssize_t n;

	c->asked++;
	switch (c->kind) {
	case LOAD_ECHO:
		len = load_words(line, c->asked);
		memcpy(c->want, line + 5, len - 5);
		c->want[len - 5] = 0;
		break;
	case LOAD_INCR:
		len = (size_t)snprintf(line, sizeof(line), "INCR load-%d-%u\r\n", (int)getpid(), c->number);
		snprintf(c->want, sizeof(c->want), ":%llu\r\n", (unsigned long long)c->asked);
		break;
	case LOAD_RANDOM:
		len = (size_t)snprintf(line, sizeof(line), "random 32\n");
		break;
	}
	n = send(c->fd, line, len, MSG_NOSIGNAL);
	if (n != (ssize_t)len)
		return load_fail(r, "question %llu: %s", (unsigned long long)c->asked, n < 0 ? strerror(errno) : "cut");
	c->waits = true;
	c->sent = c->heard = now;
	return 0;
}

/* Whether the line that has come is the answer. */
static bool right(const struct conn *c)
{
	if (c->kind == LOAD_RANDOM)
		return c->have == 65 && strspn(c->got, "0123456789abcdef") == 64;
	return !strcmp(c->got, c->want);
}

/* Returns 1 when the answer is there, 0 when it is not there yet, -1 when something is wrong. */
static int answer(struct conn *c, struct load_result *r, double now)
{
	ssize_t n = recv(c->fd, c->got + c->have, sizeof(c->got) - 1 - c->have, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0)
		return load_fail(r, "the connection broke after %llu questions: %s", (unsigned long long)c->asked,
				 n < 0 ? strerror(errno) : "end of the stream");
	if (c->waits && now - c->heard > r->gap)
		r->gap = now - c->heard;
	c->heard = now;
	c->have += (size_t)n;
	c->got[c->have] = 0;
	if (!memchr(c->got, '\n', c->have)) {
		if (c->have == sizeof(c->got) - 1)
			return load_fail(r, "answer %llu has no end", (unsigned long long)c->asked);
		return 0;
	}
	if (!c->waits || !right(c))
		return load_fail(r, "answer %llu is %.60s", (unsigned long long)c->asked, c->got);
	c->have = 0;
	c->waits = false;
	return 1;
}

static int open_all(const struct load_options *o, enum load_ask kind, struct conn *conns, int ep,
		    struct load_result *r)
{
	unsigned int i;

	for (i = 0; i < o->conns; i++) {
		struct epoll_event e = { .events = EPOLLIN, .data.ptr = &conns[i] };

		conns[i].kind = kind;
		conns[i].number = i;
		conns[i].fd = load_connect(o, r, SOCK_STREAM, kind == LOAD_INCR ? LOAD_REDIS_PORT : LOAD_SERVICE_PORT);
		if (conns[i].fd < 0)
			return -1;
		if (epoll_ctl(ep, EPOLL_CTL_ADD, conns[i].fd, &e))
			return load_fail(r, "epoll_ctl: %s", strerror(errno));
	}
	return 0;
}

/* Asks what is due; returns when to look again, at the latest in a tenth of a second, or -1. */
static double ask_due(const struct load_options *o, struct conn *conns, struct load_result *r, double now)
{
	double next = now + 0.1;
	unsigned int i;

	for (i = 0; i < o->conns; i++) {
		struct conn *c = &conns[i];

		if (c->waits)
			continue;
		if (c->next <= now) {
			if (question(c, r, now))
				return -1;
			c->next = c->next + o->interval > now ? c->next + o->interval : now + o->interval;
		} else if (c->next < next) {
			next = c->next;
		}
	}
	return next;
}

static int loop(const struct load_options *o, struct conn *conns, int ep, struct load_result *r)
{
	double begun = load_now(), now = begun, heard = begun;
	struct epoll_event events[64];
	unsigned int i;

	for (i = 0; i < o->conns; i++)
		conns[i].next = begun + o->interval * i / o->conns;
	while (!load_over(o, begun, now)) {
		double next = ask_due(o, conns, r, now), wait;
		struct timespec t;
		int n;

		if (next < 0)
			return -1;
		wait = next - load_now();
		t.tv_sec = 0;
		t.tv_nsec = wait > 0 ? (long)(wait * 1e9) : 0;
		n = epoll_pwait2(ep, events, 64, &t, NULL);
		now = load_now();
		if (load_mark) {
			load_mark = 0;
			r->gap = 0;
		}
		for (i = 0; n > 0 && i < (unsigned int)n; i++) {
			struct conn *c = events[i].data.ptr;
			int got = answer(c, r, now);

			if (got < 0)
				return -1;
			if (!got)
				continue;
			heard = now;
			r->answers++;
			if (load_counts(o, begun, now))
				load_sample(r, now - c->sent);
		}
		if (now - heard > o->patience)
			return load_fail(r, "no answer for %g s", o->patience);
		r->seconds = now - begun > o->warm ? now - begun - o->warm : 0;
	}
	/* A silence that has not ended is one too. */
	for (i = 0; i < o->conns; i++)
		if (conns[i].waits && now - conns[i].heard > r->gap)
			r->gap = now - conns[i].heard;
	return 0;
}

int load_ask(const struct load_options *o, enum load_ask kind, struct load_result *r)
{
	struct conn *conns = calloc(o->conns, sizeof(*conns));
	int ep = epoll_create1(EPOLL_CLOEXEC), rc = -1;
	unsigned int i;

	if (!conns || ep < 0) {
		load_fail(r, "no memory");
		goto out;
	}
	for (i = 0; i < o->conns; i++)
		conns[i].fd = -1;
	rc = open_all(o, kind, conns, ep, r);
	if (!rc)
		rc = loop(o, conns, ep, r);
	for (i = 0; i < o->conns; i++)
		if (conns[i].fd >= 0)
			close(conns[i].fd);
out:
	if (ep >= 0)
		close(ep);
	free(conns);
	return rc;
}
