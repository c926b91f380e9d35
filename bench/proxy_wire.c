/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Through sockets: theory of operation
 *
 * Everything that a frame meets in `lockstep run` but QEMU and the kernel's network: two proxies (src/proxy) with their
 * event loop, the frame connection (src/link: codec, credits) over TCP on the loopback, the stream sockets of QEMU's
 * netdev, and datagrams in place of the TAP (one read() or write() a frame as well). Client and guests sit at the far
 * ends. One loop serves all of it in one thread, so the figure is for both nodes and the script on one core; each far
 * end reads until nothing is left, as the real ones would on cores of their own.
 */
#include "proxy_bench.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "link/conn.h"
#include "proxy/netsock.h"
#include "proxy/proxy.h"

#define SETUP_S		20		/* for the handshakes, and for what is under way at the end */
#define SOCK_BYTES	(4 << 20)

struct wire;

struct node {
	struct wire *w;
	int id;
	struct proxy *px;
	struct conn *conn;
	struct loop_fd guest;		/* the far end of QEMU's socket */
	struct netsock sock;
	bool out_armed;
	uint8_t frame[PB_MAX_FRAME];
};

struct wire {
	struct pb_script s;
	struct loop *loop;
	struct node node[2];
	struct loop_fd client;		/* the far end of the primary's TAP */
	struct loop_timer tick;
	struct pb_meter meter;
	const struct pb_opts *o;
	struct pb_result *r;
	nstime began, deadline, warm_until;
	uint64_t frames0, handled0, frames1, handled1;
	bool measuring, measured, nudged;
};

static void end(struct wire *w)
{
	loop_stop(w->loop);
}

static void failed(struct wire *w, const char *what)
{
	pb_fail(w->r, "%s", what);
	end(w);
}

static void send_msg(void *arg, const struct net_msg *m, const uint8_t *frame, uint32_t len)
{
	struct node *nd = arg;
	uint8_t head[WIRE_NET_LEN + WIRE_FLOW_LEN];
	struct iovec iov[2] = { { head, 0 }, { (void *)frame, len } };
	struct wire_head h = { 0 };
	int n = codec_net_put(head, sizeof(head), &h, m), rc;

	iov[0].iov_len = n < 0 ? 0 : (size_t)n;
	rc = n < 0 ? n : conn_send(nd->conn, &h, iov, frame ? 2 : 1, m->type != NM_INPUT);
	if (rc == -EAGAIN)
		failed(nd->w, "the frame connection takes no more");
	else if (rc)
		failed(nd->w, "the frame connection is broken");
}

static int on_message(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e)
{
	struct node *nd = arg;
	const uint8_t *frame;
	struct net_msg m;
	size_t len;
	int rc = codec_net_get(h, payload, h->len, &m, &frame, &len, e);

	if (!rc)
		proxy_peer(nd->px, &m, frame, (uint32_t)len);
	return rc;
}

static void on_closed(void *arg, enum conn_why why, const char *sentence)
{
	struct node *nd = arg;

	(void)why;
	failed(nd->w, sentence);
}

static void on_flush(void *arg)
{
	struct node *nd = arg;

	conn_flush(nd->conn);
}

static void on_gone(void *arg)
{
	struct node *nd = arg;

	failed(nd->w, "a socket of a guest was closed");
}

static void on_settle(void *arg)
{
	struct node *nd = arg;

	proxy_settled(nd->px);
}

static void client_speaks(struct wire *w)
{
	uint8_t f[PB_MAX_FRAME];
	uint32_t len;

	w->s.ms = 1000 + (uint32_t)((clock_ns() - w->began) / NS_PER_MS);
	while ((len = pb_client(&w->s, f)))
		if (write(w->client.fd, f, len) != (ssize_t)len) {
			failed(w, "the client cannot write");
			return;
		}
}

/* The formal first checkpoint: nothing is open, so it is nothing but the words. */
static void on_answer(void *arg, enum net_act_type type, uint64_t n, uint32_t cause)
{
	struct node *nd = arg;
	struct wire *w = nd->w;
	struct proxy *p = w->node[0].px, *s = w->node[1].px;

	(void)cause;
	switch (type) {
	case NA_CUT:
		proxy_event(p, NEV_STOPPED, n, 0);
		break;
	case NA_DRAINED:
		proxy_event(p, NEV_OPEN, n, 0);
		break;
	case NA_BARRIER:
		proxy_event(p, NEV_STAGED, n, 0);
		proxy_event(s, NEV_LOADED, n, 0);
		proxy_event(s, NEV_OPEN, n, 0);
		proxy_event(p, NEV_LOADED, n, 0);
		client_speaks(w);
		break;
	case NA_WANT:
		w->r->wants++;
		break;
	default:
		break;
	}
}

static uint64_t handled(struct wire *w)
{
	struct net_stats p, s;

	proxy_stats(w->node[0].px, &p);
	proxy_stats(w->node[1].px, &s);
	/* Frames of the client, of both guests, and of the peer: its messages less those without a frame. */
	return p.tap_in + p.guest_out + s.guest_out + s.guest_in + s.peer_out;
}

static void look(struct wire *w)
{
	if (w->measured) {
		/* What was under way has an answer. */
		if (w->s.under_way || w->s.todo_n || clock_ns() < w->deadline - SETUP_S * NS_PER_S + 100 * NS_PER_MS)
			return;
		if (w->nudged) {
			end(w);
			return;
		}
		/* The counters are published with a step, and not with each: one more, and the next tick is the last. */
		w->nudged = true;
		proxy_event(w->node[0].px, NEV_QUIET, 0, 0);
		proxy_event(w->node[1].px, NEV_QUIET, 0, 0);
		return;
	}
	if (!pb_ready(&w->s))
		return;
	if (!w->measuring) {
		if (!w->warm_until)
			w->warm_until = clock_ns() + (w->o->quick ? 50 : 300) * NS_PER_MS;
		if (clock_ns() < w->warm_until)
			return;
		w->measuring = true;
		w->s.check_sums = w->o->quick;
		w->frames0 = w->s.in + w->s.out;
		w->handled0 = handled(w);
		w->r->rss_before = pb_rss();
		pb_meter_begin(&w->meter, &w->s, w->o->window_s);
		w->deadline = NS_NEVER;
		return;
	}
	if (!pb_meter_look(&w->meter, &w->s))
		return;
	w->r->rss_after = pb_rss();
	w->r->frames = w->s.in + w->s.out - w->frames0;
	w->r->handled = handled(w) - w->handled0;
	pb_meter_result(&w->meter, w->r);
	w->measured = true;
	w->s.stop = true;
	w->deadline = clock_ns() + SETUP_S * NS_PER_S;
}

static void on_client(struct loop_fd *f, uint32_t events)
{
	struct wire *w = f->arg;
	uint8_t buf[PB_MAX_FRAME + 1];
	ssize_t n;

	(void)events;
	while ((n = read(f->fd, buf, sizeof(buf))) > 0)
		pb_client_gets(&w->s, buf, (uint32_t)n);
	client_speaks(w);
	look(w);
}

static void on_tick(struct loop_timer *t)
{
	struct wire *w = t->arg;

	look(w);
	if (clock_ns() > w->deadline) {
		pb_fail(w->r, "not at the end after %d s: %u of %u connections open, %u requests under way%s%s", SETUP_S,
			w->s.established, w->s.shape.flows, w->s.under_way, w->s.wrong ? "; " : "", w->s.what);
		end(w);
		return;
	}
	loop_timer_set(w->loop, t, clock_ns() + 10 * NS_PER_MS);
}

static uint8_t *guest_room(void *arg, int copy)
{
	struct wire *w = arg;

	return w->node[copy].frame;
}

static void guest_sent(void *arg, int copy, uint32_t len)
{
	struct wire *w = arg;
	struct node *nd = &w->node[copy];

	if (netsock_put(&nd->sock, nd->frame, len) < 0)
		failed(w, "a guest cannot write");
}

static void arm(struct node *nd)
{
	bool want = nd->sock.out_len > 0;

	if (want == nd->out_armed)
		return;
	nd->out_armed = want;
	loop_fd_mod(nd->w->loop, &nd->guest, want ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void on_guest(struct loop_fd *f, uint32_t events)
{
	struct node *nd = f->arg;
	const uint8_t *frame;
	uint32_t len;

	if (events & EPOLLOUT)
		netsock_flush(&nd->sock);
	if (netsock_fill(&nd->sock) > 0)
		while (netsock_next(&nd->sock, PB_MAX_FRAME, &frame, &len))
			pb_guest_gets(&nd->w->s, nd->id, frame, len);
	arm(nd);
}

static int set_up_pair(int type, int fd[2])
{
	int bytes = SOCK_BYTES;

	if (socketpair(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) < 0)
		return -1;
	for (int i = 0; i < 2; i++)
		if (setsockopt(fd[i], SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) < 0)
			setsockopt(fd[i], SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	return 0;
}

/* Two ends of a TCP connection with ourselves. */
static int tcp_pair(int fd[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fd[1] = -1;
	if (l >= 0 && fd[0] >= 0 && bind(l, (struct sockaddr *)&a, len) == 0 && listen(l, 1) == 0 &&
	    getsockname(l, (struct sockaddr *)&a, &len) == 0 && connect(fd[0], (struct sockaddr *)&a, len) == 0)
		fd[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	if (l >= 0)
		close(l);
	for (int i = 0; i < 2 && fd[1] >= 0; i++)
		stream_tcp_tune(fd[i], 10 * NS_PER_S);
	return fd[1] < 0 ? -1 : 0;
}

static int set_up(struct wire *w, struct err *e)
{
	int tap[2][2], qemu[2][2], tcp[2];
	struct net_cfg cfg;

	w->loop = loop_new("bench", e);
	if (!w->loop)
		return -1;
	net_cfg_default(&cfg, 1, 1500);
	if (tcp_pair(tcp) < 0)
		return err_set(e, -errno, "no TCP connection on the loopback: %s", strerror(errno));
	for (int i = 0; i < 2; i++) {
		struct node *nd = &w->node[i];
		struct proxy_ops ops = { .send = send_msg, .flush = on_flush, .answer = on_answer, .settle = on_settle,
					 .qemu_gone = on_gone, .arg = nd };
		struct conn_cfg cc = { .channel = WIRE_FRAMES, .message = on_message, .closed = on_closed, .arg = nd };
		struct proxy_nic nic;
		struct stream *st;

		nd->w = w;
		nd->id = i;
		if (set_up_pair(SOCK_DGRAM, tap[i]) < 0 || set_up_pair(SOCK_STREAM, qemu[i]) < 0)
			return err_set(e, -errno, "no socket pair: %s", strerror(errno));
		nic = (struct proxy_nic){ .tap_fd = tap[i][0], .qemu_fd = qemu[i][0] };
		nd->px = proxy_new(w->loop, &cfg, &nic, &ops, e);
		if (!nd->px)
			return -1;
		st = stream_tcp(tcp[i]);
		nd->conn = st ? conn_new(w->loop, st, &cc, e) : NULL;
		if (!nd->conn || netsock_init(&nd->sock, qemu[i][1]) < 0)
			return -1;
		nd->guest = (struct loop_fd){ .fd = qemu[i][1], .fn = on_guest, .arg = nd };
		if (loop_fd_add(w->loop, &nd->guest, EPOLLIN) < 0)
			return -1;
	}
	w->client = (struct loop_fd){ .fd = tap[0][1], .fn = on_client, .arg = w };
	w->tick = (struct loop_timer){ .fn = on_tick, .arg = w };
	/* The secondary's TAP has nobody at its far end; it is closed with the process's other descriptors. */
	close(tap[1][1]);
	return loop_fd_add(w->loop, &w->client, EPOLLIN);
}

static void take_down(struct wire *w)
{
	for (int i = 0; i < 2; i++) {
		struct node *nd = &w->node[i];

		conn_free(nd->conn);
		if (nd->px)
			proxy_free(nd->px);
		netsock_free(&nd->sock);
		if (nd->guest.fn)
			close(nd->guest.fd);
	}
	if (w->client.fn)
		close(w->client.fd);
	loop_free(w->loop);
	pb_script_free(&w->s);
	free(w);
}

void pb_wire(const struct pb_shape *shape, const struct pb_opts *o, struct pb_result *r)
{
	struct wire *w = calloc(1, sizeof(*w));
	struct err e = { 0 };

	if (!w || pb_script_init(&w->s, shape, false) < 0) {
		pb_fail(r, "no memory");
		free(w);
		return;
	}
	w->o = o;
	w->r = r;
	w->s.room = guest_room;
	w->s.sent = guest_sent;
	w->s.arg = w;
	w->s.check_sums = true;
	w->began = clock_ns();
	w->deadline = w->began + SETUP_S * NS_PER_S;
	if (set_up(w, &e) < 0) {
		pb_fail(r, "%s", *e.msg ? e.msg : "no memory or descriptors");
		take_down(w);
		return;
	}
	proxy_event(w->node[1].px, NEV_ROLE, 1, NET_SECONDARY);
	proxy_event(w->node[0].px, NEV_ROLE, 1, NET_PRIMARY);
	proxy_event(w->node[0].px, NEV_CLOSE, 1, 0);
	loop_timer_set(w->loop, &w->tick, clock_ns() + NS_PER_MS);
	loop_run(w->loop);
	proxy_stats(w->node[0].px, &r->p);
	proxy_stats(w->node[1].px, &r->s);
	pb_judge(&w->s, r);
	take_down(w);
}
