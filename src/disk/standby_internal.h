/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to standby*.c and writeback.c, whose theory is in standby.c. */
#ifndef DISK_STANDBY_INTERNAL_H
#define DISK_STANDBY_INTERNAL_H

#include "core/overlay.h"
#include "disk/arena.h"
#include "disk/standby.h"
#include "disk/standby_fault.h"

enum layer_state {
	LAYER_OPEN,		/* is being written */
	LAYER_SEALED,		/* is not changed any more */
	LAYER_READY,		/* its bytes and its index are in the journal file */
	LAYER_JOURNALED,	/* ... and a durable header names it: whatever happens, this node has it */
	LAYER_WRITTEN,		/* it is in the bases, durable; the header still names it */
};

struct layer {
	struct standby *s;
	struct layer *next;	/* of those that are to go */
	enum layer_state state;
	uint64_t id;		/* ascending in the stack; of the open one: given when it is sealed */
	uint64_t epoch;		/* that the bases are at with it; 0: none (own writes) */
	bool persisting;	/* SEALED: on the way to READY */
	bool named;		/* READY: by a header that may be in the file, though its writing has failed */
	bool again;		/* ... and once more, since a sync has failed meanwhile */
	bool dead;		/* nobody waits for that any more */
	int rc;			/* why it did not get there */
	struct arena_layer bytes;
	struct journal_index index;
	struct journal_entry *entries;	/* while the index is made */
	uint32_t n_entries;
	struct extmap map[];	/* of each disk */
};

struct disk {
	struct blk dev;		/* what the VM sees */
	struct standby *s;
	unsigned int i;
	struct blk *base;
	void (*reserve)(void *arg, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *done_arg);
	void *reserve_arg;
	struct overlay over;	/* the stack's maps of this disk */
	uint64_t losses;	/* flushes of the base that have failed: each may have lost what anybody had written */
	bool owed;		/* the VM was not told of the last one, its next flush fails */
};

/* A request of the VM. */
struct io {
	struct standby *s;
	struct disk *d;
	struct blk_req *r;
	uint64_t pos;		/* bytes of it that were looked at */
	unsigned int subs;	/* parts under way */
	int rc;
	bool issuing;
	bool pass;		/* to the base as it is */
	unsigned int phase;	/* of a write that is on its way to the base */
	uint64_t losses;	/* of the disk, when it began */
	uint64_t need;		/* layer id that must be in the journal before it is answered; 0: none */
	uint64_t old_seq;	/* of a read of shared bases: what had been said when it looked first */
	bool early, second;	/* ... it began before the promotion; it looks for the second time */
	struct io *next;
};

#define STANDBY_SUBS	64u	/* parts of a read under way at once */
#define STANDBY_SYNC	64u	/* writes of the peer to a base at once, and */
#define STANDBY_SYNC_BYTES (16u << 20) /* their bytes */
#define STANDBY_RESERVES 16u
#define WB_DEPTH	16u	/* writes to the bases at once */
#define WB_GATHER	(256u << 10)	/* small extents that follow one another are one write of so many bytes */
#define STANDBY_ROUNDS	4u	/* of a merge, after which a write that meets the rest waits for it */
#define STANDBY_RETRY	(1 * NS_PER_S)

enum wb_phase { WB_IDLE, WB_WAIT, WB_WRITE, WB_FLUSH };

struct writeback {
	enum wb_phase phase;
	uint64_t last;		/* id of the highest layer of this batch */
	struct overlay *over;	/* of each disk: the batch's maps */
	unsigned int disk, inflight;
	uint64_t pos;
	int rc;
};

struct standby {
	struct loop *loop;
	unsigned int n;
	struct disk *disk;
	struct journal *j;
	struct arena a;
	struct extpool pool;
	struct ext_node *nodes;
	struct standby_limits limits;
	struct standby_ops ops;

	/* From the base up: committed epochs; on top the open one, the SVM's own writes. */
	struct layer *stack[OVERLAY_MAX];
	unsigned int depth;
	uint64_t next_id, journaled;	/* highest id in the journal or in the bases */
	struct layer *pending;		/* the peer's, open */
	struct layer *sealed;		/* the peer's, behind its barrier */
	struct layer *aborted;		/* older than both, on its way to READY when it was aborted */
	struct layer *graves;		/* on their way out */
	struct layer *lost;		/* dropped at the promotion: only their maps are still wanted */
	uint64_t barrier_n, flipped_n, epoch;

	/* the reservation under way */
	bool reserving;
	void (*reserved)(void *arg, int rc);
	void *reserved_arg;
	uint64_t res_gen;
	unsigned int res_disk, res_inflight;
	uint64_t res_pos;
	int res_rc;
	bool is_reserved;

	/* sync mode */
	bool sync;
	bool sync_dirty;	/* the bases have what came in sync mode, and it may not be durable */
	unsigned int syncing;
	uint64_t syncing_bytes;
	struct sync_req *sync_first;
	bool peer_waits;

	struct writeback wb;
	bool settling;
	uint64_t settle_ready, settle_written;	/* ids up to which layers are settled by the header under way */
	uint64_t settle_epoch;

	/* shared bases */
	bool shared;
	uint64_t old_seq;		/* how often the peer has said what it overwrites */
	unsigned int early;		/* reads of before the promotion under way */

	bool wanted, failed, room;
	bool promoted, safe, merged;
	uint64_t safe_id;		/* own writes of before the promotion: journaled, then safe */
	unsigned int rounds;
	bool hold;			/* until the timer: something has failed */
	struct loop_timer timer;
	unsigned int straight[2], phase;	/* writes of the VM to the bases under way */
	struct io *waiting, **waiting_last;	/* for room */
	struct io *flushes;		/* for layers in the journal */
	unsigned int ios;
	bool kicking, again, deferred;
	struct journal_job defer;
	void (*quiet)(void *arg);
	void *quiet_arg;
	struct standby_stats st;
};

/* standby.c */
struct layer *layer_new(struct standby *s);
void layer_bury(struct standby *s, struct layer *l);
/* layer_write() - Return: bytes taken, or -EAGAIN, -ENOSPC, ... ; @data NULL: zeroes, then all of it at once */
int64_t layer_write(struct standby *s, struct layer *l, unsigned int disk, uint64_t off, uint64_t len, const uint8_t *data,
		    enum ext_kind kind);
/* layer_put() - an extent whose bytes the layer has already. Return: 0, or -ENOSPC */
int layer_put(struct standby *s, struct layer *l, unsigned int disk, const struct ext *e);
/* layer_persist() - SEALED to READY; kick follows */
void layer_persist(struct standby *s, struct layer *l);
/* standby_fail() - before a promotion: it is over; after: it is tried again */
void standby_fail(struct standby *s, int rc, const char *what);
/* standby_kick() - do whatever can be done now */
void standby_kick(struct standby *s);
/* standby_defer() - the same, but not from inside what is going on */
void standby_defer(struct standby *s);
struct layer *standby_top(struct standby *s);
void standby_check_limits(struct standby *s);
/* standby_restack() - shared bases, before the promotion: the overlays anew */
void standby_restack(struct standby *s);

/* standby_peer.c */
void peer_step(struct standby *s);
bool peer_busy(const struct standby *s);
/* peer_refuse() - Return: 0, or what a message about this range is answered by */
int peer_refuse(const struct standby *s, unsigned int disk, uint64_t off, uint64_t len);
/* peer_pend() - into the pending layer. Return: 0, -EAGAIN, -EIO */
int peer_pend(struct standby *s, unsigned int disk, uint64_t off, uint64_t len, const uint8_t *data, enum ext_kind kind);
/* peer_unite() - the newer layer's extents over those of the older one; the newer one is buried. Return: 0 or -ENOSPC */
int peer_unite(struct standby *s, struct layer *old, struct layer *new);
/* peer_flip_shared() / _abort_shared() / _promote_shared() - where the bases are shared */
void peer_flip_shared(struct standby *s, struct layer *fresh);
void peer_abort_shared(struct standby *s);
void peer_promote_shared(struct standby *s);

/* standby_io.c */
void io_init(struct standby *s, unsigned int disk);
void io_step(struct standby *s);
/* io_loss() - a flush of the base has failed; @told: to the VM */
void io_loss(struct disk *d, bool told);
/* io_flushed() - answer what waits for layers up to s->journaled; @rc: all that wait, with an error */
void io_flushed(struct standby *s, int rc);

/* standby_merge.c */
void merge_step(struct standby *s);
void merge_trouble(struct standby *s, int rc, const char *what);

/* writeback.c */
void writeback_step(struct standby *s);

#endif
