/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_SINK_H
#define BASE_SINK_H

#include <stddef.h>
#include <sys/uio.h>

/*
 * A sink takes whole messages toward the peer without saying what carries them: the parts that produce bulk data
 * (proxy, engine) write into one, node.c binds it to a connection once, and so neither part imports the other.
 */
struct sink {
	/*
	 * Take one message made of @n pieces, copied before the call returns.
	 * Return: 0, -EAGAIN when there is no credit (nothing was taken), -EPIPE when the peer is gone
	 */
	int (*put)(void *arg, const struct iovec *iov, int n);
	void *arg;
};

static inline int sink_put(struct sink *s, const struct iovec *iov, int n)
{
	return s->put(s->arg, iov, n);
}

#endif
