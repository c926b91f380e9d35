/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cluster/heartbeat: the datagram; two instances in one process on loopback with shortened times; one cut off, one
 * whose loop hangs, strangers and replays; and one in a child process that is really stopped.
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

static void node_start(struct node *n, unsigned int port, bool listener)
{
	struct err e = { 0 };

	memcpy(n->cfg.session, "session-session", 16);
	memcpy(n->cfg.vm_id, "vm-vm-vm-vm-vm-", 16);
	n->cfg.generation = listener ? 2 : 1;
	n->cfg.listener = listener;
	n->cfg.local = n->cfg.remote = loopback(port);
	n->cfg.local_len = n->cfg.remote_len = sizeof(struct sockaddr_in);
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
			  .seq = 1ull << 33, .sent = 5, .echo_seq = 6, .echo_sent = 7, .echo_held = 8, .age_ms = { 1, 2, BEAT_AGE_NONE, 4 } };
	uint8_t p[BEAT_LEN + 1] = { 0 }, q[BEAT_LEN];
	struct beat c;
	struct err e = { 0 };

	beat_encode(p, &b);
	assert_int_equal(beat_decode(p, BEAT_LEN, &c, &e), 0);
	beat_encode(q, &c);
	assert_memory_equal(p, q, BEAT_LEN);
	assert_int_equal(c.seq, 1ull << 33);
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
	bt.echo_seq = 1000000;
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
	bt.echo_sent = 12345;
	beat_encode(p, &bt);
	send(fd, p, sizeof(p), 0);
	do
		heartbeat_stats(a->hb, &st);
	while (st.received < 2 && clock_ns() < end);
	assert_int_equal(st.received, 2);
	assert_int_equal(st.late, 2);
	assert_int_equal(st.lost, 9);	/* 1 to 8 and 11 */
	assert_int_equal(atomic_load(&a->n[HB_BEAT]), 0);
	while (atomic_load(&a->heard) < st.heard && clock_ns() < end)
		nap(NS_PER_MS);
	assert_true(atomic_load(&a->heard) == st.heard);
	node_end(a);
	close(fd);
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
		b.echo_seq = b.seq;
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
	a->cfg.local_len = a->cfg.remote_len = sizeof(struct sockaddr_in);
	a->cfg.local = at;
	a->cfg.listener = true;
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
	};

	log_init("test", getenv("VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
