/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Compare-and-swap over two blocks: theory of operation
 *
 * Two nodes share a disk, of which nothing is assumed but this: a block that is written is either the old one or the
 * new one for whoever reads it, and once a write has been answered every read that begins later sees it. There is no
 * lock manager (a block device that two hosts see has none), and clocks prove nothing: a node may stand for an hour
 * between any two steps, or die there and start again with what its block says.
 *
 * That is the setting of Disk Paxos (Gafni and Lamport, Distributed Computing 16, 2003), here with one disk, so that
 * "a majority of the disks" is that one, and two processors. The history of the record is a row of decisions: number n
 * says which record comes after number n - 1. Each is one instance of consensus between the two nodes. Block i is
 * written by node i only, and only after it has read, in this claim, what its block says.
 *
 * A claim for instance n, with a ballot b that is larger than all seen and that only this node uses (parity):
 *
 *	1. mbal = b; write own block; read the other's.
 *	2. If the other one has begun a higher ballot: wait a random while, start over.
 *	   v = the inp of the higher bal in the two blocks; if both are 0: what we want.
 *	3. bal = b, inp = v; write own block; read the other's.
 *	4. If the other one has begun a higher ballot: as in 2. Else v is decided.
 *	5. inst = n, chosen = v, ballots 0; write own block. That only says aloud what is decided.
 *
 * A block with a higher inst than ours says that our instance is decided: we take over what it says. One with a lower
 * inst says nothing about our instance, its ballots are of an older one.
 *
 * Why never two values are decided in one instance. Let b be the lowest ballot in which a v was decided, by node p, and
 * c > b any other ballot in which a value is proposed (step 3), by induction over c. If c is p's own, p's block has had
 * bal >= b since, and p takes the value of the highest bal that it sees. If it is q's: p's read in step 4 of b did not
 * see q's mbal = c, so q's write in step 1 of c was answered after that read began; therefore q's read in step 2 of c began
 * after p's write in step 3 of b was answered, and sees bal >= b in p's block (or its inst, and then takes over). So in both
 * cases some bal in b .. c - 1 is the highest one that is seen, and by induction its value is v. A crash changes
 * nothing: all that a node knows is in its block, and a ballot that was begun and not written was seen by nobody.
 *
 * Why it is a compare-and-swap: a node proposes {next, me} for instance n + 1 only after it has seen that number n has
 * the generation that it expects, and next is larger. So generations grow with n, what is decided was claimed by its
 * owner, and of two claims that expect the same only one can come right after it. A claim that was decided later, or
 * by the other node (which found it accepted in step 2), is granted when its owner asks again: the record is its own.
 *
 * (That step 2 gives way to a higher ballot is only courtesy; that step 4 does is what the proof needs.)
 *
 * Two nodes that go on against each other for ever are kept apart by the random waits. A node that is alone is
 * through after three writes.
 */
#include "cluster/paxos.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

/* Faults that tests/property/prop_paxos.c plants: what it must find. */
#ifdef LOCKSTEP_FAULTS
#define FAULT(name) (paxos_fault == PAXOS_FAULT_##name)
#else
#define FAULT(name) 0
#endif

enum { AT_START, AT_LOOKED, AT_BEGUN, AT_BEGUN_READ, AT_ACCEPTED, AT_ACCEPTED_READ, AT_SAID };

static bool same(const struct witness_record *a, const struct witness_record *b)
{
	return a->generation == b->generation && !memcmp(a->owner, b->owner, WITNESS_ID_LEN);
}

static void decided(struct paxos_block *own, uint64_t inst, const struct witness_record *r)
{
	*own = (struct paxos_block){ .inst = inst, .chosen = *r };
}

/* With what is decided up to now: is the claim answered? Return: the answer, or PAXOS_WAIT: no */
static enum paxos_step judge(const struct paxos *p)
{
	const struct witness_record *r = &p->own.chosen;

	if (same(r, &p->want))
		return PAXOS_GRANTED;
	if (r->generation == p->expect)
		return PAXOS_WAIT;
	return r->generation > p->expect ? PAXOS_LOST : PAXOS_OLD;
}

/* Instance own.inst + 1 is open: begin a ballot. @seen: the highest one of the other node */
static enum paxos_step begin(struct paxos *p, uint64_t seen)
{
	uint64_t b = (p->own.mbal > seen ? p->own.mbal : seen) + 1;

	p->ballot = b + (b % 2 != p->slot && !FAULT(SAME_BALLOTS));
	p->own.mbal = p->ballot;
	p->state = AT_BEGUN;
	return PAXOS_WRITE;
}

static enum paxos_step looked(struct paxos *p, const struct paxos_block *other)
{
	enum paxos_step s;

	if (other->inst > p->own.inst && !FAULT(NOT_TOLD))
		decided(&p->own, other->inst, &other->chosen);
	s = judge(p);
	return s == PAXOS_WAIT ? begin(p, other->inst == p->own.inst ? other->mbal : 0) : s;
}

enum paxos_step paxos_begin(struct paxos *p, unsigned int slot, const struct paxos_block *own, uint32_t expect,
			    const struct witness_record *want)
{
	assert(slot < 2 && want->generation > expect);
	*p = (struct paxos){ .slot = slot, .expect = expect, .want = *want, .own = *own, .state = AT_LOOKED };
	return PAXOS_READ;
}

enum paxos_step paxos_next(struct paxos *p, const struct paxos_block *other)
{
	enum paxos_step s;

	switch (p->state) {
	case AT_START:
		p->state = AT_LOOKED;
		return PAXOS_READ;
	case AT_LOOKED:
		return looked(p, other);
	case AT_BEGUN:
	case AT_ACCEPTED:
		p->state++;
		return PAXOS_READ;
	case AT_BEGUN_READ:
	case AT_ACCEPTED_READ:
		if (other->inst > p->own.inst && !FAULT(NOT_TOLD))
			return looked(p, other);
		if (other->inst == p->own.inst && other->mbal > p->ballot &&
		    !(FAULT(ACCEPTED_BLIND) && p->state == AT_ACCEPTED_READ)) {
			p->state = AT_START;
			return PAXOS_WAIT;
		}
		if (p->state == AT_BEGUN_READ) {
			if ((other->inst == p->own.inst || FAULT(OLD_BALLOTS)) && other->bal > p->own.bal && !FAULT(OWN_VALUE))
				p->own.inp = other->inp;
			else if (!p->own.bal || FAULT(NEW_VALUE))
				p->own.inp = p->want;
			p->own.bal = p->ballot;
			p->state = AT_ACCEPTED;
		} else {
			struct witness_record v = p->own.inp;

			decided(&p->own, p->own.inst + 1, &v);
			p->state = AT_SAID;
		}
		return PAXOS_WRITE;
	default:
		/* What was decided may have been the other one's, or an older claim of ours. */
		s = judge(p);
		p->state = AT_START;
		return s;
	}
}

struct witness_record paxos_known(const struct paxos_block *a, const struct paxos_block *b)
{
	return a->inst > b->inst ? a->chosen : b->chosen;
}
