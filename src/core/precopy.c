/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Pre-copy between checkpoints: theory of operation
 *
 * A pause has to copy what was written since the last scan. Between checkpoints rounds scan, arm again, copy and send
 * while the VM runs; so the pause finds what was written since the last round, whatever the time since the last
 * checkpoint and the size of the guest.
 *
 * Rounds cost: a walk over the page tables, a fault for each page that is written again, and the link. So they are
 * paced by the rate at which pages become dirty. `rate` follows what rounds find; the interval is the time in which a
 * goal's worth of pages becomes dirty, within min and max, and never so short that rounds take more than their share of
 * the time. A guest that writes little has a round every max, which finds next to nothing; one that writes as fast as
 * rounds can copy is limited by the share.
 *
 * Pages that are found dirty in every round ("hot": stacks, counters, rings) are not sent by a round: they would be
 * sent for nothing, since the pause has to copy them all the same. They do not count for the rate either, so a small
 * set that is always dirty does not bring on rounds that are of no use.
 *
 * A checkpoint that only time brings on has a round right before it, where that spares it more than the goal
 * (precopy_worth()). One that somebody waits for does not wait for a round; but where a difference is
 * likely the frames' machine says so when a request comes in, and the round is begun then.
 *
 * Not done: rounds while a checkpoint is under way, from its gate to LOADED. The staging area belongs to one checkpoint
 * at a time, and a second one would take the secondary's memory twice for a few milliseconds of advance.
 */
#include "core/precopy.h"

static nstime clamp(nstime t, nstime low, nstime high)
{
	return t < low ? low : t > high ? high : t;
}

/* What was found in so long; new weighs as much as all that was before. */
static void learn(struct precopy *p, const struct precopy_cfg *cfg, nstime since, nstime now, uint64_t pages)
{
	nstime took = now > since ? now - since : 1;
	uint64_t rate;

	if (took < NS_PER_MS)
		return;
	rate = pages > UINT64_MAX / NS_PER_S ? UINT64_MAX / NS_PER_S : pages * NS_PER_S / took;
	p->rate = p->rate ? p->rate / 2 + rate / 2 : rate;
	p->interval = p->rate ? clamp((uint64_t)cfg->goal * NS_PER_S / p->rate, cfg->min, cfg->max) : cfg->max;
}

void precopy_init(struct precopy *p, const struct precopy_cfg *cfg)
{
	*p = (struct precopy){ .interval = cfg->max };
}

void precopy_open(struct precopy *p, const struct precopy_cfg *cfg, nstime now)
{
	p->on = !cfg->off;
	if (!p->ended_at)
		p->ended_at = now;
}

void precopy_close(struct precopy *p)
{
	p->on = false;
}

nstime precopy_next(const struct precopy *p, const struct precopy_cfg *cfg)
{
	nstime at, rest;

	if (!p->on || p->under_way)
		return NS_NEVER;
	at = p->scanned_at + p->interval;
	rest = p->ended_at + p->took * (cfg->share - 1);
	return at > rest ? at : rest;
}

bool precopy_worth(const struct precopy *p, const struct precopy_cfg *cfg, nstime now)
{
	nstime age = now > p->scanned_at ? now - p->scanned_at : 0;

	if (!p->on || p->under_way || !p->rate)
		return false;
	return age >= NS_PER_S ? p->rate >= cfg->goal : p->rate * age / NS_PER_S >= cfg->goal;
}

void precopy_begun(struct precopy *p, nstime now)
{
	p->under_way = true;
	p->begun_at = now;
}

void precopy_cut(struct precopy *p)
{
	p->under_way = false;
}

void precopy_done(struct precopy *p, const struct precopy_cfg *cfg, nstime now, uint64_t dirty, uint64_t hot)
{
	if (!p->under_way)
		return;
	p->under_way = false;
	p->ended_at = now;
	p->took = now > p->begun_at ? now - p->begun_at : 0;
	learn(p, cfg, p->scanned_at, p->begun_at, dirty > hot ? dirty - hot : 0);
	p->scanned_at = p->begun_at;
}

void precopy_paused(struct precopy *p, const struct precopy_cfg *cfg, nstime at, uint64_t dirty)
{
	/* What rounds had left to it tells nothing about the rate; without rounds it is all that there is to learn from. */
	if (p->scanned_at && p->scanned_at < at && p->begun_at < p->scanned_at)
		learn(p, cfg, p->scanned_at, at, dirty);
	p->scanned_at = p->ended_at = at;
}
