/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * QMP client: theory of operation
 *
 * QMP is JSON objects on a stream: commands with an id one way, their answers with the same id and events the other
 * way. QEMU answers in order. The checkpoint's pause counts round trips, so a command is written to the socket at
 * once, without a trip through the loop; only what the socket does not take waits in a bounded buffer. Commands may
 * be pipelined, also behind the negotiation, whose answers are checked when they come.
 *
 * Each command has an absolute deadline. When it passes, the callback is told -ETIMEDOUT once and the command is
 * forgotten: an answer with an id that nobody waits for is counted and dropped. One timer serves all deadlines.
 *
 * All input is checked: a message that is not an object, grows over QMP_IN_MAX or nests too deeply ends the
 * connection, and so does an end of file in the middle of one. The end of a connection, whatever its cause, calls
 * each pending callback and then closed(), from a loop callback and never from inside qmp_cmd().
 *
 * Callbacks may free the connection. So dispatching holds it (busy), and the last one out frees the memory.
 *
 * Runs in the control loop's thread. last_reply and waiting_since are atomics, for the heartbeat's thread.
 * Not done: passing descriptors over QMP (QEMU inherits what it needs at its start); out-of-band commands.
 */
#include "engine/qmp.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define QMP_READ	65536	/* bytes read at a time */
#define QMP_READS	16	/* reads in one turn, so that a flood of events does not starve the loop's others */

struct qmp_pending {
	uint64_t id;
	nstime sent, deadline;
	qmp_reply_fn *cb;
	void *arg;
};

struct qmp {
	struct loop *loop;
	struct loop_fd watch;
	struct loop_timer timer;
	const struct qmp_ops *ops;
	void *arg;

	struct json_tokener *tok;
	size_t in_msg;			/* bytes of the message that is being read */
	bool greeted;
	bool ready;
	nstime greet_by;

	uint64_t next_id;
	struct qmp_pending pending[QMP_PENDING_MAX];	/* oldest first */
	unsigned int n_pending;

	char *out;
	size_t out_len, out_cap;

	unsigned int busy;		/* callbacks on the stack */
	bool closed;
	bool freed;
	_Atomic nstime last_reply, waiting_since;
	struct qmp_stats stats;
	char version[32];
	char buf[QMP_READ];
};

static void qmp_unref(struct qmp *q)
{
	if (--q->busy || !q->freed)
		return;
	json_tokener_free(q->tok);
	free(q->out);
	free(q);
}

static void note_oldest(struct qmp *q)
{
	atomic_store_explicit(&q->waiting_since, q->n_pending ? q->pending[0].sent : 0, memory_order_relaxed);
}

static void arm(struct qmp *q)
{
	nstime at = q->ready ? NS_NEVER : q->greet_by;

	for (unsigned int i = 0; i < q->n_pending; i++)
		if (q->pending[i].deadline < at)
			at = q->pending[i].deadline;
	if (at == NS_NEVER)
		loop_timer_del(q->loop, &q->timer);
	else if (at != q->timer.at || !q->timer.slot)
		loop_timer_set(q->loop, &q->timer, at);
}

/* Take one command off the list. */
static struct qmp_pending take_pending(struct qmp *q, unsigned int i)
{
	struct qmp_pending p = q->pending[i];

	memmove(&q->pending[i], &q->pending[i + 1], (q->n_pending - i - 1) * sizeof(p));
	q->n_pending--;
	note_oldest(q);
	return p;
}

static void reply(struct qmp_pending *p, int code, struct json_object *ret, const char *desc)
{
	if (p->cb)
		p->cb(p->arg, code, ret, desc);
}

/* Stop listening and tell everyone; @e NULL: the owner does it and need not be told. */
static void shut(struct qmp *q, int code, const char *desc, const struct err *e)
{
	if (q->closed)
		return;
	q->closed = true;
	loop_fd_del(q->loop, &q->watch);
	loop_timer_del(q->loop, &q->timer);
	close(q->watch.fd);
	while (q->n_pending) {
		struct qmp_pending p = take_pending(q, 0);

		reply(&p, code, NULL, desc);
	}
	if (e && q->ops->closed && !q->freed)
		q->ops->closed(q->arg, e);
}

static void fail(struct qmp *q, int code, const char *text)
{
	struct err e = { 0 };

	err_set(&e, code, "QEMU's monitor: %s", text);
	shut(q, code == -ETIMEDOUT ? -ETIMEDOUT : -ECONNRESET, e.msg, &e);
}

static void greet(struct qmp *q, struct json_object *hello)
{
	struct json_object *version, *qemu, *part;
	int v[3] = { 0 };
	static const char *const names[] = { "major", "minor", "micro" };

	q->greeted = true;
	if (!json_object_object_get_ex(hello, "version", &version) ||
	    !json_object_object_get_ex(version, "qemu", &qemu))
		return;
	for (int i = 0; i < 3; i++)
		if (json_object_object_get_ex(qemu, names[i], &part))
			v[i] = json_object_get_int(part);
	snprintf(q->version, sizeof(q->version), "%d.%d.%d", v[0], v[1], v[2]);
}

static void capabilities_done(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct qmp *q = arg;
	struct err e = { 0 };

	if (code == -EREMOTEIO) {
		err_set(&e, -EPROTO, "QEMU's monitor refuses the negotiation: %s", desc);
		shut(q, -ECONNRESET, e.msg, &e);
	}
	if (code)
		return;
	q->ready = true;
	arm(q);
	if (q->ops->ready)
		q->ops->ready(q->arg, q->version);
}

static void take_reply(struct qmp *q, struct json_object *msg, struct json_object *ret, struct json_object *error)
{
	char desc[QMP_ERROR_MAX] = "no reason given";
	struct json_object *o;
	struct qmp_pending p;
	unsigned int i = 0;

	/* An answer without id is to something that QEMU could not read: the oldest, as it answers in order. */
	if (json_object_object_get_ex(msg, "id", &o)) {
		uint64_t id = (uint64_t)json_object_get_int64(o);

		while (i < q->n_pending && q->pending[i].id != id)
			i++;
	}
	if (i >= q->n_pending) {
		q->stats.late++;
		return;
	}
	p = take_pending(q, i);
	arm(q);
	if (error) {
		q->stats.errors++;
		if (json_object_object_get_ex(error, "desc", &o) && o)
			snprintf(desc, sizeof(desc), "%s", json_object_get_string(o));
		reply(&p, -EREMOTEIO, NULL, desc);
	} else {
		q->stats.replies++;
		reply(&p, 0, ret, NULL);
	}
}

static void take_message(struct qmp *q, struct json_object *msg)
{
	struct json_object *o, *data = NULL;

	atomic_store_explicit(&q->last_reply, clock_ns(), memory_order_relaxed);
	if (!json_object_is_type(msg, json_type_object)) {
		fail(q, -EPROTO, "it sent something that is not an object");
	} else if (!q->greeted) {
		if (json_object_object_get_ex(msg, "QMP", &o) && json_object_is_type(o, json_type_object))
			greet(q, o);
		else
			fail(q, -EPROTO, "it did not begin with a greeting");
	} else if (json_object_object_get_ex(msg, "event", &o) && json_object_is_type(o, json_type_string)) {
		q->stats.events++;
		json_object_object_get_ex(msg, "data", &data);
		if (q->ops->event)
			q->ops->event(q->arg, json_object_get_string(o), data);
	} else if (json_object_object_get_ex(msg, "return", &o)) {
		take_reply(q, msg, o, NULL);
	} else if (json_object_object_get_ex(msg, "error", &o)) {
		take_reply(q, msg, NULL, o);
	} else {
		fail(q, -EPROTO, "it sent a message that is neither answer nor event");
	}
}

static void take_bytes(struct qmp *q, const char *p, size_t len)
{
	while (len && !q->closed) {
		struct json_object *msg;
		size_t used;

		if (!q->in_msg && isspace((unsigned char)*p)) {
			p++;
			len--;
			continue;
		}
		msg = json_tokener_parse_ex(q->tok, p, (int)len);
		used = json_tokener_get_parse_end(q->tok);
		q->in_msg += used;
		if (q->in_msg > QMP_IN_MAX) {
			if (msg)
				json_object_put(msg);
			fail(q, -EMSGSIZE, "a message that is too long");
			return;
		}
		switch (json_tokener_get_error(q->tok)) {
		case json_tokener_success:
			q->in_msg = 0;
			json_tokener_reset(q->tok);
			take_message(q, msg);
			json_object_put(msg);
			break;
		case json_tokener_continue:
			/* It stops short at a NUL, which is in no JSON. */
			if (used == len)
				return;
			/* fall through */
		default:
			fail(q, -EPROTO, "it sent something that is not JSON");
			return;
		}
		p += used;
		len -= used;
	}
}

static int flush(struct qmp *q)
{
	ssize_t n;

	while (q->out_len) {
		n = send(q->watch.fd, q->out, q->out_len, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0)
			return errno == EINTR ? 0 : -errno;
		memmove(q->out, q->out + n, q->out_len - (size_t)n);
		q->out_len -= (size_t)n;
	}
	return 0;
}

static void readable(struct qmp *q)
{
	for (int i = 0; i < QMP_READS && !q->closed; i++) {
		ssize_t n = recv(q->watch.fd, q->buf, sizeof(q->buf), MSG_DONTWAIT);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0 && errno == ECONNRESET)
			n = 0;	/* closed with some of ours unread: closed all the same */
		if (n <= 0) {
			fail(q, n ? -errno : -ECONNRESET, n ? strerror(errno) : q->in_msg ?
			     "the connection was closed in the middle of a message" : "the connection was closed");
			return;
		}
		take_bytes(q, q->buf, (size_t)n);
		if ((size_t)n < sizeof(q->buf))
			return;
	}
}

static void on_fd(struct loop_fd *w, uint32_t events)
{
	struct qmp *q = w->arg;
	int rc;

	q->busy++;
	if (events & EPOLLOUT) {
		rc = flush(q);
		if (rc && rc != -EAGAIN && rc != -EPIPE && rc != -ECONNRESET)
			fail(q, rc, strerror(-rc));
		else if (!q->out_len || rc == -EPIPE || rc == -ECONNRESET)
			loop_fd_mod(q->loop, &q->watch, EPOLLIN);
	}
	/* A closed connection may have last words in it: read until its end says so. */
	if (!q->closed && events & (EPOLLIN | EPOLLHUP | EPOLLERR))
		readable(q);
	qmp_unref(q);
}

static void on_timer(struct loop_timer *t)
{
	struct qmp *q = t->arg;
	nstime now = clock_ns();

	q->busy++;
	if (!q->ready && now >= q->greet_by)
		fail(q, -ETIMEDOUT, "QEMU did not open it in time");
	for (unsigned int i = 0; i < q->n_pending && !q->closed;) {
		struct qmp_pending p;

		if (q->pending[i].deadline > now) {
			i++;
			continue;
		}
		p = take_pending(q, i);
		q->stats.timeouts++;
		reply(&p, -ETIMEDOUT, NULL, "QEMU did not answer in time");
		i = 0;	/* the callback may have changed the list */
	}
	if (!q->closed)
		arm(q);
	qmp_unref(q);
}

struct qmp *qmp_new(struct loop *l, int fd, nstime deadline, const struct qmp_ops *ops, void *arg, struct err *e)
{
	struct qmp *q = calloc(1, sizeof(*q));
	int rc;

	if (!q) {
		close(fd);
		err_set(e, -ENOMEM, "no memory for QEMU's monitor");
		return NULL;
	}
	q->loop = l;
	q->ops = ops;
	q->arg = arg;
	q->greet_by = deadline;
	q->watch = (struct loop_fd){ .fd = fd, .fn = on_fd, .arg = q };
	q->timer = (struct loop_timer){ .fn = on_timer, .arg = q };
	q->tok = json_tokener_new_ex(QMP_DEPTH_MAX);
	rc = q->tok ? loop_fd_add(l, &q->watch, EPOLLIN) : -ENOMEM;
	if (rc) {
		err_set(e, rc, "QEMU's monitor: %s", strerror(-rc));
		goto out;
	}
	rc = qmp_cmd(q, "qmp_capabilities", NULL, deadline, capabilities_done, q);
	/* Who is at the other end may have ended already; the loop reports that, and its exit tells why. */
	if (rc && rc != -EPIPE) {
		err_set(e, rc, "QEMU's monitor: %s", strerror(-rc));
		loop_fd_del(l, &q->watch);
		goto out;
	}
	return q;
out:
	close(fd);
	if (q->tok)
		json_tokener_free(q->tok);
	free(q->out);
	free(q);
	return NULL;
}

void qmp_free(struct qmp *q)
{
	if (!q || q->freed)
		return;
	q->busy++;
	q->freed = true;
	shut(q, -ECANCELED, "the connection was given up", NULL);
	qmp_unref(q);
}

/* Keep what the socket did not take. */
static int queue_out(struct qmp *q, const char *p, size_t len)
{
	if (q->out_len + len > q->out_cap) {
		size_t cap = q->out_cap ? q->out_cap : 4096;
		char *out;

		while (cap < q->out_len + len)
			cap *= 2;
		out = realloc(q->out, cap);
		if (!out)
			return -ENOMEM;
		q->out = out;
		q->out_cap = cap;
	}
	memcpy(q->out + q->out_len, p, len);
	q->out_len += len;
	return loop_fd_mod(q->loop, &q->watch, EPOLLIN | EPOLLOUT);
}

static int send_line(struct qmp *q, const char *line, size_t len)
{
	ssize_t n = 0;

	if (q->out_len + len > QMP_OUT_MAX)
		return -ENOBUFS;
	if (!q->out_len)
		n = send(q->watch.fd, line, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0) {
		/* A broken connection is reported by the loop, where callbacks may be called. */
		if (errno != EAGAIN && errno != EINTR)
			return -EPIPE;
		n = 0;
	}
	if ((size_t)n < len && queue_out(q, line + n, len - (size_t)n)) {
		/* Half a command may be on its way: nothing that is said after it could be understood. */
		shutdown(q->watch.fd, SHUT_RDWR);
		return -EPIPE;
	}
	return 0;
}

/* Write the id and @parts, which are the rest of the command, as one line. */
static int send_cmd(struct qmp *q, const char *const parts[5], nstime deadline, qmp_reply_fn *cb, void *arg)
{
	char small[512], *line = small;
	size_t size = 64, len;
	uint64_t id = q->next_id + 1;
	int rc;

	if (q->closed)
		return -EPIPE;
	if (q->n_pending >= QMP_PENDING_MAX)
		return -EBUSY;
	for (int i = 0; i < 5; i++)
		size += strlen(parts[i]);
	if (size > sizeof(small)) {
		line = malloc(size);
		if (!line)
			return -ENOBUFS;
	}
	len = (size_t)snprintf(line, size, "{\"id\":%" PRIu64 ",%s%s%s%s%s\n", id, parts[0], parts[1], parts[2],
			       parts[3], parts[4]);
	rc = send_line(q, line, len);
	if (line != small)
		free(line);
	if (rc)
		return rc;
	q->next_id = id;
	q->stats.commands++;
	q->pending[q->n_pending++] = (struct qmp_pending){
		.id = id, .sent = clock_ns(), .deadline = deadline, .cb = cb, .arg = arg,
	};
	note_oldest(q);
	arm(q);
	return 0;
}

int qmp_cmd(struct qmp *q, const char *name, const char *args_json, nstime deadline, qmp_reply_fn *cb, void *arg)
{
	const char *const bare[5] = { "\"execute\":\"", name, "\"}", "", "" };
	const char *const full[5] = { "\"execute\":\"", name, "\",\"arguments\":", args_json, "}" };

	return send_cmd(q, args_json ? full : bare, deadline, cb, arg);
}

int qmp_cmd_json(struct qmp *q, const char *json, nstime deadline, qmp_reply_fn *cb, void *arg)
{
	const char *const parts[5] = { json + strspn(json, " {"), "", "", "", "" };

	return send_cmd(q, parts, deadline, cb, arg);
}

nstime qmp_last_reply(const struct qmp *q)
{
	return atomic_load_explicit(&q->last_reply, memory_order_relaxed);
}

nstime qmp_waiting_since(const struct qmp *q)
{
	return atomic_load_explicit(&q->waiting_since, memory_order_relaxed);
}

const struct qmp_stats *qmp_stats(const struct qmp *q)
{
	return &q->stats;
}
