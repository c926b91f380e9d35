/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_CONN_H
#define LINK_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/loop.h"
#include "link/codec.h"
#include "link/stream.h"

/*
 * One connection with the peer, after the handshake: whole messages in and out, with credits. Belongs to one loop;
 * every call but conn_why_text() and conn_why_kernel() from that loop's thread. See conn.c for the theory.
 */
struct conn;

/* Why a connection is over. */
enum conn_why {
	CONN_EOF,	/* the peer's kernel closed it in order (also when its process died) */
	CONN_RESET,	/* the peer's kernel reset it (a process that died with unread input) */
	CONN_TIMEOUT,	/* no acknowledgement for too long: the host or the way is gone */
	CONN_ERROR,	/* another error of the network */
	CONN_GARBLED,	/* the peer sent what it must not */
	CONN_REFUSED,	/* the peer said REFUSE */
	CONN_LIMIT,	/* the queue has reached its hard limit with a message that may not be lost */
};

/* conn_why_text() - "closed", "reset" and so on, for logs */
const char *conn_why_text(enum conn_why w);

/* conn_why_kernel() - whether the end was made by the peer's kernel: what P5 takes as one third of a proof of death */
bool conn_why_kernel(enum conn_why w);

struct conn_cfg {
	enum wire_channel channel;
	uint8_t vm_id[LINK_ID_LEN];	/* put into what is sent, demanded of what comes */
	size_t soft;			/* bytes queued beyond which conn_send() says -EAGAIN; 0: the default */
	size_t hard;			/* bytes queued at most, with messages that must go; 0: the channel's default */
	uint64_t window_bytes;		/* how much the peer may have sent that was not consumed; 0: the default */
	uint64_t window_msgs;
	bool manual;			/* the owner calls conn_consumed(); else it is done when message() returns */
	/*
	 * One message has come. @payload (h->len bytes) lies in the read buffer and is valid during the call only.
	 * Return: 0, or -errno with @e when it makes no sense: the connection ends as CONN_GARBLED with that sentence
	 */
	int (*message)(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e);
	/*
	 * After a -EAGAIN or a conn_ready() that said no: there is room again (the queue is below half of soft, and
	 * there is credit for a message of that size). May be NULL
	 */
	void (*writable)(void *arg);
	/* The connection is over, called once, never from inside conn_send(); conn_free() it when convenient. */
	void (*closed)(void *arg, enum conn_why why, const char *sentence);
	void *arg;
};

struct conn_stats {
	uint64_t bytes_in, bytes_out;	/* headers included; out: handed to the kernel */
	uint64_t msgs_in, msgs_out;	/* CREDIT not counted */
	uint64_t again_soft;		/* -EAGAIN because of the soft limit */
	uint64_t again_credit;		/* -EAGAIN because of the peer's credit */
	uint64_t copied;		/* bytes that went through the queue, not straight to the kernel */
	uint64_t queued, queued_max;	/* bytes in the queue: now, and the most there ever were */
	uint64_t unconsumed;		/* bytes received and not consumed, now */
};

#define CONN_MAX_IOV	272	/* pieces of one message */

/*
 * conn_new() - take over a stream whose handshake is done
 * @l:   the loop that serves it
 * @s:   the connection's from now on, closed on failure
 * @cfg: copied
 *
 * Return: the connection, or NULL with @e
 */
struct conn *conn_new(struct loop *l, struct stream *s, const struct conn_cfg *cfg, struct err *e);

/* conn_free() - close and free, also from inside a callback (of this connection or another); NULL is fine */
void conn_free(struct conn *c);

/*
 * conn_send() - one message
 * @h:    type, unit, generation and epoch are taken; channel, length and VM id are put in
 * @iov:  the payload in @n pieces, copied or written before the call returns
 * @must: a message that may neither wait nor be lost: neither credit nor the soft limit hold it back. At the hard
 *        limit the connection is given up (CONN_LIMIT).
 *
 * Small messages leave together, at the end of the loop's turn (or at conn_flush()), large ones at once.
 * Return: 0, -EAGAIN (writable() will be called), -EPIPE when the connection is over, -EMSGSIZE
 */
int conn_send(struct conn *c, const struct wire_head *h, const struct iovec *iov, int n, bool must);

/* conn_ready() - whether a conn_send() of @len bytes that may wait would be taken now; if not, writable() follows */
bool conn_ready(struct conn *c, size_t len);

/* conn_queued() - bytes that wait in the queue */
size_t conn_queued(const struct conn *c);

/* conn_flush() - write what is queued now; for who sends from a before-sleep hook or will block; NULL is fine */
void conn_flush(struct conn *c);

/* conn_consumed() - the owner is done with @msgs messages of @bytes payload bytes; only with cfg.manual */
void conn_consumed(struct conn *c, uint64_t bytes, uint64_t msgs);

/*
 * conn_goodbye() - say what is queued, close in order, and wait until the peer has closed too
 * @limit: at most so long; blocks the loop, so it is for the end of the process
 *
 * What came last is read and dropped: closing with unread input would make the kernel throw our last words away.
 * Nothing can be sent afterwards; conn_free() it. Return: true when the peer has closed its side
 */
bool conn_goodbye(struct conn *c, nstime limit);

void conn_stats_get(const struct conn *c, struct conn_stats *out);

#endif
