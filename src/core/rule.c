/* SPDX-License-Identifier: BSD-2-Clause */
/* Rules: what fits, what is well formed, and their form on the wire. As text: rule_text.c. */
#include "core/rule.h"

#include <errno.h>
#include <string.h>

#include "base/cursor.h"
#include "core/net.h"
#include "core/rule_internal.h"

const char *rule_action_name(enum rule_action a)
{
	return a == RULE_COMPARE ? "compare" : a == RULE_BYPASS ? "bypass" : a == RULE_HOLD ? "hold" : "?";
}

static bool ports_fit(const struct rule_ports *p, uint16_t port)
{
	return port >= p->lo && port <= p->hi;
}

static bool net_fits(const struct rule_net *n, const uint8_t addr[16])
{
	unsigned int whole = n->bits / 8, rest = n->bits % 8;

	if (!n->family)
		return true;
	if (memcmp(n->addr, addr, whole))
		return false;
	return !rest || !((n->addr[whole] ^ addr[whole]) >> (8 - rest));
}

static bool rule_fits(const struct rule *r, const struct flow_key *k)
{
	if (r->nic != RULE_ANY_NIC && r->nic != k->nic)
		return false;
	/* With an address of either family, r->family is not 0: see rule_check(). */
	if (r->family && r->family != k->family)
		return false;
	if (r->proto && (!k->family || r->proto != k->proto))
		return false;
	if (!net_fits(&r->guest, k->guest) || !net_fits(&r->client, k->other))
		return false;
	if (rule_ports_any(&r->port) && rule_ports_any(&r->guest_port) && rule_ports_any(&r->client_port))
		return true;
	/* What a key without ports has in their place (an Ethernet type, an ICMP identifier) is none. */
	if (!k->family || !rule_proto_ports(k->proto))
		return false;
	return (ports_fit(&r->port, k->guest_port) || ports_fit(&r->port, k->other_port)) &&
	       ports_fit(&r->guest_port, k->guest_port) && ports_fit(&r->client_port, k->other_port);
}

enum rule_action rules_match(const struct rules *rules, const struct flow_key *key)
{
	for (uint32_t i = 0; i < rules->n; i++)
		if (rule_fits(&rules->r[i], key))
			return (enum rule_action)rules->r[i].action;
	return RULE_COMPARE;
}

static int ports_check(const char *what, const struct rule *r, const struct rule_ports *p, struct err *e)
{
	if (p->lo > p->hi)
		return err_set(e, -EINVAL, "%s=%u-%u is an empty range: the lower port comes first", what, p->lo,
			       p->hi);
	if (!rule_ports_any(p) && r->proto && !rule_proto_ports(r->proto))
		return err_set(e, -EINVAL, "%s= does not go with this proto=: only tcp, udp, udplite and sctp have "
			       "ports here", what);
	return 0;
}

static int net_check(const char *what, const struct rule *r, const struct rule_net *n, struct err *e)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };
	unsigned int max = n->family == 4 ? 32 : 128;

	if (n->family && n->family != 4 && n->family != 6)
		return err_set(e, -EINVAL, "%s: there is no address family %u", what, n->family);
	if (n->family && n->family != r->family)
		return err_set(e, -EINVAL, "%s= is an IPv%u address in a rule for IPv%u: a rule is of one family, "
			       "write two", what, n->family, r->family);
	if (n->family ? n->bits > max : n->bits)
		return err_set(e, -EINVAL, "%s=: a prefix of %u bits is longer than the address, which has %u", what,
			       n->bits, n->family ? max : 0);
	for (unsigned int bit = n->bits; bit < 128; bit++)
		if (n->addr[bit / 8] >> (7 - bit % 8) & 1)
			return err_set(e, -EINVAL, "%s=: bits of the address are set behind its prefix of %u bits: is "
				       "the network meant, or this host (/%u)?", what, n->bits, max);
	if (n->family == 6 && n->bits >= 96 && !memcmp(n->addr, mapped, sizeof(mapped)))
		return err_set(e, -EINVAL, "%s=: no frame carries an IPv4 address in the form ::ffff:a.b.c.d; write "
			       "a.b.c.d", what);
	return 0;
}

int rule_check(const struct rule *r, struct err *e)
{
	uint8_t pf = rule_proto_family(r->proto);
	int rc;

	if (r->action > RULE_HOLD)
		return err_set(e, -EINVAL, "there is no action %u", r->action);
	if (r->family && r->family != 4 && r->family != 6)
		return err_set(e, -EINVAL, "family=%u: 4 or 6", r->family);
	if (pf && pf != r->family)
		return err_set(e, -EINVAL, "proto=%s belongs to IPv%u, the rest of the rule to IPv%u: IPv%u has "
			       "proto=%s", pf == 4 ? "icmp" : "icmp6", pf, r->family, r->family,
			       pf == 4 ? "icmp6" : "icmp");
	if (r->nic != RULE_ANY_NIC && r->nic >= NET_MAX_NICS)
		return err_set(e, -EINVAL, "there is no NIC with the number %u", r->nic);
	rc = ports_check("port", r, &r->port, e);
	if (!rc)
		rc = ports_check("guest-port", r, &r->guest_port, e);
	if (!rc)
		rc = ports_check("client-port", r, &r->client_port, e);
	if (!rc)
		rc = net_check("guest", r, &r->guest, e);
	if (!rc)
		rc = net_check("client", r, &r->client, e);
	return rc;
}

int rules_insert(struct rules *rules, uint32_t at, const struct rule *r, struct err *e)
{
	if (at > rules->n)
		return err_set(e, -EINVAL, "a rule can be put at place 1 to %u, not %llu", rules->n + 1, at + 1ull);
	if (rules->n >= RULES_MAX)
		return err_set(e, -ENOSPC, "there are %u rules already, more cannot be", rules->n);
	memmove(&rules->r[at + 1], &rules->r[at], (rules->n - at) * sizeof(*r));
	rules->r[at] = *r;
	rules->n++;
	return 0;
}

int rules_delete(struct rules *rules, uint32_t at, struct err *e)
{
	if (!rules->n)
		return err_set(e, -EINVAL, "there is no rule to delete");
	if (at >= rules->n)
		return err_set(e, -EINVAL, "there is no rule %llu: there are %u", at + 1ull, rules->n);
	rules->n--;
	memmove(&rules->r[at], &rules->r[at + 1], (rules->n - at) * sizeof(*rules->r));
	return 0;
}

/*
 * On the wire: u32 number of rules, then for each, big-endian: u8 action, u8 family, u8 protocol, u8 NIC,
 * three pairs of u16 (ports of either end, of the guest's, of the client's), then for the guest and for the client
 * u8 family, u8 bits, 16 bytes of address.
 */
static void put_ports(struct wcursor *w, const struct rule_ports *p)
{
	wcursor_be(w, p->lo, 2);
	wcursor_be(w, p->hi, 2);
}

static void put_net(struct wcursor *w, const struct rule_net *n)
{
	wcursor_u8(w, n->family);
	wcursor_u8(w, n->bits);
	wcursor_bytes(w, n->addr, sizeof(n->addr));
}

int rules_encode(const struct rules *rules, uint8_t *out, size_t cap)
{
	struct wcursor w = wcursor_of(out, cap);

	if (rules->n > RULES_MAX)
		return -EMSGSIZE;
	wcursor_be(&w, rules->n, 4);
	for (uint32_t i = 0; i < rules->n; i++) {
		const struct rule *r = &rules->r[i];

		wcursor_u8(&w, r->action);
		wcursor_u8(&w, r->family);
		wcursor_u8(&w, r->proto);
		wcursor_u8(&w, r->nic);
		put_ports(&w, &r->port);
		put_ports(&w, &r->guest_port);
		put_ports(&w, &r->client_port);
		put_net(&w, &r->guest);
		put_net(&w, &r->client);
	}
	return w.bad ? -EMSGSIZE : (int)w.done;
}

static struct rule_ports get_ports(struct cursor *c)
{
	struct rule_ports p;

	p.lo = cursor_u16(c);
	p.hi = cursor_u16(c);
	return p;
}

static struct rule_net get_net(struct cursor *c)
{
	struct rule_net n;

	n.family = cursor_u8(c);
	n.bits = cursor_u8(c);
	cursor_copy(c, n.addr, sizeof(n.addr));
	return n;
}

int rules_decode(const uint8_t *p, size_t len, struct rules *rules)
{
	struct cursor c = cursor_of(p, len);
	uint32_t n = cursor_u32(&c);

	memset(rules, 0, sizeof(*rules));
	if (c.bad || n > RULES_MAX || c.left != (size_t)n * RULE_BYTES)
		return -EPROTO;
	for (uint32_t i = 0; i < n; i++) {
		struct rule *r = &rules->r[i];

		r->action = cursor_u8(&c);
		r->family = cursor_u8(&c);
		r->proto = cursor_u8(&c);
		r->nic = cursor_u8(&c);
		r->port = get_ports(&c);
		r->guest_port = get_ports(&c);
		r->client_port = get_ports(&c);
		r->guest = get_net(&c);
		r->client = get_net(&c);
		if (rule_check(r, NULL)) {
			memset(rules, 0, sizeof(*rules));
			return -EPROTO;
		}
	}
	rules->n = n;
	return 0;
}
