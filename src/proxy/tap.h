/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROXY_TAP_H
#define PROXY_TAP_H

#include <stdint.h>

#include "base/err.h"

#define TAP_MAX_MTU 16384	/* larger frames arrive torn from QEMU's socket when the VM is stopped */

/*
 * tap_open() - attach to a TAP interface, as QEMU's tap netdev with script=no does
 * @ifname: its name; it must exist
 * @mtu:    set to its MTU
 *
 * Whole Ethernet frames, no virtio-net header, so the kernel computes checksums and cuts large segments before
 * they are read. Nonblocking.
 *
 * Return: the descriptor, or -errno with @e filled
 */
int tap_open(const char *ifname, uint32_t *mtu, struct err *e);

#endif
