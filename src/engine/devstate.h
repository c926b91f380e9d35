/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_DEVSTATE_H
#define ENGINE_DEVSTATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define DEVSTATE_MAX		(32u << 20)		/* bytes of device state; larger is refused */
#define DEVSTATE_NODE		"lockstep-state"	/* QEMU's block node, a -blockdev at start */
#define DEVSTATE_JOB		"lockstep-load"		/* QEMU's job while a state is loaded */

/*
 * QEMU's device state on its way out and in. Each direction has a memfd that QEMU inherits by number: into the first
 * QEMU writes its state, the second is a disk image whose snapshot holds the state that QEMU is to load.
 */
struct devstate;

/*
 * devstate_new() - both memfds, and an image with an empty snapshot
 * @save_num: number of the first memfd in QEMU
 * @load_num: number of the second
 *
 * Return: NULL with @e filled when it cannot be had
 */
struct devstate *devstate_new(int save_num, int load_num, struct err *e);

/* devstate_free() - NULL is fine */
void devstate_free(struct devstate *ds);

/* devstate_fds() - our descriptors, to be handed to QEMU: fds[0] for saving, fds[1] for loading; they stay ours */
void devstate_fds(const struct devstate *ds, int fds[2]);

/*
 * devstate_args() - what to put on QEMU's command line behind -blockdev; @len bytes
 *
 * Needed as well: "-global migration.send-configuration=off", "-machine ...,suppress-vmdesc=on".
 * Return: 0, or -ENAMETOOLONG
 */
int devstate_args(const struct devstate *ds, char *blockdev, size_t len);

/*
 * devstate_save_cmd() - QMP command, a JSON text without newline: write the state into the first memfd
 * devstate_load_cmd() - start the job that loads the state out of the second
 * devstate_jobs_cmd() - ask how the job goes: until its "status" is "concluded"; an "error" in it is a failed load
 * devstate_dismiss_cmd() - forget the concluded job; always, before the next load
 *
 * The VM must be stopped for all of them; it is in the run state that it was in, after them. An event
 * JOB_STATUS_CHANGE tells when to ask. The texts live as long as @ds.
 */
const char *devstate_save_cmd(const struct devstate *ds);
const char *devstate_load_cmd(const struct devstate *ds);
const char *devstate_jobs_cmd(const struct devstate *ds);
const char *devstate_dismiss_cmd(const struct devstate *ds);

/*
 * devstate_saved() - what QEMU has written, after the answer to the save command
 * @ptr: set to the bytes; they live until the next call
 * @len: set to their number
 *
 * Return: 0; -EPROTO when it is no complete device state of the kind that can be loaded, -EFBIG; @e is filled
 */
int devstate_saved(struct devstate *ds, const void **ptr, size_t *len, struct err *e);

/*
 * devstate_put() - make @ptr, @len bytes, the state that the next load command loads
 *
 * Not while a load is going on. Return: 0; -EPROTO, -EFBIG or another -errno with @e filled
 */
int devstate_put(struct devstate *ds, const void *ptr, size_t len, struct err *e);

/* devstate_check() - whether bytes look like a complete state; 0, -EPROTO or -EFBIG with @e filled */
int devstate_check(const void *ptr, size_t len, struct err *e);

#endif
