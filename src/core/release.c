/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What leaves, and with which numbers: theory of operation (P1, P2)
 *
 * The primary lets out a frame of its VM
 *  - at once: the link's own talk (ARP, neighbour discovery, IGMP, MLD), what a rule lets through, and TCP that says
 *    nothing new (pure acknowledgements, retransmissions of bytes that were let out);
 *  - when compare.c (TCP) or datagram.c (the rest) has verified it;
 *  - when the checkpoint of its epoch is STAGED: everything else (flows that differ, that a rule holds, or whose
 *    segments are signed, so that no field may be changed).
 *
 * Data is never held for its acknowledgement number. Each segment that leaves gets its acknowledgement lowered to
 * what both copies have acknowledged and its window's right edge to the smaller one, though never left of what
 * the client was already told. The PVM's pure acknowledgement that says nothing new once lowered is swallowed; the
 * debt is remembered (owed) and paid by an acknowledgement of our own when the SVM has caught up. A pure
 * acknowledgement never carries a sequence number beyond what was let out. SACK blocks stay only where the SVM has
 * the data. Timestamps of segments that waited are raised to the highest let out, or PAWS would drop them.
 *
 * In the first synchronisation and alone nothing is held, but positions are followed, so that comparison can begin
 * at any moment. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#include <string.h>

#define YOUNG		(1u << 30)	/* bytes of a connection, below which its numbers cannot have come around */
#define SMALL_WINDOW	4096	/* bytes: below it an opening window is told though no acknowledgement goes out */

void release_emit(struct net *net, uint8_t nic, uint32_t frame)
{
	struct net_act *a = net_act_new(net, NA_TAP);

	a->nic = nic;
	a->frame = frame;
	a->n = net->fp.meta[frame].epoch;
	net->st.tap_out++;
	net->st.bytes_out += net->fp.meta[frame].len;
	frame_free(&net->fp, frame);
}

/* What may be acknowledged to the client. Return: false when the SVM's part is not known. */
static bool allowed(struct net *net, const struct flow *f, uint32_t *ack, uint32_t *edge)
{
	if (!f->loc.ack_known)
		return false;
	*ack = f->loc.ack;
	*edge = f->loc.edge;
	if (net->role != NET_PRIMARY || !net->holding || FAULT(net, NET_FAULT_NO_CLAMP))
		return true;
	if (!f->rem.ack_known)
		return false;
	*ack = seq_min(*ack, f->rem.ack);
	*edge = seq_min(*edge, f->rem.edge);
	return true;
}

/* The window field for a segment that acknowledges @ack, when the right edge may be @edge. */
static uint16_t window(const struct flow *f, uint32_t ack, uint32_t edge)
{
	uint8_t ws = f->ws_known && !f->no_ws ? f->ws : 0;
	uint32_t win;

	if (f->out_ack_known && seq_leq(edge, f->out_edge)) {
		/* Rounded up: rounding down would move the edge left. */
		edge = f->out_edge;
		win = seq_lt(edge, ack) ? 0 : (edge - ack + (1u << ws) - 1) >> ws;
	} else {
		win = seq_lt(edge, ack) ? 0 : (edge - ack) >> ws;
		if (f->out_ack_known && seq_lt(ack + (win << ws), f->out_edge))
			win++;
	}
	return win > 65535 ? 65535 : (uint16_t)win;
}

/*
 * @bound: what was really offered; the window field may say a little more, since it counts in units and was rounded up.
 * That little does not become an offer, or with each acknowledgement it would grow.
 */
static void note_ack_out(struct flow *f, const struct packet *p, const uint32_t *bound)
{
	uint8_t ws = f->ws_known && !f->no_ws && !(p->flags & TCP_SYN) ? f->ws : 0;
	uint32_t edge = p->ack + ((uint32_t)p->win << ws);

	f->out_told = f->out_ack_known ? seq_max(f->out_told, edge) : edge;
	if (bound && seq_lt(*bound, edge))
		edge = *bound;

	f->out_ack = f->out_ack_known ? seq_max(f->out_ack, p->ack) : p->ack;
	f->out_edge = f->out_ack_known ? seq_max(f->out_edge, edge) : edge;
	f->out_ack_known = true;
}

static void note_out(struct net *net, struct flow *f, const struct packet *p, const uint32_t *bound)
{
	if (p->has_ts && !(p->flags & TCP_RST)) {
		f->out_tsval = f->out_ts_known ? seq_max(f->out_tsval, p->tsval) : p->tsval;
		f->out_ts_known = true;
	}
	if (p->flags & TCP_ACK && !(p->flags & TCP_RST))
		note_ack_out(f, p, bound);
	if (net->role == NET_PRIMARY)
		flow_list_add(&net->flows, f, LIST_REL);
}

/* The part of a block that the SVM has as well. Return: false when there is none */
static bool common_block(const struct flow *f, struct sack_block in, struct sack_block *out)
{
	if (f->rem.ack_known && seq_leq(in.right, f->rem.ack)) {
		*out = in;
		return true;
	}
	if (f->rem.ack_known && seq_lt(in.left, f->rem.ack)) {
		*out = (struct sack_block){ in.left, f->rem.ack };
		return true;
	}
	for (unsigned int k = 0; k < f->rem.n_sack; k++) {
		uint32_t l = seq_max(f->rem.sack[k].left, in.left), r = seq_min(f->rem.sack[k].right, in.right);

		if (seq_lt(l, r)) {
			*out = (struct sack_block){ l, r };
			return true;
		}
	}
	return false;
}

/*
 * The SVM lacks what it has neither acknowledged nor reported: the client must not hear of it, but of all that both have,
 * or it could not send again fast what both have lost. Return: true when blocks are gone
 */
static bool filter_sack(struct net *net, struct flow *f, struct packet *p)
{
	unsigned int mask = 0, had = p->n_sack;

	if (!had || net->role != NET_PRIMARY || !net->holding)
		return false;
	for (unsigned int i = 0; i < had; i++) {
		struct sack_block both;

		if (!common_block(f, p->sack[i], &both))
			continue;
		mask |= 1u << i;
		if (both.left != p->sack[i].left || both.right != p->sack[i].right)
			packet_set_sack(p, i, both.left, both.right);
	}
	packet_keep_sack(p, mask);
	return p->n_sack < had;
}

static void note_sack(struct flow *f, const struct sack_block *b, unsigned int n)
{
	f->n_told = (uint8_t)n;
	memcpy(f->told_sack, b, n * sizeof(*b));
}

/*
 * The SVM has got on, or reports what it has behind a hole. If the PVM has told of a hole before, the client has not
 * heard of what it had behind it, as far as the SVM lacked that then; now it hears what both have, in a duplicate
 * acknowledgement of ours, as one that waits for a retransmission. (A hole of the SVM's alone is filled by its log.)
 */
static void tell_sack(struct net *net, struct flow *f)
{
	struct sack_block both[PACKET_MAX_SACK];
	struct frame_meta *m;
	unsigned int n = 0;
	struct packet p;
	uint32_t h;

	if (!f->loc.n_sack || f->is_signed || !f->head_len || !f->out_known || !f->out_ack_known ||
	    f->loc.rst || !(f->ws_known || f->no_ws) || !f->rem.ack_known || seq_lt(f->rem.ack, f->loc.ack) ||
	    f->loc.ack != f->out_ack ||
	    (f->ts_on && !f->out_ts_known && !f->said_ts))
		return;
	for (unsigned int i = 0; i < f->loc.n_sack; i++)
		n += seq_lt(f->out_ack, f->loc.sack[i].left) && common_block(f, f->loc.sack[i], &both[n]);
	if (!n || (n == f->n_told && !memcmp(both, f->told_sack, n * sizeof(*both))))
		return;
	h = frame_alloc(&net->fp, false);
	if (h == FRAME_NONE)
		return;
	m = &net->fp.meta[h];
	m->len = packet_make_ack(net_data(net, h), f->head, f->head_len, f->key.guest_port, f->key.other_port, f->out_nxt,
				 f->out_ack, window(f, f->out_ack, f->out_edge), f->ts_on,
				 f->out_ts_known ? f->out_tsval : f->said_tsval, f->loc.tsecr);
	m->len = packet_add_sack(net_data(net, h), m->len, both, n);
	m->nic = f->key.nic;
	m->epoch = net->epoch;
	packet_parse(net_data(net, h), m->len, &p);
	note_sack(f, both, n);
	note_out(net, f, &p, &f->out_edge);
	net->st.acks_made++;
	release_emit(net, m->nic, h);
}

static void set_owed(struct net *net, struct flow *f)
{
	if (f->owed)
		return;
	f->owed = true;
	f->owed_since = net->now;
	flow_list_add(&net->flows, f, LIST_HELD);
}

/* Whether the client would see more room than it was told of; what only rounding makes is no news. */
static bool is_news(const struct flow *f, uint32_t ack, uint32_t edge)
{
	return seq_lt(f->out_edge, edge) &&
	       seq_lt(f->out_told, ack + ((uint32_t)window(f, ack, edge) << flow_scale(f)));
}

void release_segment(struct net *net, struct flow *f, uint32_t frame, struct packet *p)
{
	uint32_t ack, edge;
	bool bound = false, lost;

	if ((p->flags & (TCP_ACK | TCP_SYN)) == (TCP_ACK | TCP_SYN) && allowed(net, f, &ack, &edge)) {
		if (seq_lt(ack, p->ack)) {
			/* Data that came with the client's SYN (RFC 7413), and that only the PVM has taken. */
			net->st.acks_lowered++;
			set_owed(net, f);
			packet_set_ack(p, ack);
		}
		/* What the SVM does not offer it could take back. No scale counts here. */
		if (seq_leq(p->ack, edge) && seq_lt(edge, p->ack + p->win))
			packet_set_win(p, (uint16_t)(edge - p->ack));
	} else if (p->flags & TCP_ACK && !(p->flags & (TCP_RST | TCP_SYN))) {
		if (!allowed(net, f, &ack, &edge)) {
			/* Nothing is known of the SVM: repeat what the client has heard, or say nothing. */
			if (!f->out_ack_known) {
				frame_free(&net->fp, frame);
				return;
			}
			ack = f->out_ack;
			edge = f->out_edge;
		}
		if (seq_lt(ack, p->ack))
			net->st.acks_lowered++;
		/* What this one may not say yet, a later one must, though the PVM need not speak again. */
		if (seq_lt(ack, f->loc.ack) || (seq_lt(edge, f->loc.edge) && seq_lt(f->out_edge, f->loc.edge) &&
						f->out_ack_known && seq_lt(f->out_edge, ack + SMALL_WINDOW)))
			set_owed(net, f);
		/*
		 * An old pure acknowledgement is not raised: it would look like a duplicate of the newest. Nor is any whose
		 * window cannot be made to fit, because its scale is not known.
		 */
		if ((!packet_span(p) || !(f->ws_known || f->no_ws)) && seq_lt(p->ack, ack))
			ack = p->ack;
		lost = filter_sack(net, f, p);
		/* A duplicate that has nothing left to report would look like a plain one, and three of them like a loss. */
		if (lost && !p->n_sack && !packet_span(p) && f->out_ack_known && seq_leq(ack, f->out_ack) && !is_news(f, ack, edge)) {
			net->st.acks_swallowed++;
			frame_free(&net->fp, frame);
			return;
		}
		if (p->n_sack)
			note_sack(f, p->sack, p->n_sack);
		packet_set_ack(p, ack);
		if (f->ws_known || f->no_ws) {
			packet_set_win(p, window(f, ack, edge));
			bound = true;
		}
	}
	if (p->has_ts && f->out_ts_known && seq_lt(p->tsval, f->out_tsval) && !(p->flags & TCP_RST))
		packet_set_ts(p, f->out_tsval, p->tsecr);
	note_out(net, f, p, bound ? &edge : NULL);
	release_emit(net, net->fp.meta[frame].nic, frame);
}

void release_learn(struct net *net, struct flow *f, const struct packet *p)
{
	f->head_len = (uint8_t)packet_head(p, f->head);
	if (p->has_ts && !(p->flags & TCP_RST) && (!f->said_ts || seq_lt(f->said_tsval, p->tsval))) {
		f->said_ts = true;
		f->said_tsval = p->tsval;
		f->said_at = net->now;
	}
	/* A guest that talks has a connection. */
	if (!(p->flags & (TCP_SYN | TCP_RST)))
		flow_establish(&net->flows, f);
	if (!(p->flags & TCP_SYN))
		return;
	f->ws_known = true;
	f->ws = p->has_ws ? p->ws : 0;
	/* An answer to the client's SYN: now its offer counts. */
	if (p->flags & TCP_ACK)
		f->no_ws = f->syn_no_ws;
}

/*
 * Prepare a TCP segment of the local guest: its flow, translation, what it says. Return: the flow, or NULL when the
 * table has no room.
 */
static struct flow *take_in(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	struct flow_key key;
	struct flow *f;

	packet_key(p, nic, true, &key);
	f = track_flow(net, &key);
	if (!f)
		return NULL;
	flow_list_add(&net->flows, f, LIST_ACTIVE);
	rewrite_out(net, f, p);
	net->fp.meta[frame].len = p->frame_len;
	release_learn(net, f, p);
	flow_side_update(&f->loc, p, flow_scale(f));
	/* In a SYN the option is only an offer, and in its answer the acceptance of one. */
	if (!(p->flags & TCP_RST) && (p->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		f->ts_on = p->has_ts;
	return f;
}

/*
 * The first that the VM says here. On a promoted node what lies before it was said before the promotion, so any state of
 * this VM has it; how much of it a client was given is known only as far as it was told.
 */
static void first_out(struct flow *f, const struct packet *p)
{
	f->out_known = true;
	f->out_nxt = p->flags & TCP_SYN && f->isn_known ? f->isn : p->seq;
	if (f->rel_out)
		f->out_nxt = seq_max(f->out_nxt, f->rel_nxt);
}

/* A TCP segment of a VM that has no copy. */
static void alone_tcp(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	struct flow *f = take_in(net, frame, nic, p);

	if (f && !(p->flags & TCP_RST)) {
		if (!f->out_known)
			first_out(f, p);
		f->out_nxt = seq_max(f->out_nxt, f->loc.nxt);
		note_out(net, f, p, NULL);
	}
	release_emit(net, nic, frame);
}

void release_alone(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	uint32_t h;

	if (p->kind == PK_TCP) {
		alone_tcp(net, frame, nic, p);
	} else if (p->kind == PK_FRAG && p->proto == PROTO_TCP) {
		h = frag_take(net, SIDE_LOC, frame, nic, p);
		if (h != FRAME_NONE)
			frag_tcp(net, h, alone_tcp);
	} else {
		release_emit(net, nic, frame);
	}
}

/* A segment without data, SYN, FIN or RST. */
static void pure_ack(struct net *net, struct flow *f, uint32_t frame, struct packet *p)
{
	uint32_t ack, edge;

	if (!f->out_known)
		first_out(f, p);
	if (!allowed(net, f, &ack, &edge)) {
		set_owed(net, f);
		net->st.acks_swallowed++;
		frame_free(&net->fp, frame);
		return;
	}
	if (seq_lt(ack, f->loc.ack) || (f->ws_known && seq_lt(edge, f->loc.edge) && seq_lt(f->out_edge, f->loc.edge)))
		set_owed(net, f);
	if (f->out_ack_known && seq_leq(ack, f->out_ack) && !is_news(f, ack, edge) &&
	    (seq_lt(ack, p->ack) ||
	     (f->ws_known && seq_lt(f->out_edge, p->ack + ((uint32_t)p->win << flow_scale(f)))))) {
		net->st.acks_swallowed++;
		frame_free(&net->fp, frame);
		return;
	}
	if (seq_lt(f->out_nxt, p->seq))
		packet_move_back(p, f->out_nxt);
	net->st.passed++;
	release_segment(net, f, frame, p);
}

static void open_flow(struct net *net, struct flow *f, const struct packet *p)
{
	struct net_act *a;

	if (f->flow_sent)
		return;
	f->flow_sent = true;
	f->flow_ok = false;
	a = net_msg_new(net, NM_FLOW);
	a->msg.epoch = net->epoch;
	a->msg.key = f->key;
	a->msg.isn = p->seq;
	a->msg.has_ts = p->has_ts;
	a->msg.tsval = p->tsval;
}

/* What was let out before may leave again at once; what lies beyond is new, and held. */
static void split_retransmission(struct net *net, struct flow *f, uint32_t frame, struct packet *p)
{
	uint32_t piece = frame_alloc(&net->fp, false);
	struct packet old;

	if (piece != FRAME_NONE) {
		memcpy(net_data(net, piece), p->data, p->frame_len);
		net->fp.meta[piece].nic = net->fp.meta[frame].nic;
		net->fp.meta[piece].epoch = net->epoch;
		packet_parse(net_data(net, piece), p->frame_len, &old);
		packet_cut_tail(&old, f->out_nxt - old.seq - !!(old.flags & TCP_SYN));
		net->fp.meta[piece].len = old.frame_len;
		net->st.passed++;
		release_segment(net, f, piece, &old);
	}
	packet_cut_front(p, f->out_nxt - p->seq - !!(p->flags & TCP_SYN));
	net->fp.meta[frame].len = p->frame_len;
}

/* A TCP segment of the PVM that is neither compared nor changed. Return: false when it is */
static bool not_compared(struct net *net, struct flow *f, uint32_t frame, uint8_t nic, const struct packet *p)
{
	enum rule_action action = track_action(net, f);

	if (action == RULE_BYPASS) {
		/* What was held before the rule came goes first. */
		epoch_let_go(net, f, UINT64_MAX);
		net->st.bypassed++;
		f->out_known = f->loc.seen;
		f->out_nxt = f->loc.nxt;
		note_out(net, f, p, NULL);
		release_emit(net, nic, frame);
		return true;
	}
	if (p->has_signature && !f->is_signed) {
		f->is_signed = true;
		net->st.signed_flows++;
	}
	/* What is already in that list, perhaps of a time when there was no room for the flow, must not be overtaken. */
	if (action != RULE_HOLD && !f->is_signed && f->other_epoch <= net->staged &&
	    (f->out_known || net->full_epoch <= net->staged))
		return false;
	f->other_epoch = net->epoch;
	f->owed = false;
	hold_other(net, frame);
	return true;
}

static void pvm_tcp(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	struct flow *f = take_in(net, frame, nic, p);

	if (!f) {
		if (net_want(net, CAUSE_FLOWS))
			net->st.limit_flows++;
		net->full_epoch = net->epoch;
		hold_other(net, frame);
		return;
	}
	net_dirty(net, f);
	if (not_compared(net, f, frame, nic, p))
		return;
	if (p->flags & TCP_RST) {
		f->owed = false;
		hold_rst(net, f, frame);
		compare_flow(net, f);
		return;
	}
	f->was_reset = false;
	if (p->flags & TCP_SYN)
		open_flow(net, f, p);
	if (!packet_span(p)) {
		pure_ack(net, f, frame, p);
		return;
	}
	if (!f->out_known)
		first_out(f, p);
	if (p->flags & TCP_SYN && !f->flow_ok && f->isn_known && seq_lt(f->isn, f->out_nxt)) {
		/* The client says that it has this one, of which the secondary does not know yet: then it needs no other. */
		frame_free(&net->fp, frame);
		return;
	}
	if (f->isn_known && seq_lt(p->seq, f->isn + !(p->flags & TCP_SYN)) && f->out_nxt - f->isn < YOUNG) {
		/* Before the connection began: no stack says that, and it would pass for something that was let out before. */
		net->st.drop_bad++;
		frame_free(&net->fp, frame);
		return;
	}
	if (seq_leq(p->seq + packet_span(p), f->out_nxt)) {
		net->st.passed++;
		release_segment(net, f, frame, p);
		return;
	}
	if (seq_lt(p->seq, f->out_nxt))
		split_retransmission(net, f, frame, p);
	hold_segment(net, f, &f->loc, frame, p);
	compare_flow(net, f);
	compare_guess(net, f);
}

static void pvm_piece(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	uint32_t h = frag_take(net, SIDE_LOC, frame, nic, p);

	if (h == FRAME_NONE)
		return;
	packet_parse(net_data(net, h), net->fp.meta[h].len, p);
	if (p->proto == PROTO_TCP)
		frag_tcp(net, h, pvm_tcp);
	else
		datagram_pvm(net, h, nic, p);
}

void release_pvm(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	if (!net->holding) {
		release_alone(net, frame, nic, p);
		return;
	}
	switch (p->kind) {
	case PK_LOCAL:
		net->st.passed++;
		release_emit(net, nic, frame);
		break;
	case PK_TCP:
		pvm_tcp(net, frame, nic, p);
		break;
	case PK_FRAG:
		pvm_piece(net, frame, nic, p);
		break;
	case PK_DGRAM:
	case PK_OTHER:
		datagram_pvm(net, frame, nic, p);
		break;
	}
}

static void svm_tcp(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	struct flow_key key;
	struct flow *f;

	packet_key(p, nic, true, &key);
	f = track_flow(net, &key);
	if (!f) {
		frame_free(&net->fp, frame);
		return;
	}
	if (p->flags & TCP_SYN && !(f->rem.syn && f->rem.isn == p->seq)) {
		hold_clear(net, f, &f->rem);
		flow_side_reset(&f->rem);
	}
	flow_side_update(&f->rem, p, flow_scale(f));
	flow_list_add(&net->flows, f, LIST_ACTIVE);
	net_dirty(net, f);
	if (f->loc.n_sack && compare_wanted(net, f))
		tell_sack(net, f);
	if (p->flags & TCP_RST)
		f->svm_rst[f->n_svm_rst++ % FLOW_RSTS] = p->seq;
	if (packet_span(p) && !(p->flags & TCP_RST) && !f->diverged && compare_wanted(net, f) &&
	    !(f->out_known && seq_leq(p->seq + packet_span(p), f->out_nxt)))
		hold_segment(net, f, &f->rem, frame, p);
	else
		frame_free(&net->fp, frame);
	compare_flow(net, f);
}

/* One frame of the SVM, in client numbers, to be compared. */
void release_svm(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	uint32_t h;

	switch (p->kind) {
	case PK_LOCAL:
		net->st.drop_silent++;
		frame_free(&net->fp, frame);
		break;
	case PK_TCP:
		svm_tcp(net, frame, nic, p);
		break;
	case PK_FRAG:
		h = frag_take(net, SIDE_REM, frame, nic, p);
		if (h == FRAME_NONE)
			break;
		packet_parse(net_data(net, h), net->fp.meta[h].len, p);
		datagram_svm(net, h, nic, p);
		break;
	case PK_DGRAM:
	case PK_OTHER:
		datagram_svm(net, frame, nic, p);
		break;
	}
}

/* Pay what is owed: an acknowledgement of our own when both copies have come further than the client knows. */
static void originate(struct net *net, struct flow *f)
{
	uint32_t ack, edge, h;
	struct frame_meta *m;
	struct packet p;
	bool news;

	if (!f->owed || !allowed(net, f, &ack, &edge))
		return;
	if (f->ts_on && !f->out_ts_known && !f->said_ts)
		return;
	if (f->loc.rst || !f->head_len || !f->out_known || f->is_signed) {
		f->owed = false;
		return;
	}
	news = f->out_ack_known && f->ws_known && is_news(f, ack, edge);
	if (!f->out_ack_known || seq_lt(f->out_ack, ack) || news) {
		h = frame_alloc(&net->fp, false);
		if (h == FRAME_NONE)
			return;
		m = &net->fp.meta[h];
		m->len = packet_make_ack(net_data(net, h), f->head, f->head_len, f->key.guest_port, f->key.other_port,
					 f->out_nxt, ack, window(f, ack, edge), f->ts_on,
					 f->out_ts_known ? f->out_tsval : f->said_tsval, f->loc.tsecr);
		m->nic = f->key.nic;
		m->epoch = net->epoch;
		packet_parse(net_data(net, h), m->len, &p);
		note_out(net, f, &p, &edge);
		net->st.acks_made++;
		release_emit(net, m->nic, h);
		f->owed_since = net->now;
	}
	if (seq_leq(f->loc.ack, f->out_ack) && (!f->ws_known || seq_leq(f->loc.edge, f->out_edge)))
		f->owed = false;
}

void release_finish(struct net *net)
{
	struct flow *f;

	while ((f = flow_list_first(&net->flows, LIST_DIRTY))) {
		flow_list_del(&net->flows, f, LIST_DIRTY);
		originate(net, f);
	}
	if (flow_list_first(&net->flows, LIST_REL) &&
	    net->now >= net->rel_at + (net->speaks ? 0 : net->cfg.released_every))
		keep_tell(net);
}
