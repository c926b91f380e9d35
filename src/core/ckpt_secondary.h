/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_CKPT_SECONDARY_H
#define CORE_CKPT_SECONDARY_H

#include "core/ft.h"

/* Internal to core/: the checkpoint as the standby node sees it. Theory in ckpt_secondary.c. */

struct ft_ctx;

enum sec_phase {
	SEC_OFF,	/* not a secondary (any more) */
	SEC_FILL,	/* nothing complete is here yet, the SVM has never run */
	SEC_IDLE,	/* the SVM runs */
	SEC_GATE,	/* EPOCH_END received, NEV_CLOSE given, NA_CUT awaited */
	SEC_STOP,	/* stop sent */
	SEC_COLLECT,	/* the SVM is stopped; drain, barriers, reservation */
	SEC_APPLY,	/* STAGED was said: from here on it is n */
	SEC_LOAD,
	SEC_MEND,
	SEC_CONT,	/* n is loaded, cont sent */
	SEC_RESTART,	/* the load failed: QEMU is started anew */
	SEC_UNWIND,	/* promoted before STAGED: the SVM is being brought to run again */
	SEC_PHASE_MAX
};

struct ckpt_secondary {
	enum sec_phase phase;
	uint64_t n;		/* of the EPOCH_END under way; the SVM is stopped at the end of ft->epoch, which is less when n
				 * is another try */
	uint64_t frames_n;	/* last barrier of the frame connection */
	uint64_t bulk_n;	/* last marker of the bulk connection */
	uint64_t reserved_n;	/* last one that was reserved */
	uint64_t disk_n;	/* last one that the disks have whole */
	bool drained;
	bool applied, flipped;	/* APPLY: n's pages are in the image; the disks are n's */
	bool said;		/* CTL_STAGED n was sent */
	bool first;		/* n is the first one ever */
	bool early;		/* planted fault: n was applied before STAGED */
	bool restarted;		/* for this n */
	bool svm_off;		/* the SVM alone has powered off */
	enum ft_panic svm_panic;	/* the SVM alone has panicked */
	bool aborted;		/* n was given up, EPOCH_END n + 1 is awaited; the SVM is stopped or about to be */
	bool held;		/* the SVM is (being) stopped because it has too many pages of its own */
	bool gated;		/* EPOCH_END n has come and NEV_OPEN n is still to be given */
	bool disk_wish;		/* the disks have asked for a checkpoint behind n, which they do only once until its flip */
	uint64_t forget;	/* the staging area of this n is to be dropped when nobody works on it; 0: no */
	nstime deadline;	/* of what the phase awaits besides steps */
};

void sec_init(struct ft *ft);
void sec_start(struct ft *ft, struct ft_ctx *c);
void sec_epoch_end(struct ft *ft, struct ft_ctx *c, uint64_t n);
/* sec_abort() - n is given up, n + 1 follows */
void sec_abort(struct ft *ft, struct ft_ctx *c, uint64_t n);
void sec_net(struct ft *ft, struct ft_ctx *c);
void sec_bulk(struct ft *ft, struct ft_ctx *c);
void sec_disk(struct ft *ft, struct ft_ctx *c);
void sec_disk_moved(struct ft *ft, struct ft_ctx *c);
void sec_done(struct ft *ft, struct ft_ctx *c);
void sec_progress(struct ft *ft, struct ft_ctx *c);
void sec_tick(struct ft *ft, struct ft_ctx *c);
/* sec_want() - something of this node needs a checkpoint */
void sec_want(struct ft *ft, struct ft_ctx *c);
/* sec_full() - stop the SVM until the next checkpoint, which is asked for */
void sec_full(struct ft *ft, struct ft_ctx *c);
/* sec_hold() - stop the SVM until it is promoted, or replaced by a checkpoint */
void sec_hold(struct ft *ft, struct ft_ctx *c);
/* sec_qemu_lost() - the own QEMU died or hangs */
/* sec_give_up() - end, telling the primary so if that is possible */
void sec_give_up(struct ft *ft, struct ft_ctx *c, enum ft_reason why);
void sec_qemu_lost(struct ft *ft, struct ft_ctx *c, enum ft_reason why);
/* sec_promote() - in state PROMOTING: become the one, in any phase */
void sec_promote(struct ft *ft, struct ft_ctx *c);
/* sec_forget() - drop the staging area if that is due and nobody works on it */
void sec_forget(struct ft *ft, struct ft_ctx *c);
const char *sec_phase_name(enum sec_phase p);

#endif
