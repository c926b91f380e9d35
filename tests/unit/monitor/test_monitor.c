/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control socket over real sockets: the loop in a thread, clients in this one. Whatever a client does, the
 * others are served and nothing grows without limit. Every wait has a deadline.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "monitor/monitor.h"

#define WAIT_MS 10000

/* What the fake node does with the next command. */
enum mode { MODE_OK, MODE_RESULT, MODE_ERROR, MODE_LATER, MODE_INSIDE };

static char dir[64], path[128];
static struct loop *loop;
static struct monitor *mon;
static pthread_t thread;
static enum mode mode;			/* set before the request is sent, so no lock is needed */
static _Atomic uint64_t token, commands;
static struct monitor_cmd last;
static _Atomic int taken = -1;		/* descriptor of the last capture */

static struct json_object *op_status(void *arg)
{
	struct json_object *o = json_object_new_object();

	json_object_object_add(o, "name", json_object_new_string("web"));
	return o;
}

static int op_command(void *arg, const struct monitor_cmd *cmd, struct json_object **result, struct err *e)
{
	last = *cmd;
	if (cmd->type == MONITOR_CAPTURE) {
		if (taken >= 0)
			close(taken);
		taken = cmd->fd;
	}
	commands++;
	switch (mode) {
	case MODE_RESULT:
		*result = json_object_new_int(7);
		return 0;
	case MODE_ERROR:
		*result = json_object_new_int(8);
		return err_set(e, -EBUSY, "not now");
	case MODE_LATER:
		token = cmd->token;
		return MONITOR_LATER;
	case MODE_INSIDE:
		monitor_event(mon, "BEFORE", NULL);
		assert_int_equal(monitor_reply(mon, cmd->token, json_object_new_int(9), NULL), 0);
		return MONITOR_LATER;
	default:
		return 0;
	}
}

static const struct monitor_ops ops = { op_status, op_command };

static void *run(void *arg)
{
	loop_run(loop);
	return NULL;
}

static int setup(void **state)
{
	struct err e;

	snprintf(dir, sizeof(dir), "/tmp/lockstep-test-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/web.sock", dir);
	mode = MODE_OK;
	token = commands = 0;
	loop = loop_new("control", &e);
	mon = monitor_new(loop, dir, "web", &ops, NULL, &e);
	if (!loop || !mon) {
		print_error("%s\n", e.msg);
		return -1;
	}
	return pthread_create(&thread, NULL, run, NULL);
}

static int teardown(void **state)
{
	char cmd[128];

	loop_stop(loop);
	pthread_join(thread, NULL);
	monitor_free(mon);
	loop_free(loop);
	if (!access(path, F_OK))
		return -1;
	snprintf(cmd, sizeof(cmd), "rm -r '%s'", dir);
	return system(cmd);
}

/* Have something done in the loop's thread, and wait for it. */
struct job {
	void (*fn)(struct job *j);
	sem_t done;
	struct monitor_stats stats;
	uint64_t token;
	int rc, size;
	const struct err *error;
};

static void job_run(void *arg, const void *data, size_t len)
{
	struct job *j = arg;

	j->fn(j);
	sem_post(&j->done);
}

static void in_loop(struct job *j, void (*fn)(struct job *j))
{
	struct timespec ts;

	j->fn = fn;
	sem_init(&j->done, 0, 0);
	assert_int_equal(loop_post(loop, job_run, j, NULL, 0), 0);
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += WAIT_MS / 1000;
	assert_int_equal(sem_timedwait(&j->done, &ts), 0);
	sem_destroy(&j->done);
}

static void job_stats(struct job *j)
{
	monitor_stats_get(mon, &j->stats);
}

static void job_reply(struct job *j)
{
	j->rc = monitor_reply(mon, j->token, json_object_new_int(42), j->error);
}

static void job_event(struct job *j)
{
	char *text = calloc(1, (size_t)j->size + 1);

	memset(text, 'x', (size_t)j->size);
	monitor_event(mon, "STATE", json_object_new_string(text));
	free(text);
}

static struct monitor_stats stats(void)
{
	struct job j = { 0 };

	in_loop(&j, job_stats);
	return j.stats;
}

static int dial(void)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	memcpy(sun.sun_path, path, strlen(path));
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

static void say_n(int fd, const char *text, size_t n)
{
	while (n) {
		ssize_t k = send(fd, text, n, MSG_NOSIGNAL);

		assert_true(k > 0);
		text += k;
		n -= (size_t)k;
	}
}

static void say(int fd, const char *text)
{
	say_n(fd, text, strlen(text));
}

/* One line without its newline; "EOF" at the end of the connection. Byte by byte: slow and simple. */
static const char *hear(int fd)
{
	static char line[400000];
	size_t n = 0;

	for (;;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		char c;

		if (poll(&p, 1, WAIT_MS) != 1)
			return "TIMEOUT";
		if (recv(fd, &c, 1, 0) <= 0)
			return n ? "CUT" : "EOF";
		if (c == '\n')
			break;
		assert_true(n < sizeof(line) - 1);
		line[n++] = c;
	}
	line[n] = '\0';
	return line;
}

static bool silent(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) == 0;
}

/* Poll until the number of clients is as it should be. */
static void clients_become(uint32_t n)
{
	nstime end = clock_ns() + WAIT_MS * NS_PER_MS;

	while (stats().clients != n) {
		assert_true(clock_ns() < end);
		usleep(1000);
	}
}

#define STATUS "{\"execute\":\"__lockstep_status\"}\n"
#define CHECKPOINT "{\"execute\":\"__lockstep_checkpoint\",\"id\":\"c\"}\n"
#define EVENTS "{\"execute\":\"__lockstep_events\"}\n"
#define STATUS_ANSWER "{\"return\":{\"name\":\"web\"}}"

static void questions_and_answers(void **state)
{
	int fd = dial();

	say(fd, STATUS);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	say(fd, "\n\r\n{\"execute\":\"__lockstep_status\",\"id\":5}\r\n");
	assert_string_equal(hear(fd), "{\"return\":{\"name\":\"web\"},\"id\":5}");
	say(fd, CHECKPOINT);
	assert_string_equal(hear(fd), "{\"return\":{},\"id\":\"c\"}");
	assert_int_equal(last.type, MONITOR_CHECKPOINT);
	mode = MODE_RESULT;
	say(fd, "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":2000}}\n");
	assert_string_equal(hear(fd), "{\"return\":7}");
	assert_int_equal(last.type, MONITOR_SET);
	assert_true(last.checkpoint_delay == 2 * NS_PER_S);
	mode = MODE_ERROR;
	say(fd, "{\"execute\":\"__lockstep_failover\"}\n");
	assert_string_equal(hear(fd), "{\"error\":{\"class\":\"GenericError\",\"desc\":\"not now\"}}");
	assert_int_equal(last.type, MONITOR_FAILOVER);
	say(fd, "{\"execute\":\"quit\",\"id\":null}\n");
	assert_non_null(strstr(hear(fd), "\"CommandNotFound\""));
	close(fd);
	clients_become(0);
	assert_int_equal(stats().requests, 6);
	assert_int_equal(stats().bad_requests, 1);
}

static void byte_by_byte_and_all_at_once(void **state)
{
	char many[300 * sizeof(STATUS)] = "";
	int fd = dial();

	for (const char *p = STATUS; *p; p++)
		say_n(fd, p, 1);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	for (int i = 0; i < 300; i++)
		strcat(many, STATUS);
	say(fd, many);
	for (int i = 0; i < 300; i++)
		assert_string_equal(hear(fd), STATUS_ANSWER);
	assert_true(silent(fd));
	close(fd);
}

static void garbage_and_recovery(void **state)
{
	static const char junk[] = "\x00\xff{{{[[\x80\n";
	int fd = dial();

	for (int i = 0; i < 50; i++) {
		say_n(fd, junk, sizeof(junk) - 1);
		assert_non_null(strstr(hear(fd), "not JSON"));
	}
	say(fd, STATUS);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	/* The end of the connection inside a line: nothing is done, nothing stays. */
	say(fd, "{\"execute\":\"__lockstep_quit\"}");
	close(fd);
	clients_become(0);
	assert_int_equal(commands, 0);
}

#define CAPTURE "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[\"client\"]}}\n"

/* Send text with descriptors. Return: bytes sent */
static ssize_t send_fds(int fd, const char *text, const int *fds, int n)
{
	union {
		char buf[CMSG_SPACE(8 * sizeof(int))];
		struct cmsghdr head;
	} u = { .head = { CMSG_LEN((size_t)n * sizeof(int)), SOL_SOCKET, SCM_RIGHTS } };
	struct iovec iov = { (void *)text, strlen(text) };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf,
			      .msg_controllen = CMSG_SPACE((size_t)n * sizeof(int)) };

	memcpy(CMSG_DATA(&u.head), fds, (size_t)n * sizeof(int));
	return sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void say_fds(int fd, const char *text, const int *fds, int n)
{
	assert_int_equal(send_fds(fd, text, fds, n), strlen(text));
}

static int open_fds(void)
{
	int n = 0;

	for (int i = 0; i < 1000; i++)
		n += fcntl(i, F_GETFD) >= 0;
	return n;
}

/* That the descriptor in @taken is the other end of @p, and close it. */
static void take(int p[2])
{
	char c = 0;

	assert_true(taken >= 0);
	assert_int_equal(fcntl(taken, F_GETFD), FD_CLOEXEC);
	assert_int_equal(write(taken, "!", 1), 1);
	assert_int_equal(recv(p[0], &c, 1, 0), 1);
	assert_int_equal(c, '!');
	close(taken);
	taken = -1;
}

static void descriptors(void **state)
{
	int fd = dial(), p[2], q[2], before, half = 20;
	char long_line[MONITOR_MAX_LINE + 100];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, q), 0);
	say(fd, STATUS);
	hear(fd);
	before = open_fds();

	/* The capture gets it, with a whole line, and with the pieces of one. */
	say_fds(fd, CAPTURE, &p[1], 1);
	assert_string_equal(hear(fd), "{\"return\":{}}");
	assert_int_equal(last.capture.points, 1 << CAPTURE_CLIENT);
	take(p);
	say_n(fd, CAPTURE, (size_t)half);
	say_fds(fd, CAPTURE + half, &p[1], 1);
	assert_string_equal(hear(fd), "{\"return\":{}}");
	take(p);
	say_fds(fd, "{", &p[1], 1);
	say(fd, CAPTURE + 1);
	assert_string_equal(hear(fd), "{\"return\":{}}");
	take(p);

	/* Without one it is refused, also when the request before had one. */
	say(fd, CAPTURE);
	assert_non_null(strstr(hear(fd), "needs a stream socket"));
	say_fds(fd, STATUS, &p[1], 1);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	say(fd, CAPTURE);
	assert_non_null(strstr(hear(fd), "needs a stream socket"));
	assert_int_equal(stats().closed_fds, 1);

	/* Requests that are read in one go: it belongs to the last one. */
	say_fds(fd, STATUS STATUS CAPTURE, &p[1], 1);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	assert_string_equal(hear(fd), "{\"return\":{}}");
	take(p);
	say_fds(fd, CAPTURE STATUS, &p[1], 1);
	assert_non_null(strstr(hear(fd), "needs a stream socket"));
	assert_string_equal(hear(fd), STATUS_ANSWER);
	assert_int_equal(stats().closed_fds, 2);
	/* More lines than a turn serves, and each of two captures gets its own. */
	say(fd, STATUS STATUS STATUS STATUS STATUS STATUS STATUS STATUS STATUS STATUS);
	say_fds(fd, CAPTURE, &p[1], 1);
	for (int i = 0; i < 10; i++)
		assert_string_equal(hear(fd), STATUS_ANSWER);
	assert_string_equal(hear(fd), "{\"return\":{}}");
	take(p);
	mode = MODE_LATER;
	token = 0;
	say(fd, CHECKPOINT);
	say_fds(fd, CAPTURE, &p[1], 1);
	say_fds(fd, STATUS, &q[1], 1);
	while (!token)
		usleep(1000);
	mode = MODE_OK;
	in_loop(&(struct job){ .token = token }, job_reply);
	assert_non_null(strstr(hear(fd), "42"));
	assert_string_equal(hear(fd), "{\"return\":{}}");
	assert_string_equal(hear(fd), STATUS_ANSWER);
	take(p);
	assert_int_equal(stats().closed_fds, 3);

	/* Too many: together, one after the other, more than the kernel is given room for. */
	say_fds(fd, CAPTURE, (int[]){ p[1], q[1] }, 2);
	assert_non_null(strstr(hear(fd), "one descriptor"));
	say_fds(fd, "{", &p[1], 1);
	say_fds(fd, CAPTURE + 1, &q[1], 1);
	assert_non_null(strstr(hear(fd), "one descriptor"));
	say_fds(fd, CAPTURE, (int[]){ p[1], q[1], p[1], q[1], p[1] }, 5);
	assert_non_null(strstr(hear(fd), "one descriptor"));
	assert_int_equal(open_fds(), before);

	/* With what is no request, a line that is too long, an empty one, and inside a line that never ends. */
	say_fds(fd, "nonsense\n", &p[1], 1);
	assert_non_null(strstr(hear(fd), "not JSON"));
	memset(long_line, ' ', sizeof(long_line) - 1);
	long_line[sizeof(long_line) - 1] = '\0';
	say_fds(fd, long_line, &p[1], 1);
	assert_non_null(strstr(hear(fd), "longer than"));
	say_fds(fd, "  \n", &p[1], 1);
	say_fds(fd, "\n", &p[1], 1);
	say(fd, CAPTURE);
	assert_non_null(strstr(hear(fd), "needs a stream socket"));
	assert_int_equal(open_fds(), before);
	say_fds(fd, "{", &p[1], 1);
	close(fd);
	clients_become(0);
	close(p[1]);
	/* Nobody else holds the other end any more. */
	assert_int_equal(recv(p[0], long_line, 1, 0), 0);
	close(p[0]);
	close(q[0]);
	close(q[1]);
}

static void long_lines(void **state)
{
	char *x = malloc(10 * MONITOR_MAX_LINE);
	int fd = dial();

	memset(x, ' ', 10 * MONITOR_MAX_LINE);
	say_n(fd, x, 10 * MONITOR_MAX_LINE);
	assert_non_null(strstr(hear(fd), "longer than 16384 bytes"));
	say(fd, "\n" STATUS);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	/* As long as is allowed: blanks and a request at the end. */
	memcpy(x + MONITOR_MAX_LINE + 1 - strlen(STATUS), STATUS, strlen(STATUS));
	say_n(fd, x, MONITOR_MAX_LINE + 1);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	/* One byte more. */
	say(fd, " ");
	say_n(fd, x, MONITOR_MAX_LINE + 1);
	assert_non_null(strstr(hear(fd), "longer than"));
	say(fd, STATUS);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	assert_int_equal(stats().long_lines, 2);
	free(x);
	close(fd);
}

static void many_clients(void **state)
{
	int fd[MONITOR_MAX_CLIENTS], one_more;

	for (int i = 0; i < MONITOR_MAX_CLIENTS; i++) {
		fd[i] = dial();
		say(fd[i], STATUS);
	}
	for (int i = 0; i < MONITOR_MAX_CLIENTS; i++)
		assert_string_equal(hear(fd[i]), STATUS_ANSWER);
	one_more = dial();
	assert_non_null(strstr(hear(one_more), "too many clients"));
	assert_string_equal(hear(one_more), "EOF");
	close(one_more);
	assert_int_equal(stats().refused_full, 1);
	close(fd[3]);
	clients_become(MONITOR_MAX_CLIENTS - 1);
	fd[3] = dial();
	say(fd[3], STATUS);
	assert_string_equal(hear(fd[3]), STATUS_ANSWER);
	for (int i = 0; i < MONITOR_MAX_CLIENTS; i++)
		close(fd[i]);
	clients_become(0);
}

static void answer_later(void **state)
{
	struct err no = { .code = -EIO, .msg = "the secondary is gone" };
	int fd = dial(), other = dial();
	struct job j = { 0 };
	nstime end = clock_ns() + WAIT_MS * NS_PER_MS;

	mode = MODE_LATER;
	say(fd, CHECKPOINT STATUS);
	while (!token) {
		assert_true(clock_ns() < end);
		usleep(1000);
	}
	/* Others are served meanwhile; this one gets nothing before its turn. */
	say(other, STATUS);
	assert_string_equal(hear(other), STATUS_ANSWER);
	assert_true(silent(fd));
	j.token = token;
	in_loop(&j, job_reply);
	assert_int_equal(j.rc, 0);
	assert_string_equal(hear(fd), "{\"return\":42,\"id\":\"c\"}");
	assert_string_equal(hear(fd), STATUS_ANSWER);
	/* A second answer with the same token belongs to nobody. */
	in_loop(&j, job_reply);
	assert_int_equal(j.rc, -ENOENT);

	token = 0;
	say(fd, CHECKPOINT);
	while (!token)
		usleep(1000);
	j.token = token;
	j.error = &no;
	in_loop(&j, job_reply);
	assert_string_equal(hear(fd),
		"{\"error\":{\"class\":\"GenericError\",\"desc\":\"the secondary is gone\"},\"id\":\"c\"}");

	/* The client goes away while its command is under way. */
	token = 0;
	say(fd, CHECKPOINT);
	while (!token)
		usleep(1000);
	close(fd);
	clients_become(1);
	j.token = token;
	in_loop(&j, job_reply);
	assert_int_equal(j.rc, -ENOENT);
	mode = MODE_OK;
	close(other);
}

static void reply_and_event_inside_the_call(void **state)
{
	int fd = dial();

	say(fd, EVENTS);
	assert_string_equal(hear(fd), "{\"return\":{}}");
	mode = MODE_INSIDE;
	say(fd, CHECKPOINT STATUS);
	assert_non_null(strstr(hear(fd), "{\"event\":\"__LOCKSTEP_BEFORE\""));
	assert_string_equal(hear(fd), "{\"return\":9,\"id\":\"c\"}");
	assert_string_equal(hear(fd), STATUS_ANSWER);
	mode = MODE_OK;
	close(fd);
}

static void half_closed(void **state)
{
	struct job j = { .size = 3 };
	int fd = dial();

	say(fd, STATUS CHECKPOINT);
	shutdown(fd, SHUT_WR);
	assert_string_equal(hear(fd), STATUS_ANSWER);
	assert_string_equal(hear(fd), "{\"return\":{},\"id\":\"c\"}");
	assert_string_equal(hear(fd), "EOF");
	close(fd);
	/* A watcher stays: `echo ... | socat - UNIX:...` follows events. */
	fd = dial();
	say(fd, EVENTS);
	shutdown(fd, SHUT_WR);
	assert_string_equal(hear(fd), "{\"return\":{}}");
	in_loop(&j, job_event);
	assert_non_null(strstr(hear(fd), "\"data\":\"xxx\""));
	close(fd);
	clients_become(0);
}

static void slow_watcher_is_dropped(void **state)
{
	struct job j = { .size = 4000 };
	int slow = dial(), good = dial(), i;

	say(slow, EVENTS);
	say(good, EVENTS);
	assert_string_equal(hear(slow), "{\"return\":{}}");
	assert_string_equal(hear(good), "{\"return\":{}}");
	assert_int_equal(stats().watchers, 2);
	for (i = 0; !stats().dropped_slow; i++) {
		assert_true(i < 1000);
		in_loop(&j, job_event);
		assert_non_null(strstr(hear(good), "__LOCKSTEP_STATE"));
	}
	/* Not at once, and not before the limit. */
	assert_true(i * 4000 > MONITOR_MAX_OUT);
	assert_int_equal(stats().watchers, 1);
	assert_int_equal(stats().clients, 1);
	say(good, STATUS);
	assert_string_equal(hear(good), STATUS_ANSWER);
	close(slow);
	/* An event larger than the limit ends the watcher, too, not the process. */
	j.size = MONITOR_MAX_OUT + 1;
	in_loop(&j, job_event);
	assert_string_equal(hear(good), "EOF");
	close(good);
	in_loop(&j, job_event);
	clients_become(0);
}

/* A slow watcher that catches up in time gets everything, in order, whole. */
static void slow_watcher_catches_up(void **state)
{
	struct job j = { .size = 4000 };
	int fd = dial();

	say(fd, EVENTS);
	assert_string_equal(hear(fd), "{\"return\":{}}");
	for (int i = 0; i < 80; i++) {
		j.size = 4000 + i;
		in_loop(&j, job_event);
	}
	assert_int_equal(stats().dropped_slow, 0);
	for (int i = 0; i < 80; i++) {
		const char *line = hear(fd), *x = strchr(line, 'x');

		assert_non_null(x);
		assert_int_equal(strspn(x, "x"), 4000 + i);
	}
	close(fd);
}

/* Who asks and asks and does not read is served no faster than he reads, and loses nothing. */
static void asks_without_reading(void **state)
{
	int fd = dial(), other = dial(), sent = 0, heard = 0;
	size_t at = 0, len = strlen(STATUS);
	nstime last_sent = clock_ns();

	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (clock_ns() - last_sent < 200 * NS_PER_MS && sent < 200000) {
		ssize_t n = send(fd, STATUS + at, len - at, MSG_NOSIGNAL);

		if (n < 0) {
			usleep(1000);
			continue;
		}
		last_sent = clock_ns();
		at += (size_t)n;
		if (at == len) {
			at = 0;
			sent++;
		}
	}
	assert_true(sent < 200000);
	assert_int_equal(stats().dropped_slow, 0);
	say(other, STATUS);
	assert_string_equal(hear(other), STATUS_ANSWER);
	fcntl(fd, F_SETFL, 0);
	while (heard < sent) {
		assert_string_equal(hear(fd), STATUS_ANSWER);
		heard++;
	}
	assert_true(at || silent(fd));
	close(fd);
	close(other);
}

static void instance(void **state)
{
	struct loop *l2;
	struct monitor *m2;
	struct stat st;
	struct err e = { 0 };
	int status;
	pid_t pid;

	assert_int_equal(stat(path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 07777, 0600);
	l2 = loop_new("second", &e);
	assert_null(monitor_new(l2, dir, "web", &ops, NULL, &e));
	assert_int_equal(e.code, -EBUSY);
	assert_non_null(strstr(e.msg, "web runs already"));
	assert_int_equal(access(path, F_OK), 0);
	assert_null(monitor_new(l2, dir, "no/good", &ops, NULL, &e));
	assert_int_equal(e.code, -EINVAL);

	/* One that is killed leaves its socket; the next of that name takes its place. */
	pid = fork();
	if (!pid) {
		m2 = monitor_new(l2, dir, "dead", &ops, NULL, &e);
		kill(getpid(), m2 ? SIGKILL : SIGTERM);
		_exit(1);
	}
	waitpid(pid, &status, 0);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	snprintf(path, sizeof(path), "%s/dead.sock", dir);
	assert_int_equal(access(path, F_OK), 0);
	assert_int_equal(dial(), -1);
	m2 = monitor_new(l2, dir, "dead", &ops, NULL, &e);
	assert_non_null(m2);
	status = dial();
	assert_true(status >= 0);
	close(status);
	monitor_free(m2);
	assert_int_equal(access(path, F_OK), -1);
	loop_free(l2);
	snprintf(path, sizeof(path), "%s/web.sock", dir);
}

static void other_users(void **state)
{
	int status, fd;
	pid_t pid;

	if (geteuid())
		skip();
	/* The file's mode would stop them already; open it, to see the second bolt. */
	assert_int_equal(chmod(dir, 0711), 0);
	assert_int_equal(chmod(path, 0666), 0);
	pid = fork();
	if (!pid) {
		const char *line;

		if (setgid(65534) || setuid(65534))
			_exit(1);
		fd = dial();
		if (fd < 0)
			_exit(2);
		line = hear(fd);
		if (!strstr(line, "only the user who runs this VM"))
			_exit(3);
		_exit(strcmp(hear(fd), "EOF") ? 4 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(stats().refused_user, 1);
}

/* Clients that do anything at all. */
static void chaos(void **state)
{
	static const char *const lines[] = { STATUS, CHECKPOINT, EVENTS, "{\"execute\":\"__lockstep_quit\"}\n",
		"{]\n", "\n",
		"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" };
	unsigned int seed = (unsigned int)time(NULL);
	int fd[12];
	struct job j = { .size = 100 };
	int own[2] = { STDIN_FILENO, STDERR_FILENO }, before = open_fds();
	char buf[5000];

	if (getenv("SEED"))
		seed = (unsigned int)strtoul(getenv("SEED"), NULL, 10);
	print_message("seed %u\n", seed);
	srand(seed);
	for (int i = 0; i < 12; i++)
		fd[i] = dial();
	for (int i = 0; i < 6000; i++) {
		int k = rand() % 12;
		const char *l = lines[(size_t)rand() % 7];

		if (fd[k] < 0)
			fd[k] = dial();
		switch (rand() % 11) {
		case 10:
			send_fds(fd[k], rand() % 2 ? CAPTURE : "{", own, 1 + rand() % 2);
			break;
		case 0:
			close(fd[k]);
			fd[k] = -1;
			break;
		case 1:
			shutdown(fd[k], SHUT_WR);
			break;
		case 2:
			while (recv(fd[k], buf, sizeof(buf), MSG_DONTWAIT) > 0)
				;
			break;
		case 3:
			in_loop(&j, job_event);
			break;
		case 4:
			memset(buf, rand(), sizeof(buf));
			send(fd[k], buf, (size_t)rand() % sizeof(buf), MSG_DONTWAIT | MSG_NOSIGNAL);
			break;
		default:
			send(fd[k], l, (size_t)rand() % (strlen(l) + 1), MSG_DONTWAIT | MSG_NOSIGNAL);
			if (rand() % 2)
				send(fd[k], l, strlen(l), MSG_DONTWAIT | MSG_NOSIGNAL);
		}
	}
	for (int i = 0; i < 12; i++)
		if (fd[i] >= 0)
			close(fd[i]);
	clients_become(0);
	assert_int_equal(stats().watchers, 0);
	if (taken >= 0)
		close(taken);
	taken = -1;
	assert_int_equal(open_fds(), before);
	fd[0] = dial();
	say(fd[0], STATUS);
	assert_string_equal(hear(fd[0]), STATUS_ANSWER);
	close(fd[0]);
}

/* The monitor goes while clients are connected, one of them waiting. */
static void freed_under_clients(void **state)
{
	int fd = dial();
	nstime end = clock_ns() + WAIT_MS * NS_PER_MS;

	mode = MODE_LATER;
	say(fd, CHECKPOINT);
	while (!token) {
		assert_true(clock_ns() < end);
		usleep(1000);
	}
	/* teardown() does the rest; the descriptor is left to the process's end on purpose. */
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(questions_and_answers), T(byte_by_byte_and_all_at_once), T(garbage_and_recovery), T(descriptors),
		T(long_lines), T(many_clients), T(answer_later), T(reply_and_event_inside_the_call), T(half_closed),
		T(slow_watcher_is_dropped), T(slow_watcher_catches_up), T(asks_without_reading), T(instance),
			T(other_users),
		T(chaos), T(freed_under_clients),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
