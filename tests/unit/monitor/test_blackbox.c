/* SPDX-License-Identifier: BSD-2-Clause */
/* The black box: what a pair that broke says about it, as a file, as text and as JSON; garbage is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/ring_why.h"
#include "ft_sim.h"
#include "monitor/blackbox.h"

static struct sim sim;

enum how { KILL, FREEZE, KILL_QEMU };

/* A pair that lives for a while, and then breaks. */
static void live(enum how how, nstime before)
{
	sim_start(&sim, 7);
	for (int i = 0; i < 2; i++) {
		sim.n[i].ring = ring_new(RING_STEPS);
		assert_non_null(sim.n[i].ring);
	}
	sim_run(&sim, before);
	assert_int_equal(sim.n[1].ft.state, FT_STANDBY);
	if (how == KILL)
		sim_kill(&sim, 0);
	else if (how == FREEZE)
		sim_freeze(&sim, 0, 100 * NS_PER_S);
	else
		sim_kill_qemu(&sim, 0);
	sim_run(&sim, sim.now + 5 * NS_PER_S);
	assert_string_equal(sim.bad, "");
	assert_int_equal(sim.n[1].ft.state, FT_ALONE);
}

static void over(void)
{
	for (int i = 0; i < 2; i++)
		ring_free(sim.n[i].ring);
}

static struct blackbox_head head(void)
{
	return (struct blackbox_head){ .name = "web", .host = "b", .version = "9.9", .cause = BLACKBOX_FAILOVER,
				       .generation = 2, .at = sim.now, .wall = 1764334862345678 };
}

static void why(void **state)
{
	static const struct {
		enum how how;
		const char *evidence;
		enum ft_ev_type type;
	} rows[] = {
		{ KILL, "closed all connections", FE_LINK_DOWN }, { FREEZE, "no heartbeat", FE_SILENT },
		{ KILL_QEMU, "the primary said", FE_CTL },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct blackbox_head h;
		struct ring_view v;
		struct ring_why w;
		char text[1024];

		live(rows[i].how, 3 * NS_PER_S);
		ring_why(sim.n[1].ring, &w);
		assert_true(w.found && w.over);
		assert_int_equal(w.was, FT_STANDBY);
		assert_int_equal(w.now, FT_ALONE);
		assert_true(w.noticed >= 3 * NS_PER_S && w.decided_at >= w.noticed && w.ended_at >= w.decided_at);
		assert_true(w.open_at >= w.noticed && w.open_at <= w.ended_at);
		assert_true(w.beat && w.beat <= w.noticed);
		assert_true(ring_view(sim.n[1].ring, w.first, &v));
		assert_int_equal(v.ev->type, rows[i].type);
		assert_non_null(strstr(ring_evidence(&v), rows[i].evidence));
		h = head();
		blackbox_summary(&h, sim.n[1].ring, text, sizeof(text));
		if (!strstr(text, rows[i].evidence) || !strstr(text, "web on host b took over at 2025-11-28 13:") ||
		    !strstr(text, "after the last heartbeat") || !strstr(text, "output was open")) {
			print_error("%s\n", text);
			fail();
		}
		over();
	}
}

static void none(void **state)
{
	struct ring *r = ring_new(16);
	struct blackbox_head h = head();
	struct ring_why w;
	char text[200];
	FILE *f = fopen("/dev/null", "w");

	assert_non_null(r);
	assert_non_null(f);
	ring_why(r, &w);
	assert_false(w.found);
	blackbox_summary(&h, r, text, sizeof(text));
	assert_string_equal(text, "No failover is among the 0 steps that are kept.");
	blackbox_text(&h, r, 0, f);
	json_object_put(blackbox_json(&h, r, 5));
	fclose(f);
	ring_free(r);
}

static void silence_that_passes(void **state)
{
	struct ring_why w;
	struct ring_view v;

	/* Short silences do not count, when it is another death that breaks the pair. */
	sim_start(&sim, 9);
	for (int i = 0; i < 2; i++)
		sim.n[i].ring = ring_new(RING_STEPS);
	sim_run(&sim, 3 * NS_PER_S);
	sim_give(&sim, 1, &(struct ft_ev){ .type = FE_SILENT });
	sim_run(&sim, 5 * NS_PER_S);
	assert_int_equal(sim.n[1].ft.state, FT_STANDBY);
	ring_why(sim.n[1].ring, &w);
	assert_false(w.found);
	sim_kill(&sim, 0);
	sim_run(&sim, 6 * NS_PER_S);
	ring_why(sim.n[1].ring, &w);
	assert_true(w.found && ring_view(sim.n[1].ring, w.first, &v));
	assert_int_equal(v.ev->type, FE_LINK_DOWN);
	over();
}

static void file(void **state)
{
	struct blackbox_head h, got;
	struct err e = { 0 };
	struct json_object *o;
	struct ring *r;
	char *text = NULL;
	uint8_t *buf, *bad;
	size_t len, n, steps;
	FILE *f;

	live(KILL, 4 * NS_PER_S);
	h = head();
	buf = blackbox_pack(&h, sim.n[1].ring, &len);
	assert_non_null(buf);
	r = blackbox_unpack(buf, len, &got, &e);
	assert_non_null(r);
	assert_string_equal(got.name, h.name);
	assert_string_equal(got.host, h.host);
	assert_string_equal(got.version, h.version);
	assert_true(got.cause == h.cause && got.generation == 2 && got.at == h.at && got.wall == h.wall);
	assert_int_equal(ring_count(r), ring_count(sim.n[1].ring));
	f = open_memstream(&text, &n);
	blackbox_text(&got, r, 0, f);
	fclose(f);
	assert_non_null(strstr(text, "web on host b took over"));
	assert_non_null(strstr(text, "\n> "));
	assert_non_null(strstr(text, "standby -> "));
	assert_non_null(strstr(text, "heartbeats and the like)"));
	free(text);
	o = blackbox_json(&got, r, 10);
	assert_int_equal(json_object_array_length(json_object_object_get(o, "steps")), 10);
	assert_string_equal(json_object_get_string(json_object_object_get(json_object_object_get(o, "why"), "happened")),
			    "took over");
	json_object_put(o);
	o = blackbox_json(&got, r, 1000000);
	steps = json_object_array_length(json_object_object_get(o, "steps"));
	assert_int_equal(steps, ring_count(r));
	json_object_put(o);
	ring_free(r);
	/* Cut off anywhere, and with any byte of its head or its ring changed. */
	for (size_t cut = 0; cut < len; cut += cut < 300 ? 1 : 997)
		assert_null(blackbox_unpack(buf, cut, &got, &e));
	bad = malloc(len);
	assert_non_null(bad);
	for (size_t at = 0; at < len; at += at < 400 ? 1 : 1009) {
		memcpy(bad, buf, len);
		bad[at] ^= 0xff;
		r = blackbox_unpack(bad, len, &got, &e);
		/* Names and times of the head are not covered by a sum, but harmless. */
		if (r) {
			assert_true(at >= 8 && at < 300);
			for (const char *p = got.name; *p; p++)
				assert_true((unsigned char)*p >= 0x20 && (unsigned char)*p < 0x7f);
			text = NULL;
			f = open_memstream(&text, &n);
			blackbox_text(&got, r, 3, f);
			fclose(f);
			free(text);
			ring_free(r);
		}
	}
	free(bad);
	free(buf);
	over();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(why), cmocka_unit_test(none), cmocka_unit_test(silence_that_passes), cmocka_unit_test(file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
