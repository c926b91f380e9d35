/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Status for people, made from the JSON and from nothing else: the one who shows it may be another version than the
 * one who said it, so what is missing is left out and every value is taken by its type. Strings come from a process
 * of the same user; control characters in them are replaced all the same, a terminal obeys them.
 */
#include "monitor/status.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <string.h>

#define TEXT_LABEL 15	/* width of the left column */

static struct json_object *get(struct json_object *o, const char *key, enum json_type type)
{
	struct json_object *v;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v))
		return NULL;
	return json_object_is_type(v, type) ? v : NULL;
}

static struct json_object *get_obj(struct json_object *o, const char *key)
{
	return get(o, key, json_type_object);
}

static uint64_t get_u64(struct json_object *o, const char *key)
{
	return json_object_get_uint64(get(o, key, json_type_int));
}

/* A number with a point, or without one; negative: there is none. */
static double get_num(struct json_object *o, const char *key)
{
	struct json_object *v = get(o, key, json_type_double);

	if (!v)
		v = get(o, key, json_type_int);
	return v ? json_object_get_double(v) : -1;
}

static bool get_bool(struct json_object *o, const char *key)
{
	return json_object_get_boolean(get(o, key, json_type_boolean));
}

/* A text, cut and cleaned, in one of a few buffers that take turns. */
static const char *clean(const char *s)
{
	static char bufs[8][256];
	static unsigned int turn;
	char *b = bufs[turn++ % 8];
	size_t n = 0;

	for (; s && *s && n < sizeof(bufs[0]) - 1; s++)
		b[n++] = (unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s;
	b[n] = '\0';
	return b;
}

static const char *get_str(struct json_object *o, const char *key)
{
	return clean(json_object_get_string(get(o, key, json_type_string)));
}

static void __attribute__((format(printf, 3, 4))) row(FILE *f, const char *label, const char *fmt, ...)
{
	va_list ap;

	fprintf(f, "%-*s", TEXT_LABEL, label);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fputc('\n', f);
}

/* A time as people say it: 3.12 ms, 4.2 s, 5 min 3 s, 2 h 10 min, 3 d 4 h. */
static const char *ms_text(double ms, char b[32])
{
	uint64_t s = ms < 0 ? 0 : ms > 1e15 ? (uint64_t)1e12 : (uint64_t)(ms / 1000);

	if (ms < 0)
		snprintf(b, 32, "-");
	else if (ms < 999.95)
		snprintf(b, 32, ms < 9.995 ? "%.2f ms" : ms < 99.95 ? "%.1f ms" : "%.0f ms", ms);
	else if (s < 60)
		snprintf(b, 32, "%.1f s", ms / 1000);
	else if (s < 3600)
		snprintf(b, 32, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(b, 32, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s / 60 % 60);
	else
		snprintf(b, 32, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s / 3600 % 24);
	return b;
}

static const char *bytes_text(double n, char b[32])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	unsigned int u = 0;

	if (n < 0)
		n = 0;
	while (n >= 1023.95 && u < 5) {
		n /= 1024;
		u++;
	}
	snprintf(b, 32, u ? "%.1f %s" : "%.0f %s", n, units[u]);
	return b;
}

static void text_head(struct json_object *s, FILE *f)
{
	struct json_object *w = get(s, "warnings", json_type_array);
	struct json_object *qemu = get_obj(s, "qemu"), *self = get_obj(s, "lockstep");
	char t[32];

	fprintf(f, "%s: %s, %s%s, for %s\n", get_str(s, "name"), get_str(s, "role"), get_str(s, "state"),
		get_bool(s, "protected") ? "" : ", not protected", ms_text(get_num(s, "state_ms"), t));
	for (size_t i = 0; w && i < json_object_array_length(w); i++) {
		struct json_object *one = json_object_array_get_idx(w, i);

		if (json_object_is_type(one, json_type_string))
			row(f, "  warning", "%s", clean(json_object_get_string(one)));
	}
	row(f, "  reason", "%s", get_str(s, "reason"));
	row(f, "  epoch", "%" PRIu64 ", generation %" PRIu64 ", phase %s", get_u64(s, "epoch"),
	    get_u64(s, "generation"), get_str(s, "phase"));
	if (self)
		row(f, "  lockstep", "%s, pid %" PRIu64 ", up for %s", get_str(self, "version"), get_u64(self, "pid"),
		    ms_text(get_num(self, "uptime_ms"), t));
	if (qemu && get_u64(qemu, "pid"))
		row(f, "  qemu", "%s, pid %" PRIu64 "%s%s", get_str(qemu, "version"), get_u64(qemu, "pid"),
		    *get_str(qemu, "state") ? ", " : "", get_str(qemu, "state"));
	else if (qemu)
		row(f, "  qemu", "%s, does not run", get_str(qemu, "version"));
}

static void text_link(struct json_object *s, FILE *f)
{
	struct json_object *l = get_obj(s, "link"), *sync = get_obj(s, "sync"), *fo = get_obj(s, "failover");
	char a[32], b[32], c[32], d[32];

	if (l && get_bool(l, "connected"))
		row(f, "  link", "%s, connected for %s, round trip %s, last heartbeat %s ago, %s", get_str(l, "peer"),
		    ms_text(get_num(l, "connected_ms"), a), ms_text(get_num(l, "rtt_ms"), b),
		    ms_text(get_num(l, "last_heartbeat_ms"), c),
		    get_bool(l, "encrypted") ? "encrypted" : "not encrypted");
	else if (l)
		row(f, "  link", "no peer is connected");
	if (l && get_u64(l, "silent"))
		row(f, "", "how often the peer was silent: %" PRIu64, get_u64(l, "silent"));
	if (sync)
		row(f, "  sync", "%.1f %%, round %" PRIu64 ", %s left, %s/s, time left %s", get_num(sync, "percent"),
		    get_u64(sync, "round"), bytes_text(get_num(sync, "bytes_left"), a),
		    bytes_text(get_num(sync, "bytes_per_second"), b), ms_text(get_num(sync, "time_left_ms"), c));
	if (fo)
		row(f, "  failover", "%s ago, %s, took %s", ms_text(get_num(fo, "ago_ms"), a), get_str(fo, "reason"),
		    ms_text(get_num(fo, "took_ms"), d));
}

/* One distribution; in which unit says @text. */
static void text_dist(FILE *f, struct json_object *d, const char *label, const char *(*text)(double, char *))
{
	char a[32], b[32], c[32], e[32];

	if (!d || !get_u64(d, "count"))
		return;
	row(f, label, "last %s, p50 %s, p99 %s, max %s", text(get_num(d, "last"), a), text(get_num(d, "p50"), b),
	    text(get_num(d, "p99"), c), text(get_num(d, "max"), e));
}

static const char *count_text(double n, char b[32])
{
	snprintf(b, 32, "%.0f", n);
	return b;
}

void status_ckpt_text(struct json_object *c, FILE *f)
{
	static const char *const steps[] = { "gate", "stop", "drain", "save", "copy", "cont", "staged", "loaded" };
	struct json_object *o = get_obj(c, "steps_ms");
	char a[32], b[32];
	bool first = true;

	fprintf(f, "checkpoint %" PRIu64 " (%s): pause %s, %" PRIu64 " pages, %s", get_u64(c, "n"), get_str(c, "cause"),
		ms_text(get_num(c, "pause_ms"), a), get_u64(c, "pages"), bytes_text(get_num(c, "bytes"), b));
	for (size_t i = 0; o && i < sizeof(steps) / sizeof(*steps); i++) {
		if (get_num(o, steps[i]) < 0)
			continue;
		fprintf(f, "%s %s %s", first ? ";" : ",", steps[i], ms_text(get_num(o, steps[i]), a));
		first = false;
	}
	fputc('\n', f);
}

static void text_checkpoints(struct json_object *s, FILE *f)
{
	struct json_object *c = get_obj(s, "checkpoints"), *by = get_obj(c, "by_cause"), *last = get_obj(c, "last");
	const char *sep = ": ";
	char t[32];

	if (!c)
		return;
	fprintf(f, "%-*s%" PRIu64, TEXT_LABEL, "  checkpoints", get_u64(c, "total"));
	if (by) {
		json_object_object_foreach(by, key, v) {
			if (!json_object_is_type(v, json_type_int) || !json_object_get_uint64(v))
				continue;
			fprintf(f, "%s%s %" PRIu64, sep, clean(key), json_object_get_uint64(v));
			sep = ", ";
		}
	}
	fprintf(f, "; at least every %s\n", ms_text(get_num(c, "delay_ms"), t));
	text_dist(f, get_obj(c, "pause_ms"), "  pause", ms_text);
	text_dist(f, get_obj(c, "pages"), "  pages", count_text);
	text_dist(f, get_obj(c, "bytes"), "  bytes", bytes_text);
	if (last) {
		fprintf(f, "%-*s", TEXT_LABEL, "  last");
		status_ckpt_text(last, f);
	}
}

static void text_net(struct json_object *s, FILE *f)
{
	struct json_object *n = get_obj(s, "net"), *m = get_obj(s, "memory");
	uint64_t drops = 0;
	char a[32], b[32], c[32];

	if (n) {
		json_object_object_foreach(n, key, v) {
			if (!strncmp(key, "drop_", 5))
				drops += json_object_get_uint64(v);
		}
		row(f, "  held", "%" PRIu64 " packets, %" PRIu64 " of the secondary; logged input %" PRIu64 ", flows %"
		    PRIu64, get_u64(n, "held"), get_u64(n, "held_svm"), get_u64(n, "logged"), get_u64(n, "flows"));
		row(f, "  packets", "in %" PRIu64 " (%s), out %" PRIu64 " (%s), mismatches %" PRIu64 ", dropped %"
		    PRIu64, get_u64(n, "tap_in"), bytes_text(get_num(n, "bytes_in"), a), get_u64(n, "tap_out"),
		    bytes_text(get_num(n, "bytes_out"), b), get_u64(n, "mismatches"), drops);
		row(f, "  released", "%" PRIu64 " after compare, %" PRIu64 " by checkpoints, %" PRIu64 " at once",
		    get_u64(n, "released_compared"), get_u64(n, "released_staged"), get_u64(n, "passed"));
	}
	if (m && get_u64(m, "guest_bytes"))
		row(f, "  memory", "guest %s, staged %s, buffered %s, private pages %" PRIu64,
		    bytes_text(get_num(m, "guest_bytes"), a), bytes_text(get_num(m, "staged_bytes"), b),
		    bytes_text(get_num(m, "buffered_bytes"), c), get_u64(m, "private_pages"));
}

void status_text(struct json_object *s, FILE *f)
{
	text_head(s, f);
	text_link(s, f);
	text_checkpoints(s, f);
	text_net(s, f);
}
