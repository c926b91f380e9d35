/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_FT_STATE_H
#define CORE_FT_STATE_H

#include "core/ckpt_primary.h"
#include "core/ckpt_secondary.h"
#include "core/ft.h"
#include "core/share.h"

/*
 * struct ft, complete: for who embeds it, copies it or replays it (ring.c). No pointers and no I/O in it: an
 * assignment copies it. A new field must be written out and read in by ring_io.c too (a test compares the sizes).
 */

/* A step that was begun. */
struct ft_busy {
	bool on;
	bool late;		/* overdue and no longer waited for, but not answered either */
	uint64_t n;
	nstime deadline;
};

enum ft_fence { FENCE_NO, FENCE_RUNS, FENCE_DONE, FENCE_REFUSED };
enum ft_leave { LEAVE_NO, LEAVE_COMMAND, LEAVE_QUIT, LEAVE_OFF, LEAVE_SWITCH, LEAVE_LAST_OFF, LEAVE_LAST_PANIC };
/* What this node has from the witness for the generation after its own. See ft_ask.c. */
enum ft_ask {
	ASK_NO,
	ASK_RUNS,	/* asked */
	ASK_WAIT,	/* unknown; asked again at ask_at */
	ASK_GRANTED,	/* it is this node's, which still waits until the peer must have fallen silent (alone_at) */
};
/* FENCED: how far the VM has been brought to stand. */
enum ft_still { STILL_NO, STILL_UNWIND, STILL_STOP, STILL_DONE };

struct ft {
	struct ft_cfg cfg;
	enum ft_state state;
	enum ft_reason reason;
	enum ft_step failed;		/* step of FT_WHY_STEP_FAILED */
	enum ft_fence fence;		/* secondary: of the peer */
	enum ft_leave leave;		/* what the end of the pair, which is under way, is for */
	uint32_t generation;
	uint64_t epoch;			/* that the local VM is in */
	bool link;			/* a peer is connected */
	bool parting;			/* the peer was told that it is over; its answer is awaited until part_at */
	bool rival;			/* the peer could have become able to take over: the lease holds */
	bool covered;			/* the peer has a complete checkpoint */
	bool claimed;			/* we asked for the role: CTL_CLAIM sent, muted */
	bool muted;			/* FA_MUTE was given for this peer */
	bool suspect;			/* serving: the peer is lost, the claim of this node decides */
	bool reachable;			/* the witness is, as far as is known */
	enum ft_ask ask;
	enum ft_still still;
	nstime ask_at;			/* next question */
	nstime alone_at;		/* serving, suspect: a peer that took over by itself must be silent by then */
	nstime part_at;
	nstime takeover_at;		/* secondary: promotion becomes safe */
	nstime beat_sent;		/* primary: send time of the last answered heartbeat; 0: none */
	nstime beat_seen;		/* secondary: when the last heartbeat was reported; 0: none */
	nstime lease;			/* last FA_LEASE */
	enum ft_reason why;		/* of the takeover or the parting under way */
	struct ft_busy busy[STEP_MAX];
	struct ckpt_primary p;
	struct ckpt_secondary s;
	struct share share;
	bool paused;			/* the VM stands whatever the steps say, see ft_pause.c */
	uint64_t pauses;		/* orders to stand or to run, counted */
	uint64_t peer_pauses;		/* primary: the last one that the secondary has carried out */
	uint64_t done[CAUSE_MAX];	/* completed checkpoints */
	uint64_t done_all;
	uint64_t aborted;		/* checkpoints given up and tried again */
	uint64_t refused;
};

#endif
