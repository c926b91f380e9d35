/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The frames' machine: theory of operation
 *
 * Goal: clients talk to one VM that never stops. Each frame from the external network is given to both copies, each
 * frame of the PVM leaves only when P1 allows it. This file takes events and hands out actions; what they mean
 * stands in
 *      gate.c     input, the gate toward QEMU, the cut
 *      peer.c     what the other node says
 *      track.c    which flow a frame belongs to, and which flow has to go
 *      inlog.c    the secondary's log of input (P2)
 *      svm.c      what the SVM says, on its own node
 *      hold.c     held output, its limits and its age
 *      compare.c  the comparison of TCP streams (P1)
 *      datagram.c the comparison of everything else (P1)
 *      frag.c     fragmented output
 *      hybrid.c   periodic epochs when the copies keep differing
 *      release.c  what leaves, with which numbers (P1, P2)
 *      epoch.c    what a checkpoint lets out (P1)
 *      rewrite.c  translation of numbers (P6)
 *      keep.c     what the client has seen, and what is kept for promotion
 *      announce.c the guest's addresses
 * Roles (the first may become any other, PRIMARY becomes ALONE, SECONDARY becomes ALONE by promotion):
 *      ALONE      frames pass through, translated where a flow needs it; positions are followed
 *      PRIMARY    input is numbered, sent to the peer and given to the PVM; output is held from the first barrier on
 *      SECONDARY  input is logged, confirmed and given to the SVM; its output goes to the primary
 *
 * Epochs. The local VM is in epoch `epoch`. CLOSE n closes the gate toward QEMU and answers CUT with the number of
 * the last input of which it is known that QEMU has read it (QUIET), at the latest after gate_wait. STOPPED n, then
 * DRAINED (all that QEMU had written is read): the primary places the barrier, after which it is in n + 1. The
 * secondary learns the cut with the barrier, goes to n + 1 with LOADED n, and is given the input after the cut once
 * the gate opens. What the SVM says is tagged with its epoch; what was said in another one is dropped.
 *
 * A checkpoint n that was given up (ABORT) is nothing that net is told of. The primary has placed barrier n and goes on
 * in n + 1; barrier n + 1 then freezes the PVM's positions anew, of what was said since barrier n - 1, and STAGED n + 1
 * lets out what both epochs have held. The SVM is stopped at its end of n: no output of it counts after barrier n, and
 * the acknowledgements of then bound what is let out until STAGED n + 1. The secondary takes the cut of n + 1 for that
 * of n, and goes from epoch n to n + 2 with LOADED n + 1.
 *
 * SVM output of n + 1 proves that n was LOADED, hence STAGED; it may overtake the message that says so, since that
 * one comes on another connection. So it counts as STAGED n.
 *
 * Runs in the loop of frames. Nothing is allocated after net_new(). Frames that an action names are freed at the
 * begin of the next step with events.
 */
#include "core/net_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>


void net_cfg_default(struct net_cfg *cfg, uint32_t n_nics, uint32_t mtu)
{
	memset(cfg, 0, sizeof(*cfg));
	cfg->n_nics = n_nics;
	cfg->frame_size = mtu + NET_ETH_EXTRA;
	cfg->n_frames = 32768;
	cfg->n_flows = 16384;
	cfg->n_log = 16384;
	cfg->max_held_flow = 1024;
	cfg->max_held = 4096;
	cfg->max_flow_bytes = 4u << 20;
	cfg->max_bytes = 16u << 20;
	cfg->n_reasm = 64;
	cfg->compare_timeout = 3 * NS_PER_S;
	cfg->expired_scan_cycle = 50 * NS_PER_MS;
	cfg->gate_wait = 2 * NS_PER_MS;
	cfg->other_delay = 10 * NS_PER_MS;
	cfg->released_every = 5 * NS_PER_MS;
	cfg->logged_every = 2 * NS_PER_MS;
	cfg->hybrid_from = 8;
	cfg->hybrid_gap = 100 * NS_PER_MS;
	cfg->hybrid_min = 2 * NS_PER_MS;
	cfg->hybrid_max = 200 * NS_PER_MS;
	cfg->hybrid_try = NS_PER_S;
}

/* Settings that a NIC has not of its own are those of all. */
static void take_cfg(struct net *net, const struct net_cfg *cfg)
{
	net->cfg = *cfg;
	for (unsigned int i = 0; i < NET_MAX_NICS; i++) {
		struct net_nic_cfg *c = &net->cfg.nic[i];

		if (!cfg->mtu[i])
			net->cfg.mtu[i] = cfg->frame_size - NET_ETH_EXTRA;
		if (!c->compare_timeout)
			c->compare_timeout = cfg->compare_timeout;
		if (!c->expired_scan_cycle)
			c->expired_scan_cycle = cfg->expired_scan_cycle;
		if (!c->max_queue_size)
			c->max_queue_size = cfg->max_held_flow;
	}
}

static void net_clear(struct net *net)
{
	frame_pool_reset(&net->fp);
	flow_table_reset(&net->flows);
	inlog_reset(net);
	memset(&net->st, 0, sizeof(net->st));
	net->role = NET_ALONE;
	net->epoch = 1;
	net->act_head = net->act_n = 0;
	net->gate_open = true;
	net->closing = net->stopped = net->drained = false;
	net->in_seq = net->given_seq = net->quiet_seq = 0;
	frame_list_init(&net->gated);
	frame_list_init(&net->other);
	net->holding = net->loaded = false;
	net->staged = 0;
	net->room = true;
	net->n_held = net->n_held_rem = net->n_bytes = net->n_bytes_rem = 0;
	net->wanted = 0;
	net->loaded_at = net->rel_at = net->other_since = 0;
	memset(net->scan_at, 0, sizeof(net->scan_at));
	net->svm_full_at = net->svm_old_at = 0;
	net->full_epoch = 0;
	net->differed_at = net->likely_at = net->refill_due = 0;
	net->cut = net->close_n = net->barrier_n = net->barrier_cut = 0;
	net->rules_gen = 1;
	net->rules_due = net->flows_scarce = false;
	hybrid_reset(net);
	frag_reset(net);
	net->backoff = 0;
	net->timeout_last = false;
	net->have_state = net->barrier_seen = net->replay_due = net->table_lost = net->was_promoted = false;
	net->n_addr = net->announce_left = 0;
	net->table_n = 0;
	net->now = 0;
}

struct net *net_new(const struct net_cfg *cfg)
{
	struct net *net = calloc(1, sizeof(*net));

	if (!net)
		return NULL;
	take_cfg(net, cfg);
	/* Every frame can leave once in a step, every flow can be told of thrice; batches add a few. */
	net->act_cap = 3 * cfg->n_frames + 4 * cfg->n_flows + 4 * NET_MAX_BATCH;
	net->acts = malloc(net->act_cap * sizeof(*net->acts));
	if (!net->acts || frame_pool_init(&net->fp, cfg->n_frames, cfg->frame_size) < 0 ||
	    flow_table_init(&net->flows, cfg->n_flows, cfg->hash_key) < 0 || inlog_init(&net->log, cfg->n_log) < 0 ||
	    frag_init(net) < 0) {
		net_free(net);
		return NULL;
	}
	net_clear(net);
	return net;
}

void net_free(struct net *net)
{
	if (!net)
		return;
	frame_pool_free(&net->fp);
	flow_table_free(&net->flows);
	inlog_free(&net->log);
	frag_free(net);
	free(net->acts);
	free(net);
}

void net_reset(struct net *net, const struct net_cfg *cfg)
{
	assert(cfg->n_frames == net->cfg.n_frames && cfg->n_flows == net->cfg.n_flows && cfg->n_log == net->cfg.n_log &&
	       cfg->n_reasm == net->cfg.n_reasm);
	take_cfg(net, cfg);
	net_clear(net);
}

uint32_t net_frame_alloc(struct net *net, bool input)
{
	return frame_alloc(&net->fp, input);
}

uint8_t *net_frame_data(struct net *net, uint32_t frame)
{
	return net_data(net, frame);
}

uint32_t net_frame_len(const struct net *net, uint32_t frame)
{
	return net->fp.meta[frame].len;
}

void net_frame_set_len(struct net *net, uint32_t frame, uint32_t len)
{
	net->fp.meta[frame].len = len;
}

void net_frame_drop(struct net *net, uint32_t frame)
{
	frame_free(&net->fp, frame);
}

void net_frame_missed(struct net *net)
{
	net->st.drop_pool++;
}

void net_set_rules(struct net *net, const struct rules *rules)
{
	net->cfg.rules = *rules;
	net->rules_gen++;
	net->rules_due = net->role == NET_PRIMARY;
}

const struct rules *net_rules(const struct net *net)
{
	return &net->cfg.rules;
}

void net_set_nic(struct net *net, unsigned int nic, const struct net_nic_cfg *cfg)
{
	struct net_nic_cfg *to = &net->cfg.nic[nic];

	net->scan_at[nic] = 0;

	if (cfg->compare_timeout)
		to->compare_timeout = cfg->compare_timeout;
	if (cfg->expired_scan_cycle)
		to->expired_scan_cycle = cfg->expired_scan_cycle;
	if (cfg->max_queue_size)
		to->max_queue_size = cfg->max_queue_size;
}

enum net_role net_role(const struct net *net)
{
	return net->role;
}

uint64_t net_epoch(const struct net *net)
{
	return net->epoch;
}

void net_stats_get(const struct net *net, struct net_stats *out)
{
	*out = net->st;
	out->held = net->n_held;
	out->held_svm = net->n_held_rem;
	out->logged = inlog_live(&net->log);
	out->flows = net->flows.n_used;
	out->frames_free = net->fp.n_free;
	out->held_bytes = net->n_bytes;
	out->held_svm_bytes = net->n_bytes_rem;
	out->reasm = net->n_reasm[SIDE_LOC] + net->n_reasm[SIDE_REM];
	out->flows_embryo = net->flows.n_class[FLOW_EMBRYO];
	out->hybrid = net->hyb.on;
	out->hybrid_interval = net->hyb.interval;
}

struct net_act *net_act_new(struct net *net, enum net_act_type type)
{
	struct net_act *a;

	assert(net->act_n < net->act_cap);
	a = &net->acts[(net->act_head + net->act_n++) % net->act_cap];
	/* What is said to the peer, and why a checkpoint is wanted, is looked at in these only. */
	memset(a, 0, type == NA_MSG || type == NA_WANT ? sizeof(*a) : offsetof(struct net_act, msg));
	a->type = type;
	a->frame = NET_NONE;
	return a;
}

struct net_act *net_msg_new(struct net *net, enum net_msg_type type)
{
	struct net_act *a = net_act_new(net, NA_MSG);

	a->msg.type = (uint8_t)type;
	a->msg.epoch = net->epoch;
	return a;
}

struct net_act *net_want(struct net *net, enum ckpt_cause cause)
{
	struct net_act *a;

	if (net->role != NET_PRIMARY || !net->holding || net->wanted & 1u << cause)
		return NULL;
	if ((cause == CAUSE_MISMATCH || cause == CAUSE_OTHER) && hybrid_waits(net))
		return NULL;
	net->wanted |= 1u << cause;
	if (cause == CAUSE_TIMEOUT) {
		net->backoff += net->timeout_last;
		net->timeout_last = true;
	} else if (cause != CAUSE_OTHER) {
		net->backoff = 0;
		net->timeout_last = false;
	}
	a = net_act_new(net, NA_WANT);
	a->arg = cause;
	return a;
}

void net_give(struct net *net, uint8_t nic, uint32_t frame)
{
	struct net_act *a = net_act_new(net, NA_GUEST);

	a->nic = nic;
	a->frame = frame;
	net->st.guest_in++;
}

static void from_guest(struct net *net, uint8_t nic, uint32_t frame)
{
	struct packet p;

	net->st.guest_out++;
	net->fp.meta[frame].nic = nic;
	net->fp.meta[frame].epoch = net->epoch;
	packet_parse(net_data(net, frame), net->fp.meta[frame].len, &p);
	switch (net->role) {
	case NET_ALONE:
		release_alone(net, frame, nic, &p);
		break;
	case NET_PRIMARY:
		release_pvm(net, frame, nic, &p);
		break;
	case NET_SECONDARY:
		announce_learn(net, nic, &p);
		svm_output(net, frame, nic, &p);
		break;
	}
}

/* The local VM is stopped and all it had said is taken. */
static void drained(struct net *net)
{
	net->stopped = false;
	if (net->role == NET_PRIMARY && net->close_n == net->epoch)
		epoch_barrier(net, net->close_n);
	net_act_new(net, NA_DRAINED)->n = net->close_n;
}

static void set_role(struct net *net, enum net_role role, uint64_t epoch)
{
	struct flow *f;

	net->role = role;
	net->epoch = epoch;
	net->holding = net->loaded = false;
	net->staged = epoch - 1;
	net->wanted = 0;
	/* Number 1 stands for everything that was given before the role began: QEMU may not have read it yet. */
	net->in_seq = net->given_seq = role == NET_PRIMARY;
	net->quiet_seq = net->logged = 0;
	/* Until the secondary has said what its log takes. */
	net->peer_room = 64;
	net->room = true;
	net->gate_open = role != NET_SECONDARY;
	net->have_state = net->barrier_seen = net->table_lost = false;
	net->table_n = 0;
	net->rules_due = role == NET_PRIMARY;
	hybrid_reset(net);
	frag_clear(net, SIDE_REM);
	refill_stop(net);
	inlog_clear(net);
	inlog_reset(net);
	flow_for_each(&net->flows, f) {
		hold_clear(net, f, &f->rem);
		flow_side_reset(&f->rem);
		f->bar_set = f->diverged = false;
		f->owed = false;
		flow_list_del(&net->flows, f, LIST_BARRIER);
		flow_list_add(&net->flows, f, LIST_ACTIVE);
		/* What the client has seen of it while this VM had no copy. */
		if (role == NET_PRIMARY && (f->out_known || f->rel_ts) && !f->key.datagram)
			flow_list_add(&net->flows, f, LIST_REL);
	}
	if (role == NET_SECONDARY)
		inlog_tell(net);
}

static void promote(struct net *net)
{
	struct packet p;
	struct flow *f;
	uint32_t h;

	if (net->role != NET_SECONDARY)
		return;
	net->role = NET_ALONE;
	refill_stop(net);
	gate_stop_waiting(net);
	frag_clear(net, SIDE_LOC);
	rewrite_forget(net);
	flow_for_each(&net->flows, f) {
		/* No client has seen an answer to this SYN yet: the SVM's own numbers become the client's. */
		while ((h = frame_list_pop(&net->fp, &f->stash)) != FRAME_NONE) {
			packet_parse(net_data(net, h), net->fp.meta[h].len, &p);
			release_alone(net, h, net->fp.meta[h].nic, &p);
		}
		keep_resend(net, f);
	}
	if (net->gate_open)
		inlog_replay(net);
	else
		net->replay_due = true;
	announce_begin(net);
}

static void alone(struct net *net)
{
	if (net->role != NET_PRIMARY)
		return;
	net->role = NET_ALONE;
	epoch_release_all(net);
	hybrid_reset(net);
	net->holding = net->loaded = false;
	net->wanted = 0;
}

static void loaded(struct net *net, uint64_t n)
{
	if (net->role == NET_PRIMARY) {
		epoch_staged(net, n);
		if (n + 1 != net->epoch)
			return;
		net->loaded = true;
		net->loaded_at = net->now;
		hybrid_loaded(net);
		return;
	}
	if (net->role != NET_SECONDARY)
		return;
	net->have_state = true;
	net->barrier_seen = false;
	rewrite_commit(net, n);
	refill_stop(net);
	inlog_commit(net, net->barrier_cut);
	net->given_seq = net->quiet_seq = net->barrier_cut;
	net->epoch = n + 1;
}

static void event(struct net *net, const struct net_ev *ev)
{
	switch (ev->type) {
	case NEV_TAP:
		gate_input(net, ev->nic, ev->frame);
		break;
	case NEV_GUEST:
		from_guest(net, ev->nic, ev->frame);
		break;
	case NEV_QUIET:
		net->quiet_seq = net->given_seq;
		if (net->closing)
			gate_answer(net);
		break;
	case NEV_DRAINED:
		if (net->stopped)
			drained(net);
		break;
	case NEV_ROOM:
		net->room = ev->arg;
		break;
	case NEV_ROLE:
		set_role(net, ev->arg, ev->n);
		break;
	case NEV_CLOSE:
		gate_close(net, ev->n);
		break;
	case NEV_STOPPED:
		gate_stop_waiting(net);
		net->stopped = true;
		net->close_n = ev->n;
		break;
	case NEV_OPEN:
		gate_open(net);
		break;
	case NEV_STAGED:
		if (net->role == NET_PRIMARY)
			epoch_staged(net, ev->n);
		break;
	case NEV_LOADED:
		loaded(net, ev->n);
		break;
	case NEV_PROMOTE:
		promote(net);
		break;
	case NEV_ALONE:
		alone(net);
		break;
	case NEV_ANNOUNCE:
		announce_begin(net);
		break;
	case NEV_MSG:
		peer_message(net, ev);
		break;
	}
}

/* Whether there are frames that are not compared and that no checkpoint under way carries. */
static bool other_waits(const struct net *net)
{
	return net->other.n && net->fp.meta[net->other.tail].epoch == net->epoch;
}

static void timers(struct net *net)
{
	if (net->closing && net->now >= net->gate_deadline) {
		net->st.gate_expired++;
		gate_answer(net);
	}
	if (other_waits(net) && net->now >= net->other_since + net->cfg.other_delay)
		net_want(net, CAUSE_OTHER);
	hold_scan(net);
	frag_timers(net);
	hybrid_timers(net);
	refill_timers(net);
	if (net->rules_due && net->role == NET_PRIMARY)
		peer_tell_rules(net);
	if (net->announce_left && net->now >= net->announce_at)
		announce_now(net);
}

size_t net_step(struct net *net, nstime now, const struct net_ev *in, size_t n, struct net_act *out, size_t cap)
{
	size_t k = 0;

	assert(n <= NET_MAX_BATCH);
	net->now = now;
	if (!net->act_n) {
		/* All actions of the last step were handed out, and carried out before this call. */
		frame_reap(&net->fp);
		net->act_head = 0;
	}
	if (!net->act_n || n) {
		net->speaks = false;
		for (size_t i = 0; i < n; i++)
			event(net, &in[i]);
		timers(net);
		release_finish(net);
		if (net->role == NET_SECONDARY)
			inlog_tell(net);
	}
	while (k < cap && net->act_n) {
		out[k++] = net->acts[net->act_head];
		net->act_head = (net->act_head + 1) % net->act_cap;
		net->act_n--;
	}
	return k;
}

static nstime sooner(nstime a, nstime b)
{
	return a < b ? a : b;
}

nstime net_deadline(const struct net *net)
{
	nstime at = NS_NEVER;

	if (net->act_n)
		return 0;
	if (net->closing)
		at = net->gate_deadline;
	if (other_waits(net) && net->role == NET_PRIMARY && net->holding && !(net->hyb.on && net->hyb.due) &&
	    !(net->wanted & 1u << CAUSE_OTHER))
		at = sooner(at, net->other_since + net->cfg.other_delay);
	if (net->announce_left)
		at = sooner(at, net->announce_at);
	if (net->flows.list_head[LIST_REL] != FLOW_NONE)
		at = sooner(at, net->rel_at + net->cfg.released_every);
	if (net->role == NET_SECONDARY)
		at = sooner(at, net->log.tell_at);
	/* There was no buffer for them. */
	if (net->rules_due && net->role == NET_PRIMARY)
		at = sooner(at, net->fp.n_free ? net->now : net->now + NS_PER_MS);
	at = sooner(at, refill_deadline(net));
	return sooner(sooner(at, hold_deadline(net)), sooner(frag_deadline(net), hybrid_deadline(net)));
}
