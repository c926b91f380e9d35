/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state file of a node: theory of operation
 *
 *	lockstep-state 1
 *	vm web
 *	node 00112233445566778899aabbccddeeff
 *	generation 7
 *	mode pair
 *
 * It is written to a file beside it, made durable, renamed over the old one, and the directory made durable: after a crash
 * it is the old one or the new one. What it says is written before it becomes true where that is the safe side (pair, before a
 * peer can have all that it needs), and after it has become true where that is (alone, once the witness has granted it).
 * NAME.state.lock is locked as long as the file is in use, for two processes that both believe it to be theirs would be one
 * node twice. A file that cannot be understood is an error, and never taken for a new one.
 *
 * Control loop, and before it runs.
 */
#include "cluster/nodestate.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/syncdir.h"

#define FILE_MAX 512	/* bytes of the file */

struct nodestate {
	struct nodestate_record r;
	int lock;
	char path[PATH_MAX], name[64];
};

static const char *const modes[NODESTATE_MODES] = { "new", "alone", "pair", "standby", "ended" };

const char *nodestate_mode_name(enum nodestate_mode m)
{
	return (unsigned int)m < NODESTATE_MODES ? modes[m] : "?";
}

enum nodestate_mode nodestate_after(enum nodestate_mode was, enum ft_reason why)
{
	switch (why) {
	case FT_WHY_PEER_TOOK_OVER:
	case FT_WHY_SWITCH:
		return NODESTATE_STANDBY;
	case FT_WHY_GUEST_OFF:
		return was == NODESTATE_ALONE || was == NODESTATE_PAIR ? NODESTATE_ENDED : was;
	case FT_WHY_QUIT:
		return was == NODESTATE_ALONE ? NODESTATE_ENDED : was;
	default:
		return was;
	}
}

static int write_file(const struct nodestate *s, const struct nodestate_record *r, struct err *e)
{
	char tmp[PATH_MAX + 8], text[FILE_MAX], id[2 * NODESTATE_ID_LEN + 1];
	int fd, n, rc = 0;

	for (int i = 0; i < NODESTATE_ID_LEN; i++)
		snprintf(id + 2 * i, 3, "%02x", r->id[i]);
	n = snprintf(text, sizeof(text), "lockstep-state 1\nvm %s\nnode %s\ngeneration %u\nmode %s\n", s->name, id, r->generation,
		     modes[r->mode]);
	snprintf(tmp, sizeof(tmp), "%s.new", s->path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_set(e, -errno, "%.200s cannot be written: %s", tmp, strerror(errno));
	errno = 0;
	if (write(fd, text, (size_t)n) != n || fsync(fd) < 0)
		rc = err_set(e, errno ? -errno : -ENOSPC, "%.200s cannot be written: %s", tmp, strerror(errno ? errno : ENOSPC));
	close(fd);
	if (!rc && rename(tmp, s->path) < 0)
		rc = err_set(e, -errno, "%.200s cannot be replaced: %s", s->path, strerror(errno));
	if (rc) {
		unlink(tmp);
		return rc;
	}
	rc = sync_dir_of(s->path);
	/* Some file systems have no such thing, and need none. */
	return rc && rc != -EINVAL ? err_set(e, rc, "the directory of %.200s cannot be made durable: %s", s->path, strerror(-rc)) : 0;
}

static int nibble(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_id(const char *text, uint8_t *id)
{
	for (int i = 0; i < NODESTATE_ID_LEN; i++) {
		int hi = nibble(text[2 * i]), lo = hi < 0 ? -1 : nibble(text[2 * i + 1]);

		if (lo < 0)
			return false;
		id[i] = (uint8_t)(hi << 4 | lo);
	}
	return !text[2 * NODESTATE_ID_LEN];
}

static int parse(struct nodestate *s, const char *text, struct err *e)
{
	char vm[64], id[64], mode[16], end;
	unsigned int generation;

	if (sscanf(text, "lockstep-state 1\nvm %63s\nnode %63s\ngeneration %10u\nmode %15s%c", vm, id, &generation, mode, &end) != 5 ||
	    end != '\n' || !parse_id(id, s->r.id))
		return err_set(e, -EBADMSG, "%.200s is not a state file of lockstep, or was written by another version", s->path);
	if (strcmp(vm, s->name))
		return err_set(e, -EBADMSG, "%.200s is of another VM, %s", s->path, vm);
	s->r.generation = generation;
	for (int m = 0; m < NODESTATE_MODES; m++)
		if (!strcmp(mode, modes[m])) {
			s->r.mode = (enum nodestate_mode)m;
			return 0;
		}
	return err_set(e, -EBADMSG, "%.200s has a mode that is none: %s", s->path, mode);
}

static int load(struct nodestate *s, struct err *e)
{
	char text[FILE_MAX + 1];
	int fd = open(s->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n;

	if (fd < 0 && errno == ENOENT) {
		if (getrandom(s->r.id, sizeof(s->r.id), 0) != sizeof(s->r.id))
			return err_set(e, -EIO, "the kernel gives no random bytes");
		return write_file(s, &s->r, e);
	}
	if (fd < 0)
		return err_set(e, -errno, "%.200s cannot be read: %s", s->path, strerror(errno));
	n = read(fd, text, FILE_MAX);
	close(fd);
	if (n < 0)
		return err_set(e, -EIO, "%.200s cannot be read", s->path);
	text[n] = 0;
	return parse(s, text, e);
}

/* The directory and what is missing above it. */
static int make_dir(const char *dir, struct err *e)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s", dir);
	for (char *p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(path, 0755) < 0 && errno != EEXIST)
			return err_set(e, -errno, "%.200s cannot be made: %s", path, strerror(errno));
		*p = '/';
	}
	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return err_set(e, -errno, "%.200s cannot be made: %s", path, strerror(errno));
	return 0;
}

struct nodestate *nodestate_open(const char *dir, const char *name, struct err *e)
{
	struct nodestate *s = calloc(1, sizeof(*s));
	char lock[PATH_MAX + 8];
	int rc;

	if (!s) {
		err_set(e, -ENOMEM, "no memory for the state");
		return NULL;
	}
	s->lock = -1;
	snprintf(s->name, sizeof(s->name), "%s", name);
	if (snprintf(s->path, sizeof(s->path), "%s/%s.state", dir, name) >= (int)sizeof(s->path))
		rc = err_set(e, -ENAMETOOLONG, "the state directory's name is too long");
	else
		rc = make_dir(dir, e);
	if (!rc) {
		snprintf(lock, sizeof(lock), "%s.lock", s->path);
		s->lock = open(lock, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (s->lock < 0)
			rc = err_set(e, -errno, "%.200s cannot be opened: %s", lock, strerror(errno));
		else if (flock(s->lock, LOCK_EX | LOCK_NB) < 0)
			rc = err_set(e, errno == EWOULDBLOCK ? -EBUSY : -errno, "%.200s: %s", s->path, errno == EWOULDBLOCK ?
				     "another process is this node of the VM already" : strerror(errno));
	}
	if (!rc)
		rc = load(s, e);
	if (rc) {
		nodestate_close(s);
		return NULL;
	}
	return s;
}

void nodestate_close(struct nodestate *s)
{
	if (!s)
		return;
	if (s->lock >= 0)
		close(s->lock);
	free(s);
}

const struct nodestate_record *nodestate_get(const struct nodestate *s)
{
	return &s->r;
}

int nodestate_set(struct nodestate *s, uint32_t generation, enum nodestate_mode mode, struct err *e)
{
	struct nodestate_record r = s->r;
	int rc;

	if (r.generation == generation && r.mode == mode)
		return 0;
	r.generation = generation;
	r.mode = mode;
	rc = write_file(s, &r, e);
	if (!rc)
		s->r = r;
	return rc;
}
