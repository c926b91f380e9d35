/* SPDX-License-Identifier: BSD-2-Clause */
/* The one word for how a VM is: each word, and each reason for it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "monitor/condition.h"

static struct condition_why why;

static void is(const struct status *s, enum condition want, const char *reason)
{
	enum condition got = condition_of(s, &why);
	bool found = !reason;

	for (unsigned int i = 0; i < why.n && reason; i++)
		found = found || strstr(why.text[i], reason);
	if (got == want && found && (reason || !why.n))
		return;
	print_error("%s, want %s with '%s'\n", condition_name(got), condition_name(want), reason ? reason : "nothing");
	for (unsigned int i = 0; i < why.n; i++)
		print_error("  %s\n", why.text[i]);
	fail();
}

static struct status protected(void)
{
	return (struct status){ .now = 1000 * NS_PER_S, .name = "web", .role = FT_PRIMARY, .state = FT_PROTECTED,
				.phase = "idle", .link = { .peer = "192.0.2.2:9998" } };
}

static void words(void **state)
{
	struct status s = { .name = "web" };

	assert_string_equal(condition_name(COND_FAILED_OVER), "failed over");
	assert_string_equal(condition_name((enum condition)77), "?");
	is(&s, COND_UNPROTECTED, "not begun");
	s.role = FT_SECONDARY;
	is(&s, COND_UNPROTECTED, "stand by");
	s.state = FT_JOINING;
	is(&s, COND_UNPROTECTED, "waits for");
	strcpy(s.link.peer, "x");
	is(&s, COND_SYNCHRONISING, "cannot take over");
	s.state = FT_STANDBY;
	is(&s, COND_PROTECTED, NULL);
	s.link.peer[0] = 0;
	is(&s, COND_DEGRADED, "link to the peer is gone");
	s.reason = FT_WHY_UNFENCED;
	is(&s, COND_FENCED, "not fenced");
	/* Would take over: the copy stands, also while what is left of the link is still there. */
	s.reason = FT_WHY_NO_WITNESS;
	is(&s, COND_FENCED, "the copy stands until");
	strcpy(s.link.peer, "x");
	is(&s, COND_FENCED, "the copy stands until");
	s.link.peer[0] = 0;
	s.state = FT_FENCED;
	is(&s, COND_FENCED, "the VM stands until");
	s.state = FT_PROMOTING;
	s.reason = FT_WHY_SILENT;
	is(&s, COND_FAILED_OVER, "peer silent");
	s.state = FT_ENDED;
	s.reason = FT_WHY_QUIT;
	is(&s, COND_UNPROTECTED, "quit");
	s = protected();
	is(&s, COND_PROTECTED, NULL);
	s.state = FT_SYNC;
	is(&s, COND_SYNCHRONISING, "being filled");
}

static void alone(void **state)
{
	struct status s = protected();

	s.state = FT_ALONE;
	is(&s, COND_UNPROTECTED, "is not synchronised yet");
	s.link.peer[0] = 0;
	is(&s, COND_UNPROTECTED, "no other node is connected");
	/* The other one was lost: the VM has not moved. */
	s.failover.at = 900 * NS_PER_S;
	s.failover.reason = FT_WHY_LINK_CLOSED;
	is(&s, COND_UNPROTECTED, "the other node was lost: link closed");
	s.failover.took_over = true;
	is(&s, COND_FAILED_OVER, "has taken over: link closed");
	s.memory.mapping = FT_MEM_STUCK;
	is(&s, COND_FAILED_OVER, "started anew");
	/* Protected since then, and alone again for another reason. */
	s.failover.over = true;
	is(&s, COND_UNPROTECTED, "no other node");
}

static void failover_is_kept(void **state)
{
	struct status s = protected();
	struct json_object *o, *v;

	s.state = FT_ALONE;
	s.failover.at = 900 * NS_PER_S;
	s.failover.took_over = true;
	s.failover.took = 7 * NS_PER_MS;
	s.failover.gap = 512 * NS_PER_MS;
	s.failover.wall = 1764334862345678;
	o = status_json(&s);
	assert_true(json_object_object_get_ex(o, "failed_over", &v) && v);
	assert_string_equal(json_object_get_string(json_object_object_get(v, "at")), "2025-11-28T13:01:02.345Z");
	assert_true(json_object_get_double(json_object_object_get(v, "gap_ms")) == 512);
	assert_null(json_object_object_get(o, "last_failover"));
	json_object_put(o);
	s.state = FT_PROTECTED;
	s.failover.over = true;
	o = status_json(&s);
	assert_null(json_object_object_get(o, "failed_over"));
	assert_non_null(json_object_object_get(o, "last_failover"));
	assert_string_equal(json_object_get_string(json_object_object_get(o, "condition")), "protected");
	json_object_put(o);
}

static void degraded(void **state)
{
	static const char *const ids[] = { "d0" };
	struct disk_stats disks = { 0 };
	struct status s = protected();

	s.witness.kind = "etcd";
	is(&s, COND_PROTECTED, NULL);
	s.witness.lost = true;
	is(&s, COND_DEGRADED, "the witness (etcd) cannot be reached");
	s = protected();
	s.n_paths = 2;
	strcpy(s.paths[0].name, "192.0.2.2:9998");
	strcpy(s.paths[1].name, "198.51.100.2:9998");
	is(&s, COND_PROTECTED, NULL);
	s.paths[1].silent = true;
	is(&s, COND_DEGRADED, "no heartbeat comes over 198.51.100.2:9998");
	s = protected();
	s.hybrid_at = s.now - CONDITION_HYBRID / 2;
	is(&s, COND_PROTECTED, NULL);
	s.hybrid_at = s.now - CONDITION_HYBRID - 1;
	is(&s, COND_DEGRADED, "hybrid");
	s = protected();
	s.disk = &disks;
	s.disk_ids = ids;
	s.n_disks = 1;
	disks.disk[0].dirty = 4096;
	is(&s, COND_PROTECTED, NULL);
	disks.resyncing = true;
	is(&s, COND_DEGRADED, "disk d0 is not up to date");
	s = protected();
	s.role = FT_SECONDARY;
	s.state = FT_STANDBY;
	s.svm_stuck = true;
	is(&s, COND_DEGRADED, "stands still");
	s = protected();
	s.troubles[0] = "a TAP interface of the VM is gone: see the log";
	s.witness.kind = "disk";
	s.witness.lost = true;
	is(&s, COND_DEGRADED, "TAP");
	assert_int_equal(why.n, 2);
	/* Warnings that hold by the command line degrade nothing. */
	s = protected();
	s.warnings[0] = "no arbitration";
	is(&s, COND_PROTECTED, NULL);
}

static void compares(void **state)
{
	struct condition_why a = { .n = 1 }, b = { .n = 1 };

	strcpy(a.text[0], "x");
	strcpy(b.text[0], "x");
	assert_true(condition_same(&a, &b));
	strcpy(b.text[0], "y");
	assert_false(condition_same(&a, &b));
	b.n = 0;
	assert_false(condition_same(&a, &b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(words), cmocka_unit_test(alone), cmocka_unit_test(failover_is_kept),
		cmocka_unit_test(degraded), cmocka_unit_test(compares),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
