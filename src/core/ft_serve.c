/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table's functions for a node that serves: ALONE, SYNC, PROTECTED. Theory in ft.c; the steps of a checkpoint are
 * in ckpt_primary.c.
 */
#include "core/ft_handlers.h"

#include <errno.h>

void ft_alone(struct ft *ft, struct ft_ctx *c, enum ft_reason why)
{
	/* Its last words have their time; who has asked for the VM may have been granted it, so nothing is lifted then. */
	bool off;

	if (ft->leave == LEAVE_LAST_OFF || ft->leave == LEAVE_LAST_PANIC) {
		why = ft->why = ft->leave == LEAVE_LAST_OFF ? FT_WHY_GUEST_OFF : FT_WHY_GUEST_PANIC;
		ft->leave = LEAVE_OFF;
	}
	off = ft->leave == LEAVE_OFF && ft->rival && ft_asks(ft);

	if (ft->link && (!ft->parting || ft->suspect))
		ft_say(ft, c, CTL_ALONE, ft->epoch, why);
	ft_act(ft, c, FA_DROP_LINK);
	ft->link = false;
	ft->parting = ft->suspect = ft->muted = false;
	ft->ask = ASK_NO;
	ft->covered = false;
	ft->rival = false;
	ft->beat_sent = ft->beat_seen = 0;
	if (ft->leave == LEAVE_QUIT) {
		ft_end(ft, c, FT_WHY_QUIT, STEP_MAX, FT_EXIT_OK, CTL_TYPE_MAX);
		return;
	}
	if (ft->leave == LEAVE_OFF)
		ft->part_at = ft_after(c->now, FT_OFF_FLUSH);
	else
		ft->leave = LEAVE_NO;
	if (!off)
		ft_lease(ft, c, NS_NEVER);
	ft_net(ft, c, NEV_ALONE, 0, 0);
	ft_set_state(ft, c, FT_ALONE, why);
	pri_unwind(ft, c);
	ft_resume(ft, c);
}

void ft_part(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum ft_step step)
{
	if (ft->parting || !ft->link)
		return;
	ft->failed = step;
	/* A peer that is told gives its VM up, and this node may not live to be granted the role: it is told then. */
	if (ft->rival && ft_asks(ft)) {
		ft_lose_peer(ft, c, why, false, c->now);
		return;
	}
	ft->parting = true;
	ft->why = why;
	ft->part_at = ft_after(c->now, ft->cfg.lease);
	ft->alone_at = NS_NEVER;
	ft_say(ft, c, CTL_ALONE, ft->epoch, why);
	pri_unwind(ft, c);
}

/* Serving, and the peer has said that it is gone. */
static void peer_gone(struct ft *ft, struct ft_ctx *c, enum ft_reason why)
{
	/* The witness was asked already: only its answer says of which generation this node is. */
	if (ft->ask == ASK_NO)
		ft->rival = false;
	ft_lose_peer(ft, c, why, true, c->now);
}

/* ALONE: this VM serves, nobody stands by */

void ft_alone_link_up(struct ft *ft, struct ft_ctx *c)
{
	ft->link = true;
	ft->muted = false;
	ft->beat_sent = ft->beat_seen = 0;
	share_refuse(ft, c);
	pri_sync(ft, c);
}

void ft_alone_link_down(struct ft *ft, struct ft_ctx *c)
{
	/* A peer that waited for something, or that was told to go: only without it there can be another one. */
	ft_alone_silent(ft, c);
}

void ft_alone_silent(struct ft *ft, struct ft_ctx *c)
{
	if (ft->link)
		ft_act(ft, c, FA_DROP_LINK);
	ft->link = false;
}

/* A peer that waits for an earlier one's remains may give up. */
void ft_alone_ctl(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->ctl.type == CTL_GONE)
		ft_alone_silent(ft, c);
}

void ft_alone_done(struct ft *ft, struct ft_ctx *c)
{
	if (ft_ask_done(ft, c))
		return;
	if (share_done(ft, c)) {
		pri_sync(ft, c);
		return;
	}
	/* Of the stop of a fence that is no more. */
	if (ft->still == STILL_STOP && c->ev->step == STEP_STOP) {
		if (ft_answered(ft, c->ev)) {
			ft->still = STILL_DONE;
			ft_resume(ft, c);
		}
		return;
	}
	pri_done(ft, c);
}

void ft_alone_timer(struct ft *ft, struct ft_ctx *c)
{
	if (ft->still == STILL_STOP && ft->busy[STEP_STOP].deadline <= c->now) {
		ft_give_up(ft, STEP_STOP);
		ft->still = STILL_DONE;
		ft_resume(ft, c);
	} else if (!share_tick(ft, c)) {
		ft_pair_timer(ft, c);
	}
}

void ft_alone_qemu_died(struct ft *ft, struct ft_ctx *c)
{
	ft_end(ft, c, FT_WHY_QEMU_DIED, STEP_MAX, FT_EXIT_FAILED, CTL_QUIT);
}

void ft_alone_guest_off(struct ft *ft, struct ft_ctx *c)
{
	ft_end(ft, c, FT_WHY_GUEST_OFF, STEP_MAX, FT_EXIT_OK, CTL_GUEST_OFF);
}

void ft_alone_disk_failed(struct ft *ft, struct ft_ctx *c)
{
	/* Anything else the guest hears of itself. */
	if (c->ev->rc == -ESTALE)
		ft_end(ft, c, FT_WHY_PEER_TOOK_OVER, STEP_MAX, FT_EXIT_PEER, CTL_TYPE_MAX);
}

void ft_alone_quit(struct ft *ft, struct ft_ctx *c)
{
	ft_end(ft, c, FT_WHY_QUIT, STEP_MAX, FT_EXIT_OK, CTL_QUIT);
}

/* SYNC, PROTECTED: this VM serves and a peer is connected */

void ft_pair_link_down(struct ft *ft, struct ft_ctx *c)
{
	/* After an error the connection may still carry our ALONE; a close by the peer's kernel has ended it. */
	if (c->ev->value == 1)
		ft->link = false;
	ft_lose_peer(ft, c, FT_WHY_LINK_CLOSED, c->ev->value == 1 && !ft->cfg.strict_death, c->now);
}

void ft_pair_silent(struct ft *ft, struct ft_ctx *c)
{
	ft_lose_peer(ft, c, FT_WHY_SILENT, false, ft->beat_seen ? ft->beat_seen : c->now);
}

void ft_pair_stuck(struct ft *ft, struct ft_ctx *c)
{
	/* It lives, and may read its mail yet. */
	ft_part(ft, c, FT_WHY_SILENT, STEP_MAX);
}

void ft_pair_beat(struct ft *ft, struct ft_ctx *c)
{
	ft->beat_seen = c->now;
	/* It was answered before the suspicion, and the peer counts from that. */
	if (ft->muted && ft->alone_at != NS_NEVER && ft->link)
		ft->alone_at = ft_after(c->now, ft_after(ft->cfg.lease, ft->cfg.drift));
	if (c->ev->value <= ft->beat_sent)
		return;
	ft->beat_sent = c->ev->value;
	if (ft->rival)
		ft_lease(ft, c, ft_after(ft->beat_sent, ft->cfg.lease));
}

void ft_pair_qemu_died(struct ft *ft, struct ft_ctx *c)
{
	bool goes_on = ft->covered && !ft->parting;

	/* A peer that stands by takes over, one that is being filled ends by it. */
	ft_end(ft, c, FT_WHY_QEMU_DIED, STEP_MAX, goes_on ? FT_EXIT_PEER : FT_EXIT_FAILED, CTL_PROMOTE);
}

void ft_pair_qemu_hung(struct ft *ft, struct ft_ctx *c)
{
	pri_hung(ft, c, FT_WHY_QEMU_HUNG, STEP_MAX);
}

static enum ft_exit off_status(enum ft_reason why)
{
	return why == FT_WHY_GUEST_PANIC ? FT_EXIT_PANIC : FT_EXIT_OK;
}

static void off_now(struct ft *ft, struct ft_ctx *c, enum ft_reason why)
{
	if (ft->parting) {
		ft_end(ft, c, why, STEP_MAX, off_status(why), CTL_GUEST_OFF);
		return;
	}
	/*
	 * What is held, the ends of the guest's connections among it, may leave as soon as the peer is known not to
	 * take over: part from it first, let it out, then end.
	 */
	ft->leave = LEAVE_OFF;
	ft->parting = true;
	ft->why = why;
	ft->part_at = ft_after(c->now, ft->cfg.lease);
	ft_say(ft, c, CTL_GUEST_OFF, ft->epoch, why);
	pri_unwind(ft, c);
}

/* With disks there is one checkpoint more, so that both nodes end with the same images. */
void ft_pair_off(struct ft *ft, struct ft_ctx *c, enum ft_reason why)
{
	if (ft->state != FT_PROTECTED || !ft->cfg.disks || ft->parting || ft->leave != LEAVE_NO) {
		off_now(ft, c, why);
		return;
	}
	ft->leave = why == FT_WHY_GUEST_OFF ? LEAVE_LAST_OFF : LEAVE_LAST_PANIC;
	pri_want(ft, c, CAUSE_COMMAND);
}

bool ft_last_done(struct ft *ft, struct ft_ctx *c)
{
	enum ft_reason why = ft->leave == LEAVE_LAST_OFF ? FT_WHY_GUEST_OFF : FT_WHY_GUEST_PANIC;

	/* The one that was under way may have been begun before. */
	if ((ft->leave != LEAVE_LAST_OFF && ft->leave != LEAVE_LAST_PANIC) || ft->p.wish != CAUSE_NONE)
		return false;
	off_now(ft, c, why);
	return true;
}

void ft_pair_guest_off(struct ft *ft, struct ft_ctx *c)
{
	ft_pair_off(ft, c, FT_WHY_GUEST_OFF);
}

void ft_pair_ctl(struct ft *ft, struct ft_ctx *c)
{
	const struct ctl_msg *m = &c->ev->ctl;

	if (m->type == CTL_TOOK_OVER && m->generation >= ft->generation) {
		ft_end(ft, c, FT_WHY_PEER_TOOK_OVER, STEP_MAX, ft_rejoin(ft), CTL_TYPE_MAX);
		return;
	}
	if (m->generation != ft->generation)
		return;
	if (m->type == CTL_CLAIM) {
		/* Parting, our ALONE is on its way and ends the peer. */
		if (!ft->parting)
			ft_end(ft, c, FT_WHY_PEER_TOOK_OVER, STEP_MAX, ft_rejoin(ft),
			       ft->cfg.strict_death ? CTL_PROMOTE : CTL_TYPE_MAX);
		return;
	}
	if (m->type == CTL_GONE || m->type == CTL_FAILED) {
		peer_gone(ft, c, FT_WHY_PEER_GONE);
		return;
	}
	if (ft->parting)
		return;
	if (m->type == CTL_PAUSE)
		ft_pause_ctl(ft, c);
	else if (m->type == CTL_SWITCH && ft->state == FT_PROTECTED)
		ft_protected_switch(ft, c);
	else if (m->type == CTL_STAGED)
		pri_staged(ft, c, m->n);
	else if (m->type == CTL_LOADED)
		pri_loaded(ft, c, m->n);
	/* Until it says STAGED n, what the secondary wants is of epoch n or before, and n will mend it. */
	else if (m->type == CTL_WANT && m->value < CAUSE_MAX && (ft->p.phase == PRI_IDLE || ft->p.phase == PRI_LOAD))
		pri_want(ft, c, (enum ckpt_cause)m->value);
}

void ft_pair_disk_failed(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->rc == -ESTALE) {
		/* A next peer was faster than the news. */
		ft_end(ft, c, FT_WHY_PEER_TOOK_OVER, STEP_MAX, FT_EXIT_PEER, CTL_QUIT);
		return;
	}
	/* A VM whose disk answers nothing but errors is better off where it has one. */
	if (c->ev->value && ft->covered && !ft->parting)
		ft_end(ft, c, FT_WHY_DISK, STEP_MAX, FT_EXIT_PEER, CTL_PROMOTE);
	else
		ft_part(ft, c, FT_WHY_DISK, STEP_MAX);
}

void ft_pair_done(struct ft *ft, struct ft_ctx *c)
{
	if (!ft_ask_done(ft, c))
		pri_done(ft, c);
}

void ft_pair_want(struct ft *ft, struct ft_ctx *c)
{
	/* Before the stop is answered, the checkpoint under way is still the one that is wanted. */
	if (ft->p.phase != PRI_GATE && ft->p.phase != PRI_STOP)
		pri_want(ft, c, c->ev->type == FE_GUEST_RESET ? CAUSE_RESET : c->ev->cause);
}

void ft_sync_quit(struct ft *ft, struct ft_ctx *c)
{
	/* With STAGED 1 said the other one could go on, but it was never told that it is protected. */
	ft_end(ft, c, FT_WHY_QUIT, STEP_MAX, FT_EXIT_OK, CTL_QUIT);
}

void ft_protected_failover(struct ft *ft, struct ft_ctx *c)
{
	if (ft->parting || ft->leave != LEAVE_NO)
		return;
	ft->leave = LEAVE_COMMAND;
	pri_want(ft, c, CAUSE_COMMAND);
}

/* As a failover that was ordered; only this node comes back. */
void ft_protected_switch(struct ft *ft, struct ft_ctx *c)
{
	if (ft->parting || ft->leave != LEAVE_NO)
		return;
	ft->leave = LEAVE_SWITCH;
	pri_want(ft, c, CAUSE_COMMAND);
}

void ft_protected_quit(struct ft *ft, struct ft_ctx *c)
{
	if (ft->parting || ft->leave == LEAVE_QUIT) {
		ft_end(ft, c, FT_WHY_QUIT, STEP_MAX, FT_EXIT_OK, ft->parting ? CTL_TYPE_MAX : CTL_PROMOTE);
		return;
	}
	ft->leave = LEAVE_QUIT;
	pri_want(ft, c, CAUSE_COMMAND);
}

void ft_pair_timer(struct ft *ft, struct ft_ctx *c)
{
	if (ft->leave == LEAVE_OFF && ft->state == FT_ALONE && ft->part_at <= c->now)
		ft_end(ft, c, ft->why, STEP_MAX, off_status(ft->why), CTL_TYPE_MAX);
	else if (ft->parting && ft->part_at <= c->now)
		ft_lose_peer(ft, c, ft->why, false, c->now);
	else if (!ft_ask_tick(ft, c))
		pri_tick(ft, c);
}
