/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A child's way from the fork to its program: theory of operation
 *
 * A child that is to die with us asks the kernel for that (PR_SET_PDEATHSIG). The kernel forgets it whenever
 * credentials change, so the child becomes its user first, then asks, and then looks whether we had died before it asked: its
 * parent would be another one. The signal is sent with our rights: to a process of another user only CAP_KILL may.
 *
 * All that may allocate is done before the fork; the child calls nothing but system calls.
 */
#include "base/spawn_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

extern char **environ;

const char *spawn_failure_text(enum spawn_stage stage)
{
	static const char *const text[SPAWN_STAGES] = {
		"it lost its parent", "it could not become its user", "it could not get its descriptors",
		"it could not be loaded",
	};

	return stage < SPAWN_STAGES ? text[stage] : "it failed";
}

static struct spawn_spec shell(char *argv[4], const char *command, const char *const *vars)
{
	memcpy(argv, (char *[]){ "sh", "-c", (char *)command, NULL }, 4 * sizeof(*argv));
	return (struct spawn_spec){ .path = "/bin/sh", .argv = argv, .vars = vars, .report = -1 };
}

pid_t spawn_shell(const char *command, const char *const *vars, struct err *e)
{
	char *argv[4];
	struct spawn_spec s = shell(argv, command, vars);

	return spawn(&s, e);
}

int spawn_shell_allow(const char *command, const char *const *vars, struct err *e)
{
	char *argv[4];
	struct spawn_spec s = shell(argv, command, vars);

	return spawn_allow(&s, e);
}

static size_t count(const char *const *list)
{
	size_t n = 0;

	while (list && list[n])
		n++;
	return n;
}

char **spawn_env(const struct spawn_spec *s)
{
	const char *const *list[2] = { s->env, s->vars };
	size_t n = count((const char *const *)environ), k;
	char **out = calloc(n + count(s->env) + count(s->vars) + 1, sizeof(*out));

	if (!out)
		return NULL;
	memcpy(out, environ, n * sizeof(*out));
	for (int l = 0; l < 2; l++)
		for (const char *const *v = list[l]; v && *v; v++) {
			size_t len = strcspn(*v, "=") + 1;

			for (k = 0; k < n && strncmp(out[k], *v, len); k++)
				;
			out[k] = (char *)*v;
			n += k == n;
		}
	return out;
}

int spawn_check(const struct spawn_spec *s, struct err *e)
{
	if (s->n_fds + (s->report >= 0) > SPAWN_FDS)
		return err_set(e, -E2BIG, "%.200s: more than %d descriptors", s->path, SPAWN_FDS - 1);
	for (unsigned int i = 0; i < s->n_fds; i++)
		if (s->fds[i].to < 0 || s->fds[i].to > SPAWN_FD_MAX)
			return err_set(e, -EINVAL, "%.200s: descriptor %d cannot become %d", s->path, s->fds[i].from,
				       s->fds[i].to);
	return 0;
}

/* The numbers that are wanted. First above all of them, so that no target overwrites a source that is still needed. */
static int take_fds(const struct spawn_spec *s, int *report)
{
	int high[SPAWN_FDS];

	*report = *report < 0 ? -1 : fcntl(*report, F_DUPFD_CLOEXEC, SPAWN_FD_MAX + 1);
	for (unsigned int i = 0; i < s->n_fds; i++) {
		high[i] = fcntl(s->fds[i].from, F_DUPFD_CLOEXEC, SPAWN_FD_MAX + 1);
		if (high[i] < 0)
			return -errno;
	}
	if (syscall(SYS_close_range, 3, ~0U, 1 << 2 /* CLOSE_RANGE_CLOEXEC */))
		return -errno;
	for (unsigned int i = 0; i < s->n_fds; i++)
		if (dup2(high[i], s->fds[i].to) < 0)
			return -errno;
	return 0;
}

_Noreturn void spawn_child(const struct spawn_spec *s, char **env, pid_t parent)
{
	struct spawn_failure f = { SPAWN_USER, 0 };
	int report = s->report;
	sigset_t none;

	if (s->session)
		setsid();
	else
		setpgid(0, 0);
	if (s->as) {
		f.error = -account_become(s->as);
		if (!f.error && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
			f.error = errno;
		if (f.error)
			goto out;
	}
	f.stage = SPAWN_PARENT;
	if (s->dies && (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent)) {
		f.error = ESRCH;
		goto out;
	}
	f.stage = SPAWN_DESCRIPTORS;
	signal(SIGPIPE, SIG_DFL);
	signal(SIGINT, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	f.error = -take_fds(s, &report);
	if (f.error)
		goto out;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	f.stage = SPAWN_EXEC;
	execve(s->path, s->argv, env);
	f.error = errno;
out:
	if (report >= 0)
		(void)!write(report, &f, sizeof(f));
	_exit(127);
}
