/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Datagrams: theory of operation
 *
 * Up to four flows of UDP, ICMP echo or a protocol without ports, over both IP versions and with tags, ask the guest
 * for something each now and then, without repetition. An answer is a function of the request or, in part, random; a
 * long one is sent in two or three parts, now and then with other frames between them, or some time later, or without
 * one of them. ARP and neighbour discovery are answered beside that.
 *
 * What is let out must be, byte for byte, what the guest of that very node has sent while it was not the secondary
 * (so nothing of an SVM is sent again at promotion), each frame once, whole answers of a flow in their order; and the
 * state that would take over must have given that answer, too (P1). In a schedule without loss and failure each
 * request is answered.
 */
#include "sim_frame.h"

enum { DG_ADDR = 150, DG_PORT = 5000, DG_HEAD = 8, DG_WAIT_MS = 2500, PROTO_OTHER = 253, KIND_DET = 1, KIND_RANDOM = 2 };
enum { NO_FLOW = SIM_DGFLOWS };

static uint64_t blend(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 31;
}

static uint64_t hash_of(const struct pkt *p)
{
	uint64_t h = p->len, v;
	uint32_t i;

	for (i = 0; i + 8 <= p->len; i += 8) {
		memcpy(&v, p->data + i, 8);
		h = blend(h, v);
	}
	for (; i < p->len; i++)
		h = blend(h, p->data[i]);
	return h;
}

static uint8_t flow_addr(unsigned int k)
{
	return (uint8_t)(DG_ADDR + k / 2);
}

void dgram_draw(struct sim *s)
{
	for (unsigned int k = 0; k < SIM_DGFLOWS; k++) {
		uint32_t kind = rnd(s, 3);

		if (k & 1)
			s->dg_path[k] = s->dg_path[k - 1];
		else
			draw_path(s, &s->dg_path[k]);
		/* Without ports there is one flow between two addresses. */
		s->dg_proto[k] = kind == 0 || (kind == 2 && k & 1) ? 17 : kind == 2 ? PROTO_OTHER :
				 s->dg_path[k].v6 ? 58 : 1;
	}
	s->datagrams = chance(s, 6000) ? 0 : 1 + rnd(s, chance(s, 5000) ? 4 : SIM_DGMAX);
	if (s->datagrams)
		sim_at(s, us(s, 20000, 150000), EV_DATAGRAM, 0, 0, 0, NULL);
}

static uint32_t head_of(uint8_t proto)
{
	return proto == PROTO_OTHER ? 0 : 8;
}

static void transport(uint8_t *l4, uint8_t proto, unsigned int flow, bool reply, uint32_t n)
{
	memset(l4, 0, head_of(proto));
	if (proto == 17) {
		put16(l4, reply ? SIM_UDP_PORT : DG_PORT + flow);
		put16(l4 + 2, reply ? DG_PORT + flow : SIM_UDP_PORT);
		put16(l4 + 4, 8 + n);
	} else if (proto == 1 || proto == 58) {
		l4[0] = proto == 1 ? (reply ? 0 : 8) : (reply ? 129 : 128);
		put16(l4 + 4, 77 + flow);
	}
}

void dgram_send(struct sim *s)
{
	uint32_t id = s->datagrams_sent, len, n;
	unsigned int k = rnd(s, SIM_DGFLOWS);
	uint8_t l4[FRAME_DATAGRAM] = { 0 }, *d, proto = s->dg_proto[k];
	bool echo = proto == 1 || proto == 58;
	struct pkt *p[FRAME_PARTS];

	if (chance(s, 2500))
		ext_to_guest(s, frame_neighbour(s, &s->dg_path[k], flow_addr(k), guest_addr(&s->dg_path[k]), false));
	/* What is asked may come in parts as well. */
	n = DG_HEAD + (echo || !chance(s, 1500) ? 0 : rnd(s, FRAME_DATAGRAM - 20));
	transport(l4, proto, k, false, n);
	d = l4 + head_of(proto);
	len = DG_HEAD + rnd(s, chance(s, 5000) ? 40 : FRAME_DATAGRAM - 16);
	put16(d, id);
	d[2] = s->deterministic || chance(s, 6000) ? KIND_DET : KIND_RANDOM;
	put16(d + 4, len);
	if (echo)
		put16(l4 + 6, id);
	if (d[2] == KIND_RANDOM)
		s->divergences++;
	n = frame_datagram(s, &s->dg_path[k], flow_addr(k), guest_addr(&s->dg_path[k]), proto, l4, n + head_of(proto), p);
	s->st->dg_asked_in_parts += n > 1;
	for (uint32_t i = 0; i < n; i++)
		ext_to_guest(s, p[i]);
	s->dg_sent_at = s->now;
	s->st->dg_udp += proto == 17;
	s->st->dg_icmp += proto == 1 || proto == 58;
	s->st->dg_other += proto == PROTO_OTHER;
	s->st->dg_v6 += s->dg_path[k].v6;
	if (++s->datagrams_sent < s->datagrams)
		sim_at(s, s->now + us(s, 100, chance(s, 5000) ? 2000 : 60000), EV_DATAGRAM, 0, 0, 0, NULL);
}

/* ---- the guest ---- */

static void say(struct sim *s, int node, struct pkt *p)
{
	struct gcore *c = &s->node[node].g.core;

	/* Something else comes between the parts. */
	if (p->dg_parts > 1 && chance(s, 2000)) {
		struct gconn *g = &c->c[rnd(s, SIM_GCONNS)];
		struct host h = { .s = s, .node = node, .client = -1, .now = node_vmclock(s, node) };

		if (g->t.state == T_ESTAB) {
			g->t.want_ack = true;
			tcp_output(&h, &g->t);
		}
	}
	node_guest_out(s, node, p);
}

void dgram_late(struct sim *s, int node)
{
	struct late *l = &s->node[node].g.core.late;

	for (uint32_t i = 0; i < l->n; i++)
		node_guest_out(s, node, pkt_dup(s, &l->p[i]));
	l->n = 0;
}

static void answer(struct sim *s, int node, const struct view *q, unsigned int flow, uint32_t v, uint8_t *l4, uint32_t n)
{
	struct gcore *c = &s->node[node].g.core;
	struct pkt *part[FRAME_PARTS];
	uint32_t k = frame_datagram(s, &q->path, guest_addr(&q->path), q->src, q->proto, l4, n, part), lost = k, later = k;
	uint32_t id = get16(l4 + head_of(q->proto));

	if (s->dg_groups >= sizeof(s->dg_out) - 1)
		sim_fail(s, "harness", "too many datagrams");
	s->dg_groups++;
	c->dg_hist[c->n_dg++ % SIM_HIST] = v;
	dgram_late(s, node);
	if (k > 1 && !s->deterministic) {
		if (chance(s, 800))
			lost = rnd(s, k);
		else if (chance(s, 1500))
			later = 1 + rnd(s, k - 1);
	}
	s->st->dg_fragmented += k > 1;
	s->st->dg_part_lost += lost < k;
	s->parts_lost += lost < k || later < k;
	s->st->dg_part_late += later < k;
	for (uint32_t i = 0; i < k; i++) {
		part[i]->dg_parts = (uint8_t)k;
		part[i]->dg_flow = (uint8_t)flow;
		part[i]->dg_whole = lost == k && later == k;
		part[i]->dg_group = s->dg_groups;
		part[i]->dg_id = (uint16_t)id;
		part[i]->dg_v = v;
		if (i == lost) {
			pkt_free(s, part[i]);
		} else if (i >= later) {
			memcpy(&c->late.p[c->late.n++], part[i], offsetof(struct pkt, data) + part[i]->len);
			pkt_free(s, part[i]);
		} else {
			say(s, node, part[i]);
		}
	}
	if (c->late.n)
		node_kick_guest(s, node, s->now + us(s, 100, chance(s, 5000) ? 1000 : 20000));
}

/* Return: the beginning of what @v is the last part of; NULL: there is more to come */
static const uint8_t *join(struct sim *s, struct gcore *c, const struct view *v, const uint8_t *u)
{
	struct joined *j = NULL;
	uint8_t bit = (uint8_t)(1u << v->off / 496u % 8);

	for (int i = 0; i < SIM_DGFLOWS; i++)
		if (c->joined[i].seen && c->joined[i].id == v->id)
			j = &c->joined[i];
	for (int i = 0; i < SIM_DGFLOWS && !j; i++)
		if (!c->joined[i].seen)
			j = &c->joined[i];
	if (!j) {
		/* Parts of so many came mixed that one is given up, as by a stack that has no room for it. */
		j = &c->joined[v->id % SIM_DGFLOWS];
		j->seen = 0;
		s->parts_lost++;
	}
	if (!j->seen) {
		memset(j, 0, sizeof(*j));
		j->id = v->id;
	}
	if (j->seen & bit)
		return NULL;
	j->seen |= bit;
	j->have = (uint16_t)(j->have + v->len);
	if (!v->more)
		j->total = (uint16_t)(v->off + v->len);
	if (!v->off)
		memcpy(j->head, u, sizeof(j->head));
	if (!j->total || j->have < j->total)
		return NULL;
	j->seen = 0;
	return j->head;
}

void dgram_guest(struct sim *s, int node, const struct pkt *p, const struct view *v)
{
	const uint8_t *u = p->data + v->l4, *d;
	uint8_t l4[FRAME_DATAGRAM + 16];
	uint32_t n, len, r;

	if (v->arp) {
		if (p->data[v->l3 + 7] == 1 && p->data[v->l3 + 27] == guest_addr(&v->path))
			node_guest_out(s, node, frame_neighbour(s, &v->path, p->data[v->l3 + 27], p->data[v->l3 + 17], true));
		return;
	}
	if (v->bad)
		return;
	if (v->frag && (v->off || v->len >= 16))
		u = join(s, &s->node[node].g.core, v, u);
	if (!u)
		return;
	if (v->proto == 58 && !v->frag && v->len >= 24 && u[0] == 135) {
		if (u[23] == guest_addr(&v->path))
			node_guest_out(s, node, frame_neighbour(s, &v->path, u[23], v->src, true));
		return;
	}
	if ((!v->frag && v->len < head_of(v->proto) + DG_HEAD) || v->dst != guest_addr(&v->path) ||
	    (v->proto == 1 && u[0] != 8) || (v->proto == 58 && u[0] != 128))
		return;
	d = u + head_of(v->proto);
	for (unsigned int k = 0; k < SIM_DGFLOWS; k++) {
		bool echo = v->proto == 1 || v->proto == 58;

		if (flow_addr(k) != v->src || s->dg_proto[k] != v->proto ||
		    (v->proto == 17 && get16(u) != DG_PORT + k) || (echo && get16(u + 4) != 77 + k))
			continue;
		r = (uint32_t)(blend(get16(d), 4711) >> 20) | 1;
		if (d[2] == KIND_RANDOM && !echo)
			r = (uint32_t)(sim_rand(s) >> 32) | 1;
		len = get16(d + 4);
		if (echo)
			len = v->len - 8u;
		transport(l4, v->proto, k, true, len);
		n = head_of(v->proto);
		if (echo) {
			memcpy(l4 + 4, u + 4, 4);
			memcpy(l4 + n, d, len);
		} else {
			memcpy(l4 + n, d, 4);
			put32(l4 + n + 4, r);
			for (uint32_t i = DG_HEAD; i < len; i++)
				l4[n + i] = (uint8_t)(r >> i % 23);
		}
		answer(s, node, v, k, r, l4, n + len);
		return;
	}
}

/* ---- what is let out ---- */

/* The shell gives a frame of its guest to net. */
void dgram_given(struct sim *s, struct node *nd, const struct pkt *p)
{
	struct dgrec *r = &nd->dg[nd->n_dg % SIM_DGRECS];

	if (net_role(nd->net) == NET_SECONDARY)
		return;
	if (nd->n_dg++ >= SIM_DGRECS)
		sim_fail(s, "harness", "too many frames of datagrams");
	*r = (struct dgrec){ .hash = hash_of(p), .v = p->dg_v, .group = p->dg_group, .id = p->dg_id, .flow = p->dg_flow,
			     .parts = p->dg_parts, .nic = p->nic, .whole = p->dg_whole };
}

static struct dgrec *find(struct sim *s, struct node *nd, const struct pkt *p)
{
	struct dgrec *back = NULL, *twice = NULL;
	struct net_stats ns;
	uint64_t h = hash_of(p);

	for (uint32_t i = 0; i < nd->n_dg; i++) {
		struct dgrec *r = &nd->dg[i];

		if (r->hash != h || r->nic != p->nic)
			continue;
		if (r->out)
			twice = r;
		else if (!r->whole || r->group >= nd->dg_last[r->flow])
			return r;
		else
			back = r;
	}
	net_stats_get(nd->net, &ns);
	/* A datagram of which a piece was dropped at the limit of what is held never becomes one: its pieces have no place. */
	if (back && back->parts > 1 && ns.drop_held)
		return back;
	if (back)
		sim_fail(s, "P1", "node %s lets out answer %u of a flow of datagrams after answer %u", who(nd), back->group,
			 nd->dg_last[back->flow]);
	if (twice)
		sim_fail(s, "P1", "node %s lets out a datagram twice: %s", who(nd), frame_text(p));
	sim_fail(s, "P1", "node %s lets out a datagram that its guest has not sent since it serves: %s", who(nd),
		 frame_text(p));
}

void dgram_emission(struct sim *s, struct node *nd, const struct pkt *p, const struct view *v)
{
	struct gcore *core = check_takeover_state(s);
	struct dgrec *r;
	bool found = false;

	/* Neighbour discovery, and what the new primary announces. */
	if (v->proto == 58 && p->data[v->l4] >= 133 && p->data[v->l4] <= 137 && !v->frag)
		return;
	if (v->proto != 17 && v->proto != 1 && v->proto != 58 && v->proto != PROTO_OTHER)
		sim_fail(s, "P6", "node %s lets out a frame that nobody made: %s", who(nd), frame_text(p));
	r = find(s, nd, p);
	r->out = true;
	if (r->whole) {
		nd->dg_last[r->flow] = r->group;
		s->st->dg_order_checked++;
	}
	if (++s->dg_out[r->group] == r->parts) {
		s->st->udp_answers++;
		s->st->dg_random += r->v != ((uint32_t)(blend(r->id, 4711) >> 20) | 1);
		s->st->dg_det_answers += s->deterministic;
		s->st->dg_twice_given += s->dg_answers[r->id % SIM_DGMAX]++ > 0;
	}
	if (!core)
		return;
	s->st->p1_checked++;
	for (int i = 0; i < SIM_HIST; i++)
		found |= core->dg_hist[i] == r->v;
	if (!found)
		sim_fail(s, "P1", "an answer by datagram is let out that the state which would take over has not given: %s",
			 frame_text(p));
}

static bool wants_all(const struct sim *s)
{
	return s->loss_free && s->fail.kind == FAIL_NONE && s->datagrams;
}

/* Need the schedule not go on for them? */
bool dgram_done(struct sim *s)
{
	if (!wants_all(s))
		return true;
	if (s->datagrams_sent < s->datagrams)
		return false;
	for (uint32_t i = 0; i < s->datagrams; i++)
		if (!s->dg_answers[i] && s->now < s->dg_sent_at + DG_WAIT_MS * NS_PER_MS)
			return false;
	return true;
}

void dgram_end(struct sim *s)
{
	struct net_stats ns;
	bool excuse = !wants_all(s) || s->datagrams_sent < s->datagrams || s->purged || s->storm || s->parts_lost ||
		      !s->deterministic;

	for (int i = 0; i < NODES && !excuse; i++) {
		net_stats_get(s->node[i].net, &ns);
		excuse |= ns.gate_expired || ns.drop_pool || ns.drop_room || ns.drop_held || ns.drop_syn;
	}
	if (excuse)
		return;
	s->st->dg_all_checked++;
	for (uint32_t i = 0; i < s->datagrams; i++)
		if (!s->dg_answers[i])
			sim_fail(s, "liveness", "request %u by datagram was never answered, and nothing was lost", i);
}
