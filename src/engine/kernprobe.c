/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the kernel can do for us, tried out. Rows that are needed: knowing written pages (one of two ways), pidfd,
 * memfd, a TAP. Others say what would be better, or why something that the user may ask for (KVM) will be refused.
 * Main thread, at start.
 */
#include "engine/kernprobe.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "engine/memscan.h"

#define NEED_FILES	256	/* sockets, pipes and files of one node and its QEMU */

static void probe_kernel(struct probe *p)
{
	struct utsname u;

	if (!uname(&u))
		probe_row(p, "kernel", !strcmp(u.machine, "x86_64"), true, "Linux %.100s on %.60s", u.release,
			  u.machine);
}

static void probe_dirty(struct probe *p)
{
	struct err e = { 0 };
	int rc;

	rc = memscan_probe(&e);
	p->wp_async = !rc;
	probe_row(p, "written pages: userfaultfd", !rc, false, "%.200s",
		  rc ? e.msg : "asynchronous write protection and PAGEMAP_SCAN work");
	rc = memscan_probe_soft_dirty(&e);
	p->soft_dirty = !rc;
	probe_row(p, "written pages: soft-dirty", !rc, false, "%.200s", rc ? e.msg : "a written page is reported");
	probe_row(p, "written pages", p->wp_async || p->soft_dirty, true, "%s",
		  p->wp_async ? "by userfaultfd, also while the VM runs" :
		  p->soft_dirty ? "by soft-dirty bits, while the VM is stopped" :
		  "neither way works; Linux 6.7, or a kernel with CONFIG_MEM_SOFT_DIRTY, is needed");
}

static void probe_pidfd(struct probe *p)
{
	int fd = (int)syscall(SYS_pidfd_open, getpid(), 0);

	probe_row(p, "pidfd", fd >= 0, true, "%s", fd >= 0 ? "the death of QEMU is noticed at once" : strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void probe_memfd(struct probe *p)
{
	int fd = memfd_create("lockstep-probe", MFD_CLOEXEC);
	int rc = fd < 0 ? errno : posix_fallocate(fd, 0, 1 << 20);

	probe_row(p, "guest memory", !rc, true, "%s", rc ? strerror(rc) : "a memfd can be made and reserved");
	if (fd >= 0)
		close(fd);
}

static void probe_tun(struct probe *p)
{
	unsigned int features = 0;
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	bool ok = fd >= 0 && !ioctl(fd, TUNGETFEATURES, &features) && features & IFF_TAP;

	probe_row(p, "TAP", ok, true, "%s%s", ok ? "/dev/net/tun can be used" : "/dev/net/tun: ",
		  ok ? "" : fd < 0 ? strerror(errno) : "it offers no TAP");
	if (fd >= 0)
		close(fd);
}

static bool have_cap(int cap)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };

	return !syscall(SYS_capget, &head, data) && data[cap / 32].effective & 1u << cap % 32;
}

static void probe_caps(struct probe *p)
{
	bool net = have_cap(CAP_NET_ADMIN);

	probe_row(p, "right to open TAPs", net, false, "%s",
		  net ? "CAP_NET_ADMIN is there" :
		  "without CAP_NET_ADMIN only a TAP that belongs to this user can be opened");
}

static void probe_kvm(struct probe *p)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int version = fd < 0 ? -1 : ioctl(fd, KVM_GET_API_VERSION, 0);
	int vm = version == KVM_API_VERSION ? ioctl(fd, KVM_CREATE_VM, 0) : -1;

	probe_row(p, "KVM", p->kvm && vm >= 0, false, "%s%s", vm >= 0 ? "/dev/kvm can be used" : "/dev/kvm: ",
		  vm >= 0 ? p->kvm ? "" : ", but this QEMU has no KVM" :
		  fd >= 0 && version != KVM_API_VERSION ? "it does not speak KVM's language" : strerror(errno));
	p->kvm = p->kvm && vm >= 0;
	if (vm >= 0)
		close(vm);
	if (fd >= 0)
		close(fd);
}

static void probe_limits(struct probe *p)
{
	struct rlimit r;

	if (!getrlimit(RLIMIT_NOFILE, &r))
		probe_row(p, "limit: open files", r.rlim_cur >= NEED_FILES, true,
			  "%" PRIu64 " (ulimit -n), %d are needed",
			  (uint64_t)r.rlim_cur, NEED_FILES);
	if (!getrlimit(RLIMIT_FSIZE, &r))
		probe_row(p, "limit: file size", r.rlim_cur == RLIM_INFINITY, false, "%s",
			  r.rlim_cur == RLIM_INFINITY ? "none" :
			  "ulimit -f also limits the guest's memory, which is a file");
	if (!getrlimit(RLIMIT_AS, &r))
		probe_row(p, "limit: address space", r.rlim_cur == RLIM_INFINITY, false, "%s",
			  r.rlim_cur == RLIM_INFINITY ? "none" : "ulimit -v counts the guest's memory twice");
}

void kernprobe_run(struct probe *p)
{
	probe_kernel(p);
	probe_dirty(p);
	probe_pidfd(p);
	probe_memfd(p);
	probe_tun(p);
	probe_caps(p);
	probe_kvm(p);
	probe_limits(p);
}
