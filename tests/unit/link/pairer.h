/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_PAIRER_H
#define TESTS_PAIRER_H

#include "looper.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "link/pair.h"

/* A node as link/pair sees it, in a loop of the test's. */
#define DEADLINE	(400 * NS_PER_MS)

static struct looper lp;

struct node {
	struct pair_cfg cfg;
	struct pair *p;
	int paired, refused_by_peer, refused_by_us, missed, checks;
	uint32_t serves;
	bool check_fails, has_vm;	/* @has_vm: who listens serves */
	bool hello_at_once;	/* say something on each connection as soon as paired */
	struct pair_link link;
	char peer_shape[200], peer_name[80], sentence[512];
	struct pair_stats st;
	struct err e;
};

static inline int on_check(void *arg, const struct hello *peer, struct err *e)
{
	struct node *n = arg;

	n->checks++;
	snprintf(n->peer_shape, sizeof(n->peer_shape), "%.*s", (int)peer->shape_len, peer->shape);
	snprintf(n->peer_name, sizeof(n->peer_name), "%s", peer->name);
	return n->check_fails ? err_set(e, -EINVAL, "memory differs: 512 MB here, 256 MB there") : 0;
}

static inline void on_paired(void *arg, struct pair_link *link)
{
	struct node *n = arg;

	n->paired++;
	n->link = *link;
	n->link.peer.shape = NULL;
	if (n->hello_at_once)
		for (int i = 0; i < WIRE_CHANNELS; i++) {
			struct iovec v = { (char *)"0first1first2first3first" + 6 * i, 6 };

			link->s[i]->ops->writev(link->s[i], &v, 1);
		}
}

static inline void on_refused(void *arg, bool by_peer, uint32_t generation, const char *sentence)
{
	struct node *n = arg;

	if (by_peer)
		n->refused_by_peer++;
	else
		n->refused_by_us++;
	n->serves = generation;
	snprintf(n->sentence, sizeof(n->sentence), "%s", sentence);
}

static inline void on_missed(void *arg)
{
	struct node *n = arg;

	n->missed++;
}

static inline long do_new(void *arg)
{
	struct node *n = arg;

	n->cfg.loop = lp.l;
	if (!n->cfg.name[0])
		strcpy(n->cfg.name, "web");
	n->cfg.deadline = DEADLINE;
	n->cfg.backoff_min = 10 * NS_PER_MS;
	n->cfg.backoff_max = 50 * NS_PER_MS;
	n->cfg.check = on_check;
	n->cfg.paired = on_paired;
	n->cfg.refused = on_refused;
	n->cfg.missed = on_missed;
	n->cfg.arg = n;
	n->p = pair_new(&n->cfg, &n->e);
	return n->p ? (long)pair_port(n->p) : -1;
}

static inline void drop_link(struct node *n)
{
	for (int i = 0; i < WIRE_CHANNELS; i++) {
		if (n->link.s[i])
			n->link.s[i]->ops->close(n->link.s[i]);
		n->link.s[i] = NULL;
	}
}

static inline long do_free(void *arg)
{
	struct node *n = arg;

	drop_link(n);
	pair_free(n->p);
	n->p = NULL;
	return 0;
}

static inline long do_again(void *arg)
{
	struct node *n = arg;

	drop_link(n);
	pair_again(n->p);
	return 0;
}

static inline long do_stats(void *arg)
{
	struct node *n = arg;

	pair_stats_get(n->p, &n->st);
	return 0;
}

static inline long is_paired(void *arg)
{
	return ((struct node *)arg)->paired;
}

static inline long is_refused(void *arg)
{
	struct node *n = arg;

	return n->refused_by_peer || n->refused_by_us;
}

static inline long is_missed(void *arg)
{
	return ((struct node *)arg)->missed;
}

static inline long no_half_open(void *arg)
{
	do_stats(arg);
	return !((struct node *)arg)->st.half_open;
}

static inline struct link_addr at(unsigned int port)
{
	struct link_addr a = { .len = sizeof(struct sockaddr_in) };
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

	memcpy(&a.ss, &in, sizeof(in));
	return a;
}

static inline unsigned int listener(struct node *n, const char *shape)
{
	long port;

	n->cfg.listen = true;
	n->cfg.addrs[0] = at(0);
	n->cfg.n_addrs = 1;
	n->cfg.role = n->has_vm ? FT_PRIMARY : FT_SECONDARY;
	n->cfg.generation = 7;
	n->cfg.shape = shape;
	n->cfg.shape_len = strlen(shape);
	port = on_loop(&lp, do_new, n);
	assert_true(port > 0);
	return (unsigned int)port;
}

static inline void connector(struct node *n, unsigned int port, const char *shape)
{
	n->cfg.addrs[0] = at(port);
	n->cfg.n_addrs = 1;
	n->cfg.role = FT_PRIMARY;
	n->cfg.generation = 41;
	n->cfg.shape = shape;
	n->cfg.shape_len = strlen(shape);
	assert_int_equal(on_loop(&lp, do_new, n), 0);
}

static inline int dial_raw(unsigned int port)
{
	struct link_addr a = at(port);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(connect(fd, (struct sockaddr *)&a.ss, a.len), 0);
	return fd;
}

static inline void read_stream(struct stream *s, char *buf, size_t n)
{
	for (size_t got = 0; got < n;) {
		struct pollfd p = { .fd = s->fd, .events = POLLIN };
		ssize_t r = s->ops->read(s, buf + got, n - got);

		if (r == -EAGAIN) {
			assert_int_equal(poll(&p, 1, 5000), 1);
			continue;
		}
		assert_true(r > 0);
		got += (size_t)r;
	}
}

static inline void check_streams(struct node *a, struct node *b)
{
	struct node *ends[2] = { a, b };

	for (int k = 0; k < 2; k++)
		for (int i = 0; i < WIRE_CHANNELS; i++) {
			char buf[7] = { 0 };

			read_stream(ends[k]->link.s[i], buf, 6);
			assert_string_equal(buf, ((const char *[]){ "0first", "1first", "2first", "3first" })[i]);
		}
}

#endif
