/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef MEM_SWAPFILE_H
#define MEM_SWAPFILE_H

#include <stdint.h>

/*
 * swapfile_new() - have something to swap to, for as long as this process lives
 * @bytes: its size
 *
 * A swap file is made in /tmp, nameless after the end however that comes about: a child of its own waits for it.
 * Return: NULL, or a sentence why there is none (no root, a file system that cannot have one)
 */
const char *swapfile_new(uint64_t bytes);

#endif
