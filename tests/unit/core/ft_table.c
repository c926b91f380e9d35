/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table: no cell is empty, none crashes whatever it is given, and the machine's own invariants hold after every
 * step of a million random ones. LOCKSTEP_SEED and STEPS in the environment replay and extend.
 */
#include <stdlib.h>

#include "ft_drive.h"

static void every_cell_is_named(void **state)
{
	unsigned int ignored = 0;

	for (int s = 0; s < FT_STATE_MAX; s++)
		for (int e = 0; e < FE_TYPE_MAX; e++) {
			assert_non_null(ft_cell(s, e));
			ignored += !strcmp(ft_cell(s, e), "ignore");
		}
	assert_null(ft_cell(FT_STATE_MAX, 0));
	assert_null(ft_cell(0, FE_TYPE_MAX));
	assert_true(ignored > 0 && ignored < FT_STATE_MAX * FE_TYPE_MAX);
}

/* docs/states.md: a row for each cell that does something, the others in one line. */
static void every_cell_is_documented(void **state)
{
	static char doc[65536];
	FILE *f = fopen(STATES_DOC, "r");
	size_t n;

	assert_non_null(f);
	n = fread(doc, 1, sizeof(doc) - 1, f);
	fclose(f);
	assert_in_range(n, 1, sizeof(doc) - 2);
	for (int s = 0; s < FT_STATE_MAX; s++) {
		char want[160], *begin, *end, *none;

		snprintf(want, sizeof(want), "\n## %s\n", ft_state_name(s));
		begin = strstr(doc, want);
		if (!begin)
			fail_msg("docs/states.md has no state %s", ft_state_name(s));
		end = strstr(begin + 4, "\n## ");
		if (end)
			*end = 0;
		none = strstr(begin, "\nMeans nothing here: ");
		for (int e = 0; e < FE_TYPE_MAX; e++) {
			bool ignored = !strcmp(ft_cell(s, e), "ignore");
			char *at;

			snprintf(want, sizeof(want), "\n| %s | `%s` | ", ft_ev_name(e), ft_cell(s, e));
			at = ignored ? NULL : strstr(begin, want);
			if (!ignored && (!at || strcspn(at + strlen(want), "\n") < 12))
				fail_msg("docs/states.md, %s: no row %s", ft_state_name(s), want + 1);
			snprintf(want, sizeof(want), " %s", ft_ev_name(e));
			at = none;
			while (at && (at = strstr(at + 1, want)) && !strchr(",.", at[strlen(want)]))
				;
			if (ignored != !!at)
				fail_msg("docs/states.md, %s: %s means %s", ft_state_name(s), ft_ev_name(e), ignored ? "nothing" :
					 "something");
		}
		if (end)
			*end = '\n';
	}
}

static void every_name(void **state)
{
	for (int i = 0; i < FT_STATE_MAX; i++)
		assert_string_not_equal(ft_state_name(i), "?");
	for (int i = 0; i < FT_WHY_MAX; i++)
		assert_string_not_equal(ft_reason_name(i), "?");
	for (int i = 0; i < STEP_MAX; i++)
		assert_string_not_equal(ft_step_name(i), "?");
	for (int i = 0; i < CTL_TYPE_MAX; i++)
		assert_string_not_equal(ctl_type_name(i), "?");
	for (int i = 0; i < FE_TYPE_MAX; i++)
		assert_string_not_equal(ft_ev_name(i), "?");
	for (int i = 0; i < FA_TYPE_MAX; i++)
		assert_string_not_equal(ft_act_name(i), "?");
	for (int i = 0; i < CAUSE_MAX; i++)
		assert_string_not_equal(ckpt_cause_name(i), "?");
	for (int i = 0; i < PRI_PHASE_MAX; i++)
		assert_string_not_equal(pri_phase_name(i), "?");
	for (int i = 0; i < SEC_PHASE_MAX; i++)
		assert_string_not_equal(sec_phase_name(i), "?");
	assert_string_equal(ft_state_name(-1), "?");
	assert_string_equal(ckpt_cause_name(CAUSE_MAX), "?");
}

static uint64_t rng;

static uint64_t rnd(uint64_t below)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng % below;
}

/* An event that often means something: an answer to what is under way, a number near the epoch. */
static struct ft_ev random_event(const struct ft *ft)
{
	struct ft_ev ev = { .type = rnd(FE_TYPE_MAX + 1) };
	uint64_t near = ft->epoch + rnd(4) - 2;
	unsigned int s = (unsigned int)rnd(STEP_MAX);

	if (ft->state != FT_FENCED && rnd(2))
		ev.type = (enum ft_ev_type[]){ FE_DONE, FE_NET, FE_CTL, FE_BULK_BARRIER, FE_DISK_BARRIER }[rnd(5)];
	ev.n = rnd(8) ? near : rng;
	ev.cause = rnd(CAUSE_MAX + 2);
	ev.step = rnd(STEP_MAX + 2);
	ev.value = rnd(4) ? rnd(12) : rng;
	ev.rc = rnd(6) ? 0 : rnd(2) ? -EIO : -ETIMEDOUT;
	if (ev.step == STEP_WITNESS)
		ev.rc = (int[]){ 0, 0, -EIO, -EIO, -EIO, -ESTALE }[rnd(6)];
	if (ev.type == FE_NET)
		ev.value = NA_CUT + rnd(5);
	if (ev.type == FE_DONE && ft->busy[s].on) {
		ev.step = s;
		ev.n = ft->busy[s].n;
	}
	ev.ctl = (struct ctl_msg){ .type = rnd(CTL_TYPE_MAX + 1), .generation = ft->generation + (rnd(10) ? 0 : 1),
				   .n = near, .value = rnd(2) ? rnd(20) : rng };
	/* Ends would hide the rest. */
	if (ft->state != FT_PROMOTING && ft->state != FT_FENCED &&
	    (ev.type == FE_QUIT || ev.type == FE_QEMU_DIED || ev.type == FE_QEMU_HUNG || ev.type == FE_GUEST_OFF ||
	     (ev.type == FE_CTL && ev.ctl.type >= CTL_FAILED)) && rnd(40))
		ev.type = FE_PROGRESS;
	return ev;
}

/* What would come next if all went well. */
static struct ft_ev next_event(const struct ft *ft)
{
	uint64_t n = ft->s.phase == SEC_OFF ? ft->p.n : ft->epoch;
	unsigned int s = (unsigned int)rnd(STEP_MAX);
	struct ft_ev ev = { .type = FE_NET, .n = n, .value = NA_CUT };

	for (int i = 0; i < STEP_MAX; i++, s = (s + 1) % STEP_MAX)
		if (ft->busy[s].on && rnd(4))
			return (struct ft_ev){ .type = FE_DONE, .step = s, .n = ft->busy[s].n, .value = rnd(3000) };
	if (ft->p.phase == PRI_COLLECT || ft->s.phase == SEC_COLLECT)
		ev.value = rnd(3) ? NA_DRAINED : NA_BARRIER;
	if ((ft->s.phase == SEC_COLLECT || ft->s.phase == SEC_FILL) && rnd(2))
		ev = (struct ft_ev){ .type = (enum ft_ev_type[]){ FE_BULK_BARRIER, FE_NET, FE_DISK_BARRIER }[rnd(3)], .n = n,
				     .value = NA_BARRIER };
	else if (ft->p.phase == PRI_STAGE || ft->p.phase == PRI_LOAD)
		ev = (struct ft_ev){ .type = FE_CTL, .ctl = { .type = ft->p.phase == PRI_LOAD ? CTL_LOADED : CTL_STAGED } };
	else if (ft->s.phase == SEC_FILL || ft->s.phase == SEC_IDLE)
		ev = (struct ft_ev){ .type = FE_CTL, .ctl = { .type = CTL_EPOCH_END } };
	else if (ft->p.phase == PRI_IDLE)
		ev = (struct ft_ev){ .type = FE_WANT, .cause = CAUSE_COMMAND };
	else if (ft->state == FT_ALONE && share_busy(ft) && rnd(4))
		ev.type = FE_TICK;
	else if (ft->state == FT_ALONE)
		ev = (struct ft_ev){ .type = FE_LINK_UP };
	ev.ctl.n = n;
	ev.ctl.generation = ft->generation;
	return ev;
}

static void check(const struct drive *d, const struct ft *before)
{
	const struct ft *ft = &d->ft;
	bool ended = false;

	assert_true(ft->epoch >= before->epoch || before->state == FT_JOINING);
	assert_true(ft->generation >= before->generation || before->state <= FT_JOINING);
	assert_int_equal(ft_refused(ft), 0);
	assert_true(before->state != FT_ENDED || (d->acts.n == 0 && ft->state == FT_ENDED));
	/* A serving node never becomes a secondary, a joining one never serves. */
	if (before->state >= FT_ALONE && before->state <= FT_PROTECTED)
		assert_true(ft->state <= FT_PROTECTED || ft->state == FT_FENCED || ft->state == FT_ENDED);
	if (before->state == FT_JOINING)
		assert_true(ft->state == FT_JOINING || ft->state == FT_STANDBY || ft->state == FT_ENDED);
	for (unsigned int i = 0; i < d->acts.n; i++) {
		ended = ended || d->acts.a[i].type == FA_END;
		if (d->acts.a[i].type == FA_NET && d->acts.a[i].net == NEV_PROMOTE)
			assert_true(before->state == FT_STANDBY || before->state == FT_PROMOTING);
	}
	assert_true((ft->state == FT_ENDED && before->state != FT_ENDED) == ended);
	/* Who waits for QEMU, net or the peer has a deadline. */
	if (ft->state >= FT_SYNC && ft->state <= FT_PROMOTING) {
		bool idle = ft->p.phase == PRI_IDLE || ft->p.phase == PRI_OFF;

		if (ft->s.phase > SEC_IDLE || (ft->s.phase == SEC_OFF && !idle))
			if (ft_deadline(ft) == NS_NEVER)
				fail_msg("%s waits in %s for ever (link %d, claimed %d, drained %d)", ft_state_name(ft->state),
					 ft_phase(ft), ft->link, ft->claimed, ft->s.drained);
	}
}

static void slow_hosts(void **state)
{
	struct ft_cfg was, cfg;

	ft_cfg_default(&was, FT_PRIMARY);
	cfg = was;
	ft_cfg_slow(&cfg, NS_PER_MS);
	ft_cfg_slow(&cfg, was.stop_deadline);
	assert_memory_equal(&cfg, &was, sizeof(cfg));
	ft_cfg_slow(&cfg, 10 * was.stop_deadline);
	assert_int_equal(cfg.stop_deadline, 10 * was.stop_deadline);
	assert_int_equal(cfg.gate_deadline, 10 * was.gate_deadline);
	assert_int_equal(cfg.copy_deadline, 10 * was.copy_deadline);
	assert_int_equal(cfg.staged_deadline, 10 * was.staged_deadline);
	assert_int_equal(cfg.loaded_deadline, 10 * was.loaded_deadline);
	assert_int_equal(cfg.load_deadline, 10 * was.load_deadline);
	assert_int_equal(cfg.lease, was.lease);
	/* The longest time that the option takes. */
	ft_cfg_slow(&cfg, UINT32_MAX * NS_PER_MS);
	assert_in_range(cfg.loaded_deadline, UINT32_MAX * NS_PER_MS, 1000ull * UINT32_MAX * NS_PER_MS);
}

static void random_events(void **state)
{
	const char *e = getenv("LOCKSTEP_SEED"), *n = getenv("STEPS");
	uint64_t seed = e ? strtoull(e, NULL, 0) : 1, steps = n ? strtoull(n, NULL, 0) : 2500000, lives = 0;
	uint64_t seen[FT_STATE_MAX][FE_TYPE_MAX] = { 0 };
	struct drive d = { .ft = { .state = FT_ENDED } };

	print_message("seed %lu\n", (unsigned long)seed);
	for (rng = seed * 0x9e3779b97f4a7c15ull + 1; steps; steps--) {
		struct ft before;
		struct ft_ev ev;

		if (d.ft.state == FT_ENDED && (lives == 0 || rnd(20) == 0)) {
			start(&d, rnd(2) ? FT_PRIMARY : FT_SECONDARY);
			d.ft.cfg.disks = rnd(2);
			d.ft.cfg.witness = rnd(2) ? FT_WITNESS_ASK : FT_WITNESS_NONE;
			d.ft.cfg.strict_death = !rnd(4);
			lives++;
			if (rnd(10)) {
				ev0(&d, FE_START, 0);
				ev0(&d, FE_LINK_UP, 7);
			}
		}
		/* There what would come next is an answer of the witness, and then it is over. */
		ev = rnd(3) && d.ft.state != FT_FENCED ? next_event(&d.ft) : random_event(&d.ft);
		d.now += rnd(20) * NS_PER_MS;
		if (ev.type == FE_TICK && rnd(2) && ft_deadline(&d.ft) != NS_NEVER && ft_deadline(&d.ft) > d.now)
			d.now = ft_deadline(&d.ft);
		before = d.ft;
		if (ev.type < FE_TYPE_MAX)
			seen[before.state][ev.type]++;
		give(&d, ev);
		check(&d, &before);
	}
	for (int s = 0; s < FT_STATE_MAX; s++)
		for (int t = 0; t < FE_TYPE_MAX; t++)
			if (!seen[s][t])
				fail_msg("never reached: %s x %s", ft_state_name(s), ft_ev_name(t));
	print_message("%lu lives\n", (unsigned long)lives);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_cell_is_named), cmocka_unit_test(every_cell_is_documented), cmocka_unit_test(every_name), cmocka_unit_test(slow_hosts),
		cmocka_unit_test(random_events),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
