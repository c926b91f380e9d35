/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The steps of a checkpoint, as QEMU and the engine would do them on this model of a guest.
 *
 * A step takes effect at one moment and is reported at a later one; QMP commands take effect in their order. What the
 * real engine could not survive is a violation at once: saving, copying, applying or loading while the VM runs, an
 * image with a part of a checkpoint's pages, a device state over the memory of another moment (P3). Pages travel one
 * by one and are staged one slot each, so that a half-sent checkpoint looks like one. A step that is drawn to fail at
 * the serving node does so before, in the middle of, or after its work: the marks of written pages are gone then, pages
 * are sent.
 */
#include <errno.h>

#include "sim.h"

static nstime step_time(struct sim *s, enum ft_step step)
{
	static const uint32_t most[STEP_MAX] = {
		[STEP_STOP] = 20, [STEP_CONT] = 20, [STEP_SAVE] = 40, [STEP_ROUND] = 60, [STEP_PRECOPY] = 60, [STEP_COPY] = 40, [STEP_SEND] = 10,
		[STEP_RESERVE] = 5, [STEP_APPLY] = 40, [STEP_LOAD] = 200, [STEP_MEND] = 10, [STEP_RESTART] = 1500,
		[STEP_SHARE] = 20, [STEP_FORGET] = 5, [STEP_AGAIN] = 10,
		[STEP_RESYNC] = 50, [STEP_DISK] = 5, [STEP_FLIP] = 5, [STEP_FENCE] = 3000, [STEP_PAUSE] = 20, [STEP_WITNESS] = 1000 };

	return us(s, 1, most[step] * s->step_us);
}

static bool of_qemu(enum ft_step step)
{
	return step == STEP_STOP || step == STEP_CONT || step == STEP_PAUSE || step == STEP_SAVE || step == STEP_LOAD || step == STEP_MEND ||
	       step == STEP_APPLY || step == STEP_SHARE;
}

/* Looks into QEMU's memory, which is gone when QEMU is. */
static bool looks(enum ft_step step)
{
	return step == STEP_ROUND || step == STEP_PRECOPY || step == STEP_COPY;
}

/* QMP commands are answered in their order. */
static bool of_qmp(enum ft_step step)
{
	return step == STEP_STOP || step == STEP_CONT || step == STEP_PAUSE || step == STEP_SAVE || step == STEP_LOAD;
}

void step_begin(struct sim *s, struct node *nd, enum ft_step step, uint64_t n)
{
	struct step_run *r = NULL;
	int i;

	if (fail_hit(s, nd, WHEN_STEP, step, true)) {
		if (s->fail.kind != FAIL_STEP) {
			node_fail_now(s);
			if (!node_up(s, nd->id))
				return;
		}
	}
	for (i = 0; i < 8; i++)
		if (!nd->run[i].active) {
			r = &nd->run[i];
			break;
		}
	if (!r)
		sim_fail(s, "liveness", "node %s: nine steps at once", who(nd));
	/* The memory worker does one thing at a time: the pause ends a round. */
	for (i = 0; i < 8 && step == STEP_COPY; i++)
		if (nd->run[i].active && nd->run[i].step == STEP_PRECOPY && nd->run[i].phase < 100) {
			nd->run[i].rc = -ECANCELED;
			nd->run[i].phase = 100;
		}
	i = (int)(r - nd->run);
	r->active = true;
	r->phase = 0;
	r->step = step;
	r->n = n;
	r->rc = 0;
	r->value = 0;
	r->gen++;
	r->order = s->seq;
	r->bad = BAD_NONE;
	for (int k = 0; k < SIM_BAD; k++)
		if (s->bad[k].n == n && n && s->bad[k].step == step)
			r->bad = (uint8_t)s->bad[k].how;
	if (r->bad) {
		TR(s, "==== node %s: step %s %lu is going to fail", who(nd), ft_step_name(step), (unsigned long)n);
		if (r->bad == BAD_BEFORE)
			r->rc = -EIO;
	}
	if (s->fail.kind == FAIL_STEP && !s->fail.done && s->fail.node == nd->id && s->fail.what == step &&
	    s->fail.count == 0) {
		node_fail_now(s);
		r->rc = -EIO;
		TR(s, "==== node %s: step %s %lu is going to fail", who(nd), ft_step_name(step), (unsigned long)n);
	}
	sim_at(s, s->now + step_time(s, step), EV_STEP, nd->id, (uint16_t)i, r->gen, NULL);
}

static void load_core(struct sim *s, struct node *nd)
{
	struct guest *g = &nd->g;

	g->core = nd->dev;
	g->valid = true;
	g->touched = 0;
	/* What the load itself writes into memory. */
	for (uint32_t k = rnd(s, 3); k; k--) {
		unsigned int i = rnd(s, SIM_PAGES);

		g->priv[i] = sim_rand(s);
		g->privmap |= 1u << i;
		g->touched |= 1u << i;
	}
}

static void lose_queues(struct sim *s, struct node *nd)
{
	s->st->vanished += nd->sock.n + nd->limbo.n;
	pktq_clear(s, &nd->sock);
	pktq_clear(s, &nd->limbo);
	if (nd->want_quiet)
		sim_at(s, s->now, EV_SOCK, nd->id, 1, 0, NULL);
}

void qemu_stops(struct sim *s, struct node *nd)
{
	if (!nd->q_running)
		return;
	nd->g.core.vmclock = node_vmclock(s, nd->id);
	nd->q_running = false;
}

void qemu_runs(struct sim *s, struct node *nd)
{
	nd->q_running = true;
	nd->q_resumed = s->now;
	/* What QEMU read while it was stopped is partly still in its queue. */
	while (nd->limbo.n) {
		struct pkt *p = pktq_pop(&nd->limbo);

		if (chance(s, 5000))
			guest_input(s, nd->id, p);
		else
			s->st->purged++, s->purged++;
		pkt_free(s, p);
	}
	node_kick_guest(s, nd->id, s->now + us(s, 1, 500));
}

/* What a step does. Return: true when it takes more than this, and comes again */
static bool step_effect(struct sim *s, struct node *nd, struct step_run *r)
{
	struct guest *g = &nd->g;
	struct cmsg *m;
	uint32_t half, left = 0;
	int i;

	switch (r->step) {
	case STEP_STOP:
		nd->q_to_run = false;
		qemu_stops(s, nd);
		break;
	case STEP_PAUSE:
		pause_step(s, nd);
		break;
	case STEP_CONT:
		nd->q_to_run = true;
		if (nd->q_running)
			break;
		if (!g->valid)
			sim_fail(s, "P3", "node %s: cont of a VM without a state", who(nd));
		if (ft_state(nd->ft) == FT_STANDBY && nd->loaded_n != r->n)
			sim_fail(s, "P3", "node %s: the SVM runs on from its own state, and nobody has promoted it",
				 who(nd));
		if (s->disks && disk_sum(nd) != g->core.disk_sum)
			sim_fail(s, "P4", "node %s: cont, and the disk is not that of the device state", who(nd));
		if (guest_sum(g) != g->core.sum)
			sim_fail(s, "P3", "node %s: cont, and the memory is not that of the device state", who(nd));
		if (pause_cont(s, nd))
			qemu_runs(s, nd);
		break;
	case STEP_SAVE:
		if (nd->q_running)
			sim_fail(s, "P3", "node %s: device state saved while the VM runs", who(nd));
		nd->saved = g->core;
		nd->saved_n = r->n;
		if (r->bad)
			r->rc = -EIO;
		break;
	case STEP_ROUND:
	case STEP_PRECOPY:
	case STEP_COPY:
		if (r->step == STEP_COPY && nd->q_running)
			sim_fail(s, "P3", "node %s: the last pages are copied while the VM runs", who(nd));
		if (nd->epoch_n != r->n)
			nd->epoch_map = 0;
		nd->epoch_n = r->n;
		nd->epoch_map |= g->dirty;
		if (r->step == STEP_COPY) {
			nd->bufmap = 0;
			r->value = (uint32_t)__builtin_popcount(g->dirty);
		}
		/* The marks are gone; what there is no room for goes out at once. */
		for (i = 0, half = !s->bad[0].n || chance(s, 7000) ? SIM_PAGES : 4; i < SIM_PAGES; i++) {
			/* A round between checkpoints leaves some: hot ones, or its time was over. */
			if (!(g->dirty & 1u << i) ||
			    (r->step == STEP_PRECOPY && (left |= chance(s, 2000) ? 1u << i : 0) & 1u << i) ||
			    (r->bad == BAD_HALF && chance(s, 5000)))
				continue;
			nd->buf[i] = guest_page(g, (unsigned int)i);
			if (r->step == STEP_COPY && half) {
				nd->bufmap |= 1u << i;
				half--;
			} else if ((m = chan_send(s, nd->id, CH_BULK))) {
				m->bulk = BULK_PAGE;
				m->n = r->n;
				m->page = (uint32_t)i;
				m->val = nd->buf[i];
			}
		}
		if (r->step == STEP_PRECOPY)
			r->value = (uint32_t)__builtin_popcount(g->dirty) | (uint64_t)__builtin_popcount(left) << 32;
		g->dirty = left;
		if (r->bad)
			r->rc = -EIO;
		break;
	case STEP_AGAIN:
		g->dirty |= nd->epoch_n == r->n ? nd->epoch_map : 0;
		nd->bufmap = 0;
		break;
	case STEP_SEND:
		for (i = 0, half = 0; i < SIM_PAGES && half < 6; i++) {
			if (!(nd->bufmap & 1u << i))
				continue;
			nd->bufmap &= ~(1u << i);
			half++;
			m = chan_send(s, nd->id, CH_BULK);
			if (m) {
				m->bulk = BULK_PAGE;
				m->n = r->n;
				m->page = (uint32_t)i;
				m->val = nd->buf[i];
			}
		}
		if (r->bad == BAD_HALF && (half || chance(s, 3000))) {
			r->rc = -EIO;
			break;
		}
		if (half)
			return true;
		if (nd->saved_n != r->n)
			sim_fail(s, "P3", "node %s: device state %lu is sent with checkpoint %lu", who(nd),
				 (unsigned long)nd->saved_n, (unsigned long)r->n);
		m = chan_send(s, nd->id, CH_BULK);
		if (m) {
			m->bulk = BULK_DEV;
			m->n = r->n;
			m->dev = &s->dev_pool[s->dev_next++ % SIM_DEVS];
			*m->dev = nd->saved;
		}
		if (r->bad) {
			r->rc = -EIO;
			break;
		}
		if (m) {
			m = chan_send(s, nd->id, CH_BULK);
			m->bulk = BULK_MARK;
			m->n = r->n;
		}
		break;
	case STEP_APPLY:
		if (r->phase == 0 && nd->said_staged < r->n)
			sim_fail(s, "P3", "node %s: pages of %lu are put into the image before it is STAGED", who(nd),
				 (unsigned long)r->n);
		if (nd->q_running)
			sim_fail(s, "P3", "node %s: pages are put into the image while the VM runs", who(nd));
		if (r->phase == 0) {
			if (nd->said_staged >= r->n && nd->mark_n != r->n)
				sim_fail(s, "P3", "node %s: %lu is applied with a part of its pages", who(nd), (unsigned long)r->n);
			g->image_n = 0;
			g->privmap = 0;
			g->valid = false;
		}
		for (i = (int)r->phase; i < SIM_PAGES; i += 2)
			if (nd->staged_n[i] == r->n)
				g->image[i] = nd->staged[i];
		if (r->phase++ == 0)
			return true;
		g->image_n = r->n;
		break;
	case STEP_LOAD:
		if (nd->q_running)
			sim_fail(s, "P3", "node %s: load while the VM runs", who(nd));
		if (g->image_n != r->n || nd->dev_n != r->n)
			sim_fail(s, "P3", "node %s: load of %lu over image %lu, with device state %lu", who(nd), (unsigned long)r->n,
				 (unsigned long)g->image_n, (unsigned long)nd->dev_n);
		load_core(s, nd);
		lose_queues(s, nd);
		break;
	case STEP_MEND:
		g->privmap &= ~g->touched;
		g->touched = 0;
		for (i = 0; i < SIM_PAGES; i++)
			if (nd->staged_n[i] == r->n)
				nd->staged_n[i] = 0;
		if (guest_sum(g) != g->core.sum)
			sim_fail(s, "P3", "node %s: after the load of %lu the memory is not that of the device state", who(nd),
				 (unsigned long)r->n);
		nd->loaded_n = r->n;
		break;
	case STEP_RESTART:
		for (i = 0; i < 8; i++)
			if (&nd->run[i] != r && of_qemu(nd->run[i].step) && nd->run[i].step != STEP_PAUSE)
				nd->run[i].active = false;
		nd->q_alive = true;
		nd->q_running = nd->q_to_run = false;
		nd->q_stuck_until = 0;
		g->valid = false;
		g->privmap = 0;
		lose_queues(s, nd);
		pktq_clear(s, &nd->outq);
		break;
	case STEP_SHARE:
		if (nd->q_running && g->shared != (1u << SIM_PAGES) - 1)
			sim_fail(s, "P3", "node %s: memory is shared while the VM runs", who(nd));
		/* Now and then a piece cannot be had, or nobody knows whether it could. */
		if (chance(s, 1000)) {
			r->rc = -EIO;
			break;
		}
		for (i = 0; i < SIM_PAGES; i++) {
			if (g->shared & 1u << i)
				continue;
			if (g->privmap & 1u << i)
				g->image[i] = g->priv[i];
			g->privmap &= ~(1u << i);
			g->shared |= 1u << i;
			if ((i & 7) == 7)
				break;
		}
		r->value = SIM_PAGES - (uint32_t)__builtin_popcount(g->shared);
		if (chance(s, 1000)) {
			r->rc = -ETIMEDOUT;
			break;
		}
		if (r->value == 0 && nd->q_to_run) {
			g->cow = false;
			g->dirty = (1u << SIM_PAGES) - 1;
			s->st->shared++;
		}
		break;
	case STEP_FORGET:
		for (i = 0; i < SIM_PAGES; i++)
			if (nd->staged_n[i] == r->n)
				nd->staged_n[i] = 0;
		if (nd->dev_n == r->n)
			nd->dev_n = 0;
		if (nd->mark_n == r->n)
			nd->mark_n = 0;
		break;
	case STEP_FENCE:
		disk_fence(s, nd, r);
		break;
	case STEP_WITNESS:
		witness_step(s, nd, r);
		break;
	case STEP_RESYNC:
	case STEP_DISK:
	case STEP_FLIP:
		disk_step(s, nd, r);
		break;
	default:
		break;
	}
	return false;
}

void step_event(struct sim *s, struct node *nd, uint16_t slot, uint32_t gen)
{
	struct step_run *r = &nd->run[slot];
	struct ft_ev fe = { .type = FE_PROGRESS };

	if (!r->active || r->gen != gen)
		return;
	if (of_qemu(r->step) && nd->q_alive && nd->q_stuck_until > s->now) {
		if (nd->q_stuck_until != NS_NEVER)
			sim_at(s, nd->q_stuck_until + us(s, 0, 500), EV_STEP, nd->id, slot, gen, NULL);
		return;
	}
	if (r->phase == 0 && of_qmp(r->step))
		for (int i = 0; i < 8; i++)
			if (nd->run[i].active && of_qmp(nd->run[i].step) && nd->run[i].order < r->order) {
				sim_at(s, s->now + us(s, 10, 100), EV_STEP, nd->id, slot, gen, NULL);
				return;
			}
	if (r->phase < 100) {
		if ((of_qemu(r->step) || looks(r->step)) && !nd->q_alive)
			r->rc = -ECONNRESET;
		if (!r->rc && step_effect(s, nd, r)) {
			if (r->step == STEP_SEND) {
				node_ft(s, nd, &fe);
				if (!node_up(s, nd->id))
					return;
			}
			sim_at(s, s->now + step_time(s, r->step), EV_STEP, nd->id, slot, gen, NULL);
			return;
		}
		if (r->rc && r->step == STEP_LOAD)
			nd->g.valid = false;
		r->phase = 100;
		if (chance(s, 6000)) {
			sim_at(s, s->now + us(s, 1, 300), EV_STEP, nd->id, slot, gen, NULL);
			return;
		}
	}
	if (r->step == STEP_ROUND)
		r->value = (uint32_t)__builtin_popcount(nd->g.dirty);
	r->active = false;
	if (fail_hit(s, nd, WHEN_STEP, r->step, false)) {
		node_fail_now(s);
		if (!node_up(s, nd->id))
			return;
	}
	fe = (struct ft_ev){ .type = FE_DONE, .step = r->step, .n = r->n, .rc = r->rc, .value = r->value };
	node_ft(s, nd, &fe);
}
