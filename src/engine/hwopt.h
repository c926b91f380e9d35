/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_HWOPT_H
#define ENGINE_HWOPT_H

#include "engine/cmdline.h"

/*
 * One option of a kind each: what may be protected is handed on, anything else refused with its reason.
 * Return: 0, -ENOTSUP (refused), -EINVAL (not understood), -ENOMEM, with @e filled
 */
int hwopt_device(struct cmdline *c, const char *arg, struct err *e);
int hwopt_object(struct cmdline *c, const char *arg, struct err *e);
int hwopt_drive(struct cmdline *c, const char *arg, struct err *e);
int hwopt_blockdev(struct cmdline *c, const char *arg, struct err *e);
int hwopt_chardev(struct cmdline *c, const char *arg, struct err *e);
int hwopt_global(struct cmdline *c, const char *arg, struct err *e);

/* hwopt_is_flash() - whether a -drive is flash memory that the guest writes: each node has a file of its own for it */
bool hwopt_is_flash(const struct kvlist *kv);

#endif
