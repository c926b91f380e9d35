/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The agent inside QEMU: theory of operation
 *
 * Two things about a process's memory can only be done by that process: to make a userfaultfd over it, and to throw
 * private pages away (MADV_DONTNEED). So Lockstep preloads this library into QEMU. It starts one thread, which
 * serves one socket and otherwise sleeps; the one function that it replaces is ioctl(), for the guest's clocks under
 * KVM (kvmclock.c), and QEMU does not know that it is there.
 *
 * Which addresses are guest memory is read from /proc/self/maps when asked: the mappings of the file that Lockstep
 * made and passed by number. (An mmap() wrapper was the other way. It would have to follow munmap and mremap too,
 * and sees nothing of mappings that libc makes inside; the kernel's own list is never wrong.) The list and the page
 * map are opened before QEMU's main(), so that -chroot, -runas and -sandbox, which come later, take nothing away.
 *
 * Promises:
 * - QEMU is never brought down from here: no abort, no exit, no signal is taken (all are blocked in the thread), and
 *   whatever fails is told to Lockstep in a reply. Lockstep gone means the thread ends.
 * - Nothing leaks into QEMU's children: the preload entry and the variables leave the environment in the
 *   constructor, and the descriptors get close-on-exec.
 * - No memory is allocated after the constructor; one request at a time, its size bounded by AGENT_MAX_MSG.
 * - Only pages of private mappings of the guest's memory file are ever dropped.
 *
 * If the process forks (-daemonize), the thread is not in the child; Lockstep does not let QEMU daemonize.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#include "agent_proto.h"
#include "kvmclock.h"

/* Newer than the headers of Debian 12, whose kernel is 6.1. */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define AGENT_FEATURE_WP_HUGETLBFS_SHMEM	(1ull << 12)
#define AGENT_FEATURE_WP_UNPOPULATED		(1ull << 13)
#define AGENT_FEATURE_WP_ASYNC			(1ull << 15)
#define AGENT_USERFAULTFD_IOC_NEW		_IO(0xAA, 0x00)
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

enum {
	AGENT_PAGE = 4096,
	AGENT_STACK = 256 * 1024,	/* thread-local storage of QEMU's libraries comes out of it, too */
	AGENT_IOV = 1024,		/* the kernel's limit for one vector */
	AGENT_LINE = 512,		/* bytes of a line of the map that matter; the rest is skipped */
};

static struct {
	int sock;
	int maps;
	int pagemap;
	int clear_refs;
	int pidfd;		/* of ourselves; -1: process_madvise is not to be had */
	int uffd;		/* -1 until TRACK */
	uint64_t features;
	bool have_ram;
	dev_t dev;
	ino_t ino;
	unsigned int n_ranges;
	struct agent_range range[AGENT_MAX_RANGES];
} ag = { .sock = -1, .maps = -1, .pagemap = -1, .clear_refs = -1, .pidfd = -1, .uffd = -1 };

static _Alignas(8) uint8_t request[AGENT_MAX_MSG];

/* reply() - answer one request; a lost answer is Lockstep's to notice */
static void reply(const struct agent_msg *req, int rc, struct iovec *payload, int n, const int *fds, int n_fds)
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

static void refuse(const struct agent_msg *req, int rc, const char *why)
{
	char text[AGENT_TEXT] = "";
	struct iovec iov = { text, sizeof(text) };

	strncpy(text, why, sizeof(text) - 1);
	reply(req, rc, &iov, 1, NULL, 0);
}

/* parse_num() - digits of @base at *@p; moves *@p behind them and one character more */
static uint64_t parse_num(const char **p, const char *end, unsigned int base)
{
	uint64_t v = 0;

	for (; *p < end; (*p)++) {
		char c = **p;
		unsigned int d = c >= '0' && c <= '9' ? (unsigned int)(c - '0') :
				 c >= 'a' && c <= 'f' ? (unsigned int)(c - 'a' + 10) : 99;

		if (d >= base)
			break;
		v = v * base + d;
	}
	if (*p < end)
		(*p)++;
	return v;
}

/* map_line() - look at one line of the map: "start-end rwxp offset major:minor inode  name" */
static int map_line(const char *p, const char *end)
{
	uint64_t start = parse_num(&p, end, 16), stop = parse_num(&p, end, 16), offset;
	unsigned int major, minor;
	struct agent_range *last;
	bool shared;
	char perms[5] = "";

	if (end - p < 5)
		return 0;
	memcpy(perms, p, 4);
	p += 5;
	offset = parse_num(&p, end, 16);
	major = (unsigned int)parse_num(&p, end, 16);
	minor = (unsigned int)parse_num(&p, end, 16);
	if (parse_num(&p, end, 10) != ag.ino || makedev(major, minor) != ag.dev || stop <= start)
		return 0;
	shared = perms[3] == 's';
	last = ag.n_ranges > 0 ? &ag.range[ag.n_ranges - 1] : NULL;
	if (last && last->addr + last->len == start && last->offset + last->len == offset &&
	    last->shared == (shared ? 1 : 0)) {
		last->len += stop - start;
		return 0;
	}
	if (ag.n_ranges == AGENT_MAX_RANGES)
		return -E2BIG;
	ag.range[ag.n_ranges++] = (struct agent_range){
		.addr = start, .len = stop - start, .offset = offset, .shared = shared ? 1 : 0,
	};
	return 0;
}

/* find_ranges() - fill ag.range from the kernel's list of mappings */
static int find_ranges(void)
{
	char line[AGENT_LINE], buf[1024];
	size_t n = 0;
	ssize_t got;
	int rc = 0;

	ag.n_ranges = 0;
	if (lseek(ag.maps, 0, SEEK_SET) == -1)
		return -errno;
	for (;;) {
		got = read(ag.maps, buf, sizeof(buf));
		if (got == -1 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		for (ssize_t i = 0; i < got && rc == 0; i++) {
			if (buf[i] == '\n') {
				rc = map_line(line, line + n);
				n = 0;
			} else if (n < sizeof(line)) {
				line[n++] = buf[i];
			}
		}
	}
	return got == -1 ? -errno : rc;
}

static void do_hello(const struct agent_msg *req)
{
	struct agent_hello h = { .pid = (uint32_t)getpid() };
	struct iovec iov[2] = { { &h, sizeof(h) }, { ag.range, 0 } };
	int fds[2], n = 0, rc;

	if (!ag.have_ram) {
		refuse(req, -ENOENT, "the descriptor of the guest's memory did not arrive in QEMU");
		return;
	}
	if (ag.maps == -1 || ag.pagemap == -1) {
		refuse(req, -EACCES, "/proc/self/maps or pagemap cannot be opened inside QEMU");
		return;
	}
	rc = find_ranges();
	if (rc < 0) {
		refuse(req, rc, rc == -E2BIG ? "the guest's memory is mapped in too many pieces" :
					       "/proc/self/maps cannot be read inside QEMU");
		return;
	}
	h.n_ranges = ag.n_ranges;
	iov[1].iov_len = ag.n_ranges * sizeof(ag.range[0]);
	fds[n++] = ag.pagemap;
	if (ag.clear_refs != -1)
		fds[n++] = ag.clear_refs;
	reply(req, 0, iov, 2, fds, n);
}

/*
 * open_uffd() - a userfaultfd of this process
 *
 * User-mode-only is asked for first because it needs no privilege, and it is enough: with WP_ASYNC the kernel
 * resolves the fault itself wherever it comes from, so writes by system calls and by KVM are seen as well.
 */
static int open_uffd(void)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	int rc, dev;

	if (fd != -1)
		return fd;
	rc = -errno;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev == -1)
		return rc;
	fd = ioctl(dev, AGENT_USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
	if (fd == -1)
		fd = -errno;
	close(dev);
	return fd;
}

static void do_track(const struct agent_msg *req)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = AGENT_FEATURE_WP_ASYNC | AGENT_FEATURE_WP_UNPOPULATED | AGENT_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	struct agent_track t;
	struct iovec iov = { &t, sizeof(t) };
	int fd, rc;

	if (ag.n_ranges == 0) {
		refuse(req, -ENOENT, "the guest's memory is not mapped in QEMU (HELLO comes first)");
		return;
	}
	if (ag.uffd == -1) {
		fd = open_uffd();
		if (fd < 0) {
			refuse(req, fd, "userfaultfd cannot be opened inside QEMU");
			return;
		}
		if (ioctl(fd, UFFDIO_API, &api) == -1) {
			rc = -errno;
			close(fd);
			refuse(req, rc, "the kernel's userfaultfd has no asynchronous write-protection (6.7 has it)");
			return;
		}
		for (unsigned int i = 0; i < ag.n_ranges; i++) {
			struct uffdio_register r = {
				.range = { .start = ag.range[i].addr, .len = ag.range[i].len },
				.mode = UFFDIO_REGISTER_MODE_WP,
			};

			if (ioctl(fd, UFFDIO_REGISTER, &r) == 0)
				continue;
			rc = -errno;
			close(fd);	/* undoes what was registered */
			refuse(req, rc, "userfaultfd cannot be registered over the guest's memory");
			return;
		}
		ag.uffd = fd;
		ag.features = api.features;
	}
	t.features = ag.features;
	reply(req, 0, &iov, 1, &ag.uffd, 1);
}

/* locate() - address of the file's bytes [@offset, @offset + @len), which lie in one private mapping; NULL: not so */
static void *locate(uint64_t offset, uint64_t len)
{
	for (unsigned int i = 0; i < ag.n_ranges; i++) {
		const struct agent_range *r = &ag.range[i];

		if (!r->shared && offset >= r->offset && len <= r->len && offset - r->offset <= r->len - len)
			return (void *)(uintptr_t)(r->addr + (offset - r->offset));	/* NOLINT: an address */
	}
	return NULL;
}

/*
 * drop() - give the pages named by @iov back to the file's content
 *
 * One call for many pieces saves the TLB flush that each costs by itself, but a process may do it to itself only
 * since 6.13. What the vector call leaves is done one by one.
 */
static int drop(struct iovec *iov, unsigned int n)
{
	while (ag.pidfd != -1 && n > 0) {
		ssize_t did = syscall(SYS_process_madvise, ag.pidfd, iov, (size_t)n, MADV_DONTNEED, 0u);

		if (did <= 0) {
			if (did == -1 && (errno == EINTR || errno == EAGAIN))
				continue;
			close(ag.pidfd);
			ag.pidfd = -1;
			break;
		}
		for (; n > 0 && (size_t)did >= iov->iov_len; n--, iov++)
			did -= (ssize_t)iov->iov_len;
		if (n > 0) {
			iov->iov_base = (uint8_t *)iov->iov_base + did;
			iov->iov_len -= (size_t)did;
		}
	}
	for (; n > 0; n--, iov++) {
		while (madvise(iov->iov_base, iov->iov_len, MADV_DONTNEED) == -1)
			if (errno != EAGAIN && errno != EINTR)
				return -errno;
	}
	return 0;
}

static void do_drop(const struct agent_msg *req)
{
	static struct iovec iov[AGENT_IOV];
	const struct agent_run *run = (const void *)(request + sizeof(*req));
	unsigned int n_runs = req->len / sizeof(*run), n = 0;
	struct agent_dropped d = { 0 };
	struct iovec answer = { &d, sizeof(d) };
	int rc = 0;

	if (req->len % sizeof(*run) != 0 || n_runs > AGENT_MAX_RUNS) {
		refuse(req, -EINVAL, "a list of pages of an odd length");
		return;
	}
	/* All are looked at before any is dropped, so that a refusal means that nothing has changed. */
	for (unsigned int i = 0; i < n_runs; i++) {
		if (run[i].first > UINT64_MAX / AGENT_PAGE || run[i].count > UINT64_MAX / AGENT_PAGE ||
		    run[i].count == 0 || !locate(run[i].first * AGENT_PAGE, run[i].count * AGENT_PAGE)) {
			refuse(req, -ERANGE, "a page outside the guest's privately mapped memory");
			return;
		}
	}
	for (unsigned int i = 0; i < n_runs && rc == 0; i++) {
		iov[n].iov_base = locate(run[i].first * AGENT_PAGE, run[i].count * AGENT_PAGE);
		iov[n].iov_len = run[i].count * AGENT_PAGE;
		d.pages += run[i].count;
		if (++n == AGENT_IOV || i == n_runs - 1) {
			rc = drop(iov, n);
			n = 0;
		}
	}
	if (rc < 0)
		refuse(req, rc, "pages could not be dropped (locked memory?)");
	else
		reply(req, 0, &answer, 1, NULL, 0);
}

static void do_stopped(const struct agent_msg *req)
{
	struct agent_stopped s;

	if (req->len != sizeof(s)) {
		refuse(req, -EINVAL, "a time of another size");
		return;
	}
	memcpy(&s, request + sizeof(*req), sizeof(s));
	kvmclock_stopped(s.at);
	reply(req, 0, NULL, 0, NULL, 0);
}

static void *serve(void *arg)
{
	(void)arg;
	for (;;) {
		ssize_t got = recv(ag.sock, request, sizeof(request), MSG_TRUNC);
		struct agent_msg m;

		if (got == -1 && errno == EINTR)
			continue;
		if (got <= 0)
			break;
		if ((size_t)got < sizeof(m))
			continue;
		memcpy(&m, request, sizeof(m));
		if ((size_t)got > sizeof(request) || m.magic != AGENT_MAGIC || m.version != AGENT_VERSION ||
		    m.len != (size_t)got - sizeof(m))
			refuse(&m, -EPROTO, "a request of another version or size");
		else if (m.type == AGENT_HELLO)
			do_hello(&m);
		else if (m.type == AGENT_TRACK)
			do_track(&m);
		else if (m.type == AGENT_DROP)
			do_drop(&m);
		else if (m.type == AGENT_STOPPED)
			do_stopped(&m);
		else
			refuse(&m, -ENOSYS, "an unknown request");
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
	fd = (int)parse_num(&p, s + strlen(s), 10);
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
		ag.have_ram = true;
		ag.dev = st.st_dev;
		ag.ino = st.st_ino;
	}
	ag.maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	ag.pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
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
