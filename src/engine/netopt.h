/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_NETOPT_H
#define ENGINE_NETOPT_H

#include "engine/cmdline.h"

/* A frame must fit into a receive buffer of QEMU's socket netdev in one piece (design.md section 4, step 1). */
#define NETOPT_MTU_MAX	16384

/* netopt_netdev() / netopt_nic() - take one -netdev or -nic option over. Return: 0 or -errno with @e filled */
int netopt_netdev(struct cmdline *c, const char *arg, struct err *e);
int netopt_nic(struct cmdline *c, const char *arg, struct err *e);

/*
 * netopt_finish() - when all options are read: join netdevs and devices, and make every MAC address explicit
 *
 * QEMU numbers cards without an address by position; written out, both nodes have the same whatever QEMU does.
 *
 * Return: 0 or -errno with @e filled
 */
int netopt_finish(struct cmdline *c, struct err *e);

/* netopt_vlan_filter() - whether this card has a filter for VLANs that must be turned off (ctrl_vlan=off) */
bool netopt_vlan_filter(const struct cmdline_nic *nic);

#endif
