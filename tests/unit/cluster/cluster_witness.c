/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * cluster/witness: what the control loop is told, with a kind of witness that does what the test says: answers, fails,
 * hangs; in time, too late, after the end.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "cluster/shell.h"
#include "cluster/witness_internal.h"

#define LIMIT	(30 * NS_PER_S)

static const uint8_t me[WITNESS_ID_LEN] = "me-me-me-me-me-";
static const uint8_t other[WITNESS_ID_LEN] = "other-other-oth";

/* The kind: says @rc with @record; with @hangs waits for @go first, whatever the time limit says. */
static struct {
	_Atomic int rc;
	struct witness_record record;
	_Atomic bool hangs;
	atomic_int calls, freed, waiting;
	sem_t go;
} fake;

static int fake_call(struct witness_record *r, struct err *e)
{
	int rc;

	atomic_fetch_add(&fake.calls, 1);
	if (atomic_load(&fake.hangs)) {
		atomic_fetch_add(&fake.waiting, 1);
		while (sem_wait(&fake.go))
			;
	}
	rc = atomic_load(&fake.rc);
	*r = fake.record;
	if (rc < 0 || rc == WITNESS_LOST)
		err_set(e, -EIO, "what the test says: %d%0200d", rc, 0);
	return rc;
}

static int fake_look(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	return fake_call(r, e);
}

static int fake_claim(void *b, const struct witness_ask *q, struct witness_record *r, struct err *e)
{
	return fake_call(r, e);
}

static void fake_free(void *b)
{
	atomic_fetch_add(&fake.freed, 1);
}

const struct witness_ops witness_disk_ops = { fake_look, fake_claim, fake_free };
const struct witness_ops witness_etcd_ops = { fake_look, fake_claim, fake_free };

void *witness_etcd_new(const struct witness_cfg *cfg, struct err *e)
{
	err_set(e, -EINVAL, "no etcd here");
	return NULL;
}

void *witness_disk_new(const struct witness_cfg *cfg, struct err *e)
{
	return &fake;
}

/* The control loop, in a thread of its own. */
static struct loop *loop;
static pthread_t thread;
static struct witness *w;
static struct witness_result got[4 * WITNESS_QUEUE];
static atomic_uint n_got, n_health;
static atomic_bool up, wrong;

static void done(void *arg, const struct witness_result *r)
{
	unsigned int n = atomic_load(&n_got);

	if (arg != &loop || n == 4 * WITNESS_QUEUE || !pthread_equal(pthread_self(), thread)) {
		atomic_store(&wrong, true);
		return;
	}
	got[n] = *r;
	atomic_store(&n_got, n + 1);
}

static void health(void *arg, bool reachable, const char *why)
{
	atomic_store(&up, reachable);
	if (reachable != !*why)
		atomic_store(&wrong, true);
	atomic_fetch_add(&n_health, 1);
}

/* Until @n is at least @least, or the test's limit. */
static void come(atomic_uint *n, unsigned int least)
{
	nstime by = clock_ns() + LIMIT;

	while (atomic_load(n) < least && clock_ns() < by)
		usleep(500);
	assert_true(atomic_load(n) >= least);
	assert_false(wrong);
}

static void answers(unsigned int n)
{
	come(&n_got, n);
	assert_int_equal(n_got, n);
}

/* A call of the witness's in the loop's thread. */
struct call {
	void (*fn)(struct call *c);
	const struct witness_claim *claim;
	uint64_t ticket;
	bool within;		/* it was answered from within */
	sem_t done;
};

static void call_it(void *arg, const void *data, size_t len)
{
	struct call *c = arg;

	c->fn(c);
	sem_post(&c->done);
}

static void in_loop(struct call *c)
{
	sem_init(&c->done, 0, 0);
	loop_post(loop, call_it, c, NULL, 0);
	while (sem_wait(&c->done))
		;
}

static void do_ask(struct call *c)
{
	unsigned int n = n_got;

	c->ticket = c->claim ? witness_claim(w, c->claim) : witness_look(w);
	c->within = n != n_got;
}

static uint64_t claim(const struct witness_claim *claim)
{
	struct call c = { .fn = do_ask, .claim = claim };

	in_loop(&c);
	assert_false(c.within);
	return c.ticket;
}

static uint64_t look(void)
{
	return claim(NULL);
}

static void do_close(struct call *c)
{
	witness_close(w);
}

static void *run(void *l)
{
	loop_run(l);
	return NULL;
}

static void begin_cfg(struct witness_cfg *cfg)
{
	struct err e = { 0 };

	memcpy(cfg->me, me, sizeof(me));
	cfg->done = done;
	cfg->health = health;
	cfg->arg = &loop;
	cfg->loop = loop = loop_new("control", &e);
	assert_non_null(loop);
	memset(&fake, 0, sizeof(fake));
	sem_init(&fake.go, 0, 0);
	n_got = n_health = 0;
	wrong = false;
}

static void start(const struct witness_cfg *cfg)
{
	struct err e = { 0 };

	w = witness_open(cfg, &e);
	if (!w)
		fail_msg("%s", e.msg);
	assert_int_equal(pthread_create(&thread, NULL, run, loop), 0);
}

static void begin(enum witness_kind kind, const char *command, nstime timeout)
{
	struct witness_cfg cfg = { .spec.kind = kind, .name = "web", .timeout = timeout, .probe = NS_NEVER };

	snprintf(cfg.spec.command, sizeof(cfg.spec.command), "%s", command);
	begin_cfg(&cfg);
	start(&cfg);
}

static void end_loop(void)
{
	loop_stop(loop);
	pthread_join(thread, NULL);
	loop_free(loop);
	assert_false(wrong);
}

static void end(void)
{
	struct call c = { .fn = do_close };

	in_loop(&c);
	end_loop();
}

static void test_answers(void **state)
{
	struct witness_claim c = { .expect = 4, .next = 5 };
	struct witness_health h;
	uint64_t t[4];

	begin(WITNESS_DISK, "", 10 * NS_PER_S);
	fake.rc = WITNESS_RECORD;
	fake.record = (struct witness_record){ .generation = 4 };
	memcpy(fake.record.owner, other, sizeof(other));
	t[0] = look();
	answers(1);
	assert_true(t[0] == got[0].ticket && !got[0].claim && got[0].answer == WITNESS_RECORD && !*got[0].why);
	assert_int_equal(got[0].record.generation, 4);
	assert_memory_equal(got[0].record.owner, other, sizeof(other));
	fake.rc = WITNESS_GRANTED;
	t[1] = claim(&c);
	answers(2);
	assert_true(t[1] == got[1].ticket && got[1].claim && got[1].answer == WITNESS_GRANTED && got[1].record.generation == 5);
	assert_memory_equal(got[1].record.owner, me, sizeof(me));
	fake.rc = WITNESS_LOST;
	t[2] = claim(&c);
	answers(3);
	assert_true(t[2] == got[2].ticket && got[2].answer == WITNESS_LOST && got[2].record.generation == 4);
	assert_int_equal(strlen(got[2].why), WITNESS_WHY_MAX - 1);
	assert_int_equal(n_health, 0);
	fake.rc = -EHOSTUNREACH;
	t[3] = claim(&c);
	answers(4);
	assert_true(t[3] == got[3].ticket && got[3].answer == WITNESS_UNKNOWN && !got[3].record.generation && *got[3].why);
	assert_true(n_health == 1 && !up);
	fake.rc = -ESTALE;	/* no answer that helps, but one */
	claim(&c);
	answers(5);
	assert_true(got[4].answer == WITNESS_UNKNOWN && n_health == 2 && up);
	witness_health(w, &h);
	assert_true(h.known && h.reachable && h.looks == 1 && h.claims == 4 && h.granted == 1 && h.lost == 1 && h.unknown == 2);
	end();
	assert_int_equal(fake.freed, 1);
}

/* As many questions as are taken. */
static void ask_many(struct call *c)
{
	while (witness_look(w))
		c->ticket++;
}

/* It hangs: UNKNOWN in time all the same, and its own answer, which comes at last, is dropped. */
static void test_hangs(void **state)
{
	struct witness_claim c = { .expect = 4, .next = 5 };
	struct call many = { .fn = ask_many };
	unsigned int n = 0;

	begin(WITNESS_DISK, "", 20 * NS_PER_MS);
	fake.rc = WITNESS_GRANTED;
	fake.hangs = true;
	/* On a busy machine the thread may come so late that nobody waits for the answer any more. */
	do {
		claim(&c);
		answers(++n);
		assert_true(got[n - 1].answer == WITNESS_UNKNOWN && *got[n - 1].why && got[n - 1].took >= 20 * NS_PER_MS);
	} while (!fake.waiting && n < WITNESS_QUEUE);
	assert_true(!up && n_health == 1 && fake.calls == 1);
	/* What is asked behind it waits, is answered likewise, and is not done any more when it goes on. */
	in_loop(&many);
	assert_int_equal(many.ticket, WITNESS_QUEUE);
	n += WITNESS_QUEUE;
	answers(n);
	/* The queue is full of what nobody waits for. */
	look();
	answers(++n);
	assert_int_equal(fake.calls, 1);
	fake.hangs = false;
	fake.rc = WITNESS_RECORD;
	sem_post(&fake.go);
	do {
		look();
		answers(++n);
	} while (got[n - 1].answer != WITNESS_RECORD && n < 4 * WITNESS_QUEUE);
	assert_int_equal(got[n - 1].answer, WITNESS_RECORD);
	assert_true(up);
	end();
}

/* It is closed while it hangs: left behind, and what it then has to say goes nowhere. */
static void test_left_behind(void **state)
{
	nstime by = clock_ns() + LIMIT;

	begin(WITNESS_DISK, "", 60 * NS_PER_S);
	fake.rc = WITNESS_RECORD;
	fake.hangs = true;
	look();
	while (!fake.waiting && clock_ns() < by)
		usleep(1000);
	end();
	assert_int_equal(n_got, 0);
	assert_int_equal(fake.freed, 0);
	sem_post(&fake.go);
	while (!fake.freed && clock_ns() < by)
		usleep(1000);
	assert_int_equal(fake.freed, 1);
}

/* It is closed while its answer waits in the loop's queue. */
static void ask_and_close(struct call *c)
{
	nstime by = clock_ns() + LIMIT;

	do_ask(c);
	while (!fake.calls && clock_ns() < by)
		usleep(500);
	usleep(5000);	/* it may post meanwhile; if it does so later, that is another case of the same */
	witness_close(w);
}

static void test_closed(void **state)
{
	struct call c = { .fn = ask_and_close };

	begin(WITNESS_DISK, "", 60 * NS_PER_S);
	fake.rc = WITNESS_RECORD;
	in_loop(&c);
	end_loop();
	assert_int_equal(n_got, 0);
	assert_int_equal(fake.freed, 1);
}

static void one_claim(enum witness_kind kind, const char *command, nstime timeout)
{
	struct witness_claim c = { .expect = 6, .next = 7, .reason = "the peer is silent", .peer = "192.0.2.2:9998" };

	begin(kind, command, timeout);
	claim(&c);
	answers(1);
	look();
	answers(2);
	assert_true(got[1].answer == WITNESS_UNKNOWN);
	assert_int_equal(n_health, 0);
	end();
}

static void test_command(void **state)
{
	one_claim(WITNESS_COMMAND, "test \"$LOCKSTEP_NAME $LOCKSTEP_GENERATION $LOCKSTEP_REASON $LOCKSTEP_PEER\" = "
	      "'web 7 the peer is silent 192.0.2.2:9998'", 0);
	assert_true(got[0].answer == WITNESS_GRANTED && got[0].record.generation == 7);
	one_claim(WITNESS_COMMAND, "exit 3", 0);
	assert_true(got[0].answer == WITNESS_UNKNOWN);
	assert_string_equal(got[0].why, "the witness command has failed with exit status 3");
	one_claim(WITNESS_COMMAND, "kill -15 $$", 0);
	assert_string_equal(got[0].why, "the witness command was ended by signal 15");
	one_claim(WITNESS_COMMAND, "sleep 1000 & wait", 100 * NS_PER_MS);
	assert_string_equal(got[0].why, "the witness command did not end within 100 ms");
	one_claim(WITNESS_NONE, "", 0);
	assert_true(got[0].answer == WITNESS_GRANTED && got[0].record.generation == 7);
}

/* A command that runs is ended by witness_close(). */
static void test_command_closed(void **state)
{
	struct witness_claim c = { .next = 1 };
	char path[] = "/tmp/lockstep-witness-XXXXXX", text[128], buf[32] = "";
	nstime by = clock_ns() + LIMIT;
	int fd = mkstemp(path);
	pid_t pid = 0;

	assert_true(fd >= 0);
	snprintf(text, sizeof(text), "echo $$ >%s; exec sleep 1000", path);
	begin(WITNESS_COMMAND, text, 0);
	claim(&c);
	while (!strchr(buf, '\n') && clock_ns() < by) {
		usleep(1000);
		if (pread(fd, buf, sizeof(buf) - 1, 0) < 0)
			break;
	}
	pid = atoi(buf);
	assert_true(pid > 0);
	end();
	assert_int_equal(kill(pid, 0), -1);
	close(fd);
	unlink(path);
}

static void test_probe(void **state)
{
	struct witness_cfg cfg = { .spec.kind = WITNESS_DISK, .probe = 5 * NS_PER_MS };
	struct witness_health h = { 0 };
	struct err e = { 0 };

	begin_cfg(&cfg);
	fake.rc = -EIO;
	start(&cfg);
	come(&n_health, 1);
	assert_false(up);
	fake.rc = WITNESS_RECORD;
	come(&n_health, 2);
	assert_true(up);
	witness_health(w, &h);
	assert_true(h.known && h.reachable && !*h.why && !h.looks);
	assert_int_equal(n_got, 0);
	cfg.spec.kind = WITNESS_ETCD;
	assert_null(witness_open(&cfg, &e));
	assert_string_equal(e.msg, "no etcd here");
	end();
}

static void test_judge(void **state)
{
	struct witness_claim c = { .expect = 4, .next = 5 };
	struct witness_record r = { .generation = 5 };
	struct err e;

	memcpy(r.owner, me, sizeof(me));
	assert_int_equal(witness_judge(&r, me, &c, &e), WITNESS_GRANTED);
	assert_int_equal(witness_judge(&r, other, &c, &e), WITNESS_LOST);
	r.generation = 6;
	assert_int_equal(witness_judge(&r, me, &c, &e), WITNESS_LOST);
	r.generation = 4;
	assert_int_equal(witness_judge(&r, me, &c, &e), WITNESS_RECORD);
	assert_int_equal(witness_judge(&r, other, &c, &e), WITNESS_RECORD);
	r.generation = 3;
	assert_int_equal(witness_judge(&r, me, &c, &e), -ESTALE);
	r.generation = 0;
	assert_int_equal(witness_judge(&r, me, &c, &e), -ESTALE);
	c.expect = 0;
	assert_int_equal(witness_judge(&r, me, &c, &e), WITNESS_RECORD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_hangs),
		cmocka_unit_test(test_left_behind),
		cmocka_unit_test(test_closed),
		cmocka_unit_test(test_command),
		cmocka_unit_test(test_command_closed),
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_judge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
