/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_FLOW_KEY_H
#define CORE_FLOW_KEY_H

#include <stdint.h>

/*
 * What makes a flow: the same on both nodes and in both directions, since it is written from the guest's point of
 * view. No padding, so that it can be hashed and compared as bytes. IPv4 addresses stand in the first four bytes.
 */
struct flow_key {
	uint8_t guest[16];	/* address of the guest's end */
	uint8_t other[16];	/* address of the client's end */
	uint16_t guest_port;	/* host order */
	uint16_t other_port;
	uint16_t vlan;		/* outer (or only) VLAN tag: FLOW_VLAN | id; 0: untagged */
	uint16_t vlan_inner;	/* the tag behind it, likewise */
	uint8_t family;		/* 4, 6, or 0: not IP; then the addresses are MACs and guest_port is the Ethernet type */
	uint8_t proto;		/* IP protocol */
	uint8_t nic;
	uint8_t datagram;	/* 1: not a stream of TCP segments */
	uint8_t pad[4];		/* zero */
};

#define FLOW_VLAN 0x1000	/* set with each tag, so that id 0 is told from no tag */

_Static_assert(sizeof(struct flow_key) == 48, "no padding");

#endif
