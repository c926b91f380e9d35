/* SPDX-License-Identifier: BSD-2-Clause */
/* The secondary: translation (P6), input log (P2), and the moment when it becomes the one. */
#include "bed.h"

#define ISN 8999u	/* the SVM's, where the client knows b->g0 - 1 */

/*
 * P6: "each node has one table, guest <-> client numbers": numbers, acknowledgements, SACK, timestamps, both ways, over
 * the wrap.
 */
static void translation_both_ways(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		for (int wrap = 0; wrap < 2; wrap++) {
			struct bed *b = bed_secondary(NULL);
			struct seg s;
			uint32_t g;

			b->on = bed_road[r];
			b->ts = true;
			b->g0 = g = wrap ? 0xfffffffe : 5000;
			svm_flow(b, ISN);
			s = with_ts(ACK(1000, g), 8, 100);
			s.n_sack = 1;
			s.sack[0] = g + 10;
			s.sack[1] = g + 20;
			input(b, 2, 2, s);
			assert_int_equal(first(b, NA_GUEST)->seq, 1000);
			assert_int_equal(first(b, NA_GUEST)->ack, 9000);
			assert_int_equal(first(b, NA_GUEST)->tsval, 8);
			assert_int_equal(first(b, NA_GUEST)->tsecr, 300);
			assert_int_equal(first(b, NA_GUEST)->sack[0].left, 9010);
			assert_int_equal(first(b, NA_GUEST)->sack[0].right, 9020);
			seg_in(b, NEV_GUEST, with_ts(DATA(9000, 1000, "hello"), 310, 8));
			assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, g);
			assert_int_equal(msg_packet(b, NM_OUTPUT)->ack, 1000);
			assert_int_equal(msg_packet(b, NM_OUTPUT)->tsval, 110);
			assert_int_equal(msg_packet(b, NM_OUTPUT)->tsecr, 8);
			/* FIN and RST as well. The reference: QEMU's rewriter has no RST path. */
			seg_in(b, NEV_GUEST, with_ts(FIN(9005, 1000), 311, 8));
			assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, g + 5);
			seg_in(b, NEV_GUEST, (struct seg){ .seq = 9006, .flags = TCP_RST });
			assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, g + 6);
			bed_end(b);
		}
	}
}

/* P6: a connection that the guest opens: the reference: QEMU's rewriter never gives it an offset. */
static void opened_by_the_guest(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_secondary(NULL);

		b->on = bed_road[r];
		seg_in(b, NEV_GUEST, (struct seg){ .seq = ISN, .flags = TCP_SYN, .win = 1000, .ws = 7 });
		assert_null(msg(b, NM_OUTPUT));
		told(b, (struct net_msg){ .type = NM_FLOW, .epoch = 2, .key = key_of(b), .isn = 4999 });
		assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, 4999);
		assert_int_equal(msg_packet(b, NM_OUTPUT)->flags, TCP_SYN);
		input(b, 2, 1, (struct seg){ .seq = 999, .ack = 5000, .flags = TCP_SYN | TCP_ACK, .win = 1000,
			.ws = 7 });
		assert_int_equal(first(b, NA_GUEST)->ack, 9000);
		seg_in(b, NEV_GUEST, DATA(9000, 1000, "hello"));
		assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, 5000);
		bed_end(b);
	}
}

/* RFC 7413: the SVM's SYN-ACK and the data right behind it come before FLOW: they wait together, and go in order. */
static void fast_open_waits_for_flow(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_secondary(NULL);
		struct seg syn = client_syn(b), ack = guest_synack(b);
		uint32_t at[3], n = 0;

		b->on = bed_road[r];
		syn.data = "early";
		input(b, 2, 1, syn);
		ack.seq = ISN;
		ack.ack = 1005;
		seg_in(b, NEV_GUEST, ack);
		seg_in(b, NEV_GUEST, DATA(9000, 1005, "abc"));
		assert_null(msg(b, NM_OUTPUT));
		seg_in(b, NEV_GUEST, DATA(9003, 1005, "def"));
		assert_null(msg(b, NM_OUTPUT));
		told(b, (struct net_msg){ .type = NM_FLOW, .epoch = 2, .key = key_of(b), .isn = 4999 });
		for (size_t i = 0; i < b->n; i++)
			if (b->out[i].type == NA_MSG && b->out[i].msg.type == NM_OUTPUT && n < 3)
				at[n++] = b->p[i].seq;
		assert_int_equal(n, 3);
		assert_int_equal(at[0], 4999);
		assert_int_equal(at[1], 5000);
		assert_int_equal(at[2], 5003);
		bed_end(b);
	}
}

/* P6: FLOW before the SVM's SYN-ACK; a SYN-ACK sent once more is translated alike. */
static void flow_first(void **state)
{
	struct bed *b = bed_secondary(NULL);
	struct seg ack = guest_synack(b);

	(void)state;
	input(b, 2, 1, client_syn(b));
	told(b, (struct net_msg){ .type = NM_FLOW, .epoch = 2, .key = key_of(b), .isn = 4999 });
	assert_non_null(msg(b, NM_FLOW_OK));
	ack.seq = ISN;
	for (int i = 0; i < 2; i++) {
		seg_in(b, NEV_GUEST, ack);
		assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, 4999);
	}
	bed_end(b);
}

/* Frames of the last step that left as TCP of b's flow. */
static int tcp_out(struct bed *b, struct packet **one)
{
	int k = 0;

	for (int i = 0; i < count(b, NA_TAP); i++) {
		if (nth(b, NA_TAP, i)->kind != PK_TCP)
			continue;
		*one = nth(b, NA_TAP, i);
		k++;
	}
	return k;
}

static void released(struct bed *b, uint32_t seq, uint32_t ack, uint32_t tsval)
{
	told(b, (struct net_msg){ .type = NM_RELEASED, .epoch = 2, .key = key_of(b), .isn = b->g0 - 1, .seq32 = seq,
		.ack32 = ack, .room = 1, .seq_off = ack + 1000, .ts_off = 7 | RELEASED_WS_KNOWN, .has_ts = b->ts,
		.tsval = tsval });
}

/* Design 5: what the SVM had produced beyond RELEASED leaves at once, so no client waits for a retransmission timer. */
static void resent(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_secondary(NULL);
		struct packet *p = NULL;

		b->on = bed_road[r];
		b->ts = true;
		svm_flow(b, ISN);
		input(b, 2, 2, with_ts(DATA(1000, 5000, "ask"), 8, 100));
		seg_in(b, NEV_GUEST, with_ts(DATA(9000, 1003, "was let out"), 310, 8));
		seg_in(b, NEV_GUEST, with_ts(DATA(9011, 1003, "was not"), 311, 8));
		released(b, 5011, 1003, 100000);
		b->now += 50 * NS_PER_MS;
		ctl(b, NEV_PROMOTE, 0, 0);
		assert_int_equal(tcp_out(b, &p), 1);
		assert_int_equal(p->seq, 5011);
		assert_int_equal(p->len, 7);
		assert_memory_equal(p->data + p->payload, "was not", 7);
		/* P6: "timestamps never step back". */
		assert_true(seq_leq(100050, p->tsval));
		assert_int_equal(stats(b).resent, 1);
		/* And nothing twice by itself. */
		tick(b, NS_PER_S);
		assert_int_equal(tcp_out(b, &p), 0);
		bed_end(b);
	}
}

/* P6: the shift is made once and stays: later timestamps advance by the guest's clock, and echoes are turned back. */
static void timestamps_after_promotion(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		/* What the client has seen lies ahead; behind; and ahead over the wrap. */
		for (int k = 0; k < 3; k++) {
			static const uint32_t seen[3] = { 100000, 90, 0x7fffff00 };
			struct bed *b = bed_secondary(NULL);
			struct packet *p = NULL;
			uint32_t t0;

			b->on = bed_road[r];
			b->ts = true;
			svm_flow(b, ISN);
			input(b, 2, 2, with_ts(ACK(1000, 5000), 8, 100));
			seg_in(b, NEV_GUEST, with_ts(ACK(9000, 1000), 305, 8));
			released(b, 5000, 1000, seen[k]);
			b->now += 20 * NS_PER_MS;
			ctl(b, NEV_PROMOTE, 0, 0);
			seg_in(b, NEV_GUEST, with_ts(DATA(9000, 1000, "a"), 325, 8));
			assert_int_equal(tcp_out(b, &p), 1);
			t0 = p->tsval;
			assert_true(seq_leq(seen[k], t0));
			assert_true(seq_leq(105, t0));
			b->now += 7 * NS_PER_MS;
			seg_in(b, NEV_GUEST, with_ts(DATA(9001, 1000, "b"), 332, 8));
			assert_int_equal(tcp_out(b, &p), 1);
			assert_int_equal(p->tsval, t0 + 7);
			seg_in(b, NEV_TAP, with_ts(ACK(1000, 5002), 9, t0 + 7));
			assert_int_equal(first(b, NA_GUEST)->tsecr, 332);
			assert_int_equal(first(b, NA_GUEST)->ack, 9002);
			bed_end(b);
		}
	}
}

/* P2: "at promotion it gets: for TCP every logged segment that it has not acknowledged" - in the SVM's numbers. */
static void undelivered_input_is_replayed(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_secondary(NULL);

		b->on = bed_road[r];
		svm_flow(b, ISN);
		input(b, 2, 2, DATA(1000, 5000, "0123456789"));
		input(b, 2, 3, DATA(1010, 5000, "abcde"));
		seg_in(b, NEV_GUEST, ACK(9000, 1010));
		released(b, 5000, 1010, 0);
		ctl(b, NEV_PROMOTE, 0, 0);
		assert_int_equal(count(b, NA_GUEST), 1);
		assert_int_equal(first(b, NA_GUEST)->seq, 1010);
		assert_int_equal(first(b, NA_GUEST)->ack, 9000);
		assert_int_equal(first(b, NA_GUEST)->len, 5);
		bed_end(b);
	}
}

/* P2: "for others what was not written to its socket": given twice, a UDP question would be answered twice. */
static void datagrams_are_not_replayed(void **state)
{
	struct bed *b = bed_secondary(NULL);
	uint8_t d[SEG_MAX];

	(void)state;
	input_bytes(b, 2, 1, d, seg_udp(d, &b->on, 53, 5353, "given"));
	assert_int_equal(count(b, NA_GUEST), 1);
	ctl(b, NEV_CLOSE, 2, 0);
	tick(b, 10 * NS_PER_MS);
	input_bytes(b, 2, 2, d, seg_udp(d, &b->on, 53, 5353, "waits at the gate"));
	assert_int_equal(count(b, NA_GUEST), 0);
	ctl(b, NEV_PROMOTE, 0, 0);
	assert_int_equal(count(b, NA_GUEST), 0);
	ctl(b, NEV_OPEN, 2, 0);
	assert_int_equal(count(b, NA_GUEST), 1);
	assert_int_equal(first(b, NA_GUEST)->len, 8 + 17);
	bed_end(b);
}

/* Design 5: "re-sending is for TCP (a UDP or ICMP frame is not sent twice)". */
static void datagrams_are_not_resent(void **state)
{
	(void)state;
	for (unsigned int v6 = 0; v6 < 2; v6++) {
		struct bed *b = bed_secondary(NULL);
		struct seg_ip ip = { .v6 = v6, .from_guest = true };
		uint8_t d[SEG_MAX];

		bytes_in(b, NEV_GUEST, d, seg_udp(d, &ip, 53, 5353, "said"));
		bytes_in(b, NEV_GUEST, d, seg_echo(d, &ip, true, 1, 1, "said"));
		ctl(b, NEV_PROMOTE, 0, 0);
		for (int i = 0; i < count(b, NA_TAP); i++)
			assert_int_equal(nth(b, NA_TAP, i)->kind, PK_LOCAL);
		/* What it says from now on leaves. */
		bytes_in(b, NEV_GUEST, d, seg_udp(d, &ip, 53, 5353, "new"));
		assert_int_equal(count(b, NA_TAP), 1);
		bed_end(b);
	}
}

/*
 * Design 5: at failover: gratuitous ARP, unsolicited neighbour advertisement, RARP, where the guest's addresses live.
 */
static void announced(void **state)
{
	(void)state;
	for (unsigned int t = 0; t < 2; t++) {
		struct bed *b = bed_secondary(NULL);
		int arp = 0, na = 0, rarp = 0, ticks = 0;

		for (unsigned int v6 = 0; v6 < 2; v6++) {
			b->on = (struct seg_ip){ .v6 = v6, .n_tags = (uint8_t)t, .tag = { 7 } };
			input(b, 2, 1 + v6, client_syn(b));
			seg_in(b, NEV_GUEST, ACK(5000, 1000));
		}
		ctl(b, NEV_PROMOTE, 0, 0);
		do {
			for (size_t i = 0; i < b->n; i++) {
				uint8_t *l3 = b->bytes[i] + 14 + 4 * t;

				if (b->out[i].type != NA_TAP || b->p[i].kind != PK_LOCAL)
					continue;
				if (b->p[i].ether_type == 0x8035) {
					rarp++;
					continue;
				}
				assert_int_equal(b->p[i].n_tags, t);
				if (b->p[i].ether_type == 0x0806) {
					assert_memory_equal(l3 + 14, seg_guest_ip, 4);
					arp++;
				} else if (l3[40] == 136) {
					assert_memory_equal(l3 + 48, seg_guest_ip6, 16);
					na++;
				}
			}
			tick(b, 100 * NS_PER_MS);
		} while (ticks++ < 30);
		/* A few times over a second, since nobody confirms; and then no more. */
		assert_true(rarp >= 2 && arp >= 2 && na >= 2);
		assert_true(rarp <= 20 && arp <= 10 && na <= 10);
		bed_end(b);
	}
}

/*
 * RFC 4862 5.4: an address that is only asked for (from ::), and no address at all (from 0.0.0.0), are not announced.
 */
static void no_address_is_not_announced(void **state)
{
	static const uint8_t none[16], rest[20] = { [4] = 0x20, 1, 0xd, 0xb8, [19] = 0x77 };
	struct bed *b = bed_secondary(NULL);
	struct seg_ip ip = { .from_guest = true, .v6 = true, .src = none };
	uint8_t d[SEG_MAX];

	(void)state;
	bytes_in(b, NEV_GUEST, d, seg_icmp(d, &ip, 135, 0, rest, 20));
	bytes_in(b, NEV_GUEST, d, seg_icmp(d, &ip, 143, 0, rest, 20));
	ip.v6 = false;
	bytes_in(b, NEV_GUEST, d, seg_udp(d, &ip, 68, 67, "dhcp"));
	ctl(b, NEV_PROMOTE, 0, 0);
	for (int i = 0; i < 30; i++) {
		for (int k = 0; k < count(b, NA_TAP); k++)
			assert_int_equal(nth(b, NA_TAP, k)->ether_type, 0x8035);
		tick(b, 100 * NS_PER_MS);
	}
	bed_end(b);
}

/* RFC 792, RFC 4443: an error that quotes the guest's segment quotes client numbers; the SVM knows its own. */
static void icmp_errors_are_translated(void **state)
{
	static const struct seg_ip roads[] = { { 0 }, { .v6 = true }, { .n_tags = 1, .tag = { 7 } } };

	(void)state;
	for (unsigned int r = 0; r < 3; r++) {
		for (int cut = 0; cut < 2; cut++) {
			struct bed *b = bed_secondary(NULL);
			struct seg s = DATA(5000, 1000, "too big for the way");
			uint8_t d[SEG_MAX], rest[SEG_MAX] = { 0 };
			uint32_t len, l3, n, at;
			struct seg_ip quoted;

			b->on = roads[r];
			svm_flow(b, ISN);
			quoted = b->on;
			quoted.n_tags = 0;
			s.from_guest = true;
			len = seg_make_on(d, &quoted, &s);
			l3 = seg_l3(d, len);
			/* RFC 792: the IP header and eight bytes at least. */
			n = cut ? (b->on.v6 ? 40 : 20) + 8 : len - l3;
			rest[3] = 100;
			memcpy(rest + 4, d + l3, n);
			len = b->on.v6 ? seg_icmp(d, &b->on, 2, 0, rest, 4 + n) : seg_icmp(d, &b->on, 3, 4,
				rest, 4 + n);
			input_bytes(b, 2, 2, d, len);
			assert_int_equal(count(b, NA_GUEST), 1);
			assert_int_equal(first(b, NA_GUEST)->frame_len, len);
			at = len - n + (b->on.v6 ? 40 : 20);
			assert_int_equal(seg_get(first(b, NA_GUEST)->data + at + 4, 4), 9000);
			/* All else is as it was, but for checksums (step() has looked at the outer one). */
			assert_memory_equal(first(b, NA_GUEST)->data + at, d + at, 4);
			assert_int_equal(stats(b).icmp_translated, 1);
			bed_end(b);
		}
	}
}

/* An error about something else, and one whose quote is cut too short, go in as they are (P7). */
static void icmp_errors_of_others(void **state)
{
	static const struct seg_ip plain;
	struct bed *b = bed_secondary(NULL);
	uint8_t d[SEG_MAX], e[SEG_MAX], rest[SEG_MAX] = { 0 };
	const struct seg_ip out = { .from_guest = true };
	uint32_t n, len;

	(void)state;
	svm_flow(b, ISN);
	n = seg_udp(e, &out, 53, 5353, "x");
	memcpy(rest + 4, e + 14, n - 14);
	len = seg_icmp(d, &plain, 3, 3, rest, 4 + n - 14);
	input_bytes(b, 2, 2, d, len);
	assert_memory_equal(first(b, NA_GUEST)->data, d, len);
	for (n = 0; n < 28; n++) {
		struct seg s = DATA(5000, 1000, "x");

		s.from_guest = true;
		seg_make(e, &s);
		memcpy(rest + 4, e + 14, n);
		len = seg_icmp(d, &plain, 3, 4, rest, 4 + n);
		input_bytes(b, 2, 3 + n, d, len);
		assert_int_equal(count(b, NA_GUEST), 1);
		if (n < 20 + 8)
			assert_memory_equal(first(b, NA_GUEST)->data, d, len);
	}
	assert_int_equal(stats(b).icmp_translated, 0);
	bed_end(b);
}

/* P6: "through later checkpoints": the PVM's table comes before the barrier and is the new SVM's with LOADED. */
static void table_with_the_checkpoint(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_secondary(NULL);

		b->on = bed_road[r];
		svm_flow(b, ISN);
		told(b, (struct net_msg){ .type = NM_TABLE, .epoch = 2, .key = key_of(b), .seq_off = 100, .ts_off = 10,
			.isn = 4999 });
		ctl(b, NEV_CLOSE, 2, 0);
		tick(b, 10 * NS_PER_MS);
		ctl(b, NEV_STOPPED, 2, 0);
		ctl(b, NEV_DRAINED, 0, 0);
		told(b, (struct net_msg){ .type = NM_BARRIER, .epoch = 2, .seq = 1 });
		ctl(b, NEV_LOADED, 2, 0);
		ctl(b, NEV_OPEN, 2, 0);
		input(b, 3, 2, with_ts(ACK(1000, 5000), 8, 100));
		assert_int_equal(first(b, NA_GUEST)->ack, 4900);
		assert_int_equal(first(b, NA_GUEST)->tsecr, 90);
		seg_in(b, NEV_GUEST, DATA(4900, 1000, "x"));
		assert_int_equal(msg_packet(b, NM_OUTPUT)->seq, 5000);
		assert_int_equal(msg(b, NM_OUTPUT)->msg.epoch, 3);
		bed_end(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(translation_both_ways), cmocka_unit_test(opened_by_the_guest),
		cmocka_unit_test(fast_open_waits_for_flow), cmocka_unit_test(flow_first), cmocka_unit_test(resent),
		cmocka_unit_test(timestamps_after_promotion), cmocka_unit_test(undelivered_input_is_replayed),
		cmocka_unit_test(datagrams_are_not_replayed), cmocka_unit_test(datagrams_are_not_resent),
		cmocka_unit_test(announced), cmocka_unit_test(no_address_is_not_announced),
		cmocka_unit_test(icmp_errors_are_translated), cmocka_unit_test(icmp_errors_of_others),
		cmocka_unit_test(table_with_the_checkpoint),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
