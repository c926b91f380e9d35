/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the peer says about the disks, and what it is told: theory of operation
 *
 * Serving: writes, zeroes and the marker go out as they come, in one order with the data of a resync. Standing by:
 * messages are taken in their order. What the standby has no room for at the moment waits here, in memory; its credit is
 * given back when it was taken, so that no more than the connection's window can ever wait. Messages of a resync may speak of what was written before them, and a marker
 * ends an epoch whose data must be there: as long as there is no SVM (sync mode) both wait until nothing is on its way
 * into the images.
 *
 * A marker that follows another one without a flip between them says that the earlier epoch was given up.
 */
#include "disk/disk_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

void disk_moved(struct disk *d)
{
	nstime now = loop_now(d->loop);

	if (now - d->moved_at < DISK_PROGRESS_NS)
		return;
	d->moved_at = now;
	d->ops.progress(d->ops.arg);
}

/* Toward the peer */

static int peer_write(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	struct disk *d = arg;
	int rc = d->up ? d->ops.send_write(d->ops.arg, disk, off, len, data) : -EPIPE;

	if (!rc) {
		d->sent_msgs++;
		d->sent_bytes += len;
		disk_moved(d);
	}
	return rc;
}

static int peer_zero(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole)
{
	struct disk *d = arg;
	int rc = d->up ? d->ops.send_zero(d->ops.arg, disk, off, len, trim, no_hole) : -EPIPE;

	if (!rc) {
		d->sent_msgs++;
		disk_moved(d);
	}
	return rc;
}

static int peer_marker(void *arg, uint64_t n)
{
	struct disk *d = arg;
	int rc = d->up ? d->ops.send_marker(d->ops.arg, n, d->sent_msgs, d->sent_bytes) : -EPIPE;

	if (!rc)
		d->sent_msgs = d->sent_bytes = 0;
	return rc;
}

static int peer_old(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	struct disk *d = arg;
	int rc = d->up ? d->ops.send_old(d->ops.arg, disk, off, len, data) : -EPIPE;

	if (!rc) {
		d->sent_msgs++;
		d->sent_bytes += data ? len : 0;
		disk_moved(d);
	}
	return rc;
}

const struct shared_peer disk_shared_peer = { .old = peer_old, .marker = peer_marker };

const struct serve_peer disk_serve_peer = { .write = peer_write, .zero = peer_zero, .marker = peer_marker };

static int peer_sync(void *arg, const struct rsy_msg *m)
{
	struct disk *d = arg;

	return d->up ? d->ops.send_sync(d->ops.arg, m->disk, (uint8_t)m->type, m->payload, m->len) : -EPIPE;
}

/* Resync */

/* It is reported now and then; what it came to in the end is reported here. */
static void last_progress(struct disk *d)
{
	if (d->resync)
		resync_progress(d->resync, &d->progress);
}

static void resync_over(void *arg, int rc, const char *sentence)
{
	struct disk *d = arg;

	last_progress(d);
	d->resync_over = !rc;
	if (d->job_on[DISK_RESYNC])
		disk_job_done(d, DISK_RESYNC, rc, sentence);
	else if (rc && !d->serves)
		disk_fail(d, rc, sentence);
	else if (!rc && !d->serves)
		log_note("the disks are up to date");
}

static void resync_moved(void *arg, const struct resync_progress *p)
{
	struct disk *d = arg;

	d->progress = *p;
	disk_moved(d);
}

/* The target has agreed to the plan: what the guest writes from now on goes to it. */
static void resync_ready(void *arg)
{
	struct serve_peer peer = disk_serve_peer;
	struct disk *d = arg;

	peer.arg = d;
	d->alone = false;
	serve_peer(d->serve, &peer);
}

/* No cfg.settle: a message is given to a resync only when nothing is on its way into the images, see must_wait(). */
int disk_resync_begin(struct disk *d, struct err *e)
{
	struct resync_cfg cfg = { .loop = d->loop, .n = d->n, .bases = d->bases, .metas = d->meta,
				  .rate = d->cfg.resync_rate, .discard = d->cfg.discard, .done = resync_over,
				  .progress = resync_moved, .ready = resync_ready, .arg = d };
	struct resync_peer peer = { .msg = peer_sync, .write = peer_write, .zero = peer_zero, .arg = d };
	struct blk *bases[DISK_MAX];

	disk_resync_end(d);
	d->resync_over = false;
	memset(&d->progress, 0, sizeof(d->progress));
	/* A promoted node's images may still lack what lies above them. */
	for (unsigned int i = 0; i < d->n && d->serves; i++)
		bases[i] = d->standby ? standby_blk(d->standby, i) : d->bases[i];
	if (d->serves)
		cfg.bases = bases;
	d->resync = d->serves ? resync_source(&cfg, d->serve, &peer, e) : resync_target(&cfg, &peer, e);
	if (!d->resync)
		return e->code;
	disk_fifo_run(d);
	return 0;
}

void disk_resync_end(struct disk *d)
{
	last_progress(d);
	resync_free(d->resync);
	d->resync = NULL;
}

/* From the peer */

static bool must_wait(const struct disk *d, const struct disk_msg *m)
{
	/* The peer says hello as soon as it is connected, which may be before this node is asked to begin. */
	if (m->type == DM_SYNC && !d->resync && !d->cfg.shared)
		return true;
	return d->sync && d->under_way && (m->type == DM_SYNC || m->type == DM_MARKER);
}

static void reserved(void *arg, int rc)
{
	struct disk *d = arg;
	char text[512] = "";

	/* Given up by the peer, or this node was promoted: nobody waits for it. */
	if (rc == -ECANCELED)
		return;
	if (rc)
		disk_where(d, strerror(-rc), text, sizeof(text));
	d->ops.barrier(d->ops.arg, d->marker_n, rc, text);
}

/* Return: 0, -EAGAIN, or -EPROTO */
static int take(struct disk *d, const struct disk_msg *m, const uint8_t *data, struct err *e)
{
	int rc = 0;

	if (must_wait(d, m))
		return -EAGAIN;
	switch (m->type) {
	case DM_WRITE:
		rc = standby_write(d->standby, m->disk, m->off, (uint32_t)m->len, data);
		break;
	case DM_ZERO:
		rc = standby_zero(d->standby, m->disk, m->off, m->len, m->trim, m->no_hole);
		break;
	case DM_MARKER:
		if (d->marker_n && d->marker_n != d->flipped_n)
			standby_abort(d->standby, d->marker_n);
		d->marker_n = m->n;
		d->sync = false;
		standby_barrier(d->standby, m->n);
		standby_reserve(d->standby, m->n, reserved, d);
		break;
	case DM_OLD:
		rc = standby_old(d->standby, m->disk, m->off, (uint32_t)m->len, m->zero ? NULL : data);
		if (!rc)
			d->ops.send_kept(d->ops.arg, ++d->kept);
		break;
	case DM_SYNC: {
		if (d->cfg.shared)
			return disk_shared_message(d, m->sync, data, (uint32_t)m->len, e);
		struct rsy_msg msg = { .type = m->sync, .disk = (uint16_t)m->disk, .len = (uint32_t)m->len, .payload = data };

		rc = resync_message(d->resync, &msg, e);
		break;
	}
	}
	if (rc == -EINVAL)
		return err_set(e, -EPROTO, "a message of the disk connection is about bytes %llu to %llu of disk %u, which it does "
			       "not have", (unsigned long long)m->off, (unsigned long long)(m->off + m->len), m->disk);
	return rc;
}

static int queue(struct disk *d, const struct disk_msg *m, const uint8_t *data, uint64_t len)
{
	struct disk_msg *q = malloc(sizeof(*q) + len);

	if (!q)
		return -ENOMEM;
	*q = *m;
	q->next = NULL;
	if (len)
		memcpy(q->data, data, len);
	*d->fifo_tail = q;
	d->fifo_tail = &q->next;
	return 0;
}

/* Bytes of payload as the connection counts them. */
static uint64_t weight(const struct disk_msg *m)
{
	if (m->type == DM_OLD)
		return 16 + (m->zero ? 0 : m->len);
	return m->type == DM_WRITE ? m->len + 8 : m->type == DM_SYNC ? m->len + 4 : m->type == DM_ZERO ? 20 : 16;
}

static int handle(struct disk *d, const struct disk_msg *m, const uint8_t *data, struct err *e)
{
	int rc = d->fifo ? -EAGAIN : take(d, m, data, e);

	if (rc == -EAGAIN) {
		rc = queue(d, m, data, m->type == DM_WRITE || m->type == DM_SYNC || (m->type == DM_OLD && !m->zero) ? m->len : 0);
		return rc ? err_set(e, rc, "no memory for what the peer says about the disks") : 0;
	}
	d->ops.consumed(d->ops.arg, weight(m), 1);
	disk_moved(d);
	return rc;
}

void disk_fifo_run(struct disk *d)
{
	struct err e = { 0 };

	while (d->fifo) {
		struct disk_msg *m = d->fifo;
		int rc = take(d, m, m->data, &e);

		if (rc == -EAGAIN)
			return;
		if (rc)
			disk_fail(d, rc, e.msg);
		d->fifo = m->next;
		if (!d->fifo)
			d->fifo_tail = &d->fifo;
		if (d->up)
			d->ops.consumed(d->ops.arg, weight(m), 1);
		free(m);
		disk_moved(d);
	}
}

void disk_fifo_drop(struct disk *d)
{
	while (d->fifo) {
		struct disk_msg *m = d->fifo;

		d->fifo = m->next;
		free(m);
	}
	d->fifo_tail = &d->fifo;
}

static int wrong_role(struct disk *d, struct err *e)
{
	return d->serves || !d->standby ? err_set(e, -EPROTO, "the peer writes to the disks of a node that serves") : 0;
}

/* Nothing comes into the images before this node has agreed to it, nor a checkpoint before they are equal. */
static int too_soon(struct disk *d, bool marker, struct err *e)
{
	if (d->cfg.shared || (marker ? d->resync_over : resync_running(d->resync)))
		return 0;
	return err_set(e, -EPROTO, marker ? "the peer ends an epoch of disks that are not up to date yet" :
		       "the peer writes to the disks before this node has agreed to that");
}

int disk_take_write(struct disk *d, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data, struct err *e)
{
	struct disk_msg m = { .type = DM_WRITE, .disk = disk, .off = off, .len = len };

	d->got_msgs++;
	d->got_bytes += len;
	return wrong_role(d, e) || too_soon(d, false, e) ? -EPROTO : handle(d, &m, data, e);
}

int disk_take_zero(struct disk *d, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole, struct err *e)
{
	struct disk_msg m = { .type = DM_ZERO, .disk = disk, .off = off, .len = len, .trim = trim, .no_hole = no_hole };

	d->got_msgs++;
	return wrong_role(d, e) || too_soon(d, false, e) ? -EPROTO : handle(d, &m, NULL, e);
}

int disk_take_marker(struct disk *d, uint64_t n, uint64_t msgs, uint64_t bytes, struct err *e)
{
	struct disk_msg m = { .type = DM_MARKER, .n = n };

	if (wrong_role(d, e) || too_soon(d, true, e))
		return -EPROTO;
	if (msgs != d->got_msgs || bytes != d->got_bytes || !n)
		return err_set(e, -EPROTO, "marker %llu of the disks says %llu messages with %llu bytes, %llu with %llu have come",
			       (unsigned long long)n, (unsigned long long)msgs, (unsigned long long)bytes,
			       (unsigned long long)d->got_msgs, (unsigned long long)d->got_bytes);
	d->got_msgs = d->got_bytes = 0;
	return handle(d, &m, NULL, e);
}

int disk_take_committed(struct disk *d, uint64_t n, struct err *e)
{
	if (!d->serve)
		return err_set(e, -EPROTO, "the peer says that it has committed %llu, and it does not stand by",
			       (unsigned long long)n);
	serve_committed(d->serve, n);
	d->ops.consumed(d->ops.arg, 0, 1);
	return 0;
}

int disk_take_old(struct disk *d, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data, struct err *e)
{
	struct disk_msg m = { .type = DM_OLD, .disk = disk, .off = off, .len = len, .zero = !data };

	d->got_msgs++;
	d->got_bytes += data ? len : 0;
	return wrong_role(d, e) ? -EPROTO : handle(d, &m, data, e);
}

int disk_take_kept(struct disk *d, uint64_t count, struct err *e)
{
	if (!d->keep || shared_serve_kept(d->keep, count))
		return err_set(e, -EPROTO, "the peer says that it has %llu pieces of old content, and it cannot have",
			       (unsigned long long)count);
	d->ops.consumed(d->ops.arg, 8, 1);
	disk_moved(d);
	return 0;
}

int disk_take_sync(struct disk *d, unsigned int disk, uint8_t type, const uint8_t *payload, uint32_t len, struct err *e)
{
	struct disk_msg m = { .type = DM_SYNC, .disk = disk, .sync = type, .len = len };

	return handle(d, &m, payload, e);
}
