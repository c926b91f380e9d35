/* SPDX-License-Identifier: BSD-2-Clause */
/* proxy/netsock: the framing of QEMU's stream netdev, cut anywhere, too large, and with nobody reading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "proxy/netsock.h"

static void pair(int p[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, p), 0);
	fcntl(p[0], F_SETFL, O_NONBLOCK);
	fcntl(p[1], F_SETFL, O_NONBLOCK);
}

static size_t framed(uint8_t *out, const char *text)
{
	size_t n = strlen(text);

	out[0] = out[1] = out[2] = 0;
	out[3] = (uint8_t)n;
	memcpy(out + 4, text, n);
	return n + 4;
}

static void frames_cut_at_every_byte(void **state)
{
	uint8_t wire[64];
	size_t n = framed(wire, "hello");

	(void)state;
	n += framed(wire + n, "lockstep");
	for (size_t cut = 1; cut < n; cut++) {
		const uint8_t *f;
		struct netsock s;
		char got[32] = "";
		uint32_t len;
		int p[2];

		pair(p);
		assert_int_equal(netsock_init(&s, p[0]), 0);
		for (int part = 0; part < 2; part++) {
			size_t from = part ? cut : 0, to = part ? n : cut;

			assert_int_equal(write(p[1], wire + from, to - from), to - from);
			assert_int_equal(netsock_fill(&s), 1);
			while (netsock_next(&s, 1500, &f, &len))
				strncat(got, (const char *)f, len);
		}
		assert_string_equal(got, "hellolockstep");
		assert_int_equal(netsock_fill(&s), 0);
		close(p[1]);
		assert_int_equal(netsock_fill(&s), -EPIPE);
		close(p[0]);
		netsock_free(&s);
	}
}

static void oversized_frame_is_dropped_whole(void **state)
{
	uint8_t wire[64] = { 0, 0, 0x10, 0 };
	uint8_t zero[4096] = { 0 };
	const uint8_t *f;
	struct netsock s;
	uint32_t len;
	size_t n;
	int p[2];

	(void)state;
	pair(p);
	netsock_init(&s, p[0]);
	assert_int_equal(write(p[1], wire, 4), 4);
	assert_int_equal(write(p[1], zero, sizeof(zero)), sizeof(zero));
	n = framed(wire, "next");
	assert_int_equal(write(p[1], wire, n), n);
	assert_int_equal(netsock_fill(&s), 1);
	assert_true(netsock_next(&s, 1500, &f, &len));
	assert_int_equal(len, 4);
	assert_memory_equal(f, "next", 4);
	assert_int_equal(s.dropped_in, 1);
	close(p[0]);
	close(p[1]);
	netsock_free(&s);
}

/* QEMU does not read: whole frames are dropped, and what comes later is framed right. */
static void full_socket_keeps_the_framing(void **state)
{
	uint8_t frame[1500], buf[65536];
	size_t have = 0, frames = 0;
	struct netsock s;
	int p[2], dropped = 0;

	(void)state;
	memset(frame, 0x5a, sizeof(frame));
	pair(p);
	netsock_init(&s, p[0]);
	for (unsigned int i = 0; i < NETSOCK_OUT / sizeof(frame) + 3000; i++)
		dropped += netsock_put(&s, frame, sizeof(frame)) == -ENOBUFS;
	assert_true(dropped > 0);
	assert_int_equal(dropped, s.dropped_out);
	assert_false(netsock_quiet(&s));
	for (;;) {
		ssize_t k = read(p[1], buf + have, sizeof(buf) - have);
		size_t at = 0;

		if (k <= 0) {
			if (!s.out_len)
				break;
			netsock_flush(&s);
			continue;
		}
		have += (size_t)k;
		while (have - at >= 1504) {
			assert_int_equal(buf[at + 2] << 8 | buf[at + 3], 1500);
			assert_int_equal(buf[at + 4], 0x5a);
			at += 1504;
			frames++;
		}
		memmove(buf, buf + at, have - at);
		have -= at;
	}
	assert_int_equal(have, 0);
	assert_int_equal(frames, NETSOCK_OUT / sizeof(frame) + 3000 - (unsigned int)dropped);
	assert_true(netsock_quiet(&s));
	close(p[0]);
	close(p[1]);
	netsock_free(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(frames_cut_at_every_byte), cmocka_unit_test(oversized_frame_is_dropped_whole),
		cmocka_unit_test(full_socket_keeps_the_framing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
