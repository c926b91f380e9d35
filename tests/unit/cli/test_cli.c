/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The command line as people use it: cli_main() in this process, its output in files, against a control socket that
 * a child serves for a made-up VM. Also: what the manual pages say exists, and what exists is in them (argv[1]: the
 * directory of the pages).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/loop.h"
#include "base/pcapng.h"
#include "cli/cli.h"
#include "monitor/monitor.h"
#include "monitor/status.h"
#include "node.h"
#include "proxy/capture.h"

static const char *man_dir;
static char dir[64], out[100000], err[20000];
static struct run_opts run_got;
static int run_rc;

int node_run(const struct run_opts *o, struct err *e)
{
	run_got = *o;
	return run_rc < 0 ? err_set(e, run_rc, "the node said no") : run_rc;
}

/* The made-up VM. A checkpoint is answered later, failover is refused, quit ends the child. */
static struct loop *vm_loop;
static struct monitor *vm;
static struct loop_timer vm_timer;
static uint64_t vm_token;
static nstime vm_delay = 20 * NS_PER_S;
static struct capture *vm_capture;
static struct loop_timer vm_frame;
static struct net_nic_cfg vm_all;
static struct monitor_nic vm_nic;

static struct json_object *vm_status(void *arg)
{
	struct status s = { .now = 100 * NS_PER_S, .name = "web", .role = FT_PRIMARY, .state = FT_PROTECTED,
			    .state_at = 90 * NS_PER_S, .phase = "idle", .version = "0", .pid = getpid(),
			    .checkpoint_delay = vm_delay, .warnings = { "beware" } };

	monitor_stats_get(vm, &s.monitor);
	return status_json(&s);
}

static void vm_later(struct loop_timer *t)
{
	struct ckpt_times c = { .n = 7, .cause = CAUSE_COMMAND, .pause = 3 * NS_PER_MS, .pages = 99 };

	if (vm_token)
		monitor_reply(vm, vm_token, status_ckpt_json(&c, 4096), NULL);
	else
		loop_stop(vm_loop);
}

/* While somebody captures, a frame every millisecond. */
static void vm_next_frame(struct loop_timer *t)
{
	static uint8_t frame[100];

	capture_frame(vm_capture, CAPTURE_CLIENT, 0, frame, sizeof(frame));
	capture_frame(vm_capture, CAPTURE_PVM, 0, frame, sizeof(frame));
	loop_timer_set(vm_loop, t, clock_ns() + NS_PER_MS);
}

/* What arrived, as the only rule there is. */
static struct json_object *vm_rules(const struct monitor_cmd *cmd)
{
	struct json_object *o = json_object_new_object(), *list = json_object_new_array();
	char text[RULE_TEXT_MAX + 100];

	if (cmd->rule.op == MONITOR_RULE_LIST)
		snprintf(text, sizeof(text), "vm=%llu/%llu/%u nic=%s %llu/%llu/%u\x1b",
			 vm_all.compare_timeout / NS_PER_MS, vm_all.expired_scan_cycle / NS_PER_MS,
			 vm_all.max_queue_size, vm_nic.nic, vm_nic.cfg.compare_timeout / NS_PER_MS,
			 vm_nic.cfg.expired_scan_cycle / NS_PER_MS, vm_nic.cfg.max_queue_size);
	else
		snprintf(text, sizeof(text), "op=%d at=%u text=%s", cmd->rule.op, cmd->rule.at, cmd->rule.text);
	if (cmd->rule.op != MONITOR_RULE_CLEAR)
		json_object_array_add(list, json_object_new_string(text));
	json_object_object_add(o, "rules", list);
	return o;
}

static int vm_command(void *arg, const struct monitor_cmd *cmd, struct json_object **result, struct err *e)
{
	switch (cmd->type) {
	case MONITOR_CHECKPOINT:
		vm_token = cmd->token;
		monitor_event(vm, "STATE", json_object_new_string("sync"));
		loop_timer_set(vm_loop, &vm_timer, clock_ns() + 20 * NS_PER_MS);
		return MONITOR_LATER;
	case MONITOR_SET:
		if (cmd->checkpoint_delay != NS_NEVER)
			vm_delay = cmd->checkpoint_delay;
		vm_all = cmd->all;
		vm_nic = cmd->n_nics ? cmd->nics[cmd->n_nics - 1] : (struct monitor_nic){ 0 };
		return 0;
	case MONITOR_RULES:
		*result = vm_rules(cmd);
		return 0;
	case MONITOR_QUIT:
		vm_token = 0;
		loop_timer_set(vm_loop, &vm_timer, clock_ns() + 20 * NS_PER_MS);
		return 0;
	case MONITOR_CAPTURE:
		loop_timer_set(vm_loop, &vm_frame, clock_ns());
		return capture_start(vm_capture, &cmd->capture, cmd->fd, e);
	default:
		return err_set(e, -EBUSY, "there is no secondary to hand over to");
	}
}

static pid_t vm_start(const char *name)
{
	static const struct monitor_ops ops = { vm_status, vm_command };
	int ready[2];
	struct err e;
	pid_t pid;
	char c;

	assert_int_equal(pipe(ready), 0);
	fflush(NULL);
	pid = fork();
	if (pid) {
		close(ready[1]);
		assert_int_equal(read(ready[0], &c, 1), 1);
		close(ready[0]);
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	close(ready[0]);
	vm_loop = loop_new("control", &e);
	vm_timer = (struct loop_timer){ .fn = vm_later };
	vm_frame = (struct loop_timer){ .fn = vm_next_frame };
	vm_capture = capture_new(vm_loop, 1, (const char *const[]){ "n0" });
	vm = monitor_new(vm_loop, dir, name, &ops, NULL, &e);
	if (!vm || write(ready[1], "", 1) != 1)
		_exit(1);
	loop_run(vm_loop);
	capture_free(vm_capture);
	monitor_free(vm);
	loop_free(vm_loop);
	_exit(0);
}

static void vm_kill(pid_t pid)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

static void slurp(const char *path, char *to, size_t cap)
{
	FILE *f = fopen(path, "r");
	size_t n;

	assert_non_null(f);
	n = fread(to, 1, cap - 1, f);
	to[n] = '\0';
	fclose(f);
}

/* Run a command line; fills out and err. Return: exit status */
static int cli(const char *line)
{
	char copy[1000], *argv[32], path[100];
	int argc = 0, saved[2], rc;

	snprintf(copy, sizeof(copy), "lockstep %s", line);
	for (char *p = strtok(copy, " "); p; p = strtok(NULL, " "))
		argv[argc++] = p;
	argv[argc] = NULL;
	fflush(NULL);
	for (int i = 0; i < 2; i++) {
		int fd;

		snprintf(path, sizeof(path), "%s/.%d.%d", dir, i, getpid());
		fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
		saved[i] = dup(i + 1);
		dup2(fd, i + 1);
		close(fd);
	}
	rc = cli_main(argc, argv);
	fflush(NULL);
	for (int i = 0; i < 2; i++) {
		dup2(saved[i], i + 1);
		close(saved[i]);
	}
	snprintf(path, sizeof(path), "%s/.0.%d", dir, getpid());
	slurp(path, out, sizeof(out));
	snprintf(path, sizeof(path), "%s/.1.%d", dir, getpid());
	slurp(path, err, sizeof(err));
	return rc;
}

static void expect(const char *line, int rc, const char *in_out, const char *in_err)
{
	int got = cli(line);

	if (got != rc || !strstr(out, in_out) || !strstr(err, in_err) || (!*in_err && *err) || (!*in_out && *out)) {
		print_error("lockstep %s\n  gives %d, want %d\nout: %s\nerr: %s\n", line, got, rc, out, err);
		fail();
	}
}

static int setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/lockstep-test-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	return setenv("LOCKSTEP_RUN_DIR", dir, 1);
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -r '%s'", dir);
	return system(cmd);
}

static void usage(void **state)
{
	expect("", 2, "", "usage: lockstep COMMAND");
	expect("help", 0, "checkpoint", "");
	expect("--help", 0, "usage: lockstep COMMAND", "");
	expect("-h", 0, "usage: lockstep COMMAND", "");
	expect("help status", 0, "usage: lockstep status [OPTION...] [NAME]", "");
	expect("help nonsense", 2, "", "there is no command 'nonsense'");
	expect("help run run", 2, "", "one command at a time");
	expect("nonsense", 2, "", "there is no command 'nonsense'");
	expect("--nonsense", 2, "", "unknown option --nonsense");
	expect("version", 0, "lockstep ", "");
	expect("--version", 0, "lockstep ", "");
	expect("version --json", 0, "{\"version\":\"", "");
	expect("version 7", 2, "", "unexpected argument '7'");
	expect("version --jason", 2, "",
		"lockstep version: unknown option --jason\n'lockstep help version' tells more");
	for (unsigned int i = 0; cli_nth(i); i++) {
		char line[64], want[64];

		snprintf(line, sizeof(line), "%s --help", cli_nth(i)->name);
		snprintf(want, sizeof(want), "usage: lockstep %s", strcmp(cli_nth(i)->name,
			"help") ? cli_nth(i)->name : "COM");
		expect(line, 0, want, "");
		snprintf(line, sizeof(line), "%s --wrong", cli_nth(i)->name);
		expect(line, 2, "", "unknown option --wrong");
	}
}

static void nobody_runs(void **state)
{
	static const char *const verbs[] = { "status", "checkpoint", "failover", "events", "quit" };
	char line[64];

	for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++) {
		expect(verbs[i], 3, "", "no VM runs here");
		snprintf(line, sizeof(line), "%s web", verbs[i]);
		expect(line, 3, "", "web does not run here");
		snprintf(line, sizeof(line), "%s a/b", verbs[i]);
		expect(line, 2, "", "cannot be a VM's name");
		snprintf(line, sizeof(line), "%s web more", verbs[i]);
		expect(line, 2, "", "unexpected argument 'more'");
	}
	expect("blackbox", 3, "", "no VM runs here");
	expect("blackbox web", 3, "", "web does not run here");
	expect("blackbox --now web", 3, "", "web does not run here");
	expect("blackbox /nonexistent/file", 3, "", "cannot open /nonexistent/file: No such file");
	expect("blackbox /dev/null", 2, "", "it is no regular file");
	expect("blackbox /proc/self/exe", 1, "", "/proc/self/exe: this is no blackbox of Lockstep");
	expect("blackbox --now /proc/self/exe", 2, "", "--now is for a node that runs");
	expect("blackbox --last 0 web", 2, "", "--last: '0' is not a whole number of steps");
	expect("blackbox .web", 2, "", "cannot be a VM's name");
	expect("capture -w /nonexistent/file", 3, "", "no VM runs here");
	expect("capture web -w /nonexistent/file", 3, "", "web does not run here");
	expect("set checkpoint-delay=5", 3, "", "no VM runs here");
	expect("status --run-dir /nonexistent", 3, "", "/nonexistent");
}

static void status(void **state)
{
	pid_t a = vm_start("web"), b;
	struct json_object *o;

	expect("status web", 0, "web: protected (primary, state protected for 10.0 s)\n", "");
	assert_non_null(strstr(out, "beware"));
	expect("status", 0, "web: protected (primary", "");
	expect("status --json web", 0, "\"protected\":true", "");
	expect("status web --json", 0, "\"protected\":true", "");
	assert_ptr_equal(strchr(out, '\n'), out + strlen(out) - 1);
	o = json_tokener_parse(out);
	assert_true(json_object_is_type(o, json_type_object));
	json_object_put(o);
	expect("status --short web", 0, "primary protected protected\n", "");
	expect("status -- web", 0, "web: protected (primary", "");
	expect("status other", 3, "", "other does not run here");
	assert_non_null(strstr(err, "there: web"));
	b = vm_start("web2");
	expect("status", 3, "", "2 VMs run here, say which one: ");
	expect("status web2", 0, "primary", "");
	vm_kill(b);
	/* The dead one's socket is still there and does not count. */
	expect("status", 0, "web: protected (primary", "");
	expect("status web2", 3, "", "web2 does not run here");
	vm_kill(a);
	expect("status", 3, "", "no VM runs here");
}

static void verbs(void **state)
{
	pid_t a = vm_start("web");
	int st;

	expect("checkpoint web", 0, "checkpoint 7 (command): pause 3.00 ms, 99 pages, 4.0 KiB", "");
	expect("checkpoint --json", 0, "{\"n\":7,\"cause\":\"command\",\"pause_ms\":3.000,", "");
	expect("checkpoint --wait 0", 2, "", "--wait: '0' is not a whole number of seconds from 1 to 3600");
	expect("checkpoint --wait", 2, "", "option --wait needs a value");
	expect("failover", 1, "", "lockstep failover: there is no secondary to hand over to");
	expect("set web checkpoint-delay=2000", 0, "", "");
	expect("status --json", 0, "\"delay_ms\":2000.000", "");
	expect("set x-checkpoint-delay=3000", 0, "", "");
	expect("status --json", 0, "\"delay_ms\":3000.000", "");
	expect("set web", 2, "", "nothing to set: write SETTING=VALUE");
	expect("set", 2, "", "nothing to set");
	expect("set web lag=3", 2, "", "'lag' is no setting");
	expect("set web checkpoint-delay", 2, "", "'checkpoint-delay' is not of the form SETTING=VALUE");
	expect("set web checkpoint-delay=", 2, "", "'' is not a whole number");
	expect("set web =5", 2, "", "'' is no setting");
	expect("set a/b checkpoint-delay=5", 2, "", "cannot be a VM's name");
	expect("set web checkpoint-delay=4294967296", 2, "", "from 1 to 4294967295");
	expect("set web compare-timeout=0", 2, "", "compare-timeout: '0' is not a whole number of milliseconds");
	expect("set web max_queue_size=16385", 2, "", "max_queue_size: '16385' is not a whole number of packets");
	expect("set web n0.compare-timeout=", 2, "", "n0.compare-timeout: ''");
	expect("set web .compare-timeout=5", 2, "", "is no setting");
	expect("set web n0.checkpoint-delay=5", 2, "", "'n0.checkpoint-delay' is no setting: there are");
	expect("set web compare-timeout=5 compare_timeout=6", 2, "", "compare-timeout is given twice");
	expect("set web compare-timeout=300 lan.1.expired_scan_cycle=20 lan.1.max-queue-size=7", 0, "", "");
	expect("rule list", 0, " 1  vm=300/0/0 nic=lan.1 0/20/7?\n", "");
	expect("set web n0.compare_timeout=3600000 expired-scan-cycle=1 max_queue_size=16384", 0, "", "");
	expect("rule web list", 0, " 1  vm=0/1/16384 nic=n0 3600000/0/0?\n", "");
	expect("quit", 0, "", "");
	assert_int_equal(waitpid(a, &st, 0), a);
	assert_int_equal(st, 0);
	expect("status web", 3, "", "does not run");
}

static void rules(void **state)
{
	pid_t a, b;

	expect("rule list", 3, "", "no VM runs here");
	a = vm_start("web");
	expect("rule add bypass,proto=udp", 0, " 1  op=1 at=4294967295 text=bypass,proto=udp\n", "");
	expect("rule web add hold", 0, "text=hold\n", "");
	expect("rule --json web add hold", 0, "{\"rules\":[\"op=1 at=4294967295 text=hold\"]}\n", "");
	expect("rule web add hold --json", 0, "{\"rules\":[\"op=1", "");
	expect("rule web --json insert 1 hold", 0, "op=1 at=0 text=hold", "");
	expect("rule insert 28 hold", 0, "op=1 at=27 text=hold", "");
	expect("rule web delete 2", 0, "op=2 at=1 ", "");
	expect("rule web clear", 0, "no rules: everything is compared\n", "");
	expect("rule clear --json", 0, "{\"rules\":[]}\n", "");
	expect("rule", 2, "", "what is to be done: list, add RULE, insert N RULE, delete N, or clear?");
	expect("rule web", 2, "", "what is to be done: list,");
	expect("rule web drop", 2, "", "'drop' cannot be done to rules: list,");
	expect("rule add", 2, "", "'add' takes one word: add RULE");
	expect("rule add bypass proto=udp", 2, "", "'add' takes one word: add RULE; a rule is one word");
	expect("rule insert hold", 2, "", "'insert' takes two words: insert N RULE");
	expect("rule insert 0 hold", 2, "", "insert: '0' is not a whole number of the list's numbering from 1 to 28");
	expect("rule delete", 2, "", "'delete' takes one word: delete N");
	expect("rule delete -1", 2, "", "unknown option");
	expect("rule delete 29", 2, "", "delete: '29'");
	expect("rule web clear now", 2, "", "'clear' takes nothing behind it: clear");
	expect("rule web insert 1 hold more", 2, "", "unexpected argument 'more'");
	expect("rule a/b list", 2, "", "cannot be a VM's name");
	expect("rule other list", 3, "", "other does not run here");
	/* The VM says no. */
	expect("rule add bypass,\n", 1, "", "no blanks");
	/* A VM that is called as an action. */
	b = vm_start("list");
	expect("rule list list", 0, " 1  vm=", "");
	expect("rule list clear", 0, "no rules", "");
	expect("rule list", 3, "", "2 VMs run here");
	vm_kill(b);
	vm_kill(a);
}

/* events runs until the VM ends; so somebody else makes something happen and then ends it. */
static void events(void **state)
{
	pid_t a = vm_start("web"), other;

	other = fork();
	if (!other) {
		for (int i = 0; i < 1000; i++) {
			if (!cli("status --json") && strstr(out, "\"watchers\":1"))
				break;
			usleep(10000);
		}
		cli("checkpoint");
		cli("quit");
		_exit(0);
	}
	assert_int_equal(cli("events web"), 0);
	assert_non_null(strstr(out, "{\"event\":\"__LOCKSTEP_STATE\",\"data\":\"sync\",\"timestamp\""));
	assert_int_equal(waitpid(other, NULL, 0), other);
	assert_int_equal(waitpid(a, NULL, 0), a);
}

/* What a file has, by type of block; it must end with a whole one. */
static void blocks_of(const char *path, uint64_t n[7])
{
	static char file[1000000];
	struct pcapng_block b;
	size_t at = 0, len;
	long size;
	FILE *f = fopen(path, "r");

	assert_non_null(f);
	len = fread(file, 1, sizeof(file), f);
	fclose(f);
	memset(n, 0, 7 * sizeof(*n));
	while ((size = pcapng_next((uint8_t *)file + at, len - at, &b)) > 0) {
		n[b.type < 7 ? b.type : 0]++;
		at += (size_t)size;
	}
	assert_int_equal(at, len);
}

static void captures(void **state)
{
	char line[300], path[100];
	pid_t a = vm_start("web"), other;
	uint64_t n[7];

	snprintf(path, sizeof(path), "%s/file", dir);
	expect("capture web", 2, "", "where to? -w FILE says it");
	expect("capture web -w x --point nic", 2, "", "'nic' is no point: client");
	expect("capture web -w x --point client,,pvm", 2, "", "'' is no point");
	expect("capture web -w x --point=", 2, "", "needs the name of a point");
	expect("capture web -w x --count 0", 2, "", "--count: '0' is not a whole number of frames");
	expect("capture web -w x --duration x", 2, "", "--duration: 'x' is not a whole number of seconds");
	expect("capture web -w x --snaplen 65536", 2, "", "from 1 to 65535");
	expect("capture web -w", 2, "", "option -w needs a value");
	expect("capture web -w --json", 2, "", "option -w needs a value, and --json looks like an option");
	expect("capture web -q", 2, "", "unknown option -q");
	expect("capture web -w x more", 2, "", "unexpected argument 'more'");
	expect("capture web -w /dev/full --count 1", 1, "", "cannot write to /dev/full: No space left on device");
	expect("capture web -w /nonexistent/file", 1, "", "cannot open /nonexistent/file: No such file");

	snprintf(line, sizeof(line), "capture web -w %s --count 7 --point client", path);
	expect(line, 0, "", "lockstep capture: 7 frames written, 0 dropped\n");
	blocks_of(path, n);
	assert_int_equal(n[PCAPNG_INTERFACE], 1);
	assert_int_equal(n[PCAPNG_PACKET], 7);
	assert_int_equal(n[PCAPNG_STATS], 1);
	/* Once more into the same file, which is longer than what comes: all points, as JSON. */
	snprintf(line, sizeof(line), "capture -w%s --count=2 --json --point all --snaplen 20", path);
	expect(line, 0, "{\"frames\":2,\"dropped\":0,\"bytes\":", "");
	assert_non_null(strstr(out, "\"ended\":\"count\""));
	blocks_of(path, n);
	assert_int_equal(n[PCAPNG_INTERFACE], 4);
	assert_int_equal(n[PCAPNG_PACKET], 2);
	/* To standard output, which is what cli() reads; the numbers are on the other one. */
	snprintf(line, sizeof(line), "capture --json --write - --count 3");
	assert_int_equal(cli(line), 0);
	assert_memory_equal(out, "\n\r\r\n", 4);
	assert_non_null(strstr(err, "{\"frames\":3,"));
	snprintf(line, sizeof(line), "capture -w %s --duration 1", path);
	expect(line, 0, "", " frames written, 0 dropped\n");
	blocks_of(path, n);
	assert_true(n[PCAPNG_PACKET] > 10);
	assert_int_equal(n[PCAPNG_STATS], 2);

	/* The node ends while a capture runs: in order, and by force, when the numbers are lost and the file is not. */
	for (int kill_it = 0; kill_it < 2; kill_it++) {
		other = fork();
		if (!other) {
			blocks_of("/dev/null", n);
			for (int i = 0; i < 1000 && !n[PCAPNG_PACKET]; i++) {
				usleep(10000);
				if (!access(path, F_OK))
					blocks_of(path, n);
			}
			if (kill_it)
				kill(a, SIGKILL);
			else
				cli("quit web");
			_exit(0);
		}
		unlink(path);
		snprintf(line, sizeof(line), "capture web -w %s", path);
		expect(line, 0, "", "lockstep capture: web has ended\nlockstep capture: ");
		assert_non_null(strstr(err, kill_it ? "how many were dropped is not known" : "0 dropped"));
		blocks_of(path, n);
		assert_true(n[PCAPNG_PACKET] > 0);
		assert_int_equal(n[PCAPNG_STATS], kill_it ? 0 : 2);
		assert_int_equal(waitpid(other, NULL, 0), other);
		assert_int_equal(waitpid(a, NULL, 0), a);
		if (!kill_it)
			a = vm_start("web");
	}
}

/* Ctrl-C, and a reader behind a pipe who has seen enough: as processes of their own. */
static void captures_that_are_ended(void **state)
{
	char path[100], *argv[] = { "lockstep", "capture", "web", "-w", path, "--json", NULL };
	pid_t a = vm_start("web"), p;
	uint64_t n[7] = { 0 };
	int st, from[2];
	char c[4];

	snprintf(path, sizeof(path), "%s/file", dir);
	for (int by_pipe = 0; by_pipe < 2; by_pipe++) {
		assert_int_equal(pipe(from), 0);
		fflush(NULL);
		p = fork();
		if (!p) {
			char name[200];

			snprintf(name, sizeof(name), "%s.err", path);
			dup2(open(name, O_CREAT | O_TRUNC | O_WRONLY, 0600), 2);
			dup2(from[1], 1);
			close(from[0]);
			close(from[1]);
			if (by_pipe)
				strcpy(path, "-");
			st = cli_main(6, argv);
			fflush(NULL);
			_exit(st);
		}
		close(from[1]);
		if (by_pipe) {
			assert_int_equal(read(from[0], c, 4), 4);
			assert_memory_equal(c, "\n\r\r\n", 4);
			close(from[0]);
		} else {
			for (int i = 0; i < 1000 && !n[PCAPNG_PACKET]; i++) {
				usleep(10000);
				if (!access(path, F_OK))
					blocks_of(path, n);
			}
			kill(p, SIGINT);
		}
		assert_int_equal(waitpid(p, &st, 0), p);
		assert_int_equal(st, 0);
		if (!by_pipe) {
			st = (int)read(from[0], out, sizeof(out) - 1);
			assert_true(st > 0);
			out[st] = '\0';
			close(from[0]);
			assert_non_null(strstr(out, "\"dropped\":0,"));
			assert_non_null(strstr(out, "\"ended\":\"signal\""));
		} else {
			strcat(path, ".err");
			slurp(path, err, sizeof(err));
			assert_non_null(strstr(err, "\"ended\":\"reader\""));
		}
	}
	vm_kill(a);
}

/* A VM whose lockstep is stopped: a sentence after the deadline, not a hang. */
static void frozen(void **state)
{
	pid_t a = vm_start("web");
	nstime begun = clock_ns();

	kill(a, SIGSTOP);
	expect("checkpoint --wait 1", 1, "", "lockstep of web does not answer");
	assert_in_range(clock_ns() - begun, 900 * NS_PER_MS, 8 * NS_PER_S);
	kill(a, SIGCONT);
	expect("status", 0, "web: protected (primary", "");
	vm_kill(a);
}

static void run(void **state)
{
	const char *name, *text;

	run_rc = 0;
	expect("run --name web --listen 127.0.0.1:9998 -- qemu -m 5", 0, "", "split brain is possible");
	assert_null(strstr(err, "not encrypted"));
	assert_string_equal(run_got.name, "web");
	assert_string_equal(run_got.run_dir, dir);
	assert_int_equal(run_got.qemu_argc, 3);
	expect("run --name web --insecure --no-witness --listen 0.0.0.0:9998 -- qemu -m 5", 0, "", "not encrypted");
	run_rc = 1;
	expect("run --name web --listen 127.0.0.1:9998 -- qemu", 1, "", "split brain");
	run_rc = -ENOTSUP;
	expect("run --name web --listen 127.0.0.1:9998 -- qemu", 2, "", "lockstep run: the node said no");
	run_rc = -EIO;
	expect("run --name web --listen 127.0.0.1:9998 -- qemu", 1, "", "lockstep run: the node said no");
	run_rc = 0;
	expect("run --name web -- qemu", 2, "", "where is the other node");
	setenv("LOCKSTEP_CRASH_AT", "nonsense", 1);
	expect("run --name web --listen 127.0.0.1:9998 -- qemu", 2, "", "LOCKSTEP_CRASH_AT");
	name = crash_point_text(0, &text);
	if (name) {
		setenv("LOCKSTEP_CRASH_AT", name, 1);
		expect("run --name web --listen 127.0.0.1:9998 -- qemu", 0, "", "split brain");
	}
	unsetenv("LOCKSTEP_CRASH_AT");
}

static void doctor(void **state)
{
	const char *text, *name = crash_point_text(0, &text);

	expect("doctor --crash-points", 0, name ? name : "without crash points", "");
	expect("doctor --crash-points --json", 0, "{\"crash_points\":[", "");
	expect("doctor --crash-points qemu", 2, "", "asks no QEMU");
	expect("doctor a b", 2, "", "unexpected argument 'b'");
	expect("doctor /nonexistent/qemu", 1, "MISSING", "/nonexistent/qemu");
}

/* Each page says what its command can do, no more and no less. */
static void manual(void **state)
{
	static char page[100000];
	char path[500], want[200];

	if (!man_dir)
		skip();
	snprintf(path, sizeof(path), "%s/lockstep.1", man_dir);
	slurp(path, page, sizeof(page));
	for (unsigned int i = 0; cli_nth(i); i++) {
		snprintf(want, sizeof(want), "%s", cli_nth(i)->name);
		assert_non_null(strstr(page, want));
	}
	for (unsigned int i = 0; cli_nth(i); i++) {
		const struct cli_cmd *c = cli_nth(i);

		if (c == &cmd_help || c == &cmd_version)
			continue;
		snprintf(path, sizeof(path), "%s/lockstep-%s.1", man_dir, c->name);
		slurp(path, page, sizeof(page));
		/* Several commands may have one page. */
		if (!strncmp(page, ".so man1/", 9)) {
			snprintf(path, sizeof(path), "%s/%.*s", man_dir, (int)strcspn(page + 9, "\n"), page + 9);
			slurp(path, page, sizeof(page));
		}
		for (const struct cli_opt *o = c->opts; o->name; o++) {
			snprintf(want, sizeof(want), ".It Fl Fl %s%s", o->name, o->arg ? " Ar " : "\n");
			if (o->help && !strstr(page, want)) {
				print_error("%s lacks '%s'\n", path, want);
				fail();
			}
		}
		for (const char *p = page; (p = strstr(p, ".It Fl Fl ")); p++) {
			const struct cli_opt *o = c->opts;
			size_t n;

			p += strlen(".It Fl Fl ");
			n = strcspn(p, " \n");
			while (o->name && (strlen(o->name) != n || memcmp(o->name, p, n)))
				o++;
			if (!o->name && strncmp(p, "help\n", 5)) {
				print_error("%s has --%.*s, the program has not\n", path, (int)n, p);
				fail();
			}
		}
	}
}

int main(int argc, char **argv)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(usage), T(nobody_runs), T(status), T(verbs), T(rules), T(events), T(captures),
		T(captures_that_are_ended), T(frozen), T(run), T(doctor), T(manual),
	};

	man_dir = argc > 1 ? argv[1] : NULL;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
