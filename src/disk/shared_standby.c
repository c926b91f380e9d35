/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A standby whose bases the serving peer writes too: what is different
 *
 * The peer writes to the base whenever its VM does. Before the first write to a block in an epoch its old content comes
 * here (standby_old()) and is confirmed. So at any time, with n the epoch that was sealed by the last barrier, or none:
 *
 *	what the SVM sees = its own writes, over what n has overwritten, over what n + 1 has overwritten, over the base
 *
 * The older epoch lies above the newer one: what n has overwritten is what was there before n, and n + 1 came after. The
 * flip to n drops n's and the own ones, and what is seen then is the base as it was at the end of n.
 *
 * A read of the base may meet a write of the peer's. So when old content has come while it was under way it looks once
 * more at the layers (standby_io.c): what the base has answered with the new content was confirmed before, and is there.
 *
 * At a promotion the peer is known to write no more (a fence). Then n + 1's, n's and the own layer are, in this order,
 * layers like committed epochs: journaled, and written to the base while the VM runs. A crash between them leaves the
 * disk of a moment: what the dead peer had, or had at the end of n, or the committed one, or the VM's. Nothing is put
 * back while a read that began before is under way, since it would not find the layer any more.
 */
#include <errno.h>

#include "disk/standby_internal.h"

void standby_restack(struct standby *s)
{
	for (unsigned int i = 0; i < s->n; i++) {
		struct overlay *o = &s->disk[i].over;

		o->n = 0;
		if (s->shared && FAULT(OLD_ORDER) && s->sealed)
			overlay_push(o, &s->sealed->map[i]);
		if (s->shared)
			overlay_push(o, &s->pending->map[i]);
		if (s->shared && !FAULT(OLD_ORDER) && s->sealed)
			overlay_push(o, &s->sealed->map[i]);
		overlay_push(o, &standby_top(s)->map[i]);
	}
}

int standby_old(struct standby *s, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	int rc = s->shared ? peer_refuse(s, disk, off, len) : -EINVAL;
	struct ext e;

	s->old_seq++;
	for (uint64_t done = 0; !rc && done < len; done += e.len) {
		bool known = extmap_at(&s->pending->map[disk], off + done, off + len, &e);

		if (!known || FAULT(OLD_LAST))
			rc = peer_pend(s, disk, off + done, e.len, data ? data + done : NULL, data ? EXT_DATA : EXT_TRIM);
	}
	return rc;
}

void peer_flip_shared(struct standby *s, struct layer *fresh)
{
	struct layer *top = standby_top(s), *old = s->sealed;

	s->stack[0] = fresh;
	s->sealed = NULL;
	if (FAULT(OLD_KEPT) && peer_unite(s, s->pending, old))
		return;
	standby_restack(s);
	s->is_reserved = false;
	s->flipped_n = s->barrier_n;
	s->wanted = false;
	s->st.flips++;
	if (!FAULT(OLD_KEPT))
		layer_bury(s, old);
	layer_bury(s, top);
	standby_kick(s);
}

/* What was there before n is what was there before the epoch that n and n + 1 are now. */
void peer_abort_shared(struct standby *s)
{
	struct layer *old = s->sealed;
	int rc = 0;

	s->sealed = NULL;
	if (FAULT(OLD_ABORT))
		layer_bury(s, old);
	else
		rc = peer_unite(s, s->pending, old);
	standby_restack(s);
	if (rc)
		standby_fail(s, rc, "the aborted epoch and the next one cannot be made one");
}

void peer_promote_shared(struct standby *s)
{
	struct layer *own = standby_top(s), *old[2] = { s->pending, s->sealed };

	if (FAULT(OLD_LOST) && s->sealed) {
		old[0] = NULL;
		s->lost = s->pending;
		overlay_drop(&s->disk[0].over, &s->pending->map[0]);
	}
	s->depth = 0;
	/* They lie in the overlays already, in this order. */
	for (unsigned int i = 0; i < 2; i++) {
		if (!old[i])
			continue;
		old[i]->state = LAYER_SEALED;
		old[i]->epoch = 0;
		old[i]->id = s->next_id++;
		s->stack[s->depth++] = old[i];
	}
	s->stack[s->depth++] = own;
	s->pending = s->sealed = NULL;
}
