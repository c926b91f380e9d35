/* SPDX-License-Identifier: BSD-2-Clause */
/* Acts on guest memory: following what is written, dropping private pages, sharing what was private. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#include "agent.h"

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

enum { AGENT_IOV = 1024 };	/* the kernel's limit for one vector */

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

void agent_track(const struct agent_msg *req)
{
	struct uffdio_api api = {
		.api = UFFD_API,
		.features = AGENT_FEATURE_WP_ASYNC | AGENT_FEATURE_WP_UNPOPULATED | AGENT_FEATURE_WP_HUGETLBFS_SHMEM,
	};
	struct agent_track t;
	struct iovec iov = { &t, sizeof(t) };
	int fd, rc;

	if (ag.n_ranges == 0) {
		agent_refuse(req, -ENOENT, "the guest's memory is not mapped in QEMU (HELLO comes first)");
		return;
	}
	if (ag.uffd == -1) {
		fd = open_uffd();
		if (fd < 0) {
			agent_refuse(req, fd, "userfaultfd cannot be opened inside QEMU");
			return;
		}
		if (ioctl(fd, UFFDIO_API, &api) == -1) {
			rc = -errno;
			close(fd);
			agent_refuse(req, rc, "the kernel's userfaultfd has no asynchronous write-protection (6.7 has it)");
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
			agent_refuse(req, rc, "userfaultfd cannot be registered over the guest's memory");
			return;
		}
		ag.uffd = fd;
		ag.features = api.features;
	}
	t.features = ag.features;
	agent_reply(req, 0, &iov, 1, &ag.uffd, 1);
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

void agent_drop(const struct agent_msg *req)
{
	static struct iovec iov[AGENT_IOV];
	const struct agent_run *run = (const void *)(agent_request + sizeof(*req));
	unsigned int n_runs = req->len / sizeof(*run), n = 0;
	struct agent_dropped d = { 0 };
	struct iovec answer = { &d, sizeof(d) };
	int rc = 0;

	if (req->len % sizeof(*run) != 0 || n_runs > AGENT_MAX_RUNS) {
		agent_refuse(req, -EINVAL, "a list of pages of an odd length");
		return;
	}
	/* All are looked at before any is dropped, so that a refusal means that nothing has changed. */
	for (unsigned int i = 0; i < n_runs; i++) {
		if (run[i].first > UINT64_MAX / AGENT_PAGE || run[i].count > UINT64_MAX / AGENT_PAGE ||
		    run[i].count == 0 || !agent_locate(run[i].first * AGENT_PAGE, run[i].count * AGENT_PAGE, true)) {
			agent_refuse(req, -ERANGE, "a page outside the guest's privately mapped memory");
			return;
		}
	}
	for (unsigned int i = 0; i < n_runs && rc == 0; i++) {
		iov[n].iov_base = agent_locate(run[i].first * AGENT_PAGE, run[i].count * AGENT_PAGE, true);
		iov[n].iov_len = run[i].count * AGENT_PAGE;
		d.pages += run[i].count;
		if (++n == AGENT_IOV || i == n_runs - 1) {
			rc = drop(iov, n);
			n = 0;
		}
	}
	if (rc < 0)
		agent_refuse(req, rc, "pages could not be dropped (locked memory?)");
	else
		agent_reply(req, 0, &answer, 1, NULL, 0);
}

/* write_back() - the pages of @run into the file at their own place; 0 or -errno */
static int write_back(const struct agent_run *run)
{
	const uint8_t *p = agent_locate(run->first * AGENT_PAGE, run->count * AGENT_PAGE, true);
	uint64_t done = 0, len = run->count * AGENT_PAGE;

	while (done < len) {
		ssize_t n = pwrite(ag.ram, p + done, len - done, (off_t)(run->first * AGENT_PAGE + done));

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == -1 ? -errno : -EIO;
		done += (uint64_t)n;
	}
	return 0;
}

/* write_private() - what is private of @run's pages into the file; adds to @pages; 0 or -errno */
static int write_private(const struct agent_run *run, uint64_t *pages)
{
	const uint64_t present = 3ull << 62, file = 1ull << 61;	/* in memory or swapped; not a copy of our own */
	const uint8_t *addr = agent_locate(run->first * AGENT_PAGE, run->count * AGENT_PAGE, false);
	struct agent_run piece = { 0 };
	uint64_t entry[512];

	for (uint64_t i = 0; i < run->count;) {
		uint64_t n = run->count - i < 512 ? run->count - i : 512;
		ssize_t got = pread(ag.pagemap, entry, n * 8, (off_t)(((uintptr_t)addr / AGENT_PAGE + i) * 8));

		if (got == -1 && errno == EINTR)
			continue;
		if (got != (ssize_t)(n * 8))
			return got == -1 ? -errno : -EIO;
		for (uint64_t k = 0; k < n; k++) {
			bool mine = (entry[k] & present) != 0 && (entry[k] & file) == 0;

			if (mine && piece.count > 0) {
				piece.count++;
			} else if (mine) {
				piece = (struct agent_run){ .first = run->first + i + k, .count = 1 };
			}
			if (piece.count > 0 && (!mine || i + k + 1 == run->count)) {
				int rc = write_back(&piece);

				if (rc < 0)
					return rc;
				*pages += piece.count;
				piece.count = 0;
			}
		}
		i += n;
	}
	return 0;
}

/*
 * A stopped VM is not quite all that writes: QEMU's main loop still brings input to a virtio console, for one. So from
 * the look at a page to its new mapping QEMU's big lock is held, whose functions stock builds export. Without them the
 * time in between is as short as it can be. Return: what gives it back; NULL: it could not be taken
 */
static void (*lock_qemu(void))(void)
{
	void (*lock)(const char *file, int line), (*unlock)(void);

	*(void **)&lock = dlsym(RTLD_DEFAULT, "bql_lock_impl");
	*(void **)&unlock = dlsym(RTLD_DEFAULT, "bql_unlock");
	if (!lock || !unlock) {
		*(void **)&lock = dlsym(RTLD_DEFAULT, "qemu_mutex_lock_iothread_impl");
		*(void **)&unlock = dlsym(RTLD_DEFAULT, "qemu_mutex_unlock_iothread");
	}
	if (!lock || !unlock)
		return NULL;
	lock(__FILE__, __LINE__);
	return unlock;
}

/*
 * agent_share() - the first run of the request is mapped shared, after what is private of it was written to the file
 *
 * The other runs are the private pages that Lockstep has seen; it has made the piece so small that writing them takes
 * little time.
 *
 * Until the mapping is replaced nothing of what QEMU sees has changed, so an error before leaves it as it was. The new
 * mapping gets the advice that QEMU gives to guest memory.
 */
void agent_share(const struct agent_msg *req)
{
	const struct agent_run *run = (const void *)(agent_request + sizeof(*req));
	unsigned int n_runs = req->len / sizeof(*run);
	struct agent_shared s = { 0 };
	struct iovec answer = { &s, sizeof(s) };
	void (*unlock)(void);
	uint64_t len, pages = 0;
	void *addr;
	int rc;

	if (req->len % sizeof(*run) != 0 || n_runs == 0 || n_runs > AGENT_MAX_RUNS) {
		agent_refuse(req, -EINVAL, "a list of pages of an odd length");
		return;
	}
	if (ag.uffd != -1) {
		agent_refuse(req, -EBUSY, "the guest's memory is being followed already");
		return;
	}
	for (unsigned int i = 0; i < n_runs; i++) {
		uint64_t end = run[0].first + run[0].count;

		/* All of it may be shared already (the piece of an earlier try); private pages lie in private memory. */
		if (run[i].first > UINT64_MAX / 2 / AGENT_PAGE || run[i].count > UINT64_MAX / 2 / AGENT_PAGE ||
		    run[i].count == 0 || run[i].first < run[0].first || run[i].first + run[i].count > end ||
		    !agent_locate(run[i].first * AGENT_PAGE, run[i].count * AGENT_PAGE, i > 0)) {
			agent_refuse(req, -ERANGE, "a page outside the guest's privately mapped memory");
			return;
		}
	}
	len = run[0].count * AGENT_PAGE;
	addr = agent_locate(run[0].first * AGENT_PAGE, len, false);
	unlock = lock_qemu();
	rc = write_private(&run[0], &pages);
	s.pages = pages;
	if (rc == 0 && mmap(addr, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, ag.ram,
			    (off_t)(run[0].first * AGENT_PAGE)) == MAP_FAILED)
		rc = -errno;
	if (unlock)
		unlock();
	if (rc < 0) {
		agent_refuse(req, rc, "private pages cannot be written to the guest's memory file, or that be mapped shared");
		return;
	}
	madvise(addr, len, MADV_HUGEPAGE);
	madvise(addr, len, MADV_DONTFORK);
	rc = agent_find_ranges();
	if (rc < 0)
		agent_refuse(req, rc, "the guest's memory is mapped in too many pieces");
	else
		agent_reply(req, 0, &answer, 1, NULL, 0);
}
