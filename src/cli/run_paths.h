/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLI_RUN_PATHS_H
#define CLI_RUN_PATHS_H

#include "run_opts.h"

/*
 * run_paths() - make the paths of the addresses that were given, and decide who listens
 * @o: given[] is read; paths, listen and peer are filled
 * @ours: addr_is_ours(), or a test's
 *
 * Return: 0, or -EINVAL with a sentence
 */
int run_paths(struct run_opts *o, bool (*ours)(const struct link_addr *a), struct err *e);

#endif
