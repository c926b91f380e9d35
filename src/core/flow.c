/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Connection tracking: theory of operation
 *
 * One table of fixed size, hashed with a secret key (a client chooses ports, so it could choose collisions). Nothing
 * is removed by time: a flow is forgotten when its place is needed. Who has to go is decided by class, the longest
 * unused first: connections that were never seen to be established, then datagram flows that carry nothing, then idle
 * connections. So a flood of new connections pushes out its own kind, and never one with an untranslatable past.
 *
 * A flow is in the hash, in the list of all, in the list of its class by age, and in any of the FLOW_LISTS; all but the
 * first are doubly linked, so that any flow can be taken out at once. Pure; belongs to one struct net.
 */
#include "core/flow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/siphash.h"

#define CLOSED_NS	(120 * NS_PER_S)

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
	t->all_head = FLOW_NONE;
	for (int i = 0; i < FLOW_CLASSES; i++) {
		t->lru_head[i] = t->lru_tail[i] = FLOW_NONE;
		t->n_class[i] = 0;
	}
	for (int i = 0; i < FLOW_LISTS; i++)
		t->list_head[i] = FLOW_NONE;
}

static uint32_t *bucket(struct flow_table *t, const struct flow_key *key)
{
	return &t->buckets[siphash13(t->key, key, sizeof(*key)) & (t->n_buckets - 1)];
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
	if (f->lru.prev == FLOW_NONE)
		t->lru_head[f->cls] = f->lru.next;
	else
		t->flows[f->lru.prev].lru.next = f->lru.next;
	if (f->lru.next == FLOW_NONE)
		t->lru_tail[f->cls] = f->lru.prev;
	else
		t->flows[f->lru.next].lru.prev = f->lru.prev;
	t->n_class[f->cls]--;
}

static void lru_append(struct flow_table *t, struct flow *f)
{
	uint32_t tail = t->lru_tail[f->cls];

	f->lru.prev = tail;
	f->lru.next = FLOW_NONE;
	if (tail == FLOW_NONE)
		t->lru_head[f->cls] = f->self;
	else
		t->flows[tail].lru.next = f->self;
	t->lru_tail[f->cls] = f->self;
	t->n_class[f->cls]++;
}

void flow_touch(struct flow_table *t, struct flow *f, nstime now)
{
	if (now - f->last < TOUCH_NS)
		return;
	f->last = now;
	if (t->lru_tail[f->cls] == f->self)
		return;
	lru_unlink(t, f);
	lru_append(t, f);
}

void flow_establish(struct flow_table *t, struct flow *f)
{
	if (f->cls != FLOW_EMBRYO)
		return;
	lru_unlink(t, f);
	f->cls = FLOW_OPEN;
	lru_append(t, f);
}

void flow_list_add(struct flow_table *t, struct flow *f, enum flow_list l)
{
	struct flow_link *k = &f->link[l];

	if (k->on)
		return;
	k->on = true;
	k->prev = FLOW_NONE;
	k->next = t->list_head[l];
	if (k->next != FLOW_NONE)
		t->flows[k->next].link[l].prev = f->self;
	t->list_head[l] = f->self;
}

void flow_list_del(struct flow_table *t, struct flow *f, enum flow_list l)
{
	struct flow_link *k = &f->link[l];

	if (!k->on)
		return;
	k->on = false;
	if (k->prev == FLOW_NONE)
		t->list_head[l] = k->next;
	else
		t->flows[k->prev].link[l].next = k->next;
	if (k->next != FLOW_NONE)
		t->flows[k->next].link[l].prev = k->prev;
}

struct flow *flow_list_first(struct flow_table *t, enum flow_list l)
{
	return t->list_head[l] == FLOW_NONE ? NULL : &t->flows[t->list_head[l]];
}

struct flow *flow_list_next(struct flow_table *t, const struct flow *f, enum flow_list l)
{
	return f->link[l].next == FLOW_NONE ? NULL : &t->flows[f->link[l].next];
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
	f->held_rst = FRAME_NONE;
	f->log_head = f->log_tail = FLOW_NONE;
	frame_list_init(&f->loc.held);
	frame_list_init(&f->rem.held);
	frame_list_init(&f->stash);
	b = bucket(t, key);
	f->hash_next = *b;
	*b = i;
	f->cls = key->datagram ? FLOW_DGRAM : FLOW_EMBRYO;
	lru_append(t, f);
	f->all.prev = FLOW_NONE;
	f->all.next = t->all_head;
	if (t->all_head != FLOW_NONE)
		t->flows[t->all_head].all.prev = i;
	t->all_head = i;
	t->n_used++;
	return f;
}

/* Frames, log entries or lines of a table that wait. */
static bool carries(const struct flow *f)
{
	return f->loc.held.n || f->rem.held.n || f->n_log || f->stash.n || f->held_rst != FRAME_NONE || f->pending ||
	       f->has_next || f->has_table || f->link[LIST_DIRTY].on || f->link[LIST_HELD].on || f->link[LIST_REL].on;
}

bool flow_ended(const struct flow *f, nstime now)
{
	return (f->loc.rst || f->loc.fin) && now - f->last > CLOSED_NS && !carries(f);
}

bool flow_idle(const struct flow *f)
{
	return !carries(f) && !f->seq_off && !f->ts_off && !f->owed && !f->diverged;
}

struct flow *flow_oldest(struct flow_table *t, enum flow_class cls)
{
	return t->lru_head[cls] == FLOW_NONE ? NULL : &t->flows[t->lru_head[cls]];
}

struct flow *flow_oldest_idle(struct flow_table *t, enum flow_class cls, nstime now)
{
	struct flow *ended = NULL;
	uint32_t i = t->lru_head[cls];

	for (int look = FLOW_LOOK; look-- && i != FLOW_NONE; i = t->flows[i].lru.next) {
		struct flow *f = &t->flows[i];

		if (flow_idle(f))
			return f;
		/* A translated flow that was closed, and quiet for as long as TIME_WAIT lasts, needs its numbers no more. */
		if (!ended && flow_ended(f, now))
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
	for (int l = 0; l < FLOW_LISTS; l++)
		flow_list_del(t, f, l);
	if (f->all.prev == FLOW_NONE)
		t->all_head = f->all.next;
	else
		t->flows[f->all.prev].all.next = f->all.next;
	if (f->all.next != FLOW_NONE)
		t->flows[f->all.next].all.prev = f->all.prev;
	f->used = false;
	f->hash_next = t->free_head;
	t->free_head = f->self;
	t->n_used--;
}

void flow_side_reset(struct flow_side *s)
{
	struct frame_list held = s->held;
	uint32_t bytes = s->held_bytes;

	memset(s, 0, sizeof(*s));
	s->held = held;
	s->held_bytes = bytes;
}

void flow_side_update(struct flow_side *s, const struct packet *p, uint8_t ws)
{
	uint32_t end = p->seq + packet_span(p);

	if (p->flags & TCP_RST) {
		s->rst = true;
		s->rst_seq = p->seq;
		return;
	}
	s->rst = false;
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
