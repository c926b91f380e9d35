/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep set: change settings of a running VM. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "cli/vm_args.h"
#include "monitor/settings.h"

#define SET_NAME_MAX (SETTING_NIC_MAX + 32)	/* an id, a point, a setting */

static const struct cli_opt opts[] = { VM_OPTS_COMMON, { NULL } };

/* One word, SETTING=VALUE, into the arguments of the request. */
static int set_word(const char *word, struct json_object *args, struct err *e)
{
	char name[SET_NAME_MAX + 1], nic[SETTING_NIC_MAX + 1];
	const char *eq = strchr(word, '=');
	size_t n = eq ? (size_t)(eq - word) : 0;
	uint64_t v;
	int rc, s;

	if (!eq)
		return err_set(e, -EINVAL, "'%.60s' is not of the form SETTING=VALUE", word);
	snprintf(name, sizeof(name), "%.*s", (int)(n < sizeof(name) ? n : SET_NAME_MAX), word);
	if (!strcmp(name, "checkpoint-delay") || !strcmp(name, "x-checkpoint-delay")) {
		rc = cli_number("checkpoint-delay", eq + 1, "milliseconds", 1, UINT32_MAX, &v, e);
		snprintf(name, sizeof(name), "checkpoint-delay");
	} else {
		s = setting_name(name, nic);
		if (s < 0 || n > SET_NAME_MAX)
			return err_set(e, -EINVAL, "'%.*s' is no setting: there are checkpoint-delay, " SETTING_LIST
				       ", and the last three for one NIC, as n0.compare-timeout",
				       (int)(n < 60 ? n : 60), word);
		rc = setting_value(name, (enum setting)s, eq + 1, &v, e);
		/* One spelling, so that what is given twice is seen. */
		snprintf(name, sizeof(name), "%s%s%s", nic, *nic ? "." : "", setting_infos[s].name);
	}
	if (!rc && json_object_object_get_ex(args, name, NULL))
		return err_set(e, -EINVAL, "%s is given twice", name);
	if (!rc)
		json_object_object_add(args, name, json_object_new_uint64(v));
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
	for (int i = a.rest; i < argc && !rc; i++) {
		/* Behind the settings as before them, as with other commands. */
		if (!strcmp(argv[i], "--json"))
			a.json = true;
		else
			rc = set_word(argv[i], args, &e);
	}
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
		"  checkpoint-delay=MS          longest time without a checkpoint\n"
		"  compare-timeout=MS           age of a held packet that starts a checkpoint\n"
		"  expired-scan-cycle=MS        time between two looks at the ages of held packets\n"
		"  max-queue-size=N             held packets of one flow that start a checkpoint\n"
		"The last three are of all NICs, or of one: n0.compare-timeout=MS.\n",
	.opts = opts,
	.fn = set_fn,
};
