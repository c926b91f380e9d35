/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* Exit statuses; documented in lockstep(1). */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,		/* it was tried and did not work */
	CLI_USAGE = 2,		/* the command line was refused, nothing was tried */
	CLI_NO_VM = 3,		/* no such VM runs, or it is not clear which one is meant */
};

#define CLI_MAX_OPTS 64

/* One option of a subcommand. The same table feeds the parser and the help. */
struct cli_opt {
	const char *name;	/* without the dashes */
	int id;			/* 1 to 40 or 256 and more, since letters share the range; the same for an alias */
	const char *arg;	/* what its value is called in the help; NULL: takes none */
	const char *help;	/* NULL: an alias, not shown */
	char letter;		/* short form, e.g. 'w' for -w; 0: none */
};

struct cli_cmd {
	const char *name;
	const char *args;		/* after the options, for the usage line */
	const char *summary;		/* one line, no full stop */
	const char *more;		/* lines for `lockstep help NAME`, may be NULL */
	const struct cli_opt *opts;	/* ends with name NULL */
	int (*fn)(int argc, char **argv);	/* argv[0] is the subcommand; returns an exit status */
};

extern const struct cli_cmd cmd_run, cmd_status, cmd_checkpoint, cmd_failover, cmd_switch, cmd_stop, cmd_cont, cmd_powerdown,
	cmd_reset, cmd_set, cmd_rule, cmd_events,
	cmd_blackbox,
	cmd_capture, cmd_quit, cmd_nbd, cmd_doctor, cmd_version, cmd_help;

/* cli_main() - the whole program; @argv[0] is the program's name. Return: exit status */
int cli_main(int argc, char **argv);

/* cli_find() - a subcommand by name, NULL when there is none; cli_nth() - the i-th, NULL past the end */
const struct cli_cmd *cli_find(const char *name);
const struct cli_cmd *cli_nth(unsigned int i);

/* cli_help() - usage, options and explanation of a subcommand */
void cli_help(const struct cli_cmd *c, FILE *f);

/*
 * cli_fail() - tell on standard error why a subcommand ends
 *
 * Return: @status, so that a caller can write return cli_fail(...)
 */
int cli_fail(const struct cli_cmd *c, int status, const struct err *e);

/* One pass over a command line. Zero-initialise, then set the first four. */
struct cli_args {
	const struct cli_cmd *cmd;
	int argc;
	char **argv;
	const char *stray;	/* added to the sentence about an unknown option; may be NULL */
	const char *arg;	/* value of the option that cli_next() returned */
	int rest;		/* at the end: index of the first word that is no option */
	bool dashes;		/* at the end: there was a "--" before @rest */
	bool begun;
};

/*
 * cli_next() - the next option; options end at "--" or at the first other word
 *
 * -h and --help are options of every subcommand: CLI_HELP. Not reentrant (getopt_long).
 * Return: the option's id, CLI_HELP, 0 at the end, -EINVAL with a sentence that names the offending text
 */
#define CLI_HELP 10000
int cli_next(struct cli_args *a, struct err *e);

/* cli_number() - a whole number between @min and @max; 0, or -EINVAL with a sentence that names @what */
int cli_number(const char *what, const char *text, const char *unit, uint64_t min, uint64_t max, uint64_t *out,
	       struct err *e);

#endif
