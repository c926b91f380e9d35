/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Preloaded into QEMU when bench/compare measures QEMU's own COLO under TCG, and only there
 *
 * After a checkpoint QEMU 7.2's migration thread stops the log of dirty pages. For that it waits, under TCG, on a
 * condition variable together with the big lock, which it does not hold at that point. POSIX leaves open what happens
 * then; with glibc the thread comes back from the wait as the lock's owner, asks for it again a little later, and QEMU
 * stands still for ever. Under load from the network that takes one to four checkpoints, so that nothing could be
 * measured.
 *
 * Here such a wait is made whole: who does not own the mutex gets it for the wait, and gives it back after that.
 * Nobody may wake it up, since the condition may have become true before the mutex was had, so it waits a millisecond
 * at most; the caller looks at its condition in a loop, as every caller of a condition variable must. All other waits
 * are glibc's.
 */

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define AT_MOST_NS 1000000L
#define SECOND_NS 1000000000L

typedef int wait_fn(pthread_cond_t *, pthread_mutex_t *);

static wait_fn *real_wait;

/* Not dlsym(): glibc has an older one of this name, for programs from before 2003. */
__attribute__((constructor)) static void find(void)
{
	real_wait = (wait_fn *)dlvsym(RTLD_NEXT, "pthread_cond_wait", "GLIBC_2.3.2");
	if (!real_wait)
		real_wait = (wait_fn *)dlsym(RTLD_NEXT, "pthread_cond_wait");
	if (!real_wait)
		abort();
}

__attribute__((visibility("default"))) int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	struct timespec end;
	int rc;

	if (mutex->__data.__owner == gettid())
		return real_wait(cond, mutex);
	rc = pthread_mutex_lock(mutex);
	if (rc)
		return rc;
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += AT_MOST_NS;
	if (end.tv_nsec >= SECOND_NS) {
		end.tv_nsec -= SECOND_NS;
		end.tv_sec++;
	}
	rc = pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &end);
	pthread_mutex_unlock(mutex);
	return rc == ETIMEDOUT ? 0 : rc;
}
