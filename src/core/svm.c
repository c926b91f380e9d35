/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the SVM says, on its own node: theory of operation
 *
 * Each frame of the SVM goes to the primary, TCP with the client's numbers. A connection that the SVM opens has numbers
 * of its own until FLOW tells the PVM's; its SYN, and what it says behind it (TCP Fast Open lets a server answer before
 * the handshake is complete), wait for that in order, at most STASH_MAX segments. FLOW always comes before the client's
 * acknowledgement, which the primary's SYN-ACK has to reach first. So when the client acknowledges and FLOW has not
 * come, the PVM has not opened this connection in this epoch: its numbers are the SVM's, and what waits may go.
 *
 * The link's own talk (ARP and its like) stays here: the PVM's is heard. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

/* The frame stays the caller's; one that is freed now is still there until the step's actions are done. */
static void tell_output(struct net *net, uint32_t frame, uint8_t nic)
{
	struct net_act *a = net_msg_new(net, NM_OUTPUT);

	a->nic = a->msg.nic = nic;
	a->frame = frame;
	net->st.peer_out++;
	net->speaks = true;
}

static void send_output(struct net *net, uint32_t frame, uint8_t nic)
{
	tell_output(net, frame, nic);
	frame_free(&net->fp, frame);
}

/* Return: true when the segment waits, or is dropped, for FLOW */
static bool stash(struct net *net, struct flow *f, uint32_t frame, struct packet *p)
{
	uint32_t first = f->stash.head;
	struct packet syn;

	if (p->flags & TCP_SYN && !rewrite_svm_syn(net, f, p)) {
		if (first != FRAME_NONE) {
			packet_parse(net_data(net, first), net->fp.meta[first].len, &syn);
			if (syn.seq == p->seq) {
				frame_free(&net->fp, frame);
				return true;
			}
			frame_list_clear(&net->fp, &f->stash);
		}
		frame_list_append(&net->fp, &f->stash, frame);
		return true;
	}
	if (!f->stash.n || p->flags & TCP_SYN)
		return false;
	if (p->flags & TCP_RST) {
		frame_list_clear(&net->fp, &f->stash);
		return false;
	}
	if (f->stash.n < STASH_MAX) {
		frame_list_append(&net->fp, &f->stash, frame);
	} else {
		net->st.drop_held++;
		frame_free(&net->fp, frame);
	}
	return true;
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
	if (stash(net, f, frame, p))
		return;
	rewrite_out(net, f, p);
	release_learn(net, f, p);
	/* In a SYN the option is only an offer, and in its answer the acceptance of one. */
	if (!(p->flags & TCP_RST) && (p->flags & (TCP_SYN | TCP_ACK)) != TCP_SYN)
		f->ts_on = p->has_ts;
	refill_ack(net, f, p);
	flow_side_update(&f->loc, p, flow_scale(f));
	inlog_trim(net, f);
	/* Sent first: what is kept may be dropped at once. */
	tell_output(net, frame, nic);
	if (!keep_output(net, f, frame, p))
		frame_free(&net->fp, frame);
}

void svm_output(struct net *net, uint32_t frame, uint8_t nic, struct packet *p)
{
	uint32_t h;

	net->fp.meta[frame].nic = nic;
	if (p->kind == PK_LOCAL) {
		net->st.drop_silent++;
		frame_free(&net->fp, frame);
	} else if (p->kind == PK_TCP) {
		svm_tcp(net, frame, nic, p);
	} else if (p->kind == PK_FRAG && p->proto == PROTO_TCP) {
		h = frag_take(net, SIDE_LOC, frame, nic, p);
		if (h != FRAME_NONE)
			frag_tcp(net, h, svm_tcp);
	} else {
		send_output(net, frame, nic);
	}
}

void svm_pieces(struct net *net, uint32_t head)
{
	while (head != FRAME_NONE) {
		uint32_t next = net->fp.meta[head].piece;

		net->fp.meta[head].piece = FRAME_NONE;
		send_output(net, head, net->fp.meta[head].nic);
		head = next;
	}
}

void svm_unstash(struct net *net, struct flow *f)
{
	struct frame_list waiting = f->stash;
	struct packet p;
	uint32_t h;

	frame_list_init(&f->stash);
	while ((h = frame_list_pop(&net->fp, &waiting)) != FRAME_NONE) {
		packet_parse(net_data(net, h), net->fp.meta[h].len, &p);
		svm_tcp(net, h, net->fp.meta[h].nic, &p);
	}
}

void svm_moved_on(struct net *net, struct flow *f)
{
	uint32_t syn;

	if (!f->stash.n)
		return;
	syn = frame_list_pop(&net->fp, &f->stash);
	frame_free(&net->fp, syn);
	svm_unstash(net, f);
}
