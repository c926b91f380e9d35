/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROPERTY_SIM_WIRE_H
#define PROPERTY_SIM_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"

/* Frames and TCP, as guests and clients have them: sim_frame.c, sim_seg.c, sim_tcp.c. */

enum {
	SIM_MAX_FRAME = 640,
	SIM_SNDBUF = 1024,	/* power of two */
	SIM_RCVBUF = 1024,	/* power of two, more than any window plus its rounding */
};

struct sim;

/* What stands around a flow's IP packets. */
struct path {
	uint8_t v6, tags, nic;	/* @tags: 0, 1 (802.1Q) or 2 (802.1ad outside) */
	uint8_t ext;		/* IPv6: 1 hop-by-hop, 2 destination options, now and then */
	uint16_t vid[2];	/* inner, outer */
};

struct pkt {
	struct pkt *next;
	uint16_t len, l3, l4;	/* @l3, @l4: only while it is made */
	uint8_t nic;
	/* sim_dgram.c: of which answer a guest's frame is a part */
	uint8_t dg_flow, dg_parts;
	bool dg_whole;
	uint16_t dg_id, dg_group;
	uint32_t dg_v;
	uint8_t data[SIM_MAX_FRAME];
};

struct pktq {
	struct pkt *head, **tail;
	uint32_t n;
};

/* ---- TCP ---- */

struct range {
	uint32_t s, e;
};

enum tcp_state { T_CLOSED, T_SYN_SENT, T_SYN_RCVD, T_ESTAB, T_LINGER };
enum { TF_FIN = 1, TF_SYN = 2, TF_RST = 4, TF_PSH = 8, TF_ACK = 16, TF_URG = 32 };

struct seg {
	struct path path;
	uint8_t src, dst;	/* last byte of the addresses */
	uint16_t urg;
	uint16_t sport, dport;
	uint32_t seq, ack;
	uint8_t flags;
	uint32_t win;
	uint16_t len;
	const uint8_t *data;
	bool has_ts, sack_ok;
	uint32_t tsval, tsecr;
	uint16_t mss;
	int ws;			/* -1: none */
	unsigned int n_sack;
	struct range sack[4];
};

struct tcb {
	struct path path;
	uint8_t state, peer;		/* last byte of the peer's address */
	bool tfo, urg_on, aborted;	/* @tfo: data went with the SYN or was taken from it */
	bool ts, sack, dsack, fin_queued, fin_acked, fin_rcvd, reset, want_ack, delack, fin_seen;
	uint8_t snd_ws, rcv_ws, my_ws, dupacks, backoff, n_ooo, n_sacked;
	uint16_t lport, rport, mss, rwnd;
	uint32_t iss, irs, una, nxt, max, wnd, wl1, wl2, end;	/* @end: after the last byte the application wrote */
	uint32_t rcv_nxt, rcv_adv, read, fin_pos;
	uint32_t urg;			/* after the urgent byte */
	uint32_t ts_off, ts_first, ts_recent, last_ack_sent;
	struct range ooo[4], sacked[4], dup;
	nstime rto_at, delack_at, kill_at;
	uint8_t snd[SIM_SNDBUF], rcv[SIM_RCVBUF];
};

/* Who a connection belongs to; @now on the owner's own clock. */
struct host {
	struct sim *s;
	int node;		/* -1: a client */
	int client;
	uint8_t addr;
	nstime now;
};

struct opening {
	const struct path *path;
	const struct seg *syn;		/* not NULL: passive */
	uint16_t lport, rport;
	uint8_t peer;
	const uint8_t *data;		/* active: what goes with the SYN (TCP Fast Open) */
	uint32_t n_data;
	uint32_t above;			/* not 0: the initial sequence number comes after it */
};

void tcp_open(struct host *h, struct tcb *t, const struct opening *o);
void tcp_input(struct host *h, struct tcb *t, const struct seg *g);
void tcp_output(struct host *h, struct tcb *t);
void tcp_timers(struct host *h, struct tcb *t);
nstime tcp_deadline(const struct tcb *t);
void tcp_abort(struct host *h, struct tcb *t);
uint32_t tcp_write(struct tcb *t, const uint8_t *p, uint32_t n);
uint32_t tcp_read(struct tcb *t, uint8_t *p, uint32_t n);
static inline uint32_t tcp_readable(const struct tcb *t) { return t->rcv_nxt - (t->fin_rcvd ? 1 : 0) - t->read; }
static inline uint32_t tcp_room(const struct tcb *t) { return SIM_SNDBUF - (t->end - t->una); }
/* sim_seg.c */
uint32_t tcp_clock(const struct host *h);	/* of timestamps, ms */
void tcp_send(struct host *h, struct tcb *t, uint32_t seq, uint32_t len, uint8_t flags);
void tcp_refuse(struct host *h, const struct seg *g);
/* The SYN-ACK of a guest that keeps no state for a SYN. */
void tcp_cookie(struct host *h, const struct seg *g);

/* What a frame is, as far as the IP header. */
struct view {
	struct path path;
	bool arp, frag, more;
	uint8_t src, dst, proto;	/* @proto: 255: neither IP nor ARP */
	uint16_t type, l3, l4, len, off;	/* @len: what follows the IP headers */
	uint32_t id;		/* of fragments */
	const char *bad;
};

void frame_look(const struct pkt *p, struct view *v);
bool frame_parse_tcp(const struct pkt *p, struct seg *g, const char **bad);
bool frame_is_tcp(const struct pkt *p);
bool frame_broadcast(const struct pkt *p);
/* Ethernet, tags and IP; what follows is written at p->data + p->l4, and frame_end() completes it. */
uint8_t *frame_begin(struct sim *s, struct pkt *p, const struct path *pa, uint8_t src, uint8_t dst, uint8_t proto);
void frame_end(struct pkt *p, uint32_t n);
enum { FRAME_PARTS = 3, FRAME_DATAGRAM = 1400 };
/* A datagram of @n bytes in as many frames as it needs. Return: how many, in @out */
uint32_t frame_datagram(struct sim *s, const struct path *pa, uint8_t src, uint8_t dst, uint8_t proto, uint8_t *l4,
			uint32_t n, struct pkt **out);
/* ARP, or neighbour discovery */
struct pkt *frame_neighbour(struct sim *s, const struct path *pa, uint8_t src, uint8_t dst, bool reply);
const char *frame_text(const struct pkt *p);

static inline bool path_same(const struct path *a, const struct path *b)
{
	return a->v6 == b->v6 && a->tags == b->tags && a->nic == b->nic && (!a->tags || a->vid[0] == b->vid[0]) &&
	       (a->tags < 2 || a->vid[1] == b->vid[1]);
}

/* The guest has an address on each of its NICs. */
static inline uint8_t guest_addr(const struct path *pa) { return (uint8_t)(10 + pa->nic); }

#define SEQ_LT(a, b) ((int32_t)((a) - (b)) < 0)
#define SEQ_LE(a, b) ((int32_t)((a) - (b)) <= 0)
#define SEQ_GT(a, b) SEQ_LT(b, a)
#define SEQ_GE(a, b) SEQ_LE(b, a)

#endif
