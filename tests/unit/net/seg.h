/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef SEG_H
#define SEG_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Frames for tests, in words and as bytes. Made and checked without the code under test, so that they are an oracle
 * for it: own checksums, own walk over the headers.
 */

#define SEG_MAX 10240	/* bytes: the room that each builder wants */

/* What carries it: Ethernet, tags, IP. All zero: untagged IPv4 between the client and the guest. */
struct seg_ip {
	bool from_guest;
	bool v6;
	uint8_t n_tags;
	/* priority and id, outer first; with two or more the outer one is a service tag */
	uint16_t tag[3];
	uint8_t n_ext, ext[10];		/* IPv6 extension headers in order: 0, 43, 60, 51 (AH), 50 (ESP) */
	uint8_t left;			/* segments left of a routing header */
	uint8_t proto;
	uint8_t ttl, tos;		/* ttl 0: 64 */
	uint16_t id;
	uint32_t label;
	const uint8_t *opts;		/* IPv4 options, n_opts bytes, a multiple of four */
	uint8_t n_opts;
	const uint8_t *src, *dst;	/* other addresses than the usual */
	const uint8_t *dst_mac;
	uint16_t pad;			/* bytes after the packet */
};

/* A TCP segment in words. */
struct seg {
	bool from_guest;
	uint32_t seq, ack;
	uint8_t flags;
	uint16_t win, urg;
	const char *data;
	uint32_t n_data;		/* 0: as a string */
	bool has_ts;
	uint32_t tsval, tsecr;
	uint8_t ws;			/* in a SYN: the option, 0: none */
	unsigned int n_sack;
	uint32_t sack[8];
	uint16_t other_port;		/* 0: 40000 */
	uint16_t guest_port;		/* 0: 7000 */
	bool odd;			/* options begin at an odd byte */
	const uint8_t *opts;		/* further options, as bytes */
	uint8_t n_opts;
};

extern const uint8_t seg_guest_mac[6], seg_client_mac[6];
extern const uint8_t seg_guest_ip[4], seg_client_ip[4], seg_guest_ip6[16], seg_client_ip6[16];

/* seg_ip() - @l4 of @len bytes under headers; its checksum at byte @sum_at (negative: none). Return: length */
uint32_t seg_ip(uint8_t *out, const struct seg_ip *ip, const uint8_t *l4, uint32_t len, int sum_at);

/* seg_make() - over plain IPv4; seg_make_on() - over @ip, whose direction is the segment's. Return: length */
uint32_t seg_make(uint8_t *out, const struct seg *s);
uint32_t seg_make_on(uint8_t *out, const struct seg_ip *ip, const struct seg *s);

/* seg_arp() - an ARP request; with the tags of @ip */
uint32_t seg_arp(uint8_t *out, const struct seg_ip *ip);
/* seg_udp() - ports from the guest's point of view */
uint32_t seg_udp(uint8_t *out, const struct seg_ip *ip, uint16_t guest_port, uint16_t other_port, const char *data);
/* seg_echo() - ICMP or ICMPv6 echo */
uint32_t seg_echo(uint8_t *out, const struct seg_ip *ip, bool reply, uint16_t ident, uint16_t seq, const char *data);
/* seg_icmp() - any ICMP or ICMPv6 message: type, code, the rest of @n bytes from byte 4 on */
uint32_t seg_icmp(uint8_t *out, const struct seg_ip *ip, uint8_t type, uint8_t code, const uint8_t *rest, uint32_t n);
/* seg_ether() - a frame of an Ethernet type that is not IP */
uint32_t seg_ether(uint8_t *out, const struct seg_ip *ip, uint16_t type, const char *data);

/*
 * seg_piece() - a fragment of a whole packet made by seg_ip() without IPv6 extension headers or IPv4 options
 * @off, @n: which bytes of what IP carries; @off is a multiple of eight
 */
uint32_t seg_piece(uint8_t *out, const uint8_t *whole, uint32_t len, uint32_t off, uint32_t n, uint32_t id);

/* seg_l3() - where the IP header begins behind the tags; 0: not IP */
uint32_t seg_l3(const uint8_t *d, uint32_t len);
/* seg_sums_ok() - whether lengths and all checksums of a frame are right, as far as it has any */
bool seg_sums_ok(const uint8_t *d, uint32_t len);
/* seg_get() - big-endian number of @n bytes */
uint32_t seg_get(const uint8_t *p, int n);

#endif
