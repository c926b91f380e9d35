/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BENCH_LOAD_H
#define BENCH_LOAD_H

/*
 * The load client of bench/compare: what its files share. The guest's services are described in guest/PROTOCOL.md.
 *
 * One thread. Times are CLOCK_MONOTONIC in seconds, as time.monotonic() has them in Python.
 */

#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define LOAD_SERVICE_PORT 7000
#define LOAD_REDIS_PORT 6379
#define LOAD_UDP_PORT 5300
#define LOAD_TEXT 64		/* bytes of an echo's answer, its LF included, and of a datagram */
#define LOAD_CONNS_MAX 500	/* the service takes 512 */
#define LOAD_SAMPLES_MAX (1u << 22)

struct load_options {
	const char *host;
	double warm, seconds;	/* answers count when they come between warm and warm + seconds from the beginning */
	double patience;	/* s without any answer, after which the run is given up */
	double interval;	/* s between two questions of a connection; 0: as fast as the answers come */
	unsigned int conns;
	size_t size;		/* bytes of a transfer */
};

/* What a run has found. Zeroed before; samples belong to it. */
struct load_result {
	double *samples;	/* s: latencies, or times of transfers */
	unsigned int count, dropped;	/* dropped: those beyond LOAD_SAMPLES_MAX */
	double seconds;		/* how long it was counted */
	double gap;		/* s: the longest silence towards a connection that waited (since the last mark) */
	unsigned long answers;	/* all of them, those of the warm-up included */
	unsigned long lost;	/* datagrams that nobody has answered */
	double partial;		/* bytes/s of a transfer that was not at its end when patience was, or 0 */
	char error[160];	/* empty: none */
};

enum load_ask {
	LOAD_ECHO,
	LOAD_INCR,
	LOAD_RANDOM,
};

/* Set by SIGTERM, SIGINT: the run ends as if its time were over. */
extern volatile int load_stop;
/* Set by SIGUSR1: gaps are counted anew. The run takes it back. */
extern volatile int load_mark;

double load_now(void);

/*
 * load_fail() - keeps the first error of a run
 * Returns -1.
 */
int load_fail(struct load_result *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* load_sample() - keeps one latency of seconds */
void load_sample(struct load_result *r, double seconds);

/* load_counts() - whether an answer at now falls into the time that is counted, for a run that began at begun */
bool load_counts(const struct load_options *o, double begun, double now);

/* load_over() - whether the run's time is over, or somebody has ended it */
bool load_over(const struct load_options *o, double begun, double now);

/*
 * load_connect() - a connected non-blocking socket, with TCP_NODELAY for SOCK_STREAM
 * Returns the socket, or -1 with the error in r.
 */
int load_connect(const struct load_options *o, struct load_result *r, int type, int port);

/*
 * load_wait() - until events (of poll()) on fd, for at most seconds
 * Returns 1, or 0 when the time is over or a signal came.
 */
int load_wait(int fd, short events, double seconds);

/* load_words() - an echo's question for number n into buf[LOAD_TEXT + 8]; returns its length */
size_t load_words(char *buf, uint64_t n);

/* The runs. Each returns 0, or -1 with an error in r; what was counted until then stays. */
int load_ask(const struct load_options *o, enum load_ask kind, struct load_result *r);
int load_new(const struct load_options *o, struct load_result *r);
int load_udp(const struct load_options *o, struct load_result *r);
int load_download(const struct load_options *o, struct load_result *r);
int load_upload(const struct load_options *o, struct load_result *r);

#endif
