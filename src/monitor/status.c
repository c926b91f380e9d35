/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Status as JSON, the one form in which it leaves the process: the text for people is made from it by whoever
 * shows it (status_text.c). Names are stable, units stand in them (_ms, bytes); numbers that nobody knows are null.
 * Runs in the control loop.
 */
#include "monitor/status_internal.h"

#include <time.h>

#include "monitor/condition.h"

void status_ckpts_add(struct status_ckpts *c, const struct ckpt_times *t, uint64_t bytes)
{
	hist_add(&c->pause, t->pause);
	hist_add(&c->pages, t->pages);
	hist_add(&c->bytes, bytes);
	c->last = *t;
	c->last_bytes = bytes;
}

/* Time passed since @at; null when that has not happened. */
static void put_age(struct json_object *o, const char *key, nstime now, nstime at)
{
	put_ms(o, key, !at ? STATUS_UNKNOWN : now > at ? now - at : 0);
}

static struct json_object *dist_json(const struct hist *h,
				     void (*put_one)(struct json_object *, const char *, uint64_t))
{
	struct json_object *o = json_object_new_object();
	struct hist_summary s;

	hist_summary(h, &s);
	put_u64(o, "count", s.n);
	put_one(o, "last", s.n ? s.last : STATUS_UNKNOWN);
	put_one(o, "p50", s.n ? s.p50 : STATUS_UNKNOWN);
	put_one(o, "p99", s.n ? s.p99 : STATUS_UNKNOWN);
	put_one(o, "max", s.n ? s.max : STATUS_UNKNOWN);
	return o;
}

struct json_object *status_ckpt_json(const struct ckpt_times *t, uint64_t bytes)
{
	struct json_object *o = json_object_new_object(), *steps = json_object_new_object();

	if (!o || !steps) {
		json_object_put(o);
		json_object_put(steps);
		return NULL;
	}
	put_u64(o, "n", t->n);
	put_str(o, "cause", ckpt_cause_name(t->cause));
	put_ms(o, "pause_ms", t->pause);
	put_u64(o, "pages", t->pages);
	put_u64(o, "bytes", bytes);
	put_ms(steps, "gate", t->gate);
	put_ms(steps, "stop", t->stop);
	put_ms(steps, "drain", t->drain);
	put_ms(steps, "save", t->save);
	put_ms(steps, "copy", t->copy);
	put_ms(steps, "cont", t->cont);
	put_ms(steps, "staged", t->staged);
	put_ms(steps, "loaded", t->loaded);
	put(o, "steps_ms", steps);
	return o;
}

static void put_percent(struct json_object *o, uint64_t done, uint64_t all)
{
	struct json_object *percent = json_object_new_double(all ? 100.0 * (double)done / (double)all : 0.0);

	if (percent)
		json_object_set_serializer(percent, json_object_double_to_json_string, (void *)"%.1f", NULL);
	put(o, "percent", percent);
}

static void put_progress(struct json_object *o, uint64_t done, uint64_t left, uint64_t rate)
{
	put_percent(o, done, done + left);
	put_u64(o, "bytes_done", done);
	put_u64(o, "bytes_left", left);
	put_u64(o, "bytes_per_second", rate ? rate : STATUS_UNKNOWN);
	put_ms(o, "time_left_ms", rate ? (uint64_t)((double)left / (double)rate * NS_PER_S) : STATUS_UNKNOWN);
}

/* What the synchronisation is at: first the disks, then memory while the VM runs, then the first checkpoint. */
static const char *sync_phase(const struct status *s)
{
	static const char *const filling[] = { "idle", "start", "precopy", "fill" };

	if (s->disk && (s->disk->resyncing || (s->phase && !strcmp(s->phase, "resync"))))
		return "disks";
	for (size_t i = 0; s->phase && i < sizeof(filling) / sizeof(*filling); i++)
		if (!strcmp(s->phase, filling[i]))
			return "memory";
	return s->phase ? "checkpoint" : "memory";
}

static struct json_object *sync_json(const struct status *s)
{
	struct json_object *o, *sub;

	if (!s->sync.active)
		return NULL;
	o = json_object_new_object();
	put_str(o, "phase", sync_phase(s));
	put_u64(o, "round", s->sync.round);
	put_progress(o, s->sync.bytes_done, s->sync.bytes_left, s->sync.rate);
	sub = json_object_new_object();
	put_u64(sub, "round", s->sync.round);
	put_progress(sub, s->sync.bytes_done, s->sync.bytes_left, s->sync.rate);
	put(o, "memory", sub);
	sub = s->disk ? json_object_new_object() : NULL;
	if (sub) {
		const struct resync_progress *p = &s->disk->resync;

		put_progress(sub, p->done, p->total > p->done ? p->total - p->done : 0, p->rate);
		put_str(sub, "disk", p->disk < s->n_disks ? s->disk_ids[p->disk] : NULL);
		put(sub, "comparing", json_object_new_boolean(p->comparing));
	}
	put(o, "disks", sub);
	return o;
}

static struct json_object *checkpoints_json(const struct status *s)
{
	struct json_object *o = json_object_new_object(), *by = json_object_new_object();
	uint64_t total = 0;

	for (int c = CAUSE_NONE + 1; c < CAUSE_MAX; c++) {
		total += s->checkpoints[c];
		put_u64(by, ckpt_cause_name((enum ckpt_cause)c), s->checkpoints[c]);
	}
	put_u64(o, "total", total);
	put(o, "by_cause", by);
	put_u64(o, "aborted", s->aborted);
	if (s->ckpts) {
		put(o, "pause_ms", dist_json(&s->ckpts->pause, put_ms));
		put(o, "pages", dist_json(&s->ckpts->pages, put_u64));
		put(o, "bytes", dist_json(&s->ckpts->bytes, put_u64));
		put(o, "last", s->ckpts->pause.n ? status_ckpt_json(&s->ckpts->last, s->ckpts->last_bytes) : NULL);
	}
	put_ms(o, "delay_ms", s->checkpoint_delay);
	return o;
}

static struct json_object *link_json(const struct status *s)
{
	struct json_object *o = json_object_new_object();
	bool up = s->link.peer[0];

	put(o, "connected", json_object_new_boolean(up));
	put_str(o, "peer", s->link.peer);
	put_age(o, "connected_ms", s->now, up ? s->link.connected_at : 0);
	put_ms(o, "rtt_ms", up ? s->link.rtt : STATUS_UNKNOWN);
	put_age(o, "last_heartbeat_ms", s->now, s->link.beat_at);
	put_u64(o, "silent", s->link.silent);
	put_u64(o, "bytes_sent", s->link.bytes_sent);
	put_u64(o, "bytes_received", s->link.bytes_received);
	put_str(o, "encrypted", s->link.encrypted);
	put(o, "heartbeat", status_beat_json(s));
	return o;
}

struct json_object *status_failover_json(const struct status *s)
{
	struct json_object *o;
	char text[64], at[80];
	struct tm tm;
	time_t t;

	if (!s->failover.at)
		return NULL;
	o = json_object_new_object();
	if (s->failover.wall) {
		t = (time_t)(s->failover.wall / 1000000);
		gmtime_r(&t, &tm);
		strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
		snprintf(at, sizeof(at), "%s.%03dZ", text, (int)(s->failover.wall / 1000 % 1000));
		put_str(o, "at", at);
	}
	put_age(o, "ago_ms", s->now, s->failover.at);
	put_str(o, "reason", ft_reason_name(s->failover.reason));
	put_ms(o, "took_ms", s->failover.took);
	put_ms(o, "gap_ms", s->failover.took_over ? s->failover.gap : STATUS_UNKNOWN);
	put(o, "took_over", json_object_new_boolean(s->failover.took_over));
	return o;
}

static struct json_object *monitor_json(const struct monitor_stats *m)
{
	struct json_object *o = json_object_new_object();

#define F(field) put_u64(o, #field, m->field)
	F(clients), F(watchers), F(accepted), F(refused_full), F(refused_user), F(requests), F(bad_requests);
	F(long_lines), F(events), F(closed_fds), F(dropped_slow);
#undef F
	return o;
}

struct json_object *status_state_json(enum ft_role role, enum ft_state state, enum ft_reason reason, uint64_t epoch,
				      uint32_t generation)
{
	struct json_object *o = json_object_new_object();

	if (!o)
		return NULL;
	put_str(o, "role", role == FT_PRIMARY ? "primary" : "secondary");
	put_str(o, "state", ft_state_name(state));
	put_str(o, "reason", ft_reason_name(reason));
	put(o, "protected", json_object_new_boolean(state == FT_PROTECTED || state == FT_STANDBY));
	put_u64(o, "epoch", epoch);
	put_u64(o, "generation", generation);
	return o;
}

struct json_object *status_json(const struct status *s)
{
	struct json_object *o = status_state_json(s->role, s->state, s->reason, s->epoch, s->generation), *sub;
	struct condition_why why;
	enum condition cond = condition_of(s, &why);

	if (!o)
		return NULL;
	condition_json(o, cond, &why);
	put_str(o, "name", s->name);
	put_age(o, "state_ms", s->now, s->state_at);
	put_str(o, "phase", s->phase);
	put(o, "sync", sync_json(s));
	put(o, "checkpoints", checkpoints_json(s));
	put(o, "net", status_net_json(s));
	put(o, "link", link_json(s));
	if (s->disk)
		put(o, "disk", status_disks_json(s));
	put(o, "failover", status_failover_json(s));
	put(o, "failed_over", s->failover.took_over && !s->failover.over ? status_failover_json(s) : NULL);
	put(o, "last_failover", s->failover.took_over && s->failover.over ? status_failover_json(s) : NULL);

	sub = json_object_new_object();
	put_u64(sub, "pid", s->qemu.pid > 0 ? (uint64_t)s->qemu.pid : STATUS_UNKNOWN);
	put_str(sub, "version", s->qemu.version);
	put_str(sub, "state", s->qemu.state);
	put(o, "qemu", sub);
	put(o, "paused", json_object_new_boolean(s->paused));

	sub = json_object_new_object();
	put_u64(sub, "guest_bytes", s->memory.guest);
	put_u64(sub, "staged_bytes", s->memory.staged);
	put_u64(sub, "private_pages", s->memory.private_pages);
	put_str(sub, "mapping", ft_memory_name(s->memory.mapping));
	put_u64(sub, "shared_pages", s->memory.shared_pages);
	put_u64(sub, "share_pieces", s->memory.share_pieces);
	put(sub, "share_longest_ms", json_object_new_double((double)s->memory.share_longest / NS_PER_MS));
	put_u64(sub, "private_limit_bytes", s->memory.private_limit);
	put_u64(sub, "staged_limit_bytes", s->memory.staged_limit);
	put_u64(sub, "pool_bytes", s->memory.pool);
	put_u64(sub, "limit_private", s->memory.limit_private);
	put_u64(sub, "limit_staged", s->memory.limit_staged);
	put_u64(sub, "limit_full", s->memory.limit_full);
	put_u64(sub, "buffered_bytes", s->memory.buffered);
	put_u64(sub, "precopy_rounds", s->memory.precopy_rounds);
	put_u64(sub, "precopy_pages", s->memory.precopy_pages);
	put_u64(sub, "sent_zero_pages", s->memory.sent_zero);
	put_u64(sub, "sent_plain_pages", s->memory.sent_plain);
	put_u64(sub, "sent_packed_pages", s->memory.sent_packed);
	put_u64(sub, "sent_packed_bytes", s->memory.packed_bytes);
	put_u64(sub, "pauses_for_link", s->memory.pauses_for_link);
	put(o, "memory", sub);

	sub = json_object_new_object();
	put_u64(sub, "pid", (uint64_t)s->pid);
	put_str(sub, "version", s->version);
	put_age(sub, "uptime_ms", s->now, s->started_at);
	put(o, "lockstep", sub);
	put(o, "monitor", monitor_json(&s->monitor));

	sub = json_object_new_array();
	for (int i = 0; i < STATUS_MAX_WARNINGS && s->warnings[i]; i++)
		json_object_array_add(sub, json_object_new_string(s->warnings[i]));
	put(o, "warnings", sub);
	return o;
}
