/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_KERNPROBE_H
#define ENGINE_KERNPROBE_H

#include "engine/probe.h"

/*
 * kernprobe_run() - try what Lockstep needs of the kernel and of this process's limits, and add a row for each
 *
 * Each ability is used once, not looked up: a call that exists may still do nothing (soft-dirty). Startup only; opens
 * and closes descriptors, leaves nothing behind. Fills wp_async and soft_dirty, and clears kvm when /dev/kvm is not
 * usable.
 */
void kernprobe_run(struct probe *p);

#endif
