/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_RESYNC_WIRE_H
#define DISK_RESYNC_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/lineage.h"
#include "disk/resync.h"

/*
 * Private to resync: what the payloads of its messages hold. The rsy_put functions fill at most RSY_MAX_PAYLOAD bytes and
 * return how many, 0: it does not fit (the caller's fault). The rsy_get functions return 0, or -EPROTO for anything that a
 * put function would not have made.
 */
#define RSY_VERSION	1u
#define RSY_BLOCK	(64u << 10)	/* that a hash of RSY_HASHES is of */
#define RSY_UNIT	(4u << 10)	/* that the finer hashes of RSY_DIFFER are of, and in which data is sent */
#define RSY_UNITS	(RSY_BLOCK / RSY_UNIT)
#define RSY_BATCH	16u		/* blocks of a RSY_HASHES */
#define RSY_HASH	16u		/* bytes, XXH3-128 in canonical order */
#define RSY_WINDOW	16u		/* RSY_HASHES that are not answered yet */
#define RSY_RANGES_MAX	2048u		/* of one RSY_RANGES */
#define RSY_SENTENCE	500u

struct rsy_hello {
	bool discard;
	unsigned int n;
	struct rsy_hello_disk {
		uint64_t size;
		struct lineage lineage;
	} d[RSY_MAX_DISKS];
};

struct rsy_range {
	uint64_t off, len;
};

struct rsy_ranges {
	bool last;		/* of this disk */
	unsigned int n;
	struct rsy_range r[RSY_RANGES_MAX];
};

enum rsy_mode {
	RSY_NOTHING,	/* the copies are equal */
	RSY_SEND,	/* what is dirty is sent as it is */
	RSY_COMPARE,	/* and the regions of the maps are compared */
	RSY_ALL,	/* everything is compared */
	RSY_RESUME,	/* what a former one has left is compared */
	RSY_MODES,
};

struct rsy_plan {
	unsigned int n;
	struct rsy_plan_disk {
		enum lineage_verdict verdict;
		enum rsy_mode mode;
		struct lineage lineage;
	} d[RSY_MAX_DISKS];
};

/* What the copies are when all is sent. */
struct rsy_final {
	unsigned int n;
	struct lineage lineage[RSY_MAX_DISKS];
};

struct rsy_hashes {
	uint32_t id;
	uint64_t off;
	uint32_t len;			/* bytes, at most RSY_BATCH blocks; the last block may be shorter */
	uint32_t hole;			/* a bit for each block: reads as zeroes, has no hash */
	uint8_t hash[RSY_BATCH][RSY_HASH];
};

struct rsy_differ {
	uint32_t id;
	unsigned int n;			/* blocks */
	uint32_t differ;		/* a bit for each */
	uint32_t fine;			/* which of these have hashes of their units */
	uint8_t hash[RSY_BATCH][RSY_UNITS][RSY_HASH];
};

struct rsy_progress {
	uint64_t seq;			/* 0: no answer is asked for, nothing is confirmed */
	uint64_t done, total, sent, read, rate, left_ms;
	uint16_t disk;
	bool comparing;
};

size_t rsy_put_hello(uint8_t *p, const struct rsy_hello *h);
int rsy_get_hello(const uint8_t *p, size_t len, struct rsy_hello *h);
size_t rsy_put_ranges(uint8_t *p, const struct rsy_ranges *r);
int rsy_get_ranges(const uint8_t *p, size_t len, uint64_t size, struct rsy_ranges *r);
size_t rsy_put_plan(uint8_t *p, const struct rsy_plan *pl);
int rsy_get_plan(const uint8_t *p, size_t len, struct rsy_plan *pl);
size_t rsy_put_hashes(uint8_t *p, const struct rsy_hashes *h);
/* @size: of the disk, in which the range must lie */
int rsy_get_hashes(const uint8_t *p, size_t len, uint64_t size, struct rsy_hashes *h);
/* @last: bytes of the last block, which says how many units it has */
size_t rsy_put_differ(uint8_t *p, const struct rsy_differ *d, uint32_t last);
/* rsy_differ_id() - of which RSY_HASHES it is, before it can be read. Return: 0 or -EPROTO */
int rsy_differ_id(const uint8_t *p, size_t len, uint32_t *id);
int rsy_get_differ(const uint8_t *p, size_t len, unsigned int n, uint32_t last, struct rsy_differ *d);
size_t rsy_put_progress(uint8_t *p, const struct rsy_progress *g);
int rsy_get_progress(const uint8_t *p, size_t len, struct rsy_progress *g);
size_t rsy_put_final(uint8_t *p, const struct rsy_final *f);
int rsy_get_final(const uint8_t *p, size_t len, struct rsy_final *f);
/* rsy_get_sentence() - what is not printable ASCII becomes a question mark */
int rsy_get_sentence(const uint8_t *p, size_t len, char out[RSY_SENTENCE + 1]);

static inline unsigned int rsy_blocks(uint32_t len)
{
	return (len + RSY_BLOCK - 1) / RSY_BLOCK;
}

/* rsy_last() - bytes of the last block of @len bytes */
static inline uint32_t rsy_last(uint32_t len)
{
	return len - (rsy_blocks(len) - 1) * RSY_BLOCK;
}

#endif
