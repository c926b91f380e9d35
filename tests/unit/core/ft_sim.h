/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TEST_FT_SIM_H
#define TEST_FT_SIM_H

#include "core/ft_state.h"
#include "core/ring.h"

/*
 * Two control machines in a small world: a clock, connections with random latency (in order within each, not across),
 * heartbeats, a QEMU a node that does its steps in random times, and faults. It checks, at every action, what must
 * hold whatever happens (sim.c says what), and says at the end who serves. Deterministic for a seed.
 */

enum { SIM_EVENTS = 512 };

enum sim_kind { SIM_EV, SIM_BEAT, SIM_BULK, SIM_THAW };

struct sim_event {
	nstime at;
	uint64_t seq;
	int node;
	enum sim_kind kind;
	bool timer;		/* comes after everything else of the same time */
	uint32_t life;		/* of QEMU or of the link, which it belongs to */
	struct ft_ev ev;
};

struct sim_node {
	struct ft ft;
	struct ring *ring;	/* may be NULL */
	bool dead;		/* the process was killed, its QEMU with it */
	bool frozen;
	bool ended;
	bool was[FT_STATE_MAX];
	uint64_t exit;
	enum ft_reason why;
	/* QEMU */
	bool qemu, hung, running;
	uint32_t qemu_life;
	/* net */
	enum net_role role;
	bool closed;		/* gate */
	bool alone, promoted;
	nstime lease;
	uint64_t closed_n;
	/* checkpoint facts */
	uint64_t stopped_n, drained_n, saved_n, copied_n, marker_n, barrier_n, reserved_n;
	uint64_t staged_n, applied_n, loaded_n, mended_n, net_staged_n, net_loaded_n;
	uint64_t aborted_n, again_n;
	/* link */
	nstime last_at[3];	/* control, frames, bulk: so that each is in order */
	nstime heard;		/* last heartbeat */
	bool silent, muted;
};

struct sim {
	nstime now;
	uint64_t seq, seed, rng;
	struct sim_node n[2];
	bool link;
	uint32_t link_life;
	struct sim_event q[SIM_EVENTS];
	unsigned int used;
	uint64_t steps;		/* events given to a machine */
	int fail_node, fail_step, fail_rc, fail_times;	/* the next answers of this step; step -1: of those
							 * that are tried again, each as a coin falls */
	bool stall;		/* bulk connection moves nothing */
	bool cut_ok;		/* a cut link was planted: two may serve */
	bool verbose;
	char bad[256];		/* the first broken promise */
};

void sim_start(struct sim *s, uint64_t seed);
/* sim_step() - the next event; false: nothing is left, or a promise was broken */
bool sim_step(struct sim *s);
void sim_run(struct sim *s, nstime until);
void sim_give(struct sim *s, int node, const struct ft_ev *ev);
/* sim_post() - an event that comes in between: now, or, when the node is frozen, perhaps before its other mail */
void sim_post(struct sim *s, int node, const struct ft_ev *ev);
void sim_kill(struct sim *s, int node);		/* process and QEMU */
void sim_kill_qemu(struct sim *s, int node);
void sim_hang_qemu(struct sim *s, int node);
void sim_freeze(struct sim *s, int node, nstime how_long);
void sim_link_error(struct sim *s);		/* something was garbled: both see an error and the link closed */
bool sim_serves(const struct sim *s, int node);
uint64_t sim_rand(struct sim *s, uint64_t below);

#endif
