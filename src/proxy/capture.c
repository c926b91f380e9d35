/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The packet tap: theory of operation
 *
 * A capture is a socket that somebody has handed over, a buffer, and the set of points that he wants to see. The
 * frames loop owns it: capture_put() encodes each frame as a pcapng block behind what is in the buffer already, and a
 * timer writes the buffer into the socket, FLUSH_NS after the first block, so that a busy loop makes one system call
 * for many frames. Nothing here waits: what the socket does not take stays, and when the buffer is full a frame is
 * dropped whole and counted. With no capture the cost is the one branch of capture_frame().
 *
 * A slot goes FREE -> NEW in the control loop, which also allocates and writes the head of the file, NEW -> LIVE in
 * the frames loop by message, and back to FREE there. So a slot is always written by the loop that its state belongs
 * to, and the control loop knows without asking whether there is room. A slot keeps its buffer for the next capture:
 * giving back megabytes is nothing to be done in the frames loop.
 *
 * The end comes when the reader has gone (nothing is said any more), or has closed its sending side, or the wanted
 * number of frames is reached, or the node ends: then no frame is taken any more, the buffer is written, behind it
 * the statistics of each interface, and the socket is closed.
 */
#include "proxy/capture.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/pcapng.h"
#include "core/net.h"

#define NAME		64
#define FLUSH_NS	(2 * NS_PER_MS)
#define WRITE_MAX	(256u << 10)		/* bytes written in one turn of the loop */
#define GOODBYE_NS	(200 * NS_PER_MS)	/* of all captures together, when the node ends */

enum state { FREE, NEW, LIVE };

/* Blocks in a ring; each lies in one piece. Empty when @rd == @wr. */
struct blocks {
	uint8_t *buf;
	size_t rd, wr;
	size_t end;			/* when wr < rd: where the data at the end of the ring ends */
};

struct capture_tap {
	struct capture *owner;
	struct loop_fd w;
	struct loop_timer flush;
	struct capture_cfg cfg;
	unsigned int n_points;
	struct blocks out;
	bool ending, stats_put, asked, blocked, timed;
	uint64_t frames;		/* put into the buffer */
	uint64_t seen[NET_MAX_NICS][CAPTURE_POINTS], dropped[NET_MAX_NICS][CAPTURE_POINTS];
};

struct capture_private {
	struct loop *loop;
	unsigned int n_nics;
	char ids[NET_MAX_NICS][NAME];
	_Atomic int state[CAPTURE_MAX];	/* of each tap: whose it is */
	struct capture_tap taps[CAPTURE_MAX];
};

const char *capture_point_name(unsigned int point)
{
	static const char *const names[] = {
		[CAPTURE_CLIENT] = "client", [CAPTURE_PVM] = "pvm", [CAPTURE_SVM] = "svm",
		[CAPTURE_RELEASED] = "released",
	};

	return point < CAPTURE_POINTS ? names[point] : NULL;
}

/* Room for @n bytes in one piece, NULL when there is none. */
static uint8_t *blocks_room(struct blocks *b, size_t n)
{
	if (b->wr >= b->rd) {
		if (CAPTURE_BUFFER - b->wr >= n)
			return b->buf + b->wr;
		/* One byte stays free: else full would look like empty. */
		if (b->rd <= n)
			return NULL;
		b->end = b->wr;
		b->wr = 0;
		return b->buf;
	}
	return b->rd - b->wr > n ? b->buf + b->wr : NULL;
}

static size_t blocks_peek(const struct blocks *b, const uint8_t **p)
{
	*p = b->buf + b->rd;
	return (b->wr >= b->rd ? b->wr : b->end) - b->rd;
}

static void blocks_took(struct blocks *b, size_t n)
{
	b->rd += n;
	if (b->wr < b->rd && b->rd == b->end)
		b->rd = 0;
	if (b->rd == b->wr)
		b->rd = b->wr = 0;
}

static uint64_t real_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* The interfaces of a file: for each NIC the chosen points, in the order of the enum. */
static uint32_t iface_of(const struct capture_tap *t, unsigned int nic, unsigned int point)
{
	return nic * t->n_points + (uint32_t)__builtin_popcount(t->cfg.points & ((1u << point) - 1));
}

static _Atomic int *state_of(struct capture_tap *t)
{
	return &t->owner->p->state[t - t->owner->p->taps];
}

static void add_points(struct capture *c)
{
	c->points = 0;
	for (int i = 0; i < CAPTURE_MAX; i++)
		if (c->p->state[i] == LIVE && !c->p->taps[i].ending)
			c->points |= c->p->taps[i].cfg.points;
}

static uint64_t sum(const uint64_t n[NET_MAX_NICS][CAPTURE_POINTS])
{
	uint64_t s = 0;

	for (unsigned int i = 0; i < NET_MAX_NICS; i++)
		for (unsigned int k = 0; k < CAPTURE_POINTS; k++)
			s += n[i][k];
	return s;
}

static void tap_close(struct capture_tap *t, const char *why)
{
	struct capture *c = t->owner;

	log_note("capture ended: %s frames=%llu dropped=%llu", why, (unsigned long long)t->frames,
		 (unsigned long long)sum(t->dropped));
	loop_fd_del(c->p->loop, &t->w);
	loop_timer_del(c->p->loop, &t->flush);
	close(t->w.fd);
	t->w.fd = -1;
	*state_of(t) = FREE;
	add_points(c);
}

static void tap_watch(struct capture_tap *t)
{
	loop_fd_mod(t->owner->p->loop, &t->w, (t->asked ? 0 : EPOLLIN) | (t->blocked ? EPOLLOUT : 0));
}

/* The buffer is empty: 32 blocks of statistics have room. */
static void put_stats(struct capture_tap *t)
{
	uint64_t at = real_ns();

	t->stats_put = true;
	for (unsigned int nic = 0; nic < t->owner->p->n_nics; nic++)
		for (unsigned int k = 0; k < CAPTURE_POINTS; k++)
			if (t->cfg.points & 1u << k)
				t->out.wr += pcapng_put_stats(t->out.buf + t->out.wr, CAPTURE_BUFFER - t->out.wr,
							      iface_of(t, nic, k), at, t->seen[nic][k],
							      t->dropped[nic][k]);
}

/* Write what waits, as much as one turn may take. May close. */
static void tap_write(struct capture_tap *t)
{
	size_t budget = WRITE_MAX;
	bool blocked = false;

	loop_timer_del(t->owner->p->loop, &t->flush);
	t->timed = false;
	while (!blocked) {
		const uint8_t *p;
		size_t n = blocks_peek(&t->out, &p);
		ssize_t k;

		if (!n && !t->ending)
			break;
		if (!n && t->stats_put) {
			tap_close(t, t->asked ? "the reader asked for it" : t->cfg.count && t->frames == t->cfg.count ?
				  "all frames that were wanted" : "the node ends");
			return;
		}
		if (!n) {
			put_stats(t);
			continue;
		}
		k = send(t->w.fd, p, n < budget ? n : budget, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0 && errno != EAGAIN) {
			tap_close(t, "the reader has gone");
			return;
		}
		if (k > 0) {
			blocks_took(&t->out, (size_t)k);
			budget -= (size_t)k;
		}
		/* What is more than a turn's work goes on with the next one: writable it is. */
		blocked = k < 0 || !budget;
	}
	if (blocked != t->blocked) {
		t->blocked = blocked;
		tap_watch(t);
	}
}

static void tap_end(struct capture_tap *t)
{
	t->ending = true;
	add_points(t->owner);
	if (!t->blocked)
		loop_timer_set(t->owner->p->loop, &t->flush, loop_now(t->owner->p->loop));
}

static void on_flush(struct loop_timer *timer)
{
	tap_write(timer->arg);
}

static void on_fd(struct loop_fd *w, uint32_t events)
{
	struct capture_tap *t = w->arg;
	uint8_t waste[16];
	ssize_t n;

	if (events & (EPOLLHUP | EPOLLERR)) {
		tap_close(t, "the reader has gone");
		return;
	}
	if (events & EPOLLIN) {
		n = recv(w->fd, waste, sizeof(waste), MSG_DONTWAIT);
		if (n > 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
			tap_close(t, n > 0 ? "the reader has written into the socket" : "the reader has gone");
			return;
		}
		if (!n) {
			t->asked = true;
			tap_watch(t);
			tap_end(t);
		}
	}
	if (events & EPOLLOUT)
		tap_write(t);
}

void capture_put(struct capture *c, enum capture_point point, unsigned int nic, const uint8_t *data, uint32_t len)
{
	struct pcapng_packet p = { .at = real_ns(), .data = data, .len = len,
				   .dir = point == CAPTURE_CLIENT ? PCAPNG_INBOUND : PCAPNG_OUTBOUND };

	/* The number comes from the peer in one case. */
	if (nic >= c->p->n_nics)
		return;
	for (int i = 0; i < CAPTURE_MAX; i++) {
		struct capture_tap *t = &c->p->taps[i];
		uint8_t *room;
		size_t size;

		if (c->p->state[i] != LIVE || t->ending || !(t->cfg.points & 1u << point))
			continue;
		p.iface = iface_of(t, nic, point);
		p.caplen = t->cfg.snaplen && t->cfg.snaplen < len ? t->cfg.snaplen : len;
		size = pcapng_packet_size(p.caplen);
		room = blocks_room(&t->out, size);
		t->seen[nic][point]++;
		if (!room) {
			t->dropped[nic][point]++;
			continue;
		}
		t->out.wr += pcapng_put_packet(room, size, &p);
		t->frames++;
		if (t->frames == t->cfg.count)
			tap_end(t);
		else if (!t->blocked && !t->timed)
			t->timed = !loop_timer_set(c->p->loop, &t->flush, clock_ns() + FLUSH_NS);
	}
}

static void on_start(void *arg, const void *data, size_t len)
{
	struct capture_tap *t = arg;

	(void)data;
	(void)len;
	*state_of(t) = LIVE;
	if (loop_fd_add(t->owner->p->loop, &t->w, EPOLLIN) < 0) {
		tap_close(t, "its socket cannot be watched");
		return;
	}
	add_points(t->owner);
	/* The head, so that a reader knows at once that this is a capture. */
	tap_write(t);
}

static void put_head(struct capture_tap *t)
{
	const struct capture_private *p = t->owner->p;
	char name[NAME + 16];

	t->out.wr = pcapng_put_section(t->out.buf, CAPTURE_BUFFER, "lockstep");
	for (unsigned int nic = 0; nic < p->n_nics; nic++) {
		for (unsigned int k = 0; k < CAPTURE_POINTS; k++) {
			if (!(t->cfg.points & 1u << k))
				continue;
			snprintf(name, sizeof(name), "%s %s", p->ids[nic], capture_point_name(k));
			t->out.wr += pcapng_put_interface(t->out.buf + t->out.wr, CAPTURE_BUFFER - t->out.wr, name,
							  t->cfg.snaplen);
		}
	}
}

int capture_start(struct capture *c, const struct capture_cfg *cfg, int fd, struct err *e)
{
	struct capture_tap *t;
	socklen_t len = sizeof(int);
	int type = 0, domain = 0, i = 0;
	uint8_t *buf;

	/* Of a TCP socket even the close may wait for its other end. */
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_STREAM ||
	    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0 || domain != AF_UNIX) {
		close(fd);
		return err_set(e, -EINVAL, "the descriptor for a capture must be a unix stream socket");
	}
	while (i < CAPTURE_MAX && c->p->state[i] != FREE)
		i++;
	if (i == CAPTURE_MAX) {
		close(fd);
		return err_set(e, -EBUSY, "%d captures run already, that is the most there can be", CAPTURE_MAX);
	}
	t = &c->p->taps[i];
	buf = t->out.buf ? t->out.buf : malloc(CAPTURE_BUFFER);
	if (!buf) {
		close(fd);
		return err_set(e, -ENOMEM, "no memory for a capture");
	}
	*t = (struct capture_tap){
		.owner = c, .w = { .fd = fd, .fn = on_fd, .arg = t }, .flush = { .fn = on_flush, .arg = t },
		.cfg = *cfg, .n_points = (unsigned int)__builtin_popcount(cfg->points), .out = { .buf = buf },
	};
	put_head(t);
	c->p->state[i] = NEW;
	log_note("capture started points=0x%x snaplen=%u count=%llu", cfg->points, cfg->snaplen,
		 (unsigned long long)cfg->count);
	loop_post(c->p->loop, on_start, t, NULL, 0);
	return 0;
}

struct capture *capture_new(struct loop *loop, unsigned int n_nics, const char *const *ids)
{
	struct capture *c = calloc(1, sizeof(*c));

	if (c)
		c->p = calloc(1, sizeof(*c->p));
	if (!c || !c->p) {
		free(c);
		return NULL;
	}
	c->p->loop = loop;
	c->p->n_nics = n_nics < NET_MAX_NICS ? n_nics : NET_MAX_NICS;
	for (unsigned int i = 0; i < c->p->n_nics; i++)
		snprintf(c->p->ids[i], NAME, "%s", ids[i]);
	return c;
}

/* All of it leaves, or the deadline comes, or the reader goes. */
static void tap_goodbye(struct capture_tap *t, nstime deadline)
{
	t->ending = true;
	for (;;) {
		struct pollfd p = { .fd = t->w.fd, .events = POLLOUT };
		nstime now;

		tap_write(t);
		if (*state_of(t) == FREE)
			return;
		now = clock_ns();
		if (now >= deadline || poll(&p, 1, (int)((deadline - now) / NS_PER_MS) + 1) < 0)
			break;
	}
	tap_close(t, "the node ends, and the reader was slow");
}

void capture_free(struct capture *c)
{
	nstime deadline = clock_ns() + GOODBYE_NS;

	if (!c)
		return;
	for (int i = 0; i < CAPTURE_MAX; i++) {
		if (c->p->state[i] != FREE)
			tap_goodbye(&c->p->taps[i], deadline);
		free(c->p->taps[i].out.buf);
	}
	free(c->p);
	free(c);
}
