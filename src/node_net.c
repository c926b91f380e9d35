/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the user says about the network: options of the command line and commands of the control socket, made into
 * settings and rules of core/net. Control loop only, and before it runs.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "base/log.h"
#include "node_internal.h"

static int read_nics(struct node *n, struct err *e)
{
	bool given[CMDLINE_NICS_MAX] = { 0 };

	for (unsigned int i = 0; i < n->o->n_nics; i++) {
		struct net_nic_cfg cfg;
		int nic = setting_nic(n->o->nics[i], n->nic_ids, n->cl.n_nics, &cfg, e);

		if (nic >= 0 && given[nic])
			nic = err_set(e, -EINVAL, "%s has one already: put all its settings into it", n->nic_ids[nic]);
		if (nic < 0) {
			err_prefix(e, "--nic %.100s", n->o->nics[i]);
			return nic;
		}
		given[nic] = true;
		n->net.nic[nic] = cfg;
	}
	return 0;
}

static int read_rules(struct node *n, struct err *e)
{
	for (unsigned int i = 0; i < n->o->n_rules; i++) {
		struct rule r;
		int rc = rule_parse(n->o->rules[i], n->nic_ids, n->cl.n_nics, &r, e);

		if (!rc)
			rc = rules_insert(&n->net.rules, i, &r, e);
		if (rc) {
			err_prefix(e, "--rule %.100s", n->o->rules[i]);
			return -EINVAL;
		}
	}
	return 0;
}

int node_net_read(struct node *n, struct err *e)
{
	int rc;

	for (unsigned int i = 0; i < n->cl.n_nics; i++)
		n->nic_ids[i] = n->cl.nics[i].id;
	rc = read_nics(n, e);
	return rc ? rc : read_rules(n, e);
}

int node_net_cfg(struct node *n, const uint32_t mtu[NET_MAX_NICS], struct err *e)
{
	uint32_t most = 0;
	struct net_cfg *cfg = &n->net, own = n->net;

	for (unsigned int i = 0; i < n->cl.n_nics; i++)
		most = mtu[i] > most ? mtu[i] : most;
	net_cfg_default(cfg, n->cl.n_nics, most);
	memcpy(cfg->mtu, mtu, sizeof(cfg->mtu));
	/* Rules of the peer come as a frame. */
	if (cfg->frame_size < RULES_BYTES_MAX)
		cfg->frame_size = RULES_BYTES_MAX;
	cfg->compare_timeout = n->o->compare_timeout;
	cfg->expired_scan_cycle = n->o->expired_scan_cycle;
	cfg->max_held_flow = n->o->max_queue_size;
	cfg->no_hybrid = n->o->no_hybrid;
	cfg->rules = own.rules;
	memcpy(cfg->nic, own.nic, sizeof(cfg->nic));
	for (unsigned int i = 0; i < n->cl.n_nics; i++)
		sscanf(n->cl.nics[i].mac, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &cfg->mac[i][0], &cfg->mac[i][1],
		       &cfg->mac[i][2], &cfg->mac[i][3], &cfg->mac[i][4], &cfg->mac[i][5]);
	if (getrandom(cfg->hash_key, sizeof(cfg->hash_key), 0) < 0)
		return err_set(e, -errno, "no random numbers: %s", strerror(errno));
	return 0;
}

static void set_nic(struct node *n, unsigned int nic, const struct net_nic_cfg *cfg)
{
	struct net_nic_cfg *own = &n->net.nic[nic];

	if (!cfg->compare_timeout && !cfg->expired_scan_cycle && !cfg->max_queue_size)
		return;
	own->compare_timeout = cfg->compare_timeout ? cfg->compare_timeout : own->compare_timeout;
	own->expired_scan_cycle = cfg->expired_scan_cycle ? cfg->expired_scan_cycle : own->expired_scan_cycle;
	own->max_queue_size = cfg->max_queue_size ? cfg->max_queue_size : own->max_queue_size;
	proxy_set_nic(n->px, nic, cfg);
}

int node_net_set(struct node *n, const struct monitor_cmd *cmd, struct err *e)
{
	int nic[NET_MAX_NICS];

	/* All or nothing. */
	for (unsigned int i = 0; i < cmd->n_nics; i++) {
		nic[i] = setting_nic_find(cmd->nics[i].nic, strlen(cmd->nics[i].nic), n->nic_ids, n->cl.n_nics, e);
		if (nic[i] < 0)
			return nic[i];
	}
	for (unsigned int i = 0; i < n->cl.n_nics; i++)
		set_nic(n, i, &cmd->all);
	for (unsigned int i = 0; i < cmd->n_nics; i++)
		set_nic(n, (unsigned int)nic[i], &cmd->nics[i].cfg);
	return 0;
}

static struct json_object *rules_answer(struct node *n, const struct rules *rules)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	char text[RULE_TEXT_MAX];
	struct net_stats st;

	proxy_stats(n->px, &st);
	for (uint32_t i = 0; i < rules->n; i++) {
		rule_format(&rules->r[i], n->nic_ids, n->cl.n_nics, text);
		json_object_array_add(list, json_object_new_string(text));
	}
	json_object_object_add(o, "rules", list);
	json_object_object_add(o, "bypassed", json_object_new_uint64(st.bypassed));
	return o;
}

int node_net_rules(struct node *n, const struct monitor_cmd *cmd, struct json_object **result, struct err *e)
{
	enum ft_state st = ft_state(n->ft);
	struct rules rules;
	struct rule r;
	int rc = 0;

	proxy_rules(n->px, &rules);
	if (cmd->rule.op != MONITOR_RULE_LIST && (st == FT_STANDBY || st == FT_JOINING || st == FT_PROMOTING ||
						  (st == FT_INIT && n->role == RUN_SECONDARY)))
		return err_set(e, -EINVAL, "this node is %s and has its rules from the primary: change them there, and "
			       "they come here", st == FT_PROMOTING ? "promoting" : "the secondary");
	switch (cmd->rule.op) {
	case MONITOR_RULE_LIST:
		break;
	case MONITOR_RULE_INSERT:
		rc = rule_parse(cmd->rule.text, n->nic_ids, n->cl.n_nics, &r, e);
		if (!rc)
			rc = rules_insert(&rules, cmd->rule.at == MONITOR_RULE_END ? rules.n : cmd->rule.at, &r, e);
		break;
	case MONITOR_RULE_DELETE:
		rc = rules_delete(&rules, cmd->rule.at, e);
		break;
	case MONITOR_RULE_CLEAR:
		rules.n = 0;
		memset(rules.r, 0, sizeof(rules.r));
		break;
	}
	if (rc)
		return rc;
	if (cmd->rule.op != MONITOR_RULE_LIST) {
		proxy_set_rules(n->px, &rules);
		log_note("rules changed: there are %u", rules.n);
	}
	*result = rules_answer(n, &rules);
	return 0;
}

void node_net_watch(struct node *n)
{
	struct json_object *o;
	struct net_stats st;

	proxy_stats(n->px, &st);
	if (st.hybrid_entered == n->hybrid_entered && st.hybrid_left == n->hybrid_left)
		return;
	n->hybrid_entered = st.hybrid_entered;
	n->hybrid_left = st.hybrid_left;
	n->hybrid_at = st.hybrid ? clock_ns() : 0;
	log_note("network mode=%s interval_ms=%.1f entered=%llu", st.hybrid ? "hybrid" : "comparing",
		 (double)st.hybrid_interval / NS_PER_MS, (unsigned long long)st.hybrid_entered);
	o = json_object_new_object();
	if (o) {
		json_object_object_add(o, "mode", json_object_new_string(st.hybrid ? "hybrid" : "comparing"));
		json_object_object_add(o, "interval_ms", st.hybrid ? json_object_new_double((double)st.hybrid_interval /
											   NS_PER_MS) : NULL);
		json_object_object_add(o, "entered", json_object_new_uint64(st.hybrid_entered));
	}
	monitor_event(n->monitor, "HYBRID", o);
}
