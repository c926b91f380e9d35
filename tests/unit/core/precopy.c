/* SPDX-License-Identifier: BSD-2-Clause */
/* Rounds of pre-copy between checkpoints: their pace by itself, and their place in the life of a checkpoint. */
#include "ft_drive.h"

static const struct precopy_cfg cfg = { .goal = 500, .min = 10 * NS_PER_MS, .max = NS_PER_S, .share = 4 };

/* Rounds of @took each, by a guest that writes @rate pages a second, @hot of them all the time. Return: the interval */
static nstime pace(uint64_t rate, uint64_t hot, nstime took)
{
	struct precopy p;
	nstime now = 50 * NS_PER_S, last = now, at = 0;

	precopy_init(&p, &cfg);
	precopy_paused(&p, &cfg, now, 0);
	precopy_open(&p, &cfg, now);
	for (unsigned int i = 0; i < 40; i++) {
		at = precopy_next(&p, &cfg);
		assert_true(at != NS_NEVER && at >= now);
		now = at;
		precopy_begun(&p, now);
		assert_true(precopy_next(&p, &cfg) == NS_NEVER);
		assert_false(precopy_worth(&p, &cfg, now));
		precopy_done(&p, &cfg, now + took, hot + rate * (now - last) / NS_PER_S, hot);
		last = now;
		now += took;
	}
	return precopy_next(&p, &cfg) - last;
}

static void paced(void **state)
{
	/* A guest that writes nothing, or always the same, costs a round a second. */
	assert_int_equal(pace(0, 0, NS_PER_MS), cfg.max);
	assert_int_equal(pace(0, 30000, NS_PER_MS), cfg.max);
	/* In between a goal's worth of pages, however many are hot. */
	for (uint64_t hot = 0; hot <= 4000; hot += 2000) {
		nstime t = pace(12500, hot, NS_PER_MS);

		assert_true(t > 38 * NS_PER_MS && t < 42 * NS_PER_MS);
	}
	/* Never more often than the least, nor for more than the share of the time. */
	assert_int_equal(pace(10000000, 0, NS_PER_MS), cfg.min);
	assert_int_equal(pace(10000000, 0, 20 * NS_PER_MS), cfg.share * 20 * NS_PER_MS);
}

static void worth(void **state)
{
	struct precopy p;
	nstime now = 50 * NS_PER_S;

	precopy_init(&p, &cfg);
	precopy_open(&p, &cfg, now);
	/* Nothing is known. */
	assert_false(precopy_worth(&p, &cfg, now + NS_PER_S));
	precopy_paused(&p, &cfg, now, 0);
	precopy_paused(&p, &cfg, now + NS_PER_S, 10000);
	now += NS_PER_S;
	assert_false(precopy_worth(&p, &cfg, now + 40 * NS_PER_MS));
	assert_true(precopy_worth(&p, &cfg, now + 60 * NS_PER_MS));
	precopy_close(&p);
	assert_false(precopy_worth(&p, &cfg, now + 60 * NS_PER_MS));
	assert_true(precopy_next(&p, &cfg) == NS_NEVER);
	/* What a pause finds after rounds was left by them and tells nothing. */
	precopy_open(&p, &cfg, now);
	now = precopy_next(&p, &cfg);
	precopy_begun(&p, now);
	precopy_done(&p, &cfg, now, 500, 0);
	precopy_paused(&p, &cfg, now + 2 * NS_PER_MS, 100000);
	assert_true(p.rate < 20000);
	/* Far too many pages wrap nothing. */
	precopy_begun(&p, now + NS_PER_S);
	precopy_done(&p, &cfg, now + NS_PER_S, UINT64_MAX, 0);
	assert_int_equal(p.interval, cfg.min);
}

/* A protected primary in epoch 2 whose guest writes @rate pages a second, as its last pause has shown. */
static void serving(struct drive *d, uint64_t rate)
{
	start(d, FT_PRIMARY);
	d->ft.cfg.precopy = cfg;
	d->ft.cfg.checkpoint_delay = 600 * NS_PER_S;
	precopy_init(&d->ft.p.pre, &cfg);
	ev0(d, FE_START, 0);
	done(d, STEP_CONT, 0);
	ev0(d, FE_LINK_UP, 7);
	done_rc(d, STEP_ROUND, 1, 0, 10);
	for (uint64_t n = 1; n <= 2; n++) {
		net(d, NA_CUT, n);
		done(d, STEP_STOP, n);
		net(d, NA_DRAINED, n);
		done(d, STEP_SAVE, n);
		done_rc(d, STEP_COPY, n, 0, n == 2 ? rate : 0);
		done(d, STEP_CONT, n);
		done(d, STEP_SEND, n);
		ctl(d, CTL_STAGED, n);
		ctl(d, CTL_LOADED, n);
		if (n == 2)
			break;
		d->now += NS_PER_S;
		want(d, CAUSE_COMMAND);
	}
	STATE(d, FT_PROTECTED, "idle");
}

static void rounds(void **state)
{
	struct drive d;

	serving(&d, 10000);
	for (unsigned int i = 0; i < 5; i++) {
		SAYS(tick(&d), "precopy:3");
		/* Pages that move put its deadline off. */
		d.now += 4 * NS_PER_S;
		SAYS(ev0(&d, FE_PROGRESS, 0), "");
		d.now += 4 * NS_PER_S;
		SAYS(done_rc(&d, STEP_PRECOPY, 3, 0, 80000), "");
	}
	/* What holds output does not wait for a round: it cuts it short, and the answer counts for nobody. */
	SAYS(tick(&d), "precopy:3");
	SAYS(net_want(&d, CAUSE_MISMATCH), "net-close:3");
	SAYS(net(&d, NA_CUT, 3), "stop:3 EPOCH_END:3");
	SAYS(done(&d, STEP_STOP, 3), "net-stopped:3");
	SAYS(net(&d, NA_DRAINED, 3), "save:3 copy:3");
	SAYS(done_rc(&d, STEP_PRECOPY, 3, -ECANCELED, 0), "");
	SAYS(done(&d, STEP_SAVE, 3), "");
	SAYS(done(&d, STEP_COPY, 3), "cont:3");
	SAYS(done(&d, STEP_CONT, 3), "net-open:3 send:3");
	/* No round until it is LOADED. */
	assert_true(ft_deadline(&d.ft) >= d.now + NS_PER_S);
	SAYS(done(&d, STEP_SEND, 3), "");
	SAYS(ctl(&d, CTL_STAGED, 3), "net-staged:3");
	SAYS(ctl(&d, CTL_LOADED, 3), "net-loaded:3 checkpoint-done");
	SAYS(tick(&d), "precopy:4");
}

static void last_round(void **state)
{
	struct drive d;

	/* One that only time brings on has a round before it, where that pays. */
	serving(&d, 10000);
	d.ft.cfg.checkpoint_delay = 110 * NS_PER_MS;
	d.ft.p.pre.interval = NS_PER_S;
	SAYS(tick(&d), "precopy:3");
	assert_true(ft_deadline(&d.ft) > d.now);
	SAYS(done_rc(&d, STEP_PRECOPY, 3, 0, 1000), "net-close:3");
	/* An order that comes meanwhile goes at once, and so does a limit that is reached. */
	for (int i = 0; i < 2; i++) {
		serving(&d, 10000);
		d.ft.cfg.checkpoint_delay = 110 * NS_PER_MS;
		d.ft.p.pre.interval = NS_PER_S;
		SAYS(tick(&d), "precopy:3");
		SAYS(want(&d, i ? CAUSE_COMMAND : CAUSE_INLOG), "net-close:3");
	}
	/* Where the guest writes little, there is none. */
	serving(&d, 100);
	d.ft.cfg.checkpoint_delay = 110 * NS_PER_MS;
	SAYS(tick(&d), "net-close:3");
	/* One that is under way is waited for. */
	serving(&d, 100);
	d.ft.cfg.checkpoint_delay = 110 * NS_PER_MS;
	d.ft.p.pre.scanned_at -= NS_PER_S;
	SAYS(ev0(&d, FE_TICK, 0), "precopy:3");
	d.now += 110 * NS_PER_MS;
	SAYS(ev0(&d, FE_TICK, 0), "");
	SAYS(done_rc(&d, STEP_PRECOPY, 3, 0, 10), "net-close:3");
}

static void likely(void **state)
{
	struct drive d;

	serving(&d, 10000);
	d.now += 20 * NS_PER_MS;
	SAYS(net(&d, NA_LIKELY, 0), "");
	d.now += 40 * NS_PER_MS;
	SAYS(net(&d, NA_LIKELY, 0), "precopy:3");
	SAYS(net(&d, NA_LIKELY, 0), "");
	/* In a checkpoint it means nothing. */
	SAYS(want(&d, CAUSE_MISMATCH), "net-close:3");
	SAYS(net(&d, NA_LIKELY, 0), "");
}

static void exits(void **state)
{
	struct drive d;

	/* A tracker that cannot: never again. */
	serving(&d, 10000);
	SAYS(tick(&d), "precopy:3");
	SAYS(done_rc(&d, STEP_PRECOPY, 3, -ENOTSUP, 0), "");
	assert_true(pri_next_round(&d.ft) == NS_NEVER);
	SAYS(net(&d, NA_LIKELY, 0), "");
	/* A scan that failed: what is dirty is not known, so the pair ends. */
	serving(&d, 10000);
	SAYS(tick(&d), "precopy:3");
	SAYS(done_rc(&d, STEP_PRECOPY, 3, -EIO, 0), "ALONE:3");
	/* Nothing moves any more: the secondary hangs. */
	serving(&d, 10000);
	SAYS(tick(&d), "precopy:3");
	SAYS(tick(&d), "ALONE:3");
	/* The peer is gone in the middle of one; the next one is synchronised when its answer has come. */
	serving(&d, 10000);
	SAYS(tick(&d), "precopy:3");
	ev0(&d, FE_LINK_DOWN, 1);
	STATE(&d, FT_ALONE, "idle");
	SAYS(ev0(&d, FE_LINK_UP, 8), "");
	SAYS(done_rc(&d, STEP_PRECOPY, 3, -EPIPE, 0), "net-role:3 round:3");
	/* Turned off. */
	serving(&d, 10000);
	d.ft.cfg.precopy.off = true;
	precopy_open(&d.ft.p.pre, &d.ft.cfg.precopy, d.now);
	assert_true(pri_next_round(&d.ft) == NS_NEVER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(paced), cmocka_unit_test(worth), cmocka_unit_test(rounds), cmocka_unit_test(last_round),
		cmocka_unit_test(likely), cmocka_unit_test(exits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
