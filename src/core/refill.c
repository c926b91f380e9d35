/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the SVM alone has lost: theory of operation
 *
 * A network card drops what its ring cannot take, and the two copies drop different segments. What both have lost, or
 * the PVM, the client hears of and sends again. What only the SVM has lost it does not hear of: the PVM has acknowledged
 * it, and what the SVM says of it is swallowed. It would come again only with the client's retransmission timer. But the
 * secondary's log has it, until both copies have acknowledged it. So the log is a sender to the SVM, with the rules of
 * one:
 *
 * - It begins with the third duplicate acknowledgement (RFC 5681), or when three segments' worth is reported behind a
 *   hole (RFC 6675; Linux sends few duplicates when it is busy). Then all that the SVM reports to lack is given again,
 *   each segment once; and when an acknowledgement ends at a further hole, that is filled too (RFC 6582).
 * - What is lost twice, or at the end of a burst, where nothing asks for it, has two signs: that the SVM says nothing new
 *   for a while (WAIT, doubling, TRIES times), and that the client sends again what the SVM waits for. Then all that was
 *   given and is not reported is given again.
 * - At most MOST segments at a time, since a ring is small, and one for each duplicate: what is given twice is answered by
 *   a duplicate too.
 * - A segment given again may be older than one that the SVM has taken since, and would be thrown away as a duplicate of
 *   long ago (PAWS, RFC 7323). It gets the timestamp that the SVM echoes, which is one that the client has sent.
 *
 * It ends when the SVM has acknowledged all that was given when it began, and with the SVM itself: at LOADED, and at a
 * promotion, from which on the client hears the SVM. Secondary only. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#include <string.h>

#define DUPS	3
#define BEHIND	(2 * 1448u)		/* more bytes than this behind a hole are three segments' worth */
#define LOOK	1024			/* entries of a flow that are looked at for those that the SVM misses */
#define MOST	32
#define WAIT	(30 * NS_PER_MS)
#define TRIES	6

static bool is_on(const struct flow *f)
{
	return f->link[LIST_REFILL].on;
}

static void wait(struct net *net, struct flow *f)
{
	f->refill_at = net->now + (WAIT << f->refill_tries);
	if (f->refill_at < net->refill_due)
		net->refill_due = f->refill_at;
}

static void begin(struct net *net, struct flow *f, uint32_t next, bool all)
{
	const struct inlog *log = &net->log;
	uint32_t to = f->loc.ack;

	for (uint32_t i = f->log_head; i != FLOW_NONE; i = log->e[i].flow_next)
		if (log->e[i].span && log->e[i].seq <= log->given)
			to = seq_max(to, log->e[i].end);
	f->dups = 0;
	if (seq_leq(to, next))
		return;
	f->refill_to = to;
	f->refill_next = next;
	f->refill_all = all;
	f->refill_tries = 0;
	if (flow_list_first(&net->flows, LIST_REFILL) == NULL)
		net->refill_due = NS_NEVER;
	flow_list_add(&net->flows, f, LIST_REFILL);
	wait(net, f);
}

/* Whether the SVM lacks what begins at @start, as far as its acknowledgement @svm tells */
static bool lacks(const struct flow *f, const struct packet *svm, uint32_t start, uint32_t end)
{
	bool behind = f->refill_all && seq_lt(start, f->refill_to);

	if (seq_leq(start, svm->ack))
		return true;
	for (unsigned int i = 0; i < svm->n_sack; i++) {
		if (seq_leq(svm->sack[i].left, start) && seq_leq(end, svm->sack[i].right))
			return false;
		behind |= seq_lt(start, svm->sack[i].left);
	}
	return behind;
}

static void refresh(struct net *net, const struct flow *f, const struct log_entry *e, const struct packet *svm)
{
	struct packet p;

	packet_parse(net_data(net, e->frame), net->fp.meta[e->frame].len, &p);
	/* In a signed one nothing may be changed. */
	if (p.has_ts && svm->has_ts && seq_lt(p.tsval, svm->tsecr) && !f->is_signed)
		packet_set_ts(&p, svm->tsecr, p.tsecr);
}

/* Give @most segments of what @svm, an acknowledgement of the SVM's, says that it lacks, from refill_next on. */
static void fill(struct net *net, struct flow *f, const struct packet *svm, int most)
{
	struct inlog *log = &net->log;
	uint32_t next = f->refill_next;
	int look = LOOK;

	for (uint32_t i = f->log_head; i != FLOW_NONE && net->gate_open && look-- && most; i = log->e[i].flow_next) {
		struct log_entry *e = &log->e[i];

		/* The log has them in the order of arrival, not of their numbers. */
		if (!e->span || e->seq > log->given || seq_leq(e->end, f->refill_next) || seq_leq(e->end, svm->ack) ||
		    !lacks(f, svm, e->end - e->span, e->end))
			continue;
		refresh(net, f, e, svm);
		inlog_give(net, e);
		net->st.replayed++;
		next = seq_max(next, e->end);
		most--;
	}
	f->refill_next = next;
}

static bool much_behind(const struct packet *p)
{
	uint32_t bytes = 0;

	for (unsigned int i = 0; i < p->n_sack; i++)
		if (seq_lt(p->ack, p->sack[i].left))
			bytes += p->sack[i].right - p->sack[i].left;
	return bytes > BEHIND;
}

void refill_ack(struct net *net, struct flow *f, const struct packet *p)
{
	int most = MOST;

	if ((p->flags & (TCP_ACK | TCP_RST | TCP_SYN)) != TCP_ACK || !f->loc.ack_known || seq_lt(p->ack, f->loc.ack))
		return;
	if (p->ack != f->loc.ack || packet_span(p))
		f->dups = 0;
	else if (f->dups < DUPS)
		f->dups++;
	if (p->ack == f->loc.ack && is_on(f))
		most = 1;
	if (!is_on(f)) {
		if (f->dups < DUPS && !much_behind(p))
			return;
		begin(net, f, p->ack, false);
	} else if (p->ack != f->loc.ack) {
		f->refill_next = seq_max(f->refill_next, p->ack);
		f->refill_tries = 0;
		wait(net, f);
	}
	if (is_on(f) && !seq_lt(p->ack, f->refill_to))
		flow_list_del(&net->flows, f, LIST_REFILL);
	if (is_on(f))
		fill(net, f, p, most);
}

void refill_input(struct net *net, struct flow *f, const struct log_entry *e)
{
	if (!e->span || e->syn || !f->loc.ack_known || seq_lt(f->loc.ack, e->end - e->span) || seq_leq(e->end, f->loc.ack))
		return;
	/* One sign at a time: a client that says it again and again does not have it all given again and again. */
	if (is_on(f) && f->refill_all && net->now < f->refill_at)
		return;
	begin(net, f, e->end, true);
}

void refill_timers(struct net *net)
{
	struct flow *f, *next;

	if (net->now < refill_deadline(net))
		return;
	net->refill_due = NS_NEVER;
	for (f = flow_list_first(&net->flows, LIST_REFILL); f; f = next) {
		struct packet p = { .ack = f->loc.ack, .n_sack = f->loc.n_sack, .has_ts = f->ts_on, .tsecr = f->loc.tsecr };

		next = flow_list_next(&net->flows, f, LIST_REFILL);
		if (net->now >= f->refill_at) {
			if (++f->refill_tries > TRIES) {
				flow_list_del(&net->flows, f, LIST_REFILL);
				continue;
			}
			memcpy(p.sack, f->loc.sack, sizeof(p.sack));
			f->refill_all = true;
			f->refill_next = p.ack;
			fill(net, f, &p, MOST);
			wait(net, f);
		} else if (f->refill_at < net->refill_due) {
			net->refill_due = f->refill_at;
		}
	}
}

nstime refill_deadline(const struct net *net)
{
	return net->role == NET_SECONDARY && net->flows.list_head[LIST_REFILL] != FLOW_NONE ? net->refill_due : NS_NEVER;
}

void refill_forget(struct net *net, struct flow *f)
{
	flow_list_del(&net->flows, f, LIST_REFILL);
	f->dups = 0;
}

void refill_stop(struct net *net)
{
	struct flow *f;

	while ((f = flow_list_first(&net->flows, LIST_REFILL)))
		refill_forget(net, f);
}
