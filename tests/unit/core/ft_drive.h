/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TEST_FT_DRIVE_H
#define TEST_FT_DRIVE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "core/ft_state.h"

/*
 * One machine, driven by hand: events are short calls, and what a call has to cause is written as one line of words,
 * in order, as words() spells it.
 */
struct drive {
	struct ft ft;
	nstime now;
	struct ft_acts acts;
	char said[1024];
};

static inline const char *net_word(enum net_ev_type t)
{
	switch (t) {
	case NEV_ROLE: return "role";
	case NEV_CLOSE: return "close";
	case NEV_STOPPED: return "stopped";
	case NEV_OPEN: return "open";
	case NEV_STAGED: return "staged";
	case NEV_LOADED: return "loaded";
	case NEV_PROMOTE: return "promote";
	case NEV_ALONE: return "alone";
	case NEV_ANNOUNCE: return "announce";
	default: return "?";
	}
}

/* Announcements are left out: that the state is right is asserted where it matters. */
static inline void words(struct drive *d)
{
	size_t at = 0;

	d->said[0] = 0;
	for (unsigned int i = 0; i < d->acts.n; i++) {
		const struct ft_act *a = &d->acts.a[i];
		const char *sep = at ? " " : "";

		switch (a->type) {
		case FA_ANNOUNCE:
			continue;
		case FA_CTL:
			at += (size_t)snprintf(d->said + at, sizeof(d->said) - at, "%s%s:%u", sep,
					       ctl_type_name(a->ctl.type), (unsigned int)a->ctl.n);
			break;
		case FA_NET:
			at += (size_t)snprintf(d->said + at, sizeof(d->said) - at, "%snet-%s:%u", sep, net_word(a->net),
					       (unsigned int)a->n);
			break;
		case FA_DO:
			at += (size_t)snprintf(d->said + at, sizeof(d->said) - at, "%s%s:%u", sep, ft_step_name(a->step),
					       (unsigned int)a->n);
			break;
		case FA_LEASE:
			at += (size_t)snprintf(d->said + at, sizeof(d->said) - at, "%slease-%s", sep,
					       a->value == NS_NEVER ? "never" : a->value ? "until" : "none");
			break;
		case FA_HOLD:
			at += (size_t)snprintf(d->said + at, sizeof(d->said) - at, "%shold-%s", sep, a->value ? "on" : "off");
			break;
		case FA_END:
			at += (size_t)snprintf(d->said + at, sizeof(d->said) - at, "%send:%u", sep, (unsigned int)a->value);
			break;
		default:
			at += (size_t)snprintf(d->said + at, sizeof(d->said) - at, "%s%s", sep, ft_act_name(a->type));
			break;
		}
	}
}

static inline const char *give(struct drive *d, struct ft_ev ev)
{
	ft_step(&d->ft, d->now, &ev, &d->acts);
	words(d);
	return d->said;
}

static inline const char *ev0(struct drive *d, enum ft_ev_type t, uint64_t value)
{
	return give(d, (struct ft_ev){ .type = t, .value = value });
}

static inline const char *done_rc(struct drive *d, enum ft_step step, uint64_t n, int rc, uint64_t value)
{
	return give(d, (struct ft_ev){ .type = FE_DONE, .step = step, .n = n, .rc = rc, .value = value });
}

static inline const char *done(struct drive *d, enum ft_step step, uint64_t n)
{
	return done_rc(d, step, n, 0, 0);
}

static inline const char *net(struct drive *d, enum net_act_type t, uint64_t n)
{
	return give(d, (struct ft_ev){ .type = FE_NET, .value = t, .n = n });
}

static inline const char *net_want(struct drive *d, enum ckpt_cause cause)
{
	return give(d, (struct ft_ev){ .type = FE_NET, .value = NA_WANT, .cause = cause });
}

static inline const char *want(struct drive *d, enum ckpt_cause cause)
{
	return give(d, (struct ft_ev){ .type = FE_WANT, .cause = cause });
}

static inline const char *ctl_v(struct drive *d, enum ctl_type t, uint64_t n, uint64_t value)
{
	return give(d, (struct ft_ev){ .type = FE_CTL, .ctl = { .type = t, .generation = d->ft.generation, .n = n,
								.value = value } });
}

static inline const char *ctl(struct drive *d, enum ctl_type t, uint64_t n)
{
	return ctl_v(d, t, n, 0);
}

/* Let time pass until the machine wants to be woken, and wake it. */
static inline const char *tick(struct drive *d)
{
	nstime t = ft_deadline(&d->ft);

	assert_true(t != NS_NEVER);
	if (t > d->now)
		d->now = t;
	return ev0(d, FE_TICK, 0);
}

#define SAYS(what, words) assert_string_equal(what, words)
#define STATE(d, s, ph) do { \
		assert_string_equal(ft_state_name((d)->ft.state), ft_state_name(s)); \
		assert_string_equal(ft_phase(&(d)->ft), ph); \
	} while (0)

static inline void start(struct drive *d, enum ft_role role)
{
	struct ft_cfg cfg;

	memset(d, 0, sizeof(*d));
	d->now = 100 * NS_PER_S;
	ft_cfg_default(&cfg, role);
	/* Rounds between checkpoints have a test of their own, precopy.c. */
	cfg.precopy.off = true;
	ft_init(&d->ft, &cfg, 7);
}

#endif
