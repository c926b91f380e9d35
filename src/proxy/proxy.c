/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The proxy: theory of operation
 *
 * One thread, the frames loop. It reads frames from the TAPs, from QEMU's netdev sockets and (through node.c) from
 * the frame connection, in batches, gives them to core/net as events, and carries out its actions. It decides
 * nothing; what it adds is the knowledge of descriptors:
 *  - QUIET: nothing is kept back here and QEMU has read all it was given. Looked at before each batch of input, so
 *    that there is always a fairly recent cut, and every WATCH_NS while the gate closes.
 *  - DRAINED: after STOPPED the sockets are read until empty, then it is said. What QEMU wrote before it answered
 *    `stop` is in the socket by then. If that was more than a little, the socket may have been full, and QEMU, which
 *    waited for room, transmits on as it is emptied, stopped or not (a virtio ring was seen to move by 343 entries).
 *    So then QEMU's main loop is sent around and the sockets are read again, until nothing has come twice in a row.
 * tap_write() is the only place where a frame leaves toward the network; it checks the lease there (P5): a process
 * that was frozen and wakes finds the deadline passed before its first write.
 *
 * Of what one step of core has to say the link's part goes first, and at once: the other copy has the longer way to the
 * client.
 *
 * Rules and settings of a NIC come from the control loop as messages and hold from the next batch on; a capture looks at
 * what passes here (capture.c). The statistics are published under a lock, at most every 10 ms and 10 ms after the last
 * turn, the rules in force, which a peer may have sent, when they change.
 */
#include "proxy/proxy.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crash.h"
#include "base/log.h"
#include "proxy/netsock.h"
#include "proxy/owed.h"

#define BATCH		64
#define ACTS		128
#define WATCH_NS	(50 * NS_PER_US)
#define SETTLE_BYTES	8192	/* unread at the stop: far below what fills the smallest socket, counted with overhead */
#define SETTLE_ROUNDS	2
#define STATS_NS	(10 * NS_PER_MS)

struct proxy_port {
	struct proxy *px;
	const char *id;		/* of the netdev */
	uint8_t nic;
	struct loop_fd tap, qemu;
	struct netsock sock;
	bool out_armed;
	bool tap_off, tap_gone;	/* the TAP is not read for a while; is no more */
};

struct proxy {
	struct loop *loop;
	struct net *net;
	struct net_cfg cfg;
	struct proxy_ops ops;
	struct proxy_port ports[NET_MAX_NICS];
	struct net_ev ev[BATCH];
	unsigned int n_ev;
	struct net_act acts[ACTS];
	struct loop_timer deadline, watch, stats;
	bool stats_due;		/* the timer is set */
	bool watching, given, room;
	bool gone;
	unsigned int settling;	/* quiet rounds that are still wanted */
	_Atomic nstime lease, last_out;
	_Atomic uint64_t late;
	uint64_t tap_errors, tap_long;
	struct owed owed;
	_Atomic uint32_t taps_gone;
	uint8_t *waste;		/* where frames go that cannot be kept */
	struct capture *capture;

	pthread_mutex_t lock;	/* guards published, rules and rules_set */
	struct net_stats published;
	struct rules rules;	/* in force, or wanted while rules_set > 0 */
	unsigned int rules_set;	/* calls of proxy_set_rules() whose message has not come */
	bool rules_came;	/* frames loop: the peer has sent some, in an event that core has not taken yet */
	nstime published_at;
};

static void tap_write(void *arg, uint8_t nic, const uint8_t *data, uint32_t len)
{
	struct proxy *px = arg;
	nstime now = clock_ns();

	if (now > atomic_load(&px->lease)) {
		atomic_fetch_add(&px->late, 1);
		return;
	}
	if (write(px->ports[nic].tap.fd, data, len) >= 0)
		capture_frame(px->capture, CAPTURE_RELEASED, nic, data, len);
	else if (!px->tap_errors++)
		log_warn("a frame could not be written to the TAP: %s (said once)", strerror(errno));
	atomic_store(&px->last_out, now);
}

static void tap_emit(struct proxy *px, uint8_t nic, const uint8_t *data, uint32_t len)
{
	if (!owed_take(&px->owed, nic, data, len))
		tap_write(px, nic, data, len);
}

static void on_paid(void *arg, const void *data, size_t len)
{
	struct proxy *px = arg;

	owed_run(&px->owed, tap_write, px);
}

void proxy_debt(struct proxy *px, enum proxy_debt which, bool open)
{
	if (!owed_open(&px->owed, 1u << which, open))
		loop_post(px->loop, on_paid, px, NULL, 0);
}

uint64_t proxy_debt_lost(struct proxy *px)
{
	return atomic_load(&px->owed.lost);
}

/*
 * While QEMU does not take what it is given, nothing more is read from outside: what then overflows does so in the TAP,
 * before either copy has seen it.
 */
static void arm_tap(struct proxy_port *p)
{
	bool full = p->tap_off ? p->sock.out_len > NETSOCK_HIGH / 2 : p->sock.out_len > NETSOCK_HIGH;

	if (full == p->tap_off || p->tap_gone)
		return;
	p->tap_off = full;
	loop_fd_mod(p->px->loop, &p->tap, full ? 0 : EPOLLIN);
}

static void arm_out(struct proxy_port *p)
{
	bool want = p->sock.out_len > 0;

	if (want == p->out_armed || p->qemu.fd < 0)
		return;
	p->out_armed = want;
	loop_fd_mod(p->px->loop, &p->qemu, want ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void tell_why(const struct net_act *a)
{
	const struct flow_key *k = &a->msg.key;
	char client[INET6_ADDRSTRLEN];

	if (k->family && inet_ntop(k->family == 4 ? AF_INET : AF_INET6, k->other, client, sizeof(client)))
		log_info("checkpoint wanted cause=%s proto=%u guest_port=%u client=%s client_port=%u held=%u position=%u "
			 "ack=%u", ckpt_cause_name(a->arg), k->proto, k->guest_port, client, k->other_port, a->msg.room,
			 a->msg.seq32, a->msg.ack32);
	else
		log_info("checkpoint wanted cause=%s", ckpt_cause_name(a->arg));
}

static void carry_out(struct proxy *px, const struct net_act *a)
{
	struct proxy_port *p = &px->ports[a->nic];
	uint32_t len = a->frame == NET_NONE ? 0 : net_frame_len(px->net, a->frame);
	const uint8_t *data = a->frame == NET_NONE ? NULL : net_frame_data(px->net, a->frame);

	switch (a->type) {
	case NA_TAP:
		tap_emit(px, a->nic, data, len);
		break;
	case NA_GUEST:
		if (p->qemu.fd >= 0) {
			netsock_put(&p->sock, data, len);
			arm_out(p);
			arm_tap(p);
		}
		px->given = true;
		break;
	case NA_MSG:
		px->ops.send(px->ops.arg, &a->msg, data, len);
		break;
	case NA_WATCH:
		px->watching = a->arg;
		px->given = px->given || px->watching;
		if (px->watching)
			loop_timer_set(px->loop, &px->watch, clock_ns() + WATCH_NS);
		else
			loop_timer_del(px->loop, &px->watch);
		break;
	case NA_WANT:
		tell_why(a);
		/* fall through */
	case NA_LIKELY:
	case NA_CUT:
	case NA_DRAINED:
	case NA_BARRIER:
		px->ops.answer(px->ops.arg, a->type, a->n, a->arg);
		break;
	}
}

/* What people are shown comes from core, which alone knows; but a change that is on its way is not taken back. */
static void publish_rules(struct proxy *px)
{
	px->rules_came = false;
	pthread_mutex_lock(&px->lock);
	if (!px->rules_set)
		px->rules = *net_rules(px->net);
	pthread_mutex_unlock(&px->lock);
}

static void publish(struct proxy *px, nstime now)
{
	uint64_t was_signed = px->published.signed_flows;

	px->published_at = now;
	pthread_mutex_lock(&px->lock);
	net_stats_get(px->net, &px->published);
	px->published.drop_tap = px->tap_errors + px->tap_long;
	for (unsigned int i = 0; i < px->cfg.n_nics; i++)
		px->published.drop_qemu += px->ports[i].sock.dropped_in + px->ports[i].sock.dropped_out;
	pthread_mutex_unlock(&px->lock);
	if (!was_signed && px->published.signed_flows)
		log_warn("a TCP connection with MD5 or AO signatures: it cannot be translated, so each of its segments leaves with "
			 "a checkpoint (said once)");
}

/*
 * Messages keep their order among themselves, and so do all others. RELEASED, which core says last, tells of frames that
 * have left, so from the first one on nothing is moved.
 */
static void carry_out_all(struct proxy *px, size_t k)
{
	size_t early = 0, msgs = 0;

	while (early < k && !(px->acts[early].type == NA_MSG && px->acts[early].msg.type == NM_RELEASED))
		early++;
	for (size_t i = 0; i < early; i++) {
		if (px->acts[i].type == NA_MSG) {
			carry_out(px, &px->acts[i]);
			msgs++;
		}
	}
	/* By themselves they go at the end of the turn. */
	if (msgs && msgs < early)
		px->ops.flush(px->ops.arg);
	for (size_t i = 0; i < k; i++)
		if (i >= early || px->acts[i].type != NA_MSG)
			carry_out(px, &px->acts[i]);
}

static void step(struct proxy *px)
{
	unsigned int n = px->n_ev;
	nstime now = clock_ns();
	size_t k;

	px->n_ev = 0;
	k = net_step(px->net, now, px->ev, n, px->acts, ACTS);
	for (;;) {
		carry_out_all(px, k);
		if (k < ACTS)
			break;
		k = net_step(px->net, now, NULL, 0, px->acts, ACTS);
	}
	if (px->rules_came)
		publish_rules(px);
	loop_timer_set(px->loop, &px->deadline, net_deadline(px->net));
	if (now - px->published_at >= STATS_NS)
		publish(px, now);
	else if (!px->stats_due)
		loop_timer_set(px->loop, &px->stats, px->published_at + STATS_NS);
	px->stats_due = now != px->published_at;
}

static void on_stats(struct loop_timer *t)
{
	struct proxy *px = t->arg;

	px->stats_due = false;
	publish(px, clock_ns());
}

static struct net_ev *new_event(struct proxy *px, enum net_ev_type type)
{
	struct net_ev *ev;

	if (px->n_ev == BATCH)
		step(px);
	ev = &px->ev[px->n_ev++];
	/* What the peer has said is in the one type only, and is filled whole there. */
	memset(ev, 0, offsetof(struct net_ev, msg));
	ev->type = type;
	ev->frame = NET_NONE;
	return ev;
}

/* Tell core/net when QEMU has read everything; costs a system call, so only when something was given since. */
static void look_quiet(struct proxy *px)
{
	if (!px->given)
		return;
	for (unsigned int i = 0; i < px->cfg.n_nics; i++)
		if (px->ports[i].qemu.fd >= 0 && !netsock_quiet(&px->ports[i].sock))
			return;
	px->given = false;
	new_event(px, NEV_QUIET);
}

static void on_watch(struct loop_timer *t)
{
	struct proxy *px = t->arg;

	look_quiet(px);
	step(px);
	if (px->watching)
		loop_timer_set(px->loop, &px->watch, clock_ns() + WATCH_NS);
}

static void on_deadline(struct loop_timer *t)
{
	step(t->arg);
}

/* Somebody has taken the interface away: the VM runs on, and nobody reaches it there. */
static void tap_gone(struct proxy_port *p)
{
	loop_fd_del(p->px->loop, &p->tap);
	p->tap_gone = true;
	atomic_fetch_add(&p->px->taps_gone, 1);
	log_error("%s: its TAP interface is gone; no frame comes in or goes out there any more", p->id);
}

static void on_tap(struct loop_fd *w, uint32_t events)
{
	bool gone = false;
	struct proxy_port *p = w->arg;
	struct proxy *px = p->px;

	look_quiet(px);
	for (unsigned int i = 0; i < BATCH; i++) {
		uint32_t h = net_frame_alloc(px->net, true);
		uint8_t *data = h == NET_NONE ? px->waste : net_frame_data(px->net, h);
		struct net_ev *ev;
		ssize_t n;

		/*
		 * Read in any case: a full TAP queue would only make the loss invisible. One byte more than there can be,
		 * since whoever raises the MTU under us gets frames that would be cut.
		 */
		n = read(w->fd, data, px->cfg.frame_size + 1);
		if (n <= 0 || n > px->cfg.frame_size) {
			gone = n < 0 && errno != EAGAIN && errno != EINTR;
			if (h != NET_NONE)
				net_frame_drop(px->net, h);
			if (n <= 0)
				break;
			if (!px->tap_long++)
				log_warn("%s: a frame is longer than its MTU was at the start; such frames are dropped (said once)",
					 p->id);
			continue;
		}
		capture_frame(px->capture, CAPTURE_CLIENT, p->nic, data, (uint32_t)n);
		if (h == NET_NONE) {
			net_frame_missed(px->net);
			continue;
		}
		net_frame_set_len(px->net, h, (uint32_t)n);
		ev = new_event(px, NEV_TAP);
		ev->nic = p->nic;
		ev->frame = h;
	}
	step(px);
	if (gone || events & (EPOLLERR | EPOLLHUP))
		tap_gone(p);
}

/*
 * A copy of a frame for core, without an event as yet. Frames of the last batch may come free once it was taken.
 * Return: its handle, NET_NONE: there is no room, and that is counted
 */
static uint32_t keep_frame(struct proxy *px, const uint8_t *data, uint32_t len)
{
	uint32_t h = net_frame_alloc(px->net, false);

	if (h == NET_NONE) {
		step(px);
		h = net_frame_alloc(px->net, false);
	}
	if (h == NET_NONE) {
		net_frame_missed(px->net);
		return NET_NONE;
	}
	memcpy(net_frame_data(px->net, h), data, len);
	net_frame_set_len(px->net, h, len);
	return h;
}

static void take_frames(struct proxy_port *p)
{
	struct proxy *px = p->px;
	enum capture_point point = net_role(px->net) == NET_SECONDARY ? CAPTURE_SVM : CAPTURE_PVM;
	const uint8_t *data;
	uint32_t len;

	while (netsock_next(&p->sock, px->cfg.frame_size, &data, &len)) {
		struct net_ev *ev;
		uint32_t h;

		capture_frame(px->capture, point, p->nic, data, len);
		h = keep_frame(px, data, len);
		if (h == NET_NONE)
			continue;
		ev = new_event(px, NEV_GUEST);
		ev->nic = p->nic;
		ev->frame = h;
	}
}

static void port_gone(struct proxy_port *p)
{
	loop_fd_del(p->px->loop, &p->qemu);
	close(p->qemu.fd);
	p->qemu.fd = p->sock.fd = -1;
	if (!p->px->gone)
		p->px->ops.qemu_gone(p->px->ops.arg);
	p->px->gone = true;
}

static void on_qemu(struct loop_fd *w, uint32_t events)
{
	struct proxy_port *p = w->arg;

	if (events & EPOLLOUT) {
		netsock_flush(&p->sock);
		arm_out(p);
		arm_tap(p);
	}
	if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
		int rc = netsock_fill(&p->sock);

		if (rc > 0)
			take_frames(p);
		else if (rc < 0)
			port_gone(p);
	}
	step(p->px);
}

/* Return: bytes read */
static uint64_t empty_sockets(struct proxy *px)
{
	uint64_t before = 0, after = 0;

	for (unsigned int i = 0; i < px->cfg.n_nics; i++) {
		struct proxy_port *p = &px->ports[i];

		before += p->sock.bytes_in;
		while (p->qemu.fd >= 0 && netsock_fill(&p->sock) > 0)
			take_frames(p);
		after += p->sock.bytes_in;
	}
	return after - before;
}

static void drain_all(struct proxy *px)
{
	if (empty_sockets(px) > SETTLE_BYTES) {
		px->settling = SETTLE_ROUNDS;
		px->ops.settle(px->ops.arg);
		return;
	}
	new_event(px, NEV_DRAINED);
}

static void on_settled(void *arg, const void *data, size_t len)
{
	struct proxy *px = arg;

	(void)data;
	(void)len;
	/* The checkpoint that wanted it was given up. */
	if (!px->settling)
		return;
	px->settling = empty_sockets(px) ? SETTLE_ROUNDS : px->settling - 1;
	if (px->settling)
		px->ops.settle(px->ops.arg);
	else
		new_event(px, NEV_DRAINED);
	step(px);
}

void proxy_settled(struct proxy *px)
{
	loop_post(px->loop, on_settled, px, NULL, 0);
}

struct proxy_post {
	enum net_ev_type type;
	uint32_t arg;
	uint64_t n;
};

static void on_event(void *arg, const void *data, size_t len)
{
	struct proxy *px = arg;
	struct proxy_post m;
	struct net_ev *ev;

	memcpy(&m, data, len < sizeof(m) ? len : sizeof(m));
	/* The last word on what QEMU has read, before the gate is asked. */
	if (m.type == NEV_CLOSE)
		look_quiet(px);
	px->settling = 0;
	ev = new_event(px, m.type);
	ev->n = m.n;
	ev->arg = m.arg;
	if (m.type == NEV_STOPPED) {
		step(px);
		drain_all(px);
	}
	step(px);
	if (m.type == NEV_STAGED)
		crash_point(CRASH_released);
}

void proxy_event(struct proxy *px, enum net_ev_type type, uint64_t n, uint32_t arg)
{
	struct proxy_post m = { .type = type, .arg = arg, .n = n };

	loop_post(px->loop, on_event, px, &m, sizeof(m));
}

void proxy_peer(struct proxy *px, const struct net_msg *m, const uint8_t *frame, uint32_t len)
{
	uint32_t h = NET_NONE;
	struct net_ev *ev;

	if (frame) {
		if (m->type == NM_OUTPUT)
			capture_frame(px->capture, CAPTURE_SVM, m->nic, frame, len);
		if (len > px->cfg.frame_size) {
			net_frame_missed(px->net);
			return;
		}
		h = keep_frame(px, frame, len);
		if (h == NET_NONE)
			return;
	}
	ev = new_event(px, NEV_MSG);
	ev->nic = m->nic;
	ev->frame = h;
	ev->msg = *m;
	px->rules_came |= m->type == NM_RULES;
	loop_timer_set(px->loop, &px->deadline, loop_now(px->loop));
}

void proxy_room(struct proxy *px, bool room)
{
	if (room == px->room)
		return;
	px->room = room;
	new_event(px, NEV_ROOM)->arg = room;
}

void proxy_set_lease(struct proxy *px, nstime until)
{
	atomic_store(&px->lease, until);
}

struct proxy_fd {
	unsigned int nic;
	int fd;
};

static void on_new_qemu(void *arg, const void *data, size_t len)
{
	struct proxy *px = arg;
	struct proxy_fd m;
	struct proxy_port *p;

	memcpy(&m, data, len < sizeof(m) ? len : sizeof(m));
	p = &px->ports[m.nic];
	if (p->qemu.fd >= 0) {
		loop_fd_del(px->loop, &p->qemu);
		close(p->qemu.fd);
	}
	netsock_free(&p->sock);
	p->out_armed = false;
	arm_tap(p);
	px->gone = false;
	p->qemu.fd = m.fd;
	if (netsock_init(&p->sock, m.fd) < 0 || loop_fd_add(px->loop, &p->qemu, EPOLLIN) < 0)
		log_error("cannot watch the new QEMU's network socket");
}

void proxy_new_qemu(struct proxy *px, unsigned int nic, int qemu_fd)
{
	struct proxy_fd m = { nic, qemu_fd };

	loop_post(px->loop, on_new_qemu, px, &m, sizeof(m));
}

void proxy_stats(struct proxy *px, struct net_stats *out)
{
	pthread_mutex_lock(&px->lock);
	*out = px->published;
	pthread_mutex_unlock(&px->lock);
}

int proxy_capture(struct proxy *px, const struct capture_cfg *cfg, int fd, struct err *e)
{
	return capture_start(px->capture, cfg, fd, e);
}

/* The rules do not fit into a message: it only says that there are new ones. */
static void on_rules(void *arg, const void *data, size_t len)
{
	struct proxy *px = arg;
	struct rules rules;

	(void)data;
	(void)len;
	pthread_mutex_lock(&px->lock);
	px->rules_set--;
	rules = px->rules;
	pthread_mutex_unlock(&px->lock);
	net_set_rules(px->net, &rules);
	step(px);
	publish_rules(px);
}

void proxy_set_rules(struct proxy *px, const struct rules *rules)
{
	pthread_mutex_lock(&px->lock);
	px->rules = *rules;
	px->rules_set++;
	pthread_mutex_unlock(&px->lock);
	loop_post(px->loop, on_rules, px, NULL, 0);
}

void proxy_rules(struct proxy *px, struct rules *out)
{
	pthread_mutex_lock(&px->lock);
	*out = px->rules;
	pthread_mutex_unlock(&px->lock);
}

struct proxy_nic_cfg {
	unsigned int nic;
	struct net_nic_cfg cfg;
};

_Static_assert(sizeof(struct proxy_nic_cfg) <= LOOP_MSG_DATA, "settings of a NIC fit into a message");

static void on_nic_cfg(void *arg, const void *data, size_t len)
{
	struct proxy *px = arg;
	struct proxy_nic_cfg m;

	memcpy(&m, data, len < sizeof(m) ? len : sizeof(m));
	net_set_nic(px->net, m.nic, &m.cfg);
	step(px);
}

void proxy_set_nic(struct proxy *px, unsigned int nic, const struct net_nic_cfg *cfg)
{
	struct proxy_nic_cfg m = { nic, *cfg };

	loop_post(px->loop, on_nic_cfg, px, &m, sizeof(m));
}

uint32_t proxy_taps_gone(struct proxy *px)
{
	return atomic_load(&px->taps_gone);
}

nstime proxy_last_out(struct proxy *px)
{
	return atomic_load(&px->last_out);
}

uint64_t proxy_late(struct proxy *px)
{
	return atomic_load(&px->late);
}

struct proxy *proxy_new(struct loop *loop, const struct net_cfg *cfg, const struct proxy_nic *nics,
			const struct proxy_ops *ops, struct err *e)
{
	struct proxy *px = calloc(1, sizeof(*px));
	const char *ids[NET_MAX_NICS];
	int rc = 0;

	if (!px) {
		err_set(e, -ENOMEM, "no memory for the proxy");
		return NULL;
	}
	px->loop = loop;
	px->cfg = *cfg;
	px->ops = *ops;
	px->rules = cfg->rules;
	px->room = true;
	atomic_store(&px->lease, NS_NEVER);
	pthread_mutex_init(&px->lock, NULL);
	owed_init(&px->owed);
	px->deadline = (struct loop_timer){ .fn = on_deadline, .arg = px };
	px->watch = (struct loop_timer){ .fn = on_watch, .arg = px };
	px->stats = (struct loop_timer){ .fn = on_stats, .arg = px };
	px->waste = malloc(cfg->frame_size + 1);
	px->net = net_new(cfg);
	for (unsigned int i = 0; i < cfg->n_nics; i++)
		ids[i] = px->ports[i].id = nics[i].id ? nics[i].id : "";
	px->capture = capture_new(loop, cfg->n_nics, ids);
	for (unsigned int i = 0; i < NET_MAX_NICS; i++)
		px->ports[i].tap.fd = px->ports[i].qemu.fd = -1;
	if (!px->net || !px->waste || !px->capture) {
		err_set(e, -ENOMEM, "no memory for %u frames of %u bytes", cfg->n_frames, cfg->frame_size);
		proxy_free(px);
		return NULL;
	}
	for (unsigned int i = 0; i < cfg->n_nics && !rc; i++) {
		struct proxy_port *p = &px->ports[i];

		p->px = px;
		p->nic = (uint8_t)i;
		p->tap = (struct loop_fd){ .fd = nics[i].tap_fd, .fn = on_tap, .arg = p };
		p->qemu = (struct loop_fd){ .fd = nics[i].qemu_fd, .fn = on_qemu, .arg = p };
		rc = netsock_init(&p->sock, nics[i].qemu_fd);
		if (!rc)
			rc = loop_fd_add(loop, &p->tap, EPOLLIN);
		if (!rc)
			rc = loop_fd_add(loop, &p->qemu, EPOLLIN);
	}
	if (rc) {
		err_set(e, rc, "cannot watch the network's descriptors: %s", strerror(-rc));
		proxy_free(px);
		return NULL;
	}
	return px;
}

void proxy_free(struct proxy *px)
{
	if (!px)
		return;
	owed_fini(&px->owed);
	capture_free(px->capture);
	for (unsigned int i = 0; i < NET_MAX_NICS; i++) {
		if (px->ports[i].tap.fd >= 0)
			close(px->ports[i].tap.fd);
		if (px->ports[i].qemu.fd >= 0)
			close(px->ports[i].qemu.fd);
		netsock_free(&px->ports[i].sock);
	}
	net_free(px->net);
	pthread_mutex_destroy(&px->lock);
	free(px->waste);
	free(px);
}
