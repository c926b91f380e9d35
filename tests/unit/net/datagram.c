/* SPDX-License-Identifier: BSD-2-Clause */
/* Design 5: UDP and other IP protocols: datagram by datagram within a flow, in order. */
#include "bed.h"

static uint32_t udp(struct bed *b, uint8_t *d, bool from_guest, uint16_t port, const char *data)
{
	struct seg_ip ip = b->on;

	ip.from_guest = from_guest;
	return seg_udp(d, &ip, 53, port, data);
}

static void pvm_says(struct bed *b, const char *data)
{
	uint8_t d[SEG_MAX];

	bytes_in(b, NEV_GUEST, d, udp(b, d, true, 5353, data));
}

static void svm_says(struct bed *b, uint64_t epoch, const char *data)
{
	uint8_t d[SEG_MAX];

	svm_bytes(b, epoch, d, udp(b, d, true, 5353, data));
}

static void client_asks(struct bed *b)
{
	uint8_t d[SEG_MAX];

	bytes_in(b, NEV_TAP, d, udp(b, d, false, 5353, "?"));
	assert_int_equal(count(b, NA_GUEST), 1);
	assert_int_equal(msgs(b, NM_INPUT), 1);
}

/* The payloads of all UDP datagrams let out in the last step, one after another. */
static const char *said(struct bed *b)
{
	static char out[4096];
	size_t n = 0;

	for (int i = 0; i < count(b, NA_TAP); i++) {
		const struct packet *p = nth(b, NA_TAP, i);

		if (p->kind != PK_DGRAM || p->proto != PROTO_UDP)
			continue;
		assert_true(p->len >= 8);
		memcpy(out + n, p->data + p->l4 + 8, p->len - 8);
		n += p->len - 8;
	}
	out[n] = 0;
	return out;
}

/* P1: a datagram leaves as soon as its equal is there, whoever speaks first, as the PVM has made it. */
static void equal_ones_leave(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		uint8_t d[SEG_MAX];
		uint32_t n;

		b->on = bed_road[r];
		client_asks(b);
		n = udp(b, d, true, 5353, "one");
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 0);
		svm_says(b, 2, "one");
		assert_int_equal(count(b, NA_TAP), 1);
		assert_int_equal(first(b, NA_TAP)->frame_len, n);
		assert_memory_equal(first(b, NA_TAP)->data, d, n);
		svm_says(b, 2, "two");
		assert_int_equal(count(b, NA_TAP), 0);
		pvm_says(b, "two");
		assert_string_equal(said(b), "two");
		assert_int_equal(stats(b).datagrams, 2);
		assert_int_equal(stats(b).held, 0);
		assert_int_equal(stats(b).held_svm, 0);
		bed_end(b);
	}
}

/* Design 5: in order within a flow. The reference: QEMU's bursts leave in reversed order. */
static void in_order(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	client_asks(b);
	pvm_says(b, "1");
	pvm_says(b, "2");
	pvm_says(b, "3");
	svm_says(b, 2, "1");
	assert_string_equal(said(b), "1");
	svm_says(b, 2, "2");
	assert_string_equal(said(b), "2");
	svm_says(b, 2, "3");
	assert_string_equal(said(b), "3");
	svm_says(b, 2, "4");
	svm_says(b, 2, "5");
	pvm_says(b, "4");
	assert_string_equal(said(b), "4");
	pvm_says(b, "5");
	assert_string_equal(said(b), "5");
	/* All of an epoch that nobody confirmed: in order as well. */
	pvm_says(b, "6");
	pvm_says(b, "7");
	pvm_says(b, "8");
	checkpoint(b, 2);
	ctl(b, NEV_STAGED, 2, 0);
	assert_string_equal(said(b), "678");
	bed_end(b);
}

/* Design 5: "IP identification and checksums aside"; TTL, TOS and flow label likewise; a UDP without a checksum too. */
static void headers_do_not_count(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		uint8_t d[SEG_MAX];
		uint32_t n, l4;

		b->on = bed_road[r];
		client_asks(b);
		pvm_says(b, "same");
		b->on.ttl = 3;
		b->on.tos = 0xb8;
		b->on.label = 0xabcde;
		b->on.id = 777;
		n = udp(b, d, true, 5353, "same");
		/* Not the right one: some drivers leave it to the hardware. */
		l4 = n - 12;
		d[l4 + 6] ^= 0x55;
		svm_bytes(b, 2, d, n);
		assert_string_equal(said(b), "same");
		assert_false(wanted_any(b));
		bed_end(b);
	}
}

/* Equal to the last byte, not only as far as the shorter one goes. */
static void length_counts(void **state)
{
	(void)state;
	for (int swap = 0; swap < 2; swap++) {
		struct bed *b = bed_primary(NULL);

		client_asks(b);
		pvm_says(b, swap ? "abc" : "abcd");
		svm_says(b, 2, swap ? "abcd" : "abc");
		assert_int_equal(count(b, NA_TAP), 0);
		assert_true(wanted(b, CAUSE_MISMATCH));
		bed_end(b);
	}
}

/* P1: after a difference nothing more of the flow is compared until STAGED n, which lets out epochs <= n in order. */
static void different_ones_wait(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);

		b->on = bed_road[r];
		client_asks(b);
		pvm_says(b, "X");
		svm_says(b, 2, "Y");
		assert_true(wanted(b, CAUSE_MISMATCH));
		pvm_says(b, "b");
		svm_says(b, 2, "b");
		svm_says(b, 2, "X");
		assert_int_equal(count(b, NA_TAP), 0);
		checkpoint(b, 2);
		assert_int_equal(count(b, NA_TAP), 0);
		pvm_says(b, "c");
		ctl(b, NEV_STAGED, 2, 0);
		assert_string_equal(said(b), "Xb");
		ctl(b, NEV_LOADED, 2, 0);
		svm_says(b, 3, "c");
		assert_string_equal(said(b), "c");
		assert_int_equal(stats(b).mismatches, 1);
		bed_end(b);
	}
}

/* A difference is the flow's own: another flow goes on. QEMU puts all of a protocol into one queue. */
static void flows_are_independent(void **state)
{
	struct bed *b = bed_primary(NULL);
	uint8_t d[SEG_MAX];

	(void)state;
	client_asks(b);
	pvm_says(b, "X");
	svm_says(b, 2, "Y");
	bytes_in(b, NEV_GUEST, d, udp(b, d, true, 6000, "other"));
	assert_int_equal(count(b, NA_TAP), 0);
	svm_bytes(b, 2, d, udp(b, d, true, 6000, "other"));
	assert_string_equal(said(b), "other");
	bed_end(b);
}

/* P1: "what the SVM said in epoch n never releases anything of n + 1". */
static void old_epoch_never_matches(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	client_asks(b);
	svm_says(b, 2, "a");
	checkpoint(b, 2);
	pvm_says(b, "a");
	assert_int_equal(count(b, NA_TAP), 0);
	svm_says(b, 2, "a");
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_STAGED, 2, 0);
	assert_int_equal(count(b, NA_TAP), 0);
	ctl(b, NEV_LOADED, 2, 0);
	svm_says(b, 3, "a");
	assert_string_equal(said(b), "a");
	assert_false(wanted_any(b));
	bed_end(b);
}

/* Design 5: "an input datagram given twice makes the SVM answer twice: ... discard older ones". */
static void svm_answers_twice(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	client_asks(b);
	pvm_says(b, "a");
	svm_says(b, 2, "a");
	assert_string_equal(said(b), "a");
	pvm_says(b, "b");
	svm_says(b, 2, "a");
	assert_int_equal(count(b, NA_TAP), 0);
	assert_false(wanted_any(b));
	svm_says(b, 2, "b");
	assert_string_equal(said(b), "b");
	assert_int_equal(stats(b).svm_twice, 1);
	/* The same before the PVM has said the next. */
	svm_says(b, 2, "b");
	svm_says(b, 2, "c");
	pvm_says(b, "c");
	assert_string_equal(said(b), "c");
	assert_false(wanted_any(b));
	bed_end(b);
}

/* Two equal questions have two equal answers: both leave. */
static void both_answer_twice(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	client_asks(b);
	client_asks(b);
	pvm_says(b, "a");
	pvm_says(b, "a");
	svm_says(b, 2, "a");
	assert_string_equal(said(b), "a");
	svm_says(b, 2, "a");
	assert_string_equal(said(b), "a");
	assert_int_equal(stats(b).held, 0);
	bed_end(b);
}

/* Design 4: older than compare_timeout wants a checkpoint. */
static void timeout(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	client_asks(b);
	pvm_says(b, "slow");
	assert_false(until(b, CAUSE_TIMEOUT, 2900 * NS_PER_MS));
	assert_true(until(b, CAUSE_TIMEOUT, 1300 * NS_PER_MS));
	full_checkpoint(b, 2);
	assert_int_equal(stats(b).held, 0);
	bed_end(b);
}

/* What the guest says without having been asked in this flow may come from another port of the SVM: a short wait. */
static void timeout_unasked(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	pvm_says(b, "query");
	assert_true(until(b, CAUSE_TIMEOUT, 200 * NS_PER_MS));
	full_checkpoint(b, 2);
	assert_int_equal(stats(b).held, 0);
	bed_end(b);
}

/*
 * RFC 792, RFC 4443: echo is keyed by its identifier, so that one ping does not block another; both directions alike.
 */
static void echo_by_identifier(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_primary(NULL);
		struct seg_ip in = bed_road[r], out = bed_road[r];
		struct flow_key k1, k2, k3;
		uint8_t d[SEG_MAX];
		struct packet p;
		uint32_t n;

		out.from_guest = true;
		packet_parse(d, seg_echo(d, &in, false, 0x1234, 1, "q"), &p);
		packet_key(&p, 0, false, &k1);
		packet_parse(d, seg_echo(d, &out, true, 0x1234, 1, "q"), &p);
		packet_key(&p, 0, true, &k2);
		packet_parse(d, seg_echo(d, &out, false, 0x1234, 9, "q"), &p);
		packet_key(&p, 0, true, &k3);
		assert_int_equal(k1.guest_port, 0x1234);
		assert_memory_equal(&k1, &k2, sizeof(k1));
		assert_memory_equal(&k1, &k3, sizeof(k1));

		bytes_in(b, NEV_TAP, d, seg_echo(d, &in, false, 1, 1, "first"));
		bytes_in(b, NEV_TAP, d, seg_echo(d, &in, false, 2, 1, "second"));
		bytes_in(b, NEV_GUEST, d, seg_echo(d, &out, true, 1, 1, "first"));
		n = seg_echo(d, &out, true, 2, 1, "second");
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 0);
		svm_bytes(b, 2, d, n);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_memory_equal(first(b, NA_TAP)->data, d, n);
		/* Another sequence number is another answer. */
		svm_bytes(b, 2, d, seg_echo(d, &out, true, 1, 2, "first"));
		assert_int_equal(count(b, NA_TAP), 0);
		assert_true(wanted(b, CAUSE_MISMATCH));
		bed_end(b);
	}
}

static uint32_t proto(uint8_t *d, const struct seg_ip *on, uint8_t nr, const char *l4)
{
	struct seg_ip ip = *on;

	ip.from_guest = true;
	ip.proto = nr;
	return seg_ip(d, &ip, (const uint8_t *)l4, (uint32_t)strlen(l4), -1);
}

/* RFC 9260, 4340, 3828, and protocols without ports (GRE, OSPF, none at all): all compared, each within its flow. */
static void other_protocols(void **state)
{
	static const uint8_t nr[] = { PROTO_SCTP, PROTO_DCCP, PROTO_UDPLITE, 47, 89, 103, 253 };

	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		for (unsigned int i = 0; i < sizeof(nr); i++) {
			struct bed *b = bed_primary(NULL);
			const struct seg_ip *on = &bed_road[r];
			bool ports = nr[i] == PROTO_SCTP || nr[i] == PROTO_DCCP || nr[i] == PROTO_UDPLITE;
			uint8_t d[SEG_MAX];
			struct flow_key k;
			struct packet p;
			uint32_t n;

			/* Ports are the first four bytes: "ab" and "cd". */
			n = proto(d, on, nr[i], "abcd-one-and-some-more");
			packet_parse(d, n, &p);
			assert_int_equal(p.kind, PK_DGRAM);
			assert_int_equal(p.proto, nr[i]);
			packet_key(&p, 0, true, &k);
			assert_int_equal(k.guest_port, ports ? 0x6162 : 0);
			assert_int_equal(k.other_port, ports ? 0x6364 : 0);
			bytes_in(b, NEV_GUEST, d, n);
			assert_int_equal(count(b, NA_TAP), 0);
			svm_bytes(b, 2, d, n);
			assert_int_equal(count(b, NA_TAP), 1);
			assert_memory_equal(first(b, NA_TAP)->data, d, n);
			bytes_in(b, NEV_GUEST, d, proto(d, on, nr[i], "abcd-two-and-some-more"));
			svm_bytes(b, 2, d, proto(d, on, nr[i], "abcd-TWO-and-some-more"));
			assert_true(wanted(b, CAUSE_MISMATCH));
			assert_int_equal(count(b, NA_TAP), 0);
			full_checkpoint(b, 2);
			assert_int_equal(stats(b).held, 0);
			bed_end(b);
		}
	}
}

/* Design 5: multicast and broadcast of the guest say something of the application: compared like the rest. */
static void multicast_and_broadcast(void **state)
{
	static const uint8_t mdns[4] = { 224, 0, 0, 251 }, all[4] = { 255, 255, 255, 255 };
	static const uint8_t mdns6[16] = { 0xff, 2, [15] = 0xfb };
	static const uint8_t mac[3][6] = { { 1, 0, 0x5e, 0, 0, 0xfb }, { 255, 255, 255, 255, 255, 255 },
					   { 0x33, 0x33, 0, 0, 0, 0xfb } };
	static const uint8_t *const to[3] = { mdns, all, mdns6 };

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct bed *b = bed_primary(NULL);
		struct seg_ip ip = { .from_guest = true, .v6 = i == 2, .dst = to[i], .dst_mac = mac[i] };
		uint8_t d[SEG_MAX];
		uint32_t n;

		n = seg_udp(d, &ip, 5353, 5353, "who");
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 0);
		svm_bytes(b, 2, d, n);
		assert_int_equal(count(b, NA_TAP), 1);
		/* One that comes in goes to both. */
		ip.from_guest = false;
		n = seg_udp(d, &ip, 5353, 5353, "me");
		bytes_in(b, NEV_TAP, d, n);
		assert_int_equal(count(b, NA_GUEST), 1);
		assert_memory_equal(first(b, NA_GUEST)->data, d, n);
		assert_int_equal(msgs(b, NM_INPUT), 1);
		bed_end(b);
	}
}

/* Design 5: ARP, ND, IGMP, MLD: "let the PVM's out, drop the SVM's"; they start no checkpoint. */
static void the_links_own_talk(void **state)
{
	static const uint8_t types[] = { 130, 131, 132, 133, 135, 136, 143 }, rest[24];
	struct bed *b = bed_primary(NULL), *s = bed_secondary(NULL);
	uint8_t d[SEG_MAX];

	(void)state;
	for (unsigned int i = 0; i < sizeof(types) + 3; i++) {
		struct seg_ip ip = { .from_guest = true, .v6 = i < sizeof(types), .n_ext = 1, .ext = { 0 },
			.proto = 2 };
		uint32_t n;

		if (i < sizeof(types)) {
			/* Never forwarded, as the hop limit says. */
			ip.ttl = types[i] >= 133 && types[i] <= 137 ? 255 : 1;
			n = seg_icmp(d, &ip, types[i], 0, rest, 20);
		} else if (i == sizeof(types)) {
			n = seg_arp(d, &ip);
		} else if (i == sizeof(types) + 1) {
			n = seg_ip(d, &ip, (const uint8_t *)"\x16\0\0\0\xe0\0\0\xfb", 8, 2);
		} else {
			n = seg_ether(d, &ip, 0x8035, "rarp");
		}
		bytes_in(b, NEV_GUEST, d, n);
		assert_int_equal(count(b, NA_TAP), 1);
		assert_memory_equal(first(b, NA_TAP)->data, d, n);
		svm_bytes(b, 2, d, n);
		assert_int_equal(count(b, NA_TAP), 0);
		bytes_in(s, NEV_GUEST, d, n);
		assert_int_equal(count(s, NA_TAP), 0);
		assert_null(msg(s, NM_OUTPUT));
	}
	for (int i = 0; i < 5000; i++) {
		tick(b, NS_PER_MS);
		assert_false(wanted_any(b));
	}
	bed_end(b);
	bed_end(s);
}

/* Not IP: whole frames, within a flow of its MACs and Ethernet type. */
static void other_ethernet_types(void **state)
{
	struct bed *b = bed_primary(NULL);
	const struct seg_ip ip = { .from_guest = true };
	uint8_t d[SEG_MAX];

	(void)state;
	bytes_in(b, NEV_GUEST, d, seg_ether(d, &ip, 0x88cc, "lldp"));
	assert_int_equal(count(b, NA_TAP), 0);
	/* Another type: another flow. */
	bytes_in(b, NEV_GUEST, d, seg_ether(d, &ip, 0x88b5, "mine"));
	svm_bytes(b, 2, d, seg_ether(d, &ip, 0x88b5, "mine"));
	assert_int_equal(count(b, NA_TAP), 1);
	svm_bytes(b, 2, d, seg_ether(d, &ip, 0x88cc, "LLDP"));
	assert_int_equal(count(b, NA_TAP), 0);
	assert_true(wanted(b, CAUSE_MISMATCH));
	bed_end(b);
}

/* RFC 4302, 4303: TCP inside AH or ESP is an opaque datagram, compared by its bytes. */
static void opaque_tcp(void **state)
{
	(void)state;
	for (uint8_t ext = 50; ext <= 51; ext++) {
		struct bed *b = bed_primary(NULL);

		b->on = (struct seg_ip){ .v6 = true, .n_ext = 1, .ext = { ext } };
		b->raw = true;
		seg_in(b, NEV_GUEST, DATA(5000, 1000, "secret"));
		assert_int_equal(count(b, NA_TAP), 0);
		assert_null(msg(b, NM_FLOW));
		svm(b, 2, DATA(5000, 1000, "secret"));
		assert_int_equal(count(b, NA_TAP), 1);
		bed_end(b);
	}
}

/* The secondary sends its datagrams to the primary with their epoch, and lets none out. */
static void svm_side(void **state)
{
	(void)state;
	for (unsigned int r = 0; r < BED_ROADS; r++) {
		struct bed *b = bed_secondary(NULL);

		b->on = bed_road[r];
		pvm_says(b, "from the SVM");
		assert_int_equal(count(b, NA_TAP), 0);
		assert_int_equal(msgs(b, NM_OUTPUT), 1);
		assert_int_equal(msg(b, NM_OUTPUT)->msg.epoch, 2);
		bed_end(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_ones_leave), cmocka_unit_test(in_order), cmocka_unit_test(headers_do_not_count),
		cmocka_unit_test(length_counts), cmocka_unit_test(different_ones_wait),
		cmocka_unit_test(flows_are_independent), cmocka_unit_test(old_epoch_never_matches),
		cmocka_unit_test(svm_answers_twice), cmocka_unit_test(both_answer_twice), cmocka_unit_test(timeout),
		cmocka_unit_test(timeout_unasked), cmocka_unit_test(echo_by_identifier),
		cmocka_unit_test(other_protocols), cmocka_unit_test(multicast_and_broadcast),
		cmocka_unit_test(the_links_own_talk), cmocka_unit_test(other_ethernet_types),
		cmocka_unit_test(opaque_tcp), cmocka_unit_test(svm_side),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
