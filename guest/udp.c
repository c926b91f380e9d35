/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * udp.c - the test guest's UDP service (protocol: PROTOCOL.md)
 *
 * One thread takes one datagram, answers it, and takes the next: the answers have the order of the requests, and each
 * is a function of its request alone. It blocks when the interface is slower than it is; what comes meanwhile waits in
 * the socket's buffer, and what does not fit there is lost, as UDP may be. An answer that cannot be sent is lost as well.
 *
 * A guest may have several addresses. The answer comes from the one that was asked: one socket serves both families, and
 * the kernel tells and is told the guest's own address (IPv4 as v4-mapped) with each datagram.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pattern.h"
#include "udp.h"
#include "xxh64.h"

enum {
	DATAGRAM_MAX = 65536,	/* more than fits into one */
	BUFFER_BYTES = 4 << 20,	/* requests that wait */
	PATTERN_MAX = 60000,	/* bytes of one answer to `s` */
	ID_BYTES = 8,		/* what the answer to `h` repeats */
	RANDOM_BYTES = 16,
};

static const char use[] = "? use: e..., h with 8 bytes or more, sN LF (N up to 60000), r";

static int fd = -1;
static uint16_t own_port;

size_t fresh_random(void *buf, size_t n)
{
	int urandom = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	size_t got = 0;
	ssize_t rc;

	/*
	 * Two copies that were equal a moment ago have the same generator state, and the kernel stirs it once a minute
	 * only: without the reseed, which mixes in the tick counter, they would give the same "random" bytes.
	 */
	if (urandom >= 0) {
		ioctl(urandom, RNDRESEEDCRNG);
		close(urandom);
	}
	while (got < n) {
		rc = getrandom((char *)buf + got, n - got, 0);
		if (rc > 0)
			got += (size_t)rc;
		else if (errno != EINTR)
			break;
	}
	return got;
}

/* Reads "sN LF". Return: N, or -1 when it is not that. */
static long pattern_length(const uint8_t *req, size_t len)
{
	long n = 0;
	size_t i;

	for (i = 1; i < len && req[i] >= '0' && req[i] <= '9'; i++) {
		n = n * 10 + (req[i] - '0');
		if (n > PATTERN_MAX)
			return -1;
	}
	return i > 1 && i < len && req[i] == '\n' ? n : -1;
}

static size_t answer_pattern(uint8_t *ans, size_t n)
{
	uint64_t w;
	size_t i;

	for (i = 0; i < n; i += sizeof(w)) {
		w = pattern_word(n, i / sizeof(w));
		memcpy(ans + i, &w, n - i < sizeof(w) ? n - i : sizeof(w));
	}
	return n;
}

static size_t answer_hash(uint8_t *ans, const uint8_t *req, size_t len)
{
	struct xxh64 h;
	char hex[17];

	xxh64_init(&h, 0);
	xxh64_update(&h, req, len);
	snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)xxh64_digest(&h));
	memcpy(ans, req, 1 + ID_BYTES);
	memcpy(ans + 1 + ID_BYTES, hex, 16);
	return 1 + ID_BYTES + 16;
}

static size_t answer_random(uint8_t *ans)
{
	static const char digit[] = "0123456789abcdef";
	uint8_t r[RANDOM_BYTES];
	size_t i, n = fresh_random(r, sizeof(r));

	for (i = 0; i < n; i++) {
		ans[2 * i] = (uint8_t)digit[r[i] >> 4];
		ans[2 * i + 1] = (uint8_t)digit[r[i] & 15];
	}
	return 2 * n;
}

/* Makes the answer to a request. Return: its length. */
static size_t make_answer(uint8_t *ans, const uint8_t *req, size_t len)
{
	uint8_t what = len ? req[0] : 0;
	long n;

	if (what == 'e') {
		memcpy(ans, req, len);
		return len;
	}
	if (what == 'h' && len >= 1 + ID_BYTES)
		return answer_hash(ans, req, len);
	if (what == 'r' && len == 1)
		return answer_random(ans);
	n = what == 's' ? pattern_length(req, len) : -1;
	if (n >= 0)
		return answer_pattern(ans, (size_t)n);
	memcpy(ans, use, sizeof(use) - 1);
	return sizeof(use) - 1;
}

/* Leaves in @m's control data only the guest's own address, as the address to send from. Return: whether it is there. */
static bool keep_own_address(struct msghdr *m)
{
	struct cmsghdr *c;
	struct in6_pktinfo info;

	for (c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
		if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO)
			break;
	if (!c)
		return false;
	memcpy(&info, CMSG_DATA(c), sizeof(info));
	/* A link-local address means something on one interface only; otherwise the routes say where to send. */
	if (!IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr))
		info.ipi6_ifindex = 0;
	c = CMSG_FIRSTHDR(m);
	c->cmsg_level = IPPROTO_IPV6;
	c->cmsg_type = IPV6_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(info));
	memcpy(CMSG_DATA(c), &info, sizeof(info));
	m->msg_controllen = CMSG_SPACE(sizeof(info));
	return true;
}

static void *serve(void *arg)
{
	static uint8_t req[DATAGRAM_MAX], ans[DATAGRAM_MAX];
	_Alignas(struct cmsghdr) char control[256];
	struct sockaddr_in6 from;
	struct iovec iov;
	struct msghdr m;
	ssize_t n;

	for (;;) {
		iov = (struct iovec){ req, sizeof(req) };
		m = (struct msghdr){ &from, sizeof(from), &iov, 1, control, sizeof(control), 0 };
		n = recvmsg(fd, &m, 0);
		/* What comes from the port of such a service may be an answer: to answer it would never end. */
		if (n < 0 || from.sin6_port == htons(own_port) || !keep_own_address(&m))
			continue;
		iov = (struct iovec){ ans, make_answer(ans, req, (size_t)n) };
		m.msg_flags = 0;
		/* An answer to what was sent to many (multicast) has no address to come from, and fails here. */
		if (sendmsg(fd, &m, 0) < 0)
			continue;
	}
	return NULL;
}

int udp_start(uint16_t port)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	int one = 1, zero = 0, size = BUFFER_BYTES;
	pthread_t thread;

	own_port = port;
	fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof(one)) ||
	    bind(fd, (struct sockaddr *)&a, sizeof(a)))
		return -errno;
	return -pthread_create(&thread, NULL, serve, NULL);
}
