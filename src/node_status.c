/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What people see of a node: the log lines of each change and checkpoint, the answers of the control socket, the
 * black box. Control loop only.
 */
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "monitor/blackbox.h"
#include "node_internal.h"
#include "version.h"

#define REPORT_NS (NS_PER_S)

static double ms(nstime t)
{
	return (double)t / (double)NS_PER_MS;
}

/* Return: whether there is something to warn of; a single path is the link's own matter */
static bool lost_paths(const struct hb_stats *st, char *text, size_t size)
{
	unsigned int up = 0;

	for (unsigned int i = 0; i < st->n_paths; i++)
		up += st->path[i].up;
	snprintf(text, size, "heartbeats come over %u of %u paths only", up, st->n_paths);
	return st->n_paths > 1 && up < st->n_paths;
}

void node_view(struct node *n, struct node_view *v)
{
	struct status *s = &v->s;
	struct memwork_stats m;
	unsigned int w = 0, t = 0;
	nstime spent;

	memwork_stats(n->mem, &m);
	s->now = clock_ns();
	s->name = n->o->name;
	s->version = LOCKSTEP_VERSION;
	s->pid = getpid();
	s->started_at = n->started_at;
	s->state = n->ft ? ft_state(n->ft) : FT_INIT;
	/* Who serves is the primary, whatever the command line said. */
	s->role = s->state == FT_JOINING || s->state == FT_STANDBY || (s->state == FT_INIT && n->role == RUN_SECONDARY) ?
		  FT_SECONDARY : FT_PRIMARY;
	s->reason = ft_reason(n->ft);
	s->state_at = n->state_at;
	s->phase = ft_phase(n->ft);
	s->epoch = ft_epoch(n->ft);
	s->generation = ft_generation(n->ft);
	s->checkpoint_delay = n->checkpoint_delay;
	s->sync.active = s->state == FT_SYNC || (s->state == FT_JOINING && n->linked);
	s->sync.round = m.round;
	s->sync.bytes_done = s->state == FT_JOINING ? m.received : m.sync_done;
	s->sync.bytes_left = m.sync_left;
	spent = m.sync_since ? s->now - m.sync_since : 0;
	s->sync.rate = spent ? (uint64_t)((double)m.sync_done * 1e9 / (double)spent) : 0;
	for (int c = 0; c < CAUSE_MAX; c++)
		s->checkpoints[c] = ft_checkpoints(n->ft, (enum ckpt_cause)c);
	s->aborted = ft_aborted(n->ft);
	s->ckpts = &n->ckpts;
	proxy_stats(n->px, &s->net);
	proxy_rules(n->px, &s->rules);
	s->net_cfg = &n->net;
	s->nic_ids = n->nic_ids;
	if (n->linked) {
		snprintf(s->link.peer, sizeof(s->link.peer), "%s", n->peer_text);
		s->link.connected_at = n->linked_at;
	}
	s->link.beat_at = n->beat_at;
	s->link.encrypted = n->tls ? tls_name(n->tls) : "no";
	s->link.rtt = n->beat_at ? n->rtt : STATUS_UNKNOWN;
	s->link.silent = n->silent;
	if (n->beat) {
		heartbeat_stats(n->beat, &v->beat);
		s->beat = &v->beat;
		s->suspicion = hb_level_name(v->beat.level);
	}
	s->link.bytes_sent = m.sent;
	s->link.bytes_received = m.received;
	s->paused = ft_paused(n->ft);
	s->qemu.pid = vm_pid(n->vm);
	snprintf(s->qemu.version, sizeof(s->qemu.version), "%s", vm_version(n->vm));
	snprintf(s->qemu.state, sizeof(s->qemu.state), "%s", vm_run_state(n->vm));
	s->memory.guest = n->cl.mem_bytes;
	s->memory.staged = m.staged_bytes;
	s->memory.private_pages = s->role == FT_SECONDARY ? m.limit.private_pages : 0;
	s->memory.private_limit = n->limits.private_pages * RAM_PAGE;
	s->memory.staged_limit = n->limits.staged_pages * RAM_PAGE;
	s->memory.pool = m.pool_bytes;
	s->memory.limit_private = m.limit.asked_private;
	s->memory.limit_staged = m.limit.asked_staged;
	s->memory.limit_full = m.limit.full;
	s->memory.buffered = m.buffered;
	s->memory.precopy_rounds = m.precopy_rounds;
	s->memory.precopy_pages = m.precopy_pages;
	s->memory.sent_zero = m.pages.zero;
	s->memory.sent_plain = m.pages.plain;
	s->memory.sent_packed = m.pages.packed;
	s->memory.packed_bytes = m.pages.packed_bytes;
	s->memory.pauses_for_link = m.pauses_for_link;
	s->memory.mapping = ft_memory(n->ft);
	s->memory.shared_pages = m.shared_pages;
	s->memory.share_pieces = n->share_pieces;
	s->memory.share_longest = n->share_longest;
	if (n->disk) {
		disk_stats(n->disk, &v->disks);
		s->disk = &v->disks;
		s->n_disks = n->cl.n_disks;
		for (unsigned int i = 0; i < n->cl.n_disks; i++)
			v->disk_ids[i] = n->cl.disks[i].id;
		s->disk_ids = v->disk_ids;
		s->debt_lost = n->px ? proxy_debt_lost(n->px) : 0;
	}
	s->failover.at = n->failed_over_at;
	s->failover.reason = n->failover_reason;
	s->failover.took = n->failover_took;
	s->failover.took_over = n->took_over;
	s->failover.gap = n->failover_gap;
	s->failover.wall = n->failover_wall;
	s->failover.over = n->failover_past;
	for (unsigned int i = 0; s->beat && i < v->beat.n_paths && i < STATUS_MAX_PATHS; i++) {
		snprintf(s->paths[i].name, sizeof(s->paths[i].name), "%s", v->beat.name[i]);
		s->paths[i].silent = !v->beat.path[i].up;
		s->n_paths = i + 1;
	}
	s->witness.kind = n->witness_kind;
	s->witness.lost = n->witness_lost;
	s->hybrid_at = n->hybrid_at;
	s->svm_stuck = s->role == FT_SECONDARY && m.limit.private_pages >= 2 * n->limits.private_pages;
	monitor_stats_get(n->monitor, &s->monitor);
	if (n->o->witness.kind == WITNESS_NONE)
		s->warnings[w++] = RUN_WARN_NO_ARBITRATION;
	if (n->o->insecure && !n->tls)
		s->warnings[w++] = RUN_WARN_NOT_ENCRYPTED;
	if (n->disk && n->o->shared_disk && !*n->o->fence_command)
		s->warnings[w++] = RUN_WARN_NO_FENCE;
	if (ft_state(n->ft) == FT_STANDBY && ft_reason(n->ft) == FT_WHY_UNFENCED)
		s->warnings[w++] = RUN_WARN_UNFENCED;
	if (n->px && proxy_taps_gone(n->px))
		s->troubles[t++] = s->warnings[w++] = "a TAP interface of the VM is gone: see the log";
	if (s->beat && lost_paths(&v->beat, v->lost, sizeof(v->lost)))
		s->warnings[w++] = v->lost;
	if (m.memcheck_differs)
		s->troubles[t++] = s->warnings[w++] = "the memory check has found a difference: see the log";
}

static struct json_object *fill_status(void *arg)
{
	struct node_view *v = calloc(1, sizeof(*v));
	struct json_object *o = NULL;

	if (v) {
		node_view(arg, v);
		o = status_json(&v->s);
	}
	free(v);
	return o;
}

static int blackbox_now(struct node *n, struct json_object **result, struct err *e);

static int on_command(void *arg, const struct monitor_cmd *cmd, struct json_object **result, struct err *e)
{
	struct ft_ev ev = { 0 };
	struct node *n = arg;
	enum ft_state st = ft_state(n->ft);

	switch (cmd->type) {
	case MONITOR_CHECKPOINT:
		if (st != FT_PROTECTED)
			return err_set(e, -EINVAL, "no checkpoint can be made here: this node is %s", ft_state_name(st));
		ev.type = FE_WANT;
		ev.cause = CAUSE_COMMAND;
		break;
	case MONITOR_FAILOVER:
		if (st != FT_STANDBY && st != FT_PROTECTED)
			return err_set(e, -EINVAL, "there is nothing to fail over to: this node is %s", ft_state_name(st));
		ev.type = FE_FAILOVER;
		break;
	case MONITOR_SWITCH:
		if (st != FT_STANDBY && st != FT_PROTECTED)
			return err_set(e, -EINVAL, "there is nothing to switch to: this node is %s", ft_state_name(st));
		if (n->witness && n->witness_lost)
			return err_set(e, -EAGAIN, "the witness cannot be reached, and the other node could not be granted the VM");
		ev.type = FE_SWITCH;
		break;
	case MONITOR_SET:
		if (node_net_set(n, cmd, e) < 0)
			return e->code;
		if (cmd->checkpoint_delay != NS_NEVER) {
			n->checkpoint_delay = cmd->checkpoint_delay;
			ev.type = FE_SET_DELAY;
			ev.value = cmd->checkpoint_delay;
			node_event(n, &ev);
		}
		return 0;
	case MONITOR_RULES:
		return node_net_rules(n, cmd, result, e);
	case MONITOR_QUIT:
		ev.type = FE_QUIT;
		node_event(n, &ev);
		return 0;
	case MONITOR_BLACKBOX:
		return blackbox_now(n, result, e);
	case MONITOR_CAPTURE:
		return proxy_capture(n->px, &cmd->capture, cmd->fd, e);
	case MONITOR_STOP:
	case MONITOR_CONT:
	case MONITOR_POWERDOWN:
	case MONITOR_RESET:
		return node_life_command(n, cmd, e);
	}
	if (n->n_waiters == NODE_WAITERS)
		return err_set(e, -EBUSY, "too many clients wait for a checkpoint already");
	/* The checkpoint that may be under way does not have what was done since it began. */
	n->waiters[n->n_waiters++] = (struct node_waiter){ .token = cmd->token, .type = cmd->type, .n = ft_epoch(n->ft) };
	node_event(n, &ev);
	return MONITOR_LATER;
}

void node_answer(struct node *n, unsigned int i, struct json_object *result, const struct err *e)
{
	uint64_t token = n->waiters[i].token;

	n->waiters[i] = n->waiters[--n->n_waiters];
	monitor_reply(n->monitor, token, result, e);
}

static void answer_all(struct node *n, enum monitor_cmd_type type, bool good, const char *why)
{
	struct err e;

	for (unsigned int i = n->n_waiters; i-- > 0;) {
		if (n->waiters[i].type != type)
			continue;
		err_set(&e, -ECANCELED, "%s", why);
		node_answer(n, i, NULL, good ? NULL : &e);
	}
}

void node_tell_checkpoint(struct node *n)
{
	const struct ckpt_times *t = ft_last(n->ft);
	struct memwork_stats m;

	memwork_stats(n->mem, &m);
	status_ckpts_add(&n->ckpts, t, m.last_bytes);
	log_info("checkpoint epoch=%llu cause=%s pause_ms=%.2f pages=%llu bytes=%llu gate_ms=%.2f stop_ms=%.2f drain_ms=%.2f "
		 "save_ms=%.2f copy_ms=%.2f cont_ms=%.2f staged_ms=%.2f loaded_ms=%.2f", (unsigned long long)t->n,
		 ckpt_cause_name(t->cause), ms(t->pause), (unsigned long long)t->pages, (unsigned long long)m.last_bytes,
		 ms(t->gate), ms(t->stop), ms(t->drain), ms(t->save), ms(t->copy), ms(t->cont), ms(t->staged), ms(t->loaded));
	monitor_event(n->monitor, "CHECKPOINT", status_ckpt_json(t, m.last_bytes));
	for (unsigned int i = n->n_waiters; i-- > 0;)
		if (n->waiters[i].type == MONITOR_CHECKPOINT && t->n >= n->waiters[i].n)
			node_answer(n, i, status_ckpt_json(t, m.last_bytes), NULL);
	node_life_checkpoint(n, t->n);
}

void node_tell_abort(struct node *n, const struct ft_act *a)
{
	struct json_object *o = json_object_new_object();

	/* Why the step has failed stands in the line before. */
	log_warn("checkpoint given up epoch=%llu step=%s: the next one begins at once and carries what belongs to it",
		 (unsigned long long)a->n, ft_step_name(a->step));
	if (o) {
		json_object_object_add(o, "epoch", json_object_new_uint64(a->n));
		json_object_object_add(o, "step", json_object_new_string(ft_step_name(a->step)));
	}
	monitor_event(n->monitor, "CHECKPOINT_ABORTED", o);
}

static int write_blackbox(struct node *n, enum blackbox_cause cause, char *path, size_t cap, struct err *e)
{
	struct blackbox_head h = { .cause = cause, .generation = ft_generation(n->ft), .at = clock_ns() };
	char tmp[4210];
	struct timespec ts;
	size_t len = 0;
	int fd, rc = 0;
	void *buf;

	clock_gettime(CLOCK_REALTIME, &ts);
	h.wall = (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
	snprintf(h.name, sizeof(h.name), "%s", n->o->name);
	snprintf(h.version, sizeof(h.version), "%s", LOCKSTEP_VERSION);
	if (gethostname(h.host, sizeof(h.host) - 1) < 0)
		h.host[0] = '?';
	/* What was asked for does not take the place of what was written at a failover. */
	snprintf(path, cap, "%s/%s.blackbox%s", n->o->run_dir, n->o->name, cause == BLACKBOX_COMMAND ? "-now" : "");
	snprintf(tmp, sizeof(tmp), "%s.new", path);
	buf = blackbox_pack(&h, n->ring, &len);
	if (!buf)
		return err_set(e, -ENOMEM, "no memory to write the black box");
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, buf, len) != (ssize_t)len || rename(tmp, path) < 0)
		rc = err_set(e, -errno ? -errno : -EIO, "the black box cannot be written to %.200s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	if (rc && fd >= 0)
		unlink(tmp);
	free(buf);
	return rc;
}

void node_blackbox(struct node *n)
{
	bool end = ft_state(n->ft) == FT_ENDED;
	struct err e = { 0 };
	char path[4200];

	if (write_blackbox(n, end ? BLACKBOX_END : BLACKBOX_FAILOVER, path, sizeof(path), &e))
		log_warn("%s", e.msg);
	else
		log_note("black box written file=%s steps=%zu", path, ring_count(n->ring));
}

static int blackbox_now(struct node *n, struct json_object **result, struct err *e)
{
	char path[4200];
	int rc = write_blackbox(n, BLACKBOX_COMMAND, path, sizeof(path), e);

	if (rc)
		return rc;
	*result = json_object_new_object();
	if (*result)
		json_object_object_add(*result, "file", json_object_new_string(path));
	return 0;
}

static void on_blackbox(struct loop_timer *t)
{
	node_blackbox(t->arg);
}

/* States in which somebody else may have died. */
static bool was_paired(enum ft_state s)
{
	return s == FT_PROTECTED || s == FT_STANDBY || s == FT_PROMOTING || s == FT_SYNC;
}

void node_noticed(struct node *n, nstime since)
{
	if (n->lost_at)
		return;
	n->lost_at = since;
	node_health_noticed(n);
	log_note("failover step=noticed after_ms=%.1f last_heartbeat_ms=%.1f phase=%s epoch=%llu", ms(clock_ns() - since),
		 n->beat_at ? ms(clock_ns() - n->beat_at) : -1.0, ft_phase(n->ft), (unsigned long long)ft_epoch(n->ft));
}

void node_tell_step(struct node *n, const struct ft_act *a)
{
	double at = n->lost_at ? ms(clock_ns() - n->lost_at) : 0;
	const char *name = a->net == NEV_PROMOTE ? "promoted" : a->net == NEV_ALONE ? "released" :
			   a->net == NEV_LOADED && ft_state(n->ft) == FT_PROMOTING ? "finished" : NULL;

	if (name)
		node_health_step(n, name);
	if (a->net == NEV_PROMOTE)
		log_note("failover step=promoted at_ms=%.1f: output is on, input is given again, addresses are announced", at);
	else if (a->net == NEV_ALONE)
		log_note("failover step=released at_ms=%.1f: what was held leaves", at);
	else if (a->net == NEV_LOADED && ft_state(n->ft) == FT_PROMOTING)
		log_note("failover step=finished at_ms=%.1f epoch=%llu: the checkpoint that was under way is complete", at,
			 (unsigned long long)a->n);
}

void node_tell_state(struct node *n, const struct ft_act *a)
{
	enum ft_state s = ft_state(n->ft), was = n->last_state;
	struct json_object *o;
	nstime now = clock_ns();

	n->last_state = s;
	if (s == FT_ALONE && was != s && was != FT_INIT && was != FT_SYNC) {
		n->failed_over_at = n->lost_at ? n->lost_at : n->state_at;
		n->failover_reason = a->reason;
		n->failover_took = now - n->failed_over_at;
		node_health_failed_over(n, n->stood_by);
	}
	/* Who is fenced may have been either before. */
	if (s != FT_FENCED && s != FT_ENDED)
		n->stood_by = s == FT_STANDBY || s == FT_PROMOTING;
	if (s == FT_PROMOTING && was != s && !n->lost_at)
		n->lost_at = now;
	/* The control machine announces a reason of its own sometimes, and the end once more when it is final. */
	if (s == was)
		return;
	log_note("state %s -> %s reason=%s epoch=%llu generation=%u after_ms=%.1f", ft_state_name(was), ft_state_name(s),
		 ft_reason_name(a->reason), (unsigned long long)ft_epoch(n->ft), ft_generation(n->ft),
		 ms(now - n->state_at));
	n->state_at = now;
	if (s == FT_ALONE && (was == FT_PROMOTING || was == FT_STANDBY))
		log_note("failover complete: this node serves now reason=%s took_ms=%.1f", ft_reason_name(a->reason),
			 ms(n->failover_took));
	if (s == FT_ENDED && was == FT_JOINING)
		log_error("this node was not yet synchronised, so it cannot take over; start it again to protect the VM");
	if (s == FT_ALONE && (was == FT_PROTECTED || was == FT_SYNC) && a->reason != FT_WHY_GUEST_OFF &&
	    a->reason != FT_WHY_GUEST_PANIC)
		log_warn("the VM goes on alone, without protection reason=%s%s%s", ft_reason_name(a->reason),
			 a->reason == FT_WHY_STEP_FAILED ? " step=" : "",
			 a->reason == FT_WHY_STEP_FAILED ? ft_step_name(ft_failed_step(n->ft)) : "");
	o = json_object_new_object();
	if (o) {
		json_object_object_add(o, "was", json_object_new_string(ft_state_name(was)));
		json_object_object_add(o, "state", json_object_new_string(ft_state_name(s)));
		json_object_object_add(o, "reason", json_object_new_string(ft_reason_name(a->reason)));
	}
	monitor_event(n->monitor, "STATE", o);
	node_health(n);
	node_life_state(n, s == FT_ENDED);
	if (s == FT_ALONE || s == FT_ENDED) {
		answer_all(n, MONITOR_FAILOVER, true, "");
		answer_all(n, MONITOR_SWITCH, s == FT_ALONE ? was == FT_PROMOTING || was == FT_STANDBY : a->reason == FT_WHY_SWITCH,
			   "protection ended before the nodes could change roles");
		answer_all(n, MONITOR_CHECKPOINT, false, "protection ended before the checkpoint was complete");
	}
	/* After the work of the failover, not in the middle of it. */
	if (was_paired(was) && s == FT_ALONE)
		loop_timer_set(n->control, &n->blackbox, now + NS_PER_S);
	if (s == FT_ENDED && was_paired(was))
		node_blackbox(n);
}

void node_tell_memory(struct node *n)
{
	enum ft_memory m = ft_memory(n->ft), was = n->last_memory;
	nstime now = clock_ns();
	struct memwork_stats st;
	struct json_object *o;

	n->last_memory = m;
	if (m == was || n->ended)
		return;
	if (m == FT_MEM_SHARING) {
		n->share_at = now;
		return;
	}
	if (was != FT_MEM_SHARING)
		return;
	memwork_stats(n->mem, &st);
	if (m == FT_MEM_SHARED)
		log_note("memory shared again: fit for protection pages=%llu pieces=%llu longest_stop_ms=%.1f after_ms=%.0f",
			 (unsigned long long)st.shared_pages, (unsigned long long)n->share_pieces, ms(n->share_longest),
			 ms(now - n->share_at));
	else
		log_warn("the VM's memory could not be shared again: this node cannot be protected before it was started anew");
	o = json_object_new_object();
	if (o) {
		json_object_object_add(o, "memory", json_object_new_string(ft_memory_name(m)));
		json_object_object_add(o, "pages", json_object_new_uint64(st.shared_pages));
		json_object_object_add(o, "pieces", json_object_new_uint64(n->share_pieces));
		json_object_object_add(o, "longest_stop_ms", json_object_new_double(ms(n->share_longest)));
	}
	monitor_event(n->monitor, "MEMORY", o);
}

void node_tell_end(struct node *n)
{
	node_life_state(n, true);
	answer_all(n, MONITOR_FAILOVER, false, "lockstep has ended");
	answer_all(n, MONITOR_SWITCH, false, "lockstep has ended");
	answer_all(n, MONITOR_CHECKPOINT, false, "lockstep has ended");
}

/* Progress of anything longer than a second goes to the log, a line a second. */
static void on_report(struct loop_timer *t)
{
	struct node *n = t->arg;
	struct memwork_stats m;

	node_net_watch(n);
	node_health(n);
	memwork_stats(n->mem, &m);
	if (ft_state(n->ft) == FT_SYNC && m.syncing) {
		double spent = (double)(clock_ns() - m.sync_since) / 1e9, rate = spent > 0 ? (double)m.sync_done / spent : 0;

		log_info("synchronising round=%u done_mb=%.0f left_mb=%.0f rate_mb_s=%.0f left_s=%.1f", m.round,
			 (double)m.sync_done / 1e6, (double)m.sync_left / 1e6, rate / 1e6,
			 rate > 0 ? (double)m.sync_left / rate : 0);
	}
	if (n->disk) {
		struct disk_stats d;

		disk_stats(n->disk, &d);
		if (d.resyncing || (ft_state(n->ft) == FT_JOINING && d.resync.done < d.resync.total))
			log_info("disks: %s disk=%s percent=%.1f done_mb=%.0f total_mb=%.0f sent_mb=%.0f rate_mb_s=%.0f left_s=%.1f",
				 d.resync.comparing ? "comparing" : "sending",
				 d.resync.disk < n->cl.n_disks ? n->cl.disks[d.resync.disk].id : "?",
				 d.resync.total ? 100.0 * (double)d.resync.done / (double)d.resync.total : 0,
				 (double)d.resync.done / 1e6, (double)d.resync.total / 1e6, (double)d.resync.sent / 1e6,
				 (double)d.resync.rate / 1e6,
				 d.resync.left_ms == UINT64_MAX ? 0 : (double)d.resync.left_ms / 1e3);
	}
	loop_timer_set(n->control, &n->report, clock_ns() + REPORT_NS);
}

int node_monitor_start(struct node *n, struct err *e)
{
	static const struct monitor_ops ops = { .status = fill_status, .command = on_command };

	n->report = (struct loop_timer){ .fn = on_report, .arg = n };
	n->blackbox = (struct loop_timer){ .fn = on_blackbox, .arg = n };
	n->monitor = monitor_new(n->control, n->o->run_dir, n->o->name, &ops, n, e);
	if (!n->monitor)
		return e->code;
	loop_timer_set(n->control, &n->report, clock_ns() + REPORT_NS);
	node_health_start(n);
	return 0;
}
