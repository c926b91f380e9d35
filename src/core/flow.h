/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_FLOW_H
#define CORE_FLOW_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "core/flow_key.h"
#include "core/frame.h"
#include "core/packet.h"

/* What one copy of the guest has said on a flow, in client numbers. */
struct flow_side {
	bool seen;		/* anything at all since the last reset of this side */
	bool syn, fin, rst;
	bool ack_known;
	uint32_t isn;		/* valid with syn */
	uint32_t nxt;		/* after the highest number sent; valid with seen */
	uint32_t rst_seq;
	uint32_t ack;		/* highest acknowledgement */
	uint32_t edge;		/* right edge of the window offered */
	uint16_t win;		/* window field that came with it, in a segment without SYN */
	uint32_t tsecr;
	uint8_t n_sack;
	/* Not yet matched. TCP: segments by sequence number, not overlapping. Datagrams: as they came. */
	struct frame_list held;
	uint32_t held_bytes;
	struct sack_block sack[PACKET_MAX_SACK];
};

/* How dear a flow is: under pressure the first ones go first. */
enum flow_class {
	FLOW_EMBRYO,	/* TCP that was never seen to be established: a flood is made of these */
	FLOW_DGRAM,	/* not TCP */
	FLOW_OPEN,	/* TCP with a client that has answered, or a guest that talks */
	FLOW_CLASSES
};

/* Lists that a flow may be in, besides the one of its class. */
enum flow_list {
	LIST_DIRTY,	/* touched in this step */
	LIST_HELD,	/* has held output, or owes an acknowledgement */
	LIST_REL,	/* primary: RELEASED is due */
	LIST_ACTIVE,	/* one of the copies has spoken since the last barrier */
	LIST_REFILL,	/* secondary: what the SVM has lost is being given to it again */
	LIST_BARRIER,	/* primary: it had when the barrier came that is not STAGED yet */
	FLOW_LISTS
};

struct flow_link {
	uint32_t prev, next;
	bool on;
};

#define FLOW_RSTS 4
#define FLOW_TWICE 8	/* datagrams of a flow that left last, to know an answer that the SVM gives twice */

#define FLOW_NONE UINT32_MAX

/*
 * One connection as one node sees it. The node's own VM is "loc", the peer's "rem": on the primary loc is the PVM
 * and rem the SVM; on the secondary loc is the SVM, and of rem only the acknowledgement (what the client was told).
 */
struct flow {
	/* What each frame of an open connection looks at stands first, in as few cache lines as can be. */
	struct flow_key key;
	uint32_t hash_next, self;
	nstime last;		/* it was used then, or up to TOUCH_NS later */
	bool used;
	uint8_t cls;		/* enum flow_class */
	uint8_t action;		/* enum rule_action, as of rules_gen */
	bool is_signed;		/* MD5 or AO: nothing may be changed */
	bool asked;		/* something came in on it: what the guest says may be an answer */
	bool isn_known;
	bool said_ts;		/* the highest timestamp that the local guest has sent, and when */
	bool ts_on;		/* the guest's segments carry timestamps */
	bool ws_known;
	bool no_ws;		/* the client's SYN had no window scale, so none is in force */
	bool syn_no_ws;		/* the same of a SYN that the guest has not answered yet */
	uint8_t ws;
	bool out_known, out_ack_known, out_ts_known;	/* what the client has been given */
	bool owed;		/* the PVM has acknowledged more than could be let out */
	bool diverged;		/* the copies differ; nothing is compared until the next checkpoint is STAGED */
	uint8_t streak, guesses; /* answers in a row that differed; checkpoints asked for without waiting for the SVM's */
	bool was_reset;		/* a reset was let out, and the guest has said nothing else since */
	bool flow_sent, flow_ok;	/* primary: FLOW was sent and confirmed for this isn */
	bool bar_set, bar_seen, bar_ack_known, bar_fin;
	bool rel_known, rel_ts, rel_out;
	bool shift_due;		/* after promotion: the next timestamp sent decides the shift */
	bool pending, pending_ts, next_ts;	/* secondary: the PVM's numbers for a flow the SVM has not yet opened */
	bool has_table, has_next;		/* secondary: lines that wait for LOADED */
	uint8_t dups;		/* acknowledgements of the SVM in a row that say nothing new */
	bool refill_all;	/* all that the SVM has not reported, below refill_to, counts as lost */
	uint8_t refill_tries;
	uint32_t refill_to, refill_next;	/* where it ends; what lies before has been given again */
	nstime refill_at;	/* when it is tried again */
	uint8_t head_len;	/* of head; 0: not known */
	uint8_t n_svm_rst, twice_at;
	uint8_t n_told;		/* of told_sack */
	uint32_t rules_gen;
	/* Translation (P6): client number = guest number + offset, for the local guest. */
	uint32_t seq_off, ts_off;
	uint32_t isn;
	uint32_t said_tsval;
	nstime said_at;
	uint32_t out_nxt;	/* after the last byte let out */
	uint32_t out_ack, out_edge, out_tsval;
	uint32_t out_told;	/* out_edge as the window field said it: in units of its scale, rounded up */
	uint32_t held_rst;	/* frame of a reset of the PVM that waits, or FRAME_NONE */
	uint64_t other_epoch;	/* the last in which something of it was not compared: what follows must not overtake it */
	nstime held_since;	/* last progress of held output */
	struct flow_side loc, rem;

	/* Secondary: the log's entries of this flow, and what RELEASED has told. */
	uint32_t log_head, log_tail;
	uint32_t n_log;
	uint32_t rel_nxt, rel_ack, rel_tsval;
	nstime rel_at;		/* when rel_tsval was current */

	struct flow_link lru, all, link[FLOW_LISTS];
	nstime owed_since;
	nstime rem_since;	/* the SVM's oldest */
	struct frame_list stash;		/* secondary: a SYN of the SVM, and what follows it, that wait for FLOW */

	/* Primary, between barrier n and STAGED n: where the PVM was at the barrier. */
	uint32_t bar_nxt, bar_ack, bar_edge;

	uint32_t isn_tsval, next_isn, next_tsval;
	uint64_t next_epoch;	/* the PVM's when it opened what next_isn numbers */
	uint32_t table_seq_off, table_ts_off, table_isn;
	uint32_t svm_rst[FLOW_RSTS];	/* numbers of the SVM's last resets */
	uint64_t twice[FLOW_TWICE];
	struct sack_block told_sack[PACKET_MAX_SACK];	/* what the client was told last, at out_ack */
	uint8_t head[PACKET_HEAD_MAX];	/* headers of the guest's last segment, to build acknowledgements */
};

/* flow_scale() - the window scale in force, for reading the guest's own windows; 0 when none is or it is not known */
static inline uint8_t flow_scale(const struct flow *f)
{
	return f->ws_known && !f->no_ws ? f->ws : 0;
}

struct flow_table {
	struct flow *flows;
	uint32_t *buckets;
	uint32_t n, n_buckets;
	uint32_t free_head, n_used;
	uint32_t n_class[FLOW_CLASSES];
	uint32_t lru_head[FLOW_CLASSES], lru_tail[FLOW_CLASSES];	/* oldest first */
	uint32_t all_head, list_head[FLOW_LISTS];
	uint64_t key[2];
};

int flow_table_init(struct flow_table *t, uint32_t n, const uint64_t key[2]);
void flow_table_free(struct flow_table *t);
void flow_table_reset(struct flow_table *t);

/* flow_find() - Return: the flow, or NULL */
struct flow *flow_find(struct flow_table *t, const struct flow_key *key);

/*
 * flow_touch() - it is the youngest now; one that was so less than TOUCH_NS ago keeps its place, since moving it costs
 * looks at its neighbours, which are as many cache misses
 */
#define TOUCH_NS (20 * NS_PER_MS)
void flow_touch(struct flow_table *t, struct flow *f, nstime now);

/* flow_make() - a new flow of class FLOW_EMBRYO or FLOW_DGRAM, as its key says; NULL when the table is full */
struct flow *flow_make(struct flow_table *t, const struct flow_key *key, nstime now);

/* flow_establish() - the connection is real: class FLOW_OPEN from now on */
void flow_establish(struct flow_table *t, struct flow *f);

/* flow_oldest() - the longest unused flow of a class, or NULL */
struct flow *flow_oldest(struct flow_table *t, enum flow_class cls);

/*
 * flow_oldest_idle() - the longest unused flow of a class that carries nothing that must be kept; NULL: none among
 * the oldest FLOW_LOOK
 */
#define FLOW_LOOK 64
struct flow *flow_oldest_idle(struct flow_table *t, enum flow_class cls, nstime now);

/* flow_list_add(), flow_list_del() - once in a list at the most; flow_list_first(): NULL when it is empty */
void flow_list_add(struct flow_table *t, struct flow *f, enum flow_list l);
void flow_list_del(struct flow_table *t, struct flow *f, enum flow_list l);
struct flow *flow_list_first(struct flow_table *t, enum flow_list l);
/* flow_list_next() - the one after @f, or NULL */
struct flow *flow_list_next(struct flow_table *t, const struct flow *f, enum flow_list l);

/* flow_remove() - forget a flow; its frames must have been freed */
void flow_remove(struct flow_table *t, struct flow *f);

/* flow_ended() - whether it was closed, carries nothing, and has been quiet for as long as TIME_WAIT lasts */
bool flow_ended(const struct flow *f, nstime now);

/* flow_idle() - whether forgetting the flow loses nothing */
bool flow_idle(const struct flow *f);

/* In no order. The body must remove no other flow than its own. */
#define flow_for_each(t, f) \
	for (uint32_t i_ = (t)->all_head, next_; \
	     i_ != FLOW_NONE && ((f) = &(t)->flows[i_], next_ = (f)->all.next, true); i_ = next_)

/*
 * flow_side_update() - take in what a segment says
 * @ws: window scale in force (0 when none or not known)
 */
void flow_side_update(struct flow_side *s, const struct packet *p, uint8_t ws);
/* flow_side_reset() - forget what a copy has said; its held list must be empty */
void flow_side_reset(struct flow_side *s);

#endif
