/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROXY_OWED_H
#define PROXY_OWED_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/*
 * Frames that may not leave yet, though they were released: QEMU was told that a flush is done which is not (a debt, see
 * docs/disk.md), and a client must not hear of what it promises. They wait in their order. The frames loop owns it, but
 * for owed_open() and the counters.
 */
struct owed_frame;

#define OWED_MAX	(16u << 20)	/* bytes that may wait; what is more is lost, as on a network, and counted */

struct owed {
	_Atomic unsigned int open;	/* bits, one for each reason */
	_Atomic uint64_t lost;
	struct owed_frame *first, **tail;
	uint64_t bytes;
};

void owed_init(struct owed *o);
void owed_fini(struct owed *o);

/* owed_open() - @bit: a reason; any thread. Return: whether one is open; when none is owed_run() is to follow */
bool owed_open(struct owed *o, unsigned int bit, bool open);

/* owed_take() - whether this frame has to wait; then it was copied (or lost) */
bool owed_take(struct owed *o, uint8_t nic, const uint8_t *data, uint32_t len);

/* owed_run() - give everything that waits to @emit, as long as no debt is open */
void owed_run(struct owed *o, void (*emit)(void *arg, uint8_t nic, const uint8_t *data, uint32_t len), void *arg);

#endif
