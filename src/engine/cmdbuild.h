/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_CMDBUILD_H
#define ENGINE_CMDBUILD_H

#include "engine/cmdline.h"

/*
 * cmdline_build() - the command line that QEMU is started with
 * @c:    a line that cmdline_parse() accepted
 * @env:  descriptors and so on of this start
 * @argv: gets an allocated array ended by NULL, to be freed with cmdline_argv_free(); argv[0] is @c->binary
 *
 * The VM starts stopped, with QMP on env->qmp_fd; each NIC's frames go to its nic_fd, framed by a 4-byte big-endian
 * length; each disk is the export of its id at the NBD server of env->disk_socket.
 *
 * Return: 0, -EINVAL, -ENAMETOOLONG (env->disk_socket) or -ENOMEM with @e filled
 */
int cmdline_build(const struct cmdline *c, const struct cmdline_env *env, char ***argv, struct err *e);

/* cmdline_argv_free() - free what cmdline_build() made; NULL is fine */
void cmdline_argv_free(char **argv);

#endif
