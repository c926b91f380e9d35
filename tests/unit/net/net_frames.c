/* SPDX-License-Identifier: BSD-2-Clause */
/* core/net: one behaviour a test, frames in and frames out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/net.h"
#include "core/packet.h"
#include "seg.h"

#define MAX_OUT 64

/* What came out of the last step, by kind. */
struct bed {
	struct net *net;
	nstime now;
	struct net_act out[MAX_OUT];
	uint8_t bytes[MAX_OUT][2048];
	struct packet p[MAX_OUT];
	size_t n;
};

static void step(struct bed *b, const struct net_ev *ev)
{
	b->n = net_step(b->net, b->now, ev, ev ? 1 : 0, b->out, MAX_OUT);
	assert_true(b->n < MAX_OUT);
	for (size_t i = 0; i < b->n; i++) {
		uint32_t h = b->out[i].frame;

		if (h == NET_NONE)
			continue;
		memcpy(b->bytes[i], net_frame_data(b->net, h), net_frame_len(b->net, h));
		packet_parse(b->bytes[i], net_frame_len(b->net, h), &b->p[i]);
		if (b->p[i].kind == PK_TCP)
			assert_true(packet_checksums_ok(&b->p[i]));
	}
}

static void tick(struct bed *b, nstime by)
{
	b->now += by;
	step(b, NULL);
}

static void ctl(struct bed *b, enum net_ev_type type, uint64_t n, uint32_t arg)
{
	struct net_ev ev = { .type = type, .n = n, .arg = arg, .frame = NET_NONE };

	step(b, &ev);
}

static uint32_t frame(struct bed *b, const uint8_t *d, uint32_t len)
{
	uint32_t h = net_frame_alloc(b->net, false);

	assert_int_not_equal(h, NET_NONE);
	memcpy(net_frame_data(b->net, h), d, len);
	net_frame_set_len(b->net, h, len);
	return h;
}

static void bytes_in(struct bed *b, enum net_ev_type type, const uint8_t *d, uint32_t len)
{
	struct net_ev ev = { .type = type, .frame = frame(b, d, len) };

	step(b, &ev);
}

static void seg_in(struct bed *b, enum net_ev_type type, struct seg s)
{
	uint8_t d[2048];

	s.from_guest = type == NEV_GUEST;
	bytes_in(b, type, d, seg_make(d, &s));
}

/* A message with a frame: the SVM's output at the primary, input at the secondary. */
static void msg_in(struct bed *b, enum net_msg_type type, uint64_t epoch, uint64_t seq, struct seg s)
{
	struct net_ev ev = { .type = NEV_MSG, .msg = { .type = (uint8_t)type, .epoch = epoch, .seq = seq } };
	uint8_t d[2048];

	s.from_guest = type == NM_OUTPUT;
	ev.frame = frame(b, d, seg_make(d, &s));
	step(b, &ev);
}

static int count(const struct bed *b, enum net_act_type type)
{
	int k = 0;

	for (size_t i = 0; i < b->n; i++)
		k += b->out[i].type == type;
	return k;
}

static struct packet *first(struct bed *b, enum net_act_type type)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->out[i].type == type)
			return &b->p[i];
	fail_msg("no such action");
	return NULL;
}

static struct net_act *msg(struct bed *b, enum net_msg_type type)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->out[i].type == NA_MSG && b->out[i].msg.type == type)
			return &b->out[i];
	return NULL;
}

static bool wanted(const struct bed *b, enum ckpt_cause c)
{
	for (size_t i = 0; i < b->n; i++)
		if (b->out[i].type == NA_WANT && b->out[i].arg == c)
			return true;
	return false;
}

static void checkpoint(struct bed *b, uint64_t n)
{
	ctl(b, NEV_CLOSE, n, 0);
	if (!count(b, NA_CUT) && n == 1)
		ctl(b, NEV_QUIET, 0, 0);
	if (!count(b, NA_CUT))
		tick(b, 10 * NS_PER_MS);
	assert_int_equal(count(b, NA_CUT), 1);
	ctl(b, NEV_STOPPED, n, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	assert_int_equal(count(b, NA_DRAINED), 1);
	ctl(b, NEV_OPEN, n, 0);
}

static struct bed *new_bed(void)
{
	struct bed *b = calloc(1, sizeof(*b));
	struct net_cfg cfg;

	net_cfg_default(&cfg, 1, 1500);
	cfg.n_frames = 256;
	cfg.n_flows = 32;
	cfg.n_log = 64;
	memcpy(cfg.mac[0], seg_guest_mac, 6);
	b->net = net_new(&cfg);
	b->now = NS_PER_S;
	assert_non_null(b->net);
	return b;
}

/* A primary whose secondary runs, in epoch 2. */
static struct bed *primary(void)
{
	struct bed *b = new_bed();

	ctl(b, NEV_ROLE, 1, NET_PRIMARY);
	checkpoint(b, 1);
	ctl(b, NEV_STAGED, 1, 0);
	ctl(b, NEV_LOADED, 1, 0);
	return b;
}

static void end(struct bed *b)
{
	net_free(b->net);
	free(b);
}

/* The handshake of a connection: client 1000, PVM and SVM 5000 (in client numbers), window scale 7. */
static void open_flow(struct bed *b)
{
	struct net_ev ok = { .type = NEV_MSG, .frame = NET_NONE };
	struct net_act *a;

	seg_in(b, NEV_TAP, (struct seg){ .seq = 999, .flags = TCP_SYN, .ws = 7, .win = 1000 });
	assert_int_equal(count(b, NA_GUEST), 1);
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 4999, .ack = 1000, .flags = TCP_SYN | TCP_ACK, .ws = 7, .win = 1000 });
	assert_int_equal(count(b, NA_TAP), 0);
	a = msg(b, NM_FLOW);
	assert_non_null(a);
	assert_int_equal(a->msg.isn, 4999);
	ok.msg = a->msg;
	ok.msg.type = NM_FLOW_OK;
	msg_in(b, NM_OUTPUT, 2, 0, (struct seg){ .seq = 4999, .ack = 1000, .flags = TCP_SYN | TCP_ACK, .ws = 7, .win = 1000 });
	assert_int_equal(count(b, NA_TAP), 0);
	step(b, &ok);
	assert_int_equal(count(b, NA_TAP), 1);
	seg_in(b, NEV_TAP, (struct seg){ .seq = 1000, .ack = 5000, .flags = TCP_ACK, .win = 1000 });
}

#define DATA(s, a, d) ((struct seg){ .seq = (s), .ack = (a), .flags = TCP_ACK | TCP_PSH, .win = 1000, .data = (d) })
#define ACK(s, a) ((struct seg){ .seq = (s), .ack = (a), .flags = TCP_ACK, .win = 1000 })

static void equal_answers_leave(void **state)
{
	struct bed *b = primary();

	(void)state;
	open_flow(b);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "ask"));
	seg_in(b, NEV_GUEST, DATA(5000, 1003, "answer"));
	assert_int_equal(count(b, NA_TAP), 0);
	msg_in(b, NM_OUTPUT, 2, 0, DATA(5000, 1003, "answer"));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->ack, 1003);
	assert_int_equal(first(b, NA_TAP)->len, 6);
	end(b);
}

static void verified_prefix_leaves(void **state)
{
	struct bed *b = primary();

	(void)state;
	open_flow(b);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "0123456789"));
	msg_in(b, NM_OUTPUT, 2, 0, DATA(5000, 1000, "0123"));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->len, 4);
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK);
	msg_in(b, NM_OUTPUT, 2, 0, DATA(5004, 1000, "456789"));
	assert_int_equal(first(b, NA_TAP)->seq, 5004);
	assert_int_equal(first(b, NA_TAP)->len, 6);
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_PSH);
	end(b);
}

static void different_answers_wait_for_staged(void **state)
{
	struct bed *b = primary();

	(void)state;
	open_flow(b);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abcX"));
	msg_in(b, NM_OUTPUT, 2, 0, DATA(5000, 1000, "abcY"));
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
	msg_in(b, NM_OUTPUT, 2, 0, DATA(5004, 1000, "more"));
	assert_int_equal(count(b, NA_TAP), 0);
	msg_in(b, NM_OUTPUT, 3, 0, DATA(5004, 1000, "more"));
	assert_int_equal(count(b, NA_TAP), 1);
	end(b);
}

static void acknowledgement_is_lowered_and_paid(void **state)
{
	struct bed *b = primary();

	(void)state;
	open_flow(b);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "0123456789"));
	seg_in(b, NEV_GUEST, ACK(5000, 1010));
	assert_int_equal(count(b, NA_TAP), 0);
	msg_in(b, NM_OUTPUT, 2, 0, ACK(5000, 1004));
	assert_int_equal(count(b, NA_TAP), 1);
	assert_int_equal(first(b, NA_TAP)->ack, 1004);
	msg_in(b, NM_OUTPUT, 2, 0, ACK(5000, 1010));
	assert_int_equal(first(b, NA_TAP)->ack, 1010);
	/* The copies agree: the next one passes by itself. */
	seg_in(b, NEV_GUEST, ACK(5000, 1010));
	assert_int_equal(count(b, NA_TAP), 1);
	end(b);
}

static void acknowledgement_waits_between_barrier_and_staged(void **state)
{
	struct bed *b = primary();

	(void)state;
	open_flow(b);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "0123456789"));
	msg_in(b, NM_OUTPUT, 2, 0, ACK(5000, 1010));
	checkpoint(b, 2);
	/* The PVM says it only after the barrier, so state 2 does not know these bytes. */
	seg_in(b, NEV_GUEST, ACK(5000, 1010));
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 0);
	msg_in(b, NM_OUTPUT, 3, 0, ACK(5000, 1010));
	assert_int_equal(first(b, NA_TAP)->ack, 1010);
	end(b);
}

static void fin_does_not_overtake(void **state)
{
	struct bed *b = primary();

	(void)state;
	open_flow(b);
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 5000, .ack = 1000, .flags = TCP_ACK | TCP_FIN, .win = 1000, .data = "bye" });
	msg_in(b, NM_OUTPUT, 2, 0, DATA(5000, 1000, "bye"));
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK);
	assert_int_equal(first(b, NA_TAP)->len, 3);
	msg_in(b, NM_OUTPUT, 2, 0, (struct seg){ .seq = 5003, .ack = 1000, .flags = TCP_ACK | TCP_FIN, .win = 1000 });
	assert_int_equal(first(b, NA_TAP)->flags, TCP_ACK | TCP_FIN);
	assert_int_equal(first(b, NA_TAP)->len, 0);
	end(b);
}

static void reset_waits_for_its_twin_and_for_bytes(void **state)
{
	struct bed *b = primary();
	struct seg rst = { .seq = 5003, .flags = TCP_RST };

	(void)state;
	open_flow(b);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "abc"));
	seg_in(b, NEV_GUEST, rst);
	msg_in(b, NM_OUTPUT, 2, 0, rst);
	assert_int_equal(count(b, NA_TAP), 0);
	msg_in(b, NM_OUTPUT, 2, 0, DATA(5000, 1000, "abc"));
	assert_int_equal(count(b, NA_TAP), 2);
	assert_int_equal(b->p[b->n - 1].kind == PK_TCP ? b->p[1].flags : 0, TCP_RST);
	end(b);
}

static void other_frames_wait_for_a_checkpoint(void **state)
{
	struct bed *b = primary();
	uint8_t d[2048];

	(void)state;
	bytes_in(b, NEV_GUEST, d, seg_arp(d, true));
	assert_int_equal(count(b, NA_TAP), 1);
	bytes_in(b, NEV_GUEST, d, seg_udp(d, true));
	assert_int_equal(count(b, NA_TAP), 0);
	tick(b, 100 * NS_PER_MS);
	assert_true(wanted(b, CAUSE_TIMEOUT));
	checkpoint(b, 2);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 1);
	end(b);
}

static void old_held_output_wants_a_checkpoint(void **state)
{
	struct bed *b = primary();

	(void)state;
	open_flow(b);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "slow"));
	tick(b, 2900 * NS_PER_MS);
	assert_false(wanted(b, CAUSE_TIMEOUT));
	tick(b, 200 * NS_PER_MS);
	assert_true(wanted(b, CAUSE_TIMEOUT));
	end(b);
}

static void alone_lets_go(void **state)
{
	struct bed *b = primary();
	uint8_t d[2048];

	(void)state;
	open_flow(b);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "held"));
	bytes_in(b, NEV_GUEST, d, seg_udp(d, true));
	ctl(b, NEV_ALONE, 0, 0);
	assert_int_equal(count(b, NA_TAP), 2);
	seg_in(b, NEV_GUEST, DATA(5004, 1000, "free"));
	assert_int_equal(count(b, NA_TAP), 1);
	end(b);
}

static void gate_and_cut(void **state)
{
	struct bed *b = primary();

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
	end(b);
}

/* A secondary whose SVM runs in epoch 2; what is logged begins with number 1. */
static struct bed *secondary(void)
{
	struct net_ev bar = { .type = NEV_MSG, .frame = NET_NONE, .msg = { .type = NM_BARRIER, .epoch = 1 } };
	struct bed *b = new_bed();

	ctl(b, NEV_ROLE, 1, NET_SECONDARY);
	step(b, &bar);
	assert_int_equal(count(b, NA_BARRIER), 1);
	ctl(b, NEV_LOADED, 1, 0);
	ctl(b, NEV_OPEN, 1, 0);
	return b;
}

static void told(struct bed *b, struct net_msg m)
{
	struct net_ev ev = { .type = NEV_MSG, .frame = NET_NONE, .msg = m };

	step(b, &ev);
}

static struct flow_key key_of(void)
{
	uint8_t d[2048];
	struct flow_key k;
	struct packet p;
	struct seg s = ACK(1, 1);

	packet_parse(d, seg_make(d, &s), &p);
	packet_key(&p, 0, false, &k);
	return k;
}

/* The SVM answers a SYN with 8999 where the PVM (and so the client) has 4999. */
static void svm_flow(struct bed *b)
{
	msg_in(b, NM_INPUT, 2, 1, (struct seg){ .seq = 999, .flags = TCP_SYN, .has_ts = true, .tsval = 7 });
	assert_int_equal(count(b, NA_GUEST), 1);
	assert_int_equal(msg(b, NM_LOGGED)->msg.seq, 1);
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 8999, .ack = 1000, .flags = TCP_SYN | TCP_ACK, .has_ts = true,
		.tsval = 300, .tsecr = 7 });
	assert_null(msg(b, NM_OUTPUT));
	told(b, (struct net_msg){ .type = NM_FLOW, .epoch = 2, .key = key_of(), .isn = 4999, .has_ts = 1, .tsval = 100 });
	assert_non_null(msg(b, NM_FLOW_OK));
	assert_non_null(msg(b, NM_OUTPUT));
	assert_int_equal(first(b, NA_MSG)->seq, 4999);
	assert_int_equal(first(b, NA_MSG)->tsval, 100);
}

static void translation_both_ways(void **state)
{
	struct bed *b = secondary();

	(void)state;
	svm_flow(b);
	msg_in(b, NM_INPUT, 2, 2, (struct seg){ .seq = 1000, .ack = 5000, .flags = TCP_ACK, .has_ts = true, .tsval = 8,
		.tsecr = 100, .n_sack = 1, .sack = { 5010, 5020 } });
	assert_int_equal(first(b, NA_GUEST)->ack, 9000);
	assert_int_equal(first(b, NA_GUEST)->tsecr, 300);
	assert_int_equal(first(b, NA_GUEST)->sack[0].left, 9010);
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 9000, .ack = 1000, .flags = TCP_ACK, .has_ts = true, .tsval = 310,
		.tsecr = 8, .data = "hi" });
	assert_int_equal(first(b, NA_MSG)->seq, 5000);
	assert_int_equal(first(b, NA_MSG)->tsval, 110);
	end(b);
}

static void promotion_replays_and_translates_on(void **state)
{
	struct bed *b = secondary();
	int garp = 0;

	(void)state;
	svm_flow(b);
	msg_in(b, NM_INPUT, 2, 2, DATA(1000, 5000, "0123456789"));
	msg_in(b, NM_INPUT, 2, 3, DATA(1010, 5000, "abcde"));
	/* The SVM has acknowledged the first only; the client was told as much. */
	seg_in(b, NEV_GUEST, (struct seg){ .seq = 9000, .ack = 1010, .flags = TCP_ACK, .win = 1 });
	told(b, (struct net_msg){ .type = NM_RELEASED, .epoch = 2, .key = key_of(), .isn = 4999, .seq32 = 5000,
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
	end(b);
}

static void load_replays_what_comes_after_the_cut(void **state)
{
	struct bed *b = secondary();

	(void)state;
	msg_in(b, NM_INPUT, 2, 1, DATA(1000, 5000, "one"));
	msg_in(b, NM_INPUT, 2, 2, DATA(1003, 5000, "two"));
	assert_int_equal(count(b, NA_GUEST), 1);
	ctl(b, NEV_CLOSE, 2, 0);
	tick(b, 10 * NS_PER_MS);
	ctl(b, NEV_STOPPED, 2, 0);
	ctl(b, NEV_DRAINED, 0, 0);
	msg_in(b, NM_INPUT, 2, 3, DATA(1006, 5000, "three"));
	assert_int_equal(count(b, NA_GUEST), 0);
	told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 2, .seq = 1 });
	ctl(b, NEV_LOADED, 2, 0);
	assert_int_equal(count(b, NA_GUEST), 0);
	ctl(b, NEV_OPEN, 2, 0);
	assert_int_equal(count(b, NA_GUEST), 2);
	assert_int_equal(first(b, NA_GUEST)->seq, 1003);
	end(b);
}

static void secondary_is_silent(void **state)
{
	struct bed *b = secondary();
	uint8_t d[2048];

	(void)state;
	bytes_in(b, NEV_TAP, d, seg_arp(d, false));
	assert_int_equal(b->n, 0);
	bytes_in(b, NEV_GUEST, d, seg_arp(d, true));
	bytes_in(b, NEV_GUEST, d, seg_udp(d, true));
	assert_int_equal(count(b, NA_TAP), 0);
	end(b);
}

static void no_credit_drops_at_the_tap(void **state)
{
	struct bed *b = primary();

	(void)state;
	ctl(b, NEV_ROOM, 0, 0);
	seg_in(b, NEV_TAP, ACK(1, 1));
	assert_int_equal(count(b, NA_GUEST), 0);
	assert_null(msg(b, NM_INPUT));
	ctl(b, NEV_ROOM, 0, 1);
	seg_in(b, NEV_TAP, ACK(1, 1));
	assert_int_equal(count(b, NA_GUEST), 1);
	end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_answers_leave), cmocka_unit_test(verified_prefix_leaves),
		cmocka_unit_test(different_answers_wait_for_staged), cmocka_unit_test(acknowledgement_is_lowered_and_paid),
		cmocka_unit_test(acknowledgement_waits_between_barrier_and_staged), cmocka_unit_test(fin_does_not_overtake),
		cmocka_unit_test(reset_waits_for_its_twin_and_for_bytes),
		cmocka_unit_test(other_frames_wait_for_a_checkpoint), cmocka_unit_test(old_held_output_wants_a_checkpoint),
		cmocka_unit_test(alone_lets_go), cmocka_unit_test(gate_and_cut), cmocka_unit_test(translation_both_ways),
		cmocka_unit_test(promotion_replays_and_translates_on),
		cmocka_unit_test(load_replays_what_comes_after_the_cut), cmocka_unit_test(secondary_is_silent),
		cmocka_unit_test(no_credit_drops_at_the_tap),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
