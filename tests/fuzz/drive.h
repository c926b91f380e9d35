/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DRIVE_H
#define DRIVE_H

#include "core/net.h"
#include "core/packet.h"
#include "fuzz.h"

/*
 * A struct net of small sizes, driven event by event. Each step checks what must hold for every role: frames named by
 * actions are frames, none is lost or freed twice. The target says what more must hold, in @look.
 */
struct drive {
	struct net *net;
	struct net_cfg cfg;
	nstime now;
	void (*look)(struct drive *d, const struct net_act *a);	/* one action, while its frame is valid */
	uint64_t closing;	/* the checkpoint under way, 0: none */
	unsigned int stage;	/* of it: enum drive_stage */
	bool stopped;		/* the local VM is: it says nothing */
};

enum drive_stage { DRIVE_IDLE, DRIVE_CLOSED, DRIVE_STOPPED, DRIVE_DRAINED, DRIVE_OPENED, DRIVE_STAGED };

/* drive_begin() - a new life; memory is kept from the one before */
void drive_begin(struct drive *d, void (*look)(struct drive *d, const struct net_act *a));
/* drive_event(), drive_frame() - one event, one with a frame (dropped when the pool is empty) */
void drive_event(struct drive *d, struct net_ev ev);
bool drive_frame(struct drive *d, struct net_ev ev, const uint8_t *frame, uint32_t len, bool input);
/* drive_msg() - fill a message of any type with whatever the input says; some fields are near what they should be */
void drive_msg(struct drive *d, struct fuzz_in *in, struct net_msg *m);
/* drive_time() - time passes; deadlines that come are kept */
void drive_time(struct drive *d, nstime by);
/* drive_end() - time passes until nothing is due; everything must have been given back */
void drive_end(struct drive *d);

#endif
