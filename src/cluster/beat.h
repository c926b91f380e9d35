/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_BEAT_H
#define CLUSTER_BEAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"

/* One heartbeat datagram between bytes and struct. Pure; beat_sign() and beat_verify() only calculate. */

#define BEAT_MAGIC	0x4c4b4842u	/* "LKHB" */
#define BEAT_VERSION	2
#define BEAT_LEN	112
#define BEAT_MAC_LEN	16		/* behind the BEAT_LEN bytes where there is a key: HMAC-SHA256, cut */
#define BEAT_KEY_LEN	32
#define BEAT_ID_LEN	16

/* Whose progress a beat reports. */
enum beat_source { BEAT_CONTROL, BEAT_FRAMES, BEAT_BULK, BEAT_QMP, BEAT_SOURCES };
const char *beat_source_name(unsigned int s);

#define BEAT_AGE_NONE	UINT32_MAX	/* there is no such loop */

struct beat {
	uint8_t session[BEAT_ID_LEN];	/* of the connections */
	uint8_t vm_id[BEAT_ID_LEN];
	bool listener;			/* the sender is the one that has accepted the connections */
	uint8_t path;			/* over which it goes, from 0: the same number on both nodes */
	uint32_t generation;
	uint64_t seq;			/* from 1; those that go over several paths at a time have the same one */
	nstime sent;			/* the sender's own clock */
	uint64_t echo_seq;		/* newest beat that the sender has received over this path, 0: none yet */
	nstime echo_sent;		/* its send time, in the receiver's clock */
	uint64_t echo_held;		/* how long ago the sender received that, ns */
	uint64_t echo_any;		/* newest beat that the sender has received over any path, 0: none yet */
	uint32_t age_ms[BEAT_SOURCES];	/* since each last made progress, or BEAT_AGE_NONE */
};

void beat_encode(uint8_t out[BEAT_LEN], const struct beat *b);

/* beat_decode() - Return: 0, or -EPROTO with @e */
int beat_decode(const uint8_t *p, size_t len, struct beat *b, struct err *e);

/*
 * beat_sign() - the authentication code of a datagram
 * @p: BEAT_LEN bytes, followed by room for BEAT_MAC_LEN
 *
 * Return: 0, or -EIO: there is none
 */
int beat_sign(uint8_t *p, const uint8_t key[BEAT_KEY_LEN]);

/* beat_verify() - whether a datagram of BEAT_LEN + BEAT_MAC_LEN bytes was made by who has the key */
bool beat_verify(const uint8_t *p, size_t len, const uint8_t key[BEAT_KEY_LEN]);

#endif
