/* SPDX-License-Identifier: BSD-2-Clause */
/* Private to node.c, node_link.c, node_acts.c, node_net.c and node_status.c. Nobody else includes this. */
#ifndef NODE_INTERNAL_H
#define NODE_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "base/loop.h"
#include "base/tls.h"
#include "cluster/fence.h"
#include "cluster/heartbeat.h"
#include "cluster/nodestate.h"
#include "cluster/witness.h"
#include "core/ft.h"
#include "core/ring.h"
#include "disk/disk.h"
#include "engine/cmdline.h"
#include "engine/devstate.h"
#include "engine/memwork.h"
#include "engine/probe.h"
#include "engine/ram.h"
#include "engine/vm.h"
#include "link/conn.h"
#include "link/pair.h"
#include "monitor/condition.h"
#include "monitor/monitor.h"
#include "monitor/status.h"
#include "node.h"
#include "proxy/proxy.h"
#include "run_opts.h"

#define NODE_EVENTS	64	/* events of the control machine that wait while one is being carried out */
#define NODE_WAITERS	32	/* clients that wait for a checkpoint or a failover */

/* A connection and the loop that it belongs to; everything but `up` is touched by that loop only. */
struct node_conn {
	struct node *node;
	struct loop *loop;
	struct conn *conn;
	enum wire_channel channel;
	atomic_bool blocked;		/* frames: input is being dropped at the TAP */
	uint64_t era;			/* which peer it belongs to */
};

struct node_waiter {
	uint64_t token;
	enum monitor_cmd_type type;
	uint64_t n;			/* checkpoint: answer at the first one whose number is at least this */
};

struct node {
	const struct run_opts *o;
	struct cmdline cl;
	struct probe probe;
	char *shape;
	char agent_lib[4096];

	struct loop *control, *frames, *bulk, *disk_loop;
	pthread_t frames_thread, bulk_thread, disk_thread;
	struct closer *closer;	/* watches the frames thread; NULL: none could be had */
	bool frames_up, bulk_up, disk_up;

	struct ft *ft;
	struct ring *ring;
	struct ft_ev evq[NODE_EVENTS];
	unsigned int ev_head, ev_n;
	bool stepping;
	struct loop_timer tick;
	_Atomic uint32_t generation;	/* the threads that send put it into each message */

	struct ram *ram;
	struct devstate *ds;
	struct vm *vm;
	struct memwork *mem;
	struct memlimit_cfg limits;
	nstime full_at;			/* when the hard limit was told last; bulk loop */
	struct disk *disk;		/* NULL: the VM has no writable drives */
	struct fence *fence;
	uint64_t fence_n;
	char disk_socket[CMDLINE_SOCKET_MAX + 1];
	struct proxy *px;
	const char *nic_ids[CMDLINE_NICS_MAX];	/* the netdevs', as in cl */
	struct net_cfg net;		/* its nic[] is kept up to date; the rules in force are the proxy's */
	bool started, restarting, copied, saved;
	uint64_t restart_n;

	struct tls *tls;		/* what the link is encrypted with; NULL: it is not */
	struct pair *pair;
	struct node_conn conns[WIRE_CHANNELS];
	bool linked;
	uint64_t era;			/* counts peers; reports of a former one are ignored */
	unsigned int n_closed, n_eof;
	bool down_told;
	struct loop_timer closing, silence, ask;
	enum run_role role;		/* what this node begins as: by its state, or by the command line */
	struct nodestate *state;
	struct witness *witness;	/* NULL: --no-witness */
	uint64_t claim, claim_n;	/* STEP_WITNESS: ticket, generation */
	nstime drift;
	bool asking;			/* before the VM is begun: does the peer serve it? */
	bool began_asking;		/* it was decided once, or is being decided, whether the VM begins (node_role.c) */
	bool peer_yields;		/* the peer is a secondary */
	uint64_t question;		/* the witness's ticket of a cold start */
	uint32_t question_next, begin_as;	/* generation that was claimed; granted (0: not yet) */
	const char *waits_for;		/* sentence that was said last */
	bool peer_unknown;		/* somebody is there, and speaks with another key */
	int missed;			/* attempts to reach it meanwhile */
	struct heartbeat *beat;
	uint64_t beat_id;
	struct loop_timer blackbox, alive;

	struct monitor *monitor;
	struct node_waiter waiters[NODE_WAITERS];
	unsigned int n_waiters;

	/* for status */
	nstime started_at, state_at, linked_at, beat_at, lost_at, failed_over_at, failover_took;
	uint64_t rtt, silent;
	enum ft_reason failover_reason;
	bool took_over, failover_past;	/* the last failover: to this node; protected again since */
	bool complete_due;		/* its end is not told yet */
	nstime lost_beat, failover_gap;
	int64_t lost_wall, failover_wall;	/* microseconds since 1970 */
	bool stood_by;			/* was a secondary that could take over, when it last was one of the two */
	const char *witness_kind;	/* NULL: there is none */
	bool witness_lost;
	bool path_silent[STATUS_MAX_PATHS];	/* as it was told last */
	nstime hybrid_at;
	struct {
		bool told;
		enum condition word;
		struct condition_why why;
	} health;
	char peer_text[128];
	nstime checkpoint_delay;
	struct status_ckpts ckpts;
	uint64_t hybrid_entered, hybrid_left;	/* as they were told last */
	struct loop_timer report;	/* progress of the synchronisation */
	enum ft_state last_state;
	enum ft_memory last_memory;
	bool last_paused;
	char pause_why[160];		/* why QEMU has refused to run the VM, the last time */
	nstime share_at, share_stopped, share_longest;	/* sharing a promoted VM's memory */
	uint64_t share_pieces;

	int exit_status;
	bool ended;
	struct loop_fd signals;
};

/* node.c */
/* node_event() - give the control machine an event and carry out what it says; control loop */
void node_event(struct node *n, const struct ft_ev *ev);
/* node_start_qemu() - start (or restart) QEMU for the present role */
int node_start_qemu(struct node *n, struct err *e);

/* node_serves() - this node has the VM, or is about to take or to begin it; before that, what the command line says */
bool node_serves(const struct node *n);

/* node_begin() - QEMU is up and nothing speaks against it: the control machine begins */
void node_begin(struct node *n);

/* node_give_up() - before the control machine has begun, or for what it does not know of: end */
void node_give_up(struct node *n, enum ft_exit status);

/* node_qemu_known() - QEMU is up for the first time, its memory is laid out: what depends on that */
int node_qemu_known(struct node *n, struct err *e);

/* node_life.c: callbacks of the VM, and what people order about the guest's life */
void node_life_panic(void *arg, enum cmdline_panic what);
void node_life_stopped(void *arg, const char *why);
void node_life_told(void *arg, enum vm_order order, uint64_t token, int rc, const char *why);
/* node_life_paused() - VM_PAUSE was answered with @rc; Return: what the control machine is to hear */
int node_life_paused(struct node *n, int rc, const char *why);
/* node_life_command() - MONITOR_STOP, MONITOR_CONT, MONITOR_POWERDOWN, MONITOR_RESET; as monitor_ops.command() */
int node_life_command(struct node *n, const struct monitor_cmd *cmd, struct err *e);
/* node_life_tell() - after each event: who waits for the VM to stand or to run is answered, who watches is told */
void node_life_tell(struct node *n);
/* node_life_checkpoint() - checkpoint @num is complete */
void node_life_checkpoint(struct node *n, uint64_t num);
/* node_life_state() - after a change of state; @end: there will be no other */
void node_life_state(struct node *n, bool end);

/* node_acts.c */
void node_carry_out(struct node *n, const struct ft_act *a);
extern const struct vm_ops node_vm_ops;
extern const struct memwork_ops node_mem_ops;
extern const struct proxy_ops node_proxy_ops;

/* node_run_loop() - a thread that runs a struct loop */
void *node_run_loop(void *loop);

/* The shape of the machine while more is written to it. */
struct node_shape {
	FILE *f;		/* what was there is in it already */
	char *text;
	size_t size;
};
/*
 * node_shape_more() - begin; Return: 0, or -ENOMEM with @e
 * node_shape_done() - what is in @s is the shape now; nothing has changed where @rc, which was made meanwhile, is an error.
 * Return: @rc, or -ENOMEM with @e
 */
int node_shape_more(struct node *n, struct node_shape *s, struct err *e);
int node_shape_done(struct node *n, struct node_shape *s, int rc, struct err *e);

/* node_post_event() - as node_event(), later; any thread */
void node_post_event(struct node *n, const struct ft_ev *ev);

/* node_sandbox.c */
/* node_sandbox_helper() - before anything else: the helper that makes our children; nothing with --no-sandbox */
int node_sandbox_helper(struct node *n, struct err *e);
/* node_sandbox_plan() - the QEMU command was read, and there are no threads yet */
int node_sandbox_plan(struct node *n, struct err *e);
/* node_sandbox_enter() - this node has started, and nothing of the network was read: give the rest away */
int node_sandbox_enter(struct node *n, struct err *e);
/* node_user() - the user that QEMU runs as; NULL: ours */
const struct account *node_user(const struct node *n);

/* node_disk.c */
/* node_disk_start() - open the images and serve them to QEMU, in a thread of their own; the disk loop runs from now on */
int node_disk_start(struct node *n, struct err *e);
/* node_disk_shape() - what the images add to the shape */
int node_disk_shape(struct node *n, struct err *e);
/* node_disk_attached() - the disk connection is there, or is gone; disk loop */
void node_disk_attached(struct node *n, bool up);
/* node_disk_end() - QEMU is gone, the links are down */
void node_disk_end(struct node *n);
/* node_disk_fence() - STEP_FENCE; control loop */
void node_disk_fence(struct node *n, uint64_t num);
int node_disk_message(void *arg, const struct wire_head *h, const uint8_t *payload, struct err *e);
void node_disk_writable(void *arg);

/* node_link.c */
int node_link_start(struct node *n, struct err *e);
/*
 * node_send() - one message on a connection, in the loop that it belongs to
 * @head, @len: what the codec has made of it, or its error; @data, @size: what follows that
 * Return: as conn_send(); -EPIPE: no connection, or nothing that could be sent
 */
int node_send(struct node *n, enum wire_channel channel, struct wire_head *h, const uint8_t *head, int len,
	      const uint8_t *data, size_t size, bool must);
/* node_link_tell() - after each event: what this node says of itself to who wants to be paired */
void node_link_tell(struct node *n);
void node_link_mute(struct node *n);
void node_link_drop(struct node *n);
void node_link_end(struct node *n);
void node_send_ctl(struct node *n, const struct ctl_msg *m);

/* node_role.c */
/* node_role_open() - read the state: what this node begins as; before anything that depends on it */
int node_role_open(struct node *n, struct err *e);
/* node_role_start() - the control loop is there: the witness. node_role_end(): away with both */
int node_role_start(struct node *n, struct err *e);
void node_role_end(struct node *n);
void node_role_cfg(const struct node *n, struct ft_cfg *cfg);
/* node_role_note() - after each event: write down what changed */
void node_role_note(struct node *n);
/* node_role_claim() - STEP_WITNESS */
void node_role_claim(struct node *n, uint64_t generation);
/* node_role_meets() - a peer wants to be paired: its role and this node's. Return: 0, or -errno with a sentence for both */
int node_role_meets(struct node *n, const struct hello *peer, struct err *e);
/*
 * node_role_asked() - the peer was asked before the VM is begun: @peer_yields: it is a secondary; else it cannot be reached
 * node_role_again() - n->ask has come
 * node_role_yield() - the peer serves, or is to serve; @why: a sentence
 */
void node_role_asked(struct node *n, bool peer_yields);
void node_role_again(struct node *n);
void node_role_yield(struct node *n, const char *why);

/* node_net.c */
/* node_net_read() - understand what the options say of NICs and rules; the QEMU command was read */
int node_net_read(struct node *n, struct err *e);
/* node_net_cfg() - fill n->net for proxy_new() */
int node_net_cfg(struct node *n, const uint32_t mtu[NET_MAX_NICS], struct err *e);
/* node_net_set() - MONITOR_SET; node_net_rules() - MONITOR_RULES. Return: 0, or -errno with a sentence */
int node_net_set(struct node *n, const struct monitor_cmd *cmd, struct err *e);
int node_net_rules(struct node *n, const struct monitor_cmd *cmd, struct json_object **result, struct err *e);
/* node_net_watch() - tell when the mode has changed; once a second */
void node_net_watch(struct node *n);

/* node_health.c */
/* node_health() - after each event and once a second: tell whether the condition or its reasons have changed */
void node_health(struct node *n);
/* node_health_start() - the control loop is there: the service manager hears of it from now on */
void node_health_start(struct node *n);
/* A failover: its notice, its steps ("promoted", "released", "finished"), its end */
void node_health_noticed(struct node *n);
void node_health_step(struct node *n, const char *step);
void node_health_failed_over(struct node *n, bool took_over);
/* node_health_witness() - the witness, by its kind (a literal), can be reached, or cannot */
void node_health_witness(struct node *n, const char *kind, bool lost);
/* node_health_link() - a peer is connected, or is not any more; @how: a few words */
void node_health_link(struct node *n, bool up, const char *how);

/* node_status.c */
/* What status shows, and what it borrows; 20 KB, from the heap. */
struct node_view {
	struct status s;
	const char *disk_ids[CMDLINE_DISKS_MAX];
	struct disk_stats disks;
	struct hb_stats beat;
	struct condition_why why;	/* the caller's */
	char lost[120];			/* of the heartbeat's paths */
};
/* node_view() - fill @v, which is zero */
void node_view(struct node *n, struct node_view *v);
int node_monitor_start(struct node *n, struct err *e);
/* node_answer() - the answer to waiter @i, who is one no longer; @result is given away */
void node_answer(struct node *n, unsigned int i, struct json_object *result, const struct err *e);
void node_tell_state(struct node *n, const struct ft_act *a);
void node_tell_checkpoint(struct node *n);
void node_tell_abort(struct node *n, const struct ft_act *a);
void node_tell_end(struct node *n);
/* node_tell_memory() - after each event: how the VM's memory is mapped may have changed */
void node_tell_memory(struct node *n);
/* node_tell_step() - a step of a failover goes to the log */
void node_tell_step(struct node *n, const struct ft_act *a);
/* node_noticed() - the peer is or will be gone; @since: when that began, as far as is known */
void node_noticed(struct node *n, nstime since);
void node_blackbox(struct node *n);

#endif
