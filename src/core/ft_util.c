/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the control machine's files share: actions are appended to the caller's list, steps are kept in a table of
 * what is under way, one entry a step with its n and its deadline, so that an answer that nobody asked for or that
 * comes too late is told from one that counts.
 */
#include "core/ft_util.h"

#include <string.h>

struct ft_act *ft_act(struct ft *ft, struct ft_ctx *c, enum ft_act_type type)
{
	struct ft_act *a = &c->acts->a[c->acts->n];

	/* Never so; but an action too many is to be counted and not written beyond the end. */
	if (c->acts->n >= FT_MAX_ACTS)
		ft->refused++;
	else
		c->acts->n++;
	memset(a, 0, sizeof(*a));
	a->type = type;
	a->step = STEP_MAX;
	return a;
}

void ft_say(struct ft *ft, struct ft_ctx *c, enum ctl_type type, uint64_t n, uint64_t value)
{
	struct ft_act *a = ft_act(ft, c, FA_CTL);

	a->ctl.type = type;
	a->ctl.generation = ft->generation;
	a->ctl.n = n;
	a->ctl.value = value;
}

void ft_net(struct ft *ft, struct ft_ctx *c, enum net_ev_type type, uint64_t n, uint64_t value)
{
	struct ft_act *a = ft_act(ft, c, FA_NET);

	a->net = type;
	a->n = n;
	a->value = value;
}

void ft_lease(struct ft *ft, struct ft_ctx *c, nstime until)
{
	if (ft->lease == until)
		return;
	ft->lease = until;
	ft_act(ft, c, FA_LEASE)->value = until;
}

void ft_do(struct ft *ft, struct ft_ctx *c, enum ft_step step, uint64_t n, nstime limit)
{
	struct ft_act *a = ft_act(ft, c, FA_DO);

	a->step = step;
	a->n = n;
	ft->busy[step] = (struct ft_busy){ .on = true, .n = n, .deadline = ft_after(c->now, limit) };
}

bool ft_waits(const struct ft *ft, enum ft_step step)
{
	return ft->busy[step].on && !ft->busy[step].late;
}

bool ft_answered(struct ft *ft, const struct ft_ev *ev)
{
	struct ft_busy *b;
	bool waited;

	if ((unsigned int)ev->step >= STEP_MAX)
		return false;
	b = &ft->busy[ev->step];
	if (!b->on || b->n != ev->n)
		return false;
	waited = !b->late;
	*b = (struct ft_busy){ .deadline = NS_NEVER };
	return waited;
}

void ft_give_up(struct ft *ft, enum ft_step step)
{
	ft->busy[step].late = true;
	ft->busy[step].deadline = NS_NEVER;
}

void ft_no_limit(struct ft *ft, enum ft_step step)
{
	ft->busy[step].deadline = NS_NEVER;
}

void ft_set_state(struct ft *ft, struct ft_ctx *c, enum ft_state s, enum ft_reason why)
{
	ft->state = s;
	ft->reason = why;
	ft_act(ft, c, FA_ANNOUNCE)->reason = why;
}

void ft_end(struct ft *ft, struct ft_ctx *c, enum ft_reason why, enum ft_step step, enum ft_exit status,
	    enum ctl_type say)
{
	struct ft_act *a;

	/* Who has asked the witness may have been granted the VM: its word that it is gone would be worth nothing. */
	if (ft->ask != ASK_NO && (say == CTL_GONE || say == CTL_FAILED))
		say = CTL_TYPE_MAX;
	ft_lease(ft, c, 0);
	ft_act(ft, c, FA_KILL_QEMU);
	if (ft->link) {
		if (say != CTL_TYPE_MAX)
			ft_say(ft, c, say, ft->epoch, say == CTL_FAILED ? (uint64_t)step : (uint64_t)why);
		ft_act(ft, c, FA_DROP_LINK);
	}
	ft->link = false;
	ft->parting = ft->suspect = false;
	ft->ask = ASK_NO;
	ft->takeover_at = NS_NEVER;
	ft->failed = step;
	for (int i = 0; i < STEP_MAX; i++)
		if (ft->busy[i].on)
			ft_give_up(ft, i);
	ft->p.phase = PRI_OFF;
	ft->s.phase = SEC_OFF;
	ft_set_state(ft, c, FT_ENDED, why);
	a = ft_act(ft, c, FA_END);
	a->reason = why;
	a->step = step;
	a->value = status;
}
