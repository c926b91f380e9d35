/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A small TCP (RFC 9293, 7323, 2018, 2883 as far as it matters here), for guests and clients: theory of operation
 *
 * It is a plain struct, so that a guest can be copied like a register file. Everything in which two real copies of
 * one guest differ is drawn anew each time: initial sequence number, timestamp offset, where a stream is cut into
 * segments, when an acknowledgement is sent and with what it is merged. There is no congestion control: the window
 * alone limits. A byte that was selectively acknowledged is not sent again unless the head of the queue is one, as
 * in Linux.
 */
#include "sim_frame.h"

enum { RTO_US = 40000, RTO_SHIFTS = 5, LINGER_MS = 60000 };

static void take_data(struct host *h, struct tcb *t, const struct seg *g);

static void timer_rto(struct host *h, struct tcb *t)
{
	t->rto_at = h->now + ((nstime)(RTO_US + rnd(h->s, 10000)) * NS_PER_US << t->backoff);
}

static void peer_options(struct tcb *t, const struct seg *g)
{
	t->ts = t->ts && g->has_ts;
	t->sack = t->sack && g->sack_ok;
	if (g->ws < 0 || t->my_ws == 0xff) {
		t->my_ws = 0xff;
		t->snd_ws = t->rcv_ws = 0;
	} else {
		t->snd_ws = (uint8_t)g->ws;
		t->rcv_ws = t->my_ws;
	}
	if (g->mss && g->mss < t->mss)
		t->mss = g->mss;
	t->ts_recent = g->tsval;
	t->irs = g->seq;
	t->rcv_nxt = t->read = t->last_ack_sent = g->seq + 1;
	t->rcv_adv = t->rcv_nxt + (t->tfo ? t->rwnd : 0);
	t->wnd = g->win;
	t->wl1 = g->seq;
	t->wl2 = g->ack;
}

void tcp_open(struct host *h, struct tcb *t, const struct opening *op)
{
	struct sim *s = h->s;

	memset(t, 0, offsetof(struct tcb, snd));
	t->path = *op->path;
	t->lport = op->lport;
	t->rport = op->rport;
	t->peer = op->peer;
	t->iss = op->above ? op->above + 1000 + rnd(s, 100000) : chance(s, 1500) ? 0xffffff00u + rnd(s, 256) :
		 (uint32_t)sim_rand(s);
	t->ts_off = chance(s, 1500) ? 0xffffff00u + rnd(s, 256) : (uint32_t)sim_rand(s);
	t->una = t->nxt = t->max = t->iss;
	t->end = t->iss + 1;
	t->ts = h->node >= 0 ? s->g_ts : !chance(s, 2000);
	t->sack = h->node >= 0 ? s->g_sack : !chance(s, 2000);
	t->dsack = h->node >= 0 ? s->g_dsack : chance(s, 5000);
	t->my_ws = h->node >= 0 ? s->g_ws : chance(s, 2000) ? 0xff : (uint8_t)rnd(s, 5);
	t->mss = h->node >= 0 ? s->g_mss : (uint16_t)(64 + rnd(s, 300));
	t->rwnd = h->node >= 0 ? s->g_rwnd : (uint16_t)(300 + rnd(s, 590));
	t->delack_at = t->kill_at = NS_NEVER;
	t->ts_first = tcp_clock(h) + t->ts_off;
	t->nxt = t->max = t->iss + 1;
	if (op->syn) {
		/* Who has no valid cookie gets the data once more. */
		t->tfo = h->node >= 0 && op->syn->len && (s->deterministic || chance(s, 9000));
		peer_options(t, op->syn);
		t->state = T_SYN_RCVD;
		if (t->tfo) {
			take_data(h, t, op->syn);
			s->st->tfo_taken++;
		}
		tcp_send(h, t, t->iss, 0, TF_SYN | TF_ACK);
	} else {
		t->state = T_SYN_SENT;
		if (op->n_data) {
			t->tfo = true;
			tcp_write(t, op->data, op->n_data);
			t->nxt = t->max = t->end;
			s->st->tfo_sent++;
		}
		tcp_send(h, t, t->iss, t->end - (t->iss + 1), TF_SYN);
	}
	timer_rto(h, t);
}

void tcp_abort(struct host *h, struct tcb *t)
{
	if (t->state > T_SYN_SENT)
		tcp_send(h, t, t->max, 0, TF_RST | TF_ACK);
	t->state = T_CLOSED;
	t->aborted = true;
	t->rto_at = t->delack_at = NS_NEVER;
}

uint32_t tcp_write(struct tcb *t, const uint8_t *p, uint32_t n)
{
	uint32_t room = tcp_room(t);

	/* The SYN takes a place of its own. */
	room = room > 1 ? room - 1 : 0;
	if (n > room)
		n = room;
	for (uint32_t i = 0; i < n; i++)
		t->snd[(t->end + i) % SIM_SNDBUF] = p[i];
	t->end += n;
	return n;
}

uint32_t tcp_read(struct tcb *t, uint8_t *p, uint32_t n)
{
	uint32_t have = tcp_readable(t);

	if (n > have)
		n = have;
	for (uint32_t i = 0; i < n; i++)
		p[i] = t->rcv[(t->read + i) % SIM_RCVBUF];
	t->read += n;
	if (n && t->state == T_ESTAB && t->read + t->rwnd - t->rcv_adv >= t->rwnd / 2u &&
	    SEQ_GT(t->read + t->rwnd, t->rcv_adv))
		t->want_ack = true;
	return n;
}

static bool range_add(struct range *r, uint8_t *n, uint8_t max, uint32_t s, uint32_t e)
{
	for (int i = 0; i < *n;) {
		if (SEQ_LE(r[i].s, e) && SEQ_LE(s, r[i].e)) {
			if (SEQ_LT(r[i].s, s))
				s = r[i].s;
			if (SEQ_GT(r[i].e, e))
				e = r[i].e;
			memmove(r + i, r + i + 1, (size_t)(--*n - i) * sizeof(*r));
			continue;
		}
		i++;
	}
	if (*n == max)
		return false;
	memmove(r + 1, r, *n * sizeof(*r));
	r[0] = (struct range){ s, e };
	(*n)++;
	return true;
}

static void ranges_below(struct range *r, uint8_t *n, uint32_t to)
{
	for (int i = 0; i < *n;) {
		if (SEQ_LE(r[i].e, to)) {
			memmove(r + i, r + i + 1, (size_t)(--*n - i) * sizeof(*r));
			continue;
		}
		if (SEQ_LT(r[i].s, to))
			r[i].s = to;
		i++;
	}
}

/* The end of the unsacked run at @seq, or @seq itself when it was sacked (then *skip is where the block ends). */
static uint32_t unsacked(const struct tcb *t, uint32_t seq, uint32_t end, uint32_t *skip)
{
	*skip = seq;
	for (int i = 0; i < t->n_sacked; i++) {
		if (SEQ_LE(t->sacked[i].s, seq) && SEQ_LT(seq, t->sacked[i].e)) {
			*skip = t->sacked[i].e;
			return seq;
		}
		if (SEQ_GT(t->sacked[i].s, seq) && SEQ_LT(t->sacked[i].s, end))
			end = t->sacked[i].s;
	}
	return end;
}

static void take_data(struct host *h, struct tcb *t, const struct seg *g)
{
	uint32_t first = g->seq + !!(g->flags & TF_SYN), s = first, e = first + g->len, edge = t->rcv_adv;
	bool fin = g->flags & TF_FIN;

	if (!g->len && !fin)
		return;
	if (g->len && SEQ_LE(e, t->rcv_nxt)) {
		if (t->dsack && t->sack)
			t->dup = (struct range){ s, e };
		t->want_ack = true;
	}
	if (fin && SEQ_LE(e, edge)) {
		t->fin_seen = true;
		t->fin_pos = e;
	}
	if (SEQ_LT(s, t->rcv_nxt))
		s = t->rcv_nxt;
	if (SEQ_GT(e, edge))
		e = edge;
	if (SEQ_LT(s, e)) {
		bool gap = SEQ_GT(s, t->rcv_nxt);

		for (uint32_t q = s; q != e; q++)
			t->rcv[q % SIM_RCVBUF] = g->data[q - first];
		/* No room for one more range: forget it, it was never acknowledged. */
		if (gap)
			range_add(t->ooo, &t->n_ooo, 4, s, e);
		else
			t->rcv_nxt = e;
		for (int i = 0; i < t->n_ooo; i++)
			if (SEQ_LE(t->ooo[i].s, t->rcv_nxt) && SEQ_GT(t->ooo[i].e, t->rcv_nxt))
				t->rcv_nxt = t->ooo[i].e;
		if (gap || t->n_ooo)
			t->want_ack = true;
		ranges_below(t->ooo, &t->n_ooo, t->rcv_nxt);
		if (!t->want_ack && (!t->delack || !chance(h->s, 5000))) {
			if (!t->delack)
				t->delack_at = h->now + us(h->s, 100, 15000);
			t->delack = true;
		} else {
			t->want_ack = true;
		}
	} else if (g->len) {
		t->want_ack = true;
	}
	if (t->fin_seen && !t->fin_rcvd && t->rcv_nxt == t->fin_pos) {
		h->s->st->sim_closes += t->fin_queued && !t->fin_acked && SEQ_GT(t->max, t->end);
		h->s->st->half_closes += !t->fin_queued;
		t->fin_rcvd = true;
		t->rcv_nxt++;
		t->want_ack = true;
	} else if (fin) {
		t->want_ack = true;
	}
}

static void take_ack(struct host *h, struct tcb *t, const struct seg *g)
{
	if (SEQ_GT(g->ack, t->max)) {
		h->s->st->acks_beyond++;
		t->want_ack = true;
		return;
	}
	if (SEQ_GT(g->ack, t->una)) {
		uint32_t fin = t->end;

		t->una = g->ack;
		if (SEQ_LT(t->nxt, t->una))
			t->nxt = t->una;
		if (t->fin_queued && t->una == fin + 1)
			t->fin_acked = true;
		ranges_below(t->sacked, &t->n_sacked, t->una);
		t->dupacks = 0;
		t->backoff = 0;
		if (t->una == t->max)
			t->rto_at = NS_NEVER;
		else
			timer_rto(h, t);
	} else if (g->ack == t->una && t->max != t->una && !g->len && !(g->flags & (TF_SYN | TF_FIN)) &&
		   g->win << t->snd_ws == t->wnd) {
		if (++t->dupacks == 3) {
			h->s->st->fast_rexmit++;
			t->nxt = t->una;
		}
	}
	for (unsigned int i = 0; i < g->n_sack; i++)
		if (SEQ_GT(g->sack[i].s, t->una) && SEQ_LE(g->sack[i].e, t->max) && SEQ_LT(g->sack[i].s, g->sack[i].e))
			range_add(t->sacked, &t->n_sacked, 4, g->sack[i].s, g->sack[i].e);
	if (SEQ_GE(g->ack, t->una) && (SEQ_LT(t->wl1, g->seq) || (t->wl1 == g->seq && SEQ_LE(t->wl2, g->ack)))) {
		t->wnd = g->win << t->snd_ws;
		t->wl1 = g->seq;
		t->wl2 = g->ack;
	}
}

void tcp_input(struct host *h, struct tcb *t, const struct seg *g)
{
	uint32_t slen = g->len + (g->flags & TF_SYN ? 1u : 0) + (g->flags & TF_FIN ? 1u : 0);
	uint32_t wnd;

	if (t->state == T_SYN_SENT) {
		if (g->flags & TF_ACK && (SEQ_LE(g->ack, t->iss) || SEQ_GT(g->ack, t->max))) {
			tcp_refuse(h, g);
			return;
		}
		if (g->flags & TF_RST) {
			if (g->flags & TF_ACK) {
				t->state = T_CLOSED;
				t->reset = true;
			}
			return;
		}
		if ((g->flags & (TF_SYN | TF_ACK)) != (TF_SYN | TF_ACK))
			return;
		h->s->st->tfo_refused += t->tfo && g->ack != t->max;
		t->tfo = false;
		peer_options(t, g);
		t->una = t->nxt = g->ack;
		t->state = T_ESTAB;
		t->backoff = 0;
		t->rto_at = NS_NEVER;
		t->want_ack = true;
		return;
	}
	wnd = SEQ_GT(t->rcv_adv, t->rcv_nxt) ? t->rcv_adv - t->rcv_nxt : 0;
	if (t->state == T_SYN_RCVD && g->flags & TF_SYN && g->seq == t->irs && !(g->flags & TF_ACK)) {
		tcp_send(h, t, t->iss, 0, TF_SYN | TF_ACK);
		return;
	}
	if (t->ts && g->has_ts && !(g->flags & TF_RST) && SEQ_LT(g->tsval, t->ts_recent)) {
		h->s->st->paws_drops++;
		TR(h->s, "     PAWS drops it at %s%d: %u < %u", h->node >= 0 ? "guest " : "client ",
		   h->node >= 0 ? h->node : h->client, g->tsval, t->ts_recent);
		t->want_ack = true;
		return;
	}
	if (slen ? SEQ_LE(g->seq + slen, t->rcv_nxt) || SEQ_GE(g->seq, t->rcv_nxt + wnd) :
		   SEQ_LT(g->seq, t->rcv_nxt - (wnd ? 1 : 0)) || SEQ_GT(g->seq, t->rcv_nxt + wnd)) {
		if (g->flags & TF_RST)
			return;
		/* What comes from before this connection is none of it, and PAWS would drop it as a rule. */
		if (t->sack && t->dsack && SEQ_GT(g->seq, t->irs) && g->len && !(g->flags & TF_SYN) &&
		    SEQ_LE(g->seq + g->len, t->rcv_nxt))
			t->dup = (struct range){ g->seq, g->seq + g->len };
		if (slen)
			t->want_ack = true;
		if (g->flags & TF_ACK && !(g->flags & TF_SYN) && t->state >= T_ESTAB)
			take_ack(h, t, g);
		return;
	}
	if (g->flags & TF_RST) {
		if (g->seq == t->rcv_nxt) {
			t->state = T_CLOSED;
			t->reset = true;
		} else {
			t->want_ack = true;
		}
		return;
	}
	if (g->flags & TF_SYN) {
		t->want_ack = true;
		return;
	}
	if (!(g->flags & TF_ACK))
		return;
	if (t->ts && g->has_ts && SEQ_LE(g->seq, t->last_ack_sent))
		t->ts_recent = g->tsval;
	if (t->state == T_SYN_RCVD) {
		if (SEQ_LE(g->ack, t->una) || SEQ_GT(g->ack, t->max)) {
			tcp_refuse(h, g);
			return;
		}
		t->state = T_ESTAB;
		t->una = t->iss + 1;
		t->wnd = g->win << t->snd_ws;
		t->wl1 = g->seq;
		t->wl2 = g->ack;
		t->backoff = 0;
		if (t->una == t->max)
			t->rto_at = NS_NEVER;
	}
	take_ack(h, t, g);
	take_data(h, t, g);
	if (t->state == T_ESTAB && t->fin_acked && t->fin_rcvd) {
		t->state = T_LINGER;
		t->kill_at = h->now + LINGER_MS * NS_PER_MS;
	}
}

void tcp_output(struct host *h, struct tcb *t)
{
	struct sim *s = h->s;
	uint32_t stop, skip, run, len, edge;
	uint8_t flags;
	bool nagle = h->node >= 0 && s->g_nagle;
	int burst = 0;

	if (t->state == T_LINGER && t->want_ack)
		tcp_send(h, t, t->nxt, 0, TF_ACK);
	if (t->state != T_ESTAB && !(t->state == T_SYN_RCVD && t->tfo))
		return;
	edge = t->una + t->wnd;
	while (burst++ < 12) {
		stop = SEQ_LT(t->end, edge) ? t->end : edge;
		/* What is sent again takes nothing new along. */
		if (nagle && SEQ_LT(t->nxt, t->max) && SEQ_LT(t->max, stop))
			stop = t->max;
		if (SEQ_LT(t->nxt, stop)) {
			run = unsacked(t, t->nxt, stop, &skip);
			if (run == t->nxt) {
				t->nxt = skip;
				continue;
			}
			len = run - t->nxt;
			if (len > t->mss)
				len = t->mss;
			/* Nagle: a small segment waits while anything is under way. */
			if (nagle && t->nxt == t->max && t->max != t->una) {
				if (len < t->mss && !(t->fin_queued && t->nxt + len == t->end))
					break;
			} else if (len > 1 && chance(s, 4000)) {
				len = 1 + rnd(s, len);
			}
		} else {
			len = 0;
		}
		flags = TF_ACK;
		if (t->fin_queued && t->nxt + len == t->end && SEQ_LE(t->nxt + len, edge) && !t->fin_acked &&
		    !(SEQ_GT(t->nxt, t->end)))
			flags |= TF_FIN;
		if (!len && !(flags & TF_FIN))
			break;
		if (len && t->nxt + len == t->end)
			flags |= TF_PSH;
		s->st->tfo_early += t->state == T_SYN_RCVD && len;
		if (SEQ_LT(t->nxt, t->max))
			s->st->retransmissions++;
		tcp_send(h, t, t->nxt, len, flags);
		t->nxt += len + (flags & TF_FIN ? 1 : 0);
		if (SEQ_GT(t->nxt, t->max))
			t->max = t->nxt;
		if (t->rto_at == NS_NEVER)
			timer_rto(h, t);
	}
	if (t->want_ack)
		tcp_send(h, t, t->nxt, 0, TF_ACK);
	/* The persist timer: something to send, no window, nothing under way. */
	if (t->rto_at == NS_NEVER && t->una == t->max && (t->end != t->nxt || (t->fin_queued && !t->fin_acked)))
		timer_rto(h, t);
}

void tcp_timers(struct host *h, struct tcb *t)
{
	if (t->state == T_LINGER && t->kill_at <= h->now) {
		t->state = T_CLOSED;
		return;
	}
	if (t->delack_at <= h->now) {
		t->delack_at = NS_NEVER;
		t->want_ack = t->delack;
	}
	if (t->rto_at > h->now || t->state == T_CLOSED || t->state == T_LINGER)
		return;
	if (t->backoff < RTO_SHIFTS)
		t->backoff++;
	timer_rto(h, t);
	h->s->st->retransmissions++;
	if (t->state == T_SYN_SENT || t->state == T_SYN_RCVD) {
		/* What went with the SYN is not sent again with it. */
		tcp_send(h, t, t->iss, 0, t->state == T_SYN_SENT ? TF_SYN : TF_SYN | TF_ACK);
		if (t->state == T_SYN_RCVD)
			t->nxt = t->iss + 1;
		return;
	}
	if (t->una == t->max && SEQ_LT(t->una, t->end)) {
		/* A window probe: one byte beyond the edge. */
		h->s->st->probes++;
		tcp_send(h, t, t->una, 1, TF_ACK);
		if (SEQ_LT(t->max, t->una + 1))
			t->max = t->una + 1;
		return;
	}
	/* A guest forgets when its peer takes back what it said, as Linux does; a client takes the VM at its word. */
	for (int i = 0; h->node >= 0 && i < t->n_sacked; i++)
		if (t->sacked[i].s == t->una) {
			h->s->st->reneg++;
			t->n_sacked = 0;
		}
	t->dupacks = 0;
	t->nxt = t->una;
	if (t->wnd == 0 && SEQ_LT(t->una, t->end))
		tcp_send(h, t, t->una, 1, TF_ACK);
	else if (t->wnd == 0 && t->fin_queued && !t->fin_acked)
		tcp_send(h, t, t->una, 0, TF_ACK | TF_FIN);
}

nstime tcp_deadline(const struct tcb *t)
{
	nstime at = t->delack_at;

	if (t->state == T_CLOSED)
		return NS_NEVER;
	if (t->state == T_LINGER)
		return t->kill_at;
	return t->rto_at < at ? t->rto_at : at;
}
