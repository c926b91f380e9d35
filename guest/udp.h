/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUEST_UDP_H
#define GUEST_UDP_H

#include <stddef.h>
#include <stdint.h>

/**
 * udp_start() - starts the thread that serves UDP on a port, IPv4 and IPv6 (PROTOCOL.md).
 * @port: the port
 *
 * Return: 0 or -errno.
 */
int udp_start(uint16_t port);

/**
 * fresh_random() - random bytes that two copies of the VM do not share.
 * @buf: filled in
 * @n:   bytes
 *
 * Return: bytes got: @n, fewer when the kernel fails.
 */
size_t fresh_random(void *buf, size_t n);

#endif
