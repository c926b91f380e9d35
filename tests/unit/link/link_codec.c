/* SPDX-License-Identifier: BSD-2-Clause */
/* link/codec: round trips, every truncation, every extension, every single changed byte, random bytes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "link/codec.h"

static struct wire_head head_of(uint8_t type, uint8_t channel)
{
	struct wire_head h = { .type = type, .channel = channel, .unit = 3, .len = 9, .generation = 0x01020304,
			       .epoch = 0x1112131415161718ull };

	wire_vm_id(h.vm_id, "web");
	return h;
}

static void header(void **state)
{
	struct wire_head h = head_of(WIRE_CTL, WIRE_CONTROL), b;
	uint8_t p[WIRE_HDR_LEN], q[WIRE_HDR_LEN];
	struct err e = { 0 };

	wire_head_encode(p, &h);
	assert_memory_equal(p, "LKS1\x10\x00\x00\x03\x00\x00\x00\x09\x01\x02\x03\x04\x11\x12\x13\x14", 20);
	assert_int_equal(wire_head_decode(p, WIRE_CONTROL, &b, &e), 0);
	wire_head_encode(q, &b);
	assert_memory_equal(p, q, sizeof(p));
	assert_int_equal(b.unit, 3);
	assert_int_equal(b.epoch, h.epoch);
	/* Another channel's connection, a type of another channel, a wrong magic. */
	assert_true(wire_head_decode(p, WIRE_BULK, &b, &e) < 0);
	p[4] = WIRE_PAGES;
	assert_true(wire_head_decode(p, WIRE_CONTROL, &b, &e) < 0);
	p[4] = WIRE_CTL;
	p[0] = 'G';
	assert_true(wire_head_decode(p, WIRE_CONTROL, &b, &e) < 0);
	p[0] = 'L';
	/* Length and unit beyond the limits. */
	h.len = WIRE_CTL_LEN + 1;
	wire_head_encode(p, &h);
	assert_true(wire_head_decode(p, WIRE_CONTROL, &b, &e) < 0);
	h.len = 1;
	h.unit = WIRE_MAX_UNITS;
	wire_head_encode(p, &h);
	assert_true(wire_head_decode(p, WIRE_CONTROL, &b, &e) < 0);
}

static void names(void **state)
{
	uint8_t a[LINK_ID_LEN], b[LINK_ID_LEN];
	char longest[WIRE_MAX_NAME + 2];

	memset(longest, 'x', sizeof(longest));
	longest[WIRE_MAX_NAME + 1] = 0;
	assert_false(wire_name_ok(longest));
	longest[WIRE_MAX_NAME] = 0;
	assert_true(wire_name_ok(longest));
	assert_true(wire_name_ok("web-1.example_x"));
	assert_false(wire_name_ok(""));
	assert_false(wire_name_ok(".."));
	assert_false(wire_name_ok("-x"));
	assert_false(wire_name_ok("a/b"));
	assert_false(wire_name_ok("a b"));
	wire_vm_id(a, "web");
	wire_vm_id(b, "wec");
	assert_memory_not_equal(a, b, 8);
	assert_memory_not_equal(a + 8, b + 8, 8);
	wire_vm_id(b, "web");
	assert_memory_equal(a, b, LINK_ID_LEN);
}

static void hello(void **state)
{
	static const char shape[] = "mem=536870912\nmachine=pc-q35-7.2\n";
	struct hello m = { .version = WIRE_VERSION, .role = FT_SECONDARY, .channel = WIRE_FRAMES, .name = "web",
			   .mode = 3, .begun = true, .session = "0123456789abcde", .shape = shape, .shape_len = sizeof(shape) - 1 }, b;
	struct wire_head h = head_of(WIRE_HELLO, WIRE_FRAMES);
	static uint8_t p[WIRE_MAX_HELLO_PAYLOAD];
	struct err e = { 0 };
	int n = codec_hello_put(p, sizeof(p), &m);

	assert_int_equal(n, WIRE_HELLO_LEN + 3 + sizeof(shape) - 1);
	assert_int_equal(codec_hello_get(&h, p, (size_t)n, &b, &e), 0);
	assert_int_equal(b.role, FT_SECONDARY);
	assert_int_equal(b.channel, WIRE_FRAMES);
	assert_int_equal(b.generation, 0x01020304);
	assert_true(b.begun);
	assert_int_equal(b.mode, 3);
	assert_string_equal(b.name, "web");
	assert_memory_equal(b.session, m.session, LINK_ID_LEN);
	assert_int_equal(b.shape_len, sizeof(shape) - 1);
	assert_memory_equal(b.shape, shape, b.shape_len);
	/* Another version says so, whatever follows. */
	p[3] = WIRE_VERSION + 1;
	assert_true(codec_hello_get(&h, p, 4, &b, &e) < 0);
	assert_non_null(strstr(e.msg, "protocol 6"));
	p[3] = WIRE_VERSION;
	p[WIRE_HELLO_LEN] = '/';
	assert_true(codec_hello_get(&h, p, (size_t)n, &b, &e) < 0);
	p[WIRE_HELLO_LEN] = 0;
	assert_true(codec_hello_get(&h, p, (size_t)n, &b, &e) < 0);
	p[WIRE_HELLO_LEN] = 'w';
	p[n - 1] = 'x';
	assert_true(codec_hello_get(&h, p, (size_t)n, &b, &e) < 0);
	p[n - 1] = '\n';
	p[n - 2] = 27;
	assert_true(codec_hello_get(&h, p, (size_t)n, &b, &e) < 0);
	p[n - 2] = 'x';
	p[7] = WIRE_MAX_MODE + 1;
	assert_true(codec_hello_get(&h, p, (size_t)n, &b, &e) < 0);
	m.mode = WIRE_MAX_MODE + 1;
	assert_true(codec_hello_put(p, sizeof(p), &m) < 0);
	m.mode = 0;
	m.shape_len = WIRE_MAX_SHAPE + 1;
	assert_true(codec_hello_put(p, sizeof(p), &m) < 0);
}

static void refuse(void **state)
{
	char text[WIRE_MAX_SENTENCE + 1], big[1000];
	uint8_t p[WIRE_MAX_SENTENCE];

	assert_int_equal(codec_refuse_put(p, sizeof(p), "no"), 2);
	codec_refuse_get(p, 2, text);
	assert_string_equal(text, "no");
	codec_refuse_get((const uint8_t *)"a\0b\nc\xff", 6, text);
	assert_string_equal(text, "a?b?c?");
	memset(big, 'y', sizeof(big));
	big[999] = 0;
	assert_int_equal(codec_refuse_put(p, sizeof(p), big), WIRE_MAX_SENTENCE);
}

static void ctl(void **state)
{
	for (int t = 0; t < CTL_TYPE_MAX; t++) {
		struct ctl_msg m = { .type = (enum ctl_type)t, .generation = 7, .n = UINT64_MAX - 5,
				     .value = 0x8000000000000001ull };
		struct ctl_msg b;
		struct wire_head h = head_of(0, WIRE_CONTROL);
		uint8_t p[WIRE_CTL_LEN];
		struct err e = { 0 };

		assert_int_equal(codec_ctl_put(p, sizeof(p), &h, &m), WIRE_CTL_LEN);
		assert_int_equal(h.type, WIRE_CTL);
		assert_int_equal(h.epoch, m.n);
		assert_int_equal(codec_ctl_get(&h, p, sizeof(p), &b, &e), 0);
		assert_true(b.type == m.type && b.n == m.n && b.value == m.value && b.generation == m.generation);
		p[3] = CTL_TYPE_MAX;
		assert_true(codec_ctl_get(&h, p, sizeof(p), &b, &e) < 0);
		p[3] = (uint8_t)t;
		for (size_t n = 0; n < sizeof(p); n++)
			assert_true(codec_ctl_get(&h, p, n, &b, &e) < 0);
	}
}

/* In a flow every reserved byte, and every bit that a VLAN tag does not have, ends the connection. */
static void flow_bytes(const struct wire_head *h, uint8_t *p, size_t n)
{
	uint8_t *vlan = p + WIRE_NET_LEN + offsetof(struct wire_flow, vlan);
	uint8_t *inner = p + WIRE_NET_LEN + offsetof(struct wire_flow, vlan_inner);
	uint8_t *zero = p + WIRE_NET_LEN + offsetof(struct wire_flow, zero);
	const uint8_t *f;
	struct net_msg b;
	struct err e = { 0 };
	size_t len;

	for (size_t i = 0; i < sizeof(((struct wire_flow *)0)->zero); i++) {
		zero[i] = 1;
		assert_true(codec_net_get(h, p, n, &b, &f, &len, &e) < 0);
		zero[i] = 0;
	}
	for (int i = 0; i < 2; i++) {
		uint8_t *tag = i ? inner : vlan, was = *tag;

		assert_int_equal(codec_net_get(h, p, n, &b, &f, &len, &e), 0);
		*tag = was | 0x20;
		assert_true(codec_net_get(h, p, n, &b, &f, &len, &e) < 0);
		*tag = (uint8_t)(was & ~0x10);
		assert_true(codec_net_get(h, p, n, &b, &f, &len, &e) < 0);
		*tag = was;
	}
	/* An inner tag alone. */
	memset(vlan, 0, 2);
	assert_true(codec_net_get(h, p, n, &b, &f, &len, &e) < 0);
	memset(inner, 0, 2);
	assert_int_equal(codec_net_get(h, p, n, &b, &f, &len, &e), 0);
	vlan[0] = 0x10;		/* id 0 */
	assert_int_equal(codec_net_get(h, p, n, &b, &f, &len, &e), 0);
	assert_int_equal(b.key.vlan, FLOW_VLAN);
	memcpy(vlan, "\x10\x05", 2);
	memcpy(inner, "\x1f\xff", 2);
}

static void net(void **state)
{
	struct rules rules = { .n = 2, .r = {
		{ .action = RULE_BYPASS, .proto = 17, .nic = RULE_ANY_NIC, .port = { 123, 123 },
		  .guest_port = { 0, 65535 }, .client_port = { 0, 65535 } },
		{ .action = RULE_HOLD, .family = 4, .nic = 1, .port = { 0, 65535 }, .guest_port = { 0, 65535 },
		  .client_port = { 1024, 65535 }, .client = { .addr = { 192, 0, 2, 0 }, .family = 4, .bits = 24 } },
	} };
	uint8_t frame[4 + 2 * RULE_BYTES];

	assert_int_equal(rules_encode(&rules, frame, sizeof(frame)), sizeof(frame));
	for (int t = 0; t < NM_MAX; t++) {
		struct net_msg m = { .type = (uint8_t)t, .nic = 2, .has_ts = 1, .epoch = 77, .seq = 1ull << 40,
				     .room = 4096 };
		struct wire_head h = head_of(0, WIRE_FRAMES);
		uint8_t p[WIRE_NET_LEN + WIRE_FLOW_LEN + sizeof(frame)], q[WIRE_NET_LEN + WIRE_FLOW_LEN];
		struct net_msg b;
		struct err e = { 0 };
		const uint8_t *f;
		size_t len, n;
		int k;

		if (t == NM_FLOW || t == NM_FLOW_OK || t == NM_TABLE || t == NM_RELEASED) {
			memset(m.key.guest, 0x11, 16);
			memset(m.key.other, 0x22, 16);
			m.key.guest_port = 6379;
			m.key.other_port = 40001;
			m.key.vlan = FLOW_VLAN | 5;
			m.key.vlan_inner = FLOW_VLAN | 4095;
			m.key.family = 6;
			m.key.proto = 6;
			m.key.nic = 2;
			m.isn = 0xfffffff0;
			m.seq32 = 1;
			m.ack32 = 2;
			m.tsval = 3;
			m.age_ms = 4;
			m.seq_off = 0x80000000;
			m.ts_off = 6;
		}
		k = codec_net_put(p, sizeof(p), &h, &m);
		assert_true(k > 0);
		n = (size_t)k;
		assert_int_equal(h.type, WIRE_NET);
		assert_int_equal(h.unit, 2);
		if (codec_net_has_frame((unsigned int)t)) {
			memcpy(p + n, frame, sizeof(frame));
			n += sizeof(frame);
		}
		assert_int_equal(codec_net_get(&h, p, n, &b, &f, &len, &e), 0);
		assert_int_equal(codec_net_put(q, sizeof(q), &h, &b), k);
		assert_memory_equal(p, q, k);
		assert_true(b.type == t && b.epoch == 77 && b.seq == m.seq && b.room == 4096 && b.ts_off == m.ts_off &&
			    b.age_ms == m.age_ms && !memcmp(&b.key, &m.key, sizeof(b.key)));
		assert_int_equal(len, codec_net_has_frame((unsigned int)t) ? sizeof(frame) : 0);
		if (f)
			assert_memory_equal(f, frame, len);
		if (t == NM_RULES) {
			/* Rules are looked at before anybody else does: cut, too long, one that cannot be. */
			assert_true(codec_net_get(&h, p, n - 1, &b, &f, &len, &e) < 0);
			p[n++] = 0;
			assert_true(codec_net_get(&h, p, n--, &b, &f, &len, &e) < 0);
			p[k + 4] = RULE_HOLD + 1;
			assert_true(codec_net_get(&h, p, n, &b, &f, &len, &e) < 0);
			assert_null(f);
			p[k + 4] = RULE_BYPASS;
			assert_int_equal(codec_net_get(&h, p, n, &b, &f, &len, &e), 0);
		}
		if (m.key.family) {
			assert_int_equal(k, WIRE_NET_LEN + WIRE_FLOW_LEN);
			flow_bytes(&h, p, n);
			m.key.datagram = 1;
			assert_true(codec_net_put(q, sizeof(q), &h, &m) < 0);
			m.key.datagram = 0;
		}
		for (size_t cut = 0; cut < (size_t)k + (f ? 1 : 0); cut++) {
			uint8_t *exact = malloc(cut ? cut : 1);

			memcpy(exact, p, cut);
			assert_true(codec_net_get(&h, exact, cut, &b, &f, &len, &e) < 0);
			free(exact);
		}
		p[0] = NM_MAX;
		assert_true(codec_net_get(&h, p, n, &b, &f, &len, &e) < 0);
		p[0] = (uint8_t)t;
		h.unit = NET_MAX_NICS;
		assert_true(codec_net_get(&h, p, n, &b, &f, &len, &e) < 0);
	}
}

static void bulk(void **state)
{
	static uint8_t p[WIRE_MAX_BULK_PAYLOAD + 1];
	struct wire_head h = head_of(WIRE_PAGES, WIRE_BULK);
	struct pages_msg m = { .first = 12345, .count = 3 }, b;
	struct devstate_msg d = { .offset = 4096, .total = 58000, .len = 1000 }, db;
	struct marker_msg k = { .pages = 1, .bytes = 2, .devstate = 3, .hash = 4 }, kb;
	struct err e = { 0 };

	assert_int_equal(codec_pages_put(p, sizeof(p), &m), WIRE_PAGES_LEN);
	assert_int_equal(codec_pages_get(&h, p, WIRE_PAGES_LEN + 3 * WIRE_PAGE, &b, &e), 0);
	assert_int_equal(b.first, 12345);
	assert_int_equal(b.count, 3);
	assert_false(b.zero);
	assert_ptr_equal(b.data, p + WIRE_PAGES_LEN);
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN + 3 * WIRE_PAGE - 1, &b, &e) < 0);
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN + 3 * WIRE_PAGE + 1, &b, &e) < 0);
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN, &b, &e) < 0);
	m.zero = true;
	m.count = WIRE_MAX_ZERO_PAGES;
	assert_int_equal(codec_pages_put(p, sizeof(p), &m), WIRE_PAGES_LEN);
	assert_int_equal(codec_pages_get(&h, p, WIRE_PAGES_LEN, &b, &e), 0);
	assert_true(b.zero);
	assert_null(b.data);
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN + 1, &b, &e) < 0);
	m.count++;
	assert_true(codec_pages_put(p, sizeof(p), &m) < 0);
	m.zero = false;
	m.count = WIRE_MAX_PAGES + 1;
	assert_true(codec_pages_put(p, sizeof(p), &m) < 0);
	m.count = 0;
	assert_true(codec_pages_put(p, sizeof(p), &m) < 0);
	/* Packed: the block is the rest, and smaller than what it holds. */
	m = (struct pages_msg){ .first = 7, .count = WIRE_MAX_PACKED_PAGES, .packed = true };
	assert_int_equal(codec_pages_put(p, sizeof(p), &m), WIRE_PAGES_LEN);
	assert_int_equal(codec_pages_get(&h, p, WIRE_PAGES_LEN + 99, &b, &e), 0);
	assert_true(b.packed && !b.zero && b.len == 99 && b.data == p + WIRE_PAGES_LEN);
	assert_int_equal(codec_pages_get(&h, p, WIRE_PAGES_LEN + WIRE_MAX_PACKED_PAGES * WIRE_PAGE - 1, &b, &e), 0);
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN + WIRE_MAX_PACKED_PAGES * WIRE_PAGE, &b, &e) < 0);
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN, &b, &e) < 0);
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN - 1, &b, &e) < 0);
	p[WIRE_PAGES_LEN - 1] = WIRE_PAGES_LZ4 | WIRE_PAGES_ZERO;
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN + 99, &b, &e) < 0);
	m.count++;
	assert_true(codec_pages_put(p, sizeof(p), &m) < 0);
	m = (struct pages_msg){ .count = 1 };
	/* A first page so far out that its byte offset would wrap. */
	m.count = 1;
	m.first = UINT64_MAX / WIRE_PAGE;
	codec_pages_put(p, sizeof(p), &m);
	assert_true(codec_pages_get(&h, p, WIRE_PAGES_LEN + WIRE_PAGE, &b, &e) < 0);

	assert_int_equal(codec_devstate_put(p, sizeof(p), &d), WIRE_DEVSTATE_LEN);
	assert_int_equal(codec_devstate_get(&h, p, WIRE_DEVSTATE_LEN + 1000, &db, &e), 0);
	assert_int_equal(db.len, 1000);
	assert_int_equal(db.offset, 4096);
	assert_int_equal(db.total, 58000);
	assert_true(codec_devstate_get(&h, p, WIRE_DEVSTATE_LEN, &db, &e) < 0);
	assert_true(codec_devstate_get(&h, p, 5, &db, &e) < 0);
	assert_true(codec_devstate_get(&h, p, WIRE_DEVSTATE_LEN + 58000 - 4096 + 1, &db, &e) < 0);
	d.offset = 57001;
	assert_true(codec_devstate_put(p, sizeof(p), &d) < 0);
	d = (struct devstate_msg){ .offset = 0, .total = (uint64_t)WIRE_MAX_DEVSTATE + 1, .len = 1 };
	assert_true(codec_devstate_put(p, sizeof(p), &d) < 0);

	assert_int_equal(codec_marker_put(p, sizeof(p), &k), WIRE_MARKER_LEN);
	assert_int_equal(codec_marker_get(&h, p, WIRE_MARKER_LEN, &kb, &e), 0);
	assert_memory_equal(&k, &kb, sizeof(k));
	assert_true(codec_marker_get(&h, p, WIRE_MARKER_LEN - 1, &kb, &e) < 0);
	assert_true(codec_marker_get(&h, p, WIRE_MARKER_LEN + 1, &kb, &e) < 0);
	{
		struct disk_write_msg w = { .off = 1ull << 40, .len = 5 }, wb;
		struct disk_zero_msg z = { .off = 512, .len = 1ull << 41, .no_hole = true }, zb;
		struct disk_marker_msg m = { 7, 1ull << 50 }, mb;
		struct disk_sync_msg y = { .type = 9, .len = 3 }, yb;
		struct disk_old_msg o = { .off = 4096, .len = 512, .data = p }, ob;
		uint64_t count;

		assert_int_equal(codec_disk_write_put(p, sizeof(p), &w), WIRE_DISK_WRITE_LEN);
		memcpy(p + WIRE_DISK_WRITE_LEN, "12345", 5);
		assert_int_equal(codec_disk_write_get(p, WIRE_DISK_WRITE_LEN + 5, &wb, &e), 0);
		assert_true(wb.off == w.off && wb.len == 5 && !memcmp(wb.data, "12345", 5));
		assert_true(codec_disk_write_get(p, WIRE_DISK_WRITE_LEN, &wb, &e) < 0);
		assert_true(codec_disk_write_get(p, WIRE_DISK_WRITE_LEN - 1, &wb, &e) < 0);
		memset(p, 0xff, 8);
		assert_true(codec_disk_write_get(p, WIRE_DISK_WRITE_LEN + 5, &wb, &e) < 0);
		w.len = WIRE_MAX_DISK_DATA + 1;
		assert_int_equal(codec_disk_write_put(p, sizeof(p), &w), -EINVAL);
		assert_int_equal(codec_disk_zero_put(p, sizeof(p), &z), WIRE_DISK_ZERO_LEN);
		assert_int_equal(codec_disk_zero_get(p, WIRE_DISK_ZERO_LEN, &zb, &e), 0);
		assert_true(zb.off == z.off && zb.len == z.len && zb.no_hole && !zb.trim);
		p[WIRE_DISK_ZERO_LEN - 1] = 4;
		assert_true(codec_disk_zero_get(p, WIRE_DISK_ZERO_LEN, &zb, &e) < 0);
		z.len = 0;
		assert_int_equal(codec_disk_zero_put(p, sizeof(p), &z), -EINVAL);
		assert_int_equal(codec_disk_marker_put(p, sizeof(p), &m), WIRE_DISK_MARKER_LEN);
		assert_int_equal(codec_disk_marker_get(p, WIRE_DISK_MARKER_LEN, &mb, &e), 0);
		assert_true(mb.msgs == 7 && mb.bytes == 1ull << 50);
		assert_true(codec_disk_marker_get(p, WIRE_DISK_MARKER_LEN + 1, &mb, &e) < 0);
		assert_int_equal(codec_disk_sync_put(p, sizeof(p), &y), WIRE_DISK_SYNC_LEN);
		assert_int_equal(codec_disk_sync_get(p, WIRE_DISK_SYNC_LEN + 3, &yb, &e), 0);
		assert_true(yb.type == 9 && yb.len == 3);
		p[1] = 1;
		assert_true(codec_disk_sync_get(p, WIRE_DISK_SYNC_LEN, &yb, &e) < 0);
		assert_int_equal(codec_disk_old_put(p, sizeof(p), &o), WIRE_DISK_OLD_LEN);
		assert_int_equal(codec_disk_old_get(p, WIRE_DISK_OLD_LEN + 512, &ob, &e), 0);
		assert_true(ob.off == 4096 && ob.len == 512 && ob.data == p + WIRE_DISK_OLD_LEN);
		assert_true(codec_disk_old_get(p, WIRE_DISK_OLD_LEN + 511, &ob, &e) < 0);
		assert_true(codec_disk_old_get(p, WIRE_DISK_OLD_LEN + 513, &ob, &e) < 0);
		o.data = NULL;
		assert_int_equal(codec_disk_old_put(p, sizeof(p), &o), WIRE_DISK_OLD_LEN);
		assert_int_equal(codec_disk_old_get(p, WIRE_DISK_OLD_LEN, &ob, &e), 0);
		assert_true(ob.len == 512 && !ob.data);
		assert_true(codec_disk_old_get(p, WIRE_DISK_OLD_LEN + 512, &ob, &e) < 0);
		p[WIRE_DISK_OLD_LEN - 1] = 2;
		assert_true(codec_disk_old_get(p, WIRE_DISK_OLD_LEN, &ob, &e) < 0);
		o.len = WIRE_MAX_DISK_OLD + 1;
		assert_int_equal(codec_disk_old_put(p, sizeof(p), &o), -EINVAL);
		assert_int_equal(codec_disk_kept_put(p, sizeof(p), 77), WIRE_DISK_KEPT_LEN);
		assert_int_equal(codec_disk_kept_get(p, WIRE_DISK_KEPT_LEN, &count, &e), 0);
		assert_true(count == 77 && codec_disk_kept_get(p, WIRE_DISK_KEPT_LEN + 1, &count, &e) < 0);
	}
	/* No writer goes beyond what it was given. */
	assert_true(codec_marker_put(p, WIRE_MARKER_LEN - 1, &k) < 0);
	assert_true(codec_credit_put(p, WIRE_CREDIT_LEN - 1, 1, 1) < 0);
}

/* The order of these lists is part of the protocol: who changes it raises WIRE_VERSION and docs/protocol.md. */
static void numbers(void **state)
{
	assert_int_equal(WIRE_VERSION, 5);
	assert_int_equal(CTL_EPOCH_END, 0);
	assert_int_equal(CTL_PROMOTE, 5);
	assert_int_equal(CTL_CLAIM, 9);
	assert_int_equal(CTL_SWITCH, 13);
	assert_int_equal(CTL_TYPE_MAX, 15);
	assert_int_equal(NM_INPUT, 0);
	assert_int_equal(NM_BARRIER, 6);
	assert_int_equal(NM_RULES, 8);
	assert_int_equal(NM_MAX, 9);
}

static void garbage(void **state)
{
	const char *env = getenv("SEED");
	unsigned int seed = env ? (unsigned int)strtoul(env, NULL, 0) : (unsigned int)time(NULL);

	printf("seed %u (SEED=%u replays it)\n", seed, seed);
	srand(seed);
	for (int i = 0; i < 20000; i++) {
		size_t n = (size_t)rand() % 200, len;
		uint8_t *p = malloc(n ? n : 1);
		struct wire_head h = head_of(0, 0);
		char text[WIRE_MAX_SENTENCE + 1];
		struct devstate_msg d;
		struct pages_msg pg;
		struct marker_msg k;
		struct hello he;
		struct net_msg nm;
		struct ctl_msg c;
		const uint8_t *f;
		struct err e = { 0 };
		uint64_t a, b;
		int rc;

		for (size_t j = 0; j < n; j++)
			p[j] = (uint8_t)(rand() & (rand() % 2 ? 0xff : 3));
		h.unit = (uint16_t)rand();
		rc = codec_hello_get(&h, p, n, &he, &e);
		assert_true(!rc || (rc < 0 && e.msg[0]));
		rc = codec_net_get(&h, p, n, &nm, &f, &len, &e);
		assert_true(rc || nm.type < NM_MAX);
		codec_refuse_get(p, n, text);
		codec_ctl_get(&h, p, n, &c, &e);
		codec_credit_get(p, n, &a, &b, &e);
		codec_pages_get(&h, p, n, &pg, &e);
		codec_devstate_get(&h, p, n, &d, &e);
		codec_marker_get(&h, p, n, &k, &e);
		if (n >= WIRE_HDR_LEN)
			wire_head_decode(p, (enum wire_channel)(rand() % 3), &h, &e);
		free(p);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(header), cmocka_unit_test(names), cmocka_unit_test(hello), cmocka_unit_test(refuse),
		cmocka_unit_test(ctl), cmocka_unit_test(net), cmocka_unit_test(bulk), cmocka_unit_test(numbers),
		cmocka_unit_test(garbage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
