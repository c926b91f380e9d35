/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: an NBD client. The input is a program of what the client says: options and requests, sound but for
 * fields that the input decides, or raw bytes; in pieces; with the device answering at once or late and in another
 * order. All that the server says must be well-formed, each answer one to something that was asked, and afterwards
 * nothing is left. The end of the input is the client's end, in one of two ways.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../unit/disk/blkmem.h"
#include "base/cursor.h"
#include "base/loop.h"
#include "disk/nbd_server.h"
#include "disk/nbd_wire.h"
#include "fuzz.h"

#define SIZE	(256u << 10)
#define MAX_SAID 8192

static struct loop *loop;
static struct nbd_server *server;
static struct blkmem mem;
static bool late;		/* the device answers when the loop has nothing else to do, newest first */
static uint64_t alive;		/* connections */

/* What the client has said, and a view of it that the checks need. */
static uint8_t said[MAX_SAID];
static size_t n_said;
static bool structured, clean;	/* @clean: all so far was sound, so the answers are known to be framed */
static unsigned int requests;

static uint8_t heard[1 << 20];
static size_t n_heard;

static void put(const void *p, size_t n)
{
	if (n > sizeof(said) - n_said)
		n = sizeof(said) - n_said;
	memcpy(said + n_said, p, n);
	n_said += n;
}

static void put_be(uint64_t v, size_t n)
{
	uint8_t b[8];
	struct wcursor w = wcursor_of(b, sizeof(b));

	wcursor_be(&w, v, n);
	put(b, n);
}

static void put_input(struct fuzz_in *in, size_t n)
{
	while (n--)
		put(&(uint8_t){ in_u8(in) }, 1);
}

/* A length field: that of what follows, or sometimes another. */
static uint32_t length(struct fuzz_in *in, uint8_t op, uint32_t right)
{
	return op & 0x80 ? in_u32(in) : right;
}

static void say_option(struct fuzz_in *in, uint8_t op)
{
	static const char *const names[] = { "", "ro", "base:", "base:allocation", "nobody" };
	const char *name = names[in_u8(in) % 5], *query = names[2 + (op >> 4 & 1)];
	uint32_t opt = op & 15, n = (uint32_t)strlen(name), q = (uint32_t)strlen(query);

	put_be(NBD_OPTION_MAGIC, 8);
	put_be(opt, 4);
	switch (opt) {
	case NBD_OPT_EXPORT_NAME:
		put_be(length(in, op, n), 4);
		put(name, n);
		break;
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		put_be(length(in, op, 4 + n + 2 + 4), 4);
		put_be(length(in, op, n), 4);
		put(name, n);
		put_be(length(in, op, 2) & 0xffff, 2);
		put_be(in_u8(in) & 3, 2);
		put_be(3, 2);
		break;
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		put_be(length(in, op, 4 + n + 4 + 4 + q), 4);
		put_be(length(in, op, n), 4);
		put(name, n);
		put_be(length(in, op, 1), 4);
		put_be(length(in, op, q), 4);
		put(query, q);
		break;
	default:
		n = op & 0x40 ? in_u8(in) : 0;
		put_be(length(in, op, n), 4);
		put_input(in, n);
	}
}

static void say_request(struct fuzz_in *in, uint8_t op)
{
	uint16_t cmd = op & 7, flags = op & 0x08 ? in_u8(in) : 0;
	uint64_t off = in_u16(in);
	uint32_t len = in_u8(in);

	if (op & 0x10)
		len *= 900;
	if (op & 0x20) {
		cmd = in_u8(in);
		off |= (uint64_t)in_u16(in) << 48;
	}
	if (op & 0x40)
		len = in_u32(in);
	if (cmd == NBD_CMD_FLUSH && !(op & 0x60))
		off = len = 0;
	put_be(NBD_REQUEST_MAGIC, 4);
	put_be(flags, 2);
	put_be(cmd, 2);
	put_be(++requests, 8);
	put_be(off, 8);
	put_be(len, 4);
	for (uint32_t i = 0; cmd == NBD_CMD_WRITE && i < len && i < sizeof(said); i++)
		put(&(uint8_t){ (uint8_t)requests }, 1);
}

/* The server's words: greeting, option replies, then replies. What is cut off is fine: the client may have gone. */
static void check(const uint8_t *p, size_t n, bool transmission_zeroes)
{
	struct cursor c = cursor_of(p, n);
	unsigned int answers = 0;

	if (n < NBD_GREETING_LEN)
		return;
	MUST(cursor_u64(&c) == NBD_MAGIC && cursor_u64(&c) == NBD_OPTION_MAGIC);
	cursor_u16(&c);
	while (c.left >= NBD_OPTION_REPLY_LEN) {
		struct cursor at = c;
		uint32_t type, len, opt;

		if (cursor_u64(&at) != NBD_REP_MAGIC)
			break;
		opt = cursor_u32(&at);
		type = cursor_u32(&at);
		len = cursor_u32(&at);
		MUST(len <= 4 + 2 * NBD_MAX_STRING);
		if (opt == NBD_OPT_STRUCTURED_REPLY && type == NBD_REP_ACK)
			structured = true;
		if (!cursor_get(&at, len))
			return;
		c = at;
	}
	/* The answer to EXPORT_NAME has no magic. */
	if (c.left >= NBD_EXPORT_REPLY_LEN) {
		struct cursor at = c;
		uint32_t magic = cursor_u32(&at);

		if (magic != NBD_SIMPLE_MAGIC && magic != NBD_STRUCTURED_MAGIC && magic != (uint32_t)(NBD_REP_MAGIC >> 32)) {
			cursor_get(&c, NBD_EXPORT_REPLY_LEN);
			cursor_get(&c, transmission_zeroes ? NBD_EXPORT_ZEROES : 0);
		}
	}
	while (c.left >= NBD_CHUNK_LEN) {
		uint32_t magic = cursor_u32(&c), len = 0;
		uint64_t cookie;

		if (magic == NBD_SIMPLE_MAGIC && !structured)
			return;	/* how long it is the cookie would have to tell */
		if (magic == NBD_SIMPLE_MAGIC) {
			MUST(!cursor_u32(&c));
			cookie = cursor_u64(&c);
		} else {
			MUST(magic == NBD_STRUCTURED_MAGIC && structured);
			MUST(cursor_u16(&c) == NBD_REPLY_FLAG_DONE);
			cursor_u16(&c);
			cookie = cursor_u64(&c);
			len = cursor_u32(&c);
		}
		/* Raw bytes may have been requests with any cookie. */
		MUST(!clean || (cookie && cookie <= requests));
		answers++;
		if (!cursor_get(&c, len))
			return;
	}
	MUST(!clean || answers <= requests);
}

static void *serve(void *arg)
{
	loop_run(arg);
	return NULL;
}

struct call {
	void (*fn)(void *arg);
	void *arg;
	sem_t *done;
};

static void run_call(void *arg, const void *data, size_t len)
{
	struct call call;

	(void)arg;
	MUST(len == sizeof(call));
	memcpy(&call, data, sizeof(call));
	call.fn(call.arg);
	sem_post(call.done);
}

static void on_loop(void (*fn)(void *arg), void *arg)
{
	sem_t done;
	struct call call = { fn, arg, &done };

	sem_init(&done, 0, 0);
	MUST(!loop_post(loop, run_call, NULL, &call, sizeof(call)));
	sem_wait(&done);
	sem_destroy(&done);
}

static void do_adopt(void *arg)
{
	mem.hold = late;
	MUST(!nbd_server_adopt(server, *(int *)arg));
}

static void do_look(void *arg)
{
	struct nbd_stats st;

	(void)arg;
	while (blkmem_answer(&mem))
		;
	nbd_server_stats(server, &st);
	alive = st.open;
}

static void set_up(void)
{
	static struct blkmem ro;
	pthread_t thread;
	struct err e;

	loop = loop_new("disk", &e);
	MUST(loop && (server = nbd_server_new(loop, &e)));
	MUST(!blkmem_init(&mem, SIZE) && !blkmem_init(&ro, 4096));
	ro.b.readonly = true;
	MUST(!nbd_server_export(server, &(struct nbd_export){ .name = "", .description = "disk", .blk = &mem.b }, &e));
	MUST(!nbd_server_export(server, &(struct nbd_export){ .name = "ro", .blk = &ro.b }, &e));
	MUST(!pthread_create(&thread, NULL, serve, loop));
}

/* What the server says; beyond the buffer it is only taken. Return: as recv(), -1: nothing for now */
static ssize_t hear(int fd)
{
	static uint8_t rest[1 << 20];
	bool full = n_heard == sizeof(heard);
	ssize_t n = recv(fd, full ? rest : heard + n_heard, full ? sizeof(rest) : sizeof(heard) - n_heard, 0);

	if (n > 0 && !full)
		n_heard += (size_t)n;
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_in in = { bytes, size };
	uint8_t how = in_u8(&in), piece = in_u8(&in);
	uint32_t flags = how & 0x10 ? in_u32(&in) : 1 | (how & 2);
	size_t at = 0;
	bool greeting = true, gone = false;
	int fd[2];

	if (!loop)
		set_up();
	n_said = n_heard = 0;
	requests = 0;
	structured = false;
	clean = !(how & 0x10);
	late = how & 4;
	put_be(flags, 4);
	if (how & 0x20) {
		/* Straight to the requests. */
		say_option(&(struct fuzz_in){ 0 }, NBD_OPT_STRUCTURED_REPLY);
		say_option(&(struct fuzz_in){ 0 }, 0x10 | NBD_OPT_SET_META_CONTEXT);
		say_option(&(struct fuzz_in){ 0 }, NBD_OPT_GO);
		greeting = false;
	}
	while (in.n && n_said < sizeof(said)) {
		uint8_t op = in_u8(&in);

		if (op == 0xff) {
			clean = false;
			put_input(&in, in_u8(&in) & 63);
		} else if (op == 0xfe) {
			greeting = false;
		} else if (greeting) {
			clean &= !(op & 0x80) && (op & 15) != NBD_OPT_EXPORT_NAME;
			say_option(&in, op);
		} else {
			clean &= !(op & 0x60);
			say_request(&in, op);
		}
	}
	MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd));
	on_loop(do_adopt, &fd[1]);
	while (!gone && at < n_said) {
		size_t n = piece ? piece * 4u : n_said;
		ssize_t done = send(fd[0], said + at, n < n_said - at ? n : n_said - at, MSG_NOSIGNAL);

		at += done > 0 ? (size_t)done : 0;
		gone = done < 0 && errno != EAGAIN;
		gone |= !hear(fd[0]);
		on_loop(do_look, NULL);
	}
	if (how & 8) {
		/* The client is gone at once; else it waits for the end of the answers. */
		close(fd[0]);
		fd[0] = -1;
	} else {
		shutdown(fd[0], SHUT_WR);
	}
	for (unsigned int turns = 0, more = 1; more || alive; turns++) {
		more = fd[0] >= 0 && hear(fd[0]) > 0;
		on_loop(do_look, NULL);
		MUST(turns < 10000000);
	}
	if (fd[0] >= 0)
		close(fd[0]);
	check(heard, n_heard, !(flags & NBD_FLAG_NO_ZEROES));
	return 0;
}
