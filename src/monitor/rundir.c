/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Run directory: theory of operation
 *
 * Whether an instance runs is answered by one thing only, the kernel's lock (flock) on NAME.lock: it is given back
 * when the last descriptor is closed, however the process died, so a socket without a lock is stale and whoever
 * gets the lock may remove it. Asking the socket instead (connect and see) would race between two starts.
 *
 * The file is removed at an orderly end. A second process may have opened it before that and locked it after; so
 * who has got a lock looks whether the path still names the file that it locked, and begins again if not. The
 * descriptor is close-on-exec: QEMU must not hold the name after us.
 */
#include "monitor/rundir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define RUNDIR_LOCK_TRIES 16	/* lost races against instances that end, in a row */

int rundir_name_check(const char *name, struct err *e)
{
	static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
	size_t n = strlen(name);

	if (!n)
		return err_set(e, -EINVAL, "the name of a VM must not be empty");
	if (n > RUNDIR_NAME_MAX)
		return err_set(e, -EINVAL, "the name '%.20s...' has %zu characters, at most %d are allowed", name, n,
			       RUNDIR_NAME_MAX);
	if (strspn(name, ok) != n || *name == '.' || *name == '-')
		return err_set(e, -EINVAL, "'%s' cannot be a VM's name: letters, digits, '.', '_' and '-' are allowed, "
			       "the first one a letter, a digit or '_'", name);
	return 0;
}

int rundir_default(char *out, size_t cap, struct err *e)
{
	const char *env = getenv(RUNDIR_ENV), *xdg = getenv("XDG_RUNTIME_DIR");
	int n;

	if (env && *env)
		n = snprintf(out, cap, "%s", env);
	else if (!geteuid())
		n = snprintf(out, cap, "/run/lockstep");
	else if (xdg && *xdg)
		n = snprintf(out, cap, "%s/lockstep", xdg);
	else
		return err_set(e, -ENOENT, "no directory for the control socket: XDG_RUNTIME_DIR is not set; "
			       "give --run-dir or set " RUNDIR_ENV);
	if (n < 0 || (size_t)n >= cap)
		return err_set(e, -ENAMETOOLONG, "the run directory's path is too long");
	return 0;
}

int rundir_make(const char *dir, struct err *e)
{
	char path[PATH_MAX];
	struct stat st;

	if (snprintf(path, sizeof(path), "%s", dir) >= (int)sizeof(path) || !*path)
		return err_set(e, -ENAMETOOLONG, "the run directory's path is empty or too long");
	for (char *p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return err_set(e, -errno, "cannot make the directory %s: %s", path, strerror(errno));
		*p = '/';
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set(e, -errno, "cannot make the run directory %s: %s", path, strerror(errno));
	if (stat(path, &st) < 0)
		return err_set(e, -errno, "cannot use the run directory %s: %s", path, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return err_set(e, -ENOTDIR, "the run directory %s is not a directory", path);
	/* Who else could rename entries in it could put a socket of his own in the place of ours. */
	if (st.st_uid != geteuid() && st.st_uid != 0)
		return err_set(e, -EPERM, "the run directory %s belongs to another user (uid %u)", path, st.st_uid);
	if ((st.st_mode & 022) && !(st.st_mode & S_ISVTX))
		return err_set(e, -EPERM, "the run directory %s can be written by others (mode %04o): chmod go-w it",
			       path, st.st_mode & 07777);
	return 0;
}

int rundir_socket(const char *dir, const char *name, char *out, size_t cap, struct err *e)
{
	size_t max = sizeof(((struct sockaddr_un *)0)->sun_path);
	int n;

	if (cap > max)
		cap = max;
	n = snprintf(out, cap, "%s/%s.sock", dir, name);
	if (n < 0 || (size_t)n >= cap)
		return err_set(e, -ENAMETOOLONG, "the path of the control socket, %.60s.../%s.sock, has more than %zu "
			       "characters: use a shorter --run-dir", dir, name, cap - 1);
	return 0;
}

static int rundir_lock_path(const char *dir, const char *name, char *out, size_t cap, struct err *e)
{
	int n = snprintf(out, cap, "%s/%s.lock", dir, name);

	return n < 0 || (size_t)n >= cap ? err_set(e, -ENAMETOOLONG, "the run directory's path is too long") : 0;
}

/* The lock's file holds the owner's pid, for the sentence only. */
static long rundir_owner(int fd)
{
	char text[24];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	return strtol(text, NULL, 10);
}

int rundir_lock(const char *dir, const char *name, struct err *e)
{
	char path[PATH_MAX], text[24];
	int rc = rundir_lock_path(dir, name, path, sizeof(path), e);
	struct stat a, b;
	int fd, n;

	if (rc)
		return rc;
	for (int i = 0; i < RUNDIR_LOCK_TRIES; i++) {
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (fd < 0)
			return err_set(e, -errno, "cannot open %s: %s", path, strerror(errno));
		if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
			long pid = rundir_owner(fd);

			rc = -errno;
			close(fd);
			if (rc == -EWOULDBLOCK && pid > 0)
				return err_set(e, -EBUSY, "a VM with the name %s runs already (pid %ld, run directory "
					       "%s)", name, pid, dir);
			if (rc == -EWOULDBLOCK)
				return err_set(e, -EBUSY, "a VM with the name %s runs already (run directory %s)", name,
					       dir);
			return err_set(e, rc, "cannot lock %s: %s", path, strerror(-rc));
		}
		if (fstat(fd, &a) == 0 && stat(path, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev) {
			n = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
			if (ftruncate(fd, 0) < 0 || pwrite(fd, text, (size_t)n, 0) != n) {
				rc = errno ? -errno : -EIO;
				close(fd);
				return err_set(e, rc, "cannot write %s: %s", path, strerror(-rc));
			}
			return fd;
		}
		close(fd);
	}
	return err_set(e, -EBUSY, "cannot lock %s: others begin and end all the time", path);
}

void rundir_unlock(int fd, const char *dir, const char *name)
{
	char path[PATH_MAX];

	if (fd < 0)
		return;
	if (!rundir_lock_path(dir, name, path, sizeof(path), NULL))
		unlink(path);
	close(fd);
}

/* Whether somebody holds the lock; a shared one is asked for, so that two who look do not see one another. */
static bool rundir_runs(const char *dir, const char *name)
{
	char path[PATH_MAX];
	bool held;
	int fd;

	if (rundir_lock_path(dir, name, path, sizeof(path), NULL))
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd < 0)
		return false;
	held = flock(fd, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK;
	close(fd);
	return held;
}

int rundir_list(const char *dir, void (*fn)(void *arg, const char *name), void *arg, struct err *e)
{
	DIR *d = opendir(dir);
	struct dirent *de;
	int n = 0, seen = 0;

	if (!d && errno == ENOENT)
		return 0;
	if (!d)
		return err_set(e, -errno, "cannot read the run directory %s: %s", dir, strerror(errno));
	while (seen < RUNDIR_MAX_VMS && (de = readdir(d))) {
		char name[RUNDIR_NAME_MAX + 1];
		size_t len = strlen(de->d_name);

		if (len <= 5 || len - 5 > RUNDIR_NAME_MAX || strcmp(de->d_name + len - 5, ".sock"))
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(len - 5), de->d_name);
		if (rundir_name_check(name, NULL))
			continue;
		seen++;
		if (rundir_runs(dir, name)) {
			fn(arg, name);
			n++;
		}
	}
	closedir(d);
	return n;
}
