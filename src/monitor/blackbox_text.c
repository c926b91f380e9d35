/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The black box for people. Its head answers the question; then come the steps, with times that count from the first
 * evidence, so that what was before it has a minus. Names are those of core/names.c, as in the log.
 */
#include "monitor/blackbox.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "core/ring_why.h"

#define AROUND_BEFORE	40	/* steps that tell something, before the first evidence */
#define AROUND_AFTER	20	/* and after the end of the failover */
#define WITHOUT		100	/* newest steps when there was no failover */

static const char *const cause_text[BLACKBOX_CAUSES] = {
	[BLACKBOX_FAILOVER] = "after a failover", [BLACKBOX_END] = "at the end of the node", [BLACKBOX_COMMAND] = "on demand",
};
static const char *const cause_name[BLACKBOX_CAUSES] = {
	[BLACKBOX_FAILOVER] = "failover", [BLACKBOX_END] = "end", [BLACKBOX_COMMAND] = "command",
};

struct out {
	char *buf;
	size_t len, used;
};

__attribute__((format(printf, 2, 3)))
static void add(struct out *o, const char *fmt, ...)
{
	size_t left = o->len - o->used;
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(o->buf + o->used, left, fmt, ap);
	va_end(ap);
	if (n > 0)
		o->used += (size_t)n < left ? (size_t)n : left - 1;
}

static double ms(nstime from, nstime to)
{
	return ((double)to - (double)from) / NS_PER_MS;
}

/* The time of day of a step, in UTC: logs of two hosts are compared. */
static const char *wall(const struct blackbox_head *h, nstime at, char b[48])
{
	int64_t us = h->wall - (int64_t)(((double)h->at - (double)at) / NS_PER_US);
	char text[32];
	struct tm tm;
	time_t t;

	/* A step that claims to be from another age has no date. */
	if (us < 0 || us > 253402300799ll * 1000000)
		us = 0;
	t = (time_t)(us / 1000000);
	gmtime_r(&t, &tm);
	strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(b, 48, "%s.%03d UTC", text, (int)(us / 1000 % 1000));
	return b;
}

static const char *what_happened(const struct ring_why *w)
{
	bool secondary = w->was == FT_STANDBY || w->was == FT_JOINING;

	if (w->now == FT_ENDED)
		return "ended";
	if (w->now == FT_ALONE)
		return secondary ? "took over" : "went on without its secondary";
	if (w->now == FT_FENCED)
		return "was fenced";
	if (w->now == FT_PROMOTING)
		return "began to take over";
	return secondary ? "ceased to stand by" : "lost its protection";
}

void blackbox_summary(const struct blackbox_head *h, const struct ring *r, char *buf, size_t len)
{
	struct out o = { .buf = buf, .len = len };
	struct ring_view first, step;
	const char *evidence;
	struct ring_why w;
	char at[48];

	buf[0] = '\0';
	ring_why(r, &w);
	if (!w.found || !ring_view(r, w.first, &first) || !ring_view(r, w.decided, &step)) {
		add(&o, "No failover is among the %zu steps that are kept.", ring_count(r));
		return;
	}
	evidence = ring_evidence(&first);
	add(&o, "%s on host %s %s at %s: first noticed: %s", h->name, h->host, what_happened(&w), wall(h, w.noticed, at),
	    evidence ? evidence : ft_ev_name(first.ev->type));
	if (first.ev->type == FE_DONE)
		add(&o, " (%s, error %d)", ft_step_name(first.ev->step), -first.ev->rc);
	if (w.reason && !(first.ev->type == FE_SILENT && w.reason == FT_WHY_SILENT))
		add(&o, " (reason: %s)", ft_reason_name(w.reason));
	if (w.beat)
		add(&o, ", %.1f ms after the last heartbeat", ms(w.beat, w.noticed));
	if (w.decided != w.first) {
		ring_event_text(&step, at, sizeof(at));
		add(&o, "; decided %.1f ms later (by %s)", ms(w.noticed, w.decided_at), at);
	} else {
		add(&o, "; decided at once");
	}
	if (w.granted_at)
		add(&o, "; the witness agreed %.1f ms after the notice", ms(w.noticed, w.granted_at));
	if (w.open_at && w.open_at == w.noticed)
		add(&o, "; output was open in the same step");
	else if (w.open_at)
		add(&o, "; output was open %.1f ms after the notice", ms(w.noticed, w.open_at));
	if (w.over && w.ended_at == w.noticed)
		add(&o, ", and that was all of it, state %s.", ft_state_name(w.now));
	else if (w.over)
		add(&o, "; over after %.1f ms, state %s.", ms(w.noticed, w.ended_at), ft_state_name(w.now));
	else
		add(&o, "; not over yet %.1f ms after the notice, state %s.", ms(w.noticed, w.ended_at), ft_state_name(w.now));
}

/* Which steps are shown. */
static void choose(const struct ring *r, const struct ring_why *w, size_t last, size_t *from, size_t *to)
{
	size_t count = ring_count(r), tells = 0;
	struct ring_view v;

	*to = count;
	if (last || !w->found) {
		last = last ? last : WITHOUT;
		*from = last < count ? count - last : 0;
		return;
	}
	for (*from = w->first; *from && tells < AROUND_BEFORE; (*from)--)
		tells += ring_view(r, *from - 1, &v) && !ring_quiet(&v);
	tells = 0;
	for (*to = w->last + 1; *to < count && tells < AROUND_AFTER; (*to)++)
		tells += ring_view(r, *to, &v) && !ring_quiet(&v);
}

static void print_step(const struct ring_view *v, nstime zero, const char *mark, FILE *f)
{
	char text[256];

	ring_event_text(v, text, sizeof(text));
	fprintf(f, "%s%+14.3f ms  #%-8" PRIu64 " %-34s ", mark, ms(zero, v->at), v->n, text);
	if (v->was != v->state)
		fprintf(f, "%s -> %s", ft_state_name(v->was), ft_state_name(v->state));
	else
		fprintf(f, "%s", ft_state_name(v->state));
	for (unsigned int k = 0; k < v->n_acts; k++) {
		ring_action_text(v, k, text, sizeof(text));
		fprintf(f, "%s %s", k ? ";" : ":", text);
	}
	fputc('\n', f);
}

static void print_quiet(uint64_t n, FILE *f)
{
	if (n)
		fprintf(f, "  %17s  (%" PRIu64 " heartbeat%s and the like)\n", "", n, n == 1 ? "" : "s");
}

void blackbox_text(const struct blackbox_head *h, const struct ring *r, size_t last, FILE *f)
{
	char sentence[1024], at[48];
	uint64_t quiet = 0, total = ring_total(r);
	size_t from, to, count = ring_count(r);
	struct ring_view v, zero = { 0 };
	struct ring_why w;

	blackbox_summary(h, r, sentence, sizeof(sentence));
	fprintf(f, "%s\n\n", sentence);
	fprintf(f, "Black box of %s on host %s, written %s at %s by lockstep %s, generation %" PRIu32 ";\n"
		"%zu of %" PRIu64 " steps of the control machine are kept.\n", h->name, h->host, cause_text[h->cause],
		wall(h, h->at, at), h->version, h->generation, count, total);
	if (!count)
		return;
	ring_why(r, &w);
	choose(r, &w, last, &from, &to);
	ring_view(r, w.found ? w.first : count - 1, &zero);
	fprintf(f, "Times count from %s, %s.\n\n", w.found ? "the first evidence (marked >)" : "the newest step", wall(h, zero.at, at));
	for (size_t i = from; i < to && ring_view(r, i, &v); i++) {
		if (!last && ring_quiet(&v) && !(w.found && i == w.first)) {
			quiet++;
			continue;
		}
		print_quiet(quiet, f);
		quiet = 0;
		print_step(&v, zero.at, w.found && i == w.first ? "> " : "  ", f);
	}
	print_quiet(quiet, f);
}

static void put_ms(struct json_object *o, const char *key, nstime from, nstime to)
{
	struct json_object *d = to ? json_object_new_double(ms(from, to)) : NULL;

	if (d)
		json_object_set_serializer(d, json_object_double_to_json_string, (void *)"%.3f", NULL);
	json_object_object_add(o, key, d);
}

static struct json_object *why_json(const struct blackbox_head *h, const struct ring *r, const struct ring_why *w)
{
	struct json_object *o = json_object_new_object();
	struct ring_view first;
	const char *evidence;
	char at[48];

	if (!o || !ring_view(r, w->first, &first))
		return o;
	evidence = ring_evidence(&first);
	json_object_object_add(o, "happened", json_object_new_string(what_happened(w)));
	json_object_object_add(o, "at", json_object_new_string(wall(h, w->noticed, at)));
	json_object_object_add(o, "reason", json_object_new_string(ft_reason_name(w->reason)));
	json_object_object_add(o, "evidence", json_object_new_string(evidence ? evidence : ft_ev_name(first.ev->type)));
	json_object_object_add(o, "step", json_object_new_uint64(first.n));
	json_object_object_add(o, "was", json_object_new_string(ft_state_name(w->was)));
	json_object_object_add(o, "now", json_object_new_string(ft_state_name(w->now)));
	json_object_object_add(o, "over", json_object_new_boolean(w->over));
	put_ms(o, "last_heartbeat_ms", w->noticed, w->beat);
	put_ms(o, "decided_ms", w->noticed, w->decided_at);
	put_ms(o, "granted_ms", w->noticed, w->granted_at);
	put_ms(o, "open_ms", w->noticed, w->open_at);
	put_ms(o, "ended_ms", w->noticed, w->ended_at);
	return o;
}

struct json_object *blackbox_json(const struct blackbox_head *h, const struct ring *r, size_t last)
{
	struct json_object *o = json_object_new_object(), *steps = json_object_new_array();
	struct ring_view v, zero = { 0 };
	char text[1024], at[48];
	struct ring_why w;
	size_t from, to;

	if (!o || !steps) {
		json_object_put(o);
		json_object_put(steps);
		return NULL;
	}
	ring_why(r, &w);
	choose(r, &w, last, &from, &to);
	ring_view(r, w.found ? w.first : ring_count(r) ? ring_count(r) - 1 : 0, &zero);
	blackbox_summary(h, r, text, sizeof(text));
	json_object_object_add(o, "summary", json_object_new_string(text));
	json_object_object_add(o, "why", w.found ? why_json(h, r, &w) : NULL);
	json_object_object_add(o, "name", json_object_new_string(h->name));
	json_object_object_add(o, "host", json_object_new_string(h->host));
	json_object_object_add(o, "version", json_object_new_string(h->version));
	json_object_object_add(o, "written", json_object_new_string(cause_name[h->cause]));
	json_object_object_add(o, "written_at", json_object_new_string(wall(h, h->at, at)));
	json_object_object_add(o, "generation", json_object_new_uint64(h->generation));
	json_object_object_add(o, "steps_kept", json_object_new_uint64(ring_count(r)));
	json_object_object_add(o, "steps_total", json_object_new_uint64(ring_total(r)));
	for (size_t i = from; i < to && ring_view(r, i, &v); i++) {
		struct json_object *one = json_object_new_object(), *acts = json_object_new_array();

		json_object_object_add(one, "n", json_object_new_uint64(v.n));
		put_ms(one, "at_ms", zero.at, v.at);
		ring_event_text(&v, text, sizeof(text));
		json_object_object_add(one, "event", json_object_new_string(text));
		json_object_object_add(one, "was", json_object_new_string(ft_state_name(v.was)));
		json_object_object_add(one, "state", json_object_new_string(ft_state_name(v.state)));
		for (unsigned int k = 0; k < v.n_acts; k++) {
			ring_action_text(&v, k, text, sizeof(text));
			json_object_array_add(acts, json_object_new_string(text));
		}
		json_object_object_add(one, "actions", acts);
		json_object_array_add(steps, one);
	}
	json_object_object_add(o, "steps", steps);
	return o;
}
