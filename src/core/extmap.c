/* SPDX-License-Identifier: BSD-2-Clause */
#include "core/extmap.h"

#include <errno.h>
#include <stddef.h>

/*
 * Theory of operation
 *
 * A treap: a search tree by offset, in which each node has a random priority and none has a higher one than its parent;
 * so its depth is logarithmic whatever the order of insertion, unless somebody knows the seed. Two operations do it all:
 * split (a tree into what begins before an offset and what does not) and join (two trees, one before the other).
 *
 * To put an extent the tree is split at its begin and at its end. What was between is given back; the last extent before,
 * and the last one between, may reach beyond the border and are cut. Then the three are joined again.
 *
 * Given back is a tree, not its nodes: the free list is a list of trees (linked by `prio`), and whoever takes a root from
 * it puts its children there. So clearing a map costs nothing, which is what makes a flip cost nothing.
 */

static struct ext_node *at(const struct extpool *p, uint32_t i)
{
	return &p->node[i];
}

static void give(struct extpool *p, uint32_t t)
{
	if (t) {
		at(p, t)->prio = p->free;
		p->free = t;
	}
}

static uint32_t take(struct extpool *p)
{
	uint32_t t = p->free;

	if (t) {
		p->free = at(p, t)->prio;
		give(p, at(p, t)->left);
		give(p, at(p, t)->right);
	} else {
		t = p->fresh++;
	}
	p->used++;
	p->rng ^= p->rng << 13;
	p->rng ^= p->rng >> 7;
	p->rng ^= p->rng << 17;
	at(p, t)->prio = (uint32_t)(p->rng >> 32);
	at(p, t)->left = at(p, t)->right = 0;
	return t;
}

void extpool_init(struct extpool *p, struct ext_node *mem, uint32_t n, uint64_t seed)
{
	*p = (struct extpool){ .node = mem, .n = n, .fresh = 1, .rng = seed ? seed : 0x9e3779b97f4a7c15ull };
}

uint32_t extpool_left(const struct extpool *p)
{
	return p->n - p->used;
}

void extmap_init(struct extmap *m, struct extpool *p)
{
	*m = (struct extmap){ .pool = p };
}

/* Into what begins before @off, and the rest */
static void split(struct extpool *p, uint32_t t, uint64_t off, uint32_t *l, uint32_t *r)
{
	while (t) {
		struct ext_node *n = at(p, t);

		if (n->off < off) {
			*l = t;
			l = &n->right;
			t = n->right;
		} else {
			*r = t;
			r = &n->left;
			t = n->left;
		}
	}
	*l = *r = 0;
}

/* All of @l lies before all of @r */
static uint32_t join(struct extpool *p, uint32_t l, uint32_t r)
{
	uint32_t root = 0, *to = &root;

	while (l && r) {
		if (at(p, l)->prio > at(p, r)->prio) {
			*to = l;
			to = &at(p, l)->right;
			l = *to;
		} else {
			*to = r;
			to = &at(p, r)->left;
			r = *to;
		}
	}
	*to = l ? l : r;
	return root;
}

static uint32_t last(const struct extpool *p, uint32_t t)
{
	while (t && at(p, t)->right)
		t = at(p, t)->right;
	return t;
}

static uint32_t first(const struct extpool *p, uint32_t t)
{
	while (t && at(p, t)->left)
		t = at(p, t)->left;
	return t;
}

static uint64_t end_of(const struct ext_node *n)
{
	return n->off + n->len;
}

static void tell(const struct ext_node *n, uint64_t from, uint64_t to, EXT_FREED, void *arg)
{
	if (freed && n->kind == EXT_DATA && to > from)
		freed(arg, n->loc + (from - n->off), to - from);
}

/* Of a tree that goes: as deep as the tree is, which is little */
static void tell_all(struct extmap *m, uint32_t t, uint64_t end, EXT_FREED, void *arg)
{
	while (t) {
		struct ext_node *n = at(m->pool, t);

		tell_all(m, n->left, end, freed, arg);
		tell(n, n->off, end_of(n) < end ? end_of(n) : end, freed, arg);
		m->count--;
		m->pool->used--;
		t = n->right;
	}
}

static void set(struct ext_node *n, uint64_t off, uint64_t len, uint64_t loc, uint8_t kind)
{
	n->off = off;
	n->len = len;
	n->loc = kind == EXT_DATA ? loc : 0;
	n->kind = kind;
}

/*
 * Take [off, end) out: *l is what lies before, *r what lies behind; the map has no root until they are joined.
 * Needs one node at most.
 */
static void cut(struct extmap *m, uint64_t off, uint64_t end, uint32_t *l, uint32_t *r, EXT_FREED, void *arg)
{
	struct extpool *p = m->pool;
	uint32_t mid, x, keep = 0;

	split(p, m->root, off, l, &mid);
	split(p, mid, end, &mid, r);
	x = last(p, *l);
	if (x && end_of(at(p, x)) > off) {
		struct ext_node *n = at(p, x);

		if (end_of(n) > end) {
			/* It reaches over both borders, so there is nothing between. */
			tell(n, off, end, freed, arg);
			keep = take(p);
			m->count++;
			set(at(p, keep), end, end_of(n) - end, n->loc + (end - n->off), n->kind);
		} else {
			tell(n, off, end_of(n), freed, arg);
		}
		n->len = off - n->off;
	}
	x = last(p, mid);
	if (x && end_of(at(p, x)) > end) {
		const struct ext_node n = *at(p, x);

		/* A node anew rather than taken out of the tree: its own is given back with the rest. */
		tell_all(m, mid, end, freed, arg);
		give(p, mid);
		mid = 0;
		keep = take(p);
		m->count++;
		set(at(p, keep), end, end_of(&n) - end, n.loc + (end - n.off), n.kind);
	}
	tell_all(m, mid, end, freed, arg);
	give(p, mid);
	if (keep)
		*r = join(p, keep, *r);
	m->root = 0;
}

static bool continues(const struct ext_node *a, uint64_t off, uint64_t loc, uint8_t kind)
{
	return end_of(a) == off && a->kind == kind && (kind != EXT_DATA || a->loc + a->len == loc);
}

int extmap_put(struct extmap *m, const struct ext *e, EXT_FREED, void *arg)
{
	struct extpool *p = m->pool;
	uint32_t l, r, x;

	if (extpool_left(p) < 2)
		return -ENOSPC;
	cut(m, e->off, e->off + e->len, &l, &r, freed, arg);
	x = last(p, l);
	if (x && continues(at(p, x), e->off, e->loc, e->kind)) {
		at(p, x)->len += e->len;
	} else {
		x = take(p);
		m->count++;
		set(at(p, x), e->off, e->len, e->loc, e->kind);
		l = join(p, l, x);
	}
	/* What follows may continue it, and then is taken in. */
	struct ext_node *n = at(p, x);
	uint32_t y = first(p, r);

	if (y && continues(n, at(p, y)->off, at(p, y)->loc, at(p, y)->kind)) {
		uint32_t one;

		n->len += at(p, y)->len;
		split(p, r, at(p, y)->off + 1, &one, &r);
		m->count--;
		p->used--;
		give(p, one);
	}
	m->root = join(p, l, r);
	return 0;
}

int extmap_del(struct extmap *m, uint64_t off, uint64_t len, EXT_FREED, void *arg)
{
	uint32_t l, r;

	if (!len)
		return 0;
	if (extpool_left(m->pool) < 1)
		return -ENOSPC;
	cut(m, off, off + len, &l, &r, freed, arg);
	m->root = join(m->pool, l, r);
	return 0;
}

/* The first node that ends behind @off */
static uint32_t find(const struct extmap *m, uint64_t off)
{
	uint32_t t = m->root, best = 0;

	while (t) {
		const struct ext_node *n = at(m->pool, t);

		if (end_of(n) > off) {
			best = t;
			t = n->left;
		} else {
			t = n->right;
		}
	}
	return best;
}

static void fill(struct ext *e, const struct ext_node *n)
{
	*e = (struct ext){ .off = n->off, .len = n->len, .loc = n->loc, .kind = n->kind };
}

bool extmap_next(const struct extmap *m, uint64_t off, struct ext *e)
{
	uint32_t t = find(m, off);

	if (t)
		fill(e, at(m->pool, t));
	return t;
}

bool extmap_at(const struct extmap *m, uint64_t off, uint64_t end, struct ext *piece)
{
	uint32_t t = find(m, off);
	const struct ext_node *n = at(m->pool, t);

	piece->off = off;
	piece->len = end - off;
	if (!t || n->off >= end)
		return false;
	if (n->off > off) {
		piece->len = n->off - off;
		return false;
	}
	piece->kind = n->kind;
	piece->loc = n->kind == EXT_DATA ? n->loc + (off - n->off) : 0;
	if (end_of(n) < end)
		piece->len = end_of(n) - off;
	return true;
}

bool extmap_overlaps(const struct extmap *m, uint64_t off, uint64_t len)
{
	uint32_t t = find(m, off);

	return t && at(m->pool, t)->off < off + len;
}

static int walk(const struct extmap *m, uint32_t t, int (*fn)(void *arg, const struct ext *e), void *arg)
{
	while (t) {
		const struct ext_node *n = at(m->pool, t);
		struct ext e;
		int rc = walk(m, n->left, fn, arg);

		if (rc)
			return rc;
		fill(&e, n);
		rc = fn(arg, &e);
		if (rc)
			return rc;
		t = n->right;
	}
	return 0;
}

int extmap_walk(const struct extmap *m, int (*fn)(void *arg, const struct ext *e), void *arg)
{
	return walk(m, m->root, fn, arg);
}

void extmap_clear(struct extmap *m)
{
	give(m->pool, m->root);
	m->pool->used -= m->count;
	m->root = m->count = 0;
}
