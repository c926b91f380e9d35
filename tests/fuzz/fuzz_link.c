/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: whatever a peer sends, the decoders answer and touch nothing beyond it. Shape of libFuzzer (build with
 * clang -fsanitize=fuzzer and -DLOCKSTEP_LIBFUZZER); otherwise its own main replays the files named, or random bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "link/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

/* First byte: channel. Then a header; then the payload, in memory of exactly its size. */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	union { struct hello hello; struct ctl_msg ctl; struct net_msg net; struct pages_msg pages;
		struct devstate_msg dev; struct marker_msg marker; uint64_t u[2]; } m;
	char text[WIRE_MAX_SENTENCE + 1];
	struct err e = { 0 };
	struct wire_head h;
	const uint8_t *frame;
	uint8_t *payload;
	size_t len, plen;

	if (n < 1 + WIRE_HDR_LEN || wire_head_decode(p + 1, p[0] % WIRE_CHANNELS, &h, &e))
		return 0;
	len = plen = n - 1 - WIRE_HDR_LEN < h.len ? n - 1 - WIRE_HDR_LEN : h.len;
	payload = malloc(len ? len : 1);
	if (!payload)
		return 0;
	memcpy(payload, p + 1 + WIRE_HDR_LEN, len);
	codec_hello_get(&h, payload, len, &m.hello, &e);
	codec_refuse_get(payload, len, text);
	codec_ctl_get(&h, payload, len, &m.ctl, &e);
	codec_credit_get(payload, len, &m.u[0], &m.u[1], &e);
	if (!codec_net_get(&h, payload, len, &m.net, &frame, &len, &e) && frame && frame + len > payload + plen)
		abort();
	len = plen = n - 1 - WIRE_HDR_LEN < h.len ? n - 1 - WIRE_HDR_LEN : h.len;
	if (!codec_pages_get(&h, payload, len, &m.pages, &e) && m.pages.data &&
	    (m.pages.data + m.pages.len > payload + len || m.pages.len > (size_t)m.pages.count * WIRE_PAGE))
		abort();
	if (!codec_devstate_get(&h, payload, len, &m.dev, &e) && m.dev.data + m.dev.len > payload + len)
		abort();
	codec_marker_get(&h, payload, len, &m.marker, &e);
	free(payload);
	return 0;
}

#ifndef LOCKSTEP_LIBFUZZER
static uint8_t buf[2 << 20];

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		FILE *f = fopen(argv[i], "rb");

		if (!f) {
			perror(argv[i]);
			return 1;
		}
		LLVMFuzzerTestOneInput(buf, fread(buf, 1, sizeof(buf), f));
		fclose(f);
	}
	for (unsigned int round = 0; argc == 1 && round < 200000; round++) {
		struct wire_head h = { .type = (uint8_t)(rand() % 64), .channel = (uint8_t)(rand() % 3),
				       .unit = (uint16_t)(rand() % 80), .len = (uint32_t)(rand() % 300) };
		size_t n = 1 + WIRE_HDR_LEN + (size_t)rand() % 300;

		for (size_t i = 0; i < n; i++)
			buf[i] = (uint8_t)(rand() % 3 ? rand() : 0);
		buf[0] = h.channel;
		if (round % 8)
			wire_head_encode(buf + 1, &h);
		LLVMFuzzerTestOneInput(buf, n);
	}
	return 0;
}
#endif
