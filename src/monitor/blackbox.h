/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MONITOR_BLACKBOX_H
#define MONITOR_BLACKBOX_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "core/ring.h"
#include "run_opts.h"

struct json_object;

/*
 * The black box as a file: the ring of core/ and what is needed to understand it elsewhere and later, such as which clock it
 * ran by. Reading takes any bytes.
 */
#define BLACKBOX_MAX	(64u << 20)	/* bytes of a file that is looked at */

enum blackbox_cause { BLACKBOX_FAILOVER, BLACKBOX_END, BLACKBOX_COMMAND, BLACKBOX_CAUSES };

struct blackbox_head {
	char name[RUN_NAME_MAX + 1];	/* of the VM */
	char host[65];
	char version[32];		/* of the lockstep that wrote it */
	enum blackbox_cause cause;	/* why it was written */
	uint32_t generation;
	nstime at;			/* when, by the clock of the steps */
	int64_t wall;			/* the same moment in microseconds since 1970 */
};

/* blackbox_pack() - Return: the bytes, to be freed, *len of them; NULL without memory */
void *blackbox_pack(const struct blackbox_head *h, const struct ring *r, size_t *len);

/*
 * blackbox_unpack() - read what blackbox_pack() made; any bytes
 * Return: the ring, the caller's, and @h filled; NULL with a sentence
 */
struct ring *blackbox_unpack(const void *buf, size_t len, struct blackbox_head *h, struct err *e);

/*
 * blackbox_text() - print for people: why it came to the last failover, then the steps
 * @last: the newest so many steps; 0: those around the failover, without heartbeats and the like, which are counted
 */
void blackbox_text(const struct blackbox_head *h, const struct ring *r, size_t last, FILE *f);

/* blackbox_json() - the same as an object, the caller's; heartbeats too. NULL without memory */
struct json_object *blackbox_json(const struct blackbox_head *h, const struct ring *r, size_t last);

/*
 * blackbox_summary() - the answer to "why did we fail over?" as one sentence
 * @buf: @len bytes; cut when it is longer
 */
void blackbox_summary(const struct blackbox_head *h, const struct ring *r, char *buf, size_t len);

#endif
