/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_NET_H
#define CORE_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "core/flow_key.h"
#include "core/rule.h"

/*
 * The frames' machine of one node: every frame that a VM receives or sends passes through here. Pure: events and
 * the time in, actions out, frames by handle in a pool that is allocated once. See net.c for the theory.
 */
struct net;

#define NET_MAX_NICS	8
#define NET_NONE	UINT32_MAX	/* no frame */
#define NET_MAX_BATCH	256		/* events in one step */

enum net_role {
	NET_ALONE,	/* one VM, no peer: frames pass through, translated where a flow needs it */
	NET_PRIMARY,	/* the PVM's node: input is numbered and shared, output is compared and released */
	NET_SECONDARY,	/* the SVM's node: input is logged and translated, output goes to the primary */
};

/* Why a checkpoint is wanted or was made. */
enum ckpt_cause {
	CAUSE_NONE,
	CAUSE_FIRST,		/* the first one, ends the first synchronisation */
	CAUSE_MISMATCH,		/* the two copies answered differently */
	CAUSE_TIMEOUT,		/* a held frame is older than compare_timeout */
	CAUSE_OTHER,		/* a frame of a protocol that is not compared is held */
	CAUSE_DELAY,		/* x-checkpoint-delay has passed */
	CAUSE_HELD,		/* too much held output */
	CAUSE_INLOG,		/* too much logged input */
	CAUSE_FLOWS,		/* no room in the flow table */
	CAUSE_PRIVATE,		/* the SVM has too many pages of its own */
	CAUSE_STAGED,		/* too many pages of a checkpoint to come wait at the secondary */
	CAUSE_RESET,		/* the guest was reset */
	CAUSE_COMMAND,		/* somebody asked */
	CAUSE_DISK,		/* too much written to the disks */
	CAUSE_PERIODIC,		/* hybrid mode: the copies keep differing, so output rides on periodic checkpoints */
	CAUSE_MAX
};

/* ckpt_cause_name() - "mismatch" and so on, for logs and status */
const char *ckpt_cause_name(enum ckpt_cause c);

/*
 * Settings of one NIC, with the names and meanings of QEMU's colo-compare. 0: the value of net_cfg for all NICs.
 */
struct net_nic_cfg {
	nstime compare_timeout;		/* age of a held frame that starts a checkpoint */
	nstime expired_scan_cycle;	/* how often the ages are looked at */
	uint32_t max_queue_size;	/* held frames of one flow and side; then a checkpoint */
};

struct net_cfg {
	uint32_t n_nics;
	uint8_t mac[NET_MAX_NICS][6];	/* the guest's, announced at promotion */
	uint32_t n_frames;		/* frames in the pool */
	uint32_t frame_size;		/* bytes of the largest frame, Ethernet header included, at most 65535 */
	uint32_t mtu[NET_MAX_NICS];	/* of each NIC's network; 0: what frame_size allows */
	uint32_t n_flows;		/* flows in the table */
	uint32_t n_log;			/* input frames that the secondary can log; power of two */
	uint32_t max_held_flow;		/* held frames of one flow and side; then a checkpoint */
	uint32_t max_held;		/* held frames of each side in all; then a checkpoint */
	uint32_t max_flow_bytes;	/* held bytes of one flow and side; then a checkpoint */
	uint32_t max_bytes;		/* held bytes of each side in all; then a checkpoint */
	uint32_t n_reasm;		/* fragmented datagrams of each side that may be incomplete at a time */
	nstime compare_timeout;		/* age of a held frame that starts a checkpoint */
	nstime expired_scan_cycle;	/* how often the ages are looked at */
	struct net_nic_cfg nic[NET_MAX_NICS];
	struct rules rules;		/* what is compared, let through, or held */
	bool no_hybrid;			/* never stop comparing, however often the copies differ */
	uint32_t hybrid_from;		/* checkpoints in a row that a difference caused, to go hybrid */
	nstime hybrid_gap;		/* longest time between two of them */
	nstime hybrid_min, hybrid_max;	/* limits of the interval between checkpoints in hybrid mode */
	nstime hybrid_try;		/* time in hybrid mode before comparing is tried again; doubles when it failed */
	nstime gate_wait;		/* longest wait for QEMU to have read its input */
	nstime other_delay;		/* from the first held frame that is not compared to the checkpoint */
	nstime released_every;		/* least time between two rounds of RELEASED; twice that is the longest */
	nstime logged_every;		/* longest time until what was logged is confirmed */
	uint64_t hash_key[2];
	uint32_t faults;		/* planted faults (enum net_fault), only in a build with LOCKSTEP_FAULTS */
};

/* net_cfg_default() - the values that `lockstep run` uses, for frames of up to @mtu bytes of payload */
void net_cfg_default(struct net_cfg *cfg, uint32_t n_nics, uint32_t mtu);

/* Faults that the property test plants to see that it finds them. */
enum net_fault {
	NET_FAULT_EARLY_RELEASE = 1 << 0,	/* held output leaves at the barrier, not at STAGED */
	NET_FAULT_OLD_EPOCH = 1 << 1,		/* an SVM answer of epoch n may release something of n + 1 */
	NET_FAULT_LOG_SVM_ACK = 1 << 2,		/* the input log is cut at the SVM's acknowledgement alone */
	NET_FAULT_NO_REPLAY = 1 << 3,		/* no input is replayed, neither after a load nor at promotion */
	NET_FAULT_NO_TRANSLATION = 1 << 4,	/* promotion drops the translation */
	NET_FAULT_WHOLE_SEGMENT = 1 << 5,	/* only whole segments are released */
	NET_FAULT_NO_RESET = 1 << 6,		/* STAGED does not set the SVM's positions to the PVM's */
	NET_FAULT_NO_CLAMP = 1 << 7,		/* acknowledgements are not lowered */
	NET_FAULT_TS_BACK = 1 << 8,		/* no timestamp shift at promotion */
	NET_FAULT_NO_FLOW_OK = 1 << 9,		/* a SYN-ACK leaves before the secondary knows the flow */
};

/*
 * Events. @frame is given away with the event: the machine frees it.
 */
enum net_ev_type {
	/* from the local world */
	NEV_TAP,	/* frame, nic: from the external network */
	NEV_GUEST,	/* frame, nic: from the local QEMU */
	NEV_QUIET,	/* all frames that were given to QEMU (NA_GUEST) so far have been read by it */
	NEV_DRAINED,	/* after NEV_STOPPED: QEMU's output sockets were read until empty */
	NEV_ROOM,	/* arg: 1 = the frame connection takes input, 0 = no credit, input is dropped at the TAP */
	/* from ft */
	NEV_ROLE,	/* arg: enum net_role, n: the epoch that begins; the gate is open unless SECONDARY */
	NEV_CLOSE,	/* n: the checkpoint that ends epoch n has begun; answer: NA_CUT */
	NEV_STOPPED,	/* n: the local VM is stopped; answer: NA_DRAINED, after NEV_DRAINED */
	NEV_OPEN,	/* n: the local VM runs again after checkpoint n (or goes on without it) */
	NEV_STAGED,	/* n, primary: the secondary has all of n: release it */
	NEV_LOADED,	/* n, primary: the SVM runs from n; secondary: device state n is loaded, not yet running */
	NEV_PROMOTE,	/* secondary: this VM is the one now; NEV_OPEN follows or came before */
	NEV_ALONE,	/* primary: the secondary is gone for sure: let go what is held */
	NEV_ANNOUNCE,	/* after NEV_PROMOTE: say once more where the VM is, for it could not be heard before */
	/* from the peer */
	NEV_MSG,	/* msg (and frame where the message has one), in order of the frame connection */
};

enum net_msg_type {
	NM_INPUT,	/* P->S seq, nic, frame: one frame from the external network */
	NM_OUTPUT,	/* S->P epoch, nic, frame: one frame of the SVM, in client numbers */
	NM_LOGGED,	/* S->P seq: every input up to seq is logged; room: how many more the log takes */
	NM_FLOW,	/* P->S epoch, key, isn, has_ts, tsval: the PVM opened a flow with these client numbers */
	NM_FLOW_OK,	/* S->P epoch, key, isn: stored */
	NM_TABLE,	/* P->S epoch n, key, seq_off, ts_off, isn, has_ts (it is established): one line of the PVM's table at barrier n */
	NM_BARRIER,	/* P->S epoch n, seq: end of epoch n; seq is the input cut */
	NM_RELEASED,	/* P->S key, isn, seq32: position released, room: 1 when ack32 and seq_off (right edge) are valid,
			 * ts_off: window scale, see RELEASED_*, tsval and age: what the client has seen */
	NM_RULES,	/* P->S frame: the rules in force (rules_encode()) */
	NM_MAX
};

/* RELEASED: the guest's window scale in ts_off, and whether the connection was seen to be established */
#define RELEASED_WS	0xffu
#define RELEASED_WS_KNOWN 0x100u
#define RELEASED_NO_WS	0x200u
#define RELEASED_OPEN	0x400u

struct net_msg {
	uint8_t type;
	uint8_t nic;
	uint8_t has_ts;
	uint64_t epoch;
	uint64_t seq;		/* number of an input frame, from 1 */
	uint32_t room;
	struct flow_key key;
	uint32_t isn;		/* client number of the guest's SYN */
	uint32_t seq32;		/* client sequence number after the last byte released */
	uint32_t ack32;		/* highest acknowledgement released */
	uint32_t tsval;		/* client timestamp */
	uint32_t age_ms;	/* how old tsval is */
	uint32_t seq_off;	/* client number - guest number */
	uint32_t ts_off;
};

struct net_ev {
	enum net_ev_type type;
	uint8_t nic;
	uint32_t arg;
	uint32_t frame;
	uint64_t n;
	struct net_msg msg;
};

/*
 * Actions, to be carried out in order. A frame named in one stays valid until the next call of net_step() that
 * has events; who needs it longer copies it.
 */
enum net_act_type {
	NA_TAP,		/* frame, nic, n = epoch: let out to the external network */
	NA_GUEST,	/* frame, nic: write to QEMU's netdev socket */
	NA_MSG,		/* msg, frame or NET_NONE: send on the frame connection */
	NA_WATCH,	/* arg: 1 = report NEV_QUIET as soon as it holds, 0 = no hurry any more */
	NA_CUT,		/* n, seq: the gate is closed; the VM may be stopped */
	NA_DRAINED,	/* n: all output of before the stop is taken; on the primary the barrier was placed */
	NA_BARRIER,	/* n: secondary: the barrier of n has arrived */
	NA_WANT,	/* arg: enum ckpt_cause: a checkpoint is needed; msg.key, seq32, ack32, room: the flow, where it is one,
			 * the first position held, the acknowledgement owed, and how many segments are held */
	NA_LIKELY,	/* a checkpoint may be wanted soon: the copies have differed lately, and a client asks for something */
};

struct net_act {
	enum net_act_type type;
	uint8_t nic;
	uint32_t arg;
	uint32_t frame;
	uint64_t n;
	uint64_t seq;
	struct net_msg msg;
};

/* Everything that is counted; all only grow, but for those marked (now). */
struct net_stats {
	uint64_t tap_in, tap_out, guest_in, guest_out, peer_in, peer_out;	/* frames */
	uint64_t bytes_in, bytes_out;
	uint64_t released_compared, released_staged;	/* frames */
	uint64_t passed;				/* left at once: ARP, pure ACK, retransmission */
	uint64_t acks_made, acks_swallowed, acks_lowered, splits;
	uint64_t mismatches, guessed;			/* epochs with a difference; differences foreseen */
	uint64_t gate_expired;
	uint64_t drop_pool, drop_room, drop_held, drop_old_epoch, drop_bad, drop_silent;
	uint64_t drop_qemu;		/* toward QEMU, whose socket was full, or from it and too long; the shell counts them */
	uint64_t flows_evicted, flows_full;
	uint64_t replayed;		/* input given to the guest once more */
	uint64_t resent;		/* output of the SVM let out at promotion */
	uint64_t datagrams;		/* released by comparison, not TCP */
	uint64_t svm_twice;		/* answers that the SVM gave once more */
	uint64_t reassembled, reasm_dropped;	/* fragmented datagrams: put together; given up incomplete */
	uint64_t bypassed;		/* let out by a rule without being compared */
	uint64_t signed_flows;		/* TCP with MD5 or AO: epochs only */
	uint64_t icmp_translated;	/* ICMP errors whose quoted TCP header was translated */
	uint64_t drop_syn;		/* input dropped at the TAP that would have begun a flow, in a flood */
	uint64_t addrs_full;		/* addresses of the guest that will not be announced: too many */
	uint64_t flows_embryo_evicted;	/* connections that had not been established */
	uint64_t limit_flow, limit_held, limit_bytes, limit_flows;	/* checkpoints asked for at a limit */
	uint64_t limit_reasm;		/* incomplete datagrams that were given up for newer ones */
	uint64_t drop_tap;		/* TAP: frames that were too long, and writes that failed; the shell counts them */
	uint64_t hybrid_entered, hybrid_left;
	uint32_t held, held_svm, logged, flows, frames_free;	/* (now) */
	uint32_t held_bytes, held_svm_bytes, reasm, flows_embryo;	/* (now) */
	bool hybrid;						/* (now) */
	nstime hybrid_interval;					/* (now) */
};

/*
 * net_new() - make a machine; everything is allocated here
 * @cfg: copied
 *
 * Role NET_ALONE, epoch 1, gate open. Return: the machine, or NULL without memory
 */
struct net *net_new(const struct net_cfg *cfg);
void net_free(struct net *net);

/* net_reset() - as new, with new settings of the same sizes; for tests that run many short lives */
void net_reset(struct net *net, const struct net_cfg *cfg);

/*
 * net_frame_alloc() - a frame to fill
 * @input: true for frames from the TAP, which must leave a reserve for everything else
 *
 * Return: handle, or NET_NONE when the pool is empty: the caller reads and drops, and calls net_frame_missed()
 */
uint32_t net_frame_alloc(struct net *net, bool input);
uint8_t *net_frame_data(struct net *net, uint32_t frame);
uint32_t net_frame_len(const struct net *net, uint32_t frame);
void net_frame_set_len(struct net *net, uint32_t frame, uint32_t len);
/* net_frame_drop() - give back a frame that was allocated and never became part of an event */
void net_frame_drop(struct net *net, uint32_t frame);
void net_frame_missed(struct net *net);

/*
 * net_step() - take events, hand out actions
 * @now: the time; never goes back
 * @in:  @n events, taken in order, all of them
 * @out: room for @cap actions
 *
 * Return: number of actions; when it equals @cap there may be more: carry them out, then call again with n = 0
 */
size_t net_step(struct net *net, nstime now, const struct net_ev *in, size_t n, struct net_act *out, size_t cap);

/* net_deadline() - when net_step() wants to be called though nothing has happened; NS_NEVER: never */
nstime net_deadline(const struct net *net);

/* net_set_rules() - rules for frames from now on; the primary tells the secondary with the next step */
void net_set_rules(struct net *net, const struct rules *rules);
const struct rules *net_rules(const struct net *net);

/* net_set_nic() - settings of one NIC from now on; fields that are 0 stay as they are */
void net_set_nic(struct net *net, unsigned int nic, const struct net_nic_cfg *cfg);

enum net_role net_role(const struct net *net);
uint64_t net_epoch(const struct net *net);
void net_stats_get(const struct net *net, struct net_stats *out);

#endif
