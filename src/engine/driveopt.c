/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Writable drives on QEMU's command line. Lockstep opens the image and QEMU gets an NBD disk in its place, under the
 * same id, so the devices on it are handed on as they are. What says how the image is to be opened (path, format,
 * direct I/O, who does the I/O) is taken away; what the guest or QEMU's own block layer sees (bus, unit, write cache,
 * throttling, discard, detect-zeroes) stays. What would change the image's meaning and cannot be kept is refused by its
 * name.
 *
 * Errors: an error of the disk is the guest's. QEMU's default would stop the VM when the host's disk is full, and
 * nobody could continue it, so werror=report is written out.
 *
 * A drive without format= is looked at, but what it says is not believed: the guest could have written the header of a
 * format with a backing file into a raw image, and would be given that file at the next start. So an image that begins
 * like one of a format has to be named one; any other is raw.
 *
 * Read-only drives do not come here (hwopt.c). Runs before anything else, in the main thread.
 */
#include "engine/driveopt.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

enum how {
	KEY_READ,	/* read elsewhere */
	KEY_KEEP,	/* handed on */
	KEY_DROP,	/* means nothing here */
	KEY_NOTE,	/* the same, and the user is told */
	KEY_OFF,	/* must be off */
	KEY_NO,		/* refused */
};

#define ANYWHERE	(IN_DRIVE | IN_NODE | IN_FILE)
#define OWN_IO		"Lockstep reads and writes the image itself"
#define ENCRYPTED	"an encrypted image needs a key, which Lockstep is not given; encrypt inside the guest"
#define IN_HEADER	"what an image stands on must be named in the image itself"

static const struct {
	const char *pattern;
	unsigned int where;
	enum how how;
	const char *why;
} keys[] = {
	{ "if", IN_DRIVE, KEY_KEEP, NULL },
	{ "index", IN_DRIVE, KEY_KEEP, NULL },
	{ "bus", IN_DRIVE, KEY_KEEP, NULL },
	{ "unit", IN_DRIVE, KEY_KEEP, NULL },
	{ "media", IN_DRIVE, KEY_KEEP, NULL },
	{ "id", IN_DRIVE, KEY_KEEP, NULL },
	{ "node-name", IN_DRIVE, KEY_KEEP, NULL },
	{ "werror", IN_DRIVE, KEY_KEEP, NULL },
	{ "rerror", IN_DRIVE, KEY_KEEP, NULL },
	{ "stats-*", IN_DRIVE, KEY_KEEP, NULL },
	{ "throttling.*", IN_DRIVE, KEY_KEEP, NULL },
	{ "bps", IN_DRIVE, KEY_KEEP, NULL },
	{ "bps_*", IN_DRIVE, KEY_KEEP, NULL },
	{ "iops", IN_DRIVE, KEY_KEEP, NULL },
	{ "iops_*", IN_DRIVE, KEY_KEEP, NULL },
	{ "group", IN_DRIVE, KEY_KEEP, NULL },
	{ "cache", IN_DRIVE, KEY_READ, NULL },
	{ "cache.writeback", IN_DRIVE, KEY_READ, NULL },
	{ "format", IN_DRIVE, KEY_READ, NULL },
	{ "file", IN_DRIVE | IN_NODE, KEY_READ, NULL },
	{ "readonly", IN_DRIVE, KEY_READ, NULL },
	{ "snapshot", IN_DRIVE, KEY_READ, NULL },
	{ "copy-on-read", IN_DRIVE, KEY_OFF, "it would fill the image while it is read; leave it out" },
	{ "driver", ANYWHERE, KEY_READ, NULL },
	{ "node-name", IN_NODE | IN_FILE, KEY_READ, NULL },
	{ "filename", IN_FILE, KEY_READ, NULL },
	{ "read-only", ANYWHERE, KEY_READ, NULL },
	{ "discard", ANYWHERE, KEY_READ, NULL },
	{ "detect-zeroes", ANYWHERE, KEY_READ, NULL },
	{ "cache.direct", ANYWHERE, KEY_READ, NULL },
	{ "cache.no-flush", ANYWHERE, KEY_READ, NULL },
	{ "auto-read-only", ANYWHERE, KEY_DROP, NULL },
	{ "force-share", ANYWHERE, KEY_OFF, "an image that others write at the same time cannot be replicated" },
	{ "aio", IN_DRIVE | IN_FILE, KEY_NOTE, OWN_IO },
	{ "aio-max-batch", IN_FILE, KEY_DROP, NULL },
	{ "locking", IN_DRIVE | IN_FILE, KEY_DROP, NULL },
	{ "drop-cache", IN_FILE, KEY_DROP, NULL },
	{ "x-check-cache-dropped", IN_FILE, KEY_DROP, NULL },
	{ "pr-manager", IN_FILE, KEY_NO, "reservations of the host's disk are not replicated" },
	{ "*cache-size", IN_DRIVE | IN_NODE, KEY_NOTE, OWN_IO },
	{ "l2-cache-entry-size", IN_DRIVE | IN_NODE, KEY_NOTE, OWN_IO },
	{ "cache-clean-interval", IN_DRIVE | IN_NODE, KEY_NOTE, OWN_IO },
	{ "lazy-refcounts", IN_DRIVE | IN_NODE, KEY_NOTE, OWN_IO },
	{ "overlap-check*", IN_DRIVE | IN_NODE, KEY_NOTE, OWN_IO },
	{ "pass-discard-*", IN_DRIVE | IN_NODE, KEY_NOTE, OWN_IO },
	{ "discard-no-unref", IN_DRIVE | IN_NODE, KEY_NOTE, OWN_IO },
	{ "encrypt.*", IN_DRIVE | IN_NODE, KEY_NO, ENCRYPTED },
	{ "key-secret", IN_DRIVE | IN_NODE, KEY_NO, ENCRYPTED },
	{ "backing", IN_DRIVE | IN_NODE, KEY_NO, IN_HEADER },
	{ "backing.*", IN_DRIVE | IN_NODE, KEY_NO, IN_HEADER },
	{ "data-file", IN_DRIVE | IN_NODE, KEY_NO, IN_HEADER },
	{ "data-file.*", IN_DRIVE | IN_NODE, KEY_NO, IN_HEADER },
	{ "offset", IN_DRIVE | IN_NODE, KEY_NO, "a part of an image cannot be a drive; make it an image of its own" },
	{ "size", IN_DRIVE | IN_NODE, KEY_NO, "a part of an image cannot be a drive; make it an image of its own" },
	{ "serial", IN_DRIVE, KEY_NO, "QEMU takes it at the -device only" },
};

/* Formats that QEMU's storage daemon can write; with a reason: that would not do. */
static const struct {
	const char *name, *why;
} formats[] = {
	{ "raw", NULL }, { "qcow2", NULL }, { "qed", NULL }, { "qcow", NULL }, { "vmdk", NULL }, { "vdi", NULL },
	{ "vhdx", NULL }, { "vpc", NULL }, { "parallels", NULL },
	{ "luks", ENCRYPTED },
	{ "bochs", "this format can only be read" },
	{ "cloop", "this format can only be read" },
	{ "dmg", "this format can only be read" },
};

/* How an image of a format begins. */
static const struct {
	const char *format;
	unsigned int off, len;
	const char *magic;
} magics[] = {
	{ "qcow2", 0, 4, "QFI\xfb" },		/* its version 1 is qcow; who names the format knows */
	{ "qed", 0, 4, "QED\0" },
	{ "vmdk", 0, 4, "KDMV" },
	{ "vmdk", 0, 4, "COWD" },
	{ "vmdk", 0, 21, "# Disk DescriptorFile" },
	{ "vdi", 64, 4, "\x7f\x10\xda\xbe" },
	{ "vhdx", 0, 8, "vhdxfile" },
	{ "vpc", 0, 8, "conectix" },
	{ "luks", 0, 6, "LUKS\xba\xbe" },
	{ "parallels", 0, 16, "WithoutFreeSpace" },
	{ "parallels", 0, 16, "WithouFreSpacExt" },
};

static int no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "no memory for a drive");
}

bool drive_is_format(const char *format, const char **why)
{
	*why = "this format is not supported";
	for (size_t i = 0; i < ARRAY_LEN(formats); i++)
		if (!strcmp(formats[i].name, format)) {
			*why = formats[i].why;
			return !formats[i].why;
		}
	return false;
}

int drive_bool(const struct kvlist *kv, const char *key, int dflt, struct err *e)
{
	int on = kvlist_bool(kv, key, dflt);

	return on == -EINVAL ? err_set(e, on, "%.60s=%.40s: this is neither on nor off", key, kvlist_get(kv, key)) : on;
}

int drive_key(struct cmdline *c, enum drive_where where, const char *key, const char *name, const char *val,
	      struct kvlist *out, struct err *e)
{
	size_t i = 0;

	while (i < ARRAY_LEN(keys) && (!(keys[i].where & where) || fnmatch(keys[i].pattern, key, 0)))
		i++;
	if (i == ARRAY_LEN(keys))
		return err_set(e, -ENOTSUP, "%.60s=: a writable drive with this option is not supported", name);
	switch (keys[i].how) {
	case KEY_READ:
	case KEY_DROP:
		return 0;
	case KEY_NOTE:
		cmdline_note(c, "%.60s=%.60s was left out: %s", name, val, keys[i].why);
		return 0;
	case KEY_KEEP:
		return kvlist_set(out, key, val) ? no_memory(e) : 0;
	case KEY_OFF:
		if (!strcmp(val, "off") || !strcmp(val, "no") || !strcmp(val, "false") || !strcmp(val, "n"))
			return 0;
		break;
	case KEY_NO:
		break;
	}
	return err_set(e, -ENOTSUP, "%.60s=%.60s: %s", name, val, keys[i].why);
}

/* An option's value in QEMU's words for ids: what the peer, a log and an export's name can bear. */
static bool well_formed(const char *id)
{
	if (!isalpha((unsigned char)id[0]))
		return false;
	for (const char *p = id; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("-._", *p))
			return false;
	return strlen(id) < 64;
}

bool drive_same_image(const char *a, const char *b)
{
	struct stat sa, sb;

	if (!strcmp(a, b))
		return true;
	if (stat(a, &sa) || stat(b, &sb))
		return false;
	if (S_ISBLK(sa.st_mode) && S_ISBLK(sb.st_mode))
		return sa.st_rdev == sb.st_rdev;
	return sa.st_dev == sb.st_dev && sa.st_ino == sb.st_ino;
}

/* The format that an image says it has, NULL: none. What cannot be read says so when it is opened. */
static const char *begins_like(const char *path)
{
	const char *format = NULL;
	struct stat st;
	char head[80];
	ssize_t n;
	int fd;

	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return NULL;
	n = fstat(fd, &st) || !(S_ISREG(st.st_mode) || S_ISBLK(st.st_mode)) ? 0 : pread(fd, head, sizeof(head), 0);
	for (size_t i = 0; i < ARRAY_LEN(magics) && !format; i++)
		if (n >= (ssize_t)(magics[i].off + magics[i].len) &&
		    !memcmp(head + magics[i].off, magics[i].magic, magics[i].len))
			format = magics[i].format;
	close(fd);
	return format;
}

static int judge_path(const char *path, struct err *e)
{
	struct stat st;

	if (!path[0])
		return err_set(e, -EINVAL, "which image? Its path is empty");
	if (!stat(path, &st) && S_ISCHR(st.st_mode))
		return err_set(e, -ENOTSUP, "%.80s: a writable drive must be a file or a block device, and this is a "
			       "character device", path);
	return 0;
}

/* "nbd://", "json:", "fat:": as QEMU reads -drive file=, a colon before any slash is a protocol's. */
static int strip_protocol(const char **path, struct err *e)
{
	const char *colon = strchr(*path, ':'), *slash = strchr(*path, '/');

	if (!strncmp(*path, "file:", 5))
		*path += 5;
	else if (colon && (!slash || colon < slash))
		return err_set(e, -ENOTSUP, "%.80s: a writable drive must be a file or a block device of this host, "
			       "and not a protocol; a file with a colon in its name is written ./%.80s", *path, *path);
	return 0;
}

int drive_add(struct cmdline *c, const char *id, const char *path, const char *format, struct cmdline_disk **out,
	      struct err *e)
{
	struct cmdline_disk *d = &c->disks[c->n_disks];
	const char *seen, *why;
	int rc;

	if (c->n_disks == CMDLINE_DISKS_MAX)
		return err_set(e, -E2BIG, "more than %d writable drives", CMDLINE_DISKS_MAX);
	rc = judge_path(path, e);
	if (rc)
		return rc;
	for (unsigned int i = 0; i < c->n_disks; i++)
		if (drive_same_image(c->disks[i].path, path))
			return err_set(e, -EINVAL, "%.100s: this image is given twice", path);
	if (!format) {
		seen = begins_like(path);
		if (seen && !drive_is_format(seen, &why))
			return err_set(e, -ENOTSUP, "%.100s: the image begins like one in %s format: %s (write "
				       "format=raw, if the guest has written that)", path, seen, why);
		if (seen)
			return err_set(e, -ENOTSUP, "%.100s: the image begins like one in %s format; write format=%s "
				       "(or format=raw, if the guest has written that)", path, seen, seen);
		cmdline_note(c, "%.100s is taken for a raw image; write format=raw to say so", path);
		format = "raw";
	}
	*d = (struct cmdline_disk){ .dev = -1 };
	d->id = id ? strdup(id) : NULL;
	d->path = strdup(path);
	d->format = strdup(format);
	c->n_disks++;
	*out = d;
	return (id && !d->id) || !d->path || !d->format ? no_memory(e) : 0;
}

/* What cache=, and its parts, say. */
static int take_cache(struct cmdline *c, const struct kvlist *kv, struct cmdline_disk *d, struct kvlist *out,
		      struct err *e)
{
	static const struct {
		const char *name;
		bool writethrough, direct, no_flush;
	} modes[] = {
		{ "writeback", false, false, false }, { "none", false, true, false }, { "off", false, true, false },
		{ "directsync", true, true, false }, { "writethrough", true, false, false },
		{ "unsafe", false, false, true },
	};
	const char *mode = kvlist_get(kv, "cache");
	int direct = 0, no_flush = 0, writeback = 1;
	size_t i = 0;

	if (mode) {
		while (i < ARRAY_LEN(modes) && strcmp(modes[i].name, mode))
			i++;
		if (i == ARRAY_LEN(modes))
			return err_set(e, -EINVAL, "cache=%.40s: there is no such mode", mode);
		direct = modes[i].direct;
		no_flush = modes[i].no_flush;
		writeback = !modes[i].writethrough;
	}
	direct = drive_bool(kv, "cache.direct", direct, e);
	no_flush = drive_bool(kv, "cache.no-flush", no_flush, e);
	writeback = drive_bool(kv, "cache.writeback", writeback, e);
	if (direct < 0 || no_flush < 0 || writeback < 0)
		return -EINVAL;
	if (no_flush)
		cmdline_note(c, "%.80s: what the guest flushes is flushed, although its cache mode is unsafe", d->path);
	d->direct = direct;
	d->writethrough = !writeback;
	return !writeback && kvlist_set(out, "cache.writeback", "off") ? no_memory(e) : 0;
}

/* discard and detect-zeroes, by QEMU's own block layer above the NBD disk. */
static int take_discard(const struct kvlist *kv, struct cmdline_disk *d, struct kvlist *out, struct err *e)
{
	const char *discard = kvlist_get(kv, "discard"), *zeroes = kvlist_get(kv, "detect-zeroes");

	if (discard && strcmp(discard, "unmap") && strcmp(discard, "on") && strcmp(discard, "ignore") &&
	    strcmp(discard, "off"))
		return err_set(e, -EINVAL, "discard=%.40s: it is unmap or ignore", discard);
	if (zeroes && strcmp(zeroes, "on") && strcmp(zeroes, "off") && strcmp(zeroes, "unmap"))
		return err_set(e, -EINVAL, "detect-zeroes=%.40s: it is on, off or unmap", zeroes);
	d->discard = discard && (!strcmp(discard, "unmap") || !strcmp(discard, "on"));
	if (zeroes && !strcmp(zeroes, "unmap") && !d->discard)
		return err_set(e, -EINVAL, "detect-zeroes=unmap needs discard=unmap");
	if ((discard && kvlist_set(out, "discard", d->discard ? "unmap" : "ignore")) ||
	    (zeroes && kvlist_set(out, "detect-zeroes", zeroes)))
		return no_memory(e);
	return 0;
}

/* A VM that stops by itself would stand for ever, with no monitor to continue it. */
int drive_errors(const struct kvlist *kv, struct err *e)
{
	static const char *const which[] = { "werror", "rerror" };

	for (size_t i = 0; i < ARRAY_LEN(which); i++) {
		const char *val = kvlist_get(kv, which[i]);

		if (val && (!strcmp(val, "stop") || !strcmp(val, "enospc")))
			return err_set(e, -ENOTSUP, "%s=%s: the VM would stop at an error of the disk, and nobody "
				       "could continue it; leave it out, or write %s=report", which[i], val, which[i]);
	}
	return 0;
}

static int judge_drive(const struct kvlist *kv, struct err *e)
{
	const char *bus = kvlist_get(kv, "if"), *media = kvlist_get(kv, "media");
	const char *below = kvlist_get(kv, "file.driver"), *id = kvlist_get(kv, "id");
	const char *name = kvlist_get(kv, "node-name");
	int rc;

	if (kv->json)
		return err_set(e, -EINVAL, "this option is not written as JSON");
	if (bus && strcmp(bus, "ide") && strcmp(bus, "virtio") && strcmp(bus, "none"))
		return err_set(e, -ENOTSUP, "if=%.40s is not supported for a writable drive; write if=ide or "
			       "if=virtio, or if=none and a -device", bus);
	if (media && strcmp(media, "disk"))
		return err_set(e, -EINVAL, "media=%.40s: it is disk or cdrom", media);
	if (below && strcmp(below, "file") && strcmp(below, "host_device"))
		return err_set(e, -ENOTSUP, "file.driver=%.40s: a writable drive must be a file or a block device of "
			       "this host", below);
	if ((id && !well_formed(id)) || (name && !well_formed(name)))
		return err_set(e, -EINVAL, "an id begins with a letter, has letters, digits, - . and _, and at most 63 "
			       "of them");
	if ((id && !strncmp(id, CMDLINE_OWN_ID, strlen(CMDLINE_OWN_ID))) ||
	    (name && !strncmp(name, CMDLINE_OWN_ID, strlen(CMDLINE_OWN_ID))))
		return err_set(e, -EINVAL, "ids that begin with " CMDLINE_OWN_ID " are Lockstep's own");
	if (kvlist_get(kv, "format") && kvlist_get(kv, "driver"))
		return err_set(e, -EINVAL, "format= and driver= are the same; write one");
	rc = drive_bool(kv, "readonly", 0, e);
	if (rc >= 0)
		rc = drive_bool(kv, "read-only", 0, e);
	if (rc >= 0)
		rc = drive_errors(kv, e);
	return rc < 0 ? rc : 0;
}

static int read_drive(struct cmdline *c, const struct kvlist *kv, struct kvlist *out, struct err *e)
{
	const char *path = kvlist_get(kv, "file"), *format = kvlist_get(kv, "format"), *why;
	struct cmdline_disk *d = NULL;
	int rc = judge_drive(kv, e);

	if (!rc && path)
		rc = strip_protocol(&path, e);
	if (!path)
		path = kvlist_get(kv, "file.filename");
	if (!format)
		format = kvlist_get(kv, "driver");
	if (!rc && !path)
		rc = err_set(e, -ENOTSUP, "a writable drive without an image (file=); an empty CD-ROM drive is written "
			     "media=cdrom");
	if (!rc && format && !drive_is_format(format, &why))
		rc = err_set(e, -ENOTSUP, "format=%.40s: %s", format, why);
	for (unsigned int i = 0; i < kv->n && !rc; i++) {
		bool below = !strncmp(kv->v[i].key, "file.", 5);

		rc = drive_key(c, below ? IN_FILE : IN_DRIVE, kv->v[i].key + (below ? 5 : 0), kv->v[i].key,
			       kv->v[i].val, out, e);
	}
	if (!rc)
		rc = drive_add(c, kvlist_get(kv, "id"), path, format, &d, e);
	if (!rc)
		rc = take_cache(c, kv, d, out, e);
	if (!rc)
		rc = take_discard(kv, d, out, e);
	if (!rc && !kvlist_get(kv, "werror") && kvlist_set(out, "werror", "report"))
		rc = no_memory(e);
	return rc;
}

/* @kv is taken over */
static int keep_drive(struct cmdline *c, struct kvlist *kv, struct err *e)
{
	struct kvlist out = { 0 };
	int rc = read_drive(c, kv, &out, e);

	kvlist_free(kv);
	if (rc)
		kvlist_free(&out);
	else
		rc = cmdline_keep(c, "drive", NULL, CMDOPT_DISK, &out, e);
	if (!rc)
		c->opts[c->n_opts - 1].disk = c->n_disks - 1;
	return rc;
}

int driveopt_drive(struct cmdline *c, const char *arg, struct kvlist *kv, struct err *e)
{
	int rc = keep_drive(c, kv, e);

	if (rc)
		err_prefix(e, "-drive %.100s", arg);
	return rc;
}

int driveopt_hd(struct cmdline *c, const char *name, const char *index, const char *path, struct err *e)
{
	const char *seen = begins_like(path), *why;
	struct kvlist kv = { 0 };
	int rc;

	/* There is no place for a format in this option, so the sentence has all of the one that has. */
	if (seen && drive_is_format(seen, &why))
		return err_set(e, -ENOTSUP, "%s%s%s%.100s: the image begins like one in %s format; write "
			       "-drive index=%s,media=disk,format=%s,file=%.100s instead (or format=raw, if the guest has "
			       "written that)", name ? "-" : "", name ? name : "", name ? " " : "", path, seen, index, seen, path);

	if (kvlist_set(&kv, "file", path) || kvlist_set(&kv, "index", index) || kvlist_set(&kv, "media", "disk")) {
		kvlist_free(&kv);
		return no_memory(e);
	}
	rc = keep_drive(c, &kv, e);
	if (rc)
		err_prefix(e, "%s%s%s%.100s", name ? "-" : "", name ? name : "", name ? " " : "", path);
	return rc;
}
