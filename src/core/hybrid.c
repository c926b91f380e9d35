/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Hybrid mode: theory of operation
 *
 * When the copies keep differing, comparing does not pay: a checkpoint follows the next, each asked for by an answer,
 * and the VM stands still for a good part of the time. So after hybrid_from checkpoints in a row that a difference has
 * caused, each within hybrid_gap of the LOADED before it, epochs become periodic: what differs waits, with all that came
 * before it, for the next checkpoint, and there is one every so often. What does agree still leaves at once, and while
 * nothing waits there is none.
 *
 * The interval, from LOADED to the next close of the gate, is such that the VM has run HYBRID_SHARE times as long as it
 * stood still in the last pause, within hybrid_min and hybrid_max: so it stands still for at most about a fourth of the
 * time however much a checkpoint has to carry, and a guest whose checkpoints are cheap answers fast.
 *
 * After try_for comparing is tried again. The first checkpoint after that decides: was it asked for by a difference,
 * and soon, hybrid mode comes back, and the next try takes twice as long (up to TRY_MAX times hybrid_try). Otherwise
 * comparing pays again. Pure; belongs to one struct net.
 */
#include "core/net_internal.h"

#define HYBRID_SHARE	3
#define TRY_MAX		16

void hybrid_reset(struct net *net)
{
	net->hyb = (struct hybrid){ .interval = net->cfg.hybrid_min, .try_for = net->cfg.hybrid_try };
}

void hybrid_closing(struct net *net)
{
	net->hyb.closed_at = net->now;
}

static void enter(struct net *net)
{
	struct hybrid *h = &net->hyb;

	h->on = true;
	h->since = net->now;
	if (h->trial && h->try_for < TRY_MAX * net->cfg.hybrid_try)
		h->try_for *= 2;
	h->trial = false;
	net->st.hybrid_entered++;
}

/* A difference was seen. Return: true when it has to wait for the next periodic checkpoint */
bool hybrid_waits(struct net *net)
{
	if (net->hyb.on)
		net->hyb.due = true;
	return net->hyb.on;
}

/* The barrier is placed; net->wanted still says what had asked for the checkpoint. */
void hybrid_barrier(struct net *net)
{
	const uint32_t difference = 1u << CAUSE_MISMATCH | 1u << CAUSE_OTHER;
	struct hybrid *h = &net->hyb;

	h->due = false;
	if (net->cfg.no_hybrid || h->on)
		return;
	if (net->wanted & difference && net->loaded_at && h->closed_at - net->loaded_at <= net->cfg.hybrid_gap)
		h->streak++;
	else
		h->streak = (net->wanted & difference) != 0;
	if (h->streak >= net->cfg.hybrid_from) {
		enter(net);
		return;
	}
	if (h->trial)
		h->try_for = net->cfg.hybrid_try;
	h->trial = false;
}

void hybrid_opened(struct net *net)
{
	net->hyb.pause = net->now - net->hyb.closed_at;
	net->hyb.opened_at = net->now;
}

void hybrid_loaded(struct net *net)
{
	struct hybrid *h = &net->hyb;
	nstime at = h->opened_at + HYBRID_SHARE * h->pause, wait = at > net->now ? at - net->now : 0;

	if (wait < net->cfg.hybrid_min)
		wait = net->cfg.hybrid_min;
	h->interval = wait > net->cfg.hybrid_max ? net->cfg.hybrid_max : wait;
}

void hybrid_timers(struct net *net)
{
	struct hybrid *h = &net->hyb;

	if (!h->on || net->role != NET_PRIMARY)
		return;
	if (net->now - h->since >= h->try_for) {
		h->on = false;
		h->trial = true;
		if (h->due)
			h->due = !net_want(net, CAUSE_MISMATCH);
		/* One more difference is enough. */
		h->streak = net->cfg.hybrid_from - 1;
		net->st.hybrid_left++;
		return;
	}
	if (net->loaded && h->due && net->now >= net->loaded_at + h->interval)
		net_want(net, CAUSE_PERIODIC);
}

nstime hybrid_deadline(const struct net *net)
{
	const struct hybrid *h = &net->hyb;
	nstime at;

	if (!h->on || net->role != NET_PRIMARY)
		return NS_NEVER;
	at = h->since + h->try_for;
	if (net->loaded && h->due && !(net->wanted & 1u << CAUSE_PERIODIC) && net->loaded_at + h->interval < at)
		at = net->loaded_at + h->interval;
	return at;
}
