/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MONITOR_RUNDIR_H
#define MONITOR_RUNDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

/*
 * The directory of the control sockets: DIR/NAME.sock for each running VM, and DIR/NAME.lock, whose lock is held
 * as long as the process lives. Both are gone after an orderly end.
 */
#define RUNDIR_ENV	"LOCKSTEP_RUN_DIR"
#define RUNDIR_NAME_MAX	63	/* bytes of a VM's name */
#define RUNDIR_MAX_VMS	256	/* sockets that rundir_list() looks at */

/*
 * rundir_name_check() - whether a text can be a VM's name: 1 to 63 of A-Z a-z 0-9 . _ -, not beginning with . or -
 *
 * Return: 0, or -EINVAL with a sentence
 */
int rundir_name_check(const char *name, struct err *e);

/*
 * rundir_default() - where control sockets are when nobody says otherwise
 * @out: LOCKSTEP_RUN_DIR, else /run/lockstep for root, else $XDG_RUNTIME_DIR/lockstep
 *
 * Return: 0, or -errno with a sentence
 */
int rundir_default(char *out, size_t cap, struct err *e);

/* rundir_make() - make @dir (mode 0700) and what is missing above it. Return: 0, or -errno with a sentence */
int rundir_make(const char *dir, struct err *e);

/* rundir_socket() - the control socket's path. Return: 0, or -ENAMETOOLONG with a sentence */
int rundir_socket(const char *dir, const char *name, char *out, size_t cap, struct err *e);

/*
 * rundir_lock() - become the one instance of @name in @dir
 *
 * Return: a descriptor that holds the lock until rundir_unlock() or the process's end, or -EBUSY (with the pid of
 * the instance that runs), or another -errno, with a sentence
 */
int rundir_lock(const char *dir, const char *name, struct err *e);

/* rundir_unlock() - give the name back and remove the lock file; @fd < 0 is fine */
void rundir_unlock(int fd, const char *dir, const char *name);

/*
 * rundir_list() - the names of the VMs that run: those whose lock is held
 * @fn: called for each; the name is valid during the call
 *
 * Return: how many, or -errno with a sentence; a missing directory is 0
 */
int rundir_list(const char *dir, void (*fn)(void *arg, const char *name), void *arg, struct err *e);

#endif
