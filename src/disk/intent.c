/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The write-intent map: theory of operation
 *
 * A bit for each region of the disk. Set, it says that the base here may differ from what the peer has committed; it is
 * durable before the first write to the region begins. So a node that was killed knows where to look.
 *
 * In the file the map is cut into sectors of 512 bytes, each with a checksum. Setting and clearing bits in place needs
 * no second copy: while a sector is being written a power loss leaves the old one, the new one, or one whose checksum
 * does not hold. What is set in both is set then, a region of a broken sector counts as set, and on a region that is
 * set only in the new one nobody has relied yet. Hence @file, what may be relied on: the old and the new while a shot
 * is under way, the new one when it has landed.
 *
 * A region is not cleared as soon as it could be, but INTENT_KEEP epochs later; and clearing it in @want costs nothing,
 * since the file follows at the next write that there is for another reason. A busy region is thus made durable once.
 */
#include "disk/intent.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int intent_init(struct intent *t, uint32_t n)
{
	*t = (struct intent){ .n = n };
	t->last = calloc(n ? n : 1, sizeof(*t->last));
	if (bitmap_init(&t->want, n) != 0 || bitmap_init(&t->file, n) != 0 || bitmap_init(&t->found, n) != 0 ||
	    !t->last) {
		intent_free(t);
		return -ENOMEM;
	}
	return 0;
}

void intent_free(struct intent *t)
{
	bitmap_free(&t->want);
	bitmap_free(&t->file);
	bitmap_free(&t->found);
	free(t->last);
	*t = (struct intent){ 0 };
}

bool intent_ask(struct intent *t, uint32_t from, uint32_t to)
{
	bitmap_set(&t->want, from, to);
	for (uint32_t i = from; i < to; i++)
		t->last[i] = t->epoch;
	if (bitmap_all(&t->file, from, to))
		return true;
	/* Who writes from one region into the next would wait at each for its being durable. */
	if (from && bitmap_get(&t->want, from - 1)) {
		uint32_t end = to + INTENT_AHEAD < t->n ? to + INTENT_AHEAD : t->n;

		bitmap_set(&t->want, to, end > to ? end : to);
		for (uint32_t i = to; i < end; i++)
			t->last[i] = t->epoch;
	}
	return false;
}

/* sector_words() - how many words of the map sector @i holds, from word i * INTENT_SECTOR_WORDS on */
static unsigned int sector_words(const struct intent *t, unsigned int i)
{
	uint64_t left = bitmap_words(&t->want) - (uint64_t)i * INTENT_SECTOR_WORDS;

	return left < INTENT_SECTOR_WORDS ? (unsigned int)left : INTENT_SECTOR_WORDS;
}

void intent_pack(const struct intent *t, uint64_t file_id, unsigned int sector, uint8_t out[INTENT_SECTOR])
{
	const uint64_t *w = t->want.word + (uint64_t)sector * INTENT_SECTOR_WORDS;
	uint64_t v;

	memset(out, 0, INTENT_SECTOR);
	for (unsigned int i = 0; i < sector_words(t, sector); i++) {
		v = htole64(w[i]);
		memcpy(out + 8 * i, &v, 8);
	}
	v = htole64(file_id);
	memcpy(out + INTENT_SECTOR - 16, &v, 8);
	v = htole64(XXH3_64bits_withSeed(out, INTENT_SECTOR - 8, sector));
	memcpy(out + INTENT_SECTOR - 8, &v, 8);
}

bool intent_unpack(struct intent *t, uint64_t file_id, unsigned int sector, const uint8_t in[INTENT_SECTOR])
{
	uint64_t *w = t->want.word + (uint64_t)sector * INTENT_SECTOR_WORDS, id, sum;
	bool good;

	memcpy(&id, in + INTENT_SECTOR - 16, 8);
	memcpy(&sum, in + INTENT_SECTOR - 8, 8);
	good = le64toh(id) == file_id && le64toh(sum) == XXH3_64bits_withSeed(in, INTENT_SECTOR - 8, sector);
	for (unsigned int i = 0; i < sector_words(t, sector); i++) {
		uint64_t v = ~0ull;

		if (good)
			memcpy(&v, in + 8 * i, 8);
		w[i] = le64toh(v);
	}
	bitmap_recount(&t->want);
	return good;
}

void intent_shoot(struct intent *t, uint64_t file_id, struct intent_shot *s)
{
	s->n = 0;
	for (unsigned int i = 0; i < intent_sectors(t); i++) {
		uint64_t from = (uint64_t)i * INTENT_SECTOR_WORDS;
		unsigned int n = sector_words(t, i);

		if (memcmp(t->want.word + from, t->file.word + from, n * sizeof(uint64_t)) == 0)
			continue;
		s->at[s->n] = (uint8_t)i;
		intent_pack(t, file_id, i, s->bytes[s->n++]);
		for (unsigned int k = 0; k < n; k++)
			t->file.word[from + k] &= t->want.word[from + k];
	}
	bitmap_recount(&t->file);
}

void intent_landed(struct intent *t, const struct intent_shot *s, bool ok)
{
	for (unsigned int i = 0; ok && i < s->n; i++) {
		uint64_t from = (uint64_t)s->at[i] * INTENT_SECTOR_WORDS, v;

		for (unsigned int k = 0; k < sector_words(t, s->at[i]); k++) {
			memcpy(&v, s->bytes[i] + 8 * k, 8);
			t->file.word[from + k] = le64toh(v);
		}
	}
	bitmap_recount(&t->file);
}
