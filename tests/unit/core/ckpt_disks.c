/* SPDX-License-Identifier: BSD-2-Clause */
/* A checkpoint of a VM that has disks: what is added to ckpt_primary.c's and ckpt_secondary.c's tests by them. */
#include <errno.h>

#include "ft_drive.h"

static void disk_start(struct drive *d, enum ft_role role)
{
	start(d, role);
	d->ft.cfg.disks = true;
}

static void syncing(struct drive *d)
{
	disk_start(d, FT_PRIMARY);
	ev0(d, FE_START, 0);
	done(d, STEP_CONT, 0);
	/* The network stays as it is alone: nobody numbers input for a peer that takes hours to be filled. */
	SAYS(ev0(d, FE_LINK_UP, 7), "resync:1");
	STATE(d, FT_SYNC, "resync");
}

static void to_stop(struct drive *d)
{
	syncing(d);
	SAYS(done(d, STEP_RESYNC, 1), "net-role:1 round:1");
	SAYS(done_rc(d, STEP_ROUND, 1, 0, 10), "net-close:1");
	SAYS(net(d, NA_CUT, 1), "stop:1 EPOCH_END:1");
}

static void serving(void **state)
{
	struct drive d;

	to_stop(&d);
	/* The barrier is placed when stop was answered, and cont waits for it. */
	SAYS(done(&d, STEP_STOP, 1), "net-stopped:1 disk:1");
	SAYS(net(&d, NA_DRAINED, 1), "save:1 copy:1");
	SAYS(done(&d, STEP_SAVE, 1), "");
	SAYS(done_rc(&d, STEP_COPY, 1, 0, 5), "");
	SAYS(done(&d, STEP_DISK, 1), "cont:1");
}

static void resync_fails(void **state)
{
	struct drive d;

	syncing(&d);
	SAYS(done_rc(&d, STEP_RESYNC, 1, -EPERM, 0), "ALONE:1");
	assert_true(d.ft.parting);
	ev0(&d, FE_LINK_DOWN, 1);
	STATE(&d, FT_ALONE, "idle");
	/* As long as it moves it may take as long as it likes. */
	syncing(&d);
	for (int i = 0; i < 100; i++) {
		d.now += d.ft.cfg.staged_deadline / 2;
		SAYS(ev0(&d, FE_DISK_MOVED, 0), "");
	}
	STATE(&d, FT_SYNC, "resync");
	/* A peer that goes ends it; a next one waits until the step is answered. */
	ev0(&d, FE_LINK_DOWN, 1);
	SAYS(ev0(&d, FE_LINK_UP, 8), "");
	SAYS(done_rc(&d, STEP_RESYNC, 1, -EPIPE, 0), "resync:1");
}

static void barrier_fails(void **state)
{
	struct drive d;

	to_stop(&d);
	done(&d, STEP_STOP, 1);
	net(&d, NA_DRAINED, 1);
	SAYS(done_rc(&d, STEP_DISK, 1, -EPIPE, 0), "ALONE:1");
	done(&d, STEP_SAVE, 1);
	SAYS(done(&d, STEP_COPY, 1), "cont:1");
}

static void disk_barrier(struct drive *d, uint64_t n, int rc, const char *says)
{
	SAYS(give(d, (struct ft_ev){ .type = FE_DISK_BARRIER, .n = n, .rc = rc }), says);
}

static void filled(struct drive *d)
{
	disk_start(d, FT_SECONDARY);
	ev0(d, FE_START, 0);
	ev0(d, FE_LINK_UP, 9);
	ctl(d, CTL_EPOCH_END, 1);
	net(d, NA_BARRIER, 1);
	give(d, (struct ft_ev){ .type = FE_BULK_BARRIER, .n = 1, .value = 60000 });
	SAYS(done(d, STEP_RESERVE, 1), "");
}

static void standing_by(void **state)
{
	struct drive d;

	for (int order = 0; order < 2; order++) {
		filled(&d);
		disk_barrier(&d, 1, 0, "STAGED:1 flip:1 restart:1");
		SAYS(done(&d, STEP_RESTART, 1), "apply:1");
		SAYS(done(&d, order ? STEP_FLIP : STEP_APPLY, 1), "");
		SAYS(done(&d, order ? STEP_APPLY : STEP_FLIP, 1), "load:1");
	}
	/* When QEMU has to be started anew the disks are what they are. */
	SAYS(done_rc(&d, STEP_LOAD, 1, -EIO, 0), "restart:1");
	SAYS(done(&d, STEP_RESTART, 1), "apply:1");
	SAYS(done(&d, STEP_APPLY, 1), "load:1");
	/* A barrier that has come early counts too, one of another epoch does not. */
	disk_start(&d, FT_SECONDARY);
	ev0(&d, FE_START, 0);
	ev0(&d, FE_LINK_UP, 9);
	disk_barrier(&d, 1, 0, "");
	disk_barrier(&d, 2, 0, "");
	ctl(&d, CTL_EPOCH_END, 1);
	net(&d, NA_BARRIER, 1);
	give(&d, (struct ft_ev){ .type = FE_BULK_BARRIER, .n = 1, .value = 60000 });
	SAYS(done(&d, STEP_RESERVE, 1), "");
	STATE(&d, FT_JOINING, "collect");
}

static void no_room(void **state)
{
	struct drive d;

	filled(&d);
	disk_barrier(&d, 1, -ENOSPC, "kill-qemu FAILED:1 drop-link end:1");
	assert_int_equal(d.ft.reason, FT_WHY_DISK);
}

static void disk_fails(void **state)
{
	struct drive d;

	filled(&d);
	disk_barrier(&d, 1, 0, "STAGED:1 flip:1 restart:1");
	ev0(&d, FE_DISK_FAILED, 0);
	assert_int_equal(d.ft.state, FT_ENDED);
	assert_int_equal(d.ft.reason, FT_WHY_DISK);
	/* Where the VM serves it goes on, without protection. */
	to_stop(&d);
	SAYS(ev0(&d, FE_DISK_FAILED, 0), "ALONE:1");
	assert_int_equal(d.ft.why, FT_WHY_DISK);
}

/* A guest that writes all the time must not keep a peer that hangs from being found out. */
static void moving_disks(void **state)
{
	struct drive d;
	bool parted = false;

	to_stop(&d);
	done(&d, STEP_STOP, 1);
	net(&d, NA_DRAINED, 1);
	done(&d, STEP_SAVE, 1);
	done(&d, STEP_DISK, 1);
	done_rc(&d, STEP_COPY, 1, 0, 5);
	done(&d, STEP_CONT, 1);
	STATE(&d, FT_SYNC, "staged");
	for (int i = 0; i < 1000 && !parted; i++) {
		d.now += d.ft.cfg.staged_deadline / 2;
		ev0(&d, FE_DISK_MOVED, 0);
		ev0(&d, FE_TICK, 0);
		parted = d.ft.parting;
		assert_true(parted || i < 100);
		/* On a slow link it has some time. */
		assert_true(!parted || i > 10);
	}
	assert_true(parted);
	/* Where STAGED is there it is of no account at all. */
	to_stop(&d);
	done(&d, STEP_STOP, 1);
	net(&d, NA_DRAINED, 1);
	done(&d, STEP_SAVE, 1);
	done(&d, STEP_DISK, 1);
	done_rc(&d, STEP_COPY, 1, 0, 5);
	done(&d, STEP_CONT, 1);
	ctl(&d, CTL_STAGED, 1);
	d.now = ft_deadline(&d.ft) - 1;
	ev0(&d, FE_DISK_MOVED, 0);
	d.now += 2;
	ev0(&d, FE_TICK, 0);
	assert_true(d.ft.parting);
}

/* A node whose images are of no use hands the VM to one that has some. */
static void no_images(void **state)
{
	struct drive d;

	to_stop(&d);
	done(&d, STEP_STOP, 1);
	net(&d, NA_DRAINED, 1);
	done(&d, STEP_SAVE, 1);
	done(&d, STEP_DISK, 1);
	done_rc(&d, STEP_COPY, 1, 0, 5);
	done(&d, STEP_CONT, 1);
	ctl(&d, CTL_STAGED, 1);
	ev0(&d, FE_DISK_FAILED, 1);
	assert_int_equal(d.ft.state, FT_ENDED);
	assert_non_null(strstr(d.said, "PROMOTE"));
}

static void to_idle(struct drive *d)
{
	filled(d);
	d->ft.cfg.fence = true;
	disk_barrier(d, 1, 0, "STAGED:1 flip:1 restart:1");
	done(d, STEP_RESTART, 1);
	done(d, STEP_FLIP, 1);
	done(d, STEP_APPLY, 1);
	done(d, STEP_LOAD, 1);
	done(d, STEP_MEND, 1);
	done(d, STEP_CONT, 1);
	STATE(d, FT_STANDBY, "idle");
}

static void fence(void **state)
{
	struct drive d;

	/* A close by its kernel says that the peer's process is dead; what it had under way is not. */
	to_idle(&d);
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "fence:2");
	STATE(&d, FT_STANDBY, "fence");
	/* Whatever else says that it is time to take over begins no second one. */
	SAYS(ev0(&d, FE_SILENT, 0), "");
	SAYS(done(&d, STEP_FENCE, 2), "drop-link lease-never net-promote:2 forget:2");
	STATE(&d, FT_ALONE, "idle");
	/* One that said that it has ended has seen to that itself. */
	to_idle(&d);
	SAYS(ctl(&d, CTL_PROMOTE, 1), "TOOK_OVER:2 drop-link lease-never net-promote:2 forget:2");
}

static void fence_fails(void **state)
{
	struct drive d;

	to_idle(&d);
	ev0(&d, FE_LINK_DOWN, 1);
	SAYS(done_rc(&d, STEP_FENCE, 2, -EIO, 0), "stop:2");
	STATE(&d, FT_STANDBY, "unfenced");
	assert_int_equal(ft_reason(&d.ft), FT_WHY_UNFENCED);
	done(&d, STEP_STOP, 2);
	/* Once more after a while, and when somebody asks for it. */
	assert_true(ft_deadline(&d.ft) == d.now + d.ft.cfg.fence_retry);
	d.now = ft_deadline(&d.ft);
	SAYS(ev0(&d, FE_TICK, 0), "fence:2");
	SAYS(done_rc(&d, STEP_FENCE, 2, -EIO, 0), "");
	SAYS(ev0(&d, FE_FAILOVER, 0), "fence:2");
	/* The VM, which stands, goes on when it has succeeded. */
	SAYS(done(&d, STEP_FENCE, 2), "drop-link lease-never net-promote:2 cont:1 forget:2");
	SAYS(done(&d, STEP_CONT, 1), "");
	STATE(&d, FT_ALONE, "idle");
	/* Nothing can: it is not tried again by itself. */
	to_idle(&d);
	ev0(&d, FE_LINK_DOWN, 1);
	SAYS(done_rc(&d, STEP_FENCE, 2, -EOPNOTSUPP, 0), "stop:2");
	done(&d, STEP_STOP, 2);
	assert_true(ft_deadline(&d.ft) == NS_NEVER);
	/* The peer has gone on without this node. */
	to_idle(&d);
	ev0(&d, FE_LINK_DOWN, 0);
	d.now = ft_deadline(&d.ft);
	ev0(&d, FE_TICK, 0);
	done_rc(&d, STEP_FENCE, 2, -ESTALE, 0);
	assert_int_equal(d.ft.state, FT_ENDED);
	assert_int_equal(ft_reason(&d.ft), FT_WHY_PEER_ALONE);
	/* ... and hears that the peer has the disks. */
	syncing(&d);
	ev0(&d, FE_LINK_DOWN, 1);
	give(&d, (struct ft_ev){ .type = FE_DISK_FAILED, .rc = -EIO });
	STATE(&d, FT_ALONE, "idle");
	give(&d, (struct ft_ev){ .type = FE_DISK_FAILED, .rc = -ESTALE });
	assert_int_equal(ft_reason(&d.ft), FT_WHY_PEER_TOOK_OVER);
	syncing(&d);
	give(&d, (struct ft_ev){ .type = FE_DISK_FAILED, .rc = -ESTALE });
	assert_int_equal(ft_reason(&d.ft), FT_WHY_PEER_TOOK_OVER);
}

/* The disks ask once until the next flip: what they ask for while a checkpoint is being loaded is said behind it. */
static void wish(void **state)
{
	static const enum ft_step steps[] = { STEP_RESTART, STEP_APPLY, STEP_FLIP, STEP_LOAD, STEP_MEND };
	struct drive d;

	for (unsigned int place = 0; place <= 5; place++) {
		filled(&d);
		disk_barrier(&d, 1, 0, "STAGED:1 flip:1 restart:1");
		for (unsigned int i = 0; i < 5; i++) {
			if (i == place)
				SAYS(want(&d, CAUSE_DISK), "");
			done(&d, steps[i], 1);
		}
		if (place == 5)
			SAYS(want(&d, CAUSE_DISK), "");
		SAYS(done(&d, STEP_CONT, 1), "net-open:1 LOADED:1 WANT:2");
		assert_int_equal(d.acts.a[d.acts.n - 1].ctl.value, CAUSE_DISK);
		STATE(&d, FT_STANDBY, "idle");
		/* Once. And what comes before the flip is answered by it. */
		SAYS(ctl(&d, CTL_EPOCH_END, 2), "net-close:2");
		SAYS(want(&d, CAUSE_DISK), "");
		net(&d, NA_CUT, 2);
		done(&d, STEP_STOP, 2);
		SAYS(want(&d, CAUSE_DISK), "");
		net(&d, NA_DRAINED, 2);
		net(&d, NA_BARRIER, 2);
		give(&d, (struct ft_ev){ .type = FE_BULK_BARRIER, .n = 2, .value = 60000 });
		done(&d, STEP_RESERVE, 2);
		disk_barrier(&d, 2, 0, "STAGED:2 flip:2 apply:2");
		/* The memory asks again by itself if it still has to. */
		SAYS(want(&d, CAUSE_PRIVATE), "");
		done(&d, STEP_APPLY, 2);
		done(&d, STEP_FLIP, 2);
		done(&d, STEP_LOAD, 2);
		done(&d, STEP_MEND, 2);
		SAYS(done(&d, STEP_CONT, 2), "net-open:2 LOADED:2");
	}
	/* Nobody is left who could be asked. */
	want(&d, CAUSE_DISK);
	SAYS(ctl(&d, CTL_EPOCH_END, 3), "net-close:3");
	net(&d, NA_CUT, 3);
	done(&d, STEP_STOP, 3);
	net(&d, NA_DRAINED, 3);
	net(&d, NA_BARRIER, 3);
	give(&d, (struct ft_ev){ .type = FE_BULK_BARRIER, .n = 3, .value = 60000 });
	done(&d, STEP_RESERVE, 3);
	disk_barrier(&d, 3, 0, "STAGED:3 flip:3 apply:3");
	want(&d, CAUSE_DISK);
	ev0(&d, FE_LINK_DOWN, 1);
	STATE(&d, FT_PROMOTING, "apply");
	done(&d, STEP_APPLY, 3);
	done(&d, STEP_FLIP, 3);
	done(&d, STEP_LOAD, 3);
	done(&d, STEP_MEND, 3);
	assert_null(strstr(done(&d, STEP_CONT, 3), "WANT"));
	assert_int_equal(d.ft.state, FT_ALONE);
	assert_false(d.ft.s.disk_wish);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(serving), cmocka_unit_test(fence), cmocka_unit_test(fence_fails), cmocka_unit_test(resync_fails), cmocka_unit_test(barrier_fails),
		cmocka_unit_test(standing_by), cmocka_unit_test(no_room), cmocka_unit_test(disk_fails), cmocka_unit_test(moving_disks),
		cmocka_unit_test(no_images), cmocka_unit_test(wish),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
