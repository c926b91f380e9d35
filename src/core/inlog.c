/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The input log: theory of operation
 *
 * The secondary keeps each input frame, in client numbers and in the order of their numbers, until no state it
 * could go on from would miss it (P2):
 *  - a TCP segment until both the PVM (as told to the client: RELEASED) and the SVM have acknowledged all of it.
 *    While a checkpoint is under way the primary lets no acknowledgement out that is above what the PVM had said at
 *    the barrier, so "told to the client" is covered by the old state and by the new one;
 *  - the last segment of a flow always, unless it is a SYN: its acknowledgement number is news to a reloaded SVM;
 *  - everything else until a commit whose cut comes after it.
 * Before the first barrier there is no state to go on from; the log then forgets its oldest frames when full, and at
 * the barrier what its cut covers.
 *
 * The log is also the queue in front of the SVM: what is above `given` waits for the gate. After a load delivery
 * starts again at the cut; at promotion the running SVM is given once more what it has not acknowledged, for it may
 * have been in a queue of QEMU that is no more.
 *
 * LOGGED wakes the primary, which waits for nothing in it: it only has to know, some way before the log is full, how much
 * room there is. So it goes with the SVM's output, or after logged_every, or when the primary has used an eighth of the
 * room that it knows of, or has little.
 *
 * Trimming walks one flow's entries from the oldest, so it costs what it frees. Pure; belongs to one struct net.
 */
#include <errno.h>
#include <stdlib.h>

#include "core/net_internal.h"


int inlog_init(struct inlog *log, uint32_t n)
{
	log->n = n;
	log->e = calloc(n, sizeof(*log->e));
	return log->e ? 0 : -ENOMEM;
}

void inlog_free(struct inlog *log)
{
	free(log->e);
	log->e = NULL;
}

void inlog_reset(struct net *net)
{
	struct inlog *log = &net->log;

	for (uint32_t i = 0; i < log->n; i++)
		log->e[i].next = i + 1 < log->n ? i + 1 : FLOW_NONE;
	log->free_head = log->n ? 0 : FLOW_NONE;
	log->n_used = log->n_dead = 0;
	log->head = log->tail = log->next_out = FLOW_NONE;
	log->last = log->given = log->forgot = 0;
	log->told = 0;
	log->told_room = 0;
	log->tell_at = NS_NEVER;
}

/* Free the entry @i whose predecessor in the log is @prev. It must be the first of its flow. */
static void drop(struct net *net, uint32_t i, uint32_t prev)
{
	struct inlog *log = &net->log;
	struct log_entry *e = &log->e[i];

	if (prev == FLOW_NONE)
		log->head = e->next;
	else
		log->e[prev].next = e->next;
	if (log->tail == i)
		log->tail = prev;
	if (log->next_out == i)
		log->next_out = e->next;
	if (e->flow != FLOW_NONE) {
		struct flow *f = &net->flows.flows[e->flow];

		f->log_head = e->flow_next;
		if (f->log_head == FLOW_NONE)
			f->log_tail = FLOW_NONE;
		f->n_log--;
	}
	frame_free(&net->fp, e->frame);
	e->frame = FRAME_NONE;
	e->next = log->free_head;
	log->free_head = i;
	log->n_used--;
}

void inlog_give(struct net *net, struct log_entry *e)
{
	uint8_t nic = net->fp.meta[e->frame].nic;
	struct packet p;
	uint32_t h;

	packet_parse(net_data(net, e->frame), net->fp.meta[e->frame].len, &p);
	if (e->flow != FLOW_NONE)
		h = rewrite_in_flow(net, e->frame, &p, &net->flows.flows[e->flow]);
	else
		h = rewrite_in(net, e->frame, &p);

	if (h == FRAME_NONE)
		return;
	net_give(net, nic, h);
	if (h != e->frame)
		frame_free(&net->fp, h);
}

void inlog_deliver(struct net *net)
{
	struct inlog *log = &net->log;

	while (net->gate_open && log->next_out != FLOW_NONE) {
		struct log_entry *e = &log->e[log->next_out];

		inlog_give(net, e);
		log->given = net->given_seq = e->seq;
		log->next_out = e->next;
	}
}

/*
 * Entries of the middle of the log are unlinked lazily: trimming marks them (frame NONE) and the walk below takes
 * them out, so that a flow's trim does not have to know its predecessor in the whole log: only when no
 * entry is free, so that the walk costs what it frees.
 */
static void sweep(struct net *net)
{
	struct inlog *log = &net->log;
	uint32_t prev = FLOW_NONE, i = log->head;

	while (i != FLOW_NONE) {
		uint32_t next = log->e[i].next;

		if (log->e[i].frame == FRAME_NONE) {
			if (prev == FLOW_NONE)
				log->head = next;
			else
				log->e[prev].next = next;
			if (log->tail == i)
				log->tail = prev;
			log->e[i].next = log->free_head;
			log->free_head = i;
			log->n_used--;
			log->n_dead--;
		} else {
			prev = i;
		}
		i = next;
	}
}

void inlog_trim(struct net *net, struct flow *f)
{
	struct inlog *log = &net->log;

	if (!f->loc.ack_known || (!f->rel_known && !FAULT(net, NET_FAULT_LOG_SVM_ACK)))
		return;
	while (f->log_head != FLOW_NONE) {
		struct log_entry *e = &log->e[f->log_head];
		bool covered = seq_leq(e->end, f->loc.ack) &&
			       (FAULT(net, NET_FAULT_LOG_SVM_ACK) || seq_leq(e->end, f->rel_ack));

		/* A SYN that both have answered is no news to anybody, and in a flood there are many. */
		if (!covered || e->seq > log->given || (e->flow_next == FLOW_NONE && !e->syn))
			break;
		f->log_head = e->flow_next;
		if (f->log_head == FLOW_NONE)
			f->log_tail = FLOW_NONE;
		f->n_log--;
		e->flow = FLOW_NONE;
		frame_free(&net->fp, e->frame);
		e->frame = FRAME_NONE;
		log->n_dead++;
	}
}

/* Whether there is, or is about to be, a state that the log's frames come after. */
static bool keeps(const struct net *net)
{
	return net->have_state || net->barrier_seen;
}

void inlog_cut(struct net *net, uint64_t cut)
{
	struct inlog *log = &net->log;

	sweep(net);
	while (log->head != FLOW_NONE && log->e[log->head].seq <= cut)
		drop(net, log->head, FLOW_NONE);
}

void inlog_take(struct net *net, uint64_t seq, uint8_t nic, uint32_t frame)
{
	struct inlog *log = &net->log;
	struct log_entry *e;
	struct packet p;
	uint32_t i;

	if (seq <= log->last) {
		net->st.drop_bad++;
		frame_free(&net->fp, frame);
		return;
	}
	if (log->free_head == FLOW_NONE)
		sweep(net);
	if (log->free_head == FLOW_NONE && !keeps(net) && log->head != FLOW_NONE) {
		log->forgot = log->e[log->head].seq;
		drop(net, log->head, FLOW_NONE);
	}
	if (log->free_head == FLOW_NONE) {
		/* The primary has sent more than it was granted; what is lost here was never confirmed. */
		net->st.drop_room++;
		frame_free(&net->fp, frame);
		return;
	}
	i = log->free_head;
	e = &log->e[i];
	log->free_head = e->next;
	log->n_used++;
	*e = (struct log_entry){ .seq = seq, .frame = frame, .flow = FLOW_NONE, .next = FLOW_NONE, .flow_next = FLOW_NONE };
	net->fp.meta[frame].nic = nic;
	log->last = seq;
	if (log->tail == FLOW_NONE)
		log->head = i;
	else
		log->e[log->tail].next = i;
	log->tail = i;
	if (log->next_out == FLOW_NONE)
		log->next_out = i;

	packet_parse(net_data(net, frame), net->fp.meta[frame].len, &p);
	track_input(net, nic, &p);
	if (p.kind == PK_TCP) {
		struct flow_key key;
		struct flow *f;

		packet_key(&p, nic, false, &key);
		f = track_flow(net, &key);
		if (f && (p.flags & (TCP_ACK | TCP_SYN)) == TCP_ACK)
			svm_moved_on(net, f);
		if (f && (p.flags & TCP_SYN)) {
			/* A new connection of the same addresses numbers anew: old acknowledgements say nothing about it. */
			f->rel_known = false;
			f->loc.ack_known = f->loc.rst = false;
			refill_forget(net, f);
		}
		if (f && !(p.flags & TCP_RST)) {
			e->flow = f->self;
			e->span = packet_span(&p);
			e->syn = p.flags & TCP_SYN;
			e->end = p.seq + e->span;
			if (f->log_tail == FLOW_NONE)
				f->log_head = i;
			else
				log->e[f->log_tail].flow_next = i;
			f->log_tail = i;
			f->n_log++;
			refill_input(net, f, e);
			/* The one before is not the last of its flow any more. */
			inlog_trim(net, f);
		}
	}
	inlog_deliver(net);
}

void inlog_unlink(struct net *net, struct flow *f)
{
	struct inlog *log = &net->log;

	for (uint32_t i = f->log_head; i != FLOW_NONE; i = log->e[i].flow_next)
		log->e[i].flow = FLOW_NONE;
	f->log_head = f->log_tail = FLOW_NONE;
	f->n_log = 0;
}

void inlog_commit(struct net *net, uint64_t cut)
{
	struct inlog *log = &net->log;

	inlog_cut(net, cut);
	log->next_out = FAULT(net, NET_FAULT_NO_REPLAY) ? FLOW_NONE : log->head;
	for (uint32_t i = log->next_out; i != FLOW_NONE && log->e[i].seq <= log->given; i = log->e[i].next)
		net->st.replayed++;
	log->given = cut;
}

void inlog_replay(struct net *net)
{
	struct inlog *log = &net->log;

	sweep(net);
	for (uint32_t i = log->head; i != FLOW_NONE; i = log->e[i].next) {
		struct log_entry *e = &log->e[i];
		bool due = e->seq > log->given;

		if (e->flow != FLOW_NONE) {
			struct flow *f = &net->flows.flows[e->flow];

			/* A connection that the SVM has reset must not be opened anew by its old SYN. */
			due = due || (!f->loc.rst && (!f->loc.ack_known || (e->span && !seq_leq(e->end, f->loc.ack))));
		}
		if (!due || FAULT(net, NET_FAULT_NO_REPLAY))
			continue;
		inlog_give(net, e);
		net->st.replayed++;
	}
	inlog_clear(net);
}

void inlog_clear(struct net *net)
{
	struct inlog *log = &net->log;
	struct flow *f;

	sweep(net);
	while (log->head != FLOW_NONE)
		drop(net, log->head, FLOW_NONE);
	flow_for_each(&net->flows, f) {
		f->log_head = f->log_tail = FLOW_NONE;
		f->n_log = 0;
	}
}

void inlog_tell(struct net *net)
{
	struct inlog *log = &net->log;
	uint32_t room;
	struct net_act *a;

	/* Before the first state the oldest frames make room by themselves. */
	room = keeps(net) ? log->n - inlog_live(log) : log->n / 2;
	if (room > net->fp.n_free / 2)
		room = net->fp.n_free / 2;
	if (log->last == log->told && room / 8 == log->told_room / 8 && !net->flows_scarce) {
		log->tell_at = NS_NEVER;
		return;
	}
	if (log->tell_at == NS_NEVER)
		log->tell_at = net->now + net->cfg.logged_every;
	if (!net->flows_scarce && !net->speaks && net->now < log->tell_at && log->told_room >= log->n / 4 &&
	    room >= log->n / 4 && log->last - log->told < log->told_room / 8)
		return;
	log->tell_at = NS_NEVER;
	log->told = log->last;
	log->told_room = room;
	a = net_msg_new(net, NM_LOGGED);
	a->msg.seq = log->last;
	a->msg.room = room;
	a->msg.has_ts = net->flows_scarce;
	net->flows_scarce = false;
}
