/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MONITOR_REQUEST_H
#define MONITOR_REQUEST_H

#include <stddef.h>

#include "base/err.h"
#include "monitor/monitor.h"

struct json_object;

enum request_type {
	REQUEST_STATUS,		/* __lockstep_status */
	REQUEST_EVENTS,		/* __lockstep_events: this client watches from now on */
	REQUEST_COMMAND,	/* cmd is filled, but for the token */
};

struct request {
	enum request_type type;
	struct monitor_cmd cmd;
	struct json_object *id;		/* to be repeated in the answer; owned, NULL when there was none */
};

/*
 * request_parse() - read one line
 * @line: without the newline; any bytes
 * @len:  at most MONITOR_MAX_LINE
 * @r:    filled; the caller gives back @r->id (json_object_put) also after an error
 *
 * Return: 0, -ENOSYS when there is no such command, -EINVAL otherwise, with a sentence
 */
int request_parse(const char *line, size_t len, struct request *r, struct err *e);

/*
 * reply_ok() / reply_error() - make an answer
 * @id:     borrowed, NULL when there is none
 * @result: given away; NULL: {}
 *
 * Return: the answer, the caller's; NULL without memory
 */
struct json_object *reply_ok(struct json_object *id, struct json_object *result);
struct json_object *reply_error(struct json_object *id, const struct err *e);

/* event_make() - {"event": "__LOCKSTEP_NAME", "data": ..., "timestamp": ...}; as above */
struct json_object *event_make(const char *name, struct json_object *data);

#endif
