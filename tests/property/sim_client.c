/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The clients: each one connection and a script of requests, some pipelined. A client knows what the application
 * must answer, for it runs the same state machine beside it; of what is free (random bytes, the shared counter) it
 * knows what may come: L gives the last random bytes again, no value of the counter comes twice. A reset, an answer
 * too many or too few, a wrong byte are violations, and so is a script that never ends (sim_check.c).
 *
 * Datagrams (UDP, ICMP, ARP) are sent beside that, without repetition.
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
		if (!c->refused_port && !c->done)
			sim_fail(s, "P6", "client %d: its connection was reset", i);
		c->done = true;
		return;
	}
	if (t->state == T_ESTAB && c->refused_port)
		sim_fail(s, "P1", "client %d: connected to a closed port", i);
	tcp_timers(&h, t);
	if (t->state == T_ESTAB || t->state == T_LINGER) {
		while (tcp_read(t, &b, 1))
			answer_byte(s, i, b);
		/* Q is answered by the guest's FIN. */
		if (c->answered < c->n_req && c->script[c->answered].op == OP_QUIT && c->sent > c->answered && t->fin_rcvd) {
			if (c->rx_begun)
				sim_fail(s, "P1", "client %d: closed within an answer", i);
			c->answered = c->n_req;
		}
		if (t->fin_rcvd && c->answered < c->n_req && !tcp_readable(t))
			sim_fail(s, "P1", "client %d: the guest has closed after answer %u of %u", i, c->answered, c->n_req);
	}
	if (t->state == T_ESTAB) {
		if (c->will_abort && c->answered >= c->abort_after) {
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
				if (c->sent == c->n_req && c->half_close)
					t->fin_queued = true;
			}
		}
		if (c->answered >= c->n_req)
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
	if (t->state == T_LINGER || (t->state == T_CLOSED && c->opened)) {
		if (c->answered < c->n_req && !c->done)
			sim_fail(s, "P1", "client %d: closed after answer %u of %u", i, c->answered, c->n_req);
		c->done = true;
	}
	arm(s, i, tcp_deadline(t));
}

void client_event(struct sim *s, int i)
{
	struct client *c = &s->cl[i];
	struct host h = host_of(s, i);

	if (!c->opened) {
		if (c->passive || s->now < c->start)
			return;
		c->opened = true;
		tcp_open(&h, &c->t, false, NULL, c->port, 10, c->gport);
		arm(s, i, tcp_deadline(&c->t));
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
	uint8_t proto = frame_proto(p);

	if (proto == 17) {
		s->udp_got++;
		s->st->udp_answers++;
		return;
	}
	if (proto != 6)
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
			tcp_open(&h, &c->t, true, &g, c->port, 10, g.sport);
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

		if (c->used && !c->done && (c->opened || c->expected || !c->passive))
			return false;
	}
	return true;
}

void client_datagram(struct sim *s)
{
	uint32_t id = ++s->datagrams_sent;
	uint8_t d[40] = { (uint8_t)id, (uint8_t)(id >> 8), 7, 9 };
	int kind = s->deterministic ? 2 : (int)rnd(s, 3);

	if (kind == 0) {
		s->udp_asked++;
		s->divergences++;
		ext_to_guest(s, frame_udp(s, 150, 10, 5000, SIM_UDP_PORT, d, 4));
	} else if (kind == 1) {
		s->divergences++;
		ext_to_guest(s, frame_icmp_echo(s, 150, 10, false, d, 36));
	} else {
		ext_to_guest(s, frame_arp(s, 150, 10, false));
	}
	if (s->datagrams_sent < s->datagrams)
		sim_at(s, s->now + us(s, 1000, 60000), EV_DATAGRAM, 0, 0, 0, NULL);
}
