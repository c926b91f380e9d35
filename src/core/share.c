/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A promoted VM's memory: theory of operation
 *
 * The VM of a secondary maps the image of the last checkpoint privately. Promoted, it serves like that: what it writes
 * are pages of its own, beside the image, up to twice the guest's memory in the end, and what it writes cannot be followed
 * by us. So once it serves, and not in the gap of the failover, its memory is made the image itself. A piece at a time:
 * stop, write the private pages of the piece to the image and map the piece shared (STEP_SHARE), cont; then the VM runs
 * for SHARE_RUN times as long as it stood. Each stop is a few milliseconds. The gate stays open: what comes meanwhile
 * waits in QEMU, as in any VM that is stopped for a moment, and no cut is to be made here.
 *
 *	DUE	a secondary
 *	WAIT	serving alone; share_after for the first piece
 *	STOP	stop
 *	PIECE	STEP_SHARE; value 0: that was the last
 *	CONT	cont, which is asked again until it is answered well: nobody else has this VM
 *	FOLLOW	STEP_SHARE once more, while the VM runs: what it writes is followed from now on. A peer gets all of memory
 *		at first anyway, so nothing can be missed
 *
 * A peer that comes meanwhile waits for the end of it (share_busy()). A piece that cannot be shared is tried again, a
 * while later; after SHARE_TRIES in a row it stays as it is, and the node without a peer (share_refuse()). STEP_SHARE has no deadline:
 * while it is not known how it ended the VM must not run, and who carries it out answers in any case. -ETIMEDOUT is
 * just that: the agent may be in the middle of it, so the VM stays stopped and the piece is asked for again.
 */
#include "core/ft_util.h"

#include <errno.h>

#define SHARE_RUN	9
#define SHARE_TRIES	5
#define SHARE_MIN_RUN	(20 * NS_PER_MS)
#define SHARE_AGAIN	(5 * NS_PER_S)
#define CONT_AGAIN	(50 * NS_PER_MS)

void share_served(struct ft *ft, struct ft_ctx *c)
{
	if (ft->share.phase != SHARE_DUE)
		return;
	ft->share.phase = SHARE_WAIT;
	ft->share.deadline = ft_after(c->now, ft->cfg.share_after);
}

bool share_busy(const struct ft *ft)
{
	return ft->share.phase != SHARE_OFF;
}

/* A peer can be given nothing: one that waits is sent away. */
static void share_failed(struct ft *ft, struct ft_ctx *c)
{
	ft->share.phase = SHARE_FAILED;
	ft->share.deadline = NS_NEVER;
	share_refuse(ft, c);
}

void share_refuse(struct ft *ft, struct ft_ctx *c)
{
	if (ft->share.phase != SHARE_FAILED || !ft->link)
		return;
	ft_say(ft, c, CTL_ALONE, ft->epoch, FT_WHY_STEP_FAILED);
	ft_act(ft, c, FA_DROP_LINK);
	ft->link = false;
}

static void cont(struct ft *ft, struct ft_ctx *c)
{
	ft->share.phase = SHARE_CONT;
	ft->share.deadline = NS_NEVER;
	ft_do(ft, c, STEP_CONT, ft->epoch, ft->cfg.stop_deadline);
}

static void piece(struct ft *ft, struct ft_ctx *c)
{
	ft->share.phase = SHARE_PIECE;
	ft_do(ft, c, STEP_SHARE, ft->epoch, NS_NEVER);
}

static void piece_done(struct ft *ft, struct ft_ctx *c)
{
	struct share *h = &ft->share;

	if (c->ev->rc == -ETIMEDOUT) {
		piece(ft, c);
		return;
	}
	h->last = !c->ev->rc && c->ev->value == 0;
	h->failures = c->ev->rc ? h->failures + 1 : 0;
	cont(ft, c);
}

static void follow(struct ft *ft, struct ft_ctx *c)
{
	ft->share.phase = SHARE_FOLLOW;
	ft->share.deadline = NS_NEVER;
	ft_do(ft, c, STEP_SHARE, ft->epoch, NS_NEVER);
}

static void follow_done(struct ft *ft, struct ft_ctx *c)
{
	struct share *h = &ft->share;

	h->failures = c->ev->rc ? h->failures + 1 : 0;
	if (h->failures && h->failures < SHARE_TRIES)
		h->deadline = ft_after(c->now, SHARE_AGAIN);
	else if (h->failures)
		share_failed(ft, c);
	else
		h->phase = SHARE_OFF;
}

static void cont_done(struct ft *ft, struct ft_ctx *c)
{
	struct share *h = &ft->share;
	nstime run = SHARE_RUN * (c->now - h->stopped_at);

	if (c->ev->rc) {
		h->deadline = ft_after(c->now, CONT_AGAIN);
		return;
	}
	if (h->last) {
		follow(ft, c);
		return;
	}
	if (h->failures >= SHARE_TRIES) {
		share_failed(ft, c);
		return;
	}
	h->phase = SHARE_WAIT;
	h->deadline = ft_after(c->now, h->failures ? SHARE_AGAIN : run < SHARE_MIN_RUN ? SHARE_MIN_RUN : run);
}

bool share_done(struct ft *ft, struct ft_ctx *c)
{
	struct share *h = &ft->share;
	enum ft_step step = c->ev->step;

	if (!(h->phase == SHARE_STOP && step == STEP_STOP) && !(h->phase == SHARE_PIECE && step == STEP_SHARE) &&
	    !(h->phase == SHARE_CONT && step == STEP_CONT) && !(h->phase == SHARE_FOLLOW && step == STEP_SHARE))
		return false;
	if (!ft_answered(ft, c->ev))
		return true;
	if (step == STEP_CONT) {
		cont_done(ft, c);
	} else if (h->phase == SHARE_FOLLOW) {
		follow_done(ft, c);
	} else if (step == STEP_SHARE) {
		piece_done(ft, c);
	} else if (c->ev->rc) {
		h->failures++;
		cont(ft, c);
	} else {
		piece(ft, c);
	}
	return true;
}

bool share_tick(struct ft *ft, struct ft_ctx *c)
{
	struct share *h = &ft->share;

	if (h->phase == SHARE_STOP && ft->busy[STEP_STOP].deadline <= c->now) {
		ft_give_up(ft, STEP_STOP);
		h->failures++;
		cont(ft, c);
		return true;
	}
	if (h->phase == SHARE_CONT && ft->busy[STEP_CONT].deadline <= c->now) {
		ft_give_up(ft, STEP_CONT);
		cont(ft, c);
		return true;
	}
	if (h->deadline > c->now)
		return false;
	if (h->phase == SHARE_CONT) {
		cont(ft, c);
		return true;
	}
	if (h->phase == SHARE_FOLLOW) {
		follow(ft, c);
		return true;
	}
	/* Something of the promotion is not answered yet, or of a fence. */
	for (int i = 0; i < STEP_MAX; i++)
		if (ft->busy[i].on || ft->p.phase != PRI_OFF) {
			h->deadline = ft_after(c->now, ft->cfg.share_after);
			return true;
		}
	h->phase = SHARE_STOP;
	h->last = false;
	h->deadline = NS_NEVER;
	h->stopped_at = c->now;
	ft_do(ft, c, STEP_STOP, ft->epoch, ft->cfg.stop_deadline);
	return true;
}
