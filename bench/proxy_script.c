/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The client and the two guests of the benchmark: theory of operation
 *
 * No TCP stack: each frame is a copy of one made at the start, with addresses, ports, numbers, timestamps and
 * checksums patched in; the sums of all that never changes are known. What arrives is looked at just enough to know
 * that it is the next segment and in the right numbers. A guest's numbers follow from the connection and from which
 * of the two it is, so the secondary's must be translated in both directions.
 *
 * PB_ASK: the client asks on one connection after the other and each request is answered with a segment of the same
 * size, which acknowledges it. PB_BULK: the guest sends two full segments for each acknowledgement, the client
 * acknowledges every second one.
 *
 * The connection's number is the low half of the client's address.
 */
#include "proxy_bench.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>

enum { F_SYN = 2, F_PSH = 8, F_ACK = 16 };

static const uint8_t client_mac[6] = { 2, 0, 0, 0, 0, 1 }, guest_mac[6] = { 0x52, 0x54, 0, 0, 2, 0x10 };
static const uint32_t frame_len[PB_SIZES] = { 70, 576, 1514 };
static const uint8_t mix[12] = { 0, 1, 0, 0, 1, 0, 2, 0, 1, 0, 0, 1 };

static void wrong(struct pb_script *s, const char *fmt, ...)
{
	va_list ap;

	if (s->wrong++)
		return;
	va_start(ap, fmt);
	vsnprintf(s->what, sizeof(s->what), fmt, ap);
	va_end(ap);
}

static uint64_t sum16(const uint8_t *p, uint32_t n)
{
	uint64_t sum = 0;
	uint16_t v;

	for (; n > 1; n -= 2, p += 2) {
		memcpy(&v, p, 2);
		sum += v;
	}
	if (n)
		sum += htons((uint16_t)(*p << 8));
	return sum;
}

static uint16_t fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void w16(uint8_t *p, uint16_t v)
{
	v = htons(v);
	memcpy(p, &v, 2);
}

static void w32(uint8_t *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, 4);
}

static uint32_t r32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return ntohl(v);
}

static uint16_t r16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, 2);
	return ntohs(v);
}

/* All of a frame but what patch() puts in. @len: of the whole frame */
static void make(struct pb_frame *f, bool to_guest, uint8_t flags, uint32_t len)
{
	uint8_t *ip = f->bytes + 14, *t = ip + 20, *o = t + 20;
	uint32_t x = 12345;

	memset(f, 0, sizeof(*f));
	f->len = len;
	memcpy(f->bytes, to_guest ? guest_mac : client_mac, 6);
	memcpy(f->bytes + 6, to_guest ? client_mac : guest_mac, 6);
	w16(f->bytes + 12, 0x0800);
	ip[0] = 0x45;
	w16(ip + 2, (uint16_t)(len - 14));
	ip[6] = 0x40;
	ip[8] = 64;
	ip[9] = 6;
	memcpy(ip + (to_guest ? 12 : 16), "\xc6\x12", 2);
	memcpy(ip + (to_guest ? 16 : 12), "\xc6\x13\x00\x0a", 4);
	w16(t + (to_guest ? 2 : 0), 7000);
	t[13] = flags;
	w16(t + 14, 60000);
	o[0] = o[1] = 1;
	o[2] = 8;
	o[3] = 10;
	o += 12;
	if (flags & F_SYN) {
		memcpy(o, "\x01\x03\x03\x07\x02\x04\x05\xb4", 8);
		o += 8;
	}
	t[12] = (uint8_t)((o - t) / 4 << 4);
	for (; o < f->bytes + len; o++) {
		x = x * 1103515245 + 12345;
		*o = (uint8_t)(x >> 16);
	}
	f->ip_sum = sum16(ip, 20);
	f->tcp_sum = sum16(t, len - 34) + sum16(ip + 12, 8) + htons(6) + htons((uint16_t)(len - 34));
}

static uint16_t client_port(uint32_t flow)
{
	return (uint16_t)(1024 + flow * 7 % 60000);
}

/* Make a frame of @f. Return: its length */
static uint32_t patch(const struct pb_frame *f, bool to_guest, uint32_t flow, uint32_t seq, uint32_t ack, uint32_t tsval,
		      uint32_t tsecr, uint8_t *out)
{
	uint16_t host = htons((uint16_t)flow), port = htons(client_port(flow)), sum;
	uint8_t *ip = out + 14, *t = ip + 20;

	memcpy(out, f->bytes, f->len);
	memcpy(ip + (to_guest ? 14 : 18), &host, 2);
	memcpy(t + (to_guest ? 0 : 2), &port, 2);
	w32(t + 4, seq);
	w32(t + 8, ack);
	w32(t + 24, tsval);
	w32(t + 28, tsecr);
	sum = (uint16_t)~fold(f->ip_sum + host);
	memcpy(ip + 10, &sum, 2);
	sum = (uint16_t)~fold(f->tcp_sum + host + port + htonl(seq) + (uint64_t)htonl(ack) + htonl(tsval) + htonl(tsecr));
	memcpy(t + 16, &sum, 2);
	return f->len;
}

static uint32_t mixed(uint32_t x)
{
	x = (x ^ x >> 16) * 0x45d9f3bu;
	x = (x ^ x >> 16) * 0x45d9f3bu;
	return x ^ x >> 16;
}

int pb_script_init(struct pb_script *s, const struct pb_shape *shape, bool same_numbers)
{
	memset(s, 0, sizeof(*s));
	s->shape = *shape;
	s->same_numbers = same_numbers;
	s->ms = 1000;
	for (int i = 0; i < PB_SIZES; i++) {
		make(&s->to_guest[i], true, F_ACK | F_PSH, frame_len[i]);
		make(&s->to_client[i], false, F_ACK | F_PSH, frame_len[i]);
	}
	make(&s->ack, true, F_ACK, PB_HEAD);
	make(&s->syn, true, F_SYN, PB_HEAD + 8);
	make(&s->syn_ack, false, F_SYN | F_ACK, PB_HEAD + 8);
	s->bulk_window = shape->flows >= 64 ? 2 : 128 / shape->flows & ~1u;
	s->todo_cap = shape->flows * (s->bulk_window / 2 + 1);
	s->todo = calloc(s->todo_cap, sizeof(*s->todo));
	s->client = calloc(shape->flows, sizeof(*s->client));
	s->odd = calloc(shape->flows, 1);
	s->guest[0] = calloc(shape->flows, sizeof(*s->client));
	s->guest[1] = calloc(shape->flows, sizeof(*s->client));
	if (!s->todo || !s->client || !s->odd || !s->guest[0] || !s->guest[1])
		return -1;
	for (uint32_t i = 0; i < shape->flows; i++) {
		s->client[i].nxt = mixed(i);
		for (uint32_t c = 0; c < 2; c++) {
			s->guest[c][i].nxt = mixed(i * 2 + (same_numbers ? 0 : c) + 0x10000000);
			s->guest[c][i].ts_off = mixed(i * 2 + (same_numbers ? 0 : c) + 0x20000000);
		}
	}
	return 0;
}

void pb_script_free(struct pb_script *s)
{
	free(s->todo);
	free(s->client);
	free(s->odd);
	free(s->guest[0]);
	free(s->guest[1]);
}

bool pb_ready(const struct pb_script *s)
{
	/* A download never stops acknowledging. */
	return s->established == s->shape.flows && (s->shape.traffic == PB_BULK || !s->todo_n);
}

static enum pb_size next_size(struct pb_script *s)
{
	return s->shape.mixed ? mix[s->turn++ % 12] : s->shape.size;
}

static void count_in(struct pb_script *s, uint32_t len)
{
	s->in++;
	s->bytes_in += len;
}

uint32_t pb_client(struct pb_script *s, uint8_t *out)
{
	const struct pb_frame *f;
	struct pb_end *c;
	uint32_t i, len;

	/*
	 * In turns: a download has always something to acknowledge, and connections without an acknowledgement of their
	 * handshake are what a flood is made of. Some at a time, for the sockets' queues.
	 */
	s->turn_syn = !s->turn_syn;
	if (s->opened < s->shape.flows && s->opened - s->established < 64 && (s->turn_syn || !s->todo_n)) {
		i = s->opened++;
		len = patch(&s->syn, true, i, s->client[i].nxt, 0, s->ms, 0, out);
		s->client[i].nxt++;
	} else if (s->todo_n) {
		i = s->todo[s->todo_head];
		s->todo_head = s->todo_head + 1 == s->todo_cap ? 0 : s->todo_head + 1;
		s->todo_n--;
		c = &s->client[i];
		len = patch(&s->ack, true, i, c->nxt, c->rcv, s->ms, c->ts_recent, out);
	} else if (s->shape.traffic == PB_ASK && s->established == s->shape.flows && !s->stop &&
		   s->under_way < s->shape.depth) {
		i = s->next;
		s->next = i + 1 == s->shape.flows ? 0 : i + 1;
		c = &s->client[i];
		f = &s->to_guest[next_size(s)];
		len = patch(f, true, i, c->nxt, c->rcv, s->ms, c->ts_recent, out);
		c->nxt += len - PB_HEAD;
		s->under_way++;
	} else {
		return 0;
	}
	count_in(s, len);
	return len;
}

static void acknowledge(struct pb_script *s, uint32_t flow)
{
	if (s->todo_n == s->todo_cap) {
		wrong(s, "the client has more to acknowledge than was ever sent");
		return;
	}
	s->todo[(s->todo_head + s->todo_n++) % s->todo_cap] = flow;
}

static bool sums_ok(const uint8_t *f, uint32_t len)
{
	return fold(sum16(f + 14, 20)) == 0xffff &&
	       fold(sum16(f + 34, len - 34) + sum16(f + 26, 8) + htons(6) + htons((uint16_t)(len - 34))) == 0xffff;
}

void pb_client_gets(struct pb_script *s, const uint8_t *f, uint32_t len)
{
	const uint8_t *t = f + 34;
	uint32_t i, seq, n;
	struct pb_end *c;

	s->out++;
	s->bytes_out += len;
	if (len < PB_HEAD || (i = r16(f + 32)) >= s->shape.flows) {
		wrong(s, "the client gets a frame of %u bytes that is not for it", len);
		return;
	}
	if (s->check_sums && !sums_ok(f, len))
		wrong(s, "the client gets a wrong checksum");
	c = &s->client[i];
	seq = r32(t + 4);
	if (c->nxt - r32(t + 8) > 1u << 20)
		wrong(s, "connection %u: acknowledged is %u, sent was up to %u", i, r32(t + 8), c->nxt);
	if (r32(t + 28) - 1000 > s->ms - 1000)
		wrong(s, "connection %u: the timestamp echoed is %u, the clock's is %u", i, r32(t + 28), s->ms);
	c->ts_recent = r32(t + 24);
	if (t[13] & F_SYN) {
		c->rcv = seq + 1;
		if (!c->open) {
			c->open = true;
			s->established++;
			acknowledge(s, i);
		}
		return;
	}
	n = len - PB_HEAD;
	if (!n)
		return;
	if (seq != c->rcv) {
		wrong(s, "connection %u: the client gets number %u, next is %u", i, seq, c->rcv);
		return;
	}
	c->rcv += n;
	s->data_out++;
	if (s->shape.traffic == PB_ASK) {
		s->under_way--;
	} else {
		s->odd[i] ^= 1;
		if (!s->odd[i] && !s->stop)
			acknowledge(s, i);
	}
}

static void say(struct pb_script *s, int copy, uint32_t flow, const struct pb_frame *f, uint32_t span)
{
	struct pb_end *g = &s->guest[copy][flow];
	uint8_t *out = s->room(s->arg, copy);

	if (!out) {
		wrong(s, "no room for a frame of a guest");
		return;
	}
	s->sent(s->arg, copy, patch(f, false, flow, g->nxt, g->rcv, s->ms + g->ts_off, g->ts_recent, out));
	g->nxt += span;
}

void pb_guest_gets(struct pb_script *s, int copy, const uint8_t *f, uint32_t len)
{
	const uint8_t *t = f + 34;
	struct pb_end *g;
	uint32_t i, n;

	if (len < PB_HEAD || (i = r16(f + 28)) >= s->shape.flows) {
		wrong(s, "a guest gets a frame of %u bytes that is not for it", len);
		return;
	}
	g = &s->guest[copy][i];
	if (t[13] & F_SYN) {
		g->rcv = r32(t + 4) + 1;
		g->ts_recent = r32(t + 24);
		say(s, copy, i, &s->syn_ack, 1);
		return;
	}
	n = len - PB_HEAD;
	if (r32(t + 4) != g->rcv)
		wrong(s, "connection %u: guest %d gets number %u, next is %u", i, copy, r32(t + 4), g->rcv);
	/* In this guest's own numbers: all of it was sent, and not long ago. */
	if (g->nxt - r32(t + 8) > 1u << 20)
		wrong(s, "connection %u: guest %d is acknowledged %u, has sent up to %u", i, copy, r32(t + 8), g->nxt);
	if (s->ms + g->ts_off - r32(t + 28) > s->ms)
		wrong(s, "connection %u: guest %d gets an echo of a timestamp that it never sent", i, copy);
	g->rcv += n;
	g->ts_recent = r32(t + 24);
	if (s->shape.traffic == PB_BULK) {
		uint32_t k = g->open ? 2 : s->bulk_window;

		g->open = true;
		while (k--)
			say(s, copy, i, &s->to_client[PB_LARGE], s->to_client[PB_LARGE].len - PB_HEAD);
	} else if (n) {
		for (int z = 0; z < PB_SIZES; z++)
			if (frame_len[z] == len)
				say(s, copy, i, &s->to_client[z], n);
	}
}
