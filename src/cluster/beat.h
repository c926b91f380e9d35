/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_BEAT_H
#define CLUSTER_BEAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"

/* One heartbeat datagram between bytes and struct. Pure. */

#define BEAT_MAGIC	0x4c4b4842u	/* "LKHB" */
#define BEAT_VERSION	1
#define BEAT_LEN	112
#define BEAT_ID_LEN	16

/* Whose progress a beat reports. */
enum beat_source { BEAT_CONTROL, BEAT_FRAMES, BEAT_BULK, BEAT_QMP, BEAT_SOURCES };
const char *beat_source_name(unsigned int s);

#define BEAT_AGE_NONE	UINT32_MAX	/* there is no such loop */

struct beat {
	uint8_t session[BEAT_ID_LEN];	/* of the connections */
	uint8_t vm_id[BEAT_ID_LEN];
	bool listener;			/* the sender is the one that has accepted the connections */
	uint32_t generation;
	uint64_t seq;			/* from 1 */
	nstime sent;			/* the sender's own clock */
	uint64_t echo_seq;		/* newest beat that the sender has received, 0: none yet */
	nstime echo_sent;		/* its send time, in the receiver's clock */
	uint64_t echo_held;		/* how long ago the sender received that, ns */
	uint32_t age_ms[BEAT_SOURCES];	/* since each last made progress, or BEAT_AGE_NONE */
};

void beat_encode(uint8_t out[BEAT_LEN], const struct beat *b);

/* beat_decode() - Return: 0, or -EPROTO with @e */
int beat_decode(const uint8_t *p, size_t len, struct beat *b, struct err *e);

#endif
