/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The clients: each one connection and a script of requests, some pipelined. A client knows what the application
 * must answer, for it runs the same state machine beside it; of what is free (random bytes, the shared counter) it
 * knows what may come: L gives the last random bytes again, no value of the counter comes twice. A reset, an answer
 * too many or too few, a wrong byte are violations, and so is a script that never ends (sim_check.c).
 *
 * Some clients send their first request with the SYN, some open their ports again soon after they have closed.
 */
#include "sim.h"

static struct host host_of(struct sim *s, int i)
{
	return (struct host){ .s = s, .node = -1, .client = i, .addr = s->cl[i].addr, .now = s->now };
}

static uint8_t req_byte(const struct sim *s, int client, unsigned int r, uint32_t at)
{
	const struct req *q = &s->cl[client].script[r];

	switch (at) {
	case 0: return q->op;
	case 1: return q->arg;
	case 2: return (uint8_t)(q->len >> 8);
	case 3: return (uint8_t)q->len;
	}
	return (uint8_t)(((s->seed ^ (uint64_t)(client * 64 + (int)r)) * 0x9e3779b97f4a7c15ull + at * 0x85ebca6bull) >> 17);
}

static uint32_t req_len(const struct req *q)
{
	return 4u + (q->op == OP_ECHO || q->op == OP_UPLOAD ? q->len : 0);
}

static void arm(struct sim *s, int i, nstime at)
{
	struct client *c = &s->cl[i];

	if (c->reopen_at && c->reopen_at < at)
		at = c->reopen_at;
	if (c->read_at > s->now && c->read_at < at)
		at = c->read_at;
	if (c->probe_at > s->now && c->probe_at < at)
		at = c->probe_at;
	if (c->close_at > s->now && c->close_at < at)
		at = c->close_at;
	if (at < s->now)
		at = s->now;
	if (at == NS_NEVER || (c->ev_at > s->now && c->ev_at <= at))
		return;
	c->ev_at = at;
	sim_at(s, at, EV_CLIENT, 0, (uint16_t)i, 0, NULL);
}

static void answer_byte(struct sim *s, int i, uint8_t b)
{
	static const uint8_t none[RAND_LEN];
	struct client *c = &s->cl[i];
	struct app *m = &c->model;
	uint32_t dummy = 0;

	if (!c->rx_begun) {
		/* The model takes the request when its answer begins. */
		if (c->answered >= c->sent)
			sim_fail(s, "P1", "client %d gets an answer that nobody asked for", i);
		for (uint32_t k = 0; k < req_len(&c->script[c->answered]); k++)
			app_feed(m, req_byte(s, i, c->answered, k));
		app_finish(m, &dummy, none);
		c->rx_begun = true;
		c->rx_at = 0;
	}
	if (m->op == OP_RANDOM || m->op == OP_COUNT) {
		c->rbuf[c->rx_at] = b;
	} else if (m->op == OP_LAST) {
		if (b != c->last[c->rx_at])
			sim_fail(s, "P1", "client %d: the last random bytes are not those that it was given (answer %u)", i,
				 c->answered);
	} else if (b != app_out(m, c->rx_at)) {
		sim_fail(s, "P1", "client %d: wrong byte %u in answer %u (%c)", i, c->rx_at, c->answered, m->op);
	}
	if (++c->rx_at < m->out_len)
		return;
	if (m->op == OP_RANDOM) {
		memcpy(c->last, c->rbuf, RAND_LEN);
		c->n_random++;
	} else if (m->op == OP_LAST) {
		s->st->random_last++;
	} else if (m->op == OP_UPLOAD) {
		s->st->uploads++;
	} else if (m->op == OP_OPEN) {
		s->cl[m->arg].expected = true;
	} else if (m->op == OP_COUNT) {
		uint32_t v = (uint32_t)c->rbuf[0] | (uint32_t)c->rbuf[1] << 8 | (uint32_t)c->rbuf[2] << 16;

		if (!v || v >= sizeof(s->counter_seen))
			sim_fail(s, "P1", "client %d: the counter is %u", i, v);
		if (s->counter_seen[v]++)
			sim_fail(s, "P1", "client %d: the counter's value %u was given twice", i, v);
	}
	m->busy = false;
	c->rx_begun = false;
	c->answered++;
	s->st->transactions++;
	c->next_at = s->now + c->script[c->answered < c->n_req ? c->answered : 0].think * NS_PER_US;
	TR(s, "C%d      answer %u of %u is complete", i, c->answered, c->n_req);
}

static void client_work(struct sim *s, int i)
{
	struct client *c = &s->cl[i];
	struct host h = host_of(s, i);
	struct tcb *t = &c->t;
	uint8_t b;

	if (t->reset) {
		if (!c->refused_port && !c->done && !c->reset_asked)
			sim_fail(s, "P6", "client %d: its connection was reset", i);
		c->done = true;
		return;
	}
	if (t->state == T_ESTAB && c->refused_port)
		sim_fail(s, "P1", "client %d: connected to a closed port", i);
	tcp_timers(&h, t);
	if (t->state == T_ESTAB || t->state == T_LINGER) {
		if (s->now >= c->read_at) {
			if (c->slow && tcp_readable(t))
				c->read_at = s->now + us(s, 1000, 150000);
			while (tcp_read(t, &b, 1))
				answer_byte(s, i, b);
		}
		/* Q is answered by the guest's FIN. */
		if (c->answered < c->n_req && c->script[c->answered].op == OP_QUIT && c->sent > c->answered && t->fin_rcvd &&
		    !tcp_readable(t)) {
			if (c->rx_begun)
				sim_fail(s, "P1", "client %d: closed within an answer", i);
			c->answered = c->n_req;
		}
		if (t->fin_rcvd && c->answered < c->n_req && !tcp_readable(t))
			sim_fail(s, "P1", "client %d: the guest has closed after answer %u of %u", i, c->answered, c->n_req);
	}
	if (t->state == T_ESTAB) {
		if (c->will_abort && c->answered >= c->abort_after) {
			s->st->resets_by_client++;
			tcp_abort(&h, t);
			c->done = true;
			return;
		}
		while (c->sent < c->n_req && c->sent < c->answered + c->depth && c->next_at <= s->now && !t->fin_queued) {
			uint32_t len = req_len(&c->script[c->sent]);
			uint8_t buf[64];
			uint32_t n;

			for (n = 0; n < sizeof(buf) && c->tx_at + n < len; n++)
				buf[n] = req_byte(s, i, c->sent, c->tx_at + n);
			n = tcp_write(t, buf, n);
			if (!n)
				break;
			c->tx_at += n;
			if (c->tx_at == len) {
				c->tx_at = 0;
				c->sent++;
				c->reset_asked |= c->script[c->sent - 1].op == OP_RESET;
				if (c->sent == c->n_req && c->half_close)
					c->close_at = s->now + (c->script[c->sent - 1].op == OP_QUIT ? us(s, 0, 6000) : 0);
			}
		}
		if (c->answered >= c->n_req && t->fin_rcvd && c->extra && !t->fin_queued) {
			uint8_t more[64] = { 0 };
			uint32_t n = tcp_write(t, more, c->extra < sizeof(more) ? c->extra : sizeof(more));

			s->st->guest_half_closes += n && c->extra <= n;
			c->extra -= n;
			arm(s, i, s->now + us(s, 100, 2000));
		}
		/* Nothing else would tell it that the reset was lost. */
		if (c->reset_asked && t->una == t->max && s->now >= c->probe_at) {
			t->want_ack |= c->probe_at != 0;
			c->probe_at = s->now + NS_PER_S;
		}
		if (c->close_at && s->now >= c->close_at)
			t->fin_queued = true;
		if (c->answered >= c->n_req && (!c->extra || !t->fin_rcvd || c->script[c->n_req - 1].op != OP_QUIT))
			t->fin_queued = true;
		tcp_output(&h, t);
		if (c->sent < c->n_req && c->sent < c->answered + c->depth && c->next_at > s->now)
			arm(s, i, c->next_at);
	} else {
		tcp_output(&h, t);
	}
	if (t->state == T_ESTAB && t->fin_acked && t->fin_rcvd) {
		t->state = T_LINGER;
		t->kill_at = s->now + 60 * NS_PER_S;
	}
	if ((t->state == T_LINGER && !tcp_readable(t)) || (t->state == T_CLOSED && c->opened)) {
		if (c->answered < c->n_req && !c->done && !c->reset_asked)
			sim_fail(s, "P1", "client %d: closed after answer %u of %u", i, c->answered, c->n_req);
		if (!c->done && c->again && !c->reopened && !c->reset_asked)
			c->reopen_at = s->now + us(s, 100, 30000);
		c->done = true;
	}
	arm(s, i, tcp_deadline(t));
}

/* @above: not 0: the same ports again, with numbers after this one */
static void client_open(struct sim *s, int i, uint32_t above)
{
	struct client *c = &s->cl[i];
	struct host h = host_of(s, i);
	struct opening o = { .path = &c->path, .lport = c->port, .peer = guest_addr(&c->path), .rport = c->gport,
			     .above = above };
	uint8_t buf[48];
	uint32_t len = req_len(&c->script[0]);

	c->opened = true;
	if (c->tfo && c->script[0].op != OP_RESET) {
		/* The first request, or its beginning, goes with the SYN. */
		o.data = buf;
		for (o.n_data = 0; o.n_data < sizeof(buf) && o.n_data < len; o.n_data++)
			buf[o.n_data] = req_byte(s, i, 0, o.n_data);
		c->tx_at = o.n_data;
		if (c->tx_at == len) {
			c->tx_at = 0;
			c->sent = 1;
		}
	}
	tcp_open(&h, &c->t, &o);
	arm(s, i, tcp_deadline(&c->t));
}

/* The connection is closed, the guest may linger in it: the same ports once more. */
static void client_reopen(struct sim *s, int i)
{
	struct client *c = &s->cl[i];
	uint32_t above = c->t.max;

	TR(s, "C%d      opens its port again", i);
	c->reopen_at = 0;
	c->reopened = true;
	c->done = c->rx_begun = c->reset_asked = false;
	c->sent = c->answered = c->tx_at = c->rx_at = c->n_random = 0;
	c->next_at = c->read_at = c->close_at = c->probe_at = 0;
	memset(&c->model, 0, sizeof(c->model));
	memset(c->last, 0, sizeof(c->last));
	check_forget(s, i);
	run_script(s, i);
	client_open(s, i, above);
}

void client_event(struct sim *s, int i)
{
	struct client *c = &s->cl[i];

	if (!c->opened) {
		if (!c->passive && s->now >= c->start)
			client_open(s, i, 0);
		return;
	}
	if (c->reopen_at && s->now >= c->reopen_at) {
		client_reopen(s, i);
		return;
	}
	if (c->t.state == T_CLOSED && !c->t.reset)
		return;
	client_work(s, i);
}

void client_input(struct sim *s, struct pkt *p)
{
	struct seg g;
	const char *bad;

	if (!frame_is_tcp(p))
		return;
	if (!frame_parse_tcp(p, &g, &bad))
		sim_fail(s, "P6", "a client gets a frame with %s", bad);
	for (int i = 0; i < SIM_CLIENTS; i++) {
		struct client *c = &s->cl[i];
		struct host h = host_of(s, i);

		if (!c->used || c->addr != g.dst || c->port != g.dport)
			continue;
		TR(s, "C%d   <  %s", i, frame_text(p));
		if (!c->opened) {
			if (!c->passive || (g.flags & (TF_SYN | TF_ACK)) != TF_SYN)
				return;
			c->opened = true;
			c->gport = g.sport;
			tcp_open(&h, &c->t, &(struct opening){ .path = &c->path, .syn = &g, .lport = c->port,
								.peer = guest_addr(&c->path), .rport = g.sport });
		} else if (c->gport != g.sport || c->t.state == T_CLOSED) {
			if (!c->done || c->will_abort)
				tcp_refuse(&h, &g);
			return;
		} else {
			tcp_input(&h, &c->t, &g);
		}
		client_work(s, i);
		return;
	}
}

bool clients_done(struct sim *s)
{
	for (int i = 0; i < SIM_CLIENTS; i++) {
		struct client *c = &s->cl[i];

		if (c->used && c->reopen_at && !c->excused)
			return false;
		if (c->used && !c->done && (c->opened || c->expected || !c->passive))
			return false;
	}
	return true;
}
