/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_PAIR_DUO_H
#define TESTS_PAIR_DUO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "core/net.h"

/*
 * A primary and a secondary frames' machine that hear each other at once, behind a first checkpoint that nothing was
 * in. The live test and the replay drive it alike.
 */
struct duo;

enum duo_port {
	DUO_CLIENT,	/* the external network, at the primary's TAP */
	DUO_PVM,
	DUO_SVM,
};

/* duo_new() - @out: one frame that goes to a port. Return: the pair, or NULL */
struct duo *duo_new(nstime now, void (*out)(void *arg, enum duo_port to, const uint8_t *f, uint32_t len), void *arg);
void duo_free(struct duo *d);

/* duo_frame() - one frame that comes from a port; all that follows from it has happened on return */
void duo_frame(struct duo *d, nstime now, enum duo_port from, const uint8_t *f, uint32_t len);
/* duo_tick() - time has come to @now */
void duo_tick(struct duo *d, nstime now);
/* duo_deadline() - when duo_tick() is due */
nstime duo_deadline(const struct duo *d);

void duo_stats(const struct duo *d, struct net_stats *p, struct net_stats *s);
/* duo_wants() - how often a checkpoint was asked for with this cause; CAUSE_MAX: in all */
uint32_t duo_wants(const struct duo *d, enum ckpt_cause cause);

#endif
