/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_PACKET_H
#define CORE_PACKET_H

#include <stdbool.h>
#include <stdint.h>

#include "core/flow_key.h"

/*
 * Frames as bytes. Pure.
 *      packet.c       what is in a frame, and to which flow it belongs
 *      packet_edit.c  changing one, with its checksums kept right
 *      packet_make.c  frames of our own
 */

enum packet_kind {
	PK_OTHER,	/* not IP, or headers that do not fit together: compared as a whole frame */
	PK_LOCAL,	/* ARP, RARP, neighbour discovery, IGMP, MLD: the link's own talk, no application state */
	PK_TCP,		/* a whole TCP segment over IPv4 or IPv6, headers consistent */
	PK_DGRAM,	/* a whole datagram of any other protocol over IPv4 or IPv6 */
	PK_FRAG,	/* a fragment of a datagram */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_URG 0x20

#define PROTO_ICMP	1
#define PROTO_IGMP	2
#define PROTO_TCP	6
#define PROTO_UDP	17
#define PROTO_DCCP	33
#define PROTO_ICMP6	58
#define PROTO_SCTP	132
#define PROTO_UDPLITE	136

#define PACKET_MAX_SACK	4
#define PACKET_MAX_TAGS	2	/* VLAN tags; a frame with more is PK_OTHER */
#define PACKET_MAX_EXT	8	/* IPv6 extension headers; a frame with more is PK_OTHER */

struct sack_block {
	uint32_t left, right;
};

struct packet {
	uint8_t *data;
	uint32_t frame_len;
	enum packet_kind kind;
	uint8_t family;			/* 4, 6; 0: not IP */
	uint8_t proto;			/* of what is at l4; the first fragment's next header in an IPv6 fragment */
	uint8_t n_tags;
	uint16_t tag[PACKET_MAX_TAGS];	/* FLOW_VLAN | id, outer first */
	uint16_t ether_type;		/* behind the tags */
	uint16_t l3, l4;		/* offsets of the IP header and of what it carries, behind IPv6 extension headers */
	uint32_t end;			/* offset after the IP packet: what follows is padding */
	/* PK_DGRAM: data + l4, len bytes. PK_FRAG: likewise, a piece. PK_TCP: payload */
	uint32_t len;
	/* PK_FRAG */
	uint32_t frag_id;
	uint16_t frag_off;		/* bytes, of this piece in the datagram */
	bool frag_more;
	/* valid for PK_TCP */
	uint16_t payload;		/* offset of the payload */
	uint32_t seq, ack;
	uint16_t win, urg;
	uint8_t flags;
	bool has_ts, has_ws, has_mss, has_sack_ok;
	bool has_signature;		/* MD5 (RFC 2385) or AO (RFC 5925): no field may be changed */
	uint8_t ws;
	uint16_t mss;
	uint16_t ts_at;			/* offset of TSval */
	uint32_t tsval, tsecr;
	uint16_t sack_at;		/* offset of the SACK option's kind byte, 0: none */
	uint8_t n_sack;
	struct sack_block sack[PACKET_MAX_SACK];
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

/*
 * packet_key() - the flow of a frame of any kind
 * @from_guest: which end is the guest
 *
 * TCP, UDP, UDP-Lite, DCCP, SCTP: addresses and ports. ICMP and ICMPv6 with an identifier (echo and its like):
 * guest_port is the identifier; without: other_port is the type. Other protocols: addresses. A fragment: addresses
 * and protocol. Not IP: MAC addresses and Ethernet type.
 */
void packet_key(const struct packet *p, uint8_t nic, bool from_guest, struct flow_key *key);

/* Setters: change a field of a PK_TCP in the frame and in @p, checksum updated incrementally (RFC 1624). */
void packet_set_seq(struct packet *p, uint32_t seq);
void packet_set_ack(struct packet *p, uint32_t ack);
void packet_set_win(struct packet *p, uint16_t win);
void packet_set_ts(struct packet *p, uint32_t tsval, uint32_t tsecr);
void packet_set_sack(struct packet *p, unsigned int i, uint32_t left, uint32_t right);
void packet_set_flags(struct packet *p, uint8_t flags);

/* packet_move_back() - a lower sequence number for a segment without payload; its urgent pointer says the same byte */
void packet_move_back(struct packet *p, uint32_t seq);

/* packet_keep_sack() - keep the blocks whose bit is set in @mask; the room of the others is filled with NOPs */
void packet_keep_sack(struct packet *p, unsigned int mask);

/* packet_cut_tail() - keep SYN and the first @keep bytes of payload; PSH and FIN go. Lengths and checksums anew. */
void packet_cut_tail(struct packet *p, uint32_t keep);
/* packet_finish_tcp() - write seq, flags, urg and the lengths that follow from len; all checksums anew */
void packet_finish_tcp(struct packet *p);
/* packet_cut_front() - drop SYN and the first @drop bytes of payload, which move; checksums anew */
void packet_cut_front(struct packet *p, uint32_t drop);

/*
 * packet_make_ack() - build a pure ACK of a flow out of a segment of it
 * @data:  at least PACKET_ACK_MAX bytes
 * @head:  @head_len bytes: Ethernet, tags and IP header of a segment in the same direction, without IP options and
 *         extension headers (packet_head() gives them)
 *
 * Return: length of the frame
 */
#define PACKET_ACK_MAX	(PACKET_HEAD_MAX + 60)
#define PACKET_HEAD_MAX	(14 + 4 * PACKET_MAX_TAGS + 40)
uint32_t packet_make_ack(uint8_t *data, const uint8_t *head, uint32_t head_len, uint16_t sport, uint16_t dport,
			 uint32_t seq, uint32_t ack, uint16_t win, bool has_ts, uint32_t tsval, uint32_t tsecr);

/* packet_add_sack() - add @n blocks to a segment that packet_make_ack() has made; with timestamps at most three fit */
uint32_t packet_add_sack(uint8_t *data, uint32_t len, const struct sack_block *blocks, unsigned int n);

/* packet_head() - the headers of a PK_TCP up to IP, options and extension headers left out. Return: their length */
uint32_t packet_head(const struct packet *p, uint8_t out[PACKET_HEAD_MAX]);

/*
 * packet_quotes_tcp() - an ICMP or ICMPv6 error to the guest quotes a TCP segment of the guest: which flow, and where
 * @p: a PK_DGRAM
 * @key, @seq_at: filled when Return is true
 * packet_set_quoted() - subtract @off from the quoted sequence number, checksum of the error corrected, so
 *         that the copy that numbers differently recognizes its segment
 */
/*
 * packet_first_piece() - look at the first fragment of a TCP segment as if it were the segment
 *
 * Return: whether @p is one, with its whole header; then @p is a PK_TCP whose key and setters are right, but not its
 * length, nor what depends on it (cuts, packet_checksums_ok())
 */
bool packet_first_piece(struct packet *p);

#define PACKET_QUOTE_MIN 8	/* bytes of the quoted TCP header that must be there */
bool packet_quotes_tcp(const struct packet *p, uint8_t nic, struct flow_key *key, uint16_t *seq_at);
void packet_set_quoted(struct packet *p, uint16_t seq_at, uint32_t off);

/*
 * Announcements, 60 to PACKET_ANNOUNCE_MAX bytes, with the VLAN tags of @tags (0: none). Return: length
 * packet_make_garp() - gratuitous ARP request for an IPv4 address
 * packet_make_na() - unsolicited neighbour advertisement to all nodes for an IPv6 address (RFC 4861 section 7.2.6)
 */
#define PACKET_ANNOUNCE_MAX 96
uint32_t packet_make_garp(uint8_t *data, const uint8_t mac[6], const uint16_t tags[2], const uint8_t ip[4]);
uint32_t packet_make_na(uint8_t *data, const uint8_t mac[6], const uint16_t tags[2], const uint8_t ip[16]);
/* packet_make_rarp() - the RARP request that tells switches where a MAC address is now; 60 bytes */
uint32_t packet_make_rarp(uint8_t *data, const uint8_t mac[6], const uint16_t tags[2]);

/* packet_checksums_ok() - whether IP and TCP checksums of a PK_TCP are right; for tests */
bool packet_checksums_ok(const struct packet *p);

#endif
