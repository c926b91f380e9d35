/* SPDX-License-Identifier: BSD-2-Clause */
/* Fuzz target: a heartbeat's datagram. What is taken is what beat_encode() makes again, and no code is right by chance. */
#include <string.h>

#include "cluster/beat.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	static const uint8_t key[BEAT_KEY_LEN] = "nobody sends this";
	uint8_t again[BEAT_LEN + BEAT_MAC_LEN], *exact = malloc(n ? n : 1);
	struct err e = { 0 };
	struct beat b;

	if (!exact)
		return 0;
	if (n)
		memcpy(exact, p, n);
	MUST(!beat_verify(exact, n, key));
	if (!beat_decode(exact, n, &b, &e)) {
		MUST(n == BEAT_LEN);
		beat_encode(again, &b);
		MUST(!memcmp(again, exact, BEAT_LEN));
		MUST(!beat_sign(again, key) && beat_verify(again, sizeof(again), key));
		again[p[20] % sizeof(again)] ^= 1;
		MUST(!beat_verify(again, sizeof(again), key));
	} else {
		MUST(e.code < 0 && e.msg[0]);
	}
	free(exact);
	return 0;
}
