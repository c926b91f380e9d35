/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A checkpoint as the standby node takes it.
 *
 * Goal: at every moment this node can go on either from its own running SVM or from checkpoint n, never from a mix
 * (P3). The point between the two is the saying of STAGED n.
 *
 *	FILL	nothing is here yet (state JOINING); the SVM has never run
 *	IDLE	the SVM runs
 *	GATE	EPOCH_END n: NEV_CLOSE n; NA_CUT n
 *	STOP	stop the SVM
 *	COLLECT	NEV_STOPPED n; NA_DRAINED n, the barrier of n of the frames, the marker of n of the bulk connection, and the
 *		reservation that the marker begins. The channels are independent: each may also come before EPOCH_END n
 *	APPLY	STAGED n was said: drop the private pages, write n's; the disks flip to n beside it
 *	LOAD	device state
 *	MEND	what the load has touched; the staging area is forgotten
 *	CONT	NEV_LOADED n, cont; then NEV_OPEN n, LOADED n: IDLE in epoch n + 1
 *	RESTART	apply, load or mend has failed, or QEMU died in them: QEMU is started anew, and they are done again, once; with
 *		disks also before the first apply, since QEMU has seen them before they were made equal
 *	UNWIND	promoted before STAGED n: the SVM, stopped for EPOCH_END n, is continued as it stands
 *
 * ABORT n: the primary has given n up and tries again (ckpt_abort.c). It may find GATE, STOP or COLLECT. The SVM is
 * stopped for n as ever, and stays so; EPOCH_END n + 1 then finds that done, and what is left of COLLECT is the
 * barriers of n + 1. Those of n count nothing, since barriers are told by their number, and its marker never comes.
 * Between the two a promotion goes on from the SVM as it stands, as before STAGED of any n: nothing that the PVM said
 * after barrier n has left, and the log has the input. What is staged stays: n + 1 overwrites it.
 *
 * An SVM that has too many pages of its own (sec_full()) is stopped in IDLE, with the gate open, and stands until the
 * next checkpoint replaces it, or until a promotion has it run on. What is given to it meanwhile waits in QEMU, and is
 * given again by the log after the checkpoint, as always.
 *
 * Promotion (sec_promote()) before STAGED n: the staging area is forgotten (STEP_FORGET, when nobody works on it), the
 * SVM goes on. From STAGED n on: what is left of n is done first. net hears, in this order, as far as it applies:
 * NEV_LOADED n, NEV_PROMOTE, NEV_OPEN n. The epoch that follows is n + 1 in both cases.
 *
 * Deadlines: the own gate, stop, drain, apply, load, mend, cont overdue, or failed for good: the own QEMU is unusable;
 * the primary is told GONE or FAILED, QEMU is killed, Lockstep ends. Barriers that do not come although nothing moves
 * and the primary's heart beats: the primary would have given up long ago, so its control loop stands; this node
 * claims the role (ft_claim()). When the peer is dead already, cont is asked again and again (see ft.c).
 */
#include "core/ft_util.h"

#include <errno.h>

void sec_init(struct ft *ft)
{
	ft->s = (struct ckpt_secondary){ .deadline = NS_NEVER };
}

void sec_start(struct ft *ft, struct ft_ctx *c)
{
	ft->s.phase = SEC_FILL;
	ft_lease(ft, c, 0);
	ft_set_state(ft, c, FT_JOINING, FT_WHY_NONE);
	if (ft->link)
		ft_net(ft, c, NEV_ROLE, ft->epoch, NET_SECONDARY);
}

/* This node is of no use any more. */
static void fail(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum ft_step step)
{
	bool peer = ft->state == FT_STANDBY && ft->link && !ft->claimed;

	ft_end(ft, c, why, step, peer ? FT_EXIT_PEER : FT_EXIT_FAILED,
	       ft->s.phase >= SEC_APPLY || step == STEP_RESERVE ? CTL_FAILED : CTL_GONE);
}

static nstime first_longer(const struct ft *ft, nstime limit)
{
	return ft->state != FT_JOINING && !ft->s.first ? limit : limit * FT_FIRST_FACTOR;
}

/* What the primary may take from EPOCH_END to the end of its sending, as long as nothing moves. */
static nstime barriers_by(const struct ft *ft, nstime now)
{
	const struct ft_cfg *g = &ft->cfg;

	return ft_after(now, 2 * (g->gate_deadline + 3 * g->stop_deadline + g->copy_deadline + g->staged_deadline));
}

static void reserve(struct ft *ft, struct ft_ctx *c)
{
	ft_do(ft, c, STEP_RESERVE, ft->s.bulk_n, first_longer(ft, ft->cfg.copy_deadline));
}

static void apply(struct ft *ft, struct ft_ctx *c)
{
	ft->s.phase = SEC_APPLY;
	ft->s.applied = false;
	ft_do(ft, c, STEP_APPLY, ft->s.n, first_longer(ft, ft->cfg.copy_deadline));
}

static void flip(struct ft *ft, struct ft_ctx *c)
{
	ft->s.flipped = !ft->cfg.disks || ft_fault(ft, FT_FAULT_NO_FLIP);
	if (!ft->s.flipped)
		ft_do(ft, c, STEP_FLIP, ft->s.n, first_longer(ft, ft->cfg.copy_deadline));
}

static void load(struct ft *ft, struct ft_ctx *c)
{
	ft->s.phase = SEC_LOAD;
	ft_do(ft, c, STEP_LOAD, ft->s.n, ft->cfg.load_deadline);
}

/* APPLY: devices are loaded when memory and disks are what they were saved beside. */
static void applied(struct ft *ft, struct ft_ctx *c)
{
	if (ft->s.phase == SEC_APPLY && ft->s.applied && ft->s.flipped)
		load(ft, c);
}

static void restart(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum ft_step step)
{
	if (ft->s.restarted) {
		fail(ft, c, why, step);
		return;
	}
	ft->s.restarted = true;
	/* The old process answers nothing any more. */
	ft->busy[STEP_APPLY] = ft->busy[STEP_LOAD] = ft->busy[STEP_MEND] = (struct ft_busy){ .deadline = NS_NEVER };
	ft->s.phase = SEC_RESTART;
	ft_do(ft, c, STEP_RESTART, ft->s.n, ft->cfg.load_deadline);
}

/* COLLECT: is everything there? */
static void stage(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;
	bool all = s->drained && s->frames_n == s->n && s->bulk_n == s->n && s->reserved_n == s->n &&
		   (!ft->cfg.disks || s->disk_n == s->n);

	if (s->phase != SEC_COLLECT || s->aborted)
		return;
	if (!s->said && (all || (s->drained && ft_fault(ft, FT_FAULT_STAGED_EARLY)))) {
		s->said = true;
		ft_say(ft, c, CTL_STAGED, s->n, 0);
	}
	if (!all)
		return;
	s->deadline = NS_NEVER;
	s->first = ft->state == FT_JOINING;
	if (ft->state == FT_JOINING)
		ft_set_state(ft, c, FT_STANDBY, FT_WHY_NONE);
	flip(ft, c);
	if (s->first && ft->cfg.disks) {
		/* QEMU has looked at the disks when it was started, before they had this content: geometry is guessed from it. */
		s->phase = SEC_RESTART;
		ft_do(ft, c, STEP_RESTART, s->n, first_longer(ft, ft->cfg.load_deadline));
	} else if (s->early) {
		s->phase = SEC_APPLY;
		s->applied = !ft->busy[STEP_APPLY].on;
		applied(ft, c);
	} else {
		apply(ft, c);
	}
}

static void collect(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	s->phase = SEC_COLLECT;
	s->deadline = s->drained ? barriers_by(ft, c->now) : ft_after(c->now, ft->cfg.gate_deadline);
	stage(ft, c);
}

void sec_abort(struct ft *ft, struct ft_ctx *c, uint64_t n)
{
	struct ckpt_secondary *s = &ft->s;

	/* One that was STAGED cannot be given up any more: there is no such order of things, and n is what counts. */
	if ((s->phase != SEC_GATE && s->phase != SEC_STOP && s->phase != SEC_COLLECT) || n != s->n || s->said)
		return;
	s->aborted = true;
	if (s->phase == SEC_COLLECT && s->drained)
		s->deadline = barriers_by(ft, c->now);
	if (ft_fault(ft, FT_FAULT_ABORT_RUN) && s->phase == SEC_COLLECT && ft->state == FT_STANDBY)
		ft_do(ft, c, STEP_CONT, ft->epoch, ft->cfg.stop_deadline);
}

/* The checkpoint that was given up comes again as @n. */
static void try_again(struct ft *ft, struct ft_ctx *c, uint64_t n)
{
	struct ckpt_secondary *s = &ft->s;

	s->aborted = false;
	s->n = n;
	/* An SVM that has never run is in no epoch of its own. */
	if (ft->state == FT_JOINING)
		ft->epoch = n;
	if (s->phase == SEC_COLLECT && s->drained)
		s->deadline = barriers_by(ft, c->now);
	stage(ft, c);
}

void sec_epoch_end(struct ft *ft, struct ft_ctx *c, uint64_t n)
{
	struct ckpt_secondary *s = &ft->s;

	if (s->aborted && n == s->n + 1 && n <= FT_EPOCH_MAX) {
		try_again(ft, c, n);
		return;
	}
	/* Anything else is out of order; the primary gives up when STAGED n does not come. */
	if (s->phase != SEC_FILL && (s->phase != SEC_IDLE || n != ft->epoch))
		return;
	if (n < 1 || n > FT_EPOCH_MAX)
		return;
	s->n = n;
	s->gated = true;
	s->said = false;
	s->restarted = false;
	if (s->phase == SEC_FILL) {
		ft->epoch = n;
		s->drained = true;
		collect(ft, c);
		return;
	}
	s->drained = false;
	s->phase = SEC_GATE;
	s->deadline = ft_after(c->now, ft->cfg.gate_deadline);
	ft_net(ft, c, NEV_CLOSE, n, 0);
}

static void stopped(struct ft *ft, struct ft_ctx *c)
{
	ft_net(ft, c, NEV_STOPPED, ft->epoch, 0);
	collect(ft, c);
}

void sec_hold(struct ft *ft, struct ft_ctx *c)
{
	if (ft->s.phase != SEC_IDLE || ft->s.held)
		return;
	ft->s.held = true;
	ft_do(ft, c, STEP_STOP, ft->epoch, ft->cfg.stop_deadline);
}

void sec_want(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	/*
	 * Until the flip of n it is n that they want. What they want from then on is n + 1, and the primary is told when it
	 * can begin that. Others say again what they want, as long as they do.
	 */
	if (s->phase == SEC_IDLE && ft->link)
		ft_say(ft, c, CTL_WANT, ft->epoch, c->ev->cause);
	else if (s->phase >= SEC_APPLY && c->ev->cause == CAUSE_DISK)
		s->disk_wish = true;
}

void sec_full(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	/* In a checkpoint these pages are about to go. */
	if (s->phase != SEC_IDLE || s->held)
		return;
	sec_hold(ft, c);
	if (ft->link)
		ft_say(ft, c, CTL_WANT, ft->epoch, CAUSE_PRIVATE);
}

void sec_net(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;
	uint64_t n = c->ev->n;

	switch (c->ev->value) {
	case NA_CUT:
		if (s->phase != SEC_GATE || n != ft->epoch)
			break;
		s->phase = SEC_STOP;
		s->deadline = NS_NEVER;
		if (!s->held)
			ft_do(ft, c, STEP_STOP, n, ft->cfg.stop_deadline);
		else if (!ft_waits(ft, STEP_STOP))
			stopped(ft, c);
		break;
	case NA_DRAINED:
		if (s->phase != SEC_COLLECT || n != ft->epoch || s->drained)
			break;
		s->drained = true;
		collect(ft, c);
		break;
	case NA_BARRIER:
		s->frames_n = n;
		stage(ft, c);
		break;
	case NA_WANT:
		if (s->phase == SEC_IDLE && ft->link)
			ft_say(ft, c, CTL_WANT, ft->epoch, c->ev->cause);
		break;
	default:
		break;
	}
}

void sec_bulk(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	if (s->phase == SEC_OFF || s->phase > SEC_COLLECT || c->ev->n == s->bulk_n)
		return;
	s->bulk_n = c->ev->n;
	s->early = false;
	/* A reservation under way (never, with a primary that keeps the order) begins anew when it is answered. */
	if (!ft->busy[STEP_RESERVE].on)
		reserve(ft, c);
	if (ft_fault(ft, FT_FAULT_APPLY_EARLY) && !ft->busy[STEP_APPLY].on) {
		s->early = true;
		ft_do(ft, c, STEP_APPLY, s->bulk_n, NS_NEVER);
	}
}

void sec_disk(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	if (c->ev->type == FE_DISK_FAILED) {
		fail(ft, c, FT_WHY_DISK, STEP_MAX);
	} else if (s->phase != SEC_OFF && s->phase <= SEC_COLLECT) {
		if (c->ev->rc) {
			fail(ft, c, FT_WHY_DISK, STEP_RESERVE);
			return;
		}
		s->disk_n = c->ev->n;
		stage(ft, c);
	}
}

void sec_forget(struct ft *ft, struct ft_ctx *c)
{
	uint64_t n = ft->s.forget;

	if (!n || ft->busy[STEP_RESERVE].on || ft->busy[STEP_FORGET].on)
		return;
	ft->s.forget = 0;
	ft_do(ft, c, STEP_FORGET, n, NS_NEVER);
}

static void loaded(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	s->svm_off = false;
	s->svm_panic = FT_PANIC_RUN;
	s->phase = SEC_CONT;
	ft_net(ft, c, NEV_LOADED, s->n, 0);
	if (ft->state == FT_PROMOTING)
		ft_net(ft, c, NEV_PROMOTE, s->n, 0);
	ft_do(ft, c, STEP_CONT, s->n, ft->cfg.stop_deadline);
}

static void running(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	s->first = s->aborted = false;
	s->deadline = NS_NEVER;
	s->held = false;
	if (s->gated) {
		s->gated = false;
		ft_net(ft, c, NEV_OPEN, s->n, 0);
		ft->epoch = s->n + 1;
	}
	if (ft->state == FT_PROMOTING) {
		s->disk_wish = false;
		ft_served(ft, c);
		return;
	}
	s->phase = SEC_IDLE;
	if (ft->link)
		ft_say(ft, c, CTL_LOADED, s->n, s->restarted);
	/* It went while cont was being answered. */
	if (ft->link && (s->svm_off || s->svm_panic != FT_PANIC_RUN))
		ft_say(ft, c, CTL_WANT, ft->epoch, CAUSE_RESET);
	if ((ft->fence == FENCE_REFUSED && !ft->link) || ft->ask == ASK_WAIT)
		sec_hold(ft, c);
	if (ft->link && s->disk_wish)
		ft_say(ft, c, CTL_WANT, ft->epoch, CAUSE_DISK);
	s->disk_wish = false;
}

static void cont_unwind(struct ft *ft, struct ft_ctx *c)
{
	ft->s.deadline = NS_NEVER;
	ft_do(ft, c, STEP_CONT, ft->s.n, ft->cfg.stop_deadline);
}

static void stop_done(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	if (s->phase == SEC_UNWIND) {
		cont_unwind(ft, c);
	} else if ((s->phase == SEC_STOP || s->held) && c->ev->rc) {
		fail(ft, c, FT_WHY_STEP_FAILED, STEP_STOP);
	} else if (s->phase == SEC_STOP) {
		stopped(ft, c);
	}
}

static void cont_done(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	if (s->phase != SEC_CONT && s->phase != SEC_UNWIND)
		return;
	if (!c->ev->rc)
		running(ft, c);
	else if (ft->state == FT_PROMOTING)
		s->deadline = ft_after(c->now, c->ev->rc == -ETIMEDOUT ? ft->cfg.stop_deadline : 50 * NS_PER_MS);
	else
		fail(ft, c, FT_WHY_STEP_FAILED, STEP_CONT);
}

static void reserve_done(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	if (s->phase > SEC_COLLECT || ft->state == FT_PROMOTING) {
		sec_forget(ft, c);
	} else if (c->ev->n != s->bulk_n) {
		reserve(ft, c);
	} else if (c->ev->rc) {
		fail(ft, c, FT_WHY_STEP_FAILED, STEP_RESERVE);
	} else {
		s->reserved_n = c->ev->n;
		stage(ft, c);
	}
}

void sec_done(struct ft *ft, struct ft_ctx *c)
{
	const struct ft_ev *ev = c->ev;
	struct ckpt_secondary *s = &ft->s;

	if (!ft_answered(ft, ev))
		return;
	switch (ev->step) {
	case STEP_STOP:
		stop_done(ft, c);
		break;
	case STEP_CONT:
		cont_done(ft, c);
		break;
	case STEP_RESERVE:
		reserve_done(ft, c);
		break;
	case STEP_APPLY:
		if (s->phase == SEC_APPLY && ev->rc)
			restart(ft, c, FT_WHY_STEP_FAILED, STEP_APPLY);
		else if (s->phase == SEC_APPLY)
			s->applied = true;
		applied(ft, c);
		break;
	case STEP_FLIP:
		/* It was reserved: nothing of this node can be relied on. */
		if (ev->rc) {
			fail(ft, c, FT_WHY_DISK, STEP_FLIP);
			break;
		}
		s->flipped = true;
		applied(ft, c);
		break;
	case STEP_LOAD:
		if (s->phase == SEC_LOAD && ev->rc) {
			restart(ft, c, FT_WHY_STEP_FAILED, STEP_LOAD);
		} else if (s->phase == SEC_LOAD) {
			s->phase = SEC_MEND;
			ft_do(ft, c, STEP_MEND, s->n, first_longer(ft, ft->cfg.copy_deadline));
		}
		break;
	case STEP_MEND:
		if (s->phase == SEC_MEND && ev->rc)
			restart(ft, c, FT_WHY_STEP_FAILED, STEP_MEND);
		else if (s->phase == SEC_MEND)
			loaded(ft, c);
		break;
	case STEP_RESTART:
		if (s->phase == SEC_RESTART && ev->rc)
			fail(ft, c, FT_WHY_STEP_FAILED, STEP_RESTART);
		else if (s->phase == SEC_RESTART)
			apply(ft, c);
		break;
	default:
		break;
	}
}

void sec_progress(struct ft *ft, struct ft_ctx *c)
{
	static const enum ft_step slow[] = { STEP_RESERVE, STEP_APPLY, STEP_MEND };

	if (ft->s.phase == SEC_COLLECT && ft->s.drained)
		ft->s.deadline = barriers_by(ft, c->now);
	for (size_t i = 0; i < sizeof(slow) / sizeof(slow[0]); i++)
		if (ft_waits(ft, slow[i]) && ft->busy[slow[i]].deadline != NS_NEVER)
			ft->busy[slow[i]].deadline = ft_after(c->now, first_longer(ft, ft->cfg.copy_deadline));
}

/* What the primary's guest writes is always on its way; it is of interest only until the disks' part of n is here. */
void sec_disk_moved(struct ft *ft, struct ft_ctx *c)
{
	if (ft->s.phase == SEC_COLLECT && ft->s.drained && ft->s.disk_n != ft->s.n)
		ft->s.deadline = barriers_by(ft, c->now);
}

static void overdue(struct ft *ft, struct ft_ctx *c, enum ft_step step)
{
	struct ckpt_secondary *s = &ft->s;

	ft_give_up(ft, step);
	if (s->phase == SEC_UNWIND || (s->phase == SEC_CONT && ft->state == FT_PROMOTING)) {
		if (step == STEP_STOP || step == STEP_CONT)
			cont_unwind(ft, c);
	} else if (step == STEP_APPLY || step == STEP_LOAD || step == STEP_MEND) {
		restart(ft, c, FT_WHY_STEP_FAILED, step);
	} else if (step != STEP_RESERVE || ft->state != FT_PROMOTING) {
		fail(ft, c, FT_WHY_STEP_FAILED, step);
	}
}

void sec_tick(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;

	for (int i = 0; i < STEP_MAX; i++)
		if (ft->busy[i].on && ft->busy[i].deadline <= c->now) {
			overdue(ft, c, i);
			return;
		}
	if (s->deadline > c->now)
		return;
	s->deadline = NS_NEVER;
	if (s->phase == SEC_UNWIND || s->phase == SEC_CONT)
		cont_unwind(ft, c);
	else if (s->phase == SEC_COLLECT && s->drained && ft->state == FT_STANDBY)
		ft_claim(ft, c, FT_WHY_SILENT);
	else if (s->phase == SEC_COLLECT && s->drained)
		fail(ft, c, FT_WHY_SILENT, STEP_MAX);
	else
		fail(ft, c, FT_WHY_STEP_FAILED, STEP_STOP);
}

void sec_give_up(struct ft *ft, struct ft_ctx *c, enum ft_reason why)
{
	fail(ft, c, why, STEP_MAX);
}

void sec_qemu_lost(struct ft *ft, struct ft_ctx *c, enum ft_reason why)
{
	struct ckpt_secondary *s = &ft->s;

	if (s->phase == SEC_RESTART)
		return;
	if (s->phase == SEC_APPLY || s->phase == SEC_LOAD || s->phase == SEC_MEND)
		restart(ft, c, why, STEP_MAX);
	else
		fail(ft, c, why, STEP_MAX);
}

void sec_promote(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_secondary *s = &ft->s;
	bool old = s->phase <= SEC_COLLECT;

	if (ft_fault(ft, FT_FAULT_PROMOTE_STAGED) && s->phase < SEC_CONT)
		old = true;
	if (!old) {
		if (s->phase == SEC_CONT)
			ft_net(ft, c, NEV_PROMOTE, s->n, 0);
		return;
	}
	if (s->svm_off) {
		ft_end(ft, c, FT_WHY_GUEST_OFF, STEP_MAX, FT_EXIT_OK, CTL_TYPE_MAX);
		return;
	}
	if (s->svm_panic == FT_PANIC_OFF) {
		ft_end(ft, c, FT_WHY_GUEST_PANIC, STEP_MAX, FT_EXIT_PANIC, CTL_TYPE_MAX);
		return;
	}
	if (s->svm_panic == FT_PANIC_PAUSE && !ft->paused)
		ft_pause(ft, c, true);
	s->deadline = NS_NEVER;
	s->forget = ft->epoch;
	ft_no_limit(ft, STEP_RESERVE);
	ft_net(ft, c, NEV_PROMOTE, ft->epoch, 0);
	if (s->phase == SEC_IDLE && !s->held) {
		ft_served(ft, c);
	} else if (s->phase == SEC_GATE && !s->held) {
		running(ft, c);
	} else {
		s->phase = SEC_UNWIND;
		if (!ft_waits(ft, STEP_STOP))
			cont_unwind(ft, c);
	}
	sec_forget(ft, c);
}
