/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * How this node is, told to who watches: the one word of status and its reasons whenever they change, a failover with its
 * steps, the paths of the heartbeat, and all of it to the service manager. Control loop only.
 */
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/log.h"
#include "base/notify.h"
#include "monitor/condition.h"
#include "node_internal.h"

static void put_ms(struct json_object *o, const char *key, nstime t)
{
	struct json_object *d = json_object_new_double((double)t / NS_PER_MS);

	if (d)
		json_object_set_serializer(d, json_object_double_to_json_string, (void *)"%.3f", NULL);
	json_object_object_add(o, key, d);
}

static int64_t wall_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* An event of a failover; @at: since it was noticed. */
static void tell_failover(struct node *n, const char *step, nstime at, struct json_object *o)
{
	if (!o)
		o = json_object_new_object();
	if (!o)
		return;
	json_object_object_add(o, "step", json_object_new_string(step));
	put_ms(o, "at_ms", at);
	monitor_event(n->monitor, "FAILOVER", o);
}

void node_health_noticed(struct node *n)
{
	struct json_object *o = json_object_new_object();

	n->lost_wall = wall_us();
	n->lost_beat = n->beat_at;
	if (o && n->beat_at)
		put_ms(o, "last_heartbeat_ms", clock_ns() - n->beat_at);
	tell_failover(n, "noticed", clock_ns() - n->lost_at, o);
}

/* The end of a failover is told when output is open, which is the same step's last action. */
static void tell_complete(struct node *n)
{
	nstime now = clock_ns(), from = n->failed_over_at;
	struct node_view *v = calloc(1, sizeof(*v));

	n->complete_due = false;
	n->failover_took = now - n->failed_over_at;
	/* Its heartbeats end with the peer, the notice of its end comes later. */
	if (n->lost_beat && n->lost_beat < from)
		from = n->lost_beat;
	n->failover_gap = n->took_over ? now - from : STATUS_UNKNOWN;
	if (v) {
		node_view(n, v);
		tell_failover(n, "complete", now - n->failed_over_at, status_failover_json(&v->s));
	}
	free(v);
}

void node_health_step(struct node *n, const char *step)
{
	if (!n->lost_at && !n->complete_due)
		return;
	tell_failover(n, step, clock_ns() - (n->lost_at ? n->lost_at : n->failed_over_at), NULL);
	if (n->complete_due && (!strcmp(step, "promoted") || !strcmp(step, "released")))
		tell_complete(n);
}

void node_health_failed_over(struct node *n, bool took_over)
{
	nstime now = clock_ns();

	n->took_over = took_over;
	n->failover_past = false;
	n->failover_gap = took_over ? now - n->failed_over_at : STATUS_UNKNOWN;
	if (!n->lost_wall)
		n->lost_wall = wall_us();
	n->failover_wall = n->lost_wall;
	n->lost_wall = 0;
	n->complete_due = true;
}

/* A path of heartbeats has fallen silent, or is heard again. */
static void tell_paths(struct node *n, const struct status *st)
{
	for (unsigned int i = 0; i < st->n_paths; i++) {
		struct json_object *o;

		if (st->paths[i].silent == n->path_silent[i])
			continue;
		n->path_silent[i] = st->paths[i].silent;
		o = json_object_new_object();
		if (o) {
			json_object_object_add(o, "path", json_object_new_uint64(i));
			json_object_object_add(o, "name", json_object_new_string(st->paths[i].name));
			json_object_object_add(o, "silent", json_object_new_boolean(st->paths[i].silent));
		}
		monitor_event(n->monitor, "PATH", o);
	}
}

void node_health_witness(struct node *n, const char *kind, bool lost)
{
	struct json_object *o;

	if (n->witness_kind && n->witness_lost == lost)
		return;
	n->witness_kind = kind;
	n->witness_lost = lost;
	o = json_object_new_object();
	if (o) {
		json_object_object_add(o, "kind", json_object_new_string(kind));
		json_object_object_add(o, "reachable", json_object_new_boolean(!lost));
	}
	monitor_event(n->monitor, "WITNESS", o);
	node_health(n);
}

void node_health_link(struct node *n, bool up, const char *how)
{
	struct json_object *o = json_object_new_object();

	if (up)
		memset(n->path_silent, 0, sizeof(n->path_silent));
	if (o) {
		json_object_object_add(o, "connected", json_object_new_boolean(up));
		json_object_object_add(o, "peer", json_object_new_string(n->peer_text));
		json_object_object_add(o, "how", json_object_new_string(how));
	}
	monitor_event(n->monitor, "LINK", o);
}

static void on_alive(struct loop_timer *t)
{
	struct node *n = t->arg;

	notify_alive();
	loop_timer_set(n->control, t, clock_ns() + notify_watchdog());
}

void node_health_start(struct node *n)
{
	n->alive = (struct loop_timer){ .fn = on_alive, .arg = n };
	if (notify_watchdog() != NS_NEVER)
		loop_timer_set(n->control, &n->alive, loop_now(n->control));
}

void node_health(struct node *n)
{
	struct node_view *v;
	struct json_object *o;
	enum condition c;

	if (ft_state(n->ft) == FT_PROTECTED || ft_state(n->ft) == FT_STANDBY)
		n->failover_past = true;
	/* It serves, stands by, or looks for its peer: whoever waits for this start need not wait for the other node's. */
	if (n->pair && !n->ended)
		notify_ready();
	v = calloc(1, sizeof(*v));
	if (!v)
		return;
	node_view(n, v);
	tell_paths(n, &v->s);
	if (n->complete_due && v->s.now - n->state_at > NS_PER_S)
		tell_complete(n);
	c = condition_of(&v->s, &v->why);
	if (!n->health.told || c != n->health.word || !condition_same(&v->why, &n->health.why)) {
		n->health.told = true;
		n->health.word = c;
		n->health.why = v->why;
		log_info("condition %s%s%s", condition_name(c), v->why.n ? ": " : "", v->why.n ? v->why.text[0] : "");
		o = json_object_new_object();
		if (o) {
			condition_json(o, c, &v->why);
			json_object_object_add(o, "state", json_object_new_string(ft_state_name(v->s.state)));
		}
		monitor_event(n->monitor, "CONDITION", o);
		notify_status(condition_name(c), v->s.role == FT_PRIMARY ? "primary" : "secondary",
			      v->why.n ? v->why.text[0] : "");
	}
	free(v);
}
