/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Bringing a peer's disks up to date while the VM runs: theory of operation
 *
 * The source goes through its dirty bitmaps piece by piece, several pieces at a time (slots). The guest goes on writing,
 * and each of its writes goes to the target as well, in the same stream as what is sent here; so a piece is right at the
 * target if it was once equal to the source's, at one point of the stream. Everything rests on these orders:
 *
 * Sending. The piece is locked against the guest's writes, looked at, read, put into the stream, unlocked. What is a hole,
 * or only zeroes, goes as zeroes.
 *
 * Comparing. The source hashes blocks and says the hashes; the target hashes its own, and says which differ, and of these
 * the hashes of smaller units. Nothing is locked meanwhile, though the guest may write there: take one byte. A write to it
 * that is under way while the two sides read reaches both copies, in one order, so whatever the verdict was, they end up
 * equal in that byte. And a byte without such a write is the same for both readers at any time. What differs is then sent
 * as above: locked and read again, and only units whose hash is not the target's.
 *
 * The dirty bitmap. A piece leaves it before it is looked at, so that what is marked meanwhile (a write of the guest that
 * failed) is not lost, and is gone through again. Until the target has confirmed that it is durable the piece is kept in
 * a list, or its slot; when the resync is broken off, all of these are marked again. All that is to be compared is marked
 * when the target is ready. So the bitmap is at any time, with list and slots, what the target may lack; a next resync
 * goes on from there. It is lost only with the process, and then the target is known to be unfinished, and everything is
 * compared.
 *
 * The end. When nothing is dirty and everything was confirmed, the source puts down lineage_together(), durably, then says
 * DONE with the lineages as they are then: the guest's first lone write may have come, and with it a generation, when the
 * plan was said already. The target makes all durable, takes the lineages as its own, durably, and says SYNCED. See
 * core/lineage.c. Until the first marker the guest's writes go straight into the target's bases, in no order that a crash
 * would keep; so its copies stay marked as unfinished until that checkpoint is durable: resync_settled(). A target that is
 * lost before is brought up to date as after an interruption: what the source has of uncommitted writes is dirty then.
 *
 * One function, rsy_pump(), goes on with whatever can go on; callbacks change a state and call it. A reference is held by
 * each thing that will call back, so resync_free() may come at any moment.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "disk/resync_internal.h"

void rsy_hold(struct resync *r)
{
	r->refs++;
}

void rsy_drop(struct resync *r)
{
	if (--r->refs)
		return;
	for (unsigned int i = 0; r->slot && i < RSY_WINDOW; i++)
		free(r->slot[i].buf);
	for (unsigned int i = 0; i < RSY_MAX_DISKS; i++)
		free(r->d[i].map);
	free(r->slot);
	free(r->payload);
	free(r->s.list);
	free(r);
}

int rsy_end(struct resync *r, int rc, const char *fmt, ...)
{
	char sentence[RSY_SENTENCE + 1];
	va_list ap;

	if (r->ended)
		return rc;
	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	if (r->is_source)
		rsy_source_abandon(r);
	r->ended = true;
	loop_timer_del(r->cfg.loop, &r->timer);
	r->cfg.done(r->cfg.arg, rc, sentence);
	return rc;
}

void rsy_pump(struct resync *r)
{
	r->again = true;
	if (r->pumping)
		return;
	rsy_hold(r);
	r->pumping = true;
	while (r->again && !r->ended) {
		r->again = false;
		if (r->is_source)
			rsy_source_step(r);
		else
			rsy_target_step(r);
	}
	r->pumping = false;
	rsy_drop(r);
}

int rsy_say(struct resync *r, enum rsy_type type, unsigned int disk, size_t len)
{
	struct rsy_msg m = { .type = type, .disk = (uint16_t)disk, .len = (uint32_t)len, .payload = r->payload };
	int rc;

	if (r->blocked || r->ended)
		return -EAGAIN;
	rc = r->peer.msg(r->peer.arg, &m);
	if (rc == -EAGAIN)
		r->blocked = true;
	else if (rc)
		rsy_end(r, rc, "the connection to the other node was lost while the disks were brought up to date");
	return rc;
}

void rsy_hash(const uint8_t *p, uint32_t len, uint8_t out[RSY_HASH])
{
	XXH128_canonical_t c;

	XXH128_canonicalFromHash(&c, XXH3_128bits(p, len));
	memcpy(out, c.digest, RSY_HASH);
}

struct rsy_slot *rsy_free_slot(struct resync *r)
{
	for (unsigned int i = 0; i < RSY_WINDOW; i++) {
		struct rsy_slot *s = &r->slot[i];

		if (s->state != SLOT_FREE)
			continue;
		if (!s->buf)
			s->buf = malloc(RSY_PIECE);
		if (!s->buf) {
			rsy_end(r, -ENOMEM, "no memory to bring the disks up to date");
			return NULL;
		}
		s->r = r;
		s->next_block = 0;
		s->compare = false;
		return s;
	}
	return NULL;
}

static void scan_read(struct rsy_slot *s);

static void scan_submit(struct rsy_slot *s, void (*done)(struct blk_req *q, int rc))
{
	s->req.done = done;
	s->req.arg = s;
	s->req.flags = 0;
	rsy_hold(s->r);
	blk_submit(s->r->d[s->disk].blk, &s->req);
}

static void read_done(struct blk_req *q, int rc)
{
	struct rsy_slot *s = q->arg;
	struct resync *r = s->r;

	if (!r->ended) {
		if (rc) {
			s->scanned(s, rc);
		} else {
			r->read += q->len;
			scan_read(s);
		}
	}
	rsy_drop(r);
}

static uint32_t unit_len(const struct rsy_slot *s, uint32_t u)
{
	uint32_t at = u * RSY_UNIT;

	return s->scan_len - at < RSY_UNIT ? s->scan_len - at : RSY_UNIT;
}

/* Read the next run of units that must be; a short hole is read through. */
static void scan_read(struct rsy_slot *s)
{
	uint32_t n = (s->scan_len + RSY_UNIT - 1) / RSY_UNIT, u = s->scan_at, end;

	for (; u < n && s->unit[u]; u++)
		if (!(s->unit[u] & SCAN_SKIP))
			memset(s->buf + u * RSY_UNIT, 0, unit_len(s, u));
	if (u == n) {
		s->scanned(s, 0);
		return;
	}
	for (end = u + 1; end < n;) {
		uint32_t gap = end;

		while (gap < n && s->unit[gap] == SCAN_ZERO)
			gap++;
		if (gap == n || s->unit[gap] || gap - end >= RSY_GAP)
			break;
		end = gap + 1;
	}
	s->scan_at = end;
	s->req.op = BLK_READ;
	s->req.off = s->scan_off + u * RSY_UNIT;
	s->req.len = (end < n ? end * RSY_UNIT : s->scan_len) - u * RSY_UNIT;
	s->req.buf = s->buf + u * RSY_UNIT;
	scan_submit(s, read_done);
}

static void status_done(struct blk_req *q, int rc)
{
	struct rsy_slot *s = q->arg;
	struct resync *r = s->r;
	uint64_t at = 0;

	if (!r->ended) {
		/* A device that cannot tell is read. */
		for (unsigned int i = 0; !rc && i < q->n_ext && i < RSY_EXTENTS && at < s->scan_len; i++) {
			uint64_t end = s->ext[i].len < s->scan_len - at ? at + s->ext[i].len : s->scan_len;
			/* Only units that lie in it whole; the last of the piece may be short. */
			uint64_t to = end == s->scan_len ? (end + RSY_UNIT - 1) / RSY_UNIT : end / RSY_UNIT;

			if (s->ext[i].flags & BLK_ZEROES)
				for (uint64_t u = (at + RSY_UNIT - 1) / RSY_UNIT; u < to; u++)
					s->unit[u] |= SCAN_ZERO;
			at = end;
		}
		scan_read(s);
	}
	rsy_drop(r);
}

void rsy_scan(struct rsy_slot *s, uint64_t off, uint32_t len, uint32_t skip, void (*scanned)(struct rsy_slot *s, int rc))
{
	s->scan_off = off;
	s->scan_len = len;
	s->scan_at = 0;
	s->scanned = scanned;
	for (uint32_t u = 0; u < RSY_PIECE_UNITS; u++)
		s->unit[u] = skip >> (u / RSY_UNITS) & 1 ? SCAN_SKIP : 0;
	s->req.op = BLK_STATUS;
	s->req.off = off;
	s->req.len = len;
	s->req.buf = NULL;
	s->req.ext = s->ext;
	s->req.n_ext = RSY_EXTENTS;
	scan_submit(s, status_done);
}

bool rsy_hole(const struct rsy_slot *s, unsigned int b)
{
	uint32_t n = (rsy_block_len(s->scan_len, b) + RSY_UNIT - 1) / RSY_UNIT;

	for (uint32_t u = 0; u < n; u++)
		if (!(s->unit[b * RSY_UNITS + u] & SCAN_ZERO))
			return false;
	return true;
}

static void tick(struct loop_timer *t)
{
	struct resync *r = t->arg;

	rsy_hold(r);
	if (r->is_source)
		rsy_source_tick(r);
	rsy_pump(r);
	rsy_drop(r);
}

struct resync *rsy_new(const struct resync_cfg *cfg, const struct resync_peer *peer, bool source, struct err *e)
{
	struct resync *r;

	if (!cfg->n || cfg->n > RSY_MAX_DISKS) {
		err_set(e, -EINVAL, "%u disks cannot be brought up to date: 1 to %u can", cfg->n, RSY_MAX_DISKS);
		return NULL;
	}
	r = calloc(1, sizeof(*r));
	if (r) {
		r->refs = 1;
		r->slot = calloc(RSY_WINDOW, sizeof(*r->slot));
		r->payload = malloc(RSY_MAX_PAYLOAD);
	}
	if (!r || !r->slot || !r->payload)
		goto no_memory;
	r->cfg = *cfg;
	r->cfg.bases = NULL;
	r->cfg.metas = NULL;
	r->peer = *peer;
	r->is_source = source;
	r->timer.fn = tick;
	r->timer.arg = r;
	for (unsigned int i = 0; i < cfg->n; i++) {
		struct rsy_disk *d = &r->d[i];

		d->blk = cfg->bases[i];
		d->meta = cfg->metas[i];
		d->region = rsy_region(d->blk->size);
		d->map = source ? calloc(1, RSY_REGIONS / 8) : NULL;
		if (source && !d->map)
			goto no_memory;
	}
	return r;
no_memory:
	if (r)
		rsy_drop(r);
	err_set(e, -ENOMEM, "no memory to bring the disks up to date");
	return NULL;
}

int resync_message(struct resync *r, const struct rsy_msg *m, struct err *e)
{
	int rc;

	if (r->ended)
		return 0;
	rsy_hold(r);
	rc = m->len > RSY_MAX_PAYLOAD || m->disk >= r->cfg.n ? -EPROTO :
	     r->is_source ? rsy_source_message(r, m) : rsy_target_message(r, m);
	if (rc == -EPROTO) {
		err_set(e, rc, "the other node has sent a message about the disks that makes no sense (type %d, %u bytes)",
			(int)m->type, m->len);
		rsy_end(r, rc, "the other node has sent a message about the disks that makes no sense (type %d, %u bytes)",
			(int)m->type, m->len);
	} else {
		rsy_pump(r);
	}
	rsy_drop(r);
	return rc == -EPROTO ? rc : 0;
}

void resync_writable(struct resync *r)
{
	r->blocked = false;
	rsy_pump(r);
}

void resync_free(struct resync *r)
{
	if (!r)
		return;
	if (!r->ended && r->is_source)
		rsy_source_abandon(r);
	r->ended = true;
	loop_timer_del(r->cfg.loop, &r->timer);
	rsy_drop(r);
}
