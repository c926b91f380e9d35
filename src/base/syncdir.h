/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BASE_SYNCDIR_H
#define BASE_SYNCDIR_H

/*
 * sync_dir_of() - make the directory durable that @path lies in: a file that was made, renamed or removed is so after a
 * crash only when its directory says so. Blocks. Return: 0, or -errno (-EINVAL: this file system has no such thing)
 */
int sync_dir_of(const char *path);

#endif
