/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep stop, cont, powerdown, reset: what QEMU's monitor has for one VM, for both copies. */
#include <json-c/json.h>

#include "cli/vm_args.h"

static const struct cli_opt opts[] = { VM_OPTS_COMMON, VM_OPT_WAIT_ROW, { NULL } };

static int tell(const struct cli_cmd *cmd, const char *execute, int argc, char **argv)
{
	struct json_object *o = NULL;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	int rc;

	if (!vm_begin(cmd, argc, argv, false, &a, &c, &rc))
		return rc;
	rc = client_call(&c, execute, NULL, a.wait, &o, &e);
	if (!rc && a.json)
		vm_print_json(o);
	json_object_put(o);
	return vm_end(cmd, &c, rc, &e);
}

static int stop_fn(int argc, char **argv)
{
	return tell(&cmd_stop, "stop", argc, argv);
}

static int cont_fn(int argc, char **argv)
{
	return tell(&cmd_cont, "cont", argc, argv);
}

static int powerdown_fn(int argc, char **argv)
{
	return tell(&cmd_powerdown, "system_powerdown", argc, argv);
}

static int reset_fn(int argc, char **argv)
{
	return tell(&cmd_reset, "system_reset", argc, argv);
}

const struct cli_cmd cmd_stop = {
	.name = "stop",
	.args = "[NAME]",
	.summary = "make the VM stand",
	.more = "Both copies stand until 'cont', also when a node fails meanwhile. Works on either host.\n",
	.opts = opts,
	.fn = stop_fn,
};

const struct cli_cmd cmd_cont = {
	.name = "cont",
	.args = "[NAME]",
	.summary = "make the VM run again",
	.more = "Undoes 'stop', or what -action made of a panic or a watchdog. Works on either host.\n",
	.opts = opts,
	.fn = cont_fn,
};

const struct cli_cmd cmd_powerdown = {
	.name = "powerdown",
	.args = "[NAME]",
	.summary = "press the VM's power button",
	.more = "What the guest makes of it is its own affair. To be given on the primary's host.\n",
	.opts = opts,
	.fn = powerdown_fn,
};

const struct cli_cmd cmd_reset = {
	.name = "reset",
	.args = "[NAME]",
	.summary = "reset the VM",
	.more = "To be given on the primary's host.\n",
	.opts = opts,
	.fn = reset_fn,
};
