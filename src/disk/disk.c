/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * All disks of one VM: theory of operation (docs/disk.md has the whole)
 *
 * One object that opens the images, serves QEMU, and has the half of the replication that this node's role asks for:
 * serve where the VM serves, standby where it stands by. A promotion puts a serve on top of the standby, which goes on
 * merging what lies above the images and then passes everything through; the NBD server notices nothing of it, since what
 * it serves is a front (disk_front.c).
 *
 * Promotion, in this order: flushes are kept back (at once, from whatever thread orders it); what this copy has written on
 * its own is marked as dirty and in the write-intent map, and a new generation begins, durably; then the standby merges,
 * serve takes over, the flushes go on. A node that is killed in between is found by the next start either as a standby of
 * before, or with all marks.
 *
 * Where the images are shared (disk_shared.c) there is no resync, nothing is known of two copies, and shared_serve is in
 * the place of serve.
 *
 * Everything runs in the disk loop, but for disk_new() (before that loop runs), disk_start(), disk_close() and what posts
 * to it. The loop never blocks for longer than a write and an fsync of a few kilobytes take, and that only at a promotion.
 */
#include "disk/disk_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/log.h"

#define DISK_MEMORY	(64ull << 20)	/* pending and own writes in memory; beyond it they go to the journal's file */
#define DISK_SOFT	(128ull << 20)	/* of them: a checkpoint */
#define DISK_HARD	(4ull << 30)
#define DISK_EXTENTS	(1u << 18)
#define DISK_CLOSE_NS	(15 * NS_PER_S)

void disk_job_done(struct disk *d, enum disk_job job, int rc, const char *why)
{
	d->job_on[job] = false;
	d->ops.done(d->ops.arg, job, d->job_n[job], rc, why ? why : "");
}

void disk_fail(struct disk *d, int rc, const char *why)
{
	if (d->failed)
		return;
	d->failed = true;
	log_error("%s", why);
	d->ops.failed(d->ops.arg, true, rc, why);
}

/* What serve says */

static void serve_want(void *arg)
{
	struct disk *d = arg;

	d->ops.want(d->ops.arg);
}

static void serve_local_error(void *arg, unsigned int disk, int rc)
{
	struct disk *d = arg;

	log_error("disk %s: %s: the guest is told", d->id[disk], strerror(-rc));
}

static void serve_debt(void *arg, bool open)
{
	struct disk *d = arg;

	d->debt = open;
	disk_tell_debt(d);
}

static void serve_debt_failed(void *arg, int rc)
{
	struct disk *d = arg;

	log_error("a flush that QEMU was told is done has failed: %s", strerror(-rc));
	d->ops.failed(d->ops.arg, false, rc, "a flush that QEMU was told is done has failed");
}

static int make_serve(struct disk *d, struct blk *const *bases, struct err *e)
{
	struct serve_ops ops = { .want = serve_want, .local_error = serve_local_error, .debt = serve_debt,
				 .debt_failed = serve_debt_failed, .arg = d };

	d->serve = serve_new(d->loop, bases, d->meta, d->n, &ops, e);
	if (!d->serve)
		return e->code;
	for (unsigned int i = 0; i < d->n; i++)
		disk_front_under(d, i, serve_blk(d->serve, i));
	atomic_store(&d->serving, d->serve);
	d->serves = true;
	return 0;
}

/* What the standby says */

static void standby_want(void *arg)
{
	serve_want(arg);
}

static void standby_committed(void *arg, uint64_t n)
{
	struct disk *d = arg;
	struct err e = { 0 };

	if (!d->cfg.shared && resync_settled(d->meta, d->n, &e))
		disk_fail(d, e.code, e.msg);
	if (d->up)
		d->ops.send_committed(d->ops.arg, n);
}

void disk_where(const struct disk *d, const char *what, char *out, size_t cap)
{
	snprintf(out, cap, "%s (image %.120s%s, journal %.120s)", what, d->path[0], d->n > 1 ? " and others" : "",
		 d->journal_path);
}

static void standby_failed(void *arg, int rc, const char *sentence)
{
	char text[512];

	disk_where(arg, sentence, text, sizeof(text));
	disk_fail(arg, rc, text);
}

static void standby_merged(void *arg)
{
	struct disk *d = arg;

	d->merging = false;
	if (d->cfg.shared)
		disk_shared_merged(d);
	log_note("the disks: everything is in the images");
}

static void standby_safe(void *arg)
{
	struct disk *d = arg;

	d->unsafe = false;
	disk_tell_debt(d);
}

static void standby_trouble(void *arg, int rc, const char *sentence)
{
	struct disk *d = arg;

	if (atomic_load(&d->promoting) && d->unsafe) {
		log_error("frames leave before what the guest has flushed is durable on this node: its disk does not take it");
		standby_safe(d);
	}
	log_error("%s (it is tried again; the VM goes on)", sentence);
}

static void standby_room(void *arg)
{
	disk_fifo_run(arg);
}

static void base_reserve(void *arg, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *done_arg)
{
	store_reserve(arg, off, len, done, done_arg);
}

static int make_standby(struct disk *d, const uint8_t (*ids)[16], struct err *e)
{
	struct standby_limits limits = { .memory = DISK_MEMORY, .soft = DISK_SOFT,
					 .hard = DISK_HARD, .extents = DISK_EXTENTS, .shared = d->cfg.shared };
	struct standby_ops ops = { .want = standby_want, .committed = standby_committed, .failed = standby_failed,
				   .merged = standby_merged, .room = standby_room, .trouble = standby_trouble, .safe = standby_safe,
				   .arg = d };
	struct standby_disk disks[DISK_MAX];

	disk_base_init(d);
	for (unsigned int i = 0; i < d->n; i++)
		disks[i] = (struct standby_disk){ .base = &d->base[i].blk, .reserve = base_reserve, .arg = d->store[i] };
	d->standby = standby_new(d->loop, disks, ids, d->n, &d->journal, &limits, &ops, e);
	if (!d->standby)
		return e->code;
	standby_sync_mode(d->standby, true);
	d->sync = true;
	for (unsigned int i = 0; i < d->n; i++)
		disk_front_under(d, i, standby_blk(d->standby, i));
	return 0;
}

/* Serving from the start: a copy that was never part of a pair becomes the first of one. */
static int first_of_pair(struct disk *d, struct err *e)
{
	for (unsigned int i = 0; i < d->n; i++) {
		int rc;

		if (meta_lineage(d->meta[i])->syncing)
			return err_set(e, -EPERM, "%.200s is a copy whose first synchronisation was not finished: it is no state of "
				       "any time, and cannot serve", d->path[i]);
		rc = meta_found(d->meta[i], e);
		if (rc)
			return rc;
	}
	return 0;
}

static int recover(struct disk *d, uint8_t (*ids)[16], struct err *e)
{
	uint64_t epoch;

	/* The journal bears its image's name, and so do the disks in it. */
	for (unsigned int i = 0; i < d->n; i++) {
		const char *base = strrchr(d->path[i], '/');
		XXH128_canonical_t hash;

		base = base ? base + 1 : d->path[i];
		XXH128_canonicalFromHash(&hash, XXH3_128bits_withSeed(base, strlen(base), d->bases[i]->size));
		memcpy(ids[i], hash.digest, 16);
	}
	return standby_recover(d->loop, &d->journal, d->bases, (const uint8_t (*)[16])ids, d->n, &epoch, e);
}

static int open_nbd(struct disk *d, struct err *e)
{
	struct nbd_listen where = { .unix_path = d->cfg.socket };
	int rc = 0;

	d->nbd = nbd_server_new(d->loop, e);
	if (!d->nbd)
		return e->code;
	for (unsigned int i = 0; !rc && i < d->n; i++) {
		struct nbd_export x = { .name = d->id[i], .description = "a disk of the VM", .blk = &d->front[i].blk };

		rc = nbd_server_export(d->nbd, &x, e);
	}
	if (!rc)
		rc = nbd_server_listen(d->nbd, &where, e);
	return rc < 0 ? rc : 0;
}

/*
 * A peer that takes nothing of what the guest writes must not hold the guest: with replies outstanding QEMU could not even
 * be stopped, and a healthy node would be taken for one that hangs. It is given up before that.
 */
static void watch_room(struct disk *d)
{
	uint64_t taken;

	if (!d->serve || !serve_waiting(d->serve, &taken)) {
		d->stuck_since = 0;
	} else if (!d->stuck_since || taken != d->stuck_at) {
		d->stuck_since = loop_now(d->loop);
		d->stuck_at = taken;
	} else if (loop_now(d->loop) - d->stuck_since > d->cfg.patience) {
		d->stuck_since = 0;
		log_error("the peer has taken nothing of what was written to the disks for %llu ms",
			  (unsigned long long)(d->cfg.patience / NS_PER_MS));
		serve_give_up(d->serve);
		d->ops.failed(d->ops.arg, false, -ETIMEDOUT, "the peer takes nothing of what is written to the disks");
	}
}

static void publish(struct loop_timer *t)
{
	struct disk *d = t->arg;
	struct disk_stats s = { .serves = d->serves, .resyncing = d->job_on[DISK_RESYNC], .debt = d->debt,
				.merging = d->merging, .resync = d->progress };

	s.shared = d->cfg.shared;
	if (d->serve)
		serve_stats(d->serve, &s.serve);
	if (d->keep)
		shared_serve_stats(d->keep, &s.keep);
	if (d->standby)
		standby_stats(d->standby, &s.standby);
	nbd_server_stats(d->nbd, &s.nbd);
	for (unsigned int i = 0; i < d->n; i++) {
		s.disk[i].size = d->bases[i]->size;
		if (!d->meta[i])
			continue;
		s.disk[i].dirty = meta_dirty_bytes(d->meta[i]);
		s.disk[i].generation = meta_lineage(d->meta[i])->current.number;
	}
	pthread_mutex_lock(&d->lock);
	d->stats = s;
	pthread_mutex_unlock(&d->lock);
	watch_room(d);
	loop_timer_set(d->loop, &d->timer, loop_now(d->loop) + DISK_STATS_NS);
}

struct disk *disk_new(const struct disk_cfg *cfg, const struct disk_ops *ops, struct err *e)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (!d) {
		err_set(e, -ENOMEM, "no memory for the disks");
		return NULL;
	}
	d->cfg = *cfg;
	d->ops = *ops;
	d->loop = cfg->loop;
	d->n = cfg->n;
	d->fifo_tail = &d->fifo;
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->closed, NULL);
	for (unsigned int i = 0; i < d->n; i++) {
		d->id[i] = strdup(cfg->image[i].id);
		d->path[i] = strdup(cfg->image[i].path);
		if (!d->id[i] || !d->path[i]) {
			err_set(e, -ENOMEM, "no memory for the disks");
			disk_free(d);
			return NULL;
		}
	}
	d->alone = true;
	if (disk_open_images(d, e)) {
		disk_free(d);
		return NULL;
	}
	return d;
}

struct setup {
	uint8_t ids[DISK_MAX][16];
	struct err *e;
	int rc;
};

static void setup(void *arg, const void *data, size_t len)
{
	struct disk *d = arg;
	struct setup *s;
	int rc;

	memcpy(&s, data, sizeof(s));
	disk_front_init(d);
	if (d->cfg.serves && d->cfg.shared) {
		rc = disk_shared_serve(d, d->bases, s->e);
	} else if (d->cfg.serves) {
		rc = first_of_pair(d, s->e);
		if (!rc)
			rc = make_serve(d, d->bases, s->e);
	} else {
		rc = make_standby(d, (const uint8_t (*)[16])s->ids, s->e);
	}
	if (!rc)
		rc = open_nbd(d, s->e);
	d->timer = (struct loop_timer){ .fn = publish, .arg = d };
	if (!rc)
		publish(&d->timer);
	pthread_mutex_lock(&d->lock);
	s->rc = rc;
	pthread_cond_broadcast(&d->closed);
	pthread_mutex_unlock(&d->lock);
}

int disk_start(struct disk *d, struct err *e)
{
	struct setup s = { .e = e, .rc = 1 }, *p = &s;
	int rc = d->cfg.shared ? disk_shared_open(d, e) : 0;

	if (rc < 0)
		return rc;
	/* With shared images the other node, which stands by, has looked into the journal already. */
	rc = rc ? 0 : recover(d, s.ids, e);
	if (!rc && d->cfg.shared && d->cfg.serves)
		rc = disk_shared_start(d, e);
	if (rc)
		return rc;
	loop_post(d->loop, setup, d, &p, sizeof(p));
	pthread_mutex_lock(&d->lock);
	while (s.rc > 0)
		pthread_cond_wait(&d->closed, &d->lock);
	pthread_mutex_unlock(&d->lock);
	return s.rc;
}

uint64_t disk_size(const struct disk *d, unsigned int i)
{
	return d->bases[i]->size;
}

/* Jobs */

struct job {
	enum disk_job job;
	uint64_t n;
};

static void begin(void *arg, const void *data, size_t len)
{
	struct disk *d = arg;
	struct err e = { 0 };
	struct job j;
	int rc;

	memcpy(&j, data, len < sizeof(j) ? len : sizeof(j));
	d->job_n[j.job] = j.n;
	d->job_on[j.job] = true;
	switch (j.job) {
	case DISK_RESYNC:
		if (d->keep && d->up) {
			disk_shared_join(d);
			break;
		}
		if (!d->serve || !d->up) {
			disk_job_done(d, DISK_RESYNC, -EPIPE, "there is no peer");
			break;
		}
		rc = disk_resync_begin(d, &e);
		if (rc)
			disk_job_done(d, DISK_RESYNC, rc, e.msg);
		break;
	case DISK_MARK:
		rc = d->keep ? shared_serve_marker(d->keep, j.n) : d->serve ? serve_marker(d->serve, j.n) : -EPIPE;
		disk_job_done(d, DISK_MARK, rc, rc ? strerror(-rc) : "");
		break;
	case DISK_FLIP:
		rc = d->standby && !d->serves ? standby_flip(d->standby, j.n, &e) : 0;
		if (!rc)
			d->flipped_n = j.n;
		disk_job_done(d, DISK_FLIP, rc, e.msg);
		break;
	case DISK_JOBS:
		break;
	}
}

void disk_job(struct disk *d, enum disk_job job, uint64_t n)
{
	struct job j = { job, n };

	loop_post(d->loop, begin, d, &j, sizeof(j));
}

void disk_peer(struct disk *d, bool up)
{
	struct err e = { 0 };

	d->up = up;
	if (up && d->serves)
		d->failed = false;
	d->sent_msgs = d->sent_bytes = d->got_msgs = d->got_bytes = d->kept = 0;
	disk_fifo_drop(d);
	disk_resync_end(d);
	d->join_waits = false;
	if (!up) {
		if (d->keep)
			shared_serve_lost(d->keep);
		if (d->serve)
			serve_writable(d->serve);
		if (d->job_on[DISK_RESYNC])
			disk_job_done(d, DISK_RESYNC, -EPIPE, "the peer is gone");
	} else if (!d->serves && !d->cfg.shared && disk_resync_begin(d, &e)) {
		disk_fail(d, e.code, e.msg);
	}
}

static void alone(void *arg, const void *data, size_t len)
{
	struct disk *d = arg;

	/* Before the generation begins: the target must not be told that it has everything. */
	disk_resync_end(d);
	if (d->job_on[DISK_RESYNC])
		disk_job_done(d, DISK_RESYNC, -EPIPE, "this node goes on alone");
	d->alone = true;
	if (d->keep)
		disk_shared_alone(d);
	if (d->serve)
		serve_peer(d->serve, NULL);
}

void disk_alone(struct disk *d)
{
	loop_post(d->loop, alone, d, NULL, 0);
}

void disk_writable(struct disk *d)
{
	uint64_t taken;

	/* The guest first: what a resync has to send would take all the room again and again. */
	if (d->serve) {
		serve_writable(d->serve);
		if (serve_waiting(d->serve, &taken))
			return;
	}
	if (d->resync)
		resync_writable(d->resync);
	if (d->keep)
		shared_serve_writable(d->keep);
}

static void owe(void *arg, const void *data, size_t len)
{
	struct disk *d = arg;

	if (d->keep)
		shared_serve_owe(d->keep);
	if (d->serve)
		serve_owe(d->serve);
}

void disk_stopping(struct disk *d, bool on)
{
	struct serve *s = atomic_load(&d->serving);
	struct shared_serve *k = atomic_load(&d->keeping);

	if (k)
		shared_serve_stopping(k, on);
	if (s)
		serve_stopping(s, on);
	if ((k || s) && on)
		loop_post(d->loop, owe, d, NULL, 0);
}

void disk_stats(struct disk *d, struct disk_stats *out)
{
	pthread_mutex_lock(&d->lock);
	*out = d->stats;
	pthread_mutex_unlock(&d->lock);
}

/* Promotion */

static void own_range(void *arg, uint64_t off, uint64_t len)
{
	meta_dirty(arg, off, len);
	meta_intent(arg, off, len);
}

/* Return: the first error; all disks are marked in memory whatever happens. */
static int mark_own(struct disk *d, struct err *e)
{
	int rc = 0;

	for (unsigned int i = 0; i < d->n; i++)
		standby_own_ranges(d->standby, i, own_range, d->meta[i]);
	for (unsigned int i = 0; i < d->n; i++) {
		struct err one = { 0 };

		meta_next(d->meta[i]);
		if (!meta_intent_save(d->meta[i], &one))
			meta_save(d->meta[i], &one);
		if (one.code && !rc)
			rc = err_set(e, one.code, "%s", one.msg);
	}
	return rc;
}

static void promote(void *arg, const void *data, size_t len)
{
	struct blk *bases[DISK_MAX];
	struct disk *d = arg;
	struct err e = { 0 };

	if (d->serves) {
		standby_safe(d);
		return;
	}
	/* A promotion may be sooner than the first commit: what the VM sees is of a whole checkpoint by then. */
	if (!d->cfg.shared && d->flipped_n && resync_settled(d->meta, d->n, &e))
		log_error("%s", e.msg);
	/* The VM goes on in any case; the end is no clean one then. */
	if (!d->cfg.shared && mark_own(d, &e)) {
		log_error("what the peer will have to be sent could not be written down: %s", e.msg);
		d->failed = true;
	}
	disk_resync_end(d);
	disk_fifo_drop(d);
	d->merging = d->alone = true;
	standby_promote(d->standby);
	for (unsigned int i = 0; i < d->n; i++)
		bases[i] = standby_blk(d->standby, i);
	if (d->cfg.shared)
		disk_shared_promote(d);
	if (d->cfg.shared ? disk_shared_serve(d, bases, &e) : make_serve(d, bases, &e)) {
		/* Nobody marks what is written from now on. */
		log_error("%s: the disks of the peer will have to be compared as a whole", e.msg);
		for (unsigned int i = 0; i < d->n && !d->cfg.shared; i++) {
			meta_dirty(d->meta[i], 0, d->bases[i]->size);
			meta_intent(d->meta[i], 0, d->bases[i]->size);
			meta_intent_save(d->meta[i], &e);
		}
		d->failed = d->serves = true;
	}
	disk_front_release(d);
}

void disk_tell_debt(struct disk *d)
{
	d->ops.debt(d->ops.arg, d->debt || d->unsafe);
}

void disk_promote(struct disk *d)
{
	if (atomic_exchange(&d->promoting, true))
		return;
	/*
	 * The SVM was told that its flushes are done when they were not, and what the network hears of them from now on is
	 * this node's word: nothing leaves before all of that, and that this copy is the newer one, is durable.
	 */
	d->unsafe = true;
	disk_tell_debt(d);
	loop_post(d->loop, promote, d, NULL, 0);
}

/* The end */

static void close_now(struct disk *d, bool clean)
{
	struct err e = { 0 };

	for (unsigned int i = 0; clean && i < d->n && !d->cfg.shared; i++)
		if (meta_end(d->meta[i], store_file_stamp(d->store[i]), &e))
			log_warn("%s", e.msg);
	if (!clean && !d->cfg.shared)
		log_warn("the disks were not ended cleanly: what has changed will be found by comparing");
	pthread_mutex_lock(&d->lock);
	d->is_closed = true;
	pthread_cond_broadcast(&d->closed);
	pthread_mutex_unlock(&d->lock);
}

static void flushed(struct blk_req *r, int rc)
{
	struct disk *d = r->arg;

	if (rc)
		d->failed = true;
	free(r);
	if (!--d->under_way && d->closing)
		close_now(d, !d->failed);
}

static void flush_all(struct disk *d)
{
	d->under_way++;
	for (unsigned int i = 0; i < d->n; i++) {
		struct blk_req *r = calloc(1, sizeof(*r));

		if (!r) {
			d->failed = true;
			continue;
		}
		*r = (struct blk_req){ .op = BLK_FLUSH, .done = flushed, .arg = d };
		d->under_way++;
		blk_submit(d->bases[i], r);
	}
	if (!--d->under_way)
		close_now(d, !d->failed);
}

static void closing(struct loop_timer *t)
{
	struct disk *d = t->arg;
	struct serve_stats sv = { 0 };
	struct shared_serve_stats sk = { 0 };
	bool used = false;

	if (d->serve)
		serve_stats(d->serve, &sv);
	if (d->keep) {
		/* QEMU is gone: nobody waits for what waits for a decision. */
		shared_serve_silence(d->keep);
		shared_serve_stats(d->keep, &sk);
	}
	for (unsigned int i = 0; i < d->n; i++)
		used = used || nbd_server_in_use(d->nbd, &d->front[i].blk);
	if (d->merging || !d->quiet || d->under_way || sv.requests || sk.requests || used) {
		if (loop_now(d->loop) > d->close_by || (d->failed && !d->serves)) {
			d->abandoned = true;
			close_now(d, false);
			return;
		}
		loop_timer_set(d->loop, &d->timer, loop_now(d->loop) + 5 * NS_PER_MS);
		return;
	}
	d->closing = true;
	/* Nothing may be written down behind the mark of a clean end. */
	nbd_server_free(d->nbd);
	d->nbd = NULL;
	atomic_store(&d->serving, NULL);
	serve_free(d->serve);
	d->serve = NULL;
	atomic_store(&d->keeping, NULL);
	shared_serve_free(d->keep);
	d->keep = NULL;
	flush_all(d);
}

static void quiesced(void *arg)
{
	struct disk *d = arg;

	d->quiet = true;
}

static void begin_close(void *arg, const void *data, size_t len)
{
	struct disk *d = arg;

	disk_peer(d, false);
	/* Who has not decided to go on alone has a peer that does: what it has not confirmed is found by comparing. */
	if (d->serves && !d->alone)
		d->failed = true;
	d->close_by = loop_now(d->loop) + DISK_CLOSE_NS;
	d->quiet = !d->standby;
	if (d->standby)
		standby_quiesce(d->standby, quiesced, d);
	d->timer.fn = closing;
	loop_timer_set(d->loop, &d->timer, loop_now(d->loop));
}

void disk_close(struct disk *d)
{
	loop_post(d->loop, begin_close, d, NULL, 0);
	pthread_mutex_lock(&d->lock);
	while (!d->is_closed)
		pthread_cond_wait(&d->closed, &d->lock);
	pthread_mutex_unlock(&d->lock);
}

void disk_free(struct disk *d)
{
	/* What is still under way would come back to what was freed; the process ends anyway. */
	if (!d || d->abandoned)
		return;
	nbd_server_free(d->nbd);
	disk_resync_end(d);
	disk_fifo_drop(d);
	serve_free(d->serve);
	shared_serve_free(d->keep);
	standby_free(d->standby);
	disk_close_images(d);
	for (unsigned int i = 0; i < d->n; i++) {
		free(d->id[i]);
		free(d->path[i]);
	}
	pthread_mutex_destroy(&d->lock);
	pthread_cond_destroy(&d->closed);
	free(d);
}
