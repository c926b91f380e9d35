/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_SHAPE_H
#define ENGINE_SHAPE_H

#include <stdint.h>
#include <stdio.h>

#include "engine/cmdline.h"
#include "engine/probe.h"

enum {
	SHAPE_MAX = 64 << 10,	/* bytes of a shape, the peer's as well */
	SHAPE_LINES = 2048,
};

/*
 * cmdline_shape() - what must be equal on both nodes
 * @c:    a line that cmdline_parse() accepted
 * @p:    what QEMU's binary here is
 * @text: gets allocated text: lines "key=value", each key once, sorted by nothing but always in the same order
 *
 * A path may differ between hosts, what it names may not: files count by size and content (filehash.h).
 *
 * Return: 0; -ENOENT and the like when a file cannot be looked at, -EINVAL, -E2BIG, with @e filled
 */
int cmdline_shape(const struct cmdline *c, const struct probe *p, char **text, struct err *e);

/*
 * cmdline_shape_sizes() - the lines that can be written when the images are open
 * @bytes: size of the image of each of @c->disks[]
 */
void cmdline_shape_sizes(const struct cmdline *c, const uint64_t *bytes, FILE *f);

/*
 * shape_compare() - whether two nodes can be a pair
 * @mine:   of this node
 * @theirs: @len bytes from the peer, believed in nothing; need not end with a NUL
 *
 * Return: 0: equal; -EXDEV: @e names the first difference; -EPROTO: @theirs is not a shape
 */
int shape_compare(const char *mine, const char *theirs, size_t len, struct err *e);

#endif
