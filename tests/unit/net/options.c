/* SPDX-License-Identifier: BSD-2-Clause */
/* TCP options and urgent data: SACK, timestamps, what is not known, and segments that are signed. */
#include "bed.h"

/* P2: "SACK blocks that the SVM lacks are dropped", or the client forgets what only the PVM has. */
static void sack_blocks(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct seg two = ACK(5000, 1000), one = ACK(5000, 1000);

		b->on = bed_road[r];
		two.n_sack = 2;
		memcpy(two.sack, (uint32_t[]){ 1010, 1020, 1030, 1040 }, 16);
		one.n_sack = 1;
		memcpy(one.sack, (uint32_t[]){ 1025, 1045 }, 8);
		open_flow(b, 2);
		seg_in(b, NEV_TAP, DATA(1010, 5000, "0123456789"));
		seg_in(b, NEV_TAP, DATA(1030, 5000, "0123456789"));
		seg_in(b, NEV_GUEST, two);
		for (int i = 0; i < count(b, NA_TAP); i++)
			assert_int_equal(nth(b, NA_TAP, i)->n_sack, 0);
		svm(b, 2, one);
		seg_in(b, NEV_GUEST, two);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->n_sack, 1);
		assert_int_equal(first(b, NA_TAP)->sack[0].left, 1030);
		/* On data as well. */
		two.data = "x";
		two.flags |= TCP_PSH;
		seg_in(b, NEV_GUEST, two);
		svm(b, 2, two);
		assert_int_equal(first(b, NA_TAP)->n_sack, 2);
		bed_end(b);
	}
}

/* RFC 2883: a D-SACK reports what is acknowledged already: it stays when the SVM has acknowledged as much. */
static void d_sack(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct seg dup = ACK(5000, 1010);

	(void)state;
	dup.n_sack = 1;
	memcpy(dup.sack, (uint32_t[]){ 1000, 1005 }, 8);
	open_flow(b, 2);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "0123456789"));
	svm(b, 2, ACK(5000, 1010));
	seg_in(b, NEV_GUEST, ACK(5000, 1010));
	seg_in(b, NEV_TAP, DATA(1000, 5000, "01234"));
	seg_in(b, NEV_GUEST, dup);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->ack, 1010);
	assert_int_equal(first(b, NA_TAP)->n_sack, 1);
	assert_int_equal(first(b, NA_TAP)->sack[0].left, 1000);
	bed_end(b);
}

/* RFC 7323 5: a segment that waited must not carry a timestamp below what has left, or PAWS drops it. */
static void timestamps_of_held_segments(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct seg s = DATA(5000, 1000, "held"), a = ACK(5000, 1000), t = s;

		b->on = bed_road[r];
		b->ts = true;
		s.has_ts = a.has_ts = t.has_ts = true;
		s.tsval = 0xfffffff0;	/* and it wraps */
		a.tsval = 5;
		s.tsecr = a.tsecr = 8;
		t.tsval = 12345;
		t.tsecr = 4;
		open_flow(b, 2);
		/* So that what follows is not behind the SYN-ACK's. */
		a.tsval = 0x7fffff00;
		/* The SVM offers the same window, so nothing has to be swallowed. */
		svm(b, 2, a);
		seg_in(b, NEV_GUEST, a);
		a.tsval = 0xf0000000;
		seg_in(b, NEV_GUEST, a);
		seg_in(b, NEV_GUEST, s);
		assert_int_equal(count(b, NA_TAP), 0);
		a.tsval = 5;
		a.seq = 5004;
		seg_in(b, NEV_GUEST, a);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->seq, 5000);
		assert_int_equal(first(b, NA_TAP)->tsval, 5);
		/* Timestamps are not compared. */
		svm(b, 2, t);
		assert_string_equal(text(b), "held");
		assert_true(seq_leq(5, first(b, NA_TAP)->tsval));
		/* A later one is never below. */
		s.seq = 5004;
		s.tsval = 6;
		seg_in(b, NEV_GUEST, s);
		t.seq = 5004;
		svm(b, 2, t);
		assert_int_equal(first(b, NA_TAP)->tsval, 6);
		bed_end(b);
	}
}

/* RFC 9293 3.8.5: the urgent pointer is relative to the segment: it goes on pointing at the same byte in each piece. */
static void urgent_pointer(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct seg s = DATA(5000, 1000, "abcdef");

		b->on = bed_road[r];
		open_flow(b, 2);
		s.flags |= TCP_URG;
		s.urg = 3;
		seg_in(b, NEV_GUEST, s);
		svm(b, 2, DATA(5000, 1000, "ab"));
		assert_string_equal(text(b), "ab");
		assert_int_equal(first(b, NA_TAP)->flags & TCP_URG, TCP_URG);
		assert_int_equal(first(b, NA_TAP)->urg, 3);
		svm(b, 2, DATA(5002, 1000, "cd"));
		assert_string_equal(text(b), "cd");
		assert_int_equal(first(b, NA_TAP)->flags & TCP_URG, TCP_URG);
		assert_int_equal(first(b, NA_TAP)->urg, 1);
		/* What lies behind the urgent byte is not urgent. */
		svm(b, 2, DATA(5004, 1000, "ef"));
		assert_string_equal(text(b), "ef");
		assert_int_equal(first(b, NA_TAP)->flags & TCP_URG, 0);
		bed_end(b);
	}
}

/* RFC 9293 3.1: unknown options are passed on, whole and in pieces, and do not disturb the known ones. */
static void unknown_options(void **state)
{
	static const uint8_t opts[] = { 254, 6, 0xde, 0xad, 0xbe, 0xef, 1, 253, 2 };

	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct seg s = DATA(5000, 1000, "abcdef");
		const uint8_t *o;

		b->on = bed_road[r];
		open_flow(b, 2);
		s.has_ts = true;
		s.tsval = 50;
		s.opts = opts;
		s.n_opts = sizeof(opts);
		seg_in(b, NEV_GUEST, s);
		svm(b, 2, DATA(5000, 1000, "abc"));
		assert_string_equal(text(b), "abc");
		o = first(b, NA_TAP)->data + first(b, NA_TAP)->l4 + 20 + 10;
		assert_memory_equal(o, opts, sizeof(opts));
		assert_true(first(b, NA_TAP)->has_ts);
		svm(b, 2, DATA(5003, 1000, "def"));
		assert_string_equal(text(b), "def");
		o = first(b, NA_TAP)->data + first(b, NA_TAP)->l4 + 20 + 10;
		assert_memory_equal(o, opts, sizeof(opts));
		bed_end(b);
	}
}

/* RFC 9293 3.1: an option whose length is impossible ends the list; the segment is no crash and no loss. */
static void broken_options(void **state)
{
	static const uint8_t bad[][4] = { { 8, 0, 0, 0 }, { 8, 40, 1, 1 }, { 5, 1, 0, 0 }, { 1, 1, 1, 254 } };

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		struct bed *b = bed_primary(NULL);
		struct seg s = DATA(5000, 1000, "abc");

		open_flow(b, 2);
		s.opts = bad[i];
		s.n_opts = 4;
		seg_in(b, NEV_GUEST, s);
		svm(b, 2, s);
		if (!count(b, NA_TAP)) {
			/* Not understood: then it is held, and never lost. */
			checkpoint(b, 2);
			ctl(b, NEV_STAGED, 2, 0);
		}
		assert_int_equal(count(b, NA_TAP), 1);
		bed_end(b);
	}
}

static const uint8_t md5[18] = { 19, 18, 1, 2, 3 }, ao[16] = { 29, 16, 1, 2, 3 };

static struct seg signed_by(struct seg s, int how)
{
	s.opts = how ? ao : md5;
	s.n_opts = how ? sizeof(ao) : sizeof(md5);
	s.ws = 0;
	return s;
}

/* RFC 2385, RFC 5925: a changed field breaks the signature: nothing is changed or compared, each leaves with STAGED. */
static void signed_segments(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		for (int how = 0; how < 2; how++) {
			struct bed *b = bed_primary(NULL);
			struct seg synack, s;
			uint8_t d[SEG_MAX];
			uint32_t len;

			b->on = bed_road[r];
			synack = signed_by(guest_synack(b), how);
			seg_in(b, NEV_TAP, signed_by(client_syn(b), how));
			assert_int_equal(count(b, NA_GUEST), 1);
			seg_in(b, NEV_GUEST, synack);
			assert_int_equal(count(b, NA_TAP), 0);
			svm(b, 2, synack);
			assert_int_equal(count(b, NA_TAP), 0);
			assert_true(until(b, CAUSE_OTHER, 20 * NS_PER_MS));
			checkpoint(b, 2);
			assert_int_equal(count(b, NA_TAP), 0);
			ctl(b, NEV_STAGED, 2, 0);
			assert_int_equal(count(b, NA_TAP), 1);
			ctl(b, NEV_LOADED, 2, 0);
			seg_in(b, NEV_TAP, signed_by(DATA(1000, 5000, "ask"), how));
			s = signed_by(DATA(5000, 1003, "answer"), how);
			s.from_guest = true;
			len = seg_make_on(d, &b->on, &s);
			bytes_in(b, NEV_GUEST, d, len);
			svm_bytes(b, 3, d, len);
			assert_int_equal(count(b, NA_TAP), 0);
			/* The pure acknowledgement as well: it cannot be lowered. */
			seg_in(b, NEV_GUEST, signed_by(ACK(5006, 1003), how));
			assert_int_equal(count(b, NA_TAP), 0);
			checkpoint(b, 3);
			ctl(b, NEV_STAGED, 3, 0);
			assert_int_equal(count(b, NA_TAP), 2);
			assert_int_equal(first(b, NA_TAP)->frame_len, len);
			assert_memory_equal(first(b, NA_TAP)->data, d, len);
			assert_int_equal(stats(b).signed_flows, 1);
			assert_int_equal(stats(b).mismatches, 0);
			bed_end(b);
		}
	}
}

/*
 * On the secondary: once the state is the PVM's the numbers are equal: what is signed passes as it is, promotion
 * included.
 */
static void signed_at_promotion(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_secondary(NULL);
		struct seg in = signed_by(DATA(1000, 5000, "ask"), 0), out = signed_by(DATA(5000, 1003, "answer"), 0);
		uint8_t d[SEG_MAX];
		uint32_t n;

		b->on = bed_road[r];
		n = seg_make_on(d, &b->on, &in);
		input_bytes(b, 2, 1, d, n);
		assert_int_equal(count(b, NA_GUEST), 1);
		assert_memory_equal(first(b, NA_GUEST)->data, d, n);
		ctl(b, NEV_PROMOTE, 0, 0);
		/* Not acknowledged: given once more. */
		assert_int_equal(count(b, NA_GUEST), 1);
		assert_memory_equal(first(b, NA_GUEST)->data, d, n);
		out.from_guest = true;
		n = seg_make_on(d, &b->on, &out);
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_memory_equal(first(b, NA_TAP)->data, d, n);
		bed_end(b);
	}
}

/* A signed flow gives no other one trouble. */
static void signed_beside_plain(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct seg s = signed_by(DATA(1, 1, "router"), 0);

	(void)state;
	open_flow(b, 2);
	s.other_port = 179;
	seg_in(b, NEV_GUEST, s);
	assert_int_equal(count(b, NA_TAP), 0);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "plain"));
	svm(b, 2, DATA(5000, 1000, "plain"));
	assert_string_equal(text(b), "plain");
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sack_blocks), cmocka_unit_test(d_sack), cmocka_unit_test(timestamps_of_held_segments),
		cmocka_unit_test(urgent_pointer), cmocka_unit_test(unknown_options), cmocka_unit_test(broken_options),
		cmocka_unit_test(signed_segments), cmocka_unit_test(signed_at_promotion),
		cmocka_unit_test(signed_beside_plain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
