/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to status*.c: how figures become members, and members become text. Nobody else includes this. */
#ifndef MONITOR_STATUS_INTERNAL_H
#define MONITOR_STATUS_INTERNAL_H

#include <json-c/json.h>
#include <string.h>

#include "monitor/status.h"

static inline void put(struct json_object *o, const char *key, struct json_object *v)
{
	json_object_object_add(o, key, v);
}

static inline void put_u64(struct json_object *o, const char *key, uint64_t v)
{
	put(o, key, v == STATUS_UNKNOWN ? NULL : json_object_new_uint64(v));
}

static inline void put_str(struct json_object *o, const char *key, const char *s)
{
	put(o, key, s && *s ? json_object_new_string(s) : NULL);
}

/* Three digits behind the point: microseconds are as much as anybody can use. */
static inline void put_ms(struct json_object *o, const char *key, uint64_t ns)
{
	struct json_object *d = ns == STATUS_UNKNOWN ? NULL : json_object_new_double((double)ns / NS_PER_MS);

	if (d)
		json_object_set_serializer(d, json_object_double_to_json_string, (void *)"%.3f", NULL);
	put(o, key, d);
}

/* status_net.c: the member net */
struct json_object *status_net_json(const struct status *s);

#define TEXT_LABEL 15	/* width of the left column */

/* status_text.c: members by their type, NULL, 0 or "" when they are missing or of another one */
struct json_object *text_get(struct json_object *o, const char *key, enum json_type type);
struct json_object *text_obj(struct json_object *o, const char *key);
uint64_t text_u64(struct json_object *o, const char *key);
double text_num(struct json_object *o, const char *key);	/* negative: there is none */
bool text_bool(struct json_object *o, const char *key);
/* without control characters and cut, in one of a few buffers that take turns */
const char *text_clean(const char *s);
const char *text_str(struct json_object *o, const char *key);
const char *text_ms(double ms, char b[32]);
const char *text_bytes(double n, char b[32]);
void text_row(FILE *f, const char *label, const char *fmt, ...)
	__attribute__((format(printf, 3, 4), nonnull(3)));

/* status_disk.c: the member disk, and rows of it */
struct json_object *status_disks_json(const struct status *s);
void status_disks_text(struct json_object *s, FILE *f);

/* status_beat.c: link's member heartbeat, and rows of it; no object while there is none */
struct json_object *status_beat_json(const struct status *s);
void status_beat_text(struct json_object *b, FILE *f);

/* status_net_text.c: rows of the member net */
void status_net_text(struct json_object *n, FILE *f);

#endif
