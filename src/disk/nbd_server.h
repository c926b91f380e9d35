/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_NBD_SERVER_H
#define DISK_NBD_SERVER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"
#include "disk/blk.h"

/* The NBD server: fixed newstyle, several exports, several listeners, several connections. One loop. */
struct nbd_server;

enum nbd_limit {
	NBD_MAX_EXPORTS = 64,
	NBD_MAX_CONNS = 64,		/* of one listener; one more is closed at once */
	NBD_MAX_FLIGHT = 64,		/* requests of one connection under way; then it is not read from */
	NBD_MAX_PAYLOAD = 32 << 20,	/* bytes of a READ or WRITE; more is refused, and a WRITE ends the connection */
};

struct nbd_export {
	const char *name;	/* copied; "" is the default export */
	const char *description;
	struct blk *blk;
	bool readonly;
	unsigned int max_conns;	/* 0: no limit but NBD_MAX_CONNS */
};

struct nbd_listen {
	const char *unix_path;	/* made with mode 0600, an old socket that nobody listens at is replaced; or NULL */
	const char *host;	/* an address; anything but loopback is refused without TLS */
	uint16_t port;		/* 0: the kernel's choice, see nbd_server_port() */
	/* ca-cert.pem, server-cert.pem, server-key.pem; a client without a certificate of this CA is refused; or NULL */
	const char *tls_dir;
	const char *psk_file;	/* lines user:hexkey; or NULL */
};

struct nbd_stats {
	uint64_t connections, refused;	/* refused: too many, no TLS, failed handshakes */
	uint64_t reads, writes, zeroes, trims, flushes, errors;
	uint64_t bytes_read, bytes_written;
	unsigned int open;
};

struct nbd_server *nbd_server_new(struct loop *l, struct err *e);
int nbd_server_export(struct nbd_server *s, const struct nbd_export *x, struct err *e);
/*
 * nbd_server_unexport() - no new connections; those that are there are closed when their requests are answered
 *
 * The device must live until nbd_server_in_use() says that it has answered them.
 */
int nbd_server_unexport(struct nbd_server *s, const char *name);
/* nbd_server_in_use() - whether requests of clients are at @b */
bool nbd_server_in_use(const struct nbd_server *s, const struct blk *b);
/* nbd_server_listen() - Return: an id for nbd_server_port() and nbd_server_unlisten(), or -errno with @e */
int nbd_server_listen(struct nbd_server *s, const struct nbd_listen *where, struct err *e);
/* nbd_server_unlisten() - the same for a listener and the connections that have come by it; 0, or -ENOENT */
int nbd_server_unlisten(struct nbd_server *s, int id);
uint16_t nbd_server_port(struct nbd_server *s, int id);
/*
 * nbd_server_adopt() - serve a client at the other end of a connected stream socket, without TLS
 * @fd: non-blocking; the server's from now on, closed if this fails
 */
int nbd_server_adopt(struct nbd_server *s, int fd);
void nbd_server_stats(struct nbd_server *s, struct nbd_stats *out);
/* nbd_server_free() - in its loop, or when that has ended; devices must have answered what is under way */
void nbd_server_free(struct nbd_server *s);

#endif
