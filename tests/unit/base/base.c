/* SPDX-License-Identifier: BSD-2-Clause */
/* base/: cursor, errors, SipHash against its published vectors, the loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/closer.h"
#include "base/crash.h"
#include "base/cursor.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/siphash.h"

static void cursor_never_reads_beyond(void **state)
{
	const uint8_t bytes[] = { 1, 2, 3, 4, 5 };
	struct cursor c = cursor_of(bytes, sizeof(bytes));

	(void)state;
	assert_int_equal(cursor_u16(&c), 0x0102);
	assert_int_equal(cursor_u16(&c), 0x0304);
	assert_false(c.bad);
	assert_int_equal(cursor_u16(&c), 0);
	assert_true(c.bad);
	/* Once bad, always bad: the byte that is left is not handed out. */
	assert_null(cursor_get(&c, 1));
}

static void wcursor_never_writes_beyond(void **state)
{
	uint8_t out[4] = { 0xee, 0xee, 0xee, 0xee };
	struct wcursor w = wcursor_of(out, 3);

	(void)state;
	wcursor_u16(&w, 0x0102);
	wcursor_u16(&w, 0x0304);
	assert_true(w.bad);
	assert_int_equal(w.done, 2);
	assert_int_equal(out[2], 0xee);
	assert_int_equal(out[3], 0xee);
}

static void errors_are_cut_not_overrun(void **state)
{
	struct err e;
	char text[2000];

	(void)state;
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = 0;
	assert_int_equal(err_set(&e, -EIO, "%s", text), -EIO);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	assert_int_equal(err_prefix(&e, "%s", "disk"), -EIO);
	assert_int_equal(strlen(e.msg), sizeof(e.msg) - 1);
	assert_memory_equal(e.msg, "disk: xxx", 9);
	err_set(&e, -EIO, "gone");
	err_prefix(&e, "disk %d", 3);
	assert_string_equal(e.msg, "disk 3: gone");
	assert_int_equal(err_set(NULL, -EIO, "nobody reads it"), -EIO);
}

/* Appendix A of the paper: key 00..0f, message 00..0e. */
static void siphash_of_the_paper(void **state)
{
	const uint64_t key[2] = { 0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull };
	uint8_t m[15];

	(void)state;
	for (uint8_t i = 0; i < 15; i++)
		m[i] = i;
	assert_true(siphash24(key, m, 15) == 0xa129ca6149be45e5ull);
	assert_true(siphash13(key, m, 0) == 0xabac0158050fc4dcull);
}

static void crash_points_have_names(void **state)
{
	const char *meaning, *which;

	(void)state;
	setenv("LOCKSTEP_CRASH_AT", "no_such_point", 1);
#ifdef LOCKSTEP_CRASH_POINTS
	assert_int_equal(crash_points_init(&which), -EINVAL);
	assert_string_equal(which, "LOCKSTEP_CRASH_AT");
	assert_string_equal(crash_point_text(0, &meaning), "before_epoch_end");
	assert_non_null(meaning);
	assert_null(crash_point_text(CRASH_MAX, &meaning));
#else
	assert_int_equal(crash_points_init(&which), -ENOTSUP);
	assert_null(crash_point_text(0, &meaning));
#endif
	unsetenv("LOCKSTEP_CRASH_AT");
	assert_int_equal(crash_points_init(&which), 0);
}

static void steps_fail_when_named(void **state)
{
#ifdef LOCKSTEP_CRASH_POINTS
	static const char *const bad[] = { "nothing", "save:", "save:0", "save:64", "save:2;copy", "save,", "save:2x",
					   ",", "loaded" };
	const char *which, *meaning;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		setenv("LOCKSTEP_FAIL_AT", bad[i], 1);
		assert_int_equal(crash_points_init(&which), -EINVAL);
		assert_string_equal(which, "LOCKSTEP_FAIL_AT");
	}
	setenv("LOCKSTEP_FAIL_AT", "save:2,copy,save:4", 1);
	assert_int_equal(crash_points_init(&which), 0);
	for (int k = 1; k <= 100; k++) {
		assert_int_equal(fail_point(FAIL_save), k == 2 || k == 4);
		assert_int_equal(fail_point(FAIL_copy), k == 1);
		assert_false(fail_point(FAIL_send));
	}
	assert_string_equal(fail_point_text(FAIL_send, &meaning), "send");
	assert_null(fail_point_text(FAIL_MAX, &meaning));
	unsetenv("LOCKSTEP_FAIL_AT");
	assert_int_equal(crash_points_init(&which), 0);
	assert_false(fail_point(FAIL_save));
#endif
	(void)state;
}

struct seen {
	struct loop *l;
	char order[32];
	unsigned int n;
	struct loop_timer late, early, never;
	struct loop_fd w;
};

static void note(struct seen *s, char c)
{
	if (s->n < sizeof(s->order) - 1)
		s->order[s->n++] = c;
}

static void on_early(struct loop_timer *t)
{
	note(t->arg, 'e');
}

static void on_late(struct loop_timer *t)
{
	struct seen *s = t->arg;

	note(s, 'l');
	loop_stop(s->l);
}

static void on_fd(struct loop_fd *w, uint32_t events)
{
	char c;

	(void)events;
	if (read(w->fd, &c, 1) == 1)
		note(w->arg, c);
}

static void timers_after_descriptors_and_in_order(void **state)
{
	struct seen s = { 0 };
	struct err e;
	int p[2];

	(void)state;
	s.l = loop_new("test", &e);
	assert_non_null(s.l);
	assert_int_equal(pipe(p), 0);
	s.w = (struct loop_fd){ .fd = p[0], .fn = on_fd, .arg = &s };
	assert_int_equal(loop_fd_add(s.l, &s.w, EPOLLIN), 0);
	s.late = (struct loop_timer){ .fn = on_late, .arg = &s };
	s.early = (struct loop_timer){ .fn = on_early, .arg = &s };
	s.never = (struct loop_timer){ .fn = on_early, .arg = &s };
	/* Long overdue, as after a freeze: what can be read comes first all the same. */
	loop_timer_set(s.l, &s.late, 2);
	loop_timer_set(s.l, &s.never, 3);
	loop_timer_set(s.l, &s.early, 1);
	loop_timer_del(s.l, &s.never);
	assert_int_equal(write(p[1], "r", 1), 1);
	assert_int_equal(loop_run(s.l), 0);
	assert_string_equal(s.order, "rel");
	loop_free(s.l);
	close(p[0]);
	close(p[1]);
}

static void on_move(struct loop_timer *t)
{
	struct seen *s = t->arg;

	note(s, 'm');
	if (s->n < 3) {
		/* Later than what the kernel's timer is set to, then sooner. */
		loop_timer_set(s->l, &s->late, clock_ns() + 60 * NS_PER_S);
		loop_timer_set(s->l, &s->early, clock_ns() + NS_PER_MS);
		loop_timer_set(s->l, t, clock_ns() + 3 * NS_PER_MS);
	} else {
		loop_timer_set(s->l, &s->late, clock_ns() + NS_PER_MS);
	}
}

/* The kernel's timer is set only when something is due sooner: what moves on must come all the same, and what moves back. */
static void timers_that_move(void **state)
{
	struct seen s = { 0 };
	struct err e;

	(void)state;
	s.l = loop_new("test", &e);
	assert_non_null(s.l);
	s.late = (struct loop_timer){ .fn = on_late, .arg = &s };
	s.early = (struct loop_timer){ .fn = on_early, .arg = &s };
	s.never = (struct loop_timer){ .fn = on_move, .arg = &s };
	loop_timer_set(s.l, &s.late, clock_ns() + 2 * NS_PER_MS);
	loop_timer_set(s.l, &s.never, clock_ns() + NS_PER_MS);
	assert_int_equal(loop_run(s.l), 0);
	assert_string_equal(s.order, "meml");
	loop_free(s.l);
}

struct watched {
	struct closer *c;
	bool dies;
};

static void *watched_thread(void *arg)
{
	struct watched *w = arg;

	closer_watch(w->c);
	if (w->dies)
		syscall(SYS_exit, 0);
	closer_leave(w->c);
	return NULL;
}

/* What the peer of a process sees whose watched thread has died, or left in order, while the process itself lives on. */
static void closer_closes(void **state)
{
	(void)state;
	for (int dies = 0; dies < 2; dies++) {
		int sp[2], status;
		char c;
		pid_t pid;

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sp), 0);
		pid = fork();
		if (!pid) {
			struct err e;
			struct watched w = { .c = closer_start(&e), .dies = dies };
			pthread_t t;

			close(sp[0]);
			if (!w.c || pthread_create(&t, NULL, watched_thread, &w))
				_exit(1);
			if (!dies) {
				pthread_join(t, NULL);
				closer_end(w.c);
				_exit(write(sp[1], "x", 1) == 1 ? 0 : 2);
			}
			for (;;)
				pause();
		}
		close(sp[1]);
		assert_int_equal(read(sp[0], &c, 1), !dies);
		assert_int_equal(waitpid(pid, &status, dies ? WNOHANG : 0), dies ? 0 : pid);
		if (dies) {
			kill(pid, SIGKILL);
			assert_int_equal(waitpid(pid, &status, 0), pid);
		} else {
			assert_int_equal(status, 0);
		}
		close(sp[0]);
	}
}

static void many_timers(void **state)
{
	static struct loop_timer t[500];
	struct err e;
	struct loop *l = loop_new("test", &e);
	nstime last = 0;

	(void)state;
	srand(1);
	for (int i = 0; i < 500; i++) {
		t[i] = (struct loop_timer){ .arg = NULL };
		loop_timer_set(l, &t[i], (nstime)rand() % 1000 + 1);
	}
	for (int i = 0; i < 500; i += 3)
		loop_timer_del(l, &t[i]);
	for (int i = 0; i < 500; i += 7)
		loop_timer_set(l, &t[i], (nstime)rand() % 1000 + 1);
	/* The heap yields them in order: look at what is due first, again and again. */
	for (int left = 500; left--;) {
		struct loop_timer *first = NULL;

		for (int i = 0; i < 500; i++)
			if (t[i].slot == 1)
				first = &t[i];
		if (!first)
			break;
		assert_true(first->at >= last);
		last = first->at;
		loop_timer_del(l, first);
	}
	for (int i = 0; i < 500; i++)
		assert_int_equal(t[i].slot, 0);
	loop_free(l);
}

struct poster {
	struct loop *l;
	uint64_t got, bad;
};

static void on_post(void *arg, const void *data, size_t len)
{
	struct poster *p = arg;
	uint64_t v;

	assert_int_equal(len, sizeof(v));
	memcpy(&v, data, sizeof(v));
	p->bad += v != p->got;
	if (++p->got == 20000)
		loop_stop(p->l);
}

static void *post_all(void *arg)
{
	struct poster *p = arg;

	for (uint64_t i = 0; i < 20000; i++)
		loop_post(p->l, on_post, p, &i, sizeof(i));
	return NULL;
}

static void posts_arrive_in_order_and_none_is_lost(void **state)
{
	struct poster p = { 0 };
	struct err e;
	pthread_t t;

	(void)state;
	p.l = loop_new("test", &e);
	assert_int_equal(pthread_create(&t, NULL, post_all, &p), 0);
	assert_int_equal(loop_run(p.l), 0);
	pthread_join(t, NULL);
	assert_int_equal(p.got, 20000);
	assert_int_equal(p.bad, 0);
	assert_int_equal(loop_post(p.l, on_post, &p, NULL, LOOP_MSG_DATA + 1), -EMSGSIZE);
	loop_free(p.l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cursor_never_reads_beyond), cmocka_unit_test(wcursor_never_writes_beyond),
		cmocka_unit_test(errors_are_cut_not_overrun), cmocka_unit_test(siphash_of_the_paper),
		cmocka_unit_test(crash_points_have_names), cmocka_unit_test(steps_fail_when_named),
		cmocka_unit_test(timers_after_descriptors_and_in_order),
		cmocka_unit_test(timers_that_move), cmocka_unit_test(closer_closes),
		cmocka_unit_test(many_timers), cmocka_unit_test(posts_arrive_in_order_and_none_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
