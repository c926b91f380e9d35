/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Images of other formats: theory of operation
 *
 * A qemu-storage-daemon has the image open, locks it as QEMU does, and serves it by NBD on a socket that has no name any
 * more when it gets it: we make the socket, connect to it, take its name away and hand the listening end on. So nobody
 * else reaches it, nothing is left behind, and there is nothing to wait for: the handshake is answered when the image is
 * open, and the connection ends when that has failed.
 *
 * libnbd's calls do not wait; its descriptor is watched in the disk loop, which drives it. A completion callback runs with
 * libnbd's lock held, so it only puts the request into a list, and done() is called after libnbd has returned.
 *
 * A ZERO or TRIM is under way only while no WRITE is, and alone. With QEMU 7.2's qcow2, random requests that do not overlap
 * soon read what was written to another cluster when a ZERO runs beside writes (the test finds it in one run of five).
 * It widens a ZERO of a part of a cluster to all of it when the rest reads as zeroes; it seems that the space is then
 * taken away from under a write to that rest that is not finished.
 *
 * A ZERO that must be fast is refused: QEMU may have zeroed a part of it when it says that it cannot be, which the promise
 * does not allow. But of whole clusters of a qcow2 image that has marks for zeroed ones (version 3) it is never anything but
 * that mark, so it is let through there; trim_grain says so.
 *
 * The end of the connection and the end of the daemon are the same thing here: either is made to follow the other. All
 * requests get -EIO from then on, and the owner hears of it once, when it is known how the daemon ended.
 */
#include <errno.h>
#include <libnbd.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "disk/imagelock.h"
#include "disk/qsd_child.h"
#include "disk/qsd_space.h"
#include "disk/store_internal.h"

#define IN_FLIGHT	64u			/* commands given to libnbd; more requests wait here, in order */
#define START_MS	30000u			/* an image that takes longer to open */
#define STOP_MS		10000u			/* a daemon that takes longer to end is killed */
#define DRAIN_MS	30000u			/* requests that take longer at the end fail */
#define PIECE		(1ull << 30)		/* of ZERO, TRIM, STATUS: the protocol has 32 bits for lengths */
#define PIECE_CACHE	(32ull << 20)		/* most that QEMU takes */
#define CLUSTER		(64u << 10)		/* of an image whose clusters nobody has looked up */
#define EXPORT		"disk"

struct qsd {
	struct store store;
	struct loop *loop;
	struct qsd_child *child;
	struct qsd_space space;
	struct nbd_handle *nbd;
	struct loop_fd nbd_watch, child_watch;
	bool watching_nbd, watching_child;
	uint32_t events;
	unsigned int in_flight;
	unsigned int writes, zeroing;	/* requests under way: WRITE; ZERO and TRIM, at most one */
	struct blk_req *wait, **wait_end;
	struct blk_req *finished, **finished_end;
	bool busy;			/* inside libnbd or delivering: what is submitted now is driven by who is there */
	bool dead, told;
	void (*failed)(void *arg, const char *sentence);
	void *arg;
};

/* Of a request: @num is how much of it is done or under way; @priv the qsd, and once it is finished the result. */

static void drive(struct qsd *q);

static void put(struct blk_req ***end, struct blk_req *r)
{
	r->next = NULL;
	**end = r;
	*end = &r->next;
}

static int completed(void *arg, int *error)
{
	struct blk_req *r = arg;
	struct qsd *q = r->priv;

	q->in_flight--;
	/* The result takes the place of the pointer: the list is ours alone. */
	r->priv = (void *)(intptr_t)(*error == ENOTCONN || *error == ESHUTDOWN ? -EIO : -*error);
	put(&q->finished_end, r);
	return 1;
}

static int extents(void *arg, const char *context, uint64_t off, uint32_t *e, size_t n, int *error)
{
	struct blk_req *r = arg;
	uint64_t at = off, end = r->off + r->len;
	unsigned int k = 0;

	for (size_t i = 0; i + 1 < n && k < r->n_ext && at < end; i += 2) {
		uint64_t len = e[i] < end - at ? e[i] : end - at;

		if (!len)
			continue;
		r->ext[k++] = (struct blk_extent){ .len = len, .flags = e[i + 1] & (LIBNBD_STATE_HOLE | LIBNBD_STATE_ZERO) };
		at += len;
	}
	r->n_ext = k;
	r->num = 1;
	return 0;
}

static uint64_t piece(const struct blk_req *r, uint64_t most)
{
	uint64_t left = r->len - r->num;

	return left < most ? left : most;
}

/* Give libnbd the request, or the next piece of it. Return: 0, -EIO when it does not take it */
static int start(struct qsd *q, struct blk_req *r)
{
	nbd_completion_callback cb = { .callback = completed, .user_data = r };
	uint32_t fua = r->flags & BLK_FUA ? LIBNBD_CMD_FLAG_FUA : 0;
	uint64_t at = r->off + r->num, n;
	int64_t cookie = -1;

	r->priv = q;
	q->in_flight++;
	switch (r->op) {
	case BLK_READ:
		r->num = r->len;
		cookie = nbd_aio_pread(q->nbd, r->buf, r->len, r->off, cb, 0);
		break;
	case BLK_WRITE:
		r->num = r->len;
		cookie = nbd_aio_pwrite(q->nbd, r->buf, r->len, r->off, cb, fua);
		break;
	case BLK_ZERO:
		n = piece(r, PIECE);
		fua |= r->flags & BLK_NO_HOLE ? LIBNBD_CMD_FLAG_NO_HOLE : 0;
		r->num += n;
		cookie = nbd_aio_zero(q->nbd, n, at, cb, fua);
		break;
	case BLK_TRIM:
		n = piece(r, PIECE);
		r->num += n;
		cookie = nbd_aio_trim(q->nbd, n, at, cb, fua);
		break;
	case BLK_CACHE:
		n = piece(r, PIECE_CACHE);
		r->num += n;
		cookie = nbd_aio_cache(q->nbd, n, at, cb, 0);
		break;
	case BLK_FLUSH:
		r->num = q->space.total;
		cookie = nbd_aio_flush(q->nbd, cb, 0);
		break;
	case BLK_STATUS:
		n = piece(r, PIECE);
		cookie = nbd_aio_block_status(q->nbd, n, r->off,
					      (nbd_extent_callback){ .callback = extents, .user_data = r }, cb, 0);
		break;
	}
	if (cookie != -1)
		return 0;
	/* Refused before it was anything: then there is no callback. */
	q->in_flight--;
	log_debug("%s: %s", q->store.path, nbd_get_error());
	return -EIO;
}

static bool unfinished(const struct blk_req *r, int rc)
{
	return !rc && (r->op == BLK_ZERO || r->op == BLK_TRIM || r->op == BLK_CACHE) && r->num < r->len;
}

static bool zeroes(const struct blk_req *r)
{
	return r->op == BLK_ZERO || r->op == BLK_TRIM;
}

/* Whether those that change something let this one begin. */
static bool may_start(const struct qsd *q, const struct blk_req *r)
{
	if (zeroes(r))
		return !q->writes && !q->zeroing;
	return r->op != BLK_WRITE || !q->zeroing;
}

static void finish(struct qsd *q, struct blk_req *r, int rc)
{
	q->writes -= r->op == BLK_WRITE;
	q->zeroing -= zeroes(r);
	if (!rc && r->op == BLK_WRITE)
		qsd_space_written(&q->space, r->len);
	else if (!rc && r->op == BLK_FLUSH)
		qsd_space_flushed(&q->space, r->num);
	r->done(r, rc);
}

static void deliver(struct qsd *q, struct blk_req *r, int rc)
{
	if (unfinished(r, rc)) {
		rc = start(q, r);
		if (!rc)
			return;
	}
	/* Nothing was said of the range. */
	if (!rc && r->op == BLK_STATUS && (!r->num || !r->n_ext))
		rc = -EIO;
	finish(q, r, rc);
}

/* The end of the image is the end of its last cluster. */
static bool is_fast(const struct blk *b, const struct blk_req *r)
{
	uint64_t mask = b->trim_grain - 1, end = r->off + r->len;

	return b->trim_grain && !(r->off & mask) && (!(end & mask) || end == b->size);
}

static void submit(struct blk *b, struct blk_req *r)
{
	struct qsd *q = (struct qsd *)b;
	bool changes = r->op == BLK_WRITE || r->op == BLK_ZERO || r->op == BLK_TRIM;

	if (changes && b->readonly) {
		r->done(r, -EROFS);
		return;
	}
	if (q->dead || (r->op == BLK_ZERO && r->flags & BLK_FAST_ZERO && !is_fast(b, r))) {
		r->done(r, q->dead ? -EIO : -ENOTSUP);
		return;
	}
	r->num = 0;
	put(&q->wait_end, r);
	if (!q->busy)
		drive(q);
}

static const struct blk_ops ops = { .submit = submit };

/* The daemon is gone and how is known, or the connection is: then it shall be gone. */
static void is_dead(struct qsd *q)
{
	q->dead = true;
	if (q->watching_nbd)
		loop_fd_del(q->loop, &q->nbd_watch);
	q->watching_nbd = false;
	qsd_child_signal(q->child, SIGKILL);
}

/* Watch for what libnbd waits for. */
static void watch(struct qsd *q)
{
	unsigned int dir = nbd_aio_get_direction(q->nbd);
	uint32_t events = (dir & LIBNBD_AIO_DIRECTION_READ ? EPOLLIN : 0) | (dir & LIBNBD_AIO_DIRECTION_WRITE ? EPOLLOUT : 0);

	if (!q->watching_nbd || events == q->events)
		return;
	q->events = events;
	loop_fd_mod(q->loop, &q->nbd_watch, events);
}

/* Start what waits and call done() for what is finished, until neither makes more. */
static void drive(struct qsd *q)
{
	struct blk_req *r;

	q->busy = true;
	for (;;) {
		if (!q->dead && (nbd_aio_is_dead(q->nbd) || nbd_aio_is_closed(q->nbd)))
			is_dead(q);
		if ((r = q->finished)) {
			q->finished = r->next;
			if (!q->finished)
				q->finished_end = &q->finished;
			deliver(q, r, (int)(intptr_t)r->priv);
		} else if ((r = q->wait) && (q->dead || (q->in_flight < IN_FLIGHT && may_start(q, r)))) {
			int rc;

			q->wait = r->next;
			if (!q->wait)
				q->wait_end = &q->wait;
			q->writes += r->op == BLK_WRITE;
			q->zeroing += zeroes(r);
			rc = q->dead ? -EIO : start(q, r);
			if (rc)
				finish(q, r, rc);
		} else {
			break;
		}
	}
	q->busy = false;
	watch(q);
}

static void notify(struct qsd *q, bool readable, bool writable)
{
	unsigned int dir = nbd_aio_get_direction(q->nbd);

	/* One of them only: after the first, the direction may be another. What fails is seen in the state. */
	if (readable && dir & LIBNBD_AIO_DIRECTION_READ)
		nbd_aio_notify_read(q->nbd);
	else if (writable && dir & LIBNBD_AIO_DIRECTION_WRITE)
		nbd_aio_notify_write(q->nbd);
}

static void nbd_ready(struct loop_fd *w, uint32_t events)
{
	struct qsd *q = w->arg;

	q->busy = true;
	notify(q, events & (EPOLLIN | EPOLLERR | EPOLLHUP), events & EPOLLOUT);
	/* A closed connection while it wants to write. */
	if (events & (EPOLLERR | EPOLLHUP) && !(nbd_aio_get_direction(q->nbd) & LIBNBD_AIO_DIRECTION_READ))
		nbd_aio_notify_write(q->nbd);
	drive(q);
}

static void child_ended(struct loop_fd *w, uint32_t events)
{
	struct qsd *q = w->arg;
	char how[64], sentence[300];

	loop_fd_del(q->loop, &q->child_watch);
	q->watching_child = false;
	/* What it has answered before it ended is still in the connection; its end comes behind that. */
	for (unsigned int i = 0; i < 4096 && !nbd_aio_is_dead(q->nbd) && !nbd_aio_is_closed(q->nbd); i++) {
		struct pollfd p = { .fd = nbd_aio_get_fd(q->nbd), .events = POLLIN };

		if (poll(&p, 1, 0) <= 0)
			break;
		q->busy = true;
		notify(q, true, true);
		drive(q);
	}
	if (!q->dead)
		is_dead(q);
	drive(q);
	qsd_child_status(q->child, how, sizeof(how));
	snprintf(sentence, sizeof(sentence), "%.150s: its qemu-storage-daemon %s", q->store.path, how);
	if (!q->told && q->failed) {
		q->told = true;
		q->failed(q->arg, sentence);
	}
}

static void reserve(struct store *s, uint64_t off, uint64_t len, void (*done)(void *arg, int rc), void *arg)
{
	struct qsd *q = (struct qsd *)s;

	if (s->blk.readonly || q->dead) {
		done(arg, q->dead ? -EIO : -EROFS);
		return;
	}
	q->space.path = s->path;	/* store.c's, and so not known when this was opened */
	qsd_space_reserve(&q->space, off, len, done, arg);
}

static void free_qsd(struct qsd *q)
{
	if (q->watching_nbd)
		loop_fd_del(q->loop, &q->nbd_watch);
	if (q->watching_child)
		loop_fd_del(q->loop, &q->child_watch);
	if (q->nbd)
		nbd_close(q->nbd);
	qsd_child_free(q->child, STOP_MS);
	free(q);
}

static void close_qsd(struct store *s)
{
	struct qsd *q = (struct qsd *)s;
	nstime end = clock_ns() + DRAIN_MS * NS_PER_MS;

	while (q->in_flight || q->finished || q->wait) {
		/* With its end the connection ends, and libnbd gives everything back. */
		if (clock_ns() >= end)
			qsd_child_signal(q->child, SIGKILL);
		q->busy = true;
		if (!q->dead)
			nbd_poll(q->nbd, 100);
		drive(q);
	}
	if (!q->dead)
		nbd_shutdown(q->nbd, 0);
	free_qsd(q);
}

static const char *name_of_io(const struct store *s)
{
	return "qemu-storage-daemon";
}

static const struct store_kind kind = { .reserve = reserve, .close = close_qsd, .io_name = name_of_io };

/* Beside QEMU, or in PATH. */
static int find_program(const char *qemu, char *path, struct err *e)
{
	const char *dirs = getenv("PATH"), *end, *slash = qemu ? strrchr(qemu, '/') : NULL;

	if (slash && snprintf(path, PATH_MAX, "%.*s/qemu-storage-daemon", (int)(slash - qemu), qemu) < PATH_MAX &&
	    !access(path, X_OK))
		return 0;
	for (; dirs && *dirs; dirs = *end ? end + 1 : end) {
		end = strchrnul(dirs, ':');
		if (snprintf(path, PATH_MAX, "%.*s/qemu-storage-daemon", (int)(end - dirs), dirs) < PATH_MAX &&
		    !access(path, X_OK))
			return 0;
	}
	return err_set(e, -ENOENT, "an image that is not raw needs qemu-storage-daemon, and there is none in PATH");
}

static void json_string(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++)
		if (*s == '"' || *s == '\\')
			fprintf(f, "\\%c", *s);
		else if ((unsigned char)*s < 0x20)
			fprintf(f, "\\u%04x", *s);
		else
			fputc(*s, f);
	fputc('"', f);
}

/* Return: what --blockdev gets, to be freed; NULL: no memory */
static char *blockdev(const struct store_cfg *cfg, bool device)
{
	const char *rest = cfg->readonly ? ",\"read-only\":true" : "", *unmap = ",\"discard\":\"unmap\"";
	char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (!f)
		return NULL;
	fprintf(f, "{\"driver\":");
	json_string(f, cfg->format);
	fprintf(f, ",\"node-name\":\"" EXPORT "\"%s%s,\"file\":{\"driver\":\"%s\"%s%s", rest, unmap,
		device ? "host_device" : "file", rest, unmap);
	fprintf(f, ",\"cache\":{\"direct\":%s},\"filename\":", cfg->direct == STORE_DIRECT_ON ? "true" : "false");
	json_string(f, cfg->path);
	fprintf(f, "}}");
	if (fclose(f)) {
		free(text);
		return NULL;
	}
	return text;
}

/* A listening socket without a name, and a connection to it. */
static int make_sockets(const char *dir, int *listener, int *conn, struct err *e)
{
	static _Atomic unsigned int count;
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int rc = -1;

	*listener = *conn = -1;
	if (snprintf(a.sun_path, sizeof(a.sun_path), "%s/qsd-%d-%u", dir ? dir : "/tmp", (int)getpid(), count++) >=
	    (int)sizeof(a.sun_path))
		return err_set(e, -ENAMETOOLONG, "%.200s: this path is too long for a socket", dir);
	*listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	*conn = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (*listener >= 0 && *conn >= 0) {
		unlink(a.sun_path);
		/* Nobody else, from the first moment. */
		fchmod(*listener, 0600);
		if (!bind(*listener, (struct sockaddr *)&a, sizeof(a))) {
			rc = listen(*listener, 1) || connect(*conn, (struct sockaddr *)&a, sizeof(a));
			if (rc)
				err_set(e, -errno, "cannot connect to %.200s: %s", a.sun_path, strerror(errno));
			unlink(a.sun_path);
			if (!rc)
				return 0;
		}
	}
	if (rc < 0)
		err_set(e, -errno, "cannot make the socket %.200s: %s", a.sun_path, strerror(errno));
	if (*listener >= 0)
		close(*listener);
	if (*conn >= 0)
		close(*conn);
	return e && e->code ? e->code : -EIO;
}

/* What the daemon says, without its name and our own words in it, is the sentence. */
static int explain(struct qsd *q, const struct store_cfg *cfg, struct err *e)
{
	struct pollfd p = { .fd = qsd_child_fd(q->child), .events = POLLIN };
	char said[QSD_SAID], who[128], image[256], how[64], *s = said, *open, *shut;

	/* Its connection is closed: it is about to end. */
	if (poll(&p, 1, STOP_MS) <= 0)
		return err_set(e, -ETIMEDOUT, "%.200s: its qemu-storage-daemon does not answer", cfg->path);
	snprintf(said, sizeof(said), "%s", qsd_child_said(q->child));
	if (strstr(said, "\" lock")) {
		open = strchr(said, '[');
		shut = open ? strchr(open, ']') : NULL;
		if (shut)
			snprintf(image, sizeof(image), "%.*s", (int)(shut - open - 1), open + 1);
		else
			snprintf(image, sizeof(image), "%.200s", cfg->path);
		if (!imagelock_holder(image, who, sizeof(who)))
			snprintf(who, sizeof(who), "another process");
		return err_set(e, -EBUSY, "%.200s: the image is in use by %s", image, who);
	}
	if (strstr(said, "}}: "))
		s = strstr(said, "}}: ") + 4;
	else if (!strncmp(said, "qemu-storage-daemon: ", 21))
		s = said + 21;
	s[strcspn(s, "\n")] = 0;
	if (strstr(s, "'driver' does not accept value"))
		return err_set(e, -EINVAL, "%.200s: qemu-storage-daemon knows no format %.40s", cfg->path, cfg->format);
	if (*s)
		return err_set(e, -EINVAL, "%.200s: cannot be opened as %.40s%s%s: %.200s", cfg->path, cfg->format,
			       cfg->as ? " by the user " : "", cfg->as ? cfg->as->name : "", s);
	qsd_child_status(q->child, how, sizeof(how));
	return err_set(e, -EIO, "%.200s: its qemu-storage-daemon %s", cfg->path, how);
}

static int connect_to(struct qsd *q, const struct store_cfg *cfg, int conn, struct err *e)
{
	nstime end = clock_ns() + START_MS * NS_PER_MS;
	int64_t size;

	q->nbd = nbd_create();
	if (!q->nbd || nbd_set_export_name(q->nbd, EXPORT) || nbd_add_meta_context(q->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) ||
	    nbd_set_request_block_size(q->nbd, false)) {
		close(conn);
		return err_set(e, -ENOMEM, "%.200s: %.200s", cfg->path, nbd_get_error());
	}
	if (!nbd_aio_connect_socket(q->nbd, conn))
		while (nbd_aio_is_connecting(q->nbd) && clock_ns() < end)
			if (nbd_poll(q->nbd, 200) < 0)
				break;
	if (!nbd_aio_is_ready(q->nbd))
		return explain(q, cfg, e);
	size = nbd_get_size(q->nbd);
	if (size <= 0 || size % 512)
		return err_set(e, -EINVAL, "%.200s: the disk in it is %s", cfg->path,
			       size ? "no multiple of 512 bytes" : "empty");
	if (!cfg->readonly && nbd_is_read_only(q->nbd))
		return err_set(e, -EROFS, "%.200s: a %.40s image can only be read", cfg->path, cfg->format);
	q->store.blk.size = (uint64_t)size;
	return 0;
}

static int start_daemon(struct qsd *q, const struct store_cfg *cfg, bool device, int *conn, struct err *e)
{
	char path[PATH_MAX], addr[64], export[80], *json;
	int listener = -1;

	if (find_program(cfg->qemu, path, e))
		return e ? e->code : -ENOENT;
	if (make_sockets(cfg->dir, &listener, conn, e))
		return e ? e->code : -EIO;
	json = blockdev(cfg, device);
	snprintf(addr, sizeof(addr), "addr.type=fd,addr.str=%d", QSD_FD);
	snprintf(export, sizeof(export), "type=nbd,id=" EXPORT ",node-name=" EXPORT ",name=" EXPORT ",writable=%s",
		 cfg->readonly ? "off" : "on");
	if (json)
		q->child = qsd_child_start(path, (char *[]){ "qemu-storage-daemon", "--blockdev", json, "--nbd-server", addr,
							     "--export", export, NULL }, listener, cfg->as, e);
	else
		err_set(e, -ENOMEM, "no memory to start %.200s", path);
	free(json);
	/* The daemon has the only one now: it closes when the daemon ends. */
	close(listener);
	if (q->child)
		return 0;
	close(*conn);
	return e ? e->code : -EIO;
}

struct store *store_qsd_open(const struct store_cfg *cfg, const struct stat *st, struct err *e)
{
	struct qsd *q = calloc(1, sizeof(*q));
	int conn, rc;

	if (!q) {
		err_set(e, -ENOMEM, "no memory for the image %.200s", cfg->path);
		return NULL;
	}
	q->loop = cfg->loop;
	q->failed = cfg->failed;
	q->arg = cfg->arg;
	q->wait_end = &q->wait;
	q->finished_end = &q->finished;
	q->store.kind = &kind;
	q->store.direct = cfg->direct == STORE_DIRECT_ON;
	q->store.blk = (struct blk){ .ops = &ops, .align = 1, .pref = 4096, .readonly = cfg->readonly,
				     .trim_grain = qsd_space_grain(cfg->path, cfg->format) };
	q->space = (struct qsd_space){ .blk = &q->store.blk, .endless = S_ISBLK(st->st_mode), .all = !geteuid() && !cfg->as,
				       .cluster = q->store.blk.trim_grain ? q->store.blk.trim_grain : CLUSTER };
	if (start_daemon(q, cfg, S_ISBLK(st->st_mode), &conn, e) || connect_to(q, cfg, conn, e))
		goto fail;
	q->events = EPOLLIN;
	q->nbd_watch = (struct loop_fd){ .fd = nbd_aio_get_fd(q->nbd), .fn = nbd_ready, .arg = q };
	q->child_watch = (struct loop_fd){ .fd = qsd_child_fd(q->child), .fn = child_ended, .arg = q };
	rc = loop_fd_add(q->loop, &q->nbd_watch, q->events);
	q->watching_nbd = !rc;
	if (!rc)
		rc = loop_fd_add(q->loop, &q->child_watch, EPOLLIN);
	q->watching_child = !rc && q->watching_nbd;
	if (!rc)
		return &q->store;
	err_set(e, rc, "%.200s: cannot watch its qemu-storage-daemon: %s", cfg->path, strerror(-rc));
fail:
	free_qsd(q);
	return NULL;
}
