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
 * This file has the jobs as they come and go, the QEMUs whose memory it is, and start and end; memserve.c has the work
 * where the VM serves, memstand.c where it stands by.
 *
 * LOCKSTEP_MEMCHECK=1 in the environment of both nodes: the primary hashes its memory while the VM is stopped and
 * sends the hash with the marker; the secondary, before its VM runs, hashes what QEMU there has mapped, as seen
 * through its own /proc/self/mem, and says whether it is the same. For tests; it lengthens the pause by the time of a hash.
 */
#include "engine/memwork_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/crash.h"
#include "base/log.h"

#define BUF_PAGES	16384		/* 64 MB of copied content */
#define SHARE_PAGES	1024		/* private pages that are written while a promoted VM stands */
#define PROGRESS_NS	(50 * NS_PER_MS)

struct mem_post {
	struct agentctl *agent;
	bool share, soft;
	enum mem_job job;
	uint64_t n;
};

void memwork_done(struct memwork *w, int rc, uint64_t value, const char *why)
{
	w->busy = false;
	w->ops.done(w->ops.arg, w->job, w->n, rc, value, why);
}

void memwork_progress(struct memwork *w)
{
	nstime now = clock_ns();

	if (now - w->progress_at < PROGRESS_NS)
		return;
	w->progress_at = now;
	w->ops.progress(w->ops.arg);
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
	send = pagesend_new(buf, w->workers, w->pack, memserve_message, w, e);
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
		rc = agentctl_hello(w->agent, w->ram, w->agent->pid, clock_ns() + MEMWORK_AGENT_NS, e);
	if (!rc && !w->soft)
		rc = agentctl_track(w->agent, clock_ns() + MEMWORK_AGENT_NS, e);
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
		rc = svmmem_share(w->svm, &w->share_from, SHARE_PAGES, &wrote, clock_ns() + MEMWORK_AGENT_NS, &e);
	else
		rc = become_serving(w, &e);
	pthread_mutex_lock(&w->lock);
	w->st.shared_pages += wrote;
	pthread_mutex_unlock(&w->lock);
	memwork_done(w, rc, w->ram->n_pages - w->share_from, e.msg);
}

static void on_job(void *arg, const void *data, size_t len)
{
	struct memwork *w = arg;
	struct mem_post m;

	memcpy(&m, data, len < sizeof(m) ? len : sizeof(m));
	/* The one before was given up by its owner; its answer counts for nobody, but it comes. */
	if (w->busy)
		memwork_done(w, -ECANCELED, 0, "given up");
	memserve_end_round(w);
	w->busy = true;
	w->job_seq++;
	w->job = m.job;
	w->n = m.n;
	if (m.job == MEM_SHARE ? !w->svm : m.job <= MEM_AGAIN ? !w->dirty : !w->stage) {
		memwork_done(w, -ENOTSUP, 0, "this node is not in the role for it");
		return;
	}
	switch (m.job) {
	case MEM_ROUND:
		memserve_round(w);
		break;
	case MEM_PRECOPY:
		memserve_precopy(w);
		break;
	case MEM_COPY:
		memserve_copy(w);
		break;
	case MEM_SEND:
		w->crash_pages = w->epoch_pages + (pagesend_waiting(w->send) + 1) / 2;
		w->fail_send = fail_point(FAIL_send);
		memserve_send(w);
		break;
	case MEM_AGAIN:
		memserve_again(w);
		break;
	case MEM_RESERVE:
		memstand_reserve(w);
		break;
	case MEM_APPLY:
		memstand_apply(w);
		break;
	case MEM_MEND:
		memstand_mend(w);
		break;
	case MEM_FORGET:
		memstand_forget(w);
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
		memserve_on_round(w);
	else if (w->job == MEM_COPY)
		memserve_on_copy(w);
	else if (w->job == MEM_SEND)
		memserve_send(w);
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
		memwork_done(w, -EPIPE, 0, "the peer is gone");
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
