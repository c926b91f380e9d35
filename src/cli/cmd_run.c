/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep run: read the command line, set up the log, say what is risky, and become the node. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/again.h"
#include "base/crash.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/spawn.h"
#include "cli/cli.h"
#include "cli/run_args.h"
#include "core/ft.h"
#include "node.h"

/* Decisions about what the other node has, made for one start: never by a node that begins anew by itself. */
static const char *const once[] = { "--discard-disks", "--force-primary", ",replace", NULL };

static int run_fn(int argc, char **argv)
{
	struct err e = { 0 };
	struct run_opts *o = malloc(sizeof(*o));
	int rc, status;

	if (!o) {
		err_set(&e, -ENOMEM, "no memory");
		return cli_fail(&cmd_run, CLI_FAILED, &e);
	}
	rc = run_args_parse(argc, argv, o, &e);
	if (rc == RUN_HELP) {
		cli_help(&cmd_run, stdout);
		run_args_free(o);
		free(o);
		return CLI_OK;
	}
	if (!rc) {
		const char *var;

		rc = crash_points_init(&var);
		if (rc == -EINVAL)
			err_set(&e, rc, "%s=%.60s: there is no such crash point; 'lockstep doctor --crash-points' lists "
				"them", var, getenv(var));
		else if (rc)
			err_set(&e, rc, "%s is set, and this lockstep was built without crash points", var);
	}
	if (rc) {
		run_args_free(o);
		free(o);
		return cli_fail(&cmd_run, CLI_USAGE, &e);
	}
	log_init(o->name, o->log_level);
	notify_init();
	if (!run_encrypted(o) && !(o->listen.n ? &o->listen : &o->peer)->loopback)
		log_warn("%s", RUN_WARN_NOT_ENCRYPTED);
	if (o->witness.kind == WITNESS_NONE)
		log_warn("%s", RUN_WARN_NO_ARBITRATION);
	if (o->shared_disk && !*o->fence_command)
		log_warn("%s", RUN_WARN_NO_FENCE);
	again_once(once);
	rc = node_run(o, &e);
	if (rc == FT_EXIT_REJOIN) {
		log_note("the other node has the VM: this one begins anew, as its secondary");
		rc = again_run(&e);
		if (rc < 0) {
			log_error("this program cannot be started anew: %s", e.msg);
			rc = FT_EXIT_PEER;
		}
	}
	spawn_helper_end();
	status = rc >= 0 ? rc : rc == -EINVAL || rc == -ENOTSUP ? CLI_USAGE : CLI_FAILED;
	if (rc < 0)
		cli_fail(&cmd_run, status, &e);
	run_args_free(o);
	free(o);
	return status;
}

const struct cli_cmd cmd_run = {
	.name = "run",
	.args = "-- QEMU-COMMAND...",
	.summary = "run one of the two nodes of a VM",
	.more = "On the secondary, which is started first:\n"
		"  lockstep run --name web --listen 192.0.2.2:9998 --psk-file web.psk -- qemu-system-x86_64 ...\n"
		"and on the primary:\n"
		"  lockstep run --name web --peer 192.0.2.2:9998 --primary --psk-file web.psk -- qemu-system-x86_64 ...\n"
		"For rules (--rule) and settings of a NIC (--nic) see lockstep-run(1).\n",
	.opts = run_opts_table,
	.fn = run_fn,
};
