/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What is on a writable drive: the ids that QEMU makes up for drives without one, and the devices that have a drive.
 * Only devices whose drive has been seen to go through checkpoints and a failover are let through (docs/devices.md).
 * Runs before anything else, in the main thread, when all options are read.
 */
#include "engine/driveopt.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define NOT_TRIED	"a writable drive on this device has not been tried; write virtio-blk-pci, ide-hd, or scsi-hd " \
			"on a virtio-scsi-pci"

/* Devices for a writable drive; NULL: protected. */
static const struct {
	const char *pattern, *why;
} devices[] = {
	{ "virtio-blk-pci", NULL },
	{ "virtio-blk-pci-transitional", NULL },
	{ "virtio-blk-pci-non-transitional", NULL },
	{ "virtio-blk", NULL },
	{ "ide-hd", NULL },
	{ "scsi-hd", NULL },
	{ "ide-cd", "its drive can be written; write readonly=on at the drive of a CD-ROM" },
	{ "scsi-cd", "its drive can be written; write readonly=on at the drive of a CD-ROM" },
	{ "nvme*", "QEMU cannot migrate the state of an NVMe device; write virtio-blk-pci" },
	{ "*", NOT_TRIED },
};

/* Controllers for scsi-hd that are not virtio's. */
static const char *const scsi_controllers[] = {
	"lsi*", "am53c974", "dc390", "megasas*", "mptsas1068", "pvscsi", "usb-uas", "usb-bot",
};

static int no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "no memory for a drive");
}

/* A place for a drive, as QEMU counts them. */
struct place {
	char bus[16];
	unsigned int n, unit;
};

static bool taken(const struct place *p, unsigned int n, const struct place *want)
{
	for (unsigned int i = 0; i < n; i++)
		if (!strcmp(p[i].bus, want->bus) && p[i].n == want->n && p[i].unit == want->unit)
			return true;
	return false;
}

/* find_place() - where QEMU puts a drive; @max: drives on one bus, 0: there is one bus without end */
static int find_place(const struct kvlist *kv, unsigned int max, const struct place *p, unsigned int n,
		      struct place *out, struct err *e)
{
	static const char *const which[] = { "index", "bus", "unit" };
	unsigned int val[3] = { 0 };
	bool given[3] = { false };

	for (int i = 0; i < 3; i++) {
		const char *text = kvlist_get(kv, which[i]);

		given[i] = text;
		if (text && args_uint(text, 1000, &val[i]))
			return err_set(e, -EINVAL, "-drive %s=%.40s: this is not a number to 1000", which[i], text);
	}
	out->n = given[0] && max ? val[0] / max : val[1];
	out->unit = given[0] ? (max ? val[0] % max : val[0]) : val[2];
	if (given[0] || given[2])
		return 0;
	while (taken(p, n, out)) {
		out->unit++;
		if (max && out->unit >= max) {
			out->unit = 0;
			out->n++;
		}
	}
	return 0;
}

/* The ids that QEMU makes up for drives that have none: ide0-hd1, virtio0, none0. */
static int make_ids(struct cmdline *c, struct err *e)
{
	static const struct kvlist none = { 0 };
	unsigned int ide_max = c->machine && strstr(c->machine, "q35") ? 1 : 2, n = 0;
	struct place *places = calloc(c->n_opts + 1, sizeof(*places));
	int rc = places ? 0 : no_memory(e);

	for (unsigned int i = 0; i < c->n_opts && !rc; i++) {
		const struct cmdopt *o = &c->opts[i];
		bool cdrom = !strcmp(o->name, "cdrom"), ide;
		const struct kvlist *kv = cdrom ? &none : &o->kv;
		struct place *p = places ? &places[n] : NULL;
		const char *bus = kvlist_get(kv, "if");
		struct cmdline_disk *d;
		int len;

		if (!p || (!cdrom && strcmp(o->name, "drive")))
			continue;
		snprintf(p->bus, sizeof(p->bus), "%s", bus ? bus : "ide");
		ide = !strcmp(p->bus, "ide");
		rc = find_place(kv, ide ? ide_max : 0, places, n, p, e);
		if (cdrom) {
			p->n = 2 / ide_max;
			p->unit = 2 % ide_max;
		}
		n++;
		if (rc || o->kind != CMDOPT_DISK || c->disks[o->disk].id)
			continue;
		d = &c->disks[o->disk];
		len = ide ? asprintf(&d->id, "ide%u-hd%u", p->n, p->unit) : asprintf(&d->id, "%s%u", p->bus, p->unit);
		if (len < 0) {
			d->id = NULL;
			rc = no_memory(e);
		}
	}
	free(places);
	return rc;
}

static struct cmdline_disk *find_disk(struct cmdline *c, const char *name)
{
	for (unsigned int i = 0; i < c->n_disks; i++)
		if (!strcmp(c->disks[i].id, name))
			return &c->disks[i];
	/* A device may also name the node of a -drive, or a filter above a node. */
	for (unsigned int i = 0; i < c->n_opts; i++) {
		const char *node = kvlist_get(&c->opts[i].kv, "node-name"), *below = kvlist_get(&c->opts[i].kv, "file");

		if (!node || strcmp(node, name))
			continue;
		if (c->opts[i].kind == CMDOPT_DISK)
			return &c->disks[c->opts[i].disk];
		if (!strcmp(c->opts[i].name, "blockdev") && below && kvlist_bool(&c->opts[i].kv, "read-only", 0) != 1 &&
		    strcmp(below, name))
			return find_disk(c, below);
	}
	return NULL;
}

static int set_report(struct cmdopt *o, struct err *e)
{
	char *arg;

	if (kvlist_set(&o->kv, "werror", "report"))
		return no_memory(e);
	arg = kvlist_format(&o->kv, "driver");
	if (!arg)
		return no_memory(e);
	free(o->arg);
	o->arg = arg;
	return 0;
}

/* Which of several controllers a scsi-hd is on is QEMU's to find; one that is not virtio's is too many. */
static bool other_controller(const struct cmdline *c)
{
	for (unsigned int i = 0; i < c->n_opts; i++) {
		const char *driver = strcmp(c->opts[i].name, "device") ? NULL : kvlist_get(&c->opts[i].kv, "driver");

		for (size_t k = 0; driver && k < ARRAY_LEN(scsi_controllers); k++)
			if (!fnmatch(scsi_controllers[k], driver, 0))
				return true;
	}
	return false;
}

static int join_device(struct cmdline *c, unsigned int opt, struct err *e)
{
	struct cmdopt *o = &c->opts[opt];
	const char *driver = kvlist_get(&o->kv, "driver"), *name = kvlist_get(&o->kv, "drive"), *werror;
	struct cmdline_disk *d = name ? find_disk(c, name) : NULL;
	size_t i = 0;
	int rc;

	if (!d)
		return 0;
	while (fnmatch(devices[i].pattern, driver, 0))
		i++;
	if (devices[i].why)
		return err_set(e, -ENOTSUP, "%s", devices[i].why);
	if (!strcmp(driver, "scsi-hd") && other_controller(c))
		return err_set(e, -ENOTSUP, "%s", NOT_TRIED);
	if (d->dev >= 0)
		return err_set(e, -EINVAL, "drive=%.60s: another device is on it already", name);
	d->dev = (int)opt;
	rc = drive_errors(&o->kv, e);
	werror = kvlist_get(&o->kv, "werror");
	if (!rc && d->node && (!werror || !strcmp(werror, "auto")))
		rc = set_report(o, e);
	return rc;
}

/* A read-only drive on the image of a writable one would not see what is written. */
static int judge_read_only(const struct cmdline *c, struct err *e)
{
	static const char *const which[] = { "file", "filename", "file.filename" };

	for (unsigned int i = 0; i < c->n_opts; i++) {
		const struct cmdopt *o = &c->opts[i];
		bool cdrom = !strcmp(o->name, "cdrom");

		if (!cdrom && (o->kind != CMDOPT_LIST || (strcmp(o->name, "drive") && strcmp(o->name, "blockdev"))))
			continue;
		for (size_t k = 0; k < ARRAY_LEN(which); k++) {
			const char *path = cdrom ? o->arg : kvlist_get(&o->kv, which[k]);

			for (unsigned int d = 0; path && d < c->n_disks; d++)
				if (drive_same_image(path, c->disks[d].path))
					return err_set(e, -EINVAL, "-%s %.100s: this is the image of a writable drive "
						       "too", o->name, o->arg);
		}
	}
	return 0;
}

int driveopt_finish(struct cmdline *c, struct err *e)
{
	int rc = make_ids(c, e);

	if (!rc)
		rc = nodeopt_finish(c, e);
	for (unsigned int i = 0; i < c->n_disks && !rc; i++)
		for (unsigned int k = 0; k < i && !rc; k++)
			if (!strcmp(c->disks[i].id, c->disks[k].id))
				rc = err_set(e, -EINVAL, "two drives have the id %s", c->disks[i].id);
	if (!rc)
		rc = judge_read_only(c, e);
	for (unsigned int i = 0; i < c->n_opts && !rc; i++) {
		if (strcmp(c->opts[i].name, "device"))
			continue;
		rc = join_device(c, i, e);
		if (rc)
			err_prefix(e, "-device %.80s", c->opts[i].arg);
	}
	return rc;
}
