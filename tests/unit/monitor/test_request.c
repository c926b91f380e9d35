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
	{ "{\"execute\":\"__lockstep_quit\"}", 0, "", REQUEST_COMMAND, MONITOR_QUIT, NS_NEVER },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"checkpoint-delay\":2000}}", 0, "", REQUEST_COMMAND,
	  MONITOR_SET,
	  2000 * NS_PER_MS },
	{ "{\"execute\":\"__lockstep_set\",\"arguments\":{\"x-checkpoint-delay\":4294967295}}", 0, "", REQUEST_COMMAND,
	  MONITOR_SET, 4294967295ull * NS_PER_MS },
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
	  "no argument 'lag': checkpoint-delay" },
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
		size_t n = (size_t)snprintf(line, sizeof(line), "%s", lines[(size_t)rand() % 8].line);
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
		cmocka_unit_test(table), cmocka_unit_test(long_text_is_cut), cmocka_unit_test(answers),
		cmocka_unit_test(mutated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
