/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep events: follow what happens, one JSON object a line, until the VM ends or the user has seen enough. */
#include <errno.h>
#include <json-c/json.h>

#include "cli/vm_args.h"

static const struct cli_opt opts[] = { VM_OPTS_COMMON, { NULL } };

static int events_fn(int argc, char **argv)
{
	const char *line;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	int rc;

	if (!vm_begin(&cmd_events, argc, argv, false, &a, &c, &rc))
		return rc;
	rc = client_call(&c, "__lockstep_events", NULL, CLIENT_TIMEOUT, NULL, &e);
	while (!rc) {
		rc = client_line(&c, NS_NEVER, &line, &e);
		if (rc <= 0)
			break;
		rc = 0;
		/* Each line at once: whoever reads this through a pipe wants it now. */
		if (puts(line) < 0 || fflush(stdout) < 0)
			rc = err_set(&e, -EIO, "cannot write to standard output");
	}
	return vm_end(&cmd_events, &c, rc, &e);
}

const struct cli_cmd cmd_events = {
	.name = "events",
	.args = "[NAME]",
	.summary = "follow what happens, as JSON lines",
	.more = "Ends when the VM's lockstep ends. The output is JSON with or without --json.\n",
	.opts = opts,
	.fn = events_fn,
};
