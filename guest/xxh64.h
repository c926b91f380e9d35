/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUEST_XXH64_H
#define GUEST_XXH64_H

/* XXH64 (the published algorithm) in a streaming form, small enough for the guest to need no library. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define XXH64_P1 UINT64_C(0x9e3779b185ebca87)
#define XXH64_P2 UINT64_C(0xc2b2ae3d27d4eb4f)
#define XXH64_P3 UINT64_C(0x165667b19e3779f9)
#define XXH64_P4 UINT64_C(0x85ebca77c2b2ae63)
#define XXH64_P5 UINT64_C(0x27d4eb2f165667c5)

struct xxh64 {
	uint64_t seed, total, acc[4];
	uint32_t fill;		/* bytes in buf */
	uint8_t buf[32];
};

static inline uint64_t xxh64_rotl(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

static inline uint64_t xxh64_word(const uint8_t *p)
{
	uint64_t w;

	memcpy(&w, p, sizeof(w));
	return w;
}

static inline uint64_t xxh64_round(uint64_t acc, uint64_t w)
{
	return xxh64_rotl(acc + w * XXH64_P2, 31) * XXH64_P1;
}

static inline void xxh64_init(struct xxh64 *h, uint64_t seed)
{
	memset(h, 0, sizeof(*h));
	h->seed = seed;
	h->acc[0] = seed + XXH64_P1 + XXH64_P2;
	h->acc[1] = seed + XXH64_P2;
	h->acc[2] = seed;
	h->acc[3] = seed - XXH64_P1;
}

static inline void xxh64_stripe(struct xxh64 *h, const uint8_t *p)
{
	int i;

	for (i = 0; i < 4; i++)
		h->acc[i] = xxh64_round(h->acc[i], xxh64_word(p + 8 * i));
}

static inline void xxh64_update(struct xxh64 *h, const void *data, size_t n)
{
	const uint8_t *p = data;
	size_t k;

	h->total += n;
	if (h->fill) {
		k = sizeof(h->buf) - h->fill;
		if (k > n)
			k = n;
		memcpy(h->buf + h->fill, p, k);
		h->fill += (uint32_t)k;
		p += k;
		n -= k;
		if (h->fill < sizeof(h->buf))
			return;
		xxh64_stripe(h, h->buf);
		h->fill = 0;
	}
	for (; n >= sizeof(h->buf); p += sizeof(h->buf), n -= sizeof(h->buf))
		xxh64_stripe(h, p);
	memcpy(h->buf, p, n);
	h->fill = (uint32_t)n;
}

static inline uint64_t xxh64_digest(const struct xxh64 *h)
{
	const uint8_t *p = h->buf, *end = h->buf + h->fill;
	uint64_t v = h->seed + XXH64_P5;
	uint32_t w;
	int i;

	if (h->total >= sizeof(h->buf)) {
		v = xxh64_rotl(h->acc[0], 1) + xxh64_rotl(h->acc[1], 7) + xxh64_rotl(h->acc[2], 12) +
		    xxh64_rotl(h->acc[3], 18);
		for (i = 0; i < 4; i++)
			v = (v ^ xxh64_round(0, h->acc[i])) * XXH64_P1 + XXH64_P4;
	}
	v += h->total;
	for (; end - p >= 8; p += 8)
		v = xxh64_rotl(v ^ xxh64_round(0, xxh64_word(p)), 27) * XXH64_P1 + XXH64_P4;
	if (end - p >= 4) {
		memcpy(&w, p, sizeof(w));
		v = xxh64_rotl(v ^ w * XXH64_P1, 23) * XXH64_P2 + XXH64_P3;
		p += 4;
	}
	for (; p < end; p++)
		v = xxh64_rotl(v ^ *p * XXH64_P5, 11) * XXH64_P1;
	v = (v ^ v >> 33) * XXH64_P2;
	v = (v ^ v >> 29) * XXH64_P3;
	return v ^ v >> 32;
}

#endif
