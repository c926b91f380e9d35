/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Time, chance and wires.
 *
 * The heap orders events by time and then by number, so one seed always gives one order. The three connections
 * between the nodes are FIFOs whose messages have arrival times of their own: each connection is delayed
 * independently of the others, never reordered within itself, and stalls now and then (a lost segment of the link).
 * When a sender is killed, what its peer's kernel had not received is lost: each connection is cut at a random point.
 *
 * The external network loses, doubles and reorders frames until sim.quiet_from; a switch sends what is for the
 * guest to the node that spoke last, broadcasts to both.
 */
#include <stdio.h>
#include <stdlib.h>

#include "sim.h"

uint64_t sim_rand(struct sim *s)
{
	/* xoroshiro128+ (Blackman and Vigna, 2018) */
	uint64_t a = s->rng[0], b = s->rng[1], r = a + b;

	b ^= a;
	s->rng[0] = (a << 24 | a >> 40) ^ b ^ b << 16;
	s->rng[1] = b << 37 | b >> 27;
	return r;
}

static bool ev_before(const struct ev *a, const struct ev *b)
{
	return a->t != b->t ? a->t < b->t : a->seq < b->seq;
}

void sim_at(struct sim *s, nstime t, enum ev_type type, int node, uint16_t a, uint32_t b, struct pkt *p)
{
	struct ev e = { .t = t < s->now ? s->now : t, .seq = s->seq++, .type = (uint8_t)type, .node = (uint8_t)node,
			.a = a, .b = b, .p = p };
	struct ev *heap = s->store->heap;
	uint32_t i = s->n_heap;

	e.inc = type == EV_CHAN ? s->link_inc : s->node[node].inc;
	if (s->n_heap == SIM_HEAP)
		sim_fail(s, "harness", "event heap is full");
	s->n_heap++;
	while (i && ev_before(&e, &heap[(i - 1) / 2])) {
		heap[i] = heap[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	heap[i] = e;
}

bool sim_next(struct sim *s, struct ev *e)
{
	struct ev *heap = s->store->heap, last;
	uint32_t i = 0, c;

	if (!s->n_heap)
		return false;
	*e = heap[0];
	last = heap[--s->n_heap];
	while ((c = 2 * i + 1) < s->n_heap) {
		if (c + 1 < s->n_heap && ev_before(&heap[c + 1], &heap[c]))
			c++;
		if (!ev_before(&heap[c], &last))
			break;
		heap[i] = heap[c];
		i = c;
	}
	heap[i] = last;
	s->now = e->t;
	return true;
}

struct pkt *pkt_new(struct sim *s)
{
	struct pkt *p = s->free_pkts;

	if (p)
		s->free_pkts = p->next;
	else if (s->n_pkts < SIM_PKTS)
		p = &s->store->pkts[s->n_pkts++];
	else
		sim_fail(s, "harness", "out of packets");
	memset(p, 0, offsetof(struct pkt, data));
	return p;
}

struct pkt *pkt_copy(struct sim *s, const void *data, uint32_t len, uint8_t nic)
{
	struct pkt *p = pkt_new(s);

	if (len > SIM_MAX_FRAME)
		sim_fail(s, "P7", "a frame of %u bytes, more than anybody sent", len);
	memcpy(p->data, data, len);
	p->len = (uint16_t)len;
	p->nic = nic;
	return p;
}

struct pkt *pkt_dup(struct sim *s, const struct pkt *p)
{
	struct pkt *q = pkt_new(s);

	memcpy(q, p, offsetof(struct pkt, data) + p->len);
	q->next = NULL;
	return q;
}

void pkt_free(struct sim *s, struct pkt *p)
{
	p->next = s->free_pkts;
	s->free_pkts = p;
}

void pktq_init(struct pktq *q)
{
	q->head = NULL;
	q->tail = &q->head;
	q->n = 0;
}

void pktq_push(struct pktq *q, struct pkt *p)
{
	p->next = NULL;
	*q->tail = p;
	q->tail = &p->next;
	q->n++;
}

struct pkt *pktq_pop(struct pktq *q)
{
	struct pkt *p = q->head;

	if (p) {
		q->head = p->next;
		if (!q->head)
			q->tail = &q->head;
		q->n--;
	}
	return p;
}

struct pkt *pktq_pop_any(struct sim *s, struct pktq *q)
{
	struct pkt *p, **at;

	if (s->nics < 2 || !q->head || !chance(s, 3000))
		return pktq_pop(q);
	for (at = &q->head; (p = *at); at = &p->next) {
		if (p->nic == q->head->nic)
			continue;
		*at = p->next;
		if (!p->next)
			q->tail = at;
		q->n--;
		return p;
	}
	return pktq_pop(q);
}

void pktq_clear(struct sim *s, struct pktq *q)
{
	struct pkt *p;

	while ((p = pktq_pop(q)))
		pkt_free(s, p);
}

void sim_fail(struct sim *s, const char *promise, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(s->why, sizeof(s->why), fmt, ap);
	va_end(ap);
	s->promise = promise;
	s->failed = true;
	TR(s, "VIOLATION %s: %s", promise, s->why);
	longjmp(s->out, 1);
}

void sim_trace(struct sim *s, const char *fmt, ...)
{
	va_list ap;

	printf("%10.3f ms  ", (double)s->now / 1e6);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

struct cmsg *chan_send(struct sim *s, int from, int kind)
{
	struct chan *c = &s->chan[from][kind];
	nstime at = s->now + us(s, s->link_delay, s->link_delay + s->link_jitter);
	struct cmsg *m;

	if (c->closed)
		return NULL;
	if (c->tail - c->head == SIM_CHANQ)
		sim_fail(s, "harness", "connection %d of node %d is full", kind, from);
	if (chance(s, s->link_stall))
		at += us(s, 1000, 40000);
	at = cut_over(s, from, at);
	if (at < c->last)
		at = c->last;
	c->last = at;
	m = &c->q[c->tail++ % SIM_CHANQ];
	m->eof = false;
	m->p = NULL;
	m->dev = NULL;
	m->at = at;
	sim_at(s, at, EV_CHAN, from, (uint16_t)kind, 0, NULL);
	return m;
}

static void chan_eof(struct sim *s, int from, int kind)
{
	struct chan *c = &s->chan[from][kind];
	struct cmsg *m = chan_send(s, from, kind);

	if (m)
		m->eof = true;
	c->closed = true;
}

void chan_close(struct sim *s, int from)
{
	/* What is still under way to who cannot be reached is gone with the socket; a reset is all that is left. */
	if (cut_now(s, from, CUT_DATA) && chance(s, 5000)) {
		chan_cut(s, from, true);
		return;
	}
	for (int k = 0; k < CHANNELS; k++)
		chan_eof(s, from, k);
}

void chan_cut(struct sim *s, int from, bool eof)
{
	for (int k = 0; k < CHANNELS; k++) {
		struct chan *c = &s->chan[from][k];
		uint32_t first = c->head;

		/* What the peer's kernel has is the peer's, even when the peer is slow to read it. */
		while (first != c->tail && c->q[first % SIM_CHANQ].at <= s->now)
			first++;
		if (first != c->tail && !chance(s, 3000))
			first += chance(s, 5000) ? 0 : rnd(s, c->tail - first + 1);
		else
			first = c->tail;
		while (c->tail != first) {
			struct cmsg *m = &c->q[--c->tail % SIM_CHANQ];

			if (m->p)
				pkt_free(s, m->p);
		}
		if (c->tail != c->head)
			c->last = c->q[(c->tail - 1) % SIM_CHANQ].at;
		else
			c->last = s->now;
		if (eof)
			chan_eof(s, from, k);
		c->closed = true;
	}
}

static void ext_send(struct sim *s, enum ev_type type, int node, struct pkt *p)
{
	nstime at = s->now + us(s, s->ext_delay, s->ext_delay + s->ext_jitter);
	bool bad = s->now < s->quiet_from;

	if (bad && chance(s, s->loss)) {
		s->st->lost_ext++;
		TR(s, "   (lost on the way)");
		pkt_free(s, p);
		return;
	}
	if (bad && chance(s, s->reorder))
		at += us(s, 100, 3000);
	if (bad && chance(s, s->dup)) {
		s->st->dup_ext++;
		sim_at(s, at + us(s, 0, 3000), type, node, 0, 0, pkt_dup(s, p));
	}
	sim_at(s, at, type, node, 0, 0, p);
}

void ext_to_clients(struct sim *s, const struct pkt *p)
{
	ext_send(s, EV_WIRE_CLIENT, 0, pkt_dup(s, p));
}

void ext_to_guest(struct sim *s, struct pkt *p)
{
	int at = s->mac_at[p->nic];

	if (frame_broadcast(p))
		ext_send(s, EV_WIRE_IN, 1 - at, pkt_dup(s, p));
	ext_send(s, EV_WIRE_IN, at, p);
}
