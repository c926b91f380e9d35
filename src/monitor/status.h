/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MONITOR_STATUS_H
#define MONITOR_STATUS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "cluster/heartbeat.h"
#include "core/ft.h"
#include "disk/disk.h"
#include "core/net.h"
#include "monitor/hist.h"
#include "monitor/monitor.h"

struct json_object;

#define STATUS_MAX_WARNINGS	8
#define STATUS_MAX_TROUBLES	4
#define STATUS_MAX_PATHS	4	/* of heartbeats */
#define STATUS_UNKNOWN		UINT64_MAX	/* of a time or an amount that nobody knows yet: null in JSON */

/* What checkpoints have cost since the start; 90 KB, owned by node.c, which adds each one. */
struct status_ckpts {
	struct hist pause;		/* ns */
	struct hist pages;
	struct hist bytes;		/* sent for it, device state included */
	struct ckpt_times last;
	uint64_t last_bytes;
};

/* status_ckpts_add() - a checkpoint is complete (FA_CKPT_DONE); @bytes: sent for it */
void status_ckpts_add(struct status_ckpts *c, const struct ckpt_times *t, uint64_t bytes);

/*
 * Everything that status shows, as plain data. node.c zeroes it, fills it and has it turned into JSON; whatever is
 * left zero shows as 0 or null. Times ending in _at are CLOCK_BOOTTIME, 0: has not happened.
 */
struct status {
	nstime now;
	const char *name;
	const char *version;		/* lockstep's */
	int pid;			/* lockstep's */
	nstime started_at;
	enum ft_role role;
	enum ft_state state;
	enum ft_reason reason;		/* of the last change of state */
	nstime state_at;
	const char *phase;		/* ft_phase() */
	uint64_t epoch;
	uint32_t generation;
	nstime checkpoint_delay;

	struct {
		bool active;
		uint32_t round;		/* pre-copy round, from 1 */
		uint64_t bytes_done, bytes_left;	/* of memory; the disks' are in disk->resync */
		uint64_t rate;		/* bytes a second, 0: unknown */
	} sync;

	uint64_t checkpoints[CAUSE_MAX];	/* ft_checkpoints() of each cause; the total is summed up */
	uint64_t aborted;			/* ft_aborted() */
	const struct status_ckpts *ckpts;	/* borrowed during the call; NULL: nothing is shown */

	struct net_stats net;
	const struct net_cfg *net_cfg;		/* limits and settings; borrowed during the call; NULL: unknown */
	const char *const *nic_ids;		/* the netdevs', as many as net_cfg->n_nics; borrowed */
	struct rules rules;			/* in force */

	struct {
		char peer[128];		/* address and port; empty: nobody is connected */
		nstime connected_at;
		nstime beat_at;		/* last heartbeat that came */
		uint64_t rtt;		/* ns, STATUS_UNKNOWN */
		uint64_t silent;	/* how often the peer was silent for the timeout */
		uint64_t bytes_sent, bytes_received;
		const char *encrypted;	/* "psk", "x509" or "no" */
	} link;
	const struct hb_stats *beat;	/* NULL: there is no peer; borrowed during the call */
	const char *suspicion;		/* hb_level_name() of it */

	bool paused;			/* ft_paused() */
	struct {
		int pid;		/* 0: does not run */
		char version[64];
		char state[32];		/* "running", "paused", as QMP says it; may be empty */
	} qemu;

	struct {
		uint64_t guest;		/* bytes of guest memory */
		uint64_t staged;	/* secondary: bytes in the staging area now */
		uint64_t private_pages;	/* secondary: pages that the SVM has for itself, at the last look */
		uint64_t private_limit, staged_limit;	/* bytes; then a checkpoint is asked for */
		uint64_t precopy_rounds, precopy_pages;	/* primary: between checkpoints */
		uint64_t sent_zero, sent_plain, sent_packed;	/* pages, by the form in which they were sent */
		uint64_t packed_bytes;	/* what the packed ones took */
		uint64_t pauses_for_link;	/* pauses in which the copy buffer was full and the VM stood until it was sent */
		uint64_t pool;		/* secondary: bytes of memory that staging has now */
		uint64_t limit_private, limit_staged;	/* how often a checkpoint was asked for at a limit */
		uint64_t limit_full;	/* how often the SVM was stopped at twice its limit */
		enum ft_memory mapping;		/* whether the VM's memory can be protected */
		uint64_t shared_pages, share_pieces;	/* promoted: written to the image, and in how many stops */
		nstime share_longest;		/* the longest of them */
		uint64_t buffered;	/* primary: bytes copied and not yet sent */
	} memory;

	const struct disk_stats *disk;	/* NULL: the VM has no disks; borrowed during the call */
	const char *const *disk_ids;	/* as many as n_disks */
	unsigned int n_disks;
	uint64_t debt_lost;

	struct {			/* the last failover or loss of the peer that this node has seen */
		nstime at;
		enum ft_reason reason;
		nstime took;		/* from the notice of the death to running and open */
		bool took_over;		/* the VM came to this node; else it went on here without the other one */
		nstime gap;		/* nobody served: from the peer's last sign of life that is known to output; STATUS_UNKNOWN */
		int64_t wall;		/* when it was noticed, microseconds since 1970 */
		bool over;		/* protected again since */
	} failover;

	struct {			/* who decides between two that are cut off; see cluster/ */
		const char *kind;	/* NULL: there is none */
		bool lost;		/* it does not answer */
	} witness;

	struct {
		char name[128];		/* as people know it */
		bool silent;
	} paths[STATUS_MAX_PATHS];	/* on which heartbeats go, while there is a peer */
	unsigned int n_paths;
	nstime hybrid_at;		/* hybrid since; 0: the copies are compared */
	bool svm_stuck;			/* the secondary's copy stands at its limit of memory */

	struct monitor_stats monitor;
	const char *warnings[STATUS_MAX_WARNINGS];	/* up to the first NULL */
	const char *troubles[STATUS_MAX_TROUBLES];	/* further reasons for "degraded", likewise */
};

/* status_json() - the answer to __lockstep_status. Return: the caller's object, NULL without memory */
struct json_object *status_json(const struct status *s);

/* status_failover_json() - the last failover, when, why, and its gap; NULL: there was none; as above */
struct json_object *status_failover_json(const struct status *s);

/* status_ckpt_json() - one checkpoint: answer to __lockstep_checkpoint, and the event CHECKPOINT; as above */
struct json_object *status_ckpt_json(const struct ckpt_times *t, uint64_t bytes);

/* status_state_json() - the event STATE (FA_ANNOUNCE): role, state, reason, protected, epoch, generation; as above */
struct json_object *status_state_json(enum ft_role role, enum ft_state state, enum ft_reason reason, uint64_t epoch,
				      uint32_t generation);

/*
 * status_text() - print what status_json() made, for people
 * @s: an object as status_json() makes it; what is missing or of another type is left out
 */
void status_text(struct json_object *s, FILE *f);

/* status_ckpt_text() - the same for status_ckpt_json(), one line */
void status_ckpt_text(struct json_object *c, FILE *f);

#endif
