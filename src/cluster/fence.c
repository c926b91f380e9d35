/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fencing: a thread that asks whether this node may (claim()), runs the command, and watches whether the peer is off
 * (alive()) until it is or the time is over. The command has its own process group and as many environment variables
 * more as struct fence_cfg says; what it prints goes where this process prints.
 * SIGKILL ends it when its time is over.
 */
#include "cluster/fence.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define ALIVE_LOOK_MS	50

struct fence {
	struct fence_cfg cfg;
	pthread_t thread;
	int stop;		/* eventfd */
	int rc;
	struct err e;
};

extern char **environ;

static int spawn(const struct fence *f, pid_t *pid)
{
	char vm[160], peer[200], *argv[] = { "sh", "-c", (char *)f->cfg.command, NULL }, **env;
	posix_spawnattr_t attr;
	sigset_t none, pipe;
	size_t n = 0;
	int rc;

	while (environ[n])
		n++;
	env = calloc(n + 3, sizeof(*env));
	if (!env)
		return -ENOMEM;
	snprintf(vm, sizeof(vm), "LOCKSTEP_VM=%s", f->cfg.vm);
	snprintf(peer, sizeof(peer), "LOCKSTEP_PEER=%s", f->cfg.peer);
	memcpy(env, environ, n * sizeof(*env));
	env[n] = vm;
	env[n + 1] = peer;
	sigemptyset(&none);
	sigemptyset(&pipe);
	sigaddset(&pipe, SIGPIPE);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setpgroup(&attr, 0);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &pipe);
	rc = posix_spawn(pid, "/bin/sh", NULL, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	free(env);
	return -rc;
}

/* Wait for @fd or the end. Return: 1: @fd; 0: the time is over; -ECANCELED */
static int wait_for(const struct fence *f, int fd, nstime until)
{
	struct pollfd p[2] = { { .fd = f->stop, .events = POLLIN }, { .fd = fd, .events = POLLIN } };

	for (;;) {
		nstime now = clock_ns();
		int n = poll(p, fd < 0 ? 1 : 2, until > now ? (int)((until - now) / NS_PER_MS) + 1 : 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (p[0].revents)
			return -ECANCELED;
		return n > 0;
	}
}

static int command(struct fence *f, nstime until)
{
	int rc, fd, status = 0;
	pid_t pid;

	rc = spawn(f, &pid);
	if (rc)
		return err_set(&f->e, rc, "the fence command cannot be started: %s", strerror(-rc));
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	rc = fd < 0 ? -errno : wait_for(f, fd, until);
	if (fd >= 0)
		close(fd);
	if (rc <= 0)
		kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!rc)
		return err_set(&f->e, -ETIMEDOUT, "the fence command did not end within %llu ms",
			       (unsigned long long)(f->cfg.timeout / NS_PER_MS));
	if (rc < 0)
		return err_set(&f->e, rc, "the fence command cannot be waited for: %s", strerror(-rc));
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	return err_set(&f->e, -EIO, WIFEXITED(status) ? "the fence command has failed with exit status %d" :
		       "the fence command was ended by signal %d", WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
}

static void finished(void *arg, const void *data, size_t len)
{
	struct fence *f = arg;

	f->cfg.done(f->cfg.arg, f->rc, f->e.msg);
}

static int attempt(struct fence *f)
{
	nstime until;
	int rc;

	rc = f->cfg.claim(f->cfg.arg, &f->e);
	if (rc)
		return rc;
	if (!*f->cfg.command)
		return err_set(&f->e, -EOPNOTSUPP, "no fence command is configured (--fence-command), and nothing else can tell that "
			       "the peer writes no more");
	until = clock_ns() + f->cfg.timeout;
	rc = command(f, until);
	if (rc)
		return rc;
	/* A process that was killed lets go of its locks when it has ended, which may take a moment. */
	until = clock_ns() + f->cfg.timeout;
	while (f->cfg.alive(f->cfg.arg)) {
		nstime now = clock_ns(), next = now + ALIVE_LOOK_MS * NS_PER_MS;

		if (now >= until)
			return err_set(&f->e, -EBUSY, "the fence command has succeeded, and the peer still has the shared images locked");
		rc = wait_for(f, -1, next);
		if (rc < 0)
			return err_set(&f->e, rc, "the fence was given up");
	}
	return 0;
}

static void *run(void *arg)
{
	struct fence *f = arg;

	f->rc = attempt(f);
	if (f->rc && f->rc != -ESTALE)
		f->cfg.unclaim(f->cfg.arg);
	loop_post(f->cfg.loop, finished, f, NULL, 0);
	return NULL;
}

struct fence *fence_begin(const struct fence_cfg *cfg, struct err *e)
{
	struct fence *f = calloc(1, sizeof(*f));
	int rc = -ENOMEM;

	if (f) {
		f->cfg = *cfg;
		f->stop = eventfd(0, EFD_CLOEXEC);
		rc = f->stop < 0 ? -errno : -pthread_create(&f->thread, NULL, run, f);
	}
	if (!rc)
		return f;
	err_set(e, rc, "the fence cannot be begun: %s", strerror(-rc));
	if (f && f->stop >= 0)
		close(f->stop);
	free(f);
	return NULL;
}

void fence_end(struct fence *f)
{
	uint64_t one = 1;

	if (!f)
		return;
	if (write(f->stop, &one, sizeof(one)) < 0)
		return;
	pthread_join(f->thread, NULL);
	close(f->stop);
	free(f);
}
