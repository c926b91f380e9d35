/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pairing: theory of operation
 *
 * One node listens, the other connects (again and again until somebody is there). Control loop.
 *
 *   connects                                listens
 *   control: HELLO(name, shape)      ->     version, VM name, check()
 *            check()                 <-     WELCOME(name, shape, session)
 *   frames:  HELLO(session)          ->
 *                                    <-     WELCOME
 *   bulk:    HELLO(session)          ->
 *            paired()                <-     WELCOME, then paired()
 *
 * The session is 16 random bytes of the listener, so that the two later connections, and the heartbeat, belong to
 * the first. The listener hands its three over in the same call in which the last WELCOME went to the kernel: the
 * other side sends nothing before it has that WELCOME, so no byte of the new connections is ever read here.
 *
 * Whoever says no says why: REFUSE with a sentence, then a moment for the peer to read it. There is a deadline for
 * each half-open connection, and a limit to their number: at the limit the oldest that does not belong to a set under
 * way is put out, so that silent strangers cannot keep the peer out. While paired (and while a set is being built)
 * others are refused; a set whose control connection closes is dropped at once.
 *
 * Not done: more than one path (later: more --peer), encryption (a stream below this, later).
 */
#include "link/pair.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "link/greet.h"

enum pair_state {
	PAIR_IDLE,	/* listening, or between two attempts to connect */
	PAIR_SET,	/* the control connection has greeted (listener), or an attempt is under way */
	PAIR_PAIRED,
};

struct pair {
	struct pair_cfg cfg;
	char *shape;
	uint8_t vm_id[LINK_ID_LEN];
	enum pair_state state;
	struct loop_fd accept_watch;	/* fd -1 when connecting */
	struct loop_timer timer;	/* connect again, or accept again after a shortage */
	nstime backoff;
	int next_addr;
	char last_reason[256];		/* of the last failed attempt that was logged */
	char last_stranger[256];		/* why the last one was refused or dropped, and when that was logged */
	nstime logged_stranger, logged_evict;
	char last_told[512];			/* the sentence that refused() has heard last */

	struct greet *half[PAIR_MAX_HALF_OPEN];	/* all half-open ones, those of the set among them */
	struct greet *set[WIRE_CHANNELS];
	bool flushed[WIRE_CHANNELS];		/* our HELLO or WELCOME is with the kernel */
	unsigned int welcomed;			/* connecting: bit per channel whose WELCOME is there */
	struct pair_link link;		/* of the set: session, peer, addresses */
	char *peer_shape;
	struct pair_stats st;
};

static const struct greet_ops pair_ops;

static bool in_set(const struct pair *p, const struct greet *g)
{
	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (p->set[i] == g)
			return true;
	return false;
}

static void forget(struct pair *p, struct greet *g)
{
	for (int i = 0; i < PAIR_MAX_HALF_OPEN; i++)
		if (p->half[i] == g)
			p->half[i] = NULL;
	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (p->set[i] == g)
			p->set[i] = NULL;
}

static void drop(struct pair *p, struct greet *g)
{
	forget(p, g);
	greet_free(g);
}

static void remember(struct pair *p, struct greet *g)
{
	struct greet **slot = NULL;
	struct greet *oldest = NULL;

	for (int i = 0; i < PAIR_MAX_HALF_OPEN; i++) {
		struct greet *o = p->half[i];

		if (!o)
			slot = &p->half[i];
		else if (!in_set(p, o) && (!oldest || greet_born(o) < greet_born(oldest)))
			oldest = o;
	}
	if (!slot) {
		nstime now = clock_ns();

		/* The set has three at most, so there is always a stranger. */
		p->st.evicted++;
		if (!p->logged_evict || now - p->logged_evict > 10 * NS_PER_S)
			log_warn("link: more than %d half-open connections, put out %s (%llu so far)", PAIR_MAX_HALF_OPEN,
				 greet_peer(oldest), (unsigned long long)p->st.evicted);
		p->logged_evict = now;
		for (int i = 0; i < PAIR_MAX_HALF_OPEN; i++)
			if (p->half[i] == oldest)
				slot = &p->half[i];
		greet_free(oldest);
	}
	*slot = g;
}

/* The set (listener) or the attempt (connecting) has come to nothing. */
static void drop_set(struct pair *p)
{
	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (p->set[i])
			drop(p, p->set[i]);
	memset(p->flushed, 0, sizeof(p->flushed));
	p->welcomed = 0;
	free(p->peer_shape);
	p->peer_shape = NULL;
	if (p->state == PAIR_SET)
		p->state = PAIR_IDLE;
}

static void try_later(struct pair *p, bool slowly)
{
	if (p->cfg.listen)
		return;
	if (slowly)
		p->backoff = p->cfg.backoff_max;
	loop_timer_set(p->cfg.loop, &p->timer, clock_ns() + p->backoff);
	p->backoff = 2 * p->backoff < p->cfg.backoff_max ? 2 * p->backoff : p->cfg.backoff_max;
}

/* An attempt to connect has failed: logged once for each change of reason. */
static void attempt_failed(struct pair *p, const char *peer, const char *why, bool refused)
{
	char reason[sizeof(p->last_reason)];

	snprintf(reason, sizeof(reason), "%s: %s", peer, why);
	if (strcmp(reason, p->last_reason))
		log_note("link: not connected to %s, trying on", reason);
	memcpy(p->last_reason, reason, sizeof(reason));
	drop_set(p);
	try_later(p, refused);
}

/* A stranger's nonsense at the door, over and over, must not fill the log. */
static void log_stranger(struct pair *p, const char *what, const struct greet *g, const char *why)
{
	nstime now = clock_ns();

	if (strcmp(p->last_stranger, why) || now - p->logged_stranger > 60 * NS_PER_S) {
		log_warn("link: %s %s: %s", what, greet_peer(g), why);
		p->logged_stranger = now;
	} else {
		log_debug("link: %s %s: %s", what, greet_peer(g), why);
	}
	snprintf(p->last_stranger, sizeof(p->last_stranger), "%s", why);
}

static void pair_refuse(struct pair *p, struct greet *g, uint8_t channel, const char *sentence)
{
	bool member = in_set(p, g);

	p->st.refused++;
	log_stranger(p, "refused", g, sentence);
	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (p->set[i] == g)
			p->set[i] = NULL;	/* lingers among the half-open */
	greet_linger(g, p->vm_id, channel, sentence);
	/* A set without one of its connections is none; who connects ends its attempt itself. */
	if (member && p->cfg.listen)
		drop_set(p);
}

static void tell_refused(struct pair *p, bool by_peer, const char *sentence)
{
	bool news = strcmp(p->last_told, sentence);

	snprintf(p->last_told, sizeof(p->last_told), "%s", sentence);
	if (news && p->cfg.refused)
		p->cfg.refused(p->cfg.arg, by_peer, sentence);
}

/* HELLO or WELCOME of a channel. Return: whether it is with the kernel */
static bool say_hello(struct pair *p, struct greet *g, uint8_t type, enum wire_channel ch)
{
	struct hello m = {
		.version = WIRE_VERSION,
		.role = p->cfg.role,
		.channel = ch,
		.shape = p->shape,
		.shape_len = ch == WIRE_CONTROL ? p->cfg.shape_len : 0,
	};
	struct wire_head h = { .type = type, .channel = (uint8_t)ch, .generation = p->cfg.generation };
	uint8_t *buf = malloc(WIRE_MAX_HELLO_PAYLOAD);
	bool done = false;
	int n;

	if (!buf)
		return false;
	memcpy(m.name, p->cfg.name, sizeof(m.name));
	if (type == WIRE_WELCOME || ch != WIRE_CONTROL)
		memcpy(m.session, p->link.session, LINK_ID_LEN);
	memcpy(h.vm_id, p->vm_id, LINK_ID_LEN);
	n = codec_hello_put(buf, WIRE_MAX_HELLO_PAYLOAD, &m);
	if (n > 0) {
		h.len = (uint32_t)n;
		done = greet_send(g, &h, buf, (size_t)n);
	}
	free(buf);
	return done;
}

/* All three connections are there: they leave the pair. */
static void pair_complete(struct pair *p)
{
	struct pair_link link;
	char *shape = p->peer_shape;

	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (!p->set[i] || !p->flushed[i])
			return;
	for (int i = 0; i < WIRE_CHANNELS; i++) {
		if (!greet_clean(p->set[i])) {
			log_warn("link: %s spoke on before the handshake was done", greet_peer(p->set[i]));
			p->st.failed++;
			drop_set(p);
			try_later(p, false);
			return;
		}
	}
	p->link.local.len = p->link.remote.len = sizeof(struct sockaddr_storage);
	if (getsockname(greet_fd(p->set[0]), (struct sockaddr *)&p->link.local.ss, &p->link.local.len) < 0 ||
	    getpeername(greet_fd(p->set[0]), (struct sockaddr *)&p->link.remote.ss, &p->link.remote.len) < 0) {
		attempt_failed(p, greet_peer(p->set[0]), "the peer closed the connection during the handshake", false);
		return;
	}
	log_debug("link: paired with %s (%s, generation %u)", greet_peer(p->set[0]),
		 p->link.peer.role == FT_PRIMARY ? "primary" : "secondary", p->link.peer.generation);
	for (int i = 0; i < WIRE_CHANNELS; i++) {
		struct greet *g = p->set[i];

		forget(p, g);
		p->link.s[i] = greet_take(g);
	}
	p->peer_shape = NULL;
	memset(p->flushed, 0, sizeof(p->flushed));
	p->welcomed = 0;
	p->state = PAIR_PAIRED;
	p->st.paired++;
	p->backoff = p->cfg.backoff_min;
	p->last_reason[0] = p->last_told[0] = 0;
	link = p->link;
	memcpy(link.vm_id, p->vm_id, LINK_ID_LEN);
	link.listener = p->cfg.listen;
	p->cfg.paired(p->cfg.arg, &link);
	free(shape);
}

/* Keeps what the peer said of itself; its shape is borrowed from the message. */
static int keep_hello(struct pair *p, const struct hello *m, struct err *e)
{
	free(p->peer_shape);
	p->peer_shape = malloc(m->shape_len + 1);
	if (!p->peer_shape)
		return err_set(e, -ENOMEM, "no memory for the peer's shape");
	if (m->shape_len)
		memcpy(p->peer_shape, m->shape, m->shape_len);
	p->peer_shape[m->shape_len] = 0;
	p->link.peer = *m;
	p->link.peer.shape = p->peer_shape;
	return 0;
}

/* What both sides demand of a hello before anybody else sees it. */
static int check_hello(struct pair *p, const struct wire_head *h, const struct hello *m, struct err *e)
{
	if (strcmp(m->name, p->cfg.name))
		return err_set(e, -EPERM, "the peer protects the VM \"%s\", this node \"%s\"", m->name, p->cfg.name);
	if (memcmp(h->vm_id, p->vm_id, LINK_ID_LEN))
		return err_set(e, -EPROTO, "the peer's id of the VM \"%s\" is not this node's", m->name);
	if (m->channel != h->channel)
		return err_set(e, -EPROTO, "a hello for channel %u came on channel %u", m->channel, h->channel);
	return 0;
}

static void listener_hello(struct pair *p, struct greet *g, const struct wire_head *h, const uint8_t *payload)
{
	struct hello m;
	struct err e = { 0 };
	bool first;

	if (h->type != WIRE_HELLO || in_set(p, g)) {
		pair_refuse(p, g, h->channel, "a hello was expected, once");
		return;
	}
	if (codec_hello_get(h, payload, h->len, &m, &e) || check_hello(p, h, &m, &e)) {
		pair_refuse(p, g, h->channel, e.msg);
		tell_refused(p, false, e.msg);
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
		if (p->cfg.check(p->cfg.arg, &m, &e) < 0 || keep_hello(p, &m, &e) < 0) {
			pair_refuse(p, g, h->channel, e.msg);
			tell_refused(p, false, e.msg);
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
	p->flushed[m.channel] = say_hello(p, g, WIRE_WELCOME, m.channel);
	pair_complete(p);
}

static struct greet *dial(struct pair *p, const struct link_addr *a, struct err *e)
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
	g = greet_new(p->cfg.loop, fd, true, a, clock_ns() + p->cfg.deadline, &pair_ops, p);
	if (!g)
		err_set(e, -ENOMEM, "no memory for a connection");
	else
		remember(p, g);
	return g;
}

static void connector_connected(struct greet *g)
{
	struct pair *p = greet_arg(g);

	for (int ch = 0; ch < WIRE_CHANNELS; ch++)
		if (p->set[ch] == g)
			p->flushed[ch] = say_hello(p, g, WIRE_HELLO, ch);
}

static void connector_welcome(struct pair *p, struct greet *g, const struct wire_head *h, const uint8_t *payload)
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
		codec_refuse_get(payload, h->len, sentence);
		p->st.refused++;
		attempt_failed(p, peer, sentence, true);
		tell_refused(p, true, sentence);
		return;
	}
	if (h->type != WIRE_WELCOME || h->channel != ch || !p->flushed[ch])
		err_set(&e, -EPROTO, "the peer answered with %s on channel %u", wire_type_name(h->type), h->channel);
	else if (!codec_hello_get(h, payload, h->len, &m, &e) && !check_hello(p, h, &m, &e)) {
		if (ch == WIRE_CONTROL) {
			if (!p->cfg.check(p->cfg.arg, &m, &e))
				keep_hello(p, &m, &e);
			memcpy(p->link.session, m.session, LINK_ID_LEN);
		} else if (memcmp(m.session, p->link.session, LINK_ID_LEN)) {
			err_set(&e, -EPROTO, "the peer's three connections are of different sessions");
		}
	}
	if (e.code) {
		pair_refuse(p, g, (uint8_t)ch, e.msg);
		attempt_failed(p, peer, e.msg, true);
		tell_refused(p, false, e.msg);
		return;
	}
	if (ch == WIRE_CONTROL) {
		int at = (p->next_addr + p->cfg.n_addrs - 1) % p->cfg.n_addrs;

		greet_set_deadline(g, clock_ns() + p->cfg.deadline);
		for (int i = WIRE_FRAMES; i < WIRE_CHANNELS; i++) {
			p->set[i] = dial(p, &p->cfg.addrs[at], &e);
			if (!p->set[i]) {
				attempt_failed(p, peer, e.msg, false);
				return;
			}
		}
	}
	p->welcomed |= 1u << ch;
	if (p->welcomed == (1u << WIRE_CHANNELS) - 1)
		pair_complete(p);
}

static void pair_message(struct greet *g, const struct wire_head *h, const uint8_t *payload)
{
	struct pair *p = greet_arg(g);

	if (!p->cfg.listen) {
		connector_welcome(p, g, h, payload);
	} else if (h->type == WIRE_REFUSE) {
		char sentence[WIRE_MAX_SENTENCE + 1];
		bool set = in_set(p, g);

		codec_refuse_get(payload, h->len, sentence);
		p->st.refused++;
		log_warn("link: refused by %s: %s", greet_peer(g), sentence);
		if (set)
			drop_set(p);
		else
			drop(p, g);
		tell_refused(p, true, sentence);
	} else {
		listener_hello(p, g, h, payload);
	}
}

static void pair_flushed(struct greet *g)
{
	struct pair *p = greet_arg(g);

	for (int ch = 0; ch < WIRE_CHANNELS; ch++)
		if (p->set[ch] == g)
			p->flushed[ch] = true;
	if (p->cfg.listen)
		pair_complete(p);
}

static void pair_ended(struct greet *g, const struct err *e)
{
	struct pair *p = greet_arg(g);
	char peer[ADDR_TEXT];

	if (!in_set(p, g)) {
		if (e->code) {
			p->st.failed++;
			log_stranger(p, "dropped", g, e->msg);
			if (e->code == -EPROTO || e->code == -ETIMEDOUT) {
				greet_linger(g, p->vm_id, WIRE_CONTROL, e->msg);
				return;
			}
		}
		drop(p, g);
		return;
	}
	p->st.failed++;
	memcpy(peer, greet_peer(g), sizeof(peer));
	if (p->cfg.listen) {
		log_warn("link: the handshake with %s failed: %s", peer, e->msg);
		drop_set(p);
	} else {
		attempt_failed(p, peer, e->msg, false);
	}
}

static const struct greet_ops pair_ops = {
	.connected = connector_connected,
	.message = pair_message,
	.flushed = pair_flushed,
	.ended = pair_ended,
};

/* The next attempt to connect, to the next of the peer's addresses. */
static void pair_try(struct pair *p)
{
	const struct link_addr *a = &p->cfg.addrs[p->next_addr];
	struct err e = { 0 };
	char text[ADDR_TEXT];

	p->next_addr = (p->next_addr + 1) % p->cfg.n_addrs;
	p->st.attempts++;
	p->state = PAIR_SET;
	p->set[WIRE_CONTROL] = dial(p, a, &e);
	if (!p->set[WIRE_CONTROL])
		attempt_failed(p, addr_text(a, text), e.msg, false);
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
				log_warn("link: cannot accept a connection, trying again in a second: %s", strerror(errno));
				loop_fd_mod(p->cfg.loop, w, 0);
				loop_timer_set(p->cfg.loop, &p->timer, clock_ns() + NS_PER_S);
			}
			return;
		}
		p->st.accepted++;
		stream_tcp_tune(fd, p->cfg.tcp_timeout);
		g = greet_new(p->cfg.loop, fd, false, &a, clock_ns() + p->cfg.deadline, &pair_ops, p);
		if (g)
			remember(p, g);
	}
}

static void pair_timer(struct loop_timer *t)
{
	struct pair *p = t->arg;

	if (p->cfg.listen)
		loop_fd_mod(p->cfg.loop, &p->accept_watch, EPOLLIN);
	else if (p->state == PAIR_IDLE)
		pair_try(p);
}

static int pair_listen(struct pair *p, struct err *e)
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
	if (bind(fd, (const struct sockaddr *)&a->ss, a->len) < 0 || listen(fd, 2 * PAIR_MAX_HALF_OPEN) < 0)
		return err_set(e, -errno, "cannot listen at %s: %s", text, strerror(errno));
	rc = loop_fd_add(p->cfg.loop, &p->accept_watch, EPOLLIN);
	return rc < 0 ? err_set(e, rc, "cannot watch %s: %s", text, strerror(-rc)) : 0;
}

struct pair *pair_new(const struct pair_cfg *cfg, struct err *e)
{
	struct pair *p;

	if (!wire_name_ok(cfg->name)) {
		err_set(e, -EINVAL, "\"%.63s\" cannot be a VM's name: 1 to %d letters, digits, '.', '_' or '-'", cfg->name,
			WIRE_MAX_NAME);
		return NULL;
	}
	if (cfg->shape_len > WIRE_MAX_SHAPE || cfg->n_addrs < 1) {
		err_set(e, -EINVAL, "the machine's description has %zu bytes, at most %d can be compared", cfg->shape_len,
			WIRE_MAX_SHAPE);
		return NULL;
	}
	p = calloc(1, sizeof(*p));
	if (!p || !(p->shape = malloc(cfg->shape_len + 1))) {
		free(p);
		err_set(e, -ENOMEM, "no memory for the link");
		return NULL;
	}
	p->cfg = *cfg;
	if (cfg->shape_len)
		memcpy(p->shape, cfg->shape, cfg->shape_len);
	p->cfg.deadline = cfg->deadline ? cfg->deadline : PAIR_DEADLINE;
	p->cfg.backoff_min = cfg->backoff_min ? cfg->backoff_min : PAIR_BACKOFF_MIN;
	p->cfg.backoff_max = cfg->backoff_max ? cfg->backoff_max : PAIR_BACKOFF_MAX;
	p->cfg.tcp_timeout = cfg->tcp_timeout ? cfg->tcp_timeout : PAIR_TCP_TIMEOUT;
	p->backoff = p->cfg.backoff_min;
	p->accept_watch.fd = -1;
	p->timer = (struct loop_timer){ .fn = pair_timer, .arg = p };
	wire_vm_id(p->vm_id, cfg->name);
	if (!cfg->listen)
		loop_timer_set(cfg->loop, &p->timer, clock_ns());
	else if (pair_listen(p, e) < 0) {
		pair_free(p);
		return NULL;
	}
	return p;
}

void pair_free(struct pair *p)
{
	if (!p)
		return;
	for (int i = 0; i < PAIR_MAX_HALF_OPEN; i++)
		greet_free(p->half[i]);
	loop_timer_del(p->cfg.loop, &p->timer);
	if (p->accept_watch.fd >= 0) {
		loop_fd_del(p->cfg.loop, &p->accept_watch);
		close(p->accept_watch.fd);
	}
	free(p->peer_shape);
	free(p->shape);
	free(p);
}

void pair_set(struct pair *p, enum ft_role role, uint32_t generation)
{
	p->cfg.role = role;
	p->cfg.generation = generation;
}

void pair_again(struct pair *p)
{
	if (p->state != PAIR_PAIRED)
		return;
	p->state = PAIR_IDLE;
	if (!p->cfg.listen)
		try_later(p, false);
}

unsigned int pair_port(const struct pair *p)
{
	struct link_addr a = { .len = sizeof(a.ss) };

	if (p->accept_watch.fd < 0 || getsockname(p->accept_watch.fd, (struct sockaddr *)&a.ss, &a.len) < 0)
		return 0;
	if (a.ss.ss_family == AF_INET6)
		return ntohs(((struct sockaddr_in6 *)&a.ss)->sin6_port);
	return ntohs(((struct sockaddr_in *)&a.ss)->sin_port);
}

void pair_stats_get(const struct pair *p, struct pair_stats *out)
{
	*out = p->st;
	out->half_open = 0;
	for (int i = 0; i < PAIR_MAX_HALF_OPEN; i++)
		out->half_open += !!p->half[i];
}
