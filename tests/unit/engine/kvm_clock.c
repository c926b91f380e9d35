/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The agent's ioctl(), with a KVM made up here in the kernel's place: the linker brings syscall() to this file
 * (--wrap). What is asked is how much time the agent adds, compared with what the test itself has seen pass.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "agent/kvmclock.h"
#include "base/clock.h"

#define TSC		0x10
#define OTHER		0x174
#define KHZ		2000000		/* two ticks a nanosecond */
#define STOPPED_MS	20

static struct {
	uint64_t clock;
	struct kvm_msr_entry msr[4];
	uint32_t nmsrs;
	unsigned long last;
	int rc;
} kvm;

long __wrap_syscall(long number, int fd, unsigned long request, void *arg);
long __wrap_syscall(long number, int fd, unsigned long request, void *arg)
{
	struct kvm_clock_data c = { 0 };
	struct kvm_msrs *m = arg;

	assert_int_equal(number, SYS_ioctl);
	assert_int_equal(fd, 5);
	kvm.last = request;
	if (kvm.rc) {
		errno = -kvm.rc;
		return -1;
	}
	switch ((uint32_t)request) {
	case KVM_GET_CLOCK:
		c.clock = kvm.clock;
		memcpy(arg, &c, sizeof(c));
		return 0;
	case KVM_SET_CLOCK:
		memcpy(&c, arg, sizeof(c));
		kvm.clock = c.clock;
		return 0;
	case KVM_SET_MSRS:
		kvm.nmsrs = m->nmsrs;
		memcpy(kvm.msr, m->entries, m->nmsrs * sizeof(m->entries[0]));
		return m->nmsrs;
	case KVM_GET_TSC_KHZ:
		return KHZ;
	default:
		return 7;
	}
}

static void pass(uint64_t ms)
{
	struct timespec ts = { .tv_nsec = (long)(ms * NS_PER_MS) };

	nanosleep(&ts, NULL);
}

/* between() - @got is what has passed since a time between the two, at a time between the other two, with @per a ns */
static void between(uint64_t got, nstime from0, nstime from1, nstime to0, nstime to1, uint64_t per)
{
	assert_in_range(got, (to0 - from1) * per, (to1 - from0) * per);
}

/* get_clock() - as QEMU calls it, with the request in an int */
static void get_clock(struct kvm_clock_data *c)
{
	int request = (int)KVM_GET_CLOCK;

	assert_int_equal(ioctl(5, request, c), 0);
}

static void run(void)
{
	assert_int_equal(ioctl(5, KVM_RUN, 0), 7);
	assert_int_equal(kvm.last, KVM_RUN);
}

static void set_clock(uint64_t ns)
{
	struct kvm_clock_data c = { .clock = ns };

	assert_int_equal(ioctl(5, KVM_SET_CLOCK, &c), 0);
	assert_int_equal(c.clock, ns);		/* the caller's is left alone */
}

static void put_msrs(uint64_t ticks)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[3];
	} m = { .head.nmsrs = 3, .e = { { .index = OTHER, .data = 11 }, { .index = TSC, .data = ticks },
					{ .index = OTHER + 1, .data = 12 } } };

	assert_int_equal(ioctl(5, KVM_SET_MSRS, &m), 3);
	assert_int_equal(m.e[1].data, ticks);
	assert_int_equal(kvm.nmsrs, 3);
	assert_int_equal(kvm.msr[0].data, 11);
	assert_int_equal(kvm.msr[2].data, 12);
}

/* A QEMU that was never stopped and was told nothing: what it writes is what is written. */
static void untouched(void **state)
{
	set_clock(1000);
	assert_int_equal(kvm.clock, 1000);
	put_msrs(5000);
	assert_int_equal(kvm.msr[1].data, 5000);
}

/* A VM that is stopped and continued is as late as everybody else; its tick counter is nobody's business. */
static void stop_and_cont(void **state)
{
	struct kvm_clock_data c = { 0 };
	nstime t[4];

	kvm.clock = 1000;
	t[0] = clock_ns();
	get_clock(&c);
	t[1] = clock_ns();
	assert_int_equal(c.clock, 1000);
	pass(STOPPED_MS);
	put_msrs(5000);
	assert_int_equal(kvm.msr[1].data, 5000);
	t[2] = clock_ns();
	set_clock(1000);
	t[3] = clock_ns();
	between(kvm.clock - 1000, t[0], t[1], t[2], t[3], 1);
	run();
}

/* A state that comes from elsewhere: both clocks, since the other VM was stopped, until this one runs. */
static void load(void **state)
{
	nstime at = clock_ns(), t[4];

	pass(STOPPED_MS);
	kvmclock_stopped(at);
	t[0] = clock_ns();
	put_msrs(5000);
	t[1] = clock_ns();
	between(kvm.msr[1].data - 5000, at, at, t[0], t[1], KHZ / 1000000);
	put_msrs(0);		/* a reset's */
	assert_int_equal(kvm.msr[1].data, 0);
	pass(STOPPED_MS);
	t[2] = clock_ns();
	set_clock(70000);
	t[3] = clock_ns();
	between(kvm.clock - 70000, at, at, t[2], t[3], 1);
	run();
	/* From now on the guest's own resets write it. */
	put_msrs(5000);
	assert_int_equal(kvm.msr[1].data, 5000);
}

/* Of the own stop and the one that was told the later one counts; one in the future is none. */
static void later_counts(void **state)
{
	nstime told = clock_ns(), t[4];
	struct kvm_clock_data c;

	pass(STOPPED_MS);
	t[0] = clock_ns();
	get_clock(&c);
	t[1] = clock_ns();
	kvmclock_stopped(told);
	pass(STOPPED_MS);
	t[2] = clock_ns();
	put_msrs(5000);
	t[3] = clock_ns();
	between(kvm.msr[1].data - 5000, t[0], t[1], t[2], t[3], KHZ / 1000000);
	kvmclock_stopped(clock_ns() + NS_PER_S);
	put_msrs(5000);
	assert_int_equal(kvm.msr[1].data, 5000);
	set_clock(9);
	assert_int_equal(kvm.clock, 9);
	run();
}

/* Errors are the kernel's, lists that are too long go through as they are, and so does everything else. */
static void passed_on(void **state)
{
	struct kvm_msrs *m = calloc(1, sizeof(*m) + 600 * sizeof(m->entries[0]));
	struct kvm_clock_data c = { .clock = 3 };

	kvm.rc = -EFAULT;
	assert_int_equal(ioctl(5, KVM_SET_CLOCK, &c), -1);
	assert_int_equal(errno, EFAULT);
	assert_int_equal(ioctl(5, KVM_GET_CLOCK, NULL), -1);
	m->nmsrs = 600;
	kvmclock_stopped(1);
	assert_int_equal(ioctl(5, KVM_SET_MSRS, m), -1);
	kvm.rc = 0;
	assert_int_equal(ioctl(5, FIONREAD, &c), 7);
	assert_int_equal(kvm.last, FIONREAD);
	free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(untouched), cmocka_unit_test(stop_and_cont), cmocka_unit_test(load),
		cmocka_unit_test(later_counts), cmocka_unit_test(passed_on),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
