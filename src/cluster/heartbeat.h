/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_HEARTBEAT_H
#define CLUSTER_HEARTBEAT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "cluster/beat.h"

/*
 * Heartbeats with one peer, on a thread of its own. One instance per session (per struct pair_link): started when
 * paired, stopped when the link is gone. See heartbeat.c.
 */
struct heartbeat;

#define HB_DEF_INTERVAL	(50 * NS_PER_MS)
#define HB_DEF_SILENCE	(500 * NS_PER_MS)
#define HB_DEF_STUCK	(5 * NS_PER_S)
#define HB_MAX_PATHS	4
#define HB_PATH_NAME	80	/* bytes, NUL included */

/* How much speaks for the peer's death, by the time since it was heard last over any path. */
enum hb_level {
	HB_FINE,
	HB_LATE,		/* a quarter of cfg.silence, or two intervals where that is more */
	HB_SUSPECT,		/* half of it, likewise */
	HB_SILENCE,		/* all of it */
};
const char *hb_level_name(enum hb_level l);

enum hb_event_type {
	/*
	 * A beat of ours was answered: sent, rtt. Only the newest counts. sent 0: a beat of the peer came that answered
	 * none of ours, and will be answered by our next one.
	 */
	HB_BEAT,
	HB_SILENT,	/* nothing heard over any path: since (when the last one came, or when we began) */
	HB_HEARD,	/* after HB_SILENT: the peer is heard again */
	HB_STUCK,	/* the peer's which makes no progress: age; said once until HB_MOVING */
	HB_MOVING,	/* after HB_STUCK: which moves again */
};
const char *hb_event_name(enum hb_event_type t);

struct hb_event {
	enum hb_event_type type;
	uint64_t id;			/* heartbeat_id() of the instance: events of a stopped one may still come */
	enum beat_source which;
	nstime sent;			/* own clock: when the answered beat was sent */
	nstime rtt;
	nstime heard;			/* own clock: with BEAT, when the peer's newest beat came */
	nstime since;			/* own clock */
	nstime age;
};

struct hb_cfg {
	uint8_t session[BEAT_ID_LEN];
	uint8_t vm_id[BEAT_ID_LEN];
	uint32_t generation;
	bool listener;			/* binds its own addresses and learns the peer's; else sends to the peer's */
	struct hb_path {
		char name[HB_PATH_NAME];	/* for the log: the peer's address, or the own one while that is unknown */
		struct sockaddr_storage local;	/* @listener: address and port to bind. Else: address to send from */
		socklen_t local_len;		/* 0 only without @listener: the kernel chooses */
		struct sockaddr_storage remote;	/* without @listener: the peer's address and port */
		socklen_t remote_len;
	} paths[HB_MAX_PATHS];		/* the same number of a path on both nodes; the first one must work at the start */
	unsigned int n_paths;
	bool keyed;			/* every datagram is authenticated with @key */
	uint8_t key[BEAT_KEY_LEN];
	nstime interval;		/* 0: HB_DEF_INTERVAL */
	nstime silence;			/* 0: HB_DEF_SILENCE; at least three intervals */
	nstime stuck;			/* 0: HB_DEF_STUCK; age of the peer's progress that is reported */
	struct loop *loops[BEAT_QMP];	/* control, frames, bulk; NULL where there is none. Must outlive the instance */
	_Atomic nstime *qmp;		/* since when QMP has owed an answer; 0: it owes none. NULL: there is no QEMU */
	struct loop *control;		/* where fn is called */
	void (*fn)(void *arg, const struct hb_event *ev);
	void *arg;			/* must outlive all messages posted to @control */
};

struct hb_path_stats {
	uint64_t sent, received;
	uint64_t lost;			/* numbers after the first one heard that never came (a late one is taken off again) */
	uint64_t late;			/* came after a newer one, or twice */
	uint64_t strangers;		/* no heartbeat, or of another session, VM, path or key */
	uint64_t send_errors;
	uint64_t losses;		/* times that nothing was heard over it for cfg.silence */
	nstime rtt_min, rtt_avg, rtt_max; /* 0 before the first */
	nstime rtt_last;
	nstime heard;			/* own clock, last beat received; 0: none */
	bool up;			/* not lost at the moment */
};

struct hb_stats {
	struct hb_path_stats path[HB_MAX_PATHS];
	char name[HB_MAX_PATHS][HB_PATH_NAME];
	unsigned int n_paths;
	/* Of all paths together. */
	uint64_t sent, received, lost, late, strangers, send_errors;
	nstime rtt_min, rtt_avg, rtt_max, rtt_last;	/* avg, last: of the path that was heard last */
	nstime heard;
	enum hb_level level;
	uint64_t lates, suspects;	/* times that the level was reached */
	uint64_t silences;
	uint64_t freezes;		/* times this thread itself did not run */
	nstime frozen_max;
	uint32_t peer_generation;
	uint32_t peer_age_ms[BEAT_SOURCES];
};

/*
 * heartbeat_start() - open the sockets, start the thread
 * @cfg: copied
 *
 * The silence count begins now. Any thread. Return: the instance, or NULL with @e
 */
struct heartbeat *heartbeat_start(const struct hb_cfg *cfg, struct err *e);

/*
 * heartbeat_stop() - end the thread (waits for it: one turn, half a second when it hangs), free all; NULL is fine
 *
 * Events that were posted before may still be delivered: tell them by their id. Any thread but the heartbeat's.
 */
void heartbeat_stop(struct heartbeat *hb);

/* heartbeat_id() - differs for each instance of a process */
uint64_t heartbeat_id(const struct heartbeat *hb);

/* heartbeat_set_generation() - what the beats say from now on, e.g. after a promotion; any thread */
void heartbeat_set_generation(struct heartbeat *hb, uint32_t generation);

/* heartbeat_stats() - any thread */
void heartbeat_stats(struct heartbeat *hb, struct hb_stats *out);

#endif
