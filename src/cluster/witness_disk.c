/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A file or block device that both nodes see as the witness: theory of operation
 *
 * Each node has a block of its own, which it alone writes; both read both. How two blocks make a compare-and-swap, with
 * crashes and freezes anywhere and without a lock manager, is proven in paxos.c. What this file owes to that proof:
 *
 * - A block is read as it was before a write or after it: what counts stands in its first 512 bytes, which every disk
 *   writes wholly or not at all, and has a checksum. A block that is neither (a read that fell into a write over a
 *   network file system) is read again, until the time is over: then the answer is UNKNOWN.
 * - What was written is seen by every later read of the other host: O_DIRECT, so that no cache of either host is in
 *   between, and O_SYNC, so that a write is answered when it is there. A file system that has no O_DIRECT is refused.
 * - Nobody else writes this node's block. Which of the two that is follows from who listens and who connects, which
 *   cannot be the same on two nodes that form a pair; `node=` says it outright. The block has the id of the node
 *   that it belongs to: one that finds another's there (two nodes that both listen) does not touch it. A node that was
 *   built anew has a new id and says `replace`. A second process on this host finds the range locked (an open file
 *   description lock: it guards against ourselves, and nothing rests on it between hosts).
 * - A write that has been answered, also with an error, does not arrive later.
 *
 * The file must be there (zeros: truncate -s 8192): it is not created, because a shared file system that is
 * not mounted would then be a witness of each node's own.
 *
 * A look only reads. What it says has been decided; a claim that is just being decided may be missing in it.
 */
#include "cluster/witness_disk.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cursor.h"
#include "base/siphash.h"
#include "cluster/shell.h"
#include "cluster/witness_internal.h"

#define DISK_MAGIC	0x4c4b574954313031ull	/* "LKWIT101" */
#define READ_AGAIN	(2 * NS_PER_MS)		/* until a block that makes no sense is read again */
#define READ_TRIES	50			/* how often */
#define WAIT_MIN	(1 * NS_PER_MS)		/* the random wait behind the other node's ballot, at first */
#define WAIT_MAX	(64 * NS_PER_MS)	/* it is doubled up to this */

struct disk {
	const struct witness_cfg *cfg;
	int fd;			/* -1: not open */
	unsigned int slot;
	uint8_t *buf;		/* one block, aligned */
};

static uint64_t checksum(const uint8_t *p)
{
	static const uint64_t key[2] = { DISK_MAGIC, DISK_USED };

	return siphash24(key, p, DISK_USED - 8);
}

static void put_record(struct wcursor *w, const struct witness_record *r)
{
	wcursor_u32(w, r->generation);
	wcursor_bytes(w, r->owner, WITNESS_ID_LEN);
}

static void get_record(struct cursor *c, struct witness_record *r)
{
	r->generation = cursor_u32(c);
	cursor_copy(c, r->owner, WITNESS_ID_LEN);
}

void disk_block_encode(uint8_t out[DISK_USED], const struct disk_block *d)
{
	struct wcursor w = wcursor_of(out, DISK_USED - 8);

	memset(out, 0, DISK_USED);
	wcursor_u64(&w, DISK_MAGIC);
	wcursor_u32(&w, d->slot);
	wcursor_bytes(&w, d->name, sizeof(d->name));
	wcursor_bytes(&w, d->node, sizeof(d->node));
	wcursor_u64(&w, d->p.inst);
	put_record(&w, &d->p.chosen);
	wcursor_u64(&w, d->p.mbal);
	wcursor_u64(&w, d->p.bal);
	put_record(&w, &d->p.inp);
	assert(!w.bad);
	w = wcursor_of(out + DISK_USED - 8, 8);
	wcursor_u64(&w, checksum(out));
}

int disk_block_decode(const uint8_t in[DISK_USED], struct disk_block *d)
{
	struct cursor c = cursor_of(in, DISK_USED - 8), sum = cursor_of(in + DISK_USED - 8, 8);
	size_t i;

	memset(d, 0, sizeof(*d));
	for (i = 0; i < DISK_USED && !in[i]; i++)
		;
	if (i == DISK_USED)
		return 0;
	if (cursor_u64(&c) != DISK_MAGIC || cursor_u64(&sum) != checksum(in))
		return -EBADMSG;
	d->used = true;
	d->slot = cursor_u32(&c);
	cursor_copy(&c, d->name, sizeof(d->name));
	cursor_copy(&c, d->node, sizeof(d->node));
	d->p.inst = cursor_u64(&c);
	get_record(&c, &d->p.chosen);
	d->p.mbal = cursor_u64(&c);
	d->p.bal = cursor_u64(&c);
	get_record(&c, &d->p.inp);
	if (c.bad || d->slot > 1 || d->name[sizeof(d->name) - 1] || d->p.inst > PAXOS_MAX || d->p.mbal > PAXOS_MAX ||
	    d->p.bal > d->p.mbal || !d->p.inst != !d->p.chosen.generation || !d->p.bal != !d->p.inp.generation)
		return -EBADMSG;
	return 0;
}

static void shut(struct disk *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

static void disk_free(void *b)
{
	struct disk *d = b;

	shut(d);
	free(d->buf);
	free(d);
}

void *witness_disk_new(const struct witness_cfg *cfg, struct err *e)
{
	struct disk *d = calloc(1, sizeof(*d));

	if (d) {
		d->cfg = cfg;
		d->fd = -1;
		d->slot = cfg->spec.node ? cfg->spec.node - 1 : cfg->connects;
		d->buf = aligned_alloc(DISK_BLOCK, DISK_BLOCK);
		if (d->buf)
			return d;
	}
	free(d);
	err_set(e, -ENOMEM, "no memory for the witness");
	return NULL;
}

static off_t place(const struct disk *d, unsigned int slot)
{
	return (off_t)(d->cfg->spec.offset + slot * DISK_BLOCK);
}

/* Open it, if that is not yet so, and see that it is what it was. */
static int ready(struct disk *d, struct err *e)
{
	const char *path = d->cfg->spec.path;
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = place(d, d->slot), .l_len = DISK_BLOCK };
	struct stat st;
	int rc;

	if (d->fd >= 0 && !fstat(d->fd, &st) && st.st_nlink)
		return 0;
	shut(d);
	d->fd = open(path, O_RDWR | O_DIRECT | O_SYNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	if (d->fd < 0)
		return err_set(e, -errno, errno == EINVAL ? "%.200s is on a file system without O_DIRECT, so it cannot be a witness%s%s" :
			       "%.200s: %s%s", path, errno == EINVAL ? "" : strerror(errno),
			       errno == ENOENT ? " (it is not created: see lockstep-run(1))" : "");
	rc = fstat(d->fd, &st) ? -errno : 0;
	if (!rc && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		rc = err_set(e, -EINVAL, "%.200s is neither a file nor a block device", path);
	else if (!rc && S_ISREG(st.st_mode) && st.st_size < place(d, 2))
		rc = err_set(e, -EINVAL, "%.200s has %lld bytes, and the witness needs %lld of them", path, (long long)st.st_size,
			     (long long)place(d, 2));
	else if (!rc && fcntl(d->fd, F_OFD_SETLK, &lock) && (errno == EAGAIN || errno == EACCES))
		rc = err_set(e, -EBUSY, "%.200s: another process of this host uses this node's block", path);
	else if (rc)
		err_set(e, rc, "%.200s: %s", path, strerror(-rc));
	if (rc)
		shut(d);
	return rc;
}

static int read_block(struct disk *d, const struct witness_ask *q, unsigned int slot, struct disk_block *b, struct err *e)
{
	const char *path = d->cfg->spec.path;
	int rc = -EBADMSG;

	for (int i = 0; i < READ_TRIES && rc == -EBADMSG; i++) {
		ssize_t n;

		if (i && shell_wait(q->stop, -1, clock_ns() + READ_AGAIN) < 0)
			return err_set(e, -ECANCELED, "given up");
		n = pread(d->fd, d->buf, DISK_BLOCK, place(d, slot));
		if (n != DISK_BLOCK) {
			rc = n < 0 ? -errno : -ENODATA;
			shut(d);
			return err_set(e, rc, "%.200s cannot be read: %s", path, n < 0 ? strerror(-rc) : "it is too short");
		}
		rc = disk_block_decode(d->buf, b);
	}
	if (rc)
		return err_set(e, rc, "%.200s holds something that is no witness's block at %lld", path, (long long)place(d, slot));
	if (b->used && (b->slot != slot || strcmp(b->name, d->cfg->name)))
		return err_set(e, -EINVAL, "%.200s holds a block of VM %s at %lld", path, b->name, (long long)place(d, slot));
	return 0;
}

static int write_block(struct disk *d, const struct disk_block *b, struct err *e)
{
	ssize_t n;
	int rc;

	memset(d->buf, 0, DISK_BLOCK);
	disk_block_encode(d->buf, b);
	n = pwrite(d->fd, d->buf, DISK_BLOCK, place(d, d->slot));
	if (n == DISK_BLOCK)
		return 0;
	rc = n < 0 ? -errno : -EIO;
	shut(d);
	return err_set(e, rc, "%.200s cannot be written: %s", d->cfg->spec.path, strerror(-rc));
}

/* Both blocks. @own: found to be this node's, or free */
static int read_both(struct disk *d, const struct witness_ask *q, struct disk_block *own, struct disk_block *other, struct err *e)
{
	int rc = ready(d, e);

	if (!rc)
		rc = read_block(d, q, d->slot, own, e);
	if (!rc)
		rc = read_block(d, q, !d->slot, other, e);
	if (rc)
		return rc;
	if (other->used && !memcmp(other->node, d->cfg->me, WITNESS_ID_LEN))
		return err_set(e, -EINVAL, "%.200s: this node has block %u already, and would now take %u (node=)", d->cfg->spec.path,
			       2 - d->slot, 1 + d->slot);
	if (own->used && memcmp(own->node, d->cfg->me, WITNESS_ID_LEN) && !d->cfg->spec.replace)
		return err_set(e, -EINVAL, "%.200s: block %u belongs to another node; if that is gone for good, say replace",
			       d->cfg->spec.path, 1 + d->slot);
	return 0;
}

static int disk_look(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	struct disk_block own, other;
	int rc = read_both(b, q, &own, &other, e);

	if (rc)
		return rc;
	*r = paxos_known(&own.p, &other.p);
	return WITNESS_RECORD;
}

static nstime some_time(nstime below)
{
	uint64_t n = 0;

	if (getrandom(&n, sizeof(n), GRND_NONBLOCK) != sizeof(n))
		n = clock_ns();
	return n % below;
}

static int disk_claim(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	struct witness_record want = { .generation = q->c.next };
	struct disk_block own, other;
	struct disk *d = b;
	nstime wait = WAIT_MIN;
	enum paxos_step s;
	struct paxos p;
	int rc = read_both(d, q, &own, &other, e);

	if (rc)
		return rc;
	memcpy(want.owner, d->cfg->me, WITNESS_ID_LEN);
	own.slot = d->slot;
	strcpy(own.name, d->cfg->name);
	memcpy(own.node, d->cfg->me, WITNESS_ID_LEN);
	for (s = paxos_begin(&p, d->slot, &own.p, q->c.expect, &want); s <= PAXOS_WAIT;) {
		if (clock_ns() >= q->until)
			return err_set(e, -ETIMEDOUT, "the disk has not decided within %llu ms", (unsigned long long)(q->limit / NS_PER_MS));
		if (s == PAXOS_WRITE) {
			own.p = p.own;
			rc = write_block(d, &own, e);
		} else if (s == PAXOS_READ) {
			rc = read_block(d, q, !d->slot, &other, e);
		} else {
			rc = shell_wait(q->stop, -1, clock_ns() + WAIT_MIN + some_time(wait));
			wait = wait < WAIT_MAX ? 2 * wait : wait;
		}
		if (rc)
			return rc == -ECANCELED ? err_set(e, rc, "given up") : rc;
		s = paxos_next(&p, s == PAXOS_READ ? &other.p : NULL);
	}
	*r = p.own.chosen;
	return s == PAXOS_GRANTED ? (int)WITNESS_GRANTED : s == PAXOS_LOST ? witness_lost(r, d->cfg->me, e) : witness_old(r, &q->c, e);
}

const struct witness_ops witness_disk_ops = { disk_look, disk_claim, disk_free };
