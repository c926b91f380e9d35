/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Who goes on: theory of operation
 *
 * Two nodes that have been a pair and cannot talk to each other may both be alive. Which one goes on is decided by the
 * witness (STEP_WITNESS): it holds one generation and its owner, and changes them only for who knows the present
 * generation. So of a pair of generation g one node at most is granted g + 1, ever, whenever it asks and however late
 * the question arrives; the other one has lost, pauses and ends, and comes back as a secondary.
 *
 * A node asks
 * - as a primary whose peer could have become able to take over (rival), as soon as it has reason to think that the peer
 *   is lost. Until it is granted it holds its output as if the peer were there, and the lease runs: what both copies have
 *   said still leaves until its end. A peer that says itself that it has ended (GONE) is no rival any more, and nobody is
 *   asked: it says so only when it has asked for nothing;
 * - as a secondary, when the primary's lease must have run out; it takes over when it is granted;
 * - as a secondary that knows that the primary is dead (sure), while it takes over: it does not wait. What its VM says
 *   waits (FA_HOLD) until it is granted: nobody hears what no claim stands behind. It runs for no longer than a lease from the
 *   send time of its own last heartbeat that the primary answered, and stands then (FENCED) until it is granted.
 *
 * A primary that is granted the role goes on alone at once: a secondary that is sure, and wrong, is not heard before it is
 * granted, and it will not be. It answers no heartbeats from its suspicion on (FA_MUTE), and says that it goes alone only
 * when it was granted: until then the secondary must be able to take over, should this node die.
 *
 * Who would serve, whose lease has run out, and who is not granted the role yet is FENCED: nothing leaves (the lease sees to
 * that on the path of each frame), and the VM is stopped, so that its time does not run on for nobody. The witness is asked
 * again and again. When it grants the VM runs again; when it has granted the other one, this is the end of it here.
 *
 *	STILL_UNWIND	a checkpoint that was under way is unwound first, as always
 *	STILL_STOP	stop
 *	STILL_DONE	it stands
 *
 * Without a witness (FT_WITNESS_NONE) all of this is as good as granted at once, and silence is death. Only with
 * strict_death a primary waits until the other one must be silent.
 */
#include <errno.h>

#include "core/ft_handlers.h"

bool ft_asks(const struct ft *ft)
{
	return ft->cfg.witness == FT_WITNESS_ASK && !ft_fault(ft, FT_FAULT_NO_CLAIM);
}

bool ft_claims(const struct ft *ft)
{
	return ft->ask == ASK_RUNS || ft->ask == ASK_WAIT;
}

bool ft_rival(const struct ft *ft)
{
	return ft->rival;
}

enum ft_exit ft_rejoin(const struct ft *ft)
{
	return ft->cfg.witness == FT_WITNESS_ASK ? FT_EXIT_REJOIN : FT_EXIT_PEER;
}

void ft_mute(struct ft *ft, struct ft_ctx *c)
{
	if (ft->muted || ft_fault(ft, FT_FAULT_NO_MUTE))
		return;
	ft->muted = true;
	ft_act(ft, c, FA_MUTE);
}

void ft_ask(struct ft *ft, struct ft_ctx *c)
{
	if (ft->ask == ASK_RUNS || ft->ask == ASK_GRANTED)
		return;
	ft->ask_at = NS_NEVER;
	if (!ft_asks(ft)) {
		ft->ask = ASK_GRANTED;
		return;
	}
	ft->ask = ASK_RUNS;
	ft_do(ft, c, STEP_WITNESS, (uint64_t)ft->generation + 1, ft->cfg.witness_limit);
}

/* Nobody knows: it stays as it is, and is asked again. */
static void unknown(struct ft *ft, struct ft_ctx *c)
{
	ft->ask = ASK_WAIT;
	ft->ask_at = ft_after(c->now, ft->cfg.witness_retry);
	if (ft->state == FT_STANDBY)
		ft_not_granted(ft, c);
}

static void try_alone(struct ft *ft, struct ft_ctx *c)
{
	if (ft->ask == ASK_GRANTED && ft->alone_at <= c->now)
		ft_alone(ft, c, ft->why);
}

void ft_lose_peer(struct ft *ft, struct ft_ctx *c, enum ft_reason why, bool sure, nstime from)
{
	/* With a witness nobody else is heard before it is granted, and it is granted to one. */
	nstime at = sure || ft_asks(ft) ? c->now : ft_after(from, ft_after(ft->cfg.lease, ft->cfg.drift));

	if (ft->parting)
		why = ft->why;
	if (!ft->rival || ft->leave == LEAVE_OFF || (ft->cfg.witness == FT_WITNESS_NONE && !ft->cfg.strict_death)) {
		ft_alone(ft, c, why);
		return;
	}
	if (!ft->suspect) {
		if (!ft->parting)
			ft->alone_at = NS_NEVER;
		ft->suspect = ft->parting = true;
		ft->why = why;
		ft->part_at = NS_NEVER;
		if (!sure)
			ft_mute(ft, c);
		pri_unwind(ft, c);
	}
	ft->alone_at = ft_min(ft->alone_at, at);
	ft_ask(ft, c);
	try_alone(ft, c);
}

/* FENCED: the VM is brought to stand. */
static void stand(struct ft *ft, struct ft_ctx *c)
{
	if (ft->p.phase != PRI_OFF) {
		ft->still = STILL_UNWIND;
		return;
	}
	ft->still = STILL_STOP;
	ft_do(ft, c, STEP_STOP, ft->epoch, ft->cfg.stop_deadline);
}

static void fence(struct ft *ft, struct ft_ctx *c)
{
	ft_set_state(ft, c, FT_FENCED, FT_WHY_NO_WITNESS);
	stand(ft, c);
}

void ft_resume(struct ft *ft, struct ft_ctx *c)
{
	if (ft->still == STILL_DONE)
		pri_resume(ft, c);
	else if (ft->still == STILL_STOP)
		return;		/* when the stop is answered */
	ft->still = STILL_NO;
}

/* A VM that was promoted before the witness had answered. */
static void confirmed(struct ft *ft, struct ft_ctx *c)
{
	/* NEV_PROMOTE was given. */
	bool promoted = ft->state != FT_PROMOTING || ft->s.phase == SEC_CONT || ft->s.phase == SEC_UNWIND;
	bool silent = promoted && ft->lease < c->now;

	ft->ask = ASK_NO;
	ft_lease(ft, c, NS_NEVER);
	ft_act(ft, c, FA_HOLD)->value = 0;
	/* What was to tell the switches where the VM is now has not left. */
	if (silent)
		ft_net(ft, c, NEV_ANNOUNCE, ft->epoch, 0);
	if (ft->state == FT_FENCED) {
		ft_set_state(ft, c, FT_ALONE, ft->why);
		ft_resume(ft, c);
	}
	if (ft->state == FT_ALONE) {
		share_served(ft, c);
		pri_sync(ft, c);
	}
}

static void granted(struct ft *ft, struct ft_ctx *c)
{
	ft->ask = ASK_GRANTED;
	ft->generation++;
	if (ft->state == FT_STANDBY)
		ft_granted(ft, c);
	else if (ft->suspect)
		try_alone(ft, c);
	else
		confirmed(ft, c);
}

bool ft_ask_done(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->step != STEP_WITNESS)
		return false;
	if (!ft_answered(ft, c->ev) || ft->ask != ASK_RUNS)
		return true;
	if (!c->ev->rc) {
		granted(ft, c);
	} else if (c->ev->rc == -ESTALE) {
		ft_end(ft, c, FT_WHY_LOST, STEP_MAX, FT_EXIT_REJOIN, CTL_TYPE_MAX);
	} else {
		unknown(ft, c);
	}
	return true;
}

nstime ft_ask_next(const struct ft *ft)
{
	nstime t = ft->ask == ASK_WAIT ? ft->ask_at : NS_NEVER;

	if (ft->suspect && ft->ask == ASK_GRANTED)
		t = ft_min(t, ft->alone_at);
	if (ft_claims(ft) && (ft->state == FT_ALONE || (ft->suspect && ft->state != FT_FENCED)))
		t = ft_min(t, ft_after(ft->lease, 1));
	return t;
}

bool ft_ask_tick(struct ft *ft, struct ft_ctx *c)
{
	if (ft->ask == ASK_RUNS && ft->busy[STEP_WITNESS].deadline <= c->now) {
		ft_give_up(ft, STEP_WITNESS);
		unknown(ft, c);
		return true;
	}
	if (ft->ask == ASK_WAIT && ft->ask_at <= c->now) {
		ft_ask(ft, c);
		return true;
	}
	if (ft->suspect && ft->ask == ASK_GRANTED && ft->alone_at <= c->now) {
		ft_alone(ft, c, ft->why);
		return true;
	}
	if (ft_claims(ft) && ft->lease < c->now && (ft->state == FT_ALONE || (ft->suspect && ft->state != FT_FENCED))) {
		fence(ft, c);
		return true;
	}
	return false;
}

void ft_witness(struct ft *ft, struct ft_ctx *c)
{
	bool was = ft->reachable;

	ft->reachable = c->ev->value;
	/* Who waits for an answer need not wait until the next question. */
	if (ft->reachable && !was && ft->ask == ASK_WAIT)
		ft->ask_at = c->now;
}

/* FENCED: this VM would serve, and nobody has granted it yet */

void ft_fenced_link_up(struct ft *ft, struct ft_ctx *c)
{
	/* After a promotion that waits to be confirmed. */
	if (!ft->suspect)
		ft->link = true;
}

void ft_fenced_link_down(struct ft *ft, struct ft_ctx *c)
{
	if (ft->suspect && c->ev->value == 1 && !ft->cfg.strict_death) {
		ft->link = false;
		ft->alone_at = ft_min(ft->alone_at, c->now);
	} else if (!ft->suspect) {
		ft_alone_silent(ft, c);
	}
}

void ft_fenced_silent(struct ft *ft, struct ft_ctx *c)
{
	if (!ft->suspect)
		ft_alone_silent(ft, c);
}

void ft_fenced_ctl(struct ft *ft, struct ft_ctx *c)
{
	const struct ctl_msg *m = &c->ev->ctl;

	if (ft->suspect && m->type == CTL_TOOK_OVER && m->generation >= ft->generation)
		ft_end(ft, c, FT_WHY_PEER_TOOK_OVER, STEP_MAX, ft_rejoin(ft), CTL_TYPE_MAX);
	else if (!ft->suspect)
		ft_alone_ctl(ft, c);
}

void ft_fenced_done(struct ft *ft, struct ft_ctx *c)
{
	if (ft_ask_done(ft, c))
		return;
	if (ft->still == STILL_STOP && c->ev->step == STEP_STOP) {
		/* One that was refused has had no effect; nothing leaves all the same. */
		if (ft_answered(ft, c->ev))
			ft->still = STILL_DONE;
		return;
	}
	pri_done(ft, c);
	if (ft->still == STILL_UNWIND && ft->p.phase == PRI_OFF)
		stand(ft, c);
}

void ft_fenced_timer(struct ft *ft, struct ft_ctx *c)
{
	if (ft->still == STILL_STOP && ft->busy[STEP_STOP].deadline <= c->now) {
		ft_give_up(ft, STEP_STOP);
		ft->still = STILL_DONE;
	} else if (!ft_ask_tick(ft, c)) {
		pri_tick(ft, c);
	}
}

void ft_fenced_dead(struct ft *ft, struct ft_ctx *c)
{
	bool pair = ft->suspect && ft->covered;

	ft_end(ft, c, FT_WHY_QEMU_DIED, STEP_MAX, pair ? FT_EXIT_PEER : FT_EXIT_FAILED, pair ? CTL_PROMOTE : CTL_QUIT);
}

void ft_fenced_guest_off(struct ft *ft, struct ft_ctx *c)
{
	ft_end(ft, c, FT_WHY_GUEST_OFF, STEP_MAX, FT_EXIT_OK, CTL_GUEST_OFF);
}

void ft_fenced_quit(struct ft *ft, struct ft_ctx *c)
{
	ft_end(ft, c, FT_WHY_QUIT, STEP_MAX, FT_EXIT_OK, ft->suspect ? CTL_TYPE_MAX : CTL_QUIT);
}
