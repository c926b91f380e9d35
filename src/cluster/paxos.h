/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_PAXOS_H
#define CLUSTER_PAXOS_H

#include <stdint.h>

#include "cluster/witness.h"

/*
 * Compare-and-swap of a witness's record by two nodes that share nothing but two blocks, each written by one node only.
 * Pure: says what is to be read and written next. The proof stands in paxos.c.
 */

#define PAXOS_MAX	(1ull << 62)	/* of instances and ballots: more than any life of a disk; a block with more is not one */

/* One node's block. All zero: never written. */
struct paxos_block {
	uint64_t inst;			/* records that have been decided, as far as this node knows */
	struct witness_record chosen;	/* the newest of them, number @inst */
	/* For the record after that, number @inst + 1: */
	uint64_t mbal;			/* highest ballot that this node has begun */
	uint64_t bal;			/* the ballot in which it accepted @inp, 0: none yet */
	struct witness_record inp;
};

#define PAXOS_FAULT_LIST(X) \
	X(SAME_BALLOTS)		/* both nodes use the same ballots */ \
	X(NOT_TOLD)		/* what the other block says is decided is not taken over */ \
	X(ACCEPTED_BLIND)	/* a higher ballot of the other node is not seen after a value is accepted */ \
	X(OLD_BALLOTS)		/* ballots of an instance that is over count */ \
	X(OWN_VALUE)		/* what the other node has accepted is passed over */ \
	X(NEW_VALUE)		/* ... or what this node has, before it died */

#ifdef LOCKSTEP_FAULTS
#define X(name) PAXOS_FAULT_##name,
enum paxos_fault { PAXOS_NO_FAULT, PAXOS_FAULT_LIST(X) PAXOS_FAULTS };
#undef X
extern unsigned int paxos_fault;	/* the test's */
#endif

enum paxos_step {
	PAXOS_WRITE,	/* write @own, durably, then paxos_next() with NULL */
	PAXOS_READ,	/* read the other's block, then paxos_next() with it */
	PAXOS_WAIT,	/* the other one is ahead: wait a random while, then paxos_next() with NULL */
	PAXOS_GRANTED,	/* own.chosen is what was wanted */
	PAXOS_LOST,	/* own.chosen is newer than what was expected */
	PAXOS_OLD,	/* own.chosen is older than what was expected: these blocks have forgotten something */
};

struct paxos {
	unsigned int slot;
	uint32_t expect;
	struct witness_record want;
	struct paxos_block own;		/* as it is to be on the disk; with GRANTED, LOST, OLD: chosen is the record */
	uint64_t ballot;
	int state;
};

/*
 * paxos_begin() - claim @want, which follows the record with generation @expect (0: none)
 * @slot: 0 or 1, differs between the two nodes
 * @own:  this node's block as it is on the disk now
 *
 * Return: the first step
 */
enum paxos_step paxos_begin(struct paxos *p, unsigned int slot, const struct paxos_block *own, uint32_t expect,
			    const struct witness_record *want);

/* paxos_next() - the step before has been done. @other: the block that was read after PAXOS_READ, else NULL */
enum paxos_step paxos_next(struct paxos *p, const struct paxos_block *other);

/* paxos_known() - the newest record that these two blocks say is decided; generation 0: none */
struct witness_record paxos_known(const struct paxos_block *a, const struct paxos_block *b);

#endif
