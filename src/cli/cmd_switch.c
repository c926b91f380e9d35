/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep switch: the two nodes change their roles. */
#include <json-c/json.h>

#include "cli/vm_args.h"

static const struct cli_opt opts[] = { VM_OPTS_COMMON, VM_OPT_WAIT_ROW, { NULL } };

static int switch_fn(int argc, char **argv)
{
	struct json_object *o = NULL;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	nstime begun;
	int rc;

	if (!vm_begin(&cmd_switch, argc, argv, false, &a, &c, &rc))
		return rc;
	begun = clock_ns();
	rc = client_call(&c, "__lockstep_switch", NULL, a.wait, &o, &e);
	if (!rc && a.json)
		vm_print_json(o);
	else if (!rc)
		printf("%s has changed nodes after %.1f ms\n", c.name, (double)(clock_ns() - begun) / NS_PER_MS);
	json_object_put(o);
	return vm_end(&cmd_switch, &c, rc, &e);
}

const struct cli_cmd cmd_switch = {
	.name = "switch",
	.args = "[NAME]",
	.summary = "move the VM to the other node",
	.more = "On either node's host, while the VM is protected: after one more checkpoint the secondary takes over, and the\n"
		"node that had the VM begins anew as its secondary.\n",
	.opts = opts,
	.fn = switch_fn,
};
