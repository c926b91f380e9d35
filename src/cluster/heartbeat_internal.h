/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to heartbeat.c (thread, suspicion, events) and hb_path.c (sockets, datagrams). Nobody else includes this. */
#ifndef CLUSTER_HEARTBEAT_INTERNAL_H
#define CLUSTER_HEARTBEAT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "cluster/heartbeat.h"

enum hb_limit {
	HB_FREEZE = 5,		/* intervals without running that count as frozen */
	HB_RECORD = 64,		/* own beats whose send time is remembered */
	HB_POSTS = 8,		/* events that may wait in the control loop's queue */
	HB_READ = 64,		/* datagrams read in one turn */
	HB_JOIN_MS = 500,	/* how long heartbeat_stop() waits for the thread */
};
#define HB_REOPEN	NS_PER_S	/* between two attempts to open a path's socket anew */
#define HB_LOG_AGAIN	(10 * NS_PER_S)	/* between two lines that the peer is late */

enum hb_life { HB_RUNS, HB_ENDED, HB_ABANDONED };

/* One way to the peer. Its own thread's only, but for st (heartbeat.lock). */
struct hb_way {
	struct heartbeat *hb;
	unsigned int n;			/* from 0 */
	struct hb_path cfg;
	struct loop_fd watch;		/* fd -1: not open at the moment */
	nstime opened_at;		/* the last attempt */
	bool broken;			/* sending has failed: worth a new socket */
	bool known;			/* cfg.remote is the peer's address */
	uint64_t peer_seq;		/* newest heard */
	nstime peer_sent, peer_heard;	/* its send time (peer's clock), when it came (ours) */
	uint64_t echoed;		/* newest of ours that came back */
	nstime quiet_from;		/* silence is counted from here */
	uint64_t rtt_sum, rtt_n;
	struct hb_path_stats st;
};

struct heartbeat {
	struct hb_cfg cfg;
	uint64_t id;
	struct loop *loop;
	pthread_t thread;
	atomic_int life;		/* enum hb_life */
	struct hb_way way[HB_MAX_PATHS];
	struct loop_timer tick, quiet;
	_Atomic uint32_t generation;

	nstime due;			/* when the next tick should run */
	nstime thaw;			/* since when we have run without a freeze */
	nstime quiet_from;		/* silence on all paths is counted from here */
	nstime sent_at[HB_RECORD];
	uint64_t seq;
	uint64_t heard_seq;		/* newest of the peer's over any path */
	uint64_t echoed;		/* newest of ours that the peer has heard over any */
	enum hb_level level, worst;	/* now; the highest since the peer was fine */
	nstime rtt;			/* the last one measured */
	nstime logged_late;
	nstime ping_at[BEAT_QMP];

	/* What the control loop should know, and what it was told. */
	bool beat_new, told_silent;
	uint32_t stuck, told_stuck;	/* bits: enum beat_source */
	struct hb_event beat;
	nstime last_post;
	int posted;

	pthread_mutex_t lock;		/* guards the statistics */
	unsigned int newest;		/* the path that was heard last */
	struct hb_stats st;		/* but for what each path has of its own */
};

/* heartbeat.c */
/* hb_check_frozen() - at the start of each callback: have we been away? */
void hb_check_frozen(struct heartbeat *hb, nstime now);
/* hb_heard() - a beat that counts has come; @b may be older than one that came over another path */
void hb_heard(struct heartbeat *hb, const struct beat *b, nstime now);
/* hb_report() - tell the control loop what has changed, as far as it takes something */
void hb_report(struct heartbeat *hb, nstime now);

/* hb_path.c */
/* way_open() - make the socket and watch it. Return: 0, or -errno with @e */
int way_open(struct hb_way *w, struct err *e);
void way_close(struct hb_way *w);
/* way_send() - @b, with what belongs to this path put in */
void way_send(struct hb_way *w, struct beat *b, nstime now);
/* way_look() - is it lost? Logged once for each change */
void way_look(struct hb_way *w, nstime now);

#endif
