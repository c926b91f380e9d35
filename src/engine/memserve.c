/* SPDX-License-Identifier: BSD-2-Clause */
/* The memory worker where the VM serves: rounds, the copy in the pause, sending. Theory in memwork.c. */
#include "engine/memwork_internal.h"

#include <errno.h>
#include <string.h>

#include "base/crash.h"

#define BUF_RESERVE	(w->buf_pages / 2)	/* what a round leaves free for the pause */
#define SLICE_PAGES	256		/* pages that a round copies and sends before it looks at what else there is */
#define STATE_PIECE	(64u << 10)

static void on_slice(void *arg, const void *data, size_t len);

static void count_sent(struct memwork *w, uint64_t bytes, uint64_t left)
{
	w->epoch_bytes += bytes;
	pthread_mutex_lock(&w->lock);
	w->st.sent += bytes;
	w->st.buffered = pagesend_waiting(w->send) * RAM_PAGE;
	pagesend_stats(w->send, &w->st.pages);
	if (w->st.syncing) {
		w->st.sync_done += bytes;
		w->st.sync_left = left;
	}
	pthread_mutex_unlock(&w->lock);
	memwork_progress(w);
}

int memserve_message(void *arg, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len, bool packed)
{
	struct memwork *w = arg;

	return w->ops.send_pages(w->ops.arg, w->n, first, count, data, len, packed);
}

/* Send @most pages of the buffer (0: all). Return: 0, -EAGAIN to be called again, -EPIPE */
static int send_buffer(struct memwork *w, uint64_t most)
{
	uint64_t bytes = 0;
	int rc = 0;

	if (w->job == MEM_SEND && w->epoch_pages < w->crash_pages) {
		/* Once a checkpoint, so that `bulk_half:2` means the second one. */
		rc = pagesend_some(w->send, w->crash_pages - w->epoch_pages, &w->epoch_pages, &bytes);
		if (!rc)
			crash_point(CRASH_bulk_half);
	}
	if (!rc)
		rc = pagesend_some(w->send, most, &w->epoch_pages, &bytes);
	count_sent(w, bytes, (w->todo.count + w->pending.count) * RAM_PAGE);
	return rc;
}

/* Copy what is to be sent in this round, a slice at a time, so that a checkpoint need not wait for the rest. */
void memserve_on_round(struct memwork *w)
{
	int rc = send_buffer(w, SLICE_PAGES);

	if (rc == -EAGAIN)
		return;
	if (!rc && (w->todo.count || pagesend_waiting(w->send))) {
		if (pagesend_waiting(w->send) < SLICE_PAGES && pagebuf_room(w->buf) > BUF_RESERVE)
			pagebuf_take(w->buf, w->ram, &w->todo, SLICE_PAGES, &w->epoch);
		loop_post(w->loop, on_slice, w, &w->job_seq, sizeof(w->job_seq));
		return;
	}
	if (w->job == MEM_PRECOPY) {
		memwork_done(w, rc, w->found.count | w->hot << 32, "the connection is gone");
		return;
	}
	if (!rc)
		rc = dirty_scan(w->dirty, false, &w->pending);
	memwork_done(w, rc, w->pending.count, rc == -EPIPE ? "the connection is gone" : "QEMU's written pages cannot be found out");
}

static void on_slice(void *arg, const void *data, size_t len)
{
	struct memwork *w = arg;
	uint64_t seq;

	memcpy(&seq, data, len < sizeof(seq) ? len : sizeof(seq));
	if (w->busy && w->job_seq == seq)
		memserve_on_round(w);
}

void memserve_round(struct memwork *w)
{
	int rc = 0;

	/*
	 * Where all of memory is sent, nobody needs to know what was written before that. Soft-dirty bits are not cleared in
	 * another way while the VM runs, and the first pause would take all that was written since the VM was started.
	 */
	if (w->full_due)
		rc = dirty_arm(w->dirty);
	if (!rc)
		rc = dirty_scan(w->dirty, false, &w->pending);
	if (!rc && w->full_due) {
		/* After the scan: what is written from here on will be found by the next one. */
		rc = ram_extents(w->ram, &w->pending);
		w->full_due = false;
		w->epoch_bytes = w->epoch_pages = 0;
		pageset_clear(&w->epoch);
		pthread_mutex_lock(&w->lock);
		w->st.syncing = true;
		w->st.round = 0;
		w->st.sync_done = 0;
		w->st.sync_since = clock_ns();
		pthread_mutex_unlock(&w->lock);
	}
	pthread_mutex_lock(&w->lock);
	w->st.round++;
	w->st.sync_left = w->pending.count * RAM_PAGE;
	pthread_mutex_unlock(&w->lock);
	if (rc) {
		memwork_done(w, rc, 0, "QEMU's written pages cannot be found out");
		return;
	}
	pageset_or(&w->todo, &w->pending);
	pageset_clear(&w->pending);
	memserve_on_round(w);
}

/*
 * A round between checkpoints. What this scan found and the one before found too is written all the time: sending it
 * now would be for nothing, so it stays pending, until a scan does not find it any more or the pause takes it.
 */
void memserve_precopy(struct memwork *w)
{
	int rc;

	if (dirty_kind(w->dirty) == DIRTY_SOFT) {
		/* Nothing is armed again while the VM runs: the pause has to take all of it in any case. */
		memwork_done(w, -ENOTSUP, 0, NULL);
		return;
	}
	pageset_swap(&w->found, &w->before);
	pageset_clear(&w->found);
	rc = dirty_scan(w->dirty, false, &w->found);
	if (rc) {
		/* What was found before the error is armed again and known nowhere else. */
		pageset_or(&w->pending, &w->found);
		memwork_done(w, rc, 0, "QEMU's written pages cannot be found out");
		return;
	}
	pageset_or(&w->todo, &w->pending);
	pageset_or(&w->todo, &w->found);
	pageset_clear(&w->pending);
	pageset_or(&w->pending, &w->found);
	pageset_and(&w->pending, &w->before);
	pageset_sub(&w->todo, &w->pending);
	w->hot = w->pending.count;
	pthread_mutex_lock(&w->lock);
	w->st.precopy_rounds++;
	w->st.precopy_pages += w->todo.count;
	pthread_mutex_unlock(&w->lock);
	memserve_on_round(w);
}

/* What is left of a round that nobody waits for any more: its copies stay in the buffer, before what comes. */
void memserve_end_round(struct memwork *w)
{
	pageset_or(&w->pending, &w->todo);
	pageset_clear(&w->todo);
}

void memserve_again(struct memwork *w)
{
	pagesend_reset(w->send);
	pageset_or(&w->pending, &w->epoch);
	pageset_clear(&w->epoch);
	memwork_done(w, 0, w->pending.count, NULL);
}

void memserve_on_copy(struct memwork *w)
{
	int rc;

	while ((rc = pagebuf_take(w->buf, w->ram, &w->pending, 0, &w->epoch)) == -ENOSPC) {
		/* The VM stays stopped while the network takes what no memory has room for. */
		if (!w->copy_waits) {
			w->copy_waits = true;
			pthread_mutex_lock(&w->lock);
			w->st.pauses_for_link++;
			pthread_mutex_unlock(&w->lock);
		}
		rc = send_buffer(w, 0);
		if (rc == -EAGAIN)
			return;
		if (rc)
			break;
	}
	if (!rc && w->memcheck)
		w->hash = ram_hash(w->ram);
	if (!rc && fail_point(FAIL_copy))
		memwork_done(w, -EIO, 0, "LOCKSTEP_FAIL_AT has it fail");
	else
		memwork_done(w, rc, w->copied, "the connection is gone");
}

void memserve_copy(struct memwork *w)
{
	int rc = dirty_scan(w->dirty, true, &w->pending);

	w->copied = w->pending.count;
	w->copy_waits = w->state_ready = false;
	if (rc) {
		/* What the scan has armed again and not told of is known nowhere else: the next try takes everything. */
		if (ram_extents(w->ram, &w->pending))
			rc = -EPIPE;
		memwork_done(w, rc, 0, "QEMU's written pages cannot be found out");
	} else {
		memserve_on_copy(w);
	}
}

void memserve_send(struct memwork *w)
{
	struct err e = { 0 };
	int rc = send_buffer(w, 0);

	if (rc == -EAGAIN)
		return;
	if (!rc && !w->state_ready) {
		rc = devstate_saved(w->ds, (const void **)&w->state, &w->state_len, &e);
		if (rc) {
			memwork_done(w, rc, 0, e.msg);
			return;
		}
		w->state_off = 0;
		w->state_ready = true;
	}
	while (!rc && w->state_off < w->state_len) {
		uint32_t len = w->state_len - w->state_off < STATE_PIECE ? (uint32_t)(w->state_len - w->state_off) :
			       STATE_PIECE;

		rc = w->ops.send_state(w->ops.arg, w->n, w->state_off, w->state + w->state_off, len);
		if (!rc) {
			w->state_off += len;
			count_sent(w, len, 0);
		}
	}
	if (!rc && w->fail_send) {
		memwork_done(w, -EIO, 0, "LOCKSTEP_FAIL_AT has it fail");
		return;
	}
	if (!rc)
		rc = w->ops.send_marker(w->ops.arg, w->n, w->epoch_pages, w->epoch_bytes, w->state_len,
					w->memcheck ? w->hash : 0);
	if (rc == -EAGAIN)
		return;
	pthread_mutex_lock(&w->lock);
	w->st.syncing = false;
	w->st.last_bytes = w->epoch_bytes;
	pthread_mutex_unlock(&w->lock);
	if (!rc)
		crash_point(CRASH_bulk_sent);
	memwork_done(w, rc, w->epoch_bytes, "the connection is gone");
	w->epoch_bytes = w->epoch_pages = 0;
	if (!rc)
		pageset_clear(&w->epoch);
}
