/* SPDX-License-Identifier: BSD-2-Clause */
/* What a service manager hears; each case in a process of its own, since it is the environment that says to whom. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/notify.h"

/* A manager's socket; @name: a path, or an abstract name with an @ before it */
static int manager(const char *name)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	memcpy(to.sun_path, name, strlen(name));
	if (*name == '@')
		to.sun_path[0] = 0;
	else
		unlink(name);
	assert_int_equal(bind(fd, (struct sockaddr *)&to, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name))), 0);
	return fd;
}

static void hears(int fd, const char *want)
{
	char got[1024];
	ssize_t n = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);

	if (!want) {
		assert_int_equal(n, -1);
		return;
	}
	assert_true(n > 0);
	got[n] = 0;
	assert_string_equal(got, want);
}

/* In a child: 0 when all is as it should be. */
static int talk(const char *socket, const char *usec, const char *pid, nstime interval)
{
	char why[600];

	setenv("NOTIFY_SOCKET", socket, 1);
	if (usec)
		setenv("WATCHDOG_USEC", usec, 1);
	if (pid)
		setenv("WATCHDOG_PID", pid, 1);
	notify_init();
	if (getenv("NOTIFY_SOCKET") || getenv("WATCHDOG_USEC") || getenv("WATCHDOG_PID"))
		return 2;
	if (notify_watchdog() != interval)
		return 3;
	notify_ready();
	notify_ready();
	notify_alive();
	memset(why, 'x', sizeof(why) - 1);
	why[sizeof(why) - 1] = 0;
	notify_status("protected", "primary", "");
	notify_status("degraded", "primary", "why");
	notify_status("degraded", "primary", why);
	notify_stopping();
	notify_pass_on();
	if (interval != NS_NEVER && (!getenv("WATCHDOG_USEC") || strcmp(getenv("WATCHDOG_USEC"), usec)))
		return 4;
	return getenv("NOTIFY_SOCKET") && !strcmp(getenv("NOTIFY_SOCKET"), socket) ? 0 : 5;
}

static int in_child(const char *socket, const char *usec, const char *pid, nstime interval)
{
	int status;
	pid_t p = fork();

	if (!p)
		_exit(talk(socket, usec, pid, interval));
	assert_int_equal(waitpid(p, &status, 0), p);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void all_words(int fd, const char *ready)
{
	char long_one[1024], got[1024];
	ssize_t n;

	hears(fd, ready);
	hears(fd, "WATCHDOG=1");
	hears(fd, "STATUS=protected (primary)");
	hears(fd, "STATUS=degraded (primary): why");
	n = recv(fd, got, sizeof(got), MSG_DONTWAIT);
	assert_int_equal(n, 511);	/* cut */
	snprintf(long_one, sizeof(long_one), "STATUS=degraded (primary): x");
	assert_memory_equal(got, long_one, strlen(long_one));
	hears(fd, "STOPPING=1\nWATCHDOG_USEC=0");
	hears(fd, NULL);
}

static void words(void **state)
{
	char name[100];
	int fd;

	snprintf(name, sizeof(name), "/tmp/lockstep-notify-%d", (int)getpid());
	fd = manager(name);
	assert_int_equal(in_child(name, "2000000", NULL, NS_PER_S), 0);
	all_words(fd, "READY=1\nWATCHDOG_USEC=2000000");
	close(fd);
	unlink(name);
	snprintf(name, sizeof(name), "@lockstep-notify-%d", (int)getpid());
	fd = manager(name);
	assert_int_equal(in_child(name, "2000000", "1", NS_NEVER), 0);	/* another process's watchdog */
	all_words(fd, "READY=1");
	for (size_t i = 0; i < 4; i++) {
		static const char *const odd[] = { "", "0", "x", "99999999999999999999999999" };

		assert_int_equal(in_child(name, odd[i], NULL, NS_NEVER), 0);
		all_words(fd, "READY=1");
	}
	close(fd);
}

/* A manager that does not read: nothing is waited for, but for the words that are said once. */
static void deaf(void **state)
{
	struct timespec a, b;
	char name[100], got[100];
	int fd, status, n = 0;
	pid_t p;

	snprintf(name, sizeof(name), "@lockstep-notify-deaf-%d", (int)getpid());
	fd = manager(name);
	clock_gettime(CLOCK_MONOTONIC, &a);
	p = fork();
	if (!p) {
		setenv("NOTIFY_SOCKET", name, 1);
		notify_init();
		for (int i = 0; i < 10000; i++)
			notify_alive();
		notify_ready();	/* waits until the parent reads, or for a second */
		_exit(0);
	}
	while (recv(fd, got, sizeof(got), 0) > 0 && memcmp(got, "READY=1", 7))
		n++;
	assert_int_equal(waitpid(p, &status, 0), p);
	assert_int_equal(status, 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	assert_true(n > 0 && b.tv_sec - a.tv_sec < 60);
	close(fd);
}

static void nobody(void **state)
{
	char too_long[200];

	memset(too_long, '/', sizeof(too_long) - 1);
	too_long[sizeof(too_long) - 1] = 0;
	/* Nobody there: nothing is said, and nothing waits. */
	assert_int_equal(in_child("/nonexistent/socket", "1000000", NULL, NS_PER_S / 2), 0);
	/* No address of a socket: nothing to pass on. */
	assert_int_equal(in_child(too_long, "1000000", NULL, NS_NEVER), 5);
	assert_int_equal(in_child("vsock:2:1", "1000000", NULL, NS_NEVER), 5);
	assert_int_equal(in_child("", NULL, NULL, NS_NEVER), 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(words), cmocka_unit_test(deaf), cmocka_unit_test(nobody) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
