/* SPDX-License-Identifier: BSD-2-Clause */
/* Who goes on when two nodes have lost each other: each way through ft_ask.c, by hand. */
#include "ft_drive.h"

#define MS NS_PER_MS

static void ask(struct drive *d)
{
	d->ft.cfg.witness = FT_WITNESS_ASK;
	d->ft.cfg.lease = 500 * MS;
	d->ft.cfg.drift = 10 * MS;
}

/* A primary that is protected in epoch 2; its last heartbeat that was answered is 20 ms old. */
static void protect(struct drive *d)
{
	start(d, FT_PRIMARY);
	ask(d);
	ev0(d, FE_START, 0);
	done(d, STEP_CONT, 0);
	ev0(d, FE_LINK_UP, 7);
	done_rc(d, STEP_ROUND, 1, 0, 10);
	net(d, NA_CUT, 1);
	done(d, STEP_STOP, 1);
	net(d, NA_DRAINED, 1);
	done(d, STEP_SAVE, 1);
	done(d, STEP_COPY, 1);
	done(d, STEP_CONT, 1);
	done(d, STEP_SEND, 1);
	ctl(d, CTL_STAGED, 1);
	ctl(d, CTL_LOADED, 1);
	STATE(d, FT_PROTECTED, "idle");
	ev0(d, FE_BEAT, d->now);
	d->now += 20 * MS;
}

/* A secondary whose SVM runs in epoch 2, likewise. */
static void stand_by(struct drive *d)
{
	start(d, FT_SECONDARY);
	ask(d);
	ev0(d, FE_START, 0);
	ev0(d, FE_LINK_UP, 7);
	ctl(d, CTL_EPOCH_END, 1);
	net(d, NA_BARRIER, 1);
	give(d, (struct ft_ev){ .type = FE_BULK_BARRIER, .n = 1, .value = 10 });
	done(d, STEP_RESERVE, 1);
	done(d, STEP_APPLY, 1);
	done(d, STEP_LOAD, 1);
	done(d, STEP_MEND, 1);
	done(d, STEP_CONT, 1);
	STATE(d, FT_STANDBY, "idle");
	ev0(d, FE_BEAT, d->now);
	d->now += 20 * MS;
}

static void primary_is_granted(void **state)
{
	struct drive d;

	protect(&d);
	d.now += 480 * MS;
	SAYS(ev0(&d, FE_SILENT, 0), "mute witness:8");
	STATE(&d, FT_PROTECTED, "witness");
	/* A secondary that thinks it dead is not heard without a grant: nothing to wait for. */
	SAYS(done(&d, STEP_WITNESS, 8), "ALONE:2 drop-link lease-never net-alone:0");
	STATE(&d, FT_ALONE, "idle");
	assert_int_equal(ft_generation(&d.ft), 8);
}

static void primary_of_a_dead_one(void **state)
{
	struct drive d;

	protect(&d);
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "witness:8");
	SAYS(done(&d, STEP_WITNESS, 8), "drop-link lease-never net-alone:0");
	protect(&d);
	d.ft.cfg.strict_death = true;
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "mute witness:8");
	SAYS(done(&d, STEP_WITNESS, 8), "drop-link lease-never net-alone:0");
}

static void primary_loses(void **state)
{
	struct drive d;

	protect(&d);
	ev0(&d, FE_LINK_DOWN, 0);
	SAYS(done_rc(&d, STEP_WITNESS, 8, -ESTALE, 0), "lease-none kill-qemu drop-link end:4");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_LOST);
}

static void primary_is_fenced(void **state)
{
	struct drive d;

	protect(&d);
	ev0(&d, FE_LINK_DOWN, 1);
	SAYS(done_rc(&d, STEP_WITNESS, 8, -EAGAIN, 0), "");
	SAYS(tick(&d), "witness:8");
	SAYS(done_rc(&d, STEP_WITNESS, 8, -EAGAIN, 0), "");
	SAYS(tick(&d), "stop:2");
	assert_int_equal(d.now, 100 * NS_PER_S + 500 * MS + 1);
	STATE(&d, FT_FENCED, "stopping");
	done(&d, STEP_STOP, 2);
	STATE(&d, FT_FENCED, "stands");
	SAYS(tick(&d), "witness:8");
	SAYS(done(&d, STEP_WITNESS, 8), "drop-link lease-never net-alone:0 cont:2");
	STATE(&d, FT_ALONE, "resume");
	SAYS(done_rc(&d, STEP_CONT, 2, -EIO, 0), "");
	SAYS(tick(&d), "cont:2");
	done(&d, STEP_CONT, 2);
	STATE(&d, FT_ALONE, "idle");
}

static void peer_that_says_so(void **state)
{
	struct drive d;

	protect(&d);
	SAYS(ctl(&d, CTL_GONE, 2), "ALONE:2 drop-link lease-never net-alone:0");
	assert_int_equal(ft_generation(&d.ft), 7);
	stand_by(&d);
	SAYS(ctl_v(&d, CTL_ALONE, 2, FT_WHY_SILENT), "kill-qemu GONE:2 drop-link end:4");
	stand_by(&d);
	SAYS(ctl_v(&d, CTL_ALONE, 2, FT_WHY_STEP_FAILED), "kill-qemu GONE:2 drop-link end:3");
}

static void secondary_of_a_dead_one(void **state)
{
	struct drive d;
	nstime sent = 100 * NS_PER_S;

	stand_by(&d);
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "witness:8 drop-link lease-until hold-on net-promote:2 forget:2");
	assert_int_equal(d.ft.lease, sent + 500 * MS);
	assert_int_equal(ft_generation(&d.ft), 7);
	SAYS(done(&d, STEP_WITNESS, 8), "lease-never hold-off");
	assert_int_equal(ft_generation(&d.ft), 8);

	stand_by(&d);
	ev0(&d, FE_LINK_DOWN, 1);
	done(&d, STEP_FORGET, 2);
	done_rc(&d, STEP_WITNESS, 8, -EAGAIN, 0);
	while (d.ft.state == FT_ALONE)
		if (!strcmp(tick(&d), "witness:8"))
			done_rc(&d, STEP_WITNESS, 8, -EAGAIN, 0);
	assert_int_equal(d.now, sent + 500 * MS + 1);
	STATE(&d, FT_FENCED, "stopping");
	done(&d, STEP_STOP, 2);
	SAYS(ev0(&d, FE_WITNESS, 0), "");
	SAYS(ev0(&d, FE_WITNESS, 1), "");
	SAYS(tick(&d), "witness:8");
	SAYS(done(&d, STEP_WITNESS, 8), "lease-never hold-off net-announce:2 cont:2");
	STATE(&d, FT_ALONE, "resume");

	stand_by(&d);
	ev0(&d, FE_LINK_DOWN, 1);
	SAYS(done_rc(&d, STEP_WITNESS, 8, -ESTALE, 0), "lease-none kill-qemu end:4");
}

static void secondary_of_a_silent_one(void **state)
{
	struct drive d;

	stand_by(&d);
	d.now += 480 * MS;
	SAYS(ev0(&d, FE_SILENT, 0), "mute");
	/* One that was answered before that is reported late. */
	SAYS(ev0(&d, FE_BEAT, 0), "");
	SAYS(tick(&d), "witness:8");
	assert_int_equal(d.now, 100 * NS_PER_S + 1010 * MS);
	STATE(&d, FT_STANDBY, "witness");
	SAYS(done_rc(&d, STEP_WITNESS, 8, -EAGAIN, 0), "stop:2");
	done(&d, STEP_STOP, 2);
	/* Nothing that the primary could say counts more than the witness now. */
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "");
	SAYS(tick(&d), "witness:8");
	SAYS(done(&d, STEP_WITNESS, 8), "drop-link lease-never net-promote:2 cont:1 forget:2");
}

static void nobody_answers(void **state)
{
	struct drive d;

	protect(&d);
	ev0(&d, FE_LINK_DOWN, 1);
	while (d.ft.ask == ASK_RUNS)
		tick(&d);
	SAYS(done(&d, STEP_WITNESS, 8), "");
	STATE(&d, FT_FENCED, "stands");
}

static void roles_change(void **state)
{
	struct drive d;

	protect(&d);
	d.now += 200 * MS;
	SAYS(ctl(&d, CTL_SWITCH, 2), "net-close:2");
	net(&d, NA_CUT, 2);
	done(&d, STEP_STOP, 2);
	net(&d, NA_DRAINED, 2);
	done(&d, STEP_SAVE, 2);
	done(&d, STEP_COPY, 2);
	done(&d, STEP_CONT, 2);
	done(&d, STEP_SEND, 2);
	ctl(&d, CTL_STAGED, 2);
	SAYS(ctl(&d, CTL_LOADED, 2), "net-loaded:2 checkpoint-done lease-none kill-qemu PROMOTE:3 drop-link end:4");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_SWITCH);
	stand_by(&d);
	SAYS(ev0(&d, FE_SWITCH, 0), "SWITCH:2");
	SAYS(ctl(&d, CTL_PROMOTE, 2), "witness:8 TOOK_OVER:2 drop-link lease-until hold-on net-promote:2 forget:2");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(primary_is_granted), cmocka_unit_test(primary_of_a_dead_one), cmocka_unit_test(primary_loses),
		cmocka_unit_test(primary_is_fenced), cmocka_unit_test(peer_that_says_so), cmocka_unit_test(secondary_of_a_dead_one),
		cmocka_unit_test(secondary_of_a_silent_one), cmocka_unit_test(nobody_answers), cmocka_unit_test(roles_change),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
