/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * One connection by TLS: theory of operation
 *
 * gnutls never touches the socket; between it and the kernel lie two buffers.
 *
 * Out. A record is at most 16 KiB, and one system call for each would cost more than the cipher. So the records of one
 * tls_writev() are collected (LOT of them at most) and leave with one send(). Whoever writes must know what the kernel
 * has, since it may close next; so each record's size is remembered in the clear and encrypted, and what is told as
 * written is the records that left whole. The rest is encrypted already, and will leave as it is: it must be offered
 * again, and is then skipped (tls.h). Since there is always room for what gnutls pushes, it never learns of a full or a
 * broken connection, and goes on decrypting after a failed write: the peer's last words are to be read.
 *
 * In. The kernel is asked for much at once. So there may be records here that no poll tells of; tls_pending() does. It
 * says no once gnutls has asked in vain for more, as then only the descriptor can bring news.
 *
 * The end. A process that dies says no close_notify: its kernel closes the connection, and that must count as the end
 * (the link takes it for a sign of death). So both are the end, and a connection that is cut in the middle of a record
 * is over likewise. What is forged cannot come this far, but an end can be: TCP does not protect its FIN.
 *
 * Keys. AES-GCM may not encrypt more than some 2^24 records with one key; after REKEY records a new one is agreed on.
 */
#include "base/tls_internal.h"

#include <errno.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
	RECORD = 16384,			/* bytes in the clear that a record holds at most */
	RECORD_MORE = 256,		/* what encryption adds, at most */
	LOT = 16,			/* records that leave with one send() */
	OUT_SIZE = LOT * (RECORD + RECORD_MORE) + (64 << 10),	/* and a handshake's messages */
	IN_SIZE = 64 << 10,
};

#define REKEY	(1ull << 23)		/* records with one key: up to 128 GiB */

struct tls_session {
	gnutls_session_t g;
	const struct tls *t;
	int fd;
	bool server, done;		/* @done: the handshake is */
	int failed;			/* the handshake has, gnutls says so */
	gnutls_typed_vdata_st demand[2];
	uint64_t records, rekey;
	char why[TLS_WHY];

	uint8_t *out;			/* OUT_SIZE; [out_at, out_end) waits for the kernel */
	size_t out_at, out_end;
	struct { uint32_t plain, bytes; } lot[LOT + 1];	/* records in @out, not gone whole; bytes that are left of each */
	unsigned int lot_n;
	int tx_errno;

	uint8_t *in;			/* IN_SIZE; [in_at, in_end) gnutls has not taken yet */
	size_t in_at, in_end;
	bool dry;			/* gnutls has asked for more than there is */
	bool eof;
	int rx_errno;
	bool over;			/* tls_read() says @end from now on */
	int end;
	bool owed;			/* ... and has not yet */
	uint8_t first[4];
	size_t n_first;

	uint8_t gather[RECORD];
};

static ssize_t pull(gnutls_transport_ptr_t p, void *to, size_t n)
{
	struct tls_session *s = p;
	size_t k;
	ssize_t r;

	if (s->in_at == s->in_end) {
		do
			r = recv(s->fd, s->in, IN_SIZE, MSG_DONTWAIT);
		while (r < 0 && errno == EINTR);
		if (r <= 0) {
			int error = r < 0 ? errno : 0;

			s->dry = true;
			s->eof |= !r;
			if (r < 0 && error != EAGAIN)
				s->rx_errno = -error;
			gnutls_transport_set_errno(s->g, error);
			return r;
		}
		s->in_at = 0;
		s->in_end = (size_t)r;
	}
	k = s->in_end - s->in_at < n ? s->in_end - s->in_at : n;
	memcpy(to, s->in + s->in_at, k);
	for (size_t i = 0; i < k && s->n_first < sizeof(s->first); i++)
		s->first[s->n_first++] = s->in[s->in_at + i];
	s->in_at += k;
	return (ssize_t)k;
}

/* What is no record of the caller's (handshake, alerts, a new key) counts as a record without content. */
static ssize_t push(gnutls_transport_ptr_t p, const void *from, size_t n)
{
	struct tls_session *s = p;

	if (s->tx_errno)
		return (ssize_t)n;
	if (s->out_at) {
		memmove(s->out, s->out + s->out_at, s->out_end - s->out_at);
		s->out_end -= s->out_at;
		s->out_at = 0;
	}
	if (OUT_SIZE - s->out_end < n) {
		gnutls_transport_set_errno(s->g, EAGAIN);
		return -1;
	}
	memcpy(s->out + s->out_end, from, n);
	s->out_end += n;
	return (ssize_t)n;
}

/* Gives the kernel what waits. Return: bytes in the clear of the records that are gone whole */
static size_t flush(struct tls_session *s)
{
	size_t plain = 0, gone;
	unsigned int k = 0;
	ssize_t r;

	if (s->out_at == s->out_end || s->tx_errno)
		return 0;
	do
		r = send(s->fd, s->out + s->out_at, s->out_end - s->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (r < 0 && errno == EINTR);
	if (r < 0) {
		if (errno != EAGAIN)
			s->tx_errno = -errno;
		return 0;
	}
	s->out_at += (size_t)r;
	for (gone = (size_t)r; k < s->lot_n && gone >= s->lot[k].bytes; k++) {
		gone -= s->lot[k].bytes;
		plain += s->lot[k].plain;
	}
	if (k < s->lot_n)
		s->lot[k].bytes -= (uint32_t)gone;
	memmove(s->lot, s->lot + k, (s->lot_n - k) * sizeof(*s->lot));
	s->lot_n -= k;
	if (s->out_at == s->out_end)
		s->out_at = s->out_end = 0;
	return plain;
}

/* What gnutls has pushed since @out_end was @before becomes a record of @plain bytes. */
static void note_record(struct tls_session *s, size_t before, size_t plain)
{
	size_t bytes = s->out_end - s->out_at - before;

	if (s->lot_n && !plain && !s->lot[s->lot_n - 1].plain)
		s->lot[s->lot_n - 1].bytes += (uint32_t)bytes;
	else if (bytes)
		s->lot[s->lot_n++] = (typeof(*s->lot)){ (uint32_t)plain, (uint32_t)bytes };
}

static size_t waiting(const struct tls_session *s)
{
	return s->out_end - s->out_at;
}

static int certificates(struct tls_session *s, const char *peer)
{
	gnutls_certificate_credentials_t c = s->server ? s->t->server : s->t->client;
	unsigned int n = 0;

	if (!c || gnutls_credentials_set(s->g, GNUTLS_CRD_CERTIFICATE, c))
		return -1;
	if (s->server)
		gnutls_certificate_server_set_request(s->g, GNUTLS_CERT_REQUIRE);
	s->demand[n++] = (gnutls_typed_vdata_st){ .type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)
		(s->server ? GNUTLS_KP_TLS_WWW_CLIENT : GNUTLS_KP_TLS_WWW_SERVER) };
	if (peer && !s->server)
		s->demand[n++] = (gnutls_typed_vdata_st){ .type = GNUTLS_DT_DNS_HOSTNAME, .data = (unsigned char *)peer };
	/* In the handshake: who is not wanted is told, and gets no further. */
	gnutls_session_set_verify_cert2(s->g, s->demand, n, 0);
	return 0;
}

struct tls_session *tls_begin(struct tls *t, int fd, bool server, const char *peer)
{
	unsigned int flags = (server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
	struct tls_session *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return NULL;
	s->t = t;
	s->fd = fd;
	s->server = server;
	s->rekey = REKEY;
	s->out = malloc(OUT_SIZE);
	s->in = malloc(IN_SIZE);
	if (!s->out || !s->in || gnutls_init(&s->g, flags)) {
		s->g = NULL;
		tls_end(s);
		return NULL;
	}
	rc = gnutls_priority_set(s->g, t->priority);
	if (!rc && t->psk)
		rc = server ? gnutls_credentials_set(s->g, GNUTLS_CRD_PSK, t->psk_server) :
			      gnutls_credentials_set(s->g, GNUTLS_CRD_PSK, t->psk_client);
	else if (!rc)
		rc = certificates(s, peer);
	if (rc) {
		tls_end(s);
		return NULL;
	}
	gnutls_session_set_ptr(s->g, t);
	gnutls_handshake_set_timeout(s->g, GNUTLS_INDEFINITE_TIMEOUT);
	gnutls_transport_set_ptr(s->g, s);
	gnutls_transport_set_pull_function(s->g, pull);
	gnutls_transport_set_push_function(s->g, push);
	return s;
}

/* A sentence for what gnutls has found. */
static void explain(struct tls_session *s, int rc)
{
	gnutls_datum_t text;

	if (rc == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR &&
	    !gnutls_certificate_verification_status_print(gnutls_session_get_verify_cert_status(s->g), GNUTLS_CRT_X509,
							   &text, 0)) {
		size_t n = strlen((char *)text.data);

		while (n && (text.data[n - 1] == ' ' || text.data[n - 1] == '.'))
			text.data[--n] = 0;
		snprintf(s->why, sizeof(s->why), "the peer's certificate is not accepted: %s", (char *)text.data);
		gnutls_free(text.data);
	} else if (rc == GNUTLS_E_FATAL_ALERT_RECEIVED) {
		const char *name = gnutls_alert_get_name(gnutls_alert_get(s->g));

		snprintf(s->why, sizeof(s->why), "the peer does not accept this side's %s (alert: %s)", s->t->psk ? "key" :
			 "certificate", name ? name : "unknown");
	} else if (!s->done && s->server && (rc == GNUTLS_E_RECEIVED_ILLEGAL_PARAMETER || rc == GNUTLS_E_NO_CIPHER_SUITES ||
					     rc == GNUTLS_E_INSUFFICIENT_CREDENTIALS)) {
		snprintf(s->why, sizeof(s->why), "the peer has %s (TLS: %s)", s->t->psk ? "another key, or none" :
			 "no certificate, or speaks an older TLS", gnutls_strerror(rc));
	} else if (!s->done && s->t->psk && rc == GNUTLS_E_INSUFFICIENT_CREDENTIALS) {
		snprintf(s->why, sizeof(s->why), "the peer does not accept this side's key: it wants certificates, or has "
			 "another key");
	} else {
		snprintf(s->why, sizeof(s->why), "TLS with %s: %s", s->t->psk ? "a key" : "certificates", gnutls_strerror(rc));
	}
}

/* Both must have shown who they are; anything else is a mistake in this file. */
static bool proven(struct tls_session *s)
{
	unsigned int n = 0;

	if (gnutls_protocol_get_version(s->g) != GNUTLS_TLS1_3)
		return false;
	if (!s->t->psk)
		return gnutls_auth_get_type(s->g) == GNUTLS_CRD_CERTIFICATE && gnutls_certificate_get_peers(s->g, &n) && n;
	return gnutls_auth_get_type(s->g) == GNUTLS_CRD_PSK && (!s->server || gnutls_psk_server_get_username(s->g));
}

static int handshake_failed(struct tls_session *s, int rc)
{
	if (s->rx_errno)
		return s->rx_errno;
	if (s->eof && gnutls_error_is_fatal(rc) && rc != GNUTLS_E_FATAL_ALERT_RECEIVED) {
		snprintf(s->why, sizeof(s->why), "the peer closed the connection during the handshake of TLS");
		return -ECONNRESET;
	}
	explain(s, rc);
	s->failed = rc;
	return -EPROTO;
}

void tls_alert(struct tls_session *s)
{
	size_t before = waiting(s);

	if (!s->failed)
		return;
	gnutls_alert_send_appropriate(s->g, s->failed);
	note_record(s, before, 0);
	flush(s);
}

int tls_handshake(struct tls_session *s)
{
	int rc = 0;

	s->dry = false;
	flush(s);
	while (!s->done) {
		size_t before = waiting(s);

		rc = gnutls_handshake(s->g);
		s->done = !rc;
		note_record(s, before, 0);
		flush(s);
		/* Else a warning, or something after which it wants to be called again. */
		if (!rc || gnutls_error_is_fatal(rc) || s->dry || waiting(s))
			break;
	}
	/* A failed write is no reason yet: the peer may have said why it closes. */
	if (rc && gnutls_error_is_fatal(rc))
		return handshake_failed(s, rc);
	if (rc || (waiting(s) && !s->tx_errno))
		return -EAGAIN;
	if (proven(s))
		return 0;
	snprintf(s->why, sizeof(s->why), "TLS was agreed on without a proof of who the peer is");
	return -EPROTO;
}

size_t tls_first(const struct tls_session *s, uint8_t out[4])
{
	memcpy(out, s->first, s->n_first);
	return s->n_first;
}

const char *tls_why(const struct tls_session *s)
{
	return s->why;
}

static int read_ended(struct tls_session *s, int rc)
{
	if (!rc || (s->eof && s->dry))
		return 0;
	if (s->rx_errno)
		return s->rx_errno;
	explain(s, rc);
	return -EBADMSG;
}

ssize_t tls_read(struct tls_session *s, void *to, size_t n)
{
	size_t got = 0;

	s->dry = false;
	while (got < n && !s->over) {
		ssize_t r = gnutls_record_recv(s->g, (uint8_t *)to + got, n - got);

		if (r > 0) {
			got += (size_t)r;
		} else if (!r || gnutls_error_is_fatal((int)r)) {
			s->over = true;
			s->end = read_ended(s, (int)r);
		} else if (s->dry) {
			break;	/* else it was a message of TLS itself */
		}
	}
	s->owed = s->over && got;
	if (got || !n)
		return (ssize_t)got;
	return s->over ? s->end : -EAGAIN;
}

bool tls_pending(struct tls_session *s)
{
	return s->owed || (!s->over && (gnutls_record_check_pending(s->g) || (s->in_at < s->in_end && !s->dry)));
}

/* Return: 0, or -EPROTO */
static int new_key(struct tls_session *s)
{
	size_t before = waiting(s);
	int rc = gnutls_session_key_update(s->g, 0);

	note_record(s, before, 0);
	if (rc)
		return -EPROTO;
	s->records = 0;
	return 0;
}

/* One more record, from @at bytes into the pieces. Return: bytes in the clear, 0: nothing is left, -errno */
static ssize_t seal(struct tls_session *s, const struct iovec *iov, int n, size_t at)
{
	const uint8_t *p = NULL;
	size_t k = 0, before;
	ssize_t r;

	for (int i = 0; i < n && k < RECORD; i++) {
		size_t len = iov[i].iov_len, take;

		if (at >= len) {
			at -= len;
			continue;
		}
		p = (const uint8_t *)iov[i].iov_base + at;
		take = len - at < RECORD - k ? len - at : RECORD - k;
		at = 0;
		if (!k && take == RECORD) {
			k = RECORD;	/* straight from where it is */
			break;
		}
		memcpy(s->gather + k, p, take);
		p = s->gather;
		k += take;
	}
	if (!k)
		return 0;
	if (++s->records > s->rekey && new_key(s))
		return -EPROTO;
	before = waiting(s);
	r = gnutls_record_send(s->g, p, k);
	if (r != (ssize_t)k)
		return -EPROTO;
	note_record(s, before, k);
	return r;
}

ssize_t tls_writev(struct tls_session *s, const struct iovec *iov, int n)
{
	size_t gone = flush(s), sealed = gone;
	ssize_t r = 1;

	if (!s->done || s->tx_errno)
		return gone ? (ssize_t)gone : s->tx_errno ? s->tx_errno : -EPROTO;
	while (!waiting(s) && r > 0) {
		/* Room for a new key beside them. */
		while (s->lot_n < LOT - 1 && (r = seal(s, iov, n, sealed)) > 0)
			sealed += (size_t)r;
		if (r < 0)
			s->tx_errno = (int)r;
		gone += flush(s);
	}
	if (gone)
		return (ssize_t)gone;
	return s->tx_errno ? s->tx_errno : waiting(s) ? -EAGAIN : 0;
}

bool tls_wants_write(const struct tls_session *s)
{
	return s->out_at < s->out_end && !s->tx_errno;
}

int tls_key(struct tls_session *s, const char *label, uint8_t key[TLS_KEY_LEN])
{
	if (!s->done || gnutls_prf_rfc5705(s->g, strlen(label), label, 0, NULL, TLS_KEY_LEN, (char *)key))
		return -EPROTO;
	return 0;
}

void tls_bye(struct tls_session *s)
{
	size_t before = waiting(s);

	if (!s->done)
		return;
	gnutls_bye(s->g, GNUTLS_SHUT_WR);
	if (s->lot_n <= LOT)
		note_record(s, before, 0);
	flush(s);
}

void tls_end(struct tls_session *s)
{
	if (!s)
		return;
	if (s->g)
		gnutls_deinit(s->g);
	free(s->out);
	free(s->in);
	explicit_bzero(s->gather, sizeof(s->gather));
	free(s);
}

void tls_rekey_after(struct tls_session *s, uint64_t n)
{
	s->rekey = n;
}
