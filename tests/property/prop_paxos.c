/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two nodes claim over two blocks (cluster/paxos), in random schedules: each step of each node at any time, a node
 * that dies between any two steps and starts again with what its block says, one that stands for as long as the other
 * one goes on, claims that expect what was true long ago.
 *
 *	prop_paxos [--seed S] [--count N] [--trace] [--faults]
 *
 * What must hold: number n of the history is the same for whoever knows it; generations grow; a record was claimed by its owner
 * as the follower of the one before it; what is granted stands in the history, what is lost had been overtaken; and a node that is
 * alone is through in a bounded number of steps. --faults plants each fault of PAXOS_FAULT_LIST in turn and must find it.
 * A violation is printed with the seed that replays it.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/paxos.h"

#define HISTORY		256	/* decisions in one schedule */
#define STEPS		600
#define ALONE		40	/* steps in which a node that is alone is through */

unsigned int paxos_fault;

struct node {
	bool up;
	struct paxos p;
	enum paxos_step step;
};

struct world {
	uint64_t rng;
	bool trace;
	struct paxos_block disk[2];
	struct node node[2];
	struct witness_record history[HISTORY];	/* [n]: number n as somebody knew it */
	uint64_t newest;
	bool claimed[2][HISTORY][HISTORY];	/* [owner][expected][next] */
	char bad[200];
};

static struct { uint64_t granted, lost, old, crashes, waits; } seen;

static uint32_t rnd(struct world *w, uint32_t n)
{
	uint64_t z = w->rng += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return (uint32_t)(((z ^ (z >> 31)) >> 32) * n >> 32);
}

static void bad(struct world *w, const char *what, unsigned int i)
{
	if (!*w->bad)
		snprintf(w->bad, sizeof(w->bad), "node %u: %s", i, what);
}

/* Somebody knows that number b->inst is b->chosen. */
static void known(struct world *w, unsigned int i, const struct paxos_block *b)
{
	struct witness_record *h;

	if (!b->inst)
		return;
	if (b->inst >= HISTORY || b->inst > w->newest + 1) {
		bad(w, "a number of the history was left out", i);
		return;
	}
	h = &w->history[b->inst];
	if (b->inst <= w->newest) {
		if (h->generation != b->chosen.generation || memcmp(h->owner, b->chosen.owner, WITNESS_ID_LEN))
			bad(w, "two values for one number of the history", i);
		return;
	}
	*h = b->chosen;
	w->newest = b->inst;
	if (h->owner[0] > 1 || h->generation >= HISTORY || h->generation <= h[-1].generation)
		bad(w, "a generation that does not grow", i);
	else if (!w->claimed[h->owner[0]][h[-1].generation][h->generation])
		bad(w, "a record that nobody has claimed as the follower of the one before", i);
}

static void answered(struct world *w, unsigned int i)
{
	struct node *n = &w->node[i];
	const struct witness_record *r = &n->p.own.chosen;

	known(w, i, &n->p.own);
	n->up = false;
	if (n->step == PAXOS_GRANTED) {
		seen.granted++;
		/* Not that it follows what was expected: it may have been granted before, as the follower of another. */
		if (r->generation != n->p.want.generation || r->owner[0] != i)
			bad(w, "granted, and the history says otherwise", i);
	} else if (n->step == PAXOS_LOST) {
		seen.lost++;
		if (r->generation <= n->p.expect)
			bad(w, "lost, and nobody is newer", i);
	} else {
		seen.old++;
		if (r->generation >= n->p.expect)
			bad(w, "old, and it is not", i);
	}
}

static void step(struct world *w, unsigned int i)
{
	struct node *n = &w->node[i];

	if (!n->up) {
		struct witness_record want = { .owner = { (uint8_t)i } };
		uint32_t now = paxos_known(&w->disk[0], &w->disk[1]).generation, expect = now;

		if (!rnd(w, 8))
			expect = rnd(w, now + 1);		/* long ago */
		else if (!rnd(w, 40))
			expect = now + 1 + rnd(w, 3);		/* the blocks have forgotten */
		want.generation = expect + 1 + !rnd(w, 4);
		if (want.generation >= HISTORY)
			return;
		w->claimed[i][expect][want.generation] = true;
		n->up = true;
		n->step = paxos_begin(&n->p, i, &w->disk[i], expect, &want);
		return;
	}
	if (!rnd(w, 40)) {
		seen.crashes++;
		n->up = false;
		return;
	}
	if (w->trace)
		printf("node %u step %d inst %" PRIu64 " ballot %" PRIu64 "\n", i, n->step, n->p.own.inst, n->p.ballot);
	if (n->step == PAXOS_WRITE) {
		w->disk[i] = n->p.own;
		known(w, i, &w->disk[i]);
		n->step = paxos_next(&n->p, NULL);
	} else if (n->step == PAXOS_READ) {
		n->step = paxos_next(&n->p, &w->disk[!i]);
	} else {
		seen.waits++;
		n->step = paxos_next(&n->p, NULL);
	}
	if (n->step > PAXOS_WAIT)
		answered(w, i);
}

/* Return: whether all was well */
static bool schedule(uint64_t seed, bool trace)
{
	struct world *w = calloc(1, sizeof(*w));
	unsigned int left = 0, who = 0;
	bool ok;

	w->rng = seed * 0x2545f4914f6cdd1dull;
	w->trace = trace;
	for (int i = 0; i < STEPS && !*w->bad; i++) {
		/* One goes on for a while and the other one stands: now for a step, now for a claim or two. */
		if (!left) {
			who = rnd(w, 2);
			left = rnd(w, 2) ? 1 : 1 + rnd(w, 25);
		}
		left--;
		step(w, who);
	}
	if (!*w->bad) {
		unsigned int n = 0;

		who = rnd(w, 2);
		w->node[!who].up = false;
		while (w->node[who].up && n++ < ALONE)
			step(w, who);
		if (w->node[who].up)
			bad(w, "alone, and not through", who);
	}
	ok = !*w->bad;
	if (!ok && !paxos_fault)
		printf("prop_paxos --seed %" PRIu64 " --count 1 --trace: %s\n", seed, w->bad);
	free(w);
	return ok;
}

static int faults(uint64_t seed, uint64_t count)
{
	static const char *const names[] = {
#define X(name) #name,
		"", PAXOS_FAULT_LIST(X)
#undef X
	};
	int missed = 0;

	for (paxos_fault = 1; paxos_fault < PAXOS_FAULTS; paxos_fault++) {
		uint64_t i = 0;

		while (i < count && schedule(seed + i, false))
			i++;
		printf("%-16s %s after %" PRIu64 " schedules\n", names[paxos_fault], i < count ? "found" : "NOT FOUND", i + (i < count));
		missed += i == count;
	}
	return missed ? 1 : 0;
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "seed", required_argument, NULL, 's' }, { "count", required_argument, NULL, 'c' },
		{ "trace", no_argument, NULL, 't' }, { "faults", no_argument, NULL, 'f' }, { 0 },
	};
	uint64_t seed = 1, count = 20000;
	bool trace = false, plant = false;
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'c')
			count = strtoull(optarg, NULL, 0);
		else if (c == 't')
			trace = true;
		else if (c == 'f')
			plant = true;
		else
			return 2;
	}
	if (plant)
		return faults(seed, count);
	for (uint64_t i = 0; i < count; i++)
		if (!schedule(seed + i, trace))
			return 1;
	printf("%" PRIu64 " schedules from seed %" PRIu64 ": %" PRIu64 " granted, %" PRIu64 " lost, %" PRIu64 " old, %" PRIu64
	       " crashes, %" PRIu64 " waits\n", count, seed, seen.granted, seen.lost, seen.old, seen.crashes, seen.waits);
	return 0;
}
