/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Comparison: theory of operation (P1)
 *
 * A connection is compared as a stream, not packet by packet: the copies may cut, merge, delay and retransmit
 * differently. Each flow has two lists of held segments, the PVM's and the SVM's, sorted by client sequence number
 * and not overlapping (what comes twice is trimmed on entry). The stream's symbols are SYN, the payload bytes and
 * FIN, each with its own position. From the position up to which everything was let out (out_nxt) the two lists are
 * walked; equal symbols advance the position, and the verified prefix of a PVM segment leaves as a segment of its
 * own. Were only whole segments let out, two copies that cut differently could wait for one another for ever: the
 * PVM for the client's acknowledgement of the first half, the SVM likewise.
 *
 * Only segments of the PVM's current epoch are compared: what the SVM says now was said after the last barrier.
 * A different symbol makes the flow "diverged": a checkpoint is asked for and nothing of it is compared until then.
 * A reset is an event at a position and waits until all held bytes before it are out.
 *
 * A flow whose last answers have all differed will differ again: waiting for the SVM, which is slow just after a load,
 * would only add its time. So from GUESS_FROM differences in a row on the checkpoint is asked for as soon as the PVM
 * has answered; every GUESS_CHECK-th time the answers are compared all the same, and one that is equal ends it.
 *
 * Not done: looking whether the *client* would see a difference (a PSH more, another window): it does not count.
 * Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#include <string.h>

#define GUEST_SYN_WAIT (100 * NS_PER_MS)	/* the SVM may have chosen another port for a connection of its own */

#define SMALL_WINDOW	1460	/* bytes */
#define GUESS_FROM	3
#define GUESS_CHECK	8

enum symbol { SYM_SYN, SYM_DATA, SYM_FIN };

/* The run of like symbols of a held segment that begins at @pos, which lies inside it. */
static enum symbol run_at(const struct packet *p, uint32_t pos, const uint8_t **bytes, uint32_t *n)
{
	uint32_t off = pos - p->seq;

	*bytes = NULL;
	*n = 1;
	if (p->flags & TCP_SYN) {
		if (!off)
			return SYM_SYN;
		off--;
	}
	if (off >= p->len)
		return SYM_FIN;
	*bytes = p->data + p->payload + off;
	*n = p->len - off;
	return SYM_DATA;
}

/* Cut what comes before @pos off a segment, in sequence numbers. */
static void cut_front(struct packet *p, uint32_t pos)
{
	packet_cut_front(p, pos - p->seq - !!(p->flags & TCP_SYN));
}

static void cut_tail(struct packet *p, uint32_t pos)
{
	packet_cut_tail(p, pos - p->seq - !!(p->flags & TCP_SYN));
}

static void count_held(struct net *net, struct flow *f, struct flow_side *s, int by)
{
	if (s == &f->loc)
		net->n_held += (uint32_t)by;
	else
		net->n_held_rem += (uint32_t)by;
}

void hold_watch(struct net *net, struct flow *f)
{
	if (f->on_held)
		return;
	f->on_held = true;
	f->held_next = net->held_head;
	net->held_head = f->self;
}

void hold_segment(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, struct packet *p)
{
	struct frame_meta *m = net->fp.meta;
	uint32_t prev = FRAME_NONE, i = s->held.head;
	uint32_t end = p->seq + packet_span(p);

	if ((s == &f->loc ? net->n_held : net->n_held_rem) >= 2 * net->cfg.max_held) {
		/* The checkpoint that was asked for at the limit takes too long: lost as on a network, and sent again by TCP. */
		net->st.drop_held++;
		frame_free(&net->fp, frame);
		return;
	}

	for (; i != FRAME_NONE; prev = i, i = m[i].next) {
		if (seq_leq(end, m[i].seq))
			break;
		if (seq_leq(m[i].end, p->seq))
			continue;
		if (seq_lt(p->seq, m[i].seq)) {
			/* It fills a gap; what it holds beyond is there already, or will be retransmitted. */
			cut_tail(p, m[i].seq);
			end = m[i].seq;
			break;
		}
		if (seq_leq(end, m[i].end)) {
			/* The held copy stays: numbers, window and time are made anew when it leaves. */
			frame_free(&net->fp, frame);
			return;
		}
		cut_front(p, m[i].end);
	}
	m[frame].seq = p->seq;
	m[frame].end = end;
	m[frame].len = p->frame_len;
	m[frame].next = i;
	if (prev == FRAME_NONE)
		s->held.head = frame;
	else
		m[prev].next = frame;
	if (i == FRAME_NONE)
		s->held.tail = frame;
	s->held.n++;
	count_held(net, f, s, 1);
	if (s == &f->loc) {
		if (s->held.n == 1)
			f->held_since = net->now;
		hold_watch(net, f);
	}
	if (s->held.n > net->cfg.max_held_flow || net->n_held > net->cfg.max_held || net->n_held_rem > net->cfg.max_held)
		net_want(net, CAUSE_HELD);
}

void hold_clear(struct net *net, struct flow *f, struct flow_side *s)
{
	count_held(net, f, s, -(int)s->held.n);
	frame_list_clear(&net->fp, &s->held);
	if (s == &f->loc && f->held_rst != FRAME_NONE) {
		frame_free(&net->fp, f->held_rst);
		f->held_rst = FRAME_NONE;
		net->n_held--;
	}
}

/* The SVM's held segment that covers @pos, older ones dropped; FRAME_NONE: it has not said that yet. */
static uint32_t svm_at(struct net *net, struct flow *f, uint32_t pos)
{
	struct frame_meta *m = net->fp.meta;
	struct frame_list *l = &f->rem.held;

	while (l->head != FRAME_NONE && seq_leq(m[l->head].end, pos)) {
		frame_free(&net->fp, frame_list_pop(&net->fp, l));
		net->n_held_rem--;
	}
	return l->head != FRAME_NONE && seq_leq(m[l->head].seq, pos) ? l->head : FRAME_NONE;
}

/* How far the PVM's segment @a is verified, from @pos on. */
static uint32_t verify(struct net *net, struct flow *f, const struct packet *a, uint32_t end, uint32_t pos)
{
	while (pos != end) {
		uint32_t h = svm_at(net, f, pos), na, nb, n;
		const uint8_t *da, *db;
		enum symbol ka, kb;
		struct packet b;

		if (h == FRAME_NONE)
			break;
		packet_parse(net_data(net, h), net->fp.meta[h].len, &b);
		ka = run_at(a, pos, &da, &na);
		kb = run_at(&b, pos, &db, &nb);
		n = na < nb ? na : nb;
		if (ka == SYM_DATA && kb == SYM_DATA && memcmp(da, db, n)) {
			for (n = 0; da[n] == db[n]; n++)
				;
			pos += n;
			f->diverged = true;
			break;
		}
		/* One copy has closed where the other goes on talking. */
		if (ka != kb) {
			f->diverged = true;
			break;
		}
		pos += n;
	}
	return pos;
}

/* Let out the first @upto - seq symbols of the held segment at the head; the rest stays. */
static bool let_out_prefix(struct net *net, struct flow *f, uint32_t upto)
{
	uint32_t h = f->loc.held.head, piece;
	struct frame_meta *m = &net->fp.meta[h];
	struct packet p;

	if (upto == m->end) {
		frame_list_pop(&net->fp, &f->loc.held);
		net->n_held--;
		packet_parse(net_data(net, h), m->len, &p);
		f->out_nxt = upto;
		release_segment(net, f, h, &p);
		return true;
	}
	piece = frame_alloc(&net->fp, false);
	if (piece == FRAME_NONE)
		return false;
	memcpy(net_data(net, piece), net_data(net, h), m->len);
	net->fp.meta[piece].nic = m->nic;
	net->fp.meta[piece].epoch = m->epoch;
	packet_parse(net_data(net, piece), m->len, &p);
	cut_tail(&p, upto);
	net->fp.meta[piece].len = p.frame_len;
	f->out_nxt = upto;
	net->st.splits++;
	release_segment(net, f, piece, &p);
	packet_parse(net_data(net, h), m->len, &p);
	cut_front(&p, upto);
	m->seq = upto;
	m->len = p.frame_len;
	return true;
}

static void compare_rst(struct net *net, struct flow *f)
{
	struct packet p;
	uint32_t h = f->held_rst;

	if (h == FRAME_NONE || f->loc.held.n || !f->rem.rst || net->fp.meta[h].epoch != net->epoch)
		return;
	if (f->rem.rst_seq != f->loc.rst_seq) {
		f->diverged = true;
		return;
	}
	f->held_rst = FRAME_NONE;
	f->rem.rst = false;
	net->n_held--;
	packet_parse(net_data(net, h), net->fp.meta[h].len, &p);
	net->st.released_compared++;
	release_segment(net, f, h, &p);
}

/* Ask for a checkpoint and say for which flow: people want to know why. */
static void want_for(struct net *net, struct flow *f, enum ckpt_cause cause)
{
	struct net_act *a = net_want(net, cause);

	if (!a)
		return;
	a->msg.key = f->key;
	a->msg.seq32 = f->out_nxt;
	a->msg.ack32 = f->loc.ack;
	a->msg.room = f->loc.held.n;
}

void compare_guess(struct net *net, struct flow *f)
{
	if (f->diverged || f->streak < GUESS_FROM || !f->loc.held.n || ++f->guesses % GUESS_CHECK == 0)
		return;
	f->diverged = true;
	net->st.guessed++;
	net_want(net, CAUSE_MISMATCH);
}

void compare_flow(struct net *net, struct flow *f)
{
	bool before = f->diverged;

	while (!f->diverged && f->loc.held.head != FRAME_NONE) {
		struct frame_meta *m = &net->fp.meta[f->loc.held.head];
		struct packet a;
		uint32_t pos;
		bool whole;

		if (f->out_known && seq_leq(m->end, f->out_nxt)) {
			/* STAGED has moved the position past it: it is a retransmission now. */
			uint32_t h = frame_list_pop(&net->fp, &f->loc.held);

			net->n_held--;
			packet_parse(net_data(net, h), m->len, &a);
			release_segment(net, f, h, &a);
			continue;
		}
		if (!f->out_known || seq_lt(f->out_nxt, m->seq))
			break;
		if (m->epoch != net->epoch && !FAULT(net, NET_FAULT_OLD_EPOCH))
			break;
		packet_parse(net_data(net, f->loc.held.head), m->len, &a);
		if (a.flags & TCP_SYN && !f->flow_ok && !FAULT(net, NET_FAULT_NO_FLOW_OK))
			break;
		pos = verify(net, f, &a, m->end, f->out_nxt);
		if (pos == f->out_nxt)
			break;
		if (pos != m->end && FAULT(net, NET_FAULT_WHOLE_SEGMENT))
			break;
		whole = pos == m->end;
		if (!let_out_prefix(net, f, pos))
			break;
		net->st.released_compared++;
		f->held_since = net->now;
		if (whole)
			f->streak = 0;
	}
	/* The PVM opens or talks where the SVM has refused: nothing that could still come will match. */
	if (!f->diverged && f->rem.rst && f->held_rst == FRAME_NONE && f->loc.held.n &&
	    net->fp.meta[f->loc.held.head].epoch == net->epoch && f->rem.rst_seq != f->loc.nxt && !f->rem.held.n)
		f->diverged = true;
	if (!f->diverged)
		compare_rst(net, f);
	if (f->diverged && !before && f->streak < UINT8_MAX)
		f->streak++;
	if (f->diverged) {
		if (!(net->wanted & 1u << CAUSE_MISMATCH))
			net->st.mismatches++;
		want_for(net, f, CAUSE_MISMATCH);
	}
}

/*
 * Look for held output that is too old. The time counts only while there is an SVM that could answer: a slow one
 * must not be made slower by checkpoints, so the limit doubles with each that a timeout has caused in a row.
 */
void compare_scan(struct net *net)
{
	nstime limit = net->cfg.compare_timeout << (net->backoff > 4 ? 4 : net->backoff);
	uint32_t *link = &net->held_head;

	while (*link != FLOW_NONE) {
		struct flow *f = &net->flows.flows[*link];
		nstime since = f->held_since, most = limit;

		if (!f->loc.held.n && f->held_rst == FRAME_NONE && !f->owed) {
			*link = f->held_next;
			f->on_held = false;
			continue;
		}
		link = &f->held_next;
		if (!net->loaded)
			continue;
		if (f->loc.held.n) {
			struct packet p;

			packet_parse(net_data(net, f->loc.held.head), net->fp.meta[f->loc.held.head].len, &p);
			if ((p.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN && most > GUEST_SYN_WAIT)
				most = GUEST_SYN_WAIT;
		} else if (f->held_rst == FRAME_NONE) {
			/* A smaller window alone keeps nobody waiting, unless it is as good as shut. */
			if (f->out_ack_known && !seq_lt(f->out_ack, f->loc.ack) &&
			    seq_lt(f->out_ack + SMALL_WINDOW, f->out_edge))
				continue;
			since = f->owed_since;
		}
		if (since < net->loaded_at)
			since = net->loaded_at;
		if (net->now - since >= most)
			want_for(net, f, CAUSE_TIMEOUT);
	}
}
