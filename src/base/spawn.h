/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_SPAWN_H
#define BASE_SPAWN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/account.h"
#include "base/err.h"

/*
 * Starting other programs. There is at most one helper in a process (spawn_helper_start()), and then every child is made
 * by it, whoever asks; else by fork() here. Any thread.
 */

enum {
	SPAWN_FDS = 72,			/* descriptors handed on, `report` included */
	SPAWN_FD_MAX = 199,		/* highest number that one may get in the child */
	SPAWN_WORDS = 4096,		/* of a command line */
	SPAWN_VARS = 16,		/* variables of each kind */
	SPAWN_MSG = 160 * 1024,		/* bytes of all that is said of one child */
	SPAWN_ALLOWED = 16,		/* children that may still be started once the helper is sealed */
	SPAWN_VALUE = 300,		/* bytes of a variable of @vars */
};

struct spawn_fd {
	int from;	/* ours; stays open here; -1 where it is only said that there will be one */
	int to;		/* its number in the child, 0 to SPAWN_FD_MAX */
	int sndbuf;	/* of a socket: bytes to buffer, beyond the host's limit if that may be; 0: as it is */
};

struct spawn_spec {
	const char *path;		/* of the program; no search in PATH */
	char *const *argv;
	const char *const *env;		/* "NAME=value" over our environment; may be NULL */
	/*
	 * As @env, but the values may be others each time also when the helper is sealed: letters, digits, spaces and .:%[]_-/, only,
	 * at most SPAWN_VALUE. May be NULL.
	 */
	const char *const *vars;
	const struct spawn_fd *fds;
	unsigned int n_fds;
	int report;			/* write end of a pipe for struct spawn_failure; -1: none */
	const struct account *as;	/* becomes that user, and nothing that it runs can gain a right; NULL: our own */
	bool session;			/* a session of its own; else a process group of its own */
	bool dies;			/* is killed when we die: of the thread that calls this, and of the main thread by the helper */
};

enum spawn_stage { SPAWN_PARENT, SPAWN_USER, SPAWN_DESCRIPTORS, SPAWN_EXEC, SPAWN_STAGES };

/* What a child writes to `report` when it does not get as far as its program. */
struct spawn_failure {
	enum spawn_stage stage;
	int error;			/* errno */
};

/*
 * spawn() - start a program
 * @s: not needed after the call
 *
 * Descriptors from 3 on that are not in @fds are closed in it; SIGPIPE, SIGINT and SIGHUP are as usual, no signal is blocked.
 * The child is ours to wait for, also when the helper makes it.
 * Return: its pid, or -errno with @e filled
 */
pid_t spawn(const struct spawn_spec *s, struct err *e);

/*
 * spawn_allow() - once sealed, the helper will still start this one
 * @s: exactly as it will be for spawn(), but for the numbers `from` and `report` and the values of `vars`
 *
 * Return: 0 (also without a helper), or -errno with @e filled
 */
int spawn_allow(const struct spawn_spec *s, struct err *e);

/*
 * spawn_shell() - a command that the administrator has configured, by /bin/sh -c, with our standard descriptors, in a
 * process group of its own, with our rights as they were when the helper was started
 * @vars: as in struct spawn_spec; with spawn_shell_allow() only their names count
 *
 * spawn_shell_allow() - it may be started later, with the same command and the same names in the same order
 *
 * Return: its pid, or 0 (_allow); -errno with @e filled
 */
pid_t spawn_shell(const char *command, const char *const *vars, struct err *e);
int spawn_shell_allow(const char *command, const char *const *vars, struct err *e);

/* spawn_failure_text() - "it lost its parent", "it could not be loaded", ... */
const char *spawn_failure_text(enum spawn_stage stage);

/*
 * spawn_helper_start() - from now on a helper makes our children; see spawn_helper.c
 *
 * Main thread, before there are others. Return: 0 or -errno with @e filled
 */
int spawn_helper_start(struct err *e);

/* spawn_helper_seal() - it starts only what was allowed from now on. Return: 0 (also without one), -errno with @e filled */
int spawn_helper_seal(struct err *e);

/* spawn_helper_end() - it ends; children live on */
void spawn_helper_end(void);

/* spawn_helper_pid() - 0: there is none */
pid_t spawn_helper_pid(void);

#endif
