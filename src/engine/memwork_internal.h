/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_MEMWORK_INTERNAL_H
#define ENGINE_MEMWORK_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/dirty.h"
#include "engine/memwork.h"
#include "engine/pagebuf.h"
#include "engine/pagesend.h"
#include "engine/svmmem.h"
#include "engine/workers.h"

/*
 * What the memory worker's files share: memwork.c (jobs, QEMUs, start and end), memserve.c (where the VM serves),
 * memstand.c (where it stands by). All of it in the bulk loop, but for st and what memwork.h says is for any thread.
 */

#define MEMWORK_AGENT_NS	(5 * NS_PER_S)	/* that the agent has for an answer */

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

/* memwork_done() - the job under way has ended; memwork_progress() - something has moved */
void memwork_done(struct memwork *w, int rc, uint64_t value, const char *why);
void memwork_progress(struct memwork *w);

/* memserve.c: the jobs of a node that serves; memserve_on_...(): go on, the connection takes more */
void memserve_round(struct memwork *w);
void memserve_precopy(struct memwork *w);
void memserve_again(struct memwork *w);
void memserve_copy(struct memwork *w);
void memserve_send(struct memwork *w);
void memserve_on_round(struct memwork *w);
void memserve_on_copy(struct memwork *w);
/* memserve_message() - the sender's pagesend_fn; @arg: the worker */
int memserve_message(void *arg, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len, bool packed);
/* memserve_end_round() - what is left of a round that nobody waits for any more */
void memserve_end_round(struct memwork *w);

/* memstand.c: the jobs of a node that stands by */
void memstand_reserve(struct memwork *w);
void memstand_apply(struct memwork *w);
void memstand_mend(struct memwork *w);
void memstand_forget(struct memwork *w);

#endif
