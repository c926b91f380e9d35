/* SPDX-License-Identifier: BSD-2-Clause */
/* Where guest memory lies in this process: the kernel's list of mappings, read anew whenever it is asked for. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "agent.h"

enum { AGENT_LINE = 512 };	/* bytes of a line of the map that matter; the rest is skipped */

uint64_t agent_num(const char **p, const char *end, unsigned int base)
{
	uint64_t v = 0;

	for (; *p < end; (*p)++) {
		char c = **p;
		unsigned int d = c >= '0' && c <= '9' ? (unsigned int)(c - '0') :
				 c >= 'a' && c <= 'f' ? (unsigned int)(c - 'a' + 10) : 99;

		if (d >= base)
			break;
		v = v * base + d;
	}
	if (*p < end)
		(*p)++;
	return v;
}

/* map_line() - look at one line of the map: "start-end rwxp offset major:minor inode  name" */
static int map_line(const char *p, const char *end)
{
	uint64_t start = agent_num(&p, end, 16), stop = agent_num(&p, end, 16), offset;
	unsigned int major, minor;
	struct agent_range *last;
	bool shared;
	char perms[5] = "";

	if (end - p < 5)
		return 0;
	memcpy(perms, p, 4);
	p += 5;
	offset = agent_num(&p, end, 16);
	major = (unsigned int)agent_num(&p, end, 16);
	minor = (unsigned int)agent_num(&p, end, 16);
	if (agent_num(&p, end, 10) != ag.ino || makedev(major, minor) != ag.dev || stop <= start)
		return 0;
	shared = perms[3] == 's';
	last = ag.n_ranges > 0 ? &ag.range[ag.n_ranges - 1] : NULL;
	if (last && last->addr + last->len == start && last->offset + last->len == offset &&
	    last->shared == (shared ? 1 : 0)) {
		last->len += stop - start;
		return 0;
	}
	if (ag.n_ranges == AGENT_MAX_RANGES)
		return -E2BIG;
	ag.range[ag.n_ranges++] = (struct agent_range){
		.addr = start, .len = stop - start, .offset = offset, .shared = shared ? 1 : 0,
	};
	return 0;
}

int agent_find_ranges(void)
{
	char line[AGENT_LINE], buf[1024];
	size_t n = 0;
	ssize_t got;
	int rc = 0;

	ag.n_ranges = 0;
	if (lseek(ag.maps, 0, SEEK_SET) == -1)
		return -errno;
	for (;;) {
		got = read(ag.maps, buf, sizeof(buf));
		if (got == -1 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		for (ssize_t i = 0; i < got && rc == 0; i++) {
			if (buf[i] == '\n') {
				rc = map_line(line, line + n);
				n = 0;
			} else if (n < sizeof(line)) {
				line[n++] = buf[i];
			}
		}
	}
	return got == -1 ? -errno : rc;
}

void agent_hello(const struct agent_msg *req)
{
	struct agent_hello h = { .pid = (uint32_t)getpid() };
	struct iovec iov[2] = { { &h, sizeof(h) }, { ag.range, 0 } };
	int fds[AGENT_FD_MAX] = { ag.pagemap, ag.mem, ag.status, ag.clear_refs }, rc;

	if (ag.ram == -1) {
		agent_refuse(req, -ENOENT, "the descriptor of the guest's memory did not arrive in QEMU");
		return;
	}
	if (ag.maps == -1 || ag.pagemap == -1 || ag.mem == -1 || ag.status == -1) {
		agent_refuse(req, -EACCES, "maps, pagemap, mem or status of /proc/self cannot be opened inside QEMU");
		return;
	}
	rc = agent_find_ranges();
	if (rc < 0) {
		agent_refuse(req, rc, rc == -E2BIG ? "the guest's memory is mapped in too many pieces" :
					       "/proc/self/maps cannot be read inside QEMU");
		return;
	}
	h.n_ranges = ag.n_ranges;
	iov[1].iov_len = ag.n_ranges * sizeof(ag.range[0]);
	agent_reply(req, 0, iov, 2, fds, ag.clear_refs == -1 ? AGENT_FD_CLEAR_REFS : AGENT_FD_MAX);
}

void *agent_locate(uint64_t offset, uint64_t len, bool private)
{
	for (unsigned int i = 0; i < ag.n_ranges; i++) {
		const struct agent_range *r = &ag.range[i];

		if ((!private || !r->shared) && offset >= r->offset && len <= r->len && offset - r->offset <= r->len - len)
			return (void *)(uintptr_t)(r->addr + (offset - r->offset));	/* NOLINT: an address */
	}
	return NULL;
}
