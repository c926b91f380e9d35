/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_SANDBOX_H
#define BASE_SANDBOX_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

/*
 * By this signal each thread is told to give its capabilities away (sandbox.c). A thread that blocks signals must leave it
 * open: sandbox_block().
 */
#define SANDBOX_SIGNAL	(SIGRTMIN + 5)

/* sandbox_block() - all signals but SANDBOX_SIGNAL, for threads that are not to be disturbed */
static inline void sandbox_block(sigset_t *set)
{
	sigfillset(set);
	sigdelset(set, SANDBOX_SIGNAL);
}

enum { SANDBOX_DIRS = 64 };

struct sandbox_cfg {
	bool others;		/* children run as another user, and have to be killed */
	bool low_port;		/* ports below 1024 may still have to be bound */
	/* Directories in which files will be made later; where our user alone may not, the right to do so is kept. */
	const char *dirs[SANDBOX_DIRS];
	unsigned int n_dirs;
};

/*
 * sandbox_plan() - decide what will be kept; before there are threads
 * @cfg: strings are borrowed for the call
 */
void sandbox_plan(const struct sandbox_cfg *cfg);

/*
 * sandbox_thread() - a thread that needs no rights, also before sandbox_enter(), begins; nothing happens without a plan
 *
 * For those who use io_uring: the kernel's workers get the rights of who made them, and signals do not reach them.
 */
void sandbox_thread(void);

/*
 * sandbox_enter() - this process has started: give away what it needs no more, for good, in all threads
 *
 * Capabilities, the way to new ones (no_new_privs), and all system calls but those of a list; the helper that makes our
 * children is sealed (base/spawn.h). Main thread, after sandbox_plan(). What is kept is logged.
 * Return: 0, or -errno with @e filled; then the process is to end
 */
int sandbox_enter(struct err *e);

/*
 * The parts of it.
 * sandbox_caps() - keep only the capabilities whose bits are set, in all threads
 * sandbox_filter() - only the listed system calls from now on; no_new_privs
 */
int sandbox_caps(uint64_t keep, struct err *e);
int sandbox_filter(struct err *e);

#endif
