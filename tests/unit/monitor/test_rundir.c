/* SPDX-License-Identifier: BSD-2-Clause */
/* Names, directories, and the lock that makes an instance the only one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor/rundir.h"

static char dir[64];

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/lockstep-test-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

static void names(void **state)
{
	static const char *const good[] = { "web", "a", "0", "_x", "a.b-c_D9",
		"123456789012345678901234567890123456789012345678901234567890123" };
	static const char *const bad[] = { "", ".", "..", ".web", "-web", "a/b", "a b", "w\xc3\xa9", "a\n", "../x",
		"1234567890123456789012345678901234567890123456789012345678901234" };
	struct err e;

	for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
		assert_int_equal(rundir_name_check(good[i], &e), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		e.msg[0] = '\0';
		assert_int_equal(rundir_name_check(bad[i], &e), -EINVAL);
		assert_non_null(strstr(e.msg, "name"));
	}
}

static void default_dir(void **state)
{
	char out[PATH_MAX], small[8];
	struct err e;

	setenv("LOCKSTEP_RUN_DIR", "/somewhere", 1);
	assert_int_equal(rundir_default(out, sizeof(out), &e), 0);
	assert_string_equal(out, "/somewhere");
	assert_int_equal(rundir_default(small, sizeof(small), &e), -ENAMETOOLONG);
	unsetenv("LOCKSTEP_RUN_DIR");
	setenv("XDG_RUNTIME_DIR", "/run/user/7", 1);
	assert_int_equal(rundir_default(out, sizeof(out), &e), 0);
	assert_string_equal(out, geteuid() ? "/run/user/7/lockstep" : "/run/lockstep");
	if (geteuid()) {
		unsetenv("XDG_RUNTIME_DIR");
		assert_int_equal(rundir_default(out, sizeof(out), &e), -ENOENT);
		assert_non_null(strstr(e.msg, "--run-dir"));
	}
}

static void make(void **state)
{
	char path[200];
	struct stat st;
	struct err e;

	snprintf(path, sizeof(path), "%s/a/b/c", dir);
	assert_int_equal(rundir_make(path, &e), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_int_equal(rundir_make(path, &e), 0);
	assert_int_equal(chmod(path, 0777), 0);
	assert_int_equal(rundir_make(path, &e), -EPERM);
	assert_non_null(strstr(e.msg, "written by others"));
	snprintf(path, sizeof(path), "%s/file", dir);
	close(open(path, O_CREAT | O_WRONLY, 0600));
	assert_int_equal(rundir_make(path, &e), -ENOTDIR);
	snprintf(path, sizeof(path), "%s/file/below", dir);
	assert_int_equal(rundir_make(path, &e), -ENOTDIR);
}

static void socket_path(void **state)
{
	char out[200], deep[150];
	struct err e;

	assert_int_equal(rundir_socket("/run/lockstep", "web", out, sizeof(out), &e), 0);
	assert_string_equal(out, "/run/lockstep/web.sock");
	memset(deep, 'd', sizeof(deep) - 1);
	deep[0] = '/';
	deep[sizeof(deep) - 1] = '\0';
	assert_int_equal(rundir_socket(deep, "web", out, sizeof(out), &e), -ENAMETOOLONG);
	assert_non_null(strstr(e.msg, "--run-dir"));
}

static void second_is_refused(void **state)
{
	char pid[32], path[200];
	struct err e = { 0 };
	int a, b;

	a = rundir_lock(dir, "web", &e);
	assert_true(a >= 0);
	/* flock() is per open file, so the same process stands for another one. */
	assert_int_equal(rundir_lock(dir, "web", &e), -EBUSY);
	snprintf(pid, sizeof(pid), "pid %d", getpid());
	assert_non_null(strstr(e.msg, pid));
	b = rundir_lock(dir, "web2", &e);
	assert_true(b >= 0);
	rundir_unlock(a, dir, "web");
	rundir_unlock(b, dir, "web2");
	snprintf(path, sizeof(path), "%s/web.lock", dir);
	assert_int_equal(access(path, F_OK), -1);
	a = rundir_lock(dir, "web", &e);
	assert_true(a >= 0);
	rundir_unlock(a, dir, "web");
}

/* A killed process gives its name back; its files stay and do not matter. */
static void dead_gives_back(void **state)
{
	struct err e = { 0 };
	int status, fd;
	pid_t pid = fork();

	if (!pid) {
		if (rundir_lock(dir, "web", &e) < 0)
			_exit(1);
		kill(getpid(), 9);
		_exit(2);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	fd = rundir_lock(dir, "web", &e);
	assert_true(fd >= 0);
	rundir_unlock(fd, dir, "web");
}

/* What is exec'd must not hold the name: QEMU may live a moment longer than we do. */
static void not_inherited(void **state)
{
	struct err e = { 0 };
	int fd = rundir_lock(dir, "web", &e);

	assert_true(fd >= 0);
	assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
	rundir_unlock(fd, dir, "web");
}

/* Starters and enders in a race: at most one holds the name at any time. */
static void race(void **state)
{
	char holder[200];
	int status;
	pid_t pid[4];

	snprintf(holder, sizeof(holder), "%s/holder", dir);
	for (int k = 0; k < 4; k++) {
		pid[k] = fork();
		if (pid[k])
			continue;
		for (int i = 0; i < 300; i++) {
			struct err e;
			int fd = rundir_lock(dir, "web", &e), h;

			if (fd < 0)
				continue;
			h = open(holder, O_CREAT | O_EXCL | O_WRONLY, 0600);
			if (h < 0)
				_exit(1);
			unlink(holder);
			close(h);
			rundir_unlock(fd, dir, "web");
		}
		_exit(0);
	}
	for (int k = 0; k < 4; k++) {
		assert_int_equal(waitpid(pid[k], &status, 0), pid[k]);
		assert_int_equal(status, 0);
	}
}

static void collect(void *arg, const char *name)
{
	strcat(arg, name);
	strcat(arg, ";");
}

static void list(void **state)
{
	char path[200], names[200] = "";
	struct err e = { 0 };
	int fd;

	snprintf(path, sizeof(path), "%s/none", dir);
	assert_int_equal(rundir_list(path, collect, names, &e), 0);
	for (int i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, (const char *[]){ "web.sock", "stale.sock", ".sock" }[i]);
		close(open(path, O_CREAT | O_WRONLY, 0600));
	}
	fd = rundir_lock(dir, "web", &e);
	assert_true(fd >= 0);
	assert_int_equal(rundir_list(dir, collect, names, &e), 1);
	assert_string_equal(names, "web;");
	rundir_unlock(fd, dir, "web");
	assert_int_equal(rundir_list(dir, collect, names, &e), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(names), T(default_dir), T(make), T(socket_path), T(second_is_refused), T(dead_gives_back),
		T(not_inherited), T(race), T(list),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
