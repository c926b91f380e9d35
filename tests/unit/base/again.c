/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Beginning anew without rights: this program is started by itself, gives everything away and begins anew a few times. Each
 * life adds a line to a file: its pid, its parent's, its effective capabilities at the start.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/again.h"
#include "base/log.h"
#include "base/sandbox.h"
#include "base/spawn.h"

enum { LIVES = 5 };

static char self[4096];

static int lives(const char *path)
{
	FILE *f = fopen(path, "r");
	int n = 0;

	for (char line[128]; f && fgets(line, sizeof(line), f);)
		n++;
	if (f)
		fclose(f);
	return n;
}

static unsigned long long caps(void)
{
	unsigned long long v = 0;
	FILE *f = fopen("/proc/self/status", "r");

	for (char line[256]; f && fgets(line, sizeof(line), f);)
		sscanf(line, "CapEff: %llx", &v);
	if (f)
		fclose(f);
	return v;
}

/* One life: the last one waits for a signal, or ends by itself. */
static int live(const char *path, const char *how)
{
	struct sandbox_cfg cfg = { 0 };
	struct err e = { 0 };
	sigset_t set;
	FILE *f = fopen(path, "a");
	int n, sig;

	log_init("test", LOG_ERROR);
	fprintf(f, "%d %d %llx\n", (int)getpid(), (int)getppid(), caps());
	fclose(f);
	n = lives(path);
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	if (n == LIVES && !strcmp(how, "wait")) {
		sigwait(&set, &sig);
		return 7;
	}
	if (n == LIVES)
		return 9;
	if (spawn_helper_start(&e) || again_allow(&e))
		return 100;
	sandbox_plan(&cfg);
	if (sandbox_enter(&e) || caps())
		return 101;
	n = again_run(&e);
	if (n < 0)
		fprintf(stderr, "%s\n", e.msg);
	spawn_helper_end();
	return n < 0 ? 102 : n;
}

static void many(const char *how, int want)
{
	char path[] = "/tmp/lockstep-test-XXXXXX";
	int fd = mkstemp(path), status, pid_of[LIVES] = { 0 }, parent[LIVES] = { 0 };
	unsigned long long has[LIVES] = { 0 };
	pid_t pid = fork();
	FILE *f;

	close(fd);
	if (!pid) {
		execl(self, self, "life", path, how, NULL);
		_exit(127);
	}
	if (!strcmp(how, "wait")) {
		for (int i = 0; i < 2000 && lives(path) < LIVES; i++)
			usleep(10000);
		assert_int_equal(lives(path), LIVES);
		kill(pid, SIGTERM);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), want);
	assert_int_equal(lives(path), LIVES);
	f = fopen(path, "r");
	for (int i = 0; i < LIVES; i++)
		assert_int_equal(fscanf(f, "%d %d %llx", &pid_of[i], &parent[i], &has[i]), 3);
	fclose(f);
	unlink(path);
	assert_int_equal(pid_of[0], pid);
	for (int i = 1; i < LIVES; i++) {
		/* All are the first one's, so there are never more than two; and each has the rights of the first. */
		assert_int_equal(parent[i], pid);
		assert_true(has[i] == has[0]);
	}
}

static void test_ends(void **state)
{
	many("end", 9);
}

static void test_signal(void **state)
{
	many("wait", 7);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_ends), cmocka_unit_test(test_signal) };

	if (argc == 4 && !strcmp(argv[1], "life"))
		return live(argv[2], argv[3]);
	if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0)
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
