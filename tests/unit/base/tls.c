/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * base/tls: which files of keys and certificates are taken, and sessions over a socket that takes little at a time: what is
 * told as written is written, in random pieces, with a new key every few records.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "base/log.h"
#include "base/tls.h"
#include "pki.h"

static char dir[64], path[128];

static void says(const struct tls_cfg *cfg, const char *what)
{
	struct err e = { 0 };
	struct tls *t = tls_new(cfg, &e);

	if (t || !strstr(e.msg, what) || !e.code)
		fail_msg("%s: \"%s\", not \"%s\"", t ? "taken" : "refused", e.msg, what);
}

static void taken(const struct tls_cfg *cfg)
{
	struct err e = { 0 };
	struct tls *t = tls_new(cfg, &e);

	if (!t)
		fail_msg("%s", e.msg);
	assert_string_equal(tls_name(t), cfg->dir ? "x509" : "psk");
	tls_free(t);
}

static void key_files(void **state)
{
	static const struct {
		const char *text, *user, *says;	/* @says NULL: it is taken */
	} rows[] = {
		{ "qemu:" PKI_KEY "\n", "qemu", NULL }, { "qemu:" PKI_KEY, "qemu", NULL },
		{ "# c\n\n\r\na:" PKI_KEY "\r\nqemu:" PKI_KEY "\r\n", "qemu", NULL }, { "a:" PKI_KEY "\n", NULL, NULL },
		{ "qemu:000102030405060708090A0B0C0D0E0F\n", "qemu", NULL },
		{ "", "qemu", "no key of the user \"qemu\"" }, { "", NULL, "no key" }, { "\n#x\n", NULL, "no key" },
		{ "a:" PKI_KEY "\n", "qemu", "psktool -u qemu" }, { "qemu" PKI_KEY "\n", NULL, "line 1: not user:key" },
		{ ":" PKI_KEY "\n", NULL, "line 1: not user:key" }, { "qemu:\n", NULL, "line 1: not user:key" },
		{ "a:" PKI_KEY "\nqemu:" PKI_KEY "0\n", "a", "line 2: not user:key" },
		{ "qemu:" PKI_KEY "0g\n", "qemu", "not user:key" }, { "qemu:" PKI_KEY " \n", "qemu", "not user:key" },
		{ "qemu:00010203040506070809\n", "qemu", "the key has 10 bytes" },
		{ "0123456789012345678901234567890123456789012345678901234567890123:" PKI_KEY "\n", NULL, "user's name is longer" },
	};
	struct tls_cfg cfg = { .role = TLS_BOTH };
	char big[3 * 1100];

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		cfg.role = rows[i].user ? TLS_BOTH : TLS_SERVER;
		cfg.psk_user = rows[i].user;
		pki_file(dir, "keys.psk", rows[i].text, strlen(rows[i].text), 0600);
		for (int d = 0; d < 2; d++) {
			cfg.psk_file = d ? dir : path;
			if (rows[i].says)
				says(&cfg, rows[i].says);
			else
				taken(&cfg);
		}
	}
	/* A key that is too long, a NUL, a file that is too large. */
	memset(big, 'a', sizeof(big));
	memcpy(big, "qemu:", 5);
	cfg = (struct tls_cfg){ .role = TLS_BOTH, .psk_user = "qemu", .psk_file = path };
	pki_file(dir, "keys.psk", big, 5 + 1024, 0600);
	says(&cfg, "the key has 512 bytes");
	pki_file(dir, "keys.psk", "qemu\0:" PKI_KEY, 6 + strlen(PKI_KEY), 0600);
	says(&cfg, "not user:key");
	assert_int_equal(truncate(path, TLS_MAX_FILE + 1), 0);
	says(&cfg, "too large");
	/* Who else could read or change it. */
	for (mode_t m = 1; m < 0100; m <<= 1) {
		pki_file(dir, "keys.psk", "qemu:" PKI_KEY, 5 + strlen(PKI_KEY), 0600 | m);
		says(&cfg, "open to others");
	}
	unlink(path);
	says(&cfg, "cannot be read: No such file");
	cfg.psk_file = "/dev/null";
	says(&cfg, "is no file");
	cfg.psk_file = NULL;
	says(&cfg, "either");
	cfg.psk_file = cfg.dir = dir;
	says(&cfg, "either");
}

static void certificates(void **state)
{
	struct tls_cfg cfg = { .role = TLS_BOTH, .dir = dir };
	struct pki ca, node;
	char file[200];

	pki_make(&ca, NULL, "ca", NULL, NULL, -1, 1);
	pki_make(&node, &ca, "node", NULL, NULL, -1, 1);
	says(&cfg, "ca-cert.pem, which TLS needs, cannot be read");
	pki_write(&ca, dir, "ca", false);
	says(&cfg, "server-cert.pem");
	pki_write(&node, dir, "server", true);
	says(&cfg, "client-cert.pem");
	cfg.role = TLS_SERVER;
	taken(&cfg);
	cfg.role = TLS_BOTH;
	pki_write(&node, dir, "client", true);
	taken(&cfg);
	pki_revoke(&ca, &node, dir);
	taken(&cfg);
	pki_file(dir, "ca-crl.pem", "nonsense", 8, 0644);
	says(&cfg, "no list of revoked");
	snprintf(file, sizeof(file), "%s/ca-crl.pem", dir);
	unlink(file);
	snprintf(file, sizeof(file), "%s/client-key.pem", dir);
	assert_int_equal(chmod(file, 0640), 0);
	says(&cfg, "client-key.pem holds a secret key and is open to others (mode 0640)");
	assert_int_equal(chmod(file, 0600), 0);
	/* The key of another certificate, and a CA that is none. */
	pki_write(&ca, dir, "client", true);
	pki_write(&node, dir, "client", false);
	says(&cfg, "no certificate and its key");
	pki_file(dir, "ca-cert.pem", "nonsense", 8, 0644);
	says(&cfg, "no certificate of a CA");
	pki_free(&ca);
	pki_free(&node);
}

static uint64_t seed;

static unsigned int rnd(unsigned int n)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned int)(seed >> 33) % n;
}

/* Writes what it may of @data from @*at on, in random pieces. */
static void write_some(struct tls_session *s, const uint8_t *data, size_t size, size_t *at)
{
	struct iovec iov[20];
	size_t off = *at, least = tls_wants_write(s) ? size - off : 0;
	int n = 0;
	ssize_t r;

	while (n < 20 && off < size) {
		size_t k = rnd(4) ? rnd(3000) : rnd(40000);

		/* What was offered once must be offered again. */
		if (least && n == 19)
			k = size - off;
		k = k < size - off ? k : size - off;
		iov[n++] = (struct iovec){ (void *)(data + off), k };
		off += k;
	}
	r = tls_writev(s, iov, n);
	if (r < 0 && r != -EAGAIN)
		fail_msg("writing failed: %s", strerror((int)-r));
	if (r > 0)
		*at += (size_t)r;
}

static void sessions(void **state)
{
	const size_t size = 3 << 20;
	struct tls_cfg cfg = { .role = TLS_BOTH, .psk_file = path, .psk_user = "qemu" };
	const char *env = getenv("SEED");
	uint8_t *data = malloc(size), *got = malloc(size);
	struct err e = { 0 };
	struct tls *t;

	seed = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);
	printf("seed %llu (SEED=%llu replays it)\n", (unsigned long long)seed, (unsigned long long)seed);
	pki_file(dir, "keys.psk", "qemu:" PKI_KEY, 5 + strlen(PKI_KEY), 0600);
	t = tls_new(&cfg, &e);
	assert_non_null(t);
	for (int round = 0; round < 12; round++) {
		int fd[2], rc[2] = { -EAGAIN, -EAGAIN }, little = 4096;
		uint8_t key[2][TLS_KEY_LEN], other[TLS_KEY_LEN], byte;
		size_t sent = 0, have = 0;
		struct tls_session *s[2];

		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
		setsockopt(fd[0], SOL_SOCKET, SO_SNDBUF, &little, sizeof(little));
		setsockopt(fd[1], SOL_SOCKET, SO_SNDBUF, &little, sizeof(little));
		s[0] = tls_begin(t, fd[0], false, NULL);
		s[1] = tls_begin(t, fd[1], true, NULL);
		assert_true(s[0] && s[1]);
		assert_int_equal(tls_key(s[0], "x", other), -EPROTO);
		assert_int_equal(tls_writev(s[0], &(struct iovec){ data, 1 }, 1), -EPROTO);
		for (int i = 0; rc[0] || rc[1]; i++) {
			for (int k = 0; k < 2; k++)
				if (rc[k])
					rc[k] = tls_handshake(s[k]);
			assert_true(i < 100 && (!rc[0] || rc[0] == -EAGAIN) && (!rc[1] || rc[1] == -EAGAIN));
		}
		assert_true(!tls_key(s[0], "x", key[0]) && !tls_key(s[1], "x", key[1]) && !tls_key(s[1], "y", other));
		assert_memory_equal(key[0], key[1], TLS_KEY_LEN);
		assert_memory_not_equal(key[0], other, TLS_KEY_LEN);
		assert_int_equal(tls_read(s[1], &byte, 1), -EAGAIN);
		assert_false(tls_pending(s[1]));
		/* gnutls takes eight in a second from its peer. */
		if (round % 3)
			tls_rekey_after(s[0], 100 + rnd(50));
		for (size_t i = 0; i < size; i++)
			data[i] = (uint8_t)rnd(256);
		while (have < size) {
			if (sent < size && rnd(3))
				write_some(s[0], data, size, &sent);
			if (rnd(3)) {
				size_t want = 1 + rnd(100000);
				ssize_t r = tls_read(s[1], got + have, want < size - have ? want : size - have);

				if (r < 0 && r != -EAGAIN)
					fail_msg("reading failed: %s", tls_why(s[1]));
				/* A short read has taken all there is. */
				if (r < 0 || ((size_t)r < want && have + (size_t)r < size))
					assert_false(tls_pending(s[1]));
				have += r > 0 ? (size_t)r : 0;
			}
			/* What is told as written is with the kernel, so it is there once all has been read. */
			assert_true(have <= size);
		}
		assert_memory_equal(data, got, size);
		while (sent < size)
			write_some(s[0], data, size, &sent);
		assert_int_equal(sent, size);
		assert_false(tls_wants_write(s[0]));
		/* The end is said, or just there. */
		if (round & 1)
			tls_bye(s[0]);
		tls_end(s[0]);
		close(fd[0]);
		assert_int_equal(tls_read(s[1], &byte, 1), 0);
		assert_int_equal(tls_read(s[1], &byte, 1), 0);
		tls_end(s[1]);
		close(fd[1]);
	}
	tls_free(t);
	free(data);
	free(got);
}

/* A handshake over a socketpair. Return: of the server, and of the client in @c */
static int meet(struct tls *server, struct tls *client, int *c)
{
	int fd[2], rc[2] = { -EAGAIN, -EAGAIN };
	struct tls_session *s[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fd), 0);
	s[0] = tls_begin(server, fd[0], true, NULL);
	s[1] = tls_begin(client, fd[1], false, NULL);
	for (int i = 0; i < 100 && (rc[0] == -EAGAIN || rc[1] == -EAGAIN); i++)
		for (int k = 0; k < 2; k++) {
			if (rc[k] == -EAGAIN)
				rc[k] = tls_handshake(s[k]);
			if (rc[k] == -EPROTO)
				tls_alert(s[k]);
		}
	for (int k = 0; k < 2; k++) {
		tls_end(s[k]);
		close(fd[k]);
	}
	*c = rc[1];
	return rc[0];
}

/* A server of a whole file: who is added can come, who is taken out cannot; a file that makes no sense changes nothing. */
static void users_come_and_go(void **state)
{
	struct tls_cfg all = { .role = TLS_SERVER, .psk_file = path }, one = { .role = TLS_BOTH, .psk_file = path };
	static const char joe[] = "joe:" PKI_KEY "\n", ann[] = "ann:" PKI_KEY "\n";
	struct tls *server, *client, *fixed;
	struct err e = { 0 };
	int c;

	one.psk_user = "joe";
	pki_file(dir, "keys.psk", joe, strlen(joe), 0600);
	client = tls_new(&one, &e);
	fixed = tls_new(&one, &e);
	pki_file(dir, "keys.psk", ann, strlen(ann), 0600);
	server = tls_new(&all, &e);
	assert_true(client && fixed && server);
	assert_int_equal(meet(server, client, &c), -EPROTO);
	assert_int_equal(c, -EPROTO);
	pki_file(dir, "keys.psk", joe, strlen(joe), 0600);
	assert_true(!meet(server, client, &c) && !c);
	pki_file(dir, "keys.psk", "nonsense", 8, 0600);
	assert_true(!meet(server, client, &c) && !c);
	pki_file(dir, "keys.psk", ann, strlen(ann), 0600);
	assert_int_equal(meet(server, client, &c), -EPROTO);
	/* One user's is read once. */
	assert_true(!meet(fixed, client, &c) && !c);
	tls_free(server);
	tls_free(client);
	tls_free(fixed);
}

static int setup(void **state)
{
	log_init("test", LOG_ERROR);
	pki_tmp(dir);
	snprintf(path, sizeof(path), "%s/keys.psk", dir);
	return 0;
}

static int teardown(void **state)
{
	pki_rmdir(dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(key_files), cmocka_unit_test(certificates), cmocka_unit_test(sessions), cmocka_unit_test(users_come_and_go),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
