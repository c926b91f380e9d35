/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A VM that stands because somebody wants it to: theory of operation
 *
 * `stop` makes both copies stand and `cont` makes both run again, in any state, in the middle of a checkpoint or of a
 * takeover too. To the steps of a checkpoint nothing changes by it. The order lies above them: while `paused` holds, who
 * carries out the steps answers a STEP_CONT as if the VM ran, and leaves it standing (STEP_PAUSE, ft.h). So a checkpoint that is
 * under way goes to its end, what is given up is unwound, a peer is synchronised and a promotion is completed as ever, and
 * each of them leaves a VM that stands. Heartbeats, lease and arbitration do not know of it.
 *
 * Who serves decides, and the secondary does as it is told (CTL_PAUSE n), answers when it has (CTL_PAUSE n), and keeps the
 * order over a takeover: who survives has a VM that stands, until `cont`. `stop` that is given to the secondary is passed on as
 * a wish (CTL_PAUSE 0), and comes back as an order. Orders are counted; one that comes while the VM stands already is an
 * order like any other and changes nothing.
 *
 * The copies are not stopped at one point. They need not be: what both have said leaves, the rest is held as it is
 * between any two checkpoints. As nothing is said or written while they stand, no checkpoint is made then but those that are
 * wanted for something else: the first one of a peer, an order, a copy that has gone another way, the disks' wish (pri_next()).
 * All other wishes, those of time above all, wait for `cont`.
 *
 * QEMU stops a VM by itself too: the guest has panicked or its watchdog has fired, and -action or -watchdog-action says so.
 * Where that is the VM that serves it is the same as an order. Where it is the SVM alone the copies have parted, and a checkpoint
 * mends it.
 */
#include "core/ft_handlers.h"

/* One at a time; what was ordered meanwhile comes when it is answered. */
static void carry_out(struct ft *ft, struct ft_ctx *c)
{
	if (!ft_waits(ft, STEP_PAUSE))
		ft_do(ft, c, STEP_PAUSE, ft->pauses, NS_NEVER);
}

void ft_pause(struct ft *ft, struct ft_ctx *c, bool on)
{
	ft->paused = on;
	ft->pauses++;
	carry_out(ft, c);
	if ((ft->state == FT_SYNC || ft->state == FT_PROTECTED) && ft->link && !ft->parting)
		ft_say(ft, c, CTL_PAUSE, ft->pauses, on);
}

void ft_pause_joined(struct ft *ft, struct ft_ctx *c)
{
	/* What an earlier one has answered is none of this one's. */
	ft->peer_pauses = ft->paused ? 0 : ft->pauses;
	if (ft->paused)
		ft_say(ft, c, CTL_PAUSE, ft->pauses, 1);
}

void ft_pause_ctl(struct ft *ft, struct ft_ctx *c)
{
	const struct ctl_msg *m = &c->ev->ctl;

	if (ft->state == FT_JOINING || ft->state == FT_STANDBY) {
		if (!m->n || m->n > FT_EPOCH_MAX)
			return;
		ft->paused = m->value;
		ft->pauses = m->n;
		carry_out(ft, c);
	} else if (!m->n) {
		ft_pause(ft, c, m->value);
	} else if (m->n <= ft->pauses && m->n > ft->peer_pauses) {
		ft->peer_pauses = m->n;
	}
}

bool ft_pause_answer(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->step != STEP_PAUSE)
		return false;
	if (!ft_answered(ft, c->ev))
		return true;
	if (c->ev->n != ft->pauses) {
		carry_out(ft, c);
		return true;
	}
	if (ft->state == FT_JOINING || ft->state == FT_STANDBY) {
		if (ft->link && !ft->claimed)
			ft_say(ft, c, CTL_PAUSE, ft->pauses, ft->paused);
		/* It cannot go on from where it is, and the other one can. */
		if (c->ev->rc && !ft->paused && ft->link && ft->s.phase == SEC_IDLE)
			ft_say(ft, c, CTL_WANT, ft->epoch, CAUSE_RESET);
		return true;
	}
	/* As it is refused it stands, and so must the other one. */
	if (c->ev->rc && !ft->paused)
		ft_pause(ft, c, true);
	pri_sync(ft, c);
	return true;
}

bool ft_paused(const struct ft *ft)
{
	return ft->paused;
}

uint64_t ft_pauses(const struct ft *ft)
{
	return ft->pauses;
}

bool ft_pause_done(const struct ft *ft)
{
	if (ft_waits(ft, STEP_PAUSE))
		return false;
	if ((ft->state == FT_SYNC || ft->state == FT_PROTECTED) && ft->link && !ft->parting)
		return ft->peer_pauses >= ft->pauses;
	return true;
}

/* The table's functions */

void ft_serving_pause(struct ft *ft, struct ft_ctx *c)
{
	ft_pause(ft, c, c->ev->value);
}

void ft_standby_pause(struct ft *ft, struct ft_ctx *c)
{
	if (ft->link && !ft->claimed)
		ft_say(ft, c, CTL_PAUSE, 0, c->ev->value != 0);
}

void ft_alone_panic(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->value == FT_PANIC_OFF)
		ft_end(ft, c, FT_WHY_GUEST_PANIC, STEP_MAX, FT_EXIT_PANIC, CTL_GUEST_OFF);
	else if (c->ev->value == FT_PANIC_PAUSE && !ft->paused)
		ft_pause(ft, c, true);
}

void ft_pair_panic(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->value == FT_PANIC_OFF) {
		/* What is unwound now must not have it run on. */
		ft->paused = true;
		ft->pauses++;
		carry_out(ft, c);
		ft_pair_off(ft, c, FT_WHY_GUEST_PANIC);
	} else {
		ft_alone_panic(ft, c);
	}
}

void ft_standby_panic(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->value > ft->s.svm_panic && c->ev->value <= FT_PANIC_OFF)
		ft->s.svm_panic = (enum ft_panic)c->ev->value;
	ft_standby_guest(ft, c);
}

void ft_promoting_panic(struct ft *ft, struct ft_ctx *c)
{
	/* Else it is news of the SVM that n is about to replace. */
	if (ft->s.phase == SEC_CONT || ft->s.phase == SEC_UNWIND)
		ft_alone_panic(ft, c);
}
