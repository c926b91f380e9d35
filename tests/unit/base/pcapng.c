/* SPDX-License-Identifier: BSD-2-Clause */
/* base/pcapng: blocks byte by byte, no room, foreign bytes, and what tshark makes of a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/pcapng.h"

/* 2023-11-14 22:13:20.123456789 UTC */
#define AT 1700000000123456789ull	/* 0x17979cfe3d85cd15 */

static const uint8_t section[] = {
	0x0a, 0x0d, 0x0d, 0x0a, 44, 0, 0, 0,
	0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	4, 0, 5, 0, 'h', 'e', 'l', 'l', 'o', 0, 0, 0, 0, 0, 0, 0,
	44, 0, 0, 0,
};

static const uint8_t interface[] = {
	1, 0, 0, 0, 44, 0, 0, 0,
	1, 0, 0, 0, 96, 0, 0, 0,
	2, 0, 6, 0, 'n', '0', ' ', 'p', 'v', 'm', 0, 0,
	9, 0, 1, 0, 9, 0, 0, 0,
	0, 0, 0, 0,
	44, 0, 0, 0,
};

static const uint8_t packet[] = {
	6, 0, 0, 0, 52, 0, 0, 0,
	3, 0, 0, 0, 0xfe, 0x9c, 0x97, 0x17, 0x15, 0xcd, 0x85, 0x3d, 5, 0, 0, 0, 60, 0, 0, 0,
	0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0, 0, 0,
	2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0,
	52, 0, 0, 0,
};

static const uint8_t stats[] = {
	5, 0, 0, 0, 52, 0, 0, 0,
	3, 0, 0, 0, 0xfe, 0x9c, 0x97, 0x17, 0x15, 0xcd, 0x85, 0x3d,
	4, 0, 8, 0, 7, 0, 0, 0, 1, 0, 0, 0,
	5, 0, 8, 0, 2, 0, 0, 0, 0, 0, 0, 0,
	0, 0, 0, 0,
	52, 0, 0, 0,
};

static const struct pcapng_packet a_packet = {
	.iface = 3, .at = AT, .dir = PCAPNG_OUTBOUND, .data = (const uint8_t *)"\xaa\xbb\xcc\xdd\xee", .caplen = 5,
	.len = 60,
};

static size_t put(int which, uint8_t *out, size_t cap)
{
	switch (which) {
	case 0:
		return pcapng_put_section(out, cap, "hello");
	case 1:
		return pcapng_put_interface(out, cap, "n0 pvm", 96);
	case 2:
		return pcapng_put_packet(out, cap, &a_packet);
	default:
		return pcapng_put_stats(out, cap, 3, AT, 7 + (1ull << 32), 2);
	}
}

static const struct {
	const uint8_t *bytes;
	size_t len;
} want[] = {
	{ section, sizeof(section) }, { interface, sizeof(interface) }, { packet, sizeof(packet) },
	{ stats, sizeof(stats) },
};

static void bytes(void **state)
{
	uint8_t out[200];

	for (int i = 0; i < 4; i++) {
		assert_int_equal(put(i, out, sizeof(out)), want[i].len);
		assert_memory_equal(out, want[i].bytes, want[i].len);
	}
	assert_int_equal(pcapng_packet_size(5), sizeof(packet));
	for (uint32_t n = 0; n < 9; n++) {
		struct pcapng_packet p = { .data = section, .caplen = n, .len = n };

		assert_int_equal(pcapng_put_packet(out, sizeof(out), &p), pcapng_packet_size(n));
	}
}

static void no_room_is_not_overrun(void **state)
{
	uint8_t out[200];

	for (int i = 0; i < 4; i++) {
		for (size_t cap = 0; cap < want[i].len; cap++) {
			memset(out, 0x5a, sizeof(out));
			assert_int_equal(put(i, out, cap), 0);
			for (size_t k = cap; k < sizeof(out); k++)
				assert_int_equal(out[k], 0x5a);
		}
		assert_int_equal(put(i, out, want[i].len), want[i].len);
	}
}

static void long_names_are_cut(void **state)
{
	uint8_t out[400];
	char name[300];

	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	assert_int_equal(pcapng_put_interface(out, sizeof(out), name, 0), sizeof(interface) - 8 + PCAPNG_MAX_NAME);
	assert_int_equal(pcapng_put_section(out, sizeof(out), name), sizeof(section) - 8 + PCAPNG_MAX_NAME);
}

static void reads_back(void **state)
{
	struct pcapng_block b;
	uint8_t all[sizeof(section) + sizeof(interface) + sizeof(packet) + sizeof(stats)];
	size_t n = 0, at = 0;

	for (int i = 0; i < 4; i++)
		n += put(i, all + n, sizeof(all) - n);
	for (int i = 0; i < 4; i++) {
		/* Not before it is whole. */
		for (size_t k = 0; k < want[i].len; k++)
			assert_int_equal(pcapng_next(all + at, k, &b), 0);
		assert_int_equal(pcapng_next(all + at, n - at, &b), want[i].len);
		at += want[i].len;
		assert_int_equal(b.type, ((const uint32_t[]){ PCAPNG_SECTION, PCAPNG_INTERFACE, PCAPNG_PACKET,
							      PCAPNG_STATS })[i]);
		assert_int_equal(b.iface, i < 2 ? 0 : 3);
		assert_true(b.seen == (i < 3 ? 0 : 7 + (1ull << 32)));
		assert_int_equal(b.dropped, i < 3 ? 0 : 2);
	}
	assert_int_equal(pcapng_next(all + at, 0, &b), 0);
}

static void foreign_bytes_are_refused(void **state)
{
	uint8_t bad[sizeof(packet)];
	struct pcapng_block b;

	assert_int_equal(pcapng_next((const uint8_t *)"GET / HTTP/1.1\r\n", 16, &b), -EPROTO);
	memcpy(bad, packet, sizeof(bad));
	bad[sizeof(bad) - 4]++;
	assert_int_equal(pcapng_next(bad, sizeof(bad), &b), -EPROTO);
	memcpy(bad, packet, sizeof(bad));
	bad[4] = 8;
	assert_int_equal(pcapng_next(bad, sizeof(bad), &b), -EPROTO);
	memcpy(bad, section, sizeof(section));
	bad[8]++;
	assert_int_equal(pcapng_next(bad, sizeof(section), &b), -EPROTO);
}

/* Changed bytes: never beyond the end (the sanitizers' build sees that), and a size that fits. */
static void mutated(void **state)
{
	unsigned int seed = getenv("SEED") ? (unsigned int)strtoul(getenv("SEED"), NULL, 10) : (unsigned int)time(NULL);

	print_message("seed %u\n", seed);
	srand(seed);
	for (int i = 0; i < 100000; i++) {
		size_t w = (size_t)rand() % 4, n = want[w].len;
		uint8_t *p = malloc(n);
		struct pcapng_block b;
		long size;

		memcpy(p, want[w].bytes, n);
		for (int k = rand() % 4; k > 0; k--)
			p[(size_t)rand() % n] = (uint8_t)rand();
		n = rand() % 4 ? n : (size_t)rand() % n;
		size = pcapng_next(p, n, &b);
		assert_true(size == -EPROTO || (size >= 0 && (size_t)size <= n && size % 4 == 0));
		free(p);
	}
}

static void tshark_reads_it(void **state)
{
	static const uint8_t arp[60] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 2, 0x10, 8, 6,
		0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 2, 0x10, 192, 0, 2, 10, 0, 0, 0, 0, 0, 0, 192, 0, 2, 100,
	};
	char path[] = "/tmp/lockstep-test-XXXXXX", cmd[400], line[300] = "";
	struct pcapng_packet p = { .iface = 1, .at = AT, .dir = PCAPNG_INBOUND, .data = arp, .caplen = 42, .len = 60 };
	uint8_t out[1000];
	size_t n = 0;
	FILE *f;
	int fd;

	if (system("command -v tshark >/dev/null 2>&1")) {
		print_message("there is no tshark here\n");
		skip();
	}
	fd = mkstemp(path);
	assert_true(fd >= 0);
	n += pcapng_put_section(out + n, sizeof(out) - n, "lockstep");
	n += pcapng_put_interface(out + n, sizeof(out) - n, "n0 client", 0);
	n += pcapng_put_interface(out + n, sizeof(out) - n, "n0 released", 42);
	n += pcapng_put_packet(out + n, sizeof(out) - n, &p);
	n += pcapng_put_stats(out + n, sizeof(out) - n, 0, AT, 0, 0);
	n += pcapng_put_stats(out + n, sizeof(out) - n, 1, AT, 3, 2);
	assert_int_equal(write(fd, out, n), n);
	close(fd);
	snprintf(cmd, sizeof(cmd), "tshark -r %s -T fields -E separator=, -e frame.time_epoch "
		 "-e frame.interface_name -e frame.cap_len -e frame.len "
		 "-e frame.packet_flags_direction -e arp.src.proto_ipv4 2>/dev/null", path);
	f = popen(cmd, "r");
	assert_non_null(f);
	assert_non_null(fgets(line, sizeof(line), f));
	assert_string_equal(line, "1700000000.123456789,n0 released,42,60,0x00000001,192.0.2.10\n");
	assert_null(fgets(line, sizeof(line), f));
	assert_int_equal(pclose(f), 0);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes), cmocka_unit_test(no_room_is_not_overrun), cmocka_unit_test(long_names_are_cut),
		cmocka_unit_test(reads_back), cmocka_unit_test(foreign_bytes_are_refused), cmocka_unit_test(mutated),
		cmocka_unit_test(tshark_reads_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
