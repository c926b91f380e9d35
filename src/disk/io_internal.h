/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_IO_INTERNAL_H
#define DISK_IO_INTERNAL_H

/* Between io.c and the two ways of doing it; nobody else includes this. */
#include "disk/io.h"

/* io_done() - a job is finished, j->rc is set; disk loop */
void io_done(struct io *io, struct io_job *j);
/* io_to_threads() - have the threads do a job that io_uring did not take; disk loop */
void io_to_threads(struct io *io, struct io_job *j);

struct io_threads;
struct io_threads *io_threads_new(struct loop *l, struct io *io, struct err *e);
/* io_threads_free() - nothing may be under way; NULL is fine */
void io_threads_free(struct io_threads *t);
void io_threads_start(struct io_threads *t, struct io_job *j);
/* io_threads_wait() - wait until something is finished and finish it; something must be under way */
void io_threads_wait(struct io_threads *t);

struct io_ring;
struct io_ring *io_ring_new(struct loop *l, struct io *io, struct err *e);
void io_ring_free(struct io_ring *r);
void io_ring_start(struct io_ring *r, struct io_job *j);
void io_ring_wait(struct io_ring *r);

#endif
