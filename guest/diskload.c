/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * diskload.c - writes numbered records at random places of a disk, and can prove that each is there once
 *
 * Goal: a load whose every trace on the disk follows from one number, so that a guest that knows the number finds
 * every lost, doubled, misplaced, torn or returned record, and every record of another copy of this guest that must
 * not be there; and that somebody who has only the image finds the same by the journal in it (diskimage.py does).
 *
 * An area is DISKLOAD_JOURNAL records of journal and then the data records, 4096 bytes each. First each place is
 * filled with record 0. Record n, from 1 on, is the (n - 1) % blocks'th of round (n - 1) / blocks; a round visits
 * each place once, the i'th being (i * factor + shift) % blocks, with a factor that is prime to the number of
 * places, and a shift of its own for each round. That can be inverted, so which record each place must hold after n
 * of them is computed, and nothing is stored.
 *
 * A turn writes what is due, one record after the other, flushes, and only then writes an entry into the journal,
 * through: all up to record n are durable. The entries go round in the journal's places. So when the last whole
 * entry of an image says n, each place holds the record that the computation gives for n; except those where one of
 * the next TURN_MAX records belongs: there anything may be. On two disks each step is done on the one and then on
 * the other.
 *
 * A record is 512 little-endian words: a magic number, the seed, the place (in the journal: the entry), the record's
 * number, the hash of it all (XXH64 with seed 0, with 0 in this word's place), then the pattern of a seed that is
 * made of the others.
 */
#include "diskload.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "pattern.h"
#include "xxh64.h"

enum {
	RECORD = DISKLOAD_RECORD,
	WORDS = RECORD / 8,
	HEAD_WORDS = 5,
	PIECE = DISKLOAD_BUF / RECORD,	/* records that are filled or verified at a time */
	TURN_NS = 20000000,
	DEBT_TURNS = 5,			/* what could not be kept up with is made good for so long */
	TURN_MAX = 64,			/* records of one turn; whoever has the image knows it, too */
};

#define DATA_MAGIC	UINT64_C(0x61746164206b636f)
#define JOURNAL_MAGIC	UINT64_C(0x6c616e72756f6a20)

struct record {
	uint64_t word[WORDS];
};

static uint64_t record_hash(struct record *r)
{
	uint64_t was = r->word[4];
	struct xxh64 h;

	r->word[4] = 0;
	xxh64_init(&h, 0);
	xxh64_update(&h, r, sizeof(*r));
	r->word[4] = was;
	return xxh64_digest(&h);
}

static void record_make(struct record *r, uint64_t magic, uint64_t seed, uint64_t place, uint64_t n)
{
	uint64_t body = seed ^ magic ^ pattern_word(place, n);
	uint32_t i;

	r->word[0] = magic;
	r->word[1] = seed;
	r->word[2] = place;
	r->word[3] = n;
	for (i = HEAD_WORDS; i < WORDS; i++)
		r->word[i] = pattern_word(body, i);
	r->word[4] = 0;
	r->word[4] = record_hash(r);
}

static uint64_t shift(const struct diskload *l, uint64_t round)
{
	return pattern_word(l->seed, round) % l->blocks;
}

/* The place of record @n, from 1 on. */
static uint64_t place_of(const struct diskload *l, uint64_t n)
{
	uint64_t i = (n - 1) % l->blocks;

	return (i * l->factor + shift(l, (n - 1) / l->blocks)) % l->blocks;
}

/* The record that @place holds when all up to @n have been written. */
static uint64_t record_at(const struct diskload *l, uint64_t place, uint64_t n)
{
	uint64_t round = n / l->blocks, i;

	i = (place + l->blocks - shift(l, round)) % l->blocks * l->inverse % l->blocks;
	if (i < n % l->blocks)
		return round * l->blocks + i + 1;
	if (!round)
		return 0;
	round--;
	i = (place + l->blocks - shift(l, round)) % l->blocks * l->inverse % l->blocks;
	return round * l->blocks + i + 1;
}

/* Return: x with a * x % n == 1, or 0 when there is none. */
static uint64_t inverse_of(uint64_t a, uint64_t n)
{
	int64_t r = (int64_t)n, new_r = (int64_t)(a % n), t = 0, new_t = 1, q, was;

	while (new_r) {
		q = r / new_r;
		was = r - q * new_r, r = new_r, new_r = was;
		was = t - q * new_t, t = new_t, new_t = was;
	}
	if (r != 1)
		return 0;
	return (uint64_t)(t < 0 ? t + (int64_t)n : t);
}

static int write_all(int fd, const void *data, size_t len, uint64_t off, int flags)
{
	struct iovec iov = { (void *)data, len };
	ssize_t n;

	while (iov.iov_len) {
		n = pwritev2(fd, &iov, 1, (off_t)off, flags);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		iov.iov_base = (uint8_t *)iov.iov_base + n;
		iov.iov_len -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

static int read_all(int fd, void *data, size_t len, uint64_t off)
{
	uint8_t *p = data;
	ssize_t n;

	while (len) {
		n = pread(fd, p, len, (off_t)off);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
		off += (uint64_t)n;
	}
	return 0;
}

static int on_all(const struct diskload *l, const void *data, size_t len, uint64_t off, int flags)
{
	unsigned int i;
	int rc = 0;

	for (i = 0; !rc && i < l->disks; i++)
		rc = write_all(l->fd[i], data, len, l->off + off, flags);
	return rc;
}

static int flush_all(const struct diskload *l)
{
	unsigned int i;

	for (i = 0; i < l->disks; i++)
		if (fdatasync(l->fd[i]))
			return -errno;
	return 0;
}

static int journal(struct diskload *l, uint64_t n)
{
	uint64_t entry = l->entries + 1;
	int rc;

	record_make(l->buf, JOURNAL_MAGIC, l->seed, entry, n);
	rc = on_all(l, l->buf, RECORD, entry % DISKLOAD_JOURNAL * RECORD, RWF_DSYNC);
	if (!rc) {
		l->entries = entry;
		l->flushed = n;
	}
	return rc;
}

int diskload_begin(struct diskload *l, uint64_t off, uint64_t len, uint64_t seed, uint32_t rate)
{
	struct record *piece = l->buf;
	uint64_t at;
	uint32_t i, n;
	int rc;

	l->off = off;
	l->seed = seed;
	l->blocks = (uint32_t)(len / RECORD - DISKLOAD_JOURNAL);
	l->rate = rate;
	for (l->factor = pattern_word(seed, UINT32_MAX) % l->blocks; !inverse_of(l->factor, l->blocks);)
		l->factor = (l->factor + 1) % l->blocks;
	l->inverse = inverse_of(l->factor, l->blocks);
	/* No entry of a load before this one may be taken for one of this. */
	memset(piece, 0, DISKLOAD_JOURNAL * RECORD);
	rc = on_all(l, piece, DISKLOAD_JOURNAL * RECORD, 0, 0);
	for (at = 0; !rc && at < l->blocks; at += n) {
		n = l->blocks - at < PIECE ? (uint32_t)(l->blocks - at) : PIECE;
		for (i = 0; i < n; i++)
			record_make(&piece[i], DATA_MAGIC, seed, at + i, 0);
		rc = on_all(l, piece, n * RECORD, (DISKLOAD_JOURNAL + at) * RECORD, 0);
	}
	if (!rc)
		rc = flush_all(l);
	return rc ? rc : journal(l, 0);
}

static int write_next(struct diskload *l)
{
	uint64_t n = l->written + 1, place = place_of(l, n);
	int rc;

	record_make(l->buf, DATA_MAGIC, l->seed, place, n);
	rc = on_all(l, l->buf, RECORD, (DISKLOAD_JOURNAL + place) * RECORD, 0);
	if (!rc)
		l->written = n;
	return rc;
}

int64_t diskload_turn(struct diskload *l, int64_t now)
{
	uint32_t n;
	int rc = 0;

	if (!l->rate || l->error)
		return -1;
	if (now < l->next_ns)
		return l->next_ns - now;
	if (now - l->next_ns > (int64_t)DEBT_TURNS * TURN_NS)
		l->next_ns = now - (int64_t)DEBT_TURNS * TURN_NS;
	for (; l->next_ns <= now; l->next_ns += TURN_NS)
		l->credit += (uint64_t)l->rate * TURN_NS;
	for (n = 0; !rc && l->credit >= 1000000000 && n < TURN_MAX; n++, l->credit -= 1000000000)
		rc = write_next(l);
	if (l->credit > (uint64_t)l->rate * TURN_NS * DEBT_TURNS)
		l->credit = (uint64_t)l->rate * TURN_NS * DEBT_TURNS;
	if (!rc && n) {
		rc = flush_all(l);
		if (!rc)
			rc = journal(l, l->written);
	}
	if (rc) {
		l->error = -rc;
		l->failed_at = l->written + 1;
		return -1;
	}
	return 0;
}

/* Counts what is wrong, and describes the first one. */
static void judge(const struct diskload *l, unsigned int disk, struct record *r, uint64_t place, uint64_t *bad,
		  char *text, size_t size)
{
	uint64_t want = record_at(l, place, l->written);
	bool whole = record_hash(r) == r->word[4];

	if (whole && r->word[0] == DATA_MAGIC && r->word[1] == l->seed && r->word[2] == place && r->word[3] == want)
		return;
	if (!(*bad)++)
		snprintf(text, size, "place %" PRIu64 " of disk %u has %s %" PRIu64 " of place %" PRIu64 ", not record %" PRIu64,
			 place, disk, !whole ? "no whole record," : r->word[1] == l->seed ? "record" : "another load's record",
			 r->word[3], r->word[2], want);
}

int diskload_verify(const struct diskload *l, char *text, size_t size)
{
	struct record *piece = l->buf;
	uint64_t at, bad = 0;
	char first[120] = "";
	unsigned int d;
	uint32_t i, n;
	int rc = 0;

	for (d = 0; d < l->disks; d++) {
		rc = read_all(l->fd[d], piece, RECORD, l->off + l->entries % DISKLOAD_JOURNAL * RECORD);
		if (rc)
			return rc;
		if ((record_hash(piece) != piece->word[4] || piece->word[0] != JOURNAL_MAGIC || piece->word[1] != l->seed ||
		     piece->word[2] != l->entries || piece->word[3] != l->flushed) && !bad++)
			snprintf(first, sizeof(first), "entry %" PRIu64 " of the journal of disk %u is not there", l->entries, d);
		for (at = 0; at < l->blocks; at += n) {
			n = l->blocks - at < PIECE ? (uint32_t)(l->blocks - at) : PIECE;
			rc = read_all(l->fd[d], piece, n * RECORD, l->off + (DISKLOAD_JOURNAL + at) * RECORD);
			if (rc)
				return rc;
			for (i = 0; i < n; i++)
				judge(l, d, &piece[i], at + i, &bad, first, sizeof(first));
		}
	}
	if (bad)
		snprintf(text, size, "bad %" PRIu64 ": %s", bad, first);
	else
		snprintf(text, size, "ok");
	return 0;
}
