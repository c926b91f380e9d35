/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * init.c - process 1 of the test guest
 *
 * Goal: from the kernel's hand-over to "all services listen" with as few processes as possible, because under TCG each
 * fork and exec of a shell costs milliseconds. So it is one static program: it mounts, loads the drivers of the devices
 * that are there, sets the interfaces up, starts the services and then reaps children for ever.
 *
 * Drivers: /lib/modules/table, written by guest/build, has a line for each alias of each driver: the alias pattern and
 * then the module files in the order in which they must be loaded. The devices say their own alias in sysfs
 * (`modalias`); the buses are walked until a walk loads nothing new, because a driver brings up further devices
 * (virtio_pci the virtio bus, a disk controller its disks).
 *
 * The interfaces are net.c's. Of the parameters on the kernel command line only lockstep.disks=N and lockstep.cdroms=N
 * are read here: load the drivers of disks, too, and be ready only when N disks and N CD-ROM drives are there.
 *
 * iperf3 is started when everything else is ready, and again when it ends: nothing waits for it.
 *
 * Nothing here ends the machine: what fails is said on the console, and without "lockstep-guest: ready" a test knows
 * that it did.
 */
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <glob.h>
#include <linux/random.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

enum {
	CMDLINE_MAX = 4096,
	TABLE_MAX = 1 << 20,
	DISK_WAIT_MS = 20000,
	LISTEN_WAIT_MS = 30000,
	POLL_MS = 5,
	RESTART_MS = 1000,	/* between the end of iperf3 and its next start */
};

static char cmdline[CMDLINE_MAX];
static char table[TABLE_MAX];	/* of the modules */

void say(const char *fmt, ...)
{
	char line[512];
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(line, sizeof(line) - 1, fmt, ap);
	va_end(ap);
	if (n > (int)sizeof(line) - 2)
		n = sizeof(line) - 2;
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)n) < 0)
		return;
}

int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void nap(void)
{
	struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };

	nanosleep(&ts, NULL);
}

ssize_t read_file(const char *path, char *buf, size_t size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t len = 0;
	ssize_t n = 0;

	if (fd < 0)
		return -errno;
	while (len < size - 1 && (n = read(fd, buf + len, size - 1 - len)) > 0)
		len += (size_t)n;
	close(fd);
	if (n < 0)
		return -EIO;
	buf[len] = '\0';
	return (ssize_t)len;
}

void set_sysctl(const char *name, const char *value)
{
	char path[256];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/%s", name);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, value, strlen(value)) < 0)
		say("lockstep-guest: error: sysctl %s=%s: %s", name, value, strerror(errno));
	if (fd >= 0)
		close(fd);
}

bool parameter(const char *name, char *value, size_t size)
{
	size_t len = strlen(name), n;
	const char *p = cmdline;

	for (; *p; p += strcspn(p, " \n")) {
		p += strspn(p, " \n");
		if (strncmp(p, name, len) || p[len] != '=')
			continue;
		p += len + 1;
		n = strcspn(p, " \n");
		if (!value)
			return n > 0;
		if (n >= size)
			return false;
		memcpy(value, p, n);
		value[n] = '\0';
		return n > 0;
	}
	return false;
}

static void mount_all(void)
{
	static const struct { const char *type, *dir; } fs[] = {
		{ "proc", "/proc" }, { "sysfs", "/sys" }, { "devtmpfs", "/dev" }, { "tmpfs", "/tmp" },
	};
	size_t i;

	for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++) {
		mkdir(fs[i].dir, 0755);
		if (mount(fs[i].type, fs[i].dir, fs[i].type, 0, NULL))
			say("lockstep-guest: error: mount %s: %s", fs[i].dir, strerror(errno));
	}
}

/* Loads the module files named in @list, one after the other. A driver that is there already is no error. */
static void load_modules(char *list)
{
	char *save, *path, full[256];
	int fd;

	for (path = strtok_r(list, " ", &save); path; path = strtok_r(NULL, " ", &save)) {
		snprintf(full, sizeof(full), "/lib/modules/%s", path);
		fd = open(full, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST))
			say("lockstep-guest: error: module %s: %s", path, strerror(errno));
		if (fd >= 0)
			close(fd);
	}
}

/*
 * Finds the drivers of a device. A line that was used is wiped out (its first byte becomes NUL), so that no driver is
 * loaded twice. Return: number of drivers loaded.
 */
static int load_for(size_t len, const char *modalias)
{
	char *line, *end, *list;
	int found = 0;

	for (line = table; line < table + len; line = end + 1) {
		end = line + strlen(line);
		if (!*line)
			continue;
		list = strchr(line, ' ');
		if (!list)
			continue;
		*list = '\0';
		if (fnmatch(line, modalias, 0)) {
			*list = ' ';
			continue;
		}
		load_modules(list + 1);
		memset(line, 0, (size_t)(end - line));
		found++;
	}
	return found;
}

/* A PCI device says its class in its alias: bc01 is mass storage. */
static bool is_storage(const char *modalias)
{
	return !strncmp(modalias, "pci:", 4) && strstr(modalias, "bc01");
}

/* Reads the table in, its lines as strings. Return: its length, or -errno. */
static ssize_t read_table(void)
{
	ssize_t len = read_file("/lib/modules/table", table, TABLE_MAX);
	char *p;

	if (len < 0)
		say("lockstep-guest: error: no module table: %s", strerror((int)-len));
	for (p = table; len > 0 && (p = strchr(p, '\n')); p++)
		*p = '\0';
	return len;
}

void load_alias(const char *alias)
{
	ssize_t len = read_table();

	if (len >= 0)
		load_for((size_t)len, alias);
}

void load_drivers(bool storage)
{
	ssize_t len = read_table();
	char modalias[256];
	int found;
	size_t i;
	glob_t g;

	if (len < 0)
		return;
	do {
		found = 0;
		if (glob("/sys/bus/*/devices/*/modalias", 0, NULL, &g))
			return;
		for (i = 0; i < g.gl_pathc; i++) {
			if (read_file(g.gl_pathv[i], modalias, sizeof(modalias)) <= 0)
				continue;
			modalias[strcspn(modalias, "\n")] = '\0';
			if (!storage && is_storage(modalias))
				continue;
			found += load_for((size_t)len, modalias);
		}
		globfree(&g);
	} while (found);
}

/* Disks, or CD-ROM drives, that the kernel has found. */
static unsigned int disks_seen(bool cdroms)
{
	unsigned int n = 0;
	size_t i;
	glob_t g;

	if (glob("/sys/block/*/device", 0, NULL, &g))
		return 0;
	for (i = 0; i < g.gl_pathc; i++)
		n += (strncmp(g.gl_pathv[i], "/sys/block/sr", 13) == 0) == cdroms;
	globfree(&g);
	return n;
}

/* How many of them were announced. */
static unsigned int announced(const char *name)
{
	char value[16];

	return parameter(name, value, sizeof(value)) ? (unsigned int)atoi(value) : 0;
}

/* Brings up as many disks as were announced. Without any, their drivers would cost the boot half a second for nothing. */
static int disks(void)
{
	int64_t deadline = now_ms() + DISK_WAIT_MS;
	unsigned int wanted = announced("lockstep.disks"), cdroms = announced("lockstep.cdroms");

	while (disks_seen(false) < wanted || disks_seen(true) < cdroms) {
		load_drivers(true);
		if (now_ms() > deadline) {
			say("lockstep-guest: error: %u disks instead of %u, %u CD-ROMs instead of %u", disks_seen(false),
			    wanted, disks_seen(true), cdroms);
			return -ENODEV;
		}
		nap();
	}
	return 0;
}

/*
 * Redis and the libraries under it ask for random bytes when they start, and on a CPU without RDRAND the kernel needs
 * up to a second to find some. This guest has no secrets: it tells the kernel to believe in the clock.
 */
static void seed_random(void)
{
	struct {
		struct rand_pool_info info;
		struct timespec ts[4];
	} seed = { .info = { .entropy_count = 256, .buf_size = sizeof(seed.ts) } };
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	size_t i;

	for (i = 0; i < 4; i++)
		clock_gettime(i & 1 ? CLOCK_REALTIME : CLOCK_MONOTONIC, &seed.ts[i]);
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &seed))
		say("lockstep-guest: error: seeding /dev/urandom: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
}

/* Return: the process, or -1 (which has been said). */
static pid_t start(const char *const argv[])
{
	pid_t pid = fork();

	if (pid < 0)
		say("lockstep-guest: error: fork: %s", strerror(errno));
	if (pid)
		return pid;
	setsid();
	execv(argv[0], (char *const *)argv);
	say("lockstep-guest: error: %s: %s", argv[0], strerror(errno));
	_exit(127);
}

static bool listens(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc;

	a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	rc = connect(fd, (struct sockaddr *)&a, sizeof(a));
	close(fd);
	return !rc;
}

/* Return: the process that was reaped last, or 0. */
static pid_t reap(bool wait_for_one)
{
	pid_t pid, last = 0;
	int status;

	while ((pid = waitpid(-1, &status, wait_for_one ? 0 : WNOHANG)) > 0) {
		if (WIFSIGNALED(status))
			say("lockstep-guest: process %d died of signal %d", (int)pid, WTERMSIG(status));
		last = pid;
		if (wait_for_one)
			return last;
	}
	if (wait_for_one)
		nap();
	return last;
}

/* Nothing but iperf3 is started again: when another service ends, a test must see it. */
static void keep_iperf(void)
{
	static const char *const iperf[] = { "/usr/bin/iperf3", "-s", "--logfile", "/dev/null", NULL };
	struct timespec pause = { .tv_sec = RESTART_MS / 1000, .tv_nsec = RESTART_MS % 1000 * 1000000L };
	pid_t pid;

	for (;;) {
		pid = start(iperf);
		while (pid > 0 && reap(true) != pid)
			;
		nanosleep(&pause, NULL);
	}
}

int main(void)
{
	static const char *const service[] = { "/sbin/service", NULL };
	static const char *const redis[] = { "/usr/bin/redis-server", "/etc/redis.conf", NULL };
	static const char *const httpd[] = { "/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www", NULL };
	static const char *const httpd6[] = { "/bin/busybox", "httpd", "-f", "-p", "[::]:80", "-h", "/www", NULL };
	static const uint16_t ports[] = { 7000, 80, 6379 };
	const struct rlimit files = { 8192, 8192 };
	int64_t deadline;
	bool v6;
	size_t i;

	mount_all();
	read_file("/proc/cmdline", cmdline, sizeof(cmdline));
	setrlimit(RLIMIT_NOFILE, &files);
	setenv("PATH", "/bin:/sbin:/usr/bin", 1);
	set_sysctl("vm/overcommit_memory", "1");
	seed_random();
	v6 = network_prepare();
	/* The slowest first: it starts while the drivers are loaded. */
	start(redis);
	start(service);
	start(v6 ? httpd6 : httpd);
	if (network() == 0 && disks() == 0) {
		deadline = now_ms() + LISTEN_WAIT_MS;
		for (i = 0; i < sizeof(ports) / sizeof(ports[0]) && now_ms() < deadline;) {
			reap(false);
			if (listens(ports[i]))
				i++;
			else
				nap();
		}
		if (i == sizeof(ports) / sizeof(ports[0]))
			say("lockstep-guest: ready");
		else
			say("lockstep-guest: error: nothing listens on port %d", ports[i]);
	}
	keep_iperf();
}
