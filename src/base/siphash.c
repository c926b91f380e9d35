/* SPDX-License-Identifier: BSD-2-Clause */
/* SipHash-2-4 and SipHash-1-3, after the paper's description. Pure. */
#include "base/siphash.h"

#include <endian.h>
#include <string.h>

static inline uint64_t rotl(uint64_t x, int b)
{
	return x << b | x >> (64 - b);
}

static inline void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] = rotl(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] = rotl(v[2], 32);
}

static inline uint64_t le64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* @c rounds for each word, @d at the end */
static inline uint64_t sip(const uint64_t key[2], const void *data, size_t len, int c, int d)
{
	uint64_t v[4] = {
		key[0] ^ 0x736f6d6570736575ull,
		key[1] ^ 0x646f72616e646f6dull,
		key[0] ^ 0x6c7967656e657261ull,
		key[1] ^ 0x7465646279746573ull,
	};
	const uint8_t *p = data;
	uint8_t tail[8] = { 0 };
	uint64_t m;
	size_t left = len;

	for (; left >= 8; left -= 8, p += 8) {
		m = le64(p);
		v[3] ^= m;
		for (int i = 0; i < c; i++)
			sip_round(v);
		v[0] ^= m;
	}
	memcpy(tail, p, left);
	tail[7] = (uint8_t)len;
	m = le64(tail);
	v[3] ^= m;
	for (int i = 0; i < c; i++)
		sip_round(v);
	v[0] ^= m;
	v[2] ^= 0xff;
	for (int i = 0; i < d; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t siphash24(const uint64_t key[2], const void *data, size_t len)
{
	return sip(key, data, len, 2, 4);
}

uint64_t siphash13(const uint64_t key[2], const void *data, size_t len)
{
	return sip(key, data, len, 1, 3);
}
