/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_PAIR_REC_H
#define TESTS_PAIR_REC_H

#include <stdint.h>
#include <stdio.h>

#include "base/clock.h"
#include "duo.h"

/*
 * A recording: "LKP1", then for each frame
 *	port (1 byte), microseconds since the frame before (4), length (2), all big-endian, and then until the length is
 *	reached: bytes that follow (1), zeros that come after them (2), those bytes
 * The first REC_HEAD bytes are the difference (exclusive or) to the frame before of the same port. So headers, and a
 * stream whose bytes are mostly zero, take little room.
 */
#define REC_HEAD 78u

struct rec_before {
	uint8_t head[3][REC_HEAD];
};

struct rec_frame {
	nstime at;		/* since the begin */
	enum duo_port from;
	uint32_t len;
	uint8_t data[2048];
	struct rec_before before;
};

struct rec_out {
	FILE *f;
	nstime begun, last;
	uint64_t bytes;
	struct rec_before before;
};

/* rec_begin(), rec_put(), rec_end() - Return: 0, or -1 with errno; frames of up to 2048 bytes */
int rec_begin(struct rec_out *r, const char *path, nstime now);
int rec_put(struct rec_out *r, nstime now, enum duo_port from, const uint8_t *f, uint32_t len);
int rec_end(struct rec_out *r);

/* rec_open() - Return: the file behind its head, or NULL */
FILE *rec_open(const char *path);
/* rec_next() - @fr: zeroed before the first. Return: 1 with the next frame (@fr->at counts up from 0), 0 at the end, -1 when the file is damaged */
int rec_next(FILE *f, struct rec_frame *fr);

#endif
