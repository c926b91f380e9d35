/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_RULE_H
#define CORE_RULE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "core/flow_key.h"

/*
 * Rules: which flows are compared, which are let through, which only leave with checkpoints. Pure.
 *
 * A rule is one text, ACTION[,KEY=VALUE]...; a flow must fit all of its keys. Rules are looked at in their order, the
 * first that fits decides; a flow that fits none is compared. One rule is of one IP family at most: an address, or a
 * protocol that belongs to one, says which, so that a rule for IPv4 never fits IPv6. What is not IP fits only rules
 * that say no more than the NIC.
 */

enum rule_action {
	RULE_COMPARE,	/* the default */
	RULE_BYPASS,	/* the PVM's frames leave at once, the SVM's are dropped: for what must differ */
	RULE_HOLD,	/* never compared: leaves when the checkpoint of its epoch is STAGED */
};

#define RULES_MAX	28	/* all of them, encoded, fit into the smallest frame buffer */
#define RULE_ANY_NIC	0xff
#define RULE_TEXT_MAX	256	/* bytes of a rule as text, NUL included */

struct rule_ports {
	uint16_t lo, hi;	/* both inclusive; 0 and 65535: any, also what has no ports */
};

struct rule_net {
	uint8_t addr[16];	/* IPv4 in the first four bytes */
	uint8_t family;		/* 4 or 6; 0: any address */
	uint8_t bits;		/* of the prefix */
};

struct rule {
	uint8_t action;			/* enum rule_action */
	uint8_t family;			/* 4, 6; 0: any. Set where the protocol or an address says it, too */
	uint8_t proto;			/* IP protocol; 0: any (IPv4 and IPv6 have no use for 0 behind their headers) */
	uint8_t nic;			/* index, or RULE_ANY_NIC */
	struct rule_ports port;		/* of either end */
	struct rule_ports guest_port, client_port;
	struct rule_net guest, client;	/* address of that end */
};

struct rules {
	uint32_t n;
	struct rule r[RULES_MAX];
};

/*
 * rule_parse() - read one rule, e.g. "bypass,proto=udp,port=123" or "hold,client=192.0.2.0/24,nic=n0"
 * @nics: names of the NICs in the order of their indexes, @n_nics of them; borrowed
 *
 * Return: 0, or -EINVAL with a sentence
 */
int rule_parse(const char *text, const char *const *nics, unsigned int n_nics, struct rule *r, struct err *e);

/*
 * rule_format() - the text that rule_parse() reads: of any rule that it made, or that rules_decode() let pass
 *
 * A NIC that has no name here, or one that does not fit, is written by its index: nic=#1.
 *
 * Return: length, always below RULE_TEXT_MAX
 */
int rule_format(const struct rule *r, const char *const *nics, unsigned int n_nics, char out[RULE_TEXT_MAX]);

/* rule_action_name() - "compare", "bypass", "hold" */
const char *rule_action_name(enum rule_action a);

/* rules_match() - the first rule that fits decides. Return: enum rule_action */
enum rule_action rules_match(const struct rules *rules, const struct flow_key *key);

/*
 * rules_insert() - put a rule at place @at, from 0; those from there on move up
 *
 * Return: 0, or -EINVAL (no such place), -ENOSPC (there are RULES_MAX already), with a sentence that counts from 1
 */
int rules_insert(struct rules *rules, uint32_t at, const struct rule *r, struct err *e);

/* rules_delete() - remove the rule at place @at, from 0. Return: 0, or -EINVAL with a sentence that counts from 1 */
int rules_delete(struct rules *rules, uint32_t at, struct err *e);

/*
 * rules_encode() - all rules as bytes for the peer. Return: length, or -EMSGSIZE
 * rules_decode() - the other way; trusts nothing. Return: 0, or -EPROTO
 */
#define RULE_BYTES	52
#define RULES_BYTES_MAX (4 + RULES_MAX * RULE_BYTES)
int rules_encode(const struct rules *rules, uint8_t *out, size_t cap);
int rules_decode(const uint8_t *p, size_t len, struct rules *rules);

_Static_assert(RULES_BYTES_MAX <= 1514, "the rules fit into the smallest frame buffer");

#endif
