/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_SHARE_H
#define CORE_SHARE_H

#include "core/ft.h"

/* Internal to core/: a promoted VM's memory is made fit for protection. Theory in share.c. */

struct ft_ctx;

enum share_phase {
	SHARE_OFF,	/* nothing to do: the memory is shared */
	SHARE_DUE,	/* it is private, and this node does not serve (yet) */
	SHARE_WAIT,	/* the VM runs, the next piece comes at the deadline */
	SHARE_STOP,	/* stop sent */
	SHARE_PIECE,	/* the VM stands, a piece is being shared */
	SHARE_CONT,	/* cont sent, or to be sent again at the deadline */
	SHARE_FOLLOW,	/* all is shared, the VM runs; what it writes is to be followed, now or at the deadline */
	SHARE_FAILED,	/* given up: it stays private */
	SHARE_PHASE_MAX
};

struct share {
	enum share_phase phase;
	bool last;		/* the piece that is done was the last one */
	uint32_t failures;	/* pieces in a row that could not be shared */
	nstime stopped_at;
	nstime deadline;
};

/* share_served() - this node has come to serve alone after a promotion */
void share_served(struct ft *ft, struct ft_ctx *c);
/* share_refuse() - send a peer away that can never be synchronised, because the memory could not be shared */
void share_refuse(struct ft *ft, struct ft_ctx *c);

/* share_busy() - no peer may be synchronised yet */
bool share_busy(const struct ft *ft);
/* share_done() - an answer; false: it belongs to somebody else */
bool share_done(struct ft *ft, struct ft_ctx *c);
/* share_tick() - time has passed; false: nothing was due */
bool share_tick(struct ft *ft, struct ft_ctx *c);

#endif
