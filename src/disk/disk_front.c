/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two thin devices. The front is what the NBD server serves: it passes requests on to whatever a disk is at present, and
 * keeps flushes back from the order of a promotion until it is done, since from then on the network may hear of what a
 * flush has promised. The base stands between a standby and an image and counts what is under way.
 */
#include "disk/disk_internal.h"

#include <errno.h>
#include <stdlib.h>

static void front_submit(struct blk *b, struct blk_req *r)
{
	struct disk_front *f = (struct disk_front *)b;

	if (r->op == BLK_FLUSH && !f->d->serves && atomic_load(&f->d->promoting)) {
		r->next = NULL;
		*f->tail = r;
		f->tail = &r->next;
		return;
	}
	blk_submit(f->under, r);
}

static const struct blk_ops front_ops = { .submit = front_submit };

void disk_front_init(struct disk *d)
{
	for (unsigned int i = 0; i < d->n; i++) {
		struct disk_front *f = &d->front[i];

		f->blk = *d->bases[i];
		f->blk.ops = &front_ops;
		f->d = d;
		f->under = d->bases[i];
		f->tail = &f->held;
	}
}

void disk_front_under(struct disk *d, unsigned int i, struct blk *under)
{
	d->front[i].under = under;
}

void disk_front_release(struct disk *d)
{
	for (unsigned int i = 0; i < d->n; i++) {
		struct disk_front *f = &d->front[i];
		struct blk_req *r = f->held, *next;

		f->held = NULL;
		f->tail = &f->held;
		for (; r; r = next) {
			next = r->next;
			blk_submit(f->under, r);
		}
	}
}

/* A request of the standby's on its way to the image. */
struct pass {
	struct blk_req r;
	struct blk_req *from;
	struct disk *d;
};

static void pass_done(struct blk_req *r, int rc)
{
	struct pass *p = r->arg;
	struct blk_req *from = p->from;
	struct disk *d = p->d;

	from->n_ext = r->n_ext;
	d->under_way--;
	free(p);
	from->done(from, rc);
	if (!d->under_way)
		disk_fifo_run(d);
}

static void base_submit(struct blk *b, struct blk_req *r)
{
	struct disk_base *base = (struct disk_base *)b;
	struct pass *p = malloc(sizeof(*p));

	if (!p) {
		r->done(r, -ENOMEM);
		return;
	}
	p->r = *r;
	p->r.done = pass_done;
	p->r.arg = p;
	p->from = r;
	p->d = base->d;
	base->d->under_way++;
	blk_submit(base->under, &p->r);
}

static const struct blk_ops base_ops = { .submit = base_submit };

void disk_base_init(struct disk *d)
{
	for (unsigned int i = 0; i < d->n; i++) {
		d->base[i].blk = *d->bases[i];
		d->base[i].blk.ops = &base_ops;
		d->base[i].d = d;
		d->base[i].under = d->bases[i];
	}
}
