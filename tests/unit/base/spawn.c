/* SPDX-License-Identifier: BSD-2-Clause */
/* Children: their user, their rights, whom they follow; made here and by the helper; what the helper reads. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/spawn_internal.h"

#define WAIT_MS 20000

static pid_t start(const char *script, const struct account *as, struct spawn_fd *fds, unsigned int n, const char *const *vars)
{
	char *argv[] = { "sh", "-c", (char *)script, NULL };
	struct spawn_spec s = { .path = "/bin/sh", .argv = argv, .fds = fds, .n_fds = n, .vars = vars, .report = -1, .as = as,
				.session = true, .dies = true };
	struct err e = { 0 };
	pid_t pid = spawn(&s, &e);

	if (pid < 0)
		fail_msg("%s", e.msg);
	return pid;
}

static int ends(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static bool user(struct account *a)
{
	struct err e = { 0 };

	if (geteuid() || !getpwnam("nobody"))
		return false;
	if (account_parse("nobody", a, &e))
		fail_msg("%s", e.msg);
	return true;
}

static void test_accounts(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {
		{ "root", "is root" }, { "no-such-user", "no user 'no-such-user'" }, { "nobody:no-such-group", "no group" },
		{ "", "no user" }, { "012345678901234567890123456789012345678901234567890123456789abcd", "63 characters" },
	};
	struct account a;
	struct err e = { 0 };

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		assert_int_equal(account_parse(bad[i].text, &a, &e), -EINVAL);
		assert_non_null(strstr(e.msg, bad[i].says));
	}
	if (!user(&a))
		skip();
	assert_int_equal(account_parse("nobody:daemon", &a, &e), 0);
	assert_int_equal(a.gid, 1);
	assert_int_equal(account_may(&a, "/bin/sh", X_OK, &e), 0);
	assert_int_equal(account_may(&a, "/etc/shadow", R_OK, &e), -EACCES);
	assert_non_null(strstr(e.msg, "nobody:daemon may not read /etc/shadow"));
}

/* Its ids, its groups, no capabilities, no way to new ones, and only the descriptors that it was given. */
static void becomes(void)
{
	struct account a;
	int p[2], extra = open("/dev/null", O_RDWR);
	struct spawn_fd fds[1];
	char script[512], *argv[] = { "sh", "-c", script, NULL };
	(void)argv;

	if (!user(&a))
		skip();
	assert_int_equal(pipe(p), 0);
	fds[0] = (struct spawn_fd){ p[1], 7, 0 };
	snprintf(script, sizeof(script), "test \"$(id -u):$(id -g):$(id -G)\" = %u:%u:%u || exit 2; grep -q '^CapEff:.0000000000000000' "
		 "/proc/self/status || exit 3; grep -q '^NoNewPrivs:.1' /proc/self/status || exit 4; "
		 "test ! -e /proc/$$/fd/%d || exit 5; echo x >&7", a.uid, a.gid, a.gid, extra > 10 ? extra : 99);
	assert_int_equal(ends(start(script, &a, fds, 1, NULL)), 0);
	assert_int_equal(read(p[0], script, 2), 2);
	close(p[0]);
	close(p[1]);
	close(extra);
}

static void test_user(void **state)
{
	becomes();
}

static void test_user_helper(void **state)
{
	assert_int_equal(spawn_helper_start(NULL), 0);
	becomes();
	spawn_helper_end();
	assert_int_equal(spawn_helper_pid(), 0);
}

/* Kill whoever has started a child that runs as another user: the child must be dead, though its user changed. */
static void follows(bool with_helper, bool other)
{
	struct account a = { 0 };

	if (other && !user(&a))
		skip();
	for (int i = 0; i < 10; i++) {
		struct pollfd pfd = { .events = POLLIN };
		int report[2];
		pid_t parent, child = 0;

		assert_int_equal(pipe2(report, O_CLOEXEC), 0);
		parent = fork();
		if (!parent) {
			if (with_helper && spawn_helper_start(NULL))
				_exit(1);
			child = start("trap '' TERM HUP INT; exec sleep 1000", other ? &a : NULL, NULL, 0, NULL);
			(void)!write(report[1], &child, sizeof(child));
			pause();
		}
		assert_int_equal(read(report[0], &child, sizeof(child)), sizeof(child));
		pfd.fd = (int)syscall(SYS_pidfd_open, child, 0);
		assert_true(pfd.fd >= 0);
		/* It has its program, so nothing is yet to come that could undo it. */
		for (int k = 0; k < WAIT_MS / 10; k++) {
			char path[64], name[32] = "";
			int fd;

			snprintf(path, sizeof(path), "/proc/%d/comm", (int)child);
			fd = open(path, O_RDONLY);
			(void)!read(fd, name, sizeof(name) - 1);
			close(fd);
			if (!strcmp(name, "sleep\n"))
				break;
			nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
		}
		assert_int_equal(poll(&pfd, 1, 0), 0);
		kill(parent, SIGKILL);
		assert_int_equal(waitpid(parent, NULL, 0), parent);
		assert_int_equal(poll(&pfd, 1, WAIT_MS), 1);
		close(pfd.fd);
		close(report[0]);
		close(report[1]);
	}
}

static void test_follows(void **state)
{
	follows(false, false);
}

static void test_follows_user(void **state)
{
	follows(false, true);
}

static void test_follows_helper(void **state)
{
	follows(true, false);
}

static void test_follows_user_helper(void **state)
{
	follows(true, true);
}

/* The helper's children are ours, so we learn of their end; and why one did not get as far as its program. */
static void test_helper(void **state)
{
	const char *good[] = { "V=a/b.c:[1]%2_-, x", NULL };
	char *argv[] = { "x", NULL };
	struct spawn_failure f = { 0 };
	struct spawn_spec s = { .path = "/nonexistent", .argv = argv, .session = true };
	struct err e = { 0 };
	int p[2], status;
	pid_t pid;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	assert_int_equal(spawn_helper_start(&e), 0);
	assert_int_equal(ends(start("exit 42", NULL, NULL, 0, NULL)), 42);
	assert_int_equal(ends(start("test \"$V\" = 'a/b.c:[1]%2_-, x'", NULL, NULL, 0, good)), 0);
	s.report = p[1];
	pid = spawn(&s, &e);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(read(p[0], &f, sizeof(f)), sizeof(f));
	assert_int_equal(f.stage, SPAWN_EXEC);
	assert_int_equal(f.error, ENOENT);
	/* Values with anything that a shell would see a meaning in do not pass. */
	s.report = -1;
	s.vars = (const char *[]){ "V=a;b", NULL };
	assert_int_equal(spawn(&s, &e), -EPROTO);
	s.vars = (const char *[]){ "V=$(x)", NULL };
	assert_int_equal(spawn(&s, &e), -EPROTO);
	spawn_helper_end();
	close(p[0]);
	close(p[1]);
}

/* Whatever a request is turned into, the reader stays inside of it. */
static void test_reader(void **state)
{
	static uint8_t msg[SPAWN_MSG], copy[SPAWN_MSG];
	static struct spawn_read r;
	char *argv[] = { "program", "-option", "value", NULL };
	const char *env[] = { "A=b", NULL }, *vars[] = { "V=12", NULL };
	struct spawn_fd fds[] = { { 0, 0, 0 }, { 0, 5, 4096 } };
	struct account as = { .uid = 1, .gid = 2, .groups = { 2, 3 }, .n_groups = 2 };
	struct spawn_spec s = { .path = "/p", .argv = argv, .env = env, .vars = vars, .fds = fds, .n_fds = 2, .as = &as,
				.report = 0, .dies = true };
	int len = spawn_write(&s, SPAWN_OP_START, msg, sizeof(msg));
	const char *env_seed = getenv("LOCKSTEP_SEED");
	unsigned int seed = env_seed ? (unsigned int)strtoul(env_seed, NULL, 10) : (unsigned int)time(NULL);
	struct cursor c;
	uint32_t fixed;

	assert_true(len > SPAWN_HEAD);
	c = cursor_of(msg + 8, 4);
	fixed = cursor_u32(&c);
	assert_int_equal(spawn_read(&r, msg + SPAWN_HEAD, fixed, msg + SPAWN_HEAD + fixed, (size_t)len - SPAWN_HEAD - fixed), 0);
	assert_string_equal(r.s.path, "/p");
	assert_string_equal(r.argv[2], "value");
	assert_null(r.argv[3]);
	assert_string_equal(r.vars[0], "V=12");
	assert_int_equal(r.fds[1].to, 5);
	assert_int_equal(r.fds[1].sndbuf, 4096);
	assert_int_equal(r.s.as->groups[1], 3);
	assert_true(r.s.dies && !r.s.session && r.report);
	for (size_t cut = 0; cut < fixed; cut++) {
		uint8_t *exact = malloc(cut ? cut : 1);

		memcpy(exact, msg + SPAWN_HEAD, cut);
		assert_int_equal(spawn_read(&r, exact, cut, NULL, 0), -EPROTO);
		free(exact);
	}
	print_message("seed %u\n", seed);
	srand(seed);
	for (int i = 0; i < 20000; i++) {
		uint8_t *exact = malloc(fixed);

		memcpy(copy, msg, (size_t)len);
		for (int k = rand() % 4; k >= 0; k--)
			copy[SPAWN_HEAD + (unsigned int)rand() % fixed] = (uint8_t)rand();
		memcpy(exact, copy + SPAWN_HEAD, fixed);
		spawn_read(&r, exact, fixed, copy + SPAWN_HEAD + fixed, (size_t)len - SPAWN_HEAD - fixed);
		free(exact);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_accounts), cmocka_unit_test(test_user), cmocka_unit_test(test_user_helper),
		cmocka_unit_test(test_follows), cmocka_unit_test(test_follows_user), cmocka_unit_test(test_follows_helper),
		cmocka_unit_test(test_follows_user_helper), cmocka_unit_test(test_helper), cmocka_unit_test(test_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
