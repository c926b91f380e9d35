/* SPDX-License-Identifier: BSD-2-Clause */
/* P2: what has been acknowledged to a client is never lost: the clamp, on each road and each path. */
#include "bed.h"

static const char ten[] = "0123456789";

/* No frame let out in the last step acknowledges more than @ack or offers a right edge beyond @edge (scale 7). */
static void none_beyond(struct bed *b, uint32_t ack, uint32_t edge)
{
	for (int i = 0; i < count(b, NA_TAP); i++) {
		const struct packet *p = nth(b, NA_TAP, i);

		assert_true(seq_leq(p->ack, ack));
		assert_true(seq_leq(p->ack + ((uint32_t)p->win << 7), edge));
	}
}

/*
 * P2: "data is not held for its acknowledgement number; the number is lowered": new data, prefix, rest, repeated,
 * partly repeated.
 */
static void lowered_on_every_path(void **state)
{
	/* Plain numbers, and numbers whose acknowledgement, sequence and edge wrap in the middle. */
	static const uint32_t from[][2] = { { 1000, 5000 }, { 0xfffffffb, 0xfffffffe }, { 0xfffe0ffb, 17 } };

	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		for (unsigned int k = 0; k < 3; k++) {
			struct bed *b = bed_primary(NULL);
			uint32_t c = from[k][0], g = from[k][1], low = c + 4, all = c + 10;

			b->on = bed_road[r];
			b->c0 = c;
			b->g0 = g;
			open_flow(b, 2);
			seg_in(b, NEV_TAP, DATA(c, g, ten));
			seg_in(b, NEV_GUEST, DATA(g, all, "abcdef"));
			assert_int_equal(count(b, NA_TAP), 0);
			svm(b, 2, DATA(g, low, "abc"));
			assert_string_equal(text(b), "abc");
			assert_int_equal(first(b, NA_TAP)->ack, low);
			none_beyond(b, low, low + 128000);
			svm(b, 2, DATA(g + 3, low, "def"));
			assert_string_equal(text(b), "def");
			assert_int_equal(first(b, NA_TAP)->ack, low);
			none_beyond(b, low, low + 128000);
			/* repeated */
			seg_in(b, NEV_GUEST, DATA(g, all, "abcdef"));
			assert_string_equal(text(b), "abcdef");
			assert_int_equal(first(b, NA_TAP)->ack, low);
			none_beyond(b, low, low + 128000);
			/* partly repeated */
			seg_in(b, NEV_GUEST, DATA(g + 4, all, "efghi"));
			assert_string_equal(text(b), "ef");
			assert_int_equal(first(b, NA_TAP)->ack, low);
			none_beyond(b, low, low + 128000);
			/* The SVM catches up, in a segment whose bytes match. */
			svm(b, 2, DATA(g + 6, all, "ghi"));
			assert_string_equal(text(b), "ghi");
			assert_int_equal(first(b, NA_TAP)->ack, all);
			assert_true(stats(b).acks_lowered >= 4);
			bed_end(b);
		}
	}
}

/* P2: FIN carries a lowered number too. */
static void lowered_on_fin(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);

		b->on = bed_road[r];
		open_flow(b, 2);
		seg_in(b, NEV_TAP, DATA(1000, 5000, ten));
		seg_in(b, NEV_GUEST, FIN(5000, 1010));
		svm(b, 2, FIN(5000, 1002));
		assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_FIN);
		assert_int_equal(first(b, NA_TAP)->ack, 1002);
		bed_end(b);
	}
}

/* RFC 7413 and P2: a SYN-ACK that acknowledges data of the SYN is lowered too: the SVM may have refused the cookie. */
static void lowered_on_synack(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct seg syn = client_syn(b), took = guest_synack(b), refused = guest_synack(b);

		b->on = bed_road[r];
		syn.data = "early";
		took.ack = 1005;
		seg_in(b, NEV_TAP, syn);
		seg_in(b, NEV_GUEST, took);
		flow_ok(b);
		svm(b, 2, refused);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->flags, TCP_SYN | TCP_ACK);
		assert_int_equal(first(b, NA_TAP)->ack, 1000);
		/* The client sends it again, and then the SVM has it. */
		seg_in(b, NEV_TAP, DATA(1000, 5000, "early"));
		svm(b, 2, ACK(5000, 1005));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->ack, 1005);
		bed_end(b);
	}
}

/*
 * P2: "a lowered pure ACK that says nothing new is swallowed (three of them would be a fast retransmit)"; paid later.
 */
static void swallowed_and_paid(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);

		b->on = bed_road[r];
		open_flow(b, 2);
		seg_in(b, NEV_TAP, DATA(1000, 5000, ten));
		for (uint32_t i = 1; i <= 4; i++) {
			seg_in(b, NEV_GUEST, ACK(5000, 1000 + 2 * i));
			assert_int_equal(count(b, NA_TAP), 0);
		}
		/* Merged: the SVM acknowledges at once what the PVM did in pieces. */
		svm(b, 2, ACK(5000, 1010));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->ack, 1008);
		assert_int_equal(first(b, NA_TAP)->seq, 5000);
		assert_int_equal(packet_span(first(b, NA_TAP)), 0);
		/* The copies agree: delayed, the PVM's own leaves at once. */
		seg_in(b, NEV_GUEST, ACK(5000, 1010));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->ack, 1010);
		/* A true duplicate is the client's business (fast retransmit): it is neither lowered nor swallowed. */
		seg_in(b, NEV_GUEST, ACK(5000, 1010));
		assert_int_equal(count(b, NA_TAP), 1);
		bed_end(b);
	}
}

/* P2: wrap-safe: a pure ACK over 2^32. The reference warns of ack > UINT32_MAX in QEMU's. */
static void pure_ack_over_the_wrap(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	b->c0 = 0xfffffffc;
	open_flow(b, 2);
	seg_in(b, NEV_TAP, DATA(0xfffffffc, 5000, ten));
	seg_in(b, NEV_GUEST, ACK(5000, 6));
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, ACK(5000, 0xfffffffe));
	assert_int_equal(first(b, NA_TAP)->ack, 0xfffffffe);
	svm(b, 2, ACK(5000, 2));
	assert_int_equal(first(b, NA_TAP)->ack, 2);
	svm(b, 2, ACK(5000, 6));
	assert_int_equal(first(b, NA_TAP)->ack, 6);
	bed_end(b);
}

static struct seg ack_win(uint32_t ack, uint16_t win)
{
	struct seg s = ACK(5000, ack);

	s.win = win;
	return s;
}

/* P2: "the window's right edge to the smaller one (never moving left)"; scaled as RFC 7323 2.3 has it. */
static void right_edge(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		uint32_t edge;

		b->on = bed_road[r];
		b->c0 = 0xfffff000;	/* the edge wraps, the acknowledgement does not */
		open_flow(b, 2);
		seg_in(b, NEV_TAP, DATA(b->c0, 5000, ten));
		svm(b, 2, ack_win(b->c0 + 10, 500));
		seg_in(b, NEV_GUEST, ack_win(b->c0 + 10, 1000));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->ack, b->c0 + 10);
		assert_int_equal(first(b, NA_TAP)->win, 500);
		edge = b->c0 + 10 + (500 << 7);
		/* The common edge advances: somebody must say so. */
		svm(b, 2, ack_win(b->c0 + 10, 1000));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->win, 1000);
		edge = b->c0 + 10 + (1000 << 7);
		/* Both shrink theirs: what the client was offered stays. */
		svm(b, 2, ack_win(b->c0 + 10, 100));
		seg_in(b, NEV_GUEST, ack_win(b->c0 + 10, 100));
		for (int i = 0; i < count(b, NA_TAP); i++)
			assert_true(seq_leq(edge, nth(b, NA_TAP, i)->ack + ((uint32_t)nth(b, NA_TAP, i)->win << 7)));
		/* Nor does rounding to the scale move it. */
		seg_in(b, NEV_TAP, DATA(b->c0 + 10, 5000, "abc"));
		svm(b, 2, ack_win(b->c0 + 13, 999));
		seg_in(b, NEV_GUEST, ack_win(b->c0 + 13, 999));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->ack, b->c0 + 13);
		assert_true(seq_leq(edge, first(b, NA_TAP)->ack + ((uint32_t)first(b, NA_TAP)->win << 7)));
		seg_in(b, NEV_GUEST, DATA(5000, b->c0 + 13, "x"));
		svm(b, 2, DATA(5000, b->c0 + 13, "x"));
		assert_true(seq_leq(edge, first(b, NA_TAP)->ack + ((uint32_t)first(b, NA_TAP)->win << 7)));
		bed_end(b);
	}
}

/* RFC 7323 1.3: the guest's offer alone puts no scale in force. */
static void no_scale_in_force(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct seg syn, ack;

	(void)state;
	syn = client_syn(b);
	syn.ws = 0;
	ack = guest_synack(b);
	seg_in(b, NEV_TAP, syn);
	seg_in(b, NEV_GUEST, ack);
	svm(b, 2, ack);
	seg_in(b, NEV_GUEST, ack);
	told(b, (struct net_msg){ .type = NM_FLOW_OK, .epoch = 2, .key = key_of(b), .isn = b->g0 - 1 });
	assert_true(count(b, NA_TAP) >= 1);
	seg_in(b, NEV_TAP, DATA(1000, 5000, ten));
	svm(b, 2, ack_win(1004, 2000));
	seg_in(b, NEV_GUEST, ack_win(1010, 1000));
	assert_int_equal(first(b, NA_TAP)->ack, 1004);
	/* edges 2010 and 3004 */
	assert_int_equal(first(b, NA_TAP)->win, 1006);
	bed_end(b);
}

/* RFC 9293 3.8.6.1: zero window: shut when one copy is shut, probes are answered, open as far as both are. */
static void zero_window(void **state)
{
	static char k[1001];

	(void)state;
	memset(k, 'k', 1000);
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);

		b->on = bed_road[r];
		b->ws = 0;
		open_flow(b, 2);
		seg_in(b, NEV_TAP, DATA(1000, 5000, k));
		svm(b, 2, ack_win(2000, 0));
		seg_in(b, NEV_GUEST, ack_win(2000, 0));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->ack, 2000);
		assert_int_equal(first(b, NA_TAP)->win, 0);
		/* The client probes; the answer says nothing new and is wanted all the same. */
		seg_in(b, NEV_TAP, ACK(1999, 5000));
		assert_int_equal(count(b, NA_GUEST), 1);
		svm(b, 2, ack_win(2000, 0));
		seg_in(b, NEV_GUEST, ack_win(2000, 0));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->win, 0);
		/* Only the PVM has read. */
		seg_in(b, NEV_GUEST, ack_win(2000, 3000));
		for (int i = 0; i < count(b, NA_TAP); i++)
			assert_int_equal(nth(b, NA_TAP, i)->win, 0);
		svm(b, 2, ack_win(2000, 1500));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->win, 1500);
		assert_int_equal(first(b, NA_TAP)->ack, 2000);
		bed_end(b);
	}
}

/* P1, P2: between barrier and STAGED the bound is both copies; STAGED n sets the SVM's positions to the PVM's at n. */
static void staged_pays(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);

		b->on = bed_road[r];
		open_flow(b, 2);
		seg_in(b, NEV_TAP, DATA(1000, 5000, ten));
		svm(b, 2, ACK(5000, 1003));
		seg_in(b, NEV_GUEST, ACK(5000, 1007));
		assert_int_equal(first(b, NA_TAP)->ack, 1003);
		checkpoint(b, 2);
		/* Said after the barrier: state 2 does not have these bytes. */
		seg_in(b, NEV_GUEST, ACK(5000, 1010));
		none_beyond(b, 1003, UINT32_MAX / 4);
		ctl(b, NEV_STAGED, 2, 0);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->ack, 1007);
		ctl(b, NEV_LOADED, 2, 0);
		svm(b, 3, ACK(5000, 1010));
		assert_int_equal(first(b, NA_TAP)->ack, 1010);
		bed_end(b);
	}
}

/* An SVM further than the PVM: bound by the PVM; and after the barrier its lead is void. */
static void svm_ahead(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_TAP, DATA(1000, 5000, ten));
	svm(b, 2, ACK(5000, 1010));
	assert_int_equal(count(b, NA_TAP), 0);
	seg_in(b, NEV_GUEST, ACK(5000, 1002));
	assert_int_equal(first(b, NA_TAP)->ack, 1002);
	checkpoint(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1010, "late"));
	ctl(b, NEV_STAGED, 2, 0);
	ctl(b, NEV_LOADED, 2, 0);
	svm(b, 3, DATA(5000, 1002, "late"));
	assert_string_equal(text(b), "late");
	assert_int_equal(first(b, NA_TAP)->ack, 1002);
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lowered_on_every_path), cmocka_unit_test(lowered_on_fin),
		cmocka_unit_test(lowered_on_synack), cmocka_unit_test(swallowed_and_paid),
		cmocka_unit_test(pure_ack_over_the_wrap), cmocka_unit_test(right_edge),
		cmocka_unit_test(no_scale_in_force), cmocka_unit_test(zero_window), cmocka_unit_test(staged_pays),
		cmocka_unit_test(svm_ahead),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
