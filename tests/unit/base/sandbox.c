/* SPDX-License-Identifier: BSD-2-Clause */
/* What is given away after the start, in all threads; each test in a child of its own, since nothing of it can be undone. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "base/sandbox.h"
#include "base/spawn.h"

#define KILL_BIT	(1ull << CAP_KILL)

/* In a child: a line that says what is wrong, and its end. */
#define CHECK(cond)	do { if (!(cond)) { dprintf(2, "%s:%d: %s\n", __FILE__, __LINE__, #cond); _exit(1); } } while (0)

static void in_child(void (*fn)(void))
{
	pid_t pid = fork();
	int status;

	if (!pid) {
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFSIGNALED(status))
		fail_msg("ended by signal %d", WTERMSIG(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static uint64_t field(const char *path, const char *name)
{
	char text[4096], *p;
	int fd = open(path, O_RDONLY);
	ssize_t n = read(fd, text, sizeof(text) - 1);

	CHECK(n > 0);
	close(fd);
	text[n] = 0;
	p = strstr(text, name);
	CHECK(p);
	return strtoull(p + strlen(name), NULL, 16);
}

static pthread_barrier_t barrier;
static uint64_t thread_has[3];

/* As those of Lockstep that are not to be disturbed. */
static void *a_thread(void *arg)
{
	uint64_t *has = arg;
	sigset_t all;
	char path[64];

	sandbox_block(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	pthread_barrier_wait(&barrier);
	pthread_barrier_wait(&barrier);
	snprintf(path, sizeof(path), "/proc/self/task/%d/status", (int)syscall(SYS_gettid));
	*has = field(path, "\nCapPrm:") | field(path, "\nCapEff:") | field(path, "\nCapInh:") | field(path, "\nCapBnd:");
	CHECK(syscall(SYS_setsid) == -1 || !field(path, "\nSeccomp:"));
	return NULL;
}

static void shed_all(void)
{
	struct err e = { 0 };
	pthread_t t[3];

	pthread_barrier_init(&barrier, NULL, 4);
	for (int i = 0; i < 3; i++)
		CHECK(!pthread_create(&t[i], NULL, a_thread, &thread_has[i]));
	pthread_barrier_wait(&barrier);
	if (sandbox_caps(KILL_BIT, &e)) {
		dprintf(2, "%s\n", e.msg);
		_exit(1);
	}
	pthread_barrier_wait(&barrier);
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		CHECK(!(thread_has[i] & ~KILL_BIT));
		CHECK(geteuid() || thread_has[i] == KILL_BIT);
	}
	CHECK(!(field("/proc/self/status", "\nCapBnd:") & ~KILL_BIT) || geteuid());
	CHECK(!(field("/proc/self/status", "\nCapEff:") & ~KILL_BIT));
	/* A file that is not ours, in spite of being root. */
	if (!geteuid()) {
		int fd = open("/tmp", O_TMPFILE | O_RDWR, 0600);

		CHECK(fd >= 0 && fchown(fd, 65534, 65534) == -1 && errno == EPERM);
		CHECK(syscall(SYS_setuid, 65534) == -1 && errno == EPERM);
	}
}

static void test_caps(void **state)
{
	in_child(shed_all);
}

static void *deaf(void *arg)
{
	sigset_t all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, NULL);
	prctl(PR_SET_NAME, "deaf");
	pthread_barrier_wait(&barrier);
	pause();
	return NULL;
}

static void one_is_deaf(void)
{
	struct err e = { 0 };
	pthread_t t;

	pthread_barrier_init(&barrier, NULL, 2);
	CHECK(!pthread_create(&t, NULL, deaf, NULL));
	pthread_barrier_wait(&barrier);
	CHECK(sandbox_caps(0, &e) == -ETIMEDOUT);
	CHECK(strstr(e.msg, "the thread 'deaf'"));
}

/* A thread that would keep its rights is an error, with its name, and not passed over. */
static void test_deaf(void **state)
{
	if (geteuid())
		skip();
	in_child(one_is_deaf);
}

static void denied(void)
{
	struct err e = { 0 };
	struct iovec iov = { &e, sizeof(e) };
	char *argv[] = { "true", NULL };
	struct rlimit rl;
	int sv[2];

	unsetenv("LOCKSTEP_SANDBOX");
	CHECK(!sandbox_filter(&e));
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
#if !defined(__SANITIZE_ADDRESS__)
	CHECK(execve("/bin/true", argv, NULL) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_execveat, -100, "/bin/true", argv, NULL, 0) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_fork) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_vfork) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_clone3, NULL, 0) == -1 && errno == ENOSYS);
	CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1 && errno == ENOSYS);
	CHECK(process_vm_readv(getpid(), &iov, 1, &iov, 1, 0) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_setuid, getuid()) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_unshare, CLONE_NEWUSER) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_userfaultfd, 0) == -1 && errno == ENOSYS);
	CHECK(syscall(SYS_pidfd_getfd, 0, 0, 0) == -1 && errno == ENOSYS);
	CHECK(socket(AF_PACKET, SOCK_RAW, 0) == -1 && errno == ENOSYS);
	CHECK(ioctl(0, TIOCSTI, "x") == -1 && errno == ENOSYS);
	/* The kernel looks at the lower half only; so must the filter. */
	CHECK(syscall(SYS_ioctl, 0, 0x100000000ul | TIOCSTI, "x") == -1 && errno == ENOSYS);
	CHECK(prctl(PR_SET_MM, PR_SET_MM_START_BRK, 0, 0, 0) == -1 && errno == ENOSYS);
#endif
	(void)argv;
	(void)iov;
	/* And what is needed goes on. */
	CHECK(!getrlimit(RLIMIT_NOFILE, &rl));
	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, sv) && write(sv[0], "x", 1) == 1);
	CHECK(socket(AF_INET6, SOCK_DGRAM, 0) >= 0);
	{
		pthread_t t;

		pthread_barrier_init(&barrier, NULL, 1);
		CHECK(!pthread_create(&t, NULL, a_thread, &thread_has[0]));
		pthread_join(t, NULL);
	}
}

static void test_filter(void **state)
{
	in_child(denied);
}

static void killed(void)
{
	struct err e = { 0 };
	struct rlimit none = { 0 };

	setrlimit(RLIMIT_CORE, &none);
	setenv("LOCKSTEP_SANDBOX", "kill", 1);
	CHECK(!sandbox_filter(&e));
	syscall(SYS_unshare, 0);
}

/* As the tests with QEMU have it. */
static void test_kill(void **state)
{
	pid_t pid;
	int status;

#if defined(__SANITIZE_ADDRESS__)
	skip();
#endif
	pid = fork();
	if (!pid) {
		killed();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

/* A directory in which only root's special right lets us write makes that right stay. */
static void with_dir(const char *dir, uint64_t want)
{
	struct sandbox_cfg cfg = { .dirs = { "/tmp", dir }, .n_dirs = 2 };
	struct err e = { 0 };

	sandbox_plan(&cfg);
	CHECK(!sandbox_enter(&e));
	CHECK(field("/proc/self/status", "\nCapEff:") == want);
}

static char theirs[] = "/tmp/lockstep-test-XXXXXX";

static void not_ours(void)
{
	with_dir(theirs, 1ull << CAP_DAC_OVERRIDE);
}

static void ours(void)
{
	with_dir("/nonexistent", 0);
}

static void test_dirs(void **state)
{
	if (geteuid())
		skip();
	assert_non_null(mkdtemp(theirs));
	assert_int_equal(chown(theirs, 65534, 65534), 0);
	in_child(not_ours);
	in_child(ours);
	rmdir(theirs);
}

/* Sealed, closed, and children are made all the same: with all rights, of those that were allowed. */
static void after_all(void)
{
	char *argv[] = { "sh", "-c", "test \"$(grep ^CapEff: /proc/self/status)\" = \"$CAPS\" && test \"$V\" = 1.2.3.4:5", NULL };
	char *other[] = { "sh", "-c", "exit 0", NULL }, caps[64];
	const char *env[] = { caps, NULL }, *vars[] = { "V=", NULL }, *filled[] = { "V=1.2.3.4:5", NULL };
	struct spawn_spec s = { .path = "/bin/sh", .argv = argv, .env = env, .vars = vars, .report = -1 }, t = s;
	struct sandbox_cfg cfg = { 0 };
	struct err e = { 0 };
	int status = -1;
	pid_t pid;

	snprintf(caps, sizeof(caps), "CAPS=CapEff:\t%016llx", (unsigned long long)field("/proc/self/status", "\nCapEff:"));
	CHECK(!spawn_helper_start(&e));
	CHECK(!spawn_allow(&s, &e));
	sandbox_plan(&cfg);
	CHECK(!sandbox_enter(&e));
	CHECK(!field("/proc/self/status", "\nCapEff:"));
	t.vars = filled;
	pid = spawn(&t, &e);
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && !status);
	t.argv = other;
	CHECK(spawn(&t, &e) == -EPERM);
	CHECK(spawn_allow(&t, &e) == -EPERM);
	spawn_helper_end();
}

static void test_helper(void **state)
{
	in_child(after_all);
}

/* A child of another user follows the death of a parent that has given away all that it does not need for that. */
static void test_dies_with_us(void **state)
{
	struct account a;
	struct err e = { 0 };
	struct pollfd pfd = { .events = POLLIN };
	int report[2], said[2];
	pid_t parent, child = 0;
	char x;

	if (geteuid() || account_parse("nobody", &a, &e))
		skip();
	assert_int_equal(pipe2(report, O_CLOEXEC), 0);
	assert_int_equal(pipe2(said, O_CLOEXEC), 0);
	parent = fork();
	if (!parent) {
		char *argv[] = { "sh", "-c", "echo x >&7; exec sleep 1000", NULL };
		struct spawn_fd fd = { said[1], 7, 0 };
		struct spawn_spec s = { .path = "/bin/sh", .argv = argv, .fds = &fd, .n_fds = 1, .report = -1, .as = &a,
					.session = true, .dies = true };
		struct sandbox_cfg cfg = { .others = true };

		CHECK(!spawn_helper_start(&e) && !spawn_allow(&s, &e));
		sandbox_plan(&cfg);
		CHECK(!sandbox_enter(&e));
		child = spawn(&s, &e);
		CHECK(child > 0 && write(report[1], &child, sizeof(child)) == sizeof(child));
		for (;;)
			pause();
	}
	assert_int_equal(read(said[0], &x, 1), 1);
	assert_int_equal(read(report[0], &child, sizeof(child)), sizeof(child));
	pfd.fd = (int)syscall(SYS_pidfd_open, child, 0);
	assert_true(pfd.fd >= 0);
	assert_int_equal(poll(&pfd, 1, 0), 0);
	kill(parent, SIGKILL);
	assert_int_equal(waitpid(parent, NULL, 0), parent);
	assert_int_equal(poll(&pfd, 1, 20000), 1);
	close(pfd.fd);
	for (int i = 0; i < 2; i++) {
		close(report[i]);
		close(said[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_caps), cmocka_unit_test(test_deaf), cmocka_unit_test(test_filter), cmocka_unit_test(test_kill),
		cmocka_unit_test(test_dirs), cmocka_unit_test(test_helper), cmocka_unit_test(test_dies_with_us),
	};

	log_init("test", LOG_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
