/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Locks on an image: theory of operation
 *
 * The same as QEMU's (its file-posix driver), so that a QEMU or a qemu-img and we exclude each other as two QEMUs do. They are
 * locks of the open file (F_OFD_SETLK), all of them shared ones, on single bytes, which need not exist in the file.
 * There are five things that somebody may do with an image; who does thing i holds byte 100 + i, who does not want others to
 * do it holds byte 200 + i. So who wants to do i asks whether anybody holds 200 + i, and who does not bear it asks for
 * 100 + i: by F_OFD_GETLK for an exclusive lock, which is never taken. First all are taken, then asked for, so
 * of two that come at once at least one sees the other.
 *
 * Where two nodes share an image both say that they write it and bear that others do; so a QEMU that does not bear it is
 * kept out, and one that does too (share-rw=on) is let in as it asks for. What tells the two nodes from any third is a
 * byte for each of the two roles, locked exclusively.
 *
 * A lock of an open file has no owner in /proc/locks; but /proc/PID/fdinfo/FD names the locks of each descriptor, so
 * whoever has it is found there, as far as we may look.
 */
#include "disk/imagelock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

#define BASE_DO		100
#define BASE_DENY	200

#define BASE_ROLE	300	/* the one that serves; the next byte: the one that stands by */

enum thing { CONSISTENT_READ, WRITE, WRITE_UNCHANGED, RESIZE };

/* Whether this descriptor of a process holds a lock on @byte. */
static bool holds(const char *pid, const char *fd, off_t byte)
{
	char path[320], line[256], dummy[8];
	long long from, to;
	bool yes = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%.20s/fdinfo/%.20s", pid, fd);
	f = fopen(path, "re");
	if (!f)
		return false;
	while (fgets(line, sizeof(line), f)) {
		char *p = strstr(line, "OFDLCK");

		if (strncmp(line, "lock:", 5) || !p)
			continue;
		if (sscanf(p, "OFDLCK %*s %*s %*s %*s %lld %lld", &from, &to) == 2)
			yes |= from <= byte && byte <= to;
		else if (sscanf(p, "OFDLCK %*s %*s %*s %*s %lld %7s", &from, dummy) == 2)
			yes |= from <= byte;
	}
	fclose(f);
	return yes;
}

static bool process_holds(const char *pid, const struct stat *st, off_t byte)
{
	char path[320];
	struct dirent *d;
	bool yes = false;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
	dir = opendir(path);
	if (!dir)
		return false;
	while (!yes && (d = readdir(dir))) {
		struct stat other;

		if (d->d_name[0] == '.' || fstatat(dirfd(dir), d->d_name, &other, 0))
			continue;
		yes = other.st_dev == st->st_dev && other.st_ino == st->st_ino && holds(pid, d->d_name, byte);
	}
	closedir(dir);
	return yes;
}

/* Fill @who with "process 123 (name)", if it can be found. */
static bool find_holder(const struct stat *st, off_t byte, char *who, size_t size)
{
	DIR *dir = opendir("/proc");
	struct dirent *d;
	bool found = false;

	if (!dir)
		return false;
	while (!found && (d = readdir(dir))) {
		char path[64], name[64] = "";
		FILE *f;

		if (d->d_name[0] < '0' || d->d_name[0] > '9' || !process_holds(d->d_name, st, byte))
			continue;
		found = true;
		snprintf(path, sizeof(path), "/proc/%.20s/comm", d->d_name);
		f = fopen(path, "re");
		if (f) {
			if (fgets(name, sizeof(name), f))
				name[strcspn(name, "\n")] = 0;
			fclose(f);
		}
		if (atol(d->d_name) == getpid())
			snprintf(who, size, "this process itself");
		else
			snprintf(who, size, "process %.20s (%s)", d->d_name, name);
	}
	closedir(dir);
	return found;
}

bool imagelock_holder(const char *path, char *who, size_t size)
{
	/* Who writes is most in the way. */
	static const off_t bytes[] = { BASE_DO + WRITE, BASE_DENY + WRITE, BASE_DO + CONSISTENT_READ };
	struct stat st;

	for (unsigned int i = 0; i < sizeof(bytes) / sizeof(bytes[0]) && !stat(path, &st); i++)
		if (find_holder(&st, bytes[i], who, size))
			return true;
	return false;
}

static int take(int fd, off_t byte)
{
	struct flock l = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	return fcntl(fd, F_OFD_SETLK, &l) ? -errno : 0;
}

/* Return: 1 when another open file holds the byte */
static int held(int fd, off_t byte)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };

	if (fcntl(fd, F_OFD_GETLK, &l))
		return -errno;
	return l.l_type != F_UNLCK;
}

static void drop(int fd)
{
	struct flock l = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = BASE_DO, .l_len = 2 * BASE_DENY };

	fcntl(fd, F_OFD_SETLK, &l);
}

int imagelock_take(int fd, const char *path, bool write, struct err *e)
{
	/* What we do, and what nobody else may do meanwhile. */
	off_t mine[4] = { BASE_DO + CONSISTENT_READ, BASE_DENY + WRITE, BASE_DENY + RESIZE, BASE_DO + WRITE };
	off_t theirs[4] = { BASE_DENY + CONSISTENT_READ, BASE_DO + WRITE, BASE_DO + RESIZE, BASE_DENY + WRITE };
	unsigned int n = write ? 4 : 3;
	struct stat st;
	char who[128];
	int rc = 0;

	for (unsigned int i = 0; i < n && !rc; i++)
		rc = take(fd, mine[i]);
	for (unsigned int i = 0; i < n && !rc; i++) {
		rc = held(fd, theirs[i]);
		if (rc <= 0)
			continue;
		drop(fd);
		if (fstat(fd, &st) || !find_holder(&st, theirs[i], who, sizeof(who)))
			snprintf(who, sizeof(who), "another process");
		return err_set(e, -EBUSY, "%.200s: the image is in use by %s%s", path, who,
			       theirs[i] == BASE_DENY + WRITE ? ", which lets nobody write to it" : "");
	}
	if (!rc)
		return 0;
	drop(fd);
	if (rc == -EAGAIN || rc == -EACCES)
		return err_set(e, -EBUSY, "%.200s: the image is locked by another process", path);
	log_note("%s: this file system has no locks (%s), so nothing keeps others from using the image too", path,
		 strerror(-rc));
	return 0;
}

bool imagelock_role_held(int fd, bool serves)
{
	return held(fd, BASE_ROLE + !serves) == 1;
}

int imagelock_shared(int fd, const char *path, bool serves, struct err *e)
{
	off_t mine[3] = { BASE_DO + CONSISTENT_READ, BASE_DO + WRITE, BASE_DENY + RESIZE };
	off_t theirs[3] = { BASE_DENY + CONSISTENT_READ, BASE_DENY + WRITE, BASE_DO + RESIZE };
	struct flock role = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = BASE_ROLE + !serves, .l_len = 1 };
	struct flock other = { .l_type = F_UNLCK, .l_whence = SEEK_SET, .l_start = BASE_ROLE + serves, .l_len = 1 };
	char who[128] = "another process";
	struct stat st;
	int rc = 0;

	for (unsigned int i = 0; i < 3 && !rc; i++)
		rc = take(fd, mine[i]);
	for (unsigned int i = 0; i < 3 && !rc; i++) {
		rc = held(fd, theirs[i]);
		if (rc <= 0)
			continue;
		drop(fd);
		if (!fstat(fd, &st))
			find_holder(&st, theirs[i], who, sizeof(who));
		return err_set(e, -EBUSY, "%.200s: the image is in use by %s, which shares it with nobody", path, who);
	}
	if (!rc && fcntl(fd, F_OFD_SETLK, &role)) {
		if (errno == EAGAIN || errno == EACCES) {
			drop(fd);
			if (!fstat(fd, &st))
				find_holder(&st, BASE_ROLE + !serves, who, sizeof(who));
			return err_set(e, -EBUSY, "%.200s: %s has the image as the node that %s already", path, who,
				       serves ? "serves" : "stands by");
		}
		rc = -errno;
	}
	if (!rc) {
		fcntl(fd, F_OFD_SETLK, &other);
		return 0;
	}
	drop(fd);
	log_note("%s: this file system has no locks (%s), so nothing keeps others from using the image too", path,
		 strerror(-rc));
	return 0;
}
