/* SPDX-License-Identifier: BSD-2-Clause */
/* What a review found: each of these fails. */
#include <time.h>

#include "bed.h"

#define MS NS_PER_MS

static const char words[] = "the quick brown fox jumps over the lazy dog, and over it again, and then once more";

static uint32_t udp(struct bed *b, uint8_t *d, uint16_t port, const char *data)
{
	struct seg_ip ip = b->on;

	ip.from_guest = true;
	return seg_udp(d, &ip, port, 5353, data);
}

static uint32_t piece(uint8_t *d, const uint8_t *whole, uint32_t len, uint32_t off, uint32_t n, uint32_t id)
{
	return seg_piece(d, whole, len, off, n, id);
}

static struct rule rule(enum rule_action action, uint16_t guest_port)
{
	return (struct rule){ .action = (uint8_t)action, .proto = PROTO_UDP, .nic = RULE_ANY_NIC, .port = { 0, 65535 },
			      .guest_port = { guest_port, guest_port }, .client_port = { 0, 65535 } };
}

/* P1: a piece that the PVM made after barrier n must not leave with STAGED n. */
static void frag_over_barrier(void **state)
{
	struct bed *b = bed_primary(NULL);
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	uint32_t len = udp(b, whole, 53, words), body = len - 34;

	(void)state;
	bytes_in(b, NEV_GUEST, d, piece(d, whole, len, 0, 16, 7));
	checkpoint(b, 2);
	bytes_in(b, NEV_GUEST, d, piece(d, whole, len, 16, 16, 7));	/* epoch 3 */
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 2, 0);
	(void)body;
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

/* Pieces of epoch n that are given up after frames of n + 1 were held: those wait for ever. */
static void other_behind(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	uint32_t len;

	(void)state;
	bed_cfg(&cfg);
	cfg.rules.n = 1;
	cfg.rules.r[0] = rule(RULE_HOLD, 9);
	b = bed_primary(&cfg);
	len = udp(b, whole, 53, words);
	bytes_in(b, NEV_GUEST, d, piece(d, whole, len, 0, 16, 7));
	checkpoint(b, 2);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 9, "held"));
	/* The timer gives the piece up while 2 is on its way to the secondary; the want of epoch 3 is not yet due. */
	bool got = false;

	tick(b, cfg.other_delay - 1);
	got |= wanted(b, CAUSE_OTHER);
	tick(b, 1);
	got |= wanted(b, CAUSE_OTHER);
	ctl(b, NEV_STAGED, 2, 0);
	got |= wanted(b, CAUSE_OTHER);
	ctl(b, NEV_LOADED, 2, 0);
	got |= wanted(b, CAUSE_OTHER);
	for (int i = 0; i < 200 && !got; i++) {
		tick(b, MS);
		got = wanted(b, CAUSE_OTHER);
	}
	assert_true(got);
	bed_end(b);
}

static void one_says(struct bed *b, bool pvm, const char *data)
{
	uint8_t d[SEG_MAX];
	uint32_t n = udp(b, d, 53, data);

	if (pvm)
		bytes_in(b, NEV_GUEST, d, n);
	else
		svm_bytes(b, net_epoch(b->net), d, n);
}

/* In hybrid mode a frame that is only held sets no deadline: nothing wakes the machine for it. */
static void hybrid_held(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint8_t d[SEG_MAX];

	(void)state;
	bed_cfg(&cfg);
	cfg.hybrid_from = 4;
	cfg.hybrid_gap = 2000 * MS;
	cfg.hybrid_min = 2 * MS;
	cfg.hybrid_max = 200 * MS;
	cfg.hybrid_try = 5000 * MS;
	cfg.rules.n = 1;
	cfg.rules.r[0] = rule(RULE_HOLD, 9);
	b = bed_primary(&cfg);
	for (int i = 0; i < 4; i++) {
		one_says(b, true, "p");
		one_says(b, false, "s");
		full_checkpoint(b, net_epoch(b->net));
	}
	assert_true(stats(b).hybrid);
	tick(b, 300 * MS);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 9, "held"));
	nstime at = net_deadline(b->net);
	print_message("next wake-up in %lld ms\n", (long long)((int64_t)(at - b->now) / (int64_t)MS));
	assert_true(at <= b->now + 250 * MS);
	bed_end(b);
}

/* Order within a flow, when a rule comes at run time. */
static void order_bypass(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	struct rules r = { .n = 1 };
	uint8_t d[SEG_MAX];

	(void)state;
	bed_cfg(&cfg);
	b = bed_primary(&cfg);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "1"));
	r.r[0] = rule(RULE_BYPASS, 53);
	net_set_rules(b->net, &r);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "2"));
	/* "1" is held, and "2" leaves before it. */
	assert_int_not_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

static void order_hold(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	struct rules none = { .n = 0 };
	uint8_t d[SEG_MAX];

	(void)state;
	bed_cfg(&cfg);
	cfg.rules.n = 1;
	cfg.rules.r[0] = rule(RULE_HOLD, 53);
	b = bed_primary(&cfg);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "1"));
	net_set_rules(b->net, &none);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "2"));
	svm_bytes(b, 2, d, udp(b, d, 53, "2"));
	assert_int_equal(count(b, NA_TAP), 0);
	bed_end(b);
}

/* The SVM says what the PVM does not: QEMU's ageing looks at either side. */
static void age_svm(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint8_t d[SEG_MAX];

	(void)state;
	bed_cfg(&cfg);
	b = bed_primary(&cfg);
	svm_bytes(b, 2, d, udp(b, d, 53, "only the SVM"));
	assert_true(until(b, CAUSE_TIMEOUT, 3 * cfg.compare_timeout));
	bed_end(b);
}

/* Cost: many copies of what left last, then one of the PVM that is equal to none. */
static void twice_cost(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint8_t d[SEG_MAX];
	struct timespec t0, t1;

	(void)state;
	net_cfg_default(&cfg, 1, 1500);
	b = bed_primary(&cfg);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, words));
	svm_bytes(b, 2, d, udp(b, d, 53, words));
	for (int i = 0; i < 8000; i++)
		svm_bytes(b, 2, d, udp(b, d, 53, words));
	clock_gettime(CLOCK_MONOTONIC, &t0);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "x"));
	clock_gettime(CLOCK_MONOTONIC, &t1);
	print_message("short: %ld ms\n", (t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000);
	bed_end(b);
	b = bed_primary(&cfg);
	char other[sizeof(words)];

	memcpy(other, words, sizeof(words));
	other[60] = 'X';
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, words));
	svm_bytes(b, 2, d, udp(b, d, 53, words));
	for (int i = 0; i < 8000; i++)
		svm_bytes(b, 2, d, udp(b, d, 53, words));
	clock_gettime(CLOCK_MONOTONIC, &t0);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, other));
	clock_gettime(CLOCK_MONOTONIC, &t1);
	long ms = (t1.tv_sec - t0.tv_sec) * 1000 + (t1.tv_nsec - t0.tv_nsec) / 1000000;

	print_message("same length: %ld ms\n", ms);
	assert_true(ms < 50);
	bed_end(b);
}

/* Two answers of one flow in another order, as a server with several threads gives them: QEMU matches either way. */
static void other_order(void **state)
{
	struct bed *b = bed_primary(NULL);
	uint8_t d[SEG_MAX];
	int out = 0;

	(void)state;
	svm_bytes(b, 2, d, udp(b, d, 53, "B"));
	svm_bytes(b, 2, d, udp(b, d, 53, "A"));
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "A"));
	out += count(b, NA_TAP);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "B"));
	out += count(b, NA_TAP);
	assert_int_equal(out, 2);
	bed_end(b);
}

/* Pieces count as held bytes, but nothing asks for a checkpoint at max_bytes, nor stops at twice as many. */
static void piece_bytes(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	uint32_t len;
	bool got = false;

	(void)state;
	bed_cfg(&cfg);
	cfg.max_bytes = 2000;
	cfg.n_reasm = 64;
	b = bed_primary(&cfg);
	len = udp(b, whole, 53, words);
	for (int i = 0; i < 60; i++) {
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, 0, 64, 100 + i));
		got = got || wanted(b, CAUSE_HELD);
	}
	print_message("held %u, %u bytes of %u\n", stats(b).held, stats(b).held_bytes, cfg.max_bytes);
	assert_true(got);
	bed_end(b);
}

/* A shorter expired-scan-cycle, given at run time, holds only after the longer one is over. */
static void shorter_cycle(void **state)
{
	struct net_nic_cfg lng = { .expired_scan_cycle = 3600 * NS_PER_S }, shrt = { .expired_scan_cycle = 50 * MS };
	struct net_cfg cfg;
	struct bed *b;
	uint8_t d[SEG_MAX];

	(void)state;
	bed_cfg(&cfg);
	b = bed_primary(&cfg);
	net_set_nic(b->net, 0, &lng);
	tick(b, 10 * NS_PER_S);
	net_set_nic(b->net, 0, &shrt);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "held"));
	assert_true(until(b, CAUSE_TIMEOUT, 5 * cfg.compare_timeout));
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frag_over_barrier), cmocka_unit_test(other_behind), cmocka_unit_test(hybrid_held),
		cmocka_unit_test(order_bypass), cmocka_unit_test(order_hold), cmocka_unit_test(age_svm),
		cmocka_unit_test(twice_cost), cmocka_unit_test(other_order), cmocka_unit_test(piece_bytes),
		cmocka_unit_test(shorter_cycle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
