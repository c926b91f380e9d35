/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep set: change settings of a running VM. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "cli/vm_args.h"

static const struct cli_opt opts[] = { VM_OPTS_COMMON, { NULL } };

/* One word, SETTING=VALUE, into the arguments of the request. */
static int set_word(const char *word, struct json_object *args, struct err *e)
{
	const char *eq = strchr(word, '=');
	size_t n = eq ? (size_t)(eq - word) : 0;
	uint64_t v;
	int rc;

	if (!eq)
		return err_set(e, -EINVAL, "'%.60s' is not of the form SETTING=VALUE", word);
	if ((n != strlen("checkpoint-delay") || memcmp(word, "checkpoint-delay", n)) &&
	    (n != strlen("x-checkpoint-delay") || memcmp(word, "x-checkpoint-delay", n)))
		return err_set(e, -EINVAL, "'%.*s' is no setting: checkpoint-delay is one", (int)(n < 60 ? n : 60),
			       word);
	rc = cli_number("checkpoint-delay", eq + 1, "milliseconds", 1, UINT32_MAX, &v, e);
	if (!rc)
		json_object_object_add(args, "checkpoint-delay", json_object_new_uint64(v));
	return rc;
}

static int set_fn(int argc, char **argv)
{
	struct json_object *o = NULL, *args;
	struct vm_client c = { .fd = -1 };
	struct vm_args a;
	struct err e = { 0 };
	int rc = vm_args_parse(&cmd_set, argc, argv, true, &a, &e);

	if (rc)
		return rc == VM_DONE ? CLI_OK : cli_fail(&cmd_set, CLI_USAGE, &e);
	if (a.rest == argc) {
		err_set(&e, -EINVAL, "nothing to set: write SETTING=VALUE, e.g. checkpoint-delay=2000");
		return cli_fail(&cmd_set, CLI_USAGE, &e);
	}
	if (a.name && rundir_name_check(a.name, &e))
		return cli_fail(&cmd_set, CLI_USAGE, &e);
	args = json_object_new_object();
	for (int i = a.rest; i < argc && !rc; i++)
		rc = set_word(argv[i], args, &e);
	if (rc) {
		json_object_put(args);
		return cli_fail(&cmd_set, CLI_USAGE, &e);
	}
	rc = client_open(&c, a.run_dir, a.name, &e);
	if (rc)
		json_object_put(args);
	else
		rc = client_call(&c, "__lockstep_set", args, CLIENT_TIMEOUT, &o, &e);
	if (!rc && a.json)
		vm_print_json(o);
	json_object_put(o);
	return vm_end(&cmd_set, &c, rc, &e);
}

const struct cli_cmd cmd_set = {
	.name = "set",
	.args = "[NAME] SETTING=VALUE...",
	.summary = "change settings of a running VM",
	.more = "Settings:\n"
		"  checkpoint-delay=MS          longest time without a checkpoint\n",
	.opts = opts,
	.fn = set_fn,
};
