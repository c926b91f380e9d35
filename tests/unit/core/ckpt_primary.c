/* SPDX-License-Identifier: BSD-2-Clause */
/* The serving node's checkpoint: normal life, each order of arrival, each deadline and its exit. */
#include "ft_drive.h"

enum {
	ALONE, ROUND, GATE, STOP, COLLECT, CONT, STAGE, LOAD,
	IDLE, GATE2, STOP2, COLLECT2, CONT2, STAGE2, LOAD2, PLACES
};

/* Up to a place in the life of a primary; from IDLE on it is protected and checkpoint 2 is the one under way. */
static void to(struct drive *d, int place)
{
	start(d, FT_PRIMARY);
	SAYS(ev0(d, FE_START, 0), "lease-never net-role:1 cont:0");
	SAYS(done(d, STEP_CONT, 0), "");
	STATE(d, FT_ALONE, "idle");
	if (place == ALONE)
		return;
	SAYS(ev0(d, FE_LINK_UP, 7), "net-role:1 round:1");
	assert_int_equal(d->acts.a[0].value, NET_PRIMARY);
	STATE(d, FT_SYNC, "precopy");
	for (uint64_t n = 1; n <= 2; n++) {
		static const int first[2] = { ROUND, IDLE };
		int p = first[n - 1];

		if (place == p)
			return;
		if (n == 1)
			SAYS(done_rc(d, STEP_ROUND, 1, 0, 10), "net-close:1");
		else
			SAYS(want(d, CAUSE_COMMAND), "net-close:2");
		if (place == p + 1)
			return;
		SAYS(net(d, NA_CUT, n), n == 1 ? "stop:1 EPOCH_END:1" : "stop:2 EPOCH_END:2");
		if (place == p + 2)
			return;
		/* As long as its output is being taken QEMU may go on transmitting, so neither save nor copy before. */
		SAYS(done(d, STEP_STOP, n), n == 1 ? "net-stopped:1" : "net-stopped:2");
		SAYS(net(d, NA_DRAINED, n), n == 1 ? "save:1 copy:1" : "save:2 copy:2");
		if (place == p + 3)
			return;
		SAYS(done(d, STEP_SAVE, n), "");
		SAYS(done_rc(d, STEP_COPY, n, 0, 33), n == 1 ? "cont:1" : "cont:2");
		if (place == p + 4)
			return;
		SAYS(done(d, STEP_CONT, n), n == 1 ? "net-open:1 lease-until send:1" : "net-open:2 send:2");
		assert_int_equal(ft_epoch(&d->ft), n + 1);
		if (place == p + 5)
			return;
		SAYS(done(d, STEP_SEND, n), "");
		SAYS(ctl(d, CTL_STAGED, n), n == 1 ? "net-staged:1" : "net-staged:2");
		if (place == p + 6)
			return;
		SAYS(ctl(d, CTL_LOADED, n), n == 1 ? "net-loaded:1 checkpoint-done" : "net-loaded:2 checkpoint-done");
		STATE(d, FT_PROTECTED, "idle");
	}
}

static void life(void **state)
{
	struct drive d;

	to(&d, PLACES);
	assert_int_equal(ft_checkpoints(&d.ft, CAUSE_MAX), 2);
	assert_int_equal(ft_checkpoints(&d.ft, CAUSE_FIRST), 1);
	assert_int_equal(ft_checkpoints(&d.ft, CAUSE_COMMAND), 1);
	assert_int_equal(ft_last(&d.ft)->n, 2);
	assert_int_equal(ft_last(&d.ft)->pages, 33);
	SAYS(tick(&d), "net-close:3");
	assert_int_equal(d.now, 120 * NS_PER_S);
}

static void times(void **state)
{
	struct drive d;
	const struct ckpt_times *t;

	to(&d, IDLE);
	want(&d, CAUSE_COMMAND);
	d.now += 1;
	net(&d, NA_CUT, 2);
	d.now += 2;
	done(&d, STEP_STOP, 2);
	d.now += 4;
	net(&d, NA_DRAINED, 2);
	d.now += 8;
	done(&d, STEP_SAVE, 2);
	d.now += 16;
	done(&d, STEP_COPY, 2);
	d.now += 32;
	done(&d, STEP_CONT, 2);
	d.now += 64;
	ctl(&d, CTL_STAGED, 2);
	d.now += 128;
	ctl(&d, CTL_LOADED, 2);
	t = ft_last(&d.ft);
	assert_int_equal(t->gate, 1);
	assert_int_equal(t->stop, 2);
	assert_int_equal(t->drain, 4);
	assert_int_equal(t->save, 12);
	assert_int_equal(t->copy, 28);
	assert_int_equal(t->cont, 32);
	assert_int_equal(t->pause, 62);
	assert_int_equal(t->staged, 64);
	assert_int_equal(t->loaded, 128);
}

static void rounds(void **state)
{
	struct drive d;

	to(&d, ROUND);
	SAYS(done_rc(&d, STEP_ROUND, 1, 0, 100000), "round:1");
	SAYS(done_rc(&d, STEP_ROUND, 1, 0, 50000), "round:1");
	/* It does not shrink any more. */
	SAYS(done_rc(&d, STEP_ROUND, 1, 0, 49000), "net-close:1");
	to(&d, ROUND);
	for (uint64_t left = 1u << 30, k = 1; k < d.ft.cfg.max_rounds; k++, left /= 2)
		SAYS(done_rc(&d, STEP_ROUND, 1, 0, left), "round:1");
	SAYS(done_rc(&d, STEP_ROUND, 1, 0, 3000), "net-close:1");
}

/* Save and copy end in any order; cont comes after the last. */
/* A pause that has to wait for the link is not a QEMU that hangs, as long as something moves. */
static void slow_copy(void **state)
{
	struct drive d;

	to(&d, COLLECT2);
	SAYS(done(&d, STEP_SAVE, 2), "");
	for (int i = 0; i < 10; i++) {
		d.now += d.ft.cfg.copy_deadline / 2;
		SAYS(ev0(&d, FE_PROGRESS, 0), "");
		SAYS(ev0(&d, FE_TICK, 0), "");
	}
	SAYS(done(&d, STEP_COPY, 2), "cont:2");
	to(&d, COLLECT2);
	SAYS(done(&d, STEP_SAVE, 2), "");
	SAYS(tick(&d), "lease-none kill-qemu PROMOTE:2 drop-link end:3");
}

static void collect_orders(void **state)
{
	struct drive d;

	to(&d, COLLECT2);
	SAYS(done(&d, STEP_SAVE, 2), "");
	SAYS(done(&d, STEP_COPY, 2), "cont:2");
	/* Where the copy is first, cont stands in line behind save; the epoch ends when both are answered. */
	for (int first = 0; first < 2; first++) {
		to(&d, COLLECT2);
		SAYS(done(&d, STEP_COPY, 2), "cont:2");
		SAYS(done(&d, first ? STEP_SAVE : STEP_CONT, 2), "");
		SAYS(done(&d, first ? STEP_CONT : STEP_SAVE, 2), "net-open:2 send:2");
	}
	/* A save that fails then: the VM runs already or is about to, and is not continued twice. */
	for (int first = 0; first < 2; first++) {
		to(&d, COLLECT2);
		SAYS(done(&d, STEP_COPY, 2), "cont:2");
		if (first) {
			SAYS(done(&d, STEP_CONT, 2), "");
			SAYS(done_rc(&d, STEP_SAVE, 2, -EIO, 0), "checkpoint-abort ABORT:2 net-open:2 again:2");
			SAYS(done(&d, STEP_AGAIN, 2), "net-close:3");
			continue;
		}
		SAYS(done_rc(&d, STEP_SAVE, 2, -EIO, 0), "checkpoint-abort ABORT:2 again:2");
		SAYS(done(&d, STEP_CONT, 2), "net-open:2");
		SAYS(done(&d, STEP_AGAIN, 2), "net-close:3");
	}
	/* A QEMU that answers neither. */
	to(&d, COLLECT2);
	SAYS(done(&d, STEP_COPY, 2), "cont:2");
	SAYS(tick(&d), "lease-none kill-qemu PROMOTE:2 drop-link end:3");
}

/* STAGED and LOADED may come before the sending has reported its end; the next checkpoint waits for it. */
static void staged_before_sent(void **state)
{
	struct drive d;

	to(&d, STAGE2);
	SAYS(ctl(&d, CTL_STAGED, 2), "net-staged:2");
	SAYS(net_want(&d, CAUSE_MISMATCH), "");
	SAYS(ctl(&d, CTL_LOADED, 2), "net-loaded:2 checkpoint-done");
	STATE(&d, FT_PROTECTED, "idle");
	SAYS(done(&d, STEP_SEND, 2), "net-close:3");
	/* Even before cont was answered, if it must be. */
	to(&d, CONT2);
	SAYS(ctl(&d, CTL_STAGED, 2), "");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2 send:2 net-staged:2");
	/* And if the sending never ends, protection does. */
	to(&d, STAGE2);
	ctl(&d, CTL_STAGED, 2);
	ctl(&d, CTL_LOADED, 2);
	SAYS(tick(&d), "ALONE:3");
}

static void wishes(void **state)
{
	struct drive d;

	/* One that holds output goes at once, also those that came meanwhile; the first urgent one is named. */
	to(&d, LOAD2);
	SAYS(want(&d, CAUSE_PRIVATE), "");
	SAYS(net_want(&d, CAUSE_OTHER), "");
	SAYS(net_want(&d, CAUSE_MISMATCH), "");
	SAYS(ctl(&d, CTL_LOADED, 2), "net-loaded:2 checkpoint-done net-close:3");
	assert_int_equal(d.ft.p.cause, CAUSE_OTHER);
	/* Others wait for min_interval. */
	to(&d, LOAD2);
	SAYS(net_want(&d, CAUSE_INLOG), "");
	SAYS(ctl(&d, CTL_LOADED, 2), "net-loaded:2 checkpoint-done");
	assert_int_equal(ft_deadline(&d.ft), d.now + d.ft.cfg.min_interval);
	SAYS(tick(&d), "net-close:3");
	/* What came before the drain is answered by this one. */
	for (int p = GATE2; p < COLLECT2; p++) {
		to(&d, p);
		SAYS(net_want(&d, CAUSE_MISMATCH), "");
		assert_int_equal(d.ft.p.wish, CAUSE_NONE);
	}
	to(&d, COLLECT2);
	net(&d, NA_DRAINED, 2);
	net_want(&d, CAUSE_MISMATCH);
	assert_int_equal(d.ft.p.wish, CAUSE_MISMATCH);
	/* What the secondary wants before STAGED n too. */
	to(&d, STAGE2);
	ctl_v(&d, CTL_WANT, 2, CAUSE_RESET);
	assert_int_equal(d.ft.p.wish, CAUSE_NONE);
	ctl(&d, CTL_STAGED, 2);
	ctl_v(&d, CTL_WANT, 3, CAUSE_RESET);
	assert_int_equal(d.ft.p.wish, CAUSE_RESET);
	/* From the peer: any number. */
	to(&d, IDLE);
	SAYS(ctl_v(&d, CTL_WANT, 3, CAUSE_MAX), "");
	SAYS(ctl_v(&d, CTL_WANT, 3, UINT64_MAX), "");
	SAYS(ctl_v(&d, CTL_WANT, 3, 0), "");
	SAYS(ctl_v(&d, CTL_WANT, 3, CAUSE_RESET), "net-close:2");
	/* The guest's reset. */
	to(&d, IDLE);
	SAYS(ev0(&d, FE_GUEST_RESET, 0), "net-close:2");
	assert_int_equal(d.ft.p.cause, CAUSE_RESET);
}

static void delay(void **state)
{
	struct drive d;

	to(&d, IDLE);
	assert_int_equal(ft_deadline(&d.ft), d.now + 20 * NS_PER_S);
	ev0(&d, FE_SET_DELAY, NS_PER_S);
	assert_int_equal(ft_deadline(&d.ft), d.now + NS_PER_S);
	ev0(&d, FE_SET_DELAY, 0);
	assert_int_equal(ft_deadline(&d.ft), d.now + d.ft.cfg.min_interval);
	ev0(&d, FE_SET_DELAY, NS_NEVER);
	assert_true(ft_deadline(&d.ft) == NS_NEVER);
}

/* Protected, and the own QEMU hangs: kill it, then tell the secondary. Before that, go on alone. */
static void own_qemu_hangs(void **state)
{
	for (int p = GATE2; p <= CONT2; p++) {
		struct drive d;

		to(&d, p);
		SAYS(tick(&d), "lease-none kill-qemu PROMOTE:2 drop-link end:3");
		STATE(&d, FT_ENDED, "idle");
	}
	for (int p = IDLE; p < PLACES; p++) {
		struct drive d;

		to(&d, p);
		assert_non_null(strstr(ev0(&d, FE_QEMU_HUNG, 0), "lease-none kill-qemu PROMOTE:"));
		to(&d, p);
		assert_non_null(strstr(ev0(&d, FE_QEMU_DIED, 0), "lease-none kill-qemu PROMOTE:"));
	}
	for (int p = GATE; p <= CONT; p++) {
		struct drive d;

		to(&d, p);
		tick(&d);
		assert_non_null(strstr(d.said, "ALONE:1"));
		assert_null(strstr(d.said, "kill-qemu"));
		assert_int_equal(d.ft.state, FT_SYNC);
		SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link net-alone:0");
		assert_int_equal(d.ft.state, FT_ALONE);
	}
}

/* Save or copy has failed: the other is waited for, the VM runs, the pages are taken back, and n + 1 begins. */
static void tried_again(void **state)
{
	static const int first[] = { COLLECT, COLLECT2 };
	static const char *const words[2][7] = {
		{ "checkpoint-abort ABORT:1", "again:1 cont:1", "net-open:1", "net-close:2", "stop:2 EPOCH_END:2",
		  "net-open:2 lease-until send:2", "net-loaded:2 checkpoint-done" },
		{ "checkpoint-abort ABORT:2", "again:2 cont:2", "net-open:2", "net-close:3", "stop:3 EPOCH_END:3",
		  "net-open:3 send:3", "net-loaded:3 checkpoint-done" },
	};

	for (int i = 0; i < 8; i++) {
		enum ft_step step = i & 1 ? STEP_COPY : STEP_SAVE, other = i & 1 ? STEP_SAVE : STEP_COPY;
		const char *const *w = words[i >> 1 & 1];
		uint64_t n = 1 + (i >> 1 & 1);
		struct drive d;

		to(&d, first[n - 1]);
		/* Wishes that come meanwhile are answered by the next one. */
		SAYS(done_rc(&d, step, n, -EIO, 0), w[0]);
		assert_int_equal(d.acts.a[0].step, step);
		assert_int_equal(d.acts.a[1].ctl.value, step);
		STATE(&d, n == 1 ? FT_SYNC : FT_PROTECTED, "abort");
		SAYS(net_want(&d, CAUSE_MISMATCH), "");
		/* Both may fail: it is one checkpoint. */
		SAYS(done_rc(&d, other, n, i & 4 ? -EIO : 0, 0), w[1]);
		SAYS(ctl(&d, CTL_STAGED, n), "");
		if (i & 4) {
			SAYS(done(&d, STEP_CONT, n), w[2]);
			SAYS(done(&d, STEP_AGAIN, n), w[3]);
		} else {
			char both[64];

			snprintf(both, sizeof(both), "%s %s", w[2], w[3]);
			SAYS(done(&d, STEP_AGAIN, n), "");
			SAYS(done(&d, STEP_CONT, n), both);
		}
		assert_int_equal(ft_epoch(&d.ft), n + 1);
		assert_int_equal(d.ft.p.cause, n == 1 ? CAUSE_FIRST : CAUSE_COMMAND);
		assert_int_equal(d.ft.p.wish, CAUSE_NONE);
		SAYS(net(&d, NA_CUT, n), "");
		SAYS(net(&d, NA_CUT, n + 1), w[4]);
		done(&d, STEP_STOP, n + 1);
		net(&d, NA_DRAINED, n + 1);
		done(&d, STEP_SAVE, n + 1);
		done_rc(&d, STEP_COPY, n + 1, 0, 7);
		SAYS(done(&d, STEP_CONT, n + 1), w[5]);
		done(&d, STEP_SEND, n + 1);
		SAYS(ctl(&d, CTL_STAGED, n), "");
		assert_non_null(strstr(ctl(&d, CTL_STAGED, n + 1), "net-staged:"));
		SAYS(ctl(&d, CTL_LOADED, n + 1), w[6]);
		STATE(&d, FT_PROTECTED, "idle");
		assert_int_equal(ft_aborted(&d.ft), 1);
		assert_int_equal(ft_checkpoints(&d.ft, CAUSE_MAX), n);
		/* It was one in a row: the next one may fail again. */
		want(&d, CAUSE_COMMAND);
		net(&d, NA_CUT, n + 2);
		done(&d, STEP_STOP, n + 2);
		net(&d, NA_DRAINED, n + 2);
		done(&d, STEP_COPY, n + 2);
		assert_non_null(strstr(done_rc(&d, STEP_SAVE, n + 2, -EIO, 0), "ABORT:"));
		assert_int_equal(ft_aborted(&d.ft), 2);
	}
}

/* Sending has failed: the VM runs already. */
static void sending_is_tried_again(void **state)
{
	struct drive d;

	to(&d, STAGE2);
	SAYS(done_rc(&d, STEP_SEND, 2, -EIO, 0), "checkpoint-abort ABORT:2 again:2");
	STATE(&d, FT_PROTECTED, "abort");
	SAYS(done(&d, STEP_AGAIN, 2), "net-close:3");
	/* A failover that was asked for is n + 1's. */
	to(&d, IDLE);
	ev0(&d, FE_FAILOVER, 0);
	net(&d, NA_CUT, 2);
	done(&d, STEP_STOP, 2);
	net(&d, NA_DRAINED, 2);
	done(&d, STEP_SAVE, 2);
	done(&d, STEP_COPY, 2);
	done(&d, STEP_CONT, 2);
	done_rc(&d, STEP_SEND, 2, -EIO, 0);
	done(&d, STEP_AGAIN, 2);
	net(&d, NA_CUT, 3);
	done(&d, STEP_STOP, 3);
	net(&d, NA_DRAINED, 3);
	done(&d, STEP_SAVE, 3);
	done(&d, STEP_COPY, 3);
	done(&d, STEP_CONT, 3);
	ctl(&d, CTL_STAGED, 3);
	SAYS(ctl(&d, CTL_LOADED, 3), "net-loaded:3 checkpoint-done lease-none kill-qemu PROMOTE:4 drop-link end:0");
}

/* Checkpoint 2 was given up, 3 is under way up to @place, which is COLLECT2 or STAGE2. */
static void second_try(struct drive *d, int place)
{
	to(d, COLLECT2);
	done_rc(d, STEP_SAVE, 2, -EIO, 0);
	done(d, STEP_COPY, 2);
	done(d, STEP_AGAIN, 2);
	done(d, STEP_CONT, 2);
	net(d, NA_CUT, 3);
	done(d, STEP_STOP, 3);
	net(d, NA_DRAINED, 3);
	if (place == COLLECT2)
		return;
	done(d, STEP_SAVE, 3);
	done(d, STEP_COPY, 3);
	done(d, STEP_CONT, 3);
}

/* What ends protection all the same, and how. */
static void no_third_try(void **state)
{
	struct drive d;

	second_try(&d, COLLECT2);
	SAYS(done_rc(&d, STEP_COPY, 3, -EIO, 0), "ALONE:3");
	SAYS(done(&d, STEP_SAVE, 3), "cont:3");
	SAYS(done(&d, STEP_CONT, 3), "net-open:3");
	assert_int_equal(ft_failed_step(&d.ft), STEP_COPY);
	assert_int_equal(ft_aborted(&d.ft), 1);
	second_try(&d, STAGE2);
	SAYS(done_rc(&d, STEP_SEND, 3, -EIO, 0), "ALONE:4");
	/* The pages cannot be had back. */
	to(&d, STAGE2);
	done_rc(&d, STEP_SEND, 2, -EIO, 0);
	SAYS(done_rc(&d, STEP_AGAIN, 2, -ENOMEM, 0), "ALONE:3");
	STATE(&d, FT_PROTECTED, "parting");
	to(&d, STAGE2);
	done_rc(&d, STEP_SEND, 2, -EIO, 0);
	assert_int_equal(ft_deadline(&d.ft), d.now + d.ft.cfg.copy_deadline);
	SAYS(tick(&d), "ALONE:3");
	to(&d, COLLECT2);
	done_rc(&d, STEP_SAVE, 2, -EIO, 0);
	done(&d, STEP_COPY, 2);
	SAYS(done_rc(&d, STEP_AGAIN, 2, -ENOMEM, 0), "ALONE:2");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2");
	/* QEMU hangs, or is gone. */
	to(&d, COLLECT2);
	done_rc(&d, STEP_SAVE, 2, -EIO, 0);
	SAYS(done_rc(&d, STEP_COPY, 2, -ETIMEDOUT, 0), "lease-none kill-qemu PROMOTE:2 drop-link end:3");
	to(&d, COLLECT2);
	done_rc(&d, STEP_SAVE, 2, -EIO, 0);
	SAYS(tick(&d), "lease-none kill-qemu PROMOTE:2 drop-link end:3");
	to(&d, COLLECT2);
	done_rc(&d, STEP_SAVE, 2, -EIO, 0);
	done(&d, STEP_COPY, 2);
	SAYS(tick(&d), "lease-none kill-qemu PROMOTE:2 drop-link end:3");
	to(&d, COLLECT2);
	done_rc(&d, STEP_SAVE, 2, -EIO, 0);
	done(&d, STEP_COPY, 2);
	done_rc(&d, STEP_CONT, 2, -ECONNRESET, 0);
	STATE(&d, FT_ENDED, "idle");
	/* A refused cont is asked again. */
	to(&d, COLLECT2);
	done_rc(&d, STEP_SAVE, 2, -EIO, 0);
	done(&d, STEP_COPY, 2);
	SAYS(done_rc(&d, STEP_CONT, 2, -EIO, 0), "");
	SAYS(tick(&d), "cont:2");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2");
	SAYS(done(&d, STEP_AGAIN, 2), "net-close:3");
	/* The peer goes while the VM is stopped for it, and while it runs. */
	to(&d, COLLECT2);
	done_rc(&d, STEP_SAVE, 2, -EIO, 0);
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link lease-never net-alone:0");
	SAYS(done_rc(&d, STEP_COPY, 2, -EPIPE, 0), "cont:2");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2");
	STATE(&d, FT_ALONE, "idle");
	to(&d, COLLECT2);
	done_rc(&d, STEP_SAVE, 2, -EIO, 0);
	done(&d, STEP_COPY, 2);
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link lease-never net-alone:0");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2");
	/* A new peer waits until the old one's pages are nobody's. */
	SAYS(ev0(&d, FE_LINK_UP, 7), "");
	SAYS(done(&d, STEP_AGAIN, 2), "net-role:3 round:3");
	to(&d, STAGE2);
	done_rc(&d, STEP_SEND, 2, -EIO, 0);
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link lease-never net-alone:0");
	STATE(&d, FT_ALONE, "idle");
	assert_int_equal(ft_epoch(&d.ft), 3);
}

/*
 * A step that says ETIMEDOUT is as good as one that is overdue; any other error that is not tried again ends
 * protection, the VM goes on.
 */
static void steps_fail(void **state)
{
	struct drive d;

	to(&d, COLLECT2);
	SAYS(done_rc(&d, STEP_SAVE, 2, -ETIMEDOUT, 0), "lease-none kill-qemu PROMOTE:2 drop-link end:3");
	second_try(&d, COLLECT2);
	SAYS(done_rc(&d, STEP_SAVE, 3, -EIO, 0), "ALONE:3");
	SAYS(net(&d, NA_DRAINED, 3), "");
	SAYS(done(&d, STEP_COPY, 3), "cont:3");
	STATE(&d, FT_PROTECTED, "parting");
	SAYS(done(&d, STEP_CONT, 3), "net-open:3");
	assert_int_equal(ft_epoch(&d.ft), 4);
	/* What is held stays held until the peer has answered, or the lease has passed. */
	assert_int_equal(ft_deadline(&d.ft), d.now + d.ft.cfg.lease);
	SAYS(tick(&d), "drop-link lease-never net-alone:0");
	STATE(&d, FT_ALONE, "idle");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_STEP_FAILED);
	assert_int_equal(ft_failed_step(&d.ft), STEP_SAVE);
	assert_true(ft_deadline(&d.ft) == NS_NEVER);
	/* Both that are out are waited for. */
	to(&d, COLLECT2);
	SAYS(done_rc(&d, STEP_COPY, 2, -EPIPE, 0), "ALONE:2");
	SAYS(done(&d, STEP_SAVE, 2), "cont:2");
	/* A VM that does not run must not look as if it did: cont is asked again. */
	to(&d, CONT2);
	SAYS(done_rc(&d, STEP_CONT, 2, -EIO, 0), "");
	SAYS(tick(&d), "cont:2");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2 send:2");
	/* ... for as long as its deadline allows; then this QEMU hangs. */
	to(&d, CONT2);
	d.now += d.ft.cfg.stop_deadline;
	done_rc(&d, STEP_CONT, 2, -EIO, 0);
	STATE(&d, FT_ENDED, "idle");
	/* The monitor's end is QEMU's: the peer is not told that we go on. */
	to(&d, STOP2);
	done_rc(&d, STEP_STOP, 2, -ECONNRESET, 0);
	STATE(&d, FT_ENDED, "idle");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_QEMU_DIED);
	/* So is the end of its memory, whoever was just looking at it. */
	to(&d, COLLECT2);
	SAYS(done_rc(&d, STEP_COPY, 2, -ECONNRESET, 0), "lease-none kill-qemu PROMOTE:2 drop-link end:3");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_QEMU_DIED);
	to(&d, ROUND);
	done_rc(&d, STEP_ROUND, 1, -ECONNRESET, 0);
	assert_int_equal(ft_reason(&d.ft), FT_WHY_QEMU_DIED);
	to(&d, STAGE2);
	SAYS(done_rc(&d, STEP_SEND, 2, -EPIPE, 0), "ALONE:3");
	to(&d, ROUND);
	SAYS(done_rc(&d, STEP_ROUND, 1, -EPIPE, 0), "ALONE:1");
	to(&d, STOP2);
	SAYS(done_rc(&d, STEP_STOP, 2, -EIO, 0), "ALONE:2 cont:2");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2");
}

/* The secondary does nothing: protection ends. Bytes that move put it off. */
static void secondary_hangs(void **state)
{
	static const int places[] = { ROUND, STAGE, LOAD, STAGE2, LOAD2 };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		struct drive d;
		nstime t;

		to(&d, places[i]);
		t = ft_deadline(&d.ft);
		d.now += NS_PER_S;
		SAYS(ev0(&d, FE_PROGRESS, 0), "");
		assert_int_equal(ft_deadline(&d.ft), t + NS_PER_S);
		tick(&d);
		assert_non_null(strstr(d.said, "ALONE:"));
		SAYS(ctl(&d, CTL_STAGED, 2), "");
		SAYS(ctl(&d, CTL_LOADED, 2), "");
		SAYS(tick(&d), places[i] == ROUND ? "drop-link net-alone:0" : "drop-link lease-never net-alone:0");
		STATE(&d, FT_ALONE, "idle");
	}
}

/* The peer goes, in every place: held output leaves, the gate opens, the VM runs, an epoch that was closed is over. */
static void peer_lost(void **state)
{
	for (int how = 0; how < 5; how++)
		for (int p = ROUND; p < PLACES; p++) {
			struct drive d;
			char all[2048] = "";
			uint64_t epoch;

			to(&d, p);
			epoch = ft_epoch(&d.ft);
			if (how == 0)
				ev0(&d, FE_LINK_DOWN, 1);
			else if (how == 1)
				ev0(&d, FE_LINK_DOWN, 0);
			else if (how == 2)
				ev0(&d, FE_SILENT, 0);
			else if (how == 3)
				ctl(&d, CTL_GONE, 0);
			else
				ctl(&d, CTL_FAILED, 0);
			strcat(all, d.said);
			assert_non_null(strstr(all, "drop-link"));
			assert_non_null(strstr(all, "net-alone:0"));
			assert_int_equal(d.ft.state, FT_ALONE);
			assert_true((strstr(all, "ALONE:") != NULL) == (how == 1 || how == 2 || how == 3 || how == 4));
			for (int k = 0; k < 10 && d.ft.p.phase == PRI_UNWIND; k++) {
				for (int s = 0; s < STEP_MAX; s++)
					if (ft_epoch(&d.ft) == epoch && d.ft.busy[s].on) {
						done(&d, s, d.ft.busy[s].n);
						strcat(all, d.said);
					}
			}
			STATE(&d, FT_ALONE, "idle");
			if (p == GATE || p == GATE2 || p == STOP || p == STOP2 || p == COLLECT || p == COLLECT2 ||
			    p == CONT || p == CONT2) {
				assert_non_null(strstr(all, "net-open:"));
				assert_int_equal(ft_epoch(&d.ft), epoch + 1);
			} else {
				assert_null(strstr(all, "net-open:"));
				assert_int_equal(ft_epoch(&d.ft), epoch);
			}
			assert_non_null(strstr(all, p >= STAGE ? "lease-never" : "net-alone"));
		}
}

/* A peer that lives and does nothing is told first; what is held waits for its answer. */
static void peer_stuck(void **state)
{
	struct drive d;

	to(&d, IDLE);
	SAYS(ev0(&d, FE_STUCK, 0), "ALONE:2");
	STATE(&d, FT_PROTECTED, "parting");
	SAYS(tick(&d), "drop-link lease-never net-alone:0");
	to(&d, IDLE);
	ev0(&d, FE_STUCK, 0);
	SAYS(ctl(&d, CTL_CLAIM, 2), "");
	SAYS(give(&d, (struct ft_ev){ .type = FE_CTL, .ctl = { .type = CTL_TOOK_OVER, .generation = 8 } }),
	     "lease-none kill-qemu drop-link end:3");
	to(&d, IDLE);
	SAYS(ctl(&d, CTL_CLAIM, 2), "lease-none kill-qemu drop-link end:3");
}

/* The commands, the guest's end. */
static void endings(void **state)
{
	struct drive d;

	to(&d, IDLE);
	SAYS(ev0(&d, FE_FAILOVER, 0), "net-close:2");
	SAYS(ev0(&d, FE_FAILOVER, 0), "");
	net(&d, NA_CUT, 2);
	done(&d, STEP_STOP, 2);
	net(&d, NA_DRAINED, 2);
	done(&d, STEP_SAVE, 2);
	done(&d, STEP_COPY, 2);
	done(&d, STEP_CONT, 2);
	ctl(&d, CTL_STAGED, 2);
	SAYS(ctl(&d, CTL_LOADED, 2), "net-loaded:2 checkpoint-done lease-none kill-qemu PROMOTE:3 drop-link end:0");
	/* SIGTERM is the same; a second one does not wait. */
	to(&d, IDLE);
	SAYS(ev0(&d, FE_QUIT, 0), "net-close:2");
	SAYS(ev0(&d, FE_QUIT, 0), "lease-none kill-qemu PROMOTE:2 drop-link end:0");
	/* Without a secondary the VM ends. */
	to(&d, IDLE);
	ev0(&d, FE_QUIT, 0);
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link lease-none kill-qemu end:0");
	to(&d, ALONE);
	SAYS(ev0(&d, FE_FAILOVER, 0), "");
	SAYS(ev0(&d, FE_QUIT, 0), "lease-none kill-qemu end:0");
	to(&d, STAGE);
	SAYS(ev0(&d, FE_QUIT, 0), "lease-none kill-qemu QUIT:2 drop-link end:0");
	/* The guest powers off: the peer ends, what is held leaves, then we end. */
	to(&d, IDLE);
	SAYS(ev0(&d, FE_GUEST_OFF, 0), "GUEST_OFF:2");
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link lease-never net-alone:0");
	SAYS(tick(&d), "lease-none kill-qemu end:0");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_GUEST_OFF);
	to(&d, COLLECT2);
	SAYS(ev0(&d, FE_GUEST_OFF, 0), "GUEST_OFF:2");
	SAYS(tick(&d), "drop-link lease-never net-alone:0");
	SAYS(tick(&d), "lease-none kill-qemu end:0");
	/* A VM that cannot be started. */
	start(&d, FT_PRIMARY);
	ev0(&d, FE_START, 0);
	SAYS(done_rc(&d, STEP_CONT, 0, -EPERM, 0), "lease-none kill-qemu end:1");
}

/* The whole again with a new peer, but not while something of the old one is still busy. */
static void new_peer(void **state)
{
	struct drive d;

	to(&d, STAGE2);
	d.ft.busy[STEP_SEND] = (struct ft_busy){ .on = true, .n = 2, .deadline = NS_NEVER };
	ev0(&d, FE_LINK_DOWN, 1);
	SAYS(ev0(&d, FE_LINK_UP, 7), "");
	STATE(&d, FT_ALONE, "idle");
	SAYS(done_rc(&d, STEP_SEND, 2, -EPIPE, 0), "net-role:3 round:3");
	STATE(&d, FT_SYNC, "precopy");
	SAYS(done_rc(&d, STEP_ROUND, 3, 0, 0), "net-close:3");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(life), cmocka_unit_test(times), cmocka_unit_test(rounds),
		cmocka_unit_test(slow_copy), cmocka_unit_test(collect_orders), cmocka_unit_test(staged_before_sent), cmocka_unit_test(wishes),
		cmocka_unit_test(delay), cmocka_unit_test(own_qemu_hangs), cmocka_unit_test(steps_fail),
		cmocka_unit_test(tried_again), cmocka_unit_test(sending_is_tried_again), cmocka_unit_test(no_third_try),
		cmocka_unit_test(secondary_hangs), cmocka_unit_test(peer_lost), cmocka_unit_test(new_peer),
		cmocka_unit_test(peer_stuck), cmocka_unit_test(endings),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
