/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * link/conn against a peer of bytes (one end of a socket in the test's hand) and against another conn: splits at every
 * byte, credit, soft and hard limit, every kind of end, last words, freeing inside callbacks, large transfers.
 */
#include "looper.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "link/conn.h"

static struct looper lp;

/* One conn and what its callbacks saw; touched in its loop only. */
struct end {
	struct looper *lp;
	struct stream *s;
	struct conn_cfg cfg;
	struct conn *c;
	struct wire_head last;
	uint8_t payload[256];
	uint64_t msgs, bytes, sum, writable;
	int closed;
	enum conn_why why;
	char sentence[512];
	struct conn_stats st;
	bool free_in_message, free_in_closed, free_in_writable, bad_payload;
	/* what to_send() sends */
	struct wire_head h;
	size_t len;
	bool must;
	uint64_t to_go, sent, sent_sum;
	uint64_t seed;
};

static uint64_t mix(uint64_t sum, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sum = (sum ^ p[i]) * 0x100000001b3ull;
	return sum;
}

static int on_message(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e)
{
	struct end *x = arg;

	x->msgs++;
	x->bytes += h->len;
	x->last = *h;
	x->sum = mix(x->sum, payload, h->len);
	if (h->len <= sizeof(x->payload))
		memcpy(x->payload, payload, h->len);
	if (x->free_in_message) {
		conn_free(x->c);
		x->c = NULL;
	}
	return x->bad_payload ? err_set(e, -EPROTO, "the consumer does not like it") : 0;
}

static void on_closed(void *arg, enum conn_why why, const char *sentence)
{
	struct end *x = arg;

	x->closed++;
	x->why = why;
	snprintf(x->sentence, sizeof(x->sentence), "%s", sentence);
	if (x->free_in_closed) {
		conn_free(x->c);
		x->c = NULL;
	}
}

static int send_some(struct end *x)
{
	static __thread uint8_t buf[WIRE_MAX_BULK_PAYLOAD];
	int rc = 0;

	while (x->to_go) {
		struct iovec iov[3];
		size_t a = x->len / 3;

		for (size_t i = 0; i < x->len; i += 8) {
			x->seed = x->seed * 6364136223846793005ull + 1442695040888963407ull;
			memcpy(buf + i, &x->seed, x->len - i < 8 ? x->len - i : 8);
		}
		iov[0] = (struct iovec){ buf, a };
		iov[1] = (struct iovec){ buf + a, 0 };
		iov[2] = (struct iovec){ buf + a, x->len - a };
		rc = conn_send(x->c, &x->h, iov, 3, x->must);
		if (rc)
			break;
		x->to_go--;
		x->sent++;
		x->sent_sum = mix(x->sent_sum, buf, x->len);
	}
	return rc;
}

static void on_writable(void *arg)
{
	struct end *x = arg;

	x->writable++;
	if (x->free_in_writable) {
		conn_free(x->c);
		x->c = NULL;
		return;
	}
	send_some(x);
}

static long do_send(void *arg)
{
	return send_some(arg);
}

static long do_new(void *arg)
{
	struct end *x = arg;
	struct err e = { 0 };

	x->cfg.message = on_message;
	x->cfg.writable = on_writable;
	x->cfg.closed = on_closed;
	x->cfg.arg = x;
	wire_vm_id(x->cfg.vm_id, "web");
	x->c = conn_new(x->lp->l, x->s, &x->cfg, &e);
	return x->c != NULL;
}

static long do_free(void *arg)
{
	struct end *x = arg;

	conn_free(x->c);
	x->c = NULL;
	return 0;
}

static long do_stats(void *arg)
{
	struct end *x = arg;

	if (x->c)
		conn_stats_get(x->c, &x->st);
	return 0;
}

/* Of messages of x->len bytes, x->to_go are done with. */
static long do_consume(void *arg)
{
	struct end *x = arg;

	conn_consumed(x->c, x->to_go * x->len, x->to_go);
	return 0;
}

static long is_closed(void *arg)
{
	return ((struct end *)arg)->closed;
}

static long turned(void *arg)
{
	return 1;
}

static void end_make(struct end *x, struct looper *l, int fd, enum wire_channel ch)
{
	x->lp = l;
	x->s = stream_tcp(fd);
	x->cfg.channel = ch;
	x->h.type = ch == WIRE_CONTROL ? WIRE_CTL : ch == WIRE_FRAMES ? WIRE_NET : WIRE_DEVSTATE;
	assert_non_null(x->s);
	assert_true(on_loop(l, do_new, x));
}

static void tcp_pair(int fd[2])
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(a);
	int s = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(s, (struct sockaddr *)&a, len), 0);
	assert_int_equal(listen(s, 1), 0);
	assert_int_equal(getsockname(s, (struct sockaddr *)&a, &len), 0);
	fd[0] = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(connect(fd[0], (struct sockaddr *)&a, len), 0);
	fd[1] = accept(s, NULL, NULL);
	assert_true(fd[1] >= 0);
	close(s);
	stream_tcp_tune(fd[0], 10 * NS_PER_S);
	stream_tcp_tune(fd[1], 10 * NS_PER_S);
}

/* The peer of bytes. */
static size_t make_msg(uint8_t *p, uint8_t type, uint8_t ch, const void *payload, uint32_t len)
{
	struct wire_head h = { .type = type, .channel = ch, .len = len, .epoch = 9, .generation = 2 };

	wire_vm_id(h.vm_id, "web");
	wire_head_encode(p, &h);
	memcpy(p + WIRE_HDR_LEN, payload, len);
	return WIRE_HDR_LEN + len;
}

static void put(int fd, const void *p, size_t n)
{
	assert_int_equal(send(fd, p, n, MSG_NOSIGNAL), n);
}

static void give_credit(int fd, uint8_t ch, uint64_t bytes, uint64_t msgs)
{
	uint8_t c[WIRE_CREDIT_LEN], m[WIRE_HDR_LEN + WIRE_CREDIT_LEN];

	codec_credit_put(c, sizeof(c), bytes, msgs);
	put(fd, m, make_msg(m, WIRE_CREDIT, ch, c, sizeof(c)));
}

struct until {
	struct end *x;
	uint64_t msgs, bytes_in, writable;
};

static long reached(void *arg)
{
	struct until *u = arg;

	do_stats(u->x);
	return u->x->msgs >= u->msgs && u->x->st.bytes_in >= u->bytes_in && u->x->writable >= u->writable;
}

/* Three messages, cut into two at every byte, then fed byte by byte. */
static void splits(void **state)
{
	uint8_t all[256];
	size_t n = 0;

	n += make_msg(all + n, WIRE_CTL, WIRE_CONTROL, "12345678901234567890", 20);
	n += make_msg(all + n, WIRE_CTL, WIRE_CONTROL, "", 0);
	n += make_msg(all + n, WIRE_CTL, WIRE_CONTROL, "abcdefghij", 10);
	for (size_t cut = 0; cut <= n; cut++) {
		struct end x = { 0 };
		struct until u = { .x = &x };
		int fd[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		end_make(&x, &lp, fd[0], WIRE_CONTROL);
		for (size_t i = 0; i < n;) {
			size_t k = cut == n ? 1 : i < cut ? cut : n - i;

			put(fd[1], all + i, k);
			i += k;
			u.bytes_in = i;
			wait_loop(&lp, reached, &u, "bytes");
		}
		u.msgs = 3;
		wait_loop(&lp, reached, &u, "three messages");
		assert_int_equal(x.msgs, 3);
		assert_int_equal(x.bytes, 30);
		assert_int_equal(x.last.epoch, 9);
		assert_int_equal(x.last.generation, 2);
		assert_memory_equal(x.payload, "abcdefghij", 10);
		assert_int_equal(x.closed, 0);
		on_loop(&lp, do_free, &x);
		close(fd[1]);
	}
}

static void credit(void **state)
{
	struct end a = { .len = 100, .to_go = 1000 }, b = { .len = 100, .cfg = { .manual = true, .window_msgs = 8 } };
	struct until u = { .x = &b };
	int fd[2];

	tcp_pair(fd);
	end_make(&a, &lp, fd[0], WIRE_FRAMES);
	/* Before the other side's first grant nothing may go. */
	assert_int_equal(on_loop(&lp, do_send, &a), -EAGAIN);
	assert_int_equal(a.sent, 0);
	end_make(&b, &lp, fd[1], WIRE_FRAMES);
	u.msgs = 8;
	wait_loop(&lp, reached, &u, "a window of messages");
	for (int i = 0; i < 200; i++)
		on_loop(&lp, turned, NULL);
	assert_int_equal(a.sent, 8);
	assert_int_equal(b.msgs, 8);
	/* A message that must go does not wait for credit. */
	a.must = true;
	a.to_go = 1;
	assert_int_equal(on_loop(&lp, do_send, &a), 0);
	u.msgs = 9;
	wait_loop(&lp, reached, &u, "the must message");
	a.must = false;
	a.to_go = 1000;
	on_loop(&lp, do_stats, &b);
	assert_int_equal(b.st.unconsumed, 9 * (100 + WIRE_HDR_LEN));
	/* Consuming goes on in steps; all arrive, never more than a window (and the one) unconsumed. */
	for (uint64_t done = 0; b.msgs < 200;) {
		uint64_t k = b.msgs - done;

		assert_true(k <= 9);
		u.msgs = b.msgs + 1;
		b.to_go = k;
		on_loop(&lp, do_consume, &b);
		done += k;
		wait_loop(&lp, reached, &u, "more after consuming");
		for (int i = 0; i < 5; i++)
			on_loop(&lp, turned, NULL);
	}
	on_loop(&lp, do_stats, &a);
	assert_true(a.st.again_credit > 10);
	assert_true(a.writable > 10);
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

static void limits(void **state)
{
	struct end a = { .len = 1000, .to_go = UINT64_MAX, .cfg = { .soft = 100000, .hard = 300000 } };
	struct until u = { .x = &a };
	static uint8_t sink[1 << 20];
	uint64_t sent, before;
	ssize_t r, n = 0;
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	end_make(&a, &lp, fd[0], WIRE_FRAMES);
	assert_int_equal(on_loop(&lp, do_send, &a), -EAGAIN);
	give_credit(fd[1], WIRE_FRAMES, UINT64_MAX, UINT64_MAX);
	/* writable() goes on sending until the kernel and the queue are full. */
	u.writable = 1;
	wait_loop(&lp, reached, &u, "writable after the grant");
	do
		sent = a.sent;
	while (on_loop(&lp, do_send, &a) != -EAGAIN || on_loop(&lp, turned, NULL) != 1 || a.sent != sent);
	on_loop(&lp, do_stats, &a);
	assert_in_range(a.st.queued, 100000, 101100);
	assert_true(a.st.again_soft > 0);
	/* Reading makes room: writable() comes below half, and nothing is lost or torn. */
	before = a.writable;
	while (a.writable == before) {
		r = recv(fd[1], sink, sizeof(sink), MSG_DONTWAIT);
		if (r > 0)
			n += r;
		on_loop(&lp, turned, NULL);
	}
	assert_true(n >= 50000);
	/* Must messages go on to the hard limit, then the connection is over, once. */
	while (on_loop(&lp, do_send, &a) != -EAGAIN)
		;
	a.must = true;
	while (!on_loop(&lp, is_closed, &a))
		on_loop(&lp, do_send, &a);
	on_loop(&lp, do_stats, &a);
	assert_int_equal(a.closed, 1);
	assert_int_equal(a.why, CONN_LIMIT);
	assert_in_range(a.st.queued_max, 290000, 300000);
	assert_int_equal(on_loop(&lp, do_send, &a), -EPIPE);
	assert_non_null(strstr(a.sentence, "must not be lost"));
	on_loop(&lp, do_free, &a);
	close(fd[1]);
}

/* How a connection ends, and what is said. */
static void ends(void **state)
{
	uint8_t m[2 * (WIRE_HDR_LEN + 64)];
	struct linger hard = { .l_onoff = 1, .l_linger = 0 };

	for (int kind = 0; kind < 4; kind++) {
		struct end x = { 0 };
		int fd[2];
		size_t n;

		tcp_pair(fd);
		end_make(&x, &lp, fd[0], WIRE_CONTROL);
		n = make_msg(m, WIRE_CTL, WIRE_CONTROL, "last words", 10);
		switch (kind) {
		case 0:	/* in order */
			put(fd[1], m, n);
			break;
		case 1:	/* in the middle of a message */
			put(fd[1], m, n);
			put(fd[1], m, 5);
			break;
		case 2:	/* reset; our first grant is unread as well */
			put(fd[1], m, n);
			setsockopt(fd[1], SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
			break;
		case 3:	/* nothing said at all */
			break;
		}
		if (kind != 2) {
			/* Read our grant, else closing would be a reset. */
			uint8_t b[WIRE_HDR_LEN + WIRE_CREDIT_LEN];

			assert_int_equal(recv(fd[1], b, sizeof(b), MSG_WAITALL), sizeof(b));
		}
		close(fd[1]);
		wait_loop(&lp, is_closed, &x, "the end");
		assert_int_equal(x.closed, 1);
		assert_int_equal(x.msgs, kind == 3 ? 0 : 1);
		assert_int_equal(x.why, kind == 2 ? CONN_RESET : CONN_EOF);
		assert_true(conn_why_kernel(x.why));
		assert_int_equal(!!strstr(x.sentence, "middle of a message"), kind == 1);
		on_loop(&lp, do_free, &x);
	}
}

/* The peer says something, does not read, and dies while we are writing: what it said must still arrive. */
static void last_words(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct end x = { .len = 50000, .to_go = UINT64_MAX };
		struct until u = { .x = &x, .writable = 1 };
		uint8_t m[WIRE_HDR_LEN + 64], flow[WIRE_NET_LEN] = { NM_LOGGED };
		int fd[2];

		tcp_pair(fd);
		end_make(&x, &lp, fd[0], WIRE_FRAMES);
		give_credit(fd[1], WIRE_FRAMES, UINT64_MAX, UINT64_MAX);
		on_loop(&lp, do_send, &x);
		put(fd[1], m, make_msg(m, WIRE_NET, WIRE_FRAMES, flow, sizeof(flow)));
		close(fd[1]);
		while (on_loop(&lp, do_send, &x) != -EPIPE)
			;
		(void)u;
		wait_loop(&lp, is_closed, &x, "the end");
		assert_int_equal(x.msgs, 1);
		assert_int_equal(x.closed, 1);
		if (x.why != CONN_RESET && x.why != CONN_EOF)
			fail_msg("%s: %s", conn_why_text(x.why), x.sentence);
		on_loop(&lp, do_free, &x);
	}
}

static void garbled(void **state)
{
	struct {
		const char *what;
		uint8_t type, ch, vm, magic;
		uint32_t len;
		enum conn_why why;
		const char *says;
	} cases[] = {
		{ "another protocol", WIRE_CTL, 0, 0, 'G', 0, CONN_GARBLED, "not Lockstep's" },
		{ "another channel", WIRE_NET, 1, 0, 'L', 0, CONN_GARBLED, "channel 1" },
		{ "a type of another channel", WIRE_NET, 0, 0, 'L', 0, CONN_GARBLED, "no business" },
		{ "an unknown type", 99, 0, 0, 'L', 0, CONN_GARBLED, "type 99" },
		{ "too long", WIRE_CTL, 0, 0, 'L', 1000000, CONN_GARBLED, "1000000 bytes" },
		{ "another VM", WIRE_CTL, 0, 1, 'L', 0, CONN_GARBLED, "another VM" },
		{ "a second hello", WIRE_HELLO, 0, 0, 'L', 60000, CONN_GARBLED, "greets twice" },
		{ "a short credit", WIRE_CREDIT, 0, 0, 'L', 4, CONN_GARBLED, "too short" },
		{ "a credit that shrinks", WIRE_CREDIT, 0, 0, 'L', 16, CONN_GARBLED, "takes back" },
		{ "a refusal", WIRE_REFUSE, 0, 0, 'L', 3, CONN_REFUSED, "???" },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct wire_head h = { .type = cases[i].type, .channel = cases[i].ch, .len = cases[i].len };
		uint8_t m[WIRE_HDR_LEN + 16] = { 0 };
		struct end x = { 0 };
		int fd[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		end_make(&x, &lp, fd[0], WIRE_CONTROL);
		wire_vm_id(h.vm_id, cases[i].vm ? "wec" : "web");
		give_credit(fd[1], WIRE_CONTROL, 100, 100);
		wire_head_encode(m, &h);
		m[0] = cases[i].magic;
		put(fd[1], m, sizeof(m) < WIRE_HDR_LEN + h.len ? sizeof(m) : WIRE_HDR_LEN + h.len);
		wait_loop(&lp, is_closed, &x, cases[i].what);
		assert_int_equal(x.why, cases[i].why);
		if (!strstr(x.sentence, cases[i].says))
			fail_msg("%s: said \"%s\"", cases[i].what, x.sentence);
		assert_int_equal(x.msgs, 0);
		assert_int_equal(x.closed, 1);
		on_loop(&lp, do_free, &x);
		close(fd[1]);
	}
}

/* The consumer's own refusal ends the connection with its sentence. */
static void consumer_refuses(void **state)
{
	struct end x = { .bad_payload = true };
	uint8_t m[WIRE_HDR_LEN + 20];
	int fd[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
	end_make(&x, &lp, fd[0], WIRE_CONTROL);
	put(fd[1], m, make_msg(m, WIRE_CTL, WIRE_CONTROL, "x", 1));
	wait_loop(&lp, is_closed, &x, "the end");
	assert_int_equal(x.why, CONN_GARBLED);
	assert_string_equal(x.sentence, "the consumer does not like it");
	on_loop(&lp, do_free, &x);
	close(fd[1]);
}

static long is_gone(void *arg)
{
	return !((struct end *)arg)->c;
}

static void free_inside(void **state)
{
	for (int kind = 0; kind < 4; kind++) {
		struct end x = { .free_in_message = kind == 0, .free_in_closed = kind == 1, .free_in_writable = kind >= 2,
				 .len = 1000, .to_go = UINT64_MAX };
		uint8_t m[3 * (WIRE_HDR_LEN + 20)];
		size_t n = 0;
		int fd[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
		end_make(&x, &lp, fd[0], WIRE_FRAMES);
		for (int i = 0; i < 3; i++)
			n += make_msg(m + n, WIRE_NET, WIRE_FRAMES, "0123456789012345", 16);
		assert_int_equal(on_loop(&lp, do_send, &x), -EAGAIN);
		if (kind == 2)
			give_credit(fd[1], WIRE_FRAMES, 1 << 20, 1 << 20);
		if (kind == 3) {
			/* From EPOLLOUT instead of from a grant: fill everything first. */
			uint8_t b[4096];

			x.free_in_writable = false;
			give_credit(fd[1], WIRE_FRAMES, 1ull << 40, 1ull << 40);
			do
				on_loop(&lp, do_stats, &x);
			while (x.st.queued < 3 << 20);
			x.free_in_writable = true;
			while (!on_loop(&lp, is_gone, &x))
				recv(fd[1], b, sizeof(b), MSG_DONTWAIT);
		} else {
			put(fd[1], m, n);
			if (kind == 1)
				close(fd[1]);
			wait_loop(&lp, is_gone, &x, "freed by its own callback");
		}
		assert_int_equal(x.msgs, kind == 0 ? 1 : kind == 1 ? 3 : 0);
		if (kind != 1)
			close(fd[1]);
	}
}

static long do_goodbye(void *arg)
{
	struct end *x = arg;

	send_some(x);
	return conn_goodbye(x->c, 5 * NS_PER_S);
}

static long all_there(void *arg)
{
	struct end *x = arg;

	return x->closed && x->msgs == x->to_go;
}

/* Farewell with much unread input and much still queued: all of it arrives. */
static void goodbye(void **state)
{
	struct end a = { .len = 100000, .to_go = 30 }, b = { .len = 500000, .to_go = 20, .must = true };
	struct looper other;
	int fd[2];

	looper_start(&other);
	tcp_pair(fd);
	end_make(&a, &lp, fd[0], WIRE_BULK);
	end_make(&b, &other, fd[1], WIRE_BULK);
	a.must = true;
	assert_int_equal(on_loop(&other, do_send, &b), 0);
	b.to_go = 30;
	b.free_in_closed = true;
	/* b closes as soon as it sees the end, so that a learns that its words have arrived. */
	assert_int_equal(on_loop(&lp, do_goodbye, &a), true);
	wait_loop(&other, all_there, &b, "all last words");
	assert_int_equal(b.why, CONN_EOF);
	assert_int_equal(a.sent_sum, b.sum);
	assert_int_equal(a.closed, 0);
	on_loop(&lp, do_free, &a);
	looper_stop(&other);
}

/* Much data both ways at once on two loops, sizes from 0 to the limit. */
static void big(void **state)
{
	static const size_t sizes[] = { 0, 1, 4096, 16000, 65536, WIRE_DEVSTATE_LEN + WIRE_MAX_DEVPIECE };
	struct looper other;
	nstime t0, t1;

	looper_start(&other);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		struct end a = { .len = sizes[i], .seed = 1 }, b = { .len = sizes[i], .seed = 2 };
		struct until ua = { .x = &a }, ub = { .x = &b };
		uint64_t n = sizes[i] ? (48u << 20) / (sizes[i] + 400) : 20000;
		int fd[2];

		tcp_pair(fd);
		end_make(&a, &lp, fd[0], WIRE_BULK);
		end_make(&b, &other, fd[1], WIRE_BULK);
		a.to_go = b.to_go = n;
		ua.msgs = ub.msgs = n;
		t0 = clock_ns();
		on_loop(&lp, do_send, &a);
		on_loop(&other, do_send, &b);
		wait_loop(&lp, reached, &ua, "all messages");
		wait_loop(&other, reached, &ub, "all messages");
		t1 = clock_ns();
		/* The last message may be there while its sender still adds it up. */
		on_loop(&lp, turned, NULL);
		on_loop(&other, turned, NULL);
		assert_int_equal(a.sent_sum, b.sum);
		assert_int_equal(b.sent_sum, a.sum);
		assert_int_equal(a.msgs, n);
		on_loop(&lp, do_stats, &a);
		assert_true(a.st.queued_max <= (12 << 20));
		printf("%zu bytes: %llu messages each way in %.0f ms, %.0f %% copied\n", sizes[i], (unsigned long long)n,
		       (double)(t1 - t0) / 1e6, 100.0 * (double)a.st.copied / (double)a.st.bytes_out);
		on_loop(&lp, do_free, &a);
		on_loop(&other, do_free, &b);
	}
	looper_stop(&other);
}

static int setup(void **state)
{
	looper_start(&lp);
	return 0;
}

static int teardown(void **state)
{
	looper_stop(&lp);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(splits), cmocka_unit_test(credit), cmocka_unit_test(limits), cmocka_unit_test(ends),
		cmocka_unit_test(last_words), cmocka_unit_test(garbled), cmocka_unit_test(consumer_refuses),
		cmocka_unit_test(free_inside), cmocka_unit_test(goodbye), cmocka_unit_test(big),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
