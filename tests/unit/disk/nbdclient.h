/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TEST_NBDCLIENT_H
#define TEST_NBDCLIENT_H

/*
 * An NBD client that says exactly what a test wants it to say, right or wrong. Blocking, with a deadline for each
 * answer; what must hold is asserted with cmocka.
 */
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cursor.h"
#include "disk/nbd_wire.h"

#define NBDC_MAX	(34u << 20)
#define NBDC_DEADLINE	20000	/* ms; only a broken server reaches it */

struct nbdc {
	int fd;
	bool structured;
	uint8_t *data;		/* of the newest reply: NBDC_MAX bytes */
	uint32_t len;
};

/* Not by malloc(), which fills it where MALLOC_PERTURB_ says so: for a thousand clients that takes minutes. */
static inline uint8_t *nbdc_buffer(void)
{
	void *p = mmap(NULL, NBDC_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

static inline void nbdc_send(struct nbdc *c, const void *p, size_t n)
{
	const uint8_t *at = p;

	while (n) {
		ssize_t done = send(c->fd, at, n, MSG_NOSIGNAL);

		assert_true(done > 0);
		at += done;
		n -= (size_t)done;
	}
}

/* nbdc_get() - exactly @n bytes; false: the end came, which is told from a server that hangs by the deadline */
static inline bool nbdc_get(struct nbdc *c, void *p, size_t n)
{
	uint8_t *at = p;

	while (n) {
		struct pollfd pfd = { .fd = c->fd, .events = POLLIN };
		ssize_t done;

		assert_int_equal(poll(&pfd, 1, NBDC_DEADLINE), 1);
		done = recv(c->fd, at, n, 0);
		if (done <= 0)
			return false;
		at += done;
		n -= (size_t)done;
	}
	return true;
}

static inline void nbdc_must_end(struct nbdc *c)
{
	uint8_t b;

	assert_false(nbdc_get(c, &b, 1));
}

/* The server's greeting, and the client's flags. */
static inline void nbdc_greet(struct nbdc *c, uint32_t flags)
{
	uint8_t b[NBD_GREETING_LEN];
	struct cursor cur = cursor_of(b, sizeof(b));
	struct wcursor w = wcursor_of(b, sizeof(b));

	assert_true(nbdc_get(c, b, sizeof(b)));
	assert_true(cursor_u64(&cur) == NBD_MAGIC);
	assert_true(cursor_u64(&cur) == NBD_OPTION_MAGIC);
	assert_int_equal(cursor_u16(&cur), 3);
	wcursor_u32(&w, flags);
	nbdc_send(c, b, w.done);
}

static inline void nbdc_opt(struct nbdc *c, uint32_t opt, const void *data, uint32_t len)
{
	uint8_t b[NBD_OPTION_LEN];
	struct wcursor w = wcursor_of(b, sizeof(b));

	wcursor_u64(&w, NBD_OPTION_MAGIC);
	wcursor_u32(&w, opt);
	wcursor_u32(&w, len);
	nbdc_send(c, b, w.done);
	nbdc_send(c, data, len);
}

/* nbdc_rep() - an option reply. Return: its type; its data in @c->data */
static inline uint32_t nbdc_rep(struct nbdc *c, uint32_t opt)
{
	uint8_t b[NBD_OPTION_REPLY_LEN];
	struct cursor cur = cursor_of(b, sizeof(b));
	uint32_t type;

	assert_true(nbdc_get(c, b, sizeof(b)));
	assert_true(cursor_u64(&cur) == NBD_REP_MAGIC);
	assert_int_equal(cursor_u32(&cur), opt);
	type = cursor_u32(&cur);
	c->len = cursor_u32(&cur);
	assert_true(c->len < NBDC_MAX);
	assert_true(nbdc_get(c, c->data, c->len));
	return type;
}

/* Data of INFO and GO. */
static inline uint32_t nbdc_info_data(uint8_t out[4200], const char *name, const uint16_t *kinds, uint16_t n)
{
	struct wcursor w = wcursor_of(out, 4200);

	wcursor_u32(&w, (uint32_t)strlen(name));
	wcursor_bytes(&w, name, strlen(name));
	wcursor_u16(&w, n);
	for (uint16_t i = 0; i < n; i++)
		wcursor_u16(&w, kinds[i]);
	return (uint32_t)w.done;
}

/* Data of LIST and SET_META_CONTEXT. @query NULL: none */
static inline uint32_t nbdc_meta_data(uint8_t out[4200], const char *name, const char *query)
{
	struct wcursor w = wcursor_of(out, 4200);

	wcursor_u32(&w, (uint32_t)strlen(name));
	wcursor_bytes(&w, name, strlen(name));
	wcursor_u32(&w, query ? 1 : 0);
	if (query) {
		wcursor_u32(&w, (uint32_t)strlen(query));
		wcursor_bytes(&w, query, strlen(query));
	}
	return (uint32_t)w.done;
}

/* nbdc_go() - negotiate all there is, into transmission. Return: the export's transmission flags */
static inline uint16_t nbdc_go(struct nbdc *c, const char *name, bool structured)
{
	uint8_t b[4200];
	struct cursor cur;
	uint16_t flags = 0;
	uint32_t type;

	nbdc_greet(c, 3);
	c->structured = structured;
	if (structured) {
		nbdc_opt(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
		assert_int_equal(nbdc_rep(c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
		nbdc_opt(c, NBD_OPT_SET_META_CONTEXT, b, nbdc_meta_data(b, name, NBD_BASE_ALLOCATION));
		assert_int_equal(nbdc_rep(c, NBD_OPT_SET_META_CONTEXT), NBD_REP_META_CONTEXT);
		assert_int_equal(nbdc_rep(c, NBD_OPT_SET_META_CONTEXT), NBD_REP_ACK);
	}
	nbdc_opt(c, NBD_OPT_GO, b, nbdc_info_data(b, name, NULL, 0));
	while ((type = nbdc_rep(c, NBD_OPT_GO)) == NBD_REP_INFO) {
		cur = cursor_of(c->data, c->len);
		if (cursor_u16(&cur) == NBD_INFO_EXPORT) {
			cursor_u64(&cur);
			flags = cursor_u16(&cur);
		}
	}
	assert_int_equal(type, NBD_REP_ACK);
	return flags;
}

static inline void nbdc_req_head(struct nbdc *c, uint16_t cmd, uint16_t flags, uint64_t cookie, uint64_t off,
				 uint32_t len)
{
	uint8_t b[NBD_REQUEST_LEN];
	struct wcursor w = wcursor_of(b, sizeof(b));

	wcursor_u32(&w, NBD_REQUEST_MAGIC);
	wcursor_u16(&w, flags);
	wcursor_u16(&w, cmd);
	wcursor_u64(&w, cookie);
	wcursor_u64(&w, off);
	wcursor_u32(&w, len);
	nbdc_send(c, b, w.done);
}

/*
 * nbdc_reply() - one whole reply
 * @cookie: whose; @read_len: of a READ, whose data is then in @c->data, holes as zeroes; or 0
 * Return: 0, or NBD's error. A status's descriptors are in @c->data, @c->len bytes
 */
static inline uint32_t nbdc_reply(struct nbdc *c, uint64_t *cookie, uint32_t read_len)
{
	uint8_t b[NBD_CHUNK_LEN];
	struct cursor cur = cursor_of(b, sizeof(b));
	uint32_t magic, type, len, error = 0;

	c->len = 0;
	assert_true(nbdc_get(c, b, NBD_SIMPLE_LEN));
	magic = cursor_u32(&cur);
	if (magic == NBD_SIMPLE_MAGIC) {
		error = cursor_u32(&cur);
		*cookie = cursor_u64(&cur);
		/* Reads are chunks when they can be. */
		assert_false(c->structured && read_len);
		if (!error && read_len)
			assert_true(nbdc_get(c, c->data, read_len));
		return error;
	}
	assert_true(c->structured && magic == NBD_STRUCTURED_MAGIC);
	assert_true(nbdc_get(c, b + NBD_SIMPLE_LEN, NBD_CHUNK_LEN - NBD_SIMPLE_LEN));
	assert_int_equal(cursor_u16(&cur), NBD_REPLY_FLAG_DONE);
	type = cursor_u16(&cur);
	*cookie = cursor_u64(&cur);
	len = cursor_u32(&cur);
	assert_true(len < NBDC_MAX);
	assert_true(nbdc_get(c, c->data, len));
	cur = cursor_of(c->data, len);
	switch (type) {
	case NBD_REPLY_TYPE_NONE:
		assert_int_equal(len, 0);
		break;
	case NBD_REPLY_TYPE_OFFSET_DATA:
		assert_int_equal(len, 8 + read_len);
		memmove(c->data, c->data + 8, read_len);
		break;
	case NBD_REPLY_TYPE_OFFSET_HOLE:
		assert_int_equal(len, 12);
		cursor_u64(&cur);
		assert_int_equal(cursor_u32(&cur), read_len);
		memset(c->data, 0, read_len);
		break;
	case NBD_REPLY_TYPE_BLOCK_STATUS:
		c->len = len;
		break;
	case NBD_REPLY_TYPE_ERROR:
		error = cursor_u32(&cur);
		type = cursor_u16(&cur);
		assert_int_equal(type, cur.left);
		/* A sentence for people. */
		assert_true(error && cur.left > 10);
		break;
	default:
		fail_msg("chunk type %u", type);
	}
	assert_false(cur.bad);
	return error;
}

/* nbdc_do() - a request and its reply; @data of a WRITE */
static inline uint32_t nbdc_do(struct nbdc *c, uint16_t cmd, uint16_t flags, uint64_t off, uint32_t len,
			       const void *data)
{
	static uint64_t last;
	uint64_t cookie;
	uint32_t error;

	nbdc_req_head(c, cmd, flags, ++last, off, len);
	if (data)
		nbdc_send(c, data, len);
	error = nbdc_reply(c, &cookie, cmd == NBD_CMD_READ ? len : 0);
	assert_true(cookie == last);
	return error;
}

#endif
