/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The link by TLS: two nodes with the same key or with certificates of one CA, every way in which they may not fit each
 * other, strangers at the door, a relay between the nodes that looks, changes and cuts; and conn above it: data that is
 * decrypted ahead, pieces, a new key, each kind of end.
 */
#include "pairer.h"

#include "../base/pki.h"
#include "base/tls.h"
#include "link/conn.h"
#include "link/pair_internal.h"

#define PATTERN	"THE-GUEST'S-MEMORY"

static struct pki ca, other_ca;

enum cred {
	PLAIN, KEY, KEY_OTHER, KEY_USER, CERT, CERT_FOREIGN, CERT_EXPIRED, CERT_EARLY, CERT_PURPOSE, CERT_ADDRESS, CREDS,
};

static struct tls *creds[CREDS];

static struct tls *key_of(const char *text, const char *user)
{
	struct tls_cfg cfg = { .role = TLS_BOTH, .psk_user = user };
	struct err e = { 0 };
	struct tls *t;
	char dir[64];

	pki_tmp(dir);
	pki_file(dir, "keys.psk", text, strlen(text), 0600);
	cfg.psk_file = dir;
	t = tls_new(&cfg, &e);
	if (!t)
		fail_msg("%s", e.msg);
	pki_rmdir(dir);
	return t;
}

static struct tls *certs_of(const struct pki *signer, const char *server_for, const char *client_for, const char *ip, int from, int to)
{
	struct tls_cfg cfg = { .role = TLS_BOTH };
	struct pki server, client;
	struct err e = { 0 };
	struct tls *t;
	char dir[64];

	pki_tmp(dir);
	pki_make(&server, signer, "server", server_for, ip, from, to);
	pki_make(&client, signer, "client", client_for, NULL, from, to);
	pki_write(&ca, dir, "ca", false);
	pki_write(&server, dir, "server", true);
	pki_write(&client, dir, "client", true);
	cfg.dir = dir;
	t = tls_new(&cfg, &e);
	if (!t)
		fail_msg("%s", e.msg);
	pki_free(&server);
	pki_free(&client);
	pki_rmdir(dir);
	return t;
}

static long stranger_said(void *arg)
{
	struct node *n = arg;

	do_stats(n);
	return n->p->last_stranger[0] != 0;
}

static void node_tls(struct node *n, enum cred c)
{
	n->cfg.tls = creds[c];
	strcpy(n->cfg.tls_peer, "127.0.0.1");
}

/* Both by keys and both by certificates: twice in a row, with data at once on every connection. */
static void pairs(void **state)
{
	static const enum cred kinds[] = { KEY, CERT };

	for (int i = 0; i < 10; i++) {
		struct node a = { .hello_at_once = true }, b = { .hello_at_once = true };
		static const uint8_t zero[TLS_KEY_LEN];
		uint8_t key[TLS_KEY_LEN];
		unsigned int port;

		node_tls(&a, kinds[i % 2]);
		node_tls(&b, kinds[i % 2]);
		port = listener(&b, "mem=1\n");
		connector(&a, port, "mem=2\n");
		wait_loop(&lp, is_paired, &a, "paired");
		wait_loop(&lp, is_paired, &b, "paired");
		assert_string_equal(b.peer_shape, "mem=2\n");
		check_streams(&a, &b);
		assert_true(a.link.keyed && b.link.keyed);
		assert_memory_equal(a.link.beat_key, b.link.beat_key, TLS_KEY_LEN);
		assert_memory_not_equal(a.link.beat_key, zero, TLS_KEY_LEN);
		memcpy(key, a.link.beat_key, sizeof(key));
		a.paired = b.paired = 0;
		on_loop(&lp, do_again, &b);
		on_loop(&lp, do_again, &a);
		wait_loop(&lp, is_paired, &a, "paired again");
		wait_loop(&lp, is_paired, &b, "paired again");
		check_streams(&a, &b);
		assert_memory_equal(a.link.beat_key, b.link.beat_key, TLS_KEY_LEN);
		assert_memory_not_equal(a.link.beat_key, key, TLS_KEY_LEN);
		on_loop(&lp, do_stats, &b);
		assert_int_equal(b.st.half_open + b.st.failed + b.st.strangers, 0);
		on_loop(&lp, do_free, &a);
		on_loop(&lp, do_free, &b);
	}
	/* And without TLS there is no key. */
	{
		struct node a = { 0 }, b = { 0 };

		connector(&a, listener(&b, ""), "");
		wait_loop(&lp, is_paired, &a, "paired");
		wait_loop(&lp, is_paired, &b, "paired");
		assert_true(!a.link.keyed && !b.link.keyed);
		on_loop(&lp, do_free, &a);
		on_loop(&lp, do_free, &b);
	}
}

/* Who does not fit: neither is paired, nothing is checked of a HELLO, and both say what it is. */
static void misfits(void **state)
{
	static const struct {
		enum cred a, b;		/* who connects, who listens */
		const char *a_says, *b_says;
	} all[] = {
		{ KEY_OTHER, KEY, "does not accept this side's key", "the peer has another key" },
		{ KEY, KEY_OTHER, "does not accept this side's key", "the peer has another key" },
		{ KEY_USER, KEY, "does not accept this side's key", "the peer has another key" },
		{ KEY, PLAIN, "that connects speaks TLS and the one that listens", "that connects speaks TLS and the one that" },
		{ CERT, PLAIN, "that connects speaks TLS and the one that listens", "that connects speaks TLS and the one that" },
		{ PLAIN, KEY, "that listens speaks TLS and the one that connects", "that listens speaks TLS and the one that" },
		{ PLAIN, CERT, "that listens speaks TLS and the one that connects", "that listens speaks TLS and the one that" },
		{ KEY, CERT, "does not accept this side's key", "does not accept this side's certificate" },
		{ CERT, KEY, "does not accept this side's certificate", "the peer has another key" },
		{ CERT_FOREIGN, CERT, "certificate", "certificate is not accepted" },
		{ CERT, CERT_FOREIGN, "certificate is not accepted", "certificate" },
		{ CERT_EXPIRED, CERT, "certificate", "expired" },
		{ CERT, CERT_EXPIRED, "expired", "certificate" },
		{ CERT_EARLY, CERT, "certificate", "not yet" },
		{ CERT, CERT_EARLY, "not yet", "certificate" },
		{ CERT_PURPOSE, CERT, "certificate", "purpose" },
		{ CERT, CERT_PURPOSE, "purpose", "certificate" },
		{ CERT, CERT_ADDRESS, "name in the certificate does not match", "certificate" },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
		struct node a = { 0 }, b = { 0 };

		node_tls(&a, all[i].a);
		node_tls(&b, all[i].b);
		connector(&a, listener(&b, "mem=1\n"), "mem=1\n");
		wait_loop(&lp, is_refused, &a, "refused");
		wait_loop(&lp, stranger_said, &b, "said");
		if (!strstr(a.sentence, all[i].a_says))
			fail_msg("%zu: who connects says \"%s\", not \"%s\"", i, a.sentence, all[i].a_says);
		if (!strstr(b.p->last_stranger, all[i].b_says))
			fail_msg("%zu: who listens says \"%s\", not \"%s\"", i, b.p->last_stranger, all[i].b_says);
		/* A number that nobody has proven to be the peer's word is not believed by who has TLS. */
		assert_true(a.serves == 0 || a.serves == PAIR_UNKNOWN);
		assert_int_equal(a.paired + b.paired + a.checks + b.checks, 0);
		if (getenv("VERBOSE"))
			printf("%zu: a: %s\n   b: %s\n", i, a.sentence, b.p->last_stranger);
		on_loop(&lp, do_free, &a);
		on_loop(&lp, do_free, &b);
	}
}

/* A node in the clear asks one with TLS that serves: it must hear that the VM runs. */
static void clear_hears(void **state)
{
	struct node a = { 0 }, b = { .has_vm = true };

	node_tls(&b, KEY);
	connector(&a, listener(&b, ""), "");
	wait_loop(&lp, is_refused, &a, "refused");
	assert_int_equal(a.refused_by_peer, 1);
	assert_int_equal(a.serves, 7);
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

/* The list of revoked certificates is read: a node that takes back its own peer's refuses it. */
static void revoked(void **state)
{
	struct pki server, client, gone;
	struct tls_cfg cfg = { .role = TLS_BOTH };
	struct node a = { 0 }, b = { 0 };
	struct err e = { 0 };
	char dir[64];

	pki_tmp(dir);
	cfg.dir = dir;
	pki_make(&server, &ca, "server", NULL, "127.0.0.1", -1, 1);
	pki_make(&client, &ca, "client", NULL, NULL, -1, 1);
	pki_make(&gone, &ca, "gone", NULL, NULL, -1, 1);
	pki_write(&ca, dir, "ca", false);
	pki_write(&server, dir, "server", true);
	pki_write(&gone, dir, "client", true);
	node_tls(&a, CERT);
	node_tls(&b, CERT);
	a.cfg.tls = tls_new(&cfg, &e);
	assert_non_null(a.cfg.tls);
	pki_write(&client, dir, "client", true);
	pki_revoke(&ca, &gone, dir);
	b.cfg.tls = tls_new(&cfg, &e);
	assert_non_null(b.cfg.tls);
	connector(&a, listener(&b, ""), "");
	wait_loop(&lp, stranger_said, &b, "said");
	wait_loop(&lp, is_refused, &a, "refused");
	if (!strstr(b.p->last_stranger, "revoked"))
		fail_msg("who listens says \"%s\"", b.p->last_stranger);
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
	tls_free(a.cfg.tls);
	tls_free(b.cfg.tls);
	pki_free(&server);
	pki_free(&client);
	pki_free(&gone);
	pki_rmdir(dir);
}

/* Reads until the other side closes. Return: bytes */
static size_t drain(int fd, uint8_t *p, size_t cap)
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

#define RELAY_CONNS	16
#define RELAY_SEEN	(1 << 16)

/* Something on the way: sees all, and may flip a bit or cut. */
struct relay {
	pthread_t thread;
	int door, n;
	unsigned int port, to;
	struct { int fd[2]; uint64_t passed[2]; bool shut[2]; } c[RELAY_CONNS];
	_Atomic int64_t flip;		/* at this byte from the listener's side; -1: never */
	_Atomic int64_t cut;		/* after this many bytes of it, FIN to both; -1: never */
	_Atomic bool stop, plain;	/* @plain: PATTERN or our magic was seen */
	uint8_t first[2][RELAY_SEEN];	/* of the first connection: from who connects, from who listens */
	size_t n_first[2];
	uint8_t tail[RELAY_CONNS][2][32];
};

static void relay_look(struct relay *r, int k, int side, const uint8_t *p, size_t n)
{
	uint8_t win[4096 + 32];

	for (size_t at = 0; at < n; at += 4096) {
		size_t part = n - at < 4096 ? n - at : 4096;

		memcpy(win, r->tail[k][side], 32);
		memcpy(win + 32, p + at, part);
		if (memmem(win, 32 + part, PATTERN, strlen(PATTERN)))
			r->plain = true;
		/* Four bytes that come by chance in many. */
		if (r->c[k].passed[side] < RELAY_SEEN && memmem(win, 32 + part, "LKS1", 4))
			r->plain = true;
		memcpy(r->tail[k][side], win + part, 32);
	}
}

static void relay_move(struct relay *r, int k, int side)
{
	static uint8_t buf[1 << 16];
	uint64_t *passed = &r->c[k].passed[side];
	ssize_t n = recv(r->c[k].fd[side], buf, sizeof(buf), 0);
	int64_t flip = r->flip, cut = r->cut;

	if (n <= 0) {
		shutdown(r->c[k].fd[!side], SHUT_WR);
		r->c[k].shut[side] = true;
		return;
	}
	relay_look(r, k, side, buf, (size_t)n);
	if (!k)
		for (ssize_t i = 0; i < n && r->n_first[side] < RELAY_SEEN; i++)
			r->first[side][r->n_first[side]++] = buf[i];
	if (side && flip >= 0 && (uint64_t)flip >= *passed && (uint64_t)flip < *passed + (uint64_t)n)
		buf[(uint64_t)flip - *passed] ^= 4;
	if (side && cut >= 0 && *passed + (uint64_t)n >= (uint64_t)cut) {
		n = (ssize_t)((uint64_t)cut - *passed);
		r->c[k].shut[0] = r->c[k].shut[1] = true;
	}
	*passed += (uint64_t)n;
	if (send(r->c[k].fd[!side], buf, (size_t)n, MSG_NOSIGNAL) < 0)
		r->c[k].shut[side] = true;
	if (r->c[k].shut[0] && r->c[k].shut[1]) {
		shutdown(r->c[k].fd[0], SHUT_RDWR);
		shutdown(r->c[k].fd[1], SHUT_RDWR);
	}
}

static void *relay_main(void *arg)
{
	struct relay *r = arg;

	while (!r->stop) {
		struct pollfd p[1 + 2 * RELAY_CONNS] = { { .fd = r->door, .events = POLLIN } };

		for (int i = 0; i < 2 * r->n; i++)
			p[1 + i] = (struct pollfd){ .fd = r->c[i / 2].shut[i % 2] ? -1 : r->c[i / 2].fd[i % 2], .events = POLLIN };
		if (poll(p, 1 + 2 * (nfds_t)r->n, 20) <= 0)
			continue;
		for (int i = 0; i < 2 * r->n; i++)
			if (p[1 + i].revents && !r->c[i / 2].shut[i % 2])
				relay_move(r, i / 2, i % 2);
		if (p[0].revents && r->n < RELAY_CONNS) {
			r->c[r->n].fd[0] = accept(r->door, NULL, NULL);
			r->c[r->n].fd[1] = dial_raw(r->to);
			r->n++;
		}
	}
	return NULL;
}

static struct relay *relay_start(unsigned int to)
{
	struct relay *r = calloc(1, sizeof(*r));
	struct link_addr a = at(0);

	r->to = to;
	r->flip = r->cut = -1;
	r->door = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(r->door, (struct sockaddr *)&a.ss, a.len), 0);
	assert_int_equal(listen(r->door, 8), 0);
	assert_int_equal(getsockname(r->door, (struct sockaddr *)&a.ss, &a.len), 0);
	r->port = ntohs(((struct sockaddr_in *)&a.ss)->sin_port);
	assert_int_equal(pthread_create(&r->thread, NULL, relay_main, r), 0);
	return r;
}

static void relay_stop(struct relay *r)
{
	r->stop = true;
	pthread_join(r->thread, NULL);
	for (int i = 0; i < r->n; i++) {
		close(r->c[i].fd[0]);
		close(r->c[i].fd[1]);
	}
	close(r->door);
	free(r);
}

/* Nothing, nonsense, or what a node with the right key says, cut off at each length: no key, no way in, nothing stays. */
static void strangers(void **state)
{
	struct node a = { 0 }, b = { 0 };
	struct relay *r;
	uint8_t junk[4096], *hello;
	unsigned int port;
	size_t n;
	int fd;

	node_tls(&a, KEY);
	node_tls(&b, KEY);
	port = listener(&b, "mem=1\n");
	r = relay_start(port);
	connector(&a, r->port, "mem=1\n");
	wait_loop(&lp, is_paired, &b, "paired through the relay");
	wait_loop(&lp, is_paired, &a, "paired through the relay");
	on_loop(&lp, do_free, &a);
	b.paired = 0;
	b.checks = 0;
	on_loop(&lp, do_again, &b);
	n = r->n_first[0];
	hello = malloc(n);
	memcpy(hello, r->first[0], n);
	assert_true(n > 200);
	relay_stop(r);

	for (size_t len = 0; len < n; len++) {
		fd = dial_raw(port);
		assert_int_equal(send(fd, hello, len, MSG_NOSIGNAL), (ssize_t)len);
		/* An end in order, a reset, or (now and then) silence till the deadline. */
		if (len % 61 == 7)
			drain(fd, junk, sizeof(junk));
		else if (len % 2)
			shutdown(fd, SHUT_WR);
		close(fd);
	}
	/* All of it once more, byte for byte: what it says was for another session. */
	fd = dial_raw(port);
	send(fd, hello, n, MSG_NOSIGNAL);
	drain(fd, junk, sizeof(junk));
	close(fd);
	srand(4);
	for (int i = 0; i < 200; i++) {
		size_t k = (size_t)rand() % 500;

		fd = dial_raw(port);
		memcpy(junk, hello, sizeof(junk) < n ? sizeof(junk) : n);
		for (int c = 0; c < 1 + i % 4; c++)
			junk[rand() % 300] = (uint8_t)rand();
		if (i % 3 == 0)
			for (size_t c = 0; c < k; c++)
				junk[c] = (uint8_t)rand();
		send(fd, junk, k, MSG_NOSIGNAL);
		close(fd);
	}
	free(hello);
	/* What speaks another protocol is not answered in ours. */
	fd = dial_raw(port);
	send(fd, "GET / HTTP/1.1\r\n\r\n", 18, MSG_NOSIGNAL);
	n = drain(fd, junk, sizeof(junk));
	assert_null(memmem(junk, n, "LKS1", 4));
	close(fd);
	wait_loop(&lp, no_half_open, &b, "all strangers are gone");
	assert_int_equal(b.paired + b.checks, 0);
	/* One that was given up to make room counts as that. */
	assert_true(b.st.strangers + b.st.evicted + b.st.failed > 100);
	connector(&a, port, "mem=1\n");
	wait_loop(&lp, is_paired, &b, "paired in spite of all");
	wait_loop(&lp, is_paired, &a, "paired in spite of all");
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

/* Silent strangers hold every place; the peer comes in at once all the same. */
static void crowd(void **state)
{
	struct node a = { 0 }, b = { 0 };
	unsigned int port;
	int fd[3 * PAIR_MAX_HALF_OPEN];

	node_tls(&a, CERT);
	node_tls(&b, CERT);
	port = listener(&b, "");
	for (size_t i = 0; i < sizeof(fd) / sizeof(*fd); i++)
		fd[i] = dial_raw(port);
	connector(&a, port, "");
	wait_loop(&lp, is_paired, &a, "paired");
	wait_loop(&lp, is_paired, &b, "paired");
	on_loop(&lp, do_stats, &b);
	assert_true(b.st.half_open <= PAIR_MAX_HALF_OPEN);
	assert_true(b.st.evicted >= PAIR_MAX_HALF_OPEN);
	wait_loop(&lp, no_half_open, &b, "all strangers are gone");
	for (size_t i = 0; i < sizeof(fd) / sizeof(*fd); i++)
		close(fd[i]);
	on_loop(&lp, do_free, &a);
	on_loop(&lp, do_free, &b);
}

/* A conn on one of a paired node's streams, in a loop of its own. */
struct end {
	struct looper l;
	struct stream *s;
	struct conn *c;
	uint64_t msgs, bytes, sum, to_go, sent_sum, seed;
	int closed;
	enum conn_why why;
	char sentence[300];
	size_t len;
	struct end *speaker;	/* end_dies(): says something that stays unread */
};

static int end_message(void *arg, const struct wire_head *h, const uint8_t *p, struct err *e)
{
	struct end *x = arg;

	x->msgs++;
	x->bytes += h->len;
	for (uint32_t i = 0; i < h->len; i++)
		x->sum = (x->sum ^ p[i]) * 0x100000001b3ull;
	return 0;
}

static void end_closed(void *arg, enum conn_why why, const char *sentence)
{
	struct end *x = arg;

	x->closed++;
	x->why = why;
	snprintf(x->sentence, sizeof(x->sentence), "%s", sentence);
	conn_free(x->c);
	x->c = NULL;
}

static long end_send(void *arg)
{
	static __thread uint8_t buf[WIRE_MAX_DEVPIECE];
	struct wire_head h = { .type = WIRE_DEVSTATE };
	struct end *x = arg;

	while (x->to_go) {
		struct iovec iov[40];
		int n = 0;

		memset(buf, 'x', x->len);
		memcpy(buf, PATTERN, x->len < strlen(PATTERN) ? x->len : strlen(PATTERN));
		for (size_t i = 64; i + 8 <= x->len; i += 512) {
			x->seed = x->seed * 6364136223846793005ull + 1442695040888963407ull;
			memcpy(buf + i, &x->seed, 8);
		}
		/* Pieces of all sizes. */
		for (size_t i = 0, k; i < x->len; i += k) {
			k = n == 39 ? x->len - i : 1 + (size_t)(x->seed >> (n % 32)) % (x->len / 8 + 2);
			if (k > x->len - i)
				k = x->len - i;
			iov[n++] = (struct iovec){ buf + i, k };
		}
		if (conn_send(x->c, &h, iov, n, false))
			break;
		x->to_go--;
		for (size_t i = 0; i < x->len; i++)
			x->sent_sum = (x->sent_sum ^ buf[i]) * 0x100000001b3ull;
	}
	return (long)x->to_go;
}

static void end_writable(void *arg)
{
	end_send(arg);
}

static long end_make(void *arg)
{
	struct end *x = arg;
	struct conn_cfg cfg = { .channel = WIRE_BULK, .message = end_message, .writable = end_writable, .closed = end_closed,
				.arg = x };
	struct err e = { 0 };

	wire_vm_id(cfg.vm_id, "web");
	x->c = conn_new(x->l.l, x->s, &cfg, &e);
	return x->c != NULL;
}

static long end_free(void *arg)
{
	struct end *x = arg;

	conn_free(x->c);
	x->c = NULL;
	return 0;
}

static long end_bye(void *arg)
{
	struct end *x = arg;

	return conn_goodbye(x->c, 5 * NS_PER_S);
}

static long end_is_closed(void *arg)
{
	return ((struct end *)arg)->closed;
}

static long end_empty(void *arg)
{
	struct end *x = arg;
	struct conn_stats st;

	conn_stats_get(x->c, &st);
	return !x->to_go && !st.queued;
}

/* Two nodes whose bulk streams become ends in loops of their own; @r between them when it is not NULL. */
static void ends(struct node *a, struct node *b, struct end *x, struct end *y, enum cred cred, struct relay **r)
{
	unsigned int port;

	node_tls(a, cred);
	node_tls(b, cred);
	port = listener(b, "");
	if (r)
		*r = relay_start(port);
	connector(a, r ? (*r)->port : port, "");
	wait_loop(&lp, is_paired, a, "paired");
	wait_loop(&lp, is_paired, b, "paired");
	x->s = a->link.s[WIRE_BULK];
	y->s = b->link.s[WIRE_BULK];
	a->link.s[WIRE_BULK] = b->link.s[WIRE_BULK] = NULL;
	looper_start(&x->l);
	looper_start(&y->l);
}

static void ends_over(struct node *a, struct node *b, struct end *x, struct end *y)
{
	on_loop(&x->l, end_free, x);
	on_loop(&y->l, end_free, y);
	looper_stop(&x->l);
	looper_stop(&y->l);
	on_loop(&lp, do_free, a);
	on_loop(&lp, do_free, b);
}

struct want {
	struct end *x;
	uint64_t msgs;
};

static long got_all(void *arg)
{
	struct want *w = arg;

	return w->x->msgs >= w->msgs || w->x->closed;
}

/* Both ways at once, in pieces of all sizes; the relay sees nothing of it in the clear. With new keys all the time, too. */
static void transfer(void **state)
{
	static const size_t lens[] = { 1 << 20, 20000, 16384 - WIRE_HDR_LEN, 300, 9 };

	for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
		struct node a = { 0 }, b = { 0 };
		struct end x = { .seed = 5, .len = lens[i] }, y = { .seed = 9, .len = lens[i] };
		uint64_t n = lens[i] > 100000 ? 60 : 2000;
		struct want wx = { &x, n }, wy = { &y, n };
		struct relay *r;

		ends(&a, &b, &x, &y, i % 2 ? CERT : KEY, &r);
		x.to_go = y.to_go = n;
		/* What the first says is there, and a part of it decrypted, before the other end has a conn. */
		assert_true(on_loop(&x.l, end_make, &x));
		on_loop(&x.l, end_send, &x);
		assert_true(on_loop(&y.l, end_make, &y));
		on_loop(&y.l, end_send, &y);
		wait_loop(&x.l, got_all, &wx, "all of it");
		wait_loop(&y.l, got_all, &wy, "all of it");
		assert_int_equal(x.closed + y.closed, 0);
		assert_true(x.bytes == n * lens[i] && y.bytes == n * lens[i]);
		assert_true(x.sum == y.sent_sum && y.sum == x.sent_sum);
		assert_false(r->plain);
		/* The orderly end: what was said last arrives. */
		assert_true(on_loop(&x.l, end_bye, &x));
		wait_loop(&y.l, end_is_closed, &y, "the end");
		assert_int_equal(y.why, CONN_EOF);
		ends_over(&a, &b, &x, &y);
		relay_stop(r);
	}
}

/* That the relay would see it: the same without TLS. */
static void relay_sees(void **state)
{
	struct node a = { 0 }, b = { 0 };
	struct end x = { .len = 300, .to_go = 5 }, y = { 0 };
	struct want w = { &y, 5 };
	struct relay *r;

	ends(&a, &b, &x, &y, PLAIN, &r);
	r->plain = false;	/* the greeting's magic */
	memset(r->tail, 0, sizeof(r->tail));
	on_loop(&x.l, end_make, &x);
	on_loop(&y.l, end_make, &y);
	on_loop(&x.l, end_send, &x);
	wait_loop(&y.l, got_all, &w, "all of it");
	assert_true(r->plain);
	ends_over(&a, &b, &x, &y);
	relay_stop(r);
}

/* As the kernel does it when a process dies: neither conn_free() nor conn_goodbye(). */
static long end_dies(void *arg)
{
	struct end *x = arg;
	struct pollfd p = { .fd = x->s->fd, .events = POLLIN };
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (x->speaker) {
		on_loop(&x->speaker->l, end_send, x->speaker);
		if (poll(&p, 1, 10000) != 1)
			return 0;
	}
	return dup2(null, x->s->fd) >= 0 && !close(null);
}

/* Its last words have arrived, and its end is the kernel's, though nothing of TLS said so; also by a reset. */
static void dies(void **state)
{
	for (int i = 0; i < 8; i++) {
		struct node a = { 0 }, b = { 0 };
		struct end x = { .len = 5000, .to_go = 3 }, y = { .len = 300000 };
		bool unread = i & 1;

		ends(&a, &b, &x, &y, i & 2 ? CERT : KEY, NULL);
		on_loop(&x.l, end_make, &x);
		on_loop(&y.l, end_make, &y);
		on_loop(&x.l, end_send, &x);
		wait_loop(&x.l, end_empty, &x, "said");
		if (unread) {
			y.to_go = 20;
			x.speaker = &y;
		}
		assert_true(on_loop(&x.l, end_dies, &x));
		wait_loop(&y.l, end_is_closed, &y, "the end");
		if (!conn_why_kernel(y.why))
			fail_msg("%d: %s: %s", i, conn_why_text(y.why), y.sentence);
		assert_int_equal(y.msgs, 3);
		ends_over(&a, &b, &x, &y);
	}
}

/* What is changed on the way is not taken, and not for the kernel's close; what is cut off is. */
static void on_the_way(void **state)
{
	for (int kind = 0; kind < 2; kind++) {
		for (int i = 0; i < 6; i++) {
			struct node a = { 0 }, b = { 0 };
			struct end x = { 0 }, y = { .len = 70000 };
			struct relay *r;
			int k;

			ends(&a, &b, &x, &y, i % 2 ? CERT : KEY, &r);
			on_loop(&x.l, end_make, &x);
			on_loop(&y.l, end_make, &y);
			/* The bulk connection is the third that the relay has seen; which is which does not matter. */
			for (k = 0; k < r->n; k++)
				if (kind)
					r->cut = (int64_t)r->c[2].passed[1] + 1 + 40000 * i / 3 + i;
				else
					r->flip = (int64_t)r->c[2].passed[1] + 1 + 40000 * i / 3 + i;
			y.to_go = 5;
			on_loop(&y.l, end_send, &y);
			wait_loop(&x.l, end_is_closed, &x, "the end");
			if (conn_why_kernel(x.why) != (kind == 1))
				fail_msg("%d %d: %s: %s", kind, i, conn_why_text(x.why), x.sentence);
			assert_true(x.msgs < 5);
			ends_over(&a, &b, &x, &y);
			relay_stop(r);
		}
	}
}

static int setup(void **state)
{
	log_init("test", getenv("VERBOSE") ? LOG_DEBUG : LOG_ERROR);
	pki_make(&ca, NULL, "ca", NULL, NULL, -20, 20);
	pki_make(&other_ca, NULL, "ca", NULL, NULL, -20, 20);
	creds[KEY] = key_of("# a comment\r\nmallory:" PKI_KEY "\nqemu:" PKI_KEY "\n", TLS_DEF_USER);
	creds[KEY_OTHER] = key_of("qemu:ff" PKI_KEY "\n", TLS_DEF_USER);
	creds[KEY_USER] = key_of("mallory:" PKI_KEY "\nqemu:" PKI_KEY "\n", "mallory");
	creds[CERT] = certs_of(&ca, GNUTLS_KP_TLS_WWW_SERVER, GNUTLS_KP_TLS_WWW_CLIENT, "127.0.0.1", -1, 1);
	creds[CERT_FOREIGN] = certs_of(&other_ca, NULL, NULL, "127.0.0.1", -1, 1);
	creds[CERT_EXPIRED] = certs_of(&ca, NULL, NULL, "127.0.0.1", -5, -1);
	creds[CERT_EARLY] = certs_of(&ca, NULL, NULL, "127.0.0.1", 1, 5);
	creds[CERT_PURPOSE] = certs_of(&ca, GNUTLS_KP_TLS_WWW_CLIENT, GNUTLS_KP_TLS_WWW_SERVER, "127.0.0.1", -1, 1);
	creds[CERT_ADDRESS] = certs_of(&ca, NULL, NULL, "127.0.0.2", -1, 1);
	looper_start(&lp);
	return 0;
}

static int teardown(void **state)
{
	looper_stop(&lp);
	for (int i = 0; i < CREDS; i++)
		tls_free(creds[i]);
	pki_free(&ca);
	pki_free(&other_ca);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pairs), cmocka_unit_test(misfits), cmocka_unit_test(clear_hears), cmocka_unit_test(revoked),
		cmocka_unit_test(strangers), cmocka_unit_test(crowd), cmocka_unit_test(transfer), cmocka_unit_test(relay_sees),
		cmocka_unit_test(dies), cmocka_unit_test(on_the_way),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
