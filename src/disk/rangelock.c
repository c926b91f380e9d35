/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/rangelock.h"

#include <stddef.h>

static bool overlap(const struct rangelock_entry *a, const struct rangelock_entry *b)
{
	return a->off < b->off + b->len && b->off < a->off + a->len;
}

bool rangelock_ask(struct rangelock *l, struct rangelock_entry *e)
{
	e->before = 0;
	for (const struct rangelock_entry *i = l->first; i; i = i->next)
		e->before += overlap(i, e);
	e->next = NULL;
	e->prev = l->last;
	*(l->last ? &l->last->next : &l->first) = e;
	l->last = e;
	l->n++;
	return e->before == 0;
}

void rangelock_leave(struct rangelock *l, struct rangelock_entry *e,
		     void (*granted)(void *arg, struct rangelock_entry *e), void *arg)
{
	struct rangelock_entry *after = e->next;

	*(e->prev ? &e->prev->next : &l->first) = e->next;
	*(e->next ? &e->next->prev : &l->last) = e->prev;
	l->n--;
	for (struct rangelock_entry *i = after; i; i = i->next) {
		if (overlap(e, i) && --i->before == 0)
			granted(arg, i);
	}
}
