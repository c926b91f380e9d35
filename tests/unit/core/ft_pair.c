/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two control machines together: every fault at every step of two checkpoints, on either node. Whatever happens no
 * promise is broken (ft_sim.c), nobody is left wedged, and somebody serves if anybody healthy has the VM.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <errno.h>

#include <cmocka.h>

#include "ft_sim.h"

enum fault {
	KILL, KILL_QEMU, HANG_QEMU, FREEZE_SHORT, FREEZE_LONG, LINK_ERROR, FAILOVER, QUIT, QUIT_TWICE, GUEST_OFF,
	GUEST_RESET, PANIC, FAIL_STEP, TIMEOUT_STEP, FAIL_LOAD_ONCE, FAIL_LOAD_TWICE, STALL, STUCK, FAIL_TRY,
	FAIL_TRY_TWICE, FAULTS
};

static const char *const fault_name[FAULTS] = {
	"kill", "kill-qemu", "hang-qemu", "freeze-short", "freeze-long", "link-error", "failover", "quit", "quit-twice",
	"guest-off", "guest-reset", "panic", "fail-step", "timeout-step", "fail-load-once", "fail-load-twice", "stall",
	"stuck", "fail-try", "fail-try-twice",
};

static void ev(struct sim *s, int node, enum ft_ev_type t)
{
	sim_post(s, node, &(struct ft_ev){ .type = t });
}

static void inject(struct sim *s, enum fault f, int node)
{
	switch (f) {
	case KILL:
		sim_kill(s, node);
		break;
	case KILL_QEMU:
		sim_kill_qemu(s, node);
		break;
	case HANG_QEMU:
		sim_hang_qemu(s, node);
		break;
	case FREEZE_SHORT:
		sim_freeze(s, node, 300 * NS_PER_MS);
		break;
	case FREEZE_LONG:
		sim_freeze(s, node, 5 * NS_PER_S);
		break;
	case LINK_ERROR:
		sim_link_error(s);
		break;
	case FAILOVER:
		ev(s, node, FE_FAILOVER);
		break;
	case QUIT:
		ev(s, node, FE_QUIT);
		break;
	case QUIT_TWICE:
		ev(s, node, FE_QUIT);
		ev(s, node, FE_QUIT);
		break;
	case GUEST_OFF:
		ev(s, node, FE_GUEST_OFF);
		break;
	case GUEST_RESET:
		ev(s, node, FE_GUEST_RESET);
		break;
	case PANIC:
		ev(s, node, FE_GUEST_PANIC);
		break;
	case FAIL_STEP:
	case TIMEOUT_STEP:
		s->fail_node = node;
		s->fail_step = (int)sim_rand(s, STEP_MAX);
		s->fail_rc = f == FAIL_STEP ? -EIO : -ETIMEDOUT;
		s->fail_times = 1;
		break;
	case FAIL_LOAD_ONCE:
	case FAIL_LOAD_TWICE:
		s->fail_node = 1;
		s->fail_step = STEP_LOAD;
		s->fail_rc = -EINVAL;
		s->fail_times = f == FAIL_LOAD_ONCE ? 1 : 2;
		break;
	case FAIL_TRY:
	case FAIL_TRY_TWICE:
		s->fail_node = 0;
		s->fail_step = -1;
		s->fail_rc = -EIO;
		s->fail_times = f == FAIL_TRY ? 1 : 2;
		break;
	case STALL:
		s->stall = true;
		break;
	case STUCK:
		ev(s, node, FE_STUCK);
		break;
	default:
		break;
	}
}

/* Is this node at rest in a sensible way? */
static const char *wedged(const struct sim *s, int i)
{
	const struct sim_node *n = &s->n[i], *peer = &s->n[1 - i];
	bool peer_there = !peer->dead && !peer->ended;

	if (n->dead || n->ended)
		return n->qemu && !n->dead ? "ended, and QEMU lives" : NULL;
	/* Alone with a QEMU that does not answer: there is nothing better than to ask again. */
	if (n->hung && (n->ft.state == FT_ALONE || n->ft.state == FT_PROMOTING))
		return NULL;
	switch (n->ft.state) {
	case FT_ALONE:
		if (!sim_serves(s, i))
			return "alone, and does not serve";
		if (n->lease != NS_NEVER)
			return "alone under a lease";
		return n->role == NET_ALONE ? NULL : "alone, and net does not know";
	case FT_PROTECTED:
		if (!peer_there || peer->ft.state != FT_STANDBY)
			return "protected by nobody";
		return sim_serves(s, i) || n->ft.p.phase != PRI_IDLE ? NULL : "protected, and does not serve";
	case FT_STANDBY:
		return peer_there && peer->ft.state == FT_PROTECTED ? NULL : "stands by for nobody";
	case FT_JOINING:
		return n->ft.link || peer_there ? "is being filled still" : NULL;
	case FT_SYNC:
		return "is synchronising still";
	default:
		return "is neither serving, nor standing by, nor ended";
	}
}

static bool wants_end(enum fault f)
{
	return f == QUIT || f == QUIT_TWICE || f == GUEST_OFF;
}

static uint64_t run_one(uint64_t seed, unsigned int at, enum fault f, int node, enum fault f2, unsigned int at2,
			bool verbose)
{
	static struct sim s;
	bool standby;
	int serving;

	sim_start(&s, seed);
	s.verbose = verbose;
	for (unsigned int k = 0; k < at && sim_step(&s); k++)
		;
	standby = s.n[1].was[FT_STANDBY];
	inject(&s, f, node);
	if (f2 != FAULTS) {
		for (unsigned int k = 0; k < at2 && sim_step(&s); k++)
			;
		inject(&s, f2, (int)sim_rand(&s, 2));
	}
	sim_run(&s, s.now + 60 * NS_PER_S);
	serving = sim_serves(&s, 0) + sim_serves(&s, 1);
	/* In the middle of a checkpoint the gate is closed for a moment. */
	for (int k = 0; k < 200 && !s.bad[0] && !serving; k++) {
		sim_step(&s);
		serving = sim_serves(&s, 0) + sim_serves(&s, 1);
	}
	for (int i = 0; i < 2 && !s.bad[0]; i++)
		if (wedged(&s, i))
			snprintf(s.bad, sizeof(s.bad), "node %d: %s (%s, %s)", i, wedged(&s, i),
				 ft_state_name(s.n[i].ft.state), ft_phase(&s.n[i].ft));
	if (!s.bad[0] && serving > 1 && !s.cut_ok)
		snprintf(s.bad, sizeof(s.bad), "two serve");
	/* With one fault there is always somebody left, if the secondary was ready or is not the one that is needed. */
	if (!s.bad[0] && f2 == FAULTS && serving == 0 && !wants_end(f) && (standby || node == 1) && !s.n[0].hung)
		snprintf(s.bad, sizeof(s.bad), "nobody serves (%s, %s)", ft_reason_name(s.n[0].why),
			 ft_reason_name(s.n[1].why));
	if (s.bad[0]) {
		fail_msg("seed %lu, %s on node %d at step %u, then %s at %u: %s", (unsigned long)seed, fault_name[f],
			 node, at, f2 == FAULTS ? "nothing" : fault_name[f2], at2, s.bad);
	}
	return s.steps;
}

static unsigned long env(const char *name, unsigned long otherwise)
{
	const char *v = getenv(name);

	return v ? strtoul(v, NULL, 0) : otherwise;
}

static void no_fault(void **state)
{
	static struct sim s;

	for (uint64_t seed = 1; seed <= 20; seed++) {
		sim_start(&s, seed);
		sim_run(&s, 20 * NS_PER_S);
		assert_string_equal(s.bad, "");
		assert_int_equal(s.n[0].ft.state, FT_PROTECTED);
		assert_int_equal(s.n[1].ft.state, FT_STANDBY);
		assert_true(ft_checkpoints(&s.n[0].ft, CAUSE_MAX) > 30);
		assert_int_equal(ft_checkpoints(&s.n[0].ft, CAUSE_FIRST), 1);
	}
}

/* A step that fails once costs nothing but a checkpoint, whichever it is; twice in a row, protection. */
static void a_failed_step_is_tried_again(void **state)
{
	unsigned int again = 0, parted = 0;
	static struct sim s;

	for (uint64_t seed = 1; seed <= 300; seed++) {
		static const enum fault kinds[] = { FAIL_TRY, FAIL_TRY_TWICE };
		uint64_t before;

		sim_start(&s, seed);
		for (unsigned int k = 0; k < 6 + seed % 130 && sim_step(&s); k++)
			;
		inject(&s, kinds[seed % 2], 0);
		sim_run(&s, s.now + 20 * NS_PER_S);
		assert_string_equal(s.bad, "");
		assert_int_equal(s.fail_times, 0);
		before = ft_checkpoints(&s.n[0].ft, CAUSE_MAX);
		if (s.n[0].ft.state == FT_PROTECTED) {
			assert_int_equal(s.n[1].ft.state, FT_STANDBY);
			assert_true(before > 20);
			assert_true(ft_aborted(&s.n[0].ft) >= 1);
			again++;
		} else {
			assert_int_equal(seed % 2, 1);
			assert_int_equal(s.n[0].ft.state, FT_ALONE);
			assert_int_equal(ft_reason(&s.n[0].ft), FT_WHY_STEP_FAILED);
			assert_int_equal(ft_aborted(&s.n[0].ft), 1);
			parted++;
		}
	}
	assert_true(again > 150 && parted > 20);
}

static void every_fault_everywhere(void **state)
{
	uint64_t steps = 0;

	for (unsigned int at = 6; at < 130; at++)
		for (int f = 0; f < FAULTS; f++)
			for (int node = 0; node < 2; node++)
				steps += run_one(at * 1000 + (unsigned int)f, at, f, node, FAULTS, 0, false);
	print_message("%lu steps\n", (unsigned long)steps);
}

/* The same while a checkpoint is given up and tried again. */
static void every_fault_in_an_abort(void **state)
{
	uint64_t steps = 0;

	for (unsigned int at = 0; at < 60; at++)
		for (int f = 0; f < FAULTS; f++)
			for (unsigned int k = 0; k < 2; k++)
				steps += run_one(at * 1000 + (unsigned int)f + k, 6 + 60 * k, FAIL_TRY, 0, f, at,
							 false);
	print_message("%lu steps\n", (unsigned long)steps);
}

static void two_faults(void **state)
{
	unsigned long seed = env("LOCKSTEP_SEED", 1), runs = env("RUNS", 3000);
	struct sim r;

	print_message("seeds from %lu, %lu runs\n", seed, runs);
	for (; runs; runs--, seed++) {
		unsigned int at, at2, f, f2, node;

		sim_start(&r, seed);
		at = 6 + (unsigned int)sim_rand(&r, 150);
		at2 = (unsigned int)sim_rand(&r, 60);
		f = (unsigned int)sim_rand(&r, FAULTS);
		f2 = (unsigned int)sim_rand(&r, FAULTS);
		node = (unsigned int)sim_rand(&r, 2);
		run_one(seed, at, f, (int)node, f2, at2, getenv("VERBOSE") != NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_fault),
		cmocka_unit_test(a_failed_step_is_tried_again),
		cmocka_unit_test(every_fault_everywhere),
		cmocka_unit_test(every_fault_in_an_abort),
		cmocka_unit_test(two_faults),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
