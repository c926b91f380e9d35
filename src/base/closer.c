/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Closing at once what a killed process has open: theory of operation
 *
 * A killed process gives back its memory first and its files last, and of memory Lockstep has mapped all that the
 * guest has: with 512 MB some 25 to 40 ms pass on a small machine between SIGKILL and the end of the connections,
 * by which the peer learns of the death. So a helper shares the table of files (clone with CLONE_FILES; its memory
 * is a copy of what there is at the start, almost nothing), waits for the death of one thread, and then shuts all
 * sockets down and closes everything.
 *
 * It must not do so before that thread can do nothing any more: the peer takes the end of the connections as the
 * proof that no frame leaves here (P5). The thread that is watched is the one that writes to the TAPs, and who says
 * that it is dead is the kernel: it keeps a robust list (Linux Documentation/locking/robust-futexes.rst), which the
 * kernel walks when the thread has left user space for good, and before it takes memory down. A process that is
 * frozen or stopped is not dead.
 *
 * Should the helper be missing, everything is as without it. While nobody is watched it looks each second whether
 * the process still lives. (PR_SET_PDEATHSIG would end it too early: that signal comes with the main thread's
 * death, which may be before the watched one's.) It blocks what a terminal sends to all processes. After the clone
 * it only makes system calls: the C library in it knows nothing of the other process. glibc's own robust list of
 * the watched thread is replaced; no robust mutex is locked there.
 */
#include "base/closer.h"

#include <errno.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define FIRST_FD	3	/* the standard ones are not ours alone */
#define SOCKETS_TO	1024	/* descriptors below are looked at for sockets */
#define LEFT		FUTEX_TID_MASK	/* no thread has this number */

struct entry {
	struct robust_list list;
	/* 0: nobody is watched yet; then the thread's id with FUTEX_WAITERS, what the kernel makes of that, or LEFT */
	_Atomic uint32_t word;
};

struct closer {
	struct robust_list_head head;
	struct entry entry;
	pid_t helper;
};

static long futex(struct closer *c, int op, uint32_t value, const struct timespec *limit)
{
	return syscall(SYS_futex, &c->entry.word, op, value, limit, NULL, 0);
}

static _Noreturn void help(struct closer *c, pid_t parent)
{
	const struct sched_param soon = { .sched_priority = 2 };
	const struct timespec look = { .tv_sec = 1 };
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	const struct __user_cap_data_struct none[2] = { 0 };
	uint32_t v;

	/* Where it is not allowed, the helper waits for its turn; taking memory down is much work for a processor. */
	syscall(SYS_sched_setscheduler, 0, SCHED_RR | SCHED_RESET_ON_FORK, &soon);
	prctl(PR_SET_NAME, "lockstep-closer");
	/* What it does from now on needs no right. */
	syscall(SYS_capset, &head, none);
	while ((v = atomic_load(&c->entry.word)) != LEFT) {
		/* A parent that is gone has no thread any more, whatever the kernel has made of the word. */
		if (!(v & FUTEX_OWNER_DIED) && syscall(SYS_getppid) == parent) {
			futex(c, FUTEX_WAIT, v, &look);
			continue;
		}
		/* Closing a TAP waits for the kernel's readers: who listens at the other end of a socket hears of it before. */
		for (int fd = FIRST_FD; fd < SOCKETS_TO; fd++)
			syscall(SYS_shutdown, fd, SHUT_RDWR);
		syscall(SYS_close_range, FIRST_FD, ~0u, 0);
		break;
	}
	for (;;)
		syscall(SYS_exit_group, 0);
}

struct closer *closer_start(struct err *e)
{
	struct closer *c = mmap(NULL, sizeof(*c), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t self = getpid();
	sigset_t all, old;
	long pid;

	if (c == MAP_FAILED) {
		err_set(e, -ENOMEM, "no memory for the helper that closes what a killed process has open");
		return NULL;
	}
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	/* No signal tells of its end: who waits for children in general does not meet it. */
	pid = syscall(SYS_clone, CLONE_FILES, NULL, NULL, NULL, NULL);
	if (!pid)
		help(c, self);
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (pid < 0) {
		err_set(e, -errno, "cannot start the helper that closes what a killed process has open: %s", strerror(errno));
		munmap(c, sizeof(*c));
		return NULL;
	}
	c->helper = (pid_t)pid;
	return c;
}

void closer_watch(struct closer *c)
{
	c->entry.list.next = &c->head.list;
	c->head.list.next = &c->entry.list;
	c->head.futex_offset = (long)offsetof(struct entry, word) - (long)offsetof(struct entry, list);
	/* Refused: then it is the end of the process that counts, as without the helper. */
	if (syscall(SYS_set_robust_list, &c->head, sizeof(c->head)))
		return;
	atomic_store(&c->entry.word, (uint32_t)syscall(SYS_gettid) | FUTEX_WAITERS);
	futex(c, FUTEX_WAKE, 1, NULL);
}

void closer_leave(struct closer *c)
{
	atomic_store(&c->entry.word, LEFT);
	futex(c, FUTEX_WAKE, 1, NULL);
}

void closer_end(struct closer *c)
{
	if (!c)
		return;
	closer_leave(c);
	while (waitpid(c->helper, NULL, __WALL) < 0 && errno == EINTR)
		;
	munmap(c, sizeof(*c));
}
