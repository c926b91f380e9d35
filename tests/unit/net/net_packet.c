/* SPDX-License-Identifier: BSD-2-Clause */
/* core/packet.c: parsing what is hostile, changing what is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/packet.h"
#include "seg.h"

static const struct seg full = {
	.from_guest = true, .seq = 0xfffffff0, .ack = 77, .flags = TCP_ACK | TCP_PSH | TCP_FIN, .win = 500,
	.data = "hello, world", .has_ts = true, .tsval = 1000, .tsecr = 2000, .n_sack = 2, .sack = { 90, 95, 100, 110 },
};

static void setters_keep_checksums(void **state)
{
	uint8_t d[2048];
	struct packet p;

	(void)state;
	for (int odd = 0; odd < 2; odd++) {
		struct seg s = full;

		s.odd = odd;
		packet_parse(d, seg_make(d, &s), &p);
		assert_int_equal(p.kind, PK_TCP);
		assert_true(packet_checksums_ok(&p));
		assert_int_equal(p.seq, 0xfffffff0);
		assert_int_equal(p.len, 12);
		assert_int_equal(packet_span(&p), 13);
		assert_int_equal(p.n_sack, 2);
		packet_set_seq(&p, 12345678);
		packet_set_ack(&p, 0x80000001);
		packet_set_win(&p, 65535);
		packet_set_ts(&p, 0xdeadbeef, 0x01020304);
		packet_set_sack(&p, 1, 0x11223344, 0x55667788);
		packet_set_flags(&p, TCP_ACK);
		assert_true(packet_checksums_ok(&p));
		packet_parse(d, p.frame_len, &p);
		assert_int_equal(p.seq, 12345678);
		assert_int_equal(p.ack, 0x80000001);
		assert_int_equal(p.win, 65535);
		assert_int_equal(p.tsval, 0xdeadbeef);
		assert_int_equal(p.tsecr, 0x01020304);
		assert_int_equal(p.sack[1].left, 0x11223344);
		assert_int_equal(p.flags, TCP_ACK);
	}
}

static void sack_blocks_can_go(void **state)
{
	uint8_t d[2048];
	struct packet p;

	(void)state;
	for (unsigned int mask = 0; mask < 4; mask++) {
		packet_parse(d, seg_make(d, &full), &p);
		packet_keep_sack(&p, mask);
		assert_true(packet_checksums_ok(&p));
		packet_parse(d, p.frame_len, &p);
		assert_int_equal(p.n_sack, (mask & 1) + (mask >> 1));
		if (mask == 2)
			assert_int_equal(p.sack[0].left, 100);
		assert_int_equal(p.len, 12);
	}
}

static void cutting(void **state)
{
	uint8_t d[2048];
	struct packet p;

	(void)state;
	packet_parse(d, seg_make(d, &full), &p);
	packet_cut_tail(&p, 5);
	packet_parse(d, p.frame_len, &p);
	assert_true(packet_checksums_ok(&p));
	assert_int_equal(p.len, 5);
	assert_int_equal(p.flags, TCP_ACK);
	assert_memory_equal(p.data + p.payload, "hello", 5);
	packet_parse(d, seg_make(d, &full), &p);
	packet_cut_front(&p, 7);
	packet_parse(d, p.frame_len, &p);
	assert_true(packet_checksums_ok(&p));
	assert_int_equal(p.seq, 0xfffffff7);
	assert_int_equal(p.flags, full.flags);
	assert_memory_equal(p.data + p.payload, "world", 5);
}

static void wrong_checksum_stays_wrong(void **state)
{
	uint8_t d[2048];
	struct packet p;

	(void)state;
	packet_parse(d, seg_make(d, &full), &p);
	d[p.payload] ^= 1;
	packet_set_seq(&p, 99);
	assert_false(packet_checksums_ok(&p));
}

static void made_ack(void **state)
{
	uint8_t d[2048], a[PACKET_ACK_MAX];
	struct packet p;
	uint32_t n;

	(void)state;
	packet_parse(d, seg_make(d, &full), &p);
	for (int ts = 0; ts < 2; ts++) {
		n = packet_make_ack(a, d, 34, 7000, 40000, 5, 6, 7, ts, 8, 9);
		packet_parse(a, n, &p);
		assert_int_equal(p.kind, PK_TCP);
		assert_true(packet_checksums_ok(&p));
		assert_int_equal(p.seq, 5);
		assert_int_equal(p.ack, 6);
		assert_int_equal(p.win, 7);
		assert_int_equal(p.has_ts, ts);
		assert_int_equal(packet_span(&p), 0);
	}
}

static void truncated_and_garbled(void **state)
{
	unsigned int seed = getenv("SEED") ? (unsigned int)atoi(getenv("SEED")) : (unsigned int)time(NULL);
	uint8_t d[2048], *exact;
	struct packet p;
	uint32_t n = seg_make(d, &full);

	(void)state;
	printf("seed %u (SEED=)\n", seed);
	srand(seed);
	for (uint32_t k = 0; k < n; k++) {
		exact = malloc(k ? k : 1);
		memcpy(exact, d, k);
		packet_parse(exact, k, &p);
		assert_int_equal(p.kind, PK_OTHER);
		free(exact);
	}
	for (int i = 0; i < 200000; i++) {
		uint32_t k = (uint32_t)rand() % n + 1;

		exact = malloc(k);
		memcpy(exact, d, k);
		for (int j = 0; j < 3; j++)
			exact[(uint32_t)rand() % k] = (uint8_t)rand();
		packet_parse(exact, k, &p);
		if (p.kind == PK_TCP) {
			packet_set_seq(&p, 1);
			packet_keep_sack(&p, 1);
			packet_set_ts(&p, 1, 2);
			if (p.len)
				packet_cut_front(&p, p.len / 2);
			packet_cut_tail(&p, p.len / 2);
			assert_true(p.frame_len <= k);
		}
		free(exact);
	}
}

static void fragments_and_vlan_are_other(void **state)
{
	uint8_t d[2048];
	struct packet p;
	uint32_t n = seg_make(d, &full);

	(void)state;
	d[20] = 0x20;
	packet_parse(d, n, &p);
	assert_int_not_equal(p.kind, PK_TCP);
	n = seg_make(d, &full);
	d[12] = 0x81;
	packet_parse(d, n, &p);
	assert_int_equal(p.kind, PK_OTHER);
	packet_parse(d, seg_arp(d, true), &p);
	assert_int_equal(p.kind, PK_LOCAL);
	packet_parse(d, seg_udp(d, true), &p);
	assert_int_equal(p.kind, PK_DGRAM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(setters_keep_checksums), cmocka_unit_test(sack_blocks_can_go), cmocka_unit_test(cutting),
		cmocka_unit_test(wrong_checksum_stays_wrong), cmocka_unit_test(made_ack),
		cmocka_unit_test(truncated_and_garbled), cmocka_unit_test(fragments_and_vlan_are_other),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
