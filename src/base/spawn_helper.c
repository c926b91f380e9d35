/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A helper that makes our children: theory of operation
 *
 * Lockstep gives its rights away once it has started (sandbox.h), and still has to start programs later that need them:
 * QEMU anew, which has to become another user, and the administrator's command that fences the peer. So a
 * small process is forked before, keeps the rights, and makes the children. It is a fork of a process that has one thread
 * and little memory, it reads nothing of the network, of a guest or of a file, and it knows three requests: start, allow,
 * seal. Once sealed it starts only what was allowed while nothing of the outside had reached Lockstep yet, equal byte for
 * byte, but for the descriptors and for variables of the environment that were named then.
 *
 * It clones with CLONE_PARENT, so the children are Lockstep's own: it waits for them, and they follow its main thread's death,
 * as if it had forked them itself. The helper also follows that death, and ends when its socket does.
 *
 * The other way would be to let Lockstep keep the right to load programs; then whoever takes it over has that right, too,
 * and a child would have no more than Lockstep has left.
 */
#include "base/spawn_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Lockstep's side. */
static struct {
	pthread_mutex_t lock;		/* one request at a time; guards all of this */
	int sock;			/* -1: there is no helper */
	pid_t pid;
	uint8_t msg[SPAWN_MSG];
} helper = { .lock = PTHREAD_MUTEX_INITIALIZER, .sock = -1 };

/* The helper's. */
struct allowed {
	uint8_t *bytes;
	size_t n;
};

struct server {
	int sock;
	pid_t parent;
	bool sealed;
	unsigned int n_allowed;
	struct allowed allowed[SPAWN_ALLOWED];
	struct spawn_read read;
	int fds[SPAWN_FDS];
	unsigned int n_fds;
	uint8_t msg[SPAWN_MSG];
};

static ssize_t receive(struct server *v)
{
	union {
		char buf[CMSG_SPACE(SPAWN_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { v->msg, sizeof(v->msg) };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf,
			     .msg_controllen = sizeof(control.buf) };
	ssize_t got;

	v->n_fds = 0;
	do
		got = recvmsg(v->sock, &mh, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == EINTR);
	for (struct cmsghdr *c = got > 0 ? CMSG_FIRSTHDR(&mh) : NULL; c; c = CMSG_NXTHDR(&mh, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && i < n && v->n_fds < SPAWN_FDS; i++)
			memcpy(&v->fds[v->n_fds++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
	return got > 0 && mh.msg_flags & (MSG_TRUNC | MSG_CTRUNC) ? 0 : got;
}

static int find(const struct server *v, const uint8_t *bytes, size_t n)
{
	for (unsigned int i = 0; i < v->n_allowed; i++)
		if (v->allowed[i].n == n && !memcmp(v->allowed[i].bytes, bytes, n))
			return (int)i;
	return -1;
}

static int allow(struct server *v, const uint8_t *bytes, size_t n)
{
	uint8_t *copy;

	if (v->sealed)
		return -EPERM;
	if (find(v, bytes, n) >= 0)
		return 0;
	if (v->n_allowed == SPAWN_ALLOWED)
		return -E2BIG;
	copy = malloc(n);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, bytes, n);
	v->allowed[v->n_allowed++] = (struct allowed){ copy, n };
	return 0;
}

static int start(struct server *v)
{
	struct spawn_read *r = &v->read;
	char **env;
	long pid;

	if (v->n_fds != r->s.n_fds + r->report)
		return -EPROTO;
	for (unsigned int i = 0; i < r->s.n_fds; i++) {
		int size = r->fds[i].sndbuf;

		r->fds[i].from = v->fds[i];
		if (size && setsockopt(v->fds[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
			setsockopt(v->fds[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	}
	r->s.report = r->report ? v->fds[v->n_fds - 1] : -1;
	env = spawn_env(&r->s);
	if (!env)
		return -ENOMEM;
	pid = syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
	if (!pid)
		spawn_child(&r->s, env, v->parent);
	free(env);
	return pid < 0 ? -errno : (int)pid;
}

static int carry_out(struct server *v, size_t len)
{
	struct cursor c = cursor_of(v->msg, len);
	uint32_t magic = cursor_u32(&c), op = cursor_u32(&c), n = cursor_u32(&c);
	const uint8_t *fixed = cursor_get(&c, n);

	if (c.bad || magic != SPAWN_MAGIC)
		return -EPROTO;
	switch (op) {
	case SPAWN_OP_START:
		if (v->sealed && find(v, fixed, n) < 0)
			return -EPERM;
		return spawn_read(&v->read, fixed, n, c.p, c.left) ? -EPROTO : start(v);
	case SPAWN_OP_ALLOW:
		return allow(v, fixed, n);
	case SPAWN_OP_SEAL:
		v->sealed = true;
		return 0;
	default:
		return -EPROTO;
	}
}

static _Noreturn void serve(int sock, pid_t parent)
{
	static struct server v;
	ssize_t got;
	int32_t rc;

	prctl(PR_SET_NAME, "lockstep-spawn");
	/* Its memory holds nothing that a core dump should show, and nobody else has to look into it. */
	prctl(PR_SET_DUMPABLE, 0);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) || getppid() != parent || dup2(sock, 3) != 3 ||
	    syscall(SYS_close_range, 4, ~0U, 0))
		_exit(1);
	v.sock = 3;
	v.parent = parent;
	fcntl(v.sock, F_SETFD, FD_CLOEXEC);
	while ((got = receive(&v)) > 0) {
		rc = carry_out(&v, (size_t)got);
		for (unsigned int i = 0; i < v.n_fds; i++)
			close(v.fds[i]);
		if (send(v.sock, &rc, sizeof(rc), MSG_NOSIGNAL) != sizeof(rc))
			break;
	}
	_exit(0);
}

int spawn_helper_start(struct err *e)
{
	pid_t self = getpid(), pid;
	sigset_t all, old;
	int sv[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv))
		return err_set(e, -errno, "no socket for the helper that starts programs: %s", strerror(errno));
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	pid = fork();
	if (!pid)
		serve(sv[1], self);
	sigprocmask(SIG_SETMASK, &old, NULL);
	close(sv[1]);
	if (pid < 0) {
		close(sv[0]);
		return err_set(e, -errno, "no helper that starts programs: %s", strerror(errno));
	}
	helper.sock = sv[0];
	helper.pid = pid;
	return 0;
}

/* One request with @s's descriptors, and its answer. With the lock. */
static int ask(enum spawn_op op, const struct spawn_spec *s, struct err *e)
{
	union {
		char buf[CMSG_SPACE(SPAWN_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	int len = spawn_write(s, op, helper.msg, sizeof(helper.msg)), fds[SPAWN_FDS], n = 0;
	struct iovec iov = { helper.msg, len > 0 ? (size_t)len : 0 };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };
	int32_t answer;
	ssize_t k;

	if (len < 0)
		return err_set(e, len, "%.200s: its command line is too long", s->path);
	for (unsigned int i = 0; op == SPAWN_OP_START && i < s->n_fds; i++)
		fds[n++] = s->fds[i].from;
	if (op == SPAWN_OP_START && s->report >= 0)
		fds[n++] = s->report;
	if (n) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
		memcpy(CMSG_DATA(c), fds, (size_t)n * sizeof(int));
	}
	do
		k = sendmsg(helper.sock, &mh, MSG_NOSIGNAL);
	while (k < 0 && errno == EINTR);
	if (k < 0)
		return err_set(e, -errno, "the helper that starts programs cannot be asked: %s", strerror(errno));
	do
		k = recv(helper.sock, &answer, sizeof(answer), 0);
	while (k < 0 && errno == EINTR);
	if (k != sizeof(answer))
		return err_set(e, -EPIPE, "the helper that starts programs is gone");
	if (answer == -EPERM)
		return err_set(e, -EPERM, "%.200s: what is to be started was not settled before the sandbox was closed",
			       s ? s->path : "");
	if (answer < 0)
		return err_set(e, answer, "%.200s: no new process: %s", s ? s->path : "", strerror(-answer));
	return answer;
}

pid_t spawn(const struct spawn_spec *s, struct err *e)
{
	pid_t parent = getpid(), pid;
	char **env;
	int rc = spawn_check(s, e);

	if (rc)
		return rc;
	pthread_mutex_lock(&helper.lock);
	if (helper.sock >= 0) {
		rc = ask(SPAWN_OP_START, s, e);
		pthread_mutex_unlock(&helper.lock);
		return rc;
	}
	pthread_mutex_unlock(&helper.lock);
	for (unsigned int i = 0; i < s->n_fds; i++) {
		int size = s->fds[i].sndbuf;

		if (size && setsockopt(s->fds[i].from, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
			setsockopt(s->fds[i].from, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	}
	env = spawn_env(s);
	pid = env ? fork() : -1;
	if (!pid)
		spawn_child(s, env, parent);
	if (pid < 0)
		pid = err_set(e, env ? -errno : -ENOMEM, "%.200s: no new process: %s", s->path,
			      strerror(env ? errno : ENOMEM));
	free(env);
	return pid;
}

int spawn_allow(const struct spawn_spec *s, struct err *e)
{
	int rc = spawn_check(s, e);

	pthread_mutex_lock(&helper.lock);
	if (!rc && helper.sock >= 0)
		rc = ask(SPAWN_OP_ALLOW, s, e);
	pthread_mutex_unlock(&helper.lock);
	return rc;
}

int spawn_helper_seal(struct err *e)
{
	int rc = 0;

	pthread_mutex_lock(&helper.lock);
	if (helper.sock >= 0)
		rc = ask(SPAWN_OP_SEAL, NULL, e);
	pthread_mutex_unlock(&helper.lock);
	return rc;
}

void spawn_helper_end(void)
{
	pthread_mutex_lock(&helper.lock);
	if (helper.sock >= 0) {
		close(helper.sock);
		while (waitpid(helper.pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	helper.sock = -1;
	helper.pid = 0;
	pthread_mutex_unlock(&helper.lock);
}

pid_t spawn_helper_pid(void)
{
	return helper.pid;
}
