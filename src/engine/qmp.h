/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_QMP_H
#define ENGINE_QMP_H

#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"

struct json_object;
struct qmp;

enum {
	QMP_PENDING_MAX = 64,		/* commands under way at once */
	QMP_OUT_MAX = 1 << 18,		/* bytes that QEMU has not read yet */
	QMP_IN_MAX = 8 << 20,		/* bytes of one message; QEMU's schema is about 200 KB */
	QMP_DEPTH_MAX = 32,		/* nesting of one message */
	QMP_ERROR_MAX = 256,		/* kept bytes of QEMU's error sentence */
};

/* What the owner of a connection is told; all in the loop's thread, any may be NULL. */
struct qmp_ops {
	/* The greeting was read and the capabilities are agreed. @version: "7.2.22", valid during the call. */
	void (*ready)(void *arg, const char *version);
	/* @data: borrowed, NULL when the event carries none */
	void (*event)(void *arg, const char *name, struct json_object *data);
	/*
	 * The connection is gone: -ECONNRESET (QEMU closed it), -EPROTO (it does not speak QMP), -EMSGSIZE (a
	 * message over QMP_IN_MAX), -ETIMEDOUT (no greeting in time), or another -errno; @e has the sentence. Called
	 * once, after each pending command has been called back. qmp_free() is still the owner's to call.
	 */
	void (*closed)(void *arg, const struct err *e);
};

/*
 * The answer to a command, called exactly once.
 * @code: 0, -EREMOTEIO (QEMU says no), -ETIMEDOUT (a later answer is ignored), -ECONNRESET (connection gone),
 *        -ECANCELED (qmp_free())
 * @ret:  what QEMU returned, borrowed; NULL unless @code is 0
 * @desc: why not, for people; NULL when @code is 0
 *
 * It may send commands, and may call qmp_free().
 */
typedef void qmp_reply_fn(void *arg, int code, struct json_object *ret, const char *desc);

struct qmp_stats {
	uint64_t commands, replies, errors, events, timeouts, late;
};

/*
 * qmp_new() - speak QMP on a socket
 * @l:        loop in whose thread everything happens
 * @fd:       stream socket; taken over, also on error
 * @deadline: absolute; when the greeting has not come by then, the connection is given up
 * @ops:      not copied
 *
 * Commands may be sent at once; they reach QEMU behind the negotiation.
 *
 * Return: the connection, or NULL with @e filled
 */
struct qmp *qmp_new(struct loop *l, int fd, nstime deadline, const struct qmp_ops *ops, void *arg, struct err *e);

/* qmp_free() - close; pending commands are called back with -ECANCELED, closed() is not called; NULL is fine */
void qmp_free(struct qmp *q);

/*
 * qmp_cmd() - send a command
 * @name:      e.g. "stop"
 * @args_json: a JSON object as text, or NULL; it must be right: it is not checked
 * @deadline:  absolute; NS_NEVER: none
 * @cb:        gets the answer; NULL: nobody cares
 *
 * Never blocks and never calls @cb itself. Commands are answered in the order in which they were sent.
 *
 * Return: 0; -EBUSY (QMP_PENDING_MAX are under way), -ENOBUFS (QEMU does not read), -EPIPE (connection gone):
 * then @cb is not called
 */
int qmp_cmd(struct qmp *q, const char *name, const char *args_json, nstime deadline, qmp_reply_fn *cb, void *arg);

/*
 * qmp_cmd_json() - send a command that is text already
 * @json: a whole command without id: {"execute": ...}, to be right as above
 *
 * Otherwise like qmp_cmd().
 */
int qmp_cmd_json(struct qmp *q, const char *json, nstime deadline, qmp_reply_fn *cb, void *arg);

/* qmp_last_reply() - when QEMU last said anything, 0: never; any thread (the heartbeat reports it) */
nstime qmp_last_reply(const struct qmp *q);

/* qmp_waiting_since() - when the oldest unanswered command was sent, 0: none is; any thread */
nstime qmp_waiting_since(const struct qmp *q);

/* qmp_stats() - counters since qmp_new(); the loop's thread */
const struct qmp_stats *qmp_stats(const struct qmp *q);

#endif
