/* SPDX-License-Identifier: BSD-2-Clause */
/* What a former process had committed and not written to the bases. The order of things is in journal.c and standby.c. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/extmap.h"
#include "disk/journal.h"
#include "disk/standby.h"

struct recovery {
	struct loop *l;
	const struct journal_file *f;
	const struct journal_head *h;
	struct blk *const *bases;
	uint8_t *buf;
	/* the request under way */
	pthread_mutex_t lock;
	pthread_cond_t answered;
	bool done;
	int rc;
	struct blk *b;
	struct blk_req r;
};

static void answered(struct blk_req *r, int rc)
{
	struct recovery *v = r->arg;

	pthread_mutex_lock(&v->lock);
	v->rc = rc;
	v->done = true;
	pthread_cond_signal(&v->answered);
	pthread_mutex_unlock(&v->lock);
}

static void in_loop(void *arg, const void *data, size_t len)
{
	struct recovery *v = arg;

	blk_submit(v->b, &v->r);
}

/* One request to a base, waited for */
static int ask(struct recovery *v, unsigned int disk, enum blk_op op, uint32_t flags, uint64_t off, uint64_t len)
{
	int rc;

	v->b = v->bases[disk];
	v->r = (struct blk_req){ .op = op, .flags = flags, .off = off, .len = len, .buf = op == BLK_WRITE ? v->buf : NULL,
				 .done = answered, .arg = v };
	v->done = false;
	if (v->l) {
		rc = loop_post(v->l, in_loop, v, NULL, 0);
		if (rc)
			return rc;
	} else {
		blk_submit(v->b, &v->r);
	}
	pthread_mutex_lock(&v->lock);
	while (!v->done)
		pthread_cond_wait(&v->answered, &v->lock);
	pthread_mutex_unlock(&v->lock);
	return v->rc;
}

static int entry(void *arg, const struct journal_entry *e)
{
	struct recovery *v = arg;
	uint64_t size, done, n;
	int rc = 0;

	if (e->disk >= v->h->disks || e->kind < EXT_DATA || e->kind > EXT_TRIM)
		return -EBADMSG;
	size = v->bases[e->disk]->size;
	if (e->off > size || e->len > size - e->off)
		return -EBADMSG;
	if (e->kind != EXT_DATA)
		return ask(v, e->disk, BLK_ZERO, e->kind == EXT_ZERO ? BLK_NO_HOLE : 0, e->off, e->len);
	for (done = 0; !rc && done < e->len; done += n) {
		n = e->len - done < v->h->chunk ? e->len - done : v->h->chunk;
		rc = v->f->pread(v->f->arg, v->buf, n, e->at + done);
		if (!rc)
			rc = ask(v, e->disk, BLK_WRITE, 0, e->off + done, n);
	}
	return rc;
}

int standby_recover(struct loop *l, const struct journal_file *j, struct blk *const *bases, const uint8_t (*ids)[16],
		    unsigned int n, uint64_t *epoch, struct err *e)
{
	struct journal_head h;
	struct recovery v = { .l = l, .f = j, .h = &h, .bases = bases };
	int rc = journal_read_head(j, &h, e);

	if (rc)
		return rc;
	bool other = n > STANDBY_MAX_DISKS || h.disks != n || memcmp(h.ids, ids, n * sizeof(ids[0]));

	*epoch = other ? 0 : h.epoch;
	if (!h.seq || !h.layers)
		return 0;
	if (other)
		return err_set(e, -EINVAL, "the journal is that of other disks, and has what must be written to them before it "
			       "is removed");
	v.buf = malloc(h.chunk);
	if (!v.buf)
		return err_set(e, -ENOMEM, "no memory for recovering the disks");
	pthread_mutex_init(&v.lock, NULL);
	pthread_cond_init(&v.answered, NULL);
	for (unsigned int i = 0; !rc && i < h.layers; i++) {
		rc = journal_read_index(j, &h, &h.layer[i], entry, &v);
		if (h.layer[i].epoch > *epoch)
			*epoch = h.layer[i].epoch;
	}
	for (unsigned int i = 0; !rc && i < n; i++)
		rc = ask(&v, i, BLK_FLUSH, 0, 0, 0);
	if (!rc) {
		/* Until this is durable the next one does all of it again. */
		h.seq++;
		h.epoch = *epoch;
		h.layers = 0;
		rc = journal_write_head(j, &h);
	}
	pthread_mutex_destroy(&v.lock);
	pthread_cond_destroy(&v.answered);
	free(v.buf);
	if (rc == -EBADMSG)
		return err_set(e, rc, "the journal is damaged: what was committed is not in it as a whole. "
			       "The disks are no state of any time; remove the journal and let the peer bring them up to date");
	if (rc)
		return err_set(e, rc, "what was committed cannot be written to the disks: %s", strerror(-rc));
	return 0;
}
