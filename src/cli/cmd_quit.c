/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep quit: end a node, its QEMU included, and wait until it is gone. */
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "cli/vm_args.h"

enum { OPT_HAND_OVER = VM_OPT_OWN };

static const struct cli_opt opts[] = {
	VM_OPTS_COMMON,
	VM_OPT_WAIT_ROW,
	{ "hand-over", OPT_HAND_OVER, NULL, "if the VM runs here and is protected, have the other node go on with it" },
	{ NULL },
};

/*
 * The other node takes the VM. This one ends then, or becomes the other one's secondary.
 * Return: 1: it has been done, and the connection has ended; 0: there is nobody to hand over to; -errno
 */
static int hand_over(struct vm_client *c, nstime wait, struct err *e)
{
	struct json_object *o = NULL, *v;
	const char *line;
	bool serves;
	int rc = client_call(c, "__lockstep_status", NULL, CLIENT_TIMEOUT, &o, e);

	if (rc)
		return rc;
	serves = json_object_object_get_ex(o, "state", &v) && !strcmp(json_object_get_string(v), "protected");
	json_object_put(o);
	if (!serves)
		return 0;
	rc = client_call(c, "__lockstep_failover", NULL, wait, NULL, e);
	/* The end of this node may come before its answer. */
	if (!rc)
		rc = client_line(c, wait, &line, e);
	return rc >= 0 || rc == -EPIPE ? 1 : rc;
}

static int quit_fn(int argc, char **argv)
{
	struct json_object *o = NULL;
	const char *line;
	struct vm_client c;
	struct vm_args a;
	struct err e = { 0 };
	bool handed = false;
	int rc;

	if (!vm_begin(&cmd_quit, argc, argv, false, &a, &c, &rc))
		return rc;
	if (a.n_own) {
		rc = hand_over(&c, a.wait, &e);
		handed = rc > 0;
		if (handed) {
			char name[sizeof(c.name)];

			memcpy(name, c.name, sizeof(name));
			client_close(&c);
			/* It may have begun anew, as the other one's secondary. */
			rc = client_open(&c, a.run_dir, name, &e);
			if (rc == -ENOENT || rc == -ECONNREFUSED)
				return vm_end(&cmd_quit, &c, 0, &e);
		}
		if (rc)
			return vm_end(&cmd_quit, &c, rc, &e);
	}
	rc = client_call(&c, "__lockstep_quit", NULL, CLIENT_TIMEOUT, &o, &e);
	/* The door of a node that was just ending. */
	if (rc == -EPIPE && handed) {
		rc = 0;
	} else if (!rc) {
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
