/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep status: what a running VM says about itself, once or (--watch) again and again. */
#include <json-c/json.h>

#include "cli/vm_args.h"
#include "cli/watch.h"
#include "monitor/status.h"

enum { OPT_WATCH = VM_OPT_OWN, OPT_SHORT };

static const struct cli_opt opts[] = {
	VM_OPTS_COMMON,
	{ "watch", OPT_WATCH, NULL, "redraw until q or ^C; not on a terminal: a line for each change" },
	{ "short", OPT_SHORT, NULL, "role, state and condition only, on one line, for scripts" },
	{ NULL },
};

/* Three words, the last of which may have a blank in it. */
static void print_short(struct json_object *o)
{
	static const char *const members[] = { "role", "state", "condition" };
	struct json_object *v;

	for (size_t i = 0; i < sizeof(members) / sizeof(*members); i++)
		printf("%s%s", i ? " " : "", json_object_object_get_ex(o, members[i], &v) ? json_object_get_string(v) : "?");
	putchar('\n');
}

static int status_fn(int argc, char **argv)
{
	struct json_object *o = NULL;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	bool watch = false, brief = false;
	int rc = vm_args_parse(&cmd_status, argc, argv, false, &a, &e);

	if (!rc && a.name && rundir_name_check(a.name, &e))
		rc = e.code;
	if (rc)
		return rc == VM_DONE ? CLI_OK : cli_fail(&cmd_status, CLI_USAGE, &e);
	for (int i = 0; i < a.n_own; i++) {
		watch |= a.own[i].id == OPT_WATCH;
		brief |= a.own[i].id == OPT_SHORT;
	}
	if (watch)
		return watch_status(a.run_dir, a.name, a.json);
	rc = client_open(&c, a.run_dir, a.name, &e);
	if (!rc)
		rc = client_call(&c, "__lockstep_status", NULL, CLIENT_TIMEOUT, &o, &e);
	if (!rc && a.json)
		vm_print_json(o);
	else if (!rc && brief)
		print_short(o);
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
