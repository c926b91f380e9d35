/* SPDX-License-Identifier: BSD-2-Clause */
/* Design 5: "VLAN tags are part of the flow". IEEE 802.1Q and 802.1ad. */
#include "bed.h"

static struct flow_key key_on(struct seg_ip ip)
{
	struct bed b = { .on = ip };

	return key_of(&b);
}

static bool same(struct flow_key a, struct flow_key b)
{
	return !memcmp(&a, &b, sizeof(a));
}

/* The identifiers are in the key, outer and inner; priority and drop bits are not; id 0 is untagged. */
static void tags_in_the_key(void **state)
{
	const struct seg_ip none = { 0 }, zero = { .n_tags = 1, .tag = { 0 } }, seven = { .n_tags = 1, .tag = { 7 } };
	const struct seg_ip prio = { .n_tags = 1, .tag = { 0xf007 } }, two = { .n_tags = 2, .tag = { 0x6064, 0x200b } };
	const struct seg_ip turned = { .n_tags = 2, .tag = { 11, 100 } };

	(void)state;
	assert_int_equal(key_on(none).vlan, 0);
	assert_int_equal(key_on(zero).vlan, 0);
	assert_int_equal(key_on(seven).vlan, FLOW_VLAN | 7);
	assert_int_equal(key_on(seven).vlan_inner, 0);
	assert_int_equal(key_on(two).vlan, FLOW_VLAN | 100);
	assert_int_equal(key_on(two).vlan_inner, FLOW_VLAN | 11);
	assert_true(same(key_on(seven), key_on(prio)));
	assert_true(same(key_on(none), key_on(zero)));
	assert_false(same(key_on(none), key_on(seven)));
	assert_false(same(key_on(two), key_on(turned)));
}

/* The same addresses and ports in two VLANs are two connections, with different numbers. */
static void two_vlans(void **state)
{
	const struct seg_ip seven = { .n_tags = 1, .tag = { 7 } }, eight = { .n_tags = 1, .tag = { 8 } };
	struct bed *b = bed_primary(NULL);

	(void)state;
	b->on = seven;
	open_flow(b, 2);
	b->on = eight;
	b->g0 = 9000000;
	b->c0 = 8000000;
	open_flow(b, 2);
	b->on = seven;
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "seven"));
	/* The right bytes in the wrong VLAN. */
	b->on = eight;
	svm(b, 2, DATA(5000, 1000, "seven"));
	assert_int_equal(count(b, NA_TAP), 0);
	seg_in(b, NEV_GUEST, DATA(9000000, 8000000, "eight"));
	svm(b, 2, DATA(9000000, 8000000, "eight"));
	assert_string_equal(text(b), "eight");
	assert_int_equal(first(b, NA_TAP)->tag[0], FLOW_VLAN | 8);
	b->on = seven;
	svm(b, 2, DATA(5000, 1000, "seven"));
	assert_string_equal(text(b), "seven");
	assert_int_equal(first(b, NA_TAP)->tag[0], FLOW_VLAN | 7);
	bed_end(b);
}

/* A copy that gives its frame another priority says the same; what leaves is the PVM's, tags and all. */
static void priority_does_not_count(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	b->on = (struct seg_ip){ .v6 = true, .n_tags = 2, .tag = { 0x6064, 0x400b } };
	open_flow(b, 2);
	seg_in(b, NEV_GUEST, DATA(5000, 1000, "same"));
	b->on.tag[1] = 0xe00b;
	svm(b, 2, DATA(5000, 1000, "same"));
	assert_string_equal(text(b), "same");
	assert_int_equal(seg_get(first(b, NA_TAP)->data + 12, 4), 0x88a86064);
	assert_int_equal(seg_get(first(b, NA_TAP)->data + 16, 4), 0x8100400b);
	bed_end(b);
}

/* P2: the acknowledgement that we originate travels in the flow's VLAN; so does a split part. */
static void made_frames_keep_the_tags(void **state)
{
	struct bed *b = bed_primary(NULL);

	(void)state;
	b->on = (struct seg_ip){ .n_tags = 2, .tag = { 0x6064, 0x400b } };
	open_flow(b, 2);
	seg_in(b, NEV_TAP, DATA(1000, 5000, "0123456789"));
	seg_in(b, NEV_GUEST, ACK(5000, 1010));
	svm(b, 2, ACK(5000, 1010));
	assert_int_equal(first(b, NA_TAP)->ack, 1010);
	assert_int_equal(first(b, NA_TAP)->n_tags, 2);
	assert_int_equal(first(b, NA_TAP)->tag[0], FLOW_VLAN | 100);
	assert_int_equal(first(b, NA_TAP)->tag[1], FLOW_VLAN | 11);
	seg_in(b, NEV_GUEST, DATA(5000, 1010, "abcd"));
	svm(b, 2, DATA(5000, 1010, "ab"));
	assert_string_equal(text(b), "ab");
	assert_int_equal(first(b, NA_TAP)->tag[1], FLOW_VLAN | 11);
	bed_end(b);
}

/* ARP in a VLAN is the link's own talk as well; the primary's leaves at once and the secondary's goes nowhere. */
static void arp_in_a_vlan(void **state)
{
	const struct seg_ip on = { .from_guest = true, .n_tags = 1, .tag = { 7 } };
	struct bed *b = bed_primary(NULL);
	uint8_t d[SEG_MAX];
	uint32_t n;

	(void)state;
	n = seg_arp(d, &on);
	bytes_in(b, NEV_GUEST, d, n);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_memory_equal(first(b, NA_TAP)->data, d, n);
	bed_end(b);
	b = bed_secondary(NULL);
	bytes_in(b, NEV_GUEST, d, n);
	assert_int_equal(b->n, 0);
	bed_end(b);
}

/* Three tags: compared as a whole frame, within a flow; not lost, not waved through. */
static void three_tags(void **state)
{
	struct bed *b = bed_primary(NULL);
	uint8_t d[SEG_MAX];
	uint32_t n;
	const struct seg_ip on = { .from_guest = true, .n_tags = 3, .tag = { 1, 2, 3 } };

	(void)state;
	n = seg_udp(d, &on, 53, 5353, "deep");
	bytes_in(b, NEV_GUEST, d, n);
	assert_int_equal(count(b, NA_TAP), 0);
	svm_bytes(b, 2, d, n);
	assert_int_equal(count(b, NA_TAP), 1);
	assert_memory_equal(first(b, NA_TAP)->data, d, n);
	bed_end(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(tags_in_the_key), cmocka_unit_test(two_vlans),
		cmocka_unit_test(priority_does_not_count), cmocka_unit_test(made_frames_keep_the_tags),
		cmocka_unit_test(arp_in_a_vlan), cmocka_unit_test(three_tags),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
