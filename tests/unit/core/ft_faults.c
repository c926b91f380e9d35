/* SPDX-License-Identifier: BSD-2-Clause */
/* The world of ft_sim.c finds each planted fault of the control machine. Built with LOCKSTEP_FAULTS. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ft_sim.h"

/* A step of the primary fails and is tried again; the first promise that is broken. */
static const char *first_bad_of_abort(uint32_t faults)
{
	static struct sim s;

	for (uint64_t seed = 1; seed <= 20; seed++) {
		sim_start(&s, seed);
		s.n[0].ft.cfg.faults = s.n[1].ft.cfg.faults = faults;
		s.fail_step = -1;
		s.fail_rc = -EIO;
		s.fail_times = 1;
		sim_run(&s, s.now + 4 * NS_PER_S);
		if (s.bad[0])
			return s.bad;
	}
	return "";
}

/* Kill the primary at each step of a life; the first promise that is broken. */
static const char *first_bad(uint32_t faults)
{
	static struct sim s;

	for (uint64_t seed = 1; seed <= 20; seed++)
		for (unsigned int at = 20; at < 130; at++) {
			sim_start(&s, seed);
			s.n[0].ft.cfg.faults = s.n[1].ft.cfg.faults = faults;
			for (unsigned int k = 0; k < at && sim_step(&s); k++)
				;
			if (!s.bad[0])
				sim_kill(&s, 0);
			sim_run(&s, s.now + 2 * NS_PER_S);
			if (s.bad[0])
				return s.bad;
		}
	return "";
}

static void found(void **state)
{
	assert_string_equal(first_bad(0), "");
	assert_non_null(strstr(first_bad(FT_FAULT_APPLY_EARLY), "before STAGED"));
	assert_non_null(strstr(first_bad(FT_FAULT_STAGED_EARLY), "too early"));
	assert_non_null(strstr(first_bad(FT_FAULT_PROMOTE_STAGED), "continues the old SVM after STAGED"));
	assert_string_equal(first_bad_of_abort(0), "");
	assert_non_null(strstr(first_bad_of_abort(FT_FAULT_ABORT_DROP_PAGES), "without the pages of the one before"));
	assert_non_null(strstr(first_bad_of_abort(FT_FAULT_ABORT_RELEASE), "before STAGED"));
	assert_non_null(strstr(first_bad_of_abort(FT_FAULT_ABORT_RUN), "runs on from its own state"));
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(found) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
