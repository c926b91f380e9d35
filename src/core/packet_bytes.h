/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to core/packet*.c: numbers in network order, and the Internet checksum (RFC 1071). */
#ifndef CORE_PACKET_BYTES_H
#define CORE_PACKET_BYTES_H

#include <stdint.h>
#include <string.h>

#define ETH_LEN		14
#define ETH_IP4		0x0800
#define ETH_ARP		0x0806
#define ETH_RARP	0x8035
#define ETH_VLAN	0x8100
#define ETH_IP6		0x86dd
#define ETH_QINQ	0x88a8
#define ETH_QINQ_OLD	0x9100

#define IP6_LEN		40

static inline uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

/* Sum of 16-bit words, folded; an odd last byte is the high one. */
static inline uint32_t sum_bytes(const uint8_t *d, uint32_t n, uint32_t s)
{
	uint64_t t = s;
	uint32_t i;

	for (i = 0; i + 1 < n; i += 2)
		t += get16(d + i);
	if (i < n)
		t += (uint32_t)d[i] << 8;
	while (t >> 16)
		t = (t & 0xffff) + (t >> 16);
	return (uint32_t)t;
}

#endif
