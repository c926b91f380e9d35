/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef RESYNC_WORLD_H
#define RESYNC_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/loop.h"
#include "disk/blk.h"
#include "disk/meta.h"
#include "disk/resync.h"
#include "disk/serve.h"

/*
 * Two nodes in one process: disks in memory that answer in any order and late, a connection that is slow, takes only so much
 * and may be cut at any step, a guest that writes through a real serve. What happens next is drawn from a seed.
 */
#define W_UNIT	4096u
#define W_DISKS	2
#define W_LARGE	(128u << 20)	/* a disk as large as this knows no power failure */

struct mem_disk {
	struct blk blk;
	struct world *w;
	struct node *node;
	uint8_t *data, *durable;	/* as it is; as it was at the last flush */
	uint8_t *alloc;			/* each unit: whether it is allocated */
	uint64_t read_bytes;
	int fail_read, fail_write;	/* one in so many; 0: none */
};

struct node {
	struct world *w;
	unsigned int i;
	struct mem_disk disk[W_DISKS];
	struct meta *meta[W_DISKS];
	uint64_t stamp;
	char path[W_DISKS][128];
	bool up, dead;			/* dead: whatever is under way fails */
	struct serve *serve;
	struct resync *resync;
	int rc;				/* of the resync: 1 while it runs */
	char sentence[600];
	bool discard;
	/* As a target: what the stream says, one after another. */
	struct w_msg *apply, **apply_last;
	bool applying;
};

struct w_msg {
	struct w_msg *next;
	enum { W_RESYNC, W_WRITE, W_ZERO, W_SETTLE } kind;
	void (*settled)(void *arg);
	void *settle_arg;
	struct rsy_msg m;
	unsigned int disk;
	uint64_t off, len;
	struct blk_req req;
	struct node *to;
	uint8_t bytes[];
};

struct world {
	struct loop *loop;
	struct loop_timer tick;
	unsigned int seed, rnd;
	uint64_t size[W_DISKS];
	struct node node[2];
	struct { struct blk_req *r; struct mem_disk *d; } *event;
	unsigned int n_event, cap_event;
	struct { struct w_msg *first, **last; unsigned int n; bool full; } link[2];	/* toward node i */
	unsigned int link_room;		/* messages */
	bool cut;
	bool stall;			/* nothing arrives */
	uint64_t moved;			/* bytes of all messages */
	unsigned int guest;		/* writes that it may still begin */
	unsigned int guest_now, steps, cut_at;
	uint64_t rate, write_max;
	bool sync_blk;			/* disks answer at once */
	bool (*until)(struct world *w);
	struct resync_progress last;
	unsigned int progresses, confirmed;	/* confirmed: how often the target has said that it has what was sent */
};

unsigned int w_rand(struct world *w, unsigned int n);
void world_init(struct world *w, unsigned int seed, uint64_t size0, uint64_t size1);
void world_free(struct world *w);
/* world_run() - until @until says so or nothing can happen any more; fails after 60 seconds */
void world_run(struct world *w, bool (*until)(struct world *w));
/* node_up() / node_serve() - open what is beside the images; begin to serve */
void node_up(struct node *n);
void node_serve(struct node *n);
/* node_down() - @how: 0: a clean end; 1: the process is killed; 2: the power fails */
void node_down(struct node *n, int how);
/* resync_begin() - the other node joins the one that serves */
void resync_begin(struct world *w, unsigned int serving);
/* link_cut() - what is under way is lost, both know it; the serving one goes on alone */
void link_cut(struct world *w);
/* checkpoint() - everything is quiet: commit it, so that the copy of the one that stands by is a state of a time */
void checkpoint(struct world *w);
/* covered() - whether every byte in which the images differ is dirty at the serving node */
bool covered(struct world *w);
bool equal(struct world *w);
bool both_done(struct world *w);
bool quiet(struct world *w);

#endif
