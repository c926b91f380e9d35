/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which of the two nodes this one is: theory of operation
 *
 * The state decides, not the command line. A node that has had the VM (alone, pair, ended), or has never had it and was
 * told --primary, may begin it; every other one is a secondary. Before it begins, it asks the peer:
 *
 *	the peer serves			this node begins anew, as its secondary, also when it was told --primary
 *	the peer would begin, too	the newer one does: the higher generation, then who was alone, or was ended, before who
 *					was one of a pair; --primary counts least. The other one begins anew, as its secondary
 *	the peer is a secondary		this node begins
 *	it cannot be reached		this node begins when nobody else can have the VM: without a witness that keeps a record when
 *					it was alone, was ended, or is new; with one when the record says that its generation is the newest.
 *					Else it waits, and says for what
 *
 * With a witness the beginning is a claim as well, and comes no earlier than a lease and drift after the start of this
 * process: whoever was served by this node's life before has been silent for so long, and who would take over has asked.
 *
 * The file of the state is written here, after each step of the control machine and before its actions are carried out:
 * what a generation is worth is decided by the witness, not by the file. A file that is behind as `standby` does no harm but to
 * make a node wait that need not; one that is behind as `alone` would, which is why a failure to write it is an error in the log.
 *
 * Control loop.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "node_internal.h"

#define AGAIN_NS	(1 * NS_PER_S)	/* between two questions before the VM is begun */

static void on_answer(void *arg, const struct witness_result *r);

static void on_health(void *arg, bool reachable, const char *why)
{
	struct ft_ev ev = { .type = FE_WITNESS, .value = reachable };
	struct node *n = arg;

	if (reachable)
		log_note("the witness can be reached");
	else
		log_warn("the witness cannot be reached: %s", why);
	node_health_witness(n, witness_kind_name(n->o->witness.kind), !reachable);
	if (n->started)
		node_event(n, &ev);
}

int node_role_open(struct node *n, struct err *e)
{
	const struct nodestate_record *r;

	n->role = n->o->role;
	n->state = nodestate_open(n->o->state_dir, n->o->name, e);
	if (!n->state)
		return e->code;
	r = nodestate_get(n->state);
	n->generation = r->generation ? r->generation : 1;
	if (r->mode == NODESTATE_NEW && !n->o->force_primary)
		return 0;
	n->role = r->mode == NODESTATE_STANDBY && !n->o->force_primary ? RUN_SECONDARY : RUN_PRIMARY;
	log_note("this node was of the VM before: mode=%s generation=%u", nodestate_mode_name(r->mode), r->generation);
	if (n->o->role == RUN_PRIMARY && n->role != RUN_PRIMARY)
		log_note("--primary counts for the very first start only: this node was the other one's secondary, and is so again");
	return 0;
}

int node_role_start(struct node *n, struct err *e)
{
	struct witness_cfg cfg = { .spec = n->o->witness, .connects = n->o->peer.n, .loop = n->control, .done = on_answer,
				   .health = on_health, .arg = n };

	if (n->o->witness.kind == WITNESS_NONE)
		return 0;
	snprintf(cfg.name, sizeof(cfg.name), "%s", n->o->name);
	memcpy(cfg.me, nodestate_get(n->state)->id, sizeof(cfg.me));
	n->witness = witness_open(&cfg, e);
	if (!n->witness)
		return e->code;
	/* Nothing is told of it before there is a machine to tell of. */
	n->witness_kind = witness_kind_name(n->o->witness.kind);
	return 0;
}

void node_role_cfg(const struct node *n, struct ft_cfg *cfg)
{
	cfg->witness = n->o->witness.kind == WITNESS_NONE ? FT_WITNESS_NONE : FT_WITNESS_ASK;
	cfg->strict_death = n->o->strict_death;
	if (!n->witness)
		return;
	cfg->witness_retry = witness_retry_pause(n->witness);
	cfg->witness_limit = (n->o->witness.kind == WITNESS_COMMAND ? WITNESS_DEF_COMMAND : WITNESS_DEF_TIMEOUT) + NS_PER_S;
}

void node_role_end(struct node *n)
{
	witness_close(n->witness);
	n->witness = NULL;
	nodestate_close(n->state);
	n->state = NULL;
}

static void set_state(struct node *n, uint32_t generation, enum nodestate_mode mode)
{
	struct err e = { 0 };

	if (nodestate_set(n->state, generation, mode, &e) < 0)
		log_error("%s: should this node be started again it takes itself for what it was before", e.msg);
}

void node_role_note(struct node *n)
{
	enum nodestate_mode was = nodestate_get(n->state)->mode;
	uint32_t g = ft_generation(n->ft);

	/* What is not granted is not this node's. */
	if (ft_claims(n->ft))
		return;
	switch (ft_state(n->ft)) {
	case FT_ALONE:
	case FT_PROMOTING:
		set_state(n, g, NODESTATE_ALONE);
		break;
	case FT_SYNC:
	case FT_PROTECTED:
		set_state(n, g, NODESTATE_PAIR);
		break;
	case FT_JOINING:
	case FT_STANDBY:
		if (n->linked || ft_state(n->ft) == FT_STANDBY)
			set_state(n, g, NODESTATE_STANDBY);
		break;
	case FT_ENDED:
		set_state(n, nodestate_get(n->state)->generation, nodestate_after(was, ft_reason(n->ft)));
		break;
	default:
		break;
	}
}

void node_role_claim(struct node *n, uint64_t generation)
{
	struct witness_claim c = { .expect = (uint32_t)generation - 1, .next = (uint32_t)generation };
	struct ft_ev ev = { .type = FE_DONE, .step = STEP_WITNESS, .n = generation, .rc = -EBUSY };

	snprintf(c.reason, sizeof(c.reason), "%s", ft_reason_name(ft_reason(n->ft)));
	snprintf(c.peer, sizeof(c.peer), "%.*s", (int)sizeof(c.peer) - 1, n->peer_text);
	n->claim_n = generation;
	n->claim = n->witness ? witness_claim(n->witness, &c) : 0;
	if (!n->claim)
		node_event(n, &ev);
}

/* Before the VM is begun. */

void node_role_yield(struct node *n, const char *why)
{
	log_note("the VM is not begun here: %s", why);
	loop_timer_del(n->control, &n->ask);
	n->asking = false;
	vm_kill(n->vm);
	set_state(n, nodestate_get(n->state)->generation, NODESTATE_STANDBY);
	node_give_up(n, FT_EXIT_REJOIN);
}

/* Said once for each sentence. */
static void waits(struct node *n, const char *for_what)
{
	if (n->waits_for != for_what)
		log_note("the VM is not begun yet: %s (--force-primary begins it: say so only if no other node has it)", for_what);
	n->waits_for = for_what;
	loop_timer_set(n->control, &n->ask, clock_ns() + AGAIN_NS);
}

static void begin(struct node *n, uint32_t generation)
{
	nstime due = n->started_at + n->o->timeout + n->drift;

	n->begin_as = generation;
	/* Who had proof that this node, in its life before, was dead has asked by now, and goes first. */
	if (n->witness && clock_ns() < due) {
		loop_timer_set(n->control, &n->ask, due);
		return;
	}
	n->asking = false;
	loop_timer_del(n->control, &n->ask);
	node_begin(n);
}

static void claim(struct node *n, uint32_t expect, uint32_t next)
{
	struct witness_claim c = { .expect = expect, .next = next, .reason = "cold start" };

	snprintf(c.peer, sizeof(c.peer), "%.*s", (int)sizeof(c.peer) - 1, n->o->peer.text);
	n->question_next = next;
	n->question = witness_claim(n->witness, &c);
	if (!n->question)
		waits(n, "the witness has too many questions open");
}

/* The peer cannot be reached, or is a secondary: may the VM begin here? */
static void decide(struct node *n)
{
	const struct nodestate_record *r = nodestate_get(n->state);
	bool free = n->peer_yields || n->o->force_primary;

	if (n->begin_as) {
		begin(n, n->begin_as);
	} else if (n->question) {
		loop_timer_set(n->control, &n->ask, clock_ns() + AGAIN_NS);
	} else if (n->peer_unknown && !free && !(n->witness && witness_keeps_record(n->o->witness.kind))) {
		waits(n, "somebody answers at the peer's address who has another key, and may have the VM");
	} else if (!n->witness || !witness_keeps_record(n->o->witness.kind)) {
		if (free || nodestate_alone_begins(r->mode))
			begin(n, r->generation ? r->generation : 1);
		else
			waits(n, "the peer cannot be reached, and it could have taken over when this node ended; the peer would decide");
	} else {
		n->question = witness_look(n->witness);
		if (!n->question)
			waits(n, "the witness has too many questions open");
	}
}

void node_role_asked(struct node *n, bool peer_yields)
{
	if (!n->asking)
		return;
	n->peer_yields |= peer_yields;
	if (n->began_asking && !(peer_yields && n->o->witness.kind == WITNESS_NONE))
		return;
	n->began_asking = true;
	decide(n);
}

void node_role_again(struct node *n)
{
	n->began_asking = true;
	decide(n);
}

static void looked(struct node *n, const struct witness_record *w)
{
	const struct nodestate_record *r = nodestate_get(n->state);
	bool mine = !memcmp(w->owner, r->id, sizeof(r->id));

	if (n->peer_yields || n->o->force_primary)
		claim(n, w->generation, (w->generation > r->generation ? w->generation : r->generation) + 1);
	else if (!w->generation && r->mode == NODESTATE_NEW)
		claim(n, 0, 1);
	else if (!w->generation)
		waits(n, "the witness has no record of this VM, which has run before; the peer would decide");
	else if (mine && w->generation >= r->generation && r->mode != NODESTATE_STANDBY)
		claim(n, w->generation, w->generation + 1);
	else if (mine)
		waits(n, "this node's state is newer than the witness's, or it has none; the peer would decide");
	else
		waits(n, "the witness says that the other node has it; it would decide");
}

static void on_answer(void *arg, const struct witness_result *r)
{
	struct node *n = arg;

	if (r->ticket == n->claim) {
		struct ft_ev ev = { .type = FE_DONE, .step = STEP_WITNESS, .n = n->claim_n };

		ev.rc = r->answer == WITNESS_GRANTED ? 0 : r->answer == WITNESS_LOST ? -ESTALE : -EAGAIN;
		n->claim = 0;
		if (ev.rc)
			log_warn("generation %llu is not granted: %s", (unsigned long long)n->claim_n, r->why);
		else
			log_note("the witness has granted generation %llu took_ms=%.1f", (unsigned long long)n->claim_n,
				 (double)r->took / NS_PER_MS);
		node_event(n, &ev);
		return;
	}
	if (r->ticket != n->question || !n->asking)
		return;
	n->question = 0;
	if (r->answer == WITNESS_GRANTED)
		begin(n, n->question_next);
	else if (r->answer == WITNESS_RECORD)
		looked(n, &r->record);
	else if (r->answer == WITNESS_LOST)
		waits(n, "the witness has just granted it to the other node; it would decide");
	else
		waits(n, "neither the peer nor the witness answers; either would decide");
}

int node_role_meets(struct node *n, const struct hello *peer, struct err *e)
{
	const struct nodestate_record *r = nodestate_get(n->state);
	static const int rank[NODESTATE_MODES] = { [NODESTATE_NEW] = 0, [NODESTATE_STANDBY] = 1, [NODESTATE_PAIR] = 2,
						   [NODESTATE_ENDED] = 3, [NODESTATE_ALONE] = 4 };
	int mine, theirs;

	if (!n->asking) {
		if (peer->role == FT_SECONDARY)
			return 0;
		return err_set(e, -EINVAL, "both nodes are primary: this node serves the VM already (generation %u); start the other one "
			       "without --primary, and it becomes the secondary", n->generation);
	}
	if (peer->role == FT_SECONDARY && n->o->witness.kind == WITNESS_NONE)
		return 0;
	if (peer->role == FT_SECONDARY) {
		n->peer_yields = true;
		if (!n->began_asking)
			node_role_again(n);
		return err_set(e, -EAGAIN, "this node is about to begin the VM");
	}
	mine = rank[r->mode];
	theirs = peer->mode < NODESTATE_MODES ? rank[peer->mode] : 0;
	if (!peer->begun && (r->generation > peer->generation || (r->generation == peer->generation && mine > theirs)))
		return err_set(e, -EINVAL, "both nodes would begin the VM, and this one has the newer state (generation %u, %s)",
			       r->generation, nodestate_mode_name(r->mode));
	if (!peer->begun && r->generation == peer->generation && mine == theirs)
		return err_set(e, -EINVAL, "both nodes are primary: neither has the newer state, so start one of them without --primary");
	/* It is not refused with the word that this node serves, for it does not. */
	pair_set(n->pair, FT_SECONDARY, n->generation);
	node_role_yield(n, peer->begun ? "the peer serves it already" : "the peer has the newer state");
	return err_set(e, -EAGAIN, "this node has the older state, and becomes the secondary");
}
