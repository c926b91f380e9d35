/* SPDX-License-Identifier: BSD-2-Clause */
/* The serving node's side of a resync; resync.c has the theory. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "disk/resync_internal.h"

/* The hello, and what it leads to */

static void map_region(struct rsy_disk *d, uint64_t off, uint64_t len)
{
	for (uint64_t i = off / d->region; i <= (off + len - 1) / d->region; i++)
		d->map[i / 8] |= (uint8_t)(1u << (i % 8));
}

static bool mapped(const struct rsy_disk *d, uint64_t off)
{
	uint64_t i = off / d->region;

	return d->all || d->map[i / 8] >> (i % 8) & 1;
}

static bool any_mapped(const struct rsy_disk *d)
{
	for (unsigned int i = 0; i < RSY_REGIONS / 8; i++)
		if (d->map[i])
			return true;
	return false;
}

static int refuse(struct resync *r)
{
	r->s.state = SRC_REFUSE;
	return 0;
}

static int plan(struct resync *r)
{
	struct rsy_source *s = &r->s;
	struct err e = { 0 };

	s->plan.n = r->cfg.n;
	for (unsigned int i = 0; i < r->cfg.n; i++) {
		struct rsy_disk *d = &r->d[i];
		struct lineage *l = meta_lineage(d->meta);
		uint64_t start, len;
		int rc;

		for (uint64_t at = 0; meta_next_intent(d->meta, at, &start, &len); at = start + len)
			map_region(d, start, len);
		rc = rsy_decide(i, l, meta_dirty_bytes(d->meta), any_mapped(d), &s->hello.d[i], s->hello.discard,
				&s->plan.d[i].verdict, &d->mode, s->sentence);
		if (rc)
			return refuse(r);
		s->plan.d[i].mode = d->mode;
	}
	for (unsigned int i = 0; i < r->cfg.n; i++) {
		if (meta_found(r->d[i].meta, &e)) {
			rsy_end(r, e.code, "%s", e.msg);
			return 0;
		}
		s->plan.d[i].lineage = *meta_lineage(r->d[i].meta);
	}
	s->state = SRC_PLAN;
	return 0;
}

static int hear_hello(struct resync *r, const struct rsy_msg *m)
{
	struct rsy_source *s = &r->s;

	if (s->state != SRC_HELLO || rsy_get_hello(m->payload, m->len, &s->hello))
		return -EPROTO;
	s->state = SRC_RANGES;
	if (s->hello.n != r->cfg.n) {
		snprintf(s->sentence, sizeof(s->sentence), "the serving node has %u disks and the joining node %u: give both the "
			 "same drives in the same order", r->cfg.n, s->hello.n);
		return refuse(r);
	}
	for (unsigned int i = 0; i < r->cfg.n; i++) {
		uint64_t ours = r->d[i].blk->size, theirs = s->hello.d[i].size;

		if (ours == theirs)
			continue;
		snprintf(s->sentence, sizeof(s->sentence), "disk %u has %" PRIu64 " bytes on the serving node and %" PRIu64
			 " on the joining node: make the joining node's image that size", i, ours, theirs);
		return refuse(r);
	}
	return 0;
}

static int hear_ranges(struct resync *r, const struct rsy_msg *m)
{
	struct rsy_source *s = &r->s;
	struct rsy_ranges *ranges;
	int rc;

	if (s->state == SRC_REFUSE)
		return 0;	/* it does not know yet */
	if (s->state != SRC_RANGES || m->disk != s->ranges_of)
		return -EPROTO;
	ranges = malloc(sizeof(*ranges));
	if (!ranges)
		return rsy_end(r, -ENOMEM, "no memory to bring the disks up to date");
	rc = rsy_get_ranges(m->payload, m->len, r->d[m->disk].blk->size, ranges);
	for (unsigned int i = 0; !rc && i < ranges->n; i++)
		map_region(&r->d[m->disk], ranges->r[i].off, ranges->r[i].len);
	if (!rc && ranges->last && ++s->ranges_of == r->cfg.n)
		rc = plan(r);
	free(ranges);
	return rc;
}

/* The target has taken the plan: from now on what the bitmaps do not have it does have. */
static int hear_ready(struct resync *r, const struct rsy_msg *m)
{
	if (r->s.state != SRC_READY || m->len)
		return -EPROTO;
	for (unsigned int i = 0; i < r->cfg.n; i++) {
		struct rsy_disk *d = &r->d[i];

		d->all = d->mode == RSY_ALL || d->mode == RSY_RESUME;
		if (d->mode == RSY_ALL)
			meta_dirty(d->meta, 0, d->blk->size);
		for (uint64_t off = 0; d->mode == RSY_COMPARE && off < d->blk->size; off += d->region)
			if (mapped(d, off))
				meta_dirty(d->meta, off, d->region < d->blk->size - off ? d->region : d->blk->size - off);
		meta_lineage(d->meta)->map |= LINEAGE_MAP_LEFT;
	}
	if (r->cfg.ready)
		r->cfg.ready(r->cfg.arg);
	for (unsigned int i = 0; i < r->cfg.n; i++)
		r->s.began[i] = meta_lineage(r->d[i].meta)->current;
	r->s.state = SRC_RUN;
	r->s.asked_at = loop_now(r->cfg.loop);
	rsy_source_tick(r);
	return 0;
}

/* Slots */

static void next_run(struct rsy_slot *s);

static void release(struct rsy_slot *s)
{
	if (s->state == SLOT_LOCK || s->state == SLOT_READ || s->state == SLOT_SEND)
		serve_unlock(s->r->s.serve, &s->lock);
	if (s->state == SLOT_LOCK)
		rsy_drop(s->r);
	s->state = SLOT_FREE;
}

/* All that this target may lack is dirty again. */
void rsy_source_abandon(struct resync *r)
{
	struct rsy_source *s = &r->s;

	/* An end that comes out of serve_unlock() finds nothing more to do. */
	r->ended = true;
	for (unsigned int i = 0; i < s->n_list; i++)
		meta_dirty(r->d[s->list[i].disk].meta, s->list[i].off, s->list[i].len);
	s->n_list = 0;
	if (s->span_len)
		meta_dirty(r->d[s->span_disk].meta, s->span_off, s->span_len);
	s->span_len = 0;
	for (unsigned int i = 0; i < RSY_WINDOW; i++)
		if (r->slot[i].state != SLOT_FREE)
			meta_dirty(r->d[r->slot[i].disk].meta, r->slot[i].off, r->slot[i].len);
	for (unsigned int i = 0; i < RSY_WINDOW; i++)
		release(&r->slot[i]);
	r->ended = false;
}

static void finished(struct rsy_slot *s)
{
	struct resync *r = s->r;
	struct rsy_source *src = &r->s;
	struct rsy_sent *last = src->n_list ? &src->list[src->n_list - 1] : NULL;

	s->state = SLOT_FREE;
	r->done += s->len;
	src->list_bytes += s->len;
	if (last && last->disk == s->disk && last->seq == src->seq && last->off + last->len == s->off)
		last->len += s->len;
	else
		src->list[src->n_list++] = (struct rsy_sent){ s->off, s->len, src->seq, s->disk };
}

static void unreadable(struct rsy_slot *s, int rc)
{
	rsy_end(s->r, rc, "disk %u cannot be read on the serving node, in the %u bytes at %" PRIu64 ": %s", s->disk, s->scan_len,
		s->scan_off, strerror(-rc));
}

/* Compared: what is here is known, so it can be said. */
static void hashed(struct rsy_slot *s, int rc)
{
	struct rsy_hashes *h = &s->hashes;

	if (rc) {
		unreadable(s, rc);
		return;
	}
	h->id = ++s->r->s.next_id;
	h->off = s->off;
	h->len = s->len;
	h->hole = 0;
	for (unsigned int b = 0; b < rsy_blocks(s->len); b++) {
		if (rsy_hole(s, b))
			h->hole |= 1u << b;
		else
			rsy_hash(s->buf + b * RSY_BLOCK, rsy_block_len(s->len, b), h->hash[b]);
	}
	s->state = SLOT_SAY;
	rsy_pump(s->r);
}

static bool all_zero(const uint8_t *p, uint32_t len)
{
	return !p[0] && !memcmp(p, p + 1, len - 1);
}

/* Locked and read: what of it the target needs. */
static void ready_to_send(struct rsy_slot *s, int rc)
{
	uint32_t first = (uint32_t)(s->scan_off - s->off) / RSY_UNIT;	/* of this run, in the piece */

	if (rc) {
		unreadable(s, rc);
		return;
	}
	for (uint32_t u = 0; u * RSY_UNIT < s->scan_len; u++) {
		uint32_t at = u * RSY_UNIT, len = s->scan_len - at < RSY_UNIT ? s->scan_len - at : RSY_UNIT;
		unsigned int b = (first + u) / RSY_UNITS;
		uint8_t hash[RSY_HASH];

		s->class[u] = s->unit[u] & SCAN_ZERO || all_zero(s->buf + at, len) ? UNIT_ZERO : UNIT_DATA;
		if (!s->compare || !(s->differ.fine >> b & 1))
			continue;
		rsy_hash(s->buf + at, len, hash);
		if (!memcmp(hash, s->differ.hash[b][(first + u) % RSY_UNITS], RSY_HASH))
			s->class[u] = UNIT_SKIP;
	}
	s->sent = 0;
	s->state = SLOT_SEND;
	rsy_pump(s->r);
}

static void send_run(struct rsy_slot *s)
{
	struct resync *r = s->r;

	while (s->sent < s->scan_len) {
		uint32_t u = s->sent / RSY_UNIT, end = u + 1, len;
		enum rsy_class class = s->class[u];
		int rc = 0;

		while (end * RSY_UNIT < s->scan_len && s->class[end] == class &&
		       (class != UNIT_DATA || (end + 1 - u) * RSY_UNIT <= RSY_MAX_WRITE))
			end++;
		len = (end * RSY_UNIT < s->scan_len ? end * RSY_UNIT : s->scan_len) - s->sent;
		if (class == UNIT_DATA)
			rc = r->peer.write(r->peer.arg, s->disk, s->scan_off + s->sent, len, s->buf + s->sent);
		else if (class == UNIT_ZERO)
			rc = r->peer.zero(r->peer.arg, s->disk, s->scan_off + s->sent, len, false, false);
		if (rc == -EAGAIN) {
			r->blocked = true;
			return;
		}
		if (rc) {
			rsy_end(r, rc, "the connection to the other node was lost while the disks were brought up to date");
			return;
		}
		r->sent += class == UNIT_DATA ? len : 0;
		s->sent += len;
	}
	/* Guest writes that have waited go on in here; the piece is still ours. */
	s->state = SLOT_SCAN;
	serve_unlock(r->s.serve, &s->lock);
	if (r->ended)
		return;
	next_run(s);
}

static void locked(struct serve_range *range)
{
	struct rsy_slot *s = range->arg;
	struct resync *r = s->r;

	s->state = SLOT_READ;
	rsy_scan(s, range->off, (uint32_t)range->len, 0, ready_to_send);
	rsy_drop(r);
}

/* The next run of blocks that are to be sent, if there is one. */
static void next_run(struct rsy_slot *s)
{
	unsigned int n = rsy_blocks(s->len), from = s->next_block, to;

	if (s->compare)
		while (from < n && !(s->differ.differ >> from & 1))
			from++;
	if (from == n) {
		finished(s);
		return;
	}
	for (to = from + 1; to < n && (!s->compare || s->differ.differ >> to & 1); )
		to++;
	s->next_block = to;
	s->state = SLOT_LOCK;
	s->lock = (struct serve_range){ .disk = s->disk, .off = s->off + from * RSY_BLOCK, .locked = locked, .arg = s };
	s->lock.len = (to == n ? s->off + s->len : s->off + to * RSY_BLOCK) - s->lock.off;
	rsy_hold(s->r);
	serve_lock(s->r->s.serve, &s->lock);
}

static int hear_differ(struct resync *r, const struct rsy_msg *m)
{
	uint32_t id;

	if (r->s.state != SRC_RUN || rsy_differ_id(m->payload, m->len, &id))
		return -EPROTO;
	for (unsigned int i = 0; i < RSY_WINDOW; i++) {
		struct rsy_slot *s = &r->slot[i];

		if (s->state != SLOT_WAIT || s->hashes.id != id)
			continue;
		if (m->disk != s->disk ||
		    rsy_get_differ(m->payload, m->len, rsy_blocks(s->len), rsy_last(s->len), &s->differ))
			return -EPROTO;
		next_run(s);
		return 0;
	}
	return -EPROTO;
}

/* New pieces */

/* Take a span out of a dirty bitmap. Return: false when none has anything any more */
static bool take_span(struct resync *r)
{
	struct rsy_source *s = &r->s;

	for (; s->disk < r->cfg.n; s->disk++, s->off = 0) {
		struct meta *m = r->d[s->disk].meta;
		uint64_t most = meta_block(m) > RSY_SPAN ? meta_block(m) : RSY_SPAN;

		if (!meta_next_dirty(m, s->off, &s->span_off, &s->span_len))
			continue;
		if (s->span_len > most)
			s->span_len = most;
		s->span_disk = s->disk;
		s->off = s->span_off + s->span_len;
		meta_clean(m, s->span_off, s->span_len);
		return true;
	}
	return false;
}

static uint32_t piece_len(const struct resync *r)
{
	uint64_t most = RSY_PIECE;

	/* At a low rate less at a time, so that it is even. */
	if (r->s.rate && r->s.rate / 8 < most)
		most = r->s.rate / 8 > RSY_BLOCK ? r->s.rate / 8 / RSY_BLOCK * RSY_BLOCK : RSY_BLOCK;
	return (uint32_t)most;
}

static bool may_begin(struct resync *r)
{
	struct rsy_source *s = &r->s;
	nstime now = loop_now(r->cfg.loop);
	int64_t most = (int64_t)(s->rate / 4);

	if (!s->rate)
		return true;
	if (now > s->tokens_at) {
		nstime past = now - s->tokens_at < NS_PER_S ? now - s->tokens_at : NS_PER_S;

		s->tokens += (int64_t)((double)s->rate * (double)past / NS_PER_S);
		s->tokens_at = now;
	}
	if (s->tokens > most)
		s->tokens = most;
	return s->tokens >= 0;
}

static bool begin_piece(struct resync *r)
{
	struct rsy_source *s = &r->s;
	struct rsy_disk *d;
	struct rsy_slot *slot;
	uint64_t len = piece_len(r), edge;

	if (s->n_list + RSY_WINDOW >= RSY_SENT_MAX || !may_begin(r))
		return false;
	slot = rsy_free_slot(r);
	if (!slot || (!s->span_len && !take_span(r)))
		return false;
	d = &r->d[s->span_disk];
	edge = d->region - s->span_off % d->region;
	len = len < edge ? len : edge;
	len = len < s->span_len ? len : s->span_len;
	slot->disk = s->span_disk;
	slot->off = s->span_off;
	slot->len = (uint32_t)len;
	slot->compare = mapped(d, slot->off);
	s->span_off += len;
	s->span_len -= len;
	s->tokens -= s->rate ? (int64_t)len : 0;
	if (slot->compare) {
		slot->state = SLOT_SCAN;
		rsy_scan(slot, slot->off, slot->len, 0, hashed);
	} else {
		next_run(slot);
	}
	return !r->ended;
}

/* Progress, and what the target has confirmed */

static uint64_t in_slots(const struct resync *r)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < RSY_WINDOW; i++)
		n += r->slot[i].state == SLOT_FREE ? 0 : r->slot[i].len;
	return n;
}

void resync_progress(const struct resync *r, struct resync_progress *out)
{
	const struct rsy_source *s = &r->s;
	const struct rsy_progress *h = &r->t.heard;
	unsigned int n = s->n_sample;

	if (!r->is_source) {
		*out = (struct resync_progress){ h->disk, r->cfg.n, h->done, h->total, h->sent, h->read, h->rate, h->left_ms,
						 h->comparing };
		return;
	}
	*out = (struct resync_progress){ .disks = r->cfg.n, .done = r->done, .sent = r->sent, .read = r->read };
	out->disk = s->disk < r->cfg.n ? s->disk : r->cfg.n - 1;
	out->total = r->done + in_slots(r) + s->span_len;
	if (s->state >= SRC_RUN)
		for (unsigned int i = 0; i < r->cfg.n; i++)
			out->total += meta_dirty_bytes(r->d[i].meta);
	for (unsigned int i = 0; i < RSY_WINDOW; i++)
		out->comparing |= r->slot[i].state != SLOT_FREE && r->slot[i].compare;
	if (n > 1 && s->sample[n - 1].at > s->sample[0].at)
		out->rate = (uint64_t)((double)(s->sample[n - 1].done - s->sample[0].done) * NS_PER_S /
				       (double)(s->sample[n - 1].at - s->sample[0].at));
	out->left_ms = out->rate ? (uint64_t)((double)(out->total - out->done) * 1000 / (double)out->rate) : UINT64_MAX;
	if (out->total == out->done)
		out->left_ms = 0;
}

/* Tell the target how far it is; @seq: 0, or the number that it is to answer with */
static bool tell(struct resync *r, uint64_t seq)
{
	struct resync_progress p;
	struct rsy_progress g;

	resync_progress(r, &p);
	g = (struct rsy_progress){ seq, p.done, p.total, p.sent, p.read, p.rate, p.left_ms, (uint16_t)p.disk, p.comparing };
	return !rsy_say(r, RSY_PROGRESS, 0, rsy_put_progress(r->payload, &g));
}

void rsy_source_tick(struct resync *r)
{
	struct rsy_source *s = &r->s;
	nstime now = loop_now(r->cfg.loop);

	if (s->state < SRC_RUN || r->ended)
		return;
	if (!s->n_sample || now - s->sample[s->n_sample - 1].at >= RSY_TICK) {
		struct resync_progress p;

		if (s->n_sample == RSY_SAMPLES)
			memmove(&s->sample[0], &s->sample[1], --s->n_sample * sizeof(s->sample[0]));
		s->sample[s->n_sample].at = now;
		s->sample[s->n_sample++].done = r->done;
		s->tick = true;
		/* Only what has moved: by this the owner knows that it goes on. */
		if (s->told && s->told_done == r->done && s->told_sent == r->sent && s->told_read == r->read)
			return;
		s->told = true;
		s->told_done = r->done;
		s->told_sent = r->sent;
		s->told_read = r->read;
		resync_progress(r, &p);
		if (r->cfg.progress)
			r->cfg.progress(r->cfg.arg, &p);
	}
}

/* When the timer has to come: for the next progress, or for the rate. */
static void set_timer(struct resync *r)
{
	struct rsy_source *s = &r->s;
	nstime now = loop_now(r->cfg.loop), at = s->sample[s->n_sample - 1].at + RSY_TICK;

	if (s->rate && s->tokens < 0) {
		nstime enough = now + 1 + (nstime)((double)-s->tokens * NS_PER_S / (double)s->rate);

		at = enough < at ? enough : at;
	}
	if (!r->timer.slot || r->timer.at != at)
		loop_timer_set(r->cfg.loop, &r->timer, at);
}

static int hear_progress(struct resync *r, const struct rsy_msg *m)
{
	struct rsy_source *s = &r->s;
	struct rsy_progress g;
	unsigned int kept = 0;

	if (s->state != SRC_RUN || rsy_get_progress(m->payload, m->len, &g) || !s->asked || g.seq != s->asked)
		return -EPROTO;
	s->asked = 0;
	for (unsigned int i = 0; i < s->n_list; i++)
		if (s->list[i].seq > g.seq)
			s->list[kept++] = s->list[i];
	s->n_list = kept;
	return 0;
}

/* Ask the target to make durable what it has, if it is time. */
static void ask(struct resync *r)
{
	struct rsy_source *s = &r->s;
	nstime now = loop_now(r->cfg.loop);

	if (s->asked || !s->n_list || r->blocked)
		return;
	if (!s->drain && s->list_bytes < RSY_SENT_BYTES && s->n_list < RSY_SENT_MAX / 2 && now - s->asked_at < RSY_ASK_EVERY)
		return;
	if (!tell(r, s->seq))
		return;
	s->asked = s->seq++;
	s->asked_at = now;
	s->list_bytes = 0;
}

/* All is confirmed and nothing is dirty: the copies are one from here on. */
static void conclude(struct resync *r)
{
	struct err e = { 0 };

	for (unsigned int i = 0; i < r->cfg.n; i++) {
		struct lineage *l = meta_lineage(r->d[i].meta);

		if (l->current.number != r->s.began[i].number || l->current.tag != r->s.began[i].tag) {
			rsy_end(r, -EPIPE, "disk %u: this node has gone on alone while the disks were brought up to date", i);
			return;
		}
		if (lineage_together(l) && meta_save(r->d[i].meta, &e)) {
			rsy_end(r, e.code, "%s", e.msg);
			return;
		}
		r->s.final.lineage[i] = *l;
	}
	r->s.final.n = r->cfg.n;
	r->s.state = SRC_DONE;
	r->again = true;
}

static bool anything_dirty(struct resync *r)
{
	for (unsigned int i = 0; i < r->cfg.n; i++)
		if (meta_dirty_bytes(r->d[i].meta))
			return true;
	return false;
}

static void run(struct resync *r)
{
	struct rsy_source *s = &r->s;

	/* Before the data, which fills whatever room there is. */
	if (s->tick && !r->blocked && tell(r, 0))
		s->tick = false;
	ask(r);
	for (unsigned int i = 0; i < RSY_WINDOW && !r->blocked && !r->ended; i++) {
		struct rsy_slot *slot = &r->slot[i];

		if (slot->state == SLOT_SAY) {
			if (!rsy_say(r, RSY_HASHES, slot->disk, rsy_put_hashes(r->payload, &slot->hashes)))
				slot->state = SLOT_WAIT;
		} else if (slot->state == SLOT_SEND) {
			send_run(slot);
		}
	}
	while (!r->ended && !r->blocked && begin_piece(r))
		;
	if (r->ended)
		return;
	s->drain = !s->span_len && s->disk == r->cfg.n && !in_slots(r);
	ask(r);
	if (r->ended)
		return;
	set_timer(r);
	if (!s->drain || s->n_list || s->asked || r->again)
		return;
	if (!anything_dirty(r)) {
		conclude(r);
		return;
	}
	/* Marked since: writes of the guest that have failed. */
	if (++s->passes > RSY_PASSES) {
		rsy_end(r, -EIO, "writes to the serving node's disks go on failing, so the joining node cannot be brought up to date");
		return;
	}
	s->disk = 0;
	s->off = 0;
	r->again = true;
}

void rsy_source_step(struct resync *r)
{
	struct rsy_source *s = &r->s;
	size_t len;

	switch (s->state) {
	case SRC_REFUSE:
		len = strlen(s->sentence);
		memcpy(r->payload, s->sentence, len);
		if (!rsy_say(r, RSY_REFUSE, 0, len))
			rsy_end(r, -EPERM, "%s", s->sentence);
		return;
	case SRC_PLAN:
		/* Until the target has taken it over, nobody knows what it lacks. */
		for (unsigned int i = 0; i < r->cfg.n; i++)
			meta_lineage(r->d[i].meta)->map &= (uint8_t)~LINEAGE_MAP_LEFT;
		if (!rsy_say(r, RSY_PLAN, 0, rsy_put_plan(r->payload, &s->plan)))
			s->state = SRC_READY;
		return;
	case SRC_RUN:
		run(r);
		return;
	case SRC_DONE:
		if (!rsy_say(r, RSY_DONE, 0, rsy_put_final(r->payload, &s->final)))
			s->state = SRC_SYNCED;
		return;
	case SRC_HELLO:
	case SRC_RANGES:
	case SRC_READY:
	case SRC_SYNCED:
		return;
	}
}

int rsy_source_message(struct resync *r, const struct rsy_msg *m)
{
	switch (m->type) {
	case RSY_HELLO:
		return hear_hello(r, m);
	case RSY_RANGES:
		return hear_ranges(r, m);
	case RSY_READY:
		return hear_ready(r, m);
	case RSY_DIFFER:
		return hear_differ(r, m);
	case RSY_PROGRESS:
		return hear_progress(r, m);
	case RSY_SYNCED:
		if (r->s.state != SRC_SYNCED || m->len)
			return -EPROTO;
		for (unsigned int i = 0; i < r->cfg.n; i++)
			meta_intent_reset(r->d[i].meta);
		rsy_end(r, 0, "the disks are up to date");
		return 0;
	case RSY_PLAN:
	case RSY_REFUSE:
	case RSY_HASHES:
	case RSY_DONE:
		break;
	}
	return -EPROTO;
}

void resync_rate(struct resync *r, uint64_t rate)
{
	r->s.rate = rate;
	r->s.tokens = 0;
	r->s.tokens_at = loop_now(r->cfg.loop);
	rsy_pump(r);
}

struct resync *resync_source(const struct resync_cfg *cfg, struct serve *serve, const struct resync_peer *peer, struct err *e)
{
	struct resync *r;

	for (unsigned int i = 0; i < cfg->n; i++) {
		if (lineage_may_serve(meta_lineage(cfg->metas[i])))
			continue;
		err_set(e, -EPERM, "disk %u: this node's copy is not complete: it was being overwritten when that was broken off, so "
			"nothing can be taken from it", i);
		return NULL;
	}
	r = rsy_new(cfg, peer, true, e);
	if (!r)
		return NULL;
	r->s.serve = serve;
	r->s.rate = cfg->rate;
	r->s.tokens_at = loop_now(cfg->loop);
	r->s.seq = 1;
	r->s.list = calloc(RSY_SENT_MAX, sizeof(*r->s.list));
	if (r->s.list)
		return r;
	rsy_drop(r);
	err_set(e, -ENOMEM, "no memory to bring the disks up to date");
	return NULL;
}
