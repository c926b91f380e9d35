/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest's clocks under KVM: theory of operation
 *
 * A checkpoint stops a VM. To its guest that must look as if the processor had been busy elsewhere: afterwards its
 * clocks show what everybody else's show. QEMU gives a stopped VM its kvm-clock back where it stood, as after a pause
 * of a user's, so that a guest would lose each pause, and a copy that is loaded from a checkpoint all the time until
 * it runs. The tick counter runs on while a VM is stopped, but a loaded copy gets the value that it had at the stop.
 *
 * QEMU offers no way to say otherwise, but it reads and writes these clocks by ioctl, which is found in a library. So
 * ours stands before it, and for three requests does a little more:
 *
 *	KVM_GET_CLOCK	QEMU reads it as the VM is stopped: the time is noted
 *	KVM_SET_CLOCK	as the VM is continued: what has passed since is added. A copy that was loaded from a checkpoint
 *			was stopped together with the first, so that the same is right for it
 *	KVM_SET_MSRS	while a state is loaded: to the tick counter is added what it would have counted since
 *
 * A QEMU that has never run was never stopped: for it Lockstep says when the other one was (kvmclock_stopped()). That
 * is said before each load, and the later one of the two times is the nearer. The tick counter is touched only between
 * that and the next moment in which the VM runs, because a guest's reset writes it too. A zero, which is what a reset
 * writes, means more to KVM than its value and is left.
 *
 * Under TCG nothing of this happens, and the guest's clock stands during a pause: QEMU reads the host's tick counter by
 * an instruction.
 */
#include "kvmclock.h"

#include <linux/kvm.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MSR_TICKS	0x10u		/* IA32_TIME_STAMP_COUNTER */
#define MSRS_MAX	512u		/* more than QEMU writes at once; a longer list is passed on as it is */
#define NS_PER_MS	1000000ull

static _Atomic uint64_t stopped_at;	/* 0: never */
static atomic_bool loading;		/* from kvmclock_stopped() until the VM runs */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_BOOTTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000 * NS_PER_MS + (uint64_t)ts.tv_nsec;
}

static uint64_t since_stop(void)
{
	uint64_t at = atomic_load(&stopped_at), now = now_ns();

	return at && at < now ? now - at : 0;
}

void kvmclock_stopped(uint64_t at)
{
	if (at > atomic_load(&stopped_at))
		atomic_store(&stopped_at, at);
	atomic_store(&loading, true);
}

static int get_clock(int fd, void *arg)
{
	int rc = (int)syscall(SYS_ioctl, fd, KVM_GET_CLOCK, arg);

	if (!rc)
		atomic_store(&stopped_at, now_ns());
	return rc;
}

static int set_clock(int fd, const void *arg)
{
	struct kvm_clock_data c;

	memcpy(&c, arg, sizeof(c));
#ifdef KVM_CLOCK_REALTIME
	/* Then the kernel itself adds what has passed. */
	if (!(c.flags & KVM_CLOCK_REALTIME))
#endif
		c.clock += since_stop();
	return (int)syscall(SYS_ioctl, fd, KVM_SET_CLOCK, &c);
}

static int set_msrs(int fd, const void *arg)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry[MSRS_MAX];
	} m;
	long khz;

	memcpy(&m.head, arg, sizeof(m.head));
	if (m.head.nmsrs > MSRS_MAX)
		return (int)syscall(SYS_ioctl, fd, KVM_SET_MSRS, arg);
	memcpy(m.entry, (const uint8_t *)arg + offsetof(struct kvm_msrs, entries),
	       m.head.nmsrs * sizeof(m.entry[0]));
	khz = syscall(SYS_ioctl, fd, KVM_GET_TSC_KHZ, 0);
	for (uint32_t i = 0; i < m.head.nmsrs && khz > 0; i++)
		if (m.entry[i].index == MSR_TICKS && m.entry[i].data)
			m.entry[i].data += (uint64_t)((unsigned __int128)since_stop() * (uint64_t)khz / NS_PER_MS);
	return (int)syscall(SYS_ioctl, fd, KVM_SET_MSRS, &m);
}

/* ioctl() - QEMU's and its libraries', in place of libc's; no cancellation point, as libc's is none */
__attribute__((visibility("default"))) int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);
	/* QEMU keeps requests in an int, so that those with the highest bit come with ones above it. */
	switch ((uint32_t)request) {
	case KVM_RUN:
		if (atomic_load_explicit(&loading, memory_order_relaxed))
			atomic_store(&loading, false);
		break;
	case KVM_GET_CLOCK:
		return arg ? get_clock(fd, arg) : (int)syscall(SYS_ioctl, fd, request, arg);
	case KVM_SET_CLOCK:
		return arg ? set_clock(fd, arg) : (int)syscall(SYS_ioctl, fd, request, arg);
	case KVM_SET_MSRS:
		if (arg && atomic_load(&loading))
			return set_msrs(fd, arg);
		break;
	default:
		break;
	}
	return (int)syscall(SYS_ioctl, fd, request, arg);
}
