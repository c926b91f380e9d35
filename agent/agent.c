/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The agent inside QEMU: theory of operation
 *
 * Some things about a process's memory can only be done by that process: to make a userfaultfd over it, to throw
 * private pages away (MADV_DONTNEED), and to map something else in their place. So Lockstep preloads this library into
 * QEMU. It starts one thread, which serves one socket and otherwise sleeps; the one function that it replaces is
 * ioctl(), for the guest's clocks under KVM (kvmclock.c), and QEMU does not know that it is there.
 *
 * Which addresses are guest memory is read from /proc/self/maps when asked: the mappings of the file that Lockstep
 * made and passed by number. (An mmap() wrapper was the other way. It would have to follow munmap and mremap too,
 * and sees nothing of mappings that libc makes inside; the kernel's own list is never wrong.) The list and all that
 * Lockstep gets of /proc/self are opened before QEMU's main(), so that -sandbox, which comes later, takes nothing away.
 *
 * Promises:
 * - QEMU is never brought down from here: no abort, no exit, no signal is taken (all are blocked in the thread), and
 *   whatever fails is told to Lockstep in a reply. Lockstep gone means the thread ends.
 * - Nothing leaks into QEMU's children: the preload entry and the variables leave the environment in the
 *   constructor, and the descriptors get close-on-exec.
 * - No memory is allocated after the constructor; one request at a time, its size bounded by AGENT_MAX_MSG.
 * - Only pages of private mappings of the guest's memory file are ever dropped, and only mappings of that file, and
 *   blocks that are to be moved into it, are ever replaced.
 *
 * If the process forks (-daemonize), the thread is not in the child; Lockstep does not let QEMU daemonize.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"
#include "kvmclock.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum { AGENT_STACK = 256 * 1024 };	/* thread-local storage of QEMU's libraries comes out of it, too */

struct agent ag = {
	.sock = -1, .ram = -1, .maps = -1, .pagemap = -1, .mem = -1, .status = -1, .clear_refs = -1, .pidfd = -1, .uffd = -1,
};
_Alignas(8) uint8_t agent_request[AGENT_MAX_MSG];

void agent_reply(const struct agent_msg *req, int rc, struct iovec *payload, int n, const int *fds, int n_fds)
{
	struct agent_msg m = {
		.magic = AGENT_MAGIC, .version = AGENT_VERSION, .type = req->type, .seq = req->seq, .rc = rc,
	};
	union {
		char buf[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov[4] = { { &m, sizeof(m) } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 1 };

	for (int i = 0; i < n && i < 3; i++) {
		iov[mh.msg_iovlen++] = payload[i];
		m.len += (uint32_t)payload[i].iov_len;
	}
	if (n_fds > 0 && n_fds <= 4) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof(control));
		mh.msg_control = control.buf;
		mh.msg_controllen = CMSG_SPACE((size_t)n_fds * sizeof(int));
		c = CMSG_FIRSTHDR(&mh);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)n_fds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, (size_t)n_fds * sizeof(int));
	}
	while (sendmsg(ag.sock, &mh, MSG_NOSIGNAL) == -1 && errno == EINTR)
		;
}

void agent_refuse(const struct agent_msg *req, int rc, const char *why)
{
	char text[AGENT_TEXT] = "";
	struct iovec iov = { text, sizeof(text) };

	strncpy(text, why, sizeof(text) - 1);
	agent_reply(req, rc, &iov, 1, NULL, 0);
}

static void do_stopped(const struct agent_msg *req)
{
	struct agent_stopped s;

	if (req->len != sizeof(s)) {
		agent_refuse(req, -EINVAL, "a time of another size");
		return;
	}
	memcpy(&s, agent_request + sizeof(*req), sizeof(s));
	kvmclock_stopped(s.at);
	agent_reply(req, 0, NULL, 0, NULL, 0);
}

static void *serve(void *arg)
{
	(void)arg;
	for (;;) {
		ssize_t got = recv(ag.sock, agent_request, sizeof(agent_request), MSG_TRUNC);
		struct agent_msg m;

		if (got == -1 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		if ((size_t)got < sizeof(m))
			continue;
		memcpy(&m, agent_request, sizeof(m));
		if ((size_t)got > sizeof(agent_request) || m.magic != AGENT_MAGIC || m.version != AGENT_VERSION ||
		    m.len != (size_t)got - sizeof(m))
			agent_refuse(&m, -EPROTO, "a request of another version or size");
		else if (m.type == AGENT_HELLO)
			agent_hello(&m);
		else if (m.type == AGENT_TRACK)
			agent_track(&m);
		else if (m.type == AGENT_DROP)
			agent_drop(&m);
		else if (m.type == AGENT_SHARE)
			agent_share(&m);
		else if (m.type == AGENT_STOPPED)
			do_stopped(&m);
		else if (m.type == AGENT_BLOCKS)
			agent_blocks(&m);
		else if (m.type == AGENT_PLACE)
			agent_place(&m);
		else
			agent_refuse(&m, -ENOSYS, "an unknown request");
	}
	close(ag.sock);
	return NULL;
}

/* env_fd() - the descriptor that a variable names, made close-on-exec; -1: none */
static int env_fd(const char *name)
{
	const char *s = getenv(name), *p = s;
	int fd;

	if (!s || *s == 0)
		return -1;
	fd = (int)agent_num(&p, s + strlen(s), 10);
	return fcntl(fd, F_SETFD, FD_CLOEXEC) == -1 ? -1 : fd;
}

/* clean_preload() - take this library's entry out of LD_PRELOAD, and leave the user's own */
static void clean_preload(void)
{
	const char *old = getenv("LD_PRELOAD"), *p = old;
	const size_t n_name = strlen(AGENT_LIB_NAME);
	char rest[4096];
	size_t n = 0;

	if (!old || strlen(old) >= sizeof(rest))
		return;
	while (*p) {
		size_t len = strcspn(p, ": ");

		if (len > 0 && (len < n_name || memcmp(p + len - n_name, AGENT_LIB_NAME, n_name) != 0)) {
			if (n > 0)
				rest[n++] = ':';
			memcpy(rest + n, p, len);
			n += len;
		}
		p += len + (p[len] != 0);
	}
	rest[n] = 0;
	if (n > 0)
		setenv("LD_PRELOAD", rest, 1);
	else
		unsetenv("LD_PRELOAD");
}

__attribute__((constructor)) static void agent_start(void)
{
	int ram = env_fd(AGENT_ENV_RAM_FD);
	sigset_t all, before;
	pthread_attr_t attr;
	pthread_t thread;
	struct stat st;

	ag.sock = env_fd(AGENT_ENV_FD);
	clean_preload();
	unsetenv(AGENT_ENV_FD);
	unsetenv(AGENT_ENV_RAM_FD);
	if (ag.sock == -1)
		return;
	if (ram != -1 && fstat(ram, &st) == 0) {
		ag.ram = ram;
		ag.dev = st.st_dev;
		ag.ino = st.st_ino;
	}
	agent_block_init();
	ag.maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	ag.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	ag.mem = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
	ag.status = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ag.clear_refs = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
	ag.pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	/* The thread inherits the mask, so that not even the first moment belongs to a signal of QEMU's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, AGENT_STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&thread, &attr, serve, NULL) == 0)
		pthread_setname_np(thread, "lockstep-agent");
	else
		close(ag.sock);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
}
