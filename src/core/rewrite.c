/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Translation: theory of operation (P6)
 *
 * The two copies number a new connection differently: their initial sequence numbers and timestamp offsets are
 * random. What the client knows are the PVM's. Each node has one table, client number = guest number + offset, in
 * struct flow: on the primary it is zero until that node itself was promoted once; on the secondary it says how the
 * SVM's connections differ. What the guest sends gets the offset added (sequence number, timestamp), what it
 * receives has it subtracted (acknowledgement, SACK blocks, timestamp echo). Compare, log and hold work in client
 * numbers only.
 *
 * A new flow: the PVM's SYN or SYN-ACK makes the primary send FLOW (numbers of the PVM), and is not let out until
 * FLOW_OK. The SVM's own SYN waits until FLOW is there (svm.c); from the two the offsets follow. FLOW of an epoch
 * that the SVM is not yet in waits (next_*) for LOADED. When that epoch's beginning was given up (ABORT), it is the
 * SVM's when its end is LOADED, in whose state the connection is open already.
 *
 * A checkpoint: the primary sends its own nonzero offsets before the barrier (TABLE); with LOADED they become the
 * secondary's, for the new SVM numbers as the PVM does; lines of one that was given up are void. Promotion changes
 * nothing here but the timestamps: the first one that the promoted VM sends on a flow decides, once, by how much the
 * flow is shifted so that it is not behind what the client may have seen (RELEASED plus the time since, one tick a
 * millisecond as Linux counts).
 *
 * Signed segments (MD5, AO) are passed as they are: a changed field would break the signature, so they leave only
 * with the checkpoint that makes both copies' numbers equal. An ICMP error to the guest quotes a segment of the guest's
 * by number, which is translated too, or path MTU discovery would work in one copy only. Pure.
 */
#include "core/net_internal.h"

#include <string.h>

#define SYN_AGAIN	(1u << 20)	/* bytes that a guest may have sent before it repeats its SYN */

static bool translated(const struct flow *f)
{
	return f->seq_off || f->ts_off;
}

/* A copy of an input frame to change: the frame itself goes to the peer, or stays in the log, as it came. */
static uint32_t copy_of(struct net *net, uint32_t frame, struct packet *p)
{
	struct frame_meta *m = &net->fp.meta[frame];
	uint32_t h = frame_alloc(&net->fp, false);

	if (h == FRAME_NONE) {
		net->st.drop_pool++;
		return h;
	}
	memcpy(net_data(net, h), net_data(net, frame), m->len);
	net->fp.meta[h].len = m->len;
	net->fp.meta[h].nic = m->nic;
	p->data = net_data(net, h);
	return h;
}

/* An ICMP error about a segment of the guest's. */
static uint32_t error_in(struct net *net, uint32_t frame, struct packet *p)
{
	struct flow_key key;
	uint16_t seq_at;
	struct flow *f;
	uint32_t h;

	if (!packet_quotes_tcp(p, net->fp.meta[frame].nic, &key, &seq_at))
		return frame;
	f = flow_find(&net->flows, &key);
	if (!f || !f->seq_off)
		return frame;
	h = copy_of(net, frame, p);
	if (h == FRAME_NONE)
		return h;
	packet_set_quoted(p, seq_at, f->seq_off);
	net->st.icmp_translated++;
	return h;
}

uint32_t rewrite_in_flow(struct net *net, uint32_t frame, struct packet *p, const struct flow *f)
{
	uint32_t h;

	if (!translated(f) || !(p->flags & TCP_ACK) || p->has_signature)
		return frame;
	h = copy_of(net, frame, p);
	if (h == FRAME_NONE)
		return h;
	packet_set_ack(p, p->ack - f->seq_off);
	if (p->has_ts) {
		/* Never what this copy has not sent: a kernel may refuse the handshake for it. */
		uint32_t echo = f->said_ts && seq_lt(f->said_tsval, p->tsecr) ? f->said_tsval : p->tsecr;

		packet_set_ts(p, p->tsval, echo - f->ts_off);
	}
	for (unsigned int i = 0; i < p->n_sack; i++)
		packet_set_sack(p, i, p->sack[i].left - f->seq_off, p->sack[i].right - f->seq_off);
	return h;
}

uint32_t rewrite_in(struct net *net, uint32_t frame, struct packet *p)
{
	struct flow_key key;
	struct flow *f;

	/* A node that was the primary from the start numbers as the client does. */
	if (net->role != NET_SECONDARY && !net->was_promoted)
		return frame;
	if (p->kind == PK_DGRAM)
		return error_in(net, frame, p);
	/* The header of a segment in pieces is in the first; the checksum is corrected by difference, so that will do. */
	if (p->kind != PK_TCP && !packet_first_piece(p))
		return frame;
	packet_key(p, net->fp.meta[frame].nic, false, &key);
	f = flow_find(&net->flows, &key);
	return f ? rewrite_in_flow(net, frame, p, f) : frame;
}

/* The local guest opens a connection anew: what was known of its predecessor is void. */
static void new_incarnation(struct net *net, struct flow *f)
{
	hold_clear(net, f, &f->loc);
	hold_clear(net, f, &f->rem);
	flow_side_reset(&f->loc);
	flow_side_reset(&f->rem);
	f->seq_off = f->ts_off = 0;
	f->shift_due = f->rel_ts = f->rel_known = f->rel_out = false;
	f->out_known = f->out_ack_known = f->out_ts_known = f->owed = false;
	f->flow_sent = f->flow_ok = f->bar_set = f->diverged = false;
	f->ws_known = f->no_ws = false;
	f->isn_known = f->said_ts = f->ts_on = f->is_signed = false;
}

/*
 * rewrite_shift() - a segment that carries client numbers leaves after a promotion: its timestamp must not be behind
 * what the client may have seen. The first one decides the flow's shift.
 */
void rewrite_shift(struct net *net, struct flow *f, struct packet *p)
{
	uint32_t seen;

	if (!p->has_ts || !f->shift_due || p->flags & TCP_RST)
		return;
	f->shift_due = false;
	if (!f->rel_ts) {
		/* What told us may have been overtaken by the primary's death. */
		f->rel_ts = true;
		f->rel_tsval = p->tsval;
		f->rel_at = net->now;
	}
	seen = f->rel_tsval + (uint32_t)((net->now - f->rel_at) / NS_PER_MS) + TS_MARGIN;
	if (seq_lt(p->tsval, seen) && !FAULT(net, NET_FAULT_TS_BACK)) {
		f->ts_off += seen - p->tsval;
		f->said_tsval += seen - p->tsval;
		packet_set_ts(p, seen, p->tsecr);
	}
}

void rewrite_out(struct net *net, struct flow *f, struct packet *p)
{
	/* A reset that answers a segment without ACK has no number of its own (RFC 9293, 3.10.7.1). */
	if (p->flags & TCP_RST && !p->seq)
		return;
	if ((p->flags & (TCP_SYN | TCP_RST)) == TCP_SYN && net->role != NET_SECONDARY &&
	    !(f->isn_known && p->seq + f->seq_off == f->isn)) {
		/* Of a flow that was forgotten and met again the SYN may come once more behind what follows it. */
		bool again = !f->isn_known && f->loc.seen && f->loc.nxt - (p->seq + f->seq_off) - 1 < SYN_AGAIN;

		if (!again)
			new_incarnation(net, f);
		f->isn_known = true;
		f->isn = p->seq + f->seq_off;
	}
	if (p->has_signature)
		return;
	packet_set_seq(p, p->seq + f->seq_off);
	if (!p->has_ts)
		return;
	packet_set_ts(p, p->tsval + f->ts_off, p->tsecr);
	rewrite_shift(net, f, p);
}

bool rewrite_svm_syn(struct net *net, struct flow *f, struct packet *p)
{
	if (f->isn_known && !f->pending && p->seq + f->seq_off == f->isn)
		return true;
	if (!f->pending)
		return false;
	f->pending = false;
	f->seq_off = f->isn - p->seq;
	f->ts_off = f->pending_ts && p->has_ts ? f->isn_tsval - p->tsval : 0;
	flow_side_reset(&f->loc);
	hold_clear(net, f, &f->rem);
	return true;
}

/* FLOW becomes valid for the SVM that runs now. */
static void flow_now(struct net *net, struct flow *f, uint32_t isn, bool has_ts, uint32_t tsval)
{
	f->isn_known = true;
	f->isn = isn;
	f->isn_tsval = tsval;
	f->said_ts = false;
	f->pending = true;
	f->pending_ts = has_ts;
	f->rel_known = f->rel_out = false;
	f->out_known = f->out_ack_known = f->out_ts_known = false;
	f->rel_ts = has_ts;
	f->rel_tsval = tsval;
	f->rel_at = net->now;
}

void rewrite_flow(struct net *net, const struct net_msg *m)
{
	struct flow *f = track_flow(net, &m->key);
	struct net_act *a;

	/* No FLOW_OK: the SYN-ACK waits for the checkpoint that the full table asks for (LOGGED says so). */
	if (!f)
		return;
	if (m->epoch <= net->epoch && net->have_state) {
		/* Told once more, because the primary had no room for the flow and forgot it: what is known stays. */
		if (!(f->isn_known && f->isn == m->isn && !f->has_next))
			flow_now(net, f, m->isn, m->has_ts, m->tsval);
		svm_unstash(net, f);
	} else {
		f->has_next = true;
		f->next_isn = m->isn;
		f->next_tsval = m->tsval;
		f->next_ts = m->has_ts;
		f->next_epoch = m->epoch;
	}
	a = net_msg_new(net, NM_FLOW_OK);
	a->msg.epoch = m->epoch;
	a->msg.key = m->key;
	a->msg.isn = m->isn;
}

void rewrite_table_of(struct net *net, uint64_t n)
{
	struct flow *f;

	if (net->table_n && net->table_n != n) {
		net->table_lost = false;
		flow_for_each(&net->flows, f)
			f->has_table = false;
	}
	net->table_n = n;
}

void rewrite_table(struct net *net, const struct net_msg *m)
{
	struct flow *f;

	rewrite_table_of(net, m->epoch);
	f = track_flow(net, &m->key);
	if (!f) {
		net->table_lost = true;
		return;
	}
	if (m->has_ts)
		flow_establish(&net->flows, f);
	f->has_table = true;
	f->table_seq_off = m->seq_off;
	f->table_ts_off = m->ts_off;
	f->table_isn = m->isn;
}

void rewrite_send_table(struct net *net, uint64_t n)
{
	struct flow *f;

	if (!net->was_promoted)
		return;
	flow_for_each(&net->flows, f) {
		struct net_act *a;

		if (!translated(f))
			continue;
		if (flow_ended(f, net->now)) {
			track_forget(net, f);
			continue;
		}
		a = net_msg_new(net, NM_TABLE);
		a->msg.has_ts = f->cls == FLOW_OPEN;
		a->msg.epoch = n;
		a->msg.key = f->key;
		a->msg.seq_off = f->seq_off;
		a->msg.ts_off = f->ts_off;
		a->msg.isn = f->isn_known ? f->isn : 0;
	}
}

void rewrite_commit(struct net *net, uint64_t n)
{
	struct flow *f;

	net->table_n = 0;
	flow_for_each(&net->flows, f) {
		f->seq_off = f->has_table ? f->table_seq_off : 0;
		f->ts_off = f->has_table ? f->table_ts_off : 0;
		if (f->has_table && f->table_isn) {
			f->isn_known = true;
			f->isn = f->table_isn;
		}
		f->has_table = f->pending = f->said_ts = false;
		frame_list_clear(&net->fp, &f->stash);
		flow_side_reset(&f->loc);
		/* What the old SVM had sent is not what the new one has. */
		hold_clear(net, f, &f->rem);
		if (f->has_next) {
			f->has_next = false;
			flow_now(net, f, f->next_isn, f->next_ts, f->next_tsval);
			/* Opened in an epoch that this state has the end of. */
			f->pending = f->next_epoch > n;
		}
	}
}

void rewrite_forget(struct net *net)
{
	struct flow *f;

	net->was_promoted = true;
	flow_for_each(&net->flows, f) {
		f->has_table = f->has_next = f->pending = false;
		f->shift_due = true;
		if (FAULT(net, NET_FAULT_NO_TRANSLATION))
			f->seq_off = f->ts_off = 0;
	}
}
