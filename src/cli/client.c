/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line's side of the control socket; see client.h. Every wait has an end, but for that for events. */
#include "cli/client.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

struct names {
	int n;
	char one[RUNDIR_NAME_MAX + 1];
	char all[200];
};

static void names_add(void *arg, const char *name)
{
	struct names *l = arg;
	size_t used = strlen(l->all);

	if (!l->n++)
		snprintf(l->one, sizeof(l->one), "%s", name);
	snprintf(l->all + used, sizeof(l->all) - used, "%s%s", used ? ", " : "", name);
}

static int client_choose(struct vm_client *c, const char *dir, const char *name, struct err *e)
{
	struct names l = { 0 };
	int n = rundir_list(dir, names_add, &l, e);

	if (n < 0)
		return n;
	if (!name && n == 1)
		name = l.one;
	else if (!name && !n)
		return err_set(e, -ENOENT, "no VM runs here (run directory %.200s)", dir);
	else if (!name)
		return err_set(e, -ENOENT, "%d VMs run here, say which one: %s", n, l.all);
	snprintf(c->name, sizeof(c->name), "%s", name);
	return 0;
}

static int client_absent(const char *dir, const char *name, struct err *e)
{
	struct names l = { 0 };

	rundir_list(dir, names_add, &l, NULL);
	if (l.n)
		return err_set(e, -ENOENT, "%s does not run here (run directory %.200s; there: %s)", name, dir, l.all);
	return err_set(e, -ENOENT, "%s does not run here (run directory %.200s)", name, dir);
}

int client_open(struct vm_client *c, const char *dir, const char *name, struct err *e)
{
	struct timeval tv = { .tv_sec = (time_t)(CLIENT_TIMEOUT / NS_PER_S) };
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct ucred cred = { 0 };
	socklen_t len = sizeof(cred);
	char def[PATH_MAX];
	int rc;

	*c = (struct vm_client){ .fd = -1 };
	rc = name ? rundir_name_check(name, e) : 0;
	if (!rc && !dir) {
		rc = rundir_default(def, sizeof(def), e);
		dir = def;
	}
	if (!rc)
		rc = client_choose(c, dir, name, e);
	if (!rc)
		rc = rundir_socket(dir, c->name, sun.sun_path, sizeof(sun.sun_path), e);
	if (rc)
		return rc;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		return err_set(e, -errno, "cannot make a socket: %s", strerror(errno));
	/* A stopped process accepts nobody: bounds the wait in connect() when its queue is full, and each send(). */
	setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(c->fd, (struct sockaddr *)&sun, sizeof(sun)) < 0) {
		rc = -errno;
		client_close(c);
		if (rc == -ENOENT || rc == -ECONNREFUSED)
			return client_absent(dir, c->name, e);
		if (rc == -EAGAIN)
			return err_set(e, -ETIMEDOUT, "lockstep of %s does not answer", c->name);
		return err_set(e, rc, "cannot connect to %s: %s", sun.sun_path, strerror(-rc));
	}
	if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0 ||
	    (geteuid() && cred.uid != geteuid() && cred.uid)) {
		client_close(c);
		return err_set(e, -EPERM, "%s belongs to another user (uid %u)", sun.sun_path, cred.uid);
	}
	return 0;
}

void client_close(struct vm_client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c->buf);
	c->fd = -1;
	c->buf = NULL;
	c->n = c->cap = 0;
}

static int client_wait(struct vm_client *c, nstime deadline, struct err *e)
{
	for (;;) {
		struct pollfd p = { .fd = c->fd, .events = POLLIN };
		nstime now = clock_ns(), left = deadline > now ? deadline - now : 0;
		/* One more millisecond than is left, so that rounding down does not spin. */
		int ms = deadline == NS_NEVER ? -1 : (int)(left / NS_PER_MS > 3600000 ? 3600000 : left / NS_PER_MS + 1);
		int n;

		if (deadline != NS_NEVER && !left)
			return err_set(e, -ETIMEDOUT, "lockstep of %s does not answer", c->name);
		n = poll(&p, 1, ms);
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return err_set(e, -errno, "cannot wait for an answer: %s", strerror(errno));
	}
}

/* The first line moves out of the buffer at the next call: what was handed out stays until then. */
static void client_forget(struct vm_client *c)
{
	char *end = c->n ? memchr(c->buf, '\0', c->n) : NULL;

	if (!end)
		return;
	c->n -= (size_t)(end + 1 - c->buf);
	memmove(c->buf, end + 1, c->n);
}

int client_line(struct vm_client *c, nstime timeout, const char **line, struct err *e)
{
	nstime deadline = timeout == NS_NEVER ? NS_NEVER : clock_ns() + timeout;
	size_t seen = 0;

	client_forget(c);
	for (;;) {
		char *nl = c->n > seen ? memchr(c->buf + seen, '\n', c->n - seen) : NULL;
		ssize_t n;
		int rc;

		if (nl) {
			/* A NUL inside would be taken for the end; there is none in JSON that we understand. */
			for (char *p = c->buf; p < nl; p++)
				if (!*p)
					*p = '?';
			*nl = '\0';
			*line = c->buf;
			return 1;
		}
		seen = c->n;
		if (c->n == CLIENT_MAX_LINE)
			return err_set(e, -EMSGSIZE, "an answer of %s is longer than %d bytes", c->name,
				       CLIENT_MAX_LINE);
		if (c->n == c->cap) {
			size_t cap = c->cap ? 2 * c->cap : 8192;
			char *p = realloc(c->buf, cap < CLIENT_MAX_LINE ? cap : CLIENT_MAX_LINE);

			if (!p)
				return err_set(e, -ENOMEM, "no memory for an answer");
			c->buf = p;
			c->cap = cap < CLIENT_MAX_LINE ? cap : CLIENT_MAX_LINE;
		}
		rc = client_wait(c, deadline, e);
		if (rc)
			return rc;
		n = recv(c->fd, c->buf + c->n, c->cap - c->n, MSG_DONTWAIT);
		if (!n || (n < 0 && errno == ECONNRESET))
			return 0;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return err_set(e, -errno, "cannot read an answer: %s", strerror(errno));
		c->n += n > 0 ? (size_t)n : 0;
	}
}

/* As send(), with a descriptor when @fd is one. */
static ssize_t client_send_fd(int sock, const char *p, size_t n, int fd)
{
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr head;
	} u = { .head = { .cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS } };
	struct iovec iov = { (void *)p, n };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd >= 0) {
		memcpy(CMSG_DATA(&u.head), &fd, sizeof(fd));
		msg.msg_control = u.buf;
		msg.msg_controllen = sizeof(u.buf);
	}
	return sendmsg(sock, &msg, MSG_NOSIGNAL);
}

static int client_send(struct vm_client *c, const char *execute, struct json_object *args, int fd, struct err *e)
{
	struct json_object *o = json_object_new_object();
	const char *text;
	size_t len, done = 0;
	int rc = 0;

	json_object_object_add(o, "execute", json_object_new_string(execute));
	if (args)
		json_object_object_add(o, "arguments", args);
	text = json_object_to_json_string_length(o, JSON_C_TO_STRING_PLAIN, &len);
	while (done <= len && !rc) {
		/* The newline takes the place of the NUL. */
		ssize_t n = done < len ? client_send_fd(c->fd, text + done, len - done, done ? -1 : fd) :
			    send(c->fd, "\n", 1, MSG_NOSIGNAL);

		if (n > 0)
			done += (size_t)n;
		else if (errno != EINTR)
			rc = err_set(e, -errno, "cannot ask %s: %s", c->name, strerror(errno));
	}
	json_object_put(o);
	return rc;
}

int client_call(struct vm_client *c, const char *execute, struct json_object *args, nstime timeout,
		struct json_object **result, struct err *e)
{
	return client_call_fd(c, execute, args, -1, timeout, result, e);
}

int client_call_fd(struct vm_client *c, const char *execute, struct json_object *args, int fd, nstime timeout,
		   struct json_object **result, struct err *e)
{
	nstime deadline = clock_ns() + timeout;
	int rc = client_send(c, execute, args, fd, e);

	while (!rc) {
		struct json_object *o, *v, *desc;
		nstime now = clock_ns();
		const char *line;

		rc = client_line(c, deadline > now ? deadline - now : 0, &line, e);
		if (!rc)
			return err_set(e, -EPIPE, "lockstep of %s ended before it answered", c->name);
		if (rc < 0)
			break;
		rc = 0;
		o = json_tokener_parse(line);
		if (json_object_object_get_ex(o, "return", &v)) {
			if (result)
				*result = json_object_get(v);
			json_object_put(o);
			return 0;
		}
		if (json_object_object_get_ex(o, "error", &v))
			rc = json_object_object_get_ex(v, "desc", &desc) ?
			     err_set(e, -EREMOTEIO, "%s", json_object_get_string(desc)) :
			     err_set(e, -EREMOTEIO, "%s refused", c->name);
		else if (!json_object_object_get_ex(o, "event", &v))
			rc = err_set(e, -EPROTO, "%s gives an answer that is not understood", c->name);
		json_object_put(o);
	}
	return rc;
}
