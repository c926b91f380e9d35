/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One node: the wiring. Makes one instance of each part, binds them to one another, runs the control loop, takes
 * everything down. Who opens this file, core/ft.c and core/net.c has seen the whole system.
 *
 *      main thread     control loop: QMP, core/ft, timers, control connection, control socket
 *      frames thread   frames loop: TAPs, QEMU's netdev sockets, frame connection, core/net
 *      bulk thread     bulk loop: guest memory, device state, bulk connection
 *      disk thread     disk loop: images, QEMU's NBD connections, disk connection
 *      heartbeat       its own thread
 *
 * Threads share nothing but messages (loop_post) and the lease. Data goes from part to part (proxy -> frame
 * connection, memory worker -> bulk connection) in the thread where it is; here pass only events and actions.
 *
 * QEMU is started from the main thread, which lives as long as the process, because the kernel ends the child with
 * the thread that made it (P7).
 */
#include "node_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/closer.h"
#include "base/log.h"
#include "base/notify.h"
#include "base/sandbox.h"
#include "engine/shape.h"
#include "proxy/tap.h"
#include "version.h"

static void arm_tick(struct node *n)
{
	loop_timer_set(n->control, &n->tick, ft_deadline(n->ft));
}

void node_event(struct node *n, const struct ft_ev *ev)
{
	struct ft_acts acts;

	if (n->ended)
		return;
	if (n->ev_n == NODE_EVENTS) {
		log_error("too many events wait for the control machine; one is lost type=%s", ft_ev_name(ev->type));
		return;
	}
	n->evq[(n->ev_head + n->ev_n++) % NODE_EVENTS] = *ev;
	/* Carrying out an action may cause the next event at once; it waits its turn. */
	if (n->stepping)
		return;
	n->stepping = true;
	while (n->ev_n && !n->ended) {
		struct ft_ev now = n->evq[n->ev_head];

		n->ev_head = (n->ev_head + 1) % NODE_EVENTS;
		n->ev_n--;
		ring_step(n->ring, n->ft, clock_ns(), &now, &acts);
		n->generation = ft_generation(n->ft);
		node_role_note(n);
		for (unsigned int i = 0; i < acts.n && !n->ended; i++)
			node_carry_out(n, &acts.a[i]);
		node_tell_memory(n);
		node_life_tell(n);
		node_link_tell(n);
	}
	n->stepping = false;
	arm_tick(n);
}

bool node_serves(const struct node *n)
{
	switch (ft_state(n->ft)) {
	case FT_INIT:
		return n->role == RUN_PRIMARY;
	case FT_JOINING:
	case FT_STANDBY:
		return false;
	default:
		return true;
	}
}

void node_begin(struct node *n)
{
	struct ft_ev ev = { .type = FE_START, .value = n->begin_as };

	n->started = true;
	node_event(n, &ev);
}

void node_give_up(struct node *n, enum ft_exit status)
{
	n->exit_status = status;
	n->ended = true;
	loop_stop(n->control);
}

static void on_tick(struct loop_timer *t)
{
	struct ft_ev ev = { .type = FE_TICK };

	node_event(t->arg, &ev);
}

static void on_signal(struct loop_fd *w, uint32_t events)
{
	struct ft_ev ev = { .type = FE_QUIT };
	struct node *n = w->arg;
	struct signalfd_siginfo si;

	(void)events;
	if (read(w->fd, &si, sizeof(si)) != sizeof(si))
		return;
	log_note("signal %u: ending", si.ssi_signo);
	if (!n->started) {
		n->ended = true;
		loop_stop(n->control);
		return;
	}
	node_event(n, &ev);
}

static int watch_signals(struct node *n, struct err *e)
{
	sigset_t set;

	/* Blocked before any thread exists, so that all inherit it and only the descriptor sees them. */
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	n->signals = (struct loop_fd){ .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK), .fn = on_signal, .arg = n };
	if (n->signals.fd < 0 || loop_fd_add(n->control, &n->signals, EPOLLIN) < 0)
		return err_set(e, -errno, "cannot watch for signals: %s", strerror(errno));
	return 0;
}

/* The agent lies near the binary in a build tree, and in a directory of its own once installed. */
static int find_agent(struct node *n, struct err *e)
{
	static const char *const near[] = { "liblockstep-agent.so", "../agent/liblockstep-agent.so" };
	const char *own = getenv("LOCKSTEP_AGENT");
	char self[2048];
	ssize_t k = readlink("/proc/self/exe", self, sizeof(self) - 1);

	if (own && *own) {
		snprintf(n->agent_lib, sizeof(n->agent_lib), "%s", own);
		return access(own, R_OK) ? err_set(e, -errno, "the agent %s cannot be read: %s", own, strerror(errno)) : 0;
	}
	self[k > 0 ? k : 0] = 0;
	if (strrchr(self, '/'))
		*strrchr(self, '/') = 0;
	for (size_t i = 0; i < sizeof(near) / sizeof(*near); i++) {
		snprintf(n->agent_lib, sizeof(n->agent_lib), "%s/%s", self, near[i]);
		if (!access(n->agent_lib, R_OK))
			return 0;
	}
	snprintf(n->agent_lib, sizeof(n->agent_lib), "%s", LOCKSTEP_AGENT_DIR "/liblockstep-agent.so");
	if (!access(n->agent_lib, R_OK))
		return 0;
	return err_set(e, -ENOENT, "liblockstep-agent.so is neither in %s nor in " LOCKSTEP_AGENT_DIR
		       "; the variable LOCKSTEP_AGENT can name it", self);
}

/* Frames that one node's TAP takes and the other's does not would stall connections: the MTUs must be equal. */
static int shape_add_mtus(struct node *n, const uint32_t *mtu, struct err *e)
{
	struct node_shape s;
	int rc = node_shape_more(n, &s, e);

	if (rc)
		return rc;
	for (unsigned int i = 0; i < n->cl.n_nics; i++)
		fprintf(s.f, "mtu%u=%u\n", i, mtu[i]);
	return node_shape_done(n, &s, 0, e);
}

int node_start_qemu(struct node *n, struct err *e)
{
	struct proxy_nic nics[NET_MAX_NICS];
	int fds[CMDLINE_NICS_MAX], rc;
	struct proxy_ops ops = node_proxy_ops;
	uint32_t mtu[NET_MAX_NICS] = { 0 };

	/* A QEMU that is started anew is always a secondary's. */
	rc = vm_start(n->vm, !n->restarting && n->role == RUN_PRIMARY, fds, e);
	if (rc)
		return rc;
	if (n->px) {
		for (unsigned int i = 0; i < n->cl.n_nics; i++)
			proxy_new_qemu(n->px, i, fds[i]);
		return 0;
	}
	for (unsigned int i = 0; i < n->cl.n_nics; i++) {
		nics[i].qemu_fd = fds[i];
		nics[i].id = n->cl.nics[i].id;
		nics[i].tap_fd = tap_open(n->cl.nics[i].ifname, &mtu[i], e);
		if (nics[i].tap_fd < 0)
			return nics[i].tap_fd;
	}
	rc = node_net_cfg(n, mtu, e);
	if (rc)
		return rc;
	ops.arg = n;
	n->px = proxy_new(n->frames, &n->net, nics, &ops, e);
	if (!n->px)
		return e->code;
	/* Nothing of a network reaches a VM that only stands by, also before it has a peer. */
	if (n->role == RUN_SECONDARY)
		proxy_event(n->px, NEV_ROLE, 1, NET_SECONDARY);
	return shape_add_mtus(n, mtu, e);
}

void *node_run_loop(void *arg)
{
	sandbox_thread();
	loop_run(arg);
	return NULL;
}

/* Once this thread is dead no frame leaves here any more, and the peer may hear of it. */
static void *run_frames(void *arg)
{
	struct node *n = arg;

	if (n->closer)
		closer_watch(n->closer);
	loop_run(n->frames);
	if (n->closer)
		closer_leave(n->closer);
	return NULL;
}

static int make_machine(struct node *n, struct err *e)
{
	struct vm_spec spec = { .cl = &n->cl, .probe = &n->probe, .agent_lib = n->agent_lib,
				.as = node_user(n), .qemu_timeout = n->o->qemu_timeout };
	struct vm_ops vm_ops = node_vm_ops;
	struct ft_cfg cfg;

	vm_ops.arg = n;
	n->limits.private_pages = n->o->private_limit ? n->o->private_limit / RAM_PAGE :
				  n->cl.mem_bytes / RAM_PAGE / MEMLIMIT_SHARE;
	n->limits.staged_pages = n->o->staged_limit ? n->o->staged_limit / RAM_PAGE :
				 n->cl.mem_bytes / RAM_PAGE / MEMLIMIT_SHARE;
	n->ram = ram_new(n->cl.mem_bytes, e);
	if (!n->ram)
		return e->code;
	n->ds = devstate_new(VM_FD_SAVE, VM_FD_LOAD, e);
	if (!n->ds)
		return e->code;
	spec.ram = n->ram;
	spec.ds = n->ds;
	spec.disk_socket = n->disk ? n->disk_socket : NULL;
	n->vm = vm_new(n->control, &spec, &vm_ops, e);
	if (!n->vm)
		return e->code;
	ft_cfg_default(&cfg, n->role == RUN_PRIMARY ? FT_PRIMARY : FT_SECONDARY);
	ft_cfg_slow(&cfg, n->o->qemu_timeout);
	cfg.checkpoint_delay = n->checkpoint_delay = n->o->checkpoint_delay;
	cfg.lease = n->o->timeout;
	cfg.precopy.off = n->o->no_precopy;
	cfg.disks = n->disk;
	cfg.fence = n->disk && n->o->shared_disk;
	n->ft = calloc(1, ft_size());
	n->ring = ring_new(RING_STEPS);
	if (!n->ft || !n->ring)
		return err_set(e, -ENOMEM, "no memory for the control machine");
	node_role_cfg(n, &cfg);
	n->drift = cfg.drift;
	ft_init(n->ft, &cfg, n->generation);
	n->tick = (struct loop_timer){ .fn = on_tick, .arg = n };
	return node_start_qemu(n, e);
}

int node_shape_more(struct node *n, struct node_shape *s, struct err *e)
{
	s->text = NULL;
	s->f = open_memstream(&s->text, &s->size);
	if (!s->f)
		return err_set(e, -ENOMEM, "no memory for the description of the machine");
	fputs(n->shape, s->f);
	return 0;
}

int node_shape_done(struct node *n, struct node_shape *s, int rc, struct err *e)
{
	if (fclose(s->f) && !rc)
		rc = err_set(e, -ENOMEM, "no memory for the description of the machine");
	if (rc) {
		free(s->text);
		return rc;
	}
	free(n->shape);
	n->shape = s->text;
	return 0;
}

/* What QEMU says of itself is the last part of the shape. */
static int shape_add_ident(struct node *n, struct err *e)
{
	size_t len = strlen(n->shape);
	struct node_shape s;
	int rc = node_shape_more(n, &s, e);

	if (rc)
		return rc;
	rc = ident_shape(vm_ident(n->vm), n->ram, len < SHAPE_MAX ? SHAPE_MAX - len : 0, s.f, e);
	return node_shape_done(n, &s, rc, e);
}

int node_qemu_known(struct node *n, struct err *e)
{
	struct memwork_ops ops = node_mem_ops;
	struct memwork_cfg cfg = { .spill_dir = n->o->spill_dir, .standby = n->role == RUN_SECONDARY,
				   .pack = n->o->compress, .workers = n->o->workers };
	int rc = shape_add_ident(n, e);

	if (rc)
		return rc;
	ops.arg = n;
	n->mem = memwork_new(n->bulk, n->ram, n->ds, &cfg, &ops, e);
	rc = n->mem ? memwork_limits(n->mem, &n->limits, e) : e->code;
	return rc ? rc : node_sandbox_enter(n, e);
}

static int look_at_command(struct node *n, struct err *e)
{
	int rc;

	rc = cmdline_parse(n->o->qemu_argc, n->o->qemu_argv, &n->cl, e);
	if (!rc)
		rc = node_net_read(n, e);
	if (!rc)
		rc = probe_run(n->cl.binary, n->o->qemu_timeout, &n->probe, e);
	if (!rc)
		rc = probe_missing(&n->probe, e);
	if (!rc)
		rc = cmdline_shape(&n->cl, &n->probe, &n->shape, e);
	if (!rc)
		rc = find_agent(n, e);
	for (unsigned int i = 0; !rc && i < n->cl.n_notes; i++)
		log_note("%s", n->cl.notes[i]);
	return rc;
}

static void take_down(struct node *n)
{
	if (n->exit_status == FT_EXIT_REJOIN)
		notify_again();
	else
		notify_stopping();
	if (n->vm)
		vm_kill(n->vm);
	node_link_end(n);
	if (n->frames_up) {
		loop_stop(n->frames);
		pthread_join(n->frames_thread, NULL);
	}
	if (n->bulk_up) {
		loop_stop(n->bulk);
		pthread_join(n->bulk_thread, NULL);
	}
	node_role_end(n);
	node_disk_end(n);
	closer_end(n->closer);
	for (int i = 0; i < WIRE_CHANNELS; i++)
		conn_free(n->conns[i].conn);
	proxy_free(n->px);
	memwork_free(n->mem);
	vm_free(n->vm);
	devstate_free(n->ds);
	ram_free(n->ram);
	if (n->monitor)
		node_tell_end(n);
	monitor_free(n->monitor);
	ring_free(n->ring);
	free(n->ft);
	if (n->signals.fd > 0)
		close(n->signals.fd);
	loop_free(n->frames);
	loop_free(n->bulk);
	loop_free(n->disk_loop);
	loop_free(n->control);
	cmdline_free(&n->cl);
	tls_free(n->tls);
	free(n->shape);
	free(n);
}

/* Once, at the start: later this process may not be allowed to. */
static int read_keys(struct node *n, struct err *e)
{
	struct tls_cfg cfg = { .role = TLS_BOTH, .dir = n->o->tls_dir, .psk_file = n->o->psk_file,
			       .psk_user = n->o->psk_file ? n->o->psk_user : NULL };

	if (!run_encrypted(n->o))
		return 0;
	n->tls = tls_new(&cfg, e);
	return n->tls ? 0 : e->code;
}

int node_run(const struct run_opts *o, struct err *e)
{
	struct node *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return err_set(e, -ENOMEM, "no memory");
	n->o = o;
	n->started_at = n->state_at = clock_ns();
	rc = node_sandbox_helper(n, e);
	n->closer = rc ? NULL : closer_start(e);
	if (!rc && !n->closer)
		log_warn("%s; the peer will notice the death of this process later", e->msg);
	if (!rc)
		rc = read_keys(n, e);
	if (!rc)
		rc = look_at_command(n, e);
	if (!rc)
		rc = node_sandbox_plan(n, e);
	if (!rc) {
		n->control = loop_new("control", e);
		n->frames = loop_new("frames", e);
		n->bulk = loop_new("bulk", e);
		n->disk_loop = loop_new("disk", e);
		rc = n->control && n->frames && n->bulk && n->disk_loop ? watch_signals(n, e) : e->code;
	}
	if (!rc)
		rc = node_monitor_start(n, e);
	if (!rc)
		rc = node_role_open(n, e);
	if (!rc)
		rc = node_role_start(n, e);
	if (!rc)
		rc = node_disk_start(n, e);
	if (!rc)
		rc = node_disk_shape(n, e);
	if (!rc)
		rc = make_machine(n, e);
	if (!rc) {
		n->frames_up = !pthread_create(&n->frames_thread, NULL, run_frames, n);
		n->bulk_up = !pthread_create(&n->bulk_thread, NULL, node_run_loop, n->bulk);
		if (!n->frames_up || !n->bulk_up)
			rc = err_set(e, -EAGAIN, "cannot start a thread");
	}
	if (!rc) {
		rc = loop_run(n->control);
		if (!rc)
			rc = n->exit_status;
	}
	take_down(n);
	return rc;
}
