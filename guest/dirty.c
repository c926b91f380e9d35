/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * dirty.c - dirties memory at a given pace, and can prove that no page of it was lost
 *
 * Goal: N pages a second, each a different page, at random over the region, each with new content in all of its 4096
 * bytes; and a check that finds not only a torn page but also a whole page that has gone back to older content, which is
 * what a checkpoint that misses a dirty page looks like.
 *
 * The region is written in rounds. Round r visits every page exactly once, in an order that is a keyed permutation of
 * the page numbers (a four-round Feistel network, cycle-walked down to the number of pages). Because it can be inverted,
 * the generation that a page must have is computed, not stored: r if its place in this round's order was already
 * reached, else r - 1. So there is no table that could be lost along with a page, and dirtying N pages touches N pages
 * plus this file's few variables and a stack.
 *
 * The worker thread is the only one that touches the region. The service's thread leaves the wanted pace and the
 * questions under the lock; answers are announced by an eventfd. The worker ticks every TICK_NS by absolute times, and
 * when it could not keep up it makes good for DEBT_TICKS at most, so that a VM that stood still does not burst
 * afterwards. A check is done in slices between ticks, so that the pace goes on while it runs; each page is judged by
 * the state at the moment of its look.
 */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#include "dirty.h"

enum {
	PAGE = 4096,
	PAGE_WORDS = PAGE / 8,
	HEAD_WORDS = 3,			/* index, generation, checksum */
	TICK_NS = 5000000,
	DEBT_TICKS = 10,
	CHECK_SLICE = 256,		/* pages verified between two looks at the clock */
	INIT_SLICE = 256,
	FEISTEL_ROUNDS = 4,
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int event_fd;

/* Under the lock. */
static uint32_t want_rate, want_mb;
static uint64_t asked;			/* the last ticket given out */
static struct dirty_result result;	/* upto is 0 while there is none */

/* The worker's own. */
static uint64_t *region;
static uint32_t rate, mb, pages;
static uint32_t half_bits;		/* of the Feistel network */
static uint64_t round_no;		/* of the round under way; 0 while the region is filled for the first time */
static uint32_t round_pos;		/* places of this round that are done */

static uint64_t mix64(uint64_t z)
{
	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static uint32_t feistel_f(uint32_t half, uint64_t round, int i)
{
	return (uint32_t)mix64(half ^ (round << 32) ^ ((uint64_t)i << 28)) & ((1u << half_bits) - 1);
}

static uint32_t permute_once(uint32_t x, uint64_t round)
{
	uint32_t l = x >> half_bits, r = x & ((1u << half_bits) - 1), t;
	int i;

	for (i = 0; i < FEISTEL_ROUNDS; i++) {
		t = l ^ feistel_f(r, round, i);
		l = r;
		r = t;
	}
	return l << half_bits | r;
}

static uint32_t unpermute_once(uint32_t x, uint64_t round)
{
	uint32_t l = x >> half_bits, r = x & ((1u << half_bits) - 1), t;
	int i;

	for (i = FEISTEL_ROUNDS - 1; i >= 0; i--) {
		t = r ^ feistel_f(l, round, i);
		r = l;
		l = t;
	}
	return l << half_bits | r;
}

/* The page at place @pos of round @round. */
static uint32_t page_at(uint32_t pos, uint64_t round)
{
	do
		pos = permute_once(pos, round);
	while (pos >= pages);
	return pos;
}

/* The place of page @index in round @round: the inverse of page_at(). */
static uint32_t place_of(uint32_t index, uint64_t round)
{
	do
		index = unpermute_once(index, round);
	while (index >= pages);
	return index;
}

static void page_write(uint32_t index, uint64_t gen)
{
	uint64_t *p = region + (uint64_t)index * PAGE_WORDS;
	uint64_t w = mix64(index ^ mix64(gen)), step = w | 1;
	int i;

	p[0] = index;
	p[1] = gen;
	p[2] = ~w;
	for (i = HEAD_WORDS; i < PAGE_WORDS; i++)
		p[i] = w += step;
}

static bool page_good(uint32_t index, uint64_t gen)
{
	const uint64_t *p = region + (uint64_t)index * PAGE_WORDS;
	uint64_t w = mix64(index ^ mix64(gen)), step = w | 1, diff;
	int i;

	diff = (p[0] ^ index) | (p[1] ^ gen) | (p[2] ^ ~w);
	for (i = HEAD_WORDS; i < PAGE_WORDS; i++)
		diff |= p[i] ^ (w += step);
	return !diff;
}

static void dirty_next(void)
{
	page_write(page_at(round_pos, round_no), round_no);
	if (++round_pos == pages) {
		round_pos = 0;
		round_no++;
	}
}

static uint64_t expected_gen(uint32_t index)
{
	return place_of(index, round_no) < round_pos ? round_no : round_no - 1;
}

static void resize(uint32_t new_mb)
{
	void *p;

	if (region)
		munmap(region, (size_t)mb << 20);
	region = NULL;
	mb = pages = 0;
	round_no = 0;
	round_pos = 0;
	if (!new_mb)
		return;
	p = mmap(NULL, (size_t)new_mb << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return;
	region = p;
	mb = new_mb;
	pages = new_mb << 8;
	for (half_bits = 1; (1u << 2 * half_bits) < pages; half_bits++)
		;
}

/* Fills the region for the first time, in order. Return: whether it is all there. */
static bool fill_slice(void)
{
	uint32_t n;

	for (n = 0; n < INIT_SLICE && !round_no; n++) {
		page_write(round_pos, 0);
		if (++round_pos == pages) {
			round_pos = 0;
			round_no = 1;
		}
	}
	return round_no > 0;
}

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void sleep_until(int64_t ns)
{
	struct timespec ts = { .tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000 };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL);
}

/* The pass under way, and the last ticket that a pass was begun for. */
static struct dirty_result check;
static bool checking;
static uint64_t taken;

static void check_slice(void)
{
	uint32_t i, first = (uint32_t)check.pages;
	uint64_t one = 1;

	for (i = first; i < pages && i < first + CHECK_SLICE; i++)
		if (!page_good(i, expected_gen(i)))
			check.bad++;
	check.pages = i;
	if (i < pages)
		return;
	pthread_mutex_lock(&lock);
	/* A result that nobody has taken yet is merged in: what was bad then must not be forgotten. */
	if (result.upto && result.bad > check.bad)
		check.bad = result.bad;
	result = check;
	pthread_mutex_unlock(&lock);
	checking = false;
	if (write(event_fd, &one, sizeof(one)) < 0)
		return;
}

/* Takes over the wanted pace and the next question; sleeps while there is nothing to do. */
static void take_orders(int64_t *next_tick)
{
	uint32_t old_rate = rate;

	pthread_mutex_lock(&lock);
	while (!want_rate && asked == taken && !checking && want_mb == mb && (round_no || !pages))
		pthread_cond_wait(&wake, &lock);
	if (want_mb != mb && !checking) {
		resize(want_mb);
		want_mb = mb;
	}
	rate = mb ? want_rate : 0;
	if (!mb)
		want_rate = 0;
	if (asked != taken && !checking && (round_no || !pages)) {
		memset(&check, 0, sizeof(check));
		check.upto = taken = asked;
		checking = true;
	}
	pthread_mutex_unlock(&lock);
	if (!old_rate || !rate)
		*next_tick = now_ns() + TICK_NS;
}

static void *worker(void *arg)
{
	int64_t next_tick = now_ns(), now;
	uint64_t credit = 0;	/* in pages x TICK_NS x rate: what is left of a page is carried on */

	for (;;) {
		take_orders(&next_tick);
		if (pages && !round_no) {
			if (!fill_slice())
				continue;
			next_tick = now_ns() + TICK_NS;
		}
		if (checking)
			check_slice();
		now = now_ns();
		if (rate && now >= next_tick) {
			if (now - next_tick > (int64_t)DEBT_TICKS * TICK_NS)
				next_tick = now - (int64_t)DEBT_TICKS * TICK_NS;
			for (; next_tick <= now; next_tick += TICK_NS)
				credit += (uint64_t)rate * TICK_NS;
			for (; credit >= 1000000000; credit -= 1000000000)
				dirty_next();
		}
		if (rate && !checking)
			sleep_until(next_tick);
	}
	return NULL;
}

uint64_t dirty_mb_max(void)
{
	struct sysinfo si;

	if (sysinfo(&si))
		return 0;
	return (uint64_t)si.totalram * si.mem_unit / 2 >> 20;
}

void dirty_set(uint32_t new_rate, uint32_t new_mb)
{
	pthread_mutex_lock(&lock);
	want_rate = new_mb ? new_rate : 0;
	if (new_mb)
		want_mb = new_mb;
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&lock);
}

uint64_t dirty_check(void)
{
	uint64_t ticket;

	pthread_mutex_lock(&lock);
	ticket = ++asked;
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&lock);
	return ticket;
}

int dirty_result(struct dirty_result *r)
{
	int rc = -EAGAIN;

	pthread_mutex_lock(&lock);
	if (result.upto) {
		*r = result;
		result.upto = 0;
		rc = 0;
	}
	pthread_mutex_unlock(&lock);
	return rc;
}

int dirty_start(void)
{
	pthread_t t;

	event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (event_fd < 0)
		return -errno;
	if (pthread_create(&t, NULL, worker, NULL)) {
		close(event_fd);
		return -EAGAIN;
	}
	pthread_detach(t);
	return event_fd;
}
