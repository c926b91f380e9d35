/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The control machine of one node: roles, promotion, lease.
 *
 * Goal: one VM, two nodes, exactly one of them heard (P5). This file decides which role a node has and what an event
 * means in it; how a checkpoint proceeds is in ckpt_primary.c and ckpt_secondary.c, which live in the same struct.
 *
 * It is a table, state x event -> function. What means nothing in a state is an explicit ignore(), so that a cell
 * can be looked up, documented and tested (ft_cell()).
 *
 *	INIT -> ALONE -> SYNC -> PROTECTED		a serving node; it falls back to ALONE when the peer is gone
 *	INIT -> JOINING -> STANDBY -> PROMOTING -> ALONE	a standby node; after a promotion it serves like any other
 *	... -> ENDED					one way; QEMU is killed first
 *
 * A node that was promoted takes a peer only when its memory is shared again (share.c).
 *
 * Promises:
 * - A node that serves stops serving before it says so: ft_end() takes the lease away and kills QEMU, then the
 *   message is sent (CTL_PROMOTE), then the link is closed.
 * - A secondary promotes when the primary's death is proven (its kernel closed the connections, or it said PROMOTE),
 *   else not before the last heartbeat that it has seen plus lease plus drift. JOINING never promotes.
 * - A primary emits until the send time of its last answered heartbeat plus lease, from the moment at which a peer
 *   can have become able to take over (rival); alone it has no limit.
 * - Parting: a primary that ends protection while its peer may be alive says ALONE and goes on holding output until
 *   the peer has hung up, or a lease has passed; if TOOK_OVER comes instead, the primary ends.
 * - `failover` on the secondary is a claim: it says CLAIM, answers no more heartbeats, and promotes when the primary's
 *   connections close or its lease must have run out. When CLAIM and ALONE cross, ALONE wins, on both sides.
 * - SIGTERM: a protected primary hands over (checkpoint, kill, PROMOTE; a second SIGTERM leaves the checkpoint out);
 *   an unprotected one ends the VM, which is what was asked for; a secondary says GONE and ends.
 * - Where the disks are shared (cfg.fence) a secondary that would promote has the peer fenced first (STEP_FENCE), for a
 *   process that is dead, or whose connections are closed, may have writes under way; only a peer that said PROMOTE has
 *   seen to that itself. Where nothing proves that it is dead it gets a lease more to go on alone. As long as the fence
 *   does not succeed the SVM stands and is not let out, and it is tried again after fence_retry and at each `failover`.
 * - Every wait has a deadline. The one that has no exit is a node that serves alone (or promotes, the peer being
 *   dead) and whose own QEMU does not answer cont: nobody else has the VM, so it is asked again and again and not
 *   killed.
 * - A peer whose heart beats while its work stands (STUCK) is told before it is judged: ALONE by a primary, which parts
 *   from it, CLAIM by a secondary.
 *
 * The order rule: an event that was waiting (a message, an answer) is given before a timer's (FE_SILENT, FE_STUCK,
 * FE_TICK), also when the timer's was queued before a freeze and the message came in it. A node that was frozen thus
 * learns from its messages first that it has lost.
 *
 * Control loop only. No I/O, no clock, no memory: time comes in, actions go out.
 */
#include <errno.h>

#include "core/ft_handlers.h"

#include <string.h>

struct ft_cell {
	ft_fn fn;
	const char *name;
};

static void ignore(struct ft *ft, struct ft_ctx *c)
{
}

/* INIT */

static void init_start(struct ft *ft, struct ft_ctx *c)
{
	if (c->ev->value && ft->cfg.role == FT_PRIMARY)
		ft->generation = (uint32_t)c->ev->value;
	if (ft->cfg.role == FT_PRIMARY)
		pri_start(ft, c);
	else
		sec_start(ft, c);
}

static void init_link_up(struct ft *ft, struct ft_ctx *c)
{
	ft->link = true;
	if (ft->cfg.role == FT_SECONDARY)
		ft->generation = (uint32_t)c->ev->value;
}

static void init_link_down(struct ft *ft, struct ft_ctx *c)
{
	ft->link = false;
}

static void init_dead(struct ft *ft, struct ft_ctx *c)
{
	ft_end(ft, c, c->ev->type == FE_QEMU_HUNG ? FT_WHY_QEMU_HUNG : FT_WHY_QEMU_DIED, STEP_MAX, FT_EXIT_FAILED,
	       ft->cfg.role == FT_PRIMARY ? CTL_QUIT : CTL_GONE);
}

static void init_quit(struct ft *ft, struct ft_ctx *c)
{
	ft_end(ft, c, FT_WHY_QUIT, STEP_MAX, FT_EXIT_OK, ft->cfg.role == FT_PRIMARY ? CTL_QUIT : CTL_GONE);
}

/* Any state */

static void set_delay(struct ft *ft, struct ft_ctx *c)
{
	ft->cfg.checkpoint_delay = c->ev->value;
}

static void ended_done(struct ft *ft, struct ft_ctx *c)
{
	ft_answered(ft, c->ev);
}

#define F(f)	{ f, #f }
#define NO	F(ignore)

/* For the meaning of the cells see the functions; FE_CTL branches further by the type of the message. */
static const struct ft_cell table[FT_STATE_MAX][FE_TYPE_MAX] = {
	[FT_INIT] = {
		[FE_START] = F(init_start), [FE_LINK_UP] = F(init_link_up), [FE_LINK_DOWN] = F(init_link_down),
		[FE_SILENT] = NO, [FE_STUCK] = NO, [FE_BEAT] = NO, [FE_QEMU_DIED] = F(init_dead),
		[FE_QEMU_HUNG] = F(init_dead), [FE_GUEST_OFF] = NO, [FE_GUEST_RESET] = NO,
		[FE_GUEST_PANIC] = NO, [FE_CTL] = NO, [FE_NET] = NO, [FE_BULK_BARRIER] = NO, [FE_PROGRESS] = NO,
		[FE_WANT] = NO, [FE_FULL] = NO, [FE_DISK_BARRIER] = NO, [FE_DISK_FAILED] = NO, [FE_DISK_MOVED] = NO, [FE_DONE] = NO, [FE_FAILOVER] = NO, [FE_SWITCH] = NO, [FE_QUIT] = F(init_quit),
		[FE_PAUSE] = NO, [FE_SET_DELAY] = F(set_delay), [FE_WITNESS] = F(ft_witness), [FE_TICK] = NO,
	},
	[FT_ALONE] = {
		[FE_START] = NO, [FE_LINK_UP] = F(ft_alone_link_up), [FE_LINK_DOWN] = F(ft_alone_link_down),
		[FE_SILENT] = F(ft_alone_silent), [FE_STUCK] = F(ft_alone_silent), [FE_BEAT] = NO,
		[FE_QEMU_DIED] = F(ft_alone_qemu_died), [FE_QEMU_HUNG] = NO,
		[FE_GUEST_OFF] = F(ft_alone_guest_off), [FE_GUEST_RESET] = NO, [FE_GUEST_PANIC] = F(ft_alone_panic),
		[FE_CTL] = F(ft_alone_ctl), [FE_NET] = NO, [FE_BULK_BARRIER] = NO, [FE_PROGRESS] = NO,
		[FE_WANT] = NO, [FE_FULL] = NO, [FE_DISK_BARRIER] = NO, [FE_DISK_FAILED] = F(ft_alone_disk_failed), [FE_DISK_MOVED] = NO, [FE_DONE] = F(ft_alone_done), [FE_FAILOVER] = NO, [FE_SWITCH] = NO,
		[FE_QUIT] = F(ft_alone_quit),
		[FE_PAUSE] = F(ft_serving_pause), [FE_SET_DELAY] = F(set_delay), [FE_WITNESS] = F(ft_witness), [FE_TICK] = F(ft_alone_timer),
	},
	[FT_SYNC] = {
		[FE_START] = NO, [FE_LINK_UP] = NO, [FE_LINK_DOWN] = F(ft_pair_link_down),
		[FE_SILENT] = F(ft_pair_silent), [FE_STUCK] = F(ft_pair_stuck), [FE_BEAT] = F(ft_pair_beat),
		[FE_QEMU_DIED] = F(ft_pair_qemu_died), [FE_QEMU_HUNG] = F(ft_pair_qemu_hung),
		[FE_GUEST_OFF] = F(ft_pair_guest_off), [FE_GUEST_RESET] = F(ft_pair_want),
		[FE_GUEST_PANIC] = F(ft_pair_panic), [FE_CTL] = F(ft_pair_ctl), [FE_NET] = F(pri_net), [FE_BULK_BARRIER] = NO,
		[FE_PROGRESS] = F(pri_progress), [FE_WANT] = F(ft_pair_want), [FE_FULL] = NO, [FE_DISK_BARRIER] = NO, [FE_DISK_FAILED] = F(ft_pair_disk_failed), [FE_DISK_MOVED] = F(pri_disk_moved), [FE_DONE] = F(ft_pair_done),
		[FE_FAILOVER] = NO, [FE_SWITCH] = NO, [FE_QUIT] = F(ft_sync_quit), [FE_PAUSE] = F(ft_serving_pause), [FE_SET_DELAY] = F(set_delay), [FE_WITNESS] = F(ft_witness),
		[FE_TICK] = F(ft_pair_timer),
	},
	[FT_PROTECTED] = {
		[FE_START] = NO, [FE_LINK_UP] = NO, [FE_LINK_DOWN] = F(ft_pair_link_down),
		[FE_SILENT] = F(ft_pair_silent), [FE_STUCK] = F(ft_pair_stuck), [FE_BEAT] = F(ft_pair_beat),
		[FE_QEMU_DIED] = F(ft_pair_qemu_died), [FE_QEMU_HUNG] = F(ft_pair_qemu_hung),
		[FE_GUEST_OFF] = F(ft_pair_guest_off), [FE_GUEST_RESET] = F(ft_pair_want),
		[FE_GUEST_PANIC] = F(ft_pair_panic), [FE_CTL] = F(ft_pair_ctl), [FE_NET] = F(pri_net), [FE_BULK_BARRIER] = NO,
		[FE_PROGRESS] = F(pri_progress), [FE_WANT] = F(ft_pair_want), [FE_FULL] = NO, [FE_DISK_BARRIER] = NO, [FE_DISK_FAILED] = F(ft_pair_disk_failed), [FE_DISK_MOVED] = F(pri_disk_moved), [FE_DONE] = F(ft_pair_done),
		[FE_FAILOVER] = F(ft_protected_failover), [FE_SWITCH] = F(ft_protected_switch), [FE_QUIT] = F(ft_protected_quit),
		[FE_PAUSE] = F(ft_serving_pause), [FE_SET_DELAY] = F(set_delay), [FE_WITNESS] = F(ft_witness), [FE_TICK] = F(ft_pair_timer),
	},
	[FT_JOINING] = {
		[FE_START] = NO, [FE_LINK_UP] = F(ft_joining_link_up), [FE_LINK_DOWN] = F(ft_joining_lost),
		[FE_SILENT] = F(ft_joining_lost), [FE_STUCK] = F(ft_joining_lost),
		[FE_BEAT] = F(ft_standby_beat), [FE_QEMU_DIED] = F(ft_standby_qemu_lost),
		[FE_QEMU_HUNG] = F(ft_standby_qemu_lost), [FE_GUEST_OFF] = NO, [FE_GUEST_RESET] = NO,
		[FE_GUEST_PANIC] = NO, [FE_CTL] = F(ft_joining_ctl), [FE_NET] = F(sec_net),
		[FE_BULK_BARRIER] = F(sec_bulk), [FE_PROGRESS] = F(sec_progress), [FE_WANT] = NO, [FE_FULL] = NO, [FE_DISK_BARRIER] = F(sec_disk),
		[FE_DISK_FAILED] = F(sec_disk), [FE_DISK_MOVED] = F(sec_disk_moved),
		[FE_DONE] = F(sec_done), [FE_FAILOVER] = NO, [FE_SWITCH] = NO, [FE_QUIT] = F(ft_standby_quit),
		[FE_PAUSE] = NO, [FE_SET_DELAY] = F(set_delay), [FE_WITNESS] = F(ft_witness), [FE_TICK] = F(ft_standby_timer),
	},
	[FT_STANDBY] = {
		[FE_START] = NO, [FE_LINK_UP] = NO, [FE_LINK_DOWN] = F(ft_standby_link_down),
		[FE_SILENT] = F(ft_standby_silent), [FE_STUCK] = F(ft_standby_stuck),
		[FE_BEAT] = F(ft_standby_beat), [FE_QEMU_DIED] = F(ft_standby_qemu_lost),
		[FE_QEMU_HUNG] = F(ft_standby_qemu_lost), [FE_GUEST_OFF] = F(ft_standby_guest),
		[FE_GUEST_RESET] = F(ft_standby_guest), [FE_GUEST_PANIC] = F(ft_standby_panic),
		[FE_CTL] = F(ft_standby_ctl), [FE_NET] = F(sec_net), [FE_BULK_BARRIER] = F(sec_bulk),
		[FE_PROGRESS] = F(sec_progress), [FE_WANT] = F(ft_standby_want), [FE_FULL] = F(ft_standby_full),
		[FE_DISK_BARRIER] = F(sec_disk), [FE_DISK_FAILED] = F(sec_disk), [FE_DISK_MOVED] = F(sec_disk_moved), [FE_DONE] = F(ft_standby_done),
		[FE_FAILOVER] = F(ft_standby_failover), [FE_SWITCH] = F(ft_standby_switch), [FE_QUIT] = F(ft_standby_quit),
		[FE_PAUSE] = F(ft_standby_pause), [FE_SET_DELAY] = F(set_delay), [FE_WITNESS] = F(ft_witness), [FE_TICK] = F(ft_standby_timer),
	},
	[FT_PROMOTING] = {
		[FE_START] = NO, [FE_LINK_UP] = NO, [FE_LINK_DOWN] = NO, [FE_SILENT] = NO, [FE_STUCK] = NO,
		[FE_BEAT] = NO, [FE_QEMU_DIED] = F(ft_standby_qemu_lost), [FE_QEMU_HUNG] = NO,
		[FE_GUEST_OFF] = F(ft_promoting_guest_off), [FE_GUEST_RESET] = NO, [FE_GUEST_PANIC] = F(ft_promoting_panic),
		[FE_CTL] = NO, [FE_NET] = NO, [FE_BULK_BARRIER] = NO, [FE_PROGRESS] = F(sec_progress),
		[FE_WANT] = NO, [FE_FULL] = NO, [FE_DISK_BARRIER] = NO, [FE_DISK_FAILED] = NO, [FE_DISK_MOVED] = NO, [FE_DONE] = F(ft_promoting_done), [FE_FAILOVER] = NO, [FE_SWITCH] = NO, [FE_QUIT] = F(ft_alone_quit),
		[FE_PAUSE] = F(ft_serving_pause), [FE_SET_DELAY] = F(set_delay), [FE_WITNESS] = F(ft_witness), [FE_TICK] = F(ft_promoting_timer),
	},
	[FT_FENCED] = {
		[FE_START] = NO, [FE_LINK_UP] = F(ft_fenced_link_up), [FE_LINK_DOWN] = F(ft_fenced_link_down),
		[FE_SILENT] = F(ft_fenced_silent), [FE_STUCK] = F(ft_fenced_silent), [FE_BEAT] = F(ft_pair_beat),
		[FE_QEMU_DIED] = F(ft_fenced_dead), [FE_QEMU_HUNG] = NO, [FE_GUEST_OFF] = F(ft_fenced_guest_off),
		[FE_GUEST_RESET] = NO, [FE_GUEST_PANIC] = F(ft_alone_panic), [FE_CTL] = F(ft_fenced_ctl), [FE_NET] = NO,
		[FE_BULK_BARRIER] = NO, [FE_PROGRESS] = F(pri_progress), [FE_WANT] = NO, [FE_FULL] = NO,
		[FE_DISK_BARRIER] = NO, [FE_DISK_FAILED] = F(ft_alone_disk_failed), [FE_DISK_MOVED] = NO,
		[FE_DONE] = F(ft_fenced_done), [FE_FAILOVER] = NO, [FE_SWITCH] = NO, [FE_QUIT] = F(ft_fenced_quit),
		[FE_PAUSE] = F(ft_serving_pause), [FE_SET_DELAY] = F(set_delay), [FE_WITNESS] = F(ft_witness), [FE_TICK] = F(ft_fenced_timer),
	},
	[FT_ENDED] = {
		[FE_START] = NO, [FE_LINK_UP] = NO, [FE_LINK_DOWN] = NO, [FE_SILENT] = NO, [FE_STUCK] = NO,
		[FE_BEAT] = NO, [FE_QEMU_DIED] = NO, [FE_QEMU_HUNG] = NO, [FE_GUEST_OFF] = NO,
		[FE_GUEST_RESET] = NO, [FE_GUEST_PANIC] = NO, [FE_CTL] = NO, [FE_NET] = NO,
		[FE_BULK_BARRIER] = NO, [FE_PROGRESS] = NO, [FE_WANT] = NO, [FE_FULL] = NO, [FE_DISK_BARRIER] = NO, [FE_DISK_FAILED] = NO, [FE_DISK_MOVED] = NO, [FE_DONE] = F(ended_done),
		[FE_FAILOVER] = NO, [FE_SWITCH] = NO, [FE_QUIT] = NO, [FE_PAUSE] = NO, [FE_SET_DELAY] = NO, [FE_WITNESS] = NO, [FE_TICK] = NO,
	},
};

const char *ft_cell(enum ft_state s, enum ft_ev_type e)
{
	if ((unsigned int)s >= FT_STATE_MAX || (unsigned int)e >= FE_TYPE_MAX)
		return NULL;
	return table[s][e].name;
}

void ft_step(struct ft *ft, nstime now, const struct ft_ev *ev, struct ft_acts *acts)
{
	struct ft_ctx c = { .now = now, .ev = ev, .acts = acts };
	struct ft_ev died = { .type = FE_QEMU_DIED };

	acts->n = 0;
	/* The end of the monitor, and of the memory, comes before the process's: a step that failed by it has not failed. */
	if (ev->type == FE_DONE && ev->rc == -ECONNRESET &&
	    (ev->step == STEP_STOP || ev->step == STEP_CONT || ev->step == STEP_SAVE || ev->step == STEP_LOAD ||
	     ev->step == STEP_ROUND || ev->step == STEP_PRECOPY || ev->step == STEP_COPY || ev->step == STEP_PAUSE))
		c.ev = ev = &died;
	/* What a connection that was closed has left behind counts nothing. */
	if (ev->type == FE_CTL && !ft->link)
		return;
	if (ev->type == FE_DONE && ft->state != FT_INIT && ft->state != FT_ENDED && ft_pause_answer(ft, &c))
		return;
	if ((unsigned int)ev->type < FE_TYPE_MAX)
		table[ft->state][ev->type].fn(ft, &c);
}

nstime ft_deadline(const struct ft *ft)
{
	nstime t = NS_NEVER;

	if (ft->state == FT_ENDED || ft->state == FT_INIT)
		return NS_NEVER;
	for (int i = 0; i < STEP_MAX; i++)
		if (ft->busy[i].on)
			t = ft_min(t, ft->busy[i].deadline);
	if (ft->parting || ft->leave == LEAVE_OFF)
		t = ft_min(t, ft->part_at);
	t = ft_min(t, ft->takeover_at);
	t = ft_min(t, ft->p.deadline);
	t = ft_min(t, ft->s.deadline);
	if (ft->state == FT_ALONE)
		t = ft_min(t, ft->share.deadline);
	t = ft_min(t, ft_ask_next(ft));
	return ft_min(t, ft_min(pri_next(ft), pri_next_round(ft)));
}

void ft_cfg_slow(struct ft_cfg *cfg, nstime qemu)
{
	nstime *const deadlines[] = { &cfg->gate_deadline, &cfg->copy_deadline, &cfg->staged_deadline,
				      &cfg->loaded_deadline, &cfg->load_deadline };
	nstime stop = cfg->stop_deadline;

	if (qemu <= stop)
		return;
	cfg->stop_deadline = qemu;
	for (size_t i = 0; i < sizeof(deadlines) / sizeof(deadlines[0]); i++)
		*deadlines[i] = *deadlines[i] / NS_PER_MS * (qemu / NS_PER_MS) / (stop / NS_PER_MS) * NS_PER_MS;
}

size_t ft_size(void)
{
	return sizeof(struct ft);
}

void ft_cfg_default(struct ft_cfg *cfg, enum ft_role role)
{
	*cfg = (struct ft_cfg){
		.role = role,
		.checkpoint_delay = 20 * NS_PER_S,
		.min_interval = 100 * NS_PER_MS,
		.gate_deadline = 1 * NS_PER_S,
		.stop_deadline = 3 * NS_PER_S,
		.copy_deadline = 5 * NS_PER_S,
		.staged_deadline = 5 * NS_PER_S,
		.loaded_deadline = 10 * NS_PER_S,
		.load_deadline = 5 * NS_PER_S,
		.lease = 500 * NS_PER_MS,
		.drift = 10 * NS_PER_MS,
		.share_after = 2 * NS_PER_S,
		.fence_retry = 10 * NS_PER_S,
		.witness_limit = 10 * NS_PER_S,
		.witness_retry = 250 * NS_PER_MS,
		.max_rounds = 10,
		.round_goal = 2000,
		.precopy = { .goal = 512, .min = 10 * NS_PER_MS, .max = 1 * NS_PER_S, .share = 4 },
	};
}

void ft_init(struct ft *ft, const struct ft_cfg *cfg, uint32_t generation)
{
	memset(ft, 0, sizeof(*ft));
	ft->cfg = *cfg;
	ft->failed = STEP_MAX;
	ft->generation = generation;
	ft->epoch = 1;
	ft->takeover_at = ft->ask_at = ft->alone_at = NS_NEVER;
	ft->reachable = true;
	ft->lease = FT_LEASE_UNSET;
	for (int i = 0; i < STEP_MAX; i++)
		ft->busy[i].deadline = NS_NEVER;
	pri_init(ft);
	sec_init(ft);
	ft->share.deadline = NS_NEVER;
	if (cfg->role == FT_SECONDARY)
		ft->share.phase = SHARE_DUE;
}

enum ft_memory ft_memory(const struct ft *ft)
{
	switch (ft->share.phase) {
	case SHARE_OFF:
		return FT_MEM_SHARED;
	case SHARE_FAILED:
		return FT_MEM_STUCK;
	case SHARE_DUE:
		return FT_MEM_PRIVATE;
	default:
		return FT_MEM_SHARING;
	}
}

enum ft_state ft_state(const struct ft *ft)
{
	return ft->state;
}

enum ft_reason ft_reason(const struct ft *ft)
{
	return ft->reason;
}

const char *ft_phase(const struct ft *ft)
{
	if (ft->state == FT_FENCED)
		return ft->still == STILL_DONE ? "stands" : "stopping";
	if (ft->suspect || ft_claims(ft))
		return "witness";
	if (ft->parting)
		return "parting";
	if (ft->state == FT_STANDBY && ft->fence == FENCE_RUNS)
		return "fence";
	if (ft->state == FT_STANDBY && ft->fence == FENCE_REFUSED)
		return "unfenced";
	if (ft->takeover_at != NS_NEVER)
		return "lease";
	if (ft->s.phase == SEC_IDLE && ft->s.held)
		return "full";
	if (ft->s.phase != SEC_OFF)
		return sec_phase_name(ft->s.phase);
	return pri_phase_name(ft->p.phase);
}

uint64_t ft_epoch(const struct ft *ft)
{
	return ft->epoch;
}

uint32_t ft_generation(const struct ft *ft)
{
	return ft->generation;
}

uint64_t ft_checkpoints(const struct ft *ft, enum ckpt_cause cause)
{
	return (unsigned int)cause < CAUSE_MAX ? ft->done[cause] : ft->done_all;
}

uint64_t ft_aborted(const struct ft *ft)
{
	return ft->aborted;
}

const struct ckpt_times *ft_last(const struct ft *ft)
{
	return &ft->p.last;
}

enum ft_step ft_failed_step(const struct ft *ft)
{
	return ft->failed;
}

uint64_t ft_refused(const struct ft *ft)
{
	return ft->refused;
}
