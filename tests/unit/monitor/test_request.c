/* SPDX-License-Identifier: BSD-2-Clause */
/* Lines of the control socket: what is understood, and which sentence each wrong one gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "monitor/request.h"

#define SET(key, value) "{\"execute\":\"__lockstep_set\",\"arguments\":{\"" key "\":" value "}}"
#define RULES(args) "{\"execute\":\"__lockstep_rules\",\"arguments\":" args "}"
#define L "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"	/* 64 bytes */

static const struct {
	const char *line;
	int rc;
	const char *say;	/* part of the sentence */
	enum request_type type;
	enum monitor_cmd_type cmd;
	nstime delay;
} lines[] = {
	{ "{\"execute\":\"__lockstep_status\"}", 0, "", REQUEST_STATUS, 0, 0 },
	{ " { \"execute\" : \"__lockstep_status\" , \"arguments\":{}, \"id\":[1,{\"a\":null}] } ", 0, "",
	  REQUEST_STATUS, 0, 0 },
	{ "{\"execute\":\"__lockstep_events\"}", 0, "", REQUEST_EVENTS, 0, 0 },
	{ "{\"execute\":\"__lockstep_checkpoint\"}", 0, "", REQUEST_COMMAND, MONITOR_CHECKPOINT, NS_NEVER },
	{ "{\"execute\":\"__lockstep_failover\"}", 0, "", REQUEST_COMMAND, MONITOR_FAILOVER, NS_NEVER },
	{ "{\"execute\":\"__lockstep_switch\"}", 0, "", REQUEST_COMMAND, MONITOR_SWITCH, NS_NEVER },
	{ "{\"execute\":\"__lockstep_quit\"}", 0, "", REQUEST_COMMAND, MONITOR_QUIT, NS_NEVER },
	{ "{\"execute\":\"stop\"}", 0, "", REQUEST_COMMAND, MONITOR_STOP, NS_NEVER },
	{ "{\"execute\":\"cont\",\"arguments\":{}}", 0, "", REQUEST_COMMAND, MONITOR_CONT, NS_NEVER },
	{ "{\"execute\":\"system_powerdown\"}", 0, "", REQUEST_COMMAND, MONITOR_POWERDOWN, NS_NEVER },
	{ "{\"execute\":\"system_reset\"}", 0, "", REQUEST_COMMAND, MONITOR_RESET, NS_NEVER },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":2000}}", 0, "", REQUEST_COMMAND,
	  MONITOR_SET,
	  2000 * NS_PER_MS },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"x-checkpoint-delay\":4294967295}}", 0, "", REQUEST_COMMAND,
	  MONITOR_SET, 4294967295ull * NS_PER_MS },
	{ RULES("{\"insert\":28,\"rule\":\"bypass,proto=udp\"}"), 0, "", REQUEST_COMMAND, MONITOR_RULES, NS_NEVER },
	{ SET("n0.compare_timeout", "3600000"), 0, "", REQUEST_COMMAND, MONITOR_SET, NS_NEVER },
	{ "{\"execute\":\"__lockstep_rules\"}", 0, "", REQUEST_COMMAND, MONITOR_RULES, NS_NEVER },
	{ RULES("{}"), 0, "", REQUEST_COMMAND, MONITOR_RULES, NS_NEVER },
	{ RULES("{\"clear\":true}"), 0, "", REQUEST_COMMAND, MONITOR_RULES, NS_NEVER },
	{ "{\"execute\":\"__lockstep_set\"}", -EINVAL, "needs an argument" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{}}", -EINVAL, "needs an argument" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":0}}", -EINVAL, "from 1 to 4294967295" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":-5}}", -EINVAL, "from 1 to 4294967295" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":4294967296}}", -EINVAL, "from 1 to" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":99999999999999999999999}}", -EINVAL,
	  "from 1" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":\"2000\"}}", -EINVAL, "whole number" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":2.5}}", -EINVAL, "whole number" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":null}}", -EINVAL, "whole number" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"lag\":1}}", -EINVAL,
	  "no argument 'lag': what can be set is checkpoint-delay, compare-timeout" },
	{ SET("compare-timeout", "0"), -EINVAL,
	  "compare-timeout must be a whole number of milliseconds from 1 to 3600000" },
	{ SET("compare-timeout", "3600001"), -EINVAL, "from 1 to 3600000" },
	{ SET("compare-timeout", "\"5\""), -EINVAL, "whole number" },
	{ SET("n0.max_queue_size", "99999999999999999999"), -EINVAL,
	  "n0.max_queue_size must be a whole number of packets" },
	{ SET("n0.max_queue_size", "-1"), -EINVAL, "from 1 to 16384" },
	{ SET("n0.max_queue_size", "1.0"), -EINVAL, "from 1 to 16384" },
	{ SET("n0.max_queue_size", "null"), -EINVAL, "from 1 to 16384" },
	{ SET("n0.checkpoint-delay", "5"), -EINVAL, "no argument 'n0.checkpoint-delay'" },
	{ SET(".compare-timeout", "5"), -EINVAL, "no argument '.compare-timeout'" },
	{ SET("n\\u0007.compare-timeout", "5"), -EINVAL, "no argument" },
	{ SET("n\xc3\xa9.compare-timeout", "5"), -EINVAL, "no argument" },
	{ SET(L "." "compare-timeout", "5"), -EINVAL, "no argument" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"a.max-queue-size\":1,\"b.max-queue-size\":1,"
	  "\"c.max-queue-size\":1,\"d.max-queue-size\":1,\"e.max-queue-size\":1,\"f.max-queue-size\":1,"
	  "\"g.max-queue-size\":1,\"h.max-queue-size\":1,\"i.max-queue-size\":1}}", -EINVAL, "more than 8 NICs" },
	{ RULES("[]"), -EINVAL, "must be an object" },
	{ RULES("{\"add\":7}"), -EINVAL, "add must be a rule, as text" },
	{ RULES("{\"add\":null}"), -EINVAL, "add must not be null" },
	{ RULES("{\"add\":\"hold,\\u001b[2J\"}"), -EINVAL, "only letters, digits and signs" },
	{ RULES("{\"add\":\"hold\\u0000x\"}"), -EINVAL, "only letters, digits and signs" },
	{ RULES("{\"add\":\"hold\xc3\xa9\"}"), -EINVAL, "only letters, digits and signs" },
	{ RULES("{\"add\":\"hold port=1\"}"), -EINVAL, "no blanks" },
	{ RULES("{\"add\":\"" L L L L "\"}"), -EINVAL, "at most 255 bytes" },
	{ RULES("{\"add\":\"hold\",\"clear\":true}"), -EINVAL, "one thing at a time" },
	{ RULES("{\"add\":\"hold\",\"rule\":\"hold\"}"), -EINVAL, "go together" },
	{ RULES("{\"insert\":1}"), -EINVAL, "go together" },
	{ RULES("{\"rule\":\"hold\"}"), -EINVAL, "go together" },
	{ RULES("{\"insert\":0,\"rule\":\"hold\"}"), -EINVAL, "insert must be the number of a rule, from 1 to 28" },
	{ RULES("{\"insert\":29,\"rule\":\"hold\"}"), -EINVAL, "from 1 to 28" },
	{ RULES("{\"insert\":\"1\",\"rule\":\"hold\"}"), -EINVAL, "from 1 to 28" },
	{ RULES("{\"delete\":-1}"), -EINVAL, "delete must be" },
	{ RULES("{\"delete\":1.5}"), -EINVAL, "delete must be" },
	{ RULES("{\"delete\":4294967297}"), -EINVAL, "delete must be" },
	{ RULES("{\"clear\":false}"), -EINVAL, "clear must be true" },
	{ RULES("{\"clear\":1}"), -EINVAL, "must be true" },
	{ RULES("{\"list\":true}"), -EINVAL, "has no argument 'list'" },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":[1]}", -EINVAL, "must be an object" },
	{ "{\"execute\":\"__lockstep_status\",\"arguments\":{\"x\":1}}", -EINVAL, "no argument 'x'" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[\"client\",\"released\"],\"snaplen\":96,"
	  "\"count\":7}}", 0, "", REQUEST_COMMAND, MONITOR_CAPTURE, NS_NEVER },
	{ "{\"execute\":\"__lockstep_capture\"}", -EINVAL,
	  "needs the argument points" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[]}}", -EINVAL,
	  "needs the argument points" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":\"client\"}}", -EINVAL,
	  "array of names" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[1]}}", -EINVAL,
	  "array of names" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[null]}}", -EINVAL,
	  "array of names" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[\"all\"]}}", -EINVAL,
	  "'all' is no point" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[\"pvm\"],\"snaplen\":0}}", -EINVAL,
	  "to 65535" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[\"pvm\"],\"snaplen\":65536}}", -EINVAL,
	  "to 65535" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[\"pvm\"],\"snaplen\":\"9\"}}", -EINVAL,
	  "to 65535" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[\"pvm\"],\"count\":0}}", -EINVAL,
	  "1 or more" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"points\":[\"pvm\"],\"count\":-1}}", -EINVAL,
	  "1 or more" },
	{ "{\"execute\":\"__lockstep_capture\",\"arguments\":{\"file\":\"x\"}}", -EINVAL,
	  "no argument 'file': points" },
	{ "{\"execute\":\"nonsense\"}", -ENOSYS, "nonsense is not known" },
	{ "{\"execute\":\"stop\",\"arguments\":{\"x\":1}}", -EINVAL, "stop has no argument 'x'" },
	{ "{\"execute\":\"__lockstep_quit\\u0000x\"}", -ENOSYS, "not known" },
	{ "{\"execute\":7}", -EINVAL, "execute, a string" },
	{ "{\"execute\":null}", -EINVAL, "execute, a string" },
	{ "{}", -EINVAL, "execute, a string" },
	{ "{\"execute\":\"__lockstep_status\",\"shout\":1}", -EINVAL, "no member 'shout'" },
	{ "[]", -EINVAL, "must be an object" },
	{ "null", -EINVAL, "" },
	{ "\"x\"", -EINVAL, "must be an object" },
	{ "12", -EINVAL, "" },
	{ "{", -EINVAL, "not complete" },
	{ "{\"execute\":\"__lockstep_status\"", -EINVAL, "not complete" },
	{ "{\"execute\":\"__lockstep_status\"} x", -EINVAL, "not JSON" },
	{ "{\"execute\":\"__lockstep_status\"}{}", -EINVAL, "not JSON" },
	{ "{'execute':'__lockstep_status'}", -EINVAL, "not JSON" },
	{ "{\"execute\":\"\xff\xfe\"}", -EINVAL, "not JSON" },
	{ "\x80\x01garbage", -EINVAL, "not JSON" },
	{ "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", -EINVAL, "nesting" },
	{ "   ", -EINVAL, "not complete" },
};

static void table(void **state)
{
	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++) {
		struct err e = { 0 };
		struct request r;
		int rc = request_parse(lines[i].line, strlen(lines[i].line), &r, &e);

		if (rc != lines[i].rc || (rc && (!*e.msg || !strstr(e.msg, lines[i].say)))) {
			print_error("%s: %d %s\n", lines[i].line, rc, e.msg);
			fail();
		}
		if (!rc) {
			assert_int_equal(r.type, lines[i].type);
			if (r.type == REQUEST_COMMAND) {
				assert_int_equal(r.cmd.type, lines[i].cmd);
				assert_true(r.cmd.checkpoint_delay == lines[i].delay);
				assert_int_equal(r.cmd.fd, -1);
			}
			if (r.type == REQUEST_COMMAND && r.cmd.type == MONITOR_CAPTURE) {
				assert_int_equal(r.cmd.capture.points, 1 << CAPTURE_CLIENT | 1 << CAPTURE_RELEASED);
				assert_int_equal(r.cmd.capture.snaplen, 96);
				assert_int_equal(r.cmd.capture.count, 7);
			}
		}
		json_object_put(r.id);
	}
}

static struct monitor_cmd good(const char *line)
{
	struct err e = { 0 };
	struct request r;

	if (request_parse(line, strlen(line), &r, &e))
		fail_msg("%s: %s", line, e.msg);
	return r.cmd;
}

static void settings_and_rules(void **state)
{
	struct monitor_cmd c = good("{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":9,"
				    "\"compare_timeout\":5,\"lan.1.max-queue-size\":7,\"n0.compare-timeout\":8,"
				    "\"lan.1.expired_scan_cycle\":6}}");

	assert_true(c.checkpoint_delay == 9 * NS_PER_MS);
	assert_true(c.all.compare_timeout == 5 * NS_PER_MS && !c.all.expired_scan_cycle && !c.all.max_queue_size);
	assert_int_equal(c.n_nics, 2);
	assert_string_equal(c.nics[0].nic, "lan.1");
	assert_true(!c.nics[0].cfg.compare_timeout && c.nics[0].cfg.expired_scan_cycle == 6 * NS_PER_MS);
	assert_int_equal(c.nics[0].cfg.max_queue_size, 7);
	assert_string_equal(c.nics[1].nic, "n0");
	assert_true(c.nics[1].cfg.compare_timeout == 8 * NS_PER_MS);
	c = good("{\"execute\":\"__lockstep_rules\"}");
	assert_int_equal(c.rule.op, MONITOR_RULE_LIST);
	c = good(RULES("{\"add\":\"bypass,proto=udp\"}"));
	assert_int_equal(c.rule.op, MONITOR_RULE_INSERT);
	assert_true(c.rule.at == MONITOR_RULE_END);
	assert_string_equal(c.rule.text, "bypass,proto=udp");
	c = good(RULES("{\"rule\":\"hold\",\"insert\":3}"));
	assert_int_equal(c.rule.at, 2);
	assert_string_equal(c.rule.text, "hold");
	c = good(RULES("{\"delete\":28}"));
	assert_int_equal(c.rule.op, MONITOR_RULE_DELETE);
	assert_int_equal(c.rule.at, 27);
	c = good(RULES("{\"clear\":true}"));
	assert_int_equal(c.rule.op, MONITOR_RULE_CLEAR);
}

static void long_text_is_cut(void **state)
{
	char line[300] = "{\"execute\":\"";
	struct request r;
	struct err e;

	/* Two bytes each, so that a cut at any byte would break one in half. */
	strcat(line, "x");
	for (int i = 0; i < 60; i++)
		strcat(line, "\xc3\xa9");
	strcat(line, "\"}");
	assert_int_equal(request_parse(line, strlen(line), &r, &e), -ENOSYS);
	assert_true(strlen(e.msg) < 100);
	assert_non_null(strstr(e.msg, "\xc3\xa9... is"));
	json_object_put(r.id);
}

static void answers(void **state)
{
	struct json_object *id = json_tokener_parse("{\"k\":[1]}"), *o;
	struct err e = { .code = -ENOSYS, .msg = "no \"such\"" };

	o = reply_ok(id, NULL);
	assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
		"{\"return\":{},\"id\":{\"k\":[1]}}");
	json_object_put(o);
	o = reply_error(NULL, &e);
	assert_string_equal(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
			    "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"no \\\"such\\\"\"}}");
	json_object_put(o);
	e.code = -EBUSY;
	o = reply_error(id, &e);
	assert_non_null(strstr(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN), "GenericError"));
	json_object_put(o);
	o = event_make("STATE", NULL);
	assert_non_null(strstr(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN),
			       "{\"event\":\"__LOCKSTEP_STATE\",\"data\":{},\"timestamp\":{\"seconds\":"));
	json_object_put(o);
	json_object_put(id);
}

/* Good lines with bytes changed, cut and doubled: never a crash, always a sentence. */
static void mutated(void **state)
{
	unsigned int seed = (unsigned int)time(NULL);
	const char *env = getenv("SEED");

	if (env)
		seed = (unsigned int)strtoul(env, NULL, 10);
	print_message("seed %u\n", seed);
	srand(seed);
	for (int i = 0; i < 20000; i++) {
		char line[256];
		size_t n = (size_t)snprintf(line, sizeof(line), "%s", lines[(size_t)rand() % 13].line);
		struct request r;
		struct err e = { 0 };

		for (int k = rand() % 4; k > 0; k--)
			line[(size_t)rand() % n] = (char)rand();
		if (rand() % 3 == 0)
			n = (size_t)rand() % n;
		if (request_parse(line, n, &r, &e))
			assert_true(*e.msg);
		json_object_put(r.id);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table), cmocka_unit_test(settings_and_rules),
		cmocka_unit_test(long_text_is_cut), cmocka_unit_test(answers),
		cmocka_unit_test(mutated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
