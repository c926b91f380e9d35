/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUEST_DISK_H
#define GUEST_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	DISK_ANSWER_MAX = 160,	/* the longest answer, with its NUL */
};

/**
 * disk_start() - prepares for commands about disks; a thread for each disk is started when the first one comes.
 *
 * Return: an eventfd that becomes readable when an answer is there, or -errno.
 */
int disk_start(void);

/**
 * disk_command() - gives a command to the thread of the disk that it is about.
 * @ticket: comes back with the answer
 * @args:   what follows "disk " on the line
 * @answer: DISK_ANSWER_MAX bytes; what to answer when it is not 0 that comes back
 *
 * Return: 0 when disk_answer() will give the answer later, or -errno with a sentence at @answer.
 */
int disk_command(uint64_t ticket, const char *args, char *answer);

/**
 * disk_answer() - takes an answer that the eventfd has announced.
 * @ticket: of the command
 * @answer: DISK_ANSWER_MAX bytes: the answer, without newline
 *
 * Return: whether there was one. To be called until there is none.
 */
bool disk_answer(uint64_t *ticket, char *answer);

#endif
