/* SPDX-License-Identifier: BSD-2-Clause */
/* The network's part of the status, as JSON: everything that core/net counts, its limits, rules and settings. */
#include "monitor/status_internal.h"

static struct json_object *limits_json(const struct net_cfg *c)
{
	struct json_object *o = json_object_new_object();

	put_u64(o, "held", c->max_held);
	put_u64(o, "held_bytes", c->max_bytes);
	put_u64(o, "held_flow", c->max_held_flow);
	put_u64(o, "held_flow_bytes", c->max_flow_bytes);
	put_u64(o, "flows", c->n_flows);
	put_u64(o, "logged", c->n_log);
	put_u64(o, "reasm", c->n_reasm);
	put_u64(o, "frames", c->n_frames);
	return o;
}

static struct json_object *rules_json(const struct status *s)
{
	unsigned int n_nics = s->net_cfg && s->nic_ids ? s->net_cfg->n_nics : 0;
	struct json_object *list = json_object_new_array();
	char text[RULE_TEXT_MAX];

	for (uint32_t i = 0; i < s->rules.n && i < RULES_MAX; i++) {
		struct json_object *one = json_object_new_object();

		rule_format(&s->rules.r[i], s->nic_ids, n_nics, text);
		put_str(one, "action", rule_action_name((enum rule_action)s->rules.r[i].action));
		put_str(one, "rule", text);
		json_object_array_add(list, one);
	}
	return list;
}

/* The settings that hold: of the NIC, or those for all. */
static struct json_object *nics_json(const struct net_cfg *c, const char *const *ids)
{
	struct json_object *list = json_object_new_array();

	for (unsigned int i = 0; i < c->n_nics && i < NET_MAX_NICS; i++) {
		const struct net_nic_cfg *own = &c->nic[i];
		struct json_object *one = json_object_new_object();

		put_str(one, "id", ids ? ids[i] : NULL);
		put_ms(one, "compare_timeout_ms", own->compare_timeout ? own->compare_timeout : c->compare_timeout);
		put_ms(one, "expired_scan_cycle_ms", own->expired_scan_cycle ? own->expired_scan_cycle :
		       c->expired_scan_cycle);
		put_u64(one, "max_queue_size", own->max_queue_size ? own->max_queue_size : c->max_held_flow);
		json_object_array_add(list, one);
	}
	return list;
}

/* A node that serves alone, and a pair that is not yet one, compare nothing. */
static const char *mode(const struct status *s)
{
	if (s->state != FT_PROTECTED && s->state != FT_STANDBY)
		return "off";
	return s->net.hybrid ? "hybrid" : "comparing";
}

struct json_object *status_net_json(const struct status *s)
{
	struct json_object *o = json_object_new_object();
	const struct net_stats *n = &s->net;

	put_str(o, "mode", mode(s));
	put(o, "hybrid_allowed", json_object_new_boolean(!s->net_cfg || !s->net_cfg->no_hybrid));
	put_ms(o, "hybrid_interval_ms", !strcmp(mode(s), "hybrid") ? n->hybrid_interval : STATUS_UNKNOWN);
	put(o, "rules", rules_json(s));
#define F(field) put_u64(o, #field, n->field)
	F(held), F(held_svm), F(held_bytes), F(held_svm_bytes), F(logged), F(flows), F(flows_embryo), F(reasm);
	F(frames_free);
	F(tap_in), F(tap_out), F(guest_in), F(guest_out), F(peer_in), F(peer_out), F(bytes_in), F(bytes_out);
	F(released_compared), F(released_staged), F(passed), F(bypassed), F(datagrams), F(mismatches), F(guessed);
	F(svm_twice), F(acks_made), F(acks_swallowed), F(acks_lowered), F(splits), F(gate_expired);
	F(replayed), F(resent);
	F(reassembled), F(reasm_dropped), F(signed_flows), F(icmp_translated);
	F(drop_pool), F(drop_room), F(drop_held), F(drop_old_epoch), F(drop_bad), F(drop_silent), F(drop_syn), F(drop_qemu), F(drop_tap);
	F(flows_evicted), F(flows_embryo_evicted), F(flows_full), F(addrs_full);
	F(limit_flow), F(limit_held), F(limit_bytes), F(limit_flows), F(limit_reasm);
	F(hybrid_entered), F(hybrid_left);
#undef F
	put(o, "limits", s->net_cfg ? limits_json(s->net_cfg) : NULL);
	put(o, "nics", s->net_cfg ? nics_json(s->net_cfg, s->nic_ids) : NULL);
	return o;
}
