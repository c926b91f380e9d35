/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BENCH_PROXY_H
#define BENCH_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "core/net.h"

/*
 * What the files of the benchmark share. proxy_script.c plays a client and two guests with frames that are made
 * beforehand and patched; proxy_mem.c lets two frames' machines call each other; proxy_wire.c puts sockets between.
 */

#define PB_HEAD		66u	/* Ethernet, IPv4, TCP with timestamps */
#define PB_MAX_FRAME	1514u
#define PB_MAX_FLOWS	60000u
#define PB_WINDOWS	5

enum pb_traffic { PB_ASK, PB_BULK };

enum pb_size { PB_SMALL, PB_MEDIUM, PB_LARGE, PB_SIZES };

struct pb_shape {
	const char *name;
	enum pb_traffic traffic;
	bool mixed;			/* 7 small, 4 medium, 1 large of 12 */
	enum pb_size size;		/* where not mixed */
	uint32_t flows;
	uint32_t depth;			/* PB_ASK: requests under way at once */
};

/* A frame of one size and direction that lacks only what differs from segment to segment. */
struct pb_frame {
	uint8_t bytes[PB_MAX_FRAME];
	uint32_t len;
	uint64_t ip_sum, tcp_sum;	/* of all that never changes */
};

/* Where one end of a connection is, in its own numbers. */
struct pb_end {
	uint32_t nxt, rcv;
	uint32_t ts_recent;
	uint32_t ts_off;
	bool open;
};

struct pb_script {
	struct pb_shape shape;
	uint32_t ms;			/* clock of the client's timestamps */
	bool same_numbers;		/* both guests number alike: for the run without machines between */
	bool check_sums;		/* look at each checksum that the client gets */
	struct pb_frame to_guest[PB_SIZES], to_client[PB_SIZES], ack, syn, syn_ack;
	struct pb_end *client, *guest[2];
	uint8_t *odd;			/* PB_BULK: a segment came that was not acknowledged yet */
	uint32_t opened, established, next, turn;
	uint32_t *todo;			/* ring of flows that the client has to acknowledge */
	uint32_t todo_head, todo_n, todo_cap;
	uint32_t under_way;		/* requests without an answer */
	uint32_t bulk_window;
	bool turn_syn;
	bool stop;			/* ask nothing new */

	/* A guest's frame: where to, and that it is there. */
	uint8_t *(*room)(void *arg, int copy);
	void (*sent)(void *arg, int copy, uint32_t len);
	void *arg;

	uint64_t in, out, bytes_in, bytes_out;	/* as the client sees it: in to the guest, out of it */
	uint64_t data_out;			/* answers, segments of data */
	uint64_t wrong;				/* anything that is not as it must be */
	char what[160];				/* the first of them */
};

int pb_script_init(struct pb_script *s, const struct pb_shape *shape, bool same_numbers);
void pb_script_free(struct pb_script *s);
/* pb_ready() - all connections are open */
bool pb_ready(const struct pb_script *s);
/* pb_client() - the next frame that the client sends, into @out. Return: its length, 0: none for now */
uint32_t pb_client(struct pb_script *s, uint8_t *out);
/* pb_client_gets() - one frame that was let out */
void pb_client_gets(struct pb_script *s, const uint8_t *f, uint32_t len);
/* pb_guest_gets() - one frame for guest @copy, which answers through room() and sent() */
void pb_guest_gets(struct pb_script *s, int copy, const uint8_t *f, uint32_t len);

/* What one shape has yielded. */
struct pb_result {
	double frames_s, gbit_s, ns_frame;	/* client side; by CPU time; the median of the windows */
	double low, high;			/* frames_s of the slowest and the fastest window */
	double wall_frames_s;
	double script_ns;			/* of ns_frame: what the script itself costs; 0: not known */
	uint64_t frames, handled;		/* in the windows: client side, and taken in by either machine */
	uint64_t rss_before, rss_after;
	struct net_stats p, s;
	uint64_t wants;				/* checkpoints asked for */
	bool ok;
	char why[512];
};

struct pb_opts {
	double window_s;
	bool quick;
};

/* One window after another: CPU time and what the client saw. */
struct pb_meter {
	double frames_s[PB_WINDOWS], gbit_s[PB_WINDOWS], wall[PB_WINDOWS];
	unsigned int n;
	double window_s, cpu0;
	nstime wall0;
	uint64_t frames0, bytes0;
};

void pb_meter_begin(struct pb_meter *m, const struct pb_script *s, double window_s);
/* pb_meter_look() - Return: whether all windows are over */
bool pb_meter_look(struct pb_meter *m, const struct pb_script *s);
void pb_meter_result(const struct pb_meter *m, struct pb_result *r);

void pb_mem(const struct pb_shape *shape, const struct pb_opts *o, struct pb_result *r);
/* pb_null() - the script with nothing between. Return: ns a frame of the client's side */
double pb_null(const struct pb_shape *shape, const struct pb_opts *o);
/* pb_wire() - the same shape through sockets */
void pb_wire(const struct pb_shape *shape, const struct pb_opts *o, struct pb_result *r);

/* pb_rss() - bytes of memory that this process has now */
uint64_t pb_rss(void);
/* pb_judge() - nothing lost, nothing different, all released by comparison */
void pb_judge(const struct pb_script *s, struct pb_result *r);
/* pb_fail() - the first reason stays */
void pb_fail(struct pb_result *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
