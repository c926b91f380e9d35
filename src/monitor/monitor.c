/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Control socket: theory of operation
 *
 * A unix stream socket, one line of JSON each way (request.c), several clients at once, all in the control loop,
 * which also steers checkpoints; so nothing here waits and nothing grows without limit.
 *
 * Who may talk: the directory is 0700 and the socket 0600 from its first moment (fchmod before bind), and the
 * peer's uid, asked from the kernel, must be ours or root's. The name is held by a lock (rundir.c), so what is found
 * at the socket's path by the owner of the lock is stale and is removed.
 *
 * A client is in one of these states:
 *   reading     its lines are served in order
 *   waiting     (@token) a command of it is under way; its further input stays in the socket until the answer
 *   full        (@out) answers are waiting to be read by it; its next request is served when they are gone
 *   finished    (@eof) it has said its last; it is closed when nothing is under way and everything is written
 *   dead        its descriptor is closed; freed by a timer at the end of the turn, since a drop may happen deep
 *               inside a call that began with this very client
 *
 * A request may carry one descriptor (SCM_RIGHTS). The kernel delivers it with the last bytes of a read, so it belongs
 * to the line in which the last of them lies. It waits in the client until that line is served; then the command takes
 * it or it is closed, and what comes behind that line is not read before.
 *
 * So only events can pile up, for a watcher that does not read: at MONITOR_MAX_OUT it is dropped and counted.
 *
 * Not done: a greeting and capabilities; the QMP-compatible server for existing tools is another one.
 */
#include "monitor/monitor.h"

#include <errno.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "monitor/request.h"
#include "monitor/rundir.h"

#define MONITOR_BACKLOG		16
#define MONITOR_ACCEPT_PAUSE	(500 * NS_PER_MS)	/* after accept() found no descriptor or memory */

struct client {
	struct client *next;
	struct monitor *m;
	struct loop_fd w;
	bool dead, eof, watches;
	bool skipping;			/* inside a line that was too long */
	int fd;				/* came with the line in which in[fd_at] lies; -1: none, or one too many */
	bool many_fds;
	size_t fd_at;
	uint64_t token;			/* command under way, 0: none */
	struct json_object *id;		/* of that command */
	size_t n_in;
	char *out;
	size_t n_out, cap_out;
	char in[MONITOR_MAX_LINE + 1];	/* a whole line and its newline */
};

struct monitor {
	struct loop *loop;
	struct loop_fd listen;
	struct loop_timer reap, accept_again;
	const struct monitor_ops *ops;
	void *arg;
	struct client *clients;
	uint64_t tokens;
	struct monitor_stats stats;
	int lock_fd;
	char dir[PATH_MAX], name[RUNDIR_NAME_MAX + 1];
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static void client_fn(struct loop_fd *w, uint32_t events);

static bool client_has_fd(const struct client *c)
{
	return c->fd >= 0 || c->many_fds;
}

/* The line that a descriptor came with is served, or never will be. */
static void client_forget_fd(struct client *c)
{
	if (c->fd >= 0) {
		c->m->stats.closed_fds++;
		close(c->fd);
	}
	c->fd = -1;
	c->many_fds = false;
}

static void client_drop(struct client *c)
{
	struct monitor *m = c->m;

	if (c->dead)
		return;
	loop_fd_del(m->loop, &c->w);
	close(c->w.fd);
	client_forget_fd(c);
	c->dead = true;
	c->token = 0;
	m->stats.clients--;
	m->stats.watchers -= c->watches;
	c->watches = false;
	loop_timer_set(m->loop, &m->reap, loop_now(m->loop));
}

static void client_free(struct client *c)
{
	json_object_put(c->id);
	free(c->out);
	free(c);
}

static void monitor_reap(struct loop_timer *t)
{
	struct monitor *m = t->arg;

	for (struct client **pp = &m->clients; *pp;) {
		struct client *c = *pp;

		if (!c->dead) {
			pp = &c->next;
			continue;
		}
		*pp = c->next;
		client_free(c);
	}
}

/* Write what waits. Return: false when the client is gone */
static bool client_flush(struct client *c)
{
	size_t done = 0;

	while (done < c->n_out) {
		ssize_t n = send(c->w.fd, c->out + done, c->n_out - done, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			client_drop(c);
			return false;
		}
		done += (size_t)n;
	}
	if (done)
		memmove(c->out, c->out + done, c->n_out - done);
	c->n_out -= done;
	return true;
}

static void client_send(struct client *c, struct json_object *o)
{
	const char *text;
	size_t len, need;

	if (!o || c->dead) {
		/* Without memory for an answer the client cannot be served; a close tells it so. */
		if (!c->dead)
			client_drop(c);
		json_object_put(o);
		return;
	}
	text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &len);
	need = c->n_out + len + 1;
	if (need > MONITOR_MAX_OUT) {
		c->m->stats.dropped_slow++;
		log_warn("control socket: a reader that does not read was dropped, %zu bytes were waiting", c->n_out);
		client_drop(c);
	} else {
		if (need > c->cap_out) {
			size_t cap = need < 4096 ? 4096 : 2 * need;
			char *p = realloc(c->out, cap);

			if (!p) {
				client_drop(c);
				json_object_put(o);
				return;
			}
			c->out = p;
			c->cap_out = cap;
		}
		memcpy(c->out + c->n_out, text, len);
		c->out[need - 1] = '\n';
		c->n_out = need;
		client_flush(c);
	}
	json_object_put(o);
}

/* The descriptor that a command needs; @with_fd: one or more came with its line. Return: 0, or -EINVAL */
static int client_take_fd(struct client *c, bool with_fd, struct request *r, struct err *e)
{
	if (with_fd && c->many_fds)
		return err_set(e, -EINVAL, "a request can carry one descriptor, not several");
	if (r->type != REQUEST_COMMAND || r->cmd.type != MONITOR_CAPTURE)
		return 0;
	if (!with_fd)
		return err_set(e, -EINVAL,
			       "a capture needs a stream socket, handed over with the request (SCM_RIGHTS)");
	r->cmd.fd = c->fd;
	c->fd = -1;
	return 0;
}

static void client_line(struct client *c, const char *line, size_t len, bool with_fd)
{
	struct monitor *m = c->m;
	struct json_object *result = NULL;
	struct err e = { 0 };
	struct request r;
	uint64_t token;
	int rc;

	m->stats.requests++;
	rc = request_parse(line, len, &r, &e);
	if (!rc)
		rc = client_take_fd(c, with_fd, &r, &e);
	if (rc) {
		m->stats.bad_requests++;
		client_send(c, reply_error(r.id, &e));
		json_object_put(r.id);
		return;
	}
	switch (r.type) {
	case REQUEST_STATUS:
		result = m->ops->status(m->arg);
		client_send(c, result ? reply_ok(r.id, result) : NULL);
		break;
	case REQUEST_EVENTS:
		m->stats.watchers += !c->watches;
		c->watches = true;
		client_send(c, reply_ok(r.id, NULL));
		break;
	case REQUEST_COMMAND:
		token = r.cmd.token = c->token = ++m->tokens;
		json_object_put(c->id);
		c->id = json_object_get(r.id);
		rc = m->ops->command(m->arg, &r.cmd, &result, &e);
		/* The answer may have been given, or the client dropped, inside the call. */
		if (rc != MONITOR_LATER && c->token == token)
			monitor_reply(m, token, result, rc ? &e : NULL);
		else if (rc != MONITOR_LATER)
			json_object_put(result);
		break;
	}
	json_object_put(r.id);
}

/* Serve the lines that are there. Return: true when there may be more that could be served at once */
static bool client_lines(struct client *c)
{
	size_t done = 0;
	bool with_fd;
	int turn = 0;
	bool more = false;

	while (!c->dead && !c->token && !c->n_out) {
		char *line = c->in + done, *nl = memchr(line, '\n', c->n_in - done);
		size_t len;

		if (!nl)
			break;
		if (turn++ == MONITOR_TURN_LINES) {
			more = true;
			break;
		}
		len = (size_t)(nl - line);
		done += len + 1;
		with_fd = client_has_fd(c) && c->fd_at < done;
		if (len && line[len - 1] == '\r')
			len--;
		if (len && !c->skipping)
			client_line(c, line, len, with_fd);
		c->skipping = false;
		if (with_fd)
			client_forget_fd(c);
	}
	memmove(c->in, c->in + done, c->n_in - done);
	c->n_in -= done;
	c->fd_at -= client_has_fd(c) ? done : 0;
	return more;
}

/* The buffer is full and holds no newline: say so once, forget it, and go on behind the next newline. */
static void client_too_long(struct client *c)
{
	struct err e;

	c->n_in = 0;
	client_forget_fd(c);
	if (c->skipping)
		return;
	c->skipping = true;
	c->m->stats.long_lines++;
	c->m->stats.bad_requests++;
	err_set(&e, -EINVAL, "the line is longer than %d bytes", MONITOR_MAX_LINE);
	client_send(c, reply_error(NULL, &e));
}

static void client_serve(struct client *c)
{
	bool more = client_lines(c);
	uint32_t events = 0;

	if (!c->dead && !c->token && !c->n_out && c->n_in == sizeof(c->in) && !memchr(c->in, '\n', c->n_in))
		client_too_long(c);
	if (c->dead)
		return;
	/* A watcher may have closed its sending side only; its real end is a hangup. */
	if (c->eof && !c->watches && !c->token && !c->n_out && !more && !memchr(c->in, '\n', c->n_in)) {
		client_drop(c);
		return;
	}
	/* A turn that ended with lines left comes again by writability, which is there at once. */
	if (c->n_out || more)
		events |= EPOLLOUT;
	if (!c->eof && !c->token && !c->n_out && c->n_in < sizeof(c->in) &&
	    !(client_has_fd(c) && memchr(c->in + c->fd_at, '\n', c->n_in - c->fd_at)))
		events |= EPOLLIN;
	loop_fd_mod(c->m->loop, &c->w, events);
}

static void client_got_fd(struct client *c, int fd)
{
	if (client_has_fd(c)) {
		c->m->stats.closed_fds++;
		close(fd);
		client_forget_fd(c);
		c->many_fds = true;
	} else {
		c->fd = fd;
	}
}

/* As recv(), behind what is there already, and with a descriptor that may have come along. */
static ssize_t client_recv(struct client *c)
{
	union {
		char buf[CMSG_SPACE(2 * sizeof(int))];	/* two are enough to see that there are too many */
		struct cmsghdr align;
	} u;
	struct iovec iov = { c->in + c->n_in, sizeof(c->in) - c->n_in };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf) };
	ssize_t n = recvmsg(c->w.fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n <= 0)
		return n;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&msg); h; h = CMSG_NXTHDR(&msg, h)) {
		size_t k = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < k && h->cmsg_level == SOL_SOCKET && h->cmsg_type == SCM_RIGHTS; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(fd), sizeof(fd));
			client_got_fd(c, fd);
		}
	}
	/* The kernel has closed those that had no room. */
	if (msg.msg_flags & MSG_CTRUNC) {
		client_forget_fd(c);
		c->many_fds = true;
	}
	c->fd_at = c->n_in + (size_t)n - 1;
	return n;
}

static void client_fn(struct loop_fd *w, uint32_t events)
{
	struct client *c = w->arg;
	ssize_t n;

	if (events & EPOLLERR) {
		client_drop(c);
		return;
	}
	if ((events & EPOLLOUT) && !client_flush(c))
		return;
	if ((events & EPOLLIN) && c->n_in < sizeof(c->in)) {
		n = client_recv(c);
		if (n > 0) {
			c->n_in += (size_t)n;
		} else if (!n) {
			c->eof = true;
		} else if (errno != EAGAIN && errno != EINTR) {
			client_drop(c);
			return;
		}
	} else if (events & EPOLLHUP) {
		/* Gone for good, while it waited for an answer: nobody is left to read it. */
		client_drop(c);
		return;
	}
	client_serve(c);
}

/* Say it in one go, without waiting: the connection is closed behind it. */
static void monitor_refuse(int fd, const char *why)
{
	struct json_object *o;
	struct err e;

	err_set(&e, -EBUSY, "%s", why);
	o = reply_error(NULL, &e);
	if (o) {
		size_t len;
		const char *text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &len);
		struct iovec iov[] = { { (void *)text, len }, { (void *)"\n", 1 } };
		struct msghdr msg = { .msg_iov = iov, .msg_iovlen = 2 };

		if (sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
			/* The close says it as well. */
		}
		json_object_put(o);
	}
	close(fd);
}

static void monitor_accept(struct loop_fd *w, uint32_t events)
{
	struct monitor *m = w->arg;
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);
	struct client *c;
	int fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			log_warn("control socket: cannot accept a client: %s", strerror(errno));
			/* The listening socket stays readable: without a pause the loop would spin. */
			loop_fd_mod(m->loop, w, 0);
			loop_timer_set(m->loop, &m->accept_again, loop_now(m->loop) + MONITOR_ACCEPT_PAUSE);
		}
		return;
	}
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 || (cred.uid != geteuid() && cred.uid != 0)) {
		m->stats.refused_user++;
		log_warn("control socket: uid %u (pid %d) was refused", cred.uid, cred.pid);
		monitor_refuse(fd, "only the user who runs this VM, and root, may control it");
		return;
	}
	if (m->stats.clients == MONITOR_MAX_CLIENTS) {
		m->stats.refused_full++;
		monitor_refuse(fd, "too many clients are connected to the control socket");
		return;
	}
	c = calloc(1, sizeof(*c));
	if (!c) {
		close(fd);
		return;
	}
	c->m = m;
	c->fd = -1;
	c->w = (struct loop_fd){ .fd = fd, .fn = client_fn, .arg = c };
	if (loop_fd_add(m->loop, &c->w, EPOLLIN)) {
		close(fd);
		free(c);
		return;
	}
	c->next = m->clients;
	m->clients = c;
	m->stats.clients++;
	m->stats.accepted++;
}

static void monitor_accept_again(struct loop_timer *t)
{
	struct monitor *m = t->arg;

	loop_fd_mod(m->loop, &m->listen, EPOLLIN);
}

static int monitor_listen(struct monitor *m, struct err *e)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int rc, fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_set(e, -errno, "cannot make the control socket: %s", strerror(errno));
	m->listen.fd = fd;
	memcpy(sun.sun_path, m->path, sizeof(m->path));
	/* The lock is ours, so whatever is there was left by a dead process. */
	if (unlink(m->path) < 0 && errno != ENOENT)
		return err_set(e, -errno, "cannot remove the stale control socket %s: %s", m->path, strerror(errno));
	if (fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&sun, sizeof(sun)) < 0 ||
	    listen(fd, MONITOR_BACKLOG) < 0)
		return err_set(e, -errno, "cannot listen on the control socket %s: %s", m->path, strerror(errno));
	rc = loop_fd_add(m->loop, &m->listen, EPOLLIN);
	if (rc)
		return err_set(e, rc, "cannot watch the control socket: %s", strerror(-rc));
	return 0;
}

struct monitor *monitor_new(struct loop *l, const char *dir, const char *name, const struct monitor_ops *ops, void *arg,
			    struct err *e)
{
	struct monitor *m = calloc(1, sizeof(*m));

	if (!m) {
		err_set(e, -ENOMEM, "no memory for the control socket");
		return NULL;
	}
	m->loop = l;
	m->ops = ops;
	m->arg = arg;
	m->lock_fd = -1;
	m->listen = (struct loop_fd){ .fd = -1, .fn = monitor_accept, .arg = m };
	m->reap = (struct loop_timer){ .fn = monitor_reap, .arg = m };
	m->accept_again = (struct loop_timer){ .fn = monitor_accept_again, .arg = m };
	snprintf(m->name, sizeof(m->name), "%s", name);
	if (snprintf(m->dir, sizeof(m->dir), "%s", dir) >= (int)sizeof(m->dir))
		err_set(e, -ENAMETOOLONG, "the run directory's path is too long");
	else if (!rundir_name_check(name, e) && !rundir_make(dir, e) &&
		 !rundir_socket(dir, name, m->path, sizeof(m->path), e)) {
		m->lock_fd = rundir_lock(dir, name, e);
		if (m->lock_fd >= 0 && !monitor_listen(m, e))
			return m;
	}
	monitor_free(m);
	return NULL;
}

void monitor_free(struct monitor *m)
{
	if (!m)
		return;
	for (struct client *c = m->clients; c; c = c->next)
		client_drop(c);
	monitor_reap(&m->reap);
	loop_timer_del(m->loop, &m->reap);
	loop_timer_del(m->loop, &m->accept_again);
	if (m->listen.fd >= 0) {
		loop_fd_del(m->loop, &m->listen);
		close(m->listen.fd);
		unlink(m->path);
	}
	rundir_unlock(m->lock_fd, m->dir, m->name);
	free(m);
}

int monitor_reply(struct monitor *m, uint64_t token, struct json_object *result, const struct err *error)
{
	struct client *c = m->clients;

	while (c && c->token != token)
		c = c->next;
	if (error || !c) {
		json_object_put(result);
		result = NULL;
	}
	if (!c)
		return -ENOENT;
	c->token = 0;
	client_send(c, error ? reply_error(c->id, error) : reply_ok(c->id, result));
	if (!c->dead)
		loop_fd_mod(m->loop, &c->w, EPOLLOUT);	/* what it sent meanwhile is served from the loop */
	return 0;
}

void monitor_event(struct monitor *m, const char *name, struct json_object *data)
{
	struct json_object *o;

	if (!m->stats.watchers) {
		json_object_put(data);
		return;
	}
	m->stats.events++;
	o = event_make(name, data);
	if (!o)
		return;
	for (struct client *c = m->clients; c; c = c->next) {
		if (!c->watches)
			continue;
		client_send(c, json_object_get(o));
		if (!c->dead && c->n_out)
			loop_fd_mod(m->loop, &c->w, EPOLLOUT);
	}
	json_object_put(o);
}

void monitor_stats_get(const struct monitor *m, struct monitor_stats *out)
{
	*out = m->stats;
}
