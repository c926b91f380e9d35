/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef LINK_GREET_H
#define LINK_GREET_H

#include "base/err.h"
#include "base/loop.h"
#include "link/addr.h"
#include "link/codec.h"
#include "link/stream.h"

/*
 * One half-open connection of the handshake: reads message by message, never a byte beyond, so that the stream can
 * be handed on at any message's end. Used by pair.c only; on the control loop.
 */
struct greet;

/* Each may free the greet: it is the last thing that a greet's own code does with it. */
struct greet_ops {
	/* connect() has worked, and TLS's handshake after it */
	void (*connected)(struct greet *g);
	/* a HELLO, WELCOME or REFUSE is there; payload of h->len bytes, during the call */
	void (*message)(struct greet *g, const struct wire_head *h, const uint8_t *payload);
	/* everything given to greet_send() is with the kernel; only after a greet_send() that returned false */
	void (*flushed)(struct greet *g);
	/* over: failed, out of time, closed or (then e->code is 0) lingered enough; the owner frees it */
	void (*ended)(struct greet *g, const struct err *e);
};

/*
 * greet_new() - watch a socket
 * @s:          given away; connected, or still connecting. Its handshake of TLS, if it has one, is done here first
 * @connecting: connect() said EINPROGRESS
 * @peer:       address, for sentences
 * @deadline:   absolute; past it, ended() with -ETIMEDOUT
 *
 * Return: the greet, or NULL without memory (then @s is closed)
 */
struct greet *greet_new(struct loop *l, struct stream *s, bool connecting, const struct link_addr *peer, nstime deadline,
			const struct greet_ops *ops, void *arg);
void greet_free(struct greet *g);

/* greet_send() - one message; copied. Return: whether all of it is with the kernel (else flushed() follows) */
bool greet_send(struct greet *g, const struct wire_head *h, const uint8_t *payload, size_t len);

/*
 * greet_linger() - refuse with @sentence, then wait a moment for the peer to close, so that it can read it
 *
 * Without TLS where it is wanted nothing is said, but to a peer that speaks the link's protocol in the clear.
 * @serves: generation of the VM that is known to run, so that the peer must not begin one; 0: none is
 */
void greet_linger(struct greet *g, const uint8_t vm_id[LINK_ID_LEN], uint8_t channel, uint32_t serves,
		  const char *sentence);

/* greet_pause() - the handshake of this one is done: what the peer says from now on is not read here */
void greet_pause(struct greet *g);

/* greet_take() - the stream, no longer watched; frees the greet. Only when greet_clean() */
struct stream *greet_take(struct greet *g);

/* greet_clean() - whether nothing is half read or half written */
bool greet_clean(const struct greet *g);

void greet_set_deadline(struct greet *g, nstime deadline);
void *greet_arg(const struct greet *g);
const char *greet_peer(const struct greet *g);
nstime greet_born(const struct greet *g);
bool greet_lingers(const struct greet *g);
int greet_fd(const struct greet *g);
/* greet_stranger() - whether it has failed at TLS's handshake, or has not got through it yet */
bool greet_stranger(const struct greet *g);
/* greet_key() - as stream_key() */
bool greet_key(const struct greet *g, const char *label, uint8_t key[32]);

#endif
