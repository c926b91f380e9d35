/* SPDX-License-Identifier: BSD-2-Clause */
/* TCP events: SYN, FIN, RST, connections opened from either side, Fast Open, reuse of addresses. */
#include "bed.h"

static const struct seg rst_at_5003 = { .seq = 5003, .flags = TCP_RST };

/*
 * Design 5, P6: the SYN-ACK waits for its twin and for FLOW_OK. A repeated one is held once; later it leaves at once.
 */
static void syn_retransmission(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct net_msg ok;

	(void)state;
	for (int i = 0; i < 2; i++) {
		seg_in(b, NEV_TAP, client_syn(b));
		assert_int_equal(count(b, NA_GUEST), 1);
		assert_int_equal(msgs(b, NM_INPUT), 1);
	}
	seg_in(b, NEV_GUEST, guest_synack(b));
	assert_int_equal(msgs(b, NM_FLOW), 1);
	ok = msg(b, NM_FLOW)->msg;
	ok.type = NM_FLOW_OK;
	seg_in(b, NEV_GUEST, guest_synack(b));
	assert_int_equal(msgs(b, NM_FLOW), 0);
	svm(b, 2, guest_synack(b));
	assert_int_equal(count(b, NA_TAP), 0);
	/* Of another incarnation: no answer to this one. */
	ok.isn ^= 1;
	told(b, ok);
	assert_int_equal(count(b, NA_TAP), 0);
	ok.isn ^= 1;
	told(b, ok);
	assert_int_equal(count(b, NA_TAP), 1);
	seg_in(b, NEV_GUEST, guest_synack(b));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->flags, TCP_SYN | TCP_ACK);
	bed_end(b);
}

/* P2: a SYN-ACK, also one that the guest repeats, offers no more than both copies do. */
static void synack_window(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct seg pvm = guest_synack(b), svms = guest_synack(b);

	(void)state;
	pvm.win = 1000;
	svms.win = 900;
	seg_in(b, NEV_TAP, client_syn(b));
	seg_in(b, NEV_GUEST, pvm);
	flow_ok(b);
	svm(b, 2, svms);
	assert_int_equal(first(b, NA_TAP)->flags, TCP_SYN | TCP_ACK);
	assert_int_equal(first(b, NA_TAP)->win, 900);
	pvm.win = 2000;
	seg_in(b, NEV_GUEST, pvm);
	assert_int_equal(first(b, NA_TAP)->win, 900);
	/* Less of the PVM's stays less. */
	pvm.win = 800;
	seg_in(b, NEV_GUEST, pvm);
	assert_int_equal(first(b, NA_TAP)->win, 800);
	bed_end(b);
}

/* P1: a SYN-ACK against a reset is a difference. */
static void one_accepts_one_refuses(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	seg_in(b, NEV_TAP, client_syn(b));
	seg_in(b, NEV_GUEST, guest_synack(b));
	flow_ok(b);
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, (struct seg){ .seq = 0, .ack = 1000, .flags = TCP_RST | TCP_ACK });
	assert_true(wanted(b, CAUSE_MISMATCH));
	assert_int_equal(count(b, NA_TAP), 0);
	full_checkpoint(b, 2);
	assert_int_equal(stats(b).held, 0);
	bed_end(b);
}

/* Design 5: a refused connection: both resets agree, and leave. */
static void both_refuse(void **state)
{
	const struct seg refuse = { .seq = 0, .ack = 1000, .flags = TCP_RST | TCP_ACK };

	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);

		b->on = bed_road[r];
		seg_in(b, NEV_TAP, client_syn(b));
		seg_in(b, NEV_GUEST, refuse);
		assert_int_equal(count(b, NA_TAP), 0);
		svm(b, 2, refuse);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->flags, TCP_RST | TCP_ACK);
		assert_int_equal(first(b, NA_TAP)->ack, 1000);
		bed_end(b);
	}
}

/* P6: the guest's own SYN is released when FLOW is confirmed and the SVM has opened the same connection. */
static void opened_by_the_guest(void **state)
{
	const struct seg syn = { .seq = 4999, .flags = TCP_SYN, .ws = 7, .win = 1000 };

	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct net_msg ok;

		b->on = bed_road[r];
		seg_in(b, NEV_GUEST, syn);
		assert_int_equal(count(b, NA_TAP), 0);
		assert_non_null(msg(b, NM_FLOW));
		ok = msg(b, NM_FLOW)->msg;
		ok.type = NM_FLOW_OK;
		told(b, ok);
		assert_int_equal(count(b, NA_TAP), 0);
		svm(b, 2, syn);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->flags, TCP_SYN);
		assert_int_equal(first(b, NA_TAP)->seq, 4999);
		seg_in(b, NEV_TAP, (struct seg){ .seq = 999, .ack = 5000, .flags = TCP_SYN | TCP_ACK, .ws = 7,
			.win = 1000 });
		assert_int_equal(count(b, NA_GUEST), 1);
		svm(b, 2, ACK(5000, 1000));
		seg_in(b, NEV_GUEST, ACK(5000, 1000));
		assert_int_equal(count(b, NA_TAP), 1);
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
		svm(b, 2, DATA(5000, 1000, "hello"));
		assert_string_equal(text(b), "hello");
		bed_end(b);
	}
}

/* The SVM may have chosen another port: waiting the whole compare_timeout for its twin would help nobody. */
static void opened_by_the_guest_alone(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 4999, .flags = TCP_SYN, .win = 1000 });
	assert_true(until(b, CAUSE_TIMEOUT, 200 * NS_PER_MS));
	full_checkpoint(b, 2);
	assert_int_equal(stats(b).held, 0);
	bed_end(b);
}

/* Design 4: a connection in the listener's accept queue lives on in the state; epoch 3 needs no new FLOW for it. */
static void accept_queue_across_checkpoint(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct net_msg ok;

	(void)state;
	seg_in(b, NEV_TAP, client_syn(b));
	seg_in(b, NEV_GUEST, guest_synack(b));
	ok = msg(b, NM_FLOW)->msg;
	ok.type = NM_FLOW_OK;
	told(b, ok);
	svm(b, 2, guest_synack(b));
	assert_int_equal(count(b, NA_TAP), 1);
	full_checkpoint(b, 2);
	seg_in(b, NEV_TAP, ACK(1000, 5000));
	seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
	seg_in(b, NEV_GUEST, DATA(5000, 1003, "answer"));
	assert_int_equal(msgs(b, NM_FLOW), 0);
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 3, DATA(5000, 1003, "answer"));
	assert_string_equal(text(b), "answer");
	assert_int_equal(first(b, NA_TAP)->ack, 1003);
	bed_end(b);
}

/* P1: a SYN-ACK of epoch n that nobody matched leaves with STAGED n. */
static void synack_leaves_with_staged(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	seg_in(b, NEV_TAP, client_syn(b));
	seg_in(b, NEV_GUEST, guest_synack(b));
	flow_ok(b);
	checkpoint(b, 2);
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->flags, TCP_SYN | TCP_ACK);
	bed_end(b);
}

/* RFC 7413: data in the SYN goes to both; the SYN-ACK and the data right behind it are compared in order. */
static void fast_open(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct seg syn = client_syn(b), ack = guest_synack(b);
		struct net_msg ok;

		b->on = bed_road[r];
		syn.data = "early";
		ack.ack = 1005;
		seg_in(b, NEV_TAP, syn);
		assert_int_equal(first(b, NA_GUEST)->len, 5);
		seg_in(b, NEV_GUEST, ack);
		ok = msg(b, NM_FLOW)->msg;
		ok.type = NM_FLOW_OK;
		seg_in(b, NEV_GUEST, DATA(5000, 1005, "answer"));
		svm(b, 2, ack);
		svm(b, 2, DATA(5000, 1005, "answer"));
		assert_int_equal(count(b, NA_TAP), 0);
		told(b, ok);
		assert_int_equal(count(b, NA_TAP), 2);
		assert_int_equal(first(b, NA_TAP)->flags, TCP_SYN | TCP_ACK);
		assert_int_equal(first(b, NA_TAP)->ack, 1005);
		assert_string_equal(text(b), "answer");
		bed_end(b);
	}
}

/* RFC 7413: data in the SYN-ACK; what the copies cut differently is compared as a stream, the SYN first. */
static void fast_open_data_in_synack(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct seg pvm = guest_synack(b), other = guest_synack(b);

	(void)state;
	seg_in(b, NEV_TAP, client_syn(b));
	pvm.data = "banner";
	seg_in(b, NEV_GUEST, pvm);
	flow_ok(b);
	other.data = "ban";
	svm(b, 2, other);
	assert_int_equal(first(b, NA_TAP)->flags & TCP_SYN, TCP_SYN);
	assert_string_equal(text(b), "ban");
	svm(b, 2, DATA(5003, 1000, "ner"));
	assert_string_equal(text(b), "ner");
	assert_int_equal(first(b, NA_TAP)->seq, 5003);
	assert_int_equal(first(b, NA_TAP)->flags & TCP_SYN, 0);
	bed_end(b);
}

/* RFC 9293 3.6: half-close: after the guest's FIN it still acknowledges, clamped like before. */
static void half_close_of_the_guest(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, FIN(5000, 1000));
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, FIN(5000, 1000));
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_FIN);
	seg_in(b, NEV_TAP, DATA(1000, 5001, "0123456789"));
	svm(b, 2, ACK(5001, 1004));
	seg_in(b, NEV_GUEST, ACK(5001, 1010));
	assert_int_equal(first(b, NA_TAP)->ack, 1004);
	svm(b, 2, ACK(5001, 1010));
	assert_int_equal(first(b, NA_TAP)->ack, 1010);
	assert_int_equal(first(b, NA_TAP)->seq, 5001);
	bed_end(b);
}

/* RFC 9293 3.6: half-close of the client: the guest goes on talking. Its acknowledgement of the FIN is P2's too. */
static void half_close_of_the_client(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_TAP, FIN(1000, 5000));
	seg_in(b, NEV_GUEST, DATA(5000, 1001, "last"));
	svm(b, 2, DATA(5000, 1000, "last"));
	assert_string_equal(text(b), "last");
	/* The SVM has not acknowledged the FIN. */
	assert_int_equal(first(b, NA_TAP)->ack, 1000);
	svm(b, 2, ACK(5004, 1001));
	assert_int_equal(first(b, NA_TAP)->ack, 1001);
	seg_in(b, NEV_GUEST, FIN(5004, 1001));
	svm(b, 2, FIN(5004, 1001));
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_FIN);
	bed_end(b);
}

/* RFC 9293 3.6 case 3: both close at the same time. */
static void simultaneous_close(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, FIN(5000, 1000));
	seg_in(b, NEV_TAP, FIN(1000, 5000));
	svm(b, 2, FIN(5000, 1000));
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_FIN);
	seg_in(b, NEV_GUEST, ACK(5001, 1001));
	svm(b, 2, ACK(5001, 1001));
	assert_int_equal(first(b, NA_TAP)->ack, 1001);
	assert_int_equal(first(b, NA_TAP)->seq, 5001);
	seg_in(b, NEV_TAP, ACK(1001, 5001));
	/* A FIN sent once more is a retransmission. */
	seg_in(b, NEV_GUEST, FIN(5000, 1001));
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

/* Design 5: FIN is an event that must agree, at its place in the stream. */
static void fin_against_data(void **state)
{
	(void)state;
	for (int swap = 0; swap < 2; swap++) {
		struct bed *b = bed_primary(NULL);

		open_flow(b, 2);
		seg_in(b, NEV_GUEST, swap ? DATA(5000, 1000, "data") : FIN(5000, 1000));
		svm(b, 2, swap ? FIN(5000, 1000) : DATA(5000, 1000, "data"));
		assert_true(wanted(b, CAUSE_MISMATCH));
		assert_int_equal(count(b, NA_TAP), 0);
		full_checkpoint(b, 2);
		assert_int_equal(stats(b).held, 0);
		bed_end(b);
	}
}

/* Design 5: RST of the guest is an event; alone it waits, with its twin it leaves, never before held bytes. */
static void reset_of_the_guest(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abc"));
	seg_in(b, NEV_GUEST, rst_at_5003);
	svm(b, 2, rst_at_5003);
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, DATA(5000, 1000, "abc"));
	assert_int_equal(count(b, NA_TAP), 2);
	assert_int_equal(nth(b, NA_TAP, 0)->len, 3);
	assert_int_equal(nth(b, NA_TAP, 1)->flags, TCP_RST);
	bed_end(b);
}

/* The same, with the SVM silent: until the checkpoint. */
static void reset_of_the_pvm_alone(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 5000, .flags = TCP_RST });
	assert_int_equal(count(b, NA_TAP), 0);
	assert_true(until(b, CAUSE_TIMEOUT, 4100 * NS_PER_MS));
	checkpoint(b, 2);
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(first(b, NA_TAP)->flags, TCP_RST);
	bed_end(b);
}

/* The PVM talks where the SVM has refused. */
static void reset_of_the_svm_alone(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	svm(b, 2, (struct seg){ .seq = 5000, .flags = TCP_RST });
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "alive"));
	assert_true(wanted(b, CAUSE_MISMATCH));
	assert_int_equal(count(b, NA_TAP), 0);
	full_checkpoint(b, 2);
	seg_in(b, NEV_GUEST, DATA(5005, 1000, "on"));
	svm(b, 3, DATA(5005, 1000, "on"));
	assert_string_equal(text(b), "on");
	bed_end(b);
}

/* A reset at another place is another answer. */
static void resets_at_different_places(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 5000, .flags = TCP_RST });
	svm(b, 2, rst_at_5003);
	assert_true(wanted(b, CAUSE_MISMATCH));
	assert_int_equal(count(b, NA_TAP), 0);
	bed_end(b);
}

/* RST of the client goes to both, untouched. */
static void reset_of_the_client(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_TAP, (struct seg){ .seq = 1000, .flags = TCP_RST });
	assert_int_equal(first(b, NA_GUEST)->flags, TCP_RST);
	assert_int_equal(msgs(b, NM_INPUT), 1);
	bed_end(b);
}

/* RFC 9293 3.6.1 and RFC 6191: a 4-tuple in TIME_WAIT is used again: new numbers, a new FLOW, the old ones are void. */
static void reuse_of_the_addresses(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct net_msg old = { .type = NM_FLOW_OK };

		b->on = bed_road[r];
		open_flow(b, 2);
		old.key = key_of(b);
		old.isn = b->g0 - 1;
		old.epoch = 2;
		seg_in(b, NEV_GUEST, FIN(5000, 1000));
		svm(b, 2, FIN(5000, 1000));
		seg_in(b, NEV_TAP, FIN(1000, 5001));
		seg_in(b, NEV_GUEST, ACK(5001, 1001));
		svm(b, 2, ACK(5001, 1001));
		assert_int_equal(first(b, NA_TAP)->ack, 1001);

		b->c0 = 70001000;
		b->g0 = 3000000000u;
		seg_in(b, NEV_TAP, client_syn(b));
		seg_in(b, NEV_GUEST, guest_synack(b));
		assert_int_equal(count(b, NA_TAP), 0);
		assert_int_equal(msg(b, NM_FLOW)->msg.isn, b->g0 - 1);
		told(b, old);
		svm(b, 2, guest_synack(b));
		assert_int_equal(count(b, NA_TAP), 0);
		old.isn = b->g0 - 1;
		told(b, old);
		assert_int_equal(first(b, NA_TAP)->seq, b->g0 - 1);
		assert_int_equal(first(b, NA_TAP)->ack, b->c0);
		seg_in(b, NEV_TAP, ACK(b->c0, b->g0));
		seg_in(b, NEV_GUEST, DATA(b->g0, b->c0, "second"));
		svm(b, 2, DATA(b->g0, b->c0, "second"));
		assert_string_equal(text(b), "second");
		bed_end(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(syn_retransmission), cmocka_unit_test(synack_window),
		cmocka_unit_test(one_accepts_one_refuses),
		cmocka_unit_test(both_refuse), cmocka_unit_test(opened_by_the_guest),
		cmocka_unit_test(opened_by_the_guest_alone), cmocka_unit_test(accept_queue_across_checkpoint),
		cmocka_unit_test(synack_leaves_with_staged), cmocka_unit_test(fast_open),
		cmocka_unit_test(fast_open_data_in_synack), cmocka_unit_test(half_close_of_the_guest),
		cmocka_unit_test(half_close_of_the_client), cmocka_unit_test(simultaneous_close),
		cmocka_unit_test(fin_against_data), cmocka_unit_test(reset_of_the_guest),
		cmocka_unit_test(reset_of_the_pvm_alone), cmocka_unit_test(reset_of_the_svm_alone),
		cmocka_unit_test(resets_at_different_places), cmocka_unit_test(reset_of_the_client),
		cmocka_unit_test(reuse_of_the_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
