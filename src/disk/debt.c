/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The debt: `stop` makes QEMU flush each of its disks, which looks like the guest's own flush and would be a part of
 * the pause. While QEMU is being stopped a flush is therefore answered at once, and the real one done behind. Until all
 * of these are done the debt is open: no frame leaves (ops.open), so nobody outside can know that the flush was
 * answered; and no flush that comes later is answered, of any disk, so a guest never sees one done that came after one
 * that is not. When a real one fails, ops.failed() ends protection, and the guest hears of it by its next flush of that
 * disk.
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
		f->early = true;
		d->total++;
		if (d->open++ == 0)
			d->ops.open(d->ops.arg, true);
		d->ops.answer(d->ops.arg, f, 0);
		d->ops.begin(d->ops.arg, f);
	} else if (d->open) {
		*d->last = f;
		d->last = &f->next;
	} else {
		d->ops.begin(d->ops.arg, f);
	}
}

void debt_done(struct debt *d, struct debt_flush *f, int rc)
{
	struct debt_flush *wait;

	if (!f->early) {
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
	wait = d->first;
	d->first = NULL;
	d->last = &d->first;
	while (wait) {
		struct debt_flush *next = wait->next;

		debt_flush(d, wait);
		wait = next;
	}
}
