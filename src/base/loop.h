/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_LOOP_H
#define BASE_LOOP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/err.h"

struct loop;

/* One watched descriptor; embedded in the owner's struct, which must outlive the watch. */
struct loop_fd {
	int fd;
	void (*fn)(struct loop_fd *w, uint32_t events);	/* EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP */
	void *arg;
};

/* One timer; embedded in the owner's struct. Zero-initialise, set @fn and @arg, then loop_timer_set(). */
struct loop_timer {
	nstime at;		/* absolute deadline; NS_NEVER: not set */
	void (*fn)(struct loop_timer *t);
	void *arg;
	size_t slot;		/* private: 1 + index in the heap, 0 when not set */
};

#define LOOP_MSG_DATA 232	/* bytes that a posted message can carry */

/*
 * loop_new() - make a loop
 * @name: for the thread's name and the log; not copied, so a literal
 *
 * Return: the loop, or NULL with @e filled
 */
struct loop *loop_new(const char *name, struct err *e);

/* loop_free() - free a loop that does not run; NULL is fine */
void loop_free(struct loop *l);

/*
 * loop_run() - serve until loop_stop()
 *
 * Each turn: wait, posted messages, descriptors, the before-sleep hook, timers last, so that a process that
 * was frozen sees what had arrived before it concludes anything from time that has passed.
 */
int loop_run(struct loop *l);

/* loop_stop() - make loop_run() return after this turn; any thread */
void loop_stop(struct loop *l);

/* loop_now() - the time at the start of this turn; the loop's thread only */
nstime loop_now(struct loop *l);

/* loop_progress() - since when the loop is busy with one turn, now when it sleeps; any thread (the heartbeat tells) */
nstime loop_progress(const struct loop *l);

/*
 * loop_fd_add() / loop_fd_mod() / loop_fd_del() - watch a descriptor, change what for, stop
 * @events: EPOLLIN and so on, level-triggered
 *
 * After loop_fd_del() the callback is not called any more, not even for events of this turn.
 * The descriptor itself stays the caller's. The loop's thread only (or before loop_run()).
 *
 * Return: 0, or -errno
 */
int loop_fd_add(struct loop *l, struct loop_fd *w, uint32_t events);
int loop_fd_mod(struct loop *l, struct loop_fd *w, uint32_t events);
void loop_fd_del(struct loop *l, struct loop_fd *w);

/* loop_timer_set() - call @t->fn at @at (absolute), replacing an earlier setting; the loop's thread only */
int loop_timer_set(struct loop *l, struct loop_timer *t, nstime at);
/* loop_timer_del() - forget a timer; harmless when not set */
void loop_timer_del(struct loop *l, struct loop_timer *t);

/* loop_before_sleep() - @fn is called once in each turn after all callbacks, e.g. to flush what they queued */
void loop_before_sleep(struct loop *l, void (*fn)(void *arg), void *arg);

/*
 * loop_post() - have @fn(@arg, copy of @data, @len) called in the loop's thread; any thread
 * @data: copied; @len at most LOOP_MSG_DATA
 *
 * Messages of one sender arrive in order. The queue is bounded: when it is full the caller waits, which only
 * happens when the receiver hangs, and then the heartbeat's progress ages end it.
 *
 * Return: 0, or -EMSGSIZE
 */
int loop_post(struct loop *l, void (*fn)(void *arg, const void *data, size_t len), void *arg, const void *data,
	      size_t len);

#endif
