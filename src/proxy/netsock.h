/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROXY_NETSOCK_H
#define PROXY_NETSOCK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * QEMU's `-netdev stream` socket: each frame behind its length in four bytes, big-endian. Frames loop only.
 */
struct netsock {
	int fd;
	uint8_t *in;			/* bytes read and not yet taken */
	size_t in_len, in_off;
	size_t skip;			/* bytes of an oversized frame still to be thrown away */
	uint8_t *out;			/* bytes that QEMU's socket did not take yet: out_len from out_off on */
	size_t out_off, out_len, out_most;
	uint64_t bytes_in;		/* read so far */
	uint64_t dropped_in, dropped_out;	/* oversized from QEMU; no room toward QEMU */
};

#define NETSOCK_IN	(256u << 10)
/*
 * Waiting for QEMU: more than what a closed gate holds back, or a log gives once more, in one go. Beyond it frames are
 * dropped, which one copy alone then lacks. From NETSOCK_HIGH on nothing more should be asked for from outside.
 */
#define NETSOCK_OUT	(48u << 20)
#define NETSOCK_HIGH	(1u << 20)

/* netsock_init() - @fd: our end of the socket pair, nonblocking; stays the caller's */
int netsock_init(struct netsock *s, int fd);
void netsock_free(struct netsock *s);

/*
 * netsock_fill() - read once what QEMU has written
 * Return: 1 when something came, 0 when there is nothing, -EPIPE when QEMU is gone, -errno
 */
int netsock_fill(struct netsock *s);

/*
 * netsock_next() - the next whole frame that was read
 * @max: frames above this are thrown away whole and counted
 * Return: true with @frame, borrowed until the next netsock_fill(), and @len
 */
bool netsock_next(struct netsock *s, uint32_t max, const uint8_t **frame, uint32_t *len);

/* netsock_put() - write a frame, or keep what does not fit. Return: 0, or -ENOBUFS when it was dropped whole */
int netsock_put(struct netsock *s, const uint8_t *frame, uint32_t len);
/* netsock_flush() - write what was kept. Return: true when nothing is left */
bool netsock_flush(struct netsock *s);

/* netsock_quiet() - whether QEMU has read everything that was put */
bool netsock_quiet(struct netsock *s);

#endif
