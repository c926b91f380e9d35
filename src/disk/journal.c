/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/journal.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "disk/standby_fault.h"

/*
 * Theory of operation
 *
 *	header A | header B | slot 0 | slot 1 | ...
 *
 * A slot holds a chunk of the arena (bytes, without any form) or a block of an index: a head with a checksum, then
 * entries: disk, what, where on the disk, where in this file. The blocks of a layer's index are a chain. A header names
 * the layers that must be written to the bases, in order, and the epoch that the bases are at without them.
 *
 * Nothing that a valid header refers to is ever written over. What a new one refers to is written into free slots, and
 * made durable before the header is written; a header is written into the place of the older one of the two, so that the
 * newer one stands while it happens; slots are free only when a header that does not refer to them is durable. So the
 * valid header with the highest number always refers to something whole, and whoever finds it writes that to the bases,
 * as often as he likes. A header is valid if its checksum is right. An index that is not whole although a valid header
 * names it can only be damage, and is refused, never skipped.
 *
 * A header that could not be written may have been written all the same. It is tried again in the same place with the
 * same number, and until that has succeeded nothing that either refers to is given back.
 *
 * The calls of the file block. Two threads make them: one reads, so that a reader does not wait for an fsync, and one does
 * everything else in order. Tests give a run() of their own in place of the threads.
 *
 * Free slots at the begin of the file are used first. Those behind JOURNAL_KEEP are punched before they are free again.
 */
#define MAGIC_HEAD	0x4c534a4845414431ull
#define MAGIC_INDEX	0x4c534a494e445831ull

struct wire_head {
	uint64_t sum, magic, seq, epoch;
	uint32_t disks, chunk, layers, pad;
	uint8_t ids[STANDBY_MAX_DISKS][16];
	struct {
		uint64_t first, id, epoch;
		uint32_t blocks, pad;
	} layer[JOURNAL_LAYERS];
} __attribute__((packed));
_Static_assert(sizeof(struct wire_head) <= JOURNAL_HEAD, "a header fits its slot");

struct wire_block {
	uint64_t sum, magic, id, next;
	uint32_t pos, count;
} __attribute__((packed));

struct wire_entry {
	uint32_t disk, kind;
	uint64_t off, len, at;
} __attribute__((packed));

enum slot_state { SLOT_FREE, SLOT_USED, SLOT_TO_PUNCH, SLOT_PUNCHING };

struct worker {
	pthread_t thread;
	bool started;
	struct journal_job *first, **last;
};

struct journal {
	struct loop *loop;
	struct journal_file f;
	struct journal_head head;	/* the last that is durable */
	uint32_t chunk, slots;
	uint8_t *state;			/* enum slot_state of each */
	uint32_t hint, used, to_punch;
	uint32_t punch_from, punch_n;
	struct journal_job punch, settle;
	struct journal_head next;	/* being settled */
	uint8_t *head_buf;
	void (*settled)(void *arg, int rc, bool named);
	void *settled_arg;
	unsigned int busy;
	uint64_t index_id;
	/* the threads */
	pthread_mutex_t lock;
	pthread_cond_t more;
	bool quit;
	struct worker worker[2];
};

static void head_encode(uint8_t out[JOURNAL_HEAD], const struct journal_head *h)
{
	struct wire_head w = { .magic = htole64(MAGIC_HEAD), .seq = htole64(h->seq), .epoch = htole64(h->epoch),
			       .disks = htole32(h->disks), .chunk = htole32(h->chunk), .layers = htole32(h->layers) };

	memcpy(w.ids, h->ids, sizeof(w.ids));
	for (unsigned int i = 0; i < h->layers; i++) {
		w.layer[i].first = htole64(h->layer[i].first);
		w.layer[i].id = htole64(h->layer[i].id);
		w.layer[i].epoch = htole64(h->layer[i].epoch);
		w.layer[i].blocks = htole32(h->layer[i].blocks);
	}
	memset(out, 0, JOURNAL_HEAD);
	memcpy(out, &w, sizeof(w));
	w.sum = htole64(XXH3_64bits(out + sizeof(w.sum), JOURNAL_HEAD - sizeof(w.sum)));
	memcpy(out, &w.sum, sizeof(w.sum));
}

static bool head_decode(const uint8_t in[JOURNAL_HEAD], struct journal_head *h)
{
	struct wire_head w;

	memcpy(&w, in, sizeof(w));
	if (le64toh(w.magic) != MAGIC_HEAD ||
	    le64toh(w.sum) != XXH3_64bits(in + sizeof(w.sum), JOURNAL_HEAD - sizeof(w.sum)))
		return false;
	*h = (struct journal_head){ .seq = le64toh(w.seq), .epoch = le64toh(w.epoch), .disks = le32toh(w.disks),
				    .chunk = le32toh(w.chunk), .layers = le32toh(w.layers) };
	if (h->disks > STANDBY_MAX_DISKS || h->layers > JOURNAL_LAYERS || h->chunk < 512 || h->chunk > (64u << 20))
		return false;
	memcpy(h->ids, w.ids, sizeof(h->ids));
	for (unsigned int i = 0; i < h->layers; i++)
		h->layer[i] = (struct journal_layer){ le64toh(w.layer[i].first), le64toh(w.layer[i].id),
						      le64toh(w.layer[i].epoch), le32toh(w.layer[i].blocks) };
	return true;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

int journal_read_head(const struct journal_file *f, struct journal_head *h, struct err *e)
{
	uint8_t buf[JOURNAL_HEAD];
	struct journal_head x;
	bool found = false, empty = false;

	for (unsigned int i = 0; i < 2; i++) {
		int rc = f->pread(f->arg, buf, sizeof(buf), i * JOURNAL_HEAD);

		if (rc)
			return err_set(e, rc, "the journal cannot be read: %s", strerror(-rc));
		if (head_decode(buf, &x)) {
			if (!found || x.seq > h->seq)
				*h = x;
			found = true;
		} else {
			empty |= all_zero(buf, sizeof(buf));
		}
	}
	if (found)
		return 0;
	memset(h, 0, sizeof(*h));
	/* A file that is new, or whose first header was not finished: nothing was ever promised by it. */
	if (empty)
		return 0;
	return err_set(e, -EBADMSG, "the journal is damaged: neither of its headers is valid. "
		       "Remove it, and the disks are compared as a whole when the nodes meet");
}

int journal_write_head(const struct journal_file *f, const struct journal_head *h)
{
	uint8_t buf[JOURNAL_HEAD];
	int rc;

	head_encode(buf, h);
	rc = f->pwrite(f->arg, buf, sizeof(buf), (h->seq & 1) * JOURNAL_HEAD);
	return rc ? rc : f->sync(f->arg);
}

int journal_read_index(const struct journal_file *f, const struct journal_head *h, const struct journal_layer *l,
		       int (*fn)(void *arg, const struct journal_entry *e), void *arg)
{
	uint8_t *buf = malloc(h->chunk);
	uint64_t at = l->first;
	int rc = buf ? 0 : -ENOMEM;

	for (uint32_t pos = 0; !rc && pos < l->blocks; pos++) {
		struct wire_block b;
		uint32_t count;

		rc = f->pread(f->arg, buf, h->chunk, at);
		if (rc)
			break;
		memcpy(&b, buf, sizeof(b));
		count = le32toh(b.count);
		if (le64toh(b.magic) != MAGIC_INDEX || le64toh(b.id) != l->id || le32toh(b.pos) != pos ||
		    count > (h->chunk - sizeof(b)) / sizeof(struct wire_entry) ||
		    le64toh(b.sum) != XXH3_64bits(buf + sizeof(b.sum), sizeof(b) - sizeof(b.sum) +
						  count * sizeof(struct wire_entry))) {
			rc = -EBADMSG;
			break;
		}
		for (uint32_t i = 0; !rc && i < count; i++) {
			struct wire_entry w;
			struct journal_entry e;

			memcpy(&w, buf + sizeof(b) + i * sizeof(w), sizeof(w));
			e = (struct journal_entry){ le32toh(w.disk), le32toh(w.kind), le64toh(w.off), le64toh(w.len),
						    le64toh(w.at) };
			rc = fn(arg, &e);
		}
		at = le64toh(b.next);
	}
	free(buf);
	return rc;
}

/* The threads. */

static void work(struct journal_job *job)
{
	const struct journal_file *f = &job->j->f;

	switch (job->op) {
	case JOURNAL_READ:
		job->rc = f->pread(f->arg, job->buf, job->len, job->off);
		break;
	case JOURNAL_WRITE:
		job->rc = f->pwrite(f->arg, job->buf, job->len, job->off);
		break;
	case JOURNAL_SETTLE:
		job->rc = job->sync ? f->sync(f->arg) : 0;
		job->written = !job->rc;
		if (!job->rc)
			job->rc = f->pwrite(f->arg, job->buf, job->len, job->off);
		if (!job->rc)
			job->rc = f->sync(f->arg);
		break;
	case JOURNAL_NOTHING:
		break;
	case JOURNAL_PUNCH:
		job->rc = f->punch(f->arg, job->off, job->len);
		break;
	}
}

static void finish(struct journal_job *job)
{
	job->j->busy--;
	job->done(job);
}

static void posted(void *arg, const void *data, size_t len)
{
	finish(arg);
}

struct worker_arg {
	struct journal *j;
	unsigned int i;
};

static void *worker_main(void *arg)
{
	struct worker_arg a = *(struct worker_arg *)arg;
	struct worker *w = &a.j->worker[a.i];

	free(arg);
	pthread_mutex_lock(&a.j->lock);
	for (;;) {
		struct journal_job *job = w->first;

		if (!job) {
			if (a.j->quit)
				break;
			pthread_cond_wait(&a.j->more, &a.j->lock);
			continue;
		}
		w->first = job->next;
		if (!w->first)
			w->last = &w->first;
		pthread_mutex_unlock(&a.j->lock);
		work(job);
		loop_post(a.j->loop, posted, job, NULL, 0);
		pthread_mutex_lock(&a.j->lock);
	}
	pthread_mutex_unlock(&a.j->lock);
	return NULL;
}

void journal_submit(struct journal *j, struct journal_job *job)
{
	job->j = j;
	job->rc = 0;
	job->next = NULL;
	j->busy++;
	if (j->f.run) {
		j->f.run(j->f.arg, job, (void (*)(void *))work, (void (*)(void *))finish);
		return;
	}
	struct worker *w = &j->worker[job->op != JOURNAL_READ && job->op != JOURNAL_NOTHING];

	pthread_mutex_lock(&j->lock);
	*w->last = job;
	w->last = &job->next;
	pthread_cond_broadcast(&j->more);
	pthread_mutex_unlock(&j->lock);
}

unsigned int journal_busy(const struct journal *j)
{
	return j->busy;
}

struct journal *journal_new(struct loop *loop, const struct journal_file *f, const uint8_t (*ids)[16], unsigned int n,
			    uint32_t chunk, uint32_t slots, struct err *e)
{
	struct journal *j = calloc(1, sizeof(*j));

	if (!j || !(j->state = calloc(slots, 1)) || !(j->head_buf = malloc(JOURNAL_HEAD))) {
		err_set(e, -ENOMEM, "no memory for the journal");
		goto fail;
	}
	j->loop = loop;
	j->f = *f;
	j->chunk = chunk;
	j->slots = slots;
	if (journal_read_head(f, &j->head, e))
		goto fail;
	if (j->head.layers) {
		err_set(e, -EBUSY, "the journal has epochs that are not in the disks yet; they must be recovered first");
		goto fail;
	}
	/*
	 * No layers are left, so the epoch is of an earlier pair at most, and its numbers begin again with each. Whoever takes
	 * this one for his own says COMMITTED only when he is beyond it.
	 */
	j->head.epoch = 0;
	j->head.disks = n;
	j->head.chunk = chunk;
	memset(j->head.ids, 0, sizeof(j->head.ids));
	memcpy(j->head.ids, ids, n * sizeof(ids[0]));
	/* What a former process had spilled. Not being able to punch only costs the space. */
	if ((uint64_t)slots * chunk > JOURNAL_KEEP)
		f->punch(f->arg, JOURNAL_AREA + JOURNAL_KEEP, (uint64_t)slots * chunk - JOURNAL_KEEP);
	/* Block ids never repeat, also not after a restart: each header allows for this many. */
	j->index_id = j->head.seq << 24;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->more, NULL);
	for (unsigned int i = 0; i < 2 && !f->run; i++) {
		struct worker_arg *a = malloc(sizeof(*a));

		j->worker[i].last = &j->worker[i].first;
		if (a)
			*a = (struct worker_arg){ j, i };
		if (!a || pthread_create(&j->worker[i].thread, NULL, worker_main, a)) {
			free(a);
			err_set(e, -EAGAIN, "no thread for the journal");
			journal_free(j);
			return NULL;
		}
		j->worker[i].started = true;
	}
	return j;
fail:
	if (j) {
		free(j->state);
		free(j->head_buf);
	}
	free(j);
	return NULL;
}

void journal_free(struct journal *j)
{
	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	j->quit = true;
	pthread_cond_broadcast(&j->more);
	pthread_mutex_unlock(&j->lock);
	for (unsigned int i = 0; i < 2; i++)
		if (j->worker[i].started)
			pthread_join(j->worker[i].thread, NULL);
	pthread_mutex_destroy(&j->lock);
	pthread_cond_destroy(&j->more);
	free(j->state);
	free(j->head_buf);
	free(j);
}

/* Slots. */

uint64_t journal_slot_off(const struct journal *j, uint32_t slot)
{
	return JOURNAL_AREA + (uint64_t)slot * j->chunk;
}

uint32_t journal_chunk(const struct journal *j)
{
	return j->chunk;
}

uint32_t journal_slots_used(const struct journal *j)
{
	return j->used;
}

uint64_t journal_epoch(const struct journal *j)
{
	return j->head.epoch;
}

uint32_t journal_slot_get(struct journal *j)
{
	for (uint32_t i = j->hint; i < j->slots; i++) {
		if (j->state[i] != SLOT_FREE)
			continue;
		j->state[i] = SLOT_USED;
		j->hint = i + 1;
		j->used++;
		return i;
	}
	j->hint = j->slots;
	return JOURNAL_NO_SLOT;
}

static void slot_free(struct journal *j, uint32_t slot)
{
	j->state[slot] = SLOT_FREE;
	if (slot < j->hint)
		j->hint = slot;
}

static void punch_more(struct journal *j);

static void punched(struct journal_job *job)
{
	struct journal *j = job->j;

	/* A file that cannot be punched only stays as long as it is. */
	for (uint32_t i = 0; i < j->punch_n; i++)
		slot_free(j, j->punch_from + i);
	j->punch_n = 0;
	punch_more(j);
}

static void punch_more(struct journal *j)
{
	uint32_t i = j->punch_from;

	if (!j->to_punch || j->punch_n)
		return;
	while (j->state[i % j->slots] != SLOT_TO_PUNCH)
		i++;
	i %= j->slots;
	j->punch_from = i;
	while (i < j->slots && j->state[i] == SLOT_TO_PUNCH)
		j->state[i++] = SLOT_PUNCHING;
	j->punch_n = i - j->punch_from;
	j->to_punch -= j->punch_n;
	j->punch = (struct journal_job){ .op = JOURNAL_PUNCH, .off = journal_slot_off(j, j->punch_from),
					 .len = (uint64_t)j->punch_n * j->chunk, .done = punched };
	journal_submit(j, &j->punch);
}

void journal_slot_put(struct journal *j, uint32_t slot)
{
	j->used--;
	if ((uint64_t)slot * j->chunk < JOURNAL_KEEP) {
		slot_free(j, slot);
		return;
	}
	j->state[slot] = SLOT_TO_PUNCH;
	j->to_punch++;
	punch_more(j);
}

/* Headers. */

static void settle_done(struct journal_job *job)
{
	struct journal *j = job->j;

	if (!job->rc)
		j->head = j->next;
	j->settled(j->settled_arg, job->rc, job->written);
}

void journal_settle(struct journal *j, const struct journal_layer *layers, unsigned int n, uint64_t epoch, bool data,
		    void (*done)(void *arg, int rc, bool named), void *arg)
{
	j->next = j->head;
	j->next.seq++;
	j->next.epoch = epoch;
	j->next.layers = n;
	memset(j->next.layer, 0, sizeof(j->next.layer));
	if (n)
		memcpy(j->next.layer, layers, n * sizeof(layers[0]));
	head_encode(j->head_buf, &j->next);
	j->settled = done;
	j->settled_arg = arg;
	j->settle = (struct journal_job){ .op = JOURNAL_SETTLE, .sync = data && !FAULT(NO_DATA_SYNC), .buf = j->head_buf,
					  .len = JOURNAL_HEAD, .off = ((j->next.seq ^ FAULT(HEADER_PLACE)) & 1) * JOURNAL_HEAD, .done = settle_done };
	journal_submit(j, &j->settle);
}

/* The index of a layer. */

void journal_index_free(struct journal *j, struct journal_index *ix)
{
	for (uint32_t i = 0; i < ix->slots; i++)
		journal_slot_put(j, ix->slot[i]);
	free(ix->slot);
	free(ix->mem);
	free(ix->jobs);
	memset(ix, 0, sizeof(*ix));
}

static void index_done(struct journal_job *job)
{
	struct journal_index *ix = job->arg;
	void (*done)(void *arg, int rc) = ix->done;
	void *arg = ix->arg;
	int rc;

	if (job->rc && !ix->rc)
		ix->rc = job->rc;
	if (--ix->left)
		return;
	rc = ix->rc;
	free(ix->mem);
	free(ix->jobs);
	ix->mem = NULL;
	ix->jobs = NULL;
	if (rc)
		journal_index_free(ix->j, ix);
	done(arg, rc);
}

int journal_index_write(struct journal *j, struct journal_index *ix, const struct journal_entry *entries, uint32_t n,
			uint64_t epoch, void (*done)(void *arg, int rc), void *arg)
{
	uint32_t per = (j->chunk - (uint32_t)sizeof(struct wire_block)) / (uint32_t)sizeof(struct wire_entry);
	uint32_t blocks = (n + per - 1) / per, k = 0;

	memset(ix, 0, sizeof(*ix));
	ix->j = j;
	ix->done = done;
	ix->arg = arg;
	ix->layer = (struct journal_layer){ .id = ++j->index_id, .epoch = epoch, .blocks = blocks };
	if (!blocks) {
		done(arg, 0);
		return 0;
	}
	ix->slot = calloc(blocks, sizeof(*ix->slot));
	ix->mem = calloc(blocks, j->chunk);
	ix->jobs = calloc(blocks, sizeof(*ix->jobs));
	if (!ix->slot || !ix->mem || !ix->jobs) {
		journal_index_free(j, ix);
		return -ENOMEM;
	}
	for (; ix->slots < blocks; ix->slots++) {
		ix->slot[ix->slots] = journal_slot_get(j);
		if (ix->slot[ix->slots] == JOURNAL_NO_SLOT) {
			journal_index_free(j, ix);
			return -ENOSPC;
		}
	}
	ix->layer.first = journal_slot_off(j, ix->slot[0]);
	ix->left = blocks;
	for (uint32_t b = 0; b < blocks; b++) {
		uint8_t *p = ix->mem + (size_t)b * j->chunk;
		uint32_t count = n - k < per ? n - k : per;
		size_t used = sizeof(struct wire_block) + count * sizeof(struct wire_entry);
		struct wire_block w = { .magic = htole64(MAGIC_INDEX), .id = htole64(ix->layer.id), .pos = htole32(b),
					.count = htole32(count) };

		if (b + 1 < blocks)
			w.next = htole64(journal_slot_off(j, ix->slot[b + 1]));
		for (uint32_t i = 0; i < count; i++, k++) {
			struct wire_entry x = { htole32(entries[k].disk), htole32(entries[k].kind),
						htole64(entries[k].off), htole64(entries[k].len),
						htole64(entries[k].at) };

			memcpy(p + sizeof(w) + i * sizeof(x), &x, sizeof(x));
		}
		memcpy(p, &w, sizeof(w));
		w.sum = htole64(XXH3_64bits(p + sizeof(w.sum), used - sizeof(w.sum)));
		memcpy(p, &w.sum, sizeof(w.sum));
		ix->jobs[b] = (struct journal_job){ .op = JOURNAL_WRITE, .buf = p, .len = used,
						    .off = journal_slot_off(j, ix->slot[b]), .done = index_done, .arg = ix };
	}
	/* The last one may be done, and free jobs[], inside its submission. */
	for (uint32_t b = 0; b < blocks; b++)
		journal_submit(j, &ix->jobs[b]);
	return 0;
}
