/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_MEMWORK_H
#define ENGINE_MEMWORK_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "engine/agentctl.h"
#include "engine/devstate.h"
#include "engine/pagesend.h"
#include "engine/memlimit.h"
#include "engine/ram.h"
#include "engine/stage.h"

/*
 * The memory worker: everything about guest memory and device state that takes time, in a loop of its own (the bulk
 * loop), which also owns the bulk connection. Both halves in one: copying and sending where the VM serves, staging
 * and applying where it stands by.
 */
struct memwork;

enum mem_job {
	MEM_ROUND,	/* serving, VM runs: send what is dirty; value: pages dirty again at the end */
	MEM_PRECOPY,	/* serving, VM runs: a round between checkpoints; value: pages found dirty, in the upper 32 bits those of
			 * them that were dirty in the round before too and were not sent; -ENOTSUP: not with this kernel */
	MEM_COPY,	/* serving, VM stopped: take what is dirty; value: pages */
	MEM_SEND,	/* serving: send what was taken, the saved device state, and the marker; value: bytes sent for n */
	MEM_AGAIN,	/* serving: what was copied since the last marker is to be sent again; value: pages */
	MEM_RESERVE,	/* standby: is everything here and usable; value: bytes of device state */
	MEM_APPLY,	/* standby, SVM stopped: its private pages go, n's pages into the image; value: private pages */
	MEM_MEND,	/* standby, SVM stopped: put right what the load has written, forget n; value: pages mended */
	MEM_FORGET,	/* standby: forget what is staged */
	MEM_SHARE,	/* promoted, VM stopped: a piece of its memory is mapped shared; value: pages left. When none were
			 * left, VM running: what it writes is followed */
	MEM_JOBS
};

/* Bound by node.c; all called in the bulk loop. */
struct memwork_ops {
	/* Send on the bulk connection. Return: 0, -EAGAIN (nothing taken; memwork_writable() follows), -EPIPE */
	int (*send_pages)(void *arg, uint64_t n, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len,
			  bool packed);	/* as pagesend_fn */
	int (*send_state)(void *arg, uint64_t n, uint64_t offset, const uint8_t *data, uint32_t len);
	int (*send_marker)(void *arg, uint64_t n, uint64_t pages, uint64_t bytes, uint64_t state_len, uint64_t hash);
	void (*done)(void *arg, enum mem_job job, uint64_t n, int rc, uint64_t value, const char *why);
	/* the marker of @n has come: everything before it is staged; @state_len: bytes of device state */
	void (*marker)(void *arg, uint64_t n, uint64_t state_len);
	/* something has moved; at most every 50 ms */
	void (*progress)(void *arg);
	/* standby: something has come to its limit */
	void (*limit)(void *arg, enum memlimit_what what);
	void *arg;
};

struct memwork_stats {
	bool syncing;
	uint32_t round;
	uint64_t sync_done, sync_left;	/* bytes of the first synchronisation */
	nstime sync_since;
	uint64_t staged_bytes;
	uint64_t mended_pages;
	uint64_t pool_bytes;		/* memory that staging has now */
	struct memlimit_stats limit;
	uint64_t shared_pages;		/* promoted: private pages that were written to the image in sharing it */
	uint64_t buffered;
	uint64_t precopy_rounds, precopy_pages;	/* between checkpoints, since the start */
	struct pagesend_stats pages;	/* in which form they were sent */
	uint64_t pauses_for_link;	/* the buffer was full in a pause */
	uint64_t sent, received;	/* bytes on the bulk connection */
	uint64_t last_bytes;		/* sent for the last complete checkpoint */
	uint64_t memcheck_equal, memcheck_differs;
};

struct memwork_cfg {
	const char *spill_dir;	/* for stage_new() */
	bool standby;		/* a staging area is needed */
	bool pack;		/* pages are sent packed where that makes them smaller */
	unsigned int workers;	/* threads that scan, copy and pack, ours included; 0: workers_default() */
};

/* memwork_new() - when all of @ram is laid out; its loop may run already */
struct memwork *memwork_new(struct loop *loop, struct ram *ram, struct devstate *ds, const struct memwork_cfg *cfg,
			    const struct memwork_ops *ops, struct err *e);
/*
 * memwork_limits() - what a standby node may take; before memwork_qemu(). Return: 0, -ENOMEM with @e filled
 */
int memwork_limits(struct memwork *w, const struct memlimit_cfg *cfg, struct err *e);
/* memwork_free() - after the loop has ended */
void memwork_free(struct memwork *w);

/*
 * memwork_qemu() - a QEMU is up; any thread; nothing where @w is NULL
 * @agent: borrowed from now on; NULL: it is gone
 * @share: it serves (or may): follow what it writes
 * @soft:  soft-dirty instead of userfaultfd
 */
void memwork_qemu(struct memwork *w, struct agentctl *agent, bool share, bool soft);

/* memwork_agent_free() - this QEMU is gone for good: let go of its agent, then free it; any thread */
void memwork_agent_free(struct memwork *w, struct agentctl *agent);

/* memwork_epoch_end() - standby: the PVM is being stopped for a checkpoint, since @at; any thread */
void memwork_epoch_end(struct memwork *w, nstime at);

/* memwork_job() - begin a job; ops.done() follows; any thread */
void memwork_job(struct memwork *w, enum mem_job job, uint64_t n);

/* memwork_peer_lost() - whatever is being sent is void, a next peer gets everything; any thread */
void memwork_peer_lost(struct memwork *w);

/* memwork_writable() - the bulk connection takes more; bulk loop */
void memwork_writable(struct memwork *w);

/* Messages of the bulk connection, checked for their ranges here. Bulk loop. Return: 0, or -EPROTO with @e filled */
int memwork_take_pages(struct memwork *w, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len, bool packed,
		       struct err *e);
int memwork_take_state(struct memwork *w, uint64_t offset, const uint8_t *data, uint32_t len, struct err *e);
int memwork_take_marker(struct memwork *w, uint64_t n, uint64_t pages, uint64_t state_len, uint64_t hash, struct err *e);

/* memwork_stats() - a recent copy, all zero where @w is NULL (not made yet); any thread */
void memwork_stats(struct memwork *w, struct memwork_stats *out);

#endif
