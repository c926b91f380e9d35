/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BED_H
#define BED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/net.h"
#include "core/packet.h"
#include "seg.h"

/* One machine of core/net, frames in and frames out: what its tests are written in. */

#define BED_OUT 128

struct bed {
	struct net *net;
	nstime now;
	/* What the frames that are made next travel on: tags, IP version, NIC. */
	struct seg_ip on;
	uint8_t nic;
	/* First data byte of the client and of the PVM; window scale of both SYNs; whether they offer timestamps. */
	uint32_t c0, g0;
	uint8_t ws;
	bool ts;
	bool raw;		/* checksums of what comes out are not looked at */
	/* What came out of the last step. */
	struct net_act out[BED_OUT];
	uint8_t bytes[BED_OUT][SEG_MAX];
	struct packet p[BED_OUT];
	size_t n;
};

#define DATA(s, a, d) ((struct seg){ .seq = (s), .ack = (a), .flags = TCP_ACK | TCP_PSH, .win = 1000, .data = (d) })
#define ACK(s, a) ((struct seg){ .seq = (s), .ack = (a), .flags = TCP_ACK, .win = 1000 })
#define FIN(s, a) ((struct seg){ .seq = (s), .ack = (a), .flags = TCP_ACK | TCP_FIN, .win = 1000 })

/* bed_cfg() - settings of a small machine, to be changed and given to bed_new() */
void bed_cfg(struct net_cfg *cfg);
struct bed *bed_new(const struct net_cfg *cfg);
/*
 * bed_primary() - a primary whose secondary runs, in epoch 2; bed_secondary() - a secondary, likewise. cfg may be NULL
 */
struct bed *bed_primary(const struct net_cfg *cfg);
struct bed *bed_secondary(const struct net_cfg *cfg);
/* bed_end() - free */
void bed_end(struct bed *b);

void step(struct bed *b, const struct net_ev *ev);
void tick(struct bed *b, nstime by);
/*
 * until() - let the time pass in steps of a millisecond until a checkpoint is wanted for @c. Return: false after @most
 */
bool until(struct bed *b, enum ckpt_cause c, nstime most);
void ctl(struct bed *b, enum net_ev_type type, uint64_t n, uint32_t arg);
void told(struct bed *b, struct net_msg m);

/* A frame as bytes: NEV_TAP or NEV_GUEST; an NM_OUTPUT of the SVM; an NM_INPUT. */
void bytes_in(struct bed *b, enum net_ev_type type, const uint8_t *d, uint32_t len);
void svm_bytes(struct bed *b, uint64_t epoch, const uint8_t *d, uint32_t len);
void input_bytes(struct bed *b, uint64_t epoch, uint64_t seq, const uint8_t *d, uint32_t len);
/* The same with a TCP segment, on b->on. */
void seg_in(struct bed *b, enum net_ev_type type, struct seg s);
void svm(struct bed *b, uint64_t epoch, struct seg s);
void input(struct bed *b, uint64_t epoch, uint64_t seq, struct seg s);

int count(const struct bed *b, enum net_act_type type);
/* nth() - the packet of the @k-th action of a type, from 0; the test fails without one */
struct packet *nth(struct bed *b, enum net_act_type type, int k);
struct packet *first(struct bed *b, enum net_act_type type);
struct net_act *msg(struct bed *b, enum net_msg_type type);
struct packet *msg_packet(struct bed *b, enum net_msg_type type);
int msgs(const struct bed *b, enum net_msg_type type);
bool wanted(const struct bed *b, enum ckpt_cause c);
bool wanted_any(const struct bed *b);
struct net_stats stats(const struct bed *b);
/*
 * text() - the payload of all TCP frames let out in the last step; the test fails when they do not follow one another
 */
const char *text(struct bed *b);

/* checkpoint() - CLOSE, STOPPED, DRAINED, OPEN of the primary; full() - with STAGED and LOADED */
void checkpoint(struct bed *b, uint64_t n);
void full_checkpoint(struct bed *b, uint64_t n);

/* client_syn(), guest_synack() - handshake segments of b's flow, in b's numbers */
struct seg client_syn(const struct bed *b);
struct seg guest_synack(const struct bed *b);
/* open_flow() - a connection of the client to b's primary in epoch @epoch, established, equal on both copies */
void open_flow(struct bed *b, uint64_t epoch);
/* flow_ok() - the secondary confirms the NM_FLOW of the last step, which must have one */
void flow_ok(struct bed *b);
/* key_of() - of b's TCP flow */
struct flow_key key_of(struct bed *b);

/* svm_flow() - on a secondary: the SVM numbers from @isn on, the client knows b->g0 */
void svm_flow(struct bed *b, uint32_t isn);

/* The roads that every rule must hold on. */
#define BED_ROADS 5
extern const struct seg_ip bed_road[BED_ROADS];

/* with_ts() - @s with a timestamp option */
static inline struct seg with_ts(struct seg s, uint32_t tsval, uint32_t tsecr)
{
	s.has_ts = true;
	s.tsval = tsval;
	s.tsecr = tsecr;
	return s;
}

#endif
