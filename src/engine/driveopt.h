/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef ENGINE_DRIVEOPT_H
#define ENGINE_DRIVEOPT_H

#include "engine/cmdline.h"

/*
 * Writable drives: what was understood goes into @c->disks[], and what QEMU is told instead into @c->opts[].
 * Return: 0, -ENOTSUP (refused), -EINVAL (not understood), -ENOMEM, with @e filled
 */

/* driveopt_drive() - a -drive that is neither read-only nor flash memory; @kv: @arg, read; taken over */
int driveopt_drive(struct cmdline *c, const char *arg, struct kvlist *kv, struct err *e);

/* driveopt_hd() - -hda and the like; @name: of the option, NULL for a bare word; @index: its place on the IDE buses */
int driveopt_hd(struct cmdline *c, const char *name, const char *index, const char *path, struct err *e);

/* driveopt_finish() - when all options are read: ids, -blockdev, the devices on them */
int driveopt_finish(struct cmdline *c, struct err *e);

/* What follows is for nodeopt.c and drivedev.c only. */

/* Where an option of a drive stands. */
enum drive_where {
	IN_DRIVE = 1,		/* in -drive, for its format */
	IN_NODE = 2,		/* in -blockdev, for the format */
	IN_FILE = 4,		/* in either, for the file below the format */
};

/*
 * drive_key() - judge one option
 * @key:  without the "file." that leads to a lower layer
 * @name: as the user wrote it
 * @out:  gets it, where it is one for QEMU
 */
int drive_key(struct cmdline *c, enum drive_where where, const char *key, const char *name, const char *val,
	      struct kvlist *out, struct err *e);

/* drive_is_format() - whether an image of a disk can be in this format; @why: gets the reason when not, else NULL */
bool drive_is_format(const char *format, const char **why);

/* drive_bool() - an on/off value, or -EINVAL with @e filled */
int drive_bool(const struct kvlist *kv, const char *key, int dflt, struct err *e);

/*
 * drive_add() - one more disk
 * @id:     NULL: comes later
 * @format: NULL: looked up in the image
 */
int drive_add(struct cmdline *c, const char *id, const char *path, const char *format, struct cmdline_disk **out,
	      struct err *e);

/* drive_errors() - judge werror and rerror of a drive or its device */
int drive_errors(const struct kvlist *kv, struct err *e);

/* drive_same_image() - whether two paths lead to one file or one block device, as far as can be seen */
bool drive_same_image(const char *a, const char *b);

/* nodeopt_finish() - the graph that -blockdev options make; each writable image in it becomes a disk */
int nodeopt_finish(struct cmdline *c, struct err *e);

#endif
