/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_PROCESS_H
#define ENGINE_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <termios.h>

#include "base/account.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"

enum {
	PROCESS_FDS_MAX = 64,		/* descriptors handed on, beside the first three */
	PROCESS_FD_MAX = 199,		/* highest number that one may get there */
	PROCESS_LINE_MAX = 1024,	/* bytes of one line of standard error; the rest of it is dropped */
};

struct process_fd {
	int from;	/* ours; stays open here */
	int to;		/* its number in the child, 3 to PROCESS_FD_MAX */
	int sndbuf;	/* of a socket: bytes that it shall buffer; 0: as it is */
};

struct process_spec {
	const char *file;		/* path, or name to look for in PATH */
	char *const *argv;
	const char *const *env;		/* "NAME=value" to set in our own environment, ended by NULL; may be NULL */
	const struct process_fd *fds;
	unsigned int n_fds;
	bool own_stdio;			/* standard input and output are ours; else /dev/null */
	const struct account *as;	/* the user that it becomes; NULL: ours */
};

/*
 * A child and what is known of it. Embedded in the owner's struct; zero-initialise once, process_start() again after
 * an exit is fine.
 */
struct process {
	pid_t pid;			/* 0: none runs */
	int status;			/* of the last one, as waitpid() gives it */
	nstime started;
	char last_line[256];		/* the last thing it said on standard error */

	/* The child is gone, and reaped; called once for each start, in the loop's thread. Set before the start. */
	void (*exited)(struct process *p);
	/* It wrote a line on standard error; may be NULL */
	void (*line)(struct process *p, const char *line);
	void *arg;

	/* private */
	struct loop *loop;
	struct loop_fd pidfd, errfd;
	char buf[PROCESS_LINE_MAX];
	size_t n_buf;
	bool have_tty;
	struct termios tty;
	int stdio_flags[2];
};

/*
 * process_find() - path of a program
 * @file: path, or name to look for in PATH
 * @path: gets it, PATH_MAX bytes
 *
 * Return: 0, -ENOENT or -EACCES with @e filled
 */
int process_find(const char *file, char *path, struct err *e);

/*
 * process_start() - start a child that dies with us
 * @p:    zeroed, or its child has exited
 * @l:    loop that watches it
 * @spec: not needed after the call
 *
 * To be called in the main thread only, because the kernel kills the child when the thread that made it ends: see
 * process.c. Waits until the program has been loaded (about a millisecond).
 *
 * Return: 0 or -errno with @e filled; then exited() is not called
 */
int process_start(struct process *p, struct loop *l, const struct process_spec *spec, struct err *e);

/*
 * process_allow() - this child may also be started when the helper that makes our children is sealed (base/spawn.h)
 * @spec: as it will be, but for the numbers of our descriptors
 *
 * Return: 0 (also without a helper), or -errno with @e filled
 */
int process_allow(const struct process_spec *spec, struct err *e);

/* process_kill() - SIGKILL it and its process group; exited() follows; harmless when none runs */
void process_kill(struct process *p);

/*
 * process_kill_wait() - SIGKILL it and wait until it is gone, so that what it held is free; exited() is not called
 * @deadline: absolute
 *
 * Return: 0: none runs any more; -ETIMEDOUT: the kernel has not ended it yet (exited() follows)
 */
int process_kill_wait(struct process *p, nstime deadline);

/*
 * process_dying() - whether it is dead, or so near to it that its memory may be gone already
 *
 * The kernel gives a process's memory back before it tells the parent of its end, and with gigabytes that takes long.
 * Any thread.
 */
bool process_dying(const struct process *p);

/*
 * process_status_text() - "exited with status 1" or "was killed by signal 9 (Killed)"
 * @status: as waitpid() gives it
 *
 * Return: @buf
 */
const char *process_status_text(int status, char *buf, size_t len);

#endif
