/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MONITOR_CONDITION_H
#define MONITOR_CONDITION_H

#include <stdbool.h>

#include "monitor/status.h"

/*
 * The one word for how a VM is, made from everything that status knows, and the sentences that belong to it. The states
 * of core/ft say what a node does; this says what a person wants to know.
 */
enum condition {
	COND_UNPROTECTED,	/* the VM serves here and nobody stands by, or nothing runs yet */
	COND_SYNCHRONISING,	/* the secondary is being filled */
	COND_PROTECTED,
	COND_DEGRADED,		/* protected, and something that protection rests on is not as it should be */
	COND_FAILED_OVER,	/* this node has taken over (or is about to), and nobody stands by yet */
	COND_FENCED,		/* the VM stands, since it may be running elsewhere */
	COND_MAX
};

#define CONDITION_WHY_MAX	8
#define CONDITION_WHY_LEN	200
#define CONDITION_HYBRID	(60 * NS_PER_S)	/* hybrid for longer than this is degraded */

struct condition_why {
	unsigned int n;
	char text[CONDITION_WHY_MAX][CONDITION_WHY_LEN];
};

/* condition_name() - "unprotected", "synchronising", "protected", "degraded", "failed over", "fenced" */
const char *condition_name(enum condition c);

/*
 * condition_of() - which one @s is
 * @why: filled with the reasons, without figures that change by themselves, so that two can be compared
 */
enum condition condition_of(const struct status *s, struct condition_why *why);

/* condition_same() - whether two lists of reasons are the same */
bool condition_same(const struct condition_why *a, const struct condition_why *b);

/* condition_json() - add the members condition and condition_why to @o */
void condition_json(struct json_object *o, enum condition c, const struct condition_why *why);

#endif
