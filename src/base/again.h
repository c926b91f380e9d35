/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_AGAIN_H
#define BASE_AGAIN_H

#include "base/err.h"

/*
 * Beginning anew, with the same command line and the rights of the first start. A process that has given its rights away
 * cannot load itself once more and have them; so the helper (base/spawn.h) starts another one, and this one stays as its
 * parent, passes signals on, and ends as it ends. The other one dies with this one. Where nothing was given
 * away this process loads itself.
 */

/*
 * again_once() - words of the command line, up to its "--", that were said for this start only and are not repeated
 * @words: borrowed, ends with NULL; one that begins with a comma is taken off the end of a word
 */
void again_once(const char *const *words);

/* again_allow() - it may be done later, also when the helper is sealed. Return: 0 or -errno with @e */
int again_allow(struct err *e);

/*
 * again_run() - begin anew; all that this process has open or locked should be given up before
 *
 * Main thread, the only one that is left; SIGTERM, SIGINT and SIGHUP are blocked. When the other process ends in order to begin
 * anew by this same function, this one starts the next, so there are never more than two.
 * Return: the exit status for this process, -errno with @e when it cannot be done
 */
int again_run(struct err *e);

#endif
