/* SPDX-License-Identifier: BSD-2-Clause */
#include "flows.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_CONN	512
#define MAX_STREAM	(256u << 10)


enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

/* One direction of a connection as one observer has it: which bytes after the SYN, and their value. */
struct stream {
	uint8_t *bytes, *have;
	uint32_t base;			/* number of the SYN */
	bool begun, fin, rst;
	uint32_t fin_at;
	bool ts_known;
	uint32_t tsval;			/* the highest */
};

struct flows_conn {
	uint8_t family;
	uint16_t client_port;
	struct stream s[FLOWS_SIDES];
};

/* A frame that is not TCP: hash of what does not change on the way. */
struct flows_gram {
	uint64_t hash;
	uint32_t len;
	int open;			/* said and not let out: above 0; the other way round: below */
};

static void wrong(struct flows *t, const char *fmt, ...)
{
	va_list ap;

	if (*t->why)
		return;
	va_start(ap, fmt);
	vsnprintf(t->why, sizeof(t->why), fmt, ap);
	va_end(ap);
}

int flows_init(struct flows *t)
{
	memset(t, 0, sizeof(*t));
	t->conn = calloc(MAX_CONN, sizeof(*t->conn));
	return t->conn ? 0 : -1;
}

void flows_free(struct flows *t)
{
	for (uint32_t i = 0; i < t->n_conn; i++)
		for (int k = 0; k < FLOWS_SIDES; k++) {
			free(t->conn[i].s[k].bytes);
			free(t->conn[i].s[k].have);
		}
	free(t->conn);
	free(t->gram);
	memset(t, 0, sizeof(*t));
}

static uint16_t be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)be16(p) << 16 | be16(p + 2);
}

/* Offset of the TCP header of a frame that is a whole segment, 0: it is none. @end: after the IP packet */
static uint32_t tcp_at(const uint8_t *f, uint32_t len, uint8_t *family, uint32_t *end)
{
	uint32_t at = 14;

	if (len >= 34 && be16(f + 12) == 0x0800 && f[23] == 6 && !(be16(f + 20) & 0x3fff)) {
		*family = 4;
		*end = 14u + be16(f + 16);
		at += (f[14] & 15u) * 4;
	} else if (len >= 54 && be16(f + 12) == 0x86dd && f[20] == 6) {
		*family = 6;
		*end = 54u + be16(f + 18);
		at += 40;
	} else {
		return 0;
	}
	return *end <= len && at + 20 <= *end ? at : 0;
}

/* The newest connection of this port, or a new one. */
static struct flows_conn *conn(struct flows *t, uint8_t family, uint16_t port, bool fresh)
{
	for (uint32_t i = t->n_conn; i-- && !fresh;)
		if (t->conn[i].family == family && t->conn[i].client_port == port)
			return &t->conn[i];
	if (t->n_conn == MAX_CONN) {
		wrong(t, "more than %d connections", MAX_CONN);
		return NULL;
	}
	t->conn[t->n_conn] = (struct flows_conn){ .family = family, .client_port = port };
	return &t->conn[t->n_conn++];
}

/* Return: offset of TSval in a TCP header of @n bytes, 0: it has none */
static uint32_t ts_at(const uint8_t *h, uint32_t n)
{
	for (uint32_t i = 20; i + 1 < n && h[i];) {
		if (h[i] == 1) {
			i++;
			continue;
		}
		if (h[i] == 8 && h[i + 1] == 10 && i + 10 <= n)
			return i + 2;
		i += h[i + 1] > 1 ? h[i + 1] : 2;
	}
	return 0;
}

/* Linux, from 6.15 on, answers a handshake that echoes a timestamp which it has not sent with an ACK and drops it. */
static void see_svm(struct flows *t, enum flows_side side, const uint8_t *h, uint32_t off, uint8_t family)
{
	struct flows_conn *c = conn(t, family, be16(side == FLOWS_SVM ? h + 2 : h), false);
	uint32_t ts = ts_at(h, off);
	struct stream *s = c ? &c->s[FLOWS_SVM] : NULL;

	if (!s || !ts || h[13] & RST)
		return;
	if (side == FLOWS_SVM) {
		if (!s->ts_known || (int32_t)(be32(h + ts) - s->tsval) > 0)
			s->tsval = be32(h + ts);
		s->ts_known = true;
	} else if (h[13] & ACK && s->ts_known && (int32_t)(be32(h + ts + 4) - s->tsval) > 0) {
		wrong(t, "port %u: the SVM is given the echo of timestamp %u, and has sent up to %u", be16(h), be32(h + ts + 4),
		      s->tsval);
	}
}

static void see_segment(struct flows *t, enum flows_side side, const uint8_t *h, uint32_t n, uint8_t family)
{
	uint32_t seq = be32(h + 4), off = (h[12] >> 4) * 4u, at;
	uint8_t flags = h[13];
	struct flows_conn *c;
	struct stream *s;

	if (off < 20 || off > n) {
		wrong(t, "a TCP header of %u bytes in %u", off, n);
		return;
	}
	if (side == FLOWS_SVM || side == FLOWS_TO_SVM)
		see_svm(t, side, h, off, family);
	if (side == FLOWS_TO_SVM || (side == FLOWS_SVM && !(flags & SYN)))
		return;
	c = conn(t, family, be16(h + 2), false);
	if (!c)
		return;
	s = &c->s[side];
	if (flags & SYN) {
		if (s->begun && s->base != seq) {
			/* Its port is used again. */
			if (side != FLOWS_OUT || c->s[FLOWS_PVM].base != seq)
				c = conn(t, family, be16(h + 2), true);
			if (!c)
				return;
			s = &c->s[side];
		}
		if (!s->bytes) {
			s->bytes = calloc(1, MAX_STREAM);
			s->have = calloc(1, MAX_STREAM);
		}
		s->begun = true;
		s->base = seq;
	}
	if (flags & RST) {
		s->rst = true;
		return;
	}
	if (!s->begun || !s->bytes || !s->have) {
		wrong(t, "port %u: %s a segment before the SYN", be16(h + 2), side == FLOWS_OUT ? "let out" : "said");
		return;
	}
	at = seq - s->base - !(flags & SYN);
	n -= off;
	if (at + n > MAX_STREAM) {
		wrong(t, "port %u: position %u of a stream of at most %u", be16(h + 2), at + n, MAX_STREAM);
		return;
	}
	for (uint32_t i = 0; i < n; i++) {
		if (s->have[at + i] && s->bytes[at + i] != h[off + i])
			wrong(t, "port %u: byte %u of the stream changes", be16(h + 2), at + i);
		t->tcp_bytes += side == FLOWS_OUT && !s->have[at + i];
		s->bytes[at + i] = h[off + i];
		s->have[at + i] = 1;
	}
	if (flags & FIN) {
		s->fin = true;
		s->fin_at = at + n;
	}
}

static void see_gram(struct flows *t, enum flows_side side, const uint8_t *f, uint32_t len)
{
	uint64_t hash = 14695981039346656037ull;
	uint32_t i;

	/* An IPv4 packet without its identification, lifetime and checksum. */
	for (i = 12; i < len; i++) {
		bool skip = be16(f + 12) == 0x0800 && (i == 18 || i == 19 || i == 22 || i == 24 || i == 25);

		hash = (hash ^ (skip ? 0 : f[i])) * 1099511628211ull;
	}
	t->datagrams += side == FLOWS_OUT;
	for (i = 0; i < t->n_gram; i++)
		if (t->gram[i].hash == hash && t->gram[i].len == len)
			break;
	if (i == t->n_gram) {
		if (t->n_gram == t->cap_gram) {
			struct flows_gram *g = realloc(t->gram, (t->cap_gram + 256) * sizeof(*g));

			if (!g) {
				wrong(t, "no memory");
				return;
			}
			t->gram = g;
			t->cap_gram += 256;
		}
		t->gram[t->n_gram++] = (struct flows_gram){ .hash = hash, .len = len };
	}
	t->gram[i].open += side == FLOWS_PVM ? 1 : -1;
	if (t->gram[i].open < 0)
		wrong(t, "a frame of %u bytes is let out that the PVM has not said", len);
}

void flows_see(struct flows *t, enum flows_side side, const uint8_t *f, uint32_t len)
{
	uint8_t family;
	uint32_t end, at;

	if (len < 14)
		return;
	at = tcp_at(f, len, &family, &end);
	if (at)
		see_segment(t, side, f + at, end - at, family);
	else if (side == FLOWS_PVM || side == FLOWS_OUT)
		see_gram(t, side, f, len);
}

bool flows_judge(struct flows *t, char *why, size_t cap)
{
	for (uint32_t i = 0; i < t->n_conn; i++) {
		const struct stream *p = &t->conn[i].s[FLOWS_PVM], *o = &t->conn[i].s[FLOWS_OUT];
		const struct stream *v = &t->conn[i].s[FLOWS_SVM];
		uint16_t port = t->conn[i].client_port;

		t->translated += p->begun && v->begun && p->base != v->base;
		if (p->begun != o->begun || (p->begun && p->base != o->base))
			wrong(t, "port %u: the SYN was not let out, or another one", port);
		else if (p->fin != o->fin || (p->fin && p->fin_at != o->fin_at))
			wrong(t, "port %u: the FIN is %s", port, o->fin ? "let out at another place" : "not let out");
		else if (p->rst != o->rst)
			wrong(t, "port %u: the reset is %s", port, o->rst ? "let out and was not said" : "not let out");
		else if (p->bytes && memcmp(p->have, o->have, MAX_STREAM))
			wrong(t, "port %u: not the same part of the stream was let out", port);
		else if (p->bytes && memcmp(p->bytes, o->bytes, MAX_STREAM))
			wrong(t, "port %u: another stream was let out", port);
	}
	if (t->n_conn && !t->translated)
		wrong(t, "both servers number all of their connections alike");
	for (uint32_t i = 0; i < t->n_gram; i++)
		if (t->gram[i].open > 0)
			wrong(t, "a frame of %u bytes that is not TCP was not let out", t->gram[i].len);
	if (*t->why)
		snprintf(why, cap, "%s", t->why);
	return !*t->why;
}
