/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_RESYNC_INTERNAL_H
#define DISK_RESYNC_INTERNAL_H

#include "base/clock.h"
#include "disk/resync.h"
#include "disk/resync_wire.h"

/* Private to resync*.c: what source and target have in common. See resync.c. */

#define RSY_PIECE	(RSY_BATCH * RSY_BLOCK)	/* bytes that one slot holds */
#define RSY_PIECE_UNITS	(RSY_PIECE / RSY_UNIT)
#define RSY_EXTENTS	128u			/* of a piece; what is more fragmented counts as data from there on */
#define RSY_GAP		16u			/* units of a hole that are read through rather than left out */
#define RSY_REGIONS	(64u << 10)		/* that a peer's map may have of a disk */
#define RSY_SPAN	(16u << 20)		/* bytes that are taken out of the dirty bitmap at a time */
#define RSY_SENT_MAX	4096u			/* ranges that may wait for the target's word */
#define RSY_SENT_BYTES	(32u << 20)		/* sent since the target was last asked, so that it is asked again */
#define RSY_ASK_EVERY	NS_PER_S		/* and at least so often */
#define RSY_TICK	(250 * NS_PER_MS)	/* of progress */
#define RSY_SAMPLES	16u			/* ticks over which the rate is taken */
#define RSY_PASSES	1000u			/* how often what was dirtied meanwhile is gone through */

enum rsy_slot_state {
	SLOT_FREE,
	SLOT_SCAN,	/* looked at for its hashes */
	SLOT_SAY,	/* its message is to be sent: source HASHES, target DIFFER */
	SLOT_WAIT,	/* source: for the DIFFER */
	SLOT_LOCK,	/* source: for the guest's writes to be out of the way */
	SLOT_READ,	/* source: locked, looked at to be sent */
	SLOT_SEND,	/* source: locked, being sent */
};

enum rsy_class { UNIT_SKIP, UNIT_ZERO, UNIT_DATA };

/* A piece of a disk that is being worked on. */
struct rsy_slot {
	struct resync *r;
	enum rsy_slot_state state;
	unsigned int disk;
	uint64_t off;
	uint32_t len;
	bool compare;

	/* rsy_scan() */
	uint64_t scan_off;
	uint32_t scan_len, scan_at;
	uint8_t unit[RSY_PIECE_UNITS];	/* SCAN_* */
	void (*scanned)(struct rsy_slot *s, int rc);
	struct blk_req req;
	struct blk_extent ext[RSY_EXTENTS];
	uint8_t *buf;			/* RSY_PIECE */

	struct rsy_hashes hashes;	/* source: what was said; target: what was heard */
	struct rsy_differ differ;	/* the answer */

	/* source: the run that is locked */
	struct serve_range lock;
	unsigned int next_block;	/* where the next begins */
	uint32_t sent;			/* bytes of it */
	uint8_t class[RSY_PIECE_UNITS];	/* enum rsy_class */
};

#define SCAN_ZERO	1u	/* reads as zeroes, was not read */
#define SCAN_SKIP	2u	/* was not to be read */

struct rsy_disk {
	struct blk *blk;
	struct meta *meta;
	uint64_t region;	/* bytes, of @map */
	uint8_t *map;		/* a bit for each region that is to be compared */
	bool all;		/* every one is */
	enum rsy_mode mode;
};

struct rsy_sent {
	uint64_t off, len, seq;
	unsigned int disk;
};

struct rsy_source {
	enum { SRC_HELLO, SRC_RANGES, SRC_REFUSE, SRC_PLAN, SRC_READY, SRC_RUN, SRC_DONE, SRC_SYNCED } state;
	struct serve *serve;
	struct rsy_hello hello;
	struct rsy_plan plan;
	struct lineage_gen began[RSY_MAX_DISKS];	/* when the guest's writes began to go to the target */
	struct rsy_final final;
	unsigned int ranges_of;		/* the disk whose ranges are being heard */
	char sentence[RSY_SENTENCE + 1];
	/* Where the dirty bitmaps are being gone through, and what was taken out of one and not begun. */
	unsigned int disk, span_disk, passes;
	uint64_t off, span_off, span_len;
	uint32_t next_id;
	/* What was sent or found equal and is not known to be durable at the target. */
	struct rsy_sent *list;		/* RSY_SENT_MAX */
	unsigned int n_list;
	uint64_t list_bytes, seq, asked;	/* asked: 0 when no answer is awaited */
	nstime asked_at;
	bool drain;			/* nothing is left but to hear that it is durable */
	bool tick;			/* progress is to be told */
	bool told;			/* cfg.progress() was, when r->done, sent and read were these: */
	uint64_t told_done, told_sent, told_read;
	/* Rate. */
	uint64_t rate;
	int64_t tokens;
	nstime tokens_at;
	struct { nstime at; uint64_t done; } sample[RSY_SAMPLES];
	unsigned int n_sample;
};

struct rsy_target {
	enum { TGT_HELLO, TGT_RANGES, TGT_PLAN, TGT_READY, TGT_RUN, TGT_SETTLE_END, TGT_SYNCED } state;
	struct rsy_plan plan;
	struct rsy_final final;
	unsigned int disk;		/* whose ranges are being said */
	uint64_t off;
	/* What makes the stream durable: settle, then flush disk by disk. */
	bool syncing;
	unsigned int flush_disk;
	struct blk_req flush;
	uint64_t seq, answer;		/* of the PROGRESS that asked; to be answered */
	struct rsy_progress heard;
};

struct resync {
	struct resync_cfg cfg;
	struct resync_peer peer;
	struct rsy_disk d[RSY_MAX_DISKS];
	bool is_source;
	bool ended;		/* done() was called, or nobody wants to know any more */
	bool pumping, again;
	bool blocked;		/* the connection takes nothing until resync_writable() */
	unsigned int refs;	/* the owner's, and one for each thing under way */
	struct loop_timer timer;
	uint64_t done, sent, read;
	struct rsy_slot *slot;	/* RSY_WINDOW */
	uint8_t *payload;	/* RSY_MAX_PAYLOAD, to make messages in */
	struct rsy_source s;
	struct rsy_target t;
};

/* resync.c */
struct resync *rsy_new(const struct resync_cfg *cfg, const struct resync_peer *peer, bool source, struct err *e);
void rsy_hold(struct resync *r);
void rsy_drop(struct resync *r);
/* rsy_end() - call done(); the caller holds a reference and returns at once. Return: @rc */
int rsy_end(struct resync *r, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* rsy_pump() - go on with whatever can go on */
void rsy_pump(struct resync *r);
/* rsy_say() - send r->payload. Return: 0, or not 0: it was not taken (r->blocked) or the resync has ended */
int rsy_say(struct resync *r, enum rsy_type type, unsigned int disk, size_t len);
/* rsy_free_slot() - with its buffer; NULL: none is free, or (the resync has ended) no memory */
struct rsy_slot *rsy_free_slot(struct resync *r);
/*
 * rsy_scan() - what [off, off + len) of the slot's disk holds: into s->buf and s->unit
 * @skip: a bit for each block that need not be read
 */
void rsy_scan(struct rsy_slot *s, uint64_t off, uint32_t len, uint32_t skip, void (*scanned)(struct rsy_slot *s, int rc));
/* rsy_hole() - whether block @b of what was scanned reads as zeroes by what the device says */
bool rsy_hole(const struct rsy_slot *s, unsigned int b);
void rsy_hash(const uint8_t *p, uint32_t len, uint8_t out[RSY_HASH]);
static inline uint32_t rsy_block_len(uint32_t len, unsigned int b)
{
	return len - b * RSY_BLOCK < RSY_BLOCK ? len - b * RSY_BLOCK : RSY_BLOCK;
}

/* resync_source.c, resync_target.c */
void rsy_source_step(struct resync *r);
void rsy_source_abandon(struct resync *r);
void rsy_source_tick(struct resync *r);
int rsy_source_message(struct resync *r, const struct rsy_msg *m);
void rsy_target_step(struct resync *r);
int rsy_target_message(struct resync *r, const struct rsy_msg *m);

/* resync_plan.c */
/*
 * rsy_decide() - whether a target may be brought up to date, and how
 * @ours, @dirty (whether anything is), @ranges (whether anybody's map names a region): the source's disk
 *
 * Return: 0, or -EPERM with @sentence
 */
int rsy_decide(unsigned int disk, const struct lineage *ours, bool dirty, bool ranges,
	       const struct rsy_hello_disk *theirs, bool discard, enum lineage_verdict *verdict, enum rsy_mode *mode,
	       char sentence[RSY_SENTENCE + 1]);
/* rsy_refused() - the sentence for a verdict; false: it is none to refuse for. @ours: of the serving node */
bool rsy_refused(unsigned int disk, enum lineage_verdict v, const struct lineage *ours, const struct lineage *theirs,
		 char sentence[RSY_SENTENCE + 1]);
uint64_t rsy_region(uint64_t size);

#endif
