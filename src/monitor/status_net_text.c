/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The network's part of the status for people, made from the JSON. The figures that everybody looks at have rows of
 * their own; what is zero on a healthy day is shown only when it is not.
 */
#include <inttypes.h>

#include "monitor/status_internal.h"

#define TEXT_RULES 4	/* rules that are shown; `lockstep rule list` shows all */

/* A counter that is shown only when it is not 0, and what it says. */
struct rare {
	const char *key, *text;
};

static void text_rare(struct json_object *n, FILE *f, const char *label, const struct rare *r, size_t count)
{
	const char *sep = "";
	bool any = false;

	for (size_t i = 0; i < count; i++) {
		if (!text_u64(n, r[i].key))
			continue;
		if (!any)
			fprintf(f, "%-*s", TEXT_LABEL, label);
		any = true;
		fprintf(f, "%s%s %" PRIu64, sep, r[i].text, text_u64(n, r[i].key));
		sep = ", ";
	}
	if (any)
		fputc('\n', f);
}

#define RARE(n, f, label, list) text_rare(n, f, label, list, sizeof(list) / sizeof(*(list)))

static void text_mode(struct json_object *n, FILE *f)
{
	const char *mode = text_str(n, "mode");
	uint64_t entered = text_u64(n, "hybrid_entered");
	char t[32];

	fprintf(f, "%-*s%s", TEXT_LABEL, "  network", mode);
	if (!strcmp(mode, "off"))
		fprintf(f, ": there is no second copy to compare with");
	if (!strcmp(mode, "hybrid"))
		fprintf(f, ": the copies keep differing, so output leaves with a checkpoint every %s",
			text_ms(text_num(n, "hybrid_interval_ms"), t));
	if (entered)
		fprintf(f, "; went hybrid %" PRIu64 " time%s", entered, entered == 1 ? "" : "s");
	fputc('\n', f);
}

static void text_rules(struct json_object *n, FILE *f)
{
	struct json_object *rules = text_get(n, "rules", json_type_array);
	size_t count = rules ? json_object_array_length(rules) : 0;

	for (size_t i = 0; i < count && i < TEXT_RULES; i++) {
		char label[24];

		snprintf(label, sizeof(label), "  rule %zu", i + 1);
		text_row(f, label, "%s", text_str(json_object_array_get_idx(rules, i), "rule"));
	}
	if (count > TEXT_RULES)
		text_row(f, "", "and %zu more: 'lockstep rule list'", count - TEXT_RULES);
}

/* " of 4096", or nothing where the limit is not known. */
static const char *of(struct json_object *limits, const char *key, char b[40])
{
	*b = 0;
	if (text_u64(limits, key))
		snprintf(b, 40, " of %" PRIu64, text_u64(limits, key));
	return b;
}

static const char *of_bytes(struct json_object *limits, const char *key, char b[40])
{
	char t[32];

	*b = 0;
	if (text_u64(limits, key))
		snprintf(b, 40, " of %s", text_bytes(text_num(limits, key), t));
	return b;
}

static void text_now(struct json_object *n, FILE *f)
{
	struct json_object *l = text_obj(n, "limits");
	char a[32], b[40], c[40];

	text_row(f, "  held", "%" PRIu64 "%s packets, %s%s", text_u64(n, "held"), of(l, "held", b),
		 text_bytes(text_num(n, "held_bytes"), a), of_bytes(l, "held_bytes", c));
	text_row(f, "  of secondary", "%" PRIu64 "%s packets, %s%s", text_u64(n, "held_svm"), of(l, "held", b),
		 text_bytes(text_num(n, "held_svm_bytes"), a), of_bytes(l, "held_bytes", c));
	text_row(f, "  flows", "%" PRIu64 "%s, not established %" PRIu64 "; logged input %" PRIu64 "%s",
		 text_u64(n, "flows"), of(l, "flows", b), text_u64(n, "flows_embryo"), text_u64(n, "logged"),
		 of(l, "logged", c));
	if (text_u64(n, "reasm"))
		text_row(f, "  fragments", "%" PRIu64 "%s datagrams are incomplete", text_u64(n, "reasm"),
			 of(l, "reasm", b));
}

static void text_counters(struct json_object *n, FILE *f)
{
	static const struct rare drops[] = {
		{ "drop_pool", "no buffer" }, { "drop_room", "no room at the secondary" },
		{ "drop_held", "held, too many" }, { "drop_bad", "malformed or doubled" },
		{ "drop_syn", "new connections in a flood" }, { "drop_qemu", "QEMU's socket full" },
		{ "drop_tap", "TAP: too long, or not taken" },
	};
	static const struct rare limits[] = {
		{ "limit_flow", "packets of a flow" }, { "limit_held", "packets held" },
		{ "limit_bytes", "bytes held" }, { "limit_flows", "flows" }, { "flows_full", "no room for a flow" },
		{ "flows_evicted", "flows evicted" }, { "flows_embryo_evicted", "unestablished ones evicted" },
		{ "addrs_full", "addresses not announced" }, { "limit_reasm", "fragmented datagrams" },
		{ "reasm_dropped", "incomplete ones" },
	};
	static const struct rare others[] = {
		{ "datagrams", "datagrams compared" }, { "reassembled", "reassembled" },
		{ "svm_twice", "repeated by the secondary" }, { "icmp_translated", "ICMP errors translated" },
	};
	uint64_t dropped = 0, sig = text_u64(n, "signed_flows");
	char a[32], b[32];

	for (size_t i = 0; i < sizeof(drops) / sizeof(*drops); i++)
		dropped += text_u64(n, drops[i].key);
	text_row(f, "  packets", "in %" PRIu64 " (%s), out %" PRIu64 " (%s), mismatches %" PRIu64 ", dropped %" PRIu64,
		 text_u64(n, "tap_in"), text_bytes(text_num(n, "bytes_in"), a), text_u64(n, "tap_out"),
		 text_bytes(text_num(n, "bytes_out"), b), text_u64(n, "mismatches"), dropped);
	text_row(f, "  released", "%" PRIu64 " after compare, %" PRIu64 " by checkpoints, %" PRIu64 " at once, %" PRIu64
		 " by a rule", text_u64(n, "released_compared"), text_u64(n, "released_staged"), text_u64(n, "passed"),
		 text_u64(n, "bypassed"));
	RARE(n, f, "  of these", others);
	RARE(n, f, "  dropped", drops);
	RARE(n, f, "  limits hit", limits);
	if (sig)
		text_row(f, "  signed", "%" PRIu64 " TCP connection%s with MD5 or AO signatures: not translated, they "
			 "leave with checkpoints only", sig, sig == 1 ? "" : "s");
}

static void text_nics(struct json_object *n, FILE *f)
{
	struct json_object *nics = text_get(n, "nics", json_type_array);

	for (size_t i = 0; nics && i < json_object_array_length(nics); i++) {
		struct json_object *o = json_object_array_get_idx(nics, i);
		char label[80], a[32], b[32];

		snprintf(label, sizeof(label), "  nic %.60s", text_str(o, "id"));
		text_row(f, label, "%scompare-timeout %s, expired-scan-cycle %s, max-queue-size %" PRIu64,
			 strlen(label) < TEXT_LABEL ? "" : " ", text_ms(text_num(o, "compare_timeout_ms"), a),
			 text_ms(text_num(o, "expired_scan_cycle_ms"), b), text_u64(o, "max_queue_size"));
	}
}

void status_net_text(struct json_object *n, FILE *f)
{
	if (!n)
		return;
	text_mode(n, f);
	text_rules(n, f);
	text_now(n, f);
	text_counters(n, f);
	text_nics(n, f);
}
