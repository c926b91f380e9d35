/* SPDX-License-Identifier: BSD-2-Clause */
/* A VM that is made to stand, and one that panics: each way through ft_pause.c, by hand. */
#include "ft_drive.h"

static void alone(struct drive *d)
{
	start(d, FT_PRIMARY);
	ev0(d, FE_START, 0);
	done(d, STEP_CONT, 0);
	STATE(d, FT_ALONE, "idle");
}

/* Checkpoint @n, from the cut to its end; its wish is given. */
static void checkpoint(struct drive *d, uint64_t n)
{
	net(d, NA_CUT, n);
	done(d, STEP_STOP, n);
	net(d, NA_DRAINED, n);
	done(d, STEP_SAVE, n);
	done(d, STEP_COPY, n);
	done(d, STEP_CONT, n);
	done(d, STEP_SEND, n);
	ctl(d, CTL_STAGED, n);
	ctl(d, CTL_LOADED, n);
}

static void protect(struct drive *d)
{
	alone(d);
	ev0(d, FE_LINK_UP, 7);
	done_rc(d, STEP_ROUND, 1, 0, 10);
	checkpoint(d, 1);
	STATE(d, FT_PROTECTED, "idle");
}

static void load(struct drive *d, uint64_t n)
{
	ctl(d, CTL_EPOCH_END, n);
	if (n > 1) {
		net(d, NA_CUT, n);
		done(d, STEP_STOP, n);
		net(d, NA_DRAINED, n);
	}
	net(d, NA_BARRIER, n);
	give(d, (struct ft_ev){ .type = FE_BULK_BARRIER, .n = n, .value = 10 });
	done(d, STEP_RESERVE, n);
	done(d, STEP_APPLY, n);
	done(d, STEP_LOAD, n);
	done(d, STEP_MEND, n);
}

static void stand_by(struct drive *d)
{
	start(d, FT_SECONDARY);
	ev0(d, FE_START, 0);
	ev0(d, FE_LINK_UP, 7);
	load(d, 1);
	done(d, STEP_CONT, 1);
	STATE(d, FT_STANDBY, "idle");
}

static void stop_and_cont_alone(void **state)
{
	struct drive d;

	alone(&d);
	SAYS(ev0(&d, FE_PAUSE, 1), "pause:1");
	assert_true(ft_paused(&d.ft));
	assert_false(ft_pause_done(&d.ft));
	SAYS(done(&d, STEP_PAUSE, 1), "");
	assert_true(ft_pause_done(&d.ft));
	/* Once more is fine. */
	SAYS(ev0(&d, FE_PAUSE, 1), "pause:2");
	SAYS(done(&d, STEP_PAUSE, 2), "");
	SAYS(ev0(&d, FE_PAUSE, 0), "pause:3");
	/* One that was overtaken is answered first. */
	SAYS(ev0(&d, FE_PAUSE, 1), "");
	SAYS(done(&d, STEP_PAUSE, 3), "pause:4");
	assert_false(ft_pause_done(&d.ft));
	SAYS(done(&d, STEP_PAUSE, 4), "");
	assert_true(ft_pause_done(&d.ft) && ft_paused(&d.ft));
	STATE(&d, FT_ALONE, "idle");
}

/* QEMU will not have it run (it wants a reset first): then it stands, and the peer too. */
static void cont_is_refused(void **state)
{
	struct drive d;

	protect(&d);
	ev0(&d, FE_PAUSE, 1);
	done(&d, STEP_PAUSE, 1);
	ctl_v(&d, CTL_PAUSE, 1, 1);
	SAYS(ev0(&d, FE_PAUSE, 0), "pause:2 PAUSE:2");
	SAYS(done_rc(&d, STEP_PAUSE, 2, -EREMOTEIO, 0), "pause:3 PAUSE:3");
	assert_true(ft_paused(&d.ft));
}

static void stop_in_a_pair(void **state)
{
	struct drive d;

	protect(&d);
	SAYS(ev0(&d, FE_PAUSE, 1), "pause:1 PAUSE:1");
	assert_int_equal(d.acts.a[1].ctl.value, 1);
	SAYS(done(&d, STEP_PAUSE, 1), "");
	assert_false(ft_pause_done(&d.ft));
	SAYS(ctl_v(&d, CTL_PAUSE, 1, 1), "");
	assert_true(ft_pause_done(&d.ft));
	/* Neither time nor the frames begin a checkpoint, nor any round of copying. */
	assert_true(ft_deadline(&d.ft) == NS_NEVER);
	d.now += 100 * d.ft.cfg.checkpoint_delay;
	SAYS(ev0(&d, FE_TICK, 0), "");
	SAYS(net_want(&d, CAUSE_MISMATCH), "");
	SAYS(net_want(&d, CAUSE_INLOG), "");
	SAYS(net(&d, NA_LIKELY, 0), "");
	assert_true(ft_deadline(&d.ft) == NS_NEVER);
	/* What was wanted is remembered until it runs. */
	SAYS(ev0(&d, FE_PAUSE, 0), "pause:2 PAUSE:2");
	SAYS(tick(&d), "net-close:2");
	assert_int_equal(d.ft.p.cause, CAUSE_MISMATCH);
}

/* An order, and a copy that has gone another way, have their checkpoint, also behind a wish that waits. */
static void checkpoints_of_a_vm_that_stands(void **state)
{
	static const enum ckpt_cause may[] = { CAUSE_COMMAND, CAUSE_RESET, CAUSE_DISK };
	struct drive d;

	for (size_t i = 0; i < 3; i++) {
		protect(&d);
		ev0(&d, FE_PAUSE, 1);
		done(&d, STEP_PAUSE, 1);
		ctl_v(&d, CTL_PAUSE, 1, 1);
		SAYS(net_want(&d, CAUSE_MISMATCH), "");
		SAYS(want(&d, may[i]), "net-close:2");
		checkpoint(&d, 2);
		STATE(&d, FT_PROTECTED, "idle");
		assert_true(ft_paused(&d.ft));
		assert_int_equal(ft_checkpoints(&d.ft, may[i]), 1);
		assert_true(ft_deadline(&d.ft) == NS_NEVER);
	}
}

/* In the middle of a checkpoint nothing waits for it, and the checkpoint goes to its end. */
static void stop_in_a_checkpoint(void **state)
{
	for (int at = 0; at < 6; at++) {
		struct drive d;

		protect(&d);
		want(&d, CAUSE_COMMAND);
		if (at > 0)
			net(&d, NA_CUT, 2);
		if (at > 1)
			done(&d, STEP_STOP, 2);
		if (at > 2)
			net(&d, NA_DRAINED, 2);
		if (at > 3) {
			done(&d, STEP_SAVE, 2);
			done(&d, STEP_COPY, 2);
		}
		if (at > 4)
			done(&d, STEP_CONT, 2);
		SAYS(ev0(&d, FE_PAUSE, 1), "pause:1 PAUSE:1");
		done(&d, STEP_PAUSE, 1);
		ctl_v(&d, CTL_PAUSE, 1, 1);
		if (at == 0)
			net(&d, NA_CUT, 2);
		if (at <= 1)
			done(&d, STEP_STOP, 2);
		if (at <= 2)
			net(&d, NA_DRAINED, 2);
		if (at <= 3) {
			done(&d, STEP_SAVE, 2);
			SAYS(done(&d, STEP_COPY, 2), "cont:2");
		}
		if (at <= 4)
			SAYS(done(&d, STEP_CONT, 2), "net-open:2 send:2");
		done(&d, STEP_SEND, 2);
		ctl(&d, CTL_STAGED, 2);
		ctl(&d, CTL_LOADED, 2);
		STATE(&d, FT_PROTECTED, "idle");
		assert_true(ft_paused(&d.ft) && ft_pause_done(&d.ft));
	}
}

/* A peer that comes to a VM that stands is filled as ever, and stands too. */
static void a_peer_joins_a_vm_that_stands(void **state)
{
	struct drive d;

	alone(&d);
	ev0(&d, FE_PAUSE, 1);
	done(&d, STEP_PAUSE, 1);
	SAYS(ev0(&d, FE_LINK_UP, 7), "net-role:1 round:1 PAUSE:1");
	SAYS(ctl_v(&d, CTL_PAUSE, 1, 1), "");
	done_rc(&d, STEP_ROUND, 1, 0, 10);
	checkpoint(&d, 1);
	STATE(&d, FT_PROTECTED, "idle");
	assert_true(ft_paused(&d.ft) && ft_pause_done(&d.ft));

	/* The next one is not taken for it. */
	ev0(&d, FE_LINK_DOWN, 1);
	SAYS(ev0(&d, FE_LINK_UP, 7), "net-role:2 round:2 PAUSE:1");
	assert_false(ft_pause_done(&d.ft));

	/* One that comes while QEMU has not answered is begun with when it has. */
	alone(&d);
	ev0(&d, FE_PAUSE, 1);
	SAYS(ev0(&d, FE_LINK_UP, 7), "");
	SAYS(done(&d, STEP_PAUSE, 1), "net-role:1 round:1 PAUSE:1");
	/* One that comes to a VM that has stood and runs again hears nothing. */
	alone(&d);
	ev0(&d, FE_PAUSE, 1);
	done(&d, STEP_PAUSE, 1);
	ev0(&d, FE_PAUSE, 0);
	done(&d, STEP_PAUSE, 2);
	SAYS(ev0(&d, FE_LINK_UP, 7), "net-role:1 round:1");
	assert_true(ft_pause_done(&d.ft));
}

static void the_peer_is_lost(void **state)
{
	struct drive d;

	protect(&d);
	ev0(&d, FE_PAUSE, 1);
	done(&d, STEP_PAUSE, 1);
	assert_false(ft_pause_done(&d.ft));
	ev0(&d, FE_LINK_DOWN, 1);
	STATE(&d, FT_ALONE, "idle");
	assert_true(ft_pause_done(&d.ft) && ft_paused(&d.ft));
}

static void secondary_does_as_it_is_told(void **state)
{
	struct drive d;

	stand_by(&d);
	SAYS(ctl_v(&d, CTL_PAUSE, 5, 1), "pause:5");
	SAYS(done(&d, STEP_PAUSE, 5), "PAUSE:5");
	assert_true(ft_paused(&d.ft));
	assert_int_equal(ft_pauses(&d.ft), 5);
	/* It survives, and its VM stands. */
	ev0(&d, FE_LINK_DOWN, 1);
	STATE(&d, FT_ALONE, "idle");
	assert_true(ft_paused(&d.ft));
	SAYS(ev0(&d, FE_PAUSE, 0), "pause:6");
	SAYS(done(&d, STEP_PAUSE, 6), "");
	assert_false(ft_paused(&d.ft));

	/* Before there is anything to stand, too; and numbers that cannot be are none. */
	start(&d, FT_SECONDARY);
	ev0(&d, FE_START, 0);
	ev0(&d, FE_LINK_UP, 7);
	SAYS(ctl_v(&d, CTL_PAUSE, 0, 1), "");
	SAYS(ctl_v(&d, CTL_PAUSE, UINT64_MAX, 1), "");
	SAYS(ctl_v(&d, CTL_PAUSE, 1, 1), "pause:1");
	SAYS(done(&d, STEP_PAUSE, 1), "PAUSE:1");
	load(&d, 1);
	done(&d, STEP_CONT, 1);
	assert_true(ft_paused(&d.ft));
}

static void secondary_wishes(void **state)
{
	struct drive d;

	stand_by(&d);
	SAYS(ev0(&d, FE_PAUSE, 1), "PAUSE:0");
	assert_false(ft_paused(&d.ft));
	protect(&d);
	SAYS(ctl_v(&d, CTL_PAUSE, 0, 1), "pause:1 PAUSE:1");
	/* Answers to what was never said. */
	SAYS(ctl_v(&d, CTL_PAUSE, 9, 1), "");
	assert_false(ft_pause_done(&d.ft));
}

/* An SVM that refuses to run is mended by a checkpoint. */
static void secondary_refuses(void **state)
{
	struct drive d;

	stand_by(&d);
	ctl_v(&d, CTL_PAUSE, 1, 0);
	SAYS(done_rc(&d, STEP_PAUSE, 1, -EREMOTEIO, 0), "PAUSE:1 WANT:2");
	SAYS(done_rc(&d, STEP_PAUSE, 1, -ECONNRESET, 0), "kill-qemu GONE:2 drop-link end:3");
}

static void panic_alone(void **state)
{
	struct drive d;

	alone(&d);
	SAYS(ev0(&d, FE_GUEST_PANIC, FT_PANIC_RUN), "");
	SAYS(ev0(&d, FE_GUEST_PANIC, FT_PANIC_PAUSE), "pause:1");
	assert_true(ft_paused(&d.ft));
	/* As often as QEMU says it. */
	SAYS(ev0(&d, FE_GUEST_PANIC, FT_PANIC_PAUSE), "");
	SAYS(ev0(&d, FE_GUEST_PANIC, FT_PANIC_OFF), "lease-none kill-qemu end:5");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_GUEST_PANIC);
}

/* As after a poweroff: the peer first, then what is held, then the end; and it says what it was. */
static void panic_ends_the_pair(void **state)
{
	struct drive d;

	protect(&d);
	SAYS(ev0(&d, FE_GUEST_PANIC, FT_PANIC_OFF), "pause:1 GUEST_OFF:2");
	assert_int_equal(d.acts.a[1].ctl.value, FT_WHY_GUEST_PANIC);
	done(&d, STEP_PAUSE, 1);
	ev0(&d, FE_LINK_DOWN, 1);
	STATE(&d, FT_ALONE, "idle");
	SAYS(tick(&d), "lease-none kill-qemu end:5");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_GUEST_PANIC);

	stand_by(&d);
	SAYS(ctl_v(&d, CTL_GUEST_OFF, 2, FT_WHY_GUEST_PANIC), "kill-qemu drop-link end:5");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_GUEST_PANIC);
	stand_by(&d);
	SAYS(ctl_v(&d, CTL_GUEST_OFF, 2, FT_WHY_GUEST_OFF), "kill-qemu drop-link end:0");
}

/* With disks the images of both are made the same first. */
static void the_last_checkpoint(void **state)
{
	static const enum ft_ev_type how[] = { FE_GUEST_OFF, FE_GUEST_PANIC };

	for (int i = 0; i < 4; i++) {
		struct drive d;

		protect(&d);
		d.ft.cfg.disks = true;
		assert_non_null(strstr(ev0(&d, how[i & 1], FT_PANIC_OFF), "net-close:2"));
		if (i & 1)
			done(&d, STEP_PAUSE, 1);
		STATE(&d, FT_PROTECTED, "gate");
		if (i < 2) {
			net(&d, NA_CUT, 2);
			done(&d, STEP_STOP, 2);
			done(&d, STEP_DISK, 2);
			net(&d, NA_DRAINED, 2);
			done(&d, STEP_SAVE, 2);
			done(&d, STEP_COPY, 2);
			done(&d, STEP_CONT, 2);
			done(&d, STEP_SEND, 2);
			ctl(&d, CTL_STAGED, 2);
			SAYS(ctl(&d, CTL_LOADED, 2), "net-loaded:2 checkpoint-done GUEST_OFF:3");
		}
		/* Also where the peer is lost in the middle of it. */
		ev0(&d, FE_LINK_DOWN, 1);
		STATE(&d, FT_ALONE, "idle");
		SAYS(tick(&d), i & 1 ? "lease-none kill-qemu end:5" : "lease-none kill-qemu end:0");
	}
}

/* In a checkpoint it is an event of the guest's life, and no failed step: nothing is tried again. */
static void panic_in_a_checkpoint(void **state)
{
	struct drive d;

	protect(&d);
	want(&d, CAUSE_COMMAND);
	net(&d, NA_CUT, 2);
	done(&d, STEP_STOP, 2);
	SAYS(ev0(&d, FE_GUEST_PANIC, FT_PANIC_OFF), "pause:1 GUEST_OFF:2 cont:2");
	done(&d, STEP_PAUSE, 1);
	SAYS(done(&d, STEP_CONT, 2), "net-open:2");
	ev0(&d, FE_LINK_DOWN, 1);
	SAYS(tick(&d), "lease-none kill-qemu end:5");

	protect(&d);
	want(&d, CAUSE_COMMAND);
	net(&d, NA_CUT, 2);
	SAYS(ev0(&d, FE_GUEST_PANIC, FT_PANIC_PAUSE), "pause:1 PAUSE:1");
	done(&d, STEP_PAUSE, 1);
	ctl_v(&d, CTL_PAUSE, 1, 1);
	done(&d, STEP_STOP, 2);
	net(&d, NA_DRAINED, 2);
	done(&d, STEP_SAVE, 2);
	SAYS(done(&d, STEP_COPY, 2), "cont:2");
	assert_int_equal(ft_aborted(&d.ft), 0);
}

/* The SVM alone: the copies have parted. */
static void panic_of_the_copy(void **state)
{
	for (int what = FT_PANIC_RUN; what <= FT_PANIC_OFF; what++) {
		struct drive d;

		stand_by(&d);
		SAYS(ev0(&d, FE_GUEST_PANIC, (uint64_t)what), "WANT:2");
		/* Mended. */
		load(&d, 2);
		SAYS(done(&d, STEP_CONT, 2), "net-open:2 LOADED:2");
		assert_false(ft_paused(&d.ft));
		/* Not mended in time: then this is the VM, and -action holds. */
		ev0(&d, FE_GUEST_PANIC, (uint64_t)what);
		ev0(&d, FE_LINK_DOWN, 1);
		assert_int_equal(ft_state(&d.ft), what == FT_PANIC_OFF ? FT_ENDED : FT_ALONE);
		assert_int_equal(ft_paused(&d.ft), what == FT_PANIC_PAUSE);
		if (what == FT_PANIC_OFF)
			assert_int_equal(ft_reason(&d.ft), FT_WHY_GUEST_PANIC);
	}
}

/* It panics between load and cont's answer: what came then counts. */
static void panic_of_the_copy_in_its_cont(void **state)
{
	struct drive d;

	stand_by(&d);
	load(&d, 2);
	SAYS(ev0(&d, FE_GUEST_PANIC, FT_PANIC_PAUSE), "");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2 LOADED:2 WANT:3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stop_and_cont_alone),
		cmocka_unit_test(cont_is_refused),
		cmocka_unit_test(stop_in_a_pair),
		cmocka_unit_test(checkpoints_of_a_vm_that_stands),
		cmocka_unit_test(stop_in_a_checkpoint),
		cmocka_unit_test(a_peer_joins_a_vm_that_stands),
		cmocka_unit_test(the_peer_is_lost),
		cmocka_unit_test(secondary_does_as_it_is_told),
		cmocka_unit_test(secondary_wishes),
		cmocka_unit_test(secondary_refuses),
		cmocka_unit_test(panic_alone),
		cmocka_unit_test(panic_ends_the_pair),
		cmocka_unit_test(the_last_checkpoint),
		cmocka_unit_test(panic_in_a_checkpoint),
		cmocka_unit_test(panic_of_the_copy),
		cmocka_unit_test(panic_of_the_copy_in_its_cont),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
