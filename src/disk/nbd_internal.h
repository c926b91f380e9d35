/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_NBD_INTERNAL_H
#define DISK_NBD_INTERNAL_H

/*
 * What the files of the NBD server share; nobody else includes it. Who calls whom:
 *
 *	nbd_server.c	exports, the list of connections, statistics: the public face
 *	nbd_listen.c	sockets that are listened at
 *	nbd_conn.c	one connection's bytes, in and out, and when it may be read from
 *	nbd_greet.c	negotiation
 *	nbd_request.c	transmission: take a request, check it, give it to the device
 *	nbd_reply.c	transmission: what is answered
 * TLS is base/tls.h's.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/cursor.h"
#include "base/loop.h"
#include "base/tls.h"
#include "disk/nbd_server.h"
#include "disk/nbd_wire.h"

enum nbd_inner_limit {
	NBD_MAX_OPTION = 32768,		/* bytes of an option that are looked at; more is skipped and refused */
	NBD_MAX_SKIP = 1 << 20,		/* bytes of an option; more ends the connection */
	NBD_MAX_OUT = 256 << 10,	/* bytes of option replies that wait; beyond it no option is read */
	NBD_MAX_CONN_HELD = 64 << 20,	/* bytes of buffers of one connection's requests */
	NBD_MAX_HELD = 512 << 20,	/* of all; a connection that holds none may have one request nevertheless */
	NBD_IN_BUF = 64 << 10,
	NBD_HEAD_BUF = 224,		/* a reply without its data */
	NBD_IOVS = 32,
	NBD_RECVS = 16,			/* reads from one connection in a turn of the loop */
	NBD_GREET_S = 60,		/* seconds from the connection to the end of the negotiation */
};

struct nbd_conn;

/* A piece of output. */
struct nbd_seg {
	struct nbd_seg *next;
	const uint8_t *p;
	size_t len;
	struct nbd_req *req;	/* is over when this has been sent; or NULL */
	bool heap;		/* the segment itself is freed then */
};

/* A request, from the arrival of its head until its reply has been sent. */
struct nbd_req {
	struct blk_req r;
	struct nbd_conn *c;
	struct nbd_req *next;	/* free ones */
	uint64_t cookie, off;
	uint32_t len;
	uint16_t cmd, flags;
	size_t held;		/* bytes of @buf */
	uint8_t *buf;		/* data of READ and WRITE; extents of BLOCK_STATUS, then their reply */
	struct nbd_seg head_seg, body_seg;
	uint8_t head[NBD_HEAD_BUF];
};

struct nbd_exp {
	struct nbd_exp *next;
	char *name, *description;
	struct blk *blk;
	bool readonly;
	bool gone;		/* not in the list any more; freed with its last connection */
	unsigned int max_conns, conns;
};

struct nbd_listener {
	struct nbd_listener *next;
	struct nbd_server *s;
	int id;
	struct loop_fd watch;	/* fd -1: not listened at any more; freed with its last connection */
	struct loop_timer pause;	/* descriptors had run out */
	struct tls *tls;
	char *unix_path;
	dev_t dev;
	ino_t ino;
	uint16_t port;
	unsigned int conns;
};

enum nbd_state {
	NBD_ST_FLAGS,		/* the client's flags are awaited */
	NBD_ST_OPTION,		/* an option's head */
	NBD_ST_OPTION_BODY,
	NBD_ST_OPTION_SKIP,	/* an option that is too large passes by */
	NBD_ST_TLS,		/* handshake of TLS */
	NBD_ST_REQUEST,		/* a request's head */
	NBD_ST_PAYLOAD,		/* data of @cur */
	NBD_ST_PAYLOAD_SKIP,	/* of a WRITE that is refused */
	NBD_ST_CLOSING,		/* nothing is read; what is under way is answered, then it is closed */
	NBD_ST_DEAD,		/* closed; freed when its devices have answered */
};

struct nbd_conn {
	struct nbd_conn *next;
	struct nbd_server *s;
	struct nbd_listener *listener;	/* NULL: adopted */
	enum nbd_state st;
	struct loop_fd watch;
	uint32_t watched;		/* EPOLLIN, EPOLLOUT */
	struct loop_timer kick;		/* at the end of this turn: go on */
	struct loop_timer greet;
	struct tls_session *tls;	/* NULL: in the clear */
	bool in_tls;			/* the handshake is done */

	uint8_t *in;			/* NBD_IN_BUF; [in_at, in_end) is there */
	size_t in_at, in_end;

	struct nbd_seg *out, **out_tail;
	size_t out_bytes;
	bool out_blocked;		/* the socket takes no more for now */

	/* Negotiation. */
	uint32_t client_flags;
	uint32_t opt, opt_len;
	bool structured;
	bool allocation;		/* base:allocation was chosen, for the export @meta_name */
	char *meta_name;
	struct nbd_exp *exp;

	/* Transmission. */
	struct nbd_req *reqs, *free_reqs;	/* NBD_MAX_FLIGHT */
	unsigned int n_busy;		/* requests that are not free */
	unsigned int n_device;		/* of these, given to the device */
	size_t held;
	struct nbd_req *cur;
	size_t got;			/* bytes of the payload that are there, or have been skipped */
	uint32_t refusal;		/* NBD error of what is being skipped */
	const char *why;		/* its sentence */
	bool short_of_memory;		/* waits for others to give some back */
};

struct nbd_server {
	struct loop *loop;
	struct nbd_exp *exports;
	unsigned int n_exports;
	struct nbd_listener *listeners;
	int last_id;
	struct nbd_conn *conns;
	unsigned int adopted;
	size_t held;
	struct nbd_stats stats;
	struct loop_timer reap;
};

/* nbd_server.c */
struct nbd_exp *nbd_find_export(struct nbd_server *s, const uint8_t *name, size_t len);
void nbd_export_leave(struct nbd_exp *x);	/* a connection less */

/* nbd_listen.c */
int nbd_listen_open(struct nbd_listener *n, const struct nbd_listen *where, struct err *e);
void nbd_listen_close(struct nbd_listener *n);	/* the socket; the struct stays */

/* nbd_conn.c */
int nbd_conn_new(struct nbd_server *s, struct nbd_listener *n, int fd);	/* @fd is its own from now on, or closed */
void nbd_conn_die(struct nbd_conn *c);		/* at once; never frees @c */
void nbd_conn_close(struct nbd_conn *c);	/* when what is under way is answered */
void nbd_conn_kick(struct nbd_conn *c);
void nbd_conn_free(struct nbd_conn *c);		/* no request at a device */
void nbd_conn_send(struct nbd_conn *c, struct nbd_seg *g);
/* nbd_conn_take() - the next @n bytes, when all are there: true and a cursor over them */
bool nbd_conn_take(struct nbd_conn *c, size_t n, struct cursor *cur);

/* nbd_greet.c: each takes one step, and says whether it took one */
void nbd_greet(struct nbd_conn *c);
bool nbd_greet_step(struct nbd_conn *c);

/* nbd_request.c */
int nbd_transmission(struct nbd_conn *c);	/* begin it */
bool nbd_request_step(struct nbd_conn *c);
void nbd_request_abandon(struct nbd_conn *c);	/* the one whose payload is not complete */
void nbd_req_free(struct nbd_req *q);
uint8_t *nbd_req_buf(struct nbd_req *q, size_t n);

/* nbd_reply.c */
uint32_t nbd_error_of(int rc);
void nbd_reply_error(struct nbd_req *q, uint32_t error, const char *why);
void nbd_reply_done(struct nbd_req *q);		/* success without data */
void nbd_reply_read(struct nbd_req *q);
void nbd_reply_status(struct nbd_req *q);

#endif
