/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Status for people, made from the JSON and from nothing else: the one who shows it may be another version than the
 * one who said it, so what is missing is left out and every value is taken by its type. Strings come from a process
 * of the same user; control characters in them are replaced all the same, a terminal obeys them.
 */
#include "monitor/status_internal.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <string.h>

struct json_object *text_get(struct json_object *o, const char *key, enum json_type type)
{
	struct json_object *v;

	if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, key, &v))
		return NULL;
	return json_object_is_type(v, type) ? v : NULL;
}

struct json_object *text_obj(struct json_object *o, const char *key)
{
	return text_get(o, key, json_type_object);
}

uint64_t text_u64(struct json_object *o, const char *key)
{
	return json_object_get_uint64(text_get(o, key, json_type_int));
}

/* A number with a point, or without one; negative: there is none. */
double text_num(struct json_object *o, const char *key)
{
	struct json_object *v = text_get(o, key, json_type_double);

	if (!v)
		v = text_get(o, key, json_type_int);
	return v ? json_object_get_double(v) : -1;
}

bool text_bool(struct json_object *o, const char *key)
{
	return json_object_get_boolean(text_get(o, key, json_type_boolean));
}

/* A text, cut and cleaned, in one of a few buffers that take turns. */
const char *text_clean(const char *s)
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

const char *text_str(struct json_object *o, const char *key)
{
	return text_clean(json_object_get_string(text_get(o, key, json_type_string)));
}

void text_row(FILE *f, const char *label, const char *fmt, ...)
{
	va_list ap;

	fprintf(f, "%-*s", TEXT_LABEL, label);
	va_start(ap, fmt);
	vfprintf(f, fmt, ap);
	va_end(ap);
	fputc('\n', f);
}

/* A time as people say it: 3.12 ms, 4.2 s, 5 min 3 s, 2 h 10 min, 3 d 4 h. */
const char *text_ms(double ms, char b[32])
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

const char *text_bytes(double n, char b[32])
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

static void text_sentences(FILE *f, const char *label, struct json_object *list)
{
	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		struct json_object *one = json_object_array_get_idx(list, i);

		if (json_object_is_type(one, json_type_string))
			text_row(f, label, "%s", text_clean(json_object_get_string(one)));
	}
}

static void text_progress(FILE *f, const char *label, struct json_object *p, const char *what)
{
	char a[32], b[32], c[32];

	text_row(f, label, "%.1f %%, %s%s left, %s/s, time left %s", text_num(p, "percent"), what,
		 text_bytes(text_num(p, "bytes_left"), a), text_bytes(text_num(p, "bytes_per_second"), b),
		 text_ms(text_num(p, "time_left_ms"), c));
}

static void text_sync(FILE *f, struct json_object *sync)
{
	struct json_object *disks = text_obj(sync, "disks"), *mem = text_obj(sync, "memory");
	char what[96];

	text_row(f, "  sync", "phase %s", text_str(sync, "phase"));
	if (disks) {
		snprintf(what, sizeof(what), "%s%s%s", text_bool(disks, "comparing") ? "comparing " : "",
			 text_str(disks, "disk"), *text_str(disks, "disk") ? ", " : "");
		text_progress(f, "    disks", disks, what);
	}
	snprintf(what, sizeof(what), "round %" PRIu64 ", ", text_u64(sync, "round"));
	text_progress(f, "    memory", mem ? mem : sync, what);
}

/* @fo: a failover; when, why, and how long nobody served */
static void text_failover(FILE *f, const char *label, struct json_object *fo)
{
	char a[32], b[32], c[32];

	text_row(f, label, "%s%s%s ago, %s, took %s%s%s", text_str(fo, "at"), *text_str(fo, "at") ? ", " : "",
		 text_ms(text_num(fo, "ago_ms"), a), text_str(fo, "reason"), text_ms(text_num(fo, "took_ms"), b),
		 text_num(fo, "gap_ms") >= 0 ? ", gap " : "",
		 text_num(fo, "gap_ms") >= 0 ? text_ms(text_num(fo, "gap_ms"), c) : "");
}

static void text_head(struct json_object *s, FILE *f)
{
	struct json_object *why = text_get(s, "condition_why", json_type_array);
	struct json_object *qemu = text_obj(s, "qemu"), *self = text_obj(s, "lockstep");
	char t[32];

	fprintf(f, "%s: %s (%s, state %s for %s)\n", text_str(s, "name"), text_str(s, "condition"), text_str(s, "role"),
		text_str(s, "state"), text_ms(text_num(s, "state_ms"), t));
	text_sentences(f, "  why", why);
	text_sentences(f, "  warning", text_get(s, "warnings", json_type_array));
	if (text_bool(s, "paused"))
		text_row(f, "  paused", "the VM stands until 'lockstep cont'");
	text_row(f, "  reason", "%s", text_str(s, "reason"));
	text_row(f, "  epoch", "%" PRIu64 ", generation %" PRIu64 ", phase %s", text_u64(s, "epoch"),
		 text_u64(s, "generation"), text_str(s, "phase"));
	if (self)
		text_row(f, "  lockstep", "%s, pid %" PRIu64 ", up for %s", text_str(self, "version"),
			 text_u64(self, "pid"), text_ms(text_num(self, "uptime_ms"), t));
	if (qemu && text_u64(qemu, "pid"))
		text_row(f, "  qemu", "%s, pid %" PRIu64 "%s%s", text_str(qemu, "version"), text_u64(qemu, "pid"),
			 *text_str(qemu, "state") ? ", " : "", text_str(qemu, "state"));
	else if (qemu)
		text_row(f, "  qemu", "%s, does not run", text_str(qemu, "version"));
}

static void text_link(struct json_object *s, FILE *f)
{
	struct json_object *l = text_obj(s, "link"), *sync = text_obj(s, "sync"), *fo = text_obj(s, "failover");
	bool plain = l && !strcmp(text_str(l, "encrypted"), "no");
	char a[32], b[32], c[32];

	if (l && text_bool(l, "connected"))
		text_row(f, "  link", "%s, connected for %s, round trip %s, last heartbeat %s ago, %s%s",
			 text_str(l, "peer"), text_ms(text_num(l, "connected_ms"), a), text_ms(text_num(l, "rtt_ms"), b),
			 text_ms(text_num(l, "last_heartbeat_ms"), c),
			 plain ? "not encrypted" : "encrypted: ", plain ? "" : text_str(l, "encrypted"));
	else if (l)
		text_row(f, "  link", "no peer is connected");
	if (l && text_obj(l, "heartbeat"))
		status_beat_text(text_obj(l, "heartbeat"), f);
	if (l && text_u64(l, "silent"))
		text_row(f, "", "how often the peer was silent: %" PRIu64, text_u64(l, "silent"));
	if (sync)
		text_sync(f, sync);
	if (fo)
		text_failover(f, text_obj(s, "failed_over") ? "  failed over" : text_bool(fo, "took_over") ? "  failover" :
			      "  peer lost", fo);
}

/* One distribution; in which unit says @text. */
static void text_dist(FILE *f, struct json_object *d, const char *label, const char *(*text)(double, char *))
{
	char a[32], b[32], c[32], e[32];

	if (!d || !text_u64(d, "count"))
		return;
	text_row(f, label, "last %s, p50 %s, p99 %s, max %s", text(text_num(d, "last"), a), text(text_num(d, "p50"), b),
	    text(text_num(d, "p99"), c), text(text_num(d, "max"), e));
}

static const char *count_text(double n, char b[32])
{
	snprintf(b, 32, "%.0f", n);
	return b;
}

void status_ckpt_text(struct json_object *c, FILE *f)
{
	static const char *const steps[] = { "gate", "stop", "drain", "save", "copy", "cont", "staged", "loaded" };
	struct json_object *o = text_obj(c, "steps_ms");
	char a[32], b[32];
	bool first = true;

	fprintf(f, "checkpoint %" PRIu64 " (%s): pause %s, %" PRIu64 " pages, %s", text_u64(c, "n"),
		text_str(c, "cause"), text_ms(text_num(c, "pause_ms"), a), text_u64(c, "pages"),
		text_bytes(text_num(c, "bytes"), b));
	for (size_t i = 0; o && i < sizeof(steps) / sizeof(*steps); i++) {
		if (text_num(o, steps[i]) < 0)
			continue;
		fprintf(f, "%s %s %s", first ? ";" : ",", steps[i], text_ms(text_num(o, steps[i]), a));
		first = false;
	}
	fputc('\n', f);
}

static void text_checkpoints(struct json_object *s, FILE *f)
{
	struct json_object *c = text_obj(s, "checkpoints"), *by = text_obj(c, "by_cause"), *last = text_obj(c, "last");
	const char *sep = ": ";
	char t[32];

	if (!c)
		return;
	fprintf(f, "%-*s%" PRIu64, TEXT_LABEL, "  checkpoints", text_u64(c, "total"));
	if (by) {
		json_object_object_foreach(by, key, v) {
			if (!json_object_is_type(v, json_type_int) || !json_object_get_uint64(v))
				continue;
			fprintf(f, "%s%s %" PRIu64, sep, text_clean(key), json_object_get_uint64(v));
			sep = ", ";
		}
	}
	if (text_u64(c, "aborted"))
		fprintf(f, "; %" PRIu64 " given up and tried again", text_u64(c, "aborted"));
	fprintf(f, "; at least every %s\n", text_ms(text_num(c, "delay_ms"), t));
	text_dist(f, text_obj(c, "pause_ms"), "  pause", text_ms);
	text_dist(f, text_obj(c, "pages"), "  pages", count_text);
	text_dist(f, text_obj(c, "bytes"), "  bytes", text_bytes);
	if (last) {
		fprintf(f, "%-*s", TEXT_LABEL, "  last");
		status_ckpt_text(last, f);
	}
}

static void text_memory(struct json_object *s, FILE *f)
{
	struct json_object *m = text_obj(s, "memory");
	char a[32], b[32], c[32];

	if (m && text_u64(m, "guest_bytes"))
		text_row(f, "  memory", "guest %s, mapping %s, staged %s, buffered %s, private pages %" PRIu64,
			 text_bytes(text_num(m, "guest_bytes"), a), text_str(m, "mapping"),
			 text_bytes(text_num(m, "staged_bytes"), b),
			 text_bytes(text_num(m, "buffered_bytes"), c), text_u64(m, "private_pages"));
}

void status_text(struct json_object *s, FILE *f)
{
	text_head(s, f);
	text_link(s, f);
	text_checkpoints(s, f);
	status_net_text(text_obj(s, "net"), f);
	text_memory(s, f);
	status_disks_text(s, f);
}
