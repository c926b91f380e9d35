/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef PROPERTY_SIM_NODE_H
#define PROPERTY_SIM_NODE_H

#include "sim.h"

/* What the files of the shell share: sim_node.c (events), sim_acts.c (actions), sim_fail.c (deaths). */

enum { BATCH = 4 };	/* frames that the shell reads at once */

/* sim_acts.c */
void node_net(struct sim *s, struct node *nd, const struct net_ev *ev, size_t n);
uint32_t node_frame(struct node *nd, const struct pkt *p, bool input);
bool node_read_outq(struct sim *s, struct node *nd, uint32_t max);
void node_arm_sock(struct sim *s, struct node *nd);
void node_arm_out(struct sim *s, struct node *nd);
void node_arm_net(struct sim *s, struct node *nd);
void node_arm_ft(struct sim *s, struct node *nd);

/* sim_fail.c */
void node_qemu_dies(struct sim *s, struct node *nd);

#endif
