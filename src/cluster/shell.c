/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands that somebody has configured: a fence, a witness. Each has its own process group, so that its end ends what
 * it has started. Runs in a thread of its caller's that does nothing else.
 */
#include "cluster/shell.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SHELL_POLL	(60 * NS_PER_S)	/* longest single wait: poll() counts milliseconds in an int */

extern char **environ;

static int spawn(const struct shell *s, pid_t *pid)
{
	char *argv[] = { "sh", "-c", (char *)s->command, NULL }, **env;
	posix_spawnattr_t attr;
	sigset_t none, pipe;
	size_t n = 0, have = 0;
	int rc;

	while (environ[have])
		have++;
	env = calloc(SHELL_ENV_MAX + have + 1, sizeof(*env));
	if (!env)
		return -ENOMEM;
	/* Ours come first: of two with the same name the first one counts. */
	for (; s->env[n] && n < SHELL_ENV_MAX; n++)
		env[n] = (char *)s->env[n];
	memcpy(env + n, environ, have * sizeof(*env));
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

int shell_wait(int stop, int fd, nstime until)
{
	struct pollfd p[2] = { { .fd = stop, .events = POLLIN }, { .fd = fd, .events = POLLIN } };

	for (;;) {
		nstime now = clock_ns(), left = until > now ? until - now : 0;
		int n;

		if (left > SHELL_POLL)
			left = SHELL_POLL;
		n = poll(p, fd < 0 ? 1 : 2, left ? (int)(left / NS_PER_MS) + 1 : 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (p[0].revents)
			return -ECANCELED;
		if (n || clock_ns() >= until)
			return n > 0;
	}
}

int shell_run(const struct shell *s, struct err *e)
{
	int rc, fd, status = 0;
	pid_t pid;

	rc = spawn(s, &pid);
	if (rc)
		return err_set(e, rc, "%s cannot be started: %s", s->what, strerror(-rc));
	fd = (int)syscall(SYS_pidfd_open, pid, 0);
	rc = fd < 0 ? -errno : shell_wait(s->stop, fd, s->until);
	if (fd >= 0)
		close(fd);
	if (rc <= 0)
		kill(-pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!rc)
		return err_set(e, -ETIMEDOUT, "%s did not end within %llu ms", s->what, (unsigned long long)(s->limit / NS_PER_MS));
	if (rc < 0)
		return err_set(e, rc, rc == -ECANCELED ? "%s was given up" : "%s cannot be waited for", s->what);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		return 0;
	if (WIFEXITED(status))
		return err_set(e, -EIO, "%s has failed with exit status %d", s->what, WEXITSTATUS(status));
	return err_set(e, -EIO, "%s was ended by signal %d", s->what, WTERMSIG(status));
}
