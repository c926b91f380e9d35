/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: QEMU's framing. What the other end writes, cut wherever the input says, comes out as the frames that it
 * holds, oversized ones left out and counted; what is put arrives as whole frames in order, however slowly it is read.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fuzz.h"
#include "proxy/netsock.h"

#define MAX_LEN 64	/* bytes of a frame; above it is oversized */

static struct netsock sock;
static int far = -1;

/* What the framing means, written once more: the next frame of @in, and whether it is oversized. */
static bool model_next(struct fuzz_in *in, const uint8_t **frame, uint32_t *len, uint64_t *dropped)
{
	while (in->n >= 4) {
		struct fuzz_in at = *in;

		*len = in_u32(&at);
		*frame = at.p;
		if (*len > MAX_LEN)
			++*dropped;
		else if (at.n < *len)
			return false;
		at.p += at.n < *len ? at.n : *len;
		at.n -= at.n < *len ? at.n : *len;
		*in = at;
		if (*len <= MAX_LEN)
			return true;
	}
	return false;
}

static void begin(void)
{
	int fd[2];

	if (far >= 0) {
		close(far);
		close(sock.fd);
	}
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd) < 0)
		abort();
	if (!sock.in)
		MUST(!netsock_init(&sock, fd[0]));
	/* Its buffers are large: kept from input to input. */
	sock = (struct netsock){ .fd = fd[0], .in = sock.in, .out = sock.out };
	far = fd[1];
}

static void reading(const uint8_t *cuts, size_t n_cuts, const uint8_t *bytes, size_t n)
{
	struct fuzz_in model = { bytes, n };
	const uint8_t *frame, *want;
	uint32_t len, want_len;
	uint64_t dropped = 0;

	for (size_t at = 0, i = 0; at < n; i++) {
		size_t piece = n_cuts ? cuts[i % n_cuts] % 37 + 1u : n;

		if (piece > n - at)
			piece = n - at;
		MUST(write(far, bytes + at, piece) == (ssize_t)piece);
		at += piece;
		MUST(netsock_fill(&sock) == 1 && sock.bytes_in == at);
		while (netsock_next(&sock, MAX_LEN, &frame, &len)) {
			MUST(len <= MAX_LEN && frame >= sock.in && frame + len <= sock.in + sock.in_len);
			MUST(model_next(&model, &want, &want_len, &dropped) && len == want_len && !memcmp(frame, want, len));
		}
	}
	MUST(!model_next(&model, &want, &want_len, &dropped) && sock.dropped_in == dropped);
	MUST(netsock_fill(&sock) == 0);
	shutdown(far, SHUT_WR);
	MUST(netsock_fill(&sock) == -EPIPE);
}

/* A byte is the number of a frame and gives its length; the other end reads as much as another byte says. */
static void writing(struct fuzz_in *in)
{
	static uint8_t frame[65535], got[1 << 20];
	uint32_t sent[24], n_sent = 0, at = 0;
	int small = 4096;
	size_t have = 0;
	ssize_t n;

	setsockopt(sock.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	while (in->n && n_sent < sizeof(sent) / sizeof(sent[0])) {
		uint8_t op = in_u8(in);
		uint32_t len = (op & 0x7f) * (op & 1 ? 257u : 1u);

		if (op & 0x80) {
			n = read(far, got + have, 1u + (op & 0x7f) * 64u);
			have += n > 0 ? (size_t)n : 0;
			netsock_flush(&sock);
			continue;
		}
		memset(frame, (int)n_sent, len);
		if (!netsock_put(&sock, frame, len))
			sent[n_sent++] = len;
	}
	for (;;) {
		bool all = netsock_flush(&sock);

		n = read(far, got + have, sizeof(got) - have);
		if (n <= 0 && all)
			break;
		have += n > 0 ? (size_t)n : 0;
	}
	MUST(netsock_quiet(&sock));
	for (uint32_t i = 0; i < n_sent; i++) {
		struct fuzz_in head = { got + at, 4 };

		MUST(at + 4 + sent[i] <= have && in_u32(&head) == sent[i]);
		for (uint32_t k = 0; k < sent[i]; k++)
			MUST(got[at + 4 + k] == (uint8_t)i);
		at += 4 + sent[i];
	}
	MUST(at == have);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_in in = { bytes, size };
	uint8_t how = in_u8(&in);
	size_t n_cuts = how & 15;

	begin();
	if (how & 0x80) {
		writing(&in);
	} else if (in.n >= n_cuts) {
		reading(in.p, n_cuts, in.p + n_cuts, in.n - n_cuts < 65536 ? in.n - n_cuts : 65536);
	}
	return 0;
}
