/* SPDX-License-Identifier: BSD-2-Clause */
/* Settings of comparing: the names, the value of --nic, and the sentence that each wrong one gets. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "monitor/settings.h"

static const char *const nics[] = { "n0", "lan.1" };

static void names(void **state)
{
	char nic[SETTING_NIC_MAX + 1], longest[SETTING_NIC_MAX + 40];

	assert_int_equal(setting_find("compare-timeout", 15), SETTING_COMPARE_TIMEOUT);
	assert_int_equal(setting_find("compare_timeout!", 15), SETTING_COMPARE_TIMEOUT);
	assert_int_equal(setting_find("max_queue-size", 14), SETTING_MAX_QUEUE_SIZE);
	assert_int_equal(setting_find("compare-timeout", 14), -ENOENT);
	assert_int_equal(setting_find("", 0), -ENOENT);
	assert_int_equal(setting_name("expired_scan_cycle", nic), SETTING_EXPIRED_SCAN_CYCLE);
	assert_string_equal(nic, "");
	assert_int_equal(setting_name("lan.1.expired_scan_cycle", nic), SETTING_EXPIRED_SCAN_CYCLE);
	assert_string_equal(nic, "lan.1");
	assert_int_equal(setting_name(".compare-timeout", nic), -EINVAL);
	assert_int_equal(setting_name("n0.", nic), -EINVAL);
	assert_int_equal(setting_name("n 0.compare-timeout", nic), -EINVAL);
	assert_int_equal(setting_name("n0.compare timeout", nic), -EINVAL);
	memset(longest, 'x', sizeof(longest));
	strcpy(longest + SETTING_NIC_MAX, ".compare-timeout");
	assert_int_equal(setting_name(longest, nic), SETTING_COMPARE_TIMEOUT);
	assert_int_equal(strlen(nic), SETTING_NIC_MAX);
	strcpy(longest + SETTING_NIC_MAX, "x.compare-timeout");
	assert_int_equal(setting_name(longest, nic), -EINVAL);
}

static void one_nic(void **state)
{
	struct net_nic_cfg cfg;
	struct err e;

	assert_int_equal(setting_nic("n0,compare_timeout=5", nics, 2, &cfg, &e), 0);
	assert_true(cfg.compare_timeout == 5 * NS_PER_MS && !cfg.expired_scan_cycle && !cfg.max_queue_size);
	assert_int_equal(setting_nic("lan.1,max-queue-size=7,expired_scan_cycle=3600000,compare-timeout=1", nics, 2,
				     &cfg, &e), 1);
	assert_true(cfg.compare_timeout == NS_PER_MS && cfg.expired_scan_cycle == 3600 * NS_PER_S);
	assert_int_equal(cfg.max_queue_size, 7);
}

static void mistakes(void **state)
{
	static const struct {
		const char *text, *says;
	} t[] = {
		{ "n1,compare_timeout=5", "'n1' is no NIC: the QEMU command has the netdevs n0, lan.1" },
		{ "", "'' is no NIC" }, { ",compare_timeout=5", "'' is no NIC" },
		{ "n,max-queue-size=1", "'n' is no NIC" },
		{ "n00,max-queue-size=1", "'n00' is no NIC" },
		{ "n0", "n0 alone says nothing: write n0,SETTING=VALUE with one or more of compare-timeout" },
		{ "n0,", "a NIC has no setting ''" }, { "n0,compare_timeout=5,", "a NIC has no setting ''" },
		{ "n0,=5", "a NIC has no setting ''" },
		{ "n0,timeout=5", "no setting 'timeout': there are compare-timeout" },
		{ "n0,checkpoint-delay=5", "no setting 'checkpoint-delay'" },
		{ "n0,compare-timeout", "compare-timeout needs a value" },
		{ "n0,compare_timeout=", "compare-timeout: '' is not a whole number of milliseconds from 1 to 3600000" },
		{ "n0,compare_timeout=0", "'0' is not" }, { "n0,compare_timeout=3600001", "'3600001' is not" },
		{ "n0,compare_timeout=-5", "'-5' is not" }, { "n0,compare_timeout=5ms", "'5ms' is not" },
		{ "n0,max-queue-size=16385", "a whole number of packets from 1 to 16384" },
		{ "n0,max-queue-size=184467440737095516170000000000000000000000000000000000000000000000000000000000001",
		  "from 1 to 16384" },
		{ "n0,max-queue-size=1,max_queue_size=1", "max-queue-size is given twice" },
	};
	struct net_nic_cfg cfg;
	struct err e;

	for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++)
		if (setting_nic(t[i].text, nics, 2, &cfg, &e) != -EINVAL || !strstr(e.msg, t[i].says))
			fail_msg("'%s': %s", t[i].text, e.msg);
	assert_int_equal(setting_nic("n0,max-queue-size=1", nics, 0, &cfg, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "this VM has none"));
	assert_int_equal(setting_nic("n1,max-queue-size=1", nics, 1, &cfg, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "the netdev n0"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names), cmocka_unit_test(one_nic), cmocka_unit_test(mistakes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
