/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images that both nodes share: theory of operation
 *
 * How the blocks are kept right is in shared_serve.c and shared_standby.c. Here is who may write them. Three things lie
 * beside the images, where both nodes see them (with --disk-dir, in that directory, which must be a shared one then):
 *
 *	IMAGE.lockstep-shared	the token of the pair, random; beside each image. The serving node makes a new one whenever it
 *				starts, is promoted, or takes a peer, which goes on only if it reads the same: so both do see
 *				the same files
 *	IMAGE.lockstep-claim-T	of the first image, T being a part of the token: who made it is the one that goes on when the two
 *				have lost one another. Only one can (O_EXCL)
 *	IMAGE.lockstep-journal	the standby's, for its promotion; locked by it until it has merged. A serving node that starts
 *				looks whether a promoted one has left something in it; a standby does not, since it writes nothing
 *
 * When the nodes have lost one another, and the serving one is not dead, it may want to go on alone, and the other one may
 * want to take over. The first thing that either does is to claim. Who does not get it ends: the serving node before
 * it has overwritten anything that the other lacks, the other one before it has had the peer fenced. A claim counts only if
 * the token is still the one of this pair, which a serving node that has started since has changed.
 *
 * With its claim the standing-by node has the fence command run (cluster/fence.c), and is promoted when it has succeeded:
 * what a killed process had under way may otherwise still reach the image. When it fails the claim is given back.
 *
 * The roles are locks on the images too (imagelock.c): a third node is refused, and a peer that is fenced and has its
 * lock still is not believed to be off.
 */
#include "disk/disk_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/syncdir.h"
#include "disk/journal.h"

#define TOKEN_HEAD	"lockstep-shared 1 "
#define CLAIM_RETRY	(1 * NS_PER_S)
#define SILENCE_NS	(3 * NS_PER_S)
#define SILENCE_LOOK	(2 * NS_PER_MS)
#define SENTENCE_MAX	480u

/* Messages, as types of DISK_SYNC; resync's are below. */
enum { SHR_TOKEN = DISK_SYNC_SHARED, SHR_OK, SHR_REFUSE };

/* Files */

static void sync_dir(const char *path)
{
	int rc = sync_dir_of(path);

	if (rc)
		log_debug("the directory of %s: %s", path, strerror(-rc));
}

/* A file that is new or as it was. */
static int write_new(const char *path, const char *text, struct err *e)
{
	char tmp[4200];
	int fd, rc = 0;

	snprintf(tmp, sizeof(tmp), "%s.new", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(e, -errno, "%.300s cannot be made: %s", tmp, strerror(errno));
	if (write(fd, text, strlen(text)) != (ssize_t)strlen(text) || fsync(fd))
		rc = err_set(e, errno ? -errno : -EIO, "%.300s cannot be written: %s", tmp, strerror(errno));
	close(fd);
	if (!rc && rename(tmp, path))
		rc = err_set(e, -errno, "%.300s cannot be made: %s", path, strerror(errno));
	sync_dir(path);
	return rc;
}

static void hex(char out[33], const uint8_t token[16])
{
	for (unsigned int i = 0; i < 16; i++)
		snprintf(out + 2 * i, 3, "%02x", token[i]);
}

static int token_path(struct disk *d, unsigned int i, char *path, size_t cap, struct err *e)
{
	return disk_beside(d, i, ".lockstep-shared", path, cap, e);
}

static int token_write(struct disk *d, struct err *e)
{
	char path[4096], text[64] = TOKEN_HEAD;
	int rc = 0;

	hex(text + strlen(TOKEN_HEAD), d->token);
	strcat(text, "\n");
	for (unsigned int i = 0; !rc && i < d->n; i++) {
		rc = token_path(d, i, path, sizeof(path), e);
		if (!rc)
			rc = write_new(path, text, e);
	}
	return rc;
}

/* Return: 0, -ENOENT, or another -errno with a sentence */
static int token_read(struct disk *d, unsigned int i, uint8_t token[16], struct err *e)
{
	char path[4096], text[80] = "";
	int fd, rc = token_path(d, i, path, sizeof(path), e);
	ssize_t n;

	if (rc)
		return rc;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_set(e, -errno, "%.300s cannot be read: %s", path, strerror(errno));
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n != (ssize_t)strlen(TOKEN_HEAD) + 33 || strncmp(text, TOKEN_HEAD, strlen(TOKEN_HEAD)))
		return err_set(e, -EBADMSG, "%.300s is not what a node that serves has written", path);
	for (unsigned int k = 0; k < 16; k++)
		if (sscanf(text + strlen(TOKEN_HEAD) + 2 * k, "%2hhx", &token[k]) != 1)
			return err_set(e, -EBADMSG, "%.300s is not what a node that serves has written", path);
	return 0;
}

static int claim_path(struct disk *d, char *path, size_t cap, struct err *e)
{
	char text[33], suffix[40];

	hex(text, d->token);
	snprintf(suffix, sizeof(suffix), ".lockstep-claim-%.16s", text);
	return disk_beside(d, 0, suffix, path, cap, e);
}

/* Return: 0: this node is the one; -ESTALE: it is not; -errno: nobody knows */
static int claim(struct disk *d, struct err *e)
{
	const char *role = d->serves ? "serves\n" : "stands by\n";
	char path[4096], was[16] = "";
	uint8_t now[16];
	int fd, rc = claim_path(d, path, sizeof(path), e);

	if (rc)
		return rc;
	fd = d->claimed ? -1 : open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0 && !d->claimed && errno == EEXIST) {
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, was, sizeof(was) - 1) < 0)
			was[0] = 0;
		if (fd >= 0)
			close(fd);
		was[strcspn(was, "\n")] = 0;
		return err_set(e, -ESTALE, "the peer has claimed the shared images before this node (%.300s: the one that %s)", path,
			       was);
	}
	if (fd < 0 && !d->claimed)
		return err_set(e, -errno, "%.300s cannot be made: %s", path, strerror(errno));
	if (fd >= 0) {
		d->claimed = true;
		if (write(fd, role, strlen(role)) < 0 || fsync(fd))
			log_warn("%s: %s", path, strerror(errno));
		close(fd);
		sync_dir(path);
	}
	rc = token_read(d, 0, now, e);
	if (rc)
		return rc;
	if (!memcmp(now, d->token, 16))
		return 0;
	disk_unclaim(d);
	return err_set(e, -ESTALE, "another node has begun to serve with the shared images");
}

void disk_unclaim(struct disk *d)
{
	struct err e = { 0 };
	char path[4096];

	if (d->claimed && !claim_path(d, path, sizeof(path), &e) && !unlink(path))
		sync_dir(path);
	d->claimed = false;
}

/* From now on no claim of anybody counts that was a part of a pair before. */
static int new_token(struct disk *d, struct err *e)
{
	char old[4096] = "";
	struct err ignored = { 0 };
	int rc;

	if (d->paired)
		claim_path(d, old, sizeof(old), &ignored);
	if (getrandom(d->token, sizeof(d->token), 0) != sizeof(d->token))
		return err_set(e, -errno, "no random numbers: %s", strerror(errno));
	rc = token_write(d, e);
	if (rc)
		return rc;
	d->paired = true;
	d->claimed = false;
	if (*old && !unlink(old))
		sync_dir(old);
	return 0;
}

/* The start */

int disk_shared_open(struct disk *d, struct err *e)
{
	struct journal_head h;
	int rc;

	if (d->cfg.serves)
		return !d->journal.pread;
	rc = journal_read_head(&d->journal, &h, e);
	if (!rc && h.layers)
		rc = err_set(e, -EPERM, "%.300s has what a promoted node had not put into the shared images when it ended: the node "
			     "that serves must be started first, which does that", d->journal_path);
	return rc;
}

int disk_shared_start(struct disk *d, struct err *e)
{
	int rc;

	/* The standby's. */
	journal_close(&d->journal);
	d->paired = !token_read(d, 0, d->token, e);
	if (d->paired) {
		rc = claim(d, e);
		if (rc == -ESTALE && strstr(e->msg, "stands by") && store_role_held(d->store[0], false))
			return err_set(e, -EBUSY, "the node that stood by has claimed the shared images and still runs: end it, or let it "
				       "take over");
		if (rc && rc != -ESTALE)
			return rc;
	}
	return new_token(d, e);
}

/* Serving */

static void keep_want(void *arg)
{
	struct disk *d = arg;

	d->ops.want(d->ops.arg);
}

static void keep_error(void *arg, unsigned int disk, int rc)
{
	struct disk *d = arg;

	log_error("disk %s: %s: the guest is told", d->id[disk], strerror(-rc));
}

static void keep_debt(void *arg, bool open)
{
	struct disk *d = arg;

	d->debt = open;
	disk_tell_debt(d);
}

static void keep_debt_failed(void *arg, int rc)
{
	struct disk *d = arg;

	log_error("a flush that QEMU was told is done has failed: %s", strerror(-rc));
	d->ops.failed(d->ops.arg, false, rc, "a flush that QEMU was told is done has failed");
}

int disk_shared_serve(struct disk *d, struct blk *const *bases, struct err *e)
{
	struct shared_serve_ops ops = { .want = keep_want, .local_error = keep_error, .debt = keep_debt,
					.debt_failed = keep_debt_failed, .arg = d };

	d->keep = shared_serve_new(bases, d->n, &ops, e);
	if (!d->keep)
		return e->code;
	for (unsigned int i = 0; i < d->n; i++)
		disk_front_under(d, i, shared_serve_blk(d->keep, i));
	atomic_store(&d->keeping, d->keep);
	d->serves = true;
	return 0;
}

static void try_again(struct loop_timer *t)
{
	disk_shared_alone(t->arg);
}

void disk_shared_alone(struct disk *d)
{
	struct err e = { 0 };
	int rc = shared_serve_rival(d->keep) ? claim(d, &e) : 0;

	if (!rc) {
		shared_serve_alone(d->keep);
		return;
	}
	log_error("%s", e.msg);
	if (rc == -ESTALE) {
		d->ops.failed(d->ops.arg, false, rc, e.msg);
		return;
	}
	/* Until it is known the VM's writes wait. */
	d->claim = (struct loop_timer){ .fn = try_again, .arg = d };
	loop_timer_set(d->loop, &d->claim, loop_now(d->loop) + CLAIM_RETRY);
}

/* A peer joins */

void disk_shared_join(struct disk *d)
{
	struct err e = { 0 };
	int rc;

	/* What lies above the images is not seen by the peer. */
	d->join_waits = d->merging;
	if (d->merging)
		return;
	if (shared_serve_rival(d->keep)) {
		disk_job_done(d, DISK_RESYNC, -EBUSY, "it is not known yet who goes on with the shared images");
		return;
	}
	rc = new_token(d, &e);
	if (!rc && d->ops.send_sync(d->ops.arg, 0, SHR_TOKEN, d->token, sizeof(d->token)))
		rc = err_set(&e, -EPIPE, "the peer is gone");
	if (rc)
		disk_job_done(d, DISK_RESYNC, rc, e.msg);
}

void disk_shared_merged(struct disk *d)
{
	/* A next standby may have it. */
	journal_unlock(&d->journal);
	if (d->join_waits)
		disk_shared_join(d);
}

static int joins(struct disk *d, const uint8_t token[16], struct err *e)
{
	uint8_t mine[16];
	int rc = 0;

	for (unsigned int i = 0; !rc && i < d->n; i++) {
		rc = token_read(d, i, mine, e);
		if (!rc && memcmp(mine, token, 16))
			rc = err_set(e, -EPERM, "%.200s is not the image of the node that serves: what lies beside it is another's",
				     d->path[i]);
	}
	return rc;
}

int disk_shared_message(struct disk *d, uint8_t type, const uint8_t *payload, uint32_t len, struct err *e)
{
	struct shared_peer peer = disk_shared_peer;
	char sentence[SENTENCE_MAX + 1];
	struct err why = { 0 };
	int rc;

	if (type == SHR_TOKEN && len == 16 && d->standby && !d->serves) {
		rc = joins(d, payload, &why);
		if (!rc) {
			memcpy(d->token, payload, 16);
			d->paired = true;
			d->claimed = false;
		}
		if (d->ops.send_sync(d->ops.arg, 0, rc ? SHR_REFUSE : SHR_OK, (const uint8_t *)why.msg,
				     rc ? (uint32_t)strnlen(why.msg, SENTENCE_MAX) : 0))
			return -EPIPE;
		if (rc)
			disk_fail(d, rc, why.msg);
		else
			log_note("the disks are shared with the peer");
		return 0;
	}
	if (type == SHR_OK && !len && d->keep && d->job_on[DISK_RESYNC]) {
		peer.arg = d;
		d->alone = false;
		shared_serve_peer(d->keep, &peer);
		disk_job_done(d, DISK_RESYNC, 0, NULL);
		return 0;
	}
	if (type == SHR_REFUSE && len && len <= SENTENCE_MAX && d->keep && d->job_on[DISK_RESYNC]) {
		for (uint32_t i = 0; i < len; i++)
			sentence[i] = payload[i] >= ' ' && payload[i] < 127 ? (char)payload[i] : '?';
		sentence[len] = 0;
		disk_job_done(d, DISK_RESYNC, -EPERM, sentence);
		return 0;
	}
	return err_set(e, -EPROTO, "a message about shared images of type %u and %u bytes cannot be now", type, len);
}

/* Standing by */

int disk_claim(struct disk *d, struct err *e)
{
	return d->paired ? claim(d, e) : err_set(e, -EINVAL, "this node was never part of a pair");
}

bool disk_peer_writes(struct disk *d)
{
	for (unsigned int i = 0; i < d->n; i++)
		if (store_role_held(d->store[i], true))
			return true;
	return false;
}

void disk_shared_promote(struct disk *d)
{
	struct err e = { 0 };

	for (unsigned int i = 0; i < d->n; i++)
		if (store_serves(d->store[i], &e))
			log_warn("%s", e.msg);
	if (new_token(d, &e))
		log_warn("%s", e.msg);
}

/* The end of a node that serves, before it says that it has ended */

static void look(struct loop_timer *t)
{
	struct disk *d = t->arg;
	struct shared_serve_stats st;

	shared_serve_stats(d->keep, &st);
	if (st.requests) {
		loop_timer_set(d->loop, &d->silence, loop_now(d->loop) + SILENCE_LOOK);
		return;
	}
	pthread_mutex_lock(&d->lock);
	d->is_silent = true;
	pthread_cond_broadcast(&d->closed);
	pthread_mutex_unlock(&d->lock);
}

static void silence(void *arg, const void *data, size_t len)
{
	struct disk *d = arg;

	if (!d->keep || d->silencing)
		return;
	d->silencing = true;
	shared_serve_silence(d->keep);
	d->silence = (struct loop_timer){ .fn = look, .arg = d };
	look(&d->silence);
}

bool disk_silence(struct disk *d)
{
	struct timespec until;
	bool ok;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += SILENCE_NS / NS_PER_S;
	loop_post(d->loop, silence, d, NULL, 0);
	pthread_mutex_lock(&d->lock);
	while (!d->is_silent && pthread_cond_clockwait(&d->closed, &d->lock, CLOCK_MONOTONIC, &until) != ETIMEDOUT)
		;
	ok = d->is_silent;
	pthread_mutex_unlock(&d->lock);
	return ok;
}
