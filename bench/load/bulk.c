/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Transfers, each by a connection of its own: from the question to the last byte. One is made even when time is over
 * meanwhile; one that takes longer than patience is given up, and how fast it was until then is told.
 */

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "../../guest/pattern.h"
#include "../../guest/xxh64.h"
#include "load.h"

#define SEED 7
#define READ_SIZE (256 * 1024)

/* Moves on when that is possible, until end. Returns 0, or -1 when the time is over or the connection broke. */
static int moved(int fd, ssize_t n, short events, double end, struct load_result *r)
{
	if (n > 0)
		return 0;
	if (!n || (errno != EAGAIN && errno != EINTR))
		return load_fail(r, "the transfer broke: %s", n ? strerror(errno) : "end of the stream");
	if (load_stop || load_now() >= end)
		return load_fail(r, "a transfer was not at its end in time");
	load_wait(fd, events, end - load_now());
	return 0;
}

/* Sends len bytes; *done: how many were sent when it failed. */
static int send_all(int fd, const void *data, size_t len, double end, size_t *done, struct load_result *r)
{
	size_t sent = 0;

	while (sent < len) {
		ssize_t n = send(fd, (const char *)data + sent, len - sent, MSG_NOSIGNAL);

		sent += n > 0 ? (size_t)n : 0;
		*done = sent;
		if (moved(fd, n, POLLOUT, end, r))
			return -1;
	}
	return 0;
}

/* Receives what must be these len bytes; *done: how many have come when it failed. */
static int receive_all(int fd, const char *want, size_t len, char *buf, double end, size_t *done, struct load_result *r)
{
	size_t have = 0;

	while (have < len) {
		size_t room = len - have < READ_SIZE ? len - have : READ_SIZE;
		ssize_t n = recv(fd, buf, room, 0);

		if (n > 0 && memcmp(buf, want + have, (size_t)n))
			return load_fail(r, "wrong bytes from %zu on", have);
		have += n > 0 ? (size_t)n : 0;
		*done = have;
		if (moved(fd, n, POLLIN, end, r))
			return -1;
	}
	return 0;
}

static int one(const struct load_options *o, bool up, const char *data, const char *hash, char *buf,
	       struct load_result *r)
{
	int fd = load_connect(o, r, SOCK_STREAM, LOAD_SERVICE_PORT), rc, queued = 0;
	double begun = load_now(), end = begun + o->patience;
	size_t none = 0, done = 0;
	char line[64];
	int len = up ? snprintf(line, sizeof(line), "take %zu\n", o->size) :
		  snprintf(line, sizeof(line), "send %zu %d\n", o->size, SEED);

	if (fd < 0)
		return -1;
	rc = send_all(fd, line, (size_t)len, end, &none, r);
	if (!rc && up)
		rc = send_all(fd, data, o->size, end, &done, r);
	if (!rc && up)
		rc = receive_all(fd, hash, strlen(hash), buf, end, &none, r);
	if (!rc && !up)
		rc = receive_all(fd, data, o->size + 1, buf, end, &done, r);
	if (!rc) {
		load_sample(r, load_now() - begun);
		r->answers++;
	} else if (done) {
		if (up && !ioctl(fd, SIOCOUTQ, &queued) && (size_t)queued < done)
			done -= (size_t)queued;
		r->partial = (double)done / (load_now() - begun);
	}
	close(fd);
	return rc;
}

static int transfers(const struct load_options *o, bool up, struct load_result *r)
{
	char *data = malloc(o->size + 16), *buf = malloc(READ_SIZE), hash[20];
	double begun = load_now();
	struct xxh64 h;
	size_t i;
	int rc = -1;

	if (!data || !buf) {
		load_fail(r, "no memory");
		goto out;
	}
	for (i = 0; i < o->size; i += 8) {
		uint64_t word = pattern_word(SEED, i / 8);

		memcpy(data + i, &word, 8);
	}
	data[o->size] = '\n';
	xxh64_init(&h, 0);
	xxh64_update(&h, data, o->size);
	snprintf(hash, sizeof(hash), "%016llx\n", (unsigned long long)xxh64_digest(&h));
	begun = load_now();
	do {
		rc = one(o, up, data, hash, buf, r);
		r->seconds = load_now() - begun;
	} while (!rc && !load_over(o, begun, load_now()));
out:
	free(data);
	free(buf);
	return rc;
}

int load_download(const struct load_options *o, struct load_result *r)
{
	return transfers(o, false, r);
}

int load_upload(const struct load_options *o, struct load_result *r)
{
	return transfers(o, true, r);
}
