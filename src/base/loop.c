/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Event loop: theory of operation
 *
 * One loop is one thread that owns all the state its callbacks touch; threads share nothing but messages. There
 * are several in a process (control, frames, ...), each built the same: an epoll set, a binary heap of timers, and
 * a bounded ring of messages from other threads, with an eventfd that wakes the loop.
 *
 * Order inside a turn matters. A process that was stopped for seconds (SIGSTOP, a suspended host) wakes with
 * expired timers and unread sockets at once; what the sockets hold may be "the peer has taken over". So timers run
 * last, after every descriptor that was readable was served.
 *
 * The kernel's timer is set only when the earliest timer of the heap comes before what it is set to. A deadline that moves
 * on with each turn, as most do, then costs one turn that finds nothing due now and then, not a system call in each.
 *
 * Deleting a watch while its event waits in the same batch is made safe by clearing the pointer in the batch. No
 * priority, no signal handling, no nesting: nobody needs them here.
 */
#include "base/loop.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#define LOOP_BATCH	64
#define LOOP_QUEUE	1024	/* messages under way to one loop; a sender waits beyond that */

struct loop_msg {
	void (*fn)(void *arg, const void *data, size_t len);
	void *arg;
	size_t len;
	char data[LOOP_MSG_DATA];
};

struct loop {
	const char *name;
	int epfd;
	int wakefd;
	int timerfd;
	nstime now;
	_Atomic nstime progress;
	atomic_bool stop;

	nstime armed;	/* what timerfd is set to, NS_NEVER: not at all */
	struct loop_timer **heap;
	size_t n_heap, cap_heap;

	struct epoll_event batch[LOOP_BATCH];
	int n_batch, i_batch;

	void (*before_sleep)(void *arg);
	void *before_sleep_arg;

	pthread_mutex_t lock;		/* guards the four below */
	pthread_cond_t room;
	struct loop_msg *queue;
	size_t head, count;
	pthread_t thread;
	bool running;
};

struct loop *loop_new(const char *name, struct err *e)
{
	struct loop *l = calloc(1, sizeof(*l));
	struct epoll_event ev = { .events = EPOLLIN };

	if (!l) {
		err_set(e, -ENOMEM, "no memory for the %s loop", name);
		return NULL;
	}
	l->name = name;
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->timerfd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	l->queue = calloc(LOOP_QUEUE, sizeof(*l->queue));
	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->room, NULL);
	if (l->epfd < 0 || l->wakefd < 0 || l->timerfd < 0 || !l->queue) {
		err_set(e, -errno, "cannot make the %s loop: %s", name, strerror(errno));
		loop_free(l);
		return NULL;
	}
	ev.data.ptr = &l->wakefd;
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->wakefd, &ev) < 0)
		goto fail;
	ev.data.ptr = &l->timerfd;
	if (epoll_ctl(l->epfd, EPOLL_CTL_ADD, l->timerfd, &ev) < 0)
		goto fail;
	l->now = clock_ns();
	l->armed = NS_NEVER;
	atomic_store(&l->progress, l->now);
	return l;
fail:
	err_set(e, -errno, "cannot make the %s loop: %s", name, strerror(errno));
	loop_free(l);
	return NULL;
}

void loop_free(struct loop *l)
{
	if (!l)
		return;
	if (l->epfd >= 0)
		close(l->epfd);
	if (l->wakefd >= 0)
		close(l->wakefd);
	if (l->timerfd >= 0)
		close(l->timerfd);
	pthread_mutex_destroy(&l->lock);
	pthread_cond_destroy(&l->room);
	free(l->queue);
	free(l->heap);
	free(l);
}

static void loop_wake(struct loop *l)
{
	uint64_t one = 1;

	if (write(l->wakefd, &one, sizeof(one)) < 0) {
		/* EAGAIN: the counter is full, so the loop is being woken already. */
	}
}

void loop_stop(struct loop *l)
{
	atomic_store(&l->stop, true);
	loop_wake(l);
}

nstime loop_now(struct loop *l)
{
	return l->now;
}

nstime loop_progress(const struct loop *l)
{
	nstime p = atomic_load(&((struct loop *)l)->progress);

	return p == NS_NEVER ? clock_ns() : p;
}

int loop_fd_add(struct loop *l, struct loop_fd *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	return epoll_ctl(l->epfd, EPOLL_CTL_ADD, w->fd, &ev) < 0 ? -errno : 0;
}

int loop_fd_mod(struct loop *l, struct loop_fd *w, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.ptr = w };

	return epoll_ctl(l->epfd, EPOLL_CTL_MOD, w->fd, &ev) < 0 ? -errno : 0;
}

void loop_fd_del(struct loop *l, struct loop_fd *w)
{
	epoll_ctl(l->epfd, EPOLL_CTL_DEL, w->fd, NULL);
	for (int i = l->i_batch; i < l->n_batch; i++)
		if (l->batch[i].data.ptr == w)
			l->batch[i].data.ptr = NULL;
}

static void heap_put(struct loop *l, size_t i, struct loop_timer *t)
{
	l->heap[i] = t;
	t->slot = i + 1;
}

static void heap_up(struct loop *l, size_t i)
{
	struct loop_timer *t = l->heap[i];

	while (i > 0 && l->heap[(i - 1) / 2]->at > t->at) {
		heap_put(l, i, l->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_put(l, i, t);
}

static void heap_down(struct loop *l, size_t i)
{
	struct loop_timer *t = l->heap[i];

	for (;;) {
		size_t c = 2 * i + 1;

		if (c >= l->n_heap)
			break;
		if (c + 1 < l->n_heap && l->heap[c + 1]->at < l->heap[c]->at)
			c++;
		if (l->heap[c]->at >= t->at)
			break;
		heap_put(l, i, l->heap[c]);
		i = c;
	}
	heap_put(l, i, t);
}

void loop_timer_del(struct loop *l, struct loop_timer *t)
{
	size_t i;

	if (!t->slot)
		return;
	i = t->slot - 1;
	t->slot = 0;
	t->at = NS_NEVER;
	l->n_heap--;
	if (i == l->n_heap)
		return;
	heap_put(l, i, l->heap[l->n_heap]);
	heap_up(l, i);
	heap_down(l, l->heap[i]->slot - 1);
}

int loop_timer_set(struct loop *l, struct loop_timer *t, nstime at)
{
	loop_timer_del(l, t);
	if (at == NS_NEVER)
		return 0;
	if (l->n_heap == l->cap_heap) {
		size_t cap = l->cap_heap ? 2 * l->cap_heap : 16;
		struct loop_timer **h = realloc(l->heap, cap * sizeof(*h));

		if (!h)
			return -ENOMEM;
		l->heap = h;
		l->cap_heap = cap;
	}
	t->at = at;
	l->n_heap++;
	heap_put(l, l->n_heap - 1, t);
	heap_up(l, l->n_heap - 1);
	return 0;
}

void loop_before_sleep(struct loop *l, void (*fn)(void *arg), void *arg)
{
	l->before_sleep = fn;
	l->before_sleep_arg = arg;
}

int loop_post(struct loop *l, void (*fn)(void *arg, const void *data, size_t len), void *arg, const void *data,
	      size_t len)
{
	struct loop_msg *m;

	if (len > LOOP_MSG_DATA)
		return -EMSGSIZE;
	pthread_mutex_lock(&l->lock);
	/* A loop that posts to itself must not wait for itself: nothing else would make room. */
	while (l->count == LOOP_QUEUE && !(l->running && pthread_equal(l->thread, pthread_self())) &&
	       !atomic_load(&l->stop))
		pthread_cond_wait(&l->room, &l->lock);
	if (l->count == LOOP_QUEUE) {
		pthread_mutex_unlock(&l->lock);
		return -EMSGSIZE;
	}
	m = &l->queue[(l->head + l->count++) % LOOP_QUEUE];
	m->fn = fn;
	m->arg = arg;
	m->len = len;
	if (len)
		memcpy(m->data, data, len);
	pthread_mutex_unlock(&l->lock);
	loop_wake(l);
	return 0;
}

static void loop_messages(struct loop *l)
{
	/* At most what was there at the start, so that a chatty sender cannot starve the descriptors. */
	size_t n;

	pthread_mutex_lock(&l->lock);
	n = l->count;
	while (n--) {
		struct loop_msg m = l->queue[l->head];

		l->head = (l->head + 1) % LOOP_QUEUE;
		l->count--;
		pthread_cond_signal(&l->room);
		pthread_mutex_unlock(&l->lock);
		m.fn(m.arg, m.data, m.len);
		pthread_mutex_lock(&l->lock);
	}
	n = l->count;
	pthread_mutex_unlock(&l->lock);
	if (n)
		loop_wake(l);
}

static void loop_arm(struct loop *l)
{
	struct itimerspec its = { 0 };
	nstime at = l->n_heap ? l->heap[0]->at : NS_NEVER;

	if (at >= l->armed)
		return;
	l->armed = at;
	/* All zero would disarm it. */
	at = at ? at : 1;
	its.it_value.tv_sec = (time_t)(at / NS_PER_S);
	its.it_value.tv_nsec = (long)(at % NS_PER_S);
	timerfd_settime(l->timerfd, TFD_TIMER_ABSTIME, &its, NULL);
}

int loop_run(struct loop *l)
{
	pthread_mutex_lock(&l->lock);
	l->thread = pthread_self();
	l->running = true;
	pthread_mutex_unlock(&l->lock);
	while (!atomic_load(&l->stop)) {
		uint64_t n;

		loop_arm(l);
		/* Who sleeps has nothing to do and is not stuck. */
		atomic_store(&l->progress, NS_NEVER);
		l->n_batch = epoll_wait(l->epfd, l->batch, LOOP_BATCH, -1);
		atomic_store(&l->progress, clock_ns());
		if (l->n_batch < 0 && errno != EINTR)
			return -errno;
		l->now = clock_ns();
		for (l->i_batch = 0; l->i_batch < l->n_batch; l->i_batch++) {
			struct epoll_event *ev = &l->batch[l->i_batch];
			struct loop_fd *w = ev->data.ptr;

			if (ev->data.ptr == &l->wakefd) {
				if (read(l->wakefd, &n, sizeof(n)) > 0)
					loop_messages(l);
			} else if (ev->data.ptr == &l->timerfd) {
				if (read(l->timerfd, &n, sizeof(n)) < 0) {
					/* Re-armed meanwhile; the heap below decides. */
				} else {
					l->armed = NS_NEVER;
				}
			} else if (w) {
				w->fn(w, ev->events);
			}
		}
		l->n_batch = l->i_batch = 0;
		/* Bounded by what is set now: a timer that sets itself anew waits for the next turn. */
		for (size_t k = l->n_heap; k-- && l->n_heap && l->heap[0]->at <= l->now;) {
			struct loop_timer *t = l->heap[0];

			loop_timer_del(l, t);
			t->fn(t);
		}
		if (l->before_sleep)
			l->before_sleep(l->before_sleep_arg);
	}
	pthread_mutex_lock(&l->lock);
	l->running = false;
	pthread_cond_broadcast(&l->room);
	pthread_mutex_unlock(&l->lock);
	return 0;
}
