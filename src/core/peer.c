/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the other node says on the frame connection: looked at here, handed to whom it concerns. A message that does not
 * fit the present role is counted and dropped. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

/* One frame of the SVM, made in epoch @epoch. */
static void from_svm(struct net *net, uint8_t nic, uint32_t frame, uint64_t epoch)
{
	struct packet p;

	net->fp.meta[frame].nic = nic;
	net->fp.meta[frame].epoch = epoch;
	packet_parse(net_data(net, frame), net->fp.meta[frame].len, &p);
	release_svm(net, frame, nic, &p);
}

static void take_rules(struct net *net, uint32_t frame)
{
	struct rules rules;

	if (frame == NET_NONE || rules_decode(net_data(net, frame), net->fp.meta[frame].len, &rules) < 0)
		net->st.drop_bad++;
	else
		net_set_rules(net, &rules);
	if (frame != NET_NONE)
		frame_free(&net->fp, frame);
}

void peer_tell_rules(struct net *net)
{
	uint32_t h = frame_alloc(&net->fp, false);
	struct net_act *a;
	int len;

	if (h == FRAME_NONE)
		return;
	net->rules_due = false;
	len = rules_encode(&net->cfg.rules, net_data(net, h), net->cfg.frame_size);
	if (len < 0) {
		net->st.drop_bad++;
		frame_free(&net->fp, h);
		return;
	}
	net->fp.meta[h].len = (uint32_t)len;
	a = net_msg_new(net, NM_RULES);
	a->frame = h;
	frame_free(&net->fp, h);
}

void peer_message(struct net *net, const struct net_ev *ev)
{
	const struct net_msg *m = &ev->msg;
	enum net_role wants = m->type == NM_OUTPUT || m->type == NM_LOGGED || m->type == NM_FLOW_OK ?
			      NET_PRIMARY : NET_SECONDARY;
	struct flow *f;

	net->st.peer_in++;
	if (net->role != wants || m->nic >= net->cfg.n_nics) {
		net->st.drop_bad++;
		if (ev->frame != NET_NONE)
			frame_free(&net->fp, ev->frame);
		return;
	}
	switch (m->type) {
	case NM_INPUT:
		inlog_take(net, m->seq, m->nic, ev->frame);
		break;
	case NM_OUTPUT:
		if (m->epoch == net->epoch && net->holding)
			epoch_staged(net, m->epoch - 1);
		if ((m->epoch != net->epoch && !FAULT(net, NET_FAULT_OLD_EPOCH)) || !net->holding) {
			net->st.drop_old_epoch++;
			frame_free(&net->fp, ev->frame);
			break;
		}
		from_svm(net, m->nic, ev->frame, m->epoch);
		break;
	case NM_LOGGED:
		if (m->seq > net->in_seq) {
			net->st.drop_bad++;
			break;
		}
		if (m->seq > net->logged)
			net->logged = m->seq;
		net->peer_room = m->room;
		if (m->room < net->cfg.n_log / 4)
			net_want(net, CAUSE_INLOG);
		if (m->has_ts && net_want(net, CAUSE_FLOWS))
			net->st.limit_flows++;
		break;
	case NM_FLOW:
		rewrite_flow(net, m);
		break;
	case NM_FLOW_OK:
		f = flow_find(&net->flows, &m->key);
		if (f && f->isn_known && f->isn == m->isn) {
			f->flow_ok = true;
			compare_flow(net, f);
		}
		break;
	case NM_TABLE:
		rewrite_table(net, m);
		break;
	case NM_BARRIER:
		rewrite_table_of(net, m->epoch);
		if (net->table_lost || (!net->have_state && m->seq < net->log.forgot)) {
			/*
			 * P3: without the whole table, or the input after the cut, n cannot be taken over, so it is never said
			 * to be STAGED.
			 */
			net->st.drop_bad++;
			break;
		}
		net->barrier_seen = true;
		net->barrier_n = m->epoch;
		net->barrier_cut = m->seq;
		if (!net->have_state)
			inlog_cut(net, m->seq);
		net_act_new(net, NA_BARRIER)->n = m->epoch;
		break;
	case NM_RELEASED:
		keep_told(net, m);
		break;
	case NM_RULES:
		take_rules(net, ev->frame);
		break;
	default:
		net->st.drop_bad++;
	}
}
