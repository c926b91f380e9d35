/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CORE_FT_HANDLERS_H
#define CORE_FT_HANDLERS_H

#include "core/ft_util.h"

/* Internal to core/: the functions that the table of ft.c is made of, where they are not in ft.c itself. */

typedef void (*ft_fn)(struct ft *ft, struct ft_ctx *c);

/* ft_serve.c */
void ft_alone_link_up(struct ft *ft, struct ft_ctx *c);
void ft_alone_link_down(struct ft *ft, struct ft_ctx *c);
void ft_alone_silent(struct ft *ft, struct ft_ctx *c);
void ft_alone_done(struct ft *ft, struct ft_ctx *c);
void ft_alone_timer(struct ft *ft, struct ft_ctx *c);
void ft_alone_ctl(struct ft *ft, struct ft_ctx *c);
void ft_alone_qemu_died(struct ft *ft, struct ft_ctx *c);
void ft_alone_guest_off(struct ft *ft, struct ft_ctx *c);
void ft_alone_disk_failed(struct ft *ft, struct ft_ctx *c);
void ft_alone_quit(struct ft *ft, struct ft_ctx *c);
void ft_pair_link_down(struct ft *ft, struct ft_ctx *c);
void ft_pair_silent(struct ft *ft, struct ft_ctx *c);
void ft_pair_stuck(struct ft *ft, struct ft_ctx *c);
void ft_pair_beat(struct ft *ft, struct ft_ctx *c);
void ft_pair_qemu_died(struct ft *ft, struct ft_ctx *c);
void ft_pair_qemu_hung(struct ft *ft, struct ft_ctx *c);
void ft_pair_guest_off(struct ft *ft, struct ft_ctx *c);
/* ft_pair_off() - the guest has ended its run: first the peer, then what is held, then this node */
void ft_pair_off(struct ft *ft, struct ft_ctx *c, enum ft_reason why);
void ft_pair_ctl(struct ft *ft, struct ft_ctx *c);
void ft_pair_done(struct ft *ft, struct ft_ctx *c);
void ft_pair_want(struct ft *ft, struct ft_ctx *c);
void ft_pair_disk_failed(struct ft *ft, struct ft_ctx *c);
void ft_sync_quit(struct ft *ft, struct ft_ctx *c);
void ft_protected_failover(struct ft *ft, struct ft_ctx *c);
void ft_protected_switch(struct ft *ft, struct ft_ctx *c);
void ft_protected_quit(struct ft *ft, struct ft_ctx *c);
void ft_pair_timer(struct ft *ft, struct ft_ctx *c);

/* ft_standby.c */
void ft_joining_link_up(struct ft *ft, struct ft_ctx *c);
void ft_joining_lost(struct ft *ft, struct ft_ctx *c);
void ft_standby_beat(struct ft *ft, struct ft_ctx *c);
void ft_joining_ctl(struct ft *ft, struct ft_ctx *c);
void ft_standby_qemu_lost(struct ft *ft, struct ft_ctx *c);
void ft_standby_quit(struct ft *ft, struct ft_ctx *c);
void ft_standby_link_down(struct ft *ft, struct ft_ctx *c);
void ft_standby_silent(struct ft *ft, struct ft_ctx *c);
void ft_standby_stuck(struct ft *ft, struct ft_ctx *c);
void ft_standby_ctl(struct ft *ft, struct ft_ctx *c);
void ft_standby_guest(struct ft *ft, struct ft_ctx *c);
void ft_standby_want(struct ft *ft, struct ft_ctx *c);
void ft_standby_done(struct ft *ft, struct ft_ctx *c);
void ft_standby_full(struct ft *ft, struct ft_ctx *c);
void ft_standby_failover(struct ft *ft, struct ft_ctx *c);
void ft_standby_switch(struct ft *ft, struct ft_ctx *c);
void ft_standby_timer(struct ft *ft, struct ft_ctx *c);
void ft_promoting_done(struct ft *ft, struct ft_ctx *c);
void ft_promoting_timer(struct ft *ft, struct ft_ctx *c);
void ft_promoting_guest_off(struct ft *ft, struct ft_ctx *c);

/* ft_pause.c */
void ft_serving_pause(struct ft *ft, struct ft_ctx *c);
void ft_standby_pause(struct ft *ft, struct ft_ctx *c);
void ft_alone_panic(struct ft *ft, struct ft_ctx *c);
void ft_pair_panic(struct ft *ft, struct ft_ctx *c);
void ft_standby_panic(struct ft *ft, struct ft_ctx *c);
void ft_promoting_panic(struct ft *ft, struct ft_ctx *c);

/* ft_ask.c */
void ft_witness(struct ft *ft, struct ft_ctx *c);
void ft_fenced_link_up(struct ft *ft, struct ft_ctx *c);
void ft_fenced_link_down(struct ft *ft, struct ft_ctx *c);
void ft_fenced_silent(struct ft *ft, struct ft_ctx *c);
void ft_fenced_ctl(struct ft *ft, struct ft_ctx *c);
void ft_fenced_done(struct ft *ft, struct ft_ctx *c);
void ft_fenced_timer(struct ft *ft, struct ft_ctx *c);
void ft_fenced_dead(struct ft *ft, struct ft_ctx *c);
void ft_fenced_guest_off(struct ft *ft, struct ft_ctx *c);
void ft_fenced_quit(struct ft *ft, struct ft_ctx *c);

#endif
