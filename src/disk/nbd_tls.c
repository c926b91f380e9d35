/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * TLS for the NBD server, by gnutls: the server's credentials, and one session for each connection. TLS 1.2 and later.
 * With certificates a client must have one of the same CA; with keys (PSK) it must know one of the file. There is no
 * TLS that lets anybody in.
 */
#include <ctype.h>
#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "disk/nbd_internal.h"

#define PRIORITY_X509	"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
#define PRIORITY_PSK	PRIORITY_X509 ":-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"
#define MAX_PSK_LINE	1024
#define PATH_LEN	4096

struct nbd_tls {
	gnutls_certificate_credentials_t cert;
	gnutls_psk_server_credentials_t psk;
};

struct nbd_session {
	gnutls_session_t s;
	bool x509;
};

static int file_of(char *out, const char *dir, const char *name, bool must, struct err *e)
{
	if ((size_t)snprintf(out, PATH_LEN, "%s/%s", dir, name) >= PATH_LEN)
		return err_set(e, -ENAMETOOLONG, "the directory's name is too long: %.100s...", dir);
	if (access(out, R_OK) < 0)
		return must ? err_set(e, -errno, "%s, which TLS needs, cannot be read: %s", out, strerror(errno)) : -errno;
	return 0;
}

static int load_x509(struct nbd_tls *t, const char *dir, struct err *e)
{
	char ca[PATH_LEN], cert[PATH_LEN], key[PATH_LEN], crl[PATH_LEN];
	int rc = file_of(ca, dir, "ca-cert.pem", true, e);

	if (!rc)
		rc = file_of(cert, dir, "server-cert.pem", true, e);
	if (!rc)
		rc = file_of(key, dir, "server-key.pem", true, e);
	if (rc)
		return rc;
	if (gnutls_certificate_allocate_credentials(&t->cert))
		return err_set(e, -ENOMEM, "no memory for TLS");
	rc = gnutls_certificate_set_x509_trust_file(t->cert, ca, GNUTLS_X509_FMT_PEM);
	if (rc <= 0)
		return err_set(e, -EINVAL, "%s holds no certificate of a CA%s%s", ca, rc ? ": " : "",
			       rc ? gnutls_strerror(rc) : "");
	rc = gnutls_certificate_set_x509_key_file(t->cert, cert, key, GNUTLS_X509_FMT_PEM);
	if (rc < 0)
		return err_set(e, -EINVAL, "%s and server-key.pem beside it are no certificate and its key: %s", cert,
			       gnutls_strerror(rc));
	if (!file_of(crl, dir, "ca-crl.pem", false, NULL)) {
		rc = gnutls_certificate_set_x509_crl_file(t->cert, crl, GNUTLS_X509_FMT_PEM);
		if (rc < 0)
			return err_set(e, -EINVAL, "%s is no list of revoked certificates: %s", crl, gnutls_strerror(rc));
	}
	return 0;
}

/* A line user:hexkey. */
static bool is_psk_line(const char *line)
{
	const char *key = strchr(line, ':');
	size_t n = 0;

	if (!key || key == line)
		return false;
	for (key++; isxdigit((unsigned char)key[n]); n++)
		;
	return n && n % 2 == 0 && (!key[n] || key[n] == '\n' || key[n] == '\r');
}

/* gnutls looks into the file at each handshake, so keys can be changed; what is there now must make sense. */
static int load_psk(struct nbd_tls *t, const char *path, struct err *e)
{
	FILE *f = fopen(path, "re");
	char line[MAX_PSK_LINE];
	unsigned int n = 0, keys = 0;
	int rc = 0;

	if (!f)
		return err_set(e, -errno, "%s, which TLS needs, cannot be read: %s", path, strerror(errno));
	while (!rc && fgets(line, sizeof(line), f)) {
		n++;
		if (*line == '\n' || *line == '#')
			continue;
		if (!is_psk_line(line))
			rc = err_set(e, -EINVAL, "%s, line %u: not user:key with the key in hexadecimal, as psktool writes it",
				     path, n);
		keys++;
	}
	if (!rc && ferror(f))
		rc = err_set(e, -EIO, "%s cannot be read", path);
	if (!rc && !keys)
		rc = err_set(e, -EINVAL, "%s holds no key: nobody could connect", path);
	fclose(f);
	if (rc)
		return rc;
	if (gnutls_psk_allocate_server_credentials(&t->psk))
		return err_set(e, -ENOMEM, "no memory for TLS");
	rc = gnutls_psk_set_server_credentials_file(t->psk, path);
	return rc < 0 ? err_set(e, -EINVAL, "%s: %s", path, gnutls_strerror(rc)) : 0;
}

struct nbd_tls *nbd_tls_new(const char *dir, const char *psk_file, struct err *e)
{
	struct nbd_tls *t = calloc(1, sizeof(*t));
	int rc;

	if (!t) {
		err_set(e, -ENOMEM, "no memory for TLS");
		return NULL;
	}
	if (dir && psk_file)
		rc = err_set(e, -EINVAL, "TLS is either by certificates or by keys");
	else
		rc = dir ? load_x509(t, dir, e) : load_psk(t, psk_file, e);
	if (!rc)
		return t;
	nbd_tls_free(t);
	return NULL;
}

void nbd_tls_free(struct nbd_tls *t)
{
	if (!t)
		return;
	if (t->cert)
		gnutls_certificate_free_credentials(t->cert);
	if (t->psk)
		gnutls_psk_free_server_credentials(t->psk);
	free(t);
}

/* nbd_tls_begin() - a session over @fd, which does not block; NULL: no memory. Ends before @t does. */
struct nbd_session *nbd_tls_begin(struct nbd_tls *t, int fd)
{
	struct nbd_session *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return NULL;
	if (gnutls_init(&n->s, GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL)) {
		free(n);
		return NULL;
	}
	n->x509 = t->cert;
	rc = gnutls_priority_set_direct(n->s, t->cert ? PRIORITY_X509 : PRIORITY_PSK, NULL);
	if (!rc)
		rc = t->cert ? gnutls_credentials_set(n->s, GNUTLS_CRD_CERTIFICATE, t->cert) :
			       gnutls_credentials_set(n->s, GNUTLS_CRD_PSK, t->psk);
	if (rc) {
		nbd_tls_end(n, false);
		return NULL;
	}
	if (t->cert) {
		gnutls_certificate_server_set_request(n->s, GNUTLS_CERT_REQUIRE);
		/* In the handshake: the client is told, and gets no further. */
		gnutls_session_set_verify_cert(n->s, NULL, 0);
	}
	gnutls_handshake_set_timeout(n->s, GNUTLS_INDEFINITE_TIMEOUT);
	gnutls_transport_set_int(n->s, fd);
	return n;
}

int nbd_tls_handshake(struct nbd_session *t, char *why, size_t n)
{
	int rc = gnutls_handshake(t->s);
	gnutls_datum_t text;

	if (!rc)
		return 0;
	if (!gnutls_error_is_fatal(rc))
		return -EAGAIN;
	if (rc == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR &&
	    !gnutls_certificate_verification_status_print(gnutls_session_get_verify_cert_status(t->s), GNUTLS_CRT_X509,
							   &text, 0)) {
		snprintf(why, n, "%s", (char *)text.data);
		gnutls_free(text.data);
	} else {
		snprintf(why, n, "%s", gnutls_strerror(rc));
	}
	/* One attempt: a client that does not read may do without. */
	gnutls_alert_send_appropriate(t->s, rc);
	return -EPROTO;
}

bool nbd_tls_wants_write(struct nbd_session *t)
{
	return gnutls_record_get_direction(t->s);
}

static ssize_t result_of(ssize_t rc)
{
	if (rc >= 0)
		return rc;
	if (rc == GNUTLS_E_INTERRUPTED)
		return -EINTR;
	return gnutls_error_is_fatal((int)rc) ? -ECONNRESET : -EAGAIN;
}

ssize_t nbd_tls_recv(struct nbd_session *t, void *to, size_t n)
{
	ssize_t rc;

	do
		rc = result_of(gnutls_record_recv(t->s, to, n));
	while (rc == -EINTR);
	return rc;
}

/* Sends as much as goes. After -EAGAIN the same bytes must be offered again, which a queue does by itself. */
ssize_t nbd_tls_send(struct nbd_session *t, const struct iovec *iov, int n)
{
	ssize_t all = 0;

	for (int i = 0; i < n; i++) {
		ssize_t rc = result_of(gnutls_record_send(t->s, iov[i].iov_base, iov[i].iov_len));

		if (rc < 0)
			return all ? all : rc;
		all += rc;
		if ((size_t)rc < iov[i].iov_len)
			break;
	}
	return all;
}

size_t nbd_tls_pending(struct nbd_session *t)
{
	return gnutls_record_check_pending(t->s);
}

/* nbd_tls_end() - @bye: tell the other side that this is the end, and no attack */
void nbd_tls_end(struct nbd_session *t, bool bye)
{
	if (bye)
		gnutls_bye(t->s, GNUTLS_SHUT_WR);
	gnutls_deinit(t->s);
	free(t);
}
