/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Comparison: theory of operation (P1)
 *
 * A connection is compared as a stream, not packet by packet: the copies may cut, merge, delay and retransmit
 * differently. Each flow has two lists of held segments, the PVM's and the SVM's (hold.c). The stream's symbols are SYN, the payload bytes and
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

/* The SVM's held segment that covers @pos, older ones dropped; FRAME_NONE: it has not said that yet. */
static uint32_t svm_at(struct net *net, struct flow *f, uint32_t pos)
{
	struct frame_meta *m = net->fp.meta;
	struct frame_list *l = &f->rem.held;

	while (l->head != FRAME_NONE && seq_leq(m[l->head].end, pos))
		frame_free(&net->fp, hold_pop(net, f, &f->rem));
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

/* Let out the first @upto - seq symbols of the held segment at the head, which @a is; the rest stays. */
static bool let_out_prefix(struct net *net, struct flow *f, uint32_t upto, struct packet *a)
{
	uint32_t h = f->loc.held.head, piece;
	struct frame_meta *m = &net->fp.meta[h];
	struct packet p;

	if (upto == m->end) {
		hold_pop(net, f, &f->loc);
		f->out_nxt = upto;
		release_segment(net, f, h, a);
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
	cut_front(a, upto);
	m->seq = upto;
	m->len = a->frame_len;
	return true;
}

/*
 * Whether the SVM has sent a reset with this number. Stray segments make a guest send one reset after the other, each
 * with a number of its own, so the last few are known; one that matches none waits for its time.
 */
static bool svm_reset_at(const struct flow *f, uint32_t seq)
{
	for (unsigned int i = 0; i < FLOW_RSTS && i < f->n_svm_rst; i++)
		if (f->svm_rst[i] == seq)
			return true;
	return false;
}

static void compare_rst(struct net *net, struct flow *f)
{
	struct packet p;
	uint32_t h = f->held_rst;

	if (h == FRAME_NONE || f->loc.held.n || net->fp.meta[h].epoch != net->epoch)
		return;
	if (!svm_reset_at(f, f->loc.rst_seq)) {
		/* The one that ends a connection comes once. */
		f->diverged = f->rem.rst && f->cls == FLOW_OPEN && !f->was_reset;
		return;
	}
	hold_take_rst(net, f);
	f->was_reset = true;
	f->rem.rst = false;
	f->n_svm_rst = 0;
	packet_parse(net_data(net, h), net->fp.meta[h].len, &p);
	/* A reset may carry a text, which no stack looks at; it was not compared, so it does not leave. */
	if (p.len) {
		packet_cut_tail(&p, 0);
		net->fp.meta[h].len = p.frame_len;
	}
	net->st.released_compared++;
	release_segment(net, f, h, &p);
}

#define LIKELY_FOR	(500 * NS_PER_MS)	/* so long after a difference another one is expected */
#define LIKELY_GAP	(5 * NS_PER_MS)		/* between two warnings */

void compare_input(struct net *net, const struct packet *p)
{
	if (!net->differed_at || net->now - net->differed_at > LIKELY_FOR || net->now - net->likely_at < LIKELY_GAP)
		return;
	if (!net->holding || !net->gate_open || (p->kind == PK_TCP && !p->len) || p->kind == PK_LOCAL)
		return;
	net->likely_at = net->now;
	net_act_new(net, NA_LIKELY);
}

void compare_differs(struct net *net, struct flow *f)
{
	f->diverged = true;
	net->differed_at = net->now;
	if (!(net->wanted & 1u << CAUSE_MISMATCH))
		net->st.mismatches++;
	hold_want(net, f, CAUSE_MISMATCH);
}

/* Signed segments may not be changed, and what a rule says is done. */
bool compare_wanted(struct net *net, struct flow *f)
{
	return !f->is_signed && track_action(net, f) == RULE_COMPARE;
}

/*
 * A flow that was forgotten and met again does not know that its SYN-ACK was let out. One that the guest has sent once
 * more would wait for a twin that the SVM, which has the client's acknowledgement, will not send.
 */
void compare_answered(struct net *net, struct flow *f)
{
	uint32_t h = f->loc.held.head;

	if (net->role != NET_PRIMARY || !f->out_known || f->out_nxt != f->isn)
		return;
	f->out_nxt = f->isn + 1;
	if (h != FRAME_NONE && net->fp.meta[h].end == f->out_nxt)
		frame_free(&net->fp, hold_pop(net, f, &f->loc));
	net_dirty(net, f);
	compare_flow(net, f);
}

void compare_guess(struct net *net, struct flow *f)
{
	if (f->diverged || !compare_wanted(net, f) || f->streak < GUESS_FROM || !f->loc.held.n || ++f->guesses % GUESS_CHECK == 0)
		return;
	net->st.guessed++;
	f->diverged = true;
	net->differed_at = net->now;
	hold_want(net, f, CAUSE_MISMATCH);
}

/*
 * A client that has opened its port anew may be answered by one copy for its first SYN and by the other for the second.
 * With data in the SYN the acknowledgements may differ by what was taken of it, and by no more.
 */
static bool other_syn(const struct flow *f, const struct packet *a)
{
	uint32_t apart = a->ack - f->rem.ack;

	return (a->flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && f->rem.syn && f->rem.ack_known &&
	       (int32_t)apart != (int16_t)apart;
}

void compare_flow(struct net *net, struct flow *f)
{
	bool before = f->diverged;

	if (!compare_wanted(net, f))
		return;
	while (!f->diverged && f->loc.held.head != FRAME_NONE) {
		struct frame_meta *m = &net->fp.meta[f->loc.held.head];
		struct packet a;
		uint32_t pos;
		bool whole;

		if (f->out_known && seq_leq(m->end, f->out_nxt)) {
			/* STAGED has moved the position past it: it is a retransmission now. */
			uint32_t h = hold_pop(net, f, &f->loc);

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
		if (other_syn(f, &a)) {
			f->diverged = true;
			break;
		}
		pos = verify(net, f, &a, m->end, f->out_nxt);
		if (pos == f->out_nxt)
			break;
		if (pos != m->end && FAULT(net, NET_FAULT_WHOLE_SEGMENT))
			break;
		whole = pos == m->end;
		if (!let_out_prefix(net, f, pos, &a))
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
	/* What was matched is nothing that is held. */
	if (f->out_known)
		svm_at(net, f, f->out_nxt);
	if (!f->diverged || before)
		return;
	if (f->streak < UINT8_MAX)
		f->streak++;
	compare_differs(net, f);
}
