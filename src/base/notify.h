/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_NOTIFY_H
#define BASE_NOTIFY_H

#include "base/clock.h"

/*
 * Telling the service manager (systemd's sd_notify protocol): datagrams to the socket that NOTIFY_SOCKET names. Without one,
 * everything here does nothing. Main thread.
 */

/* notify_init() - look at the environment, and take NOTIFY_SOCKET and WATCHDOG_* out of it: they are not for QEMU */
void notify_init(void);

/* notify_pass_on() - this process is about to become a new program (exec), which the manager goes on hearing from: put it back */
void notify_pass_on(void);

/* notify_env() - the same for a child: @out gets "NAME=value" texts, two at most, that stay valid, and NULL */
void notify_env(const char *out[3]);

/* notify_watchdog() - how often the service manager wants to hear from this process, half of its limit; NS_NEVER: not at all */
nstime notify_watchdog(void);

/*
 * notify_ready() - this node does what it is there for, once; notify_alive() - the control loop turns; notify_stopping() - it
 * ends; notify_again() - it ends in order to begin anew, which is no end to the manager
 */
void notify_ready(void);
void notify_alive(void);
void notify_stopping(void);
void notify_again(void);

/* notify_status() - one line for `systemctl status` */
void notify_status(const char *word, const char *role, const char *why);

#endif
