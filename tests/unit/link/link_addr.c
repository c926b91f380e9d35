/* SPDX-License-Identifier: BSD-2-Clause */
/* link/addr: what is taken, what is refused, what is loopback. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "link/addr.h"

static void check(const char *text, bool listening, const char *want, bool loopback)
{
	struct link_addr a[LINK_MAX_ADDRS];
	char buf[ADDR_TEXT];
	struct err e = { 0 };

	if (addr_resolve(text, listening, a, &e) < 1)
		fail_msg("%s: %s", text, e.msg);
	assert_string_equal(addr_text(&a[0], buf), want);
	assert_int_equal(addr_is_loopback(&a[0]), loopback);
}

static void good(void **state)
{
	check("127.0.0.1:9998", false, "127.0.0.1:9998", true);
	check("127.9.9.9:1", false, "127.9.9.9:1", true);
	check("192.0.2.7:65535", false, "192.0.2.7:65535", false);
	check("[2001:db8::1]:9998", false, "[2001:db8::1]:9998", false);
	check("[::1]:9998", false, "[::1]:9998", true);
	check("[::ffff:127.0.0.1]:9", false, "[::ffff:127.0.0.1]:9", true);
	check("[::ffff:192.0.2.1]:9", false, "[::ffff:192.0.2.1]:9", false);
	check("0.0.0.0:9998", true, "0.0.0.0:9998", false);
	check("127.0.0.1:0", true, "127.0.0.1:0", true);
	check("[::]:5", true, "[::]:5", false);
	check("192.0.2.7", false, "192.0.2.7:9998", false);
	check("[2001:db8::1]", false, "[2001:db8::1]:9998", false);
	check("127.0.0.1", true, "127.0.0.1:9998", true);
}

static void bad(void **state)
{
	static const char *const texts[] = {
		"", ":", "127.0.0.1:", "2001:db8::1", "127.0.0.1:x", "127.0.0.1:1x", "127.0.0.1:-1",
		"127.0.0.1:65536", "127.0.0.1:0", ":9998", "::1:9998", "2001:db8::1:9998", "[192.0.2.1]:5", "[::1:5",
		"[::1]5", "127.0.0.1:99999999999999999999",
	};
	struct link_addr a[LINK_MAX_ADDRS];

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		struct err e = { 0 };

		if (addr_resolve(texts[i], false, a, &e) >= 0)
			fail_msg("\"%s\" was taken", texts[i]);
		assert_true(e.code < 0);
		assert_true(strlen(e.msg) > 10);
	}
}

static int cmp(const char *x, const char *y)
{
	struct link_addr a[LINK_MAX_ADDRS], b[LINK_MAX_ADDRS];
	struct err e = { 0 };

	assert_true(addr_resolve(x, true, a, &e) > 0 && addr_resolve(y, true, b, &e) > 0);
	assert_int_equal(addr_cmp(a, b) < 0, addr_cmp(b, a) > 0);
	return addr_cmp(a, b);
}

static void order(void **state)
{
	struct link_addr a[LINK_MAX_ADDRS];
	struct err e = { 0 };

	assert_true(cmp("192.0.2.1:2", "192.0.2.2:1") < 0);
	assert_true(cmp("192.0.2.9", "192.0.2.10") < 0);
	assert_true(cmp("192.0.2.1:256", "192.0.2.1:2") > 0);
	assert_true(cmp("255.255.255.255", "[::2]") < 0);
	assert_true(cmp("[2001:db8::1]:1", "[2001:db8::1]:9998") < 0);
	assert_int_equal(cmp("[2001:db8::1]", "[2001:db8::1]:9998"), 0);
	assert_int_equal(cmp("[::ffff:192.0.2.1]:7", "192.0.2.1:7"), 0);
	assert_int_equal(addr_resolve("127.0.0.1", true, a, &e), 1);
	assert_false(addr_is_ours(a));	/* every host has it */
	assert_false(addr_is_any(a));
	assert_true(addr_resolve("203.0.113.77", true, a, &e) > 0);
	assert_false(addr_is_ours(a));
	assert_true(addr_resolve(":1", true, a, &e) > 0);
	assert_true(addr_is_any(a));
}

/* What a certificate must name. */
static void host(void **state)
{
	static const char *const texts[][2] = {
		{ "192.0.2.1:9998", "192.0.2.1" }, { "192.0.2.1", "192.0.2.1" }, { "b.example:9", "b.example" },
		{ "[2001:db8::1]:9998", "2001:db8::1" }, { "[2001:db8::1]", "2001:db8::1" }, { "2001:db8::1", "2001:db8::1" },
		{ "[fe80::1%eth0]:9", "fe80::1" }, { "fe80::1%eth0", "fe80::1" }, { ":9998", "" }, { "", "" },
		{ "abcdefghijklmnopqrstuvwxyz:9", "abcdefghijklmno" },
	};
	char out[16];

	for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
		addr_host(texts[i][0], out, sizeof(out));
		assert_string_equal(out, texts[i][1]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(good), cmocka_unit_test(bad), cmocka_unit_test(order),
					    cmocka_unit_test(host) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
