/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Command lines: getopt_long fed from the tables of the subcommands, with sentences of our own, which name the text
 * that is wrong. Abbreviated options are refused: a script that says --check would change its meaning with the next
 * option that begins so.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>

#include "cli/cli.h"

/* @letters: "+:h" and the short forms, two bytes an option at the most */
static int args_build(const struct cli_cmd *c, struct option *out, char letters[4 + 2 * CLI_MAX_OPTS])
{
	int n = 0;

	letters = stpcpy(letters, "+:h");
	for (const struct cli_opt *o = c->opts; o && o->name && n < CLI_MAX_OPTS; o++) {
		out[n++] = (struct option){ o->name, o->arg ? required_argument : no_argument, NULL, o->id };
		if (o->letter) {
			*letters++ = o->letter;
			letters = stpcpy(letters, o->arg ? ":" : "");
		}
	}
	out[n++] = (struct option){ "help", no_argument, NULL, CLI_HELP };
	out[n] = (struct option){ NULL };
	return n;
}

static int args_unknown(const struct cli_args *a, const char *word, struct err *e)
{
	size_t n = strcspn(word, "=");

	if (!strncmp(word, "--", 2))
		return err_set(e, -EINVAL, "unknown option %.*s%s", (int)(n < 60 ? n : 60), word,
			       a->stray ? a->stray : "");
	return err_set(e, -EINVAL, "unknown option -%c%s", optopt, a->stray ? a->stray : "");
}

/* The value of an option. */
static int args_value(struct cli_args *a, const char *dashes, const char *name, struct err *e)
{
	a->arg = optarg;
	if (optarg && !strncmp(optarg, "--", 2))
		return err_set(e, -EINVAL, "option %s%s needs a value, and %s looks like an option", dashes, name, optarg);
	return 0;
}

int cli_next(struct cli_args *a, struct err *e)
{
	char letters[4 + 2 * CLI_MAX_OPTS], letter[2] = "";
	struct option opts[CLI_MAX_OPTS + 2];
	int id, index = -1;
	const char *word;

	args_build(a->cmd, opts, letters);
	opterr = 0;
	if (!a->begun)
		optind = 0;	/* 0 makes glibc begin anew, also in the middle of a cluster */
	a->begun = true;
	id = getopt_long(a->argc, a->argv, letters, opts, &index);
	if (id == -1) {
		a->rest = optind;
		a->dashes = optind > 1 && !strcmp(a->argv[optind - 1], "--");
		return 0;
	}
	if (id == 'h')
		return CLI_HELP;
	for (const struct cli_opt *o = a->cmd->opts; o && o->name; o++) {
		if (!o->letter || id != o->letter)
			continue;
		*letter = o->letter;
		return args_value(a, "-", letter, e) ? -EINVAL : o->id;
	}
	word = a->argv[optind - 1];
	if (id == '?') {
		/* A known option with a value that it does not take ends here as well; optopt is its id then. */
		for (int i = 0; opts[i].name; i++) {
			size_t n = strlen(opts[i].name);

			if (!strncmp(word, "--", 2) && !strncmp(word + 2, opts[i].name, n) && word[2 + n] == '=')
				return err_set(e, -EINVAL, "option --%s takes no value", opts[i].name);
		}
		return args_unknown(a, word, e);
	}
	if (id == ':')
		return err_set(e, -EINVAL, "option %s needs a value", word);
	if (opts[index].has_arg && word == optarg)
		word = a->argv[optind - 2];
	if (strcspn(word + 2, "=") != strlen(opts[index].name))
		return args_unknown(a, word, e);
	return args_value(a, "--", opts[index].name, e) ? -EINVAL : id;
}

int cli_number(const char *what, const char *text, const char *unit, uint64_t min, uint64_t max, uint64_t *out,
	       struct err *e)
{
	uint64_t v = 0;
	const char *p = text;

	for (; *p >= '0' && *p <= '9' && v <= max; p++)
		v = v * 10 + (uint64_t)(*p - '0');	/* cannot wrap: max is far below 2^64 / 10 for all callers */
	if (*p || p == text || v < min || v > max)
		return err_set(e, -EINVAL, "%s: '%.40s' is not a whole number of %s from %" PRIu64 " to %" PRIu64, what,
			       text, unit, min, max);
	*out = v;
	return 0;
}
