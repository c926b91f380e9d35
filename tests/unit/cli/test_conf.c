/* SPDX-License-Identifier: BSD-2-Clause */
/* The configuration file: what each line means, which sentence a wrong one gets, and that no garbage does harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/conf.h"
#include "cli/run_args.h"
#include "node.h"

/* cmd_run.c wants it; it is not called here. */
int node_run(const struct run_opts *o, struct err *e)
{
	return err_set(e, -1, "not called");
}

static struct conf *parse(const char *text, struct err *e)
{
	return conf_parse("web.conf", text, strlen(text), e);
}

static void options(void **state)
{
	static const char text[] = "# comment\n\n \t\npeer 192.0.2.2:9998\npeer = [2001:db8::2]:9998\r\n  insecure  \n"
		"fence-command = \"/bin/fence  #1 \\\"x\\\"\"   # why\nrule=bypass,proto=udp\nspill-dir /a b # c\n"
		"disk-dir=''\nname='web'";
	static const struct {
		const char *name, *value;
		unsigned int line;
	} want[] = {
		{ "peer", "192.0.2.2:9998", 4 }, { "peer", "[2001:db8::2]:9998", 5 }, { "insecure", NULL, 6 },
		{ "fence-command", "/bin/fence  #1 \"x\"", 7 }, { "rule", "bypass,proto=udp", 8 },
		{ "spill-dir", "/a b # c", 9 }, { "disk-dir", "", 10 }, { "name", "web", 11 },
	};
	struct err e = { 0 };
	struct conf *c = parse(text, &e);

	assert_non_null(c);
	assert_int_equal(c->n_opts, sizeof(want) / sizeof(*want));
	assert_null(c->qemu);
	for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
		assert_string_equal(c->opt[i].name, want[i].name);
		assert_int_equal(c->opt[i].line, want[i].line);
		if (want[i].value)
			assert_string_equal(c->opt[i].value, want[i].value);
		else
			assert_null(c->opt[i].value);
	}
	conf_free(c);
	c = parse("", &e);
	assert_non_null(c);
	conf_free(c);
}

static void command(void **state)
{
	static const char text[] = "name web\n[qemu]  \nqemu-system-x86_64 -m 512 \\\n  # a comment\n"
		"-append \"a 'b' \\\"c\\\" \\d $x\" 'it''s' a\\ b x#y # z\n\n-name '' \"\" [qemu] peer=1\\\n";
	static const char *const want[] = {
		"qemu-system-x86_64", "-m", "512", "-append", "a 'b' \"c\" \\d $x", "its", "a b", "x#y", "-name", "", "",
		"[qemu]", "peer=1", NULL,
	};
	struct err e = { 0 };
	struct conf *c = parse(text, &e);
	int n = 0;

	assert_non_null(c);
	for (; want[n]; n++)
		assert_string_equal(c->qemu[n], want[n]);
	assert_int_equal(c->n_qemu, n);
	assert_null(c->qemu[n]);
	conf_free(c);
}

static void refused(void **state)
{
	static const struct {
		const char *text, *say;
	} rows[] = {
		{ "--peer 1", "web.conf:1: an option is written without the dashes" },
		{ "\n\n[qemus]\n", "web.conf:3: there is no such section" },
		{ "!x", "web.conf:1: this is neither" },
		{ "peer: 1", "web.conf:1: an option's name" },
		{ "peer =  \n", "web.conf:1: there is no value behind the =" },
		{ "a 'x", "web.conf:1: a quotation (') does not end" },
		{ "a \"x\" y", "web.conf:1: something stands behind the quotation" },
		{ "[qemu]\nq \"x\n\"", "web.conf:2: a quotation (\") does not end" },
		{ "[qemu]\nq \"x\\", "web.conf:2: a quotation (\") does not end" },
		{ "[qemu]\n# nothing\n", "web.conf: there is no command" },
	};
	struct err e;

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		e = (struct err){ 0 };
		assert_null(parse(rows[i].text, &e));
		if (!strstr(e.msg, rows[i].say)) {
			print_error("'%s' says '%s'\n", rows[i].text, e.msg);
			fail();
		}
	}
	assert_null(conf_parse("web.conf", "a\0b", 3, &e));
	assert_non_null(strstr(e.msg, "web.conf:1: there is a NUL byte"));
	assert_null(conf_read("/nonexistent/web.conf", &e));
	assert_non_null(strstr(e.msg, "/nonexistent/web.conf: No such file"));
	assert_null(conf_read("/", &e));
	assert_non_null(strstr(e.msg, "is a directory"));
	assert_null(conf_read("/dev/zero", &e));
	assert_non_null(strstr(e.msg, "at most 256 KiB"));
}

static void limits(void **state)
{
	size_t n = 0, cap = CONF_MAX_BYTES + 1;
	char *text = malloc(cap);
	struct err e = { 0 };
	struct conf *c;

	assert_non_null(text);
	for (int i = 0; i < CONF_MAX_OPTS; i++)
		n += (size_t)snprintf(text + n, cap - n, "a %d\n", i);
	c = conf_parse("f", text, n, &e);
	assert_non_null(c);
	conf_free(c);
	n += (size_t)snprintf(text + n, cap - n, "a\n");
	assert_null(conf_parse("f", text, n, &e));
	assert_non_null(strstr(e.msg, "f:257: more than 256 options"));
	n = (size_t)snprintf(text, cap, "[qemu]\n");
	for (int i = 0; i < CONF_MAX_WORDS; i++)
		n += (size_t)snprintf(text + n, cap - n, "a ");
	c = conf_parse("f", text, n, &e);
	assert_non_null(c);
	conf_free(c);
	n += (size_t)snprintf(text + n, cap - n, "b");
	assert_null(conf_parse("f", text, n, &e));
	assert_non_null(strstr(e.msg, "more than 4096 words"));
	memset(text, '\n', cap);
	assert_null(conf_parse("f", text, cap, &e));
	c = conf_parse("f", text, CONF_MAX_BYTES, &e);
	assert_non_null(c);
	conf_free(c);
	free(text);
}

/* Any bytes, mostly of those that mean something: a sentence or a result. The seed is printed, and CONF_SEED repeats it. */
static void garbage(void **state)
{
	static const char alphabet[] = "aab-=  \t\n\n\r#'\"\\[]qemu$.,\x01\xff";
	const char *again = getenv("CONF_SEED");
	unsigned int seed = again ? (unsigned int)strtoul(again, NULL, 10) : (unsigned int)time(NULL) ^ (unsigned int)getpid();
	char *text;

	print_message("CONF_SEED=%u\n", seed);
	for (int i = 0; i < 200000; i++) {
		size_t n = (size_t)rand_r(&seed) % 64, words = 0;
		struct err e = { 0 };
		struct conf *c;

		/* Of exactly this size, so that a byte too far is seen. */
		text = malloc(n + 1);
		assert_non_null(text);
		for (size_t k = 0; k < n; k++)
			text[k] = alphabet[(size_t)rand_r(&seed) % (sizeof(alphabet) - 1)];
		if (n > 7 && !(rand_r(&seed) % 2))
			memcpy(text, "[qemu]\n", 7);
		c = conf_parse("f", text, n, &e);
		free(text);
		if (!c) {
			assert_int_equal(strncmp(e.msg, "f:", 2), 0);
			continue;
		}
		for (unsigned int k = 0; k < c->n_opts; k++)
			words += strlen(c->opt[k].name) + (c->opt[k].value ? strlen(c->opt[k].value) : 0);
		for (int k = 0; k < c->n_qemu; k++)
			words += strlen(c->qemu[k]);
		assert_true(words <= n);
		conf_free(c);
	}
}

static char path[] = "/tmp/lockstep-conf-XXXXXX.conf";

static int run(const char *file, const char *more, struct run_opts *o, struct err *e)
{
	char *argv[32] = { "run", "--config", path }, words[500], *save = NULL;
	static char keep[500];
	int argc = 3;
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	fputs(file, f);
	fclose(f);
	snprintf(words, sizeof(words), "%s", more);
	memcpy(keep, words, sizeof(keep));
	for (char *w = strtok_r(keep, " ", &save); w; w = strtok_r(NULL, " ", &save))
		argv[argc++] = w;
	*e = (struct err){ 0 };
	return run_args_parse(argc, argv, o, e);
}

#define FILE_TEXT "name web\nlisten = 127.0.0.1:9998\nspill-dir /tmp\nrule = bypass\nheartbeat 20\nno-hybrid\ncompress = no\n" \
	"run-dir /tmp/lockstep-none\n[qemu]\nqemu-system-x86_64\n-m 512\n"

static void as_options(void **state)
{
	static const struct {
		const char *text, *more, *say;
	} rows[] = {
		{ "nmae web\n", "", ".conf:1: there is no option 'nmae'" },
		{ "name web\n\nconfig x\n", "", ":3: one configuration file cannot name another" },
		{ "heartbeat\n", "", ":1: the option heartbeat needs a value" },
		{ "primary = maybe\n", "", ":1: the option primary takes no value but yes or no" },
		{ "name web\ndiscard-disks\n", "", ":2: discard-disks decides once" },
		{ "discard-disks = yes\n", "", ":1: discard-disks decides once" },
		{ "name web\nforce-primary\n", "", ":2: force-primary decides once" },
		{ "discard-disks = no\n", "", "there is no [qemu] in" },
		{ "heartbeat = x\n", "", ":1: --heartbeat: 'x' is not a whole number" },
		{ "name web\nlisten 127.0.0.1:9\nspill-dir /tmp\n", "", "there is no [qemu] in" },
		{ FILE_TEXT, "--config /dev/null", "--config was given twice" },
		{ FILE_TEXT, "stray", "unexpected word 'stray'" },
	};
	struct run_opts *o = malloc(sizeof(*o));
	struct err e = { 0 };
	int fd = mkstemps(path, 5);

	assert_non_null(o);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(run(FILE_TEXT, "", o, &e), 0);
	assert_string_equal(o->name, "web");
	assert_int_equal(o->heartbeat, 20 * NS_PER_MS);
	assert_true(o->no_hybrid && !o->compress);
	assert_int_equal(o->n_rules, 1);
	assert_string_equal(o->rules[0], "bypass");
	assert_int_equal(o->qemu_argc, 3);
	assert_string_equal(o->qemu_argv[2], "512");
	run_args_free(o);
	/* What the command line has wins, all of it: not one more rule, but another one. */
	assert_int_equal(run(FILE_TEXT, "--heartbeat 30 --name db --rule hold -- qemu-system-i386", o, &e), 0);
	assert_string_equal(o->name, "db");
	assert_int_equal(o->heartbeat, 30 * NS_PER_MS);
	assert_int_equal(o->n_rules, 1);
	assert_string_equal(o->rules[0], "hold");
	assert_int_equal(o->qemu_argc, 1);
	assert_string_equal(o->qemu_argv[0], "qemu-system-i386");
	run_args_free(o);
	/* Without a name in it the file's own is the VM's. */
	assert_int_equal(run(strchr(FILE_TEXT, '\n') + 1, "", o, &e), 0);
	assert_memory_equal(o->name, "lockstep-conf-", 14);
	assert_null(strstr(o->name, ".conf"));
	run_args_free(o);
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		assert_int_not_equal(run(rows[i].text, rows[i].more, o, &e), 0);
		run_args_free(o);
		if (!strstr(e.msg, rows[i].say)) {
			print_error("'%s' says '%s'\n", rows[i].text, e.msg);
			fail();
		}
	}
	unlink(path);
	free(o);
}

/* The example that is shipped is understood. */
static void example(void **state)
{
	const char *file = getenv("LOCKSTEP_EXAMPLE");
	struct err e = { 0 };
	struct conf *c;

	if (!file)
		skip();
	c = conf_read(file, &e);
	if (!c)
		print_error("%s\n", e.msg);
	assert_non_null(c);
	assert_true(c->n_opts > 3 && c->n_qemu > 5);
	assert_string_equal(c->qemu[0], "qemu-system-x86_64");
	conf_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options), cmocka_unit_test(command), cmocka_unit_test(refused), cmocka_unit_test(limits),
		cmocka_unit_test(garbage), cmocka_unit_test(as_options), cmocka_unit_test(example),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
