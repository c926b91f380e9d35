/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROXY_CAPTURE_H
#define PROXY_CAPTURE_H

#include <stdint.h>

#include "base/err.h"
#include "base/loop.h"

#define CAPTURE_MAX	4		/* captures at once; one more is refused */
#define CAPTURE_BUFFER	(4u << 20)	/* bytes waiting for a reader; what comes beyond is dropped whole and counted */
#define CAPTURE_SNAPLEN	65535		/* largest limit for the bytes of a frame */

/* Where frames are looked at. */
enum capture_point {
	CAPTURE_CLIENT,		/* read from the TAP */
	CAPTURE_PVM,		/* read from the local QEMU, unless this node is the secondary */
	CAPTURE_SVM,		/* on the secondary read from the local QEMU, on the primary its OUTPUT messages */
	CAPTURE_RELEASED,	/* written to the TAP by tap_emit() */
	CAPTURE_POINTS
};

/* capture_point_name() - "client" and so on, NULL when there is no such point */
const char *capture_point_name(unsigned int point);

struct capture_cfg {
	uint32_t points;	/* 1 << enum capture_point; at least one */
	uint32_t snaplen;	/* most bytes of a frame, 0: all */
	uint64_t count;		/* end after so many frames, 0: never */
};

/* All captures of a proxy. */
struct capture {
	uint32_t points;		/* at which anybody looks; frames loop only */
	struct capture_private *p;
};

/*
 * capture_new() - no capture yet
 * @loop: the frames loop
 * @ids:  names of the @n_nics NICs, copied
 *
 * Return: NULL without memory
 */
struct capture *capture_new(struct loop *loop, unsigned int n_nics, const char *const *ids);
/* capture_free() - end all captures, with a short wait for what their readers have not got; the loop has ended */
void capture_free(struct capture *c);

/*
 * capture_start() - write pcapng into a socket until the reader closes it
 * @fd: a connected stream socket; taken, also after an error
 *
 * Control loop. A reader that closes its sending side (shutdown) asks for an orderly end: what is buffered and then the
 * statistics of each interface are written before the socket is closed.
 * Return: 0, or -errno with a sentence
 */
int capture_start(struct capture *c, const struct capture_cfg *cfg, int fd, struct err *e);

/* For capture_frame(). */
void capture_put(struct capture *c, enum capture_point point, unsigned int nic, const uint8_t *data, uint32_t len);

/* capture_frame() - a frame passes at a point; frames loop */
static inline void capture_frame(struct capture *c, enum capture_point point, unsigned int nic, const uint8_t *data,
				 uint32_t len)
{
	if (__builtin_expect(c->points & 1u << point, 0))
		capture_put(c, point, nic, data, len);
}

#endif
