/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep checkpoint: make one now, wait until the secondary runs from it, tell what it cost. */
#include <json-c/json.h>

#include "cli/vm_args.h"
#include "monitor/status.h"

static const struct cli_opt opts[] = { VM_OPTS_COMMON, VM_OPT_WAIT_ROW, { NULL } };

static int checkpoint_fn(int argc, char **argv)
{
	struct json_object *o = NULL;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	int rc;

	if (!vm_begin(&cmd_checkpoint, argc, argv, false, &a, &c, &rc))
		return rc;
	rc = client_call(&c, "__lockstep_checkpoint", NULL, a.wait, &o, &e);
	if (!rc && a.json)
		vm_print_json(o);
	else if (!rc)
		status_ckpt_text(o, stdout);
	json_object_put(o);
	return vm_end(&cmd_checkpoint, &c, rc, &e);
}

const struct cli_cmd cmd_checkpoint = {
	.name = "checkpoint",
	.args = "[NAME]",
	.summary = "make a checkpoint now and wait for its end",
	.more = "To be given on the primary's host.\n",
	.opts = opts,
	.fn = checkpoint_fn,
};
