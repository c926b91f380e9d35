/* SPDX-License-Identifier: BSD-2-Clause */
/* Two nodes, their disks, a connection and a guest (resync_world.h): what is synchronised is equal, whatever happens. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "disk/resync_wire.h"
#include "resync_world.h"

#define SIZE0	(3u * 1048576 + 37 * 512)
#define SIZE1	(5u * 1048576)

static unsigned int seed_of(void)
{
	const char *env = getenv("LOCKSTEP_SEED");
	unsigned int seed = env ? (unsigned int)strtoul(env, NULL, 0) : (unsigned int)time(NULL);

	printf("seed %u\n", seed);
	return seed;
}

static uint64_t read_bytes(const struct world *w)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < 2; i++)
		for (unsigned int k = 0; k < W_DISKS; k++)
			n += w->node[i].disk[k].read_bytes;
	return n;
}

static void no_reads(struct world *w)
{
	for (unsigned int i = 0; i < 2; i++)
		for (unsigned int k = 0; k < W_DISKS; k++)
			w->node[i].disk[k].read_bytes = 0;
	w->moved = 0;
}

static void pair_up(struct world *w, unsigned int seed)
{
	world_init(w, seed, SIZE0, SIZE1);
	node_up(&w->node[0]);
	node_up(&w->node[1]);
	node_serve(&w->node[0]);
}

/* To its end, with @guest writes meanwhile. */
static void sync_all(struct world *w, unsigned int serving, unsigned int guest)
{
	w->guest = guest;
	resync_begin(w, serving);
	world_run(w, both_done);
	if (w->node[0].rc || w->node[1].rc)
		fail_msg("%s / %s", w->node[0].sentence, w->node[1].sentence);
	w->guest = 0;
	world_run(w, quiet);
	assert_true(equal(w));
	assert_true(covered(w));
	checkpoint(w);
}

static void first(void **state)
{
	static struct world w;

	pair_up(&w, seed_of());
	sync_all(&w, 0, 200);
	assert_int_equal(lineage_compare(meta_lineage(w.node[0].meta[0]), meta_lineage(w.node[1].meta[0])), LINEAGE_SAME);
	assert_true(lineage_may_serve(meta_lineage(w.node[1].meta[1])));
	assert_true(w.progresses > 0 && w.last.done <= w.last.total);
	world_free(&w);
}

/* Zeroes and holes: neither read nor sent, and still holes afterwards. */
static void sparse(void **state)
{
	static struct world w;
	uint64_t data = 0;

	pair_up(&w, seed_of());
	for (unsigned int k = 0; k < W_DISKS; k++) {
		memset(w.node[1].disk[k].data, 0, w.size[k]);
		memset(w.node[1].disk[k].alloc, 0, w.size[k] / W_UNIT + 1);
		for (uint64_t u = 0; u * W_UNIT < w.size[k]; u++)
			data += w.node[0].disk[k].alloc[u] ? W_UNIT : 0;
	}
	/* A hole at the source where the target has data. */
	memset(w.node[0].disk[1].data, 0, 1 << 20);
	memset(w.node[0].disk[1].alloc, 0, (1 << 20) / W_UNIT);
	memset(w.node[1].disk[1].data, 7, 1 << 20);
	memset(w.node[1].disk[1].alloc, 1, (1 << 20) / W_UNIT);
	sync_all(&w, 0, 0);
	for (unsigned int k = 0; k < W_DISKS; k++)
		for (uint64_t u = 0; u * W_UNIT < w.size[k]; u++)
			assert_true(!w.node[1].disk[k].alloc[u] || w.node[0].disk[k].alloc[u]);
	assert_true(w.moved < data + data / 4);
	world_free(&w);
}

/* After a clean end of both: reads and moves what was written and nothing else. */
static void clean_ends(void **state)
{
	static struct world w;

	pair_up(&w, seed_of());
	sync_all(&w, 0, 50);
	link_cut(&w);
	node_down(&w.node[1], 0);
	w.guest = 40;
	world_run(&w, quiet);
	node_down(&w.node[0], 0);
	node_up(&w.node[0]);
	node_up(&w.node[1]);
	node_serve(&w.node[0]);
	no_reads(&w);
	sync_all(&w, 0, 0);
	assert_true(read_bytes(&w) < SIZE0 + SIZE1);
	/* Nothing at all was written. */
	link_cut(&w);
	node_down(&w.node[1], 0);
	node_up(&w.node[1]);
	no_reads(&w);
	sync_all(&w, 0, 0);
	assert_int_equal(read_bytes(&w), 0);
	assert_true(w.moved < 4096);
	/* Somebody has changed the image. */
	link_cut(&w);
	node_down(&w.node[1], 0);
	w.node[1].stamp++;
	w.node[1].disk[0].data[12345] ^= 1;
	w.node[1].disk[0].alloc[12345 / W_UNIT] = 1;
	node_up(&w.node[1]);
	sync_all(&w, 0, 0);
	world_free(&w);
}

/* Figures: a fortieth of what is asked for, a disk of 256 MiB of which 2.5 MiB were changed in pieces of 4 to 64 KiB. */
static void figures(void **state)
{
	static struct world w;
	uint64_t changed = 0, size = 256ull << 20;

	for (unsigned int round = 0; round < 2; round++) {
		struct node *a = &w.node[0], *b = &w.node[1];

		world_init(&w, 7, size, W_UNIT);
		w.sync_blk = true;
		w.link_room = 1000;
		for (uint64_t i = 0; i < size; i += 8) {
			uint64_t v = i * 0x9e3779b97f4a7c15ull;

			memcpy(a->disk[0].data + i, &v, 8);
		}
		memset(a->disk[0].alloc, 1, size / W_UNIT);
		memcpy(b->disk[0].data, a->disk[0].data, size);
		memset(b->disk[0].alloc, 1, size / W_UNIT);
		node_up(a);
		node_up(b);
		node_serve(a);
		sync_all(&w, 0, 0);
		link_cut(&w);
		node_down(b, 0);
		for (changed = 0; changed < 5u << 19;) {
			struct blk_req r = { .op = BLK_WRITE };
			uint32_t len = (1 + w_rand(&w, 16)) * W_UNIT;

			r.off = (uint64_t)w_rand(&w, (unsigned int)((size - len) / W_UNIT)) * W_UNIT;
			changed += len;
			for (uint32_t k = 0; k < len; k++)
				a->disk[0].data[r.off + k] ^= (uint8_t)(1 + k % 255);
			meta_dirty(a->meta[0], r.off, len);
		}
		lineage_next(meta_lineage(a->meta[0]), 77);
		node_down(a, 0);
		/* The second time the image was touched, so that all is compared. */
		a->stamp += round;
		node_up(a);
		node_up(b);
		node_serve(a);
		no_reads(&w);
		sync_all(&w, 0, 0);
		printf("%s: %.1f MiB changed, moved %.2f times that, read %.2f times that\n", round ? "compared" : "clean ends",
		       (double)changed / 1048576, (double)w.moved / (double)changed, (double)read_bytes(&w) / (double)changed);
		assert_true((double)w.moved < 1.2 * (double)changed);
		if (!round)
			assert_true((double)read_bytes(&w) < 2.0 * (double)changed);
		world_free(&w);
	}
}

/* Whether the serving node's bitmaps have all that the target of an unfinished resync lacks. */
static bool known_left(struct world *w)
{
	for (unsigned int i = 0; i < W_DISKS; i++)
		if (!meta_lineage(w->node[1].meta[i])->syncing || !(meta_lineage(w->node[0].meta[i])->map & LINEAGE_MAP_LEFT))
			return false;
	return true;
}

/* Broken off at any step, again and again; what was found equal or sent is not gone through again. */
static void interrupted(void **state)
{
	unsigned int seed = seed_of(), partly = 0;

	for (unsigned int round = 0; round < 20; round++) {
		static struct world w;
		unsigned int tries = 0, crash;
		bool left;

		pair_up(&w, seed + round);
		for (;;) {
			w.guest = 30;
			w.cut_at = 1 + w_rand(&w, 1u << w_rand(&w, 14));
			if (++tries > 12)
				w.cut_at = 0;
			resync_begin(&w, 0);
			world_run(&w, both_done);
			if (both_done(&w))
				break;
			link_cut(&w);
			w.cut_at = 0;
			crash = w_rand(&w, 4);
			world_run(&w, quiet);
			left = known_left(&w);
			partly += left;
			if (left && !covered(&w))
				fail_msg("seed %u: differs where nothing is dirty", seed + round);
			if (crash == 1 || crash == 2) {
				node_down(&w.node[1], (int)crash);
				if (left && !covered(&w))
					fail_msg("seed %u: differs after a crash where nothing is dirty", seed + round);
				node_up(&w.node[1]);
			} else if (crash == 3) {
				node_down(&w.node[0], (int)w_rand(&w, 3));
				node_up(&w.node[0]);
				node_serve(&w.node[0]);
			}
		}
		w.cut_at = 0;
		w.guest = 0;
		world_run(&w, quiet);
		if (w.node[0].rc || w.node[1].rc)
			fail_msg("seed %u: %s", seed + round, w.node[0].sentence);
		if (!equal(&w))
			fail_msg("seed %u: not equal", seed + round);
		world_free(&w);
	}
	assert_true(partly > 10);
}

/* Ranges that were confirmed are not gone through again. */
static bool half(struct world *w)
{
	return w->last.total && w->last.done > w->last.total * 3 / 4;
}

static bool confirmed(struct world *w)
{
	return w->confirmed > 0;
}

static void resumed(void **state)
{
	static struct world w;
	uint64_t all, rest, size = 96u << 20;

	world_init(&w, seed_of(), size, W_UNIT);
	memset(w.node[0].disk[0].data, 1, size);
	memset(w.node[0].disk[0].alloc, 1, size / W_UNIT);
	node_up(&w.node[0]);
	node_up(&w.node[1]);
	node_serve(&w.node[0]);
	resync_begin(&w, 0);
	world_run(&w, confirmed);
	link_cut(&w);
	world_run(&w, quiet);
	assert_true(covered(&w));
	rest = meta_dirty_bytes(w.node[0].meta[0]);
	assert_true(rest > 0 && rest < size * 3 / 4);
	no_reads(&w);
	sync_all(&w, 0, 0);
	all = w.node[0].disk[0].read_bytes;
	assert_true(all <= 2 * rest);
	world_free(&w);
}

/* Lives of a pair: partings, crashes of either, promotions of the other, resyncs, all at random. */
static void life(unsigned int seed, unsigned int *seen)
{
	static struct world w;
	unsigned int serving = 0;

	pair_up(&w, seed);
	sync_all(&w, 0, 30);
	for (unsigned int step = 0; step < 8; step++) {
		struct node *s, *t;
		unsigned int how = w_rand(&w, 6);

		s = &w.node[serving];
		t = &w.node[!serving];
		/* Together. */
		w.guest = w_rand(&w, 40);
		world_run(&w, quiet);
		if (w_rand(&w, 2))
			checkpoint(&w);
		w.guest = w_rand(&w, 40);
		w.cut_at = 1 + w_rand(&w, 300);
		world_run(&w, quiet);
		w.cut_at = 0;
		seen[how]++;
		switch (how) {
		case 0: case 1:		/* the standby ends or is killed; we go on */
			link_cut(&w);
			world_run(&w, quiet);
			if (!covered(&w))
				fail_msg("seed %u step %u: differs where nothing is dirty", seed, step);
			node_down(t, (int)how);
			w.guest = w_rand(&w, 60);
			world_run(&w, quiet);
			node_up(t);
			break;
		case 2: case 3:		/* the serving node is killed and comes back as such, perhaps after lone writes */
			if (w_rand(&w, 2)) {
				link_cut(&w);
				w.guest = w_rand(&w, 60);
				world_run(&w, quiet);
			}
			resync_free(t->resync);
			t->resync = NULL;
			node_down(s, (int)how - 1);
			link_cut(&w);
			world_run(&w, quiet);
			node_up(s);
			node_serve(s);
			w.guest = w_rand(&w, 60);
			world_run(&w, quiet);
			break;
		case 4: case 5:		/* a failover: the dead one joins again */
			node_down(s, how == 4 ? 1 : 2);
			link_cut(&w);
			world_run(&w, quiet);
			serving = !serving;
			node_serve(t);
			serve_peer(t->serve, NULL);
			w.guest = 1 + w_rand(&w, 60);
			world_run(&w, quiet);
			node_up(s);
			break;
		}
		w.guest = 20;
		if (w_rand(&w, 3) == 0) {
			w.cut_at = 1 + w_rand(&w, 3000);
			resync_begin(&w, serving);
			world_run(&w, both_done);
			w.cut_at = 0;
			link_cut(&w);
			world_run(&w, quiet);
		}
		resync_begin(&w, serving);
		world_run(&w, both_done);
		w.guest = 0;
		world_run(&w, quiet);
		if (w.node[0].rc || w.node[1].rc)
			fail_msg("seed %u step %u (%u): %s", seed, step, how, w.node[serving].sentence);
		if (!equal(&w))
			fail_msg("seed %u step %u (%u): not equal", seed, step, how);
		checkpoint(&w);
	}
	world_free(&w);
}

static void lives(void **state)
{
	unsigned int seed = seed_of(), seen[6] = { 0 };

	for (unsigned int i = 0; i < 12; i++)
		life(seed + i, seen);
	for (unsigned int i = 0; i < 6; i++)
		assert_true(seen[i] > 0);
}

/* Writes of the guest that fail while the disks are brought up to date: what then differs is dirty. */
static void failing_writes(void **state)
{
	unsigned int seed = seed_of();

	for (unsigned int i = 0; i < 10; i++) {
		static struct world w;

		pair_up(&w, seed + i);
		w.node[0].disk[0].fail_write = 4;
		w.node[0].disk[1].fail_write = 4;
		w.guest = 150;
		resync_begin(&w, 0);
		world_run(&w, both_done);
		w.guest = 0;
		world_run(&w, quiet);
		if (w.node[0].rc || w.node[1].rc)
			fail_msg("seed %u: %s", seed + i, w.node[0].sentence);
		if (!covered(&w))
			fail_msg("seed %u: differs where nothing is dirty", seed + i);
		world_free(&w);
	}
}

/* A disk that cannot be read ends it with a sentence, and nothing is taken for equal. */
static void failing_reads(void **state)
{
	static struct world w;

	for (unsigned int i = 0; i < 2; i++) {
		pair_up(&w, seed_of());
		w.node[i].disk[1].fail_read = 3;
		resync_begin(&w, 0);
		w.until = both_done;
		w.cut_at = 200000;
		world_run(&w, both_done);
		assert_int_equal(w.node[i].rc, -EIO);
		assert_non_null(strstr(w.node[i].sentence, i ? "disk 1 cannot be read on the joining node" :
				       "disk 1 cannot be read on the serving node"));
		link_cut(&w);
		w.cut_at = 0;
		w.node[i].disk[1].fail_read = 0;
		world_run(&w, quiet);
		assert_true(covered(&w));
		sync_all(&w, 0, 0);
		world_free(&w);
	}
}

static void refused(struct world *w, unsigned int serving, const char *what)
{
	resync_begin(w, serving);
	world_run(w, both_done);
	for (unsigned int i = 0; i < 2; i++) {
		assert_int_equal(w->node[i].rc, -EPERM);
		if (!strstr(w->node[i].sentence, what) || !strstr(w->node[i].sentence, "lockstep run --discard-disks"))
			fail_msg("%s", w->node[i].sentence);
	}
	link_cut(w);
}

static void lone_writes(struct world *w)
{
	w->guest = 20;
	world_run(w, quiet);
}

static void refusals(void **state)
{
	static struct world w;
	struct node *a = &w.node[0], *b = &w.node[1];
	uint8_t *kept;

	pair_up(&w, seed_of());
	sync_all(&w, 0, 0);
	link_cut(&w);
	lone_writes(&w);
	/* The other one is started in its place, and this one joins it. */
	node_down(a, 0);
	node_serve(b);
	node_up(a);
	kept = malloc(SIZE0);
	assert_non_null(kept);
	memcpy(kept, a->disk[0].data, SIZE0);
	refused(&w, 1, "the joining node's copy is the newer one (generation 2; the serving node's is of generation 1");
	/* That it has written, too, changes what is said. */
	lone_writes(&w);
	refused(&w, 1, "split brain: since generation 1 ");
	assert_memory_equal(kept, a->disk[0].data, SIZE0);
	free(kept);
	/* A person decides. */
	a->discard = true;
	sync_all(&w, 1, 20);
	a->discard = false;
	link_cut(&w);
	world_free(&w);

	/* One that has been part of a pair joins one that never was; another disk. */
	pair_up(&w, seed_of());
	lineage_begin(meta_lineage(b->meta[0]), (const uint8_t *)"0123456789abcdef", 5);
	refused(&w, 0, "the serving node's never has");
	lineage_begin(meta_lineage(a->meta[0]), (const uint8_t *)"0123456789abcdeg", 5);
	refused(&w, 0, "are of different disks");
	b->discard = true;
	sync_all(&w, 0, 0);
	b->discard = false;
	link_cut(&w);
	world_free(&w);
}

static bool begun(struct world *w)
{
	return w->node[0].resync && w->link[1].n > 3;
}

/* What is incomplete does not serve, and is completed however it comes back. */
static void incomplete(void **state)
{
	static struct world w;
	struct blk *bases[W_DISKS];
	struct resync_cfg cfg = { .n = W_DISKS, .bases = bases };
	struct resync_peer peer = { 0 };
	struct err e = { 0 };

	pair_up(&w, seed_of());
	resync_begin(&w, 0);
	world_run(&w, begun);
	link_cut(&w);
	world_run(&w, quiet);
	assert_true(meta_lineage(w.node[1].meta[0])->syncing);
	cfg.metas = w.node[1].meta;
	assert_null(resync_source(&cfg, NULL, &peer, &e));
	assert_int_equal(e.code, -EPERM);
	node_down(&w.node[1], 0);
	node_up(&w.node[1]);
	/* With the process goes the knowledge of what is left. */
	node_down(&w.node[0], 1);
	node_up(&w.node[0]);
	node_serve(&w.node[0]);
	sync_all(&w, 0, 10);
	world_free(&w);
}

static unsigned int phase;

static bool plan_said(struct world *w)
{
	for (const struct w_msg *m = w->link[1].first; m; m = m->next)
		if (m->kind == W_RESYNC && m->m.type == RSY_PLAN)
			return true;
	return false;
}

/* While the plan is on its way the guest writes, the first time without a peer. */
static bool lone_at_plan(struct world *w)
{
	if (!phase && plan_said(w)) {
		w->stall = true;
		w->guest = 20;
		phase = 1;
		assert_false(resync_running(w->node[1].resync));
	} else if (phase == 1 && !w->guest && !w->guest_now) {
		w->stall = false;
		phase = 2;
	}
	return both_done(w);
}

/* A generation that was begun between plan and agreement is the target's as well: a failover follows on it. */
static void begun_meanwhile(void **state)
{
	static struct world w;
	struct node *a = &w.node[0], *b = &w.node[1];

	pair_up(&w, seed_of());
	sync_all(&w, 0, 0);
	link_cut(&w);
	phase = 0;
	resync_begin(&w, 0);
	world_run(&w, lone_at_plan);
	assert_int_equal(phase, 2);
	assert_true(resync_running(b->resync) && !resync_running(a->resync) && !resync_running(NULL));
	if (a->rc || b->rc)
		fail_msg("%s / %s", a->sentence, b->sentence);
	world_run(&w, quiet);
	assert_true(equal(&w));
	checkpoint(&w);
	assert_int_equal(meta_lineage(a->meta[0])->current.number, 2);
	for (unsigned int k = 0; k < W_DISKS; k++)
		assert_int_equal(lineage_compare(meta_lineage(a->meta[k]), meta_lineage(b->meta[k])), LINEAGE_SAME);
	node_down(a, 1);
	link_cut(&w);
	world_run(&w, quiet);
	node_serve(b);
	serve_peer(b->serve, NULL);
	lone_writes(&w);
	node_up(a);
	sync_all(&w, 1, 10);
	world_free(&w);
}

static bool agreed_unfit(struct world *w)
{
	for (const struct w_msg *m = w->link[0].first; m; m = m->next)
		if (m->kind == W_RESYNC && m->m.type == RSY_READY && !lineage_may_serve(meta_lineage(w->node[1].meta[0])) &&
		    !lineage_may_serve(meta_lineage(w->node[1].meta[1])))
			phase = 1;
	for (const struct w_msg *m = w->link[1].first; m; m = m->next)
		assert_true(m->kind == W_RESYNC || resync_running(w->node[1].resync));
	return both_done(w);
}

static void to_the_end(struct world *w)
{
	phase = 0;
	resync_begin(w, 0);
	world_run(w, agreed_unfit);
	assert_int_equal(phase, 1);
	if (w->node[0].rc || w->node[1].rc)
		fail_msg("%s / %s", w->node[0].sentence, w->node[1].sentence);
	world_run(w, quiet);
	assert_true(equal(w));
}

/* Whether the target's copies are all, or none, fit to serve. */
static void fit(struct world *w, bool yes)
{
	for (unsigned int k = 0; k < W_DISKS; k++)
		assert_int_equal(lineage_may_serve(meta_lineage(w->node[1].meta[k])), yes);
}

/* A target is no state of a time before its first checkpoint, however little was to be sent; and comes back cheaply. */
static void unsettled(void **state)
{
	static struct world w;

	pair_up(&w, seed_of());
	to_the_end(&w);
	fit(&w, false);
	checkpoint(&w);
	fit(&w, true);
	/* Nothing was written, so nothing is sent. */
	link_cut(&w);
	no_reads(&w);
	to_the_end(&w);
	assert_int_equal(read_bytes(&w), 0);
	fit(&w, false);
	/* What the guest writes now is lost with the target's power, in part. */
	lone_writes(&w);
	link_cut(&w);
	world_run(&w, quiet);
	node_down(&w.node[1], 2);
	node_up(&w.node[1]);
	fit(&w, false);
	no_reads(&w);
	to_the_end(&w);
	assert_true(read_bytes(&w) < SIZE0 + SIZE1);
	checkpoint(&w);
	fit(&w, true);
	/* It is written down. */
	link_cut(&w);
	node_down(&w.node[1], 1);
	node_up(&w.node[1]);
	fit(&w, true);
	world_free(&w);
}

static unsigned int told;
static nstime stalled_at;

/* Nothing arrives for several ticks of progress, from when all that can be done meanwhile is done. */
static bool stalled(struct world *w)
{
	if (!phase && begun(w)) {
		w->stall = true;
		phase = 1;
	} else if (phase == 1 && !w->n_event) {
		stalled_at = clock_ns();
		told = w->progresses;
		phase = 2;
	} else if (phase == 2 && clock_ns() - stalled_at > NS_PER_S) {
		told = w->progresses - told;
		w->stall = false;
		phase = 3;
	}
	return both_done(w);
}

/* A resync that does not move says nothing of progress. */
static void unmoved(void **state)
{
	static struct world w;

	pair_up(&w, seed_of());
	phase = 0;
	resync_begin(&w, 0);
	world_run(&w, stalled);
	assert_int_equal(phase, 3);
	assert_true(told <= 1);
	assert_int_equal(w.node[0].rc, 0);
	world_run(&w, quiet);
	assert_true(equal(&w));
	world_free(&w);
}

static nstime rate_begin;

/* When half is done: what it may have done in this time, and what it may do at once; then it may go as fast as it can. */
static bool limited(struct world *w)
{
	nstime took = clock_ns() - rate_begin;

	if (w->rate && half(w)) {
		assert_true((double)w->last.done <= (double)w->rate * (double)took / NS_PER_S + (double)w->rate / 4 + 2 * 1048576);
		assert_true(w->last.rate > 0 && w->last.rate < w->rate * 3 / 2 && w->last.left_ms != UINT64_MAX);
		w->rate = 0;
		resync_rate(w->node[0].resync, 0);
	}
	return both_done(w);
}

static void rate_limit(void **state)
{
	static struct world w;
	uint64_t size = 24u << 20;

	world_init(&w, 3, size, W_UNIT);
	memset(w.node[0].disk[0].data, 1, size);
	memset(w.node[0].disk[0].alloc, 1, size / W_UNIT);
	node_up(&w.node[0]);
	node_up(&w.node[1]);
	node_serve(&w.node[0]);
	w.sync_blk = true;
	w.rate = 16u << 20;
	rate_begin = clock_ns();
	resync_begin(&w, 0);
	world_run(&w, limited);
	assert_int_equal(w.rate, 0);
	assert_int_equal(w.node[0].rc, 0);
	world_run(&w, quiet);
	assert_true(equal(&w));
	world_free(&w);
}

/* Bytes of a peer that is not one of ours. */
static void garbage(void **state)
{
	static struct world w;
	unsigned int seed = seed_of(), bad = 0;

	for (unsigned int round = 0; round < 200; round++) {
		uint8_t p[700];
		struct err e = { 0 };

		pair_up(&w, seed + round);
		resync_begin(&w, 0);
		w.cut_at = 1 + w_rand(&w, 400);
		world_run(&w, both_done);
		w.cut_at = 0;
		for (unsigned int k = 0; k < 20; k++) {
			struct node *n = &w.node[w_rand(&w, 2)];
			struct rsy_msg m = { .type = w_rand(&w, 12), .disk = (uint16_t)w_rand(&w, 3), .payload = p };

			m.len = w_rand(&w, 2) ? w_rand(&w, sizeof(p)) : 59;
			for (uint32_t i = 0; i < m.len; i++)
				p[i] = w_rand(&w, 3) ? 0 : (uint8_t)w_rand(&w, 256);
			bad += resync_message(n->resync, &m, &e) == -EPROTO;
		}
		link_cut(&w);
		world_run(&w, quiet);
		world_free(&w);
	}
	assert_true(bad > 200);
}

/* test_disk_resync [TEST]; LOCKSTEP_SEED repeats what is drawn */
int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first), cmocka_unit_test(sparse), cmocka_unit_test(clean_ends), cmocka_unit_test(figures),
		cmocka_unit_test(interrupted), cmocka_unit_test(resumed), cmocka_unit_test(lives),
		cmocka_unit_test(failing_writes), cmocka_unit_test(failing_reads), cmocka_unit_test(refusals),
		cmocka_unit_test(incomplete), cmocka_unit_test(begun_meanwhile), cmocka_unit_test(unsettled), cmocka_unit_test(unmoved),
		cmocka_unit_test(rate_limit), cmocka_unit_test(garbage),
	};

	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
