/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/io.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "disk/io_internal.h"

struct io {
	struct io_threads *threads;
	struct io_ring *ring;		/* NULL: threads do everything */
	unsigned int in_threads, in_ring;
	struct io_job *wait, **wait_end;
};

static int choose(enum store_io *how, struct err *e)
{
	const char *s = getenv("LOCKSTEP_DISK_IO");

	if (*how != STORE_IO_AUTO || !s || !*s)
		return 0;
	if (!strcmp(s, "uring"))
		*how = STORE_IO_URING;
	else if (!strcmp(s, "threads"))
		*how = STORE_IO_THREADS;
	else
		return err_set(e, -EINVAL, "LOCKSTEP_DISK_IO=%.40s: it is uring or threads", s);
	return 0;
}

struct io *io_new(struct loop *l, enum store_io how, struct err *e)
{
	struct io *io;
	struct err why = { 0 };

	if (choose(&how, e))
		return NULL;
	io = calloc(1, sizeof(*io));
	if (!io) {
		err_set(e, -ENOMEM, "no memory for disk I/O");
		return NULL;
	}
	io->wait_end = &io->wait;
	io->threads = io_threads_new(l, io, e);
	if (!io->threads)
		goto fail;
	if (how != STORE_IO_THREADS) {
		io->ring = io_ring_new(l, io, &why);
		if (!io->ring && how == STORE_IO_URING) {
			err_set(e, why.code, "%s", why.msg);
			goto fail;
		}
		if (!io->ring)
			log_debug("disk I/O by threads: %s", why.msg);
	}
	return io;
fail:
	io_threads_free(io->threads);
	free(io);
	return NULL;
}

static void start(struct io *io, struct io_job *j)
{
	j->in_ring = io->ring && j->kind != IO_CALL;
	if (j->in_ring) {
		io->in_ring++;
		io_ring_start(io->ring, j);
	} else {
		io->in_threads++;
		io_threads_start(io->threads, j);
	}
}

void io_submit(struct io *io, struct io_job *j)
{
	j->next = NULL;
	j->did = 0;
	j->rc = 0;
	if (io->in_threads + io->in_ring < IO_IN_FLIGHT) {
		start(io, j);
		return;
	}
	*io->wait_end = j;
	io->wait_end = &j->next;
}

void io_to_threads(struct io *io, struct io_job *j)
{
	j->in_ring = false;
	io->in_ring--;
	io->in_threads++;
	io_threads_start(io->threads, j);
}

void io_done(struct io *io, struct io_job *j)
{
	struct io_job *w = io->wait;

	if (j->in_ring)
		io->in_ring--;
	else
		io->in_threads--;
	if (w) {
		io->wait = w->next;
		if (!io->wait)
			io->wait_end = &io->wait;
		w->next = NULL;
		start(io, w);
	}
	j->done(j, j->rc);
}

void io_free(struct io *io)
{
	if (!io)
		return;
	while (io->in_ring || io->in_threads)
		if (io->in_threads)
			io_threads_wait(io->threads);
		else
			io_ring_wait(io->ring);
	io_ring_free(io->ring);
	io_threads_free(io->threads);
	free(io);
}

const char *io_name(const struct io *io)
{
	return io->ring ? "io_uring" : "threads";
}
