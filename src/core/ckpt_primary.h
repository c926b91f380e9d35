/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_CKPT_PRIMARY_H
#define CORE_CKPT_PRIMARY_H

#include "core/ft.h"

/* Internal to core/: the checkpoint as the serving node sees it. Theory in ckpt_primary.c. */

struct ft_ctx;

#define CONT_AGAIN (50 * NS_PER_MS)	/* between two attempts to have the VM run again */

enum pri_phase {
	PRI_OFF,	/* no peer: the VM runs, or was never started */
	PRI_START,	/* the first cont */
	PRI_RESYNC,	/* the peer's disks are brought up to date */
	PRI_ROUND,	/* pre-copy */
	PRI_IDLE,	/* protected; nothing under way but a round of pre-copy */
	PRI_GATE,	/* NEV_CLOSE given, NA_CUT awaited */
	PRI_STOP,	/* stop and EPOCH_END sent */
	PRI_COLLECT,	/* save, copy, drain side by side */
	PRI_CONT,	/* cont sent */
	PRI_STAGE,	/* the VM runs, the rest is sent, STAGED awaited */
	PRI_LOAD,	/* STAGED is there, LOADED awaited */
	PRI_ABORT,	/* the checkpoint has failed and will be tried again (ckpt_abort.c) */
	PRI_UNWIND,	/* the checkpoint is given up, the VM is being brought to run again */
	PRI_RESUME,	/* the VM has stood while the witness was asked, and is being brought to run again */
	PRI_PHASE_MAX
};

struct ckpt_primary {
	enum pri_phase phase;
	enum ckpt_cause cause;	/* of the checkpoint under way */
	enum ckpt_cause wish;	/* for the next one */
	uint64_t n;
	bool first;		/* this peer has completed none yet */
	bool closed;		/* NEV_CLOSE was given, NEV_OPEN not */
	bool drained, saved, copied, conted, staged;
	bool disked;		/* the disks' barrier is placed */
	bool again;		/* the one before was given up: this one must not be */
	bool undoing;		/* ABORT: the pages are being taken back, or have been */
	uint32_t rounds;
	uint64_t dirty;		/* left by the last round */
	nstime deadline;	/* of what the phase awaits besides steps */
	nstime loaded_at;
	nstime stop_sent, stop_done, cont_sent, cont_done, staged_at;
	struct ckpt_times cur, last;
	struct precopy pre;
	bool no_precopy;	/* the tracker cannot */
	bool last_round;	/* the checkpoint that is due begins when the round under way has ended */
};

void pri_init(struct ft *ft);
void pri_start(struct ft *ft, struct ft_ctx *c);
/* pri_sync() - begin the first synchronisation, when there is a peer and nothing is left of an earlier one */
void pri_sync(struct ft *ft, struct ft_ctx *c);
/* pri_want() - remember a wish, begin at once where that may be */
void pri_want(struct ft *ft, struct ft_ctx *c, enum ckpt_cause cause);
void pri_net(struct ft *ft, struct ft_ctx *c);
void pri_done(struct ft *ft, struct ft_ctx *c);
void pri_staged(struct ft *ft, struct ft_ctx *c, uint64_t n);
void pri_loaded(struct ft *ft, struct ft_ctx *c, uint64_t n);
void pri_progress(struct ft *ft, struct ft_ctx *c);
void pri_disk_moved(struct ft *ft, struct ft_ctx *c);
/* pri_unwind() - give up what is under way, in any phase: the VM runs again and the gate is open in the end */
void pri_unwind(struct ft *ft, struct ft_ctx *c);
/* pri_resume() - a VM that stands, with the gate open and nothing under way, runs again */
void pri_resume(struct ft *ft, struct ft_ctx *c);
void pri_tick(struct ft *ft, struct ft_ctx *c);
/* pri_hung() - the own QEMU does not do what it should */
void pri_hung(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum ft_step step);
/* pri_begin() - checkpoint ft->epoch begins */
void pri_begin(struct ft *ft, struct ft_ctx *c, enum ckpt_cause cause);
/* pri_open_gate() - the VM runs, in epoch p->n + 1 */
void pri_open_gate(struct ft *ft, struct ft_ctx *c);

/* ckpt_abort.c */
/* pri_abort() - a step has failed. Return: true when the checkpoint is given up and will be tried again */
bool pri_abort(struct ft *ft, struct ft_ctx *c);
/* pri_abort_done() - in phase ABORT: a step was answered */
void pri_abort_done(struct ft *ft, struct ft_ctx *c);

/* pri_next() - when the next checkpoint may begin, NS_NEVER while none may */
nstime pri_next(const struct ft *ft);
/* pri_next_round() - when the next round between checkpoints is due, NS_NEVER: none is */
nstime pri_next_round(const struct ft *ft);
const char *pri_phase_name(enum pri_phase p);

#endif
