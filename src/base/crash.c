/* SPDX-License-Identifier: BSD-2-Clause */
/* Named crash points; see crash.h. The process ends by SIGKILL, as a real death would, and PDEATHSIG takes QEMU along. */
#include "base/crash.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef LOCKSTEP_CRASH_POINTS
static const struct {
	const char *name, *text;
} points[] = {
#define X(name, text) { #name, text },
	CRASH_POINTS(X)
#undef X
};

static int crash_at = -1;
static atomic_int crash_after;

int crash_points_init(void)
{
	const char *s = getenv("LOCKSTEP_CRASH_AT");
	const char *colon;
	size_t n;

	crash_at = -1;
	if (!s || !*s)
		return 0;
	colon = strchr(s, ':');
	n = colon ? (size_t)(colon - s) : strlen(s);
	for (int i = 0; i < CRASH_MAX; i++)
		if (strlen(points[i].name) == n && !memcmp(points[i].name, s, n))
			crash_at = i;
	if (crash_at < 0)
		return -EINVAL;
	atomic_store(&crash_after, colon ? atoi(colon + 1) : 1);
	return 0;
}

void crash_point(enum crash_point p)
{
	if ((int)p == crash_at && atomic_fetch_sub(&crash_after, 1) == 1)
		kill(getpid(), SIGKILL);
}

const char *crash_point_text(unsigned int i, const char **meaning)
{
	if (i >= CRASH_MAX)
		return NULL;
	*meaning = points[i].text;
	return points[i].name;
}
#else
int crash_points_init(void)
{
	const char *s = getenv("LOCKSTEP_CRASH_AT");

	return s && *s ? -ENOTSUP : 0;
}

const char *crash_point_text(unsigned int i, const char **meaning)
{
	(void)i;
	(void)meaning;
	return NULL;
}
#endif
