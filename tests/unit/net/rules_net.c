/* SPDX-License-Identifier: BSD-2-Clause */
/* Rules in the machine: compare, bypass, hold; at run time, and told to the secondary. */
#include "bed.h"

static struct rule rule(enum rule_action action, uint8_t proto, uint16_t guest_port)
{
	struct rule r = { .action = (uint8_t)action, .proto = proto, .nic = RULE_ANY_NIC, .port = { 0, 65535 },
			  .guest_port = { 0, 65535 }, .client_port = { 0, 65535 } };

	if (guest_port)
		r.guest_port = (struct rule_ports){ guest_port, guest_port };
	return r;
}

static struct bed *primary_with(struct rule r)
{
	struct net_cfg cfg;

	bed_cfg(&cfg);
	cfg.rules.n = 1;
	cfg.rules.r[0] = r;
	return bed_primary(&cfg);
}

static uint32_t udp(struct bed *b, uint8_t *d, uint16_t port, const char *data)
{
	struct seg_ip ip = b->on;

	ip.from_guest = true;
	return seg_udp(d, &ip, port, 5353, data);
}

/* Bypass: "the PVM's frames leave at once, the SVM's are dropped: for what must differ". */
static void bypass_udp(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = primary_with(rule(RULE_BYPASS, PROTO_UDP, 123));
		uint8_t d[SEG_MAX];
		uint32_t n;

		b->on = bed_road[r];
		n = udp(b, d, 123, "time");
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_memory_equal(first(b, NA_TAP)->data, d, n);
		svm_bytes(b, 2, d, udp(b, d, 123, "other time"));
		assert_int_equal(count(b, NA_TAP), 0);
		assert_false(wanted_any(b));
		assert_int_equal(stats(b).bypassed, 1);
		assert_int_equal(stats(b).held_svm, 0);
		/* What does not fit the rule is compared. */
		bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "name"));
		assert_int_equal(count(b, NA_TAP), 0);
		bed_end(b);
	}
}

/* Bypass of TCP: at once, with the PVM's own numbers: there is no second copy to wait for, from the SYN on. */
static void bypass_tcp(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = primary_with(rule(RULE_BYPASS, PROTO_TCP, 7000));
		struct seg s = DATA(5000, 1003, "screen");
		uint8_t d[SEG_MAX];
		uint32_t n;

		b->on = bed_road[r];
		seg_in(b, NEV_TAP, client_syn(b));
		assert_int_equal(count(b, NA_GUEST), 1);
		seg_in(b, NEV_GUEST, guest_synack(b));
		assert_int_equal(count(b, NA_TAP), 1);
		seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
		s.from_guest = true;
		n = seg_make_on(d, &b->on, &s);
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_memory_equal(first(b, NA_TAP)->data, d, n);
		svm(b, 2, DATA(5000, 1000, "SCREEN"));
		assert_int_equal(count(b, NA_TAP), 0);
		seg_in(b, NEV_GUEST, FIN(5006, 1003));
		assert_int_equal(count(b, NA_TAP), 1);
		seg_in(b, NEV_GUEST, (struct seg){ .seq = 5007, .flags = TCP_RST });
		assert_int_equal(count(b, NA_TAP), 1);
		assert_false(until(b, CAUSE_TIMEOUT, 200 * NS_PER_MS));
		assert_int_equal(stats(b).held, 0);
		assert_true(stats(b).bypassed >= 4);
		bed_end(b);
	}
}

/* Hold: "never compared: leaves when the checkpoint of its epoch is STAGED". */
static void hold_udp(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = primary_with(rule(RULE_HOLD, PROTO_UDP, 0));
		uint8_t d[SEG_MAX];
		uint32_t n;

		b->on = bed_road[r];
		n = udp(b, d, 53, "same");
		svm_bytes(b, 2, d, n);
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 0);
		svm_bytes(b, 2, d, n);
		assert_int_equal(count(b, NA_TAP), 0);
		svm_bytes(b, 2, d, udp(b, d, 53, "different"));
		assert_false(wanted(b, CAUSE_MISMATCH));
		assert_true(until(b, CAUSE_OTHER, 20 * NS_PER_MS));
		checkpoint(b, 2);
		assert_int_equal(count(b, NA_TAP), 0);
		ctl(b, NEV_STAGED, 2, 0);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(stats(b).held_svm, 0);
		bed_end(b);
	}
}

/*
 * Design 4: one checkpoint for what is held: while it is under way nobody asks for another one that would carry
 * nothing.
 */
static void hold_asks_once(void **state)
{
	struct bed *b = primary_with(rule(RULE_HOLD, PROTO_UDP, 0));
	uint8_t d[SEG_MAX];

	(void)state;
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "held"));
	assert_true(until(b, CAUSE_OTHER, 20 * NS_PER_MS));
	ctl(b, NEV_CLOSE, 2, 0);
	assert_false(wanted_any(b));
	if (!count(b, NA_CUT))
		tick(b, 10 * NS_PER_MS);
	ctl(b, NEV_STOPPED, 2, 0);
	assert_false(wanted_any(b));
	ctl(b, NEV_DRAINED, 0, 0);
	assert_false(wanted_any(b));
	ctl(b, NEV_OPEN, 2, 0);
	assert_false(until(b, CAUSE_OTHER, 50 * NS_PER_MS));
	/* What is held from now on is of the next epoch, and has to wait for its own. */
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "later"));
	assert_true(until(b, CAUSE_OTHER, 20 * NS_PER_MS));
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

/* Hold of TCP: the numbers stay under P2 all the same. */
static void hold_tcp(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = primary_with(rule(RULE_HOLD, PROTO_TCP, 0));

		b->on = bed_road[r];
		seg_in(b, NEV_TAP, client_syn(b));
		seg_in(b, NEV_GUEST, guest_synack(b));
		if (msg(b, NM_FLOW))
			flow_ok(b);
		svm(b, 2, guest_synack(b));
		assert_int_equal(count(b, NA_TAP), 0);
		assert_true(until(b, CAUSE_OTHER, 20 * NS_PER_MS));
		full_checkpoint(b, 2);
		assert_int_equal(stats(b).held, 0);
		seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
		seg_in(b, NEV_GUEST, DATA(5000, 1003, "answer"));
		svm(b, 3, DATA(5000, 1003, "answer"));
		assert_int_equal(count(b, NA_TAP), 0);
		/* Not compared, so there is no difference to be found. */
		assert_false(wanted(b, CAUSE_MISMATCH));
		assert_int_equal(stats(b).mismatches, 0);
		checkpoint(b, 3);
		ctl(b, NEV_STAGED, 3, 0);
		assert_string_equal(text(b), "answer");
		bed_end(b);
	}
}

/* "the first rule that fits decides"; an address and a NIC are part of a rule. */
static void first_fit(void **state)
{
	struct net_cfg cfg;
	struct bed *b;
	uint8_t d[SEG_MAX];

	(void)state;
	bed_cfg(&cfg);
	cfg.n_nics = 2;
	memcpy(cfg.mac[1], seg_guest_mac, 6);
	cfg.rules.n = 3;
	cfg.rules.r[0] = rule(RULE_COMPARE, PROTO_UDP, 53);
	cfg.rules.r[1] = rule(RULE_BYPASS, PROTO_UDP, 0);
	cfg.rules.r[1].nic = 1;
	cfg.rules.r[2] = rule(RULE_BYPASS, PROTO_UDP, 0);
	cfg.rules.r[2].client = (struct rule_net){ .addr = { 192, 0, 2, 64 }, .family = 4, .bits = 26 };
	b = bed_primary(&cfg);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "x"));
	assert_int_equal(count(b, NA_TAP), 0);
	/* 192.0.2.100 is in 192.0.2.64/26. */
	bytes_in(b, NEV_GUEST, d, udp(b, d, 54, "x"));
	assert_int_equal(count(b, NA_TAP), 1);
	b->on.dst = (const uint8_t[]){ 192, 0, 2, 130 };
	bytes_in(b, NEV_GUEST, d, udp(b, d, 54, "x"));
	assert_int_equal(count(b, NA_TAP), 0);
	b->nic = 1;
	bytes_in(b, NEV_GUEST, d, udp(b, d, 54, "x"));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(b->out[0].nic, 1);
	b->on.dst = NULL;
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "x"));
	assert_int_equal(count(b, NA_TAP), 0);
	bed_end(b);
}

/* The rules that a message RULES of the last step holds. */
static struct rules told_rules(struct bed *b)
{
	struct net_act *a = msg(b, NM_RULES);
	struct rules rules = { 0 };

	assert_non_null(a);
	assert_int_not_equal(a->frame, NET_NONE);
	assert_int_equal(rules_decode(b->bytes[a - b->out], net_frame_len(b->net, a->frame), &rules), 0);
	return rules;
}

/* The secondary is told when it becomes the peer, and on each change. */
static void told_to_the_peer(void **state)
{
	struct rules rules = { .n = 1, .r = { rule(RULE_HOLD, PROTO_SCTP, 0) } }, got;
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	bed_cfg(&cfg);
	cfg.rules.n = 1;
	cfg.rules.r[0] = rule(RULE_BYPASS, PROTO_UDP, 123);
	b = bed_new(&cfg);
	ctl(b, NEV_ROLE, 1, NET_PRIMARY);
	got = told_rules(b);
	assert_int_equal(got.n, 1);
	assert_int_equal(got.r[0].action, RULE_BYPASS);
	assert_int_equal(got.r[0].guest_port.lo, 123);
	tick(b, NS_PER_MS);
	assert_null(msg(b, NM_RULES));
	net_set_rules(b->net, &rules);
	tick(b, NS_PER_MS);
	got = told_rules(b);
	assert_int_equal(got.n, 1);
	assert_int_equal(got.r[0].action, RULE_HOLD);
	assert_int_equal(net_rules(b->net)->r[0].proto, PROTO_SCTP);
	tick(b, NS_PER_MS);
	assert_null(msg(b, NM_RULES));
	bed_end(b);
}

/* As many as there may be, on a link of ordinary frames. */
static void all_are_told(void **state)
{
	struct rules got;
	struct net_cfg cfg;
	struct bed *b;

	(void)state;
	bed_cfg(&cfg);
	cfg.rules.n = RULES_MAX;
	for (uint16_t i = 0; i < RULES_MAX; i++)
		cfg.rules.r[i] = rule(RULE_BYPASS, PROTO_UDP, (uint16_t)(1000 + i));
	b = bed_new(&cfg);
	ctl(b, NEV_ROLE, 1, NET_PRIMARY);
	got = told_rules(b);
	assert_int_equal(got.n, RULES_MAX);
	assert_int_equal(got.r[RULES_MAX - 1].guest_port.lo, 1000 + RULES_MAX - 1);
	bed_end(b);
}

static void rules_msg(struct bed *b, const uint8_t *d, uint32_t len)
{
	struct net_ev ev = { .type = NEV_MSG, .msg = { .type = NM_RULES } };

	ev.frame = net_frame_alloc(b->net, false);
	assert_int_not_equal(ev.frame, NET_NONE);
	memcpy(net_frame_data(b->net, ev.frame), d, len);
	net_frame_set_len(b->net, ev.frame, len);
	step(b, &ev);
}

/* The secondary takes them over, for the day of its promotion; garbage changes nothing (P7). */
static void taken_by_the_secondary(void **state)
{
	struct rules rules = { .n = 1, .r = { rule(RULE_BYPASS, PROTO_UDP, 123) } };
	struct bed *b = bed_secondary(NULL);
	uint8_t d[RULES_BYTES_MAX];
	uint32_t free_before;
	uint64_t bad;
	int n;

	(void)state;
	n = rules_encode(&rules, d, sizeof(d));
	assert_true(n > 0);
	rules_msg(b, d, (uint32_t)n);
	assert_int_equal(net_rules(b->net)->n, 1);
	assert_int_equal(net_rules(b->net)->r[0].action, RULE_BYPASS);
	tick(b, 0);
	free_before = stats(b).frames_free;
	bad = stats(b).drop_bad;
	rules_msg(b, d, (uint32_t)n - 1);
	assert_int_equal(net_rules(b->net)->n, 1);
	assert_int_equal(stats(b).drop_bad, bad + 1);
	rules_msg(b, (const uint8_t *)"\xff\xff\xff\xff", 4);
	assert_int_equal(net_rules(b->net)->n, 1);
	tick(b, 0);
	assert_int_equal(stats(b).frames_free, free_before);
	ctl(b, NEV_PROMOTE, 0, 0);
	assert_int_equal(net_rules(b->net)->n, 1);
	bed_end(b);
}

/* A change while frames are held: none is lost, none leaves before its time. */
static void change_at_run_time(void **state)
{
	struct rules none = { 0 }, bypass = { .n = 1, .r = { rule(RULE_BYPASS, 0, 0) } };
	struct bed *b = bed_primary(NULL);
	uint8_t d[SEG_MAX];
	int out = 0;

	(void)state;
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "held"));
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "held too"));
	assert_int_equal(count(b, NA_TAP), 0);
	net_set_rules(b->net, &bypass);
	tick(b, NS_PER_MS);
	out += count(b, NA_TAP);
	/* Behind what is held, in order. */
	seg_in(b, NEV_GUEST, DATA(5004, 1000, "next"));
	out += count(b, NA_TAP);
	checkpoint(b, 2);
	out += count(b, NA_TAP);
	ctl(b, NEV_STAGED, 2, 0);
	out += count(b, NA_TAP);
	assert_int_equal(out, 3);
	ctl(b, NEV_LOADED, 2, 0);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "free"));
	assert_int_equal(count(b, NA_TAP), 1);
	/* And back: compared again. */
	net_set_rules(b->net, &none);
	tick(b, NS_PER_MS);
	bytes_in(b, NEV_GUEST, d, udp(b, d, 53, "again"));
	assert_int_equal(count(b, NA_TAP), 0);
	svm_bytes(b, 3, d, udp(b, d, 53, "again"));
	assert_int_equal(count(b, NA_TAP), 1);
	bed_end(b);
}

/* P6: "unchanged but for translation": a connection that began before a promotion keeps its numbers under bypass. */
static void bypass_is_translated(void **state)
{
	struct rules bypass = { .n = 1, .r = { rule(RULE_BYPASS, PROTO_TCP, 0) } };

	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_secondary(NULL);

		b->on = bed_road[r];
		svm_flow(b, 8999);
		input(b, 2, 2, ACK(1000, 5000));
		seg_in(b, NEV_GUEST, ACK(9000, 1000));
		ctl(b, NEV_PROMOTE, 0, 0);
		net_set_rules(b->net, &bypass);
		ctl(b, NEV_ROLE, 3, NET_PRIMARY);
		full_checkpoint(b, 3);
		seg_in(b, NEV_GUEST, DATA(9000, 1000, "on"));
		assert_string_equal(text(b), "on");
		assert_int_equal(first(b, NA_TAP)->seq, 5000);
		seg_in(b, NEV_TAP, ACK(1000, 5002));
		assert_int_equal(first(b, NA_GUEST)->ack, 9002);
		bed_end(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bypass_udp), cmocka_unit_test(bypass_tcp), cmocka_unit_test(hold_udp),
		cmocka_unit_test(hold_asks_once), cmocka_unit_test(hold_tcp), cmocka_unit_test(first_fit),
		cmocka_unit_test(told_to_the_peer), cmocka_unit_test(all_are_told),
		cmocka_unit_test(taken_by_the_secondary), cmocka_unit_test(change_at_run_time),
		cmocka_unit_test(bypass_is_translated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
