/* SPDX-License-Identifier: BSD-2-Clause */
/* bench/load/condwait.c, linked instead of preloaded: waits of owners are glibc's, others are made whole. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <pthread.h>
#include <stdbool.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;
static bool told;

static void *tell(void *arg)
{
	pthread_mutex_lock(&mutex);
	told = true;
	pthread_cond_signal(&cond);
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static void an_owner_is_woken_and_owns_it_still(void **state)
{
	pthread_t t;

	told = false;
	pthread_mutex_lock(&mutex);
	assert_int_equal(pthread_create(&t, NULL, tell, NULL), 0);
	while (!told)
		assert_int_equal(pthread_cond_wait(&cond, &mutex), 0);
	assert_int_not_equal(pthread_mutex_trylock(&mutex), 0);
	pthread_mutex_unlock(&mutex);
	pthread_join(t, NULL);
}

/* Without the library this ends as owner of the mutex, if it ends: nobody signals. */
static void who_does_not_own_it_comes_back_without_it(void **state)
{
	assert_int_equal(pthread_cond_wait(&cond, &mutex), 0);
	assert_int_equal(pthread_mutex_trylock(&mutex), 0);
	pthread_mutex_unlock(&mutex);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_owner_is_woken_and_owns_it_still),
		cmocka_unit_test(who_does_not_own_it_comes_back_without_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
