/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line of `lockstep run`: what each is taken for, and which sentence each wrong one gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/run_args.h"
#include "cli/run_paths.h"
#include "node.h"

/* cmd_run.c wants it; it is not called here. */
int node_run(const struct run_opts *o, struct err *e)
{
	return err_set(e, -1, "not called");
}

#define S "--name web --listen 127.0.0.1:9998 "
#define P "--name web --peer 127.0.0.1:9998 --primary "
#define Q " -- qemu-system-x86_64 -m 512"

static const struct {
	const char *line, *say;
} refused[] = {
	/* the name */
	{ "--listen 127.0.0.1:9998" Q, "needs a name" },
	{ "--name a/b" Q, "--name: 'a/b' cannot be" },
	{ "--name= --listen 127.0.0.1:1" Q, "must not be empty" },
	{ "--name .web" Q, "cannot be a VM's name" },
	{ "--name 1234567890123456789012345678901234567890123456789012345678901234" Q, "has 64 characters" },
	{ "--name --listen 127.0.0.1:9998" Q, "--listen looks like an option" },
	{ "--name", "option --name needs a value" },
	{ "--name --" Q, "option --name needs a value" },
	/* who is who */
	{ "--name web" Q, "where is the other node" },
	{ "--name web --primary" Q, "where is the other node" },
	{ S "--primary" Q, "--primary needs --peer" },
	{ S "--peer 127.0.0.1:9998" Q, "are the same address" },
	{ S "--listen 127.0.0.1:9998" Q, "--listen 127.0.0.1:9998 was given twice" },
	{ S "--listen 127.0.0.1" Q, "--listen 127.0.0.1 was given twice" },
	{ P "--peer 127.0.0.1:9998" Q, "--peer 127.0.0.1:9998 was given twice" },
	{ P "--peer 127.0.0.1:1 --listen 127.0.0.1:2" Q, "1 address of this node and 2 of the other one" },
	{ S "--peer 127.0.0.1:1 --peer 127.0.0.1:2" Q, "told apart by the order" },
	{ "--name web --listen :1 --peer 203.0.113.9 --insecure" Q, "--listen :1 stands for every address of this host" },
	{ "--name web --listen 192.0.2.1 --listen :1 --insecure" Q, "only the first path can have that" },
	{ S "--peer 203.0.113.9 --insecure" Q, "of this host only" },
	{ S "--listen [::1]:1 --peer [::1]:2 --peer 127.0.0.1" Q, "stands for 0 addresses that go with" },
	{ S "--listen 127.0.0.1:1 --listen 127.0.0.1:2 --listen 127.0.0.1:3 --listen 127.0.0.1:4" Q,
	  "--listen 127.0.0.1:4: there can be 4 paths" },
	{ P "--peer 127.0.0.1:1 --peer 127.0.0.1:2 --peer 127.0.0.1:3 --peer 127.0.0.1:4" Q, "there can be 4 paths" },
	{ S "--listen [::1]:1 --listen [::1]:2 --listen [::1]:3 --peer [::1]:4 --peer [::1]:5 --peer [::1]:6 --peer [::1]:7 "
	  "--peer [::1]:8" Q, "more than 8 addresses" },
	{ "--name web --listen 127.0.0.1 --listen 192.0.2.2" Q, "--listen 192.0.2.2: the link is not encrypted" },
	/* addresses */
	{ "--name web --insecure --listen 192.0.2.2:9998" Q, "say --no-witness" },
	{ S "--no-witness --witness disk:/x" Q, "there can be one only" },
	{ S "--witness nobody:x" Q, "--witness" },
	{ S "--state-dir=" Q, "--state-dir: the directory's name is empty" },
	{ "--name web --listen 192.0.2.2:9998" Q, "say --insecure" },
	{ "--name web --listen 0.0.0.0:9998" Q, "say --insecure" },
	{ "--name web --listen [2001:db8::1]:9998" Q, "say --insecure" },
	{ "--name web --listen [::]:9998" Q, "say --insecure" },
	{ "--name web --listen [::ffff:192.0.2.1]:9998" Q, "say --insecure" },
	{ "--name web --peer 203.0.113.9:9998 --primary" Q, "--peer 203.0.113.9:9998: the link is not encrypted" },
	{ S "--psk-file a --tls-dir b" Q, "exclude each other" },
	{ S "--psk-file a --psk-file b" Q, "--psk-file was given more than 1 times" },
	{ S "--psk-user joe" Q, "--psk-user goes with --psk-file" },
	{ S "--tls-dir=" Q, "--tls-dir: it is empty" },
	{ "--name web --insecure --peer 0.0.0.0:9998 --primary" Q, "not one to connect to" },
	{ "--name web --insecure --peer [::]:9998 --primary" Q, "not one to connect to" },
	{ "--name web --listen=" Q, "--listen: the address is empty" },
	{ "--name web --peer= --primary" Q, "--peer: the address is empty" },
	{ "--name web --insecure --primary --peer :9998" Q, "--peer: \":9998\" does not say which host" },
	{ "--name web --listen 127.0.0.1:" Q, "is not ADDRESS:PORT" },
	{ "--name web --listen 127.0.0.1:65536" Q, "no valid port" },
	{ "--name web --listen 127.0.0.1:99999999999999999999999" Q, "no valid port" },
	{ "--name web --primary --peer 127.0.0.1:0" Q, "no valid port" },
	{ "--name web --listen 127.0.0.1:http" Q, "is not ADDRESS:PORT" },
	{ "--name web --listen 127.0.0.1:80x" Q, "no valid port" },
	{ "--name web --listen ::1:9998" Q, "is written in brackets" },
	{ "--name web --listen [::1:9998" Q, "brackets" },
	{ "--name web --listen [::1]9998" Q, "" },
	{ "--name web --listen [127.0.0.1]:9998" Q, "cannot find the address" },
	/* numbers */
	{ S "--heartbeat 0" Q, "--heartbeat: '0' is not a whole number of milliseconds from 1" },
	{ S "--heartbeat 5x" Q, "'5x'" },
	{ S "--heartbeat -5" Q, "'-5'" },
	{ S "--heartbeat +5" Q, "'+5'" },
	{ S "--heartbeat=" Q, "''" },
	{ S "--timeout 1e3" Q, "'1e3'" },
	{ S "--timeout 4294967296" Q, "from 1 to 4294967295" },
	{ S "--timeout 18446744073709551617" Q, "from 1 to 4294967295" },
	{ S "--timeout 149" Q, "it must be at least 150" },
	{ S "--heartbeat 200" Q, "it must be at least 600" },
	{ S "--checkpoint-delay 0" Q, "--checkpoint-delay" },
	{ S "--compare-timeout x" Q, "--compare-timeout: 'x' is not a whole number of milliseconds from 1 to 3600000" },
	{ S "--compare-timeout 0" Q, "--compare-timeout: '0' is not" },
	{ S "--compare-timeout 3600001" Q, "from 1 to 3600000" },
	{ S "--compare-timeout 18446744073709551617" Q, "from 1 to 3600000" },
	{ S "--expired-scan-cycle 0" Q, "--expired-scan-cycle: '0'" },
	{ S "--expired_scan_cycle 4000000" Q, "--expired-scan-cycle: '4000000' is not" },
	{ S "--max-queue-size 0" Q, "--max-queue-size: '0' is not a whole number of packets from 1 to 16384" },
	{ S "--max_queue_size 16385" Q, "from 1 to 16384" },
	{ S "--max-queue-size 1k" Q, "'1k'" },
	{ S "--rule=" Q, "--rule: it is empty" },
	{ S "--rule" Q, "option --rule needs a value" },
	{ S "--nic=" Q, "--nic: it is empty" },
	{ S "--nic 1 --nic 2 --nic 3 --nic 4 --nic 5 --nic 6 --nic 7 --nic 8 --nic 9" Q,
	  "--nic was given more than 8 times" },
	{ S "--no-hybrid=yes" Q, "option --no-hybrid takes no value" },
	{ S "--qemu-timeout 99" Q, "from 100 to" },
	/* directories and log */
	{ S "--spill-dir /nonexistent" Q, "--spill-dir /nonexistent: No such file" },
	{ S "--spill-dir /etc/passwd" Q, "is not a directory" },
	{ S "--run-dir=" Q, "is empty" },
	{ S "--run-dir /0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
	  Q, "use a shorter --run-dir" },
	{ S "--log-level loud" Q, "'loud' is none of" },
	/* options and QEMU's command */
	{ S "--frobnicate" Q, "unknown option --frobnicate; options of QEMU come after the --" },
	{ S "--frobnicate=7" Q, "unknown option --frobnicate;" },
	{ S "--check 5" Q, "unknown option --check;" },
	{ S "--insec" Q, "unknown option --insec;" },
	{ S "--primary=yes" Q, "option --primary takes no value" },
	{ S "-m 512" Q, "unknown option -m; options of QEMU come after" },
	{ S "-netdev tap" Q, "unknown option -n" },
	{ S "qemu-system-x86_64 -m 512",
		"unexpected word 'qemu-system-x86_64': the QEMU command comes after --, e.g." },
	{ S "web -- qemu-system-x86_64", "unexpected word 'web'" },
	{ S "", "the QEMU command is missing: it comes after --, e.g." },
	{ S "--", "the QEMU command is missing after the --" },
	{ S "-- -m 512", "must begin with the program, not with '-m'" },
	{ S "-- -- qemu", "must begin with the program, not with '--'" },
};

static char copy[1000], *argv_of[64];

/* Words of @line, "run" first. */
static int split(const char *line)
{
	int n = 0;

	snprintf(copy, sizeof(copy), "run %s", line);
	for (char *p = strtok(copy, " "); p; p = strtok(NULL, " "))
		argv_of[n++] = p;
	argv_of[n] = NULL;
	return n;
}

static int parse(const char *line, struct run_opts *o, struct err *e)
{
	int n = split(line);

	memset(e, 0, sizeof(*e));
	return run_args_parse(n, argv_of, o, e);
}

static void sentences(void **state)
{
	static struct run_opts o;
	struct err e;

	for (size_t i = 0; i < sizeof(refused) / sizeof(*refused); i++) {
		int rc = parse(refused[i].line, &o, &e);

		if (rc >= 0 || !strstr(e.msg, refused[i].say) || strlen(e.msg) > 400) {
			print_error("run %s\n  gives %d: %s\n  want: %s\n", refused[i].line, rc, e.msg, refused[i].say);
			fail();
		}
	}
}

static void defaults(void **state)
{
	static struct run_opts o;
	struct err e;

	assert_int_equal(parse(S Q, &o, &e), 0);
	assert_string_equal(o.name, "web");
	assert_int_equal(o.role, RUN_SECONDARY);
	assert_string_equal(o.listen.text, "127.0.0.1:9998");
	assert_int_equal(o.listen.n, 1);
	assert_int_equal(o.listen.addr[0].ss.ss_family, AF_INET);
	assert_int_equal(ntohs(((struct sockaddr_in *)&o.listen.addr[0].ss)->sin_port), 9998);
	assert_int_equal(o.listen.addr[0].len, sizeof(struct sockaddr_in));
	assert_true(o.listen.loopback);
	assert_int_equal(o.peer.n, 0);
	assert_false(o.insecure);
	assert_true(o.heartbeat == 50 * NS_PER_MS);
	assert_true(o.timeout == 500 * NS_PER_MS);
	assert_true(o.checkpoint_delay == 20 * NS_PER_S);
	assert_true(o.compare_timeout == 3 * NS_PER_S);
	assert_true(o.expired_scan_cycle == 50 * NS_PER_MS);
	assert_int_equal(o.max_queue_size, 1024);
	assert_int_equal(o.n_nics, 0);
	assert_int_equal(o.n_rules, 0);
	assert_false(o.no_hybrid);
	assert_true(o.qemu_timeout == 3 * NS_PER_S);
	assert_string_equal(o.run_dir, "/tmp/lockstep-run");
	assert_string_equal(o.spill_dir, "/var/tmp");
	assert_int_equal(o.log_level, LOG_INFO);
	assert_int_equal(o.qemu_argc, 3);
	assert_string_equal(o.qemu_argv[0], "qemu-system-x86_64");
	assert_string_equal(o.qemu_argv[2], "512");
	assert_null(o.qemu_argv[3]);
}

static void everything(void **state)
{
	static struct run_opts o;
	struct err e;

	assert_int_equal(parse("--name=w-1 --peer=[2001:db8::2]:7 --primary --insecure --no-witness --strict-death --state-dir /s --heartbeat 10 --timeout=30 "
			       "--checkpoint-delay 2000 --compare-timeout 3600000 --qemu-timeout 100 --run-dir /x "
			       "--expired-scan-cycle=20 --max-queue-size 16384 --no-hybrid --nic n0,max_queue_size=5 "
			       "--rule bypass,proto=udp --rule=hold,port=1 "
			       "--spill-dir /tmp --log-level trace -- /usr/bin/qemu --name other -- --peer", &o, &e),
				0);
	assert_string_equal(o.name, "w-1");
	assert_int_equal(o.role, RUN_PRIMARY);
	assert_string_equal(o.peer.text, "[2001:db8::2]:7");
	assert_int_equal(o.peer.addr[0].ss.ss_family, AF_INET6);
	assert_false(o.peer.loopback);
	assert_true(o.insecure);
	assert_true(o.strict_death);
	assert_int_equal(o.witness.kind, WITNESS_NONE);
	assert_string_equal(o.state_dir, "/s");
	assert_true(o.heartbeat == 10 * NS_PER_MS);
	assert_true(o.timeout == 30 * NS_PER_MS);
	assert_true(o.checkpoint_delay == 2 * NS_PER_S);
	assert_true(o.compare_timeout == 3600 * NS_PER_S);
	assert_true(o.expired_scan_cycle == 20 * NS_PER_MS);
	assert_int_equal(o.max_queue_size, 16384);
	assert_true(o.no_hybrid);
	assert_int_equal(o.n_nics, 1);
	assert_string_equal(o.nics[0], "n0,max_queue_size=5");
	assert_int_equal(o.n_rules, 2);
	assert_string_equal(o.rules[0], "bypass,proto=udp");
	assert_string_equal(o.rules[1], "hold,port=1");
	assert_true(o.qemu_timeout == 100 * NS_PER_MS);
	assert_string_equal(o.run_dir, "/x");
	assert_string_equal(o.spill_dir, "/tmp");
	assert_int_equal(o.log_level, LOG_TRACE);
	/* What is QEMU's is left alone, whatever it looks like. */
	assert_int_equal(o.qemu_argc, 5);
	assert_string_equal(o.qemu_argv[1], "--name");
	assert_string_equal(o.qemu_argv[3], "--");
}

static void aliases_and_last_wins(void **state)
{
	static struct run_opts o;
	struct err e;

	assert_int_equal(parse(S "--x-checkpoint-delay 7 --compare_timeout 8" Q, &o, &e), 0);
	assert_true(o.checkpoint_delay == 7 * NS_PER_MS);
	assert_true(o.compare_timeout == 8 * NS_PER_MS);
	assert_int_equal(parse(S "--expired_scan_cycle 7 --max_queue_size 8" Q, &o, &e), 0);
	assert_true(o.expired_scan_cycle == 7 * NS_PER_MS);
	assert_int_equal(o.max_queue_size, 8);
	assert_int_equal(parse(S "--checkpoint-delay 7 --x-checkpoint-delay 9" Q, &o, &e), 0);
	assert_true(o.checkpoint_delay == 9 * NS_PER_MS);
	/* The one who was parsed before leaves nothing behind. */
	assert_int_equal(parse(S Q, &o, &e), 0);
	assert_true(o.checkpoint_delay == 20 * NS_PER_S);
}

static void loopback_needs_nothing(void **state)
{
	static const char *const hosts[] = { "127.0.0.1", "127.255.0.9", "[::1]", "[::ffff:127.0.0.1]" };
	static struct run_opts o;
	char line[200];
	struct err e;

	for (size_t i = 0; i < sizeof(hosts) / sizeof(*hosts); i++) {
		snprintf(line, sizeof(line), "--name web --listen %s:1%s", hosts[i], Q);
		assert_int_equal(parse(line, &o, &e), 0);
		snprintf(line, sizeof(line), "--name web --peer %s:65535 --primary%s", hosts[i], Q);
		assert_int_equal(parse(line, &o, &e), 0);
	}
	/* Everywhere, in two spellings. */
	assert_int_equal(parse("--name web --listen :9998" Q, &o, &e), -22);
	assert_non_null(strstr(e.msg, "say --insecure"));
	assert_int_equal(parse("--name web --insecure --no-witness --listen :9998" Q, &o, &e), 0);
	assert_false(o.listen.loopback);
	assert_int_equal(parse("--name web --insecure --no-witness --listen 0.0.0.0:9998" Q, &o, &e), 0);
	assert_false(o.listen.loopback);
}

/* The addresses of "this host": 203.0.113.1 to 203.0.113.9, and 2001:db8::1. */
static bool ours(const struct link_addr *a)
{
	char text[ADDR_TEXT];

	addr_text(a, text);
	return !strncmp(text, "203.0.113.", 10) ? strchr(text, ':') - text == 11 : !strncmp(text, "[2001:db8::1]", 13);
}

static int paths_of(const char *line, struct run_opts *o, struct err *e)
{
	struct run_opts *all = calloc(1, sizeof(*all));
	int rc;

	/* What run_args makes of them with this host's real addresses does not count. */
	parse(line, all, e);
	memset(e, 0, sizeof(*e));
	memset(o, 0, sizeof(*o));
	memcpy(o->given, all->given, sizeof(o->given));
	o->n_given = all->n_given;
	free(all);
	rc = run_paths(o, ours, e);
	if (rc)
		print_error("%s\n  %s\n", line, e->msg);
	return rc;
}

static void who_listens(void **state)
{
	static struct run_opts o, far;
	struct err e;

	/* One address for both: the node that has it listens. */
	assert_int_equal(paths_of("--name web --insecure --no-witness --peer 203.0.113.1" Q, &o, &e), 0);
	assert_int_equal(o.listen.n, 1);
	assert_int_equal(o.peer.n, 0);
	assert_int_equal(ntohs(((struct sockaddr_in *)&o.listen.addr[0].ss)->sin_port), 9998);
	assert_int_equal(paths_of("--name web --insecure --no-witness --peer 203.0.113.10" Q, &o, &e), 0);
	assert_int_equal(o.listen.n, 0);
	assert_int_equal(o.peer.n, 1);
	/* The very same words on both nodes: the smaller address listens, in whatever order they come. */
	assert_int_equal(paths_of("--name web --insecure --no-witness --peer 203.0.113.1 --peer 203.0.113.10 --peer 198.51.100.1 --peer "
				  "203.0.113.2" Q, &o, &e), 0);
	assert_int_equal(o.n_paths, 2);
	assert_int_equal(o.listen.n, 1);
	assert_int_equal(o.peer.n, 0);
	assert_string_equal(o.listen.text, "203.0.113.1");
	assert_string_equal(o.paths[0].other.text, "203.0.113.10");
	assert_string_equal(o.paths[1].own.text, "203.0.113.2");
	assert_string_equal(o.paths[1].other.text, "198.51.100.1");
	assert_int_equal(paths_of("--name web --insecure --no-witness --peer 203.0.113.10 --listen 203.0.113.9" Q, &o, &e), 0);
	assert_int_equal(o.listen.n, 1);
	assert_int_equal(paths_of("--name web --insecure --no-witness --peer 198.51.100.1 --listen 203.0.113.9" Q, &o, &e), 0);
	assert_int_equal(o.listen.n, 0);
	assert_string_equal(o.peer.text, "198.51.100.1");
	/* Where only the ports differ, the smaller port; IPv4 before IPv6. One says what the other one does not. */
	assert_int_equal(paths_of("--name web --listen 127.0.0.1:1 --peer 127.0.0.1:2" Q, &o, &e), 0);
	assert_int_equal(paths_of("--name web --listen 127.0.0.1:2 --peer 127.0.0.1:1" Q, &far, &e), 0);
	assert_int_equal(o.listen.n, 1);
	assert_int_equal(far.listen.n, 0);
	assert_int_equal(far.peer.n, 1);
	assert_int_equal(paths_of("--name web --insecure --no-witness --peer [2001:db8::1]:5 --peer [2001:db8::2]" Q, &o, &e), 0);
	assert_int_equal(o.listen.n, 1);
	assert_int_equal(ntohs(((struct sockaddr_in6 *)&o.paths[0].other.addr[0].ss)->sin6_port), 9998);
	/* Four paths of the same words are eight addresses. */
	assert_int_equal(paths_of("--name web --insecure --no-witness --peer 203.0.113.1 --peer 203.0.113.11 --peer 203.0.113.2 --peer "
				  "203.0.113.12 --peer 203.0.113.3 --peer 203.0.113.13 --peer 203.0.113.4 --peer 203.0.113.14"
				  Q, &o, &e), 0);
	assert_int_equal(o.n_paths, 4);
	assert_string_equal(o.paths[3].own.text, "203.0.113.4");
	/* The VM may begin on the one that listens, if it knows where to ask. */
	assert_int_equal(parse("--name web --primary --listen 127.0.0.1:1 --peer 127.0.0.1:2" Q, &o, &e), 0);
	assert_int_equal(o.role, RUN_PRIMARY);
	assert_int_equal(o.listen.n, 1);
}

static void help(void **state)
{
	static struct run_opts o;
	struct err e;

	assert_int_equal(parse("--help", &o, &e), RUN_HELP);
	assert_int_equal(parse("-h", &o, &e), RUN_HELP);
	assert_int_equal(parse(S "--help" Q, &o, &e), RUN_HELP);
	assert_int_equal(parse(S "-- --help", &o, &e), -22);
}

/* An option beyond what the parser looks at would be unknown, though the help names it. */
static void the_table_has_room(void **state)
{
	size_t n = 0;

	while (run_opts_table[n].name)
		n++;
	assert_in_range(n, 1, CLI_MAX_OPTS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sentences), cmocka_unit_test(defaults), cmocka_unit_test(everything),
		cmocka_unit_test(aliases_and_last_wins), cmocka_unit_test(loopback_needs_nothing),
		cmocka_unit_test(who_listens), cmocka_unit_test(help), cmocka_unit_test(the_table_has_room),
	};

	setenv("LOCKSTEP_RUN_DIR", "/tmp/lockstep-run", 1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
