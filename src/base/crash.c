/* SPDX-License-Identifier: BSD-2-Clause */
/* Named crash points; see crash.h. The process ends by SIGKILL, as a real death would, and PDEATHSIG takes QEMU along. */
#include "base/crash.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef LOCKSTEP_CRASH_POINTS
struct point {
	const char *name, *text;
};

static const struct point points[] = {
#define X(name, text) { #name, text },
	CRASH_POINTS(X)
#undef X
}, fails[] = {
#define X(name, text) { #name, text },
	FAIL_POINTS(X)
#undef X
};

static int crash_at = -1;
static atomic_int crash_after;
static uint64_t fail_at[FAIL_MAX];		/* a bit for each occurrence that is to fail, the first one is bit 1 */
static atomic_uint fail_seen[FAIL_MAX];

/* Which of @n points @s names, up to @len bytes. Return: its number or -1 */
static int find(const struct point *p, int n, const char *s, size_t len)
{
	for (int i = 0; i < n; i++)
		if (strlen(p[i].name) == len && !memcmp(p[i].name, s, len))
			return i;
	return -1;
}

static int crash_init(const char *s)
{
	size_t n = strcspn(s, ":");

	crash_at = find(points, CRASH_MAX, s, n);
	if (crash_at < 0)
		return -EINVAL;
	atomic_store(&crash_after, s[n] ? atoi(s + n + 1) : 1);
	return 0;
}

static int fail_init(const char *s)
{
	for (;;) {
		size_t n = strcspn(s, ":,");
		int p = find(fails, FAIL_MAX, s, n);
		unsigned long k = 1;

		s += n;
		if (*s == ':') {
			char *end;

			k = strtoul(s + 1, &end, 10);
			s = end;
		}
		if (p < 0 || k < 1 || k > FAIL_COUNT_MAX || (*s && *s != ','))
			return -EINVAL;
		fail_at[p] |= UINT64_C(1) << k;
		if (!*s++)
			return 0;
	}
}

int crash_points_init(const char **which)
{
	const char *s = getenv("LOCKSTEP_CRASH_AT");
	int rc;

	crash_at = -1;
	for (int i = 0; i < FAIL_MAX; i++) {
		fail_at[i] = 0;
		atomic_store(&fail_seen[i], 0);
	}
	*which = "LOCKSTEP_CRASH_AT";
	rc = s && *s ? crash_init(s) : 0;
	if (rc)
		return rc;
	*which = "LOCKSTEP_FAIL_AT";
	s = getenv("LOCKSTEP_FAIL_AT");
	return s && *s ? fail_init(s) : 0;
}

void crash_point(enum crash_point p)
{
	if ((int)p == crash_at && atomic_fetch_sub(&crash_after, 1) == 1)
		kill(getpid(), SIGKILL);
}

bool fail_point(enum fail_point p)
{
	unsigned int k;

	if (!fail_at[p])
		return false;
	k = atomic_fetch_add(&fail_seen[p], 1) + 1;
	return k <= FAIL_COUNT_MAX && fail_at[p] >> k & 1;
}

const char *crash_point_text(unsigned int i, const char **meaning)
{
	if (i >= CRASH_MAX)
		return NULL;
	*meaning = points[i].text;
	return points[i].name;
}

const char *fail_point_text(unsigned int i, const char **meaning)
{
	if (i >= FAIL_MAX)
		return NULL;
	*meaning = fails[i].text;
	return fails[i].name;
}
#else
int crash_points_init(const char **which)
{
	static const char *const vars[] = { "LOCKSTEP_CRASH_AT", "LOCKSTEP_FAIL_AT" };

	for (int i = 0; i < 2; i++) {
		const char *s = getenv(vars[i]);

		*which = vars[i];
		if (s && *s)
			return -ENOTSUP;
	}
	return 0;
}

const char *crash_point_text(unsigned int i, const char **meaning)
{
	(void)i;
	(void)meaning;
	return NULL;
}

const char *fail_point_text(unsigned int i, const char **meaning)
{
	(void)i;
	(void)meaning;
	return NULL;
}
#endif
