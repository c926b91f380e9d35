/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROPERTY_SIM_FRAME_H
#define PROPERTY_SIM_FRAME_H

#include "sim.h"

/* What sim_frame.c and sim_tcp.c share: the fields of a frame, in network order. */

enum { ETH = 14, IP4 = 20 };

static inline uint32_t put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; return 2; }
static inline uint32_t put32(uint8_t *p, uint32_t v) { put16(p, v >> 16); put16(p + 2, v); return 4; }
static inline uint32_t get16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static inline uint32_t get32(const uint8_t *p) { return get16(p) << 16 | get16(p + 2); }

void frame_ip(uint8_t *f, uint8_t src, uint8_t dst, uint8_t proto, uint32_t len, uint16_t id);
/* The checksum of @n bytes of @l4 with the pseudo header of the IP header @ip, as it stands in the frame. */
uint32_t frame_l4_sum(const uint8_t *ip, const uint8_t *l4, uint32_t n);

#endif
