/* SPDX-License-Identifier: BSD-2-Clause */
/* The state file of a node: made, kept, locked, refused. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/nodestate.h"

static char top[] = "/tmp/nodestate-XXXXXX", dir[64], file[96];

static int setup(void **state)
{
	if (!mkdtemp(top))
		return -1;
	snprintf(dir, sizeof(dir), "%s/a/b", top);
	snprintf(file, sizeof(file), "%s/web.state", dir);
	return 0;
}

static int teardown(void **state)
{
	char cmd[128];

	snprintf(cmd, sizeof(cmd), "rm -rf %s", top);
	return system(cmd);
}

static void put(const char *text)
{
	FILE *f = fopen(file, "w");

	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void kept(void **state)
{
	struct err e = { 0 };
	struct nodestate *s = nodestate_open(dir, "web", &e), *t;
	struct nodestate_record r;
	struct stat st;

	assert_non_null(s);
	r = *nodestate_get(s);
	assert_int_equal(r.mode, NODESTATE_NEW);
	assert_int_equal(r.generation, 0);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	/* One process at a time. */
	assert_null(nodestate_open(dir, "web", &e));
	assert_int_equal(e.code, -EBUSY);
	assert_int_equal(nodestate_set(s, 7, NODESTATE_PAIR, &e), 0);
	t = nodestate_open(dir, "other", &e);
	assert_non_null(t);
	assert_memory_not_equal(nodestate_get(t)->id, r.id, sizeof(r.id));
	nodestate_close(t);
	nodestate_close(s);
	s = nodestate_open(dir, "web", &e);
	assert_non_null(s);
	assert_memory_equal(nodestate_get(s)->id, r.id, sizeof(r.id));
	assert_int_equal(nodestate_get(s)->mode, NODESTATE_PAIR);
	assert_int_equal(nodestate_get(s)->generation, 7);
	nodestate_close(s);
	nodestate_close(NULL);
}

/* What is not written is not so: the old one stays in force. */
static void not_written(void **state)
{
	struct err e = { 0 };
	struct nodestate *s = nodestate_open(dir, "web", &e);
	char tmp[128];

	assert_non_null(s);
	snprintf(tmp, sizeof(tmp), "%s.new", file);
	assert_int_equal(mkdir(tmp, 0700), 0);
	assert_true(nodestate_set(s, 8, NODESTATE_ALONE, &e) < 0);
	assert_int_equal(nodestate_get(s)->generation, 7);
	assert_int_equal(rmdir(tmp), 0);
	assert_int_equal(nodestate_set(s, 8, NODESTATE_ALONE, &e), 0);
	nodestate_close(s);
}

static void refused(void **state)
{
	static const char *const bad[] = {
		"", "lockstep-state 2\nvm web\nnode 00112233445566778899aabbccddeeff\ngeneration 1\nmode pair\n",
		"lockstep-state 1\nvm web\nnode 00112233445566778899aabbccddee\ngeneration 1\nmode pair\n",
		"lockstep-state 1\nvm web\nnode 00112233445566778899aabbccddeefg\ngeneration 1\nmode pair\n",
		"lockstep-state 1\nvm web\nnode 00112233445566778899aabbccddeeff\ngeneration x\nmode pair\n",
		"lockstep-state 1\nvm web\nnode 00112233445566778899aabbccddeeff\ngeneration 1\nmode pears\n",
		"lockstep-state 1\nvm web\nnode 00112233445566778899aabbccddeeff\ngeneration 1\nmode pair",
		"lockstep-state 1\nvm wob\nnode 00112233445566778899aabbccddeeff\ngeneration 1\nmode pair\n",
	};
	struct err e = { 0 };
	struct nodestate *s;

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		put(bad[i]);
		assert_null(nodestate_open(dir, "web", &e));
		assert_int_equal(e.code, -EBADMSG);
	}
	put("lockstep-state 1\nvm web\nnode 00112233445566778899aabbccddeeff\ngeneration 4294967295\nmode ended\n");
	s = nodestate_open(dir, "web", &e);
	assert_non_null(s);
	assert_int_equal(nodestate_get(s)->generation, UINT32_MAX);
	assert_string_equal(nodestate_mode_name(nodestate_get(s)->mode), "ended");
	nodestate_close(s);
}

/* Where no record says who has the VM: one of a pair never begins by itself, a secondary neither. */
static void begins(void **state)
{
	static const bool may[NODESTATE_MODES] = { [NODESTATE_NEW] = true, [NODESTATE_ALONE] = true, [NODESTATE_ENDED] = true };

	for (int m = 0; m < NODESTATE_MODES; m++)
		assert_int_equal(nodestate_alone_begins((enum nodestate_mode)m), may[m]);
}

/* What an end makes of a node: never two secondaries by the witness's word alone. */
static void ends(void **state)
{
	for (int m = 0; m < NODESTATE_MODES; m++) {
		enum nodestate_mode was = (enum nodestate_mode)m;
		bool served = was == NODESTATE_ALONE || was == NODESTATE_PAIR;

		assert_int_equal(nodestate_after(was, FT_WHY_LOST), was);
		assert_int_equal(nodestate_after(was, FT_WHY_QEMU_DIED), was);
		assert_int_equal(nodestate_after(was, FT_WHY_PEER_TOOK_OVER), NODESTATE_STANDBY);
		assert_int_equal(nodestate_after(was, FT_WHY_SWITCH), NODESTATE_STANDBY);
		assert_int_equal(nodestate_after(was, FT_WHY_GUEST_OFF), served ? NODESTATE_ENDED : was);
		assert_int_equal(nodestate_after(was, FT_WHY_QUIT), was == NODESTATE_ALONE ? NODESTATE_ENDED : was);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(kept), cmocka_unit_test(not_written), cmocka_unit_test(refused),
					    cmocka_unit_test(begins), cmocka_unit_test(ends) };

	return cmocka_run_group_tests(tests, setup, teardown);
}
