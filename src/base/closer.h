/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_CLOSER_H
#define BASE_CLOSER_H

#include "base/err.h"

/* Closes this process's files as soon as one of its threads has died, long before the kernel gets to it (closer.c). */
struct closer;

/*
 * closer_start() - start the helper; main thread, before there are other threads and large memory
 * Return: the closer, to be ended with closer_end(); NULL with @e set
 */
struct closer *closer_start(struct err *e);
/* closer_watch() - from now on the death of the calling thread is what counts; once */
void closer_watch(struct closer *c);
/* closer_leave() - the calling thread, which was watched, ends in order: nothing is to be closed */
void closer_leave(struct closer *c);
/* closer_end() - end the helper and wait for that; no thread is watched any more. NULL is allowed */
void closer_end(struct closer *c);

#endif
