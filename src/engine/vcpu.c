/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Do the virtual processors run? By what the host's kernel says of their threads: the state (R: wants to run; D: waits
 * for the kernel; T, t: was stopped; S: sleeps, which is what an idle processor and a paused VM do) and the time that
 * each has had. A thread that is in one of the first three and has had no time since the last look has made no progress.
 *
 * The time is schedstat's, in ns; a kernel without that has ticks in stat.
 */
#include "engine/vcpu.h"

#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void vcpu_take(struct vcpus *v, struct json_object *list, nstime now)
{
	v->n = 0;
	if (!json_object_is_type(list, json_type_array))
		return;
	for (size_t i = 0; i < json_object_array_length(list) && v->n < VCPU_MAX; i++) {
		struct json_object *one = json_object_array_get_idx(list, i), *tid = NULL;

		if (!json_object_is_type(one, json_type_object) || !json_object_object_get_ex(one, "thread-id", &tid) ||
		    json_object_get_int64(tid) < 1 || json_object_get_int64(tid) > INT_MAX)
			continue;
		v->cpu[v->n++] = (struct vcpu){ .tid = json_object_get_int(tid), .since = now };
	}
}

static bool slurp(const char *proc, pid_t pid, pid_t tid, const char *file, char *buf, size_t size)
{
	char path[PATH_MAX];
	ssize_t r;
	int fd;

	if (snprintf(path, sizeof(path), "%s/%d/task/%d/%s", proc, (int)pid, (int)tid, file) >= (int)sizeof(path))
		return false;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return false;
	r = read(fd, buf, size - 1);
	close(fd);
	if (r <= 0)
		return false;
	buf[r] = 0;
	return true;
}

/* State and CPU time. Return: whether they are known */
static bool look(const char *proc, pid_t pid, pid_t tid, char *state, uint64_t *ran)
{
	unsigned long long user, sys;
	char buf[1024], *p, *end;

	if (!slurp(proc, pid, tid, "stat", buf, sizeof(buf)))
		return false;
	/* A thread's name may have anything in it; the state comes after its last bracket. */
	p = strrchr(buf, ')');
	if (!p || sscanf(p + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", state, &user, &sys) != 3)
		return false;
	*ran = (user + sys) * (NS_PER_S / (uint64_t)sysconf(_SC_CLK_TCK));
	if (slurp(proc, pid, tid, "schedstat", buf, sizeof(buf))) {
		uint64_t ns = strtoull(buf, &end, 10);

		if (end != buf)
			*ran = ns;
	}
	return true;
}

nstime vcpu_look(struct vcpus *v, const char *proc, pid_t pid, nstime now, bool fresh, unsigned int *which)
{
	nstime longest = 0;

	for (unsigned int i = 0; i < v->n; i++) {
		struct vcpu *c = &v->cpu[i];
		char state = 'S';
		uint64_t ran = c->ran;
		bool known = look(proc, pid, c->tid, &state, &ran);

		if (fresh || !known || ran != c->ran || !strchr("RDTt", state))
			c->since = now;
		c->ran = ran;
		if (now - c->since > longest) {
			longest = now - c->since;
			*which = i;
		}
	}
	return longest;
}
