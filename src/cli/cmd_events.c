/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * lockstep events: follow what happens, one JSON object a line, until the VM ends or the user has seen enough; with --follow
 * also over the end and the next start of the node, which are lines of their own then.
 */
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <string.h>

#include "cli/vm_args.h"
#include "monitor/request.h"

#define RETRY_MS 500

enum { OPT_FOLLOW = VM_OPT_OWN };

static const struct cli_opt opts[] = {
	VM_OPTS_COMMON,
	{ "follow", OPT_FOLLOW, NULL, "wait for the node, and connect again whenever it has ended" },
	{ "retry", OPT_FOLLOW, NULL, NULL },
	{ NULL },
};

static int print_line(const char *line, struct err *e)
{
	/* Each line at once: whoever reads this through a pipe wants it now. */
	if (puts(line) < 0 || fflush(stdout) < 0)
		return err_set(e, -EIO, "cannot write to standard output");
	return 0;
}

/* A line of our own, in the shape of the node's. */
static int print_own(const char *event, struct json_object *data, struct err *e)
{
	struct json_object *o = event_make(event, data);
	int rc = o ? print_line(json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN |
							       JSON_C_TO_STRING_NOSLASHESCAPE), e) :
		 err_set(e, -ENOMEM, "no memory");

	json_object_put(o);
	return rc;
}

/* How the VM is now that its events are followed, asked on a second connection so that none of them is missed. */
static int connected(const struct vm_args *a, const char *name, struct err *e)
{
	static const char *const members[] = { "name", "condition", "condition_why", "role", "state", "generation" };
	struct json_object *o = NULL, *data = json_object_new_object(), *v;
	struct vm_client c;

	if (!client_open(&c, a->run_dir, name, e))
		client_call(&c, "__lockstep_status", NULL, CLIENT_TIMEOUT, &o, e);
	client_close(&c);
	for (size_t i = 0; data && o && i < sizeof(members) / sizeof(*members); i++)
		if (json_object_object_get_ex(o, members[i], &v))
			json_object_object_add(data, members[i], json_object_get(v));
	json_object_put(o);
	return print_own("CONNECTED", data, e);
}

static int follow_one(const struct vm_args *a, struct vm_client *c, bool follow, struct err *e)
{
	int rc = client_call(c, "__lockstep_events", NULL, CLIENT_TIMEOUT, NULL, e);
	const char *line;

	if (!rc && follow)
		rc = connected(a, c->name, e);
	while (!rc) {
		rc = client_line(c, NS_NEVER, &line, e);
		if (rc <= 0)
			break;
		rc = print_line(line, e);
	}
	return rc;
}

static int events_fn(int argc, char **argv)
{
	char name[RUNDIR_NAME_MAX + 1] = "";
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	int rc = vm_args_parse(&cmd_events, argc, argv, false, &a, &e);
	bool follow = a.n_own > 0;

	if (!rc && a.name && rundir_name_check(a.name, &e))
		rc = e.code;
	if (rc)
		return rc == VM_DONE ? CLI_OK : cli_fail(&cmd_events, CLI_USAGE, &e);
	if (a.name)
		strcpy(name, a.name);	/* rundir_name_check() has measured it */
	for (;;) {
		bool open;

		rc = client_open(&c, a.run_dir, *name ? name : NULL, &e);
		open = !rc;
		if (open) {
			strcpy(name, c.name);
			rc = follow_one(&a, &c, follow, &e);
		}
		if (!follow || rc == -EIO || rc == -ENOMEM)
			break;
		client_close(&c);
		if (open) {
			struct json_object *data = json_object_new_object();

			if (data)
				json_object_object_add(data, "name", json_object_new_string(name));
			rc = print_own("DISCONNECTED", data, &e);
			if (rc)
				break;
		}
		poll(NULL, 0, RETRY_MS);
	}
	return vm_end(&cmd_events, &c, rc, &e);
}

const struct cli_cmd cmd_events = {
	.name = "events",
	.args = "[NAME]",
	.summary = "follow what happens, as JSON lines",
	.more = "Ends when the VM's lockstep ends, but for --follow. The output is JSON with or without --json.\n",
	.opts = opts,
	.fn = events_fn,
};
