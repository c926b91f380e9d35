/* SPDX-License-Identifier: BSD-2-Clause */
/* See resync_world.h. */
#include "resync_world.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

unsigned int w_rand(struct world *w, unsigned int n)
{
	return (unsigned int)rand_r(&w->rnd) % n;
}

/* Disks */

static void apply_write(struct mem_disk *d, const struct blk_req *r)
{
	bool zero = r->op != BLK_WRITE;

	if (zero)
		memset(d->data + r->off, 0, r->len);
	else
		memcpy(d->data + r->off, r->buf, r->len);
	for (uint64_t u = r->off / W_UNIT; u * W_UNIT < r->off + r->len; u++) {
		bool whole = r->off <= u * W_UNIT && (r->off + r->len >= (u + 1) * W_UNIT || r->off + r->len == d->blk.size);

		d->alloc[u] = !zero || (r->flags & BLK_NO_HOLE) || (d->alloc[u] && !whole);
	}
}

static void complete(struct mem_disk *d, struct blk_req *r)
{
	struct world *w = d->w;
	int rc = 0;

	if (d->node->dead) {
		/* It may have reached the disk or not. */
		if (r->op != BLK_READ && r->op <= BLK_TRIM && w_rand(w, 2))
			apply_write(d, r);
		r->done(r, -ESHUTDOWN);
		return;
	}
	switch (r->op) {
	case BLK_READ:
		if (d->fail_read && !w_rand(w, (unsigned int)d->fail_read))
			rc = -EIO;
		else
			memcpy(r->buf, d->data + r->off, r->len);
		d->read_bytes += r->len;
		break;
	case BLK_WRITE:
	case BLK_ZERO:
	case BLK_TRIM:
		if (d->fail_write && !w_rand(w, (unsigned int)d->fail_write)) {
			rc = -EIO;
			if (w_rand(w, 2))
				apply_write(d, r);	/* nobody knows */
		} else {
			apply_write(d, r);
		}
		break;
	case BLK_FLUSH:
		if (d->durable)
			memcpy(d->durable, d->data, d->blk.size);
		break;
	case BLK_STATUS: {
		uint64_t at = r->off, end = r->off + r->len;
		unsigned int n = 0;

		while (at < end && n < r->n_ext) {
			bool a = d->alloc[at / W_UNIT];
			uint64_t to = at;

			while (to < end && d->alloc[to / W_UNIT] == a)
				to = (to / W_UNIT + 1) * W_UNIT;
			to = to < end ? to : end;
			r->ext[n++] = (struct blk_extent){ to - at, a ? 0 : BLK_HOLE | BLK_ZEROES };
			at = to;
		}
		r->n_ext = n;
		break;
	}
	case BLK_CACHE:
		break;
	}
	r->done(r, rc);
}

static void mem_submit(struct blk *b, struct blk_req *r)
{
	struct mem_disk *d = (struct mem_disk *)b;
	struct world *w = d->w;

	assert_true(r->off <= b->size && r->len <= b->size - r->off);
	if (w->sync_blk || d->node->dead) {
		complete(d, r);
		return;
	}
	if (w->n_event == w->cap_event) {
		w->cap_event = w->cap_event ? 2 * w->cap_event : 64;
		w->event = realloc(w->event, w->cap_event * sizeof(*w->event));
		assert_non_null(w->event);
	}
	w->event[w->n_event].r = r;
	w->event[w->n_event++].d = d;
}

static const struct blk_ops mem_ops = { mem_submit };

static bool complete_one(struct world *w)
{
	unsigned int i;
	struct blk_req *r;
	struct mem_disk *d;

	if (!w->n_event)
		return false;
	i = w_rand(w, w->n_event);
	r = w->event[i].r;
	d = w->event[i].d;
	w->event[i] = w->event[--w->n_event];
	complete(d, r);
	return true;
}

/* The connection */

static int put(struct world *w, unsigned int to, struct w_msg *m)
{
	if (w->cut || w->link[to].n >= w->link_room) {
		free(m);
		w->link[to].full = !w->cut;
		return w->cut ? -EPIPE : -EAGAIN;
	}
	m->next = NULL;
	m->to = &w->node[to];
	*w->link[to].last = m;
	w->link[to].last = &m->next;
	w->link[to].n++;
	w->moved += 16 + m->m.len + (m->kind == 1 ? m->len : 0);
	return 0;
}

static struct w_msg *msg_new(int kind, uint64_t bytes)
{
	struct w_msg *m = calloc(1, sizeof(*m) + bytes);

	assert_non_null(m);
	m->kind = kind;
	return m;
}

static int send_msg(void *arg, const struct rsy_msg *rm)
{
	struct node *n = arg;
	struct w_msg *m = msg_new(0, rm->len);

	assert_true(rm->len <= RSY_MAX_PAYLOAD);
	m->m = *rm;
	memcpy(m->bytes, rm->payload, rm->len);
	m->m.payload = m->bytes;
	return put(n->w, !n->i, m);
}

static int send_write(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	struct node *n = arg;
	struct w_msg *m = msg_new(1, len);

	m->disk = disk;
	m->off = off;
	m->len = len;
	memcpy(m->bytes, data, len);
	return put(n->w, !n->i, m);
}

static int send_zero(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole)
{
	struct node *n = arg;
	struct w_msg *m = msg_new(2, 0);

	m->disk = disk;
	m->off = off;
	m->len = len;
	return put(n->w, !n->i, m);
}

static int send_marker(void *arg, uint64_t n)
{
	return 0;
}

static void apply_next(struct node *n);

static void applied(struct blk_req *r, int rc)
{
	struct w_msg *m = r->arg;
	struct node *n = m->to;

	free(m);
	n->applying = false;
	apply_next(n);
}

static void apply_next(struct node *n)
{
	struct w_msg *m = n->apply;

	if (n->applying)
		return;
	if (!m)
		return;
	n->apply = m->next;
	if (!n->apply)
		n->apply_last = &n->apply;
	if (m->kind == W_SETTLE) {
		m->settled(m->settle_arg);
		free(m);
		apply_next(n);
		return;
	}
	n->applying = true;
	m->req = (struct blk_req){ .op = m->kind == 1 ? BLK_WRITE : BLK_ZERO, .off = m->off, .len = m->len, .buf = m->bytes,
				   .done = applied, .arg = m };
	blk_submit(&n->disk[m->disk].blk, &m->req);
}

/* It waits in the row of what is to be applied. */
static void on_settle(void *arg, void (*settled)(void *settle_arg), void *settle_arg)
{
	struct node *n = arg;
	struct w_msg *m = msg_new(W_SETTLE, 0);

	m->settled = settled;
	m->settle_arg = settle_arg;
	m->to = n;
	*n->apply_last = m;
	n->apply_last = &m->next;
	apply_next(n);
}

static bool deliver(struct world *w, unsigned int to)
{
	struct w_msg *m = w->link[to].first;
	struct node *n = &w->node[to], *from = &w->node[!to];

	if (!m || w->stall)
		return false;
	w->link[to].first = m->next;
	if (!m->next)
		w->link[to].last = &w->link[to].first;
	w->link[to].n--;
	if (m->kind == 0) {
		struct err e = { 0 };

		w->confirmed += m->m.type == RSY_PROGRESS && n->serve;
		if (n->resync)
			assert_int_equal(resync_message(n->resync, &m->m, &e), 0);
		free(m);
	} else {
		m->next = NULL;
		*n->apply_last = m;
		n->apply_last = &m->next;
		apply_next(n);
	}
	if (w->link[to].full && w->link[to].n <= w->link_room / 2) {
		w->link[to].full = false;
		if (from->resync)
			resync_writable(from->resync);
		if (from->serve)
			serve_writable(from->serve);
	}
	return true;
}

/* The guest */

struct guest_req {
	struct blk_req r;
	struct world *w;
	uint8_t buf[];
};

static void guest_done(struct blk_req *r, int rc)
{
	struct guest_req *g = (struct guest_req *)r;

	g->w->guest_now--;
	free(g);
}

static bool guest_write(struct world *w)
{
	struct node *n = w->node[0].serve ? &w->node[0] : &w->node[1];
	unsigned int disk = w_rand(w, W_DISKS), kind = w_rand(w, 10);
	uint64_t size = w->size[disk];
	uint32_t len = kind < 2 ? 1 + w_rand(w, 700) : (1 + w_rand(w, kind < 8 ? 4 : 40)) * W_UNIT;
	uint64_t off = (uint64_t)w_rand(w, (unsigned int)size);
	struct guest_req *g;

	if (!w->guest || w->guest_now >= 6 || !n->serve)
		return false;
	w->guest--;
	if (kind >= 2)
		off = off / W_UNIT * W_UNIT;
	len = off + len > size ? (uint32_t)(size - off) : len;
	g = malloc(sizeof(*g) + len);
	assert_non_null(g);
	g->w = w;
	g->r = (struct blk_req){ .op = kind == 3 ? BLK_ZERO : kind == 4 ? BLK_TRIM : BLK_WRITE, .off = off, .len = len,
				 .buf = g->buf, .done = guest_done };
	if (!w_rand(w, 20))
		g->r = (struct blk_req){ .op = BLK_FLUSH, .done = guest_done };
	memset(g->buf, (int)w_rand(w, 4) ? (int)w_rand(w, 256) : 0, len);
	w->guest_now++;
	blk_submit(serve_blk(n->serve, disk), &g->r);
	return true;
}

/* Nodes */

void node_up(struct node *n)
{
	struct err e = { 0 };

	assert_false(n->up);
	n->dead = false;
	for (unsigned int i = 0; i < W_DISKS; i++) {
		struct meta_open o = { n->path[i], n->w->size[i], n->stamp };

		n->meta[i] = meta_open(&o, &e);
		if (!n->meta[i])
			fail_msg("%s", e.msg);
	}
	n->up = true;
}

static void on_want(void *arg) { }
static void on_local_error(void *arg, unsigned int disk, int rc) { }
static void on_debt(void *arg, bool open) { }
static void on_debt_failed(void *arg, int rc) { }

void node_serve(struct node *n)
{
	struct serve_ops ops = { on_want, on_local_error, on_debt, on_debt_failed, n };
	struct blk *bases[W_DISKS];
	struct err e = { 0 };

	for (unsigned int i = 0; i < W_DISKS; i++)
		bases[i] = &n->disk[i].blk;
	n->serve = serve_new(NULL, bases, n->meta, W_DISKS, &ops, &e);
	assert_non_null(n->serve);
	serve_limit(n->serve, UINT64_MAX);
}

static void drop_apply(struct node *n)
{
	struct w_msg *m;

	while ((m = n->apply)) {
		n->apply = m->next;
		if (m->kind == W_SETTLE)
			m->settled(m->settle_arg);
		free(m);
	}
	n->apply_last = &n->apply;
}

static void drain_node(struct node *n)
{
	struct world *w = n->w;
	bool again = true;

	while (again) {
		again = false;
		for (unsigned int i = 0; i < w->n_event; i++) {
			struct blk_req *r = w->event[i].r;
			struct mem_disk *d = w->event[i].d;

			if (d->node != n)
				continue;
			w->event[i] = w->event[--w->n_event];
			complete(d, r);
			again = true;
			break;
		}
		if (n->serve)
			again |= serve_saver_step(n->serve);
	}
}

static char *slurp(const char *path, size_t *len)
{
	FILE *f = fopen(path, "rb");
	char *p = malloc(4 << 20);

	assert_true(f && p);
	*len = fread(p, 1, 4 << 20, f);
	fclose(f);
	return p;
}

void node_down(struct node *n, int how)
{
	char *was[W_DISKS];
	size_t len[W_DISKS];
	struct err e = { 0 };
	unsigned int guest = n->w->guest;

	assert_true(n->up);
	resync_free(n->resync);
	n->resync = NULL;
	if (how) {
		for (unsigned int i = 0; i < W_DISKS; i++)
			was[i] = slurp(n->path[i], &len[i]);
		n->dead = true;
	}
	drop_apply(n);
	n->w->guest = 0;
	/* Whatever the dying process still does in here is undone below. */
	if (n->serve)
		serve_peer(n->serve, NULL);
	drain_node(n);
	apply_next(n);
	if (n->serve) {
		drain_node(n);
		assert_int_equal(n->w->guest_now, 0);
		serve_free(n->serve);
		n->serve = NULL;
	}
	n->w->guest = guest;
	for (unsigned int i = 0; i < W_DISKS; i++) {
		struct mem_disk *d = &n->disk[i];

		if (!how) {
			if (d->durable)
				memcpy(d->durable, d->data, d->blk.size);
			assert_int_equal(meta_end(n->meta[i], n->stamp, &e), 0);
		}
		meta_close(n->meta[i]);
		n->meta[i] = NULL;
		if (how) {
			FILE *f = fopen(n->path[i], "wb");

			assert_true(f && fwrite(was[i], 1, len[i], f) == len[i]);
			fclose(f);
			free(was[i]);
			n->stamp++;
		}
		for (uint64_t u = 0; how == 2 && u < d->blk.size; u += 512)
			if (w_rand(n->w, 2))
				memcpy(d->data + u, d->durable + u, d->blk.size - u < 512 ? d->blk.size - u : 512);
		if (how == 2) {
			memcpy(d->durable, d->data, d->blk.size);
			memset(d->alloc, 1, d->blk.size / W_UNIT + 1);
		}
	}
	n->up = false;
}

static void on_done(void *arg, int rc, const char *sentence)
{
	struct node *n = arg;

	assert_int_equal(n->rc, 1);
	n->rc = rc;
	snprintf(n->sentence, sizeof(n->sentence), "%s", sentence);
}

static void on_progress(void *arg, const struct resync_progress *p)
{
	struct node *n = arg;

	n->w->progresses++;
	assert_true(p->done <= p->total && p->disk < p->disks);
	n->w->last = *p;
}

static void on_ready(void *arg)
{
	struct node *n = arg;
	struct serve_peer sp = { send_write, send_zero, send_marker, n };

	serve_peer(n->serve, &sp);
}

/* A loop runs once. Resyncs that have ended are gone with it. */
static void fresh_loop(struct world *w)
{
	struct err e = { 0 };

	for (unsigned int i = 0; i < 2; i++) {
		struct node *n = &w->node[i];

		if (n->resync && n->rc == 1)
			return;
		resync_free(n->resync);
		n->resync = NULL;
	}
	loop_free(w->loop);
	w->loop = loop_new("test", &e);
	assert_non_null(w->loop);
}

void resync_begin(struct world *w, unsigned int serving)
{
	struct blk *bases[2][W_DISKS];
	struct err e = { 0 };

	fresh_loop(w);
	w->cut = false;
	for (unsigned int i = 0; i < 2; i++) {
		struct node *n = &w->node[i];
		struct resync_peer peer = { send_msg, send_write, send_zero, n };
		struct resync_cfg cfg = { .loop = w->loop, .n = W_DISKS, .bases = bases[i], .metas = n->meta, .rate = w->rate,
					  .discard = n->discard, .settle = on_settle, .ready = on_ready,
					  .done = on_done, .progress = on_progress, .arg = n };

		for (unsigned int k = 0; k < W_DISKS; k++)
			bases[i][k] = &n->disk[k].blk;
		n->rc = 1;
		n->resync = i == serving ? resync_source(&cfg, n->serve, &peer, &e) : resync_target(&cfg, &peer, &e);
		assert_non_null(n->resync);
	}
}

void link_cut(struct world *w)
{
	w->cut = true;
	for (unsigned int i = 0; i < 2; i++) {
		struct w_msg *m;

		while ((m = w->link[i].first)) {
			w->link[i].first = m->next;
			free(m);
		}
		w->link[i].last = &w->link[i].first;
		w->link[i].n = 0;
		w->link[i].full = false;
	}
	for (unsigned int i = 0; i < 2; i++) {
		struct node *n = &w->node[i];

		resync_free(n->resync);
		n->resync = NULL;
		if (n->serve)
			serve_peer(n->serve, NULL);
		drop_apply(n);
		apply_next(n);
	}
}

void checkpoint(struct world *w)
{
	static uint64_t n;
	struct err e = { 0 };

	for (unsigned int i = 0; i < 2; i++) {
		if (!w->node[i].serve)
			continue;
		n++;
		serve_marker(w->node[i].serve, n);
		for (unsigned int k = 0; k < W_DISKS; k++)
			if (w->node[!i].disk[k].durable)
				memcpy(w->node[!i].disk[k].durable, w->node[!i].disk[k].data, w->size[k]);
		if (w->node[!i].up)
			assert_int_equal(resync_settled(w->node[!i].meta, W_DISKS, &e), 0);
		serve_committed(w->node[i].serve, n);
	}
}

bool equal(struct world *w)
{
	for (unsigned int i = 0; i < W_DISKS; i++)
		if (memcmp(w->node[0].disk[i].data, w->node[1].disk[i].data, w->size[i]))
			return false;
	return true;
}

bool covered(struct world *w)
{
	struct node *n = w->node[0].serve ? &w->node[0] : &w->node[1];

	for (unsigned int i = 0; i < W_DISKS; i++) {
		uint64_t at = 0, start = 0, len = 0;

		while (at < w->size[i]) {
			if (!meta_next_dirty(n->meta[i], at, &start, &len))
				start = w->size[i], len = 0;
			if (memcmp(w->node[0].disk[i].data + at, w->node[1].disk[i].data + at, start - at))
				return false;
			at = start + len;
		}
	}
	return true;
}

bool both_done(struct world *w)
{
	return w->node[0].rc != 1 && w->node[1].rc != 1;
}

bool quiet(struct world *w)
{
	if (w->guest && (w->node[0].serve || w->node[1].serve))
		return false;
	return !w->n_event && !w->link[0].n && !w->link[1].n && !w->guest_now && !w->node[0].apply && !w->node[1].apply &&
	       !w->node[0].applying && !w->node[1].applying;
}

static void on_tick(struct loop_timer *t)
{
	struct world *w = t->arg;

	for (unsigned int k = 0; k < 50; k++) {
		unsigned int what = w_rand(w, 8);

		if (w->until(w) || (w->cut_at && ++w->steps >= w->cut_at)) {
			loop_stop(w->loop);
			return;
		}
		if (what < 3)
			complete_one(w);
		else if (what < 6)
			deliver(w, what & 1);
		else if (what == 6)
			guest_write(w);
		else
			for (unsigned int i = 0; i < 2; i++)
				if (w->node[i].serve)
					serve_saver_step(w->node[i].serve);
	}
	loop_timer_set(w->loop, t, loop_now(w->loop));
}

void world_run(struct world *w, bool (*until)(struct world *w))
{
	fresh_loop(w);
	w->until = until;
	w->steps = 0;
	w->tick.fn = on_tick;
	w->tick.arg = w;
	loop_timer_set(w->loop, &w->tick, loop_now(w->loop));
	alarm(60);
	loop_run(w->loop);
	alarm(0);
	loop_timer_del(w->loop, &w->tick);
}

void world_init(struct world *w, unsigned int seed, uint64_t size0, uint64_t size1)
{
	*w = (struct world){ .seed = seed, .rnd = seed, .size = { size0, size1 }, .link_room = 12 };
	for (unsigned int i = 0; i < 2; i++) {
		struct node *n = &w->node[i];

		w->link[i].last = &w->link[i].first;
		n->w = w;
		n->i = i;
		n->apply_last = &n->apply;
		n->stamp = 1000 * (i + 1);
		for (unsigned int k = 0; k < W_DISKS; k++) {
			struct mem_disk *d = &n->disk[k];

			d->blk = (struct blk){ .ops = &mem_ops, .size = w->size[k], .align = 1 };
			d->w = w;
			d->node = n;
			d->data = calloc(1, w->size[k]);
			d->durable = w->size[k] < W_LARGE ? calloc(1, w->size[k]) : NULL;
			d->alloc = calloc(1, w->size[k] / W_UNIT + 1);
			assert_true(d->data && (d->durable || w->size[k] >= W_LARGE) && d->alloc);
			snprintf(n->path[k], sizeof(n->path[k]), "%s/lockstep-resync-%d-%u-%u", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm", getpid(), i, k);
			unlink(n->path[k]);
			/* Some of it is data, some zeroes that are allocated, the rest a hole. */
			for (uint64_t u = 0; u * W_UNIT < w->size[k]; u += 1 + w_rand(w, 60)) {
				uint64_t off = u * W_UNIT, len = (1 + w_rand(w, 40)) * W_UNIT;

				len = len < w->size[k] - off ? len : w->size[k] - off;
				memset(d->data + off, w_rand(w, 5) ? (int)w_rand(w, 3) : 0, len);
				memset(d->alloc + u, 1, (len + W_UNIT - 1) / W_UNIT);
			}
			if (d->durable)
				memcpy(d->durable, d->data, d->blk.size);
		}
	}
}

void world_free(struct world *w)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct node *n = &w->node[i];

		if (n->up)
			node_down(n, 0);
		for (unsigned int k = 0; k < W_DISKS; k++) {
			free(n->disk[k].data);
			free(n->disk[k].durable);
			free(n->disk[k].alloc);
			unlink(n->path[k]);
		}
	}
	w->cut = true;
	for (unsigned int i = 0; i < 2; i++) {
		struct w_msg *m;

		while ((m = w->link[i].first)) {
			w->link[i].first = m->next;
			free(m);
		}
	}
	free(w->event);
	loop_free(w->loop);
}
