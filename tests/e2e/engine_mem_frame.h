/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_MEM_FRAME_H
#define ENGINE_MEM_FRAME_H

#include <stdint.h>

#define MEM_FRAME_TYPE	0x88b5		/* for local experiments */
#define MEM_FRAME_MAGIC	0x6c6f636b

/* How the guest of engine_mem is; in its own byte order, both ends being x86. */
struct mem_frame {
	uint8_t dst[6], src[6];
	uint16_t type;
	uint32_t magic;
	uint64_t id;		/* random, taken at boot */
	uint64_t count;
	uint64_t errors;	/* pages that were not what the guest had written */
	uint64_t writes;
	uint8_t noise[512];
} __attribute__((packed));

#endif
