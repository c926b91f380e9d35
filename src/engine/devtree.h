/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_DEVTREE_H
#define ENGINE_DEVTREE_H

#include <stddef.h>
#include <stdio.h>

#include "base/err.h"

enum {
	DEVTREE_DEPTH = 64,		/* buses in one another */
	DEVTREE_MAX = 512,		/* devices */
	DEVTREE_LINE = 8192,		/* bytes of one device's line */
	DEVTREE_LONG = 40 << 10,	/* bytes of all lines, from which on each is shortened to a hash */
};

/*
 * devtree_shape() - the machine's devices as lines of a shape, "device.N=DRIVER "ID" on BUS; property=value; ..."
 * @qtree: what the monitor's `info qtree` prints
 * @room:  bytes that the lines may take
 *
 * Each device with the bus that it is on and all its properties, less what concerns one host only (names of character
 * devices, drives, paths) and what a guest's firmware sets. Where all that is longer than DEVTREE_LONG the properties
 * are a hash, and where that has no room either the whole tree is one.
 *
 * Return: 0; -EPROTO: that is no device tree; -ENOMEM; with @e filled
 */
int devtree_shape(const char *qtree, size_t room, FILE *f, struct err *e);

#endif
