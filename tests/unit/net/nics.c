/* SPDX-License-Identifier: BSD-2-Clause */
/* Several NICs, one consistent cut over all; QEMU's three knobs for each NIC of its own. */
#include "bed.h"

static const uint8_t second_mac[6] = { 0x52, 0x54, 0, 0, 2, 0x11 };

static void cfg_two(struct net_cfg *cfg)
{
	bed_cfg(cfg);
	cfg->n_nics = 2;
	memcpy(cfg->mac[1], second_mac, 6);
}

static struct bed *two(void)
{
	struct net_cfg cfg;

	cfg_two(&cfg);
	return bed_primary(&cfg);
}

static void udp_in(struct bed *b, bool pvm, const char *data)
{
	struct seg_ip ip = b->on;
	uint8_t d[SEG_MAX];
	uint32_t n;

	ip.from_guest = true;
	n = seg_udp(d, &ip, 53, 5353, data);
	if (pvm)
		bytes_in(b, NEV_GUEST, d, n);
	else
		svm_bytes(b, net_epoch(b->net), d, n);
}

/* A client asks on b's NIC, so that the guest's answers are no queries of its own. */
static void asked(struct bed *b)
{
	uint8_t d[SEG_MAX];

	bytes_in(b, NEV_TAP, d, seg_udp(d, &b->on, 53, 5353, "?"));
	assert_int_equal(count(b, NA_GUEST), 1);
	assert_int_equal(b->out[0].nic, b->nic);
	assert_int_equal(msg(b, NM_INPUT)->msg.nic, b->nic);
}

/* The same addresses and ports on two NICs are two flows, each with its numbers; frames leave where they came from. */
static void same_addresses(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = two();

		b->on = bed_road[r];
		open_flow(b, 2);
		b->nic = 1;
		b->g0 = 800000;
		b->c0 = 900000;
		open_flow(b, 2);
		assert_int_equal(stats(b).flows, 2);
		b->nic = 0;
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "zero"));
		b->nic = 1;
		svm(b, 2, DATA(5000, 1000, "zero"));
		assert_int_equal(count(b, NA_TAP), 0);
		seg_in(b, NEV_GUEST, DATA(800000, 900000, "one"));
		svm(b, 2, DATA(800000, 900000, "one"));
		assert_string_equal(text(b), "one");
		assert_int_equal(b->out[0].nic, 1);
		b->nic = 0;
		svm(b, 2, DATA(5000, 1000, "zero"));
		assert_string_equal(text(b), "zero");
		assert_int_equal(b->out[0].nic, 0);
		bed_end(b);
	}
}

/*
 * Design 4: one cut and one barrier over all NICs: input of both is numbered in one row, output of both waits for one
 * STAGED.
 */
static void one_cut(void **state)
{
	struct bed *b = two();
	uint64_t last, seen = 0;
	int barriers = 0, cuts = 0, out[2] = { 0 };

	(void)state;
	asked(b);
	last = msg(b, NM_INPUT)->msg.seq;
	b->nic = 1;
	asked(b);
	assert_int_equal(msg(b, NM_INPUT)->msg.seq, last + 1);
	ctl(b, NEV_QUIET, 0, 0);
	b->nic = 0;
	udp_in(b, true, "zero");
	b->nic = 1;
	udp_in(b, true, "one");
	ctl(b, NEV_CLOSE, 2, 0);
	cuts += count(b, NA_CUT);
	assert_int_equal(cuts, 1);
	/* The gate is shut for both. */
	for (b->nic = 0; b->nic < 2; b->nic++) {
		uint8_t d[SEG_MAX];

		bytes_in(b, NEV_TAP, d, seg_udp(d, &b->on, 53, 5353, "late"));
		assert_int_equal(count(b, NA_GUEST), 0);
		assert_int_equal(msgs(b, NM_INPUT), 1);
	}
	ctl(b, NEV_STOPPED, 2, 0);
	barriers += msgs(b, NM_BARRIER);
	ctl(b, NEV_DRAINED, 0, 0);
	barriers += msgs(b, NM_BARRIER);
	seen = msg(b, NM_BARRIER)->msg.seq;
	assert_int_equal(barriers, 1);
	assert_int_equal(seen, last + 1);
	ctl(b, NEV_OPEN, 2, 0);
	assert_int_equal(count(b, NA_GUEST), 2);
	/* What the SVM says on any NIC is of an old epoch now. */
	for (b->nic = 0; b->nic < 2; b->nic++) {
		uint8_t d[SEG_MAX];
		const struct seg_ip ip = { .from_guest = true };

		svm_bytes(b, 2, d, seg_udp(d, &ip, 53, 5353, b->nic ? "one" : "zero"));
		assert_int_equal(count(b, NA_TAP), 0);
	}
	ctl(b, NEV_STAGED, 2, 0);
	for (size_t i = 0; i < b->n; i++)
		if (b->out[i].type == NA_TAP)
			out[b->out[i].nic]++;
	assert_int_equal(out[0], 1);
	assert_int_equal(out[1], 1);
	bed_end(b);
}

/* The time from now on until a checkpoint is wanted for what b's NIC holds. */
static nstime waits(struct bed *b)
{
	nstime from = b->now;

	asked(b);
	udp_in(b, true, "held");
	assert_true(until(b, CAUSE_TIMEOUT, 20 * NS_PER_S));
	return b->now - from;
}

/* compare_timeout and expired_scan_cycle with QEMU's meanings, for each NIC of its own. */
static void timeouts(void **state)
{
	struct net_cfg cfg;
	nstime t;

	(void)state;
	for (unsigned int nic = 0; nic < 2; nic++) {
		struct bed *b;

		cfg_two(&cfg);
		cfg.nic[0] = (struct net_nic_cfg){ .compare_timeout = 500 * NS_PER_MS,
			.expired_scan_cycle = 20 * NS_PER_MS };
		cfg.nic[1] = (struct net_nic_cfg){ .compare_timeout = 2500 * NS_PER_MS,
			.expired_scan_cycle = 100 * NS_PER_MS };
		b = bed_primary(&cfg);
		b->nic = (uint8_t)nic;
		t = waits(b);
		assert_true(t >= (nic ? 2500 : 500) * NS_PER_MS);
		assert_true(t <= (nic ? 2610 : 530) * NS_PER_MS);
		bed_end(b);
		/* 0: the value for all NICs. */
		cfg.nic[nic] = (struct net_nic_cfg){ 0 };
		cfg.compare_timeout = 1200 * NS_PER_MS;
		cfg.expired_scan_cycle = 50 * NS_PER_MS;
		b = bed_primary(&cfg);
		b->nic = (uint8_t)nic;
		t = waits(b);
		assert_true(t >= 1200 * NS_PER_MS);
		assert_true(t <= 1260 * NS_PER_MS);
		bed_end(b);
	}
}

/* expired_scan_cycle: the ages are looked at that often, so a wish comes up to a cycle late (QEMU: timeout + cycle). */
static void scan_cycle(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	nstime t;

	(void)state;
	cfg_two(&cfg);
	cfg.nic[1] = (struct net_nic_cfg){ .compare_timeout = 150 * NS_PER_MS, .expired_scan_cycle = 1000 * NS_PER_MS };
	b = bed_primary(&cfg);
	b->nic = 1;
	t = waits(b);
	assert_true(t >= 150 * NS_PER_MS);
	assert_true(t <= 1160 * NS_PER_MS);
	bed_end(b);
}

/* max_queue_size of each NIC of its own (QEMU keeps it in a global, so that several objects overwrite one another). */
static void queue_sizes(void **state)
{
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	cfg_two(&cfg);
	cfg.nic[0].max_queue_size = 5;
	cfg.nic[1].max_queue_size = 10;
	b = bed_primary(&cfg);
	for (unsigned int nic = 0; nic < 2; nic++) {
		unsigned int n = 0;

		b->nic = (uint8_t)nic;
		asked(b);
		do {
			udp_in(b, true, "x");
			n++;
		} while (!wanted(b, CAUSE_HELD) && n < 30);
		assert_true(n >= (nic ? 10u : 5u));
		assert_true(n <= (nic ? 11u : 6u));
		full_checkpoint(b, 2 + nic);
		assert_int_equal(stats(b).held, 0);
	}
	bed_end(b);
}

/* net_set_nic(): from now on, and "fields that are 0 stay as they are". */
static void at_run_time(void **state)
{
	struct net_nic_cfg set = { .compare_timeout = 300 * NS_PER_MS, .expired_scan_cycle = 10 * NS_PER_MS };
	struct bed *b = two();
	nstime t;
	int n = 0;

	(void)state;
	net_set_nic(b->net, 1, &set);
	set = (struct net_nic_cfg){ .max_queue_size = 3 };
	net_set_nic(b->net, 1, &set);
	b->nic = 1;
	t = waits(b);
	assert_true(t >= 300 * NS_PER_MS && t <= 320 * NS_PER_MS);
	full_checkpoint(b, 2);
	do {
		udp_in(b, true, "x");
		n++;
	} while (!wanted(b, CAUSE_HELD) && n < 30);
	assert_true(n == 3 || n == 4);
	full_checkpoint(b, 3);
	b->nic = 0;
	asked(b);
	udp_in(b, true, "x");
	assert_false(until(b, CAUSE_TIMEOUT, 2900 * NS_PER_MS));
	bed_end(b);
}

/* At promotion each NIC's own MAC is announced on that NIC. */
static void announced_on_each(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	int rarp[2] = { 0 };

	(void)state;
	cfg_two(&cfg);
	b = bed_secondary(&cfg);
	ctl(b, NEV_PROMOTE, 0, 0);
	for (size_t i = 0; i < b->n; i++) {
		if (b->out[i].type != NA_TAP || b->p[i].ether_type != 0x8035)
			continue;
		assert_memory_equal(b->bytes[i] + 6, b->out[i].nic ? second_mac : seg_guest_mac, 6);
		rarp[b->out[i].nic]++;
	}
	assert_int_equal(rarp[0], 1);
	assert_int_equal(rarp[1], 1);
	bed_end(b);
}

/* P7: a message of the peer for a NIC that does not exist. */
static void no_such_nic(void **state)
{
	struct bed *b = two();
	uint32_t before;

	(void)state;
	tick(b, 0);
	before = stats(b).frames_free;
	b->nic = 2;
	udp_in(b, false, "x");
	assert_int_equal(stats(b).drop_bad, 1);
	tick(b, 0);
	assert_int_equal(stats(b).frames_free, before);
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_addresses), cmocka_unit_test(one_cut), cmocka_unit_test(timeouts),
		cmocka_unit_test(scan_cycle), cmocka_unit_test(queue_sizes), cmocka_unit_test(at_run_time),
		cmocka_unit_test(announced_on_each), cmocka_unit_test(no_such_nic),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
