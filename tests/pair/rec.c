/* SPDX-License-Identifier: BSD-2-Clause */
#include "rec.h"

#include <errno.h>
#include <string.h>

#define MAGIC		"LKP1"
#define SHORT_RUN	4	/* zeros that are not worth a run of their own */

int rec_begin(struct rec_out *r, const char *path, nstime now)
{
	memset(r, 0, sizeof(*r));
	r->begun = r->last = now;
	r->f = fopen(path, "wb");
	r->bytes = 4;
	return r->f && fwrite(MAGIC, 1, 4, r->f) == 4 ? 0 : -1;
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static uint32_t get16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static uint32_t zeros(const uint8_t *f, uint32_t at, uint32_t len)
{
	uint32_t n = 0;

	while (at + n < len && !f[at + n])
		n++;
	return n;
}

/* Between a frame and what is stored of it; both ways the same. @plain: which of the two is the frame itself */
static void differ(struct rec_before *b, enum duo_port from, uint8_t *out, const uint8_t *in, const uint8_t *plain,
		   uint32_t len)
{
	for (uint32_t i = 0; i < len && i < REC_HEAD; i++) {
		out[i] = in[i] ^ b->head[from][i];
		b->head[from][i] = plain[i];	/* by now it is, where it is what was made */
	}
}

int rec_put(struct rec_out *r, nstime now, enum duo_port from, const uint8_t *frame, uint32_t len)
{
	uint64_t us = (now - r->last) / NS_PER_US;
	uint8_t h[7], run[3], f[2048];

	if (len > sizeof(f)) {
		errno = EMSGSIZE;
		return -1;
	}
	memcpy(f, frame, len);
	differ(&r->before, from, f, frame, frame, len);
	r->last += us * NS_PER_US;
	h[0] = (uint8_t)from;
	put16(h + 1, (uint32_t)(us >> 16) & 0xffff);
	put16(h + 3, (uint32_t)us & 0xffff);
	put16(h + 5, len);
	if (fwrite(h, 1, sizeof(h), r->f) != sizeof(h))
		return -1;
	r->bytes += sizeof(h);
	for (uint32_t at = 0; at < len;) {
		uint32_t n = 0, z;

		while (n < 255 && at + n < len && zeros(f, at + n, len) < SHORT_RUN)
			n++;
		z = zeros(f, at + n, len);
		run[0] = (uint8_t)n;
		put16(run + 1, z);
		if (fwrite(run, 1, 3, r->f) != 3 || fwrite(f + at, 1, n, r->f) != n)
			return -1;
		r->bytes += 3 + n;
		at += n + z;
	}
	return 0;
}

int rec_end(struct rec_out *r)
{
	int rc = r->f ? fclose(r->f) : 0;

	r->f = NULL;
	return rc;
}

FILE *rec_open(const char *path)
{
	FILE *f = fopen(path, "rb");
	char magic[4];

	if (f && (fread(magic, 1, 4, f) != 4 || memcmp(magic, MAGIC, 4))) {
		fclose(f);
		return NULL;
	}
	return f;
}

int rec_next(FILE *f, struct rec_frame *fr)
{
	uint8_t h[7], run[3];
	size_t n = fread(h, 1, sizeof(h), f);

	if (!n)
		return 0;
	if (n != sizeof(h) || h[0] > DUO_SVM)
		return -1;
	fr->from = h[0];
	fr->at += (nstime)(get16(h + 1) << 16 | get16(h + 3)) * NS_PER_US;
	fr->len = get16(h + 5);
	if (fr->len > sizeof(fr->data))
		return -1;
	for (uint32_t at = 0; at < fr->len;) {
		uint32_t k, z;

		if (fread(run, 1, 3, f) != 3)
			return -1;
		k = run[0];
		z = get16(run + 1);
		if (!(k + z) || k + z > fr->len - at || fread(fr->data + at, 1, k, f) != k)
			return -1;
		memset(fr->data + at + k, 0, z);
		at += k + z;
	}
	differ(&fr->before, fr->from, fr->data, fr->data, fr->data, fr->len);
	return 1;
}
