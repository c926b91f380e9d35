/* SPDX-License-Identifier: BSD-2-Clause */
/* proxy: rules go to core and to the peer, those of the peer are shown, and a change is seen by who made it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "proxy/proxy.h"

#define DEADLINE (10 * NS_PER_S)

struct side {
	struct loop *loop;
	struct proxy *px;
	pthread_t thread;
	int far[2];			/* the other ends of TAP and QEMU */
	pthread_mutex_t lock;
	struct rules sent;		/* the last RULES message */
	unsigned int n_sent;
	struct rules next;		/* when not empty: set from inside the sending of others */
	atomic_int kept;		/* 0: not looked at yet, 1: next was shown, -1: it was taken back */
};

static bool shows(struct side *s, const struct rules *want);

static void look(void *arg, const void *data, size_t len)
{
	struct side *s = arg;

	(void)data, (void)len;
	atomic_store(&s->kept, shows(s, &s->next) ? 1 : -1);
}

static void on_send(void *arg, const struct net_msg *m, const uint8_t *frame, uint32_t len)
{
	struct side *s = arg;

	if (m->type != NM_RULES)
		return;
	pthread_mutex_lock(&s->lock);
	assert_int_equal(rules_decode(frame, len, &s->sent), 0);
	s->n_sent++;
	pthread_mutex_unlock(&s->lock);
	/* The look comes when the loop is done with the others, and before it has heard of these. */
	if (s->next.n && !atomic_load(&s->kept)) {
		loop_post(s->loop, look, s, NULL, 0);
		proxy_set_rules(s->px, &s->next);
	}
}

static void on_answer(void *arg, enum net_act_type type, uint64_t n, uint32_t cause)
{
	(void)arg, (void)type, (void)n, (void)cause;
}

static void on_nothing(void *arg)
{
	(void)arg;
}

static void *run(void *arg)
{
	loop_run(arg);
	return NULL;
}

static struct rules rules_of(const char *a, const char *b)
{
	struct rules rules = { 0 };
	struct rule r;

	assert_int_equal(rule_parse(a, NULL, 0, &r, NULL), 0);
	assert_int_equal(rules_insert(&rules, 0, &r, NULL), 0);
	if (b) {
		assert_int_equal(rule_parse(b, NULL, 0, &r, NULL), 0);
		assert_int_equal(rules_insert(&rules, 1, &r, NULL), 0);
	}
	return rules;
}

static void open_side(struct side *s, const struct rules *rules)
{
	struct proxy_ops ops = { on_send, on_answer, on_nothing, on_nothing, on_nothing, s };
	struct proxy_nic nic;
	struct net_cfg cfg;
	struct err e;
	int tap[2], qemu[2];

	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->lock, NULL);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, tap), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, qemu), 0);
	nic = (struct proxy_nic){ tap[0], qemu[0] };
	s->far[0] = tap[1];
	s->far[1] = qemu[1];
	net_cfg_default(&cfg, 1, 1500);
	cfg.rules = *rules;
	s->loop = loop_new("frames", &e);
	assert_non_null(s->loop);
	s->px = proxy_new(s->loop, &cfg, &nic, &ops, &e);
	assert_non_null(s->px);
	assert_int_equal(pthread_create(&s->thread, NULL, run, s->loop), 0);
}

static void close_side(struct side *s)
{
	loop_stop(s->loop);
	pthread_join(s->thread, NULL);
	proxy_free(s->px);
	loop_free(s->loop);
	close(s->far[0]);
	close(s->far[1]);
	pthread_mutex_destroy(&s->lock);
}

static bool shows(struct side *s, const struct rules *want)
{
	struct rules got;

	proxy_rules(s->px, &got);
	return !memcmp(&got, want, sizeof(got));
}

static bool sent(struct side *s, const struct rules *want)
{
	bool same;

	pthread_mutex_lock(&s->lock);
	same = s->n_sent && !memcmp(&s->sent, want, sizeof(*want));
	pthread_mutex_unlock(&s->lock);
	return same;
}

static void until(bool (*good)(struct side *s, const struct rules *want), struct side *s, const struct rules *want)
{
	nstime end = clock_ns() + DEADLINE;

	while (!good(s, want)) {
		assert_true(clock_ns() < end);
		usleep(1000);
	}
}

static void primary(void **state)
{
	struct rules first = rules_of("bypass,proto=udp,port=123", NULL), now;
	struct side s;

	(void)state;
	open_side(&s, &first);
	assert_true(shows(&s, &first));
	proxy_event(s.px, NEV_ROLE, 1, NET_PRIMARY);
	until(sent, &s, &first);
	/* Whoever changes them sees the change at once, however slow the loop is, and the last one stays. */
	for (int i = 0; i < 200; i++) {
		char text[64];

		snprintf(text, sizeof(text), "hold,proto=tcp,guest-port=%d", i);
		now = rules_of(text, i % 2 ? "bypass" : NULL);
		proxy_set_rules(s.px, &now);
		assert_true(shows(&s, &now));
	}
	until(sent, &s, &now);
	assert_true(shows(&s, &now));
	close_side(&s);
}

/* A change that is made while an earlier one is being carried out is not taken back by that. */
static void two_at_once(void **state)
{
	struct rules first = rules_of("bypass,proto=udp,port=123", NULL);
	struct side s;

	(void)state;
	open_side(&s, &first);
	proxy_event(s.px, NEV_ROLE, 1, NET_PRIMARY);
	until(sent, &s, &first);
	pthread_mutex_lock(&s.lock);
	s.next = rules_of("hold", "compare");
	pthread_mutex_unlock(&s.lock);
	first = rules_of("compare", NULL);
	proxy_set_rules(s.px, &first);
	until(sent, &s, &s.next);
	assert_int_equal(atomic_load(&s.kept), 1);
	assert_true(shows(&s, &s.next));
	close_side(&s);
}

static void give(void *arg, const void *data, size_t len)
{
	uint8_t bytes[RULES_BYTES_MAX];
	struct net_msg m = { .type = NM_RULES };
	struct side *s = arg;
	struct rules rules;
	int n;

	(void)len;
	memcpy(&rules, *(const struct rules *const *)data, sizeof(rules));
	n = rules_encode(&rules, bytes, sizeof(bytes));
	assert_true(n > 0);
	proxy_peer(s->px, &m, bytes, (uint32_t)n);
}

static void secondary(void **state)
{
	static struct rules own, theirs, most;
	const struct rules *p = &theirs;
	struct side s;

	(void)state;
	own = rules_of("bypass", NULL);
	theirs = rules_of("hold,proto=tcp", "compare");
	open_side(&s, &own);
	proxy_event(s.px, NEV_ROLE, 1, NET_SECONDARY);
	assert_true(shows(&s, &own));
	loop_post(s.loop, give, &s, &p, sizeof(p));
	until(shows, &s, &theirs);
	/* As many as there can be fit into a frame; and after the promotion the node goes on with them. */
	while (most.n < RULES_MAX)
		assert_int_equal(rules_insert(&most, most.n, &theirs.r[most.n % 2], NULL), 0);
	p = &most;
	loop_post(s.loop, give, &s, &p, sizeof(p));
	until(shows, &s, &most);
	proxy_event(s.px, NEV_PROMOTE, 1, 0);
	assert_int_equal(rules_delete(&most, 0, NULL), 0);
	proxy_set_rules(s.px, &most);
	assert_true(shows(&s, &most));
	close_side(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(primary), cmocka_unit_test(two_at_once),
					     cmocka_unit_test(secondary) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
