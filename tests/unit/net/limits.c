/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * At a limit: a checkpoint (or the oldest idle flow goes), never a silent loss, never the loss of the table; counted.
 */
#include "bed.h"

static void udp_in(struct bed *b, bool pvm, uint16_t port, const char *data)
{
	struct seg_ip ip = b->on;
	uint8_t d[SEG_MAX];
	uint32_t n;

	ip.from_guest = true;
	n = seg_udp(d, &ip, 53, port, data);
	if (pvm)
		bytes_in(b, NEV_GUEST, d, n);
	else
		svm_bytes(b, net_epoch(b->net), d, n);
}

/* All held frames leave with STAGED, and then as many frames are free as before. */
static void nothing_is_lost(struct bed *b, uint64_t n, int frames, uint32_t before)
{
	checkpoint(b, n);
	ctl(b, NEV_STAGED, n, 0);
	assert_int_equal(count(b, NA_TAP), frames);
	ctl(b, NEV_LOADED, n, 0);
	tick(b, NS_PER_S);
	tick(b, NS_PER_S);
	assert_int_equal(stats(b).held, 0);
	assert_int_equal(stats(b).held_svm, 0);
	assert_int_equal(stats(b).held_bytes, 0);
	assert_int_equal(stats(b).held_svm_bytes, 0);
	assert_true(stats(b).frames_free >= before);
	assert_int_equal(stats(b).drop_held, 0);
}

/* QEMU's max_queue_size: held frames of one flow and side; here it wants a checkpoint, once, and loses nothing. */
static void frames_of_a_flow(void **state)
{
	struct net_cfg cfg;

	(void)state;
	bed_cfg(&cfg);
	cfg.max_held_flow = 10;
	for (int udp = 0; udp < 2; udp++) {
		struct bed *b = bed_primary(&cfg);
		uint32_t before;
		int asked = 0;

		if (!udp)
			open_flow(b, 2);
		tick(b, 0);
		before = stats(b).frames_free;
		for (uint32_t i = 0; i < 20; i++) {
			if (udp)
				udp_in(b, true, 5353, "x");
			else
				seg_in(b, NEV_GUEST, DATA(5000 + i, 1000, "x"));
			asked += wanted(b, CAUSE_HELD);
			if (i < 9)
				assert_int_equal(asked, 0);
		}
		assert_int_equal(asked, 1);
		assert_int_equal(stats(b).limit_flow, 1);
		nothing_is_lost(b, 2, 20, before);
		bed_end(b);
	}
}

/* The SVM's side of a flow has the same limit. */
static void frames_of_the_svm(void **state)
{
	struct net_cfg cfg;

	(void)state;
	bed_cfg(&cfg);
	cfg.max_held_flow = 10;
	for (int udp = 0; udp < 2; udp++) {
		struct bed *b = bed_primary(&cfg);
		int asked = 0;

		if (!udp)
			open_flow(b, 2);
		for (uint32_t i = 0; i < 20; i++) {
			if (udp)
				udp_in(b, false, 5353, i & 1 ? "x" : "y");
			else
				svm(b, 2, DATA(5000 + i, 1000, "x"));
			asked += wanted(b, CAUSE_HELD);
		}
		assert_int_equal(asked, 1);
		full_checkpoint(b, 2);
		assert_int_equal(stats(b).held_svm, 0);
		assert_int_equal(stats(b).held_svm_bytes, 0);
		bed_end(b);
	}
}

/* Bytes of a flow, however few frames. */
static void bytes_of_a_flow(void **state)
{
	static char k[1001];
	struct net_cfg cfg;

	(void)state;
	memset(k, 'k', 1000);
	bed_cfg(&cfg);
	cfg.max_flow_bytes = 5000;
	for (int udp = 0; udp < 2; udp++) {
		struct bed *b = bed_primary(&cfg);
		int asked = 0;

		if (!udp)
			open_flow(b, 2);
		for (uint32_t i = 0; i < 8; i++) {
			if (udp)
				udp_in(b, true, 5353, k);
			else
				seg_in(b, NEV_GUEST, DATA(5000 + 1000 * i, 1000, k));
			asked += wanted(b, CAUSE_HELD);
			if (i < 3)
				assert_int_equal(asked, 0);
			assert_true(stats(b).held_bytes >= 1000 * (i + 1));
		}
		assert_int_equal(asked, 1);
		assert_true(stats(b).limit_flow + stats(b).limit_bytes >= 1);
		checkpoint(b, 2);
		ctl(b, NEV_STAGED, 2, 0);
		assert_int_equal(count(b, NA_TAP), 8);
		assert_int_equal(stats(b).held_bytes, 0);
		bed_end(b);
	}
}

/* Frames and bytes in all, over many flows of which each holds little. */
static void all_together(void **state)
{
	static char k[101];

	(void)state;
	memset(k, 'k', 100);
	for (int by_bytes = 0; by_bytes < 2; by_bytes++) {
		struct net_cfg cfg;
		struct bed *b;
		int asked = 0;

		bed_cfg(&cfg);
		if (by_bytes)
			cfg.max_bytes = 1000;
		else
			cfg.max_held = 10;
		b = bed_primary(&cfg);
		for (uint16_t i = 0; i < 13; i++) {
			udp_in(b, true, (uint16_t)(1000 + i), k);
			asked += wanted(b, CAUSE_HELD);
			if (i < 5)
				assert_int_equal(asked, 0);
		}
		assert_int_equal(asked, 1);
		assert_int_equal(by_bytes ? stats(b).limit_bytes : stats(b).limit_held, 1);
		checkpoint(b, 2);
		ctl(b, NEV_STAGED, 2, 0);
		assert_int_equal(count(b, NA_TAP), 13);
		assert_int_equal(stats(b).drop_held, 0);
		bed_end(b);
	}
}

/* What a rule holds back counts in bytes as well. */
static void bytes_that_are_not_compared(void **state)
{
	static char k[1001];
	struct net_cfg cfg;
	struct bed *b;
	bool asked = false;

	(void)state;
	memset(k, 'k', 1000);
	bed_cfg(&cfg);
	cfg.max_bytes = 5000;
	cfg.rules.n = 1;
	cfg.rules.r[0] = (struct rule){ .action = RULE_HOLD, .nic = RULE_ANY_NIC, .port = { 0, 65535 },
					.guest_port = { 0, 65535 }, .client_port = { 0, 65535 } };
	b = bed_primary(&cfg);
	for (uint16_t i = 0; i < 8; i++) {
		udp_in(b, true, 5353, k);
		asked = asked || wanted(b, CAUSE_HELD);
	}
	assert_true(asked);
	assert_true(stats(b).held_bytes >= 8000);
	bed_end(b);
}

/* Far beyond the limit because nobody makes the checkpoint: P7: bounded, counted, and no frame leaks. */
static void far_beyond(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint32_t before;

	(void)state;
	bed_cfg(&cfg);
	cfg.max_held_flow = cfg.max_held = 10;
	b = bed_primary(&cfg);
	tick(b, 0);
	before = stats(b).frames_free;
	for (uint16_t i = 0; i < 2000; i++) {
		udp_in(b, true, 5353, "pvm");
		udp_in(b, false, 5454, "svm");
		assert_true(stats(b).held <= 100);
		assert_true(stats(b).held_svm <= 100);
	}
	assert_true(stats(b).drop_held > 0);
	full_checkpoint(b, 2);
	tick(b, NS_PER_S);
	tick(b, NS_PER_S);
	assert_int_equal(stats(b).frames_free, before);
	bed_end(b);
}

/* No place in the flow table, and nobody idle: a checkpoint; the frame is held, not lost; the others stay. */
static void flows(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	bool asked = false;

	(void)state;
	bed_cfg(&cfg);
	cfg.n_flows = 4;
	b = bed_primary(&cfg);
	for (uint16_t i = 0; i < 8; i++) {
		udp_in(b, true, (uint16_t)(1000 + i), "held");
		assert_int_equal(count(b, NA_TAP), 0);
		asked = asked || wanted(b, CAUSE_FLOWS);
	}
	assert_true(asked);
	assert_true(stats(b).limit_flows >= 1);
	checkpoint(b, 2);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 8);
	ctl(b, NEV_LOADED, 2, 0);
	/* Idle ones go when their place is needed. */
	tick(b, NS_PER_S);
	tick(b, NS_PER_S);
	udp_in(b, true, 2000, "new");
	udp_in(b, false, 2000, "new");
	assert_int_equal(count(b, NA_TAP), 1);
	assert_true(stats(b).flows_evicted >= 1);
	assert_int_equal(stats(b).flows, 4);
	bed_end(b);
}

/* A connection attempt number @i of the flood. */
static struct seg flood(struct bed *b, uint32_t i)
{
	static uint8_t src[16];

	memcpy(src, seg_client_ip6, 16);
	src[4] = (uint8_t)(i >> 8);
	src[5] = (uint8_t)i;
	/* 198.18.0.0/15 (RFC 2544) */
	if (!b->on.v6)
		memcpy(src, (uint8_t[]){ 198, 18, (uint8_t)(i >> 8), (uint8_t)i }, 4);
	b->on.src = src;
	return (struct seg){ .seq = i * 77, .flags = TCP_SYN, .win = 1000, .ws = 7,
		.other_port = (uint16_t)(1024 + i % 60000) };
}

/*
 * What has left by comparison is held no more, on either side: many quiet connections are no reason for a checkpoint.
 */
static void quiet_connections(void **state)
{
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	bed_cfg(&cfg);
	cfg.max_held = 10;
	b = bed_primary(&cfg);
	for (uint16_t i = 0; i < 28; i++) {
		struct seg s = guest_synack(b), d = DATA(5000, 1000, "hello");

		s.other_port = d.other_port = (uint16_t)(1000 + i);
		s.ack = 1000;
		seg_in(b, NEV_GUEST, s);
		flow_ok(b);
		svm(b, 2, s);
		assert_int_equal(count(b, NA_TAP), 1);
		seg_in(b, NEV_GUEST, d);
		svm(b, 2, d);
		assert_string_equal(text(b), "hello");
		assert_false(wanted(b, CAUSE_HELD));
	}
	assert_int_equal(stats(b).held, 0);
	assert_int_equal(stats(b).drop_held, 0);
	bed_end(b);
}

/*
 * P7: a SYN flood neither grows memory nor harms an established connection: alone, with a translation to keep.
 */
static void flood_on_a_translated_connection(void **state)
{
	struct net_cfg cfg;

	(void)state;
	bed_cfg(&cfg);
	cfg.n_flows = 64;
	for (unsigned int v6 = 0; v6 < 2; v6++) {
		struct bed *b = bed_secondary(&cfg);
		uint32_t before;

		b->on.v6 = v6;
		svm_flow(b, 8999);
		input(b, 2, 2, DATA(1000, 5000, "ask"));
		seg_in(b, NEV_GUEST, DATA(9000, 1003, "answer"));
		assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, 5000);
		ctl(b, NEV_PROMOTE, 0, 0);
		/* The announcements are through. */
		for (int i = 0; i < 4; i++)
			tick(b, NS_PER_S);
		before = stats(b).frames_free;
		for (uint32_t i = 0; i < 100000; i++) {
			struct seg s = flood(b, i);
			const uint8_t *other = b->on.src;

			seg_in(b, NEV_TAP, s);
			assert_int_equal(count(b, NA_GUEST), 1);
			b->on.src = NULL;
			if (i % 3 == 0) {
				b->on.dst = other;
				seg_in(b, NEV_GUEST, (struct seg){ .seq = i, .ack = s.seq + 1,
					.flags = TCP_SYN | TCP_ACK,
					.win = 1000, .ws = 7, .other_port = s.other_port });
				assert_int_equal(count(b, NA_TAP), 1);
				b->on.dst = NULL;
			}
			if (i % 10007 == 0) {
				seg_in(b, NEV_TAP, ACK(1003, 5006));
				assert_int_equal(first(b, NA_GUEST)->ack, 9006);
			}
			b->now += 10 * NS_PER_US;
		}
		seg_in(b, NEV_GUEST, DATA(9006, 1003, "still"));
		assert_int_equal(first(b, NA_TAP)->seq, 5006);
		seg_in(b, NEV_TAP, ACK(1003, 5011));
		assert_int_equal(first(b, NA_GUEST)->ack, 9011);
		assert_true(stats(b).flows <= 64);
		assert_true(stats(b).flows_embryo_evicted > 90000);
		tick(b, 0);
		tick(b, 0);
		assert_int_equal(stats(b).frames_free, before);
		bed_end(b);
	}
}

/* The same on a primary: the established connection is compared on, and the secondary's log is not flooded full. */
static void flood_on_a_primary(void **state)
{
	struct net_cfg cfg;

	(void)state;
	bed_cfg(&cfg);
	cfg.n_flows = 64;
	for (unsigned int v6 = 0; v6 < 2; v6++) {
		struct bed *b = bed_primary(&cfg);
		uint32_t before;

		b->on.v6 = v6;
		open_flow(b, 2);
		tick(b, 0);
		before = stats(b).frames_free;
		for (uint32_t i = 0; i < 100000; i++) {
			seg_in(b, NEV_TAP, flood(b, i));
			b->on.src = NULL;
			if (msg(b, NM_INPUT) && i % 16 == 0)
				told(b, (struct net_msg){ .type = NM_LOGGED, .seq = msg(b, NM_INPUT)->msg.seq,
					.room = 60 });
		}
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "still"));
		assert_int_equal(count(b, NA_TAP), 0);
		svm(b, 2, DATA(5000, 1000, "still"));
		assert_string_equal(text(b), "still");
		assert_true(stats(b).flows <= 64);
		assert_true(stats(b).flows_embryo_evicted > 0);
		tick(b, NS_PER_S);
		tick(b, NS_PER_S);
		assert_int_equal(stats(b).frames_free, before);
		bed_end(b);
	}
}

/* The same on a secondary: attempts that wait in the log and in the stash do not push out a translation. */
static void flood_on_a_secondary(void **state)
{
	struct net_cfg cfg;

	(void)state;
	bed_cfg(&cfg);
	cfg.n_flows = 16;
	for (unsigned int v6 = 0; v6 < 2; v6++) {
		struct bed *b = bed_secondary(&cfg);

		b->on.v6 = v6;
		svm_flow(b, 8999);
		input(b, 2, 2, ACK(1000, 5000));
		assert_int_equal(first(b, NA_GUEST)->ack, 9000);
		for (uint32_t i = 0; i < 50; i++) {
			struct seg s = flood(b, i);
			const uint8_t *other = b->on.src;

			input(b, 2, 3 + i, s);
			b->on.src = NULL;
			b->on.dst = other;
			seg_in(b, NEV_GUEST, (struct seg){ .seq = i, .ack = s.seq + 1, .flags = TCP_SYN | TCP_ACK,
				.win = 1000,
				.other_port = s.other_port });
			b->on.dst = NULL;
		}
		input(b, 2, 53, ACK(1000, 5000));
		assert_int_equal(first(b, NA_GUEST)->ack, 9000);
		seg_in(b, NEV_GUEST, DATA(9000, 1000, "on"));
		assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, 5000);
		assert_true(stats(b).flows <= 16);
		ctl(b, NEV_PROMOTE, 0, 0);
		tick(b, 0);
		seg_in(b, NEV_GUEST, DATA(9002, 1000, "on"));
		assert_int_equal(first(b, NA_TAP)->seq, 5002);
		bed_end(b);
	}
}

/*
 * The input log: below a quarter of its room, SYNs of unknown flows are dropped at the TAP before either copy sees
 * them.
 */
static void syn_when_the_log_is_nearly_full(void **state)
{
	struct net_msg logged = { .type = NM_LOGGED };
	uint8_t d[SEG_MAX];

	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);

		b->on = bed_road[r];
		bytes_in(b, NEV_TAP, d, seg_udp(d, &b->on, 53, 5353, "q"));
		open_flow(b, 2);
		logged.seq = msg(b, NM_INPUT)->msg.seq;
		logged.room = 15;	/* of 64 */
		told(b, logged);
		assert_true(wanted(b, CAUSE_INLOG));
		seg_in(b, NEV_TAP, flood(b, 1));
		b->on.src = NULL;
		assert_int_equal(count(b, NA_GUEST), 0);
		assert_null(msg(b, NM_INPUT));
		assert_int_equal(stats(b).drop_syn, 1);
		seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
		assert_int_equal(count(b, NA_GUEST), 1);
		bytes_in(b, NEV_TAP, d, seg_udp(d, &b->on, 53, 5353, "q"));
		assert_int_equal(count(b, NA_GUEST), 1);
		logged.seq = msg(b, NM_INPUT)->msg.seq;
		logged.room = 60;
		told(b, logged);
		seg_in(b, NEV_TAP, flood(b, 1));
		b->on.src = NULL;
		assert_int_equal(count(b, NA_GUEST), 1);
		assert_int_equal(stats(b).drop_syn, 1);
		bed_end(b);
	}
}

/* Design 2: "with no credit left for frames, input is dropped at the TAP before either copy sees it". */
static void no_room_in_the_log(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	open_flow(b, 2);
	told(b, (struct net_msg){ .type = NM_LOGGED, .seq = msg(b, NM_INPUT)->msg.seq, .room = 0 });
	seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
	assert_int_equal(count(b, NA_GUEST), 0);
	assert_null(msg(b, NM_INPUT));
	assert_int_equal(stats(b).drop_room, 1);
	bed_end(b);
}

/* Step 2 of a packet's life: LOGGED goes with output, or when its time has come, or before the room that is known is used up. */
static void logged_in_company(void **state)
{
	struct bed *b = bed_secondary(NULL);
	uint64_t seq = 1;

	(void)state;
	svm_flow(b, 9000);
	input(b, 2, ++seq, DATA(b->c0, b->g0, "a"));
	assert_int_equal(count(b, NA_GUEST), 1);
	assert_null(msg(b, NM_LOGGED));
	seg_in(b, NEV_GUEST, DATA(9001, b->c0 + 1, "b"));
	assert_non_null(msg(b, NM_OUTPUT));
	assert_int_equal(msg(b, NM_LOGGED)->msg.seq, seq);
	/* No answer. */
	input(b, 2, ++seq, DATA(b->c0 + 1, b->g0, "c"));
	assert_null(msg(b, NM_LOGGED));
	assert_true(net_deadline(b->net) <= b->now + 2 * NS_PER_MS);
	tick(b, 2 * NS_PER_MS);
	assert_int_equal(msg(b, NM_LOGGED)->msg.seq, seq);
	tick(b, 100 * NS_PER_MS);
	assert_null(msg(b, NM_LOGGED));
	/* An eighth of what was told, at once; with little room each. */
	for (uint32_t told = stats(b).logged, quiet = 0, i = 2; stats(b).logged < 60; i++) {
		input(b, 2, ++seq, DATA(b->c0 + i, b->g0, "d"));
		if (msg(b, NM_LOGGED)) {
			assert_int_equal(msg(b, NM_LOGGED)->msg.room, 64 - stats(b).logged);
			quiet = 0;
		} else {
			assert_true(++quiet < (64 - told) / 8 + 1);
			assert_true(stats(b).logged <= 48);
		}
	}
	bed_end(b);
}

/* RELEASED goes with input, or when twice its time has passed. */
static void released_in_company(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct net_msg m;

	(void)state;
	open_flow(b, 2);
	tick(b, NS_PER_S);
	for (int input = 0; input < 2; input++) {
		uint32_t at = 5001 + 2 * (uint32_t)input;

		/* After a while of silence at once. */
		seg_in(b, NEV_GUEST, DATA(at - 1, 1000, "w"));
		svm(b, 2, DATA(at - 1, 1000, "w"));
		assert_int_equal(msgs(b, NM_RELEASED), 1);
		tick(b, 5 * NS_PER_MS);
		seg_in(b, NEV_GUEST, DATA(at, 1000, "x"));
		svm(b, 2, DATA(at, 1000, "x"));
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(msgs(b, NM_RELEASED), 0);
		if (input) {
			seg_in(b, NEV_TAP, ACK(1000, at + 1));
		} else {
			assert_true(net_deadline(b->net) <= b->now + 5 * NS_PER_MS);
			tick(b, 5 * NS_PER_MS);
		}
		assert_int_equal(msgs(b, NM_RELEASED), 1);
		m = msg(b, NM_RELEASED)->msg;
		assert_int_equal(m.seq32, at + 1);
		tick(b, NS_PER_S);
		assert_int_equal(msgs(b, NM_RELEASED), 0);
	}
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(logged_in_company), cmocka_unit_test(released_in_company),
		cmocka_unit_test(frames_of_a_flow), cmocka_unit_test(frames_of_the_svm),
		cmocka_unit_test(bytes_of_a_flow), cmocka_unit_test(all_together),
		cmocka_unit_test(bytes_that_are_not_compared), cmocka_unit_test(far_beyond), cmocka_unit_test(flows),
		cmocka_unit_test(quiet_connections), cmocka_unit_test(flood_on_a_translated_connection),
		cmocka_unit_test(flood_on_a_primary), cmocka_unit_test(flood_on_a_secondary),
		cmocka_unit_test(syn_when_the_log_is_nearly_full), cmocka_unit_test(no_room_in_the_log),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
