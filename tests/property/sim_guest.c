/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The guest: a few connections, one application on each, and memory that knows whether it is whole.
 *
 * Everything is in struct guest, so that a checkpoint is an assignment: "device state" (struct gcore: TCP and
 * applications) and sixteen pages of "memory", each with a value of its own. The device state holds a checksum over
 * the pages. A state that is loaded over pages of another moment, or of two moments, does not fit, and the next run
 * of the guest says so: that is P3.
 *
 * Two copies of a guest differ as real ones do: when they run, what they take first, where they cut segments, their
 * sequence numbers, and what their random source gives. What the application answers is a function of all bytes that
 * ever came in on that connection, but for
 *	R  random bytes, kept: L gives them again. Who lost the state behind an answer is caught by L.
 *	C  one counter over all connections, so its values depend on who was served first.
 * E mixes in a payload and gives bytes of the state, U answers with the hash of a payload, D gives many bytes, O
 * opens a connection towards a client, Q closes from the guest's side, X resets. One byte of D may be urgent.
 */
#include "sim.h"

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 29;
}

/* ---- the application: also the model of it that a client holds against it ---- */

void app_feed(struct app *a, uint8_t b)
{
	a->hash = mix(a->hash, b + 1u);
	if (a->need) {
		a->need--;
		return;
	}
	a->hdr[a->n_hdr++] = b;
	if (a->n_hdr < 4)
		return;
	a->op = a->hdr[0];
	a->arg = a->hdr[1];
	if (a->op == OP_ECHO || a->op == OP_UPLOAD)
		a->need = (uint32_t)a->hdr[2] << 8 | a->hdr[3];
}

/* The request is complete: make the answer. Return: true when a connection is to be opened */
bool app_finish(struct app *a, uint32_t *counter, const uint8_t entropy[RAND_LEN])
{
	uint32_t len = (uint32_t)a->hdr[2] << 8 | a->hdr[3];

	a->n_hdr = 0;
	a->busy = true;
	a->out_at = 0;
	a->out_seed = a->hash;
	switch (a->op) {
	case OP_ECHO:
		a->out_len = 4 + (uint32_t)(a->hash >> 40) % 120;
		break;
	case OP_UPLOAD:
		a->out_len = 8;
		break;
	case OP_DOWNLOAD:
		a->out_len = len;
		break;
	case OP_RANDOM:
		memcpy(a->last, entropy, RAND_LEN);
		a->n_random++;
		/* fall through */
	case OP_LAST:
		memcpy(a->small, a->last, RAND_LEN);
		a->out_len = RAND_LEN;
		break;
	case OP_COUNT:
		++*counter;
		for (int i = 0; i < 4; i++)
			a->small[i] = (uint8_t)(*counter >> 8 * i);
		a->out_len = 4;
		break;
	case OP_OPEN:
		a->out_len = 1;
		return true;
	case OP_QUIT:
	case OP_RESET:
		a->out_len = 0;
		a->quit = true;
		a->abort = a->op == OP_RESET;
		break;
	default:
		a->out_len = 1;
	}
	return false;
}

uint8_t app_out(const struct app *a, uint32_t at)
{
	if (a->op == OP_RANDOM || a->op == OP_LAST || a->op == OP_COUNT)
		return a->small[at];
	return (uint8_t)(mix(a->out_seed, at) >> 32);
}

/* ---- memory ---- */

uint64_t guest_page(const struct guest *g, unsigned int i)
{
	return g->privmap & 1u << i ? g->priv[i] : g->image[i];
}

uint64_t guest_sum(const struct guest *g)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < SIM_PAGES; i++)
		sum ^= mix(i + 77, guest_page(g, i));
	return sum;
}

static void page_write(struct sim *s, struct guest *g)
{
	unsigned int i = rnd(s, SIM_PAGES);
	uint64_t v = mix(sim_rand(s), ++g->core.writes);

	g->core.sum ^= mix(i + 77, guest_page(g, i)) ^ mix(i + 77, v);
	if (g->cow && !(g->shared & 1u << i)) {
		g->priv[i] = v;
		g->privmap |= 1u << i;
	} else {
		g->image[i] = v;
	}
	g->dirty |= 1u << i;
}

/* ---- the machine ---- */

static struct host host_of(struct sim *s, int node)
{
	return (struct host){ .s = s, .node = node, .client = -1, .addr = 10, .now = node_vmclock(s, node) };
}

struct gconn *guest_conn(struct gcore *c, uint8_t peer, uint16_t rport, uint16_t lport)
{
	for (int i = 0; i < SIM_GCONNS; i++) {
		struct tcb *t = &c->c[i].t;

		if (t->peer == peer && t->rport == rport && t->lport == lport)
			return &c->c[i];
	}
	return NULL;
}

static struct gconn *conn_new(struct gcore *c)
{
	for (int i = 0; i < SIM_GCONNS; i++)
		if (c->c[i].t.state == T_CLOSED && !c->c[i].t.peer)
			return &c->c[i];
	for (int i = 0; i < SIM_GCONNS; i++)
		if (c->c[i].t.state == T_CLOSED)
			return &c->c[i];
	return NULL;
}

void guest_boot(struct sim *s, int node)
{
	struct guest *g = &s->node[node].g;

	for (int i = 0; i < SIM_PAGES; i++)
		g->image[i] = sim_rand(s);
	g->core.sum = guest_sum(g);
	g->core.vmclock = 1000 * NS_PER_S;
	g->dirty = (1u << SIM_PAGES) - 1;
	g->valid = true;
}

static void guest_open(struct sim *s, struct host *h, struct gcore *c, uint8_t client, bool any_port)
{
	struct gconn *g = conn_new(c);
	uint16_t port = any_port ? (uint16_t)(50000 + rnd(s, 10000)) : (uint16_t)(40000 + client);

	if (!g || client >= SIM_CLIENTS || !s->cl[client].passive)
		return;
	memset(&g->a, 0, sizeof(g->a));
	g->active = (uint8_t)(client + 1);
	tcp_open(h, &g->t, &(struct opening){ .path = &s->cl[client].path, .lport = port, .peer = s->cl[client].addr,
					      .rport = s->cl[client].port });
	s->st->guest_opened++;
}

/* One byte in the middle of some long answers is urgent; @n bytes up to @a->out_at were just written. */
static void mark_urgent(struct sim *s, struct tcb *t, const struct app *a, uint32_t n)
{
	uint32_t at = a->out_len / 2;
	struct wire *w = &s->w[t->peer - 100u];

	if (a->op != OP_DOWNLOAD || !(a->arg & 1) || a->out_at <= at || a->out_at - n > at)
		return;
	t->urg_on = true;
	t->urg = t->end - (a->out_at - (at + 1));
	for (unsigned int i = 0; i < w->n_urg; i++)
		if (w->urg[i] == t->urg - t->iss - 1)
			return;
	if (w->n_urg < SIM_URGENT)
		w->urg[w->n_urg++] = t->urg - t->iss - 1;
}

/* One connection's application: reads requests, writes answers, as far as buffers allow. */
static void app_step(struct sim *s, struct host *h, struct gcore *c, struct gconn *g)
{
	struct tcb *t = &g->t;
	struct app *a = &g->a;
	uint8_t b, buf[64], entropy[RAND_LEN];
	uint32_t n, limit = 1 + rnd(s, 600);

	/* Who has closed one's own side still takes what comes. */
	if (t->fin_queued && t->state == T_ESTAB)
		tcp_read(t, buf, sizeof(buf));
	if (s->lazy && !a->busy && (tcp_readable(t) || t->fin_rcvd) && chance(s, 8000)) {
		node_kick_guest(s, h->node, s->now + us(s, 1000, 60000));
		return;
	}
	if ((t->state != T_ESTAB && !(t->state == T_SYN_RCVD && t->tfo)) || t->fin_queued)
		return;
	while (limit) {
		if (a->busy) {
			for (n = 0; n < sizeof(buf) && a->out_at + n < a->out_len; n++)
				buf[n] = app_out(a, a->out_at + n);
			n = tcp_write(t, buf, n);
			a->out_at += n;
			mark_urgent(s, t, a, n);
			if (a->out_at < a->out_len) {
				if (!n)
					return;
				continue;
			}
			a->busy = false;
			if (a->abort) {
				s->st->resets_by_guest++;
				tcp_abort(h, t);
				return;
			}
			if (a->quit) {
				t->fin_queued = true;
				return;
			}
		}
		if (!tcp_read(t, &b, 1))
			break;
		limit--;
		app_feed(a, b);
		if (a->n_hdr < 4 || a->need)
			continue;
		for (int i = 0; i < RAND_LEN; i += 4) {
			uint32_t r = (uint32_t)(sim_rand(s) >> 32);

			memcpy(entropy + i, &r, 4);
		}
		if (app_finish(a, &c->counter, entropy))
			guest_open(s, h, c, a->arg, a->hdr[3] & 1);
	}
	if (t->fin_rcvd && !tcp_readable(t) && !a->busy)
		t->fin_queued = true;
}

/* Of a client that has given up: an old SYN that is replayed opens nothing that anybody translates. */
static bool stray(struct sim *s, const struct seg *g)
{
	const struct client *c = &s->cl[g->src >= 100 && g->src < 100 + SIM_CLIENTS ? g->src - 100 : 0];

	return c->done || c->t.state == T_CLOSED;
}

void guest_input(struct sim *s, int node, struct pkt *p)
{
	struct node *nd = &s->node[node];
	struct host h = host_of(s, node);
	struct gcore *c = &nd->g.core;
	struct gconn *g, *old;
	struct seg seg;
	const char *bad;
	struct view v;

	frame_look(p, &v);
	if (v.proto != 6) {
		dgram_guest(s, node, p, &v);
		return;
	}
	if (!frame_parse_tcp(p, &seg, &bad)) {
		if (bad)
			sim_fail(s, "P6", "node %d gave its guest a frame with %s: %s", node, bad, frame_text(p));
		return;
	}
	g = old = guest_conn(c, seg.src, seg.sport, seg.dport);
	if (g && g->t.state == T_CLOSED)
		g = NULL;
	/* A client that comes again on the same ports. */
	if (g && g->t.state == T_LINGER && (seg.flags & (TF_SYN | TF_ACK)) == TF_SYN && SEQ_GT(seg.seq, g->t.rcv_nxt)) {
		s->st->reused++;
		g = NULL;
	}
	if (!g && seg.src >= SIM_SPOOFED) {
		tcp_cookie(&h, &seg);
		return;
	}
	if (!g) {
		if ((seg.flags & (TF_SYN | TF_ACK)) == TF_SYN && seg.dport == SIM_GUEST_PORT) {
			g = old ? old : conn_new(c);
			if (!g)
				return;
			memset(&g->a, 0, sizeof(g->a));
			g->active = 0;
			tcp_open(&h, &g->t, &(struct opening){ .path = &seg.path, .syn = &seg, .lport = seg.dport,
								.peer = seg.src, .rport = seg.sport,
								.above = old ? old->t.max : 0 });
		} else {
			tcp_refuse(&h, &seg);
		}
		node_kick_guest(s, node, s->now + us(s, 1, s->guest_delay[node]));
		return;
	}
	if (!path_same(&g->t.path, &seg.path))
		sim_fail(s, "P6", "node %d gives its guest a segment with other tags, or by another NIC: %s", node, frame_text(p));
	/*
	 * An echoed timestamp that this guest can never have sent was not translated. A storm may cost the translation
	 * of a connection that this copy has not established yet.
	 */
	if (s->storm_sent && g->t.state == T_SYN_RCVD) {
		s->st->storm_untranslated += g->t.ts && seg.has_ts && SEQ_LT(seg.tsecr, g->t.ts_first - 30000);
	} else if (g->t.ts && seg.has_ts && seg.flags & TF_ACK && seg.tsecr && g->t.state != T_SYN_SENT &&
	    !stray(s, &seg) && SEQ_GE(seg.seq, g->t.irs) &&
	    /* Not of a connection that this one has replaced, because the client's SYN came once more. */
	    SEQ_GT(seg.ack, g->t.iss) && SEQ_LE(seg.ack, g->t.max)) {
		uint32_t own = (uint32_t)(h.now / NS_PER_MS) + g->t.ts_off;

		if (SEQ_LT(seg.tsecr, g->t.ts_first - 30000) || SEQ_GT(seg.tsecr, own + 120000))
			sim_fail(s, "P6", "guest %d gets the echo of a timestamp that it never sent: %u, its own are %u to %u",
				 node, seg.tsecr, g->t.ts_first, own);
	}
	tcp_input(&h, &g->t, &seg);
	if (g->t.want_ack && chance(s, 4000))
		tcp_output(&h, &g->t);
	node_kick_guest(s, node, s->now + us(s, 1, s->guest_delay[node]));
}

void guest_run(struct sim *s, int node)
{
	struct node *nd = &s->node[node];
	struct gcore *c = &nd->g.core;
	struct host h = host_of(s, node);
	int first = (int)rnd(s, SIM_GCONNS);

	if (!nd->g.valid)
		sim_fail(s, "P3", "node %d runs a VM without a state", node);
	if (guest_sum(&nd->g) != c->sum)
		sim_fail(s, "P3", "the memory of node %d's VM is not that of its device state", node);
	if (chance(s, 3000))
		page_write(s, &nd->g);
	if (s->disks && chance(s, 3000))
		disk_write(s, nd);
	if (c->late.n && chance(s, 5000))
		dgram_late(s, node);
	else if (c->late.n)
		node_kick_guest(s, node, s->now + us(s, 1, 20000));
	for (int k = 0; k < SIM_GCONNS; k++) {
		struct gconn *g = &c->c[(first + k) % SIM_GCONNS];

		if (g->t.state == T_CLOSED)
			continue;
		if (chance(s, 2000)) {
			node_kick_guest(s, node, s->now + us(s, 1, s->guest_delay[node]));
			continue;
		}
		tcp_timers(&h, &g->t);
		app_step(s, &h, c, g);
		tcp_output(&h, &g->t);
		if (g->a.busy && tcp_room(&g->t) > 1)
			node_kick_guest(s, node, s->now + us(s, 1, s->guest_delay[node]));
		else if (tcp_readable(&g->t) && !g->a.busy && !g->t.fin_queued)
			node_kick_guest(s, node, s->now + us(s, 1, s->lazy ? 60000 : s->guest_delay[node]));
	}
}

/* When the guest wants to run though nothing has come, on its own clock. */
nstime guest_deadline(struct sim *s, int node)
{
	struct gcore *c = &s->node[node].g.core;
	nstime at = NS_NEVER, t;

	for (int i = 0; i < SIM_GCONNS; i++) {
		t = tcp_deadline(&c->c[i].t);
		if (t < at)
			at = t;
	}
	return at;
}
