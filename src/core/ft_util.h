/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_FT_UTIL_H
#define CORE_FT_UTIL_H

#include "core/ft_state.h"

/* Internal to core/: what ft.c, ckpt_primary.c and ckpt_secondary.c share. */

/* One call of ft_step(). */
struct ft_ctx {
	nstime now;
	const struct ft_ev *ev;
	struct ft_acts *acts;
};

/* A first apply and load take the whole memory: this much longer than the others. */
enum { FT_FIRST_FACTOR = 6 };

/* From letting out the last output of a VM that is off to the end. */
#define FT_OFF_FLUSH	(20 * NS_PER_MS)

/* A peer's number above this is nonsense: so many checkpoints take longer than the universe is old. */
#define FT_EPOCH_MAX	(UINT64_MAX / 2)

/* No FA_LEASE was given yet. */
#define FT_LEASE_UNSET	1

/* ft_after() - @now + @d, never beyond NS_NEVER */
static inline nstime ft_after(nstime now, nstime d)
{
	return d > NS_NEVER - now ? NS_NEVER : now + d;
}

static inline nstime ft_min(nstime a, nstime b)
{
	return a < b ? a : b;
}

#ifdef LOCKSTEP_FAULTS
static inline bool ft_fault(const struct ft *ft, enum ft_fault f)
{
	return ft->cfg.faults & f;
}
#else
static inline bool ft_fault(const struct ft *ft, enum ft_fault f)
{
	return false;
}
#endif

/* Actions. A full struct ft_acts refuses and counts; the tests show that it never is. */
struct ft_act *ft_act(struct ft *ft, struct ft_ctx *c, enum ft_act_type type);
void ft_say(struct ft *ft, struct ft_ctx *c, enum ctl_type type, uint64_t n, uint64_t value);
void ft_net(struct ft *ft, struct ft_ctx *c, enum net_ev_type type, uint64_t n, uint64_t value);
void ft_lease(struct ft *ft, struct ft_ctx *c, nstime until);

/* ft_do() - begin a step that is to be done within @limit (NS_NEVER: whoever began it watches) */
void ft_do(struct ft *ft, struct ft_ctx *c, enum ft_step step, uint64_t n, nstime limit);
/* ft_waits() - this step is under way and its answer is waited for */
bool ft_waits(const struct ft *ft, enum ft_step step);
/* ft_answered() - take FE_DONE; false: nobody asked, or nobody waits any more */
bool ft_answered(struct ft *ft, const struct ft_ev *ev);
/* ft_give_up() - wait no longer for the answer of this step */
void ft_give_up(struct ft *ft, enum ft_step step);
/* ft_no_limit() - this step may take as long as it likes from now on */
void ft_no_limit(struct ft *ft, enum ft_step step);

void ft_set_state(struct ft *ft, struct ft_ctx *c, enum ft_state s, enum ft_reason why);

/*
 * ft_end() - it is over: nothing leaves any more, QEMU dies, then the peer is told
 * @say: what the peer is told; CTL_TYPE_MAX: nothing
 */
void ft_end(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum ft_step step, enum ft_exit status,
	    enum ctl_type say);

/* ft_part() - serving: end the pair cleanly with a peer that is alive; the VM goes on */
void ft_part(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum ft_step step);

/* ft_alone() - serving: the peer is gone; let everything out and go on */
void ft_alone(struct ft *ft, struct ft_ctx *c, enum ft_reason why);

/* ft_last_done() - a checkpoint is complete; true: it was the last one of a guest that has ended its run, and this is the end */
bool ft_last_done(struct ft *ft, struct ft_ctx *c);

/* ft_served() - PROMOTING is over: the VM runs and its output is on */
void ft_served(struct ft *ft, struct ft_ctx *c);

/* ft_asks() - there is a witness to be asked */
bool ft_asks(const struct ft *ft);
/* ft_rejoin() - how a node ends whose peer has the VM */
enum ft_exit ft_rejoin(const struct ft *ft);
/* ft_mute() - once for each peer */
void ft_mute(struct ft *ft, struct ft_ctx *c);
/* ft_ask() - ask the witness, unless it was */
void ft_ask(struct ft *ft, struct ft_ctx *c);
/*
 * ft_lose_peer() - serving: the peer is lost; go on alone as soon as that may be
 * @sure: it is known to be dead
 * @from: else, when it was answered last
 */
void ft_lose_peer(struct ft *ft, struct ft_ctx *c, enum ft_reason why, bool sure, nstime from);
/* ft_ask_done() - an answer; false: it is not the witness's */
bool ft_ask_done(struct ft *ft, struct ft_ctx *c);
/* ft_ask_tick() - time has passed; false: nothing was due. ft_ask_next() - when something will be */
bool ft_ask_tick(struct ft *ft, struct ft_ctx *c);
nstime ft_ask_next(const struct ft *ft);
/* ft_resume() - the VM that was fenced runs again */
void ft_resume(struct ft *ft, struct ft_ctx *c);
/* ft_granted(), ft_not_granted() - the witness's answer to a secondary that has waited for it (ft_standby.c) */
void ft_granted(struct ft *ft, struct ft_ctx *c);
void ft_not_granted(struct ft *ft, struct ft_ctx *c);

/* ft_pause.c */
/* ft_pause() - the VM is to stand, or to run, here and at the peer */
void ft_pause(struct ft *ft, struct ft_ctx *c, bool on);
/* ft_pause_joined() - a peer that is about to be synchronised hears that the VM stands, if it does */
void ft_pause_joined(struct ft *ft, struct ft_ctx *c);
/* ft_pause_ctl() - CTL_PAUSE, on either side */
void ft_pause_ctl(struct ft *ft, struct ft_ctx *c);
/* ft_pause_answer() - an answer; false: it is not STEP_PAUSE's */
bool ft_pause_answer(struct ft *ft, struct ft_ctx *c);

/* ft_claim() - secondary: ask the primary to stop, take over when it has, or when its lease has run out */
void ft_claim(struct ft *ft, struct ft_ctx *c, enum ft_reason why);

#endif
