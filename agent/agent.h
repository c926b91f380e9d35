/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef AGENT_H
#define AGENT_H

/* What the agent's files share; the theory of operation is in agent.c. Everything runs in the agent's one thread. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "agent_proto.h"

enum { AGENT_PAGE = 4096 };

struct agent {
	int sock;
	int ram;		/* the guest memory's file; -1: it did not arrive */
	int maps;
	int pagemap;
	int mem;		/* for Lockstep, as are the next two */
	int status;
	int clear_refs;
	int pidfd;		/* of ourselves; -1: process_madvise is not to be had */
	int uffd;		/* -1 until TRACK */
	uint64_t features;
	dev_t dev;		/* of the guest memory's file */
	ino_t ino;
	unsigned int n_ranges;
	struct agent_range range[AGENT_MAX_RANGES];
};
extern struct agent ag;

/* the request that is being answered, its header included */
extern uint8_t agent_request[AGENT_MAX_MSG];

/* agent_reply() - answer one request; a lost answer is Lockstep's to notice */
void agent_reply(const struct agent_msg *req, int rc, struct iovec *payload, int n, const int *fds, int n_fds);

/* agent_refuse() - answer with -errno and a sentence */
void agent_refuse(const struct agent_msg *req, int rc, const char *why);

/* agent_num() - digits of @base at *@p; moves *@p behind them and one character more */
uint64_t agent_num(const char **p, const char *end, unsigned int base);

/* agent_find_ranges() - fill ag.range from the kernel's list of mappings; 0 or -errno (-E2BIG: too many pieces) */
int agent_find_ranges(void);

/*
 * agent_locate() - address of the file's bytes [@offset, @offset + @len), which lie in one mapping; NULL: not so
 * @private: it must be a private mapping
 */
void *agent_locate(uint64_t offset, uint64_t len, bool private);

/* The requests. */
void agent_hello(const struct agent_msg *req);
void agent_track(const struct agent_msg *req);
void agent_drop(const struct agent_msg *req);
void agent_share(const struct agent_msg *req);
void agent_blocks(const struct agent_msg *req);
void agent_place(const struct agent_msg *req);

/* agent_block_init() - look for QEMU's functions; in the constructor */
void agent_block_init(void);

#endif
