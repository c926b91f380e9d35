/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROPERTY_SIM_FRAME_H
#define PROPERTY_SIM_FRAME_H

#include "sim.h"

/* Fields of a frame, in network order. */

static inline uint32_t put16(uint8_t *p, uint32_t v) { p[0] = (uint8_t)(v >> 8); p[1] = (uint8_t)v; return 2; }
static inline uint32_t put32(uint8_t *p, uint32_t v) { put16(p, v >> 16); put16(p + 2, v); return 4; }
static inline uint32_t get16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static inline uint32_t get32(const uint8_t *p) { return get16(p) << 16 | get16(p + 2); }

#endif
