/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep quit: end a node, its QEMU included, and wait until it is gone. */
#include <errno.h>
#include <json-c/json.h>

#include "cli/vm_args.h"

static const struct cli_opt opts[] = { VM_OPTS_COMMON, VM_OPT_WAIT_ROW, { NULL } };

static int quit_fn(int argc, char **argv)
{
	struct json_object *o = NULL;
	const char *line;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	int rc;

	if (!vm_begin(&cmd_quit, argc, argv, false, &a, &c, &rc))
		return rc;
	rc = client_call(&c, "__lockstep_quit", NULL, CLIENT_TIMEOUT, &o, &e);
	if (!rc) {
		/* Nothing more is said on this connection; its end is the end of the process. */
		rc = client_line(&c, a.wait, &line, &e);
		if (rc == -ETIMEDOUT)
			err_set(&e, rc, "%s was told to end and has not ended yet", c.name);
		if (rc > 0)
			rc = err_set(&e, -EPROTO, "%s gives an answer that is not understood", c.name);
	}
	if (!rc && a.json)
		vm_print_json(o);
	json_object_put(o);
	return vm_end(&cmd_quit, &c, rc, &e);
}

const struct cli_cmd cmd_quit = {
	.name = "quit",
	.args = "[NAME]",
	.summary = "end a node and its QEMU",
	.more = "On the primary's host this ends the pair; on the secondary's the primary goes on alone.\n",
	.opts = opts,
	.fn = quit_fn,
};
