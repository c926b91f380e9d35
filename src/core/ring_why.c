/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading the ring backwards: theory of operation
 *
 * A break of the pair is a step that leads out of the states in which there are two (sync, protected, joining, standby) and
 * is not the way between them. The last one is looked for; what follows until this node serves, ends or has a peer again
 * belongs to it. Before it lies the evidence. One pass forward keeps the first piece of evidence that nothing has taken back
 * yet; when the break comes that is what was noticed first.
 */
#include "core/ring_why.h"

#include <errno.h>
#include <stddef.h>

static bool paired(enum ft_state s)
{
	return s == FT_SYNC || s == FT_PROTECTED || s == FT_JOINING || s == FT_STANDBY;
}

static const char *ctl_evidence(enum ctl_type t)
{
	switch (t) {
	case CTL_PROMOTE: return "the primary said that it cannot go on";
	case CTL_GONE: return "the secondary said that it can stand by no more";
	case CTL_FAILED: return "the secondary said that it cannot apply the checkpoint";
	case CTL_ALONE: return "the primary said that it goes on alone";
	case CTL_TOOK_OVER: return "the secondary said that it has taken over";
	case CTL_CLAIM: return "the secondary asked for the VM";
	case CTL_GUEST_OFF: return "the primary said that the guest has powered off";
	case CTL_SWITCH: return "the secondary asked for the VM, as it was told to";
	case CTL_QUIT: return "the primary said that somebody ended the pair";
	default: return NULL;
	}
}

const char *ring_evidence(const struct ring_view *v)
{
	switch (v->ev->type) {
	case FE_SILENT: return "no heartbeat came for the timeout";
	case FE_STUCK: return "the peer's heart beat, but its work stood still";
	case FE_LINK_DOWN:
		return v->ev->value == 1 ? "the peer's kernel closed all connections: its process was dead" :
		       v->ev->value == 2 ? "this node could not go on with the link" :
		       "the link failed without a proof of the peer's death";
	case FE_QEMU_DIED: return "QEMU of this node died";
	case FE_QEMU_HUNG: return "QEMU of this node did not answer";
	case FE_GUEST_OFF: return "the guest powered off";
	case FE_DISK_FAILED: return "a disk of this node failed";
	case FE_FAILOVER: return "somebody asked for a failover";
	case FE_SWITCH: return "somebody asked for the VM to be moved to the other node";
	case FE_QUIT: return "somebody ended lockstep on this node";
	case FE_CTL: return ctl_evidence(v->ev->ctl.type);
	case FE_DONE:
		if (v->ev->step == STEP_WITNESS)
			return v->ev->rc == -ESTALE ? "the witness said that another node has the VM" : NULL;
		return v->ev->rc && v->ev->rc != -ECANCELED && v->ev->rc != -ENOTSUP ? "a step of a checkpoint failed" : NULL;
	default: return NULL;
	}
}

bool ring_quiet(const struct ring_view *v)
{
	if (v->was != v->state)
		return false;
	switch (v->ev->type) {
	case FE_BEAT:
		return true;
	case FE_PROGRESS:
	case FE_DISK_MOVED:
	case FE_TICK:
		return !v->n_acts;
	default:
		return false;
	}
}

/* What speaks for a peer again. */
static bool taken_back(enum ft_ev_type evidence, const struct ring_view *v)
{
	if (v->ev->type == FE_LINK_UP)
		return true;
	if (v->ev->type == FE_BEAT)
		return evidence == FE_SILENT || evidence == FE_STUCK;
	for (unsigned int k = 0; k < v->n_acts; k++)
		if (v->act[k]->type == FA_CKPT_DONE)
			return evidence == FE_DONE;
	return false;
}

static void follow(const struct ring *r, struct ring_why *w)
{
	struct ring_view v;

	for (size_t i = w->decided; ring_view(r, i, &v); i++) {
		if (i > w->decided && v.ev->type == FE_LINK_UP)
			return;
		w->last = i;
		w->now = v.state;
		w->ended_at = v.at;
		if (v.ev->type == FE_DONE && v.ev->step == STEP_WITNESS && !v.ev->rc && !w->granted_at)
			w->granted_at = v.at;
		for (unsigned int k = 0; k < v.n_acts; k++) {
			const struct ft_act *a = v.act[k];

			if (a->type == FA_NET && (a->net == NEV_PROMOTE || a->net == NEV_ALONE) && !w->open_at)
				w->open_at = v.at;
			if ((a->type == FA_ANNOUNCE || a->type == FA_END) && a->reason != FT_WHY_NONE && !w->reason)
				w->reason = a->reason;
		}
		w->over = v.state == FT_ALONE || v.state == FT_ENDED;
		if (w->over)
			return;
	}
}

void ring_why(const struct ring *r, struct ring_why *w)
{
	enum ft_ev_type evidence = FE_TYPE_MAX;
	nstime beat = 0, first_beat = 0;
	struct ring_view v, f = { 0 };
	size_t first = 0;

	*w = (struct ring_why){ 0 };
	for (size_t i = 0; ring_view(r, i, &v); i++) {
		if (evidence != FE_TYPE_MAX && taken_back(evidence, &v))
			evidence = FE_TYPE_MAX;
		if (evidence == FE_TYPE_MAX && ring_evidence(&v)) {
			evidence = v.ev->type;
			first = i;
			first_beat = beat;
		}
		if (v.ev->type == FE_BEAT)
			beat = v.at;
		if (!paired(v.was) || paired(v.state))
			continue;
		if (evidence == FE_TYPE_MAX)
			first = i;
		ring_view(r, first, &f);
		*w = (struct ring_why){ .found = true, .first = first, .decided = i, .was = v.was, .noticed = f.at,
					.decided_at = v.at, .beat = evidence == FE_TYPE_MAX ? beat : first_beat };
		follow(r, w);
		evidence = FE_TYPE_MAX;
	}
}
