/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_ROMLIST_H
#define ENGINE_ROMLIST_H

#include "base/err.h"

enum { ROMLIST_NAME = 256 };	/* bytes of a name that are shown */

/*
 * romlist_check() - does QEMU keep contents that each reset writes into the guest's memory again?
 * @text: what the monitor's `info roms` prints
 *
 * Loading a checkpoint begins with a reset, which would overwrite the checkpoint's memory with them.
 * Return: 0; -ENOTSUP: it does, or -EPROTO: that is no list of ROMs; with @e filled
 */
int romlist_check(const char *text, struct err *e);

#endif
