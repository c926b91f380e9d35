/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The log: one line per message, made in a buffer and written by one write(), so that lines of different
 * threads and processes never mix. No lock: the level and the name are set once, before threads exist.
 */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static enum log_level log_max = LOG_INFO;
static char log_who[64] = "lockstep";
static const char *const level_names[] = { "error", "warn", "note", "info", "debug", "trace" };

void log_init(const char *who, enum log_level level)
{
	snprintf(log_who, sizeof(log_who), "%s", who);
	log_max = level;
}

int log_level_parse(const char *name)
{
	for (size_t i = 0; i < sizeof(level_names) / sizeof(*level_names); i++)
		if (!strcmp(name, level_names[i]))
			return (int)i;
	return -EINVAL;
}

int log_enabled(enum log_level level)
{
	return level <= log_max;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	char line[1024];
	struct timespec ts;
	struct tm tm;
	int saved = errno;
	va_list ap;
	size_t n;
	int k;

	if (!log_enabled(level))
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	localtime_r(&ts.tv_sec, &tm);
	n = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
	k = snprintf(line + n, sizeof(line) - n, ".%03ld %s %s: ", ts.tv_nsec / 1000000, log_who, level_names[level]);
	n += (size_t)k;
	va_start(ap, fmt);
	k = vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	if (k > 0)
		n += (size_t)k < sizeof(line) - n - 1 ? (size_t)k : sizeof(line) - n - 2;
	line[n++] = '\n';
	if (write(STDERR_FILENO, line, n) < 0) {
		/* Nobody can be told that the log is gone; the VM goes on. */
	}
	errno = saved;
}
