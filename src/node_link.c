/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The link, wired: theory of operation
 *
 * link/pair finds the peer and hands out four streams. The control connection stays in the control loop, the frame
 * connection is made in the frames loop and the bulk connection in the bulk loop, by message; each message arrives
 * at its part in the loop where that part lives. The frames' machine hears of its role before its connection exists.
 *
 * When a process dies its kernel closes all of them. Each loop reports the end of its own after having
 * taken everything that had come; when all have ended by the peer's kernel that is the proof of P5, if one of
 * them ends otherwise or the rest does not follow within CLOSING_NS it is not. Reports carry the number of the peer
 * (era), since they may arrive when the next one is there already.
 *
 * Who listens and who connects follows from the addresses (cli/run_paths.c); which of the two serves is told in the
 * handshake, by what each is at that moment. A node that connects goes on doing so whenever it has no peer, also when it
 * has been promoted meanwhile; so the other one, started again, finds its way back. Before a node begins the VM (--primary)
 * it asks the peer, for ASK_NS at most (longer where the peer is the one that connects), whether that has it already: a
 * node that was primary once and is started by the same command after its secondary has taken over must not let a frame
 * out.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/crash.h"
#include "base/log.h"
#include "engine/shape.h"
#include "node_internal.h"

#define CLOSING_NS (100 * NS_PER_MS)
#define GOODBYE_NS (20 * NS_PER_MS)
#define ASK_NS (1 * NS_PER_S)
#define ASK_LISTENING_NS (PAIR_BACKOFF_MAX + ASK_NS)	/* the peer may just have begun to wait */

struct closed_report {
	uint64_t era;
	enum wire_channel channel;
	enum conn_why why;
	char sentence[160];
};

/* @how: as FE_LINK_DOWN has it */
static void link_down(struct node *n, unsigned int how)
{
	struct ft_ev ev = { .type = FE_LINK_DOWN, .value = how };

	loop_timer_del(n->control, &n->closing);
	if (n->down_told)
		return;
	n->down_told = true;
	node_noticed(n, clock_ns());
	log_warn("the link to the peer is down %s", how == 1 ? "(closed by its kernel: it is dead)" : how == 2 ?
		 "(this node could not go on with it)" : "(not all connections were closed by the peer's kernel)");
	node_health_link(n, false, how == 1 ? "closed by its kernel" : how == 2 ? "not usable" : "an error of the network");
	/* What is left of the link stays until ft says DROP_LINK: it may have last words for a peer that lives. */
	node_event(n, &ev);
}

static void on_closing(struct loop_timer *t)
{
	struct node *n = t->arg;

	if (n->linked)
		link_down(n, 0);
}

static void on_closed_report(void *arg, const void *data, size_t len)
{
	struct closed_report r;
	struct node *n = arg;

	memcpy(&r, data, len < sizeof(r) ? len : sizeof(r));
	if (!n->linked || r.era != n->era)
		return;
	log_debug("%s connection: %s", wire_channel_name(r.channel), r.sentence);
	n->n_closed++;
	n->n_eof += r.why == CONN_EOF;
	if (!conn_why_kernel(r.why)) {
		log_warn("%s connection: %s", wire_channel_name(r.channel), r.sentence);
		link_down(n, r.why == CONN_GARBLED || r.why == CONN_LIMIT ? 2 : 0);
	} else if (n->n_closed == WIRE_CHANNELS) {
		/*
		 * A peer whose kernel gave the connections up, and which lives, answers with resets; only who is dead, or has
		 * closed them, ends one in order.
		 */
		link_down(n, n->n_eof > 0);
	} else if (n->n_closed == 1) {
		loop_timer_set(n->control, &n->closing, clock_ns() + CLOSING_NS);
	}
}

static void on_closed(void *arg, enum conn_why why, const char *sentence)
{
	struct node_conn *nc = arg;
	struct closed_report r = { .era = nc->era, .channel = nc->channel, .why = why };

	snprintf(r.sentence, sizeof(r.sentence), "%s", sentence);
	loop_post(nc->node->control, on_closed_report, nc->node, &r, sizeof(r));
}

static int on_control(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e)
{
	struct node_conn *nc = arg;
	struct ft_ev ev = { .type = FE_CTL };
	int rc = codec_ctl_get(h, payload, h->len, &ev.ctl, e);

	if (rc)
		return rc;
	log_trace("from peer: %s n=%llu value=%llu", ctl_type_name(ev.ctl.type), (unsigned long long)ev.ctl.n,
		  (unsigned long long)ev.ctl.value);
	if (ev.ctl.type == CTL_EPOCH_END) {
		memwork_epoch_end(nc->node->mem, clock_ns());
		crash_point(CRASH_s_epoch_end);
	} else if (ev.ctl.type == CTL_STAGED) {
		crash_point(CRASH_staged_received);
	} else if (ev.ctl.type == CTL_LOADED) {
		crash_point(CRASH_loaded_received);
	} else if (ev.ctl.type == CTL_ABORT) {
		crash_point(CRASH_s_abort);
	}
	if (ev.ctl.type == CTL_GONE)
		log_note("the secondary cannot stand by any more reason=%s", ft_reason_name((enum ft_reason)ev.ctl.value));
	else if (ev.ctl.type == CTL_FAILED)
		log_note("the secondary cannot apply epoch %llu and ends step=%s", (unsigned long long)ev.ctl.n,
			 ft_step_name((enum ft_step)ev.ctl.value));
	if (ev.ctl.type == CTL_PROMOTE || ev.ctl.type == CTL_GONE || ev.ctl.type == CTL_CLAIM)
		node_noticed(nc->node, clock_ns());
	ev.n = ev.ctl.n;
	node_event(nc->node, &ev);
	return 0;
}

static int on_frames(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e)
{
	struct node_conn *nc = arg;
	const uint8_t *frame;
	struct net_msg m;
	size_t len;
	int rc = codec_net_get(h, payload, h->len, &m, &frame, &len, e);

	if (!rc)
		proxy_peer(nc->node->px, &m, frame, (uint32_t)len);
	return rc;
}

static void on_frames_writable(void *arg)
{
	struct node_conn *nc = arg;

	nc->blocked = false;
	proxy_room(nc->node->px, true);
}

static int on_bulk(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e)
{
	struct node_conn *nc = arg;
	struct memwork *w = nc->node->mem;
	struct devstate_msg d;
	struct marker_msg k;
	struct pages_msg p;
	int rc;

	switch (h->type) {
	case WIRE_PAGES:
		rc = codec_pages_get(h, payload, h->len, &p, e);
		return rc ? rc : memwork_take_pages(w, p.first, p.count, p.data, p.len, p.packed, e);
	case WIRE_DEVSTATE:
		rc = codec_devstate_get(h, payload, h->len, &d, e);
		return rc ? rc : memwork_take_state(w, d.offset, d.data, d.len, e);
	case WIRE_MARKER:
		rc = codec_marker_get(h, payload, h->len, &k, e);
		return rc ? rc : memwork_take_marker(w, h->epoch, k.pages, k.devstate, k.hash, e);
	default:
		return err_set(e, -EPROTO, "a message of type %u on the bulk connection", h->type);
	}
}

static void on_bulk_writable(void *arg)
{
	struct node_conn *nc = arg;

	memwork_writable(nc->node->mem);
}

struct attach {
	struct stream *s;
	uint64_t era;
	uint8_t vm_id[LINK_ID_LEN];
};

static void make_conn(struct node_conn *nc, const struct attach *a)
{
	static int (*const message[])(void *, const struct wire_head *, const uint8_t *, struct err *) = {
		[WIRE_CONTROL] = on_control, [WIRE_FRAMES] = on_frames, [WIRE_BULK] = on_bulk,
		[WIRE_DISK] = node_disk_message,
	};
	static void (*const writable[])(void *) = {
		[WIRE_FRAMES] = on_frames_writable, [WIRE_BULK] = on_bulk_writable,
		[WIRE_DISK] = node_disk_writable,
	};
	struct conn_cfg cfg = { .channel = nc->channel, .message = message[nc->channel],
				.writable = nc->channel == WIRE_CONTROL ? NULL : writable[nc->channel],
				.closed = on_closed, .arg = nc,
				.manual = nc->channel == WIRE_DISK };
	struct err e = { 0 };

	memcpy(cfg.vm_id, a->vm_id, sizeof(cfg.vm_id));
	conn_free(nc->conn);
	nc->era = a->era;
	nc->conn = conn_new(nc->loop, a->s, &cfg, &e);
	if (!nc->conn)
		on_closed(nc, CONN_ERROR, e.msg);
	if (nc->channel == WIRE_DISK)
		node_disk_attached(nc->node, nc->conn);
	if (nc->channel == WIRE_FRAMES) {
		nc->blocked = false;
		proxy_room(nc->node->px, true);
	}
}

static void on_attach(void *arg, const void *data, size_t len)
{
	struct attach a;

	memcpy(&a, data, len < sizeof(a) ? len : sizeof(a));
	make_conn(arg, &a);
}

static void on_detach(void *arg, const void *data, size_t len)
{
	struct node_conn *nc = arg;

	(void)data;
	(void)len;
	conn_free(nc->conn);
	nc->conn = NULL;
	if (nc->channel == WIRE_DISK)
		node_disk_attached(nc->node, false);
}

static void on_silence(struct loop_timer *t)
{
	struct ft_ev ev = { .type = FE_SILENT };
	struct node *n = t->arg;

	if (n->beat)
		node_event(n, &ev);
}

static void on_beat(void *arg, const struct hb_event *hb)
{
	struct node *n = arg;
	struct ft_ev ev = { .type = FE_BEAT, .value = hb->sent };

	/* Also those that came before the heartbeat was stopped: they were answered. */
	if (!n->linked || hb->id != n->beat_id || (!n->beat && hb->type != HB_BEAT))
		return;
	switch (hb->type) {
	case HB_BEAT:
		n->beat_at = clock_ns();
		if (hb->sent)
			n->rtt = hb->rtt;
		node_event(n, &ev);
		break;
	case HB_SILENT:
		n->silent++;
		node_noticed(n, hb->since);
		node_health(n);
		/* As a timer, which comes after everything that can be read: after a freeze that may be the peer's last words. */
		loop_timer_set(n->control, &n->silence, loop_now(n->control));
		break;
	case HB_STUCK:
		/* Beats of a process whose work stands still prove nothing. The bulk loop has deadlines of its own. */
		if (hb->which != BEAT_BULK) {
			ev.type = FE_STUCK;
			node_event(n, &ev);
		}
		break;
	case HB_HEARD:
		/* Nothing is lost after all; a loss to come counts from its own beginning. */
		if (n->linked && !n->down_told)
			n->lost_at = 0;
		node_health(n);
		break;
	case HB_MOVING:
		break;
	}
}

/* The way of the connections, and what else the command line knows of the way to the peer. */
static void beat_paths(const struct node *n, const struct pair_link *l, struct hb_cfg *cfg)
{
	struct hb_path *p = cfg->paths;

	addr_text(&l->remote, p->name);
	p->local = l->local.ss;
	p->local_len = l->listener ? l->local.len : 0;
	p->remote = l->remote.ss;
	p->remote_len = l->remote.len;
	for (cfg->n_paths = 1; cfg->n_paths < n->o->n_paths; cfg->n_paths++) {
		const struct run_addr *own = &n->o->paths[cfg->n_paths].own, *other = &n->o->paths[cfg->n_paths].other;

		p = &cfg->paths[cfg->n_paths];
		addr_text(other->n ? &other->addr[0] : &own->addr[0], p->name);
		p->local = own->addr[0].ss;
		p->local_len = own->n ? own->addr[0].len : 0;
		/* Who connects sends from its own address of this path, so that it goes that way; the port is the kernel's. */
		if (!l->listener && own->n)
			addr_set_port(&p->local, 0);
		p->remote = other->addr[0].ss;
		p->remote_len = other->n ? other->addr[0].len : 0;
	}
}

static void start_beat(struct node *n, const struct pair_link *l)
{
	struct hb_cfg cfg = {
		.generation = n->generation, .listener = l->listener, .interval = n->o->heartbeat,
		.silence = n->o->timeout, .loops = { n->control, n->frames, n->bulk }, .control = n->control,
		.fn = on_beat, .arg = n,
	};
	struct err e = { 0 };

	beat_paths(n, l, &cfg);
	memcpy(cfg.session, l->session, sizeof(cfg.session));
	memcpy(cfg.vm_id, l->vm_id, sizeof(cfg.vm_id));
	static_assert(sizeof(cfg.key) == sizeof(l->beat_key), "a key of the connections is one of the heartbeats");
	cfg.keyed = l->keyed;
	memcpy(cfg.key, l->beat_key, sizeof(cfg.key));
	n->beat = heartbeat_start(&cfg, &e);
	if (n->beat)
		n->beat_id = heartbeat_id(n->beat);
	else
		log_error("no heartbeat: %s; a peer that hangs will not be noticed", e.msg);
	explicit_bzero(cfg.key, sizeof(cfg.key));
}

static void on_ask(struct loop_timer *t)
{
	struct node *n = t->arg;

	if (n->asking)
		node_role_again(n);
}

static void on_missed(void *arg)
{
	struct node *n = arg;

	n->peer_unknown = false;
	if (n->asking && ++n->missed >= n->o->peer.n)
		node_role_asked(n, false);
}

static void on_refused(void *arg, bool by_peer, uint32_t generation, const char *sentence)
{
	struct node *n = arg;

	n->peer_unknown = generation == PAIR_UNKNOWN;
	if (n->peer_unknown || n->ended || !node_serves(n) || (!by_peer && n->asking && generation))
		return;
	if (!generation || (!n->asking && n->linked_at)) {
		/* Two that have been a pair and both serve: nobody here can tell which one has to go. */
		if (generation)
			log_error("the VM runs on the peer too: end one of the two, and start it again without --primary");
		if (!generation)
			node_role_asked(n, true);
		return;
	}
	/* This node has never had a peer in this life, and the other one has the VM of a later one. */
	if (n->asking || generation > n->generation)
		node_role_yield(n, sentence);
	else
		log_error("the VM is not begun there: %s", sentence);
}

static void on_paired(void *arg, struct pair_link *l)
{
	struct node *n = arg;
	struct ft_ev ev = { .type = FE_LINK_UP, .value = l->peer.generation };
	struct attach a = { .era = ++n->era };
	char text[ADDR_TEXT];
	bool serves;

	node_role_asked(n, true);
	serves = node_serves(n);
	if (!serves)
		n->generation = l->peer.generation;

	snprintf(n->peer_text, sizeof(n->peer_text), "%s", addr_text(&l->remote, text));
	memcpy(a.vm_id, l->vm_id, sizeof(a.vm_id));
	n->linked = true;
	n->linked_at = clock_ns();
	n->beat_at = 0;
	n->n_closed = n->n_eof = 0;
	n->down_told = false;
	n->lost_at = 0;
	node_health_link(n, true, "paired");
	a.s = l->s[WIRE_CONTROL];
	make_conn(&n->conns[WIRE_CONTROL], &a);
	start_beat(n, l);
	/*
	 * Before the event, which may begin to send. Only a secondary's frame connection comes after it: its frames'
	 * machine must know its role before the first input arrives, as the primary's must not number input that has
	 * nowhere to go.
	 */
	a.s = l->s[WIRE_BULK];
	loop_post(n->bulk, on_attach, &n->conns[WIRE_BULK], &a, sizeof(a));
	a.s = l->s[WIRE_DISK];
	loop_post(n->disk_loop, on_attach, &n->conns[WIRE_DISK], &a, sizeof(a));
	a.s = l->s[WIRE_FRAMES];
	if (serves)
		loop_post(n->frames, on_attach, &n->conns[WIRE_FRAMES], &a, sizeof(a));
	node_event(n, &ev);
	if (!serves)
		loop_post(n->frames, on_attach, &n->conns[WIRE_FRAMES], &a, sizeof(a));
}

static int on_check(void *arg, const struct hello *peer, struct err *e)
{
	struct node *n = arg;
	bool serves = node_serves(n);

	int rc = serves ? node_role_meets(n, peer, e) : 0;

	if (rc)
		return rc;
	if (!serves && peer->role == FT_SECONDARY)
		return err_set(e, -EINVAL, "both nodes are secondary: start the one whose VM it is with %s",
			       nodestate_get(n->state)->mode == NODESTATE_NEW ? "--primary" :
			       "--force-primary (it has been a secondary before, so that --primary does not count)");
	if (ft_state(n->ft) == FT_PROMOTING || ft_state(n->ft) == FT_FENCED || (serves && ft_claims(n->ft)))
		return err_set(e, -EBUSY, "this node is just taking over");
	if (ft_memory(n->ft) == FT_MEM_STUCK)
		return err_set(e, -ENOTSUP, "the memory of the VM that this node has taken over could not be shared again, so it cannot "
			       "be protected before it was started anew");
	rc = shape_compare(n->shape, peer->shape, peer->shape_len, e);
	/* Before anybody can take over: else this node, started again without its peer, would believe that it was alone. */
	if (!rc && serves && n->started)
		rc = nodestate_set(n->state, n->generation, NODESTATE_PAIR, e);
	return rc;
}

void node_link_tell(struct node *n)
{
	if (!n->pair)
		return;
	pair_set(n->pair, node_serves(n) ? FT_PRIMARY : FT_SECONDARY, n->generation);
	pair_set_state(n->pair, (uint8_t)nodestate_get(n->state)->mode, node_serves(n) && n->started);
}

int node_send(struct node *n, enum wire_channel channel, struct wire_head *h, const uint8_t *head, int len,
	      const uint8_t *data, size_t size, bool must)
{
	struct iovec iov[2] = { { (void *)head, (size_t)len }, { (void *)data, size } };
	struct conn *c = n->conns[channel].conn;

	if (!c || len < 0)
		return -EPIPE;
	h->generation = n->generation;
	return conn_send(c, h, iov, size ? 2 : 1, must);
}

void node_send_ctl(struct node *n, const struct ctl_msg *m)
{
	struct conn *c = n->conns[WIRE_CONTROL].conn;
	struct wire_head h = { .type = WIRE_CTL };
	uint8_t payload[WIRE_CTL_LEN];
	struct iovec iov = { payload, 0 };
	struct ctl_msg out = *m;
	int k;

	if (!n->linked || !c)
		return;
	out.generation = n->generation;
	k = codec_ctl_put(payload, sizeof(payload), &h, &out);
	if (k < 0) {
		log_error("a control message cannot be made: %s", ctl_type_name(m->type));
		return;
	}
	iov.iov_len = (size_t)k;
	log_trace("to peer: %s n=%llu value=%llu", ctl_type_name(m->type), (unsigned long long)m->n,
		  (unsigned long long)m->value);
	conn_send(c, &h, &iov, 1, true);
	conn_flush(c);
}

void node_link_mute(struct node *n)
{
	loop_timer_del(n->control, &n->silence);
	heartbeat_stop(n->beat);
	n->beat = NULL;
}

void node_link_drop(struct node *n)
{
	if (!n->linked)
		return;
	n->linked = false;
	loop_timer_del(n->control, &n->closing);
	node_link_mute(n);
	/* Closing with unread input would be a reset, and a peer that lives would not get our last words. */
	if (n->conns[WIRE_CONTROL].conn && !n->n_closed)
		conn_goodbye(n->conns[WIRE_CONTROL].conn, GOODBYE_NS);
	conn_free(n->conns[WIRE_CONTROL].conn);
	n->conns[WIRE_CONTROL].conn = NULL;
	for (int c = WIRE_FRAMES; c < WIRE_CHANNELS; c++)
		loop_post(n->conns[c].loop, on_detach, &n->conns[c], NULL, 0);
	memwork_peer_lost(n->mem);
	if (!n->ended)
		pair_again(n->pair);
}

int node_link_start(struct node *n, struct err *e)
{
	const struct run_addr *at = n->o->peer.n ? &n->o->peer : &n->o->listen;
	struct pair_cfg cfg = {
		.loop = n->control, .listen = !n->o->peer.n, .n_addrs = at->n,
		.role = node_serves(n) ? FT_PRIMARY : FT_SECONDARY, .generation = n->generation,
		.shape = n->shape, .shape_len = strlen(n->shape), .check = on_check, .paired = on_paired,
		.refused = on_refused, .missed = on_missed, .arg = n,
	};
	struct loop *loops[WIRE_CHANNELS] = { n->control, n->frames, n->bulk, n->disk_loop };

	for (int c = 0; c < WIRE_CHANNELS; c++) {
		n->conns[c].node = n;
		n->conns[c].loop = loops[c];
		n->conns[c].channel = (enum wire_channel)c;
	}
	n->closing = (struct loop_timer){ .fn = on_closing, .arg = n };
	n->silence = (struct loop_timer){ .fn = on_silence, .arg = n };
	memcpy(cfg.addrs, at->addr, sizeof(cfg.addrs));
	cfg.tls = n->tls;
	if (!cfg.listen)
		addr_host(at->text, cfg.tls_peer, sizeof(cfg.tls_peer));
	snprintf(cfg.name, sizeof(cfg.name), "%s", n->o->name);
	n->ask = (struct loop_timer){ .fn = on_ask, .arg = n };
	n->pair = pair_new(&cfg, e);
	if (!n->pair)
		return e->code;
	node_link_tell(n);
	n->asking = n->role == RUN_PRIMARY;
	if (n->asking)
		loop_timer_set(n->control, &n->ask, clock_ns() + (cfg.listen ? ASK_LISTENING_NS : ASK_NS));
	return 0;
}

void node_link_end(struct node *n)
{
	/* Last words are to arrive; closing with unread input would make the kernel take them back. */
	if (n->linked && n->conns[WIRE_CONTROL].conn)
		conn_goodbye(n->conns[WIRE_CONTROL].conn, 200 * NS_PER_MS);
	node_link_mute(n);
	if (n->pair)
		pair_free(n->pair);
	n->pair = NULL;
	n->linked = false;
}
