/* SPDX-License-Identifier: BSD-2-Clause */
/* lockstep rule: show and change which flows are compared, let through, or held. */
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

#include "cli/vm_args.h"
#include "core/rule.h"

#define RULE_WORDS 4	/* NAME, what to do, a place, a rule */

static const struct cli_opt opts[] = { VM_OPTS_COMMON, { NULL } };

static const struct {
	const char *name;
	int words;		/* that follow it */
	const char *usage;
} acts[] = {
	{ "list", 0, "list" },
	{ "add", 1, "add RULE" },
	{ "insert", 2, "insert N RULE" },
	{ "delete", 1, "delete N" },
	{ "clear", 0, "clear" },
};

#define N_ACTS (sizeof(acts) / sizeof(*acts))

static size_t act_find(const char *word)
{
	size_t i = 0;

	while (i < N_ACTS && strcmp(acts[i].name, word))
		i++;
	return i;
}

/* Options may stand anywhere between the words. Return: how many words, or as cli_next() */
static int rule_words(int argc, char **argv, struct vm_args *out, char *words[RULE_WORDS], struct err *e)
{
	struct cli_args a = { .cmd = &cmd_rule, .argc = argc, .argv = argv };
	int id, n = 0;

	*out = (struct vm_args){ 0 };
	for (;;) {
		id = cli_next(&a, e);
		if (id < 0 || id == CLI_HELP)
			return id;
		if (id == VM_OPT_JSON)
			out->json = true;
		if (id == VM_OPT_RUN_DIR)
			out->run_dir = a.arg;
		if (id)
			continue;
		if (a.rest == a.argc)
			return n;
		if (n == RULE_WORDS)
			return err_set(e, -EINVAL, "unexpected argument '%.60s'", a.argv[a.rest]);
		words[n++] = a.argv[a.rest];
		a.argv += a.rest;
		a.argc -= a.rest;
		a.begun = false;
	}
}

/* The request's arguments out of the words after NAME. Return: 0, or -EINVAL with a sentence */
static int rule_request(char *const *words, int n, struct json_object *args, struct err *e)
{
	size_t act = n ? act_find(words[0]) : N_ACTS;
	uint64_t at;
	int rc;

	if (act == N_ACTS)
		return err_set(e, -EINVAL, "%s%.60s%s: list, add RULE, insert N RULE, delete N, or clear?",
			       n ? "'" : "what is to be done", n ? words[0] : "", n ? "' cannot be done to rules" : "");
	if (n - 1 != acts[act].words)
		return err_set(e, -EINVAL, "'%s' takes %s: %s; a rule is one word", acts[act].name,
			       !acts[act].words ? "nothing behind it" : acts[act].words == 1 ? "one word" : "two words",
			       acts[act].usage);
	switch (act) {
	case 1:
		json_object_object_add(args, "add", json_object_new_string(words[1]));
		break;
	case 2:
	case 3:
		rc = cli_number(acts[act].name, words[1], "the list's numbering", 1, RULES_MAX, &at, e);
		if (rc)
			return rc;
		json_object_object_add(args, acts[act].name, json_object_new_uint64(at));
		if (act == 2)
			json_object_object_add(args, "rule", json_object_new_string(words[2]));
		break;
	case 4:
		json_object_object_add(args, "clear", json_object_new_boolean(true));
		break;
	}
	return 0;
}

/* What a terminal would obey is replaced; see status_text.c. */
static void rule_print(struct json_object *o)
{
	struct json_object *list;
	size_t n;

	if (!json_object_object_get_ex(o, "rules", &list) || !json_object_is_type(list, json_type_array))
		return;
	n = json_object_array_length(list);
	for (size_t i = 0; i < n; i++) {
		const char *s = json_object_get_string(json_object_array_get_idx(list, i));

		printf("%2zu  ", i + 1);
		for (; s && *s; s++)
			putchar((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s);
		putchar('\n');
	}
	if (!n)
		printf("no rules: everything is compared\n");
}

static int rule_fn(int argc, char **argv)
{
	struct vm_client c = { .fd = -1 };
	struct json_object *o = NULL, *args = json_object_new_object();
	char *words[RULE_WORDS] = { NULL };
	struct err e = { 0 };
	struct vm_args a;
	int named, rc, n = rule_words(argc, argv, &a, words, &e);

	if (n == CLI_HELP) {
		json_object_put(args);
		cli_help(&cmd_rule, stdout);
		return CLI_OK;
	}
	/* A VM may have the name of an action: then the next word is one, too. */
	named = n > 0 && (act_find(words[0]) == N_ACTS || (n > 1 && act_find(words[1]) < N_ACTS));
	a.name = named ? words[0] : NULL;
	rc = n < 0 ? n : rule_request(words + named, n - named, args, &e);
	if (!rc && a.name)
		rc = rundir_name_check(a.name, &e);
	if (rc) {
		json_object_put(args);
		return cli_fail(&cmd_rule, CLI_USAGE, &e);
	}
	rc = client_open(&c, a.run_dir, a.name, &e);
	if (rc)
		json_object_put(args);
	else
		rc = client_call(&c, "__lockstep_rules", args, CLIENT_TIMEOUT, &o, &e);
	if (!rc && a.json)
		vm_print_json(o);
	else if (!rc)
		rule_print(o);
	json_object_put(o);
	return vm_end(&cmd_rule, &c, rc, &e);
}

const struct cli_cmd cmd_rule = {
	.name = "rule",
	.args = "[NAME] list | add RULE | insert N RULE | delete N | clear",
	.summary = "show or change which flows are compared, let through, or held",
	.more = "RULE is ACTION[,KEY=VALUE]..., one word: compare, bypass or hold, with the keys proto, port,\n"
		"guest-port, client-port, guest, client, nic and family; see lockstep-rule(1). The first rule that\n"
		"fits decides. To be given on the primary's host; the secondary follows.\n",
	.opts = opts,
	.fn = rule_fn,
};
