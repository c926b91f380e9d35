/* SPDX-License-Identifier: BSD-2-Clause */
/* Pairing, the side that connects; theory in pair.c. Control loop. */
#include "link/pair_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

void pair_try_later(struct pair *p, bool slowly)
{
	if (p->cfg.listen)
		return;
	if (slowly)
		p->backoff = p->cfg.backoff_max;
	loop_timer_set(p->cfg.loop, &p->timer, clock_ns() + p->backoff);
	p->backoff = 2 * p->backoff < p->cfg.backoff_max ? 2 * p->backoff : p->cfg.backoff_max;
}

/* An attempt to connect has failed: logged once for each change of reason. */
void pair_attempt_failed(struct pair *p, const char *peer, const char *why, bool refused)
{
	char reason[sizeof(p->last_reason)];

	snprintf(reason, sizeof(reason), "%s: %s", peer, why);
	if (strcmp(reason, p->last_reason))
		log_note("link: not connected to %s, trying on", reason);
	memcpy(p->last_reason, reason, sizeof(reason));
	pair_drop_set(p);
	pair_try_later(p, refused);
	if (!refused && p->cfg.missed)
		p->cfg.missed(p->cfg.arg);
}

static struct greet *pair_dial(struct pair *p, const struct link_addr *a, struct err *e)
{
	int fd = socket(a->ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct greet *g;

	if (fd < 0) {
		err_set(e, -errno, "cannot make a socket: %s", strerror(errno));
		return NULL;
	}
	stream_tcp_tune(fd, p->cfg.tcp_timeout);
	if (connect(fd, (const struct sockaddr *)&a->ss, a->len) < 0 && errno != EINPROGRESS) {
		err_set(e, -errno, "%s", strerror(errno));
		close(fd);
		return NULL;
	}
	/* A connect that worked at once is found by the first poll like any other. */
	g = pair_greet(p, fd, true, a);
	if (!g)
		err_set(e, -ENOMEM, "no memory for a connection");
	else
		pair_remember(p, g);
	return g;
}

void pair_connected(struct greet *g)
{
	struct pair *p = greet_arg(g);

	for (int ch = 0; ch < WIRE_CHANNELS; ch++)
		if (p->set[ch] == g)
			p->flushed[ch] = pair_say_hello(p, g, WIRE_HELLO, ch);
}

void pair_welcome(struct pair *p, struct greet *g, const struct wire_head *h, const uint8_t *payload)
{
	char sentence[WIRE_MAX_SENTENCE + 1], peer[ADDR_TEXT];
	struct err e = { 0 };
	struct hello m;
	int ch = 0;

	while (ch < WIRE_CHANNELS && p->set[ch] != g)
		ch++;
	if (ch == WIRE_CHANNELS)
		return;		/* lingering: nothing it says matters */
	memcpy(peer, greet_peer(g), sizeof(peer));
	if (h->type == WIRE_REFUSE) {
		uint32_t generation = h->generation;	/* @h goes with the attempt */

		codec_refuse_get(payload, h->len, sentence);
		p->st.refused++;
		pair_attempt_failed(p, peer, sentence, true);
		pair_tell(p, true, generation, sentence);
		return;
	}
	if (h->type != WIRE_WELCOME || h->channel != ch || !p->flushed[ch])
		err_set(&e, -EPROTO, "the peer answered with %s on channel %u", wire_type_name(h->type), h->channel);
	else if (!codec_hello_get(h, payload, h->len, &m, &e) && !pair_check_hello(p, h, &m, &e)) {
		if (ch == WIRE_CONTROL) {
			if (!p->cfg.check(p->cfg.arg, &m, &e))
				pair_keep_hello(p, &m, &e);
			memcpy(p->link.session, m.session, LINK_ID_LEN);
		} else if (memcmp(m.session, p->link.session, LINK_ID_LEN)) {
			err_set(&e, -EPROTO, "the peer's four connections are of different sessions");
		}
	}
	if (e.code) {
		pair_refuse(p, g, (uint8_t)ch, e.msg);
		pair_attempt_failed(p, peer, e.msg, true);
		pair_tell(p, false, 0, e.msg);
		return;
	}
	if (ch == WIRE_CONTROL) {
		int at = (p->next_addr + p->cfg.n_addrs - 1) % p->cfg.n_addrs;

		greet_set_deadline(g, clock_ns() + p->cfg.deadline);
		for (int i = WIRE_FRAMES; i < WIRE_CHANNELS; i++) {
			p->set[i] = pair_dial(p, &p->cfg.addrs[at], &e);
			if (!p->set[i]) {
				pair_attempt_failed(p, peer, e.msg, false);
				return;
			}
		}
	}
	/* The peer may speak on as soon as it has said the last of its four welcomes: not to this one. */
	greet_pause(g);
	p->welcomed |= 1u << ch;
	if (p->welcomed == (1u << WIRE_CHANNELS) - 1)
		pair_complete(p);
}

/* The next attempt to connect, to the next of the peer's addresses. */
void pair_try(struct pair *p)
{
	const struct link_addr *a = &p->cfg.addrs[p->next_addr];
	struct err e = { 0 };
	char text[ADDR_TEXT];

	p->next_addr = (p->next_addr + 1) % p->cfg.n_addrs;
	p->st.attempts++;
	p->state = PAIR_SET;
	p->set[WIRE_CONTROL] = pair_dial(p, a, &e);
	if (!p->set[WIRE_CONTROL])
		pair_attempt_failed(p, addr_text(a, text), e.msg, false);
}
