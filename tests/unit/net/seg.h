/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SEG_H
#define SEG_H

#include <stdbool.h>
#include <stdint.h>

/* A TCP segment in words, and its bytes: what the tests of core/net are written in. */
struct seg {
	bool from_guest;
	uint32_t seq, ack;
	uint8_t flags;
	uint16_t win;
	const char *data;
	bool has_ts;
	uint32_t tsval, tsecr;
	uint8_t ws;			/* in a SYN: the option, 0: none */
	unsigned int n_sack;
	uint32_t sack[8];
	uint16_t other_port;		/* 0: 40000 */
	bool odd;			/* options begin at an odd byte */
};

extern const uint8_t seg_guest_mac[6];

/* seg_make() - Return: length of the frame in @out (at least 2048 bytes) */
uint32_t seg_make(uint8_t *out, const struct seg *s);
/* seg_arp(), seg_udp() - an ARP request, a UDP datagram of the guest */
uint32_t seg_arp(uint8_t *out, bool from_guest);
uint32_t seg_udp(uint8_t *out, bool from_guest);

#endif
