/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_SHELL_H
#define CLUSTER_SHELL_H

#include "base/clock.h"
#include "base/err.h"

/* Running a command that somebody has configured, with a time limit, in a thread that may wait. */

#define SHELL_ENV_MAX	8	/* variables that are added to the environment */

struct shell {
	const char *what;		/* for sentences: "the fence command" */
	const char *command;		/* for /bin/sh -c */
	const char *const *env;		/* "NAME=value", ended by NULL, at most SHELL_ENV_MAX, over those of the process; base/spawn.h says what a value may have */
	nstime until;			/* then SIGKILL ends the command and all of its process group */
	nstime limit;			/* the same as a duration, for the sentence */
	int stop;			/* a descriptor that becomes readable when nobody wants it any more */
};

/*
 * shell_run() - run it, wait for its end; what it prints goes where this process prints
 *
 * A process that gives its rights away has to say so before: spawn_shell_allow().
 * Return: 0: its exit status is 0; else -errno with @e: -EIO: another status, or a signal; -ETIMEDOUT; -ECANCELED: stopped
 */
int shell_run(const struct shell *s, struct err *e);

/* shell_wait() - wait for @fd (-1: none) to be readable. Return: 1: it is; 0: the time is over; -ECANCELED: @stop */
int shell_wait(int stop, int fd, nstime until);

#endif
