/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The memory worker: theory of operation
 *
 * Serving. `pending` holds the pages that the secondary lacks: what the tracker has reported (and re-armed, so it is
 * remembered here alone) and was not yet copied. A ROUND adds what is dirty, copies and sends it in portions while
 * the VM runs; a page that changes under the copy is reported again, because it was re-armed before it was copied.
 * COPY does the same with the VM stopped, into the copy buffer; only if that is full does it wait for the network.
 * SEND sends the buffer, the device state, and the marker that ends the epoch on this connection. `epoch` remembers
 * what was copied since the last marker: when the checkpoint under way is given up, AGAIN puts all of it back into
 * `pending`. What of it was sent is staged on the other side, and is overwritten there by what comes again.
 *
 * Sending stops when the connection has no credit and goes on with memwork_writable(); there is one job at a time,
 * and the loop stays free in between.
 *
 * Standing by. Until the first marker the image is nobody's state, so pages go straight into it; afterwards into the
 * staging area only (P3). RESERVE answers whether all of n is here and usable. APPLY throws away the SVM's private
 * pages, writes n's over the image and puts the device state where QEMU loads it from; it can be done again. MEND
 * throws away what the load itself has written and empties the staging area.
 *
 * LOCKSTEP_MEMCHECK=1 in the environment of both nodes: the primary hashes its memory while the VM is stopped and
 * sends the hash with the marker; the secondary, before its VM runs, hashes what QEMU there has mapped, as seen
 * through /proc/PID/mem, and says whether it is the same. For tests; it lengthens the pause by the time of a hash.
 */
#include "engine/memwork.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/crash.h"
#include "base/log.h"
#include "engine/dirty.h"
#include "engine/pagebuf.h"
#include "engine/pagesend.h"
#include "engine/svmmem.h"

#define BUF_PAGES	16384		/* 64 MB of copied content */
#define BUF_RESERVE	(w->buf_pages / 2)	/* what a round leaves free for the pause */
#define SLICE_PAGES	256		/* pages that a round copies and sends before it looks at what else there is */
#define STATE_PIECE	(64u << 10)
#define DROP_NS		(5 * NS_PER_S)
#define SHARE_PAGES	1024		/* private pages that are written while a promoted VM stands */
#define PROGRESS_NS	(50 * NS_PER_MS)

struct memwork {
	struct loop *loop;
	struct ram *ram;
	struct devstate *ds;
	struct memwork_ops ops;
	struct agentctl *agent;
	struct dirty *dirty;
	bool memcheck;

	bool busy;
	enum mem_job job;
	uint64_t n, job_seq;

	/* serving */
	struct workers *workers;
	struct pageset pending;		/* what the secondary lacks, and is not in todo */
	struct pageset todo;		/* what the round under way has still to copy */
	struct pageset found, before;	/* by the last scan between checkpoints, and by the one before it */
	struct pageset epoch;		/* all that was copied since the last checkpoint was sent */
	uint64_t hot;			/* pages that were in both */
	struct pagebuf *buf;
	uint64_t buf_pages;
	struct pagesend *send;
	bool pack;
	bool full_due;			/* the peer has nothing yet */
	bool copy_waits;		/* this pause has had to wait for the connection */
	uint64_t copied, hash;
	const uint8_t *state;
	size_t state_len, state_off;
	bool state_ready;
	uint64_t epoch_bytes, epoch_pages;
	uint64_t crash_pages;
	bool fail_send;

	/* standing by */
	struct stage *stage;
	struct svmmem *svm;
	struct memlimit *limit;
	bool filling;			/* before the first marker */
	int stage_rc;
	bool soft;
	uint64_t share_from;		/* promoted: memory up to this page is shared */
	uint8_t *in_state;
	uint64_t in_state_len, in_pages, marker_n, marker_state, marker_hash;

	_Atomic nstime stopped_at;	/* when the primary stopped for the last EPOCH_END, on our clock */

	nstime progress_at;
	pthread_mutex_t lock;		/* guards st */
	struct memwork_stats st;
};

struct mem_post {
	struct agentctl *agent;
	bool share, soft;
	enum mem_job job;
	uint64_t n;
};

static void on_slice(void *arg, const void *data, size_t len);

static void done(struct memwork *w, int rc, uint64_t value, const char *why)
{
	w->busy = false;
	w->ops.done(w->ops.arg, w->job, w->n, rc, value, why);
}

static void progress(struct memwork *w)
{
	nstime now = clock_ns();

	if (now - w->progress_at < PROGRESS_NS)
		return;
	w->progress_at = now;
	w->ops.progress(w->ops.arg);
}

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
	progress(w);
}

static int send_message(void *arg, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len, bool packed)
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
static void on_round(struct memwork *w)
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
		done(w, rc, w->found.count | w->hot << 32, "the connection is gone");
		return;
	}
	if (!rc)
		rc = dirty_scan(w->dirty, false, &w->pending);
	done(w, rc, w->pending.count, rc == -EPIPE ? "the connection is gone" : "QEMU's written pages cannot be found out");
}

static void on_slice(void *arg, const void *data, size_t len)
{
	struct memwork *w = arg;
	uint64_t seq;

	memcpy(&seq, data, len < sizeof(seq) ? len : sizeof(seq));
	if (w->busy && w->job_seq == seq)
		on_round(w);
}

static void begin_round(struct memwork *w)
{
	int rc = dirty_scan(w->dirty, false, &w->pending);

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
		done(w, rc, 0, "QEMU's written pages cannot be found out");
		return;
	}
	pageset_or(&w->todo, &w->pending);
	pageset_clear(&w->pending);
	on_round(w);
}

/*
 * A round between checkpoints. What this scan found and the one before found too is written all the time: sending it
 * now would be for nothing, so it stays pending, until a scan does not find it any more or the pause takes it.
 */
static void begin_precopy(struct memwork *w)
{
	int rc;

	if (dirty_kind(w->dirty) == DIRTY_SOFT) {
		/* Nothing is armed again while the VM runs: the pause has to take all of it in any case. */
		done(w, -ENOTSUP, 0, NULL);
		return;
	}
	pageset_swap(&w->found, &w->before);
	pageset_clear(&w->found);
	rc = dirty_scan(w->dirty, false, &w->found);
	if (rc) {
		/* What was found before the error is armed again and known nowhere else. */
		pageset_or(&w->pending, &w->found);
		done(w, rc, 0, "QEMU's written pages cannot be found out");
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
	on_round(w);
}

/* What is left of a round that nobody waits for any more: its copies stay in the buffer, before what comes. */
static void end_round(struct memwork *w)
{
	pageset_or(&w->pending, &w->todo);
	pageset_clear(&w->todo);
}

static void do_again(struct memwork *w)
{
	pagesend_reset(w->send);
	pageset_or(&w->pending, &w->epoch);
	pageset_clear(&w->epoch);
	done(w, 0, w->pending.count, NULL);
}

static void on_copy(struct memwork *w)
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
		done(w, -EIO, 0, "LOCKSTEP_FAIL_AT has it fail");
	else
		done(w, rc, w->copied, "the connection is gone");
}

static void begin_copy(struct memwork *w)
{
	int rc = dirty_scan(w->dirty, true, &w->pending);

	w->copied = w->pending.count;
	w->copy_waits = w->state_ready = false;
	if (rc) {
		/* What the scan has armed again and not told of is known nowhere else: the next try takes everything. */
		if (ram_extents(w->ram, &w->pending))
			rc = -EPIPE;
		done(w, rc, 0, "QEMU's written pages cannot be found out");
	} else {
		on_copy(w);
	}
}

static void on_send(struct memwork *w)
{
	struct err e = { 0 };
	int rc = send_buffer(w, 0);

	if (rc == -EAGAIN)
		return;
	if (!rc && !w->state_ready) {
		rc = devstate_saved(w->ds, (const void **)&w->state, &w->state_len, &e);
		if (rc) {
			done(w, rc, 0, e.msg);
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
		done(w, -EIO, 0, "LOCKSTEP_FAIL_AT has it fail");
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
	done(w, rc, w->epoch_bytes, "the connection is gone");
	w->epoch_bytes = w->epoch_pages = 0;
	if (!rc)
		pageset_clear(&w->epoch);
}

static void note_staged(struct memwork *w)
{
	struct stage_stats ss;

	stage_stats(w->stage, &ss);
	pthread_mutex_lock(&w->lock);
	w->st.staged_bytes = ss.bytes;
	w->st.pool_bytes = ss.pool_ready * RAM_PAGE;
	pthread_mutex_unlock(&w->lock);
	memlimit_staged(w->limit, ss.bytes / RAM_PAGE);
}

/* follow() - from now on what the VM writes is known; its memory is shared, and tracked where that is the agent's */
static int follow(struct memwork *w, struct err *e)
{
	int rc;

	w->dirty = dirty_new(w->soft ? DIRTY_SOFT : DIRTY_WP_ASYNC, &w->agent->map, w->agent->pagemap,
			     w->soft ? w->agent->clear_refs : -1, e);
	if (!w->dirty)
		return e->code;
	dirty_workers(w->dirty, w->workers);
	/*
	 * The kernel loses the soft-dirty bit of a page of shared memory that it swaps out. Mapped by us and locked, a page
	 * stays in memory.
	 */
	if (w->soft && mlock(w->ram->base, w->ram->size) == -1)
		log_warn("guest memory cannot be kept from being swapped out: %s; on this kernel a page that is swapped out may "
			 "be missed by a checkpoint, so use no swap", strerror(errno));
	rc = dirty_arm(w->dirty);
	if (rc < 0) {
		dirty_free(w->dirty);
		w->dirty = NULL;
		return err_set(e, rc, "%s", strerror(-rc));
	}
	return 0;
}

/* Give the SVM's private pages back. Return: 0 and how many, or -errno with @e */
static int revert(struct memwork *w, uint64_t *n, struct err *e)
{
	struct svmmem_stats st;
	int rc;

	*n = 0;
	if (!w->svm)
		return err_set(e, -ENOTCONN, "QEMU is not there");
	rc = svmmem_revert(w->svm, clock_ns() + DROP_NS, e);
	svmmem_stats(w->svm, &st);
	*n = st.last_pages;
	return rc;
}

static void apply_progress(void *arg)
{
	progress(arg);
}

static void do_apply(struct memwork *w)
{
	struct err e = { 0 };
	uint64_t n = 0;
	int rc;

	memlimit_end(w->limit);
	rc = revert(w, &n, &e);
	if (!rc) {
		rc = stage_apply(w->stage, w->ram, apply_progress, w);
		if (rc)
			err_set(&e, rc, "the staged pages cannot be written to the image: %s", strerror(-rc));
	}
	if (!rc)
		rc = agentctl_stopped(w->agent, atomic_load(&w->stopped_at), clock_ns() + DROP_NS, &e);
	if (!rc)
		rc = devstate_put(w->ds, w->in_state, w->in_state_len, &e);
	done(w, rc, n, e.msg);
}

/* Hash what QEMU has mapped, in the order of guest memory, and compare. */
static void compare_memory(struct memwork *w)
{
	static uint8_t piece[256 * RAM_PAGE];
	XXH3_state_t *h = XXH3_createState();
	char path[64];
	bool ok;
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/mem", w->agent->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ok = h && fd >= 0;
	if (h)
		XXH3_64bits_reset(h);
	for (uint32_t i = 0; ok && i < w->agent->map.n; i++) {
		struct mem_range *r = &w->agent->map.r[i];

		for (uint64_t off = 0; ok && off < r->count * RAM_PAGE;) {
			uint64_t left = r->count * RAM_PAGE - off;
			ssize_t k = pread(fd, piece, left < sizeof(piece) ? left : sizeof(piece), (off_t)(r->addr + off));

			ok = k > 0;
			if (ok) {
				XXH3_64bits_update(h, piece, (size_t)k);
				off += (uint64_t)k;
			}
		}
	}
	/* That it cannot be read (QEMU has just died, or is out of memory) does not say that it differs. */
	if (!ok) {
		log_warn("memcheck: memory cannot be read epoch=%llu: %s", (unsigned long long)w->marker_n,
			 strerror(errno));
		if (fd >= 0)
			close(fd);
		XXH3_freeState(h);
		return;
	}
	ok = XXH3_64bits_digest(h) == w->marker_hash;
	if (fd >= 0)
		close(fd);
	XXH3_freeState(h);
	pthread_mutex_lock(&w->lock);
	if (ok)
		w->st.memcheck_equal++;
	else
		w->st.memcheck_differs++;
	pthread_mutex_unlock(&w->lock);
	if (ok)
		log_info("memcheck: memory equal epoch=%llu", (unsigned long long)w->marker_n);
	else
		log_error("memcheck: memory differs epoch=%llu", (unsigned long long)w->marker_n);
}

/* What is staged is there no more, or counts nothing. */
static void forget(struct memwork *w)
{
	stage_clear(w->stage);
	w->in_state_len = w->in_pages = 0;
	note_staged(w);
}

static void do_mend(struct memwork *w)
{
	struct err e = { 0 };
	uint64_t n = 0;
	int rc = revert(w, &n, &e);

	w->filling = false;
	pthread_mutex_lock(&w->lock);
	w->st.mended_pages += n;
	pthread_mutex_unlock(&w->lock);
	if (!rc)
		memlimit_begin(w->limit, w->svm, (pid_t)w->agent->pid);
	if (!rc && w->memcheck && w->marker_hash)
		compare_memory(w);
	/* Else QEMU is started anew, and n applied once more. */
	if (!rc)
		forget(w);
	done(w, rc, n, e.msg);
}

static void do_forget(struct memwork *w)
{
	forget(w);
	w->stage_rc = 0;
	done(w, 0, 0, NULL);
}

static void do_reserve(struct memwork *w)
{
	struct err e = { 0 };
	int rc = w->stage_rc;

	if (rc)
		err_set(&e, rc, "a page could not be staged: %s", strerror(-rc));
	else if (w->marker_n != w->n || w->in_state_len != w->marker_state)
		rc = err_set(&e, -EPROTO, "checkpoint %llu is not complete", (unsigned long long)w->n);
	else
		rc = devstate_check(w->in_state, w->in_state_len, &e);
	done(w, rc, w->in_state_len, e.msg);
}

static uint64_t sender_pages(const struct memwork *w)
{
	return w->ram->n_pages / 4 < BUF_PAGES ? w->ram->n_pages / 4 : BUF_PAGES;
}

/* A copy buffer of so many pages, and who sends what is in it; in the place of what there was, which must be empty. */
static int new_sender(struct memwork *w, uint64_t pages, struct err *e)
{
	struct pagebuf *buf = pagebuf_new(pages, e);
	struct pagesend *send;

	if (!buf)
		return e->code;
	pagebuf_workers(buf, w->workers);
	send = pagesend_new(buf, w->workers, w->pack, send_message, w, e);
	if (!send) {
		pagebuf_free(buf);
		return e->code;
	}
	pagesend_free(w->send);
	pagebuf_free(w->buf);
	w->send = send;
	w->buf = buf;
	w->buf_pages = pages;
	return 0;
}

/* All of the memory is shared: from here on this node is what one is that has always served. */
static int become_serving(struct memwork *w, struct err *e)
{
	int rc = new_sender(w, sender_pages(w), e);

	if (!rc)
		rc = agentctl_hello(w->agent, w->ram, w->agent->pid, clock_ns() + DROP_NS, e);
	if (!rc && !w->soft)
		rc = agentctl_track(w->agent, clock_ns() + DROP_NS, e);
	if (!rc)
		rc = follow(w, e);
	if (rc)
		return rc;
	svmmem_free(w->svm);
	w->svm = NULL;
	/* Nothing is staged here any more. */
	stage_free(w->stage);
	w->stage = NULL;
	pthread_mutex_lock(&w->lock);
	w->st.pool_bytes = w->st.staged_bytes = 0;
	pthread_mutex_unlock(&w->lock);
	return 0;
}

static void do_share(struct memwork *w)
{
	struct err e = { 0 };
	uint64_t wrote = 0;
	int rc = 0;

	memlimit_end(w->limit);
	if (w->share_from < w->ram->n_pages)
		rc = svmmem_share(w->svm, &w->share_from, SHARE_PAGES, &wrote, clock_ns() + DROP_NS, &e);
	else
		rc = become_serving(w, &e);
	pthread_mutex_lock(&w->lock);
	w->st.shared_pages += wrote;
	pthread_mutex_unlock(&w->lock);
	done(w, rc, w->ram->n_pages - w->share_from, e.msg);
}

static void on_job(void *arg, const void *data, size_t len)
{
	struct memwork *w = arg;
	struct mem_post m;

	memcpy(&m, data, len < sizeof(m) ? len : sizeof(m));
	/* The one before was given up by its owner; its answer counts for nobody, but it comes. */
	if (w->busy)
		done(w, -ECANCELED, 0, "given up");
	end_round(w);
	w->busy = true;
	w->job_seq++;
	w->job = m.job;
	w->n = m.n;
	if (m.job == MEM_SHARE ? !w->svm : m.job <= MEM_AGAIN ? !w->dirty : !w->stage) {
		done(w, -ENOTSUP, 0, "this node is not in the role for it");
		return;
	}
	switch (m.job) {
	case MEM_ROUND:
		begin_round(w);
		break;
	case MEM_PRECOPY:
		begin_precopy(w);
		break;
	case MEM_COPY:
		begin_copy(w);
		break;
	case MEM_SEND:
		w->crash_pages = w->epoch_pages + (pagesend_waiting(w->send) + 1) / 2;
		w->fail_send = fail_point(FAIL_send);
		on_send(w);
		break;
	case MEM_AGAIN:
		do_again(w);
		break;
	case MEM_RESERVE:
		do_reserve(w);
		break;
	case MEM_APPLY:
		do_apply(w);
		break;
	case MEM_MEND:
		do_mend(w);
		break;
	case MEM_FORGET:
		do_forget(w);
		break;
	case MEM_SHARE:
		do_share(w);
		break;
	case MEM_JOBS:
		break;
	}
}

void memwork_epoch_end(struct memwork *w, nstime at)
{
	atomic_store(&w->stopped_at, at);
}

void memwork_job(struct memwork *w, enum mem_job job, uint64_t n)
{
	struct mem_post m = { .job = job, .n = n };

	loop_post(w->loop, on_job, w, &m, sizeof(m));
}

void memwork_writable(struct memwork *w)
{
	if (!w->busy)
		return;
	if (w->job == MEM_ROUND || w->job == MEM_PRECOPY)
		on_round(w);
	else if (w->job == MEM_COPY)
		on_copy(w);
	else if (w->job == MEM_SEND)
		on_send(w);
}

static void on_peer_lost(void *arg, const void *data, size_t len)
{
	struct memwork *w = arg;

	(void)data;
	(void)len;
	pagesend_reset(w->send);
	w->full_due = true;
	pageset_clear(&w->pending);
	pageset_clear(&w->todo);
	pageset_clear(&w->epoch);
	pthread_mutex_lock(&w->lock);
	w->st.syncing = false;
	pthread_mutex_unlock(&w->lock);
	if (w->busy && w->job <= MEM_AGAIN)
		done(w, -EPIPE, 0, "the peer is gone");
}

void memwork_peer_lost(struct memwork *w)
{
	loop_post(w->loop, on_peer_lost, w, NULL, 0);
}

static void on_qemu_up(void *arg, const void *data, size_t len)
{
	struct memwork *w = arg;
	struct mem_post m;
	struct err e = { 0 };

	memcpy(&m, data, len < sizeof(m) ? len : sizeof(m));
	dirty_free(w->dirty);
	w->dirty = NULL;
	memlimit_end(w->limit);
	svmmem_free(w->svm);
	w->svm = NULL;
	w->agent = m.agent;
	w->soft = m.soft;
	w->share_from = 0;
	if (!m.agent)
		return;
	if (!m.share) {
		w->svm = svmmem_new(m.agent, w->ram, &e);
		if (w->svm)
			svmmem_workers(w->svm, w->workers);
		else
			log_error("the SVM's own pages cannot be followed: %s", e.msg);
		return;
	}
	if (follow(w, &e) < 0)
		log_error("the VM's writes cannot be followed, so it cannot be protected: %s", e.msg);
}

void memwork_qemu(struct memwork *w, struct agentctl *agent, bool share, bool soft)
{
	struct mem_post m = { .agent = agent, .share = share, .soft = soft };

	if (w)
		loop_post(w->loop, on_qemu_up, w, &m, sizeof(m));
}

static void on_agent_free(void *arg, const void *data, size_t len)
{
	struct memwork *w = arg;
	struct agentctl *a;

	memcpy(&a, data, len < sizeof(a) ? len : sizeof(a));
	if (w->agent == a) {
		dirty_free(w->dirty);
		memlimit_end(w->limit);
		svmmem_free(w->svm);
		w->dirty = NULL;
		w->svm = NULL;
		w->agent = NULL;
	}
	agentctl_free(a);
}

void memwork_agent_free(struct memwork *w, struct agentctl *agent)
{
	loop_post(w->loop, on_agent_free, w, &agent, sizeof(agent));
}

int memwork_take_pages(struct memwork *w, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len, bool packed,
		       struct err *e)
{
	static uint8_t unpacked[PAGESEND_PIECE * RAM_PAGE];
	int rc = 0;

	if (!w->stage || first >= w->ram->n_pages || count > w->ram->n_pages - first)
		return err_set(e, -EPROTO, "the peer sent pages %llu+%llu of a memory of %llu", (unsigned long long)first,
			       (unsigned long long)count, (unsigned long long)w->ram->n_pages);
	if (packed && pagesend_unpack(data, len, count, unpacked))
		return err_set(e, -EPROTO, "the peer sent %llu packed pages from %llu that cannot be unpacked",
			       (unsigned long long)count, (unsigned long long)first);
	if (packed)
		data = unpacked;
	for (uint64_t i = 0; i < count; i++) {
		const uint8_t *p = data ? data + i * RAM_PAGE : NULL;

		rc = 0;
		if (!w->filling)
			rc = stage_put(w->stage, first + i, p);
		else if (p)
			memcpy(ram_page(w->ram, first + i), p, RAM_PAGE);
		else if (!ram_page_zero(ram_page(w->ram, first + i)))
			memset(ram_page(w->ram, first + i), 0, RAM_PAGE);
		if (rc && !w->stage_rc)
			w->stage_rc = rc;
	}
	w->in_pages += count;
	if (!w->filling)
		note_staged(w);
	pthread_mutex_lock(&w->lock);
	w->st.received += len;
	pthread_mutex_unlock(&w->lock);
	progress(w);
	return 0;
}

int memwork_take_state(struct memwork *w, uint64_t offset, const uint8_t *data, uint32_t len, struct err *e)
{
	/* That of a checkpoint that was given up is void when another one comes. */
	if (!offset)
		w->in_state_len = 0;
	if (!w->in_state || offset != w->in_state_len || len > DEVSTATE_MAX - offset)
		return err_set(e, -EPROTO, "the peer sent a piece of device state at %llu that does not fit",
			       (unsigned long long)offset);
	memcpy(w->in_state + offset, data, len);
	w->in_state_len += len;
	progress(w);
	return 0;
}

int memwork_take_marker(struct memwork *w, uint64_t n, uint64_t pages, uint64_t state_len, uint64_t hash, struct err *e)
{
	if (!w->stage || state_len != w->in_state_len || pages != w->in_pages)
		return err_set(e, -EPROTO, "the peer's checkpoint %llu has %llu pages and %llu bytes of device state, "
			       "but %llu and %llu have arrived", (unsigned long long)n, (unsigned long long)pages,
			       (unsigned long long)state_len, (unsigned long long)w->in_pages,
			       (unsigned long long)w->in_state_len);
	w->marker_n = n;
	w->marker_state = state_len;
	w->marker_hash = hash;
	w->ops.marker(w->ops.arg, n, state_len);
	return 0;
}

void memwork_stats(struct memwork *w, struct memwork_stats *out)
{
	memset(out, 0, sizeof(*out));
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	*out = w->st;
	pthread_mutex_unlock(&w->lock);
	memlimit_stats(w->limit, &out->limit);
}

int memwork_limits(struct memwork *w, const struct memlimit_cfg *cfg, struct err *e)
{
	memlimit_free(w->limit);
	w->limit = memlimit_new(w->loop, cfg, w->ops.limit, w->ops.arg, e);
	return w->limit ? 0 : e->code;
}

static int new_sets(struct memwork *w, struct err *e)
{
	struct pageset *const sets[] = { &w->pending, &w->todo, &w->found, &w->before, &w->epoch };

	for (size_t i = 0; i < sizeof(sets) / sizeof(*sets); i++)
		if (pageset_init(sets[i], w->ram->n_pages) < 0)
			return err_set(e, -ENOMEM, "no memory for the sets of pages");
	return 0;
}

struct memwork *memwork_new(struct loop *loop, struct ram *ram, struct devstate *ds, const struct memwork_cfg *cfg,
			    const struct memwork_ops *ops, struct err *e)
{
	struct memwork *w = calloc(1, sizeof(*w));
	const char *check = getenv("LOCKSTEP_MEMCHECK");
	uint64_t share = ram->n_pages / MEMLIMIT_SHARE;
	struct memlimit_cfg limits = { .private_pages = share, .staged_pages = share };

	if (!w) {
		err_set(e, -ENOMEM, "no memory for the memory worker");
		return NULL;
	}
	pthread_mutex_init(&w->lock, NULL);
	w->loop = loop;
	w->ram = ram;
	w->ds = ds;
	w->ops = *ops;
	w->full_due = true;
	w->filling = true;
	w->memcheck = check && !strcmp(check, "1");
	if (memwork_limits(w, &limits, e) < 0)
		goto fail;
	if (new_sets(w, e) < 0)
		goto fail;
	w->workers = workers_new(cfg->workers ? cfg->workers : workers_default(), e);
	if (!w->workers)
		goto fail;
	w->pack = cfg->pack;
	if (new_sender(w, cfg->standby ? 1 : sender_pages(w), e) < 0)
		goto fail;
	if (cfg->standby) {
		w->stage = stage_new(ram->n_pages, 0, cfg->spill_dir, e);
		if (!w->stage)
			goto fail;
		w->in_state = malloc(DEVSTATE_MAX);
		if (!w->in_state) {
			err_set(e, -ENOMEM, "no memory for the device state");
			goto fail;
		}
	}
	return w;
fail:
	memwork_free(w);
	return NULL;
}

void memwork_free(struct memwork *w)
{
	if (!w)
		return;
	dirty_free(w->dirty);
	memlimit_free(w->limit);
	svmmem_free(w->svm);
	pagesend_free(w->send);
	pagebuf_free(w->buf);
	workers_free(w->workers);
	stage_free(w->stage);
	pageset_fini(&w->pending);
	pageset_fini(&w->todo);
	pageset_fini(&w->found);
	pageset_fini(&w->before);
	pageset_fini(&w->epoch);
	free(w->in_state);
	pthread_mutex_destroy(&w->lock);
	free(w);
}
