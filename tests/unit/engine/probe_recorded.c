/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the recorded answers of several QEMUs (tests/data/qemu) come to, and what is said when one of them lacks
 * something: each thing that is needed is taken away in turn. No QEMU is started.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "engine/cmdline.h"
#include "engine/probeqmp.h"
#include "engine/shape.h"

static const struct {
	const char *file, *pc, *q35;
} recorded[] = {
	{ "7.2", "pc-i440fx-7.2", "pc-q35-7.2" },
	{ "10.0", "pc-i440fx-10.0", "pc-q35-10.0" },
};

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static struct json_object *load(const char *name)
{
	const char *dir = getenv("LOCKSTEP_DATA");
	struct json_object *o;
	char path[512];

	assert_non_null(dir);
	snprintf(path, sizeof(path), "%s/qemu/%s.json", dir, name);
	o = json_object_from_file(path);
	if (!o)
		fail_msg("%s: %s", path, json_util_get_last_err());
	return o;
}

static const char *str(struct json_object *o, const char *key)
{
	struct json_object *v;

	return json_object_object_get_ex(o, key, &v) ? json_object_get_string(v) : "";
}

/* The recording of a question: an object with "return", if it was not refused */
static struct json_object *entry(struct json_object *answers, const char *cmd, const char *args)
{
	for (size_t i = 0; i < json_object_array_length(answers); i++) {
		struct json_object *a = json_object_array_get_idx(answers, i), *given, *want;
		bool same;

		if (strcmp(str(a, "execute"), cmd))
			continue;
		if (!json_object_object_get_ex(a, "arguments", &given))
			given = NULL;
		want = args ? json_tokener_parse(args) : NULL;
		same = json_object_equal(given, want);
		json_object_put(want);
		if (same)
			return a;
	}
	fail_msg("%s %s was not recorded", cmd, args ? args : "");
	return NULL;
}

static struct probe *probe_of(struct json_object *answers, const char *version)
{
	struct probe *p = calloc(1, sizeof(*p));
	struct probeqmp q = { .p = p };
	const char *cmd, *args;

	strcpy(p->binary, "/usr/bin/qemu");
	strcpy(p->version, version);		/* the greeting says it */
	for (unsigned int i = 0; (cmd = probeqmp_question(i, &args)); i++) {
		struct json_object *ret;

		probeqmp_answer(&q, i, json_object_object_get_ex(entry(answers, cmd, args), "return", &ret) ? ret : NULL);
	}
	probeqmp_rows(&q);
	return p;
}

/* The sentence of what is missing, or "" */
static const char *missing(const struct probe *p)
{
	static struct err e;

	return probe_missing(p, &e) ? e.msg : "";
}

static void test_recorded(void **state)
{
	for (size_t i = 0; i < ARRAY_LEN(recorded); i++) {
		struct json_object *answers = load(recorded[i].file);
		struct probe *p = probe_of(answers, "");
		char machine[PROBE_MACHINE_LEN];
		struct err e = { 0 };

		assert_string_equal(missing(p), "");
		assert_true(p->tcg && p->kvm);
		assert_non_null(strstr(p->package, recorded[i].file));
		assert_int_equal(probe_machine(p, "pc", machine, &e), 0);
		assert_string_equal(machine, recorded[i].pc);
		assert_int_equal(probe_machine(p, "q35", machine, &e), 0);
		assert_string_equal(machine, recorded[i].q35);
		assert_int_equal(probe_machine(p, NULL, machine, &e), 0);
		assert_string_equal(machine, recorded[i].pc);
		/* A machine that both have, so that a VM can be taken from one to the other. */
		assert_int_equal(probe_machine(p, "pc-q35-7.2", machine, &e), 0);
		assert_int_equal(probe_machine(p, "pc-q35-10.1", machine, &e), -EINVAL);
		free(p);
		json_object_put(answers);
	}
}

/* A VM on a machine type that both have is not shared by two QEMUs: whose state would the other understand? */
static void test_two_versions(void **state)
{
	char *words[] = { "qemu", "-M", "pc-q35-7.2", "-nic", "none" }, *mine, *theirs;
	struct json_object *older = load("7.2"), *newer = load("10.0");
	struct probe *a = probe_of(older, "7.2.22"), *b = probe_of(newer, "10.0.2");
	struct err e = { 0 };
	struct cmdline c;

	assert_int_equal(cmdline_parse(ARRAY_LEN(words), words, &c, &e), 0);
	assert_int_equal(cmdline_shape(&c, a, &mine, &e), 0);
	assert_int_equal(cmdline_shape(&c, b, &theirs, &e), 0);
	assert_int_equal(shape_compare(mine, mine, strlen(mine), &e), 0);
	assert_int_equal(shape_compare(mine, theirs, strlen(theirs), &e), -EXDEV);
	assert_non_null(strstr(e.msg, "QEMU's version is 7.2.22 "));
	assert_non_null(strstr(e.msg, " here and 10.0.2 "));
	free(mine);
	free(theirs);
	cmdline_free(&c);
	free(a);
	free(b);
	json_object_put(older);
	json_object_put(newer);
}

/* Take the object that has @key=@val out of a list. */
static void take_out(struct json_object *list, const char *key, const char *val)
{
	for (size_t i = 0; i < json_object_array_length(list); i++)
		if (!strcmp(str(json_object_array_get_idx(list, i), key), val)) {
			json_object_array_del_idx(list, i, 1);
			return;
		}
	fail_msg("there is no %s %s", key, val);
}

static struct json_object *get(struct json_object *o, const char *key)
{
	struct json_object *v;

	if (!json_object_object_get_ex(o, key, &v))
		fail_msg("there is no %s", key);
	return v;
}

/* What the command's arguments are described by in a schema: "members" or "variants" */
static struct json_object *arguments(struct json_object *schema, const char *cmd, const char *what)
{
	const char *type = "";

	for (size_t i = 0; i < json_object_array_length(schema); i++)
		if (!strcmp(str(json_object_array_get_idx(schema, i), "name"), cmd))
			type = str(json_object_array_get_idx(schema, i), "arg-type");
	for (size_t i = 0; i < json_object_array_length(schema); i++)
		if (!strcmp(str(json_object_array_get_idx(schema, i), "name"), type))
			return get(json_object_array_get_idx(schema, i), what);
	fail_msg("%s has no %s", cmd, what);
	return NULL;
}

static const struct {
	const char *cmd, *args;		/* of an object's type, its arguments; of a command's, "members" or "variants" */
	const char *name;		/* what is taken away */
	const char *said;
} without[] = {
	{ "netdev_add", "variants", "stream", "QEMU: networks: missing: -netdev stream (" },
	{ NULL, NULL, "stop", "QEMU: monitor commands: missing: stop (" },
	{ NULL, NULL, "cont", "missing: cont (" },
	{ NULL, NULL, "query-status", "missing: query-status (" },
	{ NULL, NULL, "system_reset", "missing: system_reset (" },
	{ NULL, NULL, "xen-save-devices-state", "missing: xen-save-devices-state (reads the devices' state)" },
	{ "xen-save-devices-state", "members", "live", "missing: xen-save-devices-state live (" },
	{ NULL, NULL, "snapshot-load", "missing: snapshot-load (loads the devices' state)" },
	{ "snapshot-load", "members", "vmstate", "missing: snapshot-load vmstate (" },
	{ NULL, NULL, "query-jobs", "missing: query-jobs (" },
	{ NULL, NULL, "job-dismiss", "missing: job-dismiss (" },
	{ "qom-list-properties", "{\"typename\":\"machine\"}", "memory-backend",
	  "QEMU: options: missing: machine.memory-backend (" },
	{ "qom-list-properties", "{\"typename\":\"machine\"}", "suppress-vmdesc", "missing: machine.suppress-vmdesc (" },
	{ "qom-list-properties", "{\"typename\":\"migration\"}", "send-configuration",
	  "missing: migration.send-configuration (" },
	{ "qom-list-properties", "{\"typename\":\"memory-backend-file\"}", "share", "missing: memory-backend-file.share (" },
	{ "qom-list-properties", "{\"typename\":\"memory-backend-file\"}", "merge", "missing: memory-backend-file.merge (" },
	{ "qom-list-properties", "{\"typename\":\"memory-backend-file\"}", "prealloc",
	  "missing: memory-backend-file.prealloc (" },
};

static void test_without(void **state)
{
	for (size_t k = 0; k < ARRAY_LEN(recorded); k++)
		for (size_t i = 0; i < ARRAY_LEN(without); i++) {
			struct json_object *answers = load(recorded[k].file), *schema;
			struct probe *p;

			schema = get(entry(answers, "query-qmp-schema", NULL), "return");
			if (!without[i].cmd)
				take_out(schema, "name", without[i].name);
			else if (without[i].args[0] == '{')
				take_out(get(entry(answers, without[i].cmd, without[i].args), "return"), "name", without[i].name);
			else
				take_out(arguments(schema, without[i].cmd, without[i].args),
					 without[i].args[0] == 'v' ? "case" : "name", without[i].name);
			p = probe_of(answers, "");
			if (!strstr(missing(p), without[i].said) || strchr(missing(p), ','))
				fail_msg("%s without %s: \"%s\"", recorded[k].file, without[i].name, missing(p));
			free(p);
			json_object_put(answers);
		}
}

/* A type that is unknown as a whole (its question is refused), and answers that are none. */
static void test_odd_answers(void **state)
{
	static const char *const odd[] = { NULL, "null", "5", "\"stop\"", "[]", "{}", "[1,null,[],{}]", "[{\"name\":7}]" };
	const char *cmd, *args;

	for (unsigned int i = 1; (cmd = probeqmp_question(i, &args)); i++)
		for (size_t k = 0; k < ARRAY_LEN(odd); k++) {
			struct json_object *answers = load("10.0"), *a = entry(answers, cmd, args);
			struct probe *p;

			json_object_object_del(a, "return");
			if (odd[k])
				json_object_object_add(a, "return", json_tokener_parse(odd[k]));
			p = probe_of(answers, "");
			if (!missing(p)[0])
				fail_msg("%s %s: nothing is missing", cmd, args ? args : "");
			free(p);
			json_object_put(answers);
		}
}

/* All that is needed is named, as far as there is room, and the text ends in time. */
static void test_nothing_there(void **state)
{
	struct probe *p = calloc(1, sizeof(*p));
	struct probeqmp q = { .p = p };
	char *text;
	size_t len;
	FILE *f;

	probeqmp_rows(&q);
	assert_non_null(strstr(missing(p), "QEMU: machines: pc is missing, q35 is missing"));
	f = open_memstream(&text, &len);
	probe_print(f, p, true);
	fclose(f);
	assert_non_null(strstr(text, "missing: stop (stops the VM), cont ("));
	assert_non_null(strstr(text, "neither tcg nor kvm"));
	free(text);
	free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_recorded), cmocka_unit_test(test_two_versions), cmocka_unit_test(test_without),
		cmocka_unit_test(test_odd_answers), cmocka_unit_test(test_nothing_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
