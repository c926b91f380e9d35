/* SPDX-License-Identifier: BSD-2-Clause */
/* What only the SVM has lost is given to it again, out of the log: when, how much, with which timestamp, and when no more. */
#include "bed.h"

enum { ISN = 8999, G = 5000, C = 1000, LEN = 1400 };
static char bytes[LEN + 1];

/* A connection of the SVM's, and @n segments that were given to it: numbers C, C + LEN, ... */
static struct bed *with_segments(unsigned int n, bool ts)
{
	struct bed *b = bed_secondary(NULL);

	memset(bytes, 'x', LEN);
	b->ts = ts;
	svm_flow(b, ISN);
	for (unsigned int i = 0; i < n; i++) {
		struct seg s = DATA(C + i * LEN, G, bytes);

		if (ts)
			s = with_ts(s, 100 + i, 100);
		input(b, 2, 2 + i, s);
		assert_int_equal(count(b, NA_GUEST), 1);
	}
	return b;
}

/* The SVM acknowledges up to segment @upto, and reports @n blocks of segments, [from, to). */
static void says(struct bed *b, unsigned int upto, unsigned int n, const unsigned int *block, uint32_t tsecr)
{
	struct seg s = ACK(ISN + 1, C + upto * LEN);

	if (b->ts)
		s = with_ts(s, 500, tsecr);
	s.n_sack = n;
	for (unsigned int i = 0; i < 2 * n; i++)
		s.sack[i] = C + block[i] * LEN;
	seg_in(b, NEV_GUEST, s);
}

/* What was given in this step is these segments, in this order. */
static void gave(struct bed *b, unsigned int n, const unsigned int *which)
{
	assert_int_equal(count(b, NA_GUEST), n);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(nth(b, NA_GUEST, (int)i)->seq, C + which[i] * LEN);
}
#define GAVE(b, ...) gave(b, sizeof((unsigned int[]){ __VA_ARGS__ }) / sizeof(unsigned int), (unsigned int[]){ __VA_ARGS__ })
#define SAYS(b, upto, ...) says(b, upto, sizeof((unsigned int[]){ __VA_ARGS__ }) / sizeof(unsigned int) / 2, \
				(unsigned int[]){ __VA_ARGS__ }, 100)

static void third_duplicate(void **state)
{
	struct bed *b = with_segments(6, false);

	says(b, 2, 0, NULL, 0);
	gave(b, 0, NULL);
	says(b, 2, 0, NULL, 0);
	says(b, 2, 0, NULL, 0);
	gave(b, 0, NULL);
	says(b, 2, 0, NULL, 0);
	GAVE(b, 2);
	/* Once; and an acknowledgement that ends at a further hole has that filled. */
	says(b, 2, 0, NULL, 0);
	gave(b, 0, NULL);
	says(b, 4, 0, NULL, 0);
	GAVE(b, 4);
	says(b, 6, 0, NULL, 0);
	gave(b, 0, NULL);
	tick(b, 5 * NS_PER_S);
	gave(b, 0, NULL);
	bed_end(b);
}

static void reported_holes(void **state)
{
	struct bed *b = with_segments(20, false);

	/* Two segments behind a hole may be an accident of order; three are not. */
	SAYS(b, 1, 2, 4);
	gave(b, 0, NULL);
	SAYS(b, 1, 2, 5);
	GAVE(b, 1);
	/* A further hole: one segment for each acknowledgement that says nothing else new. */
	SAYS(b, 1, 8, 12, 2, 5);
	GAVE(b, 5);
	SAYS(b, 1, 8, 12, 2, 5);
	GAVE(b, 6);
	/* What an acknowledgement of something new leaves, all at once. */
	SAYS(b, 5, 8, 12, 14, 15);
	GAVE(b, 7, 12, 13);
	bed_end(b);
}

/* Lost twice: after a while without progress all that is not reported is given again, and that a few times. */
static void lost_again(void **state)
{
	struct bed *b = with_segments(8, false);
	unsigned int times = 0;

	SAYS(b, 1, 2, 6);
	GAVE(b, 1);
	for (int i = 0; i < 1000; i++) {
		tick(b, 10 * NS_PER_MS);
		if (!count(b, NA_GUEST))
			continue;
		GAVE(b, 1, 6, 7);
		times++;
	}
	assert_true(times >= 3 && times <= 10);
	bed_end(b);
}

/* The end of a burst is lost: nothing asks for it but the client's retransmission. */
static void the_clients_sign(void **state)
{
	struct bed *b = with_segments(8, false);

	says(b, 3, 0, NULL, 0);
	tick(b, NS_PER_S);
	gave(b, 0, NULL);
	input(b, 2, 10, DATA(C + 3 * LEN, G, bytes));
	GAVE(b, 3);
	/* Said again at once it changes nothing. */
	input(b, 2, 11, DATA(C + 3 * LEN, G, bytes));
	GAVE(b, 3);
	says(b, 4, 0, NULL, 0);
	GAVE(b, 4, 5, 6, 7);
	says(b, 8, 0, NULL, 0);
	tick(b, 5 * NS_PER_S);
	gave(b, 0, NULL);
	/* One that repeats what the SVM has is no sign. */
	input(b, 2, 12, DATA(C + 7 * LEN, G, bytes));
	GAVE(b, 7);
	says(b, 8, 0, NULL, 0);
	gave(b, 0, NULL);
	bed_end(b);
}

/* PAWS: what is older than what the SVM has taken since would be thrown away. */
static void newer_timestamp(void **state)
{
	struct bed *b = with_segments(8, true);
	struct seg s = with_ts(DATA(C + 3 * LEN, G, bytes), 900, 100);

	says(b, 3, 0, NULL, 102);
	input(b, 2, 10, s);
	GAVE(b, 3);
	says(b, 4, 0, NULL, 900);
	GAVE(b, 4, 5, 6, 7);
	for (int i = 0; i < 4; i++)
		assert_int_equal(nth(b, NA_GUEST, i)->tsval, 900);
	bed_end(b);
}

/* Another SVM, another connection, no SVM: what was going on is over. */
static void over(void **state)
{
	for (int how = 0; how < 3; how++) {
		struct bed *b = with_segments(8, false);

		SAYS(b, 1, 2, 6);
		GAVE(b, 1);
		if (how == 0) {
			input(b, 2, 10, client_syn(b));
		} else if (how == 1) {
			full_checkpoint(b, 2);
		} else {
			ctl(b, NEV_PROMOTE, 2, 0);
		}
		for (int i = 0; i < 100; i++) {
			tick(b, 10 * NS_PER_MS);
			assert_int_equal(count(b, NA_GUEST), 0);
		}
		bed_end(b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(third_duplicate), cmocka_unit_test(reported_holes), cmocka_unit_test(lost_again),
		cmocka_unit_test(the_clients_sign), cmocka_unit_test(newer_timestamp), cmocka_unit_test(over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
