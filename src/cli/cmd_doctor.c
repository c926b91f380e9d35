/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep doctor: what this QEMU and this host can do, and what is missing. */
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>

#include "base/crash.h"
#include "cli/cli.h"
#include "cli/vm_args.h"
#include "engine/probe.h"

#define DOCTOR_QEMU "qemu-system-x86_64"

enum { OPT_JSON = 1, OPT_CRASH_POINTS };
static const struct cli_opt opts[] = {
	{ "json", OPT_JSON, NULL, "print one JSON object" },
	{ "crash-points", OPT_CRASH_POINTS, NULL, "list the values of LOCKSTEP_CRASH_AT and LOCKSTEP_FAIL_AT instead" },
	{ NULL },
};

static struct json_object *points(const char *(*text_of)(unsigned int i, const char **meaning), bool json)
{
	struct json_object *list = json_object_new_array();
	const char *name, *text;

	for (unsigned int i = 0; (name = text_of(i, &text)); i++) {
		struct json_object *one = json_object_new_object();

		json_object_object_add(one, "name", json_object_new_string(name));
		json_object_object_add(one, "meaning", json_object_new_string(text));
		json_object_array_add(list, one);
		if (!json)
			printf("%-18s %s\n", name, text);
	}
	return list;
}

static int doctor_crash_points(bool json)
{
	struct json_object *o = json_object_new_object(), *list = points(crash_point_text, json);

	if (!json && !json_object_array_length(list))
		printf("this lockstep was built without crash points (meson option crash_points)\n");
	else if (!json)
		printf("\nLOCKSTEP_FAIL_AT:\n");
	json_object_object_add(o, "crash_points", list);
	json_object_object_add(o, "fail_points", points(fail_point_text, json));
	if (json)
		vm_print_json(o);
	json_object_put(o);
	return CLI_OK;
}

static int doctor_probe(const char *binary, bool json)
{
	struct probe *p = calloc(1, sizeof(*p));
	struct err e = { 0 };
	int rc, status = CLI_OK;

	rc = p ? probe_run(binary, 0, p, &e) : err_set(&e, -ENOMEM, "no memory");
	if (rc) {
		free(p);
		return cli_fail(&cmd_doctor, CLI_FAILED, &e);
	}
	probe_print(stdout, p, json);
	fflush(stdout);
	if (probe_missing(p, &e))
		status = cli_fail(&cmd_doctor, CLI_FAILED, &e);
	free(p);
	return status;
}

static int doctor_fn(int argc, char **argv)
{
	struct cli_args a = { .cmd = &cmd_doctor, .argc = argc, .argv = argv };
	bool json = false, crash = false;
	struct err e;
	int id;

	while ((id = cli_next(&a, &e)) > 0) {
		if (id == CLI_HELP) {
			cli_help(&cmd_doctor, stdout);
			return CLI_OK;
		}
		json |= id == OPT_JSON;
		crash |= id == OPT_CRASH_POINTS;
	}
	if (!id && crash && a.rest < argc)
		id = err_set(&e, -EINVAL, "--crash-points asks no QEMU: '%.60s' is too much", argv[a.rest]);
	if (!id && a.rest + 1 < argc)
		id = err_set(&e, -EINVAL, "unexpected argument '%.60s': one QEMU at a time, options before it",
			     argv[a.rest + 1]);
	if (id)
		return cli_fail(&cmd_doctor, CLI_USAGE, &e);
	if (crash)
		return doctor_crash_points(json);
	return doctor_probe(a.rest < argc ? argv[a.rest] : DOCTOR_QEMU, json);
}

const struct cli_cmd cmd_doctor = {
	.name = "doctor",
	.args = "[QEMU-BINARY]",
	.summary = "show what this host and its QEMU can do, and what is missing",
	.more = "QEMU-BINARY is " DOCTOR_QEMU " when left out. Exit status 1 when something is missing that\n"
		"nothing works without.\n",
	.opts = opts,
	.fn = doctor_fn,
};
