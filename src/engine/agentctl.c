/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Talking to the agent inside QEMU: one request, one reply, on the engine's worker thread, each with a deadline.
 *
 * QEMU may be hostile (a guest that broke out of it): replies are read with the bounded cursor's care, every number in
 * them is checked against the memory that we made ourselves, and a reply that comes late is told by its sequence
 * number and thrown away. After a failed request the agent must be taken for gone.
 */
#include "engine/agentctl.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/agentctl_internal.h"

_Static_assert((int)AGENTCTL_SHARE_RUNS == (int)AGENT_MAX_RUNS - 1, "a request holds the piece, too");
_Static_assert((int)MEM_MAX_RANGES == (int)AGENT_MAX_RANGES, "a map holds what the agent can say");

static void close_fd(int *fd)
{
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

void agentctl_reply_end(struct agent_answer *r)
{
	for (int i = 0; i < r->n_fds; i++)
		close_fd(&r->fds[i]);
	r->n_fds = 0;
}

struct agentctl *agentctl_new(struct err *e)
{
	struct agentctl *a = calloc(1, sizeof(*a));
	int sv[2];

	if (!a) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) == -1) {
		err_set(e, -errno, "socketpair for the agent: %s", strerror(errno));
		free(a);
		return NULL;
	}
	a->sock = sv[0];
	a->child_fd = sv[1];
	a->pagemap = a->mem = a->status = a->clear_refs = a->uffd = -1;
	return a;
}

void agentctl_free(struct agentctl *a)
{
	if (!a)
		return;
	close_fd(&a->sock);
	close_fd(&a->child_fd);
	close_fd(&a->pagemap);
	close_fd(&a->mem);
	close_fd(&a->status);
	close_fd(&a->clear_refs);
	close_fd(&a->uffd);
	free(a);
}

int agentctl_env(const char *lib, int sock_num, int ram_num, char env[AGENTCTL_ENV][AGENTCTL_ENV_LEN])
{
	const char *old = getenv("LD_PRELOAD");
	int n = snprintf(env[0], AGENTCTL_ENV_LEN, "LD_PRELOAD=%s%s%s", lib, old && *old ? ":" : "", old ? old : "");

	snprintf(env[1], AGENTCTL_ENV_LEN, AGENT_ENV_FD "=%d", sock_num);
	snprintf(env[2], AGENTCTL_ENV_LEN, AGENT_ENV_RAM_FD "=%d", ram_num);
	return n < 0 || n >= AGENTCTL_ENV_LEN ? -ENAMETOOLONG : 0;
}

void agentctl_started(struct agentctl *a)
{
	close_fd(&a->child_fd);
}

/* wait_for() - until @events or the deadline */
static int wait_for(int fd, short events, nstime deadline)
{
	for (;;) {
		struct pollfd p = { .fd = fd, .events = events };
		nstime now = clock_ns(), ms = deadline > now ? (deadline - now + NS_PER_MS - 1) / NS_PER_MS : 0;
		int n = poll(&p, 1, ms > INT32_MAX ? INT32_MAX : (int)ms);

		if (n > 0)
			return 0;
		if (n == 0 && ms == 0)
			return -ETIMEDOUT;
		if (n == -1 && errno != EINTR)
			return -errno;
	}
}

static int send_request(struct agentctl *a, uint16_t type, const void *payload, size_t len, nstime deadline)
{
	struct agent_msg m = {
		.magic = AGENT_MAGIC, .version = AGENT_VERSION, .type = type, .seq = ++a->seq, .len = (uint32_t)len,
	};
	struct iovec iov[2] = { { &m, sizeof(m) }, { (void *)payload, len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };

	for (;;) {
		int rc;

		if (sendmsg(a->sock, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN)
			return -errno;
		rc = wait_for(a->sock, POLLOUT, deadline);
		if (rc < 0)
			return rc;
	}
}

/* receive() - one packet; its descriptors belong to @r then */
static ssize_t receive(struct agentctl *a, struct agent_answer *r)
{
	union {
		char buf[CMSG_SPACE(REPLY_FDS * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = { r->buf, sizeof(r->buf) };
	struct msghdr mh = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.buf, .msg_controllen = sizeof(control.buf),
	};
	ssize_t got = recvmsg(a->sock, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	r->n_fds = 0;
	if (got == -1)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&mh); c; c = CMSG_NXTHDR(&mh, c)) {
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			if (r->n_fds < REPLY_FDS)
				r->fds[r->n_fds++] = fd;
			else
				close(fd);
		}
	}
	return got;
}

int agentctl_exchange(struct agentctl *a, uint16_t type, const void *payload, size_t len, struct agent_answer *r,
		      nstime deadline, struct err *e)
{
	int rc = send_request(a, type, payload, len, deadline);

	r->n_fds = 0;
	while (rc == 0) {
		struct agent_msg m = { 0 };
		ssize_t got;

		rc = wait_for(a->sock, POLLIN, deadline);
		if (rc < 0)
			break;
		got = receive(a, r);
		if (got == -EAGAIN || got == -EINTR)
			continue;
		if (got <= 0) {
			rc = got < 0 ? (int)got : -EPIPE;
			break;
		}
		r->body = cursor_of(r->buf, (size_t)got);
		cursor_copy(&r->body, &m, sizeof(m));
		if (r->body.bad || m.magic != AGENT_MAGIC || m.version != AGENT_VERSION || m.len != r->body.left) {
			agentctl_reply_end(r);
			return err_set(e, -EPROTO, "the agent in QEMU answers in another protocol version");
		}
		if (m.seq != a->seq) {
			agentctl_reply_end(r);
			continue;
		}
		if (m.rc < 0) {
			char text[AGENT_TEXT] = "";

			cursor_copy(&r->body, text, sizeof(text) - 1);
			agentctl_reply_end(r);
			for (char *c = text; *c; c++)
				if ((unsigned char)*c < ' ')
					*c = '?';
			return err_set(e, m.rc < -4095 ? -EIO : m.rc, "the agent in QEMU: %s: %s", text,
				       strerror(m.rc < -4095 ? EIO : -m.rc));
		}
		return 0;
	}
	if (rc == -EPIPE || rc == -ECONNRESET)
		return err_set(e, -EPIPE, "the agent in QEMU is gone (was it preloaded? is QEMU still there?)");
	return err_set(e, rc, "the agent in QEMU does not answer: %s", strerror(-rc));
}

static int by_page(const void *a, const void *b)
{
	const struct mem_range *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

/* read_map() - the ranges of a HELLO, which must cover @ram once and be of one kind */
static int read_map(struct cursor *c, uint32_t n, const struct ram *ram, struct mem_map *map, struct err *e)
{
	uint64_t at = 0;

	*map = (struct mem_map){ 0 };
	if (n == 0)
		return err_set(e, -ENOENT, "the program that was started maps no guest memory (a wrapper script?)");
	if (n > MEM_MAX_RANGES)
		return err_set(e, -EPROTO, "the agent in QEMU names too many ranges");
	for (uint32_t i = 0; i < n; i++) {
		struct agent_range r = { 0 };

		cursor_copy(c, &r, sizeof(r));
		if (c->bad || r.offset % RAM_PAGE != 0 || r.len % RAM_PAGE != 0 || r.addr % RAM_PAGE != 0 ||
		    r.len == 0 || r.offset > ram->size || r.len > ram->size - r.offset ||
		    r.addr > UINT64_MAX - r.len)
			return err_set(e, -EPROTO, "the agent in QEMU names a range that cannot be");
		map->r[map->n++] = (struct mem_range){
			.addr = r.addr, .first = r.offset / RAM_PAGE, .count = r.len / RAM_PAGE,
		};
		if (i > 0 && map->shared != (r.shared != 0))
			return err_set(e, -EINVAL, "QEMU maps guest memory both shared and privately");
		map->shared = r.shared != 0;
	}
	qsort(map->r, map->n, sizeof(map->r[0]), by_page);
	for (uint32_t i = 0; i < map->n; i++) {
		if (map->r[i].first != at)
			return err_set(e, -EINVAL, "QEMU maps guest memory %s (at page %llu)",
				       map->r[i].first < at ? "twice" : "in part only", (unsigned long long)at);
		at += map->r[i].count;
	}
	if (at != ram->n_pages)
		return err_set(e, -EINVAL, "QEMU maps guest memory in part only (up to page %llu)",
			       (unsigned long long)at);
	return 0;
}

int agentctl_hello(struct agentctl *a, const struct ram *ram, uint32_t pid, nstime deadline, struct err *e)
{
	struct agent_hello h = { 0 };
	struct agent_answer r;
	int rc = agentctl_exchange(a, AGENT_HELLO, NULL, 0, &r, deadline, e);

	if (rc < 0)
		return rc;
	cursor_copy(&r.body, &h, sizeof(h));
	if (r.body.bad || r.n_fds < AGENT_FD_CLEAR_REFS)
		rc = err_set(e, -EPROTO, "the agent in QEMU sent an unusable greeting");
	else if (pid != 0 && h.pid != pid)
		rc = err_set(e, -EINVAL, "the agent is in process %u, not in QEMU (%u): is it started by a wrapper?",
			     h.pid, pid);
	else
		rc = read_map(&r.body, h.n_ranges, ram, &a->map, e);
	if (rc == 0) {
		int *to[AGENT_FD_MAX] = { &a->pagemap, &a->mem, &a->status, &a->clear_refs };

		a->pid = h.pid;
		for (int i = 0; i < AGENT_FD_MAX; i++) {
			close_fd(to[i]);
			if (i < r.n_fds) {
				*to[i] = r.fds[i];
				r.fds[i] = -1;
			}
		}
	}
	agentctl_reply_end(&r);
	return rc;
}

int agentctl_track(struct agentctl *a, nstime deadline, struct err *e)
{
	struct agent_track t = { 0 };
	struct agent_answer r;
	int rc = agentctl_exchange(a, AGENT_TRACK, NULL, 0, &r, deadline, e);

	if (rc < 0)
		return rc;
	cursor_copy(&r.body, &t, sizeof(t));
	if (r.body.bad || r.n_fds != 1) {
		rc = err_set(e, -EPROTO, "the agent in QEMU sent no userfaultfd");
	} else {
		close_fd(&a->uffd);
		a->uffd = r.fds[0];
		a->features = t.features;
		r.fds[0] = -1;
	}
	agentctl_reply_end(&r);
	return rc;
}

int agentctl_stopped(struct agentctl *a, nstime at, nstime deadline, struct err *e)
{
	struct agent_stopped s = { .at = at };
	struct agent_answer r;
	int rc = agentctl_exchange(a, AGENT_STOPPED, &s, sizeof(s), &r, deadline, e);

	if (rc == 0)
		agentctl_reply_end(&r);
	return rc;
}

/* drop_some() - one request; @pages is what the agent must confirm */
static int drop_some(struct agentctl *a, const struct agent_run *runs, size_t n, uint64_t pages, nstime deadline,
		     struct err *e)
{
	struct agent_dropped d = { 0 };
	struct agent_answer r;
	int rc = agentctl_exchange(a, AGENT_DROP, runs, n * sizeof(*runs), &r, deadline, e);

	if (rc < 0)
		return rc;
	cursor_copy(&r.body, &d, sizeof(d));
	if (r.body.bad || d.pages != pages)
		rc = err_set(e, -EPROTO, "the agent in QEMU dropped another number of pages than it was told");
	agentctl_reply_end(&r);
	return rc;
}

int agentctl_drop(struct agentctl *a, const struct pageset *set, nstime deadline, struct err *e)
{
	struct agent_run runs[AGENT_MAX_RUNS];
	uint64_t pages = 0, from = 0;
	struct page_run run;
	size_t n = 0;
	int rc = 0;

	while (rc == 0 && pageset_next(set, from, AGENTCTL_GAP, &run)) {
		from = run.first + run.count;
		/* The agent looks for a run in one mapping, so it must not cross from one into the next. */
		for (uint32_t i = 0; i < a->map.n && run.count > 0 && rc == 0; i++) {
			const struct mem_range *m = &a->map.r[i];
			uint64_t count = m->first + m->count - run.first;

			if (run.first < m->first || run.first >= m->first + m->count)
				continue;
			if (count > run.count)
				count = run.count;
			runs[n++] = (struct agent_run){ .first = run.first, .count = count };
			pages += count;
			run.first += count;
			run.count -= count;
			if (n == AGENT_MAX_RUNS) {
				rc = drop_some(a, runs, n, pages, deadline, e);
				n = 0;
				pages = 0;
			}
		}
	}
	if (rc == 0 && n > 0)
		rc = drop_some(a, runs, n, pages, deadline, e);
	return rc;
}

int agentctl_share(struct agentctl *a, const struct page_run *piece, const struct pageset *private, uint64_t *wrote,
		   nstime deadline, struct err *e)
{
	struct agent_run runs[AGENT_MAX_RUNS] = { { .first = piece->first, .count = piece->count } };
	uint64_t end = piece->first + piece->count, from = piece->first;
	struct agent_shared s = { 0 };
	struct page_run run;
	struct agent_answer r;
	size_t n = 1;
	int rc;

	*wrote = 0;
	for (; from < end && pageset_next(private, from, 0, &run) && run.first < end; from = run.first + run.count) {
		if (n == AGENT_MAX_RUNS)
			return err_set(e, -E2BIG, "private pages in too many pieces to be shared at once");
		runs[n++] = (struct agent_run){
			.first = run.first, .count = run.count < end - run.first ? run.count : end - run.first,
		};
		*wrote += runs[n - 1].count;
	}
	rc = agentctl_exchange(a, AGENT_SHARE, runs, n * sizeof(*runs), &r, deadline, e);
	if (rc < 0)
		return rc;
	cursor_copy(&r.body, &s, sizeof(s));
	if (r.body.bad || s.pages != *wrote)
		rc = err_set(e, -EPROTO, "the agent in QEMU shared another number of pages than it was told");
	agentctl_reply_end(&r);
	return rc;
}
