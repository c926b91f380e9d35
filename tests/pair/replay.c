/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * tests/pair/replay - recordings of real stacks, given to the machines once more
 *
 *   build/tests/pair/pair_replay FILE.pair...
 *
 * A recording (rec.h) has each frame of a client and of two servers with the same addresses, as pair_live has seen
 * them. The machines must release by comparison all that the PVM said, ask for no checkpoint, and do exactly the same
 * when they are given the same once more. No root, no network, no clock.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "duo.h"
#include "flows.h"
#include "rec.h"

#define SETTLE (5 * NS_PER_S)	/* for timers, after the last frame */

struct replay {
	struct flows flows;
	uint64_t digest, frames;
	nstime now;
};

static void mix(struct replay *r, const void *p, size_t n)
{
	const uint8_t *b = p;

	while (n--)
		r->digest = (r->digest ^ *b++) * 1099511628211ull;
}

static void out(void *arg, enum duo_port to, const uint8_t *f, uint32_t len)
{
	struct replay *r = arg;

	if (to == DUO_CLIENT)
		flows_see(&r->flows, FLOWS_OUT, f, len);
	else if (to == DUO_SVM)
		flows_see(&r->flows, FLOWS_TO_SVM, f, len);
	mix(r, &r->now, sizeof(r->now));
	mix(r, &to, sizeof(to));
	mix(r, f, len);
	r->frames++;
}

/* Let the machines' own deadlines happen until @at. */
static void time_goes(struct duo *d, struct replay *r, nstime at)
{
	nstime due;

	while ((due = duo_deadline(d)) <= at) {
		if (due > r->now)
			r->now = due;
		duo_tick(d, r->now);
		/* One that is not moved by the time it has asked for would be asked for ever. */
		if (duo_deadline(d) <= r->now)
			r->now += NS_PER_US;
	}
	r->now = at;
}

/* Return: 0, or 1 with a reason on stdout */
static int once(const char *path, struct replay *r, bool report)
{
	const nstime start = 1000 * NS_PER_S;
	struct rec_frame fr = { 0 };
	struct net_stats p, s;
	FILE *f = rec_open(path);
	struct duo *d;
	char why[240] = "";
	uint32_t n = 0;
	int rc;

	memset(r, 0, sizeof(*r));
	r->digest = 14695981039346656037ull;
	r->now = start;
	d = duo_new(r->now, out, r);
	if (!f || !d || flows_init(&r->flows) < 0) {
		printf("%s: %s\n", path, f ? "no memory" : "this is no recording");
		return 1;
	}
	while ((rc = rec_next(f, &fr)) > 0) {
		time_goes(d, r, start + fr.at);
		if (fr.from != DUO_CLIENT)
			flows_see(&r->flows, fr.from == DUO_PVM ? FLOWS_PVM : FLOWS_SVM, fr.data, fr.len);
		duo_frame(d, r->now, fr.from, fr.data, fr.len);
		n++;
	}
	duo_stats(d, &p, &s);
	if (rc < 0 || !n)
		snprintf(why, sizeof(why), "the recording is damaged after %u frames", n);
	else if (p.mismatches)
		snprintf(why, sizeof(why), "%" PRIu64 " differences", p.mismatches);
	else if (p.held)
		snprintf(why, sizeof(why), "%u frames are held at the end", p.held);
	else
		flows_judge(&r->flows, why, sizeof(why));
	time_goes(d, r, r->now + SETTLE);
	duo_stats(d, &p, &s);
	for (int c = 0; c < CAUSE_MAX; c++)
		if (duo_wants(d, c)) {
			size_t at = strlen(why);

			snprintf(why + at, sizeof(why) - at, "%s%u checkpoints wanted because of %s", at ? ", " : "",
				 duo_wants(d, c), ckpt_cause_name(c));
		}
	if (report)
		printf("%s %s: %u frames; compared %" PRIu64 ", datagrams %" PRIu64 ", passed %" PRIu64 ", splits %" PRIu64
		       ", acks lowered %" PRIu64 " made %" PRIu64 "; let out %" PRIu64 " bytes of TCP, %" PRIu64 " others%s%s\n",
		       *why ? "not ok" : "ok", path, n, p.released_compared, p.datagrams, p.passed, p.splits, p.acks_lowered,
		       p.acks_made, r->flows.tcp_bytes, r->flows.datagrams, *why ? "; FAILED: " : "", why);
	fclose(f);
	flows_free(&r->flows);
	duo_free(d);
	return *why != 0;
}

int main(int argc, char **argv)
{
	int failed = argc < 2;

	for (int i = 1; i < argc; i++) {
		struct replay a, b;

		if (once(argv[i], &a, true)) {
			failed++;
			continue;
		}
		if (once(argv[i], &b, false) || a.digest != b.digest || a.frames != b.frames) {
			printf("not ok %s: the second time it goes another way\n", argv[i]);
			failed++;
		}
	}
	return failed ? 1 : 0;
}
