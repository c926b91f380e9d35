/* SPDX-License-Identifier: BSD-2-Clause */
/* Stock QEMU under test: start, talk, be its network. One small blocking QMP client, on purpose not the product's. */
#include "engine_mem_vm.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_mem_frame.h"

/* Numbers of the descriptors in QEMU. */
enum { NUM_RAM = 100, NUM_SAVE, NUM_LOAD, NUM_AGENT, NUM_NET, NUM_QMP };

void vm_die(const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%d: ", file, line);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	exit(1);
}

void vm_sleep_ms(unsigned int ms)
{
	usleep(ms * 1000);
}

/* send_frame() - as QEMU's stream netdev wants it: length, frame */
static void send_frame(int fd, const uint8_t *f, uint32_t len)
{
	uint8_t buf[2048 + 4];
	uint32_t be = htonl(len);

	memcpy(buf, &be, 4);
	memcpy(buf + 4, f, len);
	/* Lost when QEMU does not read (it is stopped): a network may. Half a frame must not be. */
	if (send(fd, buf, len + 4, MSG_DONTWAIT | MSG_NOSIGNAL) == -1)
		return;
}

static void take_frame(struct vm *vm, const uint8_t *p, uint32_t len)
{
	struct mem_frame f;

	vm->frames++;
	if (len < sizeof(f))
		return;
	memcpy(&f, p, sizeof(f));
	if (f.type != htons(MEM_FRAME_TYPE) || f.magic != MEM_FRAME_MAGIC)
		return;
	vm->id = f.id;
	vm->errors = f.errors;
	vm->writes = f.writes;
	vm->count = f.count;
}

static void *net_thread(void *arg)
{
	struct vm *vm = arg;
	static __thread uint8_t buf[1 << 17];
	size_t n = 0;

	for (;;) {
		struct pollfd p = { .fd = vm->net, .events = POLLIN };
		uint8_t out[600];
		char order = atomic_exchange(&vm->order, 0);
		ssize_t got;
		size_t at = 0;

		poll(&p, 1, 3);
		if (!vm->quiet || order) {
			getrandom(out, sizeof(out), 0);
			memset(out, 0xff, 6);
			out[6] = 2;
			out[12] = MEM_FRAME_TYPE >> 8;
			out[13] = MEM_FRAME_TYPE & 255;
			out[14] = (uint8_t)(order ? order : '.');
			send_frame(vm->net, out, order ? sizeof(out) : 60u + out[20] * 2u);
		}
		if (!(p.revents & (POLLIN | POLLHUP)))
			continue;
		got = recv(vm->net, buf + n, sizeof(buf) - n, MSG_DONTWAIT);
		if (got == -1 && (errno == EAGAIN || errno == EINTR))
			continue;
		if (got <= 0)
			return NULL;
		n += (size_t)got;
		while (n - at >= 4) {
			uint32_t len;

			memcpy(&len, buf + at, 4);
			len = ntohl(len);
			if (len > 65536)
				die("%s: QEMU sent a frame of %u bytes", vm->name, len);
			if (n - at < 4 + len)
				break;
			take_frame(vm, buf + at + 4, len);
			at += 4 + len;
		}
		memmove(buf, buf + at, n - at);
		n -= at;
	}
}

/* read_line() - the next line of QMP */
static void read_line(struct vm *vm, char *line, size_t cap)
{
	nstime until = clock_ns() + 30 * NS_PER_S;

	for (;;) {
		char *nl = memchr(vm->in, '\n', vm->n_in);
		struct pollfd p = { .fd = vm->qmp, .events = POLLIN };
		ssize_t got;

		if (nl) {
			size_t len = (size_t)(nl - vm->in) + 1;

			if (len > cap)
				die("%s: QMP line of %zu bytes", vm->name, len);
			memcpy(line, vm->in, len);
			line[len - 1] = 0;
			memmove(vm->in, vm->in + len, vm->n_in - len);
			vm->n_in -= len;
			return;
		}
		if (clock_ns() > until)
			die("%s: QMP is silent", vm->name);
		if (poll(&p, 1, 1000) <= 0)
			continue;
		got = read(vm->qmp, vm->in + vm->n_in, sizeof(vm->in) - vm->n_in);
		if (got <= 0)
			die("%s: QEMU is gone", vm->name);
		vm->n_in += (size_t)got;
	}
}

static void event(struct vm *vm, const char *line)
{
	if (getenv("VERBOSE"))
		fprintf(stderr, "%s: %s\n", vm->name, line);
	if (strstr(line, "JOB_STATUS_CHANGE") && strstr(line, "concluded"))
		vm->job_done = true;
}

bool vm_qmp(struct vm *vm, const char *cmd)
{
	size_t len = strlen(cmd);

	if (write(vm->qmp, cmd, len) != (ssize_t)len || write(vm->qmp, "\n", 1) != 1)
		die("%s: QMP cannot be written", vm->name);
	for (;;) {
		read_line(vm, vm->answer, sizeof(vm->answer));
		if (strncmp(vm->answer, "{\"return\"", 9) == 0)
			return true;
		if (strncmp(vm->answer, "{\"error\"", 8) == 0)
			return false;
		event(vm, vm->answer);
	}
}

void vm_do(struct vm *vm, const char *cmd)
{
	if (!vm_qmp(vm, cmd))
		die("%s: %s: %s", vm->name, cmd, vm->answer);
}

bool vm_load(struct vm *vm)
{
	char line[1 << 16], jobs[1 << 16];
	bool ok;

	vm->job_done = false;
	if (!vm_qmp(vm, devstate_load_cmd(vm->ds)))
		return false;
	while (!vm->job_done) {
		read_line(vm, line, sizeof(line));
		event(vm, line);
	}
	vm_do(vm, devstate_jobs_cmd(vm->ds));
	strcpy(jobs, vm->answer);
	ok = !strstr(jobs, "\"error\"");
	vm_do(vm, devstate_dismiss_cmd(vm->ds));
	strcpy(vm->answer, jobs);
	return ok;
}

const char *vm_status(struct vm *vm)
{
	static char status[64];
	char *p;

	vm_do(vm, "{\"execute\":\"query-status\"}");
	p = strstr(vm->answer, "\"status\": \"");
	if (!p || sscanf(p + 11, "%63[^\"]", status) != 1)
		die("%s: %s", vm->name, vm->answer);
	return status;
}

bool vm_wait_frames(struct vm *vm, uint64_t n, unsigned int seconds)
{
	nstime until = clock_ns() + seconds * NS_PER_S;
	uint64_t want = vm->frames + n;

	while (clock_ns() < until && vm->frames < want)
		vm_sleep_ms(2);
	return vm->frames >= want;
}

bool vm_wait_status(struct vm *vm, const char *status, unsigned int seconds)
{
	nstime until = clock_ns() + seconds * NS_PER_S;

	while (strcmp(vm_status(vm), status) != 0) {
		if (clock_ns() > until)
			return false;
		vm_sleep_ms(20);
	}
	return true;
}

void vm_reset(struct vm *vm)
{
	vm_do(vm, "{\"execute\":\"system_reset\"}");
	/* The answer only says that it was asked for. */
	if (!vm_wait_status(vm, "prelaunch", 10))
		die("%s: not reset but %s", vm->name, vm_status(vm));
}

/* take_blocks() - what QEMU has of memory beside main memory (the graphics card's, ROMs) into the memory file */
static void take_blocks(struct vm *vm, bool private)
{
	static struct ramblocks blocks;
	static struct ram_region want[RAM_REGIONS_MAX];
	nstime until = clock_ns() + 5 * NS_PER_S;
	bool first = !vm->ram->laid_out;
	struct err e;
	int n;

	if (agentctl_blocks(vm->agent, &blocks, until, &e) < 0)
		die("%s: %s", vm->name, e.msg);
	n = ramblocks_regions(&blocks, want, &e);
	if (n < 0 || ram_layout(vm->ram, want, (unsigned int)n, &e) < 0 ||
	    agentctl_place(vm->agent, vm->ram, &blocks, !private, first, until, &e) < 0)
		die("%s: %s", vm->name, e.msg);
	for (unsigned int i = 0; first && i < vm->ram->n_regions; i++)
		printf("  %s: %s, %" PRIu64 " KB\n", vm->name, vm->ram->region[i].name, vm->ram->region[i].count * 4);
}

/* spawn() - QEMU over the memory and the device state that @vm has */
static void spawn(struct vm *vm, const struct vm_opts *o, bool private)
{
	const char *name = vm->name;
	char env[AGENTCTL_ENV][AGENTCTL_ENV_LEN], object[256], blockdev[256], machine[256], mb[32], net[128];
	char qmp[64], dev[128], path[64];
	int net_sv[2], qmp_sv[2];
	const char *argv[64];
	size_t n = 0;
	struct err e;

	vm->agent = agentctl_new(&e);
	if (!vm->agent)
		die("%s: %s", name, e.msg);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, net_sv) == -1 ||
	    socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, qmp_sv) == -1)
		die("socketpair");
	snprintf(object, sizeof(object), "memory-backend-file,id=lockstep-ram,mem-path=/proc/self/fd/%d,size=%uM,"
		 "share=%s", NUM_RAM, o->mb, private ? "off" : "on");
	devstate_args(vm->ds, blockdev, sizeof(blockdev));
	agentctl_env(o->agent, NUM_AGENT, NUM_RAM, env);
	snprintf(machine, sizeof(machine), "%s,suppress-vmdesc=on,memory-backend=lockstep-ram", o->machine);
	snprintf(mb, sizeof(mb), "%u", o->mb);
	snprintf(net, sizeof(net), "stream,id=n0,server=off,addr.type=fd,addr.str=%d", NUM_NET);
	snprintf(dev, sizeof(dev), "%s,netdev=n0,mac=52:54:00:12:34:56", o->nic);
	snprintf(qmp, sizeof(qmp), "socket,id=qmp,fd=%d", NUM_QMP);
	argv[n++] = o->qemu;
#define ARGS(...) do { \
		const char *a_[] = { __VA_ARGS__ }; \
		for (size_t i_ = 0; i_ < sizeof(a_) / sizeof(a_[0]); i_++) \
			argv[n++] = a_[i_]; \
	} while (0)
	ARGS("-nodefaults", "-vga", "std", "-display", "none", "-accel", "tcg", "-machine", machine, "-m", mb,
	     "-object", object, "-blockdev", blockdev, "-global", "migration.send-configuration=off",
	     "-rtc", "clock=vm", "-S", "-no-shutdown", "-chardev", qmp, "-mon", "chardev=qmp,mode=control",
	     "-netdev", net, "-device", dev, "-kernel", o->kernel, "-initrd", o->initrd, "-append", o->append);
	if (o->sandbox)
		ARGS("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	if (getenv("CONSOLE"))
		ARGS("-serial", "file:/dev/stderr");
	else
		ARGS("-serial", "null");
	for (size_t i = 0; o->extra && o->extra[i] && n < 62; i++)
		argv[n++] = o->extra[i];
	argv[n] = NULL;
	vm->pid = fork();
	if (vm->pid == 0) {
		int fds[2];

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		devstate_fds(vm->ds, fds);
		dup2(vm->ram->fd, NUM_RAM);
		dup2(fds[0], NUM_SAVE);
		dup2(fds[1], NUM_LOAD);
		dup2(vm->agent->child_fd, NUM_AGENT);
		dup2(net_sv[1], NUM_NET);
		dup2(qmp_sv[1], NUM_QMP);
		for (int i = 0; i < AGENTCTL_ENV; i++)
			putenv(env[i]);
		execvp(argv[0], (char **)argv);
		_exit(127);
	}
	agentctl_started(vm->agent);
	close(net_sv[1]);
	close(qmp_sv[1]);
	vm->qmp = qmp_sv[0];
	vm->net = net_sv[0];
	read_line(vm, vm->answer, sizeof(vm->answer));
	vm_do(vm, "{\"execute\":\"qmp_capabilities\"}");
	take_blocks(vm, private);
	if (agentctl_hello(vm->agent, vm->ram, (uint32_t)vm->pid, clock_ns() + 5 * NS_PER_S, &e) < 0)
		die("%s: %s", name, e.msg);
	snprintf(path, sizeof(path), "/proc/%d/mem", vm->pid);
	vm->mem = open(path, O_RDONLY | O_CLOEXEC);
	if (vm->mem == -1)
		die("%s: %s: %s", name, path, strerror(errno));
	pthread_create(&vm->net_thread, NULL, net_thread, vm);
}

struct vm *vm_start(const char *name, const struct vm_opts *o, bool private)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	struct err e;

	vm->name = name;
	vm->ram = ram_new((uint64_t)o->mb << 20, &e);
	vm->ds = vm->ram ? devstate_new(NUM_SAVE, NUM_LOAD, &e) : NULL;
	if (!vm->ds)
		die("%s: %s", name, e.msg);
	spawn(vm, o, private);
	return vm;
}

/* reap() - end QEMU and what belongs to this start of it */
static void reap(struct vm *vm)
{
	kill(vm->pid, SIGKILL);
	waitpid(vm->pid, NULL, 0);
	shutdown(vm->net, SHUT_RDWR);
	pthread_join(vm->net_thread, NULL);
	close(vm->net);
	close(vm->qmp);
	close(vm->mem);
	agentctl_free(vm->agent);
	vm->n_in = 0;
	vm->id = 0;
}

void vm_restart(struct vm *vm, const struct vm_opts *o, bool private)
{
	reap(vm);
	spawn(vm, o, private);
}

void vm_end(struct vm *vm)
{
	reap(vm);
	devstate_free(vm->ds);
	ram_free(vm->ram);
	free(vm);
}

/* cpio_entry() - one file of a "newc" archive */
static void cpio_entry(FILE *f, const char *name, unsigned int mode, const void *data, size_t len)
{
	static unsigned int ino = 1;

	fprintf(f, "070701%08x%08x%08x%08x%08x%08x%08zx%08x%08x%08x%08x%08zx%08x", ino++, mode, 0, 0, 1, 0, len, 0, 0,
		0, 0, strlen(name) + 1, 0);
	fwrite(name, strlen(name) + 1, 1, f);
	while (ftell(f) % 4 != 0)
		fputc(0, f);
	if (len > 0)
		fwrite(data, len, 1, f);
	while (ftell(f) % 4 != 0)
		fputc(0, f);
}

/* read_whole() - a file's content, to be freed */
static void *read_whole(const char *path, size_t *len)
{
	FILE *in = fopen(path, "r");
	struct stat st;
	char *buf;

	if (!in || fstat(fileno(in), &st) == -1)
		die("%s: %s", path, strerror(errno));
	*len = (size_t)st.st_size;
	buf = malloc(*len + 1);
	if (!buf || fread(buf, 1, *len, in) != *len)
		die("%s cannot be read", path);
	fclose(in);
	return buf;
}

static void cpio_file(FILE *f, const char *name, const char *from)
{
	size_t len;
	void *buf = read_whole(from, &len);

	cpio_entry(f, name, 0100755, buf, len);
	free(buf);
}

void initramfs(const char *path, const char *base, const char *init, char **modules)
{
	FILE *f = fopen(path, "w");
	char name[256];
	size_t len;
	void *buf;

	if (!f)
		die("%s: %s", path, strerror(errno));
	buf = read_whole(base, &len);
	fwrite(buf, len, 1, f);
	free(buf);
	while (ftell(f) % 4 != 0)
		fputc(0, f);
	cpio_file(f, "init", init);
	for (unsigned int i = 0; modules[i]; i++) {
		const char *last = strrchr(modules[i], '/');

		snprintf(name, sizeof(name), "lib/modules/%s", last ? last + 1 : modules[i]);
		cpio_file(f, name, modules[i]);
	}
	cpio_entry(f, "TRAILER!!!", 0, NULL, 0);
	if (fclose(f) != 0)
		die("%s: %s", path, strerror(errno));
}
