/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Private to core/net.c and to the files that it owns: gate, peer, inlog, svm, track, hold, compare, datagram, frag,
 * hybrid, release, epoch, keep, rewrite and announce. Nobody else includes this.
 */
#ifndef CORE_NET_INTERNAL_H
#define CORE_NET_INTERNAL_H

#include "core/flow.h"
#include "core/frame.h"
#include "core/net.h"
#include "core/packet.h"

#define NET_ADDRS	32	/* addresses of the guest that are announced; more are not learnt */
#define ANNOUNCE_TIMES	4
#define NET_ETH_EXTRA	(14 + 4 * PACKET_MAX_TAGS)	/* what a frame has beyond the MTU */
#define STASH_MAX	16	/* segments of the SVM that wait behind a SYN for FLOW */

#ifdef LOCKSTEP_FAULTS
#define FAULT(net, f) (((net)->cfg.faults & (f)) != 0)
#else
#define FAULT(net, f) false
#endif

/* One logged input frame of the secondary. */
struct log_entry {
	uint64_t seq;
	uint32_t frame;
	uint32_t flow;			/* FLOW_NONE: leaves only with a commit */
	uint32_t end;			/* TCP: sequence number after the segment */
	uint32_t span;			/* TCP: numbers that it takes */
	bool syn;
	uint32_t next, flow_next;	/* in the log, in its flow's part of the log */
};

struct inlog {
	struct log_entry *e;
	uint32_t n, n_used, free_head;
	uint32_t n_dead;		/* of those in use: trimmed, and not yet taken out */
	uint32_t head, tail;		/* by seq */
	uint32_t next_out;		/* first that was not given to the guest */
	uint64_t last;			/* highest seq taken */
	uint64_t given;			/* highest seq given to the guest */
	uint64_t forgot;		/* highest seq that made room for newer ones, before the first state */
	uint64_t told;			/* last LOGGED sent */
	uint32_t told_room;
	nstime tell_at;			/* when there is news that has to go by itself, NS_NEVER: no news */
};

/* A fragmented datagram of the guest that is not complete. */
struct reasm {
	struct flow_key key;		/* addresses and protocol */
	uint32_t id, head;		/* pieces by offset, linked by frame_meta.piece; FRAME_NONE: free */
	uint32_t n, bytes;		/* pieces, and what their frames count as held */
	uint32_t have, total;		/* bytes; total is 0 until the last piece has come */
	uint64_t epoch;			/* of its first piece */
	nstime since;
};

/* The two copies: whose output it is. */
enum net_side { SIDE_LOC, SIDE_REM, SIDES };

struct hybrid {
	bool on, trial;
	bool due;			/* something waits for the next periodic checkpoint */
	uint32_t streak;		/* checkpoints in a row that a difference caused */
	nstime closed_at, opened_at, pause, interval, since, try_for;
};

struct net {
	struct net_cfg cfg;
	enum net_role role;
	nstime now;
	uint64_t epoch;			/* that the local VM is in */
	struct frame_pool fp;
	struct flow_table flows;
	struct net_stats st;

	struct net_act *acts;		/* ring of actions not yet handed out */
	uint32_t act_head, act_n, act_cap;

	/* Gate and cut. */
	bool gate_open, closing, stopped, drained;
	uint64_t close_n;
	nstime gate_deadline;
	uint64_t in_seq;		/* number of the last input frame */
	uint64_t given_seq;		/* last that was given to the local guest */
	uint64_t quiet_seq;		/* last at which QEMU had read everything */
	struct frame_list gated;	/* input that waits for the gate; meta.epoch holds its number */

	/* Primary. */
	bool holding;			/* output is compared: from the first barrier on */
	bool loaded;			/* the SVM runs from the last barrier */
	uint64_t staged;		/* last epoch that is STAGED */
	bool room;			/* the frame connection takes input */
	uint64_t logged;
	uint32_t peer_room;
	uint64_t cut;
	struct frame_list other;	/* held frames that are not compared */
	nstime other_since;
	uint32_t n_held, n_held_rem;	/* frames */
	uint32_t n_bytes, n_bytes_rem;
	nstime svm_full_at, svm_old_at;	/* of the last checkpoint that output of the SVM alone asked for: too much, too old */
	uint64_t full_epoch;		/* the last in which a segment of a flow without room was held */
	uint32_t wanted;		/* causes asked for in this epoch, a bit each */
	nstime loaded_at, rel_at;
	bool speaks;			/* this step sends the peer a frame: what is not urgent goes with it */
	nstime scan_at[NET_MAX_NICS];
	uint32_t rules_gen;
	bool rules_due;			/* the peer must be told */
	struct hybrid hyb;
	struct reasm *reasm[SIDES];
	uint32_t n_reasm[SIDES];
	uint8_t *scratch;		/* FRAG_MAX bytes */
	nstime differed_at, likely_at;	/* the copies differed; NA_LIKELY was said */
	uint32_t backoff;		/* doublings of compare_timeout */
	bool timeout_last;		/* the last checkpoint was asked for by a timeout */

	/* Secondary. */
	struct inlog log;
	bool have_state;		/* a checkpoint was loaded: nothing may be lost from the log */
	bool barrier_seen;
	bool table_lost;		/* a line of the PVM's table found no room */
	uint64_t table_n;		/* the checkpoint whose lines wait for LOADED; 0: none */
	bool flows_scarce;		/* a flow found no room: the primary is to make a checkpoint */
	uint64_t barrier_n, barrier_cut;
	bool replay_due;
	nstime refill_due;		/* the earliest refill_at */
	bool was_promoted;		/* flows may be translated for good */

	/* Announcement. */
	struct net_addr {
		uint8_t nic, family;
		uint16_t tags[PACKET_MAX_TAGS];
		uint8_t ip[16];
	} addr[NET_ADDRS];
	unsigned int n_addr;
	unsigned int announce_left;
	nstime announce_at;
};

/* net.c */
struct net_act *net_act_new(struct net *net, enum net_act_type type);
struct net_act *net_msg_new(struct net *net, enum net_msg_type type);
/* net_want() - Return: the action, to add the flow to, or NULL when it was asked for before, or must not be */
struct net_act *net_want(struct net *net, enum ckpt_cause cause);
void net_give(struct net *net, uint8_t nic, uint32_t frame);

static inline uint8_t *net_data(struct net *net, uint32_t frame)
{
	return frame_data(&net->fp, frame);
}

/* net_nic() - the settings in force for a NIC */
static inline const struct net_nic_cfg *net_nic(const struct net *net, uint8_t nic)
{
	return &net->cfg.nic[nic];
}

static inline void net_dirty(struct net *net, struct flow *f)
{
	flow_list_add(&net->flows, f, LIST_DIRTY);
}

/* track.c: which flow a frame belongs to, and which flow has to go */
/* track_flow() - find or make; NULL: no room (counted) */
struct flow *track_flow(struct net *net, const struct flow_key *key);
/*
 * track_input() - a frame from the external network: what it says of its flow
 * @p: may be a first fragment, which is looked into
 */
void track_input(struct net *net, uint8_t nic, const struct packet *p);
/* track_known() - whether input belongs to a flow that is there, or to none at all */
bool track_known(struct net *net, uint8_t nic, const struct packet *p);
/* track_client_syn() - the client's SYN decides whether window scaling is in force */
void track_client_syn(struct flow *f, const struct packet *p);
/* track_forget() - the flow goes, with all that it carries */
void track_forget(struct net *net, struct flow *f);
/* track_action() - what the rules say. Return: enum rule_action */
enum rule_action track_action(struct net *net, struct flow *f);

/* gate.c: input, the gate toward QEMU, the cut */
void gate_input(struct net *net, uint8_t nic, uint32_t frame);
void gate_close(struct net *net, uint64_t n);
/* gate_answer() - the cut is known */
void gate_answer(struct net *net);
/* gate_stop_waiting() - the gate's wait is over without an answer */
void gate_stop_waiting(struct net *net);
void gate_open(struct net *net);

/* peer.c: what the other node says */
void peer_message(struct net *net, const struct net_ev *ev);
void peer_tell_rules(struct net *net);

/* inlog.c: the secondary's log of input */
static inline uint32_t inlog_live(const struct inlog *log)
{
	return log->n_used - log->n_dead;
}

int inlog_init(struct inlog *log, uint32_t n);
void inlog_free(struct inlog *log);
void inlog_reset(struct net *net);
void inlog_take(struct net *net, uint64_t seq, uint8_t nic, uint32_t frame);
void inlog_deliver(struct net *net);
void inlog_trim(struct net *net, struct flow *f);
/* inlog_unlink() - the flow is forgotten: its entries leave with a commit */
void inlog_unlink(struct net *net, struct flow *f);
void inlog_commit(struct net *net, uint64_t cut);
/* inlog_cut() - forget what a state with this cut has */
void inlog_cut(struct net *net, uint64_t cut);
void inlog_replay(struct net *net);
/* inlog_give() - give an entry to the SVM, with its numbers; it stays in the log */
void inlog_give(struct net *net, struct log_entry *e);

/*
 * refill.c: what the SVM alone has lost is given to it again
 * refill_ack()   - the SVM says @p, in client numbers; before flow_side_update()
 * refill_input() - @e has come into the log
 * refill_forget() - the flow is another connection's now
 * refill_stop()  - there is another SVM now, or none
 */
void refill_ack(struct net *net, struct flow *f, const struct packet *p);
void refill_input(struct net *net, struct flow *f, const struct log_entry *e);
void refill_timers(struct net *net);
nstime refill_deadline(const struct net *net);
void refill_forget(struct net *net, struct flow *f);
void refill_stop(struct net *net);
void inlog_clear(struct net *net);
void inlog_tell(struct net *net);

/* rewrite.c: the translation table */
#define TS_MARGIN 100	/* ticks; RELEASED was some time under way. A step forward costs nobody anything. */
/* rewrite_in() - Return: the frame to give to the guest, @frame itself or a translated copy; FRAME_NONE: no frame free */
uint32_t rewrite_in(struct net *net, uint32_t frame, struct packet *p);
/* rewrite_in_flow() - the same for a PK_TCP whose flow is known */
uint32_t rewrite_in_flow(struct net *net, uint32_t frame, struct packet *p, const struct flow *f);
void rewrite_out(struct net *net, struct flow *f, struct packet *p);
void rewrite_shift(struct net *net, struct flow *f, struct packet *p);
bool rewrite_svm_syn(struct net *net, struct flow *f, struct packet *p);
void rewrite_flow(struct net *net, const struct net_msg *m);
void rewrite_table(struct net *net, const struct net_msg *m);
void rewrite_send_table(struct net *net, uint64_t n);
/* rewrite_table_of() - the lines of the table that come are those of checkpoint @n; others, which were given up, go */
void rewrite_table_of(struct net *net, uint64_t n);
/* rewrite_commit() - the SVM runs from state @n: it numbers as the PVM does */
void rewrite_commit(struct net *net, uint64_t n);
void rewrite_forget(struct net *net);

/* hold.c: held output, its limits */
void hold_segment(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, struct packet *p);
/* hold_append() - a datagram, with all of its pieces, behind those that are there; freed when there is no room */
void hold_append(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, uint32_t content);
/* hold_pop() - the first one, not held any more; FRAME_NONE: none */
uint32_t hold_pop(struct net *net, struct flow *f, struct flow_side *s);
/* hold_take() - the same with one in the middle, which comes behind @prev (FRAME_NONE: the first) */
uint32_t hold_take(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, uint32_t prev);
void hold_rst(struct net *net, struct flow *f, uint32_t frame);
/* hold_take_rst() - Return: the reset that was held, the caller's now */
uint32_t hold_take_rst(struct net *net, struct flow *f);
void hold_clear(struct net *net, struct flow *f, struct flow_side *s);
/* hold_other() - a frame that is not compared: it leaves with the checkpoint of its epoch */
void hold_other(struct net *net, uint32_t frame);
/* hold_piece() - a fragment comes. Return: whether there is room for it */
bool hold_piece(struct net *net, enum net_side side);
/* hold_want() - ask for a checkpoint and say for which flow: people want to know why */
void hold_want(struct net *net, struct flow *f, enum ckpt_cause cause);
/* hold_scan() - look for held output that is too old */
void hold_scan(struct net *net);
nstime hold_deadline(const struct net *net);

/* compare.c: the comparison of the two copies' streams */
void compare_guess(struct net *net, struct flow *f);
void compare_flow(struct net *net, struct flow *f);
/* compare_wanted() - whether the rules, and signatures, allow that a flow is compared */
bool compare_wanted(struct net *net, struct flow *f);
/* compare_answered() - the client has acknowledged the guest's SYN: however it got it, it needs it no more */
void compare_answered(struct net *net, struct flow *f);
/* compare_differs() - the copies differ on this flow: nothing more of it is compared until a checkpoint is STAGED */
void compare_differs(struct net *net, struct flow *f);
/* compare_input() - a client's frame comes in: is its answer likely to differ? */
void compare_input(struct net *net, const struct packet *p);

/* datagram.c: what is not a TCP stream */
void datagram_pvm(struct net *net, uint32_t frame, uint8_t nic, const struct packet *p);
void datagram_svm(struct net *net, uint32_t frame, uint8_t nic, const struct packet *p);
void datagram_compare(struct net *net, struct flow *f);
/* datagram_emit() - let out all pieces */
/* datagram_released() - the same, and remember what the flow has said */
void datagram_released(struct net *net, struct flow *f, uint32_t frame);
/* datagram_forget_twice() - throw away what the SVM has said once more */
void datagram_forget_twice(struct net *net, struct flow *f);
void datagram_emit(struct net *net, uint32_t frame);

/* frag.c: fragmented output of the guest */
int frag_init(struct net *net);
void frag_free(struct net *net);
void frag_reset(struct net *net);
/*
 * frag_take() - one fragment of a copy's output; taken
 * Return: the head of the chain when the datagram is complete, else FRAME_NONE
 */
uint32_t frag_take(struct net *net, enum net_side side, uint32_t frame, uint8_t nic, const struct packet *p);
/* frag_content() - bytes of a complete chain */
uint32_t frag_content(const struct net *net, uint32_t head);
/* frag_tcp() - a complete TCP segment in pieces becomes segments that fit: each is given to @fn; the chain is freed */
void frag_tcp(struct net *net, uint32_t head, void (*fn)(struct net *net, uint32_t frame, uint8_t nic, struct packet *p));
/* frag_staged() - let out the PVM's incomplete ones up to epoch @n */
void frag_staged(struct net *net, uint64_t n);
void frag_clear(struct net *net, enum net_side side);
nstime frag_deadline(const struct net *net);
void frag_timers(struct net *net);

/* hybrid.c: periodic epochs when the copies keep differing */
void hybrid_reset(struct net *net);
bool hybrid_waits(struct net *net);
void hybrid_closing(struct net *net);
void hybrid_barrier(struct net *net);
void hybrid_opened(struct net *net);
void hybrid_loaded(struct net *net);
void hybrid_timers(struct net *net);
nstime hybrid_deadline(const struct net *net);

/* release.c: what leaves */
void release_emit(struct net *net, uint8_t nic, uint32_t frame);
void release_segment(struct net *net, struct flow *f, uint32_t frame, struct packet *p);
/* release_learn() - what a segment of the local guest tells of its connection */
void release_learn(struct net *net, struct flow *f, const struct packet *p);
void release_alone(struct net *net, uint32_t frame, uint8_t nic, struct packet *p);
void release_pvm(struct net *net, uint32_t frame, uint8_t nic, struct packet *p);
void release_svm(struct net *net, uint32_t frame, uint8_t nic, struct packet *p);
void release_finish(struct net *net);

/* epoch.c: what a checkpoint lets out */
void epoch_barrier(struct net *net, uint64_t n);
void epoch_staged(struct net *net, uint64_t n);
/* epoch_let_go() - let out what the PVM has held back of a flow up to epoch @n */
void epoch_let_go(struct net *net, struct flow *f, uint64_t n);
/* epoch_release_all() - the secondary is gone for sure: nothing waits any more */
void epoch_release_all(struct net *net);

/* svm.c: the secondary's own VM speaks */
void svm_output(struct net *net, uint32_t frame, uint8_t nic, struct packet *p);
/* svm_pieces() - fragments that are nothing to look into go to the primary as they are */
void svm_pieces(struct net *net, uint32_t head);
/* svm_unstash() - what waited for FLOW goes on its way */
void svm_unstash(struct net *net, struct flow *f);
/* svm_moved_on() - the client has an answer: the SYN that waits will get no FLOW any more */
void svm_moved_on(struct net *net, struct flow *f);

/* keep.c: what the client has seen, and what is kept for promotion */
/* keep_output() - a segment of the SVM is about to be sent. Return: true when @frame itself is kept */
bool keep_output(struct net *net, struct flow *f, uint32_t frame, struct packet *p);
void keep_resend(struct net *net, struct flow *f);
void keep_tell(struct net *net);
void keep_told(struct net *net, const struct net_msg *m);

/* announce.c: the guest's addresses */
/* announce_learn() - on the secondary: a frame of the guest */
void announce_learn(struct net *net, uint8_t nic, const struct packet *p);
/* announce_begin() - the first of some announcements is due; announce_now(): one is */
void announce_begin(struct net *net);
void announce_now(struct net *net);

#endif
