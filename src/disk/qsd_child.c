/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/qsd_child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sandbox.h"
#include "base/spawn.h"

struct qsd_child {
	pthread_t thread;
	int ended;		/* eventfd */
	char said[QSD_SAID];
	int status;

	pthread_mutex_t lock;	/* guards pid */
	pid_t pid;		/* 0: has ended and is reaped */

	/* for the start */
	const char *path;
	char *const *argv;
	int keep;
	const struct account *as;
	struct err e;
	sem_t started;
};

/* Keep the last of what it says, and log each line. */
static void listen_to(struct qsd_child *c, int fd)
{
	char line[512];
	FILE *f = fdopen(fd, "r");

	if (!f) {
		close(fd);
		return;
	}
	while (fgets(line, sizeof(line), f)) {
		size_t have = strlen(c->said), n = strlen(line);

		if (have + n >= sizeof(c->said)) {
			size_t drop = have + n + 1 - sizeof(c->said);

			memmove(c->said, c->said + drop, have - drop);
			have -= drop;
		}
		memcpy(c->said + have, line, n + 1);
		line[strcspn(line, "\n")] = 0;
		log_debug("%s", line);
	}
	fclose(f);
}

/* Return: its pid, or -errno, in c->e with a sentence */
static pid_t start(struct qsd_child *c, int null, int out)
{
	struct spawn_fd fds[] = { { null, 0 }, { out, 1 }, { out, 2 }, { c->keep, QSD_FD } };
	struct spawn_spec s = { .path = c->path, .argv = c->argv, .fds = fds, .n_fds = sizeof(fds) / sizeof(*fds),
				.as = c->as, .session = true, .dies = true };
	struct spawn_failure f;
	int report[2];
	ssize_t n;
	pid_t pid;

	if (pipe2(report, O_CLOEXEC))
		return err_set(&c->e, -errno, "cannot start %.200s: %s", c->path, strerror(errno));
	s.report = report[1];
	pid = spawn(&s, &c->e);
	close(report[1]);
	do
		n = pid < 0 ? 0 : read(report[0], &f, sizeof(f));
	while (n < 0 && errno == EINTR);
	close(report[0]);
	if (n != sizeof(f))
		return pid;
	waitpid(pid, NULL, 0);
	return err_set(&c->e, f.error ? -f.error : -ESRCH, "cannot start %.200s: %s (%s)", c->path,
		       spawn_failure_text(f.stage), strerror(f.error));
}

static void *live(void *arg)
{
	struct qsd_child *c = arg;
	const uint64_t one = 1;
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC), p[2] = { -1, -1 };
	siginfo_t info;
	pid_t pid = -1;

	prctl(PR_SET_NAME, "disk-daemon");
	if (null < 0 || pipe2(p, O_CLOEXEC))
		err_set(&c->e, -errno, "cannot start %.200s: %s", c->path, strerror(errno));
	else
		pid = start(c, null, p[1]);
	if (null >= 0)
		close(null);
	if (p[1] >= 0)
		close(p[1]);
	if (pid < 0) {
		if (p[0] >= 0)
			close(p[0]);
		sem_post(&c->started);
		return NULL;
	}
	c->pid = pid;
	sem_post(&c->started);
	listen_to(c, p[0]);
	/* It may have closed its standard error and live on. */
	while (waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT) && errno == EINTR)
		;
	pthread_mutex_lock(&c->lock);
	waitpid(pid, &c->status, 0);
	c->pid = 0;
	pthread_mutex_unlock(&c->lock);
	if (write(c->ended, &one, sizeof(one)) < 0)
		log_error("cannot tell that a qemu-storage-daemon has ended: %s", strerror(errno));
	return NULL;
}

static int check_program(const char *path, struct err *e)
{
	struct stat st;
	char cap;

	if (stat(path, &st))
		return err_set(e, -errno, "%.200s: %s", path, strerror(errno));
	if (st.st_mode & (S_ISUID | S_ISGID) || getxattr(path, "security.capability", &cap, 0) > 0)
		return err_set(e, -EPERM, "%.200s: a program with privileges of its own would outlive Lockstep's death", path);
	return 0;
}

struct qsd_child *qsd_child_start(const char *path, char *const *argv, int keep, const struct account *as,
				  struct err *e)
{
	struct qsd_child *c;
	sigset_t all, old;
	int rc;

	if (check_program(path, e))
		return NULL;
	c = calloc(1, sizeof(*c));
	if (!c) {
		err_set(e, -ENOMEM, "no memory to start %.200s", path);
		return NULL;
	}
	c->path = path;
	c->argv = argv;
	c->keep = keep;
	c->as = as;
	pthread_mutex_init(&c->lock, NULL);
	sem_init(&c->started, 0, 0);
	c->ended = eventfd(0, EFD_CLOEXEC);
	rc = c->ended < 0 ? errno : 0;
	sandbox_block(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	if (!rc)
		rc = pthread_create(&c->thread, NULL, live, c);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!rc) {
		while (sem_wait(&c->started))
			;
		if (!c->e.code)
			return c;
		pthread_join(c->thread, NULL);
		if (e)
			*e = c->e;
	} else {
		err_set(e, -rc, "cannot start %.200s: %s", path, strerror(rc));
	}
	if (c->ended >= 0)
		close(c->ended);
	free(c);
	return NULL;
}

int qsd_child_fd(const struct qsd_child *c)
{
	return c->ended;
}

const char *qsd_child_said(const struct qsd_child *c)
{
	return c->said;
}

void qsd_child_status(const struct qsd_child *c, char *buf, size_t size)
{
	if (WIFSIGNALED(c->status))
		snprintf(buf, size, "was killed by signal %d (%s)", WTERMSIG(c->status), strsignal(WTERMSIG(c->status)));
	else
		snprintf(buf, size, "exited with status %d", WEXITSTATUS(c->status));
}

void qsd_child_signal(struct qsd_child *c, int sig)
{
	pthread_mutex_lock(&c->lock);
	if (c->pid)
		kill(c->pid, sig);
	pthread_mutex_unlock(&c->lock);
}

void qsd_child_free(struct qsd_child *c, unsigned int ms)
{
	struct pollfd p;

	if (!c)
		return;
	p = (struct pollfd){ .fd = c->ended, .events = POLLIN };
	qsd_child_signal(c, SIGTERM);
	if (poll(&p, 1, (int)ms) <= 0)
		qsd_child_signal(c, SIGKILL);
	pthread_join(c->thread, NULL);
	close(c->ended);
	pthread_mutex_destroy(&c->lock);
	sem_destroy(&c->started);
	free(c);
}
