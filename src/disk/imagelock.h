/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef DISK_IMAGELOCK_H
#define DISK_IMAGELOCK_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

/*
 * imagelock_take() - lock an image file as a QEMU does that has it open
 * @fd:    of the image; the lock lasts as long as this open file
 * @path:  for the sentence
 * @write: it will be written
 *
 * Return: 0; -EBUSY with a sentence that says who has it, where that can be found; 0 with a note in the log where the
 * file system has no such locks
 */
int imagelock_take(int fd, const char *path, bool write, struct err *e);

/*
 * imagelock_shared() - lock an image that two nodes have open: other programs are kept out as by imagelock_take(), and of
 * each role there is one
 * @serves: the role; when it has changed this may be called again
 *
 * Return: as imagelock_take()
 */
int imagelock_shared(int fd, const char *path, bool serves, struct err *e);
/* imagelock_role_held() - whether another open file has this role with the image */
bool imagelock_role_held(int fd, bool serves);

/* imagelock_holder() - fill @who with "process 123 (name)" of who has an image open. Return: false: nobody is found */
bool imagelock_holder(const char *path, char *who, size_t size);

#endif
