/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef AGENT_KVMCLOCK_H
#define AGENT_KVMCLOCK_H

#include <stdint.h>

/*
 * kvmclock_stopped() - a state is about to be loaded: the clocks in it stood when that VM was stopped
 * @at: then, by this host's CLOCK_BOOTTIME in ns
 *
 * Any thread, while QEMU's VM is stopped.
 */
void kvmclock_stopped(uint64_t at);

#endif
