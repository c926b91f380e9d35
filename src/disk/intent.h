/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_INTENT_H
#define DISK_INTENT_H

#include <stdbool.h>
#include <stdint.h>

#include "disk/bitmap.h"

/* Private to meta.c and metafile.c: the write-intent map of one disk. See intent.c. */
#define INTENT_MAX_REGIONS	(64u << 10)
#define INTENT_KEEP		8u	/* epochs for which a region stays after its last write was committed */
#define INTENT_AHEAD	32u	/* regions that become durable with one that follows another */
#define INTENT_SECTOR		512u
#define INTENT_SECTOR_WORDS	62u	/* of bits; then 8 bytes that name the file, then a checksum */
#define INTENT_SECTORS		((INTENT_MAX_REGIONS / 64 + INTENT_SECTOR_WORDS - 1) / INTENT_SECTOR_WORDS)

struct intent {
	uint32_t n;		/* regions */
	struct bitmap want;	/* those that the file must have */
	struct bitmap file;	/* those that it has, durably, whatever happens to a write that is under way */
	struct bitmap found;	/* those that it had when it was opened and that were not resynced since */
	uint64_t *last;		/* the epoch in which each was last written */
	uint64_t epoch;
};

/* What one durable write puts into the file. */
struct intent_shot {
	unsigned int n;
	uint8_t at[INTENT_SECTORS];
	uint8_t bytes[INTENT_SECTORS][INTENT_SECTOR];
};

int intent_init(struct intent *t, uint32_t n);
void intent_free(struct intent *t);

/* intent_ask() - regions [from, to) are about to be written. Return: whether they may be, now */
bool intent_ask(struct intent *t, uint32_t from, uint32_t to);

/* intent_shoot() - take the sectors in which @want and @file differ; one shot at a time until intent_landed() */
void intent_shoot(struct intent *t, uint64_t file_id, struct intent_shot *s);
/* intent_landed() - @ok: the shot is durable; otherwise the file has of each sector the old or the new one */
void intent_landed(struct intent *t, const struct intent_shot *s, bool ok);

/* intent_pack() / intent_unpack() - one sector. A sector that does not hold is taken for one with all regions set */
void intent_pack(const struct intent *t, uint64_t file_id, unsigned int sector, uint8_t out[INTENT_SECTOR]);
bool intent_unpack(struct intent *t, uint64_t file_id, unsigned int sector, const uint8_t in[INTENT_SECTOR]);

static inline unsigned int intent_sectors(const struct intent *t)
{
	return (unsigned int)((bitmap_words(&t->want) + INTENT_SECTOR_WORDS - 1) / INTENT_SECTOR_WORDS);
}

#endif
