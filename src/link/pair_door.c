/* SPDX-License-Identifier: BSD-2-Clause */
/* Pairing, the side that listens; theory in pair.c. Control loop. */
#include "link/pair_internal.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/log.h"

void pair_hello(struct pair *p, struct greet *g, const struct wire_head *h, const uint8_t *payload)
{
	struct hello m;
	struct err e = { 0 };
	bool first;

	if (h->type != WIRE_HELLO || pair_in_set(p, g)) {
		pair_refuse(p, g, h->channel, "a hello was expected, once");
		return;
	}
	if (codec_hello_get(h, payload, h->len, &m, &e) || pair_check_hello(p, h, &m, &e)) {
		pair_refuse(p, g, h->channel, e.msg);
		pair_tell(p, false, 0, e.msg);
		return;
	}
	first = m.channel == WIRE_CONTROL;
	if (p->state == PAIR_PAIRED && first) {
		pair_refuse(p, g, h->channel, "this node is already paired with another peer");
		return;
	}
	if (p->state == PAIR_SET && first) {
		pair_refuse(p, g, h->channel, "this node is being paired with another peer at the moment");
		return;
	}
	if (!first && (p->state != PAIR_SET || p->set[m.channel] ||
		       memcmp(m.session, p->link.session, LINK_ID_LEN))) {
		pair_refuse(p, g, h->channel, "no handshake of that session is under way here");
		return;
	}
	if (first) {
		if (p->cfg.check(p->cfg.arg, &m, &e) < 0 || pair_keep_hello(p, &m, &e) < 0) {
			uint32_t generation = m.role == FT_PRIMARY ? m.generation : 0;	/* @m goes with @g */

			pair_refuse(p, g, h->channel, e.msg);
			pair_tell(p, false, generation, e.msg);
			return;
		}
		if (getrandom(p->link.session, LINK_ID_LEN, 0) != LINK_ID_LEN) {
			pair_refuse(p, g, h->channel, "this node has no random numbers");
			return;
		}
		p->state = PAIR_SET;
		greet_set_deadline(g, clock_ns() + p->cfg.deadline);
	}
	p->set[m.channel] = g;
	p->flushed[m.channel] = pair_say_hello(p, g, WIRE_WELCOME, m.channel);
	pair_complete(p);
}

static void pair_accept(struct loop_fd *w, uint32_t events)
{
	struct pair *p = w->arg;

	for (int i = 0; i < PAIR_MAX_HALF_OPEN; i++) {
		struct link_addr a = { .len = sizeof(a.ss) };
		int fd = accept4(w->fd, (struct sockaddr *)&a.ss, &a.len, SOCK_CLOEXEC | SOCK_NONBLOCK);
		struct greet *g;

		if (fd < 0) {
			if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
				log_warn("link: cannot accept a connection, trying again in a second: %s",
					 strerror(errno));
				loop_fd_mod(p->cfg.loop, w, 0);
				loop_timer_set(p->cfg.loop, &p->timer, clock_ns() + NS_PER_S);
			}
			return;
		}
		p->st.accepted++;
		stream_tcp_tune(fd, p->cfg.tcp_timeout);
		g = pair_greet(p, fd, false, &a);
		if (g)
			pair_remember(p, g);
	}
}

int pair_listen(struct pair *p, struct err *e)
{
	const struct link_addr *a = &p->cfg.addrs[0];
	char text[ADDR_TEXT];
	int one = 1, rc;
	int fd = socket(a->ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	addr_text(a, text);
	if (fd < 0)
		return err_set(e, -errno, "cannot make a socket for %s: %s", text, strerror(errno));
	p->accept_watch = (struct loop_fd){ .fd = fd, .fn = pair_accept, .arg = p };
	/* Connections of a life before in TIME_WAIT must not keep the port. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (const struct sockaddr *)&a->ss, a->len) < 0 || listen(fd, PAIR_BACKLOG) < 0)
		return err_set(e, -errno, "cannot listen at %s: %s", text, strerror(errno));
	rc = loop_fd_add(p->cfg.loop, &p->accept_watch, EPOLLIN);
	return rc < 0 ? err_set(e, rc, "cannot watch %s: %s", text, strerror(-rc)) : 0;
}
