/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/*
 * What the fuzz targets share. A target reads its input as a program: each byte decides something. Built with libFuzzer
 * (scripts/fuzz) the engine calls it; otherwise replay.c does, with the files of corpus/.
 */
int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n);

/* What must hold whatever the input is. */
#define MUST(cond) do { \
	if (!(cond)) { \
		fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #cond); \
		abort(); \
	} \
} while (0)

struct fuzz_in {
	const uint8_t *p;
	size_t n;
};

/* in_u8() and its like - big-endian; zero behind the end */
static inline uint8_t in_u8(struct fuzz_in *in)
{
	if (!in->n)
		return 0;
	in->n--;
	return *in->p++;
}

static inline uint16_t in_u16(struct fuzz_in *in)
{
	uint16_t hi = in_u8(in);

	return (uint16_t)(hi << 8 | in_u8(in));
}

static inline uint32_t in_u32(struct fuzz_in *in)
{
	uint32_t hi = in_u16(in);

	return hi << 16 | in_u16(in);
}

#define FUZZ_FRAME_MAX 1500	/* no frame of fuzz_frame() is longer */

/*
 * fuzz_frame() - a frame as the input says: mostly a sound one with a few fields from the input, so that it gets past
 * the parser; sometimes one with a byte spoiled, or raw bytes
 * @out: FUZZ_FRAME_MAX bytes
 *
 * What a TCP segment or datagram carries follows from its place in the stream, so that two copies of a guest say the
 * same unless the input asks for a difference. Return: length, at least 1
 */
uint32_t fuzz_frame(struct fuzz_in *in, bool from_guest, uint8_t *out);

/* fuzz_sum() - Internet checksum over @n bytes, @s so far; a sound block with its checksum in it gives 0 */
uint16_t fuzz_sum(const uint8_t *p, uint32_t n, uint32_t s);

#endif
