/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to core/net.c, inlog.c, release.c, keep.c, compare.c, rewrite.c and announce.c. Nobody else includes this. */
#ifndef CORE_NET_INTERNAL_H
#define CORE_NET_INTERNAL_H

#include "core/flow.h"
#include "core/frame.h"
#include "core/net.h"
#include "core/packet.h"

#define NET_ADDRS	16	/* addresses of the guest that are announced; more are not learnt */
#define ANNOUNCE_TIMES	4

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
	uint32_t next, flow_next;	/* in the log, in its flow's part of the log */
};

struct inlog {
	struct log_entry *e;
	uint32_t n, n_used, free_head;
	uint32_t head, tail;		/* by seq */
	uint32_t next_out;		/* first that was not given to the guest */
	uint64_t last;			/* highest seq taken */
	uint64_t given;			/* highest seq given to the guest */
	uint64_t told;			/* last LOGGED sent */
	uint32_t told_room;
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
	uint32_t n_held, n_held_rem;
	uint32_t held_head, dirty_head, rel_head;	/* flows */
	uint32_t wanted;		/* causes asked for in this epoch, a bit each */
	nstime loaded_at, scan_at, rel_at;
	uint32_t backoff;		/* doublings of compare_timeout */
	bool timeout_last;		/* the last checkpoint was asked for by a timeout */

	/* Secondary. */
	struct inlog log;
	bool have_state;		/* a checkpoint was loaded: nothing may be lost from the log */
	bool barrier_seen;
	bool table_lost;		/* a line of the PVM's table found no room */
	uint64_t barrier_n, barrier_cut;
	bool replay_due;

	/* Announcement. */
	struct {
		uint8_t nic, ip[4];
	} addr[NET_ADDRS];
	unsigned int n_addr;
	unsigned int announce_left;
	nstime announce_at;
};

/* net.c */
struct net_act *net_act_new(struct net *net, enum net_act_type type);
struct net_act *net_msg_new(struct net *net, enum net_msg_type type);
/* net_want() - Return: the action, to add the flow to, or NULL when it was asked for before */
struct net_act *net_want(struct net *net, enum ckpt_cause cause);
void net_dirty(struct net *net, struct flow *f);
void net_give(struct net *net, uint8_t nic, uint32_t frame);
/* net_client_syn() - take in the window scale of a SYN that the guest receives */
void net_client_syn(struct flow *f, const struct packet *p);
struct flow *net_flow(struct net *net, const struct flow_key *key);

static inline uint8_t *net_data(struct net *net, uint32_t h)
{
	return frame_data(&net->fp, h);
}

/* inlog.c: the secondary's log of input */
int inlog_init(struct inlog *log, uint32_t n);
void inlog_free(struct inlog *log);
void inlog_reset(struct net *net);
void inlog_take(struct net *net, uint64_t seq, uint8_t nic, uint32_t frame);
void inlog_deliver(struct net *net);
void inlog_trim(struct net *net, struct flow *f);
void inlog_commit(struct net *net, uint64_t cut);
/* inlog_cut() - forget what a state with this cut has */
void inlog_cut(struct net *net, uint64_t cut);
void inlog_replay(struct net *net);
void inlog_clear(struct net *net);
void inlog_tell(struct net *net);

/* rewrite.c: the translation table */
uint32_t rewrite_in(struct net *net, uint32_t frame);
void rewrite_out(struct net *net, struct flow *f, struct packet *p);
void rewrite_shift(struct net *net, struct flow *f, struct packet *p);
bool rewrite_svm_syn(struct net *net, struct flow *f, struct packet *p);
void rewrite_flow(struct net *net, const struct net_msg *m);
void rewrite_table(struct net *net, const struct net_msg *m);
void rewrite_send_table(struct net *net, uint64_t n);
void rewrite_commit(struct net *net);
void rewrite_forget(struct net *net);

/* compare.c: held output and the comparison of the two streams */
void hold_segment(struct net *net, struct flow *f, struct flow_side *s, uint32_t frame, struct packet *p);
void hold_watch(struct net *net, struct flow *f);
void hold_clear(struct net *net, struct flow *f, struct flow_side *s);
void compare_guess(struct net *net, struct flow *f);
void compare_flow(struct net *net, struct flow *f);
void compare_scan(struct net *net);

/* release.c: what leaves */
void release_emit(struct net *net, uint8_t nic, uint32_t frame);
void release_segment(struct net *net, struct flow *f, uint32_t frame, struct packet *p);
void release_pvm(struct net *net, uint32_t frame, uint8_t nic);
void release_alone(struct net *net, uint32_t frame, uint8_t nic);
void release_svm(struct net *net, uint32_t frame, uint8_t nic, uint64_t epoch);
void release_barrier(struct net *net, uint64_t n);
void release_staged(struct net *net, uint64_t n);
void release_all(struct net *net);
void release_finish(struct net *net);

/* keep.c: what the client has seen, and what is kept for promotion */
void keep_output(struct net *net, struct flow *f, const struct packet *p);
void keep_resend(struct net *net, struct flow *f);
void keep_tell(struct net *net);
void keep_told(struct net *net, const struct net_msg *m);

/* announce.c: the guest's addresses */
void announce_learn_guest(struct net *net, uint8_t nic, const uint8_t *d, uint32_t len);
void announce_learn_input(struct net *net, uint8_t nic, const uint8_t *d, uint32_t len);
void announce_now(struct net *net);

#endif
