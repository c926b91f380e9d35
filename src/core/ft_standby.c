/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The table's functions for a node that stands by: JOINING, STANDBY, PROMOTING. Theory in ft.c; the steps of a
 * checkpoint are in ckpt_secondary.c.
 */
#include "core/ft_handlers.h"

#include <errno.h>

/* JOINING: a secondary with nothing to take over from */

void ft_joining_link_up(struct ft *ft, struct ft_ctx *c)
{
	if (ft->link)
		return;
	ft->link = true;
	ft->muted = false;
	ft->beat_sent = 0;
	ft->generation = (uint32_t)c->ev->value;
	ft_net(ft, c, NEV_ROLE, ft->epoch, NET_SECONDARY);
}

void ft_joining_lost(struct ft *ft, struct ft_ctx *c)
{
	if (!ft->link)
		return;
	ft_end(ft, c, c->ev->type == FE_LINK_DOWN ? FT_WHY_LINK_CLOSED : FT_WHY_SILENT, STEP_MAX,
	       ft->cfg.witness == FT_WITNESS_ASK ? FT_EXIT_REJOIN : FT_EXIT_FAILED, CTL_GONE);
}

void ft_standby_beat(struct ft *ft, struct ft_ctx *c)
{
	ft->beat_seen = c->now;
	if (c->ev->value > ft->beat_sent)
		ft->beat_sent = c->ev->value;
	if (ft->muted) {
		/* It was answered before, and the peer's lease counts from that. */
		if (ft->takeover_at != NS_NEVER && ft->ask == ASK_NO)
			ft->takeover_at = ft_after(c->now, ft_after(ft->cfg.lease, ft->cfg.drift));
	} else if (ft->link && !ft->claimed) {
		/* It was silent and is back before we took over. */
		ft->takeover_at = NS_NEVER;
	}
}

static void sec_ctl(struct ft *ft, struct ft_ctx *c)
{
	const struct ctl_msg *m = &c->ev->ctl;

	/* Who goes on alone may have a generation of its own already. */
	if (m->generation != ft->generation && !(m->type == CTL_ALONE && m->generation > ft->generation))
		return;
	switch (m->type) {
	case CTL_EPOCH_END:
		sec_epoch_end(ft, c, m->n);
		break;
	case CTL_ABORT:
		sec_abort(ft, c, m->n);
		break;
	case CTL_ALONE:
		/* A link that was lost may come back, another trouble is for people to look at. */
		ft_end(ft, c, FT_WHY_PEER_ALONE, STEP_MAX,
		       m->value == FT_WHY_SILENT || m->value == FT_WHY_LINK_CLOSED ? ft_rejoin(ft) : FT_EXIT_PEER,
		       ft_asks(ft) ? CTL_GONE : CTL_TYPE_MAX);
		break;
	case CTL_QUIT:
		ft_end(ft, c, FT_WHY_QUIT, STEP_MAX, FT_EXIT_OK, CTL_TYPE_MAX);
		break;
	case CTL_GUEST_OFF:
		if (m->value == FT_WHY_GUEST_PANIC)
			ft_end(ft, c, FT_WHY_GUEST_PANIC, STEP_MAX, FT_EXIT_PANIC, CTL_TYPE_MAX);
		else
			ft_end(ft, c, FT_WHY_GUEST_OFF, STEP_MAX, FT_EXIT_OK, CTL_TYPE_MAX);
		break;
	case CTL_PAUSE:
		ft_pause_ctl(ft, c);
		break;
	default:
		break;
	}
}

void ft_joining_ctl(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->ctl.type == CTL_PROMOTE && c->ev->ctl.generation == ft->generation)
		ft_end(ft, c, FT_WHY_PEER_PROMOTE, STEP_MAX, FT_EXIT_FAILED, CTL_TYPE_MAX);
	else
		sec_ctl(ft, c);
}

void ft_standby_qemu_lost(struct ft *ft, struct ft_ctx *c)
{
	sec_qemu_lost(ft, c, c->ev->type == FE_QEMU_HUNG ? FT_WHY_QEMU_HUNG : FT_WHY_QEMU_DIED);
}

void ft_standby_quit(struct ft *ft, struct ft_ctx *c)
{
	ft_end(ft, c, FT_WHY_QUIT, STEP_MAX, FT_EXIT_OK, CTL_GONE);
}

/* STANDBY: a secondary that can take over */

/* What is known of the peer's death. */
enum proof {
	PROOF_NONE,	/* it should be dead, or silent at least */
	PROOF_CLOSED,	/* its kernel has closed its connections */
	PROOF_WORD,	/* it has said so */
};

/* Return: whether the peer is known to write to no shared disk any more; else that is seen to, as far as it can be */
static bool fenced(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum proof proof)
{
	if (!ft->cfg.fence || ft->fence == FENCE_DONE || proof == PROOF_WORD)
		return true;
	ft->takeover_at = NS_NEVER;
	ft->why = why;
	if (ft->fence != FENCE_RUNS && !ft->busy[STEP_FENCE].on) {
		ft->fence = FENCE_RUNS;
		ft_do(ft, c, STEP_FENCE, ft->epoch, NS_NEVER);
	}
	return false;
}

static void promote(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum proof proof)
{
	nstime lease = NS_NEVER;

	/* Its answer says the rest. */
	if (ft_claims(ft)) {
		ft->takeover_at = NS_NEVER;
		return;
	}
	ft->why = why;
	if (proof == PROOF_NONE && ft->fence != FENCE_DONE && ft->ask != ASK_GRANTED && ft_asks(ft)) {
		ft->takeover_at = NS_NEVER;
		ft_mute(ft, c);
		ft_ask(ft, c);
		return;
	}
	if (!ft_fault(ft, FT_FAULT_NO_FENCE) && !fenced(ft, c, why, proof))
		return;
	ft->takeover_at = NS_NEVER;
	if (ft->ask != ASK_GRANTED && ft_asks(ft)) {
		ft_ask(ft, c);
		lease = ft_fault(ft, FT_FAULT_NO_DEADLINE) ? NS_NEVER : ft->beat_sent ? ft_after(ft->beat_sent, ft->cfg.lease) : 0;
	} else {
		if (ft->ask != ASK_GRANTED)
			ft->generation++;
		ft->ask = ASK_NO;
	}
	if (ft->link)
		ft_say(ft, c, CTL_TOOK_OVER, ft->epoch, why);
	ft_act(ft, c, FA_DROP_LINK);
	ft->link = false;
	ft->claimed = ft->muted = false;
	ft->beat_sent = 0;
	ft_lease(ft, c, lease);
	/*
	 * Nobody may hear what no claim stands behind: should this node die now, the one that was primary may be started
	 * anew and be granted the role, with a disk that knows nothing of it.
	 */
	if (ft_claims(ft) && !ft_fault(ft, FT_FAULT_NO_DEADLINE))
		ft_act(ft, c, FA_HOLD)->value = 1;
	ft_set_state(ft, c, FT_PROMOTING, why);
	sec_promote(ft, c);
}

void ft_standby_done(struct ft *ft, struct ft_ctx *c)
{
	int rc = c->ev->rc;

	if (ft_ask_done(ft, c))
		return;
	if (c->ev->step != STEP_FENCE) {
		sec_done(ft, c);
		return;
	}
	if (!ft_answered(ft, c->ev))
		return;
	if (!rc) {
		ft->fence = FENCE_DONE;
		promote(ft, c, ft->why, PROOF_NONE);
	} else if (rc == -ESTALE) {
		ft_end(ft, c, FT_WHY_PEER_ALONE, STEP_MAX, FT_EXIT_PEER, CTL_TYPE_MAX);
	} else {
		ft->fence = FENCE_REFUSED;
		if (rc != -EOPNOTSUPP)
			ft->takeover_at = ft_after(c->now, ft->cfg.fence_retry);
		sec_hold(ft, c);
		ft_set_state(ft, c, FT_STANDBY, FT_WHY_UNFENCED);
	}
}

/* The peer's death is likely and not proven: its lease must have run out first. */
static void promote_later(struct ft *ft, struct ft_ctx *c, enum ft_reason why, nstime from)
{
	nstime at = ft_after(from, ft_after(ft->cfg.lease, ft->cfg.drift));

	/* If it lives it goes on alone now. It shall do so, rather than be fenced by who was a little faster. */
	if (ft->cfg.fence)
		at = ft_after(at, ft->cfg.lease);

	ft->why = why;
	/* Heartbeats that were answered just before are news that may still be under way: time for those. */
	if (ft_asks(ft))
		at = at > c->now ? at : c->now;
	else if (at <= c->now)
		promote(ft, c, why, PROOF_NONE);
	if (ft->state == FT_STANDBY)
		ft->takeover_at = ft_min(ft->takeover_at, at);
}

void ft_claim(struct ft *ft, struct ft_ctx *c, enum ft_reason why)
{
	if (ft->claimed || !ft->link)
		return;
	ft->claimed = true;
	ft_mute(ft, c);
	ft_say(ft, c, CTL_CLAIM, ft->epoch, why);
	promote_later(ft, c, why, c->now);
}

void ft_standby_link_down(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->value == 1) {
		ft->link = false;
		if (ft->cfg.strict_death) {
			ft_mute(ft, c);
			promote_later(ft, c, ft->claimed ? ft->why : FT_WHY_LINK_CLOSED, c->now);
		} else {
			promote(ft, c, ft->claimed ? ft->why : FT_WHY_LINK_CLOSED, PROOF_CLOSED);
		}
	} else if (c->ev->value == 2) {
		/* The trouble is ours as far as anybody knows, and the primary serves: it goes on without us. */
		sec_give_up(ft, c, FT_WHY_LINK_CLOSED);
	} else {
		/* Some connection may be whole: answer no more heartbeats and say so, or both would serve. */
		ft_claim(ft, c, FT_WHY_LINK_CLOSED);
	}
}

void ft_standby_silent(struct ft *ft, struct ft_ctx *c)
{
	if (ft_asks(ft))
		ft_mute(ft, c);
	promote_later(ft, c, FT_WHY_SILENT, ft->beat_seen ? ft->beat_seen : c->now);
}

void ft_standby_stuck(struct ft *ft, struct ft_ctx *c)
{
	/* As long as we answer its heartbeats its lease goes on. */
	ft_claim(ft, c, FT_WHY_SILENT);
}

void ft_standby_ctl(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->ctl.type == CTL_PROMOTE && c->ev->ctl.generation == ft->generation)
		promote(ft, c, FT_WHY_PEER_PROMOTE, PROOF_WORD);
	else
		sec_ctl(ft, c);
}

void ft_standby_guest(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->type == FE_GUEST_OFF)
		ft->s.svm_off = true;
	/* In a checkpoint it is replaced anyway. */
	if (ft->s.phase == SEC_IDLE && ft->link)
		ft_say(ft, c, CTL_WANT, ft->epoch, CAUSE_RESET);
}

void ft_standby_want(struct ft *ft, struct ft_ctx *c)
{
	sec_want(ft, c);
}

void ft_standby_full(struct ft *ft, struct ft_ctx *c)
{
	sec_full(ft, c);
}

void ft_standby_failover(struct ft *ft, struct ft_ctx *c)
{
	if (ft->fence == FENCE_REFUSED && (!ft->link || ft->claimed))
		promote(ft, c, FT_WHY_COMMAND, PROOF_NONE);
	else
		ft_claim(ft, c, FT_WHY_COMMAND);
}

void ft_standby_timer(struct ft *ft, struct ft_ctx *c)
{
	if (ft->takeover_at <= c->now)
		promote(ft, c, ft->why, PROOF_NONE);
	else if (!ft_ask_tick(ft, c))
		sec_tick(ft, c);
}

void ft_granted(struct ft *ft, struct ft_ctx *c)
{
	promote(ft, c, ft->why, PROOF_NONE);
}

void ft_not_granted(struct ft *ft, struct ft_ctx *c)
{
	sec_hold(ft, c);
	if (ft->reason != FT_WHY_NO_WITNESS)
		ft_set_state(ft, c, FT_STANDBY, FT_WHY_NO_WITNESS);
}

void ft_standby_switch(struct ft *ft, struct ft_ctx *c)
{
	if (ft->link && !ft->claimed)
		ft_say(ft, c, CTL_SWITCH, ft->epoch, 0);
}

/* PROMOTING: the peer is gone, this VM is being brought to run */

void ft_served(struct ft *ft, struct ft_ctx *c)
{
	ft->s.phase = SEC_OFF;
	pri_init(ft);
	ft->covered = false;
	ft->rival = false;
	ft_set_state(ft, c, FT_ALONE, ft->reason);
	/* Else when it is granted. */
	if (!ft_claims(ft))
		share_served(ft, c);
}

void ft_promoting_done(struct ft *ft, struct ft_ctx *c)
{
	if (!ft_ask_done(ft, c))
		sec_done(ft, c);
}

void ft_promoting_timer(struct ft *ft, struct ft_ctx *c)
{
	if (!ft_ask_tick(ft, c))
		sec_tick(ft, c);
}

void ft_promoting_guest_off(struct ft *ft, struct ft_ctx *c)
{
	/* Else it is news of the SVM that n is about to replace. */
	if (ft->s.phase == SEC_CONT || ft->s.phase == SEC_UNWIND)
		ft_end(ft, c, FT_WHY_GUEST_OFF, STEP_MAX, FT_EXIT_OK, CTL_TYPE_MAX);
}
