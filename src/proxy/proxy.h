/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROXY_PROXY_H
#define PROXY_PROXY_H

#include <stdatomic.h>

#include "base/err.h"
#include "base/loop.h"
#include "core/net.h"
#include "proxy/capture.h"

/*
 * The proxy: the shell around core/net. Owns the TAPs and QEMU's netdev sockets of one VM and runs in the frames
 * loop. What goes to the peer and to the control loop leaves through @ops, bound by node.c.
 */
struct proxy;

struct proxy_ops {
	/* Send one message on the frame connection; it is always taken or the connection is broken. Frames loop. */
	void (*send)(void *arg, const struct net_msg *m, const uint8_t *frame, uint32_t len);
	/* NA_CUT, NA_DRAINED, NA_BARRIER, NA_WANT for ft. Frames loop: post it. */
	void (*answer)(void *arg, enum net_act_type type, uint64_t n, uint32_t cause);
	/* What was sent to the peer leaves now. Frames loop. */
	void (*flush)(void *arg);
	/* Have QEMU's main loop go once around, then call proxy_settled(). Frames loop: post it. */
	void (*settle)(void *arg);
	/* QEMU has closed a netdev socket. Frames loop. */
	void (*qemu_gone)(void *arg);
	void *arg;
};

struct proxy_nic {
	int tap_fd;		/* taken: closed by proxy_free() */
	int qemu_fd;		/* our end of the pair, nonblocking; taken */
	const char *id;		/* what a capture calls it */
};

/*
 * proxy_new() - make the proxy on a loop that does not run yet
 * @cfg: for core/net; n_nics entries of @nics
 */
struct proxy *proxy_new(struct loop *loop, const struct net_cfg *cfg, const struct proxy_nic *nics,
			const struct proxy_ops *ops, struct err *e);
/* proxy_free() - after the loop has ended */
void proxy_free(struct proxy *px);

/* proxy_event() - give core/net an event of ft; any thread */
void proxy_event(struct proxy *px, enum net_ev_type type, uint64_t n, uint32_t arg);

/*
 * proxy_peer() - one message of the frame connection; frames loop
 * @frame: its frame or NULL; copied
 */
void proxy_peer(struct proxy *px, const struct net_msg *m, const uint8_t *frame, uint32_t len);

/* proxy_settled() - answer to ops.settle; any thread */
void proxy_settled(struct proxy *px);

/* proxy_room() - whether the frame connection takes input; frames loop */
void proxy_room(struct proxy *px, bool room);

/* proxy_set_lease() - nothing is emitted after @until (CLOCK_BOOTTIME ns); NS_NEVER: no limit; any thread */
void proxy_set_lease(struct proxy *px, nstime until);

/* Why frames wait that were released */
enum proxy_debt {
	PROXY_DEBT_DISK,	/* a flush that QEMU was told is done is not yet */
	PROXY_DEBT_ROLE,	/* this node has taken over, and that is not known yet where it must be */
};
/* proxy_debt() - while one is open no frame leaves (owed.h); any thread */
void proxy_debt(struct proxy *px, enum proxy_debt which, bool open);
/* proxy_debt_lost() - frames that were lost so; any thread */
uint64_t proxy_debt_lost(struct proxy *px);

/* proxy_new_qemu() - QEMU was started anew: its end of the netdev socket is another; frames loop must be told */
void proxy_new_qemu(struct proxy *px, unsigned int nic, int qemu_fd);

/* proxy_stats() - a recent copy of the counters; any thread */
void proxy_stats(struct proxy *px, struct net_stats *out);

/* proxy_capture() - capture_start() on this proxy; control loop */
int proxy_capture(struct proxy *px, const struct capture_cfg *cfg, int fd, struct err *e);

/*
 * proxy_set_rules() - rules for frames from now on; any thread. The primary's only: core tells the secondary.
 * proxy_rules()     - the rules in force, those that were set last and are on their way included; any thread
 */
void proxy_set_rules(struct proxy *px, const struct rules *rules);
void proxy_rules(struct proxy *px, struct rules *out);

/* proxy_set_nic() - new settings of a NIC, 0: unchanged; any thread */
void proxy_set_nic(struct proxy *px, unsigned int nic, const struct net_nic_cfg *cfg);

/* proxy_taps_gone() - how many TAPs were taken away; any thread */
uint32_t proxy_taps_gone(struct proxy *px);

/* proxy_last_out() - time of the last frame that was let out; any thread */
nstime proxy_last_out(struct proxy *px);
/* proxy_late() - frames withheld because the lease had run out; any thread */
uint64_t proxy_late(struct proxy *px);

#endif
