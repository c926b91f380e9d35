/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One QEMU: theory of operation
 *
 * Start: socket pairs for the monitor and each NIC, a connection for each disk, the command line with their numbers, the process with the agent
 * preloaded. QEMU comes up stopped; after its greeting it is asked who it is (ident.c), what it has of memory beside
 * the guest's main memory is moved into the guest's memory file, and then the agent is asked where all of it is mapped,
 * and told to register it for tracking when it is shared. That is "ready".
 *
 * Jobs are QMP commands: stop, cont, xen-save-devices-state, and snapshot-load, which is a job in QEMU too: it is
 * over when its status is "concluded", and then its error is asked for. An SVM that its guest has switched off cannot
 * be continued after a load without a reset in between, and the reset writes memory: so it belongs to the stop, before
 * memory is made right.
 *
 * A living process can hang. Whenever nothing is under way a query-status is sent each PING_NS; an answer that is
 * overdue by the timeout is a hang, reported once; that is also how a QEMU shows that was stopped by a signal. A monitor
 * that answers does not say that the guest runs: so at each ping the processors' threads are looked at too (vcpu.c), and
 * one that could not run for the timeout is a hang. (The heartbeat says nothing about QEMU: each node judges its own.)
 *
 * A VM that is to stand (vm_pause()) stands under all of this: cont is answered and not given to QEMU, and given when the order
 * is taken back, if the last of stop and cont was cont. QEMU stops a VM by itself too, when the guest panics or a watchdog fires;
 * who is told gives the order to stand then, so that no cont of ours has it run on.
 *
 * The guest's own acts come as events: SHUTDOWN by the guest is a poweroff and not a death.
 */
#include "engine/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/cmdbuild.h"
#include "engine/ramblock.h"
#include "engine/process.h"
#include "engine/qmp.h"
#include "engine/vcpu.h"

#define PING_NS		(500 * NS_PER_MS)
#define START_NS	(20 * NS_PER_S)
#define NIC_BUFFER	(16 << 20)	/* bytes of QEMU's output that its netdev socket takes */
#define AGENT_NS	(5 * NS_PER_S)

struct vm {
	struct loop *loop;
	struct vm_spec spec;
	struct vm_ops ops;
	struct process proc;
	struct qmp *qmp;
	struct agentctl *agent;
	struct ident ident;
	struct loop_timer ping;
	nstime ping_at;			/* when it was due: the timer itself forgets */
	bool share, ready, killed, hung_told, stuck_told;
	bool allowed;			/* the helper that makes our children knows both ways of starting it */
	struct vcpus cpus;
	bool off;			/* run state shutdown: needs a reset before it can run again */
	bool to_run;			/* the last of stop and cont that was asked for is cont */
	bool paused;			/* and whatever it is, it is to stand */
	bool own_stop;			/* QEMU has stopped it by itself, which was told */
	char stopped_as[24];		/* run state of a VM that stands */
	char version[32];
	char run_state[32];
	char blockdev[512];
	struct {
		bool on;
		uint64_t n;
		bool concluded;
	} job[VM_JOBS];
};

static struct json_object *get(struct json_object *o, const char *key)
{
	struct json_object *v = NULL;

	return o && json_object_object_get_ex(o, key, &v) ? v : NULL;
}

static const char *get_str(struct json_object *o, const char *key)
{
	struct json_object *v = get(o, key);

	return v && json_object_is_type(v, json_type_string) ? json_object_get_string(v) : "";
}

static nstime deadline(struct vm *vm)
{
	return clock_ns() + 4 * vm->spec.qemu_timeout;
}

/* What takes QEMU @ns at most as a rule, and longer where it may be silent for longer. */
static nstime in_time(const struct vm *vm, nstime ns)
{
	return clock_ns() + (vm->spec.qemu_timeout > ns ? vm->spec.qemu_timeout : ns);
}

static void job_done(struct vm *vm, enum vm_job job, int rc, const char *why)
{
	uint64_t n = vm->job[job].n;

	if (!vm->job[job].on)
		return;
	vm->job[job].on = false;
	vm->ops.done(vm->ops.arg, job, n, rc, rc ? why : NULL);
}

static void revive(struct vm *vm);

static void on_revived(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct vm *vm = arg;

	vm->off = !code && !strcmp(get_str(ret, "status"), "shutdown");
	/* QEMU resets in its own time; ft's deadline for the stop bounds the asking. */
	if (vm->off && vm->job[VM_STOP].on)
		revive(vm);
	else
		job_done(vm, VM_STOP, code, desc);
}

static void revive(struct vm *vm)
{
	if (qmp_cmd(vm->qmp, "query-status", NULL, deadline(vm), on_revived, vm))
		job_done(vm, VM_STOP, -EPIPE, "QEMU's monitor takes no commands");
}

static void on_reset(void *arg, int code, struct json_object *ret, const char *desc)
{
	(void)ret;
	if (code)
		job_done(arg, VM_STOP, code, desc);
	else
		revive(arg);
}

static void on_stop(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct vm *vm = arg;

	(void)ret;
	if (code || !vm->off || vm->share)
		job_done(vm, VM_STOP, code, desc);
	else if (qmp_cmd(vm->qmp, "system_reset", NULL, deadline(vm), on_reset, vm))
		job_done(vm, VM_STOP, -EPIPE, "QEMU's monitor takes no commands");
}

/* A refused cont: where the guest itself has ended its run, that is its life and not a failure of ours. */
static void on_refused(void *arg, int code, struct json_object *ret, const char *desc)
{
	static const char *const own[] = { "running", "shutdown", "guest-panicked", "internal-error", "watchdog" };
	const char *s = get_str(ret, "status");

	for (size_t i = 0; !code && i < sizeof(own) / sizeof(*own); i++)
		if (!strcmp(s, own[i])) {
			job_done(arg, VM_CONT, 0, NULL);
			return;
		}
	job_done(arg, VM_CONT, code ? code : -EIO, code ? desc : "QEMU refuses to run the VM");
}

static void on_cont(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct vm *vm = arg;

	(void)ret;
	if (code == -EREMOTEIO) {
		log_warn("QEMU refuses to run the VM: %s", desc);
		if (!qmp_cmd(vm->qmp, "query-status", NULL, deadline(vm), on_refused, vm))
			return;
	}
	job_done(vm, VM_CONT, code, desc);
}

static void on_save(void *arg, int code, struct json_object *ret, const char *desc)
{
	(void)ret;
	job_done(arg, VM_SAVE, code, desc);
}

static void on_jobs(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct vm *vm = arg;
	const char *error = desc;

	if (!code) {
		struct json_object *j = ret && json_object_is_type(ret, json_type_array) &&
					json_object_array_length(ret) ? json_object_array_get_idx(ret, 0) : NULL;

		error = get_str(j, "error");
		if (!j)
			error = "QEMU has forgotten the job";
		if (*error)
			code = -EREMOTEIO;
	}
	job_done(vm, VM_LOAD, code, error);
}

static void load_concluded(struct vm *vm)
{
	int rc;

	if (!vm->job[VM_LOAD].on || vm->job[VM_LOAD].concluded)
		return;
	vm->job[VM_LOAD].concluded = true;
	rc = qmp_cmd_json(vm->qmp, devstate_jobs_cmd(vm->spec.ds), deadline(vm), on_jobs, vm);
	if (!rc)
		rc = qmp_cmd_json(vm->qmp, devstate_dismiss_cmd(vm->spec.ds), deadline(vm), NULL, NULL);
	if (rc)
		job_done(vm, VM_LOAD, rc, "QEMU's monitor takes no commands");
}

static void on_load(void *arg, int code, struct json_object *ret, const char *desc)
{
	(void)ret;
	/* Success only means that the job exists; the event tells the rest. */
	if (code)
		job_done(arg, VM_LOAD, code, desc);
}

void vm_job(struct vm *vm, enum vm_job job, uint64_t n)
{
	int rc = -EPIPE;

	vm->job[job].on = true;
	vm->job[job].n = n;
	vm->job[job].concluded = false;
	if (job == VM_STOP || job == VM_CONT)
		vm->to_run = job == VM_CONT;
	if (job == VM_CONT && vm->paused && vm->qmp) {
		job_done(vm, job, 0, NULL);
		return;
	}
	if (vm->qmp) {
		switch (job) {
		case VM_STOP:
			rc = qmp_cmd(vm->qmp, "stop", NULL, deadline(vm), on_stop, vm);
			/* It may stand already, and then no event says so. */
			if (!rc && vm->paused && vm->ops.stopped)
				vm->ops.stopped(vm->ops.arg);
			break;
		case VM_CONT:
			rc = qmp_cmd(vm->qmp, "cont", NULL, deadline(vm), on_cont, vm);
			break;
		case VM_SAVE:
			rc = qmp_cmd_json(vm->qmp, devstate_save_cmd(vm->spec.ds), deadline(vm), on_save, vm);
			break;
		case VM_LOAD:
			rc = qmp_cmd_json(vm->qmp, devstate_load_cmd(vm->spec.ds), deadline(vm), on_load, vm);
			break;
		case VM_PAUSE:
		case VM_JOBS:
			break;
		}
	}
	if (rc)
		job_done(vm, job, rc, "QEMU's monitor takes no commands");
}

static void on_pause(void *arg, int code, struct json_object *ret, const char *desc)
{
	(void)ret;
	job_done(arg, VM_PAUSE, code, desc);
}

void vm_pause(struct vm *vm, bool on, uint64_t n)
{
	vm->paused = on;
	vm->job[VM_PAUSE].on = true;
	vm->job[VM_PAUSE].n = n;
	if (!vm->qmp || !vm->to_run)
		job_done(vm, VM_PAUSE, 0, NULL);
	else if (qmp_cmd(vm->qmp, on ? "stop" : "cont", NULL, deadline(vm), on_pause, vm))
		job_done(vm, VM_PAUSE, -EPIPE, "QEMU's monitor takes no commands");
}

/* One order at a time is under way for each client, and each needs its token until the answer comes. */
struct order {
	struct vm *vm;
	enum vm_order order;
	uint64_t token;
};

static void on_told(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct order *o = arg;

	(void)ret;
	o->vm->ops.told(o->vm->ops.arg, o->order, o->token, code, code ? desc : NULL);
	free(o);
}

void vm_tell(struct vm *vm, enum vm_order order, uint64_t token)
{
	struct order *o = malloc(sizeof(*o));

	if (o)
		*o = (struct order){ .vm = vm, .order = order, .token = token };
	if (o && vm->qmp && !qmp_cmd(vm->qmp, order == VM_RESET ? "system_reset" : "system_powerdown", NULL, deadline(vm), on_told, o))
		return;
	free(o);
	vm->ops.told(vm->ops.arg, order, token, -EPIPE, "QEMU's monitor takes no commands");
}

/* QEMU has stopped the VM, and not because it was asked to. */
static void own_stop(struct vm *vm, const char *why)
{
	if (vm->own_stop || vm->paused)
		return;
	vm->own_stop = true;
	vm->ops.guest_stopped(vm->ops.arg, why);
}

static void on_panic(struct vm *vm)
{
	enum cmdline_panic what = vm->spec.cl->panic;

	if (what == PANIC_SHUTDOWN && vm->spec.cl->no_shutdown)
		what = PANIC_PAUSE;
	if (what != PANIC_NONE) {
		vm->own_stop = true;
		snprintf(vm->stopped_as, sizeof(vm->stopped_as), "guest-panicked");
	}
	vm->ops.guest_panic(vm->ops.arg, what);
}

/* Of the VM's own life: QEMU tells first what has happened, then that the VM stands. */
static void on_stopped(struct vm *vm)
{
	bool ours = vm->job[VM_STOP].on || vm->job[VM_PAUSE].on;

	snprintf(vm->run_state, sizeof(vm->run_state), "%s",
		 vm->off ? "shutdown" : vm->stopped_as[0] ? vm->stopped_as : "paused");
	if (ours && vm->ops.stopped)
		vm->ops.stopped(vm->ops.arg);
	else if (!ours && vm->to_run && (!vm->off || vm->spec.cl->no_shutdown))
		own_stop(vm, vm->off ? "the guest has powered off" : "QEMU has stopped the VM");
}

static void on_event(void *arg, const char *name, struct json_object *data)
{
	struct vm *vm = arg;

	if (!strcmp(name, "JOB_STATUS_CHANGE")) {
		if (!strcmp(get_str(data, "status"), "concluded"))
			load_concluded(vm);
	} else if (!strcmp(name, "STOP")) {
		on_stopped(vm);
	} else if (!strcmp(name, "RESUME")) {
		vm->own_stop = false;
		vm->stopped_as[0] = 0;
		snprintf(vm->run_state, sizeof(vm->run_state), "running");
	} else if (!strcmp(name, "SHUTDOWN")) {
		vm->off = true;
		snprintf(vm->run_state, sizeof(vm->run_state), "shutdown");
		if (json_object_get_boolean(get(data, "guest")) && !vm->spec.cl->no_shutdown)
			vm->ops.guest_off(vm->ops.arg);
	} else if (!strcmp(name, "RESET")) {
		if (json_object_get_boolean(get(data, "guest")))
			vm->ops.guest_reset(vm->ops.arg);
	} else if (!strcmp(name, "GUEST_PANICKED")) {
		on_panic(vm);
	} else if (!strcmp(name, "WATCHDOG") && !strcmp(get_str(data, "action"), "pause")) {
		snprintf(vm->stopped_as, sizeof(vm->stopped_as), "watchdog");
		own_stop(vm, "the guest's watchdog has fired");
	}
}

static void arm_ping(struct vm *vm)
{
	vm->ping_at = clock_ns() + PING_NS;
	loop_timer_set(vm->loop, &vm->ping, vm->ping_at);
}

static void not_fit(struct vm *vm, const struct err *e)
{
	log_error("QEMU cannot be protected: %s", e->msg);
	vm_kill(vm);
	vm->ops.died(vm->ops.arg, "was ended, because its memory cannot be followed");
}

/* take_memory() - all that the guest writes into its memory file, found there, and followed */
static int take_memory(struct vm *vm, struct err *e)
{
	struct ram_region want[RAM_REGIONS_MAX];
	/* Over memory that was laid out before, a QEMU that is started anew goes on with what is there. */
	bool first = !vm->spec.ram->laid_out;
	nstime until = in_time(vm, AGENT_NS);
	int rc = ramblocks_regions(&vm->ident.blocks, want, e);

	if (rc >= 0)
		rc = ram_layout(vm->spec.ram, want, (unsigned int)rc, e);
	if (rc >= 0)
		rc = agentctl_place(vm->agent, vm->spec.ram, &vm->ident.blocks, vm->share, first, until, e);
	if (rc >= 0)
		rc = agentctl_hello(vm->agent, vm->spec.ram, (uint32_t)vm->proc.pid, until, e);
	if (rc >= 0 && vm->share && vm->spec.probe->wp_async)
		rc = agentctl_track(vm->agent, until, e);
	return rc;
}

static void on_cpus(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct vm *vm = arg;

	(void)desc;
	if (!code)
		vcpu_take(&vm->cpus, ret, clock_ns());
}

static void on_identified(void *arg, int code, const struct err *why)
{
	struct vm *vm = arg;
	struct err e = *why;

	if (vm->killed || (code && !vm->qmp))
		return;
	if (!code)
		code = take_memory(vm, &e);
	if (code < 0) {
		/* A QEMU that is going away says why by its last words. */
		if (code != -ECONNRESET)
			not_fit(vm, &e);
		return;
	}
	vm->ready = true;
	qmp_cmd(vm->qmp, "query-cpus-fast", NULL, NS_NEVER, on_cpus, vm);
	arm_ping(vm);
	vm->ops.ready(vm->ops.arg, vm->agent);
}

static void on_ready(void *arg, const char *version)
{
	struct vm *vm = arg;
	struct err e = { 0 };

	snprintf(vm->version, sizeof(vm->version), "%s", version);
	if (ident_ask(&vm->ident, vm->qmp, vm->agent, in_time(vm, AGENT_NS), on_identified, vm, &e) < 0)
		not_fit(vm, &e);
}

static void fail_jobs(struct vm *vm)
{
	for (int i = 0; i < VM_JOBS; i++)
		job_done(vm, (enum vm_job)i, -ECONNRESET, "QEMU is gone");
}

static void on_closed(void *arg, const struct err *e)
{
	struct vm *vm = arg;

	/* The process's end follows; a monitor that alone is gone makes QEMU useless to us all the same. */
	log_debug("QEMU's monitor: %s", e->msg);
	if (vm->proc.pid)
		process_kill(&vm->proc);
}

static void on_exited(struct process *p)
{
	struct vm *vm = p->arg;
	char how[128];

	process_status_text(p->status, how, sizeof(how));
	loop_timer_del(vm->loop, &vm->ping);
	snprintf(vm->run_state, sizeof(vm->run_state), "gone");
	if (vm->killed)
		return;
	if (p->last_line[0])
		log_error("QEMU's last words: %s", p->last_line);
	vm->ops.died(vm->ops.arg, how);
}

static void on_line(struct process *p, const char *line)
{
	(void)p;
	log_note("QEMU: %s", line);
}

static void on_pong(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct vm *vm = arg;
	const char *s = get_str(ret, "status");

	(void)desc;
	if (code)
		return;
	vm->hung_told = false;
	vm->off = !strcmp(s, "shutdown");
	snprintf(vm->run_state, sizeof(vm->run_state), "%s", s);
}

/* @in_time: this node itself has run when it should; one that was frozen gives QEMU the time that it did not have */
static void look_at_qmp(struct vm *vm, nstime now, bool in_time)
{
	nstime since = qmp_waiting_since(vm->qmp);
	char how[80];

	if (!since)
		qmp_cmd(vm->qmp, "query-status", NULL, NS_NEVER, on_pong, vm);
	if (!since || now - since <= vm->spec.qemu_timeout || !in_time || vm->hung_told)
		return;
	vm->hung_told = true;
	snprintf(how, sizeof(how), "QEMU does not answer, for %llu ms", (unsigned long long)((now - since) / NS_PER_MS));
	vm->ops.hung(vm->ops.arg, how);
}

static void look_at_cpus(struct vm *vm, nstime now, bool in_time)
{
	unsigned int which = 0;
	nstime stuck = vcpu_look(&vm->cpus, "/proc", vm->proc.pid, now, !in_time, &which);
	char how[120];

	if (stuck <= vm->spec.qemu_timeout) {
		vm->stuck_told = false;
		return;
	}
	if (vm->stuck_told)
		return;
	vm->stuck_told = true;
	snprintf(how, sizeof(how), "the guest's processor %u (thread %d) has not run for %llu ms", which,
		 (int)vm->cpus.cpu[which].tid, (unsigned long long)(stuck / NS_PER_MS));
	vm->ops.hung(vm->ops.arg, how);
}

static void on_ping(struct loop_timer *t)
{
	struct vm *vm = t->arg;
	nstime now = clock_ns();
	bool in_time = now - vm->ping_at < PING_NS;

	/* Being told may end QEMU, and the ping with it. */
	arm_ping(vm);
	look_at_qmp(vm, now, in_time);
	if (vm->ready)
		look_at_cpus(vm, now, in_time);
}

struct vm *vm_new(struct loop *loop, const struct vm_spec *spec, const struct vm_ops *ops, struct err *e)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm || devstate_args(spec->ds, vm->blockdev, sizeof(vm->blockdev)) < 0) {
		err_set(e, -ENOMEM, "no memory for the VM");
		free(vm);
		return NULL;
	}
	vm->loop = loop;
	vm->spec = *spec;
	vm->ops = *ops;
	vm->ping = (struct loop_timer){ .fn = on_ping, .arg = vm };
	vm->proc.exited = on_exited;
	vm->proc.line = on_line;
	vm->proc.arg = vm;
	return vm;
}

static void close_pair(int p[2])
{
	for (int i = 0; i < 2; i++)
		if (p[i] >= 0)
			close(p[i]);
}

/* All that QEMU is started with. */
struct launch {
	struct process_spec ps;
	struct process_fd fds[5 + CMDLINE_NICS_MAX + CMDLINE_DISKS_MAX];
	char env_text[AGENTCTL_ENV][AGENTCTL_ENV_LEN], machine[PROBE_MACHINE_LEN];
	const char *env[AGENTCTL_ENV + 1];
	char **argv;
};

static void launch_fd(struct launch *l, int to, int sndbuf)
{
	l->fds[l->ps.n_fds++] = (struct process_fd){ .from = -1, .to = to, .sndbuf = sndbuf };
}

static void launch_free(struct launch *l)
{
	if (!l)
		return;
	cmdline_argv_free(l->argv);
	free(l);
}

/* launch_new() - everything but our descriptors, which are for: monitor, memory, state out, state in, agent, NICs, disks */
static struct launch *launch_new(const struct vm *vm, bool share, struct err *e)
{
	const char *extra[] = { "-blockdev", vm->blockdev, NULL };
	struct cmdline_env ce = { .qmp_fd = VM_FD_QMP, .ram_fd = VM_FD_RAM, .ram_share = share,
				  .disk_socket = vm->spec.disk_socket, .extra = extra };
	const struct cmdline *cl = vm->spec.cl;
	struct launch *l = calloc(1, sizeof(*l));
	int rc;

	if (!l) {
		err_set(e, -ENOMEM, "no memory to start QEMU");
		return NULL;
	}
	for (int fd = VM_FD_QMP; fd <= VM_FD_AGENT; fd++)
		launch_fd(l, fd, 0);
	/* The more QEMU can write without waiting, the rarer does a stop find it in the middle of something. */
	for (unsigned int i = 0; i < cl->n_nics; i++)
		launch_fd(l, ce.nic_fd[i] = VM_FD_NIC + (int)i, NIC_BUFFER);
	/* Connected by us: the socket's directory and the socket are not open to the user that QEMU may run as. */
	for (unsigned int i = 0; i < cl->n_disks; i++)
		launch_fd(l, ce.disk_fd[i] = VM_FD_DISK + (int)i, 0);
	ce.machine = l->machine;
	rc = probe_machine(vm->spec.probe, cl->machine, l->machine, e);
	if (!rc)
		rc = cmdline_build(cl, &ce, &l->argv, e);
	if (!rc && agentctl_env(vm->spec.agent_lib, VM_FD_AGENT, VM_FD_RAM, l->env_text) < 0)
		rc = err_set(e, -ENAMETOOLONG, "the path of the agent is too long: %s", vm->spec.agent_lib);
	if (rc) {
		launch_free(l);
		return NULL;
	}
	for (int i = 0; i < AGENTCTL_ENV; i++)
		l->env[i] = l->env_text[i];
	l->ps.file = cl->binary;
	l->ps.argv = l->argv;
	l->ps.env = l->env;
	l->ps.fds = l->fds;
	l->ps.own_stdio = true;
	l->ps.as = vm->spec.as;
	return l;
}

/* QEMU may have to be started later in either way, when nothing that is not settled now can be started any more. */
static int allow_both(struct vm *vm, struct err *e)
{
	int rc = 0;

	for (int share = 0; share < 2 && !rc; share++) {
		struct launch *l = launch_new(vm, share, e);

		rc = l ? process_allow(&l->ps, e) : e->code;
		launch_free(l);
	}
	vm->allowed = !rc;
	return rc;
}

static int connect_disk(const char *path, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return fd;
	err_set(e, -errno, "QEMU's disks cannot be connected to: %.100s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return e->code;
}

int vm_start(struct vm *vm, bool share, int nic_fd[CMDLINE_NICS_MAX], struct err *e)
{
	static const struct qmp_ops qmp_ops = { .ready = on_ready, .event = on_event, .closed = on_closed };
	unsigned int n_nics = vm->spec.cl->n_nics, n_disks = vm->spec.cl->n_disks;
	int nic[CMDLINE_NICS_MAX][2], mon[2] = { -1, -1 }, disk[CMDLINE_DISKS_MAX], state[2], rc = 0;
	struct launch *l = NULL;

	memset(nic, -1, sizeof(nic));
	memset(disk, -1, sizeof(disk));
	vm->share = share;
	vm->ready = vm->killed = vm->hung_told = vm->stuck_told = vm->off = false;
	vm->to_run = vm->own_stop = false;
	vm->stopped_as[0] = 0;
	vm->cpus.n = 0;
	snprintf(vm->run_state, sizeof(vm->run_state), "starting");
	vm->agent = agentctl_new(e);
	if (!vm->agent)
		return e->code;
	if (!vm->allowed)
		rc = allow_both(vm, e);
	if (!rc) {
		l = launch_new(vm, share, e);
		rc = l ? 0 : e->code;
	}
	if (rc)
		goto out;
	rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, mon) < 0 ? -errno : 0;
	for (unsigned int i = 0; i < n_nics && !rc; i++)
		rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, nic[i]) < 0 ? -errno : 0;
	if (rc) {
		err_set(e, rc, "cannot make a socket pair: %s", strerror(-rc));
		goto out;
	}
	for (unsigned int i = 0; i < n_disks && !rc; i++) {
		disk[i] = connect_disk(vm->spec.disk_socket, e);
		rc = disk[i] < 0 ? disk[i] : 0;
	}
	if (rc)
		goto out;
	l->fds[0].from = mon[1];
	l->fds[1].from = vm->spec.ram->fd;
	devstate_fds(vm->spec.ds, state);
	l->fds[2].from = state[0];
	l->fds[3].from = state[1];
	l->fds[4].from = vm->agent->child_fd;
	for (unsigned int i = 0; i < n_nics; i++)
		l->fds[5 + i].from = nic[i][1];
	for (unsigned int i = 0; i < n_disks; i++)
		l->fds[5 + n_nics + i].from = disk[i];
	rc = process_start(&vm->proc, vm->loop, &l->ps, e);
	if (rc)
		goto out;
	agentctl_started(vm->agent);
	close(mon[1]);
	mon[1] = -1;
	vm->qmp = qmp_new(vm->loop, mon[0], in_time(vm, START_NS), &qmp_ops, vm, e);
	mon[0] = -1;
	if (!vm->qmp) {
		rc = e->code;
		vm->killed = true;
		process_kill(&vm->proc);
		goto out;
	}
	for (unsigned int i = 0; i < n_nics; i++) {
		fcntl(nic[i][0], F_SETFL, fcntl(nic[i][0], F_GETFL) | O_NONBLOCK);
		nic_fd[i] = nic[i][0];
		nic[i][0] = -1;
	}
out:
	launch_free(l);
	close_pair(mon);
	for (unsigned int i = 0; i < CMDLINE_NICS_MAX; i++)
		close_pair(nic[i]);
	for (unsigned int i = 0; i < n_disks; i++)
		if (disk[i] >= 0)
			close(disk[i]);
	return rc;
}

static void on_settled(void *arg, int code, struct json_object *ret, const char *desc)
{
	struct vm *vm = arg;

	(void)ret;
	(void)desc;
	/* Otherwise nobody may be told that QEMU has come to rest; the deadline of who waits decides. */
	if (!code)
		vm->ops.settled(vm->ops.arg);
}

void vm_settle(struct vm *vm)
{
	if (vm->qmp)
		qmp_cmd(vm->qmp, "query-status", NULL, deadline(vm), on_settled, vm);
}

struct agentctl *vm_agent_take(struct vm *vm)
{
	struct agentctl *a = vm->agent;

	vm->agent = NULL;
	return a;
}

void vm_serves(struct vm *vm)
{
	vm->share = true;
}

bool vm_dying(const struct vm *vm)
{
	return process_dying(&vm->proc);
}

void vm_kill(struct vm *vm)
{
	struct qmp *q = vm->qmp;

	vm->killed = true;
	vm->ready = false;
	loop_timer_del(vm->loop, &vm->ping);
	if (vm->proc.pid && process_kill_wait(&vm->proc, clock_ns() + 5 * NS_PER_S) < 0)
		log_error("QEMU (pid %d) does not end though it was killed", (int)vm->proc.pid);
	/* Jobs under way are answered by this. */
	vm->qmp = NULL;
	qmp_free(q);
	fail_jobs(vm);
	snprintf(vm->run_state, sizeof(vm->run_state), "gone");
}

void vm_free(struct vm *vm)
{
	if (!vm)
		return;
	vm_kill(vm);
	agentctl_free(vm->agent);
	ident_free(&vm->ident);
	free(vm);
}

const struct ident *vm_ident(const struct vm *vm)
{
	return &vm->ident;
}

pid_t vm_pid(const struct vm *vm)
{
	return vm->proc.pid;
}

const char *vm_version(const struct vm *vm)
{
	return vm->version;
}

const char *vm_run_state(const struct vm *vm)
{
	return vm->run_state;
}

nstime vm_qmp_age(const struct vm *vm)
{
	nstime since = vm->qmp ? qmp_waiting_since(vm->qmp) : 0, now = clock_ns();

	return since && since < now ? now - since : 0;
}
