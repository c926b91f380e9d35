/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What a checkpoint lets out: theory of operation (P1)
 *
 * The barrier of n freezes where the PVM was (bar_*). Until STAGED n the copy that would go on may be the old SVM or
 * the state n, so acknowledgements are bound by both; STAGED n then sets the SVM's positions to bar_*. Both look only
 * at flows on which something was said since the barrier before: on all others the copies stand where they stood, so a
 * checkpoint costs nothing for idle connections.
 *
 * STAGED n lets out what the PVM had held back up to the barrier: segments and datagrams of each flow in their order,
 * then what is not compared. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

void epoch_barrier(struct net *net, uint64_t n)
{
	struct net_act *a;
	struct flow *f;

	hybrid_barrier(net);
	rewrite_send_table(net, n);
	if (!FAULT(net, NET_FAULT_OLD_EPOCH))
		frag_clear(net, SIDE_REM);
	/* Those of a checkpoint that was given up are there already. */
	while ((f = flow_list_first(&net->flows, LIST_ACTIVE))) {
		flow_list_del(&net->flows, f, LIST_ACTIVE);
		flow_list_add(&net->flows, f, LIST_BARRIER);
	}
	for (f = flow_list_first(&net->flows, LIST_BARRIER); f; f = flow_list_next(&net->flows, f, LIST_BARRIER)) {
		if (FAULT(net, NET_FAULT_OLD_EPOCH)) {
			/* planted: the SVM's output of n stays */
		} else {
			hold_clear(net, f, &f->rem);
		}
		f->bar_set = true;
		f->bar_seen = f->loc.seen;
		f->bar_ack_known = f->loc.ack_known;
		f->bar_fin = f->loc.fin;
		f->bar_nxt = f->loc.nxt;
		f->bar_ack = f->loc.ack;
		f->bar_edge = f->loc.edge;
		if (f->rem.ack_known && f->loc.ack_known) {
			f->rem.ack = seq_min(f->rem.ack, f->loc.ack);
			f->rem.edge = seq_min(f->rem.edge, f->loc.edge);
		} else {
			/* State n has acknowledged nothing here, whatever the old SVM has. */
			f->rem.ack_known = false;
		}
		f->rem.n_sack = 0;
		f->rem.rst = false;
		f->n_svm_rst = 0;
	}
	/* Input of before the cut needs no log; at the first barrier there may be some that was never sent. */
	if (net->logged < net->cut)
		net->logged = net->cut;
	/* Once more with each checkpoint: the secondary may have had no buffer for them. */
	net->rules_due = net->cfg.rules.n > 0;
	a = net_msg_new(net, NM_BARRIER);
	a->msg.epoch = n;
	a->msg.seq = net->cut;
	net->epoch = n + 1;
	net->holding = true;
	net->loaded = false;
	net->wanted = 0;
	if (FAULT(net, NET_FAULT_EARLY_RELEASE))
		epoch_staged(net, n);
}

/* Let out what the PVM has held back of flow @f up to epoch @n. */
void epoch_let_go(struct net *net, struct flow *f, uint64_t n)
{
	struct frame_meta *m = net->fp.meta;
	struct packet p;
	uint32_t h;

	while ((h = f->loc.held.head) != FRAME_NONE && m[h].epoch <= n) {
		hold_pop(net, f, &f->loc);
		net->st.released_staged++;
		if (f->key.datagram) {
			datagram_released(net, f, h);
			continue;
		}
		f->out_nxt = f->out_known ? seq_max(f->out_nxt, m[h].end) : m[h].end;
		f->out_known = true;
		packet_parse(net_data(net, h), m[h].len, &p);
		release_segment(net, f, h, &p);
	}
	h = f->held_rst;
	if (h != FRAME_NONE && m[h].epoch <= n && !f->loc.held.n) {
		hold_take_rst(net, f);
		f->was_reset = true;
		packet_parse(net_data(net, h), m[h].len, &p);
		net->st.released_staged++;
		release_segment(net, f, h, &p);
	}
	f->held_since = net->now;
}

static void let_go_other(struct net *net, uint64_t n)
{
	uint32_t h;

	while ((h = net->other.head) != FRAME_NONE && net->fp.meta[h].epoch <= n) {
		frame_list_pop(&net->fp, &net->other);
		net->n_held--;
		net->n_bytes -= net->fp.meta[h].len;
		net->st.released_staged++;
		release_emit(net, net->fp.meta[h].nic, h);
	}
}

void epoch_staged(struct net *net, uint64_t n)
{
	struct flow *f;

	if (n <= net->staged || n >= net->epoch)
		return;
	net->staged = n;
	while ((f = flow_list_first(&net->flows, LIST_BARRIER))) {
		flow_list_del(&net->flows, f, LIST_BARRIER);
		if (f->bar_set && !FAULT(net, NET_FAULT_NO_RESET)) {
			flow_side_reset(&f->rem);
			f->rem.seen = f->bar_seen;
			f->rem.nxt = f->bar_nxt;
			f->rem.ack_known = f->bar_ack_known;
			f->rem.ack = f->bar_ack;
			f->rem.edge = f->bar_edge;
			f->rem.fin = f->bar_fin;
			/* The state that would take over has the connection, with these numbers. */
			f->flow_ok = f->flow_ok || f->bar_seen;
		}
		f->diverged = false;
		epoch_let_go(net, f, n);
		if (f->bar_set && f->bar_seen && !FAULT(net, NET_FAULT_NO_RESET)) {
			f->out_nxt = f->out_known ? seq_max(f->out_nxt, f->bar_nxt) : f->bar_nxt;
			f->out_known = true;
		}
		f->bar_set = false;
		if (f->key.datagram) {
			datagram_compare(net, f);
			continue;
		}
		net_dirty(net, f);
		compare_flow(net, f);
	}
	let_go_other(net, n);
	frag_staged(net, n);
}

void epoch_release_all(struct net *net)
{
	struct flow *f;

	flow_for_each(&net->flows, f) {
		flow_list_del(&net->flows, f, LIST_BARRIER);
		hold_clear(net, f, &f->rem);
		f->diverged = f->bar_set = false;
		epoch_let_go(net, f, UINT64_MAX);
		if (f->key.datagram)
			continue;
		f->out_nxt = f->loc.seen ? f->loc.nxt : f->out_nxt;
		f->out_known = f->out_known || f->loc.seen;
		net_dirty(net, f);
	}
	let_go_other(net, UINT64_MAX);
	frag_staged(net, UINT64_MAX);
	frag_clear(net, SIDE_REM);
}
