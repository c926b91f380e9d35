/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Commands that somebody has configured: a fence, a witness. Each has its own process group, so that its end ends what
 * it has started. Runs in a thread of its caller's that does nothing else.
 */
#include "cluster/shell.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/spawn.h"

#define SHELL_POLL	(60 * NS_PER_S)	/* longest single wait: poll() counts milliseconds in an int */

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
	pid_t pid = spawn_shell(s->command, s->env, e);
	int rc, fd, status = 0;

	if (pid < 0)
		return err_prefix(e, "%s cannot be started", s->what);
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
