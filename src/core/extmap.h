/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_EXTMAP_H
#define CORE_EXTMAP_H

#include <stdbool.h>
#include <stdint.h>

/*
 * An ordered map of byte extents that do not overlap: what a layer of a disk says about each byte. Extents of any
 * alignment and length; each is data at a location that the caller understands (byte i of the extent lies at loc + i), or
 * zeroes. Neighbours that continue one another are one extent. All maps of a pool share its nodes, which are memory of
 * the caller; nothing is allocated. Each operation takes O(log n) and what it removes. See extmap.c.
 */
enum ext_kind {
	EXT_DATA = 1,	/* bytes at loc */
	EXT_ZERO,	/* zeroes, and the space stays allocated */
	EXT_TRIM,	/* zeroes, and the space may go */
};

struct ext {
	uint64_t off, len;	/* bytes; off + len does not overflow, len > 0 */
	uint64_t loc;		/* EXT_DATA */
	enum ext_kind kind;
};

/* Private, but whoever owns the pool's memory must know its size. */
struct ext_node {
	uint64_t off, len, loc;
	uint32_t left, right;	/* index, 0: none */
	uint32_t prio;		/* a node's is not below its children's; of a free node: the next free one */
	uint8_t kind;
};

struct extpool {
	struct ext_node *node;	/* node[0] is never used */
	uint32_t n;		/* nodes in all, without node[0] */
	uint32_t fresh;		/* the first that was never used */
	uint32_t free;		/* list of trees whose nodes are free */
	uint32_t used;		/* nodes in maps */
	uint64_t rng;
};

struct extmap {
	struct extpool *pool;
	uint32_t root;
	uint32_t count;		/* extents */
};

/* Called for each range of EXT_DATA that is no longer referred to */
#define EXT_FREED void (*freed)(void *arg, uint64_t loc, uint64_t len)

/*
 * extpool_init() - a pool of @n nodes
 * @mem:  @n + 1 nodes; need not be cleared, is touched only as far as it is used
 * @seed: not known to whoever chooses the extents, or a fixed one in tests
 */
void extpool_init(struct extpool *p, struct ext_node *mem, uint32_t n, uint64_t seed);

/* extpool_left() - how many nodes are free; extmap_put() takes two at most, extmap_del() one */
uint32_t extpool_left(const struct extpool *p);

void extmap_init(struct extmap *m, struct extpool *p);

/*
 * extmap_put() - [e->off, e->off + e->len) is what @e says from now on, whatever it was
 * @freed: may be NULL
 *
 * Return: 0, or -ENOSPC: fewer than two nodes are left, and nothing was changed
 */
int extmap_put(struct extmap *m, const struct ext *e, EXT_FREED, void *arg);

/* extmap_del() - nothing is said about [off, off + len) any more. Return: 0, or -ENOSPC as extmap_put() */
int extmap_del(struct extmap *m, uint64_t off, uint64_t len, EXT_FREED, void *arg);

/*
 * extmap_at() - what is said at @off
 * @end:   nothing at or behind it is of interest; > off
 * @piece: filled: begins at @off; ends where the extent does, or the gap, or at @end
 *
 * Return: whether it lies in an extent; false: a gap, of which only off and len are filled
 */
bool extmap_at(const struct extmap *m, uint64_t off, uint64_t end, struct ext *piece);

/* extmap_next() - the first extent that ends behind @off, as a whole. Return: false: there is none */
bool extmap_next(const struct extmap *m, uint64_t off, struct ext *e);

/* extmap_overlaps() - whether anything is said about a byte of [off, off + len) */
bool extmap_overlaps(const struct extmap *m, uint64_t off, uint64_t len);

/* extmap_walk() - each extent in order; @fn must not change the map. Stops when it returns non-zero, and returns that */
int extmap_walk(const struct extmap *m, int (*fn)(void *arg, const struct ext *e), void *arg);

/* extmap_clear() - empty, in no time, however much it was; nothing is reported as freed */
void extmap_clear(struct extmap *m);

#endif
