/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The codec of frames: theory of operation
 *
 * Guests and clients exchange real Ethernet frames, because core/ parses, cuts, merges and mends real ones. This is an
 * encoder and a decoder of their own, written without a look at core/packet.c: a field that core/ computes wrongly is
 * found because this file disagrees. Addresses are one byte, the last of 192.0.2.x; the guest is 10. Frames with a
 * wrong checksum are a violation, for nothing here corrupts any but the code under test.
 */
#include <stdio.h>

#include "sim_frame.h"

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
	memcpy(m, addr == 10 ? "\x52\x54\x00\x00\x00\x0a" : "\x52\x54\x00\x00\x01\x00", 6);
	if (addr != 10)
		m[5] = addr;
}

void frame_ip(uint8_t *f, uint8_t src, uint8_t dst, uint8_t proto, uint32_t len, uint16_t id)
{
	uint8_t *ip = f + ETH;

	mac_of(f, dst);
	mac_of(f + 6, src);
	put16(f + 12, 0x0800);
	memset(ip, 0, IP4);
	ip[0] = 0x45;
	put16(ip + 2, IP4 + len);
	put16(ip + 4, id);
	ip[6] = 0x40;
	ip[8] = 64;
	ip[9] = proto;
	memcpy(ip + 12, "\xc0\x00\x02", 3);
	ip[15] = src;
	memcpy(ip + 16, "\xc0\x00\x02", 3);
	ip[19] = dst;
	put16(ip + 10, ~fold(sum16(ip, IP4, 0)) & 0xffff);
}

static uint32_t pseudo(const uint8_t *ip, uint32_t len)
{
	return sum16(ip + 12, 8, ip[9] + len);
}

uint32_t frame_l4_sum(const uint8_t *ip, const uint8_t *l4, uint32_t n)
{
	return ~fold(sum16(l4, n, pseudo(ip, n))) & 0xffff;
}

uint8_t frame_proto(const struct pkt *p)
{
	if (p->len >= ETH + 28 && get16(p->data + 12) == 0x0806)
		return 0;
	if (p->len >= ETH + IP4 && get16(p->data + 12) == 0x0800)
		return p->data[ETH + 9];
	return 255;
}

bool frame_broadcast(const struct pkt *p)
{
	return p->data[0] & 1;
}

struct pkt *frame_udp(struct sim *s, uint8_t src, uint8_t dst, uint16_t sport, uint16_t dport, const void *d,
		      uint16_t n)
{
	struct pkt *p = pkt_new(s);
	uint8_t *u = p->data + ETH + IP4;

	frame_ip(p->data, src, dst, 17, 8u + n, (uint16_t)sim_rand(s));
	put16(u, sport);
	put16(u + 2, dport);
	put16(u + 4, 8u + n);
	put16(u + 6, 0);
	memcpy(u + 8, d, n);
	put16(u + 6, frame_l4_sum(p->data + ETH, u, 8u + n));
	p->len = (uint16_t)(ETH + IP4 + 8 + n);
	return p;
}

struct pkt *frame_icmp_echo(struct sim *s, uint8_t src, uint8_t dst, bool reply, const void *d, uint16_t n)
{
	struct pkt *p = pkt_new(s);
	uint8_t *u = p->data + ETH + IP4;

	frame_ip(p->data, src, dst, 1, 4u + n, (uint16_t)sim_rand(s));
	put32(u, reply ? 0 : 0x08000000);
	memcpy(u + 4, d, n);
	put16(u + 2, ~fold(sum16(u, 4u + n, 0)) & 0xffff);
	p->len = (uint16_t)(ETH + IP4 + 4 + n);
	return p;
}

struct pkt *frame_arp(struct sim *s, uint8_t src, uint8_t dst, bool reply)
{
	struct pkt *p = pkt_new(s);
	uint8_t *a = p->data + ETH;

	memset(p->data, 0, 60);
	if (reply)
		mac_of(p->data, dst);
	else
		memset(p->data, 0xff, 6);
	mac_of(p->data + 6, src);
	put16(p->data + 12, 0x0806);
	memcpy(a, "\x00\x01\x08\x00\x06\x04\x00", 7);
	a[7] = reply ? 2 : 1;
	mac_of(a + 8, src);
	memcpy(a + 14, "\xc0\x00\x02", 3);
	a[17] = src;
	if (reply)
		mac_of(a + 18, dst);
	memcpy(a + 24, "\xc0\x00\x02", 3);
	a[27] = dst;
	p->len = 60;
	return p;
}

bool frame_parse_tcp(const struct pkt *p, struct seg *g, const char **bad)
{
	const uint8_t *ip = p->data + ETH, *t = ip + IP4, *o;
	uint32_t total, off;

	*bad = NULL;
	memset(g, 0, offsetof(struct seg, sack));
	g->ws = -1;
	total = get16(ip + 2);
	if (p->len < ETH + IP4 + 20 || ip[0] != 0x45 || total < IP4 + 20 || total + ETH > p->len) {
		*bad = "a malformed IP header";
		return false;
	}
	if (fold(sum16(ip, IP4, 0)) != 0xffff) {
		*bad = "a wrong IP checksum";
		return false;
	}
	if (fold(sum16(t, total - IP4, pseudo(ip, total - IP4))) != 0xffff) {
		*bad = "a wrong TCP checksum";
		return false;
	}
	g->src = ip[15];
	g->dst = ip[19];
	g->sport = (uint16_t)get16(t);
	g->dport = (uint16_t)get16(t + 2);
	g->seq = get32(t + 4);
	g->ack = get32(t + 8);
	off = (t[12] >> 4) * 4u;
	g->flags = t[13] & 0x3f;
	g->win = get16(t + 14);
	if (off < 20 || off > total - IP4) {
		*bad = "a wrong TCP data offset";
		return false;
	}
	g->len = (uint16_t)(total - IP4 - off);
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
	struct seg g;
	const char *bad;
	int n;

	switch (frame_proto(p)) {
	case 0:
		snprintf(buf, sizeof(buf), "ARP %s %u asks %u", p->data[ETH + 7] == 2 ? "answer" : "request", p->data[ETH + 17],
			 p->data[ETH + 27]);
		return buf;
	case 1: case 17:
		snprintf(buf, sizeof(buf), "%s %u>%u", frame_proto(p) == 1 ? "ICMP" : "UDP", p->data[ETH + 15], p->data[ETH + 19]);
		return buf;
	case 6:
		break;
	default:
		return "frame";
	}
	if (!frame_parse_tcp(p, &g, &bad)) {
		snprintf(buf, sizeof(buf), "TCP with %s", bad);
		return buf;
	}
	n = snprintf(buf, sizeof(buf), "%u:%u>%u:%u %s%s%s%s%s seq %u+%u ack %u win %u", g.src, g.sport, g.dst, g.dport,
		     g.flags & TF_SYN ? "S" : "", g.flags & TF_FIN ? "F" : "", g.flags & TF_RST ? "R" : "",
		     g.flags & TF_PSH ? "P" : "", g.flags & TF_ACK ? "." : "", g.seq, g.len, g.ack, g.win);
	if (g.has_ts)
		n += snprintf(buf + n, sizeof(buf) - (size_t)n, " ts %u %u", g.tsval, g.tsecr);
	for (unsigned int i = 0; i < g.n_sack; i++)
		n += snprintf(buf + n, sizeof(buf) - (size_t)n, " sack %u-%u", g.sack[i].s, g.sack[i].e);
	return buf;
}
