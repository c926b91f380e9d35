/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Fuzz target: what a peer says of the disks. First a source and a target between which the input decides when messages
 * arrive and where one has a byte changed; then the input as the messages of a peer from the beginning. Whatever is
 * said, each side goes on, or ends with a sentence; a side that ended without an error has equal disks, if all it was told
 * was true.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "disk/resync.h"
#include "disk/resync_wire.h"
#include "fuzz.h"

#define SIZE	(200u << 10)
#define QUEUE	64

struct side {
	struct blk blk;
	uint8_t data[SIZE];
	struct meta *meta;
	struct resync *resync;
	int rc;
};

static struct side side[2];
static struct loop *loop;
static struct {
	struct rsy_msg m;
	int kind;	/* 0: message, 1: write, 2: zero */
	uint64_t off, len;
	uint8_t bytes[RSY_MAX_PAYLOAD > RSY_MAX_WRITE ? RSY_MAX_PAYLOAD : RSY_MAX_WRITE];
} queue[2][QUEUE];
static unsigned int head[2], count[2];

static void submit(struct blk *b, struct blk_req *r)
{
	struct side *s = (struct side *)b;

	MUST(r->off <= SIZE && r->len <= SIZE - r->off);
	if (r->op == BLK_READ)
		memcpy(r->buf, s->data + r->off, r->len);
	else if (r->op == BLK_WRITE)
		memcpy(s->data + r->off, r->buf, r->len);
	else if (r->op == BLK_ZERO)
		memset(s->data + r->off, 0, r->len);
	else if (r->op == BLK_STATUS) {
		r->ext[0] = (struct blk_extent){ r->len, 0 };
		r->n_ext = 1;
	}
	r->done(r, 0);
}

static const struct blk_ops ops = { submit };

static int put(unsigned int to, int kind, const struct rsy_msg *m, uint64_t off, uint64_t len, const uint8_t *bytes)
{
	unsigned int at = (head[to] + count[to]) % QUEUE;

	if (count[to] == QUEUE)
		return -EAGAIN;
	count[to]++;
	queue[to][at].kind = kind;
	queue[to][at].off = off;
	queue[to][at].len = len;
	if (m)
		queue[to][at].m = *m;
	if (bytes)
		memcpy(queue[to][at].bytes, bytes, len);
	return 0;
}

static int say(void *arg, const struct rsy_msg *m)
{
	MUST(m->len <= RSY_MAX_PAYLOAD);
	return put(arg == &side[0], 0, m, 0, m->len, m->payload);
}

static int send_write(void *arg, unsigned int disk, uint64_t off, uint32_t len, const uint8_t *data)
{
	return put(arg == &side[0], 1, NULL, off, len, data);
}

static int send_zero(void *arg, unsigned int disk, uint64_t off, uint64_t len, bool trim, bool no_hole)
{
	return put(arg == &side[0], 2, NULL, off, len, NULL);
}

static void done(void *arg, int rc, const char *sentence)
{
	struct side *s = arg;

	MUST(s->rc == 1 && sentence[0]);
	s->rc = rc;
}

static int serve_marker_none(void *arg, uint64_t n)
{
	return 0;
}

/* A turn of the loop, in which the target's first words are said. */
static void turn_end(struct loop_timer *t)
{
	loop_stop(t->arg);
}

static void begin(struct serve **serve)
{
	static char path[2][64];
	struct serve_ops so = { 0 };
	struct err e = { 0 };
	struct loop_timer end = { .fn = turn_end };

	if (loop)
		loop_free(loop);
	loop = loop_new("fuzz", &e);
	MUST(loop);
	memset(head, 0, sizeof(head));
	memset(count, 0, sizeof(count));
	for (unsigned int i = 0; i < 2; i++) {
		struct side *s = &side[i];
		struct blk *base = &s->blk;
		struct resync_peer peer = { say, send_write, send_zero, s };
		struct resync_cfg cfg = { .loop = loop, .n = 1, .bases = &base, .metas = &s->meta, .done = done, .arg = s };
		struct serve_peer sp = { send_write, send_zero, serve_marker_none, s };

		snprintf(path[i], sizeof(path[i]), "/dev/shm/fuzz-resync-%d-%u", getpid(), i);
		unlink(path[i]);
		s->blk = (struct blk){ .ops = &ops, .size = SIZE, .align = 1 };
		memset(s->data, (int)i, SIZE);
		memset(s->data + SIZE / 2, 0, SIZE / 4);
		s->rc = 1;
		s->meta = meta_open(&(struct meta_open){ path[i], SIZE, 1 }, &e);
		MUST(s->meta);
		unlink(path[i]);
		if (i == 0) {
			*serve = serve_new(NULL, &base, &s->meta, 1, &so, &e);
			MUST(*serve);
			serve_peer(*serve, &sp);
			s->resync = resync_source(&cfg, *serve, &peer, &e);
		} else {
			s->resync = resync_target(&cfg, &peer, &e);
		}
		MUST(s->resync);
	}
	end.arg = loop;
	loop_timer_set(loop, &end, loop_now(loop) + 1);
	loop_run(loop);
	loop_timer_del(loop, &end);
}

static void finish(struct serve *serve)
{
	for (unsigned int i = 0; i < 2; i++)
		resync_free(side[i].resync);
	serve_peer(serve, NULL);
	while (serve_saver_step(serve))
		;
	serve_free(serve);
	for (unsigned int i = 0; i < 2; i++)
		meta_close(side[i].meta);
}

/* Return: whether anything was spoiled */
static bool deliver(struct fuzz_in *in, unsigned int to)
{
	unsigned int at = head[to];
	uint8_t how = in_u8(in);
	struct err e = { 0 };
	bool spoiled = false;

	if (!count[to])
		return false;
	head[to] = (head[to] + 1) % QUEUE;
	count[to]--;
	if (queue[to][at].kind) {
		struct blk_req r = { .op = queue[to][at].kind == 1 ? BLK_WRITE : BLK_ZERO, .off = queue[to][at].off,
				     .len = queue[to][at].len, .buf = queue[to][at].bytes };

		if (r.op == BLK_WRITE)
			memcpy(side[to].data + r.off, r.buf, r.len);
		else
			memset(side[to].data + r.off, 0, r.len);
	} else {
		struct rsy_msg m = queue[to][at].m;

		m.payload = queue[to][at].bytes;
		if (how & 0x80) {
			spoiled = true;
			if (how & 0x40 && m.len)
				queue[to][at].bytes[in_u16(in) % m.len] ^= in_u8(in);
			else if (how & 0x20)
				m.len = in_u16(in) % (m.len + 1);
			else
				m.type = in_u8(in) % 12;
		}
		resync_message(side[to].resync, &m, &e);
	}
	if (count[to] == QUEUE / 2)
		resync_writable(side[!to].resync);
	return spoiled;
}

static void dialogue(struct fuzz_in *in)
{
	struct serve *serve;
	bool spoiled = false;

	begin(&serve);
	for (unsigned int i = 0; i < 400 && (count[0] || count[1]); i++) {
		unsigned int to = in_u8(in) & 1;

		spoiled |= deliver(in, count[to] ? to : !to);
	}
	if (!spoiled && !count[0] && !count[1]) {
		MUST(!side[0].rc && !side[1].rc);
		MUST(!memcmp(side[0].data, side[1].data, SIZE));
	}
	finish(serve);
}

static void monologue(struct fuzz_in *in, unsigned int to)
{
	struct serve *serve;
	struct err e = { 0 };

	begin(&serve);
	while (in->n) {
		struct rsy_msg m = { .type = in_u8(in) % 12, .disk = in_u8(in) % 2, .len = in_u16(in) };

		m.len = m.len < in->n ? m.len : (uint32_t)in->n;
		m.payload = in->p;
		resync_message(side[to].resync, &m, &e);
		in->p += m.len;
		in->n -= m.len;
		count[!to] = 0;
		resync_writable(side[to].resync);
	}
	finish(serve);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct fuzz_in in = { bytes, size };
	uint8_t how = in_u8(&in);

	if (how & 1)
		monologue(&in, how >> 1 & 1);
	else
		dialogue(&in);
	return 0;
}
