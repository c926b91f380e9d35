/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_FT_H
#define CORE_FT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "core/net.h"
#include "core/precopy.h"

/*
 * The control machine of one node: roles, promotion, lease, and the steps of a checkpoint (ckpt_primary.c,
 * ckpt_secondary.c, which it owns). Pure: events and the time in, actions out; a plain struct without pointers, so
 * that it can be copied, written out and replayed.
 */

enum ft_role { FT_PRIMARY, FT_SECONDARY };

enum ft_state {
	FT_INIT,		/* nothing started */
	FT_ALONE,		/* this VM serves, nobody stands by */
	FT_SYNC,		/* this VM serves, the secondary is being filled; not protected */
	FT_PROTECTED,		/* this VM serves, the secondary runs beside it */
	FT_JOINING,		/* secondary: empty or being filled; never competes */
	FT_STANDBY,		/* secondary: the SVM runs or a complete checkpoint is there; can take over */
	FT_PROMOTING,		/* taking over */
	FT_FENCED,		/* it would serve, and may not yet: the VM stands, the witness is asked again and again */
	FT_ENDED,		/* over: see reason */
	FT_STATE_MAX
};
const char *ft_state_name(enum ft_state s);

enum ft_reason {
	FT_WHY_NONE,
	FT_WHY_LINK_CLOSED,	/* the peer's kernel closed the connections */
	FT_WHY_SILENT,		/* no heartbeat for the timeout */
	FT_WHY_PEER_PROMOTE,	/* the primary gave up and said so */
	FT_WHY_PEER_GONE,	/* the secondary gave up and said so */
	FT_WHY_PEER_ALONE,	/* the primary went on without us and said so */
	FT_WHY_PEER_TOOK_OVER,	/* the secondary promoted itself and said so */
	FT_WHY_QEMU_DIED,
	FT_WHY_QEMU_HUNG,
	FT_WHY_STEP_FAILED,	/* a step of a checkpoint failed or ran out of time, see step */
	FT_WHY_COMMAND,
	FT_WHY_GUEST_OFF,	/* the guest powered off */
	FT_WHY_QUIT,		/* somebody ended lockstep */
	FT_WHY_DISK,		/* a disk of this node failed */
	FT_WHY_LOST,		/* the witness says that the peer serves */
	FT_WHY_NO_WITNESS,	/* this node would serve alone, and the witness does not answer */
	FT_WHY_SWITCH,		/* somebody has moved the VM to the other node */
	FT_WHY_GUEST_PANIC,	/* the guest has panicked, which -action says is the end */
	FT_WHY_UNFENCED,	/* this node would take over, and nobody knows that the peer writes no more to the shared disks */
	FT_WHY_MAX
};
const char *ft_reason_name(enum ft_reason r);

/* Steps that others carry out; each ends with FE_DONE of the same step and n. */
enum ft_step {
	STEP_STOP,	/* QMP stop */
	STEP_CONT,	/* QMP cont */
	STEP_SAVE,	/* primary: device state into memory */
	STEP_ROUND,	/* primary: one pre-copy round while the VM runs; value: pages still dirty at its end */
	STEP_PRECOPY,	/* primary: a round between checkpoints; value: pages found dirty, in the upper 32 bits those of them that
			 * the round before had found too; -ENOTSUP: there can be none; a STEP_COPY ends it (-ECANCELED) */
	STEP_COPY,	/* primary, paused: scan, re-arm, copy what is dirty; value: pages */
	STEP_SEND,	/* primary: send what is left, the device state, and the bulk marker n; when it fails the marker
			 * was not sent and never will be */
	STEP_AGAIN,	/* primary, n is given up: all pages that were taken for it, sent or not, are to be sent again */
	STEP_RESERVE,	/* secondary: make sure that applying n cannot fail any more */
	STEP_APPLY,	/* secondary: drop the SVM's private pages, write n's pages to the image; may come twice for one n,
			 * with a STEP_RESTART between */
	STEP_LOAD,	/* secondary: load the device state, which is kept until the SVM runs */
	STEP_MEND,	/* secondary: put right what the load has touched; forget n's staging area */
	STEP_RESTART,	/* secondary: kill what is left of QEMU and start it anew, stopped, from the image; what was
			 * under way on the old process gets no FE_DONE any more, its death is not reported */
	STEP_SHARE,	/* promoted, VM stopped: make a piece of its memory shared; value: pages left. When none were left, VM
			 * running: follow what it writes. Always answered; -ETIMEDOUT: perhaps done, perhaps not */
	STEP_FORGET,	/* secondary: drop the staging area of n (it never became STAGED) */
	STEP_RESYNC,	/* primary, VM runs: bring the peer's disks up to date; FE_PROGRESS as long as it moves */
	STEP_DISK,	/* primary, VM stopped: epoch n ends here for all disks; the barrier follows in their connection */
	STEP_FLIP,	/* secondary, SVM stopped: epoch n is what the disks are, what the SVM wrote is gone; may come again */
	STEP_FENCE,	/* secondary, about to take over: see to it that the peer writes to the shared disks no more. -EOPNOTSUPP:
			 * nothing can; -ESTALE: the peer has gone on without this node; any other error: perhaps later */
	STEP_WITNESS,	/* ask the witness for generation n, which is one more than this node's. 0: granted, now and for ever; -ESTALE:
			 * lost, another node has it; any other error: unknown, to be asked again (it may have been granted: then
			 * the next answer says so) */
	STEP_PAUSE,	/* the VM is to stand, or to run as far as the other steps say, as ft_paused() says at this moment; n counts
			 * them. While it is to stand a STEP_CONT is answered and has no effect. An error: QEMU refuses to run the VM */
	STEP_MAX
};
const char *ft_step_name(enum ft_step s);

/* Who decides which of two nodes that cannot talk to each other goes on. */
enum ft_witness {
	FT_WITNESS_NONE,	/* nobody: each takes the silence of the other for its death */
	FT_WITNESS_ASK,		/* STEP_WITNESS */
};

struct ft_cfg {
	enum ft_role role;		/* what the command line says; later the state decides */
	nstime checkpoint_delay;	/* x-checkpoint-delay */
	nstime min_interval;		/* least time from LOADED to the next stop when nothing is held by us */
	nstime gate_deadline;		/* NA_CUT must come within this */
	nstime stop_deadline;		/* STEP_STOP, STEP_SAVE, STEP_CONT each */
	nstime copy_deadline;		/* STEP_COPY */
	nstime staged_deadline;		/* from cont to STAGED, as long as nothing moves (FE_PROGRESS extends) */
	nstime loaded_deadline;		/* from STAGED to LOADED */
	nstime load_deadline;		/* STEP_LOAD, STEP_RESTART on the secondary */
	nstime lease;			/* L of P5, at least the heartbeat's timeout */
	nstime drift;			/* what two clocks may differ over a lease; the secondary waits that much longer */
	nstime share_after;		/* from serving alone to the first piece of memory that is shared again */
	uint32_t max_rounds;		/* pre-copy rounds in the first synchronisation */
	uint32_t round_goal;		/* dirty pages below which the first checkpoint is made */
	struct precopy_cfg precopy;	/* rounds between checkpoints */
	bool disks;			/* the VM has disks that are replicated, or shared */
	bool fence;			/* no promotion before STEP_FENCE, unless the peer has said that it has ended */
	nstime fence_retry;		/* from a fence that failed to the next try */
	enum ft_witness witness;
	nstime witness_limit;		/* STEP_WITNESS; a later answer counts nothing, and is asked for again */
	nstime witness_retry;		/* from an answer that said nothing to the next question */
	bool strict_death;		/* connections that were closed prove nothing */
	uint32_t faults;		/* planted faults (enum ft_fault), only in a build with LOCKSTEP_FAULTS */
};
void ft_cfg_default(struct ft_cfg *cfg, enum ft_role role);

/*
 * ft_cfg_slow() - for a host on which everything takes long: all deadlines of the steps grow, none shrinks
 * @qemu: how long QEMU may be silent; what is more than the stop's deadline counts, in proportion
 */
void ft_cfg_slow(struct ft_cfg *cfg, nstime qemu);

enum ft_fault {
	FT_FAULT_APPLY_EARLY = 1 << 0,	/* pages are put into the image before STAGED */
	FT_FAULT_STAGED_EARLY = 1 << 1,	/* STAGED is said before every barrier has arrived */
	FT_FAULT_PROMOTE_STAGED = 1 << 2, /* after STAGED the old SVM is promoted instead of n */
	/* when a checkpoint is given up: */
	FT_FAULT_ABORT_DROP_PAGES = 1 << 3, /* its pages are not sent with the next one */
	FT_FAULT_ABORT_RELEASE = 1 << 4, /* what it holds leaves at once */
	FT_FAULT_ABORT_RUN = 1 << 5,	/* the SVM runs on */
	FT_FAULT_NO_FLIP = 1 << 6,	/* the SVM of n goes on with the disks that the one before had */
	FT_FAULT_NO_FENCE = 1 << 8,	/* a secondary promotes without a fence */
	FT_FAULT_DISK_LATE = 1 << 7,	/* the disks' barrier is placed when the VM runs again */
	FT_FAULT_NO_CLAIM = 1 << 9,	/* nobody asks the witness */
	FT_FAULT_NO_DEADLINE = 1 << 10,	/* who takes over before the witness has answered is heard */
	FT_FAULT_NO_MUTE = 1 << 12,	/* heartbeats are answered while the role is being claimed */
};

/* Messages of the control connection. */
enum ctl_type {
	CTL_EPOCH_END,	/* P->S n: epoch n ends, stop the SVM */
	CTL_STAGED,	/* S->P n */
	CTL_LOADED,	/* S->P n; value: 1 when QEMU had to be restarted */
	CTL_WANT,	/* S->P value: enum ckpt_cause (memory, log, reset of the SVM alone) */
	CTL_FAILED,	/* S->P n: cannot apply, value: enum ft_step; the secondary ends */
	CTL_PROMOTE,	/* P->S: my VM is gone, take over; value: enum ft_reason */
	CTL_GONE,	/* S->P: I cannot stand by any more; value: enum ft_reason */
	CTL_ALONE,	/* P->S: I go on without you, do not promote; value: enum ft_reason */
	CTL_TOOK_OVER,	/* S->P: I have promoted; stop at once */
	CTL_CLAIM,	/* S->P: stop at once, I promote as soon as you have; value: enum ft_reason */
	CTL_GUEST_OFF,	/* P->S: the guest has powered off, or panicked (value: enum ft_reason): end */
	CTL_QUIT,	/* P->S: somebody ended the pair: end */
	CTL_ABORT,	/* P->S n: given up, n + 1 follows at once and brings its pages; the SVM stays stopped; value:
			 * enum ft_step */
	CTL_SWITCH,	/* S->P: hand over to me */
	CTL_PAUSE,	/* value 1: the VM is to stand, 0: to run. P->S n: so it is; S->P n: done; S->P 0: somebody wants it */
	CTL_TYPE_MAX
};
const char *ctl_type_name(enum ctl_type t);

struct ctl_msg {
	enum ctl_type type;
	uint32_t generation;
	uint64_t n;
	uint64_t value;
};

enum ft_ev_type {
	FE_START,	/* QEMU is up, stopped (-S); value, primary: the generation that it begins with, 0: ft_init()'s */
	FE_LINK_UP,	/* a peer that may be paired is connected; value: its generation */
	FE_LINK_DOWN,	/* value: 1 = closed by the peer's kernel on all connections, 0 = an error of the network, 2 = this node
			 * itself could not go on with it (a garbled message, a limit) */
	FE_SILENT,	/* no heartbeat for the timeout, and the link is still open */
	FE_STUCK,	/* the peer's heart beats, and says that its work stands still */
	FE_BEAT,	/* value: send time of our last heartbeat that was answered (the primary's lease moves by it, and that of a
			 * secondary that takes over), or 0: a heartbeat of the peer was answered. Waits are counted from the
			 * time of the event, so there must be one, no earlier than the answer was sent, for each that is
			 * answered; also for those that were answered before FA_MUTE */
	FE_QEMU_DIED,
	FE_QEMU_HUNG,	/* QMP does not answer within its timeout */
	FE_GUEST_OFF, FE_GUEST_RESET,
	FE_GUEST_PANIC,	/* value: enum ft_panic */
	FE_CTL,		/* ctl */
	FE_NET,		/* value: NA_CUT, NA_DRAINED, NA_BARRIER, NA_WANT, NA_LIKELY; n, cause */
	FE_BULK_BARRIER,	/* secondary: the bulk marker of n has arrived; value: bytes of device state */
	FE_PROGRESS,	/* something of the checkpoint under way has moved (bytes sent or received) */
	FE_WANT,	/* cause: a checkpoint is needed (memory, command) */
	FE_FULL,	/* secondary: the SVM has so many pages of its own that it may write no more before the next checkpoint */
	FE_DISK_BARRIER, /* secondary: all disks have epoch n whole, and the room to apply it; rc: they have not, for good */
	FE_DISK_FAILED,	/* a disk of this node has failed: secondary: it can stand by no more; primary: protection must end;
			 * value: 1: its images are of no use, so that a peer had better serve; rc -ESTALE: this node
			 * was going on alone, and the peer has the shared disks */
	FE_DISK_MOVED,	/* something of the disks has moved: says nothing about memory or QEMU */
	FE_DONE,	/* step, n, rc (0 or -errno), value; -ECONNRESET of a QMP step means that QEMU is dead */
	FE_FAILOVER,	/* command: secondary: take over; primary: hand over */
	FE_SWITCH,	/* command: the nodes change their roles */
	FE_PAUSE,	/* command, value 1: the VM is to stand, 0: to run */
	FE_WITNESS,	/* value: whether the witness can be reached, which matters to people only */
	FE_QUIT,	/* SIGTERM, or the user's command */
	FE_SET_DELAY,	/* value: x-checkpoint-delay in ns */
	FE_TICK,	/* the deadline has come */
	FE_TYPE_MAX
};
const char *ft_ev_name(enum ft_ev_type t);

struct ft_ev {
	enum ft_ev_type type;
	enum ft_step step;
	enum ckpt_cause cause;
	int rc;
	uint64_t n;
	uint64_t value;
	struct ctl_msg ctl;
};

enum ft_act_type {
	FA_CTL,		/* ctl: send on the control connection */
	FA_NET,		/* net, n, value (role): give this event to the frames' machine */
	FA_DO,		/* step, n: begin a step */
	FA_DROP_LINK,	/* send what FA_CTL has queued, close all connections with the peer, answer no more heartbeats;
			 * may come when they are closed already; nothing is reported about this link afterwards */
	FA_MUTE,	/* answer no more heartbeats, so that the peer's lease runs out */
	FA_LEASE,	/* value: nothing may be emitted after this time (NS_NEVER: no limit; 0: nothing at all) */
	FA_KILL_QEMU,
	FA_ANNOUNCE,	/* state has changed: log it, tell watchers; reason */
	FA_CKPT_DONE,	/* n: stats of this checkpoint are complete, see ft_last() */
	FA_CKPT_ABORT,	/* n: this checkpoint is given up because of step, and tried again as n + 1 */
	FA_HOLD,	/* value 1: what would leave waits, in its order; 0: it leaves */
	FA_END,		/* lockstep ends; value: enum ft_exit; reason, step where it is FT_WHY_STEP_FAILED */
	FA_TYPE_MAX
};
const char *ft_act_name(enum ft_act_type t);

enum ft_exit {
	FT_EXIT_OK = 0,		/* somebody or the guest wanted it */
	FT_EXIT_FAILED = 1,	/* this node could not go on */
	FT_EXIT_PEER = 3,	/* this node could not go on, the other one does */
	FT_EXIT_REJOIN = 4,	/* the other one has the VM: this node begins anew, and is its secondary */
	FT_EXIT_PANIC = 5,	/* the guest has panicked, and -action ends the VM then */
};

/* What -action makes of a panic, or what QEMU has done by itself. */
enum ft_panic {
	FT_PANIC_RUN,		/* the guest runs on */
	FT_PANIC_PAUSE,		/* QEMU has stopped the VM */
	FT_PANIC_OFF,		/* it is the end of the VM */
};

struct ft_act {
	enum ft_act_type type;
	enum ft_step step;
	enum net_ev_type net;
	enum ft_reason reason;
	uint64_t n;
	uint64_t value;
	struct ctl_msg ctl;
};

#define FT_MAX_ACTS 24	/* no event causes more */

struct ft_acts {
	unsigned int n;
	struct ft_act a[FT_MAX_ACTS + 1];	/* the last one is never valid */
};

/* What one checkpoint cost; times in ns, as the machine saw them go by. */
struct ckpt_times {
	uint64_t n;
	enum ckpt_cause cause;
	nstime begun;			/* the wish was taken up, the gate began to close */
	nstime gate, stop, drain, save, copy, cont;	/* how long each took; drain, save and copy from the stop's answer */
	nstime pause;			/* from stop sent to cont answered */
	nstime staged, loaded;		/* from cont to STAGED, from STAGED to LOADED */
	uint64_t pages;			/* copied in the pause */
};

struct ft;	/* complete in core/ft_state.h, for who embeds, copies or replays it */

size_t ft_size(void);

/* ft_init() - begin in FT_INIT, epoch 1; @generation from the handshake's file or 1 */
void ft_init(struct ft *ft, const struct ft_cfg *cfg, uint32_t generation);

/*
 * ft_step() - one event
 * @now:  the time; never goes back
 * @acts: emptied first, then filled with what is to be done, in order
 */
void ft_step(struct ft *ft, nstime now, const struct ft_ev *ev, struct ft_acts *acts);

/* ft_deadline() - when FE_TICK is wanted; NS_NEVER: never */
nstime ft_deadline(const struct ft *ft);

enum ft_state ft_state(const struct ft *ft);
enum ft_reason ft_reason(const struct ft *ft);		/* of the last change of state */
const char *ft_phase(const struct ft *ft);		/* "idle", "gate", "stop", "collect", ...: for status and the blackbox */
uint64_t ft_epoch(const struct ft *ft);			/* the epoch that the local VM is in */
uint32_t ft_generation(const struct ft *ft);
uint64_t ft_checkpoints(const struct ft *ft, enum ckpt_cause cause);	/* completed, by cause; CAUSE_MAX: all */
uint64_t ft_aborted(const struct ft *ft);		/* checkpoints that were given up and tried again (primary) */
const struct ckpt_times *ft_last(const struct ft *ft);	/* the last complete checkpoint (primary) */
/* How the VM's memory is mapped: whether it can be protected. */
enum ft_memory {
	FT_MEM_SHARED,		/* it can */
	FT_MEM_PRIVATE,		/* of a secondary, and of a promoted node at first */
	FT_MEM_SHARING,		/* promoted: being shared, piece by piece */
	FT_MEM_STUCK,		/* promoted: it could not be shared */
};
enum ft_memory ft_memory(const struct ft *ft);
const char *ft_memory_name(enum ft_memory m);		/* "shared", "private", "sharing", "stuck" */

/* ft_claims() - this node serves or would serve, and the witness has not granted it yet: its generation is not its own */
bool ft_claims(const struct ft *ft);
/* ft_rival() - a peer could take over: it has all that it needs, and was not known to be gone */
bool ft_rival(const struct ft *ft);
/* ft_paused() - the VM stands because somebody, or QEMU itself, has stopped it; it is kept over a failover */
bool ft_paused(const struct ft *ft);
/* ft_pauses() - number of the last order to stand or to run; ft_pause_done() - it has been carried out, by the peer too */
uint64_t ft_pauses(const struct ft *ft);
bool ft_pause_done(const struct ft *ft);
enum ft_step ft_failed_step(const struct ft *ft);	/* of FT_WHY_STEP_FAILED; STEP_MAX: none */
uint64_t ft_refused(const struct ft *ft);		/* actions that found no room in struct ft_acts: always 0 */

/* ft_cell() - name of the function that the table has for @s and @e, "ignore" where the combination means nothing */
const char *ft_cell(enum ft_state s, enum ft_ev_type e);

#endif
