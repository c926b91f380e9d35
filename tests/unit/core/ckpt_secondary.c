/* SPDX-License-Identifier: BSD-2-Clause */
/* The standby node's checkpoint: every order of arrival, promotion in every phase, each deadline and its exit. */
#include "ft_drive.h"

enum { FILL, FIRST_APPLY, IDLE, GATE, STOP, DRAIN, BARRIERS, APPLY, LOAD, MEND, CONT, PLACES };

static const char *bulk(struct drive *d, uint64_t n)
{
	return give(d, (struct ft_ev){ .type = FE_BULK_BARRIER, .n = n, .value = 60000 });
}

/* Up to a place in the life of a secondary; checkpoint 2 is the one under way from GATE on. */
static void to(struct drive *d, int place)
{
	start(d, FT_SECONDARY);
	SAYS(ev0(d, FE_START, 0), "lease-none");
	SAYS(ev0(d, FE_LINK_UP, 9), "net-role:1");
	assert_int_equal(ft_generation(&d->ft), 9);
	STATE(d, FT_JOINING, "fill");
	if (place == FILL)
		return;
	SAYS(ctl(d, CTL_EPOCH_END, 1), "");
	SAYS(net(d, NA_BARRIER, 1), "");
	SAYS(bulk(d, 1), "reserve:1");
	assert_int_equal(d->ft.state, FT_JOINING);
	SAYS(done(d, STEP_RESERVE, 1), "STAGED:1 apply:1");
	STATE(d, FT_STANDBY, "apply");
	if (place == FIRST_APPLY)
		return;
	SAYS(done(d, STEP_APPLY, 1), "load:1");
	SAYS(done(d, STEP_LOAD, 1), "mend:1");
	SAYS(done(d, STEP_MEND, 1), "net-loaded:1 cont:1");
	SAYS(done(d, STEP_CONT, 1), "net-open:1 LOADED:1");
	STATE(d, FT_STANDBY, "idle");
	assert_int_equal(ft_epoch(&d->ft), 2);
	if (place == IDLE)
		return;
	SAYS(ctl(d, CTL_EPOCH_END, 2), "net-close:2");
	if (place == GATE)
		return;
	SAYS(net(d, NA_CUT, 2), "stop:2");
	if (place == STOP)
		return;
	SAYS(done(d, STEP_STOP, 2), "net-stopped:2");
	if (place == DRAIN)
		return;
	SAYS(net(d, NA_DRAINED, 2), "");
	if (place == BARRIERS)
		return;
	net(d, NA_BARRIER, 2);
	bulk(d, 2);
	SAYS(done(d, STEP_RESERVE, 2), "STAGED:2 apply:2");
	if (place == APPLY)
		return;
	SAYS(done(d, STEP_APPLY, 2), "load:2");
	if (place == LOAD)
		return;
	SAYS(done(d, STEP_LOAD, 2), "mend:2");
	if (place == MEND)
		return;
	SAYS(done(d, STEP_MEND, 2), "net-loaded:2 cont:2");
	if (place == CONT)
		return;
	SAYS(done(d, STEP_CONT, 2), "net-open:2 LOADED:2");
}

/* One of the five things that STAGED waits for. */
static void arrive(struct drive *d, int what, char *all)
{
	switch (what) {
	case 0:
		ctl(d, CTL_EPOCH_END, 2);
		strcat(all, d->said);
		/* The own half follows at once here: cut, stop, drain. */
		net(d, NA_CUT, 2);
		strcat(all, d->said);
		done(d, STEP_STOP, 2);
		strcat(all, d->said);
		net(d, NA_DRAINED, 2);
		break;
	case 1:
		net(d, NA_BARRIER, 2);
		break;
	case 2:
		bulk(d, 2);
		break;
	default:
		done(d, STEP_RESERVE, 2);
		break;
	}
	strcat(all, d->said);
}

/* In every order that there can be: the reservation comes after the marker, everything else is free. */
static void every_order(void **state)
{
	int orders = 0;

	for (int o = 0; o < 256; o++) {
		int w[4] = { o & 3, o >> 2 & 3, o >> 4 & 3, o >> 6 & 3 }, seen = 0;
		bool marker = false, ok = true;
		char all[1024] = "";
		struct drive d;

		for (int i = 0; i < 4; i++) {
			seen |= 1 << w[i];
			marker = marker || w[i] == 2;
			ok = ok && (w[i] != 3 || marker);
		}
		if (seen != 15 || !ok)
			continue;
		orders++;
		to(&d, IDLE);
		for (int i = 0; i < 4; i++) {
			assert_null(strstr(all, "STAGED"));
			arrive(&d, w[i], all);
		}
		assert_non_null(strstr(all, "STAGED:2 apply:2"));
	}
	assert_int_equal(orders, 12);
}

/* The same for the drain, which may be the last. */
static void drain_last(void **state)
{
	struct drive d;

	to(&d, GATE);
	net(&d, NA_BARRIER, 2);
	bulk(&d, 2);
	done(&d, STEP_RESERVE, 2);
	SAYS(net(&d, NA_CUT, 2), "stop:2");
	SAYS(done(&d, STEP_STOP, 2), "net-stopped:2");
	SAYS(net(&d, NA_DRAINED, 2), "STAGED:2 apply:2");
}

/* The primary dies: which words follow in each place, until this node serves. */
static void promotion(void **state)
{
	static const struct {
		int place;
		const char *now, *later;
	} t[] = {
		{ FIRST_APPLY, "", "load:1 mend:1 net-loaded:1 net-promote:1 cont:1 net-open:1 " },
		{ IDLE, "net-promote:2 forget:2", "" },
		{ GATE, "net-promote:2 net-open:2 forget:2", "" },
		{ STOP, "net-promote:2 forget:2", "cont:2 net-open:2 " },
		{ DRAIN, "net-promote:2 cont:2 forget:2", "net-open:2 " },
		{ BARRIERS, "net-promote:2 cont:2 forget:2", "net-open:2 " },
		{ APPLY, "", "load:2 mend:2 net-loaded:2 net-promote:2 cont:2 net-open:2 " },
		{ LOAD, "", "mend:2 net-loaded:2 net-promote:2 cont:2 net-open:2 " },
		{ MEND, "", "net-loaded:2 net-promote:2 cont:2 net-open:2 " },
		{ CONT, "net-promote:2", "net-open:2 " },
		{ PLACES, "net-promote:3 forget:3", "" },
	};

	for (int how = 0; how < 4; how++)
		for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
			char all[1024] = "", want[1024];
			struct drive d;

			to(&d, t[i].place);
			if (how == 0) {
				ev0(&d, FE_LINK_DOWN, 1);
			} else if (how == 1) {
				ctl_v(&d, CTL_PROMOTE, 0, FT_WHY_QEMU_DIED);
			} else if (how == 2) {
				ev0(&d, FE_BEAT, 0);
				d.now += d.ft.cfg.lease + d.ft.cfg.drift;
				ev0(&d, FE_SILENT, 0);
			} else {
				SAYS(ev0(&d, FE_FAILOVER, 0), t[i].place == FIRST_APPLY ? "mute CLAIM:1" :
				     t[i].place == PLACES ? "mute CLAIM:3" : "mute CLAIM:2");
				ev0(&d, FE_LINK_DOWN, 1);
			}
			snprintf(want, sizeof(want), "%sdrop-link lease-never%s%s", how == 1 || how == 2 ?
				 t[i].place == FIRST_APPLY ? "TOOK_OVER:1 " : t[i].place == PLACES ? "TOOK_OVER:3 " :
				 "TOOK_OVER:2 " : "", *t[i].now ? " " : "", t[i].now);
			SAYS(d.said, want);
			assert_int_equal(ft_generation(&d.ft), 10);
			for (int k = 0; k < 10 && d.ft.state == FT_PROMOTING; k++)
				for (int s = 0; s < STEP_MAX; s++) {
					if (!d.ft.busy[s].on || d.ft.state != FT_PROMOTING)
						continue;
					done(&d, s, d.ft.busy[s].n);
					if (!d.said[0])
						continue;
					strcat(all, d.said);
					strcat(all, " ");
				}
			SAYS(all, t[i].later);
			STATE(&d, FT_ALONE, "idle");
			if (d.ft.busy[STEP_FORGET].on)
				done(&d, STEP_FORGET, d.ft.busy[STEP_FORGET].n);
			/* What remains to be done is its memory, later. */
			assert_int_equal(ft_memory(&d.ft), FT_MEM_SHARING);
			assert_true(ft_deadline(&d.ft) == d.now + d.ft.cfg.share_after);
			assert_int_equal(ft_epoch(&d.ft), t[i].place == FIRST_APPLY ? 2 : t[i].place == IDLE ? 2 : 3);
		}
}

/* The primary gives 2 up and tries again as 3, wherever it finds this node: the SVM is stopped once, and 3 is taken. */
static void abort_everywhere(void **state)
{
	for (int p = GATE; p <= BARRIERS; p++)
		for (int k = 0; k < 16; k++) {
			/* How much of the own half is done before the second EPOCH_END, and what of 3 has come before. */
			int before = k & 3;
			bool early = k & 4, old = k & 8;
			char all[1024] = "";
			struct drive d;
			int at = p;

			to(&d, p);
			if (old)
				SAYS(net(&d, NA_BARRIER, 2), "");
			SAYS(ctl(&d, CTL_ABORT, 2), "");
			if (!old)
				SAYS(net(&d, NA_BARRIER, 2), "");
			for (int i = 0; i < 8; i++) {
				if (i == before) {
					if (early) {
						SAYS(net(&d, NA_BARRIER, 3), "");
						SAYS(bulk(&d, 3), "reserve:3");
						SAYS(done(&d, STEP_RESERVE, 3), "");
					}
					ctl(&d, CTL_EPOCH_END, 3);
					strcat(all, d.said);
				}
				if (at == GATE)
					net(&d, NA_CUT, 2);
				else if (at == STOP)
					done(&d, STEP_STOP, 2);
				else if (at == DRAIN)
					net(&d, NA_DRAINED, 2);
				else if (at == BARRIERS && i > before && !early)
					bulk(&d, 3);
				else
					continue;
				at++;
				strcat(all, d.said);
				if (strstr(d.said, "reserve:3")) {
					net(&d, NA_BARRIER, 3);
					strcat(all, d.said);
					done(&d, STEP_RESERVE, 3);
					strcat(all, d.said);
				}
			}
			assert_null(strstr(all, "STAGED:2"));
			assert_null(strstr(all, "cont:"));
			assert_null(strstr(all, "net-close"));
			assert_non_null(strstr(all, "STAGED:3 apply:3"));
			done(&d, STEP_APPLY, 3);
			done(&d, STEP_LOAD, 3);
			SAYS(done(&d, STEP_MEND, 3), "net-loaded:3 cont:3");
			SAYS(done(&d, STEP_CONT, 3), "net-open:3 LOADED:3");
			assert_int_equal(ft_epoch(&d.ft), 4);
			SAYS(ctl(&d, CTL_EPOCH_END, 4), "net-close:4");
		}
}

/* The primary dies after ABORT 2: the SVM goes on as it stands. */
static void abort_promotion(void **state)
{
	static const char *const now[2][4] = {
		{ "net-promote:2 net-open:2 forget:2", "net-promote:2 forget:2", "net-promote:2 cont:2 forget:2",
		  "net-promote:2 cont:2 forget:2" },
		{ "net-promote:2 net-open:3 forget:2", "net-promote:2 forget:2", "net-promote:2 cont:3 forget:2",
		  "net-promote:2 cont:3 forget:2" },
	};

	for (int again = 0; again < 2; again++)
		for (int p = GATE; p <= BARRIERS; p++) {
			char want[128];
			struct drive d;

			to(&d, p);
			ctl(&d, CTL_ABORT, 2);
			if (again)
				SAYS(ctl(&d, CTL_EPOCH_END, 3), "");
			snprintf(want, sizeof(want), "drop-link lease-never %s", now[again][p - GATE]);
			SAYS(ev0(&d, FE_LINK_DOWN, 1), want);
			if (p == STOP)
				SAYS(done(&d, STEP_STOP, 2), again ? "cont:3" : "cont:2");
			if (p != GATE)
				SAYS(done(&d, STEP_CONT, again ? 3 : 2), again ? "net-open:3" : "net-open:2");
			STATE(&d, FT_ALONE, "idle");
			assert_true(ft_epoch(&d.ft) > 2);
		}
}

/* The first checkpoint of all; one that comes at the wrong time; one that is not followed by anything. */
static void abort_odd(void **state)
{
	struct drive d;

	to(&d, FILL);
	ctl(&d, CTL_EPOCH_END, 1);
	net(&d, NA_BARRIER, 1);
	SAYS(ctl(&d, CTL_ABORT, 1), "");
	SAYS(ctl(&d, CTL_EPOCH_END, 3), "");
	SAYS(ctl(&d, CTL_EPOCH_END, 2), "");
	SAYS(bulk(&d, 2), "reserve:2");
	SAYS(done(&d, STEP_RESERVE, 2), "");
	SAYS(net(&d, NA_BARRIER, 2), "STAGED:2 apply:2");
	STATE(&d, FT_STANDBY, "apply");
	done(&d, STEP_APPLY, 2);
	done(&d, STEP_LOAD, 2);
	done(&d, STEP_MEND, 2);
	SAYS(done(&d, STEP_CONT, 2), "net-open:2 LOADED:2");
	assert_int_equal(ft_epoch(&d.ft), 3);
	/* The same with the primary's death: there is nothing to go on from. */
	to(&d, FILL);
	ctl(&d, CTL_EPOCH_END, 1);
	ctl(&d, CTL_ABORT, 1);
	ev0(&d, FE_LINK_DOWN, 1);
	STATE(&d, FT_ENDED, "idle");
	/* Nothing is under way, it is another one, it was STAGED. */
	to(&d, IDLE);
	SAYS(ctl(&d, CTL_ABORT, 2), "");
	SAYS(ctl(&d, CTL_EPOCH_END, 2), "net-close:2");
	SAYS(ctl(&d, CTL_ABORT, 1), "");
	SAYS(ctl(&d, CTL_ABORT, 3), "");
	SAYS(ctl(&d, CTL_EPOCH_END, 3), "");
	for (int p = APPLY; p <= CONT; p++) {
		to(&d, p);
		SAYS(ctl(&d, CTL_ABORT, 2), "");
		SAYS(ctl(&d, CTL_EPOCH_END, 3), "");
		assert_int_equal(d.ft.s.n, 2);
	}
	/* It waits as long as for barriers, and bytes put it off. */
	to(&d, BARRIERS);
	d.now += NS_PER_S;
	ctl(&d, CTL_ABORT, 2);
	assert_true(ft_deadline(&d.ft) > d.now + d.ft.cfg.staged_deadline);
	SAYS(tick(&d), "mute CLAIM:2");
}

/* The staging area is not forgotten while it is being reserved. */
static void forget_waits(void **state)
{
	struct drive d;

	to(&d, IDLE);
	SAYS(bulk(&d, 2), "reserve:2");
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link lease-never net-promote:2");
	STATE(&d, FT_ALONE, "idle");
	SAYS(done_rc(&d, STEP_RESERVE, 2, -ENOSPC, 0), "forget:2");
}

/* Death that is not proven: the lease has to run out, counted from the last heartbeat. */
static void lease(void **state)
{
	nstime seen;
	struct drive d;

	to(&d, IDLE);
	ev0(&d, FE_BEAT, 0);
	seen = d.now;
	d.now += 100 * NS_PER_MS;
	/* Some connection may be whole, and the peer alive: answer it no more, or its lease would never end. */
	SAYS(ev0(&d, FE_LINK_DOWN, 0), "mute CLAIM:2");
	STATE(&d, FT_STANDBY, "lease");
	assert_int_equal(ft_deadline(&d.ft), d.now + d.ft.cfg.lease + d.ft.cfg.drift);
	assert_true(d.now > seen);
	SAYS(ev0(&d, FE_BEAT, 0), "");
	SAYS(tick(&d), "TOOK_OVER:2 drop-link lease-never net-promote:2 forget:2");
	/* A trouble of our own: the primary serves on, and is told. */
	to(&d, IDLE);
	ev0(&d, FE_LINK_DOWN, 2);
	STATE(&d, FT_ENDED, "idle");
	/* Silence that ends again. */
	to(&d, IDLE);
	ev0(&d, FE_BEAT, 0);
	d.now += d.ft.cfg.lease;
	SAYS(ev0(&d, FE_SILENT, 0), "");
	d.now += 1;
	SAYS(ev0(&d, FE_BEAT, 0), "");
	STATE(&d, FT_STANDBY, "idle");
	assert_true(ft_deadline(&d.ft) == NS_NEVER);
	/* A claim that nobody answers. */
	to(&d, IDLE);
	ev0(&d, FE_BEAT, 0);
	SAYS(ev0(&d, FE_FAILOVER, 0), "mute CLAIM:2");
	SAYS(ev0(&d, FE_FAILOVER, 0), "");
	ev0(&d, FE_BEAT, 0);
	SAYS(tick(&d), "TOOK_OVER:2 drop-link lease-never net-promote:2 forget:2");
	assert_int_equal(d.acts.a[0].ctl.generation, 10);
	/* The same for a primary whose heart beats and whose work stands. */
	to(&d, IDLE);
	ev0(&d, FE_BEAT, 0);
	SAYS(ev0(&d, FE_STUCK, 0), "mute CLAIM:2");
	SAYS(tick(&d), "TOOK_OVER:2 drop-link lease-never net-promote:2 forget:2");
	/* The primary went on alone before it read the claim. */
	to(&d, IDLE);
	ev0(&d, FE_FAILOVER, 0);
	SAYS(ctl(&d, CTL_ALONE, 2), "kill-qemu drop-link end:3");
}

static void joining_never_promotes(void **state)
{
	static const enum ft_ev_type evs[] = { FE_LINK_DOWN, FE_SILENT, FE_FAILOVER, FE_TICK };

	for (size_t i = 0; i < 4; i++)
		for (int more = 0; more < 2; more++) {
			struct drive d;

			to(&d, FILL);
			if (more) {
				ctl(&d, CTL_EPOCH_END, 1);
				bulk(&d, 1);
			}
			ev0(&d, evs[i], 1);
			assert_null(strstr(d.said, "promote"));
			assert_int_equal(d.ft.state, i < 2 ? FT_ENDED : FT_JOINING);
			to(&d, FILL);
			SAYS(ctl(&d, CTL_PROMOTE, 0), "kill-qemu drop-link end:1");
		}
}

static void told_to_end(void **state)
{
	for (int p = FILL; p <= PLACES; p++) {
		struct drive d;

		to(&d, p);
		SAYS(ctl(&d, CTL_ALONE, 0), "kill-qemu drop-link end:3");
		to(&d, p);
		SAYS(ctl(&d, CTL_QUIT, 0), "kill-qemu drop-link end:0");
		to(&d, p);
		SAYS(ctl(&d, CTL_GUEST_OFF, 0), "kill-qemu drop-link end:0");
		to(&d, p);
		ev0(&d, FE_QUIT, 0);
		assert_non_null(strstr(d.said, "kill-qemu GONE:"));
		/* Another generation's word counts nothing. */
		to(&d, p);
		SAYS(give(&d, (struct ft_ev){ .type = FE_CTL, .ctl = { .type = CTL_QUIT, .generation = 8 } }), "");
	}
}

/* The own QEMU: once it is started anew, in the middle of a load; else the primary is told. */
static void own_qemu(void **state)
{
	static const int one[] = { GATE, STOP, DRAIN };
	struct drive d;

	for (size_t i = 0; i < sizeof(one) / sizeof(one[0]); i++) {
		to(&d, one[i]);
		SAYS(tick(&d), "kill-qemu GONE:2 drop-link end:3");
	}
	to(&d, CONT);
	SAYS(tick(&d), "kill-qemu FAILED:2 drop-link end:3");
	for (int p = APPLY; p <= MEND; p++)
		for (int how = 0; how < 3; how++) {
			enum ft_step s = p == APPLY ? STEP_APPLY : p == LOAD ? STEP_LOAD : STEP_MEND;

			to(&d, p);
			if (how == 0)
				done_rc(&d, s, 2, -EINVAL, 0);
			else if (how == 1)
				tick(&d);
			else
				ev0(&d, FE_QEMU_DIED, 0);
			SAYS(d.said, "restart:2");
			SAYS(ev0(&d, FE_QEMU_DIED, 0), "");
			SAYS(done(&d, STEP_RESTART, 2), "apply:2");
			SAYS(done(&d, STEP_APPLY, 2), "load:2");
			if (how == 0) {
				SAYS(done(&d, STEP_LOAD, 2), "mend:2");
				SAYS(done(&d, STEP_MEND, 2), "net-loaded:2 cont:2");
				SAYS(done(&d, STEP_CONT, 2), "net-open:2 LOADED:2");
				assert_int_equal(d.acts.a[1].ctl.value, 1);
				continue;
			}
			SAYS(done_rc(&d, STEP_LOAD, 2, -EINVAL, 0), "kill-qemu FAILED:2 drop-link end:3");
		}
	for (int p = FILL; p <= PLACES; p++) {
		to(&d, p);
		if (p >= APPLY && p <= MEND)
			continue;
		if (p == FIRST_APPLY)
			continue;
		ev0(&d, FE_QEMU_DIED, 0);
		assert_int_equal(d.ft.state, FT_ENDED);
	}
	to(&d, IDLE);
	bulk(&d, 2);
	SAYS(done_rc(&d, STEP_RESERVE, 2, -ENOSPC, 0), "kill-qemu FAILED:2 drop-link end:3");
}

/* Barriers that do not come although the primary's heart beats: a claim. */
static void barriers_overdue(void **state)
{
	struct drive d;
	nstime t;

	to(&d, BARRIERS);
	t = ft_deadline(&d.ft);
	d.now += NS_PER_S;
	ev0(&d, FE_PROGRESS, 0);
	assert_int_equal(ft_deadline(&d.ft), t + NS_PER_S);
	SAYS(tick(&d), "mute CLAIM:2");
	SAYS(tick(&d), "TOOK_OVER:2 drop-link lease-never net-promote:2 cont:2 forget:2");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2");
	STATE(&d, FT_ALONE, "idle");
}

static void svm_alone(void **state)
{
	struct drive d;

	to(&d, IDLE);
	SAYS(ev0(&d, FE_GUEST_RESET, 0), "WANT:2");
	assert_int_equal(d.acts.a[0].ctl.value, CAUSE_RESET);
	SAYS(ev0(&d, FE_GUEST_OFF, 0), "WANT:2");
	/* The SVM has ended by itself: there is nothing to go on with. */
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link lease-never lease-none kill-qemu end:0");
	/* With the next checkpoint loaded it has been replaced. */
	to(&d, IDLE);
	ev0(&d, FE_GUEST_OFF, 0);
	ctl(&d, CTL_EPOCH_END, 2);
	net(&d, NA_CUT, 2);
	done(&d, STEP_STOP, 2);
	net(&d, NA_DRAINED, 2);
	net(&d, NA_BARRIER, 2);
	bulk(&d, 2);
	done(&d, STEP_RESERVE, 2);
	done(&d, STEP_APPLY, 2);
	done(&d, STEP_LOAD, 2);
	SAYS(done(&d, STEP_MEND, 2), "net-loaded:2 cont:2");
	SAYS(done(&d, STEP_CONT, 2), "net-open:2 LOADED:2");
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link lease-never net-promote:3 forget:3");
	STATE(&d, FT_ALONE, "idle");
}

/* A message out of order changes nothing. */
static void out_of_order(void **state)
{
	struct drive d;

	to(&d, IDLE);
	SAYS(ctl(&d, CTL_EPOCH_END, 1), "");
	SAYS(ctl(&d, CTL_EPOCH_END, 3), "");
	SAYS(ctl(&d, CTL_STAGED, 2), "");
	SAYS(ctl(&d, CTL_LOADED, 2), "");
	SAYS(net(&d, NA_CUT, 2), "");
	SAYS(done(&d, STEP_STOP, 2), "");
	SAYS(ctl(&d, CTL_EPOCH_END, 2), "net-close:2");
	SAYS(ctl(&d, CTL_EPOCH_END, 2), "");
	SAYS(ctl(&d, CTL_EPOCH_END, 3), "");
	SAYS(net(&d, NA_CUT, 1), "");
	SAYS(net(&d, NA_CUT, 2), "stop:2");
}

/* Too many private pages: the SVM is asked for a checkpoint, then stopped, and replaced by the checkpoint. */
static void full(void **state)
{
	struct drive d;

	to(&d, IDLE);
	SAYS(want(&d, CAUSE_PRIVATE), "WANT:2");
	SAYS(want(&d, CAUSE_STAGED), "WANT:2");
	for (int order = 0; order < 3; order++) {
		to(&d, IDLE);
		SAYS(ev0(&d, FE_FULL, 0), "stop:2 WANT:2");
		STATE(&d, FT_STANDBY, "full");
		SAYS(ev0(&d, FE_FULL, 0), "");
		/* The stop is answered before the end of the epoch, in the gate, or after the cut. */
		if (order == 0)
			SAYS(done(&d, STEP_STOP, 2), "");
		SAYS(ctl(&d, CTL_EPOCH_END, 2), "net-close:2");
		if (order == 1)
			SAYS(done(&d, STEP_STOP, 2), "");
		SAYS(net(&d, NA_CUT, 2), order == 2 ? "" : "net-stopped:2");
		if (order == 2)
			SAYS(done(&d, STEP_STOP, 2), "net-stopped:2");
		STATE(&d, FT_STANDBY, "collect");
		SAYS(ev0(&d, FE_FULL, 0), "");
		SAYS(net(&d, NA_DRAINED, 2), "");
		net(&d, NA_BARRIER, 2);
		bulk(&d, 2);
		SAYS(done(&d, STEP_RESERVE, 2), "STAGED:2 apply:2");
		done(&d, STEP_APPLY, 2);
		done(&d, STEP_LOAD, 2);
		SAYS(done(&d, STEP_MEND, 2), "net-loaded:2 cont:2");
		SAYS(done(&d, STEP_CONT, 2), "net-open:2 LOADED:2");
		STATE(&d, FT_STANDBY, "idle");
		/* And it may come to this again. */
		SAYS(ev0(&d, FE_FULL, 0), "stop:3 WANT:3");
	}
}

/* Promoted while it stands: it has to run first. */
static void full_promotion(void **state)
{
	struct drive d;

	for (int how = 0; how < 4; how++) {
		to(&d, IDLE);
		SAYS(ev0(&d, FE_FULL, 0), "stop:2 WANT:2");
		if (how & 1)
			SAYS(done(&d, STEP_STOP, 2), "");
		if (how & 2)
			SAYS(ctl(&d, CTL_EPOCH_END, 2), "net-close:2");
		ev0(&d, FE_LINK_DOWN, 1);
		STATE(&d, FT_PROMOTING, "unwind");
		if (how & 1)
			SAYS(d.said, how & 2 ? "drop-link lease-never net-promote:2 cont:2 forget:2" :
			     "drop-link lease-never net-promote:2 cont:1 forget:2");
		else
			SAYS(done(&d, STEP_STOP, 2), how & 2 ? "cont:2" : "cont:1");
		SAYS(done(&d, STEP_CONT, how & 2 ? 2 : 1), how & 2 ? "net-open:2" : "");
		STATE(&d, FT_ALONE, "idle");
		assert_int_equal(ft_epoch(&d.ft), how & 2 ? 3 : 2);
	}
	/* A QEMU that does not stop is of no use, as in a checkpoint. */
	to(&d, IDLE);
	ev0(&d, FE_FULL, 0);
	done_rc(&d, STEP_STOP, 2, -EIO, 0);
	STATE(&d, FT_ENDED, "idle");
	to(&d, IDLE);
	ev0(&d, FE_FULL, 0);
	tick(&d);
	STATE(&d, FT_ENDED, "idle");
}

/* Up to the moment at which the first piece is due. */
static void promoted(struct drive *d)
{
	to(d, IDLE);
	assert_int_equal(ft_memory(&d->ft), FT_MEM_PRIVATE);
	ev0(d, FE_LINK_DOWN, 1);
	done(d, STEP_FORGET, 2);
	assert_int_equal(ft_memory(&d->ft), FT_MEM_SHARING);
	SAYS(ev0(d, FE_TICK, 0), "");
}

/* A promoted VM's memory is shared piece by piece, and only then a peer is taken. */
static void share(void **state)
{
	nstime stopped;
	struct drive d;

	promoted(&d);
	SAYS(tick(&d), "stop:2");
	stopped = d.now;
	/* A peer that goes while it waits leaves room for another one. */
	SAYS(ev0(&d, FE_LINK_UP, 3), "");
	SAYS(ev0(&d, FE_LINK_DOWN, 1), "drop-link");
	SAYS(ev0(&d, FE_LINK_UP, 3), "");
	d.now += 2 * NS_PER_MS;
	SAYS(done(&d, STEP_STOP, 2), "share:2");
	d.now += 6 * NS_PER_MS;
	SAYS(done_rc(&d, STEP_SHARE, 2, 0, 500), "cont:2");
	d.now += 2 * NS_PER_MS;
	SAYS(done(&d, STEP_CONT, 2), "");
	STATE(&d, FT_ALONE, "idle");
	/* Then it runs nine times as long as it has stood. */
	assert_true(d.now - stopped == 10 * NS_PER_MS);
	assert_true(ft_deadline(&d.ft) == d.now + 90 * NS_PER_MS);
	SAYS(tick(&d), "stop:2");
	SAYS(done(&d, STEP_STOP, 2), "share:2");
	/* Nobody knows whether it was done: it must not run before that is known. */
	SAYS(done_rc(&d, STEP_SHARE, 2, -ETIMEDOUT, 0), "share:2");
	assert_true(ft_deadline(&d.ft) == NS_NEVER);
	SAYS(done_rc(&d, STEP_SHARE, 2, 0, 0), "cont:2");
	assert_int_equal(ft_memory(&d.ft), FT_MEM_SHARING);
	/* A cont is asked for until it is answered well. */
	SAYS(done_rc(&d, STEP_CONT, 2, -EIO, 0), "");
	SAYS(tick(&d), "cont:2");
	SAYS(tick(&d), "cont:2");
	/* It runs while the rest is done, which is tried again as well. */
	SAYS(done(&d, STEP_CONT, 2), "share:2");
	SAYS(done_rc(&d, STEP_SHARE, 2, -ETIMEDOUT, 0), "");
	assert_int_equal(ft_memory(&d.ft), FT_MEM_SHARING);
	SAYS(tick(&d), "share:2");
	SAYS(done(&d, STEP_SHARE, 2), "net-role:2 round:2");
	assert_int_equal(ft_memory(&d.ft), FT_MEM_SHARED);
	STATE(&d, FT_SYNC, "precopy");
}

/* A piece that cannot be shared, a QEMU that does not stop: it goes on as it is, and in the end without a peer. */
static void share_fails(void **state)
{
	struct drive d;

	promoted(&d);
	SAYS(ev0(&d, FE_LINK_UP, 3), "");
	for (int i = 0; i < 5; i++) {
		SAYS(tick(&d), "stop:2");
		if (i == 1) {
			SAYS(tick(&d), "cont:2");
			/* A late answer is nobody's. */
			SAYS(done(&d, STEP_STOP, 2), "");
		} else if (i == 2) {
			SAYS(done_rc(&d, STEP_STOP, 2, -EIO, 0), "cont:2");
		} else {
			SAYS(done(&d, STEP_STOP, 2), "share:2");
			SAYS(done_rc(&d, STEP_SHARE, 2, -EIO, 7), "cont:2");
		}
		/* The peer that waits is told that it waits in vain, */
		SAYS(done(&d, STEP_CONT, 2), i < 4 ? "" : "ALONE:2 drop-link");
	}
	/* and so is the next one. */
	SAYS(ev0(&d, FE_LINK_UP, 3), "ALONE:2 drop-link");
	assert_int_equal(ft_memory(&d.ft), FT_MEM_STUCK);
	assert_true(ft_deadline(&d.ft) == NS_NEVER);
	STATE(&d, FT_ALONE, "idle");
	/* It ends at any time. */
	promoted(&d);
	tick(&d);
	SAYS(ev0(&d, FE_QUIT, 0), "lease-none kill-qemu end:0");
	promoted(&d);
	tick(&d);
	done(&d, STEP_STOP, 2);
	done_rc(&d, STEP_SHARE, 2, -ECONNRESET, 0);
	SAYS(done_rc(&d, STEP_CONT, 2, -ECONNRESET, 0), "lease-none kill-qemu end:1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_order), cmocka_unit_test(drain_last), cmocka_unit_test(promotion),
		cmocka_unit_test(abort_everywhere), cmocka_unit_test(abort_promotion),
		cmocka_unit_test(abort_odd), cmocka_unit_test(forget_waits),
		cmocka_unit_test(lease), cmocka_unit_test(joining_never_promotes),
		cmocka_unit_test(told_to_end), cmocka_unit_test(own_qemu), cmocka_unit_test(barriers_overdue),
		cmocka_unit_test(svm_alone), cmocka_unit_test(out_of_order), cmocka_unit_test(full),
		cmocka_unit_test(full_promotion), cmocka_unit_test(share), cmocka_unit_test(share_fails),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
