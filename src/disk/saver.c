/* SPDX-License-Identifier: BSD-2-Clause */
#include "disk/saver.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/*
 * The loop owns everything; while a round is under way the thread reads @job and writes @result. An eventfd in each
 * direction passes that on, and as a read of one happens after the write to it no lock is needed. A posted message
 * would outlive the saver.
 */
struct saver {
	struct loop *loop;
	unsigned int n;
	struct meta *const *metas;
	struct meta_job **job;
	struct err *result;	/* of each disk in the last round */
	bool busy, thread_runs;
	atomic_bool quit;
	pthread_t thread;
	int go;
	struct loop_fd ready;
	void (*done)(void *arg);
	void *arg;
};

static void round_run(struct saver *s)
{
	for (unsigned int i = 0; i < s->n; i++) {
		s->result[i].code = 0;
		if (s->job[i])
			s->result[i].code = meta_job_run(s->job[i], &s->result[i]);
	}
}

static void round_end(struct saver *s)
{
	for (unsigned int i = 0; i < s->n; i++) {
		if (s->job[i])
			meta_job_end(s->job[i], s->result[i].code);
		s->job[i] = NULL;
	}
	s->busy = false;
	s->done(s->arg);
}

static void *saver_thread(void *arg)
{
	struct saver *s = arg;
	uint64_t v;

	for (;;) {
		if (read(s->go, &v, sizeof(v)) != sizeof(v))
			continue;
		if (atomic_load(&s->quit))
			return NULL;
		round_run(s);
		v = 1;
		while (write(s->ready.fd, &v, sizeof(v)) == -1 && errno == EINTR)
			;
	}
}

static void on_ready(struct loop_fd *w, uint32_t events)
{
	struct saver *s = w->arg;
	uint64_t v;

	if (read(w->fd, &v, sizeof(v)) == sizeof(v) && s->busy)
		round_end(s);
}

struct saver *saver_new(struct loop *l, struct meta *const *metas, unsigned int n,
			void (*done)(void *arg), void *arg, struct err *e)
{
	struct saver *s = calloc(1, sizeof(*s));
	int rc;

	if (!s || !(s->job = calloc(n + 1, sizeof(*s->job))) || !(s->result = calloc(n + 1, sizeof(*s->result)))) {
		if (s)
			free(s->job);
		free(s);
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	s->loop = l;
	s->metas = metas;
	s->n = n;
	s->done = done;
	s->arg = arg;
	s->go = -1;
	s->ready = (struct loop_fd){ .fd = -1, .fn = on_ready, .arg = s };
	if (!l)
		return s;
	s->go = eventfd(0, EFD_CLOEXEC);
	s->ready.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rc = s->go == -1 || s->ready.fd == -1 ? -errno : loop_fd_add(l, &s->ready, EPOLLIN);
	if (rc == 0) {
		rc = -pthread_create(&s->thread, NULL, saver_thread, s);
		s->thread_runs = rc == 0;
		if (rc != 0)
			loop_fd_del(l, &s->ready);
	}
	if (rc != 0) {
		err_set(e, rc, "the thread that keeps the write-intent maps cannot be made: %s", strerror(-rc));
		saver_free(s);
		return NULL;
	}
	return s;
}

void saver_free(struct saver *s)
{
	uint64_t v = 1;

	if (!s)
		return;
	if (s->thread_runs) {
		atomic_store(&s->quit, true);
		while (write(s->go, &v, sizeof(v)) == -1 && errno == EINTR)
			;
		pthread_join(s->thread, NULL);
		loop_fd_del(s->loop, &s->ready);
	}
	/* A round that was asked for and not begun, or whose end was not seen: the metas must not wait for it. */
	for (unsigned int i = 0; i < s->n; i++) {
		if (s->job[i])
			meta_job_end(s->job[i], -ECANCELED);
	}
	if (s->go != -1)
		close(s->go);
	if (s->ready.fd != -1)
		close(s->ready.fd);
	free(s->job);
	free(s->result);
	free(s);
}

bool saver_busy(const struct saver *s)
{
	return s->busy;
}

void saver_begin(struct saver *s, bool header)
{
	uint64_t v = 1;

	s->busy = true;
	for (unsigned int i = 0; i < s->n; i++)
		s->job[i] = meta_job_begin(s->metas[i], header);
	while (s->thread_runs && write(s->go, &v, sizeof(v)) == -1 && errno == EINTR)
		;
}

int saver_result(const struct saver *s, unsigned int i, const struct err **e)
{
	*e = &s->result[i];
	return s->result[i].code;
}

bool saver_step(struct saver *s)
{
	if (!s->busy || s->thread_runs)
		return false;
	round_run(s);
	round_end(s);
	return true;
}
