/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef GUEST_INIT_H
#define GUEST_INIT_H

/* What init.c and net.c, the two parts of the guest's process 1, have of each other. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/** say() - writes one line to the console, in one write, so that nothing of the kernel's comes between. */
__attribute__((format(printf, 1, 2)))
void say(const char *fmt, ...);

/** now_ms() - the monotonic clock in milliseconds. */
int64_t now_ms(void);

/** nap() - waits a moment before something is looked at again. */
void nap(void);

/**
 * read_file() - reads a small file.
 * @path: the file
 * @buf:  filled in, NUL-terminated
 * @size: bytes at @buf; what is longer is cut
 *
 * Return: bytes read, or -errno.
 */
ssize_t read_file(const char *path, char *buf, size_t size);

/**
 * set_sysctl() - sets a sysctl; a failure is said on the console.
 * @name:  with slashes, for instance "net/core/somaxconn"
 * @value: as it is written there
 */
void set_sysctl(const char *name, const char *value);

/**
 * parameter() - looks for @name=VALUE on the kernel command line.
 * @name:  whole name
 * @value: filled in, NUL-terminated; may be NULL with @size 0 to ask only whether it is there
 * @size:  bytes at @value
 *
 * Return: whether it is there, not empty, and fits.
 */
bool parameter(const char *name, char *value, size_t size);

/**
 * load_drivers() - loads the drivers of all devices that are there.
 * @storage: those of disk controllers as well
 */
void load_drivers(bool storage);

/**
 * load_alias() - loads what the module table has under an alias that is no device's.
 * @alias: for instance "rtnl-link-vlan"
 */
void load_alias(const char *alias);

/**
 * network_prepare() - sets what must be set before the first network driver is loaded, and brings lo up.
 *
 * Return: whether an interface is to have an IPv6 address.
 */
bool network_prepare(void);

/**
 * network() - brings up all interfaces that the kernel command line names, with their addresses and routes.
 *
 * Return: 0, or -errno when an interface is missing. A setting that fails is said on the console and is no error here.
 */
int network(void);

#endif
