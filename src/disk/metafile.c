/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The file beside an image:
 *
 *	0	header, slot 0		4096	header, slot 1
 *	8192	write-intent map: 17 sectors of 512 bytes
 *	32768	dirty bitmap, one bit for each block, in words of 64 bits, little-endian; valid after a clean end only
 *
 * A header, big-endian: magic (8), version (4), its length (4), sequence number (8), id of the file (8), size of the
 * disk (8), bytes of a region (8), of a block (4), clean (4: 0 or 1), stamp of the image (8), checksum of the bitmap
 * (8), lineage (LINEAGE_LEN, core/lineage.c), checksum (8) of all that. Checksums are XXH3-64. The slot that does not
 * hold the newest valid header is written, so one always remains; the valid one with the higher number counts. A sector
 * of the write-intent map, little-endian: 62 words of bits, id of the file, checksum with the sector's number as its
 * seed.
 *
 * A new file gets its intent map first, then slot 1, then slot 0, each durable before the next. So a file whose slot 0
 * is still empty and whose slot 1 does not hold was never complete, and counts as new. With any other file that has no
 * valid header nobody knows what the image is, and a person has to look.
 *
 * The lock is one of the open file description, exclusive, over the whole file; so it is gone when the process is.
 */
#include "disk/metafile.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/cursor.h"
#include "base/syncdir.h"

#define MAGIC		"LockMeta"
#define VERSION		1u
#define SLOT		4096u
#define AT_INTENT	(2 * SLOT)
#define AT_BITMAP	32768u
#define HEAD_LEN	(8 + 4 + 4 + 8 * 4 + 4 + 4 + 8 + 8 + LINEAGE_LEN)

_Static_assert(AT_INTENT + INTENT_SECTORS * INTENT_SECTOR <= AT_BITMAP, "the parts of the file overlap");
_Static_assert(HEAD_LEN + 8 <= SLOT, "the header is larger than its slot");

static int write_all(int fd, const void *buf, size_t len, uint64_t off)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t k = pwrite(fd, p, len, (off_t)off);

		if (k == -1 && errno == EINTR)
			continue;
		if (k <= 0)
			return k == 0 ? -EIO : -errno;
		p += k;
		off += (uint64_t)k;
		len -= (size_t)k;
	}
	return 0;
}

/* read_all() - past the end: zeroes */
static int read_all(int fd, void *buf, size_t len, uint64_t off)
{
	uint8_t *p = buf;

	while (len > 0) {
		ssize_t k = pread(fd, p, len, (off_t)off);

		if (k == -1 && errno == EINTR)
			continue;
		if (k == -1)
			return -errno;
		if (k == 0) {
			memset(p, 0, len);
			return 0;
		}
		p += k;
		off += (uint64_t)k;
		len -= (size_t)k;
	}
	return 0;
}

static int sync_file(int fd)
{
	return fdatasync(fd) == 0 ? 0 : -errno;
}

static void pack_head(uint8_t out[SLOT], const struct metafile_head *h)
{
	struct wcursor w = wcursor_of(out, SLOT);
	uint8_t lineage[LINEAGE_LEN];

	memset(out, 0, SLOT);
	lineage_put(lineage, &h->lineage);
	wcursor_bytes(&w, MAGIC, 8);
	wcursor_u32(&w, VERSION);
	wcursor_u32(&w, HEAD_LEN);
	wcursor_u64(&w, h->seq);
	wcursor_u64(&w, h->id);
	wcursor_u64(&w, h->size);
	wcursor_u64(&w, h->region);
	wcursor_u32(&w, h->block);
	wcursor_u32(&w, h->clean);
	wcursor_u64(&w, h->stamp);
	wcursor_u64(&w, h->bitmap_sum);
	wcursor_bytes(&w, lineage, LINEAGE_LEN);
	wcursor_u64(&w, XXH3_64bits(out, HEAD_LEN));
}

/* unpack_head() - Return: 0; -EPROTO: it does not hold; -EPROTONOSUPPORT: of a version that we do not know */
static int unpack_head(const uint8_t in[SLOT], struct metafile_head *h)
{
	struct cursor c = cursor_of(in, SLOT), sum = cursor_of(in + HEAD_LEN, 8);
	const uint8_t *magic = cursor_get(&c, 8), *lineage;
	uint32_t version = cursor_u32(&c), len = cursor_u32(&c), clean;

	if (memcmp(magic, MAGIC, 8) != 0)
		return -EPROTO;
	if (version != VERSION)
		return -EPROTONOSUPPORT;
	if (len != HEAD_LEN || cursor_u64(&sum) != XXH3_64bits(in, HEAD_LEN))
		return -EPROTO;
	*h = (struct metafile_head){ .seq = cursor_u64(&c), .id = cursor_u64(&c) };
	h->size = cursor_u64(&c);
	h->region = cursor_u64(&c);
	h->block = cursor_u32(&c);
	clean = cursor_u32(&c);
	h->stamp = cursor_u64(&c);
	h->bitmap_sum = cursor_u64(&c);
	lineage = cursor_get(&c, LINEAGE_LEN);
	if (c.bad || clean > 1 || lineage_get(lineage, &h->lineage) != 0)
		return -EPROTO;
	h->clean = clean;
	return 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (p[i])
			return false;
	}
	return true;
}

static int read_heads(struct metafile *f, struct metafile_head *h, struct err *e)
{
	uint8_t slot[2][SLOT];
	struct metafile_head got[2];
	uint32_t jump;
	int rc = read_all(f->fd, slot, sizeof(slot), 0), is[2];

	if (rc != 0)
		return err_set(e, rc, "%s cannot be read: %s", f->path, strerror(-rc));
	for (int i = 0; i < 2; i++)
		is[i] = unpack_head(slot[i], &got[i]);
	if (is[0] == -EPROTONOSUPPORT || is[1] == -EPROTONOSUPPORT)
		return err_set(e, -EPROTONOSUPPORT, "%s was written by another version of Lockstep", f->path);
	if (is[0] != 0 && is[1] != 0) {
		if (all_zero(slot[0], SLOT))
			return 0;	/* it was never complete */
		return err_set(e, -EBADMSG, "%s is damaged, so it is not known which copy of the disk is the newer one; "
			       "remove it on the node whose copy is to be overwritten", f->path);
	}
	f->made = true;
	f->good = is[0] != 0 || (is[1] == 0 && got[1].seq > got[0].seq);
	*h = got[f->good];
	f->seq = h->seq;
	/*
	 * A header is longer than a sector. One that an earlier life could write in part only must not become whole by a
	 * part of ours: no number is used by two lives, as far as chance can see to it.
	 */
	if (getrandom(&jump, sizeof(jump), 0) == (ssize_t)sizeof(jump))
		h->seq += jump;
	return 0;
}

int metafile_open(struct metafile *f, const char *path, struct metafile_head *h, struct err *e)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct stat st;
	int rc;

	*f = (struct metafile){ .fd = -1, .path = strdup(path) };
	pthread_mutex_init(&f->lock, NULL);
	if (!f->path)
		return err_set(e, -ENOMEM, "out of memory");
	f->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (f->fd == -1) {
		rc = -errno;
		return err_set(e, rc, "%s, where Lockstep keeps what it knows of the disk, cannot be opened: %s", path,
			       strerror(-rc));
	}
	if (fstat(f->fd, &st) == -1 || !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%s, where Lockstep keeps what it knows of the disk, is no ordinary file", path);
	if (fcntl(f->fd, F_OFD_SETLK, &l) == -1) {
		rc = -errno;
		if (rc == -EAGAIN || rc == -EACCES)
			return err_set(e, -EBUSY, "the disk is in use: another lockstep has locked %s", path);
		return err_set(e, rc, "%s cannot be locked: %s", path, strerror(-rc));
	}
	return read_heads(f, h, e);
}

void metafile_close(struct metafile *f)
{
	if (f->fd != -1)
		close(f->fd);
	free(f->path);
	pthread_mutex_destroy(&f->lock);
	*f = (struct metafile){ .fd = -1 };
}

int metafile_read_intent(struct metafile *f, uint64_t id, struct intent *t, unsigned int *broken, struct err *e)
{
	uint8_t sector[INTENT_SECTOR];

	*broken = 0;
	for (unsigned int i = 0; i < intent_sectors(t); i++) {
		int rc = read_all(f->fd, sector, sizeof(sector), AT_INTENT + i * INTENT_SECTOR);

		if (rc != 0)
			return err_set(e, rc, "%s cannot be read: %s", f->path, strerror(-rc));
		*broken += !intent_unpack(t, id, i, sector);
	}
	return 0;
}

/* The words of a bitmap in the file's order, in pieces. */
#define PIECE	512u

uint64_t metafile_sum(const struct bitmap *b)
{
	XXH3_state_t *x = XXH3_createState();
	uint64_t sum = 0, words = bitmap_words(b), le[PIECE];

	if (!x)
		return 0;	/* will not agree: everything is compared then */
	XXH3_64bits_reset(x);
	for (uint64_t i = 0; i < words;) {
		uint64_t n = 0;

		for (; n < PIECE && i < words; n++, i++)
			le[n] = htole64(b->word[i]);
		XXH3_64bits_update(x, le, n * sizeof(*le));
	}
	sum = XXH3_64bits_digest(x);
	XXH3_freeState(x);
	return sum;
}

int metafile_read_bitmap(struct metafile *f, struct bitmap *b, uint64_t sum, struct err *e)
{
	uint64_t words = bitmap_words(b);
	int rc = read_all(f->fd, b->word, words * sizeof(*b->word), AT_BITMAP);

	if (rc != 0)
		return err_set(e, rc, "%s cannot be read: %s", f->path, strerror(-rc));
	for (uint64_t i = 0; i < words; i++)
		b->word[i] = le64toh(b->word[i]);
	if (metafile_sum(b) != sum) {
		memset(b->word, 0, words * sizeof(*b->word));
		b->set = 0;
		return -EILSEQ;
	}
	bitmap_recount(b);
	return 0;
}

static int write_bitmap(struct metafile *f, const struct bitmap *b)
{
	uint64_t words = bitmap_words(b), le[PIECE];
	int rc = 0;

	for (uint64_t i = 0; i < words && rc == 0;) {
		uint64_t at = i, n = 0;

		for (; n < PIECE && i < words; n++, i++)
			le[n] = htole64(b->word[i]);
		rc = write_all(f->fd, le, n * sizeof(*le), AT_BITMAP + at * sizeof(*le));
	}
	return rc != 0 ? rc : sync_file(f->fd);
}

/* write_head() - into the slot that does not hold the newest; f->lock is held */
static int write_head(struct metafile *f, const struct metafile_head *h)
{
	unsigned int slot = f->made ? !f->good : 1;
	uint8_t buf[SLOT];
	int rc;

	pack_head(buf, h);
	rc = write_all(f->fd, buf, sizeof(buf), slot * SLOT);
	if (rc == 0)
		rc = sync_file(f->fd);
	if (rc != 0)
		return rc;
	f->good = slot;
	f->seq = h->seq;
	return 0;
}

/* make_file() - all that a new one needs, up to the first of its two headers; f->lock is held */
static int make_file(struct metafile *f, const struct metafile_head *h)
{
	struct metafile_head first = *h;
	struct intent none;
	uint8_t sector[INTENT_SECTOR];
	int rc;

	rc = intent_init(&none, INTENT_MAX_REGIONS);
	if (rc != 0)
		return rc;
	if (ftruncate(f->fd, 0) == -1 || ftruncate(f->fd, AT_BITMAP) == -1)
		rc = -errno;
	for (unsigned int i = 0; i < INTENT_SECTORS && rc == 0; i++) {
		intent_pack(&none, h->id, i, sector);
		rc = write_all(f->fd, sector, sizeof(sector), AT_INTENT + i * INTENT_SECTOR);
	}
	intent_free(&none);
	if (rc == 0 && fsync(f->fd) == -1)
		rc = -errno;
	if (rc != 0)
		return rc;
	rc = sync_dir_of(f->path);
	if (rc != 0)
		return rc;
	first.seq = h->seq - 1;
	first.clean = false;
	rc = write_head(f, &first);
	f->made = rc == 0;
	return rc;
}

int metafile_write(struct metafile *f, const struct bitmap *bitmap, const struct intent_shot *shot,
		   const struct metafile_head *h, struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&f->lock);
	if (!f->made)
		rc = h ? make_file(f, h) : -EINVAL;
	if (rc == 0 && bitmap)
		rc = write_bitmap(f, bitmap);
	for (unsigned int i = 0; rc == 0 && shot && i < shot->n; i++)
		rc = write_all(f->fd, shot->bytes[i], INTENT_SECTOR, AT_INTENT + shot->at[i] * INTENT_SECTOR);
	if (rc == 0 && shot && shot->n > 0)
		rc = sync_file(f->fd);
	if (rc == 0 && h && h->seq > f->seq)
		rc = write_head(f, h);
	pthread_mutex_unlock(&f->lock);
	if (rc != 0)
		return err_set(e, rc, "%s, where Lockstep keeps what it knows of the disk, cannot be written: %s", f->path,
			       strerror(-rc));
	return 0;
}
