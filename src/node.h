/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef NODE_H
#define NODE_H

#include "base/err.h"
#include "run_opts.h"

/*
 * node_run() - one node of a pair, from start to end: wires the parts and runs the control loop in this thread
 * @o: what was asked for; borrowed until the return
 * @e: a sentence when it could not start
 *
 * The log is set up already. Return: 0 when it ended as wanted (quit, the guest powered off), 1 when it ended
 * because of a failure that the log has told; -EINVAL or -ENOTSUP with @e when the command line asks for what
 * cannot be, another -errno with @e when the start failed
 */
int node_run(const struct run_opts *o, struct err *e);

#endif
