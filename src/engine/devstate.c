/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Device state out of QEMU and into it: theory of operation
 *
 * Out: xen-save-devices-state writes everything but memory into a file, here a memfd by its /proc/self/fd name. QEMU
 * opens it with O_TRUNC, so its size is the state's. It is copied out before it is looked at: QEMU could still change
 * the file.
 *
 * In: QEMU loads a state only as an internal snapshot of a qcow2 image (xen-load-devices-state aborts it). So there is
 * an image in a second memfd, made here, with one snapshot whose state lies at fixed places:
 *
 *	cluster  0          header (version 3, virtual disk of 64 KiB)
 *	         1          refcount table
 *	         2          refcount block
 *	         3          L1 table in use		both L1 tables: entry 0 empty (the disk),
 *	         4          L1 table of the snapshot	entry 1 the L2 table (the state)
 *	         5          L2 table: all data clusters, mapped from the start
 *	         6          snapshot table
 *	         7 ...      data: the state, DEVSTATE_MAX bytes, sparse
 *
 * QEMU reads the metadata once and keeps it; it reads the data anew at each load. A new state is written over the old
 * one, and nothing else changes. snapshot-load first takes the snapshot's tables into use, which adds a reference to
 * each cluster and takes the old one away again; since both tables name the same clusters, with two references each
 * from the start, it leaves the image as it was, however often (tried: 300 loads, the metadata identical).
 * That walk costs time for each mapped cluster and for each entry of the L2 table; clusters of 64 and 256 KiB were the
 * fastest (3.6 ms a load of an idle pc), 1 and 2 MiB slower (4.5 and 5.3 ms).
 *
 * The state carries its own end mark, so what follows it does not matter; it is nulled all the same, so that a load
 * that runs past the end finds nothing old.
 *
 * The engine's worker thread owns it. No locks, nothing allocated after devstate_new().
 */
#include "engine/devstate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cursor.h"

enum {
	QCOW2_CLUSTER_BITS = 18,
	QCOW2_CLUSTER = 1 << QCOW2_CLUSTER_BITS,
	QCOW2_DATA_CLUSTERS = DEVSTATE_MAX / QCOW2_CLUSTER,
	QCOW2_MAGIC = 0x514649fb,
	QCOW2_VERSION = 3,
	QCOW2_HEADER = 104,
	QCOW2_DISK = 64 << 10,
	QCOW2_REFCOUNT_ORDER = 4,	/* 16 bits for each cluster */
	QCOW2_L1_ENTRIES = 2,

	AT_HEADER = 0, AT_REFTABLE, AT_REFBLOCK, AT_L1, AT_SNAP_L1, AT_L2, AT_SNAPSHOTS, AT_DATA,

	STATE_MAGIC = 0x5145564d,	/* "QEVM" */
	STATE_VERSION = 3,
	STATE_MIN = 9,			/* magic, version, end mark */
	STATE_EOF = 0,
	STATE_FULL_SECTION = 4,
	STATE_CONFIGURATION = 7,

	CMD_MAX = 256,
};
_Static_assert(QCOW2_DATA_CLUSTERS <= QCOW2_CLUSTER / 8, "one L2 table maps all of the data");
_Static_assert(AT_DATA + QCOW2_DATA_CLUSTERS <= QCOW2_CLUSTER / 2, "one refcount block counts all clusters");

#define SNAPSHOT_NAME "lockstep"

struct devstate {
	int save_fd;
	int load_fd;
	uint8_t *saved;		/* DEVSTATE_MAX bytes of address space, filled as needed */
	size_t put_len;		/* bytes of the state in the image */
	int load_num;		/* of load_fd in QEMU */
	char save_cmd[CMD_MAX];
	char load_cmd[CMD_MAX];
};

static int write_all(int fd, const void *buf, size_t len, off_t at)
{
	const uint8_t *p = buf;

	while (len > 0) {
		ssize_t n = pwrite(fd, p, len, at);

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return n == -1 ? -errno : -EIO;
		p += n;
		len -= (size_t)n;
		at += n;
	}
	return 0;
}

/* put_cluster() - write what @w has collected at the start of a cluster */
static int put_cluster(int fd, int cluster, const uint8_t *buf, const struct wcursor *w)
{
	return w->bad ? -ENOBUFS : write_all(fd, buf, w->done, (off_t)cluster * QCOW2_CLUSTER);
}

static int put_header(int fd, uint8_t *buf, size_t cap)
{
	struct wcursor w = wcursor_of(buf, cap);

	wcursor_u32(&w, QCOW2_MAGIC);
	wcursor_u32(&w, QCOW2_VERSION);
	wcursor_u64(&w, 0);			/* no backing file */
	wcursor_u32(&w, 0);
	wcursor_u32(&w, QCOW2_CLUSTER_BITS);
	wcursor_u64(&w, QCOW2_DISK);
	wcursor_u32(&w, 0);			/* not encrypted */
	wcursor_u32(&w, QCOW2_L1_ENTRIES);
	wcursor_u64(&w, (uint64_t)AT_L1 * QCOW2_CLUSTER);
	wcursor_u64(&w, (uint64_t)AT_REFTABLE * QCOW2_CLUSTER);
	wcursor_u32(&w, 1);			/* clusters of the refcount table */
	wcursor_u32(&w, 1);			/* snapshots */
	wcursor_u64(&w, (uint64_t)AT_SNAPSHOTS * QCOW2_CLUSTER);
	wcursor_u64(&w, 0);			/* incompatible, compatible, autoclear features: none */
	wcursor_u64(&w, 0);
	wcursor_u64(&w, 0);
	wcursor_u32(&w, QCOW2_REFCOUNT_ORDER);
	wcursor_u32(&w, QCOW2_HEADER);
	wcursor_u64(&w, 0);			/* end of the header's extensions */
	return put_cluster(fd, AT_HEADER, buf, &w);
}

static int put_refcounts(int fd, uint8_t *buf, size_t cap)
{
	struct wcursor w = wcursor_of(buf, cap);
	int rc;

	wcursor_u64(&w, (uint64_t)AT_REFBLOCK * QCOW2_CLUSTER);
	rc = put_cluster(fd, AT_REFTABLE, buf, &w);
	if (rc < 0)
		return rc;
	w = wcursor_of(buf, cap);
	for (int i = 0; i < AT_DATA + QCOW2_DATA_CLUSTERS; i++)
		wcursor_u16(&w, i == AT_L2 || i >= AT_DATA ? 2 : 1);
	return put_cluster(fd, AT_REFBLOCK, buf, &w);
}

static int put_tables(int fd, uint8_t *buf, size_t cap)
{
	struct wcursor w = wcursor_of(buf, cap);
	int rc;

	/* Without the flag for a single reference: L2 table and data belong to both L1 tables. */
	wcursor_u64(&w, 0);
	wcursor_u64(&w, (uint64_t)AT_L2 * QCOW2_CLUSTER);
	rc = put_cluster(fd, AT_L1, buf, &w);
	if (rc == 0)
		rc = put_cluster(fd, AT_SNAP_L1, buf, &w);
	if (rc < 0)
		return rc;
	w = wcursor_of(buf, cap);
	for (int i = 0; i < QCOW2_DATA_CLUSTERS; i++)
		wcursor_u64(&w, (uint64_t)(AT_DATA + i) * QCOW2_CLUSTER);
	return put_cluster(fd, AT_L2, buf, &w);
}

static int put_snapshot(int fd, uint8_t *buf, size_t cap)
{
	static const char id[] = "1", name[] = SNAPSHOT_NAME;
	struct wcursor w = wcursor_of(buf, cap);

	wcursor_u64(&w, (uint64_t)AT_SNAP_L1 * QCOW2_CLUSTER);
	wcursor_u32(&w, QCOW2_L1_ENTRIES);
	wcursor_u16(&w, sizeof(id) - 1);
	wcursor_u16(&w, sizeof(name) - 1);
	wcursor_u32(&w, 0);			/* date */
	wcursor_u32(&w, 0);
	wcursor_u64(&w, 0);			/* the guest's clock, for showing only */
	wcursor_u32(&w, DEVSTATE_MAX);		/* size of the state; larger than it is does no harm */
	wcursor_u32(&w, 24);			/* bytes of extra data */
	wcursor_u64(&w, DEVSTATE_MAX);
	wcursor_u64(&w, QCOW2_DISK);
	wcursor_u64(&w, UINT64_MAX);		/* no instruction count */
	wcursor_bytes(&w, id, sizeof(id) - 1);
	wcursor_bytes(&w, name, sizeof(name) - 1);
	while (w.done % 8 != 0)
		wcursor_u8(&w, 0);
	return put_cluster(fd, AT_SNAPSHOTS, buf, &w);
}

static int put_image(int fd)
{
	const size_t cap = QCOW2_CLUSTER;
	uint8_t *buf = malloc(cap);
	int rc = buf ? 0 : -ENOMEM;

	if (rc == 0 && ftruncate(fd, (off_t)(AT_DATA + QCOW2_DATA_CLUSTERS) * QCOW2_CLUSTER) == -1)
		rc = -errno;
	if (rc == 0)
		rc = put_header(fd, buf, cap);
	if (rc == 0)
		rc = put_refcounts(fd, buf, cap);
	if (rc == 0)
		rc = put_tables(fd, buf, cap);
	if (rc == 0)
		rc = put_snapshot(fd, buf, cap);
	free(buf);
	return rc;
}

struct devstate *devstate_new(int save_num, int load_num, struct err *e)
{
	struct devstate *ds = calloc(1, sizeof(*ds));
	int rc;

	if (!ds) {
		err_set(e, -ENOMEM, "out of memory");
		return NULL;
	}
	ds->load_num = load_num;
	ds->save_fd = memfd_create("lockstep-save", MFD_CLOEXEC);
	ds->load_fd = memfd_create(DEVSTATE_NODE, MFD_CLOEXEC);
	if (ds->save_fd == -1 || ds->load_fd == -1) {
		err_set(e, -errno, "memfd_create for device state: %s", strerror(errno));
		goto fail;
	}
	ds->saved = mmap(NULL, DEVSTATE_MAX, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			 -1, 0);
	if (ds->saved == MAP_FAILED) {
		ds->saved = NULL;
		err_set(e, -errno, "no address space for device state: %s", strerror(errno));
		goto fail;
	}
	rc = put_image(ds->load_fd);
	if (rc < 0) {
		err_set(e, rc, "the image for device state cannot be made: %s", strerror(-rc));
		goto fail;
	}
	snprintf(ds->save_cmd, sizeof(ds->save_cmd), "{\"execute\":\"xen-save-devices-state\",\"arguments\":"
		 "{\"filename\":\"/proc/self/fd/%d\",\"live\":false}}", save_num);
	snprintf(ds->load_cmd, sizeof(ds->load_cmd), "{\"execute\":\"snapshot-load\",\"arguments\":{\"job-id\":\""
		 DEVSTATE_JOB "\",\"tag\":\"" SNAPSHOT_NAME "\",\"vmstate\":\"" DEVSTATE_NODE "\",\"devices\":[\""
		 DEVSTATE_NODE "\"]}}");
	return ds;
fail:
	devstate_free(ds);
	return NULL;
}

void devstate_free(struct devstate *ds)
{
	if (!ds)
		return;
	if (ds->saved)
		munmap(ds->saved, DEVSTATE_MAX);
	if (ds->save_fd != -1)
		close(ds->save_fd);
	if (ds->load_fd != -1)
		close(ds->load_fd);
	free(ds);
}

void devstate_fds(const struct devstate *ds, int fds[2])
{
	fds[0] = ds->save_fd;
	fds[1] = ds->load_fd;
}

int devstate_args(const struct devstate *ds, char *blockdev, size_t len)
{
	int n = snprintf(blockdev, len, "driver=qcow2,node-name=" DEVSTATE_NODE ",file.driver=file,"
			 "file.filename=/proc/self/fd/%d,file.locking=off", ds->load_num);

	return n < 0 || (size_t)n >= len ? -ENAMETOOLONG : 0;
}

const char *devstate_save_cmd(const struct devstate *ds)
{
	return ds->save_cmd;
}

const char *devstate_load_cmd(const struct devstate *ds)
{
	return ds->load_cmd;
}

const char *devstate_jobs_cmd(const struct devstate *ds)
{
	return "{\"execute\":\"query-jobs\"}";
}

const char *devstate_dismiss_cmd(const struct devstate *ds)
{
	return "{\"execute\":\"job-dismiss\",\"arguments\":{\"id\":\"" DEVSTATE_JOB "\"}}";
}

int devstate_check(const void *ptr, size_t len, struct err *e)
{
	struct cursor c = cursor_of(ptr, len);
	uint32_t magic, version;
	uint8_t first;

	if (len > DEVSTATE_MAX)
		return err_set(e, -EFBIG, "the device state has %zu bytes, more than the %u that are supported", len,
			       DEVSTATE_MAX);
	magic = cursor_u32(&c);
	version = cursor_u32(&c);
	first = cursor_u8(&c);
	if (c.bad || len < STATE_MIN || magic != STATE_MAGIC || version != STATE_VERSION)
		return err_set(e, -EPROTO, "QEMU wrote no device state of a known format (%zu bytes)", len);
	if (first == STATE_CONFIGURATION)
		return err_set(e, -EPROTO, "QEMU was started without -global migration.send-configuration=off");
	if (first != STATE_FULL_SECTION || ((const uint8_t *)ptr)[len - 1] != STATE_EOF)
		return err_set(e, -EPROTO, "the device state that QEMU wrote is not complete (%zu bytes)", len);
	return 0;
}

int devstate_saved(struct devstate *ds, const void **ptr, size_t *len, struct err *e)
{
	struct stat st;
	size_t done = 0, size;

	if (fstat(ds->save_fd, &st) == -1)
		return err_set(e, -errno, "the device state cannot be read: %s", strerror(errno));
	size = st.st_size < 0 ? 0 : (size_t)st.st_size;
	if (size > DEVSTATE_MAX)
		return devstate_check(NULL, size, e);
	while (done < size) {
		ssize_t n = pread(ds->save_fd, ds->saved + done, size - done, (off_t)done);

		if (n == -1 && errno == EINTR)
			continue;
		if (n <= 0)
			return err_set(e, n == -1 ? -errno : -EPROTO, "the device state cannot be read completely");
		done += (size_t)n;
	}
	*ptr = ds->saved;
	*len = size;
	return devstate_check(ds->saved, size, e);
}

int devstate_put(struct devstate *ds, const void *ptr, size_t len, struct err *e)
{
	static const uint8_t nothing[4096];
	off_t at = (off_t)AT_DATA * QCOW2_CLUSTER;
	int rc = devstate_check(ptr, len, e);

	if (rc < 0)
		return rc;
	rc = write_all(ds->load_fd, ptr, len, at);
	for (size_t i = len; rc == 0 && i < ds->put_len; i += sizeof(nothing))
		rc = write_all(ds->load_fd, nothing,
			       ds->put_len - i < sizeof(nothing) ? ds->put_len - i : sizeof(nothing), at + (off_t)i);
	if (rc < 0)
		return err_set(e, rc, "the device state cannot be stored: %s", strerror(-rc));
	ds->put_len = len;
	return 0;
}
