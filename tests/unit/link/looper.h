/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_LOOPER_H
#define TESTS_LOOPER_H

#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "base/loop.h"

/* A loop in a thread of its own; the test looks at what lives there only through on_loop(). */
struct looper {
	struct loop *l;
	pthread_t thread;
};

static inline void *looper_main(void *arg)
{
	loop_run(arg);
	return NULL;
}

static inline void looper_start(struct looper *p)
{
	struct err e = { 0 };

	p->l = loop_new("test", &e);
	assert_non_null(p->l);
	assert_int_equal(pthread_create(&p->thread, NULL, looper_main, p->l), 0);
}

static inline void looper_stop(struct looper *p)
{
	loop_stop(p->l);
	pthread_join(p->thread, NULL);
	loop_free(p->l);
}

struct looper_call {
	long (*fn)(void *arg);
	void *arg;
	long *ret;
	sem_t *done;
};

static inline void looper_do(void *arg, const void *data, size_t len)
{
	struct looper_call c;

	memcpy(&c, data, sizeof(c));
	*c.ret = c.fn(c.arg);
	sem_post(c.done);
}

/* Calls @fn in the loop's thread and waits for what it returns. */
static inline long on_loop(struct looper *p, long (*fn)(void *arg), void *arg)
{
	sem_t done;
	long ret = -1;
	struct looper_call c = { fn, arg, &ret, &done };

	sem_init(&done, 0, 0);
	loop_post(p->l, looper_do, NULL, &c, sizeof(c));
	while (sem_wait(&done))
		;
	sem_destroy(&done);
	return ret;
}

/* Polls until @fn in the loop's thread returns non-zero; fails the test after 20 s. */
static inline void wait_loop(struct looper *p, long (*fn)(void *arg), void *arg, const char *what)
{
	nstime end = clock_ns() + 20 * NS_PER_S;

	while (!on_loop(p, fn, arg)) {
		struct timespec ts = { 0, 200000 };

		if (clock_ns() > end)
			fail_msg("waited in vain: %s", what);
		nanosleep(&ts, NULL);
	}
}

#endif
