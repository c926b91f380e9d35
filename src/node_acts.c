/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Carrying out what the control machine says, and bringing back what became of it. No decision is made here. Control
 * loop, except the callbacks of the memory worker (bulk loop) and of the proxy (frames loop), which only post.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/crash.h"
#include "base/log.h"
#include "node_internal.h"

static void post_event(void *arg, const void *data, size_t len)
{
	struct ft_ev ev;

	memset(&ev, 0, sizeof(ev));
	memcpy(&ev, data, len < sizeof(ev) ? len : sizeof(ev));
	node_event(arg, &ev);
}

_Static_assert(sizeof(struct ft_ev) <= LOOP_MSG_DATA, "an event fits into a message");

void node_post_event(struct node *n, const struct ft_ev *ev)
{
	loop_post(n->control, post_event, n, ev, sizeof(*ev));
}

static void step_done(struct node *n, enum ft_step step, uint64_t num, int rc, uint64_t value)
{
	struct ft_ev ev = { .type = FE_DONE, .step = step, .n = num, .rc = rc, .value = value };

	node_event(n, &ev);
}

/* The VM's callbacks: control loop. */

static const enum ft_step vm_step[] = {
	[VM_STOP] = STEP_STOP, [VM_CONT] = STEP_CONT, [VM_SAVE] = STEP_SAVE, [VM_LOAD] = STEP_LOAD,
	[VM_PAUSE] = STEP_PAUSE,
};

static void on_vm_ready(void *arg, struct agentctl *agent)
{
	struct node *n = arg;
	struct err e = { 0 };

	if (!n->started && (node_qemu_known(n, &e) < 0 || node_link_start(n, &e) < 0)) {
		log_error("%s", e.msg);
		node_give_up(n, FT_EXIT_FAILED);
		return;
	}
	memwork_qemu(n->mem, agent, !n->restarting && n->role == RUN_PRIMARY, !n->probe.wp_async);
	if (n->restarting) {
		n->restarting = false;
		step_done(n, STEP_RESTART, n->restart_n, 0, 0);
		return;
	}
	log_note("QEMU is up pid=%d version=%s", (int)vm_pid(n->vm), vm_version(n->vm));
	if (!n->asking)
		node_begin(n);
}

static void on_vm_stopped(void *arg)
{
	struct node *n = arg;

	if (n->disk)
		disk_stopping(n->disk, true);
}

static void on_vm_done(void *arg, enum vm_job job, uint64_t num, int rc, const char *why)
{
	struct node *n = arg;

	if ((job == VM_STOP || job == VM_PAUSE) && n->disk)
		disk_stopping(n->disk, false);
	/* What was under way in a QEMU that is being replaced has no answer any more; but the next one begins stopped. */
	if (n->restarting && job != VM_PAUSE)
		return;
	if (job == VM_PAUSE)
		rc = node_life_paused(n, rc, why);
	if (job == VM_SAVE && !rc && fail_point(FAIL_save)) {
		rc = -EIO;
		why = "LOCKSTEP_FAIL_AT has it fail";
	}
	if (rc && rc != -ECONNRESET && rc != -ECANCELED)
		log_warn("step failed step=%s epoch=%llu: %s", ft_step_name(vm_step[job]), (unsigned long long)num, why);
	if (job == VM_CONT && !rc && ft_memory(n->ft) == FT_MEM_SHARING && ft_state(n->ft) == FT_ALONE) {
		nstime stood = clock_ns() - n->share_stopped;

		n->share_pieces++;
		n->share_longest = stood > n->share_longest ? stood : n->share_longest;
	}
	if (job == VM_LOAD && !rc)
		crash_point(CRASH_s_loaded);
	step_done(n, vm_step[job], num, rc, 0);
}

static void on_vm_died(void *arg, const char *how)
{
	struct node *n = arg;
	struct ft_ev ev = { .type = FE_QEMU_DIED };

	log_error("QEMU %s", how);
	memwork_qemu(n->mem, NULL, false, false);
	if (!n->started) {
		node_give_up(n, FT_EXIT_FAILED);
		return;
	}
	if (n->restarting) {
		n->restarting = false;
		step_done(n, STEP_RESTART, n->restart_n, -ECHILD, 0);
		return;
	}
	node_event(n, &ev);
}

static void on_vm_hung(void *arg, const char *how)
{
	struct ft_ev ev = { .type = FE_QEMU_HUNG };

	log_error("%s", how);
	node_event(arg, &ev);
}

static void on_settled(void *arg)
{
	struct node *n = arg;

	proxy_settled(n->px);
}

static void on_guest_off(void *arg)
{
	struct ft_ev ev = { .type = FE_GUEST_OFF };

	log_note("the guest has powered off");
	node_event(arg, &ev);
}

static void on_guest_reset(void *arg)
{
	struct ft_ev ev = { .type = FE_GUEST_RESET };

	log_note("the guest was reset");
	node_event(arg, &ev);
}

const struct vm_ops node_vm_ops = {
	.ready = on_vm_ready, .stopped = on_vm_stopped, .done = on_vm_done, .died = on_vm_died, .hung = on_vm_hung,
	.settled = on_settled, .guest_off = on_guest_off, .guest_reset = on_guest_reset, .guest_panic = node_life_panic,
	.guest_stopped = node_life_stopped, .told = node_life_told,
};

/* The memory worker's callbacks: bulk loop. */

static const enum ft_step mem_step[MEM_JOBS] = {
	[MEM_ROUND] = STEP_ROUND, [MEM_PRECOPY] = STEP_PRECOPY, [MEM_COPY] = STEP_COPY, [MEM_SEND] = STEP_SEND,
	[MEM_AGAIN] = STEP_AGAIN, [MEM_RESERVE] = STEP_RESERVE, [MEM_APPLY] = STEP_APPLY,
	[MEM_MEND] = STEP_MEND, [MEM_FORGET] = STEP_FORGET, [MEM_SHARE] = STEP_SHARE,
};

/* Control loop: a step that looks into QEMU's memory fails also when QEMU is just dying, and then it is that. */
static void on_mem_failed(void *arg, const void *data, size_t len)
{
	struct node *n = arg;
	struct ft_ev ev;

	memcpy(&ev, data, len < sizeof(ev) ? len : sizeof(ev));
	if (vm_dying(n->vm))
		ev.rc = -ECONNRESET;
	node_event(n, &ev);
}

static void on_mem_done(void *arg, enum mem_job job, uint64_t num, int rc, uint64_t value, const char *why)
{
	struct ft_ev ev = { .type = FE_DONE, .step = mem_step[job], .n = num, .rc = rc, .value = value };

	if (rc && rc != -EPIPE && rc != -ECANCELED && rc != -ENOTSUP)
		log_warn("step failed step=%s epoch=%llu: %s", ft_step_name(ev.step), (unsigned long long)num, why);
	if (job == MEM_APPLY && !rc)
		crash_point(CRASH_applied);
	if (rc && (job == MEM_ROUND || job == MEM_PRECOPY || job == MEM_COPY)) {
		struct node *n = arg;

		loop_post(n->control, on_mem_failed, n, &ev, sizeof(ev));
		return;
	}
	node_post_event(arg, &ev);
}

static void on_mem_marker(void *arg, uint64_t num, uint64_t state_len)
{
	struct ft_ev ev = { .type = FE_BULK_BARRIER, .n = num, .value = state_len };

	node_post_event(arg, &ev);
}

static void on_mem_progress(void *arg)
{
	struct ft_ev ev = { .type = FE_PROGRESS };

	node_post_event(arg, &ev);
}

static void on_mem_limit(void *arg, enum memlimit_what what)
{
	struct ft_ev ev = { .type = what == MEMLIMIT_FULL ? FE_FULL : FE_WANT,
			    .cause = what == MEMLIMIT_STAGED ? CAUSE_STAGED : CAUSE_PRIVATE };
	struct node *n = arg;
	nstime now = clock_ns();

	if (what == MEMLIMIT_FULL && (!n->full_at || now - n->full_at >= 60 * NS_PER_S)) {
		n->full_at = now;
		log_warn("the SVM has twice the pages of its own that it may have: it stands until the next checkpoint "
			 "(said once a minute; limit_full of the status counts)");
	}
	node_post_event(arg, &ev);
}

static int mem_send_pages(void *arg, uint64_t num, uint64_t first, uint64_t count, const uint8_t *data, uint32_t len,
			  bool packed)
{
	struct pages_msg m = { .first = first, .count = (uint32_t)count, .zero = !data, .packed = packed, .data = data };
	struct wire_head h = { .type = WIRE_PAGES, .epoch = num };
	uint8_t head[WIRE_PAGES_LEN];

	return node_send(arg, WIRE_BULK, &h, head, codec_pages_put(head, sizeof(head), &m), data, len, false);
}

static int mem_send_state(void *arg, uint64_t num, uint64_t offset, const uint8_t *data, uint32_t len)
{
	struct devstate_msg m = { .offset = offset, .total = offset + len, .data = data, .len = len };
	struct wire_head h = { .type = WIRE_DEVSTATE, .epoch = num };
	uint8_t head[WIRE_DEVSTATE_LEN];

	return node_send(arg, WIRE_BULK, &h, head, codec_devstate_put(head, sizeof(head), &m), data, len, false);
}

static int mem_send_marker(void *arg, uint64_t num, uint64_t pages, uint64_t bytes, uint64_t state_len, uint64_t hash)
{
	struct marker_msg m = { .pages = pages, .bytes = bytes, .devstate = state_len, .hash = hash };
	struct wire_head h = { .type = WIRE_MARKER, .epoch = num };
	struct node *n = arg;
	uint8_t head[WIRE_MARKER_LEN];
	int rc = node_send(n, WIRE_BULK, &h, head, codec_marker_put(head, sizeof(head), &m), NULL, 0, false);

	if (!rc)
		conn_flush(n->conns[WIRE_BULK].conn);
	return rc;
}

const struct memwork_ops node_mem_ops = {
	.send_pages = mem_send_pages, .send_state = mem_send_state, .send_marker = mem_send_marker,
	.done = on_mem_done, .marker = on_mem_marker, .progress = on_mem_progress, .limit = on_mem_limit,
};

/* The proxy's callbacks: frames loop. */

static void px_send(void *arg, const struct net_msg *m, const uint8_t *frame, uint32_t len)
{
	struct node *n = arg;
	struct node_conn *nc = &n->conns[WIRE_FRAMES];
	uint8_t head[WIRE_NET_LEN + WIRE_FLOW_LEN];
	struct wire_head h = { .type = WIRE_NET, .generation = n->generation };
	struct iovec iov[2] = { { head, 0 }, { (void *)frame, len } };
	int k;

	if (!nc->conn)
		return;
	k = codec_net_put(head, sizeof(head), &h, m);
	if (k < 0) {
		log_error("a message of the frame connection cannot be made: type=%d", m->type);
		return;
	}
	iov[0].iov_len = (size_t)k;
	/* What the SVM says may be lost as on any network; the rest carries the promises. */
	conn_send(nc->conn, &h, iov, frame ? 2 : 1, m->type != NM_OUTPUT);
	if (m->type == NM_BARRIER)
		conn_flush(nc->conn);
	if (m->type == NM_INPUT && !nc->blocked && !conn_ready(nc->conn, WIRE_MAX_FRAME)) {
		nc->blocked = true;
		proxy_room(n->px, false);
	}
}

static void px_flush(void *arg)
{
	struct node *n = arg;

	conn_flush(n->conns[WIRE_FRAMES].conn);
}

static void px_answer(void *arg, enum net_act_type type, uint64_t num, uint32_t cause)
{
	struct ft_ev ev = { .type = FE_NET, .value = type, .n = num, .cause = (enum ckpt_cause)cause };

	node_post_event(arg, &ev);
}

static void px_qemu_gone(void *arg)
{
	/* The process's end is seen by its pidfd. */
	(void)arg;
}

static void settle_now(void *arg, const void *data, size_t len)
{
	struct node *n = arg;

	(void)data;
	(void)len;
	vm_settle(n->vm);
}

static void px_settle(void *arg)
{
	struct node *n = arg;

	loop_post(n->control, settle_now, n, NULL, 0);
}

const struct proxy_ops node_proxy_ops = {
	.send = px_send, .flush = px_flush, .answer = px_answer, .settle = px_settle, .qemu_gone = px_qemu_gone,
};

/* Actions. */

static void restart(struct node *n, uint64_t num)
{
	struct err e = { 0 };

	n->restarting = true;
	n->restart_n = num;
	vm_kill(n->vm);
	/* The worker may still be talking to it; it ends at once, since QEMU's end of the socket is closed. */
	memwork_agent_free(n->mem, vm_agent_take(n->vm));
	if (node_start_qemu(n, &e) < 0) {
		log_error("%s", e.msg);
		n->restarting = false;
		step_done(n, STEP_RESTART, num, e.code, 0);
	}
}

static void do_step(struct node *n, enum ft_step step, uint64_t num)
{
	log_trace("step %s epoch=%llu", ft_step_name(step), (unsigned long long)num);
	switch (step) {
	case STEP_STOP:
		n->share_stopped = clock_ns();
		vm_job(n->vm, VM_STOP, num);
		break;
	case STEP_CONT:
		if (num && ft_state(n->ft) != FT_ALONE)
			crash_point(CRASH_saved);
		vm_job(n->vm, VM_CONT, num);
		break;
	case STEP_SAVE:
		vm_job(n->vm, VM_SAVE, num);
		break;
	case STEP_LOAD:
		vm_job(n->vm, VM_LOAD, num);
		break;
	case STEP_ROUND:
		memwork_job(n->mem, MEM_ROUND, num);
		break;
	case STEP_PRECOPY:
		memwork_job(n->mem, MEM_PRECOPY, num);
		break;
	case STEP_COPY:
		memwork_job(n->mem, MEM_COPY, num);
		break;
	case STEP_SEND:
		memwork_job(n->mem, MEM_SEND, num);
		break;
	case STEP_AGAIN:
		memwork_job(n->mem, MEM_AGAIN, num);
		break;
	case STEP_RESERVE:
		memwork_job(n->mem, MEM_RESERVE, num);
		break;
	case STEP_APPLY:
		memwork_job(n->mem, MEM_APPLY, num);
		break;
	case STEP_MEND:
		memwork_job(n->mem, MEM_MEND, num);
		break;
	case STEP_FORGET:
		memwork_job(n->mem, MEM_FORGET, num);
		break;
	case STEP_SHARE:
		memwork_job(n->mem, MEM_SHARE, num);
		break;
	case STEP_RESTART:
		restart(n, num);
		break;
	case STEP_RESYNC:
		disk_job(n->disk, DISK_RESYNC, num);
		break;
	case STEP_DISK:
		disk_job(n->disk, DISK_MARK, num);
		break;
	case STEP_FLIP:
		disk_job(n->disk, DISK_FLIP, num);
		break;
	case STEP_FENCE:
		node_disk_fence(n, num);
		break;
	case STEP_WITNESS:
		node_role_claim(n, num);
		break;
	case STEP_PAUSE:
		vm_pause(n->vm, ft_paused(n->ft), num);
		break;
	case STEP_MAX:
		break;
	}
}

static const struct {
	enum ctl_type type;
	enum crash_point before, after;
} ctl_crash[] = {
	{ CTL_EPOCH_END, CRASH_before_epoch_end, CRASH_epoch_end },
	{ CTL_STAGED, CRASH_s_before_staged, CRASH_staged },
	{ CTL_LOADED, CRASH_MAX, CRASH_loaded },
	{ CTL_ABORT, CRASH_before_abort, CRASH_abort },
};

static void send_ctl(struct node *n, const struct ctl_msg *m)
{
	for (size_t i = 0; i < sizeof(ctl_crash) / sizeof(*ctl_crash); i++)
		if (ctl_crash[i].type == m->type)
			crash_point(ctl_crash[i].before);
	/* The peer takes it as proof that nothing is written to shared disks any more; else it needs a fence. */
	if (m->type == CTL_PROMOTE && n->disk && n->o->shared_disk && !disk_silence(n->disk)) {
		log_error("what is under way to the shared disks does not end: the peer is not told to take over");
		return;
	}
	node_send_ctl(n, m);
	for (size_t i = 0; i < sizeof(ctl_crash) / sizeof(*ctl_crash); i++)
		if (ctl_crash[i].type == m->type)
			crash_point(ctl_crash[i].after);
}

void node_carry_out(struct node *n, const struct ft_act *a)
{
	switch (a->type) {
	case FA_CTL:
		send_ctl(n, &a->ctl);
		break;
	case FA_NET:
		/* Before anything of this VM can leave: from here on a flush means what it says. */
		if (a->net == NEV_PROMOTE && n->disk)
			disk_promote(n->disk);
		if (a->net == NEV_ALONE && n->disk)
			disk_alone(n->disk);
		proxy_event(n->px, a->net, a->n, (uint32_t)a->value);
		node_tell_step(n, a);
		break;
	case FA_DO:
		do_step(n, a->step, a->n);
		break;
	case FA_DROP_LINK:
		node_link_drop(n);
		break;
	case FA_MUTE:
		node_link_mute(n);
		break;
	case FA_LEASE:
		proxy_set_lease(n->px, a->value);
		break;
	case FA_HOLD:
		proxy_debt(n->px, PROXY_DEBT_ROLE, a->value);
		break;
	case FA_KILL_QEMU:
		memwork_qemu(n->mem, NULL, false, false);
		vm_kill(n->vm);
		break;
	case FA_ANNOUNCE:
		if (ft_state(n->ft) == FT_ALONE)
			vm_serves(n->vm);
		node_tell_state(n, a);
		break;
	case FA_CKPT_DONE:
		node_tell_checkpoint(n);
		break;
	case FA_CKPT_ABORT:
		node_tell_abort(n, a);
		break;
	case FA_END:
		node_tell_state(n, a);
		n->exit_status = (int)a->value;
		n->ended = true;
		loop_stop(n->control);
		break;
	case FA_TYPE_MAX:
		break;
	}
}
