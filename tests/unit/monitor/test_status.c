/* SPDX-License-Identifier: BSD-2-Clause */
/* Status: every figure arrives where it belongs, and the text survives whatever JSON it is given. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/status.h"

static struct status_ckpts ckpts;
static struct hb_stats beat;

static void fill(struct status *s)
{
	struct ckpt_times t = {
		.n = 12, .cause = CAUSE_MISMATCH, .gate = 200000, .stop = 600000, .drain = 100000, .save = 1600000,
		.copy = 900000, .cont = 500000, .pause = 3125000, .staged = 4000000, .loaded = 21000000, .pages = 812,
	};

	beat = (struct hb_stats){
		.n_paths = 3, .lates = 5, .suspects = 2, .silences = 1, .freezes = 1, .frozen_max = 70 * NS_PER_MS,
		.name = { "192.0.2.2:9998", "198.51.100.2:9998", "203.0.113.2:9998" },
		.path = { { .up = true, .heard = 999 * NS_PER_S, .rtt_last = 210000, .rtt_max = 300000, .received = 90, .lost = 10 },
			  { .up = false, .heard = 995 * NS_PER_S, .losses = 3 }, { .up = false } },
	};
	memset(&ckpts, 0, sizeof(ckpts));
	status_ckpts_add(&ckpts, &t, 3400000);
	*s = (struct status){
		.now = 1000 * NS_PER_S, .name = "web", .version = "0.1.0", .pid = 4711, .started_at = 400 * NS_PER_S,
		.role = FT_PRIMARY, .state = FT_PROTECTED, .reason = FT_WHY_NONE, .state_at = 877 * NS_PER_S,
		.phase = "idle", .epoch = 13, .generation = 2, .checkpoint_delay = 20 * NS_PER_S,
		.ckpts = &ckpts,
		.link = { .peer = "192.0.2.2:9998", .connected_at = 870 * NS_PER_S,
			.beat_at = 1000 * NS_PER_S - 13 * NS_PER_MS,
			  .rtt = 210000, .silent = 1, .bytes_sent = 5, .bytes_received = 6, .encrypted = "psk" },
		.beat = &beat, .suspicion = "late",
		.qemu = { .pid = 4712, .version = "7.2.22", .state = "running" },
		.memory = { .guest = 512ull << 20, .staged = 1 << 20, .private_pages = 77, .buffered = 4096,
			    .private_limit = 1 << 26, .staged_limit = 1 << 25, .pool = 1 << 23, .limit_private = 4,
			    .limit_staged = 5, .limit_full = 6 },
		.warnings = { "one", "two" },
	};
	s->checkpoints[CAUSE_FIRST] = 1;
	s->checkpoints[CAUSE_MISMATCH] = 11;
	s->aborted = 4;
	s->net.held = 3;
	s->net.logged = 9;
	s->net.tap_in = 100;
	s->net.bytes_in = 150000;
	s->net.drop_bad = 2;
	s->net.drop_held = 5;
}

static const char *const nic_ids[] = { "n0", "lan.1" };

/* A busy network: rules, limits, two NICs, and everything that is rarely counted. */
static void fill_net(struct status *s, struct net_cfg *cfg)
{
	static const char *const rules[] = {
		"bypass,proto=udp,port=123", "hold,client=192.0.2.0/24", "compare,nic=lan.1", "hold,family=6", "bypass",
	};
	struct rule r;

	*cfg = (struct net_cfg){ .n_nics = 2, .n_frames = 16384, .n_flows = 16000, .n_log = 8192, .max_held = 4096,
				 .max_held_flow = 1024, .max_flow_bytes = 1 << 20, .max_bytes = 4 << 20, .n_reasm = 64,
				 .compare_timeout = 3 * NS_PER_S, .expired_scan_cycle = NS_PER_S,
				 .nic[1] = { .compare_timeout = 250 * NS_PER_MS, .max_queue_size = 99 } };
	s->net_cfg = cfg;
	s->nic_ids = nic_ids;
	for (size_t i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
		assert_int_equal(rule_parse(rules[i], nic_ids, 2, &r, NULL), 0);
		assert_int_equal(rules_insert(&s->rules, s->rules.n, &r, NULL), 0);
	}
	s->net.held_bytes = 2048;
	s->net.held_svm = 4;
	s->net.flows = 12;
	s->net.flows_embryo = 5;
	s->net.bypassed = 77;
	s->net.datagrams = 21;
	s->net.svm_twice = 22;
	s->net.signed_flows = 2;
	s->net.icmp_translated = 23;
	s->net.drop_syn = 24;
	s->net.reasm = 1;
	s->net.reasm_dropped = 25;
	s->net.limit_flow = 26;
	s->net.limit_held = 27;
	s->net.limit_bytes = 28;
	s->net.limit_flows = 29;
	s->net.flows_embryo_evicted = 30;
	s->net.hybrid = true;
	s->net.hybrid_interval = 120 * NS_PER_MS;
	s->net.hybrid_entered = 3;
	s->net.hybrid_left = 2;
}

/* A value by its path, as text; "none" when it is not there. */
static const char *at(struct json_object *o, const char *path)
{
	char part[64];

	while (*path) {
		size_t n = strcspn(path, "/");

		snprintf(part, sizeof(part), "%.*s", (int)n, path);
		if (!json_object_is_type(o, json_type_object) || !json_object_object_get_ex(o, part, &o))
			return "none";
		path += n + (path[n] == '/');
	}
	return json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
}

static char *text_of(struct json_object *o)
{
	char *text = NULL;
	size_t n;
	FILE *f = open_memstream(&text, &n);

	status_text(o, f);
	fclose(f);
	return text;
}

static void json(void **state)
{
	static const struct {
		const char *path, *want;
	} rows[] = {
		{ "name", "\"web\"" }, { "role", "\"primary\"" }, { "state", "\"protected\"" }, { "protected", "true" },
		{ "state_ms", "123000.0" }, { "phase", "\"idle\"" }, { "epoch", "13" }, { "generation", "2" },
		{ "sync", "null" }, { "failover", "null" },
		{ "condition", "\"protected\"" }, { "condition_why", "[]" }, { "failed_over", "null" },
		{ "last_failover", "null" },
		{ "checkpoints/total", "12" }, { "checkpoints/by_cause/mismatch", "11" },
		{ "checkpoints/by_cause/first", "1" }, { "checkpoints/by_cause/delay", "0" },
		{ "checkpoints/by_cause/none", "none" }, { "checkpoints/aborted", "4" },
		{ "checkpoints/pause_ms/count", "1" }, { "checkpoints/pause_ms/last", "3.125" },
		{ "checkpoints/pause_ms/p50", "3.125" }, { "checkpoints/pause_ms/p99", "3.125" },
		{ "checkpoints/pause_ms/max", "3.125" },
		{ "checkpoints/pages/max", "812" }, { "checkpoints/bytes/p50", "3400000" },
		{ "checkpoints/last/n", "12" }, { "checkpoints/last/cause", "\"mismatch\"" },
		{ "checkpoints/last/steps_ms/gate", "0.2" }, { "checkpoints/last/steps_ms/loaded", "21.0" },
		{ "checkpoints/delay_ms", "20000.0" },
		{ "net/held", "3" }, { "net/logged", "9" }, { "net/drop_bad", "2" }, { "net/tap_out", "0" },
		{ "link/connected", "true" }, { "link/peer", "\"192.0.2.2:9998\"" }, { "link/connected_ms",
		  "130000.0" },
		{ "link/rtt_ms", "0.21" }, { "link/last_heartbeat_ms", "13.0" }, { "link/silent", "1" },
		{ "link/heartbeat/suspicion", "\"late\"" }, { "link/heartbeat/suspect", "2" }, { "link/heartbeat/late", "5" },
		{ "link/heartbeat/frozen", "1" }, { "link/heartbeat/frozen_max_ms", "70.0" },
		{ "link/encrypted", "\"psk\"" }, { "link/bytes_received", "6" },
		{ "qemu/pid", "4712" }, { "qemu/version", "\"7.2.22\"" }, { "qemu/state", "\"running\"" },
		{ "memory/guest_bytes", "536870912" }, { "memory/private_pages", "77" },
		{ "memory/private_limit_bytes", "67108864" }, { "memory/staged_limit_bytes", "33554432" },
		{ "memory/pool_bytes", "8388608" }, { "memory/limit_private", "4" }, { "memory/limit_staged", "5" },
		{ "memory/limit_full", "6" },
		{ "lockstep/pid", "4711" }, { "lockstep/uptime_ms", "600000.0" }, { "lockstep/version", "\"0.1.0\"" },
		{ "warnings", "[\"one\",\"two\"]" }, { "monitor/clients", "0" },
	};
	struct json_object *o;
	struct status s;

	fill(&s);
	o = status_json(&s);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		const char *got = at(o, rows[i].path);
		char *end;
		double want = strtod(rows[i].want, &end);

		/* 3.1250 and 3.125 are the same number. */
		if (*end ? strcmp(got, rows[i].want) != 0 : strtod(got, NULL) != want || !strcmp(got, "none")) {
			print_error("%s is %s, want %s\n", rows[i].path, got, rows[i].want);
			fail();
		}
	}
	json_object_put(o);
}

static void text(void **state)
{
	static const char *const parts[] = {
		"web: protected (primary, state protected for 2 min 3 s)\n", "warning      one\n", "warning      two\n",
		"epoch        13, generation 2", "lockstep     0.1.0, pid 4711, up for 10 min 0 s",
			"7.2.22, pid 4712, running",
		"192.0.2.2:9998, connected for 2 min 10 s, round trip 0.21 ms, last heartbeat 13.0 ms ago, encrypted: psk",
		"the peer was silent: 1\n", "checkpoints  12: first 1, ", "mismatch 11; 4 given up and tried again",
		"last 3.12 ms", "p50 812",
			"3.2 MiB",
		"checkpoint 12 (mismatch)", "gate 0.20 ms, stop 0.60 ms", "3 packets", "logged input 9",
			"in 100 (146.5 KiB)",
		"the peer is late\n", "path 0, 192.0.2.2:9998: round trip 0.21 ms, 10 of 100 lost\n",
		"path 1, 198.51.100.2:9998: LOST, last heard 5.0 s ago\n", "path 2, 203.0.113.2:9998: nothing heard yet\n",
		"dropped 7", "guest 512.0 MiB", "private pages 77",
	};
	struct json_object *o;
	struct status s;
	char *t;

	fill(&s);
	o = status_json(&s);
	t = text_of(o);
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		if (!strstr(t, parts[i])) {
			print_error("'%s' is not in:\n%s", parts[i], t);
			fail();
		}
	}
	assert_null(strstr(t, "sync"));
	assert_null(strstr(t, "failover"));
	free(t);
	json_object_put(o);
}

static void secondary_and_sync(void **state)
{
	struct json_object *o;
	struct status s;
	char *t;

	fill(&s);
	s.role = FT_SECONDARY;
	s.state = FT_JOINING;
	s.ckpts = NULL;
	s.link.peer[0] = '\0';
	s.qemu.pid = 0;
	s.sync.active = true;
	s.sync.round = 2;
	s.sync.bytes_done = 300 << 20;
	s.sync.bytes_left = 100 << 20;
	s.sync.rate = 50 << 20;
	s.failover.at = s.now - 5 * NS_PER_S;
	s.failover.took = 7 * NS_PER_MS;
	o = status_json(&s);
	assert_string_equal(at(o, "sync/percent"), "75.0");
	assert_true(strtod(at(o, "sync/time_left_ms"), NULL) == 2000);
	assert_string_equal(at(o, "sync/phase"), "\"memory\"");
	assert_string_equal(at(o, "sync/memory/percent"), "75.0");
	assert_string_equal(at(o, "sync/disks"), "null");
	assert_string_equal(at(o, "protected"), "false");
	assert_string_equal(at(o, "checkpoints/pause_ms"), "none");
	assert_string_equal(at(o, "link/connected_ms"), "null");
	assert_string_equal(at(o, "link/rtt_ms"), "null");
	assert_string_equal(at(o, "qemu/pid"), "null");
	assert_true(strtod(at(o, "failover/took_ms"), NULL) == 7);
	t = text_of(o);
	assert_non_null(strstr(t, "web: unprotected (secondary, state joining for 2 min 3 s)\n  why          this node waits for"));
	assert_non_null(strstr(t, "memory     75.0 %, round 2, 100.0 MiB left, 50.0 MiB/s, time left 2.0 s"));
	assert_non_null(strstr(t, "no peer is connected"));
	assert_non_null(strstr(t, "does not run"));
	assert_non_null(strstr(t, "5.0 s ago"));
	assert_non_null(strstr(t, "network      off: there is no second copy"));
	free(t);
	json_object_put(o);
	/* Nothing known at all, as at the very start. */
	s.sync.rate = s.sync.bytes_done = s.sync.bytes_left = 0;
	o = status_json(&s);
	assert_string_equal(at(o, "sync/time_left_ms"), "null");
	assert_string_equal(at(o, "sync/percent"), "0.0");
	t = text_of(o);
	assert_non_null(strstr(t, "time left -"));
	free(t);
	json_object_put(o);
	s = (struct status){ 0 };
	o = status_json(&s);
	free(text_of(o));
	json_object_put(o);
}

static void network(void **state)
{
	static const struct {
		const char *path, *want;
	} rows[] = {
		{ "net/mode", "\"hybrid\"" }, { "net/hybrid_interval_ms", "120.000" }, { "net/hybrid_entered", "3" },
		{ "net/hybrid_left", "2" }, { "net/hybrid_allowed", "true" },
		{ "net/bypassed", "77" }, { "net/svm_twice", "22" }, { "net/drop_syn", "24" }, { "net/resent", "0" },
		{ "net/limits/held", "4096" }, { "net/limits/held_bytes", "4194304" }, 
		{ "net/limits/held_flow", "1024" },
		{ "net/limits/held_flow_bytes", "1048576" }, { "net/limits/flows", "16000" },
		{ "net/limits/logged", "8192" }, { "net/limits/reasm", "64" }, { "net/limits/frames", "16384" },
		{ "net/limit_flow", "26" }, { "net/limit_held", "27" }, { "net/limit_bytes", "28" },
		{ "net/limit_flows", "29" },
		{ "net/nics", "[{\"id\":\"n0\",\"compare_timeout_ms\":3000.000,\"expired_scan_cycle_ms\":1000.000,"
		  "\"max_queue_size\":1024},{\"id\":\"lan.1\",\"compare_timeout_ms\":250.000,"
		  "\"expired_scan_cycle_ms\":1000.000,\"max_queue_size\":99}]" },
	};
	static const char *const parts[] = {
		"network      hybrid: the copies keep differing, so output leaves with a checkpoint every 120 ms; "
		"went hybrid 3 times\n",
		"rule 1       bypass,proto=udp,port=123\n", "rule 3       compare,nic=lan.1\n",
		"and 1 more: 'lockstep rule",
		"held         3 of 4096 packets, 2.0 KiB of 4.0 MiB\n",
		"of secondary 4 of 4096 packets, 0 B of 4.0 MiB\n",
		"flows        12 of 16000, not established 5; logged input 9 of 8192\n",
		"fragments    1 of 64 datagrams are incomplete\n", "77 by a rule\n", "dropped 31\n",
		"datagrams compared 21, repeated by the secondary 22, ICMP errors translated 23\n",
		"held, too many 5, malformed or doubled 2, new connections in a flood 24\n",
		"limits hit   packets of a flow 26, packets held 27, bytes held 28, "
		"flows 29, unestablished ones evicted 30, incomplete ones 25\n",
		"signed       2 TCP connections with MD5 or AO signatures: not translated, "
		"they leave with checkpoints only\n",
		"nic n0       compare-timeout 3.0 s, expired-scan-cycle 1.0 s, max-queue-size 1024\n",
		"nic lan.1    compare-timeout 250 ms, expired-scan-cycle 1.0 s, max-queue-size 99\n",
	};
	struct json_object *o, *one;
	struct net_cfg cfg;
	struct status s;
	int lines = 0;
	char *t;

	fill(&s);
	fill_net(&s, &cfg);
	o = status_json(&s);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		if (strcmp(at(o, rows[i].path), rows[i].want)) {
			print_error("%s is %s, want %s\n", rows[i].path, at(o, rows[i].path), rows[i].want);
			fail();
		}
	}
	one = json_object_array_get_idx(json_object_object_get(json_object_object_get(o, "net"), "rules"), 1);
	assert_string_equal(at(one, "action"), "\"hold\"");
	assert_string_equal(json_object_get_string(json_object_object_get(one, "rule")), "hold,client=192.0.2.0/24");
	t = text_of(o);
	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
		if (!strstr(t, parts[i])) {
			print_error("'%s' is not in:\n%s", parts[i], t);
			fail();
		}
	}
	free(t);
	json_object_put(o);
	/* What is zero is not shown, and a quiet day fits on a small screen. */
	fill(&s);
	s.net.drop_bad = s.net.drop_held = 0;
	beat.n_paths = 1;
	s.suspicion = "fine";
	memset(&cfg.nic, 0, sizeof(cfg.nic));
	cfg.n_nics = 1;
	s.net_cfg = &cfg;
	s.nic_ids = nic_ids;
	o = status_json(&s);
	assert_string_equal(at(o, "net/mode"), "\"comparing\"");
	assert_string_equal(at(o, "net/hybrid_interval_ms"), "null");
	assert_string_equal(at(o, "net/rules"), "[]");
	t = text_of(o);
	assert_non_null(strstr(t, "network      comparing\n"));
	assert_null(strstr(t, "signed"));
	assert_null(strstr(t, "limits hit"));
	assert_null(strstr(t, "fragments"));
	assert_null(strstr(t, "  dropped"));
	assert_null(strstr(t, "rule 1"));
	for (const char *p = t; *p; p++)
		lines += *p == '\n';
	assert_in_range(lines, 10, 25);
	free(t);
	json_object_put(o);
}

/* Every member removed, and replaced by a value of each type, one after the other. */
static void swap_each(struct json_object *root, struct json_object *o)
{
	static const char *const others[] = { NULL, "null", "1e300", "-7", "\"\\u001b[2J\"", "[1,\"\\u001b\"]", "{}",
		"true" };
	struct json_object *old;
	char *keys[128];
	int n = 0;

	json_object_object_foreach(o, key, v) {
		(void)v;
		assert_in_range(n, 0, 127);
		keys[n++] = strdup(key);
	}
	for (int i = 0; i < n; i++) {
		old = json_object_get(json_object_object_get(o, keys[i]));
		for (size_t k = 0; k < sizeof(others) / sizeof(*others); k++) {
			char *t;

			json_object_object_del(o, keys[i]);
			if (others[k])
				json_object_object_add(o, keys[i], json_tokener_parse(others[k]));
			t = text_of(root);
			assert_null(strchr(t, 0x1b));
			free(t);
		}
		json_object_object_del(o, keys[i]);
		json_object_object_add(o, keys[i], old);
		if (json_object_is_type(old, json_type_object))
			swap_each(root, old);
		free(keys[i]);
	}
}

static void text_of_anything(void **state)
{
	struct json_object *o;
	struct net_cfg cfg;
	struct status s;

	fill(&s);
	fill_net(&s, &cfg);
	s.sync.active = true;
	s.failover.at = 1;
	o = status_json(&s);
	swap_each(o, o);
	json_object_put(o);
	free(text_of(NULL));
	o = json_tokener_parse("[1]");
	free(text_of(o));
	json_object_put(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(json), cmocka_unit_test(text), cmocka_unit_test(secondary_and_sync),
		cmocka_unit_test(network),
		cmocka_unit_test(text_of_anything),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
