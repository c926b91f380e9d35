/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A disk in the model. The device state holds a checksum over what the guest has written, so that a state over the disk
 * of another moment is seen as soon as the VM runs (P4). One disk of a few blocks stands for all: what is cut together
 * is one connection. Writes go to the serving node's base at once and follow to the standby node, which keeps them as
 * pending until their epoch is flipped; the SVM's own are apart until then, or until the promotion makes them the disk's.
 */
#include <errno.h>

#include "sim_node.h"

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

static uint64_t block(const struct node *nd, unsigned int i)
{
	return nd->disk.own_map & 1u << i ? nd->disk.own[i] : nd->disk.base[i];
}

uint64_t disk_sum(const struct node *nd)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < SIM_BLOCKS; i++)
		sum ^= mix(i + 1077, block(nd, i));
	return sum;
}

void disk_boot(struct sim *s, struct node *nd, bool serves)
{
	memset(&nd->disk, 0, sizeof(nd->disk));
	/* Whatever the image holds: a standby node's is made equal first. */
	for (int i = 0; i < SIM_BLOCKS; i++)
		nd->disk.base[i] = sim_rand(s);
	nd->disk.serves = serves;
	nd->disk.sync = !serves;
	if (serves)
		nd->g.core.disk_sum = disk_sum(nd);
}

static void send_block(struct sim *s, struct node *nd, unsigned int i)
{
	struct cmsg *m = nd->linked ? chan_send(s, nd->id, CH_DISK) : NULL;

	if (!m)
		return;
	m->bulk = BULK_PAGE;
	m->page = i;
	m->val = nd->disk.base[i];
}

void disk_write(struct sim *s, struct node *nd)
{
	unsigned int i = rnd(s, SIM_BLOCKS);
	uint64_t v = mix(sim_rand(s), ++nd->g.core.writes);

	if (disk_sum(nd) != nd->g.core.disk_sum)
		sim_fail(s, "P4", "the disk of node %d's VM is not the one that its device state has written", nd->id);
	nd->g.core.disk_sum ^= mix(i + 1077, block(nd, i)) ^ mix(i + 1077, v);
	if (!nd->disk.serves) {
		nd->disk.own[i] = v;
		nd->disk.own_map |= 1u << i;
		return;
	}
	nd->disk.base[i] = v;
	if (nd->disk.peer)
		send_block(s, nd, i);
}

void disk_step(struct sim *s, struct node *nd, struct step_run *r)
{
	struct disk *d = &nd->disk;
	struct cmsg *m;

	switch (r->step) {
	case STEP_RESYNC:
		if (!nd->linked) {
			r->rc = -EPIPE;
			break;
		}
		d->peer = true;
		for (unsigned int i = 0; i < SIM_BLOCKS; i++)
			send_block(s, nd, i);
		break;
	case STEP_DISK:
		/* The answer of stop is what says that nothing is under way. */
		m = nd->linked ? chan_send(s, nd->id, CH_DISK) : NULL;
		if (!m)
			break;
		m->bulk = BULK_MARK;
		m->n = r->n;
		break;
	case STEP_FLIP:
		if (nd->q_running)
			sim_fail(s, "P4", "node %s: the disks flip while the SVM runs", who(nd));
		if (nd->said_staged < r->n)
			sim_fail(s, "P3", "node %s: the disks flip to %lu before it is STAGED", who(nd), (unsigned long)r->n);
		if (d->mark_n != r->n)
			sim_fail(s, "P4", "node %s: the disks flip to %lu and have %lu", who(nd), (unsigned long)r->n,
				 (unsigned long)d->mark_n);
		if (d->flipped_n == r->n)
			break;
		for (unsigned int i = 0; i < SIM_BLOCKS; i++)
			if (d->done_map & 1u << i)
				d->base[i] = d->done[i];
		d->done_map = d->own_map = 0;
		d->flipped_n = r->n;
		break;
	default:
		break;
	}
}

/*
 * Mostly it works: the peer has no power any more. Which of two that live is to go on is decided before: one that has gone
 * on alone has the claim.
 */
void disk_fence(struct sim *s, struct node *nd, struct step_run *r)
{
	int peer = 1 - nd->id;

	if (node_up(s, peer) && ft_state(s->node[peer].ft) == FT_ALONE) {
		r->rc = -ESTALE;
		return;
	}
	if (chance(s, 3000)) {
		r->rc = -EIO;
		return;
	}
	if (node_up(s, peer))
		node_die(s, peer, false);
}

void disk_message(struct sim *s, struct node *nd, const struct cmsg *m)
{
	struct ft_ev fe = { .type = FE_DISK_MOVED };
	struct disk *d = &nd->disk;

	if (d->serves)
		return;
	if (m->bulk == BULK_PAGE && d->sync) {
		d->base[m->page] = m->val;
	} else if (m->bulk == BULK_PAGE) {
		d->open[m->page] = m->val;
		d->open_map |= 1u << m->page;
	} else {
		/* What was marked and never flipped belongs to an epoch that was given up. */
		for (unsigned int i = 0; i < SIM_BLOCKS; i++)
			if (d->open_map & 1u << i)
				d->done[i] = d->open[i];
		d->done_map |= d->open_map;
		d->open_map = 0;
		d->sync = false;
		d->mark_n = m->n;
		fe.type = FE_DISK_BARRIER;
		fe.n = m->n;
	}
	node_ft(s, nd, &fe);
}

void disk_promote(struct sim *s, struct node *nd)
{
	struct disk *d = &nd->disk;

	if (d->serves)
		return;
	if (s->fence && node_up(s, 1 - nd->id) && s->node[1 - nd->id].q_alive)
		sim_fail(s, "P4", "node %s takes over, and the peer may still write to the disks that they share", who(nd));
	for (unsigned int i = 0; i < SIM_BLOCKS; i++)
		if (d->own_map & 1u << i)
			d->base[i] = d->own[i];
	d->own_map = d->done_map = d->open_map = 0;
	d->serves = true;
	d->peer = false;
}
