/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A swap file for a test. The child that has made it hears of the test's end by the end of a pipe, so that a test that
 * is killed leaves nothing behind; it is in a session of its own, so that a signal to the test's group spares it.
 */
#include "mem_swapfile.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/swap.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PIECE = 1 << 20 };

/* make() - a file with a swap header, without holes */
static int make(const char *path, uint64_t bytes)
{
	static char piece[PIECE];
	uint32_t head[3] = { 1, (uint32_t)(bytes / PAGE) - 1, 0 };	/* version, last page, bad pages */
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600), rc = 0;

	if (fd == -1)
		return -errno;
	for (uint64_t at = 0; at < bytes && !rc; at += PIECE)
		rc = write(fd, piece, PIECE) == PIECE ? 0 : -ENOSPC;
	if (!rc && (pwrite(fd, head, sizeof(head), 1024) != sizeof(head) ||
		    pwrite(fd, "SWAPSPACE2", 10, PAGE - 10) != 10 || fsync(fd) == -1))
		rc = -EIO;
	close(fd);
	return rc;
}

static void keep(const char *path, uint64_t bytes, int say, int life)
{
	char c = 0;
	int rc;

	setsid();
	signal(SIGTERM, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	rc = make(path, bytes);
	if (!rc && swapon(path, 0) == -1)
		rc = -errno;
	if (write(say, &rc, sizeof(rc)) == sizeof(rc) && !rc)
		while (read(life, &c, 1) == -1 && errno == EINTR)
			;
	/* Nothing of the test is left by now, so there is little to bring back. */
	if (!rc)
		swapoff(path);
	unlink(path);
	_exit(0);
}

const char *swapfile_new(uint64_t bytes)
{
	static char why[128];
	int life[2], say[2], rc = -EIO;
	char path[64];
	pid_t pid;

	if (geteuid() != 0)
		return "needs root (swapon)";
	if (pipe2(life, O_CLOEXEC) == -1 || pipe2(say, O_CLOEXEC) == -1)
		return "no pipe";
	snprintf(path, sizeof(path), "/tmp/lockstep-swap.%d", getpid());
	bytes = bytes / PIECE * PIECE;
	pid = fork();
	if (pid == -1)
		return "no process";
	if (pid == 0) {
		close(life[1]);
		close(say[0]);
		/* What runs the test waits for the end of its output. */
		for (int fd = 0; fd < 3; fd++)
			close(fd);
		keep(path, bytes, say[1], life[0]);
	}
	close(life[0]);
	close(say[1]);
	if (read(say[0], &rc, sizeof(rc)) != sizeof(rc))
		rc = -EIO;
	close(say[0]);
	if (!rc)
		return NULL;	/* life[1] stays open until the end */
	close(life[1]);
	waitpid(pid, NULL, 0);
	snprintf(why, sizeof(why), "no swap file in /tmp: %s", strerror(-rc));
	return why;
}
