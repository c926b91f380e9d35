/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLI_VM_ARGS_H
#define CLI_VM_ARGS_H

#include <stdbool.h>
#include <stdint.h>

#include "cli/cli.h"
#include "cli/client.h"

/* What the subcommands that talk to a running VM have in common. */
enum { VM_OPT_JSON = 1, VM_OPT_RUN_DIR, VM_OPT_WAIT };

#define VM_OPTS_COMMON \
	{ "json", VM_OPT_JSON, NULL, "print JSON, one object a line" }, \
	{ "run-dir", VM_OPT_RUN_DIR, "DIR", "directory of the control socket" }

#define VM_OPT_OWN	1000	/* ids of a subcommand's own options begin here */
#define VM_MAX_OWN	16

#define VM_WAIT_S	60
#define VM_WAIT_MAX_S	3600
#define VM_OPT_WAIT_ROW	{ "wait", VM_OPT_WAIT, "SECONDS", "how long to wait for the end of it (default 60)" }

struct vm_args {
	bool json;
	const char *run_dir;	/* NULL: the default */
	nstime wait;
	const char *name;	/* NULL: not given */
	int rest;		/* index of the first word after the name */
	struct vm_own {
		int id;
		const char *value;
	} own[VM_MAX_OWN];	/* options of the subcommand's own, in the order given */
	int n_own;
};

#define VM_DONE 1	/* help was shown */

/*
 * vm_args_parse() - [OPTION...] [NAME] [WORD...]
 * @words: whether further words may follow; those with a '=' are words, not names
 *
 * Return: 0; VM_DONE: end with CLI_OK; -EINVAL with a sentence
 */
int vm_args_parse(const struct cli_cmd *cmd, int argc, char **argv, bool words, struct vm_args *out, struct err *e);

/*
 * vm_begin() - parse and connect; the same for most subcommands
 * @status: exit status when it returns false
 *
 * What went wrong has been told already. Return: true when @c is open
 */
bool vm_begin(const struct cli_cmd *cmd, int argc, char **argv, bool words, struct vm_args *a, struct vm_client *c,
	      int *status);

/* vm_end() - close, tell the error if there is one. Return: exit status for @rc */
int vm_end(const struct cli_cmd *cmd, struct vm_client *c, int rc, const struct err *e);

/* vm_print_json() - one object, one line */
void vm_print_json(struct json_object *o);

#endif
