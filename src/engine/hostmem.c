/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What memory is left, asked before a guest's memory is reserved. A memfd has no size limit of its own: fallocate of
 * more than there is does not fail with ENOSPC but goes on until the kernel kills processes, and not necessarily ours.
 * So the question is asked before. Between answer and use others may take some; the caller leaves headroom.
 */
#include "engine/hostmem.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOSTMEM_FILE = 8192 };

/* read_file() - the start of a small file as a string; 0 or -1 */
static int read_file(const char *path, char *buf, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd == -1)
		return -1;
	n = read(fd, buf, cap - 1);
	close(fd);
	if (n < 0)
		return -1;
	buf[n] = 0;
	return 0;
}

/* meminfo() - bytes of a line of /proc/meminfo; UINT64_MAX: no such line */
static uint64_t meminfo(const char *text, const char *name)
{
	const char *p = strstr(text, name);

	return p ? strtoull(p + strlen(name), NULL, 10) * 1024 : UINT64_MAX;
}

static uint64_t file_number(const char *dir, const char *name)
{
	char path[HOSTMEM_FILE + 64], text[64];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	if (read_file(path, text, sizeof(text)) < 0 || *text < '0' || *text > '9')
		return UINT64_MAX;	/* "max" among others */
	return strtoull(text, NULL, 10);
}

/* cgroup() - what the control group and all that it lies in allow; only the unified hierarchy (version 2) */
static uint64_t cgroup(void)
{
	static const char root[] = "/sys/fs/cgroup";
	char text[HOSTMEM_FILE], dir[HOSTMEM_FILE + sizeof(root)], *p, *end;
	uint64_t least = UINT64_MAX;

	if (read_file("/proc/self/cgroup", text, sizeof(text)) < 0)
		return least;
	p = strstr(text, "0::/");
	if (!p || (p != text && p[-1] != '\n'))
		return least;
	p += 3;
	end = strchr(p, '\n');
	if (end)
		*end = 0;
	snprintf(dir, sizeof(dir), "%s%s", root, p);
	while (strlen(dir) > strlen(root)) {
		uint64_t max = file_number(dir, "memory.max"), used = file_number(dir, "memory.current");

		if (max != UINT64_MAX && used != UINT64_MAX) {
			uint64_t left = max > used ? max - used : 0;

			least = left < least ? left : least;
		}
		*strrchr(dir, '/') = 0;
	}
	return least;
}

uint64_t hostmem_available(void)
{
	uint64_t host = UINT64_MAX, group = cgroup(), swap;
	char text[HOSTMEM_FILE];

	if (read_file("/proc/meminfo", text, sizeof(text)) == 0) {
		host = meminfo(text, "MemAvailable:");
		swap = meminfo(text, "SwapFree:");
		if (host != UINT64_MAX && swap != UINT64_MAX)
			host += swap;
	}
	return host < group ? host : group;
}
