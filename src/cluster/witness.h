/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLUSTER_WITNESS_H
#define CLUSTER_WITNESS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/loop.h"

/*
 * The witness: who decides which of two nodes serves when they cannot ask each other (P5). It keeps one record for each
 * VM, the newest generation and the node that it belongs to, and changes it only by compare-and-swap: of two nodes that
 * claim the generation after g one is granted it, and the other one learns that it has lost. See witness.c.
 */

#define WITNESS_ID_LEN		16	/* bytes of a node's id */
#define WITNESS_NAME_MAX	63	/* bytes of a VM's name */
#define WITNESS_ENDPOINTS_MAX	8	/* of etcd */
#define WITNESS_TEXT_MAX	1024	/* bytes of --witness */
#define WITNESS_WHY_MAX		176	/* bytes of a sentence that comes with an answer; longer ones are cut */
#define WITNESS_QUEUE		8	/* questions that may be open; one more is not taken */

enum witness_kind {
	WITNESS_NONE,		/* --no-witness: each claim is granted at once */
	WITNESS_ETCD,
	WITNESS_COMMAND,	/* keeps no record: a claim runs the command, exit status 0 grants it */
	WITNESS_DISK,
};
const char *witness_kind_name(enum witness_kind k);	/* none, etcd, command, disk */

/* What --witness says. Plain data: may be copied, owns nothing. */
struct witness_spec {
	enum witness_kind kind;
	/* etcd */
	unsigned int endpoints;
	char endpoint[WITNESS_ENDPOINTS_MAX][128];	/* http://HOST:PORT or https://HOST:PORT, no slash at the end */
	char prefix[128];				/* begins and ends with a slash */
	char cacert[PATH_MAX], cert[PATH_MAX], key[PATH_MAX];	/* empty: not given */
	char user[64];
	char password_file[PATH_MAX];			/* its first line; read at witness_open() */
	/* command */
	char command[WITNESS_TEXT_MAX];
	/* disk */
	char path[PATH_MAX];
	uint64_t offset;	/* bytes at which this VM's blocks begin in the file or device */
	unsigned int node;	/* 1 or 2: which block is this node's; 0: by witness_cfg.connects */
	bool replace;		/* the block's earlier owner is gone for good, and this node takes its place */
};

/*
 * witness_spec_parse() - read the argument of --witness
 * @text: etcd:URL[,URL...][,cacert=F][,cert=F][,key=F][,user=NAME,password-file=F][,prefix=/lockstep/], command:CMD (all
 *        that follows, commas too), disk:PATH[,offset=BYTES][,node=1|2][,replace] or none
 * @s:    filled completely
 *
 * Looks at the text only: opens nothing. Return: 0, or -EINVAL with @e, a sentence that names what is wrong
 */
int witness_spec_parse(const char *text, struct witness_spec *s, struct err *e);

/* witness_keeps_record() - whether this kind has a record at all: etcd and disk. Others answer a look WITNESS_UNKNOWN. */
bool witness_keeps_record(enum witness_kind k);

/* The record. generation 0: there is none. */
struct witness_record {
	uint32_t generation;
	uint8_t owner[WITNESS_ID_LEN];
};

enum witness_answer {
	/*
	 * A claim's: the record is now {next, me}. It stays granted: who asks for the same again is granted it again, also
	 * after a crash (a node that died between the grant and its state file finds its own record).
	 */
	WITNESS_GRANTED,
	/*
	 * A claim's: it is certain that another claim was granted: @record is newer than what was expected. @record.owner
	 * may be this very node, when an earlier claim of its own, with another generation, went through.
	 */
	WITNESS_LOST,
	/*
	 * No answer in time, or none that can be trusted (unreachable, no quorum, a record that is older than what this
	 * node knows, the command failed). A claim may still come to be granted later: whoever gives it up looks first.
	 */
	WITNESS_UNKNOWN,
	/*
	 * A look's: @record is what the witness has, generation 0: it has none, and has answered so for certain. A record
	 * that belongs to this node and is newer than the node's own generation is a claim of its own whose answer it never
	 * got: granted, and safe to go on from.
	 */
	WITNESS_RECORD,
};
const char *witness_answer_name(enum witness_answer a);

struct witness_result {
	uint64_t ticket;		/* of the question, as witness_look() or witness_claim() returned it */
	bool claim;			/* it was a claim */
	enum witness_answer answer;
	struct witness_record record;	/* RECORD, LOST, GRANTED (what was claimed); else zero */
	nstime took;			/* from the question to the answer */
	char why[WITNESS_WHY_MAX];	/* a sentence for UNKNOWN and LOST, for people; else empty */
};

struct witness_claim {
	/* What the caller takes the record to be: its generation; 0: there is none. Who owns it is not compared. */
	uint32_t expect;
	uint32_t next;			/* the new generation; more than @expect */
	char reason[64];		/* for a command: LOCKSTEP_REASON, e.g. "the peer is silent" */
	char peer[128];			/* for a command: LOCKSTEP_PEER, as far as known */
};

struct witness_health {
	bool known;		/* it has been asked; never true of kinds that keep no record */
	bool reachable;		/* it answered the last time */
	nstime since;		/* when that began */
	uint64_t looks, claims, granted, lost, unknown;	/* answers, from the beginning */
	char why[256];		/* not reachable: a sentence */
};

struct witness_cfg {
	struct witness_spec spec;
	char name[WITNESS_NAME_MAX + 1];	/* the VM's */
	uint8_t me[WITNESS_ID_LEN];		/* this node's id */
	bool connects;		/* disk: this node connects to its peer (which listens), so that the second block is its own */
	nstime timeout;		/* within which a question is answered; 0: WITNESS_DEF_TIMEOUT, of a command WITNESS_DEF_COMMAND */
	nstime probe;		/* how often it is asked whether it is there; 0: WITNESS_DEF_PROBE; NS_NEVER: not at all */
	struct loop *loop;	/* the control loop: where all calls are made and all callbacks run */
	/* The answer to each question: exactly one, within the timeout + WITNESS_SLACK, unless witness_close() comes first */
	void (*done)(void *arg, const struct witness_result *r);
	/* It became reachable or unreachable (not: the first time that it is asked and is there). May be NULL. */
	void (*health)(void *arg, bool reachable, const char *why);
	void *arg;
};

#define WITNESS_DEF_TIMEOUT	(2 * NS_PER_S)
#define WITNESS_DEF_COMMAND	(60 * NS_PER_S)
#define WITNESS_DEF_PROBE	(5 * NS_PER_S)
#define WITNESS_SLACK		(250 * NS_PER_MS)

struct witness;

/*
 * witness_open() - start the witness's thread; asks nothing yet but the first probe
 *
 * That it cannot be reached is no error here. The control loop's thread, or before it runs; @cfg is copied.
 * Return: the witness, or NULL with @e: a file of the TLS options cannot be read, no memory, no thread
 */
struct witness *witness_open(const struct witness_cfg *cfg, struct err *e);

/*
 * witness_close() - no callback is called any more, not even for what has been posted; NULL is fine
 *
 * A command that runs is ended. A thread that hangs in the disk is left behind after a moment and ends by itself. Not
 * from within a callback of this witness.
 */
void witness_close(struct witness *w);

/*
 * witness_look() - ask for the record
 *
 * Return: the ticket; the answer comes later, never from within this call. 0: WITNESS_QUEUE questions are open already
 * (one at a time never comes to that), and no answer will come
 */
uint64_t witness_look(struct witness *w);

/* witness_claim() - claim a generation, in the queue behind what was asked before. Return: as witness_look() */
uint64_t witness_claim(struct witness *w, const struct witness_claim *c);

/* witness_retry_pause() - how long to wait after WITNESS_UNKNOWN before the claim is repeated: short, of a command longer */
nstime witness_retry_pause(const struct witness *w);

/* witness_health() - for status and warnings; the control loop's thread */
void witness_health(const struct witness *w, struct witness_health *out);

#endif
