/* SPDX-License-Identifier: BSD-2-Clause */
/* The heartbeat's part of the status: suspicion, and each path by itself. */
#include "monitor/status_internal.h"

#include <inttypes.h>

static void put_heard(struct json_object *o, nstime now, nstime heard)
{
	put_ms(o, "last_heartbeat_ms", !heard ? STATUS_UNKNOWN : now > heard ? now - heard : 0);
}

static struct json_object *path_json(const struct status *s, unsigned int i)
{
	const struct hb_path_stats *p = &s->beat->path[i];
	struct json_object *o = json_object_new_object();

	put_u64(o, "path", i);
	put_str(o, "address", s->beat->name[i]);
	put(o, "up", json_object_new_boolean(p->up && p->heard));
	put_ms(o, "rtt_ms", p->rtt_max ? p->rtt_last : STATUS_UNKNOWN);
	put_ms(o, "rtt_avg_ms", p->rtt_max ? p->rtt_avg : STATUS_UNKNOWN);
	put_ms(o, "rtt_max_ms", p->rtt_max ? p->rtt_max : STATUS_UNKNOWN);
	put_heard(o, s->now, p->heard);
	put_u64(o, "losses", p->losses);
	put_u64(o, "sent", p->sent);
	put_u64(o, "received", p->received);
	put_u64(o, "lost", p->lost);
	put_u64(o, "late", p->late);
	put_u64(o, "strangers", p->strangers);
	put_u64(o, "send_errors", p->send_errors);
	return o;
}

struct json_object *status_beat_json(const struct status *s)
{
	struct json_object *o, *paths;

	if (!s->beat)
		return NULL;
	o = json_object_new_object();
	put_str(o, "suspicion", s->suspicion);
	put_u64(o, "late", s->beat->lates);
	put_u64(o, "suspect", s->beat->suspects);
	put_u64(o, "silent", s->beat->silences);
	put_u64(o, "frozen", s->beat->freezes);
	put_ms(o, "frozen_max_ms", s->beat->frozen_max);
	paths = json_object_new_array();
	for (unsigned int i = 0; i < s->beat->n_paths; i++)
		json_object_array_add(paths, path_json(s, i));
	put(o, "paths", paths);
	return o;
}

void status_beat_text(struct json_object *b, FILE *f)
{
	struct json_object *paths = text_get(b, "paths", json_type_array);
	char t[32], u[32];

	if (strcmp(text_str(b, "suspicion"), "fine"))
		text_row(f, "  heartbeat", "the peer is %s", text_str(b, "suspicion"));
	/* A single one is the link's, and shown there. */
	if (paths && json_object_array_length(paths) < 2)
		return;
	for (size_t i = 0; paths && i < json_object_array_length(paths); i++) {
		struct json_object *p = json_object_array_get_idx(paths, i);
		double heard = text_num(p, "last_heartbeat_ms");

		if (!json_object_is_type(p, json_type_object))
			continue;
		if (text_bool(p, "up"))
			text_row(f, i ? "" : "  heartbeat", "path %" PRIu64 ", %s: round trip %s, %" PRIu64 " of %" PRIu64 " lost",
				 text_u64(p, "path"), text_str(p, "address"), text_ms(text_num(p, "rtt_ms"), t),
				 text_u64(p, "lost"), text_u64(p, "lost") + text_u64(p, "received"));
		else if (heard >= 0)
			text_row(f, i ? "" : "  heartbeat", "path %" PRIu64 ", %s: LOST, last heard %s ago",
				 text_u64(p, "path"), text_str(p, "address"), text_ms(heard, u));
		else
			text_row(f, i ? "" : "  heartbeat", "path %" PRIu64 ", %s: nothing heard yet", text_u64(p, "path"),
				 text_str(p, "address"));
	}
}
