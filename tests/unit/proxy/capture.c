/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * proxy/capture: the loop in a thread, readers in this one. What is chosen arrives whole and in order, a reader that
 * does not read costs frames and nothing else, and a slot comes free however a capture ends.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/pcapng.h"
#include "proxy/capture.h"

#define WAIT_MS 10000
#define ALL ((1u << CAPTURE_POINTS) - 1)

static struct loop *loop;
static struct capture *cap;
static pthread_t thread;
static bool running;

static void *run(void *arg)
{
	loop_run(loop);
	return NULL;
}

static int setup(void **state)
{
	const char *const ids[] = { "n0", "n1" };
	struct err e;

	loop = loop_new("frames", &e);
	cap = loop ? capture_new(loop, 2, ids) : NULL;
	if (!cap)
		return -1;
	running = true;
	return pthread_create(&thread, NULL, run, NULL);
}

static void stop(void)
{
	if (running) {
		loop_stop(loop);
		pthread_join(thread, NULL);
	}
	running = false;
}

static int teardown(void **state)
{
	stop();
	capture_free(cap);
	loop_free(loop);
	return 0;
}

/* Frames, in the loop's thread as they would be. The i-th of a batch has the number @first + i in its first bytes. */
struct batch {
	enum capture_point point;
	unsigned int nic, n, first;
	uint32_t len;
	unsigned int seed;		/* 0: all of @len bytes */
	uint32_t points;		/* out: what is looked at now */
	sem_t done;
};

static void put_batch(void *arg, const void *data, size_t len)
{
	struct batch *b = arg;
	uint8_t frame[9100];

	for (unsigned int i = 0; i < b->n; i++) {
		uint32_t number = b->first + i, n = b->seed ? 60 + (uint32_t)rand_r(&b->seed) % 9000 : b->len;

		memset(frame, (int)number, sizeof(frame));
		memcpy(frame, &number, sizeof(number));
		capture_frame(cap, b->point, b->nic, frame, n);
	}
	b->points = cap->points;
	sem_post(&b->done);
}

static struct batch put(struct batch b)
{
	struct timespec ts;

	sem_init(&b.done, 0, 0);
	assert_int_equal(loop_post(loop, put_batch, &b, NULL, 0), 0);
	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += WAIT_MS / 1000;
	assert_int_equal(sem_timedwait(&b.done, &ts), 0);
	sem_destroy(&b.done);
	return b;
}

/* Until the captures that run look at these points. */
static void points_become(uint32_t points)
{
	nstime end = clock_ns() + WAIT_MS * NS_PER_MS;

	while (put((struct batch){ 0 }).points != points) {
		assert_true(clock_ns() < end);
		usleep(1000);
	}
}

/* The reader's end of a capture that has begun. */
static int start(struct capture_cfg cfg)
{
	struct err e = { 0 };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	if (capture_start(cap, &cfg, pair[1], &e)) {
		print_error("%s\n", e.msg);
		fail();
	}
	return pair[0];
}

struct reader {
	int fd;
	uint8_t buf[2 * PCAPNG_MAX_BLOCK];
	size_t n;
	struct pcapng_block b;
	const uint8_t *block;
	size_t size;			/* of the block handed out */
};

/* The next block in @r->b; false at the end of the stream, which must lie between two blocks. */
static bool next(struct reader *r)
{
	memmove(r->buf, r->buf + r->size, r->n - r->size);
	r->n -= r->size;
	r->size = 0;
	for (;;) {
		struct pollfd p = { .fd = r->fd, .events = POLLIN };
		long size = pcapng_next(r->buf, r->n, &r->b);
		ssize_t k;

		assert_true(size >= 0);
		if (size) {
			r->block = r->buf;
			r->size = (size_t)size;
			return true;
		}
		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		k = recv(r->fd, r->buf + r->n, sizeof(r->buf) - r->n, 0);
		if (k <= 0) {
			assert_int_equal(r->n, 0);
			return false;
		}
		r->n += (size_t)k;
	}
}

static uint32_t le32(const uint8_t *p)
{
	return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void expect(struct reader *r, enum pcapng_type type, uint32_t iface)
{
	assert_true(next(r));
	assert_int_equal(r->b.type, type);
	assert_int_equal(r->b.iface, iface);
}

static void expect_packet(struct reader *r, uint32_t iface, uint32_t number, uint32_t caplen, uint32_t len)
{
	expect(r, PCAPNG_PACKET, iface);
	assert_int_equal(le32(r->block + 20), caplen);
	assert_int_equal(le32(r->block + 24), len);
	assert_int_equal(le32(r->block + 28), number);
	for (uint32_t i = 4; i < caplen; i++)
		assert_int_equal(r->block[28 + i], (uint8_t)number);
}

static void expect_name(struct reader *r, const char *name)
{
	expect(r, PCAPNG_INTERFACE, 0);
	assert_int_equal(r->block[18], strlen(name));
	assert_memory_equal(r->block + 20, name, strlen(name));
}

static void chosen_points_only(void **state)
{
	static struct reader r;

	r = (struct reader){ .fd = start((struct capture_cfg){ .points = 1 << CAPTURE_CLIENT | 1 << CAPTURE_RELEASED,
							       .snaplen = 100 }) };
	/* The head comes before any frame. */
	expect(&r, PCAPNG_SECTION, 0);
	expect_name(&r, "n0 client");
	expect_name(&r, "n0 released");
	expect_name(&r, "n1 client");
	expect_name(&r, "n1 released");
	points_become(1 << CAPTURE_CLIENT | 1 << CAPTURE_RELEASED);
	put((struct batch){ CAPTURE_CLIENT, 0, 2, 10, 60 });
	put((struct batch){ CAPTURE_PVM, 0, 2, 20, 60 });
	put((struct batch){ CAPTURE_SVM, 1, 2, 30, 60 });
	put((struct batch){ CAPTURE_RELEASED, 1, 1, 40, 1514 });
	put((struct batch){ CAPTURE_CLIENT, 2, 1, 50, 60 });	/* there is no such NIC */
	put((struct batch){ CAPTURE_CLIENT, 200, 1, 50, 60 });
	expect_packet(&r, 0, 10, 60, 60);
	assert_int_equal(le32(r.block + r.size - 12), PCAPNG_INBOUND);
	expect_packet(&r, 0, 11, 60, 60);
	expect_packet(&r, 3, 40, 100, 1514);
	assert_int_equal(le32(r.block + r.size - 12), PCAPNG_OUTBOUND);
	shutdown(r.fd, SHUT_WR);
	for (uint32_t i = 0; i < 4; i++) {
		expect(&r, PCAPNG_STATS, i);
		assert_int_equal(r.b.seen, ((const int[]){ 2, 0, 0, 1 })[i]);
		assert_int_equal(r.b.dropped, 0);
	}
	assert_false(next(&r));
	points_become(0);
	close(r.fd);
}

static void ends_after_count(void **state)
{
	static struct reader r;

	r = (struct reader){ .fd = start((struct capture_cfg){ .points = 1 << CAPTURE_PVM, .count = 3 }) };
	points_become(1 << CAPTURE_PVM);
	put((struct batch){ CAPTURE_PVM, 0, 5, 1, 61 });
	points_become(0);
	expect(&r, PCAPNG_SECTION, 0);
	expect_name(&r, "n0 pvm");
	expect_name(&r, "n1 pvm");
	for (uint32_t i = 1; i <= 3; i++)
		expect_packet(&r, 0, i, 61, 61);
	expect(&r, PCAPNG_STATS, 0);
	assert_int_equal(r.b.seen, 3);
	expect(&r, PCAPNG_STATS, 1);
	assert_false(next(&r));
	close(r.fd);
}

/* Nobody reads: frames are dropped whole, in the end of what came, and what is there arrives. */
static void slow_reader_costs_frames(void **state)
{
	static struct reader r;
	unsigned int sent = 6000, got = 0;

	r = (struct reader){ .fd = start((struct capture_cfg){ .points = ALL }) };
	points_become(ALL);
	put((struct batch){ CAPTURE_PVM, 0, sent, 0, 1514 });
	shutdown(r.fd, SHUT_WR);
	/* The others go on; there is room for one more capture and it gets its frames. */
	close(start((struct capture_cfg){ .points = ALL }));
	while (next(&r) && r.b.type != PCAPNG_STATS) {
		if (r.b.type != PCAPNG_PACKET)
			continue;
		/* No later frame was in the buffer's place before an earlier one: what was lost was lost at the end. */
		assert_int_equal(le32(r.block + 28), got);
		got++;
	}
	/* 4 MiB and the socket's buffer are more than this, and less than all. */
	assert_true((uint64_t)got * 1560 > CAPTURE_BUFFER - 4096);
	assert_true(got < sent);
	/* Interface 1 is n0 pvm. */
	assert_true(next(&r));
	assert_int_equal(r.b.iface, 1);
	assert_int_equal(r.b.seen, sent);
	assert_int_equal(r.b.dropped, sent - got);
	for (int i = 2; i < 8; i++)
		expect(&r, PCAPNG_STATS, (uint32_t)i);
	assert_false(next(&r));
	close(r.fd);
}

/* The ring goes around many times, sometimes full: numbers only grow, contents are right, the sums agree. */
static void around_the_ring(void **state)
{
	unsigned int seed = getenv("SEED") ? (unsigned int)strtoul(getenv("SEED"), NULL, 10) : (unsigned int)time(NULL);
	static struct reader r;
	uint32_t sent = 0, got = 0, last = 0;

	print_message("seed %u\n", seed);
	r = (struct reader){ .fd = start((struct capture_cfg){ .points = 1 << CAPTURE_SVM }) };
	points_become(1 << CAPTURE_SVM);
	for (int i = 0; i < 3; i++)
		assert_true(next(&r));
	for (int turn = 0; turn < 60; turn++) {
		unsigned int n = 1 + (unsigned int)rand_r(&seed) % 900, k = (unsigned int)rand_r(&seed) % 500;

		put((struct batch){ CAPTURE_SVM, 0, n, sent + 1, 0, rand_r(&seed) | 1u });
		sent += n;
		if (turn == 59) {
			shutdown(r.fd, SHUT_WR);
			k = UINT32_MAX;
		}
		for (; k--; got++) {
			struct pollfd p = { .fd = r.fd, .events = POLLIN };
			uint32_t number, len;

			if (turn < 59 && r.n == r.size && !poll(&p, 1, 20))
				break;
			assert_true(next(&r));
			if (r.b.type == PCAPNG_STATS)
				break;
			number = le32(r.block + 28);
			len = le32(r.block + 20);
			assert_true(number > last);
			last = number;
			for (uint32_t i = 4; i < len; i++)
				assert_int_equal(r.block[28 + i], (uint8_t)number);
		}
	}
	assert_int_equal(r.b.seen, sent);
	assert_int_equal(r.b.dropped, sent - got);
	print_message("%u frames, %u dropped\n", sent, sent - got);
	expect(&r, PCAPNG_STATS, 1);
	assert_false(next(&r));
	close(r.fd);
}

static void readers_that_go(void **state)
{
	int fd = start((struct capture_cfg){ .points = ALL });

	points_become(ALL);
	close(fd);
	points_become(0);
	/* With frames on their way. */
	fd = start((struct capture_cfg){ .points = ALL });
	points_become(ALL);
	put((struct batch){ CAPTURE_PVM, 0, 3000, 0, 1514 });
	close(fd);
	points_become(0);
	/* One that says something, which nobody expects. */
	fd = start((struct capture_cfg){ .points = ALL });
	points_become(ALL);
	assert_int_equal(write(fd, "x", 1), 1);
	points_become(0);
	close(fd);
	/* Gone before it began. */
	close(start((struct capture_cfg){ .points = ALL }));
	points_become(0);
}

static void no_more_than_four(void **state)
{
	struct capture_cfg cfg = { .points = 1 << CAPTURE_CLIENT };
	int fd[CAPTURE_MAX], pair[2];
	struct err e = { 0 };
	char c;

	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < CAPTURE_MAX; i++)
			fd[i] = start(cfg);
		points_become(cfg.points);
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
		assert_int_equal(capture_start(cap, &cfg, pair[1], &e), -EBUSY);
		assert_non_null(strstr(e.msg, "4 captures run already"));
		/* What was refused is closed. */
		assert_int_equal(read(pair[0], &c, 1), 0);
		close(pair[0]);
		for (int i = 0; i < CAPTURE_MAX; i++)
			close(fd[i]);
		points_become(0);
	}
}

static void what_could_block_is_refused(void **state)
{
	struct capture_cfg cfg = { .points = 1 };
	int fds[3], p[2], dgram[2];
	struct err e = { 0 };

	assert_int_equal(pipe(p), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, dgram), 0);
	fds[0] = p[1];
	fds[1] = dgram[1];
	fds[2] = open("/dev/null", O_WRONLY);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(capture_start(cap, &cfg, fds[i], &e), -EINVAL);
		assert_non_null(strstr(e.msg, "must be a unix stream socket"));
		assert_int_equal(fcntl(fds[i], F_GETFD), -1);
	}
	close(p[0]);
	close(dgram[0]);
}

/* The node ends: who reads gets everything and the statistics, who does not holds nobody up for long. */
static void the_node_ends(void **state)
{
	static struct reader r;
	int slow;

	r = (struct reader){ .fd = start((struct capture_cfg){ .points = 1 << CAPTURE_CLIENT }) };
	slow = start((struct capture_cfg){ .points = 1 << CAPTURE_PVM });
	points_become(1 << CAPTURE_CLIENT | 1 << CAPTURE_PVM);
	put((struct batch){ CAPTURE_PVM, 0, 2500, 0, 9000 });
	put((struct batch){ CAPTURE_CLIENT, 0, 20, 0, 1514 });
	stop();
	/* Its wait for the slow one has an end: else this hangs. */
	capture_free(cap);
	cap = NULL;
	for (int i = 0; i < 3; i++)
		assert_true(next(&r));
	for (uint32_t i = 0; i < 20; i++)
		expect_packet(&r, 0, i, 1514, 1514);
	expect(&r, PCAPNG_STATS, 0);
	expect(&r, PCAPNG_STATS, 1);
	assert_false(next(&r));
	close(r.fd);
	close(slow);
}

static void the_node_ends_before_it_began(void **state)
{
	static struct reader r;
	uint32_t n = 0;

	stop();
	r = (struct reader){ .fd = start((struct capture_cfg){ .points = ALL }) };
	capture_free(cap);
	cap = NULL;
	expect(&r, PCAPNG_SECTION, 0);
	while (next(&r))
		n += r.b.type == PCAPNG_STATS;
	assert_int_equal(n, 8);
	close(r.fd);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(chosen_points_only), T(ends_after_count), T(slow_reader_costs_frames), T(around_the_ring),
		T(readers_that_go), T(no_more_than_four), T(what_could_block_is_refused), T(the_node_ends),
		T(the_node_ends_before_it_began),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
