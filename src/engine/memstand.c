/* SPDX-License-Identifier: BSD-2-Clause */
/* The memory worker where the VM stands by: what comes in, and a checkpoint's way into the image. Theory in memwork.c. */
#include "engine/memwork_internal.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/crash.h"
#include "base/log.h"

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

/* Give the SVM's private pages back. Return: 0 and how many, or -errno with @e */
static int revert(struct memwork *w, uint64_t *n, struct err *e)
{
	struct svmmem_stats st;
	int rc;

	*n = 0;
	if (!w->svm)
		return err_set(e, -ENOTCONN, "QEMU is not there");
	rc = svmmem_revert(w->svm, clock_ns() + MEMWORK_AGENT_NS, e);
	svmmem_stats(w->svm, &st);
	*n = st.last_pages;
	return rc;
}

static void apply_progress(void *arg)
{
	memwork_progress(arg);
}

void memstand_apply(struct memwork *w)
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
		rc = agentctl_stopped(w->agent, atomic_load(&w->stopped_at), clock_ns() + MEMWORK_AGENT_NS, &e);
	if (!rc)
		rc = devstate_put(w->ds, w->in_state, w->in_state_len, &e);
	memwork_done(w, rc, n, e.msg);
}

/* Hash what QEMU has mapped, in the order of guest memory, and compare. */
static void compare_memory(struct memwork *w)
{
	static uint8_t piece[256 * RAM_PAGE];
	XXH3_state_t *h = XXH3_createState();
	int fd = w->agent->mem;
	bool ok = h && fd >= 0;

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
		XXH3_freeState(h);
		return;
	}
	ok = XXH3_64bits_digest(h) == w->marker_hash;
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

void memstand_mend(struct memwork *w)
{
	struct err e = { 0 };
	uint64_t n = 0;
	int rc = revert(w, &n, &e);

	w->filling = false;
	pthread_mutex_lock(&w->lock);
	w->st.mended_pages += n;
	pthread_mutex_unlock(&w->lock);
	if (!rc)
		memlimit_begin(w->limit, w->svm, w->agent->status);
	if (!rc && w->memcheck && w->marker_hash)
		compare_memory(w);
	/* Else QEMU is started anew, and n applied once more. */
	if (!rc)
		forget(w);
	memwork_done(w, rc, n, e.msg);
}

void memstand_forget(struct memwork *w)
{
	forget(w);
	w->stage_rc = 0;
	memwork_done(w, 0, 0, NULL);
}

void memstand_reserve(struct memwork *w)
{
	struct err e = { 0 };
	int rc = w->stage_rc;

	if (rc)
		err_set(&e, rc, "a page could not be staged: %s", strerror(-rc));
	else if (w->marker_n != w->n || w->in_state_len != w->marker_state)
		rc = err_set(&e, -EPROTO, "checkpoint %llu is not complete", (unsigned long long)w->n);
	else
		rc = devstate_check(w->in_state, w->in_state_len, &e);
	memwork_done(w, rc, w->in_state_len, e.msg);
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
	memwork_progress(w);
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
	memwork_progress(w);
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
