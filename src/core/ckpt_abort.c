/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A checkpoint that has failed and is tried again, as the serving node does it: theory of operation
 *
 * When saving, copying or sending fails after the stop, the marks of the pages that were written are gone already, and
 * what the SVM said in epoch n is dropped: nothing can be taken up where it was. So n is given up (ABORT n), and what
 * belongs to it rides on n + 1, which begins at once:
 *
 *	- the pages: STEP_AGAIN n has the memory worker add all that were taken for n to what is to be sent, also those
 *	  that were sent;
 *	- the PVM's output: net goes on holding what epoch n has held, and STAGED n + 1 lets out both;
 *	- the cause: it is that of n + 1, and answers every wish that came meanwhile.
 *
 * The VM runs in between, for as long as closing the gate takes: its QEMU answers what it was asked first, then cont
 * and STEP_AGAIN go side by side, then the gate is opened (epoch n + 1). A failed sending finds the VM running already.
 *
 * The SVM stays stopped, at its end of epoch n; it runs on from there only by promotion. The barrier of n has arrived
 * or will, which means nothing without its marker, and a failed STEP_SEND has sent none (ft.h). So n can never become
 * STAGED, and what is staged of it needs no forgetting: n + 1 brings each of these pages once more, on the same
 * connection, and the latest is what counts. (To forget it on ABORT's word, which comes on another connection, could
 * drop pages of n + 1.)
 *
 * The first checkpoint of a peer is tried again in the same way: nothing about it is different, and the alternative
 * costs the whole synchronisation.
 *
 * A second failure in a row ends protection, in all else the deadlines and exits of ckpt_primary.c hold: a QEMU that is
 * dead or hangs, and a link that is lost, are not tried again.
 */
#include "core/ft_util.h"

#include <errno.h>

/* What another try cannot mend: QEMU hangs or is dead, the link is lost. */
static bool hopeless(int rc)
{
	return rc == -ETIMEDOUT || rc == -ECONNRESET || rc == -EPIPE;
}

static void go_on(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;

	if (ft_waits(ft, STEP_SAVE) || ft_waits(ft, STEP_COPY) || ft_waits(ft, STEP_DISK))
		return;
	if (!p->undoing) {
		p->undoing = true;
		if (!ft_fault(ft, FT_FAULT_ABORT_DROP_PAGES))
			ft_do(ft, c, STEP_AGAIN, p->n, ft->cfg.copy_deadline);
		if (p->closed && !ft_waits(ft, STEP_CONT)) {
			p->cont_sent = c->now;
			ft_do(ft, c, STEP_CONT, p->n, ft->cfg.stop_deadline);
		}
	}
	if (!p->closed && !ft_waits(ft, STEP_AGAIN))
		pri_begin(ft, c, p->cause);
}

bool pri_abort(struct ft *ft, struct ft_ctx *c)
{
	struct ckpt_primary *p = &ft->p;
	enum ft_step step = c->ev->step;
	bool paused = (p->phase == PRI_COLLECT || p->phase == PRI_CONT) && (step == STEP_SAVE || step == STEP_COPY);
	struct ft_act *a;

	if ((!paused && !(p->phase == PRI_STAGE && step == STEP_SEND)) || p->again || hopeless(c->ev->rc))
		return false;
	p->phase = PRI_ABORT;
	p->deadline = NS_NEVER;
	p->again = true;
	ft->aborted++;
	a = ft_act(ft, c, FA_CKPT_ABORT);
	a->n = p->n;
	a->step = step;
	ft_say(ft, c, CTL_ABORT, p->n, step);
	if (ft_fault(ft, FT_FAULT_ABORT_RELEASE))
		ft_net(ft, c, NEV_STAGED, p->n, 0);
	if (p->closed && p->conted)
		pri_open_gate(ft, c);
	go_on(ft, c);
	return true;
}

void pri_abort_done(struct ft *ft, struct ft_ctx *c)
{
	const struct ft_ev *ev = c->ev;
	struct ckpt_primary *p = &ft->p;

	switch (ev->step) {
	case STEP_CONT:
		if (!ev->rc) {
			pri_open_gate(ft, c);
		} else if (ev->rc == -ETIMEDOUT || c->now - p->cont_sent >= ft->cfg.stop_deadline) {
			pri_hung(ft, c, FT_WHY_STEP_FAILED, STEP_CONT);
			return;
		} else {
			p->deadline = ft_after(c->now, CONT_AGAIN);
			return;
		}
		break;
	case STEP_AGAIN:
		if (ev->rc) {
			ft_part(ft, c, FT_WHY_STEP_FAILED, STEP_AGAIN);
			return;
		}
		break;
	default:
		/* The other one of the two that were under way: its failure loses nothing that is not given up anyway. */
		if (ev->step == STEP_DISK && ev->rc) {
			ft_part(ft, c, FT_WHY_STEP_FAILED, STEP_DISK);
			return;
		}
		if (ev->rc == -ETIMEDOUT) {
			pri_hung(ft, c, FT_WHY_STEP_FAILED, ev->step);
			return;
		}
	}
	go_on(ft, c);
}
