/* SPDX-License-Identifier: BSD-2-Clause */
/* Findings of a review, each as a sequence of events. */
#include "bed.h"

static struct seg on_port(struct seg s, uint16_t port)
{
	s.other_port = port;
	return s;
}

/* P1: what was held because its flow found no room leaves uncompared when it is sent again. */
static void no_room_then_room(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	for (uint16_t i = 0; i < 32; i++)
		seg_in(b, NEV_GUEST, on_port(DATA(5000, 1000, "x"), (uint16_t)(1000 + i)));
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
	assert_true(wanted(b, CAUSE_FLOWS));
	assert_int_equal(count(b, NA_TAP), 0);
	/* The others are matched, and idle. */
	for (uint16_t i = 0; i < 32; i++) {
		svm(b, 2, on_port(DATA(5000, 1000, "x"), (uint16_t)(1000 + i)));
		assert_int_equal(count(b, NA_TAP), 1);
	}
	tick(b, 100 * NS_PER_MS);
	tick(b, 100 * NS_PER_MS);
	seg_in(b, NEV_GUEST, ACK(5005, 1000));
	/* Of the SVM only an acknowledgement is known. */
	svm(b, 2, ACK(5000, 1000));
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
	assert_int_equal(count(b, NA_TAP), 0);
	bed_end(b);
}

static struct rule any(uint8_t action)
{
	return (struct rule){ .action = action, .nic = RULE_ANY_NIC, .port = { 0, 65535 }, .guest_port = { 0, 65535 },
			      .client_port = { 0, 65535 } };
}

/* P1: the same with a rule that is taken away. */
static void hold_then_compare(void **state)
{
	struct rules none = { 0 };
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	bed_cfg(&cfg);
	cfg.rules.n = 1;
	cfg.rules.r[0] = any(RULE_HOLD);
	b = bed_primary(&cfg);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
	assert_int_equal(count(b, NA_TAP), 0);
	net_set_rules(b->net, &none);
	tick(b, 0);
	svm(b, 2, DATA(5005, 1000, "world"));
	seg_in(b, NEV_GUEST, DATA(5005, 1000, "world"));
	assert_int_equal(count(b, NA_TAP), 0);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
	assert_int_equal(count(b, NA_TAP), 0);
	bed_end(b);
}

static void diverge(struct bed *b, uint64_t n)
{
	struct seg_ip ip = b->on;
	uint8_t d[SEG_MAX];

	ip.from_guest = true;
	bytes_in(b, NEV_GUEST, d, seg_udp(d, &ip, 53, 5353, "a"));
	svm_bytes(b, n, d, seg_udp(d, &ip, 53, 5353, "b"));
	assert_true(wanted(b, CAUSE_MISMATCH));
}

/* In hybrid mode a lone frame that is not compared waits for try_for, nobody wakes for it. */
static void other_in_hybrid(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint64_t n;
	nstime t0;

	(void)state;
	bed_cfg(&cfg);
	cfg.rules.n = 1;
	cfg.rules.r[0] = any(RULE_HOLD);
	cfg.rules.r[0].guest_port = (struct rule_ports){ 7000, 7000 };
	b = bed_primary(&cfg);
	for (n = 2; !stats(b).hybrid; n++) {
		diverge(b, n);
		full_checkpoint(b, n);
	}
	tick(b, 0);
	/* All that is due now. */
	while (net_deadline(b->net) < b->now + 200 * NS_PER_MS) {
		b->now = net_deadline(b->net) > b->now ? net_deadline(b->net) : b->now;
		step(b, NULL);
	}
	assert_true(stats(b).hybrid);
	t0 = b->now;
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
	while (!wanted_any(b) && b->now < t0 + 20 * NS_PER_S) {
		nstime at = net_deadline(b->net);

		b->now = at > b->now ? at : b->now + 1;
		step(b, NULL);
	}
	printf("asked for after %lld ms\n", (long long)((b->now - t0) / NS_PER_MS));
	assert_true(b->now - t0 <= 250 * NS_PER_MS);
	bed_end(b);
}

/* P6: a line of the table makes an embryo, and a flood of SYNs takes it. */
static void table_in_a_flood(void **state)
{
	struct bed *b = bed_new(NULL);
	uint64_t seq = 0;

	(void)state;
	ctl(b, NEV_ROLE, 1, NET_SECONDARY);
	told(b, (struct net_msg){ .type = NM_TABLE, .epoch = 1, .key = key_of(b), .seq_off = 77, .isn = 4999,
		.has_ts = 1 });
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 1 });
	ctl(b, NEV_LOADED, 1, 0);
	ctl(b, NEV_OPEN, 1, 0);
	for (uint16_t i = 0; i < 40; i++)
		input(b, 2, ++seq, on_port(client_syn(b), (uint16_t)(1000 + i)));
	input(b, 2, ++seq, DATA(1000, 5000, "x"));
	assert_int_equal(first(b, NA_GUEST)->ack, 5000 - 77);
	bed_end(b);
}

/* P2: a window that opens with data, and with the SVM a little later, is told by nobody. */
static void window_with_data(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct seg s;

	(void)state;
	b->ws = 0;
	open_flow(b, 2);
	/* Both have taken all that fits: shut. */
	s = ACK(5000, 2000);
	s.win = 0;
	seg_in(b, NEV_GUEST, s);
	svm(b, 2, s);
	/* The SVM answers before it reads on, the PVM after. */
	s = DATA(5000, 2000, "ok");
	s.win = 0;
	svm(b, 2, s);
	s.win = 60000;
	seg_in(b, NEV_GUEST, s);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->win, 0);
	s = ACK(5002, 2000);
	s.win = 60000;
	svm(b, 2, s);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->win, 60000);
	bed_end(b);
}

/* P2: a connection whose guest has once answered with a reset, and lives, is never paid what is owed. */
static void reset_of_an_embryo(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct seg r = { .seq = 777, .flags = TCP_RST };

	(void)state;
	open_flow(b, 2);
	/* A stray acknowledgement while the handshake was under way: reset by number, the connection goes on. */
	seg_in(b, NEV_GUEST, r);
	svm(b, 2, r);
	assert_int_equal(count(b, NA_TAP), 1);
	seg_in(b, NEV_GUEST, ACK(5000, 1100));
	assert_int_equal(count(b, NA_TAP), 0);
	svm(b, 2, ACK(5000, 1100));
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

/* Rules are told with the next step, and nothing says that one is due. */
static void rules_deadline(void **state)
{
	struct bed *b = bed_primary(NULL);
	struct rules r = { .n = 1 };

	(void)state;
	r.r[0] = any(RULE_HOLD);
	tick(b, NS_PER_S);
	net_set_rules(b->net, &r);
	assert_true(net_deadline(b->net) <= b->now);
	bed_end(b);
}

/* Two stray segments to a closed port: each copy resets both, in order, and that counts as a difference. */
static void two_resets(void **state)
{
	struct seg r1 = { .seq = 100, .flags = TCP_RST }, r2 = { .seq = 200, .flags = TCP_RST };
	struct bed *b = bed_primary(NULL);

	(void)state;
	seg_in(b, NEV_GUEST, r1);
	seg_in(b, NEV_GUEST, r2);
	svm(b, 2, r1);
	assert_false(wanted(b, CAUSE_MISMATCH));
	svm(b, 2, r2);
	assert_false(wanted(b, CAUSE_MISMATCH));
	bed_end(b);
}

/* A client behind a priority tag (802.1p, VLAN id 0), which the guest answers untagged: one connection. */
static void priority_tag(void **state)
{
	struct bed *b = bed_secondary(NULL);
	struct seg s = guest_synack(b);

	(void)state;
	b->on.n_tags = 1;
	b->on.tag[0] = 0x6000;
	input(b, 2, 1, client_syn(b));
	b->on.n_tags = 0;
	s.seq = 77777;
	seg_in(b, NEV_GUEST, s);
	told(b, (struct net_msg){ .type = NM_FLOW, .epoch = 2, .key = key_of(b), .isn = b->g0 - 1 });
	assert_non_null(msg(b, NM_OUTPUT));
	b->on.n_tags = 1;
	input(b, 2, 2, ACK(b->c0, b->g0));
	assert_int_equal(first(b, NA_GUEST)->ack, 77778);
	bed_end(b);
}

static void piece(struct bed *b, uint32_t off, uint32_t n, uint32_t id)
{
	struct seg_ip ip = b->on;
	uint8_t w[SEG_MAX], d[SEG_MAX];
	uint32_t len;

	ip.from_guest = true;
	len = seg_udp(w, &ip, 53, 5353, "0123456789abcdef0123456789abcdef");
	bytes_in(b, NEV_GUEST, d, seg_piece(d, w, len, off, n, id));
}

/* P1: a piece of epoch 3 leaves with STAGED 2, because its datagram was begun in epoch 2. */
static void piece_of_the_next_epoch(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	piece(b, 0, 8, 9);
	checkpoint(b, 2);
	piece(b, 8, 8, 9);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

/* A frame that is not compared stands before an older one: neither leaves, and nobody asks. */
static void older_behind_newer(void **state)
{
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	bed_cfg(&cfg);
	cfg.rules.n = 1;
	cfg.rules.r[0] = any(RULE_HOLD);
	cfg.rules.r[0].guest_port = (struct rule_ports){ 7000, 7000 };
	b = bed_primary(&cfg);
	piece(b, 0, 8, 9);
	tick(b, 6 * NS_PER_MS);
	checkpoint(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
	tick(b, 5 * NS_PER_MS);
	ctl(b, NEV_STAGED, 2, 0);
	ctl(b, NEV_LOADED, 2, 0);
	assert_true(until(b, CAUSE_OTHER, 10 * NS_PER_S));
	bed_end(b);
}

/* What was held under "compare" leaves uncompared after "bypass" was in force for a moment. */
static void bypass_then_compare(void **state)
{
	struct rules none = { 0 }, by = { .n = 1 };
	struct bed *b = bed_primary(NULL);

	(void)state;
	by.r[0] = any(RULE_BYPASS);
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
	assert_int_equal(count(b, NA_TAP), 0);
	net_set_rules(b->net, &by);
	seg_in(b, NEV_GUEST, ACK(5005, 1000));
	net_set_rules(b->net, &none);
	svm(b, 2, ACK(5000, 1000));
	assert_int_equal(count(b, NA_TAP), 0);
	bed_end(b);
}

/* P2: until LOADED the log may lose nothing that the state of the barrier lacks; a bypassed flow tells too much. */
static void bypass_tells_too_much(void **state)
{
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	bed_cfg(&cfg);
	cfg.rules.n = 1;
	cfg.rules.r[0] = any(RULE_BYPASS);
	b = bed_primary(&cfg);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "hello"));
	checkpoint(b, 2);
	tick(b, 10 * NS_PER_MS);
	seg_in(b, NEV_GUEST, ACK(5005, 1100));
	if (!msg(b, NM_RELEASED))
		tick(b, 10 * NS_PER_MS);
	assert_non_null(msg(b, NM_RELEASED));
	assert_true(!msg(b, NM_RELEASED)->msg.room || msg(b, NM_RELEASED)->msg.ack32 == 1000);
	bed_end(b);
}

/* A promoted node sends lines for connections that ended long ago with every checkpoint. */
static void lines_of_the_dead(void **state)
{
	struct bed *b = bed_new(NULL);

	(void)state;
	ctl(b, NEV_ROLE, 1, NET_SECONDARY);
	told(b, (struct net_msg){ .type = NM_TABLE, .epoch = 1, .key = key_of(b), .seq_off = 77, .isn = 4999,
		.has_ts = 1 });
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 1 });
	ctl(b, NEV_LOADED, 1, 0);
	ctl(b, NEV_OPEN, 1, 0);
	ctl(b, NEV_PROMOTE, 0, 0);
	seg_in(b, NEV_GUEST, FIN(5000 - 77, 1000));
	seg_in(b, NEV_TAP, FIN(1000, 5001));
	seg_in(b, NEV_GUEST, ACK(5001 - 77, 1001));
	ctl(b, NEV_ROLE, 10, NET_PRIMARY);
	tick(b, 3600 * NS_PER_S);
	ctl(b, NEV_CLOSE, 10, 0);
	ctl(b, NEV_QUIET, 0, 0);
	ctl(b, NEV_STOPPED, 10, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	assert_non_null(msg(b, NM_BARRIER));
	assert_int_equal(msgs(b, NM_TABLE), 0);
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_room_then_room),
		cmocka_unit_test(hold_then_compare),
		cmocka_unit_test(other_in_hybrid),
		cmocka_unit_test(table_in_a_flood),
		cmocka_unit_test(window_with_data),
		cmocka_unit_test(reset_of_an_embryo),
		cmocka_unit_test(rules_deadline),
		cmocka_unit_test(bypass_tells_too_much),
		cmocka_unit_test(lines_of_the_dead),
		cmocka_unit_test(piece_of_the_next_epoch),
		cmocka_unit_test(older_behind_newer),
		cmocka_unit_test(bypass_then_compare),
		cmocka_unit_test(two_resets),
		cmocka_unit_test(priority_tag),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
