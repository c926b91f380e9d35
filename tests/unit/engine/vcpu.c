/* SPDX-License-Identifier: BSD-2-Clause */
/* engine/vcpu: which threads count as stuck, by a made-up /proc and by a child that really is stopped. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/vcpu.h"

static char proc[] = "/tmp/lockstep-vcpu-XXXXXX";

static void put(int tid, const char *file, const char *text)
{
	char path[PATH_MAX];
	FILE *f;

	snprintf(path, sizeof(path), "%s/7/task/%d/%s", proc, tid, file);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void thread(int tid, char state, unsigned int ticks, const char *ns)
{
	char text[200], path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/7/task/%d", proc, tid);
	mkdir(path, 0700);
	snprintf(text, sizeof(text), "%d (CPU 0/T) R (x) %c 1 2 3 4 -1 4194304 9 9 0 0 %u 0 0 0 20 0 3 0 55 1 2", tid, state,
		 ticks);
	put(tid, "stat", text);
	if (ns)
		put(tid, "schedstat", ns);
}

static void take(struct vcpus *v, const char *text, nstime now)
{
	struct json_object *o = json_tokener_parse(text);

	vcpu_take(v, o, now);
	json_object_put(o);
}

static void whats_taken(void **state)
{
	static struct vcpus v;
	char big[40 * (VCPU_MAX + 9)] = "[";

	take(&v, "[{\"thread-id\":11,\"cpu-index\":0},{\"thread-id\":-4},{},7,{\"thread-id\":12},{\"thread-id\":99999999999}]", 5);
	assert_int_equal(v.n, 2);
	assert_int_equal(v.cpu[1].tid, 12);
	take(&v, "{\"thread-id\":11}", 5);
	assert_int_equal(v.n, 0);
	vcpu_take(&v, NULL, 5);
	assert_int_equal(v.n, 0);
	for (int i = 0; i < VCPU_MAX + 5; i++)
		sprintf(big + strlen(big), "%s{\"thread-id\":%d}", i ? "," : "", i + 1);
	strcat(big, "]");
	take(&v, big, 5);
	assert_int_equal(v.n, VCPU_MAX);
}

static void made_up(void **state)
{
	static struct vcpus v;
	unsigned int which = 99;
	char path[PATH_MAX];

	assert_non_null(mkdtemp(proc));
	snprintf(path, sizeof(path), "%s/7", proc);
	mkdir(path, 0700);
	snprintf(path, sizeof(path), "%s/7/task", proc);
	mkdir(path, 0700);
	thread(11, 'S', 3, "1000 5 6\n");
	thread(12, 'S', 3, "1000 5 6\n");
	take(&v, "[{\"thread-id\":11},{\"thread-id\":12}]", 0);
	/* Idle for ever. */
	assert_true(!vcpu_look(&v, proc, 7, 1, false, &which));
	assert_true(!vcpu_look(&v, proc, 7, 100, false, &which));
	/* One wants to run and gets nothing; its ns count, not its ticks. */
	for (const char *s = "RDTt"; *s; s++) {
		thread(12, *s, (unsigned int)*s, NULL);
		assert_true(vcpu_look(&v, proc, 7, 200, true, &which) == 0);
		assert_true(vcpu_look(&v, proc, 7, 260, false, &which) == 60);
		assert_int_equal(which, 1);
	}
	/* A little is enough. */
	thread(12, 'R', 3, "1001 5 6\n");
	assert_true(!vcpu_look(&v, proc, 7, 300, false, &which));
	assert_true(vcpu_look(&v, proc, 7, 350, false, &which) == 50);
	/* Who was away itself counts anew. */
	assert_true(!vcpu_look(&v, proc, 7, 400, true, &which));
	assert_true(vcpu_look(&v, proc, 7, 420, false, &which) == 20);
	/* Both: the longer one. */
	thread(11, 'D', 3, NULL);
	assert_true(vcpu_look(&v, proc, 7, 450, false, &which) == 50);
	assert_int_equal(which, 1);
	thread(12, 'S', 3, NULL);
	assert_true(vcpu_look(&v, proc, 7, 460, false, &which) == 40);
	assert_int_equal(which, 0);
	/* No schedstat: ticks. Nothing at all: nothing is known. */
	snprintf(path, sizeof(path), "%s/7/task/11/schedstat", proc);
	unlink(path);
	assert_true(!vcpu_look(&v, proc, 7, 500, false, &which));
	assert_true(vcpu_look(&v, proc, 7, 510, false, &which) == 10);
	thread(11, 'D', 4, NULL);
	assert_true(!vcpu_look(&v, proc, 7, 520, false, &which));
	put(11, "stat", "11 (nonsense");
	assert_true(!vcpu_look(&v, proc, 7, 600, false, &which));
	put(11, "stat", "");
	assert_true(!vcpu_look(&v, proc, 7, 600, false, &which));
	assert_true(!vcpu_look(&v, "/nonexistent", 7, 700, false, &which));
	snprintf(path, sizeof(path), "rm -r %s", proc);
	assert_int_equal(system(path), 0);
}

/* Looks each 10 ms until it is stuck for @limit ms, or for @most ms. */
static bool gets_stuck(struct vcpus *v, pid_t pid, unsigned int limit, unsigned int most)
{
	nstime end = clock_ns() + most * NS_PER_MS;
	unsigned int which;

	vcpu_look(v, "/proc", pid, clock_ns(), true, &which);
	while (clock_ns() < end) {
		if (vcpu_look(v, "/proc", pid, clock_ns(), false, &which) > limit * NS_PER_MS)
			return true;
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
	}
	return false;
}

static void for_real(void **state)
{
	static struct vcpus v;
	volatile uint64_t x = 0;
	char text[60];
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (!pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;) {
			if (x++ % (1 << 22) == 0)
				usleep(1000);
		}
	}
	snprintf(text, sizeof(text), "[{\"thread-id\":%d}]", (int)pid);
	take(&v, text, clock_ns());
	assert_false(gets_stuck(&v, pid, 900, 1000));
	kill(pid, SIGSTOP);
	assert_true(gets_stuck(&v, pid, 200, 20000));
	kill(pid, SIGCONT);
	assert_false(gets_stuck(&v, pid, 900, 1000));
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(whats_taken), cmocka_unit_test(made_up), cmocka_unit_test(for_real),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
