/* SPDX-License-Identifier: BSD-2-Clause */
/* The QMP client against a peer that follows a script, and against the installed QEMU. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "base/loop.h"
#include "engine/qmp.h"

#define GREETING "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, " \
		 "\"package\": \"x\"}," \
		 " \"capabilities\": [\"oob\"]}}\r\n"
#define CAPS "{\"return\": {}, \"id\": 1}\r\n"
#define WAIT_S 10

/*
 * Everything that the client's owner was told, in order, as text. The loop runs in a thread of its own; the test
 * waits for entries, and has the client called in the loop's thread.
 */
struct ctx {
	struct loop *loop;
	struct qmp *qmp;
	int peer;
	pthread_t thread;
	pthread_mutex_t lock;	/* guards the next three and the calls' "done" */
	pthread_cond_t cond;
	char log[4096];
	size_t n_log;
	int entries;
	bool free_in_reply;
	bool more_in_reply;
};

static void entry(struct ctx *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void entry(struct ctx *c, const char *fmt, ...)
{
	va_list ap;

	pthread_mutex_lock(&c->lock);
	va_start(ap, fmt);
	c->n_log += (size_t)vsnprintf(c->log + c->n_log, sizeof(c->log) - c->n_log, fmt, ap);
	va_end(ap);
	assert_true(c->n_log + 2 < sizeof(c->log));
	strcat(c->log, "\n");
	c->n_log++;
	c->entries++;
	pthread_cond_signal(&c->cond);
	pthread_mutex_unlock(&c->lock);
}

static void on_ready(void *arg, const char *version)
{
	entry(arg, "ready %s", version);
}

static void on_event(void *arg, const char *name, struct json_object *data)
{
	entry(arg, "event %s %s", name, data ? json_object_to_json_string_ext(data, JSON_C_TO_STRING_PLAIN) : "-");
}

static void on_closed(void *arg, const struct err *e)
{
	entry(arg, "closed %s %s", strerrorname_np(-e->code), e->msg);
}

static void on_reply(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct ctx *c = arg;

	entry(c, "reply %s %s", code ? strerrorname_np(-code) : "0",
	      code ? desc : json_object_to_json_string_ext(ret, JSON_C_TO_STRING_PLAIN));
	if (c->free_in_reply) {
		c->free_in_reply = false;
		qmp_free(c->qmp);
		c->qmp = NULL;
	}
	if (c->more_in_reply) {
		c->more_in_reply = false;
		assert_int_equal(qmp_cmd(c->qmp, "more", NULL, NS_NEVER, on_reply, c), 0);
	}
}

static const struct qmp_ops ops = { on_ready, on_event, on_closed };

/* The loop's thread still uses the test's stack, so a failed test must not be left by a jump. */
static void __attribute__((noreturn)) die(const char *got, const char *want)
{
	fprintf(stderr, "got:\n%swant:\n%s", got, want);
	abort();
}

static void *run(void *arg)
{
	loop_run(arg);
	return NULL;
}

static void deadline_in(struct timespec *ts, int s)
{
	clock_gettime(CLOCK_REALTIME, ts);
	ts->tv_sec += s;
}

/* Something to be done in the loop's thread. */
struct call {
	struct ctx *c;
	const char *name, *args;
	nstime deadline;
	qmp_reply_fn *cb;
	struct qmp_stats stats;
	int rc;
	bool done;
};

static void post_and_wait(struct call *k, void (*fn)(void *arg, const void *data, size_t len))
{
	struct timespec ts;

	deadline_in(&ts, WAIT_S);
	assert_int_equal(loop_post(k->c->loop, fn, k, NULL, 0), 0);
	pthread_mutex_lock(&k->c->lock);
	while (!k->done)
		if (pthread_cond_timedwait(&k->c->cond, &k->c->lock, &ts))
			die("the loop hangs", "");
	pthread_mutex_unlock(&k->c->lock);
}

static void call_done(struct call *k)
{
	pthread_mutex_lock(&k->c->lock);
	k->done = true;
	pthread_cond_signal(&k->c->cond);
	pthread_mutex_unlock(&k->c->lock);
}

static void do_cmd(void *arg, const void *data, size_t len)
{
	struct call *k = arg;

	if (k->name[0] == '{')
		k->rc = qmp_cmd_json(k->c->qmp, k->name, k->deadline, k->cb, k->c);
	else
		k->rc = qmp_cmd(k->c->qmp, k->name, k->args, k->deadline, k->cb, k->c);
	call_done(k);
}

static int cmd(struct ctx *c, const char *name, const char *args, nstime deadline, qmp_reply_fn *cb)
{
	struct call k = { .c = c, .name = name, .args = args, .deadline = deadline, .cb = cb };

	post_and_wait(&k, do_cmd);
	return k.rc;
}

static void do_free(void *arg, const void *data, size_t len)
{
	struct call *k = arg;

	qmp_free(k->c->qmp);
	k->c->qmp = NULL;
	call_done(k);
}

static void do_stats(void *arg, const void *data, size_t len)
{
	struct call *k = arg;

	k->stats = *qmp_stats(k->c->qmp);
	call_done(k);
}

static struct qmp_stats stats(struct ctx *c)
{
	struct call k = { .c = c };

	post_and_wait(&k, do_stats);
	return k.stats;
}

static void start(struct ctx *c, int fd, nstime greet_by)
{
	struct err e = { 0 };

	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->cond, NULL);
	c->loop = loop_new("test", &e);
	assert_non_null(c->loop);
	c->qmp = qmp_new(c->loop, fd, greet_by, &ops, c, &e);
	assert_non_null(c->qmp);
	assert_int_equal(pthread_create(&c->thread, NULL, run, c->loop), 0);
}

static void begin(struct ctx *c, nstime greet_by)
{
	int sv[2];

	memset(c, 0, sizeof(*c));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	c->peer = sv[1];
	start(c, sv[0], greet_by);
}

/* Wait until the log has so many entries more, compare them, and begin anew. */
static void expect(struct ctx *c, int entries, const char *want)
{
	struct timespec ts;
	int rc = 0;

	deadline_in(&ts, WAIT_S);
	pthread_mutex_lock(&c->lock);
	while (c->entries < entries && !rc)
		rc = pthread_cond_timedwait(&c->cond, &c->lock, &ts);
	if (strcmp(c->log, want))
		die(c->log, want);
	c->n_log = 0;
	c->log[0] = 0;
	c->entries = 0;
	pthread_mutex_unlock(&c->lock);
}

static void say(struct ctx *c, const char *text)
{
	assert_int_equal(write(c->peer, text, strlen(text)), strlen(text));
}

static void hear(struct ctx *c, const char *want)
{
	char buf[4096];
	ssize_t n = read(c->peer, buf, sizeof(buf) - 1);

	assert_true(n >= 0);
	buf[n] = 0;
	assert_string_equal(buf, want);
}

static void end(struct ctx *c)
{
	loop_stop(c->loop);
	pthread_join(c->thread, NULL);
	qmp_free(c->qmp);
	if (c->peer >= 0)
		close(c->peer);
	loop_free(c->loop);
}

static void greet(struct ctx *c)
{
	begin(c, clock_ns() + WAIT_S * NS_PER_S);
	say(c, GREETING CAPS);
	expect(c, 1, "ready 7.2.22\n");
	hear(c, "{\"id\":1,\"execute\":\"qmp_capabilities\"}\n");
}

static void test_talk(void **state)
{
	struct ctx c;

	greet(&c);
	assert_int_equal(qmp_last_reply(c.qmp) > 0, 1);
	assert_int_equal(qmp_waiting_since(c.qmp), 0);
	assert_int_equal(cmd(&c, "stop", NULL, NS_NEVER, on_reply), 0);
	assert_int_equal(cmd(&c, "x", "{\"a\":1}", NS_NEVER, on_reply), 0);
	assert_int_equal(cmd(&c, "{\"execute\":\"y\"}", NULL, NS_NEVER, NULL), 0);
	assert_true(qmp_waiting_since(c.qmp) > 0);
	hear(&c, "{\"id\":2,\"execute\":\"stop\"}\n{\"id\":3,\"execute\":\"x\",\"arguments\":{\"a\":1}}\n"
		 "{\"id\":4,\"execute\":\"y\"}\n");
	/* An event between, an error, an answer without an id, one that nobody asked for. */
	say(&c, "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"STOP\"}\r\n"
		"{\"return\": {\"v\": \"a}{\\\"\"}, \"id\": 2}\r\n"
		"{\"event\":\"RESET\",\"data\":{\"guest\":true}}{\"return\":{},\"id\":77}"
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\r\n");
	expect(&c, 4, "event STOP -\nreply 0 {\"v\":\"a}{\\\"\"}\nevent RESET {\"guest\":true}\n"
		      "reply EREMOTEIO no such thing\n");
	assert_int_equal(stats(&c).late, 1);
	assert_int_equal(stats(&c).errors, 1);
	assert_int_equal(stats(&c).events, 2);
	end(&c);
}

/* Every way of cutting the stream into pieces gives the same. */
static void test_split(void **state)
{
	static const char text[] = GREETING CAPS "{\"event\":\"A\",\"data\":{\"s\":\"\\u00e4\\n\"}}\r\n"
				   "{\"return\":[1,-2.5],"
				   "\"id\":2}\n";
	struct ctx c;

	for (size_t cut = 1; cut < sizeof(text) - 1; cut++) {
		begin(&c, NS_NEVER);
		assert_int_equal(cmd(&c, "q", NULL, NS_NEVER, on_reply), 0);
		for (size_t at = 0; at < sizeof(text) - 1; at += cut) {
			size_t n = sizeof(text) - 1 - at < cut ? sizeof(text) - 1 - at : cut;

			assert_int_equal(write(c.peer, text + at, n), n);
			/* Two turns of the loop: by then this piece was read by itself. */
			stats(&c);
			stats(&c);
		}
		expect(&c, 3, "ready 7.2.22\nevent A {\"s\":\"ä\\n\"}\nreply 0 [1,-2.5]\n");
		end(&c);
	}
}

static void test_bad_input(void **state)
{
	static const struct {
		const char *text, *want;
	} t[] = {
		{ "hello\n", "EPROTO QEMU's monitor: it sent something that is not JSON" },
		{ "[]\n", "EPROTO QEMU's monitor: it sent something that is not an object" },
		{ "{}\n", "EPROTO QEMU's monitor: it did not begin with a greeting" },
		{ "{\"QMP\": 1}\n", "EPROTO QEMU's monitor: it did not begin with a greeting" },
		{ "{\"return\": {}, \"id\": 1}\n", "EPROTO QEMU's monitor: it did not begin with a greeting" },
		{ GREETING "{\"neither\": 1}", "EPROTO QEMU's monitor: it sent a message that is neither answer nor "
					"event" },
		{ GREETING "{\"event\": null}", "EPROTO QEMU's monitor: it sent a message that is neither answer nor "
					"event" },
		{ GREETING "{\"event\": \"x\",,", "EPROTO QEMU's monitor: it sent something that is not JSON" },
		{ GREETING "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "EPROTO QEMU's monitor: it sent something "
					"that is not JSON" },
		{ GREETING "{\"error\":{\"desc\":\"no\"},\"id\":1}", "EPROTO QEMU's monitor refuses the negotiation: "
					"no" },
	};
	struct ctx c;
	char want[256];

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		begin(&c, NS_NEVER);
		say(&c, t[i].text);
		snprintf(want, sizeof(want), "closed %s\n", t[i].want);
		expect(&c, 1, want);
		assert_int_equal(cmd(&c, "stop", NULL, NS_NEVER, on_reply), -EPIPE);
		end(&c);
	}
	/* A zero byte inside of a message. */
	begin(&c, NS_NEVER);
	assert_int_equal(write(c.peer, "{\"QMP\0\"", 7), 7);
	expect(&c, 1, "closed EPROTO QEMU's monitor: it sent something that is not JSON\n");
	end(&c);
}

static void *flood(void *arg)
{
	static char junk[65536];
	int fd = *(int *)arg;

	memset(junk, 'a', sizeof(junk));
	if (write(fd, GREETING "{\"event\": \"", strlen(GREETING) + 11) > 0)
		while (send(fd, junk, sizeof(junk), MSG_NOSIGNAL) > 0)
			;
	return NULL;
}

static void test_endless_message(void **state)
{
	struct ctx c;
	pthread_t t;

	begin(&c, NS_NEVER);
	assert_int_equal(pthread_create(&t, NULL, flood, &c.peer), 0);
	expect(&c, 1, "closed EMSGSIZE QEMU's monitor: a message that is too long\n");
	pthread_join(t, NULL);
	end(&c);
}

static void test_close(void **state)
{
	struct ctx c;
	struct call k = { .c = &c };

	/* In the middle of a message, with commands under way: each is told, then the owner. */
	greet(&c);
	assert_int_equal(cmd(&c, "a", NULL, NS_NEVER, on_reply), 0);
	assert_int_equal(cmd(&c, "b", NULL, NS_NEVER, on_reply), 0);
	say(&c, "{\"return\":{},\"id\":2}{\"retu");
	close(c.peer);
	c.peer = -1;
	expect(&c, 3, "reply 0 {}\nreply ECONNRESET QEMU's monitor: the connection was closed in the middle of a "
	       "message\n"
		      "closed ECONNRESET QEMU's monitor: the connection was closed in the middle of a message\n");
	assert_int_equal(qmp_waiting_since(c.qmp), 0);
	end(&c);

	/* Given up by the owner: each command is told, the owner is not. */
	greet(&c);
	assert_int_equal(cmd(&c, "a", NULL, NS_NEVER, on_reply), 0);
	post_and_wait(&k, do_free);
	expect(&c, 1, "reply ECANCELED the connection was given up\n");
	end(&c);

	/* Given up inside of an answer, with more of them in the same read. */
	greet(&c);
	assert_int_equal(cmd(&c, "a", NULL, NS_NEVER, on_reply), 0);
	assert_int_equal(cmd(&c, "b", NULL, NS_NEVER, on_reply), 0);
	c.free_in_reply = true;
	say(&c, "{\"return\":{},\"id\":2}{\"return\":{},\"id\":3}");
	expect(&c, 2, "reply 0 {}\nreply ECANCELED the connection was given up\n");
	end(&c);
}

static void test_timeout(void **state)
{
	nstime now = clock_ns();
	struct ctx c;

	/* No greeting. */
	begin(&c, now + 20 * NS_PER_MS);
	expect(&c, 1, "closed ETIMEDOUT QEMU's monitor: QEMU did not open it in time\n");
	assert_true(clock_ns() >= now + 20 * NS_PER_MS);
	end(&c);

	/* The later command's deadline comes first; the late answers are dropped, later ones are not. */
	greet(&c);
	now = clock_ns();
	c.more_in_reply = true;
	assert_int_equal(cmd(&c, "a", NULL, now + 60 * NS_PER_MS, on_reply), 0);
	assert_int_equal(cmd(&c, "b", NULL, now + 20 * NS_PER_MS, on_reply), 0);
	expect(&c, 2, "reply ETIMEDOUT QEMU did not answer in time\nreply ETIMEDOUT QEMU did not answer in time\n");
	assert_true(clock_ns() >= now + 60 * NS_PER_MS);
	assert_int_equal(stats(&c).timeouts, 2);
	say(&c, "{\"return\":{},\"id\":2}{\"return\":{},\"id\":3}{\"return\":7,\"id\":4}");
	expect(&c, 1, "reply 0 7\n");
	assert_int_equal(stats(&c).late, 2);
	end(&c);
}

/* A peer that does not read: first the socket fills, then the bounded queue, then the command is refused. */
static void test_backpressure(void **state)
{
	static char big[100000];
	char buf[65536];
	int sent = 0, rc = 0;
	size_t got = 0;
	struct ctx c;

	greet(&c);
	memset(big, ' ', sizeof(big) - 1);
	big[0] = '{';
	big[sizeof(big) - 2] = '}';
	while (sent < QMP_PENDING_MAX && !rc) {
		rc = cmd(&c, "fill", big, NS_NEVER, NULL);
		sent += !rc;
	}
	assert_int_equal(rc, -ENOBUFS);
	assert_true(sent > 2);
	/* It reads at last: all that was accepted comes, complete and in order. */
	while (got < (size_t)sent * sizeof(big)) {
		ssize_t n = recv(c.peer, buf, sizeof(buf), 0);

		assert_true(n > 0);
		got += (size_t)n;
	}
	stats(&c);
	assert_int_equal(cmd(&c, "after", NULL, NS_NEVER, NULL), 0);
	assert_true(recv(c.peer, buf, sizeof(buf), 0) > 0);
	for (int i = sent + 1; i < QMP_PENDING_MAX; i++)
		assert_int_equal(cmd(&c, "s", NULL, NS_NEVER, NULL), 0);
	assert_int_equal(cmd(&c, "s", NULL, NS_NEVER, NULL), -EBUSY);
	end(&c);
}

/* The installed QEMU: pipelined behind the negotiation, an error among the answers, the largest answer it has. */
static void test_qemu(void **state)
{
	struct timespec ts;
	struct ctx c;
	int sv[2];
	pid_t pid;

	if (system("command -v qemu-system-x86_64 >/dev/null"))
		skip();
	memset(&c, 0, sizeof(c));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	pid = fork();
	if (!pid) {
		char arg[64];

		fcntl(sv[1], F_SETFD, 0);
		snprintf(arg, sizeof(arg), "socket,id=q,fd=%d", sv[1]);
		execlp("qemu-system-x86_64", "qemu-system-x86_64", "-machine", "none", "-S", "-nodefaults",
		       "-display", "none",
		       "-chardev", arg, "-mon", "chardev=q,mode=control", (char *)NULL);
		_exit(127);
	}
	close(sv[1]);
	c.peer = -1;
	start(&c, sv[0], clock_ns() + WAIT_S * NS_PER_S);
	assert_int_equal(cmd(&c, "query-status", NULL, clock_ns() + WAIT_S * NS_PER_S, on_reply), 0);
	assert_int_equal(cmd(&c, "nonsense", NULL, NS_NEVER, on_reply), 0);
	assert_int_equal(cmd(&c, "query-qmp-schema", NULL, NS_NEVER, NULL), 0);
	assert_int_equal(cmd(&c, "quit", NULL, NS_NEVER, on_reply), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	deadline_in(&ts, WAIT_S);
	pthread_mutex_lock(&c.lock);
	while (!strstr(c.log, "closed") && !pthread_cond_timedwait(&c.cond, &c.lock, &ts))
		;
	pthread_mutex_unlock(&c.lock);
	assert_non_null(strstr(c.log, "ready "));
	assert_non_null(strstr(c.log, "reply 0 {\"status\":\"prelaunch\""));
	assert_non_null(strstr(c.log, "reply EREMOTEIO The command nonsense has not been found"));
	assert_non_null(strstr(c.log, "event SHUTDOWN"));
	assert_non_null(strstr(c.log, "closed ECONNRESET QEMU's monitor: the connection was closed\n"));
	assert_int_equal(stats(&c).late, 0);
	end(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_talk), cmocka_unit_test(test_split), cmocka_unit_test(test_bad_input),
		cmocka_unit_test(test_endless_message), cmocka_unit_test(test_close), cmocka_unit_test(test_timeout),
		cmocka_unit_test(test_backpressure), cmocka_unit_test(test_qemu),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
