/* SPDX-License-Identifier: BSD-2-Clause */
/* Hybrid mode: when the copies keep differing, output rides on periodic checkpoints, until comparing pays again. */
#include "bed.h"

#define MS NS_PER_MS

static void cfg_hybrid(struct net_cfg *cfg)
{
	bed_cfg(cfg);
	cfg->hybrid_from = 4;
	cfg->hybrid_gap = 2000 * MS;
	cfg->hybrid_min = 50 * MS;
	cfg->hybrid_max = 1000 * MS;
	cfg->hybrid_try = 5000 * MS;
}

static void one_says(struct bed *b, bool pvm, const char *data)
{
	const struct seg_ip ip = { .from_guest = true };
	uint8_t d[SEG_MAX];
	uint32_t n = seg_udp(d, &ip, 53, 5353, data);

	if (pvm)
		bytes_in(b, NEV_GUEST, d, n);
	else
		svm_bytes(b, net_epoch(b->net), d, n);
}

/* A checkpoint whose pause takes @ms. Return: frames let out */
static int lasting(struct bed *b, nstime ms)
{
	uint64_t n = net_epoch(b->net);
	int out;

	ctl(b, NEV_CLOSE, n, 0);
	ctl(b, NEV_QUIET, 0, 0);
	ctl(b, NEV_STOPPED, n, 0);
	tick(b, ms * MS);
	ctl(b, NEV_DRAINED, 0, 0);
	out = count(b, NA_TAP);
	ctl(b, NEV_OPEN, n, 0);
	out += count(b, NA_TAP);
	/* P1: also in hybrid mode nothing leaves before STAGED. */
	assert_int_equal(out, 0);
	tick(b, 5 * MS);
	ctl(b, NEV_STAGED, n, 0);
	out = count(b, NA_TAP);
	ctl(b, NEV_LOADED, n, 0);
	return out;
}

/* The copies differ, after @wait ms; a checkpoint mends it. */
static void differ(struct bed *b, nstime wait)
{
	for (nstime i = 0; i < wait; i++)
		tick(b, MS);
	one_says(b, true, "p");
	one_says(b, false, "s");
	assert_true(wanted(b, CAUSE_MISMATCH));
	assert_int_equal(lasting(b, 5), 1);
}

static struct bed *in_hybrid(const struct net_cfg *cfg)
{
	struct bed *b = bed_primary(cfg);

	for (int i = 0; i < 4; i++) {
		assert_false(stats(b).hybrid);
		differ(b, 10);
	}
	assert_true(stats(b).hybrid);
	assert_int_equal(stats(b).hybrid_entered, 1);
	return b;
}

/* "hybrid_from checkpoints in a row that a difference caused", each within hybrid_gap of the LOADED before. */
static void goes_hybrid(void **state)
{
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	cfg_hybrid(&cfg);
	b = in_hybrid(&cfg);
	assert_true(stats(b).hybrid_interval >= cfg.hybrid_min && stats(b).hybrid_interval <= cfg.hybrid_max);
	bed_end(b);
}

/* Differences far apart are no reason; nor are checkpoints of other causes. */
static void stays(void **state)
{
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	cfg_hybrid(&cfg);
	b = bed_primary(&cfg);
	for (int i = 0; i < 8; i++)
		differ(b, 2500);
	assert_false(stats(b).hybrid);
	for (int i = 0; i < 8; i++)
		lasting(b, 5);
	assert_false(stats(b).hybrid);
	bed_end(b);
}

/* no_hybrid: "never stop comparing, however often the copies differ". */
static void forbidden(void **state)
{
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	cfg_hybrid(&cfg);
	cfg.no_hybrid = true;
	b = bed_primary(&cfg);
	for (int i = 0; i < 12; i++)
		differ(b, 10);
	assert_false(stats(b).hybrid);
	bed_end(b);
}

/* In hybrid mode: a difference waits for the periodic checkpoint; while nothing waits there is none. */
static void periodic(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	nstime from, loaded;
	bool asked;

	(void)state;
	cfg_hybrid(&cfg);
	b = in_hybrid(&cfg);
	for (int i = 0; i < 1500; i++) {
		tick(b, MS);
		assert_false(wanted_any(b));
	}
	/* The interval has long passed. */
	one_says(b, true, "p");
	one_says(b, false, "s");
	assert_false(wanted(b, CAUSE_MISMATCH));
	assert_int_equal(count(b, NA_TAP), 0);
	assert_true(wanted(b, CAUSE_PERIODIC) || until(b, CAUSE_PERIODIC, 5 * MS));
	assert_int_equal(lasting(b, 5), 1);
	for (int round = 0; round < 3; round++) {
		loaded = b->now;
		for (nstime i = 0; i < 3; i++)
			tick(b, MS);
		from = b->now;
		one_says(b, true, "p");
		one_says(b, false, "s");
		asked = wanted_any(b);
		assert_false(asked);
		assert_int_equal(count(b, NA_TAP), 0);
		assert_true(until(b, CAUSE_PERIODIC, cfg.hybrid_max + 10 * MS));
		assert_true(b->now - loaded >= stats(b).hybrid_interval);
		assert_true(b->now - from <= stats(b).hybrid_interval + 2 * MS);
		assert_int_equal(lasting(b, 5), 1);
	}
	/* What agrees leaves at once. */
	one_says(b, true, "p");
	one_says(b, false, "p");
	assert_int_equal(count(b, NA_TAP), 1);
	assert_false(until(b, CAUSE_PERIODIC, 500 * MS));
	bed_end(b);
}

/* TCP rides on the same checkpoints; with STAGED its acknowledgement is the PVM's. */
static void tcp_rides_too(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint64_t e;

	(void)state;
	cfg_hybrid(&cfg);
	b = bed_primary(&cfg);
	open_flow(b, 2);
	for (int i = 0; i < 4; i++)
		differ(b, 10);
	assert_true(stats(b).hybrid);
	e = net_epoch(b->net);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
	seg_in(b, NEV_GUEST, DATA(5000, 1003, "p"));
	svm(b, e, DATA(5000, 1002, "s"));
	assert_int_equal(count(b, NA_TAP), 0);
	assert_false(wanted(b, CAUSE_MISMATCH));
	assert_true(until(b, CAUSE_PERIODIC, cfg.hybrid_max + 10 * MS));
	checkpoint(b, e);
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, e, 0);
	assert_string_equal(text(b), "p");
	assert_int_equal(nth(b, NA_TAP, 0)->ack, 1003);
	bed_end(b);
}

/* The interval follows what a checkpoint costs, within hybrid_min and hybrid_max. */
static void interval_follows(void **state)
{
	static const nstime cost[] = { 2, 100, 4000 };
	nstime last = 0, got;
	struct net_cfg cfg;

	(void)state;
	cfg_hybrid(&cfg);
	cfg.hybrid_try = 1000000 * MS;
	for (int i = 0; i < 3; i++) {
		struct bed *b = in_hybrid(&cfg);

		for (int k = 0; k < 12; k++) {
			one_says(b, true, "p");
			one_says(b, false, "s");
			assert_true(wanted(b, CAUSE_PERIODIC) || until(b, CAUSE_PERIODIC, cfg.hybrid_max + 10 * MS));
			lasting(b, cost[i]);
		}
		got = stats(b).hybrid_interval;
		assert_true(got >= cfg.hybrid_min && got <= cfg.hybrid_max);
		assert_true(got > last);
		last = got;
		bed_end(b);
	}
	assert_int_equal(last, cfg.hybrid_max);
}

/* One round of the guest's life: an answer of both copies. Return: whether it left by comparison */
static bool round_of(struct bed *b, bool equal)
{
	bool asked;

	one_says(b, true, "p");
	asked = wanted_any(b);
	one_says(b, false, equal ? "p" : "s");
	if (count(b, NA_TAP) && !asked)
		return true;
	asked = asked || wanted_any(b);
	for (nstime end = b->now + 4200 * MS; b->now < end && !asked; asked = wanted_any(b))
		tick(b, MS);
	assert_true(asked);
	lasting(b, 5);
	return false;
}

/* After hybrid_try comparing is tried again; equal answers end the mode. */
static void comes_back(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	nstime from;

	(void)state;
	cfg_hybrid(&cfg);
	b = in_hybrid(&cfg);
	from = b->now;
	while (b->now < from + 4900 * MS) {
		round_of(b, true);
		tick(b, 10 * MS);
		assert_true(stats(b).hybrid);
	}
	for (int i = 0; i < 400 && stats(b).hybrid; i++) {
		round_of(b, true);
		tick(b, 10 * MS);
	}
	assert_false(stats(b).hybrid);
	assert_int_equal(stats(b).hybrid_left, 1);
	/* A checkpoint of another cause decides that it pays; then it takes as many differences as at first. */
	for (int i = 0; i < 20; i++)
		assert_true(round_of(b, true));
	lasting(b, 5);
	for (int i = 0; i < 3; i++) {
		differ(b, 10);
		assert_false(stats(b).hybrid);
	}
	differ(b, 10);
	assert_true(stats(b).hybrid);
	assert_int_equal(stats(b).hybrid_entered, 2);
	bed_end(b);
}

/* A try that finds another difference: on in hybrid mode, and the next try comes later ("doubles when it failed"). */
static void tries_seldom(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	nstime tries[3], from;
	int n = 0;

	(void)state;
	cfg_hybrid(&cfg);
	b = in_hybrid(&cfg);
	from = b->now;
	while (n < 3 && b->now < from + 100000 * MS) {
		round_of(b, false);
		tick(b, 10 * MS);
		if (stats(b).hybrid_left > (uint64_t)n)
			tries[n++] = b->now;
	}
	assert_int_equal(n, 3);
	assert_true(tries[0] - from >= 4900 * MS);
	assert_true(tries[1] - tries[0] >= 9900 * MS);
	assert_true(tries[2] - tries[1] >= 19900 * MS);
	bed_end(b);
}

/* The secondary is gone: what is held leaves, and the mode ends with the role. */
static void ends_with_the_role(void **state)
{
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	cfg_hybrid(&cfg);
	b = in_hybrid(&cfg);
	one_says(b, true, "p");
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_ALONE, 0, 0);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_false(stats(b).hybrid);
	tick(b, 2000 * MS);
	assert_false(wanted_any(b));
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(goes_hybrid), cmocka_unit_test(stays), cmocka_unit_test(forbidden),
		cmocka_unit_test(periodic), cmocka_unit_test(tcp_rides_too), cmocka_unit_test(interval_follows),
		cmocka_unit_test(comes_back), cmocka_unit_test(tries_seldom), cmocka_unit_test(ends_with_the_role),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
