/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * File I/O by io_uring. The ring's descriptor is readable when something is finished, and the disk loop watches it. There
 * is room in the ring for all jobs that can be under way (IO_IN_FLIGHT), so an entry is always free. What is started by
 * those who hear of a finished job is handed to the kernel all together.
 *
 * What the kernel does not take this way (an old one, a file system without RWF_DSYNC) the threads do.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>

#include "disk/io_internal.h"

#define RETRY	(5 * NS_PER_MS)	/* when the kernel had no memory to take jobs */

struct io_ring {
	struct io *io;
	struct loop *loop;
	struct loop_fd watch;
	struct loop_timer retry;
	struct io_uring ring;
	bool reaping;
};

static void hand_over(struct io_ring *r)
{
	int rc;

	do
		rc = io_uring_submit(&r->ring);
	while (rc == -EINTR);
	if (rc < 0)
		loop_timer_set(r->loop, &r->retry, clock_ns() + RETRY);
}

static void hand_over_again(struct loop_timer *t)
{
	hand_over(t->arg);
}

void io_ring_start(struct io_ring *r, struct io_job *j)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);

	if (!sqe) {
		io_to_threads(r->io, j);
		return;
	}
	switch (j->kind) {
	case IO_READ:
		io_uring_prep_read(sqe, j->fd, j->buf + j->did, j->len - j->did, j->off + j->did);
		break;
	case IO_WRITE:
		io_uring_prep_write(sqe, j->fd, j->buf + j->did, j->len - j->did, j->off + j->did);
		sqe->rw_flags = j->dsync ? RWF_DSYNC : 0;
		break;
	default:
		io_uring_prep_fsync(sqe, j->fd, IORING_FSYNC_DATASYNC);
		break;
	}
	io_uring_sqe_set_data(sqe, j);
	if (!r->reaping)
		hand_over(r);
}

static void finish(struct io_ring *r, struct io_job *j, int res)
{
	if (res == -EOPNOTSUPP || res == -EINVAL || res == -EAGAIN || res == -EINTR) {
		io_to_threads(r->io, j);
		return;
	}
	if (res >= 0 && j->kind != IO_SYNC) {
		j->did += (uint32_t)res;
		if (j->did < j->len && res) {
			io_ring_start(r, j);
			return;
		}
		if (j->did < j->len && j->kind == IO_READ)
			memset(j->buf + j->did, 0, j->len - j->did);
		res = j->did < j->len && j->kind == IO_WRITE ? -EIO : 0;
	}
	j->rc = res < 0 ? res : 0;
	io_done(r->io, j);
}

static void reap(struct io_ring *r)
{
	struct io_uring_cqe *cqe;

	r->reaping = true;
	/* At most so many in a turn, so that others have theirs. */
	for (unsigned int i = 0; i < IO_IN_FLIGHT && !io_uring_peek_cqe(&r->ring, &cqe); i++) {
		struct io_job *j = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&r->ring, cqe);
		finish(r, j, res);
	}
	r->reaping = false;
	if (io_uring_sq_ready(&r->ring))
		hand_over(r);
}

static void ready(struct loop_fd *w, uint32_t events)
{
	reap(w->arg);
}

static bool has_all(struct io_uring *ring)
{
	struct io_uring_probe *p = io_uring_get_probe_ring(ring);
	bool yes = p && io_uring_opcode_supported(p, IORING_OP_READ) && io_uring_opcode_supported(p, IORING_OP_WRITE) &&
		   io_uring_opcode_supported(p, IORING_OP_FSYNC);

	io_uring_free_probe(p);
	return yes;
}

struct io_ring *io_ring_new(struct loop *l, struct io *io, struct err *e)
{
	struct io_ring *r = calloc(1, sizeof(*r));
	int rc;

	if (!r) {
		err_set(e, -ENOMEM, "no memory for io_uring");
		return NULL;
	}
	rc = io_uring_queue_init(IO_IN_FLIGHT, &r->ring, 0);
	if (rc) {
		err_set(e, rc, "io_uring cannot be used here (%s)", rc == -EPERM ? "it is forbidden" : strerror(-rc));
		free(r);
		return NULL;
	}
	r->io = io;
	r->loop = l;
	r->retry = (struct loop_timer){ .fn = hand_over_again, .arg = r };
	r->watch = (struct loop_fd){ .fd = r->ring.ring_fd, .fn = ready, .arg = r };
	if (!has_all(&r->ring))
		err_set(e, rc = -ENOTSUP, "this kernel's io_uring is too old");
	else if ((rc = loop_fd_add(l, &r->watch, EPOLLIN)))
		err_set(e, rc, "cannot watch io_uring: %s", strerror(-rc));
	if (!rc)
		return r;
	io_uring_queue_exit(&r->ring);
	free(r);
	return NULL;
}

void io_ring_free(struct io_ring *r)
{
	if (!r)
		return;
	loop_timer_del(r->loop, &r->retry);
	loop_fd_del(r->loop, &r->watch);
	io_uring_queue_exit(&r->ring);
	free(r);
}

void io_ring_wait(struct io_ring *r)
{
	struct io_uring_cqe *cqe;

	hand_over(r);
	io_uring_wait_cqe(&r->ring, &cqe);
	reap(r);
}
