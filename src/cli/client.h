/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLI_CLIENT_H
#define CLI_CLIENT_H

#include <limits.h>
#include <stddef.h>

#include "base/clock.h"
#include "base/err.h"
#include "monitor/rundir.h"

struct json_object;

#define CLIENT_TIMEOUT	(10 * NS_PER_S)	/* for what is answered at once */
#define CLIENT_MAX_LINE	(1024 * 1024)	/* bytes of an answer */

/* A connection with the control socket of a running VM. Blocking, for short-lived programs. */
struct vm_client {
	int fd;			/* -1: not open */
	char name[RUNDIR_NAME_MAX + 1];
	char *buf;
	size_t n, cap;
};

/*
 * client_open() - connect
 * @dir:  run directory, NULL: the default
 * @name: NULL: the one that runs, when it is only one
 *
 * Return: 0; -ENOENT when it does not run or is not clear; another -errno; with a sentence
 */
int client_open(struct vm_client *c, const char *dir, const char *name, struct err *e);

/* client_close() - harmless after a client_open() that failed */
void client_close(struct vm_client *c);

/*
 * client_call() - one request and its answer
 * @execute: the command
 * @args:    given away, may be NULL
 * @timeout: ns to wait for the answer
 * @result:  what it returned, the caller's; may be NULL
 *
 * Return: 0, or -errno with a sentence: the VM's own when it refused
 */
int client_call(struct vm_client *c, const char *execute, struct json_object *args, nstime timeout,
		struct json_object **result, struct err *e);

/* client_call_fd() - client_call() that hands over a descriptor; @fd: stays the caller's, -1: none */
int client_call_fd(struct vm_client *c, const char *execute, struct json_object *args, int fd, nstime timeout,
		   struct json_object **result, struct err *e);

/*
 * client_line() - the next line
 * @timeout: ns; NS_NEVER: for ever
 * @line:    without the newline, NUL-terminated, valid until the next call
 *
 * Return: 1, 0 at the end of the connection, -errno with a sentence
 */
int client_line(struct vm_client *c, nstime timeout, const char **line, struct err *e);

#endif
