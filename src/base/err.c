/* SPDX-License-Identifier: BSD-2-Clause */
/* Errors with a sentence, for the borders of the parts. Any thread. */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
	va_list ap;

	if (!e)
		return code;
	e->code = code;
	va_start(ap, fmt);
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	return code;
}

int err_prefix(struct err *e, const char *fmt, ...)
{
	char rest[sizeof(e->msg)];
	va_list ap;
	int n;

	if (!e)
		return 0;
	memcpy(rest, e->msg, sizeof(rest));
	va_start(ap, fmt);
	n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	if (n < 0)
		n = 0;
	for (const char *p = ": "; *p && (size_t)n + 1 < sizeof(e->msg); p++)
		e->msg[n++] = *p;
	for (const char *p = rest; *p && (size_t)n + 1 < sizeof(e->msg); p++)
		e->msg[n++] = *p;
	if ((size_t)n < sizeof(e->msg))
		e->msg[n] = 0;
	return e->code;
}
