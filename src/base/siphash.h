/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_SIPHASH_H
#define BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

/*
 * siphash24() - keyed 64-bit hash of @len bytes (Aumasson and Bernstein, SipHash, 2012)
 * @key: two words, chosen at random at start, so that a hostile client cannot choose collisions
 */
uint64_t siphash24(const uint64_t key[2], const void *data, size_t len);

/* siphash13() - the same with fewer rounds, for tables: enough where an attacker never sees the hash itself */
uint64_t siphash13(const uint64_t key[2], const void *data, size_t len);

#endif
