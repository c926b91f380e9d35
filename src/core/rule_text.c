/* SPDX-License-Identifier: BSD-2-Clause */
/* Rules as people write them; see rule.h. Whatever is wrong gets a sentence that says what would be right. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/net.h"
#include "core/rule_internal.h"

enum key { KEY_PROTO, KEY_PORT, KEY_GUEST_PORT, KEY_CLIENT_PORT, KEY_GUEST, KEY_CLIENT, KEY_NIC, KEY_FAMILY, KEYS };

static const char *const keys[KEYS] = {
	[KEY_PROTO] = "proto", [KEY_PORT] = "port", [KEY_GUEST_PORT] = "guest-port", [KEY_CLIENT_PORT] = "client-port",
	[KEY_GUEST] = "guest", [KEY_CLIENT] = "client", [KEY_NIC] = "nic", [KEY_FAMILY] = "family",
};

static const struct {
	const char *name;
	uint8_t proto;
} protos[] = {
	{ "tcp", PROTO_TCP }, { "udp", PROTO_UDP }, { "icmp", PROTO_ICMP }, { "icmp6", PROTO_ICMP6 },
	{ "sctp", PROTO_SCTP }, { "udplite", PROTO_UDPLITE },
};

#define N_PROTOS (sizeof(protos) / sizeof(*protos))
#define WORD_MAX 128	/* bytes of one KEY=VALUE, NUL included; the longest is a NIC's name or an IPv6 network */
#define SHOW(s) ((int)strnlen(s, 40)), (s)

/* Digits only, no sign, no space. Return: the end of the number, NULL when there is none or it is above @max */
static const char *number(const char *s, uint32_t max, uint32_t *out)
{
	const char *p = s;
	uint32_t v = 0;

	for (; *p >= '0' && *p <= '9'; p++) {
		v = v * 10 + (uint32_t)(*p - '0');
		if (v > max)
			return NULL;
	}
	*out = v;
	return p == s ? NULL : p;
}

static int parse_proto(const char *v, uint8_t *out, struct err *e)
{
	const char *end;
	uint32_t n = 0;

	for (size_t i = 0; i < N_PROTOS; i++) {
		if (!strcmp(v, protos[i].name)) {
			*out = protos[i].proto;
			return 0;
		}
	}
	end = number(v, 255, &n);
	if (!end || *end || !n)
		return err_set(e, -EINVAL, "proto=%.*s: a protocol is tcp, udp, icmp, icmp6, sctp, udplite, or its "
			       "number from 1 to 255", SHOW(v));
	*out = (uint8_t)n;
	return 0;
}

static int parse_ports(const char *key, const char *v, struct rule_ports *out, struct err *e)
{
	uint32_t lo = 0, hi = 0;
	const char *p = number(v, UINT16_MAX, &lo);

	hi = lo;
	if (p && *p == '-')
		p = number(p + 1, UINT16_MAX, &hi);
	if (!p || *p)
		return err_set(e, -EINVAL, "%s=%.*s: a port is a number up to 65535, or a range such as 6000-6010", key,
			       SHOW(v));
	if (!lo && hi == UINT16_MAX)
		return err_set(e, -EINVAL, "%s=%.*s is every port: leave it out", key, SHOW(v));
	out->lo = (uint16_t)lo;
	out->hi = (uint16_t)hi;
	return 0;
}

static int parse_net(const char *key, const char *v, struct rule_net *out, struct err *e)
{
	const char *slash = strchr(v, '/'), *end;
	size_t len = slash ? (size_t)(slash - v) : strlen(v);
	char addr[INET6_ADDRSTRLEN];
	uint32_t bits, max;

	if (len < sizeof(addr)) {
		memcpy(addr, v, len);
		addr[len] = 0;
	}
	if (len < sizeof(addr) && inet_pton(AF_INET, addr, out->addr) == 1)
		out->family = 4;
	else if (len < sizeof(addr) && inet_pton(AF_INET6, addr, out->addr) == 1)
		out->family = 6;
	else
		return err_set(e, -EINVAL, "%s=%.*s: an address is written as 192.0.2.7 or 2001:db8::7, a network as "
			       "192.0.2.0/24 or 2001:db8::/64", key, SHOW(v));
	bits = max = out->family == 4 ? 32 : 128;
	end = slash ? number(slash + 1, 999, &bits) : "";
	if (!end || *end || bits > max)
		return err_set(e, -EINVAL, "%s=%.*s: behind the / stand the bits of the prefix, a number from 0 to %u",
			       key, SHOW(v), max);
	out->bits = (uint8_t)bits;
	return 0;
}

static int parse_nic(const char *v, const char *const *nics, unsigned int n_nics, uint8_t *out, struct err *e)
{
	const char *end;
	char all[200] = "";
	uint32_t n = 0;
	size_t used = 0;

	for (unsigned int i = 0; i < n_nics; i++) {
		if (!strcmp(v, nics[i])) {
			*out = (uint8_t)i;
			return 0;
		}
		if (used < sizeof(all))
			used += (size_t)snprintf(all + used, sizeof(all) - used, "%s%.60s", i ? ", " : "", nics[i]);
	}
	/* The form of rule_format() for a NIC without a name; QEMU's ids have no '#'. */
	end = *v == '#' ? number(v + 1, NET_MAX_NICS - 1, &n) : NULL;
	if (end && !*end) {
		*out = (uint8_t)n;
		return 0;
	}
	if (!n_nics)
		return err_set(e, -EINVAL, "nic=%.*s: this VM has no NIC", SHOW(v));
	return err_set(e, -EINVAL, "nic=%.*s: there is no netdev with this id; there %s %s", SHOW(v),
		       n_nics == 1 ? "is" : "are", all);
}

static int parse_value(enum key k, const char *v, const char *const *nics, unsigned int n_nics, struct rule *r,
		       struct err *e)
{
	switch (k) {
	case KEY_PROTO:
		return parse_proto(v, &r->proto, e);
	case KEY_PORT:
		return parse_ports("port", v, &r->port, e);
	case KEY_GUEST_PORT:
		return parse_ports("guest-port", v, &r->guest_port, e);
	case KEY_CLIENT_PORT:
		return parse_ports("client-port", v, &r->client_port, e);
	case KEY_GUEST:
		return parse_net("guest", v, &r->guest, e);
	case KEY_CLIENT:
		return parse_net("client", v, &r->client, e);
	case KEY_NIC:
		return parse_nic(v, nics, n_nics, &r->nic, e);
	case KEY_FAMILY:
		if ((*v != '4' && *v != '6') || v[1])
			return err_set(e, -EINVAL, "family=%.*s: 4 for IPv4 or 6 for IPv6", SHOW(v));
		r->family = (uint8_t)(*v - '0');
		return 0;
	case KEYS:
		break;
	}
	return -EINVAL;
}

/* @word: one KEY=VALUE, cut out of the rule; @seen: a bit for each key that there was */
static int parse_word(char *word, unsigned int *seen, const char *const *nics, unsigned int n_nics, struct rule *r,
		      struct err *e)
{
	char *eq = strchr(word, '=');
	int k = 0;

	if (!*word)
		return err_set(e, -EINVAL, "there is nothing between two commas, or behind the last one: KEY=VALUE is "
			       "expected");
	if (eq)
		*eq = 0;
	while (k < KEYS && strcmp(word, keys[k]))
		k++;
	if (k == KEYS)
		return err_set(e, -EINVAL, "a rule has no key '%.*s': the keys are proto, port, guest-port, "
			       "client-port, guest, client, nic and family", SHOW(word));
	if (!eq || !eq[1])
		return err_set(e, -EINVAL, "%s needs a value: %s=...", word, word);
	if (*seen & 1u << k)
		return err_set(e, -EINVAL, "%s= is given twice: a flow must fit all keys of a rule, so write two rules",
			       word);
	*seen |= 1u << k;
	return parse_value((enum key)k, eq + 1, nics, n_nics, r, e);
}

/* Cut off the text up to the next comma; *@text is what follows it, NULL at the end. Return: 0, or -EINVAL */
static int next_word(const char **text, char word[WORD_MAX], struct err *e)
{
	size_t len = strcspn(*text, ",");

	if (len >= WORD_MAX)
		return err_set(e, -EINVAL, "'%.40s...' is longer than anything that a rule can say", *text);
	memcpy(word, *text, len);
	word[len] = 0;
	*text = (*text)[len] ? *text + len + 1 : NULL;
	return 0;
}

int rule_parse(const char *text, const char *const *nics, unsigned int n_nics, struct rule *r, struct err *e)
{
	static const struct rule any = {
		.nic = RULE_ANY_NIC, .port = { 0, UINT16_MAX }, .guest_port = { 0, UINT16_MAX },
		.client_port = { 0, UINT16_MAX },
	};
	unsigned int seen = 0;
	char word[WORD_MAX];
	int rc;

	*r = any;
	if (!*text)
		return err_set(e, -EINVAL, "the rule is empty: write compare, bypass or hold, and what it is for, e.g. "
			       "bypass,proto=udp,port=123");
	rc = next_word(&text, word, e);
	if (rc)
		return rc;
	for (r->action = RULE_COMPARE; r->action <= RULE_HOLD; r->action++)
		if (!strcmp(word, rule_action_name(r->action)))
			break;
	if (r->action > RULE_HOLD)
		return err_set(e, -EINVAL, "a rule begins with compare, bypass or hold, not with '%.*s'", SHOW(word));
	while (!rc && text) {
		rc = next_word(&text, word, e);
		if (!rc)
			rc = parse_word(word, &seen, nics, n_nics, r, e);
	}
	if (rc)
		return rc;
	if (!r->family)
		r->family = rule_proto_family(r->proto);
	if (!r->family)
		r->family = r->guest.family ? r->guest.family : r->client.family;
	return rule_check(r, e);
}

struct out {
	char *p;
	size_t n;
};

static void add(struct out *o, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void add(struct out *o, const char *fmt, ...)
{
	va_list ap;
	int k;

	va_start(ap, fmt);
	k = vsnprintf(o->p + o->n, RULE_TEXT_MAX - o->n, fmt, ap);
	va_end(ap);
	if (k > 0)
		o->n = o->n + (size_t)k < RULE_TEXT_MAX ? o->n + (size_t)k : RULE_TEXT_MAX - 1;
}

static void add_ports(struct out *o, const char *key, const struct rule_ports *p)
{
	if (rule_ports_any(p))
		return;
	add(o, ",%s=%u", key, p->lo);
	if (p->hi != p->lo)
		add(o, "-%u", p->hi);
}

static void add_net(struct out *o, const char *key, const struct rule_net *n)
{
	char addr[INET6_ADDRSTRLEN] = "?";

	if (!n->family)
		return;
	inet_ntop(n->family == 4 ? AF_INET : AF_INET6, n->addr, addr, sizeof(addr));
	add(o, ",%s=%s", key, addr);
	if (n->bits != (n->family == 4 ? 32 : 128))
		add(o, "/%u", n->bits);
}

static void add_proto(struct out *o, uint8_t proto)
{
	for (size_t i = 0; i < N_PROTOS; i++) {
		if (protos[i].proto == proto) {
			add(o, ",proto=%s", protos[i].name);
			return;
		}
	}
	if (proto)
		add(o, ",proto=%u", proto);
}

int rule_format(const struct rule *r, const char *const *nics, unsigned int n_nics, char out[RULE_TEXT_MAX])
{
	struct out o = { out, 0 };

	*out = 0;
	add(&o, "%s", rule_action_name((enum rule_action)r->action));
	add_proto(&o, r->proto);
	add_ports(&o, "port", &r->port);
	add_ports(&o, "guest-port", &r->guest_port);
	add_ports(&o, "client-port", &r->client_port);
	add_net(&o, "guest", &r->guest);
	add_net(&o, "client", &r->client);
	/* Only where nothing else says it. */
	if (r->family && !rule_proto_family(r->proto) && !r->guest.family && !r->client.family)
		add(&o, ",family=%u", r->family);
	if (r->nic == RULE_ANY_NIC)
		return (int)o.n;
	if (r->nic < n_nics && strlen(nics[r->nic]) < RULE_TEXT_MAX - o.n - strlen(",nic="))
		add(&o, ",nic=%s", nics[r->nic]);
	else
		add(&o, ",nic=#%u", r->nic);
	return (int)o.n;
}
