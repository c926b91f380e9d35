/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * pgstart.c - PostgreSQL on a disk of the test guest
 *
 * The kernel starts this in place of init (rdinit=/pgstart), and it becomes init, with a child beside it: so the guest has
 * all that it always has, and init needs to know nothing. The child waits for the disk that lockstep.pg=DEV names
 * (guest/build-pg makes it: ext4, with PostgreSQL and a database), mounts it under /disk, and starts the server there, in a
 * chroot, as the user postgres.
 *
 * Then it serves TCP port 5433, one connection after the other, a line each:
 *
 *   freeze	everything that was written is on the disk, the file system is clean, and nothing more is written
 *   thaw	it goes on
 *
 * The answer is "ok", or "error" and errno. While frozen the image is the same at any moment, so that a test can compare
 * copies of it that belong to a VM that runs.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
	CONTROL_PORT = 5433,
	DISK_WAIT_MS = 120000,
	POLL_MS = 20,
	LINE_MAX_LEN = 64,
};

#define ROOT		"/disk"
#define SERVER		"/usr/lib/postgresql/15/bin/postgres"
#define DATA		"/var/lib/postgresql/15/main"
#define USER_ID		70	/* as build-pg made it */

static void fail(const char *what)
{
	printf("lockstep-guest: error: pgstart: %s: %s\n", what, strerror(errno));
	fflush(stdout);
	_exit(1);
}

static void nap(void)
{
	struct timespec ts = { .tv_nsec = POLL_MS * 1000000L };

	nanosleep(&ts, NULL);
}

/* The value of lockstep.pg, once init has mounted /proc. Return: false as long as it has not, or without such a parameter */
static bool device(char *dev, size_t size)
{
	static const char name[] = "lockstep.pg=";
	char line[4096];
	FILE *f = fopen("/proc/cmdline", "re");
	const char *p;

	if (!f)
		return false;
	p = fgets(line, sizeof(line), f) ? strstr(line, name) : NULL;
	fclose(f);
	if (p)
		snprintf(dev, size, "/dev/%.*s", (int)strcspn(p + strlen(name), " \n"), p + strlen(name));
	return p != NULL;
}

/* Return: whether the disk is mounted; it may not be there yet. */
static bool mounted(void)
{
	char dev[64];

	if (!device(dev, sizeof(dev)))
		return false;
	if (!mount(dev, ROOT, "ext4", MS_NOATIME, "errors=remount-ro"))
		return true;
	/* The node of a disk is there before the disk is: ENXIO. */
	if (errno != ENOENT && errno != ENXIO)
		fail(dev);
	return false;
}

static void mount_disk(void)
{
	static const struct { const char *type, *dir; } fs[] = {
		{ "proc", ROOT "/proc" }, { "sysfs", ROOT "/sys" }, { "devtmpfs", ROOT "/dev" }, { "tmpfs", ROOT "/tmp" },
		{ "tmpfs", ROOT "/run" },
	};
	int left;
	size_t i;

	mkdir(ROOT, 0755);
	for (left = DISK_WAIT_MS / POLL_MS; !mounted(); left--) {
		if (!left)
			fail("no disk");
		nap();
	}
	for (i = 0; i < sizeof(fs) / sizeof(fs[0]); i++)
		if (mount(fs[i].type, fs[i].dir, fs[i].type, 0, NULL))
			fail(fs[i].dir);
}

static void start_server(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fail("fork");
	if (pid)
		return;
	setsid();
	if (chroot(ROOT) || chdir("/") || setgroups(0, NULL) || setgid(USER_ID) || setuid(USER_ID))
		fail("chroot");
	setenv("LC_ALL", "C", 1);
	execl(SERVER, SERVER, "-D", DATA, (char *)NULL);
	fail(SERVER);
}

static void answer(FILE *f, int root, const char *line)
{
	int rc;

	if (!strcmp(line, "freeze\n")) {
		rc = ioctl(root, FIFREEZE, 0);
	} else if (!strcmp(line, "thaw\n")) {
		rc = ioctl(root, FITHAW, 0);
	} else {
		rc = -1;
		errno = EINVAL;
	}
	if (rc)
		fprintf(f, "error %d\n", errno);
	else
		fprintf(f, "ok\n");
	fflush(f);
}

static void serve(void)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(CONTROL_PORT) };
	int root = open(ROOT, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c, one = 1;
	char line[LINE_MAX_LEN];
	FILE *f;

	setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (root < 0 || s < 0 || bind(s, (struct sockaddr *)&a, sizeof(a)) || listen(s, 8))
		fail("listening");
	for (;;) {
		c = accept4(s, NULL, NULL, SOCK_CLOEXEC);
		f = c < 0 ? NULL : fdopen(c, "r+e");
		if (!f) {
			if (c >= 0)
				close(c);
			nap();
			continue;
		}
		while (fgets(line, sizeof(line), f))
			answer(f, root, line);
		fclose(f);
	}
}

int main(void)
{
	pid_t pid = fork();

	if (!pid) {
		mount_disk();
		start_server();
		serve();
	}
	if (pid < 0)
		printf("lockstep-guest: error: pgstart: fork: %s\n", strerror(errno));
	fflush(stdout);
	execl("/init", "/init", (char *)NULL);
	fail("/init");
	return 1;
}
