/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Segments of the small TCP (sim_tcp.c): header, options, window, urgent pointer, and the two answers that need no
 * connection.
 */
#include "sim_frame.h"

static void host_emit(struct host *h, struct pkt *p)
{
	if (h->node >= 0) {
		node_guest_out(h->s, h->node, p);
	} else {
		TR(h->s, "C%d   >  %s", h->client, frame_text(p));
		ext_to_guest(h->s, p);
	}
}

uint32_t tcp_clock(const struct host *h)
{
	return (uint32_t)(h->now / NS_PER_MS);
}

void tcp_send(struct host *h, struct tcb *t, uint32_t seq, uint32_t len, uint8_t flags)
{
	struct pkt *p = pkt_new(h->s);
	uint8_t mine = h->node >= 0 ? guest_addr(&t->path) : h->addr;
	uint8_t *tc = frame_begin(h->s, p, &t->path, mine, t->peer, 6), *o = tc + 20;
	uint32_t unit, wnd, field, hl;

	put16(tc, t->lport);
	put16(tc + 2, t->rport);
	put32(tc + 4, seq);
	put32(tc + 8, flags & TF_ACK ? t->rcv_nxt : 0);
	if (flags & TF_SYN) {
		*o++ = 2;
		*o++ = 4;
		o += put16(o, t->mss);
		/* An answer offers only what was offered. */
		if (t->sack) {
			memcpy(o, "\x01\x01\x04\x02", 4);
			o += 4;
		}
		if (t->my_ws != 0xff) {
			memcpy(o, "\x01\x03\x03", 3);
			o[3] = t->my_ws;
			o += 4;
		}
	}
	if (t->ts) {
		memcpy(o, "\x01\x01\x08\x0a", 4);
		o += 4;
		o += put32(o, tcp_clock(h) + t->ts_off);
		o += put32(o, flags & TF_ACK ? t->ts_recent : 0);
	}
	if (!(flags & (TF_SYN | TF_RST)) && t->sack && (t->n_ooo || t->dup.s != t->dup.e)) {
		unsigned int n = t->n_ooo + (t->dup.s != t->dup.e), max = t->ts ? 3 : 4;

		if (n > max)
			n = max;
		*o++ = 1;
		*o++ = 1;
		*o++ = 5;
		*o++ = (uint8_t)(2 + 8 * n);
		if (t->dup.s != t->dup.e) {
			o += put32(o, t->dup.s);
			o += put32(o, t->dup.e);
			n--;
		}
		for (unsigned int i = 0; i < n; i++) {
			o += put32(o, t->ooo[i].s);
			o += put32(o, t->ooo[i].e);
		}
		t->dup.s = t->dup.e = 0;
	}
	hl = (uint32_t)(o - tc);
	unit = flags & TF_SYN ? 0 : t->rcv_ws;
	wnd = t->read + t->rwnd - t->rcv_nxt;
	if (SEQ_GT(t->rcv_nxt, t->read + t->rwnd))
		wnd = 0;
	if (flags & TF_ACK && SEQ_GT(t->rcv_adv, t->rcv_nxt + wnd))
		wnd = t->rcv_adv - t->rcv_nxt;
	field = (wnd + (1u << unit) - 1) >> unit;
	/* Rounding up again and again must not offer more than there is room for. */
	if (SEQ_GT(t->rcv_nxt + (field << unit), t->read + SIM_RCVBUF - 32))
		field = wnd >> unit;
	if (flags & TF_ACK) {
		if (SEQ_LT(t->rcv_adv, t->rcv_nxt + (field << unit)))
			t->rcv_adv = t->rcv_nxt + (field << unit);
		t->last_ack_sent = t->rcv_nxt;
		t->want_ack = t->delack = false;
		t->delack_at = NS_NEVER;
	}
	tc[12] = (uint8_t)(hl / 4 << 4);
	tc[13] = flags;
	put16(tc + 14, field);
	put32(tc + 16, 0);
	if (t->urg_on && !(flags & (TF_SYN | TF_RST)) && SEQ_GT(t->urg, seq) && t->urg - seq < 0x10000) {
		tc[13] |= TF_URG;
		put16(tc + 18, t->urg - seq);
		h->s->st->urgent_sent++;
	}
	/* A SYN takes a number of its own before the data. */
	for (uint32_t i = 0; i < len; i++)
		tc[hl + i] = t->snd[(seq + !!(flags & TF_SYN) + i) % SIM_SNDBUF];
	frame_end(p, hl + len);
	h->s->st->segments++;
	h->s->st->zero_windows += flags & TF_ACK && !(flags & (TF_RST | TF_SYN)) && !field;
	h->s->st->scaled += len && unit;
	h->s->st->wraps += len && seq + len < seq;
	host_emit(h, p);
}

void tcp_refuse(struct host *h, const struct seg *g)
{
	struct tcb t = { .lport = g->dport, .rport = g->sport, .peer = g->src, .path = g->path };

	if (g->flags & TF_RST)
		return;
	if (g->flags & TF_ACK) {
		tcp_send(h, &t, g->ack, 0, TF_RST);
	} else {
		t.rcv_nxt = g->seq + g->len + (g->flags & TF_SYN ? 1 : 0);
		tcp_send(h, &t, 0, 0, TF_RST | TF_ACK);
	}
}

void tcp_cookie(struct host *h, const struct seg *g)
{
	struct tcb t = { .lport = g->dport, .rport = g->sport, .peer = g->src, .path = g->path, .mss = 400, .my_ws = 0xff,
			 .rwnd = 500, .iss = (uint32_t)sim_rand(h->s) };

	t.rcv_nxt = t.read = t.rcv_adv = g->seq + 1;
	tcp_send(h, &t, t.iss, 0, TF_SYN | TF_ACK);
}
