/* SPDX-License-Identifier: BSD-2-Clause */
/* Child processes: descriptors, last words, ends; and that none outlives the process that started it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/loop.h"
#include "engine/process.h"

#define WAIT_S 20

struct ctx {
	struct loop *loop;
	struct process proc;
	struct loop_timer guard;
	bool timed_out;
	unsigned int exits, lines;
	size_t longest;
	char first[64];
};

static void on_exited(struct process *p)
{
	struct ctx *c = p->arg;

	c->exits++;
	loop_stop(c->loop);
}

static void on_line(struct process *p, const char *line)
{
	struct ctx *c = p->arg;

	if (!c->lines++)
		snprintf(c->first, sizeof(c->first), "%.63s", line);
	if (strlen(line) > c->longest)
		c->longest = strlen(line);
}

static void on_guard(struct loop_timer *t)
{
	struct ctx *c = t->arg;

	c->timed_out = true;
	loop_stop(c->loop);
}

static void begin(struct ctx *c)
{
	struct err e = { 0 };

	memset(c, 0, sizeof(*c));
	c->loop = loop_new("test", &e);
	assert_non_null(c->loop);
	c->proc = (struct process){ .exited = on_exited, .line = on_line, .arg = c };
	c->guard = (struct loop_timer){ .fn = on_guard, .arg = c };
}

static void end(struct ctx *c)
{
	assert_int_equal(process_kill_wait(&c->proc, clock_ns() + WAIT_S * NS_PER_S), 0);
	loop_free(c->loop);
}

static int start_with(struct ctx *c, struct process_spec *spec, const char *script, struct err *e)
{
	char *const argv[] = { "sh", "-c", (char *)script, NULL };

	spec->file = "sh";
	spec->argv = argv;
	return process_start(&c->proc, c->loop, spec, e);
}

static void start(struct ctx *c, struct process_spec *spec, const char *script)
{
	struct err e = { 0 };

	if (start_with(c, spec, script, &e))
		fail_msg("%s", e.msg);
}

static void run(struct ctx *c)
{
	loop_timer_set(c->loop, &c->guard, clock_ns() + WAIT_S * NS_PER_S);
	loop_run(c->loop);
	assert_false(c->timed_out);
	assert_int_equal(c->exits, 1);
	assert_int_equal(c->proc.pid, 0);
}

static void test_ends(void **state)
{
	static const struct {
		const char *script, *status, *last;
	} t[] = {
		{ "exit 0", "exited with status 0", "" },
		{ "echo one >&2; printf 'two\\n\\nlast' >&2; exit 3", "exited with status 3", "last" },
		{ "kill -9 $$", "was killed by signal 9 (Killed)", "" },
		{ "kill -TERM $$", "was killed by signal 15 (Terminated)", "" },
		/* Standard input and output are not ours. */
		{ "cat; echo lost; test -c /dev/fd/0 && echo ok >&2", "exited with status 0", "ok" },
		/* A helper that keeps standard error open does not hide the end. */
		{ "echo bye >&2; sleep 1000 & exit 4", "exited with status 4", "bye" },
	};
	char text[80];

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct process_spec spec = { 0 };
		struct ctx c;

		begin(&c);
		start(&c, &spec, t[i].script);
		run(&c);
		assert_string_equal(process_status_text(c.proc.status, text, sizeof(text)), t[i].status);
		assert_string_equal(c.proc.last_line, t[i].last);
		end(&c);
	}
}

/* Each descriptor gets its number, also when the numbers are crossed, and no other one is there. */
static void test_descriptors(void **state)
{
	int a[2], b[2], extra = open("/dev/null", O_RDWR);
	struct process_fd fds[2];
	struct process_spec spec = { .fds = fds, .n_fds = 2 };
	struct ctx c;

	assert_int_equal(pipe(a), 0);
	assert_int_equal(pipe(b), 0);
	assert_int_equal(write(a[1], "from-a\n", 7), 7);
	assert_int_equal(write(b[1], "from-b\n", 7), 7);
	close(a[1]);
	close(b[1]);
	fds[0] = (struct process_fd){ a[0], b[0] };
	fds[1] = (struct process_fd){ b[0], a[0] };
	begin(&c);
	{
		char script[256];

		/* ls itself has one more open, for the directory. */
		snprintf(script, sizeof(script), "cat /dev/fd/%d /dev/fd/%d >&2; echo $(ls /proc/self/fd | wc -l) "
			 ">&2", a[0], b[0]);
		start(&c, &spec, script);
	}
	run(&c);
	assert_string_equal(c.first, "from-b");
	assert_int_equal(c.lines, 3);
	assert_string_equal(c.proc.last_line, "6");
	/* They are still ours. */
	assert_true(fcntl(a[0], F_GETFD) >= 0);
	end(&c);
	close(a[0]);
	close(b[0]);
	close(extra);
}

static void test_environment(void **state)
{
	static const char *const env[] = { "LOCKSTEP_T1=new value", "HOME=/elsewhere", NULL };
	struct process_spec spec = { .env = env };
	struct ctx c;

	setenv("LOCKSTEP_T1", "old", 1);
	setenv("LOCKSTEP_T2", "kept", 1);
	begin(&c);
	start(&c, &spec, "echo \"$LOCKSTEP_T1|$LOCKSTEP_T2|$HOME|$(env | grep -c ^LOCKSTEP_T1=)\" >&2");
	run(&c);
	assert_string_equal(c.proc.last_line, "new value|kept|/elsewhere|1");
	end(&c);
}

static void test_chatter(void **state)
{
	struct process_spec spec = { 0 };
	struct ctx c;

	begin(&c);
	start(&c, &spec, "head -c 300000 /dev/zero | tr '\\0' x >&2; echo >&2; i=0; while [ $i -lt 3000 ]; do echo $i; "
			 "i=$((i+1)); done >&2");
	run(&c);
	assert_int_equal(c.lines, 3001);
	assert_int_equal(c.longest, PROCESS_LINE_MAX - 1);
	assert_string_equal(c.proc.last_line, "2999");
	end(&c);
}

static void test_kill_and_restart(void **state)
{
	struct process_spec spec = { 0 };
	struct err e = { 0 };
	struct ctx c;

	begin(&c);
	assert_int_equal(process_kill_wait(&c.proc, 0), 0);
	for (int i = 0; i < 3; i++) {
		start(&c, &spec, "sleep 1000 & trap '' TERM INT HUP; wait");
		assert_int_equal(getsid(c.proc.pid), c.proc.pid);
		assert_int_equal(start_with(&c, &spec, "exit 0", &e), -EBUSY);
		assert_int_equal(process_kill_wait(&c.proc, clock_ns() + WAIT_S * NS_PER_S), 0);
		assert_int_equal(WTERMSIG(c.proc.status), SIGKILL);
	}
	assert_int_equal(c.exits, 0);
	start(&c, &spec, "exec sleep 1000");
	process_kill(&c.proc);
	run(&c);
	assert_true(WIFSIGNALED(c.proc.status));
	end(&c);
}

/* Dead, and nobody was told yet: where that is found out, what failed on it is known for what it is. */
static void test_dying(void **state)
{
	struct process_spec spec = { 0 };
	siginfo_t info;
	struct ctx c;

	begin(&c);
	assert_true(process_dying(&c.proc));
	start(&c, &spec, "exec sleep 1000");
	assert_false(process_dying(&c.proc));
	kill(c.proc.pid, SIGKILL);
	assert_int_equal(waitid(P_PID, (id_t)c.proc.pid, &info, WEXITED | WNOWAIT), 0);
	assert_true(process_dying(&c.proc));
	assert_int_equal(c.exits, 0);
	run(&c);
	assert_true(process_dying(&c.proc));
	end(&c);
}

static void test_refused(void **state)
{
	char dir[] = "/tmp/lockstep-test-XXXXXX", path[64], found[PATH_MAX], *argv[] = { "x", NULL };
	struct process_spec spec = { .argv = argv };
	struct err e = { 0 };
	struct ctx c;
	int fd;

	begin(&c);
	spec.file = "lockstep-no-such-program";
	assert_int_equal(process_start(&c.proc, c.loop, &spec, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "no such program in PATH"));
	assert_int_equal(process_find("sh", found, &e), 0);
	assert_int_equal(found[0], '/');

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/x", dir);
	fd = open(path, O_CREAT | O_WRONLY, 0644);
	assert_int_equal(write(fd, "\177ELF", 4), 4);
	close(fd);
	spec.file = path;
	assert_int_equal(process_start(&c.proc, c.loop, &spec, &e), -EACCES);
	chmod(path, 0755);
	assert_int_equal(process_start(&c.proc, c.loop, &spec, &e), -ENOEXEC);
	assert_non_null(strstr(e.msg, "could not be loaded"));
	chmod(path, 04755);
	assert_int_equal(process_start(&c.proc, c.loop, &spec, &e), -EPERM);
	assert_non_null(strstr(e.msg, "outlive"));
	unlink(path);
	rmdir(dir);

	spec = (struct process_spec){ .fds = &(struct process_fd){ 0, 2 }, .n_fds = 1 };
	assert_int_equal(start_with(&c, &spec, "exit 0", &e), -EINVAL);
	spec = (struct process_spec){ .fds = &(struct process_fd){ 999999, 7 }, .n_fds = 1 };
	assert_int_equal(start_with(&c, &spec, "exit 0", &e), -EBADF);
	assert_non_null(strstr(e.msg, "descriptors"));
	assert_int_equal(c.proc.pid, 0);
	assert_int_equal(c.exits, 0);
	end(&c);
}

static void *other_thread(void *arg)
{
	struct process_spec spec = { 0 };
	struct err e = { 0 };

	return (void *)(intptr_t)start_with(arg, &spec, "exit 0", &e);
}

static void test_other_thread(void **state)
{
	struct ctx c;
	pthread_t t;
	void *rc;

	begin(&c);
	assert_int_equal(pthread_create(&t, NULL, other_thread, &c), 0);
	pthread_join(t, &rc);
	assert_int_equal((int)(intptr_t)rc, -EINVAL);
	end(&c);
}

/* Kill the process that started it, and the child must be dead: the promise that all rests on. */
static void test_dies_with_us(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct pollfd pfd = { .events = POLLIN };
		int report[2];
		pid_t parent, child = 0;

		assert_int_equal(pipe2(report, O_CLOEXEC), 0);
		parent = fork();
		if (!parent) {
			struct process_spec spec = { 0 };
			struct ctx c;

			begin(&c);
			start(&c, &spec, "trap '' TERM HUP INT; exec sleep 1000");
			(void)!write(report[1], &c.proc.pid, sizeof(c.proc.pid));
			pause();
		}
		assert_int_equal(read(report[0], &child, sizeof(child)), sizeof(child));
		pfd.fd = (int)syscall(SYS_pidfd_open, child, 0);
		assert_true(pfd.fd >= 0);
		assert_int_equal(poll(&pfd, 1, 0), 0);
		kill(parent, SIGKILL);
		assert_int_equal(waitpid(parent, NULL, 0), parent);
		assert_int_equal(poll(&pfd, 1, WAIT_S * 1000), 1);
		close(pfd.fd);
		close(report[0]);
		close(report[1]);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

/* A child that made the terminal raw and its descriptors non-blocking, and was killed, leaves them as they were. */
static void test_terminal(void **state)
{
	struct process_spec spec = { .own_stdio = true };
	int saved[2] = { dup(0), dup(1) }, master, slave;
	struct termios before, after;
	struct ctx c;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(slave, &before), 0);
	dup2(slave, 0);
	dup2(slave, 1);
	begin(&c);
	start(&c, &spec, "stty raw -echo && echo raw >&2; kill -9 $$");
	run(&c);
	tcgetattr(slave, &after);
	dup2(saved[0], 0);
	dup2(saved[1], 1);
	assert_string_equal(c.proc.last_line, "raw");
	assert_int_equal(before.c_lflag, after.c_lflag);
	assert_int_equal(before.c_iflag, after.c_iflag);
	end(&c);
	close(saved[0]);
	close(saved[1]);
	close(master);
	close(slave);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ends), cmocka_unit_test(test_descriptors), cmocka_unit_test(test_environment),
		cmocka_unit_test(test_chatter), cmocka_unit_test(test_kill_and_restart), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_dying), cmocka_unit_test(test_other_thread), cmocka_unit_test(test_dies_with_us),
			cmocka_unit_test(test_terminal),
	};

	/* So that orphans of the children can be reaped. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
