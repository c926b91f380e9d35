/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The list of system calls: theory of operation
 *
 * What is listed may be called; anything else answers ENOSYS, as on a kernel that does not have it. Killing the process
 * instead would turn each path that no test has been on into the death of a VM, which is what Lockstep is there to prevent;
 * ENOSYS is what the C library and others are ready for, and whoever has broken in gets no further with it either. The kernel
 * is asked to log it (audit) where it does.
 *
 * LOCKSTEP_SANDBOX=kill in the environment makes it the process's death all the same: so the tests find what is missing
 * from the list.
 *
 * Not listed, and the point of it all: loading programs (the helper of base/spawn.h does that), new processes, tracing
 * and the memory of others, mounts, namespaces, modules, keys, BPF, performance counters, new userfaultfds, changing the
 * user. A few calls are listed with conditions on their arguments.
 *
 * io_uring's requests do not pass here; what one could do with them (open, connect) is listed anyway.
 */
#include "base/sandbox.h"

#include <errno.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/log.h"

#if defined(__SANITIZE_ADDRESS__)
#define UNFILTERED	"AddressSanitizer makes system calls of its own"
#endif

#define CALL(name)	SCMP_SYS(name)

static const int calls[] = {
	/* memory */
	CALL(brk), CALL(mmap), CALL(munmap), CALL(mremap), CALL(mprotect), CALL(madvise), CALL(mlock), CALL(mlock2), CALL(munlock),
	CALL(msync), CALL(mincore), CALL(memfd_create), CALL(membarrier), CALL(process_madvise),
	/* threads and time */
	CALL(futex), CALL(futex_waitv), CALL(set_robust_list), CALL(get_robust_list), CALL(set_tid_address), CALL(rseq), CALL(exit), CALL(exit_group),
	CALL(sched_yield), CALL(sched_getaffinity), CALL(sched_setaffinity), CALL(sched_getscheduler), CALL(sched_setscheduler),
	CALL(sched_getparam), CALL(sched_setparam), CALL(sched_get_priority_max), CALL(sched_get_priority_min),
	CALL(sched_getattr), CALL(sched_setattr), CALL(getpriority), CALL(setpriority), CALL(getcpu),
	CALL(nanosleep), CALL(clock_nanosleep), CALL(clock_gettime), CALL(clock_getres), CALL(gettimeofday), CALL(time), CALL(times),
	CALL(timer_create), CALL(timer_settime), CALL(timer_gettime), CALL(timer_delete), CALL(timerfd_create), CALL(timerfd_settime),
	CALL(timerfd_gettime), CALL(setitimer), CALL(getitimer), CALL(alarm), CALL(pause),
	/* signals, children that there are */
	CALL(rt_sigaction), CALL(rt_sigprocmask), CALL(rt_sigreturn), CALL(rt_sigpending), CALL(rt_sigtimedwait), CALL(rt_sigsuspend),
	CALL(sigaltstack), CALL(signalfd4), CALL(kill), CALL(tkill), CALL(tgkill), CALL(restart_syscall), CALL(wait4), CALL(waitid),
	CALL(pidfd_open), CALL(pidfd_send_signal),
	/* who and what we are */
	CALL(getpid), CALL(getppid), CALL(gettid), CALL(getpgrp), CALL(getpgid), CALL(getsid), CALL(getuid), CALL(geteuid), CALL(getgid),
	CALL(getegid), CALL(getresuid), CALL(getresgid), CALL(getgroups), CALL(capget), CALL(capset), CALL(uname), CALL(sysinfo),
	CALL(getrlimit), CALL(prlimit64), CALL(getrusage), CALL(umask), CALL(getcwd), CALL(getrandom), CALL(arch_prctl),
	/* files */
	CALL(open), CALL(openat), CALL(openat2), CALL(creat), CALL(close), CALL(close_range), CALL(read), CALL(write), CALL(readv), CALL(writev),
	CALL(pread64), CALL(pwrite64), CALL(preadv), CALL(pwritev), CALL(preadv2), CALL(pwritev2), CALL(lseek), CALL(fcntl), CALL(flock), CALL(dup),
	CALL(dup2), CALL(dup3), CALL(pipe), CALL(pipe2), CALL(fsync), CALL(fdatasync), CALL(sync_file_range), CALL(syncfs), CALL(ftruncate), CALL(truncate),
	CALL(fallocate), CALL(fadvise64), CALL(readahead), CALL(copy_file_range), CALL(sendfile), CALL(splice), CALL(tee), CALL(vmsplice),
	CALL(stat), CALL(fstat), CALL(lstat), CALL(newfstatat), CALL(statx), CALL(statfs), CALL(fstatfs), CALL(access), CALL(faccessat),
	CALL(faccessat2), CALL(getdents), CALL(getdents64), CALL(readlink), CALL(readlinkat), CALL(rename), CALL(renameat), CALL(renameat2),
	CALL(unlink), CALL(unlinkat), CALL(link), CALL(linkat), CALL(symlink), CALL(symlinkat), CALL(mkdir), CALL(mkdirat), CALL(rmdir), CALL(chdir), CALL(fchdir), CALL(chmod), CALL(fchmod),
	CALL(fchmodat), CALL(fchown), CALL(fchownat), CALL(utimensat), CALL(getxattr), CALL(lgetxattr), CALL(fgetxattr),
	CALL(io_uring_setup), CALL(io_uring_enter), CALL(io_uring_register), CALL(io_setup), CALL(io_submit), CALL(io_getevents),
	CALL(io_destroy),
	/* waiting */
	CALL(epoll_create), CALL(epoll_create1), CALL(epoll_ctl), CALL(epoll_wait), CALL(epoll_pwait), CALL(epoll_pwait2), CALL(poll), CALL(ppoll), CALL(select),
	CALL(pselect6), CALL(eventfd), CALL(eventfd2), CALL(inotify_init1), CALL(inotify_add_watch), CALL(inotify_rm_watch),
	/* sockets; socket() is below */
	CALL(socketpair), CALL(bind), CALL(listen), CALL(accept), CALL(accept4), CALL(connect), CALL(shutdown), CALL(getsockname),
	CALL(getpeername), CALL(setsockopt), CALL(getsockopt), CALL(sendto), CALL(recvfrom), CALL(sendmsg), CALL(recvmsg),
	CALL(sendmmsg), CALL(recvmmsg),
};

static const int families[] = { AF_UNIX, AF_INET, AF_INET6, AF_NETLINK };

/* By number; not among them: those that type in a terminal's user's name, or make and change interfaces. */
static const uint32_t ioctls[] = {
	TCGETS, TCSETS, TCSETSW, TCSETSF, TIOCGWINSZ, TIOCGPGRP, FIONREAD, FIONBIO, FIOCLEX, FIONCLEX, FIOASYNC,
	SIOCGIFMTU, SIOCGIFFLAGS, SIOCGIFINDEX, SIOCGIFNAME, SIOCGIFADDR, SIOCGIFCONF, SIOCOUTQ,
	TUNSETOFFLOAD, TUNGETFEATURES,
	BLKGETSIZE64, BLKSSZGET, BLKPBSZGET, BLKIOMIN, BLKIOOPT, BLKROGET, BLKDISCARD, BLKZEROOUT, BLKDISCARDZEROES, BLKFLSBUF,
	FS_IOC_FIEMAP, FICLONE, FICLONERANGE,
	0xc0606610,	/* PAGEMAP_SCAN */
};

static const int prctls[] = { PR_SET_NAME, PR_GET_NAME, PR_SET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_DUMPABLE,
			      PR_CAPBSET_READ, PR_GET_NO_NEW_PRIVS, 0x53564d41 /* PR_SET_VMA */, PR_SET_TIMERSLACK };

static bool seccomp_killing(scmp_filter_ctx f)
{
	uint32_t action;

	return !seccomp_attr_get(f, SCMP_FLTATR_ACT_DEFAULT, &action) && action == SCMP_ACT_KILL_PROCESS;
}

static int add_conditions(scmp_filter_ctx f)
{
	int rc = 0;

	for (size_t i = 0; !rc && i < sizeof(families) / sizeof(*families); i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, CALL(socket), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)families[i]));
	for (size_t i = 0; !rc && i < sizeof(prctls) / sizeof(*prctls); i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, CALL(prctl), 1, SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)prctls[i]));
	/* The kernel looks at the lower half of it only. */
	for (size_t i = 0; !rc && i < sizeof(ioctls) / sizeof(*ioctls); i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, CALL(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, 0xffffffff, ioctls[i]));
	/* Threads, and nothing else that clone() can make. Of clone3() nobody can see that; the C library takes clone() then. */
	if (!rc)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, CALL(clone), 1, SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, CLONE_THREAD));
	if (!rc && seccomp_killing(f))
		rc = seccomp_rule_add(f, SCMP_ACT_ERRNO(ENOSYS), CALL(clone3), 0);
	return rc;
}

int sandbox_filter(struct err *e)
{
	const char *how = getenv("LOCKSTEP_SANDBOX");
	scmp_filter_ctx f;
	int rc;

#ifdef UNFILTERED
	log_note("sandbox: system calls are not filtered: " UNFILTERED);
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ? err_set(e, -errno, "no_new_privs: %s", strerror(errno)) : 0;
#endif
	f = seccomp_init(how && !strcmp(how, "kill") ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(ENOSYS));
	if (!f)
		return err_set(e, -ENOMEM, "no memory for the list of system calls");
	rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!rc)
		rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_LOG, 1);
	if (!rc)
		rc = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (size_t i = 0; !rc && i < sizeof(calls) / sizeof(*calls); i++)
		rc = seccomp_rule_add(f, SCMP_ACT_ALLOW, calls[i], 0);
	if (!rc)
		rc = add_conditions(f);
	if (!rc)
		rc = seccomp_load(f);
	seccomp_release(f);
	return rc ? err_set(e, rc, "the list of system calls is not taken: %s", strerror(-rc)) : 0;
}
