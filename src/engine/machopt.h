/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_MACHOPT_H
#define ENGINE_MACHOPT_H

#include "engine/cmdline.h"

/*
 * machopt_take() - take one option of the machine's over
 * @name: machine, M, m, smp, rtc, accel or cpu
 *
 * Return: 0 or -errno with @e filled
 */
int machopt_take(struct cmdline *c, const char *name, const char *arg, struct err *e);

/* machopt_finish() - when all options are read: judge what they amount to. Return: 0 or -errno with @e filled */
int machopt_finish(struct cmdline *c, struct err *e);

#endif
