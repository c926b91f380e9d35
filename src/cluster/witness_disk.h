/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_WITNESS_DISK_H
#define CLUSTER_WITNESS_DISK_H

#include "cluster/paxos.h"

/* One node's block of the witness disk between bytes and struct. Pure. */

#define DISK_BLOCK	4096	/* bytes that a block takes: the largest sector there is */
#define DISK_USED	512	/* bytes of it that say something: the smallest one, which is written wholly or not at all */

struct disk_block {
	bool used;			/* it has been written */
	unsigned int slot;		/* 0 or 1 */
	char name[WITNESS_NAME_MAX + 1];
	uint8_t node[WITNESS_ID_LEN];	/* whose block it is */
	struct paxos_block p;
};

void disk_block_encode(uint8_t out[DISK_USED], const struct disk_block *d);
/* disk_block_decode() - Return: 0 (all zero: not used), or -EBADMSG: something else stands there, or it is damaged */
int disk_block_decode(const uint8_t in[DISK_USED], struct disk_block *d);

#endif
