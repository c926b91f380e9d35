/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A node reduced to its witness, for tests/unit/cluster/witness.py:
 *
 *	witness_probe --witness TEXT [--id C] [--connects] [--timeout MS] [--probe MS]
 *
 * Reads lines from standard input: "look", "claim EXPECT NEXT", and "race GENERATION" (look and claim the next one,
 * again and again, until the record has that generation). Each answer is a line: ANSWER GENERATION OWNER MILLISECONDS WHY;
 * of a race only what was granted, and at last RECORD. "health up" and "health down WHY" come in between. Ends with
 * the input. @C: one character, of which the node's id is made.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/witness.h"

static struct loop *loop;
static struct witness *witness;
static struct loop_fd input;
static struct loop_timer again;
static char line[256];
static size_t have;
static uint32_t race;		/* until this generation; 0: no race */

static void say(const struct witness_result *r)
{
	printf("%s %u %c %llu %s\n", witness_answer_name(r->answer), r->record.generation, r->record.generation ? r->record.owner[0] : '-',
	       (unsigned long long)(r->took / NS_PER_MS), r->why);
	fflush(stdout);
}

static void done(void *arg, const struct witness_result *r)
{
	struct witness_claim c = { .expect = r->record.generation, .next = r->record.generation + 1, .reason = "a race" };

	if (!race || (r->claim && r->answer == WITNESS_GRANTED))
		say(r);
	if (!race)
		return;
	if (r->answer == WITNESS_UNKNOWN) {
		loop_timer_set(loop, &again, clock_ns() + 10 * NS_PER_MS);
	} else if (r->record.generation >= race) {
		if (r->claim) {
			witness_look(witness);
			return;
		}
		race = 0;
		say(r);
	} else if (r->claim && r->answer == WITNESS_GRANTED) {
		witness_look(witness);
	} else {
		witness_claim(witness, &c);
	}
}

static void look_again(struct loop_timer *t)
{
	witness_look(witness);
}

static void health(void *arg, bool reachable, const char *why)
{
	printf("health %s %s\n", reachable ? "up" : "down", why);
	fflush(stdout);
}

static void command(const char *p)
{
	struct witness_claim c = { .reason = "a test", .peer = "192.0.2.2" };

	if (!strcmp(p, "look")) {
		witness_look(witness);
	} else if (sscanf(p, "claim %u %u", &c.expect, &c.next) == 2) {
		witness_claim(witness, &c);
	} else if (sscanf(p, "race %u", &race) == 1) {
		witness_look(witness);
	} else {
		fprintf(stderr, "witness_probe: what is '%s'?\n", p);
		exit(2);
	}
}

static void readable(struct loop_fd *w, uint32_t events)
{
	ssize_t n = read(w->fd, line + have, sizeof(line) - 1 - have);
	char *end;

	if (n <= 0) {
		loop_stop(loop);
		return;
	}
	have += (size_t)n;
	line[have] = 0;
	while ((end = strchr(line, '\n'))) {
		*end++ = 0;
		command(line);
		have -= (size_t)(end - line);
		memmove(line, end, have + 1);
	}
}

int main(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "witness", required_argument, NULL, 'w' }, { "id", required_argument, NULL, 'i' },
		{ "connects", no_argument, NULL, 'c' }, { "timeout", required_argument, NULL, 't' },
		{ "probe", required_argument, NULL, 'p' }, { 0 },
	};
	struct witness_cfg cfg = { .name = "web", .probe = NS_NEVER, .done = done, .health = health };
	struct err e = { 0 };
	int c;

	memset(cfg.me, 'A', sizeof(cfg.me));
	while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		if (c == 'w' && witness_spec_parse(optarg, &cfg.spec, &e))
			goto fail;
		if (c == 'i')
			memset(cfg.me, *optarg, sizeof(cfg.me));
		if (c == 'c')
			cfg.connects = true;
		if (c == 't')
			cfg.timeout = strtoull(optarg, NULL, 0) * NS_PER_MS;
		if (c == 'p')
			cfg.probe = strtoull(optarg, NULL, 0) * NS_PER_MS;
		if (c == '?')
			return 2;
	}
	loop = cfg.loop = loop_new("control", &e);
	if (!loop)
		goto fail;
	again = (struct loop_timer){ .fn = look_again };
	input = (struct loop_fd){ .fd = 0, .fn = readable };
	if (loop_fd_add(loop, &input, EPOLLIN))
		return 1;
	witness = witness_open(&cfg, &e);
	if (!witness)
		goto fail;
	loop_run(loop);
	witness_close(witness);
	loop_free(loop);
	return 0;
fail:
	fprintf(stderr, "witness_probe: %s\n", e.msg);
	return 1;
}
