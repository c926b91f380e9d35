/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_HOSTMEM_H
#define ENGINE_HOSTMEM_H

#include <stdint.h>

/*
 * hostmem_available() - how much memory this process could get now without the kernel killing something for it
 *
 * Return: bytes: what the host has left, or the control group allows, whichever is less; UINT64_MAX when it cannot
 * be found out
 */
uint64_t hostmem_available(void);

#endif
