/* SPDX-License-Identifier: BSD-2-Clause */
/* The world of ft_sim.c finds each planted fault of the control machine. Built with LOCKSTEP_FAULTS. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ft_sim.h"

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
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(found) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
