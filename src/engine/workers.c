/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Workers: theory of operation
 *
 * The caller's thread works too, so that a piece of work never waits for a thread to be scheduled: on a busy host it
 * does everything by itself, and the others join when they get a CPU. Chunks are claimed from a counter, so whoever is
 * faster does more. A worker that wakes when the caller has already claimed the last chunk finds the door closed and
 * sleeps again; the caller waits only for those that are inside.
 *
 * Waking a thread costs some tens of microseconds: callers give more than one chunk only where that is little.
 */
#include "engine/workers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/sandbox.h"

struct workers {
	unsigned int n;			/* threads besides the caller's */
	pthread_t thread[WORKERS_MAX];
	pthread_mutex_t lock;
	pthread_cond_t begun, ended;
	bool stop, open;		/* work may be joined */
	unsigned long turn;		/* of work, so that nobody joins one twice */
	unsigned int inside;
	void (*fn)(void *arg, unsigned int chunk);
	void *arg;
	unsigned int chunks;
	atomic_uint next;
};

unsigned int workers_default(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > 4 ? 4 : (unsigned int)n;
}

static void work(struct workers *w)
{
	unsigned int i;

	while ((i = atomic_fetch_add(&w->next, 1)) < w->chunks)
		w->fn(w->arg, i);
}

static void *serve(void *arg)
{
	struct workers *w = arg;
	unsigned long done = 0;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		while (!w->stop && (!w->open || w->turn == done))
			pthread_cond_wait(&w->begun, &w->lock);
		if (w->stop)
			break;
		done = w->turn;
		w->inside++;
		pthread_mutex_unlock(&w->lock);
		work(w);
		pthread_mutex_lock(&w->lock);
		if (--w->inside == 0)
			pthread_cond_signal(&w->ended);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

struct workers *workers_new(unsigned int n, struct err *e)
{
	struct workers *w = calloc(1, sizeof(*w));
	sigset_t all, before;
	int rc = 0;

	if (!w || n < 1 || n > WORKERS_MAX) {
		err_set(e, w ? -EINVAL : -ENOMEM, "no %u workers", n);
		free(w);
		return NULL;
	}
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->begun, NULL);
	pthread_cond_init(&w->ended, NULL);
	/* Signals are the main thread's. */
	sandbox_block(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (!rc && w->n < n - 1) {
		rc = pthread_create(&w->thread[w->n], NULL, serve, w);
		if (!rc)
			pthread_setname_np(w->thread[w->n++], "memory");
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc) {
		err_set(e, -rc, "a worker thread cannot be made: %s", strerror(rc));
		workers_free(w);
		return NULL;
	}
	return w;
}

void workers_free(struct workers *w)
{
	if (!w)
		return;
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->begun);
	pthread_mutex_unlock(&w->lock);
	for (unsigned int i = 0; i < w->n; i++)
		pthread_join(w->thread[i], NULL);
	pthread_cond_destroy(&w->begun);
	pthread_cond_destroy(&w->ended);
	pthread_mutex_destroy(&w->lock);
	free(w);
}

unsigned int workers_count(const struct workers *w)
{
	return w ? w->n + 1 : 1;
}

void workers_run(struct workers *w, void (*fn)(void *arg, unsigned int chunk), void *arg, unsigned int chunks)
{
	if (!w || w->n == 0 || chunks < 2) {
		for (unsigned int i = 0; i < chunks; i++)
			fn(arg, i);
		return;
	}
	pthread_mutex_lock(&w->lock);
	w->fn = fn;
	w->arg = arg;
	w->chunks = chunks;
	atomic_store(&w->next, 0);
	w->turn++;
	w->open = true;
	pthread_cond_broadcast(&w->begun);
	pthread_mutex_unlock(&w->lock);
	work(w);
	pthread_mutex_lock(&w->lock);
	w->open = false;
	while (w->inside > 0)
		pthread_cond_wait(&w->ended, &w->lock);
	pthread_mutex_unlock(&w->lock);
}
