/* SPDX-License-Identifier: BSD-2-Clause */
/* core/rule.c and core/rule_text.c: what is said, what is refused, what fits, and the form on the wire. */
#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "core/net.h"
#include "core/rule.h"

static const char *const nics[] = { "n0", "lan.1" };

static struct rule good(const char *text)
{
	struct rule r;
	struct err e = { 0 };

	if (rule_parse(text, nics, 2, &r, &e))
		fail_msg("%s: %s", text, e.msg);
	return r;
}

/* The canonical text of each; @again NULL: it is the same. */
static void texts(void **state)
{
	static const struct {
		const char *text, *again;
	} t[] = {
		{ "compare", NULL }, { "bypass", NULL }, { "hold", NULL },
		{ "bypass,proto=udp,port=123", NULL },
		{ "hold,proto=tcp,guest-port=3389,client-port=1024-65535,client=192.0.2.0/24,nic=n0", NULL },
		{ "hold,nic=lan.1,proto=udp", "hold,proto=udp,nic=lan.1" },
		{ "bypass,client=192.0.2.7/32", "bypass,client=192.0.2.7" },
		{ "bypass,client=0.0.0.0/0", NULL }, { "bypass,guest=::/0", NULL },
		{ "bypass,guest=2001:0db8::0007/128,family=6", "bypass,guest=2001:db8::7" },
		{ "bypass,guest=2001:db8::/33", NULL },
		{ "compare,family=6", NULL }, { "compare,proto=tcp,family=4", NULL },
		{ "hold,proto=17", "hold,proto=udp" }, { "hold,proto=47", NULL }, { "hold,proto=255", NULL },
		{ "bypass,proto=icmp,family=4", "bypass,proto=icmp" }, { "bypass,proto=58", "bypass,proto=icmp6" },
		{ "hold,proto=sctp,port=7-7", "hold,proto=sctp,port=7" }, { "hold,proto=udplite,port=0", NULL },
		{ "hold,port=0-65534", NULL }, { "hold,port=65535", NULL },
		{ "hold,nic=#0", "hold,nic=n0" }, { "hold,nic=#7", NULL },
	};
	char out[RULE_TEXT_MAX];
	int len;

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct rule r = good(t[i].text), back;

		len = rule_format(&r, nics, 2, out);
		assert_int_equal(len, strlen(out));
		assert_string_equal(out, t[i].again ? t[i].again : t[i].text);
		back = good(out);
		assert_memory_equal(&r, &back, sizeof(r));
	}
}

static void mistakes(void **state)
{
	static const struct {
		const char *text, *says;
	} t[] = {
		{ "", "the rule is empty" }, { "drop", "not with 'drop'" }, { "Bypass", "not with 'Bypass'" },
		{ "proto=udp", "begins with compare, bypass or hold" }, { " bypass", "not with ' bypass'" },
		{ "bypass,", "behind the last one" }, { "bypass,,proto=udp", "between two commas" },
		{ "bypass,prot=udp", "no key 'prot'" }, { "bypass, proto=udp", "no key ' proto'" },
		{ "bypass,=udp", "no key ''" }, { "bypass,guest_port=1", "no key 'guest_port'" },
		{ "bypass,proto", "proto needs a value" }, { "bypass,proto=", "proto needs a value" },
		{ "bypass,proto=udp,proto=tcp", "proto= is given twice" },
		{ "bypass,client=192.0.2.1,client=192.0.2.2", "client= is given twice" },
		{ "bypass,proto=gre", "proto=gre: a protocol is" }, { "bypass,proto=0", "from 1 to 255" },
		{ "bypass,proto=256", "from 1 to 255" }, { "bypass,proto=-1", "from 1 to 255" },
		{ "bypass,proto=6x", "from 1 to 255" }, { "bypass,proto=99999999999999999999", "from 1 to 255" },
		{ "bypass,port=65536", "up to 65535" }, { "bypass,port=x", "up to 65535" },
		{ "bypass,port=1-", "up to 65535" }, { "bypass,port=-1", "up to 65535" },
		{ "bypass,port=1-2-3", "up to 65535" }, { "bypass,port= 1", "up to 65535" },
		{ "bypass,port=9-8", "the lower port comes first" }, { "bypass,guest-port=0-65535", "leave it out" },
		{ "bypass,proto=icmp,port=1", "port= does not go with this proto=" },
		{ "bypass,guest-port=1,proto=47", "guest-port= does not go with" },
		{ "bypass,proto=icmp6,client-port=1", "client-port= does not go with" },
		{ "bypass,client=192.0.2", "client=192.0.2: an address is written" },
		{ "bypass,client=192.0.2.256", "an address is written" }, { "bypass,client=a.test", "an address is" },
		{ "bypass,client=fe80::1%e", "an address is written" }, { "bypass,client=/8", "an address is written" },
		{ "bypass,client=1111:2222:3333:4444:5555:6666:7777:8888:9999:aaaa", "an address is written" },
		{ "bypass,client=192.0.2.0/33", "from 0 to 32" }, { "bypass,client=2001:db8::/129", "from 0 to 128" },
		{ "bypass,client=192.0.2.0/", "from 0 to 32" }, { "bypass,client=192.0.2.0/2x", "from 0 to 32" },
		{ "bypass,client=192.0.2.0/4294967296", "from 0 to 32" },
		{ "bypass,client=192.0.2.1/24", "bits of the address are set behind its prefix of 24" },
		{ "bypass,guest=2001:db8::1/64", "bits of the address are set" },
		{ "bypass,guest=2001:db8::1/127", "bits of the address are set" },
		{ "bypass,guest=::ffff:192.0.2.1", "no frame carries" },
		{ "bypass,client=192.0.2.1,guest=2001:db8::1", "a rule is of one family" },
		{ "bypass,client=192.0.2.1,family=6", "IPv4 address in a rule for IPv6" },
		{ "bypass,client=2001:db8::1,proto=icmp", "IPv6 address in a rule for IPv4" },
		{ "bypass,client=192.0.2.1,proto=icmp6", "IPv4 address in a rule for IPv6" },
		{ "bypass,family=6,proto=icmp", "IPv6 has proto=icmp6" },
		{ "bypass,family=4,proto=icmp6", "IPv4 has proto=icmp" },
		{ "bypass,family=5", "4 for IPv4 or 6 for IPv6" }, { "bypass,family=46", "4 for IPv4" },
		{ "bypass,nic=n1", "nic=n1: there is no netdev with this id; there are n0, lan.1" },
		{ "bypass,nic=#8", "there is no netdev" }, { "bypass,nic=#", "there is no netdev" },
		{ "bypass,nic=n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0"
		  "n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0n0", "longer than anything" },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
		struct err e = { 0 };
		struct rule r;

		if (rule_parse(t[i].text, nics, 2, &r, &e) != -EINVAL)
			fail_msg("'%s' was not refused", t[i].text);
		if (e.code != -EINVAL || !strstr(e.msg, t[i].says))
			fail_msg("'%s' says: %s", t[i].text, e.msg);
		assert_int_equal(rule_parse(t[i].text, nics, 2, &r, NULL), -EINVAL);
	}
}

static void nic_names(void **state)
{
	char longest[400], out[RULE_TEXT_MAX];
	const char *const odd[] = { longest };
	struct rule r, back;
	struct err e;

	(void)state;
	assert_int_equal(rule_parse("hold,nic=n0", nics, 0, &r, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "this VM has no NIC"));
	assert_int_equal(rule_parse("hold,nic=n0", nics, 1, &r, &e), 0);
	assert_int_equal(rule_parse("hold,nic=x", nics, 1, &r, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "there is n0"));
	/* No name is so long that the text is cut. */
	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	r = good("hold,proto=udplite,port=10000-65535,guest-port=10000-65535,client-port=10000-65535,"
		 "guest=2001:db8:1111:2222:3333:4444:5555:6660/124,"
		 "client=2001:db8:1111:2222:3333:4444:5555:6660/124,nic=n0");
	assert_true(rule_format(&r, odd, 1, out) < RULE_TEXT_MAX);
	assert_non_null(strstr(out, ",nic=#0"));
	assert_int_equal(rule_parse(out, odd, 1, &back, &e), 0);
	assert_memory_equal(&r, &back, sizeof(r));
}

/* Client and guest as text, "" for what is not IP. */
static struct flow_key key(uint8_t nic, uint8_t proto, const char *guest, uint16_t gp, const char *client, uint16_t cp)
{
	struct flow_key k = { .nic = nic, .proto = proto, .guest_port = gp, .other_port = cp };

	if (!*guest)
		return k;
	k.family = strchr(guest, ':') ? 6 : 4;
	assert_int_equal(inet_pton(k.family == 4 ? AF_INET : AF_INET6, guest, k.guest), 1);
	assert_int_equal(inet_pton(k.family == 4 ? AF_INET : AF_INET6, client, k.other), 1);
	return k;
}

static bool fits(const char *text, struct flow_key k)
{
	struct rules rules = { .n = 1, .r = { good(text) } };

	rules.r[0].action = RULE_HOLD;
	return rules_match(&rules, &k) == RULE_HOLD;
}

static void what_fits(void **state)
{
	struct flow_key ntp = key(0, 17, "192.0.2.9", 40000, "192.0.2.130", 123);
	struct flow_key web = key(1, 6, "2001:db8::9", 80, "2001:db8:0:1::5", 50000);
	struct flow_key ping = key(0, 1, "192.0.2.9", 123, "192.0.2.130", 0);
	struct flow_key arp = key(0, 0, "", 0x88cc, "", 0);
	struct flow_key first = key(0, 6, "0.0.0.0", 80, "0.0.0.0", 123);

	(void)state;
	assert_true(fits("hold", ntp) && fits("hold", web) && fits("hold", ping) && fits("hold", arp));
	assert_true(fits("hold,nic=n0", ntp) && fits("hold,nic=n0", arp) && !fits("hold,nic=n0", web));
	assert_true(fits("hold,family=4", ntp) && !fits("hold,family=4", web) && !fits("hold,family=4", arp));
	assert_true(fits("hold,family=6", web) && !fits("hold,family=6", ntp) && !fits("hold,family=6", arp));
	assert_true(fits("hold,proto=udp", ntp) && !fits("hold,proto=udp", web) && !fits("hold,proto=udp", arp));
	/* Either end, or one of them. */
	assert_true(fits("hold,port=123", ntp) && fits("hold,port=40000", ntp) && !fits("hold,port=124", ntp));
	assert_true(fits("hold,client-port=123", ntp) && !fits("hold,guest-port=123", ntp));
	assert_true(fits("hold,guest-port=40000", ntp) && !fits("hold,client-port=40000", ntp));
	assert_true(fits("hold,port=100-200", ntp) && fits("hold,port=123-124", ntp) && fits("hold,port=122-123", ntp));
	assert_true(!fits("hold,port=124-39999", ntp) && !fits("hold,port=40001-65535", ntp));
	assert_true(fits("hold,port=123,guest-port=40000", ntp) && !fits("hold,port=123,guest-port=40001", ntp));
	/* What has no ports has none, whatever stands in their place. */
	assert_true(!fits("hold,port=123", ping) && fits("hold,proto=icmp", ping));
	assert_true(!fits("hold,port=35020", arp) && !fits("hold,guest-port=0-65534", arp));
	/* Prefixes, also such that end inside a byte. */
	assert_true(fits("hold,client=192.0.2.130", ntp) && !fits("hold,client=192.0.2.131", ntp));
	assert_true(fits("hold,client=192.0.2.128/25", ntp) && !fits("hold,client=192.0.2.0/25", ntp));
	assert_true(fits("hold,client=192.0.2.128/30", ntp) && !fits("hold,client=192.0.2.132/30", ntp));
	assert_true(fits("hold,guest=192.0.2.9", ntp) && !fits("hold,guest=192.0.2.130", ntp));
	assert_true(fits("hold,client=0.0.0.0/0", ntp) && !fits("hold,client=0.0.0.0/0", web));
	assert_true(fits("hold,client=2001:db8:0:1::/64", web) && !fits("hold,client=2001:db8::/64", web));
	assert_true(fits("hold,client=2001:db8::/63", web) && fits("hold,client=::/0", web));
	assert_true(!fits("hold,client=::/0", ntp) && !fits("hold,client=::/0", arp));
	assert_true(!fits("hold,client=0.0.0.0/0", arp));
	/* An IPv4 rule does not fit an IPv6 flow whose address begins with the same bytes. */
	assert_true(fits("hold,client=192.0.2.130", ntp) &&
		    !fits("hold,client=32.1.13.184", web) && !fits("hold,client=c000:282::/32", ntp));
	assert_true(fits("hold,client=0.0.0.0,port=123", first) && !fits("hold,client=::,port=123", first));
}

static void first_decides(void **state)
{
	struct flow_key ntp = key(0, 17, "192.0.2.9", 40000, "192.0.2.130", 123);
	struct flow_key dns = key(0, 17, "192.0.2.9", 40000, "192.0.2.130", 53);
	struct flow_key web = key(0, 6, "192.0.2.9", 80, "192.0.2.130", 50000);
	struct rules rules = { 0 };
	struct rule r;
	struct err e;

	(void)state;
	assert_int_equal(rules_match(&rules, &ntp), RULE_COMPARE);
	r = good("hold,proto=udp");
	assert_int_equal(rules_insert(&rules, 0, &r, &e), 0);
	r = good("bypass,port=123");
	assert_int_equal(rules_insert(&rules, 0, &r, &e), 0);
	r = good("compare,client=192.0.2.130");
	assert_int_equal(rules_insert(&rules, 2, &r, &e), 0);
	r = good("bypass");
	assert_int_equal(rules_insert(&rules, 4, &r, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "place 1 to 4, not 5"));
	assert_int_equal(rules_insert(&rules, 3, &r, &e), 0);
	assert_int_equal(rules_match(&rules, &ntp), RULE_BYPASS);
	assert_int_equal(rules_match(&rules, &dns), RULE_HOLD);
	assert_int_equal(rules_match(&rules, &web), RULE_COMPARE);
	assert_int_equal(rules_delete(&rules, 0, &e), 0);
	assert_int_equal(rules_match(&rules, &ntp), RULE_HOLD);
	assert_int_equal(rules_delete(&rules, 3, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "no rule 4: there are 3"));
	while (rules.n)
		assert_int_equal(rules_delete(&rules, rules.n - 1, &e), 0);
	assert_int_equal(rules_delete(&rules, 0, &e), -EINVAL);
	for (int i = 0; i < RULES_MAX; i++)
		assert_int_equal(rules_insert(&rules, rules.n, &r, &e), 0);
	assert_int_equal(rules_insert(&rules, 0, &r, &e), -ENOSPC);
	assert_int_equal(rules_insert(&rules, UINT32_MAX, &r, &e), -EINVAL);
}

static unsigned int pick(unsigned int n)
{
	return (unsigned int)rand() % n;
}

static void random_ports(char *out, size_t cap, const char *key)
{
	unsigned int lo = pick(65536), hi = pick(2) ? lo : lo + pick(65536 - lo);

	if (!lo && hi == 65535)
		hi--;
	snprintf(out + strlen(out), cap - strlen(out), ",%s=%u-%u", key, lo, hi);
}

static void random_net(char *out, size_t cap, const char *key, int family)
{
	unsigned int max = family == 4 ? 32 : 128, bits = pick(max + 1);
	uint8_t a[16] = { 0 };
	char text[INET6_ADDRSTRLEN];

	for (unsigned int i = 0; i < bits; i++)
		a[i / 8] |= (uint8_t)(pick(2) << (7 - i % 8));
	inet_ntop(family == 4 ? AF_INET : AF_INET6, a, text, sizeof(text));
	snprintf(out + strlen(out), cap - strlen(out), ",%s=%s/%u", key, text, bits);
}

/* A rule text that is right, out of everything that can be said. */
static void random_rule(char *out, size_t cap)
{
	static const char *const actions[] = { "compare", "bypass", "hold" };
	static const char *const with[] = { "tcp", "udp", "sctp", "udplite", "6" };
	int family = pick(2) ? 4 : 6, ports = (int)pick(2);

	snprintf(out, cap, "%s", actions[pick(3)]);
	if (pick(2) && ports)
		snprintf(out + strlen(out), cap - strlen(out), ",proto=%s", with[pick(5)]);
	else if (!ports && pick(2))
		snprintf(out + strlen(out), cap - strlen(out), ",proto=%s", family == 4 ? "icmp" : "icmp6");
	if (ports && pick(2))
		random_ports(out, cap, "port");
	if (ports && pick(2))
		random_ports(out, cap, "guest-port");
	if (ports && pick(2))
		random_ports(out, cap, "client-port");
	if (pick(2))
		random_net(out, cap, "guest", family);
	if (pick(2))
		random_net(out, cap, "client", family);
	if (pick(2))
		snprintf(out + strlen(out), cap - strlen(out), ",nic=%s", nics[pick(2)]);
	if (pick(2))
		snprintf(out + strlen(out), cap - strlen(out), ",family=%d", family);
}

static void round_trips(void **state)
{
	unsigned int seed = getenv("SEED") ? (unsigned int)atoi(getenv("SEED")) : (unsigned int)time(NULL);
	char text[400], out[RULE_TEXT_MAX];
	uint8_t bytes[RULES_BYTES_MAX];
	struct rules rules, back;
	struct rule again;
	struct err e;

	(void)state;
	printf("seed %u (SEED=)\n", seed);
	srand(seed);
	for (int i = 0; i < 2000; i++) {
		memset(&rules, 0, sizeof(rules));
		for (unsigned int n = pick(RULES_MAX + 1); rules.n < n; rules.n++) {
			struct rule *r = &rules.r[rules.n];

			random_rule(text, sizeof(text));
			*r = good(text);
			rule_format(r, nics, 2, out);
			if (rule_parse(out, nics, 2, &again, &e))
				fail_msg("%s became %s: %s", text, out, e.msg);
			assert_memory_equal(r, &again, sizeof(again));
		}
		assert_int_equal(rules_encode(&rules, bytes, sizeof(bytes)), 4 + rules.n * RULE_BYTES);
		assert_int_equal(rules_decode(bytes, 4 + rules.n * RULE_BYTES, &back), 0);
		assert_memory_equal(&rules, &back, sizeof(back));
	}
}

/* Whatever the peer says: refused, or something that is well formed and can be shown. */
static void hostile_bytes(void **state)
{
	unsigned int seed = getenv("SEED") ? (unsigned int)atoi(getenv("SEED")) : (unsigned int)time(NULL);
	char text[400], out[RULE_TEXT_MAX];
	unsigned int passed = 0;
	struct rules rules = { 0 }, got;
	uint8_t bytes[RULES_BYTES_MAX], *exact;
	struct rule again;
	struct err e;

	(void)state;
	printf("seed %u (SEED=)\n", seed);
	srand(seed);
	while (rules.n < 3) {
		random_rule(text, sizeof(text));
		rules.r[rules.n++] = good(text);
	}
	assert_int_equal(rules_encode(&rules, bytes, 3 * RULE_BYTES), -EMSGSIZE);
	assert_int_equal(rules_encode(&rules, bytes, sizeof(bytes)), 4 + 3 * RULE_BYTES);
	for (size_t len = 0; len < sizeof(bytes); len++) {
		exact = malloc(len ? len : 1);
		memcpy(exact, bytes, len);
		assert_int_equal(rules_decode(exact, len, &got), len == 4 + 3 * RULE_BYTES ? 0 : -EPROTO);
		free(exact);
	}
	for (int i = 0; i < 200000; i++) {
		uint8_t b[4 + 3 * RULE_BYTES];

		memcpy(b, bytes, sizeof(b));
		for (unsigned int k = pick(3); k < 3; k++)
			b[pick(sizeof(b))] = (uint8_t)rand();
		if (rules_decode(b, sizeof(b), &got)) {
			assert_int_equal(got.n, 0);
			continue;
		}
		passed++;
		for (uint32_t k = 0; k < got.n; k++) {
			rule_format(&got.r[k], nics, 2, out);
			if (rule_parse(out, nics, 2, &again, &e))
				fail_msg("decoded %s: %s", out, e.msg);
			assert_memory_equal(&again, &got.r[k], sizeof(again));
		}
	}
	assert_in_range(passed, 100, 200000);
	rules.n = RULES_MAX + 1;
	assert_int_equal(rules_encode(&rules, bytes, sizeof(bytes)), -EMSGSIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts), cmocka_unit_test(mistakes), cmocka_unit_test(nic_names),
		cmocka_unit_test(what_fits), cmocka_unit_test(first_decides), cmocka_unit_test(round_trips),
		cmocka_unit_test(hostile_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
