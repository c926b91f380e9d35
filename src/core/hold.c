/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Held output: theory of operation
 *
 * What a copy has said and what may not leave yet, or was not yet matched, is in a list of its flow and side: TCP
 * segments sorted by client sequence number and not overlapping (what comes twice is trimmed on entry), datagrams in
 * their order. What cannot be compared at all is in one list of the node (other).
 *
 * Limits: frames and bytes of each flow and side (max_queue_size as in QEMU, max_flow_bytes), frames and bytes of each
 * side in all. At a limit a checkpoint is asked for, which empties everything; for datagrams of
 * the SVM at most one in compare_timeout, and the oldest of the flow go. Should it not come in time, what comes
 * at twice a limit is dropped whole, as on a network, and counted; connections that are not established yet stop at half.
 *
 * Age: what is held longer than compare_timeout starts a checkpoint. The time counts only while there is an SVM that
 * could answer: a slow one must not be made slower by checkpoints, so the limit doubles with each that a timeout has
 * caused in a row. It is the same for what the SVM alone has said. Where the guest speaks unasked its copy may do so at another time or from another port, which
 * no wait would mend; so there the limit is short. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#define UNASKED_WAIT	(100 * NS_PER_MS)
#define SMALL_WINDOW	1460	/* bytes */
#define MAX_BACKOFF	4

static void count(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, bool in)
{
	uint32_t *frames = s == &f->loc ? &net->n_held : &net->n_held_rem;
	uint32_t *bytes = s == &f->loc ? &net->n_bytes : &net->n_bytes_rem;

	for (; frame != FRAME_NONE; frame = net->fp.meta[frame].piece) {
		struct frame_meta *m = &net->fp.meta[frame];

		if (in) {
			m->bytes = m->len;
			++*frames;
			*bytes += m->bytes;
			s->held_bytes += m->bytes;
		} else {
			--*frames;
			*bytes -= m->bytes;
			s->held_bytes -= m->bytes;
		}
	}
}

void hold_want(struct net *net, struct flow *f, enum ckpt_cause cause)
{
	struct net_act *a = net_want(net, cause);

	if (!a)
		return;
	a->msg.key = f->key;
	a->msg.seq32 = f->out_nxt;
	a->msg.ack32 = f->loc.ack;
	a->msg.room = f->loc.held.n;
}

static void check_limits(struct net *net, struct flow *f, struct flow_side *s)
{
	uint32_t frames = s == &f->loc ? net->n_held : net->n_held_rem;
	uint32_t bytes = s == &f->loc ? net->n_bytes : net->n_bytes_rem;
	uint64_t *counter = NULL;

	if (s->held.n > net_nic(net, f->key.nic)->max_queue_size || s->held_bytes > net->cfg.max_flow_bytes)
		counter = &net->st.limit_flow;
	else if (frames > net->cfg.max_held)
		counter = &net->st.limit_held;
	else if (bytes > net->cfg.max_bytes)
		counter = &net->st.limit_bytes;
	if (!counter || net->role != NET_PRIMARY)
		return;
	/*
	 * Datagrams that only the SVM has said: after a load it answers once more what is answered already, so a checkpoint
	 * at each such limit would bring on the next. The oldest goes; should it be needed, its twin will be a difference.
	 */
	if (f->key.datagram && s == &f->rem) {
		net->st.drop_held += frame_free_chain(&net->fp, hold_pop(net, f, s));
		if (net->svm_full_at && net->now < net->svm_full_at + net_nic(net, f->key.nic)->compare_timeout)
			return;
		net->svm_full_at = net->now;
	}
	if (net->wanted & 1u << CAUSE_HELD)
		return;
	++*counter;
	hold_want(net, f, CAUSE_HELD);
}

/* Whether the checkpoint that was asked for at the limit takes too long. */
static bool no_room(struct net *net, struct flow *f, struct flow_side *s)
{
	uint32_t frames = s == &f->loc ? net->n_held : net->n_held_rem;
	uint32_t bytes = s == &f->loc ? net->n_bytes : net->n_bytes_rem;

	if (f->cls == FLOW_EMBRYO)
		return frames >= net->cfg.max_held / 2;
	return frames >= 2 * net->cfg.max_held || bytes >= 2 * net->cfg.max_bytes;
}

static void entered(struct net *net, struct flow *f, struct flow_side *s)
{
	if (s->held.n == 1 && s == &f->loc)
		f->held_since = net->now;
	else if (s->held.n == 1)
		f->rem_since = net->now;
	if (net->role == NET_PRIMARY)
		flow_list_add(&net->flows, f, LIST_HELD);
	check_limits(net, f, s);
}

void hold_segment(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, struct packet *p)
{
	struct frame_meta *m = net->fp.meta;
	uint32_t prev = FRAME_NONE, i = s->held.head;
	uint32_t end = p->seq + packet_span(p);

	if (no_room(net, f, s)) {
		net->st.drop_held++;
		frame_free(&net->fp, frame);
		return;
	}
	/* Nearly always it comes behind the last. */
	if (s->held.tail != FRAME_NONE && seq_leq(m[s->held.tail].end, p->seq)) {
		prev = s->held.tail;
		i = FRAME_NONE;
	}
	for (; i != FRAME_NONE; prev = i, i = m[i].next) {
		if (seq_leq(end, m[i].seq))
			break;
		if (seq_leq(m[i].end, p->seq))
			continue;
		if (seq_lt(p->seq, m[i].seq)) {
			/* It fills a gap; what it holds beyond is there already, or will be retransmitted. */
			packet_cut_tail(p, m[i].seq - p->seq - !!(p->flags & TCP_SYN));
			end = m[i].seq;
			break;
		}
		if (seq_leq(end, m[i].end)) {
			/* The held copy stays: numbers, window and time are made anew when it leaves. */
			frame_free(&net->fp, frame);
			return;
		}
		packet_cut_front(p, m[i].end - p->seq - !!(p->flags & TCP_SYN));
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
	count(net, f, s, frame, true);
	entered(net, f, s);
}

void hold_append(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, uint32_t content)
{
	if (no_room(net, f, s)) {
		net->st.drop_held += frame_free_chain(&net->fp, frame);
		return;
	}
	net->fp.meta[frame].seq = 0;
	net->fp.meta[frame].end = content;
	frame_list_append(&net->fp, &s->held, frame);
	count(net, f, s, frame, true);
	entered(net, f, s);
}

uint32_t hold_pop(struct net *net, struct flow *f, struct flow_side *s)
{
	uint32_t h = frame_list_pop(&net->fp, &s->held);

	if (h != FRAME_NONE)
		count(net, f, s, h, false);
	return h;
}

uint32_t hold_take(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, uint32_t prev)
{
	struct frame_meta *m = net->fp.meta;

	if (prev == FRAME_NONE)
		return hold_pop(net, f, s);
	m[prev].next = m[frame].next;
	if (s->held.tail == frame)
		s->held.tail = prev;
	s->held.n--;
	m[frame].next = FRAME_NONE;
	count(net, f, s, frame, false);
	return frame;
}

void hold_rst(struct net *net, struct flow *f, uint32_t frame)
{
	uint32_t old = hold_take_rst(net, f);

	if (old != FRAME_NONE)
		frame_free(&net->fp, old);
	if (no_room(net, f, &f->loc)) {
		net->st.drop_held++;
		frame_free(&net->fp, frame);
		return;
	}
	f->held_rst = frame;
	f->held_since = net->now;
	count(net, f, &f->loc, frame, true);
	flow_list_add(&net->flows, f, LIST_HELD);
	check_limits(net, f, &f->loc);
}

uint32_t hold_take_rst(struct net *net, struct flow *f)
{
	uint32_t h = f->held_rst;

	if (h != FRAME_NONE)
		count(net, f, &f->loc, h, false);
	f->held_rst = FRAME_NONE;
	return h;
}

void hold_clear(struct net *net, struct flow *f, struct flow_side *s)
{
	uint32_t h;

	while ((h = hold_pop(net, f, s)) != FRAME_NONE)
		frame_free_chain(&net->fp, h);
	if (s == &f->loc && (h = hold_take_rst(net, f)) != FRAME_NONE)
		frame_free(&net->fp, h);
}

void hold_other(struct net *net, uint32_t frame)
{
	struct frame_meta *m = net->fp.meta;
	uint32_t prev = FRAME_NONE, i;

	if (net->n_held >= 2 * net->cfg.max_held || net->n_bytes >= 2 * net->cfg.max_bytes) {
		net->st.drop_held++;
		frame_free(&net->fp, frame);
		return;
	}
	/* The time counts for those that no checkpoint under way carries. */
	if (m[frame].epoch == net->epoch && (!net->other.n || m[net->other.tail].epoch != net->epoch))
		net->other_since = net->now;
	if (!net->other.n || m[net->other.tail].epoch <= m[frame].epoch) {
		frame_list_append(&net->fp, &net->other, frame);
	} else {
		/* A late one of an epoch before, which was given up as a fragment. */
		for (i = net->other.head; m[i].epoch <= m[frame].epoch; i = m[i].next)
			prev = i;
		m[frame].next = i;
		if (prev == FRAME_NONE)
			net->other.head = frame;
		else
			m[prev].next = frame;
		net->other.n++;
	}
	net->n_held++;
	net->n_bytes += net->fp.meta[frame].len;
	if (net->n_held > net->cfg.max_held && net_want(net, CAUSE_HELD))
		net->st.limit_held++;
	else if (net->n_bytes > net->cfg.max_bytes && net_want(net, CAUSE_HELD))
		net->st.limit_bytes++;
}

bool hold_piece(struct net *net, enum net_side side)
{
	uint32_t n = side == SIDE_LOC ? net->n_held : net->n_held_rem;
	uint32_t bytes = side == SIDE_LOC ? net->n_bytes : net->n_bytes_rem;

	if (n >= 2 * net->cfg.max_held || bytes >= 2 * net->cfg.max_bytes) {
		net->st.drop_held++;
		return false;
	}
	if (side == SIDE_LOC && n >= net->cfg.max_held && net_want(net, CAUSE_HELD))
		net->st.limit_held++;
	else if (side == SIDE_LOC && bytes >= net->cfg.max_bytes && net_want(net, CAUSE_HELD))
		net->st.limit_bytes++;
	return true;
}

/* The guest has begun to talk by itself: a connection of its own, or a datagram that nothing asked for. */
static bool unasked(struct net *net, const struct flow *f)
{
	struct packet p;

	if (!f->loc.held.n)
		return false;
	if (f->key.datagram)
		return !f->asked;
	packet_parse(net_data(net, f->loc.held.head), net->fp.meta[f->loc.held.head].len, &p);
	return (p.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

static void look(struct net *net, struct flow *f)
{
	nstime since = f->held_since, most;

	most = net_nic(net, f->key.nic)->compare_timeout << (net->backoff > MAX_BACKOFF ? MAX_BACKOFF : net->backoff);
	if (most > UNASKED_WAIT && unasked(net, f))
		most = UNASKED_WAIT;
	if (!f->loc.held.n && f->held_rst == FRAME_NONE && f->rem.held.n) {
		/* The SVM has said what the PVM does not; seldom enough that it does not become a storm. */
		if (f->key.datagram)
			datagram_forget_twice(net, f);
		since = f->rem_since;
		if (!f->rem.held.n || net->now < net->svm_old_at + most)
			return;
		if (since < net->loaded_at)
			since = net->loaded_at;
		if (net->now - since >= most)
			net->svm_old_at = net->now;
	} else if (!f->loc.held.n && f->held_rst == FRAME_NONE) {
		/* A smaller window alone keeps nobody waiting, unless it is as good as shut. */
		if (f->out_ack_known && !seq_lt(f->out_ack, f->loc.ack) && seq_lt(f->out_ack + SMALL_WINDOW, f->out_edge))
			return;
		since = f->owed_since;
	}
	if (since < net->loaded_at)
		since = net->loaded_at;
	if (net->now - since >= most)
		hold_want(net, f, CAUSE_TIMEOUT);
}

void hold_scan(struct net *net)
{
	uint32_t due = 0;
	struct flow *f, *next;

	for (unsigned int i = 0; i < net->cfg.n_nics; i++) {
		if (net->now < net->scan_at[i])
			continue;
		due |= 1u << i;
		net->scan_at[i] = net->now + net_nic(net, (uint8_t)i)->expired_scan_cycle;
	}
	for (f = due ? flow_list_first(&net->flows, LIST_HELD) : NULL; f; f = next) {
		next = flow_list_next(&net->flows, f, LIST_HELD);
		if (!f->loc.held.n && !f->rem.held.n && f->held_rst == FRAME_NONE && !f->owed)
			flow_list_del(&net->flows, f, LIST_HELD);
		else if (net->loaded && due & 1u << f->key.nic)
			look(net, f);
	}
}

nstime hold_deadline(const struct net *net)
{
	nstime at = NS_NEVER;

	if (net->flows.list_head[LIST_HELD] == FLOW_NONE)
		return at;
	for (unsigned int i = 0; i < net->cfg.n_nics; i++)
		if (net->scan_at[i] < at)
			at = net->scan_at[i];
	return at;
}
