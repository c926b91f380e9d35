/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_IO_H
#define DISK_IO_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "disk/store.h"

/*
 * File I/O that does not block the disk loop: by io_uring or by threads; what io_uring has no word for is always done by
 * threads. Jobs run in parallel and in no order. All calls from the disk loop, where done() is called too.
 */
struct io;

#define IO_IN_FLIGHT	128u	/* jobs under way; more wait here, in order */
#define IO_THREADS	8u	/* threads at most, started when needed */

enum io_kind {
	IO_READ,	/* all of @len, beyond the end of the file zeroes */
	IO_WRITE,
	IO_SYNC,	/* fdatasync */
	IO_CALL,	/* @call, in a thread */
};

struct io_job {
	enum io_kind kind;
	int fd;
	uint64_t off;
	uint32_t len;
	uint8_t *buf;
	bool dsync;			/* WRITE: durable when done */
	int (*call)(struct io_job *j);	/* CALL: may block. Return: what done() gets */
	void (*done)(struct io_job *j, int rc); /* 0 or -errno; never from inside io_submit(); the job is the caller's again */
	void *arg;

	/* private */
	struct io_job *next;
	uint32_t did;
	bool in_ring;
	int rc;
};

/*
 * io_new() - @how: STORE_IO_URING where it is forbidden or missing is an error, AUTO goes on with threads
 * Return: NULL with @e filled
 */
struct io *io_new(struct loop *l, enum store_io how, struct err *e);

/* io_free() - wait for all jobs, calling done() for each */
void io_free(struct io *io);

void io_submit(struct io *io, struct io_job *j);

/* io_name() - "io_uring" or "threads" */
const char *io_name(const struct io *io);

#endif
