/* SPDX-License-Identifier: BSD-2-Clause */
/* TCP as a stream: what may differ between the copies and what may not. */
#include "bed.h"

/* Runs @body on each road: IPv4, IPv6, extension headers, VLAN, QinQ. */
#define ON_EACH_ROAD(b, body) \
	for (unsigned int r_ = 0; r_ < BED_ROADS; r_++) { \
		struct bed *b = bed_primary(NULL); \
		b->on = bed_road[r_]; \
		body \
		bed_end(b); \
	}

/* Design 5: the two copies may cut segments differently; release is by bytes. */
static void different_segmentation(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "01234"));
		seg_in(b, NEV_GUEST, DATA(5005, 1000, "56789"));
		svm(b, 2, DATA(5000, 1000, "012"));
		assert_string_equal(text(b), "012");
		assert_int_equal(first(b, NA_TAP)->seq, 5000);
		/* PSH stays with the rest. */
		assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK);
		svm(b, 2, DATA(5003, 1000, "3456789"));
		assert_string_equal(text(b), "3456789");
		assert_int_equal(first(b, NA_TAP)->seq, 5003);
		assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_PSH);
		assert_false(wanted_any(b));
		assert_int_equal(stats(b).held, 0);
		assert_int_equal(stats(b).held_svm, 0);
	})
}

/* Design 5: the same when the SVM speaks first. */
static void svm_first(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		svm(b, 2, DATA(5000, 1000, "0123456"));
		assert_int_equal(count(b, NA_TAP), 0);
		svm(b, 2, DATA(5007, 1000, "789"));
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "01234"));
		assert_string_equal(text(b), "01234");
		seg_in(b, NEV_GUEST, DATA(5005, 1000, "56789"));
		assert_string_equal(text(b), "56789");
		assert_int_equal(stats(b).held_svm, 0);
	})
}

/* 1e907a32b7 in the reference: equal bytes at another place in the packet are equal. */
static void headers_of_different_length(void **state)
{
	struct seg s = DATA(5000, 1000, "equal");
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, s);
	s.has_ts = true;
	s.tsval = 9;
	s.win = 7;
	svm(b, 2, s);
	assert_string_equal(text(b), "equal");
	bed_end(b);
}

/* Design 5: retransmissions of bytes that were already released leave at once. */
static void retransmission_of_what_was_let_out(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "once"));
		svm(b, 2, DATA(5000, 1000, "once"));
		assert_string_equal(text(b), "once");
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "once"));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_string_equal(text(b), "once");
		/* The SVM's own says nothing new. */
		svm(b, 2, DATA(5000, 1000, "once"));
		assert_int_equal(count(b, NA_TAP), 0);
		assert_int_equal(stats(b).held_svm, 0);
	})
}

/* Design 5: a retransmission of held bytes is held once, never let out twice. */
static void retransmission_of_what_is_held(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abc"));
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abc"));
	assert_int_equal(count(b, NA_TAP), 0);
	assert_int_equal(stats(b).held, 1);
	/* Longer than the one before: only what is new is held in addition. */
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abcdef"));
	svm(b, 2, DATA(5000, 1000, "abcdef"));
	assert_string_equal(text(b), "abcdef");
	assert_int_equal(stats(b).held, 0);
	bed_end(b);
}

/* Design 5 and P1: of a partial retransmission the old part leaves at once, the new one waits. */
static void partial_retransmission(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "abc"));
		svm(b, 2, DATA(5000, 1000, "abc"));
		seg_in(b, NEV_GUEST, DATA(5001, 1000, "bcdef"));
		assert_string_equal(text(b), "bc");
		assert_int_equal(first(b, NA_TAP)->seq, 5001);
		svm(b, 2, DATA(5001, 1000, "bcde"));
		assert_string_equal(text(b), "de");
		assert_int_equal(first(b, NA_TAP)->seq, 5003);
		svm(b, 2, DATA(5005, 1000, "f"));
		assert_string_equal(text(b), "f");
	})
}

/* Design 5: by position in the stream, so the order in which segments come does not matter, and nothing overtakes. */
static void out_of_order(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5003, 1000, "def"));
	svm(b, 2, DATA(5000, 1000, "abcdef"));
	assert_int_equal(count(b, NA_TAP), 0);
	assert_false(wanted_any(b));
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abc"));
	assert_string_equal(text(b), "abcdef");
	seg_in(b, NEV_GUEST, DATA(5006, 1000, "ghijkl"));
	svm(b, 2, DATA(5009, 1000, "jkl"));
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, DATA(5006, 1000, "ghi"));
	assert_string_equal(text(b), "ghijkl");
	assert_int_equal(stats(b).held, 0);
	assert_int_equal(stats(b).held_svm, 0);
	bed_end(b);
}

/* P1: different bytes wait for STAGED, the equal ones in front of them do not; nothing more of the flow is compared. */
static void different_bytes(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "abcX"));
		svm(b, 2, DATA(5000, 1000, "abcY"));
		assert_true(wanted(b, CAUSE_MISMATCH));
		assert_string_equal(text(b), "abc");
		seg_in(b, NEV_GUEST, DATA(5004, 1000, "tail"));
		svm(b, 2, DATA(5004, 1000, "tail"));
		assert_int_equal(count(b, NA_TAP), 0);
		checkpoint(b, 2);
		assert_int_equal(count(b, NA_TAP), 0);
		ctl(b, NEV_STAGED, 2, 0);
		assert_string_equal(text(b), "Xtail");
		ctl(b, NEV_LOADED, 2, 0);
		/* Compared again. */
		seg_in(b, NEV_GUEST, DATA(5008, 1000, "more"));
		assert_int_equal(count(b, NA_TAP), 0);
		svm(b, 3, DATA(5008, 1000, "more"));
		assert_string_equal(text(b), "more");
		assert_int_equal(stats(b).mismatches, 1);
	})
}

/*
 * A difference of epoch n is mended by checkpoint n: what is said between barrier and STAGED is no further difference.
 */
static void one_wish_for_one_difference(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "X"));
	svm(b, 2, DATA(5000, 1000, "Y"));
	assert_true(wanted(b, CAUSE_MISMATCH));
	checkpoint(b, 2);
	assert_false(wanted_any(b));
	seg_in(b, NEV_GUEST, DATA(5001, 1000, "next"));
	assert_int_equal(count(b, NA_TAP), 0);
	assert_false(wanted(b, CAUSE_MISMATCH));
	ctl(b, NEV_STAGED, 2, 0);
	assert_string_equal(text(b), "X");
	ctl(b, NEV_LOADED, 2, 0);
	svm(b, 3, DATA(5001, 1000, "next"));
	assert_string_equal(text(b), "next");
	assert_int_equal(stats(b).mismatches, 1);
	bed_end(b);
}

/* P1: what the SVM said in epoch n never releases anything of n + 1, even when it was there before. */
static void old_epoch(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	svm(b, 2, DATA(5000, 1000, "early"));
	checkpoint(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "early"));
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, DATA(5000, 1000, "early"));
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 2, 0);
	ctl(b, NEV_LOADED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 3, DATA(5000, 1000, "early"));
	assert_string_equal(text(b), "early");
	bed_end(b);
}

/* RFC 9293 3.4: numbers are modulo 2^32; positions and comparison go on over the wrap on every road. */
static void wrap_around(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		b->g0 = 0xfffffffe;
		b->c0 = 0xfffffffd;
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(0xfffffffe, b->c0, "abcdef"));
		svm(b, 2, DATA(0xfffffffe, b->c0, "a"));
		assert_string_equal(text(b), "a");
		svm(b, 2, DATA(0xffffffff, b->c0, "bc"));
		assert_string_equal(text(b), "bc");
		assert_int_equal(first(b, NA_TAP)->seq, 0xffffffff);
		svm(b, 2, DATA(1, b->c0, "def"));
		assert_string_equal(text(b), "def");
		assert_int_equal(first(b, NA_TAP)->seq, 1);
		/* A retransmission from before the wrap is old, not new. */
		seg_in(b, NEV_GUEST, DATA(0xfffffffe, b->c0, "abcdef"));
		assert_string_equal(text(b), "abcdef");
		assert_false(wanted_any(b));
	})
}

/* RFC 9293 3.8.6.1: a zero-window probe of the guest and a keepalive (RFC 9293 3.8.4) leave at once, as they are. */
static void probes_of_the_guest(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "abc"));
		svm(b, 2, DATA(5000, 1000, "abc"));
		/* The copies agree on what they have acknowledged. */
		svm(b, 2, ACK(5003, 1000));
		/* Without data: a number below, so that the peer answers. */
		seg_in(b, NEV_GUEST, ACK(5002, 1000));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->seq, 5002);
		assert_int_equal(first(b, NA_TAP)->ack, 1000);
		/* With a byte that the peer has already. */
		seg_in(b, NEV_GUEST, DATA(5002, 1000, "c"));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->seq, 5002);
		/* With a byte that is new: it is data, and compared. */
		seg_in(b, NEV_GUEST, DATA(5003, 1000, "d"));
		assert_int_equal(count(b, NA_TAP), 0);
		svm(b, 2, DATA(5003, 1000, "d"));
		assert_string_equal(text(b), "d");
	})
}

/* Design P2: both copies get each client frame, probes, keepalives and retransmissions too, never deduplicated. */
static void client_frames_go_to_both(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	for (int i = 0; i < 3; i++) {
		seg_in(b, NEV_TAP, DATA(1000, 5000, "again"));
		assert_int_equal(count(b, NA_GUEST), 1);
		assert_int_equal(msgs(b, NM_INPUT), 1);
	}
	seg_in(b, NEV_TAP, ACK(999, 5000));
	assert_int_equal(count(b, NA_GUEST), 1);
	assert_int_equal(msgs(b, NM_INPUT), 1);
	bed_end(b);
}

/* Design 5: jumbo frames up to the TAP's MTU: compared and split like any other. */
static void jumbo(void **state)
{
	static char big[9000 - 52 + 1];
	struct net_cfg cfg;
	struct bed *b;
	struct seg s;

	(void)state;
	bed_cfg(&cfg);
	cfg.frame_size = 9000 + 14 + 8;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		uint32_t n = bed_road[r].v6 ? 9000 - 40 - 8 * bed_road[r].n_ext - 20 : 9000 - 40;

		b = bed_primary(&cfg);
		b->on = bed_road[r];
		n = n < sizeof(big) ? n : sizeof(big) - 1;
		memset(big, 'j', n);
		big[n] = 0;
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, big));
		s = DATA(5000, 1000, big);
		s.n_data = n / 2;
		svm(b, 2, s);
		assert_int_equal(first(b, NA_TAP)->len, n / 2);
		s = DATA(5000 + n / 2, 1000, big + n / 2);
		svm(b, 2, s);
		assert_int_equal(first(b, NA_TAP)->len, n - n / 2);
		assert_int_equal(stats(b).held, 0);
		bed_end(b);
	}
}

/* Ethernet: what follows the IP packet is padding, and no part of the stream. */
static void padding_is_ignored(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "x"));
		b->on.pad = 5;
		svm(b, 2, DATA(5000, 1000, "x"));
		b->on.pad = 0;
		assert_string_equal(text(b), "x");
		b->on.pad = 6;
		seg_in(b, NEV_GUEST, DATA(5001, 1000, "yz"));
		b->on.pad = 0;
		svm(b, 2, DATA(5001, 1000, "y"));
		assert_string_equal(text(b), "y");
		svm(b, 2, DATA(5002, 1000, "z"));
		assert_string_equal(text(b), "z");
	})
}

/* Design 4: held longer than compare_timeout, counted from LOADED on, wants a checkpoint; it lets the bytes out. */
static void timeout(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
		seg_in(b, NEV_GUEST, DATA(5000, 1003, "slow"));
		assert_false(until(b, CAUSE_TIMEOUT, 2900 * NS_PER_MS));
		assert_true(until(b, CAUSE_TIMEOUT, 1300 * NS_PER_MS));
		full_checkpoint(b, 2);
		assert_int_equal(stats(b).held, 0);
	})
}

/* P1: when the secondary is gone for sure, what is held leaves in order. */
static void alone(void **state)
{
	(void)state;
	ON_EACH_ROAD(b, {
		open_flow(b, 2);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "held"));
		seg_in(b, NEV_GUEST, FIN(5004, 1000));
		ctl(b, NEV_ALONE, 0, 0);
		assert_string_equal(text(b), "held");
		assert_int_equal(count(b, NA_TAP), 2);
		assert_int_equal(nth(b, NA_TAP, 1)->flags, TCP_ACK | TCP_FIN);
	})
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(different_segmentation), cmocka_unit_test(svm_first),
		cmocka_unit_test(headers_of_different_length), cmocka_unit_test(retransmission_of_what_was_let_out),
		cmocka_unit_test(retransmission_of_what_is_held), cmocka_unit_test(partial_retransmission),
		cmocka_unit_test(out_of_order), cmocka_unit_test(different_bytes),
		cmocka_unit_test(one_wish_for_one_difference), cmocka_unit_test(old_epoch),
		cmocka_unit_test(wrap_around), cmocka_unit_test(probes_of_the_guest),
		cmocka_unit_test(client_frames_go_to_both), cmocka_unit_test(jumbo),
		cmocka_unit_test(padding_is_ignored), cmocka_unit_test(timeout), cmocka_unit_test(alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
