/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Input: theory of operation
 *
 * A frame from the external network is numbered, told to the secondary, and given to the local VM, or it waits while the
 * gate is closed. With no room for it at the secondary it is dropped before either copy sees it; the last quarter of
 * that room is kept for what is under way, so that a flood of new connections harms none that is open.
 *
 * CLOSE shuts the gate; the cut is the number of the last frame of which it is known that QEMU has read it (QUIET), at
 * the latest after gate_wait. OPEN gives what has waited. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#define FIRST_GATE 400	/* times gate_wait that the first cut may wait; the VM runs meanwhile */

static void give_input(struct net *net, uint8_t nic, uint32_t frame, uint64_t seq, struct packet *p)
{
	uint32_t h = rewrite_in(net, frame, p);

	net->given_seq = seq;
	if (h == FRAME_NONE) {
		frame_free(&net->fp, frame);
		return;
	}
	net_give(net, nic, h);
	frame_free(&net->fp, h);
	if (h != frame)
		frame_free(&net->fp, frame);
}

/* Whether the secondary's log and the connection to it have room for one more frame. */
static bool peer_takes(const struct net *net)
{
	return net->room && net->in_seq - net->logged < net->peer_room;
}

/* In a flood what is under way comes first: the last quarter of the log is not for what would begin a flow. */
static bool last_quarter(const struct net *net)
{
	return net->peer_room - (net->in_seq - net->logged) < net->cfg.n_log / 4;
}

void gate_input(struct net *net, uint8_t nic, uint32_t frame)
{
	struct packet p;
	uint64_t seq;
	bool share;

	net->st.tap_in++;
	net->st.bytes_in += net->fp.meta[frame].len;
	if (net->role == NET_SECONDARY) {
		net->st.drop_silent++;
		frame_free(&net->fp, frame);
		return;
	}
	/* Before the first barrier no state depends on what the secondary has logged. */
	share = net->role == NET_PRIMARY && peer_takes(net);
	packet_parse(net_data(net, frame), net->fp.meta[frame].len, &p);
	if (net->role == NET_PRIMARY && net->holding) {
		bool stranger = share && last_quarter(net) && !track_known(net, nic, &p);

		compare_input(net, &p);
		if (!share || stranger) {
			if (stranger)
				net->st.drop_syn++;
			else
				net->st.drop_room++;
			net_want(net, CAUSE_INLOG);
			frame_free(&net->fp, frame);
			return;
		}
	}
	net->fp.meta[frame].nic = nic;
	track_input(net, nic, &p);
	seq = ++net->in_seq;
	if (share) {
		struct net_act *a = net_msg_new(net, NM_INPUT);

		a->nic = a->msg.nic = nic;
		a->msg.seq = seq;
		a->frame = frame;
		net->st.peer_out++;
		net->speaks = true;
	}
	if (net->gate_open) {
		give_input(net, nic, frame, seq, &p);
	} else if (net->gated.n >= net->fp.n / 4) {
		/* As a NIC whose ring is full: lost for this copy, and a client's retransmission comes to both. */
		net->st.drop_pool++;
		frame_free(&net->fp, frame);
	} else {
		net->fp.meta[frame].epoch = seq;
		frame_list_append(&net->fp, &net->gated, frame);
	}
}

void gate_answer(struct net *net)
{
	struct net_act *a;

	net->closing = false;
	net->cut = net->quiet_seq;
	net_act_new(net, NA_WATCH)->arg = 0;
	a = net_act_new(net, NA_CUT);
	a->n = net->close_n;
	a->seq = net->cut;
}

void gate_close(struct net *net, uint64_t n)
{
	hybrid_closing(net);
	net->gate_open = false;
	net->closing = true;
	net->close_n = n;
	net->gate_deadline = net->now + net->cfg.gate_wait;
	/* What the PVM was given until now must be in the first state: the log, which forgets when it is full, may lack it. */
	if (net->role == NET_PRIMARY && !net->holding)
		net->gate_deadline = net->now + FIRST_GATE * net->cfg.gate_wait;
	if (net->quiet_seq == net->given_seq)
		gate_answer(net);
	else
		net_act_new(net, NA_WATCH)->arg = 1;
}

/* The gate's wait is over without an answer. */
void gate_stop_waiting(struct net *net)
{
	if (net->closing)
		net_act_new(net, NA_WATCH)->arg = 0;
	net->closing = false;
}

void gate_open(struct net *net)
{
	struct packet p;
	uint32_t h;

	if (!net->gate_open)
		hybrid_opened(net);
	net->gate_open = true;
	gate_stop_waiting(net);
	if (net->replay_due) {
		net->replay_due = false;
		inlog_replay(net);
	}
	if (net->role == NET_SECONDARY)
		inlog_deliver(net);
	while ((h = frame_list_pop(&net->fp, &net->gated)) != FRAME_NONE) {
		packet_parse(net_data(net, h), net->fp.meta[h].len, &p);
		give_input(net, net->fp.meta[h].nic, h, net->fp.meta[h].epoch, &p);
	}
	/* What there was no room for is behind us too, or no cut would ever cover it in the secondary's log. */
	if (net->role == NET_PRIMARY)
		net->given_seq = net->in_seq;
}
