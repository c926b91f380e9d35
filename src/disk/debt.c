/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The debt: `stop` waits for the flushes that the guest has under way, and makes QEMU flush each of its disks, which
 * would be a part of the pause. When the VM stands, all flushes that are under way are therefore answered, so is each
 * one that comes in, and the real ones are done behind. Until all of these are done the debt is open: no frame leaves
 * (ops.open), so nobody outside can know that a flush was answered; no flush that comes later is answered, of any disk,
 * so a guest never sees one done that came after one that is not; and when the VM runs again, nothing that it writes
 * reaches a base (debt_holds()), since it may have been written in the belief that what is owed is done. When a real
 * one fails, ops.failed() ends protection, and the guest hears of it by its next flush of that disk.
 *
 * Nothing is answered early before the VM stands: it could write on, and what it writes until then could not be told
 * from what was under way before, for which `stop` waits.
 */
#include "disk/debt.h"

#include <errno.h>
#include <stdlib.h>

int debt_init(struct debt *d, unsigned int disks, const struct debt_ops *ops)
{
	*d = (struct debt){ .ops = *ops };
	d->last = &d->first;
	d->owed = calloc(disks ? disks : 1, sizeof(*d->owed));
	return d->owed ? 0 : -ENOMEM;
}

void debt_fini(struct debt *d)
{
	free(d->owed);
	d->owed = NULL;
}

static void begin(struct debt *d, struct debt_flush *f)
{
	f->next = d->under_way;
	f->prev = &d->under_way;
	if (f->next)
		f->next->prev = &f->next;
	d->under_way = f;
	d->ops.begin(d->ops.arg, f);
}

static void unlink_begun(struct debt_flush *f)
{
	*f->prev = f->next;
	if (f->next)
		f->next->prev = f->prev;
}

/* @f is answered before it is done. */
static void owe(struct debt *d, struct debt_flush *f)
{
	f->early = true;
	d->total++;
	if (d->open++ == 0)
		d->ops.open(d->ops.arg, true);
	d->ops.answer(d->ops.arg, f, 0);
}

void debt_flush(struct debt *d, struct debt_flush *f)
{
	bool stopping = atomic_load(&d->stopping);
	int owed = d->owed[f->disk];

	f->early = false;
	f->next = NULL;
	if (owed) {
		/* QEMU's own tells the guest nothing, so the error stays until one comes that may be the guest's. */
		if (!stopping)
			d->owed[f->disk] = 0;
		d->ops.answer(d->ops.arg, f, owed);
	} else if (stopping) {
		owe(d, f);
		d->ops.begin(d->ops.arg, f);
	} else if (d->open) {
		*d->last = f;
		d->last = &f->next;
	} else {
		begin(d, f);
	}
}

static void begin_waiting(struct debt *d)
{
	struct debt_flush *wait = d->first;

	d->first = NULL;
	d->last = &d->first;
	while (wait) {
		struct debt_flush *next = wait->next;

		debt_flush(d, wait);
		wait = next;
	}
}

void debt_owe(struct debt *d)
{
	struct debt_flush *f;

	if (!atomic_load(&d->stopping))
		return;
	while ((f = d->under_way)) {
		unlink_begun(f);
		owe(d, f);
	}
	begin_waiting(d);
}

void debt_done(struct debt *d, struct debt_flush *f, int rc)
{
	if (!f->early) {
		unlink_begun(f);
		d->ops.answer(d->ops.arg, f, rc);
		return;
	}
	if (rc != 0) {
		d->owed[f->disk] = rc;
		d->ops.failed(d->ops.arg, rc);
	}
	if (--d->open != 0)
		return;
	d->ops.open(d->ops.arg, false);
	/* What is written since the debt was opened is theirs to flush, so each is a real flush of its own now. */
	begin_waiting(d);
}
