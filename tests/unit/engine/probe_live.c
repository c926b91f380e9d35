/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is asked of the installed QEMU; the shape of machines; and rewritten command lines that really run: QMP on the
 * inherited descriptor, and the firmware's DHCP requests on the network's, framed by their lengths.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "base/loop.h"
#include "engine/cmdbuild.h"
#include "engine/probe.h"
#include "engine/process.h"
#include "engine/qmp.h"
#include "engine/shape.h"

#define QEMU	"qemu-system-x86_64"
#define WAIT_S	60	/* the firmware boots from the network after 2 s of an idle machine */

static struct probe probe;
static bool have_qemu;

static int set_up(void **state)
{
	struct err e = { 0 };

	if (probe_run(QEMU, 0, &probe, &e))
		return -1;
	have_qemu = probe.version[0];
	return 0;
}

static int parse(const char *line, struct cmdline *c, struct err *e)
{
	char *copy = strdup(line), *words[64];
	int n = 0, rc;

	for (char *w = strtok(copy, " "); w && n < 64; w = strtok(NULL, " "))
		words[n++] = w;
	rc = cmdline_parse(n, words, c, e);
	free(copy);
	return rc;
}

static const struct probe_row *row(const struct probe *p, const char *what)
{
	for (unsigned int i = 0; i < p->n_rows; i++)
		if (!strcmp(p->rows[i].what, what))
			return &p->rows[i];
	fail_msg("no row %s", what);
	return NULL;
}

static void test_probe(void **state)
{
	char machine[PROBE_MACHINE_LEN], *text;
	struct json_object *o, *v;
	struct err e = { 0 };
	size_t len;
	FILE *f;

	if (!have_qemu)
		skip();
	assert_true(row(&probe, "QEMU: networks")->ok);
	assert_true(row(&probe, "QEMU: options")->ok);
	assert_true(probe.tcg);
	assert_true(row(&probe, "QEMU: monitor commands")->ok);
	assert_true(row(&probe, "pidfd")->ok);
	assert_int_equal(probe_machine(&probe, "pc", machine, &e), 0);
	assert_int_equal(strncmp(machine, "pc-i440fx-", 10), 0);
	assert_int_equal(probe_machine(&probe, NULL, machine, &e), 0);
	assert_int_equal(probe_machine(&probe, "q35", machine, &e), 0);
	assert_int_equal(strncmp(machine, "pc-q35-", 7), 0);
	assert_int_equal(probe_machine(&probe, machine, machine, &e), 0);
	assert_int_equal(probe_machine(&probe, "pc-i440fx-99.0", machine, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "pc-i440fx-99.0"));

	f = open_memstream(&text, &len);
	probe_print(f, &probe, true);
	fclose(f);
	o = json_tokener_parse(text);
	assert_true(json_object_object_get_ex(o, "rows", &v));
	assert_int_equal(json_object_array_length(v), probe.n_rows);
	assert_true(json_object_object_get_ex(o, "version", &v));
	assert_string_equal(json_object_get_string(v), probe.version);
	json_object_put(o);
	free(text);
	probe_print(stdout, &probe, false);
}

/* What cannot be asked is a row, not an error. */
static void test_probe_bad(void **state)
{
	static const struct {
		const char *binary, *why;
	} t[] = {
		{ "lockstep-no-such-qemu", "no such program" },
		{ "/bin/true", "true: exited with status 0" },
		{ "/bin/false", "false: exited with status 1" },
		{ "/bin/ls", "--help" },
		{ "/dev/null", "ermission denied" },
		{ "/usr/bin/ldd", "ldd is a script" },
	};

	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct probe *p = calloc(1, sizeof(*p));
		struct err e = { 0 };

		assert_int_equal(probe_run(t[i].binary, 0, p, &e), 0);
		assert_int_equal(probe_missing(p, &e), -ENOTSUP);
		assert_int_equal(strncmp(e.msg, "QEMU: ", 6), 0);
		if (!strstr(e.msg, t[i].why))
			fail_msg("%s: %s", t[i].binary, e.msg);
		free(p);
	}
}

/* Two lines and whether they can be a pair: NULL, or words of the sentence. */
static const struct {
	const char *a, *b, *because;
} pairs[] = {
	{ "", "", NULL },
	{ "-netdev tap,id=n,ifname=t0,script=no,downscript=no -device e1000,netdev=n",
	  "-netdev tap,id=n,ifname=t9,script=no,downscript=no -device netdev=n,driver=e1000", NULL },
	{ "-name a -pidfile /a -serial stdio -display none -monitor none", "-nographic", NULL },
	{ "-M pc", "", NULL },
	{ "-m 1G", "-m 1024", NULL },
	{ "-bios /bin/sh", "-bios /usr/bin/../bin/sh", NULL },
	{ "-M q35", "", "the machine type is pc-q35-" },
	{ "-m 256", "", "the memory (bytes) is 268435456 here and 134217728 at the peer" },
	{ "-smp 2", "", "the number of CPUs is 2 here and 1 at the peer" },
	{ "-smp 4", "-smp 4,cores=2", "-smp" },
	{ "-cpu max", "-cpu qemu64,-x2apic", "the CPU model is max here and qemu64,-x2apic at the peer" },
	{ "-M vmport=off", "", "the options of -machine" },
	{ "-accel kvm", "", "the accelerator is kvm here and tcg at the peer" },
	{ "-nic tap,ifname=t,script=no,downscript=no", "", "the number of network cards" },
	{ "-nic tap,ifname=t,script=no,downscript=no,mac=52:54:00:00:00:01", "-nic "
				"tap,ifname=t,script=no,downscript=no",
	  "network card 0.mac is 52:54:00:00:00:01 here and 52:54:00:12:34:56" },
	{ "-nic tap,ifname=t,script=no,downscript=no,model=virtio", "-nic tap,ifname=t,script=no,downscript=no",
	  "network card 0.model is virtio-net-pci here and e1000" },
	{ "-usb -vga std", "-usb", "an option (number 1) is given only here: -vga std" },
	{ "-usb", "-usb -vga std", "an option (number 1) is given only at the peer: -vga std" },
	{ "-device usb-ehci -device virtio-rng-pci", "-device virtio-rng-pci -device usb-ehci",
	  "an option (number 0) is -device driver=usb-ehci here and -device driver=virtio-rng-pci" },
	{ "-append a", "-append b", "an option (number 0) is -append a here and -append b" },
	{ "-kernel /bin/sh", "-kernel /bin/cat", "an option (number 0) is -kernel file of " },
	{ "-drive file=/bin/sh,readonly=on", "-drive file=/bin/cat,readonly=on", "file of " },
	{ "-no-reboot", "", "-no-reboot is on here and off" },
	{ "-rtc base=localtime", "", "-rtc is base=localtime,clock=vm here" },
};

static char *shape_of(const char *options)
{
	char line[512], *text;
	struct cmdline c;
	struct err e = { 0 };

	snprintf(line, sizeof(line), QEMU "%s %s", strstr(options, "tap") ? "" : " -nic none", options);
	if (parse(line, &c, &e) || cmdline_shape(&c, &probe, &text, &e))
		fail_msg("%s: %s", line, e.msg);
	cmdline_free(&c);
	return text;
}

static void test_shape(void **state)
{
	struct err e = { 0 };

	if (!have_qemu)
		skip();
	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		char *a = shape_of(pairs[i].a), *b = shape_of(pairs[i].b);
		int rc = shape_compare(a, b, strlen(b), &e);

		if (rc != (pairs[i].because ? -EXDEV : 0) || (rc && !strstr(e.msg, pairs[i].because)))
			fail_msg("%s | %s: %d %s", pairs[i].a, pairs[i].b, rc, rc ? e.msg : "");
		free(a);
		free(b);
	}
}

static void test_shape_hostile(void **state)
{
	static const char *const bad[] = { "x", "=\n", "no equals sign\n", "a=\x01\n", "a=b\nqqq", "a=\xff\n" };
	struct err e = { 0 };
	struct cmdline c;
	char *mine, *text;

	if (!have_qemu)
		skip();
	mine = shape_of("-usb");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_not_equal(shape_compare(mine, bad[i], strlen(bad[i]), &e), 0);
	assert_int_equal(shape_compare(mine, "x", 1, &e), -EPROTO);
	assert_int_equal(shape_compare(mine, mine, SHAPE_MAX + 1, &e), -EPROTO);
	/* Every cut of the right one is wrong, and of no length does it read beyond the end. */
	for (size_t n = 0; n < strlen(mine); n++) {
		char *cut = malloc(n ? n : 1);

		memcpy(cut, mine, n);
		assert_int_not_equal(shape_compare(mine, cut, n, &e), 0);
		free(cut);
	}
	free(mine);
	/* A file that is not there is found at the start. */
	assert_int_equal(parse(QEMU " -nic none -kernel /nonexistent/k", &c, &e), 0);
	assert_int_equal(cmdline_shape(&c, &probe, &text, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "-kernel: /nonexistent/k"));
	cmdline_free(&c);
}

struct live {
	struct loop *loop;
	struct process proc;
	struct qmp *qmp;
	struct loop_fd net;
	struct loop_timer guard;
	bool timed_out, exited;
	const struct cmdline *c;
	uint8_t buf[65536];
	size_t n;
	unsigned int frames;
	bool dhcp;
};

static void stop_if_done(struct live *l)
{
	if (l->dhcp && l->frames >= 2)
		loop_stop(l->loop);
}

static void take_frame(struct live *l, const uint8_t *f, size_t len)
{
	char src[18];

	l->frames++;
	snprintf(src, sizeof(src), "%02x:%02x:%02x:%02x:%02x:%02x", f[6], f[7], f[8], f[9], f[10], f[11]);
	assert_string_equal(src, l->c->nics[0].mac);
	/* IPv4, UDP, from port 68 to 67. */
	if (len > 42 && f[12] == 8 && f[13] == 0 && f[23] == 17 && !memcmp(f + 34, "\0\104\0\103", 4))
		l->dhcp = true;
}

static void on_net(struct loop_fd *w, uint32_t events)
{
	struct live *l = w->arg;
	ssize_t n = read(w->fd, l->buf + l->n, sizeof(l->buf) - l->n);
	size_t at = 0;

	if (n <= 0) {
		loop_fd_del(l->loop, w);
		return;
	}
	l->n += (size_t)n;
	while (l->n - at >= 4) {
		uint32_t len = (uint32_t)l->buf[at] << 24 | l->buf[at + 1] << 16 | l->buf[at + 2] << 8 | l->buf[at + 3];

		assert_in_range(len, 14, 1514);
		if (l->n - at - 4 < len)
			break;
		take_frame(l, l->buf + at + 4, len);
		at += 4 + len;
	}
	l->n -= at;
	memmove(l->buf, l->buf + at, l->n);
	stop_if_done(l);
}

static void on_cont(void *arg, int code, struct json_object *ret, const char *desc)
{
	if (code)
		fail_msg("cont: %s", desc);
}

static void on_status(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct live *l = arg;
	struct json_object *v;

	assert_int_equal(code, 0);
	assert_true(json_object_object_get_ex(ret, "status", &v));
	assert_string_equal(json_object_get_string(v), "prelaunch");
	assert_int_equal(qmp_cmd(l->qmp, "cont", NULL, NS_NEVER, on_cont, l), 0);
}

static void on_exited(struct process *p)
{
	struct live *l = p->arg;

	l->exited = true;
	loop_stop(l->loop);
}

static void on_line(struct process *p, const char *line)
{
	printf("qemu: %s\n", line);
}

static void on_guard(struct loop_timer *t)
{
	struct live *l = t->arg;

	l->timed_out = true;
	loop_stop(l->loop);
}

static void boot(const char *line, bool share)
{
	static const struct qmp_ops ops = { 0 };
	struct cmdline_env env = { .qmp_fd = 10, .ram_fd = 11, .nic_fd = { 12 }, .ram_share = share };
	struct live *l = calloc(1, sizeof(*l));
	char machine[PROBE_MACHINE_LEN], **argv;
	struct cmdline c;
	struct err e = { 0 };
	int qmp[2], net[2], ram = memfd_create("ram", MFD_CLOEXEC);
	struct process_fd fds[3];
	struct process_spec spec = { .file = QEMU, .fds = fds, .n_fds = 3 };

	if (parse(line, &c, &e) || probe_machine(&probe, c.machine, machine, &e))
		fail_msg("%s", e.msg);
	env.machine = machine;
	assert_int_equal(cmdline_build(&c, &env, &argv, &e), 0);
	assert_int_equal(ftruncate(ram, (off_t)c.mem_bytes), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, net), 0);
	fds[0] = (struct process_fd){ qmp[1], env.qmp_fd };
	fds[1] = (struct process_fd){ ram, env.ram_fd };
	fds[2] = (struct process_fd){ net[1], env.nic_fd[0] };
	spec.argv = argv;
	l->c = &c;
	l->loop = loop_new("test", &e);
	l->proc = (struct process){ .exited = on_exited, .line = on_line, .arg = l };
	if (process_start(&l->proc, l->loop, &spec, &e))
		fail_msg("%s", e.msg);
	close(qmp[1]);
	close(net[1]);
	l->qmp = qmp_new(l->loop, qmp[0], clock_ns() + WAIT_S * NS_PER_S, &ops, l, &e);
	assert_non_null(l->qmp);
	assert_int_equal(qmp_cmd(l->qmp, "query-status", NULL, NS_NEVER, on_status, l), 0);
	l->net = (struct loop_fd){ .fd = net[0], .fn = on_net, .arg = l };
	assert_int_equal(loop_fd_add(l->loop, &l->net, EPOLLIN), 0);
	l->guard = (struct loop_timer){ .fn = on_guard, .arg = l };
	loop_timer_set(l->loop, &l->guard, clock_ns() + WAIT_S * NS_PER_S);
	loop_run(l->loop);
	if (l->timed_out || l->exited)
		fail_msg("%s: %s, %u frames, %s", line, l->exited ? "QEMU is gone" : "too slow", l->frames,
			 l->proc.last_line);
	assert_true(l->dhcp);
	qmp_free(l->qmp);
	assert_int_equal(process_kill_wait(&l->proc, clock_ns() + WAIT_S * NS_PER_S), 0);
	assert_int_equal(WTERMSIG(l->proc.status), SIGKILL);
	close(net[0]);
	close(ram);
	loop_free(l->loop);
	cmdline_argv_free(argv);
	cmdline_free(&c);
	free(l);
}

static void test_boot_pc(void **state)
{
	if (!have_qemu)
		skip();
	boot(QEMU " -m 64 -netdev tap,id=n0,ifname=t0,script=no,downscript=no -device virtio-net-pci,netdev=n0"
		  " -nographic -serial mon:stdio -name x", true);
}

static void test_boot_q35(void **state)
{
	if (!have_qemu)
		skip();
	boot(QEMU " -M q35 -m 64M -smp 2 -cpu max -nic "
	     "tap,model=e1000,ifname=t0,script=no,downscript=no,mac=52:54:00:aa:bb:cc"
		  " -display none -device virtio-rng-pci -no-reboot", false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe), cmocka_unit_test(test_probe_bad), cmocka_unit_test(test_shape),
		cmocka_unit_test(test_shape_hostile), cmocka_unit_test(test_boot_pc), cmocka_unit_test(test_boot_q35),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, set_up, NULL);
}
