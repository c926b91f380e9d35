/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_TLS_H
#define BASE_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"

/*
 * TLS 1.3 by gnutls, for the link and the NBD server: what this side shows and demands (struct tls, tls.c), and one
 * connection (struct tls_session, tls_session.c). Both sides always prove who they are.
 */
struct tls;
struct tls_session;

#define TLS_DEF_USER	"qemu"	/* whose key it is, as with QEMU's tls-creds-psk */
#define TLS_KEY_LEN	32	/* bytes of an exported key */

enum tls_limit {
	TLS_MAX_FILE = 1 << 20,	/* bytes of a file with keys or certificates */
	TLS_MIN_KEY = 16,	/* bytes of a pre-shared key */
	TLS_MAX_USER = 63,	/* bytes of a user's name */
	TLS_WHY = 200,		/* bytes of a sentence, NUL included */
};

enum tls_role {
	TLS_SERVER = 1,
	TLS_CLIENT = 2,
	TLS_BOTH = TLS_SERVER | TLS_CLIENT,
};

struct tls_cfg {
	enum tls_role role;	/* which files are needed */
	const char *dir;	/* with QEMU's names: ca-cert.pem, server-cert.pem, client-key.pem, ...; or NULL */
	const char *psk_file;	/* lines user:hexkey, or a directory with keys.psk; or NULL */
	/* Whose key is used and the only one that is let in; NULL: all users of the file, a server's only */
	const char *psk_user;
};

/*
 * tls_new() - read keys or certificates
 * @cfg: exactly one of dir and psk_file; nothing of it is kept
 *
 * What is read now is used until tls_free() (but keys of all users are read again at each handshake). A file with a key
 * that others than its owner can read or write is refused.
 * Return: to be freed after the last of its sessions; NULL with @e
 */
struct tls *tls_new(const struct tls_cfg *cfg, struct err *e);
void tls_free(struct tls *t);

/* tls_name() - "psk" or "x509" */
const char *tls_name(const struct tls *t);

/*
 * tls_begin() - one connection
 * @fd:     connected, nonblocking; stays the caller's, and open until tls_end()
 * @server: this side is TLS's server
 * @peer:   X.509, not the server: the name or address that the other side's certificate must bear; NULL: any. Kept:
 *          must outlive the handshake
 *
 * A session is used by one thread at a time.
 * Return: the session, or NULL without memory
 */
struct tls_session *tls_begin(struct tls *t, int fd, bool server, const char *peer);

/* tls_handshake() - go on. Return: 0: done; -EAGAIN: when the descriptor is ready; -errno, see tls_why() */
int tls_handshake(struct tls_session *s);

/* tls_alert() - after a handshake that has failed, tell the peer why; one attempt: who does not read may do without */
void tls_alert(struct tls_session *s);

/* tls_first() - the first bytes that ever came, at most 4, to tell who speaks something else. Return: how many */
size_t tls_first(const struct tls_session *s, uint8_t out[4]);

/* tls_why() - what the last error was, a sentence; "" when there was none, or -errno says it all */
const char *tls_why(const struct tls_session *s);

/*
 * tls_read() - as much as is there, up to @n bytes
 *
 * Return: bytes; 0: the end, said by the peer or by its kernel; -EAGAIN: nothing now, the descriptor will tell;
 * -EBADMSG: what came is not the peer's; -errno of the network
 */
ssize_t tls_read(struct tls_session *s, void *to, size_t n);

/*
 * tls_writev() - as much as the kernel takes
 *
 * What was not taken must be offered again first, the same bytes, in whatever pieces: some of it is encrypted already.
 * Return: bytes that the kernel has; -EAGAIN; -errno of the network (what has come can still be read)
 */
ssize_t tls_writev(struct tls_session *s, const struct iovec *iov, int n);

/* tls_wants_write() - whether something encrypted waits for the kernel to take it */
bool tls_wants_write(const struct tls_session *s);

/* tls_pending() - whether tls_read() would yield something though the descriptor may not be readable */
bool tls_pending(struct tls_session *s);

/*
 * tls_key() - a key that only the two ends of this connection know (TLS exporter, RFC 8446 7.5)
 * @label: what it is for
 *
 * Return: 0, or -EPROTO before the handshake is done
 */
int tls_key(struct tls_session *s, const char *label, uint8_t key[TLS_KEY_LEN]);

/* tls_bye() - tell the other side that nothing follows (close_notify); one attempt */
void tls_bye(struct tls_session *s);

/* tls_end() - free; NULL is fine */
void tls_end(struct tls_session *s);

/* tls_rekey_after() - for tests: change the sending key each @n records */
void tls_rekey_after(struct tls_session *s, uint64_t n);

#endif
