/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The witness: theory of operation
 *
 * Asking may block (a network, a disk, a command), so that a thread does it, one question after the other, and posts
 * each answer into the control loop. Everything else here runs in the control loop's thread, which alone knows what
 * is open: `open` has the questions that were asked and not answered. Each has a deadline, and a timer of the
 * control loop answers WITNESS_UNKNOWN when the thread has not: also when it hangs in a disk that answers nothing, so the
 * limit holds whatever a kind of witness does. An answer that comes after that finds no open question and is dropped.
 *
 * A claim whose outcome is unknown is no danger: it names the record that it replaces, so that it can be made again, and
 * when it had been granted the record that is found is its own (witness_judge()). Each kind does that within the
 * question's time: ask, look, ask again. Beyond that the caller repeats it.
 *
 * Messages in the loop's queue may outlive the instance. So they carry its number, never a pointer to it; the numbers
 * of those that live stand in a list. The thread may outlive it too (left behind by witness_close()), so both share the
 * memory, and the last one frees it; it posts nothing any more once `closing` is set.
 *
 * Probes: when there has been nothing to ask for a while the thread looks, so that a witness that is not there is a
 * warning in status now, and no surprise in the hour of need. Nothing else depends on them. A command is never probed.
 */
#include "cluster/witness.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "base/sandbox.h"
#include "cluster/shell.h"
#include "cluster/witness_internal.h"

#define JOIN_MS		500	/* how long witness_close() waits for the thread */

struct open_question {
	uint64_t ticket;	/* 0: none */
	bool claim;
	nstime asked, late;	/* late: when UNKNOWN is the answer */
};

struct witness {
	struct witness_cfg cfg;
	const struct witness_ops *ops;
	void *b;			/* the kind's state; the thread's */
	uint64_t id;
	struct witness *next;		/* in `live`, under live_lock */

	/* the control loop's */
	struct loop_timer late;
	struct open_question open[WITNESS_QUEUE];
	uint64_t tickets;
	struct witness_health health;

	/* shared */
	atomic_int refs;
	pthread_t thread;
	int wake, stop;			/* eventfds: something is in the queue; witness_close() */
	pthread_mutex_t lock;		/* guards the queue */
	struct witness_ask queue[WITNESS_QUEUE];
	unsigned int head, n;
	pthread_mutex_t post_lock;	/* held while posting; guards closing */
	bool closing;
};

static pthread_mutex_t live_lock = PTHREAD_MUTEX_INITIALIZER;
static struct witness *live;

static const struct witness_ops *const kinds[] = {
	[WITNESS_NONE] = &witness_none_ops,
	[WITNESS_ETCD] = &witness_etcd_ops,
	[WITNESS_COMMAND] = &witness_command_ops,
	[WITNESS_DISK] = &witness_disk_ops,
};

/* What the thread posts. */
struct answer {
	uint64_t id, ticket;		/* ticket 0: a probe */
	bool reachable;
	enum witness_answer answer;
	struct witness_record record;
	char why[WITNESS_WHY_MAX];
};
static_assert(sizeof(struct answer) <= LOOP_MSG_DATA, "an answer fits into a message");

int witness_lost(const struct witness_record *r, const uint8_t me[WITNESS_ID_LEN], struct err *e)
{
	err_set(e, -EEXIST, memcmp(r->owner, me, WITNESS_ID_LEN) ? "the witness has granted generation %u to the other node" :
		"the witness has granted generation %u to this node before", r->generation);
	return WITNESS_LOST;
}

int witness_old(const struct witness_record *r, const struct witness_claim *c, struct err *e)
{
	if (!r->generation)
		return err_set(e, -ESTALE, "the witness has no record of this VM, which was at generation %u: it has been emptied, or is "
			       "another one", c->expect);
	return err_set(e, -ESTALE, "the witness knows generation %u only, and this VM was at %u: it has forgotten, or is another one",
		       r->generation, c->expect);
}

int witness_judge(const struct witness_record *r, const uint8_t me[WITNESS_ID_LEN], const struct witness_claim *c, struct err *e)
{
	if (r->generation == c->next && !memcmp(r->owner, me, WITNESS_ID_LEN))
		return WITNESS_GRANTED;
	if (r->generation > c->expect)
		return witness_lost(r, me, e);
	return r->generation == c->expect ? (int)WITNESS_RECORD : witness_old(r, c, e);
}

/* The control loop's side */

static void set_late(struct witness *w)
{
	nstime at = NS_NEVER;

	for (int i = 0; i < WITNESS_QUEUE; i++)
		if (w->open[i].ticket && w->open[i].late < at)
			at = w->open[i].late;
	if (at == NS_NEVER)
		loop_timer_del(w->cfg.loop, &w->late);
	else if (loop_timer_set(w->cfg.loop, &w->late, at))
		log_error("witness: no timer can be had");
}

static void set_health(struct witness *w, bool reachable, const char *why)
{
	struct witness_health *h = &w->health;
	bool told = h->known ? h->reachable != reachable : !reachable;

	if (!witness_keeps_record(w->cfg.spec.kind))
		return;
	if (!h->known || h->reachable != reachable)
		h->since = clock_ns();
	h->known = true;
	h->reachable = reachable;
	snprintf(h->why, sizeof(h->why), "%s", reachable ? "" : why);
	if (told && w->cfg.health)
		w->cfg.health(w->cfg.arg, reachable, h->why);
}

static void finish(struct witness *w, struct open_question *q, const struct answer *a)
{
	struct witness_result r = { .ticket = q->ticket, .claim = q->claim, .answer = a->answer, .record = a->record,
				    .took = clock_ns() - q->asked };

	snprintf(r.why, sizeof(r.why), "%s", a->why);
	if (q->claim)
		w->health.claims++;
	else
		w->health.looks++;
	w->health.granted += a->answer == WITNESS_GRANTED;
	w->health.lost += a->answer == WITNESS_LOST;
	w->health.unknown += a->answer == WITNESS_UNKNOWN;
	*q = (struct open_question){ 0 };
	w->cfg.done(w->cfg.arg, &r);
}

static void is_late(struct loop_timer *t)
{
	struct witness *w = t->arg;
	struct answer a = { .answer = WITNESS_UNKNOWN };
	nstime now = clock_ns();

	snprintf(a.why, sizeof(a.why), "the witness (%s) has not answered in time", witness_kind_name(w->cfg.spec.kind));
	set_health(w, false, a.why);
	for (int i = 0; i < WITNESS_QUEUE; i++)
		if (w->open[i].ticket && w->open[i].late <= now)
			finish(w, &w->open[i], &a);
	set_late(w);
}

static void answered(void *arg, const void *data, size_t len)
{
	struct witness *w;
	struct answer a;

	memcpy(&a, data, sizeof(a));
	pthread_mutex_lock(&live_lock);
	for (w = live; w && w->id != a.id; w = w->next)
		;
	pthread_mutex_unlock(&live_lock);
	/* Who closes it does so in this thread: it stays until we return. */
	if (!w)
		return;
	set_health(w, a.reachable, a.why);
	for (int i = 0; a.ticket && i < WITNESS_QUEUE; i++) {
		if (w->open[i].ticket != a.ticket)
			continue;
		finish(w, &w->open[i], &a);
		set_late(w);
		break;
	}
}

static void poke(int fd)
{
	uint64_t one = 1;

	if (write(fd, &one, sizeof(one)) < 0)
		log_error("witness: cannot wake its thread: %s", strerror(errno));
}

static uint64_t ask(struct witness *w, const struct witness_claim *c)
{
	struct open_question *q = NULL;
	struct witness_ask a = { .claim = c, .stop = w->stop, .limit = w->cfg.timeout };
	nstime now = clock_ns();

	for (int i = 0; !q && i < WITNESS_QUEUE; i++)
		if (!w->open[i].ticket)
			q = &w->open[i];
	if (!q)
		return 0;
	a.ticket = ++w->tickets;
	a.until = now + w->cfg.timeout;
	if (c)
		a.c = *c;
	*q = (struct open_question){ .ticket = a.ticket, .claim = c, .asked = now, .late = a.until + WITNESS_SLACK };
	pthread_mutex_lock(&w->lock);
	if (w->n < WITNESS_QUEUE)
		w->queue[(w->head + w->n++) % WITNESS_QUEUE] = a;
	else
		q->late = now;	/* the thread hangs in what is not even open any more */
	pthread_mutex_unlock(&w->lock);
	poke(w->wake);
	set_late(w);
	return a.ticket;
}

uint64_t witness_look(struct witness *w)
{
	return ask(w, NULL);
}

uint64_t witness_claim(struct witness *w, const struct witness_claim *c)
{
	assert(c->next > c->expect);
	return ask(w, c);
}

nstime witness_retry_pause(const struct witness *w)
{
	return w->cfg.spec.kind == WITNESS_COMMAND ? 5 * NS_PER_S : 200 * NS_PER_MS;
}

void witness_health(const struct witness *w, struct witness_health *out)
{
	*out = w->health;
}

/* The thread's side */

static void put(struct witness *w)
{
	if (atomic_fetch_sub(&w->refs, 1) > 1)
		return;
	if (w->b)
		w->ops->free(w->b);
	if (w->wake >= 0)
		close(w->wake);
	if (w->stop >= 0)
		close(w->stop);
	pthread_mutex_destroy(&w->lock);
	pthread_mutex_destroy(&w->post_lock);
	free(w);
}

static void answer_one(struct witness *w, const struct witness_ask *q)
{
	struct answer a = { .id = w->id, .ticket = q->ticket, .answer = WITNESS_UNKNOWN };
	struct err e = { 0 };
	int rc = q->claim ? w->ops->claim(w->b, q, &a.record, &e) : w->ops->look(w->b, q, &a.record, &e);

	a.reachable = rc >= 0 || rc == -ESTALE;
	if (rc >= 0)
		a.answer = (enum witness_answer)rc;
	else
		a.record = (struct witness_record){ 0 };
	if (q->claim && a.answer == WITNESS_GRANTED) {
		a.record.generation = q->c.next;
		memcpy(a.record.owner, w->cfg.me, WITNESS_ID_LEN);
	}
	if (a.answer == WITNESS_UNKNOWN || a.answer == WITNESS_LOST)
		snprintf(a.why, sizeof(a.why), "%.*s", WITNESS_WHY_MAX - 1, e.msg);
	if (rc < 0)
		log_debug("witness: %s", e.msg);
	pthread_mutex_lock(&w->post_lock);
	if (!w->closing)
		loop_post(w->cfg.loop, answered, NULL, &a, sizeof(a));
	pthread_mutex_unlock(&w->post_lock);
}

/* The next question, or a probe. Return: whether there is one; no: the end */
static bool next(struct witness *w, struct witness_ask *q, nstime probe)
{
	for (;;) {
		uint64_t n;
		int rc;

		pthread_mutex_lock(&w->lock);
		n = w->n;
		if (n) {
			*q = w->queue[w->head];
			w->head = (w->head + 1) % WITNESS_QUEUE;
			w->n--;
		}
		pthread_mutex_unlock(&w->lock);
		if (n && clock_ns() < q->until)
			return true;
		if (n)
			continue;	/* the timer has answered it, or will */
		rc = shell_wait(w->stop, w->wake, probe);
		if (rc < 0)
			return false;
		if (!rc) {
			*q = (struct witness_ask){ .stop = w->stop, .until = clock_ns() + w->cfg.timeout, .limit = w->cfg.timeout };
			return true;
		}
		if (read(w->wake, &n, sizeof(n)) < 0)
			return false;
	}
}

static void *run(void *arg)
{
	struct witness *w = arg;
	bool probes = witness_keeps_record(w->cfg.spec.kind) && w->cfg.probe != NS_NEVER;
	nstime probe = probes ? clock_ns() : NS_NEVER;
	struct witness_ask q;

	while (next(w, &q, probe)) {
		answer_one(w, &q);
		probe = probes ? clock_ns() + w->cfg.probe : NS_NEVER;
	}
	put(w);
	return NULL;
}

static int start(struct witness *w, struct err *e)
{
	sigset_t all, old;
	int rc;

	if (w->wake < 0 || w->stop < 0)
		return err_set(e, -errno, "no event for the witness: %s", strerror(errno));
	if (w->cfg.spec.kind == WITNESS_ETCD)
		w->b = witness_etcd_new(&w->cfg, e);
	else if (w->cfg.spec.kind == WITNESS_DISK)
		w->b = witness_disk_new(&w->cfg, e);
	else
		w->b = &w->cfg;
	if (!w->b)
		return -EINVAL;
	if (w->cfg.spec.kind == WITNESS_COMMAND && witness_command_allow(&w->cfg.spec, e))
		return e->code;
	/* Signals are the main thread's business. */
	sandbox_block(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	atomic_store(&w->refs, 2);
	rc = pthread_create(&w->thread, NULL, run, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc) {
		atomic_store(&w->refs, 1);
		return err_set(e, -rc, "the witness's thread cannot be started: %s", strerror(rc));
	}
	return 0;
}

struct witness *witness_open(const struct witness_cfg *cfg, struct err *e)
{
	static atomic_uint_fast64_t ids;
	struct witness *w = calloc(1, sizeof(*w));

	if (!w) {
		err_set(e, -ENOMEM, "no memory for the witness");
		return NULL;
	}
	w->cfg = *cfg;
	if (!w->cfg.timeout)
		w->cfg.timeout = cfg->spec.kind == WITNESS_COMMAND ? WITNESS_DEF_COMMAND : WITNESS_DEF_TIMEOUT;
	if (!w->cfg.probe)
		w->cfg.probe = WITNESS_DEF_PROBE;
	w->ops = kinds[cfg->spec.kind];
	w->id = atomic_fetch_add(&ids, 1) + 1;
	w->late = (struct loop_timer){ .fn = is_late, .arg = w };
	w->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	w->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&w->lock, NULL);
	pthread_mutex_init(&w->post_lock, NULL);
	atomic_store(&w->refs, 1);
	if (start(w, e)) {
		put(w);
		return NULL;
	}
	pthread_mutex_lock(&live_lock);
	w->next = live;
	live = w;
	pthread_mutex_unlock(&live_lock);
	return w;
}

void witness_close(struct witness *w)
{
	struct timespec end;

	if (!w)
		return;
	pthread_mutex_lock(&live_lock);
	for (struct witness **p = &live; *p; p = &(*p)->next) {
		if (*p == w) {
			*p = w->next;
			break;
		}
	}
	pthread_mutex_unlock(&live_lock);
	loop_timer_del(w->cfg.loop, &w->late);
	poke(w->stop);
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += JOIN_MS * (long)NS_PER_MS;
	end.tv_sec += end.tv_nsec / (long)NS_PER_S;
	end.tv_nsec %= (long)NS_PER_S;
	/* The lock is held by a thread that waits for a full queue, perhaps of the caller's own loop. */
	if (!pthread_mutex_clocklock(&w->post_lock, CLOCK_MONOTONIC, &end)) {
		w->closing = true;
		pthread_mutex_unlock(&w->post_lock);
	}
	if (pthread_clockjoin_np(w->thread, NULL, CLOCK_MONOTONIC, &end)) {
		log_warn("witness: its thread hangs, left behind");
		pthread_detach(w->thread);
	}
	put(w);
}
