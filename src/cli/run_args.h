/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLI_RUN_ARGS_H
#define CLI_RUN_ARGS_H

#include "base/err.h"
#include "cli/cli.h"
#include "run_opts.h"

/* The options of `lockstep run`, for cmd_run. */
extern const struct cli_opt run_opts_table[];

#define RUN_HELP 1	/* return of run_args_parse(): help was asked for */

/*
 * run_args_parse() - read the command line of `lockstep run`
 * @argv: [0] is "run"; ends with NULL; o->qemu_argv points into it
 * @o:    filled, defaults included
 *
 * Return: 0, RUN_HELP, or -EINVAL (or another -errno) with a sentence
 */
int run_args_parse(int argc, char **argv, struct run_opts *o, struct err *e);

/* run_args_free() - after everything that borrows from @o, also when it was refused */
void run_args_free(struct run_opts *o);

#endif
