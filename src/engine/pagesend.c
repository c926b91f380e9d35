/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Sending pages: theory of operation
 *
 * Nothing of this happens while the VM stands: zeroes are looked for and pages are packed when they leave the copy
 * buffer, in a pre-copy round or after cont. Pieces are prepared in a batch, packed by all workers side by side, and
 * then sent in their order; a connection that takes no more leaves the rest of the batch prepared.
 *
 * A piece that packing makes no smaller than seven eighths goes plain. When that happens with most of what is sent
 * (pictures, encrypted or packed data of the guest's), packing is left out for a while and then tried again: it costs
 * more than it saves. LZ4 in its fastest kind: a link of 10 Gbit/s is faster than anything better.
 */
#include "engine/pagesend.h"

#include <errno.h>
#include <lz4.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES	(PAGESEND_PIECE * RAM_PAGE)
#define POOR_AFTER	16	/* pieces in a row that did not pack */
#define POOR_SKIP	256	/* so many go plain then */

struct prepared {
	struct pagebuf_piece piece;
	uint8_t *packed;
	uint32_t len;		/* of packed; 0: it goes as it is */
};

struct pagesend {
	struct pagebuf *b;
	struct workers *workers;
	bool pack;
	pagesend_fn *send;
	void *arg;
	struct prepared batch[PAGESEND_BATCH];
	unsigned int n, at;	/* prepared, and the next to be sent */
	unsigned int poor, skip;
	uint8_t *space;
	struct pagesend_stats st;
};

struct pagesend *pagesend_new(struct pagebuf *b, struct workers *w, bool pack, pagesend_fn *send, void *arg,
			      struct err *e)
{
	size_t bound = LZ4_COMPRESSBOUND(PIECE_BYTES);
	struct pagesend *s = calloc(1, sizeof(*s));

	if (s && pack)
		s->space = malloc(PAGESEND_BATCH * bound);
	if (!s || (pack && !s->space)) {
		err_set(e, -ENOMEM, "no memory for sending pages");
		pagesend_free(s);
		return NULL;
	}
	for (unsigned int i = 0; i < PAGESEND_BATCH && pack; i++)
		s->batch[i].packed = s->space + i * bound;
	s->b = b;
	s->workers = w;
	s->pack = pack;
	s->send = send;
	s->arg = arg;
	return s;
}

void pagesend_free(struct pagesend *s)
{
	if (!s)
		return;
	free(s->space);
	free(s);
}

static void pack_one(void *arg, unsigned int i)
{
	struct pagesend *s = arg;
	struct prepared *p = &s->batch[i];
	int size = (int)(p->piece.count * RAM_PAGE), len;

	p->len = 0;
	if (!p->piece.data)
		return;
	/* With too little room for its result LZ4 gives up early. */
	len = LZ4_compress_default((const char *)p->piece.data, (char *)p->packed, size, size - size / 8);
	p->len = len > 0 ? (uint32_t)len : 0;
}

static void prepare(struct pagesend *s)
{
	unsigned int with_data = 0, poor = 0;

	s->n = s->at = 0;
	if (!pagebuf_pages(s->b))
		pagebuf_reset(s->b);
	while (s->n < PAGESEND_BATCH && pagebuf_next(s->b, PAGESEND_PIECE, &s->batch[s->n].piece)) {
		s->batch[s->n].len = 0;
		with_data += s->batch[s->n++].piece.data != NULL;
	}
	if (!s->pack || !with_data)
		return;
	if (s->skip) {
		s->skip -= with_data < s->skip ? with_data : s->skip;
		return;
	}
	workers_run(s->workers, pack_one, s, s->n);
	for (unsigned int i = 0; i < s->n; i++)
		poor += s->batch[i].piece.data && !s->batch[i].len;
	s->poor = poor == with_data ? s->poor + poor : 0;
	if (s->poor >= POOR_AFTER) {
		s->poor = 0;
		s->skip = POOR_SKIP;
	}
}

static int send_one(struct pagesend *s, struct prepared *p, uint64_t *pages, uint64_t *bytes)
{
	uint64_t count = p->piece.count < PAGESEND_ZEROES ? p->piece.count : PAGESEND_ZEROES;
	uint32_t len = 0;
	int rc;

	if (p->piece.data) {
		count = p->piece.count;
		len = p->len ? p->len : (uint32_t)(count * RAM_PAGE);
	}
	rc = s->send(s->arg, p->piece.first, count, p->len ? p->packed : p->piece.data, len, p->len > 0);
	if (rc)
		return rc;
	if (!p->piece.data) {
		s->st.zero += count;
	} else if (p->len) {
		s->st.packed += count;
		s->st.packed_bytes += len;
	} else {
		s->st.plain += count;
	}
	*pages += count;
	*bytes += p->piece.data ? len : 32;
	p->piece.first += count;
	p->piece.count -= count;
	return 0;
}

int pagesend_some(struct pagesend *s, uint64_t most, uint64_t *pages, uint64_t *bytes)
{
	uint64_t stop = most ? *pages + most : UINT64_MAX;

	while (*pages < stop) {
		int rc;

		if (s->at == s->n)
			prepare(s);
		if (s->n == 0)
			return 0;
		rc = send_one(s, &s->batch[s->at], pages, bytes);
		if (rc)
			return rc;
		s->at += s->batch[s->at].piece.count == 0;
	}
	return 0;
}

uint64_t pagesend_waiting(const struct pagesend *s)
{
	uint64_t n = pagebuf_pages(s->b);

	for (unsigned int i = s->at; i < s->n; i++)
		n += s->batch[i].piece.count;
	return n;
}

void pagesend_reset(struct pagesend *s)
{
	s->n = s->at = 0;
	pagebuf_reset(s->b);
}

void pagesend_stats(const struct pagesend *s, struct pagesend_stats *out)
{
	*out = s->st;
}

int pagesend_unpack(const uint8_t *data, uint32_t len, uint64_t count, uint8_t *to)
{
	int size = (int)(count * RAM_PAGE);

	if (count == 0 || count > PAGESEND_PIECE || len > PIECE_BYTES)
		return -EPROTO;
	return LZ4_decompress_safe((const char *)data, (char *)to, (int)len, size) == size ? 0 : -EPROTO;
}
