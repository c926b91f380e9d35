/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: rules. What a user types is refused with a sentence or becomes a rule that its own text gives again;
 * what a peer sends is refused or becomes rules whose bytes give them again; rules decide about any flow.
 * First byte: 0: bytes of a peer follow; else the text of a rule, and a flow behind its NUL.
 */
#include <errno.h>
#include <string.h>

#include "core/rule.h"
#include "fuzz.h"

static const char *const nics[2] = { "n0", "net-1" };

static void match(const struct rules *rules, const uint8_t *p, size_t n)
{
	struct flow_key key = { 0 };
	enum rule_action a;

	memcpy(&key, p, n < sizeof(key) ? n : sizeof(key));
	a = rules_match(rules, &key);
	MUST(a == RULE_COMPARE || a == RULE_BYPASS || a == RULE_HOLD);
	MUST(rules->n || a == RULE_COMPARE);
}

static void text(const uint8_t *p, size_t n)
{
	size_t len = strnlen((const char *)p, n);
	char *s = malloc(len + 1), again[RULE_TEXT_MAX];
	struct rules rules = { .n = 1 };
	struct err e = { 0 };
	struct rule r;
	int rc;

	if (!s)
		return;
	memcpy(s, p, len);
	s[len] = '\0';
	rc = rule_parse(s, nics, 2, &rules.r[0], &e);
	free(s);
	if (rc) {
		MUST(rc == -EINVAL && e.msg[0]);
		return;
	}
	rc = rule_format(&rules.r[0], nics, 2, again);
	MUST(rc > 0 && rc < RULE_TEXT_MAX && strlen(again) == (size_t)rc);
	MUST(!rule_parse(again, nics, 2, &r, &e));
	MUST(!memcmp(&r, &rules.r[0], sizeof(r)));
	if (n > len)
		match(&rules, p + len + 1, n - len - 1);
}

static void wire(const uint8_t *p, size_t n)
{
	uint8_t bytes[RULES_BYTES_MAX];
	struct rules rules, again;
	int rc = rules_decode(p, n, &rules), len;

	if (rc) {
		MUST(rc == -EPROTO);
		return;
	}
	MUST(rules.n <= RULES_MAX);
	len = rules_encode(&rules, bytes, sizeof(bytes));
	MUST(len >= 0 && (!len || rules_encode(&rules, bytes, (size_t)len - 1) == -EMSGSIZE));
	MUST(len == rules_encode(&rules, bytes, sizeof(bytes)) && !rules_decode(bytes, (size_t)len, &again));
	MUST(again.n == rules.n && !memcmp(again.r, rules.r, rules.n * sizeof(rules.r[0])));
	match(&rules, p, n);
	for (uint32_t i = 0; i < rules.n; i++) {
		char out[RULE_TEXT_MAX];
		struct err e = { 0 };
		struct rule r;

		/* The peer may know more NICs than the names we have here. */
		if (rules.r[i].nic != RULE_ANY_NIC && rules.r[i].nic >= 2)
			continue;
		MUST(rule_format(&rules.r[i], nics, 2, out) < RULE_TEXT_MAX);
		MUST(!rule_parse(out, nics, 2, &r, &e));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	if (!size)
		return 0;
	if (bytes[0])
		text(bytes + 1, size - 1);
	else
		wire(bytes + 1, size - 1);
	return 0;
}
