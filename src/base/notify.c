/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * sd_notify without libsystemd: one datagram a message, no answer. A manager that does not read has room for a few only. What
 * is said again and again is lost then; the words that are said once wait for a second at most.
 */
#include "base/notify.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static struct {
	int fd;
	char path[14 + sizeof(((struct sockaddr_un *)0)->sun_path)], usec[38];	/* NAME=value */
	struct sockaddr_un to;
	socklen_t len;
	nstime watchdog;
	int ready;
} notify = { .fd = -1, .watchdog = NS_NEVER };

void notify_init(void)
{
	const char *path = getenv("NOTIFY_SOCKET"), *usec = getenv("WATCHDOG_USEC"), *pid = getenv("WATCHDOG_PID");
	struct timeval once = { .tv_sec = 1 };
	size_t n = path ? strlen(path) : 0;
	unsigned long long us = usec ? strtoull(usec, NULL, 10) : 0;

	if (n > 1 && n < sizeof(notify.to.sun_path) && (*path == '/' || *path == '@')) {
		notify.to.sun_family = AF_UNIX;
		memcpy(notify.to.sun_path, path, n);
		snprintf(notify.path, sizeof(notify.path), "NOTIFY_SOCKET=%s", path);
		/* An abstract name begins with a NUL, written as an @. */
		if (*path == '@')
			notify.to.sun_path[0] = '\0';
		notify.len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
		notify.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (notify.fd >= 0)
			setsockopt(notify.fd, SOL_SOCKET, SO_SNDTIMEO, &once, sizeof(once));
	}
	if (notify.fd >= 0 && us > 1 && us < UINT64_MAX / NS_PER_US && (!pid || atoll(pid) == getpid()))
		notify.watchdog = us * NS_PER_US / 2;
	if (notify.watchdog != NS_NEVER)
		snprintf(notify.usec, sizeof(notify.usec), "WATCHDOG_USEC=%llu", us);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

void notify_env(const char *out[3])
{
	unsigned int n = 0;

	if (notify.fd >= 0)
		out[n++] = notify.path;
	if (notify.fd >= 0 && *notify.usec)
		out[n++] = notify.usec;
	out[n] = NULL;
}

void notify_pass_on(void)
{
	const char *env[3];

	notify_env(env);
	for (unsigned int i = 0; env[i]; i++)
		putenv((char *)env[i]);
}

nstime notify_watchdog(void)
{
	return notify.watchdog;
}

__attribute__((format(printf, 2, 3)))
static void say(int flags, const char *fmt, ...)
{
	char text[512];
	va_list ap;
	int n;

	if (notify.fd < 0)
		return;
	va_start(ap, fmt);
	n = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = n < (int)sizeof(text) ? n : (int)sizeof(text) - 1;
	if (n > 0 && sendto(notify.fd, text, (size_t)n, MSG_NOSIGNAL | flags, (struct sockaddr *)&notify.to,
			    notify.len) < 0)
		return;
}

void notify_ready(void)
{
	/* A former life of this node may have put its watchdog to rest. */
	if (!notify.ready++)
		say(0, "READY=1%s%s", *notify.usec ? "\n" : "", notify.usec);
}

void notify_alive(void)
{
	say(MSG_DONTWAIT, "WATCHDOG=1");
}

void notify_stopping(void)
{
	say(0, "STOPPING=1\nWATCHDOG_USEC=0");	/* the loop does not turn while images are written and closed */
}

void notify_status(const char *word, const char *role, const char *why)
{
	say(MSG_DONTWAIT, "STATUS=%s (%s)%s%s", word, role, *why ? ": " : "", why);
}

void notify_again(void)
{
	say(0, "STATUS=beginning anew\nWATCHDOG_USEC=0");
}
