/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_AGENTCTL_H
#define ENGINE_AGENTCTL_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"
#include "engine/memscan.h"
#include "engine/pageset.h"
#include "engine/ram.h"
#include "engine/ramblock.h"

/* Lockstep's end of the conversation with the agent inside QEMU. One thread at a time; calls block, with deadlines. */
struct agentctl {
	int sock;
	int child_fd;		/* QEMU's end, to be handed to it; -1 after agentctl_started() */
	uint32_t seq;
	uint32_t pid;		/* QEMU, as it calls itself; 0 before HELLO */
	int pagemap;		/* of QEMU's /proc/self, opened by itself; -1 before HELLO */
	int mem;
	int status;
	int clear_refs;		/* -1 also where there is none */
	int uffd;		/* keeps the registration known; -1 before TRACK */
	uint64_t features;
	struct mem_map map;
};

/* agentctl_new() - the socket pair; NULL with @e filled */
struct agentctl *agentctl_new(struct err *e);

/* agentctl_free() - close all; the agent's thread ends; NULL is fine */
void agentctl_free(struct agentctl *a);

enum { AGENTCTL_ENV = 3, AGENTCTL_ENV_LEN = 4096 + 512 };

/*
 * agentctl_env() - the variables that QEMU is to be started with
 * @lib:      path of liblockstep-agent.so
 * @sock_num: number of child_fd in QEMU
 * @ram_num:  number of the guest's memory in QEMU
 * @env:      filled with NAME=VALUE; an LD_PRELOAD of this process is kept behind the agent
 *
 * Return: 0, or -ENAMETOOLONG
 */
int agentctl_env(const char *lib, int sock_num, int ram_num, char env[AGENTCTL_ENV][AGENTCTL_ENV_LEN]);

/* agentctl_started() - QEMU runs: close its end here, so that its death is seen as the end of the socket */
void agentctl_started(struct agentctl *a);

/*
 * agentctl_hello() - find guest memory in QEMU and take over the descriptors for scanning
 * @ram:      it must be mapped completely and once
 * @pid:      QEMU's, as it was started; 0: do not compare
 * @deadline: absolute
 *
 * After QEMU's first answer on QMP: its memory is mapped by then. Fills pid, map and the descriptors of /proc/self.
 * Return: 0, or -errno with @e filled
 */
int agentctl_hello(struct agentctl *a, const struct ram *ram, uint32_t pid, nstime deadline, struct err *e);

/*
 * agentctl_blocks() - which blocks of memory QEMU has
 *
 * After QEMU's first answer on QMP. Return: 0; -ENOSYS: this QEMU exports no functions that would tell; -errno; with @e
 */
int agentctl_blocks(struct agentctl *a, struct ramblocks *out, nstime deadline, struct err *e);

/*
 * agentctl_place() - move the blocks that have a region in @ram there, mapped shared or privately
 * @blocks: with addresses
 * @copy:   what they hold becomes the regions' content; else they become what the regions hold
 *
 * Before agentctl_hello(), the VM stopped. What QEMU has never touched in a block stays a hole in the file.
 * Return: 0, or -errno with @e filled: then this QEMU must be ended
 */
int agentctl_place(struct agentctl *a, const struct ram *ram, const struct ramblocks *blocks, bool share, bool copy,
		   nstime deadline, struct err *e);

/* agentctl_track() - have guest memory registered for dirty tracking (WP_ASYNC); fills uffd; 0 or -errno */
int agentctl_track(struct agentctl *a, nstime deadline, struct err *e);

/*
 * agentctl_drop() - give private pages of a stopped SVM back to the image's content
 * @set:  which; runs less than AGENTCTL_GAP pages apart are dropped in one piece, because a page between them that is
 *        still the image's loses nothing
 *
 * Return: 0, or -errno with @e filled: then some may have been dropped, and the SVM must not run on
 */
int agentctl_drop(struct agentctl *a, const struct pageset *set, nstime deadline, struct err *e);

/*
 * agentctl_stopped() - a state is about to be loaded; under KVM the guest's clocks in it are made right by what passes
 * until the VM runs
 * @at: when its VM was stopped, by clock_ns()
 *
 * Return: 0, or -errno with @e filled
 */
int agentctl_stopped(struct agentctl *a, nstime at, nstime deadline, struct err *e);

enum { AGENTCTL_GAP = 8 };	/* pages */

/*
 * agentctl_share() - write private pages to the image and map their piece of guest memory shared
 * @piece:   pages of one range of the map
 * @private: the pages that are private in it, in at most AGENTCTL_SHARE_RUNS runs; what it holds outside does not count
 * @wrote:   gets how many pages were written
 *
 * QEMU must stand still. What it sees stays the same. Not after agentctl_track(). The map is not read anew: call
 * agentctl_hello() when all is shared.
 *
 * Return: 0, or -errno with @e filled; -E2BIG: too many runs. After an answer by the agent (not -ETIMEDOUT, -EPIPE
 * and -EPROTO) nothing has changed for QEMU.
 */
int agentctl_share(struct agentctl *a, const struct page_run *piece, const struct pageset *private, uint64_t *wrote,
		   nstime deadline, struct err *e);

enum { AGENTCTL_SHARE_RUNS = 4095 };

#endif
