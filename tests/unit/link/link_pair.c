/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * link/pair: two of them with each other, and each against a peer of bytes that is silent, slow, wrong, of another
 * version, another VM or another shape, or one too many. Everything on loopback, deadlines shortened.
 */
#include "pairer.h"

static size_t raw_hello(uint8_t *p, uint8_t type, enum wire_channel ch, const char *name, uint32_t version,
			const uint8_t *session)
{
	struct hello m = { .version = version, .role = FT_PRIMARY, .channel = ch };
	struct wire_head h = { .type = type, .channel = (uint8_t)ch };
	int n;

	snprintf(m.name, sizeof(m.name), "%s", name);
	if (session)
		memcpy(m.session, session, LINK_ID_LEN);
	wire_vm_id(h.vm_id, name);
	n = codec_hello_put(p + WIRE_HDR_LEN, 1000, &m);
	assert_true(n > 0);
	h.len = (uint32_t)n;
	wire_head_encode(p, &h);
	return WIRE_HDR_LEN + (size_t)n;
}

/* Reads until the peer closes. Return: bytes */
static size_t read_all(int fd, uint8_t *p, size_t cap)
{
	struct pollfd pf = { .fd = fd, .events = POLLIN };
	size_t n = 0;
	ssize_t r;

	for (;;) {
		if (poll(&pf, 1, 10000) != 1)
			fail_msg("the connection stays open");
		r = recv(fd, p + n, cap - n, 0);
		if (r <= 0)
			return n;
		n += (size_t)r;
	}
}

/* What a REFUSE on this raw connection says; fails when there is none. */
static void expect_refuse(int fd, const char *says)
{
	uint8_t p[2000];
	char text[WIRE_MAX_SENTENCE + 1];
	size_t n = read_all(fd, p, sizeof(p));
	struct wire_head h;
	struct err e = { 0 };

	if (n < WIRE_HDR_LEN || wire_head_decode(p, p[5] % 3, &h, &e) || h.type != WIRE_REFUSE)
		fail_msg("no refusal in %zu bytes (%s)", n, says);
	codec_refuse_get(p + WIRE_HDR_LEN, n - WIRE_HDR_LEN, text);
	if (!strstr(text, says))
		fail_msg("the refusal says \"%s\", not \"%s\"", text, says);
	close(fd);
}

static void pairs(void **state)
{
	for (int i = 0; i < 20; i++) {
		struct node a = { .hello_at_once = true }, b = { .hello_at_once = true };
		static const uint8_t zero[LINK_ID_LEN];
		uint8_t session[LINK_ID_LEN];
		unsigned int port = listener(&b, "mem=1\nsecondary=yes\n");

		connector(&a, port, "mem=1\nprimary=yes\n");
		wait_loop(&lp, is_paired, &a, "paired");
		wait_loop(&lp, is_paired, &b, "paired");
		assert_string_equal(b.peer_shape, "mem=1\nprimary=yes\n");
		assert_string_equal(a.peer_shape, "mem=1\nsecondary=yes\n");
		assert_string_equal(a.peer_name, "web");
		assert_int_equal(b.link.peer.role, FT_PRIMARY);
		assert_int_equal(b.link.peer.generation, 41);
		assert_int_equal(a.link.peer.role, FT_SECONDARY);
		assert_true(b.link.listener && !a.link.listener);
		assert_memory_equal(a.link.session, b.link.session, LINK_ID_LEN);
		assert_memory_not_equal(a.link.session, zero, LINK_ID_LEN);
		assert_memory_equal(a.link.vm_id, b.link.vm_id, LINK_ID_LEN);
		assert_memory_equal(&a.link.remote.ss, &b.link.local.ss, sizeof(struct sockaddr_in));
		assert_memory_equal(&a.link.local.ss, &b.link.remote.ss, sizeof(struct sockaddr_in));
		/* The same three connections on both sides, in the same order, nothing lost of what was said at once. */
		check_streams(&a, &b);
		memcpy(session, a.link.session, LINK_ID_LEN);
		/* And once more, after the link is gone. */
		a.paired = b.paired = 0;
		on_loop(&lp, do_again, &b);
		on_loop(&lp, do_again, &a);
		wait_loop(&lp, is_paired, &a, "paired again");
		wait_loop(&lp, is_paired, &b, "paired again");
		check_streams(&a, &b);
		assert_memory_not_equal(session, a.link.session, LINK_ID_LEN);
		on_loop(&lp, do_stats, &b);
		assert_int_equal(b.st.half_open, 0);
		assert_int_equal(b.st.failed, 0);
		on_loop(&lp, do_free, &a);
		on_loop(&lp, do_free, &b);
	}
}

static void ipv6(void **state)
{
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	struct node a = { 0 }, b = { 0 };
	long port;

	b.cfg.listen = true;
	memcpy(&b.cfg.addrs[0].ss, &in6, sizeof(in6));
	b.cfg.addrs[0].len = sizeof(in6);
	b.cfg.n_addrs = 1;
	port = on_loop(&lp, do_new, &b);
	if (port < 0)
		skip();		/* a host without IPv6 */
	/* The first address leads nowhere, the second one is right, as with a host name that has two. */
	a.cfg.addrs[0] = at(1);
	in6.sin6_port = htons((uint16_t)port);
	memcpy(&a.cfg.addrs[1].ss, &in6, sizeof(in6));
	a.cfg.addrs[1].len = sizeof(in6);
	a.cfg.n_addrs = 2;
	assert_int_equal(on_loop(&lp, do_new, &a), 0);
	wait_loop(&lp, is_paired, &a, "paired");
	wait_loop(&lp, is_paired, &b, "paired");
	assert_true(addr_is_loopback(&b.link.remote));
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

static void large_shape(void **state)
{
	struct node a = { 0 }, b = { 0 };
	static char shape[WIRE_MAX_SHAPE + 1];
	unsigned int port;

	memset(shape, 'x', WIRE_MAX_SHAPE - 1);
	shape[WIRE_MAX_SHAPE - 1] = '\n';
	port = listener(&b, shape);
	connector(&a, port, shape);
	wait_loop(&lp, is_paired, &a, "paired");
	wait_loop(&lp, is_paired, &b, "paired");
	assert_int_equal(a.link.peer.shape_len, WIRE_MAX_SHAPE);
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

/* Each side's check() refuses once; both hear the sentence. Then another VM's name. */
static void refused(void **state)
{
	for (int kind = 0; kind < 3; kind++) {
		struct node a = { .check_fails = kind == 0 }, b = { .check_fails = kind == 1, .has_vm = kind == 1 };
		const char *says = kind == 2 ? "protects the VM \"wec\"" : "memory differs";
		unsigned int port = listener(&b, "mem=1\n");

		if (kind == 2)
			strcpy(a.cfg.name, "wec");
		connector(&a, port, "mem=2\n");
		wait_loop(&lp, is_refused, &a, "refused");
		wait_loop(&lp, is_refused, &b, "refused");
		assert_true(kind == 0 ? a.refused_by_us && b.refused_by_peer : a.refused_by_peer && b.refused_by_us);
		if (!strstr(a.sentence, says) || !strstr(b.sentence, says))
			fail_msg("they say \"%s\" and \"%s\"", a.sentence, b.sentence);
		/* With a refusal it is told whether the VM runs there. */
		assert_int_equal(a.serves, kind == 1 ? 7 : 0);
		assert_int_equal(a.paired + b.paired, 0);
		/* It goes on trying, and when the reason is gone it works. */
		if (kind < 2) {
			a.check_fails = b.check_fails = false;
			wait_loop(&lp, is_paired, &a, "paired after all");
			wait_loop(&lp, is_paired, &b, "paired after all");
		}
		on_loop(&lp, do_free, &a);
		on_loop(&lp, do_free, &b);
	}
}

/* Where nobody listens: told at each attempt, and tried again. */
static void nobody(void **state)
{
	struct node a = { 0 }, b = { 0 };
	unsigned int port = listener(&b, "");

	on_loop(&lp, do_free, &b);
	connector(&a, port, "");
	wait_loop(&lp, is_missed, &a, "told that nobody is there");
	assert_int_equal(a.refused_by_peer + a.refused_by_us, 0);
	b.cfg.addrs[0] = at(port);
	assert_true(on_loop(&lp, do_new, &b) > 0);
	wait_loop(&lp, is_paired, &a, "paired after all");
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

static void second_peer(void **state)
{
	struct node a = { 0 }, b = { 0 }, c = { 0 };
	unsigned int port = listener(&b, "");

	connector(&a, port, "");
	wait_loop(&lp, is_paired, &b, "paired");
	connector(&c, port, "");
	wait_loop(&lp, is_refused, &c, "refused");
	assert_non_null(strstr(c.sentence, "already paired"));
	/* Who is paired has the VM or stands by for who has it. */
	assert_int_equal(c.serves, 7);
	assert_int_equal(c.paired, 0);
	assert_int_equal(b.paired, 1);
	/* When the first is gone the second gets its turn. */
	on_loop(&lp, do_free, &a);
	b.paired = 0;
	on_loop(&lp, do_again, &b);
	wait_loop(&lp, is_paired, &c, "paired with the second");
	on_loop(&lp, do_free, &c);
	on_loop(&lp, do_free, &b);
}

/* Strangers at the listener's door, while it waits and while it is paired. */
static void strangers(void **state)
{
	struct node a = { 0 }, b = { 0 };
	unsigned int port = listener(&b, "");
	uint8_t m[1200], answer[1000];
	struct wire_head h;
	struct hello w;
	struct err e = { 0 };
	size_t n;
	int fd, f2;

	for (int round = 0; round < 2; round++) {
		fd = dial_raw(port);
		assert_int_equal(send(fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
		expect_refuse(fd, "not Lockstep's link protocol");

		fd = dial_raw(port);
		n = raw_hello(m, WIRE_HELLO, WIRE_CONTROL, "web", WIRE_VERSION + 1, NULL);
		send(fd, m, n, 0);
		expect_refuse(fd, "protocol 6");

		fd = dial_raw(port);
		n = raw_hello(m, WIRE_HELLO, WIRE_CONTROL, "other", WIRE_VERSION, NULL);
		send(fd, m, n, 0);
		expect_refuse(fd, "protects the VM \"other\"");

		fd = dial_raw(port);
		n = raw_hello(m, WIRE_HELLO, WIRE_BULK, "web", WIRE_VERSION, (const uint8_t *)"0123456789abcdef");
		send(fd, m, n, 0);
		expect_refuse(fd, "no handshake of that session");

		fd = dial_raw(port);
		n = raw_hello(m, WIRE_WELCOME, WIRE_CONTROL, "web", WIRE_VERSION, NULL);
		send(fd, m, n, 0);
		expect_refuse(fd, "a hello was expected");

		/* A length that nobody may send. */
		fd = dial_raw(port);
		n = raw_hello(m, WIRE_HELLO, WIRE_CONTROL, "web", WIRE_VERSION, NULL);
		m[8] = 0x7f;
		send(fd, m, n, 0);
		expect_refuse(fd, "at most");

		/* A name that was cut off, then silence: the deadline. */
		fd = dial_raw(port);
		n = raw_hello(m, WIRE_HELLO, WIRE_CONTROL, "web", WIRE_VERSION, NULL);
		send(fd, m, n - 1, 0);
		expect_refuse(fd, "too long");

		/* Silence from the start. */
		expect_refuse(dial_raw(port), "too long");

		/* A connection of another type before the handshake. */
		fd = dial_raw(port);
		raw_hello(m, WIRE_HELLO, WIRE_CONTROL, "web", WIRE_VERSION, NULL);
		m[4] = WIRE_CREDIT;
		m[8] = m[9] = m[10] = 0;
		m[11] = 16;
		send(fd, m, WIRE_HDR_LEN, 0);
		expect_refuse(fd, "before the handshake");

		if (round)
			break;
		/* Half a handshake: welcomed on control, then nothing: it ends, and the real peer gets in. */
		fd = dial_raw(port);
		n = raw_hello(m, WIRE_HELLO, WIRE_CONTROL, "web", WIRE_VERSION, NULL);
		send(fd, m, n, 0);
		n = (size_t)recv(fd, answer, sizeof(answer), 0);
		assert_true(n > WIRE_HDR_LEN);
		assert_int_equal(wire_head_decode(answer, WIRE_CONTROL, &h, &e), 0);
		assert_int_equal(h.type, WIRE_WELCOME);
		assert_int_equal(codec_hello_get(&h, answer + WIRE_HDR_LEN, h.len, &w, &e), 0);
		/* Another one meanwhile. */
		f2 = dial_raw(port);
		n = raw_hello(m, WIRE_HELLO, WIRE_CONTROL, "web", WIRE_VERSION, NULL);
		send(f2, m, n, 0);
		expect_refuse(f2, "being paired");
		/* The right session on a second connection, twice. */
		f2 = dial_raw(port);
		n = raw_hello(m, WIRE_HELLO, WIRE_FRAMES, "web", WIRE_VERSION, w.session);
		send(f2, m, n, 0);
		assert_true(recv(f2, answer, sizeof(answer), 0) > WIRE_HDR_LEN);
		{
			int f3 = dial_raw(port);

			send(f3, m, n, 0);
			expect_refuse(f3, "no handshake of that session");
		}
		read_all(fd, answer, sizeof(answer));
		read_all(f2, answer, sizeof(answer));
		close(fd);
		close(f2);
		wait_loop(&lp, no_half_open, &b, "the half set is dropped");
		assert_int_equal(b.paired, 0);
		connector(&a, port, "");
		wait_loop(&lp, is_paired, &b, "paired in spite of all");
	}
	assert_int_equal(b.paired, 1);
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

/* Silent strangers hold every place; the peer comes in at once all the same. */
static void crowd(void **state)
{
	struct node a = { 0 }, b = { 0 };
	unsigned int port = listener(&b, "");
	int fd[3 * PAIR_MAX_HALF_OPEN];
	nstime t0;

	for (size_t i = 0; i < sizeof(fd) / sizeof(*fd); i++)
		fd[i] = dial_raw(port);
	t0 = clock_ns();
	connector(&a, port, "");
	wait_loop(&lp, is_paired, &a, "paired");
	wait_loop(&lp, is_paired, &b, "paired");
	if (clock_ns() - t0 > 4 * DEADLINE)
		fail_msg("it took %.0f ms", (double)(clock_ns() - t0) / 1e6);
	on_loop(&lp, do_stats, &b);
	assert_true(b.st.half_open <= PAIR_MAX_HALF_OPEN);
	assert_true(b.st.evicted >= PAIR_MAX_HALF_OPEN);
	wait_loop(&lp, no_half_open, &b, "all strangers are gone");
	for (size_t i = 0; i < sizeof(fd) / sizeof(*fd); i++)
		close(fd[i]);
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

static int listen_raw(unsigned int *port)
{
	struct link_addr a = at(0);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a.ss, a.len), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a.ss, &a.len), 0);
	*port = ntohs(((struct sockaddr_in *)&a.ss)->sin_port);
	return fd;
}

static long attempts_of(void *arg)
{
	struct node *n = arg;

	do_stats(n);
	return n->st.attempts >= 3;
}

static long refused_thrice(void *arg)
{
	return ((struct node *)arg)->refused_by_us == 3;
}

/* Who connects meets nobody, then one who closes, one who talks nonsense, one who is silent, a wrong welcome. */
static void bad_listeners(void **state)
{
	static const uint8_t junk[64] = "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n";
	struct node a = { 0 }, b = { 0 };
	uint8_t m[1200];
	unsigned int port;
	int s = listen_raw(&port), fd;
	size_t n;

	close(s);
	connector(&a, port, "");
	wait_loop(&lp, attempts_of, &a, "three attempts at nobody");
	on_loop(&lp, do_free, &a);

	memset(&a, 0, sizeof(a));
	s = listen_raw(&port);
	connector(&a, port, "");
	for (int i = 0; i < 6; i++) {
		fd = accept(s, NULL, NULL);
		switch (i) {
		case 1:
			send(fd, junk, sizeof(junk), 0);
			break;
		case 2:	/* silent until its deadline */
			read_all(fd, m, sizeof(m));
			break;
		case 3:
			n = raw_hello(m, WIRE_WELCOME, WIRE_CONTROL, "wec", WIRE_VERSION, NULL);
			send(fd, m, n, 0);
			/* Its hello, and then a refusal. */
			n = read_all(fd, m, sizeof(m));
			assert_true(n > 2 * WIRE_HDR_LEN);
			break;
		case 4:
			n = raw_hello(m, WIRE_WELCOME, WIRE_CONTROL, "web", 7, NULL);
			send(fd, m, n, 0);
			n = read_all(fd, m, sizeof(m));
			assert_true(n > 2 * WIRE_HDR_LEN);
			break;
		case 5: {	/* Welcomed, then the other two are of no use. */
			int f2, f3;

			n = raw_hello(m, WIRE_WELCOME, WIRE_CONTROL, "web", WIRE_VERSION,
				      (const uint8_t *)"0123456789abcdef");
			send(fd, m, n, 0);
			f2 = accept(s, NULL, NULL);
			f3 = accept(s, NULL, NULL);
			n = raw_hello(m, WIRE_WELCOME, WIRE_FRAMES, "web", WIRE_VERSION,
				      (const uint8_t *)"0123456789abcdeX");
			send(f2, m, n, 0);
			read_all(fd, m, sizeof(m));
			read_all(f2, m, sizeof(m));
			read_all(f3, m, sizeof(m));
			close(f2);
			close(f3);
			break;
		}
		}
		close(fd);
	}
	wait_loop(&lp, refused_thrice, &a, "three refusals by us");
	assert_int_equal(a.paired, 0);
	close(s);
	/* And at last a real one at the same port. */
	b.cfg.listen = true;
	b.cfg.addrs[0] = at(port);
	b.cfg.n_addrs = 1;
	assert_int_equal(on_loop(&lp, do_new, &b), port);
	wait_loop(&lp, is_paired, &a, "paired at last");
	wait_loop(&lp, is_paired, &b, "paired at last");
	on_loop(&lp, do_free, &a);
	/* A port in use is an error with a sentence. */
	memset(&a, 0, sizeof(a));
	a.cfg.listen = true;
	a.cfg.addrs[0] = at(port);
	a.cfg.n_addrs = 1;
	assert_int_equal(on_loop(&lp, do_new, &a), -1);
	assert_int_equal(a.e.code, -EADDRINUSE);
	assert_non_null(strstr(a.e.msg, "cannot listen at 127.0.0.1:"));
	on_loop(&lp, do_free, &b);
}

/* Random bytes behind a valid beginning, at random cuts; afterwards the peer still gets in. */
static void garbage(void **state)
{
	const char *env = getenv("SEED");
	unsigned int seed = env ? (unsigned int)strtoul(env, NULL, 0) : (unsigned int)time(NULL);
	struct node a = { 0 }, b = { 0 };
	unsigned int port = listener(&b, "mem=1\n");

	printf("seed %u (SEED=%u replays it)\n", seed, seed);
	srand(seed);
	for (int i = 0; i < 300; i++) {
		int fd = dial_raw(port);
		uint8_t m[1200];
		size_t n = raw_hello(m, WIRE_HELLO, (enum wire_channel)(rand() % 3), "web", WIRE_VERSION, NULL);
		int changes = rand() % 4;

		while (changes--)
			m[rand() % (int)n] = (uint8_t)rand();
		send(fd, m, (size_t)rand() % (n + 1), MSG_NOSIGNAL);
		if (rand() % 2)
			send(fd, m, n, MSG_NOSIGNAL);
		close(fd);
	}
	connector(&a, port, "mem=1\n");
	wait_loop(&lp, is_paired, &a, "paired after all that");
	wait_loop(&lp, is_paired, &b, "paired after all that");
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

static int setup(void **state)
{
	log_init("test", getenv("VERBOSE") ? LOG_DEBUG : LOG_ERROR);
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
		cmocka_unit_test(pairs), cmocka_unit_test(ipv6), cmocka_unit_test(large_shape), cmocka_unit_test(refused),
		cmocka_unit_test(nobody), cmocka_unit_test(second_peer), cmocka_unit_test(strangers), cmocka_unit_test(crowd),
		cmocka_unit_test(bad_listeners), cmocka_unit_test(garbage),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
