/* SPDX-License-Identifier: BSD-2-Clause */
/* disk/nbd_*: the NBD server, with a client that says right and wrong things, over a socket pair and a unix socket. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cmocka.h>

#include "base/clock.h"
#include "blkmem.h"
#include "disk/nbd_server.h"
#include "nbdclient.h"

#define SIZE	(40u << 20)

/* The server's side. Its loop is a thread; everything of it is touched there, by on_loop(). */
struct world {
	struct loop *loop;
	pthread_t thread;
	struct nbd_server *s;
	struct blkmem m, ro;
	char dir[32];
};

struct call {
	void (*fn)(struct world *w, void *arg);
	struct world *w;
	void *arg;
	sem_t *done;
};

static void run_call(void *arg, const void *data, size_t len)
{
	struct call call;

	(void)arg;
	assert_int_equal(len, sizeof(call));
	memcpy(&call, data, sizeof(call));
	call.fn(call.w, call.arg);
	sem_post(call.done);
}

static void on_loop(struct world *w, void (*fn)(struct world *w, void *arg), void *arg)
{
	sem_t done;
	struct call call = { fn, w, arg, &done };

	sem_init(&done, 0, 0);
	assert_int_equal(loop_post(w->loop, run_call, NULL, &call, sizeof(call)), 0);
	sem_wait(&done);
	sem_destroy(&done);
}

static void *serve(void *arg)
{
	struct world *w = arg;

	loop_run(w->loop);
	return NULL;
}

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct err e;

	strcpy(w->dir, "/tmp/test_nbd.XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->loop = loop_new("disk", &e);
	w->s = nbd_server_new(w->loop, &e);
	assert_int_equal(blkmem_init(&w->m, SIZE), 0);
	assert_int_equal(blkmem_init(&w->ro, 4096), 0);
	w->ro.b.readonly = true;
	assert_int_equal(nbd_server_export(w->s, &(struct nbd_export){ .name = "", .description = "the disk",
								       .blk = &w->m.b }, &e), 0);
	assert_int_equal(nbd_server_export(w->s, &(struct nbd_export){ .name = "ro", .blk = &w->ro.b, .max_conns = 2 }, &e),
			 0);
	assert_int_equal(nbd_server_export(w->s, &(struct nbd_export){ .name = "ro", .blk = &w->ro.b }, &e), -EEXIST);
	pthread_create(&w->thread, NULL, serve, w);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	loop_stop(w->loop);
	pthread_join(w->thread, NULL);
	while (blkmem_answer(&w->m))
		;
	nbd_server_free(w->s);
	loop_free(w->loop);
	blkmem_free(&w->m);
	blkmem_free(&w->ro);
	rmdir(w->dir);
	free(w);
	return 0;
}

static void adopt(void *arg, const void *data, size_t len)
{
	struct world *w = arg;
	int fd;

	assert_int_equal(len, sizeof(fd));
	memcpy(&fd, data, sizeof(fd));
	assert_int_equal(nbd_server_adopt(w->s, fd), 0);
}

static struct nbdc begin(struct world *w)
{
	struct nbdc c = { .data = nbdc_buffer() };
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	assert_int_equal(fcntl(fd[1], F_SETFL, O_NONBLOCK), 0);
	assert_int_equal(loop_post(w->loop, adopt, w, &fd[1], sizeof(fd[1])), 0);
	c.fd = fd[0];
	return c;
}

static void end(struct nbdc *c)
{
	close(c->fd);
	munmap(c->data, NBDC_MAX);
}

static void do_stats(struct world *w, void *arg)
{
	nbd_server_stats(w->s, arg);
}

static struct nbd_stats stats(struct world *w)
{
	struct nbd_stats st;

	on_loop(w, do_stats, &st);
	return st;
}

/* Waits until @ok(statistics). */
#define UNTIL(w, st, cond) do { \
	nstime deadline_ = clock_ns() + 20 * NS_PER_S; \
	while (st = stats(w), !(cond)) { \
		assert_true(clock_ns() < deadline_); \
		usleep(1000); \
	} \
} while (0)

static void nobody_left(struct world *w)
{
	struct nbd_stats st;

	UNTIL(w, st, !st.open);
}

static void expect_rep(struct nbdc *c, uint32_t opt, const void *data, uint32_t len, uint32_t type)
{
	nbdc_opt(c, opt, data, len);
	assert_int_equal(nbdc_rep(c, opt), type);
}

static void options(void **state)
{
	struct world *w = *state;
	struct nbdc c = begin(w);
	uint8_t b[4200], big[40000] = { 0 };
	const uint16_t kinds[] = { NBD_INFO_NAME, NBD_INFO_DESCRIPTION, NBD_INFO_BLOCK_SIZE, 77 };
	unsigned int seen = 0;
	struct cursor cur;

	nbdc_greet(&c, 3);
	expect_rep(&c, 4711, "what", 4, NBD_REP_ERR_UNSUP);
	expect_rep(&c, 4, NULL, 0, NBD_REP_ERR_UNSUP);
	expect_rep(&c, NBD_OPT_LIST, "x", 1, NBD_REP_ERR_INVALID);
	expect_rep(&c, NBD_OPT_LIST, NULL, 0, NBD_REP_SERVER);
	cur = cursor_of(c.data, c.len);
	assert_int_equal(cursor_u32(&cur), 0);
	assert_memory_equal(cur.p, "the disk", cur.left);
	assert_int_equal(nbdc_rep(&c, NBD_OPT_LIST), NBD_REP_SERVER);
	assert_memory_equal(c.data + 4, "ro", 2);
	assert_int_equal(nbdc_rep(&c, NBD_OPT_LIST), NBD_REP_ACK);
	expect_rep(&c, NBD_OPT_STARTTLS, NULL, 0, NBD_REP_ERR_POLICY);
	/* More than is looked at is skipped, and the next option is understood. */
	expect_rep(&c, NBD_OPT_INFO, big, sizeof(big), NBD_REP_ERR_TOO_BIG);

	expect_rep(&c, NBD_OPT_INFO, b, nbdc_info_data(b, "nobody", NULL, 0), NBD_REP_ERR_UNKNOWN);
	expect_rep(&c, NBD_OPT_INFO, b, nbdc_info_data(b, "ro", kinds, 4) - 1, NBD_REP_ERR_INVALID);
	expect_rep(&c, NBD_OPT_INFO, b, nbdc_info_data(b, "ro", kinds, 4) + 1, NBD_REP_ERR_INVALID);
	memset(b, 0xff, 6);
	expect_rep(&c, NBD_OPT_GO, b, 6, NBD_REP_ERR_INVALID);
	nbdc_opt(&c, NBD_OPT_INFO, b, nbdc_info_data(b, "", kinds, 4));
	while (nbdc_rep(&c, NBD_OPT_INFO) == NBD_REP_INFO) {
		cur = cursor_of(c.data, c.len);
		switch (cursor_u16(&cur)) {
		case NBD_INFO_EXPORT:
			assert_int_equal(cursor_u64(&cur), SIZE);
			/* All but read-only and DF, for which structured replies are missing. */
			assert_int_equal(cursor_u16(&cur), 0xd6d);
			seen |= 1;
			break;
		case NBD_INFO_NAME:
			assert_int_equal(cur.left, 0);
			seen |= 2;
			break;
		case NBD_INFO_DESCRIPTION:
			assert_memory_equal(cur.p, "the disk", 8);
			seen |= 4;
			break;
		case NBD_INFO_BLOCK_SIZE:
			assert_int_equal(cursor_u32(&cur), 1);
			assert_int_equal(cursor_u32(&cur), 4096);
			assert_int_equal(cursor_u32(&cur), NBD_MAX_PAYLOAD);
			seen |= 8;
		}
	}
	assert_int_equal(seen, 15);

	/* Contexts: listing needs no structured replies, choosing does. */
	expect_rep(&c, NBD_OPT_SET_META_CONTEXT, b, nbdc_meta_data(b, "", "base:allocation"), NBD_REP_ERR_INVALID);
	expect_rep(&c, NBD_OPT_STRUCTURED_REPLY, "x", 1, NBD_REP_ERR_INVALID);
	expect_rep(&c, NBD_OPT_STRUCTURED_REPLY, NULL, 0, NBD_REP_ACK);
	for (int i = 0; i < 3; i++) {
		const char *queries[] = { NULL, "base:", "base:allocation" };

		expect_rep(&c, NBD_OPT_LIST_META_CONTEXT, b, nbdc_meta_data(b, "", queries[i]), NBD_REP_META_CONTEXT);
		assert_memory_equal(c.data + 4, "base:allocation", 15);
		assert_int_equal(nbdc_rep(&c, NBD_OPT_LIST_META_CONTEXT), NBD_REP_ACK);
	}
	expect_rep(&c, NBD_OPT_LIST_META_CONTEXT, b, nbdc_meta_data(b, "", "qemu:"), NBD_REP_ACK);
	expect_rep(&c, NBD_OPT_SET_META_CONTEXT, b, nbdc_meta_data(b, "", NULL), NBD_REP_ACK);
	expect_rep(&c, NBD_OPT_SET_META_CONTEXT, b, nbdc_meta_data(b, "", "base:"), NBD_REP_ACK);
	expect_rep(&c, NBD_OPT_SET_META_CONTEXT, b, nbdc_meta_data(b, "nobody", "base:allocation"), NBD_REP_ERR_UNKNOWN);
	expect_rep(&c, NBD_OPT_SET_META_CONTEXT, b, nbdc_meta_data(b, "", "base:allocation") - 1, NBD_REP_ERR_INVALID);
	expect_rep(&c, NBD_OPT_SET_META_CONTEXT, b, nbdc_meta_data(b, "ro", "base:allocation"), NBD_REP_META_CONTEXT);
	assert_int_equal(nbdc_rep(&c, NBD_OPT_SET_META_CONTEXT), NBD_REP_ACK);
	/* It was chosen for another export. */
	nbdc_opt(&c, NBD_OPT_GO, b, nbdc_info_data(b, "", NULL, 0));
	assert_int_equal(nbdc_rep(&c, NBD_OPT_GO), NBD_REP_INFO);
	assert_int_equal(nbdc_rep(&c, NBD_OPT_GO), NBD_REP_ACK);
	c.structured = true;
	assert_int_equal(nbdc_do(&c, NBD_CMD_BLOCK_STATUS, 0, 0, 4096, NULL), NBD_EINVAL);
	end(&c);

	c = begin(w);
	nbdc_greet(&c, 3);
	expect_rep(&c, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
	nbdc_must_end(&c);
	end(&c);
	nobody_left(w);
}

/* What ends a connection in the negotiation. */
static void hangups(void **state)
{
	static const struct {
		uint32_t flags;
		uint64_t magic;
		uint32_t opt, len;
	} t[] = {
		{ 0x80000003, NBD_OPTION_MAGIC, NBD_OPT_LIST, 0 },
		{ 3, NBD_OPTION_MAGIC + 1, NBD_OPT_LIST, 0 },
		{ 3, NBD_OPTION_MAGIC, NBD_OPT_LIST, (1u << 20) + 1 },
		{ 3, NBD_OPTION_MAGIC, NBD_OPT_EXPORT_NAME, 5 },
		{ 0, NBD_OPTION_MAGIC, NBD_OPT_LIST, 0 },
	};

	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct nbdc c = begin(*state);
		uint8_t b[21] = { 0 };
		struct wcursor w = wcursor_of(b, sizeof(b));

		nbdc_greet(&c, t[i].flags);
		wcursor_u64(&w, t[i].magic);
		wcursor_u32(&w, t[i].opt);
		wcursor_u32(&w, t[i].len);
		send(c.fd, b, sizeof(b), MSG_NOSIGNAL);
		nbdc_must_end(&c);
		end(&c);
	}
	nobody_left(*state);
}

static void export_name(void **state)
{
	for (uint32_t flags = 0; flags < 4; flags++) {
		struct nbdc c = begin(*state);
		uint8_t b[134];
		struct cursor cur = cursor_of(b, 10);

		nbdc_greet(&c, flags);
		nbdc_opt(&c, NBD_OPT_EXPORT_NAME, "", 0);
		assert_true(nbdc_get(&c, b, flags & NBD_FLAG_NO_ZEROES ? 10 : 134));
		assert_int_equal(cursor_u64(&cur), SIZE);
		assert_int_equal(cursor_u16(&cur), 0xd6d);
		assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE, 0, 3, 5, "hello"), 0);
		assert_int_equal(nbdc_do(&c, NBD_CMD_READ, 0, 3, 5, NULL), 0);
		assert_memory_equal(c.data, "hello", 5);
		/* Without structured replies errors are bare numbers, and there is no DF. */
		assert_int_equal(nbdc_do(&c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 5, NULL), NBD_EINVAL);
		nbdc_req_head(&c, NBD_CMD_DISC, 0, 0, 0, 0);
		nbdc_must_end(&c);
		end(&c);
	}
}

static void commands(void **state)
{
	struct world *w = *state;
	struct nbdc c = begin(w);
	uint8_t *data = malloc(NBD_MAX_PAYLOAD);
	struct cursor cur;

	assert_int_equal(nbdc_go(&c, "", true), 0xd6d | NBD_FLAG_SEND_DF);
	for (size_t i = 0; i < NBD_MAX_PAYLOAD; i++)
		data[i] = (uint8_t)(i * 7 + i / 4096 + 1);
	assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE, NBD_CMD_FLAG_FUA, 4097, NBD_MAX_PAYLOAD, data), 0);
	assert_int_equal(w->m.last_flags, BLK_FUA);
	assert_memory_equal(w->m.bytes + 4097, data, NBD_MAX_PAYLOAD);
	assert_int_equal(nbdc_do(&c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 4097, NBD_MAX_PAYLOAD, NULL), 0);
	assert_memory_equal(c.data, data, NBD_MAX_PAYLOAD);
	/* Zeroes are a hole chunk, also where only the last byte tells them from data. */
	for (uint32_t n = 1; n < 40; n++) {
		assert_int_equal(nbdc_do(&c, NBD_CMD_READ, 0, 4097 - n, n + 1, NULL), 0);
		assert_true(!c.data[0] && c.data[n] == 1);
		assert_int_equal(nbdc_do(&c, NBD_CMD_READ, 0, 4097 - n, n, NULL), 0);
		assert_true(!c.data[0] && !c.data[n - 1]);
	}
	assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FUA, 1u << 20, 1u << 20,
				 NULL), 0);
	assert_int_equal(w->m.last_flags, BLK_NO_HOLE | BLK_FUA);
	assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 2u << 20, 1u << 20, NULL), 0);
	assert_int_equal(w->m.last_flags, BLK_FAST_ZERO);
	w->m.b.fast_zero = false;
	assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 5u << 20, 4096, NULL), NBD_ENOTSUP);
	assert_int_not_equal(w->m.bytes[5u << 20], 0);
	assert_int_equal(nbdc_do(&c, NBD_CMD_BLOCK_STATUS, 0, 4096 + 100, (3u << 20) - 4096, NULL), 0);
	/* Data, which the zeroes of NO_HOLE are too; the hole; data, cut to the request. */
	cur = cursor_of(c.data, c.len);
	assert_int_equal(cursor_u32(&cur), 1);
	assert_int_equal(cursor_u32(&cur), (2u << 20) - 4096 - 100);
	assert_int_equal(cursor_u32(&cur), 0);
	assert_int_equal(cursor_u32(&cur), 1u << 20);
	assert_int_equal(cursor_u32(&cur), NBD_STATE_HOLE | NBD_STATE_ZERO);
	assert_int_equal(cursor_u32(&cur), 100);
	assert_int_equal(cursor_u32(&cur), 0);
	assert_true(!cur.left && !cur.bad);
	assert_int_equal(nbdc_do(&c, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE, 0, SIZE, NULL), 0);
	assert_int_equal(c.len, 12);
	assert_int_equal(nbdc_do(&c, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 3u << 20, 4096, NULL), 0);
	assert_true(w->m.last_op == BLK_TRIM && w->m.last_flags == BLK_FUA);
	assert_int_equal(nbdc_do(&c, NBD_CMD_CACHE, 0, 0, SIZE, NULL), 0);
	assert_int_equal(w->m.last_op, BLK_CACHE);
	assert_int_equal(nbdc_do(&c, NBD_CMD_FLUSH, 0, 0, 0, NULL), 0);
	assert_int_equal(w->m.last_op, BLK_FLUSH);
	assert_int_equal(nbdc_do(&c, NBD_CMD_READ, 0, 77, 0, NULL), 0);
	assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE, 0, SIZE, 0, NULL), 0);
	assert_int_equal(w->m.last_op, BLK_FLUSH);
	free(data);
	end(&c);
}

/* Each is refused with its error, changes nothing, and the connection lives on. */
static void illegal(void **state)
{
	struct world *w = *state;
	static const struct {
		uint16_t cmd, flags;
		uint64_t off;
		uint32_t len, error;
	} t[] = {
		{ NBD_CMD_READ, 0, SIZE - 10, 11, NBD_EINVAL },
		{ NBD_CMD_READ, 0, UINT64_MAX, 1, NBD_EINVAL },
		{ NBD_CMD_READ, 0, UINT64_MAX - 3, 5, NBD_EINVAL },
		{ NBD_CMD_READ, 0, 0, NBD_MAX_PAYLOAD + 1, NBD_EINVAL },
		{ NBD_CMD_READ, 0, 0, UINT32_MAX, NBD_EINVAL },
		{ NBD_CMD_READ, NBD_CMD_FLAG_REQ_ONE, 0, 1, NBD_EINVAL },
		{ NBD_CMD_READ, 0x8000, 0, 1, NBD_EINVAL },
		{ NBD_CMD_WRITE, 0, SIZE - 10, 11, NBD_ENOSPC },
		{ NBD_CMD_WRITE, 0, UINT64_MAX - 10, 100000, NBD_ENOSPC },
		{ NBD_CMD_WRITE, NBD_CMD_FLAG_NO_HOLE, 0, 200000, NBD_EINVAL },
		{ NBD_CMD_WRITE_ZEROES, 0, SIZE, 1, NBD_ENOSPC },
		{ NBD_CMD_WRITE_ZEROES, 0, 0, UINT32_MAX, NBD_ENOSPC },
		{ NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_DF, 0, 1, NBD_EINVAL },
		{ NBD_CMD_TRIM, 0, 1, SIZE, NBD_EINVAL },
		{ NBD_CMD_TRIM, NBD_CMD_FLAG_FAST_ZERO, 0, 1, NBD_EINVAL },
		{ NBD_CMD_CACHE, 0, 1, SIZE, NBD_EINVAL },
		{ NBD_CMD_FLUSH, 0, 1, 0, NBD_EINVAL },
		{ NBD_CMD_FLUSH, 0, 0, 1, NBD_EINVAL },
		{ NBD_CMD_BLOCK_STATUS, 0, 0, 0, NBD_EINVAL },
		{ NBD_CMD_BLOCK_STATUS, 0, SIZE, 1, NBD_EINVAL },
		{ 8, 0, 0, 0, NBD_EINVAL },
		{ 0xffff, 0xffff, UINT64_MAX, UINT32_MAX, NBD_EINVAL },
	};
	uint8_t *junk = calloc(1, 200000);

	for (int structured = 0; structured < 2; structured++) {
		struct nbdc c = begin(w);
		unsigned int before = w->m.total;

		nbdc_go(&c, "", structured);
		for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
			uint32_t error = nbdc_do(&c, t[i].cmd, t[i].flags, t[i].off, t[i].len,
						 t[i].cmd == NBD_CMD_WRITE ? junk : NULL);

			if (error != t[i].error)
				fail_msg("request %u: error %u, not %u", i, error, t[i].error);
		}
		if (!structured)
			assert_int_equal(nbdc_do(&c, NBD_CMD_BLOCK_STATUS, 0, 0, 1, NULL), NBD_EINVAL);
		assert_int_equal(w->m.total, before);
		assert_int_equal(nbdc_do(&c, NBD_CMD_FLUSH, 0, 0, 0, NULL), 0);
		/* More data than any request may have: refused, and then it is over. */
		nbdc_req_head(&c, NBD_CMD_WRITE, 0, 5, 0, NBD_MAX_PAYLOAD + 1);
		assert_int_equal(nbdc_reply(&c, &(uint64_t){ 0 }, 0), NBD_EINVAL);
		nbdc_must_end(&c);
		end(&c);

		c = begin(w);
		nbdc_go(&c, "ro", structured);
		assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE, 0, 0, 5, "hello"), NBD_EPERM);
		assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE_ZEROES, 0, 0, 5, NULL), NBD_EPERM);
		assert_int_equal(nbdc_do(&c, NBD_CMD_TRIM, 0, 0, 5, NULL), NBD_EPERM);
		assert_int_equal(nbdc_do(&c, NBD_CMD_READ, 0, 0, 4096, NULL), 0);
		nbdc_send(&c, "0123456789abcdef0123456789abcdef", 32);
		nbdc_must_end(&c);
		end(&c);
	}
	nobody_left(w);
	free(junk);
}

static void device_errors(void **state)
{
	struct world *w = *state;
	static const struct {
		int rc;
		uint32_t error;
	} t[] = {
		{ -EIO, NBD_EIO }, { -ENOSPC, NBD_ENOSPC }, { -EDQUOT, NBD_ENOSPC }, { -EFBIG, NBD_ENOSPC },
		{ -EROFS, NBD_EPERM }, { -EACCES, NBD_EPERM }, { -EPERM, NBD_EPERM }, { -ENOMEM, NBD_ENOMEM },
		{ -EINVAL, NBD_EINVAL }, { -EOVERFLOW, NBD_EOVERFLOW }, { -ENOTSUP, NBD_ENOTSUP },
		{ -ESHUTDOWN, NBD_ESHUTDOWN }, { -ENOENT, NBD_EIO }, { -EXDEV, NBD_EIO },
	};
	struct nbdc c = begin(w);

	nbdc_go(&c, "", true);
	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		w->m.fail = t[i].rc;
		assert_int_equal(nbdc_do(&c, NBD_CMD_READ, 0, 0, 512, NULL), t[i].error);
		assert_int_equal(nbdc_do(&c, NBD_CMD_WRITE, 0, 0, 5, "hello"), t[i].error);
		assert_int_equal(nbdc_do(&c, NBD_CMD_FLUSH, 0, 0, 0, NULL), t[i].error);
	}
	/* Hints cannot fail for want of support, and where nothing is known of holes there are none. */
	w->m.fail = -ENOTSUP;
	assert_int_equal(nbdc_do(&c, NBD_CMD_TRIM, 0, 0, 512, NULL), 0);
	assert_int_equal(nbdc_do(&c, NBD_CMD_CACHE, 0, 0, 512, NULL), 0);
	assert_int_equal(nbdc_do(&c, NBD_CMD_BLOCK_STATUS, 0, 0, SIZE, NULL), 0);
	assert_int_equal(c.len, 12);
	assert_memory_equal(c.data + 8, "\0\0\0", 4);
	w->m.fail = 0;
	end(&c);
}

/* A whole session, as bytes; sound up to its last one. */
static size_t session(uint8_t *out, size_t size)
{
	struct wcursor w = wcursor_of(out, size);
	static const uint16_t cmds[] = { NBD_CMD_WRITE, NBD_CMD_READ, NBD_CMD_FLUSH, NBD_CMD_TRIM, NBD_CMD_CACHE,
					 NBD_CMD_WRITE_ZEROES, NBD_CMD_BLOCK_STATUS, 99, NBD_CMD_WRITE, NBD_CMD_DISC };
	uint8_t b[4200];
	const struct {
		uint32_t opt, len;
	} opts[] = {
		{ NBD_OPT_LIST, 0 }, { 4711, 7 }, { NBD_OPT_STRUCTURED_REPLY, 0 },
		{ NBD_OPT_LIST_META_CONTEXT, nbdc_meta_data(b, "", "base:") },
		{ NBD_OPT_SET_META_CONTEXT, nbdc_meta_data(b, "", "base:allocation") },
		{ NBD_OPT_INFO, nbdc_info_data(b, "ro", &(uint16_t){ NBD_INFO_BLOCK_SIZE }, 1) },
		{ NBD_OPT_GO, nbdc_info_data(b, "", &(uint16_t){ NBD_INFO_BLOCK_SIZE }, 1) },
	};

	wcursor_u32(&w, 3);
	for (unsigned int i = 0; i < sizeof(opts) / sizeof(opts[0]); i++) {
		wcursor_u64(&w, NBD_OPTION_MAGIC);
		wcursor_u32(&w, opts[i].opt);
		wcursor_u32(&w, opts[i].len);
		if (opts[i].opt == NBD_OPT_LIST_META_CONTEXT)
			nbdc_meta_data(b, "", "base:");
		else if (opts[i].opt == NBD_OPT_SET_META_CONTEXT)
			nbdc_meta_data(b, "", "base:allocation");
		else
			nbdc_info_data(b, opts[i].opt == NBD_OPT_INFO ? "ro" : "", &(uint16_t){ NBD_INFO_BLOCK_SIZE }, 1);
		wcursor_bytes(&w, b, opts[i].len);
	}
	for (unsigned int i = 0; i < sizeof(cmds) / sizeof(cmds[0]); i++) {
		wcursor_u32(&w, NBD_REQUEST_MAGIC);
		wcursor_u16(&w, 0);
		wcursor_u16(&w, cmds[i]);
		wcursor_u64(&w, i);
		wcursor_u64(&w, cmds[i] == NBD_CMD_FLUSH ? 0 : i * 100);
		wcursor_u32(&w, cmds[i] == NBD_CMD_FLUSH ? 0 : 20);
		if (cmds[i] == NBD_CMD_WRITE)
			wcursor_bytes(&w, "twenty bytes of data", 20);
	}
	assert_false(w.bad);
	return w.done;
}

/* All that comes until the end. */
static size_t drain(struct nbdc *c)
{
	struct pollfd pfd = { .fd = c->fd, .events = POLLIN };
	size_t n = 0;

	for (;;) {
		ssize_t got;

		assert_int_equal(poll(&pfd, 1, NBDC_DEADLINE), 1);
		got = recv(c->fd, c->data + n, NBDC_MAX - n, 0);
		if (got <= 0)
			return n;
		n += (size_t)got;
	}
}

/* A session that ends after each number of its bytes, in the two ways in which a client can go. */
static void truncated(void **state)
{
	struct world *w = *state;
	enum { BATCH = 20 };
	uint8_t bytes[2048], whole[8192];
	size_t n = session(bytes, sizeof(bytes)), n_whole;
	struct nbdc c = begin(w);

	nbdc_send(&c, bytes, n);
	n_whole = drain(&c);
	assert_true(n_whole < sizeof(whole));
	memcpy(whole, c.data, n_whole);
	end(&c);
	/* Several at a time: on a busy machine each turn of the two threads costs. */
	for (size_t cut = 0; cut <= n; cut += BATCH) {
		struct nbdc half[BATCH];

		for (size_t i = 0; i < BATCH && cut + i <= n; i++) {
			half[i] = begin(w);
			c = begin(w);
			nbdc_send(&c, bytes, cut + i);
			end(&c);
			nbdc_send(&half[i], bytes, cut + i);
			shutdown(half[i].fd, SHUT_WR);
		}
		for (size_t i = 0; i < BATCH && cut + i <= n; i++) {
			size_t got = drain(&half[i]);

			/* What was said is answered, and as in the whole session. */
			assert_true(got >= NBD_GREETING_LEN && got <= n_whole && (cut + i < n || got == n_whole));
			assert_memory_equal(half[i].data, whole, got);
			end(&half[i]);
		}
		nobody_left(w);
	}
	/* Byte by byte the answers are the same. */
	c = begin(w);
	for (size_t i = 0; i < n; i++) {
		nbdc_send(&c, bytes + i, 1);
		if (i % 16 == 0)
			stats(w);
	}
	assert_int_equal(drain(&c), n_whole);
	assert_memory_equal(c.data, whole, n_whole);
	end(&c);
	nobody_left(w);
}

static void do_hold(struct world *w, void *arg)
{
	w->m.hold = *(bool *)arg;
}

static void do_answer(struct world *w, void *arg)
{
	unsigned int *n = arg;

	while (*n && blkmem_answer(&w->m))
		--*n;
}

static void do_held(struct world *w, void *arg)
{
	*(unsigned int *)arg = w->m.n_held;
}

static unsigned int held(struct world *w)
{
	unsigned int n;

	on_loop(w, do_held, &n);
	return n;
}

static void until_held(struct world *w, unsigned int n)
{
	nstime deadline = clock_ns() + 20 * NS_PER_S;

	while (held(w) != n) {
		assert_true(clock_ns() < deadline);
		usleep(1000);
	}
}

/* As many requests as may be are with the device at once; they are answered as they become ready, newest first here. */
static void flights(void **state)
{
	struct world *w = *state;
	enum { N = 1000 };
	static bool seen[N];
	struct nbdc c = begin(w);
	unsigned int n, in_order = 0;
	uint64_t last = 0;

	nbdc_go(&c, "", true);
	on_loop(w, do_hold, &(bool){ true });
	for (uint64_t i = 0; i < N; i++)
		nbdc_req_head(&c, NBD_CMD_READ, 0, i, i * 512, 512);
	until_held(w, NBD_MAX_FLIGHT);
	for (unsigned int done = 0; done < N; done++) {
		uint64_t cookie;

		if (done % 3 == 0) {
			n = 3;
			on_loop(w, do_answer, &n);
		}
		assert_int_equal(nbdc_reply(&c, &cookie, 512), 0);
		assert_true(cookie < N && !seen[cookie]);
		seen[cookie] = true;
		in_order += cookie > last;
		last = cookie;
	}
	assert_true(in_order < N - NBD_MAX_FLIGHT / 2);
	assert_int_equal(w->m.max_held, NBD_MAX_FLIGHT);

	/* The client goes while its requests are with the device. */
	for (uint64_t i = 0; i < 10; i++)
		nbdc_req_head(&c, NBD_CMD_READ, 0, i, 0, 1 << 20);
	until_held(w, 10);
	end(&c);
	nobody_left(w);
	n = 10;
	on_loop(w, do_answer, &n);
	on_loop(w, do_hold, &(bool){ false });
	c = begin(w);
	nbdc_go(&c, "", true);
	assert_int_equal(nbdc_do(&c, NBD_CMD_READ, 0, 0, 512, NULL), 0);
	end(&c);
}

/* Whoever does not take his answers is not listened to any more, holds no more than the limit, and misses nothing. */
static void slow_reader(void **state)
{
	struct world *w = *state;
	enum { LEN = 128 << 10, N = 10000 };
	struct nbdc c = begin(w), other;
	struct nbd_stats st;
	uint64_t cookie, sent = 0;
	uint8_t b[NBD_REQUEST_LEN];
	unsigned int quiet = 0;

	nbdc_go(&c, "", true);
	memset(w->m.bytes, 1, SIZE);
	while (sent < N && quiet < 100) {
		struct wcursor wc = wcursor_of(b, sizeof(b));

		wcursor_u32(&wc, NBD_REQUEST_MAGIC);
		wcursor_u32(&wc, NBD_CMD_READ);
		wcursor_u64(&wc, sent);
		wcursor_u64(&wc, sent % 8);
		wcursor_u32(&wc, LEN);
		if (send(c.fd, b, sizeof(b), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(b)) {
			sent++;
			quiet = 0;
		} else {
			quiet++;
			usleep(1000);
		}
	}
	assert_true(sent < N);
	st = stats(w);
	assert_in_range(st.reads, 1, NBD_MAX_FLIGHT + 16);
	/* Nobody else notices. */
	other = begin(w);
	nbdc_go(&other, "", true);
	assert_int_equal(nbdc_do(&other, NBD_CMD_READ, 0, 0, 4096, NULL), 0);
	end(&other);
	for (uint64_t i = 0; i < sent; i++) {
		assert_int_equal(nbdc_reply(&c, &cookie, LEN), 0);
		assert_true(cookie == i && c.data[0] == 1 && c.data[LEN - 1] == 1);
	}
	/* Of large ones fewer are begun: two fill what a connection may hold. */
	for (uint64_t i = 0; i < 6; i++)
		nbdc_req_head(&c, NBD_CMD_READ, 0, i, 0, NBD_MAX_PAYLOAD);
	for (unsigned int i = 0; i < 50; i++)
		assert_in_range(stats(w).reads - sent - 1, 0, 2);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(nbdc_reply(&c, &cookie, NBD_MAX_PAYLOAD), 0);
	assert_int_equal(nbdc_do(&c, NBD_CMD_FLUSH, 0, 0, 0, NULL), 0);
	end(&c);

	/* The same in the negotiation. */
	c = begin(w);
	nbdc_greet(&c, 3);
	for (sent = 0, quiet = 0; sent < 10 * N && quiet < 100;) {
		struct wcursor wc = wcursor_of(b, sizeof(b));

		wcursor_u64(&wc, NBD_OPTION_MAGIC);
		wcursor_u64(&wc, (uint64_t)NBD_OPT_LIST << 32);
		if (send(c.fd, b, NBD_OPTION_LEN, MSG_DONTWAIT | MSG_NOSIGNAL) == NBD_OPTION_LEN) {
			sent++;
			quiet = 0;
		} else {
			quiet++;
			usleep(1000);
		}
	}
	assert_true(sent < 10 * N);
	for (uint64_t i = 0; i < sent; i++) {
		while (nbdc_rep(&c, NBD_OPT_LIST) == NBD_REP_SERVER)
			;
	}
	expect_rep(&c, NBD_OPT_ABORT, NULL, 0, NBD_REP_ACK);
	end(&c);
	nobody_left(w);
}

static void do_unexport(struct world *w, void *arg)
{
	*(int *)arg = nbd_server_unexport(w->s, "");
}

static void do_in_use(struct world *w, void *arg)
{
	*(bool *)arg = nbd_server_in_use(w->s, &w->m.b);
}

/* An export goes: what was asked is answered, what was half asked is not begun. */
static void unexported(void **state)
{
	struct world *w = *state;
	struct nbdc c = begin(w);
	uint8_t b[4200];
	uint64_t cookie;
	bool used;
	int rc;
	unsigned int n = 1;

	nbdc_go(&c, "", true);
	on_loop(w, do_hold, &(bool){ true });
	nbdc_req_head(&c, NBD_CMD_READ, 0, 7, 0, 512);
	nbdc_req_head(&c, NBD_CMD_WRITE, 0, 8, 0, 512);
	nbdc_send(&c, "half", 4);
	until_held(w, 1);
	on_loop(w, do_unexport, &rc);
	assert_int_equal(rc, 0);
	on_loop(w, do_in_use, &used);
	assert_true(used);
	on_loop(w, do_answer, &n);
	assert_int_equal(nbdc_reply(&c, &cookie, 512), 0);
	assert_int_equal(cookie, 7);
	nbdc_must_end(&c);
	on_loop(w, do_in_use, &used);
	assert_false(used);
	end(&c);
	on_loop(w, do_unexport, &rc);
	assert_int_equal(rc, -ENOENT);
	c = begin(w);
	nbdc_greet(&c, 3);
	expect_rep(&c, NBD_OPT_GO, b, nbdc_info_data(b, "", NULL, 0), NBD_REP_ERR_UNKNOWN);
	end(&c);
}

struct listening {
	struct nbd_listen where;
	int rc;
	struct err e;
};

static void do_listen(struct world *w, void *arg)
{
	struct listening *l = arg;

	l->rc = nbd_server_listen(w->s, &l->where, &l->e);
}

static void do_unlisten(struct world *w, void *arg)
{
	struct listening *l = arg;

	l->rc = nbd_server_unlisten(w->s, l->rc);
}

static struct nbdc dial(const char *path)
{
	struct nbdc c = { .data = nbdc_buffer(), .fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) };
	struct sockaddr_un sa = { .sun_family = AF_UNIX };

	strcpy(sa.sun_path, path);
	assert_int_equal(connect(c.fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	return c;
}

static void unix_listener(void **state)
{
	struct world *w = *state;
	static struct nbdc c[NBD_MAX_CONNS];
	struct listening l = { 0 };
	char path[64], file[64];
	struct stat st;
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	uint8_t b[4200];
	struct nbdc more;
	int fd;

	snprintf(path, sizeof(path), "%s/sock", w->dir);
	snprintf(file, sizeof(file), "%s/file", w->dir);
	/* Left over by a process that has ended. */
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	strcpy(sa.sun_path, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	close(fd);
	l.where.unix_path = path;
	on_loop(w, do_listen, &l);
	assert_true(l.rc > 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	{
		struct listening again = { .where = l.where };

		on_loop(w, do_listen, &again);
		assert_int_equal(again.rc, -EADDRINUSE);
		assert_non_null(strstr(again.e.msg, "another process listens"));
		close(open(file, O_CREAT | O_WRONLY, 0600));
		again.where.unix_path = file;
		on_loop(w, do_listen, &again);
		assert_int_equal(again.rc, -EEXIST);
		unlink(file);
	}
	for (unsigned int i = 0; i < NBD_MAX_CONNS; i++) {
		c[i] = dial(path);
		if (i < 2)
			nbdc_go(&c[i], "ro", true);
		else
			nbdc_greet(&c[i], 3);
	}
	/* The export has a limit of its own. */
	expect_rep(&c[2], NBD_OPT_GO, b, nbdc_info_data(b, "ro", NULL, 0), NBD_REP_ERR_POLICY);
	more = dial(path);
	nbdc_must_end(&more);
	end(&more);
	end(&c[0]);
	for (nstime deadline = clock_ns() + 20 * NS_PER_S;;) {
		uint8_t one;

		assert_true(clock_ns() < deadline);
		more = dial(path);
		if (nbdc_get(&more, &one, 1))
			break;
		end(&more);
	}
	end(&more);
	on_loop(w, do_unlisten, &l);
	assert_int_equal(l.rc, 0);
	assert_int_equal(stat(path, &st), -1);
	for (unsigned int i = 1; i < NBD_MAX_CONNS; i++) {
		nbdc_must_end(&c[i]);
		end(&c[i]);
	}
	nobody_left(w);
}

static void refused_listeners(void **state)
{
	struct world *w = *state;
	char none[64], bad[64];
	const struct {
		struct nbd_listen where;
		const char *sentence;
	} t[] = {
		{ { .host = "0.0.0.0" }, "loopback addresses only" },
		{ { .host = "::" }, "loopback addresses only" },
		{ { .host = "192.0.2.1" }, "loopback addresses only" },
		{ { .host = "localhost" }, "no IPv4 or IPv6 address" },
		{ { .host = "" }, "no IPv4 or IPv6 address" },
		{ { .host = "127.0.0.1", .unix_path = "x" }, "either" },
		{ { 0 }, "either" },
		{ { .host = "127.0.0.1", .tls_dir = none }, "ca-cert.pem" },
		{ { .host = "127.0.0.1", .psk_file = none }, "cannot be read" },
		{ { .host = "127.0.0.1", .psk_file = "/dev/null" }, "is no file" },
		{ { .host = "127.0.0.1", .psk_file = bad }, "line 2" },
		{ { .host = "127.0.0.1", .psk_file = bad, .tls_dir = none }, "either" },
		{ { .unix_path = "" }, "from 1 to" },
	};
	FILE *f;

	snprintf(none, sizeof(none), "%s/none", w->dir);
	snprintf(bad, sizeof(bad), "%s/bad", w->dir);
	f = fopen(bad, "w");
	fprintf(f, "alice:000102030405060708090a0b0c0d0e0f\nbob:0ff\n");
	assert_int_equal(fchmod(fileno(f), 0600), 0);
	fclose(f);
	for (unsigned int i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
		struct listening l = { .where = t[i].where };

		on_loop(w, do_listen, &l);
		if (l.rc >= 0 || !strstr(l.e.msg, t[i].sentence))
			fail_msg("listener %u: %d: %s", i, l.rc, l.e.msg);
	}
	unlink(bad);
	for (unsigned int i = 0; i < 2; i++) {
		struct listening l = { .where = { .host = i ? "::1" : "127.1.2.3" } };

		on_loop(w, do_listen, &l);
		/* A kernel without IPv6 has no ::1. */
		assert_true(l.rc > 0 || (i && (l.rc == -EADDRNOTAVAIL || l.rc == -EAFNOSUPPORT)));
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(options), T(hangups), T(export_name), T(commands), T(illegal), T(device_errors), T(truncated), T(flights),
		T(slow_reader), T(unexported), T(unix_listener), T(refused_listeners),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
