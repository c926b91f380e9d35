/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef CLI_WATCH_H
#define CLI_WATCH_H

#include <stdbool.h>

/*
 * watch_status() - `lockstep status --watch`: show the status again and again until ^C or q, also over the end and the next
 * start of the node. On a terminal the screen is redrawn in place; elsewhere there is a line for each change.
 * @dir, @name: as for client_open()
 * @json:       lines are JSON, also on a terminal
 *
 * Return: an exit status
 */
int watch_status(const char *dir, const char *name, bool json);

#endif
