/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_SERVE_INTERNAL_H
#define DISK_SERVE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "disk/debt.h"
#include "disk/rangelock.h"
#include "disk/saver.h"
#include "disk/serve.h"
#include "disk/uncommitted.h"

/* Private to serve.c and serve_ops.c. */

/* Steps of a request that changes something; what each one may do stands in serve_ops.c. */
enum serve_step {
	SERVE_BEGIN,	/* it has its range */
	SERVE_WRITTEN,	/* the base has answered */
	SERVE_SEND,	/* its content, or a zero, goes to the peer */
	SERVE_READ,	/* it failed here: a piece is read back */
	SERVE_SEND_READ,	/* and goes to the peer */
	SERVE_FINISH,
	SERVE_FLUSH,	/* not one of these: the base is flushed */
	SERVE_MARKER,	/* not a request: the end of an epoch, among what waits for room */
};

struct serve_op {
	struct serve_turn turn;
	struct blk_req sub;		/* to the base */
	struct serve_disk *d;
	struct blk_req *r;		/* the guest's; NULL: a flush that was answered early, or is our own */
	struct debt_flush flush;
	struct serve_op *wait;		/* next in the list for the saver, for room, or for the debt */
	enum serve_step step;
	int rc;				/* the guest's */
	int base_rc;			/* of the last request to the base */
	uint64_t off, len;
	uint64_t at;			/* bytes that the peer has got */
	uint64_t seq;			/* the epoch in which it is marked; 0: dirty */
	uint32_t piece;			/* bytes in @buf */
	uint8_t *buf;			/* what was read back */
	bool own;			/* a flush of ours */
};

struct serve_ops_list {
	struct serve_op *first, **last;
};

struct serve_disk {
	struct blk blk;			/* what QEMU gets */
	struct blk *base;
	struct meta *meta;
	struct serve *s;
	unsigned int i;
	struct rangelock lock;
	bool new_gen;			/* the generation in memory is not durable */
	bool saves_gen;			/* it is the one that the saver's round writes */
	bool flushing;			/* a flush of ours is under way */
	uint64_t durable;		/* all epochs up to this one (seq) are, in the base */
};

struct serve {
	struct loop *loop;
	unsigned int n;
	struct serve_disk *disk;
	struct meta **metas;
	struct serve_ops ops;
	struct serve_peer peer;
	bool has_peer;			/* somebody stands by, or may */
	bool sends;			/* and can be sent to */
	uint64_t taken;			/* how many of those that waited for room the connection has taken */
	bool alone;			/* no peer, and this run's generation is begun and durable */
	struct uncommitted un;
	uint64_t committed;		/* seq of the last epoch that the peer has */
	uint64_t soft;
	bool wanted;
	struct debt debt;
	struct saver *saver;
	struct serve_ops_list for_saver, for_room, for_debt;
	struct serve_op marker;
	uint64_t marker_n;
	bool marker_waits;
	struct serve_turn *ready, **ready_last;	/* what can go on */
	bool running;
	struct serve_op *spare;
	struct serve_stats st;
};

/* serve_submit() - blk_ops of the disks */
void serve_submit(struct blk *b, struct blk_req *r);
/* serve_ready() - this one can go on; serve_run() does it, unless it is being done above us */
void serve_ready(struct serve *s, struct serve_turn *t);
void serve_unready(struct serve *s, struct serve_turn *t);
void serve_run(struct serve *s);
/* serve_room() - send what waits, as far as the peer takes it */
void serve_room(struct serve *s);
/* serve_mark_again() - a new epoch has begun: requests that are under way are marked in it too */
void serve_mark_again(struct serve *s);
/* serve_release() - nothing waits for the peer any more */
void serve_release(struct serve *s);
/* serve_save() - begin a round of the saver if somebody waits for one */
void serve_save(struct serve *s);
/* serve_retry() - those who wait for the saver look again */
void serve_retry(struct serve *s);
/* serve_saved() - the saver's callback */
void serve_saved(void *arg);
/* serve_begin_generation() - lineages of the next one, in memory. Return: whether anything has to be saved */
bool serve_begin_generation(struct serve *s);
/* serve_granted() - the range lock's callback */
void serve_granted(void *arg, struct rangelock_entry *e);
/* serve_flush_base() - a flush of our own, so that regions may leave the write-intent map */
void serve_flush_base(struct serve_disk *d);
void serve_debt_begin(void *arg, struct debt_flush *f);
void serve_debt_answer(void *arg, struct debt_flush *f, int rc);

static inline void serve_list_init(struct serve_ops_list *l)
{
	l->first = NULL;
	l->last = &l->first;
}

static inline void serve_list_add(struct serve_ops_list *l, struct serve_op *op)
{
	op->wait = NULL;
	*l->last = op;
	l->last = &op->wait;
}

static inline struct serve_op *serve_list_take(struct serve_ops_list *l)
{
	struct serve_op *op = l->first;

	if (op) {
		l->first = op->wait;
		if (!l->first)
			l->last = &l->first;
	}
	return op;
}

#endif
