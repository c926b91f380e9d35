/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The witness, a link that is cut, and a node that is started anew: theory of operation
 *
 * In some schedules there is a witness: one record, {generation, owner}, and compare-and-swap on it. A question may be
 * lost on the way, its answer may be, and a question that nobody waits for any more may still arrive later; each node may
 * be cut off from it for a while. In the same schedules the link may be cut: in both directions or one, all of it, the
 * connections only, or the heartbeats only, for a while or for good; connections keep what they carry and deliver it when
 * the cut is over, unless their sender has closed them meanwhile: then what it said last may be gone, and the other side
 * sees them closed all the same (a reset). A node in a cut may also find that its connections have an error.
 *
 * A node that was killed may be started anew while the other one cannot be reached (a cold start). It asks the peer, waits
 * a lease and drift, and begins the VM only if the record is still its own and it is granted the next generation.
 *
 * The one assertion of all this is P5: at no moment may two nodes be heard, which is more than that no two are. A node may
 * be heard when it serves, or takes over, and its lease has not run out.
 */
#include <errno.h>

#include "sim_node.h"

#define RETRANSMIT	100000	/* us after a cut until what was sent in it arrives, at most */

void witness_draw(struct sim *s)
{
	/* Not drawn, so that the seeds without one stay what they were. */
	s->witness = s->seed % 5 < 2;
	s->cold.node = -1;
	if (!s->witness)
		return;
	s->record = (struct record){ .generation = 1, .owner = NODE_P };
	for (int i = 0; i < NODES; i++) {
		struct node *nd = &s->node[i];

		nd->fcfg.witness = FT_WITNESS_ASK;
		nd->fcfg.witness_retry = us(s, 5000, 80000);
		nd->fcfg.strict_death = s->seed % 4 == 0;
		ft_init(nd->ft, &nd->fcfg, 1);
		if (chance(s, 4000)) {
			nd->deaf_from = us(s, 0, 400000);
			nd->deaf_until = nd->deaf_from + us(s, 50000, 3000000);
		}
	}
	s->st->witnessed++;
}

/* Failures that only have a meaning, or an end, where somebody decides. */
void witness_failure(struct sim *s)
{
	static const uint8_t kinds[] = { FAIL_CUT, FAIL_CUT, FAIL_CUT, FAIL_CUT_ONE, FAIL_CUT_ONE, FAIL_CUT_DATA, FAIL_CUT_DATA,
					 FAIL_CUT_BEATS, FAIL_SWITCH, FAIL_FREEZE, FAIL_FREEZE };
	struct failure *f = &s->fail;

	if (!s->witness || f->kind == FAIL_NONE || f->kind == FAIL_STEP)
		return;
	if (chance(s, 6000)) {
		f->kind = kinds[rnd(s, sizeof(kinds))];
		if (f->kind == FAIL_FREEZE)
			f->span = us(s, 300000, chance(s, 5000) ? 1500000 : 20000000);
	} else if ((f->kind == FAIL_KILL || f->kind == FAIL_POWER) && f->node == NODE_P && chance(s, 6000)) {
		s->cold.wanted = true;
	}
}

/* ---- the witness ---- */

static bool deaf(const struct sim *s, const struct node *nd)
{
	return s->now >= nd->deaf_from && s->now < nd->deaf_until;
}

/* Return: what @id is told, if it is told anything */
static int swap(struct sim *s, int id, uint64_t generation)
{
	struct record *r = &s->record;

	if (r->generation + 1 == generation) {
		*r = (struct record){ .generation = generation, .owner = id };
		TR(s, "==== the witness grants generation %lu to node %s", (unsigned long)generation, who(&s->node[id]));
		s->st->granted++;
		return 0;
	}
	if (r->generation == generation && (r->owner == id || s->world_faults & WORLD_NOT_OWNER))
		return 0;
	s->st->lost_claims++;
	return -ESTALE;
}

void witness_step(struct sim *s, struct node *nd, struct step_run *r)
{
	if (deaf(s, nd) || chance(s, 500)) {
		r->rc = -EIO;
		if (chance(s, 3000))
			sim_at(s, s->now + us(s, 1000, 500000), EV_WITNESS, nd->id, (uint16_t)s->lives, (uint32_t)r->n, NULL);
		s->st->unknown_claims++;
		return;
	}
	r->rc = swap(s, nd->id, r->n);
	if (chance(s, 700)) {
		r->rc = -EIO;
		s->st->unknown_claims++;
	}
}

/* A question that was given up arrives all the same. */
void witness_late(struct sim *s, int id, uint16_t life, uint32_t generation)
{
	if (s->lives == life)
		swap(s, id, generation);
}

/* ---- who may be heard ---- */

static bool may_speak(struct sim *s, int id)
{
	struct node *nd = &s->node[id];
	enum ft_state st = ft_state(nd->ft);

	if (s->cold.serves && s->cold.node == id)
		return true;
	return node_up(s, id) && node_now(s, id) <= nd->lease && !nd->hold && st != FT_STANDBY && st != FT_JOINING && st != FT_INIT;
}

/* Node @id is heard, or could be from now on. */
void witness_heard(struct sim *s, int id)
{
	if (s->witness && may_speak(s, 0) && may_speak(s, 1))
		sim_fail(s, "P5", "node %s is heard, and both may be heard: P %s, S %s, record %lu of node %s", who(&s->node[id]),
			 ft_state_name(ft_state(s->node[0].ft)), ft_state_name(ft_state(s->node[1].ft)),
			 (unsigned long)s->record.generation, who(&s->node[s->record.owner]));
}

/* ---- cuts ---- */

bool cut_now(const struct sim *s, int from, enum cut_what what)
{
	return s->cut[from].what & what && s->now >= s->cut[from].at && s->now < s->cut[from].until;
}

/* When what @from sends now can arrive at the earliest. */
nstime cut_over(struct sim *s, int from, nstime at)
{
	if (!cut_now(s, from, CUT_DATA))
		return at;
	return s->cut[from].until == NS_NEVER ? s->now + 3600 * NS_PER_S : s->cut[from].until + us(s, 1000, RETRANSMIT);
}

void cut_begin(struct sim *s, enum fail_kind kind, int node)
{
	nstime until = chance(s, 3000) ? NS_NEVER : s->now + us(s, 20000, chance(s, 5000) ? 150000 : 3000000);
	uint8_t what = kind == FAIL_CUT_DATA ? CUT_DATA : kind == FAIL_CUT_BEATS ? CUT_BEATS : CUT_DATA | CUT_BEATS;
	int only = kind == FAIL_CUT_ONE || (kind != FAIL_CUT && chance(s, 3000)) ? node : -1;

	for (int i = 0; i < NODES; i++) {
		if (only < 0 || only == i)
			s->cut[i] = (struct cut){ .what = what, .at = s->now, .until = until };
		if (what & CUT_DATA && chance(s, 5000))
			sim_at(s, s->now + us(s, 0, chance(s, 5000) ? 20000 : 2000000), EV_LINKERR, i, 0, 0, NULL);
	}
	s->cut_ever = true;
}

/* ---- cold start ---- */

void cold_failed(struct sim *s)
{
	int id = s->fail.node;
	struct node *peer = &s->node[1 - id];

	if (!s->cold.wanted || (s->fail.kind != FAIL_KILL && s->fail.kind != FAIL_POWER) ||
	    (ft_state(s->node[id].ft) != FT_PROTECTED && ft_state(s->node[id].ft) != FT_ALONE) || ft_claims(s->node[id].ft))
		return;
	s->cold.wanted = false;
	s->cold.node = id;
	s->cold.generation = ft_generation(s->node[id].ft);
	s->cold.begun = s->now + us(s, 1000, chance(s, 7000) ? 300000 : 2000000);
	for (int i = 0; i < NODES; i++)
		s->cut[i] = (struct cut){ .what = CUT_DATA | CUT_BEATS, .at = s->now + us(s, 300, 10000), .until = NS_NEVER };
	s->cut_ever = true;
	if (chance(s, 6000)) {
		peer->deaf_from = s->now;
		peer->deaf_until = s->now + us(s, 100000, 2000000);
	}
	if (chance(s, 3000))
		peer->frozen_until = s->now + us(s, 100000, 3000000);
	sim_at(s, s->cold.begun, EV_COLD, 1 - id, 0, 0, NULL);
	s->st->cold_starts++;
}

void cold_event(struct sim *s)
{
	struct cold *c = &s->cold;
	nstime wait = 510 * NS_PER_MS;
	bool reached;

	if (c->node < 0 || c->serves)
		return;
	reached = node_up(s, 1 - c->node) && !cut_now(s, 0, CUT_DATA) && !cut_now(s, 1, CUT_DATA);
	if (reached) {
		c->node = -1;
		return;
	}
	if (s->now >= c->begun + wait && !chance(s, 1000) &&
	    (s->record.owner == c->node || s->record.generation < c->generation) && s->record.generation == c->generation) {
		swap(s, c->node, c->generation + 1);
		c->serves = true;
		c->until = s->now + 3 * NS_PER_S;
		s->st->cold_served++;
		TR(s, "==== node %s, started anew, serves", who(&s->node[c->node]));
		witness_heard(s, c->node);
		return;
	}
	sim_at(s, s->now + us(s, 5000, 50000), EV_COLD, 1 - c->node, 0, 0, NULL);
}
