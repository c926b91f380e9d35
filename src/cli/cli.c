/* SPDX-License-Identifier: BSD-2-Clause */
/* The program's frame: which subcommands there are, help, version. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

#include "version.h"

static const struct cli_cmd *const commands[] = {
	&cmd_run, &cmd_status, &cmd_checkpoint, &cmd_failover, &cmd_switch, &cmd_stop, &cmd_cont, &cmd_powerdown, &cmd_reset,
	&cmd_set, &cmd_rule, &cmd_events, &cmd_blackbox, &cmd_capture,
	&cmd_quit, &cmd_nbd, &cmd_doctor, &cmd_version, &cmd_help,
};

const struct cli_cmd *cli_nth(unsigned int i)
{
	return i < sizeof(commands) / sizeof(*commands) ? commands[i] : NULL;
}

const struct cli_cmd *cli_find(const char *name)
{
	for (unsigned int i = 0; cli_nth(i); i++)
		if (!strcmp(cli_nth(i)->name, name))
			return cli_nth(i);
	return NULL;
}

int cli_fail(const struct cli_cmd *c, int status, const struct err *e)
{
	fprintf(stderr, "lockstep%s%s: %s\n", c ? " " : "", c ? c->name : "", e->msg);
	if (status == CLI_USAGE)
		fprintf(stderr, "'lockstep help%s%s' tells more.\n", c ? " " : "", c ? c->name : "");
	return status;
}

void cli_help(const struct cli_cmd *c, FILE *f)
{
	fprintf(f, "usage: lockstep %s%s%s%s\n\n%s.\n", c->name, c->opts && c->opts->name ? " [OPTION...]" : "",
		*c->args ? " " : "", c->args, c->summary);
	if (c->more)
		fprintf(f, "\n%s", c->more);
	if (c->opts && c->opts->name)
		fprintf(f, "\n");
	for (const struct cli_opt *o = c->opts; o && o->name; o++) {
		char left[64];

		if (!o->help)
			continue;
		snprintf(left, sizeof(left), "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		if (o->letter)
			snprintf(left + strlen(left), sizeof(left) - strlen(left), ", -%c%s%s", o->letter,
				 o->arg ? " " : "", o->arg ? o->arg : "");
		fprintf(f, "  %-28s %s\n", left, o->help);
	}
}

static void cli_overview(FILE *f)
{
	fprintf(f, "usage: lockstep COMMAND [OPTION...] [ARGUMENT...]\n\n"
		"Runs a virtual machine on two hosts at once: when one dies, the other goes on.\n\n");
	for (unsigned int i = 0; cli_nth(i); i++)
		fprintf(f, "  %-12s %s\n", cli_nth(i)->name, cli_nth(i)->summary);
	fprintf(f, "\n'lockstep help COMMAND' shows the options of a command; see also lockstep(1).\n");
}

static int help_fn(int argc, char **argv)
{
	struct cli_args a = { .cmd = &cmd_help, .argc = argc, .argv = argv };
	const struct cli_cmd *c;
	struct err e;
	int id = cli_next(&a, &e);

	if (id < 0)
		return cli_fail(&cmd_help, CLI_USAGE, &e);
	if (id == CLI_HELP || a.rest == argc) {
		cli_overview(stdout);
		return CLI_OK;
	}
	c = cli_find(argv[a.rest]);
	if (!c || a.rest + 1 < argc) {
		err_set(&e, -EINVAL, c ? "one command at a time" : "there is no command '%.60s'", argv[a.rest]);
		return cli_fail(NULL, CLI_USAGE, &e);
	}
	cli_help(c, stdout);
	return CLI_OK;
}

const struct cli_cmd cmd_help = {
	.name = "help",
	.args = "[COMMAND]",
	.summary = "show the commands, or the options of one",
	.fn = help_fn,
};

enum { OPT_JSON = 1 };
static const struct cli_opt version_opts[] = {
	{ "json", OPT_JSON, NULL, "print one JSON object" },
	{ NULL },
};

static int version_fn(int argc, char **argv)
{
	struct cli_args a = { .cmd = &cmd_version, .argc = argc, .argv = argv };
	bool json = false;
	struct err e;
	int id;

	while ((id = cli_next(&a, &e)) > 0) {
		if (id == CLI_HELP) {
			cli_help(&cmd_version, stdout);
			return CLI_OK;
		}
		json = true;
	}
	if (!id && a.rest < argc)
		id = err_set(&e, -EINVAL, "unexpected argument '%.60s'", argv[a.rest]);
	if (id)
		return cli_fail(&cmd_version, CLI_USAGE, &e);
	printf(json ? "{\"version\":\"%s\"}\n" : "lockstep %s\n", LOCKSTEP_VERSION);
	return CLI_OK;
}

const struct cli_cmd cmd_version = {
	.name = "version",
	.args = "",
	.summary = "show the version of lockstep",
	.opts = version_opts,
	.fn = version_fn,
};

int cli_main(int argc, char **argv)
{
	const struct cli_cmd *c;
	struct err e;

	if (argc < 2) {
		cli_overview(stderr);
		return CLI_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h"))
		c = &cmd_help;
	else if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V"))
		c = &cmd_version;
	else
		c = cli_find(argv[1]);
	if (!c) {
		err_set(&e, -EINVAL, *argv[1] == '-' ? "unknown option %.60s" : "there is no command '%.60s'", argv[1]);
		return cli_fail(NULL, CLI_USAGE, &e);
	}
	return c->fn(argc - 1, argv + 1);
}
