/* SPDX-License-Identifier: BSD-2-Clause */
/* The journal's medium where it is a file. All calls block; journal.c makes them in threads. */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/syncdir.h"
#include "disk/journal.h"

static int fd_of(void *arg)
{
	return (int)(intptr_t)arg;
}

static int file_pread(void *arg, void *buf, uint64_t len, uint64_t off)
{
	uint8_t *p = buf;

	while (len) {
		ssize_t n = pread(fd_of(arg), p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n) {
			memset(p, 0, len);
			return 0;
		}
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int file_pwrite(void *arg, const void *buf, uint64_t len, uint64_t off)
{
	const uint8_t *p = buf;

	while (len) {
		ssize_t n = pwrite(fd_of(arg), p, len, (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int file_sync(void *arg)
{
	return fdatasync(fd_of(arg)) ? -errno : 0;
}

static int file_punch(void *arg, uint64_t off, uint64_t len)
{
	return fallocate(fd_of(arg), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)off, (off_t)len) ? -errno : 0;
}

int journal_open(struct journal_file *f, const char *path, struct err *e)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600), rc;
	struct stat st;

	memset(f, 0, sizeof(*f));
	f->arg = (void *)(intptr_t)-1;
	if (fd < 0)
		return err_set(e, -errno, "the journal %s cannot be opened: %s", path, strerror(errno));
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return err_set(e, -EINVAL, "the journal %s is no file", path);
	}
	if (flock(fd, LOCK_EX | LOCK_NB)) {
		rc = -errno;
		close(fd);
		return err_set(e, rc == -EWOULDBLOCK ? -EBUSY : rc, "the journal %s is in use by another process", path);
	}
	/* The headers have their space now: none is lacking when an epoch is to be named that was promised. */
	do
		rc = fallocate(fd, 0, 0, JOURNAL_AREA) ? -errno : 0;
	while (rc == -EINTR);
	if (rc && rc != -EOPNOTSUPP && rc != -ENOSYS) {
		close(fd);
		return err_set(e, rc, "the journal %s cannot be made: %s", path, strerror(-rc));
	}
	rc = sync_dir_of(path);
	if (rc && rc != -EINVAL) {
		close(fd);
		return err_set(e, rc, "the journal %s cannot be made durable: %s", path, strerror(-rc));
	}
	*f = (struct journal_file){ .pread = file_pread, .pwrite = file_pwrite, .sync = file_sync, .punch = file_punch,
				    .arg = (void *)(intptr_t)fd };
	return 0;
}

void journal_unlock(struct journal_file *f)
{
	if (f->pread)
		flock(fd_of(f->arg), LOCK_UN);
}

void journal_close(struct journal_file *f)
{
	if (f->pread && fd_of(f->arg) >= 0)
		close(fd_of(f->arg));
	memset(f, 0, sizeof(*f));
	f->arg = (void *)(intptr_t)-1;
}
