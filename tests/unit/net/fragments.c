/* SPDX-License-Identifier: BSD-2-Clause */
/* Fragments of IPv4 (RFC 791) and IPv6 (RFC 8200 4.5): compared after reassembly, within limits. */
#include "bed.h"

static const char words[] = "the quick brown fox jumps over the lazy dog, and over it again, and then once more";

static uint32_t udp(uint8_t *d, const struct seg_ip *on, bool from_guest, const char *data)
{
	struct seg_ip ip = *on;

	ip.from_guest = from_guest;
	return seg_udp(d, &ip, 53, 5353, data);
}

/* Where to cut, in bytes of what IP carries; ends with the end. */
struct cuts {
	uint32_t n, at[8], id;
};

static uint32_t piece(uint8_t *out, const uint8_t *whole, uint32_t len, const struct cuts *c, uint32_t i)
{
	uint32_t body = len - seg_l3(whole, len) - (whole[seg_l3(whole, len)] >> 4 == 6 ? 40 : 20);
	uint32_t off = i ? c->at[i - 1] : 0, end = i == c->n ? body : c->at[i];

	return seg_piece(out, whole, len, off, end - off, c->id);
}

/* One copy says @data in the pieces of @c, in order. Return: frames let out meanwhile */
static int say(struct bed *b, bool pvm, const char *data, const struct cuts *c)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	uint32_t len = udp(whole, &b->on, true, data), n;
	int out = 0;

	if (!c) {
		if (pvm)
			bytes_in(b, NEV_GUEST, whole, len);
		else
			svm_bytes(b, 2, whole, len);
		return count(b, NA_TAP);
	}
	for (uint32_t i = 0; i <= c->n; i++) {
		n = piece(d, whole, len, c, i);
		if (pvm)
			bytes_in(b, NEV_GUEST, d, n);
		else
			svm_bytes(b, 2, d, n);
		out += count(b, NA_TAP);
	}
	return out;
}

/* The frames of the last step are exactly the pieces of @c, in their order, as the PVM has made them. */
static void are_the_pieces(struct bed *b, const char *data, const struct cuts *c)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	uint32_t len = udp(whole, &b->on, true, data), n;

	assert_int_equal(count(b, NA_TAP), c->n + 1);
	for (uint32_t i = 0; i <= c->n; i++) {
		n = piece(d, whole, len, c, i);
		assert_int_equal(nth(b, NA_TAP, (int)i)->frame_len, n);
		assert_memory_equal(nth(b, NA_TAP, (int)i)->data, d, n);
	}
}

static const struct cuts in_three = { 2, { 16, 48 }, 77 }, in_two = { 1, { 32 }, 88 };
static const struct seg_ip roads[] = { { .v6 = false }, { .v6 = true }, { .n_tags = 1, .tag = { 7 } },
				       { .v6 = true, .n_tags = 2, .tag = { 1, 2 } } };

#define ON_EACH_ROAD(b) \
	for (unsigned int r_ = 0; r_ < 4; r_++) \
		for (struct bed *b = bed_primary(NULL); b; bed_end(b), b = NULL) \
			if (b->on = roads[r_], true)

/* What is in a fragment's head: the parser. */
static void parsed(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	struct packet p;
	uint32_t len;

	(void)state;
	for (unsigned int r = 0; r < 4; r++) {
		len = udp(whole, &roads[r], true, words);
		for (uint32_t i = 0; i <= 2; i++) {
			packet_parse(d, piece(d, whole, len, &in_three, i), &p);
			assert_int_equal(p.kind, PK_FRAG);
			assert_int_equal(p.frag_id, 77);
			assert_int_equal(p.frag_off, i ? in_three.at[i - 1] : 0);
			assert_int_equal(p.frag_more, i < 2);
			assert_int_equal(p.proto, PROTO_UDP);
			if (i < 2)
				assert_int_equal(p.len, i ? 32 : 16);
		}
	}
}

/* Design 5: "whole after reassembly": however the two copies cut; the pieces leave as the PVM has cut them. */
static void cut_differently(void **state)
{
	(void)state;
	ON_EACH_ROAD(b) {
		assert_int_equal(say(b, true, words, &in_three), 0);
		assert_int_equal(say(b, false, words, &in_two), 3);
		are_the_pieces(b, words, &in_three);
		/* The SVM whole, and first. */
		assert_int_equal(say(b, false, words, NULL), 0);
		assert_int_equal(say(b, true, words, &in_two), 2);
		are_the_pieces(b, words, &in_two);
		/* The PVM whole. */
		assert_int_equal(say(b, true, words, NULL), 0);
		assert_int_equal(say(b, false, words, &in_three), 1);
		assert_int_equal(stats(b).held, 0);
		assert_int_equal(stats(b).held_svm, 0);
		assert_false(wanted_any(b));
		assert_true(stats(b).reassembled >= 4);
	}
}

/* Pieces in another order, on both sides: nothing leaves before the whole is there. */
static void out_of_order(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];

	(void)state;
	ON_EACH_ROAD(b) {
		uint32_t len = udp(whole, &b->on, true, words), seen = 0;

		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_three, 2));
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_three, 0));
		svm_bytes(b, 2, d, piece(d, whole, len, &in_two, 1));
		svm_bytes(b, 2, d, piece(d, whole, len, &in_two, 0));
		assert_int_equal(count(b, NA_TAP), 0);
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_three, 1));
		assert_int_equal(count(b, NA_TAP), 3);
		for (int i = 0; i < 3; i++)
			seen |= nth(b, NA_TAP, i)->frag_off;
		assert_int_equal(seen, 48);
	}
}

/* P1: different wholes wait for STAGED, and then leave in order. */
static void different(void **state)
{
	(void)state;
	ON_EACH_ROAD(b) {
		char other[sizeof(words)];

		memcpy(other, words, sizeof(words));
		other[60] = 'X';
		assert_int_equal(say(b, true, words, &in_three), 0);
		assert_int_equal(say(b, false, other, &in_two), 0);
		assert_true(wanted(b, CAUSE_MISMATCH));
		checkpoint(b, 2);
		assert_int_equal(count(b, NA_TAP), 0);
		ctl(b, NEV_STAGED, 2, 0);
		are_the_pieces(b, words, &in_three);
	}
}

/* Incomplete: after other_delay a checkpoint is wanted, with which the pieces leave. Never lost silently. */
static void incomplete(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];

	(void)state;
	ON_EACH_ROAD(b) {
		uint32_t len = udp(whole, &b->on, true, words);

		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_three, 0));
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_three, 2));
		assert_false(until(b, CAUSE_OTHER, 9 * NS_PER_MS));
		assert_true(until(b, CAUSE_OTHER, 20 * NS_PER_MS));
		checkpoint(b, 2);
		assert_int_equal(count(b, NA_TAP), 0);
		ctl(b, NEV_STAGED, 2, 0);
		assert_int_equal(count(b, NA_TAP), 2);
		assert_int_equal(stats(b).held, 0);
	}
}

/* RFC 5722: overlapping pieces make no datagram; they are not compared, but leave with STAGED. */
static void overlapping(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];

	(void)state;
	ON_EACH_ROAD(b) {
		uint32_t len = udp(whole, &b->on, true, words);

		bytes_in(b, NEV_GUEST, d, seg_piece(d, whole, len, 0, 32, 9));
		bytes_in(b, NEV_GUEST, d, seg_piece(d, whole, len, 24, 24, 9));
		/* As many bytes as the whole has, though there is a gap. */
		bytes_in(b, NEV_GUEST, d, seg_piece(d, whole, len, 56, 8 + (uint32_t)strlen(words) - 56, 9));
		svm_bytes(b, 2, whole, len);
		assert_int_equal(count(b, NA_TAP), 0);
		assert_true(until(b, CAUSE_OTHER, 20 * NS_PER_MS));
		checkpoint(b, 2);
		ctl(b, NEV_STAGED, 2, 0);
		assert_int_equal(count(b, NA_TAP), 3);
		assert_int_equal(stats(b).held, 0);
	}
}

/* The limit of reassembly: more incomplete datagrams than it allows are held like what is not compared, never lost. */
static void more_than_the_limit(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	struct net_cfg cfg;
	struct bed *b;
	int out = 0;

	(void)state;
	bed_cfg(&cfg);
	cfg.n_reasm = 2;
	b = bed_primary(&cfg);
	for (uint32_t id = 1; id <= 20; id++) {
		uint32_t len = udp(whole, &b->on, true, words);

		bytes_in(b, NEV_GUEST, d, seg_piece(d, whole, len, 0, 32, id));
		assert_int_equal(count(b, NA_TAP), 0);
		assert_true(stats(b).reasm <= 4);
		/* The SVM's side has its own limit, and cannot grow either. */
		svm_bytes(b, 2, d, seg_piece(d, whole, len, 0, 32, id));
		out += count(b, NA_TAP);
	}
	assert_int_equal(out, 0);
	assert_true(until(b, CAUSE_OTHER, 20 * NS_PER_MS));
	checkpoint(b, 2);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 20);
	assert_int_equal(stats(b).held, 0);
	assert_int_equal(stats(b).held_svm, 0);
	bed_end(b);
}

/* Limits: pieces that wait for the rest are held frames like any other, however small the guest cuts them. */
static void pieces_count_as_held(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	struct net_cfg cfg;
	struct bed *b;
	bool asked = false;
	int sent = 0;

	(void)state;
	bed_cfg(&cfg);
	cfg.max_held = cfg.max_held_flow = 20;
	b = bed_primary(&cfg);
	for (uint32_t id = 1; id <= 6; id++) {
		uint32_t len = udp(whole, &b->on, true, words);

		for (uint32_t off = 8; off < 88; off += 8, sent++) {
			bytes_in(b, NEV_GUEST, d, seg_piece(d, whole, len, off, 8, id));
			asked = asked || wanted(b, CAUSE_HELD);
			assert_int_equal(count(b, NA_TAP), 0);
		}
		if (sent == 40)
			assert_true(asked);
	}
	assert_true(stats(b).held <= 40);
	assert_int_equal(stats(b).held + stats(b).drop_held, sent);
	bed_end(b);
}

/* P1: pieces of two epochs of the SVM make no datagram; those of the PVM are not lost. */
static void across_the_barrier(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];

	(void)state;
	ON_EACH_ROAD(b) {
		uint32_t len = udp(whole, &b->on, true, words);
		int out = 0;

		svm_bytes(b, 2, d, piece(d, whole, len, &in_two, 0));
		full_checkpoint(b, 2);
		bytes_in(b, NEV_GUEST, whole, len);
		svm_bytes(b, 3, d, piece(d, whole, len, &in_two, 1));
		assert_int_equal(count(b, NA_TAP), 0);
		full_checkpoint(b, 3);
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_two, 0));
		checkpoint(b, 4);
		out += count(b, NA_TAP);
		ctl(b, NEV_STAGED, 4, 0);
		out += count(b, NA_TAP);
		ctl(b, NEV_LOADED, 4, 0);
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_two, 1));
		out += count(b, NA_TAP);
		if (!stats(b).held)
			assert_int_equal(out, 2);
		checkpoint(b, 5);
		out += count(b, NA_TAP);
		ctl(b, NEV_STAGED, 5, 0);
		out += count(b, NA_TAP);
		assert_int_equal(out, 2);
		assert_int_equal(stats(b).held, 0);
	}
}

/* P1: a datagram begun before the barrier and ended behind it: STAGED n lets out what is of n, and nothing of n + 1. */
static void split_by_the_barrier(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];

	(void)state;
	ON_EACH_ROAD(b) {
		uint32_t len = udp(whole, &b->on, true, words);
		int out;

		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_two, 0));
		checkpoint(b, 2);
		assert_int_equal(count(b, NA_TAP), 0);
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_two, 1));
		assert_int_equal(count(b, NA_TAP), 0);
		ctl(b, NEV_STAGED, 2, 0);
		out = count(b, NA_TAP);
		for (int i = 0; i < out; i++)
			assert_int_equal(nth(b, NA_TAP, i)->frag_off, 0);
		ctl(b, NEV_LOADED, 2, 0);
		checkpoint(b, 3);
		out += count(b, NA_TAP);
		ctl(b, NEV_STAGED, 3, 0);
		out += count(b, NA_TAP);
		assert_int_equal(out, 2);
	}
}

/* RFC 6946: an atomic fragment is a whole datagram. */
static void atomic(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];
	struct bed *b = bed_primary(NULL);
	uint32_t len, n;

	(void)state;
	b->on.v6 = true;
	len = udp(whole, &b->on, true, words);
	n = seg_piece(d, whole, len, 0, len - 54, 5);
	bytes_in(b, NEV_GUEST, d, n);
	assert_int_equal(count(b, NA_TAP), 0);
	svm_bytes(b, 2, whole, len);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_memory_equal(first(b, NA_TAP)->data, d, n);
	bed_end(b);
}

/* P7: a fragment that would end beyond 65535 bytes (the "ping of death"), or of no bytes: held, no harm. */
static void impossible_pieces(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];

	(void)state;
	ON_EACH_ROAD(b) {
		uint32_t len = udp(whole, &b->on, true, words), n, l3;

		n = seg_piece(d, whole, len, 0, 80, 5);
		l3 = seg_l3(d, n);
		if (b->on.v6) {
			d[l3 + 42] = 0xff;
			d[l3 + 43] = 0xf9;
		} else {
			d[l3 + 6] = 0x3f;
			d[l3 + 7] = 0xff;
			b->raw = true;
		}
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 0);
		svm_bytes(b, 2, d, n);
		/* As a whole frame it may be compared; as a datagram it does not exist. */
		if (!count(b, NA_TAP)) {
			checkpoint(b, 2);
			ctl(b, NEV_STAGED, 2, 0);
		}
		assert_int_equal(count(b, NA_TAP), 1);
		assert_memory_equal(first(b, NA_TAP)->data, d, n);
	}
}

/* The guest's TCP in fragments: compared as a stream, and let out as whole segments no larger than a frame. */
static void tcp_of_the_guest(void **state)
{
	static char big[2601];

	(void)state;
	for (uint32_t k = 0; k < 2600; k++)
		big[k] = (char)('a' + k % 23);
	ON_EACH_ROAD(b) {
		uint8_t whole[SEG_MAX], d[SEG_MAX];
		struct seg s = DATA(5000, 1000, big);
		const struct cuts c = { 1, { 1408 }, 3 };
		char got[2601] = { 0 };
		size_t n = 0;
		uint32_t len;

		open_flow(b, 2);
		s.from_guest = true;
		len = seg_make_on(whole, &b->on, &s);
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &c, 0));
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &c, 1));
		assert_int_equal(count(b, NA_TAP), 0);
		for (uint32_t off = 0; off < 2600; off += 650) {
			s = DATA(5000 + off, 1000, big + off);
			s.n_data = 650;
			svm(b, 2, s);
			for (int i = 0; i < count(b, NA_TAP); i++) {
				assert_int_equal(nth(b, NA_TAP, i)->kind, PK_TCP);
				assert_true(nth(b, NA_TAP, i)->frame_len <= 1522);
			}
			n += strlen(strcpy(got + n, text(b)));
		}
		assert_int_equal(n, 2600);
		assert_string_equal(got, big);
		assert_int_equal(stats(b).held, 0);
	}
}

/* P6: the SVM's TCP in fragments is put together where it can be translated, and goes to the primary whole. */
static void tcp_of_the_svm(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < 4; r++) {
		struct bed *b = bed_secondary(NULL);
		uint8_t whole[SEG_MAX], d[SEG_MAX];
		struct seg s = DATA(9000, 1000, words);
		uint32_t len;

		b->on = roads[r];
		svm_flow(b, 8999);
		s.from_guest = true;
		len = seg_make_on(whole, &b->on, &s);
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_three, 0));
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_three, 2));
		assert_null(msg(b, NM_OUTPUT));
		bytes_in(b, NEV_GUEST, d, piece(d, whole, len, &in_three, 1));
		assert_int_equal(msg_packet(b, NM_OUTPUT)->kind, PK_TCP);
		assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, 5000);
		assert_int_equal(msg_packet(b, NM_OUTPUT)->len, strlen(words));
		bed_end(b);
	}
}

/* Input fragments go to both copies as they are. */
static void input_is_passed_on(void **state)
{
	uint8_t whole[SEG_MAX], d[SEG_MAX];

	(void)state;
	ON_EACH_ROAD(b) {
		uint32_t len = udp(whole, &b->on, false, words);

		for (uint32_t i = 0; i < 3; i++) {
			uint32_t n = piece(d, whole, len, &in_three, i);

			bytes_in(b, NEV_TAP, d, n);
			assert_int_equal(count(b, NA_GUEST), 1);
			assert_memory_equal(first(b, NA_GUEST)->data, d, n);
			assert_memory_equal(msg_packet(b, NM_INPUT)->data, d, n);
		}
	}
}

/* P6: the first fragment of a client's segment holds the acknowledgement: translated, the whole's checksum is right. */
static void input_is_translated(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < 4; r++) {
		struct bed *b = bed_secondary(NULL);
		uint8_t whole[SEG_MAX], want[SEG_MAX], d[SEG_MAX], e[SEG_MAX];
		struct seg s = DATA(1000, 5000, words);

		b->on = roads[r];
		svm_flow(b, 8999);
		for (uint32_t i = 0; i < 3; i++) {
			uint32_t n, len;

			s.ack = 5000;
			len = seg_make_on(whole, &b->on, &s);
			s.ack = 9000;
			seg_make_on(want, &b->on, &s);
			n = piece(d, whole, len, &(struct cuts){ 2, { 24, 48 }, 4 }, i);
			assert_int_equal(piece(e, want, len, &(struct cuts){ 2, { 24, 48 }, 4 }, i), n);
			input_bytes(b, 2, 2 + i, d, n);
			assert_int_equal(count(b, NA_GUEST), 1);
			assert_int_equal(first(b, NA_GUEST)->frame_len, n);
			assert_memory_equal(first(b, NA_GUEST)->data, e, n);
		}
		bed_end(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(parsed), cmocka_unit_test(cut_differently), cmocka_unit_test(out_of_order),
		cmocka_unit_test(different), cmocka_unit_test(incomplete), cmocka_unit_test(overlapping),
		cmocka_unit_test(more_than_the_limit), cmocka_unit_test(pieces_count_as_held),
		cmocka_unit_test(across_the_barrier), cmocka_unit_test(split_by_the_barrier), cmocka_unit_test(atomic),
		cmocka_unit_test(impossible_pieces), cmocka_unit_test(tcp_of_the_guest),
		cmocka_unit_test(tcp_of_the_svm), cmocka_unit_test(input_is_passed_on),
		cmocka_unit_test(input_is_translated),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
