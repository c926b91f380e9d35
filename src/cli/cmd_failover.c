/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep failover: on the secondary take over, on the primary hand over. */
#include <json-c/json.h>

#include "cli/vm_args.h"

static const struct cli_opt opts[] = { VM_OPTS_COMMON, VM_OPT_WAIT_ROW, { NULL } };

static int failover_fn(int argc, char **argv)
{
	struct json_object *o = NULL;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	nstime begun;
	int rc;

	if (!vm_begin(&cmd_failover, argc, argv, false, &a, &c, &rc))
		return rc;
	begun = clock_ns();
	rc = client_call(&c, "__lockstep_failover", NULL, a.wait, &o, &e);
	if (!rc && a.json)
		vm_print_json(o);
	else if (!rc)
		printf("failover of %s done after %.1f ms\n", c.name, (double)(clock_ns() - begun) / NS_PER_MS);
	json_object_put(o);
	return vm_end(&cmd_failover, &c, rc, &e);
}

const struct cli_cmd cmd_failover = {
	.name = "failover",
	.args = "[NAME]",
	.summary = "let the secondary take over",
	.more = "On the secondary's host: take over from the primary.\n"
		"On the primary's host: hand over to the secondary and end.\n",
	.opts = opts,
	.fn = failover_fn,
};
