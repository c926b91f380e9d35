/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MONITOR_MONITOR_H
#define MONITOR_MONITOR_H

#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"
#include "core/net.h"
#include "monitor/settings.h"
#include "proxy/capture.h"

struct json_object;
struct monitor;

#define MONITOR_MAX_CLIENTS	32		/* at once; one more gets an error and is closed */
#define MONITOR_MAX_LINE	16384		/* bytes of a request; a longer line gets an error and is skipped */
#define MONITOR_MAX_DEPTH	16		/* nested JSON of a request */
#define MONITOR_MAX_OUT		(256 * 1024)	/* bytes waiting for a reader; then it is dropped */
#define MONITOR_TURN_LINES	8		/* requests of one client that are served before others have a turn */

enum monitor_cmd_type {
	MONITOR_CHECKPOINT,	/* make a checkpoint; answer when it is LOADED, with status_ckpt_json() */
	MONITOR_SWITCH,		/* the nodes change roles; answer when that has happened */
	MONITOR_FAILOVER,	/* secondary: take over, primary: hand over; answer when that has happened */
	MONITOR_SET,		/* change settings; answer at once */
	MONITOR_RULES,		/* show or change the rules; answer at once, with the rules in force */
	MONITOR_QUIT,		/* end this node; answer at once */
	MONITOR_BLACKBOX,	/* write the black box to a file; answer at once, with its name */
	MONITOR_CAPTURE,	/* write what passes into @fd; answer at once */
	MONITOR_STOP,		/* both copies are to stand; answer when they do */
	MONITOR_CONT,		/* ... to run again */
	MONITOR_POWERDOWN,	/* press the guest's power button; answer when both copies know of it */
	MONITOR_RESET,		/* reset the guest, likewise */
};

enum monitor_rule_op { MONITOR_RULE_LIST, MONITOR_RULE_INSERT, MONITOR_RULE_DELETE, MONITOR_RULE_CLEAR };

#define MONITOR_RULE_END UINT32_MAX	/* as the place of MONITOR_RULE_INSERT: behind the last one */

/* New settings of one NIC. */
struct monitor_nic {
	char nic[SETTING_NIC_MAX + 1];	/* the netdev's id; whether there is one is not known here */
	struct net_nic_cfg cfg;		/* 0: unchanged */
};

/* One command of a client, checked: what is here is of the right type and range. */
struct monitor_cmd {
	enum monitor_cmd_type type;
	uint64_t token;			/* names the answer, when it comes later; never 0 */
	nstime checkpoint_delay;	/* MONITOR_SET: new value, NS_NEVER: unchanged */
	struct net_nic_cfg all;		/* MONITOR_SET: of all NICs, 0: unchanged; then @nics, which go before it */
	unsigned int n_nics;
	struct monitor_nic nics[NET_MAX_NICS];
	struct {			/* MONITOR_RULES */
		enum monitor_rule_op op;
		uint32_t at;		/* place, from 0: MONITOR_RULE_INSERT, MONITOR_RULE_DELETE */
		char text[RULE_TEXT_MAX];	/* MONITOR_RULE_INSERT; rule_parse() has not seen it */
	} rule;
	struct capture_cfg capture;	/* MONITOR_CAPTURE */
	int fd;				/* MONITOR_CAPTURE: what the client has handed over; given away. Else -1 */
};

/* Return of command(): the answer comes later, by monitor_reply(). */
#define MONITOR_LATER 1

/* Both are called in the loop's thread, and may call monitor_reply() and monitor_event(). */
struct monitor_ops {
	/* The answer to __lockstep_status, owned by the caller then; NULL without memory. */
	struct json_object *(*status)(void *arg);
	/*
	 * Do what a client asks.
	 * @result: what to answer, or NULL (as it comes) for {}; given away
	 *
	 * Return: 0: done; MONITOR_LATER: monitor_reply() follows; -errno with the sentence that the client gets
	 */
	int (*command)(void *arg, const struct monitor_cmd *cmd, struct json_object **result, struct err *e);
};

struct monitor_stats {
	uint64_t accepted, refused_full, refused_user, requests, bad_requests, long_lines, events;
	uint64_t closed_fds;		/* descriptors that came with a request that takes none, or too many of them */
	uint64_t dropped_slow;		/* readers that let more than MONITOR_MAX_OUT pile up */
	uint32_t clients, watchers;	/* now */
};

/*
 * monitor_new() - serve the control socket of a running VM
 * @l:    the control loop; everything happens in its thread
 * @dir:  run directory, made when missing
 * @name: the VM's name, which is taken here: a second instance of it in @dir is refused
 * @ops:  borrowed, as is @arg
 *
 * Return: the monitor, or NULL with a sentence in @e
 */
struct monitor *monitor_new(struct loop *l, const char *dir, const char *name, const struct monitor_ops *ops, void *arg,
			    struct err *e);

/* monitor_free() - end all clients, remove the socket, give the name back; not from inside an op; NULL is fine */
void monitor_free(struct monitor *m);

/*
 * monitor_reply() - the answer to a command that returned MONITOR_LATER
 * @result: given away; NULL: {}
 * @error:  NULL when it went well, else its sentence is the answer and @result is not looked at
 *
 * Must come once for each token, also when the whole pair ends. Return: 0, or -ENOENT when the client is gone
 */
int monitor_reply(struct monitor *m, uint64_t token, struct json_object *result, const struct err *error);

/*
 * monitor_event() - tell all who watch
 * @name: e.g. "STATE"; goes out as __LOCKSTEP_STATE
 * @data: given away; NULL: {}
 */
void monitor_event(struct monitor *m, const char *name, struct json_object *data);

void monitor_stats_get(const struct monitor *m, struct monitor_stats *out);

#endif
