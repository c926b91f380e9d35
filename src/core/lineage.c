/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Which copy of a disk is the newer one: theory of operation
 *
 * A generation stands for all writes that one node has made without the other, or both together; its tag tells it from
 * another one with the same number. A copy is the older one exactly when the other's history holds its current generation:
 * then everything that it has ever had is in the other. If neither history holds the other's current generation, each
 * copy has something that the other never saw.
 *
 * What makes that true is the order in which things become durable. A node that loses its peer begins a generation
 * before it writes anything the peer does not get. A peer that is being brought up to date takes over the chain at once,
 * but marked as syncing: from then on it is neither the old state nor the new one, and stays so until it has a whole
 * checkpoint, since even when it has all the writes go on coming as they come. Before it is told that it is complete,
 * the source has put down lineage_together(), so that its next lone write begins a new generation; else a copy that was
 * completed and then cut off could not be told from the source that went on writing.
 *
 * A number is compared with nothing but for its order inside one chain: a copy with a higher number is not newer for that.
 */
#include "core/lineage.h"

#include <errno.h>
#include <string.h>

#include "base/cursor.h"

#define FLAG_SYNCING	1u
#define FLAG_ALONE	2u
#define FLAG_LEFT	4u

const char *lineage_verdict_name(enum lineage_verdict v)
{
	static const char *const names[] = {
		[LINEAGE_SAME] = "same", [LINEAGE_OURS] = "ours is newer", [LINEAGE_THEIRS] = "theirs is newer",
		[LINEAGE_SPLIT] = "split brain", [LINEAGE_FIRST] = "first", [LINEAGE_FIRST_THEIRS] = "ours is new",
		[LINEAGE_FIRST_BOTH] = "both are new", [LINEAGE_FOREIGN] = "another disk",
		[LINEAGE_BROKEN] = "both are incomplete",
	};

	return (unsigned int)v < sizeof(names) / sizeof(names[0]) ? names[v] : "?";
}

static bool gen_is(const struct lineage_gen *a, const struct lineage_gen *b)
{
	return a->number && a->number == b->number && a->tag == b->tag;
}

/* Whether @l was at generation @g before its current one. */
static bool has_been(const struct lineage *l, const struct lineage_gen *g)
{
	for (unsigned int i = 0; i < LINEAGE_HISTORY; i++)
		if (gen_is(&l->history[i], g))
			return true;
	return false;
}

bool lineage_fresh(const struct lineage *l)
{
	static const uint8_t none[16];

	return !l->current.number || !memcmp(l->disk, none, sizeof(none));
}

bool lineage_may_serve(const struct lineage *l)
{
	return !l->syncing;
}

const struct lineage_gen *lineage_parted(const struct lineage *l)
{
	return l->alone ? &l->history[0] : &l->current;
}

uint64_t lineage_common(const struct lineage *a, const struct lineage *b)
{
	uint64_t n = 0;

	if (lineage_fresh(a) || lineage_fresh(b) || memcmp(a->disk, b->disk, sizeof(a->disk)))
		return 0;
	if (gen_is(&a->current, &b->current) || has_been(b, &a->current))
		return a->current.number;
	if (has_been(a, &b->current))
		return b->current.number;
	for (unsigned int i = 0; i < LINEAGE_HISTORY && !n; i++)
		if (has_been(b, &a->history[i]))
			n = a->history[i].number;
	return n;
}

enum lineage_verdict lineage_compare(const struct lineage *ours, const struct lineage *theirs)
{
	bool our_fresh = lineage_fresh(ours), their_fresh = lineage_fresh(theirs);

	if (our_fresh || their_fresh)
		return our_fresh && their_fresh ? LINEAGE_FIRST_BOTH : our_fresh ? LINEAGE_FIRST_THEIRS : LINEAGE_FIRST;
	if (memcmp(ours->disk, theirs->disk, sizeof(ours->disk)))
		return LINEAGE_FOREIGN;
	if (ours->syncing || theirs->syncing)
		return ours->syncing && theirs->syncing ? LINEAGE_BROKEN : ours->syncing ? LINEAGE_THEIRS : LINEAGE_OURS;
	if (gen_is(&ours->current, &theirs->current))
		return LINEAGE_SAME;
	if (has_been(ours, &theirs->current))
		return LINEAGE_OURS;
	return has_been(theirs, &ours->current) ? LINEAGE_THEIRS : LINEAGE_SPLIT;
}

void lineage_begin(struct lineage *l, const uint8_t disk[16], uint64_t tag)
{
	uint8_t map = l->map;

	*l = (struct lineage){ .current = { 1, tag }, .map = map };
	memcpy(l->disk, disk, sizeof(l->disk));
}

bool lineage_next(struct lineage *l, uint64_t tag)
{
	if (l->alone || l->syncing || lineage_fresh(l))
		return false;
	memmove(&l->history[1], &l->history[0], sizeof(l->history) - sizeof(l->history[0]));
	l->history[0] = l->current;
	l->current = (struct lineage_gen){ l->current.number + 1, tag };
	l->epoch = 0;
	l->alone = true;
	return true;
}

bool lineage_together(struct lineage *l)
{
	bool was = l->alone;

	l->alone = false;
	return was;
}

void lineage_adopt(struct lineage *l, const struct lineage *theirs, bool syncing)
{
	*l = *theirs;
	l->syncing = syncing;
	l->alone = false;
	l->map = 0;
}

static void put_gen(struct wcursor *w, const struct lineage_gen *g)
{
	wcursor_u64(w, g->number);
	wcursor_u64(w, g->tag);
}

void lineage_put(uint8_t out[LINEAGE_LEN], const struct lineage *l)
{
	struct wcursor w = wcursor_of(out, LINEAGE_LEN);

	wcursor_bytes(&w, l->disk, sizeof(l->disk));
	put_gen(&w, &l->current);
	for (unsigned int i = 0; i < LINEAGE_HISTORY; i++)
		put_gen(&w, &l->history[i]);
	wcursor_u64(&w, l->epoch);
	wcursor_u64(&w, (l->syncing ? FLAG_SYNCING : 0) | (l->alone ? FLAG_ALONE : 0) |
		    (l->map & LINEAGE_MAP_LEFT ? FLAG_LEFT : 0));
}

/* Each generation is older than the one before it; behind the last there is nothing. */
static bool get_gen(struct cursor *c, struct lineage_gen *g, uint64_t below)
{
	g->number = cursor_u64(c);
	g->tag = cursor_u64(c);
	return g->number ? g->number < below : !g->tag;
}

int lineage_get(const uint8_t p[LINEAGE_LEN], struct lineage *l)
{
	static const uint8_t none[16];
	struct cursor c = cursor_of(p, LINEAGE_LEN);
	uint64_t below, flags;
	bool ok;

	*l = (struct lineage){ 0 };
	cursor_copy(&c, l->disk, sizeof(l->disk));
	/* One is left for the next to be begun. */
	ok = get_gen(&c, &l->current, UINT64_MAX);
	below = l->current.number;
	for (unsigned int i = 0; i < LINEAGE_HISTORY; i++) {
		ok &= get_gen(&c, &l->history[i], below);
		below = l->history[i].number;
	}
	l->epoch = cursor_u64(&c);
	flags = cursor_u64(&c);
	l->syncing = flags & FLAG_SYNCING;
	l->alone = flags & FLAG_ALONE;
	l->map = flags & FLAG_LEFT ? LINEAGE_MAP_LEFT : 0;
	ok &= !(flags & ~(uint64_t)(FLAG_SYNCING | FLAG_ALONE | FLAG_LEFT)) && !c.bad;
	/* A copy without a history has nothing to say, one with it is of some disk; a lone generation follows on another. */
	ok &= !l->current.number == !memcmp(l->disk, none, sizeof(none));
	ok &= l->current.number || (!l->epoch && !flags);
	ok &= !(l->syncing && l->alone) && !(l->alone && !l->history[0].number);
	if (ok)
		return 0;
	*l = (struct lineage){ 0 };
	return -EPROTO;
}
