/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to rule.c and rule_text.c. Nobody else includes this. */
#ifndef CORE_RULE_INTERNAL_H
#define CORE_RULE_INTERNAL_H

#include <stdbool.h>

#include "core/rule.h"

enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_UDP = 17, PROTO_ICMP6 = 58, PROTO_SCTP = 132, PROTO_UDPLITE = 136 };

static inline bool rule_ports_any(const struct rule_ports *p)
{
	return !p->lo && p->hi == UINT16_MAX;
}

/* rule_proto_ports() - whether flows of an IP protocol have ports */
static inline bool rule_proto_ports(uint8_t proto)
{
	return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP || proto == PROTO_UDPLITE;
}

/* rule_proto_family() - 4 or 6 for a protocol that belongs to one of them, 0 for the others */
static inline uint8_t rule_proto_family(uint8_t proto)
{
	return proto == PROTO_ICMP ? 4 : proto == PROTO_ICMP6 ? 6 : 0;
}

/*
 * rule_check() - what a single rule must fulfil as a whole, wherever it comes from
 *
 * Return: 0, or -EINVAL with a sentence
 */
int rule_check(const struct rule *r, struct err *e);

#endif
