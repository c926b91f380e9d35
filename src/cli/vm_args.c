/* SPDX-License-Identifier: BSD-2-Clause */
/* The frame of the subcommands that talk to a running VM; see vm_args.h. */
#include "cli/vm_args.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

int vm_args_parse(const struct cli_cmd *cmd, int argc, char **argv, bool words, struct vm_args *out, struct err *e)
{
	struct cli_args a = { .cmd = cmd, .argc = argc, .argv = argv };
	uint64_t s;
	int id;

	*out = (struct vm_args){ .wait = VM_WAIT_S * NS_PER_S };
	/* Options may stand before and after the name: `lockstep status web --json` is what people type. */
	for (;;) {
		id = cli_next(&a, e);
		if (id < 0)
			return id;
		if (!id && a.rest < argc && !out->name && (!words || !strchr(argv[a.rest], '='))) {
			out->name = argv[a.rest];
			a.argv += a.rest;
			a.argc -= a.rest;
			argv = a.argv;
			argc = a.argc;
			out->rest += a.rest;
			a.begun = false;
			continue;
		}
		if (!id)
			break;
		if (id == CLI_HELP) {
			cli_help(cmd, stdout);
			return VM_DONE;
		}
		if (id >= VM_OPT_OWN) {
			if (out->n_own == VM_MAX_OWN)
				return err_set(e, -EINVAL, "too many options: %d are allowed", VM_MAX_OWN);
			out->own[out->n_own++] = (struct vm_own){ id, a.arg };
		}
		if (id == VM_OPT_JSON)
			out->json = true;
		if (id == VM_OPT_RUN_DIR)
			out->run_dir = a.arg;
		if (id == VM_OPT_WAIT) {
			if (cli_number("--wait", a.arg, "seconds", 1, VM_WAIT_MAX_S, &s, e))
				return -EINVAL;
			out->wait = s * NS_PER_S;
		}
	}
	if (!words && a.rest < argc)
		return err_set(e, -EINVAL, "unexpected argument '%.60s'", argv[a.rest]);
	out->rest += a.rest;
	return 0;
}

bool vm_begin(const struct cli_cmd *cmd, int argc, char **argv, bool words, struct vm_args *a, struct vm_client *c,
	      int *status)
{
	struct err e = { 0 };
	int rc = vm_args_parse(cmd, argc, argv, words, a, &e);

	if (rc) {
		*status = rc == VM_DONE ? CLI_OK : cli_fail(cmd, CLI_USAGE, &e);
		return false;
	}
	if (a->name && rundir_name_check(a->name, &e)) {
		*status = cli_fail(cmd, CLI_USAGE, &e);
		return false;
	}
	rc = client_open(c, a->run_dir, a->name, &e);
	if (rc) {
		*status = vm_end(cmd, c, rc, &e);
		return false;
	}
	return true;
}

int vm_end(const struct cli_cmd *cmd, struct vm_client *c, int rc, const struct err *e)
{
	client_close(c);
	if (!rc)
		return CLI_OK;
	return cli_fail(cmd, rc == -ENOENT ? CLI_NO_VM : CLI_FAILED, e);
}

void vm_print_json(struct json_object *o)
{
	printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
}
