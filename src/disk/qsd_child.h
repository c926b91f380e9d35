/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_QSD_CHILD_H
#define DISK_QSD_CHILD_H

#include <stddef.h>

#include "base/account.h"
#include "base/err.h"

/*
 * A qemu-storage-daemon that does not outlive this process. The kernel ends a child with the thread that made it, so each
 * has a thread, which starts it, listens to what it says and sees it end.
 */
struct qsd_child;

#define QSD_FD		3
#define QSD_SAID	1024	/* bytes of its last words that are kept */

/*
 * qsd_child_start() - @path: of the program; @argv: ended by NULL; @keep: one descriptor it gets,
 * as number QSD_FD; @as: the user that it runs as, NULL: ours
 * Return: the child, or NULL with @e; the strings may go after the call
 */
struct qsd_child *qsd_child_start(const char *path, char *const *argv, int keep, const struct account *as,
				  struct err *e);

/* qsd_child_fd() - readable when it has ended; the child's */
int qsd_child_fd(const struct qsd_child *c);

/* qsd_child_said() - what it said last on its standard error; only when it has ended */
const char *qsd_child_said(const struct qsd_child *c);
/* qsd_child_status() - "was killed by signal 9 (Killed)"; only when it has ended */
void qsd_child_status(const struct qsd_child *c, char *buf, size_t size);

/* qsd_child_signal() - harmless when it has ended */
void qsd_child_signal(struct qsd_child *c, int sig);

/* qsd_child_free() - SIGTERM, SIGKILL when @ms have passed, and wait. NULL is fine */
void qsd_child_free(struct qsd_child *c, unsigned int ms);

#endif
