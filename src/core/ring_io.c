/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The ring in bytes: written at a failover, read by `lockstep blackbox`, maybe much later and on another machine.
 *
 * One function a structure names its fields, and serves both directions, so that writing and reading cannot differ.
 * Everything is big-endian and of fixed size. Whatever is read is bounded and checked: an enumeration out of range, a
 * flag that is neither 0 nor 1, a count beyond its limit make the whole dump bad; nothing is half believed. (Time runs
 * through ft_step() only in additions and comparisons that any number survives.)
 *
 *	"LSRING", version, size of the ring, number of the first step, how many steps, how many states, states, steps, sum
 *
 * The version changes with struct ft: another version is refused, since its states could not be replayed.
 */
#include "core/ring_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cursor.h"
#include "base/siphash.h"

enum { RING_VERSION = 9, RING_SUM = 8 };

struct io {
	struct cursor r;
	struct wcursor w;
	bool reading;
	bool bad;		/* a value that cannot be */
};

static void io_n(struct io *io, uint64_t *v, size_t bytes)
{
	if (io->reading)
		*v = cursor_be(&io->r, bytes);
	else
		wcursor_be(&io->w, *v, bytes);
}

static void io_u64(struct io *io, uint64_t *v)
{
	io_n(io, v, 8);
}

static void io_u32(struct io *io, uint32_t *v)
{
	uint64_t x = *v;

	io_n(io, &x, 4);
	*v = (uint32_t)x;
}

static void io_bool(struct io *io, bool *v)
{
	uint64_t x = *v;

	io_n(io, &x, 1);
	if (x > 1)
		io->bad = true;
	*v = x == 1;
}

/* An enumeration with values from 0 to @last. */
static unsigned int io_enum(struct io *io, unsigned int v, unsigned int last)
{
	uint64_t x = v <= last ? v : last;

	io_n(io, &x, 1);
	if (x > last) {
		io->bad = true;
		x = 0;
	}
	return (unsigned int)x;
}

#define IO_ENUM(io, v, last) ((v) = (__typeof__(v))io_enum(io, (unsigned int)(v), last))

static void io_times(struct io *io, struct ckpt_times *t)
{
	io_u64(io, &t->n);
	IO_ENUM(io, t->cause, CAUSE_MAX - 1);
	io_u64(io, &t->begun);
	io_u64(io, &t->gate);
	io_u64(io, &t->stop);
	io_u64(io, &t->drain);
	io_u64(io, &t->save);
	io_u64(io, &t->copy);
	io_u64(io, &t->cont);
	io_u64(io, &t->pause);
	io_u64(io, &t->staged);
	io_u64(io, &t->loaded);
	io_u64(io, &t->pages);
}

static void io_cfg(struct io *io, struct ft_cfg *c)
{
	IO_ENUM(io, c->role, FT_SECONDARY);
	io_u64(io, &c->checkpoint_delay);
	io_u64(io, &c->min_interval);
	io_u64(io, &c->gate_deadline);
	io_u64(io, &c->stop_deadline);
	io_u64(io, &c->copy_deadline);
	io_u64(io, &c->staged_deadline);
	io_u64(io, &c->loaded_deadline);
	io_u64(io, &c->load_deadline);
	io_u64(io, &c->lease);
	io_u64(io, &c->drift);
	io_u64(io, &c->share_after);
	io_u32(io, &c->max_rounds);
	io_u32(io, &c->round_goal);
	io_u32(io, &c->precopy.goal);
	io_u64(io, &c->precopy.min);
	io_u64(io, &c->precopy.max);
	io_u32(io, &c->precopy.share);
	io_bool(io, &c->precopy.off);
	io_bool(io, &c->disks);
	io_bool(io, &c->fence);
	io_u64(io, &c->fence_retry);
	IO_ENUM(io, c->witness, FT_WITNESS_ASK);
	io_u64(io, &c->witness_limit);
	io_u64(io, &c->witness_retry);
	io_bool(io, &c->strict_death);
	io_u32(io, &c->faults);
}

static void io_primary(struct io *io, struct ckpt_primary *p)
{
	IO_ENUM(io, p->phase, PRI_PHASE_MAX - 1);
	IO_ENUM(io, p->cause, CAUSE_MAX - 1);
	IO_ENUM(io, p->wish, CAUSE_MAX - 1);
	io_u64(io, &p->n);
	io_bool(io, &p->first);
	io_bool(io, &p->closed);
	io_bool(io, &p->drained);
	io_bool(io, &p->disked);
	io_bool(io, &p->saved);
	io_bool(io, &p->copied);
	io_bool(io, &p->conted);
	io_bool(io, &p->staged);
	io_bool(io, &p->again);
	io_bool(io, &p->undoing);
	io_u32(io, &p->rounds);
	io_u64(io, &p->dirty);
	io_u64(io, &p->deadline);
	io_u64(io, &p->loaded_at);
	io_u64(io, &p->stop_sent);
	io_u64(io, &p->stop_done);
	io_u64(io, &p->cont_sent);
	io_u64(io, &p->cont_done);
	io_u64(io, &p->staged_at);
	io_times(io, &p->cur);
	io_times(io, &p->last);
	io_u64(io, &p->pre.interval);
	io_u64(io, &p->pre.scanned_at);
	io_u64(io, &p->pre.begun_at);
	io_u64(io, &p->pre.ended_at);
	io_u64(io, &p->pre.took);
	io_u64(io, &p->pre.rate);
	io_bool(io, &p->pre.on);
	io_bool(io, &p->pre.under_way);
	io_bool(io, &p->no_precopy);
	io_bool(io, &p->last_round);
}

static void io_secondary(struct io *io, struct ckpt_secondary *s)
{
	IO_ENUM(io, s->phase, SEC_PHASE_MAX - 1);
	io_u64(io, &s->n);
	io_u64(io, &s->frames_n);
	io_u64(io, &s->bulk_n);
	io_u64(io, &s->reserved_n);
	io_u64(io, &s->disk_n);
	io_bool(io, &s->drained);
	io_bool(io, &s->applied);
	io_bool(io, &s->flipped);
	io_bool(io, &s->said);
	io_bool(io, &s->first);
	io_bool(io, &s->early);
	io_bool(io, &s->restarted);
	io_bool(io, &s->svm_off);
	IO_ENUM(io, s->svm_panic, FT_PANIC_OFF);
	io_bool(io, &s->aborted);
	io_bool(io, &s->held);
	io_bool(io, &s->gated);
	io_bool(io, &s->disk_wish);
	io_u64(io, &s->forget);
	io_u64(io, &s->deadline);
}

static void io_share(struct io *io, struct share *h)
{
	IO_ENUM(io, h->phase, SHARE_PHASE_MAX - 1);
	io_bool(io, &h->last);
	io_u32(io, &h->failures);
	io_u64(io, &h->stopped_at);
	io_u64(io, &h->deadline);
}

static void io_ft(struct io *io, struct ft *ft)
{
	io_cfg(io, &ft->cfg);
	IO_ENUM(io, ft->state, FT_STATE_MAX - 1);
	IO_ENUM(io, ft->reason, FT_WHY_MAX - 1);
	IO_ENUM(io, ft->failed, STEP_MAX);
	IO_ENUM(io, ft->fence, FENCE_REFUSED);
	IO_ENUM(io, ft->leave, LEAVE_LAST_PANIC);
	io_u32(io, &ft->generation);
	io_u64(io, &ft->epoch);
	io_bool(io, &ft->link);
	io_bool(io, &ft->parting);
	io_bool(io, &ft->rival);
	io_bool(io, &ft->covered);
	io_bool(io, &ft->claimed);
	io_bool(io, &ft->muted);
	io_bool(io, &ft->suspect);
	io_bool(io, &ft->reachable);
	IO_ENUM(io, ft->ask, ASK_GRANTED);
	IO_ENUM(io, ft->still, STILL_DONE);
	io_u64(io, &ft->ask_at);
	io_u64(io, &ft->alone_at);
	io_u64(io, &ft->part_at);
	io_u64(io, &ft->takeover_at);
	io_u64(io, &ft->beat_sent);
	io_u64(io, &ft->beat_seen);
	io_u64(io, &ft->lease);
	IO_ENUM(io, ft->why, FT_WHY_MAX - 1);
	for (int i = 0; i < STEP_MAX; i++) {
		io_bool(io, &ft->busy[i].on);
		io_bool(io, &ft->busy[i].late);
		io_u64(io, &ft->busy[i].n);
		io_u64(io, &ft->busy[i].deadline);
	}
	io_primary(io, &ft->p);
	io_secondary(io, &ft->s);
	io_share(io, &ft->share);
	io_bool(io, &ft->paused);
	io_u64(io, &ft->pauses);
	io_u64(io, &ft->peer_pauses);
	for (int i = 0; i < CAUSE_MAX; i++)
		io_u64(io, &ft->done[i]);
	io_u64(io, &ft->done_all);
	io_u64(io, &ft->aborted);
	io_u64(io, &ft->refused);
}

static void io_ctl(struct io *io, struct ctl_msg *m)
{
	IO_ENUM(io, m->type, CTL_TYPE_MAX);
	io_u32(io, &m->generation);
	io_u64(io, &m->n);
	io_u64(io, &m->value);
}

static void io_event(struct io *io, struct ft_ev *ev)
{
	uint32_t rc = (uint32_t)ev->rc;

	IO_ENUM(io, ev->type, FE_TYPE_MAX);
	IO_ENUM(io, ev->step, STEP_MAX);
	IO_ENUM(io, ev->cause, CAUSE_MAX);
	io_u32(io, &rc);
	ev->rc = (int)rc;
	io_u64(io, &ev->n);
	io_u64(io, &ev->value);
	if (ev->type == FE_CTL)
		io_ctl(io, &ev->ctl);
}

static void io_action(struct io *io, struct ft_act *a)
{
	IO_ENUM(io, a->type, FA_TYPE_MAX - 1);
	IO_ENUM(io, a->step, STEP_MAX);
	IO_ENUM(io, a->net, NEV_MSG);
	IO_ENUM(io, a->reason, FT_WHY_MAX - 1);
	io_u64(io, &a->n);
	io_u64(io, &a->value);
	if (a->type == FA_CTL)
		io_ctl(io, &a->ctl);
}

static const uint8_t magic[6] = { 'L', 'S', 'R', 'I', 'N', 'G' };

static uint64_t sum(const void *buf, size_t len)
{
	static const uint64_t key[2] = { 0x6c6f636b73746570, 0x626c61636b626f78 };

	return siphash24(key, buf, len);
}

static void io_head(struct io *io, struct ring *r, uint64_t *count, uint64_t *shots)
{
	uint64_t version = RING_VERSION;

	io_n(io, &version, 2);
	if (version != RING_VERSION)
		io->bad = true;
	io_u32(io, &r->steps);
	io_u64(io, &r->first);
	io_n(io, count, 4);
	io_n(io, shots, 1);
}

size_t ring_dump_size(const struct ring *r)
{
	uint64_t acts = r->next_act - (ring_count(r) ? ring_rec(r, r->first)->act : r->next_act);

	/* No field takes more room in bytes than in memory. */
	return sizeof(magic) + 64 + r->n_shots * sizeof(struct ring_shot) + ring_count(r) * sizeof(struct ring_rec) +
	       acts * sizeof(struct ft_act) + RING_SUM;
}

long ring_dump(const struct ring *r, void *buf, size_t cap)
{
	struct io io = { .w = wcursor_of(buf, cap) };
	uint64_t count = ring_count(r), shots = r->n_shots;
	struct ring head = *r;

	wcursor_bytes(&io.w, magic, sizeof(magic));
	io_head(&io, &head, &count, &shots);
	for (unsigned int i = 0; i < r->n_shots; i++) {
		struct ring_shot shot = r->shot[i];

		io_u64(&io, &shot.step);
		io_ft(&io, &shot.ft);
	}
	for (uint64_t n = r->first; n < r->next; n++) {
		struct ring_rec rec = *ring_rec(r, n);
		uint64_t acts = rec.n_acts;

		io_u64(&io, &rec.at);
		io_event(&io, &rec.ev);
		IO_ENUM(&io, rec.state, FT_STATE_MAX - 1);
		io_n(&io, &acts, 1);
		for (uint32_t k = 0; k < rec.n_acts; k++) {
			struct ft_act a = *ring_act(r, rec.act + k);

			io_action(&io, &a);
		}
	}
	wcursor_u64(&io.w, io.w.bad ? 0 : sum(buf, io.w.done));
	return io.w.bad ? -ENOSPC : (long)io.w.done;
}

static void load_step(struct io *io, struct ring *r)
{
	struct ring_rec rec = { 0 };
	struct ft_acts acts = { 0 };
	uint64_t n_acts = 0;

	for (unsigned int i = 0; i < r->n_shots; i++)
		if (r->shot[i].step == r->next)
			r->shot[i].act = r->next_act;
	io_u64(io, &rec.at);
	io_event(io, &rec.ev);
	IO_ENUM(io, rec.state, FT_STATE_MAX - 1);
	io_n(io, &n_acts, 1);
	if (n_acts > FT_MAX_ACTS) {
		io->bad = true;
		return;
	}
	acts.n = (unsigned int)n_acts;
	for (unsigned int k = 0; k < acts.n; k++)
		io_action(io, &acts.a[k]);
	ring_put(r, rec.at, &rec.ev, rec.state, &acts);
}

/* Everything after the head; false: it cannot be. */
static bool load_body(struct io *io, struct ring *r, uint64_t first, uint64_t count, uint64_t shots)
{
	r->first = r->next = first;
	for (unsigned int i = 0; i < shots; i++) {
		struct ring_shot *s = &r->shot[i];

		io_u64(io, &s->step);
		io_ft(io, &s->ft);
		if (s->step < first || s->step >= first + count || (i && s->step <= r->shot[0].step))
			return false;
	}
	r->n_shots = (unsigned int)shots;
	for (; count && !io->bad && !io->r.bad; count--)
		load_step(io, r);
	/* A step makes others give way only if there are more actions than a ring can hold. */
	return !io->bad && !io->r.bad && !io->r.left && r->first == first;
}

struct ring *ring_load(const void *buf, size_t len, struct err *e)
{
	struct io io = { .reading = true };
	uint64_t count = 0, shots = 0;
	struct ring head = { 0 }, *r;
	struct cursor tail;
	const uint8_t *m;

	if (len < sizeof(magic) + RING_SUM) {
		err_set(e, -EBADMSG, "this is no blackbox of Lockstep: %zu bytes are too few", len);
		return NULL;
	}
	io.r = cursor_of(buf, len - RING_SUM);
	tail = cursor_of((const uint8_t *)buf + len - RING_SUM, RING_SUM);
	m = cursor_get(&io.r, sizeof(magic));
	if (!m || memcmp(m, magic, sizeof(magic))) {
		err_set(e, -EBADMSG, "this is no blackbox of Lockstep: it does not begin like one");
		return NULL;
	}
	if (sum(buf, len - RING_SUM) != cursor_u64(&tail)) {
		err_set(e, -EBADMSG, "this blackbox is damaged or cut off: its checksum is wrong");
		return NULL;
	}
	io_head(&io, &head, &count, &shots);
	if (io.bad) {
		err_set(e, -EPROTO, "this blackbox was written by another version of Lockstep, which can read it");
		return NULL;
	}
	if (io.r.bad || count > head.steps || shots > 2 || head.first > UINT64_MAX / 2 ||
	    head.steps < RING_STEPS_MIN || head.steps > RING_STEPS_MAX) {
		err_set(e, -EBADMSG, "this blackbox holds counts that cannot be");
		return NULL;
	}
	r = ring_new(head.steps);
	if (!r) {
		err_set(e, -ENOMEM, "no memory for a blackbox of %u steps", head.steps);
		return NULL;
	}
	if (!load_body(&io, r, head.first, count, shots)) {
		ring_free(r);
		err_set(e, -EBADMSG, "this blackbox holds values that cannot be");
		return NULL;
	}
	return r;
}
