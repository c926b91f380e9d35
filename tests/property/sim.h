/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROPERTY_SIM_H
#define PROPERTY_SIM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/clock.h"
#include "core/ft.h"
#include "core/net.h"
#include "sim_wire.h"

/*
 * A deterministic world for core/: two nodes (each a struct ft, a struct net and a pretended QEMU with a guest in
 * it), the three connections between them, an external network and its clients. One seed is one schedule; nothing
 * reads a clock or a file. sim_fail() leaves the schedule at once (longjmp) with the promise that was broken.
 *
 *   sim_link.c    random numbers, event heap, packets, connections between the nodes, external network
 *   sim_frame.c   the codec of frames
 *   sim_seg.c     the segments of a small TCP
 *   sim_tcp.c     that TCP, used by guests and clients
 *   sim_guest.c   the guest: connections, applications, memory pages that check themselves
 *   sim_join.c    a new secondary after a failure, and a second failure
 *   sim_dgram.c   datagrams: requests, the guest's answers, and what is let out of them
 *   sim_pause.c   somebody stops the VM and has it run again
 *   sim_storm.c   SYNs from addresses that nobody has
 *   sim_client.c  the clients: scripts of requests and what the answers must be
 *   sim_node.c    the shell of a node: events for ft and net
 *   sim_acts.c    the same: carries out what ft and net say
 *   sim_fail.c    failures and deaths
 *   sim_witness.c the witness, cuts of the link, cold starts
 *   sim_step.c    the steps of a checkpoint
 *   sim_check.c   the promises: what every frame that is let out must satisfy, and what the end must look like
 *   sim_inside.c  the promises that no client sees at once: input log, STAGED, what waits, FLOW
 *   sim_run.c     schedules out of seeds, and their run
 *   prop_core.c   workers, planted faults, command line
 */

enum {
	SIM_PAGES = 16,
	SIM_GCONNS = 6,
	SIM_CLIENTS = 4,
	SIM_SCRIPT = 8,
	SIM_STREAM = 8192,	/* bytes of one connection towards the client that are remembered */
	SIM_PKTS = 1024,
	SIM_DEVS = 8,		/* device states on their way */
	SIM_CHANQ = 512,	/* power of two */
	SIM_LOOPQ = 256,	/* power of two */
	SIM_GUEST_PORT = 7000,
	SIM_UDP_PORT = 7001,
	SIM_HIST = 32,
	SIM_DGFLOWS = 4,
	SIM_DGMAX = 16,		/* requests by datagram in a schedule */
	SIM_DGRECS = 512,
	SIM_URGENT = 16,	/* urgent bytes of a connection */
	SIM_SPOOFED = 200,	/* addresses from here on are nobody's */
	SIM_INRECS = 256,	/* of the shadow of the input log */
};

enum { NODE_P, NODE_S, NODES };		/* by the part they begin with */
enum { CH_CTL, CH_FRAMES, CH_BULK, CH_DISK, CHANNELS };
enum { SIM_BLOCKS = 8 };

/* ---- the guest ---- */

/* Requests: op, arg, length (16 bit). What follows and what is answered stands in sim_guest.c. */
enum { OP_ECHO = 'E', OP_RANDOM = 'R', OP_LAST = 'L', OP_UPLOAD = 'U', OP_DOWNLOAD = 'D', OP_COUNT = 'C',
       OP_OPEN = 'O', OP_QUIT = 'Q', OP_RESET = 'X' };
enum { RAND_LEN = 12 };

struct app {
	uint8_t hdr[4], n_hdr, op, arg;
	bool busy, quit, abort;
	uint32_t need;			/* payload bytes still to come */
	uint64_t hash;			/* of everything that was ever asked on this connection */
	uint64_t out_seed;
	uint32_t out_at, out_len;	/* the answer: bytes given and in all */
	uint8_t last[RAND_LEN];		/* what OP_RANDOM gave last */
	uint8_t small[16];
	uint32_t n_random;
};

struct gconn {
	struct tcb t;
	struct app a;
	uint8_t active;			/* opened by the guest, for client active - 1 */
};

/* A request that comes in parts: only its beginning counts. */
struct joined {
	uint32_t id;
	uint16_t have, total;
	uint8_t seen, head[16];
};

/* Parts of a datagram that its sender has not come round to yet. */
struct late {
	uint32_t n;
	struct pkt p[FRAME_PARTS - 1];
};

/* All that the device state holds in this model: CPU, TCP, applications. The pages are apart, and @sum binds them. */
struct gcore {
	uint64_t sum;
	uint64_t writes, disk_sum;
	nstime vmclock;			/* guest's clock when it was stopped last */
	uint32_t counter;
	uint32_t dg_hist[SIM_HIST], n_dg;
	struct late late;
	struct joined joined[SIM_DGFLOWS];
	struct gconn c[SIM_GCONNS];
};

struct guest {
	struct gcore core;
	uint64_t image[SIM_PAGES], priv[SIM_PAGES];
	uint32_t privmap, dirty, touched, shared;	/* @shared: of a promoted VM, pages that are the image's again */
	bool cow, valid;
	uint64_t image_n;		/* the checkpoint that the image is (0: a mixture is under way) */
};

void app_feed(struct app *a, uint8_t b);
bool app_finish(struct app *a, uint32_t *counter, const uint8_t entropy[RAND_LEN]);
uint8_t app_out(const struct app *a, uint32_t at);

void guest_boot(struct sim *s, int node);
void guest_input(struct sim *s, int node, struct pkt *p);
void guest_run(struct sim *s, int node);
nstime guest_deadline(struct sim *s, int node);
uint64_t guest_page(const struct guest *g, unsigned int i);
uint64_t guest_sum(const struct guest *g);
struct gconn *guest_conn(struct gcore *c, uint8_t peer, uint16_t rport, uint16_t lport);

struct disk;
struct step_run;
struct cmsg;
struct node;
uint64_t disk_sum(const struct node *nd);
void disk_boot(struct sim *s, struct node *nd, bool serves);
void disk_write(struct sim *s, struct node *nd);
void disk_step(struct sim *s, struct node *nd, struct step_run *r);
void disk_fence(struct sim *s, struct node *nd, struct step_run *r);
void disk_message(struct sim *s, struct node *nd, const struct cmsg *m);
void disk_promote(struct sim *s, struct node *nd);

/* ---- connections between the nodes ---- */

enum bulk_type { BULK_PAGE, BULK_DEV, BULK_MARK };

struct cmsg {
	nstime at;
	bool eof;
	struct ctl_msg ctl;
	struct net_msg msg;
	struct pkt *p;
	enum bulk_type bulk;
	uint64_t n, val;
	uint32_t page;
	struct gcore *dev;
};

struct chan {
	struct cmsg *q;
	uint32_t head, tail;
	nstime last;
	bool closed;
};

/* sim_disk.c */
struct disk {
	uint64_t base[SIM_BLOCKS], own[SIM_BLOCKS], open[SIM_BLOCKS], done[SIM_BLOCKS];
	uint32_t own_map, open_map, done_map;	/* the SVM's; pending: since the last marker, before it */
	uint64_t mark_n, flipped_n;
	bool serves, sync, peer;
};

struct step_run {
	bool active;
	uint8_t phase;
	enum ft_step step;
	uint64_t n;
	uint32_t left, value;
	int rc;
	uint8_t bad;			/* enum bad_step */
	uint32_t gen, order;
};

struct loopmsg {
	struct net_ev ne;
	struct ft_ev fe;
};

struct loopq {
	struct loopmsg *q;
	uint32_t head, tail;
	nstime last;
};

/* One frame that the secondary's net has taken: numbers [s, e) of a client's stream. */
struct inrec {
	uint64_t seq;
	uint32_t s, e;
	uint8_t client;
};

/* FLOW on the secondary, FLOW_OK on the primary: the numbers that have come. */
struct flow_seen {
	bool known;
	uint32_t isn;
};

/* A frame of a guest's datagram that may be let out, once. */
struct dgrec {
	uint64_t hash;
	uint32_t v;
	uint16_t group, id;
	uint8_t flow, parts, nic;
	bool whole, out;
};

struct node {
	int id;
	struct net *net;
	struct ft *ft;
	struct net_cfg ncfg;
	struct ft_cfg fcfg;
	uint16_t inc;			/* incarnation: events of an earlier one count nothing */
	nstime clock_off;		/* this node's clock - simulated time */
	bool alive, ended, linked, want_quiet, draining, private_told, full_told;
	int end_status;
	uint64_t drain_n;
	nstime frozen_until, lease, link_at;
	bool hold;			/* FA_HOLD */
	bool silent;			/* it has withheld a frame because its lease had run out: lost as on a network */
	/* QEMU */
	bool q_alive, q_running;
	bool q_to_run, q_paused;	/* the last of stop and cont was cont; it stands all the same */
	nstime q_stuck_until, q_resumed;
	struct guest g;
	struct disk disk;
	struct pktq sock, limbo, outq;	/* @limbo: read while stopped, in no state */
	struct step_run run[8];
	/* memory on its way */
	uint64_t buf[SIM_PAGES];
	uint32_t bufmap;
	uint32_t epoch_map;		/* pages that were taken for checkpoint epoch_n */
	uint64_t epoch_n;
	struct gcore saved, dev;
	uint64_t saved_n, dev_n;	/* 0: none */
	uint64_t staged[SIM_PAGES], staged_n[SIM_PAGES];
	uint64_t mark_n, barrier_n, said_staged, loaded_n, applied_n;
	bool dirty_all;
	/* heartbeat */
	nstime heard, deaf_from, deaf_until;	/* deaf to the witness */
	nstime beat_at[256];		/* when its last heartbeats were sent */
	uint16_t beat_n, beat_echo;	/* the last one's number; the last number of the peer's */
	bool silent_told, muted, ever_linked, checked;
	unsigned int eofs;
	bool down_told;
	nstime net_at, ft_at, run_at;
	bool sock_armed, out_armed;
	struct loopq to_net, to_ft;
	uint32_t n_net_acts, n_ft_acts, spins;
	nstime spin_at;
	/* sim_inside.c */
	struct inrec in[SIM_INRECS];
	uint32_t n_in;
	uint64_t in_barrier, in_cut;
	bool in_open, in_reloaded, in_promoted, role_given;
	struct flow_seen flow[SIM_CLIENTS];
	struct {
		bool known;
		uint32_t max, ack;
	} base[SIM_CLIENTS];		/* what its VM had said when it became the primary */
	/* sim_dgram.c */
	struct dgrec dg[SIM_DGRECS];
	uint32_t n_dg;
	uint16_t dg_last[SIM_DGFLOWS];	/* the last whole answer that was let out */
};

/* ---- clients ---- */

struct req {
	uint8_t op, arg;
	uint16_t len;
	uint32_t think;			/* us */
};

struct client {
	struct tcb t;
	bool used, passive, opened, done, failed, half_close, will_abort, refused_port, tfo;
	bool reset_asked;		/* the guest was asked to reset the connection */
	bool excused;			/* was not established when a node failed in a storm of SYNs */
	bool again, reopened;		/* opens its port once more when it is done; has done so */
	uint32_t extra;			/* bytes sent after the guest has closed its side */
	struct path path;
	uint8_t addr, abort_after;
	uint16_t port, gport;
	struct req script[SIM_SCRIPT];
	unsigned int n_req, sent, answered, depth;
	uint32_t tx_at;			/* bytes of the request being written */
	struct app model;		/* what the guest's application must be like */
	struct app model_tx;		/* as seen when asking; only its hash counts */
	uint32_t rx_at;			/* bytes of the answer that have come */
	bool rx_begun;
	uint8_t last[RAND_LEN];
	uint32_t n_random;
	bool expected;			/* passive: the guest has said that it opens a connection */
	bool slow;			/* reads only now and then, so that its window closes */
	nstime start, next_at, ev_at, reopen_at, read_at, close_at, probe_at;
	uint8_t rbuf[16];
};

/* What has been let out for one connection, in the order of emission. */
struct wire {
	bool isn_known, fin, rst, ack_known, ts_known, edge_known;
	uint32_t isn, end, fin_at, max_ack, edge, ts_recent;
	uint8_t ws;
	uint16_t gport;
	uint32_t contig;		/* bytes without a gap */
	uint32_t urg[SIM_URGENT];	/* where urgent bytes end, as any copy of the guest has said */
	unsigned int n_urg;
	bool old;			/* of the connection before on the same ports: */
	uint32_t old_isn, old_end;
	uint8_t known[SIM_STREAM / 8];
	uint8_t stream[SIM_STREAM];
};

/* Since when bytes or an acknowledgement of both copies wait. */
struct wait {
	uint64_t epoch;
	uint32_t end, ack;
	nstime out_since, ack_since;
};

struct sim_store;

/* Steps of a checkpoint that fail at the serving node, which lives: they are tried again, once in a row. */
enum bad_step { BAD_NONE, BAD_BEFORE, BAD_HALF, BAD_AFTER };
enum { SIM_BAD = 4 };

struct bad_plan {
	uint64_t n;			/* checkpoint; 0: none */
	enum ft_step step;
	enum bad_step how;
};

enum fail_kind {
	FAIL_NONE, FAIL_KILL, FAIL_POWER, FAIL_QEMU_DIES, FAIL_QEMU_HANGS, FAIL_QEMU_PAUSES, FAIL_FREEZE, FAIL_STEP,
	FAIL_COMMAND, FAIL_CUT, FAIL_CUT_ONE, FAIL_CUT_DATA, FAIL_CUT_BEATS, FAIL_SWITCH, FAIL_KINDS
};
enum fail_when { WHEN_TIME, WHEN_NET_ACT, WHEN_FT_ACT, WHEN_STEP, WHEN_CTL, WHEN_MSG, WHEN_PHASE,
		 WHEN_ABORT };

struct failure {
	enum fail_kind kind;
	enum fail_when when;
	int node;
	nstime at, span;
	uint32_t count, what;
	bool before, done;
	nstime done_at;
};

enum ev_type {
	EV_NONE, EV_START, EV_LINK, EV_CHAN, EV_TO_NET, EV_TO_FT, EV_STEP, EV_NET_TIMER, EV_FT_TIMER, EV_SOCK, EV_OUT,
	EV_GUEST, EV_WIRE_IN, EV_WIRE_CLIENT, EV_CLIENT, EV_BEAT, EV_FAIL, EV_DATAGRAM, EV_STORM, EV_PAUSE, EV_ROOM, EV_DRAIN, EV_QDIED,
	EV_REJOIN, EV_WITNESS, EV_LINKERR, EV_COLD,
};

struct ev {
	nstime t;
	uint32_t seq;
	uint8_t type, node;
	uint16_t a, inc;
	uint32_t b;
	struct pkt *p;
};

/* Counted over all schedules of a worker; only sums, so that workers can be added up. */
#define SIM_STATS(X) \
	X(schedules) X(events) X(frames_out) X(frames_in) X(transactions) X(uploads) X(random_last) X(udp_answers) \
	X(guest_opened) X(retransmissions) X(fast_rexmit) X(paws_drops) X(acks_beyond) X(reneg) X(lost_ext) X(dup_ext) \
	X(checkpoints) X(ck_mismatch) X(ck_timeout) X(ck_other) X(ck_held) X(ck_inlog) X(ck_delay) X(ck_private) X(svm_full) X(shared) X(gate_expired) \
	X(rel_compared) X(rel_staged) X(passed) X(splits) X(mismatches) X(acks_lowered) X(acks_made) X(acks_swallowed) \
	X(replayed) X(purged) X(vanished) X(silent_drops) X(p1_checked) X(switch_checked) X(det_checked) \
	X(p2_checked) X(replay_checked) X(staged_checked) X(syn_checked) \
	X(fail_kill) X(fail_power) X(fail_qemu_dies) X(fail_qemu_hangs) X(fail_qemu_pauses) X(fail_freeze) X(fail_step) \
	X(fail_command) X(fail_cut) X(fail_cut_one) X(fail_cut_data) X(fail_cut_beats) X(fail_switch) \
	X(witnessed) X(granted) X(lost_claims) X(unknown_claims) X(fenced) X(early_takeovers) X(cold_starts) \
	X(cold_served) X(switched) X(rejoins) X(rejoins_promoted) X(third_lives) X(fourth_lives) X(second_failovers) \
	X(aborts) X(aborts_first) X(aborts_retried) X(aborts_parted) X(fo_in_abort) \
	X(segments) X(zero_windows) X(probes) X(scaled) X(wraps) X(tfo_sent) X(tfo_taken) X(tfo_refused) X(tfo_early) \
	X(urgent_sent) X(urgent_out) X(sim_closes) X(half_closes) X(guest_half_closes) X(resets_by_client) \
	X(resets_by_guest) X(reused) X(v6_conns) X(vlan_conns) X(qinq_conns) X(ext_headers) X(two_nics) X(labelled) \
	X(dg_udp) X(dg_icmp) X(dg_other) X(dg_v6) X(dg_random) X(dg_det_answers) X(dg_fragmented) X(dg_part_lost) \
	X(dg_part_late) X(dg_asked_in_parts) X(dg_twice_given) X(dg_order_checked) X(dg_all_checked) \
	X(pauses) X(pause_conts) X(pause_failovers) X(storms) X(storm_syns) X(storm_answers) \
	X(storm_failovers) X(storm_checkpoints) X(storm_untranslated) X(excused) X(flows_evicted) X(flows_full) \
	X(survived_alone) X(lost_unprotected) X(translated_at_failover) X(failovers) \
	X(fo_p_idle) X(fo_p_gate) X(fo_p_stop) X(fo_p_collect) X(fo_p_cont) X(fo_p_staged) X(fo_p_loaded) \
	X(fo_p_abort) X(fo_p_other) \
	X(fo_s_idle) X(fo_s_gate) X(fo_s_stop) X(fo_s_collect) X(fo_s_apply) X(fo_s_load) X(fo_s_mend) X(fo_s_cont) \
	X(fo_s_other)

struct stats {
#define X(name) uint64_t name;
	SIM_STATS(X)
#undef X
};

/* What the witness has. */
struct record {
	uint64_t generation;
	int owner;
};

/* A direction of the link. */
enum cut_what { CUT_DATA = 1, CUT_BEATS = 2 };
struct cut {
	uint8_t what;
	nstime at, until;
};

/* A node that was killed is started anew, alone. */
struct cold {
	int node;			/* -1: none */
	bool wanted, serves;
	uint64_t generation;		/* of its state file */
	nstime begun, until;
};

enum world_fault { WORLD_NOT_OWNER = 1 };

struct sim {
	uint64_t rng[2];
	uint64_t seed;
	nstime now;
	bool trace, failed;
	char why[512];
	const char *promise;
	jmp_buf out;
	uint32_t net_faults, ft_faults, world_faults;
	struct sim_store *store;	/* what need not be cleared for a new schedule */
	uint32_t n_heap, seq, n_events;
	struct pkt *free_pkts;
	uint32_t n_pkts;		/* that were ever taken */
	struct gcore *dev_pool;
	uint32_t dev_next;
	/* the schedule */
	uint32_t ext_delay, ext_jitter, loss, dup, reorder;	/* us, us, per 10000 each */
	nstime quiet_from;		/* no more loss from here on */
	uint32_t link_delay, link_jitter, link_stall;		/* us, us, per 10000 */
	uint32_t guest_delay[NODES], slow;	/* us */
	uint32_t step_us;		/* scale */
	uint8_t g_ts, g_sack, g_dsack, g_ws;
	uint16_t g_mss, g_rwnd;
	bool disks;
	bool fence;			/* a promotion needs one, as where the disks are shared */
	bool witness;			/* there is one; else silence is death */
	struct record record;
	struct cut cut[NODES];		/* by sender */
	bool cut_ever, told_alone;
	struct cold cold;
	bool g_nagle;
	bool deterministic;		/* nothing in it diverges: no checkpoint may be needed */
	bool rejoin, rejoined, loss_free;
	nstime rejoin_at;
	unsigned int lives;		/* how often a node was replaced */
	int prim;			/* who serves by role, before a failover */
	uint16_t link_inc;
	nstime ck_delay;		/* x-checkpoint-delay */
	uint32_t private_limit, private_told;	/* pages of the SVM; 0: none. How often it was told */
	uint32_t divergences;		/* requests and frames that may cost a checkpoint each */
	bool lazy;			/* the guest's applications read only now and then */
	bool labels;			/* a flow label of its own on each frame */
	uint8_t nics;
	/* datagrams */
	struct path dg_path[SIM_DGFLOWS];
	uint8_t dg_proto[SIM_DGFLOWS];
	uint32_t datagrams, datagrams_sent, purged;
	nstime dg_sent_at;
	uint32_t parts_lost;
	uint16_t dg_groups;
	uint8_t dg_out[16384];		/* frames let out of each answer */
	uint8_t dg_answers[SIM_DGMAX];
	uint32_t pauses;		/* how often the VM is still to be stopped or continued, see sim_pause.c */
	/* a storm of SYNs */
	uint32_t storm, storm_sent;
	struct failure fail;
	struct bad_plan bad[SIM_BAD];
	uint64_t abort_n;		/* the last one that was given up, as long as the one after it is not STAGED */
	bool fail_in_abort;
	enum ft_state fail_state[NODES];
	char fail_phase[NODES][16];
	struct node node[NODES];
	struct chan chan[NODES][CHANNELS];	/* by sender */
	struct client cl[SIM_CLIENTS];
	struct wire w[SIM_CLIENTS];
	struct wait wait[SIM_CLIENTS];
	uint8_t counter_seen[512];
	int mac_at[NET_MAX_NICS], server;
	struct stats *st;
};

enum { SIM_HEAP = 4096 };

struct sim_store {
	struct ev heap[SIM_HEAP];
	struct pkt pkts[SIM_PKTS];
	struct cmsg chanq[NODES][CHANNELS][SIM_CHANQ];
	struct loopmsg loopq[NODES][2][SIM_LOOPQ];
	struct gcore devs[SIM_DEVS];
	struct net *net[NODES];
	struct ft *ft[NODES];
};

/* ---- sim_link.c ---- */
uint64_t sim_rand(struct sim *s);
static inline uint32_t rnd(struct sim *s, uint32_t n) { return (uint32_t)((sim_rand(s) >> 32) * n >> 32); }
static inline bool chance(struct sim *s, uint32_t of10000) { return rnd(s, 10000) < of10000; }
static inline nstime us(struct sim *s, uint32_t lo, uint32_t hi)
{
	return (nstime)(lo + rnd(s, hi - lo + 1)) * NS_PER_US;
}
void sim_at(struct sim *s, nstime t, enum ev_type type, int node, uint16_t a, uint32_t b, struct pkt *p);
bool sim_next(struct sim *s, struct ev *e);
struct pkt *pkt_new(struct sim *s);
struct pkt *pkt_copy(struct sim *s, const void *data, uint32_t len, uint8_t nic);
struct pkt *pkt_dup(struct sim *s, const struct pkt *p);
void pkt_free(struct sim *s, struct pkt *p);
void pktq_init(struct pktq *q);
void pktq_push(struct pktq *q, struct pkt *p);
struct pkt *pktq_pop(struct pktq *q);
struct pkt *pktq_pop_any(struct sim *s, struct pktq *q);	/* the NICs keep no order between them */
void pktq_clear(struct sim *s, struct pktq *q);
void sim_fail(struct sim *s, const char *promise, const char *fmt, ...)
	__attribute__((noreturn, format(printf, 3, 4)));
void sim_trace(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define TR(s, ...) do { if ((s)->trace) sim_trace(s, __VA_ARGS__); } while (0)

struct cmsg *chan_send(struct sim *s, int from, int kind);	/* NULL: closed */
void chan_close(struct sim *s, int from);			/* what was sent still arrives */
void chan_cut(struct sim *s, int from, bool eof);		/* the sender died: what was under way may be lost */
void ext_to_clients(struct sim *s, const struct pkt *p);
void ext_to_guest(struct sim *s, struct pkt *p);

/* ---- sim_node.c ---- */
void node_init(struct sim *s, int id, enum ft_role role);
void node_event(struct sim *s, const struct ev *e);
void node_guest_out(struct sim *s, int id, struct pkt *p);
nstime node_vmclock(struct sim *s, int id);
void node_kick_guest(struct sim *s, int id, nstime at);
void node_die(struct sim *s, int id, bool eof);
void node_fail_now(struct sim *s);
void node_finish(struct sim *s);
void node_ft(struct sim *s, struct node *nd, const struct ft_ev *fe);
bool fail_hit(struct sim *s, struct node *nd, enum fail_when when, uint32_t what, bool before);
const char *who(const struct node *nd);
static inline nstime node_now(struct sim *s, int id) { return s->now + s->node[id].clock_off; }
static inline bool node_up(const struct sim *s, int id) { return s->node[id].alive && !s->node[id].ended; }

/* ---- sim_step.c ---- */
void step_begin(struct sim *s, struct node *nd, enum ft_step step, uint64_t n);
void step_event(struct sim *s, struct node *nd, uint16_t slot, uint32_t gen);

/* ---- sim_client.c ---- */
void client_event(struct sim *s, int i);
void client_input(struct sim *s, struct pkt *p);
bool clients_done(struct sim *s);
void draw_path(struct sim *s, struct path *p);

/* ---- sim_dgram.c ---- */
void dgram_draw(struct sim *s);
void dgram_send(struct sim *s);
void dgram_guest(struct sim *s, int node, const struct pkt *p, const struct view *v);
void dgram_late(struct sim *s, int node);
void dgram_given(struct sim *s, struct node *nd, const struct pkt *p);
void dgram_emission(struct sim *s, struct node *nd, const struct pkt *p, const struct view *v);
bool dgram_done(struct sim *s);
void dgram_end(struct sim *s);

/* ---- sim_pause.c ---- */
void pause_draw(struct sim *s);
void pause_event(struct sim *s);
/* pause_step() - STEP_PAUSE takes effect; pause_cont() - STEP_CONT: does the VM run by it? */
void pause_step(struct sim *s, struct node *nd);
bool pause_cont(struct sim *s, struct node *nd);
void qemu_stops(struct sim *s, struct node *nd);
void qemu_runs(struct sim *s, struct node *nd);

/* ---- sim_storm.c ---- */
void storm_draw(struct sim *s);
void storm_event(struct sim *s);
void storm_emission(struct sim *s, const struct seg *g);
void storm_failed(struct sim *s);

/* ---- sim_witness.c ---- */
void witness_draw(struct sim *s);
void witness_failure(struct sim *s);
void witness_step(struct sim *s, struct node *nd, struct step_run *r);
void witness_late(struct sim *s, int id, uint16_t life, uint32_t generation);
void witness_heard(struct sim *s, int id);	/* P5 */
bool cut_now(const struct sim *s, int from, enum cut_what what);
nstime cut_over(struct sim *s, int from, nstime at);
void cut_begin(struct sim *s, enum fail_kind kind, int node);
void cold_failed(struct sim *s);
void cold_event(struct sim *s);

/* ---- sim_check.c ---- */
struct gconn *check_conn(struct sim *s, struct gcore *c, int i, uint16_t gport);	/* of this life of the client's port */
void check_forget(struct sim *s, int i);

void check_emission(struct sim *s, int node, const struct pkt *p, uint64_t epoch);
void check_takeover(struct sim *s, struct gcore *c, const char *when);
void check_end(struct sim *s);
struct gcore *check_takeover_state(struct sim *s);

/* ---- sim_inside.c ---- */
void inside_input(struct sim *s, struct node *nd, uint64_t seq, const struct pkt *p);
void inside_told(struct sim *s, struct node *nd, enum net_ev_type type, uint64_t n);
void inside_staged(struct sim *s, struct node *nd, uint64_t n);
void inside_tick(struct sim *s, struct node *p);
void inside_msg(struct sim *s, struct node *nd, const struct net_msg *m);
void inside_syn(struct sim *s, struct node *nd, int i, const struct seg *g, uint64_t epoch);

/* ---- sim_join.c ---- */
bool join_due(struct sim *s);
void join_now(struct sim *s);

/* ---- sim_run.c ---- */
bool sim_run(struct sim *s, uint64_t seed);
void sim_store_init(struct sim *s);
void run_script(struct sim *s, int i);	/* what client @i asks for */

#endif
