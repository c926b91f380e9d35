/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_VM_H
#define ENGINE_VM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/loop.h"
#include "engine/agentctl.h"
#include "engine/cmdline.h"
#include "engine/devstate.h"
#include "engine/ident.h"
#include "engine/probe.h"
#include "engine/ram.h"

/*
 * One QEMU: its process, its monitor and its agent, from start to death. Control loop (the main thread) only, but
 * for the agent, which belongs to the memory worker once vm_ops.ready was called.
 */
struct vm;

enum vm_job { VM_STOP, VM_CONT, VM_SAVE, VM_LOAD, VM_PAUSE, VM_JOBS };

/* What a guest is told from outside. */
enum vm_order { VM_POWERDOWN, VM_RESET };

struct vm_ops {
	/* QEMU is up, stopped, its memory found (and tracked when shared). @agent: borrowed until died() or vm_free() */
	void (*ready)(void *arg, struct agentctl *agent);
	/* a job has ended; @rc: 0 or -errno, @why: a sentence, NULL when @rc is 0 */
	void (*done)(void *arg, enum vm_job job, uint64_t n, int rc, const char *why);
	/* the process is gone (not called after vm_kill()); @how: "was killed by signal 9 (Killed)" */
	void (*died)(void *arg, const char *how);
	/* QMP has not answered, or a processor has not run, for the timeout; called once for each hang; @how: a sentence */
	void (*hung)(void *arg, const char *how);
	/* after vm_settle(): QEMU's main loop has been once around */
	void (*settled)(void *arg);
	/* during a VM_STOP or VM_PAUSE: the processors stand; QEMU's disks are drained and flushed after it, before done() */
	void (*stopped)(void *arg);
	void (*guest_off)(void *arg);
	void (*guest_reset)(void *arg);
	/* the guest has panicked; @what: PANIC_PAUSE: QEMU has stopped the VM; PANIC_SHUTDOWN: so it has, and it is to end */
	void (*guest_panic)(void *arg, enum cmdline_panic what);
	/* QEMU has stopped the VM of itself, as a watchdog or the command line wanted it */
	void (*guest_stopped)(void *arg, const char *why);
	/* vm_tell()'s answer; @rc: 0 or -errno with a sentence */
	void (*told)(void *arg, enum vm_order order, uint64_t token, int rc, const char *why);
	void *arg;
};

struct vm_spec {
	const struct cmdline *cl;
	const struct probe *probe;
	struct ram *ram;
	struct devstate *ds;
	const char *disk_socket;	/* of the NBD server for cl->disks[]; NULL when there are none */
	const char *agent_lib;		/* path of liblockstep-agent.so */
	const struct account *as;	/* the user that QEMU runs as; NULL: ours */
	nstime qemu_timeout;		/* without an answer, or with a processor that does not run, for so long it is hung */
};

/* Numbers of descriptors inside QEMU. */
enum { VM_FD_QMP = 20, VM_FD_RAM, VM_FD_SAVE, VM_FD_LOAD, VM_FD_AGENT, VM_FD_NIC, VM_FD_DISK = VM_FD_NIC + CMDLINE_NICS_MAX };

/*
 * vm_new() - @spec's pointers are borrowed for the life of the vm
 *
 * vm_start() may be called in both ways also when the helper that makes our children is sealed (base/spawn.h) after the first
 * time.
 */
struct vm *vm_new(struct loop *loop, const struct vm_spec *spec, const struct vm_ops *ops, struct err *e);
void vm_free(struct vm *vm);

/*
 * vm_start() - start QEMU, stopped; ready() follows, or died()
 * @share: guest memory is the image itself (primary) or a private copy over it (secondary)
 * @nic_fd: filled with our ends of the netdev sockets, the caller's
 *
 * Return: 0 or -errno with @e filled
 */
int vm_start(struct vm *vm, bool share, int nic_fd[CMDLINE_NICS_MAX], struct err *e);

/* vm_serves() - it was a private copy and is the VM from now on: when it is off, a stop does not reset it any more */
void vm_serves(struct vm *vm);

/* vm_job() - begin a job; done() follows in any case (unless the VM is killed) */
void vm_job(struct vm *vm, enum vm_job job, uint64_t n);

/*
 * vm_pause() - the VM is to stand (@on), or to run as far as VM_STOP and VM_CONT have it run; done() of VM_PAUSE follows
 *
 * While it is to stand a VM_CONT is answered well and has no effect but for later. The order outlives the process.
 */
void vm_pause(struct vm *vm, bool on, uint64_t n);

/* vm_tell() - press the power button, or reset; told() follows with @token */
void vm_tell(struct vm *vm, enum vm_order order, uint64_t token);

/* vm_settle() - have QEMU's main loop go once around; settled() follows */
void vm_settle(struct vm *vm);

/* vm_agent_take() - the agent of a QEMU that was killed, the caller's to free once nobody uses it any more; may be NULL */
struct agentctl *vm_agent_take(struct vm *vm);

/* vm_kill() - end QEMU now; waits until it is gone; died() is not called */
void vm_kill(struct vm *vm);

/* vm_ident() - what QEMU said of itself; from ready() on */
const struct ident *vm_ident(const struct vm *vm);

/* vm_dying() - whether QEMU is dead, or its memory may be gone; died() may be yet to come */
bool vm_dying(const struct vm *vm);

pid_t vm_pid(const struct vm *vm);
/* vm_version() - as QEMU's monitor says it; empty before ready() */
const char *vm_version(const struct vm *vm);
/* vm_run_state() - "running", "paused" and so on, by the monitor's events */
const char *vm_run_state(const struct vm *vm);
/* vm_qmp_age() - how long the oldest unanswered command waits, ns; 0: none does; any thread while the VM lives */
nstime vm_qmp_age(const struct vm *vm);

#endif
