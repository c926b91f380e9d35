/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef AGENT_PROTO_H
#define AGENT_PROTO_H

/*
 * What Lockstep and the agent inside QEMU say to each other, over a SOCK_SEQPACKET socket pair: one request, one
 * reply, in the host's byte order (both ends run on one machine and come from one build; @version catches the rest).
 * A message is one packet: the header, then the payload that the type names. Descriptors travel beside it.
 */
#include <assert.h>
#include <stdint.h>

#define AGENT_ENV_FD		"LOCKSTEP_AGENT_FD"	/* number of the socket, inherited */
#define AGENT_ENV_RAM_FD	"LOCKSTEP_AGENT_RAM_FD"	/* number of the guest memory's descriptor, inherited */
#define AGENT_LIB_NAME		"liblockstep-agent.so"	/* its entry is taken out of LD_PRELOAD */

enum {
	AGENT_MAGIC = 0x4c4b4147,
	AGENT_VERSION = 3,
	AGENT_MAX_RANGES = 64,		/* mappings of guest memory in one QEMU */
	AGENT_MAX_RUNS = 4096,		/* runs of pages in one request */
	AGENT_MAX_BLOCKS = 64,		/* blocks of memory in one QEMU */
	AGENT_NAME = 256,		/* a block's name, with its final 0 */
	AGENT_TEXT = 160,		/* a sentence, with its final 0 */
};

enum agent_type {
	AGENT_HELLO = 1,	/* no payload -> struct agent_hello, ranges; descriptors: enum agent_hello_fd */
	AGENT_TRACK,		/* no payload -> struct agent_track; descriptor: userfaultfd */
	AGENT_DROP,		/* struct agent_run[] -> struct agent_dropped */
	AGENT_STOPPED,		/* struct agent_stopped -> nothing */
	AGENT_SHARE,		/* struct agent_run[]: a piece, then the private pages in it -> struct agent_shared */
	AGENT_BLOCKS,		/* no payload -> struct agent_blocks, blocks; -ENOSYS: QEMU does not tell */
	AGENT_PLACE,		/* struct agent_place -> struct agent_placed */
	AGENT_TYPE_MAX
};

struct agent_msg {
	uint32_t magic;
	uint16_t version;
	uint16_t type;		/* enum agent_type; a reply repeats it */
	uint32_t seq;		/* a reply repeats it */
	int32_t rc;		/* reply: 0 or -errno, and then the payload is a sentence of AGENT_TEXT bytes */
	uint32_t len;		/* bytes of payload after the header */
	uint32_t zero;
} __attribute__((packed));
static_assert(sizeof(struct agent_msg) == 24, "agent_msg");

/* A mapping of the guest's memory file inside QEMU. */
struct agent_range {
	uint64_t addr;
	uint64_t len;		/* bytes */
	uint64_t offset;	/* in the file */
	uint32_t shared;	/* 1: MAP_SHARED, 0: MAP_PRIVATE */
	uint32_t zero;
} __attribute__((packed));
static_assert(sizeof(struct agent_range) == 32, "agent_range");

/*
 * The files of /proc/self that come with a HELLO, in this order. The kernel asks only who opens one of them whether it may;
 * so whoever gets them needs no right over QEMU's process, whichever user that is.
 */
enum agent_hello_fd {
	AGENT_FD_PAGEMAP,
	AGENT_FD_MEM,		/* only to be read */
	AGENT_FD_STATUS,
	AGENT_FD_CLEAR_REFS,	/* missing where the kernel does not know it */
	AGENT_FD_MAX
};

struct agent_hello {
	uint32_t pid;
	uint32_t n_ranges;	/* struct agent_range follow */
} __attribute__((packed));
static_assert(sizeof(struct agent_hello) == 8, "agent_hello");

struct agent_track {
	uint64_t features;	/* userfaultfd features that are on */
} __attribute__((packed));
static_assert(sizeof(struct agent_track) == 8, "agent_track");

/* Pages by their place in the memory file, in units of 4096 bytes. */
struct agent_run {
	uint64_t first;
	uint64_t count;
} __attribute__((packed));
static_assert(sizeof(struct agent_run) == 16, "agent_run");

struct agent_dropped {
	uint64_t pages;		/* how many were named, those already equal to the file included */
} __attribute__((packed));
static_assert(sizeof(struct agent_dropped) == 8, "agent_dropped");

/* A state is about to be loaded, whose VM was stopped then: for its clocks (kvmclock.c). */
struct agent_stopped {
	uint64_t at;		/* CLOCK_BOOTTIME, ns */
} __attribute__((packed));
static_assert(sizeof(struct agent_stopped) == 8, "agent_stopped");

struct agent_shared {
	uint64_t pages;		/* written to the file */
} __attribute__((packed));
static_assert(sizeof(struct agent_shared) == 8, "agent_shared");

enum agent_block_flags {
	AGENT_BLOCK_STATE = 1,		/* QEMU takes it for state that a migration carries */
	AGENT_BLOCK_IN_FILE = 2,	/* it lies in the guest's memory file */
};

/* A block of QEMU's memory ("RAM block"). */
struct agent_block {
	char name[AGENT_NAME];
	uint64_t addr;
	uint64_t len;		/* bytes that are set aside for it */
	uint32_t flags;
	uint32_t zero;
} __attribute__((packed));
static_assert(sizeof(struct agent_block) == 280, "agent_block");

struct agent_blocks {
	uint32_t n;		/* struct agent_block follow */
	uint32_t zero;
} __attribute__((packed));
static_assert(sizeof(struct agent_blocks) == 8, "agent_blocks");

/* Move a block into the guest's memory file. */
struct agent_place {
	uint64_t addr;
	uint64_t len;		/* bytes, whole pages */
	uint64_t offset;	/* in the file */
	uint32_t shared;	/* 1: MAP_SHARED, 0: MAP_PRIVATE */
	uint32_t copy;		/* 1: its content goes into the file; 0: it becomes what is there */
} __attribute__((packed));
static_assert(sizeof(struct agent_place) == 32, "agent_place");

struct agent_placed {
	uint64_t pages;		/* copied */
} __attribute__((packed));
static_assert(sizeof(struct agent_placed) == 8, "agent_placed");

#define AGENT_MAX_MSG	(sizeof(struct agent_msg) + AGENT_MAX_RUNS * sizeof(struct agent_run))

#endif
