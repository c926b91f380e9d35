/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_PROPERTY_DISK_WORLD_H
#define TESTS_PROPERTY_DISK_WORLD_H

#include <stdbool.h>
#include <stdint.h>

#include "disk/blk.h"
#include "disk/standby.h"

/*
 * What lies below a standby in prop_disk: media that lose what was not made durable, and a queue of everything that is
 * under way, out of which the schedule takes what it likes. One thread; deterministic by the seed.
 */
uint64_t rnd64(void);
uint32_t rnd(uint32_t n);	/* 0 .. n - 1 */
bool chance(uint32_t percent);
extern uint64_t rng_state;
extern bool trace;

/* Bytes that were written, and which of them are durable. */
struct medium_write {
	uint64_t off, len, seq;
	uint8_t *data;
};

struct medium {
	uint64_t size;
	uint8_t *now;			/* as it reads */
	uint8_t *durable;		/* as it reads after a crash, without what is in w[] */
	struct medium_write *w;		/* not known to be durable, in the order in which they were executed */
	unsigned int n, cap;
	uint64_t seq;
};

void medium_init(struct medium *m, uint64_t size);
void medium_free(struct medium *m);
void medium_write(struct medium *m, uint64_t off, uint64_t len, const uint8_t *data);
/* medium_sync() - what was written up to @seq is durable, of the rest some may be */
void medium_sync(struct medium *m, uint64_t seq);
/* medium_forget() - a sync that has failed: what was written may be gone, though it still reads as if it were there */
void medium_forget(struct medium *m);
/* medium_crash() - of each write that is not durable nothing, all or any part is there */
void medium_crash(struct medium *m);

struct world;

struct base {
	struct blk b;
	struct world *w;
	unsigned int i;
	struct medium m;
};

enum task_kind { TASK_BASE, TASK_JOB, TASK_JOB_FINISH };

/* Something that is under way. */
struct task {
	enum task_kind kind;
	struct base *base;
	struct blk_req *r;
	uint64_t seq;		/* of the medium when a flush was submitted */
	void *job;
	void (*work)(void *job), (*finish)(void *job);
};

#define WORLD_DISKS 3

struct world {
	unsigned int n;
	struct base base[WORLD_DISKS];
	struct medium journal;
	struct journal_file file;
	struct task *task;
	unsigned int tasks, cap;
	bool straight;		/* bases answer inside submit: recovery */
	bool dead;		/* the process is: nothing comes through any more */
	int64_t crash_in;	/* calls of the journal file, or base requests while straight, until it is; < 0: never */
	unsigned int fail_base, fail_journal;	/* per mille */
	uint64_t ops;
	bool failed_once;
	bool lazy;		/* the newest is answered first, some wait for long */
};

void world_init(struct world *w, unsigned int n, uint64_t size, uint64_t journal_size, bool fast_zero);
void world_free(struct world *w);
/* world_turn() - one of the things that are under way goes on. Return: false: there is none */
bool world_turn(struct world *w);
/* world_crash() - the machine goes down and comes up */
void world_crash(struct world *w);

#endif
