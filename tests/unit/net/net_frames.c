/* SPDX-License-Identifier: BSD-2-Clause */
/* core/net: one behaviour a test, frames in and frames out. */
#include "bed.h"

static const struct seg_ip from_guest = { .from_guest = true }, from_client;

static void equal_answers_leave(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
	seg_in(b, NEV_GUEST, DATA(5000, 1003, "answer"));
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, DATA(5000, 1003, "answer"));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->ack, 1003);
	assert_int_equal(first(b, NA_TAP)->len, 6);
	bed_end(b);
}

static void verified_prefix_leaves(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "0123456789"));
	svm(b, 2, DATA(5000, 1000, "0123"));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->len, 4);
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK);
	svm(b, 2, DATA(5004, 1000, "456789"));
	assert_int_equal(first(b, NA_TAP)->seq, 5004);
	assert_int_equal(first(b, NA_TAP)->len, 6);
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_PSH);
	bed_end(b);
}

static void different_answers_wait_for_staged(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abcX"));
	svm(b, 2, DATA(5000, 1000, "abcY"));
	assert_true(wanted(b, CAUSE_MISMATCH));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->len, 3);
	checkpoint(b, 2);
	assert_int_equal(count(b, NA_TAP), 0);
	/* New output belongs to epoch 3 and waits for its own reasons. */
	seg_in(b, NEV_GUEST, DATA(5004, 1000, "more"));
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_memory_equal(first(b, NA_TAP)->data + first(b, NA_TAP)->payload, "X", 1);
	/* What the SVM said in epoch 2 releases nothing of epoch 3. */
	svm(b, 2, DATA(5004, 1000, "more"));
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 3, DATA(5004, 1000, "more"));
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

static void acknowledgement_is_lowered_and_paid(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "0123456789"));
	seg_in(b, NEV_GUEST, ACK(5000, 1010));
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, ACK(5000, 1004));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->ack, 1004);
	svm(b, 2, ACK(5000, 1010));
	assert_int_equal(first(b, NA_TAP)->ack, 1010);
	/* The copies agree: the next one passes by itself. */
	seg_in(b, NEV_GUEST, ACK(5000, 1010));
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

static void acknowledgement_waits_between_barrier_and_staged(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "0123456789"));
	svm(b, 2, ACK(5000, 1010));
	checkpoint(b, 2);
	/* The PVM says it only after the barrier, so state 2 does not know these bytes. */
	seg_in(b, NEV_GUEST, ACK(5000, 1010));
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 3, ACK(5000, 1010));
	assert_int_equal(first(b, NA_TAP)->ack, 1010);
	bed_end(b);
}

static void fin_does_not_overtake(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 5000, .ack = 1000, .flags = TCP_ACK | TCP_FIN, .win = 1000,
		.data = "bye" });
	svm(b, 2, DATA(5000, 1000, "bye"));
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK);
	assert_int_equal(first(b, NA_TAP)->len, 3);
	svm(b, 2, (struct seg){ .seq = 5003, .ack = 1000, .flags = TCP_ACK | TCP_FIN, .win = 1000 });
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_FIN);
	assert_int_equal(first(b, NA_TAP)->len, 0);
	bed_end(b);
}

static void reset_waits_for_its_twin_and_for_bytes(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct seg rst = { .seq = 5003, .flags = TCP_RST };

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abc"));
	seg_in(b, NEV_GUEST, rst);
	svm(b, 2, rst);
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, DATA(5000, 1000, "abc"));
	assert_int_equal(count(b, NA_TAP), 2);
	assert_int_equal(b->p[b->n - 1].kind == PK_TCP ? b->p[1].flags : 0, TCP_RST);
	bed_end(b);
}

static void other_frames_wait_for_a_checkpoint(void **state)
{
	struct bed *b = bed_primary(NULL);
	uint8_t d[SEG_MAX];

	(void)state;
	bytes_in(b, NEV_GUEST, d, seg_arp(d, &from_guest));
	assert_int_equal(count(b, NA_TAP), 1);
	bytes_in(b, NEV_GUEST, d, seg_udp(d, &from_guest, 53, 5353, "ping"));
	assert_int_equal(count(b, NA_TAP), 0);
	tick(b, 100 * NS_PER_MS);
	assert_true(wanted(b, CAUSE_TIMEOUT));
	checkpoint(b, 2);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

static void old_held_output_wants_a_checkpoint(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "slow"));
	tick(b, 2900 * NS_PER_MS);
	assert_false(wanted(b, CAUSE_TIMEOUT));
	tick(b, 200 * NS_PER_MS);
	assert_true(wanted(b, CAUSE_TIMEOUT));
	bed_end(b);
}

static void alone_lets_go(void **state)
{
	struct bed *b = bed_primary(NULL);
	uint8_t d[SEG_MAX];

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "held"));
	bytes_in(b, NEV_GUEST, d, seg_udp(d, &from_guest, 53, 5353, "ping"));
	ctl(b, NEV_ALONE, 0, 0);
	assert_int_equal(count(b, NA_TAP), 2);
	seg_in(b, NEV_GUEST, DATA(5004, 1000, "free"));
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

static void gate_and_cut(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	seg_in(b, NEV_TAP, ACK(1, 1));
	ctl(b, NEV_QUIET, 0, 0);
	seg_in(b, NEV_TAP, ACK(2, 1));
	ctl(b, NEV_CLOSE, 2, 0);
	assert_int_equal(count(b, NA_CUT), 0);
	seg_in(b, NEV_TAP, ACK(3, 1));
	assert_int_equal(count(b, NA_GUEST), 0);
	assert_non_null(msg(b, NM_INPUT));
	/* QEMU never says that it has read the second one: the cut is the first. */
	tick(b, 10 * NS_PER_MS);
	assert_int_equal(count(b, NA_CUT), 1);
	ctl(b, NEV_STOPPED, 2, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	/* Number 1 stands for what came before the role. */
	assert_int_equal(msg(b, NM_BARRIER)->msg.seq, 2);
	ctl(b, NEV_OPEN, 2, 0);
	assert_int_equal(count(b, NA_GUEST), 1);
	bed_end(b);
}

static void translation_both_ways(void **state)
{
	struct bed *b = bed_secondary(NULL);

	(void)state;
	b->ts = true;
	svm_flow(b, 8999);
	input(b, 2, 2, (struct seg){ .seq = 1000, .ack = 5000, .flags = TCP_ACK, .has_ts = true, .tsval = 8,
		.tsecr = 100, .n_sack = 1, .sack = { 5010, 5020 } });
	assert_int_equal(first(b, NA_GUEST)->ack, 9000);
	assert_int_equal(first(b, NA_GUEST)->tsecr, 300);
	assert_int_equal(first(b, NA_GUEST)->sack[0].left, 9010);
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 9000, .ack = 1000, .flags = TCP_ACK, .has_ts = true, .tsval = 310,
		.tsecr = 8, .data = "hi" });
	assert_int_equal(first(b, NA_MSG)->seq, 5000);
	assert_int_equal(first(b, NA_MSG)->tsval, 110);
	bed_end(b);
}

static void promotion_replays_and_translates_on(void **state)
{
	struct bed *b = bed_secondary(NULL);
	int garp = 0;

	(void)state;
	b->ts = true;
	svm_flow(b, 8999);
	input(b, 2, 2, DATA(1000, 5000, "0123456789"));
	input(b, 2, 3, DATA(1010, 5000, "abcde"));
	/* The SVM has acknowledged the first only; the client was told as much. */
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 9000, .ack = 1010, .flags = TCP_ACK, .win = 1 });
	told(b, (struct net_msg){ .type = NM_RELEASED, .epoch = 2, .key = key_of(b), .isn = 4999, .seq32 = 5000,
		.ack32 = 1010, .room = 1, .has_ts = 1, .tsval = 5000 });
	b->now += 10 * NS_PER_MS;
	/* An answer of which nobody knows whether the primary let it out. */
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 9000, .ack = 1010, .flags = TCP_ACK, .has_ts = true, .tsval = 390,
		.data = "answer" });
	ctl(b, NEV_PROMOTE, 0, 0);
	assert_int_equal(count(b, NA_GUEST), 1);
	assert_int_equal(first(b, NA_GUEST)->seq, 1010);
	assert_int_equal(first(b, NA_TAP)->seq, 5000);
	assert_int_equal(first(b, NA_TAP)->len, 6);
	assert_true((int32_t)(first(b, NA_TAP)->tsval - 5010) >= 0);
	for (size_t i = 0; i < b->n; i++)
		garp += b->out[i].type == NA_TAP && b->p[i].kind == PK_LOCAL;
	assert_int_equal(garp, 2);
	/* Same numbers as ever, and a timestamp that does not step back. */
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 9006, .ack = 1015, .flags = TCP_ACK, .has_ts = true, .tsval = 400,
		.data = "on" });
	assert_int_equal(first(b, NA_TAP)->seq, 5006);
	assert_true((int32_t)(first(b, NA_TAP)->tsval - 5010) >= 0);
	bed_end(b);
}

static void load_replays_what_comes_after_the_cut(void **state)
{
	struct bed *b = bed_secondary(NULL);

	(void)state;
	input(b, 2, 1, DATA(1000, 5000, "one"));
	input(b, 2, 2, DATA(1003, 5000, "two"));
	assert_int_equal(count(b, NA_GUEST), 1);
	ctl(b, NEV_CLOSE, 2, 0);
	tick(b, 10 * NS_PER_MS);
	ctl(b, NEV_STOPPED, 2, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	input(b, 2, 3, DATA(1006, 5000, "three"));
	assert_int_equal(count(b, NA_GUEST), 0);
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 2, .seq = 1 });
	ctl(b, NEV_LOADED, 2, 0);
	assert_int_equal(count(b, NA_GUEST), 0);
	ctl(b, NEV_OPEN, 2, 0);
	assert_int_equal(count(b, NA_GUEST), 2);
	assert_int_equal(first(b, NA_GUEST)->seq, 1003);
	bed_end(b);
}

static void secondary_is_silent(void **state)
{
	struct bed *b = bed_secondary(NULL);
	uint8_t d[SEG_MAX];

	(void)state;
	bytes_in(b, NEV_TAP, d, seg_arp(d, &from_client));
	assert_int_equal(b->n, 0);
	bytes_in(b, NEV_GUEST, d, seg_arp(d, &from_guest));
	bytes_in(b, NEV_GUEST, d, seg_udp(d, &from_guest, 53, 5353, "ping"));
	assert_int_equal(count(b, NA_TAP), 0);
	bed_end(b);
}

static void no_credit_drops_at_the_tap(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	ctl(b, NEV_ROOM, 0, 0);
	seg_in(b, NEV_TAP, ACK(1, 1));
	assert_int_equal(count(b, NA_GUEST), 0);
	assert_null(msg(b, NM_INPUT));
	ctl(b, NEV_ROOM, 0, 1);
	seg_in(b, NEV_TAP, ACK(1, 1));
	assert_int_equal(count(b, NA_GUEST), 1);
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_answers_leave), cmocka_unit_test(verified_prefix_leaves),
		cmocka_unit_test(different_answers_wait_for_staged),
		cmocka_unit_test(acknowledgement_is_lowered_and_paid),
		cmocka_unit_test(acknowledgement_waits_between_barrier_and_staged),
		cmocka_unit_test(fin_does_not_overtake), cmocka_unit_test(reset_waits_for_its_twin_and_for_bytes),
		cmocka_unit_test(other_frames_wait_for_a_checkpoint),
		cmocka_unit_test(old_held_output_wants_a_checkpoint), cmocka_unit_test(alone_lets_go),
		cmocka_unit_test(gate_and_cut), cmocka_unit_test(translation_both_ways),
		cmocka_unit_test(promotion_replays_and_translates_on),
		cmocka_unit_test(load_replays_what_comes_after_the_cut), cmocka_unit_test(secondary_is_silent),
		cmocka_unit_test(no_credit_drops_at_the_tap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
