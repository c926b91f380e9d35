/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep status: what a running VM says about itself. */
#include <json-c/json.h>

#include "cli/vm_args.h"
#include "monitor/status.h"

static const struct cli_opt opts[] = { VM_OPTS_COMMON, { NULL } };

static int status_fn(int argc, char **argv)
{
	struct json_object *o = NULL;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	int rc;

	if (!vm_begin(&cmd_status, argc, argv, false, &a, &c, &rc))
		return rc;
	rc = client_call(&c, "__lockstep_status", NULL, CLIENT_TIMEOUT, &o, &e);
	if (!rc && a.json)
		vm_print_json(o);
	else if (!rc)
		status_text(o, stdout);
	json_object_put(o);
	return vm_end(&cmd_status, &c, rc, &e);
}

const struct cli_cmd cmd_status = {
	.name = "status",
	.args = "[NAME]",
	.summary = "show the state of a VM",
	.more = "NAME may be left out when only one VM runs on this host.\n",
	.opts = opts,
	.fn = status_fn,
};
