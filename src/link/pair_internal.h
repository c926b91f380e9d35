/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_PAIR_INTERNAL_H
#define LINK_PAIR_INTERNAL_H

#include "link/greet.h"
#include "link/pair.h"

/* What pair.c, pair_door.c (who listens) and pair_dial.c (who connects) share; nobody else's business. */

enum pair_state {
	PAIR_IDLE,	/* listening, or between two attempts to connect */
	PAIR_SET,	/* the control connection has greeted (listener), or an attempt is under way */
	PAIR_PAIRED,
};

struct pair {
	struct pair_cfg cfg;
	char *shape;
	uint8_t vm_id[LINK_ID_LEN];
	enum pair_state state;
	struct loop_fd accept_watch;	/* fd -1 when connecting */
	struct loop_timer timer;	/* connect again, or accept again after a shortage */
	nstime backoff;
	int next_addr;
	char last_reason[256];		/* of the last failed attempt that was logged */
	char last_stranger[256];		/* why the last one was refused or dropped, and when that was logged */
	nstime logged_stranger, logged_evict;
	char last_told[512];			/* the sentence that refused() has heard last */

	struct greet *half[PAIR_MAX_HALF_OPEN];	/* all half-open ones, those of the set among them */
	struct greet *set[WIRE_CHANNELS];
	bool flushed[WIRE_CHANNELS];		/* our HELLO or WELCOME is with the kernel */
	unsigned int welcomed;			/* connecting: bit per channel whose WELCOME is there */
	struct pair_link link;		/* of the set: session, peer, addresses */
	char *peer_shape;
	struct pair_stats st;
};

/* pair.c */
extern const struct greet_ops pair_ops;

/* pair_greet() - a greet over a stream as this pair has it; @fd is gone in any case. Return: NULL without memory */
struct greet *pair_greet(struct pair *p, int fd, bool connecting, const struct link_addr *a);
bool pair_in_set(const struct pair *p, const struct greet *g);
void pair_drop(struct pair *p, struct greet *g);
/* pair_remember() - one more half-open connection; at the limit the oldest stranger goes */
void pair_remember(struct pair *p, struct greet *g);
/* pair_drop_set() - the set (listening) or the attempt (connecting) has come to nothing */
void pair_drop_set(struct pair *p);
/* pair_refuse() - REFUSE with @sentence, log it; @g lingers */
void pair_refuse(struct pair *p, struct greet *g, uint8_t channel, const char *sentence);
/* pair_tell() - the owner hears of a refusal; @generation: as in pair_cfg.refused() */
void pair_tell(struct pair *p, bool by_peer, uint32_t generation, const char *sentence);
/* pair_say_hello() - HELLO or WELCOME of a channel. Return: whether it is with the kernel */
bool pair_say_hello(struct pair *p, struct greet *g, uint8_t type, enum wire_channel ch);
/* pair_check_hello() - what both sides demand of a hello before anybody else sees it */
int pair_check_hello(struct pair *p, const struct wire_head *h, const struct hello *m, struct err *e);
/* pair_keep_hello() - keep what the peer said of itself; its shape is borrowed from the message */
int pair_keep_hello(struct pair *p, const struct hello *m, struct err *e);
/* pair_complete() - if all four connections are there they leave the pair */
void pair_complete(struct pair *p);

/* pair_door.c */
int pair_listen(struct pair *p, struct err *e);
void pair_hello(struct pair *p, struct greet *g, const struct wire_head *h, const uint8_t *payload);

/* pair_dial.c */
/* pair_try() - the next attempt to connect, to the next of the peer's addresses */
void pair_try(struct pair *p);
/* pair_try_later() - nothing when listening; @slowly: at the longest interval */
void pair_try_later(struct pair *p, bool slowly);
/* pair_attempt_failed() - logged once for each change of reason, then tried again */
void pair_attempt_failed(struct pair *p, const char *peer, const char *why, bool refused);
void pair_connected(struct greet *g);
void pair_welcome(struct pair *p, struct greet *g, const struct wire_head *h, const uint8_t *payload);

#endif
