/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connection tracking: one table of fixed size, hashed with a secret key (a client chooses ports, so it could
 * choose collisions), linked by age. Nothing is removed by time: a flow is forgotten when its place is needed and
 * it carries nothing, the longest unused first; so a flood of new connections cannot push out one with an
 * untranslatable past. Pure; belongs to one struct net.
 */
#include "core/flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/siphash.h"

#define CLOSED_NS	(120 * NS_PER_S)
#define EVICT_LOOK 64	/* oldest flows that are looked at for one that may go */

int flow_table_init(struct flow_table *t, uint32_t n, const uint64_t key[2])
{
	memset(t, 0, sizeof(*t));
	t->n = n;
	for (t->n_buckets = 16; t->n_buckets < n; t->n_buckets *= 2)
		;
	t->flows = calloc(n, sizeof(*t->flows));
	t->buckets = malloc(t->n_buckets * sizeof(*t->buckets));
	t->key[0] = key[0];
	t->key[1] = key[1];
	if (!t->flows || !t->buckets) {
		flow_table_free(t);
		return -ENOMEM;
	}
	flow_table_reset(t);
	return 0;
}

void flow_table_free(struct flow_table *t)
{
	free(t->flows);
	free(t->buckets);
	t->flows = NULL;
	t->buckets = NULL;
}

void flow_table_reset(struct flow_table *t)
{
	for (uint32_t i = 0; i < t->n; i++) {
		t->flows[i].used = false;
		t->flows[i].hash_next = i + 1 < t->n ? i + 1 : FLOW_NONE;
	}
	memset(t->buckets, 0xff, t->n_buckets * sizeof(*t->buckets));
	t->free_head = t->n ? 0 : FLOW_NONE;
	t->n_used = 0;
	t->lru_head = t->lru_tail = FLOW_NONE;
}

static uint32_t *bucket(struct flow_table *t, const struct flow_key *key)
{
	return &t->buckets[siphash24(t->key, key, sizeof(*key)) & (t->n_buckets - 1)];
}

struct flow *flow_find(struct flow_table *t, const struct flow_key *key)
{
	for (uint32_t i = *bucket(t, key); i != FLOW_NONE; i = t->flows[i].hash_next)
		if (!memcmp(&t->flows[i].key, key, sizeof(*key)))
			return &t->flows[i];
	return NULL;
}

static void lru_unlink(struct flow_table *t, struct flow *f)
{
	if (f->lru_prev == FLOW_NONE)
		t->lru_head = f->lru_next;
	else
		t->flows[f->lru_prev].lru_next = f->lru_next;
	if (f->lru_next == FLOW_NONE)
		t->lru_tail = f->lru_prev;
	else
		t->flows[f->lru_next].lru_prev = f->lru_prev;
}

static void lru_append(struct flow_table *t, struct flow *f)
{
	f->lru_prev = t->lru_tail;
	f->lru_next = FLOW_NONE;
	if (t->lru_tail == FLOW_NONE)
		t->lru_head = f->self;
	else
		t->flows[t->lru_tail].lru_next = f->self;
	t->lru_tail = f->self;
}

void flow_touch(struct flow_table *t, struct flow *f, nstime now)
{
	f->last = now;
	if (t->lru_tail == f->self)
		return;
	lru_unlink(t, f);
	lru_append(t, f);
}

struct flow *flow_make(struct flow_table *t, const struct flow_key *key, nstime now)
{
	uint32_t i = t->free_head, *b;
	struct flow *f;

	if (i == FLOW_NONE)
		return NULL;
	f = &t->flows[i];
	t->free_head = f->hash_next;
	memset(f, 0, sizeof(*f));
	f->key = *key;
	f->self = i;
	f->used = true;
	f->last = now;
	f->stash = f->held_rst = FRAME_NONE;
	f->log_head = f->log_tail = FLOW_NONE;
	frame_list_init(&f->loc.held);
	frame_list_init(&f->rem.held);
	b = bucket(t, key);
	f->hash_next = *b;
	*b = i;
	lru_append(t, f);
	t->n_used++;
	return f;
}

bool flow_idle(const struct flow *f)
{
	return !f->loc.held.n && !f->rem.held.n && !f->n_log && f->stash == FRAME_NONE && f->held_rst == FRAME_NONE &&
	       !f->seq_off && !f->ts_off && !f->pending && !f->has_next && !f->has_table && !f->dirty && !f->on_held &&
	       !f->rel_due && !f->owed && !f->diverged;
}

struct flow *flow_oldest_idle(struct flow_table *t, nstime now)
{
	struct flow *f, *ended = NULL;
	int look = EVICT_LOOK;

	flow_for_each(t, f) {
		if (!look--)
			break;
		if (flow_idle(f))
			return f;
		/* A translated flow that was closed, and quiet for as long as TIME_WAIT lasts, needs its numbers no more. */
		if (!ended && (f->loc.rst || f->loc.fin) && now - f->last > CLOSED_NS && !f->pending && !f->has_next &&
		    !f->has_table && !f->loc.held.n && !f->rem.held.n && !f->n_log &&
		    f->held_rst == FRAME_NONE && f->stash == FRAME_NONE && !f->dirty && !f->on_held && !f->rel_due)
			ended = f;
	}
	return ended;
}

void flow_remove(struct flow_table *t, struct flow *f)
{
	uint32_t *b = bucket(t, &f->key);

	while (*b != f->self)
		b = &t->flows[*b].hash_next;
	*b = f->hash_next;
	lru_unlink(t, f);
	f->used = false;
	f->hash_next = t->free_head;
	t->free_head = f->self;
	t->n_used--;
}

void flow_side_reset(struct flow_side *s)
{
	struct frame_list held = s->held;

	memset(s, 0, sizeof(*s));
	s->held = held;
}

void flow_side_update(struct flow_side *s, const struct packet *p, uint8_t ws)
{
	uint32_t end = p->seq + packet_span(p);

	if (p->flags & TCP_RST) {
		s->rst = true;
		s->rst_seq = p->seq;
		return;
	}
	if (p->flags & TCP_SYN) {
		s->syn = true;
		s->isn = p->seq;
	}
	if (p->flags & TCP_FIN)
		s->fin = true;
	s->nxt = s->seen ? seq_max(s->nxt, end) : end;
	s->seen = true;
	if (p->flags & TCP_ACK) {
		uint32_t edge = p->ack + ((uint32_t)p->win << (p->flags & TCP_SYN ? 0 : ws));

		if (!s->ack_known || seq_leq(s->ack, p->ack)) {
			s->n_sack = p->n_sack;
			if (!(p->flags & TCP_SYN))
				s->win = p->win;
			memcpy(s->sack, p->sack, sizeof(s->sack));
			if (p->has_ts)
				s->tsecr = p->tsecr;
		}
		s->ack = s->ack_known ? seq_max(s->ack, p->ack) : p->ack;
		s->edge = s->ack_known ? seq_max(s->edge, edge) : edge;
		s->ack_known = true;
	}
}
