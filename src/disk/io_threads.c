/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * File I/O by threads: a queue of jobs under a lock, threads that are started while jobs find nobody idle, a list of
 * finished ones, and an eventfd that wakes the disk loop. The threads touch a job and nothing else. Lock order: one lock.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <poll.h>
#include <unistd.h>

#include "base/sandbox.h"

#include "disk/io_internal.h"

struct io_threads {
	struct io *io;
	struct loop *loop;
	struct loop_fd watch;
	pthread_t thread[IO_THREADS];
	unsigned int n;			/* threads that run */

	pthread_mutex_t lock;		/* guards what follows */
	pthread_cond_t more;
	struct io_job *todo, **todo_end;
	struct io_job *finished, **finished_end;
	unsigned int idle, queued;
	bool end;
};

static int write_all(struct io_job *j)
{
	struct iovec v;
	ssize_t n;
	bool sync = false;

	while (j->did < j->len) {
		v = (struct iovec){ j->buf + j->did, j->len - j->did };
		n = pwritev2(j->fd, &v, 1, (off_t)(j->off + j->did), j->dsync && !sync ? RWF_DSYNC : 0);
		if (n < 0 && errno == EOPNOTSUPP && j->dsync && !sync) {
			sync = true;
			continue;
		}
		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n)
			return -EIO;
		if (n > 0)
			j->did += (uint32_t)n;
	}
	return sync && fdatasync(j->fd) ? -errno : 0;
}

static int read_all(struct io_job *j)
{
	while (j->did < j->len) {
		ssize_t n = pread(j->fd, j->buf + j->did, j->len - j->did, (off_t)(j->off + j->did));

		if (n < 0 && errno != EINTR)
			return -errno;
		if (!n) {
			memset(j->buf + j->did, 0, j->len - j->did);
			return 0;
		}
		if (n > 0)
			j->did += (uint32_t)n;
	}
	return 0;
}

static int perform(struct io_job *j)
{
	switch (j->kind) {
	case IO_READ:
		return read_all(j);
	case IO_WRITE:
		return write_all(j);
	case IO_SYNC:
		return fdatasync(j->fd) ? -errno : 0;
	case IO_CALL:
		return j->call(j);
	}
	return -EINVAL;
}

static void *work(void *arg)
{
	struct io_threads *t = arg;
	const uint64_t one = 1;

	prctl(PR_SET_NAME, "disk-io");
	pthread_mutex_lock(&t->lock);
	for (;;) {
		struct io_job *j;
		bool first;

		while (!t->todo && !t->end) {
			t->idle++;
			pthread_cond_wait(&t->more, &t->lock);
			t->idle--;
		}
		j = t->todo;
		if (!j)
			break;
		t->todo = j->next;
		if (!t->todo)
			t->todo_end = &t->todo;
		t->queued--;
		pthread_mutex_unlock(&t->lock);
		j->rc = perform(j);
		pthread_mutex_lock(&t->lock);
		first = !t->finished;
		j->next = NULL;
		*t->finished_end = j;
		t->finished_end = &j->next;
		if (first && write(t->watch.fd, &one, sizeof(one)) < 0)
			continue;	/* its counter cannot be full: it is read each time */
	}
	pthread_mutex_unlock(&t->lock);
	return NULL;
}

static void harvest(struct io_threads *t)
{
	struct io_job *j, *next;
	uint64_t n;

	pthread_mutex_lock(&t->lock);
	/* Read under the lock: whoever finds the list empty writes again. */
	if (read(t->watch.fd, &n, sizeof(n)) < 0)
		n = 0;
	j = t->finished;
	t->finished = NULL;
	t->finished_end = &t->finished;
	pthread_mutex_unlock(&t->lock);
	for (; j; j = next) {
		next = j->next;
		io_done(t->io, j);
	}
}

static void ready(struct loop_fd *w, uint32_t events)
{
	harvest(w->arg);
}

/* One more thread; signals are not for it. */
static int grow(struct io_threads *t)
{
	sigset_t all, old;
	int rc;

	sandbox_block(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&t->thread[t->n], NULL, work, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!rc)
		t->n++;
	return -rc;
}

struct io_threads *io_threads_new(struct loop *l, struct io *io, struct err *e)
{
	struct io_threads *t = calloc(1, sizeof(*t));
	int rc;

	if (!t) {
		err_set(e, -ENOMEM, "no memory for disk I/O");
		return NULL;
	}
	t->io = io;
	t->loop = l;
	t->todo_end = &t->todo;
	t->finished_end = &t->finished;
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->more, NULL);
	t->watch = (struct loop_fd){ .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .fn = ready, .arg = t };
	if (t->watch.fd < 0) {
		err_set(e, -errno, "cannot make an eventfd for disk I/O: %s", strerror(errno));
		goto fail;
	}
	/* The first one now, so that a job always finds somebody. */
	rc = grow(t);
	if (!rc)
		rc = loop_fd_add(l, &t->watch, EPOLLIN);
	if (rc) {
		err_set(e, rc, "cannot start a thread for disk I/O: %s", strerror(-rc));
		goto fail;
	}
	return t;
fail:
	t->loop = NULL;
	io_threads_free(t);
	return NULL;
}

void io_threads_free(struct io_threads *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->lock);
	t->end = true;
	pthread_cond_broadcast(&t->more);
	pthread_mutex_unlock(&t->lock);
	for (unsigned int i = 0; i < t->n; i++)
		pthread_join(t->thread[i], NULL);
	if (t->loop)
		loop_fd_del(t->loop, &t->watch);
	if (t->watch.fd >= 0)
		close(t->watch.fd);
	pthread_mutex_destroy(&t->lock);
	pthread_cond_destroy(&t->more);
	free(t);
}

void io_threads_start(struct io_threads *t, struct io_job *j)
{
	bool busy;

	pthread_mutex_lock(&t->lock);
	j->next = NULL;
	*t->todo_end = j;
	t->todo_end = &j->next;
	busy = ++t->queued > t->idle;
	pthread_cond_signal(&t->more);
	pthread_mutex_unlock(&t->lock);
	/* Where no more threads are to be had, those that run do it. */
	if (busy && t->n < IO_THREADS)
		grow(t);
}

void io_threads_wait(struct io_threads *t)
{
	struct pollfd p = { .fd = t->watch.fd, .events = POLLIN };

	poll(&p, 1, -1);
	harvest(t);
}
