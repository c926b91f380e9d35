/* SPDX-License-Identifier: BSD-2-Clause */
/* cluster/witness: what --witness says, what goes to etcd and comes back, and the disk's block. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cluster/witness_disk.h"
#include "cluster/witness_internal.h"

static struct witness_spec s;

static void good(const char *text)
{
	struct err e = { 0 };

	if (witness_spec_parse(text, &s, &e))
		fail_msg("%s: %s", text, e.msg);
}

static void bad(const char *text, const char *why)
{
	struct err e = { 0 };

	assert_int_equal(witness_spec_parse(text, &s, &e), -EINVAL);
	if (!strstr(e.msg, why))
		fail_msg("%s: '%s' does not say '%s'", text, e.msg, why);
}

static void test_spec(void **state)
{
	char text[2 * WITNESS_TEXT_MAX];

	good("etcd:http://127.0.0.1:2379");
	assert_true(s.kind == WITNESS_ETCD && s.endpoints == 1);
	assert_string_equal(s.endpoint[0], "http://127.0.0.1:2379");
	assert_string_equal(s.prefix, "/lockstep/");
	good("etcd:https://a:1/,https://[2001:db8::1]:2,cacert=/c:a,cert=/b,key=/k,user=u,password-file=/p,prefix=x");
	assert_true(s.endpoints == 2);
	assert_string_equal(s.endpoint[0], "https://a:1");
	assert_string_equal(s.endpoint[1], "https://[2001:db8::1]:2");
	assert_string_equal(s.cacert, "/c:a");
	assert_string_equal(s.cert, "/b");
	assert_string_equal(s.key, "/k");
	assert_string_equal(s.user, "u");
	assert_string_equal(s.password_file, "/p");
	assert_string_equal(s.prefix, "/x/");
	good("etcd:http://a:1,prefix=/y/z/");
	assert_string_equal(s.prefix, "/y/z/");
	good("command:fence --host b, now");
	assert_true(s.kind == WITNESS_COMMAND);
	assert_string_equal(s.command, "fence --host b, now");
	good("disk:/dev/sdx");
	assert_true(s.kind == WITNESS_DISK && !s.offset && !s.node && !s.replace);
	assert_string_equal(s.path, "/dev/sdx");
	good("disk:/mnt/w,offset=16384,node=2,replace");
	assert_true(s.offset == 16384 && s.node == 2 && s.replace);
	assert_string_equal(s.path, "/mnt/w");
	good("none");
	assert_true(s.kind == WITNESS_NONE);

	bad("", "--witness is etcd:");
	bad("quorum", "not 'quorum'");
	bad("etcd:", "nothing stands");
	bad("etcd:http://a:1,", "nothing stands");
	bad("etcd:http://a:1,,http://b:1", "nothing stands");
	bad("etcd:cacert=/x", "at least one endpoint");
	bad("etcd:ftp://a", "http:// or https://");
	bad("etcd:http://", "no host");
	bad("etcd:http:///", "no host");
	bad("etcd:http://a/b", "HOST:PORT");
	bad("etcd:http://u@a", "HOST:PORT");
	bad("etcd:http://a:1,colour=red", "neither an endpoint");
	bad("etcd:http://a:1,prefix=", "the prefix is empty");
	bad("etcd:https://a:1,cert=/x", "both or not at all");
	bad("etcd:https://a:1,user=x", "both or not at all");
	bad("etcd:http://a:1,cacert=/x", "protect nothing");
	bad("etcd:http://a:1,user=x,password-file=/y", "a password is not sent");
	bad("etcd:http://a:1,https://a:2,user=x,password-file=/y", "begins with https://");
	bad("etcd:http://1,http://2,http://3,http://4,http://5,http://6,http://7,http://8,http://9", "more than 8 endpoints");
	bad("command:", "the command is empty");
	bad("disk:", "the path is empty");
	bad("disk:x", "begins with a slash");
	bad("disk:/x,offset=1", "a multiple of 8192");
	bad("disk:/x,offset=99999999999999999999", "is a number");
	bad("disk:/x,offset=-1", "is a number");
	bad("disk:/x,node=3", "node is 1");
	bad("disk:/x,node=0", "node is 1");
	bad("disk:/x,size=3", "none of offset=");
	memset(text, 'x', sizeof(text));
	text[sizeof(text) - 1] = 0;
	memcpy(text, "command:", 8);
	bad(text, "more than 1023 bytes");
	memcpy(text, "etcd:http://", 12);
	text[400] = 0;
	bad(text, "more than 127");
}

static int reads(long status, const char *text, struct etcd_answer *a)
{
	struct err e = { 0 };

	return etcd_read(status, text, strlen(text), a, &e);
}

static void test_etcd(void **state)
{
	struct witness_record r = { .generation = 7, .owner = "0123456789abcde" };
	struct etcd_kv none = { 0 }, kv;
	char body[ETCD_BODY_MAX], key[ETCD_KEY_MAX + 2], *p;
	struct etcd_answer a;

	assert_int_equal(etcd_ask_range(body, "/lockstep/web/generation"), 0);
	assert_string_equal(body, "{\"key\":\"L2xvY2tzdGVwL3dlYi9nZW5lcmF0aW9u\"}");
	assert_int_equal(etcd_ask_cas(body, "k", &none, &r), 0);
	assert_non_null(strstr(body, "\"compare\":[{\"key\":\"aw==\",\"result\":\"EQUAL\",\"target\":\"CREATE\",\"createRevision\":\"0\"}]"));
	/* The value that it would put, as it would come back. */
	p = strstr(body, "\"value\":\"");
	assert_non_null(p);
	p += 9;
	*strchr(p, '"') = 0;
	{
		char text[ETCD_BODY_MAX + 128];

		snprintf(text, sizeof(text), "{\"header\":{},\"succeeded\":false,\"responses\":[{\"response_range\":{\"kvs\":[{\"value\":\"%s\"}]}}]}", p);
		assert_int_equal(reads(200, text, &a), 0);
		assert_true(!a.succeeded && a.has_kv && a.kv.found);
		assert_memory_equal(&a.kv.record, &r, sizeof(r));
		kv = a.kv;
		assert_int_equal(etcd_ask_cas(body, "k", &kv, &r), 0);
		assert_non_null(strstr(body, "\"target\":\"VALUE\",\"value\":\""));
		assert_non_null(strstr(body, p));
	}
	assert_int_equal(etcd_ask_auth(body, "a\"b", "c\\\n"), 0);
	assert_string_equal(body, "{\"name\":\"a\\\"b\",\"password\":\"c\\\\\\n\"}");
	memset(key, 'x', sizeof(key));
	key[sizeof(key) - 1] = 0;
	assert_int_equal(etcd_ask_range(body, key), -EMSGSIZE);
	assert_int_equal(etcd_ask_cas(body, key, &none, &r), -EMSGSIZE);

	assert_int_equal(reads(200, "{\"header\":{\"revision\":\"1\"}}", &a), 0);
	assert_true(a.has_kv && !a.kv.found && !a.succeeded);
	assert_int_equal(reads(200, "{\"header\":{},\"succeeded\":true,\"responses\":[{\"response_put\":{}}]}", &a), 0);
	assert_true(a.succeeded && !a.has_kv);
	assert_int_equal(reads(200, "{\"header\":{},\"token\":\"abc.1\"}", &a), 0);
	assert_string_equal(a.token, "abc.1");
	assert_int_equal(reads(200, "{\"header\":{},\"token\":\"a\\r\\nb\"}", &a), -EPROTO);
	assert_int_equal(reads(200, "", &a), -EPROTO);
	assert_int_equal(reads(200, "{}", &a), -EPROTO);
	assert_int_equal(reads(200, "{\"header\":3}", &a), -EPROTO);
	assert_int_equal(reads(200, "{\"header\":{},\"kvs\":[{\"value\":\"e30=\"},{\"value\":\"e30=\"}]}", &a), -EBADMSG);
	assert_int_equal(reads(200, "{\"header\":{},\"kvs\":[3]}", &a), -EBADMSG);
	assert_int_equal(reads(200, "{\"header\":{},\"kvs\":[{\"value\":\"e30=\"}]}", &a), -EBADMSG);	/* {} */
	assert_int_equal(reads(200, "{\"header\":{},\"kvs\":[{\"value\":\"e30\"}]}", &a), -EBADMSG);
	assert_int_equal(reads(200, "{\"header\":{},\"kvs\":[{\"value\":\"=\"}]}", &a), -EBADMSG);
	assert_int_equal(reads(401, "{\"error\":\"etcdserver: invalid auth token\"}", &a), -EACCES);
	assert_int_equal(reads(400, "{\"error\":\"etcdserver: user name is empty\"}", &a), -EPERM);
	assert_int_equal(reads(503, "<html>", &a), -EAGAIN);
}

/* Whatever comes back: an answer or an error, within bounds (with sanitizers that is seen). */
static void test_etcd_any(void **state)
{
	static const char base[] = "{\"header\":{},\"succeeded\":true,\"responses\":[{\"response_range\":{\"kvs\":[{\"value\":"
		"\"eyJnZW5lcmF0aW9uIjo3LCJvd25lciI6IjAwMTEyMjMzNDQ1NTY2Nzc4ODk5YWFiYmNjZGRlZWZmIn0=\"}]}}],\"token\":\"x\"}";
	unsigned int seed = 4711;
	struct etcd_answer a;
	struct err e;

	print_message("seed %u\n", seed);
	srand(seed);
	for (int i = 0; i < 20000; i++) {
		size_t len = (size_t)rand() % sizeof(base);
		char *copy = malloc(len ? len : 1);

		memcpy(copy, base, len);
		for (int k = rand() % 4; len && k; k--)
			copy[(size_t)rand() % len] = (char)rand();
		etcd_read(rand() % 8 ? 200 : 400, copy, len, &a, &e);
		free(copy);
	}
}

static void test_disk_block(void **state)
{
	struct disk_block d = { .used = true, .slot = 1, .name = "web", .node = "node-node-node-",
				.p = { .inst = 3, .chosen = { 9, "owner" }, .mbal = 5, .bal = 4, .inp = { 10, "inp" } } }, got;
	uint8_t raw[DISK_USED] = { 0 };

	assert_int_equal(disk_block_decode(raw, &got), 0);
	assert_false(got.used);
	disk_block_encode(raw, &d);
	assert_int_equal(disk_block_decode(raw, &got), 0);
	assert_true(got.used && got.slot == 1 && got.p.inst == 3 && got.p.mbal == 5 && got.p.bal == 4);
	assert_string_equal(got.name, "web");
	assert_memory_equal(got.node, d.node, sizeof(d.node));
	assert_memory_equal(&got.p.chosen, &d.p.chosen, sizeof(d.p.chosen));
	assert_memory_equal(&got.p.inp, &d.p.inp, sizeof(d.p.inp));
	for (size_t i = 0; i < DISK_USED; i++) {
		raw[i] ^= 1;
		assert_int_equal(disk_block_decode(raw, &got), -EBADMSG);
		raw[i] ^= 1;
	}
	d.p.bal = 6;	/* accepted in a ballot that it has not begun */
	disk_block_encode(raw, &d);
	assert_int_equal(disk_block_decode(raw, &got), -EBADMSG);
	d.p.mbal = UINT64_MAX;
	disk_block_encode(raw, &d);
	assert_int_equal(disk_block_decode(raw, &got), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_spec),
		cmocka_unit_test(test_etcd),
		cmocka_unit_test(test_etcd_any),
		cmocka_unit_test(test_disk_block),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
