/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds of CLOCK_BOOTTIME, which goes on while a host is suspended (P5 rests on that). */
typedef uint64_t nstime;

#define NS_PER_US	1000ull
#define NS_PER_MS	1000000ull
#define NS_PER_S	1000000000ull
#define NS_NEVER	UINT64_MAX

/* clock_ns() - the time now; the shell's, never called from core/ */
static inline nstime clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (nstime)ts.tv_sec * NS_PER_S + (nstime)ts.tv_nsec;
}

#endif
