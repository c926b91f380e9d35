/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the secondary knows of what the client has seen, and keeps for the day of promotion: theory of operation
 *
 * The primary tells (RELEASED), for each flow of which something has left, how far its output and acknowledgements
 * got, the window's right edge and scale, and the highest timestamp of the PVM with its age; at most every
 * released_every and together with input if there is some, since a message by itself wakes the other node for nothing. So
 * it may be a little behind, and the last word may be lost with the primary. So the secondary keeps
 * what its SVM has sent beyond that. At promotion it leaves at once: what the client has already is a retransmission
 * to it, and for the rest it need not wait for a retransmission timer. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#include <string.h>

#define KEEP_FLOW 64	/* segments of a flow that the secondary keeps for promotion */

/*
 * The secondary keeps what the SVM has sent and the client may not have been given (its rem.held list, which is
 * otherwise the primary's): at promotion it leaves at once, so that no client waits for a retransmission timer. A copy,
 * since what overlaps is trimmed on entry. Beyond the limit nothing is kept: the guest's own TCP sends it again.
 */
bool keep_output(struct net *net, struct flow *f, uint32_t frame, struct packet *p)
{
	uint32_t tail = f->rem.held.tail, h;
	struct packet copy;

	if (!packet_span(p) || p->flags & (TCP_RST | TCP_SYN) || f->rem.held.n >= KEEP_FLOW ||
	    net->n_held_rem >= net->cfg.max_held)
		return false;
	if (f->rel_out && seq_leq(p->seq + packet_span(p), f->rel_nxt))
		return false;
	/* One that needs no trimming is kept as it is sent. */
	if (net->fp.n_free > net->fp.reserve && (tail == FRAME_NONE || seq_leq(net->fp.meta[tail].end, p->seq))) {
		hold_segment(net, f, &f->rem, frame, p);
		return true;
	}
	h = frame_alloc(&net->fp, true);
	if (h == FRAME_NONE)
		return false;
	memcpy(net_data(net, h), p->data, p->frame_len);
	net->fp.meta[h].nic = f->key.nic;
	net->fp.meta[h].len = p->frame_len;
	copy = *p;
	copy.data = net_data(net, h);
	hold_segment(net, f, &f->rem, h, &copy);
	return false;
}

void keep_resend(struct net *net, struct flow *f)
{
	uint32_t h;

	while ((h = hold_pop(net, f, &f->rem)) != FRAME_NONE) {
		struct packet p;

		packet_parse(net_data(net, h), net->fp.meta[h].len, &p);
		rewrite_shift(net, f, &p);
		if (!f->ws_known && f->loc.ack_known && f->loc.win) {
			/* Whatever the scale: what the SVM has said last, which is not left of what the client was told. */
			packet_set_ack(&p, f->loc.ack);
			packet_set_win(&p, f->loc.win);
		}
		net->fp.meta[h].epoch = net->epoch;
		f->out_nxt = f->out_known ? seq_max(f->out_nxt, net->fp.meta[h].end) : net->fp.meta[h].end;
		f->out_known = true;
		net->st.resent++;
		release_segment(net, f, h, &p);
	}
}

void keep_tell(struct net *net)
{
	struct flow *f;

	net->rel_at = net->now + net->cfg.released_every;
	while ((f = flow_list_first(&net->flows, LIST_REL))) {
		bool said = f->said_ts && !(f->shift_due && f->rel_ts);
		struct net_act *a;

		flow_list_del(&net->flows, f, LIST_REL);
		if (net->role != NET_PRIMARY)
			continue;
		a = net_msg_new(net, NM_RELEASED);
		a->msg.epoch = net->epoch;
		a->msg.key = f->key;
		a->msg.isn = f->isn_known ? f->isn : 0;
		a->msg.seq32 = f->out_known ? f->out_nxt : f->rel_out ? f->rel_nxt : f->isn;
		a->msg.ack32 = f->out_ack;
		/* What a rule lets through is not lowered, so it says nothing of what the SVM has. */
		a->msg.room = f->out_ack_known && track_action(net, f) != RULE_BYPASS;
		a->msg.seq_off = f->out_edge;
		a->msg.ts_off = (f->ws & RELEASED_WS) | (f->ws_known ? RELEASED_WS_KNOWN : 0) |
				(f->no_ws ? RELEASED_NO_WS : 0) | (f->cls == FLOW_OPEN ? RELEASED_OPEN : 0);
		/*
		 * The highest of the PVM's, held segments included: with its age it bounds what may still leave. Of a promoted
		 * VM that has said nothing here since: what the primary before it has told, and what its first word will be
		 * ahead of that.
		 */
		a->msg.has_ts = f->said_ts || f->rel_ts;
		a->msg.tsval = said ? f->said_tsval : f->rel_tsval + TS_MARGIN;
		a->msg.age_ms = (uint32_t)((net->now - (said ? f->said_at : f->rel_at)) / NS_PER_MS);
	}
}

void keep_told(struct net *net, const struct net_msg *m)
{
	struct flow *f = track_flow(net, &m->key);

	/* 0: the primary had forgotten the flow, and met it again. */
	if (!f || (f->isn_known && m->isn && f->isn != m->isn))
		return;
	if (m->ts_off & RELEASED_OPEN)
		flow_establish(&net->flows, f);
	f->rel_nxt = m->seq32;
	f->rel_out = true;
	while (f->rem.held.head != FRAME_NONE && seq_leq(net->fp.meta[f->rem.held.head].end, f->rel_nxt))
		frame_free(&net->fp, hold_pop(net, f, &f->rem));
	if (m->room) {
		f->rel_ack = f->rel_known ? seq_max(f->rel_ack, m->ack32) : m->ack32;
		f->rel_known = true;
		/* For the day of promotion: what the client was offered must not move left. */
		f->out_edge = f->out_ack_known ? seq_max(f->out_edge, m->seq_off) : m->seq_off;
		f->out_told = f->out_ack_known ? seq_max(f->out_told, f->out_edge) : f->out_edge;
		f->out_ack = f->rel_ack;
		f->out_ack_known = true;
	}
	if (m->ts_off & RELEASED_WS_KNOWN) {
		f->ws_known = true;
		f->ws = (uint8_t)(m->ts_off & RELEASED_WS) > 14 ? 14 : (uint8_t)(m->ts_off & RELEASED_WS);
	}
	f->no_ws = (m->ts_off & RELEASED_NO_WS) != 0;
	/* The SVM's last window was read before its scale was known. */
	if (f->loc.ack_known && f->loc.win)
		f->loc.edge = seq_max(f->loc.edge, f->loc.ack + ((uint32_t)f->loc.win << flow_scale(f)));
	if (m->has_ts) {
		f->ts_on = true;
		f->rel_tsval = m->tsval;
		f->rel_ts = true;
		f->rel_at = net->now - (nstime)m->age_ms * NS_PER_MS;
	}
	inlog_trim(net, f);
}
