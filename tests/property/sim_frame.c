/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The codec of frames: theory of operation
 *
 * Guests and clients exchange real Ethernet frames, because core/ parses, cuts, merges and mends real ones. This is an
 * encoder and a decoder of their own, written without a look at core/packet.c: a field that core/ computes wrongly is
 * found because this file disagrees. Addresses are one byte, the last of 192.0.2.x or 2001:db8::x; the guest is 10 on
 * its first NIC and 11 on its second. Around a packet there may be one or two VLAN tags, within it a hop-by-hop header
 * or one of destination options. Frames with a wrong checksum are a violation, for nothing here corrupts any but the
 * code under test.
 */
#include <stdio.h>

#include "sim_frame.h"

enum { ETH = 14, IP4 = 20, IP6 = 40, HBH = 0, FRAGMENT = 44, ICMP6 = 58, DSTOPTS = 60, PART = 496 };

static uint32_t sum16(const uint8_t *p, uint32_t n, uint32_t sum)
{
	for (; n > 1; n -= 2, p += 2)
		sum += get16(p);
	return n ? sum + ((uint32_t)p[0] << 8) : sum;
}

static uint32_t fold(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static void mac_of(uint8_t *m, uint8_t addr)
{
	memcpy(m, "\x52\x54\x00\x00\x01\x00", 6);
	m[5] = addr;
	if (addr == 10 || addr == 11) {
		m[4] = addr == 10 ? 0 : 2;
		m[5] = 10;
	}
}

static uint32_t addr6(uint8_t *p, uint8_t addr)
{
	memset(p, 0, 16);
	memcpy(p, "\x20\x01\x0d\xb8", 4);
	p[15] = addr;
	return 16;
}

/* Of a transport that begins at @l4: the sum of addresses, length and protocol. ICMP has none. */
static uint32_t pseudo(const uint8_t *ip, uint8_t proto, uint32_t len)
{
	if (ip[0] >> 4 == 6)
		return sum16(ip + 8, 32, proto + len);
	return proto == 1 ? 0 : sum16(ip + 12, 8, proto + len);
}

static uint32_t ethernet(struct pkt *p, const struct path *pa, uint8_t src, uint8_t dst, uint16_t type)
{
	uint8_t *f = p->data;
	uint32_t at = 12;

	p->nic = pa->nic;
	mac_of(f, dst);
	mac_of(f + 6, src);
	if (pa->tags == 2) {
		at += put16(f + at, 0x88a8);
		at += put16(f + at, pa->vid[1]);
	}
	if (pa->tags) {
		at += put16(f + at, 0x8100);
		at += put16(f + at, pa->vid[0]);
	}
	at += put16(f + at, type);
	p->l3 = (uint16_t)at;
	return at;
}

static uint8_t *options(uint8_t *o, uint8_t next)
{
	memcpy(o, "\x00\x00\x01\x04\x00\x00\x00\x00", 8);
	o[0] = next;
	return o + 8;
}

uint8_t *frame_begin(struct sim *s, struct pkt *p, const struct path *pa, uint8_t src, uint8_t dst, uint8_t proto)
{
	uint8_t *ip = p->data + ethernet(p, pa, src, dst, pa->v6 ? 0x86dd : 0x0800), *o;
	bool hbh, dst_opts;

	if (!pa->v6) {
		memset(ip, 0, IP4);
		ip[0] = 0x45;
		put16(ip + 4, (uint32_t)sim_rand(s));
		ip[6] = 0x40;
		ip[8] = 64;
		ip[9] = proto;
		memcpy(ip + 12, "\xc0\x00\x02", 3);
		ip[15] = src;
		memcpy(ip + 16, "\xc0\x00\x02", 3);
		ip[19] = dst;
		p->l4 = (uint16_t)(p->l3 + IP4);
		return ip + IP4;
	}
	put32(ip, 0x60000000 | (s->labels ? rnd(s, 0x100000) : 0x12345));
	ip[7] = 64;
	addr6(ip + 8, src);
	addr6(ip + 24, dst);
	hbh = pa->ext & 1 && chance(s, 3000);
	dst_opts = pa->ext & 2 && chance(s, 3000);
	s->st->ext_headers += hbh + dst_opts;
	ip[6] = hbh ? HBH : dst_opts ? DSTOPTS : proto;
	o = ip + IP6;
	if (hbh)
		o = options(o, dst_opts ? DSTOPTS : proto);
	if (dst_opts)
		o = options(o, proto);
	p->l4 = (uint16_t)(o - p->data);
	return o;
}

static uint32_t sum_at(uint8_t proto)
{
	return proto == 6 ? 16 : proto == 17 ? 6 : proto == 1 || proto == ICMP6 ? 2 : 0;
}

static void ip_lengths(struct pkt *p, uint32_t n)
{
	uint8_t *ip = p->data + p->l3;

	p->len = (uint16_t)(p->l4 + n);
	if (ip[0] >> 4 == 6) {
		put16(ip + 4, p->len - p->l3 - IP6);
		return;
	}
	put16(ip + 2, IP4 + n);
	put16(ip + 10, 0);
	put16(ip + 10, ~fold(sum16(ip, IP4, 0)) & 0xffff);
}

static void transport_sum(const uint8_t *ip, uint8_t proto, uint8_t *l4, uint32_t n)
{
	uint32_t at = sum_at(proto), sum;

	if (!at)
		return;
	put16(l4 + at, 0);
	sum = ~fold(sum16(l4, n, pseudo(ip, proto, n))) & 0xffff;
	put16(l4 + at, proto == 17 && !sum ? 0xffff : sum);
}

static uint8_t last_proto(const struct pkt *p)
{
	const uint8_t *ip = p->data + p->l3, *o = ip + IP6;
	uint8_t next = ip[6];

	if (ip[0] >> 4 == 4)
		return ip[9];
	for (; next == HBH || next == DSTOPTS; o += 8)
		next = o[0];
	return next;
}

void frame_end(struct pkt *p, uint32_t n)
{
	ip_lengths(p, n);
	transport_sum(p->data + p->l3, last_proto(p), p->data + p->l4, n);
}

uint32_t frame_datagram(struct sim *s, const struct path *pa, uint8_t src, uint8_t dst, uint8_t proto, uint8_t *l4,
			uint32_t n, struct pkt **out)
{
	uint32_t id = (uint32_t)sim_rand(s), k = 0;
	struct path plain = *pa;
	bool frag = n > PART;

	if (frag)
		plain.ext &= 1;		/* what comes before the fragment header */
	for (uint32_t at = 0; at < n; at += PART) {
		struct pkt *p = pkt_new(s);
		uint8_t *o = frame_begin(s, p, &plain, src, dst, frag && pa->v6 ? FRAGMENT : proto), *ip = p->data + p->l3;
		uint32_t len = n - at < PART ? n - at : PART;

		if (!at)
			transport_sum(ip, proto, l4, n);
		if (frag && pa->v6) {
			o[0] = proto;
			o[1] = 0;
			put16(o + 2, at | (at + len < n));
			put32(o + 4, id);
			o += 8;
			p->l4 = (uint16_t)(p->l4 + 8);
		} else if (frag) {
			put16(ip + 4, id);
			put16(ip + 6, at / 8 | (at + len < n ? 0x2000 : 0));
		}
		memcpy(o, l4 + at, len);
		ip_lengths(p, len);
		out[k++] = p;
	}
	return k;
}

static struct pkt *arp(struct sim *s, const struct path *pa, uint8_t src, uint8_t dst, bool reply)
{
	struct pkt *p = pkt_new(s);
	uint8_t *a = p->data + ethernet(p, pa, src, dst, 0x0806);

	if (!reply)
		memset(p->data, 0xff, 6);
	memset(a, 0, 46);
	memcpy(a, "\x00\x01\x08\x00\x06\x04\x00", 7);
	a[7] = reply ? 2 : 1;
	mac_of(a + 8, src);
	memcpy(a + 14, "\xc0\x00\x02", 3);
	a[17] = src;
	if (reply)
		mac_of(a + 18, dst);
	memcpy(a + 24, "\xc0\x00\x02", 3);
	a[27] = dst;
	p->len = (uint16_t)(p->l3 + 46);
	return p;
}

struct pkt *frame_neighbour(struct sim *s, const struct path *pa, uint8_t src, uint8_t dst, bool reply)
{
	struct path plain = *pa;
	struct pkt *p;
	uint8_t *u;

	if (!pa->v6)
		return arp(s, pa, src, dst, reply);
	plain.ext = 0;
	p = pkt_new(s);
	u = frame_begin(s, p, &plain, src, dst, ICMP6);
	p->data[p->l3 + 7] = 255;
	if (!reply) {
		/* To ff02::1:ff00:dst. */
		memcpy(p->data, "\x33\x33\xff\x00\x00", 5);
		p->data[5] = dst;
		memset(p->data + p->l3 + 24, 0, 16);
		memcpy(p->data + p->l3 + 24, "\xff\x02", 2);
		p->data[p->l3 + 35] = 1;
		p->data[p->l3 + 36] = 0xff;
		p->data[p->l3 + 39] = dst;
	}
	put32(u, reply ? 0x88000000 : 0x87000000);
	put32(u + 4, reply ? 0x60000000 : 0);
	addr6(u + 8, reply ? src : dst);
	u[24] = reply ? 2 : 1;
	u[25] = 1;
	mac_of(u + 26, src);
	frame_end(p, 32);
	return p;
}

bool frame_broadcast(const struct pkt *p)
{
	return p->data[0] & 1;
}

static void look6(const struct pkt *p, struct view *v)
{
	const uint8_t *ip = p->data + v->l3;
	uint32_t at = v->l3 + IP6, end;
	uint8_t next;

	v->path.v6 = 1;
	if (p->len < at || ip[0] >> 4 != 6) {
		v->bad = "a malformed IPv6 header";
		return;
	}
	end = at + get16(ip + 4);
	if (end > p->len) {
		v->bad = "a wrong IPv6 length";
		return;
	}
	next = ip[6];
	while (next == HBH || next == DSTOPTS || next == FRAGMENT) {
		const uint8_t *o = p->data + at;
		uint32_t n;

		if (at + 8 > end) {
			v->bad = "an IPv6 header that is cut off";
			return;
		}
		n = next == FRAGMENT ? 8 : 8 + 8u * o[1];
		if (next == FRAGMENT) {
			v->off = get16(o + 2) & 0xfff8;
			v->more = o[3] & 1;
			v->frag = v->off || v->more;
			v->id = get32(o + 4);
		}
		next = o[0];
		at += n;
		if (at > end) {
			v->bad = "an IPv6 header that is too long";
			return;
		}
	}
	v->proto = next;
	v->src = ip[23];
	v->dst = ip[39];
	v->l4 = (uint16_t)at;
	v->len = (uint16_t)(end - at);
	if (memcmp(ip + 8, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0", 15) ||
	    (ip[24] != 0xff && memcmp(ip + 24, "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0", 15)))
		v->bad = "IPv6 addresses that nobody has";
}

static void look4(const struct pkt *p, struct view *v)
{
	const uint8_t *ip = p->data + v->l3;
	uint32_t total;

	if (p->len < v->l3 + IP4 || ip[0] != 0x45) {
		v->bad = "a malformed IP header";
		return;
	}
	total = get16(ip + 2);
	if (total < IP4 || total + v->l3 > p->len) {
		v->bad = "a wrong IP length";
		return;
	}
	if (fold(sum16(ip, IP4, 0)) != 0xffff) {
		v->bad = "a wrong IP checksum";
		return;
	}
	v->off = (uint16_t)((get16(ip + 6) & 0x1fff) * 8);
	v->more = ip[6] & 0x20;
	v->frag = v->off || v->more;
	v->id = get16(ip + 4);
	v->proto = ip[9];
	v->src = ip[15];
	v->dst = ip[19];
	v->l4 = (uint16_t)(v->l3 + IP4);
	v->len = (uint16_t)(total - IP4);
}

void frame_look(const struct pkt *p, struct view *v)
{
	uint32_t at = 12;
	uint16_t tag[2] = { 0, 0 };

	memset(v, 0, sizeof(*v));
	v->proto = 255;
	v->path.nic = p->nic;
	if (p->len < ETH)
		return;
	while (v->path.tags < 2 && (get16(p->data + at) == 0x8100 || get16(p->data + at) == 0x88a8) && at + 6 <= p->len) {
		tag[v->path.tags++] = (uint16_t)get16(p->data + at + 2);
		at += 4;
	}
	v->path.vid[0] = tag[v->path.tags == 2];
	v->path.vid[1] = v->path.tags == 2 ? tag[0] : 0;
	v->type = (uint16_t)get16(p->data + at);
	v->l3 = (uint16_t)(at + 2);
	if (v->type == 0x86dd)
		look6(p, v);
	else if (v->type == 0x0800)
		look4(p, v);
	else if (v->type == 0x0806 && p->len >= v->l3 + 28)
		v->arp = true;
}

bool frame_is_tcp(const struct pkt *p)
{
	struct view v;

	frame_look(p, &v);
	return v.proto == 6;
}

bool frame_parse_tcp(const struct pkt *p, struct seg *g, const char **bad)
{
	const uint8_t *t, *o;
	struct view v;
	uint32_t off;

	memset(g, 0, offsetof(struct seg, sack));
	g->ws = -1;
	frame_look(p, &v);
	*bad = v.bad ? v.bad : v.frag ? "a part of a TCP segment" : v.len < 20 ? "a TCP header that is cut off" : NULL;
	if (*bad)
		return false;
	t = p->data + v.l4;
	if (fold(sum16(t, v.len, pseudo(p->data + v.l3, 6, v.len))) != 0xffff) {
		*bad = "a wrong TCP checksum";
		return false;
	}
	g->path = v.path;
	g->src = v.src;
	g->dst = v.dst;
	g->sport = (uint16_t)get16(t);
	g->dport = (uint16_t)get16(t + 2);
	g->seq = get32(t + 4);
	g->ack = get32(t + 8);
	off = (t[12] >> 4) * 4u;
	g->flags = t[13] & 0x3f;
	g->win = get16(t + 14);
	g->urg = (uint16_t)get16(t + 18);
	if (off < 20 || off > v.len) {
		*bad = "a wrong TCP data offset";
		return false;
	}
	g->len = (uint16_t)(v.len - off);
	g->data = t + off;
	for (o = t + 20; o < t + off;) {
		if (o[0] == 0)
			break;
		if (o[0] == 1) {
			o++;
			continue;
		}
		if (o + 1 >= t + off || o[1] < 2 || o + o[1] > t + off) {
			*bad = "malformed TCP options";
			return false;
		}
		if (o[0] == 2 && o[1] == 4)
			g->mss = (uint16_t)get16(o + 2);
		else if (o[0] == 3 && o[1] == 3)
			g->ws = o[2];
		else if (o[0] == 4)
			g->sack_ok = true;
		else if (o[0] == 8 && o[1] == 10) {
			g->has_ts = true;
			g->tsval = get32(o + 2);
			g->tsecr = get32(o + 6);
		} else if (o[0] == 5) {
			for (int i = 2; i + 8 <= o[1] && g->n_sack < 4; i += 8) {
				g->sack[g->n_sack].s = get32(o + i);
				g->sack[g->n_sack++].e = get32(o + i + 4);
			}
		}
		o += o[1];
	}
	return true;
}

const char *frame_text(const struct pkt *p)
{
	static char buf[400];
	struct view v;
	struct seg g;
	const char *bad;
	int n = 0;

	frame_look(p, &v);
	if (v.path.nic)
		n += snprintf(buf + n, sizeof(buf) - (size_t)n, "nic %u ", v.path.nic);
	if (v.path.tags)
		n += snprintf(buf + n, sizeof(buf) - (size_t)n, "vlan %u.%u ", v.path.vid[1], v.path.vid[0]);
	if (v.path.v6)
		n += snprintf(buf + n, sizeof(buf) - (size_t)n, "v6 ");
	if (v.arp) {
		snprintf(buf + n, sizeof(buf) - (size_t)n, "ARP %s %u asks %u", p->data[v.l3 + 7] == 2 ? "answer" : "request",
			 p->data[v.l3 + 17], p->data[v.l3 + 27]);
		return buf;
	}
	if (v.proto != 6 || v.bad) {
		n += snprintf(buf + n, sizeof(buf) - (size_t)n, "type %04x proto %u %u>%u %u bytes%s%s", v.type, v.proto, v.src,
			      v.dst, v.len, v.bad ? " with " : "", v.bad ? v.bad : "");
		if (v.frag)
			n += snprintf(buf + n, sizeof(buf) - (size_t)n, " part at %u%s", v.off, v.more ? "+" : "");
		return buf;
	}
	if (!frame_parse_tcp(p, &g, &bad)) {
		snprintf(buf + n, sizeof(buf) - (size_t)n, "TCP with %s", bad);
		return buf;
	}
	n += snprintf(buf + n, sizeof(buf) - (size_t)n, "%u:%u>%u:%u %s%s%s%s%s%s seq %u+%u ack %u win %u", g.src, g.sport,
		      g.dst, g.dport, g.flags & TF_SYN ? "S" : "", g.flags & TF_FIN ? "F" : "", g.flags & TF_RST ? "R" : "",
		      g.flags & TF_PSH ? "P" : "", g.flags & TF_ACK ? "." : "", g.flags & TF_URG ? "U" : "", g.seq, g.len,
		      g.ack, g.win);
	if (g.has_ts)
		n += snprintf(buf + n, sizeof(buf) - (size_t)n, " ts %u %u", g.tsval, g.tsecr);
	for (unsigned int i = 0; i < g.n_sack; i++)
		n += snprintf(buf + n, sizeof(buf) - (size_t)n, " sack %u-%u", g.sack[i].s, g.sack[i].e);
	return buf;
}
