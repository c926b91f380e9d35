/* SPDX-License-Identifier: BSD-2-Clause */
/* Hashes of the files that a machine is made of: kernels, ROMs, CD-ROMs. Runs at start; no state. */
#include "engine/filehash.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* read_at() - add [@at, @at + @len) to the hash; what is behind the end does not count */
static int read_at(int fd, XXH3_state_t *h, uint8_t *buf, uint64_t at, uint64_t len)
{
	while (len > 0) {
		ssize_t n = pread(fd, buf, len < FILEHASH_PIECE ? len : FILEHASH_PIECE, (off_t)at);

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == 0 ? 0 : -errno;
		XXH3_128bits_update(h, buf, (size_t)n);
		at += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

static int hash(int fd, uint64_t size, char text[FILEHASH_TEXT])
{
	bool whole = size <= FILEHASH_WHOLE;
	XXH3_state_t *h = XXH3_createState();
	uint8_t *buf = malloc(FILEHASH_PIECE);
	int rc = h && buf ? 0 : -ENOMEM;
	XXH128_hash_t sum;

	if (h)
		XXH3_128bits_reset(h);
	if (rc == 0 && whole)
		rc = read_at(fd, h, buf, 0, size);
	for (uint64_t i = 0; rc == 0 && !whole && i < FILEHASH_PIECES; i++)
		rc = read_at(fd, h, buf, (size - FILEHASH_PIECE) / (FILEHASH_PIECES - 1) * i, FILEHASH_PIECE);
	/* The places above are rounded down, the last one perhaps before the end. */
	if (rc == 0 && !whole)
		rc = read_at(fd, h, buf, size - FILEHASH_PIECE, FILEHASH_PIECE);
	if (rc == 0) {
		sum = XXH3_128bits_digest(h);
		snprintf(text, FILEHASH_TEXT, "%" PRIu64 " bytes, xxh3 %016" PRIx64 "%016" PRIx64 "%s", size,
			 (uint64_t)sum.high64, (uint64_t)sum.low64, whole ? "" : " of samples");
	}
	XXH3_freeState(h);
	free(buf);
	return rc;
}

static int look(const char *path, bool content, char text[FILEHASH_TEXT], struct err *e)
{
	struct stat st;
	off_t size;
	int fd, rc = 0;

	if (stat(path, &st))
		return err_set(e, -errno, "%.200s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		snprintf(text, FILEHASH_TEXT, "%s", S_ISDIR(st.st_mode) ? "directory" : "device");
		return 0;
	}
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1)
		return err_set(e, -errno, "%.200s: %s", path, strerror(errno));
	size = lseek(fd, 0, SEEK_END);
	if (size == -1)
		rc = -errno;
	else if (content)
		rc = hash(fd, (uint64_t)size, text);
	else
		snprintf(text, FILEHASH_TEXT, "%" PRIu64 " bytes", (uint64_t)size);
	close(fd);
	return rc ? err_set(e, rc, "%.200s cannot be read: %s", path, strerror(-rc)) : 0;
}

int filehash(const char *path, char text[FILEHASH_TEXT], struct err *e)
{
	return look(path, true, text, e);
}

int filehash_size(const char *path, char text[FILEHASH_TEXT], struct err *e)
{
	return look(path, false, text, e);
}
