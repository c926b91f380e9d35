/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef RUN_OPTS_H
#define RUN_OPTS_H

#include <limits.h>
#include <stdbool.h>

#include "base/account.h"
#include "base/clock.h"
#include "base/log.h"
#include "cluster/witness.h"
#include "core/rule.h"
#include "link/addr.h"

/* What `lockstep run` was asked to do: filled by cli/run_args.c, carried out by node.c. */

#define RUN_NAME_MAX	63	/* bytes of a VM's name */
#define RUN_ADDR_TEXT	300	/* bytes of an address as it was written, NUL included */
#define RUN_MAX_PATHS	4	/* ways to the other node */
#define RUN_MAX_NICS	8	/* --nic, once for each NIC */

/* Said once in the log and by status as long as true. */
#define RUN_WARN_NO_ARBITRATION \
	"there is no witness, so a link that is lost is taken for a dead peer: split brain is possible"
#define RUN_WARN_NOT_ENCRYPTED \
	"the link is not encrypted and not authenticated: whoever reaches it can read and change the VM"

#define RUN_WARN_NO_FENCE \
	"the disks are shared and there is no --fence-command: this node will not take over when the peer dies"
#define RUN_WARN_UNFENCED \
	"the peer is gone and was not fenced, so it may still write to the shared disks: the VM stands (see the log); " \
	"'lockstep failover' tries once more"

struct conf;

enum run_role { RUN_SECONDARY, RUN_PRIMARY };

struct run_addr {
	char text[RUN_ADDR_TEXT];	/* as it was written, for people */
	struct link_addr addr[LINK_MAX_ADDRS];
	int n;				/* how many of them; 0: not given */
	bool loopback;			/* nobody but this host can reach any of them */
};

/* One way between the two nodes. */
struct run_path {
	struct run_addr own;		/* of this node, with the port; n is 0 or 1 */
	struct run_addr other;		/* of the other one; n 0: not known here */
};

struct run_opts {
	char name[RUN_NAME_MAX + 1];
	enum run_role role;		/* only for the start; later the state decides */
	/* What was given, in order, until run_paths() has made the paths of it. */
	struct run_given {
		struct run_addr addr;
		bool peer;		/* --peer, not --listen */
	} given[2 * RUN_MAX_PATHS];
	unsigned int n_given;
	struct run_addr listen;		/* path 0, when this node accepts the link; else n is 0 */
	struct run_addr peer;		/* path 0, when it connects to the other one; else n is 0 */
	struct run_path paths[RUN_MAX_PATHS];	/* all of them; on those after path 0 there are heartbeats only */
	unsigned int n_paths;
	bool insecure;			/* --insecure was given */
	/* What the link is encrypted with, one of the first two or neither; borrowed as the lists below. */
	const char *psk_file;		/* keys, or a directory with keys.psk; NULL: none */
	const char *tls_dir;		/* certificates; NULL: none */
	const char *psk_user;		/* whose key in psk_file */
	nstime heartbeat;		/* time between two heartbeats */
	nstime timeout;			/* silence of the peer that counts as its death; at least three heartbeats */
	nstime checkpoint_delay;	/* longest time without a checkpoint */
	nstime compare_timeout;		/* age of a held packet that starts a checkpoint */
	nstime expired_scan_cycle;	/* time between two looks at the ages of held packets */
	uint32_t max_queue_size;	/* held packets of one flow and side; then a checkpoint */
	/* As text, since the NICs are known only when the QEMU command was read; borrowed from main()'s argv. */
	const char *nics[RUN_MAX_NICS];	/* --nic, for settings.h */
	unsigned int n_nics;
	const char *rules[RULES_MAX];	/* --rule, for rule_parse() */
	unsigned int n_rules;
	bool no_hybrid;			/* never change to periodic checkpoints */
	bool compress;			/* guest memory is sent packed */
	bool no_precopy;		/* guest memory is copied in pauses only */
	unsigned int workers;		/* threads that copy guest memory; 0: as many as are worth it */
	nstime qemu_timeout;		/* QEMU's monitor unanswered for so long counts as QEMU's death */
	struct witness_spec witness;	/* who decides when the two cannot reach each other */
	bool witness_said;		/* --witness or --no-witness was given */
	bool force_primary;		/* the administrator knows that no other node has the VM */
	bool strict_death;		/* connections that were closed prove nothing */
	char state_dir[PATH_MAX];	/* what is remembered of the VM from one run to the next */
	char run_dir[PATH_MAX];		/* control socket and the like; not yet made */
	uint64_t private_limit;		/* bytes that the SVM may have written; 0: a part of the guest's memory */
	uint64_t staged_limit;		/* bytes of a checkpoint to come that may wait at the secondary; likewise */
	char disk_dir[PATH_MAX];	/* for what is known of the images; empty: beside them */
	bool discard_disks;		/* what this node's images have may be overwritten */
	bool shared_disk;		/* both nodes have the same images */
	const char *fence_command;	/* for /bin/sh -c; empty: none; borrowed from main()'s argv */
	nstime fence_timeout;
	uint64_t resync_rate;		/* bytes a second; 0: no limit */
	struct account user;		/* --user: QEMU runs as this one; its name is empty where it was not given */
	bool no_sandbox;
	char spill_dir[PATH_MAX];	/* for what does not fit into memory */
	enum log_level log_level;
	int qemu_argc;			/* at least 1 */
	char **qemu_argv;		/* borrowed from main()'s argv, or from conf; ends with NULL; [0] is the program */
	struct conf *conf;		/* the configuration file, which texts here are borrowed from; NULL: there is none */
};

/* run_encrypted() - whether the link will be */
static inline bool run_encrypted(const struct run_opts *o)
{
	return o->psk_file || o->tls_dir;
}

#endif
