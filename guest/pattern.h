/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUEST_PATTERN_H
#define GUEST_PATTERN_H

#include <stdint.h>

/**
 * pattern_word() - a word of a seed's pattern: the output of splitmix64 from that seed, eight bytes a word,
 * little-endian. It can be computed from any position, so a client can check a stream without keeping it.
 * @seed:  the seed
 * @index: which word, from 0 on
 *
 * Return: the word.
 */
static inline uint64_t pattern_word(uint64_t seed, uint64_t index)
{
	uint64_t z = seed + (index + 1) * UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

#endif
