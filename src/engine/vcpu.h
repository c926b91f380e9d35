/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_VCPU_H
#define ENGINE_VCPU_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"

/*
 * Whether QEMU's virtual processors get to run. A processor that idles sleeps; one that wants to run and gets no time
 * for it, that is stopped, or that waits for a disk or for memory which does not come, is stuck. One thread at a time.
 */

#define VCPU_MAX 288	/* threads that are watched, as many as a pc or q35 machine can have processors */

struct json_object;

struct vcpu {
	pid_t tid;
	uint64_t ran;		/* ns of CPU time at the last look */
	nstime since;		/* stuck since then, as far as is known */
};

struct vcpus {
	struct vcpu cpu[VCPU_MAX];
	unsigned int n;
};

/* vcpu_take() - the threads of query-cpus-fast's answer; what is none is left out, so n may be 0 */
void vcpu_take(struct vcpus *v, struct json_object *list, nstime now);

/*
 * vcpu_look() - how long the one that is stuck longest has been so
 * @proc: "/proc" (or a test's)
 * @fresh: this process itself did not run since the last look: what was seen before does not count
 * @which: filled when something is stuck
 *
 * Return: ns since it was seen to run, or to sleep, last; 0: none is stuck, or nothing can be known
 */
nstime vcpu_look(struct vcpus *v, const char *proc, pid_t pid, nstime now, bool fresh, unsigned int *which);

#endif
