/* SPDX-License-Identifier: BSD-2-Clause */
/* Frames for tests, made without the code under test. */
#include "seg.h"

#include <string.h>

const uint8_t seg_guest_mac[6] = { 0x52, 0x54, 0, 0, 2, 0x10 };
static const uint8_t client_mac[6] = { 2, 0, 0, 0, 0, 1 };
static const uint8_t guest_ip[4] = { 192, 0, 2, 10 }, client_ip[4] = { 192, 0, 2, 100 };

static void be(uint8_t *p, uint32_t v, int n)
{
	while (n--) {
		p[n] = (uint8_t)v;
		v >>= 8;
	}
}

static uint16_t sum(const uint8_t *p, uint32_t n, uint32_t s)
{
	for (uint32_t i = 0; i < n; i++)
		s += (uint32_t)p[i] << (i & 1 ? 0 : 8);
	while (s >> 16)
		s = (s & 0xffff) + (s >> 16);
	return (uint16_t)~s;
}

static uint8_t *headers(uint8_t *out, bool from_guest, uint8_t proto)
{
	memset(out, 0, 2048);
	memcpy(out, from_guest ? client_mac : seg_guest_mac, 6);
	memcpy(out + 6, from_guest ? seg_guest_mac : client_mac, 6);
	be(out + 12, 0x0800, 2);
	out[14] = 0x45;
	out[22] = 64;
	out[23] = proto;
	memcpy(out + 26, from_guest ? guest_ip : client_ip, 4);
	memcpy(out + 30, from_guest ? client_ip : guest_ip, 4);
	return out + 34;
}

static uint32_t finish(uint8_t *out, uint32_t l4len, uint32_t sum_at)
{
	be(out + 16, 20 + l4len, 2);
	be(out + 24, sum(out + 14, 20, 0), 2);
	be(out + 34 + sum_at, sum(out + 34, l4len, (uint16_t)~sum(out + 26, 8, out[23] + l4len)), 2);
	return 34 + l4len;
}

uint32_t seg_make(uint8_t *out, const struct seg *s)
{
	uint8_t *t = headers(out, s->from_guest, 6), *o = t + 20;
	uint16_t port = s->other_port ? s->other_port : 40000;
	uint32_t n = s->data ? (uint32_t)strlen(s->data) : 0;

	be(t, s->from_guest ? 7000 : port, 2);
	be(t + 2, s->from_guest ? port : 7000, 2);
	be(t + 4, s->seq, 4);
	be(t + 8, s->ack, 4);
	t[13] = s->flags;
	be(t + 14, s->win, 2);
	if (s->odd)
		*o++ = 1;
	if (s->ws) {
		*o++ = 3;
		*o++ = 3;
		*o++ = s->ws;
	}
	if (s->has_ts) {
		*o++ = 8;
		*o++ = 10;
		be(o, s->tsval, 4);
		be(o + 4, s->tsecr, 4);
		o += 8;
	}
	if (s->n_sack) {
		*o++ = 5;
		*o++ = (uint8_t)(2 + 8 * s->n_sack);
		for (unsigned int i = 0; i < 2 * s->n_sack; i++, o += 4)
			be(o, s->sack[i], 4);
	}
	while ((o - t) % 4)
		*o++ = 1;
	t[12] = (uint8_t)((o - t) / 4 << 4);
	memcpy(o, s->data ? s->data : "", n);
	return finish(out, (uint32_t)(o - t) + n, 16);
}

uint32_t seg_udp(uint8_t *out, bool from_guest)
{
	uint8_t *t = headers(out, from_guest, 17);

	be(t, 53, 2);
	be(t + 2, 5353, 2);
	be(t + 4, 12, 2);
	memcpy(t + 8, "ping", 4);
	return finish(out, 12, 6);
}

uint32_t seg_arp(uint8_t *out, bool from_guest)
{
	memset(out, 0, 60);
	memset(out, 0xff, 6);
	memcpy(out + 6, from_guest ? seg_guest_mac : client_mac, 6);
	be(out + 12, 0x0806, 2);
	be(out + 14, 1, 2);
	be(out + 16, 0x0800, 2);
	be(out + 18, 0x0604, 2);
	be(out + 20, 1, 2);
	memcpy(out + 22, from_guest ? seg_guest_mac : client_mac, 6);
	memcpy(out + 28, from_guest ? guest_ip : client_ip, 4);
	memcpy(out + 38, from_guest ? client_ip : guest_ip, 4);
	return 60;
}
