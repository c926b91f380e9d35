/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_MEM_VM_H
#define ENGINE_MEM_VM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/clock.h"
#include "engine/agentctl.h"
#include "engine/devstate.h"
#include "engine/ram.h"

/* A stock QEMU with the engine's memory, device state and agent, for tests. Every failure ends the test program. */
struct vm_opts {
	const char *qemu, *machine, *nic, *kernel, *agent, *append;
	const char *initrd;
	unsigned int mb;
	bool sandbox;
	char **extra;		/* further arguments, NULL-terminated; may be NULL */
};

struct vm {
	const char *name;
	pid_t pid;
	struct ram *ram;
	struct devstate *ds;
	struct agentctl *agent;
	int qmp;
	char in[1 << 16];
	size_t n_in;
	char answer[1 << 16];	/* the last answer */
	bool job_done;		/* the load's job has concluded */
	int mem;		/* /proc/PID/mem */

	int net;		/* our end of the guest's network */
	pthread_t net_thread;
	atomic_bool quiet;	/* send nothing to the guest */
	_Atomic uint64_t id, count, errors, writes, frames;	/* what the guest said last */
	_Atomic char order;	/* to be sent to the guest, once */
};

#define die(...) vm_die(__FILE__, __LINE__, __VA_ARGS__)
void vm_die(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4), noreturn));

/* vm_start() - start it, stopped (-S), and wait for QMP; @private: the secondary's way of mapping */
struct vm *vm_start(const char *name, const struct vm_opts *o, bool private);
/* vm_restart() - kill QEMU and start another one over the same memory and device state */
void vm_restart(struct vm *vm, const struct vm_opts *o, bool private);
void vm_end(struct vm *vm);

/* vm_qmp() - one command and its answer; false: it was an error; the text is in vm->answer */
bool vm_qmp(struct vm *vm, const char *cmd);
void vm_do(struct vm *vm, const char *cmd);

/* vm_load() - load the state in vm->ds; false: it failed, the job's description is in vm->answer */
bool vm_load(struct vm *vm);

/* vm_status() - run state, as QMP calls it; lives until the next call for any VM */
const char *vm_status(struct vm *vm);

/* vm_reset() - reset a VM that is switched off, panicked or the like; it is stopped then (prelaunch) */
void vm_reset(struct vm *vm);

/* vm_wait_frames() - until the guest has said something @n times more, and all is well with it; false: timeout */
bool vm_wait_frames(struct vm *vm, uint64_t n, unsigned int seconds);
bool vm_wait_status(struct vm *vm, const char *status, unsigned int seconds);

/* initramfs() - write to @path: the archive @base, and one behind it that puts @init in the place of its /init */
void initramfs(const char *path, const char *base, const char *init, char **modules);

void vm_sleep_ms(unsigned int ms);

#endif
