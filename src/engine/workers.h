/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_WORKERS_H
#define ENGINE_WORKERS_H

#include "base/err.h"

/* A few threads that divide one piece of work between them: scanning, copying, packing of guest memory. */
struct workers;

#define WORKERS_MAX	16

/* workers_default() - as many as are worth it on this host: one for each CPU, at most four */
unsigned int workers_default(void);

/*
 * workers_new() - @n workers (1 to WORKERS_MAX), of which the caller of workers_run() is one
 * Return: the workers; NULL with @e filled
 */
struct workers *workers_new(unsigned int n, struct err *e);

/* workers_free() - end the threads; nothing may be under way; NULL is fine */
void workers_free(struct workers *w);

/* workers_count() - how many there are, the caller included; 1 for NULL */
unsigned int workers_count(const struct workers *w);

/*
 * workers_run() - have @fn(@arg, i) called once for each i below @chunks, in no order and by several threads
 *
 * Comes back when all have returned. One at a time, by one thread. @w may be NULL: all is done by the caller.
 */
void workers_run(struct workers *w, void (*fn)(void *arg, unsigned int chunk), void *arg, unsigned int chunks);

#endif
