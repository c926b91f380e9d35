/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Keys and certificates for TLS, read once: a process that has given up its rights later needs no file again, and a
 * stranger's handshake reads none. The exception is a server of all users of a file (`lockstep nbd`): there a user may
 * be added while it runs.
 *
 * With keys (PSK) both sides must know the same one; each handshake makes fresh session keys with it (ECDHE), so a key
 * that is stolen later opens nothing that was recorded. With certificates (X.509) each side must have one that the
 * CA in ca-cert.pem has signed, that is in its time, not in ca-crl.pem, and, where it says what it is for, is for
 * that side (TLS server, TLS client). The side that connects also compares the name.
 */
#include "base/tls_internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/x509.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

/* AES of 128 bits first: it is what a key of psktool's is used with anyway, and the fastest where the CPU has it. */
#define PRIORITY_BASE	"NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305"
#define PRIORITY_PSK	PRIORITY_BASE ":-KX-ALL:+ECDHE-PSK"

struct tls_key {
	struct tls_key *next;
	unsigned int size;
	uint8_t key[256];
	char user[TLS_MAX_USER + 1];
};

struct text {
	char path[PATH_MAX];
	uint8_t *data;		/* ends with a NUL behind @len */
	size_t len;
};

static void text_free(struct text *t)
{
	if (t->data)
		explicit_bzero(t->data, t->len);
	free(t->data);
	t->data = NULL;
}

static int text_load(struct text *t, int fd, bool secret, struct err *e)
{
	struct stat st;
	ssize_t r;

	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(e, -EINVAL, "%.200s, which TLS needs, is no file", t->path);
	if (secret && (st.st_mode & 077))
		return err_set(e, -EPERM, "%.200s holds a secret key and is open to others (mode %04o): chmod 600 it, and make "
			       "a new key if somebody may have read it", t->path, (unsigned int)st.st_mode & 07777);
	if (st.st_size > TLS_MAX_FILE)
		return err_set(e, -EFBIG, "%.200s is too large for keys or certificates", t->path);
	t->data = malloc((size_t)st.st_size + 1);
	if (!t->data)
		return err_set(e, -ENOMEM, "no memory for TLS");
	while (t->len < (size_t)st.st_size) {
		r = read(fd, t->data + t->len, (size_t)st.st_size - t->len);
		if (r < 0 && errno == EINTR)
			continue;
		if (r < 0)
			return err_set(e, -errno, "%.200s cannot be read: %s", t->path, strerror(errno));
		if (!r)
			break;
		t->len += (size_t)r;
	}
	t->data[t->len] = 0;
	return 0;
}

/* @name: in the directory @dir; NULL: @dir is the file. Return: 0, -ENOENT without @e's sentence when not @must */
static int text_read(struct text *t, const char *dir, const char *name, bool secret, bool must, struct err *e)
{
	int fd, rc;

	*t = (struct text){ 0 };
	if ((size_t)snprintf(t->path, sizeof(t->path), "%s%s%s", dir, name ? "/" : "", name ? name : "") >= sizeof(t->path))
		return err_set(e, -ENAMETOOLONG, "the name is too long: %.100s...", dir);
	fd = open(t->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT && !must)
		return -ENOENT;
	if (fd < 0)
		return err_set(e, -errno, "%.200s, which TLS needs, cannot be read: %s", t->path, strerror(errno));
	rc = text_load(t, fd, secret, e);
	close(fd);
	if (rc)
		text_free(t);
	return rc;
}

static gnutls_datum_t datum(const struct text *t)
{
	return (gnutls_datum_t){ t->data, (unsigned int)t->len };
}

/* The peer would refuse it; the VM itself can be served all the same. */
static void look_at_dates(const struct text *t)
{
	gnutls_datum_t d = datum(t);
	gnutls_x509_crt_t c;
	time_t now = time(NULL);

	if (gnutls_x509_crt_init(&c))
		return;
	if (!gnutls_x509_crt_import(c, &d, GNUTLS_X509_FMT_PEM)) {
		if (gnutls_x509_crt_get_expiration_time(c) < now)
			log_warn("TLS: the certificate %s has expired: the peer will refuse it", t->path);
		else if (gnutls_x509_crt_get_activation_time(c) > now)
			log_warn("TLS: the certificate %s is not valid yet: the peer will refuse it", t->path);
	}
	gnutls_x509_crt_deinit(c);
}

static int load_own(gnutls_certificate_credentials_t c, const char *dir, const char *who, struct err *e)
{
	struct text cert = { 0 }, key = { 0 };
	char name[32];
	int rc;

	snprintf(name, sizeof(name), "%s-cert.pem", who);
	rc = text_read(&cert, dir, name, false, true, e);
	snprintf(name, sizeof(name), "%s-key.pem", who);
	if (!rc)
		rc = text_read(&key, dir, name, true, true, e);
	if (!rc) {
		gnutls_datum_t dc = datum(&cert), dk = datum(&key);
		int g = gnutls_certificate_set_x509_key_mem(c, &dc, &dk, GNUTLS_X509_FMT_PEM);

		if (g < 0)
			rc = err_set(e, -EINVAL, "%.200s and %s beside it are no certificate and its key: %s", cert.path, name,
				     gnutls_strerror(g));
		else
			look_at_dates(&cert);
	}
	text_free(&cert);
	text_free(&key);
	return rc;
}

static int load_trust(gnutls_certificate_credentials_t c, const char *dir, struct err *e)
{
	struct text ca, crl = { 0 };
	gnutls_datum_t d;
	int rc = text_read(&ca, dir, "ca-cert.pem", false, true, e), g;

	if (rc)
		return rc;
	d = datum(&ca);
	g = gnutls_certificate_set_x509_trust_mem(c, &d, GNUTLS_X509_FMT_PEM);
	if (g <= 0)
		rc = err_set(e, -EINVAL, "%.200s holds no certificate of a CA%s%s", ca.path, g ? ": " : "",
			     g ? gnutls_strerror(g) : "");
	text_free(&ca);
	if (rc)
		return rc;
	rc = text_read(&crl, dir, "ca-crl.pem", false, false, e);
	if (rc)
		return rc == -ENOENT ? 0 : rc;
	d = datum(&crl);
	g = gnutls_certificate_set_x509_crl_mem(c, &d, GNUTLS_X509_FMT_PEM);
	if (g < 0)
		rc = err_set(e, -EINVAL, "%.200s is no list of revoked certificates: %s", crl.path, gnutls_strerror(g));
	text_free(&crl);
	return rc;
}

static int load_x509(gnutls_certificate_credentials_t *c, const char *dir, const char *who, struct err *e)
{
	int rc;

	if (gnutls_certificate_allocate_credentials(c))
		return err_set(e, -ENOMEM, "no memory for TLS");
	rc = load_trust(*c, dir, e);
	return rc ? rc : load_own(*c, dir, who, e);
}

/* A line user:hexkey of @len bytes. Return: 0, or -EINVAL with what is wrong in @e */
static int key_parse(struct tls_key *k, const char *line, size_t len, struct err *e)
{
	const char *colon = memchr(line, ':', len);
	size_t user = colon ? (size_t)(colon - line) : 0, hex = colon ? len - user - 1 : 0;

	if (!user || !hex || hex % 2 || memchr(line, 0, len))
		return err_set(e, -EINVAL, "not user:key with the key in hexadecimal, as psktool writes it");
	for (size_t i = 0; i < hex; i++)
		if (!isxdigit((unsigned char)colon[1 + i]))
			return err_set(e, -EINVAL, "not user:key with the key in hexadecimal, as psktool writes it");
	if (user > TLS_MAX_USER)
		return err_set(e, -EINVAL, "the user's name is longer than %d bytes", TLS_MAX_USER);
	k->size = (unsigned int)(hex / 2);
	if (k->size < TLS_MIN_KEY || k->size > sizeof(k->key))
		return err_set(e, -EINVAL, "the key has %u bytes; it must have %d to %zu", k->size, TLS_MIN_KEY, sizeof(k->key));
	memcpy(k->user, line, user);
	for (unsigned int i = 0; i < k->size; i++) {
		char byte[3] = { colon[1 + 2 * i], colon[2 + 2 * i], 0 };

		k->key[i] = (uint8_t)strtoul(byte, NULL, 16);
	}
	return 0;
}

static int keys_parse(struct tls *t, const struct text *f, const char *only, struct err *e)
{
	const char *p = (const char *)f->data, *end = p + f->len;

	for (unsigned int line = 1; p < end; line++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		size_t len = (size_t)((nl ? nl : end) - p);
		const char *at = p;
		struct tls_key *k;
		int rc;

		p = nl ? nl + 1 : end;
		if (len && at[len - 1] == '\r')
			len--;
		if (!len || *at == '#')
			continue;
		k = calloc(1, sizeof(*k));
		if (!k)
			return err_set(e, -ENOMEM, "no memory for TLS");
		rc = key_parse(k, at, len, e);
		if (!rc && (!only || !strcmp(k->user, only))) {
			k->next = t->keys;
			t->keys = k;
			continue;
		}
		explicit_bzero(k, sizeof(*k));
		free(k);
		if (rc) {
			err_prefix(e, "%.200s, line %u", f->path, line);
			return rc;
		}
	}
	if (!t->keys && only)
		return err_set(e, -EINVAL, "%.200s holds no key of the user \"%s\"; psktool -u %s -p %.100s makes one", f->path,
			       only, only, f->path);
	return t->keys ? 0 : err_set(e, -EINVAL, "%.200s holds no key: nobody could connect", f->path);
}

static void keys_free(struct tls_key *k)
{
	while (k) {
		struct tls_key *next = k->next;

		explicit_bzero(k, sizeof(*k));
		free(k);
		k = next;
	}
}

/* Users may have come or gone. What cannot be read, or makes no sense, changes nothing. */
static void keys_again(struct tls *t)
{
	struct tls fresh = { 0 };
	struct err e;
	struct text f;

	if (text_read(&f, t->psk_path, NULL, true, true, &e)) {
		log_warn("TLS: the keys stay as they were: %s", e.msg);
		return;
	}
	if (keys_parse(&fresh, &f, NULL, &e)) {
		log_warn("TLS: the keys stay as they were: %s", e.msg);
		keys_free(fresh.keys);
	} else {
		keys_free(t->keys);
		t->keys = fresh.keys;
	}
	text_free(&f);
}

/* For gnutls, in a server's handshake. */
static int find_key(gnutls_session_t g, const char *user, gnutls_datum_t *key)
{
	struct tls *t = gnutls_session_get_ptr(g);

	if (t->psk_path)
		keys_again(t);
	for (const struct tls_key *k = t->keys; k; k = k->next) {
		if (strcmp(k->user, user))
			continue;
		key->data = gnutls_malloc(k->size);
		if (!key->data)
			return -1;
		memcpy(key->data, k->key, k->size);
		key->size = k->size;
		return 0;
	}
	/* Nobody is to learn whose keys there are: an unknown user is one with another key. */
	return gnutls_key_generate(key, TLS_MIN_KEY);
}

static int load_psk(struct tls *t, const struct tls_cfg *cfg, struct err *e)
{
	struct stat st;
	struct text f;
	bool dir = !stat(cfg->psk_file, &st) && S_ISDIR(st.st_mode);
	int rc;

	if (cfg->psk_user && strlen(cfg->psk_user) > TLS_MAX_USER)
		return err_set(e, -EINVAL, "the user's name is longer than %d bytes", TLS_MAX_USER);
	rc = text_read(&f, cfg->psk_file, dir ? "keys.psk" : NULL, true, true, e);
	if (rc)
		return rc;
	rc = keys_parse(t, &f, cfg->psk_user, e);
	if (!rc && !cfg->psk_user && !(t->psk_path = strdup(f.path)))
		rc = err_set(e, -ENOMEM, "no memory for TLS");
	text_free(&f);
	if (rc)
		return rc;
	if (cfg->role & TLS_SERVER) {
		if (gnutls_psk_allocate_server_credentials(&t->psk_server))
			return err_set(e, -ENOMEM, "no memory for TLS");
		gnutls_psk_set_server_credentials_function(t->psk_server, find_key);
	}
	if (cfg->role & TLS_CLIENT) {
		gnutls_datum_t key = { t->keys->key, t->keys->size };

		if (gnutls_psk_allocate_client_credentials(&t->psk_client) ||
		    gnutls_psk_set_client_credentials(t->psk_client, t->keys->user, &key, GNUTLS_PSK_KEY_RAW))
			return err_set(e, -ENOMEM, "no memory for TLS");
	}
	return 0;
}

struct tls *tls_new(const struct tls_cfg *cfg, struct err *e)
{
	struct tls *t = calloc(1, sizeof(*t));
	int rc = 0;

	if (!t) {
		err_set(e, -ENOMEM, "no memory for TLS");
		return NULL;
	}
	t->psk = cfg->psk_file;
	if (!cfg->dir == !cfg->psk_file)
		rc = err_set(e, -EINVAL, "TLS is either by certificates or by keys");
	else if (gnutls_priority_init(&t->priority, t->psk ? PRIORITY_PSK : PRIORITY_BASE, NULL))
		rc = err_set(e, -ENOTSUP, "this system's gnutls, or its configuration, has not what TLS 1.3 %s needs",
			     t->psk ? "with keys" : "with certificates");
	if (!rc && t->psk)
		rc = load_psk(t, cfg, e);
	if (!rc && !t->psk && (cfg->role & TLS_SERVER))
		rc = load_x509(&t->server, cfg->dir, "server", e);
	if (!rc && !t->psk && (cfg->role & TLS_CLIENT))
		rc = load_x509(&t->client, cfg->dir, "client", e);
	if (!rc)
		return t;
	tls_free(t);
	return NULL;
}

void tls_free(struct tls *t)
{
	if (!t)
		return;
	if (t->server)
		gnutls_certificate_free_credentials(t->server);
	if (t->client)
		gnutls_certificate_free_credentials(t->client);
	if (t->psk_server)
		gnutls_psk_free_server_credentials(t->psk_server);
	if (t->psk_client)
		gnutls_psk_free_client_credentials(t->psk_client);
	if (t->priority)
		gnutls_priority_deinit(t->priority);
	keys_free(t->keys);
	free(t->psk_path);
	free(t);
}

const char *tls_name(const struct tls *t)
{
	return t->psk ? "psk" : "x509";
}
