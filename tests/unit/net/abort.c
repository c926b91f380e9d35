/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A checkpoint that was given up, as the machine of frames sees it: barrier n without STAGED n, then n + 1. On the
 * secondary the SVM is stopped in epoch n, and goes to n + 2.
 */
#include "bed.h"

#define ISN 8999u	/* the SVM's, where the client knows b->g0 - 1 */

/* P1: what n has held stays held, the SVM's words of n let out nothing more, and STAGED n + 1 lets out both. */
static void held_until_the_next(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		uint32_t c, g;

		b->on = bed_road[r];
		open_flow(b, 2);
		c = b->c0;
		g = b->g0;
		seg_in(b, NEV_GUEST, DATA(g, c, "one"));
		checkpoint(b, 2);
		assert_int_equal(count(b, NA_TAP), 0);
		seg_in(b, NEV_GUEST, DATA(g + 3, c, "two"));
		/* Late words of epoch 2. */
		svm(b, 2, DATA(g, c, "onetwo"));
		assert_int_equal(count(b, NA_TAP), 0);
		checkpoint(b, 3);
		seg_in(b, NEV_GUEST, DATA(g + 6, c, "three"));
		svm(b, 2, DATA(g, c, "onetwothree"));
		assert_int_equal(count(b, NA_TAP), 0);
		ctl(b, NEV_STAGED, 3, 0);
		assert_string_equal(text(b), "onetwo");
		ctl(b, NEV_LOADED, 3, 0);
		svm(b, 4, DATA(g + 6, c, "three"));
		assert_string_equal(text(b), "three");
		bed_end(b);
	}
}

/* P2: until STAGED n + 1 nothing is acknowledged that the SVM, as it was at barrier n, has not. */
static void acknowledged_with_the_next(void **state)
{
	struct bed *b = bed_primary(NULL);
	uint32_t c = b->c0, g = b->g0;

	(void)state;
	open_flow(b, 2);
	svm(b, 2, ACK(g, c));
	seg_in(b, NEV_GUEST, ACK(g, c));
	seg_in(b, NEV_TAP, DATA(c, g, "0123456789"));
	seg_in(b, NEV_GUEST, ACK(g, c + 10));
	assert_int_equal(count(b, NA_TAP), 0);
	checkpoint(b, 2);
	seg_in(b, NEV_GUEST, ACK(g, c + 10));
	svm(b, 2, ACK(g, c + 10));
	assert_int_equal(count(b, NA_TAP), 0);
	seg_in(b, NEV_TAP, DATA(c + 10, g, "abc"));
	checkpoint(b, 3);
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 3, 0);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->ack, c + 10);
	bed_end(b);
}

/* The secondary's SVM is stopped at its end of epoch 2; both barriers come, with cuts @cut2 and @cut3. */
static void stop_and_barriers(struct bed *b, uint64_t cut2, uint64_t cut3)
{
	ctl(b, NEV_CLOSE, 2, 0);
	tick(b, 10 * NS_PER_MS);
	ctl(b, NEV_STOPPED, 2, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 2, .seq = cut2 });
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 3, .seq = cut3 });
}

/* P2: the log is kept from the last cut that came, and what comes after it is given to the SVM in its new epoch. */
static void cut_of_the_next(void **state)
{
	struct bed *b = bed_secondary(NULL);

	(void)state;
	svm_flow(b, ISN);
	input(b, 2, 2, DATA(1000, 5000, "aaaa"));
	ctl(b, NEV_CLOSE, 2, 0);
	tick(b, 10 * NS_PER_MS);
	ctl(b, NEV_STOPPED, 2, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 2, .seq = 2 });
	input(b, 3, 3, DATA(1004, 5000, "bbbb"));
	assert_int_equal(count(b, NA_GUEST), 0);
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 3, .seq = 3 });
	assert_int_equal(b->out[0].type, NA_BARRIER);
	assert_int_equal(b->out[0].n, 3);
	input(b, 4, 4, DATA(1008, 5000, "cc"));
	ctl(b, NEV_LOADED, 3, 0);
	ctl(b, NEV_OPEN, 3, 0);
	assert_int_equal(net_epoch(b->net), 4);
	assert_int_equal(count(b, NA_GUEST), 1);
	assert_int_equal(first(b, NA_GUEST)->seq, 1008);
	seg_in(b, NEV_GUEST, DATA(5000, 1008, "x"));
	assert_int_equal(msg(b, NM_OUTPUT)->msg.epoch, 4);
	bed_end(b);
}

/* P2, P6: promoted between the two the SVM gets, in its own numbers, all that it has not acknowledged. */
static void promoted_in_between(void **state)
{
	for (int again = 0; again < 2; again++) {
		struct bed *b = bed_secondary(NULL);

		(void)state;
		svm_flow(b, ISN);
		input(b, 2, 2, DATA(1000, 5000, "aaaa"));
		ctl(b, NEV_CLOSE, 2, 0);
		tick(b, 10 * NS_PER_MS);
		ctl(b, NEV_STOPPED, 2, 0);
		ctl(b, NEV_DRAINED, 0, 0);
		told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 2, .seq = 2 });
		input(b, 3, 3, DATA(1004, 5000, "bbbb"));
		if (again)
			told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 3, .seq = 3 });
		ctl(b, NEV_PROMOTE, 2, 0);
		ctl(b, NEV_OPEN, 2, 0);
		assert_int_equal(count(b, NA_GUEST), 2);
		assert_int_equal(nth(b, NA_GUEST, 0)->seq, 1000);
		assert_int_equal(nth(b, NA_GUEST, 0)->ack, 9000);
		assert_int_equal(nth(b, NA_GUEST, 1)->seq, 1004);
		seg_in(b, NEV_GUEST, DATA(9000, 1008, "x"));
		assert_int_equal(first(b, NA_TAP)->seq, 5000);
		bed_end(b);
	}
}

/* P6: a connection that the PVM has opened between the two barriers is open in the state that is loaded. */
static void flow_between_the_barriers(void **state)
{
	struct bed *b = bed_secondary(NULL);
	struct seg ack;

	(void)state;
	b->ts = true;
	ctl(b, NEV_CLOSE, 2, 0);
	tick(b, 10 * NS_PER_MS);
	ctl(b, NEV_STOPPED, 2, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 2, .seq = 0 });
	input(b, 3, 1, client_syn(b));
	told(b, (struct net_msg){ .type = NM_FLOW, .epoch = 3, .key = key_of(b), .isn = b->g0 - 1, .has_ts = 1,
		.tsval = 100 });
	assert_non_null(msg(b, NM_FLOW_OK));
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 3, .seq = 1 });
	ctl(b, NEV_LOADED, 3, 0);
	ctl(b, NEV_OPEN, 3, 0);
	/* Its SYN-ACK once more, later: the same numbers, and no offset of the timestamps is made of it. */
	ack = guest_synack(b);
	ack.tsval = 777;
	seg_in(b, NEV_GUEST, ack);
	assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, b->g0 - 1);
	assert_int_equal(msg_packet(b, NM_OUTPUT)->tsval, 777);
	bed_end(b);
}

/* P6: and one that it has opened after the second is still to be opened by the SVM. */
static void flow_after_the_barriers(void **state)
{
	struct bed *b = bed_secondary(NULL);
	struct seg ack;

	(void)state;
	stop_and_barriers(b, 0, 0);
	told(b, (struct net_msg){ .type = NM_FLOW, .epoch = 4, .key = key_of(b), .isn = b->g0 - 1 });
	ctl(b, NEV_LOADED, 3, 0);
	ctl(b, NEV_OPEN, 3, 0);
	input(b, 4, 1, client_syn(b));
	ack = guest_synack(b);
	ack.seq = ISN;
	seg_in(b, NEV_GUEST, ack);
	assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, b->g0 - 1);
	bed_end(b);
}

/* P6: lines of the table of n are void, whether n + 1 has lines or not. */
static void table_of_the_next(void **state)
{
	(void)state;
	for (int lines = 0; lines < 2; lines++) {
		struct bed *b = bed_secondary(NULL);

		svm_flow(b, ISN);
		ctl(b, NEV_CLOSE, 2, 0);
		tick(b, 10 * NS_PER_MS);
		ctl(b, NEV_STOPPED, 2, 0);
		ctl(b, NEV_DRAINED, 0, 0);
		told(b, (struct net_msg){ .type = NM_TABLE, .epoch = 2, .key = key_of(b), .seq_off = 100,
			.isn = 4999 });
		told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 2, .seq = 1 });
		if (lines) {
			struct flow_key other = key_of(b);

			other.other_port++;
			told(b, (struct net_msg){ .type = NM_TABLE, .epoch = 3, .key = other, .seq_off = 7, .isn = 1 });
		}
		told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 3, .seq = 1 });
		ctl(b, NEV_LOADED, 3, 0);
		ctl(b, NEV_OPEN, 3, 0);
		input(b, 4, 2, ACK(1000, 5000));
		assert_int_equal(first(b, NA_GUEST)->ack, 5000);
		bed_end(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(held_until_the_next), cmocka_unit_test(acknowledged_with_the_next),
		cmocka_unit_test(cut_of_the_next), cmocka_unit_test(promoted_in_between),
		cmocka_unit_test(flow_between_the_barriers), cmocka_unit_test(flow_after_the_barriers),
		cmocka_unit_test(table_of_the_next),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
