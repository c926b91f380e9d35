/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The payloads of the resync's messages, big-endian, without padding. What does not fill its message exactly, or lies
 * outside the disk, or sets a bit that has no meaning, is -EPROTO.
 *
 *	HELLO     version (2), disks (2), discard (1), then for each: size (8), lineage
 *	RANGES    last (1), n (2), then off (8), len (8) for each
 *	PLAN      version (2), disks (2), then for each: verdict (1), mode (1), lineage
 *	REFUSE    a sentence
 *	HASHES    id (4), off (8), len (4), holes (4), then a hash (16) of each block that is not one
 *	DIFFER    id (4), differ (4), fine (4), then for each fine block a hash (16) of each of its units
 *	PROGRESS  seq, done, total, sent, read, rate, time left (8 each), disk (2), comparing (1)
 *	DONE      disks (2), then a lineage for each
 *	READY, SYNCED  nothing
 */
#include "disk/resync_wire.h"

#include <errno.h>
#include <string.h>

#include "base/cursor.h"

static size_t made(const struct wcursor *w)
{
	return w->bad ? 0 : w->done;
}

static int whole(const struct cursor *c)
{
	return c->bad || c->left ? -EPROTO : 0;
}

static void put_lineage(struct wcursor *w, const struct lineage *l)
{
	uint8_t *p = wcursor_put(w, LINEAGE_LEN);

	if (p)
		lineage_put(p, l);
}

static bool get_lineage(struct cursor *c, struct lineage *l)
{
	const uint8_t *p = cursor_get(c, LINEAGE_LEN);

	return p && !lineage_get(p, l);
}

/* get_bool() - a byte that is 0 or 1 */
static bool get_bool(struct cursor *c)
{
	uint8_t v = cursor_u8(c);

	c->bad |= v > 1;
	return v;
}

size_t rsy_put_hello(uint8_t *p, const struct rsy_hello *h)
{
	struct wcursor w = wcursor_of(p, RSY_MAX_PAYLOAD);

	wcursor_u16(&w, RSY_VERSION);
	wcursor_u16(&w, (uint16_t)h->n);
	wcursor_u8(&w, h->discard);
	for (unsigned int i = 0; i < h->n; i++) {
		wcursor_u64(&w, h->d[i].size);
		put_lineage(&w, &h->d[i].lineage);
	}
	return made(&w);
}

int rsy_get_hello(const uint8_t *p, size_t len, struct rsy_hello *h)
{
	struct cursor c = cursor_of(p, len);

	if (cursor_u16(&c) != RSY_VERSION)
		return -EPROTO;
	h->n = cursor_u16(&c);
	h->discard = get_bool(&c);
	if (c.bad || !h->n || h->n > RSY_MAX_DISKS)
		return -EPROTO;
	for (unsigned int i = 0; i < h->n; i++) {
		h->d[i].size = cursor_u64(&c);
		if (!get_lineage(&c, &h->d[i].lineage))
			return -EPROTO;
	}
	return whole(&c);
}

size_t rsy_put_ranges(uint8_t *p, const struct rsy_ranges *r)
{
	struct wcursor w = wcursor_of(p, RSY_MAX_PAYLOAD);

	wcursor_u8(&w, r->last);
	wcursor_u16(&w, (uint16_t)r->n);
	for (unsigned int i = 0; i < r->n; i++) {
		wcursor_u64(&w, r->r[i].off);
		wcursor_u64(&w, r->r[i].len);
	}
	return made(&w);
}

int rsy_get_ranges(const uint8_t *p, size_t len, uint64_t size, struct rsy_ranges *r)
{
	struct cursor c = cursor_of(p, len);

	r->last = get_bool(&c);
	r->n = cursor_u16(&c);
	/* Only the last may be empty, so that a peer cannot go on saying nothing. */
	if (c.bad || r->n > RSY_RANGES_MAX || (!r->n && !r->last))
		return -EPROTO;
	for (unsigned int i = 0; i < r->n; i++) {
		uint64_t off = cursor_u64(&c), n = cursor_u64(&c);

		if (c.bad || !n || off > size || n > size - off)
			return -EPROTO;
		r->r[i] = (struct rsy_range){ off, n };
	}
	return whole(&c);
}

size_t rsy_put_plan(uint8_t *p, const struct rsy_plan *pl)
{
	struct wcursor w = wcursor_of(p, RSY_MAX_PAYLOAD);

	wcursor_u16(&w, RSY_VERSION);
	wcursor_u16(&w, (uint16_t)pl->n);
	for (unsigned int i = 0; i < pl->n; i++) {
		wcursor_u8(&w, (uint8_t)pl->d[i].verdict);
		wcursor_u8(&w, (uint8_t)pl->d[i].mode);
		put_lineage(&w, &pl->d[i].lineage);
	}
	return made(&w);
}

int rsy_get_plan(const uint8_t *p, size_t len, struct rsy_plan *pl)
{
	struct cursor c = cursor_of(p, len);

	if (cursor_u16(&c) != RSY_VERSION)
		return -EPROTO;
	pl->n = cursor_u16(&c);
	if (c.bad || !pl->n || pl->n > RSY_MAX_DISKS)
		return -EPROTO;
	for (unsigned int i = 0; i < pl->n; i++) {
		uint8_t verdict = cursor_u8(&c), mode = cursor_u8(&c);

		if (!get_lineage(&c, &pl->d[i].lineage) || verdict > LINEAGE_BROKEN || mode >= RSY_MODES)
			return -EPROTO;
		pl->d[i].verdict = verdict;
		pl->d[i].mode = mode;
		/* Nobody serves a copy without a history, or one that is itself incomplete. */
		if (lineage_fresh(&pl->d[i].lineage) || !lineage_may_serve(&pl->d[i].lineage))
			return -EPROTO;
	}
	return whole(&c);
}

size_t rsy_put_final(uint8_t *p, const struct rsy_final *f)
{
	struct wcursor w = wcursor_of(p, RSY_MAX_PAYLOAD);

	wcursor_u16(&w, (uint16_t)f->n);
	for (unsigned int i = 0; i < f->n; i++)
		put_lineage(&w, &f->lineage[i]);
	return made(&w);
}

int rsy_get_final(const uint8_t *p, size_t len, struct rsy_final *f)
{
	struct cursor c = cursor_of(p, len);

	f->n = cursor_u16(&c);
	if (c.bad || !f->n || f->n > RSY_MAX_DISKS)
		return -EPROTO;
	for (unsigned int i = 0; i < f->n; i++) {
		struct lineage *l = &f->lineage[i];

		/* The source's next lone write is of another generation: lineage_together(). */
		if (!get_lineage(&c, l) || lineage_fresh(l) || !lineage_may_serve(l) || l->alone)
			return -EPROTO;
	}
	return whole(&c);
}

/* below() - whether @bits has none above the first @n */
static bool below(uint32_t bits, unsigned int n)
{
	return n >= 32 || !(bits >> n);
}

size_t rsy_put_hashes(uint8_t *p, const struct rsy_hashes *h)
{
	struct wcursor w = wcursor_of(p, RSY_MAX_PAYLOAD);

	wcursor_u32(&w, h->id);
	wcursor_u64(&w, h->off);
	wcursor_u32(&w, h->len);
	wcursor_u32(&w, h->hole);
	for (unsigned int i = 0; i < rsy_blocks(h->len); i++)
		if (!(h->hole >> i & 1))
			wcursor_bytes(&w, h->hash[i], RSY_HASH);
	return made(&w);
}

int rsy_get_hashes(const uint8_t *p, size_t len, uint64_t size, struct rsy_hashes *h)
{
	struct cursor c = cursor_of(p, len);

	h->id = cursor_u32(&c);
	h->off = cursor_u64(&c);
	h->len = cursor_u32(&c);
	h->hole = cursor_u32(&c);
	if (c.bad || !h->len || h->len > RSY_BATCH * RSY_BLOCK || h->off > size || h->len > size - h->off ||
	    !below(h->hole, rsy_blocks(h->len)))
		return -EPROTO;
	for (unsigned int i = 0; i < rsy_blocks(h->len); i++)
		if (!(h->hole >> i & 1))
			cursor_copy(&c, h->hash[i], RSY_HASH);
	return whole(&c);
}

/* units_of() - of block @i of @n, the last of which has @last bytes */
static unsigned int units_of(unsigned int i, unsigned int n, uint32_t last)
{
	return i + 1 < n ? RSY_UNITS : (last + RSY_UNIT - 1) / RSY_UNIT;
}

size_t rsy_put_differ(uint8_t *p, const struct rsy_differ *d, uint32_t last)
{
	struct wcursor w = wcursor_of(p, RSY_MAX_PAYLOAD);

	wcursor_u32(&w, d->id);
	wcursor_u32(&w, d->differ);
	wcursor_u32(&w, d->fine);
	for (unsigned int i = 0; i < d->n; i++)
		if (d->fine >> i & 1)
			wcursor_bytes(&w, d->hash[i], units_of(i, d->n, last) * RSY_HASH);
	return made(&w);
}

int rsy_differ_id(const uint8_t *p, size_t len, uint32_t *id)
{
	struct cursor c = cursor_of(p, len);

	*id = cursor_u32(&c);
	return c.bad ? -EPROTO : 0;
}

int rsy_get_differ(const uint8_t *p, size_t len, unsigned int n, uint32_t last, struct rsy_differ *d)
{
	struct cursor c = cursor_of(p, len);

	d->n = n;
	d->id = cursor_u32(&c);
	d->differ = cursor_u32(&c);
	d->fine = cursor_u32(&c);
	if (c.bad || n > RSY_BATCH || !below(d->differ, n) || d->fine & ~d->differ)
		return -EPROTO;
	for (unsigned int i = 0; i < n; i++)
		if (d->fine >> i & 1)
			cursor_copy(&c, d->hash[i], units_of(i, n, last) * RSY_HASH);
	return whole(&c);
}

size_t rsy_put_progress(uint8_t *p, const struct rsy_progress *g)
{
	struct wcursor w = wcursor_of(p, RSY_MAX_PAYLOAD);

	wcursor_u64(&w, g->seq);
	wcursor_u64(&w, g->done);
	wcursor_u64(&w, g->total);
	wcursor_u64(&w, g->sent);
	wcursor_u64(&w, g->read);
	wcursor_u64(&w, g->rate);
	wcursor_u64(&w, g->left_ms);
	wcursor_u16(&w, g->disk);
	wcursor_u8(&w, g->comparing);
	return made(&w);
}

int rsy_get_progress(const uint8_t *p, size_t len, struct rsy_progress *g)
{
	struct cursor c = cursor_of(p, len);

	g->seq = cursor_u64(&c);
	g->done = cursor_u64(&c);
	g->total = cursor_u64(&c);
	g->sent = cursor_u64(&c);
	g->read = cursor_u64(&c);
	g->rate = cursor_u64(&c);
	g->left_ms = cursor_u64(&c);
	g->disk = cursor_u16(&c);
	g->comparing = get_bool(&c);
	return whole(&c);
}

int rsy_get_sentence(const uint8_t *p, size_t len, char out[RSY_SENTENCE + 1])
{
	struct cursor c = cursor_of(p, len);

	if (!len || len > RSY_SENTENCE)
		return -EPROTO;
	for (size_t i = 0; i < len; i++) {
		uint8_t b = cursor_u8(&c);

		out[i] = b >= ' ' && b < 127 ? (char)b : '?';
	}
	out[len] = '\0';
	return 0;
}
