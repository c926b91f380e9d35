/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cluster/heartbeat: the datagram; two instances in one process on loopback with shortened times; one cut off, one
 * whose loop hangs, strangers and replays; several paths through a relay that is cut here and there; keys; and one in a
 * child process that is really stopped.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "cluster/heartbeat.h"

#define INTERVAL	(10 * NS_PER_MS)
#define SILENCE		(150 * NS_PER_MS)
#define STUCK		(100 * NS_PER_MS)

struct node {
	struct loop *control, *other;
	pthread_t t_control, t_other;
	struct heartbeat *hb;
	struct hb_cfg cfg;
	const char *session;		/* NULL: the usual one */
	_Atomic nstime qmp;
	/* what came into the control loop */
	atomic_int n[HB_MOVING + 1];
	_Atomic nstime sent, rtt, silent_at, heard;
	atomic_int which;
};

/* Never freed: after a failed test its threads may still be there. */
static struct node *node_new(void)
{
	static struct node pool[32];
	static int used;

	assert_true(used < 32);
	return &pool[used++];
}

static void *run(void *l)
{
	loop_run(l);
	return NULL;
}

static void on_event(void *arg, const struct hb_event *ev)
{
	struct node *n = arg;

	if (ev->type == HB_BEAT) {
		atomic_store(&n->heard, ev->heard);
		if (!ev->sent)
			return;		/* heard, but no answer to any of ours */
		atomic_store(&n->sent, ev->sent);
		atomic_store(&n->rtt, ev->rtt);
	}
	if (ev->type == HB_SILENT)
		atomic_store(&n->silent_at, clock_ns() - ev->since);
	if (ev->type == HB_STUCK)
		atomic_store(&n->which, (int)ev->which);
	atomic_fetch_add(&n->n[ev->type], 1);
}

static struct sockaddr_storage loopback(unsigned int port)
{
	struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port),
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_storage ss = { 0 };

	memcpy(&ss, &in, sizeof(in));
	return ss;
}

/* A UDP port that is free at the moment. */
static unsigned int free_port(void)
{
	struct sockaddr_storage a = loopback(0);
	socklen_t len = sizeof(struct sockaddr_in);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	unsigned int port;

	assert_int_equal(bind(fd, (struct sockaddr *)&a, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	port = ntohs(((struct sockaddr_in *)&a)->sin_port);
	close(fd);
	return port;
}

static void node_loops(struct node *n)
{
	struct err e = { 0 };

	n->control = loop_new("control", &e);
	n->other = loop_new("frames", &e);
	assert_non_null(n->control);
	assert_non_null(n->other);
	pthread_create(&n->t_control, NULL, run, n->control);
	pthread_create(&n->t_other, NULL, run, n->other);
}

/* One more path: a port on loopback. */
static void node_path(struct node *n, unsigned int port, bool listener)
{
	struct hb_path *p = &n->cfg.paths[n->cfg.n_paths];

	snprintf(p->name, sizeof(p->name), "port %u", port);
	if (listener) {
		p->local = loopback(port);
		p->local_len = sizeof(struct sockaddr_in);
	} else {
		p->remote = loopback(port);
		p->remote_len = sizeof(struct sockaddr_in);
	}
	n->cfg.n_paths++;
}

static void node_start(struct node *n, unsigned int port, bool listener)
{
	struct err e = { 0 };

	memcpy(n->cfg.session, n->session ? n->session : "session-session", 16);
	memcpy(n->cfg.vm_id, "vm-vm-vm-vm-vm-", 16);
	n->cfg.generation = listener ? 2 : 1;
	n->cfg.listener = listener;
	if (!n->cfg.n_paths)
		node_path(n, port, listener);
	n->cfg.interval = n->cfg.interval ? n->cfg.interval : INTERVAL;
	n->cfg.silence = n->cfg.silence ? n->cfg.silence : SILENCE;
	n->cfg.stuck = STUCK;
	n->cfg.loops[BEAT_CONTROL] = n->control;
	n->cfg.loops[BEAT_FRAMES] = n->other;
	n->cfg.qmp = &n->qmp;
	n->cfg.control = n->control;
	n->cfg.fn = on_event;
	n->cfg.arg = n;
	n->hb = heartbeat_start(&n->cfg, &e);
	if (!n->hb)
		fail_msg("%s", e.msg);
}

static void node_end(struct node *n)
{
	heartbeat_stop(n->hb);
	n->hb = NULL;
	loop_stop(n->control);
	loop_stop(n->other);
	pthread_join(n->t_control, NULL);
	pthread_join(n->t_other, NULL);
	loop_free(n->control);
	loop_free(n->other);
}

static void nap(nstime t)
{
	struct timespec ts = { (time_t)(t / NS_PER_S), (long)(t % NS_PER_S) };

	nanosleep(&ts, NULL);
}

static void wait_count(atomic_int *n, int want, const char *what)
{
	nstime end = clock_ns() + 20 * NS_PER_S;

	while (atomic_load(n) < want) {
		if (clock_ns() > end)
			fail_msg("waited in vain: %s (%d of %d)", what, atomic_load(n), want);
		nap(NS_PER_MS);
	}
}

static void datagram(void **state)
{
	struct beat b = { .session = "0123456789abcde", .vm_id = "fedcba987654321", .generation = 3, .listener = true,
			  .path = 3, .seq = 1ull << 33, .sent = 5, .echo_seq = 6, .echo_sent = 7, .echo_held = 8,
			  .echo_any = 1ull << 34, .age_ms = { 1, 2, BEAT_AGE_NONE, 4 } };
	uint8_t p[BEAT_LEN + 1] = { 0 }, q[BEAT_LEN];
	struct beat c;
	struct err e = { 0 };

	beat_encode(p, &b);
	assert_int_equal(beat_decode(p, BEAT_LEN, &c, &e), 0);
	beat_encode(q, &c);
	assert_memory_equal(p, q, BEAT_LEN);
	assert_int_equal(c.seq, 1ull << 33);
	assert_int_equal(c.echo_any, 1ull << 34);
	assert_int_equal(c.path, 3);
	assert_int_equal(c.age_ms[BEAT_BULK], BEAT_AGE_NONE);
	assert_memory_equal(c.session, b.session, BEAT_ID_LEN);
	for (size_t n = 0; n <= BEAT_LEN + 1; n++) {
		uint8_t *exact = malloc(n ? n : 1);

		memcpy(exact, p, n);
		assert_int_equal(beat_decode(exact, n, &c, &e) == 0, n == BEAT_LEN);
		free(exact);
	}
	assert_true(c.listener);
	for (int i = 0; i < 8; i++) {
		if (i == 6)
			continue;	/* the path */
		p[i] ^= 0x40;
		assert_true(beat_decode(p, BEAT_LEN, &c, &e) < 0);
		p[i] ^= 0x40;
	}
	b.seq = 0;
	beat_encode(p, &b);
	assert_true(beat_decode(p, BEAT_LEN, &c, &e) < 0);
}

/* Beats are answered both ways; the lease's time moves and is one of ours; nothing is silent, stuck or lost. */
static void answered(void **state)
{
	unsigned int port = free_port();
	struct node *a = node_new(), *b = node_new();
	struct hb_stats st;
	nstime began = clock_ns(), t;

	node_loops(a);
	node_loops(b);
	node_start(a, port, false);
	node_start(b, port, true);
	assert_int_not_equal(heartbeat_id(a->hb), heartbeat_id(b->hb));
	wait_count(&a->n[HB_BEAT], 20, "answers to a");
	wait_count(&b->n[HB_BEAT], 20, "answers to b");
	t = atomic_load(&a->sent);
	assert_true(t >= began && t <= clock_ns());
	wait_count(&a->n[HB_BEAT], atomic_load(&a->n[HB_BEAT]) + 5, "more answers");
	assert_true(atomic_load(&a->sent) > t);
	heartbeat_stats(a->hb, &st);
	assert_int_equal(st.peer_generation, 2);
	assert_true(st.sent > 20 && st.received > 20);
	assert_int_equal(st.lost, 0);
	assert_int_equal(st.strangers, 0);
	assert_true(st.rtt_min <= st.rtt_avg && st.rtt_avg <= st.rtt_max && st.rtt_avg > 0);
	/* The time that the peer holds a beat until its own next is not part of it. */
	assert_true(st.rtt_min < INTERVAL / 2);
	assert_true(st.peer_age_ms[BEAT_CONTROL] < 10000 && st.peer_age_ms[BEAT_FRAMES] < 10000);
	assert_int_equal(st.peer_age_ms[BEAT_BULK], BEAT_AGE_NONE);
	assert_int_equal(st.peer_age_ms[BEAT_QMP], 0);
	printf("rtt min %.0f us, avg %.0f us, max %.0f us\n", (double)st.rtt_min / 1e3, (double)st.rtt_avg / 1e3,
	       (double)st.rtt_max / 1e3);
	node_end(a);
	node_end(b);
}

/* Idle loops are not taken for hanging ones: their ages stay small though they have nothing to do. */
static void idle_is_no_hang(void **state)
{
	unsigned int port = free_port();
	struct node *a = node_new(), *b = node_new();

	node_loops(a);
	node_loops(b);
	node_start(a, port, false);
	node_start(b, port, true);
	nap(4 * STUCK);
	wait_count(&a->n[HB_BEAT], 30, "answers");
	if (atomic_load(&a->n[HB_STUCK]) && !atomic_load(&a->n[HB_SILENT])) {
		struct hb_stats st;

		/* Only a host that starves us may do that. */
		heartbeat_stats(b->hb, &st);
		if (!st.freezes)
			fail_msg("an idle %s was taken for stuck", beat_source_name((unsigned int)atomic_load(&a->which)));
	}
	node_end(a);
	node_end(b);
}

static void silence(void **state)
{
	unsigned int port = free_port();
	struct node *a = node_new(), *b = node_new();
	struct hb_stats st;

	node_loops(a);
	node_loops(b);
	/* Nobody there at all: silent after the time, counted from the start, said once. */
	node_start(a, port, false);
	wait_count(&a->n[HB_SILENT], 1, "silence of nobody");
	assert_true(atomic_load(&a->silent_at) >= SILENCE);
	nap(2 * SILENCE);
	assert_int_equal(atomic_load(&a->n[HB_SILENT]), 1);
	assert_int_equal(atomic_load(&a->n[HB_BEAT]), 0);
	/* Somebody comes: heard. Goes: silent again. */
	node_start(b, port, true);
	wait_count(&a->n[HB_HEARD], 1, "heard");
	wait_count(&a->n[HB_BEAT], 3, "answers");
	heartbeat_stop(b->hb);
	wait_count(&a->n[HB_SILENT], 2, "silence");
	assert_true(atomic_load(&a->silent_at) >= SILENCE);
	heartbeat_stats(a->hb, &st);
	assert_int_equal(st.silences, 2);
	b->hb = NULL;
	node_end(a);
	node_end(b);
}

static _Atomic nstime hang_for;

static void hang(void *arg, const void *data, size_t len)
{
	nap(atomic_load(&hang_for));
}

static void stuck(void **state)
{
	unsigned int port = free_port();
	struct node *a = node_new(), *b = node_new();

	node_loops(a);
	node_loops(b);
	node_start(a, port, false);
	node_start(b, port, true);
	wait_count(&a->n[HB_BEAT], 3, "answers");
	/* b's frames loop hangs, its heartbeat goes on and says so. */
	atomic_store(&hang_for, 5 * STUCK);
	loop_post(b->other, hang, NULL, NULL, 0);
	wait_count(&a->n[HB_STUCK], 1, "stuck");
	assert_int_equal(atomic_load(&a->which), BEAT_FRAMES);
	wait_count(&a->n[HB_MOVING], 1, "moving again");
	/* QMP owes an answer for long. */
	atomic_store(&b->qmp, clock_ns());
	wait_count(&a->n[HB_STUCK], 2, "stuck QMP");
	assert_int_equal(atomic_load(&a->which), BEAT_QMP);
	atomic_store(&b->qmp, 0);
	wait_count(&a->n[HB_MOVING], 2, "QMP moves again");
	node_end(a);
	node_end(b);
}

/* A control loop that hangs does not pile up events, nor stop the beats; the instance can be stopped meanwhile. */
static void control_hangs(void **state)
{
	unsigned int port = free_port();
	struct node *a = node_new(), *b = node_new();
	struct hb_stats st, st2;
	int before;

	node_loops(a);
	node_loops(b);
	node_start(a, port, false);
	node_start(b, port, true);
	wait_count(&a->n[HB_BEAT], 3, "answers");
	atomic_store(&hang_for, 60 * INTERVAL);
	loop_post(a->control, hang, NULL, NULL, 0);
	wait_count(&b->n[HB_STUCK], 1, "b hears that a's control loop hangs");
	assert_int_equal(atomic_load(&b->which), BEAT_CONTROL);
	before = atomic_load(&a->n[HB_BEAT]);
	heartbeat_stats(a->hb, &st);
	nap(10 * INTERVAL);
	heartbeat_stats(a->hb, &st2);
	assert_true(st2.sent > st.sent);
	assert_int_equal(atomic_load(&a->n[HB_BEAT]), before);
	wait_count(&b->n[HB_MOVING], 1, "it moves again");
	/* What had waited: a handful, not the 60 of that time. */
	assert_true(atomic_load(&a->n[HB_BEAT]) - before < 40);
	node_end(a);
	node_end(b);
}

static void strangers(void **state)
{
	unsigned int port = free_port();
	struct node *a = node_new();
	struct sockaddr_storage to = loopback(port);
	struct beat bt = { .seq = 1, .sent = 1 };
	uint8_t p[BEAT_LEN], junk[2000];
	struct hb_stats st;
	nstime end = clock_ns() + 20 * NS_PER_S;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	node_loops(a);
	a->cfg.silence = 300 * NS_PER_MS;
	node_start(a, port, true);
	assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof(struct sockaddr_in)), 0);
	memset(junk, 0x4c, sizeof(junk));
	/* All the time junk, beats of another session and of another VM come; it is silence all the same. */
	while (!atomic_load(&a->n[HB_SILENT]) && clock_ns() < end) {
		send(fd, junk, sizeof(junk), 0);
		send(fd, junk, 0, 0);
		memcpy(bt.session, "session-sessioX", 16);
		memcpy(bt.vm_id, a->cfg.vm_id, 16);
		beat_encode(p, &bt);
		send(fd, p, sizeof(p), 0);
		memcpy(bt.session, a->cfg.session, 16);
		memcpy(bt.vm_id, "vm-vm-vm-vm-vmX", 16);
		beat_encode(p, &bt);
		send(fd, p, sizeof(p), 0);
		/* One of our own side's, reflected. */
		memcpy(bt.vm_id, a->cfg.vm_id, 16);
		bt.listener = true;
		beat_encode(p, &bt);
		send(fd, p, sizeof(p), 0);
		bt.listener = false;
		/* And one of another path. */
		bt.path = 1;
		beat_encode(p, &bt);
		send(fd, p, sizeof(p), 0);
		bt.path = 0;
		bt.seq++;
		nap(5 * NS_PER_MS);
	}
	assert_int_equal(atomic_load(&a->n[HB_SILENT]), 1);
	heartbeat_stats(a->hb, &st);
	assert_int_equal(st.received, 0);
	assert_int_equal(st.sent, 0);
	assert_true(st.strangers > 40);
	/* A right one is heard; the same again and older ones are not; echoes of what was never sent are no answer. */
	memcpy(bt.vm_id, a->cfg.vm_id, 16);
	bt.seq = 10;
	bt.echo_seq = bt.echo_any = 1000000;
	bt.echo_sent = clock_ns();
	beat_encode(p, &bt);
	send(fd, p, sizeof(p), 0);
	wait_count(&a->n[HB_HEARD], 1, "heard");
	send(fd, p, sizeof(p), 0);
	bt.seq = 9;
	beat_encode(p, &bt);
	send(fd, p, sizeof(p), 0);
	bt.seq = 12;
	bt.echo_seq = 1;
	bt.echo_any = 0;
	bt.echo_sent = 12345;
	beat_encode(p, &bt);
	send(fd, p, sizeof(p), 0);
	do
		heartbeat_stats(a->hb, &st);
	while (st.received < 2 && clock_ns() < end);
	assert_int_equal(st.received, 2);
	assert_int_equal(st.late, 2);
	assert_int_equal(st.lost, 1);	/* 11 */
	assert_int_equal(atomic_load(&a->n[HB_BEAT]), 0);
	while (atomic_load(&a->heard) < st.heard && clock_ns() < end)
		nap(NS_PER_MS);
	assert_true(atomic_load(&a->heard) == st.heard);
	node_end(a);
	close(fd);
}

/*
 * Datagrams between two nodes pass through here: each path of the connecting one goes to a socket of the relay, which
 * hands them on to the listener and back, as long as nothing is cut.
 */
struct relay {
	int in[HB_MAX_PATHS], out[HB_MAX_PATHS];
	unsigned int n, port[HB_MAX_PATHS];
	struct sockaddr_in from[HB_MAX_PATHS];
	atomic_bool cut_up[HB_MAX_PATHS], cut_down[HB_MAX_PATHS], end;	/* up: to the listener */
	pthread_t t;
	pthread_mutex_t lock;
	uint8_t kept[200];		/* the newest datagram to the listener over path 0 */
	ssize_t kept_len;
};

static void *relay_run(void *arg)
{
	struct relay *r = arg;

	while (!atomic_load(&r->end)) {
		bool any = false;

		for (unsigned int i = 0; i < r->n; i++) {
			socklen_t len = sizeof(r->from[i]);
			uint8_t p[200];
			ssize_t k = recvfrom(r->in[i], p, sizeof(p), MSG_DONTWAIT, (struct sockaddr *)&r->from[i], &len);

			any |= k > 0;
			if (k > 0 && !i) {
				pthread_mutex_lock(&r->lock);
				memcpy(r->kept, p, (size_t)k);
				r->kept_len = k;
				pthread_mutex_unlock(&r->lock);
			}
			if (k > 0 && !atomic_load(&r->cut_up[i]))
				send(r->out[i], p, (size_t)k, MSG_DONTWAIT);
			k = recv(r->out[i], p, sizeof(p), MSG_DONTWAIT);
			any |= k > 0;
			if (k > 0 && !atomic_load(&r->cut_down[i]))
				sendto(r->in[i], p, (size_t)k, MSG_DONTWAIT, (struct sockaddr *)&r->from[i],
				       sizeof(r->from[i]));
		}
		if (!any)
			nap(NS_PER_MS / 2);
	}
	return NULL;
}

/* @a connects, @b listens; @n paths, all through the relay. */
static void relay_start(struct relay *r, struct node *a, struct node *b, unsigned int n)
{
	memset(r, 0, sizeof(*r));
	pthread_mutex_init(&r->lock, NULL);
	r->n = n;
	for (unsigned int i = 0; i < n; i++) {
		struct sockaddr_storage at = loopback(0), to;
		socklen_t len = sizeof(struct sockaddr_in);

		r->port[i] = free_port();
		to = loopback(r->port[i]);
		r->in[i] = socket(AF_INET, SOCK_DGRAM, 0);
		r->out[i] = socket(AF_INET, SOCK_DGRAM, 0);
		assert_int_equal(bind(r->in[i], (struct sockaddr *)&at, len), 0);
		assert_int_equal(getsockname(r->in[i], (struct sockaddr *)&at, &len), 0);
		assert_int_equal(connect(r->out[i], (struct sockaddr *)&to, len), 0);
		node_path(a, ntohs(((struct sockaddr_in *)&at)->sin_port), false);
		node_path(b, r->port[i], true);
	}
	pthread_create(&r->t, NULL, relay_run, r);
}

static void relay_end(struct relay *r)
{
	atomic_store(&r->end, true);
	pthread_join(r->t, NULL);
	for (unsigned int i = 0; i < r->n; i++) {
		close(r->in[i]);
		close(r->out[i]);
	}
	pthread_mutex_destroy(&r->lock);
}

/* Until path @i of @n is up, or is not. */
static void wait_path(struct node *n, unsigned int i, bool up)
{
	nstime end = clock_ns() + 20 * NS_PER_S;
	struct hb_stats st;

	for (;;) {
		heartbeat_stats(n->hb, &st);
		if (st.path[i].up == up && (!up || st.path[i].received))
			return;
		if (clock_ns() > end)
			fail_msg("waited in vain for path %u to be %s", i, up ? "up" : "lost");
		nap(NS_PER_MS);
	}
}

/* Three paths: silent only when all are; the lease moves as long as one works, each path has its own figures. */
static void paths(void **state)
{
	struct node *a = node_new(), *b = node_new();
	static struct relay r;
	struct hb_stats st;
	int beats;

	node_loops(a);
	node_loops(b);
	relay_start(&r, a, b, 3);
	node_start(a, 0, false);
	node_start(b, 0, true);
	for (unsigned int i = 0; i < 3; i++) {
		wait_path(a, i, true);
		wait_path(b, i, true);
	}
	wait_count(&a->n[HB_BEAT], 10, "answers");
	for (unsigned int i = 0; i < 2; i++) {
		atomic_store(&r.cut_up[i], true);
		atomic_store(&r.cut_down[i], true);
		wait_path(a, i, false);
		wait_path(b, i, false);
		beats = atomic_load(&a->n[HB_BEAT]);
		wait_count(&a->n[HB_BEAT], beats + 10, "answers over what is left");
		wait_count(&b->n[HB_BEAT], atomic_load(&b->n[HB_BEAT]) + 10, "answers over what is left");
	}
	assert_int_equal(atomic_load(&a->n[HB_SILENT]), 0);
	assert_int_equal(atomic_load(&b->n[HB_SILENT]), 0);
	heartbeat_stats(a->hb, &st);
	assert_int_equal(st.n_paths, 3);
	assert_true(st.path[2].up && st.path[2].received > st.path[0].received);
	for (unsigned int i = 0; i < 3; i++) {
		assert_true(st.path[i].rtt_min && st.path[i].rtt_min <= st.path[i].rtt_avg);
		assert_int_equal(st.path[i].losses, i < 2);
		assert_int_equal(st.path[i].strangers, 0);
	}
	/* The last one: now it is silence. One comes back: heard. */
	atomic_store(&r.cut_up[2], true);
	atomic_store(&r.cut_down[2], true);
	wait_count(&a->n[HB_SILENT], 1, "silence on all");
	wait_count(&b->n[HB_SILENT], 1, "silence on all");
	atomic_store(&r.cut_up[1], false);
	atomic_store(&r.cut_down[1], false);
	wait_count(&a->n[HB_HEARD], 1, "heard again");
	wait_path(a, 1, true);
	heartbeat_stats(a->hb, &st);
	assert_false(st.path[0].up);
	assert_false(st.path[2].up);
	assert_int_equal(st.path[1].losses, 1);
	assert_true(st.path[1].lost > 5);
	node_end(a);
	node_end(b);
	relay_end(&r);
}

/* One path works only there, the other one only back: that is enough to be heard and answered. */
static void one_way_each(void **state)
{
	struct node *a = node_new(), *b = node_new();
	static struct relay r;
	int n;

	node_loops(a);
	node_loops(b);
	relay_start(&r, a, b, 2);
	node_start(a, 0, false);
	node_start(b, 0, true);
	for (unsigned int i = 0; i < 2; i++) {
		wait_path(a, i, true);
		wait_path(b, i, true);
	}
	atomic_store(&r.cut_up[0], true);
	atomic_store(&r.cut_down[1], true);
	wait_path(b, 0, false);
	wait_path(a, 1, false);
	n = atomic_load(&a->n[HB_BEAT]);
	wait_count(&a->n[HB_BEAT], n + 10, "answers to a");
	wait_count(&b->n[HB_BEAT], atomic_load(&b->n[HB_BEAT]) + 10, "answers to b");
	assert_true(clock_ns() - atomic_load(&a->sent) < 20 * NS_PER_S && atomic_load(&a->sent));
	assert_int_equal(atomic_load(&a->n[HB_SILENT]), 0);
	assert_int_equal(atomic_load(&b->n[HB_SILENT]), 0);
	node_end(a);
	node_end(b);
	relay_end(&r);
}

/* A path that cannot even be opened does no harm, and is opened when that is possible. */
static void path_comes_later(void **state)
{
	unsigned int port = free_port(), taken = free_port();
	struct node *a = node_new(), *b = node_new();
	struct sockaddr_storage at = loopback(taken);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(struct sockaddr_in)), 0);
	node_loops(a);
	node_loops(b);
	node_path(a, port, false);
	node_path(a, taken, false);
	node_path(b, port, true);
	node_path(b, taken, true);
	node_start(a, 0, false);
	node_start(b, 0, true);
	wait_path(b, 1, false);
	wait_path(b, 0, true);
	close(fd);
	wait_path(b, 1, true);
	wait_path(a, 1, true);
	assert_int_equal(atomic_load(&b->n[HB_SILENT]), 0);
	node_end(a);
	node_end(b);
}

/* Late, suspect, silent, in this order, each counted once; heard again is fine. */
static void graded(void **state)
{
	struct node *a = node_new(), *b = node_new();
	static struct relay r;
	struct hb_stats st, before;
	nstime end = clock_ns() + 20 * NS_PER_S;
	unsigned int seen = 0;

	node_loops(a);
	node_loops(b);
	a->cfg.silence = b->cfg.silence = 4 * SILENCE;
	relay_start(&r, a, b, 1);
	node_start(a, 0, false);
	node_start(b, 0, true);
	wait_count(&a->n[HB_BEAT], 10, "answers");
	heartbeat_stats(a->hb, &before);
	atomic_store(&r.cut_down[0], true);
	do {
		heartbeat_stats(a->hb, &st);
		seen |= 1u << st.level;
		nap(NS_PER_MS);
	} while (st.level != HB_SILENCE && clock_ns() < end);
	assert_int_equal(st.level, HB_SILENCE);
	/* Who was itself starved may have missed one. */
	if (st.freezes == before.freezes) {
		assert_true(st.lates > before.lates);
		assert_true(st.suspects > before.suspects);
		assert_true(seen & 1u << HB_SUSPECT);
	}
	assert_int_equal(atomic_load(&a->n[HB_SILENT]), 1);
	atomic_store(&r.cut_down[0], false);
	wait_count(&a->n[HB_HEARD], 1, "heard");
	wait_count(&a->n[HB_BEAT], atomic_load(&a->n[HB_BEAT]) + 3, "answers");
	heartbeat_stats(a->hb, &st);
	assert_true(st.level < HB_SILENCE);
	assert_string_equal(hb_level_name(HB_SUSPECT), "suspect");
	node_end(a);
	node_end(b);
	relay_end(&r);
}

static void mac(void **state)
{
	uint8_t p[BEAT_LEN + BEAT_MAC_LEN], key[BEAT_KEY_LEN] = "a key", other[BEAT_KEY_LEN] = "another";
	struct beat b = { .seq = 7, .sent = 9 };

	beat_encode(p, &b);
	assert_int_equal(beat_sign(p, key), 0);
	assert_true(beat_verify(p, sizeof(p), key));
	assert_false(beat_verify(p, sizeof(p), other));
	assert_false(beat_verify(p, BEAT_LEN, key));
	for (size_t i = 0; i < sizeof(p); i++) {
		p[i] ^= 1;
		assert_false(beat_verify(p, sizeof(p), key));
		p[i] ^= 1;
	}
	assert_true(beat_verify(p, sizeof(p), key));
}

/* With one key both hear each other; without it, or with another, everything is a stranger's, and so is a replay. */
static void keyed(void **state)
{
	struct node *a = node_new(), *b = node_new(), *c = node_new(), *d = node_new();
	static struct relay r, r2;
	nstime end = clock_ns() + 20 * NS_PER_S;
	struct hb_stats st, st2;
	uint8_t old[200];
	size_t len;

	for (struct node *n = a; ; n = n == a ? b : n == b ? c : d) {
		node_loops(n);
		n->cfg.keyed = true;
		memcpy(n->cfg.key, "the key of a session, 32 bytes..", BEAT_KEY_LEN);
		if (n == d)
			break;
	}
	relay_start(&r, a, b, 1);
	node_start(a, 0, false);
	node_start(b, 0, true);
	wait_count(&a->n[HB_BEAT], 10, "answers");
	wait_count(&b->n[HB_BEAT], 10, "answers");
	heartbeat_stats(b->hb, &st);
	assert_int_equal(st.strangers, 0);
	/* Recorded, and sent again while the peer is cut off: counted as late, and it is silence. */
	atomic_store(&r.cut_up[0], true);
	pthread_mutex_lock(&r.lock);
	len = (size_t)r.kept_len;
	memcpy(old, r.kept, len);
	pthread_mutex_unlock(&r.lock);
	assert_int_equal(len, BEAT_LEN + BEAT_MAC_LEN);
	/* It may be one that was still let through, or the first that was not. */
	do {
		send(r.out[0], old, len, 0);
		nap(5 * NS_PER_MS);
	} while (!atomic_load(&b->n[HB_SILENT]) && clock_ns() < end);
	assert_int_equal(atomic_load(&b->n[HB_SILENT]), 1);
	heartbeat_stats(b->hb, &st2);
	assert_true(st2.late > 5);
	assert_true(st2.received <= st.received + 100);
	/* Without a key, or one bit of the datagram different: strangers. */
	send(r.out[0], old, BEAT_LEN, 0);
	old[BEAT_LEN - 1] ^= 1;
	send(r.out[0], old, len, 0);
	old[BEAT_LEN - 1] ^= 1;
	do
		heartbeat_stats(b->hb, &st);
	while (st.strangers < 2 && clock_ns() < end);
	assert_int_equal(st.strangers, 2);
	heartbeat_stop(a->hb);
	heartbeat_stop(b->hb);
	a->hb = b->hb = NULL;
	relay_end(&r);

	/* A new session with the same key, even: what was recorded in the former one counts for nothing. */
	relay_start(&r2, c, d, 1);
	d->session = "another session";
	node_start(d, 0, true);
	do {
		send(r2.out[0], old, len, 0);
		nap(5 * NS_PER_MS);
	} while (!atomic_load(&d->n[HB_SILENT]) && clock_ns() < end);
	heartbeat_stats(d->hb, &st);
	assert_int_equal(st.received, 0);
	assert_true(st.strangers > 5);
	/* And who has another key is nobody, though it knows the session. */
	c->session = "another session";
	c->cfg.key[0] ^= 1;
	node_start(c, 0, false);
	wait_count(&c->n[HB_SILENT], 1, "silence");
	heartbeat_stats(d->hb, &st2);
	assert_int_equal(st2.received, 0);
	assert_true(st2.strangers > st.strangers + 5);
	for (struct node *n = a; ; n = n == a ? b : n == b ? c : d) {
		node_end(n);
		if (n == d)
			break;
	}
	relay_end(&r2);
}

/* What the child tells, in shared memory. */
struct report {
	atomic_int beats, silent, freezes;
};

static void child(struct report *r, unsigned int port)
{
	struct node *a = node_new();
	struct hb_stats st;

	node_loops(a);
	a->cfg.silence = 3 * SILENCE;
	node_start(a, port, false);
	for (;;) {
		heartbeat_stats(a->hb, &st);
		atomic_store(&r->beats, atomic_load(&a->n[HB_BEAT]));
		atomic_store(&r->silent, atomic_load(&a->n[HB_SILENT]));
		atomic_store(&r->freezes, (int)st.freezes);
		nap(NS_PER_MS);
	}
}

/* A peer by hand: answers the child's beats until @n more of its answers have arrived there. */
static void answer(int fd, struct report *r, int n, uint64_t *seq)
{
	nstime end = clock_ns() + 20 * NS_PER_S;

	for (n += atomic_load(&r->beats); atomic_load(&r->beats) < n;) {
		struct sockaddr_in from;
		socklen_t len = sizeof(from);
		uint8_t p[BEAT_LEN];
		struct beat b;

		if (clock_ns() > end)
			fail_msg("the child hears nothing");
		if (recvfrom(fd, p, sizeof(p), MSG_DONTWAIT, (struct sockaddr *)&from, &len) != sizeof(p) ||
		    beat_decode(p, sizeof(p), &b, NULL)) {
			nap(NS_PER_MS);
			continue;
		}
		b.listener = true;
		b.echo_seq = b.echo_any = b.seq;
		b.echo_sent = b.sent;
		b.echo_held = 0;
		b.seq = ++*seq;
		beat_encode(p, &b);
		sendto(fd, p, sizeof(p), 0, (struct sockaddr *)&from, len);
	}
}

/*
 * A process that is stopped for longer than the silence, and runs again: it must not say that its peer was silent,
 * even though nothing at all had come in its sleep.
 */
static void frozen(void **state)
{
	struct report *r = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sockaddr_storage at = loopback(0);
	socklen_t len = sizeof(struct sockaddr_in);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	uint64_t seq = 0;
	pid_t pid;

	assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	fflush(stdout);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);	/* also when the test fails */
		child(r, ntohs(((struct sockaddr_in *)&at)->sin_port));
	}
	for (int i = 0; i < 3; i++) {
		int freezes;

		answer(fd, r, 10, &seq);
		freezes = atomic_load(&r->freezes);
		kill(pid, SIGSTOP);
		nap(5 * SILENCE);
		kill(pid, SIGCONT);
		wait_count(&r->freezes, freezes + 1, "the child has noticed");
		nap(SILENCE / 2);
		assert_int_equal(atomic_load(&r->silent), 0);
	}
	/* Real silence is still noticed afterwards. */
	answer(fd, r, 10, &seq);
	wait_count(&r->silent, 1, "silence");
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	munmap(r, 4096);
	close(fd);
}

static void bad_settings(void **state)
{
	struct node *a = node_new();
	struct err e = { 0 };
	unsigned int port = free_port();
	struct sockaddr_storage at = loopback(port);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	node_loops(a);
	a->cfg.control = a->control;
	a->cfg.listener = true;
	assert_null(heartbeat_start(&a->cfg, &e));
	assert_non_null(strstr(e.msg, "0 paths"));
	node_path(a, port, true);
	a->cfg.interval = 100 * NS_PER_MS;
	a->cfg.silence = 200 * NS_PER_MS;
	assert_null(heartbeat_start(&a->cfg, &e));
	assert_non_null(strstr(e.msg, "less than three heartbeats"));
	a->cfg.silence = 0;
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(struct sockaddr_in)), 0);
	assert_null(heartbeat_start(&a->cfg, &e));
	assert_int_equal(e.code, -EADDRINUSE);
	close(fd);
	node_end(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(datagram), cmocka_unit_test(frozen), cmocka_unit_test(answered),
		cmocka_unit_test(idle_is_no_hang), cmocka_unit_test(silence), cmocka_unit_test(stuck),
		cmocka_unit_test(control_hangs), cmocka_unit_test(strangers), cmocka_unit_test(bad_settings),
		cmocka_unit_test(paths), cmocka_unit_test(one_way_each), cmocka_unit_test(path_comes_later),
		cmocka_unit_test(graded), cmocka_unit_test(mac), cmocka_unit_test(keyed),
	};

	log_init("test", getenv("VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
