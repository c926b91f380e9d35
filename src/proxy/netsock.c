/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The socket pair between Lockstep and QEMU's stream netdev.
 *
 * Reading never stops, whatever happens to the frames: when QEMU finds the socket full while it stops the VM it
 * throws frames away, and half a large one may already be in it. Writing keeps a bounded remainder, since a frame
 * that was begun must be finished or the framing is lost. SIOCOUTQ of a unix socket counts what the other end has
 * not read, which is how the gate learns that QEMU has everything.
 */
#include "proxy/netsock.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/cursor.h"

int netsock_init(struct netsock *s, int fd)
{
	memset(s, 0, sizeof(*s));
	s->fd = fd;
	s->in = malloc(NETSOCK_IN);
	/* Address space, mostly: pages are there only while a burst is. */
	s->out = mmap(NULL, NETSOCK_OUT, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s->out == MAP_FAILED)
		s->out = NULL;
	if (!s->in || !s->out) {
		netsock_free(s);
		return -ENOMEM;
	}
	return 0;
}

void netsock_free(struct netsock *s)
{
	free(s->in);
	if (s->out)
		munmap(s->out, NETSOCK_OUT);
	s->in = s->out = NULL;
}

int netsock_fill(struct netsock *s)
{
	ssize_t n;

	if (s->in_off) {
		memmove(s->in, s->in + s->in_off, s->in_len - s->in_off);
		s->in_len -= s->in_off;
		s->in_off = 0;
	}
	n = read(s->fd, s->in + s->in_len, NETSOCK_IN - s->in_len);
	if (n == 0)
		return -EPIPE;
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : errno == ECONNRESET ? -EPIPE : -errno;
	s->in_len += (size_t)n;
	s->bytes_in += (uint64_t)n;
	return 1;
}

bool netsock_next(struct netsock *s, uint32_t max, const uint8_t **frame, uint32_t *len)
{
	for (;;) {
		size_t left = s->in_len - s->in_off;
		struct cursor c;

		if (s->skip) {
			size_t n = s->skip < left ? s->skip : left;

			s->skip -= n;
			s->in_off += n;
			if (s->skip)
				return false;
			continue;
		}
		c = cursor_of(s->in + s->in_off, left);
		*len = cursor_u32(&c);
		if (c.bad)
			return false;
		if (*len > max) {
			s->dropped_in++;
			s->in_off += 4;
			s->skip = *len;
			continue;
		}
		*frame = cursor_get(&c, *len);
		if (!*frame)
			return false;
		s->in_off += 4 + (size_t)*len;
		return true;
	}
}

bool netsock_flush(struct netsock *s)
{
	while (s->out_len) {
		ssize_t n = send(s->fd, s->out + s->out_off, s->out_len, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n <= 0)
			return false;
		s->out_off += (size_t)n;
		s->out_len -= (size_t)n;
	}
	s->out_off = 0;
	/* After a burst the memory goes back. */
	if (s->out_most > NETSOCK_HIGH)
		madvise(s->out, NETSOCK_OUT, MADV_DONTNEED);
	s->out_most = 0;
	return true;
}

int netsock_put(struct netsock *s, const uint8_t *frame, uint32_t len)
{
	uint8_t head[4];
	struct wcursor w = wcursor_of(head, sizeof(head));
	struct iovec iov[2] = { { head, 4 }, { (void *)frame, len } };
	struct msghdr mh = { .msg_iov = iov, .msg_iovlen = 2 };
	size_t done = 0;

	wcursor_u32(&w, len);
	if (netsock_flush(s)) {
		ssize_t n = sendmsg(s->fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0)
			done = (size_t)n;
		if (done == 4 + (size_t)len)
			return 0;
	}
	if (!done && s->out_len + 4 + len > NETSOCK_OUT) {
		s->dropped_out++;
		return -ENOBUFS;
	}
	if (s->out_off + s->out_len + 4 + len > NETSOCK_OUT) {
		memmove(s->out, s->out + s->out_off, s->out_len);
		s->out_off = 0;
	}
	if (done < 4) {
		memcpy(s->out + s->out_off + s->out_len, head + done, 4 - done);
		s->out_len += 4 - done;
		done = 4;
	}
	memcpy(s->out + s->out_off + s->out_len, frame + (done - 4), len - (done - 4));
	s->out_len += len - (done - 4);
	if (s->out_off + s->out_len > s->out_most)
		s->out_most = s->out_off + s->out_len;
	return 0;
}

bool netsock_quiet(struct netsock *s)
{
	int n = 0;

	if (!netsock_flush(s))
		return false;
	return ioctl(s->fd, SIOCOUTQ, &n) == 0 && n == 0;
}
