/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to spawn*.c. */
#ifndef BASE_SPAWN_INTERNAL_H
#define BASE_SPAWN_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "base/cursor.h"
#include "base/spawn.h"

#define SPAWN_MAGIC	0x4c4b5350u

enum spawn_op { SPAWN_OP_START = 1, SPAWN_OP_ALLOW, SPAWN_OP_SEAL };

/*
 * A request, big-endian: magic (4), operation (4), bytes of the part that must be as it was allowed (4), then that part, then
 * the values of vars. A string is its length (4), its bytes and a 0. Descriptors travel beside it, `report` last.
 * The answer is one int32_t in the host's order: a pid, 0 or -errno.
 */
enum { SPAWN_HEAD = 12 };

/* A request, read: strings point into the message, which ends each with a 0. */
struct spawn_read {
	struct spawn_spec s;
	struct account as;
	struct spawn_fd fds[SPAWN_FDS];
	char *argv[SPAWN_WORDS + 1];
	const char *env[SPAWN_VARS + 1];
	const char *names[SPAWN_VARS];	/* of vars, with their '=' */
	const char *vars[SPAWN_VARS + 1];
	char text[SPAWN_VARS][SPAWN_VALUE + 64];
	bool report;
};

/* spawn_write() - the request. Return: its length; -E2BIG; @fixed gets the length of the part that must be as allowed */
int spawn_write(const struct spawn_spec *s, enum spawn_op op, uint8_t *buf, size_t cap);

/* spawn_read() - the fixed part, then the values. Return: 0 or -EPROTO */
int spawn_read(struct spawn_read *r, const uint8_t *fixed, size_t n, const uint8_t *values, size_t n_values);

/*
 * spawn_child() - what a child does; only system calls
 * @env:    its whole environment
 * @parent: whose death it is to follow
 */
_Noreturn void spawn_child(const struct spawn_spec *s, char **env, pid_t parent);

/* spawn_env() - our environment with the variables of @s in it; to be freed; the strings are borrowed; NULL: no memory */
char **spawn_env(const struct spawn_spec *s);

/* spawn_check() - whether @s can be carried out at all. Return: 0 or -errno with @e filled */
int spawn_check(const struct spawn_spec *s, struct err *e);

#endif
