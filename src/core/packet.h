/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_PACKET_H
#define CORE_PACKET_H

#include <stdbool.h>
#include <stdint.h>

#include "core/flow_key.h"

/* Frames as bytes: what is in one, and how one is changed with its checksums kept right. Pure. */

enum packet_kind {
	PK_OTHER,	/* anything that is not compared: UDP, ICMP, IPv6, fragments, VLAN, garbage */
	PK_ARP,
	PK_TCP4,	/* a whole TCP segment over IPv4, headers consistent */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_URG 0x20

#define PACKET_MAX_SACK 4

struct packet {
	uint8_t *data;
	uint32_t frame_len;
	enum packet_kind kind;
	/* valid for PK_TCP4 */
	uint16_t l3, l4;		/* offsets of the IP and the TCP header */
	uint16_t payload;		/* offset of the payload */
	uint32_t len;			/* bytes of payload */
	uint32_t seq, ack;
	uint16_t win;
	uint8_t flags;
	bool has_ts, has_ws, has_mss, has_sack_ok, has_signature;
	uint8_t ws;
	uint16_t mss;
	uint16_t ts_at;			/* offset of TSval */
	uint32_t tsval, tsecr;
	uint16_t sack_at;		/* offset of the SACK option's kind byte, 0: none */
	uint8_t n_sack;
	struct {
		uint32_t left, right;
	} sack[PACKET_MAX_SACK];
};

/* Sequence space is circular: compare by distance. */
static inline bool seq_lt(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

static inline bool seq_leq(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) <= 0;
}

static inline uint32_t seq_max(uint32_t a, uint32_t b)
{
	return seq_lt(a, b) ? b : a;
}

static inline uint32_t seq_min(uint32_t a, uint32_t b)
{
	return seq_lt(a, b) ? a : b;
}

/* packet_span() - sequence numbers that a segment takes: SYN, payload, FIN */
static inline uint32_t packet_span(const struct packet *p)
{
	return p->len + !!(p->flags & TCP_SYN) + !!(p->flags & TCP_FIN);
}

/*
 * packet_parse() - look at a frame
 * @data: @len bytes, borrowed as long as @p is used
 *
 * Nothing is trusted: whatever does not fit together is PK_OTHER and is passed on as it is. Padding after the IP
 * packet is ignored.
 */
void packet_parse(uint8_t *data, uint32_t len, struct packet *p);

/* packet_key() - the flow of a PK_TCP4; @from_guest: which end is the guest */
void packet_key(const struct packet *p, uint8_t nic, bool from_guest, struct flow_key *key);

/* Setters: change a field of a PK_TCP4 in the frame and in @p, checksum updated incrementally (RFC 1624). */
void packet_set_seq(struct packet *p, uint32_t seq);
void packet_set_ack(struct packet *p, uint32_t ack);
void packet_set_win(struct packet *p, uint16_t win);
void packet_set_ts(struct packet *p, uint32_t tsval, uint32_t tsecr);
void packet_set_sack(struct packet *p, unsigned int i, uint32_t left, uint32_t right);
void packet_set_flags(struct packet *p, uint8_t flags);

/* packet_keep_sack() - keep the blocks whose bit is set in @mask; the room of the others is filled with NOPs */
void packet_keep_sack(struct packet *p, unsigned int mask);

/* packet_cut_tail() - keep SYN and the first @keep bytes of payload; PSH and FIN go. Lengths and checksums anew. */
void packet_cut_tail(struct packet *p, uint32_t keep);
/* packet_cut_front() - drop SYN and the first @drop bytes of payload, which move; checksums anew */
void packet_cut_front(struct packet *p, uint32_t drop);

/*
 * packet_make_ack() - build a pure ACK of a flow
 * @data:  at least PACKET_ACK_MAX bytes
 * @eth:   14 bytes of Ethernet header of the direction
 * @ip:    20 bytes of IPv4 header of the direction (no options), addresses and TTL are taken
 *
 * Return: length of the frame
 */
#define PACKET_ACK_MAX 66
uint32_t packet_make_ack(uint8_t *data, const uint8_t *eth, const uint8_t *ip, uint16_t sport, uint16_t dport,
			 uint32_t seq, uint32_t ack, uint16_t win, bool has_ts, uint32_t tsval, uint32_t tsecr);

/* packet_make_garp() - gratuitous ARP request for an IPv4 address; @data: 60 bytes. Return: length */
uint32_t packet_make_garp(uint8_t *data, const uint8_t mac[6], const uint8_t ip[4]);
/* packet_make_rarp() - the RARP request that tells switches where a MAC address is now; 60 bytes */
uint32_t packet_make_rarp(uint8_t *data, const uint8_t mac[6]);

/* packet_checksums_ok() - whether IP and TCP checksums of a PK_TCP4 are right; for tests */
bool packet_checksums_ok(const struct packet *p);

#endif
