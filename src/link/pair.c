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
 * With TLS (pair_cfg.tls) each of the connections is encrypted from its first byte, and both ends have proven who they
 * are before a HELLO is sent or read. Two nodes of which only one has TLS tell each other so: who listens knows the other
 * one by its first bytes; who connects with TLS is answered in the clear.
 *
 * Not done: more than one path (later: more --peer).
 */
#include "link/pair_internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"

#define BEAT_LABEL	"EXPORTER-lockstep-heartbeat"

struct greet *pair_greet(struct pair *p, int fd, bool connecting, const struct link_addr *a)
{
	struct stream *s = p->cfg.tls ? stream_tls(fd, p->cfg.tls, !connecting, *p->cfg.tls_peer ? p->cfg.tls_peer : NULL) :
					stream_tcp(fd);

	return s ? greet_new(p->cfg.loop, s, connecting, a, clock_ns() + p->cfg.deadline, &pair_ops, p) : NULL;
}

bool pair_in_set(const struct pair *p, const struct greet *g)
{
	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (p->set[i] == g)
			return true;
	return false;
}

static void pair_forget(struct pair *p, struct greet *g)
{
	for (int i = 0; i < PAIR_MAX_HALF_OPEN; i++)
		if (p->half[i] == g)
			p->half[i] = NULL;
	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (p->set[i] == g)
			p->set[i] = NULL;
}

void pair_drop(struct pair *p, struct greet *g)
{
	pair_forget(p, g);
	greet_free(g);
}

void pair_remember(struct pair *p, struct greet *g)
{
	struct greet **slot = NULL;
	struct greet *oldest = NULL;

	for (int i = 0; i < PAIR_MAX_HALF_OPEN; i++) {
		struct greet *o = p->half[i];

		if (!o)
			slot = &p->half[i];
		else if (!pair_in_set(p, o) && (!oldest || greet_born(o) < greet_born(oldest)))
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
void pair_drop_set(struct pair *p)
{
	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (p->set[i])
			pair_drop(p, p->set[i]);
	memset(p->flushed, 0, sizeof(p->flushed));
	p->welcomed = 0;
	free(p->peer_shape);
	p->peer_shape = NULL;
	if (p->state == PAIR_SET)
		p->state = PAIR_IDLE;
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

/* Who asks must know that the VM runs: here, or on the node that this one stands by for. */
static uint32_t serves(const struct pair *p)
{
	return p->cfg.role == FT_PRIMARY || p->state == PAIR_PAIRED ? p->cfg.generation : 0;
}

void pair_refuse(struct pair *p, struct greet *g, uint8_t channel, const char *sentence)
{
	bool member = pair_in_set(p, g);

	p->st.refused++;
	log_stranger(p, "refused", g, sentence);
	for (int i = 0; i < WIRE_CHANNELS; i++)
		if (p->set[i] == g)
			p->set[i] = NULL;	/* lingers among the half-open */
	greet_linger(g, p->vm_id, channel, serves(p), sentence);
	/* A set without one of its connections is none; who connects ends its attempt itself. */
	if (member && p->cfg.listen)
		pair_drop_set(p);
}

void pair_tell(struct pair *p, bool by_peer, uint32_t generation, const char *sentence)
{
	bool news = strcmp(p->last_told, sentence);

	snprintf(p->last_told, sizeof(p->last_told), "%s", sentence);
	if (news && p->cfg.refused)
		p->cfg.refused(p->cfg.arg, by_peer, generation, sentence);
}

/* HELLO or WELCOME of a channel. Return: whether it is with the kernel */
bool pair_say_hello(struct pair *p, struct greet *g, uint8_t type, enum wire_channel ch)
{
	struct hello m = {
		.version = WIRE_VERSION,
		.role = p->cfg.role, .mode = p->cfg.mode, .begun = p->cfg.begun,
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

/* All four connections are there: they leave the pair. */
void pair_complete(struct pair *p)
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
			pair_drop_set(p);
			pair_try_later(p, false);
			return;
		}
	}
	p->link.local.len = p->link.remote.len = sizeof(struct sockaddr_storage);
	if (getsockname(greet_fd(p->set[0]), (struct sockaddr *)&p->link.local.ss, &p->link.local.len) < 0 ||
	    getpeername(greet_fd(p->set[0]), (struct sockaddr *)&p->link.remote.ss, &p->link.remote.len) < 0) {
		pair_attempt_failed(p, greet_peer(p->set[0]), "the peer closed the connection during the handshake",
				    false);
		return;
	}
	p->link.keyed = greet_key(p->set[WIRE_CONTROL], BEAT_LABEL, p->link.beat_key);
	if (p->cfg.tls && !p->link.keyed) {
		pair_attempt_failed(p, greet_peer(p->set[0]), "no key for the heartbeats could be made", false);
		return;
	}
	log_debug("link: paired with %s (%s, generation %u)", greet_peer(p->set[0]),
		 p->link.peer.role == FT_PRIMARY ? "primary" : "secondary", p->link.peer.generation);
	for (int i = 0; i < WIRE_CHANNELS; i++) {
		struct greet *g = p->set[i];

		pair_forget(p, g);
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
	explicit_bzero(link.beat_key, sizeof(link.beat_key));
	explicit_bzero(p->link.beat_key, sizeof(p->link.beat_key));
	free(shape);
}

/* Keeps what the peer said of itself; its shape is borrowed from the message. */
int pair_keep_hello(struct pair *p, const struct hello *m, struct err *e)
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
int pair_check_hello(struct pair *p, const struct wire_head *h, const struct hello *m, struct err *e)
{
	if (strcmp(m->name, p->cfg.name))
		return err_set(e, -EPERM, "the peer protects the VM \"%s\", this node \"%s\"", m->name, p->cfg.name);
	if (memcmp(h->vm_id, p->vm_id, LINK_ID_LEN))
		return err_set(e, -EPROTO, "the peer's id of the VM \"%s\" is not this node's", m->name);
	if (m->channel != h->channel)
		return err_set(e, -EPROTO, "a hello for channel %u came on channel %u", m->channel, h->channel);
	return 0;
}

static void pair_message(struct greet *g, const struct wire_head *h, const uint8_t *payload)
{
	struct pair *p = greet_arg(g);

	if (!p->cfg.listen) {
		pair_welcome(p, g, h, payload);
	} else if (h->type == WIRE_REFUSE) {
		char sentence[WIRE_MAX_SENTENCE + 1];
		uint32_t generation = h->generation;	/* @h goes with @g */
		bool set = pair_in_set(p, g);

		codec_refuse_get(payload, h->len, sentence);
		p->st.refused++;
		log_warn("link: refused by %s: %s", greet_peer(g), sentence);
		if (set)
			pair_drop_set(p);
		else
			pair_drop(p, g);
		pair_tell(p, true, generation, sentence);
	} else {
		pair_hello(p, g, h, payload);
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
	/* It heard no, or said no, for a reason that will not go away by itself. */
	bool unknown = p->cfg.tls && (e->code == -EBADMSG || (e->code == -EPROTO && greet_stranger(g)));
	char peer[ADDR_TEXT];

	p->st.strangers += greet_stranger(g) && e->code;
	if (!pair_in_set(p, g)) {
		if (e->code) {
			p->st.failed++;
			log_stranger(p, "dropped", g, e->msg);
			if (e->code == -EPROTO || e->code == -ETIMEDOUT) {
				greet_linger(g, p->vm_id, WIRE_CONTROL, serves(p), e->msg);
				return;
			}
		}
		pair_drop(p, g);
		return;
	}
	p->st.failed++;
	memcpy(peer, greet_peer(g), sizeof(peer));
	if (p->cfg.listen) {
		log_warn("link: the handshake with %s failed: %s", peer, e->msg);
		pair_drop_set(p);
	} else {
		pair_attempt_failed(p, peer, e->msg, unknown);
		if (unknown)
			pair_tell(p, false, PAIR_UNKNOWN, e->msg);
	}
}

const struct greet_ops pair_ops = {
	.connected = pair_connected,
	.message = pair_message,
	.flushed = pair_flushed,
	.ended = pair_ended,
};

static void pair_timer(struct loop_timer *t)
{
	struct pair *p = t->arg;

	if (p->cfg.listen)
		loop_fd_mod(p->cfg.loop, &p->accept_watch, EPOLLIN);
	else if (p->state == PAIR_IDLE)
		pair_try(p);
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

void pair_set_state(struct pair *p, uint8_t mode, bool begun)
{
	p->cfg.mode = mode;
	p->cfg.begun = begun;
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
		pair_try_later(p, false);
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
