/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef TESTS_PKI_H
#define TESTS_PKI_H

#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* Certificates and keys for tests of TLS; cmocka's asserts are the includer's. */

#define PKI_DAY	86400

struct pki {
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t crt;
};

static inline void pki_free(struct pki *p)
{
	gnutls_x509_crt_deinit(p->crt);
	gnutls_x509_privkey_deinit(p->key);
}

/* @ca: who signs; NULL: itself, it is a CA. @from, @to: days from now. @purpose, @ip: or NULL */
static inline void pki_make(struct pki *p, const struct pki *ca, const char *name, const char *purpose, const char *ip,
			    int from, int to)
{
	static unsigned char serial;
	unsigned char number[2] = { 1, ++serial };
	time_t now = time(NULL);

	assert_int_equal(gnutls_x509_privkey_init(&p->key), 0);
	assert_int_equal(gnutls_x509_privkey_generate(p->key, GNUTLS_PK_ECDSA,
			 GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0), 0);
	assert_int_equal(gnutls_x509_crt_init(&p->crt), 0);
	gnutls_x509_crt_set_version(p->crt, 3);
	gnutls_x509_crt_set_serial(p->crt, number, sizeof(number));
	gnutls_x509_crt_set_activation_time(p->crt, now + from * PKI_DAY);
	gnutls_x509_crt_set_expiration_time(p->crt, now + to * PKI_DAY);
	gnutls_x509_crt_set_dn_by_oid(p->crt, GNUTLS_OID_X520_COMMON_NAME, 0, name, (unsigned int)strlen(name));
	gnutls_x509_crt_set_basic_constraints(p->crt, !ca, -1);
	gnutls_x509_crt_set_key_usage(p->crt, ca ? GNUTLS_KEY_DIGITAL_SIGNATURE : GNUTLS_KEY_KEY_CERT_SIGN | GNUTLS_KEY_CRL_SIGN);
	if (purpose)
		gnutls_x509_crt_set_key_purpose_oid(p->crt, purpose, 0);
	if (ip) {
		unsigned char a[4] = { 0 };

		sscanf(ip, "%hhu.%hhu.%hhu.%hhu", &a[0], &a[1], &a[2], &a[3]);
		gnutls_x509_crt_set_subject_alt_name(p->crt, GNUTLS_SAN_IPADDRESS, a, sizeof(a), GNUTLS_FSAN_SET);
	}
	assert_int_equal(gnutls_x509_crt_set_key(p->crt, p->key), 0);
	assert_int_equal(gnutls_x509_crt_sign2(p->crt, ca ? ca->crt : p->crt, ca ? ca->key : p->key, GNUTLS_DIG_SHA256, 0), 0);
}

static inline void pki_file(const char *dir, const char *name, const void *data, size_t len, mode_t mode)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
	assert_true(fd >= 0);
	assert_int_equal(fchmod(fd, mode), 0);
	assert_int_equal(write(fd, data, len), (ssize_t)len);
	close(fd);
}

/* WHO-cert.pem, and WHO-key.pem if @key. */
static inline void pki_write(const struct pki *p, const char *dir, const char *who, bool key)
{
	gnutls_datum_t d;
	char name[64];

	snprintf(name, sizeof(name), "%s-cert.pem", who);
	assert_int_equal(gnutls_x509_crt_export2(p->crt, GNUTLS_X509_FMT_PEM, &d), 0);
	pki_file(dir, name, d.data, d.size, 0644);
	gnutls_free(d.data);
	if (!key)
		return;
	snprintf(name, sizeof(name), "%s-key.pem", who);
	assert_int_equal(gnutls_x509_privkey_export2(p->key, GNUTLS_X509_FMT_PEM, &d), 0);
	pki_file(dir, name, d.data, d.size, 0600);
	gnutls_free(d.data);
}

/* ca-crl.pem, in which @gone stands. */
static inline void pki_revoke(const struct pki *ca, const struct pki *gone, const char *dir)
{
	static unsigned char number[] = { 1 };
	gnutls_x509_crl_t crl;
	gnutls_datum_t d;
	time_t now = time(NULL);

	assert_int_equal(gnutls_x509_crl_init(&crl), 0);
	gnutls_x509_crl_set_version(crl, 2);
	gnutls_x509_crl_set_this_update(crl, now - PKI_DAY);
	gnutls_x509_crl_set_next_update(crl, now + PKI_DAY);
	gnutls_x509_crl_set_number(crl, number, sizeof(number));
	assert_int_equal(gnutls_x509_crl_set_crt(crl, gone->crt, now - PKI_DAY), 0);
	assert_int_equal(gnutls_x509_crl_sign2(crl, ca->crt, ca->key, GNUTLS_DIG_SHA256, 0), 0);
	assert_int_equal(gnutls_x509_crl_export2(crl, GNUTLS_X509_FMT_PEM, &d), 0);
	pki_file(dir, "ca-crl.pem", d.data, d.size, 0644);
	gnutls_free(d.data);
	gnutls_x509_crl_deinit(crl);
}

#define PKI_KEY	"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

/* A directory that goes with pki_rmdir(). */
static inline void pki_tmp(char dir[64])
{
	strcpy(dir, "/tmp/lockstep-pki-XXXXXX");
	assert_non_null(mkdtemp(dir));
}

static inline void pki_rmdir(const char *dir)
{
	static const char *const names[] = { "ca-cert.pem", "ca-crl.pem", "server-cert.pem", "server-key.pem", "client-cert.pem",
					     "client-key.pem", "keys.psk" };
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	assert_int_equal(rmdir(dir), 0);
}

#endif
