/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_SAVER_H
#define DISK_SAVER_H

#include <stdbool.h>

#include "base/err.h"
#include "base/loop.h"
#include "disk/meta.h"

/*
 * A thread that makes metas durable for serve.c: one round at a time, over all disks that have asked for it; what is
 * asked for meanwhile is for the next round. Without a loop there is no thread, and saver_step() does a round: for
 * tests.
 */
struct saver;

/*
 * saver_new() - @metas: of @n disks, an entry may be NULL
 * @done: in the loop, after a round: @rc 0 or the first error; may begin the next one
 */
struct saver *saver_new(struct loop *l, struct meta *const *metas, unsigned int n,
			void (*done)(void *arg), void *arg, struct err *e);
/* saver_free() - waits for a round that is under way; done() is not called any more */
void saver_free(struct saver *s);

/* saver_busy() - a round is under way */
bool saver_busy(const struct saver *s);
/* saver_begin() - none is: begin one; @header: lineages too */
void saver_begin(struct saver *s, bool header);
/* saver_result() - of the last round, for disk @i: 0, or -errno with a sentence in *@e (borrowed) */
int saver_result(const struct saver *s, unsigned int i, const struct err **e);
/* saver_step() - tests: end the round that was begun. Return: whether there was one */
bool saver_step(struct saver *s);

#endif
