/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A checkpoint as the serving node makes it.
 *
 * Goal: the secondary gets a complete copy of the VM as it was at one point of its input, and the VM stands still for
 * as short as possible. The number n of a checkpoint is that of the epoch that it ends.
 *
 *	RESYNC	the peer's disks are brought up to date while the VM runs, as long as it takes; then
 *	ROUND	first synchronisation: dirty pages are sent while the VM runs, until few enough are left
 *	IDLE	rounds of pre-copy for n (precopy.c); a wish (mismatch, delay, ...) begins checkpoint n
 *	GATE	NEV_CLOSE n; NA_CUT n: QEMU has read its input
 *	STOP	stop, and EPOCH_END n to the secondary at the same moment
 *	COLLECT	NEV_STOPPED n; the disks' barrier; NA_DRAINED n; then save and copy side by side
 *	CONT	cont, in line behind save where copy is done first; then NEV_OPEN n: epoch n + 1
 *	STAGE	the rest is sent; STAGED n: NEV_STAGED n, the output of epoch n leaves
 *	LOAD	LOADED n: NEV_LOADED n; protected
 *	ABORT	save, copy or sending has failed: n is given up, n + 1 begins at once (ckpt_abort.c)
 *
 * While the VM stands by an order (ft_pause.c) cont is answered and it stands on, and only what is wanted for something else
 * begins a checkpoint.
 *
 * Promises:
 * - The next checkpoint begins only after LOADED n and after everything of n was sent. Wishes that come meanwhile are
 *   kept, but for those that n itself answers: what net wanted before it drained n, what the secondary wanted before
 *   it said STAGED n, and what anybody wanted before the stop was answered. The most urgent is kept, the first of
 *   equal ones. Something that holds output (mismatch, too much held, not comparable, a reset) or an order goes at
 *   once; others wait for min_interval after LOADED. All of them cut a round short. What only time brings on waits for a
 *   last round, where that pays.
 * - An epoch number that was given to NEV_CLOSE is never used again: NEV_OPEN n means that epoch n + 1 has begun,
 *   also when checkpoint n was given up.
 * - Who gives up unwinds: what was asked of QEMU is answered first (or overdue), then the VM is continued, then the
 *   gate is opened. From every phase.
 * - Every wait has a deadline and an exit. Cut, stop, save, copy, drain, cont overdue: the own QEMU hangs; it is killed
 *   and the secondary told to take over, if it has a complete checkpoint; if it has none the VM goes on alone.
 *   A round, STAGED or LOADED overdue: the secondary hangs; protection ends. Bytes that move put these off.
 * - Another error in save, copy or sending is tried again, once (ckpt_abort.c); a second one in a row, or one in stop,
 *   ends protection cleanly (ft_part()).
 * - A refused cont is asked again, for as long as its deadline allows. (Where the guest itself has ended its run the
 *   shell says that it went well, and reports the event.)
 */
#include "core/ft_util.h"

#include <errno.h>

#define STAGE_FACTOR	12	/* times the deadline of STAGED that the disks may put it off in all */

void pri_init(struct ft *ft)
{
	ft->p = (struct ckpt_primary){ .deadline = NS_NEVER, .last = ft->p.last, .no_precopy = ft->p.no_precopy };
	precopy_init(&ft->p.pre, &ft->cfg.precopy);
}

void pri_start(struct ft *ft, struct ft_ctx *c)
{
	ft_lease(ft, c, NS_NEVER);
	ft_net(ft, c, NEV_ROLE, ft->epoch, NET_ALONE);
	ft->p.phase = PRI_START;
	ft_do(ft, c, STEP_CONT, 0, ft->cfg.load_deadline);
	ft_set_state(ft, c, FT_ALONE, FT_WHY_NONE);
}

static void begin_memory(struct ft *ft, struct ft_ctx *c)
{
	ft->p.phase = PRI_ROUND;
	ft_net(ft, c, NEV_ROLE, ft->epoch, NET_PRIMARY);
	ft_do(ft, c, STEP_ROUND, ft->epoch, ft->cfg.staged_deadline);
}

void pri_sync(struct ft *ft, struct ft_ctx *c)
{
	if (ft->state != FT_ALONE || !ft->link || ft->p.phase != PRI_OFF || ft->leave != LEAVE_NO)
		return;
	if (share_busy(ft) || ft_claims(ft) || ft->still != STILL_NO)
		return;
	/* A worker that is still busy with an earlier peer's pages must not get in the way. */
	for (int i = 0; i < STEP_MAX; i++)
		if (ft->busy[i].on)
			return;
	pri_init(ft);
	ft->p.first = true;
	ft->p.dirty = UINT64_MAX;
	if (!ft->cfg.disks)
		begin_memory(ft, c);
	ft_set_state(ft, c, FT_SYNC, FT_WHY_NONE);
	ft_pause_joined(ft, c);
	if (ft->cfg.disks) {
		/* Hours, perhaps: until then the network is as it is without a peer. */
		ft->p.phase = PRI_RESYNC;
		ft_do(ft, c, STEP_RESYNC, ft->epoch, ft->cfg.staged_deadline);
	}
}

static bool urgent(enum ckpt_cause cause)
{
	switch (cause) {
	case CAUSE_FIRST:
	case CAUSE_MISMATCH:
	case CAUSE_OTHER:
	case CAUSE_HELD:
	case CAUSE_RESET:
	case CAUSE_DISK:
	case CAUSE_COMMAND:
	case CAUSE_PERIODIC:
		return true;
	default:
		return false;
	}
}

/* A VM that stands by an order is copied for these only; the others wait until it runs. */
static bool though_paused(enum ckpt_cause cause)
{
	return cause == CAUSE_COMMAND || cause == CAUSE_RESET || cause == CAUSE_DISK;
}

nstime pri_next(const struct ft *ft)
{
	const struct ckpt_primary *p = &ft->p;

	if (p->phase != PRI_IDLE || ft->parting || ft->busy[STEP_SEND].on)
		return NS_NEVER;
	if (ft->paused && !though_paused(p->wish))
		return NS_NEVER;
	if (urgent(p->wish))
		return p->loaded_at;
	if (p->last_round && p->wish == CAUSE_NONE)
		return NS_NEVER;
	if (p->wish != CAUSE_NONE || ft->cfg.checkpoint_delay < ft->cfg.min_interval)
		return ft_after(p->loaded_at, ft->cfg.min_interval);
	return ft_after(p->loaded_at, ft->cfg.checkpoint_delay);
}

nstime pri_next_round(const struct ft *ft)
{
	const struct ckpt_primary *p = &ft->p;

	if (p->phase != PRI_IDLE || p->no_precopy || ft->paused || ft->parting || ft->busy[STEP_SEND].on || ft->busy[STEP_PRECOPY].on)
		return NS_NEVER;
	return precopy_next(&p->pre, &ft->cfg.precopy);
}

static void begin_round(struct ft *ft, struct ft_ctx *c)
{
	precopy_begun(&ft->p.pre, c->now);
	ft_do(ft, c, STEP_PRECOPY, ft->epoch, ft->cfg.staged_deadline);
}

/* May a round be begun that is not due? */
static bool round_pays(const struct ft *ft, nstime now)
{
	return pri_next_round(ft) != NS_NEVER && precopy_worth(&ft->p.pre, &ft->cfg.precopy, now);
}

void pri_begin(struct ft *ft, struct ft_ctx *c, enum ckpt_cause cause)
{
	struct ckpt_primary *p = &ft->p;

	precopy_close(&p->pre);
	p->last_round = false;
	if (ft_waits(ft, STEP_PRECOPY)) {
		ft_give_up(ft, STEP_PRECOPY);
		precopy_cut(&p->pre);
	}
	p->n = ft->epoch;
	p->cause = cause;
	p->wish = CAUSE_NONE;
	p->disked = !ft->cfg.disks;
	p->drained = p->saved = p->copied = p->conted = p->staged = p->undoing = false;
	p->cur = (struct ckpt_times){ .n = p->n, .cause = cause, .begun = c->now };
	p->phase = PRI_GATE;
	p->deadline = ft_after(c->now, ft->cfg.gate_deadline);
	p->closed = true;
	ft_net(ft, c, NEV_CLOSE, p->n, 0);
}

static void begin_if_due(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	if (pri_next(ft) > c->now)
		return;
	if (p->wish == CAUSE_NONE && (ft_waits(ft, STEP_PRECOPY) || round_pays(ft, c->now))) {
		p->last_round = true;
		if (!ft_waits(ft, STEP_PRECOPY))
			begin_round(ft, c);
		return;
	}
	pri_begin(ft, c, p->wish != CAUSE_NONE ? p->wish : CAUSE_DELAY);
}

static void precopy_round_done(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	if (c->ev->rc == -ENOTSUP) {
		p->no_precopy = true;
		precopy_cut(&p->pre);
	} else if (c->ev->rc) {
		/* What was dirty is not known any more. */
		ft_part(ft, c, FT_WHY_STEP_FAILED, STEP_PRECOPY);
		return;
	} else {
		precopy_done(&p->pre, &ft->cfg.precopy, c->now, (uint32_t)c->ev->value, c->ev->value >> 32);
	}
	if (p->last_round)
		pri_begin(ft, c, p->wish != CAUSE_NONE ? p->wish : CAUSE_DELAY);
	else
		begin_if_due(ft, c);
}

void pri_want(struct ft *ft, struct ft_ctx *c, enum ckpt_cause cause)
{
	struct ckpt_primary *p = &ft->p;

	if (ft->parting || cause <= CAUSE_NONE || cause >= CAUSE_MAX)
		return;
	/* The first checkpoint answers every wish. */
	if (p->phase < PRI_IDLE || p->phase == PRI_UNWIND)
		return;
	if (p->wish == CAUSE_NONE || (urgent(cause) && !urgent(p->wish)) ||
	    (ft->paused && though_paused(cause) && !though_paused(p->wish)))
		p->wish = cause;
	begin_if_due(ft, c);
}

void pri_open_gate(struct ft *ft, struct ft_ctx *c)
{
	ft->p.closed = false;
	ft_net(ft, c, NEV_OPEN, ft->p.n, 0);
	ft->epoch = ft->p.n + 1;
}

/* Unwinding: as soon as QEMU has answered what it was asked, or will not. */
static void unwind_on(struct ft *ft, struct ft_ctx *c)
{
	if (ft_waits(ft, STEP_STOP) || ft_waits(ft, STEP_SAVE) || ft_waits(ft, STEP_COPY) || ft_waits(ft, STEP_CONT))
		return;
	ft->p.deadline = NS_NEVER;
	ft_do(ft, c, STEP_CONT, ft->p.n, ft->cfg.stop_deadline);
}

void pri_unwind(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	p->wish = CAUSE_NONE;
	switch (p->phase) {
	case PRI_OFF:
	case PRI_START:
	case PRI_UNWIND:
	case PRI_RESUME:
		return;
	case PRI_STOP:
	case PRI_COLLECT:
	case PRI_CONT:
	case PRI_ABORT:
		if (p->phase == PRI_ABORT && !p->closed) {
			p->phase = PRI_OFF;
			break;
		}
		p->phase = PRI_UNWIND;
		p->deadline = NS_NEVER;
		unwind_on(ft, c);
		break;
	default:
		if (p->closed)
			pri_open_gate(ft, c);
		p->phase = PRI_OFF;
		p->deadline = NS_NEVER;
		break;
	}
	/* These are the network's; whoever carries them out ends them when the link goes. */
	ft_no_limit(ft, STEP_RESYNC);
	ft_no_limit(ft, STEP_ROUND);
	ft_no_limit(ft, STEP_PRECOPY);
	ft_no_limit(ft, STEP_SEND);
	ft_no_limit(ft, STEP_AGAIN);
}

void pri_hung(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum ft_step step)
{
	if (!ft->link || ft->parting)
		return;
	if (ft->covered)
		ft_end(ft, c, why, step, FT_EXIT_PEER, CTL_PROMOTE);
	else if (ft->p.phase >= PRI_GATE)
		ft_part(ft, c, why, step);
	/* While it is only being read, a monitor that does not answer for a while does no harm. */
}

/* A step has failed: it is tried again, or a timeout is a hung QEMU, or protection ends. */
static void failed(struct ft *ft, struct ft_ctx *c)
{
	if (pri_abort(ft, c))
		return;
	if (c->ev->rc == -ETIMEDOUT && c->ev->step != STEP_ROUND && c->ev->step != STEP_PRECOPY &&
	    c->ev->step != STEP_SEND && c->ev->step != STEP_RESYNC && c->ev->step != STEP_DISK)
		pri_hung(ft, c, FT_WHY_STEP_FAILED, c->ev->step);
	else
		ft_part(ft, c, FT_WHY_STEP_FAILED, c->ev->step);
}

static void round_done(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;
	uint64_t before = p->dirty;

	if (c->ev->rc) {
		failed(ft, c);
		return;
	}
	p->rounds++;
	p->dirty = c->ev->value;
	/* A guest that dirties pages as fast as they are sent will not get better by waiting. */
	if (p->dirty <= ft->cfg.round_goal || p->rounds >= ft->cfg.max_rounds || p->dirty >= before - before / 8)
		pri_begin(ft, c, CAUSE_FIRST);
	else
		ft_do(ft, c, STEP_ROUND, ft->epoch, ft->cfg.staged_deadline);
}

static void stop_vm(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	p->cur.gate = c->now - p->cur.begun;
	p->phase = PRI_STOP;
	p->deadline = NS_NEVER;
	p->stop_sent = c->now;
	ft_do(ft, c, STEP_STOP, p->n, ft->cfg.stop_deadline);
	ft_say(ft, c, CTL_EPOCH_END, p->n, 0);
}

static void collect(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	p->stop_done = c->now;
	p->cur.stop = c->now - p->stop_sent;
	p->phase = PRI_COLLECT;
	p->deadline = ft_after(c->now, ft->cfg.gate_deadline);
	ft_net(ft, c, NEV_STOPPED, p->n, 0);
	/* The VM stands, and QEMU has taken the answer of each request: what comes next is of the next epoch. */
	if (ft->cfg.disks && !ft_fault(ft, FT_FAULT_DISK_LATE))
		ft_do(ft, c, STEP_DISK, p->n, ft->cfg.stop_deadline);
}

static void collected(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	if (p->drained)
		p->deadline = NS_NEVER;
	/* QEMU does one command after the other: cont may stand in line behind save, and need not wait for its answer. */
	if (!p->drained || !p->copied || !(p->disked || ft_fault(ft, FT_FAULT_DISK_LATE)) || !(p->saved || ft_waits(ft, STEP_SAVE)))
		return;
	p->phase = PRI_CONT;
	p->cont_sent = c->now;
	ft_do(ft, c, STEP_CONT, p->n, ft->cfg.stop_deadline);
}

static void release(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	p->staged_at = c->now;
	p->cur.staged = c->now - p->cont_done;
	p->phase = PRI_LOAD;
	p->deadline = ft_after(c->now, ft->cfg.loaded_deadline * (p->first ? FT_FIRST_FACTOR : 1));
	ft->covered = true;
	ft_net(ft, c, NEV_STAGED, p->n, 0);
}

static void send_rest(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	pri_open_gate(ft, c);
	if (!ft->rival) {
		/* From here on the peer can get all that it needs to take over. */
		ft->rival = true;
		ft_lease(ft, c, ft_after(ft->beat_sent ? ft->beat_sent : c->now, ft->cfg.lease));
	}
	ft_do(ft, c, STEP_SEND, p->n, NS_NEVER);
	if (ft->cfg.disks && ft_fault(ft, FT_FAULT_DISK_LATE))
		ft_do(ft, c, STEP_DISK, p->n, ft->cfg.stop_deadline);
	p->phase = PRI_STAGE;
	p->deadline = ft_after(c->now, ft->cfg.staged_deadline);
	if (p->staged)
		release(ft, c);
}

void pri_staged(struct ft *ft, struct ft_ctx *c, uint64_t n)
{
	struct ckpt_primary *p = &ft->p;

	if (p->phase < PRI_STOP || p->phase > PRI_STAGE || n != p->n || p->staged)
		return;
	p->staged = true;
	if (p->phase == PRI_STAGE)
		release(ft, c);
}

void pri_loaded(struct ft *ft, struct ft_ctx *c, uint64_t n)
{
	struct ckpt_primary *p = &ft->p;

	if (p->phase != PRI_LOAD || n != p->n)
		return;
	p->phase = PRI_IDLE;
	p->first = p->again = false;
	p->deadline = NS_NEVER;
	p->loaded_at = c->now;
	p->cur.loaded = c->now - p->staged_at;
	p->last = p->cur;
	ft->done[p->cause]++;
	ft->done_all++;
	/* The marker has arrived, so that the sending is as good as over; but it must be before the next begins. */
	if (ft->busy[STEP_SEND].on)
		ft->busy[STEP_SEND].deadline = ft_after(c->now, ft->cfg.staged_deadline);
	precopy_open(&p->pre, &ft->cfg.precopy, c->now);
	ft_net(ft, c, NEV_LOADED, n, 0);
	ft_act(ft, c, FA_CKPT_DONE)->n = n;
	if (ft->state == FT_SYNC)
		ft_set_state(ft, c, FT_PROTECTED, FT_WHY_NONE);
	if (ft_last_done(ft, c))
		return;
	if (ft->leave != LEAVE_NO && ft->leave < LEAVE_LAST_OFF)
		ft_end(ft, c, ft->leave == LEAVE_QUIT ? FT_WHY_QUIT : ft->leave == LEAVE_SWITCH ? FT_WHY_SWITCH : FT_WHY_COMMAND,
		       STEP_MAX, ft->leave == LEAVE_SWITCH ? FT_EXIT_REJOIN : FT_EXIT_OK, CTL_PROMOTE);
	else
		begin_if_due(ft, c);
}

void pri_net(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;
	bool mine = c->ev->n == p->n;

	switch (c->ev->value) {
	case NA_CUT:
		if (p->phase == PRI_GATE && mine)
			stop_vm(ft, c);
		break;
	case NA_DRAINED:
		if (p->phase != PRI_COLLECT || !mine || p->drained)
			break;
		p->drained = true;
		p->cur.drain = c->now - p->stop_done;
		/* Not before: as long as its output is being taken QEMU may go on transmitting, though the VM is stopped. */
		ft_do(ft, c, STEP_SAVE, p->n, ft->cfg.stop_deadline);
		ft_do(ft, c, STEP_COPY, p->n, ft->cfg.copy_deadline);
		collected(ft, c);
		break;
	case NA_WANT:
		/* Its events come in order: what it wanted before it drained n is answered by n. */
		if (p->phase != PRI_GATE && p->phase != PRI_STOP && !(p->phase == PRI_COLLECT && !p->drained))
			pri_want(ft, c, c->ev->cause);
		break;
	case NA_LIKELY:
		if (round_pays(ft, c->now))
			begin_round(ft, c);
		break;
	default:
		break;
	}
}

static void start_done(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->rc) {
		ft_end(ft, c, FT_WHY_STEP_FAILED, STEP_CONT, FT_EXIT_FAILED, CTL_QUIT);
		return;
	}
	ft->p.phase = PRI_OFF;
}

void pri_resume(struct ft *ft, struct ft_ctx *c)
{
	ft->p.phase = PRI_RESUME;
	ft->p.deadline = NS_NEVER;
	ft_do(ft, c, STEP_CONT, ft->epoch, ft->cfg.stop_deadline);
}

static void resume_done(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->rc)
		ft->p.deadline = ft_after(c->now, c->ev->rc == -ETIMEDOUT ? ft->cfg.stop_deadline : CONT_AGAIN);
	else
		ft->p.phase = PRI_OFF;
}

static void unwind_done(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	if (c->ev->step != STEP_CONT) {
		unwind_on(ft, c);
	} else if (c->ev->rc) {
		p->deadline = ft_after(c->now, c->ev->rc == -ETIMEDOUT ? ft->cfg.stop_deadline : CONT_AGAIN);
	} else {
		p->phase = PRI_OFF;
		pri_open_gate(ft, c);
	}
}

/* A VM that does not run must not look as if it did: cont is asked again, for as long as its deadline allows. */
static void cont_done(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	if (!c->ev->rc) {
		p->conted = true;
		p->cont_done = c->now;
		p->cur.cont = c->now - p->cont_sent;
		p->cur.pause = c->now - p->stop_sent;
		if (p->saved)
			send_rest(ft, c);
	} else if (c->ev->rc == -ETIMEDOUT || c->now - p->cont_sent >= ft->cfg.stop_deadline) {
		pri_hung(ft, c, FT_WHY_STEP_FAILED, STEP_CONT);
	} else {
		p->deadline = ft_after(c->now, CONT_AGAIN);
	}
}

void pri_done(struct ft *ft, struct ft_ctx *c)
{
	const struct ft_ev *ev = c->ev;
	struct ckpt_primary *p = &ft->p;

	if (ft_answered(ft, ev)) {
		if (p->phase == PRI_START && ev->step == STEP_CONT) {
			start_done(ft, c);
		} else if (p->phase == PRI_RESUME && ev->step == STEP_CONT) {
			resume_done(ft, c);
		} else if (p->phase == PRI_UNWIND && (ev->step == STEP_STOP || ev->step == STEP_SAVE ||
						      ev->step == STEP_COPY || ev->step == STEP_CONT)) {
			unwind_done(ft, c);
		} else if (p->phase == PRI_RESYNC && ev->step == STEP_RESYNC) {
			if (ev->rc)
				failed(ft, c);
			else
				begin_memory(ft, c);
		} else if (p->phase == PRI_ROUND && ev->step == STEP_ROUND) {
			round_done(ft, c);
		} else if (p->phase == PRI_CONT && ev->step == STEP_CONT) {
			cont_done(ft, c);
		} else if (p->phase == PRI_ABORT) {
			pri_abort_done(ft, c);
		} else if (p->phase >= PRI_STOP && p->phase <= PRI_STAGE && ev->rc) {
			failed(ft, c);
		} else if (p->phase == PRI_STOP && ev->step == STEP_STOP) {
			collect(ft, c);
		} else if ((p->phase == PRI_COLLECT || p->phase == PRI_CONT) && ev->step == STEP_SAVE) {
			p->saved = true;
			p->cur.save = c->now - p->stop_done;
			if (p->phase == PRI_COLLECT) {
				collected(ft, c);
			} else if (p->conted) {
				send_rest(ft, c);
			} else if (ft_waits(ft, STEP_CONT)) {
				/* Only now does QEMU begin with it. */
				p->cont_sent = c->now;
				ft->busy[STEP_CONT].deadline = ft_after(c->now, ft->cfg.stop_deadline);
			}
		} else if (p->phase == PRI_COLLECT && ev->step == STEP_DISK) {
			p->disked = true;
			collected(ft, c);
		} else if (p->phase == PRI_COLLECT && ev->step == STEP_COPY) {
			p->copied = true;
			p->cur.copy = c->now - p->stop_done;
			p->cur.pages = ev->value;
			precopy_paused(&p->pre, &ft->cfg.precopy, p->stop_done, ev->value);
			collected(ft, c);
		} else if (p->phase == PRI_IDLE && ev->step == STEP_PRECOPY) {
			precopy_round_done(ft, c);
		} else if (p->phase == PRI_IDLE && ev->step == STEP_SEND) {
			begin_if_due(ft, c);
		}
	}
	sec_forget(ft, c);
	pri_sync(ft, c);
}

void pri_progress(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	if (ft->parting)
		return;
	if (p->phase == PRI_ROUND)
		ft->busy[STEP_ROUND].deadline = ft_after(c->now, ft->cfg.staged_deadline);
	else if (p->phase == PRI_IDLE && ft_waits(ft, STEP_PRECOPY))
		ft->busy[STEP_PRECOPY].deadline = ft_after(c->now, ft->cfg.staged_deadline);
	else if ((p->phase == PRI_COLLECT || p->phase == PRI_UNWIND || p->phase == PRI_ABORT) && ft_waits(ft, STEP_COPY))
		/* More than the buffer holds is sent while the VM stands; that takes as long as the link needs. */
		ft->busy[STEP_COPY].deadline = ft_after(c->now, ft->cfg.copy_deadline);
	else if (p->phase == PRI_STAGE)
		p->deadline = ft_after(c->now, ft->cfg.staged_deadline);
	else if (p->phase == PRI_LOAD)
		p->deadline = ft_after(c->now, ft->cfg.loaded_deadline * (p->first ? FT_FIRST_FACTOR : 1));
}

/*
 * The guest writes on, so that bytes of the disks move all the time: they put off what only the disks do, and the way to
 * STAGED, which their marker has too, but that not for ever.
 */
void pri_disk_moved(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	if (ft->parting)
		return;
	if (p->phase == PRI_RESYNC)
		ft->busy[STEP_RESYNC].deadline = ft_after(c->now, ft->cfg.staged_deadline);
	else if (p->phase == PRI_STAGE && c->now - p->cont_done < STAGE_FACTOR * ft->cfg.staged_deadline)
		p->deadline = ft_after(c->now, ft->cfg.staged_deadline);
}

static void overdue(struct ft *ft, struct ft_ctx *c, enum ft_step step)
{
	ft_give_up(ft, step);
	if (ft->p.phase == PRI_START)
		ft_end(ft, c, FT_WHY_STEP_FAILED, step, FT_EXIT_FAILED, CTL_QUIT);
	else if (ft->p.phase == PRI_RESUME && step == STEP_CONT)
		pri_resume(ft, c);
	else if (ft->p.phase == PRI_UNWIND)
		unwind_on(ft, c);	/* a cont that comes to nothing is asked again, see ft.c */
	else if (step == STEP_ROUND || step == STEP_PRECOPY || step == STEP_SEND ||
		 step == STEP_AGAIN || step == STEP_RESYNC || step == STEP_DISK)
		ft_part(ft, c, FT_WHY_STEP_FAILED, step);
	else
		pri_hung(ft, c, FT_WHY_STEP_FAILED, step);
}

void pri_tick(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	/* One a call: whatever it leads to may have changed everything else; ft_deadline() asks for the next. */
	for (int i = 0; i < STEP_MAX; i++)
		if (ft->busy[i].on && ft->busy[i].deadline <= c->now) {
			overdue(ft, c, i);
			return;
		}
	if (p->deadline <= c->now) {
		p->deadline = NS_NEVER;
		if (p->phase == PRI_UNWIND)
			unwind_on(ft, c);
		else if (p->phase == PRI_RESUME)
			pri_resume(ft, c);
		else if (p->phase == PRI_CONT || p->phase == PRI_ABORT)
			ft_do(ft, c, STEP_CONT, p->n, ft->cfg.stop_deadline);
		else if (p->phase == PRI_STAGE || p->phase == PRI_LOAD)
			ft_part(ft, c, FT_WHY_STEP_FAILED, p->phase == PRI_STAGE ? STEP_SEND : STEP_LOAD);
		else if (p->phase == PRI_GATE || p->phase == PRI_COLLECT)
			pri_hung(ft, c, FT_WHY_STEP_FAILED, STEP_STOP);
		return;
	}
	begin_if_due(ft, c);
	if (pri_next_round(ft) <= c->now)
		begin_round(ft, c);
}
